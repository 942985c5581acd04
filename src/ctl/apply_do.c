/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The plan, and carrying it out. What is there is read once, and its ETag goes with the change: who
 * was quicker is not overwritten. Nothing is ever deleted, and no version's state is touched.
 */
#include "apply.h"

#include <string.h>

/* How a kind of resource is reached. */
static const struct kind {
	const char *path;	 /* of one; its name follows unless it has none */
	const char *create_path; /* NULL: created at its own */
	const char *create, *update;
} kinds[APPLY_KINDS] = {
	[APPLY_KEY] = { "/v1/keys/", "/v1/keys", "POST", "PATCH" },
	[APPLY_CLIENT] = { "/v1/clients/", NULL, "PUT", "PUT" },
	[APPLY_POLICY] = { "/v1/cluster", NULL, NULL, "PATCH" },
};

static const char *
path_of(const struct apply_resource *r)
{
	return show_format("%s%s", kinds[r->kind].path, r->name);
}

/* ---- planning ---- */

static unsigned
line_of(const struct apply_resource *r, const char *member)
{
	long long line = number_of(r->lines, member);

	return line > 0 ? (unsigned)line : r->line;
}

/* A version keeps its algorithm and its token for life: another one is another version. */
static void
refuse_changed_version(struct apply_set *s, const struct apply_resource *r, const json_t *change)
{
	const char *member = string_of(change, "member");
	bool token = strcmp(member, "token") == 0;

	if (!token && strcmp(member, "algorithm") != 0)
		return;
	apply_finding(s, r->file, line_of(r, member),
		"%s is there with %s %s, and apply does not change that to %s; %s", apply_label(r),
		member, show_text(change, "from"), show_text(change, "to"),
		token ? show_format("\"kekctl key rotate %s --token %s\" makes its next version "
				    "there",
				r->name, show_text(change, "to"))
		      : "create a key of another name");
}

static void
refuse_record(struct apply_set *s, const struct apply_resource *r, const json_t *now)
{
	if (json_is_true(json_object_get(now, "refused")))
		apply_finding(s, r->file, r->line,
			"the record of %s was changed outside of kekd: restore it from a backup",
			apply_label(r));
}

static void
plan_update(struct apply_set *s, struct apply_resource *r, const json_t *now)
{
	const json_t *change;
	size_t i;

	r->changes = apply_compare(r->kind, now, r->wanted);
	r->action = json_array_size(r->changes) > 0 ? APPLY_UPDATE : APPLY_NOTHING;
	if (r->action == APPLY_UPDATE)
		refuse_record(s, r, now);
	json_array_foreach(r->changes, i, change)
		if (r->kind == APPLY_KEY && strcmp(string_of(change, "change"), "~") == 0)
			refuse_changed_version(s, r, change);
}

static int
plan_one(struct ctl *ctl, struct apply_set *s, struct apply_resource *r)
{
	_cleanup_(kekd_reply_free) struct kekd_reply reply = { 0 };
	int status = ctl_exchange(ctl, "GET", path_of(r), NULL, NULL, NULL, &reply);

	if (status != CTL_OK)
		return status;
	if (reply.status == 404 && kinds[r->kind].create) {
		r->action = APPLY_CREATE;
		r->changes = apply_compare(r->kind, NULL, r->wanted);
		return CTL_OK;
	}
	status = ctl_check_reply(&reply);
	if (status != CTL_OK)
		return status;
	memcpy(r->etag, reply.etag, sizeof(r->etag));
	plan_update(
		s, r, r->kind == APPLY_POLICY ? json_object_get(reply.json, "policy") : reply.json);
	return CTL_OK;
}

int
apply_plan(struct ctl *ctl, struct apply_set *s)
{
	int status = CTL_OK;

	for (size_t i = 0; status == CTL_OK && i < s->count; i++)
		status = plan_one(ctl, s, &s->list[i]);
	return status;
}

/* ---- doing ---- */

/* All of a client, as it is replaced; of the others the members that change. */
static json_t *
body_of(const struct apply_resource *r)
{
	json_t *body;
	const json_t *change;
	size_t i;

	if (r->action == APPLY_CREATE || r->kind == APPLY_CLIENT)
		return json_deep_copy(r->wanted);
	body = json_object();
	json_array_foreach(r->changes, i, change) {
		const char *member = string_of(change, "member");
		json_object_set(body, member, json_object_get(r->wanted, member));
	}
	return r->kind == APPLY_POLICY ? json_pack("{s:o}", "policy", body) : body;
}

/* Says a failure, and keeps it for the report. */
static int
fail(struct apply_resource *r, const struct kekd_reply *reply)
{
	r->result = APPLY_FAILED;
	if (!reply)
		snprintf(r->error, sizeof(r->error), "no answer");
	else
		snprintf(r->error, sizeof(r->error), "%s", reply->detail);
	return reply ? say_problem(reply) : CTL_FAILED;
}

static int
do_one(struct ctl *ctl, struct apply_resource *r)
{
	const struct kind *k = &kinds[r->kind];
	bool create = r->action == APPLY_CREATE;
	_cleanup_(json_freep) json_t *body = body_of(r);
	_cleanup_(kekd_reply_free) struct kekd_reply reply = { 0 };
	int status = ctl_exchange(ctl, create ? k->create : k->update,
		create && k->create_path ? k->create_path : path_of(r), body,
		create ? NULL : r->etag, create ? "*" : NULL, &reply);

	if (status != CTL_OK) {
		fail(r, NULL);
		return status;
	}
	if (reply.status < 200 || reply.status > 299)
		return fail(r, &reply);
	r->result = reply.status == 202 ? APPLY_PENDING : APPLY_DONE;
	snprintf(r->approval, sizeof(r->approval), "%s",
		r->result == APPLY_PENDING ? string_of(reply.json, "id") : "");
	return CTL_OK;
}

/* Keys, then clients, and the policy last: what it asks of approvals is for later changes. */
int
apply_do(struct ctl *ctl, struct apply_set *s)
{
	int status = CTL_OK;
	bool pending = false;

	for (int kind = 0; kind < APPLY_KINDS; kind++)
		for (size_t i = 0; status == CTL_OK && i < s->count; i++) {
			struct apply_resource *r = &s->list[i];
			if (r->kind != (enum apply_kind)kind || r->action == APPLY_NOTHING)
				continue;
			status = do_one(ctl, r);
			pending = pending || r->result == APPLY_PENDING;
		}
	return status == CTL_OK && pending ? CTL_PENDING : status;
}
