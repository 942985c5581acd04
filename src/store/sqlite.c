/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The embedded engine: one SQLite file, DIR/metadata.db. It does not trust the file more than it
 * must: whoever can write it may also have put in views, triggers or rows that no engine writes.
 * Seals are not its business.
 */
#include "sqlite_engine.h"

#include "kekd/err.h"
#include "kekd/file.h"
#include "kekd/log.h"
#include "kekd/str.h"
#include "kekd/uuid.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define APPLICATION_ID 0x6b656b64 /* "kekd" */
#define SCHEMA_VERSION 1
#define BUSY_TIMEOUT_MS 5000

static const char *const statement_sql[STATEMENTS] = {
	[BEGIN_READ] = "BEGIN",
	[BEGIN_WRITE] = "BEGIN IMMEDIATE",
	[COMMIT] = "COMMIT",
	[ROLLBACK] = "ROLLBACK",
	[DATA_VERSION] = "PRAGMA data_version",
	[META_GET] = "SELECT value FROM meta WHERE name = ?1",
	[META_SET] = "INSERT INTO meta(name, value) VALUES(?1, ?2) "
		     "ON CONFLICT(name) DO UPDATE SET value = excluded.value",
	[RECORD_GET] = "SELECT path, revision, body FROM records WHERE path = ?1",
	[RECORD_REVISION] = "SELECT revision FROM records WHERE path = ?1",
	/* Bounds, not LIKE: '_' and '%' are ordinary characters of a path, and bytes decide. One
	 * lower bound alone: of two, SQLite seeks to the first and walks over all before the other.
	 */
	[RECORD_LIST] = "SELECT path, revision, body FROM records "
			"WHERE path >= ?1 AND path < ?2 AND path <> ?3 ORDER BY path",
	[RECORD_PUT] = "INSERT INTO records(path, revision, body) VALUES(?1, ?2, ?3) "
		       "ON CONFLICT(path) DO UPDATE SET revision = excluded.revision, body = "
		       "excluded.body",
	[RECORD_DELETE] = "DELETE FROM records WHERE path = ?1",
};

static const char setup_sql[] =
	"CREATE TABLE records(path TEXT NOT NULL PRIMARY KEY, revision INTEGER NOT NULL, "
	"body BLOB NOT NULL) WITHOUT ROWID;"
	"CREATE TABLE meta(name TEXT NOT NULL PRIMARY KEY, value) WITHOUT ROWID;";

/* ---- errors ---- */

static const struct {
	int code;
	const char *remedy;
} remedies[] = {
	{ SQLITE_FULL, "free space on this file system" },
	{ SQLITE_READONLY,
		"make the file, its directory and the file system writable for kekd's user" },
	{ SQLITE_PERM, "make the file and its directory writable for kekd's user" },
	{ SQLITE_CANTOPEN,
		"make the file and its directory readable and writable for kekd's user" },
	{ SQLITE_CORRUPT, "stop kekd and put back a backup of the file" },
	{ SQLITE_NOTADB, "stop kekd and put back a backup of the file" },
	{ SQLITE_BUSY, "another program holds a lock on the file: end it" },
	{ SQLITE_LOCKED, "another program holds a lock on the file: end it" },
	{ SQLITE_IOERR, "look for disk errors in the kernel's log" },
	{ SQLITE_NOMEM, "free memory" },
	{ SQLITE_ERROR, "the tables are not as kekd made them: put back a backup of the file" },
};

static const char *
remedy(int code)
{
	for (size_t i = 0; i < STR_COUNT(remedies); i++)
		if (remedies[i].code == (code & 0xff))
			return remedies[i].remedy;
	return "see the SQLite documentation of this code";
}

int
sqlite_failed(struct sqlite_store *q, const char *what)
{
	int code = q->db ? sqlite3_extended_errcode(q->db) : SQLITE_NOMEM;

	if (code != q->logged)
		log_error("%s: %s failed: %s (SQLite code %d): %s", q->path, what,
			q->db ? sqlite3_errmsg(q->db) : "no memory", code, remedy(code));
	q->logged = code;
	return KEKD_ESTORE;
}

int
sqlite_no_memory(struct sqlite_store *q)
{
	log_error("%s: no memory to read it: free memory", q->path);
	return KEKD_ESTORE;
}

/* A file that was moved away or replaced still takes writes, which nobody would ever read again. */
int
sqlite_check_in_place(struct sqlite_store *q)
{
	int moved = 0;

	sqlite3_file_control(q->db, "main", SQLITE_FCNTL_HAS_MOVED, &moved);
	if (!moved)
		return 0;
	if (q->logged != SQLITE_READONLY_DBMOVED)
		log_error("%s: the file was replaced or removed while in use: put the right one "
			  "there "
			  "and restart kekd",
			q->path);
	q->logged = SQLITE_READONLY_DBMOVED;
	return KEKD_ESTORE;
}

/* ---- statements ---- */

void
sqlite_bind_path(sqlite3_stmt *st, int at, const char *path)
{
	sqlite3_bind_text(st, at, path, -1, SQLITE_STATIC);
}

void
sqlite_done(sqlite3_stmt *st)
{
	sqlite3_reset(st);
	sqlite3_clear_bindings(st);
}

int
sqlite_run(struct sqlite_store *q, enum statement which, const char *what)
{
	sqlite3_stmt *st = q->statements[which];
	int code = sqlite3_step(st);
	int err = code == SQLITE_DONE ? 0 : sqlite_failed(q, what);

	sqlite_done(st);
	return err;
}

void
sqlite_roll_back(struct sqlite_store *q)
{
	if (!sqlite3_get_autocommit(q->db)) {
		sqlite3_step(q->statements[ROLLBACK]);
		sqlite_done(q->statements[ROLLBACK]);
	}
}

static int
meta_revision(struct sqlite_store *q, uint64_t *ret_revision)
{
	sqlite3_stmt *st = q->statements[META_GET];
	int err = 0;

	sqlite_bind_path(st, 1, "revision");
	if (sqlite3_step(st) == SQLITE_ROW) {
		int64_t v = sqlite3_column_int64(st, 0);
		if (v > 0 && (uint64_t)v > q->revision)
			q->revision = (uint64_t)v;
		*ret_revision = q->revision;
	} else {
		err = sqlite_failed(q, "reading the revision");
	}
	sqlite_done(st);
	return err;
}

int
sqlite_meta_set(struct sqlite_store *q, const char *name, const char *text, int64_t number)
{
	sqlite3_stmt *st = q->statements[META_SET];

	sqlite_bind_path(st, 1, name);
	if (text)
		sqlite3_bind_text(st, 2, text, -1, SQLITE_STATIC);
	else
		sqlite3_bind_int64(st, 2, number);
	return sqlite_run(q, META_SET, "writing the table meta");
}

int
sqlite_meta_text(struct sqlite_store *q, const char *name, char ret_text[SQLITE_META_SIZE])
{
	sqlite3_stmt *st = q->statements[META_GET];
	int code, err = 0;

	sqlite_bind_path(st, 1, name);
	code = sqlite3_step(st);
	if (code == SQLITE_ROW && sqlite3_column_text(st, 0))
		snprintf(
			ret_text, SQLITE_META_SIZE, "%s", (const char *)sqlite3_column_text(st, 0));
	else
		err = code == SQLITE_DONE || code == SQLITE_ROW
			      ? -ENOENT
			      : sqlite_failed(q, "reading the table meta");
	sqlite_done(st);
	return err;
}

/* ---- rows ---- */

bool
sqlite_row_read(sqlite3_stmt *st, struct row *r)
{
	if (sqlite3_column_type(st, 0) != SQLITE_TEXT)
		return false;
	r->path = (const char *)sqlite3_column_text(st, 0);
	if (!r->path || strlen(r->path) != (size_t)sqlite3_column_bytes(st, 0) ||
		!path_is_valid(r->path))
		return false;
	r->revision = (uint64_t)sqlite3_column_int64(st, 1);
	r->body = sqlite3_column_blob(st, 2);
	r->len = (size_t)sqlite3_column_bytes(st, 2);
	if (!r->body || r->len > STORE_BODY_MAX) {
		r->body = "";
		r->len = 0;
	}
	return true;
}

int
sqlite_row_copy(const struct row *r, struct store_record *ret_record)
{
	struct store_record c = { .path = strdup(r->path), .revision = r->revision, .len = r->len };

	c.body = malloc(r->len + 1);
	if (!c.path || !c.body) {
		free(c.path);
		free(c.body);
		return -ENOMEM;
	}
	memcpy(c.body, r->body, r->len);
	c.body[r->len] = '\0';
	*ret_record = c;
	return 0;
}

int
sqlite_get(struct sqlite_store *q, const char *path, struct store_record *ret_record)
{
	sqlite3_stmt *st = q->statements[RECORD_GET];
	struct row r;
	int code, err;

	if (!path_is_valid(path))
		return -ENOENT;
	sqlite_bind_path(st, 1, path);
	code = sqlite3_step(st);
	if (code == SQLITE_ROW)
		err = sqlite_row_read(st, &r) ? sqlite_row_copy(&r, ret_record) : -ENOENT;
	else
		err = code == SQLITE_DONE ? -ENOENT : sqlite_failed(q, "reading a record");
	sqlite_done(st);
	return err == -ENOMEM ? sqlite_no_memory(q) : err;
}

static int
engine_get(struct store *s, const char *path, struct store_record *ret_record)
{
	return sqlite_get(of(s), path, ret_record);
}

/* The first text that sorts after everything that starts with prefix. Paths are ASCII. */
static void
upper_bound(const char *prefix, char ret_text[STORE_PATH_MAX + 2])
{
	size_t len = strlen(prefix);

	memcpy(ret_text, prefix, len + 1);
	if (len == 0)
		strcpy(ret_text, "\x7f");
	else
		ret_text[len - 1]++;
}

static int
page_add(struct store_page *p, const struct row *r, size_t limit)
{
	if (!p->records)
		p->records = calloc(limit, sizeof(*p->records));
	if (!p->records || sqlite_row_copy(r, &p->records[p->count]) < 0)
		return -ENOMEM;
	p->count++;
	return 0;
}

static int
page_read(struct sqlite_store *q, const char *prefix, const char *after, size_t limit,
	struct store_page *p)
{
	sqlite3_stmt *st = q->statements[RECORD_LIST];
	char upper[STORE_PATH_MAX + 2];
	struct row r;
	int code = SQLITE_DONE, err = 0;

	upper_bound(prefix, upper);
	sqlite_bind_path(st, 1, after && strcmp(after, prefix) > 0 ? after : prefix);
	sqlite_bind_path(st, 2, upper);
	sqlite_bind_path(st, 3, after ? after : "");
	while (err == 0 && !p->more && (code = sqlite3_step(st)) == SQLITE_ROW) {
		if (!sqlite_row_read(st, &r))
			continue;
		if (p->count == limit)
			p->more = true;
		else
			err = page_add(p, &r, limit);
	}
	if (err == 0 && !p->more && code != SQLITE_DONE)
		err = sqlite_failed(q, "listing records");
	sqlite_done(st);
	return err == -ENOMEM ? sqlite_no_memory(q) : err;
}

int
sqlite_list(struct sqlite_store *q, const char *prefix, const char *after, size_t limit,
	struct store_page *ret_page)
{
	struct store_page p = { 0 };
	int err;

	if (strlen(prefix) > STORE_PATH_MAX)
		return -EINVAL;
	if (limit == 0 || limit > STORE_PAGE_MAX)
		limit = STORE_PAGE_MAX;
	err = sqlite_run(q, BEGIN_READ, "reading");
	if (err == 0)
		err = meta_revision(q, &p.revision);
	if (err == 0)
		err = page_read(q, prefix, after, limit, &p);
	sqlite_roll_back(q);
	if (err < 0) {
		store_page_free(&p);
		return err;
	}
	q->logged = SQLITE_OK;
	*ret_page = p;
	return 0;
}

static int
engine_list(struct store *s, const char *prefix, const char *after, size_t limit,
	struct store_page *ret_page)
{
	return sqlite_list(of(s), prefix, after, limit, ret_page);
}

/* ---- commits ---- */

static int
compare(struct sqlite_store *q, const struct store_op *op)
{
	sqlite3_stmt *st = q->statements[RECORD_REVISION];
	int code, err = 0;

	if (op->expected == STORE_ANY)
		return 0;
	sqlite_bind_path(st, 1, op->path);
	code = sqlite3_step(st);
	if (code == SQLITE_DONE)
		err = op->expected == 0 ? 0 : KEKD_EPRECONDITION;
	else if (code != SQLITE_ROW)
		err = sqlite_failed(q, "reading a revision");
	else if (op->expected == 0 || (uint64_t)sqlite3_column_int64(st, 0) != op->expected)
		err = KEKD_EPRECONDITION;
	sqlite_done(st);
	return err;
}

int
sqlite_put(
	struct sqlite_store *q, const char *path, uint64_t revision, const char *body, size_t len)
{
	sqlite3_stmt *st = q->statements[body ? RECORD_PUT : RECORD_DELETE];

	sqlite_bind_path(st, 1, path);
	if (!body)
		return sqlite_run(q, RECORD_DELETE, "deleting a record");
	sqlite3_bind_int64(st, 2, (int64_t)revision);
	sqlite3_bind_text(st, 3, body, (int)len, SQLITE_STATIC);
	return sqlite_run(q, RECORD_PUT, "writing a record");
}

static int
apply(struct sqlite_store *q, const struct store_op *op, uint64_t revision)
{
	if (op->kind == STORE_CHECK)
		return 0;
	return sqlite_put(q, op->path, revision, op->kind == STORE_PUT ? op->body : NULL, op->len);
}

/* All compares come before the first write, so that an operation does not see another's effect. */
static int
write_all(struct sqlite_store *q, const struct store_op *ops, size_t count, uint64_t *ret_revision)
{
	uint64_t revision = 0;
	int err = meta_revision(q, &revision);

	for (size_t i = 0; err == 0 && i < count; i++)
		err = compare(q, &ops[i]);
	revision++;
	for (size_t i = 0; err == 0 && i < count; i++)
		err = apply(q, &ops[i], revision);
	if (err == 0)
		err = sqlite_meta_set(q, "revision", NULL, (int64_t)revision);
	if (err == 0)
		*ret_revision = revision;
	return err;
}

/* owner is not looked at: one program owns the file, there is no leadership to compare. */
static int
engine_commit(struct store *s, enum store_owner owner __attribute__((unused)),
	const struct store_op *ops, size_t count, uint64_t *ret_revision)
{
	struct sqlite_store *q = of(s);
	uint64_t revision = 0;
	int err = store_check_ops(ops, count);

	if (err == 0)
		err = sqlite_check_in_place(q);
	if (err == 0)
		err = sqlite_run(q, BEGIN_WRITE, "beginning a change");
	if (err < 0)
		return err;
	err = write_all(q, ops, count, &revision);
	if (err == 0)
		err = sqlite_run(q, COMMIT, "committing a change");
	if (err < 0) {
		sqlite_roll_back(q);
		return err;
	}
	q->logged = SQLITE_OK;
	q->revision = revision;
	for (size_t i = 0; i < count; i++)
		sqlite_watch_note(q, &ops[i], revision);
	*ret_revision = revision;
	return 0;
}

static int
engine_identity(struct store *s, char ret_text[64])
{
	struct sqlite_store *q = of(s);
	sqlite3_stmt *st = q->statements[META_GET];
	int err = 0;

	sqlite_bind_path(st, 1, "identity");
	if (sqlite3_step(st) == SQLITE_ROW && sqlite3_column_text(st, 0))
		snprintf(ret_text, 64, "%s", (const char *)sqlite3_column_text(st, 0));
	else
		err = sqlite_failed(q, "reading the identity");
	sqlite_done(st);
	return err;
}

static void
engine_close(struct store *s)
{
	struct sqlite_store *q = of(s);

	for (size_t i = 0; i < STATEMENTS; i++)
		sqlite3_finalize(q->statements[i]);
	sqlite3_close(q->db);
	sqlite_watch_end(q);
	free(q->path);
	free(q);
}

static const struct store_engine sqlite_engine = {
	.name = "sqlite",
	.get = engine_get,
	.list = engine_list,
	.commit = engine_commit,
	.poll = sqlite_watch_poll,
	.identity = engine_identity,
	.close = engine_close,
};

/* ---- opening ---- */

static int
execute(struct sqlite_store *q, const char *sql, const char *what)
{
	return sqlite3_exec(q->db, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : sqlite_failed(q, what);
}

static int
query_number(struct sqlite_store *q, const char *sql, int64_t *ret_number)
{
	sqlite3_stmt *st = NULL;
	int err = 0;

	if (sqlite3_prepare_v2(q->db, sql, -1, &st, NULL) == SQLITE_OK &&
		sqlite3_step(st) == SQLITE_ROW)
		*ret_number = sqlite3_column_int64(st, 0);
	else
		err = sqlite_failed(q, "opening");
	sqlite3_finalize(st);
	return err;
}

/* SQLite would make the file with the umask's mode; it gives the journal files this file's mode. */
static int
make_file(const char *dir, const char *path)
{
	int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	if (fd < 0 && errno == EEXIST)
		return 0;
	if (fd < 0) {
		log_error("%s: cannot be made: %s: make the directory writable for kekd's user",
			path, strerror(errno));
		return KEKD_ESTORE;
	}
	close(fd);
	(void)file_sync_dir(dir);
	return 0;
}

static int
check_file(const char *path)
{
	struct stat st;

	if (stat(path, &st) == 0)
		return 0;
	if (errno == ENOENT)
		return -ENOENT;
	log_error("%s: cannot be read: %s", path, strerror(errno));
	return KEKD_ESTORE;
}

static const struct {
	int option, value;
} hardening[] = {
	{ SQLITE_DBCONFIG_DEFENSIVE, 1 },
	{ SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0 },
	{ SQLITE_DBCONFIG_ENABLE_TRIGGER, 0 },
	{ SQLITE_DBCONFIG_ENABLE_VIEW, 0 },
};

static int
connect_file(struct sqlite_store *q)
{
	if (sqlite3_open_v2(q->path, &q->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL) !=
		SQLITE_OK)
		return sqlite_failed(q, "opening");
	sqlite3_extended_result_codes(q->db, 1);
	sqlite3_busy_timeout(q->db, BUSY_TIMEOUT_MS);
	for (size_t i = 0; i < STR_COUNT(hardening); i++)
		sqlite3_db_config(q->db, hardening[i].option, hardening[i].value, NULL);
	return 0;
}

static int
prepare_all(struct sqlite_store *q)
{
	for (size_t i = 0; i < STATEMENTS; i++)
		if (sqlite3_prepare_v3(q->db, statement_sql[i], -1, SQLITE_PREPARE_PERSISTENT,
			    &q->statements[i], NULL) != SQLITE_OK)
			return sqlite_failed(q, "preparing a statement");
	return 0;
}

static int
fill_meta(struct sqlite_store *q)
{
	char identity[UUID_TEXT_SIZE];
	struct uuid u;
	int err = uuid_generate(&u);

	if (err < 0)
		return err;
	uuid_format(&u, identity);
	err = sqlite_meta_set(q, "schema", NULL, SCHEMA_VERSION);
	if (err == 0)
		err = sqlite_meta_set(q, "revision", NULL, 0);
	if (err == 0)
		err = sqlite_meta_set(q, "identity", identity, 0);
	return err;
}

/* In one transaction: a crash leaves an empty file, which the next try fills. */
static int
set_up(struct sqlite_store *q)
{
	char application[64];
	int err;

	snprintf(application, sizeof(application), "PRAGMA application_id = %d", APPLICATION_ID);
	err = execute(q, "BEGIN IMMEDIATE", "setting up the tables");
	if (err == 0)
		err = execute(q, application, "setting up the tables");
	if (err == 0)
		err = execute(q, setup_sql, "setting up the tables");
	if (err == 0)
		err = prepare_all(q);
	if (err == 0)
		err = fill_meta(q);
	if (err == 0)
		err = execute(q, "COMMIT", "setting up the tables");
	return err;
}

static int
check_schema(struct sqlite_store *q)
{
	int64_t version = 0;
	int err = query_number(q, "SELECT value FROM meta WHERE name = 'schema'", &version);

	if (err == 0 && version != SCHEMA_VERSION) {
		log_error("%s: has schema %lld, this kekd knows schema %d: use the release that "
			  "wrote it",
			q->path, (long long)version, SCHEMA_VERSION);
		err = KEKD_ESTORE;
	}
	return err == 0 ? prepare_all(q) : err;
}

static int
check_or_set_up(struct sqlite_store *q, bool create)
{
	int64_t application = 0, tables = 0;
	int err = query_number(q, "PRAGMA application_id", &application);

	if (err == 0)
		err = query_number(q, "SELECT count(*) FROM sqlite_schema", &tables);
	if (err < 0)
		return err;
	if (application == APPLICATION_ID)
		return check_schema(q);
	if (tables > 0) {
		log_error("%s: is not a database of kekd: move it away", q->path);
		return KEKD_ESTORE;
	}
	return create ? set_up(q) : -ENOENT;
}

/* Only once the file is known to be ours: WAL mode is written into it. */
static int
set_modes(struct sqlite_store *q)
{
	/* FULL: in WAL mode a commit is on the disk when it returns. */
	return execute(q,
		"PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA cell_size_check = ON;"
		"PRAGMA journal_size_limit = 16777216",
		"setting up the connection");
}

static int
open_file(struct sqlite_store *q, const char *dir, bool create)
{
	int err = create ? make_file(dir, q->path) : check_file(q->path);

	if (err == 0)
		err = connect_file(q);
	if (err == 0)
		err = check_or_set_up(q, create);
	if (err == 0)
		err = set_modes(q);
	return err;
}

int
sqlite_open(const char *dir, bool create, struct sqlite_store **ret_store)
{
	struct sqlite_store *q = calloc(1, sizeof(*q));
	int err;

	if (!q)
		return KEKD_ESTORE;
	q->store.engine = &sqlite_engine;
	if (asprintf(&q->path, "%s/metadata.db", dir) < 0) {
		free(q);
		return KEKD_ESTORE;
	}
	err = open_file(q, dir, create);
	if (err < 0) {
		engine_close(&q->store);
		return err;
	}
	*ret_store = q;
	return 0;
}

int
store_is_replica(const char *dir)
{
	struct sqlite_store *q = NULL;
	char of[SQLITE_META_SIZE];
	int err = sqlite_open(dir, false, &q);

	if (err < 0)
		return err;
	err = sqlite_meta_text(q, SQLITE_REPLICA_OF, of);
	engine_close(&q->store);
	return err == -ENOENT ? 0 : err < 0 ? err : 1;
}

/* The records of a replica are etcd's: changed here, they would be lost, or two truths. */
static int
refuse_replica(struct sqlite_store *q)
{
	char of[SQLITE_META_SIZE];
	int err = sqlite_meta_text(q, SQLITE_REPLICA_OF, of);

	if (err == -ENOENT)
		return 0;
	if (err < 0)
		return err;
	log_error("%s: is this node's replica of what etcd has, no store by itself: set "
		  "store.engine to etcd, or run \"kekd migrate --to sqlite\"",
		q->path);
	return KEKD_ESTORE;
}

static int
open_watched(const char *dir, bool create, bool replica, struct store **ret_store)
{
	struct sqlite_store *q = NULL;
	int err = sqlite_open(dir, create, &q);

	if (err < 0)
		return err;
	err = replica ? 0 : refuse_replica(q);
	if (err == 0)
		err = sqlite_watch_begin(q);
	if (err < 0) {
		engine_close(&q->store);
		return err;
	}
	*ret_store = &q->store;
	return 0;
}

int
store_open_sqlite(const char *dir, bool create, struct store **ret_store)
{
	return open_watched(dir, create, false, ret_store);
}

int
store_open_replica(const char *dir, struct store **ret_store)
{
	return open_watched(dir, false, true, ret_store);
}
