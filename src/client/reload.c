/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The client's files, for programs that run longer than their certificate is valid. What renews a
 * certificate writes two files, one after the other, and somebody may write what is none: until the
 * new ones can be used, the old ones, which are kept in memory, stay in use.
 */
#include "exchange.h"

#include "kekd/clock.h"
#include "kekd/str.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOOK_NS CLOCK_S
#define FILE_MAX (1u << 20)

struct seen {
	struct stat files[RELOAD_FILES];
};

struct reload {
	struct seen seen; /* when they were read last, good or not */
	uint64_t looked_ns;
	bool good; /* there are contents that can be used */
	struct buf contents[RELOAD_FILES];
	uint64_t ends_s;
};

static void
look(const char *const paths[RELOAD_FILES], struct seen *ret_seen)
{
	struct seen s;

	for (size_t i = 0; i < RELOAD_FILES; i++)
		if (stat(paths[i], &s.files[i]) < 0)
			memset(&s.files[i], 0, sizeof(s.files[i]));
	*ret_seen = s;
}

static bool
is_same(const struct stat *a, const struct stat *b)
{
	return a->st_ino == b->st_ino && a->st_dev == b->st_dev && a->st_size == b->st_size &&
	       a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec &&
	       a->st_ctim.tv_sec == b->st_ctim.tv_sec && a->st_ctim.tv_nsec == b->st_ctim.tv_nsec;
}

static bool
has_changed(const struct seen *a, const struct seen *b)
{
	for (size_t i = 0; i < RELOAD_FILES; i++)
		if (!is_same(&a->files[i], &b->files[i]))
			return true;
	return false;
}

/* ---- what they hold ---- */

static int
read_file(const char *path, struct buf *b)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	uint8_t piece[4096];
	ssize_t n;

	if (fd < 0)
		return -errno;
	while ((n = read(fd, piece, sizeof(piece))) > 0)
		buf_put(b, piece, (size_t)n);
	if (n < 0)
		n = -errno;
	close(fd);
	OPENSSL_cleanse(piece, sizeof(piece));
	return n < 0 ? (int)n : b->bad ? -EFBIG : 0;
}

static X509 *
certificate_of(const struct buf *b)
{
	BIO *bio = BIO_new_mem_buf(b->data, (int)b->len);
	X509 *x = bio ? PEM_read_bio_X509(bio, NULL, NULL, NULL) : NULL;

	BIO_free(bio);
	return x;
}

static EVP_PKEY *
key_of(const struct buf *b)
{
	static char none[] = "";
	BIO *bio = BIO_new_mem_buf(b->data, (int)b->len);
	EVP_PKEY *k = bio ? PEM_read_bio_PrivateKey(bio, NULL, NULL, none) : NULL;

	BIO_free(bio);
	return k;
}

static uint64_t
end_of(const X509 *x)
{
	int days = 0, seconds = 0;
	ASN1_TIME *epoch = ASN1_TIME_set(NULL, 0);
	bool known = epoch && ASN1_TIME_diff(&days, &seconds, epoch, X509_get0_notAfter(x)) == 1;

	ASN1_TIME_free(epoch);
	return known && days >= 0 ? (uint64_t)days * 86400 + (uint64_t)seconds : 0;
}

/* NULL: they can be used. */
static const char *
fault_of(const struct buf contents[RELOAD_FILES], uint64_t *ret_ends_s)
{
	X509 *ca = certificate_of(&contents[RELOAD_CA]);
	X509 *x = certificate_of(&contents[RELOAD_CERTIFICATE]);
	EVP_PKEY *k = key_of(&contents[RELOAD_KEY]);
	const char *fault = NULL;

	if (!ca)
		fault = "the CA certificate's file holds none";
	else if (!x)
		fault = "the certificate's file holds none";
	else if (!k)
		fault = "the key's file holds none, or one with a password";
	else if (X509_check_private_key(x, k) != 1)
		fault = "certificate and key do not belong together";
	else
		*ret_ends_s = end_of(x);
	X509_free(ca);
	X509_free(x);
	EVP_PKEY_free(k);
	ERR_clear_error();
	return fault;
}

static void
drop(struct buf contents[RELOAD_FILES])
{
	for (size_t i = 0; i < RELOAD_FILES; i++)
		buf_free(&contents[i]);
}

/* NULL: they were taken. */
static const char *
take(struct reload *r, const char *const paths[RELOAD_FILES])
{
	struct buf contents[RELOAD_FILES];
	const char *fault = NULL;
	uint64_t ends_s = 0;

	for (size_t i = 0; i < RELOAD_FILES; i++) {
		contents[i] = BUF_INIT(FILE_MAX);
		if (read_file(paths[i], &contents[i]) < 0)
			fault = "one of the files cannot be read";
	}
	if (!fault)
		fault = fault_of(contents, &ends_s);
	if (fault) {
		drop(contents);
		return fault;
	}
	drop(r->contents);
	memcpy(r->contents, contents, sizeof(contents)); /* transferred */
	r->ends_s = ends_s;
	r->good = true;
	return NULL;
}

/* ---- for the client ---- */

struct reload *
reload_open(const char *const paths[RELOAD_FILES])
{
	struct reload *r = calloc(1, sizeof(*r));

	if (!r)
		return NULL;
	look(paths, &r->seen);
	take(r, paths);
	return r;
}

void
reload_free(struct reload *r)
{
	if (!r)
		return;
	drop(r->contents);
	free(r);
}

bool
reload_due(struct reload *r, const char *const paths[RELOAD_FILES], const char **ret_fault)
{
	uint64_t now = clock_boot_ns();
	struct seen seen;

	if (now < r->looked_ns + LOOK_NS)
		return false;
	r->looked_ns = now;
	look(paths, &seen);
	if (!has_changed(&seen, &r->seen))
		return false;
	r->seen = seen;
	*ret_fault = take(r, paths);
	return true;
}

const struct buf *
reload_contents(const struct reload *r, enum reload_file file)
{
	return r && r->good ? &r->contents[file] : NULL;
}

uint64_t
reload_ends_s(const struct reload *r)
{
	return r->ends_s;
}
