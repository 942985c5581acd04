/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The nodes of the cluster: what each says of itself, who becomes one, who is none any more, and
 * how far the records may go beyond what an older release reads. Which of them is the active:
 * role.c.
 */
#include "api.h"

#include <string.h>

/* ---- showing ---- */

/* What a node says of itself in nodes/NODE, as it is told. */
static const char *const said_members[] = {
	"url",
	"role",
	"release",
	"level",
	"ready",
	"reason",
	"revision",
	"started",
	"time",
};

static json_t *
said(struct node *n, const char *name)
{
	return strcmp(name, n->part.node) == 0 ? node_presence(n) : node_peer(n, name);
}

/* Each part of the program adds what it knows of a member to its row. */
static void (*const parts[])(struct node *n, const char *name, json_t *row) = {
	api_add_proofs,
	NULL,
};

static json_t *
member_json(struct node *n, const char *name)
{
	_cleanup_(json_freep) json_t *own = said(n, name);
	json_t *row = json_pack("{s:s, s:b}", "node", name, "present", own != NULL);

	for (size_t i = 0; i < STR_COUNT(said_members); i++) {
		json_t *value = json_object_get(own, said_members[i]);
		json_object_set(row, said_members[i], value ? value : json_null());
	}
	for (size_t i = 0; parts[i]; i++)
		parts[i](n, name, row);
	return row;
}

json_t *
api_members_json(struct node *n, const struct cluster *c)
{
	json_t *rows = json_array();

	for (size_t i = 0; i < c->members_count; i++)
		json_array_append_new(rows, member_json(n, c->members[i]));
	return rows;
}

/* ---- changing ---- */

static int
check_match(const struct request *r, const struct cluster *c, char ret_error[JSON_ERROR_SIZE])
{
	if (r->if_match == STORE_ANY || r->if_match == c->commit)
		return 0;
	snprintf(ret_error, JSON_ERROR_SIZE,
		"the cluster is at revision %llu by now: read it again",
		(unsigned long long)c->commit);
	return KEKD_EPRECONDITION;
}

static bool
lists(const json_t *names, const char *name)
{
	const json_t *value;
	size_t i;

	json_array_foreach(names, i, value)
		if (json_is_string(value) && strcmp(json_string_value(value), name) == 0)
			return true;
	return false;
}

int
api_members_take(const json_t *names, struct cluster *next, char ret_error[JSON_ERROR_SIZE])
{
	const json_t *value;
	size_t i;
	int err;

	for (i = 0; i < next->members_count; i++)
		if (!lists(names, next->members[i])) {
			snprintf(ret_error, JSON_ERROR_SIZE,
				"member \"members\" must list \"%s\" too: it is a member, and only "
				"forgetting it ends that",
				next->members[i]);
			return KEKD_EINVALID;
		}
	json_array_foreach(names, i, value) {
		const char *name = json_string_value(value);
		err = cluster_add_member(next, name ? name : "", ret_error);
		if (err < 0)
			return err;
	}
	return 0;
}

/* Answers with the cluster as it is then. `what` is for people, when it failed. */
static void
commit(struct request *r, struct cluster *next, const char *what, json_t *detail)
{
	int err = node_cluster_change(r->node, next, NULL);

	if (err < 0) {
		json_decref(detail);
		request_fail(r, err, "%s: %s", what, kekd_strerror(err));
		return;
	}
	json_object_set_new(detail, "revision", json_integer((json_int_t)next->commit));
	api_set_detail(r, detail);
	api_answer_cluster(r, next);
}

/* ---- forgetting ---- */

static int
read_forget(struct request *r, struct cluster *next, const char **ret_name,
	char ret_error[JSON_ERROR_SIZE])
{
	const char *name = NULL;
	const struct json_member members[] = { { "node", JSON_KIND_STRING, true, &name } };
	int err = json_take(r->body, members, STR_COUNT(members), ret_error);

	if (err == 0)
		err = check_match(r, next, ret_error);
	if (err == 0 && strcmp(name, r->node->part.node) == 0) {
		snprintf(ret_error, JSON_ERROR_SIZE,
			"\"%s\" makes the changes now and cannot forget itself: step it down, "
			"then forget it",
			name);
		err = KEKD_ESTATE;
	}
	if (err == 0)
		err = cluster_forget_member(next, name, ret_error);
	*ret_name = name;
	return err;
}

void
api_cluster_forget(struct request *r)
{
	char error[JSON_ERROR_SIZE] = "";
	const char *name = NULL;
	struct cluster next;
	int err;

	node_cluster(r->node, &next);
	err = read_forget(r, &next, &name, error);
	if (err < 0)
		request_fail(r, err, "%s", error);
	else
		commit(r, &next, "the member was not forgotten",
			json_pack("{s:s}", "forgotten", name));
}

/* ---- the level ---- */

static int
check_member_level(struct node *n, const char *name, int64_t level, char ret_error[JSON_ERROR_SIZE])
{
	_cleanup_(json_freep) json_t *own = said(n, name);
	json_int_t has = json_integer_value(json_object_get(own, "level"));

	if (own && has >= level)
		return 0;
	if (own)
		snprintf(ret_error, JSON_ERROR_SIZE,
			"member \"%s\" runs a release of level %lld: update it first", name,
			(long long)has);
	else
		snprintf(ret_error, JSON_ERROR_SIZE,
			"member \"%s\" is not there, so nobody knows what it runs: start it, or "
			"forget it",
			name);
	return KEKD_EUNREADY;
}

static int
check_level(struct node *n, const struct cluster *c, int64_t level, char ret_error[JSON_ERROR_SIZE])
{
	int err = 0;

	if (level < 1 || level > (int64_t)cluster_release_level) {
		snprintf(ret_error, JSON_ERROR_SIZE, "this release knows the levels 1 to %u",
			cluster_release_level);
		return KEKD_EINVALID;
	}
	if (level < (int64_t)c->level) {
		snprintf(ret_error, JSON_ERROR_SIZE,
			"the cluster is at level %u, which never goes down", c->level);
		return KEKD_ESTATE;
	}
	for (size_t i = 0; err == 0 && i < c->members_count; i++)
		err = check_member_level(n, c->members[i], level, ret_error);
	return err;
}

void
api_cluster_level(struct request *r)
{
	int64_t level = 0;
	const struct json_member members[] = { { "level", JSON_KIND_INTEGER, true, &level } };
	char error[JSON_ERROR_SIZE] = "";
	struct cluster next;
	int err;

	node_cluster(r->node, &next);
	err = json_take(r->body, members, STR_COUNT(members), error);
	if (err == 0)
		err = check_match(r, &next, error);
	if (err == 0)
		err = check_level(r->node, &next, level, error);
	if (err < 0) {
		request_fail(r, err, "%s", error);
	} else if (next.level == (unsigned)level) {
		api_answer_cluster(r, &next);
	} else {
		next.level = (unsigned)level;
		commit(r, &next, "the level is as it was",
			json_pack("{s:I}", "level", (json_int_t)level));
	}
}
