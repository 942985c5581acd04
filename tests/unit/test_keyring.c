/* SPDX-License-Identifier: Apache-2.0 */
/* The key model, its record, which version wraps, and the keyring. */
#include "kekd/clock.h"
#include "kekd/err.h"
#include "kekd/keyring.h"
#include "kekd/nonce.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#define MANY 100000

static const char body_text[] =
	"{\"name\":\"demo\",\"algorithm\":\"aes256-gcm\",\"created\":\"2026-01-31T12:00:00."
	"000000Z\","
	"\"labels\":{\"team\":\"storage\"},\"primary\":2,\"activation\":2,"
	"\"activated\":\"2026-02-01T12:00:00.000000Z\",\"previous\":1,\"versions\":["
	"{\"version\":1,\"id\":\"00000000-0000-4000-8000-000000000001\","
	"\"object_id\":\"00000000000040008000000000000001\",\"token\":\"main\",\"state\":"
	"\"enabled\","
	"\"created\":\"2026-01-31T12:00:00.000000Z\",\"state_changed\":\"2026-01-31T12:00:00."
	"000001Z\","
	"\"attributes\":[\"sensitive\",\"local\"]},"
	"{\"version\":2,\"id\":\"00000000-0000-4000-8000-000000000002\","
	"\"object_id\":\"ab\",\"token\":\"main\",\"state\":\"enabled\","
	"\"created\":\"2026-02-01T11:00:00.000000Z\",\"state_changed\":\"2026-02-01T12:00:00."
	"000000Z\","
	"\"attributes\":[],\"canary\":{\"blob\":"
	"\"a2VrAQAAAAAAAEAAgAAAAAAAAAIBDAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
	"AAAAAAAAAAAAAAAAAAAAAA==\","
	"\"sha256\":\"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\"}},"
	"{\"version\":4,\"id\":\"00000000-0000-4000-8000-000000000004\","
	"\"object_id\":\"cd\",\"token\":\"other\",\"state\":\"staged\","
	"\"created\":\"2026-02-01T11:00:00.000000Z\",\"state_changed\":\"2026-02-01T11:00:00."
	"000000Z\","
	"\"attributes\":[]}]}";

static json_t *
sample_body(void)
{
	json_t *body = json_loads(body_text, 0, NULL);

	assert_non_null(body);
	return body;
}

static struct key *
sample_key(void)
{
	char error[JSON_ERROR_SIZE] = "";
	json_t *body = sample_body();
	struct key *k = NULL;

	if (key_from_json(body, 7, &k, error) < 0)
		fail_msg("%s", error);
	json_decref(body);
	return k;
}

static void
a_record_survives_the_way_to_memory_and_back(void **state)
{
	struct key *k = sample_key();
	json_t *before = sample_body(), *after = key_to_json(k);

	(void)state;
	assert_true(json_equal(before, after));
	assert_int_equal(k->commit, 7);
	assert_int_equal(k->versions_count, 3);
	assert_int_equal(k->versions[0].attributes, HSM_ATTR_SENSITIVE | HSM_ATTR_LOCAL);
	assert_int_equal(k->versions[1].object_id.len, 1);
	assert_int_equal(k->versions[1].object_id.b[0], 0xab);
	json_decref(before);
	json_decref(after);
	key_unrefp(&k);
}

static void
every_attribute_and_state_has_a_name_of_its_own(void **state)
{
	(void)state;
	for (unsigned bit = 1; bit <= HSM_ATTR_HELD; bit <<= 1)
		if (HSM_ATTR_HELD & bit)
			assert_non_null(key_attribute_name(bit));
	for (int s = VERSION_STAGED; s <= VERSION_ABANDONED; s++)
		assert_non_null(version_state_name((enum version_state)s));
	assert_null(version_state_name((enum version_state)(VERSION_ABANDONED + 1)));
	assert_null(key_attribute_name(3));
}

/* At path ("versions/0/id") in the sample the value, in JSON; NULL removes the member. */
struct fault {
	const char *path, *value;
};

static void
apply(json_t *body, const struct fault *f)
{
	char path[64], *part, *rest = path, *next;
	json_t *at = body, *value = f->value ? json_loads(f->value, JSON_DECODE_ANY, NULL) : NULL;

	snprintf(path, sizeof(path), "%s", f->path);
	for (part = strsep(&rest, "/"); rest; part = next) {
		at = json_is_array(at) ? json_array_get(at, (size_t)atoi(part))
				       : json_object_get(at, part);
		next = strsep(&rest, "/");
		if (!rest) {
			part = next;
			break;
		}
	}
	assert_non_null(at);
	if (value)
		json_object_set_new(at, part, value);
	else
		json_object_del(at, part);
}

static void
a_record_with_any_fault_is_refused_with_a_text(void **state)
{
	static const struct fault faults[] = {
		{ "name", NULL },
		{ "name", "\"Demo\"" },
		{ "extra", "1" },
		{ "algorithm", "\"des\"" },
		{ "created", "\"yesterday\"" },
		{ "labels", "[]" },
		{ "labels", "{\"a\":1}" },
		{ "labels", "{\"\":\"x\"}" },
		{ "primary", "3" },
		{ "primary", "4" },
		{ "primary", "-1" },
		{ "primary", "0" },
		{ "primary", "4294967298" },
		{ "previous", "9" },
		{ "activation", "0" },
		{ "activated", NULL },
		{ "versions", "{}" },
		{ "versions", "[1]" },
		{ "versions/0/extra", "true" },
		{ "versions/0/version", "0" },
		{ "versions/0/version", "2" },
		{ "versions/0/id", "\"x\"" },
		{ "versions/0/id", "\"00000000-0000-4000-8000-000000000002\"" },
		{ "versions/0/object_id", "\"\"" },
		{ "versions/0/object_id", "\"abc\"" },
		{ "versions/0/object_id", "\"AB\"" },
		{ "versions/0/object_id", "\"ab\"" },
		{ "versions/0/token", "\"/\"" },
		{ "versions/0/state", "\"asleep\"" },
		{ "versions/0/created", "\"x\"" },
		{ "versions/0/attributes", "[\"strong\"]" },
		{ "versions/0/attributes", "[\"local\",\"local\"]" },
		{ "versions/0/attributes", "[1]" },
		{ "versions/1/canary", "{}" },
		{ "versions/1/canary/blob", "\"AAAA\"" },
		{ "versions/1/canary/blob", "\"x\"" },
		{ "versions/1/canary/sha256", "\"00\"" },
		{ "versions/1/canary/sha256", NULL },
		{ "versions/1/id", "\"00000000-0000-4000-8000-000000000003\"" },
	};

	(void)state;
	for (size_t i = 0; i < STR_COUNT(faults); i++) {
		char error[JSON_ERROR_SIZE] = "";
		json_t *body = sample_body();
		struct key *k = NULL;
		apply(body, &faults[i]);
		if (key_from_json(body, 1, &k, error) != KEKD_EINVALID || k || !error[0])
			fail_msg("taken: %s = %s", faults[i].path,
				faults[i].value ? faults[i].value : "(absent)");
		json_decref(body);
	}
}

static void
states_change_only_along_the_table(void **state)
{
	static const enum version_state allowed[][2] = {
		{ VERSION_STAGED, VERSION_ENABLED },
		{ VERSION_STAGED, VERSION_ABANDONED },
		{ VERSION_ENABLED, VERSION_DISABLED },
		{ VERSION_DISABLED, VERSION_ENABLED },
		{ VERSION_DISABLED, VERSION_SCHEDULED },
		{ VERSION_SCHEDULED, VERSION_DISABLED },
		{ VERSION_SCHEDULED, VERSION_DESTROYING },
		{ VERSION_DESTROYING, VERSION_DESTROYED },
	};
	size_t found = 0;

	(void)state;
	for (int a = VERSION_STAGED; a <= VERSION_ABANDONED; a++)
		for (int b = VERSION_STAGED; b <= VERSION_ABANDONED; b++)
			found += version_state_allows((enum version_state)a, (enum version_state)b);
	assert_int_equal(found, STR_COUNT(allowed));
	for (size_t i = 0; i < STR_COUNT(allowed); i++)
		assert_true(version_state_allows(allowed[i][0], allowed[i][1]));
}

static void
the_primary_wraps_and_the_previous_one_for_ten_minutes_more(void **state)
{
	struct key *k = sample_key();
	struct key_version *v = NULL;
	struct uuid foreign = { { 9 } };
	uint64_t now = k->activated_us + KEY_PREVIOUS_WRAP_US - 1;

	(void)state;
	assert_int_equal(key_choose_wrap(k, NULL, now, &v), 0);
	assert_int_equal(v->number, 2);
	assert_int_equal(key_choose_wrap(k, &k->versions[1].id, now, &v), 0);
	assert_int_equal(v->number, 2);
	assert_int_equal(key_choose_wrap(k, &k->versions[0].id, now, &v), 0);
	assert_int_equal(v->number, 1);
	v = NULL;
	assert_int_equal(key_choose_wrap(k, &k->versions[0].id, now + 1, &v), KEKD_ENOTPRIMARY);
	assert_int_equal(key_choose_wrap(k, &k->versions[2].id, now, &v), KEKD_ENOTPRIMARY);
	assert_int_equal(key_choose_wrap(k, &foreign, now, &v), KEKD_ENOVERSION);
	k->versions[0].state = VERSION_DISABLED;
	assert_int_equal(key_choose_wrap(k, &k->versions[0].id, now, &v), KEKD_EDISABLED);
	k->versions[1].state = VERSION_DISABLED;
	assert_int_equal(key_choose_wrap(k, NULL, now, &v), KEKD_EDISABLED);
	k->primary = 0;
	assert_int_equal(key_choose_wrap(k, NULL, now, &v), KEKD_ESTATE);
	assert_null(v);
	key_unrefp(&k);
}

static void
the_kms_key_id_names_version_and_activation(void **state)
{
	struct key *k = sample_key(), *none = key_new("x", NULL, 1);
	char id[KMS_KEY_ID_SIZE];

	(void)state;
	key_kms_key_id(k, id);
	assert_string_equal(id, "00000000-0000-4000-8000-000000000002.2");
	k->activation = UINT64_MAX;
	key_kms_key_id(k, id);
	assert_string_equal(id, "00000000-0000-4000-8000-000000000002.18446744073709551615");
	key_kms_key_id(none, id);
	assert_string_equal(id, "");
	key_unrefp(&k);
	key_unrefp(&none);
}

static void
a_copy_can_be_changed_without_the_original(void **state)
{
	struct key *k = sample_key(), *copy = key_copy(k);
	json_t *before = key_to_json(k), *after;

	(void)state;
	assert_non_null(copy);
	assert_int_equal(key_add_version(copy)->number, 5);
	copy->versions[0].state = VERSION_DISABLED;
	json_object_set_new(copy->labels, "more", json_string("x"));
	after = key_to_json(k);
	assert_true(json_equal(before, after));
	while (copy->versions_count < KEY_VERSIONS_MAX)
		assert_non_null(key_add_version(copy));
	assert_null(key_add_version(copy));
	json_decref(before);
	json_decref(after);
	key_unrefp(&k);
	key_unrefp(&copy);
}

static void
a_reader_keeps_its_record_while_it_is_replaced(void **state)
{
	struct keyring *r = NULL;
	struct key *k, *old, *found;

	(void)state;
	assert_int_equal(keyring_open(&r), 0);
	assert_null(keyring_find(r, "demo"));
	assert_int_equal(keyring_publish(r, sample_key()), 0);
	old = keyring_find(r, "demo");
	k = key_copy(old);
	k->commit = 8;
	assert_int_equal(keyring_publish(r, k), 0);
	found = keyring_find(r, "demo");
	assert_int_equal(found->commit, 8);
	assert_int_equal(old->commit, 7);
	assert_int_equal(keyring_count(r), 1);
	key_unrefp(&found);
	key_unrefp(&old);
	keyring_freep(&r);
}

static void
a_version_has_one_nonce_block_in_every_generation(void **state)
{
	struct keyring *r = NULL;
	struct key *first, *second;

	(void)state;
	assert_int_equal(keyring_open(&r), 0);
	assert_int_equal(keyring_publish(r, sample_key()), 0);
	first = keyring_find(r, "demo");
	/* Parsed anew, as a change by another program is. */
	assert_int_equal(keyring_publish(r, sample_key()), 0);
	second = keyring_find(r, "demo");
	assert_ptr_not_equal(first, second);
	for (size_t i = 0; i < first->versions_count; i++) {
		assert_non_null(first->versions[i].nonces);
		assert_ptr_equal(first->versions[i].nonces, second->versions[i].nonces);
	}
	assert_ptr_not_equal(first->versions[0].nonces, first->versions[1].nonces);
	key_unrefp(&first);
	key_unrefp(&second);
	keyring_freep(&r);
}

static void
a_refused_record_is_marked_and_can_be_good_again(void **state)
{
	struct keyring *r = NULL;
	struct key *k;

	(void)state;
	assert_int_equal(keyring_open(&r), 0);
	keyring_mark_refused(r, "demo", true);
	assert_int_equal(keyring_publish(r, sample_key()), 0);
	keyring_mark_refused(r, "demo", true);
	k = keyring_find(r, "demo");
	assert_true(k->refused);
	assert_int_equal(k->versions_count, 3);
	key_unrefp(&k);
	keyring_mark_refused(r, "demo", false);
	k = keyring_find(r, "demo");
	assert_false(k->refused);
	key_unrefp(&k);
	keyring_freep(&r);
}

static void
objects_are_known_by_token_and_id_while_a_version_has_them(void **state)
{
	struct keyring *r = NULL;
	struct object_id ab = { 1, { 0xab } }, cd = { 1, { 0xcd } };
	struct key *k;

	(void)state;
	assert_int_equal(keyring_open(&r), 0);
	assert_false(keyring_knows_object(r, "main", &ab));
	assert_int_equal(keyring_publish(r, sample_key()), 0);
	assert_true(keyring_knows_object(r, "main", &ab));
	assert_false(keyring_knows_object(r, "other", &ab));
	assert_true(keyring_knows_object(r, "other", &cd));
	k = sample_key();
	k->versions_count = 2;
	assert_int_equal(keyring_publish(r, k), 0);
	assert_true(keyring_knows_object(r, "main", &ab));
	assert_false(keyring_knows_object(r, "other", &cd));
	keyring_freep(&r);
}

static struct key *
numbered_key(unsigned i)
{
	char name[STR_NAME_MAX + 1];
	struct key_version *v;
	struct key *k;

	snprintf(name, sizeof(name), "key-%06u", i);
	k = key_new(name, NULL, 1);
	v = key_add_version(k);
	memcpy(v->id.b, &i, sizeof(i));
	v->object_id.len = 16;
	memcpy(v->object_id.b, v->id.b, 16);
	strcpy(v->token, "main");
	return k;
}

static void
listing_is_sorted_and_paged_whatever_the_order_of_coming(void **state)
{
	struct keyring *r = NULL;
	struct key *page[10];
	char after[STR_NAME_MAX + 1] = "";
	unsigned seen = 0;
	size_t n;

	(void)state;
	assert_int_equal(keyring_open(&r), 0);
	for (unsigned i = 0; i < 997; i++)
		assert_int_equal(keyring_publish(r, numbered_key(i * 331 % 997)), 0);
	while ((n = keyring_list(r, seen ? after : NULL, 10, page)) > 0)
		for (size_t i = 0; i < n; i++) {
			assert_true(strcmp(after, page[i]->name) < 0);
			strcpy(after, page[i]->name);
			key_unrefp(&page[i]);
			seen++;
		}
	assert_int_equal(seen, 997);
	assert_int_equal(keyring_list(r, "key-000500x", 1, page), 1);
	assert_string_equal(page[0]->name, "key-000501");
	key_unrefp(&page[0]);
	keyring_freep(&r);
}

static void
a_summary_tells_of_all_keys_and_names_the_first_few(void **state)
{
	static struct keyring_summary s;
	struct keyring *r = NULL;

	(void)state;
	assert_int_equal(keyring_open(&r), 0);
	keyring_summarise(r, &s);
	assert_int_equal(s.oldest_primary_us, 0);
	assert_int_equal(s.nonces_left, NONCE_MAX);
	for (unsigned i = 0; i < 600; i++) {
		struct key *k = numbered_key(i);
		struct key_version *v = &k->versions[0];
		v->state = i % 2 ? VERSION_ENABLED : VERSION_DISABLED;
		k->primary = i == 7 ? 0 : v->number;
		v->created_us = i == 555 ? 1000 : 5000 + i;
		v->state_changed_us = i == 300 ? 9000 : 2000;
		assert_int_equal(keyring_publish(r, k), 0);
		if (i == 444)
			nonce_note(v->nonces, NONCE_MAX - 17, 8000);
		if (i == 7) /* not a primary: it wraps nothing */
			nonce_note(v->nonces, NONCE_MAX, 0);
	}
	keyring_summarise(r, &s);
	assert_int_equal(s.versions[VERSION_ENABLED], 300);
	assert_int_equal(s.versions[VERSION_DISABLED], 300);
	assert_int_equal(s.oldest_primary_us, 1000);
	assert_int_equal(s.newest_us, 9000);
	assert_int_equal(s.nonces_left, 17);
	assert_int_equal(s.keys_count, KEYRING_SUMMARY_KEYS);
	assert_string_equal(s.keys[0].name, "key-000000");
	assert_string_equal(s.keys[7].name, "key-000008");
	assert_int_equal(s.keys[7].created_us, 5008);
	assert_int_equal(s.keys[7].nonces_left, NONCE_MAX);
	keyring_freep(&r);
}

/* What a thousand changes, or pages, cost: the best of a few rounds. */
static uint64_t
cost_of_changes(struct keyring *r, unsigned keys)
{
	uint64_t best = UINT64_MAX;

	for (int round = 0; round < 5; round++) {
		uint64_t start = clock_boot_ns(), cost;
		for (unsigned i = 0; i < 1000; i++)
			assert_int_equal(keyring_publish(r, numbered_key(i * 31 % keys)), 0);
		cost = clock_boot_ns() - start;
		best = cost < best ? cost : best;
	}
	return best;
}

static uint64_t
cost_of_pages(struct keyring *r)
{
	uint64_t best = UINT64_MAX;
	struct key *page[100];

	for (int round = 0; round < 5; round++) {
		uint64_t start = clock_boot_ns(), cost;
		for (int i = 0; i < 1000; i++) {
			assert_int_equal(keyring_list(r, "key-000500", 100, page), 100);
			for (int j = 0; j < 100; j++)
				key_unrefp(&page[j]);
		}
		cost = clock_boot_ns() - start;
		best = cost < best ? cost : best;
	}
	return best;
}

/* A change or page that looked at every key would cost a hundred times as much. */
static void
with_100_times_the_keys_a_change_and_a_page_do_not_cost_30_times_as_much(void **state)
{
	struct keyring *r = NULL;
	struct key *k;
	struct object_id id = { .len = 16 };
	unsigned last = MANY - 1;
	uint64_t change, page;

	(void)state;
	assert_int_equal(keyring_open(&r), 0);
	for (unsigned i = 0; i < MANY / 100; i++)
		assert_int_equal(keyring_publish(r, numbered_key(i)), 0);
	change = cost_of_changes(r, MANY / 100);
	page = cost_of_pages(r);
	for (unsigned i = MANY / 100; i < MANY; i++)
		assert_int_equal(keyring_publish(r, numbered_key(i)), 0);
	assert_int_equal(keyring_count(r), MANY);
	assert_true(cost_of_changes(r, MANY) < 30 * change);
	assert_true(cost_of_pages(r) < 30 * page);
	k = keyring_find(r, "key-099999");
	assert_non_null(k);
	key_unrefp(&k);
	memcpy(id.b, &last, sizeof(last));
	assert_true(keyring_knows_object(r, "main", &id));
	keyring_freep(&r);
}

struct crowd {
	struct keyring *r;
	atomic_bool stop;
	atomic_uint wrong;
};

static void *
read_all_the_time(void *user)
{
	struct crowd *c = user;
	struct key *page[20];

	while (!atomic_load(&c->stop)) {
		struct key *k = keyring_find(c->r, "key-000003");
		if (!k || k->versions_count != 1 || k->versions[0].nonces == NULL)
			atomic_fetch_add(&c->wrong, 1);
		key_unrefp(&k);
		for (size_t n = keyring_list(c->r, NULL, 20, page); n > 0; n--)
			key_unrefp(&page[n - 1]);
	}
	return NULL;
}

static void
readers_see_whole_records_while_they_are_replaced(void **state)
{
	struct crowd c = { 0 };
	pthread_t threads[3];

	(void)state;
	assert_int_equal(keyring_open(&c.r), 0);
	for (unsigned i = 0; i < 10; i++)
		assert_int_equal(keyring_publish(c.r, numbered_key(i)), 0);
	for (int i = 0; i < 3; i++)
		pthread_create(&threads[i], NULL, read_all_the_time, &c);
	for (unsigned i = 0; i < 5000; i++)
		assert_int_equal(keyring_publish(c.r, numbered_key(i % 300)), 0);
	atomic_store(&c.stop, true);
	for (int i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(atomic_load(&c.wrong), 0);
	keyring_freep(&c.r);
}

struct seen {
	unsigned calls;
	const struct key *before, *now;
};

static void
see(struct key *before, struct key *now, void *user)
{
	struct seen *s = user;

	*s = (struct seen){ s->calls + 1, before, now };
}

static void
an_observer_is_told_what_took_the_place_of_what(void **state)
{
	struct keyring *r;
	struct seen s = { 0 };
	struct key *first = numbered_key(1), *second = numbered_key(1);

	(void)state;
	assert_int_equal(keyring_open(&r), 0);
	keyring_observe(r, see, &s);
	assert_int_equal(keyring_publish(r, first), 0);
	assert_int_equal(s.calls, 1);
	assert_null(s.before);
	assert_ptr_equal(s.now, first);
	assert_int_equal(keyring_publish(r, second), 0);
	assert_int_equal(s.calls, 2);
	assert_ptr_equal(s.before, first);
	assert_ptr_equal(s.now, second);
	keyring_observe(r, NULL, NULL);
	assert_int_equal(keyring_publish(r, numbered_key(1)), 0);
	assert_int_equal(s.calls, 2);
	keyring_freep(&r);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_record_survives_the_way_to_memory_and_back),
		cmocka_unit_test(every_attribute_and_state_has_a_name_of_its_own),
		cmocka_unit_test(a_record_with_any_fault_is_refused_with_a_text),
		cmocka_unit_test(states_change_only_along_the_table),
		cmocka_unit_test(the_primary_wraps_and_the_previous_one_for_ten_minutes_more),
		cmocka_unit_test(the_kms_key_id_names_version_and_activation),
		cmocka_unit_test(a_copy_can_be_changed_without_the_original),
		cmocka_unit_test(a_reader_keeps_its_record_while_it_is_replaced),
		cmocka_unit_test(a_version_has_one_nonce_block_in_every_generation),
		cmocka_unit_test(a_refused_record_is_marked_and_can_be_good_again),
		cmocka_unit_test(objects_are_known_by_token_and_id_while_a_version_has_them),
		cmocka_unit_test(listing_is_sorted_and_paged_whatever_the_order_of_coming),
		cmocka_unit_test(a_summary_tells_of_all_keys_and_names_the_first_few),
		cmocka_unit_test(
			with_100_times_the_keys_a_change_and_a_page_do_not_cost_30_times_as_much),
		cmocka_unit_test(an_observer_is_told_what_took_the_place_of_what),
		cmocka_unit_test(readers_see_whole_records_while_they_are_replaced),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
