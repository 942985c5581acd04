/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a load consists of: options and configuration, and the bodies, made once. Everything is
 * asked of the server once here, through the client that all commands use: what cannot work is told
 * before the load starts, in the words that kekctl always has for it.
 */
#include "bench.h"

#include "kekd/clock.h"

#include <errno.h>
#include <math.h>
#include <openssl/err.h>
#include <openssl/rand.h>
#include <string.h>
#include <unistd.h>

#define CONNECTIONS_MAX 4096
#define THREADS_MAX 64
#define SIZE_MAX_BYTES 4096
#define BODY_MAX (1024 * 1024)
#define TIMEOUT_S 30
/* The first that a server has of these is taken: what Go's clients ask for first. */
#define CIPHERS "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"

const char *const bench_op_names[BENCH_OPS] = { "wrap", "unwrap", "generate", "rewrap" };

/* ---- options ---- */

/* Seconds, with a fraction if need be; or with ms, s, m, h behind. */
static int
take_duration(const struct ctl_args *a, const char *option, uint64_t *ret_ns)
{
	static const struct {
		const char *unit;
		double seconds;
	} units[] = { { "", 1 }, { "ms", 1e-3 }, { "s", 1 }, { "m", 60 }, { "h", 3600 } };
	const char *text = args_value(a, option);
	char *end;
	double n;

	if (!text)
		return CTL_OK;
	n = strtod(text, &end);
	for (size_t i = 0; *text >= '0' && *text <= '9' && i < STR_COUNT(units); i++)
		if (strcmp(end, units[i].unit) == 0 && n * units[i].seconds <= 7 * 86400) {
			*ret_ns = (uint64_t)(n * units[i].seconds * 1e9);
			return CTL_OK;
		}
	say_error("--%s \"%s\" is not a time of at most 7 days, as in 30s or 5m", option, text);
	return CTL_USAGE;
}

static int
take_rate(const struct ctl_args *a, double *ret_rate)
{
	const char *text = args_value(a, "rate");
	char *end;
	double n;

	if (!text)
		return CTL_OK;
	n = strtod(text, &end);
	if (*text < '0' || *text > '9' || *end || n <= 0 || n > 1e7) {
		say_error("--rate \"%s\" is not a number of requests per second", text);
		return CTL_USAGE;
	}
	*ret_rate = n;
	return CTL_OK;
}

static int
take_share(struct bench_plan *plan, const char *share, size_t len)
{
	for (size_t i = 0; i < BENCH_OPS; i++) {
		size_t n = strlen(bench_op_names[i]);
		unsigned long weight = 1;
		char *end = (char *)share + n;
		if (len < n || strncmp(share, bench_op_names[i], n) != 0)
			continue;
		if (len > n && share[n] == '=' && share[n + 1] >= '0' && share[n + 1] <= '9')
			weight = strtoul(share + n + 1, &end, 10);
		if (end != share + len || weight > 1000)
			break;
		plan->weights[i] += (unsigned)weight;
		plan->weights_sum += (unsigned)weight;
		return CTL_OK;
	}
	say_error("--mix: \"%.*s\" is not wrap, unwrap, generate or rewrap, with or without =N",
		(int)len, share);
	return CTL_USAGE;
}

static int
take_mix(const struct ctl_args *a, struct bench_plan *plan)
{
	const char *p = args_value(a, "mix");

	if (!p)
		p = "wrap=1,unwrap=1";
	for (; *p; p += *p == ',') {
		size_t len = strcspn(p, ",");
		int status = take_share(plan, p, len);
		if (status != CTL_OK)
			return status;
		p += len;
	}
	if (plan->weights_sum > 0)
		return CTL_OK;
	say_error("--mix names no operation");
	return CTL_USAGE;
}

static unsigned
threads_default(void)
{
	long cores = sysconf(_SC_NPROCESSORS_ONLN);
	unsigned n = cores < 4 ? 1 : (unsigned)cores / 2;

	return n < 8 ? n : 8;
}

static int
take_options(const struct ctl_args *a, struct bench_plan *plan)
{
	unsigned timeout_s = TIMEOUT_S;
	int status;

	plan->connections = 32;
	plan->threads = threads_default();
	plan->batch = 1;
	plan->size = 32;
	plan->duration_ns = 10 * CLOCK_S;
	plan->warmup_ns = 2 * CLOCK_S;
	if ((status = args_number(a, "connections", 1, CONNECTIONS_MAX, &plan->connections)) !=
			CTL_OK ||
		(status = args_number(a, "threads", 1, THREADS_MAX, &plan->threads)) != CTL_OK ||
		(status = args_number(a, "batch", 1, BENCH_BATCH_MAX, &plan->batch)) != CTL_OK ||
		(status = args_number(a, "bytes", 1, SIZE_MAX_BYTES, &plan->size)) != CTL_OK ||
		(status = args_number(a, "timeout", 1, CTL_TIMEOUT_MAX_S, &timeout_s)) != CTL_OK ||
		(status = take_duration(a, "duration", &plan->duration_ns)) != CTL_OK ||
		(status = take_duration(a, "warmup", &plan->warmup_ns)) != CTL_OK ||
		(status = take_rate(a, &plan->rate)) != CTL_OK ||
		(status = take_mix(a, plan)) != CTL_OK)
		return status;
	plan->timeout_ns = timeout_s * CLOCK_S;
	if (plan->threads > plan->connections)
		plan->threads = plan->connections;
	if (plan->duration_ns == 0) {
		say_error("--duration is nothing");
		return CTL_USAGE;
	}
	if ((size_t)plan->batch * (plan->size * 4 / 3 + 200) <= BODY_MAX)
		return CTL_OK;
	say_error("a batch of %u times %u bytes is more than the 1 MiB that a body may have",
		plan->batch, plan->size);
	return CTL_USAGE;
}

/* ---- where to ---- */

/* "https://HOST:PORT", HOST perhaps in brackets. */
static int
take_endpoint(const char *url, struct bench_endpoint *e)
{
	const char *host = url + strlen("https://"), *end, *port;
	bool brackets = strncmp(url, "https://[", 9) == 0;

	end = brackets ? strchr(host, ']') : host + strcspn(host, ":/");
	port = end ? end + brackets : NULL;
	if (strncmp(url, "https://", 8) == 0 && end && end > host + brackets &&
		(size_t)(end - host) < sizeof(e->host)) {
		host += brackets;
		snprintf(e->host, sizeof(e->host), "%.*s", (int)(end - host), host);
		snprintf(e->port, sizeof(e->port), "%.*s",
			*port == ':' ? (int)strspn(port + 1, "0123456789") : 3,
			*port == ':' ? port + 1 : "443");
		return CTL_OK;
	}
	say_error("the endpoint \"%s\" is not https://HOST:PORT", url);
	return CTL_USAGE;
}

static int
make_heads(const struct bench_plan *plan, struct bench_endpoint *e)
{
	bool brackets = strchr(e->host, ':') != NULL;

	for (size_t i = 0; i < BENCH_OPS; i++)
		if (asprintf(&e->head[i],
			    "POST /v1/keys/%s/%s HTTP/1.1\r\nHost: %s%s%s:%s\r\n"
			    "User-Agent: kekctl-bench/" PACKAGE_VERSION "\r\n"
			    "Content-Type: application/json\r\nContent-Length: ",
			    plan->key, bench_op_names[i], brackets ? "[" : "", e->host,
			    brackets ? "]" : "", e->port) < 0) {
			e->head[i] = NULL;
			say_error("%s", strerror(ENOMEM));
			return CTL_FAILED;
		}
	return CTL_OK;
}

static int
tls_fails(const char *what, const char *path)
{
	const char *reason = ERR_reason_error_string(ERR_get_error());

	say_error("%s %s cannot be used: %s", what, path, reason ? reason : "no reason is known");
	return CTL_USAGE;
}

static int
make_tls(const struct ctl_config *c, struct bench_plan *plan)
{
	SSL_CTX *tls = SSL_CTX_new(TLS_client_method());

	plan->tls = tls;
	if (!tls || SSL_CTX_set_min_proto_version(tls, TLS1_3_VERSION) != 1 ||
		SSL_CTX_set_ciphersuites(tls, CIPHERS) != 1)
		return tls_fails("OpenSSL's TLS", "");
	if (SSL_CTX_load_verify_file(tls, c->ca) != 1)
		return tls_fails("the CA", c->ca);
	if (SSL_CTX_use_certificate_chain_file(tls, c->certificate) != 1)
		return tls_fails("the certificate", c->certificate);
	if (SSL_CTX_use_PrivateKey_file(tls, c->key, SSL_FILETYPE_PEM) != 1)
		return tls_fails("the key", c->key);
	SSL_CTX_set_verify(tls, SSL_VERIFY_PEER, NULL);
	SSL_CTX_set_session_cache_mode(tls, SSL_SESS_CACHE_OFF);
	/* One read() takes a record's head and what follows. */
	SSL_CTX_set_read_ahead(tls, 1);
	SSL_CTX_set_mode(tls, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	return CTL_OK;
}

static int
take_config(struct ctl *ctl, struct bench_plan *plan)
{
	_cleanup_(ctl_config_free) struct ctl_config c = { 0 };
	int status = ctl_config_load(&ctl->args, &c);

	if (status == CTL_OK)
		status = make_tls(&c, plan);
	for (unsigned i = 0; status == CTL_OK && i < c.endpoints_count; i++) {
		struct bench_endpoint *e = &plan->endpoints[plan->endpoints_count++];
		status = take_endpoint(c.endpoints[i], e);
		if (status == CTL_OK)
			status = make_heads(plan, e);
		if (plan->endpoints_count == BENCH_ENDPOINTS_MAX)
			break;
	}
	return status;
}

/* ---- bodies ---- */

static int
no_memory(void)
{
	say_error("%s", strerror(ENOMEM));
	return CTL_FAILED;
}

static int
make_plain(struct bench_plan *plan)
{
	uint8_t bytes[SIZE_MAX_BYTES];
	size_t n = plan->bodies_count * plan->batch;

	plan->plain = calloc(n, sizeof(*plan->plain));
	if (!plan->plain)
		return no_memory();
	for (size_t i = 0; i < n; i++) {
		struct buf text = BUF_INIT(STR_BASE64_SIZE(SIZE_MAX_BYTES) + 1);
		if (RAND_bytes(bytes, (int)plan->size) != 1) {
			say_error("no random numbers from OpenSSL");
			return CTL_FAILED;
		}
		str_base64(&text, bytes, plan->size);
		buf_u8(&text, 0);
		if (text.bad)
			return no_memory();
		plan->plain[i] = (char *)text.data; /* handed over */
	}
	return CTL_OK;
}

/* {member: value} once, or as items. */
static json_t *
make_json(const struct bench_plan *plan, const char *member, json_t *const *values)
{
	json_t *array;

	if (plan->batch == 1)
		return json_pack("{s:O}", member, values[0]);
	array = json_array();
	for (size_t i = 0; i < plan->batch; i++)
		json_array_append_new(array, json_pack("{s:O}", member, values[i]));
	return json_pack("{s:o}", "items", array);
}

static int
ask(struct ctl *ctl, struct bench_plan *plan, enum bench_op op, const json_t *body,
	json_t **ret_reply)
{
	const char *path = show_format("/v1/keys/%s/%s", plan->key, bench_op_names[op]);

	plan->setup_requests++;
	return ctl_request(ctl, "POST", path, body, NULL, NULL, ret_reply);
}

static int
add_body(struct bench_plan *plan, enum bench_op op, size_t i, const json_t *json)
{
	struct bench_body *body = &plan->bodies[op][i];

	body->text = json_dumps(json, JSON_COMPACT);
	if (!body->text)
		return no_memory();
	body->len = strlen(body->text);
	body->plain = op == BENCH_GENERATE ? NULL : plan->plain + i * plan->batch;
	return CTL_OK;
}

static int
take_blobs(const struct bench_plan *plan, json_t *reply, json_t **blobs)
{
	const json_t *array = json_object_get(reply, "items");

	for (size_t i = 0; i < plan->batch; i++) {
		const json_t *item = array ? json_array_get(array, i) : reply;
		blobs[i] = json_object_get(item, "ciphertext");
		if (!json_is_string(blobs[i])) {
			const json_t *error = json_object_get(item, "error");
			say_error("nothing to be unwrapped could be wrapped first: %s",
				error ? string_of(error, "detail")
				      : "the answer has no ciphertext");
			return CTL_FAILED;
		}
	}
	return CTL_OK;
}

/* The bodies of one number: wrap's; what comes of it is unwrap's and rewrap's. */
static int
make_bodies(struct ctl *ctl, struct bench_plan *plan, size_t i)
{
	json_t *values[BENCH_BATCH_MAX];
	_cleanup_(json_freep) json_t *wrap = NULL;
	_cleanup_(json_freep) json_t *reply = NULL;
	_cleanup_(json_freep) json_t *unwrap = NULL;
	bool needs_blobs = plan->weights[BENCH_UNWRAP] + plan->weights[BENCH_REWRAP] > 0;
	int status;

	for (size_t k = 0; k < plan->batch; k++)
		values[k] = json_string(plan->plain[i * plan->batch + k]);
	wrap = make_json(plan, "plaintext", values);
	for (size_t k = 0; k < plan->batch; k++)
		json_decref(values[k]);
	status = add_body(plan, BENCH_WRAP, i, wrap);
	if (status != CTL_OK || (!needs_blobs && (i > 0 || plan->weights[BENCH_WRAP] == 0)))
		return status;
	status = ask(ctl, plan, BENCH_WRAP, wrap, &reply);
	if (status == CTL_OK && needs_blobs)
		status = take_blobs(plan, reply, values);
	if (status != CTL_OK || !needs_blobs)
		return status;
	unwrap = make_json(plan, "ciphertext", values);
	status = add_body(plan, BENCH_UNWRAP, i, unwrap);
	if (status == CTL_OK)
		status = add_body(plan, BENCH_REWRAP, i, unwrap);
	for (enum bench_op op = BENCH_UNWRAP; op < BENCH_OPS && i == 0 && status == CTL_OK; op++)
		if (op != BENCH_GENERATE && plan->weights[op] > 0)
			status = ask(ctl, plan, op, unwrap, NULL);
	return status;
}

static int
make_generate(struct ctl *ctl, struct bench_plan *plan)
{
	json_t *values[BENCH_BATCH_MAX];
	_cleanup_(json_freep) json_t *bytes = json_integer(plan->size);
	_cleanup_(json_freep) json_t *body = NULL;
	int status = CTL_OK;

	for (size_t k = 0; k < plan->batch; k++)
		values[k] = bytes;
	body = make_json(plan, "bytes", values);
	for (size_t i = 0; i < plan->bodies_count && status == CTL_OK; i++)
		status = add_body(plan, BENCH_GENERATE, i, body);
	return status == CTL_OK ? ask(ctl, plan, BENCH_GENERATE, body, NULL) : status;
}

int
bench_plan_make(struct ctl *ctl, struct bench_plan *plan)
{
	int status;

	plan->key = ctl->args.words[0];
	if ((status = ctl_check_name("key", plan->key)) != CTL_OK ||
		(status = take_options(&ctl->args, plan)) != CTL_OK ||
		(status = take_config(ctl, plan)) != CTL_OK)
		return status;
	plan->bodies_count = plan->batch < 8 ? BENCH_BODIES_MAX : 8;
	status = make_plain(plan);
	for (size_t i = 0; i < plan->bodies_count && status == CTL_OK; i++)
		status = make_bodies(ctl, plan, i);
	if (status == CTL_OK && plan->weights[BENCH_GENERATE] > 0)
		status = make_generate(ctl, plan);
	return status;
}

void
bench_plan_free(struct bench_plan *plan)
{
	for (size_t i = 0; plan->plain && i < plan->bodies_count * plan->batch; i++)
		free(plan->plain[i]);
	free(plan->plain);
	for (size_t op = 0; op < BENCH_OPS; op++) {
		for (size_t i = 0; i < BENCH_BODIES_MAX; i++)
			json_text_free(plan->bodies[op][i].text);
		for (size_t i = 0; i < plan->endpoints_count; i++)
			free(plan->endpoints[i].head[op]);
	}
	SSL_CTX_free(plan->tls);
}
