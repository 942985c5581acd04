/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kekctl bench from the inside: what is to be done (the plan), what came of it (tallies), and the
 * pieces between. A plan is made by the main thread and only read by the workers; a worker's tally
 * is written by that worker alone, and its counters may be read while it runs.
 */
#ifndef KEKD_CTL_BENCH_H
#define KEKD_CTL_BENCH_H

#include "ctl.h"

#include <openssl/ssl.h>
#include <pthread.h>
#include <stdatomic.h>

enum bench_op { BENCH_WRAP, BENCH_UNWRAP, BENCH_GENERATE, BENCH_REWRAP, BENCH_OPS };
extern const char *const bench_op_names[BENCH_OPS];

/* ---- bench_histogram.c: latencies in ns, each to within 0.8 %, up to 18 minutes ---- */

#define HISTOGRAM_SUB 128 /* buckets per power of two */
#define HISTOGRAM_BUCKETS ((40 - 7 + 1) * HISTOGRAM_SUB)

struct histogram {
	_Atomic uint64_t counts[HISTOGRAM_BUCKETS];
	_Atomic uint64_t total, max;
	double sum;
};

void histogram_add(struct histogram *h, uint64_t ns, uint64_t times);
void histogram_merge(struct histogram *h, const struct histogram *other);
/* The value that this part (0 to 1) of all samples does not exceed; 0 without samples. */
uint64_t histogram_quantile(const struct histogram *h, double part);
double histogram_mean(const struct histogram *h);
/* What a caller who comes every interval would have met: a long sample stands for those that its
 * connection did not send meanwhile (coordinated omission). */
void histogram_correct(
	const struct histogram *h, uint64_t interval_ns, struct histogram *ret_corrected);

/* ---- the plan ---- */

/* One body that can be sent any number of times. */
struct bench_body {
	char *text;
	size_t len;
	char *const *plain; /* base64 of the items' plaintexts, borrowed; NULL: not known */
};

#define BENCH_BODIES_MAX 64
#define BENCH_BATCH_MAX 1000
#define BENCH_ENDPOINTS_MAX 16

struct bench_endpoint {
	char host[256], port[8];
	char *head[BENCH_OPS]; /* request line and headers, up to the length of the body */
};

struct bench_plan {
	const char *key;
	unsigned weights[BENCH_OPS], weights_sum;
	unsigned connections, threads, batch, size;
	double rate; /* requests/s; 0: closed loop */
	uint64_t duration_ns, warmup_ns, timeout_ns;
	struct bench_endpoint endpoints[BENCH_ENDPOINTS_MAX];
	size_t endpoints_count;
	SSL_CTX *tls;
	struct bench_body bodies[BENCH_OPS][BENCH_BODIES_MAX];
	size_t bodies_count;
	char **plain; /* bodies_count * batch */
	uint64_t setup_requests;
};

/* bench_plan.c: options and configuration, then the bodies, for which the server is asked. */
int bench_plan_make(struct ctl *ctl, struct bench_plan *plan);
void bench_plan_free(struct bench_plan *plan);

/* ---- bench_reply.c: the part of HTTP/1.1 that kekd answers with ---- */

struct bench_reply {
	int status;
	size_t head_len, body_len;
	bool last; /* the server closes the connection after it */
};

/* 1: whole; 0: more has to come; -EPROTO. */
int bench_reply_parse(const char *data, size_t len, struct bench_reply *r);

struct bench_verdict {
	uint64_t items, items_failed;
	bool wrong;
	char code[48]; /* of a problem document, or of the first item that failed */
};

/* Is a 2xx body the right answer to this one? */
void bench_judge(enum bench_op op, const struct bench_body *sent, size_t items, const char *body,
	size_t len, struct bench_verdict *ret_verdict);
void bench_problem_code(const char *body, size_t len, char ret_code[48]);
/* Appends a body that unwraps what this answer to wrap or rewrap holds; false: it does not look as
 * expected, nothing useful was appended. */
bool bench_put_unwrap(struct buf *b, size_t items, bool many, const char *body, size_t len);

/* ---- tallies ---- */

enum bench_error {
	BENCH_CONNECT,
	BENCH_TLS,
	BENCH_CLOSED,
	BENCH_TIMEOUT,
	BENCH_PROTOCOL,
	BENCH_ERRORS
};
extern const char *const bench_error_names[BENCH_ERRORS];

struct bench_tally {
	struct {
		_Atomic uint64_t good, refused, failed, wrong, items, items_failed;
		struct histogram latency; /* of the good ones */
	} ops[BENCH_OPS];
	_Atomic uint64_t errors[BENCH_ERRORS];
	_Atomic uint64_t warmup, after, unsent, connections_made;
	struct {
		int status;
		char code[48];
		uint64_t count;
	} answers[32]; /* other than good ones; the last place takes what finds no other */
	size_t answers_count;
	double cpu_s;
};

void bench_tally_add(struct bench_tally *sum, const struct bench_tally *t);
void bench_tally_answer(struct bench_tally *t, int status, const char *code, uint64_t count);

/* ---- bench_load.c: a thread and its connections ---- */

struct bench_clock { /* set by the main thread while the workers connect */
	atomic_bool running, stopped;
	uint64_t begin_ns, measure_ns; /* good once running is true */
	_Atomic uint64_t end_ns;       /* may be brought forward */
	atomic_uint connected;
};

struct bench_worker {
	const struct bench_plan *plan;
	struct bench_clock *clock;
	struct bench_tally *tally;
	unsigned number, connections;
	pthread_t thread;
	char error[256]; /* why the last connection could not be made */
};

void *bench_worker_run(void *worker);

/* ---- bench_show.c ---- */

struct bench_outcome {
	const struct bench_plan *plan;
	const struct bench_tally *tally;
	double measured_s;
};

void bench_progress(const struct bench_plan *plan, struct bench_worker *workers,
	const struct bench_clock *clock, uint64_t now_ns, struct bench_tally *before);
void bench_show_table(const struct bench_outcome *o);
void bench_show_json(const struct bench_outcome *o);

#endif
