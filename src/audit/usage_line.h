/* SPDX-License-Identifier: Apache-2.0 */
/* What a line of the log tells of use. Read without making JSON of it where it is written as this
 * release writes: a start may have a million of them to read. */
#ifndef KEKD_AUDIT_USAGE_LINE_H
#define KEKD_AUDIT_USAGE_LINE_H

#include "chain.h"
#include "kekd/str.h"
#include "kekd/usage.h"

struct usage_line {
	uint64_t sequence, time_us;
	char hash[CHAIN_HEX_SIZE], prev[CHAIN_HEX_SIZE];
	bool has_use; /* the rest counts */
	uint64_t first_us, last_us;
	char client[STR_NAME_MAX + 1];
	char key[STR_NAME_MAX + 1]; /* empty: a summary, which tells none */
	/* usage_line_next's own */
	const char *text;
	struct chain_line parsed;
	size_t at;
};

/* The times of lines are mostly of the same second. */
struct usage_clock {
	char text[20];
	uint64_t us;
};

/* line ends with NUL behind len bytes, and must outlive ret. 0; -EBADMSG: it is no record with the
 * hash that it claims. */
int usage_line_read(EVP_MD_CTX *md, struct usage_clock *clock, const char *line, size_t len,
	struct usage_line *ret_line);
void usage_line_free(struct usage_line *line);

struct usage_line_version {
	unsigned number;
	struct uuid id;
	uint64_t counts[USAGE_KINDS];
};
/* The next of its versions; false: there is none. */
bool usage_line_next(struct usage_line *line, struct usage_line_version *ret_version);

#endif
