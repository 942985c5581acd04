/* SPDX-License-Identifier: Apache-2.0 */
/*
 * GET /v1/keys/{key}/usage: who used which version, and what that says of destroying it. What is
 * counted is usage.h's.
 */
#include "api.h"

#include "kekd/clock.h"
#include "kekd/usage.h"

#include <errno.h>

#define DAY_US (86400ull * 1000000)
#define IN_USE_US (30 * DAY_US) /* silent for longer: said to be not seen since */

static json_t *
count_json(const struct usage_count *c)
{
	return json_pack("{s:I, s:o, s:o}", "count", (json_int_t)c->count, "first",
		api_time(c->first_us), "last", api_time(c->last_us));
}

static json_t *
row_json(const struct usage_row *row)
{
	json_t *j = json_pack("{s:o, s:s}", "client",
		*row->client ? json_string(row->client) : json_null(), "node", row->node);

	for (size_t i = 0; j && i < USAGE_KINDS; i++)
		json_object_set_new(j, usage_kind_names[i], count_json(&row->counts[i]));
	return j;
}

static json_t *
rows_json(const struct usage_row *rows, size_t count)
{
	json_t *list = json_array();

	for (size_t i = 0; i < count; i++)
		if (json_array_append_new(list, row_json(&rows[i])) < 0) {
			json_decref(list);
			return NULL;
		}
	return list;
}

static json_t *
total_json(const struct usage_total *t)
{
	return json_pack("{s:I, s:I, s:I, s:I, s:o, s:o, s:o, s:o}", "wrapped",
		(json_int_t)t->wrapped, "unwrapped", (json_int_t)t->unwrapped, "refused",
		(json_int_t)t->refused, "failed", (json_int_t)t->failed, "first",
		api_time(t->first_us), "last", api_time(t->last_us), "last_unwrapped",
		api_time(t->last_unwrapped_us), "last_refused", api_time(t->last_refused_us));
}

/* A primary wraps whenever somebody asks. What does not work any more is in use while it is still
 * asked for. */
static bool
is_in_use(const struct key *k, const struct key_version *v, const struct usage_total *t)
{
	bool works = v->state == VERSION_ENABLED;
	uint64_t last_us = works ? t->last_us : t->last_refused_us;

	if (works && v->number == k->primary)
		return true;
	return last_us > 0 && last_us + IN_USE_US > clock_real_us();
}

/* The verdict's words; proof would take what only an inventory of all ciphertexts can tell. */
static json_t *
verdict_json(const struct key *k, const struct key_version *v, const struct usage_total *t)
{
	char since[CLOCK_TEXT_SIZE];

	if (is_in_use(k, v, t))
		return json_string("in use");
	clock_format(t->last_us > 0 ? t->last_us : v->created_us, since);
	return json_sprintf("none seen since %s (no proof)", since);
}

static int
version_json(struct usage *u, const struct key *k, const struct key_version *v, json_t **ret_json)
{
	_cleanup_(str_freep) struct usage_row *rows = NULL;
	char id[UUID_TEXT_SIZE], evidence[USAGE_EVIDENCE_SIZE];
	uint64_t incomplete_us;
	struct usage_total total;
	size_t count = 0;
	/* First: a use that comes meanwhile is then shown and not bound, and refuses the end. The
	 * other way round it would be bound without having been shown. */
	int err = usage_evidence(u, &v->id, v->created_us, evidence);

	if (!err)
		err = usage_version(u, &v->id, &total);
	if (!err)
		err = usage_rows(u, &v->id, &rows, &count);
	if (err)
		return err;
	incomplete_us = usage_incomplete_for(u, v->created_us);
	uuid_format(&v->id, id);
	*ret_json = json_pack("{s:i, s:s, s:s, s:b, s:o, s:o, s:b, s:o, s:o, s:b, s:s}", "version",
		(int)v->number, "id", id, "state", version_state_name(v->state), "primary",
		v->number == k->primary, "totals", total_json(&total), "clients",
		rows_json(rows, count), "complete", incomplete_us == 0, "incomplete_since",
		api_time(incomplete_us), "verdict", verdict_json(k, v, &total), "in_use",
		is_in_use(k, v, &total), "evidence", evidence);
	return *ret_json ? 0 : -ENOMEM;
}

static json_t *
members_json(struct usage *u)
{
	json_t *list = json_array();
	struct usage_node node;

	for (size_t i = 0; usage_node(u, i, &node) == 0; i++)
		json_array_append_new(
			list, json_pack("{s:s, s:o, s:o}", "node", node.name, "as_of",
				      api_time(i > 0 ? node.time_us : clock_real_us()),
				      "incomplete_since", api_time(node.incomplete_us)));
	return list;
}

void
api_key_usage(struct request *r)
{
	_cleanup_(key_unrefp) struct key *k = api_find_key(r);
	struct usage *u = r->node->usage;
	json_t *versions, *version = NULL;
	int err = 0;

	if (!k)
		return;
	versions = json_array();
	for (size_t i = 0; !err && i < k->versions_count; i++) {
		err = version_json(u, k, &k->versions[i], &version);
		if (!err && json_array_append_new(versions, version) < 0)
			err = -ENOMEM;
	}
	if (!err) {
		request_answer_json(r, 200,
			json_pack("{s:s, s:I, s:o, s:o}", "key", k->name, "revision",
				(json_int_t)k->commit, "members", members_json(u), "versions",
				versions));
		return;
	}
	json_decref(versions);
	if (err == KEKD_ESTARTING)
		request_fail(r, err,
			"the audit log is still being read for who used what: ask again in a "
			"while");
	else
		request_fail(r, err, "no memory for the answer: ask again");
}
