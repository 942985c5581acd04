/* SPDX-License-Identifier: Apache-2.0 */
/* A client's rate and its requests in flight. */
#include "kekd/access.h"

#include "kekd/clock.h"
#include "kekd/err.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define NOW (1000 * CLOCK_S)

static struct client *
client(int per_s, int in_flight)
{
	char text[160], error[JSON_ERROR_SIZE] = "";
	_cleanup_(json_freep) json_t *body = NULL;
	struct client *c = NULL;

	snprintf(text, sizeof(text),
		"{\"identities\":[\"dns:a\"],\"limits\":{\"requests_per_s\":%d,\"in_flight\":%d}}",
		per_s, in_flight);
	body = json_parse(text, strlen(text), error);
	assert_non_null(body);
	assert_int_equal(client_from_json("a", body, 7, &c, error), 0);
	return c;
}

/* One request from beginning to end; the seconds after which it may come again, or 0. */
static unsigned
one(const struct client *c, uint64_t now)
{
	unsigned retry_s = 0;

	if (limit_enter(c, now, &retry_s) != LIMIT_OK)
		return retry_s;
	limit_leave(c);
	return 0;
}

static size_t
served(const struct client *c, uint64_t now, size_t tries)
{
	size_t n = 0;

	for (size_t i = 0; i < tries; i++)
		n += one(c, now) == 0;
	return n;
}

static void
a_second_may_come_at_once_and_then_the_rate(void **state)
{
	_cleanup_(client_unrefp) struct client *c = client(10, 0);

	(void)state;
	assert_int_equal(served(c, NOW, 100), 10);
	assert_int_equal(one(c, NOW), 1);
	assert_int_equal(served(c, NOW + CLOCK_S / 2, 100), 5);
	assert_int_equal(served(c, NOW + 100 * CLOCK_S, 100), 10); /* nothing is saved up */
}

static void
the_slowest_and_the_fastest_rate_are_kept(void **state)
{
	_cleanup_(client_unrefp) struct client *slow = client(1, 0);
	_cleanup_(client_unrefp) struct client *fast = client(1000000, 0);
	_cleanup_(client_unrefp) struct client *free_one = client(0, 0);

	(void)state;
	assert_int_equal(served(slow, NOW, 5), 1);
	assert_int_equal(one(slow, NOW + CLOCK_S - 1), 1);
	assert_int_equal(one(slow, NOW + CLOCK_S), 0);
	assert_int_equal(served(fast, NOW, 1000100), 1000000);
	assert_int_equal(served(free_one, NOW, 1000), 1000);
}

static void
what_a_batch_overdraws_is_waited_for(void **state)
{
	_cleanup_(client_unrefp) struct client *c = client(10, 0);

	(void)state;
	assert_int_equal(one(c, NOW), 0);
	limit_charge(c, NOW, 99);
	assert_int_equal(one(c, NOW), 10); /* 100 are paid, less the second that may be ahead */
	assert_int_equal(one(c, NOW + 9 * CLOCK_S), 1);
	assert_int_equal(one(c, NOW + 9 * CLOCK_S + CLOCK_S / 10), 0);
}

static void
requests_in_flight_are_counted_from_enter_to_leave(void **state)
{
	_cleanup_(client_unrefp) struct client *c = client(0, 2);
	struct limit_status s;
	unsigned retry_s = 0;

	(void)state;
	assert_int_equal(limit_enter(c, NOW, &retry_s), LIMIT_OK);
	assert_int_equal(limit_enter(c, NOW, &retry_s), LIMIT_OK);
	assert_int_equal(limit_enter(c, NOW, &retry_s), LIMIT_IN_FLIGHT);
	assert_int_equal(retry_s, 1);
	limit_leave(c);
	assert_int_equal(limit_enter(c, NOW, &retry_s), LIMIT_OK);
	limit_status(c, &s);
	assert_int_equal(s.in_flight, 2);
	assert_int_equal(s.admitted, 3);
	assert_int_equal(s.refused_in_flight, 1);
	assert_int_equal(s.refused_rate, 0);
}

static void
a_client_searches_the_log_once_at_a_time(void **state)
{
	_cleanup_(client_unrefp) struct client *c = client(0, 0), *other = client(0, 0);

	(void)state;
	assert_true(limit_scan_enter(c));
	assert_false(limit_scan_enter(c));
	assert_true(limit_scan_enter(other));
	limit_scan_leave(c);
	assert_true(limit_scan_enter(c));
}

static void
who_is_refused_for_his_rate_is_not_in_flight(void **state)
{
	_cleanup_(client_unrefp) struct client *c = client(1, 5);
	struct limit_status s;

	(void)state;
	assert_int_equal(served(c, NOW, 20), 1);
	limit_status(c, &s);
	assert_int_equal(s.in_flight, 0);
	assert_int_equal(s.refused_rate, 19);
}

static void
a_changed_record_goes_on_with_the_use_of_the_old_one(void **state)
{
	struct clients *t = NULL;
	struct client *old, *now;
	unsigned retry_s = 0;

	(void)state;
	assert_int_equal(clients_open(&t), 0);
	assert_int_equal(clients_publish(t, client(10, 2)), 0);
	old = clients_find(t, "a");
	assert_int_equal(limit_enter(old, clock_boot_ns(), &retry_s), LIMIT_OK);
	limit_charge(old, clock_boot_ns(), 10000);
	assert_int_equal(clients_publish(t, client(100, 1)), 0);
	now = clients_find(t, "a");
	assert_int_equal(limit_enter(now, clock_boot_ns(), &retry_s), LIMIT_IN_FLIGHT);
	limit_leave(old); /* a request of before the change */
	assert_int_equal(limit_enter(now, clock_boot_ns(), &retry_s), LIMIT_RATE);
	assert_in_range(retry_s, 90, 101); /* 10,000 operations at the new rate */
	client_unrefp(&old);
	client_unrefp(&now);
	clients_freep(&t);
}

#define THREADS 4
#define TRIES 20000

static atomic_size_t total;

static void *
hammer(void *user)
{
	atomic_fetch_add(&total, served(user, NOW, TRIES));
	return NULL;
}

static void
threads_together_get_no_more_than_the_rate(void **state)
{
	_cleanup_(client_unrefp) struct client *c = client(1000, 0);
	pthread_t threads[THREADS];
	struct limit_status s;

	(void)state;
	for (size_t i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, hammer, c), 0);
	for (size_t i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	limit_status(c, &s);
	assert_int_equal(atomic_load(&total), 1000);
	assert_int_equal(s.admitted, 1000);
	assert_int_equal(s.refused_rate, THREADS * TRIES - 1000);
	assert_int_equal(s.in_flight, 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_second_may_come_at_once_and_then_the_rate),
		cmocka_unit_test(the_slowest_and_the_fastest_rate_are_kept),
		cmocka_unit_test(what_a_batch_overdraws_is_waited_for),
		cmocka_unit_test(requests_in_flight_are_counted_from_enter_to_leave),
		cmocka_unit_test(a_client_searches_the_log_once_at_a_time),
		cmocka_unit_test(who_is_refused_for_his_rate_is_not_in_flight),
		cmocka_unit_test(a_changed_record_goes_on_with_the_use_of_the_old_one),
		cmocka_unit_test(threads_together_get_no_more_than_the_rate),
	};

	json_open();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
