/* SPDX-License-Identifier: Apache-2.0 */
/* Keys, values and numbers as etcd's JSON has them. */
#include "etcd_client.h"

#include "kekd/str.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEY_MAX 2048

json_t *
etcd_base64(const void *data, size_t len)
{
	struct buf text = BUF_INIT(STR_BASE64_SIZE(len) + 1);
	json_t *value;

	str_base64(&text, data, len);
	value = text.bad ? NULL : json_stringn(len ? (const char *)text.data : "", text.len);
	buf_free(&text);
	return value;
}

json_t *
etcd_number(uint64_t n)
{
	return json_sprintf("%llu", (unsigned long long)n);
}

/* The key's bytes, with room for one behind them. 0: too long. */
static size_t
key_of(const struct etcd *e, const char *path, char ret_key[KEY_MAX])
{
	int n = snprintf(ret_key, KEY_MAX, "%s%s", e->prefix, path);

	return n > 0 && n < KEY_MAX - 1 ? (size_t)n : 0;
}

json_t *
etcd_key(const struct etcd *e, const char *path)
{
	char key[KEY_MAX];
	size_t len = key_of(e, path, key);

	return len ? etcd_base64(key, len) : NULL;
}

json_t *
etcd_key_end(const struct etcd *e, const char *path)
{
	char key[KEY_MAX];
	size_t len = key_of(e, path, key);

	if (!len)
		return NULL;
	key[len - 1]++; /* ASCII: it does not run over */
	return etcd_base64(key, len);
}

json_t *
etcd_key_next(const struct etcd *e, const char *path)
{
	char key[KEY_MAX];
	size_t len = key_of(e, path, key);

	return len ? etcd_base64(key, len + 1) : NULL; /* with its NUL */
}

char *
etcd_bytes(const json_t *value, size_t *ret_len)
{
	const char *text = json_string_value(value);
	size_t size = text ? json_string_length(value) / 4 * 3 : 0, len = 0;
	char *bytes = malloc(size + 1);

	if (bytes && text &&
		str_unbase64(text, json_string_length(value), bytes, size, &len) != 0) {
		free(bytes);
		return NULL;
	}
	if (!bytes)
		return NULL;
	bytes[len] = '\0';
	if (ret_len)
		*ret_len = len;
	return bytes;
}

char *
etcd_path(const struct etcd *e, const json_t *key)
{
	size_t len, prefix = strlen(e->prefix);
	char *bytes = etcd_bytes(key, &len);

	if (bytes && len > prefix && strlen(bytes) == len &&
		memcmp(bytes, e->prefix, prefix) == 0) {
		memmove(bytes, bytes + prefix, len - prefix + 1);
		return bytes;
	}
	free(bytes);
	return NULL;
}

uint64_t
etcd_u64(const json_t *object, const char *name)
{
	const json_t *value = json_object_get(object, name);

	if (json_is_integer(value))
		return (uint64_t)json_integer_value(value);
	return json_is_string(value) ? strtoull(json_string_value(value), NULL, 10) : 0;
}
