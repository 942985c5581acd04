/* SPDX-License-Identifier: Apache-2.0 */
/* Who makes the changes, by what the lease and the store say; and the control thread that is woken.
 * Leadership, store and audit log are played. */
#include "../../src/net/node.h"

#include "kekd/clock.h"
#include "kekd/err.h"
#include "kekd/leader.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include <time.h>

/* ---- the doubles ---- */

static struct {
	struct node node;
	struct leader_status leader;
	bool may_change, wants;
	int step_down, promote; /* results */
	unsigned pause_s;
	int catch_up, poll, hold;
	unsigned caught, polled, told, closed_destroys, leads_recorded;
	struct store_term term;
	enum node_phase phase;
} now;

void
leader_status(struct leader *l, struct leader_status *ret_status)
{
	(void)l;
	*ret_status = now.leader;
}

bool
leader_may_change(struct leader *l)
{
	(void)l;
	return now.may_change;
}

void
leader_want(struct leader *l, bool may_lead)
{
	(void)l;
	now.wants = may_lead;
}

int
leader_step_down(struct leader *l, unsigned pause_s)
{
	(void)l;
	now.pause_s = pause_s;
	if (now.step_down == 0) {
		now.leader.active = false;
		now.leader.epoch = 0;
		now.may_change = false;
	}
	return now.step_down;
}

int
leader_promote(struct leader *l)
{
	(void)l;
	if (now.promote == 0) {
		now.leader.active = now.may_change = true;
		now.leader.epoch = 99;
	}
	return now.promote;
}

int
leader_open(const struct leader_config *config, struct leader **ret_leader)
{
	(void)config;
	*ret_leader = (struct leader *)&now;
	return 0;
}

void
leader_freep(struct leader **leader)
{
	*leader = NULL;
}

int
store_open_etcd(const struct etcd_settings *settings, const char *node, const char *state_dir,
	void (*wake)(void *user), void *user, struct store **ret_store)
{
	(void)settings, (void)node, (void)state_dir, (void)wake, (void)user;
	*ret_store = (struct store *)&now;
	return 0;
}

void
store_freep(struct store **store)
{
	*store = NULL;
}

void
store_etcd_instance(const struct store *s, char ret_text[37])
{
	(void)s;
	strcpy(ret_text, "instance");
}

void
store_etcd_term(struct store *s, const struct store_term *term)
{
	(void)s;
	now.term = *term;
}

int
store_etcd_catch_up(struct store *s, unsigned timeout_ms)
{
	(void)s, (void)timeout_ms;
	now.caught++;
	return now.catch_up;
}

int
store_etcd_compact(struct store *s)
{
	(void)s;
	return 0;
}

int
sealed_poll(struct sealed *s)
{
	(void)s;
	now.polled++;
	return now.poll;
}

int
sealed_commit(
	struct sealed *s, const struct sealed_change *changes, size_t count, uint64_t *ret_number)
{
	(void)s, (void)changes, (void)count, (void)ret_number;
	return KEKD_ESTORE;
}

uint64_t
sealed_number(struct sealed *s)
{
	(void)s;
	return 7;
}

void
sealed_status(struct sealed *s, struct sealed_status *ret_status)
{
	(void)s;
	*ret_status = (struct sealed_status){ .hold = (enum sealed_hold)now.hold };
}

void
node_cluster(struct node *n, struct cluster *ret_cluster)
{
	*ret_cluster = n->cluster;
}

int
node_serves(const struct node *n)
{
	(void)n;
	return now.phase == NODE_HELD	    ? KEKD_EHELD
	       : now.phase == NODE_STARTING ? KEKD_ESTARTING
					    : 0;
}

int
audit_append(struct audit *a, struct audit_record *record)
{
	(void)a;
	assert_string_equal(record->operation, "cluster.lead");
	now.leads_recorded++;
	return 0;
}

void
node_close_destroys(struct node *n)
{
	(void)n;
	now.closed_destroys++;
}

/* ---- the test's own ---- */

static char name[] = "a", url[] = "https://a.test";
static const char *const endpoints[] = { "http://127.0.0.1:1" };

static int
open_pair(void **state)
{
	struct node *n = &now.node;

	(void)state;
	memset(&now, 0, sizeof(now));
	pthread_mutex_init(&n->lock, NULL);
	pthread_mutex_init(&n->term_lock, NULL);
	n->part.node = name;
	n->part.url = url;
	n->part.store.endpoints = endpoints;
	now.phase = NODE_SERVING;
	strcpy(n->cluster.members[0], "a");
	strcpy(n->cluster.members[1], "b");
	n->cluster.members_count = 2;
	atomic_store(&n->proofs.through, true);
	atomic_store(&n->proofs.total, 3);
	assert_int_equal(node_open_etcd(n), 0);
	return 0;
}

static void
lead(uint64_t epoch)
{
	now.leader.active = now.may_change = true;
	now.leader.epoch = epoch;
	now.leader.lease = 5;
	now.leader.until_ns = clock_boot_ns() + CLOCK_S;
	strcpy(now.leader.leader_node, "a");
}

static int
where(const char *route, struct http_active *active)
{
	const struct http_route r = { .name = route };

	return node_finds_active(&now.node, &r, active);
}

static void
a_node_alone_makes_all_changes(void **state)
{
	struct http_active active;

	(void)state;
	now.node.part.store.endpoints = NULL;
	assert_int_equal(node_role(&now.node), ROLE_SINGLE);
	assert_int_equal(where("key.rotate", &active), 0);
}

static void
who_leads_is_the_active_once_it_has_caught_up(void **state)
{
	struct node *n = &now.node;

	(void)state;
	assert_int_equal(node_role(n), ROLE_STANDBY);
	lead(12);
	now.catch_up = KEKD_ESTORE;
	node_tick_role(n);
	assert_int_equal(node_role(n), ROLE_STANDBY);
	assert_int_equal(now.term.epoch, 12);
	assert_int_equal(now.term.lease, 5);
	now.catch_up = 0;
	now.poll = KEKD_EHSM;
	node_tick_role(n);
	assert_int_equal(node_role(n), ROLE_STANDBY);
	now.poll = 0;
	node_tick_role(n);
	assert_int_equal(node_role(n), ROLE_ACTIVE);
	assert_int_equal(now.leads_recorded, 1);
	node_tick_role(n);
	assert_int_equal(now.caught, 3);
	assert_int_equal(now.leads_recorded, 1);
}

/* Suspended, say: nothing has told it yet. */
static void
who_may_not_change_any_more_is_a_standby_at_once(void **state)
{
	struct node *n = &now.node;

	(void)state;
	lead(12);
	node_tick_role(n);
	now.may_change = false;
	assert_int_equal(node_role(n), ROLE_STANDBY);
	/* And who leads anew catches up anew. */
	lead(20);
	node_tick_role(n);
	assert_int_equal(node_role(n), ROLE_ACTIVE);
	assert_int_equal(now.caught, 2);
}

static void
a_change_is_for_who_leads_and_for_nobody_while_nobody_does(void **state)
{
	struct http_active active;

	(void)state;
	assert_int_equal(where("key.rotate", &active), KEKD_ENOACTIVE);
	strcpy(now.leader.leader_node, "b");
	strcpy(now.leader.leader_url, "https://b.test");
	assert_int_equal(where("key.rotate", &active), KEKD_ENOTACTIVE);
	assert_string_equal(active.node, "b");
	assert_string_equal(active.url, "https://b.test");
	/* It leads, but has not caught up: never sent on to itself. */
	strcpy(now.leader.leader_node, "a");
	assert_int_equal(where("key.rotate", &active), KEKD_ENOACTIVE);
}

static void
what_is_about_the_node_itself_is_not_sent_on(void **state)
{
	struct http_active active;

	(void)state;
	assert_int_equal(where("hsm.retry_pin", &active), 0);
	assert_int_equal(where("cluster.promote", &active), 0);
	assert_int_equal(where("cluster.confirm", &active), KEKD_ENOACTIVE);
	now.hold = SEALED_HOLD_BEHIND;
	assert_int_equal(where("cluster.confirm", &active), 0);
	assert_int_equal(where("key.rotate", &active), KEKD_ENOACTIVE);
}

static bool
wants(void)
{
	node_tick_role(&now.node);
	return now.wants;
}

static void
only_a_node_that_lacks_nothing_wants_to_lead(void **state)
{
	struct node *n = &now.node;
	char why[NODE_REASON_SIZE];

	(void)state;
	assert_true(wants());
	assert_true(node_can_lead(n, why));
	now.phase = NODE_HELD;
	assert_false(wants());
	now.phase = NODE_SERVING;
	now.hold = SEALED_HOLD_STATE;
	assert_false(wants());
	now.hold = SEALED_HOLD_NONE;
	atomic_store(&n->proofs.through, false);
	assert_false(wants());
	atomic_store(&n->proofs.through, true);
	atomic_store(&n->proofs.failed, 1);
	assert_false(wants());
	assert_false(node_can_lead(n, why));
	assert_non_null(strstr(why, "1 of 3"));
	/* Alone, one lost object is not the end of all changes; all lost are. */
	n->cluster.members_count = 1;
	assert_true(wants());
	atomic_store(&n->proofs.failed, 3);
	assert_false(wants());
	atomic_store(&n->proofs.failed, 0);
	strcpy(n->cluster.members[0], "other");
	assert_false(wants());
	node_can_lead(n, why);
	assert_non_null(strstr(why, "members add a"));
}

static void
who_steps_down_is_a_standby_when_it_is_done(void **state)
{
	struct node *n = &now.node;

	(void)state;
	lead(12);
	node_tick_role(n);
	now.step_down = KEKD_ESTORE;
	assert_int_equal(node_step_down(n, 30), KEKD_ESTORE);
	now.step_down = 0;
	assert_int_equal(node_step_down(n, 30), 0);
	assert_int_equal(now.pause_s, 30);
	assert_int_equal(node_role(n), ROLE_STANDBY);
	assert_int_equal(now.term.epoch, 0);
}

static void
who_is_promoted_has_caught_up_when_it_is_done(void **state)
{
	struct node *n = &now.node;
	char error[JSON_ERROR_SIZE] = "";

	(void)state;
	now.promote = KEKD_EPRECONDITION;
	assert_int_equal(node_promote(n, error), KEKD_EUNREADY);
	assert_true(*error);
	now.promote = KEKD_ESTORE;
	assert_int_equal(node_promote(n, error), KEKD_ESTORE);
	now.promote = 0;
	assert_int_equal(node_promote(n, error), 0);
	assert_int_equal(node_role(n), ROLE_ACTIVE);
	assert_int_equal(node_epoch(n), 99);
	assert_int_equal(now.caught, 1);
}

/* ---- the control thread ---- */

static atomic_uint ticks;

static unsigned
tick(struct node *n)
{
	(void)n;
	atomic_fetch_add(&ticks, 1);
	return 60000;
}

static void
run(struct control_job *job)
{
	atomic_store((atomic_bool *)job->user, true);
}

static bool
happens(const atomic_uint *count, unsigned wanted)
{
	const struct timespec pause = { 0, 1000000 };

	for (int i = 0; i < 2000 && atomic_load(count) < wanted; i++)
		nanosleep(&pause, NULL);
	return atomic_load(count) >= wanted;
}

static void
a_control_thread_that_is_woken_ticks_at_once(void **state)
{
	struct node *n = &now.node;
	atomic_bool done = false;
	struct control_job job = { .run = run, .user = &done };

	(void)state;
	atomic_store(&ticks, 0);
	node_wake(n); /* nobody is there yet */
	assert_int_equal(control_open(n, tick, 10, &n->control), 0);
	assert_true(happens(&ticks, 1));
	node_wake(n);
	assert_true(happens(&ticks, 2));
	node_store_news(n);
	assert_true(happens(&ticks, 3));
	assert_true(atomic_load(&n->poll_now));
	assert_int_equal(control_post(n->control, &job), 0);
	control_freep(&n->control);
	assert_true(atomic_load(&done));
	assert_int_equal(atomic_load(&ticks), 3);
	control_wake(NULL);
}

static void
a_stop_hands_over_after_the_change_under_way(void **state)
{
	struct node *n = &now.node;

	(void)state;
	lead(12);
	node_tick_role(n);
	node_hand_over(n); /* nothing to do it with */
	assert_int_equal(control_open(n, tick, 10, &n->control), 0);
	node_hand_over(n);
	control_freep(&n->control);
	assert_int_equal(now.closed_destroys, 1);
	assert_int_equal(node_role(n), ROLE_STANDBY);
	assert_true(now.pause_s > 60);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(a_node_alone_makes_all_changes, open_pair),
		cmocka_unit_test_setup(who_leads_is_the_active_once_it_has_caught_up, open_pair),
		cmocka_unit_test_setup(who_may_not_change_any_more_is_a_standby_at_once, open_pair),
		cmocka_unit_test_setup(
			a_change_is_for_who_leads_and_for_nobody_while_nobody_does, open_pair),
		cmocka_unit_test_setup(what_is_about_the_node_itself_is_not_sent_on, open_pair),
		cmocka_unit_test_setup(only_a_node_that_lacks_nothing_wants_to_lead, open_pair),
		cmocka_unit_test_setup(who_steps_down_is_a_standby_when_it_is_done, open_pair),
		cmocka_unit_test_setup(who_is_promoted_has_caught_up_when_it_is_done, open_pair),
		cmocka_unit_test_setup(a_control_thread_that_is_woken_ticks_at_once, open_pair),
		cmocka_unit_test_setup(a_stop_hands_over_after_the_change_under_way, open_pair),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
