/* SPDX-License-Identifier: Apache-2.0 */
/* The objects that no metadata knows, as the last sweep found them: looking for those of a key, and
 * forgetting what was adopted. The sweep itself is node.c's. */
#include "kekd/net.h"

#include <string.h>

#define NUMBER_DIGITS_MAX 9

/* The number in "PREFIXvN"; 0: the label is no such one. */
static unsigned
label_number(const char *label, const char *prefix)
{
	size_t len = strlen(prefix);
	unsigned number = 0;

	if (strncmp(label, prefix, len) != 0 || label[len] < '1' || label[len] > '9' ||
		strlen(label + len) > NUMBER_DIGITS_MAX)
		return 0;
	for (const char *p = label + len; *p; p++) {
		if (*p < '0' || *p > '9')
			return 0;
		number = number * 10 + (unsigned)(*p - '0');
	}
	return number;
}

static bool
same_id(const struct object_id *a, const struct object_id *b)
{
	return a->len == b->len && memcmp(a->b, b->b, a->len) == 0;
}

/* Is this one wanted? Its number goes to ret_object. */
static bool
matches(const struct node *n, const struct unknown_object *o, const char *prefix,
	const struct unknown_wanted *w, struct lifecycle_object *ret_object)
{
	int token = node_token(n, o->token);

	if (token < 0 || (w->token && strcmp(w->token, o->token) != 0) ||
		(w->id && !same_id(w->id, &o->id)))
		return false;
	ret_object->token = (unsigned)token;
	ret_object->id = o->id;
	ret_object->number = w->id ? 0 : label_number(o->label, prefix);
	return w->id || ret_object->number > 0;
}

size_t
node_find_unknown(struct node *n, const struct unknown_wanted *wanted,
	struct lifecycle_object ret_objects[KEY_VERSIONS_MAX])
{
	char prefix[256];
	size_t count = 0;

	snprintf(prefix, sizeof(prefix), "kekd:%s:%s:v", n->part.cluster, wanted->key);
	pthread_mutex_lock(&n->lock);
	for (size_t i = 0; i < n->unknown_count && count < KEY_VERSIONS_MAX; i++)
		count += matches(n, &n->unknown[i], prefix, wanted, &ret_objects[count]);
	pthread_mutex_unlock(&n->lock);
	return count;
}

void
node_forget_unknown(struct node *n, unsigned token, const struct object_id *id)
{
	pthread_mutex_lock(&n->lock);
	for (size_t i = 0; i < n->unknown_count; i++)
		if (same_id(&n->unknown[i].id, id) &&
			strcmp(n->unknown[i].token, n->part.tokens[token]) == 0)
			n->unknown[i--] = n->unknown[--n->unknown_count];
	pthread_mutex_unlock(&n->lock);
}
