/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Approvals: what one administrator asks for and others must agree to. A request binds what it is
 * about (kind and target), the revision that it was seen at, and the evidence that was shown; it
 * expires. Records approvals/ID (doc/formats/records.md), immutable in memory with counted
 * references. Here are the records, the table and the rules of who may approve; what an approved
 * request does is the API's.
 */
#ifndef KEKD_APPROVALS_H
#define KEKD_APPROVALS_H

#include "kekd/access.h"
#include "kekd/json.h"
#include "kekd/policy.h"
#include "kekd/str.h"
#include "kekd/uuid.h"

enum approval_kind {
	APPROVAL_DESTROY,	/* target "KEY/VERSION" */
	APPROVAL_CLIENT_WRITE,	/* target: the client's name */
	APPROVAL_CLIENT_DELETE, /* the same */
	APPROVAL_POLICY,	/* target "cluster" */
	APPROVAL_KINDS
};
enum approval_state {
	APPROVAL_PENDING,
	APPROVAL_DONE,
	APPROVAL_REJECTED,
	APPROVAL_STALE, /* what it was about has changed since */
	APPROVAL_EXPIRED,
	APPROVAL_STATES
};

#define APPROVAL_TARGET_SIZE (STR_NAME_MAX + 16)
#define APPROVAL_EVIDENCE_SIZE 65 /* hex SHA-256 */
#define APPROVALS_PENDING_MAX 200
#define APPROVALS_MAX 500 /* ended ones make room for new ones */

struct approval {
	char id[UUID_TEXT_SIZE];
	enum approval_kind kind;
	char target[APPROVAL_TARGET_SIZE];
	uint64_t revision; /* of the target's record when it was asked; 0: there is none yet */
	json_t *change;	   /* what is to be done, and what was shown; owned */
	char evidence[APPROVAL_EVIDENCE_SIZE];
	char requested_by[STR_NAME_MAX + 1];
	uint64_t requested_us, expires_us;
	uint64_t seen;	 /* the cluster's revision then: an approver's record must not be younger */
	unsigned needed; /* administrators, the one who asked included */
	struct {
		char client[STR_NAME_MAX + 1];
		uint64_t time_us;
	} approved[POLICY_APPROVALS_MAX];
	size_t approved_count;
	enum approval_state state;
	uint64_t ended_us;		 /* 0: pending */
	char ended_by[STR_NAME_MAX + 1]; /* "": nobody, as when it expired */
	char reason[200]; /* why it is stale, or whose approval does not count any more;
			     may be empty */
	uint64_t commit;
};

const char *approval_kind_name(enum approval_kind kind); /* "version.destroy" … */
const char *approval_state_name(enum approval_state state);

/* Empty, with one reference; NULL: no memory. */
struct approval *approval_new(void);
struct approval *approval_copy(const struct approval *a); /* to change; one reference */
struct approval *approval_ref(struct approval *a);
void approval_unrefp(struct approval **a);
/* The record's body; strict. */
json_t *approval_to_json(const struct approval *a);
int approval_from_json(const json_t *body, uint64_t commit, struct approval **ret_approval,
	char ret_error[JSON_ERROR_SIZE]);
/* Hex SHA-256 over kind, target, revision and change: what is shown where there is no usage. */
int approval_digest(const struct approval *a, char ret_hex[APPROVAL_EVIDENCE_SIZE]);

/* Pending, unless it has expired by now. */
enum approval_state approval_state_now(const struct approval *a, uint64_t now_us);
/* May this client approve it now? 0; KEKD_EAPPROVALENDED: it does not wait any more;
 * KEKD_EAPPROVER: it is the client's own, approved by it before, or the client's record was changed
 * since it was asked, or by whom asked. */
int approval_may(const struct approval *a, const struct client *c, uint64_t now_us,
	char ret_error[JSON_ERROR_SIZE]);
/* Why a client's approval, given or about to be, does not count now, whoever asked; NULL: it does.
 * c NULL: there is no such client any more. */
const char *approval_objection(const struct approval *a, const struct client *c);
/* Leaves the i-th approval out, and says so in reason. */
void approval_drop(struct approval *a, size_t i, const char *why);
/* Are they enough with this one? approvals: as the policy says now. */
bool approval_is_last(const struct approval *a, unsigned approvals);

struct approvals; /* the table; any thread, but for changes: the control thread */
int approvals_open(struct approvals **ret_approvals);
void approvals_freep(struct approvals **t);
/* Takes over the reference, also on failure; replaces the one of its id. */
int approvals_publish(struct approvals *t, struct approval *a);
void approvals_remove(struct approvals *t, const char *id);
struct approval *approvals_find(struct approvals *t, const char *id); /* a reference, or NULL */
/* The pending one of this kind and target, as a reference, or NULL. */
struct approval *approvals_find_pending(
	struct approvals *t, enum approval_kind kind, const char *target, uint64_t now_us);
/* Newest first, at most max, as references. */
size_t approvals_list(struct approvals *t, struct approval **ret_list, size_t max);
size_t approvals_pending(struct approvals *t, uint64_t now_us);
/* When the table is full, the one that ended first, as a reference: it makes room. NULL: there is
 * room, or nothing but what waits. */
struct approval *approvals_oldest_ended(struct approvals *t, uint64_t now_us);

#endif
