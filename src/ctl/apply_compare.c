/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How what is wanted differs from what is there: both are brought into one form, in which order and
 * ways of writing do not matter, and compared member by member.
 */
#include "apply.h"

#include "kekd/clock.h"

#include <string.h>

/* ---- one form ---- */

static void
copy(json_t *to, const json_t *from, const char *member)
{
	json_t *value = json_object_get(from, member);

	if (value)
		json_object_set(to, member, value);
}

/* "24h" and "1d" are the same; null is "never". */
static void
copy_duration(json_t *to, const json_t *from, const char *member)
{
	const json_t *value = json_object_get(from, member);
	char text[CLOCK_DURATION_SIZE];
	uint64_t seconds;

	if (json_is_null(value))
		json_object_set_new(to, member, json_string("never"));
	else if (value && clock_parse_duration(string_of(from, member), &seconds) == 0) {
		clock_format_duration(seconds, text);
		json_object_set_new(to, member, json_string(text));
	}
}

static void
copy_set(json_t *to, const json_t *from, const char *member)
{
	json_t *set = json_object(), *value;
	size_t i;

	json_array_foreach(json_object_get(from, member), i, value)
		json_object_set_new(set, json_string_value(value), json_null());
	json_object_set_new(to, member, set);
}

/* The token of the primary version, unless the resource names one itself. */
static void
copy_token(json_t *to, const json_t *key)
{
	const json_t *version;
	size_t i;

	copy(to, key, "token");
	json_array_foreach(json_object_get(key, "versions"), i, version)
		if (number_of(version, "version") == number_of(key, "primary"))
			copy(to, version, "token");
}

static void
canonical_key(const json_t *key, json_t *to)
{
	copy(to, key, "algorithm");
	copy_token(to, key);
	copy(to, key, "labels");
	copy_duration(to, key, "rotate_every");
	copy(to, key, "frozen");
	copy(to, key, "when_stale");
}

static int
by_text(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The operations of all grants with the glob, sorted, each once. */
static const char *
operations_of(const json_t *grants, const char *keys)
{
	const char *list[256], *text = "";
	const json_t *grant, *operation;
	size_t n = 0, i, j;

	json_array_foreach(grants, i, grant) {
		if (strcmp(string_of(grant, "keys"), keys) != 0)
			continue;
		json_array_foreach(json_object_get(grant, "operations"), j, operation)
			if (n < STR_COUNT(list) && json_is_string(operation))
				list[n++] = json_string_value(operation);
	}
	qsort(list, n, sizeof(list[0]), by_text);
	for (i = 0; i < n; i++)
		if (i == 0 || strcmp(list[i], list[i - 1]) != 0)
			text = show_format("%s%s%s", text, i > 0 ? " " : "", list[i]);
	return text;
}

static void
canonical_client(const json_t *client, json_t *to)
{
	const json_t *limits = json_object_get(client, "limits"), *grant;
	const json_t *grants = json_object_get(client, "grants");
	json_t *map = json_object(), *numbers = json_object(), *value;
	const char *name;
	size_t i;

	copy_set(to, client, "identities");
	copy_set(to, client, "addresses");
	json_array_foreach(grants, i, grant) {
		const char *keys = string_of(grant, "keys");
		json_object_set_new(map, keys, json_string(operations_of(grants, keys)));
	}
	json_object_set_new(to, "grants", map);
	json_object_foreach((json_t *)limits, name, value)
		if (json_integer_value(value) > 0)
			json_object_set(numbers, name, value);
	json_object_set_new(to, "limits", numbers);
}

static void
canonical_policy(const json_t *policy, json_t *to)
{
	copy(to, policy, "approvals");
	copy_duration(to, policy, "destroy_wait");
	copy_duration(to, policy, "approval_ttl");
}

json_t *
apply_canonical(enum apply_kind kind, const json_t *resource)
{
	static void (*const canonical[])(const json_t *, json_t *) = {
		[APPLY_KEY] = canonical_key,
		[APPLY_CLIENT] = canonical_client,
		[APPLY_POLICY] = canonical_policy,
	};
	json_t *to = json_object();

	canonical[kind](resource, to);
	return to;
}

/* ---- comparing ---- */

struct difference {
	const char *change, *member, *item;
	json_t *from, *to;
};

static void
add(json_t *changes, const struct difference *d)
{
	json_t *change = json_pack("{s:s, s:s}", "change", d->change, "member", d->member);

	if (d->item)
		json_object_set_new(change, "item", json_string(d->item));
	if (d->from && !json_is_null(d->from))
		json_object_set(change, "from", d->from);
	if (d->to && !json_is_null(d->to))
		json_object_set(change, "to", d->to);
	json_array_append_new(changes, change);
}

static void
compare_items(const char *member, const json_t *now, const json_t *wanted, json_t *changes)
{
	const char *item;
	json_t *value;

	json_object_foreach((json_t *)now, item, value)
		if (!json_object_get(wanted, item))
			add(changes, &(struct difference){ "-", member, item, value, NULL });
	json_object_foreach((json_t *)wanted, item, value) {
		json_t *before = json_object_get(now, item);
		if (!before)
			add(changes, &(struct difference){ "+", member, item, NULL, value });
		else if (!json_equal(before, value))
			add(changes, &(struct difference){ "~", member, item, before, value });
	}
}

/* What a server that does not tell of it, or a key that is yet to be made, stands for. */
static bool
is_default(const char *member, const json_t *value)
{
	return json_is_false(value) ||
	       (strcmp(member, "when_stale") == 0 && json_is_string(value) &&
		       strcmp(json_string_value(value), "unwrap") == 0) ||
	       (strcmp(member, "rotate_every") == 0 && json_is_string(value) &&
		       strcmp(json_string_value(value), "never") == 0);
}

json_t *
apply_compare(enum apply_kind kind, const json_t *now, const json_t *wanted)
{
	_cleanup_(json_freep) json_t *a = now ? apply_canonical(kind, now) : json_object();
	_cleanup_(json_freep) json_t *b = apply_canonical(kind, wanted);
	json_t *changes = json_array(), *value;
	const char *member;

	json_object_foreach(b, member, value) {
		json_t *before = json_object_get(a, member);
		if (json_is_object(value))
			compare_items(member, before, value, changes);
		else if (!before && !is_default(member, value))
			add(changes, &(struct difference){ "+", member, NULL, NULL, value });
		else if (before && !json_equal(before, value))
			add(changes, &(struct difference){ "~", member, NULL, before, value });
	}
	return changes;
}
