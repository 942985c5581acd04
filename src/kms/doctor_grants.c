/* SPDX-License-Identifier: Apache-2.0 */
/* What the plugin's client may do at kekd, and what it should: three operations on one key. */
#include "doctor.h"

#include "kekd/str.h"

#include <stdio.h>
#include <string.h>

static const char *const needed[] = { "wrap", "unwrap", "key.read" };

static const char *
string_at(const json_t *list, size_t i)
{
	const char *s = json_string_value(json_array_get(list, i));

	return s ? s : "";
}

static bool
has_operation(const json_t *grant, const char *operation)
{
	const json_t *list = json_object_get(grant, "operations");

	for (size_t i = 0; i < json_array_size(list); i++)
		if (strcmp(string_at(list, i), operation) == 0)
			return true;
	return false;
}

static bool
is_covered(const json_t *grants, const char *key, const char *operation)
{
	const json_t *g;
	size_t i;

	json_array_foreach(grants, i, g) {
		const char *keys = json_string_value(json_object_get(g, "keys"));
		if (keys && str_glob(keys, key) && has_operation(g, operation))
			return true;
	}
	return false;
}

static void
append(char *text, size_t size, const char *separator, const char *more)
{
	size_t len = strlen(text);

	snprintf(text + len, size - len, "%s%s", len ? separator : "", more);
}

static bool
is_needed(const char *operation)
{
	for (size_t i = 0; i < STR_COUNT(needed); i++)
		if (strcmp(needed[i], operation) == 0)
			return true;
	return false;
}

/* "KEYS:OPERATION,OPERATION" of what one grant has beyond. */
static void
list_beyond(const json_t *grant, const char *key, char *ret_text, size_t size)
{
	const char *keys = json_string_value(json_object_get(grant, "keys"));
	const json_t *list = json_object_get(grant, "operations");
	bool other_keys = !keys || strcmp(keys, key) != 0;
	char operations[256] = "", text[384];

	for (size_t i = 0; i < json_array_size(list); i++)
		if (other_keys || !is_needed(string_at(list, i)))
			append(operations, sizeof(operations), ",", string_at(list, i));
	if (!*operations)
		return;
	snprintf(text, sizeof(text), "%s:%s", keys ? keys : "?", operations);
	append(ret_text, size, " ", text);
}

void
doctor_grants(struct doctor *d, const char *client, const json_t *grants)
{
	const char *key = d->config->key;
	char lacks[64] = "", beyond[512] = "", remedy[512];
	const json_t *g;
	size_t i;

	for (i = 0; i < STR_COUNT(needed); i++)
		if (!is_covered(grants, key, needed[i]))
			append(lacks, sizeof(lacks), ", ", needed[i]);
	json_array_foreach(grants, i, g)
		list_beyond(g, key, beyond, sizeof(beyond));
	snprintf(remedy, sizeof(remedy),
		"kekctl client set %.64s --grant %.64s:wrap,unwrap,key.read gives exactly what it "
		"needs.",
		client, key);
	if (*lacks)
		doctor_say(d, DOCTOR_FAULT, "grants", remedy, "%s may not %s on key %s", client,
			lacks, key);
	if (*beyond)
		doctor_say(d, DOCTOR_WARNING, "grants", remedy, "%s may more than it needs: %s",
			client, beyond);
	if (!*lacks && !*beyond)
		doctor_say(d, DOCTOR_OK, "grants", "",
			"wrap, unwrap and key.read on %s, and nothing else", key);
}
