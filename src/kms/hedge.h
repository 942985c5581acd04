/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How many Decrypts may be sent a second time: a tenth of them, and a few in a row. A key server
 * that is slow everywhere is not given twice the work. Not thread-safe.
 */
#ifndef KEKD_KMS_HEDGE_H
#define KEKD_KMS_HEDGE_H

#include <stdbool.h>

#define HEDGE_SHARE 10 /* one of so many */
#define HEDGE_BURST 10

struct hedge_budget {
	unsigned parts; /* HEDGE_SHARE of them are a hedge */
};

#define HEDGE_BUDGET_FULL ((struct hedge_budget){ HEDGE_SHARE * HEDGE_BURST })

void hedge_earn(struct hedge_budget *b); /* one Decrypt was sent */
bool hedge_spend(struct hedge_budget *b);

#endif
