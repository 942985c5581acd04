/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests to kekd: bodies, and what answers mean. Not here: which endpoint is asked
 * (libkekdclient), and when (backend.c, records.c, probe.c).
 */
#include "ask.h"

#include "kekd/blob.h"
#include "kekd/clock.h"
#include "kekd/json.h"
#include "kekd/log.h"
#include "kekd/secret.h"
#include "kekd/str.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define CONNECT_MS 500 /* while there is another endpoint: two of them in an API server's 3 s */
#define REFUSED_MS 20  /* what is left when a time-out counts as the caller's own */
#define PATH_SIZE 256

static struct kekd_client_config
client_config(const struct kms_config *config, struct kekd_health *health)
{
	return (struct kekd_client_config){
		.endpoints = (const char *const *)config->endpoints,
		.endpoints_count = config->endpoints_count,
		.ca = config->ca,
		.certificate = config->certificate,
		.key = config->certificate_key,
		.timeout_ms = (unsigned)(config->timeout_ns / CLOCK_MS),
		.connect_ms = CONNECT_MS,
		.reload = true,
		.health = health,
	};
}

int
ask_client_open(const struct kms_config *config, struct kekd_health *health,
	struct kekd_client **ret_client, char ret_error[256])
{
	const struct kekd_client_config client = client_config(config, health);

	return kekd_client_open(&client, ret_client, ret_error);
}

static void
on_reloaded(void *user, const char *fault)
{
	const struct kms_config *config = user;

	if (fault)
		log_warning("%s, or another file of the client certificate, has changed and is not "
			    "taken: %s. The one before stays in use",
			config->certificate, fault);
	else
		log_info("the client certificate has changed, and is in use: %s",
			config->certificate);
}

int
ask_client_open_first(const struct kms_config *config, struct kekd_health *health,
	struct kekd_client **ret_client, char ret_error[256])
{
	struct kekd_client_config client = client_config(config, health);

	client.reloaded = on_reloaded;
	client.user = (void *)(uintptr_t)config;
	return kekd_client_open(&client, ret_client, ret_error);
}

/* ---- what it means ---- */

static const struct meaning {
	const char *code;
	enum kms_status status;
} meanings[] = {
	{ "unwrap_failed", KMS_INVALID_ARGUMENT },
	{ "key_not_found", KMS_NOT_FOUND },
	{ "version_not_found", KMS_NOT_FOUND },
	{ "identity_denied", KMS_PERMISSION_DENIED },
	{ "unknown_client", KMS_PERMISSION_DENIED },
	{ "address_not_allowed", KMS_PERMISSION_DENIED },
	{ "forbidden", KMS_PERMISSION_DENIED },
	{ "invalid_state", KMS_FAILED_PRECONDITION },
	{ "frozen", KMS_FAILED_PRECONDITION },
	{ "confirm_required", KMS_FAILED_PRECONDITION },
	{ "version_destroyed", KMS_FAILED_PRECONDITION },
	{ "version_not_enabled", KMS_FAILED_PRECONDITION },
	{ "version_not_primary", KMS_FAILED_PRECONDITION },
	{ "version_unproven", KMS_FAILED_PRECONDITION },
	{ "member_unproven", KMS_FAILED_PRECONDITION },
	{ "nonce_budget_exhausted", KMS_FAILED_PRECONDITION },
	{ "rate_limited", KMS_RESOURCE_EXHAUSTED },
};

enum kms_status
ask_status_of(const char *code, int http_status)
{
	for (size_t i = 0; i < STR_COUNT(meanings); i++)
		if (strcmp(meanings[i].code, code) == 0)
			return meanings[i].status;
	if (http_status == 401)
		return KMS_UNAUTHENTICATED;
	if (http_status == 403)
		return KMS_PERMISSION_DENIED;
	return http_status == 503 ? KMS_UNAVAILABLE : KMS_INTERNAL;
}

void
ask_answer_free(struct ask_answer *a)
{
	buf_free(&a->bytes);
}

void
ask_fail(struct ask_answer *a, enum kms_status status, const char *format, ...)
{
	va_list ap;

	a->status = status;
	va_start(ap, format);
	vsnprintf(a->text, sizeof(a->text), format, ap);
	va_end(ap);
}

static void
fail_unanswered(struct ask_answer *a, int err, const struct kekd_ask *ask, const char *what,
	const char *error)
{
	bool late = err == -ETIMEDOUT &&
		    clock_boot_ns() + REFUSED_MS * CLOCK_MS >= ask->deadline_ns;

	a->away = err != -EINVAL && err != -ENOMEM;
	ask_fail(a, late ? KMS_DEADLINE_EXCEEDED : KMS_UNAVAILABLE, "%s: no kekd answered: %.500s",
		what, error);
	if (err == -ECANCELED)
		ask_fail(a, KMS_CANCELLED, "%s: given up, as nobody waits for it", what);
}

/* What a node says, too, to whom the others' last change has not come yet. */
static const char *const lagging[] = { "version_not_found", "version_not_primary",
	"version_unproven", "unwrap_failed", NULL };

/* The record is not the one that was announced. */
static const char *const moved_on[] = { "key_not_found", "version_not_found", "version_not_primary",
	"version_not_enabled", NULL };

static bool
is_one_of(const char *const codes[], const char *code)
{
	for (size_t i = 0; codes[i]; i++)
		if (strcmp(codes[i], code) == 0)
			return true;
	return false;
}

static void
fail_refused(struct ask_answer *a, const struct kekd_reply *r, const char *what)
{
	a->away = r->status == 503 || is_one_of(lagging, r->code);
	a->moved = is_one_of(moved_on, r->code);
	snprintf(a->code, sizeof(a->code), "%s", r->code);
	ask_fail(a, ask_status_of(r->code, r->status), "%s: kekd refuses: %s (%s), request_id %s",
		what, r->detail, r->code[0] ? r->code : "not a problem document of kekd's",
		r->request_id);
}

/* ---- asking ---- */

struct question {
	const char *method, *operation; /* the path's last part, with its slash */
	const char *what;		/* for people */
	const json_t *body;
};

static bool
ask_kekd(struct kekd_client *c, const struct kms_config *config, const struct question *q,
	struct kekd_ask *ask, struct kekd_reply *ret_reply, struct ask_answer *a)
{
	char path[PATH_SIZE], error[512] = "";
	int err;

	ask->elsewhere = lagging;
	snprintf(path, sizeof(path), "/v1/keys/%.64s%s", config->key, q->operation);
	err = kekd_client_ask(c, q->method, path, q->body, ask, ret_reply, error);
	if (err < 0) {
		fail_unanswered(a, err, ask, q->what, error);
		return false;
	}
	a->passed_over = ask->passed_over;
	snprintf(a->request_id, sizeof(a->request_id), "%s", ret_reply->request_id);
	if (ret_reply->status == 200 && ret_reply->json)
		return true;
	fail_refused(a, ret_reply, q->what);
	return false;
}

/* The AAD context: what was wrapped for one cluster and provider is unwrapped for no other. */
static int
add_item(json_t *body, const struct kms_config *config, const char *member, struct kms_bytes bytes)
{
	struct buf text = BUF_INIT(STR_BASE64_SIZE(BLOB_SIZE_MAX));
	int err = -ENOMEM;

	str_base64(&text, bytes.data, bytes.len);
	if (!text.bad &&
		json_object_set_new(
			body, member, json_stringn((const char *)text.data, text.len)) == 0 &&
		json_object_set_new(body, "context",
			json_pack("{s:s,s:s}", "kubernetes-cluster", config->cluster, "provider",
				config->provider)) == 0)
		err = 0;
	buf_free(&text);
	return err;
}

static bool
take_bytes(const struct kekd_reply *r, const char *member, size_t max, struct ask_answer *a)
{
	const char *text = json_string_value(json_object_get(r->json, member));
	uint8_t bytes[BLOB_SIZE_MAX];
	size_t len = 0;
	bool good = text && str_unbase64(text, strlen(text), bytes, sizeof(bytes), &len) == 0;

	if (good && len <= max)
		buf_put(&a->bytes, bytes, len);
	secret_wipe(bytes, sizeof(bytes));
	return good && len <= max && !a->bytes.bad;
}

static struct ask_answer
answer_new(void)
{
	return (struct ask_answer){ .status = KMS_OK, .bytes = BUF_INIT(BLOB_SIZE_MAX) };
}

static bool
is_of_version(const struct ask_answer *a, const struct kms_key_id *id)
{
	struct blob blob;

	return blob_parse(a->bytes.data, a->bytes.len, &blob) == 0 &&
	       uuid_equal(&blob.version, &id->version);
}

void
ask_wrap(struct kekd_client *c, const struct kms_config *config, const struct kms_key_id *id,
	struct kms_bytes plaintext, struct kekd_ask *ask, struct ask_answer *ret_answer)
{
	_cleanup_(kekd_reply_free) struct kekd_reply reply = { 0 };
	struct ask_answer a = answer_new();
	char version[UUID_TEXT_SIZE];
	_cleanup_(json_freep) json_t *body = NULL;
	struct question q = { "POST", "/wrap", "Encrypt", NULL };

	uuid_format(&id->version, version);
	body = json_pack("{s:s}", "version_id", version);
	q.body = body;
	if (!body || add_item(body, config, "plaintext", plaintext) < 0)
		ask_fail(&a, KMS_INTERNAL, "no memory");
	else if (ask_kekd(c, config, &q, ask, &reply, &a)) {
		a.version = (unsigned)json_integer_value(json_object_get(reply.json, "version"));
		if (!take_bytes(&reply, "ciphertext", KMS_CIPHERTEXT_MAX, &a) ||
			!is_of_version(&a, id))
			ask_fail(&a, KMS_INTERNAL,
				"Encrypt: what kekd answered is no blob of %s: is it kekd at the "
				"endpoint? request_id %s",
				id->text, a.request_id);
	}
	*ret_answer = a;
}

void
ask_unwrap(struct kekd_client *c, const struct kms_config *config, struct kms_bytes ciphertext,
	struct kekd_ask *ask, struct ask_answer *ret_answer)
{
	_cleanup_(kekd_reply_free) struct kekd_reply reply = { 0 };
	struct ask_answer a = answer_new();
	_cleanup_(json_freep) json_t *body = json_object();
	struct question q = { "POST", "/unwrap", "Decrypt", body };

	if (!body || add_item(body, config, "ciphertext", ciphertext) < 0)
		ask_fail(&a, KMS_INTERNAL, "no memory");
	else if (ask_kekd(c, config, &q, ask, &reply, &a)) {
		a.version = (unsigned)json_integer_value(json_object_get(reply.json, "version"));
		if (!take_bytes(&reply, "plaintext", BLOB_PLAINTEXT_MAX, &a))
			ask_fail(&a, KMS_INTERNAL,
				"Decrypt: kekd's answer holds no plaintext: is it kekd at the "
				"endpoint?");
		else if (a.bytes.len < KMS_SEED_MIN)
			ask_fail(&a, KMS_FAILED_PRECONDITION,
				"Decrypt: what was wrapped has %zu bytes, and an API server needs "
				"%d: it was not wrapped for one. request_id %s",
				a.bytes.len, KMS_SEED_MIN, a.request_id);
	}
	*ret_answer = a;
}

/* ---- the key's record ---- */

void
key_record_free(struct key_record *r)
{
	free(r->versions);
	*r = (struct key_record){ 0 };
}

static bool
take_versions(const json_t *versions, struct key_record *r)
{
	size_t i;
	json_t *version;

	r->versions = calloc(json_array_size(versions) + 1, sizeof(*r->versions));
	if (!r->versions)
		return false;
	json_array_foreach(versions, i, version) {
		const char *id = json_string_value(json_object_get(version, "id"));
		if (!id || uuid_parse(id, &r->versions[r->count++]) < 0)
			return false;
	}
	return true;
}

static bool
take_record(const json_t *value, struct key_record *r)
{
	const char *id = json_string_value(json_object_get(value, "kms_key_id"));

	return id && kms_key_id_parse(id, strlen(id), &r->id) == 0 &&
	       take_versions(json_object_get(value, "versions"), r);
}

bool
ask_record(struct kekd_client *c, const struct kms_config *config, struct kekd_ask *ask,
	struct key_record *ret_record, struct ask_answer *ret_answer)
{
	_cleanup_(kekd_reply_free) struct kekd_reply reply = { 0 };
	struct ask_answer a = answer_new();
	struct key_record r = { 0 };
	const struct question q = { "GET", "", "reading the key", NULL };
	bool good = ask_kekd(c, config, &q, ask, &reply, &a);

	if (good && !take_record(reply.json, &r)) {
		key_record_free(&r);
		good = false;
		ask_fail(&a, KMS_FAILED_PRECONDITION,
			"key %.64s has no primary version: kekctl key show %.64s tells",
			config->key, config->key);
	}
	if (good)
		*ret_record = r;
	*ret_answer = a;
	return good;
}
