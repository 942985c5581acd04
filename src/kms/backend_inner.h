/* SPDX-License-Identifier: Apache-2.0 */
/* Within the backend: its state, and what its parts do for each other. backend.c has its life and
 * what comes in, worker.c the requests to kekd, ticker.c time, verdict.c the answers. */
#ifndef KEKD_KMS_BACKEND_INNER_H
#define KEKD_KMS_BACKEND_INNER_H

#include "ask.h"
#include "backend.h"
#include "flight.h"
#include "hedge.h"

#include <pthread.h>

#define BACKEND_WORKERS 8 /* as many requests are under way at once */
#define BACKEND_HEDGERS 4 /* and as many second ones */

struct queue {
	struct flight *first, **last;
	size_t count;
	pthread_cond_t filled;
};

struct worker {
	struct backend *backend;
	unsigned attempt; /* which of a flight's this thread makes */
	struct kekd_client *client;
	pthread_t thread;
	bool threaded;
};

struct backend {
	struct backend_parts parts;
	pthread_mutex_t lock;
	pthread_cond_t tick;
	struct flights flights;
	struct queue queues[ATTEMPTS];
	struct hedge_budget budget;
	size_t flying;
	atomic_bool stop;
	pthread_t ticker;
	bool ticking;
	struct worker workers[BACKEND_WORKERS + BACKEND_HEDGERS];
};

/* Under the lock. */
void backend_queue_put(struct backend *b, unsigned attempt, struct flight *f);
struct flight *backend_queue_take(struct backend *b, unsigned attempt); /* there is one */
/* Out of the table, and what is still asked for it is given up. Nobody may wait for it. */
void backend_settle(struct backend *b, struct flight *f);

void *backend_worker_main(void *worker);
void *backend_ticker_main(void *backend);

/* ---- verdict.c ---- */

/* What may be said of a flight when it is settled and another thread may free it. */
struct verdict {
	enum flight_kind kind;
	struct kms_key_id id;
	const struct ask_answer *answer;
};

extern const enum kms_method flight_methods[FLIGHT_KINDS];
/* Outside of the lock. The waiters are freed. */
void verdict_answer_all(struct backend *b, struct waiter *waiters, const struct verdict *v);

#endif
