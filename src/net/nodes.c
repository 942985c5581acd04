/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The records nodes/NODE: what each node of a pair says of itself while it is there. The store
 * drops one with the lease of its node. Here they are kept for whoever asks, and this node's own is
 * written. A node whose store is its own writes none.
 */
#include "node.h"

#include "kekd/clock.h"
#include "kekd/log.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define HEARTBEAT_NS (60 * CLOCK_S)
#define REVISION_NS (2 * CLOCK_S) /* so late may the others know how far this node is */
#define AGAIN_NS (2 * CLOCK_S)

static const char *const roles[] = {
	[ROLE_SINGLE] = "single",
	[ROLE_ACTIVE] = "active",
	[ROLE_STANDBY] = "standby",
};

const char *
node_role_name(enum node_role role)
{
	return roles[role];
}

/* ---- the others ---- */

static struct node_peer *
find(struct node *n, const char *name)
{
	for (size_t i = 0; i < n->peers_count; i++)
		if (strcmp(n->peers[i].name, name) == 0)
			return &n->peers[i];
	return NULL;
}

static void
drop(struct node *n, struct node_peer *p)
{
	json_decref(p->record);
	*p = n->peers[--n->peers_count];
}

/* How far its clock is ahead, by a record that was written just now: what a start finds is old. */
static int64_t
skew_of(const struct node *n, const json_t *record)
{
	const char *text = json_string_value(json_object_get(record, "time"));
	uint64_t time_us;

	if (!atomic_load(&n->sealed) || !text || clock_parse(text, &time_us) != 0)
		return 0;
	return (int64_t)(time_us - clock_real_us());
}

/* Gone or refused: nothing that it says counts. */
void
node_load_peer(
	struct node *n, const char *name, json_t *body, uint64_t commit __attribute__((unused)))
{
	json_t *copy = body ? json_deep_copy(body) : NULL;
	struct node_peer *p;
	bool back;

	if (strcmp(name, n->part.node) == 0 || strlen(name) > STR_NAME_MAX) {
		json_decref(copy);
		return;
	}
	pthread_mutex_lock(&n->lock);
	p = find(n, name);
	back = copy && !p;
	if (p && !copy) {
		drop(n, p);
	} else if (copy && (p || n->peers_count < NODE_PEERS_MAX)) {
		if (!p)
			p = &n->peers[n->peers_count++];
		else
			json_decref(p->record);
		p->record = copy;
		p->skew_us = skew_of(n, copy);
		copy = NULL; /* the list's */
		snprintf(p->name, sizeof(p->name), "%s", name);
	}
	pthread_mutex_unlock(&n->lock);
	json_decref(copy);
	if (back)
		node_retry_rotations(n);
}

json_t *
node_peer(struct node *n, const char *name)
{
	const struct node_peer *p;
	json_t *copy = NULL;

	pthread_mutex_lock(&n->lock);
	p = find(n, name);
	if (p)
		copy = json_deep_copy(p->record);
	pthread_mutex_unlock(&n->lock);
	return copy;
}

void
node_close_peers(struct node *n)
{
	while (n->peers_count > 0)
		drop(n, &n->peers[0]);
	json_decref(n->presence.said);
}

/* ---- this one ---- */

/* What stands there until something changes. */
static json_t *
lasting(struct node *n)
{
	char started[CLOCK_TEXT_SIZE], why[NODE_REASON_SIZE];
	bool ready = node_can_lead(n, why);

	clock_format(n->started_us, started);
	return json_pack("{s:s?, s:s, s:s, s:i, s:b, s:s?, s:s}", "url", n->part.url, "role",
		roles[node_role(n)], "release", PACKAGE_VERSION, "level",
		(int)cluster_release_level, "ready", (int)ready, "reason", ready ? NULL : why,
		"started", started);
}

static void
add_moment(struct node *n, json_t *record)
{
	struct sealed *sealed = atomic_load(&n->sealed);
	uint64_t revision = sealed ? sealed_number(sealed) : 0;
	char time[CLOCK_TEXT_SIZE];

	clock_format(clock_real_us(), time);
	json_object_set_new(record, "revision", json_integer((json_int_t)revision));
	json_object_set_new(record, "time", json_string(time));
}

json_t *
node_presence(struct node *n)
{
	json_t *record = lasting(n);

	if (record)
		add_moment(n, record);
	return record;
}

static bool
is_due(const struct node *n, const json_t *now, uint64_t now_ns)
{
	const struct node_presence *p = &n->presence;

	if (now_ns < p->not_before_ns)
		return false;
	if (!p->said || !json_equal(p->said, now) || p->lease != node_lease(n))
		return true;
	if (p->revision != sealed_number(n->sealed) && now_ns >= p->written_ns + REVISION_NS)
		return true;
	return now_ns >= p->written_ns + HEARTBEAT_NS;
}

static int
write_presence(struct node *n, const json_t *said)
{
	char path[sizeof("nodes/") + STR_NAME_MAX];
	_cleanup_(json_freep) json_t *record = json_copy((json_t *)(uintptr_t)said);
	uint64_t number;

	if (!record)
		return -ENOMEM;
	add_moment(n, record);
	snprintf(path, sizeof(path), "nodes/%s", n->part.node);
	return sealed_put_own(n->sealed, path, STORE_ANY, record, &number);
}

void
node_tick_presence(struct node *n)
{
	struct node_presence *p = &n->presence;
	uint64_t now_ns = clock_boot_ns(), lease = node_lease(n);
	_cleanup_(json_freep) json_t *said = NULL;
	int err;

	if (lease == 0 || now_ns < p->not_before_ns)
		return;
	said = lasting(n);
	if (!said || !is_due(n, said, now_ns))
		return;
	p->revision = sealed_number(n->sealed);
	err = write_presence(n, said);
	if (err < 0) {
		if (p->err != err)
			log_warning("nodes/%s: could not be written: %s: the other nodes do not "
				    "see this one as it is; tried again",
				n->part.node, kekd_strerror(err));
		p->err = err;
		p->not_before_ns = now_ns + AGAIN_NS;
		return;
	}
	p->err = 0;
	p->lease = lease;
	p->written_ns = now_ns;
	json_decref(p->said);
	p->said = json_incref(said);
}
