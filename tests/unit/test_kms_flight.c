/* SPDX-License-Identifier: Apache-2.0 */
/* Who waits for what, the budget of second requests, and what a probe means: without a thread. */
#include "../../src/kms/flight.h"
#include "../../src/kms/hedge.h"
#include "../../src/kms/probe.h"

#include "kekd/clock.h"
#include "kekd/json.h"
#include "kekd/str.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct kms_call {
	bool cancelled;
};

/* ---- the transport's part, which the library asks for ---- */

uint64_t
kms_call_deadline_ns(const struct kms_call *c)
{
	(void)c;
	return UINT64_MAX;
}

bool
kms_call_cancelled(const struct kms_call *c)
{
	return c->cancelled;
}

void
kms_answer_status(struct kms_call *c, const char *key_id)
{
	(void)c;
	(void)key_id;
}

void
kms_answer_encrypt(struct kms_call *c, struct kms_bytes ciphertext, const char *key_id,
	const struct kms_annotation *annotations, size_t count)
{
	(void)c;
	(void)ciphertext;
	(void)key_id;
	(void)annotations;
	(void)count;
}

void
kms_answer_decrypt(struct kms_call *c, struct kms_bytes plaintext)
{
	(void)c;
	(void)plaintext;
}

void
kms_answer_error(struct kms_call *c, enum kms_status status, const char *format, ...)
{
	(void)c;
	(void)status;
	(void)format;
}

/* ---- flights ---- */

static struct flight *
decrypt_of(uint8_t first, uint8_t last)
{
	const struct kms_key_id id = { .activation = 1 };
	const uint8_t bytes[4] = { 1, 2, 3, 4 };
	struct flight *f = flight_new(FLIGHT_DECRYPT, &id, (struct kms_bytes){ bytes, 4 });

	assert_non_null(f);
	f->digest[0] = first;
	f->digest[SHA256_DIGEST_LENGTH - 1] = last;
	return f;
}

static void
join(struct flights *t, struct flight *f, struct kms_call *c, uint64_t now, uint64_t deadline)
{
	assert_int_equal(flights_join(t, f, c, now, deadline), 0);
}

static size_t
drop(struct waiter *w)
{
	size_t n = 0;

	while (w) {
		struct waiter *next = w->next;
		free(w);
		w = next;
		n++;
	}
	return n;
}

static bool
is_late(const struct waiter *w, const void *user)
{
	return w->deadline_ns <= *(const uint64_t *)user;
}

static void
equal_decrypts_find_each_other_and_others_do_not(void **state)
{
	struct flights t = { 0 };
	struct flight *a = decrypt_of(1, 1), *b = decrypt_of(1, 2), *c = decrypt_of(2, 1);
	const uint8_t *digest = a->digest;

	(void)state;
	assert_null(flights_find(&t, digest));
	flights_add(&t, a);
	flights_add(&t, b);
	flights_add(&t, c);
	assert_ptr_equal(flights_find(&t, a->digest), a);
	assert_ptr_equal(flights_find(&t, b->digest), b);
	assert_ptr_equal(flights_find(&t, c->digest), c);
	assert_int_equal(t.count, 3);
	flights_remove(&t, a);
	assert_null(flights_find(&t, a->digest));
	assert_ptr_equal(flights_find(&t, b->digest), b);
	flights_remove(&t, c);
	flights_remove(&t, b);
	assert_null(t.all);
	assert_int_equal(t.count, 0);
	flight_free(a);
	flight_free(b);
	flight_free(c);
}

static void
an_encrypt_is_joined_by_nobody(void **state)
{
	const struct kms_key_id id = { .activation = 1 };
	const uint8_t bytes[4] = { 1, 2, 3, 4 }, none[SHA256_DIGEST_LENGTH] = { 0 };
	struct flights t = { 0 };
	struct flight *f = flight_new(FLIGHT_ENCRYPT, &id, (struct kms_bytes){ bytes, 4 });

	(void)state;
	flights_add(&t, f);
	assert_ptr_equal(t.all, f);
	assert_null(flights_find(&t, none));
	flights_remove(&t, f);
	flight_free(f);
}

static void
each_waiter_has_a_deadline_of_its_own(void **state)
{
	struct flights t = { 0 };
	struct flight *f = decrypt_of(1, 1);
	struct kms_call one = { 0 }, two = { 0 }, three = { 0 };
	uint64_t now = 150;
	struct waiter *late;

	(void)state;
	flights_add(&t, f);
	join(&t, f, &one, 1, 300);
	join(&t, f, &two, 2, 100);
	join(&t, f, &three, 3, 200);
	assert_int_equal(t.waiters, 3);
	assert_true(flight_deadline(f) == 300);
	late = flights_take(&t, f, is_late, &now);
	assert_ptr_equal(late->call, &two);
	assert_int_equal(drop(late), 1);
	assert_int_equal(t.waiters, 2);
	assert_true(flight_deadline(f) == 300);
	now = 250;
	late = flights_take(&t, f, is_late, &now);
	assert_ptr_equal(late->call, &three);
	assert_int_equal(drop(late), 1);
	assert_int_equal(drop(flights_take_all(&t, f)), 1);
	assert_true(flight_deadline(f) == 0);
	assert_int_equal(t.waiters, 0);
	flights_remove(&t, f);
	flight_free(f);
}

static void
it_is_idle_when_no_attempt_runs_and_none_is_queued(void **state)
{
	struct flight *f = decrypt_of(1, 1);

	(void)state;
	assert_true(flight_is_idle(f));
	f->queued[ATTEMPT_HEDGE] = true;
	assert_false(flight_is_idle(f));
	f->queued[ATTEMPT_HEDGE] = false;
	f->attempts[ATTEMPT_FIRST].running = true;
	assert_false(flight_is_idle(f));
	f->attempts[ATTEMPT_FIRST].running = false;
	assert_true(flight_is_idle(f));
	flight_free(f);
}

static void
more_than_a_request_can_hold_is_refused(void **state)
{
	const struct kms_key_id id = { .activation = 1 };
	static const uint8_t bytes[8192];

	(void)state;
	assert_null(flight_new(FLIGHT_DECRYPT, &id, (struct kms_bytes){ bytes, sizeof(bytes) }));
}

/* ---- the budget ---- */

static void
a_tenth_is_sent_again_and_a_few_in_a_row(void **state)
{
	struct hedge_budget b = HEDGE_BUDGET_FULL;
	unsigned sent = 0;

	(void)state;
	for (int i = 0; i < HEDGE_BURST; i++)
		assert_true(hedge_spend(&b));
	assert_false(hedge_spend(&b));
	for (int i = 0; i < 1000; i++) {
		hedge_earn(&b);
		sent += hedge_spend(&b);
	}
	assert_int_equal(sent, 1000 / HEDGE_SHARE);
}

static void
a_quiet_time_saves_no_more_than_the_burst(void **state)
{
	struct hedge_budget b = HEDGE_BUDGET_FULL;
	unsigned sent = 0;

	(void)state;
	for (int i = 0; i < 100000; i++)
		hedge_earn(&b);
	while (hedge_spend(&b))
		sent++;
	assert_int_equal(sent, HEDGE_BURST);
}

/* ---- the probe ---- */

#define EVERY (10 * CLOCK_S)

static struct probe_state
probed(bool wrap, bool unwrap, uint64_t ended_ns)
{
	struct probe_state s = { .any = true, .ended_ns = ended_ns };

	s.last.verdict[PROBE_WRAP] = wrap ? PROBE_GOOD : PROBE_FAILED;
	s.last.verdict[PROBE_UNWRAP] = unwrap ? PROBE_GOOD : PROBE_FAILED;
	snprintf(s.last.reason[PROBE_WRAP], sizeof(s.last.reason[0]), "%s", wrap ? "" : "no wrap");
	snprintf(s.last.reason[PROBE_UNWRAP], sizeof(s.last.reason[0]), "%s",
		unwrap ? "" : "no unwrap");
	return s;
}

static void
without_a_probe_nothing_is_good(void **state)
{
	struct probe_state s = { .any = false };
	char reason[512] = "";

	(void)state;
	assert_false(probe_is_good(&s, 1, EVERY, reason));
	assert_non_null(strstr(reason, "not been asked yet"));
}

static void
one_direction_that_fails_is_enough(void **state)
{
	char reason[512] = "";
	struct probe_state s = probed(true, true, CLOCK_S);

	(void)state;
	assert_true(probe_is_good(&s, 2 * CLOCK_S, EVERY, reason));
	s = probed(false, true, CLOCK_S);
	assert_false(probe_is_good(&s, 2 * CLOCK_S, EVERY, reason));
	assert_string_equal(reason, "wrap fails, unwrap works: no wrap");
	s = probed(true, false, CLOCK_S);
	assert_false(probe_is_good(&s, 2 * CLOCK_S, EVERY, reason));
	assert_string_equal(reason, "unwrap fails, wrap works: no unwrap");
	s = probed(false, false, CLOCK_S);
	assert_false(probe_is_good(&s, 2 * CLOCK_S, EVERY, reason));
	assert_string_equal(reason, "wrap and unwrap fail: no wrap");
	s.last.verdict[PROBE_UNWRAP] = PROBE_UNTRIED;
	assert_false(probe_is_good(&s, 2 * CLOCK_S, EVERY, reason));
	assert_string_equal(reason, "wrap fails, unwrap was not tried: no wrap");
}

static void
what_is_older_than_three_intervals_counts_as_failed(void **state)
{
	char reason[512] = "";
	struct probe_state s = probed(true, true, CLOCK_S);

	(void)state;
	assert_true(probe_is_good(&s, CLOCK_S + 3 * EVERY, EVERY, reason));
	assert_false(probe_is_good(&s, CLOCK_S + 3 * EVERY + 1, EVERY, reason));
	assert_non_null(strstr(reason, "30 s ago"));
}

static void
while_they_fail_probes_come_every_two_seconds(void **state)
{
	struct probe_state never = { .any = false }, good = probed(true, true, 1),
			   bad = probed(true, false, 1);

	(void)state;
	assert_true(probe_pause(&good, EVERY) == EVERY);
	assert_true(probe_pause(&bad, EVERY) == 2 * CLOCK_S);
	assert_true(probe_pause(&never, EVERY) == 2 * CLOCK_S);
	assert_true(probe_pause(&bad, CLOCK_S) == CLOCK_S);
}

static void
only_what_changes_is_news(void **state)
{
	struct probe_state never = { .any = false }, good = probed(true, true, 1),
			   bad = probed(true, false, 1), worse = probed(false, false, 1);

	(void)state;
	assert_true(probe_has_news(&never, &good.last));
	assert_true(probe_has_news(&never, &bad.last));
	assert_false(probe_has_news(&good, &good.last));
	assert_false(probe_has_news(&bad, &bad.last));
	assert_true(probe_has_news(&good, &bad.last));
	assert_true(probe_has_news(&bad, &worse.last));
	assert_true(probe_has_news(&worse, &good.last));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(equal_decrypts_find_each_other_and_others_do_not),
		cmocka_unit_test(an_encrypt_is_joined_by_nobody),
		cmocka_unit_test(each_waiter_has_a_deadline_of_its_own),
		cmocka_unit_test(it_is_idle_when_no_attempt_runs_and_none_is_queued),
		cmocka_unit_test(more_than_a_request_can_hold_is_refused),
		cmocka_unit_test(a_tenth_is_sent_again_and_a_few_in_a_row),
		cmocka_unit_test(a_quiet_time_saves_no_more_than_the_burst),
		cmocka_unit_test(without_a_probe_nothing_is_good),
		cmocka_unit_test(one_direction_that_fails_is_enough),
		cmocka_unit_test(what_is_older_than_three_intervals_counts_as_failed),
		cmocka_unit_test(while_they_fail_probes_come_every_two_seconds),
		cmocka_unit_test(only_what_changes_is_news),
	};

	json_open();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
