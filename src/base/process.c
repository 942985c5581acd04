/* SPDX-License-Identifier: Apache-2.0 */
/* /proc/self/stat and /proc/self/fd. */
#include "kekd/process.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static uint64_t
count_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	uint64_t count = 0;

	if (!dir)
		return 0;
	while (readdir(dir))
		count++;
	closedir(dir);
	return count > 3 ? count - 3 : 0; /* ".", ".." and the directory itself */
}

/* The fields behind the name, which may hold anything, blanks and brackets too. */
static void
read_stat(struct process_usage *u)
{
	char text[1024];
	unsigned long user = 0, system = 0;
	long resident = 0;
	int fd = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	const char *fields;

	if (fd >= 0)
		close(fd);
	text[n > 0 ? n : 0] = '\0';
	fields = strrchr(text, ')');
	if (!fields ||
		sscanf(fields + 1,
			" %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu %*d %*d %*d %*d "
			"%" SCNu64 " %*d %*u %" SCNu64 " %ld",
			&user, &system, &u->threads, &u->virtual_bytes, &resident) != 5)
		return;
	u->cpu_s = (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
	u->resident_bytes = (uint64_t)resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

void
process_usage(struct process_usage *ret_usage)
{
	struct process_usage u = { 0 };
	struct rlimit limit = { 0 };

	read_stat(&u);
	u.open_fds = count_fds();
	getrlimit(RLIMIT_NOFILE, &limit);
	u.max_fds = limit.rlim_cur;
	*ret_usage = u;
}
