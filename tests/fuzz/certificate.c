/* SPDX-License-Identifier: Apache-2.0 */
/* A certificate that signs itself, made when a target starts: none is kept. */
#include "certificate.h"

#include "fuzz.h"

#include <openssl/x509v3.h>

static void
add_extension(X509 *x, int nid, const char *value)
{
	X509_EXTENSION *e = X509V3_EXT_conf_nid(NULL, NULL, nid, value);

	require(e && X509_add_ext(x, e, -1) == 1);
	X509_EXTENSION_free(e);
}

X509 *
fuzz_certificate(EVP_PKEY *key, bool ca)
{
	X509 *x = X509_new();
	X509_NAME *name;

	require(key && x);
	X509_set_version(x, 2);
	ASN1_INTEGER_set(X509_get_serialNumber(x), 1);
	X509_gmtime_adj(X509_getm_notBefore(x), -86400);
	X509_gmtime_adj(X509_getm_notAfter(x), 100 * 86400);
	name = X509_get_subject_name(x);
	X509_NAME_add_entry_by_txt(
		name, "CN", MBSTRING_ASC, (const unsigned char *)"fuzz", -1, -1, 0);
	X509_set_issuer_name(x, name);
	X509_set_pubkey(x, key);
	add_extension(x, NID_basic_constraints, ca ? "critical,CA:TRUE" : "CA:FALSE");
	if (!ca)
		add_extension(x, NID_subject_alt_name, "DNS:localhost");
	require(X509_sign(x, key, EVP_sha256()) > 0);
	return x;
}

void
fuzz_write_pem(const char *name, const X509 *x, const EVP_PKEY *key)
{
	BIO *pem = BIO_new(BIO_s_mem());
	char *text;
	long size;

	if (x)
		require(PEM_write_bio_X509(pem, x) == 1);
	if (key)
		require(PEM_write_bio_PrivateKey(pem, key, NULL, NULL, 0, NULL, NULL) == 1);
	size = BIO_get_mem_data(pem, &text);
	fuzz_write(name, text, (size_t)size);
	BIO_free(pem);
}
