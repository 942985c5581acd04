/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The directories that the children write to. A directory that was there before is never given
 * away: whoever could put a link in its place would get what is behind it.
 */
#include "parent.h"

#include "kekd/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What is above the directory is made as any mkdir would. */
static int
make_parents(const char *path)
{
	char *copy = strdup(path);
	int err = copy ? 0 : -ENOMEM;

	for (char *p = copy; !err && (p = strchr(p + 1, '/'));) {
		*p = '\0';
		if (mkdir(copy, 0755) != 0 && errno != EEXIST)
			err = -errno;
		*p = '/';
	}
	free(copy);
	return err;
}

static int
make(const char *path, bool *ret_made)
{
	int err = make_parents(path);

	*ret_made = false;
	if (err)
		return err;
	if (mkdir(path, 0700) == 0)
		*ret_made = true;
	else if (errno != EEXIST)
		return -errno;
	return 0;
}

static int
check_owner(const char *setting, const char *path, int fd, uid_t uid)
{
	struct stat st;

	if (fstat(fd, &st) != 0)
		return -errno;
	if (st.st_uid == uid)
		return 0;
	log_error("%s: %s belongs to user %u, not to %u: chown -R %u %s", setting, path,
		(unsigned)st.st_uid, (unsigned)uid, (unsigned)uid, path);
	return -EPERM;
}

/* Whoever else can write there can take the children's files away and put others in their place. */
static int
close_to_others(const char *setting, const char *path, int fd)
{
	struct stat st;

	if (fstat(fd, &st) != 0)
		return -errno;
	if (!(st.st_mode & 022))
		return 0;
	if (fchmod(fd, st.st_mode & 07755) != 0) {
		int err = -errno;
		log_error("%s: others than its owner can write to %s: chmod go-w %s", setting, path,
			path);
		return err;
	}
	log_warning("%s: others than its owner could write to %s: no longer", setting, path);
	return 0;
}

int
directory_open(const char *setting, const char *path, const struct account *owner, int *ret_fd)
{
	uid_t uid = owner->change ? owner->uid : geteuid();
	bool made;
	int fd = -1, err = make(path, &made);

	if (!err) {
		fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		err = fd < 0 ? -errno : 0;
	}
	if (!err && made && owner->change && fchown(fd, owner->uid, owner->gid) != 0)
		err = -errno;
	if (err) {
		log_error("%s: %s cannot be used: %s: make it a directory of user %u, or set %s to "
			  "another path",
			setting, path, strerror(-err), (unsigned)uid, setting);
	} else {
		err = check_owner(setting, path, fd, uid);
		if (!err)
			err = close_to_others(setting, path, fd);
	}
	if (err && fd >= 0)
		close(fd);
	if (!err)
		*ret_fd = fd;
	return err;
}
