/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests between libmicrohttpd and the API: listener.c (daemons, connections, TLS peer), router.c
 * (the table of routes), problem.c (RFC 9457). A request's life: routed and authorised on an HTTP
 * thread → its handler → request_answer from any thread → its audit record durable → the reply
 * leaves. Between handler and reply the connection is suspended: no HTTP thread waits.
 *
 * Four kinds of handler, told by the route:
 *
 * - data runs on the HTTP thread, must not block: submits to the HSM and returns; the batch's done
 *   answers.
 * - read runs on the HTTP thread from memory alone, answers at once.
 * - later starts on the HTTP thread as well, and is answered from another one.
 * - control runs on the control thread, may block; a change's intent record is durable before it is
 *   called.
 */
#ifndef KEKD_HTTP_H
#define KEKD_HTTP_H

#include "kekd/access.h"
#include "kekd/audit.h"
#include "kekd/buf.h"
#include "kekd/err.h"
#include "kekd/json.h"
#include "kekd/str.h"

#include <stdatomic.h>

struct node; /* net.h: everything that a handler works with */
struct request;
struct traffic; /* traffic.h */

#define HTTP_BODY_MAX (1024 * 1024)
#define HTTP_PARAMS_MAX 2

enum http_plane { HTTP_OPEN, HTTP_DATA, HTTP_READ, HTTP_LATER, HTTP_CONTROL };
enum http_condition { HTTP_COND_NONE, HTTP_COND_MATCH, HTTP_COND_CREATE, HTTP_COND_EITHER };

struct http_route {
	const char *method;
	const char *pattern;   /* "/v1/keys/{key}/wrap" */
	enum http_plane plane; /* HTTP_OPEN: no certificate needed, not audited, answers while
				  starting, held or full */
	enum access_operation
		operation; /* checked against {key}, else as key-less; ACCESS_NONE: any client */
	enum access_operation alternative; /* suffices too (verify for unwrap), or ACCESS_NONE */
	const char *name;		   /* for audit log and metrics: "wrap", "key.rotate" … */
	bool audited;			   /* false: health, metrics, status, whoami, openapi */
	bool has_body;			   /* a JSON object is read and parsed before the handler */
	enum http_condition condition;
	void (*handler)(struct request *r);
	/* Of a change: does this body only ask what would happen? Then it is audited as a read, and
	 * its handler changes nothing. NULL: it never does. */
	bool (*only_asks)(const json_t *body);
	bool while_held; /* answered while the store is held, too: it is about that */
	bool any_key;	 /* no {key} in the path: a grant of the operation for any key lets in, and
			    the handler looks for which */
};

/* What a handler may use. Strings live as long as the request. */
struct request {
	struct node *node;
	const struct http_route *route;
	char *params[HTTP_PARAMS_MAX]; /* {key}, {n} … in the pattern's order, percent-decoded */
	const char *key;	       /* params[…] of {key}, or NULL */
	json_t *body;		       /* parsed object, or NULL */
	struct client *client;	       /* reference, or NULL */
	struct identity identity;
	char address[64];
	char request_id[UUID_TEXT_SIZE];
	char traceparent[64];
	uint64_t start_ns; /* boot clock */
	uint64_t time_us;
	bool if_match_given, if_none_match_given;
	uint64_t if_match; /* commit number in If-Match; STORE_ANY for "*" */

	/* the answer, for request_answer* to send */
	int status;
	struct buf reply;
	char etag[32];
	bool tell_request_id; /* also when it is no refusal */
	char *location;	      /* of a redirection; freed with the request */
	unsigned retry_after_s;

	/* what the audit record gets besides; filled by handlers; freed with the request */
	struct audit_record audit;
	struct audit_version *audit_versions;
	size_t audit_versions_count;
	uint8_t (*audit_blobs)[AUDIT_BLOB_HASH_SIZE];
	size_t audit_blobs_count;
	json_t **audit_contexts; /* borrowed from body */
	size_t audit_contexts_count;
	json_t *audit_detail;

	/* Told what the answer came to, 0 or an error, right before it leaves; for counting. Any
	 * thread; may be NULL. */
	void (*answered)(struct request *r, int err);
	void *state; /* the handler's own */
	void (*state_free)(void *state);
	struct http_call *call; /* listener.c's own */
};

/* Query parameter, or NULL. HTTP thread only (read handlers). */
const char *request_query(struct request *r, const char *name);

/* Exactly one of these per request, from any thread; r is not to be touched afterwards. JSON: takes
 * over the reference. */
void request_answer_json(struct request *r, int status, json_t *value);
void request_answer_buf(
	struct request *r, int status, const char *content_type); /* r->reply holds the body */
/* A problem document: code and title by err, detail for people (what happened, to what, what to
 * do). */
void request_fail(struct request *r, int err, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* problem.c */
void problem_format(struct buf *b, int err, const char *detail, const char *request_id);
/* The same with another status than the error's own. */
void problem_format_as(
	struct buf *b, int err, int status, const char *detail, const char *request_id);

/* The node that makes changes now, and its URL; empty: not known, or it has none. */
struct http_active {
	char node[STR_NAME_MAX + 1];
	char url[512];
};

/* What the listener asks of the rest. Any thread, never blocks. */
struct http_hooks {
	int (*serves)(const struct node *n); /* 0, KEKD_ESTARTING, KEKD_EHELD or KEKD_ESTOPPING */
	bool (*is_behind)(const struct node *n); /* no token takes a single operation now */
	uint64_t (*revision)(struct node *n);
	int (*control)(
		struct node *n, void (*run)(void *), void *user); /* run it on the control thread */
	/* May this route change anything now? 0 or an error. Control thread. May be NULL. */
	int (*may_change)(const struct node *n, const struct http_route *route);
	/* Of a change: 0: this node makes it; KEKD_ENOTACTIVE: ret_active does; KEKD_ENOACTIVE:
	 * nobody does now. May be NULL: this node makes all. */
	int (*finds_active)(
		struct node *n, const struct http_route *route, struct http_active *ret_active);
};

/* What a reload may change; files are PEM. */
struct http_tls_config {
	const char *certificate, *key, *client_ca;
	const char *crl; /* or NULL: revocation is not checked */
	bool crl_warn_expired;
	bool common_name;
	const char *const *deny; /* identities that are refused */
	size_t deny_count;
};

struct http;
struct http_config {
	struct node *node;
	const struct http_hooks *hooks;
	const struct http_route *routes; /* ends with a row of NULL; static */
	struct clients *clients;	 /* borrowed */
	struct audit *audit;		 /* borrowed */
	struct traffic *traffic;	 /* borrowed */
	const int *listen_fds;		 /* owned by the caller, which keeps them open */
	size_t listen_count;
	unsigned threads;	    /* of each listener's pool */
	struct http_tls_config tls; /* copied */
	/* Over all listeners. More requests, or more bytes of long bodies, get 503 overloaded; for
	 * more connections an idle one or a stranger's is closed. */
	size_t in_flight_max, bodies_max, connections_max;
};
int http_open(const struct http_config *config, struct http **ret_http, char ret_error[256]);

/* Takes other files and lists into force, all or nothing: new connections get the new certificate,
 * open ones go on and are checked anew at their next request. One thread at a time, the same as
 * http_watch; it reads files. */
int http_reload(struct http *h, const struct http_tls_config *tls, char ret_error[256]);
/* Every second or so: takes files that have changed, once they have been left alone from one call
 * to the next. What cannot be used is told once in the log and tried again; what was in force
 * stays. */
void http_watch(struct http *h);
struct http_certificates {
	struct identity_life server, client_ca, crl; /* of several the one that ends first */
	bool has_crl, crl_warn_expired;
	uint64_t taken_us;		  /* when the last of it came into force */
	uint64_t accepted_on_expired_crl; /* verdicts since the start */
	char faults[3][256];		  /* why changed files are not taken; empty: they are */
};
void http_certificates(struct http *h, struct http_certificates *ret); /* any thread */

/* No new requests (503 shutting_down), waits until those under way are answered or timeout_ms has
 * passed. */
void http_drain(struct http *h, unsigned timeout_ms);
void http_freep(struct http **h);
size_t http_in_flight(struct http *h);

/* Why the server ended a connection that it might have kept. */
enum http_end {
	HTTP_ENDED_IDLE,    /* no request for long */
	HTTP_ENDED_SLOW,    /* handshake, request or reply took too long */
	HTTP_ENDED_CROWDED, /* there were too many */
	HTTP_ENDS
};

struct http_connections {
	uint64_t open, most; /* now; how many there may be */
	uint64_t ended[HTTP_ENDS];
	uint64_t accepted;  /* since the start */
	uint64_t unused;    /* ended before a request came: no handshake, or no use of it */
	uint64_t abandoned; /* requests whose connection ended before their answer */
};
void http_connections(struct http *h, struct http_connections *ret_connections); /* any thread */

#endif
