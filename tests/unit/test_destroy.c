/* SPDX-License-Identifier: Apache-2.0 */
/* The end of a version over a store and a token in memory: what may begin it, and every instant at
 * which it can break off. */
#include "doubles.h"

#include "kekd/clock.h"
#include "kekd/err.h"
#include "kekd/lifecycle.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *const tokens[] = { "main" };
static const char members[][STR_NAME_MAX + 1] = { "n1" };

struct fixture {
	struct doubles *d;
	struct lifecycle l;
	char error[LIFECYCLE_ERROR_SIZE];
};

/* A node that comes up: the keyring is what the store holds. */
static void
start(struct fixture *f)
{
	const struct doubles_record *r = doubles_find(f->d, "keys/demo");
	char error[JSON_ERROR_SIZE];
	struct key *k;
	json_t *body;

	keyring_freep(&f->l.keyring);
	assert_int_equal(keyring_open(&f->l.keyring), 0);
	if (!r)
		return;
	body = json_loads(r->body, JSON_REJECT_DUPLICATES, NULL);
	if (key_from_json(body, r->commit, &k, error) < 0)
		fail_msg("%s", error);
	json_decref(body);
	assert_int_equal(keyring_publish(f->l.keyring, k), 0);
}

static struct key *
find(struct fixture *f)
{
	struct key *k = keyring_find(f->l.keyring, "demo");

	assert_non_null(k);
	return k;
}

static enum version_state
state_of(struct fixture *f, unsigned version)
{
	_cleanup_(key_unrefp) struct key *k = find(f);

	return key_find_version(k, version)->state;
}

static void
must(struct fixture *f, int err, struct key *k)
{
	if (err < 0)
		fail_msg("%s: %s", kekd_strerror(err), f->error);
	key_unrefp(&k);
}

static void
rotate(struct fixture *f)
{
	struct key *k = NULL;
	int err = lifecycle_rotate(&f->l, "demo", STORE_ANY, NULL, &k, f->error);

	must(f, err, k);
}

static void
set_enabled(struct fixture *f, unsigned version, bool enabled)
{
	struct key *k = NULL;
	int err = lifecycle_set_enabled(&f->l, "demo", STORE_ANY, version, enabled, &k, f->error);

	must(f, err, k);
}

/* A key with three versions; the first is disabled. */
static int
setup(void **state)
{
	static struct fixture f;
	struct key *k = NULL;
	int err;

	f = (struct fixture){ .d = doubles_open() };
	f.l = (struct lifecycle){ .store = doubles_store(f.d),
		.hsm = doubles_hsm(f.d),
		.cluster = "test",
		.node = "n1",
		.tokens = tokens,
		.tokens_count = 1 };
	start(&f);
	err = lifecycle_create(&f.l, "demo", NULL, NULL, &k, f.error);
	must(&f, err, k);
	rotate(&f);
	rotate(&f);
	set_enabled(&f, 1, false);
	*state = &f;
	return 0;
}

static int
teardown(void **state)
{
	struct fixture *f = *state;

	keyring_freep(&f->l.keyring);
	doubles_close(f->d);
	return 0;
}

static int
schedule(struct fixture *f, unsigned version, const struct sealed_change *with)
{
	const struct version_destroy d = { .requested_by = "boss",
		.requested_us = 1000000,
		.wait_s = 100,
		.refused = 2,
		.evidence = "seen" };
	struct key *k = NULL;
	int err = lifecycle_schedule(&f->l, "demo", STORE_ANY, version, &d, with, &k, f->error);

	key_unrefp(&k);
	return err;
}

static int
begin(struct fixture *f)
{
	struct key *k = NULL;
	int err = lifecycle_begin_destroy(&f->l, "demo", STORE_ANY, 1, &k, f->error);

	key_unrefp(&k);
	return err;
}

static int
destroy(struct fixture *f, size_t members_count)
{
	static const char two[][STR_NAME_MAX + 1] = { "n1", "n2" };
	struct key *k = NULL;
	int err = lifecycle_destroy(
		&f->l, "demo", 1, members_count == 1 ? members : two, members_count, &k, f->error);

	key_unrefp(&k);
	return err;
}

/* ---- what may begin it ---- */

static void
only_a_disabled_version_that_is_not_the_primary_can_be_scheduled(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(schedule(f, 3, NULL), KEKD_ESTATE);
	assert_non_null(strstr(f->error, "primary"));
	assert_int_equal(schedule(f, 2, NULL), KEKD_ESTATE);
	assert_non_null(strstr(f->error, "enabled"));
	set_enabled(f, 2, false);
	assert_int_equal(schedule(f, 2, NULL), KEKD_ESTATE);
	assert_non_null(strstr(f->error, "ten minutes"));
	assert_int_equal(schedule(f, 4, NULL), KEKD_ENOVERSION);
	assert_int_equal(schedule(f, 1, NULL), 0);
	assert_int_equal(schedule(f, 1, NULL), KEKD_ESTATE);
	assert_int_equal(state_of(f, 1), VERSION_SCHEDULED);
}

static void
no_step_is_left_out(void **state)
{
	struct fixture *f = *state;
	size_t objects = doubles_objects(f->d);

	assert_int_equal(begin(f), KEKD_ESTATE);
	assert_int_equal(destroy(f, 1), KEKD_ESTATE);
	assert_int_equal(schedule(f, 1, NULL), 0);
	assert_int_equal(destroy(f, 1), KEKD_ESTATE);
	assert_int_equal(doubles_objects(f->d), objects);
	assert_int_equal(begin(f), 0);
	assert_int_equal(begin(f), KEKD_ESTATE);
	assert_int_equal(destroy(f, 1), 0);
	assert_int_equal(doubles_objects(f->d), objects - 1);
	assert_int_equal(destroy(f, 1), KEKD_ESTATE);
	assert_int_equal(state_of(f, 1), VERSION_DESTROYED);
}

static void
what_is_scheduled_is_spared_and_what_is_destroying_is_not(void **state)
{
	struct fixture *f = *state;
	struct key *k = NULL;

	assert_int_equal(schedule(f, 1, NULL), 0);
	assert_int_equal(lifecycle_cancel(&f->l, "demo", STORE_ANY, 1, &k, f->error), 0);
	assert_int_equal(k->versions[0].state, VERSION_DISABLED);
	assert_null(k->versions[0].destroy);
	key_unrefp(&k);
	assert_int_equal(lifecycle_cancel(&f->l, "demo", STORE_ANY, 1, &k, f->error), KEKD_ESTATE);
	assert_int_equal(schedule(f, 1, NULL), 0);
	assert_int_equal(begin(f), 0);
	assert_int_equal(lifecycle_cancel(&f->l, "demo", STORE_ANY, 1, &k, f->error), KEKD_ESTATE);
	assert_int_equal(state_of(f, 1), VERSION_DESTROYING);
}

static void
a_version_is_destroyed_when_every_member_has_confirmed(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(schedule(f, 1, NULL), 0);
	assert_int_equal(begin(f), 0);
	assert_int_equal(destroy(f, 2), 0);
	assert_int_equal(state_of(f, 1), VERSION_DESTROYING);
	assert_int_equal(destroy(f, 1), 0);
	assert_int_equal(state_of(f, 1), VERSION_DESTROYED);
}

static void
the_wait_is_kept_in_the_record(void **state)
{
	struct fixture *f = *state;
	_cleanup_(key_unrefp) struct key *k = NULL;
	struct version_destroy d = { .requested_by = "boss",
		.wait_s = 100,
		.waited_s = 40,
		.restarts = 2,
		.restarted_us = 5000000,
		.refused = 7,
		.evidence = "seen",
		.approval = "0190a0b0-c0d0-4e00-8f00-000000000001" };

	assert_int_equal(
		lifecycle_wait(&f->l, "demo", STORE_ANY, 1, &d, &k, f->error), KEKD_ESTATE);
	assert_int_equal(schedule(f, 1, NULL), 0);
	assert_int_equal(lifecycle_wait(&f->l, "demo", STORE_ANY, 1, &d, &k, f->error), 0);
	start(f);
	key_unrefp(&k);
	k = find(f);
	assert_memory_equal(k->versions[0].destroy, &d, sizeof(d));
}

static void
the_approval_is_done_in_the_same_commit_or_not_at_all(void **state)
{
	struct fixture *f = *state;
	json_t *body = json_pack("{s:s}", "state", "done");
	struct sealed_change with = { "approvals/x", 77, body };

	assert_int_equal(schedule(f, 1, &with), KEKD_EPRECONDITION);
	assert_int_equal(state_of(f, 1), VERSION_DISABLED);
	with.expected = 0;
	assert_int_equal(schedule(f, 1, &with), 0);
	assert_int_equal(
		doubles_find(f->d, "approvals/x")->commit, doubles_find(f->d, "keys/demo")->commit);
	json_decref(body);
}

/* ---- every instant ---- */

static void
go_on(struct fixture *f)
{
	if (state_of(f, 1) == VERSION_DISABLED)
		schedule(f, 1, NULL);
	if (state_of(f, 1) == VERSION_SCHEDULED)
		begin(f);
	if (state_of(f, 1) == VERSION_DESTROYING)
		destroy(f, 1);
}

static bool
has_object(struct fixture *f)
{
	_cleanup_(key_unrefp) struct key *k = find(f);

	for (size_t i = 0; i < DOUBLES_OBJECTS; i++)
		if (f->d->objects[i].id.len == 16 &&
			memcmp(f->d->objects[i].id.b, k->versions[0].object_id.b, 16) == 0)
			return true;
	return false;
}

static bool
try_instant(enum doubles_event event, unsigned at)
{
	struct fixture *f;
	pid_t child;
	bool hit;

	setup((void **)&f);
	doubles_arm(f->d, event, at);
	child = fork();
	if (child == 0) {
		go_on(f);
		_exit(0);
	}
	assert_int_equal(waitpid(child, NULL, 0), child);
	hit = f->d->calls >= at;
	doubles_arm(f->d, DOUBLES_NOTHING, 0);
	start(f);
	/* Never gone before that was written down. */
	assert_true(has_object(f) || state_of(f, 1) >= VERSION_DESTROYING);
	go_on(f);
	assert_int_equal(state_of(f, 1), VERSION_DESTROYED);
	assert_false(has_object(f));
	assert_int_equal(doubles_objects(f->d), 2);
	teardown((void **)&f);
	return hit;
}

static void
an_end_broken_off_at_any_instant_is_brought_to_its_end(void **state)
{
	(void)state;
	for (int event = DOUBLES_FAIL_BEFORE; event <= DOUBLES_EXIT_AFTER; event++) {
		unsigned at = 1;
		while (try_instant((enum doubles_event)event, at))
			at++;
		assert_true(at > 5);
	}
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(only_a_disabled_version_that_is_not_the_primary_can_be_scheduled),
		TEST(no_step_is_left_out),
		TEST(what_is_scheduled_is_spared_and_what_is_destroying_is_not),
		TEST(a_version_is_destroyed_when_every_member_has_confirmed),
		TEST(the_wait_is_kept_in_the_record),
		TEST(the_approval_is_done_in_the_same_commit_or_not_at_all),
		cmocka_unit_test(an_end_broken_off_at_any_instant_is_brought_to_its_end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
