/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What changes a key. A new version goes through three durable steps: its record (staged, with the
 * UUID that its object will have), its object in the token, and the one commit that activates it.
 * Each step can be repeated, so that whoever asks again after a crash finishes what was begun.
 */
#include "change.h"

#include "kekd/clock.h"
#include "kekd/err.h"
#include "kekd/log.h"
#include "kekd/nonce.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define OBJECT_LABEL_SIZE 256

/* ---- one version's steps ---- */

static const struct {
	int err;
	const char *remedy;
} token_remedies[] = {
	{ KEKD_EHSM, "the token cannot be used now: see the status, then repeat" },
	{ KEKD_ETIMEOUT, "the token did not answer in time: repeat" },
	{ KEKD_EOVERLOAD, "the token has all the work that it can hold: repeat later" },
	{ KEKD_EPIN, "the token refused the PIN: correct its source, then repeat" },
	{ KEKD_EOBJECT, "its object is not in the token: restore the token, then repeat" },
	{ KEKD_EDUPLICATE, "two objects in the token have its CKA_ID: remove the wrong one" },
	{ KEKD_EUNPROVEN, "the token's key is not the one that the record was made with: restore "
			  "the right token, then repeat" },
	{ KEKD_ENOTACTIVE, "this node was not the active one any more when the token was to make "
			   "it: repeat" },
	{ KEKD_EATTRIBUTES, "the token does not hold it for ever: see what the module or the "
			    "token's policy does to new keys" },
};

static int
fail_token(const struct lifecycle *l, const struct key *k, const struct key_version *v, int err,
	char ret_error[LIFECYCLE_ERROR_SIZE])
{
	const char *remedy = kekd_strerror(err);

	for (size_t i = 0; i < STR_COUNT(token_remedies); i++)
		if (token_remedies[i].err == err)
			remedy = token_remedies[i].remedy;
	return change_fail(ret_error, err, "key %s: version %u in token %s on node %s: %s", k->name,
		v->number, v->token, l->node, remedy);
}

struct key_version *
change_find_staged(const struct key *k)
{
	for (size_t i = k->versions_count; i-- > 0;)
		if (k->versions[i].state == VERSION_STAGED)
			return &k->versions[i];
	return NULL;
}

/* Adds a staged version to next, which is not shared yet. */
static int
add_staged(struct key *next, const char *token, char ret_error[LIFECYCLE_ERROR_SIZE])
{
	struct uuid id;
	struct key_version *v;

	if (next->versions_count >= KEY_VERSIONS_MAX)
		return change_fail(ret_error, KEKD_ESTATE,
			"key %s has %d versions, the most that a key can have: create another key",
			next->name, KEY_VERSIONS_MAX);
	if (uuid_generate(&id) < 0)
		return change_fail(ret_error, KEKD_EINTERNAL, "the system gives no random bytes");
	v = key_add_version(next);
	if (!v)
		return change_fail(ret_error, -ENOMEM, "key %s: no memory", next->name);
	v->id = id;
	v->object_id.len = sizeof(id.b);
	memcpy(v->object_id.b, id.b, sizeof(id.b));
	snprintf(v->token, sizeof(v->token), "%s", token);
	change_set_state(v, VERSION_STAGED);
	v->created_us = v->state_changed_us;
	return 0;
}

const char *
lifecycle_default_token(const struct lifecycle *l, const struct key *k)
{
	const struct key_version *v = key_find_version(k, k->primary);

	for (unsigned i = 0; v && i < l->tokens_count; i++)
		if (strcmp(l->tokens[i], v->token) == 0)
			return l->tokens[i];
	return l->tokens[0];
}

/* Sees to it that the key has a staged version in this token (NULL: in any, and a new one in the
 * default). One that was left behind in another token is given up: its record stays, so that its
 * object is known. Replaces *k by the new record. */
static int
stage(struct lifecycle *l, struct key **k, const char *token, char ret_error[LIFECYCLE_ERROR_SIZE])
{
	struct key_version *staged = change_find_staged(*k);
	struct key *next = NULL, *stored = NULL;
	int err;

	if (staged && (!token || strcmp(staged->token, token) == 0))
		return 0;
	err = change_copy(*k, &next, ret_error);
	if (err < 0)
		return err;
	staged = change_find_staged(next);
	if (staged)
		change_set_state(staged, VERSION_ABANDONED);
	err = add_staged(next, token ? token : lifecycle_default_token(l, next), ret_error);
	if (err < 0) {
		key_unrefp(&next);
		return err;
	}
	err = change_commit(l, next, &stored, ret_error);
	if (err < 0)
		return err;
	key_unrefp(k);
	*k = stored;
	return 0;
}

/* The names of what is missing from a whole set, for people. */
static void
missing_attributes(unsigned have, char *ret_text, size_t size)
{
	size_t len = 0;

	ret_text[0] = '\0';
	for (unsigned bit = 1; bit <= HSM_ATTR_HELD; bit <<= 1) {
		if (!(HSM_ATTR_HELD & bit) || (have & bit) || len >= size)
			continue;
		len += (size_t)snprintf(ret_text + len, size - len, "%s%s", len ? ", " : "",
			key_attribute_name(bit));
	}
}

/* Gives up the staged version: the object that the token made can never become right. */
static int
refuse_attributes(struct lifecycle *l, const struct key *k, unsigned number, unsigned have,
	char ret_error[LIFECYCLE_ERROR_SIZE])
{
	struct key *next = NULL, *stored = NULL;
	struct key_version *v;
	char missing[120];
	int err = change_copy(k, &next, ret_error);

	if (err < 0)
		return err;
	v = key_find_version(next, number);
	v->attributes = have;
	change_set_state(v, VERSION_ABANDONED);
	err = change_commit(l, next, &stored, ret_error);
	if (err < 0)
		return err;
	missing_attributes(have, missing, sizeof(missing));
	change_fail(ret_error, KEKD_EATTRIBUTES,
		"key %s: token %s made version %u without %s; it is abandoned. See what the module "
		"or the token's policy does to new keys, then repeat",
		k->name, v->token, number, missing);
	key_unrefp(&stored);
	return KEKD_EATTRIBUTES;
}

/* The object in the token: made if it is not there, and inspected in any case. */
static int
create_object(struct lifecycle *l, const struct key *k, struct key_version *v, unsigned token,
	char ret_error[LIFECYCLE_ERROR_SIZE])
{
	char label[OBJECT_LABEL_SIZE];
	struct hsm_op op = { .kind = HSM_OP_CREATE_KEK, .token = token, .object = v->object_id };
	int err;

	snprintf(label, sizeof(label), "kekd:%s:%s:v%u", l->cluster, k->name, v->number);
	op.in = (const uint8_t *)label;
	op.in_len = (uint32_t)strlen(label);
	err = change_may_touch(l, k, &op, ret_error);
	if (err < 0)
		return err;
	err = hsm_call(l->hsm, &op, 1);
	if (err == 0)
		err = op.err;
	if (err == KEKD_EATTRIBUTES ||
		(err == 0 && (op.attributes & HSM_ATTR_HELD) != HSM_ATTR_HELD))
		return refuse_attributes(l, k, v->number, op.attributes, ret_error);
	if (err < 0)
		return fail_token(l, k, v, err, ret_error);
	v->attributes = op.attributes;
	return 0;
}

/* Object, canary, proof and first IVs of a version in a copy that is not shared. */
int
change_prepare(struct lifecycle *l, const struct key *k, struct key_version *v,
	char ret_error[LIFECYCLE_ERROR_SIZE])
{
	int token = change_find_token(l, v->token, ret_error), err;

	if (token < 0)
		return token;
	if (v->state == VERSION_STAGED) {
		err = create_object(l, k, v, (unsigned)token, ret_error);
		if (err < 0)
			return err;
	}
	err = v->canary_len > 0 ? 0 : canary_make(l->hsm, (unsigned)token, v);
	if (err == 0)
		err = canary_prove(l->hsm, (unsigned)token, v);
	if (err < 0)
		return fail_token(l, k, v, err, ret_error);
	err = nonce_reserve(v->nonces, l->store, &v->id, l->node);
	if (err == KEKD_ENONCES)
		return change_fail(ret_error, err,
			"key %s: version %u has no IVs left: rotate the key instead", k->name,
			v->number);
	return err < 0 ? change_fail_store(k->name, err, ret_error) : 0;
}

static bool
has_others(const struct lifecycle *l)
{
	return l->members && l->members->others(l->members->user);
}

/* Prepares a version here and sees to it that every other member proves it too. What they prove is
 * the stored record: that has its canary first. ret_key: the record, as it is stored. */
static int
prove_everywhere(struct lifecycle *l, const struct key *k, unsigned number, struct key **ret_key,
	char ret_error[LIFECYCLE_ERROR_SIZE])
{
	struct key *next = NULL, *stored = NULL;
	bool known = key_find_version(k, number)->canary_len > 0;
	int err = change_copy(k, &next, ret_error);

	if (err == 0)
		err = change_prepare(l, next, key_find_version(next, number), ret_error);
	if (err < 0 || known)
		key_unrefp(&next);
	if (err == 0)
		err = known ? 0 : change_commit(l, next, &stored, ret_error);
	if (err == 0 && known)
		stored = key_ref((struct key *)k);
	if (err == 0)
		err = l->members->proven(
			l->members->user, stored, key_find_version(stored, number), ret_error);
	if (err < 0)
		key_unrefp(&stored);
	else
		*ret_key = stored;
	return err;
}

/* Prepares a version and makes it primary, in one commit. labels: new ones, or NULL. */
int
change_activate(struct lifecycle *l, const struct key *k, unsigned number,
	const struct lifecycle_settings *settings, struct key **ret_key,
	char ret_error[LIFECYCLE_ERROR_SIZE])
{
	_cleanup_(key_unrefp) struct key *proven = NULL;
	struct key *next = NULL;
	struct key_version *v;
	int err = has_others(l) ? prove_everywhere(l, k, number, &proven, ret_error) : 0;

	if (err == 0)
		err = change_copy(proven ? proven : k, &next, ret_error);
	if (err < 0)
		return err;
	v = key_find_version(next, number);
	if (!proven)
		err = change_prepare(l, next, v, ret_error);
	if (err == 0)
		err = change_apply_settings(next, settings, ret_error);
	if (err < 0) {
		key_unrefp(&next);
		return err;
	}
	if (v->state == VERSION_STAGED)
		change_set_state(v, VERSION_ENABLED);
	next->previous = next->primary;
	next->primary = number;
	next->activation++;
	next->activated_us = clock_real_us();
	next->next_rotation_us = key_next_rotation(next, next->activated_us);
	return change_commit(l, next, ret_key, ret_error);
}

/* Stores what was prepared; the version stays staged. */
static int
store_prepared(struct lifecycle *l, const struct key *k, unsigned number, struct key **ret_key,
	char ret_error[LIFECYCLE_ERROR_SIZE])
{
	struct key *next = NULL;
	int err = change_copy(k, &next, ret_error);

	if (err == 0)
		err = change_prepare(l, next, key_find_version(next, number), ret_error);
	if (err < 0) {
		key_unrefp(&next);
		return err;
	}
	return change_commit(l, next, ret_key, ret_error);
}

struct renewal {
	const char *token; /* NULL: where a staged version is, or the first */
	const struct lifecycle_settings *settings;
	bool stage_only;
};

static int
renew_once(struct lifecycle *l, struct key **k, const struct renewal *how, struct key **ret_key,
	char ret_error[LIFECYCLE_ERROR_SIZE])
{
	int err = stage(l, k, how->token, ret_error);
	unsigned number;

	if (err < 0)
		return err;
	number = change_find_staged(*k)->number;
	if (how->stage_only)
		return store_prepared(l, *k, number, ret_key, ret_error);
	return change_activate(l, *k, number, how->settings, ret_key, ret_error);
}

/* Stages and activates. A worker that was killed in the midst of making an object can leave one
 * that is not whole, and is refused: where the version was staged before, a new one is begun. */
static int
renew(struct lifecycle *l, struct key **k, const struct renewal *how, struct key **ret_key,
	char ret_error[LIFECYCLE_ERROR_SIZE])
{
	char name[STR_NAME_MAX + 1];
	bool again = change_find_staged(*k) != NULL;
	int err = renew_once(l, k, how, ret_key, ret_error);

	if (err != KEKD_EATTRIBUTES || !again)
		return err;
	log_warning("%s", ret_error);
	snprintf(name, sizeof(name), "%s", (*k)->name);
	key_unrefp(k);
	err = change_load(l, name, k, ret_error);
	return err < 0 ? err : renew_once(l, k, how, ret_key, ret_error);
}

/* ---- the changes ---- */

/* The record that creation begins with: there is none yet, or one that never had a primary. */
static int
begin_creation(struct lifecycle *l, const char *name, const struct lifecycle_settings *settings,
	struct key **ret_key, char ret_error[LIFECYCLE_ERROR_SIZE])
{
	struct key *k = NULL;
	int err = change_load(l, name, &k, ret_error);

	if (err == KEKD_ENOKEY) {
		k = key_new(name, NULL, clock_real_us());
		err = k ? change_apply_settings(k, settings, ret_error)
			: change_fail(ret_error, -ENOMEM, "key %s: no memory", name);
	} else if (err == 0 && k->primary != 0) {
		err = change_fail(ret_error, KEKD_EPRECONDITION,
			"key %s exists: choose another name, or rotate it", name);
	}
	if (err < 0) {
		key_unrefp(&k);
		return err;
	}
	*ret_key = k;
	return 0;
}

int
lifecycle_create(struct lifecycle *l, const char *name, const struct lifecycle_settings *settings,
	const char *token, struct key **ret_key, char ret_error[LIFECYCLE_ERROR_SIZE])
{
	_cleanup_(key_unrefp) struct key *k = NULL;
	const struct renewal how = { .token = token, .settings = settings };
	int err;

	if (!str_is_name(name))
		return change_fail(ret_error, KEKD_ENAME,
			"a key's name has 1 to 64 of a-z, 0-9, '.', '_' and '-', and begins and "
			"ends with a letter or digit");
	if (settings && change_check_settings(name, settings, ret_error) < 0)
		return KEKD_EINVALID;
	if (token && change_find_token(l, token, ret_error) < 0)
		return KEKD_EINVALID;
	err = begin_creation(l, name, settings, &k, ret_error);
	return err < 0 ? err : renew(l, &k, &how, ret_key, ret_error);
}

static int
renew_expected(struct lifecycle *l, const char *name, uint64_t expected, const struct renewal *how,
	struct key **ret_key, char ret_error[LIFECYCLE_ERROR_SIZE])
{
	_cleanup_(key_unrefp) struct key *k = NULL;
	int err;

	if (how->token && change_find_token(l, how->token, ret_error) < 0)
		return KEKD_EINVALID;
	err = change_load_expected(l, name, expected, &k, ret_error);
	return err < 0 ? err : renew(l, &k, how, ret_key, ret_error);
}

int
lifecycle_rotate(struct lifecycle *l, const char *name, uint64_t expected, const char *token,
	struct key **ret_key, char ret_error[LIFECYCLE_ERROR_SIZE])
{
	const struct renewal how = { .token = token };

	return renew_expected(l, name, expected, &how, ret_key, ret_error);
}

int
lifecycle_stage(struct lifecycle *l, const char *name, uint64_t expected, const char *token,
	struct key **ret_key, char ret_error[LIFECYCLE_ERROR_SIZE])
{
	const struct renewal how = { .token = token, .stage_only = true };

	return renew_expected(l, name, expected, &how, ret_key, ret_error);
}

int
lifecycle_set_enabled(struct lifecycle *l, const char *name, uint64_t expected, unsigned version,
	bool enabled, struct key **ret_key, char ret_error[LIFECYCLE_ERROR_SIZE])
{
	enum version_state wanted = enabled ? VERSION_ENABLED : VERSION_DISABLED;
	_cleanup_(key_unrefp) struct key *k = NULL;
	struct key_version *v = NULL;
	struct key *next = NULL, *stored = NULL;
	int err = change_load_expected(l, name, expected, &k, ret_error);

	if (err == 0)
		err = change_find_version(k, version, &v, ret_error);
	if (err < 0)
		return err;
	if (v->state != VERSION_ENABLED && v->state != VERSION_DISABLED)
		return change_fail(ret_error, KEKD_ESTATE,
			"key %s: version %u is %s: only an enabled or disabled one changes so",
			name, version, version_state_name(v->state));
	if (v->state == wanted) {
		stored = key_ref(k);
	} else {
		err = change_copy(k, &next, ret_error);
		if (err < 0)
			return err;
		change_set_state(key_find_version(next, version), wanted);
		err = change_commit(l, next, &stored, ret_error);
		if (err < 0)
			return err;
	}
	/* Also when it was so already: an earlier call may have ended before this. */
	if (!enabled)
		change_drop(l, k, v);
	*ret_key = stored;
	return 0;
}

int
lifecycle_make_primary(struct lifecycle *l, const char *name, uint64_t expected, unsigned version,
	struct key **ret_key, char ret_error[LIFECYCLE_ERROR_SIZE])
{
	_cleanup_(key_unrefp) struct key *k = NULL;
	struct key_version *v = NULL;
	int err = change_load_expected(l, name, expected, &k, ret_error);

	if (err == 0)
		err = change_find_version(k, version, &v, ret_error);
	if (err < 0)
		return err;
	if (v->state != VERSION_ENABLED)
		return change_fail(ret_error,
			v->state == VERSION_DISABLED ? KEKD_EDISABLED : KEKD_ESTATE,
			"key %s: version %u is %s: only an enabled one can be primary", name,
			version, version_state_name(v->state));
	if (k->primary == version) {
		*ret_key = key_ref(k);
		return 0;
	}
	return change_activate(l, k, version, NULL, ret_key, ret_error);
}
