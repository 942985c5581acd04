/* SPDX-License-Identifier: Apache-2.0 */
/* The KMS key id: the primary version's UUID, a dot, and the number of its activation. Pure
 * functions. */
#ifndef KEKD_KMS_KEY_ID_H
#define KEKD_KMS_KEY_ID_H

#include "kekd/uuid.h"

#include <stddef.h>
#include <stdint.h>

#define KMS_KEY_ID_TEXT_SIZE 57 /* UUID, dot, 19 digits, NUL */
#define KMS_KEY_ID_HASH_SIZE 17

struct kms_key_id {
	struct uuid version;
	uint64_t activation; /* 1 to 2^63 - 1; 0: none */
	char text[KMS_KEY_ID_TEXT_SIZE];
};

/* Exactly as kekd writes it: lower case, no sign, no leading zero, nothing before or after. data
 * need not end with NUL, and may hold some. 0 or -EINVAL. */
int kms_key_id_parse(const void *data, size_t len, struct kms_key_id *ret_id);
/* The first 8 bytes of the text's SHA-256, hex: how metrics tell it. */
void kms_key_id_hash(const struct kms_key_id *id, char ret_text[KMS_KEY_ID_HASH_SIZE]);

#endif
