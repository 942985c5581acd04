/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The parent's event loop: one poll() over the signals and the children's control sockets, with the
 * next thing to do as its time limit. What a child's end means is in network.c and workers.c.
 */
#include "parent.h"

#include "kekd/clock.h"
#include "kekd/log.h"
#include "kekd/sandbox.h"
#include "kekd/str.h"

#include <errno.h>
#include <openssl/rand.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

#define DRAIN_TIME_NS (20 * CLOCK_S)
#define WORKERS_TIME_NS (5 * CLOCK_S)
#define INIT_TIME_NS (120 * CLOCK_S)
#define LONG_TIME_NS (3600 * CLOCK_S) /* every record is verified or sealed anew */
#define KEY_SIZE 32
#define POLL_MAX (2 + CONFIG_TOKENS_MAX * CONFIG_WORKERS_MAX)

void
parent_wake_at(struct parent *p, uint64_t at_ns)
{
	if (at_ns < p->wake_ns)
		p->wake_ns = at_ns;
}

void
parent_end(struct parent *p, int status)
{
	if (p->phase != PARENT_RUNNING)
		return;
	p->status = status;
	p->phase = PARENT_DRAINING;
	notify_stopping(p);
	p->phase_end_ns = clock_boot_ns() + DRAIN_TIME_NS;
	network_tell(p, CONTROL_STOP);
	/* A kekd-net that is only to give up needs no drain, and waits for a worker that will not
	 * come. */
	if (p->init)
		child_kill(&p->net, SIGTERM);
}

static uint64_t
task_time_ns(const struct parent *p)
{
	return p->task == NET_INIT || p->task == NET_ADOPT ? INIT_TIME_NS : LONG_TIME_NS;
}

static void
phase_tick(struct parent *p, uint64_t now_ns)
{
	bool late = now_ns >= p->phase_end_ns;

	if (p->phase == PARENT_DRAINING && (late || p->net.pid == 0)) {
		if (p->net.pid > 0)
			log_warning("kekd-net did not end in time: killed");
		child_kill(&p->net, SIGKILL);
		workers_kill(p, SIGTERM);
		p->phase = PARENT_ENDING;
		p->phase_end_ns = now_ns + WORKERS_TIME_NS;
	} else if (p->phase == PARENT_ENDING && late) {
		workers_kill(p, SIGKILL);
		child_kill(&p->net, SIGKILL);
		p->phase_end_ns = now_ns + WORKERS_TIME_NS;
	} else if (p->phase == PARENT_RUNNING && p->init && late) {
		log_error("this did not get done in %llu s: see what was said before",
			(unsigned long long)(task_time_ns(p) / CLOCK_S));
		parent_end(p, CHILD_EXIT_FAILED);
	}
	if (p->phase != PARENT_RUNNING || p->init)
		parent_wake_at(p, p->phase_end_ns);
}

static void
bury_children(struct parent *p)
{
	int wait_status;
	pid_t pid;

	while ((pid = waitpid(-1, &wait_status, WNOHANG)) > 0) {
		uint64_t now_ns = clock_boot_ns();
		if (pid == p->net.pid)
			network_ended(p, wait_status, now_ns);
		else
			workers_ended(p, pid, wait_status, now_ns);
	}
}

static void
on_terminate(struct parent *p)
{
	if (p->phase != PARENT_RUNNING) {
		p->phase_end_ns = clock_boot_ns(); /* asked twice: no more waiting */
		return;
	}
	log_info("stopping");
	parent_end(p, p->init ? CHILD_EXIT_FAILED : CHILD_EXIT_OK);
}

static void
on_reload(struct parent *p)
{
	p->reload_wanted = true;
	notify_reloading(p);
}

static void
on_signal(struct parent *p)
{
	struct signalfd_siginfo info;

	if (read(p->signals, &info, sizeof(info)) != sizeof(info))
		return;
	if (info.ssi_signo == SIGCHLD)
		bury_children(p);
	else if (info.ssi_signo == SIGHUP)
		on_reload(p);
	else if (info.ssi_signo == SIGTERM || info.ssi_signo == SIGINT)
		on_terminate(p);
}

/* Where a poll entry belongs. */
struct origin {
	bool net;
	unsigned token, worker;
};

static size_t
gather(const struct parent *p, struct pollfd fds[POLL_MAX], struct origin origins[POLL_MAX])
{
	size_t n = 1;

	fds[0] = (struct pollfd){ .fd = p->signals, .events = POLLIN };
	if (p->net.control >= 0) {
		origins[n] = (struct origin){ .net = true };
		fds[n++] = (struct pollfd){ .fd = p->net.control,
			.events = p->unsent ? POLLIN | POLLOUT : POLLIN };
	}
	for (unsigned t = 0; t < p->config->tokens_count; t++)
		for (unsigned i = 0; i < p->config->hsm.workers; i++) {
			int control = p->tokens[t].workers[i].child.control;
			if (control < 0)
				continue;
			origins[n] = (struct origin){ false, t, i };
			fds[n++] = (struct pollfd){ .fd = control, .events = POLLIN };
		}
	return n;
}

static int
timeout_ms(const struct parent *p)
{
	uint64_t now_ns = clock_boot_ns();

	if (p->wake_ns == UINT64_MAX)
		return -1;
	/* Rounded up: waking too early would make the loop spin. */
	return p->wake_ns <= now_ns ? 0 : (int)((p->wake_ns - now_ns) / CLOCK_MS + 1);
}

/* The control sockets first: a child's last words count before its end. */
static void
wait_and_handle(struct parent *p)
{
	struct pollfd fds[POLL_MAX];
	struct origin origins[POLL_MAX];
	size_t n = gather(p, fds, origins);

	if (poll(fds, n, timeout_ms(p)) <= 0)
		return;
	for (size_t i = 1; i < n; i++) {
		if (!fds[i].revents)
			continue;
		if (origins[i].net && fds[i].revents & POLLOUT)
			network_tell_unsent(p);
		if (fds[i].revents == POLLOUT)
			continue;
		if (origins[i].net)
			network_message(p);
		else
			workers_message(p, origins[i].token, origins[i].worker);
	}
	if (fds[0].revents)
		on_signal(p);
}

static void
loop(struct parent *p)
{
	while (p->phase != PARENT_ENDING || p->net.pid > 0 || workers_any(p)) {
		uint64_t now_ns = clock_boot_ns();

		p->wake_ns = UINT64_MAX;
		network_tick(p, now_ns);
		workers_tick(p, now_ns);
		reload_tick(p);
		phase_tick(p, now_ns);
		notify_tick(p, now_ns);
		if (p->phase == PARENT_ENDING && p->net.pid == 0 && !workers_any(p))
			break;
		wait_and_handle(p);
	}
}

static int
open_signals(struct parent *p)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	signal(SIGPIPE, SIG_IGN);
	if (sigprocmask(SIG_BLOCK, &set, NULL) != 0)
		return -errno;
	p->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return p->signals < 0 ? -errno : 0;
}

static int
find_program(const char *name, char **ret_path)
{
	const char *dir = getenv("KEKD_LIBEXECDIR");
	char *path;

	if (asprintf(&path, "%s/%s", dir ? dir : KEKD_LIBEXECDIR, name) < 0)
		return -ENOMEM;
	if (access(path, X_OK) != 0) {
		int err = -errno;
		log_error("%s cannot be started: %s: install kekd whole, or set KEKD_LIBEXECDIR",
			path, strerror(-err));
		free(path);
		return err;
	}
	*ret_path = path;
	return 0;
}

/* kekd-net's environment: nothing that a vendor's module or a library could be steered with. */
static int
make_environment(struct parent *p)
{
	static const char *const names[] = {
		"PATH",
		"LANG",
		"JOURNAL_STREAM",
		"TZ",
#ifdef KEKD_SANITIZERS
		"ASAN_OPTIONS",
		"LSAN_OPTIONS",
		"UBSAN_OPTIONS",
#endif
#ifdef KEKD_COVERAGE
		"GCOV_PREFIX",
		"GCOV_PREFIX_STRIP",
#endif
	};
	size_t n = 0;

	p->net_environment = calloc(STR_COUNT(names) + 1, sizeof(char *));
	if (!p->net_environment)
		return -ENOMEM;
	for (size_t i = 0; i < STR_COUNT(names); i++) {
		const char *value = getenv(names[i]);
		if (value && asprintf(&p->net_environment[n++], "%s=%s", names[i], value) < 0)
			return -ENOMEM;
	}
	return 0;
}

/* A worker has the whole one, since its module may need it. */
static int
make_worker_environment(struct parent *p)
{
	static const char *const others[] = { "NOTIFY_SOCKET=", "WATCHDOG_USEC=", "WATCHDOG_PID=" };
	size_t count = 0, n = 0;

	while (environ[count])
		count++;
	p->worker_environment = calloc(count + 1, sizeof(char *));
	if (!p->worker_environment)
		return -ENOMEM;
	for (size_t i = 0; i < count; i++) {
		bool theirs = true;
		for (size_t k = 0; k < STR_COUNT(others); k++)
			theirs = theirs && strncmp(environ[i], others[k], strlen(others[k])) != 0;
		if (theirs)
			p->worker_environment[n++] = environ[i];
	}
	return 0;
}

static int
make_key(struct parent *p)
{
	int err = secret_alloc(&p->key, KEY_SIZE);

	if (!err && RAND_priv_bytes(p->key.data, KEY_SIZE) != 1)
		err = -EIO;
	return err;
}

static int
open_directories(struct parent *p)
{
	const struct config *c = p->config;
	const struct {
		const char *setting, *path;
		const struct account *owner;
	} dirs[] = {
		{ "state_dir", c->state_dir, &p->net_account },
		{ "audit.dir", c->audit.dir, &p->net_account },
		{ "hsm.state_dir", c->hsm.state_dir, &p->worker_account },
	};

	for (size_t i = 0; i < STR_COUNT(dirs); i++) {
		int fd, err = directory_open(dirs[i].setting, dirs[i].path, dirs[i].owner, &fd);
		if (err)
			return err;
		if (i + 1 < STR_COUNT(dirs))
			close(fd);
		else
			p->hsm_dir = fd; /* workers get it: they may not reach it by its path */
	}
	return fchmod(p->hsm_dir, 0700) == 0 ? 0 : -errno;
}

/* Everything that can fail at the start, in the order in which it is easiest to put right. */
static int
open_parent(struct parent *p)
{
	int err = find_program("kekd-net", &p->net_program);

	if (!err)
		err = find_program("kekd-hsm", &p->worker_program);
	if (!err)
		err = account_resolve("user", p->config->user, &p->net_account);
	if (!err)
		err = account_resolve("hsm.user", p->config->hsm.user, &p->worker_account);
	if (err)
		return CHILD_EXIT_OPERATOR;
	if (!p->init && sockets_listen(p->config, p->listen_fds, &p->listen_count) != 0)
		return CHILD_EXIT_FAILED;
	if (open_directories(p) != 0)
		return CHILD_EXIT_OPERATOR;
	if (sandbox_enter(SANDBOX_PARENT) != 0)
		return CHILD_EXIT_OPERATOR;
	if (make_environment(p) != 0 || make_worker_environment(p) != 0 || make_key(p) != 0 ||
		open_signals(p) != 0) {
		log_error("the parent cannot start: no memory or no randomness: try again");
		return CHILD_EXIT_FAILED;
	}
	return CHILD_EXIT_OK;
}

static void
close_parent(struct parent *p)
{
	for (unsigned i = 0; i < p->listen_count; i++)
		close(p->listen_fds[i]);
	for (size_t i = 0; p->net_environment && p->net_environment[i]; i++)
		free(p->net_environment[i]);
	free(p->net_environment);
	free(p->worker_environment);
	free(p->net_program);
	free(p->worker_program);
	account_free(&p->net_account);
	account_free(&p->worker_account);
	secret_free(&p->key);
	if (p->hsm_dir >= 0)
		close(p->hsm_dir);
	if (p->signals >= 0)
		close(p->signals);
}

static void
reset_children(struct parent *p)
{
	p->net.control = -1;
	for (size_t t = 0; t < CONFIG_TOKENS_MAX; t++)
		for (size_t i = 0; i < CONFIG_WORKERS_MAX; i++)
			p->tokens[t].workers[i].child.control = -1;
}

int
parent_run(struct config *config, const char *config_path, enum net_task task, int file)
{
	struct parent p = { .config = config,
		.config_path = config_path,
		.task = task,
		.init = task != NET_SERVE,
		.file = file,
		.hsm_dir = -1,
		.signals = -1 };
	int status;

	reset_children(&p);
	status = open_parent(&p);
	if (status == CHILD_EXIT_OK) {
		for (unsigned i = 0; i < p.listen_count; i++)
			log_info("listening on %s", config->listen[i]);
		p.phase_end_ns = clock_boot_ns() + task_time_ns(&p);
		notify_open(&p);
		loop(&p);
		status = p.status;
	}
	config_freep(&p.pending);
	close_parent(&p);
	return status;
}
