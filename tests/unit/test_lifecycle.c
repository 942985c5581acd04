/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What changes a key, over a store and a token in memory: the promises, and every instant at which
 * a change can break off.
 */
#include "doubles.h"

#include "kekd/clock.h"
#include "kekd/err.h"
#include "kekd/lifecycle.h"
#include "kekd/log.h"
#include "kekd/nonce.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *const tokens[] = { "main", "other" };

struct fixture {
	struct doubles *d;
	struct lifecycle l;
	char error[LIFECYCLE_ERROR_SIZE];
};

/* A node that comes up: the keyring is what the store holds. */
static void
start(struct fixture *f)
{
	keyring_freep(&f->l.keyring);
	assert_int_equal(keyring_open(&f->l.keyring), 0);
	for (size_t i = 0; i < DOUBLES_RECORDS; i++) {
		const struct doubles_record *r = &f->d->records[i];
		char error[JSON_ERROR_SIZE];
		struct key *k;
		json_t *body;
		if (r->commit == 0 || strncmp(r->path, "keys/", 5) != 0)
			continue;
		body = json_loads(r->body, JSON_REJECT_DUPLICATES, NULL);
		if (key_from_json(body, r->commit, &k, error) < 0)
			fail_msg("%s", error);
		json_decref(body);
		assert_int_equal(keyring_publish(f->l.keyring, k), 0);
	}
}

static void
open_fixture(struct fixture *f)
{
	*f = (struct fixture){ .d = doubles_open() };
	f->l = (struct lifecycle){ .store = doubles_store(f->d),
		.hsm = doubles_hsm(f->d),
		.cluster = "test",
		.node = "n1",
		.tokens = tokens,
		.tokens_count = STR_COUNT(tokens) };
	start(f);
}

static void
close_fixture(struct fixture *f)
{
	keyring_freep(&f->l.keyring);
	doubles_close(f->d);
}

static int
setup(void **state)
{
	static struct fixture f;

	open_fixture(&f);
	*state = &f;
	return 0;
}

static int
teardown(void **state)
{
	close_fixture(*state);
	return 0;
}

static struct key *
check_key(struct fixture *f, int err, struct key *k)
{
	if (err < 0)
		fail_msg("%s: %s", kekd_strerror(err), f->error);
	return k;
}

static struct key *
create(struct fixture *f)
{
	struct key *k = NULL;
	int err = lifecycle_create(&f->l, "demo", NULL, NULL, &k, f->error);

	return check_key(f, err, k);
}

static struct key *
rotate(struct fixture *f)
{
	struct key *k = NULL;
	int err = lifecycle_rotate(&f->l, "demo", STORE_ANY, NULL, &k, f->error);

	return check_key(f, err, k);
}

static void
release(struct key *k)
{
	key_unrefp(&k);
}

/* The change was refused with this error, says so in words, and the record is as it was. */
static void
assert_refused(struct fixture *f, int err, int expected, uint64_t commits_before)
{
	assert_int_equal(err, expected);
	assert_true(strlen(f->error) > 10);
	assert_int_equal(f->d->number, commits_before);
	f->error[0] = '\0';
}

static void
a_created_key_has_an_object_with_its_uuid_and_label_and_is_proven(void **state)
{
	struct fixture *f = *state;
	json_t *labels = json_pack("{s:s}", "team", "storage");
	const struct doubles_object *o = &f->d->objects[0];
	struct key *k = NULL, *found;
	char id[KMS_KEY_ID_SIZE], uuid[UUID_TEXT_SIZE];

	check_key(f,
		lifecycle_create(&f->l, "demo", &(struct lifecycle_settings){ .labels = labels },
			NULL, &k, f->error),
		k);
	assert_int_equal(k->primary, 1);
	assert_int_equal(k->activation, 1);
	assert_int_equal(k->previous, 0);
	assert_true(json_equal(k->labels, labels));
	assert_int_equal(k->versions[0].state, VERSION_ENABLED);
	assert_int_equal(k->versions[0].attributes, HSM_ATTR_HELD);
	assert_string_equal(k->versions[0].token, "main");
	assert_int_equal(o->id.len, 16);
	assert_memory_equal(o->id.b, k->versions[0].id.b, 16);
	assert_string_equal(o->label, "kekd:test:demo:v1");
	assert_int_equal(canary_prove(f->l.hsm, 0, &k->versions[0]), 0);
	assert_int_not_equal(nonce_take(k->versions[0].nonces, 1), NONCE_NONE);
	found = keyring_find(f->l.keyring, "demo");
	assert_ptr_equal(found, k);
	key_kms_key_id(k, id);
	uuid_format(&k->versions[0].id, uuid);
	assert_int_equal(strncmp(id, uuid, 36), 0);
	assert_string_equal(id + 36, ".1");
	json_decref(labels);
	release(found);
	release(k);
}

static void
a_key_that_exists_is_not_created_again(void **state)
{
	struct fixture *f = *state;
	struct key *k = NULL;

	release(create(f));
	assert_refused(f, lifecycle_create(&f->l, "demo", NULL, NULL, &k, f->error),
		KEKD_EPRECONDITION, f->d->number);
	assert_null(k);
	assert_int_equal(doubles_objects(f->d), 1);
}

static void
a_creation_that_is_not_valid_leaves_nothing(void **state)
{
	struct fixture *f = *state;
	json_t *labels = json_pack("{s:i}", "a", 1);
	struct key *k = NULL;

	assert_refused(
		f, lifecycle_create(&f->l, "De/mo", NULL, NULL, &k, f->error), KEKD_ENAME, 0);
	assert_refused(f,
		lifecycle_create(&f->l, "demo", &(struct lifecycle_settings){ .labels = labels },
			NULL, &k, f->error),
		KEKD_EINVALID, 0);
	assert_refused(
		f, lifecycle_create(&f->l, "demo", NULL, "none", &k, f->error), KEKD_EINVALID, 0);
	assert_int_equal(doubles_objects(f->d), 0);
	json_decref(labels);
}

static void
rotation_makes_a_new_primary_and_keeps_the_old_one(void **state)
{
	struct fixture *f = *state;
	struct key *k;

	release(create(f));
	k = rotate(f);
	assert_int_equal(k->primary, 2);
	assert_int_equal(k->previous, 1);
	assert_int_equal(k->activation, 2);
	assert_int_equal(k->versions[0].state, VERSION_ENABLED);
	assert_int_equal(canary_prove(f->l.hsm, 0, &k->versions[0]), 0);
	assert_int_equal(canary_prove(f->l.hsm, 0, &k->versions[1]), 0);
	release(k);
}

static void
a_rotation_of_a_record_that_moved_on_is_refused(void **state)
{
	struct fixture *f = *state;
	struct key *k = create(f), *now = NULL;
	uint64_t seen = k->commit;

	release(k);
	check_key(f, lifecycle_rotate(&f->l, "demo", seen, NULL, &now, f->error), now);
	k = NULL;
	assert_refused(f, lifecycle_rotate(&f->l, "demo", seen, NULL, &k, f->error),
		KEKD_EPRECONDITION, f->d->number);
	assert_int_equal(doubles_objects(f->d), 2);
	release(now);
}

static void
a_rotation_may_go_to_another_token(void **state)
{
	struct fixture *f = *state;
	struct key *k = NULL;

	release(create(f));
	check_key(f, lifecycle_rotate(&f->l, "demo", STORE_ANY, "other", &k, f->error), k);
	assert_string_equal(k->versions[1].token, "other");
	assert_int_equal(f->d->objects[1].token, 1);
	assert_int_equal(canary_prove(f->l.hsm, 1, &k->versions[1]), 0);
	assert_int_equal(canary_prove(f->l.hsm, 0, &k->versions[0]), 0);
	release(k);
}

static void
a_staged_version_in_a_token_that_is_given_up_is_abandoned(void **state)
{
	struct fixture *f = *state;
	struct key *k = NULL;

	release(create(f));
	doubles_arm(f->d, DOUBLES_FAIL_BEFORE, 4); /* read, stage, create the object, canary */
	assert_int_equal(
		lifecycle_rotate(&f->l, "demo", STORE_ANY, "other", &k, f->error), KEKD_EHSM);
	check_key(f, lifecycle_rotate(&f->l, "demo", STORE_ANY, "main", &k, f->error), k);
	assert_int_equal(k->versions[1].state, VERSION_ABANDONED);
	assert_int_equal(k->primary, 3);
	assert_true(keyring_knows_object(f->l.keyring, "other", &k->versions[1].object_id));
	release(k);
}

static void
a_key_that_the_token_would_give_away_is_refused_by_name_of_what_is_missing(void **state)
{
	struct fixture *f = *state;
	struct key *k = NULL;

	release(create(f));
	f->d->new_attributes = HSM_ATTR_HELD & ~(HSM_ATTR_NEVER_EXTRACTABLE | HSM_ATTR_LOCAL);
	assert_int_equal(
		lifecycle_rotate(&f->l, "demo", STORE_ANY, NULL, &k, f->error), KEKD_EATTRIBUTES);
	assert_non_null(strstr(f->error, "never-extractable, local"));
	assert_null(k);
	k = keyring_find(f->l.keyring, "demo");
	assert_int_equal(k->primary, 1);
	assert_int_equal(k->versions[1].state, VERSION_ABANDONED);
	release(k);
	f->d->new_attributes = HSM_ATTR_HELD;
	k = rotate(f);
	assert_int_equal(k->primary, 3);
	release(k);
}

static void
an_object_that_was_left_half_made_is_given_up_by_the_next_rotation(void **state)
{
	struct fixture *f = *state;
	struct key *k = NULL;

	release(create(f));
	f->d->new_attributes = HSM_ATTR_HELD & ~HSM_ATTR_LOCAL;
	doubles_arm(f->d, DOUBLES_FAIL_AFTER, 3); /* made, and no answer */
	assert_int_equal(
		lifecycle_rotate(&f->l, "demo", STORE_ANY, NULL, &k, f->error), KEKD_ETIMEOUT);
	f->d->new_attributes = HSM_ATTR_HELD;
	k = rotate(f);
	assert_int_equal(k->versions[1].state, VERSION_ABANDONED);
	assert_int_equal(k->primary, 3);
	assert_true(keyring_knows_object(f->l.keyring, "main", &k->versions[1].object_id));
	release(k);
}

static void
a_rotation_that_cannot_be_proven_leaves_the_old_primary_and_names_the_node(void **state)
{
	struct fixture *f = *state;
	struct key *k = NULL;

	release(create(f));
	doubles_arm(f->d, DOUBLES_FAIL_AFTER, 5); /* the canary's unwrap */
	assert_int_equal(
		lifecycle_rotate(&f->l, "demo", STORE_ANY, NULL, &k, f->error), KEKD_ETIMEOUT);
	assert_non_null(strstr(f->error, "version 2 in token main on node n1"));
	k = keyring_find(f->l.keyring, "demo");
	assert_int_equal(k->primary, 1);
	assert_int_equal(k->versions[1].state, VERSION_STAGED);
	release(k);
	k = rotate(f);
	assert_int_equal(k->primary, 2);
	assert_int_equal(k->versions_count, 2);
	assert_int_equal(doubles_objects(f->d), 2);
	release(k);
}

static void
a_disabled_version_refuses_and_no_worker_keeps_a_copy(void **state)
{
	struct fixture *f = *state;
	struct key *k = NULL;
	struct key_version *v;

	release(create(f));
	check_key(f, lifecycle_set_enabled(&f->l, "demo", STORE_ANY, 1, false, &k, f->error), k);
	assert_int_equal(k->versions[0].state, VERSION_DISABLED);
	assert_int_equal(f->d->drops, 1);
	assert_int_equal(key_choose_wrap(k, NULL, clock_real_us(), &v), KEKD_EDISABLED);
	release(k);
	k = keyring_find(f->l.keyring, "demo");
	assert_int_equal(k->versions[0].state, VERSION_DISABLED);
	release(k);
	check_key(f, lifecycle_set_enabled(&f->l, "demo", STORE_ANY, 1, true, &k, f->error), k);
	assert_int_equal(key_choose_wrap(k, NULL, clock_real_us(), &v), 0);
	release(k);
}

static void
disabling_twice_changes_the_record_once_and_drops_again(void **state)
{
	struct fixture *f = *state;
	struct key *k = NULL;
	uint64_t number;

	release(create(f));
	check_key(f, lifecycle_set_enabled(&f->l, "demo", STORE_ANY, 1, false, &k, f->error), k);
	release(k);
	number = f->d->number;
	check_key(f, lifecycle_set_enabled(&f->l, "demo", STORE_ANY, 1, false, &k, f->error), k);
	assert_int_equal(f->d->number, number);
	assert_int_equal(f->d->drops, 2);
	release(k);
}

static void
states_of_versions_that_are_not_there_or_staged_are_not_set(void **state)
{
	struct fixture *f = *state;
	struct key *k = NULL;
	uint64_t number;

	release(create(f));
	doubles_arm(f->d, DOUBLES_FAIL_BEFORE, 4);
	assert_int_equal(lifecycle_rotate(&f->l, "demo", STORE_ANY, NULL, &k, f->error), KEKD_EHSM);
	number = f->d->number;
	assert_refused(f, lifecycle_set_enabled(&f->l, "demo", STORE_ANY, 2, true, &k, f->error),
		KEKD_ESTATE, number);
	assert_refused(f, lifecycle_make_primary(&f->l, "demo", STORE_ANY, 2, &k, f->error),
		KEKD_ESTATE, number);
	assert_refused(f, lifecycle_set_enabled(&f->l, "demo", STORE_ANY, 9, true, &k, f->error),
		KEKD_ENOVERSION, number);
	assert_refused(f, lifecycle_make_primary(&f->l, "demo", STORE_ANY, 9, &k, f->error),
		KEKD_ENOVERSION, number);
	assert_refused(f, lifecycle_set_enabled(&f->l, "none", STORE_ANY, 1, true, &k, f->error),
		KEKD_ENOKEY, number);
	assert_refused(f, lifecycle_set_enabled(&f->l, "demo", 1, 1, false, &k, f->error),
		KEKD_EPRECONDITION, number);
	assert_null(k);
}

static void
a_version_made_primary_again_has_a_new_kms_key_id(void **state)
{
	struct fixture *f = *state;
	char first[KMS_KEY_ID_SIZE], again[KMS_KEY_ID_SIZE];
	struct key *k = create(f);

	key_kms_key_id(k, first);
	release(k);
	release(rotate(f));
	k = NULL;
	check_key(f, lifecycle_make_primary(&f->l, "demo", STORE_ANY, 1, &k, f->error), k);
	key_kms_key_id(k, again);
	assert_int_equal(k->primary, 1);
	assert_int_equal(k->previous, 2);
	assert_int_equal(strncmp(first, again, 36), 0);
	assert_string_equal(again + 36, ".3");
	release(k);
}

static void
a_version_whose_key_is_gone_or_another_is_not_made_primary(void **state)
{
	struct fixture *f = *state;
	struct key *k = NULL;
	uint64_t number;

	release(create(f));
	release(rotate(f));
	number = f->d->number;
	f->d->objects[0].key[0] ^= 1;
	assert_refused(f, lifecycle_make_primary(&f->l, "demo", STORE_ANY, 1, &k, f->error),
		KEKD_EUNPROVEN, number);
	f->d->objects[0].id.b[0] ^= 1;
	assert_refused(f, lifecycle_make_primary(&f->l, "demo", STORE_ANY, 1, &k, f->error),
		KEKD_EOBJECT, number);
	f->d->objects[0].id.b[0] ^= 1;
	f->d->objects[0].key[0] ^= 1;
	check_key(f, lifecycle_set_enabled(&f->l, "demo", STORE_ANY, 1, false, &k, f->error), k);
	release(k);
	k = NULL;
	assert_refused(f, lifecycle_make_primary(&f->l, "demo", STORE_ANY, 1, &k, f->error),
		KEKD_EDISABLED, f->d->number);
	assert_null(k);
}

static void
a_canary_of_another_version_or_with_another_hash_proves_nothing(void **state)
{
	struct fixture *f = *state;
	struct key *k = create(f), *copy = key_copy(k);
	struct key_version *v = &copy->versions[0];

	v->canary_sha256[0] ^= 1;
	assert_int_equal(canary_prove(f->l.hsm, 0, v), KEKD_EUNPROVEN);
	v->canary_sha256[0] ^= 1;
	assert_int_equal(canary_prove(f->l.hsm, 0, v), 0);
	v->id.b[0] ^= 1;
	assert_int_equal(canary_prove(f->l.hsm, 0, v), KEKD_EUNPROVEN);
	v->id.b[0] ^= 1;
	v->canary_len = 0;
	assert_int_equal(canary_prove(f->l.hsm, 0, v), KEKD_EUNPROVEN);
	f->d->iv_len = 16;
	assert_int_equal(canary_make(f->l.hsm, 0, v), 0);
	assert_int_equal(canary_prove(f->l.hsm, 0, v), 0);
	release(copy);
	release(k);
}

static void
labels_are_replaced_as_a_whole(void **state)
{
	struct fixture *f = *state;
	json_t *labels = json_pack("{s:s}", "a", "1"), *wrong = json_pack("{s:n}", "a");
	struct key *k = NULL;

	release(create(f));
	check_key(f,
		lifecycle_set(&f->l, "demo", STORE_ANY,
			&(struct lifecycle_settings){ .labels = labels }, &k, f->error),
		k);
	assert_true(json_equal(k->labels, labels));
	assert_int_equal(k->primary, 1);
	release(k);
	k = NULL;
	assert_refused(f,
		lifecycle_set(&f->l, "demo", STORE_ANY,
			&(struct lifecycle_settings){ .labels = wrong }, &k, f->error),
		KEKD_EINVALID, f->d->number);
	json_decref(labels);
	json_decref(wrong);
}

static void
a_record_that_went_missing_is_no_room_for_a_new_key(void **state)
{
	struct fixture *f = *state;
	struct key *k = NULL;

	release(create(f));
	doubles_find(f->d, "keys/demo")->commit = 0;
	assert_refused(f, lifecycle_create(&f->l, "demo", NULL, NULL, &k, f->error), KEKD_ERECORD,
		f->d->number);
	assert_null(k);
}

/* ---- every instant ---- */

enum change { CREATE, ROTATE, MAKE_PRIMARY };

/* As a client does: with the number of the record that it read. */
static int
run_change(struct fixture *f, enum change change)
{
	_cleanup_(key_unrefp) struct key *known = keyring_find(f->l.keyring, "demo");
	uint64_t number = known ? known->commit : 0;
	struct key *k = NULL;
	int err;

	if (change == CREATE)
		err = lifecycle_create(&f->l, "demo", NULL, NULL, &k, f->error);
	else if (change == ROTATE)
		err = lifecycle_rotate(&f->l, "demo", number, NULL, &k, f->error);
	else
		err = lifecycle_make_primary(&f->l, "demo", number, 1, &k, f->error);
	key_unrefp(&k);
	return err;
}

/* What the change begins with, and what it ends with. */
static const struct {
	unsigned primary_before, primary_after, versions_after;
	uint64_t activation_after;
} expected[] = {
	[CREATE] = { 0, 1, 1, 1 },
	[ROTATE] = { 1, 2, 2, 2 },
	[MAKE_PRIMARY] = { 2, 1, 2, 3 },
};

static void
prepare_change(struct fixture *f, enum change change)
{
	if (change != CREATE)
		release(create(f));
	if (change == MAKE_PRIMARY)
		release(rotate(f));
}

static void
break_off(struct fixture *f, enum change change, enum doubles_event event, unsigned at)
{
	bool exits = event == DOUBLES_EXIT_BEFORE || event == DOUBLES_EXIT_AFTER;
	pid_t child;

	doubles_arm(f->d, event, at);
	if (!exits) {
		run_change(f, change);
		return;
	}
	child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		run_change(f, change);
		_exit(0);
	}
	assert_int_equal(waitpid(child, NULL, 0), child);
}

/* No object without a record; the primary is the old or the new one, and is proven. */
static void
check_whole(struct fixture *f, enum change change)
{
	_cleanup_(key_unrefp) struct key *k = keyring_find(f->l.keyring, "demo");

	for (size_t i = 0; i < DOUBLES_OBJECTS; i++) {
		const struct doubles_object *o = &f->d->objects[i];
		assert_true(o->id.len == 0 ||
			    keyring_knows_object(f->l.keyring, tokens[o->token], &o->id));
	}
	if (!k) {
		assert_int_equal(change, CREATE);
		return;
	}
	assert_true(k->primary == expected[change].primary_before ||
		    k->primary == expected[change].primary_after);
	for (size_t i = 0; i < k->versions_count; i++)
		if (k->versions[i].state == VERSION_ENABLED)
			assert_int_equal(canary_prove(f->l.hsm, 0, &k->versions[i]), 0);
}

static bool
is_done(struct fixture *f, enum change change)
{
	_cleanup_(key_unrefp) struct key *k = keyring_find(f->l.keyring, "demo");

	return k && k->activation == expected[change].activation_after;
}

/* Whoever reads the record and finds it unchanged asks again; once more after "it has changed". */
static void
finish(struct fixture *f, enum change change)
{
	_cleanup_(key_unrefp) struct key *k = NULL;
	int err = KEKD_EPRECONDITION;

	for (int i = 0; i < 2 && err == KEKD_EPRECONDITION; i++)
		err = is_done(f, change) ? 0 : run_change(f, change);
	if (err < 0 && !is_done(f, change))
		fail_msg("%s: %s", kekd_strerror(err), f->error);
	k = keyring_find(f->l.keyring, "demo");
	assert_int_equal(k->primary, expected[change].primary_after);
	assert_int_equal(k->activation, expected[change].activation_after);
	assert_int_equal(k->versions_count, expected[change].versions_after);
	assert_int_equal(doubles_objects(f->d), expected[change].versions_after);
	check_whole(f, change);
}

/* Breaks the change off at its at-th call; false when it has fewer. restart: the keyring is read
 * anew; else the same process goes on, and may not know of a commit whose answer was lost. */
static bool
try_instant(enum change change, enum doubles_event event, unsigned at, bool restart)
{
	struct fixture f;
	bool hit;

	open_fixture(&f);
	prepare_change(&f, change);
	break_off(&f, change, event, at);
	hit = f.d->calls >= at;
	doubles_arm(f.d, DOUBLES_NOTHING, 0);
	if (restart)
		start(&f);
	if (restart)
		check_whole(&f, change);
	finish(&f, change);
	close_fixture(&f);
	return hit;
}

static void
try_every_instant(enum change change)
{
	for (int event = DOUBLES_FAIL_BEFORE; event <= DOUBLES_EXIT_AFTER; event++) {
		unsigned at = 1;
		while (try_instant(change, (enum doubles_event)event, at, true))
			at++;
		assert_true(at > 5);
	}
	for (int event = DOUBLES_FAIL_BEFORE; event <= DOUBLES_FAIL_AFTER; event++)
		for (unsigned at = 1; try_instant(change, (enum doubles_event)event, at, false);)
			at++;
}

static void
a_creation_broken_off_at_any_instant_is_finished_by_the_next(void **state)
{
	(void)state;
	try_every_instant(CREATE);
}

static void
a_rotation_broken_off_at_any_instant_is_finished_by_the_next(void **state)
{
	(void)state;
	try_every_instant(ROTATE);
}

static void
making_primary_broken_off_at_any_instant_leaves_one_primary(void **state)
{
	(void)state;
	try_every_instant(MAKE_PRIMARY);
}

static void
a_commit_whose_answer_was_lost_is_seen_by_the_next_change(void **state)
{
	struct fixture *f = *state;
	struct key *k = create(f);
	uint64_t seen = k->commit;

	release(k);
	k = NULL;
	doubles_arm(f->d, DOUBLES_FAIL_AFTER, 2);
	assert_int_equal(
		lifecycle_set_enabled(&f->l, "demo", seen, 1, false, &k, f->error), KEKD_ESTORE);
	assert_int_equal(lifecycle_set_enabled(&f->l, "demo", seen, 1, false, &k, f->error),
		KEKD_EPRECONDITION);
	k = keyring_find(f->l.keyring, "demo");
	assert_int_equal(k->versions[0].state, VERSION_DISABLED);
	release(k);
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(a_created_key_has_an_object_with_its_uuid_and_label_and_is_proven),
		TEST(a_key_that_exists_is_not_created_again),
		TEST(a_creation_that_is_not_valid_leaves_nothing),
		TEST(rotation_makes_a_new_primary_and_keeps_the_old_one),
		TEST(a_rotation_of_a_record_that_moved_on_is_refused),
		TEST(a_rotation_may_go_to_another_token),
		TEST(a_staged_version_in_a_token_that_is_given_up_is_abandoned),
		TEST(a_key_that_the_token_would_give_away_is_refused_by_name_of_what_is_missing),
		TEST(an_object_that_was_left_half_made_is_given_up_by_the_next_rotation),
		TEST(a_rotation_that_cannot_be_proven_leaves_the_old_primary_and_names_the_node),
		TEST(a_disabled_version_refuses_and_no_worker_keeps_a_copy),
		TEST(disabling_twice_changes_the_record_once_and_drops_again),
		TEST(states_of_versions_that_are_not_there_or_staged_are_not_set),
		TEST(a_version_made_primary_again_has_a_new_kms_key_id),
		TEST(a_version_whose_key_is_gone_or_another_is_not_made_primary),
		TEST(a_canary_of_another_version_or_with_another_hash_proves_nothing),
		TEST(labels_are_replaced_as_a_whole),
		TEST(a_record_that_went_missing_is_no_room_for_a_new_key),
		TEST(a_commit_whose_answer_was_lost_is_seen_by_the_next_change),
		TEST(a_creation_broken_off_at_any_instant_is_finished_by_the_next),
		TEST(a_rotation_broken_off_at_any_instant_is_finished_by_the_next),
		TEST(making_primary_broken_off_at_any_instant_leaves_one_primary),
	};

	log_open("test", LOG_LEVEL_ERROR); /* failures are made here by the dozen */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
