/* SPDX-License-Identifier: Apache-2.0 */
/* Checks of files, directories and addresses that the configuration names. */
#include "load.h"

#include "kekd/str.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

int
check_resolve(const struct check *c, char **path)
{
	char *absolute;

	if (**path == '/')
		return 0;
	if (asprintf(&absolute, "%s/%s", c->dir, *path) < 0)
		return -ENOMEM;
	free(*path);
	*path = absolute;
	return 0;
}

bool
check_file(struct check *c, const char *setting, const char *path)
{
	struct stat st;

	if (stat(path, &st) != 0 || (S_ISREG(st.st_mode) && access(path, R_OK) != 0))
		check_finding(c, setting,
			"%s: %s cannot be read: %s: put the file there, or correct the path",
			setting, path, strerror(errno));
	else if (!S_ISREG(st.st_mode))
		check_finding(c, setting, "%s: %s is not a file: correct the path", setting, path);
	else
		return true;
	return false;
}

void
check_directory(struct check *c, const char *setting, const char *path)
{
	struct stat st;

	if (stat(path, &st) == 0 && !S_ISDIR(st.st_mode))
		check_finding(
			c, setting, "%s: %s is not a directory: correct the path", setting, path);
}

/* "[V6]:PORT" and "ADDRESS:PORT" into host and port; -EINVAL. */
static int
split_address(const char *text, char host[64], const char **ret_port)
{
	bool bracket = text[0] == '[';
	const char *from = text + bracket;
	const char *to = bracket ? strchr(from, ']') : strchr(from, ':');
	size_t len = to ? (size_t)(to - from) : 0;

	if (len == 0 || len >= 64 || to[bracket] != ':' || (strchr(from, ':') < to) != bracket)
		return -EINVAL;
	memcpy(host, from, len);
	host[len] = '\0';
	*ret_port = to + bracket + 1;
	return 0;
}

static bool
is_port(const char *text)
{
	size_t len = strspn(text, "0123456789");
	unsigned long port = strtoul(text, NULL, 10);

	return len >= 1 && len <= 5 && text[len] == '\0' && port >= 1 && port <= 65535;
}

int
config_listen_address(const char *text, struct sockaddr_storage *ret_address, socklen_t *ret_len)
{
	const struct addrinfo hints = { .ai_family = text[0] == '[' ? AF_INET6 : AF_INET,
		.ai_socktype = SOCK_STREAM,
		.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV };
	struct addrinfo *found;
	const char *port;
	char host[64];

	if (split_address(text, host, &port) != 0 || !is_port(port) ||
		getaddrinfo(host, port, &hints, &found) != 0)
		return -EINVAL;
	memcpy(ret_address, found->ai_addr, found->ai_addrlen);
	*ret_len = found->ai_addrlen;
	freeaddrinfo(found);
	return 0;
}
