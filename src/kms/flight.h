/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Work under way for API servers: an Encrypt, or a Decrypt with all who wait for the same bytes.
 * One table of all of it; whoever shares it has a lock around each call. A flight leaves the table
 * when it is settled, and is gone when its last attempt has ended.
 */
#ifndef KEKD_KMS_FLIGHT_H
#define KEKD_KMS_FLIGHT_H

#include "answer.h"
#include "key_id.h"

#include "kekd/buf.h"
#include "kekd/client.h"

#include <openssl/sha.h>

struct waiter {
	struct kms_call *call;
	uint64_t deadline_ns; /* CLOCK_BOOTTIME; leaves room to answer */
	uint64_t joined_ns;
	struct waiter *next;
};

enum flight_kind { FLIGHT_ENCRYPT, FLIGHT_DECRYPT, FLIGHT_KINDS };

/* The first request, and the one that is sent when that does not answer. */
struct attempt {
	bool running;
	atomic_bool aborted;
	atomic_uint_least64_t sent_ns; /* 0: not yet */
	struct kekd_ask ask;
	struct kekd_client *client; /* whose thread waits in it, while it runs */
};
enum { ATTEMPT_FIRST, ATTEMPT_HEDGE, ATTEMPTS };

struct flight {
	enum flight_kind kind;
	uint8_t digest[SHA256_DIGEST_LENGTH]; /* of all that a Decrypt says */
	struct kms_key_id id;
	uint64_t born_ns;
	struct buf bytes; /* of the request; unchanged while it flies; wiped */
	struct waiter *waiters;
	struct attempt attempts[ATTEMPTS];
	bool hedged, settled;
	size_t hedge_at; /* which endpoint the hedge asks */
	bool queued[ATTEMPTS];
	struct flight *chain;	    /* of the table's bucket */
	struct flight *prev, *next; /* of all */
	struct flight *queue_next[ATTEMPTS];
};

#define FLIGHT_BUCKETS 256

struct flights {
	struct flight *buckets[FLIGHT_BUCKETS];
	struct flight *all;
	size_t count, waiters;
};

/* NULL: no memory. The bytes are copied. */
struct flight *flight_new(
	enum flight_kind kind, const struct kms_key_id *id, struct kms_bytes bytes);
/* In no table, in no queue, without attempt: frees it and what it holds. */
void flight_free(struct flight *f);
bool flight_is_idle(const struct flight *f); /* no attempt runs, none is queued */

void flights_add(struct flights *t, struct flight *f);
void flights_remove(struct flights *t, struct flight *f); /* its waiters must have been taken */
struct flight *flights_find(struct flights *t, const uint8_t digest[SHA256_DIGEST_LENGTH]);

/* 0 or -ENOMEM. */
int flights_join(struct flights *t, struct flight *f, struct kms_call *call, uint64_t now_ns,
	uint64_t deadline_ns);
/* Takes those out that `wanted` names; the caller answers and frees them. */
struct waiter *flights_take(struct flights *t, struct flight *f,
	bool (*wanted)(const struct waiter *, const void *), const void *user);
struct waiter *flights_take_all(struct flights *t, struct flight *f);
void waiters_prepend(struct waiter **list, struct waiter *more);
uint64_t flight_deadline(const struct flight *f); /* of who waits longest; 0: nobody */

#endif
