/* SPDX-License-Identifier: Apache-2.0 */
/* The body of the record keys/NAME (doc/formats/keys.md): to JSON, and strictly back. */
#include "kekd/clock.h"
#include "kekd/err.h"
#include "kekd/keyring.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define ALGORITHM_NAME "aes256-gcm"

static const struct {
	unsigned bit;
	const char *name;
} attributes[] = {
	{ HSM_ATTR_SENSITIVE, "sensitive" },
	{ HSM_ATTR_ALWAYS_SENSITIVE, "always-sensitive" },
	{ HSM_ATTR_NEVER_EXTRACTABLE, "never-extractable" },
	{ HSM_ATTR_LOCAL, "local" },
	{ HSM_ATTR_NOT_EXTRACTABLE, "not-extractable" },
	{ HSM_ATTR_TOKEN, "token" },
	{ HSM_ATTR_PRIVATE, "private" },
};

const char *
key_attribute_name(unsigned bit)
{
	for (size_t i = 0; i < STR_COUNT(attributes); i++)
		if (attributes[i].bit == bit)
			return attributes[i].name;
	return NULL;
}

static unsigned
attribute_find(const char *name)
{
	for (size_t i = 0; name && i < STR_COUNT(attributes); i++)
		if (strcmp(attributes[i].name, name) == 0)
			return attributes[i].bit;
	return 0;
}

int
key_check_labels(const json_t *labels, char ret_error[JSON_ERROR_SIZE])
{
	const char *name;
	json_t *value;

	if (!json_is_object(labels) || json_object_size(labels) > KEY_LABELS_MAX) {
		snprintf(ret_error, JSON_ERROR_SIZE, "labels are an object of at most %d strings",
			KEY_LABELS_MAX);
		return KEKD_EINVALID;
	}
	json_object_foreach((json_t *)labels, name, value) {
		size_t len = strlen(name);
		if (len >= 1 && len <= 64 && json_is_string(value) &&
			json_string_length(value) <= 256)
			continue;
		snprintf(ret_error, JSON_ERROR_SIZE,
			"label \"%.64s\": a name has 1 to 64 bytes, and a value is a string of up "
			"to 256",
			name);
		return KEKD_EINVALID;
	}
	return 0;
}

/* ---- to JSON. NULL anywhere: no memory; jansson's *_new setters pass a NULL value on as a
 * failure. ---- */

static json_t *
time_to_json(uint64_t us)
{
	char text[CLOCK_TEXT_SIZE];

	clock_format(us, text);
	return json_string(text);
}

static json_t *
hex_to_json(const void *data, size_t len)
{
	char text[2 * OBJECT_ID_MAX + 1];

	str_hex(data, len, text);
	return json_stringn(text, 2 * len);
}

static json_t *
attributes_to_json(unsigned bits)
{
	json_t *names = json_array();

	for (size_t i = 0; i < STR_COUNT(attributes); i++)
		if (bits & attributes[i].bit)
			json_array_append_new(names, json_string(attributes[i].name));
	return names;
}

static json_t *
canary_to_json(const struct key_version *v)
{
	_cleanup_(buf_free) struct buf blob = BUF_INIT(STR_BASE64_SIZE(CANARY_SIZE_MAX));

	str_base64(&blob, v->canary, v->canary_len);
	return json_pack("{s:o, s:o}", "blob", json_stringn((char *)blob.data, blob.len), "sha256",
		hex_to_json(v->canary_sha256, sizeof(v->canary_sha256)));
}

static json_t *
destroy_to_json(const struct version_destroy *d)
{
	json_t *confirmed = json_array(), *o;

	for (size_t i = 0; i < d->confirmed_count; i++)
		json_array_append_new(confirmed, json_string(d->confirmed[i]));
	o = json_pack("{s:s, s:o, s:I, s:I, s:I, s:I, s:s, s:o}", "requested_by", d->requested_by,
		"requested", time_to_json(d->requested_us), "wait_s", (json_int_t)d->wait_s,
		"waited_s", (json_int_t)d->waited_s, "restarts", (json_int_t)d->restarts, "refused",
		(json_int_t)d->refused, "evidence", d->evidence, "confirmed", confirmed);
	if (o && ((*d->approval &&
			  json_object_set_new(o, "approval", json_string(d->approval)) < 0) ||
			 (d->restarted_us && json_object_set_new(o, "restarted",
						     time_to_json(d->restarted_us)) < 0))) {
		json_decref(o);
		return NULL;
	}
	return o;
}

/* Members that most versions lack. */
static int
add_rare(json_t *o, const struct key_version *v)
{
	if (v->canary_len > 0 && json_object_set_new(o, "canary", canary_to_json(v)) < 0)
		return -ENOMEM;
	if (v->adopted_us > 0 &&
		json_object_set_new(o, "adopted",
			json_pack("{s:o, s:s}", "time", time_to_json(v->adopted_us), "by",
				v->adopted_by)) < 0)
		return -ENOMEM;
	if (v->destroy && json_object_set_new(o, "destroy", destroy_to_json(v->destroy)) < 0)
		return -ENOMEM;
	return 0;
}

static json_t *
version_to_json(const struct key_version *v)
{
	char id[UUID_TEXT_SIZE];
	json_t *o;

	uuid_format(&v->id, id);
	o = json_pack("{s:I, s:s, s:o, s:s, s:s, s:o, s:o, s:o}", "version", (json_int_t)v->number,
		"id", id, "object_id", hex_to_json(v->object_id.b, v->object_id.len), "token",
		v->token, "state", version_state_name(v->state), "created",
		time_to_json(v->created_us), "state_changed", time_to_json(v->state_changed_us),
		"attributes", attributes_to_json(v->attributes));
	if (o && add_rare(o, v) < 0) {
		json_decref(o);
		return NULL;
	}
	return o;
}

static json_t *
versions_to_json(const struct key *k)
{
	json_t *array = json_array();

	for (size_t i = 0; i < k->versions_count; i++)
		if (json_array_append_new(array, version_to_json(&k->versions[i])) < 0) {
			json_decref(array);
			return NULL;
		}
	return array;
}

/* What is absent where it does not apply. 0 or -1. */
static int
add_optional(json_t *o, const struct key *k)
{
	int err = 0;

	if (k->activation > 0)
		err |= json_object_set_new(o, "activated", time_to_json(k->activated_us));
	if (k->rotate_every_s > 0)
		err |= json_object_set_new(
			o, "rotate_every_s", json_integer((json_int_t)k->rotate_every_s));
	if (k->next_rotation_us > 0)
		err |= json_object_set_new(o, "next_rotation", time_to_json(k->next_rotation_us));
	if (k->frozen)
		err |= json_object_set_new(o, "frozen", json_true());
	if (k->when_stale != KEY_STALE_UNWRAP)
		err |= json_object_set_new(
			o, "when_stale", json_string(key_stale_name(k->when_stale)));
	return err;
}

json_t *
key_to_json(const struct key *k)
{
	json_t *o = json_pack("{s:s, s:s, s:o, s:O, s:I, s:I, s:I, s:o}", "name", k->name,
		"algorithm", ALGORITHM_NAME, "created", time_to_json(k->created_us), "labels",
		k->labels, "primary", (json_int_t)k->primary, "activation",
		(json_int_t)k->activation, "previous", (json_int_t)k->previous, "versions",
		versions_to_json(k));

	if (o && add_optional(o, k) < 0) {
		json_decref(o);
		return NULL;
	}
	return o;
}

/* ---- from JSON ---- */

static int
object_id_from_text(const char *text, struct object_id *ret_id)
{
	size_t len = strlen(text) / 2;

	if (len == 0 || len > OBJECT_ID_MAX || str_unhex(text, ret_id->b, len) < 0)
		return KEKD_EINVALID;
	ret_id->len = (uint8_t)len;
	return 0;
}

static int
state_from_text(const char *text, enum version_state *ret_state)
{
	for (int s = VERSION_STAGED; s <= VERSION_ABANDONED; s++)
		if (strcmp(version_state_name((enum version_state)s), text) == 0) {
			*ret_state = (enum version_state)s;
			return 0;
		}
	return KEKD_EINVALID;
}

static int
attributes_from_json(json_t *names, unsigned *ret_bits)
{
	unsigned bits = 0;
	json_t *name;
	size_t i;

	json_array_foreach(names, i, name) {
		unsigned bit = attribute_find(json_string_value(name));
		if (bit == 0 || (bits & bit))
			return KEKD_EINVALID;
		bits |= bit;
	}
	*ret_bits = bits;
	return 0;
}

static int
canary_from_json(json_t *o, struct key_version *v, char ret_error[JSON_ERROR_SIZE])
{
	const char *blob, *sha256;
	const struct json_member members[] = {
		{ "blob", JSON_KIND_STRING, true, &blob },
		{ "sha256", JSON_KIND_STRING, true, &sha256 },
	};
	struct blob parsed;

	if (json_take_record(o, members, STR_COUNT(members), ret_error) < 0)
		return KEKD_EINVALID;
	if (str_unbase64(blob, strlen(blob), v->canary, sizeof(v->canary), &v->canary_len) < 0 ||
		blob_parse(v->canary, v->canary_len, &parsed) < 0 ||
		!uuid_equal(&parsed.version, &v->id))
		return json_refuse(ret_error, "a canary's \"blob\" is no blob of its version");
	if (str_unhex(sha256, v->canary_sha256, sizeof(v->canary_sha256)) < 0)
		return json_refuse(ret_error, "a canary's \"sha256\" is not 64 hex digits");
	return 0;
}

static int
adopted_from_json(json_t *o, struct key_version *v, char ret_error[JSON_ERROR_SIZE])
{
	const char *time, *by;
	const struct json_member members[] = {
		{ "time", JSON_KIND_STRING, true, &time },
		{ "by", JSON_KIND_STRING, true, &by },
	};

	if (json_take_record(o, members, STR_COUNT(members), ret_error) < 0)
		return KEKD_EINVALID;
	if (clock_parse(time, &v->adopted_us) < 0 || !str_is_name(by))
		return json_refuse(ret_error, "a version's \"adopted\" is not a time and a client");
	snprintf(v->adopted_by, sizeof(v->adopted_by), "%s", by);
	return 0;
}

static int
confirmed_from_json(const json_t *names, struct version_destroy *d)
{
	size_t n = json_array_size(names);

	for (size_t i = 0; i < n && i < KEY_CONFIRMED_MAX; i++) {
		const char *name = json_string_value(json_array_get(names, i));
		if (!name || !str_is_name(name))
			return KEKD_EINVALID;
		snprintf(d->confirmed[i], sizeof(d->confirmed[i]), "%s", name);
	}
	d->confirmed_count = n;
	return n <= KEY_CONFIRMED_MAX ? 0 : KEKD_EINVALID;
}

/* Text of a size that fits. */
static int
text_from_json(const char *text, char *ret_text, size_t size)
{
	if (strlen(text) >= size)
		return KEKD_EINVALID;
	snprintf(ret_text, size, "%s", text);
	return 0;
}

static int
destroy_from_json(json_t *o, struct version_destroy *d, char ret_error[JSON_ERROR_SIZE])
{
	const char *approval = "", *requested_by, *requested, *restarted = NULL, *evidence;
	int64_t wait_s, waited_s, restarts, refused;
	json_t *confirmed;
	const struct json_member members[] = {
		{ "approval", JSON_KIND_STRING, false, &approval },
		{ "requested_by", JSON_KIND_STRING, true, &requested_by },
		{ "requested", JSON_KIND_STRING, true, &requested },
		{ "wait_s", JSON_KIND_INTEGER, true, &wait_s },
		{ "waited_s", JSON_KIND_INTEGER, true, &waited_s },
		{ "restarted", JSON_KIND_STRING, false, &restarted },
		{ "restarts", JSON_KIND_INTEGER, true, &restarts },
		{ "refused", JSON_KIND_INTEGER, true, &refused },
		{ "evidence", JSON_KIND_STRING, true, &evidence },
		{ "confirmed", JSON_KIND_ARRAY, true, &confirmed },
	};

	if (json_take_record(o, members, STR_COUNT(members), ret_error) < 0)
		return KEKD_EINVALID;
	if (text_from_json(approval, d->approval, sizeof(d->approval)) < 0 ||
		text_from_json(requested_by, d->requested_by, sizeof(d->requested_by)) < 0 ||
		text_from_json(evidence, d->evidence, sizeof(d->evidence)) < 0 ||
		clock_parse(requested, &d->requested_us) < 0 ||
		(restarted && clock_parse(restarted, &d->restarted_us) < 0) ||
		restarts > INT32_MAX || confirmed_from_json(confirmed, d) < 0)
		return json_refuse(ret_error, "a version's \"destroy\" has a value that cannot be");
	d->wait_s = (uint64_t)wait_s;
	d->waited_s = (uint64_t)waited_s;
	d->restarts = (unsigned)restarts;
	d->refused = (uint64_t)refused;
	return 0;
}

static bool
is_ending(enum version_state s)
{
	return s == VERSION_SCHEDULED || s == VERSION_DESTROYING || s == VERSION_DESTROYED;
}

/* The version has it, whatever comes of this. */
static int
take_destroy(json_t *o, struct key_version *v, char ret_error[JSON_ERROR_SIZE])
{
	if (is_ending(v->state) != (o != NULL))
		return json_refuse(ret_error, "a version's \"destroy\" does not go with its state");
	if (!o)
		return 0;
	v->destroy = calloc(1, sizeof(*v->destroy));
	return v->destroy ? destroy_from_json(o, v->destroy, ret_error) : -ENOMEM;
}

static int
version_from_json(const json_t *o, struct key_version *v, char ret_error[JSON_ERROR_SIZE])
{
	const char *id, *object_id, *token, *state, *created, *state_changed;
	json_t *names, *canary = NULL, *adopted = NULL, *destroy = NULL;
	int err;
	int64_t number;
	const struct json_member members[] = {
		{ "version", JSON_KIND_INTEGER, true, &number },
		{ "id", JSON_KIND_STRING, true, &id },
		{ "object_id", JSON_KIND_STRING, true, &object_id },
		{ "token", JSON_KIND_STRING, true, &token },
		{ "state", JSON_KIND_STRING, true, &state },
		{ "created", JSON_KIND_STRING, true, &created },
		{ "state_changed", JSON_KIND_STRING, true, &state_changed },
		{ "attributes", JSON_KIND_ARRAY, true, &names },
		{ "canary", JSON_KIND_OBJECT, false, &canary },
		{ "adopted", JSON_KIND_OBJECT, false, &adopted },
		{ "destroy", JSON_KIND_OBJECT, false, &destroy },
	};

	if (json_take_record(o, members, STR_COUNT(members), ret_error) < 0)
		return KEKD_EINVALID;
	if (number < 1 || number > INT32_MAX)
		return json_refuse(ret_error, "a version's \"version\" is not a number from 1");
	v->number = (unsigned)number;
	if (uuid_parse(id, &v->id) < 0)
		return json_refuse(ret_error, "a version's \"id\" is no UUID");
	if (object_id_from_text(object_id, &v->object_id) < 0)
		return json_refuse(
			ret_error, "a version's \"object_id\" is not 1 to 64 bytes in hex");
	if (!str_is_name(token))
		return json_refuse(ret_error, "a version's \"token\" is no name");
	snprintf(v->token, sizeof(v->token), "%s", token);
	if (state_from_text(state, &v->state) < 0)
		return json_refuse(ret_error, "a version's \"state\" is not known");
	if (clock_parse(created, &v->created_us) < 0 ||
		clock_parse(state_changed, &v->state_changed_us) < 0)
		return json_refuse(
			ret_error, "a version's \"created\" or \"state_changed\" is no time");
	if (attributes_from_json(names, &v->attributes) < 0)
		return json_refuse(
			ret_error, "a version's \"attributes\" has an unknown or repeated name");
	if (adopted && adopted_from_json(adopted, v, ret_error) < 0)
		return KEKD_EINVALID;
	err = take_destroy(destroy, v, ret_error);
	return err == 0 && canary ? canary_from_json(canary, v, ret_error) : err;
}

/* v is the last one so far: it must have a higher number than, and share nothing with, the others.
 */
static int
check_distinct(const struct key *k, const struct key_version *v, char ret_error[JSON_ERROR_SIZE])
{
	for (const struct key_version *o = k->versions; o < v; o++) {
		if (o->number >= v->number)
			return json_refuse(ret_error, "\"versions\" is not sorted by number");
		if (uuid_equal(&o->id, &v->id))
			return json_refuse(ret_error, "two versions have one \"id\"");
		if (o->object_id.len == v->object_id.len && strcmp(o->token, v->token) == 0 &&
			memcmp(o->object_id.b, v->object_id.b, v->object_id.len) == 0)
			return json_refuse(ret_error, "two versions have one \"object_id\"");
	}
	return 0;
}

static int
versions_from_json(struct key *k, const json_t *array, char ret_error[JSON_ERROR_SIZE])
{
	size_t count = json_array_size(array);
	int err = 0;

	if (count > KEY_VERSIONS_MAX)
		return json_refuse(ret_error, "\"versions\" has more than 1000");
	k->versions = calloc(count ? count : 1, sizeof(*k->versions));
	if (!k->versions)
		return -ENOMEM;
	for (size_t i = 0; i < count && err == 0; i++) {
		struct key_version *v = &k->versions[i];
		err = version_from_json(json_array_get(array, i), v, ret_error);
		if (err == 0)
			err = check_distinct(k, v, ret_error);
		k->versions_count = i + 1;
	}
	return err;
}

static int
check_primary(const struct key *k, const char *activated, char ret_error[JSON_ERROR_SIZE])
{
	const struct key_version *v = key_find_version(k, k->primary);

	if (k->primary != 0 &&
		(!v || (v->state != VERSION_ENABLED && v->state != VERSION_DISABLED)))
		return json_refuse(ret_error, "\"primary\" names no version that can be one");
	if (k->previous != 0 && !key_find_version(k, k->previous))
		return json_refuse(ret_error, "\"previous\" names no version");
	if ((k->activation > 0) != (activated != NULL) || (k->activation > 0) != (k->primary != 0))
		return json_refuse(ret_error,
			"\"primary\", \"activation\" and \"activated\" do not go together");
	return 0;
}

/* Fills k, which is empty but for its allocation. */
static int
rotation_from_json(
	struct key *k, const json_t *body, int64_t rotate_every_s, const char *next_rotation)
{
	bool has = json_object_get(body, "rotate_every_s") != NULL;

	if (has != (next_rotation != NULL))
		return KEKD_EINVALID;
	if (!has)
		return 0;
	k->rotate_every_s = (uint64_t)rotate_every_s;
	if (rotate_every_s < 1 || k->rotate_every_s > CLOCK_DURATION_MAX_S)
		return KEKD_EINVALID;
	return clock_parse(next_rotation, &k->next_rotation_us);
}

static int
fill(struct key *k, const json_t *body, char ret_error[JSON_ERROR_SIZE])
{
	const char *name, *algorithm, *created, *activated = NULL, *next_rotation = NULL;
	const char *when_stale = NULL;
	json_t *labels, *versions;
	int64_t primary, activation, previous, rotate_every_s = 0;
	bool frozen = true;
	const struct json_member members[] = {
		{ "name", JSON_KIND_STRING, true, &name },
		{ "algorithm", JSON_KIND_STRING, true, &algorithm },
		{ "created", JSON_KIND_STRING, true, &created },
		{ "labels", JSON_KIND_OBJECT, true, &labels },
		{ "primary", JSON_KIND_INTEGER, true, &primary },
		{ "activation", JSON_KIND_INTEGER, true, &activation },
		{ "activated", JSON_KIND_STRING, false, &activated },
		{ "previous", JSON_KIND_INTEGER, true, &previous },
		{ "versions", JSON_KIND_ARRAY, true, &versions },
		{ "rotate_every_s", JSON_KIND_INTEGER, false, &rotate_every_s },
		{ "next_rotation", JSON_KIND_STRING, false, &next_rotation },
		{ "frozen", JSON_KIND_BOOL, false, &frozen },
		{ "when_stale", JSON_KIND_STRING, false, &when_stale },
	};
	int err;

	if (json_take_record(body, members, STR_COUNT(members), ret_error) < 0)
		return KEKD_EINVALID;
	if (!str_is_name(name))
		return json_refuse(ret_error, "\"name\" is no key name");
	snprintf(k->name, sizeof(k->name), "%s", name);
	if (strcmp(algorithm, ALGORITHM_NAME) != 0)
		return json_refuse(ret_error, "\"algorithm\" is not known");
	if (clock_parse(created, &k->created_us) < 0 ||
		(activated && clock_parse(activated, &k->activated_us) < 0))
		return json_refuse(ret_error, "\"created\" or \"activated\" is no time");
	if (!frozen)
		return json_refuse(ret_error, "\"frozen\" is true or absent");
	k->frozen = json_object_get(body, "frozen") != NULL;
	if (when_stale && key_stale_parse(when_stale, &k->when_stale) < 0)
		return json_refuse(ret_error, "\"when_stale\" is not known");
	if (rotation_from_json(k, body, rotate_every_s, next_rotation) < 0)
		return json_refuse(ret_error,
			"\"rotate_every_s\" is 1 s to 100 years, and goes with \"next_rotation\"");
	if (primary > INT32_MAX || previous > INT32_MAX)
		return json_refuse(ret_error, "\"primary\" or \"previous\" is too large");
	k->primary = (unsigned)primary;
	k->previous = (unsigned)previous;
	k->activation = (uint64_t)activation;
	if (key_check_labels(labels, ret_error) < 0)
		return KEKD_EINVALID;
	if (json_object_update(k->labels, labels) < 0)
		return -ENOMEM;
	err = versions_from_json(k, versions, ret_error);
	return err < 0 ? err : check_primary(k, activated, ret_error);
}

int
key_from_json(
	const json_t *body, uint64_t commit, struct key **ret_key, char ret_error[JSON_ERROR_SIZE])
{
	struct key *k = key_new("", NULL, 0);
	int err;

	if (!k)
		return -ENOMEM;
	err = fill(k, body, ret_error);
	if (err < 0) {
		key_unrefp(&k);
		return err;
	}
	k->commit = commit;
	*ret_key = k;
	return 0;
}
