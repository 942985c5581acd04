/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The end of a version: it waits, or is spared, and then its object goes from the token. That it is
 * to go is durable before the token is asked, so that whoever comes after a crash goes on. Not
 * here: who must approve, and how the wait is counted.
 */
#include "change.h"

#include "kekd/clock.h"
#include "kekd/err.h"
#include "kekd/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A worker that cannot be told is none that answers. */
void
change_drop(struct lifecycle *l, const struct key *k, const struct key_version *v)
{
	char ignored[LIFECYCLE_ERROR_SIZE];
	int token = change_find_token(l, v->token, ignored);
	int err = token < 0 ? 0 : hsm_drop_everywhere(l->hsm, (unsigned)token, &v->object_id);

	if (err < 0)
		log_warning("key %s: version %u is in use no more, but not every worker said that "
			    "it dropped its copy: %s",
			k->name, v->number, kekd_strerror(err));
}

static int
check_state(const struct key *k, const struct key_version *v, enum version_state to,
	char ret_error[LIFECYCLE_ERROR_SIZE])
{
	if (version_state_allows(v->state, to))
		return 0;
	return change_fail(ret_error, KEKD_ESTATE, "key %s: version %u is %s: it cannot become %s",
		k->name, v->number, version_state_name(v->state), version_state_name(to));
}

int
lifecycle_may_destroy(const struct key *k, unsigned version, uint64_t now_us,
	char ret_error[LIFECYCLE_ERROR_SIZE])
{
	struct key_version *v;
	int err = change_find_version(k, version, &v, ret_error);

	if (err < 0)
		return err;
	if (k->primary == version)
		return change_fail(ret_error, KEKD_ESTATE,
			"version %u of key %s is the primary: rotate the key, and disable this "
			"version",
			version, k->name);
	if (v->state == VERSION_ENABLED)
		return change_fail(ret_error, KEKD_ESTATE,
			"version %u of key %s is enabled: disable it first, and see who still uses "
			"it",
			version, k->name);
	if (k->previous == version && now_us < k->activated_us + KEY_PREVIOUS_WRAP_US)
		return change_fail(ret_error, KEKD_ESTATE,
			"version %u of key %s was the primary until less than ten minutes ago: "
			"wait",
			version, k->name);
	return check_state(k, v, VERSION_SCHEDULED, ret_error);
}

/* The key as it is, and a copy to change with the version in it. */
static int
begin(struct lifecycle *l, const char *name, uint64_t expected, unsigned version,
	struct key **ret_next, struct key_version **ret_version,
	char ret_error[LIFECYCLE_ERROR_SIZE])
{
	_cleanup_(key_unrefp) struct key *k = NULL;
	struct key *next = NULL;
	struct key_version *v;
	int err = change_load_expected(l, name, expected, &k, ret_error);

	if (err == 0)
		err = change_find_version(k, version, &v, ret_error);
	if (err == 0)
		err = change_copy(k, &next, ret_error);
	if (err < 0)
		return err;
	*ret_next = next;
	*ret_version = key_find_version(next, version);
	return 0;
}

static int
set_destroy(struct key_version *v, const struct version_destroy *d)
{
	if (!v->destroy)
		v->destroy = malloc(sizeof(*v->destroy));
	if (!v->destroy)
		return -ENOMEM;
	*v->destroy = *d;
	return 0;
}

int
lifecycle_schedule(struct lifecycle *l, const char *name, uint64_t expected, unsigned version,
	const struct version_destroy *d, const struct sealed_change *with, struct key **ret_key,
	char ret_error[LIFECYCLE_ERROR_SIZE])
{
	struct key *next = NULL;
	struct key_version *v;
	int err = begin(l, name, expected, version, &next, &v, ret_error);

	if (err < 0)
		return err;
	err = lifecycle_may_destroy(next, version, clock_real_us(), ret_error);
	if (err == 0 && set_destroy(v, d) < 0)
		err = change_fail(ret_error, -ENOMEM, "key %s: no memory", name);
	if (err < 0) {
		key_unrefp(&next);
		return err;
	}
	change_set_state(v, VERSION_SCHEDULED);
	return change_commit_with(l, next, with, ret_key, ret_error);
}

int
lifecycle_cancel(struct lifecycle *l, const char *name, uint64_t expected, unsigned version,
	struct key **ret_key, char ret_error[LIFECYCLE_ERROR_SIZE])
{
	struct key *next = NULL;
	struct key_version *v;
	int err = begin(l, name, expected, version, &next, &v, ret_error);

	if (err < 0)
		return err;
	if (v->state != VERSION_SCHEDULED) {
		err = change_fail(ret_error, KEKD_ESTATE,
			"key %s: version %u is %s: only what is scheduled can be cancelled", name,
			version, version_state_name(v->state));
		key_unrefp(&next);
		return err;
	}
	free(v->destroy);
	v->destroy = NULL;
	change_set_state(v, VERSION_DISABLED);
	return change_commit(l, next, ret_key, ret_error);
}

int
lifecycle_wait(struct lifecycle *l, const char *name, uint64_t expected, unsigned version,
	const struct version_destroy *d, struct key **ret_key, char ret_error[LIFECYCLE_ERROR_SIZE])
{
	struct key *next = NULL;
	struct key_version *v;
	int err = begin(l, name, expected, version, &next, &v, ret_error);

	if (err < 0)
		return err;
	if (v->state != VERSION_SCHEDULED) {
		err = change_fail(
			ret_error, KEKD_ESTATE, "key %s: version %u does not wait", name, version);
		key_unrefp(&next);
		return err;
	}
	*v->destroy = *d;
	return change_commit(l, next, ret_key, ret_error);
}

int
lifecycle_begin_destroy(struct lifecycle *l, const char *name, uint64_t expected, unsigned version,
	struct key **ret_key, char ret_error[LIFECYCLE_ERROR_SIZE])
{
	struct key *next = NULL;
	struct key_version *v;
	int err = begin(l, name, expected, version, &next, &v, ret_error);

	if (err < 0)
		return err;
	err = check_state(next, v, VERSION_DESTROYING, ret_error);
	if (err < 0) {
		key_unrefp(&next);
		return err;
	}
	v->destroy->waited_s = v->destroy->wait_s;
	change_set_state(v, VERSION_DESTROYING);
	return change_commit(l, next, ret_key, ret_error);
}

/* ---- in the token ---- */

static bool
has_confirmed(const struct version_destroy *d, const char *member)
{
	for (size_t i = 0; i < d->confirmed_count; i++)
		if (strcmp(d->confirmed[i], member) == 0)
			return true;
	return false;
}

/* The object and what the workers have of it. until_ns: as in hsm_op. */
static int
destroy_object(struct lifecycle *l, const struct key *k, const struct key_version *v,
	uint64_t until_ns, char ret_error[LIFECYCLE_ERROR_SIZE])
{
	int token = change_find_token(l, v->token, ret_error), err;
	struct hsm_op op = { .kind = HSM_OP_DESTROY, .object = v->object_id, .until_ns = until_ns };

	if (token < 0)
		return token;
	op.token = (unsigned)token;
	err = hsm_call(l->hsm, &op, 1);
	if (err == 0)
		err = op.err;
	if (err < 0)
		return change_fail(ret_error, err,
			"key %s: version %u is still in token %s on node %s: %s; kekd tries again",
			k->name, v->number, v->token, l->node, kekd_strerror(err));
	change_drop(l, k, v);
	return 0;
}

static bool
all_confirmed(
	const struct version_destroy *d, const char (*members)[STR_NAME_MAX + 1], size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (!has_confirmed(d, members[i]))
			return false;
	return true;
}

static void
confirm(struct version_destroy *d, const char *member)
{
	if (d->confirmed_count < KEY_CONFIRMED_MAX)
		snprintf(d->confirmed[d->confirmed_count++], sizeof(d->confirmed[0]), "%s", member);
}

/* What the other members have said since. */
static void
confirm_others(struct lifecycle *l, const struct key_version *v, struct version_destroy *d,
	const char (*members)[STR_NAME_MAX + 1], size_t count)
{
	for (size_t i = 0; l->members && i < count; i++)
		if (!has_confirmed(d, members[i]) &&
			l->members->destroyed(l->members->user, members[i], v))
			confirm(d, members[i]);
}

static int
confirm_here(struct lifecycle *l, const struct key *k, const struct key_version *v,
	struct version_destroy *d, char ret_error[LIFECYCLE_ERROR_SIZE])
{
	struct hsm_op end = { .until_ns = 0 };
	int err;

	if (has_confirmed(d, l->node))
		return 0;
	err = change_may_touch(l, k, &end, ret_error);
	if (err == 0)
		err = destroy_object(l, k, v, end.until_ns, ret_error);
	if (err == 0)
		confirm(d, l->node);
	return err;
}

int
lifecycle_destroy(struct lifecycle *l, const char *name, unsigned version,
	const char (*members)[STR_NAME_MAX + 1], size_t members_count, struct key **ret_key,
	char ret_error[LIFECYCLE_ERROR_SIZE])
{
	struct key *next = NULL;
	struct key_version *v;
	size_t before = 0;
	int err = begin(l, name, STORE_ANY, version, &next, &v, ret_error);

	if (err < 0)
		return err;
	err = check_state(next, v, VERSION_DESTROYED, ret_error);
	if (err == 0)
		before = v->destroy->confirmed_count;
	if (err == 0)
		err = confirm_here(l, next, v, v->destroy, ret_error);
	if (err < 0) {
		key_unrefp(&next);
		return err;
	}
	confirm_others(l, v, v->destroy, members, members_count);
	if (all_confirmed(v->destroy, members, members_count)) {
		change_set_state(v, VERSION_DESTROYED);
	} else if (v->destroy->confirmed_count == before) {
		*ret_key = next; /* transferred */
		return 0;
	}
	return change_commit(l, next, ret_key, ret_error);
}

int
lifecycle_destroy_here(struct lifecycle *l, const struct key *k, unsigned version,
	char ret_error[LIFECYCLE_ERROR_SIZE])
{
	struct key_version *v;
	int err = change_find_version(k, version, &v, ret_error);

	if (err == 0 && v->state != VERSION_DESTROYING)
		return change_fail(ret_error, KEKD_ESTATE,
			"key %s: version %u is %s: its object stays", k->name, version,
			version_state_name(v->state));
	return err < 0 ? err : destroy_object(l, k, v, 0, ret_error);
}
