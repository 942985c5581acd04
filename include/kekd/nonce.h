/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The nonce budget (NIST SP 800-38D section 8.3): at most 2^32 random 96-bit IVs per version, over
 * all nodes that ever were. A node reserves blocks in nonces/VERSION before it uses them; what is
 * unused at its end is lost. Taking is lock-free.
 */
#ifndef KEKD_NONCE_H
#define KEKD_NONCE_H

#include "kekd/seal.h"
#include "kekd/uuid.h"

#include <stdbool.h>
#include <stdint.h>

#define NONCE_BLOCK (1ull << 20)
#define NONCE_BLOCK_FAST (1ull << 24) /* when the last one lasted under ten minutes */
#define NONCE_ROTATE (1ull << 31)
#define NONCE_MAX (1ull << 32)

struct nonce_block;

struct nonce_block *nonce_block_new(void);
void nonce_block_free(struct nonce_block *b);

enum nonce_answer {
	NONCE_TAKEN,
	NONCE_TAKEN_LOW, /* taken, and half of the block is used: reserve the next one soon (said
			    once per block) */
	NONCE_NONE,	 /* not taken: no block, or it is spent: reserve, then take again */
};
/* Takes n IVs. Any thread. */
enum nonce_answer nonce_take(struct nonce_block *b, uint32_t n);

/* Reserves the next block for version in the store; while more than half of the present one is left
 * it does nothing, so that several askers cost one block. The first NONCE_BLOCK of every version is
 * set aside for canaries and proofs, which take from no block. 0; KEKD_ENONCES when 2^32 are gone;
 * KEKD_ERECORD when the record cannot be read; KEKD_ESTORE and what sealed_put_own gives. Control
 * thread. */
int nonce_reserve(
	struct nonce_block *b, struct sealed *store, const struct uuid *version, const char *node);
/* All nodes' reservations as last seen (0 before the first). Any thread. */
uint64_t nonce_reserved(const struct nonce_block *b);
uint64_t nonce_reserved_us(const struct nonce_block *b); /* real time of the newest; 0: none */

/* From now on at least so many count as reserved, of a version whose history is not known. Control
 * thread. */
int nonce_raise(struct sealed *store, const struct uuid *version, uint64_t reserved);

/* A record nonces/VERSION as the store has it. 0 or KEKD_ERECORD. */
int nonce_read(json_t *body, uint64_t *ret_reserved, uint64_t *ret_newest_us);
/* What the record says, at the start or because another node reserved: less than is known already
 * is no news. Control thread. */
void nonce_note(struct nonce_block *b, uint64_t reserved, uint64_t newest_us);

#endif
