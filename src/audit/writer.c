/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The writer: one thread that takes all that has come in, appends it to the log in one write, calls
 * fdatasync once and then tells every submitter. Not here: what a record says (format.c), which
 * refusals get one (refusals.c), where an earlier run has stopped (tail.c).
 *
 * What the thread relies on: `chain`, `last_file` and `last_size` tell of what is durable and
 * nothing else, so that after any failure the next attempt starts from them.
 */
#include "kekd/audit.h"

#include "chain.h"
#include "format.h"
#include "refusals.h"
#include "sink.h"
#include "tail.h"
#include "kekd/clock.h"
#include "kekd/err.h"
#include "kekd/log.h"
#include "kekd/str.h"
#include "kekd/usage.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define BATCH_SIZE (1024 * 1024)
/* With 32 connections: 3 % less processor time per request, a sixth off p99 (doc/performance.md).
 */
#define GATHER_FROM 8 /* records queued or on their way */
#define GATHER_PART 0.75
#define GATHER_NS CLOCK_MS
#define BUSY_KEPT (15.0 / 16)
#define PREALLOCATE ((uint64_t)1024 * 1024)
/* After a failure the log must have room for more than the first record, or it would fail again at
 * the next one. */
#define RECOVER_ROOM ((uint64_t)64 * 1024)
#define MAX_BYTES_DEFAULT (1024ull * 1024 * 1024)
#define RETRY CLOCK_S

struct chain {
	uint64_t sequence;
	char head[CHAIN_HEX_SIZE];
};

/* Why the log stood still; told at the head of what follows. */
struct outage {
	const char *reason; /* NULL: there was none */
	int err;
	uint64_t lost; /* records that were answered with KEKD_EAUDIT */
};

struct audit {
	char *dir, *cluster, *node;
	bool hash_context;
	uint64_t max_bytes;
	struct usage *usage; /* or NULL */
	struct sink *sink;   /* or NULL */

	pthread_mutex_t lock; /* of the queue */
	pthread_cond_t wake;
	struct audit_record *first, **last;
	bool stopping, gathering;
	size_t count;		/* in the queue */
	atomic_size_t expected; /* records that are on their way */
	double busy;		/* queued or on their way, at most, lately */
	pthread_t thread;
	atomic_bool ok;
	bool next_file; /* is wanted; under the lock */
	_Atomic uint64_t backlog;
	struct metrics_histogram sync_times;

	pthread_mutex_t status_lock;
	struct audit_status status;

	pthread_mutex_t refusals_lock;
	struct refusals *refusals;
	bool closed; /* the last summaries are written */

	/* The writer's thread alone. */
	EVP_MD_CTX *md;
	struct buf out;
	bool found; /* the end of what an earlier run wrote */
	int dir_fd, fd;
	char file[CHAIN_FILE_SIZE];
	uint64_t size, allocated;
	bool no_fallocate, opened;
	uint64_t rotate_after; /* boot clock */
	struct chain chain, next;
	char last_file[CHAIN_FILE_SIZE];
	uint64_t last_size;
	struct tail_gap torn[TAIL_GAPS_MAX];
	size_t torn_count;
	struct outage outage;
	uint64_t retry_at; /* boot clock */
};

/* ---- what others see ---- */

static const struct {
	int err;
	const char *remedy;
} remedies[] = {
	{ -ENOSPC, "free space there" },
	{ -EDQUOT, "raise the quota or free space there" },
	{ -EACCES, "make it writable for kekd-net's user" },
	{ -EPERM, "make it writable for kekd-net's user" },
	{ -EROFS, "mount it for writing" },
	{ -ENOENT, "create the directory" },
	{ -ENOTDIR, "name a directory" },
	{ -EIO, "check the disk" },
	{ -ESTALE, "let nobody delete it while it is in use" },
	{ -EWOULDBLOCK, "end the other process that writes there" },
};

static const char *
remedy(int err)
{
	for (size_t i = 0; i < STR_COUNT(remedies); i++)
		if (remedies[i].err == err)
			return remedies[i].remedy;
	return "see the log of kekd-net";
}

static void
publish(struct audit *a)
{
	pthread_mutex_lock(&a->status_lock);
	a->status.sequence = a->chain.sequence;
	memcpy(a->status.head, a->chain.head, sizeof(a->status.head));
	memcpy(a->status.file, a->last_file, sizeof(a->status.file));
	pthread_mutex_unlock(&a->status_lock);
}

static void
set_failing(struct audit *a, const char *what, int err)
{
	bool was_ok = atomic_exchange(&a->ok, false);
	char reason[sizeof(a->status.reason)];

	a->retry_at = clock_boot_ns() + RETRY;
	if (err == KEKD_EAUDIT) /* what says it all */
		snprintf(reason, sizeof(reason), "%.50s: %.100s", a->dir, what);
	else
		snprintf(reason, sizeof(reason), "%.50s: %.40s: %.30s: %s", a->dir, what,
			err == -EWOULDBLOCK ? "it is in use" : kekd_strerror(err), remedy(err));
	pthread_mutex_lock(&a->status_lock);
	was_ok = was_ok || strcmp(a->status.reason, reason) != 0;
	a->status.ok = false;
	a->status.failures++;
	memcpy(a->status.reason, reason, sizeof(reason));
	pthread_mutex_unlock(&a->status_lock);
	if (was_ok)
		log_error("audit: %s", reason);
}

static void
set_ok(struct audit *a)
{
	bool was_ok = atomic_exchange(&a->ok, true);

	pthread_mutex_lock(&a->status_lock);
	a->status.ok = true;
	a->status.reason[0] = '\0';
	pthread_mutex_unlock(&a->status_lock);
	if (!was_ok)
		log_info("audit: writing %s/%s", a->dir, a->file);
}

static void
add_to_status(struct audit *a, uint64_t syncs, uint64_t summarised)
{
	pthread_mutex_lock(&a->status_lock);
	a->status.syncs += syncs;
	a->status.summarised += summarised;
	pthread_mutex_unlock(&a->status_lock);
}

/* ---- lines ---- */

static void
line_begin(struct audit *a, uint64_t time_us)
{
	format_number(&a->out, "{\"v\":1,\"seq\":", a->next.sequence + 1);
	buf_str(&a->out, ",\"time\":");
	format_time(&a->out, time_us);
	buf_str(&a->out, ",\"node\":");
	buf_json_str(&a->out, a->node);
}

/* False: the line does not fit, or there is no memory; it is taken away again. */
static bool
line_end(struct audit *a, size_t from)
{
	struct buf *b = &a->out;
	char hash[CHAIN_HEX_SIZE];

	buf_str(b, ",\"prev\":\"");
	buf_put(b, a->next.head, 64);
	buf_u8(b, '"');
	if (b->bad || b->len - from > CHAIN_LINE_MAX - 128 ||
		chain_hash(a->md, b->data + from, b->len - from, hash) != 0)
		goto undo;
	buf_str(b, ",\"hash\":\"");
	buf_put(b, hash, 64);
	buf_str(b, "\"}\n");
	if (b->bad)
		goto undo;
	memcpy(a->next.head, hash, sizeof(hash));
	a->next.sequence++;
	return true;
undo:
	b->len = from;
	b->bad = false;
	return false;
}

static void
put_cluster(struct audit *a)
{
	buf_str(&a->out, ",\"cluster\":");
	buf_json_str(&a->out, a->cluster);
}

static void
put_claim(struct audit *a, const char *file, uint64_t offset)
{
	buf_str(&a->out, ",\"file\":");
	buf_json_str(&a->out, file);
	format_number(&a->out, ",\"offset\":", offset);
}

static bool
put_torn(struct audit *a, const struct tail_gap *gap)
{
	size_t from = a->out.len;

	line_begin(a, clock_real_us());
	buf_str(&a->out, ",\"type\":\"gap\"");
	put_cluster(a);
	buf_str(&a->out, ",\"reason\":\"torn\"");
	put_claim(a, gap->file, gap->offset);
	format_number(&a->out, ",\"length\":", gap->length);
	buf_str(&a->out, ",\"sha256\":");
	buf_json_str(&a->out, gap->sha256);
	return line_end(a, from);
}

static bool
put_outage(struct audit *a)
{
	size_t from = a->out.len;

	line_begin(a, clock_real_us());
	buf_str(&a->out, ",\"type\":\"gap\"");
	put_cluster(a);
	buf_str(&a->out, ",\"reason\":");
	buf_json_str(&a->out, a->outage.reason);
	if (a->last_file[0])
		put_claim(a, a->last_file, a->last_size);
	buf_str(&a->out, ",\"error\":");
	buf_json_str(&a->out, kekd_strerror(a->outage.err));
	format_number(&a->out, ",\"lost\":", a->outage.lost);
	return line_end(a, from);
}

static bool
put_open(struct audit *a)
{
	size_t from = a->out.len;

	line_begin(a, clock_real_us());
	buf_str(&a->out, ",\"type\":\"open\"");
	put_cluster(a);
	buf_str(&a->out, a->opened ? ",\"reason\":\"next_file\"" : ",\"reason\":\"start\"");
	buf_str(&a->out, ",\"version\":");
	buf_json_str(&a->out, PACKAGE_VERSION);
	format_number(&a->out, ",\"pid\":", (uint64_t)getpid());
	return line_end(a, from);
}

static bool
put_close(struct audit *a)
{
	size_t from = a->out.len;

	line_begin(a, clock_real_us());
	buf_str(&a->out, ",\"type\":\"close\"");
	return line_end(a, from);
}

/* What must stand before the next record: gaps, then whose log this is. */
static bool
put_leads(struct audit *a)
{
	bool whole = true;

	for (size_t i = 0; whole && i < a->torn_count; i++)
		whole = put_torn(a, &a->torn[i]);
	if (whole && a->outage.reason)
		whole = put_outage(a);
	if (whole && (a->size == 0 || !a->opened))
		whole = put_open(a);
	return whole;
}

static bool
put_summaries(struct audit *a)
{
	const struct refusals_bucket *bucket = NULL;
	bool whole = true;

	while (whole && (bucket = refusals_next(a->refusals, bucket))) {
		size_t from = a->out.len;
		line_begin(a, clock_real_us());
		refusals_format(&a->out, a->refusals, bucket);
		whole = line_end(a, from);
	}
	return whole;
}

/* ---- the file ---- */

static void
drop_file(struct audit *a)
{
	if (a->fd < 0)
		return;
	close(a->fd);
	a->fd = -1;
	/* Nothing in it counts: its name is free for the next attempt. */
	if (a->size == 0)
		unlinkat(a->dir_fd, a->file, 0);
}

/* A file that ends well gives back what was allocated ahead. */
static void
finish_file(struct audit *a)
{
	if (a->fd >= 0 && ftruncate(a->fd, (off_t)a->size) < 0)
		log_warning("audit: %s: %s", a->file, strerror(errno));
	drop_file(a);
}

static void
note_outage(struct audit *a, const char *reason, int err)
{
	if (!a->outage.reason)
		a->outage = (struct outage){ reason, err, 0 };
}

static int
open_dir(struct audit *a)
{
	int err;

	if (a->dir_fd >= 0)
		return 0;
	if (mkdir(a->dir, 0700) < 0 && errno != EEXIST && errno != EACCES && errno != EROFS)
		return -errno;
	a->dir_fd = open(a->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (a->dir_fd < 0)
		return -errno;
	if (flock(a->dir_fd, LOCK_EX | LOCK_NB) == 0)
		return 0;
	err = -errno;
	close(a->dir_fd);
	a->dir_fd = -1;
	return err;
}

/* The next attempt looks again for what has this name then. */
static void
close_dir(struct audit *a)
{
	if (a->dir_fd >= 0)
		close(a->dir_fd);
	a->dir_fd = -1;
}

static int
find_tail(struct audit *a, char ret_error[256])
{
	struct tail tail;
	int err;

	if (a->found)
		return 0;
	err = tail_find(a->dir_fd, a->cluster, a->node, &tail, ret_error);
	if (err)
		return err;
	a->chain.sequence = tail.sequence;
	memcpy(a->chain.head, tail.head, sizeof(tail.head));
	memcpy(a->last_file, tail.file, sizeof(tail.file));
	a->last_size = tail.size;
	memcpy(a->torn, tail.gaps, sizeof(tail.gaps));
	a->torn_count = tail.gaps_count;
	a->found = true;
	if (a->usage)
		usage_begin(a->usage, a->chain.sequence, a->chain.head);
	if (!tail.clean)
		return 0;
	a->fd = openat(a->dir_fd, tail.file, O_WRONLY | O_APPEND | O_CLOEXEC | O_NOFOLLOW);
	if (a->fd < 0) /* then a new one */
		return 0;
	memcpy(a->file, tail.file, sizeof(tail.file));
	a->size = a->allocated = tail.size;
	return 0;
}

static int
new_file(struct audit *a)
{
	char name[CHAIN_FILE_SIZE];
	int fd, err;

	chain_file_name(a->chain.sequence + 1, name);
	fd = openat(a->dir_fd, name,
		O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0640);
	if (fd < 0)
		return -errno;
	if (fsync(a->dir_fd) < 0) {
		err = -errno;
		close(fd);
		unlinkat(a->dir_fd, name, 0);
		return err;
	}
	finish_file(a);
	a->fd = fd;
	memcpy(a->file, name, sizeof(name));
	a->size = a->allocated = 0;
	return 0;
}

static bool
is_unsupported(int err)
{
	return err == -EOPNOTSUPP || err == -ENOSYS || err == -EINVAL;
}

/* Room for `room` more bytes, so that a full disk is noticed before a line is torn. Much at a time,
 * where that is to be had. */
static int
preallocate(struct audit *a, uint64_t room)
{
	const uint64_t steps[] = { room > PREALLOCATE ? room : PREALLOCATE, room };
	int err = 0;

	for (size_t i = 0; i < STR_COUNT(steps) && a->size + room > a->allocated; i++) {
		err = 0;
		if (!a->no_fallocate &&
			fallocate(a->fd, FALLOC_FL_KEEP_SIZE, (off_t)a->size, (off_t)steps[i]) < 0)
			err = -errno;
		a->no_fallocate = a->no_fallocate || is_unsupported(err);
		if (!err || a->no_fallocate)
			a->allocated = a->size + steps[i];
	}
	return a->size + room <= a->allocated ? 0 : err;
}

static int
write_out(struct audit *a)
{
	const uint8_t *p = a->out.data;
	size_t left = a->out.len;
	struct stat st;

	/* What is written to a file without a name is lost. */
	if (fstat(a->fd, &st) < 0 || st.st_nlink == 0)
		return -ESTALE;

	while (left > 0) {
		ssize_t n = write(a->fd, p, left);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		p += n;
		left -= (size_t)n;
	}
	return 0;
}

static int
fail(struct audit *a, const char *reason, int err)
{
	set_failing(a, a->file, err);
	note_outage(a, reason, err);
	return err;
}

static int
sync_file(struct audit *a)
{
	uint64_t start = clock_boot_ns();
	int err = fdatasync(a->fd) < 0 ? -errno : 0;

	metrics_observe(&a->sync_times, clock_boot_ns() - start);
	return err;
}

/* Makes a->out durable. A file that could not be written or synced is never used again; one that
 * was not touched, for want of space, is. */
static int
commit(struct audit *a, uint64_t room)
{
	int err = preallocate(a, room > a->out.len ? room : a->out.len);

	if (err) {
		fail(a, "no_space", err);
		if (a->size == 0)
			drop_file(a);
		return err;
	}
	err = write_out(a);
	if (err)
		fail(a, "write_failed", err);
	else if ((err = sync_file(a)) < 0)
		fail(a, "sync_failed", err);
	if (err) {
		drop_file(a);
		return err;
	}
	a->size += a->out.len;
	a->chain = a->next;
	memcpy(a->last_file, a->file, sizeof(a->file));
	a->last_size = a->size;
	a->torn_count = 0;
	a->outage = (struct outage){ 0 };
	a->opened = true;
	publish(a);
	add_to_status(a, 1, 0);
	if (a->sink)
		sink_put(a->sink, a->out.data, a->out.len);
	return 0;
}

static void
batch_begin(struct audit *a)
{
	buf_reset(&a->out);
	a->next = a->chain;
}

/* Opens what is not open and writes what must come first. */
static int
recover(struct audit *a, char ret_error[256])
{
	int err = open_dir(a);

	if (!err)
		err = find_tail(a, ret_error);
	if (!err && a->fd < 0)
		err = new_file(a);
	if (err) {
		set_failing(a, err == KEKD_EAUDIT ? ret_error : "cannot be used", err);
		close_dir(a);
		return err;
	}
	batch_begin(a);
	if (!put_leads(a)) {
		set_failing(a, "cannot be used", -ENOMEM);
		return -ENOMEM;
	}
	err = commit(a, RECOVER_ROOM);
	if (!err)
		set_ok(a);
	return err;
}

static bool
is_recovered(struct audit *a)
{
	char error[256] = "";

	return atomic_load(&a->ok) || recover(a, error) == 0;
}

/* ---- batches ---- */

static void
answer(struct audit *a, struct audit_record *r, int err)
{
	atomic_fetch_sub(&a->backlog, 1);
	if (err && !atomic_load(&a->ok)) {
		note_outage(a, "unavailable", err);
		a->outage.lost++;
	}
	r->done(r, err);
}

static void
answer_all(struct audit *a, struct audit_record *r, const struct audit_record *end, int err)
{
	while (r != end) {
		struct audit_record *next = r->next;
		answer(a, r, err);
		r = next;
	}
}

/* Next files begin where no batch is under way. The old one serves on where a new one cannot be. */
static void
rotate(struct audit *a)
{
	int err;

	if (a->size < a->max_bytes || clock_boot_ns() < a->rotate_after)
		return;
	err = new_file(a);
	if (err) {
		a->rotate_after = clock_boot_ns() + RETRY;
		log_warning("audit: %s: a new file cannot be made: %s", a->dir, strerror(-err));
	}
}

/* The same when somebody asks for it, and at once: whoever asks wants to take the old file away.
 * One with nothing but its first record is new enough. */
static void
rotate_now(struct audit *a)
{
	bool wanted;
	int err;

	pthread_mutex_lock(&a->lock);
	wanted = a->next_file;
	a->next_file = false;
	pthread_mutex_unlock(&a->lock);
	if (!wanted || !atomic_load(&a->ok) || a->chain.sequence <= chain_file_sequence(a->file))
		return;
	err = new_file(a);
	if (err) {
		log_warning("audit: %s: a new file cannot be made: %s: send SIGHUP again", a->dir,
			strerror(-err));
		return;
	}
	batch_begin(a);
	if (!put_leads(a) || commit(a, RECOVER_ROOM) != 0)
		return; /* what comes next begins it, or the next one */
	log_info("audit: writing %s/%s", a->dir, a->file);
}

/* As many records from r on as a batch holds; the first that is not in it is *ret_end. False: r
 * alone does not fit into a line. */
static bool
put_records(struct audit *a, struct audit_record *r, struct audit_record **ret_end)
{
	struct audit_record *start = r;

	for (; r && a->out.len < BATCH_SIZE; r = r->next) {
		size_t from = a->out.len;
		line_begin(a, r->time_us);
		audit_format(&a->out, r, a->hash_context);
		if (!line_end(a, from))
			break;
	}
	*ret_end = r;
	return r != start;
}

/* Writes a batch from r on and answers it. The first record that is left, or NULL. */
static struct audit_record *
write_batch(struct audit *a, struct audit_record *r)
{
	struct audit_record *end = NULL, *next = r->next;

	/* Once more when a file failed: what is pending goes to a new one. */
	for (unsigned attempt = 0; attempt < 2; attempt++) {
		if (!is_recovered(a))
			break;
		rotate(a);
		batch_begin(a);
		if ((a->size == 0 && !put_leads(a)) || !put_records(a, r, &end)) {
			log_error("audit: a record of %s cannot be made",
				r->request_id ? r->request_id : "a request");
			answer(a, r, KEKD_EAUDIT);
			return next;
		}
		if (commit(a, 0) == 0) {
			if (a->usage)
				usage_fold(a->usage, r, end, a->chain.sequence, a->chain.head);
			answer_all(a, r, end, 0);
			return end;
		}
		if (a->fd >= 0) /* no space: not the file's fault */
			break;
	}
	answer_all(a, r, NULL, KEKD_EAUDIT);
	return NULL;
}

static bool
admit_one(struct audit *a, const struct audit_record *r)
{
	bool admitted;

	pthread_mutex_lock(&a->refusals_lock);
	admitted = refusals_admit(a->refusals, r);
	if (!admitted && a->usage)
		usage_count(a->usage, r);
	pthread_mutex_unlock(&a->refusals_lock);
	return admitted;
}

/* Takes out what is only counted. */
static struct audit_record *
admit(struct audit *a, struct audit_record *r)
{
	struct audit_record *first = NULL, **last = &first;
	uint64_t counted = 0;

	while (r) {
		struct audit_record *next = r->next;
		if (admit_one(a, r)) {
			*last = r;
			last = &r->next;
		} else {
			counted++;
			answer(a, r, 0);
		}
		r = next;
	}
	*last = NULL;
	if (counted > 0)
		add_to_status(a, 0, counted);
	return first;
}

static void
write_records(struct audit *a, struct audit_record *r)
{
	if (!atomic_load(&a->ok)) {
		answer_all(a, r, NULL, KEKD_EAUDIT);
		return;
	}
	r = admit(a, r);
	while (r)
		r = write_batch(a, r);
}

/* What was counted stays counted until it is on disk. */
static void
write_summaries(struct audit *a, bool stopping)
{
	uint64_t due = refusals_due(a->refusals);

	if (due == 0 || (!stopping && clock_boot_ns() < due) || !atomic_load(&a->ok))
		return;
	batch_begin(a);
	/* Held meanwhile: what comes now is not counted, but submitted and counted after. */
	pthread_mutex_lock(&a->refusals_lock);
	if (!put_summaries(a))
		set_failing(a, "the summaries cannot be made", -ENOMEM);
	else if (a->out.len == 0 || commit(a, 0) == 0) {
		refusals_reset(a->refusals);
		if (a->usage)
			usage_settle(a->usage, a->chain.sequence, a->chain.head);
	}
	a->closed = stopping;
	pthread_mutex_unlock(&a->refusals_lock);
}

static void
write_last(struct audit *a)
{
	write_summaries(a, true);
	batch_begin(a);
	if (atomic_load(&a->ok) && put_close(a) && commit(a, 0) == 0 && a->usage)
		usage_fold(a->usage, NULL, NULL, a->chain.sequence, a->chain.head);
	finish_file(a);
}

/* ---- the thread ---- */

static uint64_t
next_duty(const struct audit *a)
{
	return atomic_load(&a->ok) ? refusals_due(a->refusals) : a->retry_at;
}

static void
wait_until(struct audit *a, uint64_t boot_ns)
{
	uint64_t now = clock_boot_ns(), left = boot_ns > now ? boot_ns - now : 0;
	struct timespec ts;

	if (boot_ns == 0) {
		pthread_cond_wait(&a->wake, &a->lock);
		return;
	}
	clock_gettime(CLOCK_MONOTONIC, &ts);
	left += (uint64_t)ts.tv_nsec;
	ts.tv_sec += (time_t)(left / CLOCK_S);
	ts.tv_nsec = (long)(left % CLOCK_S);
	pthread_cond_timedwait(&a->wake, &a->lock, &ts);
}

static bool
is_due(uint64_t boot_ns)
{
	return boot_ns != 0 && boot_ns <= clock_boot_ns();
}

/* How busy it is: the most that was queued or on its way, slowly forgotten. Under the lock. */
static void
look_around(struct audit *a)
{
	size_t expected = atomic_load_explicit(&a->expected, memory_order_relaxed);
	double now = (double)a->count + (double)expected;

	a->busy *= BUSY_KEPT;
	if (now > a->busy)
		a->busy = now;
}

static bool
is_enough(const struct audit *a)
{
	return (double)a->count >= a->busy * GATHER_PART;
}

/* While many ask, a sync waits for a few more records to share it: each costs the processor as much
 * as a request. Whoever asks alone never waits. Under the lock. */
static void
gather(struct audit *a)
{
	uint64_t end = clock_boot_ns() + GATHER_NS;

	look_around(a);
	if (a->busy < GATHER_FROM)
		return;
	a->gathering = true;
	while (!a->stopping && !is_enough(a) && !is_due(end))
		wait_until(a, end);
	a->gathering = false;
	look_around(a);
}

/* All that waits; false at the end. */
static bool
take(struct audit *a, struct audit_record **ret_records)
{
	bool more;

	pthread_mutex_lock(&a->lock);
	while (!a->first && !a->stopping && !a->next_file && !is_due(next_duty(a)))
		wait_until(a, next_duty(a));
	if (a->first)
		gather(a);
	a->count = 0;
	*ret_records = a->first;
	more = a->first || !a->stopping;
	a->first = NULL;
	a->last = &a->first;
	pthread_mutex_unlock(&a->lock);
	return more;
}

static void *
run(void *user)
{
	struct audit *a = user;
	struct audit_record *records;
	sigset_t all;

	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, NULL);
	while (take(a, &records)) {
		if (!atomic_load(&a->ok) && is_due(a->retry_at))
			is_recovered(a);
		rotate_now(a);
		write_records(a, records);
		write_summaries(a, false);
	}
	write_last(a);
	return NULL;
}

void
audit_submit(struct audit *a, struct audit_record *r)
{
	r->next = NULL;
	atomic_fetch_add(&a->backlog, 1);
	pthread_mutex_lock(&a->lock);
	*a->last = r;
	a->last = &r->next;
	a->count++;
	if (!a->gathering || is_enough(a))
		pthread_cond_signal(&a->wake);
	pthread_mutex_unlock(&a->lock);
}

void
audit_rotate(struct audit *a)
{
	pthread_mutex_lock(&a->lock);
	a->next_file = true;
	pthread_cond_signal(&a->wake);
	pthread_mutex_unlock(&a->lock);
}

void
audit_expect(struct audit *a, int n)
{
	atomic_fetch_add_explicit(&a->expected, (size_t)n, memory_order_relaxed);
}

bool
audit_count(struct audit *a, const struct audit_record *r)
{
	bool counted;

	if (!atomic_load(&a->ok) || pthread_mutex_trylock(&a->refusals_lock) != 0)
		return false;
	counted = !a->closed && refusals_count(a->refusals, r);
	if (counted && a->usage)
		usage_count(a->usage, r);
	pthread_mutex_unlock(&a->refusals_lock);
	if (counted)
		add_to_status(a, 0, 1);
	return counted;
}

struct waiter {
	pthread_mutex_t lock;
	pthread_cond_t wake;
	bool done;
	int err;
};

static void
tell_waiter(struct audit_record *r, int err)
{
	struct waiter *w = r->user;

	pthread_mutex_lock(&w->lock);
	w->done = true;
	w->err = err;
	pthread_cond_signal(&w->wake);
	pthread_mutex_unlock(&w->lock);
}

int
audit_append(struct audit *a, struct audit_record *r)
{
	struct waiter w = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false, 0 };

	r->done = tell_waiter;
	r->user = &w;
	audit_submit(a, r);
	pthread_mutex_lock(&w.lock);
	while (!w.done)
		pthread_cond_wait(&w.wake, &w.lock);
	pthread_mutex_unlock(&w.lock);
	pthread_mutex_destroy(&w.lock);
	pthread_cond_destroy(&w.wake);
	return w.err;
}

const struct metrics_histogram *
audit_sync_times(const struct audit *a)
{
	return &a->sync_times;
}

void
audit_status(struct audit *a, struct audit_status *ret_status)
{
	pthread_mutex_lock(&a->status_lock);
	*ret_status = a->status;
	pthread_mutex_unlock(&a->status_lock);
	ret_status->backlog = atomic_load(&a->backlog);
}

bool
audit_sink_status(struct audit *a, struct audit_sink_status *ret_status)
{
	if (a->sink)
		sink_status(a->sink, ret_status);
	return a->sink != NULL;
}

bool
audit_ok(struct audit *a)
{
	return atomic_load(&a->ok);
}

/* ---- beginning and end ---- */

static void
release(struct audit *a)
{
	if (a->fd >= 0)
		close(a->fd);
	if (a->dir_fd >= 0)
		close(a->dir_fd);
	refusals_freep(&a->refusals);
	sink_freep(&a->sink);
	EVP_MD_CTX_free(a->md);
	buf_free(&a->out);
	pthread_mutex_destroy(&a->lock);
	pthread_mutex_destroy(&a->status_lock);
	pthread_mutex_destroy(&a->refusals_lock);
	pthread_cond_destroy(&a->wake);
	free(a->dir);
	free(a->cluster);
	free(a->node);
	free(a);
}

static void
init_locks(struct audit *a)
{
	pthread_condattr_t attributes;

	pthread_mutex_init(&a->lock, NULL);
	pthread_mutex_init(&a->refusals_lock, NULL);
	pthread_mutex_init(&a->status_lock, NULL);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&a->wake, &attributes);
	pthread_condattr_destroy(&attributes);
}

static struct audit *
allocate(const struct audit_config *config)
{
	struct audit *a = calloc(1, sizeof(*a));

	if (!a)
		return NULL;
	init_locks(a);
	a->fd = a->dir_fd = -1;
	a->last = &a->first;
	a->out = BUF_INIT(BATCH_SIZE + CHAIN_LINE_MAX);
	a->hash_context = config->hash_context;
	a->usage = config->usage;
	a->max_bytes = config->max_bytes ? config->max_bytes : MAX_BYTES_DEFAULT;
	a->md = EVP_MD_CTX_new();
	a->dir = strdup(config->dir);
	a->cluster = strdup(config->cluster);
	a->node = strdup(config->node);
	if (!a->md || !a->dir || !a->cluster || !a->node || refusals_open(&a->refusals) < 0) {
		release(a);
		return NULL;
	}
	return a;
}

int
audit_open(const struct audit_config *config, struct audit **ret_audit, char ret_error[256])
{
	struct audit *a = allocate(config);
	char error[256] = "";

	if (!a)
		return -ENOMEM;
	if (config->sink && sink_open(config->sink, &a->sink) < 0) {
		snprintf(ret_error, 256, "audit.sink %.100s cannot be opened", config->sink);
		release(a);
		return KEKD_EAUDIT;
	}
	/* What cannot be written now is tried again by the thread. */
	if (recover(a, error) == KEKD_EAUDIT || pthread_create(&a->thread, NULL, run, a) != 0) {
		snprintf(ret_error, 256, "%.80s: %.170s", config->dir,
			error[0] ? error : "no thread can be made");
		release(a);
		return KEKD_EAUDIT;
	}
	*ret_audit = a;
	return 0;
}

void
audit_close(struct audit *a)
{
	pthread_mutex_lock(&a->lock);
	a->stopping = true;
	pthread_cond_signal(&a->wake);
	pthread_mutex_unlock(&a->lock);
	pthread_join(a->thread, NULL);
}

void
audit_freep(struct audit **a)
{
	if (!*a)
		return;
	audit_close(*a);
	release(*a);
	*a = NULL;
}
