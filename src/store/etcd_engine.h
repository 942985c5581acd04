/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the etcd engine share. etcd.c answers from the overlay over the replica;
 * etcd_commit.c writes; etcd_watch.c, a thread, reads etcd as a whole, then follows it, and queues
 * what has changed; etcd_look.c, another thread, asks every ten seconds whether that is still all,
 * which a watch that hangs does not tell; etcd_read.c has the questions. Each thread has a handle
 * of its own.
 */
#ifndef STORE_ETCD_ENGINE_H
#define STORE_ETCD_ENGINE_H

#include "paths.h"
#include "replica.h"

#include "kekd/etcd.h"
#include "kekd/store.h"

#include <pthread.h>
#include <stdatomic.h>

/* What etcd has at a path. */
struct news {
	char *path;
	uint64_t revision;
	char *body; /* NULL: deleted */
	size_t len;
};

/* Whole revisions of etcd, up to position. */
struct batch {
	struct batch *next;
	uint64_t position;
	bool anew;    /* another history: revisions from before compare with nothing */
	bool watched; /* the watcher's: */
	size_t keys;  /* so many are under the prefix now */
	struct news **items;
	size_t count, cap;
};

/* A key of etcd as the watcher last saw it. */
struct seen_key {
	char *path;
	uint64_t revision;
	uint8_t sha256[32]; /* of a record's value */
};

struct etcd_store {
	struct store store; /* first */
	const struct etcd_settings *settings;
	const char *node;
	void (*wake)(void *user);
	void *user;
	char instance[37];

	/* Control thread. */
	struct etcd *calls;
	struct replica replica;
	struct pathmap overlay;	  /* news: what etcd has and the replica has not */
	struct pathmap deleted;	  /* news: own deletions that the watch has not told of yet */
	struct pathmap uncertain; /* news without a body: a commit may have changed it */
	struct pathmap untold;	  /* news without a body: what get took in, for poll to tell of */
	uint64_t revision;	  /* the highest that get knows of */
	uint64_t taken;		  /* poll has all up to it */
	uint64_t marked_ns;	  /* when the replica's marks were last written */
	uint64_t resolve_after_ns;
	uint64_t compact_revision, compact_ns;

	pthread_mutex_t lock; /* of all that follows, to the next heading */
	pthread_cond_t changed;
	struct batch *first, **last; /* for poll */
	struct batch *own;	     /* commits of this node that the watch has not told of yet */
	struct store_term term;
	uint64_t position; /* all up to it is queued or taken */
	uint64_t highest;  /* of etcd, as any answer told */
	uint64_t raft_term;
	char cluster_id[32]; /* of the etcd that answered last */
	char image_id[32];   /* of that which the replica is an image of; "": of none */
	size_t keys;	     /* under the prefix, at position */
	struct {
		uint64_t revision,
			sent_ns; /* a linearizable read that is not reached yet; 0: none */
	} look;
	uint64_t synced_ns; /* the last that was reached; 0: none since the start */
	uint64_t opened_ns, opened_age_ns;
	uint64_t answered_ns; /* CLOCK_MONOTONIC */
	bool synced, reachable, held, closing, want_deep;
	uint64_t pending, full_reads, reconnects, compactions;
	size_t unsettled, room; /* bytes of what is queued and in the overlay; and at most */
	char error[ETCD_ERROR_SIZE];
	pthread_t watcher, looker;
	bool watcher_runs, looker_runs;

	/* Watcher. */
	struct etcd *watch;
	struct pathmap view;	 /* seen_key: what was queued, or was there at the start */
	atomic_bool stop_stream; /* the stream is to end: closing, or all is to be read again */

	/* Looker. */
	struct etcd *looks;
};

static inline struct etcd_store *
etcd_of(struct store *s)
{
	return (struct etcd_store *)s;
}

/* ---- etcd_read.c: questions; KEKD_ESTORE and KEKD_ECOMPACTED as etcd_call ---- */

void etcd_news_free(void *news);
/* The path of a key; what is none of kekd's gets a name that no record has. NULL: no memory. */
char *etcd_name_of(const struct etcd *calls, const json_t *key);
bool etcd_is_record(const char *path);
/* From {"key", "mod_revision", "value"}. Takes path over. NULL: no memory. */
struct news *etcd_news(char *path, const json_t *kv);
/* A copy of these; body NULL: deleted. NULL: no memory. */
struct news *etcd_news_of(const char *path, uint64_t revision, const char *body, size_t len);
/* kv/range or kv/txn, noted (etcd_note). Takes body over; NULL: -ENOMEM as KEKD_ESTORE. */
int etcd_ask(struct etcd_store *e, struct etcd *calls, const char *path, json_t *body, bool repeat,
	json_t **ret_reply, uint64_t *ret_sent_ns);
/* A page of the keys at a revision (0: now) behind `after` (a key of etcd's, base64; NULL: from the
 * first). */
int etcd_read_keys(struct etcd_store *e, struct etcd *calls, const char *after, uint64_t revision,
	json_t **ret_reply, uint64_t *ret_sent_ns);
#define ETCD_FETCH_MAX 24 /* of the largest: no more than a reply may have */
/* The records at these paths, at a revision: the reply's "responses". */
int etcd_read_values(struct etcd_store *e, struct etcd *calls, const char *const *paths,
	size_t count, uint64_t revision, json_t **ret_reply);
/* The keys from first to last with their values, at a revision: the reply's "kvs". */
int etcd_read_range(struct etcd_store *e, struct etcd *calls, const char *first, const char *last,
	uint64_t revision, json_t **ret_reply);
const json_t *etcd_header(const json_t *reply);
/* The i-th range of a txn's reply: its "kvs". */
const json_t *etcd_kvs(const json_t *reply, size_t i);

/* ---- etcd_watch.c ---- */

void *etcd_watch_run(void *store);
/* What the replica has is known already. 0 or KEKD_ESTORE. */
int etcd_watch_begin(struct etcd_store *e);
void etcd_watch_end(struct etcd_store *e);
struct batch *etcd_batch_new(uint64_t position); /* or NULL */
void etcd_batch_free(struct batch *b);
int etcd_batch_add(struct batch *b, struct news *n); /* takes n over, also when it fails */
/* Bytes that it takes in memory, about. */
size_t etcd_news_size(const struct news *n);
size_t etcd_batch_size(const struct batch *b);
/* So much may wait for being judged, or be refused, at once: whoever fills etcd does not fill the
 * memory of every node. */
#define ETCD_ROOM ((size_t)1 << 30)
void etcd_set_room(struct etcd_store *e, size_t bytes); /* for tests */
/* For poll; takes b over. */
void etcd_queue(struct etcd_store *e, struct batch *b);
void etcd_queue_locked(struct etcd_store *e, struct batch *b); /* wakes nobody outside */
/* A commit of this node: the watch may be cut before it tells of it. */
void etcd_note_own(struct etcd_store *e, const struct replica_change *changes, size_t count);
/* Everything is read again, with the values (deep) or the revisions alone. With the lock. */
void etcd_want_compare(struct etcd_store *e, bool deep);

/* ---- etcd_look.c ---- */

void *etcd_look_run(void *store);
/* A linearizable read; waits until all that it covers is queued. 0 or KEKD_ESTORE. */
int etcd_look(struct etcd_store *e, struct etcd *calls, uint64_t wait_ns);
/* Waits for that revision. */
bool etcd_wait_position(struct etcd_store *e, uint64_t revision, uint64_t wait_ns);
/* A read that was sent then covered this revision. With the lock. */
void etcd_set_look(struct etcd_store *e, uint64_t revision, uint64_t sent_ns);
void etcd_note_failure(struct etcd_store *e, const char *text);
/* Waits on `changed`, with the lock, until then at most (CLOCK_MONOTONIC). */
void etcd_wait(struct etcd_store *e, uint64_t deadline_ns);
/* Forgets what is older than it was age_ns ago, once in that time. */
int etcd_compact(struct etcd_store *e, uint64_t age_ns);

/* ---- etcd.c ---- */

/* What get knows there. 0 or KEKD_ESTORE. *ret_revision 0: nothing. */
int etcd_known_revision(struct etcd_store *e, const char *path, uint64_t *ret_revision);
/* Into the overlay, which takes n over. -ENOMEM: it does not. */
int etcd_overlay_put(struct etcd_store *e, struct news *n);
/* What the replica's file is to say of itself. */
void etcd_mark_image(struct etcd_store *e);

/* ---- etcd_commit.c ---- */

int etcd_commit(struct store *s, enum store_owner owner, const struct store_op *ops, size_t count,
	uint64_t *ret_revision);

#endif
