/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The node's key for signatures, in its first token, and the checkpoints of the audit log that are
 * signed with it: every ten seconds with new records, and at a clean stop. The log's writer never
 * waits for the token: a checkpoint tells of a place that is behind it in the log. Without the key
 * the log goes on, and status and metrics say that nothing is signed. Control thread.
 */
#include "node.h"

#include "kekd/clock.h"
#include "kekd/log.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define CHECKPOINT_NS (10 * CLOCK_S)
#define STORE_NS (60 * CLOCK_S)
#define AGAIN_NS (10 * CLOCK_S)
#define KEY_TOKEN 0 /* of a new node; the record has where it is */
#define BEFORE "audit_keys_before"

static void
set_state(struct node *n, enum signing_state state, const char *fault)
{
	bool changed;

	pthread_mutex_lock(&n->lock);
	changed = n->signing.state != state || strcmp(n->signing.fault, fault) != 0;
	n->signing.state = state;
	snprintf(n->signing.fault, sizeof(n->signing.fault), "%s", fault);
	pthread_mutex_unlock(&n->lock);
	if (state == SIGNING_READY)
		log_info("audit checkpoints are signed with key %s", n->signing.fingerprint);
	else if (changed)
		log_error("audit checkpoints are not signed: %s", fault);
}

static const char *
remedy(int err)
{
	if (err == KEKD_EOBJECT)
		return "the node's signing key is not in the token: bring it back from the "
		       "token's backup; the audit log goes on without signatures until then";
	if (err == KEKD_EATTRIBUTES)
		return "the object with the signing key's CKA_ID is another one than the record "
		       "tells of: bring back the right one from the token's backup";
	return kekd_strerror(err);
}

static void
fail(struct node *n, int err)
{
	n->signing_again_ns = clock_boot_ns() + AGAIN_NS;
	pthread_mutex_lock(&n->lock);
	n->signing.failures++;
	pthread_mutex_unlock(&n->lock);
	set_state(n, err == KEKD_EOBJECT ? SIGNING_MISSING : SIGNING_FAILED, remedy(err));
}

void
node_signing(struct node *n, struct node_signing *ret_signing)
{
	pthread_mutex_lock(&n->lock);
	*ret_signing = n->signing;
	pthread_mutex_unlock(&n->lock);
}

/* ---- the token ---- */

static int
call(struct node *n, struct hsm_op *op)
{
	int err;

	op->token = n->signing_token;
	op->object.len = sizeof(n->signing_id.b);
	memcpy(op->object.b, n->signing_id.b, sizeof(n->signing_id.b));
	err = hsm_call(n->hsm, op, 1);
	return err != 0 ? err : op->err;
}

static int
create(struct node *n)
{
	char label[256];
	struct hsm_op op = { .kind = HSM_OP_CREATE_SIGN, .in = (const uint8_t *)label };

	snprintf(label, sizeof(label), "kekd:%s:audit:%s", n->part.cluster, n->part.node);
	op.in_len = (uint32_t)strlen(label);
	return call(n, &op);
}

static int
read_public(struct node *n, uint8_t ret_public[AUDIT_PUBLIC_SIZE])
{
	struct hsm_op op = {
		.kind = HSM_OP_PUBLIC, .out = ret_public, .out_cap = AUDIT_PUBLIC_SIZE
	};
	int err = call(n, &op);

	return err == 0 && op.out_len != AUDIT_PUBLIC_SIZE ? KEKD_EHSM : err;
}

static int
sign(struct node *n, const uint8_t digest[32], uint8_t ret_signature[AUDIT_SIGNATURE_SIZE])
{
	struct hsm_op op = { .kind = HSM_OP_SIGN,
		.in = digest,
		.in_len = 32,
		.out = ret_signature,
		.out_cap = AUDIT_SIGNATURE_SIZE };
	int err = call(n, &op);

	if (err == 0 && op.out_len != AUDIT_SIGNATURE_SIZE)
		err = KEKD_EHSM;
	/* Nobody else would notice before an auditor does. */
	if (err == 0 && !audit_signature_ok(n->signing.public, digest, ret_signature))
		err = KEKD_EATTRIBUTES;
	return err;
}

int
node_sign(struct node *n, const uint8_t digest[32], uint8_t ret_signature[AUDIT_SIGNATURE_SIZE])
{
	int err;

	if (n->signing.state != SIGNING_READY)
		return n->signing.state == SIGNING_WAITING ? KEKD_ESTARTING : KEKD_EOBJECT;
	err = sign(n, digest, ret_signature);
	if (err != 0)
		fail(n, err);
	return err;
}

/* ---- the key's record ---- */

/* A record without `public` is one whose pair was about to be made when the node stopped. */
static int
take_record(struct node *n, uint8_t ret_public[AUDIT_PUBLIC_SIZE], bool *ret_made)
{
	const json_t *record = node_member(n, "audit_key");
	const char *id = json_string_value(json_object_get(record, "id"));
	const char *created = json_string_value(json_object_get(record, "created"));
	const char *public = json_string_value(json_object_get(record, "public"));
	const char *token = json_string_value(json_object_get(record, "token"));
	size_t len = 0;
	int index;

	if (!record)
		return -ENOENT;
	if (!id || uuid_parse(id, &n->signing_id) != 0 || !created ||
		clock_parse(created, &n->signing.created_us) != 0)
		return KEKD_EINVALID;
	index = token ? node_token(n, token) : KEY_TOKEN;
	if (index < 0)
		return KEKD_EOBJECT;
	n->signing_token = (unsigned)index;
	*ret_made = public;
	if (public &&
		(str_unbase64(public, strlen(public), ret_public, AUDIT_PUBLIC_SIZE, &len) != 0 ||
			len != AUDIT_PUBLIC_SIZE))
		return KEKD_EINVALID;
	return 0;
}

static json_t *
record_json(const struct node *n, const uint8_t *public)
{
	char id[UUID_TEXT_SIZE], created[CLOCK_TEXT_SIZE];
	struct buf b = BUF_INIT(STR_BASE64_SIZE(AUDIT_PUBLIC_SIZE));
	json_t *record;

	uuid_format(&n->signing_id, id);
	clock_format(n->signing.created_us, created);
	record = json_pack("{s:s, s:s, s:s}", "id", id, "token", n->part.tokens[n->signing_token],
		"created", created);
	if (public) {
		str_base64(&b, public, AUDIT_PUBLIC_SIZE);
		json_object_set_new(record, "public", json_stringn((const char *)b.data, b.len));
	}
	buf_free(&b);
	return record;
}

/* The record first, so that a pair in the token is never one that nobody knows. */
static int
make_record(struct node *n)
{
	int err = uuid_generate(&n->signing_id);

	n->signing.created_us = clock_real_us();
	return err != 0 ? err : node_set_member(n, "audit_key", record_json(n, NULL));
}

static int
make_pair(struct node *n)
{
	uint8_t public[AUDIT_PUBLIC_SIZE];
	int err = create(n);

	if (err == 0)
		err = read_public(n, public);
	if (err == 0)
		err = node_set_member(n, "audit_key", record_json(n, public));
	return err;
}

static void
take_public(struct node *n, const uint8_t public[AUDIT_PUBLIC_SIZE])
{
	pthread_mutex_lock(&n->lock);
	memcpy(n->signing.public, public, AUDIT_PUBLIC_SIZE);
	audit_fingerprint(public, n->signing.fingerprint);
	pthread_mutex_unlock(&n->lock);
}

/* The keys of the record that signed before; what cannot be read of them is left out. */
static void
take_before(struct node *n)
{
	const json_t *record;
	size_t i, count = 0, len;

	pthread_mutex_lock(&n->lock);
	json_array_foreach(node_member(n, BEFORE), i, record) {
		const char *public = json_string_value(json_object_get(record, "public"));
		const char *created = json_string_value(json_object_get(record, "created"));
		if (count < SIGNING_BEFORE_MAX && public && created &&
			clock_parse(created, &n->signing.before[count].created_us) == 0 &&
			str_unbase64(public, strlen(public), n->signing.before[count].public,
				AUDIT_PUBLIC_SIZE, &len) == 0 &&
			len == AUDIT_PUBLIC_SIZE)
			count++;
	}
	n->signing.before_count = count;
	pthread_mutex_unlock(&n->lock);
}

/* Both halves are there, and belong together. */
static int
prove(struct node *n)
{
	static const uint8_t digest[32] = "kekd audit: does the key sign?";
	uint8_t signature[AUDIT_SIGNATURE_SIZE];

	return sign(n, digest, signature);
}

static int
open_key(struct node *n)
{
	uint8_t public[AUDIT_PUBLIC_SIZE];
	bool made = false;
	int err = take_record(n, public, &made);

	if (err == -ENOENT) {
		err = make_record(n);
		made = false;
	}
	if (err == 0 && !made) {
		err = make_pair(n);
		if (err == 0)
			err = take_record(n, public, &made);
	}
	if (err != 0)
		return err;
	take_public(n, public);
	take_before(n);
	return prove(n);
}

/* ---- checkpoints ---- */

static json_t *
mark_json(const struct node *n, const struct audit_mark *m, const uint8_t *signature)
{
	struct buf b = BUF_INIT(STR_BASE64_SIZE(AUDIT_SIGNATURE_SIZE));
	json_t *j;

	str_base64(&b, signature, AUDIT_SIGNATURE_SIZE);
	j = json_pack("{s:I, s:s, s:s, s:s%, s:I}", "at", (json_int_t)m->at, "head", m->head, "key",
		n->signing.fingerprint, "signature", (const char *)b.data, b.len, "revision",
		(json_int_t)sealed_number(n->sealed));
	buf_free(&b);
	return j;
}

int
node_sign_mark(struct node *n, enum audit_type type, uint64_t at, const char *head,
	uint8_t ret_signature[AUDIT_SIGNATURE_SIZE])
{
	const struct audit_mark mark = { type == AUDIT_ANCHOR ? "anchor" : "checkpoint",
		n->part.cluster, n->part.node, at, head };
	struct audit_record record = { .type = type };
	uint8_t digest[32];
	int err;

	audit_mark_digest(&mark, digest);
	err = node_sign(n, digest, ret_signature);
	if (err != 0)
		return err;
	record.time_us = clock_real_us();
	record.detail = mark_json(n, &mark, ret_signature);
	err = record.detail ? audit_append(n->audit, &record) : -ENOMEM;
	json_decref(record.detail);
	return err;
}

static void
store_checkpoint(struct node *n)
{
	struct buf b = BUF_INIT(STR_BASE64_SIZE(AUDIT_SIGNATURE_SIZE));
	char time[CLOCK_TEXT_SIZE];
	int err;

	n->signing_store_ns = clock_boot_ns() + STORE_NS;
	if (n->signing.at == n->signing_stored)
		return;
	clock_format(n->signing.at_us, time);
	str_base64(&b, n->signing.signature, AUDIT_SIGNATURE_SIZE);
	err = node_set_member(n, "checkpoint",
		json_pack("{s:I, s:s, s:s, s:s, s:s%}", "sequence", (json_int_t)n->signing.at,
			"head", n->signing.head, "time", time, "key", n->signing.fingerprint,
			"signature", (const char *)b.data, b.len));
	buf_free(&b);
	if (err == 0)
		n->signing_stored = n->signing.at;
	else
		log_warning("members/%s: the last checkpoint could not be stored: %s", n->part.node,
			kekd_strerror(err));
}

/* True: there was something to sign, and it is signed. The checkpoint's own record and what this
 * node witnessed of others are nothing new: two idle nodes would tell each other of that for ever.
 * A commit that no record tells of is: the log must tell how far the store had come. */
static bool
checkpoint(struct node *n)
{
	uint64_t revision = sealed_number(n->sealed);
	uint8_t signature[AUDIT_SIGNATURE_SIZE];
	struct audit_status a;
	bool news;

	audit_status(n->audit, &a);
	news = a.sequence > n->signing.at + n->signing_marks || revision != n->signing_revision;
	if (!a.ok || !news)
		return false;
	if (node_sign_mark(n, AUDIT_CHECKPOINT, a.sequence, a.head, signature) != 0)
		return false;
	n->signing_marks = 1;
	n->signing_revision = revision;
	pthread_mutex_lock(&n->lock);
	n->signing.at = a.sequence;
	memcpy(n->signing.head, a.head, sizeof(n->signing.head));
	memcpy(n->signing.signature, signature, sizeof(signature));
	n->signing.at_us = clock_real_us();
	n->signing.checkpoints++;
	pthread_mutex_unlock(&n->lock);
	return true;
}

/* The end of the file before, and the new one's beginning, are signed at once. */
static bool
is_new_file(struct node *n)
{
	struct audit_status a;
	bool new;

	audit_status(n->audit, &a);
	new = strcmp(a.file, n->signing_file) != 0;
	memcpy(n->signing_file, a.file, sizeof(n->signing_file));
	return new;
}

void
node_tick_signing(struct node *n)
{
	uint64_t now = clock_boot_ns();
	int err;

	if (n->signing.state != SIGNING_READY) {
		if (now < n->signing_again_ns)
			return;
		err = open_key(n);
		if (err != 0)
			fail(n, err);
		else
			set_state(n, SIGNING_READY, "");
		if (err != 0)
			return;
	}
	if (now >= n->signing_next_ns || is_new_file(n)) {
		n->signing_next_ns = now + CHECKPOINT_NS;
		checkpoint(n);
	}
	if (now >= n->signing_store_ns)
		store_checkpoint(n);
}

/* What was signed before stays to be verified. */
static int
keep_old_key(struct node *n)
{
	json_t *old = node_member(n, "audit_key"), *all = json_deep_copy(node_member(n, BEFORE));

	if (!all)
		all = json_array();
	while (json_array_size(all) >= SIGNING_BEFORE_MAX)
		json_array_remove(all, 0);
	if (!all || json_array_append(all, old) < 0) {
		json_decref(all);
		return -ENOMEM;
	}
	return node_set_member(n, BEFORE, all);
}

int
node_move_signing(struct node *n, unsigned token)
{
	const char *name = n->part.tokens[token];
	const json_t *record = node_member(n, "audit_key");
	const char *now = json_string_value(json_object_get(record, "token"));
	int err;

	if (!now || strcmp(now, name) == 0)
		return 0;
	if (n->signing.state == SIGNING_READY)
		checkpoint(n);
	err = keep_old_key(n);
	if (err != 0)
		return err;
	n->signing_token = token;
	err = make_record(n);
	pthread_mutex_lock(&n->lock);
	n->signing.state = SIGNING_WAITING;
	pthread_mutex_unlock(&n->lock);
	n->signing_again_ns = 0;
	if (err == 0)
		log_info("the key that signs the audit log is made anew in token %s", name);
	return err;
}

void
node_close_signing(struct node *n)
{
	if (!atomic_load(&n->sealed) || n->signing.state != SIGNING_READY)
		return;
	checkpoint(n);
	store_checkpoint(n);
}
