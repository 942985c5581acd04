/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kekd-hsm: one worker of one token. Born by kekd with its descriptors (kekd/control.h), it opens
 * the module, logs in, says what it is, and serves until kekd-net closes its end. Whatever keeps it
 * from serving is said in the HELLO and in the log, and in the exit status.
 */
#include "worker.h"

#include "kekd/clock.h"
#include "kekd/control.h"
#include "kekd/err.h"
#include "kekd/json.h"
#include "kekd/log.h"
#include "kekd/sandbox.h"
#include "kekd/str.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define SIGN_NS CLOCK_S

int
worker_fail(struct worker *w, enum hsm_state state, int exit_status, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	vsnprintf(w->hello.message, sizeof(w->hello.message), format, ap);
	va_end(ap);
	w->hello.state = state;
	w->exit_status = exit_status;
	log_error("%s", w->hello.message);
	return KEKD_EHSM;
}

void
worker_send_hello(struct worker *w)
{
	struct buf b = BUF_INIT(FRAME_SIZE_MAX);

	frame_put_hello(&b, &w->hello);
	if (b.bad || send(w->net, b.data, b.len, MSG_NOSIGNAL) < 0)
		log_warning("kekd-net does not listen");
	buf_free(&b);
}

/* A terminal's signals reach the whole group; kekd decides when its workers end. */
static void
ignore_signals(void)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	signal(SIGINT, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	signal(SIGPIPE, SIG_IGN);
}

void
worker_sign_of_life(struct worker *w)
{
	uint64_t now = clock_boot_ns();

	if (w->hello.state == HSM_STATE_READY || now - w->sign_ns < SIGN_NS)
		return;
	w->sign_ns = now;
	w->hello.state = HSM_STATE_OPENING;
	worker_send_hello(w);
}

/* Tells kekd that the next worker may try its PIN. */
static void
tell_logged_in(const struct worker *w)
{
	const struct control_message m = { .kind = CONTROL_LOGGED_IN, .token = w->part.index };

	if (control_send(w->control, &m, -1))
		log_warning("kekd does not listen");
}

static int
open_token(struct worker *w)
{
	int err = p11_open(w);

	if (err)
		return err;
	if (session_open(w, CKF_RW_SESSION, &w->home))
		return worker_fail(w, HSM_STATE_FAILED, CHILD_EXIT_FAILED,
			"token \"%s\" (%s) opens no session", w->part.token, w->part.uri);
	err = pin_login(w, w->home.h);
	if (err)
		return err;
	w->sign_ns = clock_boot_ns();
	tell_logged_in(w);
	if (objects_open(w))
		return worker_fail(w, HSM_STATE_FAILED, CHILD_EXIT_FAILED,
			"token \"%s\" (%s): its objects cannot be listed", w->part.token,
			w->part.uri);
	return 0;
}

struct thread {
	pthread_t id;
	struct session session;
};

/* A failure ends the process at once: other sessions may hang in the module. */
static void *
thread_main(void *arg)
{
	struct thread *t = arg;
	int status = serve(&t->session);

	if (status)
		_exit(status);
	return NULL;
}

/* Sessions first, all of them, so that the HELLO tells the truth. */
static int
open_sessions(struct worker *w, struct thread *threads, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (session_open(w, 0, &threads[i].session))
			return worker_fail(w, HSM_STATE_FAILED, CHILD_EXIT_FAILED,
				"token \"%s\" (%s) opens %u sessions, not %u: lower hsm.sessions "
				"or "
				"hsm.workers",
				w->part.token, w->part.uri, i + 1, n + 1);
	return 0;
}

/* After the module has loaded what it needs, before it is asked anything by kekd-net. */
static int
confine(struct worker *w)
{
	bool offline = w->p11.quirk->flags & QUIRK_OFFLINE;

	if (sandbox_enter(offline ? SANDBOX_WORKER_OFFLINE : SANDBOX_WORKER) == 0)
		return 0;
	return worker_fail(w, HSM_STATE_FAILED, CHILD_EXIT_OPERATOR,
		"token \"%s\" (%s): the worker cannot be confined", w->part.token, w->part.uri);
}

static int
run_threads(struct worker *w, struct thread *threads, unsigned n)
{
	w->hello.state = HSM_STATE_READY;
	w->hello.sessions = n;
	worker_send_hello(w);
	log_info("token \"%s\" is open: \"%s\", serial %s, %u keys", w->part.token,
		w->hello.token_label, w->hello.token_serial, w->hello.objects);
	for (unsigned i = 0; i < n; i++)
		if (pthread_create(&threads[i].id, NULL, thread_main, &threads[i])) {
			log_error("a thread cannot be started");
			_exit(CHILD_EXIT_FAILED);
		}
	for (unsigned i = 0; i < n; i++) {
		pthread_join(threads[i].id, NULL);
		session_close(&threads[i].session);
	}
	return CHILD_EXIT_OK;
}

static int
run(struct worker *w)
{
	_cleanup_(str_freep) struct thread *threads = NULL;
	unsigned n = w->part.sessions > 0 ? w->part.sessions : 1;

	threads = calloc(n, sizeof(*threads));
	if (!threads)
		return CHILD_EXIT_FAILED;
	if (pin_read(w, CHILD_FD_PIN) || open_token(w) || open_sessions(w, threads, n) ||
		confine(w)) {
		worker_send_hello(w);
		return w->exit_status;
	}
	return run_threads(w, threads, n);
}

int
main(int argc, char **argv)
{
	struct worker w = {
		.net = CHILD_FD_NET,
		.control = CHILD_FD_CONTROL,
		.state_dir = CHILD_FD_STATE,
		.login_lock = PTHREAD_MUTEX_INITIALIZER,
		.objects.lock = PTHREAD_MUTEX_INITIALIZER,
		.hello = { .iv_len = 12, .pid = (uint32_t)getpid() },
	};
	int status;

	(void)argv;
	log_open("kekd-hsm", LOG_LEVEL_INFO);
	if (argc != 1) {
		log_error("kekd starts this program: it takes no arguments");
		return CHILD_EXIT_USAGE;
	}
	sandbox_harden();
	ignore_signals();
	secret_heap_open();
	json_open();
	if (worker_part_read(CHILD_FD_PART, &w.part))
		return CHILD_EXIT_OPERATOR;
	if (transport_read_key(&w, CHILD_FD_KEY))
		return CHILD_EXIT_OPERATOR;
	status = run(&w);
	objects_close(&w);
	p11_close(&w.p11);
	secret_free(&w.pin);
	secret_free(&w.transport_key);
	worker_part_free(&w.part);
	return status;
}
