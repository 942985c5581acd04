/* SPDX-License-Identifier: Apache-2.0 */
/* Inventories of etcd's snapshots: their records, until when a backup needs a version, the rules of
 * "inventory clean", each broken once, and the evidence. */
#include "kekd/err.h"
#include "kekd/inventory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#define S_US 1000000ull
#define DAY_US (24 * 3600 * S_US)
#define NOW (2000000000 * S_US) /* 2033-05-18T03:33:20Z */

static const char v1[] = "0190a0b0-c0d0-4e00-8f00-000000000001";
static const char v2[] = "0190a0b0-c0d0-4e00-8f00-000000000002";

static json_t *
entry(const char *key, const char *id, int live, int superseded)
{
	return json_pack("{s:s, s:s, s:i, s:i}", "key", key, "version_id", id, "live", live,
		"superseded", superseded);
}

static json_t *
record(const char *cluster, json_t *versions)
{
	return json_pack("{s:s, s:s, s:s, s:s, s:i, s:b, s:i, s:o, s:s, s:s, s:i, s:I}", "cluster",
		cluster, "taken", "2033-05-18T02:00:00Z", "needed_until", "2033-08-18T00:00:00Z",
		"sha256", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
		"etcd_revision", 5, "complete", 1, "plaintext", 0, "versions", versions, "changed",
		"2033-05-18T02:10:00Z", "changed_by", "one", "seen_s", 1000, "count_s",
		(json_int_t)7941000);
}

/* Takes over the versions. */
static struct snapshot *
snapshot(const char *id, const char *cluster, json_t *versions)
{
	json_t *body = record(cluster, versions);
	char error[JSON_ERROR_SIZE] = "";
	struct snapshot *s = NULL;

	assert_int_equal(snapshot_from_json(id, body, 7, &s, error), 0);
	json_decref(body);
	return s;
}

/* ---- records ---- */

static void
a_record_comes_back_as_it_went(void **state)
{
	struct snapshot *s = snapshot(
		"a", "prod", json_pack("[o, o]", entry("b", v2, 1, 0), entry("a", v1, 0, 2)));
	struct snapshot *again = NULL;
	json_t *body = snapshot_to_json(s), *second;
	char error[JSON_ERROR_SIZE];
	struct uuid id;

	(void)state;
	assert_int_equal(snapshot_from_json("a", body, 8, &again, error), 0);
	second = snapshot_to_json(again);
	assert_true(json_equal(body, second));
	assert_int_equal(uuid_parse(v1, &id), 0);
	assert_string_equal(snapshot_find(again, &id)->key, "a");
	assert_int_equal(snapshot_find(again, &id)->superseded, 2);
	assert_int_equal(again->seen_s, 1000);
	json_decref(body);
	json_decref(second);
	snapshot_unrefp(&s);
	snapshot_unrefp(&again);
}

static void
refused(const char *member, json_t *value, int wanted)
{
	json_t *body = record("prod", json_pack("[o]", entry("a", v1, 1, 1)));
	char error[JSON_ERROR_SIZE] = "";
	struct snapshot *s = NULL;

	json_object_set_new(body, member, value);
	assert_int_equal(snapshot_from_json("a", body, 1, &s, error), wanted);
	assert_null(s);
	assert_int_not_equal(error[0], '\0');
	json_decref(body);
}

static void
a_record_that_is_none_is_refused(void **state)
{
	json_t *many = json_array();

	(void)state;
	refused("surprise", json_true(), KEKD_EMEMBER);
	refused("cluster", json_string(""), KEKD_EINVALID);
	refused("cluster", json_string("a b"), KEKD_EINVALID);
	refused("taken", json_string("never"), KEKD_EINVALID);
	refused("needed_until", json_string("2033-05-18T02:00:00Z"), KEKD_EINVALID);
	refused("changed", json_string("x"), KEKD_EINVALID);
	refused("changed_by", json_string("X"), KEKD_EINVALID);
	refused("sha256", json_string("ab"), KEKD_EINVALID);
	refused("etcd_revision", json_integer(0), KEKD_EINVALID);
	refused("id", json_string("b"), KEKD_EINVALID);
	refused("versions", json_pack("[o, o]", entry("a", v1, 1, 0), entry("a", v1, 1, 0)),
		KEKD_EINVALID);
	refused("versions", json_pack("[o]", entry("a", v1, 0, 0)), KEKD_EINVALID);
	refused("versions", json_pack("[o]", entry("A", v1, 1, 0)), KEKD_EINVALID);
	refused("versions", json_pack("[o]", entry("a", "1", 1, 0)), KEKD_EINVALID);
	for (int i = 0; i <= SNAPSHOT_VERSIONS_MAX; i++)
		json_array_append_new(many, json_integer(1));
	refused("versions", many, KEKD_EINVALID);
}

static void
the_table_is_sorted_and_pages(void **state)
{
	struct snapshot *page[4] = { NULL };
	struct snapshots *t = NULL;
	struct snapshot_list all;

	(void)state;
	assert_int_equal(snapshots_open(&t), 0);
	for (const char *c = "dbca"; *c; c++)
		assert_int_equal(
			snapshots_publish(t, snapshot((char[]){ *c, 0 }, "p", json_array())), 0);
	assert_int_equal(snapshots_publish(t, snapshot("b", "other", json_array())), 0);
	assert_int_equal(snapshots_count(t), 4);
	assert_int_equal(snapshots_list(t, "a", 2, page), 2);
	assert_string_equal(page[0]->id, "b");
	assert_string_equal(page[0]->cluster, "other");
	assert_string_equal(page[1]->id, "c");
	snapshot_unrefp(&page[0]);
	snapshot_unrefp(&page[1]);
	assert_int_equal(snapshots_list(t, "d", 2, page), 0);
	snapshots_remove(t, "a");
	snapshots_remove(t, "a");
	assert_null(snapshots_find(t, "a"));
	assert_int_equal(snapshots_all(t, &all), 0);
	assert_int_equal(all.count, 3);
	snapshot_list_free(&all);
	snapshots_freep(&t);
}

/* ---- until when ---- */

static void
a_clock_that_is_ahead_ends_no_need(void **state)
{
	struct snapshot *s = snapshot("a", "prod", json_pack("[o]", entry("a", v1, 1, 1)));
	uint64_t all_s = s->count_s;

	(void)state;
	assert_true(snapshot_is_needed(s, s->changed_us, 1000));
	/* The clock says so, and nobody saw the time pass. */
	assert_true(snapshot_is_needed(s, s->needed_until_us, 1000));
	assert_true(snapshot_is_needed(s, s->needed_until_us + 1000 * DAY_US, 1000 + all_s - 1));
	assert_int_equal(snapshot_uncounted_s(s, 1000 + all_s - 1), 1);
	/* Time passed, and the clock is behind. */
	assert_true(snapshot_is_needed(s, s->needed_until_us - 1, 1000 + 2 * all_s));
	assert_false(snapshot_is_needed(s, s->needed_until_us, 1000 + all_s));
	/* What was counted was lost: it begins anew at most. */
	assert_int_equal(snapshot_uncounted_s(s, 0), all_s);
	snapshot_unrefp(&s);
}

static void
a_record_that_is_put_again_forgets_no_time(void **state)
{
	struct snapshot *s = snapshot("a", "prod", json_pack("[o]", entry("a", v1, 1, 1)));
	struct snapshot *next = snapshot("a", "prod", json_pack("[o]", entry("a", v1, 1, 1)));
	uint64_t until_us = s->needed_until_us;

	(void)state;
	snapshot_begin(s, NULL, until_us - 90 * DAY_US, 1000);
	assert_int_equal(snapshot_uncounted_s(s, 1000), 90 * 86400);
	/* The clock is ahead, and a job is repeated. */
	snapshot_begin(next, s, until_us + DAY_US, 1000 + 86400);
	assert_int_equal(snapshot_uncounted_s(next, 1000 + 86400), 89 * 86400);
	next->needed_until_us += DAY_US;
	snapshot_begin(next, s, until_us + DAY_US, 1000 + 86400);
	assert_int_equal(snapshot_uncounted_s(next, 1000 + 86400), 90 * 86400);
	/* It is ended earlier, on purpose. */
	next->needed_until_us = until_us - 10 * DAY_US;
	snapshot_begin(next, s, until_us - 20 * DAY_US, 1000);
	assert_int_equal(snapshot_uncounted_s(next, 1000), 10 * 86400);
	/* It was over. */
	next->needed_until_us = until_us;
	snapshot_begin(next, s, until_us + DAY_US, 1000 + 90 * 86400);
	assert_int_equal(snapshot_uncounted_s(next, 1000 + 90 * 86400), 0);
	snapshot_unrefp(&s);
	snapshot_unrefp(&next);
}

static void
what_protects_less_is_told_from_what_does_not(void **state)
{
	struct snapshot *both = snapshot(
		"a", "prod", json_pack("[o, o]", entry("a", v1, 1, 1), entry("a", v2, 1, 1)));
	struct snapshot *one = snapshot("a", "prod", json_pack("[o]", entry("a", v2, 9, 9)));

	(void)state;
	assert_true(snapshot_covers(both, one));
	assert_false(snapshot_covers(one, both));
	assert_true(snapshot_covers(both, both));
	both->needed_until_us--;
	assert_false(snapshot_covers(both, one));
	snapshot_unrefp(&both);
	snapshot_unrefp(&one);
}

/* ---- the verdict ---- */

struct world {
	struct key *key;
	struct snapshot *a, *b;
	struct snapshot *listed[3];
	struct snapshot_list list;
	struct usage_total usage;
	struct inventory_facts facts;
	size_t newest_count;
};

/* Version 1 is disabled, 2 the primary; two clusters, whose newest snapshots have 2 alone. */
static struct world *
world_new(void)
{
	struct world *w = calloc(1, sizeof(*w));
	struct key_version *v;

	w->key = key_new("a", NULL, NOW - 100 * DAY_US);
	for (int i = 0; i < 2; i++) {
		v = key_add_version(w->key);
		assert_int_equal(uuid_parse(i == 0 ? v1 : v2, &v->id), 0);
		v->state = i == 0 ? VERSION_DISABLED : VERSION_ENABLED;
	}
	w->key->primary = 2;
	w->key->previous = 1;
	w->key->activated_us = NOW - 2 * DAY_US;
	w->a = snapshot("a", "east", json_pack("[o]", entry("a", v2, 5, 5)));
	w->b = snapshot("b", "west", json_pack("[o]", entry("a", v2, 5, 5)));
	w->listed[0] = w->a;
	w->listed[1] = w->b;
	w->list = (struct snapshot_list){ w->listed, 2 };
	for (int i = 0; i < 2; i++) {
		w->listed[i]->taken_us = NOW - DAY_US;
		w->listed[i]->changed_us = NOW - DAY_US + 60 * S_US;
	}
	w->usage.last_wrapped_us = NOW - 2 * DAY_US;
	w->facts = (struct inventory_facts){ .key = w->key,
		.version = &w->key->versions[0],
		.usage = &w->usage,
		.usage_complete = true,
		.now_us = NOW,
		.seen_s = w->a->seen_s + 86400 - 60 };
	return w;
}

static void
world_free(struct world *w)
{
	snapshot_unrefp(&w->a);
	snapshot_unrefp(&w->b);
	snapshot_unrefp(&w->listed[2]);
	key_unrefp(&w->key);
	free(w);
}

typedef void break_fn(struct world *w);

static void
no_evidence(struct world *w)
{
	w->facts.usage_complete = false;
}

static void
is_primary(struct world *w)
{
	w->key->primary = 1;
}

static void
is_staged(struct world *w)
{
	w->key->versions[0].state = VERSION_STAGED;
}

static void
is_destroying(struct world *w)
{
	w->key->versions[0].state = VERSION_DESTROYING;
}

static void
none_registered(struct world *w)
{
	w->list.count = 0;
}

static void
incomplete(struct world *w)
{
	w->b->complete = false;
}

static void
too_old(struct world *w)
{
	w->a->taken_us = NOW - INVENTORY_AGE_MAX_US - 1;
	w->usage.last_wrapped_us = w->key->activated_us = NOW - 50 * DAY_US;
}

static void
not_yet_taken(struct world *w)
{
	w->a->taken_us = NOW + SNAPSHOT_AHEAD_US + 1;
}

static void
before_the_last_wrap(struct world *w)
{
	w->usage.last_wrapped_us = w->a->taken_us + 1;
}

static void
just_after_the_last_wrap(struct world *w)
{
	w->usage.last_wrapped_us = w->a->taken_us - INVENTORY_LATE_US + 1;
}

static void
just_after_the_rotation(struct world *w)
{
	w->key->activated_us = w->b->taken_us - INVENTORY_LATE_US + 1;
}

/* Its host's clock is ahead: when it was registered counts. */
static void
registered_too_soon(struct world *w)
{
	w->key->activated_us = NOW - DAY_US;
	w->a->taken_us = w->b->taken_us = NOW;
	w->a->changed_us = NOW - DAY_US + INVENTORY_LATE_US - 1;
	w->b->changed_us = NOW;
}

static void
put_entry(struct snapshot *s, int live, int superseded)
{
	assert_int_equal(uuid_parse(v1, &s->versions[0].id), 0);
	s->versions[0].live = (uint64_t)live;
	s->versions[0].superseded = (uint64_t)superseded;
}

static void
one_live_value(struct world *w)
{
	put_entry(w->b, 1, 0);
}

static void
one_superseded_value(struct world *w)
{
	put_entry(w->a, 0, 1);
}

static void
no_inventory_of_the_key(struct world *w)
{
	w->a->versions[0].key = w->b->versions[0].key = "another";
}

/* What is in etcd since version 2 was made is in none of them. */
static void
only_an_earlier_version(struct world *w)
{
	w->key->primary = 0;
	w->facts.version = &w->key->versions[1];
	for (int i = 0; i < 2; i++)
		put_entry(w->listed[i], 1, 0);
}

static void
etcd_went_back(struct world *w)
{
	w->listed[2] = snapshot("c", "east", json_array());
	w->listed[2]->taken_us = w->a->taken_us - DAY_US;
	w->listed[2]->etcd_revision = w->a->etcd_revision + 1;
	w->list.count = 3;
}

/* An hour more was counted than the clock tells. */
static void
clock_was_set_back(struct world *w)
{
	w->facts.seen_s += 3600;
}

/* The same file once more, said to be of a later time. */
static void
etcd_stood_still(struct world *w)
{
	w->listed[2] = snapshot("c", "east", json_array());
	w->listed[2]->taken_us = w->a->taken_us - INVENTORY_LATE_US - 1;
	w->list.count = 3;
}

static const struct {
	break_fn *with;
	const char *why; /* a part of it */
} breaks[] = {
	{ no_evidence, "evidence" },
	{ is_primary, "primary" },
	{ is_staged, "staged" },
	{ is_destroying, "destroying" },
	{ none_registered, "no snapshot is registered" },
	{ incomplete, "not complete" },
	{ too_old, "7 days" },
	{ not_yet_taken, "not yet" },
	{ before_the_last_wrap, "taken after" },
	{ just_after_the_last_wrap, "taken after" },
	{ just_after_the_rotation, "taken after" },
	{ registered_too_soon, "taken after" },
	{ one_live_value, "1 live" },
	{ one_superseded_value, "1 superseded" },
	{ no_inventory_of_the_key, "later version" },
	{ only_an_earlier_version, "later version" },
	{ etcd_went_back, "no further" },
	{ etcd_stood_still, "no further" },
	{ clock_was_set_back, "set back" },
};

static bool
is_clean(struct world *w, char why[INVENTORY_WHY_SIZE])
{
	struct snapshot_list list = { calloc(3, sizeof(struct snapshot *)), 0 };
	struct inventory i;
	bool clean;

	while (list.count < w->list.count) {
		list.s[list.count] = snapshot_ref(w->listed[list.count]);
		list.count++;
	}
	assert_int_equal(inventory_of(&list, w->key, &i), 0);
	clean = inventory_is_clean(&i, &w->facts, why);
	w->newest_count = i.newest_count;
	inventory_free(&i);
	return clean;
}

static void
clean_is_only_what_no_clause_is_against(void **state)
{
	char why[INVENTORY_WHY_SIZE] = "";
	struct world *w = world_new();

	(void)state;
	assert_true(is_clean(w, why));
	w->key->versions[0].state = VERSION_SCHEDULED;
	assert_true(is_clean(w, why));
	world_free(w);
	for (size_t i = 0; i < STR_COUNT(breaks); i++) {
		w = world_new();
		breaks[i].with(w);
		assert_false(is_clean(w, why));
		if (!strstr(why, breaks[i].why))
			fail_msg("%s: %s", breaks[i].why, why);
		world_free(w);
	}
}

static void
at_the_edges_it_is_clean(void **state)
{
	char why[INVENTORY_WHY_SIZE] = "";
	struct world *w = world_new();

	(void)state;
	w->usage.last_wrapped_us = w->key->activated_us = w->a->taken_us - INVENTORY_LATE_US;
	assert_true(is_clean(w, why));
	w->facts.now_us = w->a->taken_us + INVENTORY_AGE_MAX_US;
	assert_true(is_clean(w, why));
	world_free(w);
}

static void
after_a_rollback_the_primary_is_the_later_one(void **state)
{
	char why[INVENTORY_WHY_SIZE] = "";
	struct world *w = world_new();

	(void)state;
	w->key->primary = 1;
	w->key->versions[0].state = VERSION_ENABLED;
	w->key->versions[1].state = VERSION_DISABLED;
	w->facts.version = &w->key->versions[1];
	assert_false(is_clean(w, why));
	for (int i = 0; i < 2; i++)
		put_entry(w->listed[i], 1, 0);
	assert_true(is_clean(w, why));
	world_free(w);
}

static void
of_each_cluster_the_newest_counts_alone(void **state)
{
	struct snapshot *old = snapshot("c", "east", json_pack("[o]", entry("a", v1, 5, 5)));
	char why[INVENTORY_WHY_SIZE] = "";
	struct world *w = world_new();

	(void)state;
	w->listed[2] = old;
	w->list.count = 3;
	old->taken_us = w->a->taken_us - 1;
	assert_true(is_clean(w, why));
	assert_int_equal(w->newest_count, 2);
	/* Of two taken at once the last by id: one cluster has one newest. */
	old->taken_us = w->a->taken_us;
	assert_false(is_clean(w, why));
	assert_int_equal(w->newest_count, 2);
	world_free(w);
}

/* ---- need and evidence ---- */

static void
the_backup_that_is_kept_longest_is_named(void **state)
{
	struct world *w = world_new();
	const struct uuid *id = &w->key->versions[1].id;

	(void)state;
	assert_null(inventory_needed_by(&w->list, &w->key->versions[0].id, NOW, 1000));
	w->b->needed_until_us += DAY_US;
	assert_ptr_equal(inventory_needed_by(&w->list, id, NOW, 1000), w->b);
	w->b->needed_until_us -= 2 * DAY_US;
	assert_ptr_equal(inventory_needed_by(&w->list, id, NOW, 1000), w->a);
	assert_null(inventory_needed_by(&w->list, id, NOW + 1000 * DAY_US, 1u << 30));
	world_free(w);
}

static void
evidence_is_of_the_backups_that_have_the_version(void **state)
{
	static const char usage[USAGE_EVIDENCE_SIZE] =
		"bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
	char none[USAGE_EVIDENCE_SIZE], one[USAGE_EVIDENCE_SIZE], other[USAGE_EVIDENCE_SIZE];
	struct world *w = world_new();
	const struct uuid *id = &w->key->versions[1].id;

	(void)state;
	assert_int_equal(inventory_evidence(&w->list, &w->key->versions[0].id, usage, none), 0);
	assert_string_equal(none, usage);
	assert_int_equal(inventory_evidence(&w->list, id, usage, one), 0);
	assert_string_not_equal(one, usage);
	assert_int_equal(inventory_evidence(&w->list, id, usage, other), 0);
	assert_string_equal(one, other);
	w->a->needed_until_us++;
	assert_int_equal(inventory_evidence(&w->list, id, usage, other), 0);
	assert_string_not_equal(one, other);
	w->a->needed_until_us--;
	w->list.count = 1;
	assert_int_equal(inventory_evidence(&w->list, id, usage, other), 0);
	assert_string_not_equal(one, other);
	world_free(w);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_record_comes_back_as_it_went),
		cmocka_unit_test(a_record_that_is_none_is_refused),
		cmocka_unit_test(the_table_is_sorted_and_pages),
		cmocka_unit_test(a_clock_that_is_ahead_ends_no_need),
		cmocka_unit_test(a_record_that_is_put_again_forgets_no_time),
		cmocka_unit_test(what_protects_less_is_told_from_what_does_not),
		cmocka_unit_test(clean_is_only_what_no_clause_is_against),
		cmocka_unit_test(at_the_edges_it_is_clean),
		cmocka_unit_test(after_a_rollback_the_primary_is_the_later_one),
		cmocka_unit_test(of_each_cluster_the_newest_counts_alone),
		cmocka_unit_test(the_backup_that_is_kept_longest_is_named),
		cmocka_unit_test(evidence_is_of_the_backups_that_have_the_version),
	};

	json_open();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
