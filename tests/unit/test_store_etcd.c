/* SPDX-License-Identifier: Apache-2.0 */
/* The etcd engine behind store.h, on a real etcd: what is its alone. What holds for every engine is
 * in store_suite.c. */
#include "etcd_server.h"
#include "proxy.h"
#include "store_lab.h"
#include "store_suite.h"

#include "kekd/clock.h"
#include "kekd/err.h"
#include "kekd/etcd.h"
#include "kekd/log.h"
#include "kekd/str.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

static struct etcd_servers servers;

struct fixture {
	struct suite suite;	/* first */
	struct store_lab lab;	/* the node "n1" */
	struct store_lab other; /* "n2", where a test has opened it */
	struct proxy *proxy;
};

static int
start_etcd(void **state)
{
	(void)state;
	if (etcd_installed())
		etcd_servers_start(&servers, 1, false);
	return 0;
}

static int
stop_etcd(void **state)
{
	(void)state;
	etcd_servers_stop(&servers);
	return 0;
}

static void
reopen(struct suite *suite)
{
	struct fixture *f = (struct fixture *)suite;

	store_lab_reopen(&f->lab);
	suite->store = f->lab.store;
}

/* It leads as well: what is tested is the records' revisions. */
static struct store *
second(struct suite *suite)
{
	struct fixture *f = (struct fixture *)suite;
	struct store *s;

	store_lab_open(&f->other, &servers, servers.members[0].url, "n2", &f->lab);
	s = f->other.store;
	store_etcd_term(s, &f->lab.term);
	f->other.store = NULL;
	return s;
}

static int
setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	*state = f;
	if (!etcd_installed())
		return 0;
	f->proxy = proxy_start(servers.members[0].port);
	store_lab_open(&f->lab, &servers, proxy_url(f->proxy), "n1", NULL);
	f->suite = (struct suite){ f->lab.store, reopen, second };
	return 0;
}

static int
teardown(void **state)
{
	struct fixture *f = *state;

	store_lab_close(&f->other);
	store_lab_close(&f->lab);
	proxy_stop(&f->proxy);
	free(f);
	return 0;
}

#define NEEDS_ETCD() \
	do { \
		if (!etcd_installed()) \
			skip(); \
	} while (0)

static void
open_other(struct fixture *f)
{
	store_lab_open(&f->other, &servers, servers.members[0].url, "n2", &f->lab);
}

static int
commit_as(struct store *s, enum store_owner owner, const char *path, const char *body,
	uint64_t expected, uint64_t *ret_revision)
{
	struct store_op op = put(path, expected, body);

	return s->engine->commit(s, owner, &op, 1, ret_revision);
}

static void
assert_content(struct store *s, const char *path, const char *body)
{
	struct store_record r = { 0 };

	assert_int_equal(s->engine->get(s, path, &r), 0);
	assert_string_equal(r.body, body);
	store_record_free(&r);
}

/* Until poll has told of so many. */
static void
wait_for_news(struct store *s, size_t count)
{
	uint64_t until = clock_boot_ns() + 5 * CLOCK_S;
	int n = 0;

	while (n >= 0 && (size_t)n < count && clock_boot_ns() < until) {
		int more = s->engine->poll(s, store_lab_ignore, NULL);
		assert_true(more >= 0);
		n += more;
		usleep(2000);
	}
	assert_int_equal(n, count);
}

static bool
all_good(const char *path, uint64_t revision, void *user)
{
	(void)path;
	(void)revision;
	(void)user;
	return true;
}

static void
settle(struct store *s)
{
	assert_int_equal(s->engine->settled(s, true, all_good, NULL), 0);
}

static struct store_etcd_status
status_of(struct store *s)
{
	struct store_etcd_status status;

	store_etcd_status(s, &status);
	return status;
}

/* ---- commits ---- */

static void
a_commit_is_one_transaction_and_polls_as_no_news(void **state)
{
	struct fixture *f = *state;
	struct store_op ops[] = { put("keys/a", 0, "1"), put("keys/b", 0, "2"),
		{ STORE_CHECK, "keys/c", 0, NULL, 0 } };
	uint64_t revision = 0;
	unsigned before;

	NEEDS_ETCD();
	before = proxy_count(f->proxy, "/v3/kv/txn");
	assert_int_equal(
		f->lab.store->engine->commit(f->lab.store, STORE_OWNER_ACTIVE, ops, 3, &revision),
		0);
	assert_int_equal(proxy_count(f->proxy, "/v3/kv/txn"), before + 1);
	assert_true(store_lab_read(&f->lab, "keys/a", "1") == revision);
	assert_true(store_lab_read(&f->lab, "keys/b", "2") == revision);
	assert_int_equal(store_etcd_catch_up(f->lab.store, 2000), 0);
	assert_int_equal(f->lab.store->engine->poll(f->lab.store, store_lab_ignore, NULL), 0);
	assert_int_equal(status_of(f->lab.store).pending, 0);
}

static void
what_another_node_writes_is_told(void **state)
{
	struct fixture *f = *state;
	uint64_t revision;

	NEEDS_ETCD();
	put_one(f->lab.store, "keys/a", "1");
	put_one(f->lab.store, "keys/b", "1");
	open_other(f);
	assert_content(f->other.store, "keys/a", "1");
	put_one(f->lab.store, "keys/a", "2");
	wait_for_news(f->other.store, 1);
	assert_content(f->other.store, "keys/a", "2");
	store_lab_delete(&f->lab, "keys/b");
	wait_for_news(f->other.store, 1);
	assert_absent(f->other.store, "keys/b");
	assert_int_equal(
		commit_as(f->other.store, STORE_OWNER_NODE, "members/n2", "x", 0, &revision), 0);
	wait_for_news(f->lab.store, 1);
	assert_content(f->lab.store, "members/n2", "x");
	assert_absent(f->lab.store, "keys/b");
}

static void
who_does_not_lead_changes_nothing(void **state)
{
	struct fixture *f = *state;
	struct store_term term, good;
	uint64_t revision, before;
	unsigned txns;

	NEEDS_ETCD();
	before = put_one(f->lab.store, "keys/a", "1");
	good = term = f->lab.term;
	/* Its time is over: etcd is not even asked. */
	term.until_ns = clock_boot_ns();
	store_etcd_term(f->lab.store, &term);
	txns = proxy_count(f->proxy, "/v3/kv/txn");
	assert_int_equal(
		commit_as(f->lab.store, STORE_OWNER_ACTIVE, "keys/a", "2", STORE_ANY, &revision),
		KEKD_ENOTACTIVE);
	assert_int_equal(proxy_count(f->proxy, "/v3/kv/txn"), txns);
	term = good;
	term.epoch = 0;
	store_etcd_term(f->lab.store, &term);
	assert_int_equal(
		commit_as(f->lab.store, STORE_OWNER_ACTIVE, "keys/a", "2", STORE_ANY, &revision),
		KEKD_ENOTACTIVE);
	/* Another leads by now, and this node has not heard of it. */
	store_etcd_term(f->lab.store, &good);
	store_lab_depose(&f->lab);
	assert_int_equal(
		commit_as(f->lab.store, STORE_OWNER_ACTIVE, "keys/a", "2", STORE_ANY, &revision),
		KEKD_ENOTACTIVE);
	assert_int_equal(store_lab_read(&f->lab, "keys/a", "1"), before);
	assert_content(f->lab.store, "keys/a", "1");
	/* A node's own records need no leadership. */
	assert_int_equal(
		commit_as(f->lab.store, STORE_OWNER_NODE, "usage/n1", "x", 0, &revision), 0);
}

static void
a_node_without_its_lease_writes_nothing(void **state)
{
	struct fixture *f = *state;
	struct store_term term;
	uint64_t revision;

	NEEDS_ETCD();
	term = f->lab.term;
	term.lease = 0;
	store_etcd_term(f->lab.store, &term);
	assert_int_equal(commit_as(f->lab.store, STORE_OWNER_NODE, "usage/n1", "x", 0, &revision),
		KEKD_ESTORE);
	term.lease = f->lab.term.lease + 1;
	store_etcd_term(f->lab.store, &term);
	assert_int_equal(commit_as(f->lab.store, STORE_OWNER_NODE, "usage/n1", "x", 0, &revision),
		KEKD_ESTORE);
	assert_int_equal(store_lab_read(&f->lab, "usage/n1", NULL), 0);
}

static void
a_record_of_nodes_ends_with_the_lease(void **state)
{
	struct fixture *f = *state;
	uint64_t revision;

	NEEDS_ETCD();
	assert_int_equal(
		commit_as(f->lab.store, STORE_OWNER_NODE, "nodes/n1", "here", 0, &revision), 0);
	assert_int_equal(
		commit_as(f->lab.store, STORE_OWNER_NODE, "members/n1", "x", 0, &revision), 0);
	open_other(f);
	assert_content(f->other.store, "nodes/n1", "here");
	store_lab_revoke(&f->lab);
	wait_for_news(f->other.store, 1);
	assert_absent(f->other.store, "nodes/n1");
	assert_content(f->other.store, "members/n1", "x");
}

static void
a_conflict_is_told_and_what_is_there_is_known_at_once(void **state)
{
	struct fixture *f = *state;
	uint64_t revision, mine, theirs;

	NEEDS_ETCD();
	mine = put_one(f->lab.store, "keys/a", "1");
	assert_int_equal(
		commit_as(f->lab.store, STORE_OWNER_NODE, "nonces/v", "1", 0, &revision), 0);
	theirs = store_lab_write(&f->lab, "keys/a", "theirs");
	assert_int_equal(
		commit_as(f->lab.store, STORE_OWNER_ACTIVE, "keys/a", "2", mine, &revision),
		KEKD_EPRECONDITION);
	assert_int_equal(f->lab.store->engine->poll(f->lab.store, store_lab_ignore, NULL), 1);
	assert_content(f->lab.store, "keys/a", "theirs");
	assert_int_equal(
		commit_as(f->lab.store, STORE_OWNER_ACTIVE, "keys/a", "2", theirs, &revision), 0);
	/* With a watch that brings nothing, too. */
	proxy_freeze_watches(f->proxy);
	store_lab_write(&f->lab, "nonces/v", "theirs");
	assert_int_equal(commit_as(f->lab.store, STORE_OWNER_NODE, "nonces/v", "2", 5, &revision),
		KEKD_EPRECONDITION);
	wait_for_news(f->lab.store, 1);
	assert_content(f->lab.store, "nonces/v", "theirs");
	store_lab_write(&f->lab, "keys/a", "again");
	assert_int_equal(
		commit_as(f->lab.store, STORE_OWNER_ACTIVE, "keys/a", "3", revision, &revision),
		KEKD_EPRECONDITION);
	wait_for_news(f->lab.store, 1);
	assert_content(f->lab.store, "keys/a", "again");
}

static void
the_outcome_of_a_commit_whose_answer_is_lost_is_asked_of_etcd(void **state)
{
	struct fixture *f = *state;
	uint64_t revision = 0;
	struct store_record r = { 0 };

	NEEDS_ETCD();
	put_one(f->lab.store, "keys/a", "1");
	proxy_lose_answer(f->proxy);
	assert_int_equal(
		commit_as(f->lab.store, STORE_OWNER_ACTIVE, "keys/a", "2", STORE_ANY, &revision),
		KEKD_ESTORE);
	assert_content(f->lab.store, "keys/a", "2");
	wait_for_news(f->lab.store, 1);
	/* And while etcd is away nothing is claimed of it. */
	proxy_lose_answer(f->proxy);
	assert_int_equal(
		commit_as(f->lab.store, STORE_OWNER_ACTIVE, "keys/a", "3", STORE_ANY, &revision),
		KEKD_ESTORE);
	proxy_cut(f->proxy, true);
	assert_int_equal(f->lab.store->engine->get(f->lab.store, "keys/a", &r), KEKD_ESTORE);
	proxy_cut(f->proxy, false);
	wait_for_news(f->lab.store, 1);
	assert_content(f->lab.store, "keys/a", "3");
}

static void
what_is_too_large_for_etcd_is_refused_before_it_is_sent(void **state)
{
	struct fixture *f = *state;
	char *big = malloc(STORE_BODY_MAX);
	uint64_t revision;

	NEEDS_ETCD();
	assert_non_null(big);
	memset(big, 'x', STORE_BODY_MAX);
	struct store_op one = { STORE_PUT, "keys/big", 0, big, STORE_BODY_MAX };
	struct store_op two[] = { { STORE_PUT, "keys/x", 0, big, STORE_BODY_MAX },
		{ STORE_PUT, "keys/y", 0, big, STORE_BODY_MAX } };
	assert_int_equal(
		f->lab.store->engine->commit(f->lab.store, STORE_OWNER_ACTIVE, &one, 1, &revision),
		0);
	open_other(f);
	struct store_record r = { 0 };
	assert_int_equal(f->other.store->engine->get(f->other.store, "keys/big", &r), 0);
	assert_int_equal(r.len, STORE_BODY_MAX);
	store_record_free(&r);
	assert_int_equal(
		f->lab.store->engine->commit(f->lab.store, STORE_OWNER_ACTIVE, two, 2, &revision),
		KEKD_ETOOLARGE);
	assert_int_equal(store_lab_read(&f->lab, "keys/x", NULL), 0);
	free(big);
}

static void
the_names_of_the_leader_and_the_living_are_no_records(void **state)
{
	struct fixture *f = *state;
	struct store_page p = { 0 };
	uint64_t revision;

	NEEDS_ETCD();
	assert_int_equal(
		commit_as(f->lab.store, STORE_OWNER_ACTIVE, "leader", "x", STORE_ANY, &revision),
		-EINVAL);
	assert_int_equal(
		commit_as(f->lab.store, STORE_OWNER_ACTIVE, "alive/n1", "x", STORE_ANY, &revision),
		-EINVAL);
	put_one(f->lab.store, "keys/a", "1");
	open_other(f);
	assert_int_equal(f->other.store->engine->list(f->other.store, "", NULL, 100, &p), 0);
	assert_int_equal(p.count, 1);
	store_page_free(&p);
}

/* ---- the watch ---- */

static void
a_watch_goes_on_after_a_cut(void **state)
{
	struct fixture *f = *state;

	NEEDS_ETCD();
	put_one(f->lab.store, "keys/a", "1");
	put_one(f->lab.store, "keys/b", "1");
	proxy_cut(f->proxy, true);
	store_lab_write(&f->lab, "keys/a", "2");
	store_lab_erase(&f->lab, "keys/b");
	proxy_cut(f->proxy, false);
	wait_for_news(f->lab.store, 2);
	assert_content(f->lab.store, "keys/a", "2");
	assert_absent(f->lab.store, "keys/b");
	store_lab_write(&f->lab, "keys/a", "3");
	wait_for_news(f->lab.store, 1);
	assert_true(status_of(f->lab.store).reconnects > 0);
}

static void
what_was_compacted_during_a_cut_is_read_as_a_whole(void **state)
{
	struct fixture *f = *state;
	char body[32];

	NEEDS_ETCD();
	put_one(f->lab.store, "keys/a", "1");
	proxy_cut(f->proxy, true);
	for (int i = 0; i < 50; i++) {
		snprintf(body, sizeof(body), "v%d", i);
		store_lab_write(&f->lab, "keys/a", body);
	}
	store_lab_write(&f->lab, "keys/z", "new");
	store_lab_compact(&f->lab);
	proxy_cut(f->proxy, false);
	wait_for_news(f->lab.store, 2);
	assert_content(f->lab.store, "keys/a", "v49");
	assert_content(f->lab.store, "keys/z", "new");
}

static void
a_watch_that_hangs_in_silence_is_noticed(void **state)
{
	struct fixture *f = *state;
	uint64_t start, until;
	int n = 0;

	NEEDS_ETCD();
	put_one(f->lab.store, "keys/a", "1");
	proxy_freeze_watches(f->proxy);
	store_lab_write(&f->lab, "keys/a", "2");
	start = clock_boot_ns();
	until = start + 15 * CLOCK_S;
	while (n == 0 && clock_boot_ns() < until) {
		n = f->lab.store->engine->poll(f->lab.store, store_lab_ignore, NULL);
		usleep(10000);
	}
	assert_int_equal(n, 1);
	assert_content(f->lab.store, "keys/a", "2");
	print_message("a hanging watch was noticed after %.1f s\n",
		(double)(clock_boot_ns() - start) / 1e9);
	/* catch_up does not wait for that. */
	proxy_freeze_watches(f->proxy);
	store_lab_write(&f->lab, "keys/a", "3");
	start = clock_boot_ns();
	assert_int_equal(store_etcd_catch_up(f->lab.store, 3000), 0);
	assert_int_equal(f->lab.store->engine->poll(f->lab.store, store_lab_ignore, NULL), 1);
	print_message(
		"catching up past one took %.2f s\n", (double)(clock_boot_ns() - start) / 1e9);
}

static void
catching_up_sees_what_was_written_before_it(void **state)
{
	struct fixture *f = *state;
	uint64_t start = 0;
	char body[32];

	NEEDS_ETCD();
	start = clock_boot_ns();
	for (int i = 0; i < 100; i++) {
		snprintf(body, sizeof(body), "%d", i);
		store_lab_write(&f->lab, "keys/a", body);
		assert_int_equal(store_etcd_catch_up(f->lab.store, 2000), 0);
		assert_int_equal(
			f->lab.store->engine->poll(f->lab.store, store_lab_ignore, NULL), 1);
		assert_content(f->lab.store, "keys/a", body);
	}
	print_message("a write and a catch-up: %.1f ms\n", (double)(clock_boot_ns() - start) / 1e8);
	proxy_cut(f->proxy, true);
	assert_int_equal(store_etcd_catch_up(f->lab.store, 500), KEKD_ESTORE);
	proxy_cut(f->proxy, false);
}

/* Other clusters, users and leases raise etcd's revision too. */
static void
revisions_of_others_are_no_lag(void **state)
{
	struct fixture *f = *state;

	NEEDS_ETCD();
	put_one(f->lab.store, "keys/a", "1");
	etcd_ctl(&servers, "put /elsewhere 1");
	etcd_ctl(&servers, "put /elsewhere 2");
	assert_int_equal(store_etcd_catch_up(f->lab.store, 3000), 0);
	assert_int_equal(f->lab.store->engine->poll(f->lab.store, store_lab_ignore, NULL), 0);
	settle(f->lab.store);
	assert_int_equal(status_of(f->lab.store).lag_revisions, 0);
	assert_true(status_of(f->lab.store).age_ns < 5 * CLOCK_S);
}

/* ---- the replica ---- */

static void
the_replica_serves_while_etcd_is_away_at_the_start(void **state)
{
	struct fixture *f = *state;
	uint64_t revision;

	NEEDS_ETCD();
	put_one(f->lab.store, "keys/a", "1");
	store_lab_write(&f->lab, "keys/b", "theirs");
	wait_for_news(f->lab.store, 1);
	settle(f->lab.store);
	proxy_cut(f->proxy, true);
	store_lab_reopen(&f->lab);
	assert_content(f->lab.store, "keys/a", "1");
	assert_content(f->lab.store, "keys/b", "theirs");
	assert_false(status_of(f->lab.store).synced);
	assert_true(status_of(f->lab.store).age_ns < 60 * CLOCK_S);
	assert_int_equal(
		commit_as(f->lab.store, STORE_OWNER_ACTIVE, "keys/a", "2", STORE_ANY, &revision),
		KEKD_ESTORE);
	store_lab_write(&f->lab, "keys/a", "meanwhile");
	proxy_cut(f->proxy, false);
	wait_for_news(f->lab.store, 1);
	assert_content(f->lab.store, "keys/a", "meanwhile");
	assert_true(status_of(f->lab.store).reachable);
}

static void
an_empty_replica_needs_etcd(void **state)
{
	struct fixture *f = *state;

	NEEDS_ETCD();
	proxy_cut(f->proxy, true);
	store_lab_shut(&f->lab);
	store_lab_wipe(&f->lab);
	assert_int_equal(store_lab_try(&f->lab), KEKD_ESTORE);
	proxy_cut(f->proxy, false);
	assert_int_equal(store_lab_try(&f->lab), 0);
}

static void
what_is_not_good_never_reaches_the_replica(void **state)
{
	struct fixture *f = *state;

	NEEDS_ETCD();
	put_one(f->lab.store, "keys/a", "good");
	put_one(f->lab.store, "keys/b", "good");
	store_lab_write(&f->lab, "keys/a", "forged");
	store_lab_erase(&f->lab, "keys/b");
	wait_for_news(f->lab.store, 2);
	/* Judged as bad: nothing is settled. */
	assert_content(f->lab.store, "keys/a", "forged");
	assert_absent(f->lab.store, "keys/b");
	proxy_cut(f->proxy, true);
	store_lab_reopen(&f->lab);
	assert_content(f->lab.store, "keys/a", "good");
	assert_content(f->lab.store, "keys/b", "good");
	proxy_cut(f->proxy, false);
	wait_for_news(f->lab.store, 2);
	assert_content(f->lab.store, "keys/a", "forged");
	assert_absent(f->lab.store, "keys/b");
}

/* A file size limit is the full disk that every user can make. */
static void
a_full_disk_does_not_undo_what_etcd_has(void **state)
{
	struct fixture *f = *state;
	char *body = malloc(STORE_BODY_MAX);
	struct store_op op = { STORE_PUT, "keys/big", 0, body, STORE_BODY_MAX };
	struct rlimit old, tight;
	struct store_record r = { 0 };
	uint64_t revision;

	NEEDS_ETCD();
	assert_non_null(body);
	memset(body, 'x', STORE_BODY_MAX);
	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
	tight = (struct rlimit){ 200000, old.rlim_max };
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &tight), 0);
	assert_int_equal(
		f->lab.store->engine->commit(f->lab.store, STORE_OWNER_ACTIVE, &op, 1, &revision),
		0);
	assert_int_equal(f->lab.store->engine->get(f->lab.store, "keys/big", &r), 0);
	assert_int_equal(r.len, STORE_BODY_MAX);
	store_record_free(&r);
	/* The image is behind, and says so: nothing is to be accepted on it. */
	assert_int_equal(
		f->lab.store->engine->settled(f->lab.store, true, all_good, NULL), KEKD_ESTORE);
	assert_int_equal(status_of(f->lab.store).pending, 1);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
	settle(f->lab.store);
	assert_int_equal(status_of(f->lab.store).pending, 0);
	proxy_cut(f->proxy, true);
	store_lab_reopen(&f->lab);
	assert_int_equal(f->lab.store->engine->get(f->lab.store, "keys/big", &r), 0);
	assert_int_equal(r.len, STORE_BODY_MAX);
	store_record_free(&r);
	free(body);
}

static void
a_listing_lays_what_is_new_over_the_replica(void **state)
{
	struct fixture *f = *state;
	struct store_page p = { 0 };
	char path[32], after[STORE_PATH_MAX + 1] = "";
	size_t total = 0;
	bool more = true;

	NEEDS_ETCD();
	for (int i = 0; i < 40; i++) {
		snprintf(path, sizeof(path), "keys/k%02d", 2 * i);
		put_one(f->lab.store, path, "old");
	}
	for (int i = 0; i < 20; i++) {
		snprintf(path, sizeof(path), "keys/k%02d", 4 * i + 1);
		store_lab_write(&f->lab, path, "new");
	}
	store_lab_erase(&f->lab, "keys/k00");
	store_lab_erase(&f->lab, "keys/k78");
	store_lab_write(&f->lab, "keys/k02", "new");
	wait_for_news(f->lab.store, 23);
	while (more) {
		assert_int_equal(f->lab.store->engine->list(
					 f->lab.store, "keys/", *after ? after : NULL, 7, &p),
			0);
		for (size_t i = 0; i < p.count; i++) {
			assert_true(strcmp(p.records[i].path, after) > 0);
			strcpy(after, p.records[i].path);
			total++;
		}
		more = p.more;
		store_page_free(&p);
	}
	assert_int_equal(total, 58);
	assert_string_equal(after, "keys/k77");
	assert_content(f->lab.store, "keys/k02", "new");
}

static void
a_single_nodes_store_is_not_taken_for_a_replica_nor_the_reverse(void **state)
{
	struct fixture *f = *state;
	struct store *s = NULL;
	struct store_op op = put("keys/a", 0, "1");
	uint64_t revision;

	NEEDS_ETCD();
	put_one(f->lab.store, "keys/a", "1");
	store_lab_shut(&f->lab);
	assert_int_equal(store_open_sqlite(f->lab.dir, false, &s), KEKD_ESTORE);
	store_lab_wipe(&f->lab);
	assert_int_equal(store_open_sqlite(f->lab.dir, true, &s), 0);
	assert_int_equal(s->engine->commit(s, STORE_OWNER_ACTIVE, &op, 1, &revision), 0);
	store_freep(&s);
	assert_int_equal(store_lab_try(&f->lab), KEKD_EINVALID);
}

/* ---- an etcd that went back ---- */

/* src/store/etcd_engine.h: an hour is long for a test. */
struct etcd_store;
int etcd_compact(struct etcd_store *e, uint64_t age_ns);
void etcd_set_room(struct etcd_store *e, size_t bytes);

static void
a_restored_etcd_is_another_history(void **state)
{
	struct etcd_servers own = { 0 };
	struct store_lab lab = { 0 };
	uint64_t revision;

	(void)state;
	NEEDS_ETCD();
	etcd_servers_start(&own, 1, false);
	store_lab_open(&lab, &own, own.members[0].url, "n1", NULL);
	put_one(lab.store, "keys/a", "one");
	put_one(lab.store, "keys/b", "one");
	store_lab_snapshot(&own);
	put_one(lab.store, "keys/a", "two");
	put_one(lab.store, "keys/c", "two");
	store_lab_delete(&lab, "keys/b");
	assert_int_equal(etcd_compact((struct etcd_store *)lab.store, 0), 0);
	store_lab_restore(&own);
	/* The same id, and revisions that were given before. */
	wait_for_news(lab.store, 3);
	assert_content(lab.store, "keys/a", "one");
	assert_content(lab.store, "keys/b", "one");
	assert_absent(lab.store, "keys/c");
	assert_true(status_of(lab.store).synced);
	assert_int_equal(etcd_compact((struct etcd_store *)lab.store, 0), 0);
	assert_true(status_of(lab.store).reachable);
	/* It goes on from there, with revisions below those of before. */
	store_lab_write(&lab, "keys/a", "three");
	wait_for_news(lab.store, 1);
	assert_content(lab.store, "keys/a", "three");
	store_lab_lead(&lab);
	revision = put_one(lab.store, "keys/a", "four");
	assert_int_equal(store_lab_read(&lab, "keys/a", "four"), revision);
	store_lab_close(&lab);
	etcd_servers_stop(&own);
}

static void
another_etcd_is_foreign_until_it_is_adopted(void **state)
{
	struct fixture *f = *state;
	struct etcd_servers own = { 0 };
	uint64_t until = clock_boot_ns() + 5 * CLOCK_S;
	char before[64], after[64];

	NEEDS_ETCD();
	put_one(f->lab.store, "keys/a", "1");
	assert_false(f->lab.store->engine->foreign(f->lab.store));
	assert_int_equal(f->lab.store->engine->identity(f->lab.store, before), 0);
	etcd_servers_start(&own, 1, false);
	store_lab_shut(&f->lab);
	store_lab_point(&f->lab, own.members[0].url);
	assert_int_equal(store_lab_try(&f->lab), 0);
	while (!f->lab.store->engine->foreign(f->lab.store) && clock_boot_ns() < until)
		usleep(10000);
	assert_true(f->lab.store->engine->foreign(f->lab.store));
	assert_int_equal(f->lab.store->engine->identity(f->lab.store, after), 0);
	assert_string_not_equal(before, after);
	wait_for_news(f->lab.store, 1);
	assert_absent(f->lab.store, "keys/a");
	assert_int_equal(f->lab.store->engine->adopt(f->lab.store), 0);
	assert_false(f->lab.store->engine->foreign(f->lab.store));
	store_lab_shut(&f->lab);
	assert_int_equal(store_lab_try(&f->lab), 0);
	assert_false(f->lab.store->engine->foreign(f->lab.store));
	store_lab_shut(&f->lab);
	etcd_servers_stop(&own);
}

/* ---- members of etcd ---- */

static void
put_within(struct store *s, const char *path, const char *body, uint64_t ns)
{
	uint64_t until = clock_boot_ns() + ns, revision;
	int err = KEKD_ESTORE;

	while (err == KEKD_ESTORE && clock_boot_ns() < until)
		err = commit_as(s, STORE_OWNER_ACTIVE, path, body, STORE_ANY, &revision);
	assert_int_equal(err, 0);
}

static uint64_t
wait_for_body(struct store *s, const char *path, const char *body)
{
	uint64_t start = clock_boot_ns();
	bool there = false;

	while (!there && clock_boot_ns() < start + 20 * CLOCK_S) {
		struct store_record r = { 0 };
		assert_true(s->engine->poll(s, store_lab_ignore, NULL) >= 0);
		there = s->engine->get(s, path, &r) == 0 && strcmp(r.body, body) == 0;
		store_record_free(&r);
		usleep(10000);
	}
	assert_true(there);
	return clock_boot_ns() - start;
}

static void
a_member_that_is_suspended_costs_seconds_and_no_news(void **state)
{
	struct etcd_servers three = { 0 };
	struct store_lab lab = { 0 };

	(void)state;
	NEEDS_ETCD();
	etcd_servers_start(&three, 3, false);
	store_lab_open(&lab, &three, NULL, "n1", NULL);
	put_one(lab.store, "keys/a", "1");
	/* The one that has the watch: its connections stay, and say nothing. */
	etcd_member_signal(&three, 0, SIGSTOP);
	put_within(lab.store, "keys/a", "2", 5 * CLOCK_S);
	store_lab_write(&lab, "keys/b", "theirs");
	print_message("with a member suspended: news after %.1f s\n",
		(double)wait_for_body(lab.store, "keys/b", "theirs") / 1e9);
	etcd_member_signal(&three, 0, SIGCONT);
	store_lab_close(&lab);
	etcd_servers_stop(&three);
}

static void
an_etcd_without_quorum_refuses_changes_and_the_records_are_read(void **state)
{
	struct etcd_servers three = { 0 };
	struct store_lab lab = { 0 };
	uint64_t revision, start;

	(void)state;
	NEEDS_ETCD();
	etcd_servers_start(&three, 3, false);
	store_lab_open(&lab, &three, NULL, "n1", NULL);
	put_one(lab.store, "keys/a", "1");
	etcd_member_signal(&three, 1, SIGKILL);
	etcd_member_signal(&three, 2, SIGKILL);
	assert_int_equal(
		commit_as(lab.store, STORE_OWNER_ACTIVE, "keys/b", "2", STORE_ANY, &revision),
		KEKD_ESTORE);
	assert_content(lab.store, "keys/a", "1");
	assert_int_equal(store_etcd_catch_up(lab.store, 1000), KEKD_ESTORE);
	assert_false(status_of(lab.store).reachable);
	etcd_member_start(&three, 1);
	etcd_member_start(&three, 2);
	start = clock_boot_ns();
	put_within(lab.store, "keys/a", "3", 20 * CLOCK_S);
	print_message("with a quorum again: a commit after %.1f s\n",
		(double)(clock_boot_ns() - start) / 1e9);
	store_lab_write(&lab, "keys/c", "theirs");
	wait_for_body(lab.store, "keys/c", "theirs");
	assert_true(status_of(lab.store).reachable);
	store_lab_close(&lab);
	etcd_servers_stop(&three);
}

static void
compaction_keeps_an_hour_and_followers_go_on(void **state)
{
	struct fixture *f = *state;

	NEEDS_ETCD();
	put_one(f->lab.store, "keys/a", "1");
	assert_int_equal(store_etcd_compact(f->lab.store), 0);
	put_one(f->lab.store, "keys/a", "2");
	assert_int_equal(store_etcd_compact(f->lab.store), 0);
	assert_int_equal(status_of(f->lab.store).compactions, 0);
	assert_int_equal(proxy_count(f->proxy, "/v3/kv/compaction"), 0);
	/* As if the hour were over. */
	assert_int_equal(etcd_compact((struct etcd_store *)f->lab.store, 0), 0);
	assert_int_equal(status_of(f->lab.store).compactions, 1);
	assert_int_equal(proxy_count(f->proxy, "/v3/kv/compaction"), 1);
	put_one(f->lab.store, "keys/a", "3");
	open_other(f);
	assert_content(f->other.store, "keys/a", "3");
	store_lab_write(&f->lab, "keys/a", "4");
	wait_for_body(f->lab.store, "keys/a", "4");
}

/* ---- much ---- */

/* Etcd's root writes without end: no node's memory ends by it, and the last image serves on. */
static void
what_is_not_accepted_has_its_bounds_in_memory(void **state)
{
	struct fixture *f = *state;
	char path[32], *body = malloc(20001);
	uint64_t until, revision;

	NEEDS_ETCD();
	assert_non_null(body);
	memset(body, 'x', 20000);
	body[20000] = '\0';
	revision = put_one(f->lab.store, "keys/good", "1");
	etcd_set_room((struct etcd_store *)f->lab.store, 100000);
	for (int i = 0; i < 30; i++) {
		snprintf(path, sizeof(path), "keys/junk%02d", i);
		store_lab_write(&f->lab, path, body);
		assert_true(f->lab.store->engine->poll(f->lab.store, store_lab_ignore, NULL) >= 0);
	}
	until = clock_boot_ns() + 5 * CLOCK_S;
	while (!*status_of(f->lab.store).error && clock_boot_ns() < until)
		usleep(10000);
	assert_non_null(strstr(status_of(f->lab.store).error, "room"));
	assert_true(f->lab.store->engine->poll(f->lab.store, store_lab_ignore, NULL) >= 0);
	assert_in_range(status_of(f->lab.store).pending, 1, 6);
	assert_body(f->lab.store, "keys/good", "1", revision);
	revision = put_one(f->lab.store, "keys/good", "2");
	assert_body(f->lab.store, "keys/good", "2", revision);
	for (int i = 0; i < 30; i++) {
		snprintf(path, sizeof(path), "keys/junk%02d", i);
		store_lab_erase(&f->lab, path);
	}
	store_lab_reopen(&f->lab);
	until = clock_boot_ns() + 5 * CLOCK_S;
	while (!status_of(f->lab.store).synced && clock_boot_ns() < until)
		usleep(10000);
	assert_int_equal(f->lab.store->engine->poll(f->lab.store, store_lab_ignore, NULL), 0);
	assert_int_equal(status_of(f->lab.store).pending, 0);
	assert_body(f->lab.store, "keys/good", "2", revision);
	free(body);
}

static size_t
resident_kib(void)
{
	char line[256];
	FILE *file = fopen("/proc/self/status", "r");
	size_t kib = 0;

	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "VmRSS: %zu", &kib) == 1)
			break;
	if (file)
		fclose(file);
	return kib;
}

static void
ten_thousand_records_are_read_quickly(void **state)
{
	struct fixture *f = *state;
	static char names[STORE_OPS_MAX][32];
	struct store_op ops[STORE_OPS_MAX];
	char body[1025];
	uint64_t start, revision;
	size_t before;

	NEEDS_ETCD();
	memset(body, 'x', sizeof(body) - 1);
	body[sizeof(body) - 1] = '\0';
	start = clock_boot_ns();
	for (int i = 0; i < 100; i++) {
		for (int j = 0; j < STORE_OPS_MAX; j++) {
			snprintf(names[j], sizeof(names[j]), "keys/k%02d%02d", i, j);
			ops[j] = put(names[j], 0, body);
		}
		assert_int_equal(f->lab.store->engine->commit(f->lab.store, STORE_OWNER_ACTIVE, ops,
					 STORE_OPS_MAX, &revision),
			0);
	}
	print_message("10,000 records of 1 KiB: written in %.0f ms\n",
		(double)(clock_boot_ns() - start) / 1e6);
	before = resident_kib();
	start = clock_boot_ns();
	open_other(f);
	print_message("read by another node in %.0f ms, and %zu MiB more memory\n",
		(double)(clock_boot_ns() - start) / 1e6, (resident_kib() - before) / 1024);
	start = clock_boot_ns();
	settle(f->other.store);
	print_message("settled in %.0f ms, %zu MiB more memory\n",
		(double)(clock_boot_ns() - start) / 1e6, (resident_kib() - before) / 1024);
	assert_content(f->other.store, "keys/k9999", body);
	start = clock_boot_ns();
	store_lab_reopen(&f->other);
	print_message("reopened in %.0f ms", (double)(clock_boot_ns() - start) / 1e6);
	start = clock_boot_ns();
	while (!status_of(f->other.store).synced)
		usleep(1000);
	print_message(", compared in %.0f ms\n", (double)(clock_boot_ns() - start) / 1e6);
	assert_int_equal(f->other.store->engine->poll(f->other.store, store_lab_ignore, NULL), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		STORE_SUITE(setup, teardown),
		TEST(a_commit_is_one_transaction_and_polls_as_no_news),
		TEST(what_another_node_writes_is_told),
		TEST(who_does_not_lead_changes_nothing),
		TEST(a_node_without_its_lease_writes_nothing),
		TEST(a_record_of_nodes_ends_with_the_lease),
		TEST(a_conflict_is_told_and_what_is_there_is_known_at_once),
		TEST(the_outcome_of_a_commit_whose_answer_is_lost_is_asked_of_etcd),
		TEST(what_is_too_large_for_etcd_is_refused_before_it_is_sent),
		TEST(the_names_of_the_leader_and_the_living_are_no_records),
		TEST(a_watch_goes_on_after_a_cut),
		TEST(what_was_compacted_during_a_cut_is_read_as_a_whole),
		TEST(a_watch_that_hangs_in_silence_is_noticed),
		TEST(catching_up_sees_what_was_written_before_it),
		TEST(revisions_of_others_are_no_lag),
		TEST(the_replica_serves_while_etcd_is_away_at_the_start),
		TEST(an_empty_replica_needs_etcd),
		TEST(what_is_not_good_never_reaches_the_replica),
		TEST(a_full_disk_does_not_undo_what_etcd_has),
		TEST(a_listing_lays_what_is_new_over_the_replica),
		TEST(a_single_nodes_store_is_not_taken_for_a_replica_nor_the_reverse),
		TEST(a_restored_etcd_is_another_history),
		TEST(another_etcd_is_foreign_until_it_is_adopted),
		TEST(a_member_that_is_suspended_costs_seconds_and_no_news),
		TEST(an_etcd_without_quorum_refuses_changes_and_the_records_are_read),
		TEST(compaction_keeps_an_hour_and_followers_go_on),
		TEST(what_is_not_accepted_has_its_bounds_in_memory),
		TEST(ten_thousand_records_are_read_quickly),
	};

	log_open("test_store_etcd", LOG_LEVEL_ERROR);
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, start_etcd, stop_etcd);
}
