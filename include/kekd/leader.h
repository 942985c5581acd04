/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Leadership: one node of a cluster is the active. It holds an etcd lease and the key `leader`,
 * whose create revision is the epoch. A thread of its own keeps the lease alive, campaigns and
 * watches. What an active may do is the callers' business: they ask leader_may_change, which goes
 * by the boot clock alone, so that a process that was suspended knows at its first instruction.
 */
#ifndef KEKD_LEADER_H
#define KEKD_LEADER_H

#include "kekd/etcd_settings.h"
#include "kekd/str.h"

#include <stdbool.h>
#include <stdint.h>

#define LEADER_URL_SIZE 512
#define LEADER_ERROR_SIZE 256

struct leader_config {
	struct etcd_settings etcd;
	const char *node, *url; /* of this node */
	const char *instance;	/* of this process' state: another node of this name has another */
	unsigned ttl_s;		/* of the lease */
	/* Called by the leader's thread whenever the status changed, also when until_ns grew (every
	 * third of ttl_s). It must not wait. May be NULL. */
	void (*changed)(void *user);
	void *user;
};

struct leader_status {
	bool active;	   /* holds the leader key, as far as is known; see leader_may_change */
	uint64_t epoch;	   /* of this node's leadership; 0: not active */
	uint64_t lease;	   /* 0: none */
	uint64_t until_ns; /* boot clock: until then the lease cannot have run out; 0: no lease */
	bool reachable;	   /* etcd answered the last call */
	bool conflict;	   /* another process runs under this node's name */
	char leader_node[STR_NAME_MAX + 1]; /* who leads, "" when nobody does or it is not known */
	char leader_url[LEADER_URL_SIZE];
	uint64_t leader_epoch;	    /* of leader_node */
	uint64_t elections, errors; /* how often this node became active; failed calls */
	char error[LEADER_ERROR_SIZE];
};

struct leader;

/* Copies the config (the strings of etcd settings are borrowed) and starts the thread. 0 or a
 * negative error. etcd need not be there yet. */
int leader_open(const struct leader_config *config, struct leader **ret_leader);
/* Stops the thread; revokes the lease, so that another node leads at once. Takes at most the etcd
 * settings' timeout. */
void leader_freep(struct leader **leader);

/* This node is ready to lead, or not: campaigns while true. An active that is told false goes on.
 */
void leader_want(struct leader *l, bool may_lead);
/* Gives the leader key up, if it is held, and does not campaign for pause_s, unless nobody else
 * leads for that long. Waits for etcd. 0, KEKD_ENOTACTIVE (it was not active) or KEKD_ESTORE. */
int leader_step_down(struct leader *l, unsigned pause_s);
/* Takes the leader key from whoever holds it, ready or not. Waits for etcd. 0 (also when this node
 * leads already), KEKD_EPRECONDITION when another took it meanwhile, or KEKD_ESTORE. */
int leader_promote(struct leader *l);
void leader_status(struct leader *l, struct leader_status *ret_status);
/* Is this node active, and can its lease not have run out? Without a lock. */
bool leader_may_change(struct leader *l);

#endif
