/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What Status told an API server last, kept over restarts: a key_id that flips back makes every
 * write rewrite its object. One file in state_dir, of one key, provider and cluster. Not
 * thread-safe.
 */
#ifndef KEKD_KMS_ANNOUNCED_H
#define KEKD_KMS_ANNOUNCED_H

#include "config.h"
#include "key_id.h"

#define ANNOUNCED_NAME "announced"

/* *ret_id with activation 0 when nothing was announced yet. 0, or a negative error with a text that
 * says what to do: a file that cannot be understood is not the same as none. */
int announced_read(const struct kms_config *config, struct kms_key_id *ret_id, char ret_error[256]);
/* On disk when it returns 0, whole or not at all. */
int announced_write(const struct kms_config *config, const struct kms_key_id *id);

#endif
