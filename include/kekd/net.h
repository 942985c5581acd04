/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kekd-net as a whole: what its parts share, and the control thread. The API's handlers see
 * everything through struct node.
 */
#ifndef KEKD_NET_H
#define KEKD_NET_H

#include "kekd/access.h"
#include "kekd/approvals.h"
#include "kekd/audit.h"
#include "kekd/cluster.h"
#include "kekd/config.h"
#include "kekd/etcd.h"
#include "kekd/hsm.h"
#include "kekd/http.h"
#include "kekd/keyring.h"
#include "kekd/lifecycle.h"
#include "kekd/seal.h"
#include "kekd/snapshots.h"
#include "kekd/traffic.h"
#include "kekd/usage.h"

#include <stdatomic.h>

/* The API's table of routes (api/routes.c); ends with a row of NULL. */
extern const struct http_route http_routes[];

/* The control thread: one change at a time, and what recurs. */
struct control;
struct control_job {
	void (*run)(struct control_job *job); /* on the control thread; may block; frees the job if
						 it is to be freed */
	void *user;
	struct control_job *next;
};
/* tick: what recurs, on the same thread; it returns in how many milliseconds again. NULL: nothing.
 */
int control_open(struct node *node, unsigned (*tick)(struct node *node), size_t jobs_max,
	struct control **ret_control);
void control_freep(struct control **c); /* runs what is queued, then ends */
/* A tick at once. Any thread; nothing where c is NULL. */
void control_wake(struct control *c);
/* Any thread, never blocks. KEKD_EOVERLOAD when jobs_max jobs wait, KEKD_ESTOPPING at the end. */
int control_post(struct control *c, struct control_job *job);

enum node_phase {
	NODE_STARTING, /* no worker yet, store not verified */
	NODE_SERVING,
	NODE_HELD, /* the store is held: nothing but health and status */
	NODE_STOPPING
};

/* Who makes the changes? */
enum node_role {
	ROLE_SINGLE, /* the store is this node's own: it does */
	ROLE_ACTIVE, /* of a pair: this one does */
	ROLE_STANDBY /* of a pair: another one does, or nobody */
};
const char *node_role_name(enum node_role role);

#define NODE_REASON_SIZE 160
#define NODE_PEERS_MAX 32
struct node_peer { /* another node, as it says itself in nodes/NAME */
	char name[STR_NAME_MAX + 1];
	json_t *record;
	int64_t skew_us; /* its clock ahead of this node's, when the record came */
};
struct node_presence { /* what this node has told of itself; the control thread's */
	json_t *said;
	uint64_t lease, revision, written_ns, not_before_ns;
	int err;
};

/* Is one version's object proven in this node's token? In the background, after the start. */
struct node_proofs {
	atomic_size_t total, proven, failed;
	atomic_bool through; /* each was asked for since the start */
};

#define TOKEN_SERIAL_SIZE 17
#define NODE_FAILING_MAX 100 /* versions that are named as not proven */
struct node_proving;
struct node_member { /* a record members/NAME */
	char name[STR_NAME_MAX + 1];
	json_t *body;
};
struct node_copies { /* in how many tokens versions are proven */
	bool known;
	uint64_t versions[CLUSTER_MEMBERS_MAX + 1]; /* by the number of tokens */
};

struct node_nonces;
struct node_destroy;
struct node_witness;
struct node_lookups { /* lookup.c */
	pthread_mutex_t lock;
	struct node_lookup *first, **last;
	size_t count;
	bool posted;
	struct control_job job;
	uint64_t next_ns;
	atomic_uint_least64_t done, missed; /* reads of the store for them; requests without */
};

struct unknown_object { /* in a token, but in no metadata */
	char token[STR_NAME_MAX + 1];
	struct object_id id;
	char label[256];
};

struct node_reload {	  /* the last SIGHUP */
	uint64_t time_us; /* 0: there was none */
	bool taken;
	char fault[512];
};

/* Keys that were to rotate by themselves and could not. */
#define NODE_ROTATIONS_FAILING 64
struct node_rotation_failure {
	char key[STR_NAME_MAX + 1];
	enum rotation_reason reason;
	unsigned tries;
	uint64_t since_us, again_us, again_ns; /* the last one by the boot clock */
	int err;
	char text[LIFECYCLE_ERROR_SIZE];
};
struct node_rotations {
	uint64_t done[ROTATION_REASONS], failures; /* since the start */
	struct node_rotation_failure failing[NODE_ROTATIONS_FAILING];
	size_t failing_count;
};

/* The node's key for signatures, and the last checkpoint of the audit log. */
enum signing_state {
	SIGNING_WAITING, /* for the store and the token */
	SIGNING_READY,
	SIGNING_MISSING, /* its object is not in the token */
	SIGNING_FAILED
};
#define SIGNING_BEFORE_MAX 16
struct node_signing {
	enum signing_state state;
	char fault[256];		   /* while neither waiting nor ready */
	uint8_t public[AUDIT_PUBLIC_SIZE]; /* good as soon as there is a fingerprint */
	char fingerprint[AUDIT_FINGERPRINT_SIZE];
	uint64_t created_us;
	uint64_t at, at_us; /* the last checkpoint since the start; 0: none yet */
	char head[65];
	uint8_t signature[AUDIT_SIGNATURE_SIZE]; /* that checkpoint's */
	uint64_t checkpoints, failures;		 /* since the start */
	/* What signed before the key moved to another token: older records verify with these. */
	struct {
		uint8_t public[AUDIT_PUBLIC_SIZE];
		uint64_t created_us;
	} before[SIGNING_BEFORE_MAX];
	size_t before_count;
};

struct node {
	struct net_part part;
	struct hsm *hsm;
	struct store *store;
	_Atomic(struct sealed *) sealed; /* NULL until the phase is above STARTING */
	struct keyring *keyring;
	struct clients *clients;
	struct approvals *approvals;
	struct snapshots *snapshots;
	struct usage *usage;
	struct audit *audit;
	struct control *control;
	struct control *scans;	     /* reads the audit log for requests */
	_Atomic(struct http *) http; /* NULL while its first requests come in already */
	struct traffic *traffic;
	struct lifecycle lifecycle;
	struct lifecycle_members lifecycle_members;
	struct node_proofs proofs;
	atomic_bool unconfirmed; /* after a restore */
	atomic_bool swept;	 /* the tokens' objects were looked at since the start */
	atomic_uint_least64_t drill_good_us; /* the last good drill; 0: none is known */
	_Atomic enum node_phase phase;
	atomic_bool frozen;		    /* the whole service only unwraps */
	uint64_t started_us, started_ns;    /* real time, and the boot clock */
	_Atomic(struct leader *) leader;    /* NULL: the store is SQLite, or is not open yet */
	atomic_uint_least64_t epoch;	    /* of this node's leadership; 0: it does not lead */
	atomic_uint_least64_t epoch_caught; /* the one whose predecessors' changes are all seen */
	atomic_uint_least64_t lease;	    /* 0: none */
	atomic_bool poll_now;		    /* the store has something new */
	pthread_mutex_t term_lock;	    /* one tells the store of leadership at a time */
	struct etcd_counts etcd_counts;
	/* the main thread's own: when the certificates' ends were last told */
	uint64_t next_watch_ns;
	struct {
		enum identity_age age;
		uint64_t next_us;
	} notices[3];
	/* the control thread's own */
	_Atomic int exit_wanted; /* an exit status, or -1 */
	uint64_t next_poll_ns;
	atomic_uint_least64_t seen_s; /* read it by node_seen_s */
	uint64_t seen_stored_s, seen_rest_ns, seen_looked_ns, seen_again_ns;
	bool proofs_done;
	uint64_t next_summary_ns, next_rotations_ns;
	struct node_proving *proving;
	bool member_unwritten, member_hurry;
	uint64_t member_written_ns, member_again_ns;
	int member_err;
	bool copies_news; /* they are to be counted again */
	uint64_t copies_next_ns;
	struct { /* the member that was last waited for in vain */
		char member[STR_NAME_MAX + 1];
		uint64_t ns, revision;
		bool fails;
	} vain;
	struct uuid signing_id; /* CKA_ID of the key for signatures */
	unsigned signing_token;
	char signing_file[64];	      /* of the log, when it was looked at */
	uint64_t signing_marks;	      /* records behind the last checkpoint that are nothing new */
	struct node_witness *witness; /* the newest checkpoint of each other node */
	size_t witness_count;
	uint64_t signing_again_ns, signing_next_ns, signing_store_ns, signing_stored;
	uint64_t signing_revision; /* the commit number that the last checkpoint tells */
	uint64_t usage_round_ns, next_retention_ns;
	bool usage_failed; /* to be stored: the log has it */
	int retention_err;
	struct node_destroy *destroys; /* versions that wait for their end, or are at it */
	size_t destroys_count;
	struct sealed_ahead *ahead; /* read while no token is ready yet */
	struct node_nonces *nonces; /* read at the start, until all keys are there */
	size_t nonces_count, nonces_size;
	struct node_presence presence;
	struct node_lookups lookups;
	/* When the copy of the metadata was last that of the store, by lookup.c's clock; 0: never.
	 */
	atomic_uint_least64_t reached_ns;
	bool stale_told, stale_alarm;  /* control thread */
	char instance[UUID_TEXT_SIZE]; /* of this node's replica */
	uint64_t store_opened_ns;
	enum node_role told_role; /* to the log */
	char told_leader[STR_NAME_MAX + 1];
	uint64_t told_epoch;
	struct control_job hand_over;
	pthread_mutex_t lock;	     /* of what follows */
	struct cluster cluster;	     /* read it by node_cluster */
	struct node_member *members; /* written by the control thread alone, which may read it so */
	size_t members_count;
	struct node_copies copies;
	struct node_peer peers[NODE_PEERS_MAX];
	size_t peers_count;
	char cannot_lead[NODE_REASON_SIZE]; /* why; empty: it can */
	struct unknown_object *unknown;
	size_t unknown_count;
	char phase_reason[256];
	struct keyring_summary summary;
	struct node_rotations rotations;
	struct node_signing signing; /* written by the control thread alone, which may read it so */
	struct node_reload reload;
	json_t *unreadable; /* their paths, as members; NULL: none */
	struct {
		uint64_t who; /* hash of client and version */
		uint64_t minute;
	} refusals[1024];
};

/* 0, or why the node does not serve now: KEKD_ESTARTING, KEKD_EHELD, KEKD_ESTOPPING. No lock. */
int node_serves(const struct node *n);
/* Any thread, no lock. */
enum node_role node_role(struct node *n);
uint64_t node_epoch(const struct node *n); /* of this node's leadership; 0: it does not lead */
uint64_t node_lease(const struct node *n); /* 0: none, or the store is SQLite */
/* The boot clock until which this node's lease holds; 0: it has none. Any thread. */
uint64_t node_until_ns(struct node *n);
/* Who makes the changes now, as far as this node knows; empty: nobody. Any thread. */
void node_leader(struct node *n, struct http_active *ret_active);
/* Is this node ready to make the changes? ret_why: why not. Any thread. */
bool node_can_lead(struct node *n, char ret_why[NODE_REASON_SIZE]);
/* What this node says of itself, new. Any thread. */
json_t *node_presence(struct node *n);
/* What another one says of itself, as a copy; NULL: it is not there. Any thread. */
json_t *node_peer(struct node *n, const char *name);
/* Gives leadership up. 0, KEKD_ENOTACTIVE, KEKD_ESTORE. Control thread. */
int node_step_down(struct node *n, unsigned pause_s);
/* Takes leadership, ready or not, and all that was changed before. 0; else with a text, or none.
 * Control thread. */
int node_promote(struct node *n, char ret_error[JSON_ERROR_SIZE]);
/* Asks kekd to let a worker of the token try its PIN once more. 0, or KEKD_EOVERLOAD. Control
 * thread. */
int node_retry_pin(unsigned token);
/* The index of a logical token by name, or -ENOENT. */
int node_token(const struct node *n, const char *name);
/* Is this the client's first refused use of the version in this minute? (Those are always durable
 * in the audit log.) Any thread. */
bool node_first_refusal(struct node *n, const char *client, const struct uuid *version);
/* A change has made a new version of this key, and proven it. Control thread. */
void node_count_proven(struct node *n, const char *key);
/* A version of it is not to be proven any more. Control thread. */
void node_count_gone(struct node *n, const char *key);
/* A part of what a member says in members/NODE, as a copy; NULL: it says nothing. Any thread. */
json_t *node_member_copy(struct node *n, const char *node, const char *part);
/* The shortest rotate_every that a key may have here, in seconds. Any thread. */
uint64_t node_rotation_floor_s(struct node *n);
/* Versions of this key wait for their end, or are at it: from now on the node sees to them. Control
 * thread. */
void node_watch_destroy(struct node *n, const struct key *k);
/* The record `cluster` as it is now, copied. Any thread. */
void node_cluster(struct node *n, struct cluster *ret_cluster);
/* Commits a changed copy, with another record's change if `with` is not NULL, and puts it in force.
 * next->commit is the number that it was read at, and then the new one. As sealed_commit. Control
 * thread. */
int node_cluster_change(struct node *n, struct cluster *next, const struct sealed_change *with);
/* Was the store restored from a backup that nobody has confirmed yet? Then nothing may change by
 * itself. Any thread. */
bool node_holds_changes(const struct node *n);
/* 0; KEKD_ESTATE: nothing waits; KEKD_EPRECONDITION: another generation. Control thread. */
int node_confirm(struct node *n, const char *generation);
/* Takes the store that is held, older or another than what was accepted, for the right one; this
 * node leads from then on. As sealed_confirm. Control thread. */
int node_confirm_store(struct node *n, const char *generation, uint64_t *ret_number,
	char ret_error[JSON_ERROR_SIZE]);
/* How many seconds kekd has seen pass, by clocks that nobody sets. Any thread. */
uint64_t node_seen_s(const struct node *n);
/* The record of it as a change, to be committed with what begins to be counted by it; its body is
 * the caller's. 0 or -ENOMEM. And once it was committed. Control thread. */
int node_seen_change(struct node *n, struct sealed_change *ret_change);
void node_seen_stored(struct node *n, const struct sealed_change *change);
/* Is there a record of a snapshot that cannot be read, so that nobody knows what it protects? Its
 * path. Any thread. */
bool node_doubts_snapshots(struct node *n, char ret_path[STORE_PATH_MAX + 1]);
/* May the version end as far as registered backups go? 0; KEKD_ENEEDED: one needs it; KEKD_ERECORD:
 * nobody can tell; with a text. Any thread. */
int node_needed(struct node *n, const struct key *k, const struct key_version *v,
	char ret_error[LIFECYCLE_ERROR_SIZE]);
/* The record `drill`, loaded or changed. */
void node_load_drill(struct node *n, const char *rest, json_t *body, uint64_t commit);
/* ---- a node whose copy of the metadata can lag (lookup.c) ---- */

/* run is called on the control thread: with 0 once the store was read, linearizably, since the
 * call, or KEKD_EUNKNOWN: it cannot be read now. */
struct node_lookup {
	void (*run)(struct node_lookup *l, int err);
	void *user;
	uint64_t since_ns; /* lookup.c's own, as what follows */
	struct node_lookup *next;
};
/* 0: run will be called; KEKD_ESTATE: there is nothing behind what is known here (SQLite);
 * KEKD_EUNKNOWN: the store is away, or too many wait. Any thread, never blocks. */
int node_look_up(struct node *n, struct node_lookup *l);
/* Is the copy of the metadata older than store.max_staleness? Never with SQLite. Any thread, no
 * lock. */
bool node_is_stale(struct node *n);

/* Which of the unknown objects: those with the label of a version of `key`, or the one with this
 * id; in one token or, NULL, in all. */
struct unknown_wanted {
	const char *key, *token;
	const struct object_id *id; /* or NULL */
};
size_t node_find_unknown(struct node *n, const struct unknown_wanted *wanted,
	struct lifecycle_object ret_objects[KEY_VERSIONS_MAX]); /* how many. Any thread */
void node_forget_unknown(struct node *n, unsigned token, const struct object_id *id);
/* ECDSA over P-256 with the node's key: r and s. 0; KEKD_EOBJECT: the key is not in the token;
 * KEKD_ESTARTING: not yet; as hsm_call. Control thread. */
int node_sign(
	struct node *n, const uint8_t digest[32], uint8_t ret_signature[AUDIT_SIGNATURE_SIZE]);
/* A copy of what is known of it. Any thread. */
void node_signing(struct node *n, struct node_signing *ret_signing);
/* From now on a new key in this token signs, unless one there does already. 0, KEKD_ESTORE …
 * Control thread. */
int node_move_signing(struct node *n, unsigned token);
/* Does the record of this path ("keys/NAME") verify, and this release cannot read it: another one
 * wrote it? note: control thread; is: any thread. */
void node_note_unreadable(struct node *n, const char *path, bool unreadable);
bool node_is_unreadable(struct node *n, const char *path);
/* Lists the tokens' objects again and compares with the keyring. Control thread. */
int node_sweep(struct node *n);

#endif
