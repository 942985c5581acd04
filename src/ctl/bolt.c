/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pages of bbolt: two meta pages, of which the newer valid one counts, and the trees of buckets.
 * Each page is looked at once per walk at most: pages that are reached twice would be a circle, or
 * work without end. Not here: what etcd keeps in it.
 */
#include "bolt.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAGIC 0xED0CDAEDu
#define MAGIC_SWAPPED 0xEDDA0CEDu
#define FORMAT 2
#define PAGE_HEADER 16
#define ELEMENT 16
#define BUCKET_HEADER 16
#define META_SIZE 64
#define META_SUMMED 56 /* what its checksum is over */
#define PAGE_BRANCH 0x01
#define PAGE_LEAF 0x02
#define PAGE_META 0x04
#define LEAF_BUCKET 0x01
#define KEY_MAX 32768
#define DEPTH_MAX 64
#define WINDOW 65536

/* What was read last: pages are read entry by entry. */
struct window {
	uint64_t at;
	size_t len;
	uint8_t data[WINDOW];
};

struct meta {
	uint32_t page_size;
	uint64_t root, pages, txid;
};

struct bolt {
	int fd;
	uint64_t size, visited;
	struct meta meta;
	struct window structure, content;
	char error[BOLT_ERROR_SIZE];
};

struct page {
	uint64_t offset, end;
	uint64_t next; /* where the next entry's key stands */
	unsigned flags, count;
};

struct leaf {
	unsigned flags;
	struct bolt_slice key, value;
};

/* ---- bytes ---- */

static uint64_t
little(const uint8_t *p, size_t n)
{
	uint64_t v = 0;

	while (n-- > 0)
		v = v << 8 | p[n];
	return v;
}

int
bolt_fail(struct bolt *b, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(b->error, sizeof(b->error), format, args);
	va_end(args);
	return -EBADMSG;
}

const char *
bolt_error(const struct bolt *b)
{
	return b->error;
}

static int
read_all(struct bolt *b, uint64_t offset, uint8_t *data, size_t len)
{
	while (len > 0) {
		ssize_t n = pread(b->fd, data, len, (off_t)offset);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			int err = errno;
			bolt_fail(b, "cannot read at byte %llu: %s", (unsigned long long)offset,
				strerror(err));
			return -err;
		}
		if (n == 0)
			return bolt_fail(b, "it became shorter while it was read");
		data += n;
		offset += (size_t)n;
		len -= (size_t)n;
	}
	return 0;
}

static int
fill(struct bolt *b, struct window *w, uint64_t offset)
{
	uint64_t left = b->size - offset;
	size_t len = left < WINDOW ? (size_t)left : WINDOW;
	int err = read_all(b, offset, w->data, len);

	w->at = offset;
	w->len = err == 0 ? len : 0;
	return err;
}

static int
get(struct bolt *b, struct window *w, uint64_t offset, void *ret_data, size_t len)
{
	int err;

	if (offset > b->size || len > b->size - offset)
		return bolt_fail(b, "something is said to be at byte %llu, behind its end",
			(unsigned long long)offset);
	if (len > WINDOW)
		return read_all(b, offset, ret_data, len);
	if (offset < w->at || offset + len > w->at + w->len) {
		err = fill(b, w, offset);
		if (err != 0)
			return err;
	}
	memcpy(ret_data, w->data + (offset - w->at), len);
	return 0;
}

int
bolt_read(struct bolt *b, struct bolt_slice s, uint64_t at, void *ret_data, size_t len)
{
	if (at > s.size || len > s.size - at)
		return bolt_fail(
			b, "an entry at byte %llu ends too early", (unsigned long long)s.offset);
	return get(b, &b->content, s.offset + at, ret_data, len);
}

/* ---- meta pages ---- */

/* FNV-64a, as Go's hash/fnv has it. */
static uint64_t
checksum(const uint8_t *p, size_t len)
{
	uint64_t h = 0xcbf29ce484222325u;

	while (len-- > 0)
		h = (h ^ *p++) * 0x100000001b3u;
	return h;
}

static bool
is_page_size(uint32_t n)
{
	return n >= BOLT_PAGE_MIN && n <= BOLT_PAGE_MAX && (n & (n - 1)) == 0;
}

/* 0, or why it is none: -EMEDIUMTYPE when it was never one. */
static int
parse_meta(const uint8_t page[PAGE_HEADER + META_SIZE], struct meta *ret_meta)
{
	const uint8_t *p = page + PAGE_HEADER;

	if (little(p, 4) != MAGIC)
		return -EMEDIUMTYPE;
	if (little(p + 4, 4) != FORMAT || !(little(page + 8, 2) & PAGE_META) ||
		little(p + 56, 8) != checksum(p, META_SUMMED))
		return -EBADMSG;
	*ret_meta = (struct meta){ .page_size = (uint32_t)little(p + 8, 4),
		.root = little(p + 16, 8),
		.pages = little(p + 40, 8),
		.txid = little(p + 48, 8) };
	return is_page_size(ret_meta->page_size) ? 0 : -EBADMSG;
}

static int
read_meta(struct bolt *b, uint64_t offset, struct meta *ret_meta)
{
	uint8_t page[PAGE_HEADER + META_SIZE];

	if (b->size < sizeof(page) || offset > b->size - sizeof(page))
		return -EMEDIUMTYPE;
	b->structure.len = 0; /* as it is now: etcd may write to the file */
	if (get(b, &b->structure, offset, page, sizeof(page)) != 0)
		return -EIO;
	return parse_meta(page, ret_meta);
}

/* The second meta page is a page's size behind the first, which alone says what that is. */
static int
find_second(struct bolt *b, struct meta *ret_meta)
{
	int worst = -EMEDIUMTYPE;

	for (uint32_t size = BOLT_PAGE_MIN; size <= BOLT_PAGE_MAX; size *= 2) {
		int err = read_meta(b, size, ret_meta);
		if (err == 0 && ret_meta->page_size == size)
			return 0;
		if (err != -EMEDIUMTYPE)
			worst = -EBADMSG;
	}
	return worst;
}

static int
no_meta(struct bolt *b, int first, int second)
{
	uint8_t magic[4] = { 0 };

	if (first == -EIO || second == -EIO)
		return -EIO;
	if (b->size > 20 && get(b, &b->structure, PAGE_HEADER, magic, sizeof(magic)) == 0 &&
		little(magic, 4) == MAGIC_SWAPPED)
		return bolt_fail(b, "it was written on a big-endian machine, which is not read");
	if (first == -EMEDIUMTYPE && second == -EMEDIUMTYPE) {
		bolt_fail(b, "it is no database of etcd");
		return -EMEDIUMTYPE;
	}
	return bolt_fail(
		b, "both of its meta pages are damaged, or of a version that is not known");
}

static int
choose_meta(struct bolt *b, struct meta *ret_meta)
{
	struct meta first, second;
	int a = read_meta(b, 0, &first), z;

	z = a == 0 ? read_meta(b, first.page_size, &second) : find_second(b, &second);
	if (a == 0 && z == 0 && second.page_size != first.page_size)
		z = -EBADMSG;
	if (a != 0 && z != 0)
		return no_meta(b, a, z);
	*ret_meta = z != 0 || (a == 0 && first.txid > second.txid) ? first : second;
	return 0;
}

static int
check_meta(struct bolt *b)
{
	uint64_t most = b->size / b->meta.page_size;

	if (b->meta.pages > most)
		return bolt_fail(b, "it is cut off: %llu bytes are there, of %llu pages of %u",
			(unsigned long long)b->size, (unsigned long long)b->meta.pages,
			b->meta.page_size);
	if (b->meta.root < 2 || b->meta.root >= b->meta.pages)
		return bolt_fail(b, "its root page is said to be %llu, which is none",
			(unsigned long long)b->meta.root);
	return 0;
}

int
bolt_open(int fd, uint64_t size, struct bolt **ret_bolt, char ret_error[static BOLT_ERROR_SIZE])
{
	struct bolt *b = calloc(1, sizeof(*b));
	int err;

	if (!b) {
		snprintf(ret_error, BOLT_ERROR_SIZE, "out of memory");
		return -ENOMEM;
	}
	b->fd = fd;
	b->size = size;
	err = choose_meta(b, &b->meta);
	if (err == 0)
		err = check_meta(b);
	if (err == 0) {
		*ret_bolt = b;
		return 0;
	}
	memcpy(ret_error, b->error, BOLT_ERROR_SIZE);
	free(b);
	return err;
}

void
bolt_freep(struct bolt **b)
{
	free(*b);
	*b = NULL;
}

uint64_t
bolt_used(const struct bolt *b)
{
	return b->meta.pages * b->meta.page_size;
}

uint64_t
bolt_visited(const struct bolt *b)
{
	return b->visited * b->meta.page_size;
}

int
bolt_check_unchanged(struct bolt *b)
{
	struct meta now;
	int err = choose_meta(b, &now);

	if (err != 0)
		return err;
	return now.txid == b->meta.txid ? 0 : bolt_fail(b, "etcd wrote to it while it was read");
}

/* ---- pages ---- */

static int
take_page(struct bolt *b, const uint8_t header[PAGE_HEADER], struct page *p)
{
	p->flags = (unsigned)little(header + 8, 2);
	p->count = (unsigned)little(header + 10, 2);
	if (p->flags != PAGE_BRANCH && p->flags != PAGE_LEAF)
		return bolt_fail(b, "the page at byte %llu is neither branch nor leaf",
			(unsigned long long)p->offset);
	if (PAGE_HEADER + (uint64_t)p->count * ELEMENT > p->end - p->offset)
		return bolt_fail(b, "the page at byte %llu has more entries than room",
			(unsigned long long)p->offset);
	p->next = p->offset + PAGE_HEADER + (uint64_t)p->count * ELEMENT;
	return 0;
}

static int
read_page(struct bolt *b, uint64_t number, struct page *ret_page)
{
	uint8_t header[PAGE_HEADER];
	struct page p = { .offset = number * b->meta.page_size };
	uint64_t more;
	int err;

	if (number < 2 || number >= b->meta.pages)
		return bolt_fail(b, "it refers to page %llu, and has %llu",
			(unsigned long long)number, (unsigned long long)b->meta.pages);
	err = get(b, &b->structure, p.offset, header, sizeof(header));
	if (err != 0)
		return err;
	more = little(header + 12, 4);
	if (little(header, 8) != number)
		return bolt_fail(b, "page %llu says that it is page %llu",
			(unsigned long long)number, (unsigned long long)little(header, 8));
	if (more >= b->meta.pages - number)
		return bolt_fail(
			b, "page %llu reaches behind the last one", (unsigned long long)number);
	b->visited += 1 + more;
	if (b->visited > b->meta.pages)
		return bolt_fail(b, "its pages refer to each other in a circle");
	p.end = p.offset + (1 + more) * b->meta.page_size;
	err = take_page(b, header, &p);
	if (err == 0)
		*ret_page = p;
	return err;
}

/* bbolt writes keys and values one behind the other, the first behind all entries: a count, a
 * position or a length that is not its own shows, though it stays within the page. `at` counts from
 * the entry. */
static bool
is_next(struct page *p, uint64_t entry, uint64_t at, uint64_t size)
{
	if (entry + at != p->next || size > p->end - p->next)
		return false;
	p->next += size;
	return true;
}

static int
bad_entry(struct bolt *b, const struct page *p, unsigned i)
{
	return bolt_fail(b, "entry %u of the page at byte %llu is not where it belongs", i,
		(unsigned long long)p->offset);
}

static int
read_leaf(struct bolt *b, struct page *p, unsigned i, struct leaf *ret_leaf)
{
	uint64_t entry = p->offset + PAGE_HEADER + (uint64_t)i * ELEMENT, at, key, value;
	uint8_t e[ELEMENT];
	int err = get(b, &b->structure, entry, e, sizeof(e));

	if (err != 0)
		return err;
	at = little(e + 4, 4);
	key = little(e + 8, 4);
	value = little(e + 12, 4);
	if (key > KEY_MAX || !is_next(p, entry, at, key + value))
		return bad_entry(b, p, i);
	*ret_leaf = (struct leaf){ (unsigned)little(e, 4), { entry + at, key },
		{ entry + at + key, value } };
	return 0;
}

static int
read_branch(struct bolt *b, struct page *p, unsigned i, uint64_t *ret_page)
{
	uint64_t entry = p->offset + PAGE_HEADER + (uint64_t)i * ELEMENT;
	uint8_t e[ELEMENT];
	int err = get(b, &b->structure, entry, e, sizeof(e));

	if (err != 0)
		return err;
	if (!is_next(p, entry, little(e, 4), little(e + 4, 4)))
		return bad_entry(b, p, i);
	*ret_page = little(e + 8, 8);
	return 0;
}

/* ---- trees ---- */

typedef int leaf_fn(void *user, const struct leaf *leaf);

static int
walk_leaves(struct bolt *b, struct page *p, leaf_fn *fn, void *user)
{
	struct leaf leaf;
	int err = 0;

	for (unsigned i = 0; err == 0 && i < p->count; i++) {
		err = read_leaf(b, p, i, &leaf);
		if (err == 0)
			err = fn(user, &leaf);
	}
	return err;
}

static int
walk(struct bolt *b, uint64_t number, unsigned depth, leaf_fn *fn, void *user)
{
	struct page p;
	uint64_t child = 0;
	int err = read_page(b, number, &p);

	if (err == 0 && depth == DEPTH_MAX)
		return bolt_fail(b, "its pages are nested too deeply");
	if (err == 0 && p.flags == PAGE_LEAF)
		return walk_leaves(b, &p, fn, user);
	if (err == 0 && p.count == 0)
		return bolt_fail(b, "page %llu leads nowhere", (unsigned long long)number);
	for (unsigned i = 0; err == 0 && i < p.count; i++) {
		err = read_branch(b, &p, i, &child);
		if (err == 0)
			err = walk(b, child, depth + 1, fn, user);
	}
	return err;
}

static int
walk_inline(struct bolt *b, struct bolt_slice s, leaf_fn *fn, void *user)
{
	struct page p = { .offset = s.offset, .end = s.offset + s.size };
	uint8_t header[PAGE_HEADER];
	int err = bolt_read(b, s, 0, header, sizeof(header));

	if (err == 0)
		err = take_page(b, header, &p);
	if (err == 0 && p.flags != PAGE_LEAF)
		return bolt_fail(b, "a bucket inside a page is no leaf");
	return err == 0 ? walk_leaves(b, &p, fn, user) : err;
}

struct each {
	struct bolt *bolt;
	bolt_each_fn *fn;
	void *user;
};

static int
each_leaf(void *user, const struct leaf *leaf)
{
	const struct each *e = user;

	if (leaf->flags != 0)
		return bolt_fail(e->bolt, "the entry at byte %llu is no value",
			(unsigned long long)leaf->key.offset);
	return e->fn(e->user, leaf->key, leaf->value);
}

int
bolt_each(struct bolt *b, const struct bolt_bucket *bucket, bolt_each_fn *fn, void *user)
{
	struct each e = { b, fn, user };

	b->visited = 0;
	if (bucket->root == 0)
		return walk_inline(b, bucket->inline_, each_leaf, &e);
	return walk(b, bucket->root, 0, each_leaf, &e);
}

/* ---- buckets ---- */

struct find {
	struct bolt *bolt;
	const char *name;
	struct bolt_slice value;
	bool found;
};

static int
find_leaf(void *user, const struct leaf *leaf)
{
	struct find *f = user;
	size_t len = strlen(f->name);
	char name[64];
	int err;

	if (!(leaf->flags & LEAF_BUCKET) || leaf->key.size != len || len > sizeof(name))
		return 0;
	err = bolt_read(f->bolt, leaf->key, 0, name, len);
	if (err == 0 && memcmp(name, f->name, len) == 0) {
		f->value = leaf->value;
		f->found = true;
	}
	return err;
}

int
bolt_find(struct bolt *b, const char *name, struct bolt_bucket *ret_bucket)
{
	struct find f = { .bolt = b, .name = name };
	uint8_t head[BUCKET_HEADER];
	int err;

	b->visited = 0;
	err = walk(b, b->meta.root, 0, find_leaf, &f);
	if (err == 0 && !f.found)
		return -ENOENT;
	if (err == 0)
		err = bolt_read(b, f.value, 0, head, sizeof(head));
	if (err != 0)
		return err;
	*ret_bucket = (struct bolt_bucket){ .root = little(head, 8),
		.inline_ = { f.value.offset + BUCKET_HEADER, f.value.size - BUCKET_HEADER } };
	return 0;
}
