/* SPDX-License-Identifier: Apache-2.0 */
/* What is counted, and calls answered with their count. Any thread. */
#ifndef KEKD_KMS_COUNTS_H
#define KEKD_KMS_COUNTS_H

#include "answer.h"
#include "ask.h"
#include "service.h"

#include "kekd/metrics.h"

#define KMS_STATUSES 17

struct counts {
	atomic_uint_least64_t calls[METHODS][KMS_STATUSES];
	atomic_uint_least64_t told_ns[METHODS][KMS_STATUSES]; /* when such an error was logged */
	atomic_uint_least64_t untold[METHODS][KMS_STATUSES]; /* and how many since, that were not */
	struct metrics_histogram times[METHODS];
	atomic_uint_least64_t failovers;			  /* endpoints passed over */
	atomic_uint_least64_t hedges, hedges_won, hedges_refused; /* refused: out of budget */
	atomic_uint_least64_t joined, cancelled, lookups;
	atomic_uint_least64_t probes[2]; /* good, failed */
	struct metrics_histogram probe_times;
	atomic_uint_least64_t certificate_ends_s; /* since 1970; 0: unknown */
};

/* What a call is to be counted as. */
struct counted {
	struct counts *counts;
	enum kms_method method;
	uint64_t began_ns; /* CLOCK_BOOTTIME */
};

const char *kms_method_name(enum kms_method method);
const char *kms_status_name(enum kms_status status);

void counted_status(const struct counted *as, struct kms_call *c, const char *key_id);
void counted_encrypt(const struct counted *as, struct kms_call *c, struct kms_bytes ciphertext,
	const char *key_id, const struct kms_annotation *annotations, size_t count);
void counted_decrypt(const struct counted *as, struct kms_call *c, struct kms_bytes plaintext);
void counted_error(const struct counted *as, struct kms_call *c, enum kms_status status,
	const char *format, ...) __attribute__((format(printf, 4, 5)));

#endif
