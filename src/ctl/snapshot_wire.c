/* SPDX-License-Identifier: Apache-2.0 */
/* Protobuf's wire format, in a file, without reading what is not asked for. */
#include "snapshot.h"

#include <errno.h>

enum { WIRE_NUMBER = 0, WIRE_64 = 1, WIRE_BYTES = 2, WIRE_32 = 5 };

static int
bad(const struct wire *w)
{
	return bolt_fail(w->bolt, "what stands at byte %llu is no protobuf",
		(unsigned long long)(w->s.offset + w->at));
}

static int
read_varint(struct wire *w, uint64_t *ret_value)
{
	uint64_t value = 0;
	uint8_t byte = 0x80;

	for (unsigned shift = 0; byte & 0x80; shift += 7) {
		int err;
		if (shift > 63 || w->at == w->s.size)
			return bad(w);
		err = bolt_read(w->bolt, w->s, w->at++, &byte, 1);
		if (err != 0)
			return err;
		value |= (uint64_t)(byte & 0x7f) << shift;
	}
	*ret_value = value;
	return 0;
}

static int
skip(struct wire *w, uint64_t len)
{
	if (len > w->s.size - w->at)
		return bad(w);
	w->at += len;
	return 0;
}

static int
read_value(struct wire *w, unsigned type, struct wire_field *f)
{
	uint64_t len;
	int err;

	if (type == WIRE_NUMBER)
		return read_varint(w, &f->value);
	if (type == WIRE_64 || type == WIRE_32)
		return skip(w, type == WIRE_64 ? 8 : 4);
	if (type != WIRE_BYTES)
		return bad(w);
	err = read_varint(w, &len);
	if (err != 0)
		return err;
	f->is_bytes = true;
	f->bytes = (struct bolt_slice){ w->s.offset + w->at, len };
	return skip(w, len);
}

int
wire_next(struct wire *w, struct wire_field *ret_field)
{
	struct wire_field f = { 0 };
	uint64_t tag = 0;
	int err;

	if (w->at == w->s.size)
		return 0;
	err = read_varint(w, &tag);
	if (err == 0 && (tag >> 3 == 0 || tag >> 3 > 0x1fffffff))
		return bad(w);
	f.number = (unsigned)(tag >> 3);
	if (err == 0)
		err = read_value(w, tag & 7, &f);
	if (err != 0)
		return err;
	*ret_field = f;
	return 1;
}
