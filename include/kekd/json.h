/* SPDX-License-Identifier: Apache-2.0 */
/*
 * JSON (RFC 8259) through jansson, strictly: no member twice, no member that is not in the table.
 * Memory of parsed values is wiped when freed. Values are owned as jansson has it. Any thread, one
 * thread per value.
 */
#ifndef KEKD_JSON_H
#define KEKD_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define JSON_ERROR_SIZE 200
#define JSON_DEPTH_MAX 32 /* our own bodies have 5 levels */

/* Once per process, before any other use: allocators that wipe. */
void json_open(void);

void json_freep(json_t **value); /* for _cleanup_ */

/* A whole text. Refuses members given twice, NUL in strings and more than JSON_DEPTH_MAX levels.
 * NULL with a text for people in ret_error. */
json_t *json_parse(const char *text, size_t len, char ret_error[JSON_ERROR_SIZE]);

/* The one text that seals and hashes are made over: members sorted, no white space. To be freed
 * with json_text_free. */
char *json_canonical(const json_t *value, size_t *ret_len);
void json_text_free(char *text);

enum json_kind {
	JSON_KIND_STRING,
	JSON_KIND_INTEGER,
	JSON_KIND_BOOL,
	JSON_KIND_ARRAY,
	JSON_KIND_OBJECT,
	JSON_KIND_ANY /* also null: for the caller to look at */
};

/* What an object may hold. `out` points to: const char * (borrowed) · int64_t (0 or more) · bool ·
 * json_t * (borrowed). A member that is absent leaves its `out` untouched. */
struct json_member {
	const char *name;
	enum json_kind kind;
	bool required;
	void *out;
};

/* Reads all members of object into the table's places. 0; KEKD_EMEMBER for one that the table
 * lacks; KEKD_EINVALID for a missing one or one of the wrong type; the text in ret_error names the
 * member. */
int json_take(const json_t *object, const struct json_member *members, size_t n,
	char ret_error[JSON_ERROR_SIZE]);
/* json_take, for a record or a file: a member that is not known is as invalid as any other fault.
 */
int json_take_record(const json_t *object, const struct json_member *members, size_t n,
	char ret_error[JSON_ERROR_SIZE]);
/* KEKD_EINVALID, with the text. */
int json_refuse(char ret_error[JSON_ERROR_SIZE], const char *format, ...)
	__attribute__((format(printf, 2, 3)));
/* The error that is given, with the text. */
int json_say(int err, char ret_error[JSON_ERROR_SIZE], const char *format, ...)
	__attribute__((format(printf, 3, 4)));

#endif
