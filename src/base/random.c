/* SPDX-License-Identifier: Apache-2.0 */
/* Random bytes from a block per thread. */
#include "kekd/random.h"

#include "kekd/err.h"

#include <openssl/rand.h>
#include <stdint.h>
#include <string.h>

#define BLOCK 1024

static _Thread_local struct {
	uint8_t bytes[BLOCK];
	size_t left; /* at the end of bytes */
} block;

int
random_piece(void *ret_bytes, size_t len)
{
	uint8_t *from;

	if (len == 0 || len > RANDOM_PIECE_MAX)
		return KEKD_EINTERNAL;
	if (block.left < len) {
		block.left = 0;
		if (RAND_bytes(block.bytes, BLOCK) != 1)
			return KEKD_EINTERNAL;
		block.left = BLOCK;
	}
	from = block.bytes + BLOCK - block.left;
	memcpy(ret_bytes, from, len);
	explicit_bzero(from, len);
	block.left -= len;
	return 0;
}
