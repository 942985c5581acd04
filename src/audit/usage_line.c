/* SPDX-License-Identifier: Apache-2.0 */
/*
 * First looks for the members in the order in which format.c writes them. A quote inside of a
 * string has a backslash before it, so `,"name":` is never part of one. What looks any different is
 * read as JSON.
 */
#include "usage_line.h"

#include "kekd/clock.h"

#include <errno.h>
#include <string.h>

#define HEAD "{\"v\":1,\"seq\":"
#define PREV ",\"prev\":\""
#define VERSIONS ",\"versions\":["

/* ---- as text ---- */

/* A number without a sign. NULL: there is none. */
static const char *
take_number(const char *p, uint64_t *ret_number)
{
	const char *start = p;
	uint64_t n = 0;

	for (; *p >= '0' && *p <= '9' && p - start < 19; p++)
		n = n * 10 + (uint64_t)(*p - '0');
	*ret_number = n;
	return p > start ? p : NULL;
}

static const char *
take_literal(const char *p, const char *literal)
{
	size_t len = strlen(literal);

	return strncmp(p, literal, len) == 0 ? p + len : NULL;
}

/* A string member without anything that is escaped, up to and with its closing quote. */
static const char *
take_text(const char *p, const char *literal, char *ret_text, size_t size)
{
	size_t len;

	p = take_literal(p, literal);
	if (!p)
		return NULL;
	len = strcspn(p, "\"\\");
	if (p[len] != '"' || len >= size)
		return NULL;
	memcpy(ret_text, p, len);
	ret_text[len] = '\0';
	return p + len + 1;
}

static int
read_time(struct usage_clock *clock, const char *text, uint64_t *ret_us)
{
	const size_t second = sizeof(clock->text) - 1;
	uint64_t us = 0;
	const char *end;

	if (strlen(text) == second + 8 && memcmp(text, clock->text, second) == 0 &&
		text[second] == '.') {
		end = take_number(text + second + 1, &us);
		if (end == text + second + 7 && *end == 'Z') {
			*ret_us = clock->us + us;
			return 0;
		}
	}
	if (clock_parse(text, &us) < 0)
		return -EBADMSG;
	memcpy(clock->text, text, second);
	clock->us = us - us % 1000000;
	*ret_us = us;
	return 0;
}

static bool
tells_of_use(const char *type)
{
	return strcmp(type, "request") == 0 || strcmp(type, "refused") == 0;
}

/* Client, operation and key stand before everything that a client can choose freely. */
static int
read_use(const char *p, struct usage_line *l)
{
	const char *versions = strstr(p, VERSIONS), *detail = strstr(p, ",\"detail\":");
	char operation[64];

	if (!versions)
		return 0;
	if (detail && detail < versions)
		return -EAGAIN;
	p = take_text(p, ",\"client\":\"", l->client, sizeof(l->client));
	p = p ? strstr(p, ",\"operation\":\"") : NULL;
	p = p ? take_text(p, ",\"operation\":\"", operation, sizeof(operation)) : NULL;
	p = p ? take_text(p, ",\"key\":\"", l->key, sizeof(l->key)) : NULL;
	if (!p || p > versions)
		return -EAGAIN;
	l->text = versions + strlen(VERSIONS);
	l->has_use = true;
	l->first_us = l->last_us = l->time_us;
	return 0;
}

/* 0; -EAGAIN: to be read as JSON. */
static int
read_text(struct usage_clock *clock, const char *line, size_t len, struct usage_line *l)
{
	char node[STR_NAME_MAX + 1], type[16], time[CLOCK_TEXT_SIZE];
	const char *p = take_literal(line, HEAD);
	const char *prev = line + len - CHAIN_SUFFIX_SIZE - strlen(PREV) - 65;

	p = p ? take_number(p, &l->sequence) : NULL;
	p = p ? take_text(p, ",\"time\":\"", time, sizeof(time)) : NULL;
	p = p ? take_text(p, ",\"node\":\"", node, sizeof(node)) : NULL;
	p = p ? take_text(p, ",\"type\":\"", type, sizeof(type)) : NULL;
	if (!p || prev < p || !take_text(prev, PREV, l->prev, sizeof(l->prev)) ||
		read_time(clock, time, &l->time_us) < 0 || l->sequence == 0 ||
		strcmp(type, "refusals") == 0)
		return -EAGAIN;
	return tells_of_use(type) ? read_use(p, l) : 0;
}

static bool
next_in_text(struct usage_line *l, struct usage_line_version *v)
{
	const char *p = l->text, *next;
	char id[UUID_TEXT_SIZE] = "", member[24];
	uint64_t number = 0;

	p = take_literal(*p == ',' ? p + 1 : p, "{\"version\":");
	p = p ? take_number(p, &number) : NULL;
	p = p ? take_text(p, ",\"id\":\"", id, sizeof(id)) : NULL;
	if (!p || uuid_parse(id, &v->id) != 0)
		return false;
	for (size_t i = 0; p && i < USAGE_KINDS; i++) {
		snprintf(member, sizeof(member), ",\"%s\":", usage_kind_names[i]);
		next = take_literal(p, member);
		v->counts[i] = 0;
		p = next ? take_number(next, &v->counts[i]) : p;
	}
	if (!p || *p != '}')
		return false;
	v->number = (unsigned)number;
	l->text = p + 1;
	return true;
}

/* ---- as JSON ---- */

static const char *
member(const struct usage_line *l, const char *name)
{
	const char *text = json_string_value(json_object_get(l->parsed.json, name));

	return text ? text : "";
}

static int
read_json(EVP_MD_CTX *md, struct usage_clock *clock, const char *line, size_t len,
	struct usage_line *l)
{
	bool summary;

	if (chain_parse(md, line, len, &l->parsed) < 0 ||
		read_time(clock, l->parsed.time, &l->time_us) < 0)
		return -EBADMSG;
	summary = strcmp(l->parsed.type, "refusals") == 0;
	l->sequence = l->parsed.sequence;
	l->has_use = (summary || tells_of_use(l->parsed.type)) &&
		     json_is_array(json_object_get(l->parsed.json, "versions"));
	l->first_us = l->last_us = l->time_us;
	if (summary && (read_time(clock, member(l, "from"), &l->first_us) < 0 ||
			       read_time(clock, member(l, "to"), &l->last_us) < 0))
		return -EBADMSG;
	snprintf(l->prev, sizeof(l->prev), "%s", l->parsed.prev);
	snprintf(l->client, sizeof(l->client), "%s", member(l, "client"));
	snprintf(l->key, sizeof(l->key), "%s", member(l, "key"));
	return 0;
}

static bool
next_in_json(struct usage_line *l, struct usage_line_version *v)
{
	const json_t *use = json_array_get(json_object_get(l->parsed.json, "versions"), l->at++);
	const char *id = json_string_value(json_object_get(use, "id"));

	if (!id || uuid_parse(id, &v->id) != 0)
		return false;
	v->number = (unsigned)json_integer_value(json_object_get(use, "version"));
	for (size_t i = 0; i < USAGE_KINDS; i++)
		v->counts[i] = (uint64_t)json_integer_value(
			json_object_get(use, usage_kind_names[i]));
	return true;
}

/* ---- either ---- */

int
usage_line_read(EVP_MD_CTX *md, struct usage_clock *clock, const char *line, size_t len,
	struct usage_line *ret_line)
{
	struct usage_line l = { 0 };
	int err = chain_check(md, line, len, l.hash);

	if (!err)
		err = read_text(clock, line, len, &l);
	if (err == -EAGAIN)
		err = read_json(md, clock, line, len, &l);
	if (err)
		usage_line_free(&l);
	else
		*ret_line = l;
	return err;
}

void
usage_line_free(struct usage_line *line)
{
	chain_line_free(&line->parsed);
}

bool
usage_line_next(struct usage_line *line, struct usage_line_version *ret_version)
{
	if (!line->has_use)
		return false;
	return line->text ? next_in_text(line, ret_version) : next_in_json(line, ret_version);
}
