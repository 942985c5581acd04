/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the registered inventories of etcd's snapshots say of one version of a key: which backups
 * still need it, whether it is in none of the newest ones, and what approvals bind of it. Decides
 * nothing by itself: usage shows it, destroy consults it. Any thread; everything is borrowed.
 */
#ifndef KEKD_INVENTORY_H
#define KEKD_INVENTORY_H

#include "kekd/keyring.h"
#include "kekd/snapshots.h"
#include "kekd/usage.h"

/* A snapshot older than this says nothing of what lies in etcd now. */
#define INVENTORY_AGE_MAX_US (7 * 24 * 3600ull * 1000000)
/* Values can come to lie in etcd for so long after a version's last wrap, or after it stopped being
 * the primary: the previous primary wraps for ten minutes, an API server writes with a seed for
 * three minutes past the last good Status, and clocks differ. */
#define INVENTORY_LATE_US (600ull * 1000000)

/* Which backup needs the version for longest; NULL: none does now. */
const struct snapshot *inventory_needed_by(const struct snapshot_list *list,
	const struct uuid *version, uint64_t now_us, uint64_t seen_s);

/* What all versions of a key are judged by, made once for all of them. */
struct inventory {
	struct snapshot_list all;
	const struct snapshot **newest; /* of each cluster, sorted by its name; in `all` */
	/* An older one of the same cluster whose etcd was as far; NULL: as it should be. */
	const struct snapshot **ahead;
	size_t newest_count;
	unsigned latest; /* the latest version of the key that any of the newest has; 0: none */
	bool has_primary;
};
/* As the table is now. key: borrowed for the call, or NULL. 0 or -ENOMEM. */
int inventory_open(struct snapshots *t, const struct key *key, struct inventory *ret_inventory);
/* The same over a list, which is taken over, also on failure. */
int inventory_of(
	struct snapshot_list *list, const struct key *key, struct inventory *ret_inventory);
void inventory_free(struct inventory *i); /* for _cleanup_ */

struct inventory_facts {
	const struct key *key;
	const struct key_version *version;
	const struct usage_total *usage;
	bool usage_complete;	 /* of every member, up to now, with no record missing */
	uint64_t now_us, seen_s; /* by the wall clock, and as it was counted */
};
/* Is the version, as far as every registered cluster's newest snapshot tells, in no etcd any more?
 * That is: some newest snapshot has the key under its primary or a later version, so that values
 * were written since; and each cluster's is complete, not older than INVENTORY_AGE_MAX_US, of an
 * etcd that is further than that of an older one (a file that was copied looks younger than it is),
 * was taken and registered INVENTORY_LATE_US after the version last wrapped and after the key's
 * last activation, by a clock that was not set back since, and has no value of it, live or
 * superseded. False with the reason. */
#define INVENTORY_WHY_SIZE 400
bool inventory_is_clean(const struct inventory *i, const struct inventory_facts *f,
	char ret_why[INVENTORY_WHY_SIZE]);

/* Usage evidence and, if any record names the version, hex SHA-256 over it and what those records
 * say of it: registering, changing or forgetting a backup that has the version changes it. */
int inventory_evidence(const struct snapshot_list *list, const struct uuid *version,
	const char usage[USAGE_EVIDENCE_SIZE], char ret_hex[USAGE_EVIDENCE_SIZE]);

#endif
