/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The end of a version, as it is asked for: the evidence that was shown must be that of now, and
 * other administrators must agree where the policy says so. The waiting and the end itself are the
 * node's (net/destroy.c).
 */
#include "changes.h"
#include "keys.h"

#include "kekd/clock.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stddef.h>
#include <string.h>

/* ---- what is shown ---- */

/* Hex SHA-256 of the key's record but for how long versions have waited, which kekd stores now and
 * then: that is no change to ask again for. */
static int
digest_key(const struct key *k, char ret_hex[APPROVAL_EVIDENCE_SIZE])
{
	_cleanup_(json_freep) json_t *record = key_to_json(k);
	uint8_t digest[EVP_MAX_MD_SIZE];
	json_t *version;
	size_t i, len = 0;
	char *text;
	int ok;

	json_array_foreach(json_object_get(record, "versions"), i, version)
		json_object_del(json_object_get(version, "destroy"), "waited_s");
	text = record ? json_canonical(record, &len) : NULL;
	ok = text && EVP_Digest(text, len, digest, NULL, EVP_sha256(), NULL) == 1;
	json_text_free(text);
	if (!ok)
		return -ENOMEM;
	str_hex(digest, 32, ret_hex);
	ret_hex[64] = '\0';
	return 0;
}

/* The revision that the approved change is made at: the one that was asked for, or the one now if
 * nothing but waits was stored since. */
static uint64_t
approved_revision(const struct key *k, const struct approval *a)
{
	const char *then = json_string_value(json_object_get(a->change, "key_digest"));
	char now[APPROVAL_EVIDENCE_SIZE];

	if (k && then && digest_key(k, now) == 0 && strcmp(now, then) == 0)
		return k->commit;
	return a->revision;
}

static json_t *
shown_json(const struct key_version *v, const struct usage_total *t)
{
	char id[UUID_TEXT_SIZE];

	uuid_format(&v->id, id);
	return json_pack("{s:i, s:s, s:s, s:{s:I, s:I, s:I, s:I, s:o, s:o, s:o, s:o}}", "version",
		(int)v->number, "id", id, "token", v->token, "usage", "wrapped",
		(json_int_t)t->wrapped, "unwrapped", (json_int_t)t->unwrapped, "refused",
		(json_int_t)t->refused, "failed", (json_int_t)t->failed, "first",
		api_time(t->first_us), "last", api_time(t->last_us), "last_unwrapped",
		api_time(t->last_unwrapped_us), "last_refused", api_time(t->last_refused_us));
}

/* The evidence of now must be the one that was shown, and complete. */
static int
check_evidence(struct node *n, const struct key *k, const struct key_version *v, const char *shown,
	struct usage_total *ret_total, char ret_error[LIFECYCLE_ERROR_SIZE])
{
	char now[USAGE_EVIDENCE_SIZE], stale[160];
	struct cluster c;
	int err = usage_version(n->usage, &v->id, ret_total);

	if (err == 0)
		err = api_evidence(n, v, now);
	if (err == -ENOMEM) {
		snprintf(ret_error, LIFECYCLE_ERROR_SIZE, "no memory for the evidence: ask again");
		return err;
	}
	if (err < 0) {
		snprintf(ret_error, LIFECYCLE_ERROR_SIZE,
			"the usage evidence is still being read from the audit log: ask again");
		return err;
	}
	if (usage_incomplete_for(n->usage, v->created_us) != 0) {
		snprintf(ret_error, LIFECYCLE_ERROR_SIZE,
			"usage evidence of version %u of key %s is not complete: records are "
			"missing, so nobody can say who used it",
			v->number, k->name);
		return KEKD_EUSAGE;
	}
	node_cluster(n, &c);
	if (!usage_is_fresh(n->usage, (const char(*)[STR_NAME_MAX + 1]) c.members, c.members_count,
		    clock_real_us(), stale)) {
		snprintf(ret_error, LIFECYCLE_ERROR_SIZE,
			"usage evidence is not that of now: %.120s: see to that node, or exclude "
			"it: "
			"\"kekctl cluster forget\"",
			stale);
		return KEKD_EUSAGE;
	}
	if (strcmp(now, shown) != 0) {
		snprintf(ret_error, LIFECYCLE_ERROR_SIZE,
			"version %u of key %s was used, or a backup that has it was registered or "
			"forgotten, since its evidence was shown: look at its usage again",
			v->number, k->name);
		return KEKD_EEVIDENCE;
	}
	return node_needed(n, k, v, ret_error);
}

/* ---- scheduling ---- */

/* approval NULL: none was needed. */
static int
schedule(struct request *r, const char *name, uint64_t expected, unsigned number,
	const char *evidence, const struct approval *a, const struct sealed_change *with,
	struct key **ret_key, char ret_error[LIFECYCLE_ERROR_SIZE])
{
	_cleanup_(key_unrefp) struct key *k = keyring_find(r->node->keyring, name);
	const struct key_version *v = k ? key_find_version(k, number) : NULL;
	struct version_destroy d = { .requested_us = clock_real_us() };
	struct usage_total total;
	struct cluster c;
	int err;

	if (!v)
		return KEKD_ENOVERSION;
	err = check_evidence(r->node, k, v, evidence, &total, ret_error);
	if (err < 0)
		return err;
	node_cluster(r->node, &c);
	d.wait_s = c.policy.destroy_wait_s;
	d.refused = total.refused;
	snprintf(d.evidence, sizeof(d.evidence), "%s", evidence);
	snprintf(d.requested_by, sizeof(d.requested_by), "%s",
		a ? a->requested_by : r->client->name);
	if (a) {
		d.requested_us = a->requested_us;
		snprintf(d.approval, sizeof(d.approval), "%s", a->id);
	}
	err = lifecycle_schedule(
		&r->node->lifecycle, name, expected, number, &d, with, ret_key, ret_error);
	if (err == 0) {
		node_watch_destroy(r->node, *ret_key);
		node_count_gone(r->node, name);
	}
	return err;
}

int
destroy_approved(struct request *r, const struct approval *a, const struct sealed_change *with,
	uint64_t *ret_commit, char ret_error[LIFECYCLE_ERROR_SIZE])
{
	_cleanup_(key_unrefp) struct key *before = NULL;
	_cleanup_(key_unrefp) struct key *k = NULL;
	char name[APPROVAL_TARGET_SIZE];
	size_t len = strcspn(a->target, "/");
	int err;

	snprintf(name, sizeof(name), "%.*s", (int)len, a->target);
	before = keyring_find(r->node->keyring, name);
	err = schedule(r, name, approved_revision(before, a),
		(unsigned)strtoul(a->target + len + 1, NULL, 10), a->evidence, a, with, &k,
		ret_error);
	if (err == 0)
		*ret_commit = k->commit;
	return err;
}

/* ---- the requests ---- */

static void
set_detail(struct request *r, const struct key *k, unsigned number)
{
	const struct key_version *v = key_find_version(k, number);

	if (v)
		api_set_detail(r, json_pack("{s:i, s:s, s:s, s:I, s:I}", "version", (int)number,
					  "state", version_state_name(v->state), "evidence",
					  v->destroy ? v->destroy->evidence : "", "wait_s",
					  (json_int_t)(v->destroy ? v->destroy->wait_s : 0),
					  "revision", (json_int_t)k->commit));
}

static int
check(struct request *r, const struct key *k, unsigned number, const char *evidence,
	struct usage_total *ret_total, char ret_error[LIFECYCLE_ERROR_SIZE])
{
	int err;

	if (keys_expected(r) != STORE_ANY && keys_expected(r) != k->commit) {
		snprintf(ret_error, LIFECYCLE_ERROR_SIZE,
			"key %s is at revision %llu by now: read it again", k->name,
			(unsigned long long)k->commit);
		return KEKD_EPRECONDITION;
	}
	err = lifecycle_may_destroy(k, number, clock_real_us(), ret_error);
	if (err < 0)
		return err;
	return check_evidence(
		r->node, k, key_find_version(k, number), evidence, ret_total, ret_error);
}

static void
schedule_now(struct request *r, const struct key *before, unsigned number, const char *evidence)
{
	_cleanup_(key_unrefp) struct key *k = NULL;
	char text[LIFECYCLE_ERROR_SIZE] = "";
	int err = schedule(r, before->name, before->commit, number, evidence, NULL, NULL, &k, text);

	if (err < 0) {
		keys_fail(r, err, text);
		return;
	}
	set_detail(r, k, number);
	keys_answer(r, 200, k);
}

void
api_version_destroy(struct request *r)
{
	_cleanup_(key_unrefp) struct key *k = api_find_key_to_change(r);
	unsigned number = keys_version_number(r->params[1]);
	const char *evidence = NULL;
	const struct json_member members[] = {
		{ "evidence", JSON_KIND_STRING, true, &evidence },
	};
	char error[JSON_ERROR_SIZE] = "", text[LIFECYCLE_ERROR_SIZE] = "";
	char target[APPROVAL_TARGET_SIZE];
	char digest[APPROVAL_EVIDENCE_SIZE];
	struct usage_total total;
	json_t *shown;
	int err;

	if (!k)
		return;
	err = json_take(r->body, members, STR_COUNT(members), error);
	if (err < 0) {
		request_fail(r, err, "%s", error);
		return;
	}
	err = check(r, k, number, evidence, &total, text);
	if (err < 0) {
		keys_fail(r, err, text);
		return;
	}
	if (changes_approvals(r->node) < 2) {
		schedule_now(r, k, number, evidence);
		return;
	}
	snprintf(target, sizeof(target), "%s/%u", k->name, number);
	shown = shown_json(key_find_version(k, number), &total);
	if (shown && digest_key(k, digest) == 0)
		json_object_set_new(shown, "key_digest", json_string(digest));
	changes_ask(r, APPROVAL_DESTROY, target, k->commit, shown, evidence);
}

/* It is among those to be proven again. */
static int
cancel(struct lifecycle *l, const char *name, uint64_t expected_commit, unsigned version,
	struct key **ret_key, char ret_error[LIFECYCLE_ERROR_SIZE])
{
	struct node *n = (struct node *)((char *)l - offsetof(struct node, lifecycle));
	int err = lifecycle_cancel(l, name, expected_commit, version, ret_key, ret_error);

	if (err == 0)
		node_count_proven(n, name);
	return err;
}

void
api_version_cancel(struct request *r)
{
	keys_change_version(r, cancel);
}
