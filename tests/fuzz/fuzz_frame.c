/* SPDX-License-Identifier: Apache-2.0 */
/* Frames of both directions, read as foreign bytes; what could be read is written again. */
#include "fuzz.h"

#include "kekd/frames.h"

#define ROOM 5000

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc, (void)argv;
	return 0;
}

static void
hello(const uint8_t *data, size_t size)
{
	struct hsm_hello h, again;
	struct buf b = BUF_INIT(FRAME_SIZE_MAX);

	if (frame_get_hello(data, size, &h) != 0)
		return;
	frame_put_hello(&b, &h);
	require(!b.bad && frame_get_hello(b.data, b.len, &again) == 0);
	require(again.state == h.state && again.pid == h.pid && again.sessions == h.sessions);
	require(strcmp(again.message, h.message) == 0);
	require(strcmp(again.module, h.module) == 0);
	buf_free(&b);
}

static void
request(const uint8_t *data, size_t size)
{
	struct reader r = READER(data, size);
	struct frame_head head;
	struct buf b = BUF_INIT(2 * FRAME_SIZE_MAX);
	bool good;

	good = frame_get_head(&r, false, &head) == 0;
	if (good)
		frame_put_request_head(&b, &head);
	for (unsigned i = 0; good && i < head.count; i++) {
		static uint8_t out, out2;
		struct hsm_op op;
		size_t before = b.len;

		good = frame_get_request(&r, &op) == 0;
		if (!good)
			break;
		require(frame_result_size_max(&op) > 0);
		op.out = &out; /* only told apart from none */
		op.out2 = &out2;
		frame_put_request(&b, &op);
		require(b.bad || b.len - before == frame_request_size(&op));
	}
	if (good && reader_left(&r) == 0 && size <= FRAME_SIZE_MAX)
		require(!b.bad && b.len == size && memcmp(b.data, data, size) == 0);
	buf_free(&b);
}

static void
result(const uint8_t *data, size_t size)
{
	static uint8_t out[ROOM], out2[ROOM];
	struct reader r = READER(data, size);
	struct frame_head head;

	if (frame_get_head(&r, true, &head) != 0)
		return;
	for (unsigned i = 0; i < head.count && !r.bad; i++) {
		/* Some callers have less room than others, or none. */
		struct hsm_op op = { .out = i % 3 ? out : NULL, .out_cap = i % 2 ? 16 : ROOM };

		op.out2 = i % 4 ? out2 : NULL;
		op.out2_cap = i % 5 ? ROOM : 0;
		if (frame_get_result(&r, &op) != 0)
			continue;
		require(op.err <= 0 && op.iv_len <= sizeof(op.iv));
		require(op.out_len <= (op.out ? op.out_cap : 0));
		require(op.out2_len <= (op.out2 ? op.out2_cap : 0));
	}
}

static void
list(const uint8_t *data, size_t size)
{
	struct reader r = READER(data, size);
	struct hsm_object o;
	struct buf b = BUF_INIT(size + 1);
	int got;

	while ((got = hsm_list_next(&r, &o)) == 1)
		hsm_list_put(&b, &o);
	if (got == 0)
		require(!b.bad && b.len == size && (!size || memcmp(b.data, data, size) == 0));
	buf_free(&b);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	hello(data, size);
	request(data, size);
	result(data, size);
	list(data, size);
	return 0;
}
