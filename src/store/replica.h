/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The local replica: the last good image of what etcd has, in a file as the SQLite engine's, with
 * etcd's revisions. It serves while etcd is away, and a restart begins with it.
 */
#ifndef STORE_REPLICA_H
#define STORE_REPLICA_H

#include "sqlite_engine.h"

struct replica {
	struct sqlite_store *db;
	char of[SQLITE_META_SIZE]; /* cluster id of the etcd that it is an image of; "": none yet */
	uint64_t position;	   /* revision of etcd that it was last known to have reached */
	uint64_t synced_us;	   /* real time of the last look that it had reached; 0: never */
};

/* Makes the file when there is none. 0, KEKD_ESTORE, or KEKD_EINVALID: it is a single node's store
 * with records. */
int replica_open(const char *dir, struct replica *ret_replica, bool *ret_empty);
void replica_close(struct replica *r);

struct replica_change {
	const char *path;
	uint64_t revision;
	const char *body; /* NULL: deleted */
	size_t len;
};
/* All of them, and what r says of itself, in one transaction. 0 or KEKD_ESTORE. */
int replica_write(struct replica *r, const struct replica_change *changes, size_t count);
/* 0: there is no such record. */
int replica_revision(struct replica *r, const char *path, uint64_t *ret_revision);
/* What is kept for the time when etcd is away (store.h, spare_put); 0: nothing. 0 or KEKD_ESTORE.
 */
int replica_spare(struct replica *r, const char *name, uint64_t *ret_number);
int replica_set_spare(struct replica *r, const char *name, uint64_t number); /* durable */

#endif
