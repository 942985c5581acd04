/* SPDX-License-Identifier: Apache-2.0 */
/* See socket.h. A lock on the directory keeps two that start at once from removing each other's. */
#include "socket.h"

#include "kekd/log.h"
#include "kekd/str.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG 64
#define FD_FIRST 3 /* sd_listen_fds(3) */

static struct sockaddr_un
address_of(const char *path)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };

	snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
	return a;
}

static int
new_socket(void)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	return fd < 0 ? -errno : fd;
}

/* ---- what is at the path already? ---- */

/* What connect() says: 0 or EAGAIN where somebody listens, ECONNREFUSED where nobody does. */
static int
knock(const char *path)
{
	struct sockaddr_un a = address_of(path);
	int fd = new_socket(), error;

	if (fd < 0)
		return -fd;
	error = connect(fd, (const struct sockaddr *)&a, sizeof(a)) == 0 ? 0 : errno;
	close(fd);
	return error;
}

static int
remove_stale(const char *path, const char *setting)
{
	struct stat st;
	int error;

	if (lstat(path, &st) < 0)
		return errno == ENOENT ? 0 : -errno;
	if (!S_ISSOCK(st.st_mode)) {
		log_error("%s %s is there and is no socket: move it away, or name another path",
			setting, path);
		return -EEXIST;
	}
	error = knock(path);
	if (error == ECONNREFUSED) {
		log_info("%s %s was left behind by a process that is gone: removed", setting, path);
		return unlink(path) == 0 || errno == ENOENT ? 0 : -errno;
	}
	if (error == 0 || error == EAGAIN)
		log_error("%s %s: another process answers there: stop it (ss -xlp shows it), or "
			  "name another path",
			setting, path);
	else
		log_error("%s %s is there, and whether somebody listens cannot be found out: %s: "
			  "remove it if nobody does",
			setting, path, strerror(error));
	return -EADDRINUSE;
}

/* ---- our own ---- */

static int
lock_directory(const char *path)
{
	char copy[KMS_SOCKET_PATH_MAX + 1];
	int fd;

	snprintf(copy, sizeof(copy), "%s", path);
	fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	return flock(fd, LOCK_EX) == 0 ? fd : -errno;
}

int
kms_socket_own(const struct kms_socket *s, const struct kms_socket_config *config)
{
	bool given = config->uid != (uid_t)-1 || config->gid != (gid_t)-1;

	if (!kms_socket_is_there(s)) {
		log_error("%s is this process' socket no more: mode and owner are left: restart it",
			s->path);
		return -ESTALE;
	}
	/* From closed to open: the owner first. */
	if (given && lchown(s->path, config->uid, config->gid) < 0) {
		int err = -errno;
		log_error("%s cannot be given to user %d and group %d: %s: start as root, or take "
			  "socket.owner and socket.group out",
			s->path, (int)config->uid, (int)config->gid, strerror(-err));
		return err;
	}
	if (chmod(s->path, config->mode) < 0) {
		int err = -errno;
		log_error("%s cannot have mode %04o: %s", s->path, (unsigned)config->mode,
			strerror(-err));
		return err;
	}
	return 0;
}

static int
bind_closed(struct kms_socket *s)
{
	struct sockaddr_un a = address_of(s->path);
	mode_t before = umask(0177);
	int err = bind(s->fd, (const struct sockaddr *)&a, sizeof(a)) == 0 ? 0 : -errno;
	struct stat st;

	umask(before);
	if (!err && lstat(s->path, &st) < 0)
		err = -errno;
	if (err)
		return err;
	s->ours = true;
	s->device = st.st_dev;
	s->inode = st.st_ino;
	return 0;
}

static int
bind_locked(struct kms_socket *s, const char *setting)
{
	int err = remove_stale(s->path, setting);

	if (err)
		return err;
	s->fd = new_socket();
	err = s->fd < 0 ? s->fd : bind_closed(s);
	if (!err && listen(s->fd, BACKLOG) < 0)
		err = -errno;
	return err;
}

int
kms_socket_bind(
	const struct kms_socket_config *config, const char *setting, struct kms_socket *ret_socket)
{
	struct kms_socket s = KMS_SOCKET_INIT;
	int lock, err;

	snprintf(s.path, sizeof(s.path), "%s", config->path);
	lock = lock_directory(s.path);
	err = lock < 0 ? lock : bind_locked(&s, setting);
	if (lock >= 0)
		close(lock);
	if (err && err != -EEXIST && err != -EADDRINUSE)
		log_error("%s %s: cannot listen: %s: its directory must be there, and be writable "
			  "for this process",
			setting, config->path, strerror(-err));
	if (!err)
		err = kms_socket_own(&s, config);
	if (err)
		kms_socket_close(&s);
	else
		*ret_socket = s;
	return err;
}

bool
kms_socket_is_there(const struct kms_socket *s)
{
	struct stat st;

	return lstat(s->path, &st) == 0 && S_ISSOCK(st.st_mode) &&
	       (!s->ours || (st.st_dev == s->device && st.st_ino == s->inode));
}

void
kms_socket_close(struct kms_socket *s)
{
	if (s->ours && kms_socket_is_there(s))
		unlink(s->path);
	if (s->fd >= 0)
		close(s->fd);
	*s = KMS_SOCKET_INIT;
}

/* ---- the service manager's ---- */

static bool
has_number(const char *variable, long *ret_number)
{
	const char *text = getenv(variable);
	char *end;

	if (!text || !*text)
		return false;
	*ret_number = strtol(text, &end, 10);
	return *end == '\0';
}

/* Kind, and that it listens. */
static bool
is_listener(int fd)
{
	int type = 0, listens = 0;
	socklen_t len = sizeof(type);

	return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) == 0 && type == SOCK_STREAM &&
	       (len = sizeof(listens),
		       getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &len) == 0) &&
	       listens;
}

/* A socket without a path has no mode: everybody could connect. */
static int
take_inherited(int fd, struct kms_socket *s)
{
	struct sockaddr_un a = { 0 };
	socklen_t len = sizeof(a);

	if (getsockname(fd, (struct sockaddr *)&a, &len) < 0 || a.sun_family != AF_UNIX ||
		!is_listener(fd) || a.sun_path[0] != '/') {
		log_error("the socket that the service manager passed is no unix stream socket "
			  "with a path: its unit needs ListenStream=/PATH");
		return -EINVAL;
	}
	s->fd = fd;
	snprintf(s->path, sizeof(s->path), "%.*s", KMS_SOCKET_PATH_MAX, a.sun_path);
	fcntl(fd, F_SETFD, FD_CLOEXEC);
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
	return 1;
}

int
kms_socket_inherit(struct kms_socket *ret_socket)
{
	struct kms_socket s = KMS_SOCKET_INIT;
	long pid = 0, count = 0;
	bool given = has_number("LISTEN_PID", &pid) && has_number("LISTEN_FDS", &count) &&
		     pid == (long)getpid() && count > 0;
	int err;

	unsetenv("LISTEN_PID");
	unsetenv("LISTEN_FDS");
	unsetenv("LISTEN_FDNAMES");
	if (!given)
		return 0;
	if (count != 1) {
		log_error("the service manager passed %ld sockets: one is needed, take the others "
			  "out of the socket unit",
			count);
		return -EINVAL;
	}
	err = take_inherited(FD_FIRST, &s);
	if (err > 0)
		*ret_socket = s;
	return err;
}

/* ---- peers ---- */

static bool
in_groups(int connection, gid_t primary, gid_t wanted)
{
	gid_t groups[256];
	socklen_t len = sizeof(groups);

	if (primary == wanted)
		return true;
	if (getsockopt(connection, SOL_SOCKET, SO_PEERGROUPS, groups, &len) < 0)
		return false;
	for (size_t i = 0; i < len / sizeof(*groups); i++)
		if (groups[i] == wanted)
			return true;
	return false;
}

static void
name_of(pid_t pid, char ret_name[32])
{
	char path[48];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/comm", (int)pid);
	f = pid > 0 ? fopen(path, "re") : NULL;
	if (!f || !fgets(ret_name, 32, f))
		strcpy(ret_name, "?");
	if (f)
		fclose(f);
	ret_name[strcspn(ret_name, "\n")] = '\0';
}

bool
kms_socket_admits(const struct kms_socket *s, int connection, char ret_peer[128])
{
	struct ucred peer = { .uid = (uid_t)-1, .gid = (gid_t)-1 };
	socklen_t len = sizeof(peer);
	struct stat st;
	char name[32];

	if (getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0) {
		snprintf(ret_peer, 128, "an unknown process");
		return false;
	}
	name_of(peer.pid, name);
	snprintf(ret_peer, 128, "process %d (%s), user %d, group %d", (int)peer.pid, name,
		(int)peer.uid, (int)peer.gid);
	if (peer.uid == 0 || peer.uid == geteuid())
		return true;
	if (lstat(s->path, &st) < 0)
		return false;
	return peer.uid == st.st_uid ||
	       ((st.st_mode & S_IWGRP) && in_groups(connection, peer.gid, st.st_gid));
}
