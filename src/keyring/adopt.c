/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Adoption: objects that no metadata knows become versions of a key. Nobody can tell how many IVs
 * were drawn under them before: unless the caller knows, the whole budget counts as spent, so that
 * an adopted version only unwraps, and a key that has no other is rotated at once.
 */
#include "change.h"

#include "kekd/clock.h"
#include "kekd/err.h"
#include "kekd/nonce.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define CKK_AES_TYPE 0x1f
#define KEK_BYTES 32

/* ---- the object in its token ---- */

static int
fail_object(const struct lifecycle *l, const struct lifecycle_object *o, int err, const char *what,
	char ret_error[LIFECYCLE_ERROR_SIZE])
{
	char id[2 * OBJECT_ID_MAX + 1] = "";

	str_hex(o->id.b, o->id.len, id);
	return change_fail(
		ret_error, err, "object %.64s in token %s: %s", id, l->tokens[o->token], what);
}

static const struct {
	int err;
	const char *text;
} object_faults[] = {
	{ KEKD_EOBJECT, "there is no secret key with this CKA_ID" },
	{ KEKD_EDUPLICATE, "two objects have this CKA_ID: remove the wrong one" },
	{ KEKD_EUNPROVEN, "the token does not unwrap what it wrapped with it" },
	{ KEKD_EHSM, "the token cannot use it for AES-GCM now: see the status and its "
		     "CKA_ENCRYPT and CKA_DECRYPT" },
};

static int
explain_object(const struct lifecycle *l, const struct lifecycle_object *o, int err,
	char ret_error[LIFECYCLE_ERROR_SIZE])
{
	const char *text = kekd_strerror(err);

	for (size_t i = 0; i < STR_COUNT(object_faults); i++)
		if (object_faults[i].err == err)
			text = object_faults[i].text;
	return fail_object(l, o, err, text, ret_error);
}

/* Is it an AES-256 key, and, if its label says that kekd made it, held as kekd makes them? A label
 * can be written by anybody who can write the token. */
static int
inspect(const struct lifecycle *l, const struct lifecycle_object *o, unsigned *ret_attributes,
	char ret_error[LIFECYCLE_ERROR_SIZE])
{
	uint8_t kind[8] = { 0 };
	struct hsm_op op = { .kind = HSM_OP_INSPECT,
		.token = o->token,
		.object = o->id,
		.out = kind,
		.out_cap = sizeof(kind) };
	struct reader r = READER(kind, sizeof(kind));
	int err = hsm_call(l->hsm, &op, 1);

	if (err == 0)
		err = op.err;
	if (err < 0)
		return explain_object(l, o, err, ret_error);
	if (reader_u32(&r) != CKK_AES_TYPE || reader_u32(&r) != KEK_BYTES)
		return fail_object(
			l, o, KEKD_EATTRIBUTES, "it is no AES key of 256 bits", ret_error);
	if (o->number > 0 && (op.attributes & HSM_ATTR_HELD) != HSM_ATTR_HELD)
		return fail_object(l, o, KEKD_EATTRIBUTES,
			"its label is one of kekd's, but the token did not make it to be held for "
			"ever, as kekd does: adopt it by its object id if you know where it is "
			"from",
			ret_error);
	*ret_attributes = op.attributes;
	return 0;
}

/* ---- its version ---- */

/* Into its place by number. */
static struct key_version *
sort_in(struct key *k, unsigned number)
{
	size_t i = k->versions_count - 1;
	struct key_version v = k->versions[i];

	v.number = number;
	for (; i > 0 && k->versions[i - 1].number > number; i--)
		k->versions[i] = k->versions[i - 1];
	k->versions[i] = v;
	return &k->versions[i];
}

static int
choose_id(const struct lifecycle_object *o, struct uuid *ret_id)
{
	if (o->number == 0 || o->id.len != sizeof(ret_id->b))
		return uuid_generate(ret_id);
	memcpy(ret_id->b, o->id.b, sizeof(ret_id->b));
	return 0;
}

static int
add_version(const struct lifecycle *l, struct key *next, const struct lifecycle_object *o,
	struct key_version **ret_version, char ret_error[LIFECYCLE_ERROR_SIZE])
{
	struct key_version *v;
	struct uuid id;

	if (keyring_knows_object(l->keyring, l->tokens[o->token], &o->id))
		return fail_object(l, o, KEKD_ESTATE, "it belongs to a key already", ret_error);
	if (o->number > 0 && key_find_version(next, o->number))
		return change_fail(ret_error, KEKD_EDUPLICATE,
			"key %s has a version %u already, and token %s another object of that "
			"number: adopt it by its object id",
			next->name, o->number, l->tokens[o->token]);
	if (choose_id(o, &id) < 0)
		return change_fail(ret_error, KEKD_EINTERNAL, "the system gives no random bytes");
	v = key_add_version(next);
	if (!v)
		return change_fail(ret_error, KEKD_ESTATE,
			"key %s has %d versions, the most that a key can have, or there is no "
			"memory",
			next->name, KEY_VERSIONS_MAX);
	if (o->number > 0)
		v = sort_in(next, o->number);
	v->id = id;
	v->object_id = o->id;
	snprintf(v->token, sizeof(v->token), "%s", l->tokens[o->token]);
	*ret_version = v;
	return 0;
}

static int
adopt_object(const struct lifecycle *l, struct key *next, const struct lifecycle_adoption *a,
	const struct lifecycle_object *o, char ret_error[LIFECYCLE_ERROR_SIZE])
{
	struct key_version *v = NULL;
	unsigned attributes = 0;
	int err = inspect(l, o, &attributes, ret_error);

	if (err == 0)
		err = add_version(l, next, o, &v, ret_error);
	if (err < 0)
		return err;
	v->attributes = attributes;
	change_set_state(v, VERSION_ENABLED);
	v->created_us = v->adopted_us = v->state_changed_us;
	snprintf(v->adopted_by, sizeof(v->adopted_by), "%s", a->by);
	err = canary_make(l->hsm, o->token, v);
	if (err == 0)
		err = canary_prove(l->hsm, o->token, v);
	if (err < 0)
		return explain_object(l, o, err, ret_error);
	err = nonce_raise(l->store, &v->id, a->ivs_known ? NONCE_BLOCK + a->ivs_used : NONCE_MAX);
	return err < 0 ? change_fail_store(next->name, err, ret_error) : 0;
}

/* ---- the key ---- */

static int
begin(struct lifecycle *l, const char *name, uint64_t expected, struct key **ret_next,
	char ret_error[LIFECYCLE_ERROR_SIZE])
{
	_cleanup_(key_unrefp) struct key *k = NULL;
	int err = change_load(l, name, &k, ret_error);

	if (err == KEKD_ENOKEY && expected == 0) {
		*ret_next = key_new(name, NULL, clock_real_us());
		return *ret_next ? 0 : change_fail(ret_error, -ENOMEM, "key %s: no memory", name);
	}
	if (err < 0)
		return err;
	if (expected == 0)
		return change_fail(ret_error, KEKD_EPRECONDITION,
			"key %s exists: send its ETag to add versions to it", name);
	if (expected != STORE_ANY && expected != k->commit)
		return change_fail_store(name, KEKD_EPRECONDITION, ret_error);
	return change_copy(k, ret_next, ret_error);
}

/* A key needs a primary: the highest version. What the lost records counted is not known; no number
 * that they can have reached is used again. */
static void
choose_primary(struct key *next)
{
	if (next->primary != 0)
		return;
	next->primary = next->versions[next->versions_count - 1].number;
	next->activation += LIFECYCLE_ACTIVATION_GAP;
	next->activated_us = clock_real_us();
}

static void
note_budgets(const struct key *k, const struct lifecycle_adoption *a)
{
	for (size_t i = 0; i < k->versions_count; i++)
		if (k->versions[i].adopted_us != 0 && k->versions[i].nonces &&
			nonce_reserved(k->versions[i].nonces) == 0)
			nonce_note(k->versions[i].nonces,
				a->ivs_known ? NONCE_BLOCK + a->ivs_used : NONCE_MAX,
				k->versions[i].adopted_us);
}

int
lifecycle_adopt(struct lifecycle *l, const char *name, uint64_t expected,
	const struct lifecycle_adoption *a, struct key **ret_key,
	char ret_error[LIFECYCLE_ERROR_SIZE])
{
	struct key *next = NULL, *stored = NULL;
	bool rotate;
	int err = begin(l, name, expected, &next, ret_error);

	for (size_t i = 0; err == 0 && i < a->count; i++)
		err = adopt_object(l, next, a, &a->objects[i], ret_error);
	if (err < 0) {
		key_unrefp(&next);
		return err;
	}
	rotate = next->primary == 0 && !a->ivs_known;
	choose_primary(next);
	err = change_commit(l, next, &stored, ret_error);
	if (err < 0)
		return err;
	note_budgets(stored, a);
	if (!rotate) {
		*ret_key = stored;
		return 0;
	}
	err = lifecycle_rotate(l, name, stored->commit,
		stored->versions[stored->versions_count - 1].token, ret_key, ret_error);
	key_unrefp(&stored);
	return err;
}
