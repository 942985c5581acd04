/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kekd-net: terminates mTLS, decides access, keeps the metadata, audits. It is started by kekd,
 * which hands it its part of the configuration, the listening sockets and, one by one, the sockets
 * to the workers. It has no PIN and loads no module.
 */
#include "node.h"

#include "kekd/clock.h"
#include "kekd/control.h"
#include "kekd/etcd.h"
#include "kekd/log.h"
#include "kekd/sandbox.h"
#include "kekd/secret.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#define JOBS_MAX 1000
#define SCANS_MAX 32 /* requests that wait for a piece of the audit log */
#define QUEUE_MAX 20000
#define IN_FLIGHT_MAX 4096
#define BODIES_MAX ((size_t)64 << 20)
#define CONNECTIONS_MAX 4096
#define OTHER_FILES 256 /* workers, store, audit log, connections on their way out */
#define DRAIN_MS 15000
#define LISTEN_MAX 16

/* Blocked before any thread starts, so that they are read here alone. */
static int
open_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGPIPE);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	sigdelset(&set, SIGPIPE);
	return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

/* On the reader of the workers' sockets, which must not wait for the parent. */
static int
report_hung(void *user, unsigned token, unsigned worker)
{
	const struct control_message m = { .kind = CONTROL_KILL, .token = token, .worker = worker };
	(void)user;

	return control_try_send(CHILD_FD_CONTROL, &m);
}

static int
open_node(struct node *n)
{
	struct hsm_config hsm = {
		.tokens = n->part.tokens_count,
		.names = (const char *const *)n->part.tokens,
		.workers = n->part.workers,
		.deadline_ms = n->part.deadline_ms,
		.hang_ms = n->part.hang_ms,
		.queue_max = QUEUE_MAX,
		.hangs = report_hung,
	};
	int err;

	pthread_mutex_init(&n->lock, NULL);
	node_open_lookups(n);
	pthread_mutex_init(&n->term_lock, NULL);
	n->part.store.counts = &n->etcd_counts;
	snprintf(n->cannot_lead, sizeof(n->cannot_lead), "%s", kekd_strerror(KEKD_ESTARTING));
	n->exit_wanted = -1;
	n->started_us = clock_real_us();
	n->started_ns = clock_boot_ns();
	node_set_phase(n, NODE_STARTING, "starting");
	err = hsm_open(&hsm, &n->hsm);
	if (err == 0)
		err = keyring_open(&n->keyring);
	if (err == 0)
		err = clients_open(&n->clients);
	if (err == 0)
		err = approvals_open(&n->approvals);
	if (err == 0)
		err = snapshots_open(&n->snapshots);
	if (err == 0)
		err = usage_open(n->part.node, &n->usage);
	if (err == 0)
		err = traffic_open(http_routes, &n->traffic);
	if (err != 0)
		log_error("cannot start: %s", kekd_strerror(err));
	return err;
}

int
node_open_audit(struct node *n)
{
	struct audit_config config = {
		.dir = n->part.audit_dir,
		.cluster = n->part.cluster,
		.node = n->part.node,
		.usage = n->usage,
		.hash_context = n->part.audit_hash_context,
		.max_bytes = n->part.audit_max_bytes,
		.sink = n->part.audit_sink,
	};
	char error[256] = "";
	int err = audit_open(&config, &n->audit, error);

	if (err != 0)
		log_error("audit log: %s", *error ? error : kekd_strerror(err));
	return err;
}

/* As many as there are files for; the limit is raised as far as it may be. */
static size_t
connections_max(void)
{
	const rlim_t want = CONNECTIONS_MAX + OTHER_FILES;
	struct rlimit files = { want, want };
	size_t max;

	getrlimit(RLIMIT_NOFILE, &files);
	if (files.rlim_cur < want) {
		files.rlim_cur = files.rlim_max < want ? files.rlim_max : want;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	if (files.rlim_cur >= want)
		return CONNECTIONS_MAX;
	max = files.rlim_cur > 2 * OTHER_FILES ? files.rlim_cur - OTHER_FILES : files.rlim_cur / 2;
	log_warning("at most %zu connections: %lu open files are allowed (RLIMIT_NOFILE, "
		    "LimitNOFILE= in a systemd unit), %lu are wanted",
		max, (unsigned long)files.rlim_cur, (unsigned long)want);
	return max;
}

static int
open_http(struct node *n, size_t listen_count)
{
	long cores = sysconf(_SC_NPROCESSORS_ONLN);
	int fds[LISTEN_MAX];
	struct http_config config = {
		.node = n,
		.hooks = &node_hooks,
		.routes = http_routes,
		.clients = n->clients,
		.audit = n->audit,
		.traffic = n->traffic,
		.listen_fds = fds,
		.listen_count = listen_count,
		.threads = cores > 1 ? (unsigned)cores : 2,
		.tls = node_tls_config(&n->part),
		.in_flight_max = IN_FLIGHT_MAX,
		.bodies_max = BODIES_MAX,
		.connections_max = connections_max(),
	};
	struct http *http = NULL;
	char error[256] = "";
	int err;

	if (listen_count > LISTEN_MAX)
		return -E2BIG;
	for (size_t i = 0; i < listen_count; i++)
		fds[i] = CHILD_FD_CONTROL + 1 + (int)i;
	err = http_open(&config, &http, error);
	if (err == 0)
		atomic_store(&n->http, http);
	else
		log_error("%s", *error ? error : kekd_strerror(err));
	return err;
}

static int
open_threads(struct node *n)
{
	int err = control_open(n, NULL, SCANS_MAX, &n->scans);

	return err ? err : control_open(n, node_tick, JOBS_MAX, &n->control);
}

static int
enter_sandbox(const struct node *n)
{
	return sandbox_enter(n->part.store.endpoints ? SANDBOX_NET_ETCD : SANDBOX_NET);
}

/* One message from the parent. 0: go on; 1: stop; else an error. */
static int
on_message(struct node *n)
{
	struct control_message m;
	int fd = -1, err = control_receive(CHILD_FD_CONTROL, &m, &fd);

	if (err == -EPIPE)
		return 1;
	if (err != 0)
		return err;
	switch (m.kind) {
	case CONTROL_WORKER:
		hsm_attach(n->hsm, m.token, m.worker, fd);
		fd = -1;
		break;
	case CONTROL_LISTEN:
		/* Before the first byte of a stranger is read, and after what is loaded is loaded.
		 */
		if (node_open_audit(n) != 0 || enter_sandbox(n) != 0)
			err = KEKD_EINVALID;
		else if (open_http(n, m.count) != 0)
			err = -EAGAIN; /* a certificate that is being replaced will be whole soon */
		else
			err = open_threads(n);
		break;
	case CONTROL_RELOAD:
		node_reload(n, m.count, fd);
		fd = -1;
		break;
	case CONTROL_RELOAD_BAD:
		node_reload_bad(n, fd);
		fd = -1;
		break;
	case CONTROL_STOP:
		err = 1;
		break;
	default:
		break;
	}
	if (fd >= 0)
		close(fd);
	return err;
}

/* Serves until told to stop. An exit status. */
static int
run(struct node *n, int signals)
{
	struct pollfd fds[] = { { CHILD_FD_CONTROL, POLLIN, 0 }, { signals, POLLIN, 0 } };

	for (;;) {
		struct signalfd_siginfo info;
		int r;

		if (poll(fds, STR_COUNT(fds), 200) < 0 && errno != EINTR)
			return CHILD_EXIT_FAILED;
		if (node_exit_wanted(n) >= 0)
			return node_exit_wanted(n);
		node_watch_certificates(n);
		if (fds[0].revents) {
			r = on_message(n);
			if (r != 0)
				return r > 0	      ? CHILD_EXIT_OK
				       : r == -EAGAIN ? CHILD_EXIT_FAILED
						      : CHILD_EXIT_OPERATOR;
		}
		if (fds[1].revents && read(signals, &info, sizeof(info)) == (ssize_t)sizeof(info) &&
			info.ssi_signo != SIGHUP)
			return CHILD_EXIT_OK;
	}
}

/* A cluster is looked for in every token before it is made in the first. */
static bool
all_tokens_ready(struct node *n)
{
	for (unsigned i = 0; i < n->part.tokens_count; i++)
		if (!hsm_token_ready(n->hsm, i))
			return false;
	return true;
}

/* The writer of the audit log holds its directory as long as it lives. */
bool
node_runs_here(const struct node *n)
{
	int dir = open(n->part.audit_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	bool held = dir >= 0 && flock(dir, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK;

	if (dir >= 0)
		close(dir);
	return held;
}

static const struct {
	int (*run)(struct node *n); /* the exit status */
	bool alone;		    /* begins before there is a token or an audit log */
} tasks[] = {
	[NET_INIT] = { node_init_cluster, false },
	[NET_ADOPT] = { node_init_cluster, false },
	[NET_RESTORE] = { node_restore, false },
	[NET_DRILL] = { node_drill, false },
	[NET_JOIN] = { node_join, true },
	[NET_JOIN_JSON] = { node_join, true },
	[NET_TO_ETCD] = { node_migrate, true },
	[NET_TO_SQLITE] = { node_migrate, true },
	[NET_REPLICA_TO_ETCD] = { node_migrate, true },
};

/* True once one worker of each token is there. */
bool
node_await_tokens(struct node *n, uint64_t patience_ns)
{
	struct pollfd fd = { CHILD_FD_CONTROL, POLLIN, 0 };
	uint64_t end = clock_boot_ns() + patience_ns;

	while (!all_tokens_ready(n) && clock_boot_ns() < end) {
		struct control_message m;
		int worker = -1;

		if (poll(&fd, 1, 20) <= 0)
			continue;
		if (control_receive(CHILD_FD_CONTROL, &m, &worker) != 0)
			return false;
		if (m.kind == CONTROL_WORKER)
			hsm_attach(n->hsm, m.token, m.worker, worker);
		else if (m.kind == CONTROL_STOP)
			return false;
	}
	return all_tokens_ready(n);
}

/* What ends by itself. */
static int
run_task(struct node *n)
{
	bool alone = tasks[n->part.task].alone;

	if ((!alone && node_open_audit(n) != 0) || enter_sandbox(n) != 0)
		return CHILD_EXIT_OPERATOR;
	if (alone || node_await_tokens(n, 60 * CLOCK_S))
		return tasks[n->part.task].run(n);
	log_error("not every token had a ready worker within a minute: see above for which");
	return CHILD_EXIT_OPERATOR;
}

/* Whoever wakes it finds none from now on. */
static void
close_control(struct node *n)
{
	struct control *c;

	pthread_mutex_lock(&n->lock);
	c = n->control;
	n->control = NULL;
	pthread_mutex_unlock(&n->lock);
	control_freep(&c);
}

/* Answers first, then the changes that wait, then the log's end, the token and the store. */
static void
close_node(struct node *n)
{
	struct sealed *sealed;
	struct http *http = n->http;

	node_set_phase(n, NODE_STOPPING, "stopping");
	node_hand_over(n);
	if (http) {
		http_drain(http, DRAIN_MS);
		if (http_in_flight(http) > 0) {
			log_warning("%zu requests were still under way", http_in_flight(http));
			audit_close(n->audit); /* other threads still use it */
			_exit(CHILD_EXIT_OK);
		}
	}
	close_control(n);
	control_freep(&n->scans);
	node_close_destroys(n);
	node_close_proofs(n);
	http_freep(&http);
	atomic_store(&n->http, NULL);
	node_close_signing(n);
	audit_freep(&n->audit);
	node_close_usage(n);
	node_close_leader(n);
	sealed = atomic_exchange(&n->sealed, NULL);
	sealed_freep(&sealed);
	store_freep(&n->store);
	hsm_freep(&n->hsm); /* its workers end then: kekd is not to wonder why */
	keyring_freep(&n->keyring);
	clients_freep(&n->clients);
	approvals_freep(&n->approvals);
	snapshots_freep(&n->snapshots);
	traffic_freep(&n->traffic);
	usage_freep(&n->usage);
	sealed_ahead_freep(&n->ahead);
	free(n->unknown);
	json_decref(n->unreadable);
	free(n->nonces);
	free(n->witness);
	node_close_members(n);
	node_close_peers(n);
	node_close_lookups(n);
	net_part_free(&n->part);
	pthread_mutex_destroy(&n->term_lock);
	pthread_mutex_destroy(&n->lock);
}

int
main(void)
{
	static struct node node;
	int signals, status;

	log_open("kekd-net", LOG_LEVEL_INFO);
	sandbox_harden();
	secret_heap_open();
	json_open();
	signals = open_signals();
	if (net_part_read(CHILD_FD_PART, &node.part) != 0) {
		log_error("kekd-net is started by kekd, not by hand");
		return CHILD_EXIT_USAGE;
	}
	if (signals < 0 || (node.part.store.endpoints && etcd_global_open() != 0) ||
		open_node(&node) != 0)
		return CHILD_EXIT_FAILED;
	status = node.part.task != NET_SERVE ? run_task(&node) : run(&node, signals);
	close_node(&node);
	return status;
}
