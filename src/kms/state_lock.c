/* SPDX-License-Identifier: Apache-2.0 */
/* See state_lock.h. The kernel drops the lock with the process, however that ends. */
#include "state_lock.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

int
kms_state_lock(const char *dir, int *ret_fd)
{
	int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC), err = 0;

	if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) < 0)
		err = -errno;
	if (err < 0)
		close(fd);
	else
		*ret_fd = fd;
	return err;
}

void
kms_state_lock_close(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}
