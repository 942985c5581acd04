/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Signatures: ECDSA over P-256 with a key pair whose private half never leaves the token. Not here:
 * what is signed, and who believes it.
 */
#include "worker.h"

#include "kekd/log.h"
#include "kekd/str.h"

#include <string.h>

#define DIGEST_SIZE 32
#define POINT_SIZE 65 /* uncompressed: 4, x, y */
#define PREFIX_SIZE (FRAME_PUBLIC_SIZE - POINT_SIZE)

/* The curve's object identifier, 1.2.840.10045.3.1.7 (RFC 5480 section 2.1.1.1). */
static const uint8_t p256[] = { 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07 };
/* What stands before the point in a SubjectPublicKeyInfo: id-ecPublicKey and the curve. */
static const uint8_t prefix[PREFIX_SIZE] = { 0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48,
	0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03,
	0x42, 0x00 };

enum p11_class
sign_digest(struct session *s, struct hsm_op *op)
{
	CK_MECHANISM mechanism = { CKM_ECDSA, NULL, 0 };
	CK_OBJECT_HANDLE key;
	CK_ULONG len = FRAME_SIGNATURE_SIZE;
	enum p11_class class;

	if (op->in_len != DIGEST_SIZE)
		return P11_OPERATOR;
	class = objects_get_private(s->w, &op->object, &key);
	if (!class)
		class = p11_call(&s->w->p11, SignInit, s->h, &mechanism, key);
	if (!class)
		class = p11_call(
			&s->w->p11, Sign, s->h, (uint8_t *)op->in, op->in_len, op->out, &len);
	if (!class && len != FRAME_SIGNATURE_SIZE) {
		log_error("token \"%s\" gave a signature of %lu bytes, not %d: not used",
			s->w->part.token, len, FRAME_SIGNATURE_SIZE);
		class = P11_RESTART;
	}
	op->out_len = class ? 0 : FRAME_SIGNATURE_SIZE;
	return class;
}

/* PKCS#11 wants the point as a DER OCTET STRING; some modules leave that away. */
static const uint8_t *
find_point(const uint8_t *value, CK_ULONG len)
{
	if (len == POINT_SIZE + 2 && value[0] == 0x04 && value[1] == POINT_SIZE)
		value += 2;
	else if (len != POINT_SIZE)
		return NULL;
	return value[0] == 0x04 ? value : NULL;
}

enum p11_class
sign_public(struct session *s, struct hsm_op *op)
{
	uint8_t value[POINT_SIZE + 2] = { 0 };
	CK_ATTRIBUTE point = { CKA_EC_POINT, value, sizeof(value) };
	const uint8_t *found;
	CK_OBJECT_HANDLE h;
	enum p11_class class = objects_find(s->w, CKO_PUBLIC_KEY, &op->object, &h);

	if (!class)
		class = p11_call(&s->w->p11, GetAttributeValue, s->h, h, &point, 1);
	if (class)
		return class;
	found = find_point(value, point.ulValueLen);
	if (!found) {
		log_error("token \"%s\": a public key is no point of P-256: it is not used",
			s->w->part.token);
		return P11_ATTRIBUTES;
	}
	memcpy(op->out, prefix, sizeof(prefix));
	memcpy(op->out + sizeof(prefix), found, POINT_SIZE);
	op->out_len = FRAME_PUBLIC_SIZE;
	return P11_OK;
}

static enum p11_class
generate_pair(struct session *s, const struct hsm_op *op, CK_OBJECT_HANDLE *ret_private)
{
	CK_MECHANISM mechanism = { CKM_EC_KEY_PAIR_GEN, NULL, 0 };
	CK_BBOOL yes = CK_TRUE, no = CK_FALSE;
	CK_OBJECT_HANDLE public;
	CK_ATTRIBUTE for_public[] = {
		{ CKA_EC_PARAMS, (void *)p256, sizeof(p256) },
		{ CKA_ID, (void *)op->object.b, op->object.len },
		{ CKA_LABEL, (void *)op->in, op->in_len },
		{ CKA_TOKEN, &yes, sizeof(yes) },
		{ CKA_PRIVATE, &no, sizeof(no) },
		{ CKA_VERIFY, &yes, sizeof(yes) },
	};
	CK_ATTRIBUTE for_private[] = {
		{ CKA_ID, (void *)op->object.b, op->object.len },
		{ CKA_LABEL, (void *)op->in, op->in_len },
		{ CKA_TOKEN, &yes, sizeof(yes) },
		{ CKA_PRIVATE, &yes, sizeof(yes) },
		{ CKA_SENSITIVE, &yes, sizeof(yes) },
		{ CKA_EXTRACTABLE, &no, sizeof(no) },
		{ CKA_SIGN, &yes, sizeof(yes) },
		{ CKA_DERIVE, &no, sizeof(no) },
	};
	enum p11_class class = p11_call(&s->w->p11, GenerateKeyPair, s->h, &mechanism, for_public,
		STR_COUNT(for_public), for_private, STR_COUNT(for_private), &public, ret_private);

	return class == P11_CALLER ? P11_OPERATOR : class == P11_RESTART ? P11_UNCERTAIN : class;
}

enum p11_class
sign_create(struct session *s, struct hsm_op *op)
{
	struct hsm_object object;
	char label[UINT8_MAX];
	CK_OBJECT_HANDLE h;
	enum p11_class class = objects_find(s->w, CKO_PRIVATE_KEY, &op->object, &h);

	if (class == P11_MISSING) {
		class = ops_in_time(s, op);
		if (!class)
			class = generate_pair(s, op, &h);
	}
	if (!class)
		class = objects_read(s->w, h, &object, label);
	if (class)
		return class;
	op->attributes = object.attributes;
	if (object.key_type == CKK_EC && (object.attributes & HSM_ATTR_HELD) == HSM_ATTR_HELD)
		return P11_OK;
	log_error("token \"%s\": the key \"%.*s\" is no private key on a curve that is held for "
		  "ever inside the token (type 0x%x, attributes 0x%x of 0x%x): it is not used",
		s->w->part.token, (int)object.label_len, object.label, object.key_type,
		object.attributes, HSM_ATTR_HELD);
	return P11_ATTRIBUTES;
}
