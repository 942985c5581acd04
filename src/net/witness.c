/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Witness: members/NODE of every other node tells, at most once a minute, of a signed place in that
 * node's audit log. Each new one goes into this node's log, so that whoever writes the other log
 * anew, or cuts its end off, would have to do the same here. Control thread.
 */
#include "node.h"

#include "kekd/clock.h"
#include "kekd/log.h"

#include <stdlib.h>
#include <string.h>

#define WITNESS_MAX 64 /* nodes */

struct node_witness {
	char node[STR_NAME_MAX + 1], head[65], key[AUDIT_FINGERPRINT_SIZE];
	uint64_t at, written; /* told; and in this log since the start */
	uint8_t signature[AUDIT_SIGNATURE_SIZE];
	bool told; /* that its signature is wrong */
};

static struct node_witness *
find(struct node *n, const char *node)
{
	struct node_witness *list;

	for (size_t i = 0; i < n->witness_count; i++)
		if (strcmp(n->witness[i].node, node) == 0)
			return &n->witness[i];
	if (n->witness_count == WITNESS_MAX)
		return NULL;
	list = realloc(n->witness, (n->witness_count + 1) * sizeof(*list));
	if (!list)
		return NULL;
	n->witness = list;
	list = &list[n->witness_count++];
	*list = (struct node_witness){ .at = 0 };
	snprintf(list->node, sizeof(list->node), "%s", node);
	return list;
}

static bool
unbase64(const json_t *text, void *ret_data, size_t size)
{
	const char *s = json_string_value(text);
	size_t len = 0;

	return s && str_unbase64(s, strlen(s), ret_data, size, &len) == 0 && len == size;
}

/* The signature is checked with the key that the same record names: the token sealed both. */
static bool
is_signed(const struct node *n, const struct node_witness *w, const json_t *body)
{
	const struct audit_mark mark = { "checkpoint", n->part.cluster, w->node, w->at, w->head };
	const json_t *key = json_object_get(body, "audit_key");
	uint8_t public[AUDIT_PUBLIC_SIZE], digest[32];

	if (!unbase64(json_object_get(key, "public"), public, sizeof(public)))
		return false;
	audit_mark_digest(&mark, digest);
	return audit_signature_ok(public, digest, w->signature);
}

void
node_note_checkpoint(struct node *n, const char *member, const json_t *body)
{
	const json_t *c = json_object_get(body, "checkpoint");
	json_int_t at = json_integer_value(json_object_get(c, "sequence"));
	const char *head = json_string_value(json_object_get(c, "head"));
	const char *key = json_string_value(json_object_get(c, "key"));
	struct node_witness *w, next;

	if (at < 1 || !head || strlen(head) != 64 || !key || strlen(key) != 64)
		return;
	w = find(n, member);
	if (!w || (uint64_t)at <= w->at)
		return;
	next = *w;
	next.at = (uint64_t)at;
	memcpy(next.head, head, sizeof(next.head));
	memcpy(next.key, key, sizeof(next.key));
	if (unbase64(json_object_get(c, "signature"), next.signature, sizeof(next.signature)) &&
		is_signed(n, &next, body)) {
		*w = next;
		return;
	}
	if (!w->told)
		log_error("members/%s: the checkpoint of its audit log is not signed with the key "
			  "that it names: it is not witnessed",
			member);
	w->told = true;
}

static int
append(struct node *n, const struct node_witness *w)
{
	struct buf b = BUF_INIT(STR_BASE64_SIZE(AUDIT_SIGNATURE_SIZE));
	struct audit_record record = { .type = AUDIT_WITNESS, .time_us = clock_real_us() };
	int err;

	str_base64(&b, w->signature, sizeof(w->signature));
	record.detail = json_pack("{s:s, s:s, s:I, s:s, s:s, s:s%}", "of", w->node, "of_cluster",
		n->part.cluster, "at", (json_int_t)w->at, "head", w->head, "key", w->key,
		"signature", (const char *)b.data, b.len);
	buf_free(&b);
	err = record.detail ? audit_append(n->audit, &record) : KEKD_EINTERNAL;
	json_decref(record.detail);
	return err;
}

void
node_tick_witness(struct node *n)
{
	for (size_t i = 0; i < n->witness_count; i++) {
		struct node_witness *w = &n->witness[i];
		/* While the log cannot be written it is tried at each tick, as all else is. */
		if (w->at == w->written || !audit_ok(n->audit) || append(n, w) != 0)
			continue;
		w->written = w->at;
		n->signing_marks++;
	}
}
