/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bound on refusals: ten records a minute per client, the rest counted, and the counts told in
 * one record per client at the minute's end. Who has no client record shares one bucket with all
 * others of that kind, so that what strangers send can never fill the disk. Callers hold a lock.
 */
#ifndef KEKD_AUDIT_REFUSALS_H
#define KEKD_AUDIT_REFUSALS_H

#include "kekd/audit.h"

#define REFUSALS_PER_MINUTE 10
#define REFUSALS_BUCKETS_MAX 1000
#define REFUSALS_CODES_MAX 12
#define REFUSALS_VERSIONS_MAX 16

struct refusals_count {
	const char *code; /* static: of the error table */
	uint64_t count;
};

struct refusals_bucket {
	char client[65]; /* empty: no client record, or one past the last bucket */
	unsigned written;
	uint64_t count; /* not written */
	struct refusals_count codes[REFUSALS_CODES_MAX];
	size_t codes_count;
	uint64_t other_codes;
	struct {
		unsigned version;
		struct uuid id;
		uint64_t refused;
	} versions[REFUSALS_VERSIONS_MAX];
	size_t versions_count;
	uint64_t other_versions;
	uint64_t last_us;		   /* when it last counted */
	struct refusals_bucket *next_same; /* of the same hash */
	struct refusals_bucket *next;	   /* of all */
};

struct refusals;
int refusals_open(struct refusals **ret_refusals);
void refusals_freep(struct refusals **r);
/* True: write the record. False: it is counted now. */
bool refusals_admit(struct refusals *r, const struct audit_record *record);
/* True: it is counted now, as one of a minute that has its records. False: nothing was done. */
bool refusals_count(struct refusals *r, const struct audit_record *record);
/* Boot clock, ns, at which the minute ends; 0: nothing was refused in it. */
uint64_t refusals_due(const struct refusals *r);
/* The buckets that have counted, one after the other; NULL: from the first, or no more. */
const struct refusals_bucket *refusals_next(
	const struct refusals *r, const struct refusals_bucket *after);
/* A summary's members between "node" and "prev". */
void refusals_format(struct buf *b, const struct refusals *r, const struct refusals_bucket *bucket);
/* A new minute: what was counted is on disk now. */
void refusals_reset(struct refusals *r);

#endif
