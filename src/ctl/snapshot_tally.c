/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is counted of a snapshot: per resource and provider, per key version of kekd's, and the
 * distinct seeds. Grows with these alone, and not beyond bounds: a file that has more of them than
 * any cluster is told to be read incompletely.
 */
#include "snapshot.h"

#include <errno.h>
#include <openssl/sha.h>
#include <string.h>

#define ROWS_MAX 65536
#define SEEDS_MAX 1000000
#define VERSIONS_MAX 4096
#define KEY_IDS_MAX 256

int
tally_init(struct tally *t, const char *resources)
{
	*t = (struct tally){ .resources = resources, .complete = true };
	t->by_resource = json_object();
	t->rows = json_object();
	t->contexts = json_object();
	t->clusters = json_object();
	t->seed_index = json_object();
	return t->by_resource && t->rows && t->contexts && t->clusters && t->seed_index ? 0
											: -ENOMEM;
}

void
tally_free(struct tally *t)
{
	for (size_t i = 0; i < t->versions_count; i++)
		json_decref(t->versions[i].key_ids);
	json_decref(t->by_resource);
	json_decref(t->rows);
	json_decref(t->contexts);
	json_decref(t->clusters);
	json_decref(t->seed_index);
	free(t->seeds);
	free(t->versions);
	*t = (struct tally){ 0 };
}

const char *
tally_cluster(const struct tally *t)
{
	return json_object_size(t->clusters) == 1
		       ? json_object_iter_key(json_object_iter(t->clusters))
		       : NULL;
}

static int
bump(json_t *counts, const char *member)
{
	json_t *n = json_object_get(counts, member);

	if (json_integer_set(n, json_integer_value(n) + 1) == 0)
		return 0;
	return json_object_set_new(counts, member, json_integer(1)) == 0 ? 0 : -ENOMEM;
}

/* ---- per resource ---- */

static const char *
owner(const struct value *v)
{
	if (v->kind == VALUE_PLAINTEXT)
		return "plaintext";
	return v->kekd ? "kekd" : "other";
}

static json_t *
new_resource(const struct resource *r)
{
	return json_pack("{s:s, s:s, s:{s:i, s:i, s:i}, s:{s:i, s:i, s:i}, s:[]}", "resource",
		r->name, "group", r->group, "live", "kekd", 0, "plaintext", 0, "other", 0,
		"superseded", "kekd", 0, "plaintext", 0, "other", 0, "providers");
}

/* The member of that name; made anew when there is none. NULL: no memory. */
static json_t *
find_or_add(json_t *index, const char *name, json_t *value)
{
	json_t *found = json_object_get(index, name);

	if (found) {
		json_decref(value);
		return found;
	}
	return value && json_object_set_new(index, name, value) == 0 ? value : NULL;
}

static json_t *
find_resource(struct tally *t, const struct resource *r)
{
	char name[2 * RESOURCE_TEXT_MAX + 2];
	json_t *found;

	snprintf(name, sizeof(name), "%s/%s", r->name, r->group);
	found = json_object_get(t->by_resource, name);
	return found ? found : find_or_add(t->by_resource, name, new_resource(r));
}

static json_t *
new_row(const struct value *v)
{
	return json_pack("{s:s, s:s, s:s?, s:i, s:i}", "provider",
		v->kind == VALUE_PLAINTEXT ? "identity" : v->provider, "kind",
		value_kind_name(v->kind), "key_id", v->kind == VALUE_KMS_V2 ? v->key_id : NULL,
		"live", 0, "superseded", 0);
}

static int
count_row(struct tally *t, json_t *resource, const struct mvcc_record *record,
	const struct resource *r, const struct value *v)
{
	char name[2 * RESOURCE_TEXT_MAX + VALUE_TEXT_MAX + VALUE_SOURCE_MAX + 32];
	json_t *row;

	snprintf(name, sizeof(name), "%s/%s\n%d\n%s\n%s", r->name, r->group, (int)v->kind,
		v->provider, v->key_id);
	row = json_object_get(t->rows, name);
	if (!row && json_object_size(t->rows) >= ROWS_MAX) {
		t->complete = false;
		return 0;
	}
	if (!row) {
		row = find_or_add(t->rows, name, new_row(v));
		if (!row || json_array_append(json_object_get(resource, "providers"), row) != 0)
			return -ENOMEM;
	}
	return bump(row, record->live ? "live" : "superseded");
}

static int
count_resource(struct tally *t, const struct mvcc_record *record, const struct resource *r,
	const struct value *v)
{
	const char *age = record->live ? "live" : "superseded";
	json_t *found = NULL;

	if (json_object_size(t->by_resource) >= ROWS_MAX) {
		t->complete = false;
		return 0;
	}
	found = find_resource(t, r);
	if (!found || bump(json_object_get(found, age), owner(v)) != 0)
		return -ENOMEM;
	return count_row(t, found, record, r, v);
}

/* ---- seeds and versions ---- */

static void *
make_room(void *array, size_t count, size_t *room, size_t size)
{
	size_t more = *room ? *room * 2 : 16;
	void *grown = count < *room ? array : realloc(array, more * size);

	if (grown && count >= *room)
		*room = more;
	return grown;
}

static struct version *
add_version(struct tally *t, const struct value *v)
{
	struct version *array = make_room(
		t->versions, t->versions_count, &t->versions_room, sizeof(*array));
	struct version *new;

	if (!array)
		return NULL;
	t->versions = array;
	new = &array[t->versions_count];
	*new = (struct version){ .id = v->version, .number = v->number };
	strcpy(new->key, v->key);
	new->key_ids = json_object();
	if (!new->key_ids)
		return NULL;
	t->versions_count++;
	return new;
}

/* NULL with *ret_err 0: there are too many. */
static struct version *
find_version(struct tally *t, const struct value *v, int *ret_err)
{
	struct version *found;

	*ret_err = 0;
	for (size_t i = 0; i < t->versions_count; i++)
		if (uuid_equal(&t->versions[i].id, &v->version) &&
			strcmp(t->versions[i].key, v->key) == 0)
			return &t->versions[i];
	if (t->versions_count >= VERSIONS_MAX) {
		t->complete = false;
		return NULL;
	}
	found = add_version(t, v);
	if (!found)
		*ret_err = -ENOMEM;
	return found;
}

static json_t *
find_context(struct tally *t, const struct value *v)
{
	char name[2 * VALUE_TEXT_MAX + 2];
	json_t *found;

	snprintf(name, sizeof(name), "%s\n%s", v->cluster, v->provider_name);
	found = json_object_get(t->contexts, name);
	return found ? found
		     : find_or_add(t->contexts, name,
			       json_pack("{s:s, s:s}", "kubernetes-cluster", v->cluster, "provider",
				       v->provider_name));
}

/* All that makes unwrapping it succeed or fail. */
static void
seed_name(const struct value *v, char ret_hex[65])
{
	uint8_t hash[SHA256_DIGEST_LENGTH];
	struct buf b = BUF_INIT(8192);

	buf_put(&b, v->seed_sha256, sizeof(v->seed_sha256));
	buf_printf(&b, "%s\n%s\n%s\n%s", v->cluster, v->provider_name, v->key, v->key_id);
	SHA256(b.data, b.len, hash);
	buf_free(&b);
	str_hex(hash, sizeof(hash), ret_hex);
	ret_hex[64] = '\0';
}

static int
add_seed(struct tally *t, const struct value *v, const char *name, struct version *version)
{
	struct seed *array = make_room(t->seeds, t->seeds_count, &t->seeds_room, sizeof(*array));
	struct seed *new;

	if (!array)
		return -ENOMEM;
	t->seeds = array;
	new = &array[t->seeds_count];
	*new = (struct seed){ .place = v->seed, .version = (size_t)(version - t->versions) };
	memcpy(new->sha256, v->seed_sha256, sizeof(new->sha256));
	if (*v->cluster && *v->provider_name && !(new->context = find_context(t, v)))
		return -ENOMEM;
	if (json_object_set_new(t->seed_index, name, json_null()) != 0)
		return -ENOMEM;
	version->seeds++;
	t->seeds_count++;
	if (json_object_size(version->key_ids) < KEY_IDS_MAX)
		json_object_set_new(version->key_ids, v->key_id, json_null());
	if (*v->cluster && json_object_size(t->clusters) < 2)
		json_object_set_new(t->clusters, v->cluster, json_null());
	return 0;
}

static int
count_kekd(struct tally *t, const struct mvcc_record *record, const struct value *v)
{
	int err;
	struct version *version = find_version(t, v, &err);
	char name[65];

	if (!version)
		return err;
	version->live += record->live;
	version->superseded += !record->live;
	seed_name(v, name);
	if (json_object_get(t->seed_index, name))
		return 0;
	if (t->seeds_count >= SEEDS_MAX) {
		t->complete = false;
		return 0;
	}
	return add_seed(t, v, name, version);
}

/* ---- the whole ---- */

static void
count_odd(struct tally *t, const struct mvcc_record *record)
{
	t->complete = false;
	if (t->odd++ == 0)
		strcpy(t->odd_example, record->key);
}

int
tally_add(struct tally *t, const struct mvcc_record *record, const struct resource *r,
	const struct value *v)
{
	bool plain = v->kind == VALUE_PLAINTEXT;
	int err = count_resource(t, record, r, v);

	t->live += record->live;
	t->superseded += !record->live;
	t->kekd += v->kekd;
	t->other += !plain && !v->kekd;
	if (plain && resource_is_among(r, t->resources)) {
		t->plain_live += record->live;
		t->plain_superseded += !record->live;
	}
	if (!v->understood)
		count_odd(t, record);
	return err == 0 && v->kekd ? count_kekd(t, record, v) : err;
}

/* The first two parts of a path tell which prefix would be the right one. */
void
tally_add_outside(struct tally *t, const struct mvcc_record *record)
{
	size_t len = strcspn(record->key + (record->key[0] == '/'), "/") + 1;

	if (record->live)
		t->outside++;
	if (!*t->outside_example && record->key[0] == '/' && record->key[len] == '/' &&
		len < sizeof(t->outside_example))
		snprintf(t->outside_example, sizeof(t->outside_example), "%.*s", (int)len,
			record->key);
}
