/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The time that kekd saw pass: seconds by the boot clock, over all nodes and starts of a cluster.
 * No jump of a wall clock shortens what is counted by it; what nobody saw counts for nothing.
 * Stored now and then in the record `seen` while a registered backup is counted by it, so a crash
 * loses an hour at most. Control thread, but for node_seen_s.
 */
#include "node.h"

#include "kekd/clock.h"
#include "kekd/log.h"

#include <errno.h>

#define PATH "seen"
#define STORE_EVERY_S 3600
#define AGAIN_NS (60 * CLOCK_S)

uint64_t
node_seen_s(const struct node *n)
{
	return atomic_load(&n->seen_s);
}

void
node_load_seen(struct node *n, const char *rest, json_t *body, uint64_t commit)
{
	json_int_t s = json_integer_value(json_object_get(body, "seconds"));

	(void)commit;
	if (*rest || s <= 0)
		return;
	/* Of the active, which the records that begin with it go by, or of an earlier start. What
	 * this node sees pass from now on is added. */
	n->seen_stored_s = (uint64_t)s;
	atomic_store(&n->seen_s, n->seen_stored_s);
}

int
node_seen_change(struct node *n, struct sealed_change *ret_change)
{
	json_t *body = json_pack("{s:I}", "seconds", (json_int_t)node_seen_s(n));

	if (!body)
		return -ENOMEM;
	*ret_change = (struct sealed_change){ PATH, STORE_ANY, body };
	return 0;
}

void
node_seen_stored(struct node *n, const struct sealed_change *change)
{
	n->seen_stored_s = (uint64_t)json_integer_value(json_object_get(change->body, "seconds"));
}

static void
store(struct node *n)
{
	struct sealed_change change;
	uint64_t number;
	int err = node_seen_change(n, &change);

	if (err == 0) {
		err = sealed_commit(n->sealed, &change, 1, &number);
		if (err == 0)
			node_seen_stored(n, &change);
		json_decref(change.body);
	}
	if (err != 0)
		log_warning("the time that was counted for registered backups is not stored: %s: "
			    "it is tried again",
			kekd_strerror(err));
	n->seen_again_ns = err != 0 ? clock_boot_ns() + AGAIN_NS : 0;
}

void
node_tick_seen(struct node *n)
{
	uint64_t now = clock_boot_ns(), seen = atomic_load(&n->seen_s);

	if (n->seen_looked_ns != 0)
		n->seen_rest_ns += now - n->seen_looked_ns;
	n->seen_looked_ns = now;
	seen += n->seen_rest_ns / CLOCK_S;
	n->seen_rest_ns %= CLOCK_S;
	atomic_store(&n->seen_s, seen);
	if (seen >= n->seen_stored_s + STORE_EVERY_S && now >= n->seen_again_ns && node_leads(n) &&
		!node_holds_changes(n) && snapshots_count(n->snapshots) > 0)
		store(n);
}
