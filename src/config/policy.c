/* SPDX-License-Identifier: Apache-2.0 */
/* The rules of a cluster's policy, and its JSON in the record. Not who may change it. */
#include "kekd/policy.h"

#include "kekd/err.h"
#include "kekd/str.h"

#include <stdio.h>

int
policy_check(const struct policy *p, char ret_error[JSON_ERROR_SIZE])
{
	if (p->approvals < 1 || p->approvals > POLICY_APPROVALS_MAX)
		return json_refuse(ret_error, "approvals must be a number from 1 to 5");
	if (p->approvals > 1 && p->destroy_wait_s < POLICY_WAIT_FLOOR_S)
		return json_refuse(ret_error, "destroy_wait must be 24h or more; only a lab, whose "
					      "approvals is 1, may go below");
	if (p->destroy_wait_s > POLICY_WAIT_MAX_S)
		return json_refuse(ret_error, "destroy_wait must be 365d or less");
	if (p->approval_ttl_s < POLICY_TTL_MIN_S || p->approval_ttl_s > POLICY_TTL_MAX_S)
		return json_refuse(ret_error, "approval_ttl must be from 1m to 7d");
	return 0;
}

int
policy_from_json(const json_t *body, struct policy *ret_policy, char ret_error[JSON_ERROR_SIZE])
{
	int64_t approvals, wait_s, ttl_s = (int64_t)POLICY_DEFAULT.approval_ttl_s;
	const struct json_member members[] = {
		{ "approvals", JSON_KIND_INTEGER, true, &approvals },
		{ "destroy_wait_s", JSON_KIND_INTEGER, true, &wait_s },
		{ "approval_ttl_s", JSON_KIND_INTEGER, false, &ttl_s },
	};
	int err = json_take(body, members, STR_COUNT(members), ret_error);

	if (err < 0)
		return KEKD_EINVALID;
	if (approvals < 0 || approvals > POLICY_APPROVALS_MAX)
		approvals = POLICY_APPROVALS_MAX + 1;
	*ret_policy = (struct policy){ (unsigned)approvals, (uint64_t)wait_s, (uint64_t)ttl_s };
	return policy_check(ret_policy, ret_error);
}

json_t *
policy_to_json(const struct policy *p)
{
	return json_pack("{s:i, s:I, s:I}", "approvals", (int)p->approvals, "destroy_wait_s",
		(json_int_t)p->destroy_wait_s, "approval_ttl_s", (json_int_t)p->approval_ttl_s);
}
