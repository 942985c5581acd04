/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Finds the last whole record from the end backwards. A crash can leave half a line, zeros or any
 * part of the last batch; none of it was acknowledged.
 */
#include "tail.h"

#include "kekd/err.h"
#include "kekd/log.h"
#include "kekd/str.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define WINDOW_MIN 65536
#define SET_ASIDE_MAX 100

struct end {
	bool found, has_newline;
	struct chain_line line; /* the last whole record */
	uint64_t offset;	/* behind its newline */
	uint64_t size;		/* of the file */
};

static int
read_at(int fd, char *data, size_t len, uint64_t offset)
{
	while (len > 0) {
		ssize_t n = pread(fd, data, len, (off_t)offset);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		data += n;
		len -= (size_t)n;
		offset += (uint64_t)n;
	}
	return 0;
}

/* data is the file from `from` to its end. Lines that begin before it are not looked at. */
static void
search(const char *data, size_t len, uint64_t from, EVP_MD_CTX *md, struct end *end)
{
	const char *stop = memrchr(data, '\n', len);

	while (stop) {
		const char *before = memrchr(data, '\n', (size_t)(stop - data));
		const char *start = before ? before + 1 : data;
		end->has_newline = true;
		if (!before && from > 0)
			return;
		if (chain_parse(md, start, (size_t)(stop - start), &end->line) == 0) {
			end->found = true;
			end->offset = from + (uint64_t)(stop - data) + 1;
			return;
		}
		stop = before;
	}
}

static int
find_end(int fd, EVP_MD_CTX *md, struct end *end)
{
	for (uint64_t window = WINDOW_MIN; !end->found; window *= 4) {
		size_t len = (size_t)(window < end->size ? window : end->size);
		char *data = len > 0 ? malloc(len) : NULL;
		int err;
		if (!data)
			return len > 0 ? -ENOMEM : 0;
		err = read_at(fd, data, len, end->size - len);
		if (!err)
			search(data, len, end->size - len, md, end);
		free(data);
		if (err || len == end->size)
			return err;
	}
	return 0;
}

/* After a failed write-back the page cache may hold what the disk does not: ask the disk. */
static int
open_uncached(int dir_fd, const char *name, uint64_t *ret_size)
{
	int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	struct stat st;

	if (fd < 0)
		return -errno;
	if (fdatasync(fd) < 0)
		log_warning("%s: %s", name, strerror(errno));
	posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	if (fstat(fd, &st) < 0) {
		close(fd);
		return -EIO;
	}
	*ret_size = (uint64_t)st.st_size;
	return fd;
}

static int
foreign(char ret_error[256], const char *file, const char *what)
{
	snprintf(ret_error, 256, "%s %s: use another directory", file, what);
	return KEKD_EAUDIT;
}

static const char *
member(const struct chain_line *line, const char *name)
{
	const char *text = json_string_value(json_object_get(line->json, name));

	return text ? text : "";
}

/* The first line of every file tells whose it is. */
static int
check_owner(int fd, const char *name, const char *cluster, const char *node, struct end *end,
	EVP_MD_CTX *md, char ret_error[256])
{
	struct chain_line first = { 0 };
	char *data = malloc(WINDOW_MIN), *stop;
	size_t len = end->size < WINDOW_MIN ? (size_t)end->size : WINDOW_MIN;
	int err = data ? read_at(fd, data, len, 0) : -ENOMEM;

	if (err)
		goto out;
	stop = memchr(data, '\n', len);
	if (!stop || chain_parse(md, data, (size_t)(stop - data), &first) != 0)
		err = foreign(ret_error, name, "does not begin with a whole record");
	else if (strcmp(member(&first, "cluster"), cluster) != 0)
		err = foreign(ret_error, name, "belongs to another cluster");
	else if (strcmp(first.node, node) != 0 || strcmp(end->line.node, node) != 0)
		err = foreign(ret_error, name, "belongs to another node");
	else if (first.sequence != chain_file_sequence(name))
		err = foreign(
			ret_error, name, "does not begin with the record that it is named after");
out:
	chain_line_free(&first);
	free(data);
	return err;
}

static int
add_gap(int fd, const char *file, uint64_t offset, struct tail *tail)
{
	struct tail_gap *gap = &tail->gaps[tail->gaps_count];
	int err;

	if (tail->gaps_count == TAIL_GAPS_MAX)
		return -E2BIG;
	err = chain_hash_tail(fd, offset, &gap->length, gap->sha256);
	if (err)
		return err;
	snprintf(gap->file, sizeof(gap->file), "%s", file);
	gap->offset = offset;
	tail->gaps_count++;
	return 0;
}

static int
rename_aside(int dir_fd, const char *name, char ret_name[CHAIN_FILE_SIZE + 16])
{
	for (unsigned i = 0; i < SET_ASIDE_MAX; i++) {
		snprintf(ret_name, CHAIN_FILE_SIZE + 16,
			i ? "%s" CHAIN_DAMAGED ".%u" : "%s" CHAIN_DAMAGED, name, i);
		if (renameat2(dir_fd, name, dir_fd, ret_name, RENAME_NOREPLACE) == 0)
			return 0;
		if (errno != EEXIST)
			return -errno;
	}
	return -EEXIST;
}

/* A file that was begun when the crash came. Its name is wanted for the one that takes its place.
 */
static int
set_aside(int dir_fd, const char *name, struct tail *tail)
{
	char aside[CHAIN_FILE_SIZE + 16];
	uint64_t size;
	int fd = open_uncached(dir_fd, name, &size), err;

	if (fd < 0)
		return fd;
	if (size == 0)
		err = unlinkat(dir_fd, name, 0) < 0 ? -errno : 0;
	else {
		err = rename_aside(dir_fd, name, aside);
		if (!err)
			err = add_gap(fd, aside, 0, tail);
		log_warning("audit: no record in %s is whole: it is kept as %s", name, aside);
	}
	close(fd);
	return err;
}

static int
take_end(int fd, const char *name, const struct end *end, struct tail *tail)
{
	tail->sequence = end->line.sequence;
	memcpy(tail->head, end->line.hash, sizeof(tail->head));
	memcpy(tail->file, name, strlen(name) + 1);
	tail->size = end->offset;
	tail->clean = end->offset == end->size && strcmp(end->line.type, "close") == 0;
	if (end->offset == end->size)
		return 0;
	log_warning("audit: %s ends with %llu bytes that are no whole record", name,
		(unsigned long long)(end->size - end->offset));
	return add_gap(fd, name, end->offset, tail);
}

/* 1: this file holds the end; 0: no record in it is whole; negative: an error. */
static int
try_file(int dir_fd, const char *name, const char *cluster, const char *node, struct end *end,
	struct tail *tail, char ret_error[256])
{
	EVP_MD_CTX *md = EVP_MD_CTX_new();
	int fd = open_uncached(dir_fd, name, &end->size);
	int err = !md ? -ENOMEM : fd < 0 ? fd : find_end(fd, md, end);

	if (!err && end->found)
		err = check_owner(fd, name, cluster, node, end, md, ret_error);
	if (!err && end->found)
		err = take_end(fd, name, end, tail);
	if (fd >= 0)
		close(fd);
	EVP_MD_CTX_free(md);
	return err ? err : end->found;
}

/* Walks from the newest file to older ones. The files above the one with the end are set aside. */
static int
walk(int dir_fd, const char *cluster, const char *node, const uint64_t *list, size_t count,
	struct tail *tail, char ret_error[256])
{
	char name[CHAIN_FILE_SIZE];
	bool lines = false;
	size_t at = count;
	int err = 0;

	while (at > 0 && err == 0) {
		struct end end = { 0 };
		chain_file_name(list[at - 1], name);
		err = try_file(dir_fd, name, cluster, node, &end, tail, ret_error);
		lines = lines || (!end.found && end.has_newline);
		chain_line_free(&end.line);
		if (err == 0)
			at--;
	}
	if (err < 0)
		return err;
	if (err == 0 && lines)
		return foreign(ret_error, name, "is not an audit log");
	err = 0;
	for (size_t i = at; !err && i < count; i++) {
		chain_file_name(list[i], name);
		err = set_aside(dir_fd, name, tail);
	}
	return err;
}

int
tail_find(int dir_fd, const char *cluster, const char *node, struct tail *ret_tail,
	char ret_error[256])
{
	struct tail tail = { 0 };
	uint64_t *list = NULL;
	size_t count = 0;
	int err = chain_list(dir_fd, &list, &count);

	if (!err)
		err = walk(dir_fd, cluster, node, list, count, &tail, ret_error);
	free(list);
	if (!err && tail.sequence == 0)
		err = chain_first(cluster, node, tail.head);
	if (!err)
		*ret_tail = tail;
	return err;
}
