/* SPDX-License-Identifier: Apache-2.0 */
/* Where records come from, and which. Not here: what is shown of them. */
#include "records.h"

#include "kekd/clock.h"
#include "kekd/err.h"

#include <ctype.h>
#include <errno.h>
#include <openssl/sha.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define BLOB_MAX 8192 /* in base64, with white space */
#define SHOW_EVERY 4096
#define PATIENCE_S 60 /* while the server has too much to do, or reads for the same client */
#define PLACE_SIZE 64 /* of a page, as the server names it */
#define US 1000000ull

/* ---- options ---- */

/* A time, a day, or how long ago. */
static int
take_time(const struct ctl_args *a, const char *option, uint64_t *ret_us)
{
	const char *text = args_value(a, option);
	char whole[64];
	uint64_t s;

	if (!text)
		return CTL_OK;
	snprintf(whole, sizeof(whole), "%.40sT00:00:00Z", text);
	if (clock_parse(text, ret_us) == 0 || clock_parse(whole, ret_us) == 0)
		return CTL_OK;
	if (clock_parse_duration(text, &s) == 0) {
		uint64_t now = clock_real_us();
		*ret_us = s * US < now ? now - s * US : 1;
		return CTL_OK;
	}
	say_error("--%s \"%s\" is no time", option, text);
	say_hint("2026-01-31T12:00:00Z, 2026-01-31, or how long ago: 24h, 90d");
	return CTL_USAGE;
}

/* The SHA-256 of a blob, or its first digits, as an audit record and etcd-snapshot show them. */
static bool
take_blob_hash(const char *text, struct audit_filter *f)
{
	size_t len = strlen(text), digits = 2 * sizeof(f->blob);
	char first[2 * sizeof(f->blob) + 1];

	if (len < digits || len > 2 * SHA256_DIGEST_LENGTH ||
		strspn(text, "0123456789abcdef") != len)
		return false;
	snprintf(first, sizeof(first), "%.*s", (int)digits, text);
	f->has_blob = str_unhex(first, f->blob, sizeof(f->blob)) == 0;
	return f->has_blob;
}

/* A blob as wrap gives it, or its bytes. */
static int
take_blob(struct ctl *ctl, struct audit_filter *f)
{
	const char *path = args_value(&ctl->args, "blob");
	uint8_t bytes[BLOB_MAX], digest[SHA256_DIGEST_LENGTH];
	struct buf text = BUF_INIT(0);
	size_t len = 0, n = 0;
	int status;

	if (!path || (access(path, F_OK) != 0 && take_blob_hash(path, f)))
		return CTL_OK;
	status = input_read(ctl, path, false, BLOB_MAX, "too long for a wrapped data key", &text);
	if (status == CTL_OK && text.len > 4 && memcmp(text.data, "kek", 3) == 0 &&
		text.data[3] < 0x20) {
		SHA256(text.data, text.len, digest);
	} else if (status == CTL_OK) {
		for (size_t i = 0; i < text.len; i++)
			if (!isspace(text.data[i]))
				text.data[n++] = text.data[i];
		if (n == 0 || str_unbase64((char *)text.data, n, bytes, sizeof(bytes), &len) < 0) {
			say_error("%s holds no ciphertext: neither its bytes nor base64", path);
			status = CTL_FAILED;
		} else {
			SHA256(bytes, len, digest);
		}
	}
	buf_free(&text);
	if (status != CTL_OK)
		return status;
	memcpy(f->blob, digest, sizeof(f->blob));
	f->has_blob = true;
	return CTL_OK;
}

int
records_take(struct ctl *ctl, struct records *ret_records)
{
	const struct ctl_args *a = &ctl->args;
	struct records r = {
		.dir = args_value(a, "dir"),
		.filter = {
			.client = args_value(a, "client"),
			.key = args_value(a, "about-key"),
			.operation = args_value(a, "op"),
			.code = args_value(a, "code"),
			.request_id = args_value(a, "request-id"),
			.denied = args_has(a, "denied"),
		},
	};
	int status;

	if ((status = take_time(a, "since", &r.filter.since_us)) != CTL_OK ||
		(status = take_time(a, "until", &r.filter.until_us)) != CTL_OK ||
		(status = take_blob(ctl, &r.filter)) != CTL_OK)
		return status;
	*ret_records = r;
	return CTL_OK;
}

void
records_free(struct records *r)
{
	json_decref(r->report.notes);
	r->report.notes = NULL;
}

/* ---- progress: how many, and how fast ---- */

struct pace {
	bool shown;
	uint64_t start_ns;
};

static void
show_pace(const struct pace *p, const struct records *r)
{
	double s = (double)(clock_monotonic_ns() - p->start_ns) / CLOCK_S;
	char text[120];

	if (!p->shown)
		return;
	snprintf(text, sizeof(text), "%llu records, %.0f a second, %llu match",
		(unsigned long long)r->scanned, s > 0 ? (double)r->scanned / s : 0,
		(unsigned long long)r->matched);
	progress_line(text);
}

/* ---- from files ---- */

static int
fail_dir(const char *dir, int err)
{
	say_error("cannot read %s: %s", dir, kekd_strerror(err));
	say_hint("give the directory with the audit-*.jsonl files: \"dir\" of the server's audit "
		 "section");
	return CTL_FAILED;
}

struct walk {
	struct records *records;
	records_fn *fn;
	void *user;
	struct pace pace;
	bool stopped;
};

static void
take_record(struct walk *w, const json_t *record, const char *line)
{
	struct records *r = w->records;

	if (w->stopped || !audit_filter_matches(&r->filter, record))
		return;
	r->matched++;
	w->stopped = !w->fn(record, line, w->user);
}

static void
take_line(struct walk *w, const char *line, size_t len)
{
	_cleanup_(json_freep) json_t *record = NULL;
	char error[JSON_ERROR_SIZE];

	if (++w->records->scanned % SHOW_EVERY == 0)
		show_pace(&w->pace, w->records);
	if (len >= AUDIT_LINE_MAX) {
		say_note("a line is longer than any record: kekctl audit verify tells more");
		return;
	}
	if (!audit_filter_may_match(&w->records->filter, line, len))
		return;
	record = json_parse(line, len, error);
	if (record)
		take_record(w, record, line);
	else
		say_note("a line is no record (%s): kekctl audit verify tells more", error);
}

static int
read_dir(struct walk *w)
{
	struct records *r = w->records;
	struct audit_reader *reader = NULL;
	const char *line;
	size_t len;
	int more = 1, err = audit_reader_open_since(r->dir, r->filter.since_us, &reader);

	while (!err && more > 0 && !w->stopped) {
		more = audit_reader_next(reader, &line, &len);
		if (more > 0)
			take_line(w, line, len);
		else
			err = more;
	}
	audit_reader_freep(&reader);
	return err ? fail_dir(r->dir, err) : CTL_OK;
}

static void
take_verified(const json_t *record, size_t len __attribute__((unused)), void *user)
{
	struct walk *w = user;

	if (++w->records->scanned % SHOW_EVERY == 0)
		show_pace(&w->pace, w->records);
	take_record(w, record, NULL);
}

static int
verify_dir(struct walk *w)
{
	struct records *r = w->records;

	r->verdict = audit_verify_each(r->dir, take_verified, w, &r->report);
	return r->verdict == 0 || r->verdict == KEKD_EAUDIT ? CTL_OK : fail_dir(r->dir, r->verdict);
}

/* ---- from the server ---- */

static void
put_parameter(struct buf *b, const char *name, const char *value)
{
	if (!value)
		return;
	buf_printf(b, "&%s=", name);
	for (const char *p = value; *p; p++)
		if (isalnum((unsigned char)*p) || strchr("-._~", *p))
			buf_u8(b, (uint8_t)*p);
		else
			buf_printf(b, "%%%02X", (unsigned char)*p);
}

static const char *
time_text(uint64_t us, char text[CLOCK_TEXT_SIZE])
{
	if (us == 0)
		return NULL;
	clock_format(us, text);
	return text;
}

static int
make_path(const struct audit_filter *f, const char *after, struct buf *b)
{
	char since[CLOCK_TEXT_SIZE], until[CLOCK_TEXT_SIZE], blob[2 * sizeof(f->blob) + 1] = "";

	if (f->has_blob)
		str_hex(f->blob, sizeof(f->blob), blob);
	buf_reset(b);
	buf_str(b, "/v1/audit?limit=1000");
	put_parameter(b, "client", f->client);
	put_parameter(b, "key", f->key);
	put_parameter(b, "op", f->operation);
	put_parameter(b, "code", f->code);
	put_parameter(b, "request_id", f->request_id);
	put_parameter(b, "since", time_text(f->since_us, since));
	put_parameter(b, "until", time_text(f->until_us, until));
	put_parameter(b, "denied", f->denied ? "true" : NULL);
	put_parameter(b, "blob", f->has_blob ? blob : NULL);
	put_parameter(b, "after", after);
	buf_u8(b, 0);
	return b->bad ? CTL_FAILED : CTL_OK;
}

static int
take_page(struct walk *w, const json_t *page)
{
	const json_t *record;
	size_t i;

	if (!json_is_array(json_object_get(page, "records")))
		return say_no_answer("no list of records");
	w->records->scanned += (uint64_t)number_of(page, "scanned");
	show_pace(&w->pace, w->records);
	json_array_foreach(json_object_get(page, "records"), i, record)
		take_record(w, record, NULL);
	return CTL_OK;
}

static bool
is_busy(const struct kekd_reply *r)
{
	return r->status == 429 ||
	       (r->json && strcmp(string_of(r->json, "code"), "overloaded") == 0);
}

/* A page; asked for again while the server says to come later. */
static int
get_page(struct ctl *ctl, const char *path, json_t **ret_page)
{
	for (unsigned waited_s = 0;;) {
		_cleanup_(kekd_reply_free) struct kekd_reply reply = { 0 };
		int status = ctl_exchange(ctl, "GET", path, NULL, NULL, NULL, &reply);
		unsigned delay_s = reply.retry_after_s > 0 ? reply.retry_after_s : 1;
		if (status != CTL_OK)
			return status;
		if (!is_busy(&reply) || delay_s > PATIENCE_S - waited_s) {
			status = ctl_check_reply(&reply);
			*ret_page = status == CTL_OK ? json_incref(reply.json) : NULL;
			return status;
		}
		waited_s += delay_s;
		nanosleep(&(struct timespec){ (time_t)delay_s, 0 }, NULL);
	}
}

/* Where the next page begins; empty: there is none. Pages that do not go forward have no end. */
static int
take_next(const json_t *page, char after[PLACE_SIZE])
{
	const char *next = string_of(page, "next");

	if (strlen(next) >= PLACE_SIZE || (*next && strcmp(next, after) == 0))
		return say_no_answer("a page that leads nowhere");
	snprintf(after, PLACE_SIZE, "%s", next);
	return CTL_OK;
}

static int
read_server(struct ctl *ctl, struct walk *w)
{
	struct buf path = BUF_INIT(8192);
	char after[PLACE_SIZE] = "";
	int status = CTL_OK;

	do {
		_cleanup_(json_freep) json_t *page = NULL;
		status = make_path(&w->records->filter, *after ? after : NULL, &path);
		if (status == CTL_OK)
			status = get_page(ctl, (const char *)path.data, &page);
		if (status == CTL_OK)
			status = take_page(w, page);
		if (status == CTL_OK)
			status = take_next(page, after);
	} while (status == CTL_OK && *after && !w->stopped);
	buf_free(&path);
	return status;
}

int
records_read(struct ctl *ctl, struct records *r, records_fn *fn, void *user)
{
	struct walk w = { .records = r,
		.fn = fn,
		.user = user,
		.pace = { progress_wanted(ctl), clock_monotonic_ns() } };
	int status = !r->dir ? read_server(ctl, &w) : r->verify ? verify_dir(&w) : read_dir(&w);

	if (w.pace.shown)
		progress_wipe();
	return status;
}
