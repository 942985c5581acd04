/* SPDX-License-Identifier: Apache-2.0 */
/* Random bytes from a block per thread, which a forked child does not go on with. */
#include "kekd/random.h"

#include "kekd/err.h"

#include <openssl/rand.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define BLOCK 1024

static _Thread_local struct {
	uint8_t bytes[BLOCK];
	size_t left; /* at the end of bytes */
} block;

static pthread_once_t once = PTHREAD_ONCE_INIT;
static bool watched;

/* In the child, on the one thread that it has: what is left belongs to the parent. */
static void
forget(void)
{
	explicit_bzero(&block, sizeof(block));
}

static void
watch_forks(void)
{
	watched = pthread_atfork(NULL, NULL, forget) == 0;
}

static int
fill(void)
{
	block.left = 0;
	pthread_once(&once, watch_forks);
	if (!watched || RAND_bytes(block.bytes, BLOCK) != 1)
		return KEKD_EINTERNAL;
	block.left = BLOCK;
	return 0;
}

int
random_piece(void *ret_bytes, size_t len)
{
	uint8_t *from;

	if (len == 0 || len > RANDOM_PIECE_MAX)
		return KEKD_EINTERNAL;
	if (block.left < len && fill() != 0)
		return KEKD_EINTERNAL;
	from = block.bytes + BLOCK - block.left;
	memcpy(ret_bytes, from, len);
	explicit_bzero(from, len);
	block.left -= len;
	return 0;
}
