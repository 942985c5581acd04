/* SPDX-License-Identifier: Apache-2.0 */
/* The file with the last accepted commit. */
#include "accepted.h"

#include "kekd/buf.h"
#include "kekd/err.h"
#include "kekd/file.h"

#include <errno.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <string.h>

#define FILE_NAME "accepted"
#define FILE_SIZE_MAX 4096

static const char accepted_domain[] = "kekd-accepted-1"; /* with its NUL */

static json_t *
to_json(const struct accepted *a)
{
	char state[2 * SEAL_SIZE + 1] = "", key[UUID_TEXT_SIZE];

	str_hex(a->state, SEAL_SIZE, state);
	uuid_format(&a->key, key);
	return json_pack("{s:s,s:s,s:I,s:s,s:s}", "cluster", a->cluster, "generation",
		a->generation, "number", (json_int_t)a->number, "state", state, "key", key);
}

int
accepted_digest(const struct accepted *a, uint8_t ret_digest[SEAL_SIZE])
{
	struct buf b = BUF_INIT(FILE_SIZE_MAX);
	json_t *value = to_json(a);
	size_t len = 0;
	char *text = value ? json_canonical(value, &len) : NULL;
	int err = -ENOMEM;

	buf_put(&b, accepted_domain, sizeof(accepted_domain));
	if (text)
		buf_block(&b, text, len);
	if (text && !b.bad) {
		SHA256(b.data, b.len, ret_digest);
		err = 0;
	}
	buf_free(&b);
	json_text_free(text);
	json_decref(value);
	return err;
}

static char *
to_text(const struct accepted *a, size_t *ret_len)
{
	char seal[2 * SEAL_SIZE + 1] = "";
	json_t *value = to_json(a);
	char *text = NULL;

	str_hex(a->seal, SEAL_SIZE, seal);
	if (value && json_object_set_new(value, "seal", json_string(seal)) == 0)
		text = json_canonical(value, ret_len);
	json_decref(value);
	return text;
}

int
accepted_write(const char *dir, const struct accepted *a)
{
	size_t len = 0;
	char *text = to_text(a, &len);
	int err = text ? file_replace(dir, FILE_NAME, text, len) : -ENOMEM;

	json_text_free(text);
	return err;
}

static int
from_json(const json_t *value, struct accepted *a)
{
	char error[JSON_ERROR_SIZE];
	const char *cluster = NULL, *generation = NULL, *state = NULL, *key = NULL, *seal = NULL;
	struct uuid ignored;
	int64_t number = 0;
	const struct json_member members[] = {
		{ "cluster", JSON_KIND_STRING, true, &cluster },
		{ "generation", JSON_KIND_STRING, true, &generation },
		{ "number", JSON_KIND_INTEGER, true, &number },
		{ "state", JSON_KIND_STRING, true, &state },
		{ "key", JSON_KIND_STRING, true, &key },
		{ "seal", JSON_KIND_STRING, true, &seal },
	};

	if (json_take(value, members, STR_COUNT(members), error) < 0 || !str_is_name(cluster) ||
		uuid_parse(generation, &ignored) < 0 || str_unhex(state, a->state, SEAL_SIZE) < 0 ||
		uuid_parse(key, &a->key) < 0 || str_unhex(seal, a->seal, SEAL_SIZE) < 0)
		return KEKD_ERECORD;
	strcpy(a->cluster, cluster);
	strcpy(a->generation, generation);
	a->number = (uint64_t)number;
	return 0;
}

int
accepted_read(const char *dir, struct accepted *ret_accepted)
{
	char text[FILE_SIZE_MAX], error[JSON_ERROR_SIZE];
	struct accepted a = { 0 };
	ssize_t n = file_read(dir, FILE_NAME, text, sizeof(text));
	json_t *value;
	int err;

	if (n < 0)
		return (int)n;
	value = json_parse(text, (size_t)n, error);
	err = value ? from_json(value, &a) : KEKD_ERECORD;
	json_decref(value);
	if (err == 0)
		*ret_accepted = a;
	return err;
}
