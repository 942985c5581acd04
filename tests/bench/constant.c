/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The transport limit T: libmicrohttpd and GnuTLS as kekd uses them, and nothing behind them. It
 * reads wrap and unwrap requests as a whole and answers in kekd's sizes, with what a client needs
 * to be content: the "ciphertext" of a plaintext carries its base64 text, padded.
 *
 *   constant PORT CERTIFICATE KEY THREADS      ends when standard input does
 */
#include "../../src/http/daemon.h"

#include <arpa/inet.h>
#include <gnutls/gnutls.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define BODY_MAX 4096
#define TEXT_SIZE 44	    /* base64 of 32 bytes */
#define CIPHERTEXT_SIZE 112 /* base64 of header, IV, 32 bytes and tag */

struct call {
	char body[BODY_MAX + 1];
	size_t len;
	char reply[512];
};

static const char wrapped[] = "\",\"key\":\"demo\",\"version\":1,"
			      "\"version_id\":\"00000000-0000-4000-8000-000000000000\"}";

static const char *
find_text(struct call *call, const char *member)
{
	const char *at = memmem(call->body, call->len, member, strlen(member));

	if (!at || (size_t)(call->body + call->len - at) < strlen(member) + TEXT_SIZE)
		return NULL;
	return at + strlen(member);
}

/* 200 or 400; more than one item is not for this server. */
static unsigned
make_reply(struct call *call)
{
	const char *text = find_text(call, "\"plaintext\":\"");

	if (text) {
		char padding[CIPHERTEXT_SIZE - TEXT_SIZE + 1];
		memset(padding, 'A', sizeof(padding) - 1);
		padding[sizeof(padding) - 1] = '\0';
		snprintf(call->reply, sizeof(call->reply), "{\"ciphertext\":\"%.*s%s%s", TEXT_SIZE,
			text, padding, wrapped);
		return 200;
	}
	text = find_text(call, "\"ciphertext\":\"");
	snprintf(call->reply, sizeof(call->reply),
		"{\"plaintext\":\"%.*s\",\"version\":1,\"primary\":true}", TEXT_SIZE,
		text ? text : "");
	return text ? 200 : 400;
}

static enum MHD_Result
answer(struct MHD_Connection *connection, struct call *call)
{
	unsigned status = make_reply(call);
	struct MHD_Response *response = MHD_create_response_from_buffer(
		strlen(call->reply), call->reply, MHD_RESPMEM_PERSISTENT);
	enum MHD_Result result;

	MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, "application/json");
	MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
	MHD_add_response_header(response, "Kekd-Revision", "17");
	result = MHD_queue_response(connection, status, response);
	MHD_destroy_response(response);
	return result;
}

static enum MHD_Result
on_request(void *user, struct MHD_Connection *connection, const char *url, const char *method,
	const char *version, const char *upload, size_t *upload_size, void **context)
{
	struct call *call = *context;

	(void)user, (void)url, (void)method, (void)version;
	if (!call) {
		*context = calloc(1, sizeof(*call));
		return *context ? MHD_YES : MHD_NO;
	}
	if (*upload_size == 0)
		return answer(connection, call);
	if (*upload_size > BODY_MAX - call->len)
		return MHD_NO;
	memcpy(call->body + call->len, upload, *upload_size);
	call->len += *upload_size;
	*upload_size = 0;
	return MHD_YES;
}

static void
on_completed(void *user, struct MHD_Connection *connection, void **context,
	enum MHD_RequestTerminationCode code)
{
	(void)user, (void)connection, (void)code;
	free(*context);
	*context = NULL;
}

static void
on_connection(void *user, struct MHD_Connection *connection, void **context,
	enum MHD_ConnectionNotificationCode code)
{
	const union MHD_ConnectionInfo *info = MHD_get_connection_info(
		connection, MHD_CONNECTION_INFO_GNUTLS_SESSION);

	(void)user, (void)context;
	if (code == MHD_CONNECTION_NOTIFY_STARTED && info && info->tls_session)
		gnutls_certificate_server_set_request(info->tls_session, GNUTLS_CERT_REQUEST);
}

static char *
read_file(const char *path)
{
	FILE *f = fopen(path, "r");
	char *text = calloc(1, 65536);

	if (!f || !text || fread(text, 1, 65535, f) == 0) {
		perror(path);
		exit(1);
	}
	fclose(f);
	return text;
}

int
main(int argc, char **argv)
{
	struct sockaddr_in address = { .sin_family = AF_INET };
	struct MHD_Daemon *daemon;
	char byte;

	if (argc != 5) {
		fputs("constant PORT CERTIFICATE KEY THREADS\n", stderr);
		return 2;
	}
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	address.sin_port = htons((uint16_t)atoi(argv[1]));
	daemon = MHD_start_daemon(HTTP_DAEMON_FLAGS, 0, NULL, NULL, on_request, NULL,
		MHD_OPTION_SOCK_ADDR, &address, MHD_OPTION_THREAD_POOL_SIZE,
		(unsigned)atoi(argv[4]), MHD_OPTION_NOTIFY_CONNECTION, on_connection, NULL,
		MHD_OPTION_NOTIFY_COMPLETED, on_completed, NULL, MHD_OPTION_CONNECTION_TIMEOUT,
		(unsigned)HTTP_CONNECTION_IDLE_S, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
		(size_t)HTTP_CONNECTION_MEMORY, MHD_OPTION_HTTPS_PRIORITIES, HTTP_PRIORITIES,
		MHD_OPTION_HTTPS_MEM_CERT, read_file(argv[2]), MHD_OPTION_HTTPS_MEM_KEY,
		read_file(argv[3]), MHD_OPTION_END);
	if (!daemon) {
		fprintf(stderr, "port %s: the server could not be started\n", argv[1]);
		return 1;
	}
	puts("ready");
	fflush(stdout);
	while (read(STDIN_FILENO, &byte, 1) > 0)
		;
	MHD_stop_daemon(daemon);
	return 0;
}
