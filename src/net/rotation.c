/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rotations that nobody asks for: keys whose period is over, and keys whose primary has spent half
 * of its IVs. One at a time between the changes of others. A period that was missed, because kekd
 * was down, is caught up once. One that fails leaves the old primary and is tried again, later and
 * later.
 */
#include "node.h"

#include "kekd/clock.h"
#include "kekd/log.h"
#include "kekd/uuid.h"

#include <stdio.h>
#include <string.h>

#define PAGE 256
#define SHARE 100 /* of the control thread's time looking takes at most one part in this many */
#define AGAIN_FIRST_S 5
#define AGAIN_MAX_S 900
#define FLOOR_S 3600
#define FLOOR_LAB_S 1

uint64_t
node_rotation_floor_s(struct node *n)
{
	struct cluster c;

	node_cluster(n, &c);
	return c.policy.approvals > 1 ? FLOOR_S : FLOOR_LAB_S;
}

/* ---- those that failed ---- */

static struct node_rotation_failure *
find_failure(struct node *n, const char *key)
{
	for (size_t i = 0; i < n->rotations.failing_count; i++)
		if (strcmp(n->rotations.failing[i].key, key) == 0)
			return &n->rotations.failing[i];
	return NULL;
}

static bool
waits(struct node *n, const char *key)
{
	const struct node_rotation_failure *f = find_failure(n, key);

	return f && clock_boot_ns() < f->again_ns;
}

/* Only this thread writes; the lock is for those who read. */
static void
forget_failure(struct node *n, const char *key)
{
	struct node_rotations *r = &n->rotations;
	struct node_rotation_failure *f = find_failure(n, key);

	if (!f)
		return;
	pthread_mutex_lock(&n->lock);
	*f = r->failing[--r->failing_count];
	pthread_mutex_unlock(&n->lock);
}

static uint64_t
again_s(unsigned tries)
{
	uint64_t s = AGAIN_FIRST_S;

	while (--tries > 0 && s < AGAIN_MAX_S)
		s *= 2;
	return s < AGAIN_MAX_S ? s : AGAIN_MAX_S;
}

static void
note_failure(
	struct node *n, const char *key, enum rotation_reason reason, int err, const char *text)
{
	struct node_rotations *r = &n->rotations;
	struct node_rotation_failure *f = find_failure(n, key);
	uint64_t s;

	pthread_mutex_lock(&n->lock);
	r->failures++;
	if (!f && r->failing_count < NODE_ROTATIONS_FAILING) {
		f = &r->failing[r->failing_count++];
		*f = (struct node_rotation_failure){ .since_us = clock_real_us() };
		snprintf(f->key, sizeof(f->key), "%s", key);
	}
	s = again_s(f ? ++f->tries : NODE_ROTATIONS_FAILING);
	if (f) {
		f->reason = reason;
		f->err = err;
		snprintf(f->text, sizeof(f->text), "%s", text);
		f->again_us = clock_real_us() + s * 1000000;
		f->again_ns = clock_boot_ns() + s * CLOCK_S;
	} else {
		/* Too many to keep apart: what is wrong is not one key's. */
		n->next_rotations_ns = clock_boot_ns() + s * CLOCK_S;
	}
	pthread_mutex_unlock(&n->lock);
	log_error("key %s did not rotate (%s): %s; the old primary stays, next try in %llu s", key,
		rotation_reason_name(reason), text, (unsigned long long)s);
}

void
node_retry_rotations(struct node *n)
{
	struct node_rotations *r = &n->rotations;
	uint64_t soon = clock_boot_ns() + AGAIN_FIRST_S * CLOCK_S;

	pthread_mutex_lock(&n->lock);
	for (size_t i = 0; i < r->failing_count; i++) {
		if (r->failing[i].err != KEKD_ENOPROOF || r->failing[i].again_ns <= soon)
			continue;
		r->failing[i].again_ns = soon;
		r->failing[i].again_us = clock_real_us() + AGAIN_FIRST_S * 1000000ull;
	}
	pthread_mutex_unlock(&n->lock);
}

/* Rotated by somebody else, frozen, or of another period now: none of ours any more. */
static void
forget_settled(struct node *n)
{
	for (size_t i = n->rotations.failing_count; i-- > 0;) {
		char name[STR_NAME_MAX + 1];
		struct key *k;

		memcpy(name, n->rotations.failing[i].key, sizeof(name));
		k = keyring_find(n->keyring, name);
		if (!k || rotation_due(k, clock_real_us()) == ROTATION_NOT_DUE)
			forget_failure(n, name);
		key_unrefp(&k);
	}
}

/* ---- one rotation ---- */

static int
record(struct node *n, enum audit_type type, const struct uuid *id, const char *key, int err,
	json_t *detail)
{
	char request_id[UUID_TEXT_SIZE];
	struct audit_record a = {
		.type = type,
		.time_us = clock_real_us(),
		.client = "kekd",
		.request_id = request_id,
		.operation = "key.rotate",
		.key = key,
		.code = err < 0 ? kekd_err_info(err)->code : NULL,
		.revision = sealed_number(n->sealed),
		.detail = detail,
	};
	int written;

	uuid_format(id, request_id);
	written = detail ? audit_append(n->audit, &a) : -1;
	json_decref(detail);
	return written;
}

static json_t *
outcome(const struct key *k, enum rotation_reason reason)
{
	char id[KMS_KEY_ID_SIZE];
	const struct key_version *v = key_find_version(k, k->primary);

	key_kms_key_id(k, id);
	return json_pack("{s:s, s:i, s:i, s:I, s:s, s:s, s:I}", "reason",
		rotation_reason_name(reason), "version", (int)k->primary, "previous",
		(int)k->previous, "activation", (json_int_t)k->activation, "kms_key_id", id,
		"token", v ? v->token : "", "revision", (json_int_t)k->commit);
}

static json_t *
why(enum rotation_reason reason)
{
	return json_pack("{s:s}", "reason", rotation_reason_name(reason));
}

static void
rotate(struct node *n, const struct key *due, enum rotation_reason reason)
{
	_cleanup_(key_unrefp) struct key *k = NULL;
	char text[LIFECYCLE_ERROR_SIZE] = "";
	struct uuid id;
	int err = uuid_generate(&id);

	if (err == 0 && record(n, AUDIT_INTENT, &id, due->name, 0, why(reason)) != 0)
		err = KEKD_EAUDIT;
	if (err < 0) {
		note_failure(n, due->name, reason, err, kekd_strerror(err));
		return;
	}
	err = lifecycle_rotate(&n->lifecycle, due->name, due->commit, NULL, &k, text);
	if (record(n, AUDIT_OUTCOME, &id, due->name, err,
		    err == 0 ? outcome(k, reason) : why(reason)) != 0)
		log_warning(
			"key %s: the audit log has no record of how its rotation ended", due->name);
	if (err < 0) {
		note_failure(n, due->name, reason, err, *text ? text : kekd_strerror(err));
		return;
	}
	forget_failure(n, due->name);
	pthread_mutex_lock(&n->lock);
	n->rotations.done[reason]++;
	pthread_mutex_unlock(&n->lock);
	node_count_proven(n, k->name);
	log_info("key %s: version %u is the primary now, by its %s", k->name, k->primary,
		reason == ROTATION_PERIOD ? "period" : "budget of IVs");
}

/* ---- looking ---- */

/* The first one in the order of names, as a reference, or NULL. */
static struct key *
find_due(struct node *n, enum rotation_reason *ret_reason)
{
	char after[STR_NAME_MAX + 1] = "";
	struct key *page[PAGE], *found = NULL;
	uint64_t now = clock_real_us();
	size_t count;

	do {
		count = keyring_list(n->keyring, *after ? after : NULL, PAGE, page);
		if (count > 0)
			memcpy(after, page[count - 1]->name, sizeof(after));
		for (size_t i = 0; i < count; i++) {
			enum rotation_reason reason = rotation_due(page[i], now);
			if (!found && reason != ROTATION_NOT_DUE && !waits(n, page[i]->name)) {
				found = key_ref(page[i]);
				*ret_reason = reason;
			}
			key_unrefp(&page[i]);
		}
	} while (!found && count == PAGE);
	return found;
}

bool
node_rotate_due(struct node *n)
{
	uint64_t start = clock_boot_ns(), took;
	enum rotation_reason reason = ROTATION_NOT_DUE;
	bool found;
	struct key *k;

	if (start < n->next_rotations_ns || atomic_load(&n->frozen) || node_holds_changes(n) ||
		!node_leads(n))
		return false;
	forget_settled(n);
	k = find_due(n, &reason);
	took = clock_boot_ns() - start;
	if (!k)
		n->next_rotations_ns = start + (SHARE * took > CLOCK_S ? SHARE * took : CLOCK_S);
	else
		rotate(n, k, reason);
	found = k != NULL;
	key_unrefp(&k);
	return found;
}
