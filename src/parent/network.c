/* SPDX-License-Identifier: Apache-2.0 */
/* kekd-net's life, seen from the parent. */
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

/* fds: the part and the child's end of the control pair, then the listening sockets, or the backup
 * that is to be restored. */
static int
launch(struct parent *p, int part, int control, pid_t *ret_pid)
{
	int fds[2 + PARENT_LISTEN_MAX] = { part, control };
	const struct spawn s = { .program = p->net_program,
		.account = &p->net_account,
		.environment = p->net_environment,
		.fds = fds,
		.fds_count = 2 + p->listen_count + (p->file >= 0) };

	for (unsigned i = 0; i < p->listen_count; i++)
		fds[2 + i] = p->listen_fds[i];
	if (p->file >= 0)
		fds[2 + p->listen_count] = p->file;
	return spawn(&s, ret_pid);
}

static int
make_part(const struct parent *p, int *ret_fd)
{
	_cleanup_(json_freep) json_t *part = config_net_part(p->config, p->task);
	char *text = part ? json_canonical(part, NULL) : NULL;
	int err = text ? spawn_memory(text, strlen(text), ret_fd) : -ENOMEM;

	json_text_free(text);
	return err;
}

static int
start(struct parent *p, uint64_t now_ns)
{
	const struct control_message m = { .kind = CONTROL_LISTEN, .count = p->listen_count };
	int part = -1, ours = -1, theirs = -1, err;
	pid_t pid;

	err = make_part(p, &part);
	if (!err)
		err = sockets_pair(&ours, &theirs);
	if (!err)
		err = control_send(ours, &m, -1);
	if (!err)
		err = launch(p, part, theirs, &pid);
	if (!err) {
		child_started(&p->net, pid, ours, now_ns);
		p->unsent = 0;
		ours = -1; /* handed over */
	}
	if (part >= 0)
		close(part);
	if (ours >= 0)
		close(ours);
	if (theirs >= 0)
		close(theirs);
	return err;
}

void
network_tick(struct parent *p, uint64_t now_ns)
{
	int err;

	if (p->net.pid > 0 || p->phase != PARENT_RUNNING)
		return;
	if (now_ns < p->net.restart_ns) {
		parent_wake_at(p, p->net.restart_ns);
		return;
	}
	err = start(p, now_ns);
	if (err) {
		log_error("kekd-net cannot be started: %s: trying again", strerror(-err));
		p->net.started_ns = now_ns;
		child_ended(&p->net, now_ns, CHILD_DELAY_FIRST_NS);
		parent_wake_at(p, p->net.restart_ns);
	}
}

void
network_tell(struct parent *p, enum control_kind kind)
{
	const struct control_message m = { .kind = kind };

	p->unsent &= ~(1u << kind);
	if (p->net.control >= 0 && control_send(p->net.control, &m, -1) == -EAGAIN)
		p->unsent |= 1u << kind;
}

void
network_tell_unsent(struct parent *p)
{
	p->unsent &= ~(1u << CONTROL_RELOAD); /* reload_tick tries again */
	if (p->unsent & 1u << CONTROL_STOP)
		network_tell(p, CONTROL_STOP);
}

/* A worker that is younger than hsm.hang cannot have hung for so long: it was started again since.
 */
static void
kill_hung(struct parent *p, unsigned token, unsigned worker)
{
	struct child *c = &p->tokens[token].workers[worker].child;

	if (c->pid == 0 || clock_boot_ns() - c->started_ns < p->config->hsm.hang_ms * CLOCK_MS)
		return;
	log_warning("worker %u of token %s hangs: killed", worker, p->config->tokens[token].name);
	child_kill(c, SIGKILL);
}

/* kekd-net faces the network: what it says is checked as if it were a stranger's. */
static void
obey(struct parent *p, const struct control_message *m)
{
	if (m->kind == CONTROL_READY) {
		if (!p->init)
			log_info("serving");
		notify_ready(p);
	} else if (m->kind == CONTROL_RELOADED) {
		reload_answered(p, m);
	} else if (m->kind == CONTROL_KILL && m->token < p->config->tokens_count &&
		   m->worker < p->config->hsm.workers) {
		kill_hung(p, m->token, m->worker);
	} else if (m->kind == CONTROL_RETRY_PIN && m->token < p->config->tokens_count) {
		workers_retry_pin(p, m->token);
	} else {
		log_warning("kekd-net sent a message that it may not send: ignored");
	}
}

void
network_message(struct parent *p)
{
	struct control_message m;
	int fd, err = control_receive(p->net.control, &m, &fd);

	if (err == 0) {
		if (fd >= 0)
			close(fd);
		obey(p, &m);
	} else if (err != -EAGAIN) {
		close(p->net.control);
		p->net.control = -1;
		if (err != -EPIPE) { /* it talks nonsense */
			log_error("kekd-net's messages cannot be read: %s: killed", strerror(-err));
			child_kill(&p->net, SIGKILL);
		}
	}
}

static bool
is_final(const struct parent *p, int wait_status)
{
	return p->init ||
	       (WIFEXITED(wait_status) && WEXITSTATUS(wait_status) == CHILD_EXIT_OPERATOR);
}

/* What is to be put right stands on standard output. */
static bool
is_report(const struct parent *p)
{
	return p->task == NET_JOIN || p->task == NET_JOIN_JSON;
}

/* Its end of all frame sockets is gone: the workers start anew, at once and without blame. */
void
network_ended(struct parent *p, int wait_status, uint64_t now_ns)
{
	child_ended(&p->net, now_ns, 0);
	notify_not_ready(p);
	if (WIFSIGNALED(wait_status))
		log_warning("kekd-net was killed by signal %d", WTERMSIG(wait_status));
	else if (!is_report(p) && WEXITSTATUS(wait_status) != CHILD_EXIT_OK)
		log_warning("kekd-net ended with status %d", WEXITSTATUS(wait_status));
	if (p->phase != PARENT_RUNNING)
		return;
	if (is_final(p, wait_status)) {
		if (!is_report(p) && WIFEXITED(wait_status) &&
			WEXITSTATUS(wait_status) == CHILD_EXIT_OPERATOR)
			log_error("kekd-net cannot work: put right what it says above, then start "
				  "again");
		parent_end(
			p, WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : CHILD_EXIT_FAILED);
		return;
	}
	log_info("kekd-net and all workers start again");
	workers_dismiss(p);
}
