/* SPDX-License-Identifier: Apache-2.0 */
/* JSON, strictly and without leaving secrets in freed memory. */
#include "kekd/json.h"

#include "kekd/err.h"
#include "kekd/secret.h"

#include <stdlib.h>
#include <string.h>

void
json_open(void)
{
	json_set_alloc_funcs(malloc, secret_wiping_free);
}

void
json_freep(json_t **value)
{
	json_decref(*value);
}

/* jansson recurses once per level and allows 2048: count before it does. */
static bool
too_deep(const char *text, size_t len)
{
	size_t depth = 0;
	bool in_string = false;

	for (size_t i = 0; i < len; i++) {
		char c = text[i];
		if (in_string) {
			if (c == '\\')
				i++;
			else if (c == '"')
				in_string = false;
		} else if (c == '"') {
			in_string = true;
		} else if (c == '{' || c == '[') {
			if (++depth > JSON_DEPTH_MAX)
				return true;
		} else if ((c == '}' || c == ']') && depth > 0) {
			depth--;
		}
	}
	return false;
}

json_t *
json_parse(const char *text, size_t len, char ret_error[JSON_ERROR_SIZE])
{
	json_error_t error;
	json_t *value;

	if (too_deep(text, len)) {
		snprintf(ret_error, JSON_ERROR_SIZE, "more than %d levels", JSON_DEPTH_MAX);
		return NULL;
	}
	value = json_loadb(text, len, JSON_REJECT_DUPLICATES, &error);
	/* jansson's text quotes the input, which may be a secret: the position is enough. */
	if (!value && json_error_code(&error) == json_error_duplicate_key)
		snprintf(ret_error, JSON_ERROR_SIZE, "a member is given twice, near byte %d",
			error.position);
	else if (!value)
		snprintf(ret_error, JSON_ERROR_SIZE, "not JSON near line %d, column %d", error.line,
			error.column);
	return value;
}

char *
json_canonical(const json_t *value, size_t *ret_len)
{
	char *text = json_dumps(value, JSON_COMPACT | JSON_SORT_KEYS | JSON_ENCODE_ANY);

	if (text && ret_len)
		*ret_len = strlen(text);
	return text;
}

void
json_text_free(char *text)
{
	secret_wiping_free(text);
}

static const char *const kind_names[] = {
	[JSON_KIND_STRING] = "a string",
	[JSON_KIND_INTEGER] = "an integer of 0 or more",
	[JSON_KIND_BOOL] = "true or false",
	[JSON_KIND_ARRAY] = "an array",
	[JSON_KIND_OBJECT] = "an object",
	[JSON_KIND_ANY] = "a value",
};

static bool
store(const struct json_member *m, json_t *value)
{
	switch (m->kind) {
	case JSON_KIND_STRING:
		if (json_is_string(value))
			*(const char **)m->out = json_string_value(value);
		return json_is_string(value);
	case JSON_KIND_INTEGER:
		if (!json_is_integer(value) || json_integer_value(value) < 0)
			return false;
		*(int64_t *)m->out = json_integer_value(value);
		return true;
	case JSON_KIND_BOOL:
		if (json_is_boolean(value))
			*(bool *)m->out = json_is_true(value);
		return json_is_boolean(value);
	case JSON_KIND_ARRAY:
		if (json_is_array(value))
			*(json_t **)m->out = value;
		return json_is_array(value);
	case JSON_KIND_OBJECT:
		if (json_is_object(value))
			*(json_t **)m->out = value;
		return json_is_object(value);
	case JSON_KIND_ANY:
		*(json_t **)m->out = value;
		return true;
	}
	return false;
}

static const struct json_member *
find(const struct json_member *members, size_t n, const char *name)
{
	for (size_t i = 0; i < n; i++)
		if (strcmp(members[i].name, name) == 0)
			return &members[i];
	return NULL;
}

int
json_take(const json_t *object, const struct json_member *members, size_t n,
	char ret_error[JSON_ERROR_SIZE])
{
	const char *name;
	json_t *value;

	if (!json_is_object(object)) {
		snprintf(ret_error, JSON_ERROR_SIZE, "an object is needed");
		return KEKD_EINVALID;
	}
	json_object_foreach((json_t *)object, name, value) {
		const struct json_member *m = find(members, n, name);
		if (!m) {
			snprintf(ret_error, JSON_ERROR_SIZE, "member \"%.64s\" is not known", name);
			return KEKD_EMEMBER;
		}
		if (!store(m, value)) {
			snprintf(ret_error, JSON_ERROR_SIZE, "member \"%s\" must be %s", m->name,
				kind_names[m->kind]);
			return KEKD_EINVALID;
		}
	}
	for (size_t i = 0; i < n; i++)
		if (members[i].required && !json_object_get(object, members[i].name)) {
			snprintf(ret_error, JSON_ERROR_SIZE, "member \"%s\" is missing",
				members[i].name);
			return KEKD_EINVALID;
		}
	return 0;
}

int
json_take_record(const json_t *object, const struct json_member *members, size_t n,
	char ret_error[JSON_ERROR_SIZE])
{
	return json_take(object, members, n, ret_error) < 0 ? KEKD_EINVALID : 0;
}

int
json_refuse(char ret_error[JSON_ERROR_SIZE], const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	vsnprintf(ret_error, JSON_ERROR_SIZE, format, ap);
	va_end(ap);
	return KEKD_EINVALID;
}

int
json_say(int err, char ret_error[JSON_ERROR_SIZE], const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	vsnprintf(ret_error, JSON_ERROR_SIZE, format, ap);
	va_end(ap);
	return err;
}
