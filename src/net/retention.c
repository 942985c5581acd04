/* SPDX-License-Identifier: Apache-2.0 */
/*
 * audit.keep: removes the oldest files of the audit log, one by one, each behind a durable record
 * that is signed and tells where the file ended. What usage evidence is not stored of stays, and
 * without the key for signatures everything does. Control thread.
 */
#include "node.h"

#include "kekd/clock.h"
#include "kekd/log.h"

#include <errno.h>

#define LOOK_NS (5 * CLOCK_S)
#define FILES_AT_ONCE 8

/* The same trouble is told once. */
static void
tell(struct node *n, const char *what, int err)
{
	if (err != n->retention_err)
		log_warning(
			"audit: the oldest file stays for now: %s: %s", what, kekd_strerror(err));
	n->retention_err = err;
}

/* 1: a file is gone; 0: there is none to remove; or an error. */
static int
remove_oldest(struct node *n, const char **ret_what)
{
	uint8_t signature[AUDIT_SIGNATURE_SIZE];
	struct audit_oldest oldest;
	int err = audit_oldest(n->part.audit_dir, n->part.audit_keep, &oldest);

	*ret_what = "the files cannot be read";
	if (err <= 0)
		return err;
	if (usage_stored_through(n->usage) < oldest.through)
		return 0;
	*ret_what = "its end cannot be signed";
	err = node_sign_mark(n, AUDIT_ANCHOR, oldest.through, oldest.head, signature);
	if (err != 0)
		return err;
	*ret_what = "it cannot be removed";
	err = audit_remove(n->part.audit_dir, &oldest);
	if (err != 0)
		return err;
	log_info("audit: %s is removed, with the records up to %llu: audit.keep is %u files",
		oldest.file, (unsigned long long)oldest.through, n->part.audit_keep);
	return 1;
}

void
node_tick_retention(struct node *n)
{
	const char *what = "";
	int more = 1;

	if (n->part.audit_keep == 0 || clock_boot_ns() < n->next_retention_ns)
		return;
	n->next_retention_ns = clock_boot_ns() + LOOK_NS;
	for (int i = 0; i < FILES_AT_ONCE && more > 0; i++)
		more = remove_oldest(n, &what);
	if (more < 0)
		tell(n, what, more);
	else
		n->retention_err = 0;
}
