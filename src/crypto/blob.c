/* SPDX-License-Identifier: Apache-2.0 */
/* The wrapped blob's bytes and the context's canonical form. Encrypts nothing. */
#include "kekd/blob.h"

#include "kekd/err.h"

#include <stdlib.h>
#include <string.h>

static const uint8_t magic[4] = { 'k', 'e', 'k', 1 };

int
blob_parse(const void *data, size_t len, struct blob *ret_blob)
{
	struct reader r = READER(data, len);
	struct blob blob = { .header = data };
	const uint8_t *head = reader_take(&r, sizeof(magic));
	const uint8_t *version = reader_take(&r, sizeof(blob.version.b));

	blob.algorithm = reader_u8(&r);
	blob.iv_len = reader_u8(&r);
	blob.iv = reader_take(&r, blob.iv_len);
	blob.ciphertext_len = reader_left(&r);
	blob.ciphertext = reader_take(&r, blob.ciphertext_len);
	if (r.bad || memcmp(head, magic, sizeof(magic)) != 0)
		return KEKD_EUNWRAP;
	if (blob.algorithm != BLOB_AES256_GCM || (blob.iv_len != 12 && blob.iv_len != 16))
		return KEKD_EUNWRAP;
	if (blob.ciphertext_len <= BLOB_TAG_SIZE ||
		blob.ciphertext_len > BLOB_PLAINTEXT_MAX + BLOB_TAG_SIZE)
		return KEKD_EUNWRAP;
	memcpy(blob.version.b, version, sizeof(blob.version.b));
	*ret_blob = blob;
	return 0;
}

void
blob_put_header(
	struct buf *b, const struct uuid *version, enum blob_algorithm algorithm, uint8_t iv_len)
{
	buf_put(b, magic, sizeof(magic));
	buf_put(b, version->b, sizeof(version->b));
	buf_u8(b, (uint8_t)algorithm);
	buf_u8(b, iv_len);
}

struct pair {
	const char *key;
	size_t key_len;
	const json_t *value;
};

/* As memcmp does, the shorter of two that begin alike first. */
static int
compare_pairs(const void *a, const void *b)
{
	const struct pair *x = a, *y = b;
	size_t common = x->key_len < y->key_len ? x->key_len : y->key_len;
	int order = memcmp(x->key, y->key, common);

	return order ? order : (x->key_len > y->key_len) - (x->key_len < y->key_len);
}

/* Fills pairs, in no order; their number, or KEKD_ECONTEXT. */
static int
collect_pairs(json_t *context, struct pair pairs[BLOB_CONTEXT_PAIRS_MAX])
{
	size_t size = 0;
	int n = 0;

	if (!json_is_object(context) || json_object_size(context) > BLOB_CONTEXT_PAIRS_MAX)
		return KEKD_ECONTEXT;
	for (void *it = json_object_iter(context); it; it = json_object_iter_next(context, it)) {
		struct pair p = { json_object_iter_key(it), json_object_iter_key_len(it),
			json_object_iter_value(it) };
		if (p.key_len == 0 || !json_is_string(p.value))
			return KEKD_ECONTEXT;
		size += p.key_len + json_string_length(p.value);
		pairs[n++] = p;
	}
	return size > BLOB_CONTEXT_SIZE_MAX ? KEKD_ECONTEXT : n;
}

int
blob_put_context(struct buf *b, const json_t *context)
{
	struct pair pairs[BLOB_CONTEXT_PAIRS_MAX];
	int n;

	if (!context)
		return 0;
	/* jansson's iterator takes no const, but changes nothing. */
	n = collect_pairs((json_t *)context, pairs);
	if (n < 0)
		return n;
	qsort(pairs, (size_t)n, sizeof(pairs[0]), compare_pairs);
	for (int i = 0; i < n; i++) {
		buf_block(b, pairs[i].key, pairs[i].key_len);
		buf_block(b, json_string_value(pairs[i].value), json_string_length(pairs[i].value));
	}
	return 0;
}
