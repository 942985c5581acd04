/* SPDX-License-Identifier: Apache-2.0 */
/* What the service consists of: for service.c and metrics.c alone. */
#ifndef KEKD_KMS_PARTS_H
#define KEKD_KMS_PARTS_H

#include "backend.h"
#include "counts.h"
#include "probe.h"
#include "records.h"
#include "service.h"

#include <pthread.h>

struct kms_service {
	const struct kms_config *config;
	struct kekd_health health;
	struct counts counts;
	struct records *records;
	struct probe *probe;
	struct backend *backend;
	pthread_mutex_t lock;
	struct kms_key_id announced; /* by Status since the start; activation 0: nothing */
};

#endif
