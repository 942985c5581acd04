/* SPDX-License-Identifier: Apache-2.0 */
/* Control messages between the parent and its children. */
#include "kekd/control.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

struct pair {
	int a, b;
};

static int
make_pair(void **state)
{
	static struct pair pair;
	int fds[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
	pair = (struct pair){ fds[0], fds[1] };
	*state = &pair;
	return 0;
}

static int
close_pair(void **state)
{
	const struct pair *p = *state;

	close(p->a);
	close(p->b);
	return 0;
}

static const struct control_message sample = {
	.kind = CONTROL_WORKER, .token = 3, .worker = 2, .count = 7
};

static void
a_message_arrives_as_it_was_sent(void **state)
{
	const struct pair *p = *state;
	struct control_message m = { 0 };
	int fd = 99;

	assert_int_equal(control_send(p->a, &sample, -1), 0);
	assert_int_equal(control_receive(p->b, &m, &fd), 0);
	assert_memory_equal(&m, &sample, sizeof(m));
	assert_int_equal(fd, -1);
}

static void
a_descriptor_arrives_and_is_closed_on_exec(void **state)
{
	const struct pair *p = *state;
	struct control_message m;
	int pipe_ends[2], fd = -1;
	char c = 0;

	assert_int_equal(pipe(pipe_ends), 0);
	assert_int_equal(control_send(p->a, &sample, pipe_ends[1]), 0);
	close(pipe_ends[1]);
	assert_int_equal(control_receive(p->b, &m, &fd), 0);
	assert_true(fd >= 0);
	assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	assert_int_equal(write(fd, "x", 1), 1);
	assert_int_equal(read(pipe_ends[0], &c, 1), 1);
	assert_int_equal(c, 'x');
	close(fd);
	close(pipe_ends[0]);
}

static void
the_other_end_gone_is_epipe_both_ways(void **state)
{
	struct pair *p = *state;
	struct control_message m;
	int fd = 99;

	close(p->a);
	assert_int_equal(control_receive(p->b, &m, &fd), -EPIPE);
	assert_int_equal(control_send(p->b, &sample, -1), -EPIPE);
	assert_int_equal(fd, 99);
	p->a = -1;
}

static void
a_message_of_another_size_is_refused(void **state)
{
	const struct pair *p = *state;
	char bytes[sizeof(sample) + 1] = { 0 };
	struct control_message m;
	int fd;

	assert_int_equal(send(p->a, bytes, sizeof(sample) - 1, 0), sizeof(sample) - 1);
	assert_int_equal(send(p->a, bytes, sizeof(sample) + 1, 0), sizeof(sample) + 1);
	assert_int_equal(control_receive(p->b, &m, &fd), -EBADMSG);
	assert_int_equal(control_receive(p->b, &m, &fd), -EBADMSG);
}

static int
count_open(void)
{
	int n = 0;

	for (int fd = 0; fd < 256; fd++)
		n += fcntl(fd, F_GETFD) != -1;
	return n;
}

static void
more_than_one_descriptor_is_refused_and_none_stays_open(void **state)
{
	const struct pair *p = *state;
	struct iovec iov = { (void *)&sample, sizeof(sample) };
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(3 * sizeof(int))];
	} u = { 0 };
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &u, .msg_controllen = sizeof(u)
	};
	const int fds[3] = { 0, 1, 2 };
	struct control_message m;
	int before = count_open(), fd;

	for (size_t n = 2; n <= 3; n++) {
		msg.msg_controllen = CMSG_SPACE(n * sizeof(int));
		u.head.cmsg_level = SOL_SOCKET;
		u.head.cmsg_type = SCM_RIGHTS;
		u.head.cmsg_len = CMSG_LEN(n * sizeof(int));
		memcpy(CMSG_DATA(&u.head), fds, n * sizeof(int));
		assert_int_equal(sendmsg(p->a, &msg, 0), sizeof(sample));
		assert_int_equal(control_receive(p->b, &m, &fd), -EBADMSG);
		assert_int_equal(count_open(), before);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(
			a_message_arrives_as_it_was_sent, make_pair, close_pair),
		cmocka_unit_test_setup_teardown(
			a_descriptor_arrives_and_is_closed_on_exec, make_pair, close_pair),
		cmocka_unit_test_setup_teardown(
			the_other_end_gone_is_epipe_both_ways, make_pair, close_pair),
		cmocka_unit_test_setup_teardown(
			a_message_of_another_size_is_refused, make_pair, close_pair),
		cmocka_unit_test_setup_teardown(
			more_than_one_descriptor_is_refused_and_none_stays_open, make_pair,
			close_pair),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
