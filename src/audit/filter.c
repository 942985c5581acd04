/* SPDX-License-Identifier: Apache-2.0 */
/* Which records are asked for. Lines that cannot match are told without parsing them. */
#include "kekd/audit.h"

#include "kekd/clock.h"
#include "kekd/str.h"

#include <string.h>

#define NEEDLE_SIZE 512

/* A member as it stands in a line, if its text needs no escapes there. */
static bool
line_has(const char *line, size_t len, const char *name, const char *value)
{
	char needle[NEEDLE_SIZE];
	int n = snprintf(needle, sizeof(needle), "\"%s\":\"%s\"", name, value);

	if (n < 0 || n >= (int)sizeof(needle) || strpbrk(value, "\"\\/"))
		return true; /* perhaps */
	for (const char *p = value; *p; p++)
		if ((unsigned char)*p < 0x20 || (unsigned char)*p > 0x7e)
			return true;
	return memmem(line, len, needle, (size_t)n) != NULL;
}

bool
audit_filter_may_match(const struct audit_filter *f, const char *line, size_t len)
{
	const struct {
		const char *name, *value;
	} texts[] = {
		{ "client", f->client },
		{ "key", f->key },
		{ "operation", f->operation },
		{ "code", f->code },
		{ "request_id", f->request_id },
	};
	char hex[2 * AUDIT_BLOB_HASH_SIZE];

	for (size_t i = 0; i < STR_COUNT(texts); i++)
		if (texts[i].value && !line_has(line, len, texts[i].name, texts[i].value))
			return false;
	if (f->denied && !memmem(line, len, "\"result\":\"error\"", 16) &&
		!memmem(line, len, "\"type\":\"refusals\"", 17))
		return false;
	if (!f->has_blob)
		return true;
	str_hex(f->blob, sizeof(f->blob), hex);
	return memmem(line, len, hex, sizeof(hex)) != NULL;
}

static bool
text_matches(const json_t *record, const char *name, const char *wanted)
{
	const char *text = json_string_value(json_object_get(record, name));

	return !wanted || (text && strcmp(text, wanted) == 0);
}

static bool
time_matches(const struct audit_filter *f, const json_t *record)
{
	const char *text = json_string_value(json_object_get(record, "time"));
	uint64_t us;

	if (f->since_us == 0 && f->until_us == 0)
		return true;
	if (!text || clock_parse(text, &us) < 0)
		return false;
	return us >= f->since_us && (f->until_us == 0 || us < f->until_us);
}

static bool
is_denied(const json_t *record)
{
	return text_matches(record, "result", "error") || text_matches(record, "type", "refusals");
}

static bool
has_blob(const struct audit_filter *f, const json_t *record)
{
	char hex[2 * AUDIT_BLOB_HASH_SIZE];
	const json_t *blob;
	size_t i;

	str_hex(f->blob, sizeof(f->blob), hex);
	json_array_foreach(json_object_get(record, "blobs"), i, blob)
		if (json_string_length(blob) == sizeof(hex) &&
			memcmp(json_string_value(blob), hex, sizeof(hex)) == 0)
			return true;
	return false;
}

bool
audit_filter_matches(const struct audit_filter *f, const json_t *record)
{
	return text_matches(record, "client", f->client) && text_matches(record, "key", f->key) &&
	       text_matches(record, "operation", f->operation) &&
	       text_matches(record, "code", f->code) &&
	       text_matches(record, "request_id", f->request_id) &&
	       (!f->denied || is_denied(record)) && (!f->has_blob || has_blob(f, record)) &&
	       time_matches(f, record);
}
