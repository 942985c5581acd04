/* SPDX-License-Identifier: Apache-2.0 */
/* The SQLite engine behind store.h, on real files, with the sqlite3 library as the other program.
 * What holds for every engine is in store_suite.c. */
#include "store_suite.h"

#include "kekd/clock.h"
#include "kekd/err.h"
#include "kekd/log.h"
#include "kekd/store.h"
#include "kekd/str.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

struct fixture {
	struct suite suite; /* first */
	char dir[64];
	char file[96];
	struct store *store;
};

static void
remove_dir(const char *dir)
{
	static const char *const names[] = { "metadata.db", "metadata.db-wal", "metadata.db-shm",
		"old.db" };
	char path[128];

	for (size_t i = 0; i < STR_COUNT(names); i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
		unlink(path);
	}
	rmdir(dir);
}

static void
reopen(struct suite *suite)
{
	struct fixture *f = (struct fixture *)suite;

	store_freep(&f->store);
	assert_int_equal(store_open_sqlite(f->dir, false, &f->store), 0);
	suite->store = f->store;
}

static struct store *
second(struct suite *suite)
{
	struct store *s = NULL;

	assert_int_equal(store_open_sqlite(((struct fixture *)suite)->dir, false, &s), 0);
	return s;
}

static int
setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	strcpy(f->dir, "/tmp/kekd-store-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->file, sizeof(f->file), "%s/metadata.db", f->dir);
	assert_int_equal(store_open_sqlite(f->dir, true, &f->store), 0);
	f->suite = (struct suite){ f->store, reopen, second };
	*state = f;
	return 0;
}

static int
teardown(void **state)
{
	struct fixture *f = *state;

	store_freep(&f->store);
	remove_dir(f->dir);
	free(f);
	return 0;
}

/* Another program at work. */
static void
outside(const struct fixture *f, const char *sql)
{
	char *error = NULL;
	sqlite3 *db;

	assert_int_equal(sqlite3_open(f->file, &db), SQLITE_OK);
	sqlite3_busy_timeout(db, 5000);
	if (sqlite3_exec(db, sql, NULL, NULL, &error) != SQLITE_OK)
		fail_msg("%s: %s", sql, error);
	sqlite3_close(db);
}

static void
a_new_database_is_for_its_owner_alone(void **state)
{
	struct fixture *f = *state;
	struct stat st;

	put_one(f->store, "keys/a", "1");
	assert_int_equal(stat(f->file, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	strcat(f->file, "-wal");
	assert_int_equal(stat(f->file, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
}

static void
a_database_that_is_not_there_is_not_made_unasked(void **state)
{
	struct fixture *f = *state;
	struct store *s = NULL;

	store_freep(&f->store);
	unlink(f->file);
	assert_int_equal(store_open_sqlite(f->dir, false, &s), -ENOENT);
	assert_int_equal(access(f->file, F_OK), -1);
	/* What a crash in the middle of making it leaves. */
	fclose(fopen(f->file, "w"));
	assert_int_equal(store_open_sqlite(f->dir, false, &s), -ENOENT);
	assert_int_equal(store_open_sqlite(f->dir, true, &s), 0);
	store_freep(&s);
	assert_int_equal(store_open_sqlite(f->dir, false, &s), 0);
	store_freep(&s);
}

static void
a_file_of_another_program_is_refused(void **state)
{
	struct fixture *f = *state;
	struct store *s = NULL;
	FILE *file;

	store_freep(&f->store);
	unlink(f->file);
	outside(f, "CREATE TABLE t(x)");
	assert_int_equal(store_open_sqlite(f->dir, true, &s), KEKD_ESTORE);
	file = fopen(f->file, "w");
	for (int i = 0; i < 1000; i++)
		fputs("this is no database ", file);
	fclose(file);
	assert_int_equal(store_open_sqlite(f->dir, false, &s), KEKD_ESTORE);
}

static void
a_newer_schema_is_refused(void **state)
{
	struct fixture *f = *state;
	struct store *s = NULL;

	store_freep(&f->store);
	outside(f, "UPDATE meta SET value = 2 WHERE name = 'schema'");
	assert_int_equal(store_open_sqlite(f->dir, true, &s), KEKD_ESTORE);
}

/* ---- what a page costs ---- */

static sqlite3 *last_opened;

static int
note_opened(sqlite3 *db, const char **error, const struct sqlite3_api_routines *api)
{
	(void)error;
	(void)api;
	last_opened = db;
	return SQLITE_OK;
}

static sqlite3_stmt *
listing_of(sqlite3 *db)
{
	sqlite3_stmt *st = NULL;

	while ((st = sqlite3_next_stmt(db, st)) && !strstr(sqlite3_sql(st), "ORDER BY path"))
		;
	assert_non_null(st);
	return st;
}

/* Steps of SQLite's machine for a page of 64 after this path. */
static int
steps_of_page(struct store *s, sqlite3_stmt *st, const char *prefix, const char *after)
{
	struct store_page p;

	sqlite3_stmt_status(st, SQLITE_STMTSTATUS_VM_STEP, 1);
	assert_int_equal(s->engine->list(s, prefix, after, 64, &p), 0);
	assert_int_equal(p.count, 64);
	assert_true(strcmp(p.records[0].path, after ? after : "") > 0);
	store_page_free(&p);
	return sqlite3_stmt_status(st, SQLITE_STMTSTATUS_VM_STEP, 1);
}

static void
a_late_page_costs_no_more_than_the_first(void **state)
{
	struct fixture *f = *state;
	char paths[STORE_OPS_MAX][32];
	struct store_op ops[STORE_OPS_MAX];
	sqlite3_stmt *st;
	uint64_t revision;
	int first;

	store_freep(&f->store);
	assert_int_equal(sqlite3_auto_extension((void (*)(void))note_opened), SQLITE_OK);
	assert_int_equal(store_open_sqlite(f->dir, false, &f->store), 0);
	sqlite3_cancel_auto_extension((void (*)(void))note_opened);
	st = listing_of(last_opened);
	for (int n = 0; n < 20 * STORE_OPS_MAX; n += STORE_OPS_MAX) {
		for (int i = 0; i < STORE_OPS_MAX; i++) {
			snprintf(paths[i], sizeof(paths[i]), "keys/k%05d", n + i);
			ops[i] = put(paths[i], 0, "x");
		}
		assert_int_equal(commit(f->store, ops, STORE_OPS_MAX, &revision), 0);
	}
	first = steps_of_page(f->store, st, "keys/", NULL);
	assert_in_range(steps_of_page(f->store, st, "keys/", "keys/k01900"), 1, 2 * first);
	assert_in_range(steps_of_page(f->store, st, "", "keys/k01900"), 1, 2 * first);
}

struct watched {
	size_t count;
	char last[512];
};

static void
watch(const struct store_record *change, void *user)
{
	struct watched *w = user;

	w->count++;
	snprintf(w->last, sizeof(w->last), "%s=%s", change->path,
		change->body ? change->body : "(deleted)");
}

static void
assert_poll(struct store *s, size_t count, const char *last)
{
	struct watched w = { 0 };

	assert_int_equal(s->engine->poll(s, watch, &w), (int)count);
	assert_int_equal(w.count, count);
	if (last)
		assert_string_equal(w.last, last);
}

static void
own_commits_are_no_news(void **state)
{
	struct fixture *f = *state;

	put_one(f->store, "a", "1");
	assert_poll(f->store, 0, NULL);
	outside(f, "INSERT INTO meta VALUES('other', 1)");
	assert_poll(f->store, 0, NULL);
}

static void
a_body_edited_without_a_new_revision_is_told(void **state)
{
	struct fixture *f = *state;

	put_one(f->store, "keys/a", "{\"state\":\"disabled\"}");
	put_one(f->store, "keys/b", "1");
	outside(f, "UPDATE records SET body = replace(body, 'disabled', 'enabled') WHERE path = "
		   "'keys/a'");
	assert_poll(f->store, 1, "keys/a={\"state\":\"enabled\"}");
	assert_poll(f->store, 0, NULL);
}

static void
inserted_and_deleted_records_are_told(void **state)
{
	struct fixture *f = *state;

	put_one(f->store, "keys/a", "1");
	outside(f, "INSERT INTO records VALUES('keys/z', 1, '{}')");
	assert_poll(f->store, 1, "keys/z={}");
	outside(f, "DELETE FROM records WHERE path = 'keys/a'");
	assert_poll(f->store, 1, "keys/a=(deleted)");
	assert_absent(f->store, "keys/a");
}

static void
an_edit_after_own_commits_is_told_once(void **state)
{
	struct fixture *f = *state;
	struct store *other = NULL;

	assert_int_equal(store_open_sqlite(f->dir, false, &other), 0);
	put_one(f->store, "a", "1");
	put_one(other, "b", "2");
	put_one(f->store, "c", "3");
	assert_poll(f->store, 1, "b=2");
	assert_poll(f->store, 0, NULL);
	assert_poll(other, 2, "c=3");
	store_freep(&other);
}

static void
rows_that_no_engine_writes_do_no_harm(void **state)
{
	struct fixture *f = *state;
	struct store_page p;
	uint64_t revision;
	struct store_op op = put("a", STORE_ANY, "3");

	put_one(f->store, "a", "1");
	outside(f, "INSERT INTO records VALUES(x'00ff', 1, 'x'), ('', 1, 'x'), (char(1), 1, 'x'), "
		   "('keys/n', 'text', 5), ('keys/big', 1, zeroblob(2000000)), ('k' || char(228), "
		   "1, 'x'), "
		   "('nul' || char(0) || 'x', 1, 'x')");
	outside(f, "CREATE TRIGGER t AFTER UPDATE ON records BEGIN DELETE FROM records; END");
	assert_poll(f->store, 2, "keys/n=5");
	assert_int_equal(f->store->engine->list(f->store, "", NULL, 1000, &p), 0);
	assert_int_equal(p.count, 3);
	assert_string_equal(p.records[1].path, "keys/big");
	assert_int_equal(p.records[1].len, 0);
	store_page_free(&p);
	assert_int_equal(commit(f->store, &op, 1, &revision), 0);
	assert_body(f->store, "a", "3", revision);
}

static void
a_replaced_file_takes_no_more_changes(void **state)
{
	struct fixture *f = *state;
	struct store_op op = put("b", STORE_ANY, "2");
	struct watched w = { 0 };
	char old[128];
	uint64_t revision;

	put_one(f->store, "a", "1");
	snprintf(old, sizeof(old), "%s/old.db", f->dir);
	assert_int_equal(rename(f->file, old), 0);
	assert_int_equal(commit(f->store, &op, 1, &revision), KEKD_ESTORE);
	assert_int_equal(f->store->engine->poll(f->store, watch, &w), KEKD_ESTORE);
	assert_int_equal(rename(old, f->file), 0);
	assert_int_equal(commit(f->store, &op, 1, &revision), 0);
}

/* A file size limit is the full disk that every user can make. */
static void
a_full_disk_is_an_error_and_changes_nothing(void **state)
{
	struct fixture *f = *state;
	struct rlimit old, tight = { 0 };
	char *body = malloc(STORE_BODY_MAX);
	struct store_op ops[] = { put("a", STORE_ANY, "2"),
		{ STORE_PUT, "b", STORE_ANY, body, STORE_BODY_MAX } };
	uint64_t revision = put_one(f->store, "a", "1"), later;

	assert_non_null(body);
	memset(body, 'x', STORE_BODY_MAX);
	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
	tight = (struct rlimit){ 200000, old.rlim_max };
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &tight), 0);
	assert_int_equal(commit(f->store, ops, 2, &later), KEKD_ESTORE);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
	assert_body(f->store, "a", "1", revision);
	assert_absent(f->store, "b");
	assert_int_equal(commit(f->store, ops, 2, &later), 0);
	assert_body(f->store, "a", "2", later);
	free(body);
}

/* Two records that every commit sets to the same text: whoever is killed when, they agree. */
static void
write_until_killed(const char *dir)
{
	struct store *s;

	log_open("test_store", LOG_LEVEL_ERROR);
	if (store_open_sqlite(dir, false, &s) < 0)
		_exit(1);
	for (unsigned i = 0;; i++) {
		char body[32];
		uint64_t revision;
		snprintf(body, sizeof(body), "%d.%u", (int)getpid(), i);
		struct store_op ops[] = { put("a", STORE_ANY, body), put("b", STORE_ANY, body) };
		if (commit(s, ops, 2, &revision) < 0)
			_exit(1);
	}
}

static void
a_commit_killed_in_the_middle_is_all_or_nothing(void **state)
{
	struct fixture *f = *state;
	uint64_t last = 0;

	put_one(f->store, "a", "");
	put_one(f->store, "b", "");
	store_freep(&f->store);
	for (int i = 0; i < 25; i++) {
		struct store_record a, b;
		int status;
		pid_t pid = fork();

		assert_true(pid >= 0);
		if (pid == 0)
			write_until_killed(f->dir);
		usleep((useconds_t)(5000 + 1777 * i));
		kill(pid, SIGKILL);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFSIGNALED(status));
		assert_int_equal(store_open_sqlite(f->dir, false, &f->store), 0);
		assert_int_equal(f->store->engine->get(f->store, "a", &a), 0);
		assert_int_equal(f->store->engine->get(f->store, "b", &b), 0);
		assert_string_equal(a.body, b.body);
		assert_true(a.revision >= last);
		last = a.revision;
		store_record_free(&a);
		store_record_free(&b);
		store_freep(&f->store);
	}
	assert_true(last > 2);
	assert_int_equal(store_open_sqlite(f->dir, false, &f->store), 0);
}

static void
ten_thousand_records_are_quick(void **state)
{
	struct fixture *f = *state;
	static char paths[STORE_OPS_MAX][32];
	struct store_op ops[STORE_OPS_MAX];
	char body[1024];
	uint64_t start = clock_boot_ns(), revision, written, edited;

	memset(body, 'x', sizeof(body) - 1);
	body[sizeof(body) - 1] = '\0';
	for (int i = 0; i < 100; i++) {
		for (int j = 0; j < STORE_OPS_MAX; j++) {
			snprintf(paths[j], sizeof(paths[j]), "keys/k%02d%02d", i, j);
			ops[j] = put(paths[j], 0, body);
		}
		assert_int_equal(commit(f->store, ops, STORE_OPS_MAX, &revision), 0);
	}
	written = clock_boot_ns();
	outside(f, "UPDATE records SET body = 'y' WHERE path = 'keys/k5050'");
	edited = clock_boot_ns();
	assert_poll(f->store, 1, "keys/k5050=y");
	print_message("10,000 records of 1 KiB: written in %.0f ms, an edit found in %.0f ms\n",
		(double)(written - start) / 1e6, (double)(clock_boot_ns() - edited) / 1e6);
	start = clock_boot_ns();
	for (int i = 0; i < 1000; i++)
		assert_poll(f->store, 0, NULL);
	print_message("a poll without news: %.1f us\n", (double)(clock_boot_ns() - start) / 1e6);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		STORE_SUITE(setup, teardown),
		TEST(a_new_database_is_for_its_owner_alone),
		TEST(a_database_that_is_not_there_is_not_made_unasked),
		TEST(a_file_of_another_program_is_refused),
		TEST(a_newer_schema_is_refused),
		TEST(a_late_page_costs_no_more_than_the_first),
		TEST(own_commits_are_no_news),
		TEST(a_body_edited_without_a_new_revision_is_told),
		TEST(inserted_and_deleted_records_are_told),
		TEST(an_edit_after_own_commits_is_told_once),
		TEST(rows_that_no_engine_writes_do_no_harm),
		TEST(a_replaced_file_takes_no_more_changes),
		TEST(a_full_disk_is_an_error_and_changes_nothing),
		TEST(a_commit_killed_in_the_middle_is_all_or_nothing),
		TEST(ten_thousand_records_are_quick),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
