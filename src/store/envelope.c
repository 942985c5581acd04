/* SPDX-License-Identifier: Apache-2.0 */
/* Envelopes and digests of the sealed store. */
#include "envelope.h"

#include "kekd/buf.h"
#include "kekd/err.h"
#include "kekd/str.h"

#include <errno.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <string.h>

#define ENVELOPE_VERSION 1
#define DIGEST_INPUT_MAX (STORE_BODY_MAX + STORE_PATH_MAX + 64)

static const char record_domain[] = "kekd-seal-1"; /* with its NUL */

static int
envelope_take(json_t *root, struct envelope *e)
{
	char error[JSON_ERROR_SIZE];
	const char *key = NULL, *seal = NULL;
	int64_t commit = 0, version = 0;
	const struct json_member members[] = {
		{ "body", JSON_KIND_OBJECT, true, &e->body },
		{ "commit", JSON_KIND_INTEGER, true, &commit },
		{ "key", JSON_KIND_STRING, true, &key },
		{ "seal", JSON_KIND_STRING, true, &seal },
		{ "v", JSON_KIND_INTEGER, true, &version },
	};

	if (json_take(root, members, STR_COUNT(members), error) < 0 ||
		version != ENVELOPE_VERSION || commit == 0 || uuid_parse(key, &e->key) < 0 ||
		str_unhex(seal, e->seal, SEAL_SIZE) < 0)
		return KEKD_ERECORD;
	e->commit = (uint64_t)commit;
	return 0;
}

int
envelope_parse(const struct store_record *r, struct envelope *ret_envelope)
{
	char error[JSON_ERROR_SIZE];
	struct envelope e = { .root = json_parse(r->body, r->len, error) };

	if (!e.root || envelope_take(e.root, &e) < 0) {
		json_decref(e.root);
		return KEKD_ERECORD;
	}
	*ret_envelope = e;
	return 0;
}

void
envelope_free(struct envelope *e)
{
	json_decref(e->root);
	*e = (struct envelope){ 0 };
}

int
envelope_format(json_t *body, uint64_t commit, const struct uuid *key,
	const uint8_t seal[SEAL_SIZE], char **ret_text, size_t *ret_len)
{
	char key_text[UUID_TEXT_SIZE], hex[2 * SEAL_SIZE + 1] = "";
	json_t *root;
	char *text;
	size_t len = 0;

	uuid_format(key, key_text);
	str_hex(seal, SEAL_SIZE, hex);
	root = json_pack("{s:O,s:I,s:s,s:s,s:i}", "body", body, "commit", (json_int_t)commit, "key",
		key_text, "seal", hex, "v", ENVELOPE_VERSION);
	text = root ? json_canonical(root, &len) : NULL;
	json_decref(root);
	if (!text)
		return -ENOMEM;
	if (len > STORE_BODY_MAX) {
		json_text_free(text);
		return KEKD_ETOOLARGE;
	}
	*ret_text = text;
	*ret_len = len;
	return 0;
}

static int
digest(const char *path, uint64_t commit, const char *text, size_t len,
	uint8_t ret_digest[SEAL_SIZE])
{
	struct buf b = BUF_INIT(DIGEST_INPUT_MAX);
	int err = -ENOMEM;

	buf_put(&b, record_domain, sizeof(record_domain));
	buf_block(&b, path, strlen(path));
	buf_u64(&b, commit);
	buf_block(&b, text, len);
	if (!b.bad) {
		SHA256(b.data, b.len, ret_digest);
		err = 0;
	}
	buf_free(&b);
	return err;
}

int
envelope_digest(
	const char *path, uint64_t commit, const json_t *body, uint8_t ret_digest[SEAL_SIZE])
{
	size_t len = 0;
	char *text = json_canonical(body, &len);
	int err = text ? digest(path, commit, text, len, ret_digest) : -ENOMEM;

	json_text_free(text);
	return err;
}

/* The body's text within the record's, if the rest is byte by byte what envelope_format writes:
 * what is hashed is then what was parsed. */
static bool
find_body(const struct store_record *r, const struct envelope *e, const char **ret_text,
	size_t *ret_len)
{
	static const char head[] = "{\"body\":";
	char key[UUID_TEXT_SIZE], seal[2 * SEAL_SIZE + 1] = "", tail[256];
	size_t head_len = sizeof(head) - 1, tail_len;

	uuid_format(&e->key, key);
	str_hex(e->seal, SEAL_SIZE, seal);
	tail_len = (size_t)snprintf(tail, sizeof(tail),
		",\"commit\":%llu,\"key\":\"%s\",\"seal\":\"%s\",\"v\":%d}",
		(unsigned long long)e->commit, key, seal, ENVELOPE_VERSION);
	if (r->len < head_len + tail_len || memcmp(r->body, head, head_len) != 0 ||
		memcmp(r->body + r->len - tail_len, tail, tail_len) != 0)
		return false;
	*ret_text = r->body + head_len;
	*ret_len = r->len - head_len - tail_len;
	return true;
}

bool
envelope_text_digest(
	const struct store_record *r, const struct envelope *e, uint8_t ret_digest[SEAL_SIZE])
{
	const char *text;
	size_t len;

	return find_body(r, e, &text, &len) &&
	       digest(r->path, e->commit, text, len, ret_digest) == 0;
}

json_t *
commit_body(uint64_t number, const uint8_t state[SEAL_SIZE])
{
	char hex[2 * SEAL_SIZE + 1] = "";

	str_hex(state, SEAL_SIZE, hex);
	return json_pack("{s:I,s:s}", "number", (json_int_t)number, "state", hex);
}

int
commit_parse(const json_t *body, uint64_t *ret_number, uint8_t ret_state[SEAL_SIZE])
{
	char error[JSON_ERROR_SIZE];
	const char *state = NULL;
	int64_t number = 0;
	const struct json_member members[] = {
		{ "number", JSON_KIND_INTEGER, true, &number },
		{ "state", JSON_KIND_STRING, true, &state },
	};

	if (json_take(body, members, STR_COUNT(members), error) < 0 ||
		str_unhex(state, ret_state, SEAL_SIZE) < 0)
		return KEKD_ERECORD;
	*ret_number = (uint64_t)number;
	return 0;
}
