/* SPDX-License-Identifier: Apache-2.0 */
/* The audit log behind a backup: the changes that it does not have, and how much was wrapped. */
#include "since.h"

#include "kekd/audit.h"
#include "kekd/json.h"
#include "kekd/str.h"

#include <stdlib.h>
#include <string.h>

static const char *
member(const json_t *record, const char *name)
{
	const char *text = json_string_value(json_object_get(record, name));

	return text ? text : "";
}

/* Lines begin with {"v":1,"seq":N, : most are passed over by that alone. */
static uint64_t
line_sequence(const char *line, size_t len)
{
	static const char prefix[] = "{\"v\":1,\"seq\":";

	if (len < sizeof(prefix) || memcmp(line, prefix, sizeof(prefix) - 1) != 0)
		return 0;
	return strtoull(line + sizeof(prefix) - 1, NULL, 10);
}

static void
count_wraps(struct since *s, const json_t *record)
{
	const json_t *v;
	size_t i;

	json_array_foreach(json_object_get(record, "versions"), i, v) {
		const char *id = member(v, "id");
		json_int_t n = json_integer_value(json_object_get(v, "wrapped")) +
			       json_integer_value(json_object_get(v, "failed"));
		if (n > 0 && *id)
			json_object_set_new(s->wrapped, id,
				json_integer(
					n + json_integer_value(json_object_get(s->wrapped, id))));
	}
}

/* A backup changes nothing. */
static bool
is_change(const json_t *record)
{
	return strcmp(member(record, "type"), "outcome") == 0 &&
	       strcmp(member(record, "result"), "ok") == 0 &&
	       strncmp(member(record, "operation"), "backup.", strlen("backup.")) != 0;
}

static void
list_change(const json_t *record, FILE *list)
{
	const json_t *detail = json_object_get(record, "detail");
	char *text = detail ? json_dumps(detail, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
	const char *client = member(record, "client"), *key = member(record, "key");
	const char *path = member(record, "path");

	fprintf(list, "%s %s%s%s by %s%s%s\n", member(record, "time"), member(record, "operation"),
		*key || *path ? " " : "", *key ? key : path, *client ? client : "kekd",
		text ? " " : "", text ? text : "");
	json_text_free(text);
}

static bool
take_line(struct since *s, const char *line, size_t len, FILE *list)
{
	char error[JSON_ERROR_SIZE];
	_cleanup_(json_freep) json_t *record = json_parse(line, len, error);

	if (!record)
		return false;
	count_wraps(s, record);
	if (!is_change(record))
		return true;
	s->changes++;
	if (list)
		list_change(record, list);
	return true;
}

/* The line ends with ,"hash":"…"} */
static bool
has_hash(const char *line, size_t len, const char *hash)
{
	size_t n = strlen(hash);

	return len > n + 2 && memcmp(line + len - n - 2, hash, n) == 0;
}

void
since_read(struct since *s, const char *dir, uint64_t sequence, const char *head, FILE *list)
{
	struct audit_reader *reader = NULL;
	uint64_t last = sequence;
	const char *line;
	bool whole = true;
	size_t len;
	int more;

	*s = (struct since){ .wrapped = json_object() };
	if (audit_reader_open(dir, AUDIT_READER_ALL, &reader) < 0)
		return;
	while ((more = audit_reader_next(reader, &line, &len)) == 1) {
		uint64_t number = line_sequence(line, len);
		if (number == sequence && has_hash(line, len, head)) {
			s->continuous = true;
		} else if (s->continuous) {
			whole = whole && number > 0 && number <= last + 1;
			whole = take_line(s, line, len, list) && whole;
			last = number;
		}
	}
	/* What a missing line had wrapped is not known: that is no log to count by. */
	s->continuous = s->continuous && whole && more == 0;
	audit_reader_freep(&reader);
	if (list)
		fflush(list);
}

void
since_free(struct since *s)
{
	json_decref(s->wrapped);
	*s = (struct since){ 0 };
}

uint64_t
since_wrapped(const struct since *s, const char *version)
{
	return (uint64_t)json_integer_value(json_object_get(s->wrapped, version));
}
