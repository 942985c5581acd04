/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inventories of etcd's snapshots: which versions a Kubernetes cluster's backup needs, and until
 * when it is kept. Records snapshots/ID (doc/formats/records.md), immutable in memory with counted
 * references. Here are the records, the table and until when a backup needs what it holds; what
 * inventories say of a version is inventory.h's.
 */
#ifndef KEKD_SNAPSHOTS_H
#define KEKD_SNAPSHOTS_H

#include "kekd/json.h"
#include "kekd/str.h"
#include "kekd/uuid.h"

#define SNAPSHOTS_MAX 1000 /* those that nothing needs any more make room for new ones */
#define SNAPSHOT_VERSIONS_MAX 2000
#define SNAPSHOT_CLUSTER_MAX 253
#define SNAPSHOT_AHEAD_US (600ull * 1000000) /* hosts' clocks may differ by so much */

struct snapshot_version {
	struct uuid id;
	const char *key; /* the snapshot's */
	uint64_t live, superseded;
};

struct snapshot {
	char id[STR_NAME_MAX + 1];
	uint64_t commit;
	char cluster[SNAPSHOT_CLUSTER_MAX + 1]; /* the Kubernetes cluster: printable, no space */
	uint64_t taken_us, needed_until_us;
	char sha256[65]; /* of the file */
	uint64_t etcd_revision;
	bool complete;			   /* every value in it was read and understood */
	uint64_t plaintext;		   /* values that no provider encrypted */
	struct snapshot_version *versions; /* sorted by id */
	size_t versions_count;
	uint64_t changed_us; /* when, and by which client, it was registered or changed */
	char changed_by[STR_NAME_MAX + 1];
	uint64_t seen_s;  /* the cluster's counted time then (node_seen_s) */
	uint64_t count_s; /* so much of it is to pass before the need is over */
};

struct snapshot *snapshot_ref(struct snapshot *s);
void snapshot_unrefp(struct snapshot **s);
/* The record's body, which is also what the API takes, less "changed", "changed_by", "seen_s"
 * and "count_s".
 * Strict; 0, KEKD_EINVALID, KEKD_EMEMBER or KEKD_ENAME with a text, -ENOMEM. That the versions are
 * of their keys is the caller's to check. */
int snapshot_from_json(const char *id, const json_t *body, uint64_t commit,
	struct snapshot **ret_snapshot, char ret_error[JSON_ERROR_SIZE]);
json_t *snapshot_to_json(const struct snapshot *s);
json_t *snapshot_head_to_json(const struct snapshot *s); /* the same without "versions" */
/* The entry of a version, or NULL. */
const struct snapshot_version *snapshot_find(const struct snapshot *s, const struct uuid *version);

/* A record as of now, by clock and counted time, in the place of `before` (NULL: of none): what was
 * not counted of that one's time is not forgotten, though the clock says that it is over. */
void snapshot_begin(
	struct snapshot *s, const struct snapshot *before, uint64_t now_us, uint64_t seen_s);
/* Is what it holds needed now? Until needed_until by the wall clock, and for as long as that was
 * away when it was registered by the time that kekd has counted since: a clock that is ahead ends
 * nothing early. */
bool snapshot_is_needed(const struct snapshot *s, uint64_t now_us, uint64_t seen_s);
/* How much of that time is still to be counted, in seconds. */
uint64_t snapshot_uncounted_s(const struct snapshot *s, uint64_t seen_s);
/* Does `next` protect all that `now` does, and for as long? */
bool snapshot_covers(const struct snapshot *next, const struct snapshot *now);

struct snapshots; /* the table, sorted by id; any thread, but for changes: the control thread */
int snapshots_open(struct snapshots **ret_snapshots);
void snapshots_freep(struct snapshots **t);
/* Takes over the reference, also on failure; replaces the one of its id. 0 or -ENOMEM. */
int snapshots_publish(struct snapshots *t, struct snapshot *s);
void snapshots_remove(struct snapshots *t, const char *id);
struct snapshot *snapshots_find(struct snapshots *t, const char *id); /* a reference, or NULL */
size_t snapshots_count(struct snapshots *t);
/* Up to limit with ids after `after` (NULL: from the first), as references; how many. */
size_t snapshots_list(
	struct snapshots *t, const char *after, size_t limit, struct snapshot **ret_list);
/* All of them at one moment. */
struct snapshot_list {
	struct snapshot **s;
	size_t count;
};
int snapshots_all(struct snapshots *t, struct snapshot_list *ret_list); /* 0 or -ENOMEM */
void snapshot_list_free(struct snapshot_list *list);			/* for _cleanup_ */

#endif
