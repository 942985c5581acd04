/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The revisioned record store: path → text, each with the revision of its last change. Engines sit
 * behind a table of functions: SQLite, and etcd with a local replica in SQLite. The store knows
 * nothing of seals or of what records mean. Calls may block on a disk, and commits on etcd: control
 * thread only, except close and what says otherwise.
 *
 * Paths: "commit", "cluster", "keys/NAME" …: printable ASCII, at most 200 bytes; none begins with
 * "leader" or "alive/". A body has at most 1 MiB. Revisions: one counter for the whole store; every
 * commit raises it and gives it to all that it writes. 0 = no record.
 */
#ifndef KEKD_STORE_H
#define KEKD_STORE_H

#include "kekd/etcd_settings.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define STORE_OPS_MAX 100
#define STORE_PATH_MAX 200
#define STORE_BODY_MAX (1024 * 1024)
#define STORE_PAGE_MAX 1000
#define STORE_ANY UINT64_MAX

struct store_record {
	char *path;
	uint64_t revision;
	char *body; /* NUL-terminated behind len bytes */
	size_t len;
};

struct store_page {
	struct store_record *records; /* sorted bytewise by path */
	size_t count;
	bool more;	   /* go on after the last path */
	uint64_t revision; /* of the whole store, when the page was read */
};

enum store_op_kind { STORE_CHECK, STORE_PUT, STORE_DELETE };

struct store_op {
	enum store_op_kind kind;
	const char *path;
	uint64_t expected; /* the record's revision now; 0: must not exist; STORE_ANY: whatever */
	const char *body;  /* put */
	size_t len;
};

/* Whose records a commit writes. The active's: engines with leadership compare the leader key. A
 * node's own (nodes/, members/, usage/, nonces/): they compare that node's lease. */
enum store_owner { STORE_OWNER_ACTIVE, STORE_OWNER_NODE };

struct store;

/* A change that a watch tells of. body NULL: deleted. */
typedef void store_watch_fn(const struct store_record *change, void *user);
/* Is what get has at this path now (revision 0: nothing) good? */
typedef bool store_good_fn(const char *path, uint64_t revision, void *user);

struct store_engine {
	const char *name;
	/* 0 or KEKD_ESTORE. A record that is not there: -ENOENT. */
	int (*get)(struct store *s, const char *path, struct store_record *ret_record);
	/* Records whose path starts with prefix and sorts after `after` (NULL: from the first), at
	 * most limit. */
	int (*list)(struct store *s, const char *prefix, const char *after, size_t limit,
		struct store_page *ret_page);
	/* All or nothing. 0 with the new revision; KEKD_EPRECONDITION when an expected revision
	 * differs; KEKD_ESTORE: not done, or not known (read again). -E2BIG: more than
	 * STORE_OPS_MAX operations. Durable when it returns 0. etcd: KEKD_ENOTACTIVE, and nothing
	 * is changed, when this node does not lead (any more); KEKD_ETOOLARGE: more bytes than etcd
	 * takes at once. */
	int (*commit)(struct store *s, enum store_owner owner, const struct store_op *ops,
		size_t count, uint64_t *ret_revision);
	/* Calls fn for each change that others made since the last poll (own commits are not told).
	 * 0, the number of changes, or negative. SQLite: any other program that wrote the file. */
	int (*poll)(struct store *s, store_watch_fn *fn, void *user);
	/* An identifier of the database as such (etcd: cluster id); 0 or KEKD_ESTORE. */
	int (*identity)(struct store *s, char ret_text[64]);
	/* The rest may be NULL. What poll told of has been judged: whatever is good becomes part of
	 * the image that a restart begins with. whole: and there is nothing else. 0 or KEKD_ESTORE:
	 * the image is behind, as it was. */
	int (*settled)(struct store *s, bool whole, store_good_fn *good, void *user);
	/* The record as the image has it. As get. */
	int (*image)(struct store *s, const char *path, struct store_record *ret_record);
	/* Is the database another one than that which the image came from? */
	bool (*foreign)(struct store *s);
	/* The operator wants it so: from now on the image is of this one. 0 or KEKD_ESTORE. */
	int (*adopt)(struct store *s);
	/* A number that this node keeps by a name for the time when the store is away, beside its
	 * copy of the records: 0 when it is kept (durable), in place of what was there; 1 when more
	 * than half of it is there still. take: half of what there was, rounded up, which is gone
	 * (durable) when it returns; 0: none. NULL: the store is never away while the node is
	 * there. Control thread. */
	int (*spare_put)(struct store *s, const char *name, uint64_t number);
	int (*spare_take)(struct store *s, const char *name, uint64_t *ret_number);
	void (*close)(struct store *s);
};

struct store {
	const struct store_engine *engine;
};

/* Opens DIR/metadata.db; create: makes an empty one (mode 0600) when there is none, else that is
 * -ENOENT. */
int store_open_sqlite(const char *dir, bool create, struct store **ret_store);
/* The replica of an etcd that is lost, to be copied elsewhere and never written. As
 * store_open_sqlite. */
int store_open_replica(const char *dir, struct store **ret_store);
/* Is DIR/metadata.db the replica of an etcd? 1, 0, -ENOENT, or KEKD_ESTORE (logged). */
int store_is_replica(const char *dir);

/* ---- etcd ---- */

/* This node's lease, and its leadership while it has it: what a commit compares. Zero: none. */
struct store_term {
	uint64_t epoch;	   /* create revision of the leader key; 0: this node does not lead */
	uint64_t lease;	   /* that of "alive/NODE" */
	uint64_t until_ns; /* boot clock: no commit of the active at or after this */
};

/* Opens STATE_DIR/metadata.db as the local replica (made when there is none) and begins to watch
 * etcd. A replica that has records serves at once; with an empty one etcd is read first:
 * KEKD_ESTORE when it does not answer (within some multiples of the settings' timeout). An etcd
 * without records is no error: list is empty, as sealed_init wants it, and sealed_open says
 * -ENOENT. KEKD_EINVALID: the file is not a replica but a single node's store (see `kekd migrate`).
 * Texts are in the log. settings and node are borrowed for the lifetime. wake (may be NULL): from
 * another thread, when poll has news; it must not wait. */
int store_open_etcd(const struct etcd_settings *settings, const char *node, const char *state_dir,
	void (*wake)(void *user), void *user, struct store **ret_store);
/* Any thread; from then on commits go by it. Store calls that begin with store_etcd_ do nothing, or
 * tell nothing, with another engine. */
void store_etcd_term(struct store *s, const struct store_term *term);
bool store_is_etcd(const struct store *s);
/* A UUID that was made with the replica: tells this node from another of the same name. Any thread.
 */
void store_etcd_instance(const struct store *s, char ret_text[37]);

struct store_etcd_status {
	bool reachable;	   /* the last call was answered */
	bool synced;	   /* etcd was read as a whole since the start, and is watched now */
	bool foreign;	   /* etcd is not the one that the replica came from */
	uint64_t age_ns;   /* since a linearizable read that the replica has reached, over restarts
			      too; UINT64_MAX: never, or not known */
	uint64_t position; /* etcd's revision that all up to is known here */
	uint64_t lag_revisions; /* etcd's at the last look, less that */
	uint64_t pending; /* records that etcd has and that are not (yet) part of the replica */
	uint64_t full_reads, reconnects, compactions;
	char cluster_id[32]; /* etcd's, hexadecimal; "": not known */
	char error[256];     /* why it is not reachable; "" */
};
void store_etcd_status(struct store *s, struct store_etcd_status *ret_status); /* any thread */

/* A linearizable read now; waits until poll can tell of all that it covers. 0 (then call
 * sealed_poll), or KEKD_ESTORE. 0 at once with SQLite. */
int store_etcd_catch_up(struct store *s, unsigned timeout_ms);
/* etcd forgets what is older than an hour, once an hour; else nothing is done. The active's, every
 * tick. 0 or KEKD_ESTORE. */
int store_etcd_compact(struct store *s);

/* Copies every record as it stands (envelopes unchanged) into a store that is empty, or that an
 * earlier call for the same source has filled in part; "commit" comes last, in chunks of at most
 * 100 and 1 MiB. `nodes/` are not copied. etcd: term must be set (and lead). 0 with the number of
 * records copied; KEKD_EINVALID: it holds other records; KEKD_ESTORE … Texts in ret_error. */
int store_copy(struct store *from, struct store *to, size_t *ret_count, char ret_error[256]);

void store_freep(struct store **store);
void store_record_free(struct store_record *r);
void store_page_free(struct store_page *p);

#endif
