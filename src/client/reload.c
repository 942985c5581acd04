/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Has a file of the client's changed? For programs that run longer than their certificate is valid.
 * What renews a certificate writes two files, one after the other: in between the old ones count.
 */
#include "exchange.h"

#include "kekd/clock.h"
#include "kekd/str.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define LOOK_NS CLOCK_S
#define FILES 3

struct reload {
	struct stat now[FILES];
	uint64_t looked_ns;
};

static void
look(const struct kekd_client *c, struct stat ret_files[FILES])
{
	const char *const paths[FILES] = { c->ca, c->certificate, c->key };

	for (size_t i = 0; i < FILES; i++)
		if (stat(paths[i], &ret_files[i]) < 0)
			memset(&ret_files[i], 0, sizeof(ret_files[i]));
}

static bool
same(const struct stat *a, const struct stat *b)
{
	return a->st_ino == b->st_ino && a->st_dev == b->st_dev && a->st_size == b->st_size &&
	       a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

static bool
belong_together(const char *certificate, const char *key)
{
	BIO *a = BIO_new_file(certificate, "r"), *b = BIO_new_file(key, "r");
	X509 *x = a ? PEM_read_bio_X509(a, NULL, NULL, NULL) : NULL;
	EVP_PKEY *k = b ? PEM_read_bio_PrivateKey(b, NULL, NULL, NULL) : NULL;
	bool fits = x && k && X509_check_private_key(x, k) == 1;

	X509_free(x);
	EVP_PKEY_free(k);
	BIO_free(a);
	BIO_free(b);
	ERR_clear_error();
	return fits;
}

struct reload *
reload_open(const struct kekd_client *c)
{
	struct reload *r = calloc(1, sizeof(*r));

	if (r)
		look(c, r->now);
	return r;
}

void
reload_free(struct reload *r)
{
	free(r);
}

bool
reload_due(struct reload *r, const struct kekd_client *c)
{
	struct stat files[FILES];
	uint64_t now = clock_boot_ns();
	bool changed = false;

	if (now < r->looked_ns + LOOK_NS)
		return false;
	r->looked_ns = now;
	look(c, files);
	for (size_t i = 0; i < FILES; i++)
		changed = changed || !same(&files[i], &r->now[i]);
	if (!changed || !belong_together(c->certificate, c->key))
		return false;
	memcpy(r->now, files, sizeof(files));
	return true;
}
