/* SPDX-License-Identifier: Apache-2.0 */
/* Problem documents as a client reads them. */
#include "kekd/http.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

static json_t *
problem(int err, const char *detail, const char *request_id)
{
	_cleanup_(buf_free) struct buf b = BUF_INIT(4096);
	char error[JSON_ERROR_SIZE] = "";
	json_t *value;

	problem_format(&b, err, detail, request_id);
	assert_false(b.bad);
	value = json_parse((const char *)b.data, b.len, error);
	assert_string_equal(error, "");
	return value;
}

static const char *
text(const json_t *value, const char *member)
{
	return json_string_value(json_object_get(value, member));
}

static void
every_error_is_told_with_its_code_title_and_status(void **state)
{
	(void)state;
	for (int err = KEKD_ERR_FIRST + 1; err < KEKD_ERR_END; err++) {
		_cleanup_(json_freep) json_t *value = problem(err, "it broke", "id");
		const struct kekd_err_info *info = kekd_err_info(err);

		assert_string_equal(text(value, "code"), info->code);
		assert_string_equal(text(value, "title"), info->title);
		assert_string_equal(text(value, "detail"), "it broke");
		assert_string_equal(text(value, "request_id"), "id");
		assert_memory_equal(text(value, "type"), "urn:kekd:error:", 15);
		assert_string_equal(text(value, "type") + 15, info->code);
		assert_int_equal(
			json_integer_value(json_object_get(value, "status")), info->http_status);
	}
}

static void
an_error_of_the_system_is_told_as_internal(void **state)
{
	_cleanup_(json_freep) json_t *value = problem(-12, NULL, NULL);

	(void)state;
	assert_string_equal(text(value, "code"), "internal");
	assert_int_equal(json_integer_value(json_object_get(value, "status")), 500);
}

static void
what_is_not_known_is_left_out(void **state)
{
	_cleanup_(json_freep) json_t *value = problem(KEKD_ENOKEY, "", NULL);

	(void)state;
	assert_null(json_object_get(value, "detail"));
	assert_null(json_object_get(value, "request_id"));
}

static void
foreign_text_cannot_break_out_of_the_detail(void **state)
{
	const char *foreign = "x\",\"code\":\"fake\\\n\x01";
	_cleanup_(json_freep) json_t *value = problem(KEKD_ENOKEY, foreign, "id");

	(void)state;
	assert_string_equal(text(value, "detail"), foreign);
	assert_string_equal(text(value, "code"), "key_not_found");
}

static void
a_detail_that_is_not_utf8_is_repaired(void **state)
{
	_cleanup_(json_freep)
		json_t *value = problem(KEKD_EROUTE, "GET /\xff/\xc3\xa9/\xe2\x82", NULL);

	(void)state;
	assert_string_equal(
		text(value, "detail"), "GET /\xef\xbf\xbd/\xc3\xa9/\xef\xbf\xbd\xef\xbf\xbd");
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_error_is_told_with_its_code_title_and_status),
		cmocka_unit_test(an_error_of_the_system_is_told_as_internal),
		cmocka_unit_test(what_is_not_known_is_left_out),
		cmocka_unit_test(foreign_text_cannot_break_out_of_the_detail),
		cmocka_unit_test(a_detail_that_is_not_utf8_is_repaired),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
