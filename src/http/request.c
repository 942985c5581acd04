/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A request's life: admitted before its body is read, run by its plane, answered once, audited,
 * resumed. What each step may touch is told in include/kekd/http.h.
 */
#include "call.h"

#include "kekd/clock.h"
#include "kekd/log.h"
#include "kekd/secret.h"
#include "kekd/store.h"
#include "kekd/traffic.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define SWALLOW_MAX 16384

struct http_call *
http_call_new(struct http *h, struct peer *peer, struct MHD_Connection *c)
{
	struct http_call *call = calloc(1, sizeof(*call));
	struct request *r;
	struct uuid id;

	if (!call)
		return NULL;
	r = &call->request;
	call->http = h;
	call->peer = peer;
	call->connection = c;
	call->body = BUF_INIT(HTTP_BODY_MAX);
	r->node = h->config.node;
	r->call = call;
	r->reply = BUF_INIT(64u << 20);
	r->start_ns = clock_boot_ns();
	r->time_us = clock_real_us();
	if (uuid_generate(&id) == 0)
		uuid_format(&id, r->request_id);
	memcpy(r->address, peer->address, sizeof(r->address));
	atomic_fetch_add(&h->in_flight, 1);
	return call;
}

void
http_call_free(struct http_call *call)
{
	struct request *r = &call->request;

	atomic_fetch_sub(&call->http->in_flight, 1);
	atomic_fetch_sub(&call->http->bodies, call->body_counted);
	if (!atomic_load(&call->answered))
		metrics_add(&call->http->abandoned, 1);
	if (r->state)
		r->state_free(r->state);
	for (size_t i = 0; i < HTTP_PARAMS_MAX; i++)
		free(r->params[i]);
	free((char *)(uintptr_t)r->audit.path);
	free((char *)(uintptr_t)r->audit.method);
	free(r->audit_versions);
	free(r->audit_blobs);
	free(r->audit_contexts);
	json_decref(r->audit_detail);
	json_decref(r->body);
	free(r->location);
	if (call->counted)
		limit_leave(r->client);
	client_unrefp(&r->client);
	buf_free(&r->reply);
	buf_free(&call->body);
	secret_wipe(call, sizeof(*call));
	free(call);
}

const char *
request_query(struct request *r, const char *name)
{
	return MHD_lookup_connection_value(r->call->connection, MHD_GET_ARGUMENT_KIND, name);
}

/* ---- answering ---- */

/* On the HTTP thread, before anything is handed out: the answer can come from any thread at once. A
 * request that is not suspended is on its HTTP thread. */
static void
suspend(struct http_call *call)
{
	if (call->suspended)
		return;
	call->suspended = true;
	MHD_suspend_connection(call->connection);
}

static void
count_answer(struct http_call *call)
{
	struct request *r = &call->request;

	traffic_count_request(call->http->config.traffic, r->route,
		r->client ? r->client->name : NULL, call->err, clock_boot_ns() - r->start_ns);
	if (r->answered)
		r->answered(r, call->err);
}

/* The reply may leave. After this the request belongs to the HTTP thread again. */
static void
release(struct http_call *call)
{
	bool suspended = call->suspended;
	struct MHD_Connection *connection = call->connection;

	count_answer(call);
	atomic_store(&call->answered, true);
	if (suspended)
		MHD_resume_connection(connection);
}

static void
put_problem_as(struct request *r, int err, int status, const char *detail)
{
	r->call->err = err;
	buf_reset(&r->reply);
	problem_format_as(&r->reply, err, status, detail, r->request_id);
	r->status = status;
	r->audit.code = kekd_err_info(err)->code;
	r->etag[0] = '\0';
	if (status == 503 || status == 429)
		r->retry_after_s = r->retry_after_s ? r->retry_after_s : 1;
	r->call->content_type = "application/problem+json";
}

static void
put_problem(struct request *r, int err, const char *detail)
{
	put_problem_as(r, err, kekd_err_info(err)->http_status, detail);
}

static void
durable(struct audit_record *record, int err)
{
	struct request *r = record->user;

	if (err != 0)
		put_problem(r, KEKD_EAUDIT,
			"the audit log cannot be written, so nothing is answered: see "
			"/health/ready for the reason");
	release(r->call);
}

/* Not: what says nothing of anyone's use of a key, as the server could not even begin. A change
 * that was announced always gets its outcome. */
static bool
is_audited(const struct request *r, int err)
{
	if (r->call->outcome || r->audit.force_durable)
		return true;
	if (r->route && !r->route->audited)
		return false;
	return err != KEKD_ESTARTING && err != KEKD_ESTOPPING && err != KEKD_EOVERLOAD &&
	       err != KEKD_EAUDIT && err != KEKD_ENOTACTIVE && err != KEKD_ENOACTIVE;
}

static void
fill_audit(struct request *r)
{
	struct audit_record *a = &r->audit;

	a->time_us = clock_real_us();
	a->client = r->client ? r->client->name : NULL;
	a->identity = r->identity.name[0] ? r->identity.name : NULL;
	a->address = r->address;
	a->request_id = r->request_id;
	a->traceparent = r->traceparent[0] ? r->traceparent : NULL;
	a->operation = r->route ? r->route->name : NULL;
	a->key = r->key && str_is_name(r->key) ? r->key : NULL;
	a->status = r->status;
	a->micros = (uint32_t)((clock_boot_ns() - r->start_ns) / 1000);
	a->revision = r->call->http->config.hooks->revision(r->node);
	a->contexts = r->audit_contexts;
	a->contexts_count = r->audit_contexts_count;
	a->versions = r->audit_versions;
	a->versions_count = r->audit_versions_count;
	a->blobs = (const uint8_t(*)[AUDIT_BLOB_HASH_SIZE])r->audit_blobs;
	a->blobs_count = r->audit_blobs_count;
	a->detail = r->audit_detail;
	a->user = r;
}

static void
finish(struct request *r, int err)
{
	struct http_call *call = r->call;

	if (call->expected)
		audit_expect(call->http->config.audit, -1);
	if (r->reply.bad && r->status < 500)
		put_problem(r, KEKD_EINTERNAL, "the reply does not fit in memory");
	fill_audit(r);
	if (!is_audited(r, err)) {
		release(call);
		return;
	}
	if (call->outcome)
		r->audit.type = AUDIT_OUTCOME;
	else
		r->audit.type = r->status >= 400 ? AUDIT_REFUSED : AUDIT_REQUEST;
	if (audit_count(call->http->config.audit, &r->audit)) {
		release(call);
		return;
	}
	r->audit.done = durable;
	suspend(call);
	audit_submit(call->http->config.audit, &r->audit);
}

void
request_answer_buf(struct request *r, int status, const char *content_type)
{
	r->status = status;
	r->call->content_type = content_type;
	finish(r, 0);
}

void
request_answer_json(struct request *r, int status, json_t *value)
{
	size_t len = 0;
	char *text = value ? json_canonical(value, &len) : NULL;

	json_decref(value);
	if (!text) {
		request_fail(r, KEKD_EINTERNAL, "out of memory");
		return;
	}
	buf_put(&r->reply, text, len);
	json_text_free(text);
	request_answer_buf(r, status, "application/json");
}

void
request_fail(struct request *r, int err, const char *format, ...)
{
	char detail[768];
	va_list ap;

	va_start(ap, format);
	vsnprintf(detail, sizeof(detail), format, ap);
	va_end(ap);
	put_problem(r, err, detail);
	finish(r, err);
}

/* ---- changes that are another node's ---- */

static void
put_escaped(struct buf *b, const char *text)
{
	for (; *text; text++)
		if (isalnum((unsigned char)*text) || strchr("-._~", *text))
			buf_u8(b, (uint8_t)*text);
		else
			buf_printf(b, "%%%02X", (unsigned char)*text);
}

/* The route's path with the request's own parameters. */
static void
put_path(struct buf *b, const struct request *r)
{
	const char *p = r->route->pattern;
	size_t param = 0;

	while (*p) {
		size_t len = strcspn(p, "{");
		buf_put(b, p, len);
		p += len;
		if (!*p)
			break;
		if (param < HTTP_PARAMS_MAX && r->params[param])
			put_escaped(b, r->params[param++]);
		p += strcspn(p, "}");
		p += *p == '}';
	}
}

static char *
location(const struct request *r, const char *url)
{
	struct buf b = BUF_INIT(4096);
	size_t len = strlen(url);
	char *text;

	while (len > 0 && url[len - 1] == '/')
		len--;
	buf_put(&b, url, len);
	put_path(&b, r);
	buf_u8(&b, '\0');
	text = b.bad ? NULL : strdup((const char *)b.data);
	buf_free(&b);
	return text;
}

static void
redirect(struct request *r, const struct http_active *active)
{
	char detail[256];

	r->location = active->url[0] ? location(r, active->url) : NULL;
	snprintf(detail, sizeof(detail), "node %s is the active one and makes the changes%s",
		active->node, r->location ? "" : ": ask it");
	put_problem_as(r, KEKD_ENOTACTIVE, r->location ? 307 : 503, detail);
	finish(r, KEKD_ENOTACTIVE);
}

/* 0, or the request was answered. */
static int
check_active(struct http_call *call)
{
	struct request *r = &call->request;
	const struct http_hooks *hooks = call->http->config.hooks;
	struct http_active active = { { 0 }, { 0 } };
	int err = hooks->finds_active ? hooks->finds_active(r->node, r->route, &active) : 0;

	if (err == KEKD_ENOTACTIVE)
		redirect(r, &active);
	else if (err < 0)
		request_fail(r, err, "%s",
			"nobody makes changes at the moment: try again; while it lasts, "
			"\"kekctl cluster status\" shows why");
	return err;
}

static int
admit_role(struct http_call *call)
{
	return call->request.route->plane == HTTP_CONTROL ? check_active(call) : 0;
}

/* ---- before the body ---- */

static const char *
header(struct http_call *call, const char *name)
{
	return MHD_lookup_connection_value(call->connection, MHD_HEADER_KIND, name);
}

/* "17" with its quotes, or *. */
static int
parse_etag(const char *text, uint64_t *ret_number)
{
	char *end;

	if (strcmp(text, "*") == 0) {
		*ret_number = STORE_ANY;
		return 0;
	}
	if (*text != '"' || text[1] < '0' || text[1] > '9')
		return -EINVAL;
	errno = 0;
	*ret_number = strtoull(text + 1, &end, 10);
	return errno == 0 && strcmp(end, "\"") == 0 ? 0 : -EINVAL;
}

static int
admit_conditions(struct http_call *call)
{
	struct request *r = &call->request;
	const char *match = header(call, MHD_HTTP_HEADER_IF_MATCH);
	const char *none_match = header(call, MHD_HTTP_HEADER_IF_NONE_MATCH);
	enum http_condition needs = r->route->condition;
	bool ok;

	r->if_match_given = match != NULL;
	r->if_none_match_given = none_match != NULL;
	if (needs == HTTP_COND_NONE)
		return 0;
	if ((match && parse_etag(match, &r->if_match) != 0) ||
		(none_match && strcmp(none_match, "*") != 0) || (match && none_match)) {
		request_fail(r, KEKD_EINVALID,
			"If-Match takes an ETag as this server gave it, or *; If-None-Match takes "
			"*; one of them");
		return KEKD_EINVALID;
	}
	ok = (match && needs != HTTP_COND_CREATE) || (none_match && needs != HTTP_COND_MATCH);
	if (!ok) {
		request_fail(r, KEKD_ENOCONDITION, "%s",
			needs == HTTP_COND_CREATE ? "send If-None-Match: *"
			: needs == HTTP_COND_MATCH
				? "send If-Match with the ETag of the record as you read it"
				: "send If-None-Match: * to create, or If-Match with the record's "
				  "ETag");
		return KEKD_ENOCONDITION;
	}
	return 0;
}

static int
admit_body(struct http_call *call)
{
	struct request *r = &call->request;
	const char *type = header(call, MHD_HTTP_HEADER_CONTENT_TYPE);
	const char *length = header(call, MHD_HTTP_HEADER_CONTENT_LENGTH);
	size_t n = strlen("application/json");

	if (length && strtoull(length, NULL, 10) > HTTP_BODY_MAX) {
		request_fail(r, KEKD_ETOOLARGE,
			"the body has %s bytes, at most %d are taken: split the batch", length,
			HTTP_BODY_MAX);
		return KEKD_ETOOLARGE;
	}
	if (!r->route->has_body)
		return 0;
	if (!type || strncasecmp(type, "application/json", n) != 0 ||
		(type[n] && type[n] != ';' && type[n] != ' ')) {
		request_fail(r, KEKD_EMEDIATYPE, "send Content-Type: application/json");
		return KEKD_EMEDIATYPE;
	}
	return 0;
}

/* The last row is for what is not in the table. */
static const struct {
	int err;
	const char *text;
} certificate_remedies[] = {
	{ KEKD_ECERTREVOKED,
		"the server's CRL lists the certificate or a CA above it: get a new one" },
	{ KEKD_ECRLMISSING, "every CA in the chain needs its CRL in the server's crl.file, valid "
			    "now and signed "
			    "by that CA: an administrator adds it" },
	{ KEKD_ECRLEXPIRED,
		"a CRL in the server's crl.file is past its nextUpdate: an administrator fetches "
		"the new one" },
	{ KEKD_EDENIED,
		"an administrator put this identity on the server's deny list, and can take it off "
		"there" },
	{ 0, "use a client certificate with one SAN URI or a DNS name, issued by a CA of "
	     "tls.client_ca, valid now, for clientAuth" },
};

static const char *
certificate_remedy(int err)
{
	size_t i = 0;

	while (certificate_remedies[i].err && certificate_remedies[i].err != err)
		i++;
	return certificate_remedies[i].text;
}

static int
admit_identity(struct http_call *call)
{
	struct request *r = &call->request;
	const union MHD_ConnectionInfo *info = MHD_get_connection_info(
		call->connection, MHD_CONNECTION_INFO_GNUTLS_SESSION);

	if (!info) {
		request_fail(r, KEKD_EINTERNAL, "no TLS session");
		return KEKD_EINTERNAL;
	}
	http_peer_verify(call->peer, info->tls_session, r->time_us);
	r->identity = call->peer->identity;
	if (call->peer->verdict != 0)
		request_fail(r, call->peer->verdict, "%s", certificate_remedy(call->peer->verdict));
	return call->peer->verdict;
}

static int
admit_client(struct http_call *call)
{
	struct request *r = &call->request;

	r->client = clients_find_identity(call->http->config.clients, &r->identity);
	if (!r->client) {
		request_fail(r, KEKD_ECLIENT,
			"identity %s: an administrator adds it with `kekctl client add`",
			r->identity.name);
		return KEKD_ECLIENT;
	}
	if (!client_address_allowed(r->client, (const struct sockaddr *)&call->peer->sockaddr)) {
		request_fail(r, KEKD_EADDRESS, "client %s may not come from %s", r->client->name,
			r->address);
		return KEKD_EADDRESS;
	}
	return 0;
}

/* Who was let in once and is not any more is a stranger again. */
static int
admit_known(struct http_call *call)
{
	int err = admit_identity(call);

	if (err == 0)
		err = admit_client(call);
	atomic_store(&call->peer->known, err == 0);
	return err;
}

/* libmicrohttpd ends a connection that is answered while its request is not read to the end, and a
 * new handshake costs more than a short body. Who asks whether he may send it is answered at once.
 */
static bool
is_short(struct http_call *call)
{
	const char *length = header(call, MHD_HTTP_HEADER_CONTENT_LENGTH);

	if (header(call, MHD_HTTP_HEADER_TRANSFER_ENCODING) || header(call, MHD_HTTP_HEADER_EXPECT))
		return false;
	return !length || strtoull(length, NULL, 10) <= SWALLOW_MAX;
}

/* While the token has too much to do, a short request is not worth its parsing: it can hold but few
 * operations. A batch may have its place still. */
static int
admit_work(struct http_call *call)
{
	struct request *r = &call->request;

	if (!r->route || r->route->plane != HTTP_DATA || !is_short(call) ||
		!call->http->config.hooks->is_behind(r->node))
		return 0;
	request_fail(r, KEKD_EOVERLOAD, "too much waits for the token: try again");
	return KEKD_EOVERLOAD;
}

static int
admit_limits(struct http_call *call)
{
	struct request *r = &call->request;
	enum limit_verdict verdict = limit_enter(r->client, r->start_ns, &r->retry_after_s);

	call->counted = verdict == LIMIT_OK;
	if (verdict == LIMIT_OK)
		return 0;
	if (verdict == LIMIT_RATE)
		request_fail(r, KEKD_ERATE,
			"client %s may ask for %lld operations a second on a node: come again in "
			"%u s, or have an administrator raise limits.requests_per_s",
			r->client->name, (long long)r->client->requests_per_s, r->retry_after_s);
	else
		request_fail(r, KEKD_ERATE,
			"client %s may have %lld requests under way on a node: wait for answers, "
			"or have an administrator raise limits.in_flight",
			r->client->name, (long long)r->client->in_flight);
	return KEKD_ERATE;
}

static bool
is_granted(const struct request *r, enum access_operation operation)
{
	if (r->route->any_key)
		return client_has(r->client, operation);
	return client_authorise(r->client, operation, r->key) == 0;
}

static int
admit_operation(struct http_call *call)
{
	struct request *r = &call->request;
	const struct http_route *route = r->route;

	if (r->key && !str_is_name(r->key)) {
		request_fail(r, KEKD_ENAME,
			"a key's name is 1 to 64 of a-z 0-9 . _ - and begins and ends with a "
			"letter or digit");
		return KEKD_ENAME;
	}
	if (route->operation == ACCESS_NONE || is_granted(r, route->operation))
		return 0;
	if (route->alternative != ACCESS_NONE && is_granted(r, route->alternative))
		return 0;
	request_fail(r, KEKD_EFORBIDDEN, "client %s has no grant of %s%s%s", r->client->name,
		access_operation_name(route->operation), r->key ? " on key " : "",
		r->key ? r->key : "");
	return KEKD_EFORBIDDEN;
}

/* While held, what is not audited (status, whoami) still answers. */
static int
admit_service(struct http_call *call)
{
	struct request *r = &call->request;
	int err = call->http->config.hooks->serves(r->node);

	if (err == KEKD_EHELD && (!r->route->audited || r->route->while_held))
		err = 0;
	if (err == 0 && r->route->audited && !audit_ok(call->http->config.audit))
		err = KEKD_EAUDIT;
	if (err != 0)
		request_fail(r, err, "see /health/ready for the reason");
	return err;
}

/* What tells of the state of the node answers also while there is too much to do. */
static bool
is_watching(const struct http_route *route)
{
	return route && route->plane == HTTP_READ && !route->audited;
}

static int
admit_audited(struct http_call *call, const char *method, const char *path)
{
	struct request *r = &call->request;
	int err = 0, route_err = 0;
	const char *trace = header(call, "traceparent");

	r->route = http_route_find(
		call->http->config.routes, method, path, r->params, &r->key, &route_err);
	if (r->route && r->route->plane == HTTP_OPEN)
		return 0;
	if (trace && strlen(trace) < sizeof(r->traceparent))
		strcpy(r->traceparent, trace);
	r->audit.method = strndup(method, 16);
	r->audit.path = strndup(path, 256);
	if (call->http->config.hooks->serves(r->node) == KEKD_ESTARTING)
		err = KEKD_ESTARTING;
	else if (!is_watching(r->route) &&
		 atomic_load(&call->http->in_flight) > call->http->config.in_flight_max)
		err = KEKD_EOVERLOAD;
	if (err != 0) {
		request_fail(r, err, "%s", "try again, or another endpoint");
		return err;
	}
	if ((err = admit_known(call)) != 0 || (err = admit_work(call)) != 0 ||
		(err = admit_limits(call)) != 0)
		return err;
	if (!r->route) {
		request_fail(r, route_err, "%s %s: see /v1/openapi.yaml", r->audit.method,
			r->audit.path);
		return route_err;
	}
	if ((err = admit_operation(call)) != 0 || (err = admit_service(call)) != 0 ||
		(err = admit_role(call)) != 0 || (err = admit_conditions(call)) != 0)
		return err;
	return admit_body(call);
}

int
http_call_admit(struct http_call *call, const char *method, const char *path)
{
	int err;

	if (atomic_load(&call->http->draining)) {
		call->early = true;
		request_fail(&call->request, KEKD_ESTOPPING, "try again, or another endpoint");
		return KEKD_ESTOPPING;
	}
	err = admit_audited(call, method, path);
	call->early = err != 0;
	call->swallow = call->early && is_short(call);
	return err;
}

/* ---- with the body ---- */

/* Long bodies are bounded all together: 4,096 of them would be 4 GiB. */
static bool
count_body(struct http_call *call)
{
	struct http *h = call->http;
	size_t more = call->body.len > SWALLOW_MAX ? call->body.len - call->body_counted : 0;

	if (atomic_fetch_add(&h->bodies, more) + more > h->config.bodies_max) {
		atomic_fetch_sub(&h->bodies, more);
		return false;
	}
	call->body_counted += more;
	return true;
}

void
http_call_take_body(struct http_call *call, const char *data, size_t size)
{
	/* Where nobody asked for a body, a stranger may send one: it takes nobody's place. */
	if (call->early || call->crowded || call->body.bad || !call->request.route->has_body)
		return;
	buf_put(&call->body, data, size);
	call->crowded = !count_body(call);
	if (call->crowded || call->body.bad) {
		bool bad = call->body.bad;
		buf_free(&call->body);
		call->body.bad = bad;
	}
}

/* One was counted when the request came in. */
static void
charge_batch(struct request *r)
{
	size_t items = json_array_size(json_object_get(r->body, "items"));

	if (r->route->plane == HTTP_DATA && items > 1)
		limit_charge(r->client, r->start_ns, items - 1);
}

static int
parse_body(struct http_call *call)
{
	struct request *r = &call->request;
	char error[JSON_ERROR_SIZE];

	if (call->crowded) {
		request_fail(r, KEKD_EOVERLOAD,
			"too many large bodies are held: come again, or send smaller batches");
		return KEKD_EOVERLOAD;
	}
	if (call->body.bad) {
		request_fail(r, KEKD_ETOOLARGE, "at most %d bytes are taken: split the batch",
			HTTP_BODY_MAX);
		return KEKD_ETOOLARGE;
	}
	if (!r->route->has_body)
		return 0;
	r->body = json_parse((const char *)call->body.data, call->body.len, error);
	if (!r->body) {
		request_fail(r, KEKD_EJSON, "%s", error);
		return KEKD_EJSON;
	}
	charge_batch(r);
	if (!json_is_object(r->body)) {
		request_fail(r, KEKD_EINVALID, "the body must be an object");
		return KEKD_EINVALID;
	}
	return 0;
}

/* On the control thread: the intent is durable before the handler may change anything. */
static void
run_control(void *user)
{
	struct http_call *call = user;
	struct request *r = &call->request;
	struct audit_record intent;
	int err = call->http->config.hooks->serves(r->node);

	if (err != 0 && !(err == KEKD_EHELD && r->route->while_held)) {
		request_fail(r, err, "see /health/ready for the reason");
		return;
	}
	if (r->route->only_asks && r->route->only_asks(r->body)) {
		r->route->handler(r);
		return;
	}
	/* It may have changed while this waited for its turn. */
	if (check_active(call) != 0)
		return;
	if (call->http->config.hooks->may_change)
		err = call->http->config.hooks->may_change(r->node, r->route);
	if (err != 0) {
		request_fail(r, err,
			"the metadata was restored from a backup: look at it, then \"kekctl "
			"cluster confirm\"");
		return;
	}
	fill_audit(r);
	intent = r->audit;
	intent.type = AUDIT_INTENT;
	intent.detail = r->body;
	if (audit_append(call->http->config.audit, &intent) != 0) {
		request_fail(
			r, KEKD_EAUDIT, "nothing was changed: see /health/ready for the reason");
		return;
	}
	call->outcome = true;
	r->route->handler(r);
}

void
http_call_run(struct http_call *call)
{
	struct request *r = &call->request;
	int err;

	call->started = true;
	peer_enter(call->peer, PEER_WORKING);
	if (parse_body(call) != 0)
		return;
	if (r->route->plane != HTTP_READ && r->route->plane != HTTP_OPEN)
		suspend(call);
	call->expected = r->route->plane == HTTP_DATA;
	if (call->expected)
		audit_expect(call->http->config.audit, 1);
	if (r->route->plane != HTTP_CONTROL) {
		r->route->handler(r);
		return;
	}
	err = call->http->config.hooks->control(r->node, run_control, call);
	if (err != 0)
		request_fail(r, err, "too many changes wait: try again");
}
