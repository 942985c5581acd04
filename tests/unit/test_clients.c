/* SPDX-License-Identifier: Apache-2.0 */
/* Client records: what they may say, whom they fit, and what they allow. */
#include "kekd/access.h"

#include "kekd/err.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/un.h>

#include <cmocka.h>

static json_t *
parse(const char *text)
{
	char error[JSON_ERROR_SIZE] = "";
	json_t *body = json_parse(text, strlen(text), error);

	if (!body)
		fail_msg("%s: %s", text, error);
	return body;
}

static struct client *
client(const char *name, const char *text)
{
	_cleanup_(json_freep) json_t *body = parse(text);
	char error[JSON_ERROR_SIZE] = "";
	struct client *c = NULL;

	if (client_from_json(name, body, 7, &c, error) != 0)
		fail_msg("%s", error);
	return c;
}

static void
refused(const char *text, int err, const char *says)
{
	_cleanup_(json_freep) json_t *body = parse(text);
	char error[JSON_ERROR_SIZE] = "";
	struct client *c = NULL;

	assert_int_equal(client_from_json("app", body, 7, &c, error), err);
	assert_null(c);
	if (!strstr(error, says))
		fail_msg("\"%s\" does not say \"%s\"", error, says);
}

static void
operations_have_names_both_ways(void **state)
{
	(void)state;
	for (int op = 0; op < ACCESS_OPERATIONS_COUNT; op++)
		assert_int_equal(access_operation_find(access_operation_name(op)), op);
	assert_int_equal(access_operation_find("Wrap"), -ENOENT);
	assert_int_equal(access_operation_find("none"), -ENOENT);
	assert_string_equal(access_operation_name(ACCESS_NONE), "none");
}

static void
a_record_comes_back_as_it_was_given(void **state)
{
	static const char text[] =
		"{\"name\":\"app\",\"identities\":[\"uri:spiffe://x/a\",\"cn:Mr \xc3\x9c\"],"
		"\"addresses\":[\"10.0.0.0/8\",\"::1\"],"
		"\"grants\":[{\"keys\":\"k8s-*\",\"operations\":[\"wrap\",\"unwrap\"]}],"
		"\"limits\":{\"requests_per_s\":5,\"in_flight\":2}}";
	struct client *c = client("app", text);
	_cleanup_(json_freep) json_t *again = client_to_json(c), *body = parse(text);

	(void)state;
	assert_true(json_equal(again, body));
	assert_int_equal(c->commit, 7);
	assert_int_equal(c->requests_per_s, 5);
	client_unrefp(&c);
	c = client("app", "{\"identities\":[\"dns:a\"]}");
	assert_int_equal(c->grants_count, 0);
	client_unrefp(&c);
}

static void
a_wrong_member_is_refused_and_named(void **state)
{
	(void)state;
	refused("{}", KEKD_EINVALID, "\"identities\" is missing");
	refused("{\"identities\":[],\"x\":1}", KEKD_EMEMBER, "\"x\" is not known");
	refused("{\"identities\":[]}", KEKD_EINVALID, "\"identities\" must have at least one");
	refused("{\"identities\":[1]}", KEKD_EINVALID, "\"identities\"[0] must be a string");
	refused("{\"identities\":[\"a:b\"]}", KEKD_EINVALID, "must start with uri:, dns:");
	refused("{\"identities\":[\"uri:\"]}", KEKD_EINVALID,
		"\"identities\"[0] has nothing after");
	refused("{\"identities\":[\"unverified:uri:x\"]}", KEKD_EINVALID, "must start with");
	refused("{\"identities\":[\"uri:a b\"]}", KEKD_EINVALID, "has a space");
	refused("{\"identities\":[\"cn:a\\u0001\"]}", KEKD_EINVALID, "control character");
	refused("{\"identities\":[\"dns:A.b\"]}", KEKD_EINVALID, "lower case");
	refused("{\"identities\":[\"spki:00\"]}", KEKD_EINVALID, "64 lower-case hex");
	refused("{\"identities\":[\"dns:a\",\"dns:a\"]}", KEKD_EINVALID, "[1] is given twice");
	refused("{\"identities\":[\"dns:a\"],\"name\":\"other\"}", KEKD_EINVALID,
		"\"name\" differs");
	refused("{\"identities\":[\"dns:a\"],\"limits\":{\"in_flight\":-1}}", KEKD_EINVALID,
		"\"limits\": member \"in_flight\"");
	refused("{\"identities\":[\"dns:a\"],\"limits\":{\"in_flight\":1000001}}", KEKD_EINVALID,
		"\"limits\" has a number above");
}

static void
a_wrong_grant_is_refused_and_named(void **state)
{
	(void)state;
	refused("{\"identities\":[\"dns:a\"],\"grants\":[{\"keys\":\"*\"}]}", KEKD_EINVALID,
		"\"grants\"[0]: member \"operations\" is missing");
	refused("{\"identities\":[\"dns:a\"],\"grants\":[{\"keys\":\"*\",\"operations\":[]}]}",
		KEKD_EINVALID, "\"operations\" must have at least one");
	refused("{\"identities\":[\"dns:a\"],\"grants\":[{\"keys\":\"*\",\"operations\":[\"x\"]}]}",
		KEKD_EINVALID, "\"grants\"[0].\"operations\"[0] is not an operation");
	refused("{\"identities\":[\"dns:a\"],\"grants\":[{\"keys\":\"*\",\"operations\":[\"wrap\","
		"\"wrap\"]}]}",
		KEKD_EINVALID, "has \"wrap\" twice");
	refused("{\"identities\":[\"dns:a\"],\"grants\":[{\"keys\":\"K\",\"operations\":[\"wrap\"]}"
		"]}",
		KEKD_EINVALID, "\"grants\"[0].\"keys\" must be");
	refused("{\"identities\":[\"dns:a\"],\"grants\":[{\"keys\":\"\",\"operations\":[\"wrap\"]}]"
		"}",
		KEKD_EINVALID, "\"grants\"[0].\"keys\" must be");
	refused("{\"identities\":[\"dns:a\"],\"grants\":[1]}", KEKD_EINVALID,
		"\"grants\"[0]: an object is needed");
}

static void
a_name_outside_the_pattern_is_refused(void **state)
{
	_cleanup_(json_freep) json_t *body = parse("{\"identities\":[\"dns:a\"]}");
	char error[JSON_ERROR_SIZE];
	struct client *c = NULL;

	(void)state;
	assert_int_equal(client_from_json("App", body, 0, &c, error), KEKD_ENAME);
	assert_int_equal(client_from_json("", body, 0, &c, error), KEKD_ENAME);
}

static void
an_identity_has_at_most_511_bytes(void **state)
{
	char text[600], name[520];

	(void)state;
	memset(name, 'a', sizeof(name));
	name[512 - 4] = '\0';
	snprintf(text, sizeof(text), "{\"identities\":[\"dns:%s\"]}", name);
	refused(text, KEKD_EINVALID, "more than 511 bytes");
}

static bool
allowed(const struct client *c, const char *address)
{
	struct sockaddr_in v4 = { .sin_family = AF_INET };
	struct sockaddr_in6 v6 = { .sin6_family = AF_INET6 };

	if (inet_pton(AF_INET, address, &v4.sin_addr) == 1)
		return client_address_allowed(c, (struct sockaddr *)&v4);
	assert_int_equal(inet_pton(AF_INET6, address, &v6.sin6_addr), 1);
	return client_address_allowed(c, (struct sockaddr *)&v6);
}

static void
addresses_and_networks_of_both_families_match(void **state)
{
	static const struct {
		const char *network, *inside, *outside;
	} rows[] = {
		{ "10.0.0.0/8", "10.255.0.1", "11.0.0.1" },
		{ "10.0.0.0/8", "::ffff:10.1.2.3", "::10.1.2.3" },
		{ "192.0.2.128/25", "192.0.2.200", "192.0.2.127" },
		{ "192.0.2.1", "192.0.2.1", "192.0.2.2" },
		{ "192.0.2.1/32", "::ffff:192.0.2.1", "::1" },
		{ "0.0.0.0/0", "203.0.113.9", "2001:db8::1" },
		{ "2001:db8::/33", "2001:db8:7fff::1", "2001:db8:8000::1" },
		{ "::1/128", "::1", "::2" },
		{ "::ffff:10.0.0.0/104", "10.9.9.9", "11.0.0.0" },
		{ "2001:db8::/32", "2001:db8:ffff::", "10.0.0.1" },
	};

	(void)state;
	for (size_t i = 0; i < STR_COUNT(rows); i++) {
		char text[200];
		struct client *c;
		snprintf(text, sizeof(text), "{\"identities\":[\"dns:a\"],\"addresses\":[\"%s\"]}",
			rows[i].network);
		c = client("app", text);
		assert_true(allowed(c, rows[i].inside));
		assert_false(allowed(c, rows[i].outside));
		client_unrefp(&c);
	}
}

static void
without_addresses_any_is_allowed_and_with_some_no_other_family(void **state)
{
	struct client *any = client("app", "{\"identities\":[\"dns:a\"]}");
	struct client *some = client(
		"app", "{\"identities\":[\"dns:a\"],\"addresses\":[\"::/0\"]}");
	struct sockaddr_un local = { .sun_family = AF_UNIX };

	(void)state;
	assert_true(allowed(any, "192.0.2.1"));
	assert_true(client_address_allowed(any, (struct sockaddr *)&local));
	assert_false(client_address_allowed(some, (struct sockaddr *)&local));
	client_unrefp(&any);
	client_unrefp(&some);
}

static void
what_is_no_address_is_refused(void **state)
{
	static const char *const wrong[] = { "", "10", "10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/",
		"10.0.0.0/08", "10.0.0.0/-1", "::1/129", "::1/64", "localhost", "10.0.0.0/8/8",
		"fe80::1%eth0", "1.2.3.4.5.6.7.8.9.10.11.12.13.14.15.16.17.18.19.20/8" };

	(void)state;
	for (size_t i = 0; i < STR_COUNT(wrong); i++) {
		char text[200];
		snprintf(text, sizeof(text), "{\"identities\":[\"dns:a\"],\"addresses\":[\"%s\"]}",
			wrong[i]);
		refused(text, KEKD_EINVALID, "\"addresses\"[0] must be");
	}
}

static void
only_what_a_grant_covers_is_allowed(void **state)
{
	struct client *c = client("app",
		"{\"identities\":[\"dns:a\"],\"grants\":["
		"{\"keys\":\"k8s-*\",\"operations\":[\"wrap\",\"unwrap\",\"client.read\"]},"
		"{\"keys\":\"demo\",\"operations\":[\"key.read\"]},"
		"{\"keys\":\"*\",\"operations\":[\"status.read\"]}]}");

	(void)state;
	assert_int_equal(client_authorise(c, ACCESS_WRAP, "k8s-a"), 0);
	assert_int_equal(client_authorise(c, ACCESS_WRAP, "demo"), KEKD_EFORBIDDEN);
	assert_int_equal(client_authorise(c, ACCESS_KEY_READ, "demo"), 0);
	assert_int_equal(client_authorise(c, ACCESS_KEY_READ, "demo2"), KEKD_EFORBIDDEN);
	assert_int_equal(client_authorise(c, ACCESS_KEY_READ, "k8s-a"), KEKD_EFORBIDDEN);
	assert_int_equal(client_authorise(c, ACCESS_STATUS_READ, NULL), 0);
	/* Names no key, and its grant does not reach all of them. */
	assert_int_equal(client_authorise(c, ACCESS_CLIENT_READ, NULL), KEKD_EFORBIDDEN);
	assert_int_equal(client_authorise(c, ACCESS_WRAP, NULL), KEKD_EFORBIDDEN);
	assert_int_equal(client_authorise(c, ACCESS_NONE, NULL), 0);
	assert_true(client_has(c, ACCESS_CLIENT_READ));
	assert_false(client_has(c, ACCESS_GENERATE));
	assert_false(client_is_privileged(c));
	client_unrefp(&c);
}

static void
an_administrator_may_all_but_use_keys(void **state)
{
	static const enum access_operation data[] = { ACCESS_WRAP, ACCESS_UNWRAP, ACCESS_GENERATE,
		ACCESS_REWRAP };
	_cleanup_(json_freep) json_t *identities = parse("[\"uri:spiffe://x/admin\"]");
	_cleanup_(json_freep) json_t *body = client_admin_body("admin", identities);
	char error[JSON_ERROR_SIZE];
	struct client *c = NULL;

	(void)state;
	assert_int_equal(client_from_json("admin", body, 1, &c, error), 0);
	for (size_t i = 0; i < STR_COUNT(data); i++) {
		assert_false(client_has(c, data[i]));
		assert_int_equal(client_authorise(c, data[i], "demo"), KEKD_EFORBIDDEN);
	}
	assert_int_equal(client_authorise(c, ACCESS_CLIENT_WRITE, NULL), 0);
	assert_int_equal(client_authorise(c, ACCESS_KEY_CREATE, "demo"), 0);
	assert_true(client_is_privileged(c));
	client_unrefp(&c);
}

/* ---- the table ---- */

static struct client *
lookup(struct clients *t, const char *name, const char *spki)
{
	struct identity id = { 0 };

	snprintf(id.name, sizeof(id.name), "%s", name);
	snprintf(id.spki, sizeof(id.spki), "%s", spki);
	return clients_find_identity(t, &id);
}

#define SPKI "spki:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static void
clients_are_found_by_name_identity_and_key(void **state)
{
	struct clients *t = NULL;
	struct client *c;

	(void)state;
	assert_int_equal(clients_open(&t), 0);
	assert_int_equal(clients_publish(t, client("b", "{\"identities\":[\"dns:b\"]}")), 0);
	assert_int_equal(clients_publish(t, client("a", "{\"identities\":[\"uri:x:a\"]}")), 0);
	assert_int_equal(clients_publish(t, client("c", "{\"identities\":[\"" SPKI "\"]}")), 0);
	assert_int_equal(clients_count(t), 3);
	c = clients_find(t, "b");
	assert_string_equal(c->name, "b");
	client_unrefp(&c);
	c = lookup(t, "uri:x:a", SPKI); /* the name goes first */
	assert_string_equal(c->name, "a");
	client_unrefp(&c);
	c = lookup(t, "uri:x:other", SPKI);
	assert_string_equal(c->name, "c");
	client_unrefp(&c);
	assert_null(lookup(t, "uri:x:other", ""));
	assert_null(lookup(t, "", ""));
	assert_null(clients_find(t, "d"));
	clients_freep(&t);
}

static void
an_identity_belongs_to_one_client(void **state)
{
	struct clients *t = NULL;
	struct client *again, *other;

	(void)state;
	assert_int_equal(clients_open(&t), 0);
	assert_int_equal(clients_publish(t, client("a", "{\"identities\":[\"dns:a\"]}")), 0);
	again = client("b", "{\"identities\":[\"dns:b\",\"dns:a\"]}");
	other = clients_find_conflict(t, again);
	assert_string_equal(other->name, "a");
	client_unrefp(&other);
	assert_int_equal(clients_publish(t, again), KEKD_ETAKEN);
	assert_int_equal(clients_count(t), 1);
	again = client("a", "{\"identities\":[\"dns:a\",\"dns:a2\"]}");
	assert_null(clients_find_conflict(t, again));
	client_unrefp(&again);
	clients_freep(&t);
}

static void
a_replaced_or_removed_record_leaves_no_identity_behind(void **state)
{
	struct clients *t = NULL;
	struct client *old, *c;

	(void)state;
	assert_int_equal(clients_open(&t), 0);
	assert_int_equal(
		clients_publish(t, client("a", "{\"identities\":[\"dns:a\",\"dns:x\"]}")), 0);
	old = clients_find(t, "a");
	assert_int_equal(clients_publish(t, client("a", "{\"identities\":[\"dns:x\"]}")), 0);
	assert_null(lookup(t, "dns:a", ""));
	assert_int_equal(old->identities_count, 2); /* who held it still has it whole */
	client_unrefp(&old);
	c = lookup(t, "dns:x", "");
	assert_int_equal(c->identities_count, 1);
	client_unrefp(&c);
	clients_remove(t, "a");
	clients_remove(t, "a");
	assert_null(lookup(t, "dns:x", ""));
	assert_int_equal(clients_count(t), 0);
	clients_freep(&t);
}

static void
a_refused_record_stays_and_is_marked(void **state)
{
	struct clients *t = NULL;
	struct client *c;

	(void)state;
	assert_int_equal(clients_open(&t), 0);
	assert_int_equal(clients_publish(t, client("a", "{\"identities\":[\"dns:a\"]}")), 0);
	clients_mark_refused(t, "a", true);
	clients_mark_refused(t, "b", true);
	c = lookup(t, "dns:a", "");
	assert_true(c->refused);
	assert_int_equal(c->commit, 7);
	client_unrefp(&c);
	clients_mark_refused(t, "a", false);
	c = clients_find(t, "a");
	assert_false(c->refused);
	client_unrefp(&c);
	clients_freep(&t);
}

static void
listing_goes_on_after_a_name(void **state)
{
	struct clients *t = NULL;
	struct client *page[4];
	char name[16], text[64];
	size_t n, total = 0;

	(void)state;
	assert_int_equal(clients_open(&t), 0);
	for (int i = 99; i >= 0; i--) {
		snprintf(name, sizeof(name), "c%02d", i * 37 % 100);
		snprintf(text, sizeof(text), "{\"identities\":[\"dns:%s\"]}", name);
		assert_int_equal(clients_publish(t, client(name, text)), 0);
	}
	name[0] = '\0';
	while ((n = clients_list(t, total ? name : NULL, 4, page)) > 0)
		for (size_t i = 0; i < n; i++) {
			char wanted[16];
			snprintf(wanted, sizeof(wanted), "c%02zu", total++);
			assert_string_equal(page[i]->name, wanted);
			strcpy(name, page[i]->name);
			client_unrefp(&page[i]);
		}
	assert_int_equal(total, 100);
	assert_int_equal(clients_list(t, "c97x", 4, page), 2);
	client_unrefp(&page[0]);
	client_unrefp(&page[1]);
	clients_freep(&t);
}

static void *
look_up_many(void *user)
{
	for (int i = 0; i < 20000; i++) {
		struct client *c = lookup(user, "dns:a", "");
		if (c)
			client_unrefp(&c);
	}
	return NULL;
}

static void
readers_and_a_writer_do_not_disturb_each_other(void **state)
{
	struct clients *t = NULL;
	pthread_t threads[3];

	(void)state;
	assert_int_equal(clients_open(&t), 0);
	for (size_t i = 0; i < 3; i++)
		pthread_create(&threads[i], NULL, look_up_many, t);
	for (int i = 0; i < 2000; i++) {
		assert_int_equal(
			clients_publish(t, client("a", "{\"identities\":[\"dns:a\"]}")), 0);
		if (i % 7 == 0)
			clients_remove(t, "a");
	}
	for (size_t i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
	clients_freep(&t);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(operations_have_names_both_ways),
		cmocka_unit_test(a_record_comes_back_as_it_was_given),
		cmocka_unit_test(a_wrong_member_is_refused_and_named),
		cmocka_unit_test(a_wrong_grant_is_refused_and_named),
		cmocka_unit_test(a_name_outside_the_pattern_is_refused),
		cmocka_unit_test(an_identity_has_at_most_511_bytes),
		cmocka_unit_test(addresses_and_networks_of_both_families_match),
		cmocka_unit_test(without_addresses_any_is_allowed_and_with_some_no_other_family),
		cmocka_unit_test(what_is_no_address_is_refused),
		cmocka_unit_test(only_what_a_grant_covers_is_allowed),
		cmocka_unit_test(an_administrator_may_all_but_use_keys),
		cmocka_unit_test(clients_are_found_by_name_identity_and_key),
		cmocka_unit_test(an_identity_belongs_to_one_client),
		cmocka_unit_test(a_replaced_or_removed_record_leaves_no_identity_behind),
		cmocka_unit_test(a_refused_record_stays_and_is_marked),
		cmocka_unit_test(listing_goes_on_after_a_name),
		cmocka_unit_test(readers_and_a_writer_do_not_disturb_each_other),
	};

	json_open();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
