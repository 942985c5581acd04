/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a caller has of libkekdclient: its configuration, and a request put together. Not here: one
 * exchange (exchange.c), and which endpoint is asked when (failover.c).
 */
#include "exchange.h"

#include "kekd/clock.h"
#include "kekd/json.h"
#include "kekd/secret.h"
#include "kekd/str.h"

#include <errno.h>
#include <malloc.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define TIMEOUT_MS 30000
#define CONNECT_MS 3000
#define PATHS(c) ((const char *const[RELOAD_FILES]){ (c)->ca, (c)->certificate, (c)->key })

/* ---- libcurl's memory holds plaintexts: wiped, as everybody's ---- */

static void
wiping_free(void *p)
{
	if (p)
		secret_wipe(p, malloc_usable_size(p));
	free(p);
}

static void *
wiping_realloc(void *old, size_t size)
{
	void *p = malloc(size);

	if (p && old) {
		size_t had = malloc_usable_size(old);
		memcpy(p, old, had < size ? had : size);
		wiping_free(old);
	}
	return p;
}

/* ---- opening ---- */

static int
check_readable(const char *what, const char *path, char ret_error[256])
{
	if (!path) {
		snprintf(ret_error, 256, "no %s is configured", what);
		return -EINVAL;
	}
	if (access(path, R_OK) == 0)
		return 0;
	int err = -errno;
	snprintf(ret_error, 256, "cannot read the %s %.120s: %s", what, path, strerror(-err));
	return err;
}

static int
check_config(const struct kekd_client_config *config, char ret_error[256])
{
	const struct {
		const char *what, *path;
	} files[] = {
		{ "CA certificate (ca)", config->ca },
		{ "client certificate (certificate)", config->certificate },
		{ "client key (key)", config->key },
	};

	if (config->endpoints_count == 0) {
		snprintf(ret_error, 256, "no endpoint is configured");
		return -EINVAL;
	}
	if (config->endpoints_count > KEKD_ENDPOINTS_MAX) {
		snprintf(ret_error, 256, "more than %d endpoints", KEKD_ENDPOINTS_MAX);
		return -EINVAL;
	}
	for (size_t i = 0; i < config->endpoints_count; i++) {
		if (strncmp(config->endpoints[i], "https://", 8) == 0 && config->endpoints[i][8])
			continue;
		snprintf(ret_error, 256, "the endpoint \"%.120s\" is not https://HOST:PORT",
			config->endpoints[i]);
		return -EINVAL;
	}
	for (size_t i = 0; i < STR_COUNT(files); i++) {
		int err = check_readable(files[i].what, files[i].path, ret_error);
		if (err < 0)
			return err;
	}
	return 0;
}

static char *
endpoint_copy(const char *endpoint)
{
	size_t len = strlen(endpoint);

	while (len > 0 && endpoint[len - 1] == '/')
		len--;
	return strndup(endpoint, len);
}

static int
client_fill(struct kekd_client *c, const struct kekd_client_config *config)
{
	c->timeout_ns = (config->timeout_ms ? config->timeout_ms : TIMEOUT_MS) * CLOCK_MS;
	c->connect_ms = config->connect_ms ? config->connect_ms : CONNECT_MS;
	c->health = config->health;
	c->ca = strdup(config->ca);
	c->certificate = strdup(config->certificate);
	c->key = strdup(config->key);
	c->endpoints = calloc(config->endpoints_count, sizeof(*c->endpoints));
	if (!c->ca || !c->certificate || !c->key || !c->endpoints)
		return -ENOMEM;
	for (; c->endpoints_count < config->endpoints_count; c->endpoints_count++) {
		char *copy = endpoint_copy(config->endpoints[c->endpoints_count]);
		if (!copy)
			return -ENOMEM;
		c->endpoints[c->endpoints_count] = copy;
	}
	c->reloaded = config->reloaded;
	c->user = config->user;
	if (config->reload && !(c->reload = reload_open(PATHS(c))))
		return -ENOMEM;
	c->curl = curl_easy_init();
	c->multi = curl_multi_init();
	return c->curl && c->multi ? 0 : -ENOMEM;
}

int
kekd_client_open(const struct kekd_client_config *config, struct kekd_client **ret_client,
	char ret_error[256])
{
	struct kekd_client *c;
	int err = check_config(config, ret_error);

	if (err < 0)
		return err;
	c = calloc(1, sizeof(*c));
	if (!c)
		return -ENOMEM;
	pthread_mutex_init(&c->lock, NULL);
	if (curl_global_init_mem(CURL_GLOBAL_DEFAULT, malloc, wiping_free, wiping_realloc, strdup,
		    calloc) != CURLE_OK) {
		pthread_mutex_destroy(&c->lock);
		free(c);
		snprintf(ret_error, 256, "libcurl cannot be initialised");
		return -ENOMEM;
	}
	err = client_fill(c, config);
	if (err < 0) {
		snprintf(ret_error, 256, "%s", strerror(-err));
		kekd_client_freep(&c);
		return err;
	}
	*ret_client = c;
	return 0;
}

void
kekd_client_freep(struct kekd_client **client)
{
	struct kekd_client *c = *client;

	if (!c)
		return;
	curl_easy_cleanup(c->curl);
	if (c->multi)
		curl_multi_cleanup(c->multi);
	curl_global_cleanup();
	reload_free(c->reload);
	pthread_mutex_destroy(&c->lock);
	for (size_t i = 0; i < c->endpoints_count; i++)
		free(c->endpoints[i]);
	free(c->endpoints);
	free(c->ca);
	free(c->certificate);
	free(c->key);
	free(c);
	*client = NULL;
}

void
kekd_reply_free(struct kekd_reply *r)
{
	buf_free(&r->body);
	json_decref(r->json);
	*r = (struct kekd_reply){ .body = BUF_INIT(CLIENT_REPLY_MAX) };
}

/* ---- a request ---- */

static int
add_header(struct curl_slist **headers, const char *name, const char *value)
{
	char line[256];
	struct curl_slist *longer;

	if (!value)
		return 0;
	if ((size_t)snprintf(line, sizeof(line), "%s: %s", name, value) >= sizeof(line))
		return -EINVAL;
	longer = curl_slist_append(*headers, line);
	if (!longer)
		return -ENOMEM;
	*headers = longer;
	return 0;
}

/* Connections and TLS sessions of the old certificate go with the handles that hold them. */
static int
renew(struct kekd_client *c)
{
	CURL *curl, *old = c->curl;
	CURLM *multi, *old_multi = c->multi;
	const char *fault = NULL;

	if (!c->reload || !reload_due(c->reload, PATHS(c), &fault))
		return 0;
	if (c->reloaded)
		c->reloaded(c->user, fault);
	if (fault)
		return 0;
	curl = curl_easy_init();
	multi = curl_multi_init();
	if (!curl || !multi) {
		curl_easy_cleanup(curl);
		curl_multi_cleanup(multi);
		return -ENOMEM;
	}
	pthread_mutex_lock(&c->lock);
	c->curl = curl;
	c->multi = multi;
	pthread_mutex_unlock(&c->lock);
	curl_easy_cleanup(old);
	curl_multi_cleanup(old_multi);
	return 0;
}

static int
add_headers(struct call *call, const char *if_match, const char *if_none_match)
{
	if ((call->text && add_header(&call->headers, "Content-Type", "application/json") < 0) ||
		add_header(&call->headers, "Accept", "application/json") < 0 ||
		add_header(&call->headers, "User-Agent", "kekd-client/" PACKAGE_VERSION) < 0 ||
		add_header(&call->headers, "If-Match", if_match) < 0 ||
		add_header(&call->headers, "If-None-Match", if_none_match) < 0)
		return -ENOMEM;
	return 0;
}

static int
request(struct kekd_client *c, struct call *call, const json_t *body, const char *if_match,
	const char *if_none_match, struct kekd_reply *ret_reply, char ret_error[512])
{
	char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
	int err = -ENOMEM;

	c->uncertain = false;
	if (body && !text)
		goto out;
	call->text = text;
	call->deadline_ns = call->ask->deadline_ns ? call->ask->deadline_ns
						   : clock_boot_ns() + c->timeout_ns;
	if (add_headers(call, if_match, if_none_match) < 0 || renew(c) < 0)
		goto out;
	err = failover_request(c, call, if_match || if_none_match, ret_reply, ret_error);
out:
	if (err == -ENOMEM)
		snprintf(ret_error, 512, "%s", strerror(ENOMEM));
	curl_slist_free_all(call->headers);
	json_text_free(text);
	return err;
}

int
kekd_client_request(struct kekd_client *c, const char *method, const char *path, const json_t *body,
	const char *if_match, const char *if_none_match, struct kekd_reply *ret_reply,
	char ret_error[512])
{
	struct kekd_ask ask = { 0 };
	struct call call = { .method = method, .path = path, .ask = &ask };

	return request(c, &call, body, if_match, if_none_match, ret_reply, ret_error);
}

int
kekd_client_ask(struct kekd_client *c, const char *method, const char *path, const json_t *body,
	struct kekd_ask *ask, struct kekd_reply *ret_reply, char ret_error[512])
{
	struct call call = { .method = method, .path = path, .ask = ask };

	if (ask->chosen && ask->first >= c->endpoints_count) {
		snprintf(ret_error, 512, "there is no endpoint %zu", ask->first);
		return -EINVAL;
	}
	return request(c, &call, body, NULL, NULL, ret_reply, ret_error);
}

uint64_t
kekd_client_certificate_ends_s(const struct kekd_client *c)
{
	return c->reload ? reload_ends_s(c->reload) : 0;
}

void
kekd_client_wake(struct kekd_client *c)
{
	pthread_mutex_lock(&c->lock);
	curl_multi_wakeup(c->multi);
	pthread_mutex_unlock(&c->lock);
}

bool
kekd_client_uncertain(const struct kekd_client *c)
{
	return c->uncertain;
}
