/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The listener: one libmicrohttpd daemon with a pool of polling threads per listening socket,
 * connections with their peer, bodies on their way in, replies on their way out.
 */
#include "call.h"
#include "daemon.h"

#include "kekd/clock.h"
#include "kekd/log.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static void
format_address(struct peer *p)
{
	char host[INET6_ADDRSTRLEN] = "";

	if (p->sockaddr.ss_family == AF_INET) {
		const struct sockaddr_in *in = (const struct sockaddr_in *)&p->sockaddr;
		inet_ntop(AF_INET, &in->sin_addr, host, sizeof(host));
		snprintf(p->address, sizeof(p->address), "%s:%u", host, ntohs(in->sin_port));
	} else if (p->sockaddr.ss_family == AF_INET6) {
		const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&p->sockaddr;
		inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof(host));
		snprintf(p->address, sizeof(p->address), "[%s]:%u", host, ntohs(in6->sin6_port));
	}
}

static struct peer *
peer_new(struct http *h, struct MHD_Connection *connection)
{
	const union MHD_ConnectionInfo *info = MHD_get_connection_info(
		connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
	struct peer *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	p->http = h;
	p->fd = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
	if (info && info->client_addr && info->client_addr->sa_family == AF_INET)
		memcpy(&p->sockaddr, info->client_addr, sizeof(struct sockaddr_in));
	else if (info && info->client_addr && info->client_addr->sa_family == AF_INET6)
		memcpy(&p->sockaddr, info->client_addr, sizeof(struct sockaddr_in6));
	format_address(p);
	return p;
}

static struct peer *
peer_of(struct MHD_Connection *connection)
{
	const union MHD_ConnectionInfo *info = MHD_get_connection_info(
		connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);

	return info ? info->socket_context : NULL;
}

/* The client's Finished: TLS stands. */
static int
on_handshake(gnutls_session_t session, unsigned type, unsigned when, unsigned incoming,
	const gnutls_datum_t *message)
{
	struct peer *peer = peer_of(gnutls_session_get_ptr(session));

	(void)type, (void)when, (void)message;
	if (peer && incoming)
		peer_enter(peer, PEER_IDLE);
	return 0;
}

static void
peer_free(struct peer *p)
{
	if (p)
		http_pair_unrefp(&p->pair);
	free(p);
}

static void
on_connection(void *user, struct MHD_Connection *connection, void **context,
	enum MHD_ConnectionNotificationCode code)
{
	const union MHD_ConnectionInfo *info;
	struct http *h = user;
	struct peer *peer = *context;

	metrics_add(code == MHD_CONNECTION_NOTIFY_CLOSED ? &h->closed : &h->accepted, 1);
	if (code == MHD_CONNECTION_NOTIFY_CLOSED) {
		if (peer)
			connections_remove(h->connections, peer);
		if (peer && !peer->used)
			metrics_add(&h->unused, 1);
		peer_free(peer);
		*context = NULL;
		return;
	}
	*context = peer_new(user, connection);
	if (*context)
		connections_add(h->connections, *context);
	info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_GNUTLS_SESSION);
	if (!info || !info->tls_session)
		return;
	http_tls_prepare(info->tls_session);
	gnutls_handshake_set_hook_function(
		info->tls_session, GNUTLS_HANDSHAKE_FINISHED, GNUTLS_HOOK_POST, on_handshake);
}

static enum MHD_Result
queue_reply(struct http_call *call)
{
	struct request *r = &call->request;
	struct MHD_Response *response;
	enum MHD_Result result;
	char number[24];

	/* The reply's memory is the request's, which lives until on_completed. */
	response = MHD_create_response_from_buffer(
		r->reply.len, r->reply.data, MHD_RESPMEM_PERSISTENT);
	if (!response)
		return MHD_NO;
	MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, call->content_type);
	MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
	if (r->client) { /* a stranger is not told how often things change */
		snprintf(number, sizeof(number), "%llu", (unsigned long long)r->audit.revision);
		MHD_add_response_header(response, "Kekd-Revision", number);
	}
	if (r->tell_request_id && r->status < 300)
		MHD_add_response_header(response, "Kekd-Request-Id", r->request_id);
	if (r->etag[0])
		MHD_add_response_header(response, MHD_HTTP_HEADER_ETAG, r->etag);
	if (r->location)
		MHD_add_response_header(response, MHD_HTTP_HEADER_LOCATION, r->location);
	if (r->retry_after_s) {
		snprintf(number, sizeof(number), "%u", r->retry_after_s);
		MHD_add_response_header(response, MHD_HTTP_HEADER_RETRY_AFTER, number);
	}
	if (atomic_load(&call->http->draining) || r->status == 401)
		MHD_add_response_header(response, MHD_HTTP_HEADER_CONNECTION, "close");
	call->queued = true;
	peer_enter(call->peer, PEER_REPLY);
	result = MHD_queue_response(call->connection, (unsigned)r->status, response);
	MHD_destroy_response(response);
	return result;
}

/* The request line is there; its headers are not. What is returned is the request's context. */
static void *
on_request_line(void *user, const char *uri, struct MHD_Connection *connection)
{
	struct peer *peer = peer_of(connection);

	(void)user, (void)uri;
	if (peer)
		peer_enter(peer, PEER_HEADERS);
	return NULL;
}

static enum MHD_Result
on_request(void *user, struct MHD_Connection *connection, const char *url, const char *method,
	const char *version, const char *upload, size_t *upload_size, void **context)
{
	struct http_call *call = *context;

	(void)version;
	if (!call) {
		struct peer *peer = peer_of(connection);

		call = peer ? http_call_new(user, peer, connection) : NULL;
		if (!call)
			return MHD_NO;
		*context = call;
		peer_enter(peer, PEER_BODY);
		peer->used = true;
		http_call_admit(call, method, url);
		peer->unread = call->early && !call->swallow;
		if (!call->early || call->suspended)
			return MHD_YES; /* on to the body, or here again once resumed */
	} else if (*upload_size > 0) {
		http_call_take_body(call, upload, *upload_size);
		*upload_size = 0;
		return MHD_YES;
	} else if (!call->early && !call->started) {
		http_call_run(call);
	}
	/* Not suspended: it is answered already. Suspended: this is the call after the resumption,
	 * or one before it. */
	if (call->suspended && !atomic_load(&call->answered))
		return MHD_YES;
	if (call->swallow) {
		call->swallow = false;
		return MHD_YES; /* on to the body, and then here again */
	}
	return call->queued ? MHD_YES : queue_reply(call);
}

static void
on_completed(void *user, struct MHD_Connection *connection, void **context,
	enum MHD_RequestTerminationCode code)
{
	struct http_call *call = *context;

	(void)user, (void)connection, (void)code;
	*context = NULL;
	if (!call)
		return;
	peer_enter(call->peer, PEER_IDLE);
	http_call_free(call);
}

static void
on_log(void *user, const char *format, va_list ap)
{
	char text[512];

	(void)user;
	vsnprintf(text, sizeof(text), format, ap);
	log_debug("libmicrohttpd: %s", text);
}

/* Each thread has its share of the limit: connections.c is to be the one that bounds them all. */
static unsigned
daemon_limit(const struct http *h)
{
	return (unsigned)(h->config.connections_max + 64) * h->config.threads;
}

static struct MHD_Daemon *
start(struct http *h, int fd)
{
	return MHD_start_daemon(HTTP_DAEMON_FLAGS, 0, NULL, NULL, on_request, h,
		MHD_OPTION_EXTERNAL_LOGGER, on_log, NULL, MHD_OPTION_LISTEN_SOCKET, fd,
		MHD_OPTION_THREAD_POOL_SIZE, h->config.threads, MHD_OPTION_NOTIFY_CONNECTION,
		on_connection, h, MHD_OPTION_NOTIFY_COMPLETED, on_completed, h,
		MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)HTTP_CONNECTION_IDLE_S,
		MHD_OPTION_URI_LOG_CALLBACK, on_request_line, NULL, MHD_OPTION_CONNECTION_LIMIT,
		daemon_limit(h), MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)HTTP_CONNECTION_MEMORY,
		MHD_OPTION_HTTPS_CERT_CALLBACK, http_tls_choose, MHD_OPTION_HTTPS_PRIORITIES,
		HTTP_PRIORITIES, MHD_OPTION_END);
}

int
http_open(const struct http_config *config, struct http **ret_http, char ret_error[256])
{
	struct http *h = calloc(1, sizeof(*h));
	int err;

	if (!h)
		return -ENOMEM;
	h->config = *config;
	http_memory_open();
	err = http_live_open(&config->tls, &h->live, ret_error);
	if (err != 0) {
		free(h);
		return err;
	}
	err = connections_open(config->connections_max, &h->connections);
	if (err != 0) {
		http_freep(&h);
		return err;
	}
	for (size_t i = 0; i < config->listen_count && i < HTTP_LISTEN_MAX; i++) {
		h->daemons[i] = start(h, config->listen_fds[i]);
		if (!h->daemons[i]) {
			snprintf(ret_error, 256,
				"the HTTP server could not be started on listening socket %zu", i);
			http_freep(&h);
			return KEKD_EINTERNAL;
		}
		h->daemons_count++;
	}
	*ret_http = h;
	return 0;
}

void
http_drain(struct http *h, unsigned timeout_ms)
{
	uint64_t end = clock_boot_ns() + timeout_ms * CLOCK_MS;

	atomic_store(&h->draining, true);
	while (atomic_load(&h->in_flight) > 0 && clock_boot_ns() < end)
		nanosleep(&(struct timespec){ 0, 2000000 }, NULL);
}

void
http_freep(struct http **h)
{
	if (!*h)
		return;
	for (size_t i = 0; i < (*h)->daemons_count; i++)
		MHD_stop_daemon((*h)->daemons[i]);
	connections_freep(&(*h)->connections);
	http_live_freep(&(*h)->live);
	free(*h);
	*h = NULL;
}

size_t
http_in_flight(struct http *h)
{
	return atomic_load(&h->in_flight);
}

void
http_connections(struct http *h, struct http_connections *ret_connections)
{
	/* In this order: what closes in between was accepted before. */
	uint64_t closed = metrics_read(&h->closed), accepted = metrics_read(&h->accepted);

	*ret_connections = (struct http_connections){
		.open = accepted - closed,
		.most = h->config.connections_max,
		.accepted = accepted,
		.unused = metrics_read(&h->unused),
		.abandoned = metrics_read(&h->abandoned),
	};
	for (size_t i = 0; i < HTTP_ENDS; i++)
		ret_connections->ended[i] = metrics_read(&h->ended[i]);
}
