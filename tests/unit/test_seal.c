/* SPDX-License-Identifier: Apache-2.0 */
/* The sealed store on a real token, with the sqlite3 library as the one who edits it. */
#include "worker.h"

#include "kekd/clock.h"
#include "kekd/err.h"
#include "kekd/log.h"
#include "kekd/seal.h"
#include "kekd/str.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/sha.h>
#include <setjmp.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define CLUSTER "testing"
#define SAVED_MAX 4096

/* What the callee of the load function keeps, as a keyring would. */
struct held {
	char path[STORE_PATH_MAX + 1];
	int value; /* body's member "x"; -1: none */
	uint64_t commit;
	bool refused;
};

enum fault { FAULT_NONE, FAULT_BEFORE, FAULT_AFTER, FAULT_LOST };

struct fixture {
	struct store store; /* first: the engine that the sealed store sees */
	struct store *inner;
	enum fault fault; /* of the next commit, after: */
	unsigned skip;	  /* so many that go well */
	bool away;	  /* the store cannot be read */
	char dir[64], file[96], accepted[96];
	struct lab lab;
	struct child worker;
	struct hsm *hsm;
	struct sealed *sealed;
	struct held held[4096];
	size_t held_count, loads;
	char error[JSON_ERROR_SIZE];
};

static const char *const tokens[] = { LAB_TOKEN };

/* ---- an engine that fails when told to ---- */

static struct fixture *
of(struct store *s)
{
	return (struct fixture *)s;
}

static int
faulty_get(struct store *s, const char *path, struct store_record *ret_record)
{
	struct store *inner = of(s)->inner;

	return of(s)->away ? KEKD_ESTORE : inner->engine->get(inner, path, ret_record);
}

static int
faulty_list(struct store *s, const char *prefix, const char *after, size_t limit,
	struct store_page *ret_page)
{
	struct store *inner = of(s)->inner;

	return inner->engine->list(inner, prefix, after, limit, ret_page);
}

static int
faulty_commit(struct store *s, enum store_owner owner, const struct store_op *ops, size_t count,
	uint64_t *ret_revision)
{
	struct store *inner = of(s)->inner;
	enum fault fault = of(s)->fault;
	uint64_t revision = 0;
	int err;

	if (fault != FAULT_NONE && of(s)->skip > 0) {
		of(s)->skip--;
		fault = FAULT_NONE;
	} else {
		of(s)->fault = FAULT_NONE;
	}
	if (fault == FAULT_BEFORE)
		return KEKD_ESTORE;
	err = inner->engine->commit(inner, owner, ops, count, &revision);
	if (err == 0 && fault == FAULT_LOST)
		of(s)->away = true;
	if (err == 0 && (fault == FAULT_AFTER || fault == FAULT_LOST))
		return KEKD_ESTORE;
	if (err == 0)
		*ret_revision = revision;
	return err;
}

static int
faulty_poll(struct store *s, store_watch_fn *fn, void *user)
{
	struct store *inner = of(s)->inner;

	return inner->engine->poll(inner, fn, user);
}

static const struct store_engine faulty_engine = { .name = "faulty",
	.get = faulty_get,
	.list = faulty_list,
	.commit = faulty_commit,
	.poll = faulty_poll };

/* ---- the callee ---- */

static struct held *
find_held(struct fixture *f, const char *path)
{
	for (size_t i = 0; i < f->held_count; i++)
		if (strcmp(f->held[i].path, path) == 0)
			return &f->held[i];
	return NULL;
}

static void
load(const char *path, json_t *body, uint64_t commit, void *user)
{
	struct fixture *f = user;
	struct held *h = find_held(f, path);

	f->loads++;
	if (!h) {
		assert_true(f->held_count < STR_COUNT(f->held));
		h = &f->held[f->held_count++];
		*h = (struct held){ .value = -1 };
		strcpy(h->path, path);
	}
	h->refused = !body;
	if (!body)
		return;
	h->value = (int)json_integer_value(json_object_get(body, "x"));
	h->commit = commit;
}

/* ---- the fixture ---- */

static struct sealed_config
config(struct fixture *f)
{
	return (struct sealed_config){ .store = &f->store,
		.hsm = f->hsm,
		.state_dir = f->dir,
		.cluster = CLUSTER,
		.node = "n1",
		.tokens = tokens,
		.tokens_count = 1 };
}

static void
open_store(struct fixture *f)
{
	assert_int_equal(store_open_sqlite(f->dir, true, &f->inner), 0);
	f->store.engine = &faulty_engine;
}

static int
try_open(struct fixture *f)
{
	struct sealed_config c = config(f);

	f->held_count = f->loads = 0;
	return sealed_open(&c, load, f, &f->sealed, f->error);
}

static void
open_sealed(struct fixture *f)
{
	assert_int_equal(try_open(f), 0);
}

static void
close_all(struct fixture *f)
{
	sealed_freep(&f->sealed);
	store_freep(&f->inner);
}

static void
reopen(struct fixture *f)
{
	close_all(f);
	open_store(f);
	open_sealed(f);
}

static json_t *
value(int x)
{
	return json_pack("{s:i,s:{s:s}}", "x", x, "labels", "team", "a");
}

static int
try_init(struct fixture *f)
{
	struct sealed_config c = config(f);
	json_t *a = value(1), *b = value(2);
	struct sealed_change first[] = { { "clients/admin", 0, a }, { "clients/second", 0, b } };
	int err = sealed_init(&c, first, 2, f->error);

	json_decref(a);
	json_decref(b);
	return err;
}

static int
setup_empty(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	strcpy(f->dir, "/tmp/kekd-seal-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->file, sizeof(f->file), "%s/metadata.db", f->dir);
	snprintf(f->accepted, sizeof(f->accepted), "%s/accepted", f->dir);
	assert_true(lab_open(&f->lab));
	f->hsm = lab_serve(&f->lab, &f->worker);
	open_store(f);
	*state = f;
	return 0;
}

static int
setup(void **state)
{
	struct fixture *f;

	setup_empty(state);
	f = *state;
	if (try_init(f) < 0)
		fail_msg("init: %s", f->error);
	open_sealed(f);
	return 0;
}

static int
teardown(void **state)
{
	static const char *const names[] = { "metadata.db", "metadata.db-wal", "metadata.db-shm",
		"accepted", "accepted.new", "old.db" };
	struct fixture *f = *state;
	char path[128];

	close_all(f);
	lab_end(&f->hsm, &f->worker);
	lab_close(&f->lab);
	for (size_t i = 0; i < STR_COUNT(names); i++) {
		snprintf(path, sizeof(path), "%s/%s", f->dir, names[i]);
		unlink(path);
	}
	rmdir(f->dir);
	free(f);
	return 0;
}

/* ---- helpers ---- */

static int
put(struct fixture *f, const char *path, uint64_t expected, int x, uint64_t *ret_number)
{
	json_t *body = value(x);
	struct sealed_change c = { path, expected, body };
	int err = sealed_commit(f->sealed, &c, 1, ret_number);

	if (err == 0)
		load(path, body, *ret_number, f); /* as the keyring would publish it */
	json_decref(body);
	return err;
}

static uint64_t
must_put(struct fixture *f, const char *path, int x)
{
	uint64_t number = 0;

	assert_int_equal(put(f, path, STORE_ANY, x, &number), 0);
	return number;
}

static int
put_own(struct fixture *f, const char *path, uint64_t expected, int x, uint64_t *ret_number)
{
	json_t *body = value(x);
	int err = sealed_put_own(f->sealed, path, expected, body, ret_number);

	if (err == 0)
		load(path, body, *ret_number, f); /* as the keyring would publish it */
	json_decref(body);
	return err;
}

static void
outside(const struct fixture *f, const char *format, ...)
{
	char sql[8192], *error = NULL;
	sqlite3 *db;
	va_list ap;

	va_start(ap, format);
	vsnprintf(sql, sizeof(sql), format, ap);
	va_end(ap);
	assert_int_equal(sqlite3_open(f->file, &db), SQLITE_OK);
	sqlite3_busy_timeout(db, 5000);
	if (sqlite3_exec(db, sql, NULL, NULL, &error) != SQLITE_OK)
		fail_msg("%s: %s", sql, error);
	sqlite3_close(db);
}

static void
read_file(const char *path, char text[SAVED_MAX])
{
	int fd = open(path, O_RDONLY);
	ssize_t n;

	assert_true(fd >= 0);
	n = read(fd, text, SAVED_MAX - 1);
	assert_true(n >= 0);
	text[n] = '\0';
	close(fd);
}

static void
write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	close(fd);
}

static void
assert_status(struct fixture *f, enum sealed_hold hold, size_t refused)
{
	struct sealed_status s;
	char path[STORE_PATH_MAX + 1];

	sealed_status(f->sealed, &s);
	if (s.hold != hold)
		print_error("%s\n", sealed_hold_text(s.hold));
	assert_int_equal(s.hold, hold);
	assert_int_equal(s.refused, refused);
	assert_int_equal(sealed_refused(f->sealed, refused, path), -ENOENT);
	if (refused > 0)
		assert_int_equal(sealed_refused(f->sealed, refused - 1, path), 0);
}

static void
assert_refused(struct fixture *f, const char *path)
{
	char found[STORE_PATH_MAX + 1];
	struct sealed_record r;
	size_t i = 0;

	assert_non_null(find_held(f, path));
	assert_true(find_held(f, path)->refused);
	assert_int_equal(sealed_get(f->sealed, path, &r), KEKD_ERECORD);
	while (sealed_refused(f->sealed, i++, found) == 0)
		if (strcmp(found, path) == 0)
			return;
	fail_msg("%s is not in the list of refused records", path);
}

static void
assert_good(struct fixture *f, const char *path, int x)
{
	struct held *h = find_held(f, path);
	struct sealed_record r;

	assert_non_null(h);
	assert_false(h->refused);
	assert_int_equal(h->value, x);
	assert_int_equal(sealed_get(f->sealed, path, &r), 0);
	assert_int_equal(json_integer_value(json_object_get(r.body, "x")), x);
	assert_int_equal(r.commit, h->commit);
	sealed_record_free(&r);
}

/* ---- init ---- */

static void
init_makes_a_cluster_that_opens(void **state)
{
	struct fixture *f = *state;
	struct sealed_status s;
	struct sealed_record r;
	struct stat st;

	assert_status(f, SEALED_HOLD_NONE, 0);
	sealed_status(f->sealed, &s);
	assert_int_equal(s.number, 1);
	assert_int_equal(s.accepted, 1);
	assert_int_equal(s.records, 4);
	assert_int_equal(strlen(s.generation), 36);
	assert_int_equal(strlen(s.seal_key), 36);
	assert_int_equal(sealed_number(f->sealed), 1);
	assert_string_equal(f->held[0].path, "cluster");
	assert_null(find_held(f, "commit"));
	assert_good(f, "clients/admin", 1);
	assert_good(f, "clients/second", 2);
	assert_int_equal(sealed_get(f->sealed, "cluster", &r), 0);
	assert_string_equal(json_string_value(json_object_get(r.body, "name")), CLUSTER);
	assert_string_equal(
		json_string_value(json_array_get(json_object_get(r.body, "members"), 0)), "n1");
	sealed_record_free(&r);
	assert_int_equal(stat(f->accepted, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
}

static void
an_empty_store_is_said_to_be_empty(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(try_open(f), -ENOENT);
	assert_non_null(strstr(f->error, "empty"));
}

static void
init_happens_once(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(try_init(f), KEKD_EINVALID);
	assert_non_null(strstr(f->error, "records already"));
	assert_status(f, SEALED_HOLD_NONE, 0);
}

static void
init_does_not_replace_a_cluster_whose_database_is_lost(void **state)
{
	struct fixture *f = *state;

	close_all(f);
	unlink(f->file);
	open_store(f);
	assert_int_equal(try_init(f), KEKD_EINVALID);
	assert_non_null(strstr(f->error, "put back its database"));
}

static void
create_object(struct fixture *f, enum hsm_op_kind kind, const char *label)
{
	struct hsm_op op = {
		.kind = kind, .in = (const uint8_t *)label, .in_len = (uint32_t)strlen(label)
	};
	struct uuid id;

	assert_int_equal(uuid_generate(&id), 0);
	op.object.len = sizeof(id.b);
	memcpy(op.object.b, id.b, sizeof(id.b));
	assert_int_equal(hsm_call(f->hsm, &op, 1), 0);
	assert_int_equal(op.err, 0);
}

static void
init_refuses_a_token_that_holds_a_cluster(void **state)
{
	struct fixture *f = *state;

	create_object(f, HSM_OP_CREATE_KEK, "somebody's own key");
	create_object(f, HSM_OP_CREATE_KEK, "kekd:" CLUSTER ":demo:v1");
	assert_int_equal(try_init(f), KEKD_EINVALID);
	assert_non_null(strstr(f->error, ":demo:v1"));
	assert_int_equal(try_open(f), -ENOENT);
	assert_int_equal(access(f->accepted, F_OK), -1);
}

static void
init_refuses_another_clusters_seal_key(void **state)
{
	struct fixture *f = *state;

	create_object(
		f, HSM_OP_CREATE_SEAL, "kekd:other:seal:7c0d7a58-9d3c-4c89-b9fd-5f3f2a0c7a11");
	assert_int_equal(try_init(f), KEKD_EINVALID);
}

static unsigned
count_objects(struct fixture *f)
{
	static uint8_t room[16384];
	struct hsm_op op = { .kind = HSM_OP_LIST, .out = room, .out_cap = sizeof(room) };

	assert_int_equal(hsm_call(f->hsm, &op, 1), 0);
	assert_int_equal(op.err, 0);
	return op.attributes;
}

static void
an_interrupted_init_is_finished_by_the_next(void **state)
{
	struct fixture *f = *state;

	f->fault = FAULT_BEFORE;
	assert_int_equal(try_init(f), KEKD_ESTORE);
	assert_int_equal(count_objects(f), 1);
	assert_int_equal(try_open(f), -ENOENT);
	assert_int_equal(try_init(f), 0);
	assert_int_equal(count_objects(f), 1);
	open_sealed(f);
	assert_status(f, SEALED_HOLD_NONE, 0);
}

static void
an_init_killed_before_its_accepted_file_is_whole(void **state)
{
	struct fixture *f = *state;
	char before[SAVED_MAX];
	struct sealed_status s;

	/* The file as it is between the first one and the store's commit. */
	f->fault = FAULT_BEFORE;
	assert_int_equal(try_init(f), KEKD_ESTORE);
	read_file(f->accepted, before);
	f->fault = FAULT_AFTER;
	assert_int_equal(try_init(f), 0);
	assert_non_null(strstr(before, "\"number\":0"));
	open_sealed(f);
	sealed_status(f->sealed, &s);
	assert_int_equal(s.accepted, 1);
	/* One of another try is of another generation. */
	write_file(f->accepted, before);
	reopen(f);
	assert_status(f, SEALED_HOLD_NO_ACCEPTED, 0);
}

/* ---- commits ---- */

static void
every_commit_has_the_next_number(void **state)
{
	struct fixture *f = *state;
	struct sealed_status s;

	assert_int_equal(must_put(f, "keys/a", 10), 2);
	assert_int_equal(must_put(f, "keys/b", 20), 3);
	assert_int_equal(must_put(f, "keys/a", 11), 4);
	assert_int_equal(sealed_number(f->sealed), 4);
	reopen(f);
	assert_status(f, SEALED_HOLD_NONE, 0);
	assert_good(f, "keys/a", 11);
	assert_good(f, "keys/b", 20);
	assert_int_equal(find_held(f, "keys/a")->commit, 4);
	assert_int_equal(find_held(f, "keys/b")->commit, 3);
	sealed_status(f->sealed, &s);
	assert_int_equal(s.number, 4);
	assert_int_equal(s.accepted, 4);
}

static void
a_commit_compares_what_its_caller_saw(void **state)
{
	struct fixture *f = *state;
	uint64_t number = must_put(f, "keys/a", 10), later;

	assert_int_equal(put(f, "keys/a", 0, 1, &later), KEKD_EPRECONDITION);
	assert_int_equal(put(f, "keys/a", number - 1, 1, &later), KEKD_EPRECONDITION);
	assert_int_equal(put(f, "keys/b", number, 1, &later), KEKD_EPRECONDITION);
	assert_int_equal(put(f, "keys/a", number, 11, &later), 0);
	assert_int_equal(later, number + 1);
	assert_int_equal(put(f, "keys/b", 0, 1, &later), 0);
}

static void
several_changes_are_one_commit(void **state)
{
	struct fixture *f = *state;
	json_t *a = value(5), *b = value(6);
	struct sealed_change changes[] = { { "keys/b", 0, b }, { "keys/a", 0, a },
		{ "clients/second", STORE_ANY, NULL } };
	uint64_t number = 0;

	assert_int_equal(sealed_commit(f->sealed, changes, 3, &number), 0);
	assert_int_equal(number, 2);
	reopen(f);
	assert_status(f, SEALED_HOLD_NONE, 0);
	assert_good(f, "keys/a", 5);
	assert_good(f, "keys/b", 6);
	assert_null(find_held(f, "clients/second"));
	changes[1].expected = 1;
	assert_int_equal(sealed_commit(f->sealed, changes, 3, &number), KEKD_EPRECONDITION);
	json_decref(a);
	json_decref(b);
}

static void
what_is_not_the_actives_cannot_be_committed(void **state)
{
	static const char *const paths[] = { "commit", "nonces/x", "nodes/n1", "members/n1",
		"usage/n1/a", "", "keys/\x01" };
	struct fixture *f = *state;
	json_t *body = value(1);
	struct sealed_change twice[] = { { "keys/a", 0, body }, { "keys/a", 0, body } };
	struct sealed_change cluster = { "cluster", STORE_ANY, NULL };
	uint64_t number;

	for (size_t i = 0; i < STR_COUNT(paths); i++)
		assert_int_equal(put(f, paths[i], STORE_ANY, 1, &number), KEKD_EINVALID);
	assert_int_equal(sealed_commit(f->sealed, twice, 2, &number), KEKD_EINVALID);
	assert_int_equal(sealed_commit(f->sealed, &cluster, 1, &number), KEKD_EINVALID);
	assert_int_equal(put_own(f, "keys/a", 0, 1, &number), KEKD_EINVALID);
	json_decref(body);
}

static void
the_state_is_the_hash_of_paths_and_seals(void **state)
{
	struct fixture *f = *state;
	static const char sql[] = "SELECT path, body FROM records WHERE path <> 'commit' "
				  "AND path NOT LIKE 'nonces/%' ORDER BY path";
	uint8_t bytes[4096], seal[32], hash[32];
	char hex[65] = "", error[JSON_ERROR_SIZE];
	struct buf b = BUF_INIT(sizeof(bytes));
	struct sealed_record r;
	sqlite3_stmt *st;
	uint64_t number;
	sqlite3 *db;

	must_put(f, "keys/a", 1);
	assert_int_equal(put_own(f, "nonces/x", 0, 1, &number), 0);
	assert_int_equal(sqlite3_open(f->file, &db), SQLITE_OK);
	assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &st, NULL), SQLITE_OK);
	while (sqlite3_step(st) == SQLITE_ROW) {
		const char *body = (const char *)sqlite3_column_text(st, 1);
		json_t *envelope = json_parse(body, strlen(body), error);
		assert_int_equal(
			str_unhex(json_string_value(json_object_get(envelope, "seal")), seal, 32),
			0);
		buf_block(&b, sqlite3_column_text(st, 0), (size_t)sqlite3_column_bytes(st, 0));
		buf_put(&b, seal, 32);
		json_decref(envelope);
	}
	sqlite3_finalize(st);
	sqlite3_close(db);
	assert_false(b.bad);
	SHA256(b.data, b.len, hash);
	str_hex(hash, 32, hex);
	assert_int_equal(sealed_get(f->sealed, "commit", &r), 0);
	assert_string_equal(json_string_value(json_object_get(r.body, "state")), hex);
	sealed_record_free(&r);
	buf_free(&b);
}

static void
a_commit_whose_end_was_not_seen_is_found_out(void **state)
{
	struct fixture *f = *state;
	uint64_t number = 0;

	f->fault = FAULT_AFTER;
	assert_int_equal(put(f, "keys/a", 0, 1, &number), 0);
	assert_int_equal(number, 2);
	f->fault = FAULT_BEFORE;
	assert_int_equal(put(f, "keys/a", 2, 2, &number), KEKD_ESTORE);
	assert_int_equal(sealed_number(f->sealed), 2);
	assert_int_equal(put(f, "keys/a", 2, 3, &number), 0);
	assert_int_equal(number, 3);
	reopen(f);
	assert_status(f, SEALED_HOLD_NONE, 0);
	assert_good(f, "keys/a", 3);
}

static void
a_commit_that_cannot_be_found_out_is_found_out_later(void **state)
{
	struct fixture *f = *state;
	uint64_t number = 0;

	must_put(f, "keys/a", 1);
	f->fault = FAULT_AFTER;
	f->away = true;
	assert_int_equal(put(f, "keys/a", 2, 2, &number), KEKD_ESTORE);
	assert_int_equal(put(f, "keys/b", 0, 2, &number), KEKD_ESTORE);
	assert_true(sealed_poll(f->sealed) < 0);
	assert_int_equal(sealed_number(f->sealed), 2);
	f->away = false;
	assert_int_equal(sealed_poll(f->sealed), 2); /* the record, and the commit */
	assert_status(f, SEALED_HOLD_NONE, 0);
	assert_int_equal(sealed_number(f->sealed), 3);
	assert_good(f, "keys/a", 2);
	assert_int_equal(put(f, "keys/a", 3, 4, &number), 0);
	reopen(f);
	assert_status(f, SEALED_HOLD_NONE, 0);
	assert_good(f, "keys/a", 4);
}

static void
a_crash_before_the_accepted_file_loses_nothing(void **state)
{
	struct fixture *f = *state;
	char before[SAVED_MAX];
	struct sealed_status s;

	read_file(f->accepted, before);
	must_put(f, "keys/a", 1);
	write_file(f->accepted, before);
	reopen(f);
	assert_status(f, SEALED_HOLD_NONE, 0);
	assert_good(f, "keys/a", 1);
	sealed_status(f->sealed, &s);
	assert_int_equal(s.accepted, 2);
	reopen(f);
	assert_status(f, SEALED_HOLD_NONE, 0);
}

static void
an_accepted_file_that_cannot_be_written_is_tried_again(void **state)
{
	struct fixture *f = *state;
	char blocked[128];
	struct sealed_status s;

	snprintf(blocked, sizeof(blocked), "%s/accepted.new", f->dir);
	assert_int_equal(mkdir(blocked, 0700), 0);
	must_put(f, "keys/a", 1);
	sealed_status(f->sealed, &s);
	assert_int_equal(s.number, 2);
	assert_int_equal(s.accepted, 1);
	assert_int_equal(rmdir(blocked), 0);
	assert_int_equal(sealed_poll(f->sealed), 0);
	sealed_status(f->sealed, &s);
	assert_int_equal(s.accepted, 2);
}

/* ---- whoever can write the database ---- */

static void
an_edited_record_is_refused_and_it_alone(void **state)
{
	struct fixture *f = *state;
	uint64_t number;

	must_put(f, "keys/a", 1);
	must_put(f, "keys/b", 2);
	outside(f, "UPDATE records SET body = replace(body, '\"x\":1', '\"x\":7') WHERE path = "
		   "'keys/a'");
	assert_int_equal(sealed_poll(f->sealed), 1);
	assert_status(f, SEALED_HOLD_NONE, 1);
	assert_refused(f, "keys/a");
	assert_int_equal(find_held(f, "keys/a")->value, 1);
	assert_good(f, "clients/admin", 1);
	assert_int_equal(put(f, "keys/a", STORE_ANY, 5, &number), KEKD_ERECORD);
	assert_int_equal(put(f, "keys/c", 0, 5, &number), 0);
	assert_int_equal(sealed_poll(f->sealed), 0);

	reopen(f);
	assert_status(f, SEALED_HOLD_NONE, 1);
	assert_refused(f, "keys/a");
	assert_int_equal(find_held(f, "keys/a")->value, -1);
	assert_good(f, "keys/b", 2);
	assert_int_equal(put(f, "keys/d", 0, 5, &number), 0);
	assert_int_equal(put(f, "keys/a", 0, 5, &number), KEKD_ERECORD);

	outside(f, "UPDATE records SET body = replace(body, '\"x\":7', '\"x\":1') WHERE path = "
		   "'keys/a'");
	assert_int_equal(sealed_poll(f->sealed), 1);
	assert_status(f, SEALED_HOLD_NONE, 0);
	assert_good(f, "keys/a", 1);
	assert_int_equal(put(f, "keys/a", 2, 5, &number), 0);
}

static void
an_edited_commit_number_is_refused(void **state)
{
	struct fixture *f = *state;

	must_put(f, "keys/a", 1);
	outside(f, "UPDATE records SET body = replace(body, '\"commit\":2', '\"commit\":9') "
		   "WHERE path = 'keys/a'");
	assert_int_equal(sealed_poll(f->sealed), 1);
	assert_refused(f, "keys/a");
}

static void
a_record_moved_to_another_path_is_refused(void **state)
{
	struct fixture *f = *state;

	outside(f,
		"UPDATE records SET body = (SELECT body FROM records WHERE path = 'clients/admin') "
		"WHERE path = 'clients/second'");
	assert_int_equal(sealed_poll(f->sealed), 1);
	assert_refused(f, "clients/second");
	assert_good(f, "clients/admin", 1);
	assert_status(f, SEALED_HOLD_STATE, 1);
	reopen(f);
	assert_status(f, SEALED_HOLD_STATE, 1);
}

/* Saves a row in a table of its own, as someone would who wants to put it back. */
static void
save_row(struct fixture *f, const char *path)
{
	outside(f,
		"CREATE TABLE IF NOT EXISTS saved AS SELECT * FROM records WHERE 0;"
		"INSERT INTO saved SELECT * FROM records WHERE path = '%s'",
		path);
}

static void
put_back_row(struct fixture *f, const char *path)
{
	outside(f, "INSERT OR REPLACE INTO records SELECT * FROM saved WHERE path = '%s'", path);
}

static void
a_deleted_record_holds_the_store_until_it_is_back(void **state)
{
	struct fixture *f = *state;
	uint64_t number;

	must_put(f, "keys/a", 1);
	must_put(f, "keys/b", 2);
	save_row(f, "keys/a");
	outside(f, "DELETE FROM records WHERE path = 'keys/a'");
	assert_int_equal(sealed_poll(f->sealed), 1);
	assert_status(f, SEALED_HOLD_STATE, 1);
	assert_refused(f, "keys/a");
	assert_good(f, "keys/b", 2);
	assert_int_equal(put(f, "keys/c", 0, 1, &number), KEKD_EHELD);
	assert_int_equal(put_own(f, "nonces/x", 0, 1, &number), 0);
	assert_int_equal(sealed_poll(f->sealed), 0);

	put_back_row(f, "keys/a");
	assert_int_equal(sealed_poll(f->sealed), 1);
	assert_status(f, SEALED_HOLD_NONE, 0);
	assert_good(f, "keys/a", 1);
	assert_int_equal(put(f, "keys/c", 0, 1, &number), 0);

	outside(f, "DELETE FROM records WHERE path = 'keys/a'");
	reopen(f);
	assert_status(f, SEALED_HOLD_STATE, 0);
	assert_int_equal(put(f, "keys/d", 0, 1, &number), KEKD_EHELD);
	put_back_row(f, "keys/a");
	assert_int_equal(sealed_poll(f->sealed), 1);
	assert_status(f, SEALED_HOLD_NONE, 0);
	assert_good(f, "keys/a", 1);
}

static void
an_older_record_put_back_holds_the_store(void **state)
{
	struct fixture *f = *state;
	uint64_t number;

	must_put(f, "keys/a", 1);
	save_row(f, "keys/a");
	must_put(f, "keys/a", 2);
	put_back_row(f, "keys/a");
	assert_int_equal(sealed_poll(f->sealed), 1);
	assert_status(f, SEALED_HOLD_STATE, 1);
	assert_refused(f, "keys/a");
	assert_int_equal(find_held(f, "keys/a")->value, 2);
	assert_int_equal(put(f, "keys/a", 2, 1, &number), KEKD_EHELD);
	reopen(f);
	assert_status(f, SEALED_HOLD_STATE, 0);
	assert_int_equal(put(f, "keys/b", 0, 1, &number), KEKD_EHELD);
}

static void
a_deleted_record_does_not_come_back(void **state)
{
	struct fixture *f = *state;
	struct sealed_change gone = { "clients/second", 1, NULL };
	uint64_t number;

	save_row(f, "clients/second");
	assert_int_equal(sealed_commit(f->sealed, &gone, 1, &number), 0);
	put_back_row(f, "clients/second");
	assert_int_equal(sealed_poll(f->sealed), 1);
	assert_refused(f, "clients/second");
	assert_status(f, SEALED_HOLD_STATE, 1);
	outside(f, "DELETE FROM records WHERE path = 'clients/second'");
	sealed_poll(f->sealed);
	assert_status(f, SEALED_HOLD_NONE, 0);
}

static void
an_inserted_record_is_refused_and_holds_the_store(void **state)
{
	struct fixture *f = *state;

	outside(f, "INSERT INTO records SELECT 'clients/thief', revision, body FROM records "
		   "WHERE path = 'clients/admin'");
	assert_int_equal(sealed_poll(f->sealed), 1);
	assert_refused(f, "clients/thief");
	assert_int_equal(find_held(f, "clients/thief")->value, -1);
	assert_status(f, SEALED_HOLD_STATE, 1);
	reopen(f);
	assert_status(f, SEALED_HOLD_STATE, 1);
	assert_refused(f, "clients/thief");
	outside(f, "DELETE FROM records WHERE path = 'clients/thief'");
	sealed_poll(f->sealed);
	assert_status(f, SEALED_HOLD_NONE, 0);
}

static void
bytes_that_are_no_envelope_are_refused(void **state)
{
	static const char *const bodies[] = { "", "{}", "[]", "null", "{\"body\":{}}",
		"{\"body\":{},\"commit\":2,\"key\":\"x\",\"seal\":\"00\",\"v\":1}",
		"{\"a\":1,\"a\":2}" };
	struct fixture *f = *state;

	must_put(f, "keys/a", 1);
	save_row(f, "keys/a");
	for (size_t i = 0; i < STR_COUNT(bodies); i++) {
		outside(f, "UPDATE records SET body = '%s' WHERE path = 'keys/a'", bodies[i]);
		sealed_poll(f->sealed);
		assert_refused(f, "keys/a");
		assert_status(f, SEALED_HOLD_STATE, 1);
	}
	put_back_row(f, "keys/a");
	sealed_poll(f->sealed);
	assert_good(f, "keys/a", 1);
	assert_status(f, SEALED_HOLD_NONE, 0);
}

/* What is hashed must be what is parsed, however it is written. */
static void
a_record_that_is_written_otherwise_verifies_as_its_canonical_text(void **state)
{
	struct fixture *f = *state;

	must_put(f, "keys/a", 1);
	outside(f, "UPDATE records SET body = replace(body, '{\"body\":', ' {\"body\" : ') "
		   "WHERE path = 'keys/a'");
	reopen(f);
	assert_status(f, SEALED_HOLD_NONE, 0);
	assert_good(f, "keys/a", 1);
	outside(f, "UPDATE records SET body = replace(body, '\"x\":1', '\"x\":2') WHERE path = "
		   "'keys/a'");
	reopen(f);
	assert_refused(f, "keys/a");
	must_put(f, "keys/b", 1);
	outside(f, "UPDATE records SET body = replace(body, '\"x\":1', '\"x\": 1') WHERE path = "
		   "'keys/b'");
	reopen(f);
	assert_good(f, "keys/b", 1);
}

static void
a_body_in_which_another_one_hides_is_refused(void **state)
{
	struct fixture *f = *state;

	must_put(f, "keys/a", 1);
	outside(f, "UPDATE records SET body = replace(body, '{\"body\":', "
		   "'{\"body\":{\"x\":2},\"body\":') WHERE path = 'keys/a'");
	reopen(f);
	assert_refused(f, "keys/a");
}

/* ---- reading ahead ---- */

static void
close_and_read_ahead(struct fixture *f, struct sealed_ahead **ret_ahead)
{
	close_all(f);
	open_store(f);
	assert_int_equal(sealed_ahead_open(&f->store, ret_ahead), 0);
	while (sealed_ahead_read(*ret_ahead))
		;
}

static void
open_with(struct fixture *f, struct sealed_ahead **ahead)
{
	struct sealed_config c = config(f);

	c.ahead = *ahead;
	f->held_count = f->loads = 0;
	assert_int_equal(sealed_open(&c, load, f, &f->sealed, f->error), 0);
	sealed_ahead_freep(ahead);
}

static void
what_was_read_ahead_is_verified_and_what_changed_since_is_found(void **state)
{
	struct fixture *f = *state;
	struct sealed_ahead *ahead = NULL;
	char path[32];

	for (int i = 0; i < 150; i++) {
		snprintf(path, sizeof(path), "keys/k%03d", i);
		must_put(f, path, i);
	}
	close_and_read_ahead(f, &ahead);
	open_with(f, &ahead);
	assert_status(f, SEALED_HOLD_NONE, 0);
	for (int i = 0; i < 150; i++) {
		snprintf(path, sizeof(path), "keys/k%03d", i);
		assert_good(f, path, i);
	}
	outside(f, "UPDATE records SET body = replace(body, '\"x\":7}', '\"x\":8}') WHERE path = "
		   "'keys/k007' OR path = 'keys/k070'");
	close_and_read_ahead(f, &ahead);
	outside(f, "UPDATE records SET body = replace(body, '\"x\":9}', '\"x\":8}') WHERE path = "
		   "'keys/k009'");
	open_with(f, &ahead);
	assert_status(f, SEALED_HOLD_NONE, 2);
	assert_refused(f, "keys/k007");
	assert_refused(f, "keys/k009");
	assert_good(f, "keys/k070", 70);
}

static void
what_could_not_be_read_ahead_is_read_later(void **state)
{
	struct fixture *f = *state;
	struct sealed_ahead *ahead = NULL;

	must_put(f, "keys/a", 1);
	close_all(f);
	open_store(f);
	f->away = true;
	assert_int_equal(sealed_ahead_open(&f->store, &ahead), 0);
	assert_false(sealed_ahead_read(ahead));
	f->away = false;
	open_with(f, &ahead);
	assert_status(f, SEALED_HOLD_NONE, 0);
	assert_good(f, "keys/a", 1);
	close_and_read_ahead(f, &ahead);
	sealed_ahead_freep(&ahead); /* of no use: no token came */
	open_sealed(f);
	assert_good(f, "keys/a", 1);
}

static void
an_edited_commit_record_holds_everything(void **state)
{
	struct fixture *f = *state;
	uint64_t number;

	must_put(f, "keys/a", 1);
	outside(f, "UPDATE records SET body = replace(body, '\"number\":2', '\"number\":3') "
		   "WHERE path = 'commit'");
	sealed_poll(f->sealed);
	assert_status(f, SEALED_HOLD_COMMIT, 1);
	assert_good(f, "keys/a", 1);
	assert_int_equal(put(f, "keys/a", 2, 1, &number), KEKD_EHELD);
	reopen(f);
	assert_status(f, SEALED_HOLD_COMMIT, 1);
	outside(f, "UPDATE records SET body = replace(body, '\"number\":3', '\"number\":2') "
		   "WHERE path = 'commit'");
	sealed_poll(f->sealed);
	assert_status(f, SEALED_HOLD_NONE, 0);
	outside(f, "DELETE FROM records WHERE path = 'commit'");
	sealed_poll(f->sealed);
	assert_status(f, SEALED_HOLD_COMMIT, 1);
	reopen(f);
	assert_status(f, SEALED_HOLD_COMMIT, 0);
}

static void
an_edited_cluster_record_holds_everything(void **state)
{
	struct fixture *f = *state;
	struct sealed_status before, after;

	sealed_status(f->sealed, &before);
	outside(f, "UPDATE records SET body = replace(body, '\"approvals\":2', '\"approvals\":1') "
		   "WHERE path = 'cluster'");
	sealed_poll(f->sealed);
	assert_status(f, SEALED_HOLD_COMMIT, 1);
	reopen(f);
	assert_status(f, SEALED_HOLD_COMMIT, 1);
	assert_good(f, "clients/admin", 1);
	outside(f, "UPDATE records SET body = replace(body, '\"approvals\":1', '\"approvals\":2') "
		   "WHERE path = 'cluster'");
	sealed_poll(f->sealed);
	assert_status(f, SEALED_HOLD_NONE, 0);
	sealed_status(f->sealed, &after);
	assert_string_equal(before.generation, after.generation);
	assert_string_equal(before.seal_key, after.seal_key);
	save_row(f, "cluster");
	outside(f, "DELETE FROM records WHERE path = 'cluster'");
	reopen(f);
	assert_status(f, SEALED_HOLD_COMMIT, 0);
	put_back_row(f, "cluster");
	sealed_poll(f->sealed);
	assert_status(f, SEALED_HOLD_NONE, 0);
}

static void
an_edited_revision_stops_nothing(void **state)
{
	struct fixture *f = *state;
	uint64_t number;

	must_put(f, "keys/a", 1);
	outside(f, "UPDATE records SET revision = revision + 100");
	assert_int_equal(put(f, "keys/a", 2, 2, &number), 0);
	assert_status(f, SEALED_HOLD_NONE, 0);
	outside(f, "UPDATE meta SET value = 1 WHERE name = 'revision'");
	assert_int_equal(put(f, "keys/a", 3, 3, &number), 0);
	assert_int_equal(sealed_poll(f->sealed), 0);
	reopen(f);
	assert_status(f, SEALED_HOLD_NONE, 0);
	assert_good(f, "keys/a", 3);
}

static void
white_space_is_no_change(void **state)
{
	struct fixture *f = *state;

	outside(f, "UPDATE records SET body = replace(body, ',\"', ' , \"')");
	assert_int_equal(sealed_poll(f->sealed), 0);
	assert_status(f, SEALED_HOLD_NONE, 0);
	reopen(f);
	assert_status(f, SEALED_HOLD_NONE, 0);
}

static void
replace_database(struct fixture *f)
{
	char old[128];

	snprintf(old, sizeof(old), "%s/old.db", f->dir);
	close_all(f);
	assert_int_equal(rename(old, f->file), 0);
	open_store(f);
	open_sealed(f);
}

static void
an_older_copy_of_the_database_is_held(void **state)
{
	struct fixture *f = *state;
	struct sealed_status s;
	uint64_t number;

	must_put(f, "keys/a", 1);
	outside(f, "VACUUM INTO '%s/old.db'", f->dir);
	must_put(f, "keys/a", 2);
	replace_database(f);
	assert_status(f, SEALED_HOLD_BEHIND, 0);
	sealed_status(f->sealed, &s);
	assert_int_equal(s.number, 2);
	assert_int_equal(s.accepted, 3);
	assert_int_equal(put(f, "keys/a", 2, 3, &number), KEKD_EHELD);
}

static void
an_older_copy_put_in_while_running_is_held(void **state)
{
	struct fixture *f = *state;
	uint64_t number;

	must_put(f, "keys/a", 1);
	must_put(f, "keys/b", 1);
	outside(f, "CREATE TABLE saved AS SELECT * FROM records");
	must_put(f, "keys/a", 2);
	outside(f, "BEGIN; DELETE FROM records; INSERT INTO records SELECT * FROM saved; COMMIT");
	assert_true(sealed_poll(f->sealed) > 0);
	assert_status(f, SEALED_HOLD_BEHIND, 2);
	assert_refused(f, "keys/a");
	assert_good(f, "keys/b", 1);
	assert_int_equal(sealed_number(f->sealed), 4);
	assert_int_equal(put(f, "keys/b", STORE_ANY, 3, &number), KEKD_EHELD);
}

static void
a_missing_accepted_file_holds_the_store(void **state)
{
	struct fixture *f = *state;
	char text[SAVED_MAX], edited[SAVED_MAX];
	uint64_t number;

	must_put(f, "keys/a", 1);
	read_file(f->accepted, text);
	unlink(f->accepted);
	reopen(f);
	assert_status(f, SEALED_HOLD_NO_ACCEPTED, 0);
	assert_int_equal(put(f, "keys/a", 2, 3, &number), KEKD_EHELD);
	strcpy(edited, text);
	*strstr(edited, "\"number\":2") = ' ';
	write_file(f->accepted, edited);
	reopen(f);
	assert_status(f, SEALED_HOLD_NO_ACCEPTED, 0);
	strcpy(edited, text);
	strstr(edited, "\"number\":2")[9] = '1';
	write_file(f->accepted, edited);
	reopen(f);
	assert_status(f, SEALED_HOLD_NO_ACCEPTED, 0);
	write_file(f->accepted, text);
	reopen(f);
	assert_status(f, SEALED_HOLD_NONE, 0);
}

/* ---- a node's own records ---- */

static void
own_records_count_for_themselves(void **state)
{
	struct fixture *f = *state;
	uint64_t number = 0;

	assert_int_equal(put_own(f, "nonces/v", 0, 1, &number), 0);
	assert_int_equal(number, 1);
	assert_int_equal(put_own(f, "nonces/v", 0, 2, &number), KEKD_EPRECONDITION);
	assert_int_equal(put_own(f, "nonces/v", 1, 2, &number), 0);
	assert_int_equal(number, 2);
	assert_int_equal(sealed_number(f->sealed), 1);
	f->fault = FAULT_AFTER;
	assert_int_equal(put_own(f, "nonces/v", 2, 3, &number), 0);
	f->fault = FAULT_BEFORE;
	assert_int_equal(put_own(f, "nonces/v", 3, 4, &number), KEKD_ESTORE);
	reopen(f);
	assert_status(f, SEALED_HOLD_NONE, 0);
	assert_good(f, "nonces/v", 3);
	assert_int_equal(find_held(f, "nonces/v")->commit, 3);
}

static void
own_records_put_back_or_edited_are_refused(void **state)
{
	struct fixture *f = *state;
	uint64_t number;

	assert_int_equal(put_own(f, "nonces/v", 0, 1, &number), 0);
	save_row(f, "nonces/v");
	assert_int_equal(put_own(f, "nonces/v", 1, 2, &number), 0);
	put_back_row(f, "nonces/v");
	assert_int_equal(sealed_poll(f->sealed), 1);
	assert_refused(f, "nonces/v");
	assert_status(f, SEALED_HOLD_NONE, 1);
	assert_int_equal(put_own(f, "nonces/v", STORE_ANY, 3, &number), KEKD_ERECORD);
	outside(f, "DELETE FROM records WHERE path = 'nonces/v'");
	assert_int_equal(sealed_poll(f->sealed), 0);
	assert_refused(f, "nonces/v");
	assert_int_equal(put(f, "keys/a", 0, 1, &number), 0);
}

/* ---- the token and the cluster ---- */

static void
a_store_of_another_cluster_is_refused(void **state)
{
	struct fixture *f = *state;
	struct sealed_config c = config(f);

	sealed_freep(&f->sealed);
	c.cluster = "another";
	assert_int_equal(sealed_open(&c, load, f, &f->sealed, f->error), KEKD_EINVALID);
	assert_non_null(strstr(f->error, CLUSTER));
}

static void
without_the_seal_key_nothing_opens(void **state)
{
	struct fixture *f = *state;

	sealed_freep(&f->sealed);
	lab_end(&f->hsm, &f->worker);
	lab_close(&f->lab);
	assert_true(lab_open(&f->lab));
	f->hsm = lab_serve(&f->lab, &f->worker);
	assert_int_equal(try_open(f), KEKD_EOBJECT);
	assert_non_null(strstr(f->error, "seal key"));
}

static void
a_key_that_cluster_does_not_list_seals_nothing(void **state)
{
	struct fixture *f = *state;
	struct sealed_status s;

	sealed_status(f->sealed, &s);
	must_put(f, "keys/a", 1);
	create_object(
		f, HSM_OP_CREATE_SEAL, "kekd:other:seal:7c0d7a58-9d3c-4c89-b9fd-5f3f2a0c7a11");
	outside(f,
		"UPDATE records SET body = replace(body, '%s', "
		"'7c0d7a58-9d3c-4c89-b9fd-5f3f2a0c7a11') "
		"WHERE path = 'keys/a'",
		s.seal_key);
	assert_int_equal(sealed_poll(f->sealed), 1);
	assert_refused(f, "keys/a");
}

/* ---- crashes ---- */

static void
commit_until_killed(struct fixture *f)
{
	uint64_t number = sealed_number(f->sealed);

	for (int i = 0;; i++) {
		json_t *a = value(i), *b = value(i);
		struct sealed_change changes[] = { { "keys/a", STORE_ANY, a },
			{ "keys/b", STORE_ANY, b } };
		if (sealed_commit(f->sealed, changes, 2, &number) < 0)
			return;
		json_decref(a);
		json_decref(b);
	}
}

static void
a_killed_commit_leaves_a_whole_store(void **state)
{
	struct fixture *f = *state;
	uint64_t last = 0;

	must_put(f, "keys/a", 0);
	must_put(f, "keys/b", 0);
	for (int i = 0; i < 10; i++) {
		pid_t pid;
		int status, begun[2];
		char byte;

		assert_int_equal(pipe(begun), 0);
		sealed_freep(&f->sealed);
		store_freep(&f->inner);
		lab_end(&f->hsm, &f->worker);
		pid = fork();
		assert_true(pid >= 0);
		if (pid == 0) {
			f->hsm = lab_serve(&f->lab, &f->worker);
			open_store(f);
			open_sealed(f);
			(void)!write(begun[1], "", 1);
			commit_until_killed(f);
			_exit(1);
		}
		close(begun[1]);
		assert_int_equal(read(begun[0], &byte, 1), 1);
		close(begun[0]);
		usleep((useconds_t)(20000 + 7777 * i));
		kill(pid, SIGKILL);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFSIGNALED(status));
		f->hsm = lab_serve(&f->lab, &f->worker);
		open_store(f);
		open_sealed(f);
		assert_status(f, SEALED_HOLD_NONE, 0);
		assert_int_equal(find_held(f, "keys/a")->value, find_held(f, "keys/b")->value);
		assert_true(sealed_number(f->sealed) >= last);
		last = sealed_number(f->sealed);
	}
	assert_true(last > 3);
}

/* ---- size ---- */

static void
two_thousand_records_are_quick(void **state)
{
	struct fixture *f = *state;
	static char paths[2000][32];
	struct sealed_change changes[50];
	uint64_t start = clock_boot_ns(), made, one, number;
	json_t *body = value(1);

	for (size_t i = 0; i < 2000; i += 50) {
		for (size_t j = 0; j < 50; j++) {
			snprintf(paths[i + j], sizeof(paths[0]), "keys/k%04zu", i + j);
			changes[j] = (struct sealed_change){ paths[i + j], 0, body };
		}
		assert_int_equal(sealed_commit(f->sealed, changes, 50, &number), 0);
	}
	json_decref(body);
	made = clock_boot_ns();
	for (int i = 0; i < 20; i++)
		must_put(f, "keys/k1000", i);
	one = clock_boot_ns();
	reopen(f);
	print_message("2,000 records: sealed and written in %.0f ms, one more commit %.2f ms, "
		      "opened and verified in %.0f ms\n",
		(double)(made - start) / 1e6, (double)(one - made) / 20e6,
		(double)(clock_boot_ns() - one) / 1e6);
	assert_status(f, SEALED_HOLD_NONE, 0);
	assert_int_equal(f->held_count, 2003);
	outside(f, "UPDATE records SET body = replace(body, '\"x\":1', '\"x\":2') WHERE path LIKE "
		   "'keys/k0%%'");
	start = clock_boot_ns();
	assert_int_equal(sealed_poll(f->sealed), 1000);
	print_message(
		"1,000 edited records found in %.0f ms\n", (double)(clock_boot_ns() - start) / 1e6);
}

#define FRESH(name) cmocka_unit_test_setup_teardown(name, setup_empty, teardown)
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

/* ---- moving the seals ---- */

#define MOVED 150 /* records of each kind: several commits */

static void
fill(struct fixture *f)
{
	char path[STORE_PATH_MAX + 1];
	uint64_t number;

	for (int i = 0; i < MOVED; i++) {
		snprintf(path, sizeof(path), "keys/k%03d", i);
		must_put(f, path, i);
		if (i % 3 > 0)
			continue;
		snprintf(path, sizeof(path), "usage/n1/k%03d", i);
		assert_int_equal(put_own(f, path, STORE_ANY, i, &number), 0);
	}
}

static void
check_filled(struct fixture *f)
{
	struct sealed_status status;
	char path[STORE_PATH_MAX + 1];

	sealed_status(f->sealed, &status);
	assert_int_equal(status.hold, SEALED_HOLD_NONE);
	assert_int_equal(status.refused, 0);
	for (int i = 0; i < MOVED; i++) {
		struct sealed_record r = { 0 };
		snprintf(path, sizeof(path), "keys/k%03d", i);
		assert_int_equal(sealed_get(f->sealed, path, &r), 0);
		assert_int_equal(json_integer_value(json_object_get(r.body, "x")), i);
		sealed_record_free(&r);
		assert_int_equal(find_held(f, path)->value, i);
	}
}

static uint64_t
commit_of(struct fixture *f, const char *path)
{
	struct sealed_record r = { 0 };
	uint64_t commit;

	assert_int_equal(sealed_get(f->sealed, path, &r), 0);
	commit = r.commit;
	sealed_record_free(&r);
	return commit;
}

/* Every object of the token that is not named goes. */
static void
forget_all_but(const char *id)
{
	char object[2 * 16 + 1] = "", *at = object;
	char command[512];

	for (const char *p = id; *p; p++)
		if (*p != '-')
			*at++ = *p;
	snprintf(command, sizeof(command),
		"pkcs11-tool --module " SOFTHSM " --login --pin " USER_PIN " --list-objects |"
		" sed -n 's/^ *ID: *//p' | grep -v %s | while read id; do pkcs11-tool "
		"--module " SOFTHSM " --login --pin " USER_PIN
		" --delete-object --type secrkey --id $id ||"
		" exit 1; done",
		object);
	assert_int_equal(run_quietly((const char *const[]){ "sh", "-c", command, NULL }), 0);
}

static void
seals_move_to_a_new_key_and_the_old_one_is_not_needed(void **state)
{
	struct fixture *f = *state;
	struct sealed_status before, after;
	struct sealed_move m = { 0 };
	uint64_t number;

	fill(f);
	number = commit_of(f, "keys/k007");
	sealed_status(f->sealed, &before);
	if (sealed_move(f->sealed, LAB_TOKEN, &m, f->error) < 0)
		fail_msg("%s", f->error);
	sealed_status(f->sealed, &after);
	assert_string_not_equal(before.seal_key, after.seal_key);
	assert_string_equal(after.seal_key, m.key);
	assert_int_equal(after.seal_keys, 1);
	assert_int_equal(after.old_seals, 0);
	assert_int_equal(m.dropped, 1);
	assert_true(m.records >= MOVED + MOVED / 3);
	assert_false(m.resumed);
	assert_int_equal(commit_of(f, "keys/k007"), number);
	check_filled(f);
	forget_all_but(m.key);
	lab_end(&f->hsm, &f->worker);
	f->hsm = lab_serve(&f->lab, &f->worker);
	reopen(f);
	check_filled(f);
	must_put(f, "keys/later", 1);
}

static void
a_move_that_is_broken_off_at_any_commit_goes_on(void **state)
{
	static const enum fault faults[] = { FAULT_BEFORE, FAULT_LOST };
	struct fixture *f = *state;
	struct sealed_move m = { 0 };
	struct sealed_status status;
	unsigned broken = 0;

	fill(f);
	for (unsigned i = 0; i < 40; i++) {
		int err;

		f->skip = i / 2;
		f->fault = faults[i % 2];
		err = sealed_move(f->sealed, LAB_TOKEN, &m, f->error);
		if (f->fault != FAULT_NONE)
			break; /* the move had fewer commits */
		assert_int_equal(err, KEKD_ESTORE);
		broken++;
		f->away = false;
		reopen(f);
		check_filled(f);
		if (sealed_move(f->sealed, LAB_TOKEN, &m, f->error) < 0)
			fail_msg("after commit %u: %s", i / 2, f->error);
		sealed_status(f->sealed, &status);
		assert_int_equal(status.seal_keys, 1);
		check_filled(f);
		forget_all_but(m.key);
		reopen(f);
		check_filled(f);
	}
	f->fault = FAULT_NONE;
	assert_true(broken >= 10);
}

static void
a_move_with_nowhere_to_go_or_a_refused_record_changes_nothing(void **state)
{
	struct fixture *f = *state;
	struct sealed_move m = { 0 };
	struct sealed_status before, after;

	must_put(f, "keys/a", 1);
	sealed_status(f->sealed, &before);
	assert_int_equal(sealed_move(f->sealed, "none", &m, f->error), KEKD_EINVALID);
	outside(f, "UPDATE records SET body = replace(body, '\"x\":1', '\"x\":2') "
		   "WHERE path = 'keys/a'");
	assert_int_equal(sealed_move(f->sealed, LAB_TOKEN, &m, f->error), KEKD_ERECORD);
	assert_non_null(strstr(f->error, "keys/a"));
	sealed_status(f->sealed, &after);
	assert_string_equal(before.seal_key, after.seal_key);
	assert_int_equal(after.seal_keys, 1);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(init_makes_a_cluster_that_opens),
		FRESH(an_empty_store_is_said_to_be_empty),
		TEST(init_happens_once),
		TEST(init_does_not_replace_a_cluster_whose_database_is_lost),
		FRESH(init_refuses_a_token_that_holds_a_cluster),
		FRESH(init_refuses_another_clusters_seal_key),
		FRESH(an_interrupted_init_is_finished_by_the_next),
		FRESH(an_init_killed_before_its_accepted_file_is_whole),
		TEST(every_commit_has_the_next_number),
		TEST(a_commit_compares_what_its_caller_saw),
		TEST(several_changes_are_one_commit),
		TEST(what_is_not_the_actives_cannot_be_committed),
		TEST(the_state_is_the_hash_of_paths_and_seals),
		TEST(a_commit_whose_end_was_not_seen_is_found_out),
		TEST(a_commit_that_cannot_be_found_out_is_found_out_later),
		TEST(a_crash_before_the_accepted_file_loses_nothing),
		TEST(an_accepted_file_that_cannot_be_written_is_tried_again),
		TEST(an_edited_record_is_refused_and_it_alone),
		TEST(an_edited_commit_number_is_refused),
		TEST(a_record_moved_to_another_path_is_refused),
		TEST(a_deleted_record_holds_the_store_until_it_is_back),
		TEST(an_older_record_put_back_holds_the_store),
		TEST(a_deleted_record_does_not_come_back),
		TEST(an_inserted_record_is_refused_and_holds_the_store),
		TEST(bytes_that_are_no_envelope_are_refused),
		TEST(a_record_that_is_written_otherwise_verifies_as_its_canonical_text),
		TEST(a_body_in_which_another_one_hides_is_refused),
		TEST(what_was_read_ahead_is_verified_and_what_changed_since_is_found),
		TEST(what_could_not_be_read_ahead_is_read_later),
		TEST(an_edited_commit_record_holds_everything),
		TEST(an_edited_cluster_record_holds_everything),
		TEST(an_edited_revision_stops_nothing),
		TEST(white_space_is_no_change),
		TEST(an_older_copy_of_the_database_is_held),
		TEST(an_older_copy_put_in_while_running_is_held),
		TEST(a_missing_accepted_file_holds_the_store),
		TEST(own_records_count_for_themselves),
		TEST(own_records_put_back_or_edited_are_refused),
		TEST(a_store_of_another_cluster_is_refused),
		TEST(without_the_seal_key_nothing_opens),
		TEST(a_key_that_cluster_does_not_list_seals_nothing),
		TEST(a_killed_commit_leaves_a_whole_store),
		TEST(two_thousand_records_are_quick),
		TEST(seals_move_to_a_new_key_and_the_old_one_is_not_needed),
		TEST(a_move_that_is_broken_off_at_any_commit_goes_on),
		TEST(a_move_with_nowhere_to_go_or_a_refused_record_changes_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
