/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests for approval as a resource: list, read, approve, reject; and what asks for one. The
 * rules are approvals.h's; what an approved request does is a row of the table and its resource's
 * matter.
 */
#include "changes.h"

#include "kekd/clock.h"

#include <errno.h>
#include <string.h>

static const struct {
	enum access_operation operation; /* what who asked must still be allowed */
	changes_fn *run;
} kinds[APPROVAL_KINDS] = {
	[APPROVAL_DESTROY] = { ACCESS_KEY_DESTROY, destroy_approved },
	[APPROVAL_CLIENT_WRITE] = { ACCESS_CLIENT_WRITE, client_put_approved },
	[APPROVAL_CLIENT_DELETE] = { ACCESS_CLIENT_WRITE, client_delete_approved },
	[APPROVAL_POLICY] = { ACCESS_CLUSTER_WRITE, policy_approved },
};

unsigned
changes_approvals(struct node *n)
{
	struct cluster c;

	node_cluster(n, &c);
	return c.policy.approvals;
}

/* ---- as JSON ---- */

static json_t *
or_null(json_t *value)
{
	return value ? json_incref(value) : json_null();
}

/* Who approved a request that waits may have lost the right to since, as who asked may. */
static void
drop_gone(struct node *n, struct approval *a)
{
	for (size_t i = a->state == APPROVAL_PENDING ? a->approved_count : 0; i-- > 0;) {
		_cleanup_(client_unrefp) struct client *c = clients_find(
			n->clients, a->approved[i].client);
		const char *why = approval_objection(a, c);

		if (why)
			approval_drop(a, i, why);
	}
}

static json_t *
approval_json(struct node *n, const struct approval *stored)
{
	static const char *const told[] = { "id", "kind", "target", "revision", "change",
		"evidence", "requested_by", "requested", "expires", "needed", "approved_by",
		"ended", "ended_by", "reason" };
	_cleanup_(approval_unrefp) struct approval *a = approval_copy(stored);
	_cleanup_(json_freep) json_t *record = NULL;
	json_t *o;

	if (a) {
		drop_gone(n, a);
		record = approval_to_json(a);
	}
	o = record ? json_object() : NULL;
	for (size_t i = 0; o && i < STR_COUNT(told); i++)
		json_object_set_new(o, told[i], or_null(json_object_get(record, told[i])));
	if (o)
		json_object_set_new(o, "state",
			json_string(approval_state_name(approval_state_now(a, clock_real_us()))));
	return o;
}

static void
answer(struct request *r, int status, const struct approval *a)
{
	json_t *value = approval_json(r->node, a);

	if (value)
		request_answer_json(r, status, value);
	else
		request_fail(r, -ENOMEM, "no memory for the answer: ask again");
}

static void
set_detail(struct request *r, const struct approval *a)
{
	api_set_detail(
		r, json_pack("{s:s, s:s, s:s, s:I, s:s, s:s, s:s, s:i, s:i, s:s*}", "approval",
			   a->id, "kind", approval_kind_name(a->kind), "target", a->target,
			   "target_revision", (json_int_t)a->revision, "evidence", a->evidence,
			   "requested_by", a->requested_by, "state", approval_state_name(a->state),
			   "approved", (int)a->approved_count + 1, "needed", (int)a->needed,
			   "reason", *a->reason ? a->reason : NULL));
}

void
api_approval_list(struct request *r)
{
	struct approval *list[APPROVALS_MAX];
	size_t count = approvals_list(r->node->approvals, list, STR_COUNT(list));
	json_t *values = json_array();

	for (size_t i = 0; i < count; i++) {
		json_array_append_new(values, approval_json(r->node, list[i]));
		approval_unrefp(&list[i]);
	}
	request_answer_json(r, 200, json_pack("{s:o}", "approvals", values));
}

/* NULL: the request has been answered. */
static struct approval *
find(struct request *r)
{
	struct approval *a = approvals_find(r->node->approvals, r->params[0]);

	if (!a)
		request_fail(r, KEKD_ENOAPPROVAL, "there is no request \"%.40s\" for approval",
			r->params[0]);
	return a;
}

void
api_approval_get(struct request *r)
{
	_cleanup_(approval_unrefp) struct approval *a = find(r);

	if (a)
		answer(r, 200, a);
}

/* ---- storing ---- */

static void
approval_path(const struct approval *a, char ret_path[STORE_PATH_MAX + 1])
{
	snprintf(ret_path, STORE_PATH_MAX + 1, "approvals/%s", a->id);
}

/* a is not shared yet; takes over the reference. */
static int
store(struct request *r, struct approval *a)
{
	char path[STORE_PATH_MAX + 1];
	_cleanup_(json_freep) json_t *body = approval_to_json(a);
	struct sealed_change change = { path, a->commit, body };
	int err = body ? 0 : -ENOMEM;

	approval_path(a, path);
	if (err == 0)
		err = sealed_commit(r->node->sealed, &change, 1, &a->commit);
	if (err == 0)
		return approvals_publish(r->node->approvals, a);
	approval_unrefp(&a);
	return err;
}

/* Ends a request in the state; its copy takes its place. */
static int
end_as(struct request *r, const struct approval *a, enum approval_state state, const char *by,
	const char *reason)
{
	struct approval *next = approval_copy(a);

	if (!next)
		return -ENOMEM;
	next->state = state;
	next->ended_us = clock_real_us();
	snprintf(next->ended_by, sizeof(next->ended_by), "%s", by);
	snprintf(next->reason, sizeof(next->reason), "%.199s", reason);
	return store(r, next);
}

/* ---- asking ---- */

static int
make_room(struct request *r)
{
	uint64_t now = clock_real_us();
	_cleanup_(approval_unrefp) struct approval *old = approvals_oldest_ended(
		r->node->approvals, now);
	char path[STORE_PATH_MAX + 1];
	struct sealed_change change = { path, STORE_ANY, NULL };
	uint64_t number;
	int err;

	if (approvals_pending(r->node->approvals, now) >= APPROVALS_PENDING_MAX)
		return KEKD_EAPPROVALSFULL;
	if (!old)
		return 0;
	approval_path(old, path);
	change.expected = old->commit;
	err = sealed_commit(r->node->sealed, &change, 1, &number);
	if (err == 0)
		approvals_remove(r->node->approvals, old->id);
	return err;
}

static int
fill(struct request *r, struct approval *a, const char *evidence)
{
	struct cluster c;
	struct uuid id;
	int err = uuid_generate(&id);

	if (err < 0)
		return err;
	node_cluster(r->node, &c);
	uuid_format(&id, a->id);
	a->requested_us = clock_real_us();
	a->expires_us = a->requested_us + c.policy.approval_ttl_s * 1000000;
	a->seen = sealed_number(r->node->sealed);
	a->needed = c.policy.approvals;
	snprintf(a->requested_by, sizeof(a->requested_by), "%s", r->client->name);
	if (!evidence)
		return approval_digest(a, a->evidence);
	snprintf(a->evidence, sizeof(a->evidence), "%s", evidence);
	return 0;
}

static bool
is_same(const struct approval *a, const struct approval *b)
{
	return a->revision == b->revision && strcmp(a->evidence, b->evidence) == 0 &&
	       strcmp(a->requested_by, b->requested_by) == 0;
}

/* What was asked so already is found; what was asked otherwise about the same is stale. */
static int
settle_earlier(struct request *r, const struct approval *a, struct approval **ret_same)
{
	_cleanup_(approval_unrefp) struct approval *old = approvals_find_pending(
		r->node->approvals, a->kind, a->target, a->requested_us);

	if (!old)
		return 0;
	if (!is_same(old, a))
		return end_as(r, old, APPROVAL_STALE, r->client->name, "it was asked anew");
	*ret_same = approval_ref(old);
	return 0;
}

static int
ask(struct request *r, struct approval *a, const char *evidence, struct approval **ret_asked)
{
	struct approval *same = NULL;
	int err = make_room(r);

	if (err == 0)
		err = fill(r, a, evidence);
	if (err == 0)
		err = settle_earlier(r, a, &same);
	if (err == 0 && !same)
		err = store(r, approval_ref(a));
	if (err == 0)
		*ret_asked = same ? same : approval_ref(a);
	return err;
}

void
changes_ask(struct request *r, enum approval_kind kind, const char *target, uint64_t revision,
	json_t *change, const char *evidence)
{
	_cleanup_(approval_unrefp) struct approval *a = approval_new();
	_cleanup_(approval_unrefp) struct approval *asked = NULL;
	int err = a && change ? 0 : -ENOMEM;

	if (a)
		a->change = change;
	else
		json_decref(change);
	if (err == 0) {
		a->kind = kind;
		a->revision = revision;
		snprintf(a->target, sizeof(a->target), "%s", target);
		err = ask(r, a, evidence, &asked);
	}
	if (err < 0) {
		request_fail(r, err, "no approval was asked for: %s", kekd_strerror(err));
		return;
	}
	set_detail(r, asked);
	answer(r, 202, asked);
}

/* ---- approving ---- */

static int
check_evidence(const struct approval *a, const char *evidence, char ret_error[JSON_ERROR_SIZE])
{
	if (strcmp(a->evidence, evidence) == 0)
		return 0;
	snprintf(ret_error, JSON_ERROR_SIZE,
		"\"evidence\" is not what the request binds: read it again, and approve what it "
		"shows");
	return KEKD_EEVIDENCE;
}

static int
read_approval(struct request *r, const struct approval *a, char ret_error[JSON_ERROR_SIZE])
{
	const char *evidence = NULL;
	const struct json_member members[] = {
		{ "evidence", JSON_KIND_STRING, true, &evidence },
	};
	int err = json_take(r->body, members, STR_COUNT(members), ret_error);

	if (err == 0)
		err = approval_may(a, r->client, clock_real_us(), ret_error);
	return err < 0 ? err : check_evidence(a, evidence, ret_error);
}

/* Who asked may have lost the right to since. */
static int
check_requester(struct node *n, const struct approval *a, char ret_error[LIFECYCLE_ERROR_SIZE])
{
	_cleanup_(client_unrefp) struct client *c = clients_find(n->clients, a->requested_by);
	char key[APPROVAL_TARGET_SIZE];
	bool names_key = a->kind == APPROVAL_DESTROY;

	snprintf(key, sizeof(key), "%.*s", (int)strcspn(a->target, "/"), a->target);
	if (c && client_authorise(c, kinds[a->kind].operation, names_key ? key : NULL) == 0)
		return 0;
	snprintf(ret_error, LIFECYCLE_ERROR_SIZE,
		"client \"%s\", who asked, may not do it any more", a->requested_by);
	return KEKD_EAPPROVALENDED;
}

/* Errors that no later try can mend. */
static bool
is_stale(int err)
{
	static const int stale[] = { KEKD_EPRECONDITION, KEKD_ESTATE, KEKD_EEVIDENCE, KEKD_ENOKEY,
		KEKD_ENOVERSION, KEKD_ENOCLIENT, KEKD_ETAKEN, KEKD_EAPPROVALENDED, KEKD_EINVALID,
		KEKD_EMEMBER };

	for (size_t i = 0; i < STR_COUNT(stale); i++)
		if (err == stale[i])
			return true;
	return false;
}

/* Does it, and in the same commit the request is done. Takes over next. */
static int
execute(struct request *r, struct approval *next, char ret_error[LIFECYCLE_ERROR_SIZE])
{
	char path[STORE_PATH_MAX + 1];
	struct sealed_change with = { path, next->commit, NULL };
	int err = check_requester(r->node, next, ret_error);

	next->state = APPROVAL_DONE;
	next->ended_us = clock_real_us();
	snprintf(next->ended_by, sizeof(next->ended_by), "%s", r->client->name);
	approval_path(next, path);
	with.body = approval_to_json(next);
	if (err == 0)
		err = with.body ? kinds[next->kind].run(r, next, &with, &next->commit, ret_error)
				: -ENOMEM;
	json_decref(with.body);
	if (err == 0)
		return approvals_publish(r->node->approvals, next);
	approval_unrefp(&next);
	return err;
}

static int
approve(struct request *r, const struct approval *a, char ret_error[LIFECYCLE_ERROR_SIZE])
{
	struct approval *next = approval_copy(a);
	bool last;

	if (next)
		drop_gone(r->node, next);
	last = next && approval_is_last(next, changes_approvals(r->node));
	if (!next || next->approved_count >= POLICY_APPROVALS_MAX) {
		approval_unrefp(&next);
		return -ENOMEM;
	}
	snprintf(next->approved[next->approved_count].client, sizeof(next->approved[0].client),
		"%s", r->client->name);
	next->approved[next->approved_count++].time_us = clock_real_us();
	return last ? execute(r, next, ret_error) : store(r, next);
}

void
api_approval_approve(struct request *r)
{
	_cleanup_(approval_unrefp) struct approval *a = find(r);
	_cleanup_(approval_unrefp) struct approval *now = NULL;
	char text[LIFECYCLE_ERROR_SIZE] = "", error[JSON_ERROR_SIZE] = "";
	int err;

	if (!a)
		return;
	set_detail(r, a);
	err = read_approval(r, a, error);
	if (err < 0) {
		request_fail(r, err, "%s", error);
		return;
	}
	err = approve(r, a, text);
	if (err < 0) {
		if (is_stale(err) && end_as(r, a, APPROVAL_STALE, r->client->name, text) < 0)
			snprintf(error, sizeof(error), "; the request could not be ended");
		request_fail(r, err, "%s%s", *text ? text : kekd_strerror(err), error);
		return;
	}
	now = approvals_find(r->node->approvals, a->id);
	set_detail(r, now);
	answer(r, 200, now);
}

void
api_approval_reject(struct request *r)
{
	_cleanup_(approval_unrefp) struct approval *a = find(r);
	_cleanup_(approval_unrefp) struct approval *now = NULL;
	char error[JSON_ERROR_SIZE] = "";
	enum approval_state state;
	int err;

	if (!a)
		return;
	set_detail(r, a);
	err = json_take(r->body, NULL, 0, error);
	state = approval_state_now(a, clock_real_us());
	if (err == 0 && state != APPROVAL_PENDING) {
		err = KEKD_EAPPROVALENDED;
		snprintf(error, sizeof(error), "the request is %s", approval_state_name(state));
	}
	if (err == 0) {
		err = end_as(r, a, APPROVAL_REJECTED, r->client->name, "");
		snprintf(error, sizeof(error), "%s", kekd_strerror(err));
	}
	if (err < 0) {
		request_fail(r, err, "%s", error);
		return;
	}
	now = approvals_find(r->node->approvals, a->id);
	set_detail(r, now);
	answer(r, 200, now);
}
