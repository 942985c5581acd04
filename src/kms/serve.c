/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The plugin as it serves: starts the parts in order, then accepts connections, takes signals and
 * tells the service manager, all on the main thread; ends them in the other order.
 */
#include "calls.h"
#include "command.h"
#include "config.h"
#include "connections.h"
#include "metrics_http.h"
#include "notify.h"
#include "reload.h"
#include "service.h"
#include "socket.h"
#include "state_lock.h"

#include "kekd/clock.h"
#include "kekd/log.h"
#include "kekd/metrics.h"
#include "kekd/sandbox.h"
#include "kekd/str.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define TICK_MS 1000
#define STATE_STEP_MS 50
#define ACCEPT_MAX 16 /* in one turn: signals are looked at between */
#define DRAIN_NS (4 * CLOCK_S)
#define CANCEL_NS CLOCK_S
#define END_S 10 /* all of the end; then without ceremony */
#define STATE_WAIT_NS ((END_S + 2) * CLOCK_S)
#define STUCK_NS (20 * CLOCK_S) /* gRPC's thread turns once a second */

struct server {
	struct kms_config *config;
	struct kms_socket socket, metrics_socket;
	struct kms_service *service;
	struct kms_calls calls;
	struct kms_grpc *grpc;
	struct kms_connections connections;
	struct kms_metrics_http *http;
	int signals, state; /* state_dir's lock */
	bool ending, unreachable, deaf;
	uint64_t alive_every_ns, alive_ns;
	char status[600];
};

/* ---- connections ---- */

static bool
take_connection(struct server *s, int fd)
{
	char peer[128];

	if (!kms_socket_admits(&s->socket, fd, peer)) {
		log_warning("%s is refused: only root, this process' user and the socket's owner "
			    "and group may connect",
			peer);
		return false;
	}
	if (!kms_connections_add(&s->connections, fd)) {
		log_warning("%s is refused: there are %d connections", peer, KMS_CONNECTIONS_MAX);
		return false;
	}
	log_info("%s connected", peer);
	return true;
}

/* Said once, and tried ten times a second. */
static void
tell_deaf(struct server *s, int error)
{
	bool deaf = error != 0 && error != EAGAIN;

	if (deaf && !s->deaf)
		log_error("connections cannot be accepted: %s: raise the limit of open files "
			  "(LimitNOFILE=), or see what holds them",
			strerror(error));
	else if (!deaf && s->deaf)
		log_info("connections can be accepted again");
	s->deaf = deaf;
	if (deaf)
		nanosleep(&(const struct timespec){ 0, 100 * CLOCK_MS }, NULL);
}

/* False: nobody else waits, or none can be taken now. */
static bool
accept_one(struct server *s)
{
	int fd = accept4(s->socket.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	int error = fd < 0 ? errno : 0;

	if (error == EINTR || error == ECONNABORTED)
		return true;
	tell_deaf(s, error);
	if (fd < 0)
		return false;
	if (take_connection(s, fd)) {
		kms_grpc_add(s->grpc, fd);
	} else {
		metrics_add(&s->connections.refused, 1);
		close(fd);
	}
	return true;
}

/* ---- signals and the service manager ---- */

static void
take_signals(struct server *s)
{
	struct signalfd_siginfo info;

	while (read(s->signals, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
		if (info.ssi_signo != SIGHUP) {
			s->ending = true;
			continue;
		}
		kms_notify_reloading();
		kms_reload(s->config, &s->socket);
		kms_notify_ready();
	}
}

/* It answers those who are connected, and who comes back finds nothing. */
static void
look_for_socket(struct server *s)
{
	bool there = kms_socket_is_there(&s->socket);

	if (s->unreachable && there)
		log_info("%s is there again", s->socket.path);
	else if (!s->unreachable && !there)
		log_error("%s is gone, and nobody can connect any more: restart %s", s->socket.path,
			s->socket.ours ? "kekd-kms" : "its socket unit");
	s->unreachable = !there;
}

static void
tell_status(struct server *s)
{
	char text[sizeof(s->status)], reason[512] = "";

	look_for_socket(s);
	if (s->unreachable)
		snprintf(text, sizeof(text), "nobody can connect: the socket is gone, see the log");
	else if (kms_service_healthy(s->service, reason))
		snprintf(text, sizeof(text), "serving: kekd wraps and unwraps");
	else
		snprintf(text, sizeof(text), "serving, but Status is an error: %s", reason);
	if (strcmp(text, s->status) == 0)
		return;
	memcpy(s->status, text, sizeof(text));
	kms_notify_status(text);
}

/* The service manager ends what does not move any more. */
static void
tell_alive(struct server *s)
{
	uint64_t now = clock_boot_ns();

	if (s->alive_every_ns == 0 || now < s->alive_ns ||
		now - kms_grpc_alive_ns(s->grpc) > STUCK_NS)
		return;
	kms_notify_alive();
	s->alive_ns = now + s->alive_every_ns;
}

static int
tick_ms(const struct server *s)
{
	uint64_t ms = s->alive_every_ns / CLOCK_MS;

	return s->alive_every_ns > 0 && ms < TICK_MS ? (int)ms + 1 : TICK_MS;
}

static void
loop(struct server *s)
{
	struct pollfd fds[] = { { .fd = s->signals, .events = POLLIN },
		{ .fd = s->socket.fd, .events = POLLIN } };

	while (!s->ending) {
		if (poll(fds, STR_COUNT(fds), tick_ms(s)) < 0 && errno != EINTR)
			log_error("poll: %s", strerror(errno));
		if (fds[0].revents)
			take_signals(s);
		for (int i = 0; !s->ending && i < ACCEPT_MAX && accept_one(s); i++)
			;
		kms_connections_sweep(&s->connections);
		tell_status(s);
		tell_alive(s);
	}
}

/* ---- metrics ---- */

static void
show_metrics(void *user, struct buf *out)
{
	struct server *s = user;

	kms_service_metrics(s->service, out);
	kms_grpc_metrics(s->grpc, out);
	kms_connections_metrics(&s->connections, out);
}

static bool
is_healthy(void *user, char ret_reason[512])
{
	struct server *s = user;

	return kms_service_healthy(s->service, ret_reason);
}

/* ---- begin ---- */

/* Before any thread, so that all have them blocked. */
static int
open_signals(struct server *s)
{
	sigset_t set;

	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	s->signals = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
	if (s->signals >= 0)
		return 0;
	log_error("no signals: %s", strerror(errno));
	return -errno;
}

static int
open_socket(struct server *s)
{
	const struct kms_config *c = s->config;
	int given = kms_socket_inherit(&s->socket);

	if (given < 0)
		return given;
	if (given > 0) {
		if (strcmp(s->socket.path, c->socket) != 0)
			log_warning("the service manager's socket is %s, not socket.path %s: "
				    "kekd-kms doctor looks at the latter",
				s->socket.path, c->socket);
		return 0;
	}
	return kms_socket_bind(&(const struct kms_socket_config){ c->socket, c->socket_mode,
				       c->socket_uid, c->socket_gid },
		"socket.path", &s->socket);
}

/* SIGHUP asks for nothing here: what there is to be read was read just now. */
static bool
told_to_end(const struct server *s, int wait_ms)
{
	struct pollfd fd = { .fd = s->signals, .events = POLLIN };
	struct signalfd_siginfo info;

	return poll(&fd, 1, wait_ms) > 0 &&
	       read(s->signals, &info, sizeof(info)) == (ssize_t)sizeof(info) &&
	       info.ssi_signo != SIGHUP;
}

/* A new instance may be started while the old one still answers its last calls. */
static int
lock_state(struct server *s)
{
	const char *dir = s->config->state_dir;
	uint64_t until_ns = clock_boot_ns() + STATE_WAIT_NS;
	int err = kms_state_lock(dir, &s->state);

	if (err == -EWOULDBLOCK)
		log_info("waiting for the end of another kekd-kms, which uses state_dir %s", dir);
	while (err == -EWOULDBLOCK && clock_boot_ns() < until_ns) {
		s->ending = told_to_end(s, STATE_STEP_MS);
		if (s->ending)
			return -ECANCELED;
		err = kms_state_lock(dir, &s->state);
	}
	if (err == -EWOULDBLOCK)
		log_error("another kekd-kms uses state_dir %s, and each would announce what the "
			  "other does not know of: stop that one (lslocks shows its process), or "
			  "give this one a state_dir of its own",
			dir);
	else if (err)
		log_error("state_dir %s cannot be locked: %s", dir, strerror(-err));
	return err;
}

static int
open_service(struct server *s)
{
	char error[256] = "";
	int err = kms_service_open(s->config, &s->service, error);

	if (err)
		log_error("%s", error);
	s->calls.service = s->service;
	return err;
}

static int
open_http(struct server *s)
{
	const struct kms_metrics_source source = { show_metrics, is_healthy, s };

	return s->metrics_socket.fd < 0
		       ? 0
		       : kms_metrics_http_open(&s->metrics_socket, &source, &s->http);
}

static int
begin(struct server *s)
{
	int err = open_signals(s);

	if (!err)
		err = open_socket(s);
	if (!err)
		err = lock_state(s);
	if (!err)
		err = kms_metrics_http_listen(s->config, &s->metrics_socket);
	if (!err)
		err = sandbox_enter(SANDBOX_KMS); /* all that listens is there */
	if (!err)
		err = open_service(s);
	if (!err)
		err = kms_calls_open(&s->calls, &s->grpc);
	if (!err)
		err = open_http(s);
	if (err)
		return err;
	log_info("provider %s of cluster %s on %s%s", s->config->provider, s->config->cluster,
		s->socket.path, s->socket.ours ? "" : " (the service manager's socket)");
	s->alive_every_ns = kms_notify_alive_every_ns();
	kms_notify_ready();
	return 0;
}

/* ---- end ---- */

static void *
end_late(void *user)
{
	(void)user;
	sleep(END_S);
	log_warning("not all ended within %d s: left as it is", END_S);
	_exit(KMS_EXIT_OK);
}

/* A peer that reads nothing, or a request to kekd that hangs, must not hold up the end. */
static void
bound_the_end(void)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, end_late, NULL) == 0)
		pthread_detach(thread);
}

/* Calls in hand are answered; those that take too long get an error of ours while they can. */
static void
drain(struct server *s)
{
	bool down = kms_grpc_drain(s->grpc, DRAIN_NS);

	kms_calls_detach(&s->calls);
	kms_service_freep(&s->service);
	kms_state_lock_close(&s->state); /* nothing is announced any more */
	if (!down && !kms_grpc_cancel(s->grpc, CANCEL_NS)) {
		log_warning("a peer takes no answers: left");
		_exit(KMS_EXIT_OK);
	}
	kms_grpc_freep(&s->grpc);
}

static void
end(struct server *s)
{
	kms_notify_stopping();
	log_info("stopping");
	bound_the_end();
	kms_socket_close(&s->socket); /* the next instance may have the path at once */
	kms_metrics_http_freep(&s->http);
	kms_socket_close(&s->metrics_socket);
	drain(s);
	close(s->signals);
}

int
kms_serve(const struct kms_args *a)
{
	_cleanup_(kms_config_freep) struct kms_config *config = NULL;
	struct server s = { .socket = KMS_SOCKET_INIT,
		.metrics_socket = KMS_SOCKET_INIT,
		.calls = { .lock = PTHREAD_MUTEX_INITIALIZER },
		.signals = -1,
		.state = -1 };

	if (kms_config_read(a->config, &config) != 0)
		return KMS_EXIT_CONFIG;
	if (a->check) {
		printf("%s: no fault found\n", a->config);
		return KMS_EXIT_OK;
	}
	s.config = config;
	if (begin(&s) != 0) {
		kms_socket_close(&s.socket);
		kms_socket_close(&s.metrics_socket);
		/* Threads may run already. */
		_exit(s.ending ? KMS_EXIT_OK : KMS_EXIT_FAILED);
	}
	loop(&s);
	end(&s);
	return KMS_EXIT_OK;
}
