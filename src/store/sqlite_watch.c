/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The SQLite engine's watch: which records this process has seen, and what another program has
 * changed since. Not here: the file and its statements (sqlite.c).
 */
#include "sqlite_engine.h"

#include <errno.h>
#include <openssl/sha.h>
#include <stdlib.h>
#include <string.h>

/* A record as this engine last saw it. The revision alone would not show a body that was edited in
 * place. */
struct seen {
	char *path;
	uint64_t revision;
	uint8_t sha256[SHA256_DIGEST_LENGTH];
};

static void
seen_free(void *item)
{
	struct seen *e = item;

	if (e)
		free(e->path);
	free(e);
}

static struct seen *
seen_new(const struct row *r)
{
	struct seen *e = calloc(1, sizeof(*e));

	if (!e)
		return NULL;
	e->path = strdup(r->path);
	if (!e->path) {
		free(e);
		return NULL;
	}
	e->revision = r->revision;
	SHA256((const unsigned char *)r->body, r->len, e->sha256);
	return e;
}

/* A failure here is harmless: the next poll tells of the record once more. */
void
sqlite_watch_note(struct sqlite_store *q, const struct store_op *op, uint64_t revision)
{
	struct row r = { op->path, revision, op->body, op->len };
	struct seen *e;

	if (op->kind == STORE_CHECK)
		return;
	seen_free(pathmap_remove(&q->seen, op->path));
	if (op->kind == STORE_DELETE)
		return;
	e = seen_new(&r);
	if (e && pathmap_add(&q->seen, e) < 0)
		seen_free(e);
}

static bool
seen_same(const struct seen *a, const struct seen *b)
{
	return a && a->revision == b->revision &&
	       memcmp(a->sha256, b->sha256, sizeof(a->sha256)) == 0;
}

static int
tell_row(const struct row *r, store_watch_fn *fn, void *user)
{
	struct store_record change;

	if (sqlite_row_copy(r, &change) < 0)
		return -ENOMEM;
	fn(&change, user);
	store_record_free(&change);
	return 0;
}

/* Reads the whole table into ret_now and tells what differs from q->seen (fn NULL: nothing). */
static int
scan(struct sqlite_store *q, struct pathmap *ret_now, store_watch_fn *fn, void *user)
{
	sqlite3_stmt *st = q->statements[RECORD_LIST];
	int code = SQLITE_DONE, changes = 0, err = 0;
	struct row r;

	sqlite_bind_path(st, 1, "");
	sqlite_bind_path(st, 2, "\x7f");
	sqlite_bind_path(st, 3, "");
	while (err == 0 && (code = sqlite3_step(st)) == SQLITE_ROW) {
		struct seen *e;
		if (!sqlite_row_read(st, &r))
			continue;
		e = seen_new(&r);
		if (!e || pathmap_add(ret_now, e) < 0) {
			seen_free(e);
			err = sqlite_no_memory(q);
		} else if (fn && !seen_same(pathmap_find(&q->seen, e->path), e)) {
			changes++;
			err = tell_row(&r, fn, user) < 0 ? sqlite_no_memory(q) : 0;
		}
	}
	if (err == 0 && code != SQLITE_DONE)
		err = sqlite_failed(q, "reading all records");
	sqlite_done(st);
	return err < 0 ? err : changes;
}

static int
tell_deleted(struct sqlite_store *q, const struct pathmap *now, store_watch_fn *fn, void *user)
{
	int changes = 0;

	for (size_t i = 0; i < q->seen.count; i++) {
		struct seen *e = q->seen.items[i];
		struct store_record change = { .path = e->path };
		if (pathmap_find(now, e->path))
			continue;
		fn(&change, user);
		changes++;
	}
	return changes;
}

static int
read_data_version(struct sqlite_store *q, int64_t *ret_version)
{
	sqlite3_stmt *st = q->statements[DATA_VERSION];
	int err = 0;

	if (sqlite3_step(st) == SQLITE_ROW)
		*ret_version = sqlite3_column_int64(st, 0);
	else
		err = sqlite_failed(q, "looking for changes");
	sqlite_done(st);
	return err;
}

/* The version is read before the table: what is written between the two is looked at again. */
static int
compare_all(struct sqlite_store *q, int64_t version, store_watch_fn *fn, void *user)
{
	struct pathmap now = { 0 };
	int changes = scan(q, &now, fn, user);

	if (changes < 0) {
		pathmap_clear(&now, seen_free);
		return changes;
	}
	if (fn)
		changes += tell_deleted(q, &now, fn, user);
	pathmap_clear(&q->seen, seen_free);
	q->seen = now;
	q->data_version = version;
	return changes;
}

int
sqlite_watch_poll(struct store *s, store_watch_fn *fn, void *user)
{
	struct sqlite_store *q = of(s);
	int64_t version = 0;
	int err = sqlite_check_in_place(q);

	if (err == 0)
		err = read_data_version(q, &version);
	if (err < 0)
		return err;
	if (version == q->data_version)
		return 0;
	return compare_all(q, version, fn, user);
}

int
sqlite_watch_begin(struct sqlite_store *q)
{
	int64_t version = 0;
	int err = read_data_version(q, &version);

	return err < 0 ? err : compare_all(q, version, NULL, NULL);
}

void
sqlite_watch_end(struct sqlite_store *q)
{
	pathmap_clear(&q->seen, seen_free);
}
