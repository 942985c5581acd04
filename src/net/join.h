/* SPDX-License-Identifier: Apache-2.0 */
/* kekd join: what its files share. Each check is told what those before it found. */
#ifndef KEKD_NET_JOIN_H
#define KEKD_NET_JOIN_H

#include "node.h"

#include "kekd/etcd.h"
#include "kekd/leader.h"

#define JOIN_TEXT_SIZE 512

struct join {
	struct node *n;
	struct etcd *etcd;
	bool runs_here; /* a kekd of this node is running: it has joined, and is left alone */
	struct cluster cluster;
	char leader[STR_NAME_MAX + 1], leader_url[LEADER_URL_SIZE]; /* "": nobody leads */
	/* of the check that is being made: what is, and what to do about it */
	char text[JOIN_TEXT_SIZE], next[JOIN_TEXT_SIZE];
};

void join_say(struct join *j, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* False, for a check to return. */
bool join_next(struct join *j, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The value at this path as JSON, to be freed; NULL with 0: there is none. */
int join_read(struct join *j, const char *path, json_t **ret_value);

/* True: all is well. In this order; each may rely on those that it needs (join.c). */
bool join_check_configuration(struct join *j);
bool join_check_certificates(struct join *j); /* join_certificates.c */
bool join_check_etcd(struct join *j);
bool join_check_clock(struct join *j); /* join_clock.c */
bool join_check_cluster(struct join *j);
bool join_check_name(struct join *j);
bool join_check_tokens(struct join *j);
bool join_check_seal(struct join *j); /* join_seal.c */
bool join_check_membership(struct join *j);

#endif
