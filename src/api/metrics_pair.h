/* SPDX-License-Identifier: Apache-2.0 */
/* The families of metrics that only a node of a pair has samples of. */
#ifndef KEKD_API_METRICS_PAIR_H
#define KEKD_API_METRICS_PAIR_H

#include "kekd/metrics.h"

struct node;

struct metrics_pair_family {
	const char *name;
	enum metrics_type type;
	const char *help;
	void (*collect)(struct metrics_text *text, struct node *node);
};
/* The row after the last one has no name. */
extern const struct metrics_pair_family metrics_pair_families[];

#endif
