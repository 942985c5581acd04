/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The oldest file of a log that keeps only so many: which one it is, where the log goes on behind
 * it, and its removal. Not here: the anchor that must be in the log before (the node signs it).
 */
#include "kekd/audit.h"

#include "chain.h"
#include "kekd/err.h"
#include "kekd/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ASIDE_MAX 100

static int
open_dir(const char *dir)
{
	int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

static int
parse_first(FILE *f, struct chain_line *ret_line)
{
	EVP_MD_CTX *md = EVP_MD_CTX_new();
	char *text = NULL;
	size_t size = 0, len;
	int more = chain_read_line(f, &text, &size, &len);
	int err = !md ? -ENOMEM : more == 0 ? KEKD_EAUDIT : more < 0 ? more : 0;

	if (!err && chain_parse(md, text, len, ret_line) < 0)
		err = KEKD_EAUDIT;
	free(text);
	EVP_MD_CTX_free(md);
	return err;
}

/* What the first record of a file says of the one before it. */
static int
read_first(int dir_fd, uint64_t sequence, struct audit_oldest *o)
{
	struct chain_line line = { 0 };
	char name[CHAIN_FILE_SIZE];
	FILE *f;
	int fd, err;

	chain_file_name(sequence, name);
	fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	f = fd < 0 ? NULL : fdopen(fd, "r");
	if (!f) {
		err = -errno;
		if (fd >= 0)
			close(fd);
		return err;
	}
	err = parse_first(f, &line);
	fclose(f);
	if (!err && (line.sequence != sequence || strlen(line.prev) != sizeof(o->head) - 1))
		err = KEKD_EAUDIT;
	if (!err) {
		o->through = sequence - 1;
		memcpy(o->head, line.prev, sizeof(o->head));
	}
	chain_line_free(&line);
	return err;
}

int
audit_oldest(const char *dir, size_t keep, struct audit_oldest *ret_oldest)
{
	struct audit_oldest o = { 0 };
	uint64_t *list = NULL;
	size_t count = 0;
	int dir_fd = open_dir(dir), err;

	if (dir_fd < 0)
		return dir_fd;
	err = chain_list(dir_fd, &list, &count);
	if (!err && count > keep && count > 1) {
		chain_file_name(list[0], o.file);
		err = read_first(dir_fd, list[1], &o);
		if (!err) {
			*ret_oldest = o;
			err = 1;
		}
	}
	free(list);
	close(dir_fd);
	return err;
}

/* What a crash had left of it, which a gap record in it tells of. */
static void
remove_aside(int dir_fd, const char *file)
{
	char name[CHAIN_FILE_SIZE + 16];

	for (unsigned i = 0; i < ASIDE_MAX; i++) {
		snprintf(name, sizeof(name), i ? "%s" CHAIN_DAMAGED ".%u" : "%s" CHAIN_DAMAGED,
			file, i);
		if (unlinkat(dir_fd, name, 0) < 0)
			return;
		log_info("audit: %s is removed", name);
	}
}

int
audit_remove(const char *dir, const struct audit_oldest *oldest)
{
	int dir_fd = open_dir(dir), err = 0;

	if (dir_fd < 0)
		return dir_fd;
	if (unlinkat(dir_fd, oldest->file, 0) < 0)
		err = -errno;
	if (!err)
		remove_aside(dir_fd, oldest->file);
	if (!err && fsync(dir_fd) < 0)
		err = -errno;
	close(dir_fd);
	return err;
}
