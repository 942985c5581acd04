/* SPDX-License-Identifier: Apache-2.0 */
/* See bolt_file.h. */
#include "bolt_file.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
/* cmocka.h needs the four above it. */
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

void
bolt_file_put(uint8_t *p, uint64_t value, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		p[i] = (uint8_t)(value >> (8 * i));
}

void
bolt_file_init(struct bolt_file *f, uint32_t page_size, uint64_t pages)
{
	*f = (struct bolt_file){ .page_size = page_size, .pages = pages, .fd = -1 };
	f->data = calloc((size_t)pages, page_size);
	assert_non_null(f->data);
}

void
bolt_file_free(struct bolt_file *f)
{
	free(f->data);
	if (f->fd >= 0)
		close(f->fd);
	*f = (struct bolt_file){ .fd = -1 };
}

size_t
bolt_file_size(const struct bolt_file *f)
{
	return (size_t)f->pages * f->page_size;
}

static uint8_t *
at(const struct bolt_file *f, uint64_t page)
{
	assert_true(page < f->pages);
	return f->data + page * f->page_size;
}

void
bolt_file_page(
	struct bolt_file *f, uint64_t page, unsigned flags, unsigned count, uint32_t overflow)
{
	uint8_t *p = at(f, page);

	bolt_file_put(p, page, 8);
	bolt_file_put(p + 8, flags, 2);
	bolt_file_put(p + 10, count, 2);
	bolt_file_put(p + 12, overflow, 4);
}

static uint64_t
fnv(const uint8_t *p, size_t len)
{
	uint64_t h = 14695981039346656037u;

	for (size_t i = 0; i < len; i++) {
		h ^= p[i];
		h *= 1099511628211u;
	}
	return h;
}

void
bolt_file_meta(struct bolt_file *f, unsigned which, uint64_t root, uint64_t txid)
{
	uint8_t *m = at(f, which) + 16;

	bolt_file_page(f, which, 4, 0, 0);
	bolt_file_put(m, 0xED0CDAED, 4);
	bolt_file_put(m + 4, 2, 4);
	bolt_file_put(m + 8, f->page_size, 4);
	bolt_file_put(m + 12, 0, 4);
	bolt_file_put(m + 16, root, 8);
	bolt_file_put(m + 24, 0, 8);
	bolt_file_put(m + 32, UINT64_MAX, 8); /* no freelist, as etcd has it */
	bolt_file_put(m + 40, f->pages, 8);
	bolt_file_put(m + 48, txid, 8);
	bolt_file_put(m + 56, fnv(m, 56), 8);
}

void
bolt_file_leaf(struct bolt_file *f, uint64_t page, uint32_t overflow,
	const struct bolt_entry *entries, unsigned count)
{
	uint8_t *start = at(f, page), *data = start + 16 + 16 * (size_t)count;

	assert_true(page + overflow < f->pages);
	bolt_file_page(f, page, BOLT_FILE_LEAF, count, overflow);
	for (unsigned i = 0; i < count; i++) {
		const struct bolt_entry *e = &entries[i];
		uint8_t *entry = start + 16 + 16 * (size_t)i;
		assert_true((size_t)(data - start) + e->key_size + e->value_size <=
			    (1 + (size_t)overflow) * f->page_size);
		bolt_file_put(entry, e->flags, 4);
		bolt_file_put(entry + 4, (uint64_t)(data - entry), 4);
		bolt_file_put(entry + 8, e->key_size, 4);
		bolt_file_put(entry + 12, e->value_size, 4);
		memcpy(data, e->key, e->key_size);
		if (e->value_size > 0)
			memcpy(data + e->key_size, e->value, e->value_size);
		data += e->key_size + e->value_size;
	}
}

void
bolt_file_branch(struct bolt_file *f, uint64_t page, const uint64_t *children, unsigned count)
{
	uint8_t *start = at(f, page), *data = start + 16 + 16 * (size_t)count;

	bolt_file_page(f, page, BOLT_FILE_BRANCH, count, 0);
	for (unsigned i = 0; i < count; i++) {
		uint8_t *entry = start + 16 + 16 * (size_t)i;
		bolt_file_put(entry, (uint64_t)(data - entry), 4);
		bolt_file_put(entry + 4, 4, 4);
		bolt_file_put(entry + 8, children[i], 8);
		memcpy(data, "key", 4);
		data += 4;
	}
	assert_true((size_t)(data - start) <= f->page_size);
}

void
bolt_file_root(struct bolt_file *f, uint64_t key_page)
{
	uint8_t key[16] = { 0 }, meta[32] = { 0 };
	const struct bolt_entry buckets[] = {
		{ BOLT_FILE_BUCKET, "key", 3, key, sizeof(key) },
		{ BOLT_FILE_BUCKET, "meta", 4, meta, sizeof(meta) },
	};

	bolt_file_put(key, key_page, 8);
	bolt_file_put(meta + 16 + 8, BOLT_FILE_LEAF, 2);
	bolt_file_leaf(f, 2, 0, buckets, 2);
	bolt_file_meta(f, 0, 2, 8);
	bolt_file_meta(f, 1, 2, 7);
}

int
bolt_file_write(struct bolt_file *f, size_t len)
{
	if (f->fd < 0)
		f->fd = memfd_create("bolt", MFD_CLOEXEC);
	assert_true(f->fd >= 0);
	assert_int_equal(ftruncate(f->fd, 0), 0);
	for (size_t done = 0; done < len;) {
		ssize_t n = pwrite(f->fd, f->data + done, len - done, (off_t)done);
		assert_true(n > 0);
		done += (size_t)n;
	}
	return f->fd;
}

static void
put_big(uint8_t *p, uint64_t v)
{
	for (size_t i = 0; i < 8; i++)
		p[i] = (uint8_t)(v >> (56 - 8 * i));
}

size_t
bolt_file_revision(uint8_t ret_bytes[18], uint64_t main, uint64_t sub, int deletion)
{
	put_big(ret_bytes, main);
	ret_bytes[8] = '_';
	put_big(ret_bytes + 9, sub);
	ret_bytes[17] = 't';
	return deletion ? 18 : 17;
}

static size_t
put_varint(uint8_t *p, uint64_t v)
{
	size_t n = 0;

	for (; v > 127; v >>= 7)
		p[n++] = (uint8_t)(v | 128);
	p[n++] = (uint8_t)v;
	return n;
}

static size_t
put_bytes(uint8_t *p, unsigned field, const void *data, size_t len)
{
	size_t n = put_varint(p, field << 3 | 2);

	n += put_varint(p + n, len);
	memcpy(p + n, data, len);
	return n + len;
}

size_t
bolt_file_key_value(uint8_t *ret_bytes, size_t room, const char *key, uint64_t revision,
	const void *value, size_t value_size)
{
	size_t n;

	assert_true(strlen(key) + value_size + 64 <= room);
	n = put_bytes(ret_bytes, 1, key, strlen(key));
	n += put_varint(ret_bytes + n, 2 << 3);
	n += put_varint(ret_bytes + n, revision);
	n += put_varint(ret_bytes + n, 3 << 3);
	n += put_varint(ret_bytes + n, revision);
	n += put_varint(ret_bytes + n, 4 << 3);
	n += put_varint(ret_bytes + n, 1);
	if (value)
		n += put_bytes(ret_bytes + n, 5, value, value_size);
	return n;
}
