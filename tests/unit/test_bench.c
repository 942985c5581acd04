/* SPDX-License-Identifier: Apache-2.0 */
/* kekctl bench: its histogram is as precise as it says, its reader takes HTTP as kekd writes it. */
#include "../../src/ctl/bench.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

/* show.c's, without tables. */
const char *
string_of(const json_t *object, const char *member)
{
	const char *text = json_string_value(json_object_get(object, member));

	return text ? text : "";
}

static void
test_quantiles_are_within_a_percent(void **state)
{
	struct histogram *h = calloc(1, sizeof(*h));

	(void)state;
	for (uint64_t i = 1; i <= 100000; i++)
		histogram_add(h, i * 1000, 1);
	assert_in_range(histogram_quantile(h, 0.5), 49500000, 50500000);
	assert_in_range(histogram_quantile(h, 0.99), 98100000, 99900000);
	assert_int_equal(histogram_quantile(h, 1), 100000000);
	assert_in_range((uint64_t)histogram_mean(h), 49900000, 50100000);
	free(h);
}

static void
test_an_empty_histogram_has_no_quantile_and_a_huge_value_fits(void **state)
{
	struct histogram *h = calloc(1, sizeof(*h));

	(void)state;
	assert_int_equal(histogram_quantile(h, 0.99), 0);
	histogram_add(h, UINT64_MAX / 2, 1);
	assert_true(histogram_quantile(h, 0.5) > 1000000000);
	free(h);
}

/* 99 requests of 1 ms, then one that stood for 100 ms: 99 more would have come meanwhile. */
static void
test_a_stall_stands_for_what_was_not_sent(void **state)
{
	struct histogram *h = calloc(1, sizeof(*h)), *c = calloc(1, sizeof(*c));

	(void)state;
	histogram_add(h, 1000000, 99);
	histogram_add(h, 100000000, 1);
	assert_in_range(histogram_quantile(h, 0.9), 990000, 1010000);
	histogram_correct(h, 1000000, c);
	assert_in_range(c->total, 195, 200);
	assert_in_range(histogram_quantile(c, 0.75), 45000000, 55000000);
	free(h);
	free(c);
}

static int
parse(const char *text, struct bench_reply *r)
{
	*r = (struct bench_reply){ 0 };
	return bench_reply_parse(text, strlen(text), r);
}

static void
test_a_reply_is_whole_at_its_last_byte(void **state)
{
	static const char text[] = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n"
				   "Connection: close\r\n\r\nbody";
	struct bench_reply r = { 0 };

	(void)state;
	for (size_t n = 0; n < strlen(text); n++)
		assert_int_equal(bench_reply_parse(text, n, &r), 0);
	assert_int_equal(bench_reply_parse(text, strlen(text), &r), 1);
	assert_int_equal(r.status, 503);
	assert_int_equal(r.body_len, 4);
	assert_true(r.last);
}

static void
test_what_is_not_kekds_http_is_refused(void **state)
{
	static const char *const texts[] = {
		"SSH-2.0-x\r\n\r\n",
		"HTTP/1.1 200 OK\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab",
		"HTTP/1.1 9x0 OK\r\nContent-Length: 0\r\n\r\n",
	};
	struct bench_reply r;

	(void)state;
	for (size_t i = 0; i < STR_COUNT(texts); i++)
		assert_int_equal(parse(texts[i], &r), -EPROTO);
}

static struct bench_verdict
judge(enum bench_op op, size_t items, const char *body)
{
	char first[] = "YQ==", second[] = "Yg==", *const plain[] = { first, second };
	const struct bench_body sent = { .plain = plain };
	struct bench_verdict v;

	bench_judge(op, &sent, items, body, strlen(body), &v);
	return v;
}

static void
test_a_wrong_plaintext_is_wrong_whatever_its_shape(void **state)
{
	(void)state;
	assert_false(judge(BENCH_UNWRAP, 1, "{\"plaintext\":\"YQ==\",\"version\":1}").wrong);
	assert_false(judge(BENCH_UNWRAP, 1, "{\"version\":1, \"plaintext\" : \"YQ==\"}").wrong);
	assert_true(judge(BENCH_UNWRAP, 1, "{\"plaintext\":\"Yg==\"}").wrong);
	assert_true(judge(BENCH_UNWRAP, 1, "{}").wrong);
	assert_true(judge(BENCH_UNWRAP, 1, "not JSON").wrong);
	assert_true(judge(
		BENCH_UNWRAP, 2, "{\"items\":[{\"plaintext\":\"Yg==\"},{\"plaintext\":\"YQ==\"}]}")
			    .wrong);
	assert_true(judge(BENCH_UNWRAP, 2, "{\"items\":[{\"plaintext\":\"YQ==\"}]}").wrong);
	assert_true(judge(BENCH_WRAP, 1, "{\"ciphertext\":\"\"}").wrong);
	assert_false(judge(BENCH_WRAP, 1, "{\"ciphertext\":\"a2Vr\"}").wrong);
}

static void
test_an_item_that_failed_is_counted_with_its_code(void **state)
{
	struct bench_verdict v = judge(BENCH_UNWRAP, 2,
		"{\"items\":[{\"error\":{\"code\":\"unwrap_failed\"}},{\"plaintext\":\"Yg==\"}]}");

	(void)state;
	assert_false(v.wrong);
	assert_int_equal(v.items, 1);
	assert_int_equal(v.items_failed, 1);
	assert_string_equal(v.code, "unwrap_failed");
}

static void
test_what_was_wrapped_is_asked_back(void **state)
{
	static const char one[] = "{\"ciphertext\":\"QUE=\",\"key\":\"demo\"}";
	static const char two[] =
		"{\"items\":[{\"ciphertext\":\"QUE=\"},{\"ciphertext\":\"QkI=\"}]}";
	struct buf b = BUF_INIT(1000);

	(void)state;
	assert_true(bench_put_unwrap(&b, 1, false, one, strlen(one)));
	buf_u8(&b, 0);
	assert_string_equal((char *)b.data, "{\"ciphertext\":\"QUE=\"}");
	buf_reset(&b);
	assert_true(bench_put_unwrap(&b, 2, true, two, strlen(two)));
	buf_u8(&b, 0);
	assert_string_equal((char *)b.data, two);
	buf_reset(&b);
	assert_false(bench_put_unwrap(&b, 2, true, one, strlen(one)));
	buf_free(&b);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_quantiles_are_within_a_percent),
		cmocka_unit_test(test_an_empty_histogram_has_no_quantile_and_a_huge_value_fits),
		cmocka_unit_test(test_a_stall_stands_for_what_was_not_sent),
		cmocka_unit_test(test_a_reply_is_whole_at_its_last_byte),
		cmocka_unit_test(test_what_is_not_kekds_http_is_refused),
		cmocka_unit_test(test_a_wrong_plaintext_is_wrong_whatever_its_shape),
		cmocka_unit_test(test_an_item_that_failed_is_counted_with_its_code),
		cmocka_unit_test(test_what_was_wrapped_is_asked_back),
	};

	json_open();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
