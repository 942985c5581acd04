/* SPDX-License-Identifier: Apache-2.0 */
/* Small files, replaced durably. */
#include "kekd/file.h"

#include "kekd/str.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int
write_all(int fd, const uint8_t *data, size_t len)
{
	while (len > 0) {
		ssize_t n = write(fd, data, len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -ENOSPC;
		data += n;
		len -= (size_t)n;
	}
	return 0;
}

static int
write_synced(int dir, const char *name, const void *data, size_t len)
{
	int fd = openat(dir, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	int err;

	if (fd < 0)
		return -errno;
	err = write_all(fd, data, len);
	if (err == 0 && fsync(fd) < 0)
		err = -errno;
	close(fd);
	if (err < 0)
		unlinkat(dir, name, 0);
	return err;
}

int
file_replace_at(int dir, const char *name, const void *data, size_t len)
{
	char fresh[NAME_MAX + 1];
	int err;

	if (snprintf(fresh, sizeof(fresh), "%s.new", name) >= (int)sizeof(fresh))
		return -ENAMETOOLONG;
	err = write_synced(dir, fresh, data, len);
	if (err == 0 && renameat(dir, fresh, dir, name) < 0) {
		err = -errno;
		unlinkat(dir, fresh, 0);
	}
	if (err == 0 && fsync(dir) < 0)
		err = -errno;
	return err;
}

static int
open_dir(const char *dir)
{
	int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

int
file_replace(const char *dir, const char *name, const void *data, size_t len)
{
	int fd = open_dir(dir), err;

	if (fd < 0)
		return fd;
	err = file_replace_at(fd, name, data, len);
	close(fd);
	return err;
}

ssize_t
file_read(const char *dir, const char *name, void *ret_data, size_t size)
{
	int dir_fd = open_dir(dir), fd;
	ssize_t n = -1;

	if (dir_fd < 0)
		return dir_fd;
	fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd >= 0)
		n = read(fd, ret_data, size);
	if (n < 0)
		n = -errno;
	if (fd >= 0)
		close(fd);
	close(dir_fd);
	return n;
}

int
file_sync_dir(const char *dir)
{
	int fd = open_dir(dir), err;

	if (fd < 0)
		return fd;
	err = fsync(fd) < 0 ? -errno : 0;
	close(fd);
	return err;
}

char *
file_directory(const char *path)
{
	_cleanup_(str_freep) char *copy = strdup(path);

	return copy ? realpath(dirname(copy), NULL) : NULL;
}
