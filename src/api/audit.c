/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading the audit log over the API: records that match, in the log's order, a page at a time. A
 * page is what a bounded piece of the log has of them: it is read on a thread of its own, so that
 * nobody waits for the disk. A client sees its own records; audit.read sees all.
 */
#include "api.h"

#include "kekd/clock.h"

#include <errno.h>
#include <string.h>

#define SCAN_BYTES ((uint64_t)64 * 1024 * 1024) /* of the log for one page */
#define SCAN_NS (500 * CLOCK_MS)
#define PAGE_BYTES ((size_t)4 * 1024 * 1024)
#define CURSOR_SIZE 48

struct scan {
	struct control_job job;
	struct request *request;
	struct audit_filter filter;
	struct audit_place place; /* file 0: from the filter's time */
	size_t limit;
	char *texts[5]; /* what the filter's point to */
	/* what is found */
	struct buf lines; /* as they stand in the log, a comma between */
	size_t count;
	uint64_t scanned, bytes;
	bool end; /* of the log */
};

static void
scan_free(void *state)
{
	struct scan *s = state;

	for (size_t i = 0; i < STR_COUNT(s->texts); i++)
		free(s->texts[i]);
	buf_free(&s->lines);
	free(s);
}

/* ---- what is asked for: on the HTTP thread ---- */

static int
take_time(struct request *r, const char *name, uint64_t *ret_us)
{
	const char *text = request_query(r, name);

	if (!text || clock_parse(text, ret_us) == 0)
		return 0;
	request_fail(r, KEKD_EINVALID,
		"%s must be a time like 2026-01-31T12:00:00Z (RFC 3339, UTC)", name);
	return KEKD_EINVALID;
}

static int
take_texts(struct request *r, struct scan *s)
{
	const struct {
		const char *name, **place;
	} texts[] = {
		{ "client", &s->filter.client },
		{ "key", &s->filter.key },
		{ "op", &s->filter.operation },
		{ "code", &s->filter.code },
		{ "request_id", &s->filter.request_id },
	};

	for (size_t i = 0; i < STR_COUNT(texts); i++) {
		const char *text = request_query(r, texts[i].name);
		if (!text)
			continue;
		s->texts[i] = strdup(text);
		if (!s->texts[i]) {
			request_fail(r, -ENOMEM, "no memory: ask again");
			return -ENOMEM;
		}
		*texts[i].place = s->texts[i];
	}
	return 0;
}

static int
take_flags(struct request *r, struct scan *s)
{
	const char *denied = request_query(r, "denied"), *blob = request_query(r, "blob");

	if (denied && strcmp(denied, "true") != 0 && strcmp(denied, "false") != 0) {
		request_fail(r, KEKD_EINVALID, "denied must be true or false");
		return KEKD_EINVALID;
	}
	s->filter.denied = denied && strcmp(denied, "true") == 0;
	if (blob && str_unhex(blob, s->filter.blob, sizeof(s->filter.blob)) < 0) {
		request_fail(r, KEKD_EINVALID,
			"blob must be 16 hex digits: the first 8 bytes of SHA-256 of the "
			"ciphertext's bytes");
		return KEKD_EINVALID;
	}
	s->filter.has_blob = blob != NULL;
	return 0;
}

/* "FILE-OFFSET", as a page before gave it. */
static int
take_cursor(struct request *r, struct scan *s)
{
	const char *text = request_query(r, "after");
	char again[CURSOR_SIZE];
	unsigned long long file, offset;

	if (!text)
		return 0;
	if (sscanf(text, "%llu-%llu", &file, &offset) == 2 && file > 0 &&
		snprintf(again, sizeof(again), "%llu-%llu", file, offset) > 0 &&
		strcmp(again, text) == 0) {
		s->place = (struct audit_place){ file, offset };
		return 0;
	}
	request_fail(r, KEKD_EINVALID, "after must be the \"next\" of the page before");
	return KEKD_EINVALID;
}

static int
take_limit(struct request *r, struct scan *s)
{
	const char *text = request_query(r, "limit");
	char *end = NULL;
	unsigned long n = text ? strtoul(text, &end, 10) : API_LIMIT_DEFAULT;

	if (text && (*text < '0' || *text > '9' || *end || n < 1 || n > API_LIMIT_MAX)) {
		request_fail(
			r, KEKD_EINVALID, "limit must be a number from 1 to %d", API_LIMIT_MAX);
		return KEKD_EINVALID;
	}
	s->limit = n;
	return 0;
}

/* Others' records only for who may read all. */
static int
restrict_to_own(struct request *r, struct scan *s)
{
	if (client_authorise(r->client, ACCESS_AUDIT_READ, NULL) == 0)
		return 0;
	if (s->filter.client && strcmp(s->filter.client, r->client->name) != 0) {
		request_fail(r, KEKD_EFORBIDDEN,
			"no grant of client \"%s\" has audit.read: it may ask for its own records",
			r->client->name);
		return KEKD_EFORBIDDEN;
	}
	s->filter.client = r->client->name;
	return 0;
}

/* ---- reading: on the thread for it ---- */

static int
take_line(struct scan *s, const char *line, size_t len)
{
	char error[JSON_ERROR_SIZE];
	json_t *record;
	bool matches;

	s->scanned++;
	s->bytes += len + 1;
	if (len >= AUDIT_LINE_MAX || !audit_filter_may_match(&s->filter, line, len))
		return 0;
	record = json_parse(line, len, error);
	matches = record && audit_filter_matches(&s->filter, record);
	json_decref(record);
	if (!matches)
		return 0;
	if (s->count++ > 0)
		buf_u8(&s->lines, ',');
	buf_put(&s->lines, line, len);
	return s->lines.bad ? -ENOMEM : 0;
}

static bool
is_full(const struct scan *s, uint64_t end_ns)
{
	return s->count >= s->limit || s->lines.len >= PAGE_BYTES || s->bytes >= SCAN_BYTES ||
	       clock_boot_ns() >= end_ns;
}

static int
scan(struct scan *s)
{
	const char *dir = s->request->node->part.audit_dir, *line;
	uint64_t end_ns = clock_boot_ns() + SCAN_NS;
	struct audit_reader *reader = NULL;
	size_t len;
	int more = 1, err = s->place.file
				    ? audit_reader_open_at(dir, &s->place, &reader)
				    : audit_reader_open_since(dir, s->filter.since_us, &reader);

	while (!err && more > 0 && !is_full(s, end_ns)) {
		more = audit_reader_next(reader, &line, &len);
		err = more < 0 ? more : more > 0 ? take_line(s, line, len) : 0;
	}
	s->end = more == 0;
	if (!err)
		audit_reader_place(reader, &s->place);
	audit_reader_freep(&reader);
	return err;
}

/* Lines are not made anew, so that whoever asked can compare their hashes. */
static void
put_page(const struct scan *s, struct buf *b)
{
	if (s->end)
		buf_str(b, "{\"next\":null");
	else
		buf_printf(b, "{\"next\":\"%llu-%llu\"", (unsigned long long)s->place.file,
			(unsigned long long)s->place.offset);
	buf_str(b, ",\"records\":[");
	buf_put(b, s->lines.data, s->lines.len);
	buf_printf(b, "],\"scanned\":%llu}", (unsigned long long)s->scanned);
}

static void
run(struct control_job *job)
{
	struct scan *s = job->user;
	struct request *r = s->request;
	int err = scan(s);

	limit_scan_leave(r->client);
	if (err == 0) {
		put_page(s, &r->reply);
		err = r->reply.bad ? -ENOMEM : 0;
	}
	if (err == -ESTALE)
		request_fail(r, KEKD_EINVALID,
			"the log's file that \"after\" names is gone: begin again, with since");
	else if (err == -ENOMEM)
		request_fail(r, -ENOMEM, "no memory for the answer: ask again, for fewer records");
	else if (err)
		request_fail(r, KEKD_EAUDIT, "the log cannot be read: %s", kekd_strerror(err));
	else
		request_answer_buf(r, 200, "application/json");
}

void
api_audit(struct request *r)
{
	struct scan *s = calloc(1, sizeof(*s));
	int err;

	if (!s) {
		request_fail(r, -ENOMEM, "no memory: ask again");
		return;
	}
	r->state = s;
	r->state_free = scan_free;
	s->request = r;
	s->lines = BUF_INIT(2 * PAGE_BYTES);
	s->job = (struct control_job){ .run = run, .user = s };
	if (take_texts(r, s) < 0 || take_time(r, "since", &s->filter.since_us) < 0 ||
		take_time(r, "until", &s->filter.until_us) < 0 || take_flags(r, s) < 0 ||
		take_cursor(r, s) < 0 || take_limit(r, s) < 0 || restrict_to_own(r, s) < 0)
		return;
	if (!limit_scan_enter(r->client)) {
		request_fail(r, KEKD_ERATE,
			"client \"%s\" reads the log already: one page at a time", r->client->name);
		return;
	}
	err = control_post(r->node->scans, &s->job);
	if (err == 0)
		return;
	limit_scan_leave(r->client);
	request_fail(r, err, "too many read the log: come again");
}
