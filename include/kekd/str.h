/* SPDX-License-Identifier: Apache-2.0 */
/* Text: hex, base64, globs, names, and scope-bound cleanup. Any thread. */
#ifndef KEKD_STR_H
#define KEKD_STR_H

#include "kekd/buf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

/* _cleanup_(x_free) T x: calls x_free(&x) where the scope ends. */
#define _cleanup_(function) __attribute__((cleanup(function)))
/* _cleanup_(str_freep) char *s */
static inline void
str_freep(void *p)
{
	free(*(void **)p);
}

#define STR_COUNT(array) (sizeof(array) / sizeof((array)[0]))

void str_hex(const void *data, size_t len,
	char *ret_text); /* 2 * len lower-case digits; no NUL is written */
/* Exactly 2 * len lower-case digits and the NUL, else -EINVAL. */
int str_unhex(const char *text, void *ret_data, size_t len);

#define STR_BASE64_SIZE(len) (((len) + 2) / 3 * 4)
/* RFC 4648 section 4, padded; appended to b. */
void str_base64(struct buf *b, const void *data, size_t len);
/* Strict: padded, no white space, no stray bits. *ret_len: at most size bytes in ret_data. 0,
 * KEKD_EBASE64, or -E2BIG when there are more than size bytes. */
int str_unbase64(const char *text, size_t text_len, void *ret_data, size_t size, size_t *ret_len);

/* '*' any run of characters, '?' one; nothing else is special. */
bool str_glob(const char *pattern, const char *text);

/* Names of keys, clients, nodes, clusters and tokens: [a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])? */
#define STR_NAME_MAX 64
bool str_is_name(const char *text);

/* Bytes at p that a terminal carries out rather than shows: 1 of ASCII's, 2 of those that it knows
 * as C1 in UTF-8 (U+0080 to U+009F, where U+009B begins what ESC [ does). 0: none. */
size_t str_control_len(const char *p);

#endif
