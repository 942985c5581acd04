/* SPDX-License-Identifier: Apache-2.0 */
/* What the files that change keys share: lifecycle.c (creation, rotation, states), rotation.c
 * (staging by itself, settings). Control thread only, as lifecycle.h. */
#ifndef KEYRING_CHANGE_H
#define KEYRING_CHANGE_H

#include "kekd/lifecycle.h"

/* ---- change.c ---- */

/* Writes the text and gives err back. */
int change_fail(char ret_error[LIFECYCLE_ERROR_SIZE], int err, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
/* What the store or the seal answered, with its remedy. */
int change_fail_store(const char *name, int err, char ret_error[LIFECYCLE_ERROR_SIZE]);
/* The index of a logical token, or KEKD_EHSM. */
int change_find_token(
	const struct lifecycle *l, const char *name, char ret_error[LIFECYCLE_ERROR_SIZE]);
/* The key as the store has it now, as a new reference: an earlier commit may have been stored
 * though its answer was an error. KEKD_ENOKEY when there is none. */
int change_load(struct lifecycle *l, const char *name, struct key **ret_key,
	char ret_error[LIFECYCLE_ERROR_SIZE]);
/* The same; KEKD_EPRECONDITION unless its commit number is the expected one, or that is STORE_ANY.
 */
int change_load_expected(struct lifecycle *l, const char *name, uint64_t expected,
	struct key **ret_key, char ret_error[LIFECYCLE_ERROR_SIZE]);
int change_copy(const struct key *k, struct key **ret_copy, char ret_error[LIFECYCLE_ERROR_SIZE]);
/* Stores next in the place of the record with the number that next carries (0: none), and puts it
 * in force. Takes over next; ret_key: a new reference to it. */
int change_commit(struct lifecycle *l, struct key *next, struct key **ret_key,
	char ret_error[LIFECYCLE_ERROR_SIZE]);
/* The same, with another record's change in the one commit; with NULL: alone. */
int change_commit_with(struct lifecycle *l, struct key *next, const struct sealed_change *with,
	struct key **ret_key, char ret_error[LIFECYCLE_ERROR_SIZE]);
/* KEKD_ENOVERSION when there is none of this number. Borrowed from k. */
int change_find_version(const struct key *k, unsigned number, struct key_version **ret_version,
	char ret_error[LIFECYCLE_ERROR_SIZE]);
/* In a copy that is not shared: the state and since when. */
void change_set_state(struct key_version *v, enum version_state state);

/* May what is in the tokens be changed now? Before every step that does; op gets its end. 0, or
 * KEKD_ENOTACTIVE with a text. */
int change_may_touch(struct lifecycle *l, const struct key *k, struct hsm_op *op,
	char ret_error[LIFECYCLE_ERROR_SIZE]);

/* Once the keyring refuses the version, no worker keeps a copy of it. */
void change_drop(struct lifecycle *l, const struct key *k, const struct key_version *v);

/* ---- lifecycle.c ---- */

/* The newest staged version, or NULL. */
struct key_version *change_find_staged(const struct key *k);
/* Object, canary, proof and first IVs of a version in a copy that is not shared. */
int change_prepare(struct lifecycle *l, const struct key *k, struct key_version *v,
	char ret_error[LIFECYCLE_ERROR_SIZE]);
/* Prepares a version and makes it primary, in one commit. settings: or NULL. */
int change_activate(struct lifecycle *l, const struct key *k, unsigned number,
	const struct lifecycle_settings *settings, struct key **ret_key,
	char ret_error[LIFECYCLE_ERROR_SIZE]);

/* ---- rotation.c ---- */

/* 0 or KEKD_EINVALID: what is to be set is what a key can have. */
int change_check_settings(const char *name, const struct lifecycle_settings *settings,
	char ret_error[LIFECYCLE_ERROR_SIZE]);
/* In a copy that is not shared. settings NULL: nothing. */
int change_apply_settings(struct key *next, const struct lifecycle_settings *settings,
	char ret_error[LIFECYCLE_ERROR_SIZE]);

#endif
