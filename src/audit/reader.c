/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads a log's lines in their order, and goes on as it grows. Not here: whether they are what was
 * written (verify.c).
 */
#include "kekd/audit.h"

#include "chain.h"
#include "kekd/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BLOCK 65536
#define HEAD_SIZE 256 /* a line's time stands in its first bytes */

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

/* 1, 0 or -errno; back at the start. A file without a whole line is not older. */
static int
first_is_older(FILE *f, uint64_t since_us)
{
	char head[HEAD_SIZE + 1], *time;
	size_t n = fread(head, 1, HEAD_SIZE, f);
	char text[CLOCK_TEXT_SIZE];
	uint64_t us;

	if (ferror(f) || fseeko(f, 0, SEEK_SET) != 0)
		return -EIO;
	head[n] = '\0';
	time = strstr(head, "\"time\":\"");
	if (!time)
		return 0;
	time += 8;
	snprintf(text, sizeof(text), "%.*s", (int)strcspn(time, "\""), time);
	return clock_parse(text, &us) == 0 && us < since_us;
}

/* Does a line begin there? Then the file stands there. */
static bool
is_line_start(FILE *f, uint64_t offset)
{
	if (offset > INT64_MAX)
		return false;
	if (offset == 0)
		return fseeko(f, 0, SEEK_SET) == 0;
	return fseeko(f, (off_t)offset - 1, SEEK_SET) == 0 && getc(f) == '\n';
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

/* The newest file whose first record is older; the log's own order, whatever clocks did. */
static int
start_since(struct audit_reader *r, uint64_t since_us)
{
	uint64_t *list = NULL;
	size_t count = 0;
	int err = chain_list(r->dir, &list, &count), older = 0;

	while (err == 0 && count > 0 && !older) {
		FILE *f = open_file(r, list[--count]);
		older = f ? first_is_older(f, since_us) : -errno;
		if (f)
			use(r, f, list[count]);
		err = older < 0 ? older : 0;
	}
	free(list);
	return err;
}

int
audit_reader_open_since(const char *dir, uint64_t since_us, struct audit_reader **ret_reader)
{
	struct audit_reader *r = NULL;
	int err = audit_reader_open(dir, AUDIT_READER_ALL, &r);

	if (!err && since_us > 0)
		err = start_since(r, since_us);
	if (err)
		audit_reader_freep(&r);
	else
		*ret_reader = r;
	return err;
}

int
audit_reader_open_at(
	const char *dir, const struct audit_place *place, struct audit_reader **ret_reader)
{
	struct audit_reader *r = NULL;
	int err = audit_reader_open(dir, AUDIT_READER_ALL, &r);
	FILE *f = err ? NULL : open_file(r, place->file);

	if (!err && !f)
		err = errno == ENOENT ? -ESTALE : -errno;
	if (!err) {
		use(r, f, place->file);
		err = is_line_start(f, place->offset) ? 0 : -ESTALE;
	}
	if (err)
		audit_reader_freep(&r);
	else
		*ret_reader = r;
	return err;
}

void
audit_reader_place(const struct audit_reader *r, struct audit_place *ret_place)
{
	*ret_place = (struct audit_place){ 0 };
	if (!r->file)
		return;
	ret_place->file = r->sequence;
	ret_place->offset = (uint64_t)ftello(r->file);
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
	int more = chain_read_line(r->file, &r->line, &r->size, ret_len);

	if (more != 0)
		return more;
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
