/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bytes of the sealed store (doc/formats/records.md): envelopes around bodies, and the digests
 * that the token makes its HMAC over. Pure functions.
 */
#ifndef STORE_ENVELOPE_H
#define STORE_ENVELOPE_H

#include "kekd/json.h"
#include "kekd/store.h"
#include "kekd/uuid.h"

#define SEAL_SIZE 32

struct envelope {
	json_t *root; /* owned */
	json_t *body; /* borrowed of root */
	uint64_t commit;
	struct uuid key;
	uint8_t seal[SEAL_SIZE];
};

/* 0, or KEKD_ERECORD for whatever is not an envelope. */
int envelope_parse(const struct store_record *r, struct envelope *ret_envelope);
void envelope_free(struct envelope *e);
/* The text to store, to be freed with json_text_free. 0, KEKD_ETOOLARGE or -ENOMEM. */
int envelope_format(json_t *body, uint64_t commit, const struct uuid *key,
	const uint8_t seal[SEAL_SIZE], char **ret_text, size_t *ret_len);

/* What the seal of a record is made over. 0 or -ENOMEM. */
int envelope_digest(
	const char *path, uint64_t commit, const json_t *body, uint8_t ret_digest[SEAL_SIZE]);
/* The same from the text of a record that was parsed, without writing its body anew; false where
 * the text is not laid out as envelope_format does it. A body whose own text is not canonical has
 * another digest here. */
bool envelope_text_digest(
	const struct store_record *r, const struct envelope *e, uint8_t ret_digest[SEAL_SIZE]);

/* The `commit` record's body. */
json_t *commit_body(uint64_t number, const uint8_t state[SEAL_SIZE]);
int commit_parse(const json_t *body, uint64_t *ret_number, uint8_t ret_state[SEAL_SIZE]);

#endif
