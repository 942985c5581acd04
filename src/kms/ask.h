/* SPDX-License-Identifier: Apache-2.0 */
/* The three requests that the plugin makes of kekd, and what their answers mean to an API server.
 */
#ifndef KEKD_KMS_ASK_H
#define KEKD_KMS_ASK_H

#include "answer.h"
#include "config.h"
#include "key_id.h"

#include "kekd/buf.h"
#include "kekd/client.h"

#define KMS_SEED_MIN 32		/* what an API server takes back from Decrypt, at least */
#define KMS_SEED_MAX 960	/* so that the blob fits */
#define KMS_CIPHERTEXT_MAX 1024 /* what it keeps of Encrypt, at most */

struct ask_answer {
	enum kms_status status;
	char text[640];	  /* of a failure: for people */
	char code[64];	  /* of kekd's error table; empty: none */
	bool away;	  /* another endpoint, or another moment, may do better */
	bool moved;	  /* the version does not wrap: the record is another one by now */
	struct buf bytes; /* the ciphertext or the plaintext; wiped on free */
	unsigned version; /* its number */
	char request_id[64];
	unsigned passed_over; /* endpoints that failed before the one that answered */
};
void ask_answer_free(struct ask_answer *a);
void ask_fail(struct ask_answer *a, enum kms_status status, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* Blocking, on the client's thread. ask has the deadline. *ret_answer is to be freed. */
void ask_wrap(struct kekd_client *c, const struct kms_config *config, const struct kms_key_id *id,
	struct kms_bytes plaintext, struct kekd_ask *ask, struct ask_answer *ret_answer);
void ask_unwrap(struct kekd_client *c, const struct kms_config *config, struct kms_bytes ciphertext,
	struct kekd_ask *ask, struct ask_answer *ret_answer);

struct key_record {
	struct kms_key_id id;
	struct uuid *versions; /* owned */
	size_t count;
};
void key_record_free(struct key_record *r);
/* True when it was read; else the reason is in *ret_answer. */
bool ask_record(struct kekd_client *c, const struct kms_config *config, struct kekd_ask *ask,
	struct key_record *ret_record, struct ask_answer *ret_answer);

/* A client of all endpoints of the configuration, whose certificate may change. The second is for
 * one of a process: it logs what became of changed files. */
int ask_client_open(const struct kms_config *config, struct kekd_health *health,
	struct kekd_client **ret_client, char ret_error[256]);
int ask_client_open_first(const struct kms_config *config, struct kekd_health *health,
	struct kekd_client **ret_client, char ret_error[256]);

/* What a code of kekd's error table is in gRPC's terms. */
enum kms_status ask_status_of(const char *code, int http_status);

#endif
