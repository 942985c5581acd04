/* SPDX-License-Identifier: Apache-2.0 */
/* Secrets in OpenSSL's secure heap. */
#include "kekd/secret.h"

#include "kekd/log.h"

#include <errno.h>
#include <malloc.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>

#define HEAP_SIZE 65536
#define HEAP_MIN 32

void
secret_heap_open(void)
{
	if (CRYPTO_secure_malloc_initialized())
		return;
	/* 1: locked; 2: the memory is there but could not be locked. */
	if (CRYPTO_secure_malloc_init(HEAP_SIZE, HEAP_MIN) != 1)
		log_warning("secrets cannot be locked in memory: raise RLIMIT_MEMLOCK to 64 KiB or "
			    "more");
}

int
secret_alloc(struct secret *ret_secret, size_t len)
{
	uint8_t *data = OPENSSL_secure_zalloc(len ? len : 1);

	if (!data)
		return -ENOMEM;
	*ret_secret = (struct secret){ data, len };
	return 0;
}

void
secret_free(struct secret *s)
{
	if (s->data)
		OPENSSL_secure_clear_free(s->data, s->len ? s->len : 1);
	*s = (struct secret){ 0 };
}

bool
secret_equal(const void *a, size_t a_len, const void *b, size_t b_len)
{
	return a_len == b_len && CRYPTO_memcmp(a, b, b_len) == 0;
}

/* Not OPENSSL_cleanse, which takes eight bytes at a time: GnuTLS frees a buffer of 16 KiB for every
 * record. */
void
secret_wipe(void *data, size_t len)
{
	explicit_bzero(data, len);
}

void
secret_wiping_free(void *p)
{
	if (p)
		explicit_bzero(p, malloc_usable_size(p));
	free(p);
}

void *
secret_wiping_realloc(void *p, size_t size)
{
	size_t old = p ? malloc_usable_size(p) : 0;
	void *q = malloc(size);

	if (!q)
		return NULL;
	if (p)
		memcpy(q, p, old < size ? old : size);
	secret_wiping_free(p);
	return q;
}
