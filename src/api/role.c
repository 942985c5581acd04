/* SPDX-License-Identifier: Apache-2.0 */
/* Which node of a pair makes the changes, by an administrator's word: the active steps down, or
 * another one is promoted. */
#include "api.h"

#include "kekd/clock.h"

#define PAUSE_S 30
#define PAUSE_MAX_S 3600

static const char alone[] = "this node's store is its own: there is no other to take over";

/* ---- stepping down ---- */

struct step_down {
	uint64_t pause_s;
	bool force;
};

static int
read_step_down(struct request *r, struct step_down *ret, char ret_error[JSON_ERROR_SIZE])
{
	const char *pause = NULL;
	bool force = false;
	uint64_t s = PAUSE_S;
	const struct json_member members[] = {
		{ "pause", JSON_KIND_STRING, false, &pause },
		{ "force", JSON_KIND_BOOL, false, &force },
	};
	int err = json_take(r->body, members, STR_COUNT(members), ret_error);

	if (err < 0)
		return err;
	if (pause && (clock_parse_duration(pause, &s) != 0 || s < 1 || s > PAUSE_MAX_S)) {
		snprintf(ret_error, JSON_ERROR_SIZE,
			"member \"pause\" is no duration from 1s to 1h: a number and s, m or h");
		return KEKD_EINVALID;
	}
	*ret = (struct step_down){ s, force };
	return 0;
}

/* Is there another one that takes over? */
static bool
has_successor(struct node *n)
{
	struct cluster c;
	bool found = false;

	node_cluster(n, &c);
	for (size_t i = 0; i < c.members_count && !found; i++) {
		_cleanup_(json_freep) json_t *peer = node_peer(n, c.members[i]);
		found = json_is_true(json_object_get(peer, "ready"));
	}
	return found;
}

static int
step_down(struct request *r, const struct step_down *s, char ret_error[JSON_ERROR_SIZE])
{
	struct node *n = r->node;
	int err;

	if (node_role(n) == ROLE_SINGLE) {
		snprintf(ret_error, JSON_ERROR_SIZE, "%s", alone);
		return KEKD_ESTATE;
	}
	if (!s->force && !has_successor(n)) {
		snprintf(ret_error, JSON_ERROR_SIZE,
			"no other member is ready to take over, nobody would make changes; "
			"\"force\" steps down all the same");
		return KEKD_EUNREADY;
	}
	err = node_step_down(n, (unsigned)s->pause_s);
	if (err < 0)
		snprintf(ret_error, JSON_ERROR_SIZE, "the node did not step down: %s",
			kekd_strerror(err));
	return err;
}

void
api_cluster_step_down(struct request *r)
{
	char error[JSON_ERROR_SIZE] = "";
	struct step_down s = { 0 };
	int err = read_step_down(r, &s, error);

	if (err == 0)
		err = step_down(r, &s, error);
	if (err < 0) {
		request_fail(r, err, "%s", error);
		return;
	}
	api_set_detail(r, json_pack("{s:s, s:I, s:b}", "node", r->node->part.node, "pause_s",
				  (json_int_t)s.pause_s, "force", (int)s.force));
	request_answer_json(r, 200,
		json_pack("{s:s, s:I}", "node", r->node->part.node, "pause_s",
			(json_int_t)s.pause_s));
}

/* ---- promotion ---- */

static int
promote(struct node *n, bool force, json_t *detail, char ret_error[JSON_ERROR_SIZE])
{
	char why[NODE_REASON_SIZE] = "";
	bool able;
	int err;

	if (node_role(n) == ROLE_SINGLE) {
		snprintf(ret_error, JSON_ERROR_SIZE, "%s", alone);
		return KEKD_ESTATE;
	}
	able = node_can_lead(n, why);
	json_object_set_new(detail, "forced", json_boolean(!able));
	if (!able)
		json_object_set_new(detail, "reason", json_string(why));
	if (!able && !force) {
		snprintf(ret_error, JSON_ERROR_SIZE, "this node is not ready to lead: %s", why);
		return KEKD_EUNREADY;
	}
	err = node_promote(n, ret_error);
	if (err < 0 && !*ret_error)
		snprintf(ret_error, JSON_ERROR_SIZE, "node \"%s\" was not promoted: %s",
			n->part.node, kekd_strerror(err));
	return err;
}

void
api_cluster_promote(struct request *r)
{
	_cleanup_(json_freep) json_t *detail = json_pack("{s:s}", "node", r->node->part.node);
	bool force = false;
	const struct json_member members[] = { { "force", JSON_KIND_BOOL, false, &force } };
	char error[JSON_ERROR_SIZE] = "";
	int err = json_take(r->body, members, STR_COUNT(members), error);

	if (err == 0)
		err = promote(r->node, force, detail, error);
	api_set_detail(r, json_incref(detail));
	if (err < 0) {
		request_fail(r, err, "%s", error);
		return;
	}
	request_answer_json(r, 200,
		json_pack("{s:s, s:I, s:O}", "node", r->node->part.node, "epoch",
			(json_int_t)node_epoch(r->node), "forced",
			json_object_get(detail, "forced")));
}
