/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The certificates that a TLS client shows: blocks of DER, the leaf first. The first byte of the
 * input says what is done to the leaf before: with its lowest bit set our CA signs it anew, so that
 * what is wrong with it otherwise is looked at. Certificates are made when the tests run; none is
 * kept.
 */
#include "certificate.h"
#include "fuzz.h"

#include "kekd/access.h"
#include "kekd/err.h"

#include <time.h>

#define CHAIN_MAX 12

static EVP_PKEY *ca_key;
static X509 *ca_certificate;
static struct identity_ca *ca;
static uint64_t now_us;

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	char error[256], path[128];

	(void)argc, (void)argv;
	ca_key = EVP_EC_gen("P-256");
	ca_certificate = fuzz_certificate(ca_key, true);
	fuzz_write_pem("ca.pem", ca_certificate, NULL);
	snprintf(path, sizeof(path), "%s/ca.pem", fuzz_directory());
	require(identity_ca_load(path, &ca, error) == 0);
	now_us = (uint64_t)time(NULL) * 1000000u;
	return 0;
}

/* The same certificate, issued by our CA; NULL when it cannot be read. */
static unsigned char *
sign_anew(const uint8_t *data, size_t size, size_t *ret_size)
{
	const unsigned char *p = data;
	unsigned char *der = NULL;
	X509 *x = d2i_X509(NULL, &p, (long)size);
	int len = -1;

	if (x && X509_set_issuer_name(x, X509_get_subject_name(ca_certificate)) == 1 &&
		X509_sign(x, ca_key, EVP_sha256()) > 0)
		len = i2d_X509(x, &der);
	X509_free(x);
	*ret_size = len > 0 ? (size_t)len : 0;
	return der;
}

/* A name has no character that could forge a line or another name. */
static void
check_name(const struct identity *id, bool common_name)
{
	const char *name = id->name;

	require(strlen(name) < IDENTITY_SIZE);
	require(strncmp(name, "uri:", 4) == 0 || strncmp(name, "dns:", 4) == 0 ||
		(common_name && strncmp(name, "cn:", 3) == 0));
	for (; *name; name++)
		require((unsigned char)*name >= 0x20 && *name != 0x7f);
	require(strlen(id->spki) == 5 + 64);
	require(id->not_after_us >= now_us);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input in = { data, size };
	struct der chain[CHAIN_MAX];
	size_t count = 0;
	uint8_t how = fuzz_byte(&in);
	unsigned char *again = NULL;
	struct identity id = { 0 };
	bool common_name = how & 2;

	while (in.left > 0 && count < CHAIN_MAX) {
		chain[count].data = fuzz_block(&in, &chain[count].len);
		count++;
	}
	if ((how & 1) && count > 0) {
		again = sign_anew(chain[0].data, chain[0].len, &size);
		if (again)
			chain[0] = (struct der){ again, size };
	}
	if (identity_verify(ca, chain, count, common_name, now_us, &id) == 0)
		check_name(&id, common_name);
	else
		require(!id.name[0] || strncmp(id.name, "unverified:", 11) == 0);
	OPENSSL_free(again);
	return 0;
}
