/* SPDX-License-Identifier: Apache-2.0 */
/* Changes of keys where there are other members: what is stored before they are asked, what stays
 * when one has not proven it, and that no token is touched past the lease. */
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
static const char two[][STR_NAME_MAX + 1] = { "n1", "n2" };

struct fixture {
	struct doubles *d;
	struct lifecycle l;
	struct lifecycle_members members;
	bool others, says_no, deposed, gone; /* gone: n2 has destroyed it */
	uint64_t until_ns;
	unsigned asked, committed;
	char error[LIFECYCLE_ERROR_SIZE];
};

/* ---- the other member ---- */

static bool
has_others(void *user)
{
	return ((struct fixture *)user)->others;
}

/* As the store has it when the others are asked: they see nothing else. */
static void
check_stored(struct fixture *f, unsigned version)
{
	const struct doubles_record *r = doubles_find(f->d, "keys/demo");
	json_t *body = json_loads(r->body, 0, NULL);
	char error[JSON_ERROR_SIZE];
	struct key_version *v;
	struct key *k;

	assert_int_equal(key_from_json(body, r->commit, &k, error), 0);
	v = key_find_version(k, version);
	assert_non_null(v);
	assert_true(v->canary_len > 0);
	assert_int_not_equal(k->primary, version);
	key_unrefp(&k);
	json_decref(body);
}

static int
proven(void *user, const struct key *k, const struct key_version *v,
	char ret_error[LIFECYCLE_ERROR_SIZE])
{
	struct fixture *f = user;

	f->asked++;
	check_stored(f, v->number);
	if (!f->says_no)
		return 0;
	snprintf(ret_error, LIFECYCLE_ERROR_SIZE, "key %s: n2 has not proven version %u", k->name,
		v->number);
	return KEKD_ENOPROOF;
}

static bool
destroyed(void *user, const char *member, const struct key_version *v)
{
	assert_int_equal(v->number, 1);
	return strcmp(member, "n2") == 0 && ((struct fixture *)user)->gone;
}

static int
may_change(void *user, uint64_t *ret_until_ns)
{
	struct fixture *f = user;

	if (f->deposed)
		return KEKD_ENOTACTIVE;
	*ret_until_ns = f->until_ns;
	return 0;
}

static void
committed(void *user, const struct key *k)
{
	struct fixture *f = user;
	struct key *now = keyring_find(f->l.keyring, k->name);

	assert_ptr_equal(now, k);
	key_unrefp(&now);
	f->committed++;
}

/* ---- the node ---- */

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
	body = json_loads(r->body, 0, NULL);
	assert_int_equal(key_from_json(body, r->commit, &k, error), 0);
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

static int
rotate(struct fixture *f)
{
	struct key *k = NULL;
	int err = lifecycle_rotate(&f->l, "demo", STORE_ANY, NULL, &k, f->error);

	key_unrefp(&k);
	return err;
}

static int
setup(void **state)
{
	static struct fixture f;
	struct key *k = NULL;

	f = (struct fixture){ .d = doubles_open() };
	f.members = (struct lifecycle_members){ &f, has_others, proven, destroyed, may_change,
		committed };
	f.l = (struct lifecycle){ .store = doubles_store(f.d),
		.hsm = doubles_hsm(f.d),
		.cluster = "test",
		.node = "n1",
		.tokens = tokens,
		.tokens_count = 1,
		.members = &f.members };
	start(&f);
	assert_int_equal(lifecycle_create(&f.l, "demo", NULL, NULL, &k, f.error), 0);
	key_unrefp(&k);
	f.others = true;
	f.asked = f.committed = 0;
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

static void
assert_primary(struct fixture *f, unsigned primary, size_t versions, unsigned activation)
{
	_cleanup_(key_unrefp) struct key *k = find(f);

	assert_int_equal(k->primary, primary);
	assert_int_equal(k->versions_count, versions);
	assert_int_equal(k->activation, activation);
}

/* ---- rotation ---- */

static void
a_node_alone_asks_nobody_and_commits_twice(void **state)
{
	struct fixture *f = *state;
	uint64_t before = f->d->number;

	f->others = false;
	assert_int_equal(rotate(f), 0);
	assert_int_equal(f->asked, 0);
	assert_int_equal(f->d->number, before + 2);
	assert_int_equal(f->committed, 2);
	assert_primary(f, 2, 2, 2);
}

static void
the_others_prove_a_version_that_is_stored_before_it_becomes_primary(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(rotate(f), 0);
	assert_int_equal(f->asked, 1);
	assert_primary(f, 2, 2, 2);
}

static void
without_a_members_proof_the_version_stays_staged_and_is_used_by_the_next_try(void **state)
{
	struct fixture *f = *state;

	f->says_no = true;
	for (int i = 0; i < 3; i++) {
		assert_int_equal(rotate(f), KEKD_ENOPROOF);
		assert_non_null(strstr(f->error, "n2"));
		assert_primary(f, 1, 2, 1);
		assert_int_equal(doubles_objects(f->d), 2);
	}
	f->says_no = false;
	assert_int_equal(rotate(f), 0);
	assert_primary(f, 2, 2, 2);
	assert_int_equal(doubles_objects(f->d), 2);
}

static void
what_was_staged_is_activated_only_with_every_proof(void **state)
{
	struct fixture *f = *state;
	struct key *k = NULL;

	assert_int_equal(lifecycle_stage(&f->l, "demo", STORE_ANY, NULL, &k, f->error), 0);
	assert_int_equal(f->asked, 0);
	key_unrefp(&k);
	f->says_no = true;
	assert_int_equal(
		lifecycle_activate(&f->l, "demo", STORE_ANY, 0, &k, f->error), KEKD_ENOPROOF);
	assert_primary(f, 1, 2, 1);
	f->says_no = false;
	assert_int_equal(lifecycle_activate(&f->l, "demo", STORE_ANY, 0, &k, f->error), 0);
	key_unrefp(&k);
	assert_primary(f, 2, 2, 2);
}

static void
an_older_version_becomes_primary_only_with_every_proof(void **state)
{
	struct fixture *f = *state;
	struct key *k = NULL;

	assert_int_equal(rotate(f), 0);
	f->says_no = true;
	assert_int_equal(
		lifecycle_make_primary(&f->l, "demo", STORE_ANY, 1, &k, f->error), KEKD_ENOPROOF);
	assert_primary(f, 2, 2, 2);
	f->says_no = false;
	assert_int_equal(lifecycle_make_primary(&f->l, "demo", STORE_ANY, 1, &k, f->error), 0);
	key_unrefp(&k);
	assert_primary(f, 1, 2, 3);
}

/* In a child, which may end in the midst of it. True: there are as many calls. */
static bool
try_instant(enum doubles_event event, unsigned at)
{
	_cleanup_(key_unrefp) struct key *k = NULL;
	struct fixture *f;
	pid_t child;
	bool hit;

	setup((void **)&f);
	doubles_arm(f->d, event, at);
	child = fork();
	if (child == 0) {
		rotate(f);
		_exit(0);
	}
	assert_int_equal(waitpid(child, NULL, 0), child);
	hit = f->d->calls >= at;
	doubles_arm(f->d, DOUBLES_NOTHING, 0);
	start(f);
	f->says_no = true;
	rotate(f);
	f->says_no = false;
	assert_int_equal(rotate(f), 0);
	k = find(f);
	assert_int_equal(k->primary, k->versions_count);
	assert_int_equal(doubles_objects(f->d), k->versions_count);
	teardown((void **)&f);
	return hit;
}

static void
a_rotation_that_broke_off_anywhere_is_finished_by_the_next_one(void **state)
{
	(void)state;
	for (int event = DOUBLES_FAIL_BEFORE; event <= DOUBLES_EXIT_AFTER; event++) {
		unsigned at = 1;
		while (try_instant((enum doubles_event)event, at))
			at++;
		assert_true(at > 8);
	}
}

/* ---- the lease ---- */

static void
a_node_that_was_deposed_makes_no_object(void **state)
{
	struct fixture *f = *state;

	f->deposed = true;
	assert_int_equal(rotate(f), KEKD_ENOTACTIVE);
	assert_int_equal(doubles_objects(f->d), 1);
	assert_non_null(strstr(f->error, "active"));
	f->deposed = false;
	assert_int_equal(rotate(f), 0);
	assert_primary(f, 2, 2, 2);
}

static void
a_lease_that_ends_on_the_way_to_the_token_is_seen_there(void **state)
{
	struct fixture *f = *state;

	f->until_ns = clock_boot_ns() - 1;
	assert_int_equal(rotate(f), KEKD_ENOTACTIVE);
	assert_int_equal(doubles_objects(f->d), 1);
	f->until_ns = clock_boot_ns() + 60 * CLOCK_S;
	assert_int_equal(rotate(f), 0);
	assert_int_equal(doubles_objects(f->d), 2);
}

/* ---- the end ---- */

static void
prepare_destroy(struct fixture *f)
{
	const struct version_destroy d = { .requested_by = "boss", .evidence = "seen" };
	struct key *k = NULL;

	assert_int_equal(rotate(f), 0);
	assert_int_equal(rotate(f), 0);
	assert_int_equal(
		lifecycle_set_enabled(&f->l, "demo", STORE_ANY, 1, false, &k, f->error), 0);
	key_unrefp(&k);
	assert_int_equal(
		lifecycle_schedule(&f->l, "demo", STORE_ANY, 1, &d, NULL, &k, f->error), 0);
	key_unrefp(&k);
}

static void
begin_destroy(struct fixture *f)
{
	struct key *k = NULL;

	prepare_destroy(f);
	assert_int_equal(lifecycle_begin_destroy(&f->l, "demo", STORE_ANY, 1, &k, f->error), 0);
	key_unrefp(&k);
}

static int
destroy(struct fixture *f, size_t members)
{
	struct key *k = NULL;
	int err = lifecycle_destroy(&f->l, "demo", 1, two, members, &k, f->error);

	key_unrefp(&k);
	return err;
}

static enum version_state
state_of(struct fixture *f)
{
	_cleanup_(key_unrefp) struct key *k = find(f);

	return key_find_version(k, 1)->state;
}

static void
a_version_is_destroyed_when_every_member_has_said_so(void **state)
{
	struct fixture *f = *state;
	uint64_t number;

	begin_destroy(f);
	assert_int_equal(destroy(f, 2), 0);
	assert_int_equal(state_of(f), VERSION_DESTROYING);
	assert_int_equal(doubles_objects(f->d), 2);
	number = f->d->number;
	assert_int_equal(destroy(f, 2), 0);
	assert_int_equal(f->d->number, number); /* nothing is new */
	f->gone = true;
	assert_int_equal(destroy(f, 2), 0);
	assert_int_equal(state_of(f), VERSION_DESTROYED);
}

static void
a_member_that_was_forgotten_is_not_waited_for(void **state)
{
	struct fixture *f = *state;

	begin_destroy(f);
	assert_int_equal(destroy(f, 2), 0);
	assert_int_equal(destroy(f, 1), 0);
	assert_int_equal(state_of(f), VERSION_DESTROYED);
}

static void
a_deposed_node_destroys_nothing_as_the_active(void **state)
{
	struct fixture *f = *state;

	begin_destroy(f);
	f->deposed = true;
	assert_int_equal(destroy(f, 2), KEKD_ENOTACTIVE);
	f->deposed = false;
	f->until_ns = clock_boot_ns() - 1;
	assert_int_equal(destroy(f, 2), KEKD_ENOTACTIVE);
	assert_int_equal(doubles_objects(f->d), 3);
}

static void
a_member_destroys_what_is_destroying_and_nothing_else_and_commits_nothing(void **state)
{
	struct fixture *f = *state;
	struct key *k;
	uint64_t number;

	prepare_destroy(f);
	k = find(f);
	f->deposed = true;
	assert_int_equal(lifecycle_destroy_here(&f->l, k, 1, f->error), KEKD_ESTATE);
	assert_int_equal(lifecycle_destroy_here(&f->l, k, 3, f->error), KEKD_ESTATE);
	assert_int_equal(doubles_objects(f->d), 3);
	key_unrefp(&k);
	assert_int_equal(lifecycle_begin_destroy(&f->l, "demo", STORE_ANY, 1, &k, f->error), 0);
	number = f->d->number;
	for (int i = 0; i < 2; i++)
		assert_int_equal(lifecycle_destroy_here(&f->l, k, 1, f->error), 0);
	assert_int_equal(doubles_objects(f->d), 2);
	assert_int_equal(f->d->number, number);
	key_unrefp(&k);
}

int
main(void)
{
	json_open();
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
		T(a_node_alone_asks_nobody_and_commits_twice),
		T(the_others_prove_a_version_that_is_stored_before_it_becomes_primary),
		T(without_a_members_proof_the_version_stays_staged_and_is_used_by_the_next_try),
		T(what_was_staged_is_activated_only_with_every_proof),
		T(an_older_version_becomes_primary_only_with_every_proof),
		cmocka_unit_test(a_rotation_that_broke_off_anywhere_is_finished_by_the_next_one),
		T(a_node_that_was_deposed_makes_no_object),
		T(a_lease_that_ends_on_the_way_to_the_token_is_seen_there),
		T(a_version_is_destroyed_when_every_member_has_said_so),
		T(a_member_that_was_forgotten_is_not_waited_for),
		T(a_deposed_node_destroys_nothing_as_the_active),
		T(a_member_destroys_what_is_destroying_and_nothing_else_and_commits_nothing),
#undef T
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
