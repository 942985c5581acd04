/* SPDX-License-Identifier: Apache-2.0 */
/* What an audit log tells of the time since a backup. */
#ifndef NET_SINCE_H
#define NET_SINCE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/* Where the backup ends, and how far the log must go at least. */
struct since_from {
	const char *dir, *head;
	uint64_t sequence; /* of the backup's last record, which has the hash head */
	uint64_t revision; /* the backup's commit number */
	uint64_t accepted; /* the newest that this node is known to have made; 0: not known */
};

struct since {
	bool continuous;  /* the log goes on from the backup's last record, verifies from there on,
			     and reaches as far as it must: what follows is all there was */
	char fault[400];  /* while it is not: why */
	uint64_t changes; /* that were made */
	json_t *wrapped;  /* version id → number of wraps */
};

/* Reads the log behind the backup; changes are listed to `list`, a line each, unless it is NULL. */
void since_read(struct since *s, const struct since_from *from, FILE *list);
void since_free(struct since *s);
uint64_t since_wrapped(const struct since *s, const char *version);

#endif
