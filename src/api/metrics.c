/* SPDX-License-Identifier: Apache-2.0 */
/*
 * GET /metrics: one table of families, each with a function that tells its samples. Everything is
 * read from memory, so a scrape is answered while token, store or disk are not. Labels are bounded,
 * and none holds an identity or anything of a request: doc/metrics.md has each family with its
 * meaning, and a test compares the two.
 */
#include "api.h"

#include "metrics_pair.h"

#include "kekd/clock.h"
#include "kekd/inventory.h"
#include "kekd/metrics.h"
#include "kekd/nonce.h"
#include "kekd/process.h"
#include "kekd/traffic.h"

#include <stdio.h>
#include <string.h>

/* What several families tell of, read once so that they agree. */
struct scrape {
	struct node *node;
	struct metrics_text text;
	bool has_store;
	struct audit_status audit;
	struct audit_sink_status sink;
	bool has_sink;
	struct usage_status usage;
	struct sealed_status store;
	const struct sealed_counts *counts;
	struct http_connections connections;
	struct process_usage process;
	struct http_certificates certificates;
	struct node_reload reload;
	struct node_signing signing;
	struct keyring_summary keys;
	struct node_rotations rotations;
};

typedef void collect_fn(struct scrape *s);

static void
number(struct scrape *s, uint64_t value)
{
	metrics_number(&s->text, value, NULL);
}

static void
real(struct scrape *s, double value)
{
	metrics_real(&s->text, value, NULL);
}

static double
seconds(uint64_t us)
{
	return (double)us / 1e6;
}

/* ---- the process ---- */

static void
build_info(struct scrape *s)
{
	metrics_number(&s->text, 1, "version", PACKAGE_VERSION, NULL);
}

static void
phase(struct scrape *s)
{
	static const char *const names[] = {
		[NODE_STARTING] = "starting",
		[NODE_SERVING] = "serving",
		[NODE_HELD] = "held",
		[NODE_STOPPING] = "stopping",
	};
	enum node_phase now = atomic_load(&s->node->phase);

	for (size_t i = 0; i < STR_COUNT(names); i++)
		metrics_number(&s->text, i == now, "phase", names[i], NULL);
}

static void
ready(struct scrape *s)
{
	number(s, api_is_ready(s->node));
}

static void
process_cpu(struct scrape *s)
{
	real(s, s->process.cpu_s);
}

static void
process_resident(struct scrape *s)
{
	number(s, s->process.resident_bytes);
}

static void
process_virtual(struct scrape *s)
{
	number(s, s->process.virtual_bytes);
}

static void
process_threads(struct scrape *s)
{
	number(s, s->process.threads);
}

static void
process_open_fds(struct scrape *s)
{
	number(s, s->process.open_fds);
}

static void
process_max_fds(struct scrape *s)
{
	number(s, s->process.max_fds);
}

static void
process_start(struct scrape *s)
{
	real(s, seconds(s->node->started_us));
}

/* ---- requests ---- */

/* A counter that is there from the start shows its first step: those that everybody watches are. */
static void
requests(struct scrape *s)
{
	const struct traffic *t = s->node->traffic;

	for (size_t o = 0; o < traffic_operations(t); o++)
		for (size_t c = 0; c < TRAFFIC_CODES; c++) {
			uint64_t n = traffic_requests(t, o, c);
			if (n > 0 || (c == 0 && o > 0))
				metrics_number(&s->text, n, "operation", traffic_operation(t, o),
					"code", traffic_code(c), NULL);
		}
}

static void
request_times(struct scrape *s)
{
	const struct traffic *t = s->node->traffic;

	for (size_t o = 0; o < traffic_operations(t); o++)
		for (enum traffic_result r = 0; r < TRAFFIC_RESULTS; r++) {
			const struct metrics_histogram *h = traffic_times(t, o, r);
			if (metrics_observed(h) > 0)
				metrics_times(&s->text, h, "operation", traffic_operation(t, o),
					"result", traffic_result(r), NULL);
		}
}

static void
items(struct scrape *s)
{
	const struct traffic *t = s->node->traffic;

	for (size_t o = 0; o < traffic_operations(t); o++)
		for (size_t c = 0; c < TRAFFIC_CODES && traffic_has_items(t, o); c++) {
			uint64_t n = traffic_items(t, o, c);
			if (n > 0 || c == 0)
				metrics_number(&s->text, n, "operation", traffic_operation(t, o),
					"code", traffic_code(c), NULL);
		}
}

static void
client_requests(struct scrape *s)
{
	const struct traffic *t = s->node->traffic;

	for (size_t c = 0; c < traffic_clients(t); c++)
		for (enum traffic_result r = 0; r < TRAFFIC_RESULTS; r++)
			metrics_number(&s->text, traffic_client_requests(t, c, r), "client",
				traffic_client(t, c), "result", traffic_result(r), NULL);
}

typedef void limit_fn(struct scrape *s, const char *client, const struct limit_status *l);

/* Of those that have counters of their own, and a record. */
static void
each_limit(struct scrape *s, limit_fn *tell)
{
	const struct traffic *t = s->node->traffic;
	struct limit_status status;

	for (size_t i = 1; i < traffic_clients(t); i++) {
		_cleanup_(client_unrefp) struct client *c = clients_find(
			s->node->clients, traffic_client(t, i));
		if (!c)
			continue;
		limit_status(c, &status);
		tell(s, c->name, &status);
	}
}

static void
tell_limited(struct scrape *s, const char *client, const struct limit_status *l)
{
	metrics_number(
		&s->text, l->refused_rate, "client", client, "limit", "requests_per_s", NULL);
	metrics_number(
		&s->text, l->refused_in_flight, "client", client, "limit", "in_flight", NULL);
}

static void
client_limited(struct scrape *s)
{
	each_limit(s, tell_limited);
}

static void
tell_in_flight(struct scrape *s, const char *client, const struct limit_status *l)
{
	metrics_number(&s->text, l->in_flight, "client", client, NULL);
}

static void
client_in_flight(struct scrape *s)
{
	each_limit(s, tell_in_flight);
}

static void
in_flight(struct scrape *s)
{
	number(s, s->node->http ? http_in_flight(s->node->http) : 0);
}

static void
abandoned(struct scrape *s)
{
	number(s, s->connections.abandoned);
}

static void
connections(struct scrape *s)
{
	number(s, s->connections.open);
}

static void
connections_max(struct scrape *s)
{
	number(s, s->connections.most);
}

static void
connections_ended(struct scrape *s)
{
	static const char *const reasons[] = {
		[HTTP_ENDED_IDLE] = "idle",
		[HTTP_ENDED_SLOW] = "slow",
		[HTTP_ENDED_CROWDED] = "crowded",
	};

	for (size_t i = 0; i < STR_COUNT(reasons); i++)
		metrics_number(&s->text, s->connections.ended[i], "reason", reasons[i], NULL);
}

static void
connections_unused(struct scrape *s)
{
	number(s, s->connections.unused);
}

static void
accepted(struct scrape *s)
{
	number(s, s->connections.accepted);
}

/* ---- certificates ---- */

/* Those that are in use; one without an end has no sample. */
static void
each_life(struct scrape *s, bool end)
{
	const struct http_certificates *c = &s->certificates;
	const struct {
		const char *name;
		const struct identity_life *life;
		bool used;
	} lives[] = {
		{ "server", &c->server, c->taken_us > 0 },
		{ "client_ca", &c->client_ca, c->taken_us > 0 },
		{ "crl", &c->crl, c->has_crl },
	};

	for (size_t i = 0; i < STR_COUNT(lives); i++)
		if (lives[i].used && lives[i].life->to_us != UINT64_MAX)
			metrics_real(&s->text,
				seconds(end ? lives[i].life->to_us : lives[i].life->from_us),
				"certificate", lives[i].name, NULL);
}

static void
certificate_start(struct scrape *s)
{
	each_life(s, false);
}

static void
certificate_expiry(struct scrape *s)
{
	each_life(s, true);
}

static void
certificates_taken(struct scrape *s)
{
	if (s->certificates.taken_us > 0)
		real(s, seconds(s->certificates.taken_us));
}

static void
certificate_faults(struct scrape *s)
{
	size_t n = 0;

	for (size_t i = 0; i < STR_COUNT(s->certificates.faults); i++)
		n += s->certificates.faults[i][0] != '\0';
	number(s, n);
}

static void
crl_accepted(struct scrape *s)
{
	number(s, s->certificates.accepted_on_expired_crl);
}

static void
reload_successful(struct scrape *s)
{
	number(s, s->reload.time_us == 0 || s->reload.taken);
}

static void
reload_time(struct scrape *s)
{
	if (s->reload.time_us > 0)
		real(s, seconds(s->reload.time_us));
}

static void
drill_good(struct scrape *s)
{
	uint64_t us = atomic_load(&s->node->drill_good_us);

	if (us > 0)
		real(s, seconds(us));
}

/* ---- backups of etcd ---- */

#define CLUSTERS_MAX 100

static void
snapshots_registered(struct scrape *s)
{
	number(s, snapshots_count(s->node->snapshots));
}

static void
snapshots_needed(struct scrape *s)
{
	_cleanup_(snapshot_list_free) struct snapshot_list all = { 0 };
	uint64_t now_us = clock_real_us(), seen_s = node_seen_s(s->node), needed = 0;

	if (snapshots_all(s->node->snapshots, &all) < 0)
		return;
	for (size_t i = 0; i < all.count; i++)
		needed += snapshot_is_needed(all.s[i], now_us, seen_s);
	number(s, needed);
}

static void
snapshot_newest(struct scrape *s)
{
	struct inventory inventory;

	if (inventory_open(s->node->snapshots, NULL, &inventory) < 0)
		return;
	for (size_t i = 0; i < inventory.newest_count && i < CLUSTERS_MAX; i++)
		metrics_real(&s->text, seconds(inventory.newest[i]->taken_us), "kubernetes_cluster",
			inventory.newest[i]->cluster, NULL);
	inventory_free(&inventory);
}

/* ---- the token ---- */

typedef double worker_fn(const struct hsm_worker_status *w);

static void
each_worker(struct scrape *s, worker_fn *value)
{
	const struct node *n = s->node;
	struct hsm_worker_status w;
	char index[12];

	for (unsigned t = 0; t < n->part.tokens_count; t++)
		for (unsigned i = 0; i < n->part.workers; i++) {
			if (hsm_worker_status(n->hsm, t, i, &w) < 0)
				continue;
			snprintf(index, sizeof(index), "%u", i);
			metrics_real(&s->text, value(&w), "token", n->part.tokens[t], "worker",
				index, NULL);
		}
}

#define WORKER(name, value) \
	static double worker_##name(const struct hsm_worker_status *w) \
	{ \
		return (double)(value); \
	} \
	static void name(struct scrape *s) \
	{ \
		each_worker(s, worker_##name); \
	}

WORKER(hsm_attached, w->attached)
WORKER(hsm_ready, w->ready)
WORKER(hsm_sessions, w->hello.sessions)
WORKER(hsm_frames_in_flight, w->in_flight)
WORKER(hsm_restarts, w->restarts)
WORKER(hsm_missed, w->missed_deadlines)
WORKER(hsm_operations, w->operations)
WORKER(hsm_frames, w->frames)
WORKER(hsm_late, w->late)
WORKER(hsm_hang_kills, w->hang_kills)
WORKER(hsm_copy_hits, w->copy_hits)
WORKER(hsm_cost, w->micros_per_op / 1e6)

typedef double token_fn(const struct hsm_token_status *t);

static void
each_token(struct scrape *s, token_fn *value)
{
	const struct node *n = s->node;
	struct hsm_token_status status;

	for (unsigned t = 0; t < n->part.tokens_count; t++)
		if (hsm_token_status(n->hsm, t, &status) == 0)
			metrics_real(&s->text, value(&status), "token", n->part.tokens[t], NULL);
}

#define TOKEN(name, value) \
	static double token_##name(const struct hsm_token_status *t) \
	{ \
		return (double)(value); \
	} \
	static void name(struct scrape *s) \
	{ \
		each_token(s, token_##name); \
	}

TOKEN(hsm_token, t->ready > 0)
TOKEN(hsm_queue, t->queued)
TOKEN(hsm_wait, t->wait_micros / 1e6)
TOKEN(hsm_timeouts, t->timeouts)
TOKEN(hsm_replays, t->replays)

/* ---- the audit log ---- */

static void
audit_is_ok(struct scrape *s)
{
	number(s, s->audit.ok);
}

static void
audit_sequence(struct scrape *s)
{
	number(s, s->audit.sequence);
}

static void
audit_backlog(struct scrape *s)
{
	number(s, s->audit.backlog);
}

static void
audit_sync_duration(struct scrape *s)
{
	if (s->node->audit)
		metrics_times(&s->text, audit_sync_times(s->node->audit), NULL);
}

static void
audit_failures(struct scrape *s)
{
	number(s, s->audit.failures);
}

static void
audit_sink(struct scrape *s)
{
	if (s->has_sink)
		number(s, s->sink.ok);
}

static void
audit_sink_sent(struct scrape *s)
{
	if (s->has_sink)
		number(s, s->sink.sent);
}

static void
audit_sink_lost(struct scrape *s)
{
	if (s->has_sink)
		number(s, s->sink.lost);
}

static void
audit_summarised(struct scrape *s)
{
	number(s, s->audit.summarised);
}

/* ---- usage evidence ---- */

static void
usage_incomplete(struct scrape *s)
{
	real(s, seconds(s->usage.incomplete_us));
}

static void
usage_reading(struct scrape *s)
{
	number(s, s->usage.reading);
}

static void
usage_not_stored(struct scrape *s)
{
	number(s, s->usage.sequence > s->usage.stored ? s->usage.sequence - s->usage.stored : 0);
}

static void
usage_rows_count(struct scrape *s)
{
	number(s, s->usage.rows);
}

static void
audit_signing(struct scrape *s)
{
	number(s, s->signing.state == SIGNING_READY);
}

static void
audit_checkpoints(struct scrape *s)
{
	number(s, s->signing.checkpoints);
}

static void
audit_checkpoint_time(struct scrape *s)
{
	if (s->signing.at > 0)
		real(s, seconds(s->signing.at_us));
}

static void
audit_signing_failures(struct scrape *s)
{
	number(s, s->signing.failures);
}

/* ---- metadata ---- */

static void
store_held(struct scrape *s)
{
	if (s->has_store)
		number(s, s->store.hold != SEALED_HOLD_NONE);
}

static void
store_revision(struct scrape *s)
{
	if (s->has_store)
		number(s, s->store.number);
}

static void
store_records(struct scrape *s)
{
	if (s->has_store)
		number(s, s->store.records);
}

static void
store_refused(struct scrape *s)
{
	if (s->has_store)
		number(s, s->store.refused);
}

static void
seal_failures(struct scrape *s)
{
	if (s->has_store)
		number(s, metrics_read(&s->counts->refusals));
}

static void
commit_failures(struct scrape *s)
{
	if (s->has_store)
		number(s, metrics_read(&s->counts->commit_failures));
}

static void
commit_times(struct scrape *s)
{
	if (s->has_store)
		metrics_times(&s->text, &s->counts->commits, NULL);
}

static void
clock_skew(struct scrape *s)
{
	uint64_t now = clock_real_us(), newest = s->keys.newest_us;

	if (s->has_store)
		real(s, newest > now ? seconds(newest - now) : 0);
}

/* ---- keys ---- */

static void
keys(struct scrape *s)
{
	number(s, keyring_count(s->node->keyring));
}

static void
versions(struct scrape *s)
{
	for (size_t i = 0; i < VERSION_STATES; i++)
		metrics_number(&s->text, s->keys.versions[i], "state", version_state_name(i), NULL);
}

static void
oldest_primary(struct scrape *s)
{
	if (s->keys.oldest_primary_us > 0)
		real(s, seconds(s->keys.oldest_primary_us));
}

static void
least_nonces(struct scrape *s)
{
	if (s->has_store)
		number(s, s->keys.nonces_left);
}

static void
key_created(struct scrape *s)
{
	for (size_t i = 0; i < s->keys.keys_count; i++)
		metrics_real(&s->text, seconds(s->keys.keys[i].created_us), "key",
			s->keys.keys[i].name, NULL);
}

static void
next_rotation(struct scrape *s)
{
	if (s->keys.next_rotation_us > 0)
		real(s, seconds(s->keys.next_rotation_us));
}

static void
key_next_rotations(struct scrape *s)
{
	for (size_t i = 0; i < s->keys.keys_count; i++)
		if (s->keys.keys[i].next_rotation_us > 0)
			metrics_real(&s->text, seconds(s->keys.keys[i].next_rotation_us), "key",
				s->keys.keys[i].name, NULL);
}

static void
rotating_keys(struct scrape *s)
{
	number(s, s->keys.rotating);
}

static void
rotations(struct scrape *s)
{
	for (int i = ROTATION_PERIOD; i < ROTATION_REASONS; i++)
		metrics_number(&s->text, s->rotations.done[i], "reason",
			rotation_reason_name((enum rotation_reason)i), NULL);
}

static void
rotation_failures(struct scrape *s)
{
	number(s, s->rotations.failures);
}

static void
rotations_failing(struct scrape *s)
{
	number(s, s->rotations.failing_count);
}

static void
frozen(struct scrape *s)
{
	number(s, atomic_load(&s->node->frozen));
}

static void
frozen_keys(struct scrape *s)
{
	number(s, s->keys.frozen);
}

static void
old_seals(struct scrape *s)
{
	if (s->has_store)
		number(s, s->store.old_seals);
}

static void
key_nonces(struct scrape *s)
{
	for (size_t i = 0; i < s->keys.keys_count; i++)
		metrics_number(
			&s->text, s->keys.keys[i].nonces_left, "key", s->keys.keys[i].name, NULL);
}

static void
clients(struct scrape *s)
{
	number(s, clients_count(s->node->clients));
}

static void
approvals(struct scrape *s)
{
	number(s, approvals_pending(s->node->approvals, clock_real_us()));
}

static void
proofs(struct scrape *s)
{
	size_t total = atomic_load(&s->node->proofs.total);
	size_t proven = atomic_load(&s->node->proofs.proven);
	size_t failed = atomic_load(&s->node->proofs.failed);

	metrics_number(&s->text, proven, "proof", "proven", NULL);
	metrics_number(&s->text, failed, "proof", "failed", NULL);
	metrics_number(&s->text, total > proven + failed ? total - proven - failed : 0, "proof",
		"pending", NULL);
}

static void
member_unproven(struct scrape *s)
{
	struct cluster c;

	node_cluster(s->node, &c);
	for (size_t i = 0; i < c.members_count; i++) {
		_cleanup_(json_freep) json_t *p = node_member_copy(s->node, c.members[i], "proofs");
		json_int_t total = json_integer_value(json_object_get(p, "total"));
		json_int_t proven = json_integer_value(json_object_get(p, "proven"));
		if (p)
			metrics_number(&s->text, total > proven ? (uint64_t)(total - proven) : 0,
				"member", c.members[i], NULL);
	}
}

static void
version_copies(struct scrape *s)
{
	struct node_copies c;
	struct cluster cluster;
	char tokens[16];

	api_read_copies(s->node, &c);
	node_cluster(s->node, &cluster);
	for (size_t i = 0; c.known && i <= cluster.members_count; i++) {
		snprintf(tokens, sizeof(tokens), "%zu", i);
		metrics_number(&s->text, c.versions[i], "tokens", tokens, NULL);
	}
}

static void
least_copies(struct scrape *s)
{
	struct node_copies c;
	int least;

	api_read_copies(s->node, &c);
	least = api_least_copies(&c);
	if (least >= 0)
		number(s, (uint64_t)least);
}

static void
unknown_objects(struct scrape *s)
{
	pthread_mutex_lock(&s->node->lock);
	number(s, s->node->unknown_count);
	pthread_mutex_unlock(&s->node->lock);
}

/* ---- the table ---- */

#define COUNTER(name, collect, help) \
	{ \
		"kekd_" name, METRICS_COUNTER, help, collect \
	}
#define GAUGE(name, collect, help) \
	{ \
		"kekd_" name, METRICS_GAUGE, help, collect \
	}
#define PROCESS(name, type, collect, help) \
	{ \
		"process_" name, type, help, collect \
	}
#define HISTOGRAM(name, collect, help) \
	{ \
		"kekd_" name, METRICS_HISTOGRAM, help, collect \
	}

/* A new one: a row here, and one in doc/metrics.md. */
static const struct {
	const char *name;
	enum metrics_type type;
	const char *help;
	collect_fn *collect;
} families[] = {
	GAUGE("build_info", build_info, "The release of kekd that runs; always 1."),
	GAUGE("phase", phase, "1 for the phase that the node is in."),
	GAUGE("ready", ready, "1 while /health/ready says so."),
	PROCESS("cpu_seconds_total", METRICS_COUNTER, process_cpu,
		"CPU time of kekd-net, user and system."),
	PROCESS("resident_memory_bytes", METRICS_GAUGE, process_resident,
		"Resident memory of kekd-net."),
	PROCESS("virtual_memory_bytes", METRICS_GAUGE, process_virtual,
		"Virtual memory of kekd-net."),
	PROCESS("threads", METRICS_GAUGE, process_threads, "Threads of kekd-net."),
	PROCESS("open_fds", METRICS_GAUGE, process_open_fds, "Open file descriptors of kekd-net."),
	PROCESS("max_fds", METRICS_GAUGE, process_max_fds,
		"File descriptors that kekd-net may open."),
	PROCESS("start_time_seconds", METRICS_GAUGE, process_start,
		"When kekd-net was started, since 1970."),

	COUNTER("requests_total", requests, "Requests answered, by operation and code."),
	HISTOGRAM("request_duration_seconds", request_times,
		"From the request's head to its answer, durable audit record included."),
	COUNTER("items_total", items, "Items of data requests, by operation and code."),
	COUNTER("client_requests_total", client_requests, "Requests answered, by client."),
	COUNTER("client_limited_total", client_limited,
		"Requests refused because of the client's limits, by limit."),
	GAUGE("client_requests_in_flight", client_in_flight,
		"The client's requests under way, this scrape's too."),
	GAUGE("requests_in_flight", in_flight, "Requests that have no answer yet."),
	COUNTER("requests_abandoned_total", abandoned,
		"Requests whose connection ended before they had an answer."),
	GAUGE("connections", connections, "Connections that are open."),
	GAUGE("connections_max", connections_max,
		"Connections that may be open; for further ones another is ended."),
	COUNTER("connections_ended_total", connections_ended,
		"Connections that the server ended, by reason."),
	COUNTER("connections_total", accepted, "Connections accepted."),
	COUNTER("connections_unused_total", connections_unused,
		"Connections that ended before a request came, failed handshakes among them."),

	GAUGE("certificate_start_timestamp_seconds", certificate_start,
		"When what is in use became valid, since 1970; of several, the one that ends "
		"first."),
	GAUGE("certificate_expiry_timestamp_seconds", certificate_expiry,
		"When what is in use ends, since 1970; of several, the one that ends first."),
	GAUGE("certificates_taken_timestamp_seconds", certificates_taken,
		"When certificates or revocation lists last came into force, since 1970."),
	GAUGE("certificate_files_refused", certificate_faults,
		"Changed files that cannot be used; what was in force before stays."),
	COUNTER("crl_expired_accepted_total", crl_accepted,
		"Clients that were let in although the revocation list has expired."),
	GAUGE("reload_successful", reload_successful,
		"0 when the last SIGHUP changed nothing, as the configuration has faults."),
	GAUGE("reload_timestamp_seconds", reload_time, "When the last SIGHUP came, since 1970."),

	GAUGE("drill_last_good_timestamp_seconds", drill_good,
		"When a drill last proved a backup and every version in it, since 1970."),
	GAUGE("snapshots_registered", snapshots_registered, "Registered backups of etcd."),
	GAUGE("snapshots_needed", snapshots_needed,
		"Those that keep the versions in them from being destroyed now."),
	GAUGE("snapshot_newest_taken_timestamp_seconds", snapshot_newest,
		"When a Kubernetes cluster's newest registered snapshot was taken, since 1970."),

	GAUGE("hsm_token_ready", hsm_token, "1 while a worker of the token is ready."),
	GAUGE("hsm_queue_operations", hsm_queue, "Operations that wait for a session."),
	GAUGE("hsm_queue_wait_seconds", hsm_wait,
		"About how long the next operation will wait, by measured cost."),
	COUNTER("hsm_timeouts_total", hsm_timeouts,
		"Operations that were not answered within the deadline."),
	COUNTER("hsm_replays_total", hsm_replays,
		"Operations that were given to a second worker, as the first one died."),
	GAUGE("hsm_worker_attached", hsm_attached, "1 while the worker's process is connected."),
	GAUGE("hsm_worker_ready", hsm_ready, "1 while the worker is logged in and takes work."),
	GAUGE("hsm_worker_late", hsm_late,
		"1 while the worker is past the deadline and gets no new work."),
	GAUGE("hsm_worker_sessions", hsm_sessions, "Sessions that the worker has open."),
	GAUGE("hsm_worker_frames_in_flight", hsm_frames_in_flight,
		"Frames that the worker has not answered."),
	COUNTER("hsm_worker_restarts_total", hsm_restarts,
		"Times that the worker was started anew."),
	COUNTER("hsm_worker_hang_kills_total", hsm_hang_kills,
		"Times that the worker was killed because it hung."),
	COUNTER("hsm_worker_missed_deadlines_total", hsm_missed,
		"Frames that the worker did not answer in time."),
	COUNTER("hsm_worker_operations_total", hsm_operations,
		"Operations that the worker answered."),
	COUNTER("hsm_worker_frames_total", hsm_frames, "Frames that the worker answered."),
	COUNTER("hsm_worker_session_copy_hits_total", hsm_copy_hits,
		"Uses of a session copy of a key instead of the token's object."),
	GAUGE("hsm_worker_operation_cost_seconds", hsm_cost,
		"The token's time for one operation, a moving average."),

	GAUGE("audit_ok", audit_is_ok, "1 while the audit log can be written."),
	COUNTER("audit_records_total", audit_sequence,
		"Sequence number of the last durable record; never starts again."),
	GAUGE("audit_backlog_records", audit_backlog, "Records that are not on disk yet."),
	HISTOGRAM("audit_sync_duration_seconds", audit_sync_duration,
		"How long the audit log's fdatasync took."),
	COUNTER("audit_failures_total", audit_failures, "Attempts to write the log that failed."),
	COUNTER("audit_summarised_total", audit_summarised,
		"Refusals that were counted in a summary instead of a record of their own."),
	GAUGE("audit_sink_up", audit_sink, "1 while the second sink takes records."),
	COUNTER("audit_sink_sent_total", audit_sink_sent, "Records told to the second sink."),
	COUNTER("audit_sink_lost_total", audit_sink_lost,
		"Records that the second sink did not take in time; the log has them."),
	GAUGE("audit_signing", audit_signing, "1 while the node's key can sign checkpoints."),
	COUNTER("audit_checkpoints_total", audit_checkpoints, "Signed checkpoints in the log."),
	GAUGE("audit_checkpoint_time_seconds", audit_checkpoint_time,
		"When the last checkpoint was signed."),
	COUNTER("audit_signing_failures_total", audit_signing_failures,
		"Times that the key did not sign."),

	GAUGE("usage_incomplete_since_seconds", usage_incomplete,
		"Since when usage evidence has a hole, as Unix time; 0: it is complete."),
	GAUGE("usage_reading", usage_reading,
		"1 while a node that was restarted still reads its audit log for usage."),
	GAUGE("usage_records_not_stored", usage_not_stored,
		"Audit records that a start after a crash would have to read again."),
	GAUGE("usage_rows", usage_rows_count, "Clients by version of which usage is known."),

	GAUGE("store_held", store_held, "1 while the metadata is held."),
	GAUGE("store_revision", store_revision, "Number of the last commit in force."),
	GAUGE("store_records", store_records, "Records in the metadata store."),
	GAUGE("store_records_refused", store_refused,
		"Records whose seal does not verify; the last good ones stay in force."),
	COUNTER("seal_failures_total", seal_failures,
		"Records found whose seal does not verify, or that are not the last good ones."),
	HISTOGRAM("store_commit_duration_seconds", commit_times, "How long a commit took."),
	COUNTER("store_commit_failures_total", commit_failures,
		"Commits that the store did not take for a fault of its own."),
	GAUGE("store_clock_skew_seconds", clock_skew,
		"How far the clock is behind the newest time in the metadata; 0: it is not."),

	GAUGE("keys", keys, "Keys."),
	GAUGE("key_versions", versions, "Versions of all keys, by state."),
	GAUGE("key_primary_oldest_created_timestamp_seconds", oldest_primary,
		"When the oldest primary version of all keys was made, since 1970."),
	GAUGE("key_primary_created_timestamp_seconds", key_created,
		"When the key's primary version was made, since 1970; the first 100 keys by name."),
	GAUGE("key_nonces_left_min", least_nonces,
		"IVs that the primary version with the fewest can still reserve, of all keys."),
	GAUGE("key_nonces_left", key_nonces,
		"IVs that the key's primary version can still reserve; the first 100 keys by "
		"name."),
	GAUGE("keys_rotating", rotating_keys, "Keys that rotate by themselves, by a period."),
	GAUGE("key_next_rotation_min_timestamp_seconds", next_rotation,
		"When the first of them is due, since 1970."),
	GAUGE("key_next_rotation_timestamp_seconds", key_next_rotations,
		"When the key is due, since 1970; of the first 100 keys by name."),
	COUNTER("rotations_total", rotations, "Rotations that nobody asked for, by reason."),
	COUNTER("rotation_failures_total", rotation_failures,
		"Attempts at such rotations that failed."),
	GAUGE("rotations_failing", rotations_failing,
		"Keys that are due to rotate and could not yet; at most 64."),
	GAUGE("frozen", frozen, "1 while the whole service only unwraps."),
	GAUGE("keys_frozen", frozen_keys, "Keys that only unwrap."),
	GAUGE("store_old_seals", old_seals,
		"Records that are yet to be sealed by the newest of several seal keys."),
	GAUGE("clients", clients, "Client records."),
	GAUGE("approvals_pending", approvals, "Requests that wait for another administrator."),
	GAUGE("version_proofs", proofs,
		"Key versions that this node could use in its tokens since its start, or not."),
	GAUGE("member_unproven_versions", member_unproven,
		"Key versions that the member has not proven in its tokens, as it says itself."),
	GAUGE("version_copies", version_copies,
		"Key versions by the number of different tokens that they are proven in."),
	GAUGE("version_copies_least", least_copies,
		"Different tokens that the version in the fewest is proven in."),
	GAUGE("hsm_unknown_objects", unknown_objects, "Objects in the tokens that no key has."),
};

static void
take(struct scrape *s)
{
	struct sealed *store = atomic_load(&s->node->sealed);

	if (s->node->audit)
		audit_status(s->node->audit, &s->audit);
	s->has_sink = s->node->audit && audit_sink_status(s->node->audit, &s->sink);
	if (s->node->usage)
		usage_status(s->node->usage, &s->usage);
	node_signing(s->node, &s->signing);
	s->has_store = store != NULL;
	if (s->has_store) {
		sealed_status(store, &s->store);
		s->counts = sealed_counts(store);
	}
	pthread_mutex_lock(&s->node->lock);
	s->keys = s->node->summary;
	s->rotations = s->node->rotations;
	s->reload = s->node->reload;
	pthread_mutex_unlock(&s->node->lock);
	process_usage(&s->process);
	if (s->node->http) {
		http_connections(s->node->http, &s->connections);
		http_certificates(s->node->http, &s->certificates);
	}
}

void
api_metrics(struct request *r)
{
	struct scrape s = { .node = r->node, .text = { .out = &r->reply } };

	take(&s);
	for (size_t i = 0; i < STR_COUNT(families); i++) {
		metrics_family(&s.text, families[i].name, families[i].type, families[i].help);
		families[i].collect(&s);
	}
	for (const struct metrics_pair_family *f = metrics_pair_families; f->name; f++) {
		metrics_family(&s.text, f->name, f->type, f->help);
		f->collect(&s.text, r->node);
	}
	request_answer_buf(r, 200, "text/plain; version=0.0.4; charset=utf-8");
}
