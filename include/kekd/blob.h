/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The wrapped blob, format 1, and the canonical context (doc/formats/). Pure functions.
 *
 *   0  4  6b 65 6b 01        20  1  algorithm      22    n  IV
 *   4 16  version UUID       21  1  IV length n    22+n  …  ciphertext, then the 16-byte tag
 *
 * AAD = the first 22 bytes, then the canonical context.
 */
#ifndef KEKD_BLOB_H
#define KEKD_BLOB_H

#include "kekd/buf.h"
#include "kekd/uuid.h"

#include <jansson.h>

#define BLOB_HEADER_SIZE 22
#define BLOB_TAG_SIZE 16
#define BLOB_IV_MAX 16
#define BLOB_PLAINTEXT_MAX 4096
#define BLOB_SIZE_MAX (BLOB_HEADER_SIZE + BLOB_IV_MAX + BLOB_PLAINTEXT_MAX + BLOB_TAG_SIZE)
#define BLOB_CONTEXT_PAIRS_MAX 16
#define BLOB_CONTEXT_SIZE_MAX 4096 /* keys and values together */
#define BLOB_AAD_MAX (BLOB_HEADER_SIZE + BLOB_CONTEXT_SIZE_MAX + 8 * BLOB_CONTEXT_PAIRS_MAX)

enum blob_algorithm { BLOB_AES256_GCM = 1 };

struct blob {
	struct uuid version;
	enum blob_algorithm algorithm;
	uint8_t iv_len;
	const uint8_t *header;	   /* BLOB_HEADER_SIZE bytes, borrowed */
	const uint8_t *iv;	   /* borrowed */
	const uint8_t *ciphertext; /* borrowed, with the tag */
	size_t ciphertext_len;	   /* 17 to 4112 */
};

/* 0, or KEKD_EUNWRAP for anything that is not a whole blob of format 1. */
int blob_parse(const void *data, size_t len, struct blob *ret_blob);
void blob_put_header(
	struct buf *b, const struct uuid *version, enum blob_algorithm algorithm, uint8_t iv_len);

/* Appends the canonical form of a context: an object of strings, sorted bytewise by key; each key
 * and value as a 4-byte big-endian length and its bytes. NULL is the empty context. 0 or
 * KEKD_ECONTEXT (not strings, more than 16 pairs, more than 4 KiB, an empty key). */
int blob_put_context(struct buf *b, const json_t *context);

#endif
