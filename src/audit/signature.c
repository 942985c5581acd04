/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Signatures over places in the log: the text that is signed, the key's fingerprint, and the check.
 * Not here: who signs (the node, in its token), and which keys somebody trusts.
 */
#include "kekd/audit.h"

#include "kekd/err.h"
#include "kekd/signature.h"
#include "kekd/str.h"

#include <openssl/sha.h>
#include <string.h>

void
audit_mark_digest(const struct audit_mark *m, uint8_t ret_digest[32])
{
	struct buf b = BUF_INIT(4096);

	buf_printf(&b, "kekd audit %s 1\n%s\n%s\n%llu\n%s\n", m->kind, m->cluster, m->node,
		(unsigned long long)m->at, m->head);
	SHA256(b.len > 0 ? b.data : (const uint8_t *)"", b.len, ret_digest);
	buf_free(&b);
}

void
audit_fingerprint(const uint8_t public[AUDIT_PUBLIC_SIZE], char ret_hex[AUDIT_FINGERPRINT_SIZE])
{
	uint8_t digest[SHA256_DIGEST_LENGTH];

	SHA256(public, AUDIT_PUBLIC_SIZE, digest);
	str_hex(digest, sizeof(digest), ret_hex);
	ret_hex[AUDIT_FINGERPRINT_SIZE - 1] = '\0';
}

bool
audit_signature_ok(const uint8_t public[AUDIT_PUBLIC_SIZE], const uint8_t digest[32],
	const uint8_t signature[AUDIT_SIGNATURE_SIZE])
{
	return signature_ok(public, AUDIT_PUBLIC_SIZE, digest, signature);
}
