/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Revocation lists (RFC 5280, 5): read from one PEM file, used by OpenSSL's path validation. Which
 * of them a path needs, and what an expired one means, is decided in identity.c.
 */
#include "ca.h"

#include "kekd/err.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <string.h>

static const struct {
	int x509, err;
} crl_errors[] = {
	{ X509_V_ERR_CERT_REVOKED, KEKD_ECERTREVOKED },
	{ X509_V_ERR_CRL_HAS_EXPIRED, KEKD_ECRLEXPIRED },
	{ X509_V_ERR_CRL_NOT_YET_VALID, KEKD_ECRLMISSING },
	{ X509_V_ERR_UNABLE_TO_GET_CRL, KEKD_ECRLMISSING },
	{ X509_V_ERR_UNABLE_TO_GET_CRL_ISSUER, KEKD_ECRLMISSING },
	{ X509_V_ERR_UNABLE_TO_DECRYPT_CRL_SIGNATURE, KEKD_ECRLMISSING },
	{ X509_V_ERR_CRL_SIGNATURE_FAILURE, KEKD_ECRLMISSING },
	{ X509_V_ERR_ERROR_IN_CRL_LAST_UPDATE_FIELD, KEKD_ECRLMISSING },
	{ X509_V_ERR_ERROR_IN_CRL_NEXT_UPDATE_FIELD, KEKD_ECRLMISSING },
	{ X509_V_ERR_KEYUSAGE_NO_CRL_SIGN, KEKD_ECRLMISSING },
	{ X509_V_ERR_UNHANDLED_CRITICAL_CRL_EXTENSION, KEKD_ECRLMISSING },
	{ X509_V_ERR_DIFFERENT_CRL_SCOPE, KEKD_ECRLMISSING },
	{ X509_V_ERR_CRL_PATH_VALIDATION_ERROR, KEKD_ECRLMISSING },
};

int
crl_error(int x509)
{
	for (size_t i = 0; i < STR_COUNT(crl_errors); i++)
		if (crl_errors[i].x509 == x509)
			return crl_errors[i].err;
	return 0;
}

static void
bio_freep(BIO **b)
{
	BIO_free(*b);
}

static int
read_all(struct identity_crl *crl, const char *path, char ret_error[256])
{
	_cleanup_(bio_freep) BIO *file = BIO_new_file(path, "r");
	X509_CRL *one;

	if (!file) {
		snprintf(ret_error, 256, "%.120s cannot be read: %s", path, strerror(errno));
		return errno ? -errno : -EIO;
	}
	while ((one = PEM_read_bio_X509_CRL(file, NULL, NULL, NULL)))
		if (sk_X509_CRL_push(crl->crls, one) <= 0) {
			X509_CRL_free(one);
			return -ENOMEM;
		}
	if (!ca_at_end()) {
		snprintf(ret_error, 256, "%.120s: CRL %d is damaged", path,
			sk_X509_CRL_num(crl->crls) + 1);
		return KEKD_EINVALID;
	}
	if (sk_X509_CRL_num(crl->crls) == 0) {
		snprintf(ret_error, 256,
			"%.90s has no PEM CRL: put one of each CA there (openssl crl -inform DER "
			"turns the other form into PEM)",
			path);
		return KEKD_EINVALID;
	}
	return 0;
}

int
identity_crl_load(const char *pem_path, struct identity_crl **ret_crl, char ret_error[256])
{
	struct identity_crl *crl = calloc(1, sizeof(*crl));
	int err = -ENOMEM;

	if (!crl)
		return -ENOMEM;
	atomic_init(&crl->references, 1);
	crl->crls = sk_X509_CRL_new_null();
	ERR_clear_error();
	errno = 0;
	if (crl->crls)
		err = read_all(crl, pem_path, ret_error);
	ERR_clear_error();
	if (err) {
		identity_crl_unrefp(&crl);
		return err;
	}
	*ret_crl = crl;
	return 0;
}

struct identity_crl *
identity_crl_ref(struct identity_crl *crl)
{
	atomic_fetch_add(&crl->references, 1);
	return crl;
}

void
identity_crl_unrefp(struct identity_crl **crl)
{
	if (*crl && atomic_fetch_sub(&(*crl)->references, 1) == 1) {
		sk_X509_CRL_pop_free((*crl)->crls, X509_CRL_free);
		free(*crl);
	}
	*crl = NULL;
}

void
identity_crl_life(const struct identity_crl *crl, struct identity_life *ret_life)
{
	struct identity_life life = { .to_us = UINT64_MAX };

	for (int i = 0; i < sk_X509_CRL_num(crl->crls); i++) {
		const X509_CRL *one = sk_X509_CRL_value(crl->crls, i);
		uint64_t to = UINT64_MAX;
		ca_earlier(X509_CRL_get0_nextUpdate(one), 0, &to);
		if (to >= life.to_us)
			continue;
		life.to_us = to;
		if (ca_time_us(X509_CRL_get0_lastUpdate(one), &life.from_us) != 0)
			life.from_us = 0;
	}
	*ret_life = life;
}
