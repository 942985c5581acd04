/* SPDX-License-Identifier: Apache-2.0 */
/* POST /v1/keys/{key}/adopt: objects that no metadata knows become versions of a key: those with
 * the key's label, or one that is named by its CKA_ID. */
#include "keys.h"

#include "kekd/nonce.h"

#include <errno.h>
#include <string.h>

struct adoption {
	struct unknown_wanted wanted;
	struct object_id id;
	struct lifecycle_adoption a;
	struct lifecycle_object *objects;
};

static int
read_id(const char *text, struct object_id *ret_id, char ret_error[JSON_ERROR_SIZE])
{
	size_t len = strlen(text) / 2;

	if (len == 0 || len > OBJECT_ID_MAX || str_unhex(text, ret_id->b, len) < 0) {
		snprintf(ret_error, JSON_ERROR_SIZE,
			"object_id has 1 to %d bytes in lower-case hex, as \"kekctl hsm objects\" "
			"shows them",
			OBJECT_ID_MAX);
		return KEKD_EINVALID;
	}
	ret_id->len = (uint8_t)len;
	return 0;
}

static int
adoption_read(struct request *r, struct adoption *a, char ret_error[JSON_ERROR_SIZE])
{
	const char *id = NULL;
	int64_t ivs_used = -1;
	const struct json_member members[] = {
		{ "token", JSON_KIND_STRING, false, &a->wanted.token },
		{ "object_id", JSON_KIND_STRING, false, &id },
		{ "ivs_used", JSON_KIND_INTEGER, false, &ivs_used },
	};
	int err = json_take(r->body, members, STR_COUNT(members), ret_error);

	if (err < 0)
		return err;
	if (!str_is_name(r->key)) {
		snprintf(ret_error, JSON_ERROR_SIZE, "the key's name is not valid");
		return KEKD_ENAME;
	}
	if (a->wanted.token && node_token(r->node, a->wanted.token) < 0) {
		snprintf(ret_error, JSON_ERROR_SIZE, "no token of the configuration has this name");
		return KEKD_EINVALID;
	}
	if (ivs_used > (int64_t)(NONCE_MAX - NONCE_BLOCK)) {
		snprintf(ret_error, JSON_ERROR_SIZE,
			"ivs_used is above the budget of a version, 2^32: leave it out, and the "
			"version only unwraps");
		return KEKD_EINVALID;
	}
	if (id && read_id(id, &a->id, ret_error) < 0)
		return KEKD_EINVALID;
	a->wanted.id = id ? &a->id : NULL;
	a->wanted.key = r->key;
	a->a.by = r->client->name;
	a->a.ivs_known = ivs_used >= 0;
	a->a.ivs_used = ivs_used >= 0 ? (uint64_t)ivs_used : 0;
	return 0;
}

/* An object that came to the token since the last sweep is found by another one. */
static int
find(struct request *r, struct adoption *a)
{
	a->objects = calloc(KEY_VERSIONS_MAX, sizeof(*a->objects));
	if (!a->objects) {
		request_fail(r, -ENOMEM, "no memory: ask again");
		return -ENOMEM;
	}
	a->a.objects = a->objects;
	a->a.count = node_find_unknown(r->node, &a->wanted, a->objects);
	if (a->a.count == 0) {
		node_sweep(r->node);
		a->a.count = node_find_unknown(r->node, &a->wanted, a->objects);
	}
	if (a->a.count == 0) {
		request_fail(r, KEKD_ENOOBJECT,
			a->wanted.id ? "no object with this CKA_ID is in the tokens without a key: "
				       "see \"kekctl hsm objects\""
				     : "no object without a key has the label "
				       "kekd:CLUSTER:%s:vN: name one by its object_id, see "
				       "\"kekctl hsm objects\"",
			r->key);
		return KEKD_ENOOBJECT;
	}
	if (a->wanted.id && a->a.count > 1) {
		request_fail(r, KEKD_EDUPLICATE,
			"several tokens, or one token twice, have an object with this CKA_ID: name "
			"the token, or remove the wrong one");
		return KEKD_EDUPLICATE;
	}
	return 0;
}

static json_t *
detail(const struct adoption *a, const struct key *k)
{
	json_t *objects = json_array();

	for (size_t i = 0; i < a->a.count; i++) {
		char id[2 * OBJECT_ID_MAX];
		str_hex(a->objects[i].id.b, a->objects[i].id.len, id);
		json_array_append_new(objects, json_stringn(id, 2 * (size_t)a->objects[i].id.len));
	}
	return json_pack("{s:o, s:i, s:I, s:b}", "objects", objects, "primary", (int)k->primary,
		"revision", (json_int_t)k->commit, "ivs_known", a->a.ivs_known);
}

static void
take_over(struct request *r, struct adoption *a)
{
	_cleanup_(key_unrefp) struct key *k = NULL;
	char text[LIFECYCLE_ERROR_SIZE] = "";
	int err = lifecycle_adopt(
		&r->node->lifecycle, r->key, r->if_match_given ? r->if_match : 0, &a->a, &k, text);

	/* Also where the rotation behind it failed. */
	for (size_t i = 0; i < a->a.count; i++)
		if (keyring_knows_object(r->node->keyring,
			    r->node->part.tokens[a->objects[i].token], &a->objects[i].id)) {
			node_forget_unknown(r->node, a->objects[i].token, &a->objects[i].id);
			node_count_proven(r->node, r->key);
		}
	if (err < 0) {
		request_fail(r, err, "%s", *text ? text : kekd_strerror(err));
		return;
	}
	api_set_detail(r, detail(a, k));
	keys_answer(r, r->if_match_given ? 200 : 201, k);
}

void
api_key_adopt(struct request *r)
{
	struct adoption a = { 0 };
	char error[JSON_ERROR_SIZE] = "";
	int err = adoption_read(r, &a, error);

	if (err < 0)
		request_fail(r, err, "%s", error);
	else if (api_record_refused(r->node, "key", r->key, false, error))
		request_fail(r, KEKD_ERECORD, "%s", error);
	else if (find(r, &a) == 0)
		take_over(r, &a);
	free(a.objects);
}
