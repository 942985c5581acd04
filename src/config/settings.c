/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What it takes to bring each setting into force: the one table that the reload goes by, that the
 * log's words about a change come from, and that doc/operations.md is checked against.
 */
#include "kekd/config.h"

#include "kekd/str.h"

#include <stddef.h>
#include <string.h>

static bool
same_texts(const char *a, const char *b)
{
	return a == b || (a && b && strcmp(a, b) == 0);
}

static bool
same_text(const void *a, const void *b)
{
	return same_texts(*(char *const *)a, *(char *const *)b);
}

static bool
same_flag(const void *a, const void *b)
{
	return *(const bool *)a == *(const bool *)b;
}

static bool
same_number(const void *a, const void *b)
{
	return *(const unsigned *)a == *(const unsigned *)b;
}

static bool
same_size(const void *a, const void *b)
{
	return *(const uint64_t *)a == *(const uint64_t *)b;
}

/* As struct config has them: the strings, then how many. */
struct list {
	char **strings;
	unsigned count;
};

static bool
same_lists(char *const *a, unsigned a_count, char *const *b, unsigned b_count)
{
	if (a_count != b_count)
		return false;
	for (unsigned i = 0; i < a_count; i++)
		if (strcmp(a[i], b[i]) != 0)
			return false;
	return true;
}

static bool
same_list(const void *a, const void *b)
{
	const struct list *x = a, *y = b;

	return same_lists(x->strings, x->count, y->strings, y->count);
}

struct tokens {
	const struct config_token *tokens;
	unsigned count;
};

static bool
same_tokens(const void *a, const void *b)
{
	const struct tokens *x = a, *y = b;

	if (x->count != y->count)
		return false;
	for (unsigned i = 0; i < x->count; i++) {
		const struct config_token *s = &x->tokens[i], *t = &y->tokens[i];
		if (!same_texts(s->name, t->name) || !same_texts(s->uri, t->uri) ||
			!same_texts(s->module, t->module) ||
			!same_texts(s->pin_source, t->pin_source) || !same_texts(s->copy, t->copy))
			return false;
	}
	return true;
}

struct admins {
	const struct config_admin *admins;
	unsigned count;
};

static bool
same_admins(const void *a, const void *b)
{
	const struct admins *x = a, *y = b;

	if (x->count != y->count)
		return false;
	for (unsigned i = 0; i < x->count; i++) {
		const struct config_admin *s = &x->admins[i], *t = &y->admins[i];
		if (!same_texts(s->name, t->name) || !same_lists(s->identities, s->identities_count,
							     t->identities, t->identities_count))
			return false;
	}
	return true;
}

#define AT(member) offsetof(struct config, member), sizeof(((struct config *)NULL)->member)
/* Not the whole of struct list: what would pad it may be another setting's. */
#define LIST_AT(member) \
	offsetof(struct config, member), offsetof(struct list, count) + sizeof(unsigned)
_Static_assert(offsetof(struct config, deny_count) - offsetof(struct config, deny) ==
		       offsetof(struct list, count),
	"a list's number stands behind it");

/* clang-format off */
const struct config_setting config_settings[] = {
	{ "cluster", CONFIG_RESTART, AT(cluster), same_text },
	{ "node", CONFIG_RESTART, AT(node), same_text },
	{ "state_dir", CONFIG_RESTART, AT(state_dir), same_text },
	{ "user", CONFIG_RESTART, AT(user), same_text },
	{ "listen", CONFIG_RESTART, LIST_AT(listen), same_list },
	{ "url", CONFIG_RESTART, AT(url), same_text },
	{ "store.engine", CONFIG_RESTART, AT(store.etcd), same_flag },
	{ "store.endpoints", CONFIG_RESTART, LIST_AT(store.endpoints), same_list },
	{ "store.ca", CONFIG_RESTART, AT(store.ca), same_text },
	{ "store.certificate", CONFIG_RESTART, AT(store.certificate), same_text },
	{ "store.key", CONFIG_RESTART, AT(store.key), same_text },
	{ "store.user", CONFIG_RESTART, AT(store.user), same_text },
	{ "store.password_file", CONFIG_RESTART, AT(store.password_file), same_text },
	{ "store.timeout", CONFIG_RESTART, AT(store.timeout_ms), same_number },
	{ "store.lease", CONFIG_RESTART, AT(store.lease_s), same_number },
	{ "store.max_staleness", CONFIG_RESTART, AT(store.max_staleness_s), same_size },
	{ "tls.certificate", CONFIG_RELOAD, AT(tls.certificate), same_text },
	{ "tls.key", CONFIG_RELOAD, AT(tls.key), same_text },
	{ "tls.client_ca", CONFIG_RELOAD, AT(tls.client_ca), same_text },
	{ "crl.file", CONFIG_RELOAD, AT(crl.file), same_text },
	{ "crl.on_expired", CONFIG_RELOAD, AT(crl.warn_expired), same_flag },
	{ "deny", CONFIG_RELOAD, LIST_AT(deny), same_list },
	{ "identity.common_name", CONFIG_RELOAD, AT(identity.common_name), same_flag },
	{ "tokens", CONFIG_RESTART, LIST_AT(tokens), same_tokens },
	{ "hsm.user", CONFIG_RESTART, AT(hsm.user), same_text },
	{ "hsm.state_dir", CONFIG_RESTART, AT(hsm.state_dir), same_text },
	{ "hsm.deadline", CONFIG_RESTART, AT(hsm.deadline_ms), same_number },
	{ "hsm.hang", CONFIG_RESTART, AT(hsm.hang_ms), same_number },
	{ "hsm.workers", CONFIG_RESTART, AT(hsm.workers), same_number },
	{ "hsm.sessions", CONFIG_RESTART, AT(hsm.sessions), same_number },
	{ "audit.dir", CONFIG_RESTART, AT(audit.dir), same_text },
	{ "audit.max_bytes", CONFIG_RESTART, AT(audit.max_bytes), same_size },
	{ "audit.keep", CONFIG_RESTART, AT(audit.keep), same_number },
	{ "audit.sink", CONFIG_RESTART, AT(audit.sink), same_text },
	{ "audit.context", CONFIG_RESTART, AT(audit.hash_context), same_flag },
	{ "admins", CONFIG_INIT, LIST_AT(admins), same_admins },
	{ "policy.approvals", CONFIG_INIT, AT(policy.approvals), same_number },
	{ "policy.destroy_wait", CONFIG_INIT, AT(policy.destroy_wait_s), same_size },
	{ "policy.approval_ttl", CONFIG_INIT, AT(policy.approval_ttl_s), same_size },
	{ NULL, CONFIG_RESTART, 0, 0, NULL },
};
/* clang-format on */

bool
config_setting_same(const struct config_setting *s, const struct config *a, const struct config *b)
{
	return s->same((const char *)a + s->offset, (const char *)b + s->offset);
}

static void
swap(char *a, char *b, size_t size)
{
	for (size_t i = 0; i < size; i++) {
		char c = a[i];
		a[i] = b[i];
		b[i] = c;
	}
}

void
config_take_reloadable(struct config *into, struct config *from)
{
	for (const struct config_setting *s = config_settings; s->name; s++)
		if (s->effect == CONFIG_RELOAD)
			swap((char *)into + s->offset, (char *)from + s->offset, s->size);
}
