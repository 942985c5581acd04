/* SPDX-License-Identifier: Apache-2.0 */
/* Check of `policy:`, which `kekd init` alone reads: its rules are policy.c's. */
#include "load.h"

#include "kekd/clock.h"

static void
take_duration(struct check *c, const char *setting, const char *text, uint64_t *seconds)
{
	if (text && clock_parse_duration(text, seconds) < 0)
		check_finding(c, setting,
			"%s: \"%s\" is not a duration: write a number and s, m, h or d, as in 7d",
			setting, text);
}

void
check_policy(struct check *c, const struct document *d, struct config *config)
{
	struct policy p = POLICY_DEFAULT;
	char error[JSON_ERROR_SIZE];
	unsigned before = c->findings;

	if (lines_find(c->lines, "policy.approvals"))
		p.approvals = d->policy.approvals;
	take_duration(c, "policy.destroy_wait", d->policy.destroy_wait, &p.destroy_wait_s);
	take_duration(c, "policy.approval_ttl", d->policy.approval_ttl, &p.approval_ttl_s);
	if (c->findings == before && policy_check(&p, error) < 0)
		check_finding(c, "policy", "policy: %s", error);
	config->policy = p;
}
