/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How much one client may ask at a time and per second. Not here: what its record allows
 * (clients.c), how a refusal is told (http/).
 *
 * The rate is kept by one number, the time at which the client's account is even (the generic cell
 * rate algorithm, ITU-T I.371): each operation moves it on by 1/rate, and a request comes in as
 * long as it lies at most a second ahead. So a client may send a second's worth at once, and what
 * a batch overdraws is waited for before the next request.
 */
#include "kekd/access.h"

#include "kekd/clock.h"
#include "kekd/err.h"

#include <stdatomic.h>
#include <stdlib.h>

struct limit {
	atomic_uint references;
	_Atomic uint64_t even_ns;
	_Atomic uint64_t in_flight, admitted, refused_rate, refused_in_flight;
	atomic_flag scanning;
};

struct limit *
limit_new(void)
{
	struct limit *l = calloc(1, sizeof(*l));

	if (l) {
		atomic_init(&l->references, 1);
		atomic_flag_clear(&l->scanning);
	}
	return l;
}

struct limit *
limit_ref(struct limit *l)
{
	atomic_fetch_add(&l->references, 1);
	return l;
}

void
limit_unrefp(struct limit **limit)
{
	struct limit *l = *limit;

	*limit = NULL;
	if (l && atomic_fetch_sub(&l->references, 1) == 1)
		free(l);
}

/* Moves the account on by some operations, from now at the earliest. */
static uint64_t
moved(uint64_t even, uint64_t now, uint64_t step, uint64_t operations)
{
	return (even > now ? even : now) + step * operations;
}

/* 0, or the nanoseconds to wait. */
static uint64_t
take_rate(struct limit *l, uint64_t per_s, uint64_t now)
{
	uint64_t step = CLOCK_S / per_s, latest = now + CLOCK_S - step;
	uint64_t even = atomic_load(&l->even_ns);

	do
		if (even > latest)
			return even - latest;
	while (!atomic_compare_exchange_weak(&l->even_ns, &even, moved(even, now, step, 1)));
	return 0;
}

enum limit_verdict
limit_enter(const struct client *c, uint64_t now_ns, unsigned *ret_retry_s)
{
	struct limit *l = c->limit;
	uint64_t in_flight = atomic_fetch_add(&l->in_flight, 1), wait;

	if (c->in_flight > 0 && in_flight >= (uint64_t)c->in_flight) {
		atomic_fetch_sub(&l->in_flight, 1);
		atomic_fetch_add(&l->refused_in_flight, 1);
		*ret_retry_s = 1;
		return LIMIT_IN_FLIGHT;
	}
	wait = c->requests_per_s > 0 ? take_rate(l, (uint64_t)c->requests_per_s, now_ns) : 0;
	if (wait > 0) {
		atomic_fetch_sub(&l->in_flight, 1);
		atomic_fetch_add(&l->refused_rate, 1);
		*ret_retry_s = (unsigned)((wait + CLOCK_S - 1) / CLOCK_S);
		return LIMIT_RATE;
	}
	atomic_fetch_add(&l->admitted, 1);
	return LIMIT_OK;
}

void
limit_charge(const struct client *c, uint64_t now_ns, uint64_t operations)
{
	uint64_t step = c->requests_per_s > 0 ? CLOCK_S / (uint64_t)c->requests_per_s : 0;
	uint64_t even = atomic_load(&c->limit->even_ns);

	if (step == 0)
		return;
	while (!atomic_compare_exchange_weak(
		&c->limit->even_ns, &even, moved(even, now_ns, step, operations)))
		;
}

void
limit_leave(const struct client *c)
{
	atomic_fetch_sub(&c->limit->in_flight, 1);
}

bool
limit_scan_enter(const struct client *c)
{
	return !atomic_flag_test_and_set(&c->limit->scanning);
}

void
limit_scan_leave(const struct client *c)
{
	atomic_flag_clear(&c->limit->scanning);
}

/* What is overdrawn are operations: at another rate they take another time. */
static void
convert(struct limit *l, uint64_t from_per_s, uint64_t to_per_s, uint64_t now)
{
	uint64_t even = atomic_load(&l->even_ns), next;

	do
		next = even > now ? now + (even - now) / to_per_s * from_per_s : now;
	while (!atomic_compare_exchange_weak(&l->even_ns, &even, next));
}

void
limit_take_over(struct client *c, const struct client *old, uint64_t now_ns)
{
	limit_unrefp(&c->limit);
	c->limit = limit_ref(old->limit);
	if (c->requests_per_s > 0 && old->requests_per_s > 0 &&
		c->requests_per_s != old->requests_per_s)
		convert(c->limit, (uint64_t)old->requests_per_s, (uint64_t)c->requests_per_s,
			now_ns);
}

void
limit_status(const struct client *c, struct limit_status *ret_status)
{
	*ret_status = (struct limit_status){
		.in_flight = atomic_load(&c->limit->in_flight),
		.admitted = atomic_load(&c->limit->admitted),
		.refused_rate = atomic_load(&c->limit->refused_rate),
		.refused_in_flight = atomic_load(&c->limit->refused_in_flight),
	};
}
