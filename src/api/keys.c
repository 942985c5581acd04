/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keys and their versions as a resource: list, create, read, labels, rotate, states. What a change
 * does is lifecycle.h's; here requests become its calls and records become JSON.
 */
#include "keys.h"

#include "kekd/clock.h"

#include <errno.h>
#include <string.h>

#define LIST_BATCH 100
#define LIST_VERSIONS_MAX 10000 /* on one page: keeps an answer at a few MiB */

/* The API's words, in the order of enum hsm_attribute's bits. */
static const char *const attribute_names[] = {
	"sensitive",
	"always_sensitive",
	"never_extractable",
	"local",
	"not_extractable",
	"token",
	"private",
};

static json_t *
attributes_json(unsigned attributes)
{
	json_t *names = json_array();

	for (size_t i = 0; i < STR_COUNT(attribute_names); i++)
		if (attributes & (1u << i))
			json_array_append_new(names, json_string(attribute_names[i]));
	return names;
}

static json_t *
object_id_json(const struct object_id *id)
{
	char text[2 * OBJECT_ID_MAX];

	str_hex(id->b, id->len, text);
	return json_stringn(text, 2 * (size_t)id->len);
}

static json_t *
adopted_json(const struct key_version *v)
{
	if (v->adopted_us == 0)
		return json_null();
	return json_pack("{s:o, s:s}", "time", api_time(v->adopted_us), "by", v->adopted_by);
}

static json_t *
strings_json(const char (*list)[STR_NAME_MAX + 1], size_t count)
{
	json_t *array = json_array();

	for (size_t i = 0; i < count; i++)
		json_array_append_new(array, json_string(list[i]));
	return array;
}

static json_t *
seconds_json(uint64_t s)
{
	char text[CLOCK_DURATION_SIZE];

	clock_format_duration(s, text);
	return json_string(text);
}

/* Until it is over, `not_before` is a guess: what counts is the time that kekd sees pass. */
static json_t *
destroy_json(const struct key_version *v)
{
	const struct version_destroy *d = v->destroy;
	uint64_t begun = d ? (d->restarted_us ? d->restarted_us : v->state_changed_us) : 0;

	if (!d)
		return json_null();
	return json_pack("{s:o, s:o, s:s, s:o, s:o, s:o, s:o, s:I, s:s, s:o}", "approval",
		*d->approval ? json_string(d->approval) : json_null(), "requested",
		api_time(d->requested_us), "requested_by", d->requested_by, "wait",
		seconds_json(d->wait_s), "waited", seconds_json(d->waited_s), "not_before",
		api_time(v->state == VERSION_SCHEDULED ? begun + d->wait_s * 1000000 : 0),
		"restarted", api_time(d->restarted_us), "restarts", (json_int_t)d->restarts,
		"evidence", d->evidence, "confirmed",
		strings_json((const char(*)[STR_NAME_MAX + 1]) d->confirmed, d->confirmed_count));
}

static json_t *
version_json(const struct key_version *v)
{
	char id[UUID_TEXT_SIZE];

	uuid_format(&v->id, id);
	return json_pack("{s:i, s:s, s:o, s:s, s:s, s:o, s:o, s:b, s:o, s:o, s:o}", "version",
		(int)v->number, "id", id, "object_id", object_id_json(&v->object_id), "token",
		v->token, "state", version_state_name(v->state), "created", api_time(v->created_us),
		"state_changed", api_time(v->state_changed_us), "proven", v->canary_len > 0,
		"attributes", attributes_json(v->attributes), "adopted", adopted_json(v), "destroy",
		destroy_json(v));
}

static json_t *
versions_json(const struct key *k)
{
	json_t *versions = json_array();

	for (size_t i = 0; i < k->versions_count; i++)
		if (json_array_append_new(versions, version_json(&k->versions[i])) < 0) {
			json_decref(versions);
			return NULL;
		}
	return versions;
}

/* A version number, or null for "none". */
json_t *
keys_number_json(unsigned number)
{
	return number ? json_integer(number) : json_null();
}

static json_t *
kms_key_id_json(const struct key *k)
{
	char text[KMS_KEY_ID_SIZE];

	key_kms_key_id(k, text);
	return *text ? json_string(text) : json_null();
}

static json_t *
labels_json(const struct key *k)
{
	return k->labels ? json_deep_copy(k->labels) : json_object();
}

static const char *
algorithm_name(enum blob_algorithm algorithm)
{
	static const char *const names[] = { [BLOB_AES256_GCM] = "aes256-gcm" };

	return names[algorithm];
}

static json_t *
key_json(const struct key *k)
{
	return json_pack(
		"{s:s, s:s, s:o, s:o, s:o, s:I, s:o, s:o, s:o, s:I, s:b, s:o, s:o, s:b, s:s, s:o}",
		"name", k->name, "algorithm", algorithm_name(k->algorithm), "labels",
		labels_json(k), "created", api_time(k->created_us), "primary",
		keys_number_json(k->primary), "activation", (json_int_t)k->activation, "activated",
		api_time(k->activated_us), "kms_key_id", kms_key_id_json(k), "previous",
		keys_number_json(k->previous), "revision", (json_int_t)k->commit, "refused",
		k->refused, "rotate_every", api_duration_or_null(k->rotate_every_s),
		"next_rotation", api_time(k->next_rotation_us), "frozen", k->frozen, "when_stale",
		key_stale_name(k->when_stale), "versions", versions_json(k));
}

void
keys_answer(struct request *r, int status, const struct key *k)
{
	json_t *value = key_json(k);

	if (!value) {
		request_fail(r, -ENOMEM, "no memory for the answer: ask again");
		return;
	}
	api_set_etag(r, k->commit);
	request_answer_json(r, status, value);
}

/* ---- list ---- */

struct page {
	json_t *keys;
	size_t limit, versions;
	bool more, failed;
};

/* False when the page takes no more. */
static bool
page_add(struct page *p, const struct client *client, const struct key *k)
{
	if (client_authorise(client, ACCESS_KEY_READ, k->name) < 0)
		return true;
	if (json_array_size(p->keys) >= p->limit || p->versions > LIST_VERSIONS_MAX) {
		p->more = true;
		return false;
	}
	p->versions += k->versions_count;
	p->failed = json_array_append_new(p->keys, key_json(k)) < 0;
	return !p->failed;
}

static void
page_fill(struct page *p, struct request *r, const char *after)
{
	struct key *batch[LIST_BATCH];
	char last[STR_NAME_MAX + 1];
	size_t count;
	bool go_on = true;

	snprintf(last, sizeof(last), "%s", after ? after : "");
	do {
		count = keyring_list(r->node->keyring, *last ? last : NULL, LIST_BATCH, batch);
		for (size_t i = 0; i < count; i++) {
			go_on = go_on && page_add(p, r->client, batch[i]);
			memcpy(last, batch[i]->name, sizeof(last));
			key_unrefp(&batch[i]);
		}
	} while (go_on && count == LIST_BATCH);
}

static json_t *
page_next(const struct page *p)
{
	const json_t *key = json_array_get(p->keys, json_array_size(p->keys) - 1);

	return p->more ? json_incref(json_object_get(key, "name")) : json_null();
}

void
api_key_list(struct request *r)
{
	struct page p = { 0 };
	const char *after;
	json_t *value = NULL;

	if (api_page(r, &after, &p.limit) < 0)
		return;
	p.keys = json_array();
	page_fill(&p, r, after);
	if (p.keys && !p.failed)
		value = json_pack("{s:O, s:o}", "keys", p.keys, "next", page_next(&p));
	json_decref(p.keys);
	if (value)
		request_answer_json(r, 200, value);
	else
		request_fail(r, -ENOMEM, "no memory for the answer: ask again, for fewer keys");
}

void
api_key_get(struct request *r)
{
	_cleanup_(key_unrefp) struct key *k = api_find_key(r);

	if (k)
		keys_answer(r, 200, k);
}

/* ---- changes ---- */

uint64_t
keys_expected(const struct request *r)
{
	return r->if_match_given ? r->if_match : STORE_ANY;
}

void
keys_fail(struct request *r, int err, const char *text)
{
	request_fail(r, err, "%s", *text ? text : kekd_strerror(err));
}

struct creation {
	const char *name, *algorithm, *token;
	struct lifecycle_settings settings;
};

/* What PATCH and creation have in common. rotate_every: what the body has, or NULL. */
static int
read_rotate_every(struct request *r, const json_t *value, struct lifecycle_settings *settings,
	char ret_error[JSON_ERROR_SIZE])
{
	uint64_t floor_s = node_rotation_floor_s(r->node);
	char floor[CLOCK_DURATION_SIZE];

	settings->has_rotate_every = value != NULL;
	if (!value || json_is_null(value))
		return 0;
	clock_format_duration(floor_s, floor);
	if (json_is_string(value) &&
		clock_parse_duration(json_string_value(value), &settings->rotate_every_s) == 0 &&
		settings->rotate_every_s >= floor_s)
		return 0;
	snprintf(ret_error, JSON_ERROR_SIZE,
		"rotate_every is a duration from \"%s\" to \"36525d\", such as \"90d\" or "
		"\"24h\", or null for none",
		floor);
	return KEKD_EINVALID;
}

static int
read_when_stale(
	const char *text, struct lifecycle_settings *settings, char ret_error[JSON_ERROR_SIZE])
{
	settings->has_when_stale = text != NULL;
	if (!text || key_stale_parse(text, &settings->when_stale) == 0)
		return 0;
	snprintf(ret_error, JSON_ERROR_SIZE, "when_stale is \"unwrap\", \"serve\" or \"refuse\"");
	return KEKD_EINVALID;
}

static int
creation_read(struct request *r, struct creation *c, char ret_error[JSON_ERROR_SIZE])
{
	json_t *labels = NULL, *rotate_every = NULL;
	const char *when_stale = NULL;
	const struct json_member members[] = {
		{ "name", JSON_KIND_STRING, true, &c->name },
		{ "algorithm", JSON_KIND_STRING, false, &c->algorithm },
		{ "labels", JSON_KIND_OBJECT, false, &labels },
		{ "token", JSON_KIND_STRING, false, &c->token },
		{ "rotate_every", JSON_KIND_ANY, false, &rotate_every },
		{ "frozen", JSON_KIND_BOOL, false, &c->settings.frozen },
		{ "when_stale", JSON_KIND_STRING, false, &when_stale },
	};
	int err = json_take(r->body, members, STR_COUNT(members), ret_error);

	if (err == 0)
		err = read_rotate_every(r, rotate_every, &c->settings, ret_error);
	if (err == 0)
		err = read_when_stale(when_stale, &c->settings, ret_error);
	if (err < 0)
		return err;
	c->settings.labels = labels;
	c->settings.has_frozen = json_object_get(r->body, "frozen") != NULL;
	if (!str_is_name(c->name)) {
		snprintf(ret_error, JSON_ERROR_SIZE,
			"a key's name has 1 to %d of a-z 0-9 . _ - and begins and ends with a "
			"letter or digit",
			STR_NAME_MAX);
		return KEKD_ENAME;
	}
	r->key = c->name; /* for the audit record: the path has none */
	if (client_authorise(r->client, ACCESS_KEY_CREATE, c->name) < 0) {
		snprintf(ret_error, JSON_ERROR_SIZE,
			"no grant of client \"%s\" has key.create for key \"%s\"", r->client->name,
			c->name);
		return KEKD_EFORBIDDEN;
	}
	if (api_record_refused(r->node, "key", c->name, false, ret_error))
		return KEKD_ERECORD;
	if (c->algorithm && strcmp(c->algorithm, algorithm_name(BLOB_AES256_GCM)) != 0) {
		snprintf(ret_error, JSON_ERROR_SIZE, "the algorithm must be %s",
			algorithm_name(BLOB_AES256_GCM));
		return KEKD_EINVALID;
	}
	return 0;
}

void
keys_set_activation_detail(struct request *r, const struct key *k)
{
	const struct key_version *v = key_find_version(k, k->primary);

	if (v)
		api_set_detail(r,
			json_pack("{s:i, s:o, s:I, s:o, s:s, s:o, s:I}", "version", (int)k->primary,
				"previous", keys_number_json(k->previous), "activation",
				(json_int_t)k->activation, "kms_key_id", kms_key_id_json(k),
				"token", v->token, "object_id", object_id_json(&v->object_id),
				"revision", (json_int_t)k->commit));
}

void
api_key_create(struct request *r)
{
	struct creation c = { 0 };
	_cleanup_(key_unrefp) struct key *k = NULL;
	char error[JSON_ERROR_SIZE] = "", text[LIFECYCLE_ERROR_SIZE] = "";
	int err = creation_read(r, &c, error);

	if (err < 0) {
		request_fail(r, err, "%s", error);
		return;
	}
	err = lifecycle_create(&r->node->lifecycle, c.name, &c.settings, c.token, &k, text);
	if (err < 0) {
		keys_fail(r, err, text);
		return;
	}
	node_count_proven(r->node, k->name);
	keys_set_activation_detail(r, k);
	keys_answer(r, 201, k);
}

bool
keys_may_begin(struct request *r, const struct json_member *members, size_t n)
{
	_cleanup_(key_unrefp) struct key *before = api_find_key_to_change(r);
	char error[JSON_ERROR_SIZE] = "";
	int err = before ? json_take(r->body, members, n, error) : 0;

	if (err < 0)
		request_fail(r, err, "%s", error);
	return before && err == 0;
}

/* At least one of them is there. */
static int
read_settings(struct request *r, struct lifecycle_settings *s, char ret_error[JSON_ERROR_SIZE])
{
	json_t *labels = NULL, *rotate_every = NULL;
	const char *when_stale = NULL;
	const struct json_member members[] = {
		{ "labels", JSON_KIND_OBJECT, false, &labels },
		{ "rotate_every", JSON_KIND_ANY, false, &rotate_every },
		{ "frozen", JSON_KIND_BOOL, false, &s->frozen },
		{ "when_stale", JSON_KIND_STRING, false, &when_stale },
	};
	int err = json_take(r->body, members, STR_COUNT(members), ret_error);

	if (err == 0)
		err = read_rotate_every(r, rotate_every, s, ret_error);
	if (err == 0)
		err = read_when_stale(when_stale, s, ret_error);
	if (err < 0)
		return err;
	s->labels = labels;
	s->has_frozen = json_object_get(r->body, "frozen") != NULL;
	if (labels || rotate_every || when_stale || s->has_frozen)
		return 0;
	snprintf(ret_error, JSON_ERROR_SIZE, "give labels, rotate_every, frozen or when_stale");
	return KEKD_EINVALID;
}

void
api_key_patch(struct request *r)
{
	_cleanup_(key_unrefp) struct key *before = api_find_key_to_change(r);
	_cleanup_(key_unrefp) struct key *k = NULL;
	struct lifecycle_settings settings = { 0 };
	char error[JSON_ERROR_SIZE] = "", text[LIFECYCLE_ERROR_SIZE] = "";
	int err;

	if (!before)
		return;
	err = read_settings(r, &settings, error);
	if (err < 0) {
		request_fail(r, err, "%s", error);
		return;
	}
	err = lifecycle_set(&r->node->lifecycle, r->key, keys_expected(r), &settings, &k, text);
	if (err < 0) {
		keys_fail(r, err, text);
		return;
	}
	api_set_detail(r, json_pack("{s:I, s:b, s:s, s:o, s:o}", "revision", (json_int_t)k->commit,
				  "frozen", k->frozen, "when_stale", key_stale_name(k->when_stale),
				  "rotate_every", api_duration_or_null(k->rotate_every_s),
				  "next_rotation", api_time(k->next_rotation_us)));
	keys_answer(r, 200, k);
}

/* ---- versions ---- */

static int
enable(struct lifecycle *l, const char *name, uint64_t expected_commit, unsigned version,
	struct key **ret_key, char ret_error[LIFECYCLE_ERROR_SIZE])
{
	return lifecycle_set_enabled(l, name, expected_commit, version, true, ret_key, ret_error);
}

/* A key whose primary is disabled could not wrap: it is never wanted. */
static int
disable(struct lifecycle *l, const char *name, uint64_t expected_commit, unsigned version,
	struct key **ret_key, char ret_error[LIFECYCLE_ERROR_SIZE])
{
	_cleanup_(key_unrefp) struct key *k = keyring_find(l->keyring, name);

	if (k && k->primary == version) {
		snprintf(ret_error, LIFECYCLE_ERROR_SIZE,
			"version %u of key \"%s\" is the primary: rotate the key, or make another "
			"version primary, then disable this one",
			version, name);
		return KEKD_ESTATE;
	}
	return lifecycle_set_enabled(l, name, expected_commit, version, false, ret_key, ret_error);
}

unsigned
keys_version_number(const char *text)
{
	unsigned number = 0;

	if (*text == '0')
		return 0;
	for (; *text; text++) {
		if (*text < '0' || *text > '9' || number > KEY_VERSIONS_MAX)
			return 0;
		number = number * 10 + (unsigned)(*text - '0');
	}
	return number;
}

static void
set_version_detail(struct request *r, const struct key *k, unsigned number)
{
	const struct key_version *v = key_find_version(k, number);

	if (v)
		api_set_detail(r, json_pack("{s:i, s:s, s:b, s:I}", "version", (int)number, "state",
					  version_state_name(v->state), "primary",
					  k->primary == number, "revision", (json_int_t)k->commit));
}

void
keys_change_version(struct request *r, keys_version_fn *change)
{
	unsigned number = keys_version_number(r->params[1]);
	_cleanup_(key_unrefp) struct key *before = api_find_key_to_change(r);
	_cleanup_(key_unrefp) struct key *k = NULL;
	char error[JSON_ERROR_SIZE] = "", text[LIFECYCLE_ERROR_SIZE] = "";
	int err;

	if (!before)
		return;
	if (number == 0 || !key_find_version(before, number)) {
		request_fail(r, KEKD_ENOVERSION, "key \"%s\" has no version \"%.16s\"", r->key,
			r->params[1]);
		return;
	}
	err = json_take(r->body, NULL, 0, error);
	if (err < 0) {
		request_fail(r, err, "%s", error);
		return;
	}
	err = change(&r->node->lifecycle, r->key, keys_expected(r), number, &k, text);
	if (err < 0) {
		keys_fail(r, err, text);
		return;
	}
	set_version_detail(r, k, number);
	keys_answer(r, 200, k);
}

void
api_version_enable(struct request *r)
{
	keys_change_version(r, enable);
}

void
api_version_disable(struct request *r)
{
	keys_change_version(r, disable);
}

void
api_version_primary(struct request *r)
{
	keys_change_version(r, lifecycle_make_primary);
}
