/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What etcd answers: the first byte says whether it is a call's answer or a stream's, and the HTTP
 * status; the rest is the body, sent by a server of the target's own. The client runs as it is, and
 * leadership learns what it reads. Whatever comes, a call ends once, and nothing is taken for a key
 * of this cluster that is none.
 */
#include "fuzz.h"

#include "../../src/cluster/leader_state.h"

#include "kekd/clock.h"
#include "kekd/err.h"
#include "kekd/json.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#define ANSWER_MAX 65536

static const int statuses[] = { 200, 200, 200, 400, 401, 404, 500, 503 };

static struct {
	int listener;
	char url[64];
	const uint8_t *body;
	size_t size;
	int status;
} server;

static struct etcd *etcd;
static struct leader leader = { .lock = PTHREAD_MUTEX_INITIALIZER,
	.wake = PTHREAD_COND_INITIALIZER };

/* All of a request, which is short. False: the client has gone. */
static bool
read_request(int fd)
{
	char text[4096] = "";
	size_t have = 0, want = 0;

	while (want == 0 || have < want) {
		ssize_t n = read(fd, text + have, sizeof(text) - 1 - have);
		const char *end, *length;
		if (n <= 0)
			return false;
		have += (size_t)n;
		text[have] = '\0';
		end = strstr(text, "\r\n\r\n");
		length = strstr(text, "Content-Length: ");
		if (end && length)
			want = (size_t)(end + 4 - text) + strtoul(length + 16, NULL, 10);
	}
	return true;
}

/* Copied before the first byte of it is sent: the client may have had enough by the second. */
static void
answer(int fd)
{
	static _Thread_local char text[ANSWER_MAX + 128];
	size_t size = server.size < ANSWER_MAX ? server.size : ANSWER_MAX;
	int n = snprintf(text, sizeof(text), "HTTP/1.1 %d x\r\nContent-Length: %zu\r\n\r\n",
		server.status, size);

	if (size)
		memcpy(text + n, server.body, size);
	(void)!send(fd, text, (size_t)n + size, MSG_NOSIGNAL);
}

static void *
serve_connection(void *user)
{
	int fd = (int)(intptr_t)user;

	while (read_request(fd))
		answer(fd);
	close(fd);
	return NULL;
}

/* A call's connection is kept while streams come and go. */
static void *
serve(void *user)
{
	(void)user;
	for (;;) {
		int fd = accept(server.listener, NULL, NULL);
		pthread_t thread;
		if (fd >= 0 &&
			pthread_create(&thread, NULL, serve_connection, (void *)(intptr_t)fd) == 0)
			pthread_detach(thread);
	}
	return NULL;
}

static void
open_server(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET };
	socklen_t len = sizeof(a);
	pthread_t thread;

	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	server.listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	require(bind(server.listener, (struct sockaddr *)&a, sizeof(a)) == 0);
	require(listen(server.listener, 64) == 0);
	require(getsockname(server.listener, (struct sockaddr *)&a, &len) == 0);
	snprintf(server.url, sizeof(server.url), "http://127.0.0.1:%u", ntohs(a.sin_port));
	require(pthread_create(&thread, NULL, serve, NULL) == 0);
}

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	static const char *endpoints[] = { server.url };
	static const struct etcd_settings settings = {
		.endpoints = endpoints, .endpoints_count = 1, .cluster = "test", .timeout_ms = 5000
	};

	(void)argc, (void)argv;
	fuzz_quiet();
	json_open();
	require(etcd_global_open() == 0);
	open_server();
	require(etcd_open(&settings, &etcd) == 0);
	return 0;
}

static void
look_at_record(const json_t *kv)
{
	char *path = etcd_path(etcd, json_object_get(kv, "key"));
	size_t len = 0;
	char *value = etcd_bytes(json_object_get(kv, "value"), &len);

	if (path) {
		size_t key_len;
		char *key = etcd_bytes(json_object_get(kv, "key"), &key_len);
		require(strncmp(key, "/kekd/test/", 11) == 0 && strcmp(key + 11, path) == 0);
		require(strlen(key) == key_len && path[0]);
		free(key);
	}
	if (value)
		require(value[len] == '\0');
	leader_learn(&leader, kv, etcd_u64(kv, "mod_revision"), clock_boot_ns());
	require(strlen(leader.status.leader_node) < sizeof(leader.status.leader_node));
	require(!leader.status.active); /* its own lease is none that etcd could name */
	free(path);
	free(value);
}

static int
on_message(const json_t *message, void *user)
{
	unsigned *count = user;
	const json_t *event;
	size_t i;

	json_array_foreach(json_object_get(json_object_get(message, "result"), "events"), i, event)
		look_at_record(json_object_get(event, "kv"));
	return ++*count > 100 ? 1 : 0;
}

static void
call(const json_t *body)
{
	json_t *reply = NULL;
	const json_t *kv;
	int err = etcd_call(etcd, "kv/range", body, true, &reply, NULL);
	size_t i;

	require((err == 0) == (reply != NULL));
	require(err == 0 || err == KEKD_ESTORE || err == KEKD_ECOMPACTED || err == -ENOENT);
	require(err == 0 || etcd_error(etcd)[0]);
	json_array_foreach(json_object_get(reply, "kvs"), i, kv)
		look_at_record(kv);
	json_decref(reply);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const atomic_bool never = false;
	struct fuzz_input in = { data, size };
	uint8_t kind = fuzz_byte(&in);
	json_t *body = json_object();
	unsigned count = 0;

	server.status = statuses[kind >> 1 & 7];
	server.body = in.p;
	server.size = in.left;
	if (kind & 1)
		require(etcd_stream(etcd, "watch", body, 1000, &never, on_message, &count) != 0);
	else
		call(body);
	json_decref(body);
	return 0;
}
