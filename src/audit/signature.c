/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Signatures over places in the log: the text that is signed, the key's fingerprint, and the check.
 * Not here: who signs (the node, in its token), and which keys somebody trusts.
 */
#include "kekd/audit.h"

#include "kekd/err.h"
#include "kekd/str.h"

#include <openssl/ecdsa.h>
#include <openssl/evp.h>
#include <openssl/sha.h>
#include <openssl/x509.h>
#include <string.h>

void
audit_mark_digest(const struct audit_mark *m, uint8_t ret_digest[32])
{
	struct buf b = BUF_INIT(4096);

	buf_printf(&b, "kekd audit %s 1\n%s\n%s\n%llu\n%s\n", m->kind, m->cluster, m->node,
		(unsigned long long)m->at, m->head);
	SHA256(b.len > 0 ? b.data : (const uint8_t *)"", b.len, ret_digest);
	buf_free(&b);
}

void
audit_fingerprint(const uint8_t public[AUDIT_PUBLIC_SIZE], char ret_hex[AUDIT_FINGERPRINT_SIZE])
{
	uint8_t digest[SHA256_DIGEST_LENGTH];

	SHA256(public, AUDIT_PUBLIC_SIZE, digest);
	str_hex(digest, sizeof(digest), ret_hex);
	ret_hex[AUDIT_FINGERPRINT_SIZE - 1] = '\0';
}

/* OpenSSL wants r and s in DER. Its length, or 0. */
static int
signature_der(const uint8_t signature[AUDIT_SIGNATURE_SIZE], uint8_t **ret_der)
{
	ECDSA_SIG *sig = ECDSA_SIG_new();
	BIGNUM *r = BN_bin2bn(signature, 32, NULL), *s = BN_bin2bn(signature + 32, 32, NULL);
	int len = 0;

	if (sig && r && s && ECDSA_SIG_set0(sig, r, s) == 1) {
		len = i2d_ECDSA_SIG(sig, ret_der);
	} else {
		BN_free(r);
		BN_free(s);
	}
	ECDSA_SIG_free(sig);
	return len > 0 ? len : 0;
}

bool
audit_signature_ok(const uint8_t public[AUDIT_PUBLIC_SIZE], const uint8_t digest[32],
	const uint8_t signature[AUDIT_SIGNATURE_SIZE])
{
	const unsigned char *p = public;
	EVP_PKEY *key = d2i_PUBKEY(NULL, &p, AUDIT_PUBLIC_SIZE);
	EVP_PKEY_CTX *ctx = key ? EVP_PKEY_CTX_new(key, NULL) : NULL;
	uint8_t *der = NULL;
	int len = signature_der(signature, &der);
	bool ok = ctx && len > 0 && EVP_PKEY_verify_init(ctx) == 1 &&
		  EVP_PKEY_verify(ctx, der, (size_t)len, digest, 32) == 1;

	OPENSSL_free(der);
	EVP_PKEY_CTX_free(ctx);
	EVP_PKEY_free(key);
	return ok;
}
