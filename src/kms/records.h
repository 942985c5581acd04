/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The key's record as each endpoint has it: a thread per endpoint, so that one that hangs holds up
 * no other. Reads happen in rounds of all endpoints, at most a few per second, whoever asks.
 */
#ifndef KEKD_KMS_RECORDS_H
#define KEKD_KMS_RECORDS_H

#include "config.h"
#include "key_id.h"

#include "kekd/client.h"

struct records;

int records_open(const struct kms_config *config, struct kekd_health *health,
	struct records **ret_records, char ret_error[256]);
void records_stop(struct records *r); /* whoever waits is let go; any thread */
void records_freep(struct records **r);

/* A node that has not seen what was announced, or something else in its place, is asked last.
 * Activation 0: nothing was. Any thread. */
void records_set_floor(struct records *r, const struct kms_key_id *announced);

/* Waits for a round that began at since_ns or later; with an id, until that is known at the least.
 * False: stopped, or the deadline came first. Any thread. */
bool records_look(
	struct records *r, const struct kms_key_id *id, uint64_t since_ns, uint64_t deadline_ns);
/* Is it a version of the key, and an activation that there was? Any thread. */
bool records_know(struct records *r, const struct kms_key_id *id);

struct records_view {
	struct kms_key_id highest; /* of all that was ever read; activation 0: none */
	struct kms_key_id fresh;   /* the highest that serves, of the last round alone */
	size_t serving;	  /* endpoints of the last round with what was announced, or more */
	char reason[512]; /* why the others do not, one after the other; empty: all do */
};
void records_view(struct records *r, struct records_view *ret_view); /* any thread */

enum endpoint_state { ENDPOINT_UNKNOWN, ENDPOINT_SERVES, ENDPOINT_BEHIND, ENDPOINT_AWAY };
struct records_endpoint {
	enum endpoint_state state;
	uint64_t activation; /* that it told last; 0: none */
};
void records_endpoint(struct records *r, size_t endpoint, struct records_endpoint *ret_endpoint);

#endif
