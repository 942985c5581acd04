/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the sealed store share: the state in memory, and its parts. seal_keys.c asks
 * the token; seal_check.c verifies what the engine has and judges it; seal_commit.c writes;
 * seal_init.c makes a cluster; seal_move.c
 * moves all seals to another key; seal.c opens, reads and tells.
 */
#ifndef STORE_SEALED_H
#define STORE_SEALED_H

#include "accepted.h"
#include "envelope.h"
#include "paths.h"

#include "kekd/seal.h"

#include <pthread.h>
#include <stdatomic.h>

#define SEAL_KEYS_MAX 8
#define SEAL_BATCH FRAME_OPS_MAX
#define COMMIT_PATH "commit"
#define CLUSTER_PATH "cluster"

struct seal_key {
	struct uuid id;
	unsigned token; /* index; tokens_count: this node's configuration lacks it */
};

/* One path: what the store has there, and what the rest of the program was told. */
struct sealed_entry {
	char *path;
	bool there;    /* as last read */
	bool readable; /* an envelope: commit and seal are as found in it */
	bool verified; /* and its own seal is right */
	bool dirty;    /* has changed since it was last read */
	uint64_t revision, commit;
	struct uuid key; /* that made the seal */
	uint8_t seal[SEAL_SIZE];
	bool known; /* the callee has a good one, with this seal: */
	uint64_t good_commit;
	uint8_t good_seal[SEAL_SIZE];
	bool refused; /* the callee was told so */
};

/* What a `cluster` record says of where the store comes from: the member `succeeds`. */
#define SEAL_SUCCEEDS_MAX 8
struct seal_lineage {
	char generation[UUID_TEXT_SIZE]; /* "": not known */
	struct seal_succeeds {
		char generation[UUID_TEXT_SIZE];
		uint64_t number; /* whoever accepted at most this follows */
	} succeeds[SEAL_SUCCEEDS_MAX];
	size_t count;
	char store[64]; /* identity of the database that was confirmed; "": none was */
	bool raising;	/* not all of that is done */
};

struct sealed {
	struct sealed_config config;
	sealed_load_fn *load;
	void *user;
	struct seal_key keys[SEAL_KEYS_MAX]; /* the last one seals */
	size_t keys_count;
	char generation[UUID_TEXT_SIZE];
	struct pathmap map;
	size_t dirty;
	size_t refusals_told; /* to the log, in one go */
	bool blind;	      /* a change could not be noted: nothing is known for sure any more */
	uint64_t seen_number; /* of the commit record as found, if it is verified */
	uint8_t seen_state[SEAL_SIZE];
	uint64_t number; /* in force */
	uint8_t state[SEAL_SIZE];
	struct accepted accepted;
	bool accepted_ok;
	bool accept_failed;	  /* the log has it */
	struct seal_lineage seen; /* of the cluster record as found, if it is verified */
	bool joining;		  /* a hold is no news for the log */
	bool confirming;	  /* what is committed is accepted only once it has been told */
	enum sealed_hold hold;
	bool whole; /* by itself, also while it is held */
	bool opened;
	bool good; /* it was not held when it was opened, or since */
	_Atomic uint64_t shared_number;
	struct sealed_counts counts;
	pthread_mutex_t lock; /* of what follows: for other threads */
	struct sealed_status status;
	char **refused;
	size_t refused_count;
};

/* ---- seal_keys.c ---- */

struct seal_job {
	const struct seal_key *key;
	uint8_t digest[SEAL_SIZE];
	uint8_t seal[SEAL_SIZE]; /* the answer */
};
/* Every HMAC of the program goes through here. All or an error: KEKD_EOBJECT, KEKD_EHSM … */
int seal_make(const struct sealed *s, struct seal_job *jobs, size_t count);
/* The same for what is written: made twice and compared, since a wrong seal would show only when
 * the record is read again, and be taken for somebody's change. */
int seal_make_sure(const struct sealed *s, struct seal_job *jobs, size_t count);
const struct seal_key *seal_find_key(const struct sealed *s, const struct uuid *id); /* or NULL */
const struct seal_key *seal_current_key(const struct sealed *s); /* keys_count is above 0 */
/* The keys that a `cluster` body lists. 0 or KEKD_ERECORD. */
int seal_take_keys(struct sealed *s, const json_t *cluster);
/* Makes this one the only key, in whichever token has it. 0, KEKD_EOBJECT, KEKD_EHSM … */
int seal_probe_key(struct sealed *s, const struct uuid *id);

unsigned seal_token_index(const struct sealed *s, const char *name); /* tokens_count: unknown */
#define SEAL_LABEL_SIZE 256
void seal_key_label(
	const struct sealed_config *c, const struct uuid *id, char ret_label[SEAL_LABEL_SIZE]);
/* Makes the object, or takes one that is there and inspects it. Texts in ret_error. */
int seal_make_key(
	const struct sealed_config *c, const struct seal_key *key, char ret_error[JSON_ERROR_SIZE]);

/* ---- seal_check.c ---- */

struct check {
	struct envelope envelope;
	uint8_t digest[SEAL_SIZE];
	bool of_text; /* the digest: of the body's text as it stands */
	bool readable, verified;
};
/* The two halves of seal_check: the second needs a token. ret_checks are to be freed in both
 * cases. */
int seal_read_checks(const struct store_record *records, size_t count, struct check *ret_checks);
int seal_verify_checks(const struct sealed *s, const struct store_record *records, size_t count,
	struct check *checks);
/* Verifies count (at most SEAL_BATCH) records. 0, or why it could not be told. ret_checks are to be
 * freed with seal_free_checks in both cases. */
int seal_check(const struct sealed *s, const struct store_record *records, size_t count,
	struct check *ret_checks);
void seal_free_checks(struct check *checks, size_t count);
/* Takes note of what is in the store now; c NULL: nothing. The entry, or NULL without memory. */
struct sealed_entry *seal_observe(
	struct sealed *s, const char *path, uint64_t revision, const struct check *c);
/* The callee has what is there now. */
void seal_set_good(struct sealed_entry *e);
void seal_log_refused(struct sealed *s, const struct sealed_entry *e);
void seal_mark_dirty(struct sealed *s, const char *path);
/* Sets hold, and the number in force if there is none. */
int seal_assess(struct sealed *s);
/* What is there now, by the hold: tells the callee of each that has become another. */
int seal_tell(struct sealed *s);
/* The store is whole by itself, whatever was accepted before; state: that of the map. */
bool seal_is_whole(const struct sealed *s, const uint8_t state[SEAL_SIZE]);
/* All that is good goes into the image that a restart begins with. 0 or KEKD_ESTORE. */
int seal_image(struct sealed *s);
/* Reads what is dirty, judges, tells. The number of findings, or negative. */
int seal_settle(struct sealed *s);
/* Is what was read at path the record in force, or a later one than this node knows? */
bool seal_is_current(const struct sealed *s, const char *path, const struct envelope *v);

/* SHA-256 over the seals of the map with some paths replaced. */
struct seal_override {
	const char *path;
	const uint8_t *seal; /* NULL: deleted */
};
/* overrides: sorted by path. 0 or -ENOMEM. */
int seal_state(const struct sealed *s, const struct seal_override *overrides, size_t count,
	uint8_t ret_state[SEAL_SIZE]);

/* ---- seal_ahead.c ---- */

struct seal_page {
	struct seal_page *next;
	struct store_page page;
	struct check checks[SEAL_BATCH]; /* read, not verified */
};
/* The next of all records, read ahead or now; NULL: there are no more. Free with seal_page_free. */
int seal_next_page(struct sealed_ahead *a, struct seal_page **ret_page);
void seal_page_free(struct seal_page *p);

/* ---- seal.c ---- */

struct sealed *seal_new(const struct sealed_config *config); /* or NULL */
void seal_entry_free(void *entry);
int seal_adopt_cluster(struct sealed *s, const json_t *body); /* keys and generation */
void seal_read_lineage(const json_t *cluster, struct seal_lineage *ret_lineage);
void seal_fill_accepted(const struct sealed *s, uint64_t number, const uint8_t state[SEAL_SIZE],
	struct accepted *a);
/* Reads and verifies everything, and judges it. As sealed_open. */
int seal_open_all(struct sealed *s, char ret_error[JSON_ERROR_SIZE]);
/* Writes a, which is sealed already. */
void seal_write_accepted(struct sealed *s, const struct accepted *a);
/* Seals and writes it. An error only when the token cannot be asked. */
int seal_accept(struct sealed *s, uint64_t number, const uint8_t state[SEAL_SIZE]);
void seal_publish(struct sealed *s); /* for the other threads */

/* ---- seal_move.c ---- */

size_t seal_count_old(const struct sealed *s); /* records that the current key has not sealed */

/* ---- seal_commit.c ---- */

/* Writes these records (at most SEAL_BATCH; all a node's own, or none) as they are, sealed by the
 * current key. The commit numbers that ETags carry stay, but a node's own count up. KEKD_ERECORD:
 * one is not what was last good. */
int seal_rewrite(struct sealed *s, struct sealed_entry *const *entries, size_t count);
/* As sealed_commit, which adds the tries again. ret_moved: the engine saw other revisions. */
int seal_commit_once(struct sealed *s, const struct sealed_change *changes, size_t count,
	uint64_t *ret_number, bool *ret_moved);

/* Records that nodes own, new, in one commit: for a store that nobody else knows yet. */
int seal_put_own_first(struct sealed *s, const struct sealed_change *changes, size_t count);

#endif
