/* SPDX-License-Identifier: Apache-2.0 */
/* EncryptionConfigurations: what is read, what the API server would refuse, and what is said. */
#include "../../src/kms/encryption_config.h"

#include "kekd/json.h"
#include "kekd/str.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define HEAD "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n"
#define SECRETS HEAD "- resources: [secrets, configmaps]\n  providers:\n"
#define KMS "  - kms: {apiVersion: v2, name: kekd, endpoint: 'unix:///run/kekd-kms/kms.sock'}\n"
#define KEY32 "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
#define KEY16 "AAECAwQFBgcICQoLDA0ODw=="

static const struct ec_plugin plugin = { "kekd", "/run/kekd-kms/kms.sock", 2800000000 };

static struct encryption_config *
parse(const char *text)
{
	struct encryption_config *c = NULL;

	assert_int_equal(encryption_config_parse("f", text, strlen(text), &c), 0);
	return c;
}

static const struct ec_finding *
find(const struct encryption_config *c, const char *code)
{
	for (size_t i = 0; i < c->findings_count; i++)
		if (strcmp(c->findings[i].code, code) == 0)
			return &c->findings[i];
	return NULL;
}

static void
assert_found(struct encryption_config *c, enum ec_level level, const char *code, unsigned line,
	const char *text)
{
	const struct ec_finding *f = find(c, code);

	if (!f || f->level != level || f->line != line || !strstr(f->text, text)) {
		for (size_t i = 0; i < c->findings_count; i++)
			print_error("%u %s %s: %s\n", c->findings[i].line,
				ec_level_names[c->findings[i].level], c->findings[i].code,
				c->findings[i].text);
		fail_msg(
			"no %s %s in line %u with \"%s\"", ec_level_names[level], code, line, text);
	}
	assert_true(f->remedy[0] && f->remedy[strlen(f->remedy) - 1] == '.');
	encryption_config_freep(&c);
}

static void
test_all_kinds_of_providers_are_read(void **state)
{
	struct encryption_config *c = parse(HEAD
		"- resources:\n  - secrets\n  - pandas.bears.example\n  providers:\n"
		"  - kms:\n      apiVersion: v2\n      name: kekd\n"
		"      endpoint: unix:///run/kekd-kms/kms.sock\n      timeout: 1m2.5s\n"
		"  - aescbc: {keys: [{name: a, secret: " KEY32 "}, {name: b, secret: " KEY16 "}]}\n"
		"  - aesgcm: {keys: [{name: c, secret: " KEY32 "}]}\n"
		"  - secretbox: {keys: [{name: d, secret: \"" KEY32 "\"}]}\n"
		"  - kms: {name: old, endpoint: 'unix:///old', cachesize: -1}\n"
		"  - identity: {}\n"
		"- resources: ['*.apps']\n  providers: [{identity: {}}]\n");
	const struct ec_provider *p;

	(void)state;
	assert_int_equal(c->findings_count, 0);
	assert_int_equal(c->groups_count, 2);
	assert_int_equal(c->groups[0].line, 4);
	assert_int_equal(c->groups[0].resources_count, 2);
	assert_string_equal(c->groups[0].resources[1].text, "pandas.bears.example");
	assert_int_equal(c->groups[0].resources[1].line, 6);
	p = c->groups[0].providers;
	assert_int_equal(c->groups[0].providers_count, 6);
	assert_int_equal(p[0].kind, EC_KMS);
	assert_string_equal(p[0].version, "v2");
	assert_true(p[0].timeout_ns == INT64_C(62500000000));
	assert_int_equal(p[1].kind, EC_AESCBC);
	assert_int_equal(p[1].keys_count, 2);
	assert_int_equal(p[1].keys[1].secret_len, 16);
	assert_memory_equal(p[1].keys[0].digest, p[2].keys[0].digest, EC_DIGEST_SIZE);
	assert_memory_not_equal(p[1].keys[0].digest, p[1].keys[1].digest, EC_DIGEST_SIZE);
	assert_null(p[4].version);
	assert_true(p[4].has_cachesize && p[4].cachesize == -1);
	assert_int_equal(p[5].kind, EC_IDENTITY);
	encryption_config_freep(&c);
}

static void
test_what_go_reads_otherwise_than_one_thinks_is_read_so(void **state)
{
	struct encryption_config *c = parse(SECRETS
		"  - aescbc:\n      keys:\n        - name: a\n          secret: |\n"
		"            AAECAwQFBgcI\n            CQoLDA0ODw==\n"
		"  - kms: {apiVersion: v2, name: a, endpoint: 'UNIX:///a', timeout: +.5s}\n");

	(void)state;
	assert_int_equal(c->findings_count, 0);
	assert_int_equal(c->groups[0].providers[0].keys[0].secret_len, 16);
	assert_true(c->groups[0].providers[1].timeout_ns == 500000000);
	assert_string_equal(ec_socket_path(c->groups[0].providers[1].endpoint), "/a");
	encryption_config_freep(&c);
}

static void
test_json_and_aliases_are_read_too(void **state)
{
	struct encryption_config *c = parse(
		"{\"apiVersion\": \"apiserver.config.k8s.io/v1\",\n"
		"\t\"kind\": \"EncryptionConfiguration\", \"resources\": [{\"resources\":\n"
		"[\"secrets\"], \"providers\": [{\"identity\": {}}]}]}");

	(void)state;
	assert_int_equal(c->findings_count, 0);
	assert_string_equal(c->groups[0].resources[0].text, "secrets");
	encryption_config_freep(&c);
	c = parse(HEAD "- resources: [secrets]\n  providers: &p [{identity: {}}]\n"
		       "- resources: [configmaps]\n  providers: *p\n");
	assert_int_equal(c->findings_count, 0);
	assert_int_equal(c->groups[1].providers_count, 1);
	encryption_config_freep(&c);
}

static const struct {
	const char *code;
	unsigned line;
	const char *text; /* a part of what is said */
	const char *file;
} faults[] = {
	{ "empty", 1, "nothing", "" },
	{ "no-yaml", 3, "neither", "a: b\nc: [" },
	{ "wrong-type", 1, "mapping", "just words" },
	{ "api-version", 1, "v1",
		"apiVersion: v1\nkind: EncryptionConfiguration\nresources: []\n" },
	{ "api-version", 1, "no apiVersion", "kind: EncryptionConfiguration\n" },
	{ "kind", 2, "EncryptionConfig", "apiVersion: v1\nkind: EncryptionConfig\n" },
	{ "kind", 1, "no kind", "apiVersion: apiserver.config.k8s.io/v1\n" },
	{ "no-resources", 1, "no resources", HEAD "  []\n" },
	{ "unknown-member", 4, "resorces", HEAD "- resorces: [secrets]\n" },
	{ "given-twice", 5, "resources", HEAD "- resources: [secrets]\n  resources: [pods]\n" },
	{ "second-document", 8, "second", SECRETS KMS "---\na: b\n" },
	{ "no-resources", 4, "no resources", HEAD "- providers: [{identity: {}}]\n" },
	{ "no-providers", 4, "no providers", HEAD "- resources: [secrets]\n" },
	{ "wrong-type", 4, "list", HEAD "- resources: secrets\n" },
	{ "wrong-type", 4, "number", HEAD "- resources: [1]\n" },
	{ "wrong-type", 4, "number", HEAD "- resources: [yes]\n" },
	{ "no-value", 4, "value", HEAD "- resources: [~]\n" },
	{ "resource-capitals", 4, "Secrets",
		HEAD "- resources: [Secrets]\n  providers: [{identity: {}}]\n" },
	{ "resource-star", 4, "*", HEAD "- resources: ['*']\n  providers: [{identity: {}}]\n" },
	{ "resource-internal", 4, "API",
		HEAD "- resources: [apiserveripinfo]\n  providers: [{identity: {}}]\n" },
	{ "resource-events", 4, "events",
		HEAD "- resources: [events.events.k8s.io]\n  providers: [{identity: {}}]\n" },
	{ "resource-extensions", 4, "gone",
		HEAD "- resources: [ingresses.extensions]\n  providers: [{identity: {}}]\n" },
	{ "resource-across-groups", 4, "secrets.*",
		HEAD "- resources: ['secrets.*']\n  providers: [{identity: {}}]\n" },
	{ "resource-twice", 4, "line 4",
		HEAD "- resources: [secrets, secrets]\n  providers: [{identity: {}}]\n" },
	{ "resource-overlap", 4, "*.",
		HEAD "- resources: [secrets, '*.']\n  providers: [{identity: {}}]\n" },
	{ "resource-overlap", 4, "*.*",
		HEAD "- resources: ['*.*', a.b]\n  providers: [{identity: {}}]\n" },
	{ "resource-masked", 6, "line 4",
		HEAD "- resources: ['*.']\n  providers: [{identity: {}}]\n"
		     "- resources: [secrets]\n  providers: [{identity: {}}]\n" },
	{ "resource-masked", 6, "*.*",
		HEAD "- resources: ['*.*']\n  providers: [{identity: {}}]\n"
		     "- resources: ['*.apps']\n  providers: [{identity: {}}]\n" },
	{ "provider-none", 6, "no provider", SECRETS "  - {}\n" },
	{ "provider-none", 6, "no provider", SECRETS "  - identity:\n" },
	{ "provider-several", 6, "several", SECRETS "  - {identity: {}, aescbc: {}}\n" },
	{ "unknown-member", 6, "rot13", SECRETS "  - rot13: {}\n" },
	{ "no-keys", 6, "no keys", SECRETS "  - aescbc: {}\n" },
	{ "key-name", 6, "no name", SECRETS "  - aescbc: {keys: [{secret: " KEY32 "}]}\n" },
	{ "secret", 6, "no secret", SECRETS "  - aescbc: {keys: [{name: a}]}\n" },
	{ "secret", 6, "base64", SECRETS "  - aescbc: {keys: [{name: a, secret: '!'}]}\n" },
	{ "secret", 6, "3 bytes", SECRETS "  - aescbc: {keys: [{name: a, secret: AAAA}]}\n" },
	{ "secret", 6, "16 bytes",
		SECRETS "  - secretbox: {keys: [{name: a, secret: " KEY16 "}]}\n" },
	{ "provider-name", 6, "no name",
		SECRETS "  - kms: {apiVersion: v2, endpoint: 'unix:///a'}\n" },
	{ "provider-name", 6, "colon",
		SECRETS "  - kms: {apiVersion: v2, name: 'a:b', endpoint: 'unix:///a'}\n" },
	{ "endpoint", 6, "no endpoint", SECRETS "  - kms: {apiVersion: v2, name: a}\n" },
	{ "endpoint", 6, "unix socket",
		SECRETS "  - kms: {apiVersion: v2, name: a, endpoint: 'tcp://1'}\n" },
	{ "endpoint", 6, "unix socket",
		SECRETS "  - kms: {apiVersion: v2, name: a, endpoint: 'unix:///%zz'}\n" },
	{ "kms-version", 6, "v3",
		SECRETS "  - kms: {apiVersion: v3, name: a, endpoint: 'unix:///a'}\n" },
	{ "timeout", 7, "nothing",
		SECRETS "  - kms: {apiVersion: v2, name: a, endpoint: 'unix:///a',\n"
			"      timeout: 0s}\n" },
	{ "timeout", 7, "no duration",
		SECRETS "  - kms: {apiVersion: v2, name: a, endpoint: 'unix:///a',\n"
			"      timeout: 3 seconds}\n" },
	{ "wrong-type", 7, "timeout",
		SECRETS "  - kms: {apiVersion: v2, name: a, endpoint: 'unix:///a',\n"
			"      timeout: 3}\n" },
	{ "timeout", 7, "nothing",
		SECRETS "  - kms: {apiVersion: v2, name: a, endpoint: 'unix:///a',\n"
			"      timeout: '0'}\n" },
	{ "timeout", 7, "nothing",
		SECRETS "  - kms: {apiVersion: v2, name: a, endpoint: 'unix:///a',\n"
			"      timeout: -3s}\n" },
	{ "timeout", 7, "no duration",
		SECRETS "  - kms: {apiVersion: v2, name: a, endpoint: 'unix:///a',\n"
			"      timeout: 9999999999h}\n" },
	{ "wrong-type", 4, "has a NUL", HEAD "- resources: [\"secrets\\0\"]\n" },
	{ "wrong-type", 4, "a member's name must be a text", HEAD "- ? [resources]\n  : a\n" },
	{ "wrong-type", 4, "mapping", HEAD "- secrets\n" },
	{ "wrong-type", 6, "mapping", SECRETS "  - identity\n" },
	{ "cachesize", 7, "v1",
		SECRETS "  - kms: {apiVersion: v2, name: a, endpoint: 'unix:///a',\n"
			"      cachesize: 100}\n" },
	{ "cachesize", 6, "0",
		SECRETS
		"  - kms: {apiVersion: v1, name: a, endpoint: 'unix:///a', cachesize: 0}\n" },
	{ "wrong-type", 6, "whole",
		SECRETS
		"  - kms: {apiVersion: v1, name: a, endpoint: 'unix:///a', cachesize: x}\n" },
	{ "provider-name-twice", 7, "line 6", SECRETS KMS KMS },
	{ "provider-name-twice", 9, "line 6",
		SECRETS KMS "- resources: [pods]\n  providers:\n"
			    "  - kms: {apiVersion: v2, name: kekd, endpoint: 'unix:///b'}\n" },
};

static void
test_what_the_api_server_refuses_is_a_fault_with_its_line(void **state)
{
	(void)state;
	for (size_t i = 0; i < STR_COUNT(faults); i++)
		assert_found(parse(faults[i].file), EC_FAULT, faults[i].code, faults[i].line,
			faults[i].text);
}

static const struct {
	enum ec_level level;
	const char *code;
	unsigned line;
	const char *text, *file;
} lints[] = {
	{ EC_WARNING, "identity-first", 6, "plaintext", SECRETS "  - identity: {}\n" KMS },
	{ EC_WARNING, "identity-alone", 6, "only", SECRETS "  - identity: {}\n" },
	{ EC_NOTE, "identity-alone", 4, "events",
		HEAD "- {resources: [events], providers: [{identity: {}}]}\n"
		     "- resources: ['*.*']\n  providers:\n" KMS },
	{ EC_NOTE, "identity-absent", 4, "cannot be read", SECRETS KMS },
	{ EC_WARNING, "aescbc-weak", 6, "padding",
		SECRETS "  - aescbc: {keys: [{name: a, secret: " KEY32 "}]}\n" },
	{ EC_WARNING, "aesgcm-rotation", 6, "200,000",
		SECRETS "  - aesgcm: {keys: [{name: a, secret: " KEY32 "}]}\n" },
	{ EC_NOTE, "secretbox-key", 6, "disk",
		SECRETS "  - secretbox: {keys: [{name: a, secret: " KEY32 "}]}\n" },
	{ EC_WARNING, "kms-v1", 6, "1.29",
		SECRETS "  - kms: {apiVersion: v1, name: a, endpoint: 'unix:///a'}\n" },
	{ EC_WARNING, "kms-v1", 6, "without apiVersion",
		SECRETS "  - kms: {name: a, endpoint: 'unix:///a'}\n" },
	{ EC_WARNING, "endpoint-slashes", 6, "/a",
		SECRETS "  - kms: {apiVersion: v2, name: a, endpoint: 'unix://run/a'}\n" },
	{ EC_WARNING, "endpoint-slashes", 6, "nothing",
		SECRETS "  - kms: {apiVersion: v2, name: a, endpoint: 'unix://run'}\n" },
	{ EC_WARNING, "endpoint-abstract", 6, "mode",
		SECRETS "  - kms: {apiVersion: v2, name: a, endpoint: 'unix:///@a'}\n" },
	{ EC_WARNING, "timeout-short", 7, "1 s",
		SECRETS "  - kms: {apiVersion: v2, name: a, endpoint: 'unix:///a',\n"
			"      timeout: 1s}\n" },
	{ EC_WARNING, "timeout-short", 7, "2.8 s",
		SECRETS "  - kms: {apiVersion: v2, name: kekd, endpoint: 'unix:///a',\n"
			"      timeout: 2800ms}\n" },
	{ EC_WARNING, "timeout-long", 7, "60 s",
		SECRETS "  - kms: {apiVersion: v2, name: a, endpoint: 'unix:///a',\n"
			"      timeout: 1m}\n" },
	{ EC_NOTE, "timeout-long", 7, "5 s",
		SECRETS "  - kms: {apiVersion: v2, name: a, endpoint: 'unix:///a',\n"
			"      timeout: 5s}\n" },
	{ EC_WARNING, "provider-name-changed", 6, "kekd2",
		SECRETS "  - kms: {apiVersion: v2, name: kekd2, endpoint: "
			"'unix:///run/kekd-kms/kms.sock'}\n" },
	{ EC_WARNING, "endpoint-differs", 6, "/run/kekd-kms/kms.sock",
		SECRETS "  - kms: {apiVersion: v2, name: kekd, endpoint: 'unix:///run/x'}\n" },
	{ EC_WARNING, "endpoint-shared", 7, "line 6",
		SECRETS KMS "  - kms: {apiVersion: v2, name: b, endpoint: "
			    "'unix:///run/kekd-kms/kms.sock'}\n" },
	{ EC_WARNING, "provider-name-twice", 7, "reload",
		SECRETS "  - kms: {name: b, endpoint: 'unix:///a'}\n"
			"  - kms: {name: b, endpoint: 'unix:///b'}\n" },
	{ EC_WARNING, "key-name-twice", 8, "line 7",
		SECRETS "  - aescbc: {keys: [\n    {name: a, secret: " KEY32 "},\n"
			"    {name: a, secret: " KEY16 "}]}\n" },
	{ EC_WARNING, "secrets-forgotten", 0, "Secrets",
		HEAD "- resources: [configmaps]\n  providers:\n" KMS },
	{ EC_WARNING, "configmaps-forgotten", 0, "ConfigMaps",
		HEAD "- resources: [secrets]\n  providers:\n" KMS },
	{ EC_NOTE, "custom-resources", 0, "custom",
		HEAD "- resources: ['*.']\n  providers:\n" KMS },
	{ EC_WARNING, "resource-in-two-entries", 7, "line 4",
		SECRETS KMS "- resources: [configmaps]\n  providers: [{identity: {}}]\n" },
};

static void
test_what_is_loaded_to_nobodys_good_is_said(void **state)
{
	(void)state;
	for (size_t i = 0; i < STR_COUNT(lints); i++) {
		struct encryption_config *c = parse(lints[i].file);
		assert_int_equal(ec_count(c, EC_FAULT), 0);
		encryption_config_lint(c, &plugin);
		assert_found(c, lints[i].level, lints[i].code, lints[i].line, lints[i].text);
	}
}

static void
test_what_a_migration_ends_with_has_nothing_to_put_right(void **state)
{
	struct encryption_config *c = parse(SECRETS KMS);

	(void)state;
	encryption_config_lint(c, &plugin);
	assert_int_equal(ec_count(c, EC_WARNING), 0);
	encryption_config_freep(&c);
}

/* Small to read, and without end when each is followed. */
static void
test_aliases_without_end_have_one(void **state)
{
	struct buf b = BUF_INIT(1 << 20);

	(void)state;
	buf_str(&b, HEAD "- resources: &list [a, a, a, a, a, a, a, a, a, a, a, a, a, a, a, a]\n");
	for (int n = 0; n < 7000; n++)
		buf_str(&b, "- resources: *list\n");
	buf_u8(&b, 0);
	assert_false(b.bad);
	assert_found(parse((const char *)b.data), EC_FAULT, "too-large", 4, "too much");
	buf_free(&b);
}

static void
test_a_secret_is_never_said_whatever_is_wrong_around_it(void **state)
{
	static const char *const files[] = {
		SECRETS "  - aescbc: {keys: [{name: a, secret: HUSHhushHUSH!}]}\n",
		SECRETS "  - aescbc: {keys: [{name: a, secret: HUSHhushHUSH}]}\n",
		SECRETS "  - aescbc: {keys: [{secret: HUSHhushHUSH, secret: HUSHhushHUSH}]}\n",
		SECRETS "  - secretbox: {keys: [{name: a, secret: [HUSHhushHUSH]}]}\n",
		SECRETS "  - secretbox: {keys: {name: a, secret: HUSHhushHUSH}}\n",
		SECRETS "  - secretbox: {keys: [{name: a, secret: \"HUSHhushHUSH}]}\n",
		SECRETS "  - secretbox: {secret: HUSHhushHUSH, keys: [HUSHhushHUSH]}\n",
	};

	(void)state;
	for (size_t i = 0; i < STR_COUNT(files); i++) {
		struct encryption_config *c = parse(files[i]);
		assert_true(ec_count(c, EC_FAULT) > 0);
		for (size_t j = 0; j < c->findings_count; j++) {
			assert_null(strstr(c->findings[j].text, "HUSH"));
			assert_null(strstr(c->findings[j].remedy, "HUSH"));
		}
		encryption_config_freep(&c);
	}
}

static void
test_a_resource_goes_by_the_narrowest_entry(void **state)
{
	static const char *const texts[] = { "secrets", "*.apps", "*.", "*.*" };

	(void)state;
	assert_string_equal(ec_best(texts, 4, "secrets"), "secrets");
	assert_string_equal(ec_best(texts, 4, "deployments.apps"), "*.apps");
	assert_string_equal(ec_best(texts, 4, "pods"), "*.");
	assert_string_equal(ec_best(texts, 4, "a.b.c"), "*.*");
	assert_null(ec_best(texts, 3, "a.b.c"));
	assert_true(ec_covers("*.", "pods") && !ec_covers("*.", "a.b") && !ec_covers("pods", "*."));
	assert_true(ec_covers("*.b.c", "a.b.c") && !ec_covers("*.c", "a.b.c"));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_all_kinds_of_providers_are_read),
		cmocka_unit_test(test_what_go_reads_otherwise_than_one_thinks_is_read_so),
		cmocka_unit_test(test_json_and_aliases_are_read_too),
		cmocka_unit_test(test_what_the_api_server_refuses_is_a_fault_with_its_line),
		cmocka_unit_test(test_what_is_loaded_to_nobodys_good_is_said),
		cmocka_unit_test(test_what_a_migration_ends_with_has_nothing_to_put_right),
		cmocka_unit_test(test_aliases_without_end_have_one),
		cmocka_unit_test(test_a_secret_is_never_said_whatever_is_wrong_around_it),
		cmocka_unit_test(test_a_resource_goes_by_the_narrowest_entry),
	};

	json_open();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
