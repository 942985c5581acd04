/* SPDX-License-Identifier: Apache-2.0 */
/* A log that was written anew, or cut off, disagrees with what its node told another one. */
#include "kekd/audit.h"

#include "kekd/err.h"
#include "kekd/str.h"

#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define CLAIMS_AT 4 /* every so many records */

struct fixture {
	char one[64], other[64]; /* the log, and its witness */
	struct audit *log, *witness;
	uint64_t claimed; /* the newest */
};

static struct audit *
open_log(const char *dir, const char *node)
{
	const struct audit_config config = {
		.dir = dir, .cluster = "c1", .node = node, .max_bytes = 1500
	};
	struct audit *a = NULL;
	char error[256];

	assert_int_equal(audit_open(&config, &a, error), 0);
	return a;
}

static void
append(struct audit *a, enum audit_type type, json_t *detail)
{
	struct audit_record r = { .type = type, .operation = "wrap", .detail = detail };

	assert_int_equal(audit_append(a, &r), 0);
	json_decref(detail);
}

/* What the log's head is now, as its node would have told. */
static void
witness(struct fixture *f)
{
	struct audit_status s;

	audit_status(f->log, &s);
	append(f->witness, AUDIT_WITNESS,
		json_pack("{s:s, s:s, s:I, s:s, s:s, s:s}", "of", "n1", "of_cluster", "c1", "at",
			(json_int_t)s.sequence, "head", s.head, "key", s.head, "signature", ""));
	f->claimed = s.sequence;
}

static void
write_records(struct fixture *f, int count)
{
	for (int i = 0; i < count; i++) {
		append(f->log, AUDIT_REQUEST, json_pack("{s:i}", "n", i));
		append(f->witness, AUDIT_REQUEST, NULL);
		if (i % CLAIMS_AT == 0)
			witness(f);
	}
}

static int
setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	strcpy(f->one, "/tmp/kekd-log-XXXXXX");
	strcpy(f->other, "/tmp/kekd-witness-XXXXXX");
	assert_non_null(mkdtemp(f->one));
	assert_non_null(mkdtemp(f->other));
	f->log = open_log(f->one, "n1");
	f->witness = open_log(f->other, "n2");
	write_records(f, 20);
	audit_freep(&f->log);
	audit_freep(&f->witness);
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

	nftw(f->one, remove_one, 8, FTW_DEPTH | FTW_PHYS);
	nftw(f->other, remove_one, 8, FTW_DEPTH | FTW_PHYS);
	free(f);
	return 0;
}

/* The log of n1, or of `dir`, held against the witness. */
static int
verify(const struct fixture *f, const char *dir, struct audit_report *ret_report)
{
	struct audit_witnesses *w = NULL;
	struct audit_expected expected = { 0 };
	int err;

	assert_int_equal(audit_witnesses_read(f->other, NULL, 0, &w, ret_report), 0);
	json_decref(ret_report->notes);
	expected.witnesses = w;
	err = audit_verify_expected(dir, &expected, ret_report);
	json_decref(ret_report->notes);
	audit_witnesses_freep(&w);
	return err;
}

static void
test_a_log_that_nobody_touched_agrees(void **state)
{
	struct fixture *f = *state;
	struct audit_report r;

	assert_int_equal(verify(f, f->one, &r), 0);
	assert_int_equal(r.witnessed, 5);
	assert_int_equal(r.witnessed_through, f->claimed);
}

/* Its chain is whole: only the witness knows better. */
static void
test_a_log_written_anew_shows(void **state)
{
	struct fixture *f = *state;
	struct audit_report r;

	nftw(f->one, remove_one, 8, FTW_DEPTH | FTW_PHYS);
	f->log = open_log(f->one, "n1");
	for (int i = 0; i < 20; i++)
		append(f->log, AUDIT_REQUEST, json_pack("{s:i}", "n", i + 1));
	audit_freep(&f->log);
	assert_int_equal(audit_verify(f->one, &r), 0);
	json_decref(r.notes);
	assert_int_equal(verify(f, f->one, &r), KEKD_EAUDIT);
	assert_non_null(strstr(r.fault, "another hash"));
	assert_true(r.fault_sequence > 0 && r.fault_sequence <= f->claimed);
}

/* The newest file goes: what is left is whole by itself. */
static void
test_a_log_that_was_cut_off_shows(void **state)
{
	struct fixture *f = *state;
	struct audit_oldest oldest;
	struct audit_report r;
	char path[160];
	struct audit *a = open_log(f->one, "n1");
	struct audit_status s;

	audit_status(a, &s);
	audit_freep(&a);
	assert_int_equal(audit_oldest(f->one, 1, &oldest), 1);
	for (uint64_t i = f->claimed; i <= s.sequence + 2; i++) {
		snprintf(path, sizeof(path), "%s/audit-%020llu.jsonl", f->one,
			(unsigned long long)i);
		unlink(path);
	}
	snprintf(path, sizeof(path), "%s/%s", f->one, s.file);
	unlink(path);
	assert_int_equal(audit_verify(f->one, &r), 0);
	json_decref(r.notes);
	assert_true(r.last_sequence < f->claimed);
	assert_int_equal(verify(f, f->one, &r), KEKD_EAUDIT);
	assert_non_null(strstr(r.fault, "cut off"));
}

static void
test_another_nodes_log_is_not_judged_by_it(void **state)
{
	struct fixture *f = *state;
	struct audit_report r;

	assert_int_equal(verify(f, f->other, &r), 0);
	assert_int_equal(r.witnessed, 0);
}

/* Nobody can be accused by claims that he did not sign. */
static void
test_a_claim_without_a_signature_by_a_pinned_key_does_not_count(void **state)
{
	struct fixture *f = *state;
	struct audit_pin pin = { { 0 } };
	struct audit_witnesses *w = NULL;
	struct audit_expected expected = { 0 };
	struct audit_report r;

	assert_int_equal(audit_witnesses_read(f->other, &pin, 1, &w, &r), 0);
	json_decref(r.notes);
	expected.witnesses = w;
	assert_int_equal(audit_verify_expected(f->one, &expected, &r), 0);
	json_decref(r.notes);
	assert_int_equal(r.witnessed, 0);
	audit_witnesses_freep(&w);
}

static void
test_a_witness_that_is_not_whole_is_none(void **state)
{
	struct fixture *f = *state;
	struct audit_witnesses *w = NULL;
	struct audit_report r;
	char path[160];
	FILE *file;

	snprintf(path, sizeof(path), "%s/audit-%020d.jsonl", f->other, 1);
	file = fopen(path, "r+");
	assert_non_null(file);
	fseek(file, 30, SEEK_SET);
	fputc('x', file);
	fclose(file);
	assert_int_equal(audit_witnesses_read(f->other, NULL, 0, &w, &r), KEKD_EAUDIT);
	json_decref(r.notes);
	assert_null(w);
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_a_log_that_nobody_touched_agrees),
		TEST(test_a_log_written_anew_shows),
		TEST(test_a_log_that_was_cut_off_shows),
		TEST(test_another_nodes_log_is_not_judged_by_it),
		TEST(test_a_claim_without_a_signature_by_a_pinned_key_does_not_count),
		TEST(test_a_witness_that_is_not_whole_is_none),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
