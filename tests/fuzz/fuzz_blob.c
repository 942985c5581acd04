/* SPDX-License-Identifier: Apache-2.0 */
/* A wrapped blob, as base64 or as bytes; and a context as JSON, made canonical. */
#include "fuzz.h"

#include "kekd/blob.h"
#include "kekd/json.h"
#include "kekd/str.h"

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc, (void)argv;
	json_open();
	return 0;
}

/* What was taken apart lies in the input, and put together again is the same. */
static void
parse(const uint8_t *data, size_t size)
{
	struct blob blob;
	struct buf again = BUF_INIT(BLOB_SIZE_MAX);

	if (blob_parse(data, size, &blob) != 0)
		return;
	require(size <= BLOB_SIZE_MAX);
	require(blob.iv_len <= BLOB_IV_MAX);
	blob_put_header(&again, &blob.version, blob.algorithm, blob.iv_len);
	buf_put(&again, blob.iv, blob.iv_len);
	buf_put(&again, blob.ciphertext, blob.ciphertext_len);
	require(!again.bad && again.len == size && memcmp(again.data, data, size) == 0);
	buf_free(&again);
}

static void
decode(const uint8_t *data, size_t size)
{
	uint8_t *room = malloc(size / 4 * 3 + 1);
	struct buf again = BUF_INIT(size + 4);
	size_t len;

	require(room);
	if (str_unbase64((const char *)data, size, room, size / 4 * 3, &len) == 0) {
		str_base64(&again, room, len);
		require(!again.bad && again.len == size);
		require(size == 0 || memcmp(again.data, data, size) == 0);
		parse(room, len);
	}
	buf_free(&again);
	free(room);
}

static void
context(const uint8_t *data, size_t size)
{
	char error[JSON_ERROR_SIZE];
	json_t *value = json_parse((const char *)data, size, error);
	struct buf b = BUF_INIT(BLOB_AAD_MAX);

	if (value && blob_put_context(&b, value) == 0)
		require(!b.bad && b.len <= BLOB_AAD_MAX - BLOB_HEADER_SIZE);
	buf_free(&b);
	json_decref(value);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	parse(data, size);
	decode(data, size);
	context(data, size);
	return 0;
}
