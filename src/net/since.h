/* SPDX-License-Identifier: Apache-2.0 */
/* What an audit log tells of the time since a backup. */
#ifndef NET_SINCE_H
#define NET_SINCE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct since {
	bool continuous;  /* the log has the backup's last record: what follows is all there was */
	uint64_t changes; /* that were made */
	json_t *wrapped;  /* version id → number of wraps */
};

/* Reads the log behind the record with this number and hash; changes are listed to `list`, a line
 * each, unless it is NULL. */
void since_read(struct since *s, const char *dir, uint64_t sequence, const char *head, FILE *list);
void since_free(struct since *s);
uint64_t since_wrapped(const struct since *s, const char *version);

#endif
