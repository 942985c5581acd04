/* SPDX-License-Identifier: Apache-2.0 */
/* What changes a key, on a real token and a real store, with processes that are killed. */
#include "worker.h"

#include "kekd/clock.h"
#include "kekd/err.h"
#include "kekd/hsm.h"
#include "kekd/lifecycle.h"

#include <openssl/rand.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define ROUNDS 12
#define LONGEST_US 150000 /* that a round's process lives, once it began */

static const char *const tokens[] = { "main" };

struct fixture {
	struct lab lab;
	struct child worker;
	struct hsm *hsm;
	struct store *store;
	struct lifecycle l;
	char error[LIFECYCLE_ERROR_SIZE];
};

static void
load(const char *path, json_t *body, uint64_t commit, void *user)
{
	struct fixture *f = user;
	char error[JSON_ERROR_SIZE];
	struct key *k;

	if (strncmp(path, "keys/", 5) != 0)
		return;
	assert_non_null(body); /* nobody edits the store here */
	if (key_from_json(body, commit, &k, error) < 0)
		fail_msg("%s: %s", path, error);
	assert_int_equal(keyring_publish(f->l.keyring, k), 0);
}

/* A node with a worker of its own: init makes the cluster first. */
static void
node_start(struct fixture *f, bool init)
{
	struct sealed_config config = {
		.state_dir = f->lab.state,
		.cluster = "testing",
		.node = "n1",
		.tokens = tokens,
		.tokens_count = 1,
	};
	char error[JSON_ERROR_SIZE];

	f->hsm = lab_serve(&f->lab, &f->worker);
	assert_int_equal(store_open_sqlite(f->lab.state, init, &f->store), 0);
	config.store = f->store;
	config.hsm = f->hsm;
	if (init && sealed_init(&config, NULL, 0, error) < 0)
		fail_msg("init: %s", error);
	f->l = (struct lifecycle){ .hsm = f->hsm,
		.cluster = "testing",
		.node = "n1",
		.tokens = tokens,
		.tokens_count = 1 };
	assert_int_equal(keyring_open(&f->l.keyring), 0);
	if (sealed_open(&config, load, f, &f->l.store, error) < 0)
		fail_msg("open: %s", error);
}

static void
node_stop(struct fixture *f)
{
	sealed_freep(&f->l.store);
	store_freep(&f->store);
	keyring_freep(&f->l.keyring);
	lab_end(&f->hsm, &f->worker);
}

static int
setup(void **state)
{
	static struct fixture f;

	if (!lab_open(&f.lab))
		return -1;
	node_start(&f, true);
	*state = &f;
	return 0;
}

static int
teardown(void **state)
{
	struct fixture *f = *state;

	node_stop(f);
	lab_close(&f->lab);
	return 0;
}

static void
release(struct key *k)
{
	key_unrefp(&k);
}

static struct key *
must(struct fixture *f, int err, struct key *k)
{
	if (err < 0)
		fail_msg("%s: %s", kekd_strerror(err), f->error);
	return k;
}

static struct key *
create(struct fixture *f, const char *name)
{
	struct key *k = NULL;
	int err = lifecycle_create(&f->l, name, NULL, NULL, &k, f->error);

	return must(f, err, k);
}

static struct key *
rotate(struct fixture *f, const char *name)
{
	struct key *k = NULL;
	int err = lifecycle_rotate(&f->l, name, STORE_ANY, NULL, &k, f->error);

	return must(f, err, k);
}

/* Objects in the token, less the seal key; each must be some version's. */
static size_t
known_objects(struct fixture *f)
{
	static uint8_t room[32768];
	struct hsm_op op = { .kind = HSM_OP_LIST, .out = room, .out_cap = sizeof(room) };
	struct hsm_object o;
	struct reader r;
	size_t n = 0;

	assert_int_equal(hsm_call(f->l.hsm, &op, 1), 0);
	assert_int_equal(op.err, 0);
	r = READER(op.out, op.out_len);
	while (hsm_list_next(&r, &o) == 1) {
		if (o.label_len > 18 && memcmp(o.label, "kekd:testing:seal:", 18) == 0)
			continue;
		assert_true(keyring_knows_object(f->l.keyring, tokens[0], &o.id));
		n++;
	}
	return n;
}

static void
a_key_lives_through_rotation_disabling_and_return_to_primary(void **state)
{
	struct fixture *f = *state;
	struct key *k;

	release(create(f, "life"));
	k = rotate(f, "life");
	assert_int_equal(k->primary, 2);
	assert_int_equal(k->versions[1].attributes & HSM_ATTR_HELD, HSM_ATTR_HELD);
	key_unrefp(&k);
	must(f, lifecycle_set_enabled(&f->l, "life", STORE_ANY, 2, false, &k, f->error), k);
	key_unrefp(&k);
	must(f, lifecycle_make_primary(&f->l, "life", STORE_ANY, 1, &k, f->error), k);
	assert_int_equal(k->primary, 1);
	assert_int_equal(k->activation, 3);
	assert_int_equal(canary_prove(f->l.hsm, 0, &k->versions[0]), 0);
	key_unrefp(&k);
}

static void
a_canary_is_not_proven_by_another_versions_object(void **state)
{
	struct fixture *f = *state;
	struct key *k, *copy;

	release(create(f, "swapped"));
	k = rotate(f, "swapped");
	copy = key_copy(k);
	copy->versions[0].object_id = k->versions[1].object_id;
	assert_int_equal(canary_prove(f->l.hsm, 0, &copy->versions[0]), KEKD_EUNPROVEN);
	copy->versions[0].object_id.b[0] ^= 1;
	assert_int_equal(canary_prove(f->l.hsm, 0, &copy->versions[0]), KEKD_EOBJECT);
	key_unrefp(&copy);
	key_unrefp(&k);
}

/* In the child: rotates until it is killed, and tells each activation when it is done. */
static void
rotate_until_killed(struct fixture *f, int report)
{
	uint64_t activation = 0;

	node_start(f, false);
	if (write(report, &activation, sizeof(activation)) != sizeof(activation))
		_exit(1);
	for (;;) {
		struct key *k = NULL;
		if (lifecycle_rotate(&f->l, "killed", STORE_ANY, NULL, &k, f->error) < 0)
			_exit(1);
		activation = k->activation;
		key_unrefp(&k);
		if (write(report, &activation, sizeof(activation)) != sizeof(activation))
			_exit(1);
	}
}

/* The highest activation that the child told of before it was killed; it has no worker after. */
static uint64_t
run_and_kill(struct fixture *f)
{
	uint64_t told = 0, last = 0;
	uint16_t random = 0;
	int report[2];
	pid_t child;

	assert_int_equal(pipe(report), 0);
	child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		close(report[0]);
		rotate_until_killed(f, report[1]);
	}
	close(report[1]);
	assert_int_equal(read(report[0], &told, sizeof(told)), sizeof(told));
	assert_int_equal(RAND_bytes((unsigned char *)&random, sizeof(random)), 1);
	usleep((useconds_t)random * LONGEST_US / UINT16_MAX);
	kill(child, SIGKILL);
	assert_int_equal(waitpid(child, NULL, 0), child);
	while (read(report[0], &told, sizeof(told)) == sizeof(told))
		last = told;
	close(report[0]);
	return last;
}

/* An object that a killed worker left half made is abandoned; every other is held for ever. */
static void
check_held(struct fixture *f, const struct key_version *v)
{
	struct hsm_op op = { .kind = HSM_OP_INSPECT, .object = v->object_id };

	if (v->state == VERSION_ABANDONED)
		return;
	assert_int_equal(v->state, VERSION_ENABLED);
	assert_int_equal(hsm_call(f->hsm, &op, 1), 0);
	assert_int_equal(op.err, 0);
	assert_int_equal(op.attributes & HSM_ATTR_HELD, HSM_ATTR_HELD);
}

static void
check_after_kill(struct fixture *f, uint64_t told)
{
	struct key *k = keyring_find(f->l.keyring, "killed");
	const struct key_version *primary;
	size_t staged = 0;

	assert_non_null(k);
	assert_true(k->activation >= told);
	primary = key_find_version(k, k->primary);
	assert_int_equal(primary->state, VERSION_ENABLED);
	for (size_t i = 0; i < k->versions_count; i++) {
		const struct key_version *v = &k->versions[i];
		staged += v->state == VERSION_STAGED;
		if (v->state == VERSION_ENABLED)
			assert_int_equal(canary_prove(f->l.hsm, 0, v), 0);
	}
	assert_true(staged <= 1);
	key_unrefp(&k);
}

static void
a_killed_rotation_leaves_one_proven_primary_and_no_stray_object(void **state)
{
	struct fixture *f = *state;
	struct key *k;
	size_t before;

	release(create(f, "killed"));
	before = known_objects(f) - 1;
	for (int i = 0; i < ROUNDS; i++) {
		uint64_t told;
		node_stop(f);
		told = run_and_kill(f);
		node_start(f, false);
		check_after_kill(f, told);
		known_objects(f);
	}
	k = rotate(f, "killed");
	for (size_t i = 0; i < k->versions_count; i++)
		check_held(f, &k->versions[i]);
	assert_int_equal(known_objects(f) - before, k->versions_count);
	assert_true(k->versions_count > 1);
	key_unrefp(&k);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_key_lives_through_rotation_disabling_and_return_to_primary),
		cmocka_unit_test(a_canary_is_not_proven_by_another_versions_object),
		cmocka_unit_test(a_killed_rotation_leaves_one_proven_primary_and_no_stray_object),
	};

	if (access(SOFTHSM, R_OK) < 0)
		return 77; /* automake: skipped */
	return cmocka_run_group_tests(tests, setup, teardown);
}
