/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads a file of settings by its schema, and turns libcyaml's words about a fault into a finding
 * with line and remedy.
 */
#include "kekd/settings_file.h"

#include "lines.h"

#include "kekd/err.h"
#include "kekd/str.h"

#include <cyaml/cyaml.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define FILE_SIZE_MAX (256 * 1024)

/* ---- what libcyaml says ---- */

/* The fault, then from the inside out where it was. */
struct complaint {
	char what[256];
	char field[64];	 /* the innermost mapping's */
	char place[512]; /* "tokens[0]": what is around the fault */
	unsigned line;
};

/* Lines of libcyaml's backtrace; its entries count from 1. */
static void
take_place(struct complaint *c, const char *text)
{
	char name[64], inner[sizeof(c->place)];
	unsigned entry;

	if (sscanf(text, "  in mapping field '%63[^']'", name) == 1) {
		if (!c->field[0])
			strcpy(c->field, name);
	} else if (sscanf(text, "  in sequence entry '%u'", &entry) == 1 && entry > 0) {
		snprintf(name, sizeof(name), "[%u]", entry - 1);
	} else {
		return;
	}
	strcpy(inner, c->place);
	if (snprintf(c->place, sizeof(c->place), "%s%s%s", name,
		    inner[0] && inner[0] != '[' ? "." : "", inner) >= (int)sizeof(c->place))
		c->place[0] = '\0'; /* the backtrace's line is near enough */
}

static void __attribute__((format(printf, 3, 0)))
take_complaint(cyaml_log_t level, void *user, const char *format, va_list ap)
{
	struct complaint *c = user;
	char text[512], *at;

	(void)level;
	vsnprintf(text, sizeof(text), format, ap);
	text[strcspn(text, "\n")] = '\0';
	if (!c->what[0]) {
		at = strncmp(text, "Load: ", 6) == 0 ? text + 6 : text;
		snprintf(c->what, sizeof(c->what), "%.255s", at);
		return;
	}
	if (!c->line && (at = strstr(text, "(line: ")))
		c->line = (unsigned)strtoul(at + 7, NULL, 10);
	take_place(c, text);
}

/* ---- a finding of it ---- */

struct reading {
	const struct settings_file *f;
	const char *path;
	FILE *out;
	struct lines lines;
};

static const struct {
	const char *start;  /* of libcyaml's text */
	const char *remedy; /* follows "setting: " */
} remedies[] = {
	{ "STRING length <", "it has no value: give one, or take the line out" },
	{ "STRING length >", "the value is too long: shorten it" },
	{ "Invalid ENUM value: ", "this word is not known here: see the sample configuration" },
	{ "Invalid UINT value: ", "not a whole number: write digits alone" },
	{ "Invalid uint64_t value: ", "not a whole number: write digits alone" },
	{ "Excessive entries (", "too many entries: take some out" },
	{ "Expecting SEQUENCE, ", "a list is needed: write \"- VALUE\" lines below it" },
	{ "Expecting MAPPING, ", "settings are needed: write \"KEY: VALUE\" lines below it" },
	{ "Expecting ", "a single value is needed: write it behind the colon" },
};

/* What follows the start; NULL: the text begins otherwise. */
static const char *
behind(const char *text, const char *start)
{
	size_t len = strlen(start);

	return strncmp(text, start, len) == 0 ? text + len : NULL;
}

static unsigned
line_of_unknown(const struct reading *r, const struct complaint *c, const char *key)
{
	char path[sizeof(c->place) + sizeof(c->what)];

	snprintf(path, sizeof(path), "%s%s%s", c->place, c->place[0] ? "." : "", key);
	return lines_find(&r->lines, path);
}

static void
print_complaint(const struct reading *r, const struct complaint *c)
{
	const char *field = c->field[0] ? c->field : "the file", *key;
	unsigned line = c->line ? c->line : 1, exact;

	if ((key = behind(c->what, "Unexpected key: "))) {
		exact = line_of_unknown(r, c, key);
		fprintf(r->out,
			"%s:%u: the %s \"%s\" is not known: correct its spelling or place, or "
			"take it out\n",
			r->path, exact ? exact : line, r->f->word, key);
		return;
	}
	if ((key = behind(c->what, "Mapping field already seen: "))) {
		exact = lines_find_repeated(&r->lines, c->place);
		fprintf(r->out, "%s:%u: \"%s\" is given twice: keep one of them\n", r->path,
			exact ? exact : line, key);
		return;
	}
	for (size_t i = 0; i < STR_COUNT(remedies); i++) {
		if (behind(c->what, remedies[i].start)) {
			fprintf(r->out, "%s:%u: %s: %s\n", r->path, line, field,
				remedies[i].remedy);
			return;
		}
	}
	fprintf(r->out, "%s:%u: %s: %s: correct it\n", r->path, line, field, c->what);
}

/* ---- reading ---- */

static int
read_text(const struct reading *r, char **ret_text, size_t *ret_len)
{
	char *text = malloc(FILE_SIZE_MAX + 1);
	FILE *f = text ? fopen(r->path, "re") : NULL;
	size_t len = f ? fread(text, 1, FILE_SIZE_MAX + 1, f) : 0;
	int err = !text ? -ENOMEM : !f || ferror(f) ? -errno : len > FILE_SIZE_MAX ? -EFBIG : 0;

	if (f)
		fclose(f);
	if (err) {
		fprintf(r->out,
			"%s: the configuration cannot be read: %s: name another with --config, or "
			"make it readable\n",
			r->path, kekd_strerror(err));
		free(text);
		return err;
	}
	*ret_text = text;
	*ret_len = len;
	return 0;
}

static int
scan(struct reading *r, const char *text, size_t len)
{
	struct lines_fault fault;
	int err = lines_scan(text, len, &r->lines, &fault);

	if (err != -EINVAL)
		return err;
	fprintf(r->out, "%s:%u: not YAML: %s: correct it here or in the line before\n", r->path,
		fault.line, fault.text);
	return KEKD_EINVALID;
}

static const cyaml_config_t cyaml_base = {
	.log_fn = take_complaint,
	.mem_fn = cyaml_mem,
	.log_level = CYAML_LOG_ERROR,
};

static int
parse(const struct reading *r, const char *text, size_t len, void **ret_document)
{
	struct complaint complaint = { 0 };
	cyaml_config_t cyaml = cyaml_base;
	cyaml_data_t *d = NULL;
	cyaml_err_t err;

	cyaml.log_ctx = &complaint;
	err = cyaml_load_data((const uint8_t *)text, len, &cyaml, r->f->schema, &d, NULL);
	if (err == CYAML_ERR_OOM)
		return -ENOMEM;
	if (err != CYAML_OK) {
		if (!complaint.what[0])
			snprintf(complaint.what, sizeof(complaint.what), "%s", cyaml_strerror(err));
		print_complaint(r, &complaint);
		return KEKD_EINVALID;
	}
	if (!d) /* an empty file */
		d = calloc(1, r->f->schema->data_size);
	*ret_document = d;
	return d ? 0 : -ENOMEM;
}

int
settings_file_read(const struct settings_file *f, const char *path, FILE *out, void **ret_document,
	struct lines *ret_lines)
{
	struct reading r = { .f = f, .path = path, .out = out };
	_cleanup_(str_freep) char *text = NULL;
	size_t len;
	int err = read_text(&r, &text, &len);

	if (!err)
		err = scan(&r, text, len);
	if (!err)
		err = parse(&r, text, len, ret_document);
	if (err)
		lines_free(&r.lines);
	else
		*ret_lines = r.lines;
	return err;
}

void
settings_file_free(const struct settings_file *f, void *document)
{
	if (document)
		cyaml_free(&cyaml_base, f->schema, document, 0);
}
