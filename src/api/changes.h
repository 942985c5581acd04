/* SPDX-License-Identifier: Apache-2.0 */
/* What a privileged change is done by: at once, or when it was approved. approvals.c asks and knows
 * the kinds; each resource does its own. Control thread. */
#ifndef API_CHANGES_H
#define API_CHANGES_H

#include "api.h"

#include "kekd/approvals.h"

/* Asks for approval, or finds what was asked so already: answers with 202. Takes over change.
 * evidence NULL: a digest over all of it. */
void changes_ask(struct request *r, enum approval_kind kind, const char *target, uint64_t revision,
	json_t *change, const char *evidence);
/* How many administrators it takes now. */
unsigned changes_approvals(struct node *n);

/* Does what was approved, the approval's own record `with` it in one commit. 0 with its number. An
 * error that says that what was approved is not there any more makes the request stale. */
typedef int changes_fn(struct request *r, const struct approval *a,
	const struct sealed_change *with, uint64_t *ret_commit,
	char ret_error[LIFECYCLE_ERROR_SIZE]);
changes_fn destroy_approved;	   /* destroy.c */
changes_fn client_put_approved;	   /* clients.c */
changes_fn client_delete_approved; /* clients.c */
changes_fn policy_approved;	   /* cluster.c */

#endif
