/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A file of settings: YAML whose shape is a libcyaml schema, read with the line of every setting,
 * so that each fault is a finding "FILE:LINE: what, and what to do". Not here: whether the values
 * make sense. Any thread.
 */
#ifndef KEKD_SETTINGS_FILE_H
#define KEKD_SETTINGS_FILE_H

#include <stddef.h>
#include <stdio.h>

/* ---- which line is a setting on? ---- */

struct line {
	char *path; /* "tokens[0].uri" */
	unsigned line;
};

struct lines {
	struct line *entries; /* in the file's order */
	size_t count;
};

void lines_free(struct lines *l);
unsigned lines_find(const struct lines *l, const char *path); /* 0: not in the file */
/* The line of `path`, or of the nearest setting around it; 0: none. */
unsigned lines_find_near(const struct lines *l, const char *path);

/* ---- the file ---- */

struct cyaml_schema_value;

struct settings_file {
	const struct cyaml_schema_value *schema; /* a mapping, with CYAML_FLAG_POINTER */
	const char *word;			 /* what a finding calls what the file may say */
};

/*
 * 0, with the document in the schema's structure (all zero for an empty file), to be given to
 * settings_file_free, and the lines, to be given to lines_free. Else a negative error, and but for
 * -ENOMEM a finding on `out`: KEKD_EINVALID for what the file says, or what reading it said
 * (-ENOENT, -EFBIG ...).
 */
int settings_file_read(const struct settings_file *f, const char *path, FILE *out,
	void **ret_document, struct lines *ret_lines);
/* NULL is allowed. */
void settings_file_free(const struct settings_file *f, void *document);

#endif
