/* SPDX-License-Identifier: Apache-2.0 */
/* The budget of second requests. */
#include "hedge.h"

void
hedge_earn(struct hedge_budget *b)
{
	if (b->parts < HEDGE_SHARE * HEDGE_BURST)
		b->parts++;
}

bool
hedge_spend(struct hedge_budget *b)
{
	if (b->parts < HEDGE_SHARE)
		return false;
	b->parts -= HEDGE_SHARE;
	return true;
}
