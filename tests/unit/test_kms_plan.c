/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Plans: whatever there is and whereto it moves, at no moment does an API server write what another
 * one cannot read, and each file is one that an API server loads.
 */
#include "../../src/kms/plan.h"

#include "kekd/json.h"
#include "kekd/str.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define HEAD "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n"
#define KEY "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
#define NEW_KEY "HxECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
#define SOCKET "/run/kekd-kms/kms.sock"

/* What an entry may have as its providers. */
static const char *const providers[] = {
	"{identity: {}}",
	"{aescbc: {keys: [{name: k, secret: " KEY "}]}}, {identity: {}}",
	"{aesgcm: {keys: [{name: g, secret: " KEY "}]}}",
	"{secretbox: {keys: [{name: s, secret: " KEY "}]}}, {identity: {}}",
	"{kms: {apiVersion: v2, name: other, endpoint: 'unix:///other'}}, {identity: {}}",
	"{kms: {name: old, endpoint: 'unix:///old'}}, {identity: {}}",
	"{kms: {apiVersion: v2, name: kekd, endpoint: 'unix://" SOCKET "', timeout: 3s}}",
	"{aescbc: {keys: [{name: k, secret: " KEY "}]}}, "
	"{kms: {apiVersion: v2, name: kekd, endpoint: 'unix://" SOCKET "'}}, {identity: {}}",
	"{kms: {apiVersion: v2, name: kekd, endpoint: 'unix://" SOCKET "'}}, "
	"{aescbc: {keys: [{name: k, secret: " KEY "}]}}, {identity: {}}",
};
static const char *const targets[] = { "kekd", "identity", "aescbc", "aesgcm", "secretbox",
	"other" };

static struct encryption_config *
parse(const char *text)
{
	struct encryption_config *c = NULL;

	assert_int_equal(encryption_config_parse("f", text, strlen(text), &c), 0);
	if (ec_count(c, EC_FAULT) > 0)
		fail_msg("line %u: %s\n%s", c->findings[0].line, c->findings[0].text, text);
	return c;
}

/* With keys in the place of what stands for them. */
static struct encryption_config *
parse_step(const char *file)
{
	static const struct {
		const char *text, *key;
	} places[] = { { "<as before>", KEY }, { "<new, 32 random bytes in base64>", NEW_KEY } };
	struct buf b = BUF_INIT(1 << 20);
	struct encryption_config *c;

	while (*file) {
		size_t i;
		for (i = 0; i < STR_COUNT(places); i++)
			if (strncmp(file, places[i].text, strlen(places[i].text)) == 0)
				break;
		if (i < STR_COUNT(places)) {
			buf_str(&b, places[i].key);
			file += strlen(places[i].text);
		} else {
			buf_u8(&b, (uint8_t)*file++);
		}
	}
	buf_u8(&b, 0);
	assert_false(b.bad);
	c = parse((char *)b.data);
	buf_free(&b);
	return c;
}

/* Can a server with `reader` read what one with `writer` writes? */
static void
assert_reads(const struct encryption_config *reader, const struct encryption_config *writer,
	const char *resource)
{
	const struct ec_group *r = ec_group_of(reader, resource),
			      *w = ec_group_of(writer, resource);

	assert_true(!r == !w);
	if (!w)
		return;
	for (size_t i = 0; i < r->providers_count; i++)
		if (provider_equal(&r->providers[i], &w->providers[0]))
			return;
	fail_msg("%s: %s cannot be read", resource, ec_kind_names[w->providers[0].kind]);
}

/* Nor may anything come to lie in plaintext, or be read no more, on the way. */
static void
assert_step(const struct encryption_config *from, const struct encryption_config *to, bool plain)
{
	static const char *const resources[] = { "secrets", "configmaps", "pods",
		"deployments.apps", "a.b", "events" };

	for (size_t i = 0; i < STR_COUNT(resources); i++) {
		const struct ec_group *f = ec_group_of(from, resources[i]);
		const struct ec_group *t = ec_group_of(to, resources[i]);
		assert_reads(from, to, resources[i]);
		assert_reads(to, from, resources[i]);
		if (f && f->providers[0].kind != EC_IDENTITY && !plain)
			assert_int_not_equal(t->providers[0].kind, EC_IDENTITY);
	}
}

/* Walks the files; how many there are. The last one has the target alone. */
static unsigned
walk(struct encryption_config *c, const json_t *plan, bool plain)
{
	struct encryption_config *before = NULL, *now;
	const json_t *step;
	unsigned files = 0;
	size_t i;

	json_array_foreach(json_object_get(plan, "steps"), i, step) {
		const char *file = json_string_value(json_object_get(step, "file"));
		assert_int_equal(json_integer_value(json_object_get(step, "step")), i + 1);
		assert_true(json_string_length(json_object_get(step, "title")) > 0);
		assert_true(json_string_length(json_object_get(step, "why")) > 0);
		assert_true(json_string_length(json_object_get(step, "back")) > 0);
		if (!file)
			continue;
		files++;
		assert_null(strstr(file, KEY));
		now = parse_step(file);
		assert_step(before ? before : c, now, plain);
		encryption_config_freep(&before);
		before = now;
	}
	encryption_config_freep(&before);
	return files;
}

static int
make(struct encryption_config *c, const char *to, json_t **ret_plan, char error[512])
{
	bool kekd = strcmp(to, "kekd") == 0;
	struct plan_target t = { to, kekd ? "kekd" : NULL, kekd ? SOCKET : NULL };

	*ret_plan = NULL;
	return plan_make(c, &t, ret_plan, error);
}

static const char *
last_file(const json_t *plan)
{
	const char *file = "";
	const json_t *step;
	size_t i;

	json_array_foreach(json_object_get(plan, "steps"), i, step)
		if (json_is_string(json_object_get(step, "file")))
			file = json_string_value(json_object_get(step, "file"));
	return file;
}

static void
test_from_every_provider_to_every_other_all_can_read_what_any_writes(void **state)
{
	char text[1024], error[512];
	json_t *plan;

	(void)state;
	for (size_t i = 0; i < STR_COUNT(providers); i++)
		for (size_t j = 0; j < STR_COUNT(targets); j++) {
			struct encryption_config *c;
			snprintf(text, sizeof(text),
				HEAD "- resources: [secrets, configmaps]\n  providers: [%s]\n",
				providers[i]);
			c = parse(text);
			if (make(c, targets[j], &plan, error) == 0) {
				walk(c, plan, j == 1);
				json_decref(plan);
			} else {
				assert_string_equal(targets[j], "other");
				assert_non_null(strstr(error, "no kms provider"));
			}
			encryption_config_freep(&c);
		}
}

static void
test_entries_that_become_one_do_so_without_a_gap(void **state)
{
	static const struct {
		const char *first, *second, *end;
	} shapes[] = {
		{ "- {resources: [secrets], providers: [",
			"]}\n- {resources: [configmaps], providers: [", "]}\n" },
		{ "- {resources: [secrets], providers: [",
			"]}\n- {resources: [events], providers: [{identity: {}}]}\n"
			"- {resources: ['*.*'], providers: [",
			"]}\n" },
		{ "- {resources: ['*.apps', secrets], providers: [",
			"]}\n- {resources: ['*.'], providers: [", "]}\n" },
	};
	char text[1024], error[512];
	unsigned planned = 0;
	json_t *plan;

	(void)state;
	for (size_t s = 0; s < STR_COUNT(shapes); s++)
		for (size_t i = 0; i < STR_COUNT(providers); i++)
			for (size_t j = 0; j < STR_COUNT(providers); j++) {
				struct encryption_config *c = NULL;
				snprintf(text, sizeof(text), "%s%s%s%s%s%s", HEAD, shapes[s].first,
					providers[i], shapes[s].second, providers[j],
					shapes[s].end);
				assert_int_equal(
					encryption_config_parse("f", text, strlen(text), &c), 0);
				for (size_t t = 0;
					ec_count(c, EC_FAULT) == 0 && t < STR_COUNT(targets); t++) {
					if (make(c, targets[t], &plan, error) < 0) {
						assert_true(*error);
						continue;
					}
					walk(c, plan, t == 1);
					planned++;
					json_decref(plan);
				}
				encryption_config_freep(&c);
			}
	assert_true(planned > 600);
}

static void
test_what_cannot_become_one_is_said_with_the_way_round(void **state)
{
	static const struct {
		const char *text, *error;
	} files[] = {
		{ HEAD "- {resources: [secrets], providers: [{kms: {apiVersion: v2, name: a, "
		       "endpoint: 'unix:///a'}}]}\n"
		       "- {resources: [configmaps], providers: [{kms: {apiVersion: v2, name: b, "
		       "endpoint: 'unix:///b'}}]}\n",
			"a second plugin" },
		{ HEAD "- {resources: [secrets], providers: [{secretbox: {keys: [{name: s, "
		       "secret: " KEY "}]}}]}\n"
		       "- {resources: ['*.'], providers: [{identity: {}}, {aesgcm: {keys: [{name: "
		       "g, "
		       "secret: " KEY "}]}}]}\n"
		       "- {resources: ['*.apps'], providers: [{secretbox: {keys: [{name: s, "
		       "secret: " KEY "}]}}]}\n",
			"" },
		{ HEAD "- {resources: [secrets], providers: [{kms: {name: kekd, endpoint: "
		       "'unix:///a'}}]}\n",
			"KMS v1" },
		{ HEAD "- {resources: [deployments.apps], providers: [{secretbox: {keys: [{name: "
		       "s, "
		       "secret: " KEY "}]}}]}\n"
		       "- {resources: ['*.apps'], providers: [{identity: {}}]}\n"
		       "- {resources: ['*.*'], providers: [{secretbox: {keys: [{name: s, "
		       "secret: " KEY "}]}}]}\n",
			"another entry stands between" },
	};
	char error[512];
	json_t *plan;

	(void)state;
	for (size_t i = 0; i < STR_COUNT(files); i++) {
		struct encryption_config *c = parse(files[i].text);
		if (*files[i].error) {
			assert_true(make(c, "kekd", &plan, error) < 0);
			assert_non_null(strstr(error, files[i].error));
		} else {
			assert_int_equal(make(c, "kekd", &plan, error), 0);
			walk(c, plan, false);
			json_decref(plan);
		}
		encryption_config_freep(&c);
	}
}

static void
test_a_move_that_was_begun_goes_on_from_where_it_is(void **state)
{
	static const struct {
		size_t providers;
		unsigned files;
		const char *second; /* the step behind the first */
	} from[] = { { 1, 3, "readable" }, { 7, 2, "everywhere" }, { 8, 1, "everywhere" } };
	char text[1024], error[512];
	json_t *plan;

	(void)state;
	for (size_t i = 0; i < STR_COUNT(from); i++) {
		struct encryption_config *c;
		snprintf(text, sizeof(text),
			HEAD "- resources: [secrets, configmaps]\n  providers: [%s]\n",
			providers[from[i].providers]);
		c = parse(text);
		assert_int_equal(make(c, "kekd", &plan, error), 0);
		assert_int_equal(walk(c, plan, false), from[i].files);
		assert_string_equal(
			json_string_value(json_object_get(
				json_array_get(json_object_get(plan, "steps"), 1), "code")),
			from[i].second);
		assert_string_equal(last_file(plan),
			HEAD "  - resources:\n      - secrets\n      - configmaps\n    providers:\n"
			     "      - kms:\n          apiVersion: v2\n          name: kekd\n"
			     "          endpoint: unix://" SOCKET "\n          timeout: 3s\n");
		json_decref(plan);
		encryption_config_freep(&c);
	}
}

static void
test_where_all_is_done_there_is_no_step(void **state)
{
	char text[1024], error[512];
	struct encryption_config *c;
	json_t *plan;

	(void)state;
	snprintf(text, sizeof(text), HEAD "- resources: [secrets]\n  providers: [%s]\n",
		providers[6]);
	c = parse(text);
	assert_int_equal(make(c, "kekd", &plan, error), 0);
	assert_int_equal(json_array_size(json_object_get(plan, "steps")), 0);
	json_decref(plan);
	encryption_config_freep(&c);
}

/* Names that YAML would take for something else, and what no terminal should get. */
static void
test_names_come_back_as_they_were(void **state)
{
	struct encryption_config *c = parse(
		HEAD "- resources: ['*.', \"a.b\"]\n  providers:\n"
		     "  - aescbc: {keys: [{name: '1', secret: " KEY "}, {name: 'yes', secret: " KEY
		     "}, {name: \"a: b #\\t\\e\", secret: " KEY "}]}\n");
	char error[512];
	json_t *plan;

	(void)state;
	assert_int_equal(make(c, "kekd", &plan, error), 0);
	assert_int_equal(walk(c, plan, false), 3);
	json_decref(plan);
	encryption_config_freep(&c);
}

/* What stays on the way is told to the API server as it was. */
static void
test_what_a_provider_had_besides_comes_back_as_it_was(void **state)
{
	static const struct {
		const char *members, *written;
	} rows[] = {
		{ "apiVersion: v2, timeout: 1500ms", "          timeout: 1500ms\n" },
		{ "apiVersion: v2, timeout: 1.0000005s", "          timeout: 1000000500ns\n" },
		{ "apiVersion: v2, timeout: 2m", "          timeout: 120s\n" },
		{ "apiVersion: v2", "          timeout: 3s\n" },
		{ "cachesize: 250", "          apiVersion: v1\n          name: other\n"
				    "          endpoint: unix:///other\n          timeout: 3s\n"
				    "          cachesize: 250\n" },
		{ "apiVersion: v1, cachesize: -1", "          cachesize: -1\n" },
	};
	char text[1024], error[512];

	(void)state;
	for (size_t i = 0; i < STR_COUNT(rows); i++) {
		struct encryption_config *c;
		const char *file;
		json_t *plan;
		snprintf(text, sizeof(text),
			HEAD "- resources: [secrets, configmaps]\n  providers:\n"
			     "  - kms: {name: other, endpoint: 'unix:///other', %s}\n",
			rows[i].members);
		c = parse(text);
		assert_int_equal(make(c, "kekd", &plan, error), 0);
		file = json_string_value(
			json_object_get(json_array_get(json_object_get(plan, "steps"), 1), "file"));
		if (!file || !strstr(file, rows[i].written))
			fail_msg("%s: %s", rows[i].written, file ? file : "no file");
		json_decref(plan);
		encryption_config_freep(&c);
	}
}

/* Where nothing is encrypted, all that there is is meant. */
static void
test_entries_that_lie_in_plaintext_move_when_there_are_no_others(void **state)
{
	struct encryption_config *c = parse(
		HEAD "- {resources: [events], providers: [{identity: {}}]}\n"
		     "- {resources: [pods], providers: [{identity: {}}]}\n");
	char error[512];
	json_t *plan;

	(void)state;
	assert_int_equal(make(c, "kekd", &plan, error), 0);
	assert_true(walk(c, plan, false) > 0);
	assert_non_null(strstr(last_file(plan), "      - events\n      - pods\n"));
	json_decref(plan);
	encryption_config_freep(&c);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(
			test_from_every_provider_to_every_other_all_can_read_what_any_writes),
		cmocka_unit_test(test_entries_that_become_one_do_so_without_a_gap),
		cmocka_unit_test(test_what_cannot_become_one_is_said_with_the_way_round),
		cmocka_unit_test(test_a_move_that_was_begun_goes_on_from_where_it_is),
		cmocka_unit_test(test_where_all_is_done_there_is_no_step),
		cmocka_unit_test(test_names_come_back_as_they_were),
		cmocka_unit_test(test_what_a_provider_had_besides_comes_back_as_it_was),
		cmocka_unit_test(test_entries_that_lie_in_plaintext_move_when_there_are_no_others),
	};

	json_open();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
