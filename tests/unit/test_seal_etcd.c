/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The sealed store on a real etcd and a real token, with etcd's root as the one who changes what is
 * there: nothing of his is served, and the last good state is, also after a restart.
 */
#include "etcd_server.h"
#include "proxy.h"
#include "store_lab.h"
#include "worker.h"

#include "kekd/clock.h"
#include "kekd/err.h"
#include "kekd/log.h"
#include "kekd/seal.h"
#include "kekd/str.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define HELD_MAX 64

static const char *const tokens[] = { LAB_TOKEN };
static struct lab lab;
static struct child worker;
static struct hsm *hsm;

/* What the callee of the load function keeps. */
struct held {
	char path[64];
	int value;
	bool refused, gone;
};

struct node {
	struct store_lab lab;
	struct sealed *sealed;
	struct held held[HELD_MAX];
	size_t held_count;
	char error[JSON_ERROR_SIZE];
};

struct fixture {
	struct etcd_servers servers;
	struct proxy *proxy;
	struct node a, b; /* a leads, through the proxy */
};

static bool
ready(void)
{
	return etcd_installed();
}

#define NEEDS_ETCD() \
	do { \
		if (!ready()) \
			skip(); \
	} while (0)

/* ---- nodes ---- */

static struct held *
find_held(struct node *n, const char *path)
{
	for (size_t i = 0; i < n->held_count; i++)
		if (strcmp(n->held[i].path, path) == 0)
			return &n->held[i];
	return NULL;
}

static void
load(const char *path, json_t *body, uint64_t commit, void *user)
{
	struct node *n = user;
	struct held *h = find_held(n, path);

	if (!h) {
		assert_true(n->held_count < HELD_MAX);
		h = &n->held[n->held_count++];
		*h = (struct held){ .value = -1 };
		snprintf(h->path, sizeof(h->path), "%s", path);
	}
	h->refused = !body && commit == 0;
	h->gone = !body && commit > 0;
	if (body)
		h->value = (int)json_integer_value(json_object_get(body, "x"));
}

static struct sealed_config
config(struct node *n)
{
	return (struct sealed_config){ .store = n->lab.store,
		.hsm = hsm,
		.state_dir = n->lab.dir,
		.cluster = n->lab.cluster,
		.node = n->lab.node,
		.tokens = tokens,
		.tokens_count = 1 };
}

static int
try_open(struct node *n)
{
	struct sealed_config c = config(n);

	n->held_count = 0;
	return sealed_open(&c, load, n, &n->sealed, n->error);
}

static void
open_node(struct node *n)
{
	if (try_open(n) < 0)
		fail_msg("%s", n->error);
}

static void
close_node(struct node *n)
{
	sealed_freep(&n->sealed);
	store_lab_close(&n->lab);
}

static void
restart(struct node *n)
{
	sealed_freep(&n->sealed);
	store_lab_reopen(&n->lab);
	open_node(n);
}

static int
join(struct node *n, uint64_t *ret_number)
{
	struct sealed_config c = config(n);
	char generation[UUID_TEXT_SIZE];

	return sealed_join(&c, ret_number, generation, n->error);
}

/* ---- the fixture ---- */

static json_t *
value(int x)
{
	return json_pack("{s:i,s:{s:s}}", "x", x, "labels", "team", "a");
}

static int
setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	json_t *body = value(1);
	struct sealed_change first = { "clients/admin", 0, body };
	struct sealed_config c;

	assert_non_null(f);
	*state = f;
	if (ready()) {
		assert_true(lab_open(&lab));
		hsm = lab_serve(&lab, &worker);
		etcd_servers_start(&f->servers, 1, false);
		f->proxy = proxy_start(f->servers.members[0].port);
		store_lab_open(&f->a.lab, &f->servers, proxy_url(f->proxy), "n1", NULL);
		c = config(&f->a);
		if (sealed_init(&c, &first, 1, f->a.error) < 0)
			fail_msg("init: %s", f->a.error);
		open_node(&f->a);
	}
	json_decref(body);
	return 0;
}

static int
teardown(void **state)
{
	struct fixture *f = *state;

	close_node(&f->b);
	close_node(&f->a);
	proxy_stop(&f->proxy);
	etcd_servers_stop(&f->servers);
	if (hsm) {
		lab_end(&hsm, &worker);
		lab_close(&lab);
	}
	free(f);
	return 0;
}

static void
add_b(struct fixture *f)
{
	uint64_t number = 0;

	store_lab_open(&f->b.lab, &f->servers, f->servers.members[0].url, "n2", &f->a.lab);
	if (join(&f->b, &number) < 0)
		fail_msg("join: %s", f->b.error);
	assert_int_equal(number, sealed_number(f->a.sealed));
	open_node(&f->b);
}

/* ---- helpers ---- */

static int
put(struct node *n, const char *path, int x, uint64_t *ret_number)
{
	json_t *body = value(x);
	struct sealed_change c = { path, STORE_ANY, body };
	int err = sealed_commit(n->sealed, &c, 1, ret_number);

	if (err == 0)
		load(path, body, *ret_number, n);
	json_decref(body);
	return err;
}

/* Again while etcd, which was away, has not been read yet. */
static uint64_t
must_put(struct node *n, const char *path, int x)
{
	uint64_t number = 0;
	int err = put(n, path, x, &number);

	for (int i = 0; err == KEKD_ESTORE && i < 100; i++) {
		usleep(50000);
		sealed_poll(n->sealed);
		err = put(n, path, x, &number);
	}
	if (err < 0) {
		struct store_etcd_status e;
		store_etcd_status(n->lab.store, &e);
		fail_msg("%s: %s: reachable %d, synced %d, position %llu, lag %llu: %s", path,
			kekd_err_info(err)->code, e.reachable, e.synced,
			(unsigned long long)e.position, (unsigned long long)e.lag_revisions,
			e.error);
	}
	return number;
}

static int
put_own(struct node *n, const char *path, int x)
{
	json_t *body = value(x);
	uint64_t number = 0;
	int err = sealed_put_own(n->sealed, path, STORE_ANY, body, &number);

	if (err == 0)
		load(path, body, number, n);
	json_decref(body);
	return err;
}

static void
assert_value(struct node *n, const char *path, int x)
{
	struct held *h = find_held(n, path);

	assert_non_null(h);
	assert_false(h->gone);
	assert_int_equal(h->value, x);
}

static struct sealed_status
status_of(struct node *n)
{
	struct sealed_status s;

	sealed_status(n->sealed, &s);
	return s;
}

/* As the control thread's ticks do. */
static void
wait_for(struct node *n, enum sealed_hold hold, size_t refused)
{
	uint64_t until = clock_boot_ns() + 8 * CLOCK_S;
	struct sealed_status s = status_of(n);

	do {
		sealed_poll(n->sealed);
		s = status_of(n);
		if (s.hold == hold && s.refused == refused)
			return;
		usleep(10000);
	} while (clock_boot_ns() < until);
	struct store_etcd_status e;
	store_etcd_status(n->lab.store, &e);
	fail_msg("%s: hold %d with %zu refused, not %d with %zu: %s; reachable %d, synced %d, "
		 "position "
		 "%llu, lag %llu, reads %llu: %s",
		n->lab.node, s.hold, s.refused, hold, refused, sealed_hold_text(s.hold),
		e.reachable, e.synced, (unsigned long long)e.position,
		(unsigned long long)e.lag_revisions, (unsigned long long)e.full_reads, e.error);
}

static void
wait_for_value(struct node *n, const char *path, int x)
{
	uint64_t until = clock_boot_ns() + 8 * CLOCK_S;
	struct held *h;

	do {
		assert_true(sealed_poll(n->sealed) >= 0);
		h = find_held(n, path);
		if (h && !h->refused && !h->gone && h->value == x)
			return;
		usleep(10000);
	} while (clock_boot_ns() < until);
	fail_msg("%s: %s is %d, not %d", n->lab.node, path, h ? h->value : -1, x);
}

/* ---- two nodes ---- */

static void
a_second_node_joins_and_follows(void **state)
{
	struct fixture *f = *state;
	uint64_t number;

	NEEDS_ETCD();
	must_put(&f->a, "keys/a", 1);
	add_b(f);
	assert_value(&f->b, "keys/a", 1);
	assert_value(&f->b, "clients/admin", 1);
	number = must_put(&f->a, "keys/a", 2);
	wait_for_value(&f->b, "keys/a", 2);
	assert_int_equal(sealed_number(f->b.sealed), number);
	assert_int_equal(status_of(&f->b).accepted, number);
	assert_int_equal(put_own(&f->b, "members/n2", 7), 0);
	wait_for_value(&f->a, "members/n2", 7);
	/* Who does not lead changes nothing, and knows what is there as before. */
	assert_int_equal(put(&f->b, "keys/a", 3, &number), KEKD_ENOTACTIVE);
	must_put(&f->a, "keys/a", 4);
	wait_for_value(&f->b, "keys/a", 4);
	assert_int_equal(status_of(&f->b).hold, SEALED_HOLD_NONE);
}

static void
another_active_goes_on_from_where_the_first_was(void **state)
{
	struct fixture *f = *state;
	uint64_t number;

	NEEDS_ETCD();
	must_put(&f->a, "keys/a", 1);
	add_b(f);
	store_lab_lead(&f->b.lab);
	number = must_put(&f->b, "keys/b", 2);
	assert_int_equal(put(&f->a, "keys/a", 9, &number), KEKD_ENOTACTIVE);
	wait_for_value(&f->a, "keys/b", 2);
	/* And back, at once: what the other wrote is in the way only until it is looked at. */
	must_put(&f->b, "keys/c", 3);
	store_lab_lead(&f->a.lab);
	must_put(&f->a, "keys/d", 4);
	assert_value(&f->a, "keys/c", 3);
	wait_for_value(&f->b, "keys/d", 4);
	assert_int_equal(status_of(&f->a).hold, SEALED_HOLD_NONE);
	assert_int_equal(status_of(&f->b).hold, SEALED_HOLD_NONE);
}

static void
a_node_that_is_gone_takes_its_own_record_with_it(void **state)
{
	struct fixture *f = *state;
	struct sealed_record r;

	NEEDS_ETCD();
	add_b(f);
	assert_int_equal(put_own(&f->a, "nodes/n1", 1), 0);
	wait_for_value(&f->b, "nodes/n1", 1);
	store_lab_revoke(&f->a.lab);
	for (int i = 0; i < 200 && !find_held(&f->b, "nodes/n1")->gone; i++) {
		usleep(10000);
		sealed_poll(f->b.sealed);
	}
	assert_true(find_held(&f->b, "nodes/n1")->gone);
	assert_int_equal(sealed_get(f->b.sealed, "nodes/n1", &r), -ENOENT);
	assert_int_equal(status_of(&f->b).hold, SEALED_HOLD_NONE);
	assert_int_equal(status_of(&f->b).refused, 0);
}

static void
a_commit_whose_answer_was_lost_is_found_done(void **state)
{
	struct fixture *f = *state;
	uint64_t number = 0;

	NEEDS_ETCD();
	must_put(&f->a, "keys/a", 1);
	proxy_lose_answer(f->proxy);
	assert_int_equal(put(&f->a, "keys/a", 2, &number), 0);
	assert_int_equal(sealed_number(f->a.sealed), number);
	/* Nobody there to ask: it is found out before the next one. */
	proxy_lose_answer(f->proxy);
	json_t *body = value(3);
	struct sealed_change c = { "keys/a", STORE_ANY, body };
	f->a.lab.settings.timeout_ms = 300;
	proxy_hang(f->proxy, true);
	assert_int_equal(sealed_commit(f->a.sealed, &c, 1, &number), KEKD_ESTORE);
	proxy_hang(f->proxy, false);
	json_decref(body);
	must_put(&f->a, "keys/b", 4);
	wait_for(&f->a, SEALED_HOLD_NONE, 0);
}

/* Also where the watch hangs just then, and etcd is gone right after. */
static void
a_commit_whose_answer_was_lost_is_whole_in_the_image(void **state)
{
	struct fixture *f = *state;
	uint64_t number = 0;

	NEEDS_ETCD();
	must_put(&f->a, "keys/a", 1);
	must_put(&f->a, "keys/b", 1);
	sealed_poll(f->a.sealed);
	proxy_freeze_watches(f->proxy);
	proxy_lose_answer(f->proxy);
	assert_int_equal(put(&f->a, "keys/a", 2, &number), 0);
	proxy_cut(f->proxy, true);
	restart(&f->a);
	assert_int_equal(status_of(&f->a).hold, SEALED_HOLD_NONE);
	assert_int_equal(sealed_number(f->a.sealed), number);
	assert_value(&f->a, "keys/a", 2);
	proxy_cut(f->proxy, false);
	must_put(&f->a, "keys/a", 3);
}

/* What was taken in to find the outcome of one commit is told as if the watch had just said so. */
static void
what_others_changed_meanwhile_is_told_after_a_lost_answer(void **state)
{
	struct fixture *f = *state;
	uint64_t number = 0;

	NEEDS_ETCD();
	must_put(&f->a, "keys/a", 1);
	add_b(f);
	assert_int_equal(put_own(&f->b, "members/n2", 1), 0);
	wait_for_value(&f->a, "members/n2", 1);
	assert_int_equal(put_own(&f->b, "members/n2", 2), 0);
	proxy_lose_answer(f->proxy);
	assert_int_equal(put(&f->a, "keys/a", 2, &number), 0);
	wait_for_value(&f->a, "members/n2", 2);
	wait_for_value(&f->b, "keys/a", 2);
	assert_int_equal(status_of(&f->a).hold, SEALED_HOLD_NONE);
	must_put(&f->a, "keys/a", 3);
	proxy_cut(f->proxy, true);
	restart(&f->a);
	assert_int_equal(status_of(&f->a).hold, SEALED_HOLD_NONE);
	assert_value(&f->a, "keys/a", 3);
	assert_value(&f->a, "members/n2", 2);
}

/* ---- etcd's root ---- */

static void
an_edited_record_is_refused_and_the_last_good_one_serves(void **state)
{
	struct fixture *f = *state;
	char *good, *edited;

	NEEDS_ETCD();
	must_put(&f->a, "keys/a", 1);
	must_put(&f->a, "keys/b", 1);
	good = store_lab_take(&f->a.lab, "keys/a");
	edited = strdup(good);
	assert_non_null(edited);
	*strstr(edited, "\"team\":\"a\"") = '"';
	memcpy(strstr(edited, "\"team\":\"a\""), "\"team\":\"b\"", 10);
	store_lab_write(&f->a.lab, "keys/a", edited);
	wait_for(&f->a, SEALED_HOLD_NONE, 1);
	assert_true(find_held(&f->a, "keys/a")->refused);
	assert_value(&f->a, "keys/a", 1);
	/* The rest goes on, and so it does after a restart: the image has the good one. */
	must_put(&f->a, "keys/b", 2);
	restart(&f->a);
	assert_value(&f->a, "keys/a", 1);
	assert_value(&f->a, "keys/b", 2);
	wait_for(&f->a, SEALED_HOLD_NONE, 1);
	assert_value(&f->a, "keys/a", 1);
	store_lab_write(&f->a.lab, "keys/a", good);
	wait_for(&f->a, SEALED_HOLD_NONE, 0);
	assert_false(find_held(&f->a, "keys/a")->refused);
	must_put(&f->a, "keys/a", 3);
	free(good);
	free(edited);
}

static void
a_deleted_record_holds_the_store_and_serves_on(void **state)
{
	struct fixture *f = *state;
	uint64_t number;
	char *good;

	NEEDS_ETCD();
	must_put(&f->a, "keys/a", 1);
	add_b(f);
	good = store_lab_take(&f->a.lab, "keys/a");
	store_lab_erase(&f->a.lab, "keys/a");
	wait_for(&f->a, SEALED_HOLD_STATE, 1);
	wait_for(&f->b, SEALED_HOLD_STATE, 1);
	assert_value(&f->a, "keys/a", 1);
	assert_int_equal(put(&f->a, "keys/b", 1, &number), KEKD_EHELD);
	restart(&f->a);
	assert_value(&f->a, "keys/a", 1);
	assert_false(find_held(&f->a, "keys/a")->refused && status_of(&f->a).number == 0);
	wait_for(&f->a, SEALED_HOLD_STATE, 1);
	assert_value(&f->a, "keys/a", 1);
	/* Its own records go on, so that the budget of IVs does not stop anybody. */
	assert_int_equal(put_own(&f->a, "nonces/v", 1), 0);
	store_lab_write(&f->a.lab, "keys/a", good);
	wait_for(&f->a, SEALED_HOLD_NONE, 0);
	wait_for(&f->b, SEALED_HOLD_NONE, 0);
	must_put(&f->a, "keys/b", 1);
	free(good);
}

static void
an_older_record_and_one_that_was_deleted_are_refused(void **state)
{
	struct fixture *f = *state;
	struct sealed_change c = { "keys/old", STORE_ANY, NULL };
	char *older, *newer, *gone;
	uint64_t number;

	NEEDS_ETCD();
	must_put(&f->a, "keys/a", 1);
	must_put(&f->a, "keys/old", 1);
	older = store_lab_take(&f->a.lab, "keys/a");
	gone = store_lab_take(&f->a.lab, "keys/old");
	must_put(&f->a, "keys/a", 2);
	assert_int_equal(sealed_commit(f->a.sealed, &c, 1, &number), 0);
	newer = store_lab_take(&f->a.lab, "keys/a");
	store_lab_write(&f->a.lab, "keys/a", older);
	wait_for(&f->a, SEALED_HOLD_STATE, 1);
	assert_value(&f->a, "keys/a", 2);
	restart(&f->a);
	wait_for(&f->a, SEALED_HOLD_STATE, 1);
	assert_value(&f->a, "keys/a", 2);
	store_lab_write(&f->a.lab, "keys/a", newer);
	wait_for(&f->a, SEALED_HOLD_NONE, 0);
	store_lab_write(&f->a.lab, "keys/old", gone);
	wait_for(&f->a, SEALED_HOLD_STATE, 1);
	store_lab_erase(&f->a.lab, "keys/old");
	wait_for(&f->a, SEALED_HOLD_NONE, 0);
	free(older);
	free(newer);
	free(gone);
}

static void
a_whole_older_etcd_is_held_and_its_newest_state_serves(void **state)
{
	struct fixture *f = *state;
	uint64_t number;

	NEEDS_ETCD();
	must_put(&f->a, "keys/a", 1);
	must_put(&f->a, "keys/b", 1);
	store_lab_snapshot(&f->servers);
	must_put(&f->a, "keys/a", 2);
	number = must_put(&f->a, "keys/c", 2);
	store_lab_restore(&f->servers);
	wait_for(&f->a, SEALED_HOLD_BEHIND, 3); /* keys/a, keys/c, commit */
	assert_value(&f->a, "keys/a", 2);
	assert_value(&f->a, "keys/c", 2);
	assert_int_equal(sealed_number(f->a.sealed), number);
	assert_int_equal(put(&f->a, "keys/b", 2, &number), KEKD_EHELD);
	restart(&f->a);
	assert_value(&f->a, "keys/a", 2);
	assert_value(&f->a, "keys/c", 2);
	wait_for(&f->a, SEALED_HOLD_BEHIND, 3);
	assert_value(&f->a, "keys/a", 2);
	assert_value(&f->a, "keys/c", 2);
}

/* What leases and heartbeats write soon after makes up for the revisions that were lost. */
static void
a_restored_etcd_whose_revisions_have_caught_up_is_held_too(void **state)
{
	struct fixture *f = *state;
	uint64_t number;

	NEEDS_ETCD();
	must_put(&f->a, "keys/a", 1);
	store_lab_snapshot(&f->servers);
	number = must_put(&f->a, "keys/a", 2);
	sealed_poll(f->a.sealed);
	proxy_cut(f->proxy, true);
	store_lab_restore(&f->servers);
	for (int i = 0; i < 20; i++)
		store_lab_write(&f->a.lab, "alive/n9", "{}");
	proxy_cut(f->proxy, false);
	wait_for(&f->a, SEALED_HOLD_BEHIND, 2); /* keys/a, commit */
	assert_value(&f->a, "keys/a", 2);
	assert_int_equal(sealed_number(f->a.sealed), number);
}

/* ---- a wanted restore ---- */

static int
raise(const char *path, const json_t *body, void *user, json_t **ret_body)
{
	unsigned *count = user;

	if (strncmp(path, "keys/", 5) != 0)
		return 0;
	++*count;
	*ret_body = json_deep_copy(body);
	json_object_set_new(*ret_body, "x",
		json_integer(json_integer_value(json_object_get(body, "x")) + 1000));
	return 0;
}

static void
a_restored_etcd_is_taken_when_it_is_confirmed_and_the_others_follow(void **state)
{
	struct fixture *f = *state;
	struct sealed_status s;
	uint64_t number = 0, before;
	unsigned raised = 0;
	char generation[UUID_TEXT_SIZE];

	NEEDS_ETCD();
	must_put(&f->a, "keys/a", 1);
	must_put(&f->a, "keys/b", 1);
	assert_int_equal(put_own(&f->a, "nonces/v", 1), 0);
	add_b(f);
	store_lab_snapshot(&f->servers);
	must_put(&f->a, "keys/a", 2);
	assert_int_equal(put_own(&f->a, "nonces/v", 2), 0);
	before = must_put(&f->a, "keys/c", 2);
	wait_for_value(&f->b, "keys/c", 2);
	s = status_of(&f->a);
	strcpy(generation, s.generation);
	assert_int_equal(
		sealed_confirm(f->a.sealed, generation, raise, &raised, &number, f->a.error),
		KEKD_ESTATE);
	store_lab_restore(&f->servers);
	wait_for(&f->a, SEALED_HOLD_BEHIND, 4);
	s = status_of(&f->a);
	assert_true(s.held.whole);
	assert_string_equal(s.held.generation, generation);
	/* It is the active's to confirm. */
	store_lab_depose(&f->a.lab);
	assert_int_equal(
		sealed_confirm(f->a.sealed, generation, raise, &raised, &number, f->a.error),
		KEKD_ENOTACTIVE);
	assert_value(&f->a, "keys/c", 2);
	store_lab_lead(&f->a.lab);
	assert_int_equal(
		sealed_confirm(f->a.sealed, "another", raise, &raised, &number, f->a.error),
		KEKD_EPRECONDITION);
	if (sealed_confirm(f->a.sealed, generation, raise, &raised, &number, f->a.error) < 0)
		fail_msg("confirm: %s", f->a.error);
	assert_int_equal(raised, 2);
	s = status_of(&f->a);
	assert_int_equal(s.hold, SEALED_HOLD_NONE);
	assert_int_equal(s.refused, 0);
	assert_string_not_equal(s.generation, generation);
	assert_true(number > before);
	assert_int_equal(s.accepted, number);
	assert_value(&f->a, "keys/a", 1001);
	assert_value(&f->a, "keys/b", 1001);
	assert_true(find_held(&f->a, "keys/c")->gone);
	/* Never fewer IVs than were drawn. */
	assert_value(&f->a, "nonces/v", 2);
	must_put(&f->a, "keys/c", 5);
	/* The other had accepted no more than the first. */
	wait_for_value(&f->b, "keys/c", 5);
	wait_for(&f->b, SEALED_HOLD_NONE, 0);
	assert_value(&f->b, "keys/a", 1001);
	assert_string_equal(status_of(&f->b).generation, s.generation);
	restart(&f->b);
	wait_for(&f->b, SEALED_HOLD_NONE, 0);
	assert_value(&f->b, "keys/a", 1001);
	restart(&f->a);
	assert_int_equal(
		sealed_confirm(f->a.sealed, s.generation, raise, &raised, &number, f->a.error),
		KEKD_ESTATE);
}

static void
a_node_that_had_accepted_more_wants_a_confirm_of_its_own(void **state)
{
	struct fixture *f = *state;
	struct sealed_status s;
	uint64_t number = 0;
	unsigned raised = 0;

	NEEDS_ETCD();
	must_put(&f->a, "keys/a", 1);
	add_b(f);
	store_lab_snapshot(&f->servers);
	/* b is the last that hears of these. */
	must_put(&f->a, "keys/a", 2);
	wait_for_value(&f->b, "keys/a", 2);
	store_lab_lead(&f->b.lab);
	proxy_cut(f->proxy, true);
	must_put(&f->b, "keys/a", 3);
	must_put(&f->b, "keys/a", 4);
	store_lab_restore(&f->servers);
	proxy_cut(f->proxy, false);
	wait_for(&f->a, SEALED_HOLD_BEHIND, 2);
	wait_for(&f->b, SEALED_HOLD_BEHIND, 2);
	store_lab_lead(&f->a.lab);
	s = status_of(&f->a);
	if (sealed_confirm(f->a.sealed, s.held.generation, raise, &raised, &number, f->a.error) < 0)
		fail_msg("confirm: %s", f->a.error);
	sleep(1);
	sealed_poll(f->b.sealed);
	s = status_of(&f->b);
	assert_int_equal(s.hold, SEALED_HOLD_NO_ACCEPTED);
	assert_true(s.held.whole);
	assert_value(&f->b, "keys/a", 4);
	store_lab_lead(&f->b.lab);
	if (sealed_confirm(f->b.sealed, s.held.generation, raise, &raised, &number, f->b.error) < 0)
		fail_msg("confirm: %s", f->b.error);
	wait_for(&f->a, SEALED_HOLD_NONE, 0);
	wait_for(&f->b, SEALED_HOLD_NONE, 0);
	assert_string_equal(status_of(&f->a).generation, status_of(&f->b).generation);
	wait_for_value(&f->a, "keys/a", 2001);
	assert_value(&f->b, "keys/a", 2001);
}

#define BREAK_AFTER 36 /* records: more than go in one commit */

static int
raise_some(const char *path, const json_t *body, void *user, json_t **ret_body)
{
	unsigned *left = user, ignored = 0;

	return (*left)-- == 0 ? KEKD_EINTERNAL : raise(path, body, &ignored, ret_body);
}

static void
a_confirm_that_was_broken_off_is_gone_on_with(void **state)
{
	struct fixture *f = *state;
	struct sealed_status s;
	uint64_t number = 0;
	unsigned raised = 0;
	char path[32];

	NEEDS_ETCD();
	for (int i = 0; i < 40; i++) {
		snprintf(path, sizeof(path), "keys/k%02d", i);
		must_put(&f->a, path, i);
	}
	store_lab_snapshot(&f->servers);
	must_put(&f->a, "keys/k00", 100);
	store_lab_restore(&f->servers);
	wait_for(&f->a, SEALED_HOLD_BEHIND, 2);
	store_lab_lead(&f->a.lab);
	s = status_of(&f->a);
	raised = BREAK_AFTER;
	assert_int_equal(sealed_confirm(f->a.sealed, s.held.generation, raise_some, &raised,
				 &number, f->a.error),
		KEKD_EINTERNAL);
	restart(&f->a);
	store_lab_lead(&f->a.lab);
	wait_for_value(&f->a, "keys/k00", 1000);
	s = status_of(&f->a);
	assert_string_not_equal(s.generation, "");
	raised = 0;
	if (sealed_confirm(f->a.sealed, s.generation, raise, &raised, &number, f->a.error) < 0)
		fail_msg("confirm: %s", f->a.error);
	assert_true(raised > 0 && raised < 40);
	for (int i = 0; i < 40; i++) {
		snprintf(path, sizeof(path), "keys/k%02d", i);
		assert_value(&f->a, path, 1000 + i);
	}
}

static void
another_etcd_is_held_until_it_is_confirmed(void **state)
{
	struct fixture *f = *state;
	struct etcd_servers own = { 0 };
	struct store_lab there = { 0 };
	struct sealed_status s;
	uint64_t number = 0;
	unsigned raised = 0;
	size_t count = 0;
	char error[256];

	NEEDS_ETCD();
	must_put(&f->a, "keys/a", 1);
	/* The records as they are, in an etcd that was made anew. */
	etcd_servers_start(&own, 1, false);
	store_lab_open(&there, &own, own.members[0].url, "n1", &f->a.lab);
	store_lab_lead(&there);
	if (store_copy(f->a.lab.store, there.store, &count, error) < 0)
		fail_msg("copy: %s", error);
	assert_int_equal(count, 4);
	sealed_freep(&f->a.sealed);
	store_lab_shut(&f->a.lab);
	store_lab_point(&f->a.lab, own.members[0].url);
	assert_int_equal(store_lab_try(&f->a.lab), 0);
	store_etcd_term(f->a.lab.store, &there.term);
	open_node(&f->a);
	wait_for(&f->a, SEALED_HOLD_FOREIGN, 0);
	assert_value(&f->a, "keys/a", 1);
	assert_int_equal(put(&f->a, "keys/a", 2, &number), KEKD_EHELD);
	s = status_of(&f->a);
	assert_true(s.held.whole);
	if (sealed_confirm(f->a.sealed, s.held.generation, raise, &raised, &number, f->a.error) < 0)
		fail_msg("confirm: %s", f->a.error);
	wait_for(&f->a, SEALED_HOLD_NONE, 0);
	assert_value(&f->a, "keys/a", 1001);
	sealed_freep(&f->a.sealed);
	store_lab_reopen(&f->a.lab);
	store_etcd_term(f->a.lab.store, &there.term);
	open_node(&f->a);
	wait_for(&f->a, SEALED_HOLD_NONE, 0);
	must_put(&f->a, "keys/a", 3);
	sealed_freep(&f->a.sealed);
	store_lab_shut(&f->a.lab);
	store_lab_close(&there);
	etcd_servers_stop(&own);
}

/* ---- joining ---- */

static void
a_node_joins_only_what_is_whole(void **state)
{
	struct fixture *f = *state;
	uint64_t number = 0;
	char *good;

	NEEDS_ETCD();
	must_put(&f->a, "keys/a", 1);
	store_lab_open(&f->b.lab, &f->servers, f->servers.members[0].url, "n2", &f->a.lab);
	/* Without the file it serves nothing, and joining is what makes it. */
	assert_int_equal(try_open(&f->b), 0);
	assert_int_equal(status_of(&f->b).hold, SEALED_HOLD_NO_ACCEPTED);
	sealed_freep(&f->b.sealed);
	store_lab_reopen(&f->b.lab);
	good = store_lab_take(&f->a.lab, "keys/a");
	store_lab_erase(&f->a.lab, "keys/a");
	store_etcd_catch_up(f->b.lab.store, 2000);
	f->b.lab.store->engine->poll(f->b.lab.store, store_lab_ignore, NULL);
	assert_int_equal(join(&f->b, &number), KEKD_EHELD);
	store_lab_write(&f->a.lab, "keys/a", "{}");
	store_etcd_catch_up(f->b.lab.store, 2000);
	f->b.lab.store->engine->poll(f->b.lab.store, store_lab_ignore, NULL);
	assert_int_equal(join(&f->b, &number), KEKD_ERECORD);
	assert_non_null(strstr(f->b.error, "keys/a"));
	store_lab_write(&f->a.lab, "keys/a", good);
	store_etcd_catch_up(f->b.lab.store, 2000);
	f->b.lab.store->engine->poll(f->b.lab.store, store_lab_ignore, NULL);
	if (join(&f->b, &number) < 0)
		fail_msg("%s", f->b.error);
	/* Once more does no harm. */
	assert_int_equal(join(&f->b, &number), 0);
	restart(&f->b);
	assert_int_equal(status_of(&f->b).hold, SEALED_HOLD_NONE);
	free(good);
}

static void
the_last_image_serves_a_restart_while_etcd_is_away(void **state)
{
	struct fixture *f = *state;
	uint64_t number;

	NEEDS_ETCD();
	must_put(&f->a, "keys/a", 1);
	number = must_put(&f->a, "keys/a", 2);
	proxy_cut(f->proxy, true);
	restart(&f->a);
	assert_value(&f->a, "keys/a", 2);
	assert_int_equal(sealed_number(f->a.sealed), number);
	assert_int_equal(status_of(&f->a).hold, SEALED_HOLD_NONE);
	assert_int_equal(put(&f->a, "keys/a", 3, &number), KEKD_ESTORE);
	proxy_cut(f->proxy, false);
	for (int i = 0; i < 100 && put(&f->a, "keys/a", 3, &number) < 0; i++)
		usleep(50000);
	assert_value(&f->a, "keys/a", 3);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		TEST(a_second_node_joins_and_follows),
		TEST(another_active_goes_on_from_where_the_first_was),
		TEST(a_node_that_is_gone_takes_its_own_record_with_it),
		TEST(a_commit_whose_answer_was_lost_is_found_done),
		TEST(a_commit_whose_answer_was_lost_is_whole_in_the_image),
		TEST(what_others_changed_meanwhile_is_told_after_a_lost_answer),
		TEST(an_edited_record_is_refused_and_the_last_good_one_serves),
		TEST(a_deleted_record_holds_the_store_and_serves_on),
		TEST(an_older_record_and_one_that_was_deleted_are_refused),
		TEST(a_whole_older_etcd_is_held_and_its_newest_state_serves),
		TEST(a_restored_etcd_whose_revisions_have_caught_up_is_held_too),
		TEST(a_restored_etcd_is_taken_when_it_is_confirmed_and_the_others_follow),
		TEST(a_node_that_had_accepted_more_wants_a_confirm_of_its_own),
		TEST(a_confirm_that_was_broken_off_is_gone_on_with),
		TEST(another_etcd_is_held_until_it_is_confirmed),
		TEST(a_node_joins_only_what_is_whole),
		TEST(the_last_image_serves_a_restart_while_etcd_is_away),
	};

	log_open("test_seal_etcd", LOG_LEVEL_ERROR);
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
