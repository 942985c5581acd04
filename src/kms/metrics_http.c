/* SPDX-License-Identifier: Apache-2.0 */
/* See metrics_http.h. libmicrohttpd with one polling thread. */
#include "metrics_http.h"

#include "kekd/log.h"
#include "kekd/str.h"

#include <arpa/inet.h>
#include <errno.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define CONNECTIONS_MAX 16
#define IDLE_S 10
#define TEXT_MAX (256 * 1024)

struct kms_metrics_http {
	struct MHD_Daemon *daemon;
	struct kms_metrics_source source;
};

/* ---- listening ---- */

static socklen_t
loopback_address(const char *text, struct sockaddr_storage *ret_address)
{
	struct sockaddr_in *in = (struct sockaddr_in *)ret_address;
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)ret_address;
	uint16_t port = htons((uint16_t)strtoul(strrchr(text, ':') + 1, NULL, 10));
	char host[INET_ADDRSTRLEN];

	*ret_address = (struct sockaddr_storage){ 0 };
	if (text[0] == '[') {
		*in6 = (struct sockaddr_in6){ .sin6_family = AF_INET6,
			.sin6_port = port,
			.sin6_addr = IN6ADDR_LOOPBACK_INIT };
		return sizeof(*in6);
	}
	snprintf(host, sizeof(host), "%.*s", (int)strcspn(text, ":"), text);
	in->sin_family = AF_INET;
	in->sin_port = port;
	inet_pton(AF_INET, host, &in->sin_addr);
	return sizeof(*in);
}

static int
listen_loopback(const char *text, struct kms_socket *ret_socket)
{
	struct kms_socket s = KMS_SOCKET_INIT;
	struct sockaddr_storage address;
	socklen_t len = loopback_address(text, &address);
	const int on = 1;

	s.fd = socket(address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (s.fd >= 0)
		setsockopt(s.fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (s.fd < 0 || bind(s.fd, (const struct sockaddr *)&address, len) < 0 ||
		listen(s.fd, CONNECTIONS_MAX) < 0) {
		int err = -errno;
		log_error("metrics: cannot listen on %s: %s: take another port, or stop the "
			  "process that has it (ss -ltnp shows it)",
			text, strerror(-err));
		kms_socket_close(&s);
		return err;
	}
	*ret_socket = s;
	return 0;
}

int
kms_metrics_http_listen(const struct kms_config *config, struct kms_socket *ret_socket)
{
	static const char kind[] = "unix:";
	const char *text = config->metrics;

	if (!text)
		return 0;
	if (strncmp(text, kind, strlen(kind)) != 0)
		return listen_loopback(text, ret_socket);
	return kms_socket_bind(
		&(const struct kms_socket_config){ text + strlen(kind), config->socket_mode,
			config->socket_uid, config->socket_gid },
		"metrics", ret_socket);
}

/* ---- answers ---- */

struct page {
	struct buf body;
	unsigned status;
	const char *type;
};

static void
show_metrics(struct kms_metrics_http *h, struct page *p)
{
	p->type = "text/plain; version=0.0.4; charset=utf-8";
	h->source.metrics(h->source.user, &p->body);
	if (p->body.bad) {
		buf_reset(&p->body);
		p->status = MHD_HTTP_INTERNAL_SERVER_ERROR;
	}
}

static void
show_health(struct kms_metrics_http *h, struct page *p)
{
	char reason[512] = "";

	if (h->source.healthy(h->source.user, reason)) {
		buf_str(&p->body, "ok\n");
		return;
	}
	p->status = MHD_HTTP_SERVICE_UNAVAILABLE;
	buf_printf(&p->body, "%s\n", reason);
}

static const struct {
	const char *path;
	void (*show)(struct kms_metrics_http *, struct page *);
} pages[] = {
	{ "/metrics", show_metrics },
	{ "/health", show_health },
};

static void
fill(struct kms_metrics_http *h, const char *path, const char *method, struct page *p)
{
	if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0) {
		p->status = MHD_HTTP_METHOD_NOT_ALLOWED;
		buf_str(&p->body, "only GET is taken\n");
		return;
	}
	for (size_t i = 0; i < STR_COUNT(pages); i++) {
		if (strcmp(path, pages[i].path) != 0)
			continue;
		pages[i].show(h, p);
		return;
	}
	p->status = MHD_HTTP_NOT_FOUND;
	buf_str(&p->body, "there are /metrics and /health\n");
}

static enum MHD_Result
on_request(void *user, struct MHD_Connection *connection, const char *path, const char *method,
	const char *version, const char *upload, size_t *upload_size, void **context)
{
	static int begun;
	struct page p = { BUF_INIT(TEXT_MAX), MHD_HTTP_OK, "text/plain; charset=utf-8" };
	struct MHD_Response *response;
	enum MHD_Result result;

	(void)version, (void)upload;
	if (!*context) {
		*context = &begun;
		return MHD_YES;
	}
	if (*upload_size > 0) { /* a body that nobody asked for */
		*upload_size = 0;
		return MHD_YES;
	}
	fill(user, path, method, &p);
	response = MHD_create_response_from_buffer(p.body.len,
		p.body.data ? (void *)p.body.data : (void *)(uintptr_t) "", MHD_RESPMEM_MUST_COPY);
	buf_free(&p.body);
	if (!response)
		return MHD_NO;
	MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, p.type);
	MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
	result = MHD_queue_response(connection, p.status, response);
	MHD_destroy_response(response);
	return result;
}

static void __attribute__((format(printf, 2, 0))) on_log(void *user, const char *format, va_list ap)
{
	char text[512];

	(void)user;
	vsnprintf(text, sizeof(text), format, ap);
	log_debug("libmicrohttpd: %s", text);
}

int
kms_metrics_http_open(const struct kms_socket *socket, const struct kms_metrics_source *source,
	struct kms_metrics_http **ret_http)
{
	struct kms_metrics_http *h = calloc(1, sizeof(*h));
	int fd;

	if (!h)
		return -ENOMEM;
	h->source = *source;
	fd = dup(socket->fd); /* the daemon closes what it is given */
	h->daemon = fd < 0 ? NULL
			   : MHD_start_daemon(MHD_USE_POLL_INTERNAL_THREAD | MHD_USE_ERROR_LOG, 0,
				     NULL, NULL, on_request, h, MHD_OPTION_EXTERNAL_LOGGER, on_log,
				     NULL, MHD_OPTION_LISTEN_SOCKET, fd,
				     MHD_OPTION_CONNECTION_LIMIT, (unsigned)CONNECTIONS_MAX,
				     MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)IDLE_S,
				     MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)16384,
				     MHD_OPTION_END);
	if (!h->daemon) {
		log_error("metrics: no HTTP: %s: raise the limits of tasks and files",
			strerror(errno));
		if (fd >= 0)
			close(fd);
		free(h);
		return -EIO;
	}
	*ret_http = h;
	return 0;
}

void
kms_metrics_http_freep(struct kms_metrics_http **h)
{
	if (!*h)
		return;
	MHD_stop_daemon((*h)->daemon);
	free(*h);
	*h = NULL;
}
