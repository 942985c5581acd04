/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Usage evidence: who used which version of a key, how often, first and when last. A fold of the
 * audit log in memory. The writer feeds what has become durable; at a start the rest of the log is
 * read from the sequence number on that the store's records (usage/NODE, usage/NODE/KEY) tell of.
 * So it can never undercount, and a lost log shows: "incomplete since". doc/formats/records.md has
 * the records.
 *
 * Any thread, unless a function says otherwise; one short lock.
 */
#ifndef KEKD_USAGE_H
#define KEKD_USAGE_H

#include "kekd/audit.h"
#include "kekd/str.h"
#include "kekd/uuid.h"

enum usage_kind { USAGE_WRAPPED, USAGE_UNWRAPPED, USAGE_REFUSED, USAGE_FAILED };
#define USAGE_KINDS (USAGE_FAILED + 1)
/* "wrapped", "unwrapped", "refused", "failed" */
extern const char *const usage_kind_names[USAGE_KINDS];

struct usage_count {
	uint64_t count, first_us, last_us; /* real time; 0: never */
};

/* One client's use of one version on one node. What goes past USAGE_ROWS_MAX rows of a key is
 * counted for the version's row of client "". */
#define USAGE_ROWS_MAX 1500
struct usage_row {
	char node[STR_NAME_MAX + 1], client[STR_NAME_MAX + 1];
	struct usage_count counts[USAGE_KINDS];
};

struct usage_total { /* over all clients and nodes */
	uint64_t wrapped, unwrapped, refused, failed;
	uint64_t first_us, last_us; /* of any kind */
	uint64_t last_wrapped_us, last_unwrapped_us, last_refused_us;
};

struct usage;
int usage_open(const char *node, struct usage **ret_usage);
void usage_freep(struct usage **u);

/* ---- what is asked ---- */

/* 0, also for a version that nobody ever used; KEKD_ESTARTING while the log is still being read. */
int usage_version(struct usage *u, const struct uuid *version, struct usage_total *ret_total);
/* Sorted by client, then node; an array for free(). The same errors, and -ENOMEM. */
int usage_rows(struct usage *u, const struct uuid *version, struct usage_row **ret_rows,
	size_t *ret_count);
/* Since when records are missing, on any node; 0: the evidence is complete. */
uint64_t usage_incomplete_us(struct usage *u);
/* The same for a version made at created_us: 0 also when all that is missing is older. */
uint64_t usage_incomplete_for(struct usage *u, uint64_t created_us);
/* Hex SHA-256 over all that is known of the version's use, and since when it is incomplete. Changes
 * with every use and with nothing else. What approvals bind. The same errors. */
#define USAGE_EVIDENCE_SIZE 65
int usage_evidence(struct usage *u, const struct uuid *version, uint64_t created_us,
	char ret_hex[USAGE_EVIDENCE_SIZE]);
/* How fresh a node's figures are: i from 0; -ENOENT past the last. The first is this node. */
struct usage_node {
	char name[STR_NAME_MAX + 1];
	uint64_t time_us; /* this node: 0, they are those of now */
	uint64_t incomplete_us;
};
int usage_node(struct usage *u, size_t i, struct usage_node *ret_node);
/* Can the figures of these nodes be decided by? False with a text that names the first whose
 * cannot: it never told any, a record of it cannot be used, or what it told is older than
 * USAGE_AGE_MAX_US by the wall clocks of both. This node's own are always those of now. */
#define USAGE_AGE_MAX_US (180ull * 1000000)
bool usage_is_fresh(struct usage *u, const char (*nodes)[STR_NAME_MAX + 1], size_t count,
	uint64_t now_us, char ret_text[160]);
/* From now on every round stores the node's own record, if only for its time: other nodes are to
 * know that nothing was used. Control thread. */
void usage_tell_always(struct usage *u);

/* ---- what feeds it ---- */

/* The end of what an earlier run wrote. The audit writer, once, before anything else. */
void usage_begin(struct usage *u, uint64_t sequence, const char *head);
/* Records from first up to end (not with it) are durable, and so is all up to sequence, whose hash
 * is head. The audit writer. */
void usage_fold(struct usage *u, const struct audit_record *first, const struct audit_record *end,
	uint64_t sequence, const char *head);
/* A refusal that was only counted: no record of its own. */
void usage_count(struct usage *u, const struct audit_record *r);
/* What was only counted is in the log now. The audit writer. */
void usage_settle(struct usage *u, uint64_t sequence, const char *head);
/* Records are missing from since_us on until now: a restore. */
void usage_mark_incomplete(struct usage *u, uint64_t since_us);

/* ---- the start; one thread (control) ---- */

/* A stored record, before usage_start: path behind "usage/" ("NODE", "NODE/KEY"). body NULL: it is
 * there, but refused. What cannot be read is counted again from the log. */
void usage_load(struct usage *u, const char *path, const json_t *body);
/* All records are loaded. oldest_us: when the oldest version was made; generation: the cluster's.
 * Both borrowed for the call. */
int usage_start(struct usage *u, const char *dir, const char *generation, uint64_t oldest_us);
/* Reads some of the rest of the log. 1: there is more; 0: all is read; or -errno: tried again. */
int usage_read_some(struct usage *u);

/* ---- storing; one thread (control), after the start ---- */

/* A record to store at usage/PATH, as a new reference; NULL: nothing has changed. round: begins
 * anew with all that has changed by now; the last record of a round is the node's own. */
json_t *usage_take(struct usage *u, bool round, char ret_path[2 * STR_NAME_MAX + 2]);
/* How storing the record that was taken went: 0, or an error (it is tried in the next round). */
void usage_stored(struct usage *u, int err);
/* Up to this record of the log a start needs no file any more; 0 while the log is read. Any thread.
 */
uint64_t usage_stored_through(struct usage *u);

struct usage_status {
	bool reading;		   /* the log is still being read */
	uint64_t sequence, stored; /* folded; and through which all is stored */
	uint64_t stored_us;	   /* when that was */
	uint64_t incomplete_us;
	size_t rows, changed; /* rows in memory; keys that are not stored yet */
};
void usage_status(struct usage *u, struct usage_status *ret_status);

#endif
