/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Answers: a reader of the HTTP/1.1 that kekd writes (a length, no chunks), and whether a body is
 * the right one. A right answer is recognised by a few comparisons; only another one is parsed.
 */
#include "bench.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

#define HEAD_MAX 16384
#define BODY_MAX (16u * 1024 * 1024)

static bool
header_is(const char *line, size_t len, const char *name, const char **ret_value)
{
	size_t n = strlen(name);

	if (len <= n || line[n] != ':' || strncasecmp(line, name, n) != 0)
		return false;
	for (n++; n < len && line[n] == ' '; n++)
		;
	*ret_value = line + n;
	return true;
}

static int
take_length(const char *value, size_t *ret_len)
{
	char *end;
	unsigned long long n = strtoull(value, &end, 10);

	if (*value < '0' || *value > '9' || *end != '\r' || n > BODY_MAX)
		return -EPROTO;
	*ret_len = (size_t)n;
	return 0;
}

static int
parse_head(const char *data, size_t len, struct bench_reply *r)
{
	const char *line = data + strlen("HTTP/1.1 200"), *end = data + len;
	bool length = false;

	r->status = (data[9] - '0') * 100 + (data[10] - '0') * 10 + (data[11] - '0');
	while ((line = memmem(line, (size_t)(end - line), "\r\n", 2)) != NULL && line + 2 < end) {
		const char *value;
		line += 2;
		if (header_is(line, (size_t)(end - line), "Content-Length", &value)) {
			if (take_length(value, &r->body_len) < 0)
				return -EPROTO;
			length = true;
		} else if (header_is(line, (size_t)(end - line), "Connection", &value)) {
			r->last = strncasecmp(value, "close", 5) == 0;
		}
	}
	return length && r->status >= 200 && r->status <= 599 ? 0 : -EPROTO;
}

int
bench_reply_parse(const char *data, size_t len, struct bench_reply *r)
{
	if (r->head_len == 0) {
		const char *end = memmem(data, len, "\r\n\r\n", 4);
		if (!end)
			return len > HEAD_MAX ? -EPROTO : 0;
		if (end - data < 12 || memcmp(data, "HTTP/1.1 ", 9) != 0)
			return -EPROTO;
		r->head_len = (size_t)(end - data) + 4;
		if (parse_head(data, r->head_len, r) < 0)
			return -EPROTO;
	}
	if (len > r->head_len + r->body_len)
		return -EPROTO; /* nothing else was asked */
	return len == r->head_len + r->body_len;
}

/* ---- is it right? ---- */

static const char *
find(const char *from, const char *end, const char *what)
{
	return memmem(from, (size_t)(end - from), what, strlen(what));
}

static bool
all_plain(const struct bench_body *sent, size_t items, const char *p, const char *end)
{
	static const char member[] = "\"plaintext\":\"";

	for (size_t i = 0; i < items; i++) {
		size_t len = strlen(sent->plain[i]);
		p = find(p, end, member);
		if (!p)
			return false;
		p += strlen(member);
		if ((size_t)(end - p) <= len || memcmp(p, sent->plain[i], len) != 0 ||
			p[len] != '"')
			return false;
		p += len;
	}
	return true;
}

static bool
all_wrapped(size_t items, const char *p, const char *end)
{
	static const char member[] = "\"ciphertext\":\"";
	size_t n = 0;

	while ((p = find(p, end, member)) != NULL) {
		p += strlen(member);
		if (*p == '"')
			return false;
		n++;
	}
	return n == items;
}

static void
take_code(const json_t *problem, char ret_code[48])
{
	const char *code = string_of(problem, "code");

	if (*code && !*ret_code)
		snprintf(ret_code, 48, "%s", code);
}

static bool
item_is_right(enum bench_op op, const char *plain, const json_t *item)
{
	if (op != BENCH_UNWRAP)
		return *string_of(item, "ciphertext") != '\0';
	return strcmp(string_of(item, "plaintext"), plain) == 0;
}

static void
judge_item(enum bench_op op, const char *plain, const json_t *item, struct bench_verdict *v)
{
	const json_t *error = json_object_get(item, "error");

	if (error) {
		v->items_failed++;
		take_code(error, v->code);
	} else if (item_is_right(op, plain, item)) {
		v->items++;
	} else {
		v->wrong = true;
	}
}

static void
judge_slowly(enum bench_op op, const struct bench_body *sent, size_t items, const char *body,
	size_t len, struct bench_verdict *v)
{
	char error[JSON_ERROR_SIZE];
	_cleanup_(json_freep) json_t *reply = json_parse(body, len, error);
	json_t *array = json_object_get(reply, "items");

	if (array && json_array_size(array) != items)
		v->wrong = true;
	for (size_t i = 0; i < items && !v->wrong; i++)
		judge_item(op, sent->plain ? sent->plain[i] : "",
			array ? json_array_get(array, i) : reply, v);
}

void
bench_judge(enum bench_op op, const struct bench_body *sent, size_t items, const char *body,
	size_t len, struct bench_verdict *ret_verdict)
{
	struct bench_verdict v = { .items = items };
	bool right = op == BENCH_UNWRAP ? all_plain(sent, items, body, body + len)
					: all_wrapped(items, body, body + len);

	if (!right) {
		v.items = 0;
		judge_slowly(op, sent, items, body, len, &v);
	}
	*ret_verdict = v;
}

void
bench_problem_code(const char *body, size_t len, char ret_code[48])
{
	char error[JSON_ERROR_SIZE];
	_cleanup_(json_freep) json_t *problem = json_parse(body, len, error);

	ret_code[0] = '\0';
	take_code(problem, ret_code);
}

/* ---- what was wrapped comes back ---- */

bool
bench_put_unwrap(struct buf *b, size_t items, bool many, const char *body, size_t len)
{
	static const char member[] = "\"ciphertext\":\"";
	const char *p = body, *end = body + len;

	if (many)
		buf_str(b, "{\"items\":[");
	for (size_t i = 0; i < items; i++) {
		const char *quote;
		p = find(p, end, member);
		if (!p)
			return false;
		quote = memchr(p + strlen(member), '"', (size_t)(end - p) - strlen(member));
		if (!quote)
			return false;
		buf_str(b, i > 0 ? ",{" : "{");
		buf_put(b, p, (size_t)(quote + 1 - p));
		buf_str(b, "}");
		p = quote;
	}
	if (many)
		buf_str(b, "]}");
	return !b->bad;
}
