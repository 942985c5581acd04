/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Leadership, against the real etcd. Each node is a process of its own, which asks without a pause
 * whether it may change something and writes into shared memory when it last might.
 */
#include "etcd_server.h"

#include "kekd/clock.h"
#include "kekd/err.h"
#include "kekd/etcd.h"
#include "kekd/json.h"
#include "kekd/leader.h"
#include "kekd/log.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
/* cmocka.h needs the four above it. */
#include <cmocka.h>

#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define TTL_S 2u
#define TTL_NS (TTL_S * CLOCK_S)
#define NODES_MAX 3

/* What a node's process tells and is told. */
struct shared {
	atomic_bool want, quit, deposed;
	atomic_int wish; /* 's', 'p', or 0 when it was done */
	atomic_int wish_result;
	atomic_uint_least64_t may_first_ns, may_last_ns; /* of the current leadership */
	atomic_uint_least64_t epoch, lease, until_ns, elections, changes, leader_epoch;
	atomic_uint late; /* times that it might change something after it was deposed */
	atomic_bool active, conflict, reachable;
	char leader_node[STR_NAME_MAX + 1], error[LEADER_ERROR_SIZE];
};

struct node {
	const char *name, *instance;
	pid_t pid;
	struct shared *shared;
};

static struct etcd_servers servers;
static struct node nodes[NODES_MAX];
static bool with_user;

/* ---- in the node's process ---- */

static void
count_change(void *user)
{
	struct shared *s = user;

	s->changes++;
}

static void
tell(struct leader *l, struct shared *s)
{
	struct leader_status status;

	leader_status(l, &status);
	s->epoch = status.epoch;
	s->lease = status.lease;
	s->until_ns = status.until_ns;
	s->elections = status.elections;
	s->leader_epoch = status.leader_epoch;
	s->conflict = status.conflict;
	s->reachable = status.reachable;
	memcpy(s->leader_node, status.leader_node, sizeof(s->leader_node));
	memcpy(s->error, status.error, sizeof(s->error));
	s->active = status.active;
}

static void
ask_whether_it_may(struct leader *l, struct shared *s)
{
	bool deposed = s->deposed;
	uint64_t now_ns = clock_boot_ns();

	if (!leader_may_change(l)) {
		s->may_first_ns = 0;
		return;
	}
	s->late += deposed;
	s->may_last_ns = now_ns;
	if (s->may_first_ns == 0)
		s->may_first_ns = now_ns;
}

static void
play(const struct node *n)
{
	const char *endpoints[ETCD_MEMBERS_MAX];
	struct shared *s = n->shared;
	struct leader_config config = { .etcd = etcd_servers_settings(&servers, endpoints),
		.node = n->name,
		.url = "https://node:7373",
		.instance = n->instance,
		.ttl_s = TTL_S,
		.changed = count_change,
		.user = s };
	struct leader *l;
	char path[128];

	snprintf(path, sizeof(path), "%s/password", servers.dir);
	if (with_user) {
		config.etcd.user = "kekd";
		config.etcd.password_file = path;
	}
	if (leader_open(&config, &l) != 0)
		_exit(1);
	while (!s->quit) {
		leader_want(l, s->want);
		for (int i = 0; i < 20; i++) {
			ask_whether_it_may(l, s);
			usleep(50);
		}
		if (s->wish) {
			s->wish_result = s->wish == 's' ? leader_step_down(l, 2)
							: leader_promote(l);
			s->wish = 0;
		}
		tell(l, s);
	}
	leader_freep(&l);
	_exit(0);
}

/* ---- the test's side ---- */

static void
spawn(size_t i, const char *name, const char *instance, bool wants)
{
	struct node *n = &nodes[i];
	pid_t parent = getpid();

	n->name = name;
	n->instance = instance;
	if (!n->shared)
		n->shared = mmap(NULL, sizeof(*n->shared), PROT_READ | PROT_WRITE,
			MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_true(n->shared != MAP_FAILED);
	memset((void *)n->shared, 0, sizeof(*n->shared));
	n->shared->want = wants;
	fflush(NULL);
	n->pid = fork();
	assert_true(n->pid >= 0);
	if (n->pid > 0)
		return;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() == parent)
		play(n);
	_exit(1);
}

static void
end(size_t i, int signal)
{
	struct node *n = &nodes[i];

	if (n->pid <= 0)
		return;
	if (signal)
		kill(n->pid, signal);
	else
		n->shared->quit = true;
	waitpid(n->pid, NULL, 0);
	n->pid = 0;
}

static int
stop(void **state)
{
	(void)state;
	with_user = false;
	for (size_t i = 0; i < NODES_MAX; i++)
		end(i, SIGKILL);
	etcd_servers_stop(&servers);
	return 0;
}

/* True as soon as it holds, within that time. */
#define WITHIN(ms, condition) \
	({ \
		uint64_t end_ns = clock_boot_ns() + (ms)*CLOCK_MS; \
		while (!(condition) && clock_boot_ns() < end_ns) \
			usleep(1000); \
		(condition); \
	})

static struct shared *
shared(size_t i)
{
	return nodes[i].shared;
}

/* Two nodes, of which the first leads. */
static void
start_pair(size_t members)
{
	if (!etcd_installed())
		skip();
	etcd_servers_start(&servers, members, false);
	spawn(0, "a", "instance-a", true);
	assert_true(WITHIN(10000, shared(0)->active));
	spawn(1, "b", "instance-b", true);
	assert_true(WITHIN(10000, shared(1)->lease && shared(1)->leader_epoch));
}

static int
wish(size_t i, int what)
{
	shared(i)->wish = what;
	assert_true(WITHIN(10000, shared(i)->wish == 0));
	return shared(i)->wish_result;
}

static void
test_of_two_that_want_to_lead_one_does(void **state)
{
	(void)state;
	if (!etcd_installed())
		skip();
	etcd_servers_start(&servers, 1, false);
	spawn(0, "a", "instance-a", true);
	spawn(1, "b", "instance-b", true);
	spawn(2, "c", "instance-c", true);
	assert_true(WITHIN(10000, shared(0)->active + shared(1)->active + shared(2)->active == 1));
	sleep(TTL_S + 1);
	assert_int_equal(shared(0)->active + shared(1)->active + shared(2)->active, 1);
	assert_int_equal(shared(0)->elections + shared(1)->elections + shared(2)->elections, 1);
	for (size_t i = 0; i < 3; i++) {
		assert_true(shared(i)->lease);
		assert_string_equal(shared(i)->leader_node, shared(0)->leader_node);
		assert_true(shared(i)->until_ns <= clock_boot_ns() + TTL_NS - 200 * CLOCK_MS);
	}
}

static void
test_a_node_that_is_not_ready_does_not_lead(void **state)
{
	(void)state;
	if (!etcd_installed())
		skip();
	etcd_servers_start(&servers, 1, false);
	spawn(0, "a", "instance-a", false);
	assert_true(WITHIN(5000, shared(0)->lease));
	sleep(1);
	assert_false(shared(0)->active);
	assert_int_equal(shared(0)->leader_epoch, 0);
	shared(0)->want = true;
	assert_true(WITHIN(1000, shared(0)->active));
}

static void
test_a_clean_end_hands_over_within_a_second(void **state)
{
	uint64_t before_ns, epoch;

	(void)state;
	start_pair(1);
	epoch = shared(0)->epoch;
	before_ns = clock_boot_ns();
	end(0, 0);
	assert_true(WITHIN(1000, shared(1)->active));
	print_message("handed over in %llu ms\n",
		(unsigned long long)((clock_boot_ns() - before_ns) / CLOCK_MS));
	assert_true(shared(1)->epoch > epoch);
	assert_true(WITHIN(2000, shared(1)->may_first_ns));
	assert_true(shared(1)->may_first_ns > shared(0)->may_last_ns);
}

static void
test_a_killed_active_is_followed_when_its_lease_is_over(void **state)
{
	uint64_t before_ns;

	(void)state;
	start_pair(1);
	before_ns = clock_boot_ns();
	end(0, SIGKILL);
	assert_true(WITHIN((TTL_S + 2) * 1000, shared(1)->active));
	print_message("followed in %llu ms\n",
		(unsigned long long)((clock_boot_ns() - before_ns) / CLOCK_MS));
	assert_true(shared(1)->may_first_ns > shared(0)->may_last_ns);
}

static void
test_a_suspended_active_may_change_nothing_when_it_wakes_up(void **state)
{
	uint64_t epoch;

	(void)state;
	start_pair(1);
	epoch = shared(0)->epoch;
	kill(nodes[0].pid, SIGSTOP);
	assert_true(WITHIN((TTL_S + 3) * 1000, shared(1)->active && shared(1)->may_first_ns));
	shared(0)->deposed = true;
	kill(nodes[0].pid, SIGCONT);
	assert_true(WITHIN(2000, !shared(0)->active));
	sleep(TTL_S);
	assert_int_equal(shared(0)->late, 0);
	assert_true(shared(1)->may_first_ns > shared(0)->may_last_ns);
	assert_true(shared(1)->epoch > epoch);
	assert_true(shared(0)->lease); /* a new one: it would follow */
	end(1, 0);
	shared(0)->deposed = false;
	assert_true(WITHIN(2000, shared(0)->active));
}

/* Suspended for less than the lease: its right ended by the clock even so, and is not taken up
 * again before etcd has said that the lease stands. */
static void
test_the_right_to_change_ends_before_the_lease_does(void **state)
{
	uint64_t until_ns;

	(void)state;
	start_pair(1);
	etcd_member_signal(&servers, 0, SIGSTOP);
	assert_true(WITHIN((TTL_S + 1) * 1000, !shared(0)->active));
	until_ns = shared(0)->until_ns;
	assert_true(shared(0)->may_last_ns < until_ns);
	assert_true(clock_boot_ns() >= until_ns);
	assert_false(shared(1)->active);
	assert_true(WITHIN(2000, !shared(0)->reachable));
	assert_string_not_equal(shared(0)->error, "");
	etcd_member_signal(&servers, 0, SIGCONT);
	assert_true(WITHIN(10000, shared(0)->active || shared(1)->active));
	sleep(1);
	assert_true(shared(0)->active != shared(1)->active);
	assert_true(shared(0)->reachable && shared(1)->reachable);
}

static void
test_an_active_leads_on_when_one_of_three_members_is_lost(void **state)
{
	uint64_t epoch;

	(void)state;
	start_pair(3);
	epoch = shared(0)->epoch;
	etcd_member_signal(&servers, 0, SIGKILL);
	sleep(2 * TTL_S);
	assert_true(shared(0)->active || shared(1)->active);
	if (shared(0)->active)
		assert_int_equal(shared(0)->epoch, epoch);
	etcd_member_start(&servers, 0);
	etcd_servers_wait(&servers);
	etcd_member_signal(&servers, 1, SIGSTOP);
	sleep(2 * TTL_S);
	assert_true(WITHIN(5000, shared(0)->active != shared(1)->active));
	etcd_member_signal(&servers, 1, SIGCONT);
}

static void
test_stepping_down_hands_over_and_does_not_come_back(void **state)
{
	(void)state;
	start_pair(1);
	assert_int_equal(wish(1, 's'), KEKD_ENOTACTIVE);
	assert_int_equal(wish(0, 's'), 0);
	assert_true(WITHIN(1000, shared(1)->active));
	assert_false(shared(0)->active);
	sleep(3);
	assert_true(shared(1)->active);
	assert_true(shared(1)->may_first_ns > shared(0)->may_last_ns);
}

static void
test_who_stepped_down_leads_again_when_nobody_else_does(void **state)
{
	uint64_t before_ns;

	(void)state;
	start_pair(1);
	shared(1)->want = false;
	usleep(50000);
	before_ns = clock_boot_ns();
	assert_int_equal(wish(0, 's'), 0);
	assert_true(WITHIN(5000, shared(0)->active && shared(0)->elections == 2));
	assert_true(clock_boot_ns() - before_ns >= 1900 * CLOCK_MS);
	assert_false(shared(1)->active);
}

static void
test_promotion_takes_the_lead_also_for_a_node_that_does_not_want_it(void **state)
{
	(void)state;
	start_pair(1);
	shared(1)->want = false;
	usleep(50000);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(wish(1, 'p'), 0);
		assert_true(WITHIN(TTL_S * 1000, shared(1)->active && !shared(0)->active));
		assert_true(WITHIN(2000, shared(1)->may_first_ns));
		assert_true(shared(1)->may_first_ns > shared(0)->may_last_ns);
		assert_int_equal(wish(1, 'p'), 0);
		assert_int_equal(wish(0, 'p'), 0);
		assert_true(WITHIN(TTL_S * 1000, shared(0)->active && !shared(1)->active));
	}
	sleep(TTL_S + 1);
	assert_true(shared(0)->active);
	assert_int_equal(shared(1)->elections, 3);
}

static void
test_a_second_process_with_the_same_name_never_leads(void **state)
{
	(void)state;
	if (!etcd_installed())
		skip();
	etcd_servers_start(&servers, 1, false);
	spawn(0, "a", "instance-a", true);
	assert_true(WITHIN(10000, shared(0)->active));
	spawn(1, "a", "another-instance", true);
	assert_true(WITHIN(5000, shared(1)->conflict));
	assert_non_null(strstr(shared(1)->error, "another name"));
	assert_int_equal(shared(1)->lease, 0);
	assert_int_equal(wish(1, 'p'), KEKD_ESTORE);
	assert_true(shared(0)->active);
	end(0, 0);
	assert_true(WITHIN(5000, shared(1)->active)); /* nobody else has the name now */
	assert_false(shared(1)->conflict);
}

static void
test_a_node_that_starts_again_has_its_name_at_once(void **state)
{
	uint64_t lease;

	(void)state;
	start_pair(1);
	lease = shared(1)->lease;
	end(1, SIGKILL);
	spawn(1, "b", "instance-b", true);
	assert_true(WITHIN(1000, shared(1)->lease));
	assert_int_not_equal(shared(1)->lease, lease);
	assert_false(shared(1)->conflict);
}

/* A leader key that no node has put: nobody leads by it, and nothing of it is passed on. */
static void
test_what_is_no_name_in_the_leader_key_is_nobodys(void **state)
{
	(void)state;
	start_pair(1);
	assert_true(WITHIN(2000, strcmp(shared(1)->leader_node, "a") == 0));
	assert_int_equal(
		etcd_ctl(&servers, "put /kekd/test/leader '{\"node\": \"a\\nb\", \"url\": \"\"}'"),
		0);
	assert_true(WITHIN(2000, strcmp(shared(1)->leader_node, "a") != 0));
	assert_string_equal(shared(1)->leader_node, "");
	assert_true(WITHIN(2000, !shared(0)->active && !shared(1)->active));
	assert_int_equal(wish(1, 'p'), 0);
	assert_true(WITHIN(2000, strcmp(shared(0)->leader_node, "b") == 0));
}

/* A state directory that was copied: whoever came last has the name, and it stays so. */
static void
test_of_two_processes_with_one_state_one_has_the_name(void **state)
{
	uint64_t lease;

	(void)state;
	if (!etcd_installed())
		skip();
	etcd_servers_start(&servers, 1, false);
	spawn(0, "a", "instance-a", true);
	assert_true(WITHIN(10000, shared(0)->active));
	spawn(1, "a", "instance-a", true);
	assert_true(WITHIN(5000, shared(1)->lease));
	assert_true(WITHIN(3 * TTL_S * 1000, shared(0)->conflict));
	lease = shared(1)->lease;
	assert_true(WITHIN(2 * TTL_S * 1000, shared(1)->active));
	assert_non_null(strstr(shared(0)->error, "copy"));
	sleep(3 * TTL_S);
	assert_int_equal(shared(1)->lease, lease);
	assert_true(shared(1)->active);
	assert_int_equal(shared(1)->elections, 1);
	assert_int_equal(shared(0)->lease, 0);
	assert_int_equal(shared(0)->elections, 1);
	end(1, SIGKILL);
	assert_true(WITHIN(3 * TTL_S * 1000, shared(0)->active));
	assert_false(shared(0)->conflict);
}

static void
test_a_user_with_the_clusters_prefix_alone_may_lead(void **state)
{
	(void)state;
	if (!etcd_installed())
		skip();
	etcd_servers_start(&servers, 1, false);
	etcd_servers_make_users(&servers, "a-password");
	assert_int_equal(etcd_ctl(&servers, "auth enable"), 0);
	with_user = true;
	spawn(0, "a", "instance-a", true);
	assert_true(WITHIN(10000, shared(0)->active));
	spawn(1, "b", "instance-b", true);
	assert_true(WITHIN(10000, shared(1)->lease && shared(1)->leader_epoch));
	assert_int_equal(wish(1, 'p'), 0);
	assert_true(WITHIN(1000, shared(1)->active && !shared(0)->active));
	end(1, 0);
	assert_true(WITHIN(1000, shared(0)->active));
	/* Its tokens are lost with etcd's memory. */
	etcd_member_signal(&servers, 0, SIGKILL);
	etcd_member_start(&servers, 0);
	sleep(TTL_S);
	assert_true(WITHIN(10000, shared(0)->reachable && shared(0)->active));
	assert_int_equal(wish(0, 's'), 0);
}

static void
test_a_lost_key_or_lease_is_noticed(void **state)
{
	char text[128];
	uint64_t lease;

	(void)state;
	start_pair(1);
	assert_int_equal(etcd_ctl(&servers, "del /kekd/test/leader"), 0);
	assert_true(WITHIN(1000, !shared(0)->active && shared(1)->active));
	lease = shared(1)->lease;
	snprintf(text, sizeof(text), "lease revoke %llx", (unsigned long long)lease);
	assert_int_equal(etcd_ctl(&servers, text), 0);
	assert_true(WITHIN(1000, !shared(1)->active));
	assert_true(WITHIN(2000, shared(1)->lease != lease && shared(1)->lease));
	lease = shared(1)->lease;
	assert_int_equal(etcd_ctl(&servers, "del /kekd/test/alive/b"), 0);
	assert_true(WITHIN(2 * TTL_S * 1000, shared(1)->lease != lease && shared(1)->lease));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(test_of_two_that_want_to_lead_one_does, stop),
		cmocka_unit_test_teardown(test_a_node_that_is_not_ready_does_not_lead, stop),
		cmocka_unit_test_teardown(test_a_clean_end_hands_over_within_a_second, stop),
		cmocka_unit_test_teardown(
			test_a_killed_active_is_followed_when_its_lease_is_over, stop),
		cmocka_unit_test_teardown(
			test_a_suspended_active_may_change_nothing_when_it_wakes_up, stop),
		cmocka_unit_test_teardown(
			test_the_right_to_change_ends_before_the_lease_does, stop),
		cmocka_unit_test_teardown(
			test_an_active_leads_on_when_one_of_three_members_is_lost, stop),
		cmocka_unit_test_teardown(
			test_stepping_down_hands_over_and_does_not_come_back, stop),
		cmocka_unit_test_teardown(
			test_who_stepped_down_leads_again_when_nobody_else_does, stop),
		cmocka_unit_test_teardown(
			test_promotion_takes_the_lead_also_for_a_node_that_does_not_want_it, stop),
		cmocka_unit_test_teardown(
			test_a_second_process_with_the_same_name_never_leads, stop),
		cmocka_unit_test_teardown(test_a_node_that_starts_again_has_its_name_at_once, stop),
		cmocka_unit_test_teardown(test_what_is_no_name_in_the_leader_key_is_nobodys, stop),
		cmocka_unit_test_teardown(
			test_of_two_processes_with_one_state_one_has_the_name, stop),
		cmocka_unit_test_teardown(
			test_a_user_with_the_clusters_prefix_alone_may_lead, stop),
		cmocka_unit_test_teardown(test_a_lost_key_or_lease_is_noticed, stop),
	};

	log_open("test_leader", LOG_LEVEL_ERROR);
	json_open();
	if (etcd_global_open() != 0)
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
