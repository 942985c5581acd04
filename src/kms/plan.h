/* SPDX-License-Identifier: Apache-2.0 */
/* kekd-kms migrate-plan from the inside: from a configuration and a target to steps. One thread. */
#ifndef KEKD_KMS_PLAN_H
#define KEKD_KMS_PLAN_H

#include "layout.h"

#include <jansson.h>
#include <stdio.h>

struct plan_target {
	/* "identity", "aescbc", "aesgcm", "secretbox"; or the name of a kms provider */
	const char *word;
	/* For "kekd" and what else the file does not have: where that plugin listens. NULL: a kms
	 * provider must be in the file. */
	const char *provider, *socket;
};

/* The whole plan as JSON (doc/man/kekd-kms.8); to be freed. 0; -ENOMEM; -EINVAL with a text for
 * people in ret_error: what cannot be planned, and the way round. The configuration has no faults.
 */
int plan_make(const struct encryption_config *c, const struct plan_target *target,
	json_t **ret_plan, char ret_error[512]);

/* What plan_make works with: plan_steps.c tells it. */
struct plan {
	const struct encryption_config *config;
	const struct ec_provider *target, *fresh; /* fresh: the target, when its key is new */
	const char *label;			  /* of the target */
	const char *file;			  /* its path, as a shell takes it */
	size_t *moved;				  /* the groups of the file that are to move */
	size_t moved_count;
	bool kekd;   /* the target is kekd's plugin */
	bool merged; /* several entries become one, for a kms provider has one name and entry */
	struct layout now, joint, readable, writes, last;
	const struct ec_provider *leader; /* who writes where entries become one */
};
/* "kekd (kms)", "aescbc"; for free(). */
char *plan_label(const struct ec_provider *p);
json_t *plan_steps(const struct plan *p);
json_t *plan_load(const struct plan *p);

/* ---- plan_show.c ---- */

void plan_show_findings(FILE *out, const struct encryption_config *c);
void plan_show(FILE *out, const json_t *plan);

#endif
