/* SPDX-License-Identifier: Apache-2.0 */
/* Records of an audit log that match, from files on this machine or from the server: what query and
 * report have in common. */
#ifndef KEKD_CTL_RECORDS_H
#define KEKD_CTL_RECORDS_H

#include "ctl.h"

#include "kekd/audit.h"

/* The options that choose records, for a command's list. */
#define RECORDS_OPTIONS " dir client about-key since until op denied code request-id blob "

struct records {
	const char *dir; /* NULL: the server */
	struct audit_filter filter;
	uint64_t scanned, matched;
	/* dir: the verdict over the whole log, when the caller asked for it */
	bool verify;
	struct audit_report report;
	int verdict; /* 0, KEKD_EAUDIT */
};

/* The options, checked. */
int records_take(struct ctl *ctl, struct records *ret_records);
/* Calls fn for each that matches, in the log's order, until it returns false. line: as it stands in
 * the file, or NULL from the server. One pass, bounded memory. */
typedef bool records_fn(const json_t *record, const char *line, void *user);
int records_read(struct ctl *ctl, struct records *r, records_fn *fn, void *user);
void records_free(struct records *r);

#endif
