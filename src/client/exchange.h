/* SPDX-License-Identifier: Apache-2.0 */
/* Within libkekdclient: the client, and one exchange of it with one address. */
#ifndef KEKD_CLIENT_EXCHANGE_H
#define KEKD_CLIENT_EXCHANGE_H

#include "kekd/client.h"

#include <curl/curl.h>
#include <stdint.h>

#define CLIENT_REPLY_MAX (64u * 1024 * 1024) /* a backup; other answers are far below */
#define CLIENT_URL_SIZE 2048

struct kekd_client {
	CURL *curl;
	char **endpoints;
	size_t endpoints_count;
	size_t current; /* the endpoint that served last */
	char *ca, *certificate, *key;
	uint64_t timeout_ns;
	bool uncertain;
	char curl_error[CURL_ERROR_SIZE];
};

struct call {
	const char *method, *path, *text; /* text: the body, or NULL */
	struct curl_slist *headers;
	uint64_t deadline_ns;
	bool once;		   /* a change: libcurl must not send it again by itself */
	long limit_ms, connect_ms; /* of the next exchange, and of its connecting */
};

struct exchange {
	struct kekd_reply reply;	/* empty when none came */
	bool sent;			/* the server may have seen the request */
	char redirect[CLIENT_URL_SIZE]; /* whom to ask instead; empty: nobody */
};

/* 0 when an answer came, whatever it says; the reply is the caller's. */
int exchange_run(struct kekd_client *c, const struct call *call, const char *url,
	struct exchange *ret_exchange, char ret_error[512]);

/* The request at one endpoint after the other, as kekd_client_request promises. conditional: it has
 * a precondition, which tells a repetition from the first. */
int failover_request(struct kekd_client *c, struct call *call, bool conditional,
	struct kekd_reply *ret_reply, char ret_error[512]);

#endif
