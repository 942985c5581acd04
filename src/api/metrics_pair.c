/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What metrics tell of a pair: who leads, how far the copy of the metadata is behind etcd, how etcd
 * answers, what the other nodes' clocks say. A node with a store of its own has no samples of it,
 * but for its role.
 */
#include "metrics_pair.h"

#include "api.h"

#include "kekd/clock.h"
#include "kekd/leader.h"

#include <string.h>

static bool
is_pair(const struct node *n)
{
	return n->part.store.endpoints != NULL;
}

static double
seconds_of(uint64_t ns)
{
	return (double)ns / (double)CLOCK_S;
}

/* ---- leadership ---- */

static void
role(struct metrics_text *text, struct node *n)
{
	enum node_role now = node_role(n);

	for (int i = ROLE_SINGLE; i <= ROLE_STANDBY; i++)
		metrics_number(text, now == (enum node_role)i, "role",
			node_role_name((enum node_role)i), NULL);
}

static bool
leadership(struct node *n, struct leader_status *ret_status)
{
	struct leader *l = atomic_load(&n->leader);

	if (l)
		leader_status(l, ret_status);
	return l != NULL;
}

static void
epoch(struct metrics_text *text, struct node *n)
{
	struct leader_status s;

	if (leadership(n, &s))
		metrics_number(text, s.leader_epoch, NULL);
}

static void
elections(struct metrics_text *text, struct node *n)
{
	struct leader_status s;

	if (leadership(n, &s))
		metrics_number(text, s.elections, NULL);
}

static void
lease_remaining(struct metrics_text *text, struct node *n)
{
	uint64_t now = clock_boot_ns();
	struct leader_status s;

	if (leadership(n, &s))
		metrics_real(text, s.until_ns > now ? seconds_of(s.until_ns - now) : 0, NULL);
}

/* ---- the copy of the metadata ---- */

static bool
replica(struct node *n, struct store_etcd_status *ret_status)
{
	if (!is_pair(n) || !atomic_load(&n->sealed))
		return false;
	store_etcd_status(n->store, ret_status);
	return true;
}

static void
reachable(struct metrics_text *text, struct node *n)
{
	struct store_etcd_status s;

	if (replica(n, &s))
		metrics_number(text, s.reachable, NULL);
}

static void
age(struct metrics_text *text, struct node *n)
{
	struct store_etcd_status s;

	if (replica(n, &s) && s.age_ns != UINT64_MAX)
		metrics_real(text, seconds_of(s.age_ns), NULL);
}

static void
lag(struct metrics_text *text, struct node *n)
{
	struct store_etcd_status s;

	if (replica(n, &s))
		metrics_number(text, s.lag_revisions, NULL);
}

static void
pending(struct metrics_text *text, struct node *n)
{
	struct store_etcd_status s;

	if (replica(n, &s))
		metrics_number(text, s.pending, NULL);
}

static void
stale(struct metrics_text *text, struct node *n)
{
	if (is_pair(n))
		metrics_number(text, node_is_stale(n), NULL);
}

static void
full_reads(struct metrics_text *text, struct node *n)
{
	struct store_etcd_status s;

	if (replica(n, &s))
		metrics_number(text, s.full_reads, NULL);
}

static void
reconnects(struct metrics_text *text, struct node *n)
{
	struct store_etcd_status s;

	if (replica(n, &s))
		metrics_number(text, s.reconnects, NULL);
}

static void
compactions(struct metrics_text *text, struct node *n)
{
	struct store_etcd_status s;

	if (replica(n, &s))
		metrics_number(text, s.compactions, NULL);
}

static void
lookups(struct metrics_text *text, struct node *n)
{
	if (is_pair(n))
		metrics_number(text, atomic_load(&n->lookups.done), NULL);
}

static void
lookups_missed(struct metrics_text *text, struct node *n)
{
	if (is_pair(n))
		metrics_number(text, atomic_load(&n->lookups.missed), NULL);
}

/* ---- etcd ---- */

static void
calls(struct metrics_text *text, struct node *n)
{
	if (is_pair(n))
		metrics_times(text, &n->etcd_counts.latency, NULL);
}

static void
errors(struct metrics_text *text, struct node *n)
{
	if (is_pair(n))
		metrics_number(text, atomic_load(&n->etcd_counts.errors), NULL);
}

static void
failovers(struct metrics_text *text, struct node *n)
{
	if (is_pair(n))
		metrics_number(text, atomic_load(&n->etcd_counts.failovers), NULL);
}

static void
bytes(struct metrics_text *text, struct node *n)
{
	if (!is_pair(n))
		return;
	metrics_number(text, atomic_load(&n->etcd_counts.sent), "direction", "sent", NULL);
	metrics_number(text, atomic_load(&n->etcd_counts.received), "direction", "received", NULL);
}

/* ---- the other members ---- */

/* Names and times of the other nodes' records, copied. */
static size_t
peers(struct node *n, char (*ret_names)[STR_NAME_MAX + 1], int64_t *ret_skews_us)
{
	size_t count;

	pthread_mutex_lock(&n->lock);
	count = n->peers_count;
	for (size_t i = 0; i < count; i++) {
		memcpy(ret_names[i], n->peers[i].name, sizeof(ret_names[i]));
		ret_skews_us[i] = n->peers[i].skew_us;
	}
	pthread_mutex_unlock(&n->lock);
	return count;
}

static void
clock_skews(struct metrics_text *text, struct node *n)
{
	char names[NODE_PEERS_MAX][STR_NAME_MAX + 1];
	int64_t skews[NODE_PEERS_MAX];
	size_t count = peers(n, names, skews);

	for (size_t i = 0; i < count; i++)
		metrics_real(text, (double)skews[i] / 1e6, "member", names[i], NULL);
}

static void
usage_ages(struct metrics_text *text, struct node *n)
{
	uint64_t now = clock_real_us();
	struct usage_node u;

	for (size_t i = 1; n->usage && usage_node(n->usage, i, &u) == 0; i++)
		if (u.time_us > 0)
			metrics_real(text, u.time_us < now ? (double)(now - u.time_us) / 1e6 : 0,
				"member", u.name, NULL);
}

/* ---- the table ---- */

#define GAUGE(name, collect, help) \
	{ \
		"kekd_" name, METRICS_GAUGE, help, collect \
	}
#define COUNTER(name, collect, help) \
	{ \
		"kekd_" name, METRICS_COUNTER, help, collect \
	}

const struct metrics_pair_family metrics_pair_families[] = {
	GAUGE("role", role, "1 for what the node is: single, active or standby."),
	GAUGE("epoch", epoch, "The leader's epoch, as this node knows it; 0: nobody leads."),
	COUNTER("elections_total", elections, "Times that this node became the active."),
	GAUGE("lease_remaining_seconds", lease_remaining,
		"For how long this node's lease in etcd cannot run out; 0: it may have."),

	GAUGE("etcd_reachable", reachable, "1 while etcd answers."),
	{ "kekd_etcd_call_duration_seconds", METRICS_HISTOGRAM, "How long etcd took to answer.",
		calls },
	COUNTER("etcd_errors_total", errors, "Calls that no endpoint of etcd answered."),
	COUNTER("etcd_failovers_total", failovers, "Tries at another endpoint of etcd."),
	COUNTER("etcd_bytes_total", bytes, "Bytes of bodies to etcd and from it."),

	GAUGE("replica_age_seconds", age,
		"Since when the copy of the metadata is known to be that of etcd."),
	GAUGE("replica_lag_revisions", lag, "Revisions of etcd that the copy does not have."),
	GAUGE("replica_pending_records", pending,
		"Records that etcd has and that are not accepted."),
	GAUGE("replica_stale", stale, "1 while the copy is older than store.max_staleness."),
	COUNTER("replica_full_reads_total", full_reads, "Times that etcd was read as a whole."),
	COUNTER("replica_reconnects_total", reconnects, "Times that the watch began anew."),
	COUNTER("etcd_compactions_total", compactions, "Compactions that this node asked for."),
	COUNTER("lookups_total", lookups,
		"Reads of etcd for keys and versions that requests named and nobody here knew."),
	COUNTER("lookups_missed_total", lookups_missed,
		"Requests that could not be looked up, and got version_unknown_here."),

	GAUGE("member_clock_skew_seconds", clock_skews,
		"How far another node's clock is ahead of this one's; negative: behind."),
	GAUGE("member_usage_age_seconds", usage_ages, "How old another node's usage evidence is."),
	{ .name = NULL },
};
