/* SPDX-License-Identifier: Apache-2.0 */
/* Messages to the Kubernetes plugin: whatever is taken keeps to the contract's sizes. */
#include "fuzz.h"

#include "../../src/kms/messages.h"

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc, (void)argv;
	return 0;
}

static void
try_encrypt(struct kms_bytes in)
{
	char fault[KMS_FAULT_SIZE] = "";
	struct kms_request r;

	if (kms_decode_encrypt(in, &r, fault) != 0) {
		require(fault[0]);
		return;
	}
	require(r.plaintext.len >= 1 && r.plaintext.len < KMS_CIPHERTEXT_MAX);
	kms_request_free(&r);
}

/* Read again from an answer that repeats it. */
static void
try_answer(const struct kms_decrypt *d)
{
	char fault[KMS_FAULT_SIZE];
	struct kms_encoded e;

	require(kms_encode_encrypt(d->ciphertext, "key", d->annotations, d->annotations_count, &e,
			fault) == 0);
	require(e.len > d->ciphertext.len);
	free(e.data);
}

static void
try_decrypt(struct kms_bytes in)
{
	char fault[KMS_FAULT_SIZE] = "";
	struct kms_request r;
	size_t total = 0;
	int err = kms_decode_decrypt(in, &r, fault);

	if (err != 0) {
		require(fault[0]);
		return;
	}
	require(r.decrypt.ciphertext.len >= 1 && r.decrypt.ciphertext.len <= KMS_CIPHERTEXT_MAX);
	require(r.decrypt.key_id.len >= 1 && r.decrypt.key_id.len <= KMS_KEY_ID_MAX);
	for (size_t i = 0; i < r.decrypt.annotations_count; i++) {
		total += r.annotations[i].name.len + r.annotations[i].value.len;
		require(memchr(r.annotations[i].name.data, '.', r.annotations[i].name.len));
	}
	require(total <= KMS_ANNOTATIONS_MAX);
	try_answer(&r.decrypt);
	kms_request_free(&r);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct kms_bytes in = { data, size };
	char fault[KMS_FAULT_SIZE];

	if (size > 65536) /* gRPC's limit */
		return 0;
	kms_decode_status(in, fault);
	try_encrypt(in);
	try_decrypt(in);
	return 0;
}
