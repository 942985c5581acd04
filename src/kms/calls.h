/* SPDX-License-Identifier: Apache-2.0 */
/* From gRPC's bytes to the service, and its answers (answer.h) back. */
#ifndef KEKD_KMS_CALLS_H
#define KEKD_KMS_CALLS_H

#include "grpc.h"
#include "service.h"

#include <pthread.h>

#define KMS_CALLS_HELD_MAX 1024

struct kms_calls {
	pthread_mutex_t lock; /* guards what follows */
	struct kms_service *service;
	enum { KMS_CALLS_TAKEN, KMS_CALLS_HELD, KMS_CALLS_REFUSED } mode;
	struct kms_call *held[KMS_CALLS_HELD_MAX];
	unsigned held_count;
};

/* Starts gRPC with the methods of the contract. calls is borrowed. 0 or a negative error, logged.
 */
int kms_calls_open(struct kms_calls *calls, struct kms_grpc **ret_grpc);
/* From here on no call comes to the service, which may be freed. hold: new ones have no answer, so
 * that whoever loses the connection over it repeats them over the next one, and not over this.
 * refuse: those and all that follow are told to come again. */
void kms_calls_hold(struct kms_calls *calls);
void kms_calls_refuse(struct kms_calls *calls);
unsigned kms_calls_held(struct kms_calls *calls);

#endif
