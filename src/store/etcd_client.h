/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the etcd client share: the handle, one exchange with one endpoint, its meaning.
 */
#ifndef KEKD_ETCD_CLIENT_H
#define KEKD_ETCD_CLIENT_H

#include "kekd/buf.h"
#include "kekd/etcd.h"

#include <curl/curl.h>

#define ETCD_REPLY_MAX (64u * 1024 * 1024)

struct etcd {
	const struct etcd_settings *settings;
	CURL *curl;		 /* of calls */
	CURLM *multi;		 /* of streams, made with the first */
	CURL *stream;		 /* … */
	size_t current;		 /* the endpoint to ask first */
	char *prefix;		 /* "/kekd/CLUSTER/" */
	struct curl_slist *head; /* of each request, with the token once there is one */
	bool authenticated;
	bool unsure;
	char curl_error[CURL_ERROR_SIZE];
	char error[ETCD_ERROR_SIZE];
};

/* What an answer or its absence means for the call. */
enum etcd_meaning {
	ETCD_DONE,
	ETCD_REFUSED,	/* err and text say why: no other endpoint would answer otherwise */
	ETCD_ELSEWHERE, /* this endpoint cannot now: another one may */
	ETCD_TOKEN	/* authenticate, then once more */
};

struct etcd_outcome {
	enum etcd_meaning meaning;
	bool sent; /* etcd may have had all of the request */
	int err;
	char text[ETCD_ERROR_SIZE];
};

/* Everything of a transfer but body, answer and time-outs. */
void etcd_prepare(struct etcd *e, CURL *curl, const char *url);
/* Why curl failed. */
void etcd_transfer_failed(
	struct etcd *e, CURL *curl, CURLcode code, const char *endpoint, struct etcd_outcome *o);
/* What etcd's answer means: the HTTP status, and the body if it is JSON (else NULL). */
void etcd_answered(long status, const json_t *reply, const char *endpoint, struct etcd_outcome *o);
const char *etcd_endpoint(const struct etcd *e);
void etcd_next_endpoint(struct etcd *e);
int etcd_fail(struct etcd *e, int err, const char *text);

/* Gets a token if there is a user and none is there. 0, or KEKD_ESTORE with the text set. */
int etcd_authenticate(struct etcd *e, uint64_t deadline_ns);
void etcd_forget_token(struct etcd *e);

#endif
