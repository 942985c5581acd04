/* SPDX-License-Identifier: Apache-2.0 */
/* What is counted, and how it is told. */
#include "kekd/clock.h"
#include "kekd/traffic.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#define THREADS 4
#define ROUNDS 20000

static const struct http_route routes[] = {
	{ .method = "GET", .pattern = "/a", .plane = HTTP_READ, .name = "look" },
	{ .method = "POST", .pattern = "/b", .plane = HTTP_DATA, .name = "wrap" },
	{ .method = "GET", .pattern = "/c", .plane = HTTP_READ, .name = "look" },
	{ NULL },
};

static struct metrics_histogram times;

static void
assert_text(struct buf *b, const char *wanted)
{
	buf_u8(b, '\0');
	assert_false(b->bad);
	assert_string_equal((char *)b->data, wanted);
	buf_reset(b);
}

static void
a_sample_has_its_labels_and_they_are_escaped(void **state)
{
	_cleanup_(buf_free) struct buf b = BUF_INIT(4096);
	struct metrics_text t = { .out = &b };

	(void)state;
	metrics_family(&t, "a_total", METRICS_COUNTER, "What it is.");
	assert_text(&b, "# HELP a_total What it is.\n# TYPE a_total counter\n");
	metrics_number(&t, UINT64_MAX, NULL);
	assert_text(&b, "a_total 18446744073709551615\n");
	metrics_number(&t, 0, "x", "1", "y", "a\"b\\c\nd", NULL);
	assert_text(&b, "a_total{x=\"1\",y=\"a\\\"b\\\\c\\nd\"} 0\n");
	metrics_real(&t, 0.25, "x", "", NULL);
	assert_text(&b, "a_total{x=\"\"} 0.25\n");
	metrics_real(&t, 1764000000.12345, NULL);
	assert_text(&b, "a_total 1764000000.12345\n");
}

static void
a_text_that_does_not_fit_is_said_to_be_bad(void **state)
{
	_cleanup_(buf_free) struct buf b = BUF_INIT(8);
	struct metrics_text t = { .out = &b, .name = "a" };

	(void)state;
	metrics_number(&t, 1, "label", "value", NULL);
	assert_true(b.bad);
	metrics_times(&t, &times, NULL);
	assert_true(b.bad);
}

static void
a_time_is_in_the_first_bucket_that_holds_it_and_in_all_above(void **state)
{
	_cleanup_(buf_free) struct buf b = BUF_INIT(65536);
	struct metrics_text t = { .out = &b, .name = "d" };
	const char *text;

	(void)state;
	memset(&times, 0, sizeof(times));
	metrics_observe(&times, CLOCK_MS);     /* on the bound */
	metrics_observe(&times, CLOCK_MS + 1); /* above it */
	metrics_observe(&times, 11 * CLOCK_S); /* above all */
	assert_int_equal(metrics_observed(&times), 3);
	metrics_times(&t, &times, "op", "w", NULL);
	buf_u8(&b, '\0');
	assert_false(b.bad);
	text = (const char *)b.data;
	assert_non_null(strstr(text, "d_bucket{op=\"w\",le=\"0.0005\"} 0\n"));
	assert_non_null(strstr(text, "d_bucket{op=\"w\",le=\"0.001\"} 1\n"));
	assert_non_null(strstr(text, "d_bucket{op=\"w\",le=\"0.0025\"} 2\n"));
	assert_non_null(strstr(text, "d_bucket{op=\"w\",le=\"10\"} 2\n"));
	assert_non_null(strstr(text, "d_bucket{op=\"w\",le=\"+Inf\"} 3\n"));
	assert_non_null(strstr(text, "d_sum{op=\"w\"} 11.002000001\n"));
	assert_non_null(strstr(text, "d_count{op=\"w\"} 3\n"));
	buf_reset(&b);
	metrics_times(&t, &times, NULL);
	buf_u8(&b, '\0');
	assert_non_null(strstr((char *)b.data, "d_bucket{le=\"+Inf\"} 3\n"));
	assert_non_null(strstr((char *)b.data, "d_count 3\n"));
}

static int
open_traffic(void **state)
{
	return traffic_open(routes, (struct traffic **)state);
}

static int
close_traffic(void **state)
{
	traffic_freep((struct traffic **)state);
	return 0;
}

static size_t
operation(const struct traffic *t, const char *name)
{
	for (size_t i = 0; i < traffic_operations(t); i++)
		if (strcmp(traffic_operation(t, i), name) == 0)
			return i;
	fail_msg("no operation %s", name);
	return 0;
}

static size_t
code(const char *name)
{
	for (size_t i = 0; i < TRAFFIC_CODES; i++)
		if (strcmp(traffic_code(i), name) == 0)
			return i;
	fail_msg("no code %s", name);
	return 0;
}

static void
routes_of_one_name_are_one_operation(void **state)
{
	const struct traffic *t = *state;

	assert_int_equal(traffic_operations(t), 3);
	assert_false(traffic_has_items(t, operation(t, "look")));
	assert_true(traffic_has_items(t, operation(t, "wrap")));
}

static void
each_error_is_counted_under_its_own_code_and_result(void **state)
{
	struct traffic *t = *state;
	size_t wrap = operation(t, "wrap"), counts[TRAFFIC_RESULTS] = { 0 };

	for (int err = KEKD_ERR_FIRST + 1; err < KEKD_ERR_END; err++) {
		const struct kekd_err_info *info = kekd_err_info(err);

		traffic_count_request(t, &routes[1], NULL, err, 1);
		traffic_count_items(t, &routes[1], err, 2);
		assert_int_equal(traffic_requests(t, wrap, code(info->code)), 1);
		assert_int_equal(traffic_items(t, wrap, code(info->code)), 2);
		counts[info->http_status < 500 ? TRAFFIC_REFUSED : TRAFFIC_FAILED]++;
	}
	for (enum traffic_result r = 0; r < TRAFFIC_RESULTS; r++)
		assert_int_equal(metrics_observed(traffic_times(t, wrap, r)), counts[r]);
	traffic_count_request(t, &routes[1], NULL, -12, 1); /* an errno is "internal" */
	assert_int_equal(traffic_requests(t, wrap, code("internal")), 2);
	assert_int_equal(traffic_requests(t, wrap, code("ok")), 0);
	traffic_count_request(t, &routes[0], NULL, 0, 1);
	traffic_count_request(t, &routes[2], NULL, 0, 1);
	assert_int_equal(traffic_requests(t, operation(t, "look"), code("ok")), 2);
	traffic_count_request(t, NULL, NULL, KEKD_EROUTE, 1);
	assert_int_equal(traffic_requests(t, operation(t, "none"), code("not_found")), 1);
}

static uint64_t
requests_of(const struct traffic *t, const char *client)
{
	for (size_t i = 0; i < traffic_clients(t); i++)
		if (strcmp(traffic_client(t, i), client) == 0)
			return traffic_client_requests(t, i, TRAFFIC_OK);
	return 0;
}

static void
clients_past_the_bound_are_counted_together(void **state)
{
	struct traffic *t = *state;
	char name[32];

	traffic_count_request(t, &routes[0], "other", 0, 1);
	for (int round = 0; round < 3; round++)
		for (int i = 0; i < TRAFFIC_CLIENTS_MAX + 50; i++) {
			snprintf(name, sizeof(name), "client-%d", i);
			traffic_count_request(t, &routes[0], name, 0, 1);
		}
	assert_int_equal(traffic_clients(t), 1 + TRAFFIC_CLIENTS_MAX);
	assert_int_equal(requests_of(t, "client-0"), 3);
	assert_int_equal(requests_of(t, "client-99"), 3);
	assert_int_equal(requests_of(t, "client-100"), 0);
	assert_int_equal(requests_of(t, "other"), 1 + 3 * 50);
}

static void *
count_much(void *user)
{
	char name[32];

	for (int i = 0; i < ROUNDS; i++) {
		snprintf(name, sizeof(name), "client-%d", i % 120);
		traffic_count_request(user, &routes[1], name, 0, (uint64_t)i * 1000);
	}
	return NULL;
}

static void
threads_that_count_at_once_lose_nothing(void **state)
{
	struct traffic *t = *state;
	pthread_t threads[THREADS];
	uint64_t sum = 0;
	size_t wrap = operation(t, "wrap");

	for (size_t i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, count_much, t), 0);
	for (size_t i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(traffic_requests(t, wrap, 0), THREADS * ROUNDS);
	assert_int_equal(metrics_observed(traffic_times(t, wrap, TRAFFIC_OK)), THREADS * ROUNDS);
	assert_int_equal(traffic_clients(t), 1 + TRAFFIC_CLIENTS_MAX);
	for (size_t i = 0; i < traffic_clients(t); i++)
		sum += traffic_client_requests(t, i, TRAFFIC_OK);
	assert_int_equal(sum, THREADS * ROUNDS);
}

#define WITH_TRAFFIC(test) cmocka_unit_test_setup_teardown(test, open_traffic, close_traffic)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_sample_has_its_labels_and_they_are_escaped),
		cmocka_unit_test(a_text_that_does_not_fit_is_said_to_be_bad),
		cmocka_unit_test(a_time_is_in_the_first_bucket_that_holds_it_and_in_all_above),
		WITH_TRAFFIC(routes_of_one_name_are_one_operation),
		WITH_TRAFFIC(each_error_is_counted_under_its_own_code_and_result),
		WITH_TRAFFIC(clients_past_the_bound_are_counted_together),
		WITH_TRAFFIC(threads_that_count_at_once_lose_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
