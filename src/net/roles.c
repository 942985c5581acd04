/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which node makes the changes, as this one sees it: alone it does. Of a pair the active does, and
 * the others send a change on to it. A new active first takes in all that was changed before. The
 * lease and the campaign are leader.h's.
 */
#include "node.h"

#include "kekd/clock.h"
#include "kekd/leader.h"
#include "kekd/log.h"

#include <stdio.h>
#include <string.h>

#define CATCH_UP_MS 2000
#define PROMOTE_NS (3 * CLOCK_S)
#define HAND_OVER_PAUSE_S 3600 /* this process ends before */

static bool
is_alone(const struct node *n)
{
	return !n->part.store.endpoints;
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

/* Leads, and has seen all that those before it changed. */
static bool
is_active(struct node *n)
{
	struct leader *l = atomic_load(&n->leader);
	uint64_t epoch = node_epoch(n);

	return l && epoch != 0 && epoch == atomic_load(&n->epoch_caught) && leader_may_change(l);
}

enum node_role
node_role(struct node *n)
{
	if (is_alone(n))
		return ROLE_SINGLE;
	return is_active(n) ? ROLE_ACTIVE : ROLE_STANDBY;
}

bool
node_leads(struct node *n)
{
	return node_role(n) != ROLE_STANDBY;
}

void
node_leader(struct node *n, struct http_active *ret_active)
{
	struct leader *l = atomic_load(&n->leader);
	struct leader_status s;

	*ret_active = (struct http_active){ { 0 }, { 0 } };
	if (!l)
		return;
	leader_status(l, &s);
	memcpy(ret_active->node, s.leader_node, sizeof(ret_active->node));
	memcpy(ret_active->url, s.leader_url, sizeof(ret_active->url));
}

uint64_t
node_until_ns(struct node *n)
{
	struct leader *l = atomic_load(&n->leader);
	struct leader_status s = { 0 };

	if (l)
		leader_status(l, &s);
	return s.until_ns;
}

/* ---- woken by other threads ---- */

void
node_wake(void *node)
{
	struct node *n = node;

	pthread_mutex_lock(&n->lock);
	control_wake(n->control);
	pthread_mutex_unlock(&n->lock);
}

void
node_store_news(void *node)
{
	struct node *n = node;

	atomic_store(&n->poll_now, true);
	node_wake(n);
}

/* What is told last is what was asked last: two threads do this. */
static void
note_term(struct node *n)
{
	struct leader *l = atomic_load(&n->leader);
	struct leader_status s;
	struct store_term term;

	if (!l)
		return;
	pthread_mutex_lock(&n->term_lock);
	leader_status(l, &s);
	term = (struct store_term){ s.active ? s.epoch : 0, s.lease, s.until_ns };
	store_etcd_term(n->store, &term);
	atomic_store(&n->epoch, term.epoch);
	atomic_store(&n->lease, term.lease);
	pthread_mutex_unlock(&n->term_lock);
}

/* On the leader's thread. */
static void
on_changed(void *node)
{
	note_term(node);
	node_wake(node);
}

/* ---- opening ---- */

static int
open_leader(struct node *n)
{
	struct leader_config config = {
		.etcd = n->part.store,
		.node = n->part.node,
		.url = n->part.url ? n->part.url : "",
		.instance = n->instance,
		.ttl_s = n->part.store_lease_s,
		.changed = on_changed,
		.user = n,
	};
	struct leader *l = NULL;
	int err;

	store_etcd_instance(n->store, n->instance);
	err = leader_open(&config, &l);
	if (err < 0)
		return err;
	atomic_store(&n->leader, l);
	note_term(n);
	return 0;
}

int
node_open_etcd(struct node *n)
{
	struct store *store = NULL;
	int err = store_open_etcd(
		&n->part.store, n->part.node, n->part.state_dir, node_store_news, n, &store);

	if (err < 0)
		return err;
	n->store = store;
	n->store_opened_ns = clock_boot_ns();
	err = open_leader(n);
	if (err < 0)
		store_freep(&n->store);
	return err;
}

void
node_close_leader(struct node *n)
{
	struct leader *l = atomic_load(&n->leader);

	/* Its thread, which tells of every change, ends in here: the pointer stands until then. */
	if (l)
		leader_freep(&l);
	atomic_store(&n->leader, NULL);
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
	struct sealed_status status;
	struct cluster c;
	int err = node_serves(n);

	node_cluster(n, &c);
	sealed_status(n->sealed, &status);
	*ret_why = '\0';
	if (err < 0)
		snprintf(ret_why, NODE_REASON_SIZE, "%s", kekd_strerror(err));
	else if (status.hold != SEALED_HOLD_NONE)
		snprintf(ret_why, NODE_REASON_SIZE, "%s", kekd_strerror(KEKD_EHELD));
	else if (!cluster_has_member(&c, n->part.node))
		snprintf(ret_why, NODE_REASON_SIZE,
			"it is no member: \"kekctl cluster members add %s\"", n->part.node);
	else if (!atomic_load(&n->proofs.through))
		snprintf(ret_why, NODE_REASON_SIZE, "it has yet to prove versions in its tokens");
	/* Where nobody else could lead, one lost object does not end all changes. */
	else if (failed > 0 && (c.members_count > 1 || failed == total))
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

/* ---- becoming the active, and ceasing to be ---- */

/* Reads all that was committed before. False: not yet. */
static bool
catch_up(struct node *n)
{
	uint64_t epoch = node_epoch(n);

	if (epoch == 0 || epoch == atomic_load(&n->epoch_caught))
		return epoch != 0;
	if (store_etcd_catch_up(n->store, CATCH_UP_MS) < 0 || sealed_poll(n->sealed) < 0)
		return false;
	atomic_store(&n->epoch_caught, epoch);
	return true;
}

/* Who leads by an election is nobody's command: the log has it all the same. */
static void
record_lead(struct node *n)
{
	struct audit_record a = {
		.type = AUDIT_OUTCOME,
		.time_us = clock_real_us(),
		.client = "kekd",
		.operation = "cluster.lead",
		.revision = sealed_number(n->sealed),
		.detail = json_pack(
			"{s:s, s:I}", "node", n->part.node, "epoch", (json_int_t)node_epoch(n)),
	};

	if (!a.detail || audit_append(n->audit, &a) != 0)
		log_warning("the audit log does not tell that this node makes the changes now");
	json_decref((json_t *)(uintptr_t)a.detail);
}

static void
tell_role(struct node *n)
{
	enum node_role role = node_role(n);
	struct http_active active;

	node_leader(n, &active);
	if (role == n->told_role && strcmp(active.node, n->told_leader) == 0 &&
		(role != ROLE_ACTIVE || n->told_epoch == node_epoch(n)))
		return;
	/* This node is about to be the active, or cannot renew its lease: that is told elsewhere.
	 */
	if (role == ROLE_STANDBY && strcmp(active.node, n->part.node) == 0)
		return;
	n->told_role = role;
	n->told_epoch = node_epoch(n);
	memcpy(n->told_leader, active.node, sizeof(n->told_leader));
	if (role == ROLE_ACTIVE) {
		log_info("this node makes the changes now, in epoch %llu",
			(unsigned long long)node_epoch(n));
		record_lead(n);
		return;
	}
	log_info("this node is a standby%s%s", *active.node ? " of " : ", and nobody leads",
		active.node);
}

void
node_tick_role(struct node *n)
{
	struct leader *l = atomic_load(&n->leader);
	char why[NODE_REASON_SIZE];

	note_readiness(n);
	if (!l)
		return;
	note_term(n);
	leader_want(l, node_can_lead(n, why));
	catch_up(n);
	tell_role(n);
	if (is_active(n))
		(void)store_etcd_compact(n->store); /* tells of its own failures */
}

/* ---- by command ---- */

int
node_step_down(struct node *n, unsigned pause_s)
{
	struct leader *l = atomic_load(&n->leader);
	int err = l ? leader_step_down(l, pause_s) : KEKD_ENOTACTIVE;

	note_term(n);
	return err;
}

int
node_promote(struct node *n, char ret_error[JSON_ERROR_SIZE])
{
	struct leader *l = atomic_load(&n->leader);
	uint64_t end = clock_boot_ns() + PROMOTE_NS;
	int err = l ? leader_promote(l) : KEKD_ENOTACTIVE;

	note_term(n);
	if (err == KEKD_EPRECONDITION) {
		snprintf(ret_error, JSON_ERROR_SIZE,
			"another node took the lead meanwhile: look at the cluster's status");
		return KEKD_EUNREADY;
	}
	while (err == 0 && !catch_up(n) && clock_boot_ns() < end)
		note_term(n);
	if (err == 0 && !is_active(n))
		err = KEKD_ESTORE;
	tell_role(n);
	return err;
}

/* After the change that is under way, and what was counted of the waits is stored with it. */
static void
hand_over(struct control_job *job)
{
	struct node *n = job->user;

	node_close_destroys(n);
	if (is_active(n) && node_step_down(n, HAND_OVER_PAUSE_S) == 0)
		log_info("another node makes the changes from now on");
}

void
node_hand_over(struct node *n)
{
	if (!atomic_load(&n->leader) || !n->control)
		return;
	n->hand_over = (struct control_job){ .run = hand_over, .user = n };
	(void)control_post(n->control, &n->hand_over);
}

/* ---- changes that are another node's ---- */

/* What is about this very node. */
static const char *const own_routes[] = { "hsm.retry_pin", "cluster.promote" };

static bool
is_held(struct node *n)
{
	struct sealed_status status;

	sealed_status(n->sealed, &status);
	return status.hold != SEALED_HOLD_NONE;
}

static bool
is_own(struct node *n, const struct http_route *route)
{
	for (size_t i = 0; i < STR_COUNT(own_routes); i++)
		if (strcmp(route->name, own_routes[i]) == 0)
			return true;
	/* Whether this node's store is the right one, this node is told. */
	return strcmp(route->name, "cluster.confirm") == 0 && is_held(n);
}

int
node_finds_active(struct node *n, const struct http_route *route, struct http_active *ret_active)
{
	if (node_leads(n) || is_own(n, route))
		return 0;
	node_leader(n, ret_active);
	return !*ret_active->node || strcmp(ret_active->node, n->part.node) == 0 ? KEKD_ENOACTIVE
										 : KEKD_ENOTACTIVE;
}
