/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The file STATE_DIR/accepted: the last commit that this node accepted, sealed as records are but
 * kept outside of the store, so that an older copy of the store shows (doc/formats/records.md).
 */
#ifndef STORE_ACCEPTED_H
#define STORE_ACCEPTED_H

#include "envelope.h"

#include "kekd/str.h"

struct accepted {
	char cluster[STR_NAME_MAX + 1];
	char generation[UUID_TEXT_SIZE];
	uint64_t number; /* 0: of a cluster that is being made */
	uint8_t state[SEAL_SIZE];
	struct uuid key;
	uint8_t seal[SEAL_SIZE];
};

/* What the file's seal is made over. 0 or -ENOMEM. */
int accepted_digest(const struct accepted *a, uint8_t ret_digest[SEAL_SIZE]);
/* Durable when it returns 0; else -errno, and the old file is as it was. */
int accepted_write(const char *dir, const struct accepted *a);
/* 0; -ENOENT; KEKD_ERECORD: not such a file; -errno. The seal is the caller's to verify. */
int accepted_read(const char *dir, struct accepted *ret_accepted);

#endif
