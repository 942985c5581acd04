/* SPDX-License-Identifier: Apache-2.0 */
/* The bytes of a backup: reading it strictly, what its seal and signature are made over. */
#include "kekd/backup.h"

#include "kekd/buf.h"
#include "kekd/clock.h"
#include "kekd/err.h"
#include "kekd/signature.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

/* ---- the digest ---- */

int
backup_digest_of(const char *domain, const json_t *object, uint8_t ret_digest[BACKUP_DIGEST_SIZE])
{
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	size_t len = 0;
	char *text = json_canonical(object, &len);
	uint8_t length[4];
	bool ok = false;

	for (size_t i = 0; i < sizeof(length); i++)
		length[i] = (uint8_t)(len >> (24 - 8 * i));
	if (ctx && text)
		ok = EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) == 1 &&
		     EVP_DigestUpdate(ctx, domain, strlen(domain) + 1) == 1 &&
		     EVP_DigestUpdate(ctx, length, sizeof(length)) == 1 &&
		     EVP_DigestUpdate(ctx, text, len) == 1 &&
		     EVP_DigestFinal_ex(ctx, ret_digest, NULL) == 1;
	json_text_free(text);
	EVP_MD_CTX_free(ctx);
	return ok ? 0 : -ENOMEM;
}

int
backup_digest(const json_t *document, uint8_t ret_digest[BACKUP_DIGEST_SIZE])
{
	json_t *bare = json_copy((json_t *)document);
	int err = -ENOMEM;

	if (bare) {
		json_object_del(bare, "seal");
		json_object_del(bare, "signature");
		err = backup_digest_of("kekd-backup-1", bare, ret_digest);
	}
	json_decref(bare);
	return err;
}

/* ---- reading ---- */

static int
read_seal(json_t *o, struct backup *b, char ret_error[JSON_ERROR_SIZE])
{
	const char *key, *hmac;
	const struct json_member members[] = {
		{ "key", JSON_KIND_STRING, true, &key },
		{ "hmac", JSON_KIND_STRING, true, &hmac },
	};

	if (json_take_record(o, members, STR_COUNT(members), ret_error) < 0)
		return KEKD_EINVALID;
	if (uuid_parse(key, &b->seal_key) < 0 || str_unhex(hmac, b->seal, sizeof(b->seal)) < 0)
		return json_refuse(ret_error, "\"seal\" is not a key's UUID and 64 hex digits");
	return 0;
}

static int
read_signature(json_t *o, struct backup *b, char ret_error[JSON_ERROR_SIZE])
{
	const char *key, *value;
	const struct json_member members[] = {
		{ "key", JSON_KIND_STRING, true, &key },
		{ "value", JSON_KIND_STRING, true, &value },
	};
	size_t len = 0;

	if (json_take_record(o, members, STR_COUNT(members), ret_error) < 0)
		return KEKD_EINVALID;
	if (str_unbase64(key, strlen(key), b->key, sizeof(b->key), &b->key_len) < 0 ||
		str_unbase64(value, strlen(value), b->signature, sizeof(b->signature), &len) < 0 ||
		len != sizeof(b->signature))
		return json_refuse(ret_error, "\"signature\" is not a public key and 64 bytes");
	b->is_signed = true;
	return 0;
}

static int
read_audit(json_t *o, struct backup *b, char ret_error[JSON_ERROR_SIZE])
{
	int64_t sequence;
	const struct json_member members[] = {
		{ "sequence", JSON_KIND_INTEGER, true, &sequence },
		{ "head", JSON_KIND_STRING, true, &b->audit.head },
	};
	uint8_t head[32];

	if (json_take_record(o, members, STR_COUNT(members), ret_error) < 0)
		return KEKD_EINVALID;
	if (str_unhex(b->audit.head, head, sizeof(head)) < 0)
		return json_refuse(ret_error, "\"audit\" has no hash of 64 hex digits");
	b->audit.sequence = (uint64_t)sequence;
	return 0;
}

static int
read_record(const json_t *o, const char **path, char ret_error[JSON_ERROR_SIZE])
{
	const char *before = *path;
	int64_t commit;
	json_t *body;
	const struct json_member members[] = {
		{ "path", JSON_KIND_STRING, true, path },
		{ "commit", JSON_KIND_INTEGER, true, &commit },
		{ "body", JSON_KIND_OBJECT, true, &body },
	};

	if (json_take_record(o, members, STR_COUNT(members), ret_error) < 0)
		return KEKD_EINVALID;
	if (before && strcmp(before, *path) >= 0)
		return json_refuse(ret_error, "\"records\" is not sorted by path");
	return 0;
}

static int
read_records(struct backup *b, char ret_error[JSON_ERROR_SIZE])
{
	const char *path = NULL;
	const json_t *o;
	size_t i;

	json_array_foreach(b->records, i, o)
		if (read_record(o, &path, ret_error) < 0)
			return KEKD_EINVALID;
	return 0;
}

static int
read_document(struct backup *b, char ret_error[JSON_ERROR_SIZE])
{
	json_t *audit, *seal, *signature = NULL;
	int64_t format, revision;
	struct uuid generation;
	const struct json_member members[] = {
		{ "kekd_backup", JSON_KIND_INTEGER, true, &format },
		{ "cluster", JSON_KIND_STRING, true, &b->cluster },
		{ "generation", JSON_KIND_STRING, true, &b->generation },
		{ "node", JSON_KIND_STRING, true, &b->node },
		{ "created", JSON_KIND_STRING, true, &b->created },
		{ "version", JSON_KIND_STRING, true, &b->version },
		{ "revision", JSON_KIND_INTEGER, true, &revision },
		{ "audit", JSON_KIND_OBJECT, true, &audit },
		{ "records", JSON_KIND_ARRAY, true, &b->records },
		{ "seal", JSON_KIND_OBJECT, true, &seal },
		{ "signature", JSON_KIND_OBJECT, false, &signature },
	};

	if (json_take_record(b->document, members, STR_COUNT(members), ret_error) < 0)
		return KEKD_EINVALID;
	if (format != BACKUP_FORMAT)
		return json_refuse(ret_error, "it is of a format that this release does not know");
	if (!str_is_name(b->cluster) || !str_is_name(b->node) ||
		uuid_parse(b->generation, &generation) < 0 ||
		clock_parse(b->created, &b->created_us) < 0)
		return json_refuse(ret_error,
			"\"cluster\", \"node\", \"generation\" or \"created\" is not as kekd "
			"writes them");
	b->revision = (uint64_t)revision;
	if (read_audit(audit, b, ret_error) < 0 || read_seal(seal, b, ret_error) < 0 ||
		(signature && read_signature(signature, b, ret_error) < 0))
		return KEKD_EINVALID;
	return read_records(b, ret_error);
}

int
backup_parse(
	const char *text, size_t len, struct backup *ret_backup, char ret_error[JSON_ERROR_SIZE])
{
	struct backup b = { .document = json_parse(text, len, ret_error) };
	int err = b.document ? read_document(&b, ret_error) : KEKD_EINVALID;

	if (err == 0 && backup_digest(b.document, b.digest) < 0)
		err = json_refuse(ret_error, "no memory");
	if (err < 0) {
		backup_free(&b);
		return KEKD_EINVALID;
	}
	*ret_backup = b;
	return 0;
}

void
backup_free(struct backup *b)
{
	json_decref(b->document);
	*b = (struct backup){ 0 };
}

size_t
backup_count(const struct backup *b, const char *prefix)
{
	size_t i, count = 0, len = strlen(prefix);
	const json_t *o;

	json_array_foreach(b->records, i, o)
		count += strncmp(json_string_value(json_object_get(o, "path")), prefix, len) == 0;
	return count;
}

/* ---- writing ---- */

static json_t *
base64_json(const uint8_t *data, size_t len)
{
	_cleanup_(buf_free) struct buf b = BUF_INIT(1024);

	str_base64(&b, data, len);
	return b.bad ? NULL : json_stringn((const char *)b.data, b.len);
}

int
backup_add_seal(json_t *document, const char *key_id, const uint8_t seal[BACKUP_DIGEST_SIZE])
{
	char hex[2 * BACKUP_DIGEST_SIZE];

	str_hex(seal, BACKUP_DIGEST_SIZE, hex);
	return json_object_set_new(document, "seal",
		       json_pack("{s:s, s:o}", "key", key_id, "hmac",
			       json_stringn(hex, sizeof(hex)))) < 0
		       ? -ENOMEM
		       : 0;
}

int
backup_add_signature(json_t *document, const uint8_t *key, size_t key_len,
	const uint8_t signature[BACKUP_SIGNATURE_SIZE])
{
	return json_object_set_new(document, "signature",
		       json_pack("{s:o, s:o}", "key", base64_json(key, key_len), "value",
			       base64_json(signature, BACKUP_SIGNATURE_SIZE))) < 0
		       ? -ENOMEM
		       : 0;
}

/* ---- the signature ---- */

int
backup_check_signature(const uint8_t *key, size_t key_len, const uint8_t digest[BACKUP_DIGEST_SIZE],
	const uint8_t signature[BACKUP_SIGNATURE_SIZE])
{
	return signature_ok(key, key_len, digest, signature) ? 0 : KEKD_EINVALID;
}
