/* SPDX-License-Identifier: Apache-2.0 */
/* Bounded buffers and readers for all wire data. */
#include "kekd/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void
buf_free(struct buf *b)
{
	if (b->data)
		explicit_bzero(b->data, b->cap);
	free(b->data);
	*b = BUF_INIT(b->limit);
}

void
buf_reset(struct buf *b)
{
	if (b->data)
		explicit_bzero(b->data, b->len);
	b->len = 0;
	b->bad = false;
}

/* Room for len more bytes. Moves by hand rather than by realloc, which would leave a copy behind.
 */
static bool
reserve(struct buf *b, size_t len)
{
	size_t cap = b->cap ? b->cap : 256;
	uint8_t *data;

	if (b->bad || len > b->limit || b->len > b->limit - len) {
		b->bad = true;
		return false;
	}
	if (b->len + len <= b->cap)
		return true;
	while (cap < b->len + len)
		cap *= 2;
	data = malloc(cap);
	if (!data) {
		b->bad = true;
		return false;
	}
	if (b->data) {
		memcpy(data, b->data, b->len);
		explicit_bzero(b->data, b->cap);
		free(b->data);
	}
	b->data = data;
	b->cap = cap;
	return true;
}

void
buf_put(struct buf *b, const void *data, size_t len)
{
	if (len == 0 || !reserve(b, len))
		return;
	memcpy(b->data + b->len, data, len);
	b->len += len;
}

static void
put_be(struct buf *b, uint64_t v, size_t bytes)
{
	uint8_t raw[8];

	for (size_t i = 0; i < bytes; i++)
		raw[i] = (uint8_t)(v >> (8 * (bytes - 1 - i)));
	buf_put(b, raw, bytes);
}

void
buf_u8(struct buf *b, uint8_t v)
{
	put_be(b, v, 1);
}

void
buf_u16(struct buf *b, uint16_t v)
{
	put_be(b, v, 2);
}

void
buf_u32(struct buf *b, uint32_t v)
{
	put_be(b, v, 4);
}

void
buf_u64(struct buf *b, uint64_t v)
{
	put_be(b, v, 8);
}

void
buf_block(struct buf *b, const void *data, size_t len)
{
	if (len > UINT32_MAX) {
		b->bad = true;
		return;
	}
	buf_u32(b, (uint32_t)len);
	buf_put(b, data, len);
}

void
buf_str(struct buf *b, const char *s)
{
	buf_put(b, s, strlen(s));
}

void
buf_printf(struct buf *b, const char *format, ...)
{
	va_list ap;
	int n;

	va_start(ap, format);
	n = vsnprintf(NULL, 0, format, ap);
	va_end(ap);
	if (n < 0 || !reserve(b, (size_t)n + 1)) {
		b->bad = true;
		return;
	}
	va_start(ap, format);
	vsnprintf((char *)b->data + b->len, (size_t)n + 1, format, ap);
	va_end(ap);
	b->len += (size_t)n;
}

/* The length of the UTF-8 character at p (RFC 3629 section 4), or 0. A NUL ends what can follow. */
static size_t
utf8_length(const unsigned char *p)
{
	static const struct {
		unsigned char first, last, second_low, second_high, length;
	} forms[] = {
		{ 0x00, 0x7f, 0, 0, 1 },
		{ 0xc2, 0xdf, 0x80, 0xbf, 2 },
		{ 0xe0, 0xe0, 0xa0, 0xbf, 3 },
		{ 0xe1, 0xec, 0x80, 0xbf, 3 },
		{ 0xed, 0xed, 0x80, 0x9f, 3 },
		{ 0xee, 0xef, 0x80, 0xbf, 3 },
		{ 0xf0, 0xf0, 0x90, 0xbf, 4 },
		{ 0xf1, 0xf3, 0x80, 0xbf, 4 },
		{ 0xf4, 0xf4, 0x80, 0x8f, 4 },
	};

	for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
		if (p[0] < forms[i].first || p[0] > forms[i].last)
			continue;
		if (forms[i].length > 1 &&
			(p[1] < forms[i].second_low || p[1] > forms[i].second_high))
			return 0;
		for (size_t k = 2; k < forms[i].length; k++)
			if ((p[k] & 0xc0) != 0x80)
				return 0;
		return forms[i].length;
	}
	return 0;
}

static void
put_escaped(struct buf *b, unsigned char c)
{
	if (c >= 0x80)
		buf_str(b, "\xef\xbf\xbd");
	else if (c < 0x20)
		buf_printf(b, "\\u%04x", (unsigned)c);
	else
		buf_printf(b, "\\%c", c);
}

void
buf_json_str(struct buf *b, const char *s)
{
	const char *from = s;

	buf_u8(b, '"');
	while (*s) {
		size_t n = utf8_length((const unsigned char *)s);
		unsigned char c = (unsigned char)*s;
		if (n > 1 || (n == 1 && c >= 0x20 && c != '"' && c != '\\')) {
			s += n;
			continue;
		}
		buf_put(b, from, (size_t)(s - from));
		put_escaped(b, c);
		from = ++s;
	}
	buf_put(b, from, (size_t)(s - from));
	buf_u8(b, '"');
}

const uint8_t *
reader_take(struct reader *r, size_t len)
{
	const uint8_t *p = r->p;

	if (r->bad || len > (size_t)(r->end - r->p)) {
		r->bad = true;
		return NULL;
	}
	r->p += len;
	return p;
}

static uint64_t
take_be(struct reader *r, size_t bytes)
{
	const uint8_t *p = reader_take(r, bytes);
	uint64_t v = 0;

	for (size_t i = 0; p && i < bytes; i++)
		v = v << 8 | p[i];
	return v;
}

uint8_t
reader_u8(struct reader *r)
{
	return (uint8_t)take_be(r, 1);
}

uint16_t
reader_u16(struct reader *r)
{
	return (uint16_t)take_be(r, 2);
}

uint32_t
reader_u32(struct reader *r)
{
	return (uint32_t)take_be(r, 4);
}

uint64_t
reader_u64(struct reader *r)
{
	return take_be(r, 8);
}

const uint8_t *
reader_block(struct reader *r, size_t max, size_t *ret_len)
{
	size_t len = reader_u32(r);
	const uint8_t *p = NULL;

	if (len > max)
		r->bad = true;
	else
		p = reader_take(r, len);
	*ret_len = p ? len : 0;
	return p;
}

size_t
reader_left(const struct reader *r)
{
	return r->bad ? 0 : (size_t)(r->end - r->p);
}
