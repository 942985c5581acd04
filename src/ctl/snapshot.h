/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kekctl etcd-snapshot from the inside: a snapshot of etcd, from its bytes (bolt.h) by way of
 * etcd's revisions and Kubernetes' values to what is told of it. Functions return 0 or a negative
 * error as bolt.h has it, unless they say otherwise. One thread.
 */
#ifndef KEKD_CTL_SNAPSHOT_H
#define KEKD_CTL_SNAPSHOT_H

#include "bolt.h"
#include "ctl.h"

#include "kekd/clock.h"
#include "kekd/uuid.h"

#include <jansson.h>

/* ---- snapshot_wire.c: protobuf messages, field by field, in a file ---- */

struct wire {
	struct bolt *bolt;
	struct bolt_slice s;
	uint64_t at;
};

struct wire_field {
	unsigned number;
	bool is_bytes;		 /* else a number */
	struct bolt_slice bytes; /* is_bytes */
	uint64_t value;
};

/* 1: a field, 0: the end; what is no protobuf is -EBADMSG. */
int wire_next(struct wire *w, struct wire_field *ret_field);

/* ---- snapshot_mvcc.c: etcd's revisions of keys ---- */

#define MVCC_KEY_MAX 1024 /* of a key's bytes, so many are shown; Kubernetes' are shorter */

struct mvcc_record {
	uint64_t revision, sub; /* of the change */
	bool live;		/* the newest of its key, and not a deletion */
	uint64_t key_size;
	char key[MVCC_KEY_MAX + 1]; /* its first bytes; may hold any */
	struct bolt_slice value;
};

struct mvcc;

int mvcc_open(struct bolt *b, struct mvcc **ret_mvcc);
void mvcc_freep(struct mvcc **m);
typedef void mvcc_pace_fn(void *user, unsigned pass); /* every so many revisions; pass: 0, 1 */
/* Which revisions are live: before mvcc_each. Its memory grows with the live keys. */
int mvcc_index(struct mvcc *m, mvcc_pace_fn *pace, void *user);
/* Every value, in the order of revisions; deletions have none. fn as in bolt_each. */
typedef int mvcc_fn(void *user, const struct mvcc_record *record);
int mvcc_each(struct mvcc *m, mvcc_fn *fn, mvcc_pace_fn *pace, void *user);
uint64_t mvcc_revision(const struct mvcc *m);  /* the newest, after mvcc_index */
uint64_t mvcc_compacted(const struct mvcc *m); /* older ones are gone; 0: never */

/* ---- snapshot_resource.c: what a key of Kubernetes' names ---- */

#define RESOURCE_TEXT_MAX 253

struct resource {
	char group[RESOURCE_TEXT_MAX + 1]; /* "": the core group */
	char name[RESOURCE_TEXT_MAX + 1];  /* "secrets" */
	const char *object;		   /* in the path that it was read from: "NAMESPACE/NAME" */
};

/* path: behind the prefix, without a slash at its begin. false: it names none. */
bool resource_parse(const char *path, struct resource *ret_resource);
/* "secrets", "deployments.apps", with * and ? as in an EncryptionConfiguration; commas between.
 * Never what the API server never encrypts. */
bool resource_is_among(const struct resource *r, const char *list);

/* ---- snapshot_value.c: how a value is encrypted ---- */

enum value_kind {
	VALUE_PLAINTEXT,
	VALUE_AESCBC,
	VALUE_AESGCM,
	VALUE_SECRETBOX,
	VALUE_KMS_V1,
	VALUE_KMS_V2,
	VALUE_UNKNOWN, /* k8s:enc: and something else */
	VALUE_KINDS
};

#define VALUE_TEXT_MAX 253
#define VALUE_SOURCE_MAX 1024 /* what the API server allows: an encryptedDEKSource, a key_id */

struct value {
	enum value_kind kind;
	bool understood; /* else nobody, the API server neither, can make anything of it */
	bool kekd;	 /* its seed was wrapped by kekd */
	char provider[VALUE_TEXT_MAX + 1];
	char key_id[VALUE_SOURCE_MAX + 1];
	struct bolt_slice seed; /* KMS v2: the wrapped seed, encryptedDEKSource */
	uint8_t seed_sha256[32];
	struct uuid version; /* of kekd's key, from the seed's header */
	/* From the annotations, which authenticate nothing by themselves; "": absent. */
	char cluster[VALUE_TEXT_MAX + 1], provider_name[VALUE_TEXT_MAX + 1], key[STR_NAME_MAX + 1];
	unsigned number; /* of the version; 0: absent */
};

int value_read(struct bolt *b, struct bolt_slice s, struct value *ret_value);
const char *value_kind_name(enum value_kind k);

/* ---- snapshot_tally.c: counts ---- */

struct seed {
	struct bolt_slice place;
	uint8_t sha256[32];
	size_t version;	     /* in tally.versions */
	json_t *context;     /* what it was wrapped with; NULL: the annotations lack it */
	const char *outcome; /* of asking the server; NULL: it was not asked */
};

struct version {
	char key[STR_NAME_MAX + 1]; /* "": not told */
	struct uuid id;
	unsigned number; /* 0: not told */
	json_t *key_ids; /* {key_id: null} */
	uint64_t seeds, live, superseded;
	const char *outcome;
	bool asked_all; /* no node could tell of one of its seeds */
};

struct tally {
	const char *resources; /* that are to be encrypted */
	bool complete;
	uint64_t live, superseded;	       /* values of Kubernetes' */
	uint64_t plain_live, plain_superseded; /* of those resources */
	uint64_t kekd, other;		       /* encrypted ones, by whom */
	uint64_t outside, odd;		       /* keys elsewhere; values that were not understood */
	char outside_example[64], odd_example[MVCC_KEY_MAX + 1];
	json_t *by_resource, *rows, *contexts, *clusters, *seed_index;
	struct seed *seeds;
	size_t seeds_count, seeds_room;
	struct version *versions;
	size_t versions_count, versions_room;
};

int tally_init(struct tally *t, const char *resources);
void tally_free(struct tally *t);
/* 0 or -ENOMEM. */
int tally_add(struct tally *t, const struct mvcc_record *record, const struct resource *r,
	const struct value *v);
void tally_add_outside(struct tally *t, const struct mvcc_record *record);
const char *tally_cluster(const struct tally *t); /* NULL: none, or several */

/* ---- the whole ---- */

struct snapshot {
	struct ctl *ctl;
	const char *path;
	char prefix[256], taken[CLOCK_TEXT_SIZE];
	/* When it was taken: as it was told (0: not), the file's time, the newest Lease in it. */
	uint64_t taken_us, file_us, lease_us;
	bool copied; /* the file's time is not it */
	int fd;
	uint64_t size, data_size; /* with and without the hash at its end */
	/* A hash is at its end, and it is right. Without one nothing tells whether the pages belong
	 * together: a running member's database that is copied may lack values and look sound. */
	bool hashed;
	char sha256[65]; /* of the file */
	struct bolt *bolt;
	struct mvcc *mvcc;
	struct tally tally;
	struct progress progress;
	int restorable; /* 1, 0; -1: nobody knows */
};

/* snapshot_file.c: opens it and compares its hash. An exit status. */
int snapshot_file_open(struct snapshot *s);
void snapshot_file_close(struct snapshot *s);
/* Says what is wrong, and gives the exit status. */
int snapshot_say_damaged(const struct snapshot *s, int err, const char *what);

/* snapshot_time.c: when it was taken. */
void snapshot_take_lease(struct snapshot *s, const struct mvcc_record *record);
void snapshot_settle_time(struct snapshot *s); /* when all is read */

/* snapshot_values.c: --values, a line for each. An exit status. */
int snapshot_values(struct snapshot *s);
/* Walks over Kubernetes' values; fn as in bolt_each. */
typedef int snapshot_fn(struct snapshot *s, const struct mvcc_record *record,
	const struct resource *r, const struct value *v, void *user);
int snapshot_each(struct snapshot *s, snapshot_fn *fn, void *user);

/* snapshot_verify.c: asks the server for each seed. An exit status. */
int snapshot_verify(struct snapshot *s);

/* snapshot.c: the report of a snapshot's file, as -o json shows it, with the options --prefix and
 * --taken; owned by the caller. An exit status. */
int snapshot_report(struct ctl *ctl, const char *path, json_t **ret_report);

/* snapshot_show.c */
json_t *snapshot_json(const struct snapshot *s);
void snapshot_show(const struct snapshot *s);

#endif
