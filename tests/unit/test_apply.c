/* SPDX-License-Identifier: Apache-2.0 */
/* kekctl apply: what it reads of a file, and what it takes for a difference. */
#include "../../src/ctl/apply.h"

#include "kekd/access.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

/* The first finding. */
static char said[1024];

void
say_error(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	if (!said[0])
		vsnprintf(said, sizeof(said), format, args);
	va_end(args);
}

void
say_hint(const char *format, ...)
{
	(void)format;
}

static void
read_text(const char *text, struct apply_set *s)
{
	*s = (struct apply_set){ 0 };
	said[0] = '\0';
	apply_read_text("f", text, strlen(text), s);
}

static void
test_every_operation_of_the_server_can_be_granted(void **state)
{
	(void)state;
	for (int op = 0; op < ACCESS_OPERATIONS_COUNT; op++)
		assert_true(apply_is_operation(access_operation_name(op)));
	assert_false(apply_is_operation("fly"));
	assert_false(apply_is_operation(""));
}

static void
test_documents_become_resources_with_their_lines(void **state)
{
	struct apply_set s;

	(void)state;
	read_text("# a comment\n---\nkind: key\nname: a\nlabels:\n  - {name: t, value: 'true'}\n"
		  "rotate_every: never\nfrozen: true\n---\n---\nkind: policy\napprovals: 2\n",
		&s);
	assert_string_equal(said, "");
	assert_int_equal(s.findings, 0);
	assert_int_equal(s.count, 2);
	assert_int_equal(s.list[0].kind, APPLY_KEY);
	assert_int_equal(s.list[0].line, 3);
	assert_string_equal(s.list[0].name, "a");
	assert_string_equal(string_of(json_object_get(s.list[0].wanted, "labels"), "t"), "true");
	assert_true(json_is_null(json_object_get(s.list[0].wanted, "rotate_every")));
	assert_true(json_is_true(json_object_get(s.list[0].wanted, "frozen")));
	assert_null(json_object_get(s.list[0].wanted, "kind"));
	assert_int_equal(number_of(s.list[0].lines, "labels"), 5);
	assert_int_equal(s.list[1].kind, APPLY_POLICY);
	assert_int_equal(number_of(s.list[1].wanted, "approvals"), 2);
	apply_set_free(&s);
}

static void
test_a_finding_names_file_and_line(void **state)
{
	static const struct {
		const char *text, *finding;
	} wrong[] = {
		{ "kind: key\nname: a\nname: b\n",
			"f:3: \"name\" is given twice: first in line 2" },
		{ "kind: key\nname: a\n---\nkind: key\nname: a\n", "f:4: key a is in f:1 already" },
		{ "kind: key\nname: \"a\\0b\"\n", "f:2: name has a NUL" },
		{ "kind: key\nname: a\ntoken:\n", "f:3: token has no value" },
		{ "kind: &a key\nname: *a\n", "f:1: there is an alias" },
		{ "&a [*a]\n", "f:1: a document must be a mapping" },
		{ "kind: key\nname: a\nlabels: &a [*a]\n", "f:3: there is an alias" },
		{ "kind: policy\napprovals: 02\n", "f:2: approvals must be a number" },
		{ "kind: policy\napproval_ttl: -1d\n", "f:2: approval_ttl \"-1d\" must be a time" },
		{ "kind: [key]\n", "f:1: kind must be key, client or policy" },
		{ "? [a]\n: b\n", "f:1: a document needs a kind" },
		{ "kind: key\n? [a]\n: b\nname: x\n", "f:2: a member's name must be a text" },
	};
	struct apply_set s;

	(void)state;
	for (size_t i = 0; i < STR_COUNT(wrong); i++) {
		read_text(wrong[i].text, &s);
		assert_true(s.findings > 0);
		if (strncmp(said, wrong[i].finding, strlen(wrong[i].finding)) != 0)
			fail_msg("%zu: \"%s\", not \"%s\"", i, said, wrong[i].finding);
		apply_set_free(&s);
	}
}

static void
assert_changes(enum apply_kind kind, const char *now, const char *wanted, const char *changes)
{
	char error[JSON_ERROR_SIZE];
	_cleanup_(json_freep) json_t *a = now ? json_parse(now, strlen(now), error) : NULL;
	_cleanup_(json_freep) json_t *b = json_parse(wanted, strlen(wanted), error);
	_cleanup_(json_freep) json_t *difference = apply_compare(kind, a, b);
	char *text = json_dumps(difference, JSON_COMPACT);

	assert_string_equal(text, changes);
	json_text_free(text);
}

static void
test_order_and_ways_of_writing_are_no_difference(void **state)
{
	(void)state;
	assert_changes(APPLY_CLIENT,
		"{\"identities\":[\"dns:a\",\"dns:b\"],\"addresses\":[],\"limits\":"
		"{\"requests_per_s\":0,\"in_flight\":5},"
		"\"grants\":[{\"keys\":\"x\",\"operations\":[\"wrap\",\"unwrap\"]}]}",
		"{\"identities\":[\"dns:b\",\"dns:a\"],\"limits\":{\"in_flight\":5},\"grants\":"
		"[{\"keys\":\"x\",\"operations\":[\"unwrap\"]},"
		"{\"keys\":\"x\",\"operations\":[\"wrap\",\"unwrap\"]}]}",
		"[]");
	assert_changes(APPLY_POLICY, "{\"approvals\":2,\"destroy_wait\":\"7d\"}",
		"{\"destroy_wait\":\"168h\"}", "[]");
	assert_changes(APPLY_KEY, "{\"labels\":{},\"rotate_every\":null}",
		"{\"rotate_every\":null,\"frozen\":false}", "[]");
}

static void
test_a_key_is_held_against_its_primary_version(void **state)
{
	const char *key = "{\"algorithm\":\"aes256-gcm\",\"primary\":2,\"labels\":{\"a\":\"1\"},"
			  "\"versions\":[{\"version\":1,\"token\":\"old\"},"
			  "{\"version\":2,\"token\":\"new\"}]}";

	(void)state;
	assert_changes(APPLY_KEY, key, "{\"token\":\"new\"}", "[]");
	assert_changes(APPLY_KEY, key, "{\"token\":\"old\"}",
		"[{\"change\":\"~\",\"member\":\"token\",\"from\":\"new\",\"to\":\"old\"}]");
	assert_changes(APPLY_KEY, key, "{\"labels\":{\"b\":\"2\"}}",
		"[{\"change\":\"-\",\"member\":\"labels\",\"item\":\"a\",\"from\":\"1\"},"
		"{\"change\":\"+\",\"member\":\"labels\",\"item\":\"b\",\"to\":\"2\"}]");
}

static void
test_what_does_not_exist_yet_differs_in_all_but_defaults(void **state)
{
	(void)state;
	assert_changes(APPLY_KEY, NULL,
		"{\"name\":\"a\",\"labels\":{},\"frozen\":false,\"rotate_every\":\"48h\"}",
		"[{\"change\":\"+\",\"member\":\"rotate_every\",\"to\":\"2d\"}]");
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_operation_of_the_server_can_be_granted),
		cmocka_unit_test(test_documents_become_resources_with_their_lines),
		cmocka_unit_test(test_a_finding_names_file_and_line),
		cmocka_unit_test(test_order_and_ways_of_writing_are_no_difference),
		cmocka_unit_test(test_a_key_is_held_against_its_primary_version),
		cmocka_unit_test(test_what_does_not_exist_yet_differs_in_all_but_defaults),
	};

	json_open();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
