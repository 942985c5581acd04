/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Verification without the server: reads all files in the order of their sequence numbers, line by
 * line, and stops at the first thing that the writer cannot have written. What it cannot tell: the
 * removal of the newest records, or a log written anew from some place on; signed checkpoints tell
 * that.
 */
#include "kekd/audit.h"

#include "chain.h"
#include "marks.h"
#include "witness.h"
#include "kekd/err.h"
#include "kekd/str.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define NOTES_MAX 1000
#define READ_MIN 65536
/* A line that a running server is about to finish. */
#define PATIENCE_MS 20
#define PATIENCE_TRIES 50

/* ---- lines ---- */

struct lines {
	int fd;
	char *data;
	size_t cap, from, to; /* what is in data and not yet given out */
	uint64_t offset;      /* in the file, of data[from] */
	uint64_t limit;	      /* bytes of the file that count */
	bool live;	      /* a server may be writing: wait for the end of a line */
};

/* A pipe in the place of a file would be waited at for ever. */
static int
open_file(int dir_fd, const char *name)
{
	int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

	return fd < 0 ? -errno : fd;
}

static int
lines_open(struct lines *l, int dir_fd, const char *name, uint64_t limit, bool live)
{
	*l = (struct lines){ .fd = -1, .limit = limit, .live = live };
	l->data = malloc(READ_MIN);
	l->cap = READ_MIN;
	if (!l->data)
		return -ENOMEM;
	l->fd = open_file(dir_fd, name);
	return l->fd < 0 ? l->fd : 0;
}

static void
lines_close(struct lines *l)
{
	if (l->fd >= 0)
		close(l->fd);
	free(l->data);
	l->fd = -1;
	l->data = NULL;
}

static int
make_room(struct lines *l)
{
	char *more;

	if (l->from > 0) {
		memmove(l->data, l->data + l->from, l->to - l->from);
		l->to -= l->from;
		l->from = 0;
	}
	if (l->to < l->cap)
		return 0;
	if (l->cap >= CHAIN_LINE_MAX)
		return -EFBIG;
	more = realloc(l->data, l->cap * 2);
	if (!more)
		return -ENOMEM;
	l->data = more;
	l->cap *= 2;
	return 0;
}

/* Bytes read, 0 at the end, or negative. */
static ssize_t
fill(struct lines *l)
{
	uint64_t at = l->offset + (l->to - l->from), left = l->limit > at ? l->limit - at : 0;
	int err = make_room(l);
	size_t room = l->cap - l->to;
	ssize_t n;

	if (err)
		return err;
	do
		n = pread(l->fd, l->data + l->to, left < room ? (size_t)left : room, (off_t)at);
	while (n < 0 && errno == EINTR);
	if (n > 0)
		l->to += (size_t)n;
	return n < 0 ? -errno : n;
}

static ssize_t
fill_patiently(struct lines *l)
{
	const struct timespec pause = { 0, PATIENCE_MS * 1000000l };
	ssize_t n = fill(l);

	for (int i = 0; n == 0 && l->live && l->to > l->from && i < PATIENCE_TRIES; i++) {
		nanosleep(&pause, NULL);
		n = fill(l);
	}
	return n;
}

/* 1 with a line (borrowed until the next call, without its newline); 0 at the end; -ENODATA: the
 * end comes before a newline; -EFBIG; -errno. */
static int
next_line(struct lines *l, const char **ret_line, size_t *ret_len)
{
	size_t seen = 0;

	for (;;) {
		char *end = memchr(l->data + l->from + seen, '\n', l->to - l->from - seen);
		ssize_t n;
		if (end) {
			*ret_line = l->data + l->from;
			*ret_len = (size_t)(end - *ret_line);
			l->from += *ret_len + 1;
			l->offset += *ret_len + 1;
			return 1;
		}
		seen = l->to - l->from;
		n = fill_patiently(l);
		if (n < 0)
			return (int)n;
		if (n == 0)
			return seen == 0 ? 0 : -ENODATA;
	}
}

/* ---- the walk ---- */

struct verify {
	struct audit_report *report;
	int dir_fd;
	EVP_MD_CTX *md;
	char node[65 + 64];
	char prev[CHAIN_HEX_SIZE]; /* hash of the record before */
	char file[CHAIN_FILE_SIZE], before[CHAIN_FILE_SIZE];
	uint64_t file_sequence;
	uint64_t before_size; /* bytes of the file before that count */
	uint64_t line;
	bool head;     /* only gap records so far in this file */
	uint64_t base; /* records that are missing at the beginning, as the first one tells */
	char base_head[CHAIN_HEX_SIZE], base_file[CHAIN_FILE_SIZE];
	bool anchored; /* a record tells of that */
	audit_record_fn *each;
	void *user;
	uint64_t from; /* begin in the file with this record; 0: with the first */
	const struct audit_expected *expected; /* or NULL */
	struct marks *marks;
	struct witness_cursor witness;
	char cluster[65 + 64];
};

static int __attribute__((format(printf, 3, 4)))
fault(struct verify *v, uint64_t sequence, const char *format, ...)
{
	struct audit_report *r = v->report;
	va_list ap;

	va_start(ap, format);
	vsnprintf(r->fault, sizeof(r->fault), format, ap);
	va_end(ap);
	snprintf(r->fault_file, sizeof(r->fault_file), "%s", v->file);
	r->fault_line = v->line;
	r->fault_sequence = sequence;
	return KEKD_EAUDIT;
}

static void
note(struct verify *v, const struct chain_line *line)
{
	static const char *const copied[] = { "seq", "time", "type", "reason", "file", "offset",
		"length", "error", "lost", "version" };
	json_t *n;

	if (json_array_size(v->report->notes) >= NOTES_MAX)
		return;
	n = json_object();
	for (size_t i = 0; i < STR_COUNT(copied); i++)
		json_object_set(n, copied[i], json_object_get(line->json, copied[i]));
	json_object_set_new(n, "in", json_string(v->file));
	json_array_append_new(v->report->notes, n);
}

static const char *
text_of(const struct chain_line *line, const char *name)
{
	return json_string_value(json_object_get(line->json, name));
}

static uint64_t
number_of(const struct chain_line *line, const char *name)
{
	json_int_t n = json_integer_value(json_object_get(line->json, name));

	return n > 0 ? (uint64_t)n : 0;
}

/* ---- claims of gap records ---- */

/* The claimed tail of a file: its length and hash, where the record has them. */
static int
check_tail(struct verify *v, const struct chain_line *line, const char *name)
{
	const char *sha256 = text_of(line, "sha256");
	char hex[CHAIN_HEX_SIZE];
	uint64_t length;
	int fd, err;

	if (!sha256)
		return 0;
	fd = open_file(v->dir_fd, name);
	if (fd < 0)
		return fault(
			v, line->sequence, "%s, which this gap record tells of, is missing", name);
	err = chain_hash_tail(fd, number_of(line, "offset"), &length, hex);
	close(fd);
	if (err)
		return err;
	if (length != number_of(line, "length") || strcmp(hex, sha256) != 0)
		return fault(v, line->sequence,
			"the bytes at the end of %s are not those that this gap record tells of",
			name);
	return 0;
}

static bool
is_aside(const char *name)
{
	return strncmp(name, "audit-", 6) == 0 && !strchr(name, '/') &&
	       strstr(name, ".jsonl" CHAIN_DAMAGED);
}

static int
check_gap(struct verify *v, const struct chain_line *line, uint64_t start)
{
	const char *name = text_of(line, "file");
	uint64_t offset = number_of(line, "offset");

	v->report->gaps++;
	note(v, line);
	if (!name)
		return 0;
	if (is_aside(name))
		return check_tail(v, line, name);
	if (strcmp(name, v->file) == 0 && offset == start)
		return 0;
	/* Of a file that was removed since. */
	if (v->head && v->base > 0 && v->report->files == 0 && chain_file_sequence(name) <= v->base)
		return 0;
	if (v->head && strcmp(name, v->before) == 0 && offset == v->before_size)
		return check_tail(v, line, name);
	return fault(v, line->sequence, "this gap record does not fit to the files that are here");
}

/* How much of a file counts, as the gap records at the head of the next one tell. Whether these are
 * genuine shows when their turn comes. */
static int
find_claim(struct verify *v, const char *name, const char *next_name, uint64_t *ret_limit)
{
	struct lines l;
	const char *text;
	size_t len;
	int err = lines_open(&l, v->dir_fd, next_name, UINT64_MAX, false);
	bool gap = !err;

	while (gap && (err = next_line(&l, &text, &len)) == 1) {
		struct chain_line line = { 0 };
		const char *file;
		gap = chain_parse(v->md, text, len, &line) == 0 && strcmp(line.type, "gap") == 0;
		file = gap ? text_of(&line, "file") : NULL;
		if (file && strcmp(file, name) == 0)
			*ret_limit = number_of(&line, "offset");
		chain_line_free(&line);
	}
	lines_close(&l);
	return err == 1 || err == -ENODATA || err == -EFBIG ? 0 : err;
}

/* ---- records ---- */

/* What the record after a misplaced one is tells whether one is missing or two are swapped. */
static bool
follows(struct verify *v, struct lines *l, uint64_t sequence)
{
	struct chain_line line = { 0 };
	const char *text;
	size_t len;
	bool found = next_line(l, &text, &len) == 1 && chain_parse(v->md, text, len, &line) == 0 &&
		     line.sequence == sequence;

	chain_line_free(&line);
	return found;
}

static int
misplaced(struct verify *v, struct lines *l, const struct chain_line *line, uint64_t wanted)
{
	if (line->sequence < wanted)
		return fault(v, line->sequence,
			"record %llu is here again: a record was inserted here or just before, or "
			"moved",
			(unsigned long long)line->sequence);
	if (line->sequence > wanted && follows(v, l, wanted))
		return fault(v, line->sequence, "records %llu and %llu are swapped",
			(unsigned long long)wanted, (unsigned long long)line->sequence);
	if (line->sequence > wanted && v->line == 1)
		return fault(v, line->sequence,
			"records %llu to %llu are missing before this file: a file, or the end of "
			"the one before, was removed",
			(unsigned long long)wanted, (unsigned long long)(line->sequence - 1));
	if (line->sequence > wanted)
		return fault(v, line->sequence, "records %llu to %llu are missing before this one",
			(unsigned long long)wanted, (unsigned long long)(line->sequence - 1));
	return fault(v, line->sequence,
		"this record does not follow the one before it: one of the two was replaced or "
		"inserted");
}

/* The first record of all says whose log it is, and so what its `prev` must be. That of a log whose
 * oldest files were removed stands in an anchor, which comes later. */
static int
check_first(struct verify *v, const struct chain_line *line)
{
	const char *cluster = text_of(line, "cluster");

	if (!cluster || chain_first(cluster, line->node, v->prev) != 0)
		return fault(v, line->sequence, "the first record does not tell whose log this is");
	if (line->sequence > 1) {
		v->base = v->report->last_sequence = line->sequence - 1;
		snprintf(v->prev, sizeof(v->prev), "%s", line->prev);
		memcpy(v->base_head, v->prev, sizeof(v->base_head));
		memcpy(v->base_file, v->file, sizeof(v->base_file));
	}
	snprintf(v->node, sizeof(v->node), "%s", line->node);
	snprintf(v->cluster, sizeof(v->cluster), "%s", cluster);
	if (v->expected && v->expected->node &&
		(strcmp(v->node, v->expected->node) != 0 ||
			strcmp(v->cluster, v->expected->cluster) != 0))
		return fault(v, line->sequence,
			"this is the log of node %.60s of cluster %.60s, not of %.60s of %.60s",
			v->node, v->cluster, v->expected->node, v->expected->cluster);
	v->report->first_sequence = line->sequence;
	if (v->expected && v->expected->witnesses)
		witness_begin(
			v->expected->witnesses, v->cluster, v->node, line->sequence, &v->witness);
	snprintf(v->report->first_time, sizeof(v->report->first_time), "%s", line->time);
	return 0;
}

/* A signed place. An anchor tells of what is missing at the beginning, too. */
static int
check_mark(struct verify *v, const struct chain_line *line)
{
	const struct marks_place place = { v->cluster, v->node, v->base, v->report->last_sequence,
		v->base_head };
	uint64_t at;
	const char *text = marks_check(v->marks, line->type, line->json, &place, &at);

	if (text)
		return fault(v, line->sequence, "%s", text);
	if (strcmp(line->type, "anchor") == 0) {
		v->anchored = v->anchored || (at > 0 && at == v->base);
		return 0;
	}
	v->report->checkpoints++;
	if (at > v->report->signed_through)
		v->report->signed_through = at;
	return 0;
}

/* The server's head, if this record is it. */
static int
check_live(struct verify *v, const struct chain_line *line)
{
	const struct audit_expected *e = v->expected;

	if (!e || e->live_sequence != line->sequence || strcmp(e->live_head, line->hash) == 0)
		return 0;
	return fault(v, line->sequence,
		"the server says that this record has another hash: here or before, the log was "
		"written anew");
}

/* Did another node hear of this record with this hash? */
static int
check_witness(struct verify *v, const struct chain_line *line)
{
	struct audit_report *r = v->report;
	const struct witness_claim *c;

	while ((c = witness_next(&v->witness, line->sequence))) {
		if (!witness_holds(c, line->hash))
			return fault(v, line->sequence,
				"the witness was told of another hash of this record: here or "
				"before, the log was written anew");
		r->witnessed++;
		r->witnessed_through = line->sequence;
	}
	return 0;
}

/* What is missing at the end. */
static int
check_expected(struct verify *v)
{
	const struct audit_expected *e = v->expected;
	const struct audit_report *r = v->report;

	if (!e)
		return 0;
	if (e->pins_count > 0 && r->signed_through == 0)
		return fault(v, r->last_sequence,
			"nothing here is signed: there is no checkpoint by a key that was given");
	if (witness_last(&v->witness) > r->last_sequence)
		return fault(v, r->last_sequence,
			"the log ends here, and the witness was told of record %llu: the end was "
			"cut off, or this is a copy from before",
			(unsigned long long)witness_last(&v->witness));
	if (e->live_sequence > r->last_sequence)
		return fault(v, r->last_sequence,
			"the log ends here, and the server's goes on to record %llu: the end was "
			"cut off, or this is a copy from before",
			(unsigned long long)e->live_sequence);
	return 0;
}

static int
check_base(struct verify *v)
{
	if (v->base == 0 || v->anchored || v->from > 0)
		return 0;
	memcpy(v->file, v->base_file, sizeof(v->file));
	v->line = 1;
	return fault(v, v->base + 1,
		"the chain does not start at its beginning: records 1 to %llu are missing, and no "
		"anchor record tells that they were removed",
		(unsigned long long)v->base);
}

static int
check_place(struct verify *v, struct lines *l, const struct chain_line *line)
{
	int err = v->report->records == 0 ? check_first(v, line) : 0;
	uint64_t wanted = v->report->last_sequence + 1;

	if (err)
		return err;
	if (line->sequence != wanted || strcmp(line->prev, v->prev) != 0)
		return misplaced(v, l, line, wanted);
	if (strcmp(line->node, v->node) != 0)
		return fault(v, line->sequence, "this record is another node's");
	if (v->line == 1 && line->sequence != v->file_sequence)
		return fault(v, line->sequence, "the file is not named after its first record");
	return 0;
}

static int
check_record(struct verify *v, struct lines *l, const char *text, size_t len, uint64_t start)
{
	struct audit_report *r = v->report;
	struct chain_line line = { 0 };
	int err;

	if (chain_parse(v->md, text, len, &line) < 0)
		return fault(v, 0,
			"the line is not a record with the hash that it claims: it was changed or "
			"inserted (record %llu was expected)",
			(unsigned long long)r->last_sequence + 1);
	err = check_place(v, l, &line);
	if (!err && strcmp(line.type, "gap") == 0)
		err = check_gap(v, &line, start);
	else if (!err && strcmp(line.type, "open") == 0)
		note(v, &line);
	else if (!err && (strcmp(line.type, "checkpoint") == 0 || strcmp(line.type, "anchor") == 0))
		err = check_mark(v, &line);
	if (!err)
		err = check_live(v, &line);
	if (!err)
		err = check_witness(v, &line);
	if (!err) {
		marks_note(v->marks, line.sequence, line.hash);
		v->head = v->head && strcmp(line.type, "gap") == 0;
		r->records++;
		r->last_sequence = line.sequence;
		memcpy(v->prev, line.hash, sizeof(v->prev));
		memcpy(r->head, line.hash, sizeof(r->head));
		snprintf(r->last_time, sizeof(r->last_time), "%s", line.time);
		if (v->each)
			v->each(line.json, len, v->user);
	}
	chain_line_free(&line);
	return err;
}

static int
check_end(struct verify *v, struct lines *l, int err)
{
	v->line++;
	if (err == -ENODATA && l->live)
		return fault(v, 0,
			"the last line is not finished: bytes were added after the end, or a crash "
			"cut it short and kekd has not started since");
	if (err == -ENODATA)
		return fault(v, 0,
			"the file goes on after its last whole record, and no gap record tells of "
			"it");
	if (err == -EFBIG)
		return fault(v, 0, "the line is longer than any record");
	return err;
}

static int
check_lines(struct verify *v, struct lines *l)
{
	const char *text;
	size_t len;
	int err = 0, more;

	for (;;) {
		uint64_t start = l->offset;
		more = next_line(l, &text, &len);
		if (more != 1)
			return more < 0 ? check_end(v, l, more) : 0;
		v->line++;
		err = check_record(v, l, text, len, start);
		if (err)
			return err;
	}
}

static int
check_file(struct verify *v, uint64_t sequence, uint64_t next_sequence)
{
	char next[CHAIN_FILE_SIZE];
	uint64_t limit = UINT64_MAX;
	struct lines l;
	int err = 0;

	memcpy(v->before, v->file, sizeof(v->before));
	chain_file_name(sequence, v->file);
	v->file_sequence = sequence;
	v->line = 0;
	v->head = true;
	if (next_sequence > 0) {
		chain_file_name(next_sequence, next);
		err = find_claim(v, v->file, next, &limit);
	}
	if (err)
		return err;
	err = lines_open(&l, v->dir_fd, v->file, limit, next_sequence == 0);
	if (!err)
		err = check_lines(v, &l);
	if (!err && limit != UINT64_MAX && l.offset < limit)
		err = fault(v, 0,
			"the file ends before byte %llu, up to which the next file says it counts",
			(unsigned long long)limit);
	v->before_size = l.offset;
	lines_close(&l);
	v->report->files++;
	return err;
}

static int
check_all(struct verify *v, const uint64_t *list, size_t count)
{
	size_t i = 0;
	int err = 0;

	if (count == 0)
		return fault(v, 0, "there is no audit file here");
	while (i + 1 < count && list[i + 1] <= v->from)
		i++;
	for (; !err && i < count; i++)
		err = check_file(v, list[i], i + 1 < count ? list[i + 1] : 0);
	if (!err && v->report->records == 0)
		err = fault(v, 0, "there is no record here");
	if (!err)
		err = check_base(v);
	if (!err)
		err = check_expected(v);
	return err;
}

static int
verify_dir(struct verify *v, const char *dir, struct audit_report *ret_report)
{
	struct audit_report report = { 0 };
	uint64_t *list = NULL;
	size_t count = 0;
	int err;

	v->dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (v->dir_fd < 0)
		return -errno;
	v->report = &report;
	v->md = EVP_MD_CTX_new();
	v->marks = marks_open(v->expected);
	report.signatures_checked = v->expected && v->expected->pins_count > 0;
	report.notes = json_array();
	err = v->md && v->marks && report.notes ? chain_list(v->dir_fd, &list, &count) : -ENOMEM;
	if (!err)
		err = check_all(v, list, count);
	free(list);
	EVP_MD_CTX_free(v->md);
	marks_freep(&v->marks);
	close(v->dir_fd);
	if (err && err != KEKD_EAUDIT) {
		json_decref(report.notes);
		return err;
	}
	*ret_report = report;
	return err;
}

int
audit_verify(const char *dir, struct audit_report *ret_report)
{
	return audit_verify_each(dir, NULL, NULL, ret_report);
}

int
audit_verify_each(
	const char *dir, audit_record_fn *each, void *user, struct audit_report *ret_report)
{
	struct verify v = { .each = each, .user = user };

	return verify_dir(&v, dir, ret_report);
}

int
audit_verify_from(const char *dir, uint64_t sequence, audit_record_fn *each, void *user,
	struct audit_report *ret_report)
{
	struct verify v = { .each = each, .user = user, .from = sequence };

	return verify_dir(&v, dir, ret_report);
}

int
audit_verify_expected(
	const char *dir, const struct audit_expected *expected, struct audit_report *ret_report)
{
	struct verify v = { .expected = expected };

	return verify_dir(&v, dir, ret_report);
}
