/* SPDX-License-Identifier: Apache-2.0 */
/* The frames: what goes in comes out, and what is no frame is refused. */
#include "kekd/err.h"
#include "kekd/frames.h"
#include "kekd/str.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#define WRAPPED_MAX 256

static const uint8_t bytes[8192];

static struct hsm_op
full_request(void)
{
	return (struct hsm_op){
		.kind = HSM_OP_REWRAP,
		.object = { 16, "0123456789abcdef" },
		.object2 = { 3, "xyz" },
		.iv = "twelve bytes",
		.iv_len = 12,
		.aad = (const uint8_t *)"aad",
		.aad_len = 3,
		.aad2 = (const uint8_t *)"second",
		.aad2_len = 6,
		.in = (const uint8_t *)"in",
		.in_len = 2,
		.size = 77,
	};
}

static void
test_a_request_comes_out_as_it_went_in(void **state)
{
	uint8_t out[10], out2[20];
	struct hsm_op op = full_request(), got;
	struct buf b = BUF_INIT(FRAME_SIZE_MAX);
	struct frame_head head;
	struct reader r;

	(void)state;
	op.out = out;
	op.out_cap = sizeof(out);
	op.out2 = out2;
	op.out2_cap = sizeof(out2);
	frame_put_request_head(&b, &(struct frame_head){ .id = 0xfffffffe, .count = 1 });
	frame_put_request(&b, &op);
	assert_false(b.bad);
	r = READER(b.data, b.len);
	assert_int_equal(frame_get_head(&r, false, &head), 0);
	assert_int_equal(head.id, 0xfffffffe);
	assert_int_equal(head.count, 1);
	assert_int_equal(reader_left(&r), frame_request_size(&op));
	assert_int_equal(frame_get_request(&r, &got), 0);
	assert_int_equal(reader_left(&r), 0);
	assert_int_equal(got.kind, op.kind);
	assert_memory_equal(&got.object, &op.object, sizeof(op.object));
	assert_memory_equal(&got.object2, &op.object2, sizeof(op.object2));
	assert_memory_equal(got.iv, op.iv, sizeof(op.iv));
	assert_int_equal(got.iv_len, 12);
	assert_int_equal(got.aad_len, 3);
	assert_memory_equal(got.aad, "aad", 3);
	assert_int_equal(got.aad2_len, 6);
	assert_memory_equal(got.aad2, "second", 6);
	assert_int_equal(got.in_len, 2);
	assert_memory_equal(got.in, "in", 2);
	assert_int_equal(got.size, 77);
	assert_int_equal(got.out_cap, 10);
	assert_int_equal(got.out2_cap, 20);
	assert_null(got.out);
	buf_free(&b);
}

static void
test_a_room_that_is_not_there_is_not_told(void **state)
{
	struct hsm_op op = full_request(), got;
	struct buf b = BUF_INIT(FRAME_SIZE_MAX);
	struct reader r;

	(void)state;
	op.out_cap = op.out2_cap = 100;
	frame_put_request(&b, &op);
	r = READER(b.data, b.len);
	assert_int_equal(frame_get_request(&r, &got), 0);
	assert_int_equal(got.out_cap, 0);
	assert_int_equal(got.out2_cap, 0);
	buf_free(&b);
}

static void
test_an_answer_comes_out_as_it_went_in(void **state)
{
	uint8_t out[16], out2[16];
	struct hsm_op op = { .err = KEKD_EUNWRAP,
		.iv = "0123456789abcdef",
		.iv_len = 16,
		.out = (uint8_t *)"out",
		.out_len = 3,
		.out2 = (uint8_t *)"second",
		.out2_len = 6,
		.attributes = 0x80000001 };
	struct hsm_op got = { .out = out, .out_cap = 16, .out2 = out2, .out2_cap = 16 };
	struct buf b = BUF_INIT(FRAME_SIZE_MAX);
	struct frame_head head;
	struct reader r;

	(void)state;
	frame_put_result_head(&b, &(struct frame_head){ .id = 7, .micros = 1234, .count = 64 });
	frame_put_result(&b, &op);
	r = READER(b.data, b.len);
	assert_int_equal(frame_get_head(&r, true, &head), 0);
	assert_int_equal(head.id, 7);
	assert_int_equal(head.micros, 1234);
	assert_int_equal(head.count, 64);
	assert_int_equal(frame_get_result(&r, &got), 0);
	assert_int_equal(reader_left(&r), 0);
	assert_int_equal(got.err, KEKD_EUNWRAP);
	assert_int_equal(got.iv_len, 16);
	assert_memory_equal(got.iv, "0123456789abcdef", 16);
	assert_int_equal(got.out_len, 3);
	assert_memory_equal(out, "out", 3);
	assert_int_equal(got.out2_len, 6);
	assert_memory_equal(out2, "second", 6);
	assert_int_equal(got.attributes, 0x80000001);
	buf_free(&b);
}

static void
test_an_answer_larger_than_its_room_is_passed_over_and_the_next_one_read(void **state)
{
	uint8_t out[4];
	struct hsm_op large = { .out = (uint8_t *)"12345", .out_len = 5, .attributes = 1 };
	struct hsm_op small = { .out = (uint8_t *)"1234", .out_len = 4, .attributes = 2 };
	struct hsm_op got = { .out = out, .out_cap = sizeof(out) };
	struct buf b = BUF_INIT(FRAME_SIZE_MAX);
	struct reader r;

	(void)state;
	frame_put_result(&b, &large);
	frame_put_result(&b, &small);
	r = READER(b.data, b.len);
	assert_int_equal(frame_get_result(&r, &got), -EBADMSG);
	assert_int_equal(got.attributes, 0);
	assert_int_equal(got.out_len, 0);
	assert_false(r.bad);
	assert_int_equal(frame_get_result(&r, &got), 0);
	assert_int_equal(got.attributes, 2);
	buf_free(&b);
}

static int
get_request(const void *data, size_t len)
{
	struct reader r = READER(data, len);
	struct frame_head head;
	struct hsm_op op;
	int err = frame_get_head(&r, false, &head);

	for (uint16_t i = 0; !err && i < head.count; i++)
		err = frame_get_request(&r, &op);
	return err;
}

static int
get_result(const void *data, size_t len)
{
	uint8_t out[WRAPPED_MAX], out2[WRAPPED_MAX];
	struct hsm_op op = {
		.out = out, .out_cap = sizeof(out), .out2 = out2, .out2_cap = sizeof(out2)
	};
	struct reader r = READER(data, len);
	struct frame_head head;
	int err = frame_get_head(&r, true, &head);

	for (uint16_t i = 0; !err && i < head.count; i++)
		err = frame_get_result(&r, &op);
	return err;
}

static int
get_hello(const void *data, size_t len)
{
	struct hsm_hello hello;

	return frame_get_hello(data, len, &hello);
}

static const struct hsm_hello full_hello = {
	.state = HSM_STATE_PIN_REFUSED,
	.pid = 4711,
	.sessions = 16,
	.iv_len = 16,
	.session_copies = true,
	.objects = 100000,
	.token_label = "a label of thirty-two characters",
	.token_serial = "0123456789abcdef",
	.manufacturer = "manufacturer",
	.model = "model",
	.module = "module 2.6",
	.message = "put it right",
};

/* One frame of each type. */
static void
put_all(struct buf b[3])
{
	struct hsm_op request = full_request();
	struct hsm_op result = { .iv_len = 12,
		.out = (uint8_t *)"out",
		.out_len = 3,
		.out2 = (uint8_t *)"out2",
		.out2_len = 4 };

	for (int i = 0; i < 3; i++)
		b[i] = BUF_INIT(FRAME_SIZE_MAX);
	frame_put_hello(&b[0], &full_hello);
	frame_put_request_head(&b[1], &(struct frame_head){ .id = 1, .count = 2 });
	frame_put_request(&b[1], &request);
	frame_put_request(&b[1], &request);
	frame_put_result_head(&b[2], &(struct frame_head){ .id = 1, .count = 2 });
	frame_put_result(&b[2], &result);
	frame_put_result(&b[2], &result);
}

static int (*const getters[3])(
	const void *data, size_t len) = { get_hello, get_request, get_result };

static void
test_a_hello_comes_out_as_it_went_in(void **state)
{
	struct buf b = BUF_INIT(FRAME_SIZE_MAX);
	struct hsm_hello got;

	(void)state;
	frame_put_hello(&b, &full_hello);
	assert_int_equal(frame_get_hello(b.data, b.len, &got), 0);
	assert_int_equal(got.state, full_hello.state);
	assert_int_equal(got.pid, full_hello.pid);
	assert_int_equal(got.sessions, full_hello.sessions);
	assert_int_equal(got.iv_len, full_hello.iv_len);
	assert_true(got.session_copies);
	assert_int_equal(got.objects, full_hello.objects);
	assert_string_equal(got.token_label, full_hello.token_label);
	assert_string_equal(got.token_serial, full_hello.token_serial);
	assert_string_equal(got.manufacturer, full_hello.manufacturer);
	assert_string_equal(got.model, full_hello.model);
	assert_string_equal(got.module, full_hello.module);
	assert_string_equal(got.message, full_hello.message);
	buf_free(&b);
}

static void
test_a_frame_cut_anywhere_is_refused(void **state)
{
	struct buf b[3];

	(void)state;
	put_all(b);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(getters[i](b[i].data, b[i].len), 0);
		for (size_t len = 0; len < b[i].len; len++) {
			/* In memory of its own size, where a sanitizer sees a step too far. */
			uint8_t *cut = malloc(len + 1);
			assert_non_null(cut);
			memcpy(cut, b[i].data, len);
			cut = realloc(cut, len > 0 ? len : 1);
			assert_int_equal(getters[i](cut, len), -EBADMSG);
			free(cut);
		}
		buf_free(&b[i]);
	}
}

/* Whatever a byte becomes, the decoders stay inside the frame. */
static void
test_a_frame_with_any_byte_changed_is_refused_or_read_within_its_bounds(void **state)
{
	static const uint8_t changes[] = { 0x00, 0x01, 0x7f, 0x80, 0xff };
	struct buf b[3];

	(void)state;
	put_all(b);
	for (int i = 0; i < 3; i++) {
		for (size_t at = 0; at < b[i].len; at++) {
			uint8_t kept = b[i].data[at];
			for (size_t c = 0; c < STR_COUNT(changes); c++) {
				b[i].data[at] = changes[c];
				int err = getters[i](b[i].data, b[i].len);
				assert_true(err == 0 || err == -EBADMSG);
			}
			b[i].data[at] = kept;
		}
		buf_free(&b[i]);
	}
}

static void
test_frames_of_another_type_or_count_are_refused(void **state)
{
	struct buf b[3];

	(void)state;
	put_all(b);
	for (int i = 0; i < 3; i++)
		for (int j = 0; j < 3; j++)
			if (i != j)
				assert_int_equal(getters[i](b[j].data, b[j].len), -EBADMSG);
	b[1].data[2] = b[1].data[3] = 0;
	assert_int_equal(get_request(b[1].data, b[1].len), -EBADMSG);
	b[1].data[3] = FRAME_OPS_MAX + 1;
	assert_int_equal(get_request(b[1].data, b[1].len), -EBADMSG);
	for (int i = 0; i < 3; i++)
		buf_free(&b[i]);
}

static void
test_unknown_kinds_and_sizes_are_refused(void **state)
{
	static const struct {
		uint8_t kind;
		uint32_t size;
		int err;
	} cases[] = {
		{ 0, 0, -EBADMSG },
		{ HSM_OP_WRAP, 0, 0 },
		{ HSM_OP_PUBLIC + 1, 0, -EBADMSG },
		{ HSM_OP_CREATE_KEK - 1, 0, -EBADMSG },
		{ HSM_OP_CREATE_SIGN, 0, 0 },
		{ HSM_OP_CREATE_SIGN + 1, 0, -EBADMSG },
		{ 255, 0, -EBADMSG },
		{ HSM_OP_GENERATE, 0, -EBADMSG },
		{ HSM_OP_GENERATE, 1, 0 },
		{ HSM_OP_GENERATE, 4096, 0 },
		{ HSM_OP_GENERATE, 4097, -EBADMSG },
	};

	(void)state;
	for (size_t i = 0; i < STR_COUNT(cases); i++) {
		struct hsm_op op = { .kind = cases[i].kind, .size = cases[i].size }, got;
		struct buf b = BUF_INIT(FRAME_SIZE_MAX);
		struct reader r;
		frame_put_request(&b, &op);
		r = READER(b.data, b.len);
		assert_int_equal(frame_get_request(&r, &got), cases[i].err);
		buf_free(&b);
	}
}

/* The byte before the CKA_IDs of a request that has none, and what may stand there. */
static void
test_only_what_changes_the_token_has_an_end(void **state)
{
	static const struct {
		uint8_t kind, ends;
		uint64_t until_ns;
		int err;
	} cases[] = {
		{ HSM_OP_CREATE_KEK, 0, 0, 0 },
		{ HSM_OP_CREATE_KEK, 1, 7, 0 },
		{ HSM_OP_DESTROY, 1, UINT64_MAX, 0 },
		{ HSM_OP_CREATE_KEK, 1, 0, -EBADMSG },
		{ HSM_OP_CREATE_KEK, 2, 7, -EBADMSG },
		{ HSM_OP_WRAP, 1, 7, -EBADMSG },
	};
	const uint8_t zeros[12] = { 0 };

	(void)state;
	for (size_t i = 0; i < STR_COUNT(cases); i++) {
		struct buf b = BUF_INIT(FRAME_SIZE_MAX);
		struct hsm_op got;
		struct reader r;
		buf_u8(&b, cases[i].kind);
		buf_put(&b, zeros, 3);
		buf_put(&b, zeros, 12);
		buf_u8(&b, cases[i].ends);
		if (cases[i].ends)
			buf_u64(&b, cases[i].until_ns);
		buf_put(&b, zeros, 12);
		r = READER(b.data, b.len);
		assert_int_equal(frame_get_request(&r, &got), cases[i].err);
		if (cases[i].err == 0)
			assert_int_equal(got.until_ns, cases[i].until_ns);
		buf_free(&b);
	}
}

static void
test_an_end_travels_and_counts_in_the_size(void **state)
{
	struct hsm_op op = { .kind = HSM_OP_DESTROY, .object = { 2, { 8, 9 } }, .until_ns = 77 };
	struct buf b = BUF_INIT(FRAME_SIZE_MAX);
	struct hsm_op got;
	struct reader r;

	(void)state;
	frame_put_request(&b, &op);
	assert_int_equal(b.len, frame_request_size(&op));
	r = READER(b.data, b.len);
	assert_int_equal(frame_get_request(&r, &got), 0);
	assert_int_equal(got.until_ns, 77);
	buf_free(&b);
}

static void
test_no_answer_is_larger_than_was_said_before(void **state)
{
	struct hsm_op wrap = { .kind = HSM_OP_WRAP, .in = bytes, .in_len = 4096 };
	struct hsm_op list = { .kind = HSM_OP_LIST, .out_cap = UINT32_MAX };
	struct hsm_op answer = { .iv_len = 16, .out = (uint8_t *)bytes, .out_len = 4096 + 32 };
	struct buf b = BUF_INIT(FRAME_SIZE_MAX);

	(void)state;
	frame_put_result(&b, &answer);
	assert_int_equal(b.len, frame_result_size_max(&wrap));
	buf_reset(&b);
	frame_put_result_head(&b, &(struct frame_head){ 0 });
	assert_int_equal(b.len + frame_result_size_max(&list), FRAME_SIZE_MAX);
	buf_free(&b);
}

static void
test_a_list_comes_out_as_it_went_in(void **state)
{
	const struct hsm_object objects[] = {
		{ { 16, "0123456789abcdef" }, "kekd:lab:demo:v1", 16, HSM_ATTR_HELD, 31 },
		{ { 0, "" }, "", 0, 0, 16 },
	};
	struct buf b = BUF_INIT(4096);
	struct hsm_object got;
	struct reader r;

	(void)state;
	for (size_t i = 0; i < STR_COUNT(objects); i++)
		hsm_list_put(&b, &objects[i]);
	r = READER(b.data, b.len);
	for (size_t i = 0; i < STR_COUNT(objects); i++) {
		assert_int_equal(hsm_list_next(&r, &got), 1);
		assert_memory_equal(&got.id, &objects[i].id, sizeof(got.id));
		assert_int_equal(got.label_len, objects[i].label_len);
		assert_memory_equal(got.label, objects[i].label, got.label_len);
		assert_int_equal(got.attributes, objects[i].attributes);
		assert_int_equal(got.key_type, objects[i].key_type);
	}
	assert_int_equal(hsm_list_next(&r, &got), 0);
	r = READER(b.data, b.len - 1);
	assert_int_equal(hsm_list_next(&r, &got), 1);
	assert_int_equal(hsm_list_next(&r, &got), -EBADMSG);
	buf_free(&b);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_request_comes_out_as_it_went_in),
		cmocka_unit_test(test_a_room_that_is_not_there_is_not_told),
		cmocka_unit_test(test_an_answer_comes_out_as_it_went_in),
		cmocka_unit_test(
			test_an_answer_larger_than_its_room_is_passed_over_and_the_next_one_read),
		cmocka_unit_test(test_a_hello_comes_out_as_it_went_in),
		cmocka_unit_test(test_a_frame_cut_anywhere_is_refused),
		cmocka_unit_test(
			test_a_frame_with_any_byte_changed_is_refused_or_read_within_its_bounds),
		cmocka_unit_test(test_frames_of_another_type_or_count_are_refused),
		cmocka_unit_test(test_unknown_kinds_and_sizes_are_refused),
		cmocka_unit_test(test_only_what_changes_the_token_has_an_end),
		cmocka_unit_test(test_an_end_travels_and_counts_in_the_size),
		cmocka_unit_test(test_no_answer_is_larger_than_was_said_before),
		cmocka_unit_test(test_a_list_comes_out_as_it_went_in),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
