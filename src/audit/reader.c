/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads a log's lines in their order, and goes on as it grows. Not here: whether they are what was
 * written (verify.c).
 */
#include "kekd/audit.h"

#include "chain.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BLOCK 65536

struct audit_reader {
	int dir;
	uint64_t sequence; /* of the file that is open; 0: none yet */
	FILE *file;
	char *line;
	size_t size;
};

static FILE *
open_file(const struct audit_reader *r, uint64_t sequence)
{
	char name[CHAIN_FILE_SIZE];
	FILE *f;
	int fd;

	chain_file_name(sequence, name);
	fd = openat(r->dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return NULL;
	f = fdopen(fd, "r");
	if (!f)
		close(fd);
	return f;
}

static void
use(struct audit_reader *r, FILE *f, uint64_t sequence)
{
	if (r->file)
		fclose(r->file);
	r->file = f;
	r->sequence = sequence;
}

/* The first file behind the one that is open. 1; 0: there is none; or -errno. */
static int
find_next(const struct audit_reader *r, FILE **ret_file, uint64_t *ret_sequence)
{
	uint64_t *list = NULL;
	size_t count = 0, i = 0;
	int err = chain_list(r->dir, &list, &count);

	while (err == 0 && i < count && list[i] <= r->sequence)
		i++;
	if (err == 0 && i < count) {
		*ret_sequence = list[i];
		*ret_file = open_file(r, list[i]);
		err = *ret_file ? 1 : -errno;
	}
	free(list);
	return err;
}

/* Where the last *left lines of a file begin; *left becomes what is missing. */
static int
seek_back(FILE *f, size_t *left)
{
	char block[BLOCK];
	off_t end = lseek(fileno(f), 0, SEEK_END), at = *left > 0 ? end : 0;

	while (at > 0) {
		size_t len = at < BLOCK ? (size_t)at : BLOCK;
		ssize_t n = pread(fileno(f), block, len, at - (off_t)len);
		if (n != (ssize_t)len)
			return n < 0 ? -errno : -EIO;
		at -= (off_t)len;
		for (size_t i = len; i-- > 0;) {
			bool ends_line = block[i] == '\n' && at + (off_t)i + 1 < end;
			if (ends_line && --*left == 0)
				return fseeko(f, at + (off_t)i + 1, SEEK_SET) == 0 ? 0 : -errno;
		}
	}
	if (*left == 0)
		return fseeko(f, 0, SEEK_END) == 0 ? 0 : -errno;
	*left -= end > 0;
	return fseeko(f, 0, SEEK_SET) == 0 ? 0 : -errno;
}

/* From the newest file backwards until enough lines are ahead. */
static int
start_at_last(struct audit_reader *r, size_t last)
{
	uint64_t *list = NULL;
	size_t count = 0;
	int err = chain_list(r->dir, &list, &count);

	while (err == 0 && count > 0 && (last > 0 || !r->file)) {
		FILE *f = open_file(r, list[--count]);
		err = f ? seek_back(f, &last) : -errno;
		if (f)
			use(r, f, list[count]);
	}
	free(list);
	return err;
}

int
audit_reader_open(const char *dir, size_t last, struct audit_reader **ret_reader)
{
	struct audit_reader *r = calloc(1, sizeof(*r));
	int err = r ? 0 : -ENOMEM;

	if (!err) {
		r->dir = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		err = r->dir < 0 ? -errno : 0;
	}
	if (!err && last != AUDIT_READER_ALL)
		err = start_at_last(r, last);
	if (err)
		audit_reader_freep(&r);
	else
		*ret_reader = r;
	return err;
}

void
audit_reader_freep(struct audit_reader **r)
{
	if (!*r)
		return;
	if ((*r)->file)
		fclose((*r)->file);
	if ((*r)->dir >= 0)
		close((*r)->dir);
	free((*r)->line);
	free(*r);
	*r = NULL;
}

/* A line of the open file; 0: none that is whole. */
static int
read_line(struct audit_reader *r, size_t *ret_len)
{
	off_t start = ftello(r->file);
	ssize_t n = getline(&r->line, &r->size, r->file);

	if (n > 0 && r->line[n - 1] == '\n') {
		r->line[n - 1] = '\0';
		*ret_len = (size_t)n - 1;
		return 1;
	}
	if (ferror(r->file))
		return -EIO;
	clearerr(r->file);
	return fseeko(r->file, start, SEEK_SET) == 0 ? 0 : -errno;
}

int
audit_reader_next(struct audit_reader *r, const char **ret_line, size_t *ret_len)
{
	int more = r->file ? read_line(r, ret_len) : 0;

	while (more == 0) {
		uint64_t sequence = 0;
		FILE *f = NULL;

		more = find_next(r, &f, &sequence);
		if (more <= 0)
			return more;
		/* What came in before the next file was made; half a line there stays one. */
		more = r->file ? read_line(r, ret_len) : 0;
		if (more != 0) {
			fclose(f);
		} else {
			use(r, f, sequence);
			more = read_line(r, ret_len);
		}
	}
	if (more > 0)
		*ret_line = r->line;
	return more;
}
