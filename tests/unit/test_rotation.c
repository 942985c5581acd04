/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rotations that nobody asks for: the node's watch over what is due (net/rotation.c) and the real
 * lifecycle, over a store and a token in memory. The audit log only counts.
 */
#include "../../src/net/node.h"
#include "doubles.h"

#include "kekd/clock.h"
#include "kekd/err.h"
#include "kekd/nonce.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

static const char *const tokens[] = { "main", "other" };

static struct {
	struct doubles *d;
	struct node node;
	unsigned intents, outcomes, failures, proven;
	bool audit_fails, holds_changes;
	char reason[16];
} now;

/* ---- what net/rotation.c asks of the rest of the node ---- */

int
audit_append(struct audit *a, struct audit_record *r)
{
	const char *reason = json_string_value(json_object_get(r->detail, "reason"));

	(void)a;
	if (now.audit_fails)
		return KEKD_EAUDIT;
	assert_string_equal(r->client, "kekd");
	assert_string_equal(r->operation, "key.rotate");
	assert_non_null(r->request_id);
	snprintf(now.reason, sizeof(now.reason), "%s", reason);
	now.intents += r->type == AUDIT_INTENT;
	now.outcomes += r->type == AUDIT_OUTCOME;
	now.failures += r->code != NULL;
	return 0;
}

void
node_cluster(struct node *n, struct cluster *ret_cluster)
{
	*ret_cluster = n->cluster;
}

bool
node_leads(struct node *n)
{
	(void)n;
	return true;
}

bool
node_holds_changes(const struct node *n)
{
	(void)n;
	return now.holds_changes;
}

void
node_count_proven(struct node *n, const char *key)
{
	(void)n, (void)key;
	now.proven++;
}

/* ---- the fixture ---- */

static int
setup(void **state)
{
	(void)state;
	memset(&now, 0, sizeof(now));
	now.d = doubles_open();
	pthread_mutex_init(&now.node.lock, NULL);
	assert_int_equal(keyring_open(&now.node.keyring), 0);
	now.node.lifecycle = (struct lifecycle){ .store = doubles_store(now.d),
		.hsm = doubles_hsm(now.d),
		.keyring = now.node.keyring,
		.cluster = "test",
		.node = "n1",
		.tokens = tokens,
		.tokens_count = STR_COUNT(tokens) };
	atomic_store(&now.node.sealed, doubles_store(now.d));
	return 0;
}

static int
teardown(void **state)
{
	(void)state;
	keyring_freep(&now.node.keyring);
	pthread_mutex_destroy(&now.node.lock);
	doubles_close(now.d);
	return 0;
}

static void
make(const char *name, uint64_t every_s)
{
	const struct lifecycle_settings settings = { .has_rotate_every = true,
		.rotate_every_s = every_s };
	char error[LIFECYCLE_ERROR_SIZE] = "";
	struct key *k = NULL;

	if (lifecycle_create(&now.node.lifecycle, name, &settings, NULL, &k, error) < 0)
		fail_msg("%s", error);
	key_unrefp(&k);
}

static struct key *
find(const char *name)
{
	struct key *k = keyring_find(now.node.keyring, name);

	assert_non_null(k);
	return k;
}

static unsigned
primary(const char *name)
{
	struct key *k = find(name);
	unsigned number = k->primary;

	key_unrefp(&k);
	return number;
}

/* As the clock would have it later. */
static void
let_pass(const char *name, uint64_t s)
{
	struct key *k = find(name), *copy = key_copy(k);

	copy->next_rotation_us -= s * 1000000;
	key_unrefp(&k);
	assert_int_equal(keyring_publish(now.node.keyring, copy), 0);
}

static void
spend(const char *name, uint64_t reserved)
{
	struct key *k = find(name);

	nonce_note(key_find_version(k, k->primary)->nonces, reserved, 1);
	key_unrefp(&k);
}

/* Ticks until nothing is due; how many rotations were tried. */
static unsigned
tick(void)
{
	unsigned n = 0;

	now.node.next_rotations_ns = 0;
	while (node_rotate_due(&now.node))
		n++;
	return n;
}

static void
forget_back_off(void)
{
	for (size_t i = 0; i < now.node.rotations.failing_count; i++)
		now.node.rotations.failing[i].again_ns = 0;
}

/* ---- the promises ---- */

static void
nothing_is_due_before_its_time(void **state)
{
	(void)state;
	make("never", 0);
	make("monthly", 30 * 86400);
	assert_int_equal(tick(), 0);
	assert_int_equal(now.intents, 0);
	assert_int_equal(primary("never"), 1);
}

static void
a_missed_period_is_made_up_for_once(void **state)
{
	struct key *k;

	(void)state;
	make("daily", 86400);
	let_pass("daily", 40 * 86400);
	assert_int_equal(tick(), 1);
	assert_int_equal(primary("daily"), 2);
	assert_int_equal(now.node.rotations.done[ROTATION_PERIOD], 1);
	assert_string_equal(now.reason, "period");
	assert_int_equal(now.intents, 1);
	assert_int_equal(now.outcomes, 1);
	assert_int_equal(now.proven, 1);
	k = find("daily");
	assert_true(k->next_rotation_us > clock_real_us() + 80000 * 1000000ull);
	assert_true(k->next_rotation_us < clock_real_us() + 92000 * 1000000ull);
	key_unrefp(&k);
}

static void
half_of_the_ivs_spent_rotates_a_key_without_a_period(void **state)
{
	(void)state;
	make("busy", 0);
	spend("busy", NONCE_ROTATE - 1);
	assert_int_equal(tick(), 0);
	spend("busy", NONCE_ROTATE);
	assert_int_equal(tick(), 1);
	assert_int_equal(primary("busy"), 2);
	assert_string_equal(now.reason, "budget");
	assert_int_equal(now.node.rotations.done[ROTATION_BUDGET], 1);
	assert_int_equal(tick(), 0);
}

static void
frozen_keys_and_services_and_unconfirmed_restores_wait(void **state)
{
	const struct lifecycle_settings freeze = { .has_frozen = true, .frozen = true };
	const struct lifecycle_settings unfreeze = { .has_frozen = true };
	char error[LIFECYCLE_ERROR_SIZE];
	struct key *k = NULL;

	(void)state;
	make("cold", 86400);
	assert_int_equal(
		lifecycle_set(&now.node.lifecycle, "cold", STORE_ANY, &freeze, &k, error), 0);
	key_unrefp(&k);
	let_pass("cold", 2 * 86400);
	spend("cold", NONCE_ROTATE);
	assert_int_equal(tick(), 0);
	assert_int_equal(
		lifecycle_set(&now.node.lifecycle, "cold", STORE_ANY, &unfreeze, &k, error), 0);
	key_unrefp(&k);
	atomic_store(&now.node.frozen, true);
	assert_int_equal(tick(), 0);
	atomic_store(&now.node.frozen, false);
	now.holds_changes = true;
	assert_int_equal(tick(), 0);
	now.holds_changes = false;
	assert_int_equal(tick(), 1);
	assert_int_equal(primary("cold"), 2);
}

static void
what_fails_leaves_the_old_primary_and_is_tried_later_and_later(void **state)
{
	const struct node_rotation_failure *f = now.node.rotations.failing;
	uint64_t before;

	(void)state;
	make("stuck", 86400);
	make("well", 86400);
	let_pass("stuck", 2 * 86400);
	now.d->new_attributes = 0;
	assert_int_equal(tick(), 1);
	assert_int_equal(now.node.rotations.failing_count, 1);
	assert_string_equal(f->key, "stuck");
	assert_int_equal(f->err, KEKD_EATTRIBUTES);
	assert_true(strlen(f->text) > 20);
	assert_int_equal(now.failures, 1);
	assert_int_equal(primary("stuck"), 1);
	for (unsigned i = 2; i < 12; i++) {
		before = f->again_ns - clock_boot_ns();
		assert_int_equal(tick(), 0);
		forget_back_off();
		assert_int_equal(tick(), 1);
		assert_int_equal(f->tries, i);
		assert_true(f->again_ns - clock_boot_ns() + CLOCK_S >= before);
		assert_true(f->again_ns - clock_boot_ns() <= 900 * CLOCK_S);
	}
	let_pass("well", 2 * 86400);
	now.d->new_attributes = HSM_ATTR_HELD;
	assert_int_equal(tick(), 1);
	assert_int_equal(primary("well"), 2);
	forget_back_off();
	assert_int_equal(tick(), 1);
	assert_int_equal(now.node.rotations.failing_count, 0);
	assert_true(primary("stuck") > 1);
}

static void
without_its_audit_record_nothing_rotates(void **state)
{
	(void)state;
	make("quiet", 86400);
	let_pass("quiet", 2 * 86400);
	now.audit_fails = true;
	assert_int_equal(tick(), 1);
	assert_int_equal(primary("quiet"), 1);
	assert_int_equal(now.node.rotations.failing[0].err, KEKD_EAUDIT);
	now.audit_fails = false;
	forget_back_off();
	assert_int_equal(tick(), 1);
	assert_int_equal(primary("quiet"), 2);
}

static void
who_rotates_a_failing_key_by_hand_settles_it(void **state)
{
	char error[LIFECYCLE_ERROR_SIZE];
	struct key *k = NULL;

	(void)state;
	make("helped", 86400);
	let_pass("helped", 2 * 86400);
	now.audit_fails = true;
	assert_int_equal(tick(), 1);
	assert_int_equal(
		lifecycle_rotate(&now.node.lifecycle, "helped", STORE_ANY, NULL, &k, error), 0);
	key_unrefp(&k);
	assert_int_equal(tick(), 0);
	assert_int_equal(now.node.rotations.failing_count, 0);
}

static void
many_failing_keys_are_all_tried_again(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 12; i++) {
		char name[16];
		snprintf(name, sizeof(name), "k%02u", i);
		make(name, 86400);
		let_pass(name, 2 * 86400);
	}
	now.audit_fails = true;
	assert_int_equal(tick(), 12);
	assert_int_equal(now.node.rotations.failing_count, 12);
	now.audit_fails = false;
	forget_back_off();
	assert_int_equal(tick(), 12);
	assert_int_equal(now.node.rotations.failing_count, 0);
	assert_int_equal(primary("k11"), 2);
}

static void
the_shortest_period_is_the_policys(void **state)
{
	(void)state;
	now.node.cluster.policy.approvals = 2;
	assert_int_equal(node_rotation_floor_s(&now.node), 3600);
	now.node.cluster.policy.approvals = 1;
	assert_int_equal(node_rotation_floor_s(&now.node), 1);
}

/* ---- in two steps, and what a key is set to ---- */

static void
a_staged_version_is_activated_or_given_up(void **state)
{
	struct lifecycle *l = &now.node.lifecycle;
	char error[LIFECYCLE_ERROR_SIZE] = "";
	struct key *k = NULL;

	(void)state;
	make("steps", 0);
	assert_int_equal(lifecycle_activate(l, "steps", STORE_ANY, 0, &k, error), KEKD_ESTATE);
	assert_int_equal(lifecycle_stage(l, "steps", STORE_ANY, NULL, &k, error), 0);
	assert_int_equal(k->primary, 1);
	assert_int_equal(k->versions[1].state, VERSION_STAGED);
	assert_true(k->versions[1].canary_len > 0);
	key_unrefp(&k);
	assert_int_equal(lifecycle_activate(l, "steps", STORE_ANY, 2, &k, error), 0);
	assert_int_equal(k->primary, 2);
	assert_int_equal(k->activation, 2);
	key_unrefp(&k);
	assert_int_equal(lifecycle_activate(l, "steps", STORE_ANY, 2, &k, error), 0);
	assert_int_equal(k->activation, 2);
	key_unrefp(&k);
	assert_int_equal(lifecycle_stage(l, "steps", STORE_ANY, "other", &k, error), 0);
	key_unrefp(&k);
	assert_int_equal(lifecycle_abandon(l, "steps", STORE_ANY, 2, &k, error), KEKD_ESTATE);
	assert_int_equal(lifecycle_abandon(l, "steps", STORE_ANY, 9, &k, error), KEKD_ENOVERSION);
	assert_int_equal(lifecycle_abandon(l, "steps", STORE_ANY, 3, &k, error), 0);
	assert_int_equal(k->versions[2].state, VERSION_ABANDONED);
	key_unrefp(&k);
	assert_int_equal(lifecycle_abandon(l, "steps", STORE_ANY, 3, &k, error), 0);
	key_unrefp(&k);
	assert_int_equal(doubles_objects(now.d), 3);
}

/* Read again from the store, as at a start. */
static struct key *
stored(const char *name)
{
	char path[80], error[JSON_ERROR_SIZE] = "";
	struct key *k = NULL;
	json_t *body;

	snprintf(path, sizeof(path), "keys/%s", name);
	body = json_loads(doubles_find(now.d, path)->body, 0, NULL);
	if (key_from_json(body, 1, &k, error) < 0)
		fail_msg("%s", error);
	json_decref(body);
	return k;
}

static void
period_and_frozen_are_kept_in_the_record(void **state)
{
	const struct lifecycle_settings freeze = { .has_frozen = true, .frozen = true };
	const struct lifecycle_settings end = { .has_frozen = true, .has_rotate_every = true };
	char error[LIFECYCLE_ERROR_SIZE];
	struct key *k = NULL;
	uint64_t next;

	(void)state;
	make("kept", 7200);
	k = stored("kept");
	next = k->next_rotation_us;
	assert_int_equal(k->rotate_every_s, 7200);
	assert_true(next > clock_real_us());
	key_unrefp(&k);
	assert_int_equal(
		lifecycle_set(&now.node.lifecycle, "kept", STORE_ANY, &freeze, &k, error), 0);
	key_unrefp(&k);
	k = stored("kept");
	assert_true(k->frozen);
	assert_int_equal(k->next_rotation_us, next);
	key_unrefp(&k);
	assert_int_equal(lifecycle_set(&now.node.lifecycle, "kept", STORE_ANY, &end, &k, error), 0);
	key_unrefp(&k);
	k = stored("kept");
	assert_false(k->frozen);
	assert_int_equal(k->rotate_every_s + k->next_rotation_us, 0);
	key_unrefp(&k);
}

static void
the_next_rotation_is_near_its_period_and_not_the_same_for_all(void **state)
{
	uint64_t first = 0, last = 0;

	(void)state;
	for (unsigned i = 0; i < 200; i++) {
		const uint64_t start = 1000000000000u;
		char name[16];
		struct key *k;
		uint64_t next;

		snprintf(name, sizeof(name), "k%u", i);
		k = key_new(name, NULL, 1);
		assert_int_equal(key_next_rotation(k, start), 0);
		k->rotate_every_s = 90 * 86400;
		next = key_next_rotation(k, start) - start;
		assert_int_equal(next, key_next_rotation(k, start) - start);
		assert_true(next >= (90 * 86400 - 3600) * 1000000ull);
		assert_true(next <= (90 * 86400 + 3600) * 1000000ull);
		first = i == 0 || next < first ? next : first;
		last = next > last ? next : last;
		k->rotate_every_s = 1;
		next = key_next_rotation(k, start) - start;
		assert_true(next >= 950000 && next <= 1050000);
		key_unrefp(&k);
	}
	assert_true(last - first > 3600 * 1000000ull);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(nothing_is_due_before_its_time),
		TEST(a_missed_period_is_made_up_for_once),
		TEST(half_of_the_ivs_spent_rotates_a_key_without_a_period),
		TEST(frozen_keys_and_services_and_unconfirmed_restores_wait),
		TEST(what_fails_leaves_the_old_primary_and_is_tried_later_and_later),
		TEST(without_its_audit_record_nothing_rotates),
		TEST(who_rotates_a_failing_key_by_hand_settles_it),
		TEST(many_failing_keys_are_all_tried_again),
		TEST(the_shortest_period_is_the_policys),
		TEST(a_staged_version_is_activated_or_given_up),
		TEST(period_and_frozen_are_kept_in_the_record),
		TEST(the_next_rotation_is_near_its_period_and_not_the_same_for_all),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
