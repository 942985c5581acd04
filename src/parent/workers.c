/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The workers' lives, seen from the parent. The rules that keep a token from being locked are here:
 * one login at a time per token, and none after a refused PIN until the PIN source changes.
 */
#include "parent.h"

#include "kekd/clock.h"
#include "kekd/json.h"
#include "kekd/log.h"
#include "kekd/str.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define PIN_CHECK_NS (2 * CLOCK_S)

/* What a worker is born with, and what stays with others. */
struct birth {
	int fds[CHILD_FD_KEY - CHILD_FD_PART + 1]; /* in the order of enum child_fd */
	int control, frames;			   /* the parent's and kekd-net's ends */
};

static void
close_all(int *fds, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (fds[i] >= 0)
			close(fds[i]);
}

static void
birth_close(struct birth *b)
{
	close_all(b->fds, sizeof(b->fds) / sizeof(b->fds[0]));
	close_all(&b->control, 1);
	close_all(&b->frames, 1);
}

static int *
place(struct birth *b, enum child_fd fd)
{
	return &b->fds[fd - CHILD_FD_PART];
}

static int
make_part(const struct parent *p, unsigned token, unsigned worker, int *ret_fd)
{
	_cleanup_(json_freep) json_t *part = config_worker_part(p->config, token, worker);
	const struct token *t = &p->tokens[token];
	bool known = t->accepted.ino != 0 && pin_same(&t->accepted, &t->workers[worker].pin);
	char *text = NULL;
	int err;

	if (part && json_object_set_new(part, "pin_known", json_boolean(known)) == 0 &&
		json_object_set_new(part, "retry_pin", json_boolean(t->retry_pin)) == 0)
		text = json_canonical(part, NULL);
	err = text ? spawn_memory(text, strlen(text), ret_fd) : -ENOMEM;

	json_text_free(text);
	return err;
}

static int
prepare(const struct parent *p, unsigned token, unsigned worker, struct birth *b)
{
	int err = make_part(p, token, worker, place(b, CHILD_FD_PART));

	if (!err)
		err = sockets_pair(&b->control, place(b, CHILD_FD_CONTROL));
	if (!err)
		err = sockets_pair(&b->frames, place(b, CHILD_FD_NET));
	if (!err)
		err = spawn_memory(p->key.data, p->key.len, place(b, CHILD_FD_KEY));
	if (!err) {
		*place(b, CHILD_FD_STATE) = dup(p->hsm_dir);
		err = *place(b, CHILD_FD_STATE) < 0 ? -errno : 0;
	}
	return err;
}

static int
launch(struct parent *p, unsigned token, unsigned worker, struct birth *b, uint64_t now_ns)
{
	const struct control_message m = {
		.kind = CONTROL_WORKER, .token = token, .worker = worker
	};
	const struct spawn s = { .program = p->worker_program,
		.account = &p->worker_account,
		.environment = p->worker_environment,
		.fds = b->fds,
		.fds_count = sizeof(b->fds) / sizeof(b->fds[0]) };
	struct worker *w = &p->tokens[token].workers[worker];
	pid_t pid;
	int err = control_send(p->net.control, &m, b->frames);

	if (!err)
		err = spawn(&s, &pid);
	if (err)
		return err;
	child_started(&w->child, pid, b->control, now_ns);
	b->control = -1; /* handed over */
	w->logged_in = false;
	return 0;
}

/* What an operator said before nobody was waiting for. */
static void
hold(struct parent *p, unsigned token, const struct pin_stamp *refused, uint64_t now_ns)
{
	struct token *t = &p->tokens[token];

	if (!t->pin_held)
		retry_take(p->hsm_dir, &p->worker_account, p->config->tokens[token].name);
	t->pin_held = true;
	t->refused = *refused;
	t->pin_check_ns = now_ns + PIN_CHECK_NS;
}

/* A task that needs the token is over without it. But kekd join tells of what is missing. */
static bool
gives_up(const struct parent *p)
{
	return p->init && p->task != NET_JOIN && p->task != NET_JOIN_JSON;
}

static void
start(struct parent *p, unsigned token, unsigned worker, uint64_t now_ns)
{
	struct birth b = { .fds = { -1, -1, -1, -1, -1, -1 }, .control = -1, .frames = -1 };
	struct token *t = &p->tokens[token];
	struct worker *w = &t->workers[worker];
	const struct config_token *config = &p->config->tokens[token];
	int err = pin_open(config->pin_source, place(&b, CHILD_FD_PIN), &w->pin);

	if (err) {
		hold(p, token, &w->pin, now_ns);
		if (gives_up(p))
			parent_end(p, CHILD_EXIT_OPERATOR);
		return;
	}
	err = prepare(p, token, worker, &b);
	if (!err)
		err = launch(p, token, worker, &b, now_ns);
	birth_close(&b);
	if (!err)
		t->retry_pin = false; /* it was for this one */
	if (err) {
		log_error("worker %u of token %s cannot be started: %s: trying again", worker,
			config->name, strerror(-err));
		w->child.started_ns = now_ns;
		child_ended(&w->child, now_ns, CHILD_DELAY_FIRST_NS);
		parent_wake_at(p, w->child.restart_ns);
	}
}

/* Longer than that nobody waits for a login. */
static uint64_t
login_time_ns(const struct parent *p)
{
	return p->config->hsm.hang_ms * CLOCK_MS;
}

/* Is a worker of this token about to log in? */
static bool
login_pending(struct parent *p, const struct token *t, uint64_t now_ns)
{
	for (unsigned i = 0; i < p->config->hsm.workers; i++) {
		const struct worker *w = &t->workers[i];
		if (w->child.pid == 0 || w->logged_in ||
			now_ns - w->child.started_ns >= login_time_ns(p))
			continue;
		parent_wake_at(p, w->child.started_ns + login_time_ns(p));
		return true;
	}
	return false;
}

static void
let_retry(struct parent *p, unsigned token, const char *where)
{
	struct token *t = &p->tokens[token];

	log_warning("token %s: its PIN is tried once, because an operator says so %s",
		p->config->tokens[token].name, where);
	t->pin_held = false;
	t->retry_pin = true;
}

/* kekd-net could be made to ask for ever: each PIN is tried once on its word. */
void
workers_retry_pin(struct parent *p, unsigned token)
{
	struct token *t = &p->tokens[token];
	const char *name = p->config->tokens[token].name;

	if (!t->pin_held) {
		log_info("token %s: nobody waits for an operator", name);
	} else if (pin_same(&t->retried, &t->refused)) {
		log_warning("token %s: its PIN was tried again before: change the PIN source, or "
			    "use kekd retry-pin on this host",
			name);
	} else {
		t->retried = t->refused;
		let_retry(p, token, "through the API");
	}
}

static bool
pin_still_held(struct parent *p, unsigned token, uint64_t now_ns)
{
	struct token *t = &p->tokens[token];
	const struct config_token *config = &p->config->tokens[token];

	if (!t->pin_held)
		return false;
	if (now_ns >= t->pin_check_ns) {
		t->pin_check_ns = now_ns + PIN_CHECK_NS;
		t->pin_held = !pin_changed(config->pin_source, &t->refused);
		if (!t->pin_held)
			log_info("the PIN file of token %s has changed: its workers may log in "
				 "again",
				config->name);
	}
	if (t->pin_held && retry_take(p->hsm_dir, &p->worker_account, config->name))
		let_retry(p, token, "on this host");
	if (t->pin_held)
		parent_wake_at(p, t->pin_check_ns);
	return t->pin_held;
}

static void
token_tick(struct parent *p, unsigned token, uint64_t now_ns)
{
	struct token *t = &p->tokens[token];

	if (pin_still_held(p, token, now_ns) || login_pending(p, t, now_ns))
		return;
	for (unsigned i = 0; i < p->config->hsm.workers; i++) {
		struct child *c = &t->workers[i].child;
		if (c->pid > 0) {
			/* Told to go, and for so long not out of its login: it hangs there. */
			if (c->dismissed && now_ns - c->started_ns >= login_time_ns(p))
				child_kill(c, SIGKILL);
			continue;
		}
		if (now_ns >= c->restart_ns) {
			start(p, token, i, now_ns);
			parent_wake_at(p, now_ns + login_time_ns(p));
			return;
		}
		parent_wake_at(p, c->restart_ns);
	}
}

void
workers_tick(struct parent *p, uint64_t now_ns)
{
	if (p->net.pid == 0 || p->net.control < 0)
		return; /* nobody to give the frames' socket to */
	for (unsigned t = 0; t < p->config->tokens_count && p->phase == PARENT_RUNNING; t++)
		token_tick(p, t, now_ns);
}

void
workers_message(struct parent *p, unsigned token, unsigned worker)
{
	struct worker *w = &p->tokens[token].workers[worker];
	struct control_message m;
	int fd, err = control_receive(w->child.control, &m, &fd);

	if (err == 0) {
		if (fd >= 0)
			close(fd);
		if (m.kind == CONTROL_LOGGED_IN) {
			w->logged_in = true;
			p->tokens[token].accepted = w->pin;
		}
	} else if (err != -EAGAIN) {
		close(w->child.control);
		w->child.control = -1;
		if (err != -EPIPE)
			child_kill(&w->child, SIGKILL); /* it talks nonsense */
	}
}

static void
tell_end(const struct parent *p, unsigned token, unsigned worker, int wait_status)
{
	const char *name = p->config->tokens[token].name;
	const struct child *c = &p->tokens[token].workers[worker].child;

	if (c->dismissed || p->phase != PARENT_RUNNING)
		return;
	if (p->init && WIFEXITED(wait_status) && WEXITSTATUS(wait_status) == CHILD_EXIT_OK)
		return; /* kekd-net has done its task */
	if (WIFSIGNALED(wait_status))
		log_warning("worker %u of token %s was killed by signal %d: it starts again",
			worker, name, WTERMSIG(wait_status));
	else if (WEXITSTATUS(wait_status) == CHILD_EXIT_PIN)
		log_error(
			"token %s waits for an operator because of its PIN (see above): no worker "
			"logs in before %s changes, or kekctl hsm retry-pin, or kekd retry-pin",
			name, p->config->tokens[token].pin_source);
	else
		log_warning("worker %u of token %s ended with status %d: it starts again", worker,
			name, WEXITSTATUS(wait_status));
}

static void
bury(struct parent *p, unsigned token, unsigned worker, int wait_status, uint64_t now_ns)
{
	struct worker *w = &p->tokens[token].workers[worker];
	int status = WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : -1;

	tell_end(p, token, worker, wait_status);
	if (status == CHILD_EXIT_PIN)
		hold(p, token, &w->pin, now_ns);
	child_ended(&w->child, now_ns,
		status == CHILD_EXIT_PIN	? 0
		: status == CHILD_EXIT_OPERATOR ? CHILD_DELAY_LAST_NS
						: CHILD_DELAY_FIRST_NS);
	w->logged_in = false;
	if (gives_up(p) && p->phase == PARENT_RUNNING &&
		(status == CHILD_EXIT_PIN || status == CHILD_EXIT_OPERATOR))
		parent_end(p, CHILD_EXIT_OPERATOR);
}

bool
workers_ended(struct parent *p, pid_t pid, int wait_status, uint64_t now_ns)
{
	for (unsigned t = 0; t < p->config->tokens_count; t++)
		for (unsigned i = 0; i < p->config->hsm.workers; i++)
			if (p->tokens[t].workers[i].child.pid == pid) {
				bury(p, t, i, wait_status, now_ns);
				return true;
			}
	return false;
}

void
workers_kill(struct parent *p, int signal_number)
{
	for (unsigned t = 0; t < p->config->tokens_count; t++)
		for (unsigned i = 0; i < p->config->hsm.workers; i++) {
			struct child *c = &p->tokens[t].workers[i].child;
			c->dismissed = true;
			child_kill(c, signal_number);
		}
}

/* A worker that logs in is let finish: killed there, it could not write down that its PIN was
 * refused, and the next one would try it once more. */
void
workers_dismiss(struct parent *p)
{
	for (unsigned t = 0; t < p->config->tokens_count; t++)
		for (unsigned i = 0; i < p->config->hsm.workers; i++) {
			struct worker *w = &p->tokens[t].workers[i];
			w->child.dismissed = true;
			child_kill(&w->child, w->logged_in ? SIGKILL : SIGTERM);
		}
}

bool
workers_any(const struct parent *p)
{
	for (unsigned t = 0; t < p->config->tokens_count; t++)
		for (unsigned i = 0; i < p->config->hsm.workers; i++)
			if (p->tokens[t].workers[i].child.pid > 0)
				return true;
	return false;
}
