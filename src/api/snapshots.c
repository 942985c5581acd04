/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inventories of etcd's snapshots as a resource: list, read, register, change, forget. What a
 * registered backup needs is not given up by the grant that registers it: to forget one before its
 * time, or to change it so that it protects less, takes cluster.write as well.
 */
#include "api.h"

#include "kekd/clock.h"
#include "kekd/inventory.h"

#include <errno.h>
#include <string.h>

#define NAMED_MAX 20 /* versions that the audit log names of what was lifted */

/* ---- as JSON ---- */

static json_t *
state_json(struct node *n, const struct snapshot_version *v, json_t **ret_number)
{
	_cleanup_(key_unrefp) struct key *k = keyring_find(n->keyring, v->key);
	const struct key_version *kv = k ? key_find_version_id(k, &v->id) : NULL;

	*ret_number = kv ? json_integer(kv->number) : json_null();
	return kv ? json_string(version_state_name(kv->state)) : json_null();
}

/* What the keyring says of them now. */
static void
add_states(struct node *n, const struct snapshot *s, json_t *versions)
{
	json_t *row, *number, *state;
	size_t i;

	json_array_foreach(versions, i, row) {
		state = state_json(n, &s->versions[i], &number);
		json_object_set_new(row, "version", number);
		json_object_set_new(row, "state", state);
	}
}

static bool
is_needed(struct node *n, const struct snapshot *s)
{
	return snapshot_is_needed(s, clock_real_us(), node_seen_s(n));
}

static bool
is_refused(struct node *n, const struct snapshot *s)
{
	char ignored[JSON_ERROR_SIZE];

	return api_record_refused(n, "snapshot", s->id, false, ignored);
}

/* whole: with its versions, of which there may be thousands. */
static json_t *
snapshot_json(struct node *n, const struct snapshot *s, bool whole)
{
	json_t *value = whole ? snapshot_to_json(s) : snapshot_head_to_json(s);

	if (!value)
		return NULL;
	json_object_del(value, "seen_s");
	json_object_del(value, "count_s");
	if (whole)
		add_states(n, s, json_object_get(value, "versions"));
	if (json_object_set_new(
		    value, "versions_count", json_integer((json_int_t)s->versions_count)) < 0 ||
		json_object_set_new(value, "needed", json_boolean(is_needed(n, s))) < 0 ||
		json_object_set_new(value, "uncounted_s",
			json_integer((json_int_t)snapshot_uncounted_s(s, node_seen_s(n)))) < 0 ||
		json_object_set_new(value, "revision", json_integer((json_int_t)s->commit)) < 0 ||
		json_object_set_new(value, "refused", json_boolean(is_refused(n, s))) < 0) {
		json_decref(value);
		return NULL;
	}
	return value;
}

static void
answer_snapshot(struct request *r, int status, const struct snapshot *s)
{
	json_t *value = snapshot_json(r->node, s, true);

	if (!value) {
		request_fail(r, -ENOMEM, "no memory for the answer: ask again");
		return;
	}
	api_set_etag(r, s->commit);
	request_answer_json(r, status, value);
}

static json_t *
list_json(struct node *n, struct snapshot *const *list, size_t count, bool more)
{
	json_t *values = json_array();

	for (size_t i = 0; i < count; i++)
		if (json_array_append_new(values, snapshot_json(n, list[i], false)) < 0) {
			json_decref(values);
			return NULL;
		}
	return json_pack("{s:o, s:o}", "snapshots", values, "next",
		more ? json_string(list[count - 1]->id) : json_null());
}

void
api_snapshot_list(struct request *r)
{
	_cleanup_(str_freep) struct snapshot **list = NULL;
	const char *after;
	size_t limit, count;
	json_t *value = NULL;

	if (api_page(r, &after, &limit) < 0)
		return;
	list = calloc(limit + 1, sizeof(struct snapshot *));
	if (list) {
		count = snapshots_list(r->node->snapshots, after, limit + 1, list);
		value = list_json(r->node, list, count > limit ? limit : count, count > limit);
		for (size_t i = 0; i < count; i++)
			snapshot_unrefp(&list[i]);
	}
	if (value)
		request_answer_json(r, 200, value);
	else
		request_fail(
			r, -ENOMEM, "no memory for the answer: ask again, for fewer snapshots");
}

/* 0, or there is no record of this id to change. */
static int
check(struct node *n, const char *id, const struct snapshot *s, char ret_error[JSON_ERROR_SIZE])
{
	if (api_record_refused(n, "snapshot", id, false, ret_error))
		return KEKD_ERECORD;
	if (s)
		return 0;
	snprintf(ret_error, JSON_ERROR_SIZE, "snapshot \"%.64s\" is not registered", id);
	return KEKD_ENOSNAPSHOT;
}

void
api_snapshot_get(struct request *r)
{
	_cleanup_(snapshot_unrefp) struct snapshot *s = snapshots_find(
		r->node->snapshots, r->params[0]);
	char error[JSON_ERROR_SIZE];
	int err = s ? 0 : check(r->node, r->params[0], s, error);

	if (err < 0)
		request_fail(r, err, "%s", error);
	else
		answer_snapshot(r, 200, s);
}

/* ---- changes ---- */

/* May this record, as it is now (NULL: there is none), be changed under the request's condition? */
static int
may_change(struct request *r, const struct snapshot *now, char ret_error[JSON_ERROR_SIZE])
{
	int err = check(r->node, r->params[0], now, ret_error);

	if (r->if_none_match_given && err == KEKD_ENOSNAPSHOT)
		return 0;
	if (err < 0)
		return err;
	if (r->if_none_match_given) {
		snprintf(ret_error, JSON_ERROR_SIZE,
			"snapshot \"%s\" is registered already, at revision %llu", now->id,
			(unsigned long long)now->commit);
		return KEKD_EPRECONDITION;
	}
	if (r->if_match != STORE_ANY && r->if_match != now->commit) {
		snprintf(ret_error, JSON_ERROR_SIZE,
			"snapshot \"%s\" is at revision %llu by now: read it again", now->id,
			(unsigned long long)now->commit);
		return KEKD_EPRECONDITION;
	}
	return 0;
}

/* What the record protects is given up: that is more than keeping the list of backups. next NULL:
 * it is forgotten. */
static int
may_lift(struct request *r, const struct snapshot *now, const struct snapshot *next,
	char ret_error[JSON_ERROR_SIZE])
{
	char until[CLOCK_TEXT_SIZE];

	if (!now || now->versions_count == 0 || !is_needed(r->node, now) ||
		(next && snapshot_covers(next, now)) ||
		client_authorise(r->client, ACCESS_CLUSTER_WRITE, NULL) == 0)
		return 0;
	clock_format(now->needed_until_us, until);
	snprintf(ret_error, JSON_ERROR_SIZE,
		"backup \"%s\" is needed until %s: to %s before takes the grant cluster.write",
		now->id, until, next ? "protect less of it" : "forget it");
	return KEKD_EFORBIDDEN;
}

/* The detail of the audit record of what protects less than before. */
static json_t *
lifted_json(struct node *n, const struct snapshot *now, const struct snapshot *next)
{
	json_t *list = json_array(), *number;

	if (!is_needed(n, now))
		return list;
	for (size_t i = 0; i < now->versions_count && json_array_size(list) < NAMED_MAX; i++) {
		const struct snapshot_version *v = &now->versions[i];
		char id[UUID_TEXT_SIZE];

		if (next && next->needed_until_us >= now->needed_until_us &&
			snapshot_find(next, &v->id))
			continue;
		uuid_format(&v->id, id);
		json_decref(state_json(n, v, &number));
		json_array_append_new(list,
			json_pack("{s:s, s:o, s:s}", "key", v->key, "version", number, "id", id));
	}
	return list;
}

static int
check_versions(struct node *n, const struct snapshot *s, char ret_error[JSON_ERROR_SIZE])
{
	char id[UUID_TEXT_SIZE];

	for (size_t i = 0; i < s->versions_count; i++) {
		const struct snapshot_version *v = &s->versions[i];
		_cleanup_(key_unrefp) struct key *k = keyring_find(n->keyring, v->key);

		if (k && key_find_version_id(k, &v->id))
			continue;
		uuid_format(&v->id, id);
		snprintf(ret_error, JSON_ERROR_SIZE,
			"key \"%s\" has no version %s, and never had: the snapshot is of another "
			"kekd, or the key has another name",
			v->key, id);
		return k ? KEKD_ENOVERSION : KEKD_ENOKEY;
	}
	return 0;
}

static int
check_times(const struct snapshot *s, uint64_t now_us, char ret_error[JSON_ERROR_SIZE])
{
	if (s->taken_us > now_us + SNAPSHOT_AHEAD_US)
		snprintf(ret_error, JSON_ERROR_SIZE,
			"member \"taken\" is more than ten minutes from now: see to the clocks");
	else if (s->needed_until_us > now_us + CLOCK_DURATION_MAX_S * 1000000)
		snprintf(ret_error, JSON_ERROR_SIZE,
			"member \"needed_until\" is more than 100 years from now");
	else
		return 0;
	return KEKD_EINVALID;
}

/* The record is a client's to write, but for what the server alone says of it. */
static int
read_body(struct request *r, struct snapshot **ret_snapshot, char ret_error[JSON_ERROR_SIZE])
{
	static const char *const told[] = { "changed", "changed_by", "seen_s", "count_s" };
	struct snapshot *s;
	int err;

	for (size_t i = 0; i < STR_COUNT(told); i++)
		if (json_object_get(r->body, told[i])) {
			snprintf(ret_error, JSON_ERROR_SIZE,
				"member \"%s\" is the server's: leave it out", told[i]);
			return KEKD_EMEMBER;
		}
	err = snapshot_from_json(r->params[0], r->body, 0, &s, ret_error);
	if (err < 0)
		return err;
	err = check_times(s, clock_real_us(), ret_error);
	if (err == 0)
		err = check_versions(r->node, s, ret_error);
	if (err == 0)
		*ret_snapshot = s;
	else
		snapshot_unrefp(&s);
	return err;
}

static bool
is_newest(const struct inventory *i, const struct snapshot *s)
{
	for (size_t n = 0; n < i->newest_count; n++)
		if (i->newest[n] == s)
			return true;
	return false;
}

/* When the table is full: the one whose time ended first, but for each cluster's newest, which is
 * still its inventory. NULL: there is room. */
static int
find_room(struct node *n, struct snapshot **ret_old, char ret_error[JSON_ERROR_SIZE])
{
	_cleanup_(inventory_free) struct inventory i = { 0 };
	struct snapshot *old = NULL;

	if (snapshots_count(n->snapshots) < SNAPSHOTS_MAX)
		return 0;
	if (inventory_open(n->snapshots, NULL, &i) < 0) {
		snprintf(ret_error, JSON_ERROR_SIZE, "no memory: ask again");
		return -ENOMEM;
	}
	for (size_t k = 0; k < i.all.count; k++)
		if (!is_newest(&i, i.all.s[k]) && !is_needed(n, i.all.s[k]) &&
			(!old || i.all.s[k]->needed_until_us < old->needed_until_us))
			old = i.all.s[k];
	if (!old) {
		snprintf(ret_error, JSON_ERROR_SIZE,
			"%d snapshots are registered, and all are needed: forget some (\"kekctl "
			"snapshot forget\"), or wait until one's needed_until passes",
			SNAPSHOTS_MAX);
		return KEKD_ESNAPSHOTSFULL;
	}
	*ret_old = snapshot_ref(old);
	return 0;
}

static void
snapshot_path(const char *id, char ret_path[STORE_PATH_MAX + 1])
{
	snprintf(ret_path, STORE_PATH_MAX + 1, "snapshots/%s", id);
}

/* One commit: the record, the counted time that it begins at, and what makes room for it. */
static int
commit(struct request *r, const struct snapshot *now, struct snapshot *next,
	const struct snapshot *old, char ret_error[JSON_ERROR_SIZE])
{
	_cleanup_(json_freep) json_t *body = snapshot_to_json(next);
	char path[STORE_PATH_MAX + 1], old_path[STORE_PATH_MAX + 1];
	struct sealed_change changes[3] = { { path, now ? now->commit : 0, body } };
	int err = body ? node_seen_change(r->node, &changes[1]) : -ENOMEM;

	if (err < 0)
		return err;
	snapshot_path(next->id, path);
	if (old) {
		snapshot_path(old->id, old_path);
		changes[2] = (struct sealed_change){ old_path, old->commit, NULL };
	}
	err = sealed_commit(r->node->sealed, changes, old ? 3 : 2, &next->commit);
	if (err == 0)
		node_seen_stored(r->node, &changes[1]);
	else
		snprintf(ret_error, JSON_ERROR_SIZE, "snapshot \"%s\" was not registered: %s",
			next->id, kekd_strerror(err));
	json_decref(changes[1].body);
	return err;
}

static int
put(struct request *r, const struct snapshot *now, struct snapshot *next,
	char ret_error[JSON_ERROR_SIZE])
{
	_cleanup_(snapshot_unrefp) struct snapshot *old = NULL;
	struct node *n = r->node;
	int err = now ? 0 : find_room(n, &old, ret_error);

	if (err < 0)
		return err;
	snapshot_begin(next, now, clock_real_us(), node_seen_s(n));
	snprintf(next->changed_by, sizeof(next->changed_by), "%s", r->client->name);
	err = commit(r, now, next, old, ret_error);
	if (err < 0)
		return err;
	if (old)
		snapshots_remove(n->snapshots, old->id);
	err = snapshots_publish(n->snapshots, snapshot_ref(next));
	if (err < 0)
		snprintf(ret_error, JSON_ERROR_SIZE,
			"the record is stored, but takes effect at the next start only: %s",
			kekd_strerror(err));
	api_set_detail(r, json_pack("{s:s, s:s, s:b, s:I, s:O, s:I, s:o, s:o}", "snapshot",
				  next->id, "cluster", next->cluster, "created", !now,
				  "versions_count", (json_int_t)next->versions_count,
				  "needed_until", json_object_get(r->body, "needed_until"),
				  "revision", (json_int_t)next->commit, "lifted",
				  now ? lifted_json(n, now, next) : json_array(), "made_room",
				  old ? json_string(old->id) : json_null()));
	return err;
}

void
api_snapshot_put(struct request *r)
{
	_cleanup_(snapshot_unrefp) struct snapshot *now = NULL;
	_cleanup_(snapshot_unrefp) struct snapshot *next = NULL;
	char error[JSON_ERROR_SIZE] = "";
	int err = read_body(r, &next, error);

	if (err == 0) {
		now = snapshots_find(r->node->snapshots, r->params[0]);
		err = may_change(r, now, error);
	}
	if (err == 0)
		err = may_lift(r, now, next, error);
	if (err == 0)
		err = put(r, now, next, error);
	if (err < 0)
		request_fail(r, err, "%s", *error ? error : kekd_strerror(err));
	else
		answer_snapshot(r, now ? 200 : 201, next);
}

void
api_snapshot_delete(struct request *r)
{
	_cleanup_(snapshot_unrefp) struct snapshot *now = snapshots_find(
		r->node->snapshots, r->params[0]);
	_cleanup_(json_freep) json_t *lifted = NULL;
	char error[JSON_ERROR_SIZE] = "", path[STORE_PATH_MAX + 1];
	struct sealed_change change = { .path = path };
	uint64_t number = 0;
	int err = may_change(r, now, error);

	if (err == 0)
		err = may_lift(r, now, NULL, error);
	if (err == 0) {
		lifted = lifted_json(r->node, now, NULL);
		snapshot_path(now->id, path);
		change.expected = now->commit;
		err = sealed_commit(r->node->sealed, &change, 1, &number);
		if (err < 0)
			snprintf(error, sizeof(error), "snapshot \"%s\" was not forgotten: %s",
				now->id, kekd_strerror(err));
	}
	if (err < 0) {
		request_fail(r, err, "%s", error);
		return;
	}
	snapshots_remove(r->node->snapshots, now->id);
	api_set_detail(
		r, json_pack("{s:s, s:s, s:b, s:b, s:o, s:O, s:I}", "snapshot", now->id, "cluster",
			   now->cluster, "deleted", true, "needed", (int)is_needed(r->node, now),
			   "needed_until", api_time(now->needed_until_us), "lifted", lifted,
			   "revision", (json_int_t)number));
	request_answer_json(r, 200,
		json_pack("{s:s, s:b, s:O, s:I}", "id", now->id, "deleted", true, "lifted", lifted,
			"revision", (json_int_t)number));
}
