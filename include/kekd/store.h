/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The revisioned record store: path → text, each with the revision of its last change. Engines sit
 * behind a table of functions (SQLite here; a distributed one has the same shape). The store knows
 * nothing of seals or of what records mean. Calls may block on a disk: control thread only, except
 * close.
 *
 * Paths: "commit", "cluster", "keys/NAME" …: printable ASCII, at most 200 bytes. A body has at most
 * 1 MiB. Revisions: one counter for the whole store; every commit raises it by one and gives it to
 * all that it writes. 0 = no record.
 */
#ifndef KEKD_STORE_H
#define KEKD_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define STORE_OPS_MAX 100
#define STORE_PATH_MAX 200
#define STORE_BODY_MAX (1024 * 1024)
#define STORE_PAGE_MAX 1000
#define STORE_ANY UINT64_MAX

struct store_record {
	char *path;
	uint64_t revision;
	char *body; /* NUL-terminated behind len bytes */
	size_t len;
};

struct store_page {
	struct store_record *records; /* sorted bytewise by path */
	size_t count;
	bool more;	   /* go on after the last path */
	uint64_t revision; /* of the whole store, when the page was read */
};

enum store_op_kind { STORE_CHECK, STORE_PUT, STORE_DELETE };

struct store_op {
	enum store_op_kind kind;
	const char *path;
	uint64_t expected; /* the record's revision now; 0: must not exist; STORE_ANY: whatever */
	const char *body;  /* put */
	size_t len;
};

/* Whose records a commit writes. The active's: engines with leadership compare the leader key. A
 * node's own (nodes/, members/, usage/, nonces/): they compare that node's lease. */
enum store_owner { STORE_OWNER_ACTIVE, STORE_OWNER_NODE };

struct store;

/* A change that a watch tells of. body NULL: deleted. */
typedef void store_watch_fn(const struct store_record *change, void *user);

struct store_engine {
	const char *name;
	/* 0 or KEKD_ESTORE. A record that is not there: -ENOENT. */
	int (*get)(struct store *s, const char *path, struct store_record *ret_record);
	/* Records whose path starts with prefix and sorts after `after` (NULL: from the first), at
	 * most limit. */
	int (*list)(struct store *s, const char *prefix, const char *after, size_t limit,
		struct store_page *ret_page);
	/* All or nothing. 0 with the new revision; KEKD_EPRECONDITION when an expected revision
	 * differs; KEKD_ESTORE: not done, or not known (read again). -E2BIG: more than
	 * STORE_OPS_MAX operations. Durable when it returns 0. */
	int (*commit)(struct store *s, enum store_owner owner, const struct store_op *ops,
		size_t count, uint64_t *ret_revision);
	/* Calls fn for each change that others made since the last poll (own commits are not told).
	 * 0, the number of changes, or negative. SQLite: any other program that wrote the file. */
	int (*poll)(struct store *s, store_watch_fn *fn, void *user);
	/* An identifier of the database as such (etcd: cluster id); 0 or KEKD_ESTORE. */
	int (*identity)(struct store *s, char ret_text[64]);
	void (*close)(struct store *s);
};

struct store {
	const struct store_engine *engine;
};

/* Opens DIR/metadata.db; create: makes an empty one (mode 0600) when there is none, else that is
 * -ENOENT. */
int store_open_sqlite(const char *dir, bool create, struct store **ret_store);
void store_freep(struct store **store);
void store_record_free(struct store_record *r);
void store_page_free(struct store_page *p);

#endif
