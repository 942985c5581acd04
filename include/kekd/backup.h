/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The file of a backup (doc/formats/backup.md): one JSON document with the metadata's records,
 * sealed by the token and signed by the node. Here are its bytes alone: what they are made of, what
 * seal and signature are made over, and the check of a signature. Pure functions, any thread.
 */
#ifndef KEKD_BACKUP_H
#define KEKD_BACKUP_H

#include "kekd/json.h"
#include "kekd/str.h"
#include "kekd/uuid.h"

#define BACKUP_FORMAT 1
#define BACKUP_SIZE_MAX ((size_t)64 << 20)
#define BACKUP_DIGEST_SIZE 32
#define BACKUP_SIGNATURE_SIZE 64 /* r, s */
#define BACKUP_KEY_MAX 128	 /* DER of a P-256 SubjectPublicKeyInfo */

struct backup {
	json_t *document; /* owned; all that follows is borrowed from it, or is its own */
	const char *cluster, *generation, *node, *created, *version;
	uint64_t created_us;
	uint64_t revision; /* the commit number */
	json_t *records;   /* array of {path, commit, body}, sorted by path */
	struct {
		uint64_t sequence;
		const char *head;
	} audit; /* of the node's log, when the backup was made */
	uint8_t digest[BACKUP_DIGEST_SIZE];
	struct uuid seal_key;
	uint8_t seal[BACKUP_DIGEST_SIZE];
	bool is_signed;
	uint8_t signature[BACKUP_SIGNATURE_SIZE];
	uint8_t key[BACKUP_KEY_MAX]; /* that the signature is said to be of */
	size_t key_len;
};

/* Strict. 0 or KEKD_EINVALID with a text. Neither seal nor signature is checked. */
int backup_parse(
	const char *text, size_t len, struct backup *ret_backup, char ret_error[JSON_ERROR_SIZE]);
void backup_free(struct backup *b);

/* What seal and signature are made over: the document without those two. 0 or -ENOMEM. */
int backup_digest(const json_t *document, uint8_t ret_digest[BACKUP_DIGEST_SIZE]);

/* The same over any object, whole, with another domain. */
int backup_digest_of(
	const char *domain, const json_t *object, uint8_t ret_digest[BACKUP_DIGEST_SIZE]);

/* Adds them to a document. 0 or -ENOMEM. */
int backup_add_seal(json_t *document, const char *key_id, const uint8_t seal[BACKUP_DIGEST_SIZE]);
int backup_add_signature(json_t *document, const uint8_t *key, size_t key_len,
	const uint8_t signature[BACKUP_SIGNATURE_SIZE]);

/* ECDSA over P-256 and a digest of SHA-256. key: DER of the SubjectPublicKeyInfo. 0 or
 * KEKD_EINVALID. */
int backup_check_signature(const uint8_t *key, size_t key_len,
	const uint8_t digest[BACKUP_DIGEST_SIZE], const uint8_t signature[BACKUP_SIGNATURE_SIZE]);

/* How many records have this prefix. */
size_t backup_count(const struct backup *b, const char *prefix);

#endif
