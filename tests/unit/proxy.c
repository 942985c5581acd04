/* SPDX-License-Identifier: Apache-2.0 */
/* The proxy: one thread, poll, and a look at what passes, which is HTTP in the clear. */
#include "proxy.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h needs those above it. */
#include <cmocka.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define PAIRS_MAX 64
#define SEEN_MAX 8

struct pair {
	int client, server; /* -1: free */
	bool watch, frozen, lose;
};

struct proxy {
	int listener;
	unsigned to_port;
	char url[64];
	pthread_t thread;
	atomic_bool stop, cut, hang, lose, freeze;
	struct pair pairs[PAIRS_MAX];
	struct {
		const char *path;
		atomic_uint count;
	} seen[SEEN_MAX];
};

static const char *const paths[] = { "/v3/kv/txn", "/v3/kv/range", "/v3/watch",
	"/v3/kv/compaction" };

static void
end_pair(struct pair *p)
{
	if (p->client >= 0)
		close(p->client);
	if (p->server >= 0)
		close(p->server);
	*p = (struct pair){ .client = -1, .server = -1 };
}

static void
accept_one(struct proxy *p)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t)p->to_port) };
	int client = accept4(p->listener, NULL, NULL, SOCK_CLOEXEC), server;

	if (client < 0)
		return;
	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (!p->cut && connect(server, (struct sockaddr *)&a, sizeof(a)) == 0)
		for (size_t i = 0; i < PAIRS_MAX; i++)
			if (p->pairs[i].client < 0) {
				p->pairs[i] = (struct pair){ .client = client, .server = server };
				return;
			}
	close(server);
	close(client);
}

static void
look_at(struct proxy *p, struct pair *pair, const char *data, size_t len)
{
	for (size_t i = 0; i < SEEN_MAX && p->seen[i].path; i++)
		if (memmem(data, len, p->seen[i].path, strlen(p->seen[i].path)))
			atomic_fetch_add(&p->seen[i].count, 1);
	if (memmem(data, len, "/v3/watch", 9))
		pair->watch = true;
	if (memmem(data, len, "\"requestPut\"", 12) && atomic_exchange(&p->lose, false))
		pair->lose = true;
}

static void
forward(struct proxy *p, struct pair *pair, bool from_client)
{
	static char data[256 * 1024];
	ssize_t n = recv(from_client ? pair->client : pair->server, data, sizeof(data), 0);

	if (n <= 0) {
		end_pair(pair);
		return;
	}
	if (from_client)
		look_at(p, pair, data, (size_t)n);
	else if (pair->frozen)
		return;
	else if (pair->lose) {
		end_pair(pair);
		return;
	}
	for (ssize_t at = 0; at < n;) {
		ssize_t sent = send(from_client ? pair->server : pair->client, data + at,
			(size_t)(n - at), MSG_NOSIGNAL);
		if (sent <= 0) {
			end_pair(pair);
			return;
		}
		at += sent;
	}
}

static void
obey(struct proxy *p)
{
	bool freeze = atomic_exchange(&p->freeze, false);

	for (size_t i = 0; i < PAIRS_MAX; i++) {
		if (freeze && p->pairs[i].watch)
			p->pairs[i].frozen = true;
		if (p->cut && p->pairs[i].client >= 0)
			end_pair(&p->pairs[i]);
	}
}

static void *
run(void *arg)
{
	struct proxy *p = arg;

	while (!p->stop) {
		struct pollfd fds[1 + 2 * PAIRS_MAX];
		fds[0] = (struct pollfd){ .fd = p->hang ? -1 : p->listener, .events = POLLIN };
		for (size_t i = 0; i < PAIRS_MAX; i++) {
			fds[1 + 2 * i] = (struct pollfd){ p->hang ? -1 : p->pairs[i].client, POLLIN,
				0 };
			fds[2 + 2 * i] = (struct pollfd){ p->hang ? -1 : p->pairs[i].server, POLLIN,
				0 };
		}
		poll(fds, 1 + 2 * PAIRS_MAX, 10);
		obey(p);
		for (size_t i = 0; i < PAIRS_MAX; i++) {
			if (fds[1 + 2 * i].revents && p->pairs[i].client == fds[1 + 2 * i].fd)
				forward(p, &p->pairs[i], true);
			if (fds[2 + 2 * i].revents && p->pairs[i].server == fds[2 + 2 * i].fd)
				forward(p, &p->pairs[i], false);
		}
		if (fds[0].revents)
			accept_one(p);
	}
	return NULL;
}

struct proxy *
proxy_start(unsigned to_port)
{
	struct sockaddr_in a = { .sin_family = AF_INET };
	struct proxy *p = calloc(1, sizeof(*p));
	socklen_t len = sizeof(a);

	assert_non_null(p);
	for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++)
		p->seen[i].path = paths[i];
	for (size_t i = 0; i < PAIRS_MAX; i++)
		p->pairs[i].client = p->pairs[i].server = -1;
	p->to_port = to_port;
	p->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	assert_int_equal(bind(p->listener, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(p->listener, 64), 0);
	assert_int_equal(getsockname(p->listener, (struct sockaddr *)&a, &len), 0);
	snprintf(p->url, sizeof(p->url), "http://127.0.0.1:%u", ntohs(a.sin_port));
	assert_int_equal(pthread_create(&p->thread, NULL, run, p), 0);
	return p;
}

void
proxy_stop(struct proxy **proxy)
{
	struct proxy *p = *proxy;

	if (!p)
		return;
	p->stop = true;
	pthread_join(p->thread, NULL);
	for (size_t i = 0; i < PAIRS_MAX; i++)
		end_pair(&p->pairs[i]);
	close(p->listener);
	free(p);
	*proxy = NULL;
}

const char *
proxy_url(const struct proxy *p)
{
	return p->url;
}

void
proxy_freeze_watches(struct proxy *p)
{
	p->freeze = true;
	while (p->freeze)
		usleep(1000);
}

void
proxy_lose_answer(struct proxy *p)
{
	p->lose = true;
}

void
proxy_cut(struct proxy *p, _Bool cut)
{
	p->cut = cut;
	usleep(30000);
}

void
proxy_hang(struct proxy *p, _Bool hang)
{
	p->hang = hang;
	usleep(30000);
}

unsigned
proxy_count(const struct proxy *p, const char *path)
{
	for (size_t i = 0; i < SEEN_MAX && p->seen[i].path; i++)
		if (strcmp(p->seen[i].path, path) == 0)
			return atomic_load(&p->seen[i].count);
	return 0;
}
