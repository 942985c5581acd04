/* SPDX-License-Identifier: Apache-2.0 */
/* Requests for approval: their records, who may approve them, the table; and the policy's rules. */
#include "kekd/approvals.h"
#include "kekd/cluster.h"
#include "kekd/err.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define NOW 2000000000000000ull

int
sealed_commit(
	struct sealed *s, const struct sealed_change *changes, size_t count, uint64_t *ret_number)
{
	(void)s, (void)changes, (void)count, (void)ret_number;
	return KEKD_ESTORE;
}

static struct approval *
request(const char *id)
{
	struct approval *a = approval_new();

	snprintf(a->id, sizeof(a->id), "%s", id);
	a->kind = APPROVAL_DESTROY;
	strcpy(a->target, "demo/1");
	a->revision = 7;
	a->change = json_pack("{s:i}", "version", 1);
	strcpy(a->requested_by, "one");
	a->requested_us = NOW;
	a->expires_us = NOW + 1000000;
	a->seen = 50;
	a->needed = 2;
	assert_int_equal(approval_digest(a, a->evidence), 0);
	return a;
}

/* A client whose record was last changed by commit `commit`. */
static struct client *
client(const char *name, const char *operation, uint64_t commit, const char *changed_by)
{
	json_t *body = json_pack("{s:[s], s:[{s:s, s:[s]}], s:s}", "identities", "dns:x", "grants",
		"keys", "*", "operations", operation, "changed_by", changed_by);
	char error[JSON_ERROR_SIZE];
	struct client *c = NULL;

	assert_int_equal(client_from_json(name, body, commit, &c, error), 0);
	json_decref(body);
	return c;
}

static int
may(const struct approval *a, struct client *c, uint64_t now_us)
{
	char error[JSON_ERROR_SIZE] = "";
	int err = approval_may(a, c, now_us, error);

	assert_true((err < 0) == (*error != '\0'));
	client_unrefp(&c);
	return err;
}

static void
only_another_administrator_of_before_may_approve(void **state)
{
	_cleanup_(approval_unrefp) struct approval *a = request("a");
	(void)state;

	assert_int_equal(may(a, client("two", "approve", 50, "three"), NOW), 0);
	assert_int_equal(may(a, client("two", "approve", 9, ""), NOW), 0);
	assert_int_equal(may(a, client("one", "approve", 9, ""), NOW), KEKD_EAPPROVER);
	assert_int_equal(may(a, client("two", "client.write", 9, ""), NOW), KEKD_EAPPROVER);
	assert_int_equal(may(a, client("two", "approve", 51, "three"), NOW), KEKD_EAPPROVER);
	assert_int_equal(may(a, client("two", "approve", 9, "one"), NOW), KEKD_EAPPROVER);
	strcpy(a->approved[a->approved_count++].client, "two");
	assert_int_equal(may(a, client("two", "approve", 9, ""), NOW), KEKD_EAPPROVER);
}

static void
an_approval_that_is_taken_out_leaves_the_others_and_says_so(void **state)
{
	_cleanup_(approval_unrefp) struct approval *a = request("a");
	struct client *c = client("two", "approve", 50, "three");
	(void)state;

	assert_null(approval_objection(a, c));
	assert_non_null(approval_objection(a, NULL));
	client_unrefp(&c);
	for (size_t i = 0; i < POLICY_APPROVALS_MAX; i++)
		snprintf(a->approved[i].client, sizeof(a->approved[i].client), "admin-%zu", i);
	a->approved_count = POLICY_APPROVALS_MAX;
	approval_drop(a, POLICY_APPROVALS_MAX - 1, "x");
	approval_drop(a, 0, "its record was deleted");
	assert_int_equal(a->approved_count, POLICY_APPROVALS_MAX - 2);
	assert_string_equal(a->approved[0].client, "admin-1");
	assert_string_equal(a->approved[1].client, "admin-2");
	assert_string_equal(a->reason,
		"the approval by \"admin-0\" does not count any more: its record was deleted");
}

static void
a_request_that_has_ended_or_expired_cannot_be_approved(void **state)
{
	_cleanup_(approval_unrefp) struct approval *a = request("a");
	(void)state;

	assert_int_equal(
		may(a, client("two", "approve", 9, ""), NOW + 1000000), KEKD_EAPPROVALENDED);
	a->requested_us = NOW;
	assert_int_equal(approval_state_now(a, NOW + 999999), APPROVAL_PENDING);
	assert_int_equal(approval_state_now(a, NOW - 1000000), APPROVAL_PENDING);
	assert_int_equal(approval_state_now(a, NOW - 301 * 1000000ull), APPROVAL_EXPIRED);
	for (int s = APPROVAL_DONE; s < APPROVAL_STATES; s++) {
		a->state = (enum approval_state)s;
		assert_int_equal(may(a, client("two", "approve", 9, ""), NOW), KEKD_EAPPROVALENDED);
	}
}

static void
who_asked_counts_and_a_stricter_policy_holds(void **state)
{
	_cleanup_(approval_unrefp) struct approval *a = request("a");
	(void)state;

	assert_true(approval_is_last(a, 1)); /* it was asked when it took two */
	assert_true(approval_is_last(a, 2));
	assert_false(approval_is_last(a, 3));
	a->approved_count = 1;
	assert_true(approval_is_last(a, 3));
	a->needed = 5;
	assert_false(approval_is_last(a, 2));
}

static void
a_digest_binds_all_that_is_asked_for(void **state)
{
	_cleanup_(approval_unrefp) struct approval *a = request("a");
	_cleanup_(approval_unrefp) struct approval *b = approval_copy(a);
	char digest[APPROVAL_EVIDENCE_SIZE];
	(void)state;

	assert_int_equal(approval_digest(b, digest), 0);
	assert_string_equal(digest, a->evidence);
	b->revision++;
	approval_digest(b, digest);
	assert_string_not_equal(digest, a->evidence);
	b->revision--;
	json_object_set_new(b->change, "version", json_integer(2));
	approval_digest(b, digest);
	assert_string_not_equal(digest, a->evidence);
	assert_int_equal(json_integer_value(json_object_get(a->change, "version")), 1);
}

static void
a_record_is_read_as_it_was_written_and_nothing_else_is(void **state)
{
	_cleanup_(approval_unrefp) struct approval *a = request("a");
	_cleanup_(approval_unrefp) struct approval *b = NULL;
	char error[JSON_ERROR_SIZE];
	json_t *body, *again;
	(void)state;

	a->state = APPROVAL_STALE;
	a->ended_us = NOW + 1;
	strcpy(a->ended_by, "two");
	strcpy(a->reason, "why");
	strcpy(a->approved[0].client, "two");
	a->approved[0].time_us = NOW;
	a->approved_count = 1;
	body = approval_to_json(a);
	assert_int_equal(approval_from_json(body, 60, &b, error), 0);
	again = approval_to_json(b);
	assert_true(json_equal(body, again));
	assert_int_equal(b->commit, 60);
	json_decref(again);
	json_object_set_new(body, "surprise", json_true());
	assert_int_equal(approval_from_json(body, 60, &b, error), KEKD_EINVALID);
	json_object_del(body, "surprise");
	json_object_set_new(body, "kind", json_string("surprise"));
	assert_int_equal(approval_from_json(body, 60, &b, error), KEKD_EINVALID);
	json_decref(body);
}

static void
the_table_has_the_newest_first_and_makes_room(void **state)
{
	struct approvals *t = NULL;
	struct approval *list[APPROVALS_MAX], *a;
	char id[8];
	(void)state;

	assert_int_equal(approvals_open(&t), 0);
	for (int i = 0; i < APPROVALS_MAX; i++) {
		snprintf(id, sizeof(id), "%d", i);
		a = request(id);
		a->requested_us = NOW + (uint64_t)i;
		if (i == 3)
			a->state = APPROVAL_DONE;
		assert_null(approvals_oldest_ended(t, NOW));
		assert_int_equal(approvals_publish(t, a), 0);
	}
	assert_int_equal(approvals_pending(t, NOW), APPROVALS_MAX - 1);
	a = approvals_oldest_ended(t, NOW);
	assert_string_equal(a->id, "3");
	approvals_remove(t, a->id);
	approval_unrefp(&a);
	assert_null(approvals_find(t, "3"));
	assert_int_equal(approvals_list(t, list, 2), 2);
	assert_string_equal(list[0]->id, "499");
	approval_unrefp(&list[0]);
	approval_unrefp(&list[1]);
	a = approvals_find_pending(t, APPROVAL_DESTROY, "demo/1", NOW);
	assert_string_equal(a->id, "499");
	approval_unrefp(&a);
	assert_null(approvals_find_pending(t, APPROVAL_POLICY, "demo/1", NOW));
	assert_null(approvals_find_pending(t, APPROVAL_DESTROY, "demo/1", NOW + 2000000));
	approvals_freep(&t);
}

static void
a_policy_waits_a_day_unless_it_is_a_labs(void **state)
{
	static const struct {
		struct policy p;
		bool good;
	} cases[] = {
		{ { 2, 7 * 86400, 86400 }, true },
		{ { 2, 86400, 60 }, true },
		{ { 2, 86399, 60 }, false },
		{ { 1, 0, 60 }, true },
		{ { 0, 86400, 60 }, false },
		{ { 5, 86400, 7 * 86400 }, true },
		{ { 6, 86400, 60 }, false },
		{ { 2, 86400, 59 }, false },
		{ { 2, 86400, 7 * 86400 + 1 }, false },
		{ { 2, 366 * 86400, 60 }, false },
	};
	char error[JSON_ERROR_SIZE];
	(void)state;

	for (size_t i = 0; i < STR_COUNT(cases); i++)
		assert_int_equal(policy_check(&cases[i].p, error) == 0, cases[i].good);
}

static void
a_cluster_record_is_read_as_it_was_written_and_nothing_else_is(void **state)
{
	json_t *body = json_pack("{s:s, s:s, s:s, s:i, s:[s], s:[{s:s, s:s}], s:{s:i, s:i}}",
		"name", "test", "generation", "0190a0b0-c0d0-4e00-8f00-000000000001", "created",
		"2026-01-31T12:00:00.000000Z", "level", 1, "members", "n1", "seal_keys", "id",
		"0190a0b0-c0d0-4e00-8f00-000000000002", "token", "main", "policy", "approvals", 2,
		"destroy_wait_s", 604800);
	struct cluster c, d;
	char error[JSON_ERROR_SIZE];
	json_t *again;
	(void)state;

	/* As an earlier release wrote it: the time to approve has its default. */
	assert_int_equal(cluster_from_json(body, 5, &c, error), 0);
	assert_int_equal(c.policy.approval_ttl_s, 86400);
	assert_true(cluster_has_member(&c, "n1") && !cluster_has_member(&c, "n2"));
	again = cluster_to_json(&c);
	assert_int_equal(cluster_from_json(again, 5, &d, error), 0);
	json_decref(again);
	json_object_set_new(body, "surprise", json_true());
	assert_int_equal(cluster_from_json(body, 5, &c, error), KEKD_EINVALID);
	json_object_del(body, "surprise");
	json_array_append_new(json_object_get(body, "members"), json_string("n1"));
	assert_int_equal(cluster_from_json(body, 5, &c, error), KEKD_EINVALID);
	json_decref(body);
	assert_int_equal(cluster_commit(NULL, &d, NULL), KEKD_ESTORE);
	assert_int_equal(d.commit, 5);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(only_another_administrator_of_before_may_approve),
		cmocka_unit_test(an_approval_that_is_taken_out_leaves_the_others_and_says_so),
		cmocka_unit_test(a_request_that_has_ended_or_expired_cannot_be_approved),
		cmocka_unit_test(who_asked_counts_and_a_stricter_policy_holds),
		cmocka_unit_test(a_digest_binds_all_that_is_asked_for),
		cmocka_unit_test(a_record_is_read_as_it_was_written_and_nothing_else_is),
		cmocka_unit_test(the_table_has_the_newest_first_and_makes_room),
		cmocka_unit_test(a_policy_waits_a_day_unless_it_is_a_labs),
		cmocka_unit_test(a_cluster_record_is_read_as_it_was_written_and_nothing_else_is),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
