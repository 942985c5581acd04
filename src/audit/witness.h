/* SPDX-License-Identifier: Apache-2.0 */
/* What another log witnessed, walked through in the order of the records that it tells of. */
#ifndef KEKD_AUDIT_WITNESS_H
#define KEKD_AUDIT_WITNESS_H

#include "kekd/audit.h"

struct witness_claim {
	uint64_t at;
	unsigned whose; /* index of the log */
	uint8_t head[32];
};

struct witness_cursor { /* all zero: nothing is claimed */
	const struct witness_claim *next, *end;
};

/* Of this log, from that record on: what was before it is not here any more. */
void witness_begin(const struct audit_witnesses *w, const char *cluster, const char *node,
	uint64_t first, struct witness_cursor *ret_cursor);
/* The next claim of this record, or NULL. Records come in order, none left out. */
const struct witness_claim *witness_next(struct witness_cursor *c, uint64_t sequence);
bool witness_holds(const struct witness_claim *claim, const char *hash);
/* The newest record that is claimed; 0: none. */
uint64_t witness_last(const struct witness_cursor *c);

#endif
