/* SPDX-License-Identifier: Apache-2.0 */
/* See fuzz.h. */
#include "fuzz.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static char directory[64];

void
fuzz_broken(const char *file, int line, const char *promise)
{
	dprintf(STDERR_FILENO, "%s:%d: broken: %s\n", file, line, promise);
	abort();
}

void
fuzz_quiet(void)
{
	FILE *nowhere = fopen("/dev/null", "we");

	require(nowhere);
	stderr = nowhere; /* what sanitizers and libFuzzer say goes to the descriptor itself */
}

void
fuzz_clear(void)
{
	DIR *d = opendir(directory);
	struct dirent *e;

	while (d && (e = readdir(d)))
		unlinkat(dirfd(d), e->d_name, 0);
	if (d)
		closedir(d);
}

static void
remove_directory(void)
{
	fuzz_clear();
	rmdir(directory);
}

const char *
fuzz_directory(void)
{
	if (!directory[0]) {
		strcpy(directory, "/tmp/kekd-fuzz-XXXXXX");
		require(mkdtemp(directory));
		atexit(remove_directory);
	}
	return directory;
}

const char *
fuzz_write(const char *name, const void *data, size_t size)
{
	static char path[128];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", fuzz_directory(), name);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	require(fd >= 0);
	require(size == 0 || write(fd, data, size) == (ssize_t)size);
	close(fd);
	return path;
}

uint8_t
fuzz_byte(struct fuzz_input *in)
{
	if (in->left == 0)
		return 0;
	in->left--;
	return *in->p++;
}

const uint8_t *
fuzz_block(struct fuzz_input *in, size_t *ret_size)
{
	size_t size = (size_t)fuzz_byte(in) << 8 | fuzz_byte(in);
	const uint8_t *block = in->p;

	if (size > in->left)
		size = in->left;
	in->p += size;
	in->left -= size;
	*ret_size = size;
	return block;
}

char *
fuzz_line(struct fuzz_input *in)
{
	const uint8_t *end = in->left > 0 ? memchr(in->p, '\n', in->left) : NULL;
	size_t size = end ? (size_t)(end - in->p) : in->left;
	char *line = malloc(size + 1);

	require(line);
	if (size > 0)
		memcpy(line, in->p, size);
	line[size] = '\0';
	in->p += size + (end != NULL);
	in->left -= size + (end != NULL);
	return line;
}
