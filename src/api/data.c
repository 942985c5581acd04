/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The data plane: wrap, unwrap, generate, rewrap; one item or a batch. Four steps, the middle ones
 * on other threads:
 *
 * - items_parse, HTTP thread: items, versions, AADs, room for the answers, in one allocation that
 * is wiped
 * - items_submit takes IVs from the versions' nonce blocks (a spent block is refilled on the
 * control thread), asks the token
 * - batch_done, the workers' reader thread: results; what goes between tokens is submitted again
 * - answer: evidence for the audit log, the reply
 *
 * What each operation does differently is a row of the table at the end.
 */
#include "api.h"

#include "kekd/clock.h"
#include "kekd/log.h"
#include "kekd/nonce.h"
#include "kekd/secret.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define ITEMS_MAX 1000
#define GENERATE_DEFAULT 32

struct item {
	int err;
	char detail[96];
	struct key_version *from; /* unwraps with it; NULL when the operation does not */
	struct key_version *to;	  /* wraps with it */
	bool crosses;		  /* from one token to another: two rounds */
	bool has_iv;		  /* one IV of `to`'s budget is taken */
	bool plaintext;		  /* wanted in the answer */
	bool unknown;		  /* what it names is not known here */
	struct hsm_op *op;	  /* what the token was asked; NULL: it was not */
	struct blob blob;
	uint8_t header[BLOB_HEADER_SIZE]; /* of the new blob */
	uint8_t digest[AUDIT_BLOB_HASH_SIZE];
	const char *text; /* base64 of the input, borrowed from the body */
	size_t text_len, out_size, in_len, aad_len, aad2_len;
	json_t *context, *new_context;
	int64_t bytes;
	uint8_t *in, *aad, *aad2, *out, *out2;
};

struct data_call {
	struct request *request;
	const struct data_operation *operation;
	struct key *key;
	bool many;
	size_t count;
	struct item *items;
	struct hsm_op *ops;    /* of the items that are asked of the token, in order */
	struct hsm_op *second; /* of those that cross: what the other token is asked */
	struct hsm_batch batch;
	struct control_job refill;
	struct node_lookup lookup;
	bool looked_up;
	struct buf memory; /* all of the items' bytes */
};

struct data_operation {
	bool unwraps, wraps;
	/* One item's members; sets text, context, … 0 or an error with item->detail. */
	int (*parse)(struct data_call *d, struct item *item, const json_t *object);
	enum hsm_op_kind kind;
	void (*put)(struct data_call *d, const struct item *item, struct buf *b);
};

/* As it was before anything was read of it. */
static void
call_reset(struct data_call *d)
{
	key_unrefp(&d->key);
	buf_free(&d->memory);
	if (d->items)
		secret_wipe(d->items, d->count * sizeof(*d->items));
	free(d->items);
	free(d->ops);
	free(d->second);
	d->items = NULL;
	d->ops = d->second = NULL;
	d->count = 0;
}

static void
call_free(void *state)
{
	call_reset(state);
	free(state);
}

static int __attribute__((format(printf, 3, 4)))
item_fail(struct item *item, int err, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	vsnprintf(item->detail, sizeof(item->detail), format, ap);
	va_end(ap);
	item->err = err;
	return err;
}

/* ---- parsing ---- */

static int
take(struct item *item, const json_t *object, const struct json_member *members, size_t n)
{
	char error[JSON_ERROR_SIZE];
	int err = json_take(object, members, n, error);

	return err == 0 ? 0 : item_fail(item, err, "%.90s", error);
}

/* Another node can have made, or activated, what does not wrap here. */
static bool
is_news(const struct key *k, const struct uuid *version)
{
	const struct key_version *v = version ? key_find_version_id(k, version) : NULL;

	return version ? !v || v->state == VERSION_STAGED : k->primary == 0;
}

static int
choose_wrap(struct data_call *d, struct item *item, const char *version_id)
{
	struct uuid id;
	int err;

	if (d->key->frozen)
		return item_fail(item, KEKD_EFROZEN,
			"an administrator can lift it: kekctl key unfreeze %.30s", d->key->name);
	if (atomic_load(&d->request->node->frozen))
		return item_fail(item, KEKD_EFROZEN,
			"the whole service is; an administrator can lift it: kekctl cluster "
			"unfreeze");
	if (version_id && uuid_parse(version_id, &id) != 0)
		return item_fail(item, KEKD_EINVALID, "version_id is a UUID in lower case");
	err = key_choose_wrap(d->key, version_id ? &id : NULL, d->request->time_us, &item->to);
	item->unknown = err != 0 && is_news(d->key, version_id ? &id : NULL);
	if (err != 0)
		return item_fail(item, err,
			version_id ? "version_id %.36s does not wrap now: read the key again"
				   : "key %.64s has no enabled primary version",
			version_id ? version_id : d->key->name);
	return 0;
}

static int
parse_wrap(struct data_call *d, struct item *item, const json_t *object)
{
	const char *version_id = NULL;
	const struct json_member members[] = {
		{ "plaintext", JSON_KIND_STRING, true, &item->text },
		{ "context", JSON_KIND_OBJECT, false, &item->context },
		{ "version_id", JSON_KIND_STRING, false, &version_id },
	};
	int err = take(item, object, members, STR_COUNT(members));

	return err == 0 ? choose_wrap(d, item, version_id) : err;
}

static int
parse_unwrap(struct data_call *d, struct item *item, const json_t *object)
{
	const struct json_member members[] = {
		{ "ciphertext", JSON_KIND_STRING, true, &item->text },
		{ "context", JSON_KIND_OBJECT, false, &item->context },
		{ "plaintext", JSON_KIND_BOOL, false, &item->plaintext },
	};
	int err;

	item->plaintext = true;
	err = take(item, object, members, STR_COUNT(members));
	if (err == 0 && item->plaintext)
		err = client_authorise(d->request->client, ACCESS_UNWRAP, d->key->name);
	if (err == KEKD_EFORBIDDEN)
		return item_fail(item, err, "a grant of verify needs \"plaintext\": false");
	return err;
}

static int
parse_generate(struct data_call *d, struct item *item, const json_t *object)
{
	const struct json_member members[] = {
		{ "bytes", JSON_KIND_INTEGER, false, &item->bytes },
		{ "context", JSON_KIND_OBJECT, false, &item->context },
		{ "plaintext", JSON_KIND_BOOL, false, &item->plaintext },
	};
	int err;

	item->plaintext = true;
	item->bytes = GENERATE_DEFAULT;
	err = take(item, object, members, STR_COUNT(members));
	if (err != 0)
		return err;
	if (item->bytes < 1 || item->bytes > BLOB_PLAINTEXT_MAX)
		return item_fail(item, KEKD_EPLAINTEXT, "bytes is 1 to %d", BLOB_PLAINTEXT_MAX);
	return choose_wrap(d, item, NULL);
}

static int
parse_rewrap(struct data_call *d, struct item *item, const json_t *object)
{
	const struct json_member members[] = {
		{ "ciphertext", JSON_KIND_STRING, true, &item->text },
		{ "context", JSON_KIND_OBJECT, false, &item->context },
		{ "new_context", JSON_KIND_OBJECT, false, &item->new_context },
	};
	int err = take(item, object, members, STR_COUNT(members));

	if (err != 0)
		return err;
	if (!item->new_context)
		item->new_context = item->context;
	return choose_wrap(d, item, NULL);
}

/* ---- bytes ---- */

static int
decode_text(struct data_call *d, struct item *item)
{
	size_t max = d->operation->unwraps ? BLOB_SIZE_MAX : BLOB_PLAINTEXT_MAX;
	int err;

	if (!item->text)
		return 0;
	item->text_len = strlen(item->text);
	err = str_unbase64(
		item->text, item->text_len, item->in, item->text_len / 4 * 3, &item->in_len);
	if (err != 0)
		return item_fail(item, err, "%s is not padded base64",
			d->operation->unwraps ? "ciphertext" : "plaintext");
	if (item->in_len > max || item->in_len == 0)
		return d->operation->unwraps
			       ? item_fail(item, KEKD_EUNWRAP, "not a blob of this server")
			       : item_fail(item, KEKD_EPLAINTEXT, "the plaintext has %zu bytes",
					 item->in_len);
	return 0;
}

/* The version must belong to the key in the path before the token is asked. Every way to fail reads
 * the same. */
static int
find_from(struct data_call *d, struct item *item)
{
	uint8_t digest[EVP_MAX_MD_SIZE];

	if (EVP_Digest(item->in, item->in_len, digest, NULL, EVP_sha256(), NULL) != 1)
		return item_fail(item, KEKD_EINTERNAL, "no hash for the audit log");
	memcpy(item->digest, digest, sizeof(item->digest));
	if (blob_parse(item->in, item->in_len, &item->blob) != 0)
		return item_fail(item, KEKD_EUNWRAP, "check key, ciphertext and context");
	item->from = key_find_version_id(d->key, &item->blob.version);
	if (!item->from || item->from->state == VERSION_STAGED ||
		item->from->state == VERSION_ABANDONED) {
		item->from = NULL;
		item->unknown = true;
		return item_fail(item, KEKD_EUNWRAP, "check key, ciphertext and context");
	}
	if (item->from->state == VERSION_DESTROYED)
		return item_fail(item, KEKD_EDESTROYED,
			"version %u was destroyed: nothing unwraps it", item->from->number);
	if (node_token(d->request->node, item->from->token) < 0)
		return item_fail(item, KEKD_EHSM, "token %.64s is not in this node's configuration",
			item->from->token);
	if (item->from->state != VERSION_ENABLED)
		return item_fail(item, KEKD_EDISABLED,
			"version %u is %s: an administrator can enable it", item->from->number,
			version_state_name(item->from->state));
	return 0;
}

static int
put_aad(struct item *item, const uint8_t *header, const json_t *context, uint8_t *room,
	size_t *ret_len)
{
	_cleanup_(buf_free) struct buf aad = BUF_INIT(BLOB_AAD_MAX);

	buf_put(&aad, header, BLOB_HEADER_SIZE);
	if (blob_put_context(&aad, context) != 0 || aad.bad)
		return item_fail(item, KEKD_ECONTEXT,
			"at most %d pairs of strings, %d bytes in all", BLOB_CONTEXT_PAIRS_MAX,
			BLOB_CONTEXT_SIZE_MAX);
	memcpy(room, aad.data, aad.len);
	*ret_len = aad.len;
	return 0;
}

static int
put_new_header(struct data_call *d, struct item *item)
{
	_cleanup_(buf_free) struct buf header = BUF_INIT(BLOB_HEADER_SIZE);
	int token = node_token(d->request->node, item->to->token);

	if (token < 0)
		return item_fail(item, KEKD_EHSM, "token %.64s is not in this node's configuration",
			item->to->token);
	blob_put_header(&header, &item->to->id, d->key->algorithm,
		hsm_token_iv_len(d->request->node->hsm, (unsigned)token));
	memcpy(item->header, header.data, BLOB_HEADER_SIZE);
	return 0;
}

/* Upper bounds of what an item's bytes need, from the lengths of its texts alone. */
static size_t
text_room(const struct item *item)
{
	return item->text ? strlen(item->text) / 4 * 3 : 0;
}

static size_t
out_room(const struct item *item)
{
	size_t text = text_room(item), bytes = (size_t)item->bytes;

	return (text > bytes ? text : bytes) + BLOB_TAG_SIZE;
}

static size_t
aad_room(const struct item *item)
{
	bool context = json_object_size(item->context) + json_object_size(item->new_context) > 0;

	return BLOB_HEADER_SIZE + (context ? BLOB_AAD_MAX : 0);
}

static size_t
item_size(const struct item *item)
{
	if (item->err != 0)
		return 0;
	return text_room(item) + 2 * out_room(item) + 2 * aad_room(item);
}

static void
item_place(struct item *item, uint8_t *at)
{
	item->out_size = out_room(item);
	item->in = at;
	item->out = item->in + text_room(item);
	item->out2 = item->out + item->out_size;
	item->aad = item->out2 + item->out_size;
	item->aad2 = item->aad + aad_room(item);
}

static void
item_prepare(struct data_call *d, struct item *item)
{
	const struct data_operation *o = d->operation;

	if (decode_text(d, item) != 0)
		return;
	if (o->unwraps && find_from(d, item) != 0)
		return;
	if (o->wraps && put_new_header(d, item) != 0)
		return;
	if (put_aad(item, o->unwraps ? item->blob.header : item->header, item->context, item->aad,
		    &item->aad_len) != 0)
		return;
	if (o->unwraps && o->wraps &&
		put_aad(item, item->header, item->new_context, item->aad2, &item->aad2_len) != 0)
		return;
	item->crosses = o->unwraps && o->wraps && strcmp(item->from->token, item->to->token) != 0;
}

static int
items_parse(struct data_call *d)
{
	json_t *body = d->request->body, *array = json_object_get(body, "items");
	size_t size = 1, at = 0;

	d->many = array != NULL;
	if (d->many && (json_object_size(body) != 1 || !json_is_array(array) ||
			       json_array_size(array) == 0 || json_array_size(array) > ITEMS_MAX)) {
		request_fail(d->request, KEKD_EINVALID,
			"\"items\" is an array of 1 to %d and stands alone", ITEMS_MAX);
		return KEKD_EINVALID;
	}
	d->count = d->many ? json_array_size(array) : 1;
	d->items = calloc(d->count, sizeof(*d->items));
	d->ops = calloc(d->count, sizeof(*d->ops));
	if (!d->items || !d->ops)
		goto memory;
	for (size_t i = 0; i < d->count; i++) {
		struct item *item = &d->items[i];
		item->err = d->operation->parse(d, item, d->many ? json_array_get(array, i) : body);
		size += item_size(item);
	}
	d->memory = BUF_INIT(size);
	d->memory.data = calloc(1, size);
	if (!d->memory.data)
		goto memory;
	d->memory.cap = size;
	for (size_t i = 0; i < d->count; i++) {
		if (d->items[i].err != 0)
			continue;
		item_place(&d->items[i], d->memory.data + at);
		at += item_size(&d->items[i]);
		item_prepare(d, &d->items[i]);
	}
	return 0;
memory:
	d->count = d->items ? d->count : 0;
	request_fail(d->request, KEKD_EINTERNAL, "out of memory");
	return KEKD_EINTERNAL;
}

/* ---- evidence ---- */

/* Which of the version's counts an item raises. */
static struct audit_version *
evidence(struct request *r, const struct key_version *v)
{
	for (size_t i = 0; i < r->audit_versions_count; i++)
		if (r->audit_versions[i].version == v->number)
			return &r->audit_versions[i];
	r->audit_versions[r->audit_versions_count] = (struct audit_version){ .version = v->number,
		.id = v->id };
	return &r->audit_versions[r->audit_versions_count++];
}

static bool
is_refused(const struct item *item)
{
	return item->err == KEKD_EDISABLED || item->err == KEKD_EDESTROYED;
}

static void
count_item(struct request *r, const struct item *item)
{
	if (item->from) {
		struct audit_version *v = evidence(r, item->from);
		if (is_refused(item))
			v->refused++;
		else if (item->err != 0)
			v->failed++;
		else
			v->unwrapped++;
	}
	if (item->to && item->op) {
		struct audit_version *v = evidence(r, item->to);
		if (item->err == 0)
			v->wrapped++;
		else if (!item->from)
			v->failed++;
	}
}

static bool
same_contexts(const struct data_call *d)
{
	for (size_t i = 1; i < d->count; i++)
		if (!json_equal(d->items[0].context, d->items[i].context) &&
			(d->items[0].context || d->items[i].context))
			return false;
	return true;
}

/* Contexts, counts and blob hashes. Every use of a version that is not enabled is told to the log;
 * the first in a minute must be durable. 0 or -ENOMEM: what cannot be told is not answered. */
static int
collect_evidence(struct data_call *d)
{
	struct request *r = d->request;
	size_t contexts = same_contexts(d) ? 1 : d->count;

	r->audit_versions = calloc(2 * d->count, sizeof(*r->audit_versions));
	r->audit_contexts = calloc(contexts, sizeof(json_t *));
	r->audit_blobs = calloc(d->count, sizeof(*r->audit_blobs));
	if (!r->audit_versions || !r->audit_contexts || !r->audit_blobs)
		return -ENOMEM;
	for (size_t i = 0; i < contexts; i++)
		r->audit_contexts[i] = d->items[i].context;
	r->audit_contexts_count = contexts == 1 && !d->items[0].context ? 0 : contexts;
	for (size_t i = 0; i < d->count; i++) {
		const struct item *item = &d->items[i];
		count_item(r, item);
		if (d->operation->unwraps && item->err == 0)
			memcpy(r->audit_blobs[r->audit_blobs_count++], item->digest,
				sizeof(item->digest));
		if (is_refused(item) && item->from &&
			node_first_refusal(r->node, r->client->name, &item->from->id))
			r->audit.force_durable = true;
	}
	return 0;
}

/* ---- answering ---- */

static void
put_blob(struct buf *b, const struct item *item)
{
	const struct hsm_op *op = item->op;
	uint8_t head[BLOB_HEADER_SIZE + BLOB_IV_MAX];
	size_t head_len = BLOB_HEADER_SIZE + op->iv_len;
	_cleanup_(buf_free) struct buf blob = BUF_INIT(BLOB_SIZE_MAX);

	memcpy(head, item->header, BLOB_HEADER_SIZE);
	memcpy(head + BLOB_HEADER_SIZE, op->iv, op->iv_len);
	buf_put(&blob, head, head_len);
	buf_put(&blob, op->out, op->out_len);
	str_base64(b, blob.data, blob.len);
}

static void
put_version(struct data_call *d, const struct item *item, struct buf *b)
{
	char id[UUID_TEXT_SIZE];

	uuid_format(&item->to->id, id);
	buf_printf(b, "\"key\":\"%s\",\"version\":%u,\"version_id\":\"%s\"", d->key->name,
		item->to->number, id);
}

static void
put_wrap(struct data_call *d, const struct item *item, struct buf *b)
{
	buf_str(b, "{\"ciphertext\":\"");
	put_blob(b, item);
	buf_str(b, "\",");
	put_version(d, item, b);
	buf_str(b, "}");
}

static void
put_unwrap(struct data_call *d, const struct item *item, struct buf *b)
{
	buf_str(b, "{");
	if (item->plaintext) {
		buf_str(b, "\"plaintext\":\"");
		str_base64(b, item->op->out, item->op->out_len);
		buf_str(b, "\",");
	}
	buf_printf(b, "\"version\":%u,\"primary\":%s}", item->from->number,
		item->from->number == d->key->primary ? "true" : "false");
}

static void
put_generate(struct data_call *d, const struct item *item, struct buf *b)
{
	buf_str(b, "{");
	if (item->plaintext) {
		buf_str(b, "\"plaintext\":\"");
		str_base64(b, item->op->out2, item->op->out2_len);
		buf_str(b, "\",");
	}
	buf_str(b, "\"ciphertext\":\"");
	put_blob(b, item);
	buf_str(b, "\",");
	put_version(d, item, b);
	buf_str(b, "}");
}

static void
put_rewrap(struct data_call *d, const struct item *item, struct buf *b)
{
	buf_str(b, "{\"ciphertext\":\"");
	put_blob(b, item);
	buf_str(b, "\",");
	put_version(d, item, b);
	buf_printf(b, ",\"from_version\":%u,\"already_primary\":%s}", item->from->number,
		item->from == item->to ? "true" : "false");
}

static void
put_error(const struct item *item, struct buf *b)
{
	buf_str(b, "{\"error\":");
	problem_format(b, item->err, item->detail, NULL);
	buf_str(b, "}");
}

static void
answer(struct data_call *d)
{
	struct request *r = d->request;

	if (collect_evidence(d) < 0) {
		request_fail(r, -ENOMEM, "no memory for the audit record: ask again");
		return;
	}
	if (!d->many && d->items[0].err != 0) {
		request_fail(r, d->items[0].err, "%s", d->items[0].detail);
		return;
	}
	r->tell_request_id = true;
	if (d->many)
		buf_str(&r->reply, "{\"items\":[");
	for (size_t i = 0; i < d->count; i++) {
		if (i > 0)
			buf_str(&r->reply, ",");
		if (d->items[i].err != 0)
			put_error(&d->items[i], &r->reply);
		else
			d->operation->put(d, &d->items[i], &r->reply);
	}
	if (d->many)
		buf_str(&r->reply, "]}");
	request_answer_buf(r, 200, "application/json");
}

/* Each item by how it ended; what would have been well ends as the whole did. */
static void
count_items(struct request *r, int err)
{
	const struct data_call *d = r->state;
	size_t from = 0;

	for (size_t i = 1; i <= d->count; i++) {
		int ended = d->items[from].err != 0 ? d->items[from].err : err;

		if (i < d->count && d->items[i].err == d->items[from].err)
			continue;
		traffic_count_items(r->node->traffic, r->route, ended, i - from);
		from = i;
	}
}

/* ---- the token ---- */

static void batch_done(struct hsm_batch *batch);

/* The token was not asked: no item has an answer, but what was refused before stays evidence. */
static void
fail_all(struct data_call *d, int err, const char *text)
{
	for (size_t i = 0; i < d->count; i++)
		if (d->items[i].err == 0)
			item_fail(&d->items[i], err, "%s", text);
	if (collect_evidence(d) < 0)
		text = "no memory for the audit record: ask again";
	request_fail(d->request, err, "%s", text);
}

static void
submit(struct data_call *d, struct hsm_op *ops, size_t count)
{
	int err;

	d->batch = (struct hsm_batch){ .ops = ops, .count = count, .done = batch_done, .user = d };
	err = hsm_submit(d->request->node->hsm, &d->batch);
	if (err != 0)
		fail_all(d, err,
			err == KEKD_EOVERLOAD ? "too much waits for the token: try again"
					      : "no worker of the token is ready: see /v1/status");
}

static size_t
count_crossing(const struct data_call *d)
{
	size_t n = 0;

	for (size_t i = 0; i < d->count; i++)
		n += d->items[i].crosses && d->items[i].op && d->items[i].err == 0;
	return n;
}

/* What the first token handed out, under the workers' own key, goes into the other one. False:
 * nothing crosses. */
static bool
submit_second(struct data_call *d)
{
	size_t count = count_crossing(d), n = 0;

	if (count == 0)
		return false;
	d->second = calloc(count, sizeof(*d->second));
	if (!d->second) {
		request_fail(d->request, KEKD_EINTERNAL, "out of memory");
		return true;
	}
	for (size_t i = 0; i < d->count; i++) {
		struct item *item = &d->items[i];
		struct hsm_op *op = &d->second[n];
		if (!item->crosses || !item->op || item->err != 0)
			continue;
		*op = (struct hsm_op){
			.kind = HSM_OP_TAKE_IN,
			.token = (unsigned)node_token(d->request->node, item->to->token),
			.object = item->to->object_id,
			.iv_len = item->op->iv_len,
			.aad = item->aad2,
			.aad_len = (uint32_t)item->aad2_len,
			.in = item->op->out,
			.in_len = item->op->out_len,
			.out = item->out2,
			.out_cap = (uint32_t)item->out_size,
		};
		memcpy(op->iv, item->op->iv, sizeof(op->iv));
		item->op = op;
		item->crosses = false;
		n++;
	}
	submit(d, d->second, count);
	return true;
}

static void
batch_done(struct hsm_batch *batch)
{
	struct data_call *d = batch->user;

	for (size_t i = 0; i < d->count; i++) {
		struct item *item = &d->items[i];
		if (!item->op || item->op->err == 0)
			continue;
		if (item->op->err == KEKD_EUNWRAP)
			item_fail(item, KEKD_EUNWRAP, "check key, ciphertext and context");
		else
			item_fail(item, item->op->err, "see /v1/status for the state of the token");
	}
	if (!submit_second(d))
		answer(d);
}

static void
op_fill(struct data_call *d, struct item *item, struct hsm_op *op)
{
	const struct key_version *first = item->from ? item->from : item->to;

	*op = (struct hsm_op){
		.kind = d->operation->kind,
		.token = (unsigned)node_token(d->request->node, first->token),
		.object = first->object_id,
		.aad = item->aad,
		.aad_len = (uint32_t)item->aad_len,
		.in = item->in,
		.in_len = (uint32_t)item->in_len,
		.size = (uint32_t)item->bytes,
		.out = item->out,
		.out_cap = (uint32_t)item->out_size,
	};
	if (item->from) {
		op->iv_len = item->blob.iv_len;
		memcpy(op->iv, item->blob.iv, op->iv_len);
		op->in = item->blob.ciphertext;
		op->in_len = (uint32_t)item->blob.ciphertext_len;
	}
	if (item->from && item->to) {
		op->object2 = item->to->object_id;
		op->aad2 = item->aad2;
		op->aad2_len = (uint32_t)item->aad2_len;
	}
	if (op->kind == HSM_OP_GENERATE) {
		op->out2 = item->out2;
		op->out2_cap = (uint32_t)item->out_size;
	}
	if (op->kind == HSM_OP_UNWRAP && !item->plaintext)
		op->kind = HSM_OP_CHECK;
	if (item->crosses)
		op->kind = HSM_OP_HAND_OUT;
}

static void
items_submit(struct data_call *d)
{
	size_t n = 0;

	for (size_t i = 0; i < d->count; i++) {
		struct item *item = &d->items[i];
		if (item->err != 0)
			continue;
		item->op = &d->ops[n++];
		op_fill(d, item, item->op);
	}
	if (n == 0) {
		answer(d);
		return;
	}
	submit(d, d->ops, n);
}

/* ---- IVs ---- */

struct refill {
	struct control_job job;
	struct node *node;
	struct key *key;
	struct key_version *version;
};

static void
refill_run(struct control_job *job)
{
	struct refill *f = job->user;
	int err = nonce_reserve(
		f->version->nonces, f->node->sealed, &f->version->id, f->node->part.node);

	if (err != 0)
		log_warning("key %s version %u: no further IVs could be reserved: %s", f->key->name,
			f->version->number, kekd_strerror(err));
	key_unrefp(&f->key);
	free(f);
}

/* Half of the block is used: the next one is reserved beside the traffic. */
static void
refill_later(struct data_call *d, struct key_version *version)
{
	struct refill *f = calloc(1, sizeof(*f));

	if (!f)
		return;
	f->job = (struct control_job){ .run = refill_run, .user = f };
	f->node = d->request->node;
	f->key = key_ref(d->key);
	f->version = version;
	if (control_post(f->node->control, &f->job) != 0) {
		key_unrefp(&f->key);
		free(f);
	}
}

static bool
lacks_iv(const struct item *item)
{
	return item->err == 0 && item->to && !item->has_iv;
}

/* Takes what is there; the number of items that go without. */
static size_t
ivs_take(struct data_call *d)
{
	size_t missing = 0;

	for (size_t i = 0; i < d->count; i++) {
		struct item *item = &d->items[i];
		enum nonce_answer taken;

		if (!lacks_iv(item))
			continue;
		taken = nonce_take(item->to->nonces, 1);
		item->has_iv = taken != NONCE_NONE;
		missing += taken == NONCE_NONE;
		if (taken == NONCE_TAKEN_LOW)
			refill_later(d, item->to);
	}
	return missing;
}

/* The store is asked once per version: a batch must not ask a store that is away a thousand times.
 */
static void
ivs_fail(struct data_call *d, const struct key_version *version, int err)
{
	for (size_t i = 0; i < d->count; i++)
		if (lacks_iv(&d->items[i]) && d->items[i].to == version)
			item_fail(&d->items[i], err, "no IVs could be reserved for version %u",
				version->number);
}

/* On the control thread: the block is spent, or there was none since the start. */
static void
ivs_reserve(struct control_job *job)
{
	struct data_call *d = job->user;
	struct node *n = d->request->node;

	while (ivs_take(d) > 0) {
		const struct item *item = d->items;
		int err;

		while (!lacks_iv(item))
			item++;
		err = nonce_reserve(item->to->nonces, n->sealed, &item->to->id, n->part.node);
		if (err != 0)
			ivs_fail(d, item->to, err);
	}
	items_submit(d);
}

/* ---- a copy of the metadata that may lag ---- */

static void data_go(struct data_call *d);

static bool
knows_all(const struct data_call *d)
{
	for (size_t i = 0; d->key && i < d->count; i++)
		if (d->items[i].unknown)
			return false;
	return d->key;
}

static void
looked_up(struct node_lookup *l, int err)
{
	struct data_call *d = l->user;

	if (err != 0) {
		request_fail(d->request, err,
			"the metadata store is away: try again, or ask "
			"another node");
		return;
	}
	call_reset(d);
	data_go(d);
}

/* What is not known here may be known in the store. True: it is being asked, or the request was
 * refused because it cannot be. */
static bool
look_up(struct data_call *d)
{
	int err;

	if (d->looked_up || knows_all(d))
		return false;
	d->looked_up = true;
	d->lookup = (struct node_lookup){ .run = looked_up, .user = d };
	err = node_look_up(d->request->node, &d->lookup);
	if (err == KEKD_ESTATE)
		return false;
	if (err != 0)
		looked_up(&d->lookup, err);
	return true;
}

/* False: too old a copy for this operation; the request is refused. */
static bool
may_serve_stale(struct data_call *d)
{
	enum key_stale rule = d->key->when_stale;

	if (!node_is_stale(d->request->node))
		return true;
	d->request->audit.stale = true;
	if (rule == KEY_STALE_SERVE || (rule == KEY_STALE_UNWRAP && !d->operation->wraps))
		return true;
	request_fail(d->request, KEKD_ESTALE,
		"key \"%s\" is set to %s then: ask another node, or set when_stale", d->key->name,
		key_stale_name(rule));
	return false;
}

/* The handler's thread, or after a look into the store the control thread. */
static void
data_go(struct data_call *d)
{
	struct request *r = d->request;
	struct key *k = keyring_find(r->node->keyring, r->key);
	int err;

	if (!k && look_up(d))
		return;
	/* Answered on the control thread, a request and d with it may be gone at once. */
	if (!k)
		k = api_find_key(r);
	if (!k)
		return;
	d->key = k;
	if (!may_serve_stale(d) || items_parse(d) != 0 || look_up(d))
		return;
	r->answered = count_items;
	if (ivs_take(d) == 0) {
		items_submit(d);
		return;
	}
	d->refill = (struct control_job){ .run = ivs_reserve, .user = d };
	err = control_post(r->node->control, &d->refill);
	if (err != 0)
		request_fail(r, err, "too many changes wait: try again");
}

static void
data_run(struct request *r, const struct data_operation *operation)
{
	struct data_call *d = calloc(1, sizeof(*d));

	if (!d) {
		request_fail(r, KEKD_EINTERNAL, "out of memory");
		return;
	}
	r->state = d;
	r->state_free = call_free;
	d->request = r;
	d->operation = operation;
	data_go(d);
}

static const struct data_operation operations[] = {
	[ACCESS_WRAP] = { false, true, parse_wrap, HSM_OP_WRAP, put_wrap },
	[ACCESS_UNWRAP] = { true, false, parse_unwrap, HSM_OP_UNWRAP, put_unwrap },
	[ACCESS_GENERATE] = { false, true, parse_generate, HSM_OP_GENERATE, put_generate },
	[ACCESS_REWRAP] = { true, true, parse_rewrap, HSM_OP_REWRAP, put_rewrap },
};

void
api_wrap(struct request *r)
{
	data_run(r, &operations[ACCESS_WRAP]);
}

void
api_unwrap(struct request *r)
{
	data_run(r, &operations[ACCESS_UNWRAP]);
}

void
api_generate(struct request *r)
{
	data_run(r, &operations[ACCESS_GENERATE]);
}

void
api_rewrap(struct request *r)
{
	data_run(r, &operations[ACCESS_REWRAP]);
}
