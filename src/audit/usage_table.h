/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the fold share: the tables in memory. usage.c has them and answers questions,
 * usage_read.c reads the log at a start, usage_store.c has the store's records.
 */
#ifndef KEKD_AUDIT_USAGE_TABLE_H
#define KEKD_AUDIT_USAGE_TABLE_H

#include "kekd/usage.h"

#include "chain.h"

#include <pthread.h>

struct row { /* of one client, version and node */
	struct version *version;
	struct used_key *key;
	char client[STR_NAME_MAX + 1];
	struct usage_count counts[USAGE_KINDS];
	uint64_t pending; /* of the refused ones: not in the log yet */
	struct row *next_same, *next_of_version, *next_of_key, *next_pending;
};

struct version {
	struct uuid id;
	unsigned number;
	struct row *rows;
	struct used_key *own; /* of this node; NULL: not used here */
	struct version *next_same;
};

struct used_key { /* a key's use on one node: what one record holds */
	char name[STR_NAME_MAX + 1];
	size_t node;
	struct row *rows;
	size_t rows_count;
	uint64_t stored, stored_us; /* sequence and time of the record */
	uint64_t stored_total, taken_total;
	bool changed, bad; /* bad: its record cannot be used */
	struct used_key *next_same, *next_changed;
};

struct hashed {
	void **slots;
	size_t size, count;
};

struct place { /* in the log */
	uint64_t sequence, time_us;
	char head[CHAIN_HEX_SIZE];
};

struct span {
	uint64_t since_us, until_us; /* 0: none */
};

struct member { /* a node that has records; the first is this one */
	char name[STR_NAME_MAX + 1];
	char generation[UUID_TEXT_SIZE];
	struct place stored;
	uint64_t keys, total;
	struct span incomplete;
	bool bad; /* its own record cannot be used */
	size_t bad_keys;
};

struct changed_list {
	struct used_key *first, **last;
	size_t count;
};

struct log_reader;

struct usage {
	pthread_mutex_t lock; /* of all that follows but reader and taken */
	struct hashed rows, versions, keys;
	struct row *pending;
	struct member *members;
	size_t members_count;
	struct place folded, begin;
	bool begun, started, read;
	struct changed_list changed;
	bool node_changed; /* the node's own record has news besides its place */
	bool tells_always; /* and is stored in any case */

	struct log_reader *reader;
	struct { /* of storing */
		bool under_way, failed;
		struct changed_list left;
		struct place place;
		struct used_key *key; /* that was taken; NULL: the node's own record */
		struct place key_place;
		char generation[UUID_TEXT_SIZE];
	} round;
};

/* usage.c; under the lock. NULL: no memory. */
struct used_key *usage_find_key(struct usage *u, size_t node, const char *name, bool make);
struct version *usage_find_version(struct usage *u, const struct uuid *id);
struct row *usage_find_row(struct usage *u, struct used_key *key, const struct uuid *version,
	unsigned number, const char *client);
void usage_add(struct usage_count *count, uint64_t n, uint64_t first_us, uint64_t last_us);
void usage_key_changed(struct usage *u, struct used_key *key);
/* The member's index. SIZE_MAX: no memory. */
size_t usage_find_member(struct usage *u, const char *name);
void usage_note_incomplete(struct usage *u, size_t member, uint64_t since_us);
void usage_list_add(struct changed_list *list, struct used_key *key);

/* usage_store.c; under the lock: records that are not whole count for nothing. */
void usage_judge_loaded(struct usage *u);
bool usage_is_whole(const struct usage *u, size_t member);

/* usage_read.c */
void usage_reader_freep(struct log_reader **r);

#endif
