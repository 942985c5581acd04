/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the token computes: AES-GCM for data keys, HMAC for seals, and the keys for both. Not here:
 * what happens when it does not (ops.c). The tables say which mechanism does what.
 */
#include "worker.h"

#include "kekd/log.h"
#include "kekd/random.h"
#include "kekd/str.h"

#include <string.h>

#define TAG_BITS 128
#define TAG_SIZE (TAG_BITS / 8)
#define MAC_SIZE 32
#define ROOM_FOR_TAG 32
#define RANDOM_CHECK_SIZE 8 /* so many zeros are no accident */

static const CK_MECHANISM_TYPE aead_mechanism = CKM_AES_GCM;
static const CK_MECHANISM_TYPE mac_mechanism = CKM_SHA256_HMAC;

/* How a key is made: what it is for, and that it never leaves. */
static const struct key_kind {
	enum hsm_op_kind kind;
	CK_MECHANISM_TYPE mechanism;
	CK_KEY_TYPE type;
	CK_ULONG bytes;
	CK_BBOOL encrypts, signs;
} key_kinds[] = {
	{ HSM_OP_CREATE_KEK, CKM_AES_KEY_GEN, CKK_AES, 32, CK_TRUE, CK_FALSE },
	{ HSM_OP_CREATE_SEAL, CKM_GENERIC_SECRET_KEY_GEN, CKK_GENERIC_SECRET, 32, CK_FALSE,
		CK_TRUE },
};

/* --- Wrap and unwrap. */

static CK_GCM_PARAMS
gcm_params(const struct session *s, uint8_t *iv, size_t iv_len, const uint8_t *aad, size_t aad_len)
{
	return (CK_GCM_PARAMS){
		.pIv = iv,
		.ulIvLen = iv_len,
		.ulIvBits = s->w->p11.quirk->gcm_iv_bits ? iv_len * 8 : 0,
		.pAAD = (uint8_t *)aad,
		.ulAADLen = aad_len,
		.ulTagBits = TAG_BITS,
	};
}

/* The IV lies in the op that carries it to the blob. A token that makes its own writes over it. */
static bool
make_iv(const struct session *s, struct hsm_op *op)
{
	const struct quirk *q = s->w->p11.quirk;

	op->iv_len = q->iv_len;
	memset(op->iv, 0, sizeof(op->iv));
	return (q->flags & QUIRK_TOKEN_IV) || random_piece(op->iv, op->iv_len) == 0;
}

/* A result of another length than the mechanism's is none, whatever the token said of it. */
static enum p11_class
take_length(const struct session *s, CK_ULONG len, size_t due, uint32_t *ret_len)
{
	if (len != due) {
		log_error("token \"%s\" gave %lu bytes where there must be %zu: not used",
			s->w->part.token, len, due);
		return P11_RESTART;
	}
	*ret_len = (uint32_t)len;
	return P11_OK;
}

static enum p11_class
encrypt(struct session *s, const struct object_id *id, const uint8_t *plain, size_t plain_len,
	const uint8_t *aad, size_t aad_len, struct hsm_op *op)
{
	CK_OBJECT_HANDLE key;
	CK_ULONG len = plain_len + ROOM_FOR_TAG;
	enum p11_class class = objects_get(s->w, id, &key);

	if (class)
		return class;
	if (!make_iv(s, op))
		return P11_RESTART;
	CK_GCM_PARAMS params = gcm_params(s, op->iv, op->iv_len, aad, aad_len);
	CK_MECHANISM mechanism = { aead_mechanism, &params, sizeof(params) };
	class = p11_call(&s->w->p11, EncryptInit, s->h, &mechanism, key);
	if (!class)
		class = p11_call(
			&s->w->p11, Encrypt, s->h, (uint8_t *)plain, plain_len, op->out, &len);
	return class ? class : take_length(s, len, plain_len + TAG_SIZE, &op->out_len);
}

/* ret_plain has room for as much as the ciphertext. */
static enum p11_class
decrypt(struct session *s, struct hsm_op *op, uint8_t *ret_plain, uint32_t *ret_len)
{
	CK_OBJECT_HANDLE key;
	CK_ULONG len = op->in_len;
	uint8_t iv[sizeof(op->iv)];
	enum p11_class class;

	if (op->in_len < TAG_SIZE)
		return P11_CALLER;
	class = objects_get(s->w, &op->object, &key);
	if (class)
		return class;
	memcpy(iv, op->iv, sizeof(iv));
	CK_GCM_PARAMS params = gcm_params(s, iv, op->iv_len, op->aad, op->aad_len);
	CK_MECHANISM mechanism = { aead_mechanism, &params, sizeof(params) };
	class = p11_call(&s->w->p11, DecryptInit, s->h, &mechanism, key);
	if (!class)
		class = p11_call(
			&s->w->p11, Decrypt, s->h, (uint8_t *)op->in, op->in_len, ret_plain, &len);
	return class ? class : take_length(s, len, op->in_len - TAG_SIZE, ret_len);
}

enum p11_class
mech_wrap(struct session *s, struct hsm_op *op)
{
	return encrypt(s, &op->object, op->in, op->in_len, op->aad, op->aad_len, op);
}

enum p11_class
mech_unwrap(struct session *s, struct hsm_op *op)
{
	return decrypt(s, op, op->out, &op->out_len);
}

enum p11_class
mech_check(struct session *s, struct hsm_op *op)
{
	uint32_t len;

	return decrypt(s, op, op->out, &len);
}

static bool
is_zero(const uint8_t *data, size_t len)
{
	uint8_t any = 0;

	for (size_t i = 0; i < len; i++)
		any |= data[i];
	return any == 0;
}

enum p11_class
mech_generate(struct session *s, struct hsm_op *op)
{
	enum p11_class class;

	memset(op->out2, 0, op->size);
	class = p11_call(&s->w->p11, GenerateRandom, s->h, op->out2, op->size);
	if (!class && op->size >= RANDOM_CHECK_SIZE && is_zero(op->out2, op->size)) {
		log_error("token \"%s\" gave zeros for random bytes: not used", s->w->part.token);
		return P11_RESTART;
	}
	if (!class)
		class = encrypt(s, &op->object, op->out2, op->size, op->aad, op->aad_len, op);
	if (!class && op->out2_cap >= op->size)
		op->out2_len = op->size; /* without room nobody wants to see it */
	return class;
}

enum p11_class
mech_rewrap(struct session *s, struct hsm_op *op)
{
	struct hsm_op fresh = { .out = op->out };
	uint32_t len;
	enum p11_class class = decrypt(s, op, op->out2, &len);

	if (!class)
		class = encrypt(s, &op->object2, op->out2, len, op->aad2, op->aad2_len, &fresh);
	if (class)
		return class;
	memcpy(op->iv, fresh.iv, sizeof(op->iv));
	op->iv_len = fresh.iv_len;
	op->out_len = fresh.out_len;
	return P11_OK;
}

enum p11_class
mech_seal(struct session *s, struct hsm_op *op)
{
	CK_MECHANISM mechanism = { mac_mechanism, NULL, 0 };
	CK_OBJECT_HANDLE key;
	CK_ULONG len = ROOM_FOR_TAG;
	enum p11_class class = objects_get(s->w, &op->object, &key);

	if (!class)
		class = p11_call(&s->w->p11, SignInit, s->h, &mechanism, key);
	if (!class)
		class = p11_call(
			&s->w->p11, Sign, s->h, (uint8_t *)op->in, op->in_len, op->out, &len);
	return class ? class : take_length(s, len, MAC_SIZE, &op->out_len);
}

/* --- Making keys. */

static enum p11_class
generate_key(struct session *s, const struct key_kind *kind, const struct hsm_op *op,
	CK_OBJECT_HANDLE *ret_handle)
{
	CK_MECHANISM mechanism = { kind->mechanism, NULL, 0 };
	CK_OBJECT_CLASS object_class = CKO_SECRET_KEY;
	CK_KEY_TYPE type = kind->type;
	CK_ULONG bytes = kind->bytes;
	CK_BBOOL yes = CK_TRUE, no = CK_FALSE, encrypts = kind->encrypts, signs = kind->signs;
	CK_ATTRIBUTE template[] = {
		{ CKA_CLASS, &object_class, sizeof(object_class) },
		{ CKA_KEY_TYPE, &type, sizeof(type) }, { CKA_VALUE_LEN, &bytes, sizeof(bytes) },
		{ CKA_ID, (void *)op->object.b, op->object.len },
		{ CKA_LABEL, (void *)op->in, op->in_len }, { CKA_TOKEN, &yes, sizeof(yes) },
		{ CKA_PRIVATE, &yes, sizeof(yes) }, { CKA_SENSITIVE, &yes, sizeof(yes) },
		{ CKA_EXTRACTABLE, &no, sizeof(no) }, { CKA_ENCRYPT, &encrypts, sizeof(encrypts) },
		{ CKA_DECRYPT, &encrypts, sizeof(encrypts) }, { CKA_SIGN, &signs, sizeof(signs) },
		{ CKA_VERIFY, &signs, sizeof(signs) }, { CKA_WRAP, &no, sizeof(no) },
		{ CKA_UNWRAP, &no, sizeof(no) }, { CKA_DERIVE, &no, sizeof(no) },
		{ CKA_MODIFIABLE, &no, sizeof(no) }, /* last: not every token takes it */
	};
	bool modifiable = s->w->p11.quirk->flags & QUIRK_COPY_MODIFIABLE;
	CK_ULONG n = STR_COUNT(template) - modifiable;
	enum p11_class class = p11_call(
		&s->w->p11, GenerateKey, s->h, &mechanism, template, n, ret_handle);

	if (class == P11_CALLER && !modifiable)
		class = p11_call(
			&s->w->p11, GenerateKey, s->h, &mechanism, template, n - 1, ret_handle);
	return class == P11_CALLER ? P11_OPERATOR : class == P11_RESTART ? P11_UNCERTAIN : class;
}

/* What the token says of the key, whoever made it. */
static enum p11_class
verify_key(struct session *s, const struct key_kind *kind, CK_OBJECT_HANDLE h, struct hsm_op *op)
{
	struct hsm_object object;
	char label[UINT8_MAX];
	enum p11_class class = objects_read(s->w, h, &object, label);

	if (class)
		return class;
	op->attributes = object.attributes;
	if (object.key_type != kind->type)
		log_error(
			"token \"%s\": the key \"%.*s\" is of type 0x%x, not 0x%lx: it is not used",
			s->w->part.token, (int)object.label_len, object.label, object.key_type,
			kind->type);
	else if ((object.attributes & HSM_ATTR_HELD) != HSM_ATTR_HELD)
		log_error("token \"%s\": the key \"%.*s\" is not held for ever inside the token "
			  "(attributes 0x%x of 0x%x): it is not used",
			s->w->part.token, (int)object.label_len, object.label, object.attributes,
			HSM_ATTR_HELD);
	else
		return P11_OK;
	return P11_ATTRIBUTES;
}

enum p11_class
mech_create(struct session *s, struct hsm_op *op)
{
	const struct key_kind *kind = key_kinds;
	CK_OBJECT_HANDLE h;
	enum p11_class class = objects_find(s->w, CKO_SECRET_KEY, &op->object, &h);

	while (kind->kind != op->kind)
		kind++;
	if (class == P11_MISSING) {
		class = ops_in_time(s, op);
		if (!class)
			class = generate_key(s, kind, op, &h);
	}
	return class ? class : verify_key(s, kind, h, op);
}
