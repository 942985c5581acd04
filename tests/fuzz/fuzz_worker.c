/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A worker that reads what kekd-net sends: the input is up to two blocks, each a frame. serve.c
 * runs as it is; in place of the token each operation gets the longest answer that it may have.
 */
#include "fuzz.h"

#include "../../src/hsm/worker/worker.h"

#include <sys/socket.h>
#include <unistd.h>

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc, (void)argv;
	fuzz_quiet();
	return 0;
}

void
ops_run(struct session *s, struct hsm_op *op)
{
	size_t most = frame_result_size_max(op) - frame_result_size_max(&(struct hsm_op){ 0 });
	volatile uint8_t sum = 0;

	/* What an operation may look at is there. */
	for (uint32_t i = 0; i < op->aad_len; i++)
		sum ^= op->aad[i];
	for (uint32_t i = 0; i < op->aad2_len; i++)
		sum ^= op->aad2[i];
	for (uint32_t i = 0; i < op->in_len; i++)
		sum ^= op->in[i];
	require(op->object.len <= OBJECT_ID_MAX && op->object2.len <= OBJECT_ID_MAX);
	require(op->iv_len <= sizeof(op->iv) && most <= FRAME_SIZE_MAX);
	op->out = s->out;
	op->out2 = s->out2;
	op->out2_len = op->kind == HSM_OP_GENERATE ? op->size : 0;
	op->out_len = (uint32_t)most - op->out2_len;
	memset(op->out, sum, op->out_len);
	memset(op->out2, sum, op->out2_len);
	op->iv_len = 16;
}

void
ops_wipe(struct session *s, const struct hsm_op *op)
{
	(void)s, (void)op;
}

static uint8_t reply[FRAME_SIZE_MAX + 1];

/* Each answer is a whole frame that fits. */
static void
take_answers(int fd)
{
	struct reader r;
	struct frame_head head;
	ssize_t n;

	while ((n = recv(fd, reply, sizeof(reply), MSG_DONTWAIT | MSG_TRUNC)) > 0) {
		require(n <= FRAME_SIZE_MAX);
		r = READER(reply, (size_t)n);
		require(frame_get_head(&r, true, &head) == 0 && head.count > 0);
	}
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input in = { data, size };
	struct worker w = { 0 };
	struct session s = { .w = &w };
	int pair[2];

	require(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
	/* Two: more answers might not fit the socket, and nobody takes them meanwhile. */
	for (int i = 0; i < 2 && in.left > 0; i++) {
		size_t len;
		const uint8_t *frame = fuzz_block(&in, &len);

		if (len > 0 && send(pair[0], frame, len, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
			break;
	}
	shutdown(pair[0], SHUT_WR);
	w.net = pair[1];
	serve(&s);
	take_answers(pair[0]);
	close(pair[0]);
	close(pair[1]);
	return 0;
}
