/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The backend's life, its queues, and how a call comes in. One lock guards queues and flights.
 */
#include "backend_inner.h"

#include "kekd/clock.h"
#include "kekd/str.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Fewer than the transport holds (CALLS_MAX of grpc.c): Status is answered beside them. */
#define WAITERS_MAX 896
#define ROOM_NS (50 * CLOCK_MS) /* of a caller's time, for the answer to reach it */

/* ---- queues, under the lock ---- */

/* Encrypts are few, and an API server that waits for one does nothing else: they go first. */
void
backend_queue_put(struct backend *b, unsigned attempt, struct flight *f)
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

struct flight *
backend_queue_take(struct backend *b, unsigned attempt)
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

static void
abort_attempt(struct attempt *t)
{
	if (!t->running)
		return;
	atomic_store(&t->aborted, true);
	kekd_client_wake(t->client);
}

void
backend_settle(struct backend *b, struct flight *f)
{
	f->settled = true;
	flights_remove(&b->flights, f);
	for (size_t i = 0; i < ATTEMPTS; i++)
		abort_attempt(&f->attempts[i]);
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
	backend_queue_put(b, ATTEMPT_FIRST, f);
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
	const struct counted as = { b->parts.counts, flight_methods[kind], now };
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
	err = -pthread_create(&w->thread, NULL, backend_worker_main, w);
	w->threaded = err == 0;
	if (err < 0)
		snprintf(ret_error, 256, "no thread: %s", strerror(-err));
	return err;
}

static int
threads_open(struct backend *b, char ret_error[256])
{
	int err = -pthread_create(&b->ticker, NULL, backend_ticker_main, b);

	b->ticking = err == 0;
	if (err < 0)
		snprintf(ret_error, 256, "no thread: %s", strerror(-err));
	for (size_t i = 0; i < STR_COUNT(b->workers) && err == 0; i++)
		err = worker_open(b, &b->workers[i],
			i < BACKEND_WORKERS ? ATTEMPT_FIRST : ATTEMPT_HEDGE, ret_error);
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
		waiters_prepend(&due[f->kind], flights_take_all(&b->flights, f));
		backend_settle(b, f);
		if (flight_is_idle(f))
			flight_free(f);
	}
	pthread_cond_broadcast(&b->tick);
	for (size_t i = 0; i < ATTEMPTS; i++)
		pthread_cond_broadcast(&b->queues[i].filled);
	pthread_mutex_unlock(&b->lock);
	for (unsigned kind = 0; kind < FLIGHT_KINDS; kind++) {
		const struct verdict v = { .kind = (enum flight_kind)kind, .answer = &stopping };
		verdict_answer_all(b, due[kind], &v);
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
