/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of this directory share: the server, a connection's peer, a request on its way. */
#ifndef KEKD_HTTP_CALL_H
#define KEKD_HTTP_CALL_H

#include "kekd/http.h"
#include "kekd/metrics.h"

#include <gnutls/abstract.h>
#include <gnutls/gnutls.h>
#include <microhttpd.h>
#include <sys/socket.h>

#define HTTP_LISTEN_MAX 16

/* The server's certificate and the CAs that clients are verified with. */
struct http_tls {
	gnutls_pcert_st chain[8];
	unsigned chain_count;
	gnutls_privkey_t key;
	struct identity_ca *client_ca;
};

struct http {
	struct http_config config;
	struct http_tls tls;
	struct MHD_Daemon *daemons[HTTP_LISTEN_MAX];
	size_t daemons_count;
	atomic_size_t in_flight;
	atomic_uint_least64_t accepted, closed, abandoned;
	atomic_bool draining;
};

/* One TLS connection. The chain is verified at its first request and that verdict stands until the
 * leaf's notAfter. */
struct peer {
	struct http *http;
	struct sockaddr_storage sockaddr;
	char address[64];
	bool verified;
	int verdict;
	struct identity identity;
};

/* The listener's side of a request; its memory is the request's. */
struct http_call {
	struct request request; /* first: one allocation */
	struct http *http;
	struct peer *peer;
	struct MHD_Connection *connection;
	struct buf body;
	bool suspended;
	bool counted; /* among the client's requests in flight */
	bool early;   /* refused before the body was read */
	bool swallow; /* early, but the body is short: it is read and forgotten */
	bool queued;
	bool outcome; /* control plane: the intent is on disk, the answer is its outcome */
	bool started; /* handed to its handler */
	int err;      /* of the answer */
	atomic_bool answered;
	const char *content_type;
};

/* tls.c */
int http_tls_open(struct http_tls *tls, const struct http_config *config, char ret_error[256]);
void http_tls_close(struct http_tls *tls);
/* Asks for the client's certificate with an empty list of CAs. */
void http_tls_prepare(gnutls_session_t session);
void http_peer_verify(struct peer *peer, gnutls_session_t session, uint64_t now_us);
int http_tls_choose(gnutls_session_t session, const gnutls_datum_t *ca_names, int ca_count,
	const gnutls_pk_algorithm_t *algorithms, int algorithms_count, gnutls_pcert_st **ret_chain,
	unsigned int *ret_count, gnutls_privkey_t *ret_key);

/* memory.c: before the first connection. GnuTLS wipes what it frees from then on. */
void http_memory_open(void);

/* router.c. The route, or NULL with KEKD_EROUTE or KEKD_EMETHOD in ret_err. Params are allocated.
 */
const struct http_route *http_route_find(const struct http_route *routes, const char *method,
	const char *path, char *ret_params[HTTP_PARAMS_MAX], const char **ret_key, int *ret_err);

/* request.c */
struct http_call *http_call_new(struct http *h, struct peer *peer, struct MHD_Connection *c);
void http_call_free(struct http_call *call);
/* Everything that can be told before the body: 0, or the request was refused with request_fail. */
int http_call_admit(struct http_call *call, const char *method, const char *path);
/* The whole body is there. */
void http_call_run(struct http_call *call);

#endif
