/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The three methods: what is refused without a call to kekd, which key_id an answer carries, and
 * who does the rest. Not here: threads (backend.c), the probe (probe.c), metrics (metrics.c).
 */
#include "parts.h"

#include "announced.h"

#include "kekd/blob.h"
#include "kekd/clock.h"
#include "kekd/json.h"
#include "kekd/log.h"
#include "kekd/str.h"

#include <errno.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- its life ---- */

static void
on_moved(void *user)
{
	struct kms_service *s = user;

	probe_soon(s->probe);
}

static int
parts_open(struct kms_service *s, char ret_error[256])
{
	const struct kms_config *config = s->config;
	const struct backend_parts backend = { config, &s->health, NULL, &s->counts, on_moved, s };
	struct backend_parts parts = backend;
	struct kms_key_id id;
	int err = announced_read(config, &id, ret_error);

	if (err == 0)
		err = records_open(config, &s->health, &s->records, ret_error);
	if (err == 0)
		err = probe_open(
			&(struct probe_parts){ config, &s->health, s->records, &s->counts }, &id,
			&s->probe, ret_error);
	parts.records = s->records;
	if (err == 0)
		err = backend_open(&parts, &s->backend, ret_error);
	return err;
}

int
kms_service_open(
	const struct kms_config *config, struct kms_service **ret_service, char ret_error[256])
{
	struct kms_service *s = calloc(1, sizeof(*s));
	int err;

	if (!s) {
		snprintf(ret_error, 256, "no memory");
		return -ENOMEM;
	}
	json_open();
	s->config = config;
	pthread_mutex_init(&s->lock, NULL);
	err = parts_open(s, ret_error);
	if (err < 0)
		kms_service_freep(&s);
	else
		*ret_service = s;
	return err;
}

void
kms_service_freep(struct kms_service **service)
{
	struct kms_service *s = *service;

	if (!s)
		return;
	if (s->backend)
		backend_stop(s->backend);
	if (s->probe)
		probe_stop(s->probe); /* before the records: it is not kekd that fails now */
	if (s->records)
		records_stop(s->records);
	backend_freep(&s->backend);
	probe_freep(&s->probe);
	records_freep(&s->records);
	pthread_mutex_destroy(&s->lock);
	free(s);
	*service = NULL;
}

/* ---- Status ---- */

bool
kms_service_healthy(struct kms_service *s, char ret_reason[512])
{
	struct probe_state state;
	struct kms_key_id id;

	probe_read(s->probe, &state, &id);
	return probe_is_good(&state, clock_boot_ns(), s->config->probe_every_ns, ret_reason);
}

void
kms_service_status(struct kms_service *s, struct kms_call *c)
{
	const struct counted as = { &s->counts, METHOD_STATUS, clock_boot_ns() };
	struct probe_state state;
	struct kms_key_id id;
	char reason[512];

	pthread_mutex_lock(&s->lock);
	probe_read(s->probe, &state, &id);
	bool good = probe_is_good(&state, as.began_ns, s->config->probe_every_ns, reason);
	if (good)
		s->announced = id;
	pthread_mutex_unlock(&s->lock);
	if (good)
		counted_status(&as, c, id.text);
	else
		counted_error(&as, c, KMS_UNAVAILABLE, "%s", reason);
}

/* ---- Encrypt ---- */

/* The one that Status told last: the API server throws an answer with another key_id away. */
static struct kms_key_id
key_id_of_encrypt(struct kms_service *s)
{
	struct probe_state state;
	struct kms_key_id id;

	pthread_mutex_lock(&s->lock);
	if (s->announced.activation > 0)
		id = s->announced;
	else
		probe_read(s->probe, &state, &id);
	pthread_mutex_unlock(&s->lock);
	return id;
}

void
kms_service_encrypt(
	struct kms_service *s, struct kms_call *c, struct kms_bytes plaintext, struct kms_bytes uid)
{
	const struct counted as = { &s->counts, METHOD_ENCRYPT, clock_boot_ns() };
	struct kms_key_id id = key_id_of_encrypt(s);
	char reason[512];

	(void)uid;
	if (plaintext.len < KMS_SEED_MIN || plaintext.len > KMS_SEED_MAX) {
		counted_error(&as, c, KMS_INVALID_ARGUMENT,
			"Encrypt: the plaintext has %zu bytes: an API server sends %d, and %d to "
			"%d "
			"are taken",
			plaintext.len, KMS_SEED_MIN, KMS_SEED_MIN, KMS_SEED_MAX);
	} else if (id.activation == 0) {
		if (kms_service_healthy(s, reason))
			snprintf(reason, sizeof(reason), "try again");
		counted_error(&as, c, KMS_UNAVAILABLE,
			"Encrypt: no key_id could be announced yet: %s", reason);
	} else {
		backend_encrypt(s->backend, c, plaintext, &id);
	}
}

/* ---- Decrypt ---- */

static bool
is_text(struct kms_bytes bytes, const char *text)
{
	return bytes.len == strlen(text) && memcmp(bytes.data, text, bytes.len) == 0;
}

static const struct kms_annotation *
find(const struct kms_decrypt *r, const char *name)
{
	for (size_t i = 0; i < r->annotations_count; i++)
		if (is_text(r->annotations[i].name, name))
			return &r->annotations[i];
	return NULL;
}

#define SHOWN_MAX 80

/* A peer's bytes, as far as they can stand in a text. */
static const char *
shown(struct kms_bytes value, char ret_text[SHOWN_MAX + 1])
{
	size_t len = value.len < SHOWN_MAX ? value.len : SHOWN_MAX;

	for (size_t i = 0; i < len; i++)
		ret_text[i] = value.data[i] >= ' ' && value.data[i] <= '~' ? (char)value.data[i]
									   : '?';
	ret_text[len] = '\0';
	return ret_text;
}

static bool
check_annotation(
	const struct kms_decrypt *r, const char *name, const char *ours, char ret_error[512])
{
	const struct kms_annotation *a = find(r, name);
	char text[SHOWN_MAX + 1];

	if (a && is_text(a->value, ours))
		return true;
	if (a)
		snprintf(ret_error, 512,
			"annotation %s is \"%s\", and this plugin's configuration says \"%s\": "
			"it was written for another one, and nothing was asked of kekd",
			name, shown(a->value, text), ours);
	else
		snprintf(ret_error, 512,
			"annotation %s is missing: no kekd-kms wrote this, or it was changed",
			name);
	return false;
}

static bool
check_ciphertext(const struct kms_decrypt *r, const struct kms_key_id *id, char ret_error[512])
{
	struct blob blob;

	if (blob_parse(r->ciphertext.data, r->ciphertext.len, &blob) != 0) {
		snprintf(ret_error, 512,
			"the ciphertext is no wrapped blob of kekd's: it was changed");
		return false;
	}
	if (uuid_equal(&blob.version, &id->version))
		return true;
	snprintf(ret_error, 512, "the ciphertext is not of key_id %s: one of the two was changed",
		id->text);
	return false;
}

static bool
check_decrypt(const struct kms_service *s, const struct kms_decrypt *r, struct kms_key_id *ret_id,
	char ret_error[512])
{
	if (kms_key_id_parse(r->key_id.data, r->key_id.len, ret_id) < 0) {
		snprintf(ret_error, 512,
			"the key_id is none of kekd's (UUID, dot, number): another plugin wrote "
			"this, or "
			"it was changed");
		return false;
	}
	return check_annotation(r, "cluster.kms.kekd", s->config->cluster, ret_error) &&
	       check_annotation(r, "provider.kms.kekd", s->config->provider, ret_error) &&
	       check_ciphertext(r, ret_id, ret_error);
}

/* Requests with one digest have one answer: of the annotations the two that count are the
 * configuration's, and no other is looked at. */
static bool
digest_of(const struct kms_decrypt *r, uint8_t ret_digest[SHA256_DIGEST_LENGTH])
{
	_cleanup_(buf_free) struct buf b = BUF_INIT(BLOB_SIZE_MAX + KMS_KEY_ID_TEXT_SIZE + 8);

	buf_block(&b, r->ciphertext.data, r->ciphertext.len);
	buf_block(&b, r->key_id.data, r->key_id.len);
	return !b.bad && SHA256(b.data, b.len, ret_digest);
}

void
kms_service_decrypt(struct kms_service *s, struct kms_call *c, const struct kms_decrypt *request)
{
	const struct counted as = { &s->counts, METHOD_DECRYPT, clock_boot_ns() };
	uint8_t digest[SHA256_DIGEST_LENGTH];
	struct kms_key_id id;
	char error[512];

	if (!check_decrypt(s, request, &id, error)) {
		counted_error(&as, c, KMS_INVALID_ARGUMENT, "Decrypt: %s", error);
		return;
	}
	if (digest_of(request, digest))
		backend_decrypt(s->backend, c, request->ciphertext, &id, digest);
	else
		counted_error(&as, c, KMS_INTERNAL, "Decrypt: no memory");
}

void
kms_service_refuse(struct kms_service *s, struct kms_call *c, enum kms_method method,
	enum kms_status status, const char *text)
{
	const struct counted as = { &s->counts, method, clock_boot_ns() };

	counted_error(&as, c, status, "%s", text);
}
