/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A child's part of the configuration, read from the descriptor that it was born with. Not here:
 * how the parts are made (load.c).
 */
#include "kekd/config.h"

#include "kekd/buf.h"
#include "kekd/err.h"
#include "kekd/json.h"
#include "kekd/log.h"
#include "kekd/str.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

#define PART_SIZE_MAX (1024 * 1024)

/* Closes fd in any case. */
static int
read_all(int fd, struct buf *b)
{
	uint8_t chunk[4096];
	ssize_t n;

	while ((n = read(fd, chunk, sizeof(chunk))) != 0) {
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			break;
		buf_put(b, chunk, (size_t)n);
	}
	n = n < 0 ? -errno : 0;
	close(fd);
	return n < 0 ? (int)n : b->bad ? -E2BIG : 0;
}

static json_t *
read_object(int fd, int *ret_err)
{
	char error[JSON_ERROR_SIZE];
	struct buf b = BUF_INIT(PART_SIZE_MAX);
	json_t *part = NULL;
	int err = read_all(fd, &b);

	if (err) {
		log_error("my part of the configuration cannot be read from descriptor %d: %s: "
			  "start kekd, not its children",
			fd, kekd_strerror(err));
	} else if (!(part = json_parse((const char *)b.data, b.len, error))) {
		log_error("my part of the configuration: %s: start kekd, not its children", error);
		err = KEKD_EJSON;
	}
	buf_free(&b);
	*ret_err = err;
	return part;
}

/* A copy of a borrowed string; a failure shows as *bad. */
static char *
copy(const char *text, bool *bad)
{
	char *s = strdup(text);

	if (!s)
		*bad = true;
	return s;
}

static unsigned
narrow(int64_t v, int64_t max, bool *bad)
{
	if (v < 0 || v > max)
		*bad = true;
	return (unsigned)v;
}

static void
copy_strings(const json_t *array, char ***ret_strings, unsigned *ret_count, bool *bad)
{
	size_t n = json_array_size(array);

	*ret_strings = calloc(n + 1, sizeof(char *));
	if (!*ret_strings) {
		*bad = true;
		return;
	}
	*ret_count = (unsigned)n;
	for (size_t i = 0; i < n; i++) {
		const char *text = json_string_value(json_array_get(array, i));
		if (!text)
			*bad = true;
		else
			(*ret_strings)[i] = copy(text, bad);
	}
}

/* Of another node's making it never is: the parent made it. */
static int
store_take(const json_t *json, struct net_part *p, char error[JSON_ERROR_SIZE], bool *bad)
{
	const char *ca = NULL, *certificate = NULL, *key = NULL, *user = NULL,
		   *password_file = NULL;
	int64_t timeout_ms, lease_s, max_staleness_s;
	struct etcd_settings *s = &p->store;
	json_t *endpoints;
	char **strings = NULL;
	unsigned count = 0;
	const struct json_member members[] = {
		{ "endpoints", JSON_KIND_ARRAY, true, &endpoints },
		{ "ca", JSON_KIND_STRING, false, &ca },
		{ "certificate", JSON_KIND_STRING, false, &certificate },
		{ "key", JSON_KIND_STRING, false, &key },
		{ "user", JSON_KIND_STRING, false, &user },
		{ "password_file", JSON_KIND_STRING, false, &password_file },
		{ "timeout_ms", JSON_KIND_INTEGER, true, &timeout_ms },
		{ "lease_s", JSON_KIND_INTEGER, true, &lease_s },
		{ "max_staleness_s", JSON_KIND_INTEGER, true, &max_staleness_s },
	};
	int err = json ? json_take(json, members, STR_COUNT(members), error) : 0;

	if (err || !json)
		return err;
	copy_strings(endpoints, &strings, &count, bad);
	s->endpoints = (const char *const *)strings;
	s->endpoints_count = count;
	s->ca = ca ? copy(ca, bad) : NULL;
	s->certificate = certificate ? copy(certificate, bad) : NULL;
	s->key = key ? copy(key, bad) : NULL;
	s->user = user ? copy(user, bad) : NULL;
	s->password_file = password_file ? copy(password_file, bad) : NULL;
	s->cluster = p->cluster;
	s->timeout_ms = narrow(timeout_ms, UINT_MAX, bad);
	p->store_lease_s = narrow(lease_s, UINT_MAX, bad);
	p->store_max_staleness_s = (uint64_t)max_staleness_s;
	return 0;
}

static int
net_part_take(const json_t *json, struct net_part *p, char error[JSON_ERROR_SIZE])
{
	const char *cluster, *node, *state_dir, *certificate, *key, *client_ca, *audit_dir;
	const char *crl_file = NULL, *sink = NULL, *url = NULL;
	int64_t workers, sessions, deadline_ms, hang_ms, max_bytes, keep = 0, task = -1;
	json_t *tokens, *admins, *deny, *policy, *store = NULL, *copies = NULL;
	unsigned copies_count = 0;
	bool bad = false, init = false;
	const struct json_member members[] = {
		{ "init", JSON_KIND_BOOL, true, &init },
		{ "task", JSON_KIND_INTEGER, false, &task },
		{ "cluster", JSON_KIND_STRING, true, &cluster },
		{ "node", JSON_KIND_STRING, true, &node },
		{ "state_dir", JSON_KIND_STRING, true, &state_dir },
		{ "tls_certificate", JSON_KIND_STRING, true, &certificate },
		{ "tls_key", JSON_KIND_STRING, true, &key },
		{ "tls_client_ca", JSON_KIND_STRING, true, &client_ca },
		{ "common_name", JSON_KIND_BOOL, true, &p->common_name },
		{ "crl_file", JSON_KIND_STRING, false, &crl_file },
		{ "crl_warn_expired", JSON_KIND_BOOL, true, &p->crl_warn_expired },
		{ "deny", JSON_KIND_ARRAY, true, &deny },
		{ "tokens", JSON_KIND_ARRAY, true, &tokens },
		{ "token_copies", JSON_KIND_ARRAY, true, &copies },
		{ "workers", JSON_KIND_INTEGER, true, &workers },
		{ "sessions", JSON_KIND_INTEGER, true, &sessions },
		{ "deadline_ms", JSON_KIND_INTEGER, true, &deadline_ms },
		{ "hang_ms", JSON_KIND_INTEGER, true, &hang_ms },
		{ "audit_dir", JSON_KIND_STRING, true, &audit_dir },
		{ "audit_hash_context", JSON_KIND_BOOL, true, &p->audit_hash_context },
		{ "audit_max_bytes", JSON_KIND_INTEGER, true, &max_bytes },
		{ "audit_keep", JSON_KIND_INTEGER, true, &keep },
		{ "audit_sink", JSON_KIND_STRING, false, &sink },
		{ "admins", JSON_KIND_ARRAY, true, &admins },
		{ "policy", JSON_KIND_OBJECT, true, &policy },
		{ "url", JSON_KIND_STRING, false, &url },
		{ "store", JSON_KIND_OBJECT, false, &store },
	};
	int err = json_take(json, members, STR_COUNT(members), error);

	if (!err)
		err = policy_from_json(policy, &p->policy, error);
	if (err)
		return err;
	p->task = task < 0 ? (init ? NET_INIT : NET_SERVE)
			   : (enum net_task)narrow(task, NET_TASKS - 1, &bad);
	p->cluster = copy(cluster, &bad);
	p->node = copy(node, &bad);
	p->state_dir = copy(state_dir, &bad);
	p->tls_certificate = copy(certificate, &bad);
	p->tls_key = copy(key, &bad);
	p->tls_client_ca = copy(client_ca, &bad);
	p->audit_dir = copy(audit_dir, &bad);
	p->crl_file = crl_file ? copy(crl_file, &bad) : NULL;
	copy_strings(deny, &p->deny, &p->deny_count, &bad);
	p->workers = narrow(workers, CONFIG_WORKERS_MAX, &bad);
	p->sessions = narrow(sessions, CONFIG_SESSIONS_MAX, &bad);
	p->deadline_ms = narrow(deadline_ms, UINT_MAX, &bad);
	p->hang_ms = narrow(hang_ms, UINT_MAX, &bad);
	p->audit_max_bytes = (uint64_t)max_bytes;
	p->audit_keep = narrow(keep, AUDIT_KEEP_MAX, &bad);
	if (sink)
		p->audit_sink = copy(sink, &bad);
	p->url = url ? copy(url, &bad) : NULL;
	err = store_take(store, p, error, &bad);
	if (err)
		return err;
	p->admins = json_incref(admins);
	if (json_array_size(tokens) > CONFIG_TOKENS_MAX ||
		json_array_size(copies) != json_array_size(tokens)) {
		bad = true;
	} else {
		copy_strings(tokens, &p->tokens, &p->tokens_count, &bad);
		copy_strings(copies, &p->token_copies, &copies_count, &bad);
	}
	if (bad)
		snprintf(error, JSON_ERROR_SIZE, "a value is out of bounds, or memory is");
	return bad ? KEKD_EINVALID : 0;
}

static int
worker_part_take(const json_t *json, struct worker_part *p, char error[JSON_ERROR_SIZE])
{
	const char *cluster, *token, *uri, *module;
	int64_t index, sessions;
	bool bad = false;
	const struct json_member members[] = {
		{ "cluster", JSON_KIND_STRING, true, &cluster },
		{ "token", JSON_KIND_STRING, true, &token },
		{ "index", JSON_KIND_INTEGER, true, &index },
		{ "uri", JSON_KIND_STRING, true, &uri },
		{ "module", JSON_KIND_STRING, true, &module },
		{ "sessions", JSON_KIND_INTEGER, true, &sessions },
		{ "pin_known", JSON_KIND_BOOL, false, &p->pin_known },
		{ "retry_pin", JSON_KIND_BOOL, false, &p->retry_pin },
	};
	int err = json_take(json, members, STR_COUNT(members), error);

	if (err)
		return err;
	p->cluster = copy(cluster, &bad);
	p->token = copy(token, &bad);
	p->uri = copy(uri, &bad);
	p->module = copy(module, &bad);
	p->index = narrow(index, CONFIG_WORKERS_MAX - 1, &bad);
	p->sessions = narrow(sessions, CONFIG_SESSIONS_MAX, &bad);
	if (bad)
		snprintf(error, JSON_ERROR_SIZE, "a value is out of bounds, or memory is");
	return bad ? KEKD_EINVALID : 0;
}

int
net_part_read(int fd, struct net_part *ret_part)
{
	char error[JSON_ERROR_SIZE];
	struct net_part p = { 0 };
	int err;
	_cleanup_(json_freep) json_t *json = read_object(fd, &err);

	if (!json)
		return err;
	err = net_part_take(json, &p, error);
	if (err) {
		log_error("my part of the configuration: %s", error);
		net_part_free(&p);
		return err;
	}
	*ret_part = p;
	return 0;
}

int
worker_part_read(int fd, struct worker_part *ret_part)
{
	char error[JSON_ERROR_SIZE];
	struct worker_part p = { 0 };
	int err;
	_cleanup_(json_freep) json_t *json = read_object(fd, &err);

	if (!json)
		return err;
	err = worker_part_take(json, &p, error);
	if (err) {
		log_error("my part of the configuration: %s", error);
		worker_part_free(&p);
		return err;
	}
	*ret_part = p;
	return 0;
}

void
net_part_free(struct net_part *p)
{
	char *const texts[] = { p->cluster, p->node, p->state_dir, p->tls_certificate, p->tls_key,
		p->tls_client_ca, p->audit_dir, p->crl_file, p->audit_sink, p->url,
		(char *)p->store.ca, (char *)p->store.certificate, (char *)p->store.key,
		(char *)p->store.user, (char *)p->store.password_file };

	for (size_t i = 0; i < STR_COUNT(texts); i++)
		free(texts[i]);
	for (size_t i = 0; i < p->store.endpoints_count; i++)
		free((char *)p->store.endpoints[i]);
	free((void *)p->store.endpoints);
	for (unsigned i = 0; i < p->tokens_count; i++)
		free(p->tokens[i]);
	for (unsigned i = 0; p->token_copies && i < p->tokens_count; i++)
		free(p->token_copies[i]);
	free(p->token_copies);
	free(p->tokens);
	for (unsigned i = 0; i < p->deny_count; i++)
		free(p->deny[i]);
	free(p->deny);
	json_decref(p->admins);
	*p = (struct net_part){ 0 };
}

void
worker_part_free(struct worker_part *p)
{
	free(p->cluster);
	free(p->token);
	free(p->uri);
	free(p->module);
	*p = (struct worker_part){ 0 };
}
