/* SPDX-License-Identifier: Apache-2.0 */
/* One request for approval: its record, what it binds, and who may approve it. */
#include "kekd/approvals.h"

#include "kekd/clock.h"
#include "kekd/err.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#define STEP_BACK_US (300ull * 1000000) /* a clock may be set back so far and no more */

struct approval_box {
	struct approval a; /* the first member */
	atomic_uint references;
};

static const char *const kind_names[] = {
	[APPROVAL_DESTROY] = "version.destroy",
	[APPROVAL_CLIENT_WRITE] = "client.write",
	[APPROVAL_CLIENT_DELETE] = "client.delete",
	[APPROVAL_POLICY] = "cluster.policy",
};

static const char *const state_names[] = {
	[APPROVAL_PENDING] = "pending",
	[APPROVAL_DONE] = "done",
	[APPROVAL_REJECTED] = "rejected",
	[APPROVAL_STALE] = "stale",
	[APPROVAL_EXPIRED] = "expired",
};

const char *
approval_kind_name(enum approval_kind kind)
{
	return kind_names[kind];
}

const char *
approval_state_name(enum approval_state state)
{
	return state_names[state];
}

static int
find_name(const char *const *names, size_t count, const char *text)
{
	for (size_t i = 0; i < count; i++)
		if (strcmp(names[i], text) == 0)
			return (int)i;
	return -ENOENT;
}

/* ---- in memory ---- */

struct approval *
approval_new(void)
{
	struct approval_box *box = calloc(1, sizeof(*box));

	if (!box)
		return NULL;
	atomic_init(&box->references, 1);
	return &box->a;
}

struct approval *
approval_ref(struct approval *a)
{
	atomic_fetch_add(&((struct approval_box *)a)->references, 1);
	return a;
}

void
approval_unrefp(struct approval **a)
{
	struct approval_box *box = (struct approval_box *)*a;

	*a = NULL;
	if (!box || atomic_fetch_sub(&box->references, 1) != 1)
		return;
	json_decref(box->a.change);
	free(box);
}

struct approval *
approval_copy(const struct approval *a)
{
	struct approval *copy = approval_new();

	if (!copy)
		return NULL;
	*copy = *a;
	copy->change = json_deep_copy(a->change);
	if (!copy->change)
		approval_unrefp(&copy);
	return copy;
}

/* ---- the record ---- */

static json_t *
time_json(uint64_t us)
{
	char text[CLOCK_TEXT_SIZE];

	clock_format(us, text);
	return json_string(text);
}

static json_t *
approved_json(const struct approval *a)
{
	json_t *list = json_array();

	for (size_t i = 0; i < a->approved_count; i++)
		json_array_append_new(list, json_pack("{s:s, s:o}", "client", a->approved[i].client,
						    "time", time_json(a->approved[i].time_us)));
	return list;
}

json_t *
approval_to_json(const struct approval *a)
{
	json_t *o = json_pack("{s:s, s:s, s:s, s:I, s:O, s:s, s:s, s:o, s:o, s:I, s:i, s:o, s:s}",
		"id", a->id, "kind", kind_names[a->kind], "target", a->target, "revision",
		(json_int_t)a->revision, "change", a->change, "evidence", a->evidence,
		"requested_by", a->requested_by, "requested", time_json(a->requested_us), "expires",
		time_json(a->expires_us), "seen", (json_int_t)a->seen, "needed", (int)a->needed,
		"approved_by", approved_json(a), "state", state_names[a->state]);
	int err = 0;

	if (o && a->ended_us)
		err |= json_object_set_new(o, "ended", time_json(a->ended_us));
	if (o && *a->ended_by)
		err |= json_object_set_new(o, "ended_by", json_string(a->ended_by));
	if (o && *a->reason)
		err |= json_object_set_new(o, "reason", json_string(a->reason));
	if (err) {
		json_decref(o);
		return NULL;
	}
	return o;
}

static bool
take_text(const char *text, char *ret_text, size_t size)
{
	if (!text || strlen(text) >= size)
		return false;
	snprintf(ret_text, size, "%s", text);
	return true;
}

static int
take_approved(const json_t *list, struct approval *a, char ret_error[JSON_ERROR_SIZE])
{
	size_t n = json_array_size(list);

	if (n > POLICY_APPROVALS_MAX)
		return json_refuse(ret_error, "\"approved_by\" has more than 5");
	for (size_t i = 0; i < n; i++) {
		const char *client, *time;
		const struct json_member members[] = {
			{ "client", JSON_KIND_STRING, true, &client },
			{ "time", JSON_KIND_STRING, true, &time },
		};
		if (json_take(json_array_get(list, i), members, STR_COUNT(members), ret_error) < 0)
			return KEKD_EINVALID;
		if (!str_is_name(client) || clock_parse(time, &a->approved[i].time_us) < 0)
			return json_refuse(ret_error, "\"approved_by\" has no name, or no time");
		take_text(client, a->approved[i].client, sizeof(a->approved[i].client));
	}
	a->approved_count = n;
	return 0;
}

static int
fill(const json_t *body, struct approval *a, char ret_error[JSON_ERROR_SIZE])
{
	const char *id, *kind, *target, *evidence, *requested_by, *requested, *expires, *state,
		*ended = NULL, *ended_by = "", *reason = "";
	json_t *change, *approved;
	int64_t revision, seen, needed;
	const struct json_member members[] = {
		{ "id", JSON_KIND_STRING, true, &id },
		{ "kind", JSON_KIND_STRING, true, &kind },
		{ "target", JSON_KIND_STRING, true, &target },
		{ "revision", JSON_KIND_INTEGER, true, &revision },
		{ "change", JSON_KIND_OBJECT, true, &change },
		{ "evidence", JSON_KIND_STRING, true, &evidence },
		{ "requested_by", JSON_KIND_STRING, true, &requested_by },
		{ "requested", JSON_KIND_STRING, true, &requested },
		{ "expires", JSON_KIND_STRING, true, &expires },
		{ "seen", JSON_KIND_INTEGER, true, &seen },
		{ "needed", JSON_KIND_INTEGER, true, &needed },
		{ "approved_by", JSON_KIND_ARRAY, true, &approved },
		{ "state", JSON_KIND_STRING, true, &state },
		{ "ended", JSON_KIND_STRING, false, &ended },
		{ "ended_by", JSON_KIND_STRING, false, &ended_by },
		{ "reason", JSON_KIND_STRING, false, &reason },
	};
	int k, s;

	if (json_take(body, members, STR_COUNT(members), ret_error) < 0)
		return KEKD_EINVALID;
	k = find_name(kind_names, STR_COUNT(kind_names), kind);
	s = find_name(state_names, STR_COUNT(state_names), state);
	if (k < 0 || s < 0)
		return json_refuse(ret_error, "\"kind\" or \"state\" is not known");
	if (!take_text(id, a->id, sizeof(a->id)) ||
		!take_text(target, a->target, sizeof(a->target)) ||
		!take_text(evidence, a->evidence, sizeof(a->evidence)) ||
		!take_text(requested_by, a->requested_by, sizeof(a->requested_by)) ||
		!take_text(ended_by, a->ended_by, sizeof(a->ended_by)) ||
		!take_text(reason, a->reason, sizeof(a->reason)) || needed > POLICY_APPROVALS_MAX)
		return json_refuse(ret_error, "a value is too long");
	if (clock_parse(requested, &a->requested_us) < 0 ||
		clock_parse(expires, &a->expires_us) < 0 ||
		(ended && clock_parse(ended, &a->ended_us) < 0))
		return json_refuse(ret_error, "a time is none");
	a->kind = (enum approval_kind)k;
	a->state = (enum approval_state)s;
	a->revision = (uint64_t)revision;
	a->seen = (uint64_t)seen;
	a->needed = (unsigned)needed;
	a->change = json_deep_copy(change);
	return a->change ? take_approved(approved, a, ret_error) : -ENOMEM;
}

int
approval_from_json(const json_t *body, uint64_t commit, struct approval **ret_approval,
	char ret_error[JSON_ERROR_SIZE])
{
	struct approval *a = approval_new();
	int err = a ? fill(body, a, ret_error) : -ENOMEM;

	if (err < 0) {
		approval_unrefp(&a);
		return err;
	}
	a->commit = commit;
	*ret_approval = a;
	return 0;
}

int
approval_digest(const struct approval *a, char ret_hex[APPROVAL_EVIDENCE_SIZE])
{
	json_t *all = json_pack("{s:s, s:s, s:I, s:O}", "kind", kind_names[a->kind], "target",
		a->target, "revision", (json_int_t)a->revision, "change", a->change);
	uint8_t digest[EVP_MAX_MD_SIZE];
	size_t len;
	char *text = all ? json_canonical(all, &len) : NULL;
	int err = -ENOMEM;

	if (text && EVP_Digest(text, len, digest, NULL, EVP_sha256(), NULL) == 1) {
		str_hex(digest, 32, ret_hex);
		ret_hex[64] = '\0';
		err = 0;
	}
	json_text_free(text);
	json_decref(all);
	return err;
}

/* ---- the rules ---- */

/* A clock that was set back makes no request younger: from minutes before it on, it has expired as
 * well. */
enum approval_state
approval_state_now(const struct approval *a, uint64_t now_us)
{
	if (a->state != APPROVAL_PENDING)
		return a->state;
	return now_us + STEP_BACK_US < a->requested_us || now_us >= a->expires_us
		       ? APPROVAL_EXPIRED
		       : APPROVAL_PENDING;
}

static bool
has_approved(const struct approval *a, const char *client)
{
	for (size_t i = 0; i < a->approved_count; i++)
		if (strcmp(a->approved[i].client, client) == 0)
			return true;
	return false;
}

const char *
approval_objection(const struct approval *a, const struct client *c)
{
	if (!c)
		return "its record was deleted";
	if (client_authorise(c, ACCESS_APPROVE, NULL) < 0)
		return "no grant of it has approve";
	if (c->commit > a->seen)
		return "its record was made or changed after the request";
	if (strcmp(c->changed_by, a->requested_by) == 0)
		return "its record was last changed by who asks";
	return NULL;
}

int
approval_may(const struct approval *a, const struct client *c, uint64_t now_us,
	char ret_error[JSON_ERROR_SIZE])
{
	enum approval_state state = approval_state_now(a, now_us);
	const char *why;

	if (state != APPROVAL_PENDING) {
		snprintf(ret_error, JSON_ERROR_SIZE, "the request is %s: it must be asked anew",
			state_names[state]);
		return KEKD_EAPPROVALENDED;
	}
	why = strcmp(a->requested_by, c->name) == 0 ? "it is its own request"
						    : approval_objection(a, c);
	if (!why && has_approved(a, c->name))
		why = "it has approved it before";
	if (!why)
		return 0;
	snprintf(ret_error, JSON_ERROR_SIZE,
		"this client cannot approve it: %s. Another administrator must, or it must be "
		"asked "
		"anew",
		why);
	return KEKD_EAPPROVER;
}

void
approval_drop(struct approval *a, size_t i, const char *why)
{
	snprintf(a->reason, sizeof(a->reason), "the approval by \"%s\" does not count any more: %s",
		a->approved[i].client, why);
	a->approved_count--;
	memmove(&a->approved[i], &a->approved[i + 1],
		(a->approved_count - i) * sizeof(a->approved[0]));
}

bool
approval_is_last(const struct approval *a, unsigned approvals)
{
	unsigned needed = approvals > a->needed ? approvals : a->needed;

	return a->approved_count + 2 >= needed; /* who asked, and this one */
}
