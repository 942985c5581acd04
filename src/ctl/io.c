/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files that commands read and write. A secret is not shown on a terminal nor typed there, a file
 * that exists is not written over, unless forced. What is written appears under its name only once
 * it is whole and on the disk.
 */
#include "ctl.h"

#include "kekd/uuid.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static bool
is_standard(const char *path)
{
	return !path || strcmp(path, "-") == 0;
}

/* ---- reading ---- */

static int
read_all(int fd, const char *name, size_t limit, const char *too_long, struct buf *ret_data)
{
	struct buf b = BUF_INIT(limit + 1);
	uint8_t chunk[4096];
	ssize_t n;
	int status = CTL_FAILED;

	while ((n = read(fd, chunk, sizeof(chunk))) != 0) {
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			say_error("cannot read %s: %s", name, strerror(errno));
			goto out;
		}
		buf_put(&b, chunk, (size_t)n);
		if (b.bad || b.len > limit) {
			say_error("%s: %s", name, too_long);
			goto out;
		}
	}
	if (b.len == 0) {
		say_error("%s is empty", name);
		goto out;
	}
	*ret_data = b;
	b = BUF_INIT(0); /* handed over */
	status = CTL_OK;
out:
	explicit_bzero(chunk, sizeof(chunk));
	buf_free(&b);
	return status;
}

int
input_read(const struct ctl *ctl, const char *path, bool secret, size_t limit, const char *too_long,
	struct buf *ret_data)
{
	const char *name = is_standard(path) ? "standard input" : path;
	int fd = is_standard(path) ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	int status;

	if (fd < 0) {
		say_error("cannot open %s: %s", path, strerror(errno));
		return CTL_FAILED;
	}
	if (secret && isatty(fd) && !ctl->force) {
		say_error("%s is a terminal, where a secret would stay to be read", name);
		say_hint("give it by --in FILE or a pipe, or insist with --force");
		status = CTL_USAGE;
	} else {
		status = read_all(fd, name, limit, too_long, ret_data);
	}
	if (fd != STDIN_FILENO)
		close(fd);
	return status;
}

/* ---- writing ---- */

static int
refuse_terminal(const char *name)
{
	say_error("%s is a terminal: a plaintext is not shown there", name);
	say_hint("write it to a file with --out FILE or into a pipe, or insist with --force");
	return CTL_USAGE;
}

/* Pipes and devices are written as they are. */
static int
open_in_place(const struct ctl *ctl, const char *path, bool secret, struct output *o)
{
	o->fd = open(path, O_WRONLY | O_CLOEXEC | O_NOCTTY);
	if (o->fd < 0) {
		say_error("cannot write to %s: %s", path, strerror(errno));
		return CTL_FAILED;
	}
	return secret && isatty(o->fd) && !ctl->force ? refuse_terminal(path) : CTL_OK;
}

static int
open_temporary(const char *path, bool secret, struct output *o)
{
	char id[UUID_TEXT_SIZE];
	struct uuid uuid;

	if (uuid_generate(&uuid) < 0) {
		say_error("no random numbers from the system");
		return CTL_FAILED;
	}
	uuid_format(&uuid, id);
	if (asprintf(&o->temporary, "%s.%.8s", path, id) < 0)
		o->temporary = NULL;
	if (o->temporary)
		o->fd = open(o->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW,
			secret ? 0600 : 0666);
	if (o->fd >= 0)
		return CTL_OK;
	say_error("cannot write %s: %s", path, strerror(o->temporary ? errno : ENOMEM));
	return CTL_FAILED;
}

static int
refuse_existing(const char *path)
{
	say_error("%s exists", path);
	say_hint("name another file, or write over it with --force");
	return CTL_USAGE;
}

int
output_open(const struct ctl *ctl, const char *path, bool secret, struct output *ret_output)
{
	struct output o = { .path = is_standard(path) ? NULL : path, .fd = -1 };
	struct stat st;
	int status;

	o.force = ctl->force;
	if (is_standard(path)) {
		if (secret && isatty(STDOUT_FILENO) && !ctl->force)
			return refuse_terminal("standard output");
		o.fd = STDOUT_FILENO;
		*ret_output = o;
		return CTL_OK;
	}
	if (stat(path, &st) < 0)
		status = open_temporary(path, secret, &o);
	else if (!S_ISREG(st.st_mode))
		status = open_in_place(ctl, path, secret, &o);
	else if (!ctl->force)
		status = refuse_existing(path);
	else
		status = open_temporary(path, secret, &o);
	if (status == CTL_OK)
		*ret_output = o;
	else
		output_free(&o);
	return status;
}

int
output_replace(const char *path, struct output *ret_output)
{
	struct output o = { .path = path, .fd = -1, .force = true };
	int status = open_temporary(path, false, &o);

	if (status == CTL_OK)
		*ret_output = o;
	else
		output_free(&o);
	return status;
}

static int
write_all(int fd, const uint8_t *data, size_t len)
{
	while (len > 0) {
		ssize_t n = write(fd, data, len);
		if (n < 0 && errno != EINTR)
			return -errno;
		if (n > 0) {
			data += n;
			len -= (size_t)n;
		}
	}
	return 0;
}

/* A file that somebody made meanwhile is not written over either. */
static int
put_in_place(struct output *o)
{
	if (!o->temporary)
		return 0;
	if (fsync(o->fd) < 0)
		return -errno;
	if (o->force ? rename(o->temporary, o->path) < 0 : link(o->temporary, o->path) < 0)
		return -errno;
	if (!o->force)
		unlink(o->temporary);
	free(o->temporary);
	o->temporary = NULL;
	return 0;
}

int
output_write(struct output *o, const void *data, size_t len)
{
	int err = write_all(o->fd, data, len);

	if (err == 0)
		err = put_in_place(o);
	if (err == 0)
		return CTL_OK;
	say_error("cannot write %s: %s", o->path ? o->path : "standard output", strerror(-err));
	return CTL_FAILED;
}

void
output_free(struct output *o)
{
	if (o->temporary)
		unlink(o->temporary);
	free(o->temporary);
	if (o->fd >= 0 && o->fd != STDOUT_FILENO)
		close(o->fd);
	*o = OUTPUT_INIT;
}
