/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kekd-kms doctor from the inside: one check after the other, each of which says a line, what it
 * found and what to do about it. Nothing is changed but the audit log of kekd. One thread.
 */
#ifndef KEKD_KMS_DOCTOR_H
#define KEKD_KMS_DOCTOR_H

#include "config.h"
#include "key_id.h"

#include "kekd/client.h"

#include <jansson.h>
#include <stdbool.h>

enum doctor_level { DOCTOR_OK, DOCTOR_WARNING, DOCTOR_FAULT, DOCTOR_LEVELS };

struct doctor {
	const struct kms_config *config;
	bool json; /* nothing is printed before the end */
	json_t *checks;
	unsigned counts[DOCTOR_LEVELS];

	const char *told;	     /* the endpoint whose name was printed last */
	const char *endpoint;	     /* which the next lines are about; NULL: none */
	struct kms_key_id announced; /* activation 0: nothing, or not known */
	struct kms_key_id key_id;    /* the highest of the endpoints */
	bool grants_seen;
	struct buf blob; /* what another endpoint wrapped */
};

/* check: a stable word. remedy: a whole sentence; "" where there is nothing to do. */
void doctor_say(struct doctor *d, enum doctor_level level, const char *check, const char *remedy,
	const char *format, ...) __attribute__((format(printf, 5, 6)));

void doctor_state(struct doctor *d);
void doctor_socket(struct doctor *d);
void doctor_metrics(struct doctor *d);

void doctor_certificate(struct doctor *d);

void doctor_endpoints(struct doctor *d);
/* What a client's grants (a JSON array, as /v1/whoami has it) lack, or have beyond the key's three.
 */
void doctor_grants(struct doctor *d, const char *client, const json_t *grants);

/* ---- doctor_call.c: one Status, as an API server asks ---- */

struct doctor_status {
	bool answered; /* else text says why not */
	char text[512];
	char version[16], healthz[64], key_id[KMS_KEY_ID_TEXT_SIZE];
	uint64_t took_ns;
};
void doctor_call_status(const char *socket, uint64_t timeout_ns, struct doctor_status *ret_status);

#endif
