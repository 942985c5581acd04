/* SPDX-License-Identifier: Apache-2.0 */
/* The etcd engine's questions, and how etcd's JSON becomes records. */
#include "etcd_engine.h"

#include "kekd/clock.h"
#include "kekd/err.h"
#include "kekd/secret.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEYS_PAGE 1000

void
etcd_news_free(void *news)
{
	struct news *n = news;

	if (!n)
		return;
	if (n->body)
		secret_wipe(n->body, n->len);
	free(n->body);
	free(n->path);
	free(n);
}

bool
etcd_is_record(const char *path)
{
	return path_is_valid(path) && strncmp(path, "leader", 6) != 0 &&
	       strncmp(path, "alive/", 6) != 0;
}

/* They count, since etcd counts them; no valid path begins like that. */
char *
etcd_name_of(const struct etcd *calls, const json_t *key)
{
	char *path = etcd_path(calls, key), *name = NULL;

	if (path && path_is_valid(path))
		return path;
	free(path);
	return asprintf(&name, "\x01%s", json_is_string(key) ? json_string_value(key) : "") < 0
		       ? NULL
		       : name;
}

/* A value past the limit, or none at all, reads as an empty body, which no seal covers. */
struct news *
etcd_news(char *path, const json_t *kv)
{
	struct news *n = calloc(1, sizeof(*n));

	if (!n || !path) {
		free(n);
		free(path);
		return NULL;
	}
	n->path = path;
	n->revision = etcd_u64(kv, "mod_revision");
	n->body = etcd_bytes(json_object_get(kv, "value"), &n->len);
	if (!n->body || n->len > STORE_BODY_MAX) {
		free(n->body);
		n->len = 0;
		n->body = calloc(1, 1);
	}
	if (!n->body) {
		etcd_news_free(n);
		return NULL;
	}
	return n;
}

struct news *
etcd_news_of(const char *path, uint64_t revision, const char *body, size_t len)
{
	struct news *n = calloc(1, sizeof(*n));

	if (!n)
		return NULL;
	n->path = strdup(path);
	n->revision = revision;
	n->len = len;
	n->body = body ? malloc(len + 1) : NULL;
	if (!n->path || (body && !n->body)) {
		etcd_news_free(n);
		return NULL;
	}
	if (body) {
		memcpy(n->body, body, len);
		n->body[len] = '\0';
	}
	return n;
}

const json_t *
etcd_header(const json_t *reply)
{
	return json_object_get(reply, "header");
}

const json_t *
etcd_kvs(const json_t *reply, size_t i)
{
	const json_t *one = json_array_get(json_object_get(reply, "responses"), i);

	return json_object_get(json_object_get(one, "response_range"), "kvs");
}

/* ---- what every answer tells of etcd itself ---- */

/* Linearizable answers never go back: the floor was known before this one was asked for. */
static void
note(struct etcd_store *e, const json_t *reply, uint64_t floor, uint64_t term)
{
	uint64_t revision = etcd_u64(etcd_header(reply), "revision");
	uint64_t now_term = etcd_u64(etcd_header(reply), "raft_term");
	char id[32];

	snprintf(id, sizeof(id), "%llx",
		(unsigned long long)etcd_u64(etcd_header(reply), "cluster_id"));
	pthread_mutex_lock(&e->lock);
	if (e->synced && (revision < floor || now_term < term || strcmp(id, e->cluster_id) != 0))
		etcd_want_compare(e, true);
	else if (revision > e->highest)
		e->highest = revision;
	e->answered_ns = clock_monotonic_ns();
	e->reachable = true;
	e->error[0] = '\0';
	pthread_mutex_unlock(&e->lock);
}

int
etcd_ask(struct etcd_store *e, struct etcd *calls, const char *path, json_t *body, bool repeat,
	json_t **ret_reply, uint64_t *ret_sent_ns)
{
	uint64_t floor, term;
	int err;

	if (!body)
		return KEKD_ESTORE;
	pthread_mutex_lock(&e->lock);
	floor = e->highest;
	term = e->raft_term;
	pthread_mutex_unlock(&e->lock);
	err = etcd_call(calls, path, body, repeat, ret_reply, ret_sent_ns);
	json_decref(body);
	if (err == 0)
		note(e, *ret_reply, floor, term);
	else if (err != KEKD_ECOMPACTED && err != -ENOENT)
		etcd_note_failure(e, etcd_error(calls));
	return err == -ENOMEM ? KEKD_ESTORE : err;
}

/* ---- reading ---- */

/* The key that sorts directly behind this one. */
static json_t *
key_behind(const char *after)
{
	json_t *text = json_string(after), *key = NULL;
	size_t len = 0;
	char *bytes = text ? etcd_bytes(text, &len) : NULL;

	if (bytes)
		key = etcd_base64(bytes, len + 1); /* with its NUL */
	free(bytes);
	json_decref(text);
	return key;
}

int
etcd_read_keys(struct etcd_store *e, struct etcd *calls, const char *after, uint64_t revision,
	json_t **ret_reply, uint64_t *ret_sent_ns)
{
	json_t *body = json_pack("{s:o,s:o,s:i,s:b,s:o}", "key",
		after ? key_behind(after) : etcd_key(calls, ""), "range_end",
		etcd_key_end(calls, ""), "limit", KEYS_PAGE, "keys_only", 1, "revision",
		etcd_number(revision));

	return etcd_ask(e, calls, "kv/range", body, true, ret_reply, ret_sent_ns);
}

static json_t *
ranges(struct etcd *calls, const char *const *paths, size_t count, uint64_t revision)
{
	json_t *list = json_array();

	for (size_t i = 0; list && i < count; i++) {
		json_t *range = json_pack("{s:{s:o,s:o}}", "requestRange", "key",
			etcd_key(calls, paths[i]), "revision", etcd_number(revision));
		if (json_array_append_new(list, range) < 0) {
			json_decref(list);
			return NULL;
		}
	}
	return list;
}

int
etcd_read_values(struct etcd_store *e, struct etcd *calls, const char *const *paths, size_t count,
	uint64_t revision, json_t **ret_reply)
{
	json_t *body = json_pack("{s:o}", "success", ranges(calls, paths, count, revision));

	return etcd_ask(e, calls, "kv/txn", body, true, ret_reply, NULL);
}

int
etcd_read_range(struct etcd_store *e, struct etcd *calls, const char *first, const char *last,
	uint64_t revision, json_t **ret_reply)
{
	json_t *body = json_pack("{s:o,s:o,s:o}", "key", etcd_key(calls, first), "range_end",
		etcd_key_next(calls, last), "revision", etcd_number(revision));

	return etcd_ask(e, calls, "kv/range", body, true, ret_reply, NULL);
}
