/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A cluster's policy: how many administrators a destroy and a privileged change take, and how long
 * a version waits before it is destroyed. Seeded by the configuration at `kekd init`, kept in the
 * record `cluster`, changed by PATCH /v1/cluster. One set of rules for all three. Any thread.
 */
#ifndef KEKD_POLICY_H
#define KEKD_POLICY_H

#include "kekd/json.h"

#include <stdint.h>

#define POLICY_APPROVALS_MAX 5
#define POLICY_WAIT_FLOOR_S (24ull * 3600) /* unless one administrator is enough: a lab */
#define POLICY_WAIT_MAX_S (365ull * 24 * 3600)
#define POLICY_TTL_MIN_S 60ull
#define POLICY_TTL_MAX_S (7ull * 24 * 3600)

struct policy {
	unsigned approvals; /* the requester counts as one */
	uint64_t destroy_wait_s;
	uint64_t approval_ttl_s; /* a request that is not approved by then is void */
};

/* 2 administrators, 7 days, 24 hours. */
#define POLICY_DEFAULT ((struct policy){ 2, 7ull * 24 * 3600, 24ull * 3600 })

/* 0, or KEKD_EINVALID with a text that names the setting. */
int policy_check(const struct policy *p, char ret_error[JSON_ERROR_SIZE]);
/* The member `policy` of the record: {approvals, destroy_wait_s, approval_ttl_s}; an older record
 * has no approval_ttl_s. Strict. */
int policy_from_json(
	const json_t *body, struct policy *ret_policy, char ret_error[JSON_ERROR_SIZE]);
json_t *policy_to_json(const struct policy *p);

#endif
