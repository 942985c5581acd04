/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files of resources: from a path to the documents in it, with libyaml, whose nodes know their
 * lines. Not here: what a document may say (apply_shape.c).
 */
#include "apply.h"

#include <dirent.h>
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>

#define FILE_MAX (8u << 20)
#define FINDINGS_SHOWN 20

void
apply_finding(struct apply_set *s, const char *file, unsigned line, const char *format, ...)
{
	char text[1024];
	va_list args;

	if (s->findings++ >= FINDINGS_SHOWN)
		return;
	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	say_error("%s:%u: %s", file, line, text);
}

void
apply_set_free(struct apply_set *s)
{
	for (size_t i = 0; i < s->count; i++) {
		free(s->list[i].file);
		json_decref(s->list[i].wanted);
		json_decref(s->list[i].lines);
		json_decref(s->list[i].changes);
	}
	free(s->list);
	*s = (struct apply_set){ 0 };
}

/* ---- texts ---- */

static bool
is_empty(const yaml_node_t *root)
{
	return root->type == YAML_SCALAR_NODE && root->data.scalar.length == 0 &&
	       root->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
}

static void
say_parser_error(const char *file, const yaml_parser_t *p, struct apply_set *s)
{
	size_t line = p->problem_mark.line ? p->problem_mark.line : p->context_mark.line;

	apply_finding(s, file, (unsigned)line + 1, "this is not YAML: %s",
		p->problem ? p->problem : "it cannot be parsed");
}

/* False at the end, whether of the text or of what can be understood. */
static bool
read_document(const char *file, yaml_parser_t *p, struct apply_set *s)
{
	yaml_document_t document;
	yaml_node_t *root;

	if (!yaml_parser_load(p, &document)) {
		say_parser_error(file, p, s);
		return false;
	}
	root = yaml_document_get_root_node(&document);
	if (root && !is_empty(root))
		apply_take_document(file, &document, root, s);
	yaml_document_delete(&document);
	return root != NULL;
}

void
apply_read_text(const char *file, const void *text, size_t len, struct apply_set *s)
{
	yaml_parser_t p;

	if (!yaml_parser_initialize(&p)) {
		apply_finding(s, file, 1, "%s", strerror(ENOMEM));
		return;
	}
	yaml_parser_set_input_string(&p, text, len);
	while (read_document(file, &p, s))
		;
	yaml_parser_delete(&p);
}

/* ---- files ---- */

static int
read_file(const struct ctl *ctl, const char *path, struct apply_set *s)
{
	struct buf text = BUF_INIT(0); /* set by input_read */
	bool standard = strcmp(path, "-") == 0;
	int status = input_read(ctl, path, false, FILE_MAX,
		"it has more than 8 MiB: split it into several files", &text);

	if (status == CTL_OK)
		apply_read_text(standard ? "standard input" : path, text.data, text.len, s);
	buf_free(&text);
	return status;
}

static int
is_yaml(const struct dirent *entry)
{
	const char *dot = strrchr(entry->d_name, '.');

	return entry->d_name[0] != '.' && dot &&
	       (strcmp(dot, ".yaml") == 0 || strcmp(dot, ".yml") == 0);
}

/* By bytes, so that the order is everywhere the same. */
static int
by_name(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

static int
read_entry(const struct ctl *ctl, const char *directory, const char *name, struct apply_set *s)
{
	_cleanup_(str_freep) char *path = NULL;
	const char *slash = directory[strlen(directory) - 1] == '/' ? "" : "/";

	if (asprintf(&path, "%s%s%s", directory, slash, name) < 0) {
		say_error("%s", strerror(ENOMEM));
		return CTL_FAILED;
	}
	return read_file(ctl, path, s);
}

static int
read_directory(const struct ctl *ctl, const char *path, struct apply_set *s)
{
	struct dirent **entries;
	int count = scandir(path, &entries, is_yaml, by_name);
	int status = CTL_OK;

	if (count < 0) {
		say_error("cannot read %s: %s", path, strerror(errno));
		return CTL_FAILED;
	}
	for (int i = 0; i < count; i++) {
		if (status == CTL_OK)
			status = read_entry(ctl, path, entries[i]->d_name, s);
		free(entries[i]);
	}
	free(entries);
	if (count > 0)
		return status;
	say_error("%s has no file that ends in .yaml or .yml", path);
	return CTL_USAGE;
}

int
apply_read(const struct ctl *ctl, const char *path, struct apply_set *s)
{
	struct stat st;

	if (strcmp(path, "-") == 0)
		return read_file(ctl, path, s);
	if (!*path || stat(path, &st) < 0) {
		say_error("cannot read \"%s\": %s", path, strerror(*path ? errno : ENOENT));
		return CTL_USAGE;
	}
	return S_ISDIR(st.st_mode) ? read_directory(ctl, path, s) : read_file(ctl, path, s);
}
