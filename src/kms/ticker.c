/* SPDX-License-Identifier: Apache-2.0 */
/* What happens by itself as time passes: deadlines, callers that gave up, second requests. */
#include "backend_inner.h"

#include "kekd/clock.h"

#define HEDGE_AFTER_NS (300 * CLOCK_MS)
#define TICK_NS (20 * CLOCK_MS) /* between two looks */

struct due {
	struct waiter *late, *cancelled;
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
	backend_queue_put(b, ATTEMPT_HEDGE, f);
}

static void
look_at(struct backend *b, struct flight *f, uint64_t now, struct due due[FLIGHT_KINDS])
{
	waiters_prepend(&due[f->kind].cancelled, flights_take(&b->flights, f, is_cancelled, NULL));
	waiters_prepend(&due[f->kind].late, flights_take(&b->flights, f, is_late, &now));
	if (f->waiters) {
		consider_hedge(b, f, now);
		return;
	}
	backend_settle(b, f);
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
		kms_method_name(flight_methods[kind]));
	ask_fail(&cancelled, KMS_CANCELLED, "the caller has given up");
	for (const struct waiter *w = due->cancelled; w; w = w->next)
		metrics_add(&b->parts.counts->cancelled, 1);
	verdict_answer_all(b, due->late, &if_late);
	verdict_answer_all(b, due->cancelled, &if_cancelled);
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

void *
backend_ticker_main(void *user)
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
