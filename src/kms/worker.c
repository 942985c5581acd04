/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The threads that make requests to kekd, and what becomes of a flight when one has ended. The
 * request is made outside of the lock, on a flight that cannot go away meanwhile.
 */
#include "backend_inner.h"

#include "kekd/clock.h"

#define AGAIN_NS (100 * CLOCK_MS) /* what a waiter must have left for another attempt */

/* ---- attempts ---- */

static void
attempt_begin(struct worker *w, struct flight *f)
{
	struct attempt *t = &f->attempts[w->attempt];

	t->running = true;
	t->client = w->client;
	atomic_store(&t->aborted, false);
	atomic_store(&t->sent_ns, 0);
	t->ask.deadline_ns = flight_deadline(f);
	t->ask.aborted = &t->aborted;
	t->ask.chosen = t->ask.alone = w->attempt == ATTEMPT_HEDGE;
	t->ask.first = f->hedge_at;
	w->backend->flying++;
}

/* A version that nobody has heard of may have been made a moment ago. */
static bool
is_ours(struct worker *w, const struct flight *f, uint64_t deadline_ns, struct ask_answer *a)
{
	struct backend *b = w->backend;
	struct records_view v;

	if (f->kind == FLIGHT_ENCRYPT || records_know(b->parts.records, &f->id))
		return true;
	metrics_add(&b->parts.counts->lookups, 1);
	records_look(b->parts.records, &f->id, f->born_ns, deadline_ns);
	if (records_know(b->parts.records, &f->id))
		return true;
	records_view(b->parts.records, &v);
	if (v.serving > 0)
		ask_fail(a, KMS_NOT_FOUND,
			"Decrypt: key_id %s is none of key %.64s: was it written by another "
			"cluster, or before the key was restored? %.300s",
			f->id.text, b->parts.config->key, v.reason);
	else
		ask_fail(a, KMS_UNAVAILABLE,
			"Decrypt: key_id %s is not known here, and no kekd could be asked: "
			"%.400s",
			f->id.text, v.reason);
	return false;
}

/* A version that was announced and is unknown to kekd: where nobody has the key's record as it was,
 * that is the reason, as Status says it. */
static void
blame_old_store(struct worker *w, uint64_t deadline_ns, struct ask_answer *a)
{
	struct records *records = w->backend->parts.records;
	struct records_view v;

	records_look(records, NULL, clock_boot_ns(), deadline_ns);
	records_view(records, &v);
	if (v.serving == 0 && v.reason[0])
		ask_fail(a, KMS_UNAVAILABLE, "Encrypt: %s", v.reason);
}

static void
attempt_run(struct worker *w, struct flight *f, struct ask_answer *a)
{
	const struct kms_config *config = w->backend->parts.config;
	struct attempt *t = &f->attempts[w->attempt];
	struct kms_bytes bytes = { f->bytes.data, f->bytes.len };

	if (!is_ours(w, f, t->ask.deadline_ns, a))
		return;
	atomic_store(&t->sent_ns, clock_boot_ns());
	if (f->kind == FLIGHT_DECRYPT) {
		ask_unwrap(w->client, config, bytes, &t->ask, a);
		return;
	}
	ask_wrap(w->client, config, &f->id, bytes, &t->ask, a);
	if (a->moved)
		blame_old_store(w, t->ask.deadline_ns, a);
}

/* ---- its end, under the lock ---- */

struct again {
	uint64_t sent_ns, now_ns;
};

static bool
has_had_its_chance(const struct waiter *w, const void *user)
{
	const struct again *again = user;

	return w->joined_ns <= again->sent_ns || w->deadline_ns < again->now_ns + AGAIN_NS;
}

/* Who joined late has time left of its own: for them it is tried anew. */
static struct waiter *
take_those_to_fail(struct backend *b, struct flight *f, unsigned attempt)
{
	const struct again again = { atomic_load(&f->attempts[attempt].sent_ns), clock_boot_ns() };

	if (again.sent_ns == 0 || atomic_load(&b->stop))
		return flights_take_all(&b->flights, f);
	return flights_take(&b->flights, f, has_had_its_chance, &again);
}

/* The one that lost was slow for so long that others should not wait for it as well. */
static void
note_hedge_won(struct backend *b, const struct flight *f)
{
	metrics_add(&b->parts.counts->hedges_won, 1);
	kekd_health_failed(b->parts.health, atomic_load(&f->attempts[ATTEMPT_FIRST].ask.endpoint));
}

/* The other one may still bring it. */
static bool
waits_for_other(const struct flight *f, unsigned attempt)
{
	unsigned other = 1 - attempt;

	return f->attempts[other].running || f->queued[other];
}

static struct waiter *
conclude(struct worker *w, struct flight *f, const struct ask_answer *a)
{
	struct backend *b = w->backend;
	struct waiter *due = NULL;

	if (f->settled || (a->status != KMS_OK && a->away && waits_for_other(f, w->attempt)))
		return NULL;
	if (a->status == KMS_OK && w->attempt == ATTEMPT_HEDGE &&
		f->attempts[ATTEMPT_FIRST].running)
		note_hedge_won(b, f);
	due = a->status != KMS_OK && a->away ? take_those_to_fail(b, f, w->attempt)
					     : flights_take_all(&b->flights, f);
	if (!f->waiters) {
		backend_settle(b, f);
	} else {
		f->hedged = false;
		backend_queue_put(b, ATTEMPT_FIRST, f);
	}
	return due;
}

static void
attempt_end(struct worker *w, struct flight *f, struct ask_answer *a)
{
	struct backend *b = w->backend;
	struct verdict v = { f->kind, f->id, a };
	struct waiter *due;
	bool gone;

	metrics_add(&b->parts.counts->failovers, a->passed_over);
	pthread_mutex_lock(&b->lock);
	b->flying--;
	f->attempts[w->attempt].running = false;
	due = conclude(w, f, a);
	gone = f->settled && flight_is_idle(f);
	pthread_mutex_unlock(&b->lock);
	if (gone)
		flight_free(f);
	if (a->moved)
		b->parts.moved(b->parts.user);
	verdict_answer_all(b, due, &v);
}

/* ---- threads ---- */

static struct flight *
next_flight(struct worker *w)
{
	struct backend *b = w->backend;
	struct queue *q = &b->queues[w->attempt];
	struct flight *f = NULL;

	pthread_mutex_lock(&b->lock);
	while (!f) {
		while (!q->first && !atomic_load(&b->stop))
			pthread_cond_wait(&q->filled, &b->lock);
		if (!q->first)
			break;
		f = backend_queue_take(b, w->attempt);
		if (!f->settled) {
			attempt_begin(w, f);
		} else {
			if (flight_is_idle(f))
				flight_free(f);
			f = NULL;
		}
	}
	pthread_mutex_unlock(&b->lock);
	return f;
}

void *
backend_worker_main(void *user)
{
	struct worker *w = user;
	struct flight *f;

	while ((f = next_flight(w))) {
		struct ask_answer a = { .status = KMS_OK };
		attempt_run(w, f, &a);
		attempt_end(w, f, &a);
		ask_answer_free(&a);
	}
	return NULL;
}
