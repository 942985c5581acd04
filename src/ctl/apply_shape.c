/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a document may say: a table of members for each kind, and a function for each sort of value.
 * All of it is checked here before anything is asked of the server; a finding names its line.
 * kekctl-apply(5) is the same table for people.
 */
#include "apply.h"

#include "kekd/clock.h"

#include <arpa/inet.h>
#include <string.h>

#define LABELS_MAX 64
#define LABEL_NAME_MAX 64
#define LABEL_VALUE_MAX 256
#define LIMIT_MAX 1000000
#define APPROVALS_MAX 5

const char *const apply_kind_names[APPLY_KINDS] = {
	[APPLY_KEY] = "key",
	[APPLY_CLIENT] = "client",
	[APPLY_POLICY] = "policy",
};

const char *
apply_label(const struct apply_resource *r)
{
	return show_format("%s%s%s", apply_kind_names[r->kind], *r->name ? " " : "", r->name);
}

struct source {
	const char *file;
	yaml_document_t *document;
	struct apply_set *set;
	bool *seen; /* by the nodes' numbers */
};

/* NULL: it is not as it should be, and has been said. */
typedef json_t *take_fn(struct source *r, yaml_node_t *node, const char *member);

struct member {
	const char *name;
	take_fn *take;
	bool required;
};

struct shape {
	const char *what; /* "a key", for findings */
	const struct member *members;
	size_t count;
};

static unsigned
line_of(const yaml_node_t *node)
{
	return (unsigned)node->start_mark.line + 1;
}

#define FINDING(r, node, ...) apply_finding((r)->set, (r)->file, line_of(node), __VA_ARGS__)

/* ---- nodes ---- */

/* A node is a value of one place only: an alias would make it that of another one, for which no
 * line could be named, or of itself. */
static yaml_node_t *
node_at(struct source *r, int number)
{
	yaml_node_t *node = yaml_document_get_node(r->document, number);

	if (!r->seen[number]) {
		r->seen[number] = true;
		return node;
	}
	FINDING(r, node, "there is an alias to this: write it out where it is wanted");
	return NULL;
}

/* The text of a scalar, or NULL. */
static const char *
text_of(struct source *r, const yaml_node_t *node, const char *member)
{
	const char *text = (const char *)node->data.scalar.value;

	if (node->type != YAML_SCALAR_NODE)
		FINDING(r, node, "%s must be a text", member);
	else if (strlen(text) != node->data.scalar.length)
		FINDING(r, node, "%s has a NUL", member);
	else if (!*text && node->data.scalar.style == YAML_PLAIN_SCALAR_STYLE)
		FINDING(r, node, "%s has no value", member);
	else
		return text;
	return NULL;
}

static const struct member *
member_find(const struct shape *shape, const char *name)
{
	for (size_t i = 0; i < shape->count; i++)
		if (strcmp(shape->members[i].name, name) == 0)
			return &shape->members[i];
	return NULL;
}

static const char *
names_of(const struct shape *shape)
{
	const char *names = "";

	for (size_t i = 0; i < shape->count; i++)
		names = show_format("%s%s%s", names, i > 0 ? ", " : "", shape->members[i].name);
	return names;
}

static void
take_member(struct source *r, const struct shape *shape, const yaml_node_pair_t *pair,
	json_t *taken, json_t *lines)
{
	yaml_node_t *key = node_at(r, pair->key), *node;
	const char *name = key ? text_of(r, key, "a member's name") : NULL;
	const struct member *m = name ? member_find(shape, name) : NULL;
	json_t *value;

	if (name && !m)
		FINDING(r, key, "%s has no member \"%s\"; it may have %s", shape->what, name,
			names_of(shape));
	if (m && json_object_get(lines, name)) {
		FINDING(r, key, "\"%s\" is given twice: first in line %lld", name,
			(long long)json_integer_value(json_object_get(lines, name)));
		return;
	}
	node = m ? node_at(r, pair->value) : NULL;
	if (!node)
		return;
	json_object_set_new(lines, name, json_integer(line_of(key)));
	value = m->take(r, node, name);
	if (value)
		json_object_set_new(taken, name, value);
}

/* What was right of it; findings tell whether that is all. NULL: it is no mapping. */
static json_t *
take_mapping(struct source *r, yaml_node_t *node, const struct shape *shape, json_t *lines)
{
	json_t *taken;

	if (node->type != YAML_MAPPING_NODE) {
		FINDING(r, node, "%s must be a mapping of %s", shape->what, names_of(shape));
		return NULL;
	}
	taken = json_object();
	for (yaml_node_pair_t *p = node->data.mapping.pairs.start; p < node->data.mapping.pairs.top;
		p++)
		take_member(r, shape, p, taken, lines);
	for (size_t i = 0; i < shape->count; i++)
		if (shape->members[i].required && !json_object_get(lines, shape->members[i].name))
			FINDING(r, node, "%s needs \"%s\"", shape->what, shape->members[i].name);
	return taken;
}

/* An entry: shape if it is a mapping, else take. */
static json_t *
take_list(struct source *r, yaml_node_t *node, const char *member, const struct shape *shape,
	take_fn *take)
{
	json_t *list, *value;

	if (node->type != YAML_SEQUENCE_NODE) {
		FINDING(r, node, "%s must be a list", member);
		return NULL;
	}
	list = json_array();
	for (yaml_node_item_t *i = node->data.sequence.items.start;
		i < node->data.sequence.items.top; i++) {
		yaml_node_t *item = node_at(r, *i);
		_cleanup_(json_freep) json_t *lines = json_object();
		if (!item)
			continue;
		value = shape ? take_mapping(r, item, shape, lines) : take(r, item, member);
		for (size_t j = 0; value && j < json_array_size(list); j++)
			if (!shape && json_equal(json_array_get(list, j), value))
				FINDING(r, item, "%s has \"%s\" twice", member,
					json_string_value(value));
		if (value)
			json_array_append_new(list, value);
	}
	return list;
}

/* ---- values ---- */

static json_t *
take_text(struct source *r, yaml_node_t *node, const char *member)
{
	const char *text = text_of(r, node, member);

	return text ? json_string(text) : NULL;
}

static json_t *
take_name(struct source *r, yaml_node_t *node, const char *member)
{
	const char *text = text_of(r, node, member);

	if (text && str_is_name(text))
		return json_string(text);
	if (text)
		FINDING(r, node,
			"%s \"%s\" must be 1 to 64 of a-z 0-9 . _ -, with a letter or "
			"digit at both ends",
			member, text);
	return NULL;
}

static json_t *
take_algorithm(struct source *r, yaml_node_t *node, const char *member)
{
	const char *text = text_of(r, node, member);

	if (text && strcmp(text, "aes256-gcm") == 0)
		return json_string(text);
	if (text)
		FINDING(r, node, "%s \"%s\" is not known; there is aes256-gcm", member, text);
	return NULL;
}

static json_t *
take_bool(struct source *r, yaml_node_t *node, const char *member)
{
	const char *text = text_of(r, node, member);

	if (text && node->data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
		(strcmp(text, "true") == 0 || strcmp(text, "false") == 0))
		return json_boolean(*text == 't');
	if (text)
		FINDING(r, node, "%s must be true or false", member);
	return NULL;
}

static json_t *
take_number(struct source *r, yaml_node_t *node, const char *member, unsigned min, unsigned max)
{
	const char *text = text_of(r, node, member);
	size_t len = text ? strlen(text) : 0;
	unsigned long n;

	if (!text)
		return NULL;
	n = strtoul(text, NULL, 10);
	if (len <= 9 && strspn(text, "0123456789") == len && (len == 1 || *text != '0') &&
		n >= min && n <= max)
		return json_integer((json_int_t)n);
	FINDING(r, node, "%s must be a number from %u to %u", member, min, max);
	return NULL;
}

static json_t *
take_limit(struct source *r, yaml_node_t *node, const char *member)
{
	return take_number(r, node, member, 0, LIMIT_MAX);
}

static json_t *
take_approvals(struct source *r, yaml_node_t *node, const char *member)
{
	return take_number(r, node, member, 1, APPROVALS_MAX);
}

static json_t *
take_duration(struct source *r, yaml_node_t *node, const char *member)
{
	const char *text = text_of(r, node, member);
	uint64_t seconds;

	if (text && clock_parse_duration(text, &seconds) == 0)
		return json_string(text);
	if (text)
		FINDING(r, node, "%s \"%s\" must be a time such as 90d, 24h, 30m or 45s", member,
			text);
	return NULL;
}

static json_t *
take_period(struct source *r, yaml_node_t *node, const char *member)
{
	const char *text = text_of(r, node, member);

	if (text && strcmp(text, "never") == 0)
		return json_null();
	return text ? take_duration(r, node, member) : NULL;
}

/* ---- labels ---- */

static json_t *
take_label_name(struct source *r, yaml_node_t *node, const char *member)
{
	const char *text = text_of(r, node, member);

	if (text && *text && strlen(text) <= LABEL_NAME_MAX)
		return json_string(text);
	if (text)
		FINDING(r, node, "a label's name has 1 to %d bytes", LABEL_NAME_MAX);
	return NULL;
}

static json_t *
take_label_value(struct source *r, yaml_node_t *node, const char *member)
{
	const char *text = text_of(r, node, member);

	if (text && strlen(text) <= LABEL_VALUE_MAX)
		return json_string(text);
	if (text)
		FINDING(r, node, "a label's value has up to %d bytes", LABEL_VALUE_MAX);
	return NULL;
}

static const struct member label_members[] = {
	{ "name", take_label_name, true },
	{ "value", take_label_value, true },
};
static const struct shape label_shape = { "a label", label_members, STR_COUNT(label_members) };

static json_t *
take_labels(struct source *r, yaml_node_t *node, const char *member)
{
	_cleanup_(json_freep) json_t *list = take_list(r, node, member, &label_shape, NULL);
	json_t *labels = list ? json_object() : NULL;
	const json_t *label;
	size_t i;

	json_array_foreach(list, i, label) {
		const char *name = string_of(label, "name");
		if (json_object_get(labels, name))
			FINDING(r, node, "label \"%s\" is given twice", name);
		if (*name && json_object_get(label, "value"))
			json_object_set(labels, name, json_object_get(label, "value"));
	}
	if (json_object_size(labels) > LABELS_MAX)
		FINDING(r, node, "a key has at most %d labels", LABELS_MAX);
	return labels;
}

/* ---- clients ---- */

static json_t *
take_identity(struct source *r, yaml_node_t *node, const char *member)
{
	static const char *const prefixes[] = { "uri:", "dns:", "spki:", "cn:" };
	const char *text = text_of(r, node, member);

	(void)member;
	for (size_t i = 0; text && i < STR_COUNT(prefixes); i++) {
		size_t len = strlen(prefixes[i]);
		if (strncmp(text, prefixes[i], len) == 0 && text[len])
			return json_string(text);
	}
	if (text)
		FINDING(r, node, "identity \"%s\" must be uri:…, dns:…, spki:SHA256 or cn:…", text);
	return NULL;
}

static json_t *
take_identities(struct source *r, yaml_node_t *node, const char *member)
{
	json_t *list = take_list(r, node, member, NULL, take_identity);

	if (list && json_array_size(list) == 0)
		FINDING(r, node, "a client needs at least one identity");
	return list;
}

static bool
is_address(const char *text)
{
	char address[INET6_ADDRSTRLEN] = "";
	size_t len = strcspn(text, "/");
	struct in6_addr binary;
	char *end;

	if (len >= sizeof(address))
		return false;
	memcpy(address, text, len);
	if (inet_pton(AF_INET, address, &binary) != 1 && inet_pton(AF_INET6, address, &binary) != 1)
		return false;
	return !text[len] || (text[len + 1] >= '0' && text[len + 1] <= '9' &&
				     strtoul(text + len + 1, &end, 10) <= 128 && !*end);
}

static json_t *
take_address(struct source *r, yaml_node_t *node, const char *member)
{
	const char *text = text_of(r, node, member);

	if (text && is_address(text))
		return json_string(text);
	if (text)
		FINDING(r, node, "\"%s\" is neither an address nor a network such as 10.0.0.0/8",
			text);
	return NULL;
}

static json_t *
take_addresses(struct source *r, yaml_node_t *node, const char *member)
{
	return take_list(r, node, member, NULL, take_address);
}

static json_t *
take_glob(struct source *r, yaml_node_t *node, const char *member)
{
	const char *text = text_of(r, node, member);
	size_t len = text ? strlen(text) : 0;

	if (len > 0 && len <= STR_NAME_MAX &&
		strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789._-*?") == len)
		return json_string(text);
	if (text)
		FINDING(r, node, "%s \"%s\" must be 1 to %d characters of a key's name, * and ?",
			member, text, STR_NAME_MAX);
	return NULL;
}

/* access/operations.c's, which a unit test compares them with. */
static const char *const operations[] = { "wrap", "unwrap", "generate", "rewrap", "verify",
	"key.read", "key.create", "key.rotate", "key.state", "key.destroy", "client.read",
	"client.write", "cluster.write", "backup", "audit.read", "status.read", "metrics.read",
	"approve" };

bool
apply_is_operation(const char *text)
{
	for (size_t i = 0; i < STR_COUNT(operations); i++)
		if (strcmp(operations[i], text) == 0)
			return true;
	return false;
}

static json_t *
take_operation(struct source *r, yaml_node_t *node, const char *member)
{
	const char *text = text_of(r, node, member);

	if (text && apply_is_operation(text))
		return json_string(text);
	if (text)
		FINDING(r, node, "\"%s\" is not an operation: \"kekctl help client add\" has them",
			text);
	return NULL;
}

static json_t *
take_operations(struct source *r, yaml_node_t *node, const char *member)
{
	json_t *list = take_list(r, node, member, NULL, take_operation);

	if (list && json_array_size(list) == 0)
		FINDING(r, node, "a grant needs at least one operation");
	return list;
}

static const struct member grant_members[] = {
	{ "keys", take_glob, true },
	{ "operations", take_operations, true },
};
static const struct shape grant_shape = { "a grant", grant_members, STR_COUNT(grant_members) };

static json_t *
take_grants(struct source *r, yaml_node_t *node, const char *member)
{
	return take_list(r, node, member, &grant_shape, NULL);
}

static const struct member limit_members[] = {
	{ "requests_per_s", take_limit, false },
	{ "in_flight", take_limit, false },
};
static const struct shape limits_shape = { "limits", limit_members, STR_COUNT(limit_members) };

static json_t *
take_limits(struct source *r, yaml_node_t *node, const char *member)
{
	_cleanup_(json_freep) json_t *lines = json_object();

	(void)member;
	return take_mapping(r, node, &limits_shape, lines);
}

static json_t *
take_when_stale(struct source *r, yaml_node_t *node, const char *member)
{
	static const char *const words[] = { "unwrap", "serve", "refuse" };
	const char *text = text_of(r, node, member);

	for (size_t i = 0; text && i < STR_COUNT(words); i++)
		if (strcmp(text, words[i]) == 0)
			return json_string(text);
	if (text)
		FINDING(r, node, "\"%s\" is not one of unwrap, serve and refuse", text);
	return NULL;
}

/* ---- documents ---- */

static const struct member key_members[] = {
	{ "kind", take_text, true },
	{ "name", take_name, true },
	{ "algorithm", take_algorithm, false },
	{ "token", take_name, false },
	{ "labels", take_labels, false },
	{ "rotate_every", take_period, false },
	{ "frozen", take_bool, false },
	{ "when_stale", take_when_stale, false },
};

static const struct member client_members[] = {
	{ "kind", take_text, true },
	{ "name", take_name, true },
	{ "identities", take_identities, true },
	{ "addresses", take_addresses, false },
	{ "grants", take_grants, true },
	{ "limits", take_limits, false },
};

static const struct member policy_members[] = {
	{ "kind", take_text, true },
	{ "approvals", take_approvals, false },
	{ "destroy_wait", take_duration, false },
	{ "approval_ttl", take_duration, false },
};

static const struct shape shapes[APPLY_KINDS] = {
	[APPLY_KEY] = { "a key", key_members, STR_COUNT(key_members) },
	[APPLY_CLIENT] = { "a client", client_members, STR_COUNT(client_members) },
	[APPLY_POLICY] = { "the policy", policy_members, STR_COUNT(policy_members) },
};

static bool
find_kind(const char *text, enum apply_kind *ret_kind)
{
	for (int kind = 0; kind < APPLY_KINDS; kind++)
		if (strcmp(text, apply_kind_names[kind]) == 0) {
			*ret_kind = (enum apply_kind)kind;
			return true;
		}
	return false;
}

/* The first "kind"; take_mapping finds a second one. */
static bool
read_kind(struct source *r, yaml_node_t *root, enum apply_kind *ret_kind)
{
	const yaml_node_t *key, *value;

	if (root->type != YAML_MAPPING_NODE) {
		FINDING(r, root, "a document must be a mapping: kind: key, name: …");
		return false;
	}
	for (yaml_node_pair_t *p = root->data.mapping.pairs.start; p < root->data.mapping.pairs.top;
		p++) {
		key = yaml_document_get_node(r->document, p->key);
		value = yaml_document_get_node(r->document, p->value);
		if (key->type != YAML_SCALAR_NODE ||
			strcmp((const char *)key->data.scalar.value, "kind") != 0)
			continue;
		if (value->type == YAML_SCALAR_NODE &&
			find_kind((const char *)value->data.scalar.value, ret_kind))
			return true;
		FINDING(r, value, "kind must be key, client or policy");
		return false;
	}
	FINDING(r, root, "a document needs a kind: key, client or policy");
	return false;
}

static const struct apply_resource *
find_same(const struct apply_set *s, enum apply_kind kind, const char *name)
{
	for (size_t i = 0; i < s->count; i++)
		if (s->list[i].kind == kind && strcmp(s->list[i].name, name) == 0)
			return &s->list[i];
	return NULL;
}

static struct apply_resource *
add_resource(struct apply_set *s)
{
	struct apply_resource *longer = reallocarray(s->list, s->count + 1, sizeof(*longer));

	if (!longer)
		return NULL;
	s->list = longer;
	longer[s->count] = (struct apply_resource){ 0 };
	return &longer[s->count++];
}

static void
keep(struct source *r, yaml_node_t *root, enum apply_kind kind, json_t *wanted, json_t *lines)
{
	const char *name = string_of(wanted, "name");
	const struct apply_resource *same = find_same(r->set, kind, name);
	struct apply_resource *resource;

	if (kind != APPLY_POLICY && !*name)
		return; /* a finding has been said */
	if (same) {
		FINDING(r, root, "%s is in %s:%u already", apply_label(same), same->file,
			same->line);
		return;
	}
	json_object_del(wanted, "kind");
	resource = add_resource(r->set);
	if (!resource) {
		FINDING(r, root, "no memory for it");
		return;
	}
	resource->kind = kind;
	snprintf(resource->name, sizeof(resource->name), "%s", name);
	resource->file = strdup(r->file);
	resource->line = line_of(root);
	resource->wanted = json_incref(wanted);
	resource->lines = json_incref(lines);
}

void
apply_take_document(
	const char *file, yaml_document_t *document, yaml_node_t *root, struct apply_set *s)
{
	size_t nodes = (size_t)(document->nodes.top - document->nodes.start);
	struct source r = { file, document, s, calloc(nodes + 1, sizeof(bool)) };
	_cleanup_(json_freep) json_t *lines = json_object();
	_cleanup_(json_freep) json_t *wanted = NULL;
	enum apply_kind kind;

	if (!r.seen)
		apply_finding(s, file, line_of(root), "no memory for it");
	else if (read_kind(&r, root, &kind))
		wanted = take_mapping(&r, root, &shapes[kind], lines);
	if (wanted)
		keep(&r, root, kind, wanted, lines);
	free(r.seen);
}
