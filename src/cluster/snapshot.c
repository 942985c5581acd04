/* SPDX-License-Identifier: Apache-2.0 */
/* One inventory of an etcd snapshot: the record, and until when the backup needs what is in it. */
#include "kekd/snapshots.h"

#include "kekd/clock.h"
#include "kekd/err.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

/* What the public part stands in. */
struct record {
	struct snapshot s;
	atomic_uint references;
};

struct snapshot *
snapshot_ref(struct snapshot *s)
{
	atomic_fetch_add(&((struct record *)s)->references, 1);
	return s;
}

/* Entries of one key share its name: the owner is the first by order of the body. */
struct names {
	char **list;
	size_t count;
};

/* The names stand in front of the entries' array, as in free_versions. */
struct versions {
	struct names names;
	struct snapshot_version list[];
};

static struct versions *
versions_of(struct snapshot *s)
{
	return s->versions ? (struct versions *)(void *)((char *)s->versions -
							 offsetof(struct versions, list))
			   : NULL;
}

static void
free_versions(struct snapshot *s)
{
	struct versions *v = versions_of(s);

	for (size_t i = 0; v && i < v->names.count; i++)
		free(v->names.list[i]);
	if (v)
		free(v->names.list);
	free(v);
}

void
snapshot_unrefp(struct snapshot **snapshot)
{
	struct snapshot *s = *snapshot;

	*snapshot = NULL;
	if (!s || atomic_fetch_sub(&((struct record *)s)->references, 1) != 1)
		return;
	free_versions(s);
	free(s);
}

/* ---- the record ---- */

static bool
is_cluster(const char *text)
{
	size_t len = strnlen(text, SNAPSHOT_CLUSTER_MAX + 1);

	for (size_t i = 0; i < len; i++)
		if (text[i] <= ' ' || text[i] > '~')
			return false;
	return len > 0 && len <= SNAPSHOT_CLUSTER_MAX;
}

/* The key's name, owned by the list. */
static const char *
keep_name(struct names *n, const char *name)
{
	if (n->count > 0 && strcmp(n->list[n->count - 1], name) == 0)
		return n->list[n->count - 1];
	n->list[n->count] = strdup(name);
	return n->list[n->count] ? n->list[n->count++] : NULL;
}

static int
take_version(const json_t *body, size_t i, struct names *names, struct snapshot_version *v,
	char ret_error[JSON_ERROR_SIZE])
{
	const char *key = NULL, *id = NULL;
	int64_t live = 0, superseded = 0;
	const struct json_member members[] = {
		{ "key", JSON_KIND_STRING, true, &key },
		{ "version_id", JSON_KIND_STRING, true, &id },
		{ "live", JSON_KIND_INTEGER, true, &live },
		{ "superseded", JSON_KIND_INTEGER, true, &superseded },
	};
	char text[JSON_ERROR_SIZE];
	int err = json_take(body, members, STR_COUNT(members), text);

	if (err) {
		snprintf(ret_error, JSON_ERROR_SIZE, "member \"versions\"[%zu]: %.150s", i, text);
		return err;
	}
	if (!str_is_name(key))
		return json_refuse(
			ret_error, "member \"versions\"[%zu].\"key\" is no key's name", i);
	if (uuid_parse(id, &v->id) != 0)
		return json_refuse(
			ret_error, "member \"versions\"[%zu].\"version_id\" is no UUID", i);
	if (live == 0 && superseded == 0)
		return json_refuse(ret_error,
			"member \"versions\"[%zu] has no values: leave the version out", i);
	v->key = keep_name(names, key);
	v->live = (uint64_t)live;
	v->superseded = (uint64_t)superseded;
	return v->key ? 0 : -ENOMEM;
}

static int
by_id(const void *a, const void *b)
{
	return memcmp(a, b, sizeof(struct uuid)); /* the first member of both */
}

static int
take_versions(struct snapshot *s, const json_t *array, char ret_error[JSON_ERROR_SIZE])
{
	size_t n = json_array_size(array);
	struct versions *v;
	int err = 0;

	if (n > SNAPSHOT_VERSIONS_MAX)
		return json_refuse(ret_error, "member \"versions\" has more than %d entries",
			SNAPSHOT_VERSIONS_MAX);
	v = calloc(1, sizeof(*v) + n * sizeof(v->list[0]));
	if (!v)
		return -ENOMEM;
	s->versions = v->list; /* transferred */
	v->names.list = calloc(n + 1, sizeof(*v->names.list));
	if (!v->names.list)
		return -ENOMEM;
	for (size_t i = 0; !err && i < n; i++)
		err = take_version(json_array_get(array, i), i, &v->names, &v->list[i], ret_error);
	if (err)
		return err;
	s->versions_count = n;
	qsort(v->list, n, sizeof(v->list[0]), by_id);
	for (size_t i = 1; i < n; i++)
		if (by_id(&v->list[i - 1], &v->list[i]) == 0)
			return json_refuse(ret_error, "member \"versions\" has a version twice");
	return 0;
}

static int
take_times(struct snapshot *s, const char *taken, const char *until, const char *changed,
	char ret_error[JSON_ERROR_SIZE])
{
	static const char text[] = "member \"%s\" must be a time such as 2026-01-31T12:00:00Z";

	if (clock_parse(taken, &s->taken_us) < 0)
		return json_refuse(ret_error, text, "taken");
	if (clock_parse(until, &s->needed_until_us) < 0)
		return json_refuse(ret_error, text, "needed_until");
	if (changed && clock_parse(changed, &s->changed_us) < 0)
		return json_refuse(ret_error, text, "changed");
	if (s->needed_until_us <= s->taken_us)
		return json_refuse(ret_error, "member \"needed_until\" must be after \"taken\"");
	return 0;
}

static int
check_texts(const struct snapshot *s, const char *id, const char *cluster, const char *sha256,
	const char *changed_by, char ret_error[JSON_ERROR_SIZE])
{
	uint8_t digest[32];

	if (strcmp(id, s->id) != 0)
		return json_refuse(ret_error, "member \"id\" differs from the snapshot's id");
	if (!is_cluster(cluster))
		return json_refuse(ret_error,
			"member \"cluster\" must be 1 to %d printable characters without spaces",
			SNAPSHOT_CLUSTER_MAX);
	if (str_unhex(sha256, digest, sizeof(digest)) < 0)
		return json_refuse(ret_error,
			"member \"sha256\" must be the SHA-256 of the file in 64 lower-case hex "
			"digits");
	if (*changed_by && !str_is_name(changed_by))
		return json_refuse(ret_error, "member \"changed_by\" is no name");
	return 0;
}

static int
fill(struct snapshot *s, const json_t *body, char ret_error[JSON_ERROR_SIZE])
{
	const char *id = s->id, *cluster = NULL, *taken = NULL, *until = NULL, *sha256 = NULL,
		   *changed = NULL, *changed_by = "";
	int64_t revision = 0, plaintext = 0, seen = 0, count = 0;
	json_t *versions = NULL;
	const struct json_member members[] = {
		{ "id", JSON_KIND_STRING, false, &id },
		{ "cluster", JSON_KIND_STRING, true, &cluster },
		{ "taken", JSON_KIND_STRING, true, &taken },
		{ "needed_until", JSON_KIND_STRING, true, &until },
		{ "sha256", JSON_KIND_STRING, true, &sha256 },
		{ "etcd_revision", JSON_KIND_INTEGER, true, &revision },
		{ "complete", JSON_KIND_BOOL, true, &s->complete },
		{ "plaintext", JSON_KIND_INTEGER, true, &plaintext },
		{ "versions", JSON_KIND_ARRAY, true, &versions },
		{ "changed", JSON_KIND_STRING, false, &changed },
		{ "changed_by", JSON_KIND_STRING, false, &changed_by },
		{ "seen_s", JSON_KIND_INTEGER, false, &seen },
		{ "count_s", JSON_KIND_INTEGER, false, &count },
	};
	int err = json_take(body, members, STR_COUNT(members), ret_error);

	if (!err)
		err = check_texts(s, id, cluster, sha256, changed_by, ret_error);
	if (!err)
		err = take_times(s, taken, until, changed, ret_error);
	if (!err && revision == 0)
		err = json_refuse(ret_error, "member \"etcd_revision\" must be 1 or more");
	if (err)
		return err;
	snprintf(s->cluster, sizeof(s->cluster), "%s", cluster);
	snprintf(s->sha256, sizeof(s->sha256), "%s", sha256);
	snprintf(s->changed_by, sizeof(s->changed_by), "%s", changed_by);
	s->etcd_revision = (uint64_t)revision;
	s->plaintext = (uint64_t)plaintext;
	s->seen_s = (uint64_t)seen;
	s->count_s = (uint64_t)count;
	return take_versions(s, versions, ret_error);
}

int
snapshot_from_json(const char *id, const json_t *body, uint64_t commit,
	struct snapshot **ret_snapshot, char ret_error[JSON_ERROR_SIZE])
{
	struct record *r;
	struct snapshot *s;
	int err;

	if (!str_is_name(id)) {
		json_refuse(ret_error,
			"the snapshot's id must be 1 to 64 of a-z, 0-9, \".\", \"_\" and "
			"\"-\", and start and end with a letter or digit");
		return KEKD_ENAME;
	}
	r = calloc(1, sizeof(*r));
	if (!r)
		return -ENOMEM;
	s = &r->s;
	atomic_init(&r->references, 1);
	snprintf(s->id, sizeof(s->id), "%s", id);
	s->commit = commit;
	err = fill(s, body, ret_error);
	if (err) {
		snapshot_unrefp(&s);
		return err;
	}
	*ret_snapshot = s;
	return 0;
}

static json_t *
versions_json(const struct snapshot *s)
{
	json_t *list = json_array();
	char id[UUID_TEXT_SIZE];

	for (size_t i = 0; i < s->versions_count; i++) {
		const struct snapshot_version *v = &s->versions[i];
		uuid_format(&v->id, id);
		if (json_array_append_new(
			    list, json_pack("{s:s, s:s, s:I, s:I}", "key", v->key, "version_id", id,
					  "live", (json_int_t)v->live, "superseded",
					  (json_int_t)v->superseded)) < 0) {
			json_decref(list);
			return NULL;
		}
	}
	return list;
}

json_t *
snapshot_head_to_json(const struct snapshot *s)
{
	char taken[CLOCK_TEXT_SIZE], until[CLOCK_TEXT_SIZE], changed[CLOCK_TEXT_SIZE];

	clock_format(s->taken_us, taken);
	clock_format(s->needed_until_us, until);
	clock_format(s->changed_us, changed);
	return json_pack("{s:s, s:s, s:s, s:s, s:s, s:I, s:b, s:I, s:s, s:s, s:I, s:I}", "id",
		s->id, "cluster", s->cluster, "taken", taken, "needed_until", until, "sha256",
		s->sha256, "etcd_revision", (json_int_t)s->etcd_revision, "complete",
		(int)s->complete, "plaintext", (json_int_t)s->plaintext, "changed", changed,
		"changed_by", s->changed_by, "seen_s", (json_int_t)s->seen_s, "count_s",
		(json_int_t)s->count_s);
}

json_t *
snapshot_to_json(const struct snapshot *s)
{
	json_t *body = snapshot_head_to_json(s);

	if (body && json_object_set_new(body, "versions", versions_json(s)) < 0) {
		json_decref(body);
		return NULL;
	}
	return body;
}

const struct snapshot_version *
snapshot_find(const struct snapshot *s, const struct uuid *version)
{
	return s->versions_count > 0 ? bsearch(version, s->versions, s->versions_count,
					       sizeof(*s->versions), by_id)
				     : NULL;
}

/* ---- until when ---- */

uint64_t
snapshot_uncounted_s(const struct snapshot *s, uint64_t seen_s)
{
	uint64_t counted_s = seen_s > s->seen_s ? seen_s - s->seen_s : 0;

	return s->count_s > counted_s ? s->count_s - counted_s : 0;
}

static uint64_t
seconds_from(uint64_t from_us, uint64_t to_us)
{
	return to_us > from_us ? (to_us - from_us + 999999) / 1000000 : 0;
}

void
snapshot_begin(struct snapshot *s, const struct snapshot *before, uint64_t now_us, uint64_t seen_s)
{
	uint64_t left_s;

	s->changed_us = now_us;
	s->seen_s = seen_s;
	s->count_s = seconds_from(now_us, s->needed_until_us);
	if (!before || s->needed_until_us < before->needed_until_us)
		return;
	left_s = snapshot_uncounted_s(before, seen_s) +
		 seconds_from(before->needed_until_us, s->needed_until_us);
	if (snapshot_is_needed(before, now_us, seen_s) && left_s > s->count_s)
		s->count_s = left_s;
}

bool
snapshot_is_needed(const struct snapshot *s, uint64_t now_us, uint64_t seen_s)
{
	return now_us < s->needed_until_us || snapshot_uncounted_s(s, seen_s) > 0;
}

bool
snapshot_covers(const struct snapshot *next, const struct snapshot *now)
{
	if (next->needed_until_us < now->needed_until_us)
		return false;
	for (size_t i = 0; i < now->versions_count; i++)
		if (!snapshot_find(next, &now->versions[i].id))
			return false;
	return true;
}
