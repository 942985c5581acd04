/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rotation beside the one call that does it all (lifecycle.c): staging and activation apart, giving
 * up what was staged, and the settings by which a key rotates by itself or wraps no more. Whether
 * one is due is told here; who looks is the node.
 */
#include "change.h"

#include "kekd/clock.h"
#include "kekd/err.h"
#include "kekd/nonce.h"

#include <errno.h>

/* ---- what a key is set to ---- */

int
change_check_settings(const char *name, const struct lifecycle_settings *settings,
	char ret_error[LIFECYCLE_ERROR_SIZE])
{
	char why[JSON_ERROR_SIZE];

	if (settings->labels && key_check_labels(settings->labels, why) < 0)
		return change_fail(ret_error, KEKD_EINVALID, "key %s: %s", name, why);
	if (settings->has_rotate_every && settings->rotate_every_s > CLOCK_DURATION_MAX_S)
		return change_fail(
			ret_error, KEKD_EINVALID, "key %s: rotate_every is above 100 years", name);
	return 0;
}

static int
set_labels(struct key *next, const json_t *labels)
{
	json_t *copy = json_deep_copy(labels);

	if (!copy)
		return -ENOMEM;
	json_decref(next->labels);
	next->labels = copy;
	return 0;
}

int
change_apply_settings(struct key *next, const struct lifecycle_settings *settings,
	char ret_error[LIFECYCLE_ERROR_SIZE])
{
	if (!settings)
		return 0;
	if (settings->labels && set_labels(next, settings->labels) < 0)
		return change_fail(ret_error, -ENOMEM, "key %s: no memory", next->name);
	if (settings->has_frozen)
		next->frozen = settings->frozen;
	if (settings->has_when_stale)
		next->when_stale = settings->when_stale;
	/* The same period again moves nothing: who repeats a command puts no rotation off. */
	if (settings->has_rotate_every && settings->rotate_every_s != next->rotate_every_s) {
		next->rotate_every_s = settings->rotate_every_s;
		next->next_rotation_us = key_next_rotation(next, clock_real_us());
	}
	return 0;
}

static bool
changes_nothing(const struct key *k, const struct lifecycle_settings *settings)
{
	return (!settings->labels || json_equal(k->labels, settings->labels)) &&
	       (!settings->has_frozen || k->frozen == settings->frozen) &&
	       (!settings->has_when_stale || k->when_stale == settings->when_stale) &&
	       (!settings->has_rotate_every || k->rotate_every_s == settings->rotate_every_s);
}

int
lifecycle_set(struct lifecycle *l, const char *name, uint64_t expected,
	const struct lifecycle_settings *settings, struct key **ret_key,
	char ret_error[LIFECYCLE_ERROR_SIZE])
{
	_cleanup_(key_unrefp) struct key *k = NULL;
	struct key *next = NULL;
	int err = change_check_settings(name, settings, ret_error);

	if (err == 0)
		err = change_load_expected(l, name, expected, &k, ret_error);
	if (err < 0)
		return err;
	if (changes_nothing(k, settings)) {
		*ret_key = key_ref(k);
		return 0;
	}
	err = change_copy(k, &next, ret_error);
	if (err == 0)
		err = change_apply_settings(next, settings, ret_error);
	if (err < 0) {
		key_unrefp(&next);
		return err;
	}
	return change_commit(l, next, ret_key, ret_error);
}

/* ---- staged versions ---- */

int
lifecycle_activate(struct lifecycle *l, const char *name, uint64_t expected, unsigned version,
	struct key **ret_key, char ret_error[LIFECYCLE_ERROR_SIZE])
{
	_cleanup_(key_unrefp) struct key *k = NULL;
	struct key_version *v = NULL;
	int err = change_load_expected(l, name, expected, &k, ret_error);

	if (err == 0 && version != 0)
		err = change_find_version(k, version, &v, ret_error);
	if (err < 0)
		return err;
	if (version == 0)
		v = change_find_staged(k);
	if (!v)
		return change_fail(ret_error, KEKD_ESTATE,
			"key %s has no staged version: rotate it, or stage one first", name);
	if (k->primary == v->number) {
		*ret_key = key_ref(k);
		return 0;
	}
	if (v->state != VERSION_STAGED)
		return change_fail(ret_error, KEKD_ESTATE,
			"key %s: version %u is %s: only a staged one is activated; an older one "
			"is made primary",
			name, v->number, version_state_name(v->state));
	return change_activate(l, k, v->number, NULL, ret_key, ret_error);
}

int
lifecycle_abandon(struct lifecycle *l, const char *name, uint64_t expected, unsigned version,
	struct key **ret_key, char ret_error[LIFECYCLE_ERROR_SIZE])
{
	_cleanup_(key_unrefp) struct key *k = NULL;
	struct key_version *v = NULL;
	struct key *next = NULL;
	int err = change_load_expected(l, name, expected, &k, ret_error);

	if (err == 0)
		err = change_find_version(k, version, &v, ret_error);
	if (err < 0)
		return err;
	if (v->state == VERSION_ABANDONED) {
		*ret_key = key_ref(k);
		return 0;
	}
	if (v->state != VERSION_STAGED)
		return change_fail(ret_error, KEKD_ESTATE,
			"key %s: version %u is %s: only a staged one, which never wrapped, can be "
			"abandoned",
			name, version, version_state_name(v->state));
	err = change_copy(k, &next, ret_error);
	if (err < 0)
		return err;
	change_set_state(key_find_version(next, version), VERSION_ABANDONED);
	return change_commit(l, next, ret_key, ret_error);
}

/* ---- what is due ---- */

static const struct {
	const char *name;
} reasons[] = {
	[ROTATION_NOT_DUE] = { NULL },
	[ROTATION_PERIOD] = { "period" },
	[ROTATION_BUDGET] = { "budget" },
};

const char *
rotation_reason_name(enum rotation_reason reason)
{
	return (size_t)reason < STR_COUNT(reasons) ? reasons[reason].name : NULL;
}

enum rotation_reason
rotation_due(const struct key *k, uint64_t now_us)
{
	const struct key_version *v = key_find_version(k, k->primary);

	if (!v || k->refused || k->frozen)
		return ROTATION_NOT_DUE;
	if (v->nonces && nonce_reserved(v->nonces) >= NONCE_ROTATE)
		return ROTATION_BUDGET;
	return k->next_rotation_us != 0 && k->next_rotation_us <= now_us ? ROTATION_PERIOD
									 : ROTATION_NOT_DUE;
}
