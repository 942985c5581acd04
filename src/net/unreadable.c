/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Records whose seal is good and which this release cannot read all the same: another one wrote
 * them. Their paths are known, so that what they are about is told from what does not exist. Not
 * here: what answers for them (the API).
 */
#include "node.h"

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

bool
node_is_unreadable(struct node *n, const char *path)
{
	bool unreadable;

	pthread_mutex_lock(&n->lock);
	unreadable = n->unreadable && json_object_get(n->unreadable, path);
	pthread_mutex_unlock(&n->lock);
	return unreadable;
}
