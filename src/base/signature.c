/* SPDX-License-Identifier: Apache-2.0 */
/* A signature's check by OpenSSL, which wants r and s in DER. */
#include "kekd/signature.h"

#include <openssl/bn.h>
#include <openssl/ecdsa.h>
#include <openssl/evp.h>
#include <openssl/x509.h>
#include <string.h>

#define DER_MAX 80

/* The length, or 0. */
static size_t
signature_der(const uint8_t signature[SIGNATURE_SIZE], uint8_t ret_der[DER_MAX])
{
	ECDSA_SIG *sig = ECDSA_SIG_new();
	BIGNUM *r = BN_bin2bn(signature, 32, NULL), *s = BN_bin2bn(signature + 32, 32, NULL);
	unsigned char *p = ret_der;
	int len = 0;

	if (sig && r && s && ECDSA_SIG_set0(sig, r, s) == 1) {
		r = s = NULL; /* sig's now */
		len = i2d_ECDSA_SIG(sig, &p);
	}
	BN_free(r);
	BN_free(s);
	ECDSA_SIG_free(sig);
	return len > 0 ? (size_t)len : 0;
}

static bool
is_p256(const EVP_PKEY *key)
{
	char group[40] = "";

	return EVP_PKEY_get_base_id(key) == EVP_PKEY_EC &&
	       EVP_PKEY_get_group_name(key, group, sizeof(group), NULL) == 1 &&
	       strcmp(group, "prime256v1") == 0;
}

bool
signature_ok(const uint8_t *public, size_t public_len, const uint8_t digest[32],
	const uint8_t signature[SIGNATURE_SIZE])
{
	const unsigned char *p = public;
	EVP_PKEY *key = d2i_PUBKEY(NULL, &p, (long)public_len);
	EVP_PKEY_CTX *ctx = NULL;
	uint8_t der[DER_MAX];
	size_t len = signature_der(signature, der);
	bool ok = false;

	if (key && len > 0 && is_p256(key))
		ctx = EVP_PKEY_CTX_new(key, NULL);
	if (ctx && EVP_PKEY_verify_init(ctx) == 1)
		ok = EVP_PKEY_verify(ctx, der, len, digest, 32) == 1;
	EVP_PKEY_CTX_free(ctx);
	EVP_PKEY_free(key);
	return ok;
}
