/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The rest of the log at a start: what the store's records do not hold yet is folded from the lines
 * themselves, some at a time, in bounded memory. The last stored place must be in the log, with its
 * hash, and the chain must run on from there, or records are missing.
 */
#include "usage_line.h"
#include "usage_table.h"

#include "kekd/clock.h"
#include "kekd/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LINES_AT_ONCE 512
#define SKIPPED_AT_ONCE 65536
#define SEQUENCE_MEMBER "{\"v\":1,\"seq\":"

struct log_reader {
	int dir_fd;
	uint64_t *files; /* their first sequence numbers */
	size_t count, next;
	FILE *file;
	uint64_t limit; /* what has this number stands in the next file; here it does not count */
	char *line;
	size_t size;
	EVP_MD_CTX *md;
	struct usage_clock clock;
	struct place last; /* that was folded, or stored */
	bool by_time;	   /* the log is not the stored one's: what is younger counts */
	uint64_t oldest_us;
};

void
usage_reader_freep(struct log_reader **r)
{
	if (!*r)
		return;
	if ((*r)->file)
		fclose((*r)->file);
	if ((*r)->dir_fd >= 0)
		close((*r)->dir_fd);
	EVP_MD_CTX_free((*r)->md);
	free((*r)->files);
	free((*r)->line);
	free(*r);
	*r = NULL;
}

static void
missing(struct usage *u, uint64_t since_us, const char *what)
{
	char since[CLOCK_TEXT_SIZE];

	clock_format(since_us, since);
	log_warning(
		"audit: %s: usage evidence is incomplete since %s, and no version that is older "
		"can be destroyed (doc/operations.md)",
		what, since);
	usage_mark_incomplete(u, since_us);
}

/* ---- lines ---- */

static uint64_t
line_sequence(const char *line)
{
	const size_t len = sizeof(SEQUENCE_MEMBER) - 1;

	return strncmp(line, SEQUENCE_MEMBER, len) == 0 ? strtoull(line + len, NULL, 10) : 0;
}

static bool
is_stored(const struct log_reader *r, const struct used_key *key, uint64_t sequence, uint64_t us)
{
	return r->by_time ? us <= key->stored_us : sequence <= key->stored;
}

/* A summary does not tell the key: the record of the same minute before it did. */
static struct used_key *
key_of(struct usage *u, const struct usage_line *line, const struct uuid *version)
{
	const struct version *v = *line->key ? NULL : usage_find_version(u, version);

	return *line->key ? usage_find_key(u, 0, line->key, true) : v ? v->own : NULL;
}

static int
fold_use(struct usage *u, const struct log_reader *r, const struct usage_line *line,
	const struct usage_line_version *v)
{
	struct used_key *key = key_of(u, line, &v->id);
	struct row *row;

	if (!key || is_stored(r, key, line->sequence, line->last_us))
		return key ? 0 : -ENOENT;
	row = usage_find_row(u, key, &v->id, v->number, line->client);
	if (!row)
		return -ENOMEM;
	for (size_t i = 0; i < USAGE_KINDS; i++)
		if (v->counts[i] > 0)
			usage_add(&row->counts[i], v->counts[i], line->first_us, line->last_us);
	usage_key_changed(u, key);
	return 0;
}

static void
fold_line(struct usage *u, struct log_reader *r, struct usage_line *line)
{
	struct usage_line_version v;
	int err = 0;

	pthread_mutex_lock(&u->lock);
	while (usage_line_next(line, &v)) {
		int e = fold_use(u, r, line, &v);
		err = err ? err : e;
	}
	pthread_mutex_unlock(&u->lock);
	if (err)
		missing(u, line->first_us,
			"a record of the log has no place among the keys in use");
}

static void
check_first(struct usage *u, const struct log_reader *r, const struct usage_line *line)
{
	if (r->oldest_us > 0 && (line->sequence != 1 || r->oldest_us < line->time_us))
		missing(u, r->oldest_us, "the log does not go back to the oldest version");
}

static int start_by_time(struct usage *u, struct log_reader *r);

/* 0; -ESTALE: reading begins anew. */
static int
check_place(struct usage *u, struct log_reader *r, const struct usage_line *line)
{
	bool follows = line->sequence == r->last.sequence + 1 &&
		       strcmp(line->prev, r->last.head) == 0;

	if (r->by_time || follows)
		return 0;
	if (r->last.sequence == 0) {
		check_first(u, r, line);
		return 0;
	}
	if (r->last.sequence == u->members[0].stored.sequence) {
		int err = start_by_time(u, r);
		return err ? err : -ESTALE;
	}
	missing(u, r->last.time_us, "records are missing");
	return 0;
}

static int
take_line(struct usage *u, struct log_reader *r, size_t len)
{
	struct usage_line line;
	int err;

	r->line[len] = '\0';
	/* A torn or changed line is not there: whether that leaves a hole, the numbers tell. */
	if (usage_line_read(r->md, &r->clock, r->line, len, &line) < 0)
		return 0;
	err = check_place(u, r, &line);
	if (!err) {
		fold_line(u, r, &line);
		r->last.sequence = line.sequence;
		if (line.time_us > r->last.time_us)
			r->last.time_us = line.time_us;
		memcpy(r->last.head, line.hash, sizeof(r->last.head));
	}
	usage_line_free(&line);
	return err == -ESTALE ? 0 : err;
}

/* ---- files ---- */

/* 1; 0: there is none any more; or -errno. */
static int
next_file(struct log_reader *r)
{
	char name[CHAIN_FILE_SIZE];
	int fd;

	if (r->file)
		fclose(r->file);
	r->file = NULL;
	if (r->next >= r->count)
		return 0;
	chain_file_name(r->files[r->next], name);
	fd = openat(r->dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	r->file = fd >= 0 ? fdopen(fd, "r") : NULL;
	if (!r->file) {
		int err = -errno;
		if (fd >= 0)
			close(fd);
		return err;
	}
	r->next++;
	r->limit = r->next < r->count ? r->files[r->next] : UINT64_MAX;
	return 1;
}

/* The files from the one on that holds the first record behind the last place. */
static int
list_files(struct log_reader *r)
{
	free(r->files);
	r->files = NULL;
	r->count = r->next = 0;
	int err = chain_list(r->dir_fd, &r->files, &r->count);

	while (!err && !r->by_time && r->next + 1 < r->count &&
		r->files[r->next + 1] <= r->last.sequence + 1)
		r->next++;
	return err;
}

static int
start_by_time(struct usage *u, struct log_reader *r)
{
	missing(u, r->last.time_us,
		"the log is gone, was cut off or is another one than at the last stop");
	r->by_time = true;
	if (r->file)
		fclose(r->file);
	r->file = NULL;
	return list_files(r);
}

static void
end(struct usage *u)
{
	const struct log_reader *r = u->reader;

	if (!r->by_time && r->last.sequence < u->begin.sequence)
		missing(u, r->last.time_us, "records are missing at the end of an earlier run");
	if (u->begin.sequence == 0 && r->oldest_us > 0 && r->last.sequence == 0 && !r->by_time)
		missing(u, r->oldest_us, "there is no log");
	usage_reader_freep(&u->reader);
	pthread_mutex_lock(&u->lock);
	u->read = true;
	pthread_mutex_unlock(&u->lock);
}

static int
open_reader(struct usage *u)
{
	struct log_reader *r = u->reader;
	const struct place *stored = &u->members[0].stored;
	bool same = stored->sequence < u->begin.sequence ||
		    (stored->sequence == u->begin.sequence &&
			    strcmp(stored->head, u->begin.head) == 0);

	if (r->md)
		return 0;
	r->md = EVP_MD_CTX_new();
	if (!r->md)
		return -ENOMEM;
	r->last = *stored;
	return stored->sequence > 0 && !same ? start_by_time(u, r) : list_files(r);
}

/* 1: a line that counts, of *ret_len bytes; 0: all is read. */
static int
read_line(struct usage *u, struct log_reader *r, size_t *ret_len)
{
	size_t skipped = 0;

	for (;;) {
		size_t len = 0;
		int whole = r->file ? chain_read_line(r->file, &r->line, &r->size, &len) : 0;
		bool none = whole <= 0 && len == 0;
		uint64_t sequence = none ? 0 : line_sequence(r->line);
		int more = 1;
		if (sequence > u->begin.sequence && sequence < r->limit)
			return 0;
		if (none || sequence >= r->limit)
			more = next_file(r);
		else if (sequence > 0 && (r->by_time || sequence > r->last.sequence) &&
			 whole == 1) {
			*ret_len = len;
			return 1;
		}
		if (more <= 0)
			return more;
		if (++skipped == SKIPPED_AT_ONCE)
			return -EAGAIN;
	}
}

int
usage_read_some(struct usage *u)
{
	size_t len = 0;
	bool begun;
	int err;

	pthread_mutex_lock(&u->lock);
	begun = u->begun && u->started && !u->read;
	pthread_mutex_unlock(&u->lock);
	if (!begun)
		return 0;
	err = open_reader(u);
	for (size_t i = 0; !err && i < LINES_AT_ONCE; i++) {
		int more = read_line(u, u->reader, &len);
		if (more == 0) {
			end(u);
			return 0;
		}
		err = more < 0 ? more : take_line(u, u->reader, len);
	}
	return err && err != -EAGAIN ? err : 1;
}

int
usage_start(struct usage *u, const char *dir, const char *generation, uint64_t oldest_us)
{
	struct log_reader *r = calloc(1, sizeof(*r));
	struct member *own = &u->members[0];

	if (!r)
		return -ENOMEM;
	r->oldest_us = oldest_us;
	r->dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	u->reader = r;
	snprintf(u->round.generation, sizeof(u->round.generation), "%s", generation);
	if (*own->generation && strcmp(own->generation, generation) != 0)
		missing(u, own->stored.time_us, "the metadata was restored from a backup");
	pthread_mutex_lock(&u->lock);
	usage_judge_loaded(u);
	for (size_t i = 1; i < u->members_count; i++)
		if (!usage_is_whole(u, i))
			usage_note_incomplete(u, i, oldest_us);
	u->started = true;
	pthread_mutex_unlock(&u->lock);
	return 0;
}
