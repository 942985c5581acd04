/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The audit log behind a backup: the changes that it does not have, and how much was wrapped. Only
 * a log that verifies from the backup on is counted by. A chain alone cannot tell that its newest
 * records are gone: each tells the commit number it was made at, and so the node's last accepted
 * one tells how far the log must go.
 */
#include "since.h"

#include "kekd/audit.h"
#include "kekd/err.h"
#include "kekd/json.h"
#include "kekd/str.h"

#include <stdarg.h>
#include <string.h>

static const char *
member(const json_t *record, const char *name)
{
	const char *text = json_string_value(json_object_get(record, name));

	return text ? text : "";
}

struct walk {
	struct since *s;
	const struct since_from *from;
	FILE *list;
	bool found;	   /* the backup's last record */
	uint64_t revision; /* the newest that a record tells */
};

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

static uint64_t
number(const json_t *record, const char *name)
{
	json_int_t n = json_integer_value(json_object_get(record, name));

	return n > 0 ? (uint64_t)n : 0;
}

static void
take_record(const json_t *record, size_t len, void *user)
{
	struct walk *w = user;
	uint64_t sequence = number(record, "seq"), revision = number(record, "revision");

	(void)len;
	if (sequence == w->from->sequence)
		w->found = strcmp(member(record, "hash"), w->from->head) == 0;
	if (!w->found || sequence <= w->from->sequence)
		return;
	if (revision > w->revision)
		w->revision = revision;
	count_wraps(w->s, record);
	if (!is_change(record))
		return;
	w->s->changes++;
	if (w->list)
		list_change(record, w->list);
}

static void __attribute__((format(printf, 2, 3))) doubt(struct since *s, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	vsnprintf(s->fault, sizeof(s->fault), format, ap);
	va_end(ap);
}

/* err: of the verification. */
static void
judge(const struct walk *w, const struct audit_report *report, int err)
{
	struct since *s = w->s;
	const struct since_from *from = w->from;

	if (err == KEKD_EAUDIT && *report->fault_file)
		doubt(s, "%s, line %llu: %s", report->fault_file,
			(unsigned long long)report->fault_line, report->fault);
	else if (err != 0)
		doubt(s, "%s", err == KEKD_EAUDIT ? report->fault : kekd_strerror(err));
	else if (!w->found)
		doubt(s, "it does not have the backup's last record, number %llu",
			(unsigned long long)from->sequence);
	else if (from->accepted > from->revision && from->accepted > w->revision)
		doubt(s,
			"its end is missing: this node has made change %llu (state_dir/accepted), "
			"and the log goes to change %llu",
			(unsigned long long)from->accepted,
			(unsigned long long)(w->revision > 0 ? w->revision : from->revision));
	else
		s->continuous = true;
}

void
since_read(struct since *s, const struct since_from *from, FILE *list)
{
	struct walk w = { .s = s, .from = from, .list = list };
	struct audit_report report = { 0 };

	*s = (struct since){ .wrapped = json_object() };
	judge(&w, &report, audit_verify_from(from->dir, from->sequence, take_record, &w, &report));
	json_decref(report.notes);
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
