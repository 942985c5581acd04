/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The etcd client's handle, how each transfer is set up, and what its end means. Calls and streams
 * are made of these in etcd_call.c and etcd_stream.c.
 */
#include "etcd_client.h"

#include "kekd/err.h"
#include "kekd/secret.h"
#include "kekd/str.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int
etcd_global_open(void)
{
	/* Passwords and tokens pass through libcurl's memory. */
	return curl_global_init_mem(CURL_GLOBAL_DEFAULT, malloc, secret_wiping_free,
		       secret_wiping_realloc, strdup, calloc) == CURLE_OK
		       ? 0
		       : KEKD_EINTERNAL;
}

static bool
add_header(struct curl_slist **list, const char *line)
{
	struct curl_slist *longer = curl_slist_append(*list, line);

	if (longer)
		*list = longer;
	return longer != NULL;
}

static bool
start_head(struct etcd *e)
{
	curl_slist_free_all(e->head);
	e->head = NULL;
	return add_header(&e->head, "Content-Type: application/json") &&
	       add_header(&e->head, "Expect:"); /* no round trip to ask for leave to send */
}

int
etcd_open(const struct etcd_settings *s, struct etcd **ret_etcd)
{
	_cleanup_(etcd_freep) struct etcd *e = calloc(1, sizeof(*e));

	if (!e || s->endpoints_count == 0)
		return e ? KEKD_EINTERNAL : -ENOMEM;
	e->settings = s;
	e->curl = curl_easy_init();
	if (!e->curl || !start_head(e) || asprintf(&e->prefix, "/kekd/%s/", s->cluster) < 0)
		return -ENOMEM;
	*ret_etcd = e;
	e = NULL;
	return 0;
}

void
etcd_freep(struct etcd **etcd)
{
	struct etcd *e = *etcd;

	if (!e)
		return;
	curl_easy_cleanup(e->curl);
	curl_easy_cleanup(e->stream);
	curl_multi_cleanup(e->multi);
	curl_slist_free_all(e->head);
	free(e->prefix);
	free(e);
	*etcd = NULL;
}

const char *
etcd_error(const struct etcd *e)
{
	return e->error;
}

bool
etcd_unsure(const struct etcd *e)
{
	return e->unsure;
}

const char *
etcd_endpoint(const struct etcd *e)
{
	return e->settings->endpoints[e->current];
}

void
etcd_next_endpoint(struct etcd *e)
{
	e->current = (e->current + 1) % e->settings->endpoints_count;
}

int
etcd_fail(struct etcd *e, int err, const char *text)
{
	snprintf(e->error, sizeof(e->error), "%s", text);
	if (e->settings->counts)
		metrics_add(&e->settings->counts->errors, 1);
	return err;
}

/* ---- a transfer ---- */

static void
set_tls(const struct etcd_settings *s, CURL *curl)
{
	curl_easy_setopt(curl, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
	/* What is in the files when a connection is made counts, not what was. */
	curl_easy_setopt(curl, CURLOPT_CA_CACHE_TIMEOUT, 0L);
	curl_easy_setopt(curl, CURLOPT_SSL_SESSIONID_CACHE, 0L);
	if (s->ca) {
		curl_easy_setopt(curl, CURLOPT_CAINFO, s->ca);
		curl_easy_setopt(curl, CURLOPT_CAPATH, NULL); /* the system's have no say */
	}
	if (s->certificate) {
		curl_easy_setopt(curl, CURLOPT_SSLCERT, s->certificate);
		curl_easy_setopt(curl, CURLOPT_SSLKEY, s->key);
	}
}

void
etcd_prepare(struct etcd *e, CURL *curl, const char *url)
{
	curl_easy_reset(curl);
	e->curl_error[0] = '\0';
	set_tls(e->settings, curl);
	curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, e->curl_error);
	curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
	curl_easy_setopt(curl, CURLOPT_NOPROXY, "*"); /* the environment has no say */
	curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
	/* A name service that does not answer must not hold up a call past its time: the thread
	 * that asks it ends by itself later. */
	curl_easy_setopt(curl, CURLOPT_QUICK_EXIT, 1L);
	curl_easy_setopt(curl, CURLOPT_TCP_KEEPALIVE, 1L);
	curl_easy_setopt(curl, CURLOPT_TCP_KEEPIDLE, 15L);
	curl_easy_setopt(curl, CURLOPT_TCP_KEEPINTVL, 5L);
	curl_easy_setopt(curl, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
	curl_easy_setopt(curl, CURLOPT_HTTPHEADER, e->head);
	curl_easy_setopt(curl, CURLOPT_USERAGENT, "kekd/" PACKAGE_VERSION);
	curl_easy_setopt(curl, CURLOPT_URL, url);
}

static const struct failure {
	CURLcode curl;
	const char *what, *remedy;
} failures[] = {
	{ CURLE_COULDNT_CONNECT, "cannot connect", "does etcd run there?" },
	{ CURLE_COULDNT_RESOLVE_HOST, "the host's name is not known",
		"correct store.endpoints, or the name service" },
	{ CURLE_URL_MALFORMAT, "this is not a URL", "write https://HOST:PORT" },
	{ CURLE_OPERATION_TIMEDOUT, "no answer in time",
		"is the host up, and have etcd's members a quorum?" },
	{ CURLE_PEER_FAILED_VERIFICATION, "etcd's certificate is not accepted",
		"store.ca must hold the CA that issued it, and it must name this host" },
	{ CURLE_SSL_CACERT_BADFILE, "store.ca cannot be used",
		"it must be a PEM file with certificates" },
	{ CURLE_SSL_CERTPROBLEM, "store.certificate or store.key cannot be used",
		"they must be PEM files that belong together" },
	{ CURLE_SSL_CONNECT_ERROR, "the TLS handshake failed",
		"does etcd speak TLS there, and trust the CA of store.certificate?" },
	{ CURLE_WRITE_ERROR, "the answer is larger than 64 MiB", "is it etcd that listens there?" },
	{ CURLE_OK, "the connection was lost", "etcd may be restarting" },
};

static bool
was_sent(CURL *curl)
{
	curl_off_t micros = 0;

	curl_easy_getinfo(curl, CURLINFO_PRETRANSFER_TIME_T, &micros);
	return micros > 0;
}

void
etcd_transfer_failed(
	struct etcd *e, CURL *curl, CURLcode code, const char *endpoint, struct etcd_outcome *o)
{
	const struct failure *f = failures;
	const char *told = e->curl_error[0] ? e->curl_error : curl_easy_strerror(code);
	long os_error = 0;

	while (f->curl != CURLE_OK && f->curl != code)
		f++;
	curl_easy_getinfo(curl, CURLINFO_OS_ERRNO, &os_error);
	if (code == CURLE_COULDNT_CONNECT && os_error != 0)
		told = strerror((int)os_error);
	*o = (struct etcd_outcome){
		.meaning = ETCD_ELSEWHERE, .sent = was_sent(curl), .err = KEKD_ESTORE
	};
	snprintf(o->text, sizeof(o->text), "etcd at %.80s: %s (%.80s): %s", endpoint, f->what, told,
		f->remedy);
}

/* ---- etcd's own errors: gRPC's codes, and what only the text tells apart ---- */

static const struct answer {
	int code;
	const char *text; /* part of the message; NULL: any */
	enum etcd_meaning meaning;
	int err;
} answers[] = {
	{ 16, NULL, ETCD_TOKEN, KEKD_ESTORE }, { 3, "user name is empty", ETCD_TOKEN, KEKD_ESTORE },
	{ 3, "auth store is old", ETCD_TOKEN, KEKD_ESTORE },
	{ 11, "compacted", ETCD_REFUSED, KEKD_ECOMPACTED },
	{ 5, "lease not found", ETCD_REFUSED, -ENOENT },
	{ 1, NULL, ETCD_ELSEWHERE, KEKD_ESTORE },  /* canceled */
	{ 2, NULL, ETCD_ELSEWHERE, KEKD_ESTORE },  /* unknown */
	{ 4, NULL, ETCD_ELSEWHERE, KEKD_ESTORE },  /* deadline exceeded */
	{ 13, NULL, ETCD_ELSEWHERE, KEKD_ESTORE }, /* internal */
	{ 14, NULL, ETCD_ELSEWHERE, KEKD_ESTORE }, /* unavailable: no leader, no quorum */
};

static const struct answer *
find_answer(int code, const char *message)
{
	static const struct answer other = { .meaning = ETCD_REFUSED, .err = KEKD_ESTORE };

	for (size_t i = 0; i < STR_COUNT(answers); i++)
		if (answers[i].code == code &&
			(!answers[i].text || strstr(message, answers[i].text)))
			return &answers[i];
	return &other;
}

/* etcd's gateway says this one in bare text. */
static const char *
unexplained(long status, const json_t *reply)
{
	if (status == 400 && !reply)
		return "with etcd's users, store.certificate must have no common name (CN)";
	return "no reason given";
}

void
etcd_answered(long status, const json_t *reply, const char *endpoint, struct etcd_outcome *o)
{
	const json_t *code = json_object_get(reply, "code");
	const char *message = json_string_value(json_object_get(reply, "message"));
	const struct answer *a;

	*o = (struct etcd_outcome){ .sent = true };
	if (status == 200 && json_is_object(reply))
		return;
	if (!message)
		message = json_string_value(json_object_get(reply, "error"));
	a = find_answer((int)json_integer_value(code), message ? message : "");
	o->meaning = !json_is_object(reply) || status >= 500 ? ETCD_ELSEWHERE : a->meaning;
	o->err = a->err;
	snprintf(o->text, sizeof(o->text), "etcd at %.80s refused: %.120s (HTTP %ld)", endpoint,
		message ? message : unexplained(status, reply), status);
}
