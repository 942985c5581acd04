/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libkekdclient: HTTP/1.1 over mTLS to one of several endpoints, for kekctl and the Kubernetes
 * plugin (libcurl). One struct per thread. Connections are kept alive.
 *
 * An endpoint that cannot be reached, does not answer, or answers 503, is followed by the next one
 * within the deadline. What reads or computes (wrap, unwrap, generate, rewrap) is repeated whatever
 * became of the first attempt, so it fails only where no endpoint serves. A change goes to the next
 * endpoint when it was certainly not begun, and with a precondition also when its answer was lost:
 * then the second answer may be a 412 for what the first did (`repeated`). Redirections (307, 308)
 * are followed to https alone, at most three; while no node is active a request waits up to 10 s
 * for the next one.
 */
#ifndef KEKD_CLIENT_H
#define KEKD_CLIENT_H

#include "kekd/buf.h"

#include <jansson.h>
#include <stdbool.h>

struct kekd_client;

struct kekd_client_config {
	const char *const *endpoints; /* "https://host:port" */
	size_t endpoints_count;
	const char *ca, *certificate, *key; /* PEM files */
	unsigned timeout_ms;		    /* of a whole request; 0: 30 s */
};

int kekd_client_open(const struct kekd_client_config *config, struct kekd_client **ret_client,
	char ret_error[256]);
void kekd_client_freep(struct kekd_client **c);

struct kekd_reply {
	int status;	 /* HTTP */
	struct buf body; /* wiped on free */
	json_t *json;	 /* of the body; NULL when it is not JSON */
	char etag[64];	 /* with its quotes; empty: none */
	char code[64];	 /* of a problem document; empty: none */
	char detail[512], request_id[64];
	unsigned retry_after_s;
	bool repeated; /* an earlier attempt may have been carried out: its answer was lost */
};
void kekd_reply_free(struct kekd_reply *r);

/* method: "GET" … path: from "/v1" on, already escaped. body may be NULL. if_match / if_none_match
 * may be NULL. 0 when an answer came, whatever its status; else -ETIMEDOUT, -ECONNREFUSED,
 * -ECONNRESET (lost on the way), -EPROTO (TLS) with a text for people, naming endpoint and remedy.
 */
int kekd_client_request(struct kekd_client *c, const char *method, const char *path,
	const json_t *body, const char *if_match, const char *if_none_match,
	struct kekd_reply *ret_reply, char ret_error[512]);
/* Of the last request, when it failed: was it sent, so that a change may have been made? */
bool kekd_client_uncertain(const struct kekd_client *c);

#endif
