/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The canary: a random nonce wrapped under a new version. Whoever unwraps it to the recorded
 * SHA-256 has the same key in its token. Not a key check value, which would tell of the key itself.
 */
#include "kekd/err.h"
#include "kekd/lifecycle.h"

#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <openssl/sha.h>
#include <string.h>

#define CANARY_AAD_MAX 128

/* The header, then the context {"kekd":"canary","version":UUID} in its canonical form. */
static int
put_aad(struct buf *aad, const struct uuid *version, uint8_t iv_len)
{
	_cleanup_(json_freep) json_t *context = NULL;
	char text[UUID_TEXT_SIZE];

	uuid_format(version, text);
	context = json_pack("{s:s, s:s}", "kekd", "canary", "version", text);
	blob_put_header(aad, version, BLOB_AES256_GCM, iv_len);
	if (!context || blob_put_context(aad, context) < 0 || aad->bad)
		return KEKD_EINTERNAL;
	return 0;
}

static int
call(struct hsm *hsm, struct hsm_op *op)
{
	int err = hsm_call(hsm, op, 1);

	return err < 0 ? err : op->err;
}

/* Wraps nonce; *ret_len bytes of a whole blob in ret_blob. */
static int
wrap(struct hsm *hsm, unsigned token, const struct key_version *v,
	const uint8_t nonce[CANARY_NONCE_SIZE], uint8_t ret_blob[CANARY_SIZE_MAX], size_t *ret_len)
{
	_cleanup_(buf_free) struct buf aad = BUF_INIT(CANARY_AAD_MAX);
	_cleanup_(buf_free) struct buf blob = BUF_INIT(CANARY_SIZE_MAX);
	uint8_t iv_len = hsm_token_iv_len(hsm, token);
	uint8_t out[CANARY_NONCE_SIZE + BLOB_TAG_SIZE];
	struct hsm_op op = { .kind = HSM_OP_WRAP, .token = token, .object = v->object_id };
	int err = put_aad(&aad, &v->id, iv_len);

	if (err < 0)
		return err;
	op.aad = aad.data;
	op.aad_len = (uint32_t)aad.len;
	op.in = nonce;
	op.in_len = CANARY_NONCE_SIZE;
	op.out = out;
	op.out_cap = sizeof(out);
	err = call(hsm, &op);
	if (err < 0)
		return err;
	if (op.out_len != sizeof(out) || op.iv_len != iv_len)
		return KEKD_EHSM;
	blob_put_header(&blob, &v->id, BLOB_AES256_GCM, op.iv_len);
	buf_put(&blob, op.iv, op.iv_len);
	buf_put(&blob, out, op.out_len);
	if (blob.bad)
		return KEKD_EINTERNAL;
	memcpy(ret_blob, blob.data, blob.len);
	*ret_len = blob.len;
	return 0;
}

/* KEKD_EUNPROVEN when the blob is none of this version's, or does not unwrap to a nonce. */
static int
unwrap(struct hsm *hsm, unsigned token, const struct key_version *v, const uint8_t *data,
	size_t len, uint8_t ret_nonce[CANARY_NONCE_SIZE])
{
	_cleanup_(buf_free) struct buf aad = BUF_INIT(CANARY_AAD_MAX);
	struct hsm_op op = { .kind = HSM_OP_UNWRAP, .token = token, .object = v->object_id };
	uint8_t nonce[CANARY_NONCE_SIZE];
	struct blob blob;
	int err;

	if (blob_parse(data, len, &blob) < 0 || !uuid_equal(&blob.version, &v->id))
		return KEKD_EUNPROVEN;
	err = put_aad(&aad, &v->id, blob.iv_len);
	if (err < 0)
		return err;
	memcpy(op.iv, blob.iv, blob.iv_len);
	op.iv_len = blob.iv_len;
	op.aad = aad.data;
	op.aad_len = (uint32_t)aad.len;
	op.in = blob.ciphertext;
	op.in_len = (uint32_t)blob.ciphertext_len;
	op.out = nonce;
	op.out_cap = sizeof(nonce);
	err = call(hsm, &op);
	if (err == KEKD_EUNWRAP || (err == 0 && op.out_len != sizeof(nonce)))
		err = KEKD_EUNPROVEN;
	if (err == 0)
		memcpy(ret_nonce, nonce, sizeof(nonce));
	return err;
}

int
canary_make(struct hsm *hsm, unsigned token, struct key_version *v)
{
	uint8_t nonce[CANARY_NONCE_SIZE], blob[CANARY_SIZE_MAX];
	size_t len;
	int err;

	if (RAND_bytes(nonce, sizeof(nonce)) != 1)
		return KEKD_EINTERNAL;
	err = wrap(hsm, token, v, nonce, blob, &len);
	if (err < 0)
		return err;
	memcpy(v->canary, blob, len);
	v->canary_len = len;
	SHA256(nonce, sizeof(nonce), v->canary_sha256);
	return 0;
}

int
canary_prove(struct hsm *hsm, unsigned token, const struct key_version *v)
{
	uint8_t nonce[CANARY_NONCE_SIZE], again[CANARY_NONCE_SIZE], sha256[32];
	uint8_t blob[CANARY_SIZE_MAX];
	size_t len;
	int err;

	err = unwrap(hsm, token, v, v->canary, v->canary_len, nonce);
	if (err < 0)
		return err;
	SHA256(nonce, sizeof(nonce), sha256);
	if (CRYPTO_memcmp(sha256, v->canary_sha256, sizeof(sha256)) != 0)
		return KEKD_EUNPROVEN;
	if (RAND_bytes(nonce, sizeof(nonce)) != 1)
		return KEKD_EINTERNAL;
	err = wrap(hsm, token, v, nonce, blob, &len);
	if (err < 0)
		return err;
	err = unwrap(hsm, token, v, blob, len, again);
	if (err < 0)
		return err;
	return CRYPTO_memcmp(nonce, again, sizeof(nonce)) == 0 ? 0 : KEKD_EUNPROVEN;
}
