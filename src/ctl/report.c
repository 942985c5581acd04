/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kekctl audit report: who used which key, when, how often. One pass; what is kept is one row for
 * each client, key, version and use, however long the log.
 */
#include "records.h"

#include "kekd/err.h"

#include <stdlib.h>
#include <string.h>

struct report {
	json_t *rows;	  /* "client\tkey\tversion\tuse" → the row */
	json_t *versions; /* a version's id → {key, version}: summaries name ids alone */
	char first[40], last[40];
	bool failed;
};

static const struct {
	const char *member, *use;
} uses[] = {
	{ "wrapped", "wrap" },
	{ "unwrapped", "unwrap" },
	{ "refused", "refused" },
	{ "failed", "failed" },
};

static void
count(struct report *r, const json_t *record, const char *key, long long version, const char *use,
	long long n)
{
	const char *client = string_of(record, "client"), *time = string_of(record, "time");
	char name[512];
	json_t *row;

	if (n <= 0)
		return;
	snprintf(name, sizeof(name), "%s\t%s\t%08lld\t%s", client, key, version, use);
	row = json_object_get(r->rows, name);
	if (!row) {
		row = json_pack("{s:s, s:s, s:o, s:s, s:I, s:s, s:s}", "client", client, "key", key,
			"version", version > 0 ? json_integer(version) : json_null(), "use", use,
			"count", (json_int_t)n, "first", time, "last", time);
		r->failed |= json_object_set_new(r->rows, name, row) < 0;
		return;
	}
	json_object_set_new(row, "count", json_integer(number_of(row, "count") + n));
	json_object_set_new(row, "last", json_string(time));
}

static void
note_version(struct report *r, const char *id, const char *key, long long version)
{
	if (*id && *key && !json_object_get(r->versions, id))
		json_object_set_new(r->versions, id,
			json_pack("{s:s, s:I}", "key", key, "version", (json_int_t)version));
}

static void
count_versions(struct report *r, const json_t *record)
{
	const char *key = string_of(record, "key");
	const json_t *v;
	size_t i;

	json_array_foreach(json_object_get(record, "versions"), i, v) {
		const char *id = string_of(v, "id");
		long long version = number_of(v, "version");
		const json_t *known;
		note_version(r, id, key, version);
		known = json_object_get(r->versions, id);
		for (size_t u = 0; u < STR_COUNT(uses); u++)
			count(r, record, *key ? key : string_of(known, "key"), version, uses[u].use,
				number_of(v, uses[u].member));
	}
}

/* Changes by what came of them, everything else that was refused, and reads. */
static void
count_operation(struct report *r, const json_t *record)
{
	const char *type = string_of(record, "type"), *operation = string_of(record, "operation");
	bool ok = strcmp(string_of(record, "result"), "ok") == 0;
	char use[96];

	if (strcmp(type, "refusals") == 0) {
		count(r, record, "", 0, "refused (summed up)", number_of(record, "count"));
		return;
	}
	if (!*operation || strcmp(type, "intent") == 0 ||
		json_array_size(json_object_get(record, "versions")) > 0)
		return;
	snprintf(use, sizeof(use), "%s%s", operation, ok ? "" : " (refused)");
	count(r, record, string_of(record, "key"), 0, use, 1);
}

static bool
take(const json_t *record, const char *line __attribute__((unused)), void *user)
{
	struct report *r = user;
	const char *time = string_of(record, "time");

	if (!r->first[0])
		snprintf(r->first, sizeof(r->first), "%s", time);
	snprintf(r->last, sizeof(r->last), "%s", time);
	count_versions(r, record);
	count_operation(r, record);
	return !r->failed;
}

/* ---- showing ---- */

static int
compare(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The rows by client, key, version and use. */
static json_t *
sorted(const json_t *rows)
{
	size_t n = json_object_size(rows), i = 0;
	const char **names = calloc(n ? n : 1, sizeof(*names)), *name;
	json_t *list = json_array(), *row;

	json_object_foreach((json_t *)rows, name, row)
		if (names)
			names[i++] = name;
	if (names)
		qsort(names, i, sizeof(*names), compare);
	for (size_t k = 0; k < i; k++)
		json_array_append(list, json_object_get(rows, names[k]));
	free(names);
	return list;
}

static const char *
verdict(const struct records *r)
{
	return !r->dir		 ? "not verified: asked of the server"
	       : r->verdict == 0 ? "whole: up to its head no record was changed, removed or added"
				 : "NOT WHOLE";
}

static void
show_text_report(const struct records *r, const struct report *report, const json_t *rows)
{
	_cleanup_(table_freep) struct table *head = table_new_block();
	_cleanup_(table_freep) struct table *t = table_new((const char *const[]){
		"CLIENT", "KEY", ">VERSION", "USE", ">COUNT", "FIRST", "LAST", NULL });
	const json_t *row;
	size_t i;

	table_field(head, "Log", "%s", r->dir ? r->dir : "of the server");
	table_field(head, "Records", "%llu read, %llu of them told of here",
		(unsigned long long)r->scanned, (unsigned long long)r->matched);
	table_field(head, "Period", "%s to %s", report->first[0] ? report->first : "-",
		report->last[0] ? report->last : "-");
	table_field(head, "Chain", "%s", verdict(r));
	if (r->dir)
		table_field(head, "Head", "%s", r->report.head[0] ? r->report.head : "-");
	table_print(head);
	json_array_foreach((json_t *)rows, i, row)
		table_row(
			t, (const char *const[]){ show_text(row, "client"), show_text(row, "key"),
				   number_of(row, "version") > 0 ? show_number(row, "version") : "",
				   show_text(row, "use"), show_number(row, "count"),
				   show_time(row, "first"), show_time(row, "last") });
	puts("");
	table_print(t);
}

/* RFC 4180: a field is quoted where it must be. What a spreadsheet would take for a formula begins
 * with an apostrophe: names in a log come from others. */
static void
put_field(const char *text, bool last)
{
	const char *before = *text && strchr("=+-@\t\r", *text) ? "'" : "";

	if (strpbrk(text, ",\"\r\n")) {
		printf("\"%s", before);
		for (; *text; text++) {
			if (*text == '"')
				putchar('"');
			putchar(*text);
		}
		putchar('"');
	} else {
		printf("%s%s", before, text);
	}
	fputs(last ? "\r\n" : ",", stdout);
}

static void
show_csv(const json_t *rows)
{
	static const char *const columns[] = { "client", "key", "version", "use", "count", "first",
		"last" };
	const json_t *row;
	size_t i;

	for (size_t c = 0; c < STR_COUNT(columns); c++)
		put_field(columns[c], c + 1 == STR_COUNT(columns));
	json_array_foreach((json_t *)rows, i, row)
		for (size_t c = 0; c < STR_COUNT(columns); c++) {
			const json_t *value = json_object_get(row, columns[c]);
			put_field(json_is_integer(value) ? show_number(row, columns[c])
							 : string_of(row, columns[c]),
				c + 1 == STR_COUNT(columns));
		}
}

static void
show_json_report(const struct records *r, const struct report *report, const json_t *rows)
{
	_cleanup_(json_freep)
		json_t *value = json_pack("{s:s?, s:I, s:I, s:s?, s:s?, s:o, s:s?, s:O}", "dir",
			r->dir, "records", (json_int_t)r->scanned, "matched",
			(json_int_t)r->matched, "first", report->first[0] ? report->first : NULL,
			"last", report->last[0] ? report->last : NULL, "verified",
			r->dir ? json_boolean(r->verdict == 0) : json_null(), "head",
			r->dir ? r->report.head : NULL, "rows", rows);

	show_json(value);
}

static int
choose_format(const struct ctl *ctl, const char **ret_format)
{
	static const char *const formats[] = { "text", "csv", "json" };
	const char *format = args_value(&ctl->args, "format");

	if (!format)
		format = ctl->json ? "json" : "text";
	for (size_t i = 0; i < STR_COUNT(formats); i++)
		if (strcmp(formats[i], format) == 0) {
			*ret_format = format;
			return CTL_OK;
		}
	say_error("there is no format \"%s\"", format);
	say_hint("--format text, csv or json");
	return CTL_USAGE;
}

static int
say_verdict(const struct records *r)
{
	if (!r->dir || r->verdict == 0)
		return CTL_OK;
	fflush(stdout);
	say_error("%s, line %llu: %s", r->report.fault_file,
		(unsigned long long)r->report.fault_line, r->report.fault);
	say_hint("the report ends before the fault: kekctl audit verify %s", r->dir);
	return CTL_UNVERIFIED;
}

static int
show_report(const struct records *r, const struct report *report, const char *format)
{
	_cleanup_(json_freep) json_t *rows = sorted(report->rows);

	if (strcmp(format, "csv") == 0)
		show_csv(rows);
	else if (strcmp(format, "json") == 0)
		show_json_report(r, report, rows);
	else
		show_text_report(r, report, rows);
	return say_verdict(r);
}

int
audit_report_run(struct ctl *ctl)
{
	struct report report = { json_object(), json_object(), "", "", false };
	struct records r = { 0 };
	const char *format;
	int status = choose_format(ctl, &format);

	if (status == CTL_OK)
		status = records_take(ctl, &r);
	r.verify = true;
	if (status == CTL_OK)
		status = records_read(ctl, &r, take, &report);
	if (status == CTL_OK && report.failed) {
		say_error("no memory for so many rows: narrow it with --client or --since");
		status = CTL_FAILED;
	}
	if (status == CTL_OK)
		status = show_report(&r, &report, format);
	records_free(&r);
	json_decref(report.rows);
	json_decref(report.versions);
	return status;
}
