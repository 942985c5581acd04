/* SPDX-License-Identifier: Apache-2.0 */
/* The methods, a row each: the message is read, the service asked. And what it answers, as bytes.
 */
#include "calls.h"

#include "messages.h"

#include "kekd/err.h"
#include "kekd/log.h"
#include "kekd/secret.h"
#include "kekd/str.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define TEXT_SIZE 1024

/* ---- requests ---- */

static void
refuse(struct kms_service *s, struct kms_call *c, enum kms_method method, int err,
	const char *fault)
{
	kms_grpc_malformed(c);
	if (err == KEKD_EINVALID)
		kms_service_refuse(s, c, method, KMS_INVALID_ARGUMENT, fault);
	else
		kms_service_refuse(s, c, method, KMS_RESOURCE_EXHAUSTED,
			"kekd-kms has no memory: try again later");
}

static void
take_status(struct kms_service *s, struct kms_call *c, struct kms_bytes message)
{
	char fault[KMS_FAULT_SIZE];
	int err = kms_decode_status(message, fault);

	if (err)
		refuse(s, c, METHOD_STATUS, err, fault);
	else
		kms_service_status(s, c);
}

static void
take_encrypt(struct kms_service *s, struct kms_call *c, struct kms_bytes message)
{
	char fault[KMS_FAULT_SIZE];
	struct kms_request r;
	int err = kms_decode_encrypt(message, &r, fault);

	if (err) {
		refuse(s, c, METHOD_ENCRYPT, err, fault);
		return;
	}
	kms_service_encrypt(s, c, r.plaintext, r.uid);
	kms_request_free(&r);
}

static void
take_decrypt(struct kms_service *s, struct kms_call *c, struct kms_bytes message)
{
	char fault[KMS_FAULT_SIZE];
	struct kms_request r;
	int err = kms_decode_decrypt(message, &r, fault);

	if (err) {
		refuse(s, c, METHOD_DECRYPT, err, fault);
		return;
	}
	kms_service_decrypt(s, c, &r.decrypt);
	kms_request_free(&r);
}

static const char *const names[METHODS] = {
	[METHOD_STATUS] = "/v2.KeyManagementService/Status",
	[METHOD_ENCRYPT] = "/v2.KeyManagementService/Encrypt",
	[METHOD_DECRYPT] = "/v2.KeyManagementService/Decrypt",
};
static void (*const takers[METHODS])(struct kms_service *, struct kms_call *, struct kms_bytes) = {
	[METHOD_STATUS] = take_status,
	[METHOD_ENCRYPT] = take_encrypt,
	[METHOD_DECRYPT] = take_decrypt,
};

static void
handle(void *user, struct kms_call *c, size_t method, struct kms_bytes message)
{
	struct kms_calls *calls = user;

	pthread_mutex_lock(&calls->lock);
	if (calls->service)
		takers[method](calls->service, c, message);
	else
		kms_answer_error(c, KMS_UNAVAILABLE, "kekd-kms is stopping: try again");
	pthread_mutex_unlock(&calls->lock);
}

int
kms_calls_open(struct kms_calls *calls, struct kms_grpc **ret_grpc)
{
	const struct kms_grpc_config config = { names, STR_COUNT(names), handle, calls };

	return kms_grpc_open(&config, ret_grpc);
}

void
kms_calls_detach(struct kms_calls *calls)
{
	pthread_mutex_lock(&calls->lock);
	calls->service = NULL;
	pthread_mutex_unlock(&calls->lock);
}

/* ---- answers ---- */

static void
answer(struct kms_call *c, int err, const struct kms_encoded *e, const char *fault)
{
	if (!err) {
		kms_grpc_reply(c, e->data, e->len);
		return;
	}
	if (err != KEKD_EINVALID)
		fault = "there is no memory: try again later";
	log_error("an answer cannot be given: %s", fault);
	kms_grpc_fail(c, err == KEKD_EINVALID ? KMS_INTERNAL : KMS_RESOURCE_EXHAUSTED, fault);
}

void
kms_answer_status(struct kms_call *c, const char *key_id)
{
	struct kms_encoded e = { 0 };
	char fault[KMS_FAULT_SIZE];
	int err = kms_encode_status(key_id, &e, fault);

	answer(c, err, &e, fault);
}

void
kms_answer_encrypt(struct kms_call *c, struct kms_bytes ciphertext, const char *key_id,
	const struct kms_annotation *annotations, size_t count)
{
	struct kms_encoded e = { 0 };
	char fault[KMS_FAULT_SIZE];
	int err = kms_encode_encrypt(ciphertext, key_id, annotations, count, &e, fault);

	answer(c, err, &e, fault);
}

void
kms_answer_decrypt(struct kms_call *c, struct kms_bytes plaintext)
{
	struct kms_encoded e = { 0 };
	char fault[KMS_FAULT_SIZE];
	int err = kms_encode_decrypt(plaintext, &e, fault);

	answer(c, err, &e, fault);
}

void
kms_answer_error(struct kms_call *c, enum kms_status status, const char *format, ...)
{
	char text[TEXT_SIZE];
	va_list ap;

	va_start(ap, format);
	vsnprintf(text, sizeof(text), format, ap);
	va_end(ap);
	kms_grpc_fail(c, status, text);
}
