/* SPDX-License-Identifier: Apache-2.0 */
/* See worker.h. Failures here end the test program: nothing can be tested then. */
#include "worker.h"

#include "kekd/clock.h"
#include "kekd/control.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define FD_FIRST CHILD_FD_PART
#define FD_LAST CHILD_FD_KEY
#define FD_ABOVE 100 /* where descriptors wait until their number is free */

static void
need(bool good, const char *what)
{
	if (good)
		return;
	perror(what);
	exit(1);
}

int
run_quietly(const char *const argv[])
{
	int status = 0;
	pid_t pid = fork();

	need(pid >= 0, "fork");
	if (pid == 0) {
		int null = open("/dev/null", O_RDWR);
		dup2(null, STDOUT_FILENO);
		dup2(null, STDERR_FILENO);
		execvp(argv[0], (char *const *)argv);
		_exit(127);
	}
	need(waitpid(pid, &status, 0) == pid, "waitpid");
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void
write_conf(const struct lab *lab)
{
	char path[128], tokens[128];
	FILE *f;

	snprintf(path, sizeof(path), "%s/softhsm2.conf", lab->dir);
	snprintf(tokens, sizeof(tokens), "%s/tokens", lab->dir);
	need(mkdir(tokens, 0700) == 0, tokens);
	f = fopen(path, "we");
	need(f, path);
	fprintf(f, "directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\n",
		tokens);
	need(fclose(f) == 0, path);
	setenv("SOFTHSM2_CONF", path, 1);
}

bool
lab_open(struct lab *ret_lab)
{
	static const char *const init[] = { "softhsm2-util", "--init-token", "--free", "--label",
		"unit", "--pin", USER_PIN, "--so-pin", "12345678", NULL };
	struct lab lab = { 0 };

	if (access(SOFTHSM, R_OK) < 0)
		return false;
	snprintf(lab.dir, sizeof(lab.dir), "/tmp/kekd-unit-XXXXXX");
	need(mkdtemp(lab.dir), "mkdtemp");
	snprintf(lab.state, sizeof(lab.state), "%s/state", lab.dir);
	need(mkdir(lab.state, 0700) == 0, lab.state);
	need(getcwd(lab.logging, sizeof(lab.logging) - 32), "getcwd");
	strcat(lab.logging, "/tests/modules/p11log.so");
	write_conf(&lab);
	need(run_quietly(init) == 0, "softhsm2-util --init-token");
	*ret_lab = lab;
	return true;
}

void
lab_close(struct lab *lab)
{
	run_quietly((const char *const[]){ "rm", "-rf", lab->dir, NULL });
}

/* A descriptor from which text can be read once. */
static int
text_fd(const char *text)
{
	int fds[2];
	size_t len = strlen(text);

	need(pipe2(fds, O_CLOEXEC) == 0, "pipe");
	need(write(fds[1], text, len) == (ssize_t)len, "write");
	close(fds[1]);
	return fds[0];
}

static int
part_fd(const struct start *start)
{
	char text[2048];

	snprintf(text, sizeof(text),
		"{\"cluster\":\"lab\",\"token\":\"main\",\"index\":0,\"uri\":\"%s\",\"module\":"
		"\"%s\",\"sessions\":%u}",
		start->uri ? start->uri : "pkcs11:token=unit",
		start->module ? start->module : SOFTHSM, start->sessions ? start->sessions : 1);
	return text_fd(text);
}

/* Born with FD_FIRST to FD_LAST, in their order in fds. */
static void
become_worker(const int *fds)
{
	const char *program = getenv("KEKD_HSM");

	for (int i = FD_FIRST; i <= FD_LAST; i++)
		need(dup2(fds[i - FD_FIRST], FD_ABOVE + i) >= 0, "dup2");
	for (int i = FD_FIRST; i <= FD_LAST; i++)
		need(dup2(FD_ABOVE + i, i) >= 0, "dup2");
	close_range(FD_LAST + 1, ~0u, 0);
	execl(program ? program : "./kekd-hsm", "kekd-hsm", (char *)NULL);
	need(false, "kekd-hsm");
}

struct child
child_start(const struct lab *lab, const struct start *start)
{
	const char *pin = start->pin ? start->pin : USER_PIN "\n";
	int net[2], control[2], fds[FD_LAST - FD_FIRST + 1];
	struct child c;

	need(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, net) == 0, "socketpair");
	need(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, control) == 0, "socketpair");
	fds[CHILD_FD_PART - FD_FIRST] = part_fd(start);
	fds[CHILD_FD_CONTROL - FD_FIRST] = control[1];
	fds[CHILD_FD_NET - FD_FIRST] = net[1];
	fds[CHILD_FD_PIN - FD_FIRST] = text_fd(pin);
	fds[CHILD_FD_STATE - FD_FIRST] = open(lab->state, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	fds[CHILD_FD_KEY - FD_FIRST] = text_fd("0123456789abcdef0123456789abcdef");
	c = (struct child){ .pid = fork(), .net = net[0], .control = control[0] };
	need(c.pid >= 0, "fork");
	if (c.pid == 0)
		become_worker(fds);
	for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
		close(fds[i]);
	return c;
}

int
child_wait(struct child *c)
{
	int status = 0;

	if (c->net >= 0)
		close(c->net);
	c->net = -1;
	need(waitpid(c->pid, &status, 0) == c->pid, "waitpid");
	close(c->control);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

void
child_kill(struct child *c, int sig)
{
	int status;

	need(kill(c->pid, sig) == 0, "kill");
	if (sig == SIGSTOP) /* a moment later, while it may still work */
		need(waitpid(c->pid, &status, WUNTRACED) == c->pid && WIFSTOPPED(status), "stop");
}

struct hsm *
lab_serve(const struct lab *lab, struct child *ret_child)
{
	static const char *const names[] = { LAB_TOKEN };
	const struct start start = { 0 };
	const struct hsm_config config = {
		.tokens = 1, .names = names, .workers = 1, .deadline_ms = 5000, .queue_max = 10000
	};
	uint64_t end = clock_boot_ns() + 30 * CLOCK_S;
	struct hsm *hsm = NULL;

	*ret_child = child_start(lab, &start);
	need(hsm_open(&config, &hsm) == 0, "hsm_open");
	hsm_attach(hsm, 0, 0, ret_child->net);
	ret_child->net = -1; /* given away */
	while (!hsm_token_ready(hsm, 0)) {
		need(clock_boot_ns() < end, "a ready worker");
		usleep(1000);
	}
	return hsm;
}

void
lab_end(struct hsm **hsm, struct child *child)
{
	hsm_freep(hsm); /* closes the socket, at which the worker ends */
	child_wait(child);
}
