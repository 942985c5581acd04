/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kekd-net's side of the token: gives operations to the workers, in frames, and takes the answers.
 * It knows sockets, deadlines and queues; it never sees a PIN, a session or a CK_RV.
 *
 * One reader thread serves all workers. An operation goes to an idle session at once; while all
 * sessions of its token are busy it queues, and the next idle session takes up to 64 of the queue
 * in one frame (about 1 ms of token time by measured cost). Batches of more than a few operations
 * queue apart, and both queues are served in turn. Each operation has the deadline from its
 * submission on; past it err is KEKD_ETIMEOUT and a late answer is dropped. A worker that keeps a
 * frame for longer than the deadline gets no new work until it answered; for longer than `hang`, it
 * is reported to be killed. When a worker dies, what computes only is given once to another; the
 * rest gets KEKD_EHSM.
 */
#ifndef KEKD_HSM_H
#define KEKD_HSM_H

#include "kekd/frames.h"

struct hsm;
struct hsm_batch;

typedef void hsm_done_fn(struct hsm_batch *batch);

/* Some operations with one ending. The caller owns it, and everything that it points to, until done
 * was called: on the reader thread, exactly once, never before hsm_submit returned its 0 is
 * promised: it may run before. done must not block. */
struct hsm_batch {
	struct hsm_op *ops;
	size_t count;
	hsm_done_fn *done;
	void *user;
	/* client.c's own */
	size_t left;
	uint64_t deadline_ns;
};

struct hsm_config {
	unsigned tokens;	  /* number of logical tokens */
	const char *const *names; /* borrowed for the lifetime */
	unsigned workers;	  /* per token */
	unsigned deadline_ms, hang_ms;
	size_t queue_max; /* operations waiting per token, for what they need of memory; mostly the
			     estimated time refuses before */
	/* Called on the reader thread when a worker's state changed; may be NULL. */
	void (*changed)(void *user);
	/* Called on the reader thread: this worker hangs; kill it and attach a new one. Of a token
	 * the next is not reported before this one is back, has failed, or `hang` has passed. Must
	 * not block; not 0: called again soon. May be NULL. */
	int (*hangs)(void *user, unsigned token, unsigned worker);
	void *user;
};

int hsm_open(const struct hsm_config *config, struct hsm **ret_hsm); /* starts the reader thread */
void hsm_freep(struct hsm **hsm); /* ends the thread; what is pending gets KEKD_EHSM first */

/* A (new) socket to worker `worker` of `token`; takes fd. An older socket of the same worker is
 * closed. Any thread. */
void hsm_attach(struct hsm *hsm, unsigned token, unsigned worker, int fd);

/* 0, or nothing was taken and done is not called: KEKD_EOVERLOAD, while what waits for the token
 * would take longer than clients should wait (by measured cost: 30 ms, or 16 operations of each
 * session; less for 10 s after it happened; more for a batch);
 * KEKD_EHSM when no worker of a token is ready (at once, so that clients do not hang);
 * KEKD_EINTERNAL for what no frame can hold, and for HSM_OP_DROP (see below). Any thread, never
 * blocks. */
int hsm_submit(struct hsm *hsm, struct hsm_batch *batch);

/* Submits and waits; for the control thread only. 0 when taken, see each op's err. */
int hsm_call(struct hsm *hsm, struct hsm_op *ops, size_t count);

/* HSM_OP_DROP to every worker of the token, and waits for them; 0, or the first one's error
 * (KEKD_ETIMEOUT: a worker hangs; it reads the drop before any other work). Control thread. */
int hsm_drop_everywhere(struct hsm *hsm, unsigned token, const struct object_id *object);

struct hsm_worker_status {
	struct hsm_hello hello;
	bool attached, ready;
	bool late; /* has not answered within the deadline: no new work */
	uint64_t frames, operations, restarts;
	uint64_t missed_deadlines; /* frames */
	uint64_t hang_kills;	   /* times that it was reported as hanging */
	uint64_t copy_hits;	   /* uses of a session copy instead of the token's object */
	uint32_t in_flight;
	double micros_per_op; /* moving average */
};
/* A copy of what is known; 0 or -ENOENT. Never waits for the token. Any thread. */
int hsm_worker_status(
	struct hsm *hsm, unsigned token, unsigned worker, struct hsm_worker_status *ret_status);

struct hsm_token_status {
	size_t queued;	      /* operations that no session has yet */
	double wait_micros;   /* about how long the next one waits; 0 while no worker is ready */
	uint64_t timeouts;    /* operations that were not answered within the deadline */
	uint64_t replays;     /* operations given to a second worker */
	unsigned ready, late; /* workers */
};
/* 0 or -ENOENT. Any thread. */
int hsm_token_status(struct hsm *hsm, unsigned token, struct hsm_token_status *ret_status);
bool hsm_token_ready(struct hsm *hsm, unsigned token);	   /* at least one worker is ready */
uint8_t hsm_token_iv_len(struct hsm *hsm, unsigned token); /* 12 until a worker said otherwise */
/* All tokens have so much to do that hsm_submit refuses single operations: for refusing them before
 * their bodies are read. Any thread, no lock. */
bool hsm_is_behind(const struct hsm *hsm);
size_t hsm_queued(struct hsm *hsm);

#endif
