/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the API server refuses of an EncryptionConfiguration that it could decode: its own rules, in
 * our words. Not here: what it accepts to nobody's good (encryption_lint.c).
 */
#include "encryption_config.h"

#include "kekd/str.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

/* ---- resources ---- */

/* A resource and its group: "*." is all of the core group, whose name is empty. */
static const char *
group_of(const char *resource)
{
	const char *dot = strchr(resource, '.');

	return dot ? dot + 1 : "";
}

static bool
same_group(const char *a, const char *b)
{
	return strcmp(group_of(a), group_of(b)) == 0;
}

static bool
is_any(const char *resource)
{
	return strcmp(resource, "*.*") == 0;
}

bool
ec_is_wildcard(const char *resource)
{
	return strncmp(resource, "*.", 2) == 0;
}

bool
ec_covers(const char *wide, const char *narrow)
{
	return strcmp(wide, narrow) == 0 || is_any(wide) ||
	       (ec_is_wildcard(wide) && same_group(wide, narrow));
}

static const char *
find_text(const char *const *texts, size_t count, const char *text)
{
	for (size_t i = 0; i < count; i++)
		if (strcmp(texts[i], text) == 0)
			return texts[i];
	return NULL;
}

const char *
ec_best(const char *const *texts, size_t count, const char *resource)
{
	const char *found = find_text(texts, count, resource);

	for (size_t i = 0; i < count && !found; i++)
		if (ec_is_wildcard(texts[i]) && !is_any(texts[i]) && ec_covers(texts[i], resource))
			found = texts[i];
	return found ? found : find_text(texts, count, "*.*");
}

static const struct {
	const char *resource, *code, *text, *remedy;
} names_refused[] = {
	{ "*", "resource-star", "\"*\" alone is no resource",
		"Write '*.' for the core group, '*.*' for all." },
	{ "apiserveripinfo", "resource-internal", "this has no API of its own", "Take it out." },
	{ "serviceipallocations", "resource-internal", "this has no API of its own",
		"Take it out." },
	{ "servicenodeportallocations", "resource-internal", "this has no API of its own",
		"Take it out." },
};

static const struct {
	const char *group, *code, *text, *remedy;
} groups_refused[] = {
	{ "events.k8s.io", "resource-events", "events are stored as those of the core group",
		"Write events." },
	{ "extensions", "resource-extensions", "the group extensions is gone from Kubernetes",
		"Name the group that has the resource now." },
};

static void
check_name(struct encryption_config *c, const struct ec_resource *r)
{
	const char *group = group_of(r->text);

	for (const char *p = r->text; *p; p++)
		if (*p >= 'A' && *p <= 'Z') {
			ec_find(c, EC_FAULT, "resource-capitals", r->line,
				"Write the resource's name, in the plural and in small letters.",
				"\"%.64s\" has capital letters", r->text);
			return;
		}
	for (size_t i = 0; i < STR_COUNT(names_refused); i++)
		if (strcmp(names_refused[i].resource, r->text) == 0)
			ec_find(c, EC_FAULT, names_refused[i].code, r->line,
				names_refused[i].remedy, "%s", names_refused[i].text);
	for (size_t i = 0; i < STR_COUNT(groups_refused); i++)
		if (strcmp(groups_refused[i].group, group) == 0)
			ec_find(c, EC_FAULT, groups_refused[i].code, r->line,
				groups_refused[i].remedy, "%s", groups_refused[i].text);
	if (strcmp(group, "*") == 0 && !is_any(r->text))
		ec_find(c, EC_FAULT, "resource-across-groups", r->line,
			"Name the group, or write '*.*'.",
			"\"%.64s\": one resource of all groups is not to be had", r->text);
}

/* Two of one list. */
static void
check_overlap(struct encryption_config *c, const struct ec_resource *first,
	const struct ec_resource *second)
{
	if (strcmp(first->text, second->text) == 0)
		ec_find(c, EC_FAULT, "resource-twice", second->line, "Leave one of them.",
			"\"%.64s\" stands in line %u already", second->text, first->line);
	else if (ec_covers(first->text, second->text) || ec_covers(second->text, first->text))
		ec_find(c, EC_FAULT, "resource-overlap", second->line,
			"Leave the wider one, or give the narrower one an entry of its own above.",
			"\"%.64s\" and \"%.64s\" (line %u) overlap in one list", second->text,
			first->text, first->line);
}

/* An entry further up that covers it. */
static void
check_masked(struct encryption_config *c, size_t group, const struct ec_resource *r)
{
	for (size_t i = 0; i < group; i++)
		for (size_t j = 0; j < c->groups[i].resources_count; j++) {
			const struct ec_resource *above = &c->groups[i].resources[j];
			if (!ec_is_wildcard(above->text) || !ec_covers(above->text, r->text))
				continue;
			ec_find(c, EC_FAULT, "resource-masked", r->line,
				"Put what is narrower above what is wider.",
				"\"%.64s\" is covered by \"%.64s\" of line %u, which stands above "
				"it",
				r->text, above->text, above->line);
			return;
		}
}

static void
check_resources(struct encryption_config *c, size_t group)
{
	const struct ec_group *g = &c->groups[group];

	if (g->resources_count == 0)
		ec_find(c, EC_FAULT, "no-resources", g->line, "Name them: resources: [secrets].",
			"this entry names no resources");
	for (size_t i = 0; i < g->resources_count; i++) {
		check_name(c, &g->resources[i]);
		check_masked(c, group, &g->resources[i]);
		for (size_t j = 0; j < i; j++)
			check_overlap(c, &g->resources[j], &g->resources[i]);
	}
}

/* ---- providers ---- */

static const struct {
	bool keys;
	size_t lengths[3];
	const char *remedy;
} key_rules[EC_KINDS] = {
	[EC_AESGCM] = { true, { 16, 24, 32 }, "It must have 16, 24 or 32 bytes; take 32." },
	[EC_AESCBC] = { true, { 16, 24, 32 }, "It must have 16, 24 or 32 bytes; take 32." },
	[EC_SECRETBOX] = { true, { 32, 32, 32 }, "It must have 32 bytes." },
};

static void
check_key(struct encryption_config *c, enum ec_kind kind, const struct ec_key *key)
{
	const size_t *lengths = key_rules[kind].lengths;

	if (!key->name || !*key->name)
		ec_find(c, EC_FAULT, "key-name", key->line,
			"Give it one: it becomes a part of what is stored.",
			"this key has no name");
	if (!key->has_secret)
		ec_find(c, EC_FAULT, "secret", key->line, "Give it one.", "this key has no secret");
	else if (key->secret_len != lengths[0] && key->secret_len != lengths[1] &&
		 key->secret_len != lengths[2])
		ec_find(c, EC_FAULT, "secret", key->line, key_rules[kind].remedy,
			"this key's secret has %zu bytes", key->secret_len);
}

/* A '%' that begins no escape makes a URL none. */
static bool
is_escaped(const char *url)
{
	static const char digits[] = "0123456789abcdefABCDEF";

	for (; (url = strchr(url, '%')); url++)
		if (!url[1] || !url[2] || !strchr(digits, url[1]) || !strchr(digits, url[2]))
			return false;
	return true;
}

static void
check_endpoint(struct encryption_config *c, const struct ec_provider *p)
{
	if (!p->endpoint || !*p->endpoint)
		ec_find(c, EC_FAULT, "endpoint", p->endpoint_line ? p->endpoint_line : p->line,
			"Write endpoint: unix:///PATH, the plugin's socket.",
			"this kms provider has no endpoint");
	else if (strncasecmp(p->endpoint, "unix:", 5) != 0 || !is_escaped(p->endpoint))
		ec_find(c, EC_FAULT, "endpoint", p->endpoint_line,
			"Write endpoint: unix:///PATH, the plugin's socket.",
			"the endpoint is no URL of a unix socket");
}

static bool
is_v1(const struct ec_provider *p)
{
	return !p->version || strcmp(p->version, "v1") == 0;
}

static void
check_kms(struct encryption_config *c, const struct ec_provider *p)
{
	unsigned line = p->name_line ? p->name_line : p->line;

	if (!p->name || !*p->name)
		ec_find(c, EC_FAULT, "provider-name", line, "Give it one: name: kekd.",
			"this kms provider has no name");
	else if (!is_v1(p) && strchr(p->name, ':'))
		ec_find(c, EC_FAULT, "provider-name", line, "Choose one without.",
			"the provider's name has a colon");
	if (p->version && strcmp(p->version, "v1") != 0 && strcmp(p->version, "v2") != 0)
		ec_find(c, EC_FAULT, "kms-version", p->version_line, "Write apiVersion: v2.",
			"there is no version \"%.16s\" of the KMS interface", p->version);
	check_endpoint(c, p);
	if (p->has_timeout && p->timeout_ns <= 0)
		ec_find(c, EC_FAULT, "timeout", p->timeout_line, "Write timeout: 3s.",
			"the timeout must be more than nothing");
	if (p->has_cachesize && !is_v1(p))
		ec_find(c, EC_FAULT, "cachesize", p->cachesize_line, "Take it out.",
			"cachesize is for KMS v1; with v2 the API server refuses the file");
	else if (p->has_cachesize && p->cachesize == 0)
		ec_find(c, EC_FAULT, "cachesize", p->cachesize_line, "Take it out.",
			"cachesize must not be 0");
}

static void
check_provider(struct encryption_config *c, const struct ec_provider *p)
{
	if (p->kinds != 1)
		ec_find(c, EC_FAULT, p->kinds ? "provider-several" : "provider-none", p->line,
			p->kinds ? "Give each an entry of its own: their order counts."
				 : "Name kms, aescbc, aesgcm, secretbox or identity: {}.",
			p->kinds ? "this entry names several providers"
				 : "this entry names no provider");
	if (p->kinds != 1)
		return;
	if (key_rules[p->kind].keys && p->keys_count == 0)
		ec_find(c, EC_FAULT, "no-keys", p->line, "Give it one, with name and secret.",
			"this %s provider has no keys", ec_kind_names[p->kind]);
	for (size_t i = 0; key_rules[p->kind].keys && i < p->keys_count; i++)
		check_key(c, p->kind, &p->keys[i]);
	if (p->kind == EC_KMS)
		check_kms(c, p);
}

/* ---- names of kms providers: each once in the whole file ---- */

static const struct ec_provider *
find_above(const struct encryption_config *c, const struct ec_provider *p)
{
	for (size_t i = 0; i < c->groups_count; i++)
		for (size_t j = 0; j < c->groups[i].providers_count; j++) {
			const struct ec_provider *q = &c->groups[i].providers[j];
			if (q == p)
				return NULL;
			if (q->kind == EC_KMS && q->name && strcmp(q->name, p->name) == 0)
				return q;
		}
	return NULL;
}

static void
check_names(struct encryption_config *c, const struct ec_group *g)
{
	for (size_t j = 0; j < g->providers_count; j++) {
		const struct ec_provider *p = &g->providers[j], *above;
		if (p->kind != EC_KMS || !p->name || !(above = find_above(c, p)))
			continue;
		ec_find(c, is_v1(p) ? EC_WARNING : EC_FAULT, "provider-name-twice",
			p->name_line ? p->name_line : p->line,
			"Put all resources that it encrypts into one entry.",
			"a kms provider \"%.64s\" stands in line %u already%s", p->name,
			above->line,
			is_v1(p) ? ": with automatic reload the API server refuses that" : "");
	}
}

void
encryption_config_check(struct encryption_config *c)
{
	if (c->groups_count == 0)
		ec_find(c, EC_FAULT, "no-resources", 1,
			"Give it an entry with resources and providers.", "it has no resources");
	for (size_t i = 0; i < c->groups_count; i++) {
		const struct ec_group *g = &c->groups[i];
		check_resources(c, i);
		if (g->providers_count == 0)
			ec_find(c, EC_FAULT, "no-providers", g->line,
				"Name at least one: the first one writes, all read.",
				"this entry names no providers");
		for (size_t j = 0; j < g->providers_count; j++)
			check_provider(c, &g->providers[j]);
		check_names(c, g);
	}
}
