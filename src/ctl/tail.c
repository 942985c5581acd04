/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kekctl audit tail: the newest records of a log on this machine, one line each for people, as they
 * stand for programs. It verifies nothing: kekctl audit verify does.
 */
#include "ctl.h"

#include "kekd/audit.h"
#include "kekd/err.h"

#include <string.h>
#include <time.h>

#define LAST 10
#define LAST_MAX 1000000
#define LOOK_MS 200

/* "v1 2 wrapped, v2 1 refused" */
static const char *
show_versions(const json_t *record)
{
	static const char *const counts[] = { "wrapped", "unwrapped", "refused", "failed" };
	struct buf b = BUF_INIT(SHOW_TEXT_SIZE - 1);
	const char *text;
	const json_t *v;
	size_t i;

	json_array_foreach(json_object_get(record, "versions"), i, v)
		for (size_t c = 0; c < STR_COUNT(counts); c++)
			if (number_of(v, counts[c]) > 0)
				buf_printf(&b, "%sv%lld %lld %s", b.len > 0 ? ", " : "",
					number_of(v, "version"), number_of(v, counts[c]),
					counts[c]);
	text = show_format("%.*s", (int)b.len, b.len > 0 ? (const char *)b.data : "");
	buf_free(&b);
	return text;
}

static const char *
who(const json_t *record)
{
	const char *client = string_of(record, "client");

	return *client ? client : show_text(record, "identity");
}

void
audit_show_record(const json_t *record)
{
	const char *operation = string_of(record, "operation"), *code = string_of(record, "code");
	char line[SHOW_TEXT_SIZE];

	snprintf(line, sizeof(line), "%s  %8s  %-16s  %-12s  %-20s  %s%s%s",
		show_time(record, "time"), show_number(record, "seq"), who(record),
		*operation ? operation : show_text(record, "type"), show_text(record, "key"),
		show_versions(record), *code ? " " : "", code);
	show_line(line, *code != '\0');
}

static int
show(const struct ctl *ctl, const char *line, size_t len)
{
	_cleanup_(json_freep) json_t *record = NULL;
	char error[JSON_ERROR_SIZE];

	if (len >= AUDIT_LINE_MAX) {
		say_error("a line is longer than any record: kekctl audit verify tells more");
		return CTL_UNVERIFIED;
	}
	if (ctl->json) {
		puts(line);
		return CTL_OK;
	}
	record = json_parse(line, len, error);
	if (record) {
		audit_show_record(record);
		return CTL_OK;
	}
	say_error("a line is no record: %s", error);
	return CTL_UNVERIFIED;
}

static int
show_all(const struct ctl *ctl, struct audit_reader *r)
{
	bool follow = args_has(&ctl->args, "follow");
	const char *line;
	size_t len;
	int status = CTL_OK, more;

	while ((more = audit_reader_next(r, &line, &len)) > 0 || (more == 0 && follow)) {
		if (more > 0 && show(ctl, line, len) != CTL_OK)
			status = CTL_UNVERIFIED;
		if (more > 0)
			continue;
		if (fflush(stdout) != 0)
			return CTL_FAILED;
		nanosleep(&(struct timespec){ 0, LOOK_MS * 1000000L }, NULL);
	}
	if (more == 0)
		return status;
	say_error("cannot read the log: %s", kekd_strerror(more));
	return CTL_FAILED;
}

int
audit_tail_run(struct ctl *ctl)
{
	struct audit_reader *r = NULL;
	const char *dir = ctl->args.words[0];
	unsigned last = LAST;
	int status = args_number(&ctl->args, "last", 0, LAST_MAX, &last), err;

	if (status != CTL_OK)
		return status;
	err = audit_reader_open(dir, last, &r);
	if (err != 0) {
		say_error("cannot read %s: %s", dir, kekd_strerror(err));
		say_hint("give the directory with the audit-*.jsonl files: \"dir\" of the server's "
			 "audit section");
		return CTL_FAILED;
	}
	status = show_all(ctl, r);
	audit_reader_freep(&r);
	return status;
}
