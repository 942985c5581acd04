/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Latencies in buckets that grow with the value: HISTOGRAM_SUB of them per power of two, so that a
 * microsecond and a minute are kept with the same relative precision and a sample costs one
 * addition. Written by one thread; whoever reads meanwhile sees each counter whole.
 */
#include "bench.h"

#define SUB_BITS 7
#define VALUE_MAX ((1ull << 40) - 1)

static size_t
bucket_of(uint64_t ns)
{
	unsigned shift;

	if (ns > VALUE_MAX)
		ns = VALUE_MAX;
	if (ns < HISTOGRAM_SUB)
		return (size_t)ns;
	shift = 63 - (unsigned)__builtin_clzll(ns) - SUB_BITS;
	return (size_t)(shift + 1) * HISTOGRAM_SUB + (size_t)((ns >> shift) - HISTOGRAM_SUB);
}

/* The middle of a bucket's values. */
static uint64_t
value_of(size_t bucket)
{
	size_t shift = bucket / HISTOGRAM_SUB;
	uint64_t sub = bucket % HISTOGRAM_SUB;

	if (shift < 1)
		return sub;
	shift--;
	return ((sub + HISTOGRAM_SUB) << shift) + ((1ull << shift) >> 1);
}

static void
raise_by(_Atomic uint64_t *counter, uint64_t n)
{
	atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n,
		memory_order_relaxed);
}

void
histogram_add(struct histogram *h, uint64_t ns, uint64_t times)
{
	raise_by(&h->counts[bucket_of(ns)], times);
	raise_by(&h->total, times);
	if (ns > atomic_load_explicit(&h->max, memory_order_relaxed))
		atomic_store_explicit(&h->max, ns, memory_order_relaxed);
	h->sum += (double)ns * (double)times;
}

void
histogram_merge(struct histogram *h, const struct histogram *other)
{
	uint64_t max = atomic_load_explicit(&other->max, memory_order_relaxed);

	for (size_t i = 0; i < HISTOGRAM_BUCKETS; i++)
		raise_by(&h->counts[i],
			atomic_load_explicit(&other->counts[i], memory_order_relaxed));
	raise_by(&h->total, atomic_load_explicit(&other->total, memory_order_relaxed));
	if (max > atomic_load_explicit(&h->max, memory_order_relaxed))
		atomic_store_explicit(&h->max, max, memory_order_relaxed);
	h->sum += other->sum;
}

uint64_t
histogram_quantile(const struct histogram *h, double part)
{
	uint64_t total = atomic_load_explicit(&h->total, memory_order_relaxed);
	uint64_t max = atomic_load_explicit(&h->max, memory_order_relaxed);
	uint64_t wanted = (uint64_t)(part * (double)total + 0.999999), seen = 0;

	for (size_t i = 0; i < HISTOGRAM_BUCKETS && wanted < total; i++) {
		seen += atomic_load_explicit(&h->counts[i], memory_order_relaxed);
		if (seen > 0 && seen >= wanted)
			return value_of(i) < max ? value_of(i) : max;
	}
	return max;
}

double
histogram_mean(const struct histogram *h)
{
	uint64_t total = atomic_load_explicit(&h->total, memory_order_relaxed);

	return total > 0 ? h->sum / (double)total : 0;
}

void
histogram_correct(const struct histogram *h, uint64_t interval_ns, struct histogram *ret_corrected)
{
	uint64_t max = atomic_load_explicit(&h->max, memory_order_relaxed);

	for (size_t i = 0; i < HISTOGRAM_BUCKETS; i++) {
		uint64_t n = atomic_load_explicit(&h->counts[i], memory_order_relaxed);
		uint64_t value = value_of(i) < max ? value_of(i) : max;
		if (n == 0)
			continue;
		histogram_add(ret_corrected, value, n);
		while (interval_ns > 0 && value >= 2 * interval_ns) {
			value -= interval_ns;
			histogram_add(ret_corrected, value, n);
		}
	}
	if (max > 0)
		atomic_store_explicit(&ret_corrected->max, max, memory_order_relaxed);
}
