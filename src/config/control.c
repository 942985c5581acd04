/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The messages between the parent and its children: one struct and at most one descriptor each. Not
 * here: what the messages make anyone do.
 */
#include "kekd/control.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

union ancillary {
	struct cmsghdr head;
	char room[CMSG_SPACE(sizeof(int))];
};

int
control_send(int sock, const struct control_message *m, int fd)
{
	struct iovec iov = { (void *)m, sizeof(*m) };
	union ancillary ancillary = { 0 };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	ssize_t n;

	if (fd != -1) {
		msg.msg_control = &ancillary;
		msg.msg_controllen = sizeof(ancillary);
		ancillary.head.cmsg_level = SOL_SOCKET;
		ancillary.head.cmsg_type = SCM_RIGHTS;
		ancillary.head.cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(&ancillary.head), &fd, sizeof(fd));
	}
	do
		n = sendmsg(sock, &msg, MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : 0;
}

int
control_try_send(int sock, const struct control_message *m)
{
	ssize_t n;

	do
		n = send(sock, m, sizeof(*m), MSG_NOSIGNAL | MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : 0;
}

/* The room for one descriptor is padded and may hold two: whatever came is either kept or closed.
 * The number of descriptors; the last one in *ret_fd. */
static size_t
take_descriptors(struct msghdr *msg, int *ret_fd)
{
	size_t count = 0;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t at = 0; CMSG_LEN(at + sizeof(int)) <= c->cmsg_len; at += sizeof(int)) {
			if (count++ > 0)
				close(*ret_fd);
			memcpy(ret_fd, CMSG_DATA(c) + at, sizeof(int));
		}
	}
	return count;
}

int
control_receive(int sock, struct control_message *ret_message, int *ret_fd)
{
	struct control_message m;
	struct iovec iov = { &m, sizeof(m) };
	union ancillary ancillary;
	struct msghdr msg = { .msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &ancillary,
		.msg_controllen = sizeof(ancillary) };
	size_t count;
	ssize_t n;
	int fd = -1;

	do
		n = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return errno == ECONNRESET ? -EPIPE : -errno;
	count = take_descriptors(&msg, &fd);
	if (n == sizeof(m) && count <= 1 && !(msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC))) {
		*ret_message = m;
		*ret_fd = fd;
		return 0;
	}
	if (count > 0)
		close(fd);
	return n == 0 ? -EPIPE : -EBADMSG;
}
