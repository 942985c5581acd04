/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A client of etcd's v3 interface, as JSON over HTTP/1.1 (its gRPC gateway): calls that fail over
 * between the endpoints within one time-out, and streams. It knows etcd's ways of failing, not what
 * is kept there. A handle belongs to one thread.
 *
 * In etcd's JSON, keys and values are base64, numbers are strings of digits, and what is 0, false
 * or empty is absent.
 */
#ifndef KEKD_ETCD_H
#define KEKD_ETCD_H

#include "kekd/etcd_settings.h"
#include "kekd/metrics.h"

#include <jansson.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ETCD_ERROR_SIZE 256

/* What all handles did, for metrics. Zeroed is empty. Any thread. */
struct etcd_counts {
	atomic_uint_least64_t calls;	      /* that were answered */
	atomic_uint_least64_t errors;	      /* calls and streams that failed on all endpoints */
	atomic_uint_least64_t failovers;      /* tries at another endpoint */
	atomic_uint_least64_t sent, received; /* bytes of bodies, streams included */
	atomic_uint_least64_t streams;
	atomic_uint endpoint;		  /* index of the one that answered last */
	struct metrics_histogram latency; /* of answered calls, all tries together */
};

/* Once per process, in main(): before the filter of system calls, before any thread and before the
 * first handle. 0 or KEKD_EINTERNAL. */
int etcd_global_open(void);

struct etcd;

/* s is borrowed. 0, -ENOMEM or KEKD_EINTERNAL. Nothing is sent yet. */
int etcd_open(const struct etcd_settings *s, struct etcd **ret_etcd);
void etcd_freep(struct etcd **etcd);
/* A text for people about the last call that failed: which endpoint, what, and what to do. */
const char *etcd_error(const struct etcd *e);

/* POSTs body (borrowed) to /v3/PATH, as "kv/txn". The next endpoint is asked when one cannot be
 * reached, answers 5xx or keeps silent, within the settings' timeout in all. With a user it
 * authenticates first, and again when etcd does not know the token any more. `repeat`: may the call
 * be sent again when it is not known whether it was done? Without, only what etcd cannot have begun
 * is tried elsewhere.
 * 0 with the reply (to be freed with json_decref). KEKD_ESTORE: nobody answered, or etcd refused;
 * a call that was sent may have been done (etcd_unsure). KEKD_ECOMPACTED: the revision is gone.
 * -ENOENT: etcd does not know what it was asked about (a lease). *ret_sent_ns (may be NULL): boot
 * clock just before the try that succeeded was sent. */
int etcd_call(struct etcd *e, const char *path, const json_t *body, bool repeat, json_t **ret_reply,
	uint64_t *ret_sent_ns);
/* Did the last call that failed perhaps reach etcd, so that it may have been done? */
bool etcd_unsure(const struct etcd *e);

/* A call whose answer never ends: fn gets each message (borrowed), which is the answer's line as it
 * stands: {"result": …} or {"error": …}. Returns what fn returned as soon as that is not 0; 0 when
 * *stop became true (seen within 100 ms); KEKD_ESTORE when the connection could not be made or
 * ended, or when nothing came for idle_ms (0: wait for ever); another endpoint is the next call's.
 * Connecting has the settings' timeout. */
int etcd_stream(struct etcd *e, const char *path, const json_t *body, unsigned idle_ms,
	const atomic_bool *stop, int (*fn)(const json_t *message, void *user), void *user);

/* ---- etcd's JSON; what is returned as json_t * is the caller's, or NULL without memory ---- */

json_t *etcd_base64(const void *data, size_t len);
json_t *etcd_number(uint64_t n); /* "N" */
/* The key of PATH in this cluster: base64 of "/kekd/CLUSTER/PATH". */
json_t *etcd_key(const struct etcd *e, const char *path);
/* The range_end of all keys that begin so. path may be "". */
json_t *etcd_key_end(const struct etcd *e, const char *path);
/* The key that sorts directly behind this one, to go on listing after it. */
json_t *etcd_key_next(const struct etcd *e, const char *path);
/* The path of a key that etcd told (base64), below "/kekd/CLUSTER/". NULL: not a key of this
 * cluster, or no memory. To be freed. */
char *etcd_path(const struct etcd *e, const json_t *key);
/* A value that etcd told (base64; NULL or absent is empty), with a NUL behind it. NULL: not base64,
 * or no memory. To be freed. */
char *etcd_bytes(const json_t *value, size_t *ret_len);
/* The number `name` in object; 0 when it is not there. */
uint64_t etcd_u64(const json_t *object, const char *name);

#endif
