/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The frames between kekd-net and a worker, as bytes (doc/formats/frames.md). Not here: who sends
 * what when (client.c, worker/).
 */
#include "kekd/frames.h"

#include "kekd/str.h"

#include <errno.h>
#include <string.h>

enum frame_type { FRAME_HELLO = 1, FRAME_REQUEST, FRAME_RESULT };

#define GENERATE_MAX 4096
#define MESSAGE_HEAD_SIZE 12 /* the longer of the two heads: a result's */
#define REQUEST_FIXED 29     /* kind to out2_cap, and the lengths of aad, aad2 and in */
#define END_SIZE 8	     /* of an operation that has an end */
#define RESULT_FIXED 33	     /* err, iv, attributes, and the lengths of out and out2 */
#define EXPANSION_MAX 32     /* tag, and an IV that a token puts before what it encrypted */

/* How long an answer can get: expansion + in · its length + size · its size + room · its room. */
struct kind_info {
	uint8_t known, in, size, room, expansion;
};

static const struct kind_info kinds[] = {
	[HSM_OP_WRAP] = { 1, .in = 1, .expansion = EXPANSION_MAX },
	[HSM_OP_UNWRAP] = { 1, .in = 1 },
	[HSM_OP_CHECK] = { 1 },
	[HSM_OP_GENERATE] = { 1, .size = 2, .expansion = EXPANSION_MAX },
	[HSM_OP_REWRAP] = { 1, .in = 1, .expansion = EXPANSION_MAX },
	[HSM_OP_SEAL] = { 1, .expansion = EXPANSION_MAX },
	[HSM_OP_INSPECT] = { 1, .expansion = 8 },
	[HSM_OP_LIST] = { 1, .room = 1 },
	[HSM_OP_DROP] = { 1 },
	[HSM_OP_PING] = { 1 },
	[HSM_OP_HAND_OUT] = { 1, .in = 1, .expansion = EXPANSION_MAX },
	[HSM_OP_TAKE_IN] = { 1, .in = 1, .expansion = EXPANSION_MAX },
	[HSM_OP_SIGN] = { 1, .expansion = FRAME_SIGNATURE_SIZE },
	[HSM_OP_PUBLIC] = { 1, .expansion = FRAME_PUBLIC_SIZE },
	[HSM_OP_CREATE_KEK] = { 1 },
	[HSM_OP_CREATE_SEAL] = { 1 },
	[HSM_OP_DESTROY] = { 1 },
	[HSM_OP_CREATE_SIGN] = { 1 },
};

/* The zero entry for what is not known. */
static const struct kind_info *
kind_info(unsigned kind)
{
	return &kinds[kind < STR_COUNT(kinds) ? kind : 0];
}

static void
put_text(struct buf *b, const char *text)
{
	buf_block(b, text, strlen(text));
}

static void
get_text(struct reader *r, char *ret_text, size_t size)
{
	size_t len;
	const uint8_t *p = reader_block(r, size - 1, &len);

	if (len > 0)
		memcpy(ret_text, p, len);
	ret_text[len] = '\0';
}

void
frame_put_hello(struct buf *b, const struct hsm_hello *h)
{
	buf_u8(b, FRAME_HELLO);
	buf_u8(b, (uint8_t)h->state);
	buf_u8(b, h->iv_len);
	buf_u8(b, h->session_copies);
	buf_u32(b, h->pid);
	buf_u32(b, h->sessions);
	buf_u32(b, h->objects);
	put_text(b, h->token_label);
	put_text(b, h->token_serial);
	put_text(b, h->manufacturer);
	put_text(b, h->model);
	put_text(b, h->module);
	put_text(b, h->message);
}

int
frame_get_hello(const void *frame, size_t len, struct hsm_hello *ret_hello)
{
	struct reader r = READER(frame, len);
	struct hsm_hello h = { 0 };
	unsigned state, copies;

	if (reader_u8(&r) != FRAME_HELLO)
		return -EBADMSG;
	state = reader_u8(&r);
	h.iv_len = reader_u8(&r);
	copies = reader_u8(&r);
	h.pid = reader_u32(&r);
	h.sessions = reader_u32(&r);
	h.objects = reader_u32(&r);
	get_text(&r, h.token_label, sizeof(h.token_label));
	get_text(&r, h.token_serial, sizeof(h.token_serial));
	get_text(&r, h.manufacturer, sizeof(h.manufacturer));
	get_text(&r, h.model, sizeof(h.model));
	get_text(&r, h.module, sizeof(h.module));
	get_text(&r, h.message, sizeof(h.message));
	if (r.bad || reader_left(&r) > 0 || state < HSM_STATE_READY || state > HSM_STATE_OPENING ||
		copies > 1 || (h.iv_len != 12 && h.iv_len != 16))
		return -EBADMSG;
	h.state = state;
	h.session_copies = copies;
	*ret_hello = h;
	return 0;
}

void
frame_put_request_head(struct buf *b, const struct frame_head *h)
{
	buf_u8(b, FRAME_REQUEST);
	buf_u8(b, 0);
	buf_u16(b, h->count);
	buf_u32(b, h->id);
}

void
frame_put_result_head(struct buf *b, const struct frame_head *h)
{
	buf_u8(b, FRAME_RESULT);
	buf_u8(b, h->copies);
	buf_u16(b, h->count);
	buf_u32(b, h->id);
	buf_u32(b, h->micros);
}

int
frame_get_head(struct reader *r, bool result, struct frame_head *ret_head)
{
	struct frame_head h = { 0 };
	unsigned type = reader_u8(r), copies = reader_u8(r);

	h.count = reader_u16(r);
	h.id = reader_u32(r);
	if (result)
		h.micros = reader_u32(r);
	if (r->bad || type != (result ? FRAME_RESULT : FRAME_REQUEST) || (!result && copies != 0) ||
		h.count == 0 || h.count > FRAME_OPS_MAX)
		return -EBADMSG;
	h.copies = (uint8_t)copies;
	*ret_head = h;
	return 0;
}

/* The wire tells a room only where the caller has one: a worker never sends what nobody takes. */
static uint32_t
room(const uint8_t *out, uint32_t cap)
{
	return out ? cap : 0;
}

static bool
has_end(const struct hsm_op *op)
{
	return op->kind >= HSM_OP_CREATE_KEK && op->until_ns != 0;
}

void
frame_put_request(struct buf *b, const struct hsm_op *op)
{
	buf_u8(b, (uint8_t)op->kind);
	buf_u8(b, op->iv_len);
	buf_u8(b, op->object.len);
	buf_u8(b, op->object2.len);
	buf_u32(b, op->size);
	buf_u32(b, room(op->out, op->out_cap));
	buf_u32(b, room(op->out2, op->out2_cap));
	buf_u8(b, has_end(op));
	if (has_end(op))
		buf_u64(b, op->until_ns);
	buf_put(b, op->object.b, op->object.len);
	buf_put(b, op->object2.b, op->object2.len);
	buf_put(b, op->iv, op->iv_len);
	buf_block(b, op->aad, op->aad_len);
	buf_block(b, op->aad2, op->aad2_len);
	buf_block(b, op->in, op->in_len);
}

size_t
frame_request_size(const struct hsm_op *op)
{
	return (size_t)REQUEST_FIXED + has_end(op) * END_SIZE + op->object.len + op->object2.len +
	       op->iv_len + op->aad_len + op->aad2_len + op->in_len;
}

size_t
frame_result_size_max(const struct hsm_op *op)
{
	const size_t most = FRAME_SIZE_MAX - MESSAGE_HEAD_SIZE - RESULT_FIXED;
	const struct kind_info *k = kind_info(op->kind);
	size_t len = k->expansion + k->in * (size_t)op->in_len + k->size * (size_t)op->size;

	/* A list takes the room that there is: never more than a frame. */
	if (k->room)
		len = op->out_cap < most ? op->out_cap : most;
	return RESULT_FIXED + len;
}

static void
get_bytes(struct reader *r, uint8_t *ret_bytes, size_t len, size_t max)
{
	const uint8_t *p;

	if (len > max)
		r->bad = true;
	p = reader_take(r, len);
	if (p && len > 0)
		memcpy(ret_bytes, p, len);
}

static const uint8_t *
get_block(struct reader *r, uint32_t *ret_len)
{
	size_t len;
	const uint8_t *p = reader_block(r, FRAME_SIZE_MAX, &len);

	*ret_len = (uint32_t)len;
	return p;
}

int
frame_get_request(struct reader *r, struct hsm_op *ret_op)
{
	struct hsm_op op = { 0 };
	unsigned kind = reader_u8(r), ends;

	op.iv_len = reader_u8(r);
	op.object.len = reader_u8(r);
	op.object2.len = reader_u8(r);
	op.size = reader_u32(r);
	op.out_cap = reader_u32(r);
	op.out2_cap = reader_u32(r);
	ends = reader_u8(r);
	if (ends == 1)
		op.until_ns = reader_u64(r);
	get_bytes(r, op.object.b, op.object.len, sizeof(op.object.b));
	get_bytes(r, op.object2.b, op.object2.len, sizeof(op.object2.b));
	get_bytes(r, op.iv, op.iv_len, sizeof(op.iv));
	op.aad = get_block(r, &op.aad_len);
	op.aad2 = get_block(r, &op.aad2_len);
	op.in = get_block(r, &op.in_len);
	if (r->bad || !kind_info(kind)->known || ends > 1 ||
		(ends == 1 && (kind < HSM_OP_CREATE_KEK || op.until_ns == 0)))
		return -EBADMSG;
	op.kind = kind;
	if (op.kind == HSM_OP_GENERATE && (op.size == 0 || op.size > GENERATE_MAX))
		return -EBADMSG;
	*ret_op = op;
	return 0;
}

void
frame_put_result(struct buf *b, const struct hsm_op *op)
{
	buf_u32(b, (uint32_t)op->err);
	buf_u8(b, op->iv_len);
	buf_put(b, op->iv, op->iv_len);
	buf_u32(b, op->attributes);
	buf_block(b, op->out, op->out_len);
	buf_block(b, op->out2, op->out2_len);
}

int
frame_get_result(struct reader *r, struct hsm_op *op)
{
	int32_t err = (int32_t)reader_u32(r);
	uint8_t iv[sizeof(op->iv)], iv_len = reader_u8(r);
	uint32_t attributes, out_len, out2_len;
	const uint8_t *out, *out2;

	get_bytes(r, iv, iv_len, sizeof(iv));
	attributes = reader_u32(r);
	out = get_block(r, &out_len);
	out2 = get_block(r, &out2_len);
	if (r->bad || err > 0 || out_len > room(op->out, op->out_cap) ||
		out2_len > room(op->out2, op->out2_cap))
		return -EBADMSG;
	if (out_len > 0)
		memcpy(op->out, out, out_len);
	if (out2_len > 0)
		memcpy(op->out2, out2, out2_len);
	if (iv_len > 0) { /* an unwrap's answer has none, and its op keeps the one that it had */
		memcpy(op->iv, iv, iv_len);
		op->iv_len = iv_len;
	}
	op->out_len = out_len;
	op->out2_len = out2_len;
	op->attributes = attributes;
	op->err = err;
	return 0;
}

void
hsm_list_put(struct buf *b, const struct hsm_object *o)
{
	buf_u8(b, o->id.len);
	buf_put(b, o->id.b, o->id.len);
	buf_u8(b, o->label_len);
	buf_put(b, o->label, o->label_len);
	buf_u32(b, o->attributes);
	buf_u32(b, o->key_type);
}

int
hsm_list_next(struct reader *r, struct hsm_object *ret_object)
{
	struct hsm_object o = { 0 };

	if (!r->bad && reader_left(r) == 0)
		return 0;
	o.id.len = reader_u8(r);
	get_bytes(r, o.id.b, o.id.len, sizeof(o.id.b));
	o.label_len = reader_u8(r);
	o.label = (const char *)reader_take(r, o.label_len);
	o.attributes = reader_u32(r);
	o.key_type = reader_u32(r);
	if (r->bad)
		return -EBADMSG;
	*ret_object = o;
	return 1;
}
