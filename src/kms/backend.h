/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Encrypt and Decrypt on their way to kekd: a bounded queue, threads with a connection each, second
 * requests, deadlines and cancelled calls. What it is given was checked.
 */
#ifndef KEKD_KMS_BACKEND_H
#define KEKD_KMS_BACKEND_H

#include "answer.h"
#include "config.h"
#include "counts.h"
#include "key_id.h"
#include "records.h"

#include <openssl/sha.h>

struct backend;

struct backend_parts { /* all borrowed; they outlive it */
	const struct kms_config *config;
	struct kekd_health *health;
	struct records *records;
	struct counts *counts;
	void (*moved)(void *user); /* kekd refused a version since the record has moved on */
	void *user;
};

int backend_open(
	const struct backend_parts *parts, struct backend **ret_backend, char ret_error[256]);
void backend_stop(struct backend *b); /* answers what waits with UNAVAILABLE; any thread */
void backend_freep(struct backend **b);

/* Any thread; neither blocks. The bytes are borrowed for the call. */
void backend_encrypt(struct backend *b, struct kms_call *c, struct kms_bytes plaintext,
	const struct kms_key_id *id);
/* digest: over all that the request says. */
void backend_decrypt(struct backend *b, struct kms_call *c, struct kms_bytes ciphertext,
	const struct kms_key_id *id, const uint8_t digest[SHA256_DIGEST_LENGTH]);

struct backend_load {
	size_t queued, flying, waiting; /* requests not begun; under way; calls without an answer */
};
void backend_load(struct backend *b, struct backend_load *ret_load);

#endif
