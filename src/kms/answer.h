/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One gRPC call in hand, as the service sees it: what was asked, how long there is, and the one
 * answer. Whoever is handed a call answers it exactly once, from any thread, soon or late; the
 * call is gone with the answer.
 */
#ifndef KEKD_KMS_ANSWER_H
#define KEKD_KMS_ANSWER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* gRPC's status codes. */
enum kms_status {
	KMS_OK = 0,
	KMS_CANCELLED = 1,
	KMS_INVALID_ARGUMENT = 3,
	KMS_DEADLINE_EXCEEDED = 4,
	KMS_NOT_FOUND = 5,
	KMS_PERMISSION_DENIED = 7,
	KMS_RESOURCE_EXHAUSTED = 8,
	KMS_FAILED_PRECONDITION = 9,
	KMS_UNIMPLEMENTED = 12,
	KMS_INTERNAL = 13,
	KMS_UNAVAILABLE = 14,
	KMS_UNAUTHENTICATED = 16
};

struct kms_bytes {
	const uint8_t *data; /* borrowed */
	size_t len;
};

struct kms_annotation {
	struct kms_bytes name, value;
};

struct kms_call;
uint64_t kms_call_deadline_ns(const struct kms_call *c); /* CLOCK_BOOTTIME; UINT64_MAX: none */
bool kms_call_cancelled(const struct kms_call *c); /* nobody waits any more; still answer it */

void kms_answer_status(struct kms_call *c, const char *key_id); /* version v2, healthz ok */
void kms_answer_encrypt(struct kms_call *c, struct kms_bytes ciphertext, const char *key_id,
	const struct kms_annotation *annotations, size_t count);
void kms_answer_decrypt(struct kms_call *c, struct kms_bytes plaintext);
/* text: for people; says what failed and what to do. */
void kms_answer_error(struct kms_call *c, enum kms_status status, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

#endif
