/* SPDX-License-Identifier: Apache-2.0 */
/* Signatures that a token makes (ECDSA over P-256), checked without it. Any thread. */
#ifndef KEKD_SIGNATURE_H
#define KEKD_SIGNATURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SIGNATURE_SIZE \
	64 /* r and s, 32 bytes each, big-endian, as PKCS#11's CKM_ECDSA gives them */

/* public: SubjectPublicKeyInfo, DER (RFC 5480). False for a key on any other curve as well. */
bool signature_ok(const uint8_t *public, size_t public_len, const uint8_t digest[32],
	const uint8_t signature[SIGNATURE_SIZE]);

#endif
