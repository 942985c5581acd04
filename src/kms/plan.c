/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which EncryptionConfigurations lead from one provider to another without an object that some API
 * server cannot read: first all read with the new one, then all write with it, then what is stored
 * is written anew, and only then the old one goes. Not here: what is told about each step
 * (plan_steps.c).
 */
#include "plan.h"

#include "kekd/str.h"

#include <errno.h>
#include <string.h>

char *
plan_label(const struct ec_provider *p)
{
	bool v1 = p->kind == EC_KMS && (!p->version || strcmp(p->version, "v1") == 0);
	char *label = NULL;

	if (p->kind != EC_KMS)
		return strdup(ec_kind_names[p->kind]);
	return asprintf(&label, "%s (kms%s)", p->name, v1 ? " v1" : "") < 0 ? NULL : label;
}

/* ---- the target ---- */

struct made {
	struct ec_provider provider;
	struct ec_key key;
	char name[32], endpoint[512];
};

static const struct ec_provider *
find_provider(const struct encryption_config *c, enum ec_kind kind, const char *name)
{
	for (size_t i = 0; i < c->groups_count; i++)
		for (size_t j = 0; j < c->groups[i].providers_count; j++) {
			const struct ec_provider *p = &c->groups[i].providers[j];
			if (p->kind == kind && (kind != EC_KMS || strcmp(p->name, name) == 0))
				return p;
		}
	return NULL;
}

static bool
has_key(const struct encryption_config *c, const char *name)
{
	for (size_t i = 0; i < c->groups_count; i++)
		for (size_t j = 0; j < c->groups[i].providers_count; j++)
			for (size_t k = 0; k < c->groups[i].providers[j].keys_count; k++)
				if (strcmp(c->groups[i].providers[j].keys[k].name, name) == 0)
					return true;
	return false;
}

/* A provider with one key that is to be made, under a name that is not taken. */
static void
make_local(const struct encryption_config *c, enum ec_kind kind, struct made *m)
{
	for (unsigned n = 1; n < 1000; n++) {
		snprintf(m->name, sizeof(m->name), "key%u", n);
		if (!has_key(c, m->name))
			break;
	}
	m->key = (struct ec_key){ .name = m->name, .has_secret = true, .secret_len = 32 };
	m->provider = (struct ec_provider){
		.kind = kind, .kinds = 1, .keys = &m->key, .keys_count = 1
	};
}

static int
make_kms(const struct encryption_config *c, const struct plan_target *t, struct made *m,
	char ret_error[512])
{
	if (!t->provider) {
		snprintf(ret_error, 512,
			"%s has no kms provider \"%.64s\": name one that it has, or identity, "
			"aescbc, aesgcm, secretbox or kekd",
			c->path, t->word);
		return -EINVAL;
	}
	snprintf(m->endpoint, sizeof(m->endpoint), "unix://%s", t->socket);
	m->provider = (struct ec_provider){ .kind = EC_KMS,
		.kinds = 1,
		.name = (char *)(uintptr_t)t->provider,
		.endpoint = m->endpoint,
		.version = (char *)(uintptr_t) "v2" };
	return 0;
}

static int
find_target(struct plan *p, const struct plan_target *t, struct made *m, char ret_error[512])
{
	const char *name = t->provider ? t->provider : t->word;
	enum ec_kind kind = EC_IDENTITY;
	int err = 0;

	while (kind < EC_KMS && (t->provider || strcmp(ec_kind_names[kind], t->word) != 0))
		kind++;
	p->target = find_provider(p->config, kind, name);
	if (p->target && kind == EC_KMS &&
		(!p->target->version || strcmp(p->target->version, "v1") == 0)) {
		snprintf(ret_error, 512,
			"line %u: provider \"%.64s\" is KMS v1, which stores under another prefix "
			"than v2: give kekd-kms a provider name of its own",
			p->target->line, p->target->name);
		return -EINVAL;
	}
	if (p->target)
		return 0;
	p->target = &m->provider;
	if (kind == EC_KMS)
		err = make_kms(p->config, t, m, ret_error);
	else if (kind == EC_IDENTITY)
		m->provider = (struct ec_provider){ .kind = kind, .kinds = 1 };
	else
		make_local(p->config, kind, m);
	if (m->provider.keys_count > 0)
		p->fresh = &m->provider;
	return err;
}

static int
copy(const struct layout *from, struct layout *ret_layout)
{
	layout_copy(from, ret_layout);
	return ret_layout->no_memory ? -ENOMEM : 0;
}

/* ---- which entries move ---- */

/* Plaintext that is meant: identity alone, and no Secrets among it. */
static bool
is_meant_plain(const struct ec_group *g)
{
	if (g->providers_count != 1 || g->providers[0].kind != EC_IDENTITY)
		return false;
	for (size_t i = 0; i < g->resources_count; i++)
		if (ec_covers(g->resources[i].text, "secrets"))
			return false;
	return true;
}

static int
choose_groups(struct plan *p)
{
	const struct encryption_config *c = p->config;

	p->moved = calloc(c->groups_count + 1, sizeof(*p->moved));
	if (!p->moved)
		return -ENOMEM;
	for (size_t i = 0; i < c->groups_count; i++)
		if (!is_meant_plain(&c->groups[i]))
			p->moved[p->moved_count++] = i;
	/* There is nothing else that could be meant. */
	if (p->moved_count > 0)
		return 0;
	for (; p->moved_count < c->groups_count; p->moved_count++)
		p->moved[p->moved_count] = p->moved_count;
	return 0;
}

/* ---- one entry ---- */

/* The entry's own provider of the target's kind, where it has one: a key that is known there. */
static const struct ec_provider *
target_in(const struct plan *p, const struct layout_group *g)
{
	for (size_t i = 0; i < g->providers.count; i++) {
		const struct ec_provider *q = g->providers.items[i];
		if (provider_equal(q, p->target) ||
			(q->kind == p->target->kind && q->kind != EC_KMS))
			return q;
	}
	return p->target;
}

static void
add_readable(const struct plan *p, struct layout *l, struct layout_group *g)
{
	const struct ec_provider *t = target_in(p, g);
	/* identity reads whatever has no prefix: it is asked last. */
	size_t at = t->kind == EC_IDENTITY ? SIZE_MAX : 1;

	if (layout_find(g, t) == SIZE_MAX)
		layout_put(l, &g->providers, at, t);
}

static void
put_first(const struct plan *p, struct layout *l, struct layout_group *g)
{
	const struct ec_provider *t = target_in(p, g);

	layout_take(&g->providers, layout_find(g, t));
	layout_put(l, &g->providers, 0, t);
}

static void
leave_first(const struct plan *p, struct layout *l, struct layout_group *g)
{
	(void)p, (void)l;
	while (g->providers.count > 1)
		layout_take(&g->providers, g->providers.count - 1);
}

/* ---- several entries for one kms provider ---- */

static size_t
count_in_moved(const struct plan *p, const struct ec_provider *q)
{
	size_t n = 0;

	for (size_t i = 0; i < p->moved_count; i++)
		n += layout_find(&p->now.groups[p->moved[i]], q) != SIZE_MAX;
	return n;
}

static bool
any_encrypts(const struct plan *p)
{
	for (size_t i = 0; i < p->moved_count; i++) {
		const struct ec_provider *w = p->now.groups[p->moved[i]].providers.items[0];
		if (w->kind != EC_IDENTITY)
			return true;
	}
	return false;
}

/* Who may write for all of them meanwhile: one that every entry can be given, and that encrypts if
 * any of them does. The one that needs the fewest changes. */
static const struct ec_provider *
choose_leader(const struct plan *p)
{
	const struct ec_provider *best = NULL;
	size_t most = 0;

	for (size_t i = 0; i < p->moved_count; i++) {
		const struct ec_provider *w = p->now.groups[p->moved[i]].providers.items[0];
		size_t n = count_in_moved(p, w);
		if (w->kind == EC_KMS || n <= most || (w->kind == EC_IDENTITY && any_encrypts(p)))
			continue;
		best = w;
		most = n;
	}
	return best;
}

static void
let_leader_read(const struct plan *p, struct layout *l)
{
	for (size_t i = 0; i < p->moved_count; i++) {
		struct layout_group *g = &l->groups[p->moved[i]];
		if (layout_find(g, p->leader) == SIZE_MAX)
			layout_put(l, &g->providers, p->leader->kind == EC_IDENTITY ? SIZE_MAX : 1,
				p->leader);
	}
}

static void
take_resources(struct layout *l, struct layout_group *into, const struct layout_group *from)
{
	for (size_t i = 0; i < from->resources.count; i++) {
		bool there = false;
		for (size_t j = 0; j < into->resources.count; j++)
			there |= strcmp(into->resources.items[j], from->resources.items[i]) == 0;
		if (!there)
			layout_put(l, &into->resources, SIZE_MAX, from->resources.items[i]);
	}
}

static void
drop_covered(struct layout_group *g)
{
	for (size_t i = 0; i < g->resources.count; i++)
		for (size_t j = 0; j < g->resources.count; j++)
			if (i != j && ec_covers(g->resources.items[j], g->resources.items[i])) {
				layout_take(&g->resources, i--);
				break;
			}
}

static void
take_providers(struct layout *l, struct layout_group *into, const struct layout_group *from)
{
	for (size_t i = 0; i < from->providers.count; i++)
		if (layout_find(into, from->providers.items[i]) == SIZE_MAX)
			layout_put(l, &into->providers, SIZE_MAX, from->providers.items[i]);
}

/* identity last, unless it writes. */
static void
put_identity_last(struct layout *l, struct layout_group *g)
{
	for (size_t i = 1; i < g->providers.count; i++) {
		const struct ec_provider *q = g->providers.items[i];
		if (q->kind != EC_IDENTITY)
			continue;
		layout_take(&g->providers, i);
		layout_put(l, &g->providers, SIZE_MAX, q);
		return;
	}
}

/* All entries in the place of the last one of them, or of the first. */
static void
merge_into(const struct plan *p, struct layout *l, size_t place)
{
	struct layout_group *into = &l->groups[p->moved[0]];
	size_t at = layout_find(into, p->leader);

	if (at != SIZE_MAX)
		layout_take(&into->providers, at);
	layout_put(l, &into->providers, 0, p->leader);
	for (size_t i = 1; i < p->moved_count; i++) {
		take_resources(l, into, &l->groups[p->moved[i]]);
		take_providers(l, into, &l->groups[p->moved[i]]);
	}
	drop_covered(into);
	put_identity_last(l, into);
	for (size_t i = p->moved_count - 1; i > 0; i--)
		layout_drop_group(l, p->moved[i]);
	if (place > p->moved[0])
		layout_move_group(l, p->moved[0], place);
}

static bool
is_moved(const struct plan *p, size_t group)
{
	for (size_t i = 0; i < p->moved_count; i++)
		if (p->moved[i] == group)
			return true;
	return false;
}

/* Does each resource lie where it is meant to: in the joint entry, or in the one it had? */
static bool
keeps_places(const struct plan *p, const struct layout *l, size_t joint)
{
	for (size_t i = 0; i < p->now.count; i++)
		for (size_t j = 0; j < p->now.groups[i].resources.count; j++) {
			const char *r = p->now.groups[i].resources.items[j];
			if ((layout_group_of(l, r) == joint) != is_moved(p, i))
				return false;
		}
	return layout_is_sound(l);
}

/* *ret_place: of the joint entry. */
static int
merge(struct plan *p, size_t *ret_place, char ret_error[512])
{
	/* Those that go stood between. */
	size_t places[] = { p->moved[0], p->moved[p->moved_count - 1] - (p->moved_count - 1) };

	p->leader = choose_leader(p);
	if (!p->leader) {
		snprintf(ret_error, 512,
			"the entries of lines %u and %u cannot become one, and a kms provider can "
			"stand in one entry alone: what one of them writes meanwhile the other "
			"could not read, or it would be plaintext; move them to secretbox first "
			"(--to secretbox), or give kekd a second plugin with a provider name and "
			"a socket of its own",
			p->config->groups[p->moved[0]].line,
			p->config->groups[p->moved[p->moved_count - 1]].line);
		return -EINVAL;
	}
	if (copy(&p->now, &p->joint))
		return -ENOMEM;
	let_leader_read(p, &p->joint);
	for (size_t i = 0; i < STR_COUNT(places); i++) {
		layout_free(&p->readable);
		if (copy(&p->joint, &p->readable))
			return -ENOMEM;
		merge_into(p, &p->readable, places[i]);
		if (keeps_places(p, &p->readable, places[i])) {
			*ret_place = places[i];
			return 0;
		}
	}
	snprintf(ret_error, 512,
		"the entries that are to move cannot become one, for another entry stands between "
		"them and takes some of their resources; a kms provider can stand in one entry "
		"alone: put the entries that move together, or give kekd a second plugin with a "
		"provider name and a socket of its own");
	return -EINVAL;
}

/* ---- the layouts ---- */

typedef void change_fn(const struct plan *p, struct layout *l, struct layout_group *g);

/* What is made of the groups that move; `joint` alone where they became one. */
static int
change(const struct plan *p, const struct layout *from, size_t joint, change_fn *fn,
	struct layout *ret_layout)
{
	if (copy(from, ret_layout))
		return -ENOMEM;
	for (size_t i = 0; i < (p->merged ? 1 : p->moved_count); i++)
		fn(p, ret_layout, &ret_layout->groups[p->merged ? joint : p->moved[i]]);
	return ret_layout->no_memory ? -ENOMEM : 0;
}

static int
lay_out(struct plan *p, char ret_error[512])
{
	struct layout before = { 0 };
	size_t joint = 0;
	int err;

	p->merged = p->target->kind == EC_KMS && p->moved_count > 1;
	err = p->merged ? merge(p, &joint, ret_error) : copy(&p->now, &p->joint);
	if (!err)
		err = copy(p->merged ? &p->readable : &p->now, &before);
	layout_free(&p->readable);
	if (!err)
		err = change(p, &before, joint, add_readable, &p->readable);
	if (!err)
		err = change(p, &p->readable, joint, put_first, &p->writes);
	if (!err)
		err = change(p, &p->writes, joint, leave_first, &p->last);
	layout_free(&before);
	return err;
}

/* ---- telling ---- */

static json_t *
tell_group(const struct ec_group *g)
{
	json_t *resources = json_array(), *reads = json_array();
	char *label = plan_label(&g->providers[0]);
	json_t *told;

	for (size_t i = 0; i < g->resources_count; i++)
		json_array_append_new(resources, json_string(g->resources[i].text));
	for (size_t i = 1; i < g->providers_count; i++) {
		char *other = plan_label(&g->providers[i]);
		json_array_append_new(reads, json_string(other ? other : ""));
		free(other);
	}
	told = json_pack("{s:I, s:o, s:s, s:o}", "line", (json_int_t)g->line, "resources",
		resources, "writes", label ? label : "", "reads", reads);
	free(label);
	return told;
}

static json_t *
tell_now(const struct plan *p)
{
	json_t *list = json_array();

	for (size_t i = 0; i < p->config->groups_count; i++) {
		json_t *told = tell_group(&p->config->groups[i]);
		json_object_set_new(told, "moves", json_boolean(is_moved(p, i)));
		json_array_append_new(list, told);
	}
	return list;
}

static void
plan_free(struct plan *p)
{
	layout_free(&p->now);
	layout_free(&p->joint);
	layout_free(&p->readable);
	layout_free(&p->writes);
	layout_free(&p->last);
	free(p->moved);
}

/* For a shell; standard input stands for where the file of an API server of kubeadm's is. */
static char *
quote_path(const char *path)
{
	static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
				    "0123456789/._-+,:@%";
	char *quoted = NULL;

	if (strcmp(path, EC_STANDARD_INPUT) == 0)
		return strdup("/etc/kubernetes/encryption/config.yaml");
	if (path[strspn(path, plain)] == '\0')
		return strdup(path);
	return asprintf(&quoted, "'%s'", path) < 0 ? NULL : quoted;
}

static int
make(struct plan *p, const struct plan_target *t, struct made *m, json_t **ret_plan,
	char ret_error[512])
{
	_cleanup_(str_freep) char *label = NULL, *file = quote_path(p->config->path);
	int err = find_target(p, t, m, ret_error);

	if (!err)
		err = choose_groups(p);
	if (err)
		return err;
	layout_from(p->config, &p->now);
	if (p->now.no_memory || !(p->file = file) || !(p->label = label = plan_label(p->target)))
		return -ENOMEM;
	err = lay_out(p, ret_error);
	if (err)
		return err;
	*ret_plan = json_pack("{s:s, s:o, s:o, s:o}", "to", p->label, "now", tell_now(p), "load",
		plan_load(p), "steps", plan_steps(p));
	return *ret_plan ? 0 : -ENOMEM;
}

int
plan_make(const struct encryption_config *c, const struct plan_target *target, json_t **ret_plan,
	char ret_error[512])
{
	struct plan p = { .config = c, .kekd = target->provider };
	struct made m = { 0 };
	int err = make(&p, target, &m, ret_plan, ret_error);

	plan_free(&p);
	if (err == -ENOMEM)
		snprintf(ret_error, 512, "%s", strerror(ENOMEM));
	return err;
}
