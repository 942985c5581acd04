/* SPDX-License-Identifier: Apache-2.0 */
/* The tests of every engine. */
#include "store_suite.h"

#include "kekd/clock.h"
#include "kekd/err.h"
#include "kekd/str.h"

#include <setjmp.h>
#include <stdarg.h>
/* cmocka.h needs the three above it. */
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void
ignore(const struct store_record *change, void *user)
{
	(void)change;
	(void)user;
}

#define NEEDS_STORE(f) \
	do { \
		if (!(f)->store) \
			skip(); \
	} while (0)

struct store_op
put(const char *path, uint64_t expected, const char *body)
{
	return (struct store_op){ STORE_PUT, path, expected, body, strlen(body) };
}

int
commit(struct store *s, const struct store_op *ops, size_t count, uint64_t *ret_revision)
{
	return s->engine->commit(s, STORE_OWNER_ACTIVE, ops, count, ret_revision);
}

uint64_t
put_one(struct store *s, const char *path, const char *body)
{
	struct store_op op = put(path, STORE_ANY, body);
	uint64_t revision = 0;

	assert_int_equal(commit(s, &op, 1, &revision), 0);
	return revision;
}

void
assert_body(struct store *s, const char *path, const char *body, uint64_t revision)
{
	struct store_record r;

	assert_int_equal(s->engine->get(s, path, &r), 0);
	assert_string_equal(r.path, path);
	assert_string_equal(r.body, body);
	assert_int_equal(r.len, strlen(body));
	assert_int_equal(r.revision, revision);
	store_record_free(&r);
}

void
assert_absent(struct store *s, const char *path)
{
	struct store_record r;

	assert_int_equal(s->engine->get(s, path, &r), -ENOENT);
}

void
a_commit_writes_all_with_one_revision(void **state)
{
	struct suite *f = *state;
	struct store_op ops[] = { put("a", 0, "1"), put("b", 0, "2") };
	struct store_op next[] = { put("a", 1, "3"), { STORE_DELETE, "b", 1, NULL, 0 },
		{ STORE_CHECK, "c", 0, NULL, 0 } };
	uint64_t revision = 0, first;

	NEEDS_STORE(f);
	assert_int_equal(commit(f->store, ops, 2, &revision), 0);
	assert_body(f->store, "a", "1", revision);
	assert_body(f->store, "b", "2", revision);
	first = next[0].expected = next[1].expected = revision;
	assert_int_equal(commit(f->store, next, 3, &revision), 0);
	assert_true(revision > first);
	assert_body(f->store, "a", "3", revision);
	assert_absent(f->store, "b");
}

void
one_failed_compare_leaves_everything_as_it_was(void **state)
{
	struct suite *f = *state;
	uint64_t revision = f->store ? put_one(f->store, "a", "old") : 0, ignored = 77;
	struct store_op differs[] = { put("b", 0, "new"), put("a", revision + 1, "new") };
	struct store_op exists[] = { put("b", 0, "new"), put("a", 0, "new") };
	struct store_op missing[] = { put("b", 0, "new"), { STORE_DELETE, "c", 5, NULL, 0 } };
	struct store_op check[] = { put("b", 0, "new"),
		{ STORE_CHECK, "a", revision + 9, NULL, 0 } };

	NEEDS_STORE(f);
	assert_int_equal(commit(f->store, differs, 2, &ignored), KEKD_EPRECONDITION);
	assert_int_equal(commit(f->store, exists, 2, &ignored), KEKD_EPRECONDITION);
	assert_int_equal(commit(f->store, missing, 2, &ignored), KEKD_EPRECONDITION);
	assert_int_equal(commit(f->store, check, 2, &ignored), KEKD_EPRECONDITION);
	assert_int_equal(ignored, 77);
	assert_body(f->store, "a", "old", revision);
	assert_absent(f->store, "b");
}

void
a_commit_has_at_most_100_operations(void **state)
{
	struct suite *f = *state;
	char paths[STORE_OPS_MAX + 1][16];
	struct store_op ops[STORE_OPS_MAX + 1];
	uint64_t revision;

	NEEDS_STORE(f);
	for (size_t i = 0; i < STR_COUNT(ops); i++) {
		snprintf(paths[i], sizeof(paths[i]), "k/%03zu", i);
		ops[i] = put(paths[i], 0, "x");
	}
	assert_int_equal(commit(f->store, ops, STORE_OPS_MAX + 1, &revision), -E2BIG);
	assert_absent(f->store, "k/000");
	assert_int_equal(commit(f->store, ops, STORE_OPS_MAX, &revision), 0);
	assert_body(f->store, "k/099", "x", revision);
}

void
bad_paths_and_bodies_are_refused(void **state)
{
	struct suite *f = *state;
	char longest[STORE_PATH_MAX + 2];
	char *big = calloc(1, STORE_BODY_MAX + 2);
	struct store_op twice[] = { put("a", 0, "1"), put("a", 0, "2") };
	struct store_op op;
	uint64_t revision;

	NEEDS_STORE(f);
	memset(longest, 'x', sizeof(longest));
	longest[STORE_PATH_MAX + 1] = '\0';
	op = put(longest, 0, "1");
	assert_int_equal(commit(f->store, &op, 1, &revision), -EINVAL);
	longest[STORE_PATH_MAX] = '\0';
	assert_int_equal(commit(f->store, &op, 1, &revision), 0);
	op = put("", 0, "1");
	assert_int_equal(commit(f->store, &op, 1, &revision), -EINVAL);
	op = put("k\xc3\xa4se", 0, "1");
	assert_int_equal(commit(f->store, &op, 1, &revision), -EINVAL);
	memset(big, 'x', STORE_BODY_MAX + 1);
	op = put("big", 0, big);
	assert_int_equal(commit(f->store, &op, 1, &revision), -EINVAL);
	op.len = STORE_BODY_MAX;
	assert_int_equal(commit(f->store, &op, 1, &revision), 0);
	assert_int_equal(commit(f->store, twice, 2, &revision), -EINVAL);
	free(big);
}

void
a_listing_is_paged_sorted_and_keeps_to_its_prefix(void **state)
{
	struct suite *f = *state;
	struct store_page p;
	char path[32], after[STORE_PATH_MAX + 1] = "";
	size_t total = 0, pages = 0;
	uint64_t last;
	bool more = true;

	NEEDS_STORE(f);
	for (int i = 0; i < 250; i++) {
		snprintf(path, sizeof(path), "keys/k%03d", i);
		put_one(f->store, path, "x");
	}
	put_one(f->store, "keys", "not below keys/");
	put_one(f->store, "keys0", "sorts behind keys/");
	last = put_one(f->store, "keyz/%", "neither");
	while (more) {
		assert_int_equal(
			f->store->engine->list(f->store, "keys/", *after ? after : NULL, 100, &p),
			0);
		assert_int_equal(p.revision, last);
		for (size_t i = 0; i < p.count; i++) {
			snprintf(path, sizeof(path), "keys/k%03zu", total++);
			assert_string_equal(p.records[i].path, path);
		}
		strcpy(after, p.records[p.count - 1].path);
		more = p.more;
		pages++;
		store_page_free(&p);
	}
	assert_int_equal(total, 250);
	assert_int_equal(pages, 3);
	assert_int_equal(f->store->engine->list(f->store, "", NULL, 1000, &p), 0);
	assert_int_equal(p.count, 253);
	assert_false(p.more);
	store_page_free(&p);
	assert_int_equal(f->store->engine->list(f->store, "k%", NULL, 1000, &p), 0);
	assert_int_equal(p.count, 0);
	store_page_free(&p);
}

/* An engine may hear of what others did a moment later. */
static void
wait_for_body(struct store *s, const char *path, const char *body)
{
	uint64_t until = clock_boot_ns() + 5 * CLOCK_S;
	struct store_record r = { 0 };
	bool there = false;

	while (!there && clock_boot_ns() < until) {
		assert_true(s->engine->poll(s, ignore, NULL) >= 0);
		there = s->engine->get(s, path, &r) == 0 && strcmp(r.body, body) == 0;
		store_record_free(&r);
		if (!there)
			usleep(2000);
	}
	assert_true(there);
}

void
two_connections_do_not_overwrite_each_other(void **state)
{
	struct suite *f = *state;
	struct store *other;
	struct store_op op = put("a", 0, "mine");
	uint64_t revision, mine, theirs;

	NEEDS_STORE(f);
	revision = put_one(f->store, "a", "0");
	other = f->second(f);
	op.expected = revision;
	assert_int_equal(commit(f->store, &op, 1, &mine), 0);
	op = put("a", revision, "theirs");
	assert_int_equal(commit(other, &op, 1, &theirs), KEKD_EPRECONDITION);
	op.expected = mine;
	assert_int_equal(commit(other, &op, 1, &theirs), 0);
	assert_true(theirs > mine);
	wait_for_body(f->store, "a", "theirs");
	assert_body(f->store, "a", "theirs", theirs);
	store_freep(&other);
}

void
identity_and_records_outlive_the_process(void **state)
{
	struct suite *f = *state;
	char before[64], after[64];
	uint64_t revision;

	NEEDS_STORE(f);
	revision = put_one(f->store, "keys/a", "{\"x\":1}");
	assert_int_equal(f->store->engine->identity(f->store, before), 0);
	f->reopen(f);
	assert_int_equal(f->store->engine->identity(f->store, after), 0);
	assert_string_equal(before, after);
	assert_body(f->store, "keys/a", "{\"x\":1}", revision);
	assert_true(put_one(f->store, "keys/a", "2") > revision);
}

static void
count(const struct store_record *change, void *user)
{
	(void)change;
	++*(unsigned *)user;
}

void
news_of_others_is_told_once(void **state)
{
	struct suite *f = *state;
	struct store_op gone = { STORE_DELETE, "a", STORE_ANY, NULL, 0 };
	struct store *other;
	uint64_t revision;
	unsigned told = 0;

	NEEDS_STORE(f);
	put_one(f->store, "a", "1");
	other = f->second(f);
	put_one(other, "b", "2");
	put_one(f->store, "c", "3");
	assert_int_equal(commit(other, &gone, 1, &revision), 0);
	for (int i = 0; i < 1000 && told < 2; i++) {
		assert_true(f->store->engine->poll(f->store, count, &told) >= 0);
		usleep(2000);
	}
	assert_int_equal(told, 2);
	assert_int_equal(f->store->engine->poll(f->store, count, &told), 0);
	assert_absent(f->store, "a");
	wait_for_body(f->store, "b", "2");
	wait_for_body(other, "c", "3");
	store_freep(&other);
}

static struct store *
empty_store(char dir[64])
{
	struct store *s = NULL;

	strcpy(dir, "/tmp/kekd-copy-XXXXXX");
	assert_non_null(mkdtemp(dir));
	assert_int_equal(store_open_sqlite(dir, true, &s), 0);
	return s;
}

static void
remove_store(struct store **s, const char *dir)
{
	static const char *const names[] = { "metadata.db", "metadata.db-wal", "metadata.db-shm" };
	char path[128];

	store_freep(s);
	for (size_t i = 0; i < STR_COUNT(names); i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
		unlink(path);
	}
	rmdir(dir);
}

void
a_copy_has_all_records_as_they_are(void **state)
{
	struct suite *f = *state;
	char dir[64], path[32], error[256] = "";
	struct store_record r;
	struct store *to;
	size_t copied = 0;

	NEEDS_STORE(f);
	to = empty_store(dir);
	assert_int_equal(store_copy(f->store, to, &copied, error), KEKD_EINVALID);
	for (int i = 0; i < 230; i++) {
		snprintf(path, sizeof(path), "keys/k%03d", i);
		put_one(f->store, path, path);
	}
	put_one(f->store, "commit", "the last");
	put_one(f->store, "nodes/n1", "of a node that runs");
	put_one(f->store, "members/n1", "x");
	/* A part of it, from a copy that was broken off. */
	put_one(to, "keys/k007", "keys/k007");
	assert_int_equal(store_copy(f->store, to, &copied, error), 0);
	assert_int_equal(copied, 231);
	assert_int_equal(to->engine->get(to, "keys/k229", &r), 0);
	assert_string_equal(r.body, "keys/k229");
	store_record_free(&r);
	assert_absent(to, "nodes/n1");
	assert_int_equal(to->engine->get(to, "commit", &r), 0);
	store_record_free(&r);
	assert_int_equal(store_copy(f->store, to, &copied, error), 0);
	assert_int_equal(copied, 0);
	put_one(to, "keys/other", "1");
	assert_int_equal(store_copy(f->store, to, &copied, error), KEKD_EINVALID);
	assert_non_null(strstr(error, "keys/other"));
	remove_store(&to, dir);
}
