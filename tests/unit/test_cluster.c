/* SPDX-License-Identifier: Apache-2.0 */
/* The record `cluster`: members that come and go, and what is kept as it is. */
#include "kekd/cluster.h"
#include "kekd/err.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

int
sealed_commit(
	struct sealed *s, const struct sealed_change *changes, size_t count, uint64_t *ret_number)
{
	(void)s, (void)changes, (void)count, (void)ret_number;
	return KEKD_ESTORE;
}

static json_t *
record(void)
{
	return json_pack("{s:s, s:s, s:s, s:i, s:[s,s], s:[{s:s, s:s}], s:{s:i, s:i, s:i}}", "name",
		"test", "generation", "0190a0b0-c0d0-4e00-8f00-000000000001", "created",
		"2026-01-01T00:00:00.000000Z", "level", 1, "members", "a", "b", "seal_keys", "id",
		"0190a0b0-c0d0-4e00-8f00-000000000002", "token", "main", "policy", "approvals", 1,
		"destroy_wait_s", 0, "approval_ttl_s", 86400);
}

/* Takes body. */
static int
read_into(json_t *body, struct cluster *c)
{
	char error[JSON_ERROR_SIZE] = "";
	int err = cluster_from_json(body, 7, c, error);

	assert_int_equal(err == 0, !*error);
	json_decref(body);
	return err;
}

static json_t *
with(const char *member, json_t *value)
{
	json_t *body = record();

	json_object_set_new(body, member, value);
	return body;
}

static void
what_is_written_is_read_again(void **state)
{
	static struct cluster c, d;
	char error[JSON_ERROR_SIZE] = "";

	(void)state;
	assert_int_equal(read_into(record(), &c), 0);
	assert_int_equal(cluster_forget_member(&c, "a", error), 0);
	c.level = 3;
	c.succeeds_count = 2;
	strcpy(c.succeeds[0].generation, "0190a0b0-c0d0-4e00-8f00-000000000003");
	c.succeeds[0].number = 41;
	c.succeeds[1] = c.succeeds[0];
	strcpy(c.succeeds[1].store, "cafe");
	c.succeeds[1].raising = true;
	assert_int_equal(read_into(cluster_to_json(&c), &d), 0);
	assert_int_equal(d.level, 3);
	assert_int_equal(d.members_count, 1);
	assert_string_equal(d.members[0], "b");
	assert_true(cluster_has_forgotten(&d, "a"));
	assert_int_equal(d.succeeds_count, 2);
	assert_int_equal(d.succeeds[0].number, 41);
	assert_false(d.succeeds[0].raising);
	assert_string_equal(d.succeeds[1].store, "cafe");
	assert_true(cluster_is_raising(&d));
	assert_false(cluster_is_raising(&(struct cluster){ .succeeds_count = 0 }));
}

/* An earlier release reads the record of a cluster that has none of it. */
static void
what_there_is_none_of_is_not_written(void **state)
{
	static struct cluster c;
	json_t *body;

	(void)state;
	assert_int_equal(read_into(record(), &c), 0);
	body = cluster_to_json(&c);
	assert_null(json_object_get(body, "forgotten"));
	assert_null(json_object_get(body, "succeeds"));
	json_decref(body);
}

static void
a_record_that_cannot_be_is_refused(void **state)
{
	static struct cluster c;
	json_t *many = json_array();

	(void)state;
	for (int i = 0; i <= CLUSTER_FORGOTTEN_MAX; i++)
		json_array_append_new(many, json_sprintf("n%d", i));
	assert_int_equal(read_into(with("forgotten", many), &c), KEKD_EINVALID);
	assert_int_equal(read_into(with("forgotten", json_pack("[s]", "a")), &c), KEKD_EINVALID);
	assert_int_equal(
		read_into(with("forgotten", json_pack("[s,s]", "x", "x")), &c), KEKD_EINVALID);
	assert_int_equal(read_into(with("forgotten", json_pack("[i]", 1)), &c), KEKD_EINVALID);
	assert_int_equal(read_into(with("forgotten", json_pack("[s]", "X")), &c), KEKD_EINVALID);
	assert_int_equal(read_into(with("succeeds", json_pack("[{}]")), &c), KEKD_EINVALID);
	assert_int_equal(read_into(with("succeeds", json_pack("[{s:s, s:i}]", "generation",
							    "0190a0b0-c0d0-4e00-8f00-000000000003",
							    "number", -1)),
				 &c),
		KEKD_EINVALID);
	assert_int_equal(read_into(with("succeeds", json_pack("[{s:s, s:i}]", "generation", "x",
							    "number", 1)),
				 &c),
		KEKD_EINVALID);
	assert_int_equal(read_into(with("surprise", json_true()), &c), KEKD_EINVALID);
}

static void
a_member_is_added_once_and_up_to_16(void **state)
{
	static struct cluster c;
	char error[JSON_ERROR_SIZE] = "", name[16];

	(void)state;
	assert_int_equal(read_into(record(), &c), 0);
	assert_int_equal(cluster_add_member(&c, "b", error), 0);
	assert_int_equal(c.members_count, 2);
	for (int i = 2; i < CLUSTER_MEMBERS_MAX; i++) {
		snprintf(name, sizeof(name), "n%d", i);
		assert_int_equal(cluster_add_member(&c, name, error), 0);
	}
	assert_int_equal(cluster_add_member(&c, "one-more", error), KEKD_EINVALID);
	assert_int_equal(cluster_add_member(&c, "", error), KEKD_EINVALID);
	assert_int_equal(cluster_add_member(&c, "a/b", error), KEKD_EINVALID);
	assert_int_equal(c.members_count, CLUSTER_MEMBERS_MAX);
}

static void
a_member_is_forgotten_for_ever_but_not_the_last(void **state)
{
	static struct cluster c;
	char error[JSON_ERROR_SIZE] = "", name[16];

	(void)state;
	assert_int_equal(read_into(record(), &c), 0);
	assert_int_equal(cluster_forget_member(&c, "x", error), KEKD_EINVALID);
	assert_int_equal(cluster_forget_member(&c, "b", error), 0);
	assert_false(cluster_has_member(&c, "b"));
	assert_int_equal(cluster_add_member(&c, "b", error), KEKD_EINVALID);
	assert_int_equal(cluster_forget_member(&c, "a", error), KEKD_EINVALID);
	for (int i = 1; i < CLUSTER_FORGOTTEN_MAX; i++) {
		snprintf(name, sizeof(name), "n%d", i);
		assert_int_equal(cluster_add_member(&c, name, error), 0);
		assert_int_equal(cluster_forget_member(&c, name, error), 0);
	}
	assert_int_equal(cluster_add_member(&c, "one-more", error), 0);
	assert_int_equal(cluster_forget_member(&c, "one-more", error), KEKD_EINVALID);
	assert_true(cluster_has_member(&c, "one-more"));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_written_is_read_again),
		cmocka_unit_test(what_there_is_none_of_is_not_written),
		cmocka_unit_test(a_record_that_cannot_be_is_refused),
		cmocka_unit_test(a_member_is_added_once_and_up_to_16),
		cmocka_unit_test(a_member_is_forgotten_for_ever_but_not_the_last),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
