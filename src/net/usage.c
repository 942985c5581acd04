/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Usage evidence between the fold and the store: loaded with all records, caught up from the audit
 * log in the background, stored at most once a minute and at a clean stop. Every step is short:
 * changes wait for the control thread.
 */
#include "node.h"

#include "kekd/clock.h"
#include "kekd/log.h"

#include <errno.h>
#include <stdio.h>

#define ROUND_NS (60 * CLOCK_S)
#define PAGE 256
#define TICK_NS (20 * CLOCK_MS)
#define START_NS (250 * CLOCK_MS)
#define CLOSE_NS (10 * CLOCK_S)

void
node_load_usage(
	struct node *n, const char *name, json_t *body, uint64_t commit __attribute__((unused)))
{
	usage_load(n->usage, name, body);
}

static uint64_t
oldest_version(struct node *n)
{
	char after[STR_NAME_MAX + 1] = "";
	struct key *page[PAGE];
	uint64_t oldest = 0;
	size_t count;

	do {
		count = keyring_list(n->keyring, *after ? after : NULL, PAGE, page);
		for (size_t i = 0; i < count; i++) {
			if (oldest == 0 || page[i]->created_us < oldest)
				oldest = page[i]->created_us;
			snprintf(after, sizeof(after), "%s", page[i]->name);
			key_unrefp(&page[i]);
		}
	} while (count == PAGE);
	return oldest;
}

static void
read_for(struct node *n, uint64_t ns)
{
	uint64_t end = clock_boot_ns() + ns;

	while (usage_read_some(n->usage) > 0 && clock_boot_ns() < end)
		;
}

/* Of what was before a node was there at all, its log cannot tell, and need not. */
static uint64_t
log_since(struct node *n)
{
	uint64_t oldest = oldest_version(n), joined = 0;
	const char *said = json_string_value(node_member(n, "joined"));
	char now[CLOCK_TEXT_SIZE];

	if (said && clock_parse(said, &joined) == 0)
		return oldest > joined || oldest == 0 ? oldest : joined;
	/* Every node has made that key before its first record. */
	if (!store_is_etcd(n->store) || node_member(n, "audit_key"))
		return oldest;
	clock_format(clock_real_us(), now);
	node_note_member(n, "joined", json_string(now), false);
	return 0;
}

void
node_start_usage(struct node *n)
{
	struct sealed_status status;
	struct cluster cluster;
	int err;

	sealed_status(n->sealed, &status);
	err = usage_start(n->usage, n->part.audit_dir, status.generation, log_since(n));
	if (err != 0)
		log_error("usage evidence: %s", kekd_strerror(err));
	node_cluster(n, &cluster);
	if (cluster.confirm.wanted)
		usage_mark_incomplete(n->usage, cluster.confirm.backup_us);
	/* Mostly little is left of the log, and whoever asks first has the answer. */
	read_for(n, START_NS);
}

/* Stores the next record. False: there is none. */
static bool
store_next(struct node *n, bool round)
{
	char name[2 * STR_NAME_MAX + 2], path[sizeof(name) + sizeof("usage/")];
	json_t *body = usage_take(n->usage, round, name);
	uint64_t number;
	int err;

	if (!body)
		return false;
	snprintf(path, sizeof(path), "usage/%s", name);
	err = sealed_put_own(n->sealed, path, STORE_ANY, body, &number);
	json_decref(body);
	usage_stored(n->usage, err);
	/* Once: there may be ten thousand keys, every minute. */
	if (err != 0 && !n->usage_failed)
		log_warning("%s could not be stored: %s: the audit log has it all, and all that "
			    "cannot be stored is tried again every minute",
			path, kekd_strerror(err));
	if (err == 0 && n->usage_failed)
		log_info("usage evidence is stored again");
	n->usage_failed = err != 0;
	return true;
}

static void
store_some(struct node *n)
{
	uint64_t start = clock_boot_ns();
	bool round = start >= n->usage_round_ns;

	if (!store_next(n, round))
		return;
	if (round)
		n->usage_round_ns = start + ROUND_NS;
	while (clock_boot_ns() < start + TICK_NS && store_next(n, false))
		;
}

bool
node_tick_usage(struct node *n)
{
	int more = usage_read_some(n->usage);

	if (more < 0)
		log_error("audit log: %s: usage evidence cannot be read", kekd_strerror(more));
	if (more != 0)
		return more > 0;
	store_some(n);
	return false;
}

void
node_close_usage(struct node *n)
{
	uint64_t end = clock_boot_ns() + CLOSE_NS;

	if (!atomic_load(&n->sealed))
		return;
	read_for(n, CLOSE_NS);
	/* What is under way, then one round of all that came meanwhile. */
	while (store_next(n, false) && clock_boot_ns() < end)
		;
	if (store_next(n, true))
		while (store_next(n, false) && clock_boot_ns() < end)
			;
}
