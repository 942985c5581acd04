/* SPDX-License-Identifier: Apache-2.0 */
/* Within libkekdclient: the client, and one exchange of it with one address. */
#ifndef KEKD_CLIENT_EXCHANGE_H
#define KEKD_CLIENT_EXCHANGE_H

#include "kekd/client.h"

#include <curl/curl.h>
#include <pthread.h>
#include <stdint.h>

#define CLIENT_REPLY_MAX (64u * 1024 * 1024) /* a backup; other answers are far below */
#define CLIENT_URL_SIZE 2048

struct kekd_client {
	CURL *curl;
	CURLM *multi;	      /* of this one handle: a thread that waits in it can be woken */
	pthread_mutex_t lock; /* of `multi` as others see it */
	char **endpoints;
	size_t endpoints_count;
	size_t current; /* the endpoint that served last */
	char *ca, *certificate, *key;
	uint64_t timeout_ns;
	unsigned connect_ms;
	struct kekd_health *health;
	struct reload *reload; /* NULL: the files are read by libcurl, as they are */
	void (*reloaded)(void *user, const char *fault);
	void *user;
	bool uncertain;
	char curl_error[CURL_ERROR_SIZE];
};

struct call {
	const char *method, *path, *text; /* text: the body, or NULL */
	struct curl_slist *headers;
	struct kekd_ask *ask;
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

enum reload_file { RELOAD_CA, RELOAD_CERTIFICATE, RELOAD_KEY, RELOAD_FILES };
struct reload *reload_open(const char *const paths[RELOAD_FILES]);
void reload_free(struct reload *r);
/* True: they have changed. *ret_fault: why the new ones cannot be used; NULL: they were taken. */
bool reload_due(struct reload *r, const char *const paths[RELOAD_FILES], const char **ret_fault);
/* Borrowed until reload_due is called; NULL: there are none that can be used. */
const struct buf *reload_contents(const struct reload *r, enum reload_file file);
uint64_t reload_ends_s(const struct reload *r); /* of the certificate in use; 0: unknown */

static inline bool
call_is_aborted(const struct call *call)
{
	return call->ask->aborted && atomic_load(call->ask->aborted);
}

#endif
