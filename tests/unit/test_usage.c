/* SPDX-License-Identifier: Apache-2.0 */
/* Usage evidence: a fold of the audit log that neither undercounts nor counts twice, and says when
 * it cannot know. The log is a real one; the store's records are kept here. */
#include "kekd/usage.h"

#include "kekd/clock.h"
#include "kekd/err.h"
#include "kekd/json.h"

#include <errno.h>
#include <ftw.h>
#include <glob.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define GENERATION "11111111-1111-4111-8111-111111111111"
#define T0 1700000000000000ull

static atomic_int fail_syncs;

int __real_fdatasync(int fd);
int __wrap_fdatasync(int fd);

int
__wrap_fdatasync(int fd)
{
	if (atomic_load(&fail_syncs) == 0)
		return __real_fdatasync(fd);
	atomic_fetch_sub(&fail_syncs, 1);
	errno = EIO;
	return -1;
}

struct fixture {
	char dir[64];
	struct usage *usage;
	struct audit *audit;
	json_t *store; /* path → record */
	uint64_t now_us;
};

static const struct uuid v1 = { { 1, 2, 3 } }, v2 = { { 4, 5, 6 } };

static void
open_at(struct fixture *f, uint64_t oldest_us, const char *generation)
{
	struct audit_config config = { .dir = f->dir, .cluster = "c1", .node = "n1" };
	const char *path;
	char error[256] = "";
	json_t *body;

	assert_int_equal(usage_open("n1", &f->usage), 0);
	config.usage = f->usage;
	if (audit_open(&config, &f->audit, error) != 0)
		fail_msg("%s", error);
	json_object_foreach(f->store, path, body)
		usage_load(f->usage, path, json_is_null(body) ? NULL : body);
	assert_int_equal(usage_start(f->usage, f->dir, generation, oldest_us), 0);
	while (usage_read_some(f->usage) > 0)
		;
}

static void
open_all(struct fixture *f)
{
	open_at(f, 0, GENERATION);
}

/* As after a kill: nothing more is stored. The log's end is the writer's own business. */
static void
stop(struct fixture *f)
{
	audit_freep(&f->audit);
	usage_freep(&f->usage);
}

static int
setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	strcpy(f->dir, "/tmp/kekd-usage-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	f->store = json_object();
	f->now_us = clock_real_us();
	open_all(f);
	*state = f;
	return 0;
}

static int
remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	(void)st, (void)flag, (void)ftw;
	return remove(path);
}

static int
teardown(void **state)
{
	struct fixture *f = *state;

	stop(f);
	json_decref(f->store);
	nftw(f->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	free(f);
	return 0;
}

/* One round of storing; limit: a crash comes after so many records. */
static void
store(struct fixture *f, size_t limit)
{
	char path[2 * STR_NAME_MAX + 2];
	json_t *body = usage_take(f->usage, true, path);

	for (size_t i = 0; body && i < limit; i++) {
		json_object_set_new(f->store, path, body);
		usage_stored(f->usage, 0);
		body = usage_take(f->usage, false, path);
	}
	json_decref(body);
}

static void
use(struct fixture *f, const char *client, const char *key, const struct uuid *id,
	struct audit_version counts)
{
	struct audit_record r = {
		.type = counts.refused || counts.failed ? AUDIT_REFUSED : AUDIT_REQUEST,
		.time_us = f->now_us,
		.client = client,
		.key = key,
		.operation = "unwrap",
		.code = counts.refused ? "version_not_enabled" : NULL,
		.versions = &counts,
		.versions_count = 1,
	};

	counts.version = 1;
	counts.id = *id;
	if (!audit_count(f->audit, &r))
		assert_int_equal(audit_append(f->audit, &r), 0);
}

static struct usage_total
total(struct fixture *f, const struct uuid *id)
{
	struct usage_total t;

	assert_int_equal(usage_version(f->usage, id, &t), 0);
	return t;
}

/* ---- tests ---- */

static void
test_what_is_durable_is_counted_at_once(void **state)
{
	struct fixture *f = *state;
	struct usage_row *rows;
	struct usage_total t;
	size_t count;

	use(f, "app", "k", &v1, (struct audit_version){ .wrapped = 2, .unwrapped = 1 });
	f->now_us += 10;
	use(f, "app", "k", &v1, (struct audit_version){ .unwrapped = 4 });
	use(f, "other", "k", &v1, (struct audit_version){ .failed = 1 });
	t = total(f, &v1);
	assert_int_equal(t.wrapped, 2);
	assert_int_equal(t.unwrapped, 5);
	assert_int_equal(t.failed, 1);
	assert_int_equal(t.last_unwrapped_us, f->now_us);
	assert_int_equal(t.first_us, f->now_us - 10);
	assert_int_equal(total(f, &v2).last_us, 0);
	assert_int_equal(usage_rows(f->usage, &v1, &rows, &count), 0);
	assert_int_equal(count, 2);
	assert_string_equal(rows[0].client, "app");
	assert_int_equal(rows[0].counts[USAGE_WRAPPED].last_us, f->now_us - 10);
	assert_string_equal(rows[1].client, "other");
	free(rows);
}

static void
test_a_restart_without_any_record_counts_the_whole_log(void **state)
{
	struct fixture *f = *state;

	use(f, "app", "k", &v1, (struct audit_version){ .wrapped = 2 });
	use(f, "app", "k2", &v2, (struct audit_version){ .unwrapped = 3 });
	stop(f);
	open_all(f);
	assert_int_equal(total(f, &v1).wrapped, 2);
	assert_int_equal(total(f, &v2).unwrapped, 3);
	assert_int_equal(usage_incomplete_us(f->usage), 0);
}

/* However many of a round's records were stored when the crash came. */
static void
test_nothing_is_counted_twice_or_not_at_all(void **state)
{
	struct fixture *f = *state;

	for (unsigned i = 0; i < 12; i++) {
		use(f, "app", "k", &v1, (struct audit_version){ .wrapped = 2 });
		use(f, "app", "k2", &v2, (struct audit_version){ .unwrapped = 3 });
		store(f, i % 4);
		use(f, "app", "k2", &v2, (struct audit_version){ .unwrapped = 1 });
		stop(f);
		open_all(f);
		assert_int_equal(total(f, &v1).wrapped, 2 * (i + 1));
		assert_int_equal(total(f, &v2).unwrapped, 4 * (i + 1));
		assert_int_equal(usage_incomplete_us(f->usage), 0);
	}
}

static void
test_a_refusal_that_is_only_counted_shows_at_once_and_once(void **state)
{
	struct fixture *f = *state;

	for (unsigned i = 0; i < 50; i++) {
		f->now_us++;
		use(f, "app", "k", &v1, (struct audit_version){ .refused = 1 });
	}
	assert_int_equal(total(f, &v1).refused, 50);
	assert_int_equal(total(f, &v1).last_refused_us, f->now_us);
	store(f, SIZE_MAX);
	/* The summary comes with the log's end: behind what is stored. */
	stop(f);
	open_all(f);
	assert_int_equal(total(f, &v1).refused, 50);
	assert_int_equal(total(f, &v1).last_refused_us, f->now_us);
}

static void
test_the_evidence_changes_with_use_alone(void **state)
{
	struct fixture *f = *state;
	char a[USAGE_EVIDENCE_SIZE], b[USAGE_EVIDENCE_SIZE];

	use(f, "app", "k", &v1, (struct audit_version){ .wrapped = 2 });
	assert_int_equal(usage_evidence(f->usage, &v1, 0, a), 0);
	use(f, "app", "k2", &v2, (struct audit_version){ .wrapped = 2 });
	store(f, SIZE_MAX);
	stop(f);
	open_all(f);
	assert_int_equal(usage_evidence(f->usage, &v1, 0, b), 0);
	assert_string_equal(a, b);
	use(f, "app", "k", &v1, (struct audit_version){ .refused = 1 });
	assert_int_equal(usage_evidence(f->usage, &v1, 0, b), 0);
	assert_string_not_equal(a, b);
}

static void
remove_log(struct fixture *f)
{
	char pattern[80];
	glob_t files;

	snprintf(pattern, sizeof(pattern), "%s/*", f->dir);
	assert_int_equal(glob(pattern, 0, NULL, &files), 0);
	for (size_t i = 0; i < files.gl_pathc; i++)
		unlink(files.gl_pathv[i]);
	globfree(&files);
}

static void
test_a_log_that_is_gone_is_told_for_ever(void **state)
{
	struct fixture *f = *state;
	uint64_t since;

	use(f, "app", "k", &v1, (struct audit_version){ .wrapped = 2 });
	store(f, SIZE_MAX);
	use(f, "app", "k", &v1, (struct audit_version){ .wrapped = 2 });
	stop(f);
	remove_log(f);
	open_all(f);
	since = usage_incomplete_us(f->usage);
	assert_in_range(since, f->now_us, clock_real_us());
	assert_int_equal(total(f, &v1).wrapped, 2);
	/* What was made after is not concerned. */
	assert_int_equal(usage_incomplete_for(f->usage, f->now_us), since);
	assert_int_equal(usage_incomplete_for(f->usage, clock_real_us()), 0);
	/* By a clock that was ahead: nobody knows when. */
	assert_int_equal(
		usage_incomplete_for(f->usage, clock_real_us() + 3600 * 1000000ull), since);
	use(f, "app", "k", &v1, (struct audit_version){ .wrapped = 1 });
	store(f, SIZE_MAX);
	stop(f);
	open_all(f);
	assert_int_equal(usage_incomplete_us(f->usage), since);
	assert_int_equal(total(f, &v1).wrapped, 3);
}

static void
test_another_log_in_its_place_is_told(void **state)
{
	struct fixture *f = *state;

	use(f, "app", "k", &v1, (struct audit_version){ .wrapped = 2 });
	store(f, SIZE_MAX);
	stop(f);
	remove_log(f);
	/* The new one is longer than the old one was. */
	json_object_clear(f->store);
	open_all(f);
	for (unsigned i = 0; i < 20; i++)
		use(f, "app", "k", &v1, (struct audit_version){ .wrapped = 1 });
	stop(f);
	json_object_set_new(f->store, "n1",
		json_pack("{s:I, s:s, s:s, s:s, s:i, s:i}", "sequence", (json_int_t)3, "hash",
			"0000000000000000000000000000000000000000000000000000000000000000", "time",
			"2023-11-14T22:13:20.000000Z", "generation", GENERATION, "keys", 0, "total",
			0));
	open_all(f);
	assert_int_equal(usage_incomplete_us(f->usage), T0);
	assert_int_equal(total(f, &v1).wrapped, 20);
}

static void
test_a_restore_is_told(void **state)
{
	struct fixture *f = *state;

	use(f, "app", "k", &v1, (struct audit_version){ .wrapped = 2 });
	store(f, SIZE_MAX);
	stop(f);
	open_at(f, 0, "22222222-2222-4222-8222-222222222222");
	assert_true(usage_incomplete_us(f->usage) >= f->now_us);
	assert_int_equal(total(f, &v1).wrapped, 2);
}

static void
test_stored_records_that_are_missing_or_older_are_counted_again(void **state)
{
	struct fixture *f = *state;
	json_t *older;

	use(f, "app", "k", &v1, (struct audit_version){ .wrapped = 2 });
	store(f, SIZE_MAX);
	older = json_deep_copy(json_object_get(f->store, "n1/k"));
	use(f, "app", "k", &v1, (struct audit_version){ .wrapped = 2 });
	store(f, SIZE_MAX);
	stop(f);
	json_object_set_new(f->store, "n1/k", older);
	open_all(f);
	assert_int_equal(total(f, &v1).wrapped, 4);
	stop(f);
	json_object_set_new(f->store, "n1/k", json_null()); /* its seal does not verify */
	open_all(f);
	assert_int_equal(total(f, &v1).wrapped, 4);
	assert_int_equal(usage_incomplete_us(f->usage), 0);
}

static void
test_a_log_that_does_not_go_back_to_the_oldest_version_is_told(void **state)
{
	struct fixture *f = *state;

	use(f, "app", "k", &v1, (struct audit_version){ .wrapped = 2 });
	stop(f);
	open_at(f, T0, GENERATION);
	assert_int_equal(usage_incomplete_us(f->usage), T0);
}

/* The old file ends with records that were never acknowledged; they stand again in the new one. */
static void
test_a_file_whose_sync_failed_is_not_counted_twice(void **state)
{
	struct fixture *f = *state;

	use(f, "app", "k", &v1, (struct audit_version){ .wrapped = 1 });
	atomic_store(&fail_syncs, 1);
	for (unsigned i = 0; i < 5; i++)
		use(f, "app", "k", &v1, (struct audit_version){ .wrapped = 1 });
	assert_int_equal(atomic_load(&fail_syncs), 0);
	assert_int_equal(total(f, &v1).wrapped, 6);
	stop(f);
	open_all(f);
	assert_int_equal(total(f, &v1).wrapped, 6);
	assert_int_equal(usage_incomplete_us(f->usage), 0);
}

/* Strings that look like the members that a start looks for in a line. */
static void
test_no_context_or_identity_can_pretend_a_use(void **state)
{
	struct fixture *f = *state;
	struct audit_version versions[] = { { .version = 1, .id = v1, .wrapped = 1, .failed = 2 },
		{ .version = 2, .id = v2, .unwrapped = 70000 } };
	const char uses[] = "\"versions\":[{\"version\":1,\"id\":\"01020300-0000-0000-0000-"
			    "000000000000\",\"wrapped\":500}]";
	json_t *context = json_pack("{s:s, s:s, s:s, s:s}", "a,", uses, "key", "evil", "client",
		"evil", "operation", "evil\",\"key\":\"evil");
	struct audit_record r = { .type = AUDIT_REQUEST,
		.time_us = f->now_us,
		.client = "app",
		.identity = "uri:x\\,\"client\":\"evil\",\"operation\":\"wrap\",\"key\":\"evil",
		.operation = "rewrap",
		.key = "k",
		.path = uses,
		.contexts = &context,
		.contexts_count = 1,
		.versions = versions,
		.versions_count = 2 };
	struct audit_record plain = { .type = AUDIT_REQUEST,
		.time_us = f->now_us,
		.operation = "key.list",
		.contexts = &context,
		.contexts_count = 1,
		.detail = json_pack("{s:[{s:s, s:i}]}", "versions", "id",
			"01020300-0000-0000-0000-000000000000", "wrapped", 500) };
	struct usage_row *rows;
	size_t count;

	assert_int_equal(audit_append(f->audit, &r), 0);
	assert_int_equal(audit_append(f->audit, &plain), 0);
	stop(f);
	open_all(f);
	assert_int_equal(usage_rows(f->usage, &v1, &rows, &count), 0);
	assert_int_equal(count, 1);
	assert_string_equal(rows[0].client, "app");
	assert_int_equal(rows[0].counts[USAGE_WRAPPED].count, 1);
	assert_int_equal(rows[0].counts[USAGE_FAILED].count, 2);
	assert_int_equal(rows[0].counts[USAGE_FAILED].last_us, f->now_us);
	free(rows);
	assert_int_equal(total(f, &v2).unwrapped, 70000);
	assert_int_equal(usage_incomplete_us(f->usage), 0);
	json_decref(context);
	json_decref(plain.detail);
}

static void
test_other_nodes_are_added_up(void **state)
{
	struct fixture *f = *state;
	struct usage_node node;

	use(f, "app", "k", &v1, (struct audit_version){ .wrapped = 2 });
	store(f, SIZE_MAX);
	json_object_set(f->store, "n0/k", json_object_get(f->store, "n1/k"));
	json_object_set(f->store, "n0", json_object_get(f->store, "n1"));
	stop(f);
	open_all(f);
	assert_int_equal(total(f, &v1).wrapped, 4);
	/* Told again, as when it has changed. */
	usage_load(f->usage, "n0/k", json_object_get(f->store, "n0/k"));
	assert_int_equal(total(f, &v1).wrapped, 4);
	assert_int_equal(usage_node(f->usage, 1, &node), 0);
	assert_string_equal(node.name, "n0");
	assert_true(node.time_us > 0);
	assert_int_equal(usage_node(f->usage, 2, &node), -ENOENT);
}

static bool
fresh(struct fixture *f, const char *node, uint64_t now_us, char ret_text[160])
{
	char nodes[2][STR_NAME_MAX + 1] = { "n1" };

	ret_text[0] = '\0';
	snprintf(nodes[1], sizeof(nodes[1]), "%s", node);
	return usage_is_fresh(
		f->usage, (const char(*)[STR_NAME_MAX + 1]) nodes, 2, now_us, ret_text);
}

static void
test_another_node_must_have_told_of_its_use_within_three_minutes(void **state)
{
	struct fixture *f = *state;
	uint64_t now = clock_real_us();
	json_t *body;
	char text[160];

	use(f, "app", "k", &v1, (struct audit_version){ .wrapped = 2 });
	store(f, SIZE_MAX);
	assert_true(fresh(f, "n1", now, text));
	assert_false(fresh(f, "n0", now, text));
	assert_non_null(strstr(text, "node n0 has told of none"));
	body = json_object_get(f->store, "n1");
	usage_load(f->usage, "n0/k", json_object_get(f->store, "n1/k"));
	usage_load(f->usage, "n0", body);
	assert_true(fresh(f, "n0", now, text));
	assert_true(fresh(f, "n0", now + USAGE_AGE_MAX_US - 5000000, text));
	assert_false(fresh(f, "n0", now + USAGE_AGE_MAX_US + 5000000, text));
	assert_false(fresh(f, "n0", now - USAGE_AGE_MAX_US - 5000000, text));
	assert_non_null(strstr(text, "ahead"));
}

static void
test_a_refused_record_of_another_node_counts_until_it_is_good_again(void **state)
{
	struct fixture *f = *state;
	uint64_t now = clock_real_us();
	char text[160];

	use(f, "app", "k", &v1, (struct audit_version){ .wrapped = 2 });
	store(f, SIZE_MAX);
	usage_load(f->usage, "n0/k", json_object_get(f->store, "n1/k"));
	usage_load(f->usage, "n0", json_object_get(f->store, "n1"));
	usage_load(f->usage, "n0/k", NULL);
	usage_load(f->usage, "n0/k", NULL);
	assert_false(fresh(f, "n0", now, text));
	assert_int_equal(total(f, &v1).wrapped, 4);
	usage_load(f->usage, "n0/k", json_object_get(f->store, "n1/k"));
	assert_true(fresh(f, "n0", now, text));
	usage_load(f->usage, "n0", NULL);
	assert_false(fresh(f, "n0", now, text));
	usage_load(f->usage, "n0", json_object_get(f->store, "n1"));
	assert_true(fresh(f, "n0", now, text));
}

static void
load_too(struct fixture *f, const char *path, json_t *body)
{
	json_object_set(f->store, path, body);
	usage_load(f->usage, path, body);
}

/* Another node, whose records are all that is known of it. */
static void
test_a_record_of_another_node_that_is_missing_or_old_is_no_evidence(void **state)
{
	struct fixture *f = *state;
	uint64_t now = clock_real_us();
	json_t *old;
	char text[160];

	use(f, "app", "k", &v1, (struct audit_version){ .wrapped = 2 });
	store(f, SIZE_MAX);
	old = json_deep_copy(json_object_get(f->store, "n1/k"));
	use(f, "app", "k", &v1, (struct audit_version){ .wrapped = 2 });
	use(f, "app", "k2", &v2, (struct audit_version){ .wrapped = 2 });
	store(f, SIZE_MAX);
	load_too(f, "n0/k", json_object_get(f->store, "n1/k"));
	load_too(f, "n0", json_object_get(f->store, "n1"));
	assert_false(fresh(f, "n0", now, text));
	assert_non_null(strstr(text, "missing"));
	load_too(f, "n0/k2", json_object_get(f->store, "n1/k2"));
	assert_true(fresh(f, "n0", now, text));
	stop(f);
	open_all(f);
	assert_int_equal(usage_incomplete_us(f->usage), 0);
	assert_true(fresh(f, "n0", now, text));
	stop(f);
	json_object_set_new(f->store, "n0/k", old);
	open_at(f, T0, GENERATION);
	assert_int_equal(usage_incomplete_us(f->usage), T0);
	stop(f);
	json_object_set_new(f->store, "n0/k", json_null());
	open_at(f, T0, GENERATION);
	assert_int_equal(usage_incomplete_us(f->usage), T0);
}

/* Otherwise nobody could tell that from a node that is gone. */
static void
test_an_idle_node_of_several_goes_on_telling(void **state)
{
	struct fixture *f = *state;
	char path[2 * STR_NAME_MAX + 2];
	json_t *body;

	use(f, "app", "k", &v1, (struct audit_version){ .wrapped = 2 });
	store(f, SIZE_MAX);
	assert_null(usage_take(f->usage, true, path));
	usage_tell_always(f->usage);
	body = usage_take(f->usage, true, path);
	assert_non_null(body);
	assert_string_equal(path, "n1");
	json_decref(body);
	usage_stored(f->usage, 0);
	assert_null(usage_take(f->usage, false, path));
}

static void
test_a_record_never_grows_past_what_the_store_takes(void **state)
{
	struct fixture *f = *state;
	struct audit_version counts = { .version = 1, .id = v1, .wrapped = 1 };
	struct audit_record r = { .type = AUDIT_REQUEST,
		.time_us = f->now_us,
		.key = "k",
		.versions = &counts,
		.versions_count = 1 };
	char client[STR_NAME_MAX + 1], *text;
	size_t len;

	for (unsigned i = 0; i < 2 * USAGE_ROWS_MAX; i++) {
		snprintf(client, sizeof(client), "c%063u", i);
		r.client = client;
		usage_fold(f->usage, &r, NULL, i + 1, "x");
	}
	assert_int_equal(total(f, &v1).wrapped, 2 * USAGE_ROWS_MAX);
	store(f, 1);
	text = json_canonical(json_object_get(f->store, "n1/k"), &len);
	assert_true(len < 512 * 1024);
	json_text_free(text);
}

/* The writer's thread pays this for each version of each record. */
static void
test_folding_a_record_costs_less_than_writing_it_down(void **state)
{
	struct fixture *f = *state;
	enum { RECORDS = 1000, ROUNDS = 1000, CLIENTS = 100, VERSIONS = 1000 };
	static struct audit_record records[RECORDS];
	static struct audit_version versions[RECORDS];
	static char clients[CLIENTS][32];
	uint64_t start, fold = UINT64_MAX, format = UINT64_MAX;
	struct buf line = BUF_INIT(4096);

	for (unsigned i = 0; i < CLIENTS; i++)
		snprintf(clients[i], sizeof(clients[i]), "client-number-%u", i);
	for (unsigned i = 0; i < RECORDS; i++) {
		versions[i] = (struct audit_version){ .version = 1, .unwrapped = 1 };
		assert_int_equal(uuid_generate(&versions[i].id), 0);
		records[i] = (struct audit_record){ .type = AUDIT_REQUEST,
			.time_us = T0 + i,
			.client = clients[i % CLIENTS],
			.key = "a-key",
			.versions = &versions[i],
			.versions_count = 1,
			.next = i + 1 < RECORDS ? &records[i + 1] : NULL };
	}
	for (unsigned i = 0; i < ROUNDS; i++) {
		start = clock_monotonic_ns();
		usage_fold(f->usage, records, NULL, i + 1, "x");
		start = clock_monotonic_ns() - start;
		fold = start < fold ? start : fold;
	}
	for (unsigned i = 0; i < ROUNDS / 10; i++) {
		start = clock_monotonic_ns();
		for (unsigned k = 0; k < RECORDS; k++) {
			line.len = 0;
			audit_format(&line, &records[k], false);
		}
		start = clock_monotonic_ns() - start;
		format = start < format ? start : format;
	}
	buf_free(&line);
	print_message("%.3f µs for each version of a record, %.3f µs for its line\n",
		(double)fold / RECORDS / 1000, (double)format / RECORDS / 1000);
	assert_true(fold < format);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(
			test_what_is_durable_is_counted_at_once, setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_a_restart_without_any_record_counts_the_whole_log, setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_nothing_is_counted_twice_or_not_at_all, setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_a_refusal_that_is_only_counted_shows_at_once_and_once, setup,
			teardown),
		cmocka_unit_test_setup_teardown(
			test_the_evidence_changes_with_use_alone, setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_a_log_that_is_gone_is_told_for_ever, setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_another_log_in_its_place_is_told, setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_restore_is_told, setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_stored_records_that_are_missing_or_older_are_counted_again, setup,
			teardown),
		cmocka_unit_test_setup_teardown(
			test_a_log_that_does_not_go_back_to_the_oldest_version_is_told, setup,
			teardown),
		cmocka_unit_test_setup_teardown(
			test_a_file_whose_sync_failed_is_not_counted_twice, setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_no_context_or_identity_can_pretend_a_use, setup, teardown),
		cmocka_unit_test_setup_teardown(test_other_nodes_are_added_up, setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_another_node_must_have_told_of_its_use_within_three_minutes, setup,
			teardown),
		cmocka_unit_test_setup_teardown(
			test_a_refused_record_of_another_node_counts_until_it_is_good_again, setup,
			teardown),
		cmocka_unit_test_setup_teardown(
			test_a_record_of_another_node_that_is_missing_or_old_is_no_evidence, setup,
			teardown),
		cmocka_unit_test_setup_teardown(
			test_an_idle_node_of_several_goes_on_telling, setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_a_record_never_grows_past_what_the_store_takes, setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_folding_a_record_costs_less_than_writing_it_down, setup, teardown),
	};

	json_open();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
