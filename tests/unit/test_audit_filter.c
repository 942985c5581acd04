/* SPDX-License-Identifier: Apache-2.0 */
/* Which records match; and that a line which is not parsed never would have matched. */
#include "kekd/audit.h"
#include "kekd/clock.h"
#include "kekd/json.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static const char unwrap[] =
	"{\"v\":1,\"seq\":7,\"time\":\"2026-01-31T12:00:00.000000Z\",\"node\":\"n\",\"type\":"
	"\"request\","
	"\"client\":\"app\",\"request_id\":\"id-1\",\"operation\":\"unwrap\",\"key\":\"demo\","
	"\"context\":{\"client\":\"mallory\"},\"blobs\":[\"0011223344556677\"],\"result\":\"ok\"}";
static const char refused[] =
	"{\"v\":1,\"seq\":8,\"time\":\"2026-01-31T12:00:01.000000Z\",\"node\":\"n\",\"type\":"
	"\"request\","
	"\"client\":\"app\",\"operation\":\"wrap\",\"key\":\"demo\",\"result\":\"error\","
	"\"code\":\"forbidden\"}";
static const char summary[] = "{\"v\":1,\"seq\":9,\"time\":\"2026-01-31T12:00:02.000000Z\","
			      "\"node\":\"n\",\"type\":\"refusals\","
			      "\"client\":\"app\",\"count\":12}";

static bool
matches(const struct audit_filter *f, const char *line)
{
	char error[JSON_ERROR_SIZE];
	json_t *record = json_parse(line, strlen(line), error);
	bool is = record && audit_filter_matches(f, record);

	assert_non_null(record);
	json_decref(record);
	if (is)
		assert_true(audit_filter_may_match(f, line, strlen(line)));
	return is;
}

static void
each_member_must_be_the_one_asked_for(void **state)
{
	const struct {
		struct audit_filter f;
		bool unwrap, refused;
	} cases[] = {
		{ { 0 }, true, true },
		{ { .client = "app" }, true, true },
		{ { .client = "ap" }, false, false },
		{ { .key = "demo" }, true, true },
		{ { .key = "other" }, false, false },
		{ { .operation = "unwrap" }, true, false },
		{ { .code = "forbidden" }, false, true },
		{ { .request_id = "id-1" }, true, false },
		{ { .client = "app", .operation = "wrap" }, false, true },
		{ { .denied = true }, false, true },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		assert_int_equal(matches(&cases[i].f, unwrap), cases[i].unwrap);
		assert_int_equal(matches(&cases[i].f, refused), cases[i].refused);
	}
}

static void
what_a_context_says_makes_nobody_anothers_client(void **state)
{
	const struct audit_filter f = { .client = "mallory" };

	(void)state;
	assert_true(audit_filter_may_match(&f, unwrap, strlen(unwrap)));
	assert_false(matches(&f, unwrap));
}

static void
summed_up_refusals_are_denied_as_well(void **state)
{
	const struct audit_filter f = { .denied = true };

	(void)state;
	assert_true(matches(&f, summary));
}

static void
a_blob_is_found_by_all_of_its_hash_and_among_blobs_alone(void **state)
{
	struct audit_filter f = { .has_blob = true,
		.blob = { 0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77 } };

	(void)state;
	assert_true(matches(&f, unwrap));
	assert_false(matches(&f, refused));
	f.blob[7] = 0x78;
	assert_false(matches(&f, unwrap));
}

static void
since_is_within_and_until_is_not(void **state)
{
	struct audit_filter f = { 0 };
	uint64_t at;

	(void)state;
	assert_int_equal(clock_parse("2026-01-31T12:00:00Z", &at), 0);
	f.since_us = at;
	assert_true(matches(&f, unwrap));
	f.since_us = at + 1;
	assert_false(matches(&f, unwrap));
	f = (struct audit_filter){ .until_us = at };
	assert_false(matches(&f, unwrap));
	f.until_us = at + 1;
	assert_true(matches(&f, unwrap));
}

static void
texts_that_need_escapes_are_left_to_the_parser(void **state)
{
	const char *line = "{\"client\":\"a\\u00e9\\\"b\"}";
	const struct audit_filter f = { .client = "a\xc3\xa9\"b" };

	(void)state;
	assert_true(matches(&f, line));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_member_must_be_the_one_asked_for),
		cmocka_unit_test(what_a_context_says_makes_nobody_anothers_client),
		cmocka_unit_test(summed_up_refusals_are_denied_as_well),
		cmocka_unit_test(a_blob_is_found_by_all_of_its_hash_and_among_blobs_alone),
		cmocka_unit_test(since_is_within_and_until_is_not),
		cmocka_unit_test(texts_that_need_escapes_are_left_to_the_parser),
	};

	json_open();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
