/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an EncryptionConfiguration's document may say: a table of members for each mapping, and a
 * function for each sort of value. The API server decodes strictly, and so does this: a member that
 * is unknown or given twice is a fault. Not here: what values may be (encryption_check.c).
 */
#include "encryption_read.h"

#include "kekd/str.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#define NODES_MAX 100000
#define SECRET_MAX 1024

struct source {
	struct encryption_config *config;
	yaml_document_t *document;
	unsigned nodes; /* visited: an alias is visited again */
};

/* A new element at the list's end, all zero; NULL without memory. */
static void *
grow(struct encryption_config *c, void *list_at, size_t *count, size_t size)
{
	void **list = list_at;
	char *grown = reallocarray(*list, *count + 1, size);

	if (!grown) {
		c->no_memory = true;
		return NULL;
	}
	*list = grown;
	memset(grown + *count * size, 0, size);
	return grown + (*count)++ * size;
}

/* ---- nodes ---- */

typedef void take_fn(struct source *s, yaml_node_t *node, void *into);

struct member {
	const char *name;
	take_fn *take;
};

static unsigned
line_of(const yaml_node_t *node)
{
	return (unsigned)node->start_mark.line + 1;
}

#define FAULT(s, node, code, remedy, ...) \
	ec_find((s)->config, EC_FAULT, code, line_of(node), remedy, __VA_ARGS__)

static yaml_node_t *
node_at(struct source *s, int number)
{
	yaml_node_t *node = yaml_document_get_node(s->document, number);

	if (++s->nodes < NODES_MAX)
		return node;
	if (s->nodes == NODES_MAX)
		FAULT(s, node, "too-large", "Write it out without aliases, or shorten it.",
			"there is too much here");
	return NULL;
}

/* A value that is plain and no text: the API server takes it for a number, a bool or nothing. */
static bool
is_other_than_text(const yaml_node_t *node)
{
	static const char *const words[] = { "~", "null", "true", "false", "yes", "no", "on", "off",
		"y", "n" };
	const char *text = (const char *)node->data.scalar.value;
	char *end;

	if (node->data.scalar.style != YAML_PLAIN_SCALAR_STYLE)
		return false;
	for (size_t i = 0; i < STR_COUNT(words); i++)
		if (strcasecmp(words[i], text) == 0)
			return true;
	strtod(text, &end);
	return *text && !*end;
}

static bool
is_null(const yaml_node_t *node)
{
	const char *text = (const char *)node->data.scalar.value;

	return node->type == YAML_SCALAR_NODE &&
	       node->data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
	       (!*text || strcmp(text, "~") == 0 || strcasecmp(text, "null") == 0);
}

/* Borrowed; NULL: it is none, and has been said. Never says what it holds. */
static const char *
text_of(struct source *s, const yaml_node_t *node, const char *member)
{
	const char *text = (const char *)node->data.scalar.value;

	if (node->type != YAML_SCALAR_NODE)
		FAULT(s, node, "wrong-type", "Write one word or a quoted text.",
			"%s must be a text", member);
	else if (strlen(text) != node->data.scalar.length)
		FAULT(s, node, "wrong-type", "Take the NUL out.", "%s has a NUL", member);
	else if (is_null(node))
		FAULT(s, node, "no-value", "Give it one, or take the line out.", "%s has no value",
			member);
	else if (is_other_than_text(node))
		FAULT(s, node, "wrong-type", "Put it in quotes.",
			"%s must be a text, and this is a number or another kind of value", member);
	else
		return text;
	return NULL;
}

static void
take_text(struct source *s, yaml_node_t *node, const char *member, char **into)
{
	const char *text = text_of(s, node, member);

	if (!text)
		return;
	free(*into);
	*into = strdup(text);
	s->config->no_memory |= !*into;
}

static bool
given_before(const struct source *s, const yaml_node_t *mapping, const yaml_node_pair_t *p,
	const char *name)
{
	for (const yaml_node_pair_t *q = mapping->data.mapping.pairs.start; q < p; q++) {
		const yaml_node_t *key = yaml_document_get_node(s->document, q->key);
		if (key->type == YAML_SCALAR_NODE &&
			strcmp((const char *)key->data.scalar.value, name) == 0)
			return true;
	}
	return false;
}

static const struct member *
member_find(const struct member *members, const char *name)
{
	for (; members->name; members++)
		if (strcmp(members->name, name) == 0)
			return members;
	return NULL;
}

static void
names_of(const struct member *members, char *ret_text, size_t size)
{
	size_t len = 0;

	ret_text[0] = '\0';
	for (; members->name && len < size; members++)
		len += (size_t)snprintf(
			ret_text + len, size - len, "%s%s", len ? ", " : "", members->name);
}

static void
take_member(struct source *s, const char *what, const struct member *members,
	const yaml_node_t *mapping, const yaml_node_pair_t *pair, void *into)
{
	yaml_node_t *key = node_at(s, pair->key), *value;
	const char *name = key ? text_of(s, key, "a member's name") : NULL;
	const struct member *m = name ? member_find(members, name) : NULL;
	char names[256], remedy[320];

	if (!name)
		return;
	names_of(members, names, sizeof(names));
	snprintf(remedy, sizeof(remedy), "It may have: %s.", names);
	if (!m)
		FAULT(s, key, "unknown-member", remedy, "%s has no member \"%.64s\"", what, name);
	else if (given_before(s, mapping, pair, name))
		FAULT(s, key, "given-twice", "Leave one of them.", "\"%s\" is given twice", name);
	else if ((value = node_at(s, pair->value)))
		m->take(s, value, into);
}

static void
take_mapping(struct source *s, yaml_node_t *node, const char *what, const struct member *members,
	void *into)
{
	char names[256], remedy[320];

	if (node->type == YAML_MAPPING_NODE) {
		for (yaml_node_pair_t *p = node->data.mapping.pairs.start;
			p < node->data.mapping.pairs.top; p++)
			take_member(s, what, members, node, p, into);
		return;
	}
	names_of(members, names, sizeof(names));
	snprintf(remedy, sizeof(remedy), "It may have: %s.", names);
	FAULT(s, node, "wrong-type", remedy, "%s must be a mapping", what);
}

static void
take_list(struct source *s, yaml_node_t *node, const char *member, take_fn *take, void *into)
{
	if (is_null(node))
		return; /* as if it were empty */
	if (node->type != YAML_SEQUENCE_NODE) {
		FAULT(s, node, "wrong-type", "Write a list: each entry behind \"- \".",
			"%s must be a list", member);
		return;
	}
	for (yaml_node_item_t *i = node->data.sequence.items.start;
		i < node->data.sequence.items.top; i++) {
		yaml_node_t *item = node_at(s, *i);
		if (item)
			take(s, item, into);
	}
}

/* ---- keys ---- */

static void
take_key_name(struct source *s, yaml_node_t *node, void *into)
{
	take_text(s, node, "a key's name", &((struct ec_key *)into)->name);
}

/* Line ends count for nothing, as in a text that goes over several lines. */
static int
decode_secret(const char *text, uint8_t secret[SECRET_MAX], size_t *ret_len)
{
	char line[STR_BASE64_SIZE(SECRET_MAX) + 1];
	size_t len = 0;
	int err;

	for (; *text && len < sizeof(line); text++)
		if (*text != '\n' && *text != '\r')
			line[len++] = *text;
	err = len < sizeof(line) ? str_unbase64(line, len, secret, SECRET_MAX, ret_len) : -E2BIG;
	OPENSSL_cleanse(line, sizeof(line));
	return err;
}

/* What it holds is not kept and not said. */
static void
take_secret(struct source *s, yaml_node_t *node, void *into)
{
	struct ec_key *key = into;
	const char *text = text_of(s, node, "a key's secret");
	uint8_t secret[SECRET_MAX];

	if (!text)
		return;
	key->has_secret = decode_secret(text, secret, &key->secret_len) == 0;
	if (!key->has_secret)
		FAULT(s, node, "secret",
			"Make one with: head -c 32 /dev/urandom | base64 (on one line).",
			"the key's secret is not the base64 of a key");
	else if (EVP_Digest(secret, key->secret_len, key->digest, NULL, EVP_sha256(), NULL) != 1)
		s->config->no_memory = true;
	OPENSSL_cleanse(secret, sizeof(secret));
}

static void
take_key(struct source *s, yaml_node_t *node, void *into)
{
	static const struct member members[] = { { "name", take_key_name },
		{ "secret", take_secret }, { NULL, NULL } };
	struct ec_provider *p = into;
	struct ec_key *key = grow(s->config, &p->keys, &p->keys_count, sizeof(*key));

	if (!key)
		return;
	key->line = line_of(node);
	take_mapping(s, node, "a key", members, key);
}

static void
take_keys(struct source *s, yaml_node_t *node, void *into)
{
	take_list(s, node, "keys", take_key, into);
}

/* ---- kms ---- */

static void
take_name(struct source *s, yaml_node_t *node, void *into)
{
	struct ec_provider *p = into;

	p->name_line = line_of(node);
	take_text(s, node, "the provider's name", &p->name);
}

static void
take_endpoint(struct source *s, yaml_node_t *node, void *into)
{
	struct ec_provider *p = into;

	p->endpoint_line = line_of(node);
	take_text(s, node, "endpoint", &p->endpoint);
}

static void
take_version(struct source *s, yaml_node_t *node, void *into)
{
	struct ec_provider *p = into;

	p->version_line = line_of(node);
	take_text(s, node, "apiVersion", &p->version);
}

/* Go's durations behind their sign, to the nanosecond: "3s", "1m30s", "1.5s", "500ms". */
static int
parse_go_duration(const char *text, int64_t *ret_ns)
{
	static const struct {
		const char *name;
		double ns;
	} units[] = { { "ns", 1 }, { "us", 1e3 }, { "\xc2\xb5s", 1e3 }, { "ms", 1e6 }, { "s", 1e9 },
		{ "m", 60e9 }, { "h", 3600e9 } };
	double ns = 0;

	if (!*text)
		return -EINVAL;
	for (size_t u; *text; text += strlen(units[u].name)) {
		size_t digits = strspn(text, "0123456789.");
		char *end, number[32];
		double value;

		if (digits == 0 || digits >= sizeof(number))
			return -EINVAL;
		memcpy(number, text, digits);
		number[digits] = '\0';
		value = strtod(number, &end);
		if (*end)
			return -EINVAL;
		text += digits;
		for (u = 0; u < STR_COUNT(units); u++)
			if (strncmp(text, units[u].name, strlen(units[u].name)) == 0 &&
				strchr("0123456789.", text[strlen(units[u].name)]))
				break;
		if (u == STR_COUNT(units))
			return -EINVAL;
		ns += value * units[u].ns;
	}
	if (ns > 9.2e18)
		return -ERANGE;
	*ret_ns = (int64_t)ns;
	return 0;
}

static void
take_timeout(struct source *s, yaml_node_t *node, void *into)
{
	struct ec_provider *p = into;
	const char *text = text_of(s, node, "timeout");
	bool negative = text && *text == '-', has_sign = text && (negative || *text == '+');

	p->timeout_line = line_of(node);
	if (!text)
		return;
	if (strcmp(text, "0") == 0) {
		p->has_timeout = true;
	} else if (parse_go_duration(text + has_sign, &p->timeout_ns) == 0) {
		p->has_timeout = true;
		p->timeout_ns = negative ? -p->timeout_ns : p->timeout_ns;
	} else {
		FAULT(s, node, "timeout", "Write a number with its unit, as in 3s.",
			"timeout \"%.32s\" is no duration", text);
	}
}

static void
take_cachesize(struct source *s, yaml_node_t *node, void *into)
{
	struct ec_provider *p = into;
	const char *text = (const char *)node->data.scalar.value;
	char *end = NULL;

	p->cachesize_line = line_of(node);
	if (is_null(node))
		return;
	errno = 0;
	if (node->type == YAML_SCALAR_NODE && node->data.scalar.style == YAML_PLAIN_SCALAR_STYLE)
		p->cachesize = strtoll(text, &end, 10);
	p->has_cachesize = end && end != text && !*end && errno == 0 &&
			   p->cachesize == (int32_t)p->cachesize;
	if (!p->has_cachesize)
		FAULT(s, node, "wrong-type", "Take it out: it is for KMS v1 alone.",
			"cachesize must be a whole number");
}

/* ---- providers ---- */

static void
take_kind(struct source *s, yaml_node_t *node, struct ec_provider *p, enum ec_kind kind,
	const char *what, const struct member *members)
{
	if (is_null(node))
		return; /* as if it were not there */
	p->kind = kind;
	p->kinds++;
	take_mapping(s, node, what, members, p);
}

static const struct member key_members[] = { { "keys", take_keys }, { NULL, NULL } };

static void
take_aesgcm(struct source *s, yaml_node_t *node, void *into)
{
	take_kind(s, node, into, EC_AESGCM, "aesgcm", key_members);
}

static void
take_aescbc(struct source *s, yaml_node_t *node, void *into)
{
	take_kind(s, node, into, EC_AESCBC, "aescbc", key_members);
}

static void
take_secretbox(struct source *s, yaml_node_t *node, void *into)
{
	take_kind(s, node, into, EC_SECRETBOX, "secretbox", key_members);
}

static void
take_identity(struct source *s, yaml_node_t *node, void *into)
{
	static const struct member none[] = { { NULL, NULL } };

	take_kind(s, node, into, EC_IDENTITY, "identity", none);
}

static void
take_kms(struct source *s, yaml_node_t *node, void *into)
{
	static const struct member members[] = { { "apiVersion", take_version },
		{ "name", take_name }, { "endpoint", take_endpoint }, { "timeout", take_timeout },
		{ "cachesize", take_cachesize }, { NULL, NULL } };

	take_kind(s, node, into, EC_KMS, "kms", members);
}

static void
take_provider(struct source *s, yaml_node_t *node, void *into)
{
	static const struct member members[] = { { "kms", take_kms }, { "aescbc", take_aescbc },
		{ "aesgcm", take_aesgcm }, { "secretbox", take_secretbox },
		{ "identity", take_identity }, { NULL, NULL } };
	struct ec_group *g = into;
	struct ec_provider *p = grow(s->config, &g->providers, &g->providers_count, sizeof(*p));

	if (!p)
		return;
	p->line = line_of(node);
	take_mapping(s, node, "a provider", members, p);
}

/* ---- groups ---- */

static void
take_resource(struct source *s, yaml_node_t *node, void *into)
{
	struct ec_group *g = into;
	const char *text = text_of(s, node, "a resource");
	struct ec_resource *r;

	if (!text)
		return;
	r = grow(s->config, &g->resources, &g->resources_count, sizeof(*r));
	if (!r)
		return;
	r->line = line_of(node);
	r->text = strdup(text);
	if (!r->text) {
		g->resources_count--;
		s->config->no_memory = true;
	}
}

static void
take_resources(struct source *s, yaml_node_t *node, void *into)
{
	take_list(s, node, "resources", take_resource, into);
}

static void
take_providers(struct source *s, yaml_node_t *node, void *into)
{
	take_list(s, node, "providers", take_provider, into);
}

static void
take_group(struct source *s, yaml_node_t *node, void *into)
{
	static const struct member members[] = { { "resources", take_resources },
		{ "providers", take_providers }, { NULL, NULL } };
	struct encryption_config *c = into;
	struct ec_group *g = grow(c, &c->groups, &c->groups_count, sizeof(*g));

	if (!g)
		return;
	g->line = line_of(node);
	take_mapping(s, node, "an entry of resources", members, g);
}

static void
take_groups(struct source *s, yaml_node_t *node, void *into)
{
	take_list(s, node, "resources", take_group, into);
}

/* ---- the document ---- */

static void
take_api_version(struct source *s, yaml_node_t *node, void *into)
{
	const char *text = text_of(s, node, "apiVersion");

	(void)into;
	if (text && strcmp(text, "apiserver.config.k8s.io/v1") != 0)
		FAULT(s, node, "api-version", "Write apiserver.config.k8s.io/v1.",
			"apiVersion is \"%.64s\"", text);
}

static void
take_kind_name(struct source *s, yaml_node_t *node, void *into)
{
	const char *text = text_of(s, node, "kind");

	(void)into;
	if (text && strcmp(text, "EncryptionConfiguration") != 0)
		FAULT(s, node, "kind",
			"Give the file of the API server's --encryption-provider-config; its kind "
			"is "
			"EncryptionConfiguration.",
			"this is a \"%.64s\"", text);
}

static bool
has_member(const struct source *s, const yaml_node_t *mapping, const char *name)
{
	return mapping->type == YAML_MAPPING_NODE &&
	       given_before(s, mapping, mapping->data.mapping.pairs.top, name);
}

void
ec_take_document(struct encryption_config *c, yaml_document_t *document, yaml_node_t *root)
{
	struct source here = { .config = c, .document = document }, *s = &here;
	static const struct member members[] = { { "apiVersion", take_api_version },
		{ "kind", take_kind_name }, { "resources", take_groups }, { NULL, NULL } };

	take_mapping(s, root, "an EncryptionConfiguration", members, s->config);
	if (root->type != YAML_MAPPING_NODE)
		return;
	if (!has_member(s, root, "apiVersion"))
		FAULT(s, root, "api-version", "Write apiVersion: apiserver.config.k8s.io/v1.",
			"there is no apiVersion");
	if (!has_member(s, root, "kind"))
		FAULT(s, root, "kind", "Write kind: EncryptionConfiguration.", "there is no kind");
}
