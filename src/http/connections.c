/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The open connections: how long each may take for what it does, and who has to go when there are
 * too many. libmicrohttpd counts only silence, so that a byte now and then would hold a connection
 * for ever; and all that it can do about many is to accept no more.
 *
 * A connection is ended by shutdown() alone: its own thread finds it ended, and closes it. The lock
 * is held when one comes, goes or is looked at; what a connection does next is stored without it.
 */
#include "call.h"

#include "kekd/clock.h"
#include "kekd/log.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#define LOOK_NS (CLOCK_S / 2)
#define ADDRESSES 1024
#define STRANGERS_PART 4 /* strangers may have one in so many */
#define DRAINS_MAX 64
#define DRAIN_NS (5 * CLOCK_S)
#define DRAIN_BYTES ((size_t)32 << 20)
#define DRAIN_POLL_MS 100

/* In seconds, from the first moment to the last, whatever is sent meanwhile. */
static const unsigned patience[] = {
	[PEER_HANDSHAKE] = 10, /* accepted, TLS not agreed on */
	[PEER_IDLE] = 120,     /* no whole request line yet */
	[PEER_HEADERS] = 10,
	[PEER_BODY] = 30,
	[PEER_WORKING] = 0, /* its turn is ours: the token's deadline bounds it */
	[PEER_REPLY] = 30,
};

/* A socket whose answer is sent while its request is not read: closing it now would take the answer
 * from a client that still sends. */
struct drain {
	int fd;
	size_t bytes;
	uint64_t end_ns;
};

struct connections {
	pthread_mutex_t lock;
	pthread_cond_t wake;
	pthread_t thread;
	bool stop;
	struct peer *oldest, *newest;
	size_t count, max;
	struct drain drains[DRAINS_MAX];
	size_t drains_count;
};

void
peer_enter(struct peer *p, enum peer_phase phase)
{
	uint64_t seconds = patience[phase];

	atomic_store(&p->phase, phase);
	atomic_store(&p->deadline_ns, seconds ? clock_boot_ns() + seconds * CLOCK_S : UINT64_MAX);
}

/* ---- too many ---- */

static void
end(struct peer *p)
{
	p->ended = true;
	shutdown(p->fd, SHUT_RDWR);
}

static bool
is_stranger(const struct peer *p)
{
	return !p->ended && !atomic_load(&p->known);
}

/* Ports do not count; of IPv6 the /64, which one host may have whole. */
static unsigned
address_hash(const struct peer *p)
{
	const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&p->sockaddr;
	const struct sockaddr_in *in = (const struct sockaddr_in *)&p->sockaddr;
	bool six = p->sockaddr.ss_family == AF_INET6;
	const uint8_t *b = six ? in6->sin6_addr.s6_addr : (const uint8_t *)&in->sin_addr;
	unsigned h = 2166136261u;

	for (size_t i = 0; i < (six ? 8 : 4); i++)
		h = (h ^ b[i]) * 16777619u;
	return (h ^ h >> 16) % ADDRESSES;
}

/* The longest there of those from the address that has most of them: whoever holds connections
 * crowds out himself, and a client needs but a moment to become known. */
static struct peer *
stranger_to_end(const struct connections *c)
{
	unsigned per_address[ADDRESSES] = { 0 }, most = 0;
	size_t strangers = 0;

	for (const struct peer *p = c->oldest; p; p = p->newer) {
		unsigned *n = &per_address[address_hash(p)];
		if (!is_stranger(p))
			continue;
		strangers++;
		if (++*n > most)
			most = *n;
	}
	if (strangers <= c->max / STRANGERS_PART)
		return NULL;
	for (struct peer *p = c->oldest; p; p = p->newer)
		if (is_stranger(p) && per_address[address_hash(p)] == most)
			return p;
	return NULL;
}

/* The one that has been idle longest; HTTP clients expect that an idle connection is closed. */
static struct peer *
idle_to_end(const struct connections *c)
{
	struct peer *found = NULL;
	uint64_t first = UINT64_MAX;

	for (struct peer *p = c->oldest; p; p = p->newer) {
		if (p->ended || atomic_load(&p->phase) != PEER_IDLE ||
			atomic_load(&p->deadline_ns) >= first)
			continue;
		first = atomic_load(&p->deadline_ns);
		found = p;
	}
	return found;
}

static void
make_room(struct connections *c, struct peer *newcomer)
{
	struct peer *p = NULL;

	if (c->count > c->max / STRANGERS_PART)
		p = stranger_to_end(c);
	if (!p && c->count > c->max) {
		p = idle_to_end(c);
		if (!p)
			p = newcomer;
	}
	if (p) {
		metrics_add(&p->http->ended[HTTP_ENDED_CROWDED], 1);
		end(p);
	}
}

void
connections_add(struct connections *c, struct peer *p)
{
	peer_enter(p, PEER_HANDSHAKE);
	pthread_mutex_lock(&c->lock);
	p->older = c->newest;
	*(c->newest ? &c->newest->newer : &c->oldest) = p;
	c->newest = p;
	c->count++;
	make_room(c, p);
	pthread_mutex_unlock(&c->lock);
}

static void
drain_later(struct connections *c, int fd)
{
	int copy = c->drains_count < DRAINS_MAX ? fcntl(fd, F_DUPFD_CLOEXEC, 0) : -1;

	if (copy < 0)
		return;
	c->drains[c->drains_count++] = (struct drain){ copy, 0, clock_boot_ns() + DRAIN_NS };
	pthread_cond_signal(&c->wake);
}

void
connections_remove(struct connections *c, struct peer *p)
{
	pthread_mutex_lock(&c->lock);
	*(p->older ? &p->older->newer : &c->oldest) = p->newer;
	*(p->newer ? &p->newer->older : &c->newest) = p->older;
	c->count--;
	if (p->unread && !p->ended)
		drain_later(c, p->fd);
	pthread_mutex_unlock(&c->lock);
}

/* ---- the thread ---- */

static void
end_overdue(struct connections *c, uint64_t now)
{
	for (struct peer *p = c->oldest; p; p = p->newer)
		if (!p->ended && atomic_load(&p->deadline_ns) <= now) {
			bool idle = atomic_load(&p->phase) == PEER_IDLE;
			metrics_add(&p->http->ended[idle ? HTTP_ENDED_IDLE : HTTP_ENDED_SLOW], 1);
			end(p);
		}
}

/* False: it is done with. */
static bool
drain_some(struct drain *d, uint64_t now)
{
	uint8_t nowhere[65536];
	ssize_t n;

	while ((n = recv(d->fd, nowhere, sizeof(nowhere), MSG_DONTWAIT)) > 0) {
		d->bytes += (size_t)n;
		if (d->bytes > DRAIN_BYTES)
			return false;
	}
	return n < 0 && (errno == EAGAIN || errno == EINTR) && now < d->end_ns;
}

static void
drain_all(struct connections *c, uint64_t now)
{
	size_t kept = 0;

	for (size_t i = 0; i < c->drains_count; i++)
		if (drain_some(&c->drains[i], now))
			c->drains[kept++] = c->drains[i];
		else
			close(c->drains[i].fd);
	c->drains_count = kept;
}

/* Under the lock, which is not held while it waits. */
static void
wait_for_work(struct connections *c)
{
	struct pollfd fds[DRAINS_MAX];
	size_t count = c->drains_count;
	uint64_t until = clock_monotonic_ns() + LOOK_NS;
	struct timespec ts = { (time_t)(until / CLOCK_S), (long)(until % CLOCK_S) };

	if (count == 0) {
		pthread_cond_timedwait(&c->wake, &c->lock, &ts);
		return;
	}
	for (size_t i = 0; i < count; i++)
		fds[i] = (struct pollfd){ c->drains[i].fd, POLLIN, 0 };
	pthread_mutex_unlock(&c->lock);
	poll(fds, count, DRAIN_POLL_MS);
	pthread_mutex_lock(&c->lock);
}

static void *
run(void *user)
{
	struct connections *c = user;
	sigset_t all;

	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, NULL);
	pthread_mutex_lock(&c->lock);
	while (!c->stop) {
		uint64_t now = clock_boot_ns();
		end_overdue(c, now);
		drain_all(c, now);
		if (!c->stop)
			wait_for_work(c);
	}
	pthread_mutex_unlock(&c->lock);
	return NULL;
}

int
connections_open(size_t max, struct connections **ret_connections)
{
	struct connections *c = calloc(1, sizeof(*c));
	pthread_condattr_t attributes;
	int err;

	if (!c)
		return -ENOMEM;
	c->max = max;
	pthread_mutex_init(&c->lock, NULL);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&c->wake, &attributes);
	pthread_condattr_destroy(&attributes);
	err = -pthread_create(&c->thread, NULL, run, c);
	if (err) {
		free(c);
		return err;
	}
	*ret_connections = c;
	return 0;
}

void
connections_freep(struct connections **connections)
{
	struct connections *c = *connections;

	if (!c)
		return;
	*connections = NULL;
	pthread_mutex_lock(&c->lock);
	c->stop = true;
	pthread_cond_signal(&c->wake);
	pthread_mutex_unlock(&c->lock);
	pthread_join(c->thread, NULL);
	for (size_t i = 0; i < c->drains_count; i++)
		close(c->drains[i].fd);
	pthread_cond_destroy(&c->wake);
	pthread_mutex_destroy(&c->lock);
	free(c);
}
