/* SPDX-License-Identifier: Apache-2.0 */
/* Does a registered backup forbid the end of a version? Asked when it is to be destroyed, and again
 * when its wait is over. Any thread. */
#include "node.h"

#include "kekd/clock.h"
#include "kekd/inventory.h"

#include <errno.h>
#include <stdio.h>

static void
tell(const struct snapshot *s, const struct key *k, const struct key_version *v, uint64_t now_us,
	uint64_t seen_s, char ret_error[LIFECYCLE_ERROR_SIZE])
{
	char until[CLOCK_TEXT_SIZE], rest[CLOCK_DURATION_SIZE], counted[96] = "";

	clock_format(s->needed_until_us, until);
	clock_format_duration(snapshot_uncounted_s(s, seen_s), rest);
	if (now_us >= s->needed_until_us)
		snprintf(counted, sizeof(counted),
			" and by the time that kekd saw pass for %s more", rest);
	snprintf(ret_error, LIFECYCLE_ERROR_SIZE,
		"version %u of key %s: backup \"%s\" needs it until %.19sZ%s: wait, or give that "
		"backup up: \"kekctl snapshot forget\"",
		v->number, k->name, s->id, until, counted);
}

int
node_needed(struct node *n, const struct key *k, const struct key_version *v,
	char ret_error[LIFECYCLE_ERROR_SIZE])
{
	_cleanup_(snapshot_list_free) struct snapshot_list all = { 0 };
	uint64_t now_us = clock_real_us(), seen_s = node_seen_s(n);
	char path[STORE_PATH_MAX + 1];
	const struct snapshot *s;

	if (node_doubts_snapshots(n, path)) {
		snprintf(ret_error, LIFECYCLE_ERROR_SIZE,
			"version %u of key %s: the record %s cannot be read, so nobody knows what "
			"that backup needs: restore it from a backup of kekd",
			v->number, k->name, path);
		return KEKD_ERECORD;
	}
	if (snapshots_all(n->snapshots, &all) < 0) {
		snprintf(ret_error, LIFECYCLE_ERROR_SIZE, "no memory to look at the backups");
		return -ENOMEM;
	}
	s = inventory_needed_by(&all, &v->id, now_us, seen_s);
	if (!s)
		return 0;
	tell(s, k, v, now_us, seen_s, ret_error);
	return KEKD_ENEEDED;
}
