/* SPDX-License-Identifier: Apache-2.0 */
/* The doctor on this host: state_dir, the socket and who listens there, the plugin's answer. */
#include "announced.h"
#include "doctor.h"

#include "kekd/clock.h"
#include "kekd/str.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <libgen.h>
#include <limits.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define STATUS_NS (3 * CLOCK_S)	       /* as an API server */
#define STATUS_SLOW_NS (50 * CLOCK_MS) /* it is answered from memory */

static const char *
user_name(uid_t uid, char ret_name[64])
{
	const struct passwd *pw = getpwuid(uid);

	if (pw)
		snprintf(ret_name, 64, "%s", pw->pw_name);
	else
		snprintf(ret_name, 64, "%u", (unsigned)uid);
	return ret_name;
}

static const char *
group_name(gid_t gid, char ret_name[64])
{
	const struct group *gr = getgrgid(gid);

	if (gr)
		snprintf(ret_name, 64, "%s", gr->gr_name);
	else
		snprintf(ret_name, 64, "%u", (unsigned)gid);
	return ret_name;
}

/* ---- state_dir ---- */

static void
say_announced(struct doctor *d, const struct stat *st)
{
	char error[256], owner[64];

	if (announced_read(d->config, &d->announced, error) < 0)
		doctor_say(d, DOCTOR_FAULT, "announced",
			"The plugin does not start without it: better no key_id than an old one.",
			"%s", error);
	else if (d->announced.activation == 0)
		doctor_say(d, DOCTOR_OK, "announced", "",
			"nothing was announced yet: the plugin has not seen kekd");
	else
		doctor_say(d, DOCTOR_OK, "announced", "", "%s, kept in %s of %s", d->announced.text,
			d->config->state_dir, user_name(st->st_uid, owner));
}

void
doctor_state(struct doctor *d)
{
	const char *dir = d->config->state_dir;
	char owner[64];
	struct stat st;

	if (stat(dir, &st) < 0) {
		doctor_say(d, DOCTOR_FAULT, "state_dir",
			"Make it, of mode 0700 and of the plugin's user; systemd's StateDirectory "
			"does.",
			"%s: %s", dir, strerror(errno));
		return;
	}
	if ((st.st_mode & 0700) != 0700)
		doctor_say(d, DOCTOR_FAULT, "state_dir", "Give it mode 0700.",
			"its owner, %s, cannot write %s (mode %04o)", user_name(st.st_uid, owner),
			dir, (unsigned)st.st_mode & 07777);
	else if (access(dir, W_OK | X_OK) < 0)
		doctor_say(d, DOCTOR_FAULT, "state_dir",
			"Give it to the plugin's user, or run this as that user or as root.",
			"%s cannot be written: %s", dir, strerror(errno));
	else if (st.st_mode & 022)
		doctor_say(d, DOCTOR_WARNING, "state_dir", "Give it mode 0700.",
			"others may write into %s (mode %04o): who does can stop all writes", dir,
			(unsigned)st.st_mode & 07777);
	else
		doctor_say(d, DOCTOR_OK, "state_dir", "", "%s can be written", dir);
	say_announced(d, &st);
}

/* ---- the socket ---- */

static const char start_it[] = "Start it: systemctl start kekd-kms.socket kekd-kms.service; "
			       "without systemd, kekd-kms itself.";

static void
check_mode(struct doctor *d, const struct stat *st)
{
	const struct kms_config *c = d->config;
	char owner[64], group[64];

	user_name(st->st_uid, owner);
	group_name(st->st_gid, group);
	if (st->st_mode & 0007)
		doctor_say(d, DOCTOR_FAULT, "socket-mode",
			"Set socket.mode, or SocketMode= of kekd-kms.socket, to 0600.",
			"everybody may connect to %s (mode %04o), and have seeds unwrapped",
			c->socket, (unsigned)st->st_mode & 07777);
	else if ((st->st_mode & 07777) != c->socket_mode ||
		 (c->socket_uid != (uid_t)-1 && st->st_uid != c->socket_uid) ||
		 (c->socket_gid != (gid_t)-1 && st->st_gid != c->socket_gid))
		doctor_say(d, DOCTOR_WARNING, "socket-mode",
			"Bring kekd-kms.yaml and kekd-kms.socket into agreement, and restart both.",
			"%s has mode %04o and is of %s:%s, other than the configuration says",
			c->socket, (unsigned)st->st_mode & 07777, owner, group);
	else
		doctor_say(d, DOCTOR_OK, "socket-mode", "", "mode %04o, of %s:%s",
			(unsigned)st->st_mode & 07777, owner, group);
}

/* Whoever may write there may put a socket of his own in its place. */
static void
check_directory(struct doctor *d)
{
	char path[PATH_MAX];
	const char *dir;
	struct stat st;

	snprintf(path, sizeof(path), "%s", d->config->socket);
	dir = dirname(path);
	if (stat(dir, &st) < 0 || !(st.st_mode & 022) || (st.st_mode & S_ISVTX))
		return;
	doctor_say(d, DOCTOR_FAULT, "socket-directory", "Give it mode 0755, and to root.",
		"others may write into %s (mode %04o), and put a socket of their own there", dir,
		(unsigned)st.st_mode & 07777);
}

static void
read_comm(pid_t pid, char ret_comm[64])
{
	char path[64];
	ssize_t n = -1;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/comm", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		n = read(fd, ret_comm, 63);
		close(fd);
	}
	ret_comm[n > 0 ? n - 1 : 0] = '\0'; /* it ends with a newline */
}

/* Under a service manager the socket is that one's, whatever it is called: so only where nobody
 * answers as kekd-kms does. Without a name (of another PID namespace) nothing is said against it.
 */
static bool
is_foreign(const struct ucred *peer, const char *comm, const struct doctor_status *s)
{
	return !s->answered && peer->pid != 1 && *comm && strcmp(comm, "kekd-kms") != 0;
}

static void
say_listener(struct doctor *d, const struct ucred *peer, const struct doctor_status *s)
{
	char comm[64] = "", user[64], remedy[160];

	read_comm(peer->pid, comm);
	user_name(peer->uid, user);
	snprintf(remedy, sizeof(remedy),
		"ls -l /proc/%d/exe shows what it is; end it, then systemctl restart "
		"kekd-kms.socket.",
		(int)peer->pid);
	if (is_foreign(peer, comm, s))
		doctor_say(d, DOCTOR_WARNING, "socket", remedy,
			"%s: %s (pid %d, user %s) listens, and neither kekd-kms nor systemd",
			d->config->socket, comm, (int)peer->pid, user);
	else
		doctor_say(d, DOCTOR_OK, "socket", "", "%s: %s (pid %d, user %s) listens",
			d->config->socket, *comm ? comm : "a process", (int)peer->pid, user);
}

static const struct {
	int error;
	const char *what, *remedy;
} knocks[] = {
	{ ECONNREFUSED, "nobody listens at it: a process that was killed left it behind",
		start_it },
	{ EACCES, "this user may not connect",
		"Run this as root: the API server's user needs the same right." },
	{ EAGAIN, "it is full of connections that nobody takes", "Restart the plugin: it hangs." },
	{ 0, "cannot connect", start_it },
};

/* True: somebody listens. */
static bool
knock(struct doctor *d, struct ucred *ret_peer)
{
	socklen_t size = sizeof(*ret_peer);
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), error;
	size_t i = 0;

	snprintf(a.sun_path, sizeof(a.sun_path), "%s", d->config->socket);
	error = fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0 ? errno : 0;
	if (!error && getsockopt(fd, SOL_SOCKET, SO_PEERCRED, ret_peer, &size) < 0)
		error = errno;
	if (fd >= 0)
		close(fd);
	if (!error)
		return true;
	while (knocks[i].error && knocks[i].error != error)
		i++;
	doctor_say(d, DOCTOR_FAULT, "socket", knocks[i].remedy, "%s: %s (%s)", d->config->socket,
		knocks[i].what, strerror(error));
	return false;
}

/* ---- the plugin ---- */

static void
say_status(struct doctor *d, const struct doctor_status *s)
{
	double ms = (double)s->took_ns / (double)CLOCK_MS;

	if (!s->answered)
		doctor_say(d, DOCTOR_FAULT, "status",
			"The checks of the endpoints below show what kekd says; API servers write "
			"on for three minutes.",
			"Status is an error: %s", s->text);
	else if (strcmp(s->version, "v2") != 0 || strcmp(s->healthz, "ok") != 0)
		doctor_say(d, DOCTOR_FAULT, "status",
			"Is it kekd-kms that listens there? See the line about the socket.",
			"version \"%s\", healthz \"%s\"", s->version, s->healthz);
	else if (d->announced.activation && strcmp(s->key_id, d->announced.text) != 0)
		doctor_say(d, DOCTOR_WARNING, "status",
			"If it was not rotated just now, the plugin that answers has another "
			"state_dir than this configuration.",
			"Status announces %s, and %s was kept", s->key_id, d->announced.text);
	else
		doctor_say(d, s->took_ns > STATUS_SLOW_NS ? DOCTOR_WARNING : DOCTOR_OK, "status",
			s->took_ns > STATUS_SLOW_NS ? "It is answered from memory: is this host "
						      "overloaded?"
						    : "",
			"Status is ok in %.1f ms, and announces %s", ms, s->key_id);
}

void
doctor_socket(struct doctor *d)
{
	const char *path = d->config->socket;
	struct doctor_status status;
	struct ucred peer;
	struct stat st;

	if (lstat(path, &st) < 0) {
		doctor_say(d, DOCTOR_FAULT, "socket", start_it, "%s: %s", path, strerror(errno));
		return;
	}
	if (!S_ISSOCK(st.st_mode)) {
		doctor_say(d, DOCTOR_FAULT, "socket",
			"Move it away, or name another path in socket.path.",
			"%s is there and is no socket", path);
		return;
	}
	check_mode(d, &st);
	check_directory(d);
	if (!knock(d, &peer))
		return;
	doctor_call_status(d->config->socket, STATUS_NS, &status);
	say_listener(d, &peer, &status);
	say_status(d, &status);
}

/* ---- its metrics ---- */

static size_t
drop(char *data, size_t one, size_t len, void *user)
{
	(void)data, (void)one, (void)user;
	return len;
}

static CURLcode
get_metrics(const char *address, long *ret_status)
{
	static const char kind[] = "unix:";
	bool is_unix = strncmp(address, kind, strlen(kind)) == 0;
	CURL *curl = curl_easy_init();
	char url[256];
	CURLcode code;

	if (!curl)
		return CURLE_OUT_OF_MEMORY;
	snprintf(url, sizeof(url), "http://%s/metrics", is_unix ? "localhost" : address);
	curl_easy_setopt(curl, CURLOPT_URL, url);
	if (is_unix)
		curl_easy_setopt(curl, CURLOPT_UNIX_SOCKET_PATH, address + strlen(kind));
	curl_easy_setopt(curl, CURLOPT_NOPROXY, "*");
	curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, 3000L);
	curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, drop);
	code = curl_easy_perform(curl);
	curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, ret_status);
	curl_easy_cleanup(curl);
	return code;
}

void
doctor_metrics(struct doctor *d)
{
	const char *address = d->config->metrics;
	long status = 0;
	CURLcode code;

	if (!address)
		return;
	code = get_metrics(address, &status);
	if (code != CURLE_OK)
		doctor_say(d, DOCTOR_WARNING, "metrics",
			"Does the plugin run, and is the port its own?", "%s: %s", address,
			curl_easy_strerror(code));
	else if (status != 200)
		doctor_say(d, DOCTOR_WARNING, "metrics",
			"Another program listens there: name another port.",
			"%s answers with status %ld", address, status);
	else
		doctor_say(d, DOCTOR_OK, "metrics", "", "%s answers", address);
}
