/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A record's text, written by hand: it is made for every request. doc/formats/audit.md has the
 * members. Not here: the chain's members, which the writer puts around it.
 */
#include "format.h"

#include "kekd/audit.h"
#include "kekd/clock.h"
#include "kekd/json.h"
#include "kekd/str.h"

#include <openssl/sha.h>
#include <string.h>

static const char *const type_names[] = {
	[AUDIT_REQUEST] = "request",
	[AUDIT_INTENT] = "intent",
	[AUDIT_OUTCOME] = "outcome",
	[AUDIT_REFUSED] = "refused",
	[AUDIT_CHECKPOINT] = "checkpoint",
	[AUDIT_ANCHOR] = "anchor",
	[AUDIT_WITNESS] = "witness",
};

void
format_number(struct buf *b, const char *before, uint64_t number)
{
	char digits[20];
	size_t at = sizeof(digits);

	do {
		digits[--at] = (char)('0' + number % 10);
		number /= 10;
	} while (number > 0);
	buf_str(b, before);
	buf_put(b, digits + at, sizeof(digits) - at);
}

void
format_time(struct buf *b, uint64_t real_us)
{
	char text[CLOCK_TEXT_SIZE];

	clock_format(real_us, text);
	buf_u8(b, '"');
	buf_str(b, text);
	buf_u8(b, '"');
}

static void
put_member(struct buf *b, const char *before, const char *text)
{
	if (!text)
		return;
	buf_str(b, before);
	buf_json_str(b, text);
}

static int
dump_to_buf(const char *data, size_t len, void *user)
{
	buf_put(user, data, len);
	return 0;
}

static void
put_json(struct buf *b, const json_t *value)
{
	if (json_dump_callback(
		    value, dump_to_buf, b, JSON_COMPACT | JSON_SORT_KEYS | JSON_ENCODE_ANY) != 0)
		b->bad = true;
}

static void
put_json_hash(struct buf *b, const json_t *value)
{
	uint8_t digest[SHA256_DIGEST_LENGTH];
	char hex[2 * sizeof(digest)];
	size_t len = 0;
	char *text = json_canonical(value, &len);

	if (!text) {
		b->bad = true;
		return;
	}
	SHA256((const unsigned char *)text, len, digest);
	json_text_free(text);
	str_hex(digest, sizeof(digest), hex);
	buf_u8(b, '"');
	buf_put(b, hex, sizeof(hex));
	buf_u8(b, '"');
}

static void
put_context(struct buf *b, const json_t *context, bool hash_context)
{
	if (!context)
		buf_str(b, "null");
	else if (hash_context)
		put_json_hash(b, context);
	else
		put_json(b, context);
}

static void
put_contexts(struct buf *b, const struct audit_record *r, bool hash_context)
{
	if (r->contexts_count == 1 && r->contexts[0]) {
		buf_str(b, hash_context ? ",\"context_sha256\":" : ",\"context\":");
		put_context(b, r->contexts[0], hash_context);
	}
	if (r->contexts_count < 2)
		return;
	buf_str(b, hash_context ? ",\"contexts_sha256\":[" : ",\"contexts\":[");
	for (size_t i = 0; i < r->contexts_count; i++) {
		if (i > 0)
			buf_u8(b, ',');
		put_context(b, r->contexts[i], hash_context);
	}
	buf_u8(b, ']');
}

static void
put_count(struct buf *b, const char *before, uint64_t count)
{
	if (count > 0)
		format_number(b, before, count);
}

static void
put_versions(struct buf *b, const struct audit_record *r)
{
	char id[UUID_TEXT_SIZE];

	if (r->versions_count == 0)
		return;
	buf_str(b, ",\"versions\":[");
	for (size_t i = 0; i < r->versions_count; i++) {
		const struct audit_version *v = &r->versions[i];
		uuid_format(&v->id, id);
		format_number(b, i > 0 ? ",{\"version\":" : "{\"version\":", v->version);
		put_member(b, ",\"id\":", id);
		put_count(b, ",\"wrapped\":", v->wrapped);
		put_count(b, ",\"unwrapped\":", v->unwrapped);
		put_count(b, ",\"refused\":", v->refused);
		put_count(b, ",\"failed\":", v->failed);
		buf_u8(b, '}');
	}
	buf_u8(b, ']');
}

static void
put_blobs(struct buf *b, const struct audit_record *r)
{
	char hex[2 * AUDIT_BLOB_HASH_SIZE];

	if (r->blobs_count == 0)
		return;
	buf_str(b, ",\"blobs\":[");
	for (size_t i = 0; i < r->blobs_count; i++) {
		str_hex(r->blobs[i], AUDIT_BLOB_HASH_SIZE, hex);
		buf_str(b, i > 0 ? ",\"" : "\"");
		buf_put(b, hex, sizeof(hex));
		buf_u8(b, '"');
	}
	buf_u8(b, ']');
}

static void
put_result(struct buf *b, const struct audit_record *r)
{
	buf_str(b, r->code ? ",\"result\":\"error\"" : ",\"result\":\"ok\"");
	put_member(b, ",\"code\":", r->code);
	if (r->status > 0)
		format_number(b, ",\"status\":", (uint64_t)r->status);
	put_count(b, ",\"us\":", r->micros);
	put_count(b, ",\"revision\":", r->revision);
	if (r->stale)
		buf_str(b, ",\"stale\":true");
}

static void
put_mark(struct buf *b, const json_t *mark)
{
	const char *name;
	json_t *value;

	json_object_foreach((json_t *)mark, name, value) {
		buf_u8(b, ',');
		buf_json_str(b, name);
		buf_u8(b, ':');
		put_json(b, value);
	}
}

void
audit_format(struct buf *b, const struct audit_record *r, bool hash_context)
{
	put_member(b, ",\"type\":", type_names[r->type]);
	if (r->type == AUDIT_CHECKPOINT || r->type == AUDIT_ANCHOR || r->type == AUDIT_WITNESS) {
		put_mark(b, r->detail);
		return;
	}
	put_member(b, ",\"client\":", r->client);
	put_member(b, ",\"identity\":", r->identity);
	put_member(b, ",\"address\":", r->address);
	put_member(b, ",\"request_id\":", r->request_id);
	put_member(b, ",\"traceparent\":", r->traceparent);
	put_member(b, ",\"operation\":", r->operation);
	put_member(b, ",\"key\":", r->key);
	put_member(b, ",\"method\":", r->method);
	put_member(b, ",\"path\":", r->path);
	put_contexts(b, r, hash_context);
	put_versions(b, r);
	put_blobs(b, r);
	/* An intent has no result yet. */
	if (r->type != AUDIT_INTENT)
		put_result(b, r);
	if (r->detail) {
		buf_str(b, ",\"detail\":");
		put_json(b, r->detail);
	}
}
