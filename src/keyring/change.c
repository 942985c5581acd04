/* SPDX-License-Identifier: Apache-2.0 */
/* What every change of a key begins and ends with: its record as the store has it, a copy, the
 * commit, and texts for what went wrong. */
#include "change.h"

#include "kekd/clock.h"
#include "kekd/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int
change_fail(char ret_error[LIFECYCLE_ERROR_SIZE], int err, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	vsnprintf(ret_error, LIFECYCLE_ERROR_SIZE, format, ap);
	va_end(ap);
	return err;
}

/* The index of a logical token, or KEKD_EHSM. */
int
change_find_token(const struct lifecycle *l, const char *name, char ret_error[LIFECYCLE_ERROR_SIZE])
{
	for (unsigned i = 0; i < l->tokens_count; i++)
		if (strcmp(l->tokens[i], name) == 0)
			return (int)i;
	return change_fail(ret_error, KEKD_EHSM,
		"token %s is not configured on node %s: add it under tokens, or name another", name,
		l->node);
}

/* ---- records ---- */

static const struct {
	int err;
	const char *remedy;
} commit_remedies[] = {
	{ KEKD_EPRECONDITION, "it has changed since: read it again, then repeat the change" },
	{ KEKD_ESTORE, "whether the change was stored is not known: read the key, then repeat it" },
	{ KEKD_EHELD, "the store is held: see the status for why, and what to do" },
	{ KEKD_ERECORD, "its record is missing or its seal does not verify: put the metadata back "
			"from a backup" },
	{ KEKD_EHSM, "the token that seals records cannot be used: see the status, then repeat" },
	{ KEKD_ENOTACTIVE, "this node is not the active one any more: repeat the change" },
	{ KEKD_ETIMEOUT, "the token that seals records did not answer in time: repeat the change" },
};

int
change_fail_store(const char *name, int err, char ret_error[LIFECYCLE_ERROR_SIZE])
{
	const char *remedy = kekd_strerror(err);

	for (size_t i = 0; i < STR_COUNT(commit_remedies); i++)
		if (commit_remedies[i].err == err)
			remedy = commit_remedies[i].remedy;
	return change_fail(ret_error, err, "key %s: %s", name, remedy);
}

static void
record_path(const char *name, char ret_path[STORE_PATH_MAX + 1])
{
	snprintf(ret_path, STORE_PATH_MAX + 1, "keys/%s", name);
}

/* Puts k, whose commit number is set, in force; its versions then have their nonce blocks. */
static int
publish(struct lifecycle *l, struct key *k, char ret_error[LIFECYCLE_ERROR_SIZE])
{
	int err = keyring_publish(l->keyring, key_ref(k));

	if (err < 0)
		change_fail(ret_error, err,
			"key %s: no memory for its new record, which is stored: restart kekd",
			k->name);
	return err;
}

/* The key as the store has it now: an earlier commit may have been stored though its answer was an
 * error. KEKD_ENOKEY when there is none. */
int
change_load(struct lifecycle *l, const char *name, struct key **ret_key,
	char ret_error[LIFECYCLE_ERROR_SIZE])
{
	struct sealed_record record = { 0 };
	char path[STORE_PATH_MAX + 1], why[JSON_ERROR_SIZE];
	_cleanup_(key_unrefp) struct key *known = keyring_find(l->keyring, name);
	struct key *k = NULL;
	int err;

	record_path(name, path);
	err = sealed_get(l->store, path, &record);
	/* A record that went missing is no reason to begin a second key of its name. */
	if (err == -ENOENT && known)
		return change_fail_store(name, KEKD_ERECORD, ret_error);
	if (err == -ENOENT)
		return change_fail(ret_error, KEKD_ENOKEY, "key %s does not exist", name);
	if (err < 0)
		return change_fail_store(name, err, ret_error);
	if (known && !known->refused && known->commit == record.commit) {
		k = key_ref(known);
	} else {
		err = key_from_json(record.body, record.commit, &k, why);
		if (err == 0)
			err = publish(l, k, ret_error);
		else
			err = change_fail(ret_error, KEKD_ERECORD,
				"key %s: its record cannot be read (%s): is it a newer kekd's?",
				name, why);
	}
	sealed_record_free(&record);
	if (err < 0) {
		key_unrefp(&k);
		return err;
	}
	*ret_key = k;
	return 0;
}

int
change_load_expected(struct lifecycle *l, const char *name, uint64_t expected, struct key **ret_key,
	char ret_error[LIFECYCLE_ERROR_SIZE])
{
	struct key *k;
	int err = change_load(l, name, &k, ret_error);

	if (err < 0)
		return err;
	if (expected != STORE_ANY && expected != k->commit) {
		change_fail(ret_error, KEKD_EPRECONDITION,
			"key %s is at revision %llu by now: read it again, then repeat the change",
			name, (unsigned long long)k->commit);
		key_unrefp(&k);
		return KEKD_EPRECONDITION;
	}
	*ret_key = k;
	return 0;
}

int
change_copy(const struct key *k, struct key **ret_copy, char ret_error[LIFECYCLE_ERROR_SIZE])
{
	struct key *copy = key_copy(k);

	if (!copy)
		return change_fail(ret_error, -ENOMEM, "key %s: no memory", k->name);
	*ret_copy = copy;
	return 0;
}

/* Stores next in the place of the record with the number that next carries (0: none), and puts it
 * in force. Takes over next; ret_key: a new reference to it. */
int
change_commit(struct lifecycle *l, struct key *next, struct key **ret_key,
	char ret_error[LIFECYCLE_ERROR_SIZE])
{
	return change_commit_with(l, next, NULL, ret_key, ret_error);
}

int
change_commit_with(struct lifecycle *l, struct key *next, const struct sealed_change *with,
	struct key **ret_key, char ret_error[LIFECYCLE_ERROR_SIZE])
{
	char path[STORE_PATH_MAX + 1];
	struct sealed_change changes[2] = { { .path = path, .expected = next->commit } };
	uint64_t number;
	int err = -ENOMEM;

	record_path(next->name, path);
	changes[0].body = key_to_json(next);
	if (with)
		changes[1] = *with;
	if (changes[0].body)
		err = sealed_commit(l->store, changes, with ? 2 : 1, &number);
	json_decref(changes[0].body);
	if (err < 0) {
		change_fail_store(next->name, err, ret_error);
		goto out;
	}
	next->commit = number;
	err = publish(l, next, ret_error);
	if (err == 0 && l->members)
		l->members->committed(l->members->user, next);
	if (err == 0)
		*ret_key = key_ref(next);
out:
	key_unrefp(&next);
	return err;
}

int
change_may_touch(struct lifecycle *l, const struct key *k, struct hsm_op *op,
	char ret_error[LIFECYCLE_ERROR_SIZE])
{
	int err = l->members ? l->members->may_change(l->members->user, &op->until_ns) : 0;

	return err < 0 ? change_fail_store(k->name, err, ret_error) : 0;
}

void
change_set_state(struct key_version *v, enum version_state state)
{
	v->state = state;
	v->state_changed_us = clock_real_us();
}

int
change_find_version(const struct key *k, unsigned number, struct key_version **ret_version,
	char ret_error[LIFECYCLE_ERROR_SIZE])
{
	struct key_version *v = key_find_version(k, number);

	if (!v)
		return change_fail(
			ret_error, KEKD_ENOVERSION, "key %s has no version %u", k->name, number);
	*ret_version = v;
	return 0;
}
