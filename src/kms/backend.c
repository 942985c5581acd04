/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Threads and queues between an API server and kekd. One lock guards queues and flights; a request
 * is made outside of it, on a flight that cannot go away meanwhile, and calls are answered outside
 * of it.
 */
#include "backend.h"

#include "ask.h"
#include "flight.h"
#include "hedge.h"

#include "kekd/clock.h"
#include "kekd/log.h"
#include "kekd/str.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WORKERS 8 /* as many requests are under way at once */
#define HEDGERS 4 /* and as many second ones */
/* Fewer than the transport holds (CALLS_MAX of grpc.c): Status is answered beside them. */
#define WAITERS_MAX 896
#define HEDGE_AFTER_NS (300 * CLOCK_MS)
#define ROOM_NS (50 * CLOCK_MS)	  /* of a caller's time, for the answer to reach it */
#define TICK_NS (20 * CLOCK_MS)	  /* between two looks at deadlines and cancelled calls */
#define AGAIN_NS (100 * CLOCK_MS) /* what a waiter must have left for another attempt */

struct queue {
	struct flight *first, **last;
	size_t count;
	pthread_cond_t filled;
};

struct worker {
	struct backend *backend;
	unsigned attempt; /* which of a flight's this thread makes */
	struct kekd_client *client;
	pthread_t thread;
	bool threaded;
};

struct backend {
	struct backend_parts parts;
	pthread_mutex_t lock;
	pthread_cond_t tick;
	struct flights flights;
	struct queue queues[ATTEMPTS];
	struct hedge_budget budget;
	size_t flying;
	atomic_bool stop;
	pthread_t ticker;
	bool ticking;
	struct worker workers[WORKERS + HEDGERS];
};

static const enum kms_method methods[FLIGHT_KINDS] = {
	[FLIGHT_ENCRYPT] = METHOD_ENCRYPT,
	[FLIGHT_DECRYPT] = METHOD_DECRYPT,
};

/* ---- queues, under the lock ---- */

/* Encrypts are few, and an API server that waits for one does nothing else: they go first. */
static void
queue_put(struct backend *b, unsigned attempt, struct flight *f)
{
	struct queue *q = &b->queues[attempt];
	struct flight **place = f->kind == FLIGHT_ENCRYPT ? &q->first : q->last;

	f->queued[attempt] = true;
	f->queue_next[attempt] = *place;
	*place = f;
	if (!f->queue_next[attempt])
		q->last = &f->queue_next[attempt];
	q->count++;
	pthread_cond_signal(&q->filled);
}

static struct flight *
queue_take(struct backend *b, unsigned attempt)
{
	struct queue *q = &b->queues[attempt];
	struct flight *f = q->first;

	q->first = f->queue_next[attempt];
	if (!q->first)
		q->last = &q->first;
	q->count--;
	f->queued[attempt] = false;
	return f;
}

/* ---- answers, outside of the lock ---- */

/* What may be said of a flight when it is settled and another thread may free it. */
struct verdict {
	enum flight_kind kind;
	struct kms_key_id id;
	const struct ask_answer *answer;
};

static struct counted
counted_as(struct backend *b, enum flight_kind kind, const struct waiter *w)
{
	return (struct counted){ b->parts.counts, methods[kind], w->joined_ns };
}

static struct kms_bytes
bytes_of(const char *text)
{
	return (struct kms_bytes){ (const uint8_t *)text, strlen(text) };
}

/* Names are lower-case domain names, else the API server refuses the whole answer. */
static void
answer_encrypt(
	struct backend *b, const struct counted *as, struct kms_call *c, const struct verdict *v)
{
	const struct kms_config *config = b->parts.config;
	char version[16];

	snprintf(version, sizeof(version), "%u", v->answer->version);
	const struct kms_annotation annotations[] = {
		{ bytes_of("cluster.kms.kekd"), bytes_of(config->cluster) },
		{ bytes_of("provider.kms.kekd"), bytes_of(config->provider) },
		{ bytes_of("key.kms.kekd"), bytes_of(config->key) },
		{ bytes_of("version.kms.kekd"), bytes_of(version) },
		{ bytes_of("request.kms.kekd"), bytes_of(v->answer->request_id) },
	};
	counted_encrypt(as, c, (struct kms_bytes){ v->answer->bytes.data, v->answer->bytes.len },
		v->id.text, annotations, STR_COUNT(annotations));
}

static void
answer_one(struct backend *b, const struct waiter *w, const struct verdict *v)
{
	struct counted as = counted_as(b, v->kind, w);
	const struct ask_answer *a = v->answer;

	if (a->status != KMS_OK)
		counted_error(&as, w->call, a->status, "%s", a->text);
	else if (v->kind == FLIGHT_ENCRYPT)
		answer_encrypt(b, &as, w->call, v);
	else
		counted_decrypt(&as, w->call, (struct kms_bytes){ a->bytes.data, a->bytes.len });
}

static void
answer_all(struct backend *b, struct waiter *waiters, const struct verdict *v)
{
	while (waiters) {
		struct waiter *w = waiters;
		waiters = w->next;
		answer_one(b, w, v);
		free(w);
	}
}

/* ---- attempts ---- */

static void
abort_attempt(struct attempt *t)
{
	if (!t->running)
		return;
	atomic_store(&t->aborted, true);
	kekd_client_wake(t->client);
}

/* Any endpoint but the one that does not answer: rather one that did not fail lately, but a failure
 * may have been slowness that is over. */
static size_t
another_endpoint(const struct backend *b, size_t avoid)
{
	size_t found = avoid;
	uint64_t now = clock_boot_ns();

	for (size_t i = b->parts.config->endpoints_count; i-- > 0;)
		if (i != avoid &&
			(found == avoid || atomic_load(&b->parts.health->away_until_ns[i]) <= now))
			found = i;
	return found;
}

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
	if (v.answered > 0)
		ask_fail(a, KMS_NOT_FOUND,
			"Decrypt: key_id %s is none of key %.64s: was it written by another "
			"cluster, or before the key was restored? %.300s",
			f->id.text, b->parts.config->key, v.reason);
	else
		ask_fail(a, KMS_UNAVAILABLE,
			"Decrypt: key_id %s is not known here yet, and no kekd could be asked: "
			"%.400s",
			f->id.text, v.reason);
	return false;
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
	if (f->kind == FLIGHT_ENCRYPT)
		ask_wrap(w->client, config, &f->id, bytes, &t->ask, a);
	else
		ask_unwrap(w->client, config, bytes, &t->ask, a);
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

static void
settle(struct backend *b, struct flight *f)
{
	f->settled = true;
	flights_remove(&b->flights, f);
	for (size_t i = 0; i < ATTEMPTS; i++)
		abort_attempt(&f->attempts[i]);
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
		settle(b, f);
	} else {
		f->hedged = false;
		queue_put(b, ATTEMPT_FIRST, f);
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
	answer_all(b, due, &v);
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
		f = queue_take(b, w->attempt);
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

static void *
worker_main(void *user)
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

/* ---- time passes ---- */

struct due {
	struct waiter *late, *cancelled;
	enum flight_kind kind;
};

static bool
is_late(const struct waiter *w, const void *user)
{
	return w->deadline_ns <= *(const uint64_t *)user;
}

static bool
is_cancelled(const struct waiter *w, const void *user)
{
	(void)user;
	return kms_call_cancelled(w->call);
}

static void
prepend(struct waiter **list, struct waiter *more)
{
	struct waiter **end = &more;

	while (*end)
		end = &(*end)->next;
	*end = *list;
	*list = more;
}

static void
consider_hedge(struct backend *b, struct flight *f, uint64_t now)
{
	const struct attempt *t = &f->attempts[ATTEMPT_FIRST];
	uint64_t sent_ns = atomic_load(&t->sent_ns);

	if (f->kind != FLIGHT_DECRYPT || f->hedged || !t->running || sent_ns == 0 ||
		now < sent_ns + HEDGE_AFTER_NS)
		return;
	size_t asked = atomic_load(&t->ask.endpoint);
	f->hedge_at = another_endpoint(b, asked);
	if (f->hedge_at == asked)
		return;
	f->hedged = true;
	if (!hedge_spend(&b->budget)) {
		metrics_add(&b->parts.counts->hedges_refused, 1);
		return;
	}
	metrics_add(&b->parts.counts->hedges, 1);
	queue_put(b, ATTEMPT_HEDGE, f);
}

static void
look_at(struct backend *b, struct flight *f, uint64_t now, struct due due[FLIGHT_KINDS])
{
	prepend(&due[f->kind].cancelled, flights_take(&b->flights, f, is_cancelled, NULL));
	prepend(&due[f->kind].late, flights_take(&b->flights, f, is_late, &now));
	if (f->waiters) {
		consider_hedge(b, f, now);
		return;
	}
	settle(b, f);
	if (flight_is_idle(f))
		flight_free(f);
}

static void
answer_due(struct backend *b, enum flight_kind kind, struct due *due)
{
	struct ask_answer late = { .status = KMS_OK }, cancelled = { .status = KMS_OK };
	const struct verdict if_late = { .kind = kind, .answer = &late },
			     if_cancelled = { .kind = kind, .answer = &cancelled };

	ask_fail(&late, KMS_DEADLINE_EXCEEDED,
		"%s: kekd did not answer in time: is it up, and does the token answer? kekctl "
		"status "
		"at each endpoint tells",
		kms_method_name(methods[kind]));
	ask_fail(&cancelled, KMS_CANCELLED, "the caller has given up");
	for (const struct waiter *w = due->cancelled; w; w = w->next)
		metrics_add(&b->parts.counts->cancelled, 1);
	answer_all(b, due->late, &if_late);
	answer_all(b, due->cancelled, &if_cancelled);
}

static void
wait_tick(struct backend *b)
{
	uint64_t then = clock_monotonic_ns() + TICK_NS;
	struct timespec at = { (time_t)(then / CLOCK_S), (long)(then % CLOCK_S) };

	if (!b->flights.all)
		pthread_cond_wait(&b->tick, &b->lock);
	else
		pthread_cond_timedwait(&b->tick, &b->lock, &at);
}

static void *
ticker_main(void *user)
{
	struct backend *b = user;

	while (!atomic_load(&b->stop)) {
		struct due due[FLIGHT_KINDS] = { 0 };
		uint64_t now = clock_boot_ns();
		struct flight *next;

		pthread_mutex_lock(&b->lock);
		for (struct flight *f = b->flights.all; f; f = next) {
			next = f->next;
			look_at(b, f, now, due);
		}
		pthread_mutex_unlock(&b->lock);
		for (unsigned kind = 0; kind < FLIGHT_KINDS; kind++)
			answer_due(b, (enum flight_kind)kind, &due[kind]);
		pthread_mutex_lock(&b->lock);
		if (!atomic_load(&b->stop))
			wait_tick(b);
		pthread_mutex_unlock(&b->lock);
	}
	return NULL;
}

/* ---- what comes in ---- */

/* 0: there is no time left. */
static uint64_t
deadline_of(const struct backend *b, const struct kms_call *c, uint64_t now)
{
	uint64_t theirs = kms_call_deadline_ns(c), ours = now + b->parts.config->timeout_ns, left,
		 room;

	if (theirs == UINT64_MAX)
		return ours;
	if (theirs <= now)
		return 0;
	left = theirs - now;
	room = left / 4 < ROOM_NS ? left / 4 : ROOM_NS;
	return theirs - room < ours ? theirs - room : ours;
}

enum admitted { ADMITTED, ADMITTED_NOT_FULL, ADMITTED_NOT_STOPPING, ADMITTED_NOT_MEMORY };

/* Under the lock. */
static enum admitted
join(struct backend *b, struct flight *f, struct kms_call *c, uint64_t now, uint64_t deadline_ns)
{
	return flights_join(&b->flights, f, c, now, deadline_ns) < 0 ? ADMITTED_NOT_MEMORY
								     : ADMITTED;
}

static enum admitted
begin(struct backend *b, struct flight *f, struct kms_call *c, uint64_t now, uint64_t deadline_ns)
{
	enum admitted admitted = join(b, f, c, now, deadline_ns);

	if (admitted != ADMITTED)
		return admitted;
	f->born_ns = now;
	if (f->kind == FLIGHT_DECRYPT)
		hedge_earn(&b->budget);
	flights_add(&b->flights, f);
	queue_put(b, ATTEMPT_FIRST, f);
	pthread_cond_signal(&b->tick);
	return ADMITTED;
}

/* f is taken over, or freed when its like is under way, or it is not admitted. */
static enum admitted
admit(struct backend *b, struct flight *f, struct kms_call *c, uint64_t now, uint64_t deadline_ns)
{
	struct flight *same = NULL;
	enum admitted admitted;

	pthread_mutex_lock(&b->lock);
	if (f->kind == FLIGHT_DECRYPT)
		same = flights_find(&b->flights, f->digest);
	if (atomic_load(&b->stop))
		admitted = ADMITTED_NOT_STOPPING;
	else if (b->flights.waiters >= WAITERS_MAX)
		admitted = ADMITTED_NOT_FULL;
	else if (same)
		admitted = join(b, same, c, now, deadline_ns);
	else
		admitted = begin(b, f, c, now, deadline_ns);
	pthread_mutex_unlock(&b->lock);
	if (same && admitted == ADMITTED)
		metrics_add(&b->parts.counts->joined, 1);
	if (same || admitted != ADMITTED)
		flight_free(f);
	return admitted;
}

static const struct {
	enum kms_status status;
	const char *text;
} refusals[] = {
	[ADMITTED_NOT_FULL] = { KMS_RESOURCE_EXHAUSTED,
		"as many calls wait for kekd as this program holds: is kekd slow? Try again" },
	[ADMITTED_NOT_STOPPING] = { KMS_UNAVAILABLE, "kekd-kms is stopping: try again" },
	[ADMITTED_NOT_MEMORY] = { KMS_INTERNAL, "no memory" },
};

static void
submit(struct backend *b, struct flight *f, enum flight_kind kind, struct kms_call *c)
{
	uint64_t now = clock_boot_ns(), deadline_ns = deadline_of(b, c, now);
	const struct counted as = { b->parts.counts, methods[kind], now };
	enum admitted admitted = ADMITTED_NOT_MEMORY;

	if (f && deadline_ns == 0) {
		flight_free(f);
		counted_error(&as, c, KMS_DEADLINE_EXCEEDED, "the caller's deadline is over");
		return;
	}
	if (f)
		admitted = admit(b, f, c, now, deadline_ns);
	if (admitted != ADMITTED)
		counted_error(&as, c, refusals[admitted].status, "%s", refusals[admitted].text);
}

void
backend_encrypt(struct backend *b, struct kms_call *c, struct kms_bytes plaintext,
	const struct kms_key_id *id)
{
	submit(b, flight_new(FLIGHT_ENCRYPT, id, plaintext), FLIGHT_ENCRYPT, c);
}

void
backend_decrypt(struct backend *b, struct kms_call *c, struct kms_bytes ciphertext,
	const struct kms_key_id *id, const uint8_t digest[SHA256_DIGEST_LENGTH])
{
	struct flight *f = flight_new(FLIGHT_DECRYPT, id, ciphertext);

	if (f)
		memcpy(f->digest, digest, SHA256_DIGEST_LENGTH);
	submit(b, f, FLIGHT_DECRYPT, c);
}

void
backend_load(struct backend *b, struct backend_load *ret_load)
{
	pthread_mutex_lock(&b->lock);
	*ret_load = (struct backend_load){ b->queues[ATTEMPT_FIRST].count, b->flying,
		b->flights.waiters };
	pthread_mutex_unlock(&b->lock);
}

/* ---- its life ---- */

static int
worker_open(struct backend *b, struct worker *w, unsigned attempt, char ret_error[256])
{
	int err;

	w->backend = b;
	w->attempt = attempt;
	err = ask_client_open(b->parts.config, b->parts.health, &w->client, ret_error);
	if (err < 0)
		return err;
	err = -pthread_create(&w->thread, NULL, worker_main, w);
	w->threaded = err == 0;
	if (err < 0)
		snprintf(ret_error, 256, "no thread: %s", strerror(-err));
	return err;
}

static int
threads_open(struct backend *b, char ret_error[256])
{
	int err = -pthread_create(&b->ticker, NULL, ticker_main, b);

	b->ticking = err == 0;
	if (err < 0)
		snprintf(ret_error, 256, "no thread: %s", strerror(-err));
	for (size_t i = 0; i < STR_COUNT(b->workers) && err == 0; i++)
		err = worker_open(
			b, &b->workers[i], i < WORKERS ? ATTEMPT_FIRST : ATTEMPT_HEDGE, ret_error);
	return err;
}

int
backend_open(const struct backend_parts *parts, struct backend **ret_backend, char ret_error[256])
{
	struct backend *b = calloc(1, sizeof(*b));
	pthread_condattr_t monotonic;
	int err;

	if (!b)
		return -ENOMEM;
	b->parts = *parts;
	b->budget = HEDGE_BUDGET_FULL;
	pthread_mutex_init(&b->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&b->tick, &monotonic);
	pthread_condattr_destroy(&monotonic);
	for (size_t i = 0; i < ATTEMPTS; i++) {
		b->queues[i].last = &b->queues[i].first;
		pthread_cond_init(&b->queues[i].filled, NULL);
	}
	err = threads_open(b, ret_error);
	if (err < 0)
		backend_freep(&b);
	else
		*ret_backend = b;
	return err;
}

void
backend_stop(struct backend *b)
{
	struct ask_answer stopping = { .status = KMS_OK };
	struct waiter *due[FLIGHT_KINDS] = { 0 };
	struct flight *next;

	ask_fail(&stopping, refusals[ADMITTED_NOT_STOPPING].status, "%s",
		refusals[ADMITTED_NOT_STOPPING].text);
	pthread_mutex_lock(&b->lock);
	atomic_store(&b->stop, true);
	for (struct flight *f = b->flights.all; f; f = next) {
		next = f->next;
		prepend(&due[f->kind], flights_take_all(&b->flights, f));
		settle(b, f);
		if (flight_is_idle(f))
			flight_free(f);
	}
	pthread_cond_broadcast(&b->tick);
	for (size_t i = 0; i < ATTEMPTS; i++)
		pthread_cond_broadcast(&b->queues[i].filled);
	pthread_mutex_unlock(&b->lock);
	for (unsigned kind = 0; kind < FLIGHT_KINDS; kind++) {
		const struct verdict v = { .kind = (enum flight_kind)kind, .answer = &stopping };
		answer_all(b, due[kind], &v);
	}
}

void
backend_freep(struct backend **backend)
{
	struct backend *b = *backend;

	if (!b)
		return;
	backend_stop(b);
	if (b->ticking)
		pthread_join(b->ticker, NULL);
	for (size_t i = 0; i < STR_COUNT(b->workers); i++)
		if (b->workers[i].threaded)
			pthread_join(b->workers[i].thread, NULL);
	for (size_t i = 0; i < STR_COUNT(b->workers); i++)
		kekd_client_freep(&b->workers[i].client);
	for (size_t i = 0; i < ATTEMPTS; i++)
		pthread_cond_destroy(&b->queues[i].filled);
	pthread_cond_destroy(&b->tick);
	pthread_mutex_destroy(&b->lock);
	free(b);
	*backend = NULL;
}
