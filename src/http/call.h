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

/* The server's certificate and key. Immutable; a connection holds its own to the end. */
struct http_pair {
	atomic_uint references;
	gnutls_pcert_st chain[8];
	unsigned chain_count;
	gnutls_privkey_t key;
	struct identity_life life;
};

/* What a client's certificate must stand up to. Immutable, counted. */
struct http_trust {
	atomic_uint references;
	uint64_t generation;
	struct identity_ca *ca; /* with the CRLs */
	bool common_name;
	char **deny;
	size_t deny_count;
};

struct http_live; /* live.c: both of them, now */

struct connections; /* connections.c: those that are open */

struct http {
	struct http_config config;
	struct connections *connections;
	atomic_size_t bodies; /* bytes of long bodies that are held */
	struct http_live *live;
	struct MHD_Daemon *daemons[HTTP_LISTEN_MAX];
	size_t daemons_count;
	atomic_size_t in_flight;
	atomic_uint_least64_t accepted, closed, unused, abandoned;
	atomic_uint_least64_t ended[HTTP_ENDS];
	atomic_bool draining;
};

enum peer_phase { PEER_HANDSHAKE, PEER_IDLE, PEER_HEADERS, PEER_BODY, PEER_WORKING, PEER_REPLY };

/* One TLS connection. The chain is verified at its first request, and that verdict stands until the
 * first of its certificates or a CRL ends, or what is trusted has changed. */
struct peer {
	struct http *http;
	struct http_pair *pair; /* that the handshake was done with */
	uint64_t generation;	/* of the trust that the verdict comes from */
	int fd;
	_Atomic enum peer_phase phase;
	_Atomic uint64_t deadline_ns; /* boot clock: by then the phase must be over */
	atomic_bool known;	      /* its last request was a client's */
	bool unread;		      /* answered while its request was not read to the end */
	bool ended;		      /* under the lock of connections.c, as what follows */
	struct peer *older, *newer;
	struct sockaddr_storage sockaddr;
	char address[64];
	bool used; /* a request came */
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
	size_t body_counted; /* of http's bodies */
	bool crowded;	     /* its body was let go: too many others are held */
	bool suspended;
	bool counted; /* among the client's requests in flight */
	bool early;   /* refused before the body was read */
	bool swallow; /* early, but the body is short: it is read and forgotten */
	bool queued;
	bool expected; /* by the audit log, for a shared sync */
	bool outcome;  /* control plane: the intent is on disk, the answer is its outcome */
	bool started;  /* handed to its handler */
	int err;       /* of the answer */
	atomic_bool answered;
	const char *content_type;
};

/* live.c */
int http_live_open(
	const struct http_tls_config *config, struct http_live **ret_live, char ret_error[256]);
void http_live_freep(struct http_live **l);
struct http_pair *http_live_pair(struct http_live *l);	 /* a reference */
struct http_trust *http_live_trust(struct http_live *l); /* a reference */
void http_live_count_expired_crl(struct http_live *l);
uint64_t http_live_generation(struct http_live *l); /* of the trust; no lock */

/* credentials.c */
int http_pair_load(
	const char *certificate, const char *key, struct http_pair **ret_pair, char ret_error[256]);
void http_pair_unrefp(struct http_pair **p);
/* A copy of the list. */
int http_trust_new(struct identity_ca *ca, struct identity_crl *crl,
	const struct http_tls_config *config, uint64_t generation, struct http_trust **ret_trust);
void http_trust_unrefp(struct http_trust **t);
bool http_trust_denies(const struct http_trust *t, const struct identity *id);

/* connections.c. HTTP threads, but for open and freep. */
int connections_open(size_t max, struct connections **ret_connections);
void connections_freep(struct connections **c); /* after the daemons */
/* Where there are too many, the stranger or the idle one that is to go is ended; or p itself. */
void connections_add(struct connections *c, struct peer *p);
void connections_remove(struct connections *c, struct peer *p);
void peer_enter(struct peer *p, enum peer_phase phase); /* from now on it does this */

/* tls.c */
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
/* A part of the body. */
void http_call_take_body(struct http_call *call, const char *data, size_t size);
/* The whole body is there. */
void http_call_run(struct http_call *call);

#endif
