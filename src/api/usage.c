/* SPDX-License-Identifier: Apache-2.0 */
/*
 * GET /v1/keys/{key}/usage: who used which version, which registered backups need it, and what that
 * says of destroying it. What is counted is usage.h's, what backups say inventory.h's.
 */
#include "api.h"

#include "kekd/clock.h"
#include "kekd/inventory.h"
#include "kekd/usage.h"

#include <errno.h>
#include <string.h>

#define DAY_US (86400ull * 1000000)
#define IN_USE_US (30 * DAY_US) /* silent for longer: said to be not seen since */
#define BACKUPS_MAX 20		/* that are shown of a version, those needed for longest first */

/* What all versions of a key are judged by. */
struct view {
	struct node *node;
	const struct key *key;
	struct inventory inventory;
	bool doubted; /* a record of a snapshot cannot be read */
	bool fresh;   /* what every member has seen counts, up to now */
	uint64_t now_us, seen_s;
};

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
verdict_json(
	const struct key *k, const struct key_version *v, const struct usage_total *t, bool clean)
{
	char since[CLOCK_TEXT_SIZE];

	if (is_in_use(k, v, t))
		return json_string("in use");
	if (clean)
		return json_string("inventory clean");
	clock_format(t->last_us > 0 ? t->last_us : v->created_us, since);
	return json_sprintf("none seen since %s (no proof)", since);
}

/* ---- backups ---- */

int
api_evidence(struct node *n, const struct key_version *v, char ret_hex[USAGE_EVIDENCE_SIZE])
{
	_cleanup_(snapshot_list_free) struct snapshot_list all = { 0 };
	char usage[USAGE_EVIDENCE_SIZE];
	int err = snapshots_all(n->snapshots, &all);

	if (err == 0)
		err = usage_evidence(n->usage, &v->id, v->created_us, usage);
	return err < 0 ? err : inventory_evidence(&all, &v->id, usage, ret_hex);
}

/* Whether it is clean, as "inventory" tells it. */
static json_t *
inventory_json(const struct view *w, const struct key_version *v, const struct usage_total *t,
	bool complete, bool *ret_clean)
{
	const struct inventory_facts facts = { .key = w->key,
		.version = v,
		.usage = t,
		.usage_complete = complete && w->fresh,
		.now_us = w->now_us,
		.seen_s = w->seen_s };
	char why[INVENTORY_WHY_SIZE] = "the record of a registered snapshot cannot be read";

	*ret_clean = !w->doubted && inventory_is_clean(&w->inventory, &facts, why);
	return json_pack("{s:b, s:o}", "clean", (int)*ret_clean, "reason",
		*ret_clean ? json_null() : json_string(why));
}

static int
longest_first(const void *a, const void *b)
{
	const struct snapshot *x = *(struct snapshot *const *)a, *y = *(struct snapshot *const *)b;

	if (x->needed_until_us != y->needed_until_us)
		return x->needed_until_us > y->needed_until_us ? -1 : 1;
	return strcmp(x->id, y->id);
}

static json_t *
backup_json(const struct view *w, const struct snapshot *s, const struct key_version *v)
{
	const struct snapshot_version *entry = snapshot_find(s, &v->id);

	return json_pack("{s:s, s:s, s:o, s:o, s:b, s:I, s:I}", "id", s->id, "cluster", s->cluster,
		"taken", api_time(s->taken_us), "needed_until", api_time(s->needed_until_us),
		"needed", (int)snapshot_is_needed(s, w->now_us, w->seen_s), "live",
		(json_int_t)entry->live, "superseded", (json_int_t)entry->superseded);
}

/* The registered backups that have the version, and how many there are. */
static json_t *
backups_json(const struct view *w, const struct key_version *v, size_t *ret_count)
{
	struct snapshot **having = calloc(w->inventory.all.count + 1, sizeof(*having));
	json_t *list = json_array();
	size_t n = 0;

	for (size_t i = 0; having && i < w->inventory.all.count; i++)
		if (snapshot_find(w->inventory.all.s[i], &v->id))
			having[n++] = w->inventory.all.s[i];
	if (n > 1)
		qsort(having, n, sizeof(*having), longest_first);
	for (size_t i = 0; i < n && i < BACKUPS_MAX; i++)
		json_array_append_new(list, backup_json(w, having[i], v));
	*ret_count = n;
	free(having);
	return list;
}

static int
add_backups(const struct view *w, const struct key_version *v, const struct usage_total *t,
	json_t *version)
{
	bool complete = json_is_true(json_object_get(version, "complete")), clean = false;
	const struct snapshot *longest = inventory_needed_by(
		&w->inventory.all, &v->id, w->now_us, w->seen_s);
	size_t count;
	int err = 0;

	err |= json_object_set_new(version, "backups", backups_json(w, v, &count));
	err |= json_object_set_new(version, "backups_count", json_integer((json_int_t)count));
	err |= json_object_set_new(
		version, "needed_by", longest ? json_string(longest->id) : json_null());
	err |= json_object_set_new(
		version, "needed_until", api_time(longest ? longest->needed_until_us : 0));
	err |= json_object_set_new(version, "inventory", inventory_json(w, v, t, complete, &clean));
	err |= json_object_set_new(version, "verdict", verdict_json(w->key, v, t, clean));
	return err ? -ENOMEM : 0;
}

static int
version_json(const struct view *w, const struct key_version *v, json_t **ret_json)
{
	_cleanup_(str_freep) struct usage_row *rows = NULL;
	char id[UUID_TEXT_SIZE], evidence[USAGE_EVIDENCE_SIZE], used[USAGE_EVIDENCE_SIZE];
	struct usage *u = w->node->usage;
	const struct key *k = w->key;
	uint64_t incomplete_us;
	struct usage_total total;
	size_t count = 0;
	/* First: a use that comes meanwhile is then shown and not bound, and refuses the end. The
	 * other way round it would be bound without having been shown. */
	int err = usage_evidence(u, &v->id, v->created_us, used);

	if (!err)
		err = inventory_evidence(&w->inventory.all, &v->id, used, evidence);
	if (!err)
		err = usage_version(u, &v->id, &total);
	if (!err)
		err = usage_rows(u, &v->id, &rows, &count);
	if (err)
		return err;
	incomplete_us = usage_incomplete_for(u, v->created_us);
	uuid_format(&v->id, id);
	*ret_json = json_pack("{s:i, s:s, s:s, s:b, s:o, s:o, s:b, s:o, s:b, s:s}", "version",
		(int)v->number, "id", id, "state", version_state_name(v->state), "primary",
		v->number == k->primary, "totals", total_json(&total), "clients",
		rows_json(rows, count), "complete", incomplete_us == 0, "incomplete_since",
		api_time(incomplete_us), "in_use", is_in_use(k, v, &total), "evidence", evidence);
	if (!*ret_json)
		return -ENOMEM;
	err = add_backups(w, v, &total, *ret_json);
	if (err < 0) {
		json_decref(*ret_json);
		*ret_json = NULL;
	}
	return err;
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

static int
open_view(struct node *n, const struct key *k, struct view *w)
{
	char path[STORE_PATH_MAX + 1], stale[160];
	struct cluster c;

	node_cluster(n, &c);
	*w = (struct view){ .node = n,
		.key = k,
		.doubted = node_doubts_snapshots(n, path),
		.now_us = clock_real_us(),
		.seen_s = node_seen_s(n) };
	w->fresh = usage_is_fresh(n->usage, (const char(*)[STR_NAME_MAX + 1]) c.members,
		c.members_count, w->now_us, stale);
	return inventory_open(n->snapshots, k, &w->inventory);
}

void
api_key_usage(struct request *r)
{
	_cleanup_(key_unrefp) struct key *k = api_find_key(r);
	struct usage *u = r->node->usage;
	json_t *versions, *version = NULL;
	struct view view;
	int err;

	if (!k)
		return;
	err = open_view(r->node, k, &view);
	versions = json_array();
	for (size_t i = 0; !err && i < k->versions_count; i++) {
		err = version_json(&view, &k->versions[i], &version);
		if (!err && json_array_append_new(versions, version) < 0)
			err = -ENOMEM;
	}
	inventory_free(&view.inventory);
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
