/* SPDX-License-Identifier: Apache-2.0 */
/* The record `cluster` in this node: loaded, copied for whoever asks, changed. */
#include "node.h"

#include "kekd/log.h"

/* A release above this one may have changed the rest of it as well. */
static bool
is_readable(struct node *n, const json_t *body)
{
	json_int_t level = json_integer_value(json_object_get(body, "level"));

	if (level <= (json_int_t)cluster_release_level)
		return true;
	node_give_up(n,
		"the cluster is at level %lld and this release (" PACKAGE_VERSION
		") knows levels up to %u: install a newer one",
		(long long)level, cluster_release_level);
	return false;
}

static void
set_cluster(struct node *n, const struct cluster *c)
{
	if (cluster_has_forgotten(c, n->part.node))
		node_give_up(n,
			"node %s was forgotten by the cluster, for ever: give it another name and "
			"make it a member anew",
			n->part.node);
	pthread_mutex_lock(&n->lock);
	n->cluster = *c;
	pthread_mutex_unlock(&n->lock);
	node_note_confirm(n, c->confirm.wanted);
	atomic_store(&n->frozen, c->frozen);
	if (c->members_count > 1)
		usage_tell_always(n->usage);
}

/* A refused one holds the whole store: the last good one stays. */
void
node_load_cluster(
	struct node *n, const char *name __attribute__((unused)), json_t *body, uint64_t commit)
{
	char error[JSON_ERROR_SIZE];
	struct cluster c;

	if (!body || !is_readable(n, body))
		return;
	if (cluster_from_json(body, commit, &c, error) == 0)
		set_cluster(n, &c);
	else
		log_error("record cluster: %s: it was written by another release", error);
}

void
node_cluster(struct node *n, struct cluster *ret_cluster)
{
	pthread_mutex_lock(&n->lock);
	*ret_cluster = n->cluster;
	pthread_mutex_unlock(&n->lock);
}

int
node_cluster_change(struct node *n, struct cluster *next, const struct sealed_change *with)
{
	int err = cluster_commit(n->sealed, next, with);

	if (err == 0)
		set_cluster(n, next);
	return err;
}
