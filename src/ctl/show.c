/* SPDX-License-Identifier: Apache-2.0 */
/* Tables (libsmartcols, which also keeps control characters off the terminal) and values. */
#include "ctl.h"

#include <libsmartcols.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

struct table {
	struct libscols_table *scols;
	size_t columns, rows;
};

/* ---- colours: of the words that an operator looks for, on a terminal alone ---- */

static bool
is_colourful(void)
{
	const char *terminal = getenv("TERM"), *without = getenv("NO_COLOR");

	return isatty(STDOUT_FILENO) && !(without && *without) && terminal &&
	       strcmp(terminal, "dumb") != 0;
}

static const struct {
	const char *begins, *colour; /* colours as libsmartcols names them */
} tints[] = {
	{ "enabled", "green" },
	{ "ready", "green" },
	{ "active", "green" },
	{ "ABSENT", "red" },
	{ "NONE", "red" },
	{ "serving", "green" },
	{ "whole", "green" },
	{ "staged", "yellow" },
	{ "disabled", "yellow" },
	{ "starting", "yellow" },
	{ "waiting", "yellow" },
	{ "held", "red" },
	{ "HELD", "red" },
	{ "REFUSED", "red" },
	{ "FAILING", "red" },
	{ "NOT WHOLE", "red" },
	{ "not ready", "red" },
	{ "no worker", "red" },
};

static const char *
tint_of(const char *text)
{
	for (size_t i = 0; i < STR_COUNT(tints); i++)
		if (strncmp(text, tints[i].begins, strlen(tints[i].begins)) == 0)
			return tints[i].colour;
	return NULL;
}

void
show_line(const char *text, bool bad)
{
	bool tint = bad && is_colourful();

	fputs(tint ? "\033[31m" : "", stdout);
	for (const char *p = text; *p; p++) {
		size_t control = str_control_len(p);
		putchar(control ? '?' : *p);
		p += control > 1;
	}
	puts(tint ? "\033[0m" : "");
}

/* ---- tables ---- */

static struct table *
table_alloc(void)
{
	struct table *t = calloc(1, sizeof(*t));

	if (t)
		t->scols = scols_new_table();
	if (!t || !t->scols)
		abort(); /* no memory for a table: there is nothing left to show */
	scols_table_set_column_separator(t->scols, "  ");
	scols_table_enable_colors(t->scols, is_colourful());
	return t;
}

static void
add_column(struct table *t, const char *heading)
{
	bool number = heading[0] == '>';

	scols_table_new_column(t->scols, heading + number, 0, number ? SCOLS_FL_RIGHT : 0);
	t->columns++;
}

struct table *
table_new(const char *const *headings)
{
	struct table *t = table_alloc();

	while (*headings)
		add_column(t, *headings++);
	return t;
}

struct table *
table_new_block(void)
{
	struct table *t = table_alloc();

	add_column(t, "name");
	add_column(t, "value");
	scols_table_enable_noheadings(t->scols, 1);
	return t;
}

void
table_freep(struct table **t)
{
	if (!*t)
		return;
	scols_unref_table((*t)->scols);
	free(*t);
	*t = NULL;
}

void
table_row(struct table *t, const char *const *cells)
{
	struct libscols_line *line = scols_table_new_line(t->scols, NULL);

	for (size_t i = 0; line && i < t->columns; i++) {
		const char *text = cells[i] ? cells[i] : "", *tint = tint_of(text);
		scols_line_set_data(line, i, text);
		if (tint)
			scols_cell_set_color(scols_line_get_cell(line, i), tint);
	}
	t->rows++;
}

void
table_field(struct table *t, const char *name, const char *format, ...)
{
	char value[SHOW_TEXT_SIZE];
	va_list args;

	va_start(args, format);
	vsnprintf(value, sizeof(value), format, args);
	va_end(args);
	table_row(t, (const char *const[]){ name, value });
}

size_t
table_rows(const struct table *t)
{
	return t->rows;
}

void
table_print(struct table *t)
{
	fflush(stdout);
	scols_print_table(t->scols);
}

/* ---- values ---- */

void
show_json(const json_t *value)
{
	json_dumpf(value, stdout, JSON_INDENT(2) | JSON_ENCODE_ANY);
	putchar('\n');
}

const char *
string_of(const json_t *object, const char *member)
{
	const char *text = json_string_value(json_object_get(object, member));

	return text ? text : "";
}

long long
number_of(const json_t *object, const char *member)
{
	return json_integer_value(json_object_get(object, member));
}

/* A ring: a row of a table needs few texts at a time, and copies them. */
const char *
show_format(const char *format, ...)
{
	static char texts[64][SHOW_TEXT_SIZE];
	static size_t next;
	char *text = texts[next++ % STR_COUNT(texts)];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(texts[0]), format, args);
	va_end(args);
	return text;
}

const char *
show_text(const json_t *object, const char *member)
{
	const char *text = string_of(object, member);

	return *text ? text : "-";
}

const char *
show_number(const json_t *object, const char *member)
{
	const json_t *value = json_object_get(object, member);

	if (json_is_real(value))
		return show_format("%.1f", json_real_value(value));
	return json_is_integer(value) ? show_format("%lld", number_of(object, member)) : "-";
}

const char *
show_time(const json_t *object, const char *member)
{
	const char *text = string_of(object, member);

	if (strlen(text) < 20 || text[10] != 'T')
		return show_text(object, member);
	return show_format("%.10s %.8sZ", text, text + 11);
}

const char *
show_version(const json_t *object, const char *member)
{
	long long number = number_of(object, member);

	return number > 0 ? show_format("v%lld", number) : "none";
}

static const char *
or_dash(struct buf *b)
{
	const char *text = b->len > 0 && !b->bad
				   ? show_format("%.*s", (int)b->len, (const char *)b->data)
				   : "-";

	buf_free(b);
	return text;
}

const char *
show_pairs(const json_t *object)
{
	struct buf b = BUF_INIT(SHOW_TEXT_SIZE);
	const char *name;
	json_t *value;

	json_object_foreach((json_t *)object, name, value)
		buf_printf(&b, "%s%s=%s", b.len > 0 ? ", " : "", name, json_string_value(value));
	return or_dash(&b);
}

const char *
show_list(const json_t *array, const char *separator)
{
	struct buf b = BUF_INIT(SHOW_TEXT_SIZE);
	size_t i;
	json_t *value;

	json_array_foreach((json_t *)array, i, value)
		buf_printf(&b, "%s%s", i > 0 ? separator : "", json_string_value(value));
	return or_dash(&b);
}

const char *
show_duration(json_int_t s)
{
	long long n = s;

	if (n >= 172800)
		return show_format("%lld days %lld h", n / 86400, n % 86400 / 3600);
	if (n >= 3600)
		return show_format("%lld h %lld min", n / 3600, n % 3600 / 60);
	if (n >= 60)
		return show_format("%lld min %lld s", n / 60, n % 60);
	return show_format("%lld s", n);
}
