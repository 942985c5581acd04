/* SPDX-License-Identifier: Apache-2.0 */
/* Where the log of an earlier run ends. Not here: verification of all that is before (verify.c). */
#ifndef KEKD_AUDIT_TAIL_H
#define KEKD_AUDIT_TAIL_H

#include "chain.h"

#define TAIL_GAPS_MAX 4

/* Bytes behind the last whole record, which count for nothing. */
struct tail_gap {
	char file[CHAIN_FILE_SIZE + 16];
	uint64_t offset, length;
	char sha256[CHAIN_HEX_SIZE];
};

struct tail {
	uint64_t sequence; /* of the last record; 0: there is none */
	char head[CHAIN_HEX_SIZE];
	char file[CHAIN_FILE_SIZE]; /* that holds it; empty: none */
	uint64_t size;		    /* its bytes that count */
	bool clean;		    /* it ends with a close record and nothing else */
	struct tail_gap gaps[TAIL_GAPS_MAX];
	size_t gaps_count;
};

/* 0; KEKD_EAUDIT: the directory holds something else than this cluster's and node's log, with a
 * text; -errno. Sets aside (CHAIN_DAMAGED) newest files in which no record is whole. */
int tail_find(int dir_fd, const char *cluster, const char *node, struct tail *ret_tail,
	char ret_error[256]);

#endif
