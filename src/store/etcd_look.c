/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Is what the watch has told still all that etcd has? A watch that hangs says nothing, so a thread
 * asks with a linearizable read every ten seconds. The replica's age counts from these reads. And
 * what else is asked of etcd as a whole: compaction, and the status.
 */
#include "etcd_engine.h"

#include "kekd/clock.h"
#include "kekd/err.h"
#include "kekd/log.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#define LOOK_EVERY_NS (10 * CLOCK_S)
#define LOOK_WAIT_NS (1 * CLOCK_S) /* for the watch to bring what a look has seen */
#define COMPACT_AGE_NS (3600 * CLOCK_S)

void
etcd_note_failure(struct etcd_store *e, const char *text)
{
	bool first;

	pthread_mutex_lock(&e->lock);
	first = e->reachable || !*e->error;
	e->reachable = false;
	snprintf(e->error, sizeof(e->error), "%s", *text ? text : "etcd does not answer");
	pthread_cond_broadcast(&e->changed);
	pthread_mutex_unlock(&e->lock);
	if (first)
		log_warning("etcd: %s; the local replica serves on, changes wait", text);
}

void
etcd_wait(struct etcd_store *e, uint64_t deadline_ns)
{
	struct timespec until = { .tv_sec = (time_t)(deadline_ns / CLOCK_S),
		.tv_nsec = (long)(deadline_ns % CLOCK_S) };

	pthread_cond_timedwait(&e->changed, &e->lock, &until);
}

bool
etcd_wait_position(struct etcd_store *e, uint64_t revision, uint64_t wait_ns)
{
	uint64_t until = clock_monotonic_ns() + wait_ns;
	bool reached;

	pthread_mutex_lock(&e->lock);
	while (!(reached = e->synced && e->position >= revision) && !e->closing &&
		clock_monotonic_ns() < until)
		etcd_wait(e, until);
	pthread_mutex_unlock(&e->lock);
	return reached;
}

/* The older one stays until it is reached: under steady change each new one would be ahead. */
void
etcd_set_look(struct etcd_store *e, uint64_t revision, uint64_t sent_ns)
{
	if (e->look.revision > 0)
		return;
	e->look.revision = revision;
	e->look.sent_ns = sent_ns;
}

static int
read_revision(struct etcd_store *e, struct etcd *calls, uint64_t *ret_revision)
{
	json_t *body = json_pack("{s:o,s:b}", "key", etcd_key(calls, "commit"), "keys_only", 1);
	json_t *reply = NULL;
	uint64_t sent_ns = 0;
	int err = etcd_ask(e, calls, "kv/range", body, true, &reply, &sent_ns);

	if (err < 0)
		return KEKD_ESTORE;
	*ret_revision = etcd_u64(etcd_header(reply), "revision");
	json_decref(reply);
	pthread_mutex_lock(&e->lock);
	if (e->synced)
		etcd_set_look(e, *ret_revision, sent_ns);
	pthread_mutex_unlock(&e->lock);
	return 0;
}

/* ---- does the watch lack something, or did something else than records change? ---- */

static json_t *
prefix_body(struct etcd *calls, uint64_t above)
{
	json_t *newer = json_pack("{s:{s:o,s:o,s:o,s:i,s:b}}", "requestRange", "key",
		etcd_key(calls, ""), "range_end", etcd_key_end(calls, ""), "min_mod_revision",
		etcd_number(above + 1), "limit", 1, "keys_only", 1);
	json_t *count = json_pack("{s:{s:o,s:o,s:b}}", "requestRange", "key", etcd_key(calls, ""),
		"range_end", etcd_key_end(calls, ""), "count_only", 1);

	return json_pack("{s:[o,o]}", "success", newer, count);
}

static uint64_t
count_of(const json_t *reply)
{
	const json_t *one = json_array_get(json_object_get(reply, "responses"), 1);

	return etcd_u64(json_object_get(one, "response_range"), "count");
}

/* Nothing lacks: everything up to the answer's revision is known. */
static void
advance(struct etcd_store *e, uint64_t from, uint64_t to)
{
	struct batch *b = etcd_batch_new(to);

	if (!b)
		return;
	pthread_mutex_lock(&e->lock);
	if (e->position == from) {
		etcd_queue_locked(e, b);
		b = NULL;
	}
	pthread_mutex_unlock(&e->lock);
	etcd_batch_free(b);
}

static int
check_prefix(struct etcd_store *e, struct etcd *calls)
{
	uint64_t position, keys;
	json_t *reply = NULL;
	bool lacks;
	int err;

	pthread_mutex_lock(&e->lock);
	position = e->position;
	keys = e->keys;
	pthread_mutex_unlock(&e->lock);
	err = etcd_ask(e, calls, "kv/txn", prefix_body(calls, position), true, &reply, NULL);
	if (err < 0)
		return KEKD_ESTORE;
	lacks = json_array_size(etcd_kvs(reply, 0)) > 0 || count_of(reply) != keys;
	if (!lacks)
		advance(e, position, etcd_u64(etcd_header(reply), "revision"));
	pthread_mutex_lock(&e->lock);
	if (lacks && e->position == position) {
		log_warning("etcd: the watch brings nothing, though there are changes: it is made "
			    "anew");
		etcd_want_compare(e, false);
	}
	pthread_mutex_unlock(&e->lock);
	json_decref(reply);
	return 0;
}

int
etcd_look(struct etcd_store *e, struct etcd *calls, uint64_t wait_ns)
{
	uint64_t until = clock_monotonic_ns() + wait_ns, revision = 0, now;
	int err = read_revision(e, calls, &revision);

	if (err < 0)
		return err;
	/* Most of the time is left for what it takes when the watch hangs. */
	if (etcd_wait_position(
		    e, revision, wait_ns < 4 * LOOK_WAIT_NS ? wait_ns / 4 : LOOK_WAIT_NS))
		return 0;
	err = check_prefix(e, calls);
	now = clock_monotonic_ns();
	if (err == 0 && !etcd_wait_position(e, revision, now < until ? until - now : 0))
		err = KEKD_ESTORE;
	return err;
}

static void
wait_for_turn(struct etcd_store *e)
{
	uint64_t until = clock_monotonic_ns() + LOOK_EVERY_NS;

	pthread_mutex_lock(&e->lock);
	while (!e->closing && clock_monotonic_ns() < until)
		etcd_wait(e, until);
	/* What is held may have been put right where no watch tells of it. */
	if (e->held && !e->closing)
		etcd_want_compare(e, true);
	pthread_mutex_unlock(&e->lock);
}

void *
etcd_look_run(void *store)
{
	struct etcd_store *e = store;
	bool closing = false;

	while (!closing) {
		wait_for_turn(e);
		pthread_mutex_lock(&e->lock);
		closing = e->closing;
		pthread_mutex_unlock(&e->lock);
		if (!closing)
			etcd_look(e, e->looks, 3 * CLOCK_S);
	}
	return NULL;
}

/* ---- for others ---- */

int
store_etcd_catch_up(struct store *s, unsigned timeout_ms)
{
	if (!store_is_etcd(s))
		return 0;
	return etcd_look(etcd_of(s), etcd_of(s)->calls, timeout_ms * CLOCK_MS);
}

int
etcd_compact(struct etcd_store *e, uint64_t age_ns)
{
	uint64_t now = clock_boot_ns(), revision = e->compact_revision;
	json_t *reply = NULL, *body;
	int err = 0;

	if (revision > 0 && now - e->compact_ns < age_ns)
		return 0;
	if (revision > 0) {
		body = json_pack("{s:o}", "revision", etcd_number(revision));
		err = etcd_ask(e, e->calls, "kv/compaction", body, true, &reply, NULL);
		json_decref(reply);
	}
	if (err < 0 && err != KEKD_ECOMPACTED) /* that was done already */
		return KEKD_ESTORE;
	pthread_mutex_lock(&e->lock);
	e->compactions += revision > 0;
	e->compact_revision = e->position;
	pthread_mutex_unlock(&e->lock);
	e->compact_ns = now;
	return 0;
}

int
store_etcd_compact(struct store *s)
{
	return store_is_etcd(s) ? etcd_compact(etcd_of(s), COMPACT_AGE_NS) : 0;
}

static uint64_t
age(const struct etcd_store *e, uint64_t now)
{
	if (e->synced_ns > 0)
		return now - e->synced_ns;
	return e->opened_age_ns == UINT64_MAX ? UINT64_MAX
					      : e->opened_age_ns + (now - e->opened_ns);
}

void
store_etcd_status(struct store *s, struct store_etcd_status *ret_status)
{
	struct store_etcd_status status = { .age_ns = UINT64_MAX };
	struct etcd_store *e;

	if (store_is_etcd(s)) {
		e = etcd_of(s);
		pthread_mutex_lock(&e->lock);
		status.reachable = e->reachable;
		status.synced = e->synced;
		status.foreign = e->synced && *e->image_id &&
				 strcmp(e->image_id, e->cluster_id) != 0;
		status.age_ns = age(e, clock_boot_ns());
		status.position = e->position;
		status.lag_revisions = e->highest > e->position ? e->highest - e->position : 0;
		status.pending = e->pending;
		status.full_reads = e->full_reads;
		status.reconnects = e->reconnects;
		status.compactions = e->compactions;
		snprintf(status.cluster_id, sizeof(status.cluster_id), "%s", e->cluster_id);
		snprintf(status.error, sizeof(status.error), "%s", e->error);
		pthread_mutex_unlock(&e->lock);
	}
	*ret_status = status;
}
