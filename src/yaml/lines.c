/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Remembers the line of every setting of a YAML text, so that a finding can name it. Not here: what
 * the settings mean.
 */
#include "lines.h"

#include "kekd/str.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#define DEPTH_MAX 8
#define PATH_MAX_LEN 512

struct scan {
	yaml_parser_t parser;
	struct lines lines;
	struct lines_fault *fault;
	char path[PATH_MAX_LEN];
	unsigned depth;
};

static int
fault(struct scan *s, size_t line, const char *text)
{
	s->fault->line = (unsigned)line + 1;
	snprintf(s->fault->text, sizeof(s->fault->text), "%s", text);
	return -EINVAL;
}

static int
next(struct scan *s, yaml_event_t *ret_event)
{
	if (yaml_parser_parse(&s->parser, ret_event))
		return 0;
	if (s->parser.error == YAML_MEMORY_ERROR)
		return -ENOMEM;
	return fault(s,
		s->parser.problem_mark.line ? s->parser.problem_mark.line
					    : s->parser.context_mark.line,
		s->parser.problem ? s->parser.problem : "it cannot be parsed");
}

static int
remember(struct scan *s, size_t line)
{
	struct lines *l = &s->lines;
	struct line *entries = reallocarray(l->entries, l->count + 1, sizeof(*entries));

	if (!entries)
		return -ENOMEM;
	l->entries = entries;
	entries[l->count] = (struct line){ strdup(s->path), (unsigned)line + 1 };
	return entries[l->count].path && ++l->count ? 0 : -ENOMEM;
}

static int scan_value(struct scan *s, const yaml_event_t *event);

/* Reads the value that follows and leaves the path as it was before it was extended. */
static int
scan_child(struct scan *s, const yaml_event_t *first, size_t path_len)
{
	yaml_event_t event;
	int err = remember(s, first->start_mark.line);

	if (!err && first->type == YAML_SCALAR_EVENT) {
		err = next(s, &event);
		if (!err) {
			err = scan_value(s, &event);
			yaml_event_delete(&event);
		}
	}
	s->path[path_len] = '\0';
	return err;
}

/* Whoever takes the text would read it up to there. */
static bool
has_nul(const yaml_event_t *e)
{
	return e->type == YAML_SCALAR_EVENT &&
	       memchr(e->data.scalar.value, 0, e->data.scalar.length);
}

static int
scan_pair(struct scan *s, const yaml_event_t *key)
{
	size_t len = strlen(s->path);

	if (key->type != YAML_SCALAR_EVENT || has_nul(key))
		return fault(s, key->start_mark.line, "a key must be a word");
	snprintf(s->path + len, sizeof(s->path) - len, "%s%s", len ? "." : "",
		(const char *)key->data.scalar.value);
	return scan_child(s, key, len);
}

static int
scan_item(struct scan *s, const yaml_event_t *item, unsigned index)
{
	size_t len = strlen(s->path);
	int err;

	snprintf(s->path + len, sizeof(s->path) - len, "[%u]", index);
	err = remember(s, item->start_mark.line);
	if (!err)
		err = scan_value(s, item);
	s->path[len] = '\0';
	return err;
}

static int
scan_collection(struct scan *s, bool mapping)
{
	int err = 0;

	for (unsigned i = 0; !err; i++) {
		yaml_event_t event;
		bool end;

		err = next(s, &event);
		if (err)
			break;
		end = event.type == YAML_MAPPING_END_EVENT || event.type == YAML_SEQUENCE_END_EVENT;
		if (!end)
			err = mapping ? scan_pair(s, &event) : scan_item(s, &event, i);
		yaml_event_delete(&event);
		if (end)
			break;
	}
	return err;
}

static int
scan_value(struct scan *s, const yaml_event_t *event)
{
	bool mapping = event->type == YAML_MAPPING_START_EVENT;
	int err;

	if (has_nul(event))
		return fault(s, event->start_mark.line, "a value has a NUL in it");
	if (!mapping && event->type != YAML_SEQUENCE_START_EVENT)
		return 0;
	if (++s->depth > DEPTH_MAX)
		return fault(s, event->start_mark.line, "it is nested too deeply");
	err = scan_collection(s, mapping);
	s->depth--;
	return err;
}

static int
scan_stream(struct scan *s)
{
	unsigned documents = 0;
	bool end = false;
	int err = 0;

	while (!err && !end) {
		yaml_event_t event;

		err = next(s, &event);
		if (err)
			break;
		end = event.type == YAML_STREAM_END_EVENT;
		if (event.type == YAML_DOCUMENT_START_EVENT && ++documents > 1)
			err = fault(s, event.start_mark.line, "a second document starts here");
		if (!err)
			err = scan_value(s, &event);
		yaml_event_delete(&event);
	}
	return err;
}

int
lines_scan(const char *text, size_t len, struct lines *ret_lines, struct lines_fault *ret_fault)
{
	struct scan s = { .fault = ret_fault };
	int err;

	if (!yaml_parser_initialize(&s.parser))
		return -ENOMEM;
	yaml_parser_set_input_string(&s.parser, (const unsigned char *)text, len);
	err = scan_stream(&s);
	yaml_parser_delete(&s.parser);
	if (err)
		lines_free(&s.lines);
	else
		*ret_lines = s.lines;
	return err;
}

void
lines_free(struct lines *l)
{
	for (size_t i = 0; i < l->count; i++)
		free(l->entries[i].path);
	free(l->entries);
	*l = (struct lines){ 0 };
}

unsigned
lines_find(const struct lines *l, const char *path)
{
	for (size_t i = 0; i < l->count; i++)
		if (strcmp(l->entries[i].path, path) == 0)
			return l->entries[i].line;
	return 0;
}

unsigned
lines_find_near(const struct lines *l, const char *path)
{
	char near[PATH_MAX_LEN];
	unsigned line = 0;

	snprintf(near, sizeof(near), "%s", path);
	for (size_t len = strlen(near); len > 0; len--) {
		bool whole = near[len] == '\0' || near[len] == '.' || near[len] == '[';
		near[len] = '\0';
		if (whole && (line = lines_find(l, near)) > 0)
			break;
	}
	return line;
}

unsigned
lines_find_repeated(const struct lines *l, const char *path)
{
	bool again = false;

	for (size_t i = 0; i < l->count; i++) {
		if (strcmp(l->entries[i].path, path) != 0)
			continue;
		if (again)
			return l->entries[i].line;
		again = true;
	}
	return 0;
}
