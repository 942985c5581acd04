/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The record `cluster`: what holds for all nodes. Here it is decoded, encoded and committed;
 * whoever adds a member to it adds it here. A plain value: copy it as you like. node.h hands copies
 * to any thread and commits changes (node_cluster, node_cluster_change).
 */
#ifndef KEKD_CLUSTER_H
#define KEKD_CLUSTER_H

#include "kekd/policy.h"
#include "kekd/seal.h"
#include "kekd/str.h"
#include "kekd/uuid.h"

#define CLUSTER_MEMBERS_MAX 16
#define CLUSTER_FORGOTTEN_MAX 64
#define CLUSTER_SEAL_KEYS_MAX 8

/* What records of this release may hold at most; a cluster of a higher level is not for it. */
extern const unsigned cluster_release_level;

struct cluster_seal_key {
	struct uuid id;
	char token[STR_NAME_MAX + 1]; /* logical token */
};

struct cluster_confirm { /* what a restore brought back, until somebody confirms it */
	bool wanted;
	uint64_t restored_us, backup_us;
	char generation[UUID_TEXT_SIZE]; /* the backup's, as the revision */
	uint64_t revision;
	bool log;	  /* the audit log goes on from the backup: */
	uint64_t changes; /* so many are lost */
};

/* A store that an operator put back on purpose, and what came before it: kept as it is, since the
 * sealed store writes and reads it. */
#define CLUSTER_SUCCEEDS_MAX 8
struct cluster_succeeds {
	char generation[UUID_TEXT_SIZE];
	uint64_t number;
	char store[64]; /* identity of the database; "": not said */
	bool raising;	/* not all of it is done */
};

struct cluster {
	char name[STR_NAME_MAX + 1];
	char generation[UUID_TEXT_SIZE];
	uint64_t created_us;
	unsigned level;
	char members[CLUSTER_MEMBERS_MAX][STR_NAME_MAX + 1]; /* names of nodes */
	size_t members_count;
	char forgotten[CLUSTER_FORGOTTEN_MAX][STR_NAME_MAX + 1]; /* were members, for ever not */
	size_t forgotten_count;
	struct cluster_seal_key seal_keys[CLUSTER_SEAL_KEYS_MAX]; /* the last one seals */
	size_t seal_keys_count;
	struct policy policy;
	struct cluster_confirm confirm;
	struct cluster_succeeds succeeds[CLUSTER_SUCCEEDS_MAX];
	size_t succeeds_count;
	bool frozen;	 /* the whole service unwraps alone */
	uint64_t commit; /* the record's commit number: its ETag; 0: not loaded */
};

/* Strict. 0 or KEKD_EINVALID with a text. */
int cluster_from_json(const json_t *body, uint64_t commit, struct cluster *ret_cluster,
	char ret_error[JSON_ERROR_SIZE]);
json_t *cluster_to_json(const struct cluster *c);		  /* NULL: no memory */
json_t *cluster_confirm_to_json(const struct cluster_confirm *c); /* null: none is wanted */
/* Was the taking over of another store broken off? */
bool cluster_is_raising(const struct cluster *c);
bool cluster_has_member(const struct cluster *c, const char *node);
bool cluster_has_forgotten(const struct cluster *c, const char *node);
/* 0, or KEKD_EINVALID with a text: no name, forgotten, or too many. One that is there already is
 * left as it is. */
int cluster_add_member(struct cluster *c, const char *node, char ret_error[JSON_ERROR_SIZE]);
/* For ever. 0; KEKD_EINVALID with a text: no member, the last one, or too many are forgotten. */
int cluster_forget_member(struct cluster *c, const char *node, char ret_error[JSON_ERROR_SIZE]);

/* Stores c in the place of the record with the number that it carries, together with `with` (NULL:
 * alone), in one commit; sets c->commit. As sealed_commit. Control thread. */
int cluster_commit(struct sealed *store, struct cluster *c, const struct sealed_change *with);

#endif
