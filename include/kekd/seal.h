/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The sealed store: what the rest of the program uses. Above any engine it seals every record with
 * an HMAC-SHA-256 under a key in the token, keeps the `commit` record (number and hash over all
 * seals), the last accepted number in a file outside of the store, and the map of every path's
 * seal, so that a record that was edited, deleted or rolled back shows. doc/formats/ has the
 * bytes. Control thread only, but for the calls that say otherwise.
 *
 * A stored body is an envelope {"body":…,"commit":N,"key":"SEAL KEY UUID","seal":"HEX","v":1};
 * callers see only the inner body.
 */
#ifndef KEKD_SEAL_H
#define KEKD_SEAL_H

#include "kekd/hsm.h"
#include "kekd/json.h"
#include "kekd/metrics.h"
#include "kekd/policy.h"
#include "kekd/store.h"
#include "kekd/str.h"
#include "kekd/uuid.h"

struct sealed;
struct sealed_ahead;

/* Why the whole store is held; NONE: it is not. */
enum sealed_hold {
	SEALED_HOLD_NONE = 0,
	SEALED_HOLD_BEHIND, /* commit number below the last accepted one, or the same with another
			       state: an older or another copy */
	SEALED_HOLD_STATE,  /* the hash over all seals differs: a record was deleted, inserted or
			       put back, or its envelope cannot be read */
	SEALED_HOLD_COMMIT, /* the commit or cluster record's own seal does not verify, or it is
			       missing */
	SEALED_HOLD_NO_ACCEPTED, /* the file with the last accepted number is missing, does not
				    verify, or is of another cluster or generation */
	SEALED_HOLD_FOREIGN	 /* etcd is another cluster than the one that was accepted */
};

struct sealed_record {
	char *path;
	json_t *body;	 /* owned */
	uint64_t commit; /* number of the commit that wrote it: what ETags carry */
};

struct sealed_change {
	const char *path;
	uint64_t expected; /* commit number of the record as the caller saw it; 0: must not exist;
			      STORE_ANY */
	json_t *body;	   /* borrowed; NULL: delete */
};

/* Called for each record at load but `commit`, and when one appears refused or good again later.
 * body NULL with commit 0: refused: the seal does not verify, the record went missing, or it is not
 * the last good one; that one, if the callee has it, stays in force, marked as refused. body NULL
 * with another commit: deleted by that commit of another process. body is borrowed. */
typedef void sealed_load_fn(const char *path, json_t *body, uint64_t commit, void *user);

struct sealed_config {
	struct store *store;   /* borrowed */
	struct hsm *hsm;       /* borrowed */
	const char *state_dir; /* holds "accepted" */
	const char *cluster, *node;
	const struct policy *policy; /* of a new cluster, for sealed_init; NULL: POLICY_DEFAULT */
	const char *const *tokens; /* names of the logical tokens, as the hsm counts them; the first
				      gets the seal key; borrowed for the lifetime, as all above */
	unsigned tokens_count;
	struct sealed_ahead *ahead; /* sealed_open alone: what was read already, which it uses up;
				       borrowed; may be NULL */
	bool adopt; /* sealed_init alone: the tokens may hold objects of this cluster, whose
		       metadata is lost; it gets a seal key of its own */
};

/* kekd init: makes the seal key in the token (label kekd:CLUSTER:seal:UUID, CKA_ID the UUID) and
 * commits the first records: `cluster` (made here), `commit`, and the given ones. Refused with
 * KEKD_EINVALID when the store has records, or when the token holds objects of a cluster
 * ("kekd:…"); a lone seal key of this cluster, as an interrupted init leaves it, is used.
 * ret_error: text. */
int sealed_init(const struct sealed_config *config, const struct sealed_change *changes,
	size_t count, char ret_error[JSON_ERROR_SIZE]);

/* For the time until a token is ready: reads and parses records that sealed_open is to verify.
 * What changes meanwhile is found by it. 0 or -ENOMEM. */
int sealed_ahead_open(struct store *store, struct sealed_ahead **ret_ahead);
/* Some more, in a few tens of milliseconds. False: that is all, or as much as may be kept, or it
 * cannot be read, which sealed_open will say. */
bool sealed_ahead_read(struct sealed_ahead *a);
void sealed_ahead_freep(struct sealed_ahead **a);

/* Reads and verifies everything. 0, also when held or when single records are refused; -ENOENT: the
 * store is empty; KEKD_EINVALID: it is of another cluster; KEKD_EOBJECT: the seal key is not in the
 * token; KEKD_EHSM, KEKD_ESTORE. Texts in ret_error. */
int sealed_open(const struct sealed_config *config, sealed_load_fn *load, void *user,
	struct sealed **ret_sealed, char ret_error[JSON_ERROR_SIZE]);
void sealed_freep(struct sealed **s);

/* One record from the store, verified again. 0, -ENOENT, KEKD_ERECORD, KEKD_ESTORE. */
int sealed_get(struct sealed *s, const char *path, struct sealed_record *ret_record);
void sealed_record_free(struct sealed_record *r);

/* The active's commit: checks the expected numbers, raises the commit number, seals, writes,
 * accepts. At most STORE_OPS_MAX - 1 changes. 0 with the new number, durable; KEKD_EPRECONDITION;
 * KEKD_ERECORD: a record to change is refused; KEKD_EHELD; KEKD_ESTORE; KEKD_EHSM; KEKD_EINVALID: a
 * path is `commit`, a node's own, or given twice. load is not called for own changes. */
int sealed_commit(
	struct sealed *s, const struct sealed_change *changes, size_t count, uint64_t *ret_number);

/* A record that this node owns (nodes/, members/, usage/, nonces/): sealed with its own number,
 * which counts up in the record itself; outside the commit's hash. expected as above. */
int sealed_put_own(
	struct sealed *s, const char *path, uint64_t expected, json_t *body, uint64_t *ret_number);

/* ---- a store that was put back, or that is new to this node ---- */

/* A node that joins: reads and verifies all that the store has, by the seal key in the token, and
 * writes the first file `accepted`. A file of the same cluster and generation that is there already
 * stays if the store is not behind it. KEKD_EHELD: the store is not whole by itself; KEKD_ERECORD:
 * a record's seal does not verify; KEKD_EINVALID: it is of another cluster, or this node has
 * accepted another one; -ENOENT: it is empty; KEKD_EOBJECT, KEKD_EHSM, KEKD_ESTORE. Texts in
 * ret_error. */
int sealed_join(const struct sealed_config *config, uint64_t *ret_number,
	char ret_generation[UUID_TEXT_SIZE], char ret_error[JSON_ERROR_SIZE]);

/* What the store holds is what the operator wants, though it is older than what was accepted, or
 * another database (BEHIND, FOREIGN, and NO_ACCEPTED when only the generation differs): if it is
 * whole by itself and every seal in it verifies, it is given a new generation and commit numbers
 * above every accepted one. The record `cluster` says what it succeeds, so that the other nodes
 * follow, but one that has accepted more, which wants a confirm of its own. Several commits, by the
 * active (etcd): while they are not all done `cluster` has `confirm`, and this call again goes on.
 * generation: of the record `cluster` as the operator saw it (sealed_status' held.generation).
 * next: the new body of a record of the active (owned by the caller of it; NULL: no change), as
 * keys/NAME with their activation numbers raised; called once for each that is not done yet, and
 * KEKD_ERECORD ends it all. 0 with the new number; KEKD_ESTATE: nothing is to be confirmed;
 * KEKD_EPRECONDITION: another generation; KEKD_EHELD: it is not whole; KEKD_ENOTACTIVE; else as
 * sealed_commit. Texts in ret_error. */
typedef int sealed_next_fn(const char *path, const json_t *body, void *user, json_t **ret_body);
int sealed_confirm(struct sealed *s, const char *generation, sealed_next_fn *next, void *user,
	uint64_t *ret_number, char ret_error[JSON_ERROR_SIZE]);

/* store.h's spare_put and spare_take; 1 and 0 where the engine has none. */
int sealed_spare_put(struct sealed *s, const char *name, uint64_t number);
int sealed_spare_take(struct sealed *s, const char *name, uint64_t *ret_number);

/* ---- backups ---- */

/* Every record but `commit`, in order of path, verified once more; body is borrowed. Not 0 ends it.
 * KEKD_ERECORD: one is refused; KEKD_EHELD; KEKD_ESTORE; KEKD_EHSM. */
typedef int sealed_each_fn(const char *path, json_t *body, uint64_t commit, void *user);
int sealed_each(struct sealed *s, sealed_each_fn *fn, void *user);
#define SEALED_DIGEST_SIZE 32
/* The current seal key's HMAC over a digest, whose bytes were made with a domain of their own. */
int sealed_digest(struct sealed *s, const uint8_t digest[SEALED_DIGEST_SIZE], struct uuid *ret_key,
	uint8_t ret_seal[SEALED_DIGEST_SIZE]);
/* Is it that, in any of the tokens? 0; KEKD_ERECORD: no; KEKD_EOBJECT: no token has the key. */
int sealed_check_digest(const struct sealed_config *config, const struct uuid *key,
	const uint8_t digest[SEALED_DIGEST_SIZE], const uint8_t seal[SEALED_DIGEST_SIZE]);
/* The number in the file `accepted`; 0: there is none of this cluster. Negative: it cannot be
 * read. */
int sealed_accepted(const char *state_dir, const char *cluster, uint64_t *ret_number);
/* Writes all of these records into an empty store, sealed by the keys that `cluster`, one of them,
 * lists; commit numbers go on above `above`. Not one commit: the caller keeps the store away from
 * others until it returned 0. expected in changes is ignored. */
int sealed_restore(const struct sealed_config *config, const struct sealed_change *changes,
	size_t count, uint64_t above, char ret_error[JSON_ERROR_SIZE]);
/* Moves all seals to a new key in this token: lists it beside the old one, seals every record anew,
 * drops the old one from the list; its object stays in its token. Broken off anywhere, the next
 * call for the same token goes on. ETags stay as they are. KEKD_EINVALID: no such token;
 * KEKD_EHELD, KEKD_ERECORD: something is to be put right first; else as sealed_commit. Texts in
 * ret_error. Control thread. */
struct sealed_move {
	char key[UUID_TEXT_SIZE]; /* that seals now */
	size_t records;		  /* sealed anew by this call */
	size_t dropped;		  /* keys that left the list */
	bool resumed;
};
int sealed_move(struct sealed *s, const char *token, struct sealed_move *ret_move,
	char ret_error[JSON_ERROR_SIZE]);

/* Did another program write the store? Verifies what changed, calls load for it. Number of
 * findings, or negative. Every second. */
int sealed_poll(struct sealed *s);

/* What status and health show; any thread. */
struct sealed_status {
	uint64_t number; /* commit number in force: Kekd-Revision */
	uint64_t accepted;
	enum sealed_hold hold;
	size_t records, refused;
	char generation[UUID_TEXT_SIZE]; /* cluster.generation */
	char seal_key[UUID_TEXT_SIZE];
	char seal_token[STR_NAME_MAX + 1]; /* logical token that has it; "": not configured */
	size_t seal_keys, old_seals; /* above 1 and 0: a move to another key is not finished */
	bool good; /* what load was told is a state that was accepted as a whole: it may be served,
		      also while the store is held */
	struct {
		uint64_t number; /* what the store itself has; 0: nothing that verifies */
		char generation[UUID_TEXT_SIZE];
		bool whole; /* it is whole by itself: sealed_confirm would take it */
	} held;		    /* while hold is not NONE */
};
void sealed_status(struct sealed *s, struct sealed_status *ret_status);
/* Counted since it was opened. */
struct sealed_counts {
	struct metrics_histogram commits;      /* the engine's time for each */
	atomic_uint_least64_t commit_failures; /* the engine failed: KEKD_ESTORE */
	atomic_uint_least64_t refusals;	       /* records found to be refused, again and again */
};
const struct sealed_counts *sealed_counts(
	const struct sealed *s);	  /* any thread; valid as long as s */
uint64_t sealed_number(struct sealed *s); /* any thread, no lock */
/* The i-th refused path, copied; -ENOENT past the end. Any thread. */
int sealed_refused(struct sealed *s, size_t i, char ret_path[STORE_PATH_MAX + 1]);
const char *sealed_hold_text(enum sealed_hold hold); /* what happened and what to do */

#endif
