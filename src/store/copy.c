/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From one engine to another: every record as it stands. `commit` comes last, so that a copy that
 * was broken off is no whole state, and is gone on with by the same call.
 */
#include "paths.h"

#include "kekd/err.h"
#include "kekd/store.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define ERROR_SIZE 256
#define CHUNK_BYTES (1024 * 1024)
#define LAST_PATH "commit"

struct copy {
	struct store *from, *to;
	struct store_op ops[STORE_OPS_MAX];
	size_t count, bytes;
	enum store_owner owner;
	size_t copied;
	char *error;
};

static int __attribute__((format(printf, 3, 4)))
say(struct copy *c, int err, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	vsnprintf(c->error, ERROR_SIZE, format, ap);
	va_end(ap);
	return err;
}

/* Of nodes that run: they write their own again. */
static bool
is_copied(const char *path)
{
	return strncmp(path, "nodes/", 6) != 0;
}

static bool
same(const struct store_record *a, const struct store_record *b)
{
	return a->len == b->len && memcmp(a->body, b->body, a->len) == 0;
}

/* What is there already is what an earlier call wrote, or not ours to write over. */
static int
look_at(struct copy *c, const struct store_record *r, bool *ret_there)
{
	struct store_record there = { 0 };
	int err = c->to->engine->get(c->to, r->path, &there);

	*ret_there = err == 0;
	if (err == -ENOENT)
		return 0;
	if (err < 0)
		return say(c, err, "what is copied to cannot be read: %s", kekd_strerror(err));
	if (!same(&there, r))
		err = say(c, KEKD_EINVALID, "it has another record %.100s already: empty it first",
			r->path);
	store_record_free(&there);
	return err;
}

static int
flush(struct copy *c)
{
	uint64_t revision;
	int err = 0;

	if (c->count > 0)
		err = c->to->engine->commit(c->to, c->owner, c->ops, c->count, &revision);
	if (err < 0)
		return say(c, err,
			"records cannot be written, from %.100s on: %s; repeat the "
			"command to go on",
			c->ops[0].path, kekd_strerror(err));
	c->copied += c->count;
	c->count = c->bytes = 0;
	return 0;
}

static int
add(struct copy *c, const struct store_record *r)
{
	bool there = false;
	int err = look_at(c, r, &there);

	if (err < 0 || there)
		return err;
	if (c->count == STORE_OPS_MAX || (c->count > 0 && c->bytes + r->len > CHUNK_BYTES))
		err = flush(c);
	c->ops[c->count++] = (struct store_op){ STORE_PUT, r->path, 0, r->body, r->len };
	c->bytes += r->len;
	return err;
}

/* A commit has either the active's records or a node's. Those of all nodes are written as the
 * active's: no lease of theirs is there. */
static int
copy_page(struct copy *c, const struct store_page *p)
{
	int err = 0;

	for (size_t i = 0; err == 0 && i < p->count; i++)
		if (is_copied(p->records[i].path) && strcmp(p->records[i].path, LAST_PATH) != 0)
			err = add(c, &p->records[i]);
	return err < 0 ? err : flush(c); /* the page's bodies go */
}

static int
each_page(struct copy *c, struct store *s, int (*fn)(struct copy *, const struct store_page *))
{
	char after[STORE_PATH_MAX + 1] = "";
	bool more = true;
	int err = 0;

	while (err == 0 && more) {
		struct store_page p = { 0 };
		err = s->engine->list(s, "", *after ? after : NULL, STORE_OPS_MAX, &p);
		if (err < 0)
			say(c, err, "records cannot be read: %s", kekd_strerror(err));
		else
			err = fn(c, &p);
		if (err == 0 && p.count > 0)
			strcpy(after, p.records[p.count - 1].path);
		more = p.more;
		store_page_free(&p);
	}
	return err;
}

static int
check_page(struct copy *c, const struct store_page *p)
{
	int err = 0;

	for (size_t i = 0; err == 0 && i < p->count; i++) {
		struct store_record r = { 0 };
		if (!is_copied(p->records[i].path))
			continue;
		err = c->from->engine->get(c->from, p->records[i].path, &r);
		if (err == -ENOENT)
			err = say(c, KEKD_EINVALID,
				"it has a record %.100s that is not to be copied: empty it first",
				p->records[i].path);
		else if (err < 0)
			say(c, err, "records cannot be read: %s", kekd_strerror(err));
		store_record_free(&r);
	}
	return err;
}

static int
copy_last(struct copy *c)
{
	struct store_record r = { 0 };
	int err = c->from->engine->get(c->from, LAST_PATH, &r);

	if (err == -ENOENT)
		return say(c, KEKD_EINVALID,
			"there is no record \"commit\": this is no store of "
			"a cluster");
	if (err < 0)
		return say(c, err, "records cannot be read: %s", kekd_strerror(err));
	err = add(c, &r);
	if (err == 0)
		err = flush(c);
	store_record_free(&r);
	return err;
}

int
store_copy(struct store *from, struct store *to, size_t *ret_count, char ret_error[ERROR_SIZE])
{
	struct copy c = { .from = from, .to = to, .owner = STORE_OWNER_ACTIVE, .error = ret_error };
	int err = each_page(&c, to, check_page);

	if (err == 0)
		err = each_page(&c, from, copy_page);
	if (err == 0)
		err = copy_last(&c);
	if (err == 0)
		*ret_count = c.copied;
	return err;
}
