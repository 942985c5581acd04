/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Checkpoints and anchors under verification: do they fit to the chain, and are they signed with a
 * key that somebody pinned? Bounded memory: a mark is compared with the newest MARKS_KEPT records.
 */
#ifndef KEKD_AUDIT_MARKS_H
#define KEKD_AUDIT_MARKS_H

#include "kekd/audit.h"

#define MARKS_KEPT (1u << 17)

struct marks;
struct marks_place {
	const char *cluster, *node; /* whose log it is */
	uint64_t base, last;	    /* missing at the beginning; the record before the mark */
	const char *base_head;
};

/* expected: borrowed, or NULL. NULL: no memory. */
struct marks *marks_open(const struct audit_expected *expected);
void marks_freep(struct marks **m);
void marks_note(struct marks *m, uint64_t sequence, const char hash[65]);
/* A record of type "checkpoint" or "anchor". NULL: no fault, and *ret_at is the record that it
 * vouches for, 0 when that is too far before to compare; else a text, good until the next call. */
const char *marks_check(struct marks *m, const char *kind, const json_t *record,
	const struct marks_place *place, uint64_t *ret_at);

#endif
