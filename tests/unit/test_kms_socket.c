/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The plugin's socket: it has its mode from the first moment, takes the place of a dead one alone,
 * and leaves what is not its own.
 */
#include "../../src/kms/socket.h"

#include "kekd/log.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

struct site {
	char dir[32], path[64];
};

static int
set_up(void **state)
{
	struct site *s = calloc(1, sizeof(*s));

	strcpy(s->dir, "/tmp/kekd-kms-XXXXXX");
	assert_non_null(mkdtemp(s->dir));
	snprintf(s->path, sizeof(s->path), "%s/kms.sock", s->dir);
	*state = s;
	return 0;
}

static int
tear_down(void **state)
{
	struct site *s = *state;

	unlink(s->path);
	rmdir(s->dir);
	free(s);
	return 0;
}

static int
open_mode(const struct site *s, mode_t mode, struct kms_socket *ret_socket)
{
	return kms_socket_bind(
		&(const struct kms_socket_config){ s->path, mode, (uid_t)-1, (gid_t)-1 },
		"socket.path", ret_socket);
}

static int
reach(const char *path)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strcpy(a.sun_path, path);
	assert_true(fd >= 0);
	if (connect(fd, (const struct sockaddr *)&a, sizeof(a)) == 0)
		return fd;
	close(fd);
	return -errno;
}

static void
test_it_has_its_mode_and_is_gone_at_the_end(void **state)
{
	struct site *s = *state;
	struct kms_socket k;
	struct stat st;
	mode_t before = umask(022);
	int fd;

	assert_int_equal(open_mode(s, 0660, &k), 0);
	assert_int_equal(umask(before), 022); /* as it was */
	assert_int_equal(lstat(s->path, &st), 0);
	assert_int_equal(st.st_mode, S_IFSOCK | 0660);
	assert_true(fcntl(k.fd, F_GETFL) & O_NONBLOCK);
	assert_true(fcntl(k.fd, F_GETFD) & FD_CLOEXEC);
	fd = reach(s->path);
	assert_true(fd >= 0);
	close(fd);
	kms_socket_close(&k);
	assert_int_equal(lstat(s->path, &st), -1);
}

static void
test_a_dead_socket_is_replaced(void **state)
{
	struct site *s = *state;
	struct kms_socket k;
	pid_t child = fork();
	int status, fd;

	if (child == 0)
		_exit(open_mode(s, 0600, &k)); /* as after SIGKILL: the path stays */
	waitpid(child, &status, 0);
	assert_int_equal(status, 0);
	assert_int_equal(access(s->path, F_OK), 0);
	assert_int_equal(open_mode(s, 0600, &k), 0);
	fd = reach(s->path);
	assert_true(fd >= 0);
	close(fd);
	kms_socket_close(&k);
}

static void
test_a_live_socket_is_left(void **state)
{
	struct site *s = *state;
	struct kms_socket k, other = KMS_SOCKET_INIT;
	int fd;

	assert_int_equal(open_mode(s, 0600, &k), 0);
	assert_int_equal(open_mode(s, 0600, &other), -EADDRINUSE);
	fd = reach(s->path);
	assert_true(fd >= 0);
	close(fd);
	kms_socket_close(&k);
}

static void
test_a_file_is_never_removed(void **state)
{
	struct site *s = *state;
	struct kms_socket k = KMS_SOCKET_INIT;
	struct stat st;
	int fd = open(s->path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);

	close(fd);
	assert_int_equal(open_mode(s, 0600, &k), -EEXIST);
	assert_int_equal(lstat(s->path, &st), 0);
	assert_true(S_ISREG(st.st_mode));
	unlink(s->path);
	assert_int_equal(symlink("elsewhere", s->path), 0);
	assert_int_equal(open_mode(s, 0600, &k), -EEXIST);
	assert_int_equal(lstat(s->path, &st), 0);
}

static void
test_the_successor_s_socket_is_left(void **state)
{
	struct site *s = *state;
	struct kms_socket old, new;

	assert_int_equal(open_mode(s, 0600, &old), 0);
	assert_int_equal(unlink(s->path), 0);
	assert_int_equal(open_mode(s, 0600, &new), 0);
	kms_socket_close(&old);
	assert_int_equal(access(s->path, F_OK), 0);
	kms_socket_close(&new);
}

/* As a service manager does it: the descriptor is 3 after exec, which is not needed here. */
static int
inherit(int fd, const char *count)
{
	struct kms_socket k = KMS_SOCKET_INIT;
	char pid[16];
	pid_t child = fork();
	int status, given;

	if (child != 0) {
		waitpid(child, &status, 0);
		return (int8_t)WEXITSTATUS(status);
	}
	snprintf(pid, sizeof(pid), "%d", (int)getpid());
	setenv("LISTEN_PID", pid, 1);
	setenv("LISTEN_FDS", count, 1);
	dup2(fd, 3);
	given = kms_socket_inherit(&k);
	if (getenv("LISTEN_FDS"))
		_exit(99);
	if (given == 1 && (k.fd != 3 || k.ours || !(fcntl(3, F_GETFL) & O_NONBLOCK)))
		_exit(98);
	kms_socket_close(&k);
	_exit(given);
}

static void
test_the_service_manager_s_socket_is_taken_and_left(void **state)
{
	struct site *s = *state;
	struct kms_socket k, none = KMS_SOCKET_INIT;
	int pair[2];

	assert_int_equal(kms_socket_inherit(&none), 0);
	assert_int_equal(open_mode(s, 0600, &k), 0);
	assert_int_equal(inherit(k.fd, "1"), 1);
	assert_int_equal(access(s->path, F_OK), 0);
	assert_int_equal(inherit(k.fd, "2"), -EINVAL);
	assert_int_equal(inherit(k.fd, "0"), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	assert_int_equal(inherit(pair[0], "1"), -EINVAL); /* it does not listen */
	close(pair[0]);
	close(pair[1]);
	kms_socket_close(&k);
}

static void
test_this_user_is_admitted(void **state)
{
	struct site *s = *state;
	struct kms_socket k;
	char peer[128], self[32];
	int client, server;

	assert_int_equal(open_mode(s, 0600, &k), 0);
	client = reach(s->path);
	server = accept(k.fd, NULL, NULL);
	assert_true(kms_socket_admits(&k, server, peer));
	snprintf(self, sizeof(self), "process %d (", (int)getpid());
	assert_non_null(strstr(peer, self));
	close(client);
	close(server);
	kms_socket_close(&k);
}

/* Who got in before the mode was narrowed, or by a descriptor that was handed on. */
static void
test_a_stranger_is_not_admitted(void **state)
{
	struct site *s = *state;
	struct kms_socket k;
	char peer[128];
	pid_t child;
	int server, status;

	if (geteuid() != 0)
		skip();
	assert_int_equal(open_mode(s, 0660, &k), 0);
	chmod(s->path, 0666);
	chmod(s->dir, 0755);
	child = fork();
	if (child == 0) {
		if (setgid(12345) < 0 || setuid(12345) < 0)
			_exit(1);
		_exit(reach(s->path) < 0);
	}
	waitpid(child, &status, 0);
	assert_int_equal(status, 0);
	server = accept(k.fd, NULL, NULL);
	assert_false(kms_socket_admits(&k, server, peer));
	assert_int_equal(lchown(s->path, (uid_t)-1, 12345), 0);
	assert_true(kms_socket_admits(&k, server, peer)); /* as the socket's group */
	chmod(s->path, 0600);
	assert_false(kms_socket_admits(&k, server, peer));
	assert_int_equal(lchown(s->path, 12345, (gid_t)-1), 0);
	assert_true(kms_socket_admits(&k, server, peer)); /* as its owner */
	close(server);
	kms_socket_close(&k);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_it_has_its_mode_and_is_gone_at_the_end),
		TEST(test_a_dead_socket_is_replaced),
		TEST(test_a_live_socket_is_left),
		TEST(test_a_file_is_never_removed),
		TEST(test_the_successor_s_socket_is_left),
		TEST(test_the_service_manager_s_socket_is_taken_and_left),
		TEST(test_this_user_is_admitted),
		TEST(test_a_stranger_is_not_admitted),
	};

	log_open("test_kms_socket", LOG_LEVEL_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
