/* SPDX-License-Identifier: Apache-2.0 */
/* See marks.h. Not here: the chain itself (verify.c), the signature's arithmetic (signature.c). */
#include "marks.h"

#include "kekd/json.h"
#include "kekd/str.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HASH_SIZE 64 /* hex */

struct marks {
	const struct audit_expected *expected;
	char (*hashes)[HASH_SIZE]; /* by sequence number, modulo MARKS_KEPT */
	uint64_t first, last;	   /* that were noted; 0: none */
	char text[200];
};

struct mark {
	struct audit_mark says;
	const char *key;
	uint8_t signature[AUDIT_SIGNATURE_SIZE];
};

struct marks *
marks_open(const struct audit_expected *expected)
{
	struct marks *m = calloc(1, sizeof(*m));

	if (!m)
		return NULL;
	m->expected = expected;
	m->hashes = malloc(MARKS_KEPT * sizeof(*m->hashes)); /* touched as it is used */
	if (!m->hashes)
		marks_freep(&m);
	return m;
}

void
marks_freep(struct marks **m)
{
	if (!*m)
		return;
	free((*m)->hashes);
	free(*m);
	*m = NULL;
}

void
marks_note(struct marks *m, uint64_t sequence, const char hash[65])
{
	if (m->first == 0)
		m->first = sequence;
	m->last = sequence;
	memcpy(m->hashes[sequence % MARKS_KEPT], hash, HASH_SIZE);
}

static bool
read_mark(const char *kind, const json_t *record, const struct marks_place *place,
	struct mark *ret_mark)
{
	json_int_t at = json_integer_value(json_object_get(record, "at"));
	const char *signature = json_string_value(json_object_get(record, "signature"));
	struct mark m = { .says = { kind, place->cluster, place->node, (uint64_t)at,
				  json_string_value(json_object_get(record, "head")) },
		.key = json_string_value(json_object_get(record, "key")) };
	size_t len = 0;

	if (at < 1 || !m.says.head || strlen(m.says.head) != HASH_SIZE || !m.key || !signature ||
		str_unbase64(signature, strlen(signature), m.signature, sizeof(m.signature),
			&len) != 0 ||
		len != sizeof(m.signature))
		return false;
	*ret_mark = m;
	return true;
}

/* The hash that the record has here; NULL: that is not known any more. */
static const char *
hash_of(const struct marks *m, const struct marks_place *place, uint64_t at)
{
	if (at == place->base)
		return place->base_head;
	if (m->first == 0 || at < m->first || at > m->last || m->last - at >= MARKS_KEPT)
		return NULL;
	return m->hashes[at % MARKS_KEPT];
}

static const char *
check_signature(struct marks *m, const char *kind, const struct mark *mark)
{
	const struct audit_expected *e = m->expected;
	uint8_t digest[32];

	if (!e || e->pins_count == 0)
		return NULL;
	audit_mark_digest(&mark->says, digest);
	for (size_t i = 0; i < e->pins_count; i++) {
		char fingerprint[AUDIT_FINGERPRINT_SIZE];

		audit_fingerprint(e->pins[i].public, fingerprint);
		if (strcmp(fingerprint, mark->key) != 0)
			continue;
		if (audit_signature_ok(e->pins[i].public, digest, mark->signature))
			return NULL;
		snprintf(m->text, sizeof(m->text), "the signature of this %s is wrong", kind);
		return m->text;
	}
	snprintf(m->text, sizeof(m->text), "this %s is signed with a key that was not given: %.64s",
		kind, mark->key);
	return m->text;
}

const char *
marks_check(struct marks *m, const char *kind, const json_t *record,
	const struct marks_place *place, uint64_t *ret_at)
{
	struct mark mark;
	const char *hash;

	*ret_at = 0;
	if (!read_mark(kind, record, place, &mark) || mark.says.at > place->last) {
		snprintf(m->text, sizeof(m->text), "this %s is none that the node can have written",
			kind);
		return m->text;
	}
	hash = hash_of(m, place, mark.says.at);
	if (hash && memcmp(hash, mark.says.head, HASH_SIZE) != 0) {
		snprintf(m->text, sizeof(m->text),
			"this %s does not fit to the chain: record %llu had another hash when it "
			"was signed",
			kind, (unsigned long long)mark.says.at);
		return m->text;
	}
	if (hash)
		*ret_at = mark.says.at;
	return check_signature(m, kind, &mark);
}
