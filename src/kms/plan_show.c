/* SPDX-License-Identifier: Apache-2.0 */
/* A plan for people: aligned, broken at words, files as they are to be written. */
#include "plan.h"
#include "words.h"

#include "kekd/str.h"

#include <string.h>

static const char *
string_of(const json_t *object, const char *member)
{
	const char *s = json_string_value(json_object_get(object, member));

	return s ? s : "";
}

static void
join(const json_t *list, const char *separator, char *ret_text, size_t size)
{
	size_t len = 0, i;
	const json_t *v;

	ret_text[0] = '\0';
	json_array_foreach(list, i, v)
		if (len < size)
			len += (size_t)snprintf(ret_text + len, size - len, "%s%s",
				i > 0 ? separator : "", json_string_value(v));
}

/* ---- findings ---- */

void
plan_show_findings(FILE *out, const struct encryption_config *c)
{
	for (size_t i = 0; i < c->findings_count; i++) {
		const struct ec_finding *f = &c->findings[i];
		char line[32] = "", head[80];

		if (f->line)
			snprintf(line, sizeof(line), "line %u", f->line);
		snprintf(head, sizeof(head), "  %-9s %-8s ", line, ec_level_names[f->level]);
		words_wrap(out, head, 21, f->text);
		words_wrap(out, "", 21, f->remedy);
	}
}

/* ---- what there is ---- */

/* Padded, as far as there is room. */
static void
show_cell(FILE *out, int width, const char *text)
{
	int missing = width - (int)strlen(text);

	words_put(out, text);
	fprintf(out, "%*s", missing > 0 ? missing : 0, "");
}

static void
show_now(FILE *out, const json_t *now)
{
	char resources[512], reads[512];
	const json_t *g;
	int width = 9;
	size_t i;

	json_array_foreach(now, i, g) {
		join(json_object_get(g, "resources"), ", ", resources, sizeof(resources));
		if ((int)strlen(resources) > width && strlen(resources) < 40)
			width = (int)strlen(resources);
	}
	fprintf(out, "  %-*s  %-18s %s\n", width, "resources", "written with", "read with, too");
	json_array_foreach(now, i, g) {
		join(json_object_get(g, "resources"), ", ", resources, sizeof(resources));
		join(json_object_get(g, "reads"), ", ", reads, sizeof(reads));
		fputs("  ", out);
		show_cell(out, width + 2, resources);
		show_cell(out, 19, string_of(g, "writes"));
		words_put(out, *reads ? reads : "-");
		fputs(json_is_true(json_object_get(g, "moves")) ? "\n" : "  (stays so)\n", out);
	}
}

/* ---- steps ---- */

/* Commands are not broken: they are to be copied. */
static void
show_entry(FILE *out, const char *head, const json_t *entry)
{
	const char *command = string_of(entry, "command"), *note = string_of(entry, "note");
	int column = fprintf(out, "%-10s", head) + (int)strlen(command);

	words_put(out, command);
	if (*command && *note && column + 4 + (int)strlen(note) > WORDS_COLUMNS)
		column = fprintf(out, "\n%12s", "") - 1;
	else if (*command && *note)
		column += fprintf(out, "  ");
	if (*note)
		words_wrap_from(out, column, *command ? 14 : 12, "# ", note);
	else
		fputc('\n', out);
}

static void
show_list(FILE *out, const char *head, const json_t *list)
{
	const json_t *entry;
	size_t i;

	json_array_foreach(list, i, entry)
		show_entry(out, i == 0 ? head : "", entry);
}

/* Not broken: it is to be written so. */
static void
show_file(FILE *out, const char *file)
{
	fputc('\n', out);
	while (*file) {
		size_t len = strcspn(file, "\n");
		fprintf(out, "      ");
		fprintf(out, "%.*s", (int)len, file);
		fputc('\n', out);
		file += len + (file[len] == '\n');
	}
	fputc('\n', out);
}

static void
show_step(FILE *out, const json_t *step)
{
	const char *file = string_of(step, "file"), *note = string_of(step, "note");

	fprintf(out, "\n%lld  ", (long long)json_integer_value(json_object_get(step, "step")));
	words_wrap(out, "", 0, string_of(step, "title"));
	words_wrap(out, "  why", 10, string_of(step, "why"));
	if (*note)
		words_wrap(out, "  note", 10, note);
	if (*file)
		show_file(out, file);
	show_list(out, "  do", json_object_get(step, "run"));
	show_list(out, "  check", json_object_get(step, "check"));
	words_wrap(out, "  back", 10, string_of(step, "back"));
}

void
plan_show(FILE *out, const json_t *plan)
{
	const json_t *steps = json_object_get(plan, "steps"), *step;
	size_t i;

	show_now(out, json_object_get(plan, "now"));
	if (json_array_size(steps) == 0) {
		fputs("\nNothing to do: everything is written with ", out);
		words_put(out, string_of(plan, "to"));
		fputs(", and nothing else is read.\n", out);
		return;
	}
	fputs("\nTo ", out);
	words_put(out, string_of(plan, "to"));
	fprintf(out,
		" in %zu steps. A step's file comes to one API server after the other, each time "
		"so:\n\n",
		json_array_size(steps));
	show_list(out, "  do", json_object_get(json_object_get(plan, "load"), "run"));
	show_list(out, "  check", json_object_get(json_object_get(plan, "load"), "check"));
	json_array_foreach(steps, i, step)
		show_step(out, step);
}
