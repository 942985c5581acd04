/* SPDX-License-Identifier: Apache-2.0 */
/* A session's thread: takes a frame, has its operations done, sends the answers. All sessions of a
 * worker take from one socket; whoever is idle gets the next frame. */
#include "worker.h"

#include "kekd/clock.h"
#include "kekd/control.h"
#include "kekd/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define STRIKES_MAX 3 /* calls in a row that asked for a restart */

struct exchange {
	uint8_t in[FRAME_SIZE_MAX];
	struct hsm_op ops[FRAME_OPS_MAX];
	struct frame_head head;
	struct buf result;
};

static int
decode(struct exchange *x, size_t len)
{
	struct reader r = READER(x->in, len);
	size_t room = FRAME_SIZE_MAX;
	struct buf head = BUF_INIT(64);

	frame_put_result_head(&head, &(struct frame_head){ 0 });
	room -= head.len;
	buf_free(&head);
	if (frame_get_head(&r, false, &x->head))
		return -EBADMSG;
	for (uint16_t i = 0; i < x->head.count; i++) {
		size_t most;
		if (frame_get_request(&r, &x->ops[i]))
			return -EBADMSG;
		most = frame_result_size_max(&x->ops[i]);
		if (most > room)
			return -EBADMSG;
		room -= most;
	}
	return reader_left(&r) == 0 ? 0 : -EBADMSG;
}

/* Whoever answers next tells of them, whichever session it was. */
static uint8_t
take_copies(struct worker *w)
{
	unsigned n = atomic_exchange(&w->copies, 0);

	if (n > UINT8_MAX)
		atomic_fetch_add(&w->copies, n - UINT8_MAX);
	return n < UINT8_MAX ? (uint8_t)n : UINT8_MAX;
}

/* The head says how long it took, so the answers are written behind a head that is written again.
 */
static void
answer(struct session *s, struct exchange *x)
{
	uint64_t start = clock_boot_ns();
	struct buf head = BUF_INIT(64);

	buf_reset(&x->result);
	frame_put_result_head(&x->result, &x->head);
	for (uint16_t i = 0; i < x->head.count; i++) {
		ops_run(s, &x->ops[i]);
		frame_put_result(&x->result, &x->ops[i]);
		ops_wipe(s, &x->ops[i]);
	}
	x->head.micros = (uint32_t)((clock_boot_ns() - start) / 1000);
	x->head.copies = take_copies(s->w);
	frame_put_result_head(&head, &x->head);
	if (!x->result.bad && !head.bad)
		memcpy(x->result.data, head.data, head.len);
	buf_free(&head);
}

static int
give(struct session *s, struct exchange *x)
{
	ssize_t n;

	if (x->result.bad) {
		log_error("no memory for an answer");
		return CHILD_EXIT_FAILED;
	}
	do
		n = send(s->w->net, x->result.data, x->result.len, MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	buf_reset(&x->result);
	if (atomic_load(&s->w->p11.strikes) < STRIKES_MAX)
		return 0; /* the end of the socket shows at the next receive */
	log_error("token \"%s\" failed %d times in a row: the worker ends, to be started again",
		s->w->part.token, STRIKES_MAX);
	return CHILD_EXIT_FAILED;
}

static int
serve_frames(struct session *s, struct exchange *x)
{
	ssize_t n;
	int status = 0;

	while (!status) {
		n = recv(s->w->net, x->in, sizeof(x->in), MSG_TRUNC);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return 0;
		if ((size_t)n > sizeof(x->in) || decode(x, (size_t)n)) {
			log_error("kekd-net sent what is no frame");
			return CHILD_EXIT_FAILED;
		}
		answer(s, x);
		secret_wipe(x->in, (size_t)n);
		status = give(s, x);
	}
	return status;
}

int
serve(struct session *s)
{
	struct exchange *x = calloc(1, sizeof(*x));
	int status = CHILD_EXIT_FAILED;

	s->out = malloc(FRAME_SIZE_MAX);
	s->out2 = malloc(FRAME_SIZE_MAX);
	if (x && s->out && s->out2) {
		x->result = BUF_INIT(FRAME_SIZE_MAX);
		status = serve_frames(s, x);
		buf_free(&x->result);
	}
	free(s->out2);
	free(s->out);
	free(x);
	return status;
}
