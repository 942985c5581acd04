/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the SQLite engine share: sqlite.c opens, reads and writes; sqlite_watch.c
 * remembers what was seen and finds what others have changed; replica.c keeps what etcd has.
 */
#ifndef STORE_SQLITE_ENGINE_H
#define STORE_SQLITE_ENGINE_H

#include "paths.h"

#include "kekd/store.h"

#include <sqlite3.h>

enum statement {
	BEGIN_READ,
	BEGIN_WRITE,
	COMMIT,
	ROLLBACK,
	DATA_VERSION,
	META_GET,
	META_SET,
	RECORD_GET,
	RECORD_REVISION,
	RECORD_LIST,
	RECORD_PUT,
	RECORD_DELETE,
	STATEMENTS
};

struct sqlite_store {
	struct store store;
	char *path;
	sqlite3 *db;
	sqlite3_stmt *statements[STATEMENTS];
	struct pathmap seen;
	int64_t data_version;
	uint64_t revision; /* the highest that was seen: an edited counter does not go back */
	int logged;	   /* the error that the log has: told once, not every second */
};

static inline struct sqlite_store *
of(struct store *s)
{
	return (struct sqlite_store *)s; /* store is the first member */
}

struct row {
	const char *path;
	uint64_t revision;
	const char *body; /* valid until the next step */
	size_t len;
};

/* ---- sqlite.c ---- */

#define SQLITE_META_SIZE 64
#define SQLITE_REPLICA_OF "replica_of" /* in meta: the file is a replica of this etcd cluster */

/* As store_open_sqlite, whatever the file is, and without a watch. */
int sqlite_open(const char *dir, bool create, struct sqlite_store **ret_store);
int sqlite_get(struct sqlite_store *q, const char *path, struct store_record *ret_record);
int sqlite_list(struct sqlite_store *q, const char *prefix, const char *after, size_t limit,
	struct store_page *ret_page);
/* body NULL: deletes. Within a transaction. 0 or KEKD_ESTORE. */
int sqlite_put(
	struct sqlite_store *q, const char *path, uint64_t revision, const char *body, size_t len);
/* For statements that give no row. */
int sqlite_run(struct sqlite_store *q, enum statement which, const char *what);
void sqlite_roll_back(struct sqlite_store *q);
/* text NULL: number. */
int sqlite_meta_set(struct sqlite_store *q, const char *name, const char *text, int64_t number);
int sqlite_meta_text(
	struct sqlite_store *q, const char *name, char ret_text[SQLITE_META_SIZE]); /* or -ENOENT */

/* Logs it once, with the remedy. KEKD_ESTORE. */
int sqlite_failed(struct sqlite_store *q, const char *what);
int sqlite_no_memory(struct sqlite_store *q);
/* 0, or KEKD_ESTORE: the file was moved away or replaced. */
int sqlite_check_in_place(struct sqlite_store *q);
void sqlite_bind_path(sqlite3_stmt *st, int at, const char *path);
void sqlite_done(sqlite3_stmt *st);
/* False: a row that no engine writes and no caller can name. A body past the limit reads as an
 * empty one, which no seal covers. */
bool sqlite_row_read(sqlite3_stmt *st, struct row *r);
int sqlite_row_copy(const struct row *r, struct store_record *ret_record);

/* ---- sqlite_watch.c ---- */

/* Takes what is there now as seen: only later changes are told. 0 or KEKD_ESTORE. */
int sqlite_watch_begin(struct sqlite_store *q);
void sqlite_watch_end(struct sqlite_store *q);
/* An own change, which no poll is to tell. */
void sqlite_watch_note(struct sqlite_store *q, const struct store_op *op, uint64_t revision);
int sqlite_watch_poll(struct store *s, store_watch_fn *fn, void *user);

#endif
