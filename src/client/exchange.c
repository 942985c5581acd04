/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One request to one address (libcurl), and what a failure of the connection means to the person
 * who reads it. Not here: what a problem document means.
 */
#include "exchange.h"

#include "kekd/json.h"
#include "kekd/str.h"

#include <errno.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#define WAIT_MS 1000 /* between two looks at `aborted`, unless woken */

/* ---- what comes back ---- */

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
	if (len > 5 && strncmp(line, "HTTP/", 5) == 0) /* the one before was a 100 (Continue) */
		kekd_reply_free(r);
	take_header(line, len, "ETag:", r->etag, sizeof(r->etag));
	take_header(line, len, "Kekd-Request-Id:", r->request_id, sizeof(r->request_id));
	take_header(line, len, "Date:", r->date, sizeof(r->date));
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

/* ---- what is asked ---- */

/* A connection's buffer would keep the last plaintext that came over it. */
static CURLcode
on_tls(CURL *curl, void *context, void *user)
{
	(void)curl;
	(void)user;
	SSL_CTX_set_options(context, SSL_OP_CLEANSE_PLAINTEXT);
	return CURLE_OK;
}

static bool
is_over_openssl(void)
{
	const char *tls = curl_version_info(CURLVERSION_NOW)->ssl_version;

	return tls && strncmp(tls, "OpenSSL/", 8) == 0;
}

static void
set_file(struct kekd_client *c, enum reload_file file, CURLoption by_path, CURLoption by_content,
	const char *path)
{
	const struct buf *contents = reload_contents(c->reload, file);

	if (contents) {
		struct curl_blob blob = { contents->data, contents->len, CURL_BLOB_NOCOPY };
		curl_easy_setopt(c->curl, by_content, &blob);
		if (file == RELOAD_CA)
			curl_easy_setopt(c->curl, CURLOPT_CAINFO, NULL);
	} else {
		curl_easy_setopt(c->curl, by_path, path);
	}
}

static void
set_security(struct kekd_client *c)
{
	if (is_over_openssl())
		curl_easy_setopt(c->curl, CURLOPT_SSL_CTX_FUNCTION, on_tls);
	curl_easy_setopt(c->curl, CURLOPT_PROTOCOLS_STR, "https");
	curl_easy_setopt(c->curl, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_3);
	set_file(c, RELOAD_CA, CURLOPT_CAINFO, CURLOPT_CAINFO_BLOB, c->ca);
	curl_easy_setopt(c->curl, CURLOPT_CAPATH, NULL); /* the system's CAs have no say */
	set_file(c, RELOAD_CERTIFICATE, CURLOPT_SSLCERT, CURLOPT_SSLCERT_BLOB, c->certificate);
	set_file(c, RELOAD_KEY, CURLOPT_SSLKEY, CURLOPT_SSLKEY_BLOB, c->key);
	if (c->reload) /* nobody is there to type a key's passphrase, and OpenSSL would wait */
		curl_easy_setopt(c->curl, CURLOPT_KEYPASSWD, "");
	curl_easy_setopt(c->curl, CURLOPT_NOPROXY, "*"); /* nor has the environment */
}

static void
set_limits(struct kekd_client *c, const struct call *call)
{
	curl_easy_setopt(c->curl, CURLOPT_NOSIGNAL, 1L);
	/* A name service that does not answer costs no more than the request's time. */
	curl_easy_setopt(c->curl, CURLOPT_QUICK_EXIT, 1L);
	curl_easy_setopt(c->curl, CURLOPT_TIMEOUT_MS, call->limit_ms);
	curl_easy_setopt(c->curl, CURLOPT_CONNECTTIMEOUT_MS, call->connect_ms);
	curl_easy_setopt(c->curl, CURLOPT_TCP_KEEPALIVE, 1L);
	/* When a connection of earlier is lost, libcurl sends what was on it again by itself. */
	curl_easy_setopt(c->curl, CURLOPT_FRESH_CONNECT, call->once ? 1L : 0L);
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
	if (id)
		snprintf(r->request_id, sizeof(r->request_id), "%s", id);
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
	{ CURLE_WRITE_ERROR, -EPROTO, "the answer is larger than 64 MiB", "is it kekd there?" },
	{ CURLE_ABORTED_BY_CALLBACK, -ECANCELED, "given up", "nobody waits for it any more" },
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

/* "https://host:port" of it, as it stands in the configuration. */
static int
host_length(const char *url)
{
	size_t len = 8 + strcspn(url + 8, "/");

	return len < 100 ? (int)len : 100;
}

/* In the handshake, without a fault of TLS's: whoever was there went away. */
static bool
was_closed(const struct kekd_client *c, CURLcode code)
{
	return code == CURLE_SSL_CONNECT_ERROR &&
	       (!strstr(c->curl_error, "error:") || strstr(c->curl_error, "unexpected eof"));
}

static int
explain(struct kekd_client *c, CURLcode code, const char *url, char ret_error[512])
{
	const struct failure *f = failure_find(was_closed(c, code) ? CURLE_GOT_NOTHING : code);
	const char *curl = c->curl_error[0] ? c->curl_error : curl_easy_strerror(code);
	long connect_errno = 0;

	curl_easy_getinfo(c->curl, CURLINFO_OS_ERRNO, &connect_errno);
	if (code == CURLE_COULDNT_CONNECT && connect_errno != 0)
		curl = strerror((int)connect_errno);
	snprintf(ret_error, 512, "%.*s: %s (%.150s): %s", host_length(url), url, f->what, curl,
		f->remedy);
	return f->err;
}

/* ---- one exchange ---- */

/* Without having been sent it cannot have been done. */
static bool
was_sent(struct kekd_client *c)
{
	curl_off_t micros = 0;

	curl_easy_getinfo(c->curl, CURLINFO_PRETRANSFER_TIME_T, &micros);
	return micros > 0;
}

static void
take_redirect(struct kekd_client *c, struct exchange *x)
{
	char *url = NULL;

	curl_easy_getinfo(c->curl, CURLINFO_REDIRECT_URL, &url);
	if ((x->reply.status == 307 || x->reply.status == 308) && url)
		snprintf(x->redirect, sizeof(x->redirect), "%s", url);
}

/* As curl_easy_perform, but that kekd_client_wake ends the waiting. */
static CURLcode
perform(struct kekd_client *c, const struct call *call)
{
	CURLcode code = CURLE_OK;
	CURLMsg *m;
	int running = 1, left;

	if (curl_multi_add_handle(c->multi, c->curl) != CURLM_OK)
		return CURLE_FAILED_INIT;
	while (code == CURLE_OK && running) {
		if (curl_multi_perform(c->multi, &running) != CURLM_OK)
			code = CURLE_FAILED_INIT;
		else if (running && call_is_aborted(call))
			code = CURLE_ABORTED_BY_CALLBACK;
		else if (running && curl_multi_poll(c->multi, NULL, 0, WAIT_MS, NULL) != CURLM_OK)
			code = CURLE_FAILED_INIT;
	}
	while ((m = curl_multi_info_read(c->multi, &left)))
		if (m->msg == CURLMSG_DONE && code == CURLE_OK)
			code = m->data.result;
	curl_multi_remove_handle(c->multi, c->curl);
	return code;
}

int
exchange_run(struct kekd_client *c, const struct call *call, const char *url,
	struct exchange *ret_exchange, char ret_error[512])
{
	struct exchange x = { .reply.body = BUF_INIT(CLIENT_REPLY_MAX) };
	CURLcode code;
	int err = 0;

	curl_easy_reset(c->curl);
	c->curl_error[0] = '\0';
	set_security(c);
	set_limits(c, call);
	set_request(c, call, url, &x.reply);
	code = perform(c, call);
	x.sent = was_sent(c);
	if (code == CURLE_OK) {
		take_reply(c, &x.reply);
		take_redirect(c, &x);
	} else {
		kekd_reply_free(&x.reply);
		err = explain(c, code, url, ret_error);
	}
	*ret_exchange = x;
	return err;
}
