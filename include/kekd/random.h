/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random bytes in small pieces, for identifiers and IVs: taken from OpenSSL's generator by the
 * block, as each question to it costs a system call. Never for keys, which are asked of it
 * directly. Any thread: each has a block of its own. A process must not fork and go on using both
 * halves.
 */
#ifndef KEKD_RANDOM_H
#define KEKD_RANDOM_H

#include <stddef.h>

#define RANDOM_PIECE_MAX 64

/* len: 1 to RANDOM_PIECE_MAX. 0 or KEKD_EINTERNAL. A byte is given out once and forgotten. */
int random_piece(void *ret_bytes, size_t len);

#endif
