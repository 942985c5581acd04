/* SPDX-License-Identifier: Apache-2.0 */
/* The PIN source: opened for a worker, watched for changes. Its content is never read here. */
#include "parent.h"

#include "kekd/log.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

static struct pin_stamp
stamp(const struct stat *st)
{
	return (struct pin_stamp){ st->st_dev, st->st_ino, st->st_size, st->st_mtim, st->st_ctim };
}

static bool
same_time(struct timespec a, struct timespec b)
{
	return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

bool
pin_same(const struct pin_stamp *a, const struct pin_stamp *b)
{
	return a->dev == b->dev && a->ino == b->ino && a->size == b->size &&
	       same_time(a->mtime, b->mtime) && same_time(a->ctime, b->ctime);
}

bool
pin_changed(const char *path, const struct pin_stamp *since)
{
	struct pin_stamp now = { 0 };
	struct stat st;

	if (stat(path, &st) == 0)
		now = stamp(&st);
	return !pin_same(&now, since);
}

int
pin_open(const char *path, int *ret_fd, struct pin_stamp *ret_stamp)
{
	struct stat st;
	int err, fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);

	*ret_stamp = (struct pin_stamp){ 0 };
	if (fd < 0 || fstat(fd, &st) != 0) {
		err = -errno;
		if (stat(path, &st) == 0)
			*ret_stamp = stamp(&st);
		log_error("the PIN file %s cannot be opened: %s: put it back; no worker of its "
			  "token starts before",
			path, strerror(-err));
		goto out;
	}
	*ret_stamp = stamp(&st);
	err = S_ISREG(st.st_mode) && !(st.st_mode & 077) ? 0 : -EPERM;
	if (err)
		log_error("the PIN file %s must be a file that its owner alone can reach: chmod "
			  "600 %s; no worker of its token starts before",
			path, path);
out:
	if (!err)
		*ret_fd = fd;
	else if (fd >= 0)
		close(fd);
	return err;
}
