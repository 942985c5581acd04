/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of leadership share. Two threads: one keeps the lease, campaigns and does what it
 * is asked for (leader.c); one watches the leader key (leader_watch.c). What either learns of the
 * key goes through leader_learn. `lock` holds all that is not said to be a thread's own.
 */
#ifndef KEKD_LEADER_STATE_H
#define KEKD_LEADER_STATE_H

#include "kekd/etcd.h"
#include "kekd/leader.h"

#include <pthread.h>
#include <stdatomic.h>

#define LEADER_TRIED 32 /* more than are asked for in the life of one */

enum leader_wish { LEADER_NOTHING, LEADER_STEP_DOWN, LEADER_PROMOTE };

struct leader {
	struct leader_config config; /* with copies of its texts */
	struct etcd_settings etcd;
	char *node, *url, *instance, *alive; /* alive: its path */
	uint64_t ttl_ns, margin_ns;

	pthread_mutex_t lock;
	pthread_cond_t wake;	     /* of the leader's thread */
	pthread_cond_t done;	     /* of who waits for a wish */
	struct leader_status status; /* active and epoch: as far as etcd told; see leader_status */
	bool dirty;		     /* status changed, and config.changed was not called yet */
	bool want;
	bool known;	       /* the leader key was read once */
	uint64_t leader_lease; /* of the leader key; 0: there is none */
	uint64_t leader_mod;
	uint64_t revision;   /* etcd's, that the above is of */
	uint64_t learned_ns; /* when */
	uint64_t pause_ns;   /* no campaign before: it stepped down */
	uint64_t yield_ns;   /* no campaign before: whoever took the key away goes first */
	enum leader_wish wish;
	unsigned pause_s;
	int wish_result;
	bool wished; /* wish was done */
	bool ended;  /* the thread does no wishes any more */

	pthread_mutex_t wishes;		    /* one at a time */
	atomic_uint_least64_t may_until_ns; /* leader_may_change; 0 while not active */
	atomic_bool stop;
	atomic_bool rewatch; /* or stop: ends the stream */
	pthread_t thread, watcher;
	bool started, watching;

	/* The leader's thread's own. */
	struct etcd *calls;
	uint64_t keepalive_ns, check_ns; /* when the next is due */
	bool told_away, told_conflict;
	bool named; /* this process has had its name once */
	uint64_t
		tried[LEADER_TRIED]; /* leases that it claimed the name with, the newest anywhere */
	size_t tried_count;
	/* The watcher's own. */
	struct etcd *watch;
	uint64_t watch_from;
};

/* With the lock held: what the leader key is (kv NULL: not there) as of a revision of etcd's. A
 * read that was sent before something newer was learned is not taken; a lower revision that was
 * asked for later is: etcd was put back. True when it was taken and said something new. */
bool leader_learn(struct leader *l, const json_t *kv, uint64_t revision, uint64_t sent_ns);
/* With the lock held: status to what leader_may_change goes by. */
void leader_publish(struct leader *l);
/* With the lock held: the lease is gone, or is given up. */
void leader_lost(struct leader *l);

/* ---- leader_calls.c: the leader's thread asks etcd. 0, KEKD_ESTORE, or as told ---- */

int leader_grant(struct leader *l);	/* a lease and alive/NODE; KEKD_EPRECONDITION: conflict */
int leader_keepalive(struct leader *l); /* -ENOENT: it is gone */
int leader_check(struct leader *l);	/* learns; -ENOENT: alive/NODE is not this process' */
int leader_campaign(struct leader *l);	/* KEKD_EPRECONDITION: another was first */
int leader_delete(struct leader *l, uint64_t mod_revision); /* KEKD_EPRECONDITION: it changed */
int leader_revoke(struct leader *l);

void *leader_watch_run(void *leader);

#endif
