/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the members of the cluster have proven in their tokens: of this node, of each member, and in
 * how many tokens versions are.
 */
#include "api.h"

#include <string.h>

json_t *
api_proofs_json(struct node *n)
{
	return json_pack("{s:I, s:I, s:I}", "total", (json_int_t)atomic_load(&n->proofs.total),
		"proven", (json_int_t)atomic_load(&n->proofs.proven), "failed",
		(json_int_t)atomic_load(&n->proofs.failed));
}

void
api_read_copies(struct node *n, struct node_copies *ret_copies)
{
	pthread_mutex_lock(&n->lock);
	*ret_copies = n->copies;
	pthread_mutex_unlock(&n->lock);
}

int
api_least_copies(const struct node_copies *c)
{
	for (size_t i = 0; c->known && i < STR_COUNT(c->versions); i++)
		if (c->versions[i] > 0)
			return (int)i;
	return -1;
}

json_t *
api_copies_json(struct node *n)
{
	json_t *rows = json_array();
	struct node_copies c;
	int least;

	api_read_copies(n, &c);
	least = api_least_copies(&c);
	for (size_t i = 0; i < STR_COUNT(c.versions); i++)
		if (c.versions[i] > 0)
			json_array_append_new(rows, json_pack("{s:i, s:I}", "tokens", (int)i,
							    "versions", (json_int_t)c.versions[i]));
	return json_pack("{s:o, s:o}", "least", least < 0 ? json_null() : json_integer(least),
		"versions", rows);
}

/* What a newer release adds to it is not told. */
static json_t *
only(const json_t *object, const char *const names[])
{
	json_t *copy = json_object();

	for (size_t i = 0; names[i]; i++) {
		json_t *value = json_object_get(object, names[i]);
		json_object_set(copy, names[i], value ? value : json_null());
	}
	return copy;
}

static json_t *
only_each(const json_t *list, const char *const names[])
{
	json_t *copies = json_array();
	const json_t *entry;
	size_t i;

	json_array_foreach(list, i, entry)
		json_array_append_new(copies, only(entry, names));
	return copies;
}

void
api_add_proofs(struct node *n, const char *member, json_t *row)
{
	static const char *const told[] = { "revision", "total", "proven", "more", NULL };
	static const char *const token_members[] = { "token", "serial", "copy", NULL };
	static const char *const failing_members[] = { "key", "version", "code", NULL };
	_cleanup_(json_freep) json_t *proofs = node_member_copy(n, member, "proofs");
	_cleanup_(json_freep) json_t *tokens = node_member_copy(n, member, "tokens");
	json_t *value = proofs ? only(proofs, told) : json_null();

	if (proofs)
		json_object_set_new(value, "failing",
			only_each(json_object_get(proofs, "failing"), failing_members));
	json_object_set_new(row, "proofs", value);
	json_object_set_new(row, "tokens", only_each(tokens, token_members));
}
