/* SPDX-License-Identifier: Apache-2.0 */
/* The CAs whose clients are let in: a PEM file's certificates, and with them the CRLs (crl.c). */
#include "ca.h"

#include "kekd/err.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <string.h>
#include <time.h>

static void
x509_freep(X509 **x)
{
	X509_free(*x);
}

static void
bio_freep(BIO **b)
{
	BIO_free(*b);
}

int
ca_time_us(const ASN1_TIME *time, uint64_t *ret_us)
{
	struct tm tm;
	time_t s;

	if (ASN1_TIME_to_tm(time, &tm) != 1)
		return -EINVAL;
	s = timegm(&tm);
	*ret_us = s > 0 ? (uint64_t)s * 1000000u : 0;
	return 0;
}

void
ca_earlier(const ASN1_TIME *time, uint64_t now_us, uint64_t *us)
{
	uint64_t t;

	if (time && ca_time_us(time, &t) == 0 && t >= now_us && t < *us)
		*us = t;
}

bool
ca_at_end(void)
{
	unsigned long e = ERR_peek_last_error();

	return ERR_GET_LIB(e) == ERR_LIB_PEM && ERR_GET_REASON(e) == PEM_R_NO_START_LINE;
}

struct identity_ca *
identity_ca_ref(struct identity_ca *ca)
{
	atomic_fetch_add(&ca->references, 1);
	return ca;
}

void
identity_ca_unrefp(struct identity_ca **ca)
{
	if (!*ca || atomic_fetch_sub(&(*ca)->references, 1) != 1) {
		*ca = NULL;
		return;
	}
	X509_STORE_free((*ca)->store);
	sk_X509_pop_free((*ca)->cas, X509_free);
	identity_crl_unrefp(&(*ca)->crl);
	free(*ca);
	*ca = NULL;
}

static struct identity_ca *
ca_new(void)
{
	struct identity_ca *ca = calloc(1, sizeof(*ca));

	if (!ca)
		return NULL;
	atomic_init(&ca->references, 1);
	ca->store = X509_STORE_new();
	ca->cas = sk_X509_new_null();
	if (!ca->store || !ca->cas)
		identity_ca_unrefp(&ca);
	return ca;
}

static int
add_ca(struct identity_ca *ca, X509 *x)
{
	if (X509_STORE_add_cert(ca->store, x) != 1 || X509_up_ref(x) != 1)
		return -ENOMEM;
	if (sk_X509_push(ca->cas, x) > 0)
		return 0;
	X509_free(x);
	return -ENOMEM;
}

static int
add_trusted(struct identity_ca *ca, X509 *x, const char *path, char ret_error[256])
{
	char subject[100] = "";

	X509_NAME_oneline(X509_get_subject_name(x), subject, sizeof(subject));
	if (X509_check_ca(x) != 1) {
		snprintf(ret_error, 256,
			"%.90s: \"%s\" is not a CA certificate: list the CAs that sign clients",
			path, subject);
		return KEKD_EINVALID;
	}
	return add_ca(ca, x);
}

static int
add_all(struct identity_ca *ca, const char *path, char ret_error[256])
{
	_cleanup_(bio_freep) BIO *file = BIO_new_file(path, "r");
	size_t count = 0;

	if (!file) {
		snprintf(ret_error, 256, "%.120s cannot be read: %s", path, strerror(errno));
		return errno ? -errno : -EIO;
	}
	for (;; count++) {
		_cleanup_(x509_freep) X509 *x = PEM_read_bio_X509(file, NULL, NULL, NULL);
		int err;
		if (!x)
			break;
		err = add_trusted(ca, x, path, ret_error);
		if (err)
			return err;
	}
	if (!ca_at_end()) {
		snprintf(ret_error, 256, "%.120s: certificate %zu is damaged", path, count + 1);
		return KEKD_EINVALID;
	}
	if (count == 0) {
		snprintf(ret_error, 256,
			"%.120s has no PEM certificate: list the CAs that sign clients", path);
		return KEKD_EINVALID;
	}
	return 0;
}

int
identity_ca_load(const char *pem_path, struct identity_ca **ret_ca, char ret_error[256])
{
	struct identity_ca *ca = ca_new();
	int err;

	if (!ca)
		return -ENOMEM;
	ERR_clear_error();
	errno = 0;
	err = add_all(ca, pem_path, ret_error);
	ERR_clear_error();
	if (err) {
		identity_ca_unrefp(&ca);
		return err;
	}
	*ret_ca = ca;
	return 0;
}

int
identity_ca_with_crl(const struct identity_ca *ca, struct identity_crl *crl, bool warn_expired,
	struct identity_ca **ret_ca)
{
	struct identity_ca *with = ca_new();
	int err = with ? 0 : -ENOMEM;

	for (int i = 0; !err && i < sk_X509_num(ca->cas); i++)
		err = add_ca(with, sk_X509_value(ca->cas, i));
	for (int i = 0; !err && i < sk_X509_CRL_num(crl->crls); i++)
		if (X509_STORE_add_crl(with->store, sk_X509_CRL_value(crl->crls, i)) != 1)
			err = -ENOMEM;
	if (!err) {
		with->warn_expired = warn_expired;
		with->crl = identity_crl_ref(crl);
	}
	ERR_clear_error();
	if (err) {
		identity_ca_unrefp(&with);
		return err;
	}
	*ret_ca = with;
	return 0;
}

void
identity_ca_life(const struct identity_ca *ca, struct identity_life *ret_life)
{
	struct identity_life life = { .to_us = UINT64_MAX };

	for (int i = 0; i < sk_X509_num(ca->cas); i++) {
		const X509 *x = sk_X509_value(ca->cas, i);
		uint64_t to = UINT64_MAX;
		ca_earlier(X509_get0_notAfter(x), 0, &to);
		if (to >= life.to_us)
			continue;
		life.to_us = to;
		if (ca_time_us(X509_get0_notBefore(x), &life.from_us) != 0)
			life.from_us = 0;
	}
	*ret_life = life;
}

enum identity_age
identity_life_age(const struct identity_life *life, uint64_t now_us)
{
	const uint64_t day_us = 86400ull * 1000000u;
	uint64_t left = life->to_us > now_us ? life->to_us - now_us : 0;

	if (life->to_us == UINT64_MAX)
		return IDENTITY_VALID;
	if (left == 0)
		return IDENTITY_OVER;
	if (left > (life->to_us - life->from_us) / 4 || left > 30 * day_us)
		return IDENTITY_VALID;
	return left > 7 * day_us ? IDENTITY_MONTH : left > day_us ? IDENTITY_WEEK : IDENTITY_DAY;
}
