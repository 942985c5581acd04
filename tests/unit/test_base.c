/* SPDX-License-Identifier: Apache-2.0 */
/* The base library: text, buffers, JSON, identifiers and times. */
#include "kekd/buf.h"
#include "kekd/clock.h"
#include "kekd/err.h"
#include "kekd/json.h"
#include "kekd/secret.h"
#include "kekd/str.h"
#include "kekd/random.h"
#include "kekd/uuid.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static void
base64_round_trips_every_length(void **state)
{
	uint8_t data[200], back[200];

	(void)state;
	for (size_t len = 0; len < sizeof(data); len++) {
		_cleanup_(buf_free) struct buf text = BUF_INIT(1000);
		size_t n = 0;

		memset(data, (int)len, sizeof(data));
		str_base64(&text, data, len);
		assert_int_equal(text.len, STR_BASE64_SIZE(len));
		assert_int_equal(
			str_unbase64((char *)text.data, text.len, back, sizeof(back), &n), 0);
		assert_int_equal(n, len);
		assert_memory_equal(back, data, len);
	}
}

static void
base64_refuses_what_is_not_canonical(void **state)
{
	static const char *const bad[] = { "A", "AA", "AAA", "AA=A",
		"AB==", "AAB=", "A===", "====", "AA\n=", "AAA-", "AAAA=", "Ag==Ag==" };
	uint8_t out[16];
	size_t n;

	(void)state;
	for (size_t i = 0; i < STR_COUNT(bad); i++)
		assert_int_equal(
			str_unbase64(bad[i], strlen(bad[i]), out, sizeof(out), &n), KEKD_EBASE64);
	assert_int_equal(str_unbase64("AAAAAAAA", 8, out, 5, &n), -E2BIG);
}

static void
names_are_what_the_pattern_says(void **state)
{
	char longest[66];

	(void)state;
	memset(longest, 'a', 65);
	longest[64] = '\0';
	assert_true(str_is_name(longest));
	longest[64] = 'a';
	longest[65] = '\0';
	assert_false(str_is_name(longest));
	assert_true(str_is_name("a") && str_is_name("a-b.c_d") && str_is_name("0"));
	assert_false(str_is_name("") || str_is_name("-a") || str_is_name("a.") ||
		     str_is_name("A") || str_is_name("a/b") || str_is_name("a b"));
}

static void
globs_match_as_documented(void **state)
{
	(void)state;
	assert_true(str_control_len("\n") == 1 && str_control_len("\033[") == 1 &&
		    str_control_len("\x7f") == 1 && str_control_len("\xc2\x9b") == 2 &&
		    str_control_len("\xc2\x80") == 2);
	assert_false(str_control_len("") || str_control_len("a") || str_control_len("\xc2") ||
		     str_control_len("\xc2\xa0") || str_control_len("\xc3\x9b") ||
		     str_control_len("\xe2\x82\xac"));
	assert_true(str_glob("*", "") && str_glob("a*c", "abbc") && str_glob("a?c", "abc") &&
		    str_glob("*-prod", "x-prod-prod") && str_glob("abc", "abc"));
	assert_false(str_glob("a*c", "abb") || str_glob("a?c", "ac") || str_glob("", "a") ||
		     str_glob("abc", "abcd"));
}

static void
a_buffer_never_grows_past_its_limit(void **state)
{
	_cleanup_(buf_free) struct buf b = BUF_INIT(10);

	(void)state;
	buf_str(&b, "123456789");
	assert_false(b.bad);
	buf_u16(&b, 1);
	assert_true(b.bad);
	assert_int_equal(b.len, 9);
	buf_reset(&b);
	buf_block(&b, "abc", 3);
	assert_false(b.bad);
	assert_memory_equal(b.data, "\0\0\0\3abc", 7);
}

static void
a_reader_stops_at_the_end_of_its_input(void **state)
{
	static const uint8_t data[] = { 0, 0, 0, 9, 1, 2 };
	struct reader r = READER(data, sizeof(data));
	size_t len = 7;

	(void)state;
	assert_null(reader_block(&r, 100, &len));
	assert_true(r.bad);
	assert_int_equal(len, 0);
	assert_int_equal(reader_u64(&r), 0);
	assert_int_equal(reader_left(&r), 0);
}

static void
json_strings_are_escaped(void **state)
{
	_cleanup_(buf_free) struct buf b = BUF_INIT(100);

	(void)state;
	buf_json_str(&b, "a\"\\\n\x01é");
	assert_int_equal(b.len, strlen("\"a\\\"\\\\\\u000a\\u0001é\""));
	assert_memory_equal(b.data, "\"a\\\"\\\\\\u000a\\u0001é\"", b.len);
}

static void
json_refuses_doubles_depth_and_strangers(void **state)
{
	static const char twice[] = "{\"a\":1,\"a\":2}";
	char deep[2 * JSON_DEPTH_MAX + 3], error[JSON_ERROR_SIZE] = "";
	_cleanup_(json_freep) json_t *object = NULL;
	int64_t a = 7;
	const struct json_member members[] = { { "a", JSON_KIND_INTEGER, true, &a } };

	(void)state;
	json_open();
	assert_null(json_parse(twice, strlen(twice), error));
	assert_non_null(strstr(error, "twice"));
	memset(deep, '[', sizeof(deep));
	assert_null(json_parse(deep, sizeof(deep), error));
	assert_non_null(strstr(error, "levels"));
	object = json_parse("{\"a\":1,\"b\":2}", 13, error);
	assert_non_null(object);
	assert_int_equal(json_take(object, members, 1, error), KEKD_EMEMBER);
	assert_non_null(strstr(error, "\"b\""));
	json_object_del(object, "b");
	assert_int_equal(json_take(object, members, 1, error), 0);
	assert_int_equal(a, 1);
	json_object_set_new(object, "a", json_integer(-1));
	assert_int_equal(json_take(object, members, 1, error), KEKD_EINVALID);
	json_object_clear(object);
	assert_int_equal(json_take(object, members, 1, error), KEKD_EINVALID);
	assert_non_null(strstr(error, "missing"));
}

static int
compare_pieces(const void *a, const void *b)
{
	return memcmp(a, b, 12);
}

static void
random_pieces_never_come_twice(void **state)
{
	enum { N = 5000 };
	static uint8_t pieces[N][12];

	(void)state;
	for (int i = 0; i < N; i++)
		assert_int_equal(random_piece(pieces[i], sizeof(pieces[i])), 0);
	qsort(pieces, N, sizeof(pieces[0]), compare_pieces);
	for (int i = 1; i < N; i++)
		assert_memory_not_equal(pieces[i - 1], pieces[i], sizeof(pieces[i]));
	assert_int_equal(random_piece(pieces, 0), KEKD_EINTERNAL);
	assert_int_equal(random_piece(pieces, RANDOM_PIECE_MAX + 1), KEKD_EINTERNAL);
}

static void
a_forked_child_draws_other_random_pieces(void **state)
{
	uint8_t mine[RANDOM_PIECE_MAX], its[RANDOM_PIECE_MAX];
	int fds[2], status;
	pid_t pid;

	(void)state;
	assert_int_equal(random_piece(mine, sizeof(mine)), 0); /* there is more in the block */
	assert_int_equal(pipe(fds), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		int err = random_piece(its, sizeof(its));
		_exit(err == 0 && write(fds[1], its, sizeof(its)) == sizeof(its) ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(read(fds[0], its, sizeof(its)), sizeof(its));
	assert_int_equal(random_piece(mine, sizeof(mine)), 0);
	assert_memory_not_equal(mine, its, sizeof(its));
	close(fds[0]);
	close(fds[1]);
}

static void
uuids_are_version_4_and_strictly_parsed(void **state)
{
	struct uuid a, b;
	char text[UUID_TEXT_SIZE];

	(void)state;
	assert_int_equal(uuid_generate(&a), 0);
	uuid_format(&a, text);
	assert_int_equal(text[14], '4');
	assert_int_equal(uuid_parse(text, &b), 0);
	assert_true(uuid_equal(&a, &b));
	text[8] = '0';
	assert_int_equal(uuid_parse(text, &b), -EINVAL);
	assert_int_equal(uuid_parse("0", &b), -EINVAL);
	assert_int_equal(uuid_parse("ABCDEF00-0000-4000-8000-000000000000", &b), -EINVAL);
}

static void
times_are_rfc_3339(void **state)
{
	char text[CLOCK_TEXT_SIZE];
	uint64_t us = 0;

	(void)state;
	clock_format(1767225600123456u, text);
	assert_string_equal(text, "2026-01-01T00:00:00.123456Z");
	assert_int_equal(clock_parse(text, &us), 0);
	assert_int_equal(us, 1767225600123456u);
	assert_int_equal(clock_parse("2026-01-01T00:00:00Z", &us), 0);
	assert_int_equal(us, 1767225600000000u);
	assert_int_equal(clock_parse("2026-01-01 00:00:00", &us), -EINVAL);
	assert_int_equal(clock_parse("2026-01-01T00:00:00+01:00", &us), -EINVAL);
}

static void
a_time_that_would_be_written_otherwise_is_refused(void **state)
{
	static const char *const texts[] = { "1013-01-01T00:00:00Z", "1969-12-31T23:59:59.999999Z",
		"2026-02-31T00:00:00Z", "2026-1-1T00:00:00Z", " 2026-01-01T00:00:00Z",
		"12026-01-01T00:00:00Z", "2026-01-01T00:00:60Z", "" };
	uint64_t us = 7;

	(void)state;
	for (size_t i = 0; i < STR_COUNT(texts); i++)
		assert_int_equal(clock_parse(texts[i], &us), -EINVAL);
	assert_int_equal(us, 7);
	assert_int_equal(clock_parse("9999-12-31T23:59:59Z", &us), 0);
}

static void
errors_have_codes_that_are_found_again(void **state)
{
	(void)state;
	for (int err = KEKD_ERR_FIRST + 1; err < KEKD_ERR_END; err++) {
		const struct kekd_err_info *info = kekd_err_info(err);
		assert_int_equal(info->err, err);
		assert_ptr_equal(kekd_err_find(info->code), info);
		assert_in_range(info->http_status, 400, 503);
	}
	assert_int_equal(kekd_err_info(-ENOENT)->err, KEKD_EINTERNAL);
	assert_string_equal(kekd_strerror(-ENOENT), strerror(ENOENT));
	assert_null(kekd_err_find("no_such_code"));
}

static void
durations_are_one_number_and_one_unit(void **state)
{
	static const struct {
		const char *text;
		uint64_t s;
	} good[] = { { "0s", 0 }, { "45s", 45 }, { "90s", 90 }, { "30m", 1800 }, { "25h", 90000 },
		{ "1d", 86400 }, { "90d", 7776000 }, { "36525d", CLOCK_DURATION_MAX_S } };
	static const char *const bad[] = { "", "s", "5", "-5s", "+5s", " 5s", "5 s", "5s ", "05s",
		"5S", "5w", "1h30m", "1.5h", "36526d", "3155760001s", "99999999999999999999s" };
	char text[CLOCK_DURATION_SIZE];
	uint64_t s = 0;

	(void)state;
	for (size_t i = 0; i < STR_COUNT(good); i++) {
		assert_int_equal(clock_parse_duration(good[i].text, &s), 0);
		assert_int_equal(s, good[i].s);
		clock_format_duration(s, text);
		assert_string_equal(text, good[i].text);
	}
	for (size_t i = 0; i < STR_COUNT(bad); i++)
		assert_int_equal(clock_parse_duration(bad[i], &s), -EINVAL);
	assert_int_equal(clock_parse_duration("24h", &s), 0);
	clock_format_duration(s, text);
	assert_string_equal(text, "1d");
}

static void
secrets_compare_by_content_and_length(void **state)
{
	struct secret s;

	(void)state;
	secret_heap_open();
	assert_int_equal(secret_alloc(&s, 4), 0);
	memcpy(s.data, "1234", 4);
	assert_true(secret_equal(s.data, s.len, "1234", 4));
	assert_false(
		secret_equal(s.data, s.len, "1235", 4) || secret_equal(s.data, s.len, "123", 3));
	secret_free(&s);
	assert_null(s.data);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(base64_round_trips_every_length),
		cmocka_unit_test(base64_refuses_what_is_not_canonical),
		cmocka_unit_test(names_are_what_the_pattern_says),
		cmocka_unit_test(globs_match_as_documented),
		cmocka_unit_test(a_buffer_never_grows_past_its_limit),
		cmocka_unit_test(a_reader_stops_at_the_end_of_its_input),
		cmocka_unit_test(json_strings_are_escaped),
		cmocka_unit_test(json_refuses_doubles_depth_and_strangers),
		cmocka_unit_test(random_pieces_never_come_twice),
		cmocka_unit_test(a_forked_child_draws_other_random_pieces),
		cmocka_unit_test(uuids_are_version_4_and_strictly_parsed),
		cmocka_unit_test(times_are_rfc_3339),
		cmocka_unit_test(a_time_that_would_be_written_otherwise_is_refused),
		cmocka_unit_test(durations_are_one_number_and_one_unit),
		cmocka_unit_test(errors_have_codes_that_are_found_again),
		cmocka_unit_test(secrets_compare_by_content_and_length),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
