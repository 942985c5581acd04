/* SPDX-License-Identifier: Apache-2.0 */
/* From gRPC's bytes to the service, and its answers (answer.h) back. */
#ifndef KEKD_KMS_CALLS_H
#define KEKD_KMS_CALLS_H

#include "grpc.h"
#include "service.h"

#include <pthread.h>

struct kms_calls {
	pthread_mutex_t lock;	     /* guards service */
	struct kms_service *service; /* NULL: it ends */
};

/* Starts gRPC with the methods of the contract. calls is borrowed. 0 or a negative error, logged.
 */
int kms_calls_open(struct kms_calls *calls, struct kms_grpc **ret_grpc);
/* From here on calls are refused: the service may be freed. */
void kms_calls_detach(struct kms_calls *calls);

#endif
