/* SPDX-License-Identifier: Apache-2.0 */
/* A real worker on a real SoftHSM token. */
#include "worker.h"

#include "kekd/clock.h"
#include "kekd/control.h"
#include "kekd/str.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define MODULE "/usr/lib/softhsm/libsofthsm2.so"
#define PIN "1234"
#define READY_TIMEOUT (20 * CLOCK_S)

static void
write_file(const char *dir, const char *name, const char *format, ...)
{
	char path[128];
	va_list ap;
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "w");
	assert_non_null(f);
	va_start(ap, format);
	vfprintf(f, format, ap);
	va_end(ap);
	assert_int_equal(fclose(f), 0);
	assert_int_equal(chmod(path, 0600), 0);
}

static void
run_command(const char *command)
{
	if (system(command) != 0)
		fail_msg("failed: %s", command);
}

static void
use_token(const struct test_worker *w)
{
	char conf[128];

	snprintf(conf, sizeof(conf), "%s/softhsm2.conf", w->dir);
	assert_int_equal(setenv("SOFTHSM2_CONF", conf, 1), 0);
}

void
worker_make_token(struct test_worker *w)
{
	char path[128];

	*w = (struct test_worker){ .control = -1 };
	strcpy(w->dir, "/tmp/kekd-token-XXXXXX");
	assert_non_null(mkdtemp(w->dir));
	snprintf(path, sizeof(path), "%s/tokens", w->dir);
	assert_int_equal(mkdir(path, 0700), 0);
	snprintf(path, sizeof(path), "%s/state", w->dir);
	assert_int_equal(mkdir(path, 0700), 0);
	write_file(w->dir, "softhsm2.conf", "directories.tokendir = %s/tokens\nlog.level = ERROR\n",
		w->dir);
	write_file(w->dir, "pin", PIN "\n");
	use_token(w);
	run_command("softhsm2-util --init-token --free --label unit --pin " PIN
		    " --so-pin 12345678 >/dev/null");
}

static int
open_in(const struct test_worker *w, const char *name, int flags)
{
	char path[128];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", w->dir, name);
	fd = open(path, flags | O_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

/* What a child reads to the end. */
static int
pipe_with(const void *data, size_t len)
{
	int fds[2];

	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	assert_int_equal(write(fds[1], data, len), (ssize_t)len);
	close(fds[1]);
	return fds[0];
}

static int
part(void)
{
	static const char text[] = "{\"cluster\":\"testing\",\"token\":\"" WORKER_TOKEN
				   "\",\"index\":0,"
				   "\"uri\":\"pkcs11:token=unit\",\"module\":\"" MODULE
				   "\",\"sessions\":1}";

	return pipe_with(text, sizeof(text) - 1);
}

/* fds[i] becomes descriptor CHILD_FD_PART + i. */
static void
become_worker(const int *fds, size_t count)
{
	const char *program = getenv("KEKD_HSM") ? getenv("KEKD_HSM") : "./kekd-hsm";
	int high[8];

	for (size_t i = 0; i < count; i++)
		high[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, 64);
	for (size_t i = 0; i < count; i++)
		if (dup2(high[i], CHILD_FD_PART + (int)i) < 0)
			_exit(126);
	execl(program, "kekd-hsm", (char *)NULL);
	_exit(127);
}

static int
spawn(struct test_worker *w)
{
	static const uint8_t key[32];
	int control[2], net[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, control), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, net), 0);
	const int fds[] = { part(), control[1], net[1], open_in(w, "pin", O_RDONLY),
		open_in(w, "state", O_RDONLY | O_DIRECTORY), pipe_with(key, sizeof(key)) };
	w->pid = fork();
	assert_true(w->pid >= 0);
	if (w->pid == 0)
		become_worker(fds, STR_COUNT(fds));
	for (size_t i = 0; i < STR_COUNT(fds); i++)
		close(fds[i]);
	w->control = control[0];
	return net[0];
}

static void
wait_ready(struct test_worker *w)
{
	uint64_t end = clock_boot_ns() + READY_TIMEOUT;

	while (!hsm_token_ready(w->hsm, 0)) {
		if (clock_boot_ns() > end)
			fail_msg("the worker does not become ready");
		usleep(1000);
	}
}

void
worker_start(struct test_worker *w)
{
	static const char *const names[] = { WORKER_TOKEN };
	const struct hsm_config config = {
		.tokens = 1, .names = names, .workers = 1, .deadline_ms = 5000, .queue_max = 10000
	};
	int net;

	use_token(w);
	net = spawn(w);
	assert_int_equal(hsm_open(&config, &w->hsm), 0);
	hsm_attach(w->hsm, 0, 0, net);
	wait_ready(w);
}

void
worker_stop(struct test_worker *w)
{
	int status;

	hsm_freep(&w->hsm); /* closes the socket, at which the worker ends */
	if (w->pid > 0)
		waitpid(w->pid, &status, 0);
	w->pid = 0;
	if (w->control >= 0)
		close(w->control);
	w->control = -1;
}

void
worker_remove_token(struct test_worker *w)
{
	char command[128];

	worker_stop(w);
	snprintf(command, sizeof(command), "rm -rf %s", w->dir);
	run_command(command);
}
