/* SPDX-License-Identifier: Apache-2.0 */
/*
 * New versions: rotation in one call, in two (stage_only, then activate), what was staged given up,
 * and the dry run that tells what a rotation would do.
 */
#include "keys.h"

#include "kekd/clock.h"
#include "kekd/nonce.h"

#include <errno.h>
#include <string.h>

struct wish {
	const char *token;
	bool stage_only, dry_run;
};

bool
api_rotate_only_asks(const json_t *body)
{
	return json_is_true(json_object_get(body, "dry_run"));
}

/* ---- a dry run ---- */

/* What a rotation of this key would begin with, as lifecycle.c does it. */
struct plan {
	unsigned number;		     /* of the new version */
	const struct key_version *staged;    /* is finished; NULL: a new one is made */
	const struct key_version *abandoned; /* staged in another token: given up; or NULL */
	const char *token;
	unsigned token_index;
};

static const struct key_version *
find_staged(const struct key *k)
{
	for (size_t i = k->versions_count; i-- > 0;)
		if (k->versions[i].state == VERSION_STAGED)
			return &k->versions[i];
	return NULL;
}

/* 0, or the error that the rotation would end with. */
static int
make_plan(struct node *n, const struct key *k, const char *token, struct plan *p,
	char ret_error[LIFECYCLE_ERROR_SIZE])
{
	const struct key_version *staged = find_staged(k);
	bool finishes = staged && (!token || strcmp(staged->token, token) == 0);
	int index;

	*p = (struct plan){
		.number = finishes	      ? staged->number
			  : k->versions_count ? k->versions[k->versions_count - 1].number + 1
					      : 1,
		.staged = finishes ? staged : NULL,
		.abandoned = finishes ? NULL : staged,
		.token = token	    ? token
			 : finishes ? staged->token
				    : lifecycle_default_token(&n->lifecycle, k),
	};
	index = node_token(n, p->token);
	if (index < 0) {
		snprintf(ret_error, LIFECYCLE_ERROR_SIZE,
			"token %.64s is not configured on node %s: add it under tokens, or name "
			"another",
			p->token, n->part.node);
		return token ? KEKD_EINVALID : KEKD_EHSM;
	}
	p->token_index = (unsigned)index;
	if (!finishes && k->versions_count >= KEY_VERSIONS_MAX) {
		snprintf(ret_error, LIFECYCLE_ERROR_SIZE,
			"key %s has %d versions, the most that a key can have: create another key",
			k->name, KEY_VERSIONS_MAX);
		return KEKD_ESTATE;
	}
	return 0;
}

/* The id is drawn when the version is staged: before that there is none to tell. */
static json_t *
next_kms_key_id(const struct key *k, const struct plan *p)
{
	char id[UUID_TEXT_SIZE];

	if (!p->staged)
		return json_null();
	uuid_format(&p->staged->id, id);
	return json_sprintf("%s.%llu", id, (unsigned long long)k->activation + 1);
}

static json_t *
nonces_json(const struct key *k)
{
	const struct key_version *v = key_find_version(k, k->primary);
	uint64_t reserved = v && v->nonces ? nonce_reserved(v->nonces) : 0;

	if (!v)
		return json_null();
	return json_pack("{s:I, s:I, s:I}", "reserved", (json_int_t)reserved, "left",
		(json_int_t)(NONCE_MAX - reserved), "rotates_at", (json_int_t)NONCE_ROTATE);
}

static json_t *
still_unwrap(const struct key *k)
{
	json_t *numbers = json_array();

	for (size_t i = 0; i < k->versions_count; i++)
		if (k->versions[i].state == VERSION_ENABLED)
			json_array_append_new(numbers, json_integer(k->versions[i].number));
	return numbers;
}

static json_t *
kms_key_id(const struct key *k)
{
	char text[KMS_KEY_ID_SIZE];

	key_kms_key_id(k, text);
	return *text ? json_string(text) : json_null();
}

/* Nothing becomes the primary that one of them has not proven. */
static json_t *
provers(struct node *n)
{
	json_t *names = json_array();
	struct cluster c;

	node_cluster(n, &c);
	for (size_t i = 0; i < c.members_count; i++)
		json_array_append_new(names, json_string(c.members[i]));
	return names;
}

static json_t *
plan_json(struct node *n, const struct key *k, const struct plan *p, const struct wish *w)
{
	return json_pack("{s:b, s:s, s:i, s:s, s:b, s:b, s:o, s:o, s:b, s:o, s:o, s:o, s:o, s:I, "
			 "s:o, s:o}",
		"dry_run", true, "key", k->name, "version", (int)p->number, "token", p->token,
		"token_ready", hsm_token_ready(n->hsm, p->token_index), "already_staged",
		p->staged != NULL, "proven_by", provers(n), "abandons",
		keys_number_json(p->abandoned ? p->abandoned->number : 0), "activates",
		!w->stage_only, "primary", keys_number_json(k->primary), "unwraps", still_unwrap(k),
		"kms_key_id", kms_key_id(k), "next_kms_key_id",
		w->stage_only ? json_null() : next_kms_key_id(k, p), "activation",
		(json_int_t)(k->activation + !w->stage_only), "nonces", nonces_json(k),
		"next_rotation",
		api_time(w->stage_only ? k->next_rotation_us
				       : key_next_rotation(k, clock_real_us())));
}

static void
answer_plan(struct request *r, const struct wish *w)
{
	_cleanup_(key_unrefp) struct key *k = api_find_key_to_change(r);
	char text[LIFECYCLE_ERROR_SIZE] = "";
	struct plan p;
	int err;

	if (!k)
		return;
	api_set_detail(r, json_pack("{s:b}", "dry_run", true));
	if (keys_expected(r) != STORE_ANY && keys_expected(r) != k->commit) {
		request_fail(r, KEKD_EPRECONDITION,
			"key %s has changed since: it is at revision %llu; read it again", k->name,
			(unsigned long long)k->commit);
		return;
	}
	err = make_plan(r->node, k, w->token, &p, text);
	if (err < 0) {
		keys_fail(r, err, text);
		return;
	}
	api_set_etag(r, k->commit);
	request_answer_json(r, 200, plan_json(r->node, k, &p, w));
}

/* ---- the changes ---- */

static void
set_staged_detail(struct request *r, const struct key *k)
{
	const struct key_version *v = find_staged(k);

	if (v)
		api_set_detail(r, json_pack("{s:i, s:s, s:s, s:I}", "version", (int)v->number,
					  "state", version_state_name(v->state), "token", v->token,
					  "revision", (json_int_t)k->commit));
}

static void
rotate(struct request *r, const struct wish *w)
{
	_cleanup_(key_unrefp) struct key *k = NULL;
	char text[LIFECYCLE_ERROR_SIZE] = "";
	int err = (w->stage_only ? lifecycle_stage : lifecycle_rotate)(
		&r->node->lifecycle, r->key, keys_expected(r), w->token, &k, text);

	if (err < 0) {
		keys_fail(r, err, text);
		return;
	}
	if (w->stage_only) {
		set_staged_detail(r, k);
	} else {
		node_count_proven(r->node, k->name);
		keys_set_activation_detail(r, k);
	}
	keys_answer(r, 200, k);
}

void
api_key_rotate(struct request *r)
{
	struct wish w = { 0 };
	const struct json_member members[] = {
		{ "token", JSON_KIND_STRING, false, &w.token },
		{ "stage_only", JSON_KIND_BOOL, false, &w.stage_only },
		{ "dry_run", JSON_KIND_BOOL, false, &w.dry_run },
	};

	if (!keys_may_begin(r, members, STR_COUNT(members)))
		return;
	if (w.dry_run)
		answer_plan(r, &w);
	else
		rotate(r, &w);
}

void
api_key_activate(struct request *r)
{
	int64_t number = 0;
	const struct json_member members[] = { { "version", JSON_KIND_INTEGER, false, &number } };
	_cleanup_(key_unrefp) struct key *k = NULL;
	char text[LIFECYCLE_ERROR_SIZE] = "";
	unsigned before;
	int err;

	if (!keys_may_begin(r, members, STR_COUNT(members)))
		return;
	if (json_object_get(r->body, "version") && (number < 1 || number > INT32_MAX)) {
		request_fail(r, KEKD_EINVALID, "version is a version's number, from 1");
		return;
	}
	k = keyring_find(r->node->keyring, r->key);
	before = k ? k->primary : 0;
	key_unrefp(&k);
	err = lifecycle_activate(
		&r->node->lifecycle, r->key, keys_expected(r), (unsigned)number, &k, text);
	if (err < 0) {
		keys_fail(r, err, text);
		return;
	}
	if (k->primary != before)
		node_count_proven(r->node, k->name);
	keys_set_activation_detail(r, k);
	keys_answer(r, 200, k);
}

void
api_version_abandon(struct request *r)
{
	keys_change_version(r, lifecycle_abandon);
}
