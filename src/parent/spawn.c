/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Makes a process of a program: its descriptors, its user, its environment, and that it dies with
 * the parent. Not here: which programs, and when.
 */
#include "parent.h"

#include "kekd/log.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#define FIRST_FD 3
#define PARKING_FD 128 /* above all numbers that a child's descriptors get */
#define EXIT_NOT_STARTED 127

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

int
spawn_memory(const void *data, size_t len, int *ret_fd)
{
	const char *p = data;
	/* Kernels before 6.3 do not know the second flag; some later ones insist on it. */
	int fd = memfd_create("kekd", MFD_CLOEXEC | MFD_NOEXEC_SEAL);

	if (fd < 0 && errno == EINVAL)
		fd = memfd_create("kekd", MFD_CLOEXEC);
	if (fd < 0)
		return -errno;
	while (len > 0) {
		ssize_t n = write(fd, p, len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			break;
		p += n;
		len -= (size_t)n;
	}
	if (len > 0 || lseek(fd, 0, SEEK_SET) != 0) {
		int err = -errno;
		close(fd);
		return err;
	}
	*ret_fd = fd;
	return 0;
}

/* All descriptors go out of the way first, so that no one overwrites another. */
static int
arrange(const struct spawn *s)
{
	int parked[PARENT_LISTEN_MAX + 8], null = open("/dev/null", O_RDONLY | O_CLOEXEC);

	if (null < 0 || dup2(null, STDIN_FILENO) < 0 || s->fds_count > PARENT_LISTEN_MAX + 8)
		return -errno;
	for (size_t i = 0; i < s->fds_count; i++) {
		parked[i] = fcntl(s->fds[i], F_DUPFD_CLOEXEC, PARKING_FD);
		if (parked[i] < 0)
			return -errno;
	}
	for (size_t i = 0; i < s->fds_count; i++)
		if (dup2(parked[i], FIRST_FD + (int)i) < 0)
			return -errno;
	return close_range(FIRST_FD + (unsigned)s->fds_count, ~0u, 0) ? -errno : 0;
}

static void
reset_signals(void)
{
	sigset_t none;

	sigemptyset(&none);
	signal(SIGPIPE, SIG_DFL);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

/* A change of user clears the death signal, so that comes after; and the parent may have died
 * before. */
static int
confine(const struct spawn *s, pid_t parent)
{
	const struct rlimit none = { 0, 0 };
	int err = account_become(s->account);

	if (err)
		return err;
	if (setrlimit(RLIMIT_CORE, &none) != 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
		prctl(PR_SET_PDEATHSIG, SIGKILL) != 0)
		return -errno;
	return getppid() == parent ? 0 : -ESRCH;
}

static void __attribute__((noreturn)) become_program(const struct spawn *s, pid_t parent)
{
	char *const argv[] = { (char *)s->program, NULL };
	int err;

	/* A group of its own: control-C is the parent's to tell, after draining. */
	setpgid(0, 0);
	umask(077);
	err = confine(s, parent);
	if (!err)
		err = arrange(s);
	if (!err) {
		reset_signals();
		execve(s->program, argv, s->environment);
		err = -errno;
	}
	log_error("%s cannot be started: %s: install kekd whole, or set KEKD_LIBEXECDIR",
		s->program, strerror(-err));
	_exit(EXIT_NOT_STARTED);
}

int
spawn(const struct spawn *s, pid_t *ret_pid)
{
	pid_t parent = getpid(), pid = fork();

	if (pid < 0)
		return -errno;
	if (pid == 0)
		become_program(s, parent);
	*ret_pid = pid;
	return 0;
}
