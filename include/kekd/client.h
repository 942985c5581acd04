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
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct kekd_client;

#define KEKD_ENDPOINTS_MAX 16

/* Which endpoints failed lately: they are asked last, for ten seconds or until they answer. Shared
 * by the clients of one process that have the same endpoints; zeroed is: none. Any thread. */
struct kekd_health {
	atomic_uint_least64_t away_until_ns[KEKD_ENDPOINTS_MAX]; /* CLOCK_BOOTTIME */
};
void kekd_health_failed(struct kekd_health *h, size_t endpoint);
void kekd_health_answered(struct kekd_health *h, size_t endpoint);

struct kekd_client_config {
	const char *const *endpoints; /* "https://host:port" */
	size_t endpoints_count;
	const char *ca, *certificate, *key; /* PEM files */
	unsigned timeout_ms;		    /* of a whole request; 0: 30 s */
	unsigned connect_ms; /* of connecting, while there is another endpoint to try; 0: 3 s */
	/* Look at the files once a second: when they changed, and can be used, connections are made
	 * anew with them; what cannot be used leaves the old ones in use. reloaded may be NULL; so
	 * may its fault: they were taken. A key's passphrase is not asked for. */
	bool reload;
	void (*reloaded)(void *user, const char *fault);
	void *user;
	/* Borrowed, or NULL: each request begins where the last one was served. */
	struct kekd_health *health;
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
	char detail[512];
	char request_id[64]; /* of the audit log */
	char date[40];	     /* when the server answered, as HTTP writes it; empty: unknown */
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
/* The same for who has more to say about it. */
struct kekd_ask {
	uint64_t deadline_ns; /* CLOCK_BOOTTIME; 0: the client's time-out from now */
	bool chosen, alone;   /* ask `first` before the others, or no other */
	size_t first;	      /* an index of the configuration */
	const atomic_bool
		*aborted; /* another thread sets it, then calls kekd_client_wake; or NULL */
	/* Codes of answers that a node gives which has not heard of all yet: the next endpoint is
	 * asked, too. NULL at the end; or NULL. */
	const char *const *elsewhere;

	atomic_size_t endpoint; /* which is being asked, or was last; other threads may read it */
	unsigned passed_over;	/* how many before that failed, now or lately */
};
/* -ECANCELED when it was aborted: the connection is closed. */
int kekd_client_ask(struct kekd_client *c, const char *method, const char *path, const json_t *body,
	struct kekd_ask *ask, struct kekd_reply *ret_reply, char ret_error[512]);
/* From any thread, while the client is open: looks at `aborted` at once. */
void kekd_client_wake(struct kekd_client *c);
/* When the certificate that is in use ends, in seconds since 1970; 0: not known, or no reload. */
uint64_t kekd_client_certificate_ends_s(const struct kekd_client *c);
/* Of the last request, when it failed: was it sent, so that a change may have been made? */
bool kekd_client_uncertain(const struct kekd_client *c);

#endif
