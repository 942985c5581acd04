/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Secrets: bytes in OpenSSL's secure heap (locked, never in a core dump, wiped on free). Only for
 * what is small and held for a while (PINs, transport keys); what passes through lies in a struct
 * buf, which wipes too. Any thread.
 */
#ifndef KEKD_SECRET_H
#define KEKD_SECRET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct secret {
	uint8_t *data;
	size_t len;
};

/* Once per process, before the first secret and before any thread: 64 KiB of locked memory. Without
 * (RLIMIT_MEMLOCK) it warns and goes on with memory that is only wiped. */
void secret_heap_open(void);

int secret_alloc(struct secret *ret_secret, size_t len); /* zeroed; 0 or -ENOMEM */
void secret_free(struct secret *s);			 /* wipes; s may be all zero */
/* Constant time in the length of b; false at once when the lengths differ. */
bool secret_equal(const void *a, size_t a_len, const void *b, size_t b_len);
void secret_wipe(void *data, size_t len);

/* free() and realloc() for libraries that hold secrets in ordinary memory: nothing is left behind.
 */
void secret_wiping_free(void *p);
void *secret_wiping_realloc(void *p, size_t size);

#endif
