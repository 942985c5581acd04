/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Datagrams to a receiver on this host: RFC 5424 for syslog, journald's native protocol, or the
 * line as it is. The socket is never connected, so that a receiver may come and go.
 */
#include "sink.h"

#include "format.h"
#include "kekd/clock.h"
#include "kekd/err.h"
#include "kekd/log.h"
#include "kekd/str.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define QUEUE_BYTES ((size_t)8 * 1024 * 1024)
#define DEADLINE_NS CLOCK_S /* for one record; after that it is lost */
#define PAUSE_NS (10 * CLOCK_MS)
#define AGAIN_NS CLOCK_S /* a receiver that failed is left alone for so long */
#define HEAD_SIZE 512
#define TELL_NS (60 * CLOCK_S) /* at most so often of records that are too long */
#define SEND_BUFFER (4 * 1024 * 1024)
/* RFC 5424 section 6.2.1: facility 13 (log audit), severity 6 (informational). */
#define PRIORITY "<110>1 "

struct line {
	struct line *next;
	size_t len;
	char text[];
};

struct sink {
	const struct kind *kind;
	char spec[128];
	char host[256];
	int fd;
	struct sockaddr_un to;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t wake;
	struct line *first, **last;
	size_t queued; /* bytes */
	bool overflow; /* since it last was empty */
	bool stopping;
	uint64_t stop_ns;  /* the end of patience, once it is stopping */
	uint64_t again_ns; /* the thread's own: not before */
	bool told_ok;	   /* the same: what the log has of it */
	uint64_t long_ns;  /* the same: when it may have the next line about records too long */
	uint64_t too_long; /* the same: those that it has no line about */
	struct buf out;	   /* the same */
	struct audit_sink_status status;
};

/* ---- what a datagram says ---- */

/* The value of the line's member, which needs no unescaping; or "-". */
static void
put_value(struct buf *b, const char *line, size_t len, const char *member)
{
	const char *at = memmem(line, len, member, strlen(member)), *end;

	if (!at) {
		buf_u8(b, '-');
		return;
	}
	at += strlen(member);
	end = memchr(at, '"', len - (size_t)(at - line));
	buf_put(b, at, end ? (size_t)(end - at) : 0);
}

/* HEADER, no structured data, and the line as MSG. */
static void
put_syslog(const struct sink *s, struct buf *b, const struct line *l)
{
	buf_str(b, PRIORITY);
	put_value(b, l->text, l->len, "\"time\":\"");
	buf_printf(b, " %s kekd %d audit - ", s->host, (int)getpid());
	buf_put(b, l->text, l->len);
}

/* Fields, one a line: what is sent has no newline in it. */
static void
put_journal(const struct sink *s __attribute__((unused)), struct buf *b, const struct line *l)
{
	buf_str(b, "PRIORITY=6\nSYSLOG_FACILITY=13\nSYSLOG_IDENTIFIER=kekd-audit\nMESSAGE=");
	buf_put(b, l->text, l->len);
	buf_u8(b, '\n');
}

static void
put_json(const struct sink *s __attribute__((unused)), struct buf *b, const struct line *l)
{
	buf_put(b, l->text, l->len);
}

static const struct kind {
	const char *name, *path;
	void (*put)(const struct sink *s, struct buf *b, const struct line *l);
} kinds[] = {
	{ "syslog", "/dev/log", put_syslog },
	{ "journal", "/run/systemd/journal/socket", put_journal },
	{ "json", NULL, put_json },
};

/* The kind's place in the table, or -EINVAL. */
static int
find_kind(const char *spec)
{
	size_t len = strcspn(spec, ":");
	const char *path = spec[len] ? spec + len + 1 : NULL;
	const struct sockaddr_un *none = NULL;

	for (size_t i = 0; i < STR_COUNT(kinds); i++) {
		if (strlen(kinds[i].name) != len || strncmp(kinds[i].name, spec, len) != 0)
			continue;
		if (!path)
			path = spec[len] ? "" : kinds[i].path;
		if (!path || path[0] != '/' || strlen(path) >= sizeof(none->sun_path))
			return -EINVAL;
		return (int)i;
	}
	return -EINVAL;
}

/* ---- the thread ---- */

/* reason NULL: as before. */
static void
note(struct sink *s, bool ok, uint64_t sent, uint64_t lost, const char *reason)
{
	char why[sizeof(s->status.reason)];

	pthread_mutex_lock(&s->lock);
	ok = ok && !s->overflow;
	s->status.ok = ok;
	s->status.sent += sent;
	s->status.lost += lost;
	if (reason && (!s->overflow || *reason))
		snprintf(s->status.reason, sizeof(s->status.reason), "%s", reason);
	memcpy(why, s->status.reason, sizeof(why));
	pthread_mutex_unlock(&s->lock);
	if (s->told_ok == ok)
		return;
	s->told_ok = ok;
	if (!ok)
		log_warning(
			"audit.sink %s: %s: records are lost there, and counted; the log itself "
			"is not concerned",
			s->spec, why);
	else
		log_info("audit.sink %s: takes records", s->spec);
}

static bool
out_of_patience(struct sink *s, uint64_t end_ns)
{
	uint64_t now = clock_boot_ns();
	bool out;

	pthread_mutex_lock(&s->lock);
	out = now >= end_ns || (s->stopping && now >= s->stop_ns);
	pthread_mutex_unlock(&s->lock);
	return out;
}

static int
send_one(struct sink *s)
{
	uint64_t end_ns = clock_boot_ns() + DEADLINE_NS;
	const struct timespec pause = { 0, PAUSE_NS };

	for (;;) {
		if (sendto(s->fd, s->out.data, s->out.len, MSG_DONTWAIT | MSG_NOSIGNAL,
			    (const struct sockaddr *)&s->to, sizeof(s->to)) >= 0)
			return 0;
		if (errno == EINTR)
			continue;
		if (errno != EAGAIN && errno != ENOBUFS)
			return -errno;
		if (out_of_patience(s, end_ns))
			return -ETIMEDOUT;
		nanosleep(&pause, NULL);
	}
}

/* The receiver is well, the record is not for it. */
static void
note_too_long(struct sink *s, size_t len)
{
	uint64_t now = clock_boot_ns();

	note(s, true, 0, 1, "");
	s->too_long++;
	if (now < s->long_ns)
		return;
	log_warning(
		"audit.sink %s: %llu records were lost there, and counted, as they are too long "
		"for the socket, the last one with %zu bytes; the log itself has them",
		s->spec, (unsigned long long)s->too_long, len);
	s->too_long = 0;
	s->long_ns = now + TELL_NS;
}

static void
deliver(struct sink *s, const struct line *l)
{
	int err;

	if (clock_boot_ns() < s->again_ns) {
		note(s, false, 0, 1, NULL);
		return;
	}
	buf_reset(&s->out);
	s->kind->put(s, &s->out, l);
	err = s->out.bad ? -EMSGSIZE : send_one(s);
	if (err == 0) {
		note(s, true, 1, 0, "");
	} else if (err == -EMSGSIZE) {
		note_too_long(s, l->len);
	} else {
		s->again_ns = clock_boot_ns() + AGAIN_NS;
		note(s, false, 0, 1, err == -ETIMEDOUT ? "does not read" : strerror(-err));
	}
}

static struct line *
take(struct sink *s)
{
	struct line *l;

	pthread_mutex_lock(&s->lock);
	while (!s->first && !s->stopping)
		pthread_cond_wait(&s->wake, &s->lock);
	l = s->first;
	if (l) {
		s->first = l->next;
		s->queued -= l->len;
		if (!s->first) {
			s->last = &s->first;
			s->overflow = false;
		}
	}
	pthread_mutex_unlock(&s->lock);
	return l;
}

static void *
run(void *user)
{
	struct sink *s = user;
	struct line *l;

	while ((l = take(s))) {
		deliver(s, l);
		free(l);
	}
	return NULL;
}

/* ---- what the log's writer calls ---- */

static void
put_line(struct sink *s, const char *text, size_t len)
{
	struct line *l = s->queued + len > QUEUE_BYTES ? NULL : malloc(sizeof(*l) + len);

	if (!l) {
		s->status.lost++;
		s->status.ok = false;
		s->overflow = true;
		snprintf(s->status.reason, sizeof(s->status.reason), "reads too slowly");
		return;
	}
	l->next = NULL;
	l->len = len;
	memcpy(l->text, text, len);
	*s->last = l;
	s->last = &l->next;
	s->queued += len;
}

void
sink_put(struct sink *s, const void *lines, size_t len)
{
	const char *text = lines, *end;

	pthread_mutex_lock(&s->lock);
	while (len > 0 && (end = memchr(text, '\n', len))) {
		put_line(s, text, (size_t)(end - text));
		len -= (size_t)(end - text) + 1;
		text = end + 1;
	}
	pthread_cond_signal(&s->wake);
	pthread_mutex_unlock(&s->lock);
}

void
sink_status(struct sink *s, struct audit_sink_status *ret_status)
{
	pthread_mutex_lock(&s->lock);
	*ret_status = s->status;
	pthread_mutex_unlock(&s->lock);
}

/* ---- beginning and end ---- */

static void
release(struct sink *s)
{
	struct line *next;

	if (s->fd >= 0)
		close(s->fd);
	for (struct line *l = s->first; l; l = next) {
		next = l->next;
		free(l);
	}
	buf_free(&s->out);
	pthread_mutex_destroy(&s->lock);
	pthread_cond_destroy(&s->wake);
	free(s);
}

int
sink_open(const char *spec, struct sink **ret_sink)
{
	int kind = find_kind(spec), room = SEND_BUFFER, err = 0;
	const char *colon = strchr(spec, ':');
	struct sink *s = kind < 0 ? NULL : calloc(1, sizeof(*s));

	if (!s)
		return kind < 0 ? kind : -ENOMEM;
	s->kind = &kinds[kind];
	s->last = &s->first;
	s->out = BUF_INIT(SEND_BUFFER);
	s->status.ok = s->told_ok = true;
	s->to.sun_family = AF_UNIX;
	snprintf(s->spec, sizeof(s->spec), "%s", spec);
	snprintf(s->to.sun_path, sizeof(s->to.sun_path), "%s", colon ? colon + 1 : s->kind->path);
	if (gethostname(s->host, sizeof(s->host) - 1) < 0 || !s->host[0])
		strcpy(s->host, "-");
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->wake, NULL);
	s->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (s->fd < 0)
		err = -errno;
	else
		(void)setsockopt(s->fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
	if (!err)
		err = -pthread_create(&s->thread, NULL, run, s);
	if (err) {
		release(s);
		return err;
	}
	*ret_sink = s;
	return 0;
}

void
sink_freep(struct sink **sink)
{
	struct sink *s = *sink;

	if (!s)
		return;
	*sink = NULL;
	pthread_mutex_lock(&s->lock);
	s->stopping = true;
	s->stop_ns = clock_boot_ns() + DEADLINE_NS;
	pthread_cond_signal(&s->wake);
	pthread_mutex_unlock(&s->lock);
	pthread_join(s->thread, NULL);
	release(s);
}
