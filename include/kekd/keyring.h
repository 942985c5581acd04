/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keys and versions in memory: immutable key records, counted references. Readers (any thread) take
 * a reference and read without locks; the control thread publishes a change by replacing one
 * record. The model's JSON is the record's body (keys/NAME).
 */
#ifndef KEKD_KEYRING_H
#define KEKD_KEYRING_H

#include "kekd/blob.h"
#include "kekd/frames.h"
#include "kekd/json.h"
#include "kekd/str.h"

#define KEY_VERSIONS_MAX 1000
#define KEY_LABELS_MAX 64
#define CANARY_NONCE_SIZE 32
#define CANARY_SIZE_MAX (BLOB_HEADER_SIZE + BLOB_IV_MAX + CANARY_NONCE_SIZE + BLOB_TAG_SIZE)
#define KEY_PREVIOUS_WRAP_US \
	(600ull * 1000000) /* the previous primary wraps this long after a rotation */

enum version_state {
	VERSION_STAGED,
	VERSION_ENABLED,
	VERSION_DISABLED,
	VERSION_SCHEDULED,
	VERSION_DESTROYING,
	VERSION_DESTROYED,
	VERSION_ABANDONED
};
#define VERSION_STATES (VERSION_ABANDONED + 1)

/* What a node of a pair does for a key while its copy of the metadata is older than
 * store.max_staleness. */
enum key_stale {
	KEY_STALE_UNWRAP, /* unwraps, and does not wrap: the default */
	KEY_STALE_SERVE,
	KEY_STALE_REFUSE
};
#define KEY_STALES (KEY_STALE_REFUSE + 1)

struct nonce_block; /* nonce.h */

/* What a version has from the day that it waits to be destroyed. */
#define KEY_CONFIRMED_MAX 16
struct version_destroy {
	char approval[UUID_TEXT_SIZE]; /* "": none was needed */
	char requested_by[STR_NAME_MAX + 1];
	uint64_t requested_us;
	uint64_t wait_s, waited_s; /* by the boot clock, as kekd saw it pass */
	uint64_t restarted_us;	   /* when a refused use last began the wait anew; 0: never */
	unsigned restarts;
	uint64_t refused;  /* refused uses ever, when the wait began */
	char evidence[65]; /* what was shown to those who approved */
	char confirmed[KEY_CONFIRMED_MAX][STR_NAME_MAX + 1]; /* members without the object */
	size_t confirmed_count;
};

struct key_version {
	unsigned number; /* 1, 2, … never used twice */
	struct uuid id;
	struct object_id object_id;
	char token[STR_NAME_MAX + 1]; /* logical token */
	enum version_state state;
	uint64_t created_us, state_changed_us;
	unsigned attributes; /* enum hsm_attribute, as read back at creation; 0 while the object is
				not made */
	uint8_t canary[CANARY_SIZE_MAX]; /* blob; canary_len 0 while there is none */
	size_t canary_len;
	uint8_t canary_sha256[32];	   /* of the nonce */
	uint64_t adopted_us;		   /* 0: kekd made it for this record */
	char adopted_by[STR_NAME_MAX + 1]; /* the client that adopted it */
	struct version_destroy *destroy;   /* owned; NULL: it never waited, or was spared */
	struct nonce_block
		*nonces; /* shared by all generations of the record; owned by the keyring */
};

struct key {
	char name[STR_NAME_MAX + 1];
	enum blob_algorithm algorithm;
	uint64_t commit; /* the record's commit number: its ETag */
	uint64_t created_us;
	json_t *labels;	     /* object of strings */
	unsigned primary;    /* version number; 0: none yet */
	uint64_t activation; /* number of activations ever, over all versions */
	uint64_t activated_us;
	unsigned previous;	   /* primary before the last activation; 0: none */
	uint64_t rotate_every_s;   /* the period; 0: it does not rotate by itself */
	uint64_t next_rotation_us; /* 0: none */
	bool frozen;		   /* unwraps alone */
	enum key_stale when_stale;
	struct key_version *versions; /* sorted by number */
	size_t versions_count;
	bool refused; /* the stored record's seal does not verify: this, the last good one, stays in
			 force, but cannot be changed */
};

#define KMS_KEY_ID_SIZE (UUID_TEXT_SIZE + 21)
/* "UUID.ACTIVATION" of the primary; "" when there is none. */
void key_kms_key_id(const struct key *k, char ret_text[KMS_KEY_ID_SIZE]);

#define ROTATION_JITTER_MAX_US (3600ull * 1000000)
/* When the key rotates next if its period begins now, 0 without one: up to 5 % and an hour earlier
 * or later, by name and activation, so that keys made in one go do not rotate in one go. */
uint64_t key_next_rotation(const struct key *k, uint64_t now_us);

/* A key without versions, with one reference: the first step of creating it. NULL: no memory.
 * labels: borrowed, copied; NULL: none. */
struct key *key_new(const char *name, const json_t *labels, uint64_t now_us);
/* Labels: at most 64 strings; names of 1 to 64 bytes, values of up to 256. 0 or KEKD_EINVALID with
 * a text. */
int key_check_labels(const json_t *labels, char ret_error[JSON_ERROR_SIZE]);
/* The attribute that enum hsm_attribute calls by this bit: "sensitive" …; NULL for none. */
const char *key_attribute_name(unsigned bit);

struct key *key_ref(struct key *k);
void key_unrefp(struct key **k);
/* A deep copy to change, with one reference; for the control thread. nonces pointers are shared. */
struct key *key_copy(const struct key *k);
struct key_version *key_find_version(const struct key *k, unsigned number);	     /* or NULL */
struct key_version *key_find_version_id(const struct key *k, const struct uuid *id); /* or NULL */
struct key_version *key_add_version(struct key *
		k); /* zeroed, next number; NULL: full or no memory. Only on a copy not published */

/* The record's body. From JSON: strict; 0 or KEKD_EINVALID with a text. */
json_t *key_to_json(const struct key *k);
int key_from_json(
	const json_t *body, uint64_t commit, struct key **ret_key, char ret_error[JSON_ERROR_SIZE]);

const char *version_state_name(enum version_state s);
const char *key_stale_name(enum key_stale s);			  /* "unwrap", "serve", "refuse" */
int key_stale_parse(const char *text, enum key_stale *ret_stale); /* 0 or -EINVAL */
/* May the state go from → to? One table. */
bool version_state_allows(enum version_state from, enum version_state to);
/* Which version wraps: the primary when wanted is NULL; or the named one if it is the primary, or
 * was until 10 minutes ago and is enabled. 0, KEKD_ENOVERSION, KEKD_ENOTPRIMARY, KEKD_EDISABLED,
 * KEKD_ESTATE (no primary yet). */
int key_choose_wrap(const struct key *k, const struct uuid *wanted, uint64_t now_us,
	struct key_version **ret_version);

struct keyring;
int keyring_open(struct keyring **ret_keyring);
/* Frees the nonce blocks too: no key may be in use any more. */
void keyring_freep(struct keyring **r);
struct key *keyring_find(
	struct keyring *r, const char *name); /* a new reference, or NULL. Any thread. */
/* Takes over the reference to k, also on failure; replaces the record of that name. Gives each
 * version that has none its nonce block: that of the same version in the replaced record, or a new
 * one; until then k must not be shared. 0 or -ENOMEM. Control thread. */
int keyring_publish(struct keyring *r, struct key *k);
/* Told of every record that keyring_publish put in the place of another (old; NULL: a new name), by
 * the thread that published it. Both are borrowed: take references. One observer; set it before
 * the first record. */
typedef void keyring_observe_fn(struct key *old, struct key *now, void *user);
void keyring_observe(struct keyring *r, keyring_observe_fn *fn, void *user);
void keyring_mark_refused(struct keyring *r, const char *name, bool refused);
size_t keyring_count(struct keyring *r);
/* Up to limit keys with names after `after` (NULL: from the first), sorted, as new references.
 * Returns the number. Any thread. */
size_t keyring_list(struct keyring *r, const char *after, size_t limit, struct key **ret_keys);

/* What is told of all keys together, and of the first few by name. */
#define KEYRING_SUMMARY_KEYS 100
struct keyring_summary {
	size_t versions[VERSION_STATES];
	uint64_t oldest_primary_us; /* creation of the oldest version that is a primary; 0: none */
	uint64_t newest_us;	    /* the latest time that any record tells of */
	uint64_t nonces_left;	    /* the least of all versions that wrap; NONCE_MAX: none */
	uint64_t next_rotation_us;  /* the first of all that rotate by themselves; 0: none */
	size_t rotating, frozen;    /* keys that rotate by themselves; that only unwrap */
	struct keyring_summary_key {
		char name[STR_NAME_MAX + 1];
		uint64_t created_us, nonces_left; /* of the primary */
		uint64_t next_rotation_us;	  /* 0: none */
	} keys[KEYRING_SUMMARY_KEYS];		  /* those that have a primary */
	size_t keys_count;
};
/* Walks over all keys, a page at a time: 100,000 take some ten milliseconds. Any thread. */
void keyring_summarise(struct keyring *r, struct keyring_summary *ret_summary);

/* Does any version of any key have this object id in this token? Any thread. */
bool keyring_knows_object(struct keyring *r, const char *token, const struct object_id *id);

#endif
