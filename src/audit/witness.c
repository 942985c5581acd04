/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Witnesses: each node's log has the checkpoints of the others, so that a log which was written
 * anew, by somebody who can sign too, or cut off, disagrees with what its node once told. Here the
 * claims of a whole log are collected; verify.c holds a log against them.
 */
#include "witness.h"

#include "kekd/err.h"
#include "kekd/str.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LOGS_MAX 64 /* that one log tells of */

struct audit_witnesses {
	struct {
		char cluster[65], node[65];
	} logs[LOGS_MAX];
	size_t logs_count;
	struct witness_claim *claims; /* sorted by log, then by record */
	size_t count, size;
};

struct reading {
	struct audit_witnesses *w;
	const struct audit_pin *pins;
	size_t pins_count;
	bool full; /* no memory, or too many logs */
};

/* The index, LOGS_MAX: there is no room. */
static size_t
log_of(struct audit_witnesses *w, const char *cluster, const char *node, bool add)
{
	size_t i = 0;

	while (i < w->logs_count &&
		(strcmp(w->logs[i].node, node) != 0 || strcmp(w->logs[i].cluster, cluster) != 0))
		i++;
	if (i < w->logs_count || !add || i == LOGS_MAX)
		return i < w->logs_count ? i : LOGS_MAX;
	snprintf(w->logs[i].cluster, sizeof(w->logs[i].cluster), "%s", cluster);
	snprintf(w->logs[i].node, sizeof(w->logs[i].node), "%s", node);
	w->logs_count++;
	return i;
}

static bool
signed_by_pin(const struct reading *r, const json_t *record, const struct audit_mark *mark)
{
	const char *text = json_string_value(json_object_get(record, "signature"));
	uint8_t digest[32], signature[AUDIT_SIGNATURE_SIZE];
	size_t len = 0;

	if (r->pins_count == 0)
		return true;
	if (!text || str_unbase64(text, strlen(text), signature, sizeof(signature), &len) != 0 ||
		len != sizeof(signature))
		return false;
	audit_mark_digest(mark, digest);
	for (size_t i = 0; i < r->pins_count; i++)
		if (audit_signature_ok(r->pins[i].public, digest, signature))
			return true;
	return false;
}

static bool
grow(struct audit_witnesses *w)
{
	size_t size = w->size ? 2 * w->size : 1024;
	struct witness_claim *claims;

	if (w->count < w->size)
		return true;
	claims = realloc(w->claims, size * sizeof(*claims));
	if (!claims)
		return false;
	w->claims = claims;
	w->size = size;
	return true;
}

static void
take(const json_t *record, size_t len, void *user)
{
	struct reading *r = user;
	const char *type = json_string_value(json_object_get(record, "type"));
	json_int_t at = json_integer_value(json_object_get(record, "at"));
	const struct audit_mark mark = { "checkpoint",
		json_string_value(json_object_get(record, "of_cluster")),
		json_string_value(json_object_get(record, "of")), (uint64_t)at,
		json_string_value(json_object_get(record, "head")) };
	struct witness_claim claim = { .at = (uint64_t)at };
	size_t whose;

	(void)len;
	if (!type || strcmp(type, "witness") != 0 || at < 1 || !mark.cluster || !mark.node ||
		!mark.head || str_unhex(mark.head, claim.head, sizeof(claim.head)) != 0 ||
		!signed_by_pin(r, record, &mark))
		return;
	whose = log_of(r->w, mark.cluster, mark.node, true);
	if (whose == LOGS_MAX || !grow(r->w)) {
		r->full = true;
		return;
	}
	claim.whose = (unsigned)whose;
	r->w->claims[r->w->count++] = claim;
}

static int
by_place(const void *a, const void *b)
{
	const struct witness_claim *x = a, *y = b;

	if (x->whose != y->whose)
		return x->whose < y->whose ? -1 : 1;
	return x->at < y->at ? -1 : x->at > y->at;
}

int
audit_witnesses_read(const char *dir, const struct audit_pin *pins, size_t pins_count,
	struct audit_witnesses **ret_witnesses, struct audit_report *ret_report)
{
	struct reading r = { .pins = pins, .pins_count = pins_count };
	int err;

	r.w = calloc(1, sizeof(*r.w));
	if (!r.w)
		return -ENOMEM;
	err = audit_verify_each(dir, take, &r, ret_report);
	if (err == 0 && r.full) {
		json_decref(ret_report->notes);
		err = -ENOMEM;
	}
	if (err < 0) {
		audit_witnesses_freep(&r.w);
		return err;
	}
	if (r.w->count > 0)
		qsort(r.w->claims, r.w->count, sizeof(*r.w->claims), by_place);
	*ret_witnesses = r.w;
	return 0;
}

void
audit_witnesses_freep(struct audit_witnesses **w)
{
	if (!*w)
		return;
	free((*w)->claims);
	free(*w);
	*w = NULL;
}

void
witness_begin(const struct audit_witnesses *w, const char *cluster, const char *node,
	uint64_t first, struct witness_cursor *ret_cursor)
{
	size_t whose = log_of((struct audit_witnesses *)w, cluster, node, false);
	size_t from = 0, to;

	while (from < w->count &&
		(w->claims[from].whose < whose ||
			(w->claims[from].whose == whose && w->claims[from].at < first)))
		from++;
	for (to = from; to < w->count && w->claims[to].whose == whose; to++)
		;
	*ret_cursor = (struct witness_cursor){ w->claims + from, w->claims + to };
	if (from == to)
		*ret_cursor = (struct witness_cursor){ NULL, NULL };
}

const struct witness_claim *
witness_next(struct witness_cursor *c, uint64_t sequence)
{
	return c->next < c->end && c->next->at == sequence ? c->next++ : NULL;
}

bool
witness_holds(const struct witness_claim *claim, const char *hash)
{
	uint8_t head[sizeof(claim->head)];

	return str_unhex(hash, head, sizeof(head)) == 0 &&
	       memcmp(head, claim->head, sizeof(head)) == 0;
}

uint64_t
witness_last(const struct witness_cursor *c)
{
	return c->end ? c->end[-1].at : 0;
}
