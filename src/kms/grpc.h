/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gRPC over connections that others accept: (method, bytes) in, (bytes or status) out. The one file
 * that knows gRPC core (grpc.c) is behind this; what the bytes mean is not here.
 */
#ifndef KEKD_KMS_GRPC_H
#define KEKD_KMS_GRPC_H

#include "answer.h"

#include "kekd/buf.h"

struct kms_grpc;

/* A call arrived, on the I/O thread, which must not wait: answer it by one of the two below, now or
 * later. message is borrowed for the call and wiped afterwards. */
typedef void (*kms_grpc_handler)(
	void *user, struct kms_call *c, size_t method, struct kms_bytes message);

struct kms_grpc_config {
	const char *const *methods; /* "/service/name", which handler is told the number of */
	size_t methods_count;
	kms_grpc_handler handler;
	void *user;
};

/* Starts the I/O thread. config's methods are borrowed. 0 or a negative error, logged. Once per
 * process. */
int kms_grpc_open(const struct kms_grpc_config *config, struct kms_grpc **ret_grpc);
/* Serves a connected socket, which must not block; takes it over. Any thread. */
void kms_grpc_add(struct kms_grpc *g, int fd);

/* Exactly one of them for each call, from any thread; the call is gone with it. message is from
 * malloc() and taken over: it is wiped when it was sent. */
void kms_grpc_reply(struct kms_call *c, uint8_t *message, size_t len);
void kms_grpc_fail(struct kms_call *c, enum kms_status status, const char *text);
/* The call's message says nothing: counted. It is still to be answered. */
void kms_grpc_malformed(struct kms_call *c);

/* The end, in this order. drain: every connection is told goodbye (GOAWAY), so that a client makes
 * its next calls over the next connection; those in hand may take wait_ns; one that crosses with
 * the goodbye is answered CANCELLED by core. True when all connections are closed, too. Else
 * cancel: ends calls, which must still be answered, and closes connections; false when a peer holds
 * it up: then leave with _exit(). */
bool kms_grpc_drain(struct kms_grpc *g, uint64_t wait_ns);
bool kms_grpc_cancel(struct kms_grpc *g, uint64_t wait_ns);
void kms_grpc_freep(struct kms_grpc **g); /* after one of them was true */

/* CLOCK_BOOTTIME when the I/O thread was last seen to run: it turns once in a second at least. */
uint64_t kms_grpc_alive_ns(const struct kms_grpc *g);
/* Its metric families. Any thread. */
void kms_grpc_metrics(struct kms_grpc *g, struct buf *out);

#endif
