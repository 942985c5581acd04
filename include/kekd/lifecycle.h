/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What changes a key: creation, rotation in two phases, states. Straight-line and blocking: control
 * thread only. Every step is durable before the next begins, so that a crash at any instant leaves
 * the old or the new primary.
 */
#ifndef KEKD_LIFECYCLE_H
#define KEKD_LIFECYCLE_H

#include "kekd/hsm.h"
#include "kekd/keyring.h"
#include "kekd/seal.h"

struct lifecycle_members; /* below */

struct lifecycle {
	struct sealed *store;
	struct hsm *hsm;
	struct keyring *keyring;
	const char *cluster, *node;
	const char *const *tokens; /* logical tokens; the first holds new keys */
	unsigned tokens_count;
	const struct lifecycle_members *members; /* NULL: this node is alone, and nobody asks */
};

#define LIFECYCLE_ERROR_SIZE 400 /* what happened, to what, what to do */

/* What the changes of keys ask of the node about the cluster's other members. Control thread. */
struct lifecycle_members {
	void *user;
	/* Are there others? */
	bool (*others)(void *user);
	/* Waits until each of them has proven the version, as k, which is stored, has it. 0; or
	 * KEKD_ENOPROOF and who has not; KEKD_ENOTACTIVE. */
	int (*proven)(void *user, const struct key *k, const struct key_version *v,
		char ret_error[LIFECYCLE_ERROR_SIZE]);
	/* Has this member said that the version's object is not in its token any more? */
	bool (*destroyed)(void *user, const char *member, const struct key_version *v);
	/* May this node change what is in the tokens? 0 and, by the boot clock, until when (0: no
	 * end); or KEKD_ENOTACTIVE. */
	int (*may_change)(void *user, uint64_t *ret_until_ns);
	/* This node has committed the record that it published last. */
	void (*committed)(void *user, const struct key *k);
};

/* What a key can be set to, apart from its versions. */
struct lifecycle_settings {
	const json_t *labels; /* borrowed, copied; NULL: as they are */
	bool has_rotate_every, has_frozen, has_when_stale;
	uint64_t rotate_every_s; /* 0: it does not rotate by itself */
	bool frozen;
	enum key_stale when_stale;
};

/* Stages version 1, makes and proves it, activates it. A key of this name that never had a primary
 * (an interrupted creation) is finished instead. settings, token NULL: none, the first. 0 with a
 * reference to the new record; KEKD_EPRECONDITION when it exists. */
int lifecycle_create(struct lifecycle *l, const char *name,
	const struct lifecycle_settings *settings, const char *token, struct key **ret_key,
	char ret_error[LIFECYCLE_ERROR_SIZE]);
/* Where a new version goes that no token is named for: to the primary's, or else the first. Any
 * thread; borrowed from l. */
const char *lifecycle_default_token(const struct lifecycle *l, const struct key *k);
/* Re-uses a staged version if there is one. expected: the record's commit number, or STORE_ANY. */
int lifecycle_rotate(struct lifecycle *l, const char *name, uint64_t expected, const char *token,
	struct key **ret_key, char ret_error[LIFECYCLE_ERROR_SIZE]);
/* enabled ⇄ disabled. Session copies are dropped in every worker before it returns. */
int lifecycle_set_enabled(struct lifecycle *l, const char *name, uint64_t expected,
	unsigned version, bool enabled, struct key **ret_key, char ret_error[LIFECYCLE_ERROR_SIZE]);
/* An older enabled version becomes primary, with a new activation number; proven first. */
int lifecycle_make_primary(struct lifecycle *l, const char *name, uint64_t expected,
	unsigned version, struct key **ret_key, char ret_error[LIFECYCLE_ERROR_SIZE]);
/* What is so already is no change. The period begins when it is set. */
int lifecycle_set(struct lifecycle *l, const char *name, uint64_t expected,
	const struct lifecycle_settings *settings, struct key **ret_key,
	char ret_error[LIFECYCLE_ERROR_SIZE]);

/* ---- rotation in its two steps ---- */

/* The first half of lifecycle_rotate: the staged version, made and proven here. The primary stays.
 */
int lifecycle_stage(struct lifecycle *l, const char *name, uint64_t expected, const char *token,
	struct key **ret_key, char ret_error[LIFECYCLE_ERROR_SIZE]);
/* The other half: the staged version becomes primary, proven once more. version 0: the newest
 * staged one; the primary already: nothing to do; KEKD_ESTATE when it is neither. */
int lifecycle_activate(struct lifecycle *l, const char *name, uint64_t expected, unsigned version,
	struct key **ret_key, char ret_error[LIFECYCLE_ERROR_SIZE]);
/* A staged version is given up. Its record stays, and its object in the token. */
int lifecycle_abandon(struct lifecycle *l, const char *name, uint64_t expected, unsigned version,
	struct key **ret_key, char ret_error[LIFECYCLE_ERROR_SIZE]);

/* Why a key is to rotate by itself now. Never one that is frozen or refused. Any thread. */
enum rotation_reason { ROTATION_NOT_DUE, ROTATION_PERIOD, ROTATION_BUDGET, ROTATION_REASONS };
enum rotation_reason rotation_due(const struct key *k, uint64_t now_us);
const char *rotation_reason_name(enum rotation_reason reason); /* "period", "budget" */

/* ---- adoption (adopt.c) ---- */

/* An object that no metadata knows. */
struct lifecycle_object {
	unsigned token;
	struct object_id id;
	unsigned number; /* as its label says, which is kekd's; 0: others made it, and it gets the
			    next number and a UUID of its own */
};
struct lifecycle_adoption {
	const struct lifecycle_object *objects; /* borrowed, as all here */
	size_t count;
	const char *by; /* the client */
	bool ivs_known; /* ivs_used were drawn under them before; false: the budget is spent */
	uint64_t ivs_used;
};
/* A key that is restored or adopted goes on with activation numbers so much higher: whatever the
 * lost records gave out is not given out again. */
#define LIFECYCLE_ACTIVATION_GAP (1ull << 20)
/* The objects become enabled versions of the key, proven and with a new canary. expected: 0: there
 * is no such key yet. A key that gets its first primary by this is rotated at once unless
 * ivs_known, since an adopted version then wraps nothing. KEKD_EATTRIBUTES: no AES-256 key, or one
 * with a label of kekd that kekd would not have made; KEKD_EDUPLICATE: the key has such a version.
 */
int lifecycle_adopt(struct lifecycle *l, const char *name, uint64_t expected,
	const struct lifecycle_adoption *a, struct key **ret_key,
	char ret_error[LIFECYCLE_ERROR_SIZE]);

/* ---- the end of a version (destroy.c) ---- */

/* May it be destroyed, as it is now: disabled, neither the primary nor within its ten minutes the
 * previous one. 0, KEKD_ENOVERSION, KEKD_ESTATE, or the previous primary: KEKD_ESTATE. Any thread.
 */
int lifecycle_may_destroy(const struct key *k, unsigned version, uint64_t now_us,
	char ret_error[LIFECYCLE_ERROR_SIZE]);
/* disabled → scheduled: it waits. d is copied; with: another record's change in the same commit, or
 * NULL. */
int lifecycle_schedule(struct lifecycle *l, const char *name, uint64_t expected, unsigned version,
	const struct version_destroy *d, const struct sealed_change *with, struct key **ret_key,
	char ret_error[LIFECYCLE_ERROR_SIZE]);
/* scheduled → disabled: it is spared. */
int lifecycle_cancel(struct lifecycle *l, const char *name, uint64_t expected, unsigned version,
	struct key **ret_key, char ret_error[LIFECYCLE_ERROR_SIZE]);
/* Stores how long a scheduled version has waited, or that its wait began anew. d is copied. */
int lifecycle_wait(struct lifecycle *l, const char *name, uint64_t expected, unsigned version,
	const struct version_destroy *d, struct key **ret_key,
	char ret_error[LIFECYCLE_ERROR_SIZE]);
/* scheduled → destroying: nothing can stop it from then on. */
int lifecycle_begin_destroy(struct lifecycle *l, const char *name, uint64_t expected,
	unsigned version, struct key **ret_key, char ret_error[LIFECYCLE_ERROR_SIZE]);
/* destroying: the object goes from this node's token, copies from its workers, and this node
 * confirms, as do the others that have said that it went from theirs; when all members have, →
 * destroyed. Commits only what is new. Can be repeated after a crash at any instant. */
int lifecycle_destroy(struct lifecycle *l, const char *name, unsigned version,
	const char (*members)[STR_NAME_MAX + 1], size_t members_count, struct key **ret_key,
	char ret_error[LIFECYCLE_ERROR_SIZE]);

/* The part of a member that is not the active: the object goes from its token, and copies from its
 * workers. Nothing is committed, and no lease is asked for: what is destroying ends nowhere else.
 * Can be repeated. */
int lifecycle_destroy_here(struct lifecycle *l, const struct key *k, unsigned version,
	char ret_error[LIFECYCLE_ERROR_SIZE]);

/* The canary (crypto/canary.c): made once per version; proving = unwrap it and compare, then a
 * fresh wrap and unwrap. */
int canary_make(struct hsm *hsm, unsigned token, struct key_version *v);
int canary_prove(struct hsm *hsm, unsigned token,
	const struct key_version *v); /* 0, KEKD_EUNPROVEN, KEKD_EOBJECT, KEKD_EHSM … */

#endif
