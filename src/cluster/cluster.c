/* SPDX-License-Identifier: Apache-2.0 */
/* The record `cluster` (doc/formats/records.md): to JSON, strictly back, and its commit. */
#include "kekd/cluster.h"

#include "kekd/clock.h"
#include "kekd/err.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define LEVEL_MAX 1000000

static int
take_members(const json_t *array, struct cluster *c, char ret_error[JSON_ERROR_SIZE])
{
	size_t n = json_array_size(array);

	if (n < 1 || n > CLUSTER_MEMBERS_MAX)
		return json_refuse(ret_error, "\"members\" has none, or more than 16");
	for (size_t i = 0; i < n; i++) {
		const char *name = json_string_value(json_array_get(array, i));
		if (!name || !str_is_name(name) || cluster_has_member(c, name))
			return json_refuse(ret_error, "\"members\" must be names, each once");
		snprintf(c->members[i], sizeof(c->members[i]), "%s", name);
		c->members_count = i + 1;
	}
	return 0;
}

static int
take_forgotten(const json_t *array, struct cluster *c, char ret_error[JSON_ERROR_SIZE])
{
	size_t n = json_array_size(array);

	if (n > CLUSTER_FORGOTTEN_MAX)
		return json_refuse(ret_error, "\"forgotten\" has more than 64");
	for (size_t i = 0; i < n; i++) {
		const char *name = json_string_value(json_array_get(array, i));
		if (!name || !str_is_name(name) || cluster_has_forgotten(c, name) ||
			cluster_has_member(c, name))
			return json_refuse(ret_error,
				"\"forgotten\" must be names, each once, none a member's");
		snprintf(c->forgotten[i], sizeof(c->forgotten[i]), "%s", name);
		c->forgotten_count = i + 1;
	}
	return 0;
}

static int
take_seal_key(const json_t *body, struct cluster_seal_key *k, char ret_error[JSON_ERROR_SIZE])
{
	const char *id, *token;
	const struct json_member members[] = {
		{ "id", JSON_KIND_STRING, true, &id },
		{ "token", JSON_KIND_STRING, true, &token },
	};

	if (json_take(body, members, STR_COUNT(members), ret_error) < 0)
		return KEKD_EINVALID;
	if (uuid_parse(id, &k->id) < 0 || !str_is_name(token))
		return json_refuse(
			ret_error, "a seal key's \"id\" is no UUID, or its token no name");
	snprintf(k->token, sizeof(k->token), "%s", token);
	return 0;
}

static int
take_seal_keys(const json_t *array, struct cluster *c, char ret_error[JSON_ERROR_SIZE])
{
	size_t n = json_array_size(array);
	int err = 0;

	if (n < 1 || n > CLUSTER_SEAL_KEYS_MAX)
		return json_refuse(ret_error, "\"seal_keys\" has none, or more than 8");
	for (size_t i = 0; err == 0 && i < n; i++)
		err = take_seal_key(json_array_get(array, i), &c->seal_keys[i], ret_error);
	c->seal_keys_count = n;
	return err;
}

static int
take_succeeded(const json_t *body, struct cluster_succeeds *s, char ret_error[JSON_ERROR_SIZE])
{
	const char *generation, *store = "";
	struct uuid id;
	int64_t number;
	bool raising = false;
	const struct json_member members[] = {
		{ "generation", JSON_KIND_STRING, true, &generation },
		{ "number", JSON_KIND_INTEGER, true, &number },
		{ "store", JSON_KIND_STRING, false, &store },
		{ "raising", JSON_KIND_BOOL, false, &raising },
	};

	if (json_take(body, members, STR_COUNT(members), ret_error) < 0)
		return KEKD_EINVALID;
	if (uuid_parse(generation, &id) < 0 || number < 0 || strlen(store) >= sizeof(s->store))
		return json_refuse(ret_error, "\"succeeds\" has no generations and numbers");
	*s = (struct cluster_succeeds){ .number = (uint64_t)number, .raising = raising };
	uuid_format(&id, s->generation);
	snprintf(s->store, sizeof(s->store), "%s", store);
	return 0;
}

static int
take_succeeds(const json_t *array, struct cluster *c, char ret_error[JSON_ERROR_SIZE])
{
	size_t n = json_array_size(array);
	int err = 0;

	if (n > CLUSTER_SUCCEEDS_MAX)
		return json_refuse(ret_error, "\"succeeds\" has more than 8");
	for (size_t i = 0; err == 0 && i < n; i++)
		err = take_succeeded(json_array_get(array, i), &c->succeeds[i], ret_error);
	c->succeeds_count = n;
	return err;
}

static int
take_head(struct cluster *c, const char *name, const char *generation, const char *created,
	int64_t level, char ret_error[JSON_ERROR_SIZE])
{
	struct uuid id;

	if (!str_is_name(name))
		return json_refuse(ret_error, "\"name\" is no name");
	if (uuid_parse(generation, &id) < 0)
		return json_refuse(ret_error, "\"generation\" is no UUID");
	if (clock_parse(created, &c->created_us) < 0)
		return json_refuse(ret_error, "\"created\" is no time");
	if (level < 1 || level > LEVEL_MAX)
		return json_refuse(ret_error, "\"level\" is not a number from 1");
	snprintf(c->name, sizeof(c->name), "%s", name);
	uuid_format(&id, c->generation);
	c->level = (unsigned)level;
	return 0;
}

static int
take_confirm(const json_t *body, struct cluster_confirm *c, char ret_error[JSON_ERROR_SIZE])
{
	const char *restored, *backup, *generation;
	int64_t revision, changes;
	struct uuid id;
	const struct json_member members[] = {
		{ "restored", JSON_KIND_STRING, true, &restored },
		{ "backup", JSON_KIND_STRING, true, &backup },
		{ "generation", JSON_KIND_STRING, true, &generation },
		{ "revision", JSON_KIND_INTEGER, true, &revision },
		{ "log", JSON_KIND_BOOL, true, &c->log },
		{ "changes", JSON_KIND_INTEGER, true, &changes },
	};

	if (json_take(body, members, STR_COUNT(members), ret_error) < 0)
		return KEKD_EINVALID;
	if (clock_parse(restored, &c->restored_us) < 0 || clock_parse(backup, &c->backup_us) < 0 ||
		uuid_parse(generation, &id) < 0)
		return json_refuse(ret_error, "\"confirm\" has no times or no generation");
	uuid_format(&id, c->generation);
	c->revision = (uint64_t)revision;
	c->changes = (uint64_t)changes;
	c->wanted = true;
	return 0;
}

int
cluster_from_json(const json_t *body, uint64_t commit, struct cluster *ret_cluster,
	char ret_error[JSON_ERROR_SIZE])
{
	const char *name, *generation, *created;
	json_t *nodes, *seal_keys, *policy, *confirm = NULL, *forgotten = NULL, *succeeds = NULL;
	struct cluster c = { .commit = commit };
	int64_t level;
	bool frozen = true;
	const struct json_member members[] = {
		{ "name", JSON_KIND_STRING, true, &name },
		{ "generation", JSON_KIND_STRING, true, &generation },
		{ "created", JSON_KIND_STRING, true, &created },
		{ "level", JSON_KIND_INTEGER, true, &level },
		{ "members", JSON_KIND_ARRAY, true, &nodes },
		{ "forgotten", JSON_KIND_ARRAY, false, &forgotten },
		{ "seal_keys", JSON_KIND_ARRAY, true, &seal_keys },
		{ "policy", JSON_KIND_OBJECT, true, &policy },
		{ "confirm", JSON_KIND_OBJECT, false, &confirm },
		{ "frozen", JSON_KIND_BOOL, false, &frozen },
		{ "succeeds", JSON_KIND_ARRAY, false, &succeeds },
	};

	if (json_take(body, members, STR_COUNT(members), ret_error) < 0 ||
		take_head(&c, name, generation, created, level, ret_error) < 0 ||
		take_members(nodes, &c, ret_error) < 0 ||
		take_forgotten(forgotten, &c, ret_error) < 0 ||
		take_succeeds(succeeds, &c, ret_error) < 0 ||
		take_seal_keys(seal_keys, &c, ret_error) < 0 ||
		policy_from_json(policy, &c.policy, ret_error) < 0 ||
		(confirm && take_confirm(confirm, &c.confirm, ret_error) < 0))
		return KEKD_EINVALID;
	if (!frozen)
		return json_refuse(ret_error, "\"frozen\" is true or absent");
	c.frozen = json_object_get(body, "frozen") != NULL;
	*ret_cluster = c;
	return 0;
}

bool
cluster_has_member(const struct cluster *c, const char *node)
{
	for (size_t i = 0; i < c->members_count; i++)
		if (strcmp(c->members[i], node) == 0)
			return true;
	return false;
}

bool
cluster_has_forgotten(const struct cluster *c, const char *node)
{
	for (size_t i = 0; i < c->forgotten_count; i++)
		if (strcmp(c->forgotten[i], node) == 0)
			return true;
	return false;
}

int
cluster_add_member(struct cluster *c, const char *node, char ret_error[JSON_ERROR_SIZE])
{
	if (!str_is_name(node))
		return json_refuse(ret_error,
			"a member's name is 1 to 64 of a-z 0-9 . _ - and begins "
			"and ends with a letter or digit");
	if (cluster_has_forgotten(c, node))
		return json_refuse(ret_error,
			"a member that was forgotten does not come back: give the "
			"node another name");
	if (cluster_has_member(c, node))
		return 0;
	if (c->members_count == CLUSTER_MEMBERS_MAX)
		return json_refuse(ret_error, "there are 16 members already");
	snprintf(c->members[c->members_count++], STR_NAME_MAX + 1, "%s", node);
	return 0;
}

int
cluster_forget_member(struct cluster *c, const char *node, char ret_error[JSON_ERROR_SIZE])
{
	size_t at = 0;

	while (at < c->members_count && strcmp(c->members[at], node) != 0)
		at++;
	if (at == c->members_count)
		return json_refuse(ret_error, "the cluster has no member of this name");
	if (c->members_count == 1)
		return json_refuse(ret_error, "the last member cannot be forgotten");
	if (c->forgotten_count == CLUSTER_FORGOTTEN_MAX)
		return json_refuse(ret_error, "64 members are forgotten already");
	memcpy(c->forgotten[c->forgotten_count++], c->members[at], STR_NAME_MAX + 1);
	memmove(c->members[at], c->members[at + 1],
		(c->members_count - at - 1) * sizeof(c->members[0]));
	c->members_count--;
	return 0;
}

static json_t *
names_to_json(const char (*names)[STR_NAME_MAX + 1], size_t count)
{
	json_t *array = json_array();

	for (size_t i = 0; i < count; i++)
		json_array_append_new(array, json_string(names[i]));
	return array;
}

bool
cluster_is_raising(const struct cluster *c)
{
	return c->succeeds_count > 0 && c->succeeds[c->succeeds_count - 1].raising;
}

static json_t *
succeeds_to_json(const struct cluster *c)
{
	json_t *array = json_array();

	for (size_t i = 0; i < c->succeeds_count; i++) {
		const struct cluster_succeeds *s = &c->succeeds[i];
		json_t *item = json_pack(
			"{s:s, s:I}", "generation", s->generation, "number", (json_int_t)s->number);
		if (*s->store)
			json_object_set_new(item, "store", json_string(s->store));
		if (s->raising)
			json_object_set_new(item, "raising", json_true());
		json_array_append_new(array, item);
	}
	return array;
}

static json_t *
seal_keys_to_json(const struct cluster *c)
{
	json_t *array = json_array();

	for (size_t i = 0; i < c->seal_keys_count; i++) {
		char id[UUID_TEXT_SIZE];
		uuid_format(&c->seal_keys[i].id, id);
		json_array_append_new(
			array, json_pack("{s:s, s:s}", "id", id, "token", c->seal_keys[i].token));
	}
	return array;
}

json_t *
cluster_confirm_to_json(const struct cluster_confirm *c)
{
	char restored[CLOCK_TEXT_SIZE], backup[CLOCK_TEXT_SIZE];

	if (!c->wanted)
		return json_null();
	clock_format(c->restored_us, restored);
	clock_format(c->backup_us, backup);
	return json_pack("{s:s, s:s, s:s, s:I, s:b, s:I}", "restored", restored, "backup", backup,
		"generation", c->generation, "revision", (json_int_t)c->revision, "log",
		(int)c->log, "changes", (json_int_t)c->changes);
}

json_t *
cluster_to_json(const struct cluster *c)
{
	char created[CLOCK_TEXT_SIZE];
	json_t *body;
	int err = 0;

	clock_format(c->created_us, created);
	body = json_pack("{s:s, s:s, s:s, s:i, s:o, s:o, s:o}", "name", c->name, "generation",
		c->generation, "created", created, "level", (int)c->level, "members",
		names_to_json(c->members, c->members_count), "seal_keys", seal_keys_to_json(c),
		"policy", policy_to_json(&c->policy));
	if (body && c->forgotten_count > 0)
		err |= json_object_set_new(
			body, "forgotten", names_to_json(c->forgotten, c->forgotten_count));
	if (body && c->confirm.wanted)
		err |= json_object_set_new(body, "confirm", cluster_confirm_to_json(&c->confirm));
	if (body && c->succeeds_count > 0)
		err |= json_object_set_new(body, "succeeds", succeeds_to_json(c));
	if (body && c->frozen)
		err |= json_object_set_new(body, "frozen", json_true());
	if (err < 0) {
		json_decref(body);
		return NULL;
	}
	return body;
}

int
cluster_commit(struct sealed *store, struct cluster *c, const struct sealed_change *with)
{
	json_t *body = cluster_to_json(c);
	struct sealed_change changes[2] = { { "cluster", c->commit, body } };
	uint64_t number;
	int err = -ENOMEM;

	if (with)
		changes[1] = *with;
	if (body)
		err = sealed_commit(store, changes, with ? 2 : 1, &number);
	json_decref(body);
	if (err == 0)
		c->commit = number;
	return err;
}
