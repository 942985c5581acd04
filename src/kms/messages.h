/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The messages of service v2.KeyManagementService, from bytes and to bytes, with the sizes that the
 * contract gives. Knows neither gRPC nor kekd. All memory is wiped when freed. Any thread.
 */
#ifndef KEKD_KMS_MESSAGES_H
#define KEKD_KMS_MESSAGES_H

#include "answer.h"
#include "service.h"

#define KMS_KEY_ID_MAX 1024
#define KMS_CIPHERTEXT_MAX 1024
#define KMS_ANNOTATIONS_MAX 32768 /* keys and values together */
#define KMS_FAULT_SIZE 160

/* What was asked; of Encrypt the first two, of Decrypt the rest. */
struct kms_request {
	struct kms_bytes plaintext, uid;
	struct kms_decrypt decrypt;
	struct kms_annotation *annotations; /* its own */
	void *message;			    /* its own: what the bytes lie in */
};

/* 0; KEKD_EINVALID with a text for people; -ENOMEM. Free with kms_request_free. */
int kms_decode_status(struct kms_bytes in, char ret_fault[KMS_FAULT_SIZE]);
int kms_decode_encrypt(
	struct kms_bytes in, struct kms_request *ret_request, char ret_fault[KMS_FAULT_SIZE]);
int kms_decode_decrypt(
	struct kms_bytes in, struct kms_request *ret_request, char ret_fault[KMS_FAULT_SIZE]);
void kms_request_free(struct kms_request *r);

/* Bytes from malloc(); to be wiped where they are secret. 0; KEKD_EINVALID where the contract does
 * not allow the answer, with a text; -ENOMEM. */
struct kms_encoded {
	uint8_t *data;
	size_t len;
};
int kms_encode_status(
	const char *key_id, struct kms_encoded *ret_encoded, char ret_fault[KMS_FAULT_SIZE]);
int kms_encode_encrypt(struct kms_bytes ciphertext, const char *key_id,
	const struct kms_annotation *annotations, size_t count, struct kms_encoded *ret_encoded,
	char ret_fault[KMS_FAULT_SIZE]);
int kms_encode_decrypt(struct kms_bytes plaintext, struct kms_encoded *ret_encoded,
	char ret_fault[KMS_FAULT_SIZE]);

#endif
