/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A value of Kubernetes': what its first bytes say of its encryption, and of KMS v2 the
 * EncryptedObject behind them: encryptedData 1, keyID 2, encryptedDEKSource 3, annotations 4. What
 * is encrypted is not read.
 */
#include "snapshot.h"

#include "kekd/blob.h"

#include <errno.h>
#include <openssl/sha.h>
#include <string.h>

#define HEAD 512 /* the longest prefix is shorter */

static const struct {
	const char *prefix, *name; /* the provider's name follows, and a colon */
} kinds[VALUE_KINDS] = {
	[VALUE_PLAINTEXT] = { NULL, "plaintext" },
	[VALUE_AESCBC] = { "aescbc:v1:", "aescbc" },
	[VALUE_AESGCM] = { "aesgcm:v1:", "aesgcm" },
	[VALUE_SECRETBOX] = { "secretbox:v1:", "secretbox" },
	[VALUE_KMS_V1] = { "kms:v1:", "kms-v1" },
	[VALUE_KMS_V2] = { "kms:v2:", "kms-v2" },
	[VALUE_UNKNOWN] = { NULL, "unknown" },
};

const char *
value_kind_name(enum value_kind k)
{
	return kinds[k].name;
}

/* ---- texts ---- */

/* What is shown and sent is text: printable ASCII, as all of it is that Kubernetes and kekd write.
 * Too long, or another byte: false. */
static bool
take_text(struct bolt *b, struct bolt_slice s, char *ret_text, size_t size, int *err)
{
	bool good = s.size < size;
	size_t n = good ? (size_t)s.size : size - 1;

	*err = bolt_read(b, s, 0, ret_text, n);
	ret_text[*err == 0 ? n : 0] = '\0';
	for (size_t i = 0; i < n && ret_text[i]; i++)
		if (ret_text[i] < '!' || ret_text[i] > '~') {
			ret_text[i] = '?';
			good = false;
		}
	return good && strlen(ret_text) == n;
}

static void
take_number(const char *text, unsigned *ret_number)
{
	char *end;
	unsigned long n = strtoul(text, &end, 10);

	if (*text >= '1' && *text <= '9' && !*end && n <= 1000000000)
		*ret_number = (unsigned)n;
}

/* ---- the EncryptedObject ---- */

static bool
is_named(struct bolt *b, struct bolt_slice name, const char *wanted, int *err)
{
	char text[32];

	if (name.size != strlen(wanted) || name.size >= sizeof(text))
		return false;
	*err = bolt_read(b, name, 0, text, (size_t)name.size);
	return *err == 0 && memcmp(text, wanted, (size_t)name.size) == 0;
}

static int
take_annotation(struct bolt *b, struct bolt_slice name, struct bolt_slice text, struct value *v)
{
	char number[16] = "";
	const struct {
		const char *name;
		char *room;
		size_t size;
	} ours[] = {
		{ "cluster.kms.kekd", v->cluster, sizeof(v->cluster) },
		{ "provider.kms.kekd", v->provider_name, sizeof(v->provider_name) },
		{ "key.kms.kekd", v->key, sizeof(v->key) },
		{ "version.kms.kekd", number, sizeof(number) },
	};
	int err = 0;

	for (size_t i = 0; err == 0 && i < STR_COUNT(ours); i++)
		if (is_named(b, name, ours[i].name, &err) &&
			!take_text(b, text, ours[i].room, ours[i].size, &err))
			ours[i].room[0] = '\0';
	take_number(number, &v->number);
	return err;
}

/* An entry of map<string, bytes>. */
static int
read_annotation(struct bolt *b, struct bolt_slice s, struct value *v)
{
	struct wire w = { .bolt = b, .s = s };
	struct bolt_slice name = { s.offset, 0 }, text = { s.offset, 0 };
	struct wire_field f;
	int more;

	while ((more = wire_next(&w, &f)) > 0) {
		if (f.number == 1 && f.is_bytes)
			name = f.bytes;
		if (f.number == 2 && f.is_bytes)
			text = f.bytes;
	}
	return more < 0 ? more : take_annotation(b, name, text, v);
}

static int
read_object(struct bolt *b, struct bolt_slice s, struct value *v, bool *ret_whole)
{
	struct wire w = { .bolt = b, .s = s };
	bool data = false, key_id = false;
	struct wire_field f;
	int more, err = 0;

	while (err == 0 && (more = wire_next(&w, &f)) > 0) {
		if (!f.is_bytes)
			continue;
		data |= f.number == 1;
		if (f.number == 2)
			key_id = take_text(b, f.bytes, v->key_id, sizeof(v->key_id), &err);
		if (f.number == 3)
			v->seed = f.bytes;
		if (f.number == 4)
			err = read_annotation(b, f.bytes, v);
	}
	*ret_whole = data && key_id;
	return err != 0 ? err : more;
}

/* kekd wraps under a version, which is the first part of its key_id as well. */
static void
take_version(struct value *v, const uint8_t *seed, size_t len)
{
	char id[UUID_TEXT_SIZE];
	struct blob blob;

	if (blob_parse(seed, len, &blob) != 0) {
		v->understood &= !*v->cluster;
		return;
	}
	v->kekd = true;
	v->version = blob.version;
	uuid_format(&blob.version, id);
	v->understood &= strncmp(v->key_id, id, UUID_TEXT_SIZE - 1) == 0 &&
			 v->key_id[UUID_TEXT_SIZE - 1] == '.';
}

static int
read_seed(struct bolt *b, struct value *v)
{
	uint8_t seed[VALUE_SOURCE_MAX];
	int err;

	if (v->seed.size == 0 || v->seed.size > sizeof(seed)) {
		v->seed.size = 0;
		v->understood = false;
		return 0;
	}
	err = bolt_read(b, v->seed, 0, seed, (size_t)v->seed.size);
	if (err != 0)
		return err;
	SHA256(seed, (size_t)v->seed.size, v->seed_sha256);
	take_version(v, seed, (size_t)v->seed.size);
	return 0;
}

/* What is no protobuf there is for one value to be told of, no damage of the file. */
static int
read_kms(struct bolt *b, struct bolt_slice s, struct value *v)
{
	bool whole = false;
	int err = read_object(b, s, v, &whole);

	if (err != 0 && err != -EBADMSG)
		return err;
	v->understood = err == 0 && whole;
	return v->understood ? read_seed(b, v) : 0;
}

/* ---- the whole ---- */

/* Behind "k8s:enc:"; how long prefix and name are with their colon. 0: no known one. */
static size_t
take_prefix(const char *head, struct value *v)
{
	for (enum value_kind k = VALUE_AESCBC; k < VALUE_UNKNOWN; k++) {
		size_t len = strlen(kinds[k].prefix), name;
		if (strncmp(head, kinds[k].prefix, len) != 0)
			continue;
		name = strcspn(head + len, ":");
		if (head[len + name] != ':' || name == 0 || name > VALUE_TEXT_MAX)
			return 0;
		v->kind = k;
		memcpy(v->provider, head + len, name);
		v->provider[name] = '\0';
		for (char *p = v->provider; *p; p++)
			if (*p < '!' || *p > '~')
				*p = '?';
		return len + name + 1;
	}
	return 0;
}

int
value_read(struct bolt *b, struct bolt_slice s, struct value *ret_value)
{
	static const char enc[] = "k8s:enc:";
	struct value *v = ret_value;
	char head[HEAD + 1] = "";
	size_t n = s.size < HEAD ? (size_t)s.size : HEAD, len;
	int err = bolt_read(b, s, 0, head, n);

	memset(v, 0, sizeof(*v));
	if (err != 0)
		return err;
	v->understood = true;
	if (strncmp(head, enc, strlen(enc)) != 0)
		return 0;
	v->kind = VALUE_UNKNOWN;
	len = take_prefix(head + strlen(enc), v);
	v->understood = len > 0;
	if (v->kind != VALUE_KMS_V2 || !v->understood)
		return 0;
	len += strlen(enc);
	return read_kms(b, (struct bolt_slice){ s.offset + len, s.size - len }, v);
}
