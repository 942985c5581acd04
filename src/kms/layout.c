/* SPDX-License-Identifier: Apache-2.0 */
/* EncryptionConfigurations on paper. Not here: which ones a plan needs (plan.c). */
#include "layout.h"

#include "kekd/str.h"

#include <string.h>
#include <strings.h>

/* ---- lists ---- */

void
layout_put(struct layout *l, struct layout_list *list, size_t at, const void *item)
{
	const void **items = reallocarray(list->items, list->count + 1, sizeof(*items));

	if (!items) {
		l->no_memory = true;
		return;
	}
	list->items = items;
	if (at > list->count)
		at = list->count;
	memmove(items + at + 1, items + at, (list->count - at) * sizeof(*items));
	items[at] = item;
	list->count++;
}

void
layout_take(struct layout_list *list, size_t at)
{
	list->count--;
	memmove(list->items + at, list->items + at + 1, (list->count - at) * sizeof(*list->items));
}

/* ---- layouts ---- */

void
layout_free(struct layout *l)
{
	for (size_t i = 0; i < l->count; i++) {
		free(l->groups[i].resources.items);
		free(l->groups[i].providers.items);
	}
	free(l->groups);
	*l = (struct layout){ 0 };
}

static struct layout_group *
add_group(struct layout *l)
{
	struct layout_group *groups = reallocarray(l->groups, l->count + 1, sizeof(*groups));

	if (!groups) {
		l->no_memory = true;
		return NULL;
	}
	l->groups = groups;
	groups[l->count] = (struct layout_group){ 0 };
	return &groups[l->count++];
}

void
layout_from(const struct encryption_config *c, struct layout *ret_layout)
{
	struct layout l = { 0 };

	for (size_t i = 0; i < c->groups_count; i++) {
		const struct ec_group *from = &c->groups[i];
		struct layout_group *g = add_group(&l);
		for (size_t j = 0; g && j < from->resources_count; j++)
			layout_put(&l, &g->resources, SIZE_MAX, from->resources[j].text);
		for (size_t j = 0; g && j < from->providers_count; j++)
			layout_put(&l, &g->providers, SIZE_MAX, &from->providers[j]);
	}
	*ret_layout = l;
}

void
layout_copy(const struct layout *from, struct layout *ret_layout)
{
	struct layout l = { .no_memory = from->no_memory };

	for (size_t i = 0; i < from->count; i++) {
		const struct layout_group *f = &from->groups[i];
		struct layout_group *g = add_group(&l);
		for (size_t j = 0; g && j < f->resources.count; j++)
			layout_put(&l, &g->resources, SIZE_MAX, f->resources.items[j]);
		for (size_t j = 0; g && j < f->providers.count; j++)
			layout_put(&l, &g->providers, SIZE_MAX, f->providers.items[j]);
	}
	*ret_layout = l;
}

void
layout_drop_group(struct layout *l, size_t group)
{
	free(l->groups[group].resources.items);
	free(l->groups[group].providers.items);
	l->count--;
	memmove(l->groups + group, l->groups + group + 1, (l->count - group) * sizeof(*l->groups));
}

void
layout_move_group(struct layout *l, size_t from, size_t to)
{
	struct layout_group g = l->groups[from];

	memmove(l->groups + from, l->groups + from + 1, (l->count - from - 1) * sizeof(*l->groups));
	memmove(l->groups + to + 1, l->groups + to, (l->count - to - 1) * sizeof(*l->groups));
	l->groups[to] = g;
}

/* ---- comparing ---- */

static bool
keys_equal(const struct ec_provider *a, const struct ec_provider *b)
{
	if (a->keys_count != b->keys_count)
		return false;
	for (size_t i = 0; i < a->keys_count; i++)
		if (strcmp(a->keys[i].name, b->keys[i].name) != 0 ||
			memcmp(a->keys[i].digest, b->keys[i].digest, EC_DIGEST_SIZE) != 0)
			return false;
	return true;
}

bool
provider_equal(const struct ec_provider *a, const struct ec_provider *b)
{
	if (a->kind != b->kind)
		return false;
	return a->kind == EC_KMS ? strcmp(a->name, b->name) == 0 : keys_equal(a, b);
}

size_t
layout_find(const struct layout_group *g, const struct ec_provider *p)
{
	for (size_t i = 0; i < g->providers.count; i++)
		if (provider_equal(g->providers.items[i], p))
			return i;
	return SIZE_MAX;
}

static bool
group_equal(const struct layout_group *a, const struct layout_group *b)
{
	if (a->resources.count != b->resources.count || a->providers.count != b->providers.count)
		return false;
	for (size_t i = 0; i < a->resources.count; i++)
		if (strcmp(a->resources.items[i], b->resources.items[i]) != 0)
			return false;
	for (size_t i = 0; i < a->providers.count; i++)
		if (!provider_equal(a->providers.items[i], b->providers.items[i]))
			return false;
	return true;
}

bool
layout_equal(const struct layout *a, const struct layout *b)
{
	if (a->count != b->count)
		return false;
	for (size_t i = 0; i < a->count; i++)
		if (!group_equal(&a->groups[i], &b->groups[i]))
			return false;
	return true;
}

/* ---- what the API server makes of it ---- */

size_t
layout_group_of(const struct layout *l, const char *resource)
{
	const char *best = NULL;
	size_t found = SIZE_MAX;

	for (size_t i = 0; i < l->count; i++)
		for (size_t j = 0; j < l->groups[i].resources.count; j++) {
			const char *texts[2] = { best ? best : "",
				l->groups[i].resources.items[j] };
			if (ec_best(texts, 2, resource) != texts[1] ||
				(best && strcmp(best, texts[1]) == 0))
				continue;
			best = texts[1];
			found = i;
		}
	return found;
}

static bool
is_covered(const struct layout *l, size_t group, size_t index)
{
	const char *text = l->groups[group].resources.items[index];

	for (size_t i = 0; i <= group; i++)
		for (size_t j = 0; j < l->groups[i].resources.count; j++) {
			const char *other = l->groups[i].resources.items[j];
			if ((i == group && j == index) || !ec_covers(other, text))
				continue;
			if (i == group || ec_is_wildcard(other))
				return true;
		}
	return false;
}

bool
layout_is_sound(const struct layout *l)
{
	for (size_t i = 0; i < l->count; i++)
		for (size_t j = 0; j < l->groups[i].resources.count; j++)
			if (is_covered(l, i, j))
				return false;
	return true;
}

/* ---- YAML ---- */

/* Can it stand without quotes, as the text that it is? */
static bool
is_plain(const char *text)
{
	static const char *const words[] = { "null", "true", "false", "yes", "no", "on", "off", "y",
		"n" };
	static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";

	for (size_t i = 0; i < STR_COUNT(words); i++)
		if (strcasecmp(words[i], text) == 0)
			return false;
	if (!*text || !strchr(letters, *text))
		return false;
	for (const char *p = text; *p; p++)
		if (!strchr(letters, *p) && !strchr("0123456789._/-", *p) &&
			!(*p == ':' && p[1] == '/'))
			return false;
	return true;
}

/* YAML takes no control characters as they are, nor should a terminal get them. */
static void
put_quoted(struct buf *b, const char *text)
{
	buf_u8(b, '"');
	for (const char *p = text; *p; p++) {
		size_t control = str_control_len(p);
		p += control > 1;
		if (control > 0)
			buf_printf(b, "\\x%02x", (unsigned)(unsigned char)*p);
		else if (*p == '"' || *p == '\\')
			buf_printf(b, "\\%c", *p);
		else
			buf_u8(b, (uint8_t)*p);
	}
	buf_u8(b, '"');
}

static void
put_text(struct buf *b, const char *text)
{
	if (is_plain(text))
		buf_str(b, text);
	else
		put_quoted(b, text);
}

static void
put_member(struct buf *b, const char *indent, const char *member, const char *text)
{
	buf_printf(b, "%s%s: ", indent, member);
	put_text(b, text);
	buf_str(b, "\n");
}

static void
put_timeout(struct buf *b, const struct ec_provider *p)
{
	int64_t ns = p->has_timeout ? p->timeout_ns : (int64_t)EC_TIMEOUT_DEFAULT_NS;

	if (ns % 1000000000 == 0)
		buf_printf(b, "          timeout: %llds\n", (long long)(ns / 1000000000));
	else if (ns % 1000000 == 0)
		buf_printf(b, "          timeout: %lldms\n", (long long)(ns / 1000000));
	else
		buf_printf(b, "          timeout: %lldns\n", (long long)ns);
}

static void
put_kms(struct buf *b, const struct ec_provider *p)
{
	static const char indent[] = "          ";

	buf_str(b, "      - kms:\n");
	put_member(b, indent, "apiVersion", p->version ? p->version : "v1");
	put_member(b, indent, "name", p->name);
	put_member(b, indent, "endpoint", p->endpoint);
	put_timeout(b, p);
	if (p->has_cachesize)
		buf_printf(b, "%scachesize: %lld\n", indent, (long long)p->cachesize);
}

static void
put_keys(struct buf *b, const struct ec_provider *p, bool fresh)
{
	buf_printf(b, "      - %s:\n          keys:\n", ec_kind_names[p->kind]);
	for (size_t i = 0; i < p->keys_count; i++) {
		put_member(b, "            - ", "name", p->keys[i].name);
		buf_printf(b, "              secret: %s\n",
			fresh ? "<new, 32 random bytes in base64>" : "<as before>");
	}
}

static void
put_provider(struct buf *b, const struct ec_provider *p, const struct ec_provider *fresh)
{
	if (p->kind == EC_IDENTITY)
		buf_str(b, "      - identity: {}\n");
	else if (p->kind == EC_KMS)
		put_kms(b, p);
	else
		put_keys(b, p, p == fresh);
}

void
layout_yaml(struct buf *b, const struct layout *l, const struct ec_provider *fresh)
{
	buf_str(b, "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\n"
		   "resources:\n");
	for (size_t i = 0; i < l->count; i++) {
		const struct layout_group *g = &l->groups[i];
		buf_str(b, "  - resources:\n");
		for (size_t j = 0; j < g->resources.count; j++) {
			buf_str(b, "      - ");
			put_text(b, g->resources.items[j]);
			buf_str(b, "\n");
		}
		buf_str(b, "    providers:\n");
		for (size_t j = 0; j < g->providers.count; j++)
			put_provider(b, g->providers.items[j], fresh);
	}
}
