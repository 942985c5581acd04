/* SPDX-License-Identifier: Apache-2.0 */
/*
 * apply, diff and export from the inside: what files want (apply_read.c, apply_shape.c), how that
 * differs from what is there (apply_compare.c), what was made of it (apply_do.c), and how all of it
 * is told (apply_show.c).
 */
#ifndef KEKD_CTL_APPLY_H
#define KEKD_CTL_APPLY_H

#include "ctl.h"

#include <yaml.h>

enum apply_kind { APPLY_KEY, APPLY_CLIENT, APPLY_POLICY, APPLY_KINDS };

extern const char *const apply_kind_names[APPLY_KINDS];

enum apply_action { APPLY_NOTHING, APPLY_CREATE, APPLY_UPDATE };
enum apply_result { APPLY_TODO, APPLY_DONE, APPLY_PENDING, APPLY_FAILED };

struct apply_resource {
	enum apply_kind kind;
	char name[STR_NAME_MAX + 1]; /* empty: the policy, of which there is one */
	char *file;
	unsigned line;
	json_t *wanted; /* what the document says, as the API takes it */
	json_t *lines;	/* member → its line */

	/* The plan. */
	enum apply_action action;
	json_t *changes; /* of apply_compare */
	char etag[64];	 /* of what was compared with; empty: there is none */

	enum apply_result result;
	char approval[64]; /* that it waits for */
	char error[512];   /* why it failed */
};

struct apply_set {
	struct apply_resource *list;
	size_t count;
	unsigned findings; /* said so far; nothing is changed while there is one */
};
void apply_set_free(struct apply_set *s);

/* "key payments", "policy"; as show_format's. */
const char *apply_label(const struct apply_resource *r);

/* Says FILE:LINE: what is wrong there, and counts it. */
void apply_finding(struct apply_set *s, const char *file, unsigned line, const char *format, ...)
	__attribute__((format(printf, 4, 5)));

/* ---- apply_read.c ---- */

/* Reads a file, a directory's *.yaml and *.yml in the order of their names, or standard input
 * ("-"), and adds their resources. What is wrong in them are findings; an exit status only when
 * they cannot be read at all. */
int apply_read(const struct ctl *ctl, const char *path, struct apply_set *s);
/* A text, of which the findings name `file`. */
void apply_read_text(const char *file, const void *text, size_t len, struct apply_set *s);

/* ---- apply_shape.c ---- */

/* The document's resource, or findings. */
void apply_take_document(
	const char *file, yaml_document_t *document, yaml_node_t *root, struct apply_set *s);
bool apply_is_operation(const char *text); /* that a grant may have */

/* ---- apply_compare.c ---- */

/* A resource in the form in which two are compared: member → text, number or bool, or an object of
 * items (labels, limits and grants by name; identities and addresses with null). resource: as the
 * API takes or gives it. Members that it lacks are lacking. To be freed. */
json_t *apply_canonical(enum apply_kind kind, const json_t *resource);
/* What has to change for `now` (NULL: there is none) to be as wanted, both as the API has them: an
 * array of {"change": "+", "-" or "~", "member", "item"?, "from"?, "to"?}. To be freed. */
json_t *apply_compare(enum apply_kind kind, const json_t *now, const json_t *wanted);

/* ---- apply_do.c ---- */

/* Reads what is there of every resource and plans. What apply must not do is a finding. */
int apply_plan(struct ctl *ctl, struct apply_set *s);
/* Carries the plan out, until something fails. */
int apply_do(struct ctl *ctl, struct apply_set *s);

/* ---- apply_export.c ---- */

int export_run(struct ctl *ctl);

/* ---- apply_show.c ---- */

/* differs: in diff's words. */
void apply_show_plan(const struct ctl *ctl, const struct apply_set *s, bool differs);
void apply_show_results(const struct ctl *ctl, const struct apply_set *s);

#endif
