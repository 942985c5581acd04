/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the plugin does with a call: Status from the last probe, Encrypt under what was announced,
 * Decrypt of what this cluster wrapped. Knows nothing of gRPC (answer.h is all it sees of it).
 */
#ifndef KEKD_KMS_SERVICE_H
#define KEKD_KMS_SERVICE_H

#include "answer.h"
#include "config.h"

#include "kekd/buf.h"

struct kms_service;

/* Starts its threads; kekd need not be there. config is borrowed. 0 or a negative error with a
 * text. The state file must be readable: without it a key_id could flip back. */
int kms_service_open(
	const struct kms_config *config, struct kms_service **ret_service, char ret_error[256]);
/* Answers what is still waiting with UNAVAILABLE, then ends the threads. */
void kms_service_freep(struct kms_service **s);

enum kms_method { METHOD_STATUS, METHOD_ENCRYPT, METHOD_DECRYPT, METHODS };

/* On gRPC's I/O thread: none of them ever blocks; each call is answered once, now or later.
 * Arguments are borrowed for the call. uid is the API server's, for logs alone. */
void kms_service_status(struct kms_service *s, struct kms_call *c);
void kms_service_encrypt(struct kms_service *s, struct kms_call *c, struct kms_bytes plaintext,
	struct kms_bytes uid);

struct kms_decrypt {
	struct kms_bytes ciphertext, uid, key_id;
	const struct kms_annotation *annotations;
	size_t annotations_count;
};
void kms_service_decrypt(
	struct kms_service *s, struct kms_call *c, const struct kms_decrypt *request);

/* For a message that cannot be read. */
void kms_service_refuse(struct kms_service *s, struct kms_call *c, enum kms_method method,
	enum kms_status status, const char *text);

/* The service's families, in Prometheus' text format. Any thread. */
void kms_service_metrics(struct kms_service *s, struct buf *out);
/* True when the last probe wrapped and unwrapped; else the reason. Any thread. */
bool kms_service_healthy(struct kms_service *s, char ret_reason[512]);

#endif
