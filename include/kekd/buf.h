/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bytes on their way in and out. struct buf grows up to a limit that its owner sets; a write past
 * it, or without memory, sets `bad` and later writes do nothing: check once at the end. struct
 * reader walks over foreign bytes with the same rule. Integers are big-endian. Not thread-safe.
 * Memory is wiped when freed or moved.
 */
#ifndef KEKD_BUF_H
#define KEKD_BUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buf {
	uint8_t *data;
	size_t len, cap, limit;
	bool bad;
};

#define BUF_INIT(max) ((struct buf){ .limit = (max) })

void buf_free(struct buf *b);  /* wipes; b is as after BUF_INIT with the old limit */
void buf_reset(struct buf *b); /* wipes what is there, keeps the memory, clears bad */
void buf_put(struct buf *b, const void *data, size_t len);
void buf_u8(struct buf *b, uint8_t v);
void buf_u16(struct buf *b, uint16_t v);
void buf_u32(struct buf *b, uint32_t v);
void buf_u64(struct buf *b, uint64_t v);
void buf_block(struct buf *b, const void *data, size_t len); /* u32 length, then the bytes */
void buf_str(struct buf *b, const char *s);		     /* the characters, no length, no NUL */
void buf_printf(struct buf *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* s as a JSON string with its quotes (RFC 8259 section 7). A byte that belongs to no UTF-8
 * character becomes U+FFFD: s may come from a client, or be cut off. */
void buf_json_str(struct buf *b, const char *s);

struct reader {
	const uint8_t *p, *end;
	bool bad;
};

#define READER(data, len) \
	((struct reader){ (const uint8_t *)(data), (const uint8_t *)(data) + (len), false })

uint8_t reader_u8(struct reader *r);
uint16_t reader_u16(struct reader *r);
uint32_t reader_u32(struct reader *r);
uint64_t reader_u64(struct reader *r);
/* A pointer into the input, or NULL with bad set when fewer than len bytes are left. */
const uint8_t *reader_take(struct reader *r, size_t len);
/* u32 length, then bytes; *ret_len is 0 and the result NULL when bad or longer than max. */
const uint8_t *reader_block(struct reader *r, size_t max, size_t *ret_len);
size_t reader_left(const struct reader *r);

#endif
