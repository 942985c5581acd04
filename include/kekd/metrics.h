/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is counted while the program runs, and how it is told: instruments that any module can hold
 * in its own struct, and the text format that Prometheus scrapes (0.0.4). Observing takes no lock,
 * no memory and never waits. There is no registry: who answers a scrape has a table of families
 * (src/api/metrics.c).
 */
#ifndef KEKD_METRICS_H
#define KEKD_METRICS_H

#include "kekd/buf.h"

#include <stdatomic.h>

/* Upper bounds from 0.1 ms to 10 s, and one bucket above. */
#define METRICS_BUCKETS 17

/* How long something took, how often. Zeroed is empty. */
struct metrics_histogram {
	atomic_uint_least64_t buckets[METRICS_BUCKETS]; /* each alone, not cumulative */
	atomic_uint_least64_t sum_ns;
};

void metrics_observe(struct metrics_histogram *h, uint64_t ns); /* any thread */
uint64_t metrics_observed(const struct metrics_histogram *h);	/* how often; any thread */

/* A counter is a plain atomic; relaxed, as nothing is ordered by it. */
static inline void
metrics_add(atomic_uint_least64_t *counter, uint64_t n)
{
	atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

static inline uint64_t
metrics_read(const atomic_uint_least64_t *counter)
{
	return atomic_load_explicit(counter, memory_order_relaxed);
}

/* ---- the text ---- */

enum metrics_type { METRICS_COUNTER, METRICS_GAUGE, METRICS_HISTOGRAM };

struct metrics_text {
	struct buf *out; /* borrowed */
	const char *name;
};

/* The head of a family: what follows are its samples, until the next one begins. help is one line.
 */
void metrics_family(
	struct metrics_text *t, const char *name, enum metrics_type type, const char *help);
/* One sample. Labels: name, value, name, value, …, NULL; the values are escaped. */
void metrics_number(struct metrics_text *t, uint64_t value, ...) __attribute__((sentinel));
void metrics_real(struct metrics_text *t, double value, ...) __attribute__((sentinel));
void metrics_times(struct metrics_text *t, const struct metrics_histogram *h, ...)
	__attribute__((sentinel));

#endif
