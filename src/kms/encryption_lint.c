/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the API server loads and an operator should know: plaintext, weak providers, resources that
 * were forgotten, and what does not go with this host's plugin. Not here: what it refuses
 * (encryption_check.c).
 */
#include "encryption_config.h"

#include "kekd/str.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define TIMEOUT_LONG_NS INT64_C(10000000000)

typedef void provider_fn(struct encryption_config *c, const struct ec_group *g,
	const struct ec_provider *p, const struct ec_plugin *plugin);

static unsigned
line_or(unsigned line, unsigned otherwise)
{
	return line ? line : otherwise;
}

static bool
is_first(const struct ec_group *g, const struct ec_provider *p)
{
	return p == g->providers;
}

static bool
has_identity(const struct ec_group *g)
{
	for (size_t i = 0; i < g->providers_count; i++)
		if (g->providers[i].kind == EC_IDENTITY)
			return true;
	return false;
}

/* ---- plaintext ---- */

static bool
group_has(const struct ec_group *g, const char *resource)
{
	for (size_t i = 0; i < g->resources_count; i++)
		if (ec_covers(g->resources[i].text, resource))
			return true;
	return false;
}

static void
lint_identity_first(struct encryption_config *c, const struct ec_group *g)
{
	bool alone = g->providers_count == 1;
	/* An entry for identity alone, without Secrets, is meant so. */
	enum ec_level level = alone && !group_has(g, "secrets") ? EC_NOTE : EC_WARNING;

	ec_find(c, level, alone ? "identity-alone" : "identity-first", g->providers[0].line,
		level == EC_NOTE
			? "Keep it so if that is meant."
			: "Put the provider that is to encrypt above it, once all API servers can "
			  "read with it.",
		alone ? "identity is the only provider here: %s of line %u lie in plaintext in etcd"
		      : "identity stands first: %s of line %u are written in plaintext",
		g->resources_count == 1 ? g->resources[0].text : "all resources",
		g->resources[0].line);
}

static void
lint_identity(struct encryption_config *c, const struct ec_group *g)
{
	if (g->providers[0].kind == EC_IDENTITY)
		lint_identity_first(c, g);
	else if (!has_identity(g))
		ec_find(c, EC_NOTE, "identity-absent", g->line,
			"kekctl etcd-snapshot tells whether any is left in plaintext; as long as "
			"there is, put identity: {} last.",
			"without identity, what was stored in plaintext cannot be read");
}

/* ---- providers ---- */

static void
lint_aescbc(struct encryption_config *c, const struct ec_group *g, const struct ec_provider *p,
	const struct ec_plugin *plugin)
{
	(void)plugin;
	if (is_first(g, p))
		ec_find(c, EC_WARNING, "aescbc-weak", p->line,
			"Move to kekd: this command's plan says how.",
			"aescbc authenticates nothing (padding oracles), and its key lies on the "
			"disk beside what it protects");
}

static void
lint_aesgcm(struct encryption_config *c, const struct ec_group *g, const struct ec_provider *p,
	const struct ec_plugin *plugin)
{
	(void)plugin;
	if (is_first(g, p))
		ec_find(c, EC_WARNING, "aesgcm-rotation", p->line,
			"Move to kekd, or make sure that something rotates its key.",
			"aesgcm has random nonces: its key must be replaced every 200,000 writes, "
			"which nothing here does");
}

static void
lint_secretbox(struct encryption_config *c, const struct ec_group *g, const struct ec_provider *p,
	const struct ec_plugin *plugin)
{
	(void)plugin;
	if (is_first(g, p))
		ec_find(c, EC_NOTE, "secretbox-key", p->line,
			"Move to kekd, where it lies in a token.",
			"secretbox's key lies on the disk of every API server");
}

static void
lint_version(struct encryption_config *c, const struct ec_provider *p)
{
	if (p->version && strcmp(p->version, "v1") != 0)
		return;
	ec_find(c, EC_WARNING, "kms-v1", line_or(p->version_line, p->line),
		"For kekd write apiVersion: v2; another plugin's maker says whether it can v2.",
		p->version ? "KMS v1 is off since Kubernetes 1.29 unless a feature gate allows it"
			   : "without apiVersion this is KMS v1, which is off since Kubernetes "
			     "1.29");
}

const char *
ec_socket_path(const char *endpoint)
{
	const char *path = endpoint;

	if (!endpoint || strncasecmp(endpoint, "unix:", 5) != 0)
		return NULL;
	path += 5;
	if (strncmp(path, "//", 2) == 0)
		path = strchr(path + 2, '/');
	return path && path[0] == '/' && path[1] ? path : NULL;
}

static void
lint_endpoint(struct encryption_config *c, const struct ec_provider *p)
{
	const char *path = ec_socket_path(p->endpoint);

	if (!path || (strncasecmp(p->endpoint, "unix://", 7) == 0 && p->endpoint[7] != '/'))
		ec_find(c, EC_WARNING, "endpoint-slashes", p->endpoint_line,
			"Write three slashes: unix:///PATH.",
			"the API server takes %s for the socket's path", path ? path : "nothing");
	else if (path[1] == '@')
		ec_find(c, EC_WARNING, "endpoint-abstract", p->endpoint_line,
			"Give the plugin a socket in a directory of root's.",
			"an abstract socket has no mode and no owner: every process of this host "
			"may ask it to decrypt");
}

static void
lint_timeout(
	struct encryption_config *c, const struct ec_provider *p, const struct ec_plugin *plugin)
{
	int64_t ns = p->has_timeout ? p->timeout_ns : (int64_t)EC_TIMEOUT_DEFAULT_NS;
	int64_t least = plugin ? (int64_t)plugin->timeout_ns : (int64_t)EC_TIMEOUT_DEFAULT_NS;
	unsigned line = line_or(p->timeout_line, p->line);

	if (ns < least || (plugin && ns == least))
		ec_find(c, EC_WARNING, "timeout-short", line, "Write timeout: 3s.",
			"after %.4g s the API server gives up, before the plugin has tried "
			"another node (%.4g s)",
			(double)ns / 1e9, (double)least / 1e9);
	else if (ns > TIMEOUT_LONG_NS)
		ec_find(c, EC_WARNING, "timeout-long", line, "Write timeout: 3s.",
			"while the plugin hangs, every read of a Secret waits for %.4g s",
			(double)ns / 1e9);
	else if (ns > (int64_t)EC_TIMEOUT_DEFAULT_NS)
		ec_find(c, EC_NOTE, "timeout-long", line, "3s is enough for kekd's plugin.",
			"the timeout is %.4g s", (double)ns / 1e9);
}

/* Is it this host's plugin, by name or by socket? */
static void
lint_plugin(
	struct encryption_config *c, const struct ec_provider *p, const struct ec_plugin *plugin)
{
	const char *path = ec_socket_path(p->endpoint);
	bool name = strcmp(p->name, plugin->provider) == 0;
	bool socket = path && plugin->socket && strcmp(path, plugin->socket) == 0;

	if (socket && !name)
		ec_find(c, EC_WARNING, "provider-name-changed", line_or(p->name_line, p->line),
			"Name them alike; the name that is in etcd already is the one to keep, for "
			"ever.",
			"the plugin at this socket is configured as provider \"%.64s\", and this "
			"entry calls it \"%.64s\"; the name is a part of what is stored",
			plugin->provider, p->name);
	if (name && !socket)
		ec_find(c, EC_WARNING, "endpoint-differs", line_or(p->endpoint_line, p->line),
			"Write the socket that kekd-kms.yaml names.",
			"kekd-kms listens at %.200s, and not at this endpoint",
			plugin->socket ? plugin->socket : "another socket");
}

static void
lint_kms(struct encryption_config *c, const struct ec_group *g, const struct ec_provider *p,
	const struct ec_plugin *plugin)
{
	const char *path = ec_socket_path(p->endpoint);
	bool ours = plugin &&
		    (strcmp(p->name, plugin->provider) == 0 ||
			    (path && plugin->socket && strcmp(path, plugin->socket) == 0));

	(void)g;
	lint_version(c, p);
	lint_endpoint(c, p);
	lint_timeout(c, p, ours ? plugin : NULL);
	if (ours)
		lint_plugin(c, p, plugin);
}

static provider_fn *const lints[EC_KINDS] = {
	[EC_AESCBC] = lint_aescbc,
	[EC_AESGCM] = lint_aesgcm,
	[EC_SECRETBOX] = lint_secretbox,
	[EC_KMS] = lint_kms,
};

/* Key names are the only thing by which what is stored tells its key. */
static void
lint_key_names(
	struct encryption_config *c, const struct ec_provider *p, const struct ec_provider *q)
{
	for (size_t i = 0; i < p->keys_count; i++)
		for (size_t j = 0; j < q->keys_count; j++) {
			const struct ec_key *a = &p->keys[i], *b = &q->keys[j];
			if (a->line >= b->line || strcmp(a->name, b->name) != 0 ||
				memcmp(a->digest, b->digest, EC_DIGEST_SIZE) == 0)
				continue;
			ec_find(c, EC_WARNING, "key-name-twice", b->line,
				"Give the new one another name.",
				"another key of line %u is called \"%.64s\" too: what is stored "
				"does not say which of the two it needs",
				a->line, b->name);
		}
}

static void
lint_group(struct encryption_config *c, const struct ec_group *g, const struct ec_plugin *plugin)
{
	lint_identity(c, g);
	for (size_t i = 0; i < g->providers_count; i++) {
		const struct ec_provider *p = &g->providers[i];
		if (lints[p->kind])
			lints[p->kind](c, g, p, plugin);
		for (size_t j = 0; j < g->providers_count; j++)
			if (g->providers[j].kind == p->kind)
				lint_key_names(c, p, &g->providers[j]);
	}
}

/* ---- the whole file ---- */

const struct ec_group *
ec_group_of(const struct encryption_config *c, const char *resource)
{
	const struct ec_group *found = NULL;
	const char *best = NULL, *texts[2];

	for (size_t i = 0; i < c->groups_count; i++)
		for (size_t j = 0; j < c->groups[i].resources_count; j++) {
			texts[0] = best ? best : "";
			texts[1] = c->groups[i].resources[j].text;
			if (ec_best(texts, 2, resource) == texts[1] &&
				(!best || strcmp(best, texts[1]) != 0)) {
				best = texts[1];
				found = &c->groups[i];
			}
		}
	return found;
}

static void
lint_forgotten(struct encryption_config *c)
{
	static const struct {
		const char *resource, *code, *text;
	} wanted[] = {
		{ "secrets", "secrets-forgotten", "Secrets stand nowhere: they lie in plaintext" },
		{ "configmaps", "configmaps-forgotten",
			"ConfigMaps stand nowhere: they lie in plaintext, and often hold what is "
			"secret" },
	};

	for (size_t i = 0; i < STR_COUNT(wanted); i++)
		if (!ec_group_of(c, wanted[i].resource))
			ec_find(c, EC_WARNING, wanted[i].code, 0,
				"Add them to the resources of an entry; for plaintext that is "
				"meant, "
				"give them an entry with identity alone.",
				"%s", wanted[i].text);
	if (!ec_group_of(c, "*.*"))
		ec_find(c, EC_NOTE, "custom-resources", 0,
			"Name those that hold secrets as NAME.GROUP, or all resources as '*.*'.",
			"custom resources are encrypted only where they are named");
}

/* One list above, one below: the API server joins them. */
static void
lint_twice(struct encryption_config *c, size_t group, const struct ec_resource *r)
{
	for (size_t i = 0; i < group; i++)
		for (size_t j = 0; j < c->groups[i].resources_count; j++) {
			const struct ec_resource *above = &c->groups[i].resources[j];
			if (strcmp(above->text, r->text) != 0 || ec_is_wildcard(r->text))
				continue;
			ec_find(c, EC_WARNING, "resource-in-two-entries", r->line,
				"Give it one entry, with the providers in their order.",
				"\"%.64s\" stands in line %u as well: the providers there come "
				"first, and these only read",
				r->text, above->line);
		}
}

/* Two names for one plugin, or one socket for two. */
static void
lint_sockets(struct encryption_config *c, const struct ec_provider *p)
{
	for (size_t i = 0; i < c->groups_count; i++)
		for (size_t j = 0; j < c->groups[i].providers_count; j++) {
			const struct ec_provider *q = &c->groups[i].providers[j];
			if (q == p)
				return;
			if (q->kind == EC_KMS && strcmp(q->endpoint, p->endpoint) == 0 &&
				strcmp(q->name, p->name) != 0)
				ec_find(c, EC_WARNING, "endpoint-shared", p->endpoint_line,
					"Give each name a plugin and a socket of its own.",
					"\"%.64s\" and \"%.64s\" (line %u) are at the same socket, "
					"and a plugin is one provider",
					p->name, q->name, q->line);
		}
}

void
encryption_config_lint(struct encryption_config *c, const struct ec_plugin *plugin)
{
	if (ec_count(c, EC_FAULT) > 0)
		return;
	for (size_t i = 0; i < c->groups_count; i++) {
		const struct ec_group *g = &c->groups[i];
		lint_group(c, g, plugin);
		for (size_t j = 0; j < g->resources_count; j++)
			lint_twice(c, i, &g->resources[j]);
		for (size_t j = 0; j < g->providers_count; j++)
			if (g->providers[j].kind == EC_KMS)
				lint_sockets(c, &g->providers[j]);
	}
	lint_forgotten(c);
	ec_sort_findings(c);
}
