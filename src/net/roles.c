/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which node makes the changes, as this one sees it: alone it does. Of a pair the active does, and
 * the others send a change on to it.
 */
#include "node.h"

#include "kekd/clock.h"
#include "kekd/log.h"

#include <stdio.h>
#include <string.h>

enum node_role
node_role(struct node *n)
{
	(void)n;
	return ROLE_SINGLE;
}

uint64_t
node_epoch(const struct node *n)
{
	return atomic_load(&n->epoch);
}

uint64_t
node_lease(const struct node *n)
{
	return atomic_load(&n->lease);
}

bool
node_leads(struct node *n)
{
	return node_role(n) != ROLE_STANDBY;
}

void
node_wake(void *node)
{
	struct node *n = node;

	pthread_mutex_lock(&n->lock);
	control_wake(n->control);
	pthread_mutex_unlock(&n->lock);
}

void
node_leader(struct node *n, struct http_active *ret_active)
{
	(void)n, (void)ret_active;
}

/* ---- is this node ready to lead? ---- */

bool
node_can_lead(struct node *n, char ret_why[NODE_REASON_SIZE])
{
	pthread_mutex_lock(&n->lock);
	memcpy(ret_why, n->cannot_lead, NODE_REASON_SIZE);
	pthread_mutex_unlock(&n->lock);
	return !*ret_why;
}

static void
find_reason(struct node *n, char ret_why[NODE_REASON_SIZE])
{
	size_t total = atomic_load(&n->proofs.total), failed = atomic_load(&n->proofs.failed);
	struct cluster c;
	int err = node_serves(n);

	node_cluster(n, &c);
	*ret_why = '\0';
	if (err < 0)
		snprintf(ret_why, NODE_REASON_SIZE, "%s", kekd_strerror(err));
	else if (!cluster_has_member(&c, n->part.node))
		snprintf(ret_why, NODE_REASON_SIZE,
			"it is no member: \"kekctl cluster members add %s\"", n->part.node);
	else if (!atomic_load(&n->proofs.through))
		snprintf(ret_why, NODE_REASON_SIZE, "it has yet to prove versions in its tokens");
	else if (failed > 0)
		snprintf(ret_why, NODE_REASON_SIZE,
			"%zu of %zu versions could not be proven in its tokens", failed, total);
}

static void
note_readiness(struct node *n)
{
	char why[NODE_REASON_SIZE] = "";

	find_reason(n, why);
	pthread_mutex_lock(&n->lock);
	memcpy(n->cannot_lead, why, sizeof(why));
	pthread_mutex_unlock(&n->lock);
}

void
node_tick_role(struct node *n)
{
	note_readiness(n);
}

/* ---- by command ---- */

int
node_step_down(struct node *n, unsigned pause_s)
{
	(void)n, (void)pause_s;
	return KEKD_ENOTACTIVE;
}

int
node_promote(struct node *n, char ret_error[JSON_ERROR_SIZE])
{
	(void)n, (void)ret_error;
	return KEKD_ESTATE;
}

/* ---- changes that are another node's ---- */

int
node_finds_active(struct node *n, const struct http_route *route, struct http_active *ret_active)
{
	(void)n, (void)route, (void)ret_active;
	return 0;
}
