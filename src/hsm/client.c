/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kekd-net's side of the workers: queues, frames, deadlines, and what becomes of the work of a
 * worker that died. Not here: the bytes of a frame (frames.c), the token (worker/).
 *
 * One lock covers all of it. Frames are sent under the lock by whoever finds an idle session, a
 * submitting thread or the reader, and never block. Sockets are received from, replaced and closed
 * by the reader alone. Endings are collected under the lock and told outside of it.
 *
 * Slow is not hung: a worker that keeps a frame beyond the deadline gets no new work until it has
 * answered; one that keeps it beyond `hang`, or gives no sign of life for so long while it opens
 * its token, is reported once, to be killed and started anew. Of each token only one at a time: the
 * next when that one is back or has failed.
 */
#include "kekd/hsm.h"

#include "kekd/clock.h"
#include "kekd/err.h"
#include "kekd/log.h"
#include "kekd/secret.h"
#include "kekd/str.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define FRAME_MICROS_MAX 1000.0 /* token time that one frame may take */
#define FRAME_MICROS_MIN 50.0	/* less is not worth a frame of its own */
#define COST_FIRST 50.0		/* microseconds per operation, until measured */
#define COST_WEIGHT (1.0 / 16)
#define NO_WORKER UINT32_MAX
#define LATE_SLACK_NS CLOCK_MS /* a frame is sent a moment after its operations came */
#define REPORT_AGAIN_NS (100 * CLOCK_MS)
/* What may wait, in estimated time: longer queues make no token faster. A session may have some
 * operations before it in any case, and a batch may wait as long as it takes itself. */
#define WAIT_MICROS 30000.0
#define WAIT_OPERATIONS 16
/* A burst may fill the queue; while there is more than a burst, a full one would but make everybody
 * wait for as long as others are refused. Then it is tried again whether it still is. */
#define TIGHT_NS (10 * CLOCK_S)
#define TIGHT_MICROS 5000.0
#define TIGHT_OPERATIONS 4
#define BULK_WAIT_MICROS 1000000.0
#define BULK_COUNT 16 /* a batch of more has its place in the other queue */
#define COST_CREDIBLE \
	100000.0 /* microseconds; above it, a worker stood still rather than worked \
		  */

struct frame;
struct job;
struct worker;

/* One operation on its way: in a queue (list), in a frame, or done. */
struct work {
	struct work *next, *prev;
	struct queue *list;
	struct frame *frame;
	struct job *job;
	struct hsm_op *op;
	uint32_t worker; /* NO_WORKER: any */
	bool replayed, done;
};

struct queue {
	struct work *head, *tail;
	size_t count;
};

/* A batch, from submission until it has ended and no frame points to its work. */
struct job {
	struct job *next, *prev; /* by deadline: all have the same time, so by submission */
	struct hsm_batch *batch;
	size_t in_frames;
	bool told; /* done was called: the batch and its ops are the caller's again */
	size_t count;
	struct work work[];
};

struct frame {
	struct frame *next;
	struct worker *worker;
	uint32_t id;
	uint16_t count;
	bool late, measured;
	uint64_t sent_ns;
	struct work *work[FRAME_OPS_MAX];
};

struct worker {
	int fd;	    /* -1: none */
	int new_fd; /* -1: none; installed by the reader */
	bool ready, attached_before;
	bool broken;	  /* the reader is to close it */
	uint32_t late;	  /* frames that missed a deadline and are not answered yet */
	uint64_t sign_ns; /* its last sign of life while it was not ready */
	bool reported;	  /* as one that hangs, and no new socket came since */
	bool given_up;	  /* its socket was closed while it may be there */
	struct frame *frames;
	struct queue own; /* for this worker alone */
	struct hsm_worker_status status;
};

struct token {
	struct queue queue, bulk; /* served in turn */
	bool bulk_turn;
	uint64_t tight_ns;  /* until then less may wait */
	atomic_bool behind; /* single operations are refused, until half of what waits is done */
	unsigned next_worker;
	struct worker *replaced; /* it hung, and is to come back before another one goes; or NULL */
	uint64_t replaced_ns;
	uint64_t timeouts, replays;
	struct worker *workers;
};

struct hsm {
	struct hsm_config config;
	pthread_mutex_t lock;
	pthread_t reader;
	int wake;
	bool stop, changed;
	uint64_t report_ns; /* nobody could be told of a worker that hangs: the next time */
	uint32_t next_id;
	struct token *tokens;
	struct job *jobs_head, *jobs_tail;
	struct job *ended; /* chained by next */
	struct buf out;	   /* under the lock */
	uint8_t *in;	   /* the reader's */
	struct pollfd *poll;
};

static bool
is_replayable(const struct hsm_op *op)
{
	return op->kind < HSM_OP_CREATE_KEK;
}

/* Only what the data plane does over and over tells the cost of an operation. */
static bool
is_measured(const struct hsm_op *op)
{
	return op->kind <= HSM_OP_SEAL;
}

/* What an operation is told whose worker is gone. With its worker go the copies to be dropped. */
static int
lost_err(const struct hsm_op *op)
{
	return op->kind == HSM_OP_DROP ? 0 : KEKD_EHSM;
}

static void
queue_unlink(struct work *k)
{
	struct queue *q = k->list;

	if (!q)
		return;
	*(k->prev ? &k->prev->next : &q->head) = k->next;
	*(k->next ? &k->next->prev : &q->tail) = k->prev;
	k->next = k->prev = NULL;
	k->list = NULL;
	q->count--;
}

static void
queue_append(struct queue *q, struct work *k)
{
	k->prev = q->tail;
	k->next = NULL;
	*(q->tail ? &q->tail->next : &q->head) = k;
	q->tail = k;
	k->list = q;
	q->count++;
}

static void
queue_prepend(struct queue *q, struct work *k)
{
	k->prev = NULL;
	k->next = q->head;
	*(q->head ? &q->head->prev : &q->tail) = k;
	q->head = k;
	k->list = q;
	q->count++;
}

static void
job_append(struct hsm *hsm, struct job *job)
{
	job->prev = hsm->jobs_tail;
	*(hsm->jobs_tail ? &hsm->jobs_tail->next : &hsm->jobs_head) = job;
	hsm->jobs_tail = job;
}

static void
job_end(struct hsm *hsm, struct job *job)
{
	*(job->prev ? &job->prev->next : &hsm->jobs_head) = job->next;
	*(job->next ? &job->next->prev : &hsm->jobs_tail) = job->prev;
	job->prev = NULL;
	job->next = hsm->ended;
	hsm->ended = job;
}

static void
job_free_if_idle(struct job *job)
{
	if (job->told && job->in_frames == 0)
		free(job);
}

/* The answer is in the op already, all but err. */
static void
work_finish(struct hsm *hsm, struct work *k, int err)
{
	if (k->done)
		return;
	queue_unlink(k);
	k->done = true;
	k->op->err = err;
	if (--k->job->batch->left == 0)
		job_end(hsm, k->job);
}

static void
work_leave_frame(struct work *k)
{
	k->frame = NULL;
	k->job->in_frames--;
	job_free_if_idle(k->job);
}

static bool
worker_usable(const struct worker *w)
{
	return w->ready && !w->broken && w->late == 0;
}

static uint32_t
worker_idle(const struct worker *w)
{
	uint32_t sessions = w->status.hello.sessions, busy = w->status.in_flight;

	return worker_usable(w) && busy < sessions ? sessions - busy : 0;
}

static bool
token_usable(const struct hsm *hsm, const struct token *t)
{
	for (unsigned i = 0; i < hsm->config.workers; i++)
		if (worker_usable(&t->workers[i]))
			return true;
	return false;
}

static size_t
operations_for(const struct worker *w, double micros)
{
	double n = micros / w->status.micros_per_op;

	return n < 1 ? 1 : n > FRAME_OPS_MAX ? FRAME_OPS_MAX : (size_t)n;
}

/* How many of the queue's first operations fit one frame, in both directions. */
static size_t
fitting(const struct queue *q, size_t most)
{
	struct buf head = BUF_INIT(64);
	size_t request, result, n = 0;

	frame_put_result_head(&head, &(struct frame_head){ 0 });
	request = result = head.len;
	buf_free(&head);
	for (const struct work *k = q->head; k && n < most; k = k->next, n++) {
		request += frame_request_size(k->op);
		result += frame_result_size_max(k->op);
		if (request > FRAME_SIZE_MAX || result > FRAME_SIZE_MAX)
			break;
	}
	return n;
}

static bool
fits_alone(struct hsm_op *op)
{
	struct work k = { .op = op };
	struct queue q = { &k, &k, 1 };

	return fitting(&q, 1) == 1;
}

static int
frame_send(struct hsm *hsm, const struct worker *w, const struct queue *q, struct frame *f)
{
	const struct work *k = q->head;
	ssize_t n;

	buf_reset(&hsm->out);
	frame_put_request_head(&hsm->out, &(struct frame_head){ .id = f->id, .count = f->count });
	for (uint16_t i = 0; i < f->count; i++, k = k->next) {
		frame_put_request(&hsm->out, k->op);
		f->measured = f->measured && is_measured(k->op);
	}
	if (hsm->out.bad)
		return -ENOMEM;
	n = send(w->fd, hsm->out.data, hsm->out.len, MSG_DONTWAIT | MSG_NOSIGNAL);
	n = n < 0 ? -errno : 0;
	buf_reset(&hsm->out); /* it may hold plaintexts */
	return (int)n;
}

static void
reader_wake(const struct hsm *hsm)
{
	(void)!write(hsm->wake, &(uint64_t){ 1 }, sizeof(uint64_t)); /* full wakes as well */
}

/* The reader is to give the worker up. */
static void
worker_break(struct hsm *hsm, struct worker *w)
{
	w->broken = true;
	reader_wake(hsm);
}

/* The queue's first operations, at most `most`, to the worker. False: nothing was sent, the queue
 * is as it was. */
static bool
worker_give(struct hsm *hsm, struct worker *w, struct queue *q, size_t most)
{
	struct frame *f = calloc(1, sizeof(*f));
	int err;

	if (!f)
		return false;
	f->worker = w;
	f->id = hsm->next_id++;
	f->sent_ns = clock_boot_ns();
	f->count = (uint16_t)fitting(q, most);
	f->measured = true;
	err = frame_send(hsm, w, q, f);
	if (err) {
		/* Full: what it has will be answered, and that asks again. */
		if (err != -EAGAIN && err != -ENOBUFS && err != -ENOMEM)
			worker_break(hsm, w);
		free(f);
		return false;
	}
	for (uint16_t i = 0; i < f->count; i++) {
		struct work *k = q->head;
		queue_unlink(k);
		k->frame = f;
		k->job->in_frames++;
		f->work[i] = k;
	}
	f->next = w->frames;
	w->frames = f;
	w->status.in_flight++;
	w->status.frames++;
	w->status.operations += f->count;
	return true;
}

/* The worker with most idle sessions, in turn where several have as many. */
static struct worker *
token_pick(const struct hsm *hsm, struct token *t, size_t *ret_idle)
{
	struct worker *best = NULL;
	size_t idle = 0;

	for (unsigned i = 0; i < hsm->config.workers; i++) {
		struct worker *w = &t->workers[(t->next_worker + i) % hsm->config.workers];
		idle += worker_idle(w);
		if (worker_idle(w) > (best ? worker_idle(best) : 0))
			best = w;
	}
	*ret_idle = idle;
	return best;
}

static size_t
token_waiting(const struct token *t)
{
	return t->queue.count + t->bulk.count;
}

/* In turn while both wait: batches do not hold up single operations, nor those batches. */
static struct queue *
token_next_queue(struct token *t)
{
	t->bulk_turn = t->queue.count == 0 || (t->bulk.count > 0 && !t->bulk_turn);
	return t->bulk_turn ? &t->bulk : &t->queue;
}

/* Operations that the token does in a microsecond, by what was measured. */
static double
token_pace(const struct hsm *hsm, const struct token *t)
{
	double pace = 0;

	for (unsigned i = 0; i < hsm->config.workers; i++) {
		const struct worker *w = &t->workers[i];
		double cost = w->status.micros_per_op;
		if (worker_usable(w))
			pace += w->status.hello.sessions /
				(cost < COST_CREDIBLE ? cost : COST_CREDIBLE);
	}
	return pace;
}

static size_t
token_sessions(const struct hsm *hsm, const struct token *t)
{
	size_t n = 0;

	for (unsigned i = 0; i < hsm->config.workers; i++)
		n += worker_usable(&t->workers[i]) ? t->workers[i].status.hello.sessions : 0;
	return n;
}

static double
larger(double a, double b)
{
	return a > b ? a : b;
}

static bool
token_is_tight(const struct token *t)
{
	return clock_boot_ns() < t->tight_ns;
}

/* Microseconds that a single operation may wait. */
static double
token_patience(const struct hsm *hsm, const struct token *t, double pace)
{
	bool tight = token_is_tight(t);
	double a_session = (double)token_sessions(hsm, t) / pace;

	return larger(tight ? TIGHT_MICROS : WAIT_MICROS,
		a_session * (tight ? TIGHT_OPERATIONS : WAIT_OPERATIONS));
}

/* Microseconds that n more operations would wait, and the most that they may. */
static double
token_wait(const struct hsm *hsm, const struct token *t, size_t n, double *ret_most)
{
	const struct queue *q = n > BULK_COUNT ? &t->bulk : &t->queue;
	const struct queue *other = n > BULK_COUNT ? &t->queue : &t->bulk;
	double pace = token_pace(hsm, t), deadline = hsm->config.deadline_ms * 1000.0, most;

	if (n > BULK_COUNT)
		most = larger(BULK_WAIT_MICROS, (double)n / pace);
	else
		most = token_patience(hsm, t, pace);
	*ret_most = most < deadline / 2 ? most : deadline / 2;
	return (double)q->count / pace * (other->count > 0 ? 2 : 1);
}

static bool
token_is_behind(const struct hsm *hsm, struct token *t, size_t n)
{
	double most, wait;

	if ((n > BULK_COUNT ? &t->bulk : &t->queue)->count == 0)
		return false;
	wait = token_wait(hsm, t, n, &most);
	if (wait <= most)
		return false;
	if (n <= BULK_COUNT && !token_is_tight(t))
		t->tight_ns = clock_boot_ns() + TIGHT_NS;
	if (n <= BULK_COUNT)
		atomic_store(&t->behind, true);
	return true;
}

static void
token_note_progress(const struct hsm *hsm, struct token *t)
{
	double most;

	if (!atomic_load(&t->behind))
		return;
	if (t->queue.count == 0 || token_wait(hsm, t, 1, &most) <= most / 2)
		atomic_store(&t->behind, false);
}

static void
token_dispatch(struct hsm *hsm, struct token *t)
{
	size_t idle;

	/* What is for one worker alone goes at once: its socket keeps the order, and a worker that
	 * is late must have read it before it gets any other work. */
	for (unsigned i = 0; i < hsm->config.workers; i++) {
		struct worker *w = &t->workers[i];
		while (w->own.count > 0 && w->ready && !w->broken &&
			worker_give(hsm, w, &w->own, FRAME_OPS_MAX))
			;
	}
	while (token_waiting(t) > 0) {
		struct worker *w = token_pick(hsm, t, &idle);
		struct queue *q;
		size_t share, least, most;
		if (!w)
			return;
		q = token_next_queue(t);
		share = (q->count + idle - 1) / idle;
		least = operations_for(w, FRAME_MICROS_MIN);
		most = operations_for(w, FRAME_MICROS_MAX);
		if (share < least)
			share = least;
		if (!worker_give(hsm, w, q, share < most ? share : most) && !w->broken)
			return;
		t->next_worker = (unsigned)(w - t->workers + 1) % hsm->config.workers;
	}
}

/* Nobody is left who could do it: say so now rather than at the deadline. */
static void
token_fail_if_unusable(struct hsm *hsm, struct token *t)
{
	if (token_usable(hsm, t))
		return;
	while (t->queue.head)
		work_finish(hsm, t->queue.head, KEKD_EHSM);
	while (t->bulk.head)
		work_finish(hsm, t->bulk.head, KEKD_EHSM);
}

static void
frame_lose(struct hsm *hsm, struct token *t, struct frame *f)
{
	for (uint16_t i = f->count; i-- > 0;) {
		struct work *k = f->work[i];
		if (!k->done && is_replayable(k->op) && k->op->kind != HSM_OP_DROP &&
			!k->replayed) {
			k->replayed = true;
			t->replays++;
			queue_prepend(&t->queue, k);
		} else {
			work_finish(hsm, k, k->done ? 0 : lost_err(k->op));
		}
		work_leave_frame(k);
	}
	free(f);
}

/* The reader alone: closes the socket; what it had goes elsewhere or fails. */
static void
worker_lose(struct hsm *hsm, struct token *t, struct worker *w)
{
	struct frame *f;

	if (w->fd < 0)
		return;
	close(w->fd);
	w->fd = -1;
	w->ready = w->broken = false;
	w->late = 0;
	w->sign_ns = clock_boot_ns();
	if (t->replaced == w && !w->reported)
		t->replaced = NULL; /* it came back, and failed */
	w->status.in_flight = 0;
	hsm->changed = true;
	if (w->status.hello.state == HSM_STATE_READY) {
		w->status.hello.state = HSM_STATE_FAILED;
		snprintf(w->status.hello.message, sizeof(w->status.hello.message),
			"the worker ended and is to be started again");
	}
	while ((f = w->frames)) {
		w->frames = f->next;
		frame_lose(hsm, t, f);
	}
	while (w->own.head)
		work_finish(hsm, w->own.head, lost_err(w->own.head->op));
	token_fail_if_unusable(hsm, t);
}

static struct frame *
worker_take_frame(struct worker *w, uint32_t id)
{
	for (struct frame **p = &w->frames; *p; p = &(*p)->next) {
		struct frame *f = *p;
		if (f->id != id)
			continue;
		*p = f->next;
		w->status.in_flight--;
		if (f->late)
			w->late--;
		return f;
	}
	return NULL;
}

static void
worker_measure(struct worker *w, const struct frame *f, uint32_t micros)
{
	double cost = (double)micros / f->count;

	if (!f->measured)
		return;
	if (cost < 1)
		cost = 1;
	w->status.micros_per_op += (cost - w->status.micros_per_op) * COST_WEIGHT;
}

/* Reads the next answer. A late one has no op any more, and is passed over. 0 or -EBADMSG: the
 * frame is broken. */
static int
take_answer(struct hsm *hsm, struct reader *r, struct work *k)
{
	struct hsm_op nobody = { 0 };
	int err = frame_get_result(r, k->done ? &nobody : k->op);

	if (r->bad)
		return -EBADMSG;
	if (!k->done)
		work_finish(hsm, k, err ? KEKD_EINTERNAL : k->op->err);
	return 0;
}

static int
worker_take_result(struct hsm *hsm, struct token *t, struct worker *w, struct reader *r)
{
	struct frame_head head;
	struct frame *f;
	uint16_t i = 0;

	if (frame_get_head(r, true, &head))
		return -EBADMSG;
	f = worker_take_frame(w, head.id);
	if (!f)
		return -EBADMSG;
	if (head.count == f->count)
		for (; i < f->count && take_answer(hsm, r, f->work[i]) == 0; i++)
			work_leave_frame(f->work[i]);
	if (i < f->count || reader_left(r) > 0) {
		memmove(f->work, f->work + i, (f->count - i) * sizeof(f->work[0]));
		f->count -= i;
		frame_lose(hsm, t, f);
		return -EBADMSG;
	}
	w->status.copy_hits += head.copies;
	worker_measure(w, f, head.micros);
	free(f);
	return 0;
}

/* The first frame; again when a worker that served has to give up. */
static void
worker_take_hello(struct hsm *hsm, struct token *t, struct worker *w, const struct hsm_hello *hello)
{
	w->status.hello = *hello;
	w->sign_ns = clock_boot_ns();
	if (t->replaced == w && !w->reported)
		t->replaced = NULL; /* it is back */
	w->ready = hello->state == HSM_STATE_READY && hello->sessions > 0;
	hsm->changed = true;
	token_fail_if_unusable(hsm, t);
}

static int
worker_take(struct hsm *hsm, struct token *t, struct worker *w, size_t len)
{
	struct reader r = READER(hsm->in, len);
	struct hsm_hello hello;
	int err = 0;

	if (frame_get_hello(hsm->in, len, &hello) == 0)
		worker_take_hello(hsm, t, w, &hello);
	else
		err = w->ready ? worker_take_result(hsm, t, w, &r) : -EBADMSG;
	secret_wipe(hsm->in, len);
	if (err)
		log_error("a worker of token \"%s\" sent what is no frame: it is given up",
			hsm->config.names[t - hsm->tokens]);
	return err;
}

static void
worker_receive(struct hsm *hsm, struct token *t, struct worker *w)
{
	ssize_t n = recv(w->fd, hsm->in, FRAME_SIZE_MAX, MSG_DONTWAIT | MSG_TRUNC);
	int err = -EPIPE;

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	pthread_mutex_lock(&hsm->lock);
	if (n > 0 && n <= FRAME_SIZE_MAX)
		err = worker_take(hsm, t, w, (size_t)n);
	if (err) {
		worker_lose(hsm, t, w);
		w->given_up = err != -EPIPE;
	}
	token_dispatch(hsm, t);
	token_note_progress(hsm, t);
	pthread_mutex_unlock(&hsm->lock);
}

static void
work_expire(struct hsm *hsm, struct work *k)
{
	struct token *t = &hsm->tokens[k->op->token];

	if (k->done)
		return;
	t->timeouts++;
	/* A worker that cannot even be told to drop its copies must not serve on. */
	if (k->worker != NO_WORKER && !k->frame)
		worker_break(hsm, &t->workers[k->worker]);
	work_finish(hsm, k, KEKD_ETIMEOUT);
}

static void
expire(struct hsm *hsm, uint64_t now)
{
	struct job *job;

	while ((job = hsm->jobs_head) && job->batch->deadline_ns <= now)
		for (size_t i = 0; i < job->count; i++)
			work_expire(hsm, &job->work[i]);
}

/* A frame's own age counts: what waited long in the queue says nothing of the worker. */
static void
worker_note_late(struct hsm *hsm, struct token *t, struct worker *w, uint64_t now)
{
	for (struct frame *f = w->frames; f; f = f->next) {
		if (f->late ||
			now + LATE_SLACK_NS < f->sent_ns + hsm->config.deadline_ms * CLOCK_MS)
			continue;
		f->late = true;
		w->late++;
		w->status.missed_deadlines++;
		hsm->changed = true;
	}
	if (w->late > 0)
		token_fail_if_unusable(hsm, t);
}

/* Since when has it owed an answer, or a sign of life? UINT64_MAX: it owes none. */
static uint64_t
worker_owes_since(const struct worker *w)
{
	uint64_t since = UINT64_MAX;

	if (!w->ready)
		return w->fd >= 0 || w->given_up ? w->sign_ns : UINT64_MAX;
	for (const struct frame *f = w->frames; f; f = f->next)
		if (f->sent_ns < since)
			since = f->sent_ns;
	return since;
}

/* 0, or nobody could be told. */
static int
worker_report(struct hsm *hsm, struct token *t, struct worker *w, uint64_t now)
{
	unsigned token = (unsigned)(t - hsm->tokens), worker = (unsigned)(w - t->workers);
	int err = hsm->config.hangs(hsm->config.user, token, worker);

	if (err)
		return err;
	w->reported = true;
	w->status.hang_kills += w->fd >= 0;
	t->replaced = w;
	t->replaced_ns = now;
	return 0;
}

/* The one that has owed longest goes first, and alone. */
static void
token_report_hung(struct hsm *hsm, struct token *t, uint64_t now)
{
	const uint64_t hang = hsm->config.hang_ms * CLOCK_MS;
	struct worker *worst = NULL;
	uint64_t since = UINT64_MAX;

	if (!hsm->config.hangs || now < hsm->report_ns)
		return;
	if (t->replaced && now >= t->replaced_ns + hang)
		t->replaced = NULL; /* it does not come back */
	for (unsigned i = 0; i < hsm->config.workers && !t->replaced; i++) {
		struct worker *w = &t->workers[i];
		if (w->reported || worker_owes_since(w) >= since)
			continue;
		since = worker_owes_since(w);
		worst = w;
	}
	if (worst && now >= since + hang && worker_report(hsm, t, worst, now))
		hsm->report_ns = now + REPORT_AGAIN_NS;
}

/* Sockets that broke go, and those that came are taken into use. */
static void
worker_renew(struct hsm *hsm, struct token *t, struct worker *w)
{
	if (w->broken || w->new_fd >= 0) {
		worker_lose(hsm, t, w);
		w->given_up = true;
	}
	if (w->new_fd < 0)
		return;
	w->fd = w->new_fd;
	w->new_fd = -1;
	w->status.restarts += w->attached_before;
	w->attached_before = true;
	w->sign_ns = clock_boot_ns();
	w->reported = w->given_up = false;
	hsm->changed = true;
}

static struct worker *
worker_at(const struct hsm *hsm, size_t i, struct token **ret_token)
{
	*ret_token = &hsm->tokens[i / hsm->config.workers];
	return &(*ret_token)->workers[i % hsm->config.workers];
}

static size_t
worker_count(const struct hsm *hsm)
{
	return (size_t)hsm->config.tokens * hsm->config.workers;
}

/* What time brings: expired work, broken and new sockets. */
static void
reader_keep_house(struct hsm *hsm)
{
	const uint64_t now = clock_boot_ns();
	struct token *t;

	expire(hsm, now);
	for (size_t i = 0; i < worker_count(hsm); i++) {
		struct worker *w = worker_at(hsm, i, &t);
		worker_note_late(hsm, t, w, now);
		worker_renew(hsm, t, w);
		hsm->poll[i].fd = w->fd;
		hsm->poll[i].events = POLLIN;
	}
	for (unsigned i = 0; i < hsm->config.tokens; i++) {
		token_report_hung(hsm, &hsm->tokens[i], now);
		token_dispatch(hsm, &hsm->tokens[i]);
	}
}

static uint64_t
earlier(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* When a worker gets late or counts as hung: what is past is done with, or waits for its turn. */
static uint64_t
worker_next_ns(const struct hsm *hsm, const struct worker *w, uint64_t now)
{
	const uint64_t deadline = hsm->config.deadline_ms * CLOCK_MS,
		       hang = hsm->config.hang_ms * CLOCK_MS;
	uint64_t owes = worker_owes_since(w), next = UINT64_MAX;

	for (const struct frame *f = w->frames; f; f = f->next)
		if (!f->late)
			next = earlier(next, f->sent_ns + deadline);
	if (hsm->config.hangs && owes != UINT64_MAX && owes + hang > now)
		next = earlier(next, owes + hang);
	return next;
}

/* Never longer than a whole deadline: so nobody who submits has to wake the reader for it. */
static int
reader_timeout_ms(const struct hsm *hsm)
{
	uint64_t ms = hsm->config.deadline_ms, now = clock_boot_ns(), until = now + ms * CLOCK_MS;
	struct token *t;

	if (hsm->jobs_head)
		until = earlier(until, hsm->jobs_head->batch->deadline_ns);
	for (size_t i = 0; i < worker_count(hsm); i++)
		until = earlier(until, worker_next_ns(hsm, worker_at(hsm, i, &t), now));
	if (hsm->report_ns > now)
		until = earlier(until, hsm->report_ns);
	if (until <= now)
		return 0;
	until = (until - now + CLOCK_MS - 1) / CLOCK_MS;
	return (int)(until < ms ? until : ms);
}

/* Tells what ended, outside the lock. */
static void
reader_tell(struct hsm *hsm)
{
	struct job *ended, *next;
	bool changed;

	pthread_mutex_lock(&hsm->lock);
	ended = hsm->ended;
	hsm->ended = NULL;
	changed = hsm->changed;
	hsm->changed = false;
	pthread_mutex_unlock(&hsm->lock);
	for (struct job *job = ended; job; job = job->next)
		job->batch->done(job->batch);
	pthread_mutex_lock(&hsm->lock);
	for (; ended; ended = next) {
		next = ended->next;
		ended->told = true;
		job_free_if_idle(ended);
	}
	pthread_mutex_unlock(&hsm->lock);
	if (changed && hsm->config.changed)
		hsm->config.changed(hsm->config.user);
}

/* Waits for the sockets. False: it is to stop. */
static bool
reader_wait(struct hsm *hsm)
{
	struct pollfd *wake = &hsm->poll[worker_count(hsm)];
	uint64_t count;
	bool stop;
	int timeout;

	pthread_mutex_lock(&hsm->lock);
	reader_keep_house(hsm);
	timeout = hsm->ended || hsm->changed ? 0 : reader_timeout_ms(hsm);
	stop = hsm->stop;
	pthread_mutex_unlock(&hsm->lock);
	if (stop)
		return false;
	*wake = (struct pollfd){ .fd = hsm->wake, .events = POLLIN };
	if (poll(hsm->poll, worker_count(hsm) + 1, timeout) <= 0) {
		for (size_t i = 0; i <= worker_count(hsm); i++)
			hsm->poll[i].revents = 0;
		return true;
	}
	if (wake->revents)
		(void)!read(hsm->wake, &count, sizeof(count));
	return true;
}

static void *
reader_main(void *arg)
{
	struct hsm *hsm = arg;
	struct token *t;
	struct job *job;

	while (reader_wait(hsm)) {
		for (size_t i = 0; i < worker_count(hsm); i++) {
			struct worker *w = worker_at(hsm, i, &t);
			if (hsm->poll[i].revents)
				worker_receive(hsm, t, w);
		}
		reader_tell(hsm);
	}
	pthread_mutex_lock(&hsm->lock);
	while ((job = hsm->jobs_head))
		for (size_t i = 0; i < job->count; i++)
			work_finish(hsm, &job->work[i], KEKD_EHSM);
	for (size_t i = 0; i < worker_count(hsm); i++) {
		struct worker *w = worker_at(hsm, i, &t);
		if (w->new_fd >= 0)
			close(w->new_fd);
		worker_lose(hsm, t, w);
	}
	pthread_mutex_unlock(&hsm->lock);
	reader_tell(hsm);
	return NULL;
}

static void
hsm_free(struct hsm *hsm)
{
	for (unsigned i = 0; hsm->tokens && i < hsm->config.tokens; i++)
		free(hsm->tokens[i].workers);
	if (hsm->wake >= 0)
		close(hsm->wake);
	buf_free(&hsm->out);
	pthread_mutex_destroy(&hsm->lock);
	free(hsm->tokens);
	free(hsm->poll);
	free(hsm->in);
	free(hsm);
}

static int
hsm_allocate(struct hsm *hsm)
{
	hsm->out = BUF_INIT(FRAME_SIZE_MAX);
	hsm->in = malloc(FRAME_SIZE_MAX);
	hsm->tokens = calloc(hsm->config.tokens, sizeof(*hsm->tokens));
	hsm->poll = calloc(worker_count(hsm) + 1, sizeof(*hsm->poll));
	if (!hsm->in || !hsm->tokens || !hsm->poll)
		return -ENOMEM;
	for (unsigned i = 0; i < hsm->config.tokens; i++) {
		hsm->tokens[i].workers = calloc(hsm->config.workers, sizeof(struct worker));
		if (!hsm->tokens[i].workers)
			return -ENOMEM;
		for (unsigned j = 0; j < hsm->config.workers; j++) {
			struct worker *w = &hsm->tokens[i].workers[j];
			w->fd = w->new_fd = -1;
			w->status.micros_per_op = COST_FIRST;
			w->status.hello.iv_len = 12;
		}
	}
	return 0;
}

int
hsm_open(const struct hsm_config *config, struct hsm **ret_hsm)
{
	struct hsm *hsm = calloc(1, sizeof(*hsm));
	int err;

	if (!hsm)
		return -ENOMEM;
	hsm->config = *config;
	pthread_mutex_init(&hsm->lock, NULL);
	hsm->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	err = hsm->wake < 0 ? -errno : hsm_allocate(hsm);
	if (!err)
		err = -pthread_create(&hsm->reader, NULL, reader_main, hsm);
	if (err) {
		hsm_free(hsm);
		return err;
	}
	*ret_hsm = hsm;
	return 0;
}

void
hsm_freep(struct hsm **hsm)
{
	struct hsm *h = *hsm;

	if (!h)
		return;
	*hsm = NULL;
	pthread_mutex_lock(&h->lock);
	h->stop = true;
	pthread_mutex_unlock(&h->lock);
	reader_wake(h);
	pthread_join(h->reader, NULL);
	hsm_free(h);
}

void
hsm_attach(struct hsm *hsm, unsigned token, unsigned worker, int fd)
{
	struct worker *w;

	if (token >= hsm->config.tokens || worker >= hsm->config.workers) {
		log_error("there is no worker %u of token %u: its socket is closed", worker, token);
		close(fd);
		return;
	}
	w = &hsm->tokens[token].workers[worker];
	pthread_mutex_lock(&hsm->lock);
	if (w->new_fd >= 0)
		close(w->new_fd);
	w->new_fd = fd;
	w->broken = w->fd >= 0; /* nothing more for the old one */
	pthread_mutex_unlock(&hsm->lock);
	reader_wake(hsm);
}

static size_t
batch_count(const struct hsm_batch *batch, unsigned token)
{
	size_t n = 0;

	for (size_t i = 0; i < batch->count; i++)
		n += batch->ops[i].token == token;
	return n;
}

/* Under the lock: can all of the batch be taken? bounded: its client can be told to come again. */
static int
batch_admit(const struct hsm *hsm, const struct hsm_batch *batch, bool bounded)
{
	for (unsigned i = 0; i < hsm->config.tokens; i++) {
		struct token *t = &hsm->tokens[i];
		size_t n = batch_count(batch, i);
		if (n > 0 && (hsm->stop || !token_usable(hsm, t)))
			return KEKD_EHSM;
		/* A batch that is larger than the bound still fits an empty queue. */
		if (n > 0 && token_waiting(t) > 0 && token_waiting(t) + n > hsm->config.queue_max)
			return KEKD_EOVERLOAD;
		if (n > 0 && bounded && token_is_behind(hsm, t, n))
			return KEKD_EOVERLOAD;
	}
	return 0;
}

static struct job *
job_new(struct hsm_batch *batch)
{
	struct job *job = calloc(1, sizeof(*job) + batch->count * sizeof(job->work[0]));

	if (!job)
		return NULL;
	job->batch = batch;
	job->count = batch->count;
	for (size_t i = 0; i < batch->count; i++)
		job->work[i] = (struct work){
			.job = job, .op = &batch->ops[i], .worker = NO_WORKER
		};
	return job;
}

/* Under the lock. */
static void
job_start(struct hsm *hsm, struct job *job)
{
	job->batch->left = job->count;
	job->batch->deadline_ns = clock_boot_ns() + hsm->config.deadline_ms * CLOCK_MS;
	job_append(hsm, job);
	for (size_t i = 0; i < job->count; i++) {
		struct work *k = &job->work[i];
		struct token *t = &hsm->tokens[k->op->token];
		k->op->err = 0;
		k->op->out_len = k->op->out2_len = 0;
		if (k->worker != NO_WORKER)
			queue_append(&t->workers[k->worker].own, k);
		else
			queue_append(job->count > BULK_COUNT ? &t->bulk : &t->queue, k);
	}
	for (unsigned i = 0; i < hsm->config.tokens; i++)
		token_dispatch(hsm, &hsm->tokens[i]);
}

static int
batch_check(const struct hsm *hsm, struct hsm_batch *batch)
{
	for (size_t i = 0; i < batch->count; i++) {
		struct hsm_op *op = &batch->ops[i];
		if (op->token >= hsm->config.tokens || op->kind == HSM_OP_DROP || !fits_alone(op))
			return KEKD_EINTERNAL;
	}
	return batch->count > 0 ? 0 : KEKD_EINTERNAL;
}

static int
submit(struct hsm *hsm, struct hsm_batch *batch, bool bounded)
{
	struct job *job;
	int err = batch_check(hsm, batch);

	if (err)
		return err;
	job = job_new(batch);
	if (!job)
		return -ENOMEM;
	pthread_mutex_lock(&hsm->lock);
	err = batch_admit(hsm, batch, bounded);
	if (!err)
		job_start(hsm, job);
	pthread_mutex_unlock(&hsm->lock);
	if (err)
		free(job);
	return err;
}

/* The second half of a rewrap between tokens was let in with the first. */
int
hsm_submit(struct hsm *hsm, struct hsm_batch *batch)
{
	return submit(hsm, batch, batch->count > 0 && batch->ops[0].kind != HSM_OP_TAKE_IN);
}

struct waiter {
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool done;
};

#define WAITER_INIT \
	{ \
		PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false \
	}

static void
waiter_done(struct hsm_batch *batch)
{
	struct waiter *w = batch->user;

	pthread_mutex_lock(&w->lock);
	w->done = true;
	pthread_cond_signal(&w->cond);
	pthread_mutex_unlock(&w->lock);
}

static void
waiter_wait(struct waiter *w)
{
	pthread_mutex_lock(&w->lock);
	while (!w->done)
		pthread_cond_wait(&w->cond, &w->lock);
	pthread_mutex_unlock(&w->lock);
	pthread_cond_destroy(&w->cond);
	pthread_mutex_destroy(&w->lock);
}

int
hsm_call(struct hsm *hsm, struct hsm_op *ops, size_t count)
{
	struct waiter waiter = WAITER_INIT;
	struct hsm_batch batch = {
		.ops = ops, .count = count, .done = waiter_done, .user = &waiter
	};
	int err = submit(hsm, &batch, false);

	if (!err)
		waiter_wait(&waiter);
	return err;
}

/* Under the lock: an operation for each worker of the token that has a session copy to drop. The
 * number of operations. */
static size_t
drops_make(const struct hsm *hsm, unsigned token, const struct object_id *object,
	struct hsm_op *ret_ops, uint32_t *ret_workers)
{
	size_t n = 0;

	for (unsigned i = 0; i < hsm->config.workers; i++) {
		const struct worker *w = &hsm->tokens[token].workers[i];
		if (!w->ready || w->broken)
			continue;
		ret_ops[n] = (struct hsm_op){
			.kind = HSM_OP_DROP, .token = token, .object = *object
		};
		ret_workers[n++] = i;
	}
	return n;
}

/* Workers that are late get theirs too, in their socket before all that comes after. */
static int
drops_call(struct hsm *hsm, unsigned token, const struct object_id *object, struct hsm_op *ops,
	uint32_t *workers)
{
	struct waiter waiter = WAITER_INIT;
	struct hsm_batch batch = { .ops = ops, .done = waiter_done, .user = &waiter };
	struct job *job = NULL;
	int err = 0;

	pthread_mutex_lock(&hsm->lock);
	batch.count = drops_make(hsm, token, object, ops, workers);
	if (batch.count > 0)
		job = job_new(&batch);
	for (size_t i = 0; job && i < batch.count; i++)
		job->work[i].worker = workers[i];
	if (job)
		job_start(hsm, job);
	pthread_mutex_unlock(&hsm->lock);
	if (!job)
		return batch.count > 0 ? -ENOMEM : 0;
	waiter_wait(&waiter);
	for (size_t i = 0; i < batch.count && !err; i++)
		err = ops[i].err;
	return err;
}

int
hsm_drop_everywhere(struct hsm *hsm, unsigned token, const struct object_id *object)
{
	struct hsm_op *ops;
	uint32_t *workers;
	int err = -ENOMEM;

	if (token >= hsm->config.tokens)
		return KEKD_EINTERNAL;
	ops = calloc(hsm->config.workers, sizeof(*ops));
	workers = calloc(hsm->config.workers, sizeof(*workers));
	if (ops && workers)
		err = drops_call(hsm, token, object, ops, workers);
	free(workers);
	free(ops);
	return err;
}

int
hsm_worker_status(
	struct hsm *hsm, unsigned token, unsigned worker, struct hsm_worker_status *ret_status)
{
	const struct worker *w;
	uint64_t owes;

	if (token >= hsm->config.tokens || worker >= hsm->config.workers)
		return -ENOENT;
	w = &hsm->tokens[token].workers[worker];
	pthread_mutex_lock(&hsm->lock);
	*ret_status = w->status;
	ret_status->attached = w->fd >= 0;
	ret_status->ready = worker_usable(w);
	ret_status->late = w->ready && w->late > 0;
	owes = worker_owes_since(w);
	pthread_mutex_unlock(&hsm->lock);
	if (ret_status->late && owes != UINT64_MAX)
		snprintf(ret_status->hello.message, sizeof(ret_status->hello.message),
			"it has not answered for %.1f s: look at the token; after hsm.hang (%.1f "
			"s) "
			"the worker is started anew",
			(double)(clock_boot_ns() - owes) / CLOCK_S, hsm->config.hang_ms / 1000.0);
	return 0;
}

/* Under the lock. */
static double
token_wait_micros(const struct hsm *hsm, const struct token *t)
{
	double pace = token_pace(hsm, t);

	return pace > 0 ? (double)token_waiting(t) / pace : 0;
}

int
hsm_token_status(struct hsm *hsm, unsigned token, struct hsm_token_status *ret_status)
{
	const struct token *t;

	if (token >= hsm->config.tokens)
		return -ENOENT;
	t = &hsm->tokens[token];
	pthread_mutex_lock(&hsm->lock);
	*ret_status = (struct hsm_token_status){
		.queued = token_waiting(t),
		.wait_micros = token_wait_micros(hsm, t),
		.timeouts = t->timeouts,
		.replays = t->replays,
	};
	for (unsigned i = 0; i < hsm->config.workers; i++) {
		ret_status->ready += worker_usable(&t->workers[i]);
		ret_status->late += t->workers[i].ready && t->workers[i].late > 0;
	}
	pthread_mutex_unlock(&hsm->lock);
	return 0;
}

bool
hsm_token_ready(struct hsm *hsm, unsigned token)
{
	bool ready;

	if (token >= hsm->config.tokens)
		return false;
	pthread_mutex_lock(&hsm->lock);
	ready = token_usable(hsm, &hsm->tokens[token]);
	pthread_mutex_unlock(&hsm->lock);
	return ready;
}

uint8_t
hsm_token_iv_len(struct hsm *hsm, unsigned token)
{
	uint8_t iv_len = 12;

	if (token >= hsm->config.tokens)
		return iv_len;
	pthread_mutex_lock(&hsm->lock);
	for (unsigned i = 0; i < hsm->config.workers; i++)
		if (hsm->tokens[token].workers[i].status.hello.iv_len != 12)
			iv_len = hsm->tokens[token].workers[i].status.hello.iv_len;
	pthread_mutex_unlock(&hsm->lock);
	return iv_len;
}

bool
hsm_is_behind(const struct hsm *hsm)
{
	for (unsigned i = 0; i < hsm->config.tokens; i++)
		if (!atomic_load(&hsm->tokens[i].behind))
			return false;
	return true;
}

size_t
hsm_queued(struct hsm *hsm)
{
	size_t n = 0;

	pthread_mutex_lock(&hsm->lock);
	for (unsigned i = 0; i < hsm->config.tokens; i++)
		n += token_waiting(&hsm->tokens[i]);
	pthread_mutex_unlock(&hsm->lock);
	return n;
}
