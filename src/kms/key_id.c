/* SPDX-License-Identifier: Apache-2.0 */
/* The KMS key id, read strictly: it comes back from etcd, where others may write. */
#include "key_id.h"

#include "kekd/str.h"

#include <errno.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <string.h>

#define UUID_LEN (UUID_TEXT_SIZE - 1)

static int
parse_activation(const char *digits, size_t len, uint64_t *ret_number)
{
	uint64_t n = 0;

	if (len == 0 || digits[0] == '0')
		return -EINVAL;
	for (size_t i = 0; i < len; i++) {
		if (digits[i] < '0' || digits[i] > '9')
			return -EINVAL;
		uint64_t digit = (uint64_t)(digits[i] - '0');
		if (n > ((uint64_t)INT64_MAX - digit) / 10)
			return -EINVAL;
		n = n * 10 + digit;
	}
	*ret_number = n;
	return 0;
}

int
kms_key_id_parse(const void *data, size_t len, struct kms_key_id *ret_id)
{
	const char *text = data;
	struct kms_key_id id = { .activation = 0 };
	char version[UUID_TEXT_SIZE];

	if (len < UUID_LEN + 2 || len >= sizeof(id.text) || text[UUID_LEN] != '.')
		return -EINVAL;
	memcpy(version, text, UUID_LEN);
	version[UUID_LEN] = '\0';
	if (uuid_parse(version, &id.version) < 0 ||
		parse_activation(text + UUID_LEN + 1, len - UUID_LEN - 1, &id.activation) < 0)
		return -EINVAL;
	memcpy(id.text, text, len);
	*ret_id = id;
	return 0;
}

void
kms_key_id_hash(const struct kms_key_id *id, char ret_text[KMS_KEY_ID_HASH_SIZE])
{
	uint8_t digest[SHA256_DIGEST_LENGTH];

	SHA256((const uint8_t *)id->text, strlen(id->text), digest);
	str_hex(digest, 8, ret_text);
	ret_text[KMS_KEY_ID_HASH_SIZE - 1] = '\0';
}
