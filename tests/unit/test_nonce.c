/* SPDX-License-Identifier: Apache-2.0 */
/* The IV budget, over a store in memory. */
#include "doubles.h"

#include "kekd/err.h"
#include "kekd/nonce.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

static const struct uuid version = { { 1, 2, 3, 4, 5, 6, 0x40, 8, 0x80, 10, 11, 12, 13, 14, 15,
	16 } };
static const char path[] = "nonces/01020304-0506-4008-800a-0b0c0d0e0f10";

struct fixture {
	struct doubles *d;
	struct nonce_block *b;
};

static int
setup(void **state)
{
	static struct fixture f;

	f.d = doubles_open();
	f.b = nonce_block_new();
	*state = &f;
	return f.b ? 0 : -1;
}

static int
teardown(void **state)
{
	struct fixture *f = *state;

	nonce_block_free(f->b);
	doubles_close(f->d);
	return 0;
}

static int
reserve(struct fixture *f)
{
	return nonce_reserve(f->b, doubles_store(f->d), &version, "n1");
}

static void
use(struct nonce_block *b, uint64_t n)
{
	for (; n > NONCE_BLOCK / 8; n -= NONCE_BLOCK / 8)
		assert_int_not_equal(nonce_take(b, NONCE_BLOCK / 8), NONCE_NONE);
	assert_int_not_equal(nonce_take(b, (uint32_t)n), NONCE_NONE);
}

static void
write_record(struct fixture *f, uint64_t reserved)
{
	uint64_t number;
	json_t *body = json_pack("{s:I, s:{s:{s:i, s:i, s:s}}}", "reserved", (json_int_t)reserved,
		"blocks", "n2", "from", 0, "size", 5, "at", "2026-01-31T12:00:00.000000Z");

	assert_int_equal(sealed_put_own(doubles_store(f->d), path, STORE_ANY, body, &number), 0);
	json_decref(body);
}

static void
nothing_is_taken_before_a_block_is_reserved(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(nonce_take(f->b, 1), NONCE_NONE);
	assert_int_equal(nonce_reserved(f->b), 0);
	assert_int_equal(reserve(f), 0);
	assert_int_equal(nonce_take(f->b, 1), NONCE_TAKEN);
}

static void
a_failed_reservation_gives_no_block_and_can_be_repeated(void **state)
{
	struct fixture *f = *state;

	doubles_arm(f->d, DOUBLES_FAIL_BEFORE, 2);
	assert_int_equal(reserve(f), KEKD_ESTORE);
	assert_int_equal(nonce_take(f->b, 1), NONCE_NONE);
	doubles_arm(f->d, DOUBLES_FAIL_AFTER, 2);
	assert_int_equal(reserve(f), KEKD_ESTORE);
	assert_int_equal(nonce_take(f->b, 1), NONCE_NONE);
	assert_int_equal(reserve(f), 0);
	assert_int_equal(nonce_take(f->b, 1), NONCE_TAKEN);
	/* One set aside for proofs, one that was reserved though it seemed to fail, one in use. */
	assert_int_equal(nonce_reserved(f->b), 3 * NONCE_BLOCK);
}

static void
exactly_the_reserved_number_is_taken(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(reserve(f), 0);
	use(f->b, NONCE_BLOCK - 3);
	assert_int_equal(nonce_take(f->b, 4), NONCE_NONE);
	assert_int_equal(nonce_take(f->b, 3), NONCE_TAKEN);
	assert_int_equal(nonce_take(f->b, 1), NONCE_NONE);
}

static void
half_used_is_said_once_per_block(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(reserve(f), 0);
	use(f->b, NONCE_BLOCK / 2 - 1);
	assert_int_equal(nonce_take(f->b, 1), NONCE_TAKEN_LOW);
	assert_int_equal(nonce_take(f->b, 1), NONCE_TAKEN);
	assert_int_equal(reserve(f), 0);
	assert_int_equal(nonce_take(f->b, 1), NONCE_TAKEN);
	for (int i = 0, said = 0; i < 16; i++) {
		said += nonce_take(f->b, NONCE_BLOCK_FAST / 16) == NONCE_TAKEN_LOW;
		assert_int_equal(said, i >= 8);
	}
}

static void
asking_twice_reserves_once(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(reserve(f), 0);
	assert_int_equal(reserve(f), 0);
	assert_int_equal(nonce_reserved(f->b), 2 * NONCE_BLOCK);
}

static void
a_block_spent_within_ten_minutes_is_followed_by_a_larger_one(void **state)
{
	struct fixture *f = *state;
	struct nonce_block *restarted = nonce_block_new();

	assert_int_equal(reserve(f), 0);
	use(f->b, NONCE_BLOCK);
	assert_int_equal(reserve(f), 0);
	assert_int_equal(nonce_reserved(f->b), 2 * NONCE_BLOCK + NONCE_BLOCK_FAST);
	/* A restart spent nothing: a loop of them must not eat the budget in large bites. */
	assert_int_equal(nonce_reserve(restarted, doubles_store(f->d), &version, "n1"), 0);
	assert_int_equal(nonce_reserved(restarted), 3 * NONCE_BLOCK + NONCE_BLOCK_FAST);
	nonce_block_free(restarted);
}

static void
other_nodes_reservations_count_and_stay(void **state)
{
	struct fixture *f = *state;
	json_t *record, *blocks, *own;

	write_record(f, 7 * NONCE_BLOCK);
	assert_int_equal(reserve(f), 0);
	assert_int_equal(nonce_reserved(f->b), 8 * NONCE_BLOCK);
	record = json_loads(doubles_find(f->d, path)->body, 0, NULL);
	blocks = json_object_get(record, "blocks");
	own = json_object_get(blocks, "n1");
	assert_int_equal(json_integer_value(json_object_get(record, "reserved")), 8 * NONCE_BLOCK);
	assert_int_equal(json_object_size(blocks), 2);
	assert_int_equal(
		json_integer_value(json_object_get(json_object_get(blocks, "n2"), "size")), 5);
	assert_int_equal(json_integer_value(json_object_get(own, "from")), 7 * NONCE_BLOCK);
	assert_int_equal(json_integer_value(json_object_get(own, "size")), NONCE_BLOCK);
	json_decref(record);
}

static void
at_the_end_of_the_budget_it_is_refused(void **state)
{
	struct fixture *f = *state;

	write_record(f, NONCE_MAX - 10);
	assert_int_equal(reserve(f), 0);
	assert_int_equal(nonce_reserved(f->b), NONCE_MAX);
	assert_int_equal(nonce_take(f->b, 11), NONCE_NONE);
	assert_int_not_equal(nonce_take(f->b, 10), NONCE_NONE);
	assert_int_equal(reserve(f), KEKD_ENONCES);
	assert_int_equal(nonce_take(f->b, 1), NONCE_NONE);
}

static void
a_record_that_makes_no_sense_gives_no_block(void **state)
{
	struct fixture *f = *state;

	write_record(f, NONCE_MAX + 1);
	assert_int_equal(reserve(f), KEKD_ERECORD);
	assert_int_equal(nonce_take(f->b, 1), NONCE_NONE);
}

struct taker {
	struct nonce_block *b;
	atomic_uint_least64_t taken;
};

static void *
take_all(void *user)
{
	struct taker *t = user;

	while (nonce_take(t->b, 7) != NONCE_NONE)
		atomic_fetch_add(&t->taken, 7);
	return NULL;
}

static void
threads_together_take_no_more_than_was_reserved(void **state)
{
	struct fixture *f = *state;
	struct taker t = { .b = f->b };
	pthread_t threads[4];

	assert_int_equal(reserve(f), 0);
	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, take_all, &t), 0);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(atomic_load(&t.taken), NONCE_BLOCK / 7 * 7);
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(nothing_is_taken_before_a_block_is_reserved),
		TEST(a_failed_reservation_gives_no_block_and_can_be_repeated),
		TEST(exactly_the_reserved_number_is_taken),
		TEST(half_used_is_said_once_per_block),
		TEST(asking_twice_reserves_once),
		TEST(a_block_spent_within_ten_minutes_is_followed_by_a_larger_one),
		TEST(other_nodes_reservations_count_and_stay),
		TEST(at_the_end_of_the_budget_it_is_refused),
		TEST(a_record_that_makes_no_sense_gives_no_block),
		TEST(threads_together_take_no_more_than_was_reserved),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
