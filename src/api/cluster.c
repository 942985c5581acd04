/* SPDX-License-Identifier: Apache-2.0 */
/* The cluster as a resource: what the record `cluster` says, and its policy, which can be changed.
 */
#include "changes.h"

#include "kekd/clock.h"

#include <errno.h>

json_t *
api_policy_json(const struct policy *p)
{
	return json_pack("{s:i, s:o, s:o}", "approvals", (int)p->approvals, "destroy_wait",
		api_duration(p->destroy_wait_s), "approval_ttl", api_duration(p->approval_ttl_s));
}

static json_t *
forgotten_json(const struct cluster *c)
{
	json_t *names = json_array();

	for (size_t i = 0; i < c->forgotten_count; i++)
		json_array_append_new(names, json_string(c->forgotten[i]));
	return names;
}

static json_t *
seal_keys_json(const struct cluster *c)
{
	json_t *keys = json_array();

	for (size_t i = 0; i < c->seal_keys_count; i++) {
		char id[UUID_TEXT_SIZE];
		uuid_format(&c->seal_keys[i].id, id);
		json_array_append_new(
			keys, json_pack("{s:s, s:s}", "id", id, "token", c->seal_keys[i].token));
	}
	return keys;
}

static json_t *
cluster_json(struct node *n, const struct cluster *c)
{
	return json_pack("{s:s, s:s, s:o, s:i, s:o, s:o, s:o, s:o, s:o, s:b, s:I}", "name", c->name,
		"generation", c->generation, "created", api_time(c->created_us), "level",
		(int)c->level, "members", api_members_json(n, c), "forgotten", forgotten_json(c),
		"copies", api_copies_json(n), "seal_keys", seal_keys_json(c), "policy",
		api_policy_json(&c->policy), "frozen", (int)c->frozen, "revision",
		(json_int_t)c->commit);
}

void
api_answer_cluster(struct request *r, const struct cluster *c)
{
	json_t *value = cluster_json(r->node, c);

	if (!value) {
		request_fail(r, -ENOMEM, "no memory for the answer: ask again");
		return;
	}
	api_set_etag(r, c->commit);
	request_answer_json(r, 200, value);
}

void
api_cluster_get(struct request *r)
{
	struct cluster c;

	node_cluster(r->node, &c);
	api_answer_cluster(r, &c);
}

/* ---- the policy ---- */

static int
take_duration(
	const char *member, const char *text, uint64_t *seconds, char ret_error[JSON_ERROR_SIZE])
{
	if (!text || clock_parse_duration(text, seconds) == 0)
		return 0;
	snprintf(ret_error, JSON_ERROR_SIZE,
		"member \"policy\".\"%s\" is no duration: a number and s, m, h or d, as in \"7d\"",
		member);
	return KEKD_EINVALID;
}

/* What the body does not name stays. */
static int
take_policy(const json_t *body, struct policy *p, char ret_error[JSON_ERROR_SIZE])
{
	const char *wait = NULL, *ttl = NULL;
	int64_t approvals = p->approvals;
	const struct json_member members[] = {
		{ "approvals", JSON_KIND_INTEGER, false, &approvals },
		{ "destroy_wait", JSON_KIND_STRING, false, &wait },
		{ "approval_ttl", JSON_KIND_STRING, false, &ttl },
	};
	int err = json_take(body, members, STR_COUNT(members), ret_error);

	if (err < 0 ||
		(err = take_duration("destroy_wait", wait, &p->destroy_wait_s, ret_error)) < 0 ||
		(err = take_duration("approval_ttl", ttl, &p->approval_ttl_s, ret_error)) < 0)
		return err;
	p->approvals = approvals < 0 || approvals > POLICY_APPROVALS_MAX ? POLICY_APPROVALS_MAX + 1
									 : (unsigned)approvals;
	return policy_check(p, ret_error);
}

/* One of the two: the policy may take approval. */
static int
take_change(
	struct request *r, struct cluster *next, bool *ret_policy, char ret_error[JSON_ERROR_SIZE])
{
	json_t *policy = NULL, *nodes = NULL;
	const struct json_member members[] = {
		{ "policy", JSON_KIND_OBJECT, false, &policy },
		{ "members", JSON_KIND_ARRAY, false, &nodes },
	};
	int err = json_take(r->body, members, STR_COUNT(members), ret_error);

	if (err < 0)
		return err;
	*ret_policy = policy != NULL;
	if ((policy != NULL) == (nodes != NULL)) {
		snprintf(
			ret_error, JSON_ERROR_SIZE, "one of \"policy\" and \"members\" is changed");
		return KEKD_EINVALID;
	}
	return policy ? take_policy(policy, &next->policy, ret_error)
		      : api_members_take(nodes, next, ret_error);
}

static int
read_change(
	struct request *r, struct cluster *next, bool *ret_policy, char ret_error[JSON_ERROR_SIZE])
{
	int err = take_change(r, next, ret_policy, ret_error);

	if (err == 0 && r->if_match != STORE_ANY && r->if_match != next->commit) {
		snprintf(ret_error, JSON_ERROR_SIZE,
			"the cluster is at revision %llu by now: read it again",
			(unsigned long long)next->commit);
		return KEKD_EPRECONDITION;
	}
	return err;
}

int
policy_approved(struct request *r, const struct approval *a, const struct sealed_change *with,
	uint64_t *ret_commit, char ret_error[LIFECYCLE_ERROR_SIZE])
{
	struct cluster next;
	char error[JSON_ERROR_SIZE] = "";
	int err;

	node_cluster(r->node, &next);
	err = take_policy(a->change, &next.policy, error);
	snprintf(ret_error, LIFECYCLE_ERROR_SIZE, "%s", error);
	if (err == 0 && next.commit != a->revision) {
		snprintf(ret_error, LIFECYCLE_ERROR_SIZE,
			"the cluster is at revision %llu by now, not at the one that was asked for",
			(unsigned long long)next.commit);
		err = KEKD_EPRECONDITION;
	}
	if (err == 0)
		err = node_cluster_change(r->node, &next, with);
	if (err == 0)
		*ret_commit = next.commit;
	return err;
}

static json_t *
change_detail(struct request *r, bool policy, const struct cluster *c)
{
	return json_pack("{s:o, s:I}", policy ? "policy" : "members",
		policy ? api_policy_json(&c->policy)
		       : json_incref(json_object_get(r->body, "members")),
		"revision", (json_int_t)c->commit);
}

void
api_cluster_patch(struct request *r)
{
	char error[JSON_ERROR_SIZE] = "";
	struct cluster next;
	bool policy = false;
	int err;

	node_cluster(r->node, &next);
	err = read_change(r, &next, &policy, error);
	if (err < 0) {
		request_fail(r, err, "%s", error);
		return;
	}
	if (policy && changes_approvals(r->node) > 1) {
		changes_ask(r, APPROVAL_POLICY, "cluster", next.commit,
			api_policy_json(&next.policy), NULL);
		return;
	}
	err = node_cluster_change(r->node, &next, NULL);
	if (err < 0) {
		request_fail(r, err, "the cluster was not changed: %s", kekd_strerror(err));
		return;
	}
	api_set_detail(r, change_detail(r, policy, &next));
	api_answer_cluster(r, &next);
}

/* ---- freezing ---- */

static int
read_frozen(struct request *r, struct cluster *next, char ret_error[JSON_ERROR_SIZE])
{
	const struct json_member members[] = {
		{ "frozen", JSON_KIND_BOOL, true, &next->frozen },
	};
	int err = json_take(r->body, members, STR_COUNT(members), ret_error);

	if (err < 0 || r->if_match == STORE_ANY || r->if_match == next->commit)
		return err;
	snprintf(ret_error, JSON_ERROR_SIZE,
		"the cluster is at revision %llu by now: read it again",
		(unsigned long long)next->commit);
	return KEKD_EPRECONDITION;
}

void
api_cluster_freeze(struct request *r)
{
	char error[JSON_ERROR_SIZE] = "";
	struct cluster next;
	bool before;
	int err;

	node_cluster(r->node, &next);
	before = next.frozen;
	err = read_frozen(r, &next, error);
	if (err < 0) {
		request_fail(r, err, "%s", error);
		return;
	}
	err = next.frozen == before ? 0 : node_cluster_change(r->node, &next, NULL);
	if (err < 0) {
		request_fail(r, err, "the service is as it was: %s", kekd_strerror(err));
		return;
	}
	api_set_detail(r, json_pack("{s:b, s:I}", "frozen", (int)next.frozen, "revision",
				  (json_int_t)next.commit));
	api_answer_cluster(r, &next);
}
