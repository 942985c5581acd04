/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How many connections gRPC has, which does not say when it closes one: each is known by its
 * descriptor and its socket's inode, and is gone when the two do not belong together any more. Main
 * thread, but for the counters.
 */
#ifndef KEKD_KMS_CONNECTIONS_H
#define KEKD_KMS_CONNECTIONS_H

#include "kekd/buf.h"

#include <stdatomic.h>
#include <sys/types.h>

#define KMS_CONNECTIONS_MAX 64

struct kms_connections {
	struct {
		int fd;
		ino_t inode;
	} open[KMS_CONNECTIONS_MAX];
	unsigned count;
	atomic_uint_least64_t accepted, refused, open_count;
};

/* False: there are as many as may be. */
bool kms_connections_add(struct kms_connections *c, int fd);
/* Forgets those that are gone. */
void kms_connections_sweep(struct kms_connections *c);
void kms_connections_metrics(struct kms_connections *c, struct buf *out);

#endif
