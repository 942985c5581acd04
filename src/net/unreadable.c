/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Records whose seal is good and which this release cannot read all the same: another one wrote
 * them. Their paths are known, so that what they are about is told from what does not exist. Not
 * here: what answers for them (the API).
 */
#include "node.h"

#include <stdio.h>
#include <string.h>

void
node_note_unreadable(struct node *n, const char *path, bool unreadable)
{
	pthread_mutex_lock(&n->lock);
	if (unreadable && !n->unreadable)
		n->unreadable = json_object();
	if (unreadable)
		json_object_set_new(n->unreadable, path, json_true());
	else if (n->unreadable)
		json_object_del(n->unreadable, path);
	pthread_mutex_unlock(&n->lock);
}

static bool
is_snapshot(const char *path)
{
	return strncmp(path, "snapshots/", strlen("snapshots/")) == 0;
}

bool
node_doubts_snapshots(struct node *n, char ret_path[STORE_PATH_MAX + 1])
{
	struct sealed *store = atomic_load(&n->sealed);
	const char *path;
	json_t *ignored;
	bool found = false;

	for (size_t i = 0; store && sealed_refused(store, i, ret_path) == 0; i++)
		if (is_snapshot(ret_path))
			return true;
	pthread_mutex_lock(&n->lock);
	json_object_foreach(n->unreadable, path, ignored)
		if (!found && is_snapshot(path)) {
			snprintf(ret_path, STORE_PATH_MAX + 1, "%s", path);
			found = true;
		}
	pthread_mutex_unlock(&n->lock);
	return found;
}

bool
node_is_unreadable(struct node *n, const char *path)
{
	bool unreadable;

	pthread_mutex_lock(&n->lock);
	unreadable = n->unreadable && json_object_get(n->unreadable, path);
	pthread_mutex_unlock(&n->lock);
	return unreadable;
}
