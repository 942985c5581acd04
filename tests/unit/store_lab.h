/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A node's etcd engine for tests: its replica in a directory of its own, its lease and leadership
 * held by hand, and a second connection to etcd as whoever else can write there.
 */
#ifndef STORE_LAB_H
#define STORE_LAB_H

#include "etcd_server.h"

#include "kekd/etcd.h"
#include "kekd/store.h"

struct store_lab {
	char dir[64], cluster[32], node[16];
	const char *endpoints[1];
	struct etcd_settings settings, direct_settings;
	const char *direct_endpoints[ETCD_MEMBERS_MAX];
	struct etcd *direct; /* past any proxy */
	struct store *store;
	struct store_term term;
	_Atomic unsigned wakes;
};

/* url: of the proxy, or of etcd; NULL: all members. beside: another node of the same cluster, which
 * leads; NULL: a cluster of its own, led by this one. */
void store_lab_open(struct store_lab *l, const struct etcd_servers *servers, const char *url,
	const char *node, const struct store_lab *beside);
void store_lab_close(struct store_lab *l); /* may be all zero */
void store_lab_shut(struct store_lab *l);  /* the store alone: the process ended */
int store_lab_try(struct store_lab *l);	   /* store_open_etcd, with the term of before */
void store_lab_reopen(struct store_lab *l);
void store_lab_wipe(struct store_lab *l); /* the replica's file */
void store_lab_point(struct store_lab *l, const char *url);

void store_lab_lead(struct store_lab *l);   /* a lease and the leader key, anew */
void store_lab_depose(struct store_lab *l); /* another leads: the store is not told */
void store_lab_revoke(struct store_lab *l); /* the lease */

/* As etcd's root. */
uint64_t store_lab_write(struct store_lab *l, const char *path, const char *value);
void store_lab_erase(struct store_lab *l, const char *path);
/* The revision of what is there, which must be this (NULL: must not be there, 0). */
uint64_t store_lab_read(struct store_lab *l, const char *path, const char *value);
char *store_lab_take(struct store_lab *l, const char *path); /* to be freed; NULL: nothing */
void store_lab_compact(struct store_lab *l);

void store_lab_delete(struct store_lab *l, const char *path); /* a commit of the active */
void store_lab_ignore(const struct store_record *change, void *user);

void store_lab_snapshot(const struct etcd_servers *s);
/* Stops etcd, puts the snapshot in the place of all members' data, starts it. */
void store_lab_restore(struct etcd_servers *s);

#endif
