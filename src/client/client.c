/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests to kekd (libcurl): which endpoint is asked, when the next one is, and what a failure of
 * the connection means to the person who reads it. Not here: what a problem document means.
 */
#include "kekd/client.h"

#include "kekd/clock.h"
#include "kekd/json.h"
#include "kekd/secret.h"
#include "kekd/str.h"

#include <curl/curl.h>
#include <errno.h>
#include <malloc.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#define TIMEOUT_MS 30000
#define CONNECT_MS 3000		      /* while there is another endpoint to try */
#define REPLY_MAX (64u * 1024 * 1024) /* a backup; other answers are far below */
#define REDIRECTS_MAX 3		      /* a standby sends a change to the active */

struct kekd_client {
	CURL *curl;
	char **endpoints;
	size_t endpoints_count;
	size_t current; /* the endpoint that answered last */
	char *ca, *certificate, *key;
	uint64_t timeout_ns;
	char curl_error[CURL_ERROR_SIZE];
};

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
	c->curl = curl_easy_init();
	return c->curl ? 0 : -ENOMEM;
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
	if (curl_global_init_mem(CURL_GLOBAL_DEFAULT, malloc, wiping_free, wiping_realloc, strdup,
		    calloc) != CURLE_OK) {
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
	curl_global_cleanup();
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
	*r = (struct kekd_reply){ .body = BUF_INIT(REPLY_MAX) };
}

/* ---- one exchange with one endpoint ---- */

struct call {
	const char *method, *path, *text; /* text: the body, or NULL */
	struct curl_slist *headers;
	uint64_t deadline_ns;
};

static void
take_header(const char *line, size_t len, const char *name, char *ret_value, size_t size)
{
	size_t n = strlen(name);

	if (len <= n || strncasecmp(line, name, n) != 0)
		return;
	while (n < len && line[n] == ' ')
		n++;
	while (len > n && strchr("\r\n ", line[len - 1]))
		len--;
	if (len - n < size)
		snprintf(ret_value, size, "%.*s", (int)(len - n), line + n);
}

static size_t
on_header(char *line, size_t one, size_t len, void *user)
{
	struct kekd_reply *r = user;
	char seconds[16] = "";

	(void)one;
	if (len > 5 && strncmp(line, "HTTP/", 5) == 0) /* the one before was a redirection */
		kekd_reply_free(r);
	take_header(line, len, "ETag:", r->etag, sizeof(r->etag));
	take_header(line, len, "Retry-After:", seconds, sizeof(seconds));
	if (seconds[0])
		r->retry_after_s = (unsigned)strtoul(seconds, NULL, 10);
	return len;
}

static size_t
on_body(char *data, size_t one, size_t len, void *user)
{
	struct kekd_reply *r = user;

	(void)one;
	buf_put(&r->body, data, len);
	return r->body.bad ? 0 : len;
}

static void
set_security(struct kekd_client *c)
{
	curl_easy_setopt(c->curl, CURLOPT_PROTOCOLS_STR, "https");
	curl_easy_setopt(c->curl, CURLOPT_REDIR_PROTOCOLS_STR, "https");
	curl_easy_setopt(c->curl, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_3);
	curl_easy_setopt(c->curl, CURLOPT_CAINFO, c->ca);
	curl_easy_setopt(c->curl, CURLOPT_CAPATH, NULL); /* the system's CAs have no say */
	curl_easy_setopt(c->curl, CURLOPT_SSLCERT, c->certificate);
	curl_easy_setopt(c->curl, CURLOPT_SSLKEY, c->key);
	curl_easy_setopt(c->curl, CURLOPT_NOPROXY, "*"); /* nor has the environment */
}

static void
set_limits(struct kekd_client *c, const struct call *call, bool another)
{
	uint64_t now = clock_boot_ns();
	long left = now < call->deadline_ns ? (long)((call->deadline_ns - now) / CLOCK_MS) : 1;
	long connect = another && left / 2 < CONNECT_MS ? left / 2 : another ? CONNECT_MS : left;

	curl_easy_setopt(c->curl, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(c->curl, CURLOPT_TIMEOUT_MS, left > 0 ? left : 1);
	curl_easy_setopt(c->curl, CURLOPT_CONNECTTIMEOUT_MS, connect > 0 ? connect : 1);
	curl_easy_setopt(c->curl, CURLOPT_TCP_KEEPALIVE, 1L);
	curl_easy_setopt(c->curl, CURLOPT_FOLLOWLOCATION, 1L);
	curl_easy_setopt(c->curl, CURLOPT_MAXREDIRS, (long)REDIRECTS_MAX);
}

static void
set_request(struct kekd_client *c, const struct call *call, const char *url, struct kekd_reply *r)
{
	curl_easy_setopt(c->curl, CURLOPT_ERRORBUFFER, c->curl_error);
	curl_easy_setopt(c->curl, CURLOPT_URL, url);
	curl_easy_setopt(c->curl, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
	if (call->text) {
		curl_easy_setopt(c->curl, CURLOPT_POSTFIELDS, call->text);
		curl_easy_setopt(c->curl, CURLOPT_POSTFIELDSIZE, (long)strlen(call->text));
	}
	curl_easy_setopt(c->curl, CURLOPT_CUSTOMREQUEST, call->method);
	curl_easy_setopt(c->curl, CURLOPT_HTTPHEADER, call->headers);
	curl_easy_setopt(c->curl, CURLOPT_HEADERFUNCTION, on_header);
	curl_easy_setopt(c->curl, CURLOPT_HEADERDATA, r);
	curl_easy_setopt(c->curl, CURLOPT_WRITEFUNCTION, on_body);
	curl_easy_setopt(c->curl, CURLOPT_WRITEDATA, r);
}

static void
take_problem(struct kekd_reply *r)
{
	const char *code, *detail, *id;

	code = json_string_value(json_object_get(r->json, "code"));
	detail = json_string_value(json_object_get(r->json, "detail"));
	if (!detail)
		detail = json_string_value(json_object_get(r->json, "title"));
	id = json_string_value(json_object_get(r->json, "request_id"));
	snprintf(r->code, sizeof(r->code), "%s", code ? code : "");
	snprintf(r->detail, sizeof(r->detail), "%s", detail ? detail : "");
	snprintf(r->request_id, sizeof(r->request_id), "%s", id ? id : "");
}

static void
take_reply(struct kekd_client *c, struct kekd_reply *r)
{
	char error[JSON_ERROR_SIZE];
	long status = 0;

	curl_easy_getinfo(c->curl, CURLINFO_RESPONSE_CODE, &status);
	r->status = (int)status;
	if (r->body.len > 0)
		r->json = json_parse((const char *)r->body.data, r->body.len, error);
	if (r->status >= 400)
		take_problem(r);
}

/* ---- what a failed exchange means ---- */

static const struct failure {
	CURLcode curl;
	int err;
	const char *what, *remedy;
} failures[] = {
	{ CURLE_COULDNT_CONNECT, -ECONNREFUSED, "cannot connect",
		"does kekd run there, and is this address in its \"listen\"?" },
	{ CURLE_COULDNT_RESOLVE_HOST, -ECONNREFUSED, "the host's name is not known",
		"check \"endpoints\" and the name service" },
	{ CURLE_URL_MALFORMAT, -EINVAL, "this is not a URL", "write https://HOST:PORT" },
	{ CURLE_OPERATION_TIMEDOUT, -ETIMEDOUT, "no answer in time",
		"is the host up, and does a firewall let the port through?" },
	{ CURLE_PEER_FAILED_VERIFICATION, -EPROTO, "the server's certificate is not accepted",
		"\"ca\" must hold the CA that issued it, and it must name this host" },
	{ CURLE_SSL_CACERT_BADFILE, -EPROTO, "the CA certificate cannot be used",
		"\"ca\" must be a PEM file with certificates" },
	{ CURLE_SSL_CERTPROBLEM, -EPROTO, "the client's certificate or key cannot be used",
		"\"certificate\" and \"key\" must be PEM files that belong together" },
	{ CURLE_SSL_CONNECT_ERROR, -EPROTO, "the TLS handshake failed",
		"is it kekd that listens there, and with TLS 1.3?" },
	{ CURLE_GOT_NOTHING, -ECONNRESET, "the server closed the connection",
		"kekd may be restarting: try again" },
	{ CURLE_SEND_ERROR, -ECONNRESET, "the connection was lost",
		"kekd may be restarting: try again" },
	{ CURLE_RECV_ERROR, -ECONNRESET, "the connection was lost",
		"kekd may be restarting: try again" },
	{ CURLE_PARTIAL_FILE, -ECONNRESET, "the connection was lost in the middle of the answer",
		"kekd may be restarting: try again" },
	{ CURLE_WRITE_ERROR, -EPROTO, "the answer is larger than 16 MiB", "is it kekd there?" },
	{ CURLE_UNSUPPORTED_PROTOCOL, -EPROTO, "redirected to something that is not https",
		"is it kekd there?" },
	{ CURLE_TOO_MANY_REDIRECTS, -EPROTO, "redirected in a circle",
		"is there an active node? \"kekctl status\" at each tells" },
	{ CURLE_OK, -EPROTO, "the request failed", "is it kekd that listens there?" },
};

static const struct failure *
failure_find(CURLcode code)
{
	const struct failure *f = failures;

	while (f->curl != CURLE_OK && f->curl != code)
		f++;
	return f;
}

static int
explain(struct kekd_client *c, CURLcode code, const char *endpoint, char ret_error[512])
{
	const struct failure *f = failure_find(code);
	const char *curl = c->curl_error[0] ? c->curl_error : curl_easy_strerror(code);
	long connect_errno = 0;

	curl_easy_getinfo(c->curl, CURLINFO_OS_ERRNO, &connect_errno);
	if (code == CURLE_COULDNT_CONNECT && connect_errno != 0)
		curl = strerror((int)connect_errno);
	snprintf(ret_error, 512, "%.100s: %s (%.150s): %s", endpoint, f->what, curl, f->remedy);
	return f->err;
}

/* ---- all endpoints ---- */

static bool
ends_with(const char *text, const char *end)
{
	size_t a = strlen(text), b = strlen(end);

	return a >= b && strcmp(text + a - b, end) == 0;
}

/* Reading and computing may be asked twice; a change only when its first attempt was not made. */
static bool
may_repeat(const char *method, const char *path)
{
	static const char *const computing[] = { "/wrap", "/unwrap", "/generate", "/rewrap" };

	if (strcmp(method, "GET") == 0)
		return true;
	for (size_t i = 0; i < STR_COUNT(computing); i++)
		if (ends_with(path, computing[i]))
			return true;
	return false;
}

static bool
was_sent(struct kekd_client *c)
{
	curl_off_t micros = 0;

	curl_easy_getinfo(c->curl, CURLINFO_PRETRANSFER_TIME_T, &micros);
	return micros > 0;
}

static int
attempt(struct kekd_client *c, const struct call *call, size_t endpoint, bool another,
	struct kekd_reply *ret_reply, bool *ret_sent, char ret_error[512])
{
	struct kekd_reply reply = { .body = BUF_INIT(REPLY_MAX) };
	char url[2048];
	CURLcode code;

	if ((size_t)snprintf(url, sizeof(url), "%s%s", c->endpoints[endpoint], call->path) >=
		sizeof(url)) {
		snprintf(ret_error, 512, "the URL has more than 2,047 characters");
		return -EINVAL;
	}
	curl_easy_reset(c->curl);
	c->curl_error[0] = '\0';
	set_security(c);
	set_limits(c, call, another);
	set_request(c, call, url, &reply);
	code = curl_easy_perform(c->curl);
	*ret_sent = was_sent(c);
	if (code != CURLE_OK) {
		kekd_reply_free(&reply);
		return explain(c, code, c->endpoints[endpoint], ret_error);
	}
	take_reply(c, &reply);
	*ret_reply = reply;
	return 0;
}

/* The answer that counts is the last one that came; without any, the first failure, which is that
 * of the endpoint meant. */
static int
try_endpoints(struct kekd_client *c, const struct call *call, struct kekd_reply *ret_reply,
	char ret_error[512])
{
	struct kekd_reply kept = { .body = BUF_INIT(REPLY_MAX) };
	size_t first = c->current;
	bool answered = false;
	int err = 0;

	for (size_t i = 0; i < c->endpoints_count; i++) {
		size_t endpoint = (first + i) % c->endpoints_count;
		struct kekd_reply reply;
		bool sent = false;
		char error[512] = "";
		int one = attempt(
			c, call, endpoint, i + 1 < c->endpoints_count, &reply, &sent, error);
		if (one == 0) {
			kekd_reply_free(&kept);
			kept = reply;
			answered = true;
			c->current = endpoint;
			if (reply.status != 503)
				break;
		} else if (err == 0) {
			err = one;
			snprintf(ret_error, 512, "%s", error);
		}
		if (one != 0 && sent && !may_repeat(call->method, call->path))
			break;
		if (clock_boot_ns() >= call->deadline_ns)
			break;
	}
	if (!answered)
		return err;
	*ret_reply = kept;
	return 0;
}

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

int
kekd_client_request(struct kekd_client *c, const char *method, const char *path, const json_t *body,
	const char *if_match, const char *if_none_match, struct kekd_reply *ret_reply,
	char ret_error[512])
{
	struct call call = { .method = method, .path = path };
	char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
	int err = -ENOMEM;

	if (body && !text)
		goto out;
	call.text = text;
	call.deadline_ns = clock_boot_ns() + c->timeout_ns;
	if ((text && add_header(&call.headers, "Content-Type", "application/json") < 0) ||
		add_header(&call.headers, "Accept", "application/json") < 0 ||
		add_header(&call.headers, "User-Agent", "kekd-client/" PACKAGE_VERSION) < 0 ||
		add_header(&call.headers, "If-Match", if_match) < 0 ||
		add_header(&call.headers, "If-None-Match", if_none_match) < 0)
		goto out;
	err = try_endpoints(c, &call, ret_reply, ret_error);
out:
	if (err == -ENOMEM)
		snprintf(ret_error, 512, "%s", strerror(ENOMEM));
	curl_slist_free_all(call.headers);
	json_text_free(text);
	return err;
}
