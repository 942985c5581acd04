/* SPDX-License-Identifier: Apache-2.0 */
/* Listening sockets, and the pairs between processes. The parent never accepts a connection. */
#include "parent.h"

#include "kekd/log.h"
#include "kekd/str.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PAIR_BUFFER (1024 * 1024)

static const struct {
	int error;
	const char *what, *remedy;
} remedies[] = {
	{ EADDRINUSE, "the port is in use",
		"stop the program that has it (ss -ltnp shows it), or change listen" },
	{ EADDRNOTAVAIL, "this host has no such address",
		"change listen, or wait for the network" },
	{ EAFNOSUPPORT, "this host does not have this kind of address",
		"take the address out of listen, or switch IPv4 or IPv6 on" },
	{ EACCES, "no permission", "ports below 1024 need root: start as root, or change listen" },
};

static void
tell(const char *address, int error)
{
	for (size_t i = 0; i < STR_COUNT(remedies); i++) {
		if (remedies[i].error == error) {
			log_error("cannot listen on %s: %s: %s", address, remedies[i].what,
				remedies[i].remedy);
			return;
		}
	}
	log_error("cannot listen on %s: %s: change listen", address, strerror(error));
}

static int
listen_on(const char *text, int *ret_fd)
{
	struct sockaddr_storage address;
	socklen_t len;
	const int on = 1;
	int err = config_listen_address(text, &address, &len);
	int fd = err ? -1
		     : socket(address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (err)
		return err;
	if (fd < 0)
		return -errno;
	/* Else a restart would have to wait for the old connections to be forgotten. */
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (address.ss_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
	if (bind(fd, (const struct sockaddr *)&address, len) != 0 || listen(fd, SOMAXCONN) != 0) {
		err = -errno;
		close(fd);
		return err;
	}
	*ret_fd = fd;
	return 0;
}

/* The children of a kekd that was just killed may hold the port for a moment yet. */
static int
listen_patiently(const char *text, int *ret_fd)
{
	int err = listen_on(text, ret_fd);

	for (int i = 0; err == -EADDRINUSE && i < 10; i++) {
		nanosleep(&(struct timespec){ 0, 100000000 }, NULL);
		err = listen_on(text, ret_fd);
	}
	return err;
}

int
sockets_listen(const struct config *config, int *ret_fds, unsigned *ret_count)
{
	for (unsigned i = 0; i < config->listen_count && i < PARENT_LISTEN_MAX; i++) {
		int err = listen_patiently(config->listen[i], &ret_fds[i]);
		if (err) {
			tell(config->listen[i], -err);
			return err;
		}
		*ret_count = i + 1;
	}
	return 0;
}

/* Beyond the system's usual limit where we may; what we get otherwise holds some frames, too. */
static void
enlarge(int fd)
{
	const int size = PAIR_BUFFER;

	if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)) != 0)
		setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)) != 0)
		setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
}

int
sockets_pair(int *ret_ours, int *ret_theirs)
{
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
		return -errno;
	for (int i = 0; i < 2; i++)
		enlarge(pair[i]);
	*ret_ours = pair[0];
	*ret_theirs = pair[1];
	return 0;
}
