/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The load itself: one thread, its connections, one epoll. Written on OpenSSL and not on libcurl,
 * because the load shares its cores with the server that is measured: a request costs one write,
 * one read, and no allocation.
 *
 * A connection sends one request at a time. In a closed loop the next one follows the answer; at a
 * fixed rate requests have a time at which they are due, wait for a free connection if there is
 * none, and their latency counts from when they were due.
 */
#include "bench.h"

#include "kekd/clock.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define EVENTS 64
#define TICK_NS (20 * CLOCK_MS)
#define HANDSHAKES_MAX 16 /* at once: a server's backlog is not what is measured */
#define BACKOFF_MIN_NS (10 * CLOCK_MS)
#define BACKOFF_MAX_NS CLOCK_S
#define DRAIN_NS (2 * CLOCK_S) /* in addition to the time that a request has */
#define IN_FIRST 16384
#define IN_MAX (16u * 1024 * 1024 + 16384)

enum state { DOWN, CONNECTING, HANDSHAKE, IDLE, SENDING, RECEIVING };

struct connection {
	enum state state;
	int fd;
	SSL *ssl;
	uint32_t events; /* what epoll was asked for */
	size_t endpoint;
	const struct addrinfo *address;	    /* the next to be tried of the endpoint's */
	uint64_t retry_ns, backoff_ns;	    /* DOWN: not before; the next pause */
	uint64_t due_ns, sent_ns, limit_ns; /* of the request, or of the handshake */
	enum bench_op op;
	const struct bench_body *body; /* whose plaintexts an unwrap has to give back */
	struct buf out;
	size_t out_done;
	char *in;
	size_t in_len, in_cap;
	struct bench_reply reply;
	struct buf fresh; /* unwraps what this connection wrapped last; empty: nothing */
	const struct bench_body *fresh_of;
	struct connection *next_idle;
};

struct load {
	struct bench_worker *worker;
	const struct bench_plan *plan;
	struct bench_tally *tally;
	int epoll;
	struct connection *connections;
	size_t handshakes, busy;
	struct connection *idle_first, *idle_last; /* the one that waits longest is next */
	struct addrinfo *addresses[BENCH_ENDPOINTS_MAX];
	uint64_t seed, next_due_ns, interval_ns;
	double cpu_before_s;
	bool started, draining, counted;
};

static void
raise_by(_Atomic uint64_t *counter, uint64_t n)
{
	atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n,
		memory_order_relaxed);
}

static uint64_t
random_next(struct load *l)
{
	l->seed ^= l->seed << 13;
	l->seed ^= l->seed >> 7;
	l->seed ^= l->seed << 17;
	return l->seed;
}

/* Does what was due then belong to the measurement? */
static bool
is_measured(const struct load *l, uint64_t due_ns)
{
	return l->started && due_ns >= l->worker->clock->measure_ns &&
	       due_ns < atomic_load(&l->worker->clock->end_ns);
}

static void
count_outside(struct load *l, const struct connection *c)
{
	if (c->due_ns < l->worker->clock->measure_ns)
		raise_by(&l->tally->warmup, 1);
	else if (c->due_ns >= atomic_load(&l->worker->clock->end_ns))
		raise_by(&l->tally->after, 1);
}

/* In a closed loop the next request follows at once, until the end. */
static bool
goes_on(const struct load *l, uint64_t now)
{
	return l->started && !l->draining && l->plan->rate == 0 &&
	       now < atomic_load(&l->worker->clock->end_ns);
}

/* ---- connections that are free ---- */

static void
idle_push(struct load *l, struct connection *c)
{
	c->state = IDLE;
	c->next_idle = NULL;
	if (l->idle_last)
		l->idle_last->next_idle = c;
	else
		l->idle_first = c;
	l->idle_last = c;
}

static struct connection *
idle_pop(struct load *l)
{
	struct connection *c = l->idle_first;

	if (!c)
		return NULL;
	l->idle_first = c->next_idle;
	if (!l->idle_first)
		l->idle_last = NULL;
	return c;
}

static void
idle_remove(struct load *l, struct connection *c)
{
	struct connection **at = &l->idle_first, *before = NULL;

	while (*at && *at != c) {
		before = *at;
		at = &(*at)->next_idle;
	}
	if (!*at)
		return;
	*at = c->next_idle;
	if (l->idle_last == c)
		l->idle_last = before;
}

/* ---- up and down ---- */

static void
watch(struct load *l, struct connection *c, uint32_t events)
{
	struct epoll_event e = { .events = events, .data.ptr = c };

	if (events == c->events)
		return;
	epoll_ctl(l->epoll, c->events ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, c->fd, &e);
	c->events = events;
}

static void
drop(struct load *l, struct connection *c)
{
	if (c->state == IDLE)
		idle_remove(l, c);
	if (c->state == CONNECTING || c->state == HANDSHAKE)
		l->handshakes--;
	else if (c->state != DOWN)
		atomic_fetch_sub(&l->worker->clock->connected, 1);
	if (c->state == SENDING || c->state == RECEIVING)
		l->busy--;
	SSL_free(c->ssl);
	if (c->fd >= 0)
		close(c->fd);
	c->ssl = NULL;
	c->fd = -1;
	c->events = 0;
	c->in_len = 0;
	c->state = DOWN;
}

static void
explain(struct load *l, const char *what, const char *why)
{
	snprintf(l->worker->error, sizeof(l->worker->error), "%s: %s", what, why);
}

/* The connection failed, and with it the request that was under way. */
static void
fail(struct load *l, struct connection *c, enum bench_error error)
{
	bool asked = c->state == SENDING || c->state == RECEIVING;
	bool refused = error == BENCH_CONNECT && c->address;
	bool counts = asked ? is_measured(l, c->due_ns) : is_measured(l, clock_monotonic_ns());

	if (counts || (!l->started && !asked))
		raise_by(&l->tally->errors[error], 1);
	if (asked)
		count_outside(l, c);
	drop(l, c);
	c->address = refused ? c->address->ai_next : NULL;
	c->retry_ns = clock_monotonic_ns() + c->backoff_ns;
	c->backoff_ns = 2 * c->backoff_ns < BACKOFF_MAX_NS ? 2 * c->backoff_ns : BACKOFF_MAX_NS;
}

static int
name_peer(SSL *ssl, const char *host)
{
	uint8_t address[sizeof(struct in6_addr)];

	if (inet_pton(AF_INET, host, address) == 1 || inet_pton(AF_INET6, host, address) == 1)
		return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), host);
	return SSL_set_tlsext_host_name(ssl, host) == 1 && SSL_set1_host(ssl, host) == 1;
}

static void
bring_up(struct load *l, struct connection *c, uint64_t now)
{
	const struct addrinfo *a = c->address ? c->address : l->addresses[c->endpoint];
	int one = 1;

	c->state = CONNECTING;
	c->address = a;
	c->limit_ns = now + l->plan->timeout_ns;
	l->handshakes++;
	c->fd = socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	c->ssl = SSL_new(l->plan->tls);
	if (c->fd < 0 || !c->ssl || SSL_set_fd(c->ssl, c->fd) != 1 ||
		!name_peer(c->ssl, l->plan->endpoints[c->endpoint].host)) {
		explain(l, "cannot make a connection", strerror(errno));
		fail(l, c, BENCH_CONNECT);
		return;
	}
	setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (connect(c->fd, a->ai_addr, a->ai_addrlen) < 0 && errno != EINPROGRESS) {
		explain(l, "cannot connect", strerror(errno));
		fail(l, c, BENCH_CONNECT);
		return;
	}
	watch(l, c, EPOLLOUT);
}

/* ---- one request ---- */

static void
choose(struct load *l, struct connection *c)
{
	uint64_t n = random_next(l) % l->plan->weights_sum;

	c->op = BENCH_WRAP;
	while (n >= l->plan->weights[c->op])
		n -= l->plan->weights[c->op++];
	c->body = &l->plan->bodies[c->op][random_next(l) % l->plan->bodies_count];
}

static void
put_request(struct load *l, struct connection *c)
{
	const struct bench_endpoint *e = &l->plan->endpoints[c->endpoint];
	bool fresh = c->op == BENCH_UNWRAP && c->fresh.len > 0;
	const void *text = fresh ? (void *)c->fresh.data : c->body->text;
	size_t len = fresh ? c->fresh.len : c->body->len;
	char number[32];

	c->out.len = 0; /* not wiped: these are random bytes */
	buf_str(&c->out, e->head[c->op]);
	snprintf(number, sizeof(number), "%zu\r\n\r\n", len);
	buf_str(&c->out, number);
	buf_put(&c->out, text, len);
	if (fresh) {
		c->body = c->fresh_of;
		c->fresh.len = 0;
	}
}

static void flush(struct load *l, struct connection *c);

static void
send_request(struct load *l, struct connection *c, uint64_t due_ns, uint64_t now)
{
	choose(l, c);
	put_request(l, c);
	c->state = SENDING;
	c->due_ns = due_ns;
	c->sent_ns = now;
	c->limit_ns = now + l->plan->timeout_ns;
	c->out_done = 0;
	c->in_len = 0;
	c->reply = (struct bench_reply){ 0 };
	l->busy++;
	flush(l, c);
}

/* What goes wrong with a connection; true: it is only to be waited for. */
static bool
wants(struct load *l, struct connection *c, int result)
{
	switch (SSL_get_error(c->ssl, result)) {
	case SSL_ERROR_WANT_READ:
		watch(l, c, EPOLLIN);
		return true;
	case SSL_ERROR_WANT_WRITE:
		watch(l, c, EPOLLIN | EPOLLOUT);
		return true;
	default:
		return false;
	}
}

static enum bench_error
error_of(struct load *l, struct connection *c)
{
	unsigned long code = ERR_peek_last_error();
	long verify = SSL_get_verify_result(c->ssl);

	if (verify != X509_V_OK)
		explain(l, "the server's certificate is not accepted",
			X509_verify_cert_error_string(verify));
	else if (code != 0 && ERR_GET_LIB(code) == ERR_LIB_SSL &&
		 ERR_GET_REASON(code) != SSL_R_UNEXPECTED_EOF_WHILE_READING)
		explain(l, "TLS", ERR_reason_error_string(code));
	else {
		explain(l, "the connection was closed", errno ? strerror(errno) : "by the server");
		ERR_clear_error();
		return BENCH_CLOSED;
	}
	ERR_clear_error();
	return BENCH_TLS;
}

static void
flush(struct load *l, struct connection *c)
{
	while (c->out_done < c->out.len) {
		int n = SSL_write(
			c->ssl, c->out.data + c->out_done, (int)(c->out.len - c->out_done));
		if (n <= 0 && wants(l, c, n))
			return;
		if (n <= 0) {
			fail(l, c, error_of(l, c));
			return;
		}
		c->out_done += (size_t)n;
	}
	c->state = RECEIVING;
	watch(l, c, EPOLLIN);
}

/* ---- its answer ---- */

static void
keep_fresh(struct load *l, struct connection *c, const char *body)
{
	if (l->plan->weights[BENCH_UNWRAP] == 0 || (c->op != BENCH_WRAP && c->op != BENCH_REWRAP))
		return;
	c->fresh.len = 0;
	c->fresh_of = c->body;
	if (!bench_put_unwrap(
		    &c->fresh, l->plan->batch, l->plan->batch > 1, body, c->reply.body_len)) {
		c->fresh.len = 0;
		c->fresh.bad = false;
	}
}

/* A wrong answer is counted whenever it comes; all else only when it belongs to the measurement. */
static void
take_good(struct load *l, struct connection *c, const char *body, bool measured, uint64_t now)
{
	struct bench_verdict v;

	bench_judge(c->op, c->body, l->plan->batch, body, c->reply.body_len, &v);
	if (v.wrong)
		raise_by(&l->tally->ops[c->op].wrong, 1);
	else if (v.items == l->plan->batch)
		keep_fresh(l, c, body);
	if (!measured || v.wrong)
		return;
	raise_by(&l->tally->ops[c->op].good, 1);
	raise_by(&l->tally->ops[c->op].items, v.items);
	raise_by(&l->tally->ops[c->op].items_failed, v.items_failed);
	if (v.items_failed > 0)
		bench_tally_answer(l->tally, c->reply.status, v.code, v.items_failed);
	histogram_add(&l->tally->ops[c->op].latency, now - c->due_ns, 1);
}

static void
take_other(struct load *l, struct connection *c, const char *body, bool measured)
{
	bool refused = c->reply.status == 429 || c->reply.status == 503;
	char code[48];

	if (!measured)
		return;
	raise_by(refused ? &l->tally->ops[c->op].refused : &l->tally->ops[c->op].failed, 1);
	bench_problem_code(body, c->reply.body_len, code);
	bench_tally_answer(l->tally, c->reply.status, code, 1);
}

static void
take_answer(struct load *l, struct connection *c)
{
	uint64_t now = clock_monotonic_ns();
	const char *body = c->in + c->reply.head_len;
	bool measured = is_measured(l, c->due_ns);

	count_outside(l, c);
	if (c->reply.status >= 200 && c->reply.status <= 299)
		take_good(l, c, body, measured, now);
	else
		take_other(l, c, body, measured);
	c->in_len = 0;
	if (c->reply.last) {
		drop(l, c);
		c->retry_ns = now;
		return;
	}
	l->busy--;
	if (goes_on(l, now))
		send_request(l, c, now, now);
	else
		idle_push(l, c);
}

static bool
make_room(struct connection *c)
{
	size_t cap = c->in_cap ? 2 * c->in_cap : IN_FIRST;
	char *longer;

	if (c->in_len < c->in_cap)
		return true;
	longer = cap <= IN_MAX ? realloc(c->in, cap) : NULL;
	if (!longer)
		return false;
	c->in = longer;
	c->in_cap = cap;
	return true;
}

static void
receive(struct load *l, struct connection *c)
{
	for (;;) {
		int n, whole;

		if (!make_room(c)) {
			fail(l, c, BENCH_PROTOCOL);
			return;
		}
		errno = 0;
		n = SSL_read(c->ssl, c->in + c->in_len, (int)(c->in_cap - c->in_len));
		if (n <= 0 && wants(l, c, n))
			return;
		if (n <= 0) {
			fail(l, c, error_of(l, c));
			return;
		}
		c->in_len += (size_t)n;
		whole = c->state == RECEIVING ? bench_reply_parse(c->in, c->in_len, &c->reply)
					      : -EPROTO;
		if (whole < 0) {
			explain(l, "the answer is not HTTP/1.1 as kekd speaks it",
				"is it kekd that listens there?");
			fail(l, c, BENCH_PROTOCOL);
			return;
		}
		if (whole > 0) {
			take_answer(l, c);
			return;
		}
	}
}

/* ---- events ---- */

static void
shake_hands(struct load *l, struct connection *c)
{
	uint64_t now;
	int n;

	errno = 0;
	n = SSL_connect(c->ssl);
	if (n != 1 && wants(l, c, n))
		return;
	if (n != 1) {
		enum bench_error error = error_of(l, c);
		fail(l, c, error == BENCH_CLOSED ? BENCH_CLOSED : BENCH_TLS);
		return;
	}
	l->handshakes--;
	c->backoff_ns = BACKOFF_MIN_NS;
	raise_by(&l->tally->connections_made, 1);
	atomic_fetch_add(&l->worker->clock->connected, 1);
	watch(l, c, EPOLLIN);
	now = clock_monotonic_ns();
	if (goes_on(l, now))
		send_request(l, c, now, now);
	else
		idle_push(l, c);
}

static void
on_connected(struct load *l, struct connection *c)
{
	int error = 0;
	socklen_t len = sizeof(error);

	if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0 || error != 0) {
		explain(l, "cannot connect", strerror(error));
		fail(l, c, BENCH_CONNECT);
		return;
	}
	c->state = HANDSHAKE;
	shake_hands(l, c);
}

static void
on_event(struct load *l, struct connection *c)
{
	switch (c->state) {
	case CONNECTING:
		on_connected(l, c);
		break;
	case HANDSHAKE:
		shake_hands(l, c);
		break;
	case SENDING:
		flush(l, c);
		break;
	case IDLE: /* a session ticket, or the end */
	case RECEIVING:
		receive(l, c);
		break;
	case DOWN:
		break;
	}
}

static void
tick(struct load *l, uint64_t now)
{
	for (size_t i = 0; i < l->worker->connections; i++) {
		struct connection *c = &l->connections[i];
		if (c->state == DOWN) {
			if (!l->draining && now >= c->retry_ns && l->handshakes < HANDSHAKES_MAX)
				bring_up(l, c, now);
		} else if (c->state != IDLE && now >= c->limit_ns) {
			explain(l, "no answer in time", "raise --timeout, or load less");
			fail(l, c, BENCH_TIMEOUT);
		}
	}
}

/* ---- the loop ---- */

static double
cpu_s(void)
{
	struct rusage u;

	if (getrusage(RUSAGE_THREAD, &u) < 0)
		return 0;
	return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
	       (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static void
begin(struct load *l)
{
	const struct bench_worker *w = l->worker;
	struct connection *c;

	l->started = true;
	l->cpu_before_s = cpu_s();
	if (l->plan->rate > 0) {
		l->interval_ns = (uint64_t)(1e9 * l->plan->threads / l->plan->rate);
		l->next_due_ns = w->clock->begin_ns + l->interval_ns * w->number / l->plan->threads;
		return;
	}
	while ((c = idle_pop(l)) != NULL) {
		uint64_t now = clock_monotonic_ns();
		send_request(l, c, now, now);
	}
}

/* What is due by now goes out as long as a connection is free. */
static void
send_due(struct load *l)
{
	uint64_t now = clock_monotonic_ns();
	uint64_t end = atomic_load(&l->worker->clock->end_ns);
	struct connection *c;

	while (l->next_due_ns <= now && l->next_due_ns < end && (c = idle_pop(l)) != NULL) {
		send_request(l, c, l->next_due_ns, now);
		l->next_due_ns += l->interval_ns;
	}
}

/* At the end: how many were due, and found no free connection. */
static void
count_unsent(struct load *l)
{
	uint64_t end = atomic_load(&l->worker->clock->end_ns);
	uint64_t first = l->next_due_ns;

	if (l->plan->rate == 0 || l->counted)
		return;
	l->counted = true;
	if (first < l->worker->clock->measure_ns)
		first = l->worker->clock->measure_ns;
	if (first < end)
		raise_by(&l->tally->unsent, (end - first + l->interval_ns - 1) / l->interval_ns);
}

static int
wait_events(struct load *l, struct epoll_event *events, uint64_t now, uint64_t tick_at)
{
	uint64_t until = tick_at;
	struct timespec t;
	int n;

	if (l->started && !l->draining && l->plan->rate > 0 && l->idle_first &&
		l->next_due_ns < until)
		until = l->next_due_ns;
	until = until > now ? until - now : 0;
	t = (struct timespec){ (time_t)(until / CLOCK_S), (long)(until % CLOCK_S) };
	n = epoll_pwait2(l->epoll, events, EVENTS, &t, NULL);
	if (n < 0 && errno == ENOSYS) /* before Linux 5.11 */
		n = epoll_wait(l->epoll, events, EVENTS, (int)(until / CLOCK_MS));
	return n;
}

static void
loop(struct load *l)
{
	const struct bench_clock *clock = l->worker->clock;
	struct epoll_event events[EVENTS];
	uint64_t tick_at = 0, now = clock_monotonic_ns(), end = UINT64_MAX;

	while (!l->draining || (l->busy > 0 && now < end + l->plan->timeout_ns + DRAIN_NS)) {
		int n = wait_events(l, events, now, tick_at);
		for (int i = 0; i < n; i++)
			on_event(l, events[i].data.ptr);
		if (!l->started && atomic_load(&clock->running))
			begin(l);
		if (l->started && !l->draining && l->plan->rate > 0)
			send_due(l);
		now = clock_monotonic_ns();
		if (now >= tick_at || l->handshakes < HANDSHAKES_MAX / 2) {
			tick(l, now);
			tick_at = now + TICK_NS;
		}
		if (l->started)
			end = atomic_load(&clock->end_ns);
		if (now >= end || atomic_load(&clock->stopped)) {
			count_unsent(l);
			l->draining = true;
			end = now < end ? now : end;
		}
	}
}

/* ---- beginning and end ---- */

static int
resolve(struct load *l)
{
	const struct addrinfo hints = { .ai_socktype = SOCK_STREAM };

	for (size_t i = 0; i < l->plan->endpoints_count; i++) {
		const struct bench_endpoint *e = &l->plan->endpoints[i];
		int r = getaddrinfo(e->host, e->port, &hints, &l->addresses[i]);
		if (r != 0) {
			explain(l, e->host, gai_strerror(r));
			return -EHOSTUNREACH;
		}
	}
	return 0;
}

static int
open_load(struct load *l)
{
	struct bench_worker *w = l->worker;

	l->epoll = epoll_create1(EPOLL_CLOEXEC);
	l->connections = calloc(w->connections, sizeof(*l->connections));
	l->seed = clock_monotonic_ns() * 2654435761u + w->number + 1;
	if (l->epoll < 0 || !l->connections || resolve(l) < 0)
		return -1;
	for (size_t i = 0; i < w->connections; i++)
		l->connections[i] = (struct connection){
			.fd = -1,
			.backoff_ns = BACKOFF_MIN_NS,
			.endpoint = (i * l->plan->threads + w->number) % l->plan->endpoints_count,
			.out = BUF_INIT(2 * 1024 * 1024),
			.fresh = BUF_INIT(1024 * 1024),
		};
	return 0;
}

static void
close_load(struct load *l)
{
	if (l->started)
		l->tally->cpu_s = cpu_s() - l->cpu_before_s;
	for (size_t i = 0; l->connections && i < l->worker->connections; i++) {
		struct connection *c = &l->connections[i];
		if (c->state == IDLE)
			SSL_shutdown(c->ssl);
		drop(l, c);
		buf_free(&c->out);
		buf_free(&c->fresh);
		free(c->in);
	}
	free(l->connections);
	for (size_t i = 0; i < l->plan->endpoints_count; i++)
		if (l->addresses[i])
			freeaddrinfo(l->addresses[i]);
	if (l->epoll >= 0)
		close(l->epoll);
}

void *
bench_worker_run(void *worker)
{
	struct bench_worker *w = worker;
	struct load l = { .worker = w, .plan = w->plan, .tally = w->tally, .epoll = -1 };

	prctl(PR_SET_TIMERSLACK, 1000ul); /* what is due is sent then, not 50 µs later */
	if (open_load(&l) == 0)
		loop(&l);
	close_load(&l);
	return NULL;
}
