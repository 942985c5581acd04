/* SPDX-License-Identifier: Apache-2.0 */
/* Each line of the sandbox's tables is tried, in a process of its own that it confines. */
#include "kekd/sandbox.h"

#include "kekd/log.h"
#include "kekd/str.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* After what it needs. */
#include <cmocka.h>

#if defined(HAVE_SECCOMP) && !defined(KEKD_SANITIZERS) && !defined(KEKD_COVERAGE)
#include <seccomp.h>

#define UNCONFINED SANDBOX_COUNT

/* What a call does to a process: the signal that ended it, or its errno. */
struct fate {
	int signal, error;
};

static struct fate
try_call(enum sandbox_who who, long number, const long arg[6])
{
	struct fate fate = { 0, 0 };
	int fds[2], status;
	pid_t pid;

	assert_int_equal(pipe(fds), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		alarm(2); /* for those that wait */
		sandbox_harden();
		if (who != UNCONFINED && sandbox_enter(who) != 0)
			_exit(99);
		errno = 0;
		if (syscall(number, arg[0], arg[1], arg[2], arg[3], arg[4], arg[5]) == 0)
			errno = 0;
		fate.error = errno;
		(void)!write(fds[1], &fate.error, sizeof(fate.error));
		_exit(0);
	}
	close(fds[1]);
	(void)!read(fds[0], &fate.error, sizeof(fate.error));
	close(fds[0]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFSIGNALED(status))
		fate.signal = WTERMSIG(status);
	else if (number != SYS_exit && number != SYS_exit_group)
		assert_int_equal(WEXITSTATUS(status), 0);
	return fate;
}

/* Arguments that do no harm wherever the call gets through, and meet the line's condition. */
static void
arguments(const struct sandbox_set *s, long arg[6])
{
	for (size_t i = 0; i < 6; i++)
		arg[i] = -1;
	if (s->match == SANDBOX_EQUAL)
		arg[s->arg] = (long)s->value;
	else if (s->match == SANDBOX_BITS)
		arg[s->arg] = (long)s->value;
}

/* A fork that is let through has a second process go on: it must not reach the test. */
static bool
forks(const char *name)
{
	return strcmp(name, "fork") == 0 || strcmp(name, "vfork") == 0 ||
	       strcmp(name, "clone") == 0;
}

static void
try_line(enum sandbox_who who, const struct sandbox_set *s, const char *name)
{
	int number = seccomp_syscall_resolve_name(name);
	long arg[6];
	struct fate fate;

	/* A name that libseccomp does not know on any machine is a slip of the pen. */
	if (number == __NR_SCMP_ERROR)
		fail_msg("%s: no such system call", name);
	if (number < 0 || (s->action == SANDBOX_ALLOW && forks(name)))
		return;
	arguments(s, arg);
	fate = try_call(who, number, arg);
	if (s->action == SANDBOX_KILL && fate.signal != SIGSYS)
		fail_msg("%s did not end process %d: errno %d", name, who, fate.error);
	if (s->action == SANDBOX_REFUSE &&
		(fate.signal != 0 || fate.error != (s->error ? s->error : EPERM)))
		fail_msg("%s: signal %d, errno %d in process %d", name, fate.signal, fate.error,
			who);
	if (s->action == SANDBOX_ALLOW && (fate.signal == SIGSYS || fate.error == ENOSYS) &&
		try_call(UNCONFINED, number, arg).error != ENOSYS)
		fail_msg("%s is not allowed in process %d", name, who);
}

static unsigned
try_table(enum sandbox_who who)
{
	const struct sandbox_set *s;
	unsigned lines = 0;

	for (size_t i = 0; (s = sandbox_set(who, i)); i++) {
		char names[2048], *rest = names;

		assert_true(strlen(s->calls) < sizeof(names));
		strcpy(names, s->calls);
		for (char *name; (name = strsep(&rest, " "));) {
			try_line(who, s, name);
			lines++;
		}
	}
	return lines;
}

static void
test_each_line_of_kekd_nets_table_does_what_it_says(void **state)
{
	(void)state;
	assert_true(try_table(SANDBOX_NET) > 150);
	assert_true(try_table(SANDBOX_NET_ETCD) > 150);
	assert_true(try_table(SANDBOX_KMS) > 150);
}

static void
test_each_line_of_the_workers_tables_does_what_it_says(void **state)
{
	(void)state;
	try_table(SANDBOX_WORKER);
	try_table(SANDBOX_WORKER_OFFLINE);
}

static void
test_each_line_of_the_parents_table_does_what_it_says(void **state)
{
	(void)state;
	try_table(SANDBOX_PARENT);
}

/* Runs in a confined process; 0 is success. */
static int
confined(enum sandbox_who who, int (*action)(void))
{
	pid_t pid = fork();
	int status;

	assert_true(pid >= 0);
	if (pid == 0) {
		sandbox_harden();
		_exit(sandbox_enter(who) != 0 ? 99 : action());
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

static int
run_a_program(void)
{
	execl("/bin/true", "true", (char *)NULL);
	return errno;
}

static int
fork_and_run(void)
{
	int status;
	pid_t pid = fork();

	if (pid == 0)
		_exit(run_a_program());
	return pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status)
		       ? 98
		       : WEXITSTATUS(status);
}

static void
test_no_program_is_run_but_by_the_parent(void **state)
{
	(void)state;
	assert_int_equal(confined(SANDBOX_NET, run_a_program), -SIGSYS);
	assert_int_equal(confined(SANDBOX_NET, fork_and_run), -SIGSYS);
	assert_int_equal(confined(SANDBOX_WORKER, run_a_program), EPERM);
	assert_int_equal(confined(SANDBOX_WORKER, fork_and_run), EPERM);
	assert_int_equal(confined(SANDBOX_PARENT, fork_and_run), 0);
}

static char refused_not[] = "";

static void *
ask_for_a_socket(void *arg)
{
	(void)arg;
	return socket(AF_INET, SOCK_STREAM, 0) < 0 ? NULL : refused_not;
}

static void *
wait_then_ask(void *arg)
{
	char c;

	return read(*(int *)arg, &c, 1) == 1 ? ask_for_a_socket(NULL) : refused_not;
}

/* One thread from before the filter, one from after it. */
static int
threads_too(void)
{
	int fds[2];
	pthread_t old, new;
	void *a, *b;

	if (pipe(fds) != 0 || pthread_create(&old, NULL, wait_then_ask, &fds[0]) != 0)
		return 1;
	sandbox_harden();
	if (sandbox_enter(SANDBOX_NET) != 0 || write(fds[1], "x", 1) != 1)
		return 2;
	if (pthread_create(&new, NULL, ask_for_a_socket, NULL) != 0)
		return 3;
	pthread_join(old, &a);
	pthread_join(new, &b);
	return a || b ? 4 : 0;
}

static void
test_the_filter_holds_for_threads_from_before_and_after(void **state)
{
	pid_t pid = fork();
	int status;

	(void)state;
	if (pid == 0)
		_exit(threads_too());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static int
write_and_run(void)
{
	long page = sysconf(_SC_PAGESIZE);
	void *p = mmap(
		NULL, (size_t)page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return 1;
	if (mmap(NULL, (size_t)page, PROT_READ | PROT_WRITE | PROT_EXEC,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED)
		return 2;
	return mprotect(p, (size_t)page, PROT_READ | PROT_WRITE | PROT_EXEC) == 0 ? 3 : 0;
}

static void
test_nobody_gets_memory_to_write_and_run(void **state)
{
	(void)state;
	for (int who = 0; who < SANDBOX_COUNT; who++)
		assert_int_equal(confined((enum sandbox_who)who, write_and_run), 0);
}

/* A call that this table has never heard of: a new libc's. */
static void
test_kekd_net_lives_on_after_an_unknown_call(void **state)
{
	const long arg[6] = { 0 };
	struct fate fate = try_call(SANDBOX_NET, 100000, arg);

	(void)state;
	assert_int_equal(fate.signal, 0);
	assert_int_equal(fate.error, ENOSYS);
}

static int
undo(void)
{
	return prctl(PR_SET_DUMPABLE, 1) == 0 ? 1 : prctl(PR_GET_DUMPABLE);
}

static void
test_a_child_cannot_open_itself_to_others_again(void **state)
{
	(void)state;
	assert_int_equal(confined(SANDBOX_NET, undo), 0);
	assert_int_equal(confined(SANDBOX_WORKER, undo), 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_each_line_of_kekd_nets_table_does_what_it_says),
		cmocka_unit_test(test_each_line_of_the_workers_tables_does_what_it_says),
		cmocka_unit_test(test_each_line_of_the_parents_table_does_what_it_says),
		cmocka_unit_test(test_no_program_is_run_but_by_the_parent),
		cmocka_unit_test(test_the_filter_holds_for_threads_from_before_and_after),
		cmocka_unit_test(test_nobody_gets_memory_to_write_and_run),
		cmocka_unit_test(test_kekd_net_lives_on_after_an_unknown_call),
		cmocka_unit_test(test_a_child_cannot_open_itself_to_others_again),
	};

	log_open("test_sandbox", LOG_LEVEL_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

#else

int
main(void)
{
	puts("built without a filter: nothing to try");
	return 77;
}

#endif
