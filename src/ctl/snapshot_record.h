/* SPDX-License-Identifier: Apache-2.0 */
/* From the report of an etcd snapshot (kekctl etcd-snapshot -o json) to the record that kekd keeps
 * of it (PUT /v1/snapshots/ID). Functions that return int return an exit status, as in ctl.h. */
#ifndef KEKD_CTL_SNAPSHOT_RECORD_H
#define KEKD_CTL_SNAPSHOT_RECORD_H

#include "ctl.h"

/* The body of the record, but "needed_until"; owned by the caller. cluster NULL: the report's. What
 * kekd does not know is asked of it, and refused unless --force leaves it out. */
int snapshot_record(struct ctl *ctl, const json_t *report, const char *cluster, json_t **ret_body);
/* CLUSTER-YYYYMMDD-HHMMSS of when it was taken. */
void snapshot_default_id(const json_t *body, char ret_id[STR_NAME_MAX + 1]);

#endif
