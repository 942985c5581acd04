/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kekd-net that reads what a worker sends: the input says which operations wait, then blocks, each
 * a frame. client.c runs as it is, with its thread. Whatever comes, each batch ends once, and what
 * is answered fits its room.
 */
#include "fuzz.h"

#include "kekd/err.h"
#include "kekd/hsm.h"

#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#define OPS_MAX 8
#define ROOM 128
#define GUARD 0xa5

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static unsigned done;

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc, (void)argv;
	fuzz_quiet();
	return 0;
}

static void
tell(void)
{
	pthread_mutex_lock(&lock);
	pthread_cond_broadcast(&cond);
	pthread_mutex_unlock(&lock);
}

static void
on_change(void *user)
{
	(void)user;
	tell();
}

static void
on_done(struct hsm_batch *batch)
{
	(void)batch;
	pthread_mutex_lock(&lock);
	done++;
	pthread_cond_broadcast(&cond);
	pthread_mutex_unlock(&lock);
}

static void
say_hello(int fd, unsigned sessions)
{
	struct hsm_hello h = {
		.state = HSM_STATE_READY, .pid = 1, .sessions = sessions, .iv_len = 12
	};
	struct buf b = BUF_INIT(4096);

	frame_put_hello(&b, &h);
	require(send(fd, b.data, b.len, MSG_NOSIGNAL) == (ssize_t)b.len);
	buf_free(&b);
}

static void
wait_ready(struct hsm *hsm)
{
	pthread_mutex_lock(&lock);
	while (!hsm_token_ready(hsm, 0)) {
		struct timespec soon;

		clock_gettime(CLOCK_REALTIME, &soon);
		soon.tv_nsec += 1000000;
		soon.tv_sec += soon.tv_nsec / 1000000000;
		soon.tv_nsec %= 1000000000;
		pthread_cond_timedwait(&cond, &lock, &soon);
	}
	pthread_mutex_unlock(&lock);
}

static void
wait_done(void)
{
	pthread_mutex_lock(&lock);
	while (done == 0)
		pthread_cond_wait(&cond, &lock);
	pthread_mutex_unlock(&lock);
}

static uint8_t room[OPS_MAX][2][ROOM];

static size_t
choose(struct fuzz_input *in, struct hsm_op *ops)
{
	static const enum hsm_op_kind kinds[] = { HSM_OP_WRAP, HSM_OP_UNWRAP, HSM_OP_GENERATE,
		HSM_OP_SEAL, HSM_OP_LIST, HSM_OP_INSPECT, HSM_OP_CREATE_KEK, HSM_OP_PING };
	static const uint8_t bytes[64];
	size_t count = fuzz_byte(in) % OPS_MAX + 1u;

	memset(room, GUARD, sizeof(room));
	for (size_t i = 0; i < count; i++) {
		uint8_t how = fuzz_byte(in);

		ops[i] = (struct hsm_op){ .kind = kinds[how & 7],
			.in = bytes,
			.in_len = sizeof(bytes),
			.size = 1,
			.out = room[i][0],
			.out_cap = how & 8 ? ROOM - 1 : 4 };
		ops[i].object.len = 16;
		if (how & 16) {
			ops[i].out2 = room[i][1];
			ops[i].out2_cap = ROOM - 1;
		}
	}
	return count;
}

static void
check(const struct hsm_op *ops, size_t count)
{
	require(done == 1);
	for (size_t i = 0; i < count; i++) {
		require(ops[i].err <= 0);
		if (ops[i].err != 0)
			continue;
		require(ops[i].out_len <= ops[i].out_cap && ops[i].out2_len <= ops[i].out2_cap);
		require(room[i][0][ops[i].out_cap] == GUARD && room[i][1][ROOM - 1] == GUARD);
	}
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const names[] = { "main" };
	struct hsm_config config = { .tokens = 1,
		.names = names,
		.workers = 1,
		.deadline_ms = 20000,
		.queue_max = 64,
		.changed = on_change };
	struct fuzz_input in = { data, size };
	struct hsm_op ops[OPS_MAX];
	struct hsm_batch batch = { .ops = ops, .done = on_done };
	struct hsm *hsm;
	int pair[2];

	batch.count = choose(&in, ops);
	done = 0;
	require(hsm_open(&config, &hsm) == 0);
	require(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
	hsm_attach(hsm, 0, 0, pair[1]);
	say_hello(pair[0], fuzz_byte(&in) % 3 + 1u);
	wait_ready(hsm);
	require(hsm_submit(hsm, &batch) == 0);
	while (in.left > 0) {
		size_t len;
		const uint8_t *frame = fuzz_block(&in, &len);

		if (len > 0 && send(pair[0], frame, len, MSG_NOSIGNAL) < 0)
			break;
	}
	close(pair[0]);
	wait_done();
	hsm_freep(&hsm);
	check(ops, batch.count);
	return 0;
}
