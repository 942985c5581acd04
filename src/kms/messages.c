/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages by protobuf-c, whose memory is counted and wiped. A message that breaks the contract is
 * refused here, before anybody acts on it.
 */
#include "messages.h"

#include "kekd/blob.h"
#include "kekd/err.h"
#include "kekd/secret.h"
#include "kekd/str.h"

#include <errno.h>
#include <src/kms/kms.pb-c.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* What the longest ciphertext can hold, whatever the algorithm's IV. */
#define PLAINTEXT_MAX (KMS_CIPHERTEXT_MAX - BLOB_HEADER_SIZE - BLOB_IV_MAX - BLOB_TAG_SIZE)
/* Many tiny annotations take more memory than they have bytes: of this a message may have so much.
 */
#define MEMORY_MAX (4u << 20)

static int __attribute__((format(printf, 2, 3)))
fault(char ret_fault[KMS_FAULT_SIZE], const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	vsnprintf(ret_fault, KMS_FAULT_SIZE, format, ap);
	va_end(ap);
	return KEKD_EINVALID;
}

/* ---- protobuf-c's memory ---- */

struct budget {
	size_t left;
};

static void *
take(void *user, size_t size)
{
	struct budget *b = user;

	if (b && size > b->left)
		return NULL;
	if (b)
		b->left -= size;
	return malloc(size);
}

static void
give_back(void *user, void *memory)
{
	(void)user;
	secret_wiping_free(memory);
}

static ProtobufCAllocator freeing = { take, give_back, NULL };

static void *
unpack(const ProtobufCMessageDescriptor *descriptor, struct kms_bytes in)
{
	struct budget budget = { MEMORY_MAX };
	ProtobufCAllocator allocator = { take, give_back, &budget };

	return protobuf_c_message_unpack(
		descriptor, &allocator, in.len, in.data ? in.data : (const uint8_t *)"");
}

static void
release(void *message)
{
	if (message)
		protobuf_c_message_free_unpacked(message, &freeing);
}

static int
malformed(char ret_fault[KMS_FAULT_SIZE])
{
	return fault(ret_fault, "the message is not the protobuf that the method takes");
}

static struct kms_bytes
bytes_of(ProtobufCBinaryData b)
{
	return (struct kms_bytes){ b.data, b.len };
}

/* ---- what the contract says of sizes and names ---- */

static int
check_size(const char *what, size_t len, size_t max, char ret_fault[KMS_FAULT_SIZE])
{
	if (len >= 1 && len <= max)
		return 0;
	return fault(ret_fault, "%s has %zu bytes: it must have 1 to %zu", what, len, max);
}

static bool
is_label_byte(uint8_t c)
{
	return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-';
}

/* A domain name in lower case of two labels or more: RFC 1123. */
static bool
is_domain(struct kms_bytes name)
{
	size_t labels = 0, len = 0;

	if (name.len > 253)
		return false;
	for (size_t i = 0; i <= name.len; i++) {
		if (i < name.len && is_label_byte(name.data[i])) {
			len++;
			continue;
		}
		if ((i < name.len && name.data[i] != '.') || len == 0 || len > 63 ||
			name.data[i - len] == '-' || name.data[i - 1] == '-')
			return false;
		labels++;
		len = 0;
	}
	return labels >= 2;
}

static int
compare_names(const void *a, const void *b)
{
	const struct kms_annotation *x = a, *y = b;
	size_t n = x->name.len < y->name.len ? x->name.len : y->name.len;
	int order = memcmp(x->name.data, y->name.data, n);

	return order ? order : (x->name.len > y->name.len) - (x->name.len < y->name.len);
}

/* A map names each of its keys once; which of two would count, nobody should have to guess. Sorts
 * them. */
static int
check_annotations(struct kms_annotation *annotations, size_t count, char ret_fault[KMS_FAULT_SIZE])
{
	size_t total = 0;

	for (size_t i = 0; i < count; i++) {
		total += annotations[i].name.len + annotations[i].value.len;
		if (!is_domain(annotations[i].name))
			return fault(ret_fault,
				"an annotation's name is no domain name of two labels or more in "
				"lower case");
	}
	if (total > KMS_ANNOTATIONS_MAX)
		return fault(ret_fault, "the annotations have %zu bytes: at most %d are allowed",
			total, KMS_ANNOTATIONS_MAX);
	if (count > 1)
		qsort(annotations, count, sizeof(*annotations), compare_names);
	for (size_t i = 1; i < count; i++)
		if (compare_names(&annotations[i - 1], &annotations[i]) == 0)
			return fault(ret_fault, "an annotation is given twice");
	return 0;
}

/* ---- requests ---- */

int
kms_decode_status(struct kms_bytes in, char ret_fault[KMS_FAULT_SIZE])
{
	void *message = unpack(&kms__status_request__descriptor, in);

	release(message);
	return message ? 0 : malformed(ret_fault);
}

int
kms_decode_encrypt(
	struct kms_bytes in, struct kms_request *ret_request, char ret_fault[KMS_FAULT_SIZE])
{
	Kms__EncryptRequest *message = unpack(&kms__encrypt_request__descriptor, in);
	struct kms_request r = { .message = message };
	int err;

	if (!message)
		return malformed(ret_fault);
	r.plaintext = bytes_of(message->plaintext);
	r.uid = bytes_of(message->uid);
	err = check_size("the plaintext", r.plaintext.len, PLAINTEXT_MAX, ret_fault);
	if (err)
		kms_request_free(&r);
	else
		*ret_request = r;
	return err;
}

static int
take_annotations(struct kms_request *r, const Kms__DecryptRequest *message)
{
	size_t count = message->n_annotations;

	r->annotations = calloc(count ? count : 1, sizeof(*r->annotations));
	if (!r->annotations)
		return -ENOMEM;
	for (size_t i = 0; i < count; i++)
		r->annotations[i] = (struct kms_annotation){ bytes_of(message->annotations[i]->key),
			bytes_of(message->annotations[i]->value) };
	r->decrypt.annotations = r->annotations;
	r->decrypt.annotations_count = count;
	return 0;
}

int
kms_decode_decrypt(
	struct kms_bytes in, struct kms_request *ret_request, char ret_fault[KMS_FAULT_SIZE])
{
	Kms__DecryptRequest *message = unpack(&kms__decrypt_request__descriptor, in);
	struct kms_request r = { .message = message };
	int err;

	if (!message)
		return malformed(ret_fault);
	r.decrypt.ciphertext = bytes_of(message->ciphertext);
	r.decrypt.uid = bytes_of(message->uid);
	r.decrypt.key_id = bytes_of(message->key_id);
	err = check_size("the ciphertext", r.decrypt.ciphertext.len, KMS_CIPHERTEXT_MAX, ret_fault);
	if (!err)
		err = check_size("the key_id", r.decrypt.key_id.len, KMS_KEY_ID_MAX, ret_fault);
	if (!err)
		err = take_annotations(&r, message);
	if (!err)
		err = check_annotations(r.annotations, r.decrypt.annotations_count, ret_fault);
	if (err)
		kms_request_free(&r);
	else
		*ret_request = r;
	return err;
}

void
kms_request_free(struct kms_request *r)
{
	free(r->annotations);
	release(r->message);
	*r = (struct kms_request){ 0 };
}

/* ---- answers ---- */

static ProtobufCBinaryData
binary(const void *data, size_t len)
{
	/* Only read from. */
	return (ProtobufCBinaryData){ len, (uint8_t *)(uintptr_t)data };
}

static int
pack(const ProtobufCMessage *message, struct kms_encoded *ret_encoded)
{
	size_t len = protobuf_c_message_get_packed_size(message);
	uint8_t *data = malloc(len ? len : 1);

	if (!data)
		return -ENOMEM;
	protobuf_c_message_pack(message, data);
	*ret_encoded = (struct kms_encoded){ data, len };
	return 0;
}

int
kms_encode_status(
	const char *key_id, struct kms_encoded *ret_encoded, char ret_fault[KMS_FAULT_SIZE])
{
	Kms__StatusResponse message = KMS__STATUS_RESPONSE__INIT;
	int err = check_size("the key_id", strlen(key_id), KMS_KEY_ID_MAX, ret_fault);

	message.version = binary("v2", 2);
	message.healthz = binary("ok", 2);
	message.key_id = binary(key_id, strlen(key_id));
	return err ? err : pack(&message.base, ret_encoded);
}

static int
check_encrypted(struct kms_bytes ciphertext, const char *key_id,
	const struct kms_annotation *annotations, size_t count, char ret_fault[KMS_FAULT_SIZE])
{
	struct kms_annotation *sorted = calloc(count ? count : 1, sizeof(*sorted));
	int err = sorted ? 0 : -ENOMEM;

	if (!err && count > 0)
		memcpy(sorted, annotations, count * sizeof(*sorted));
	if (!err)
		err = check_size("the ciphertext", ciphertext.len, KMS_CIPHERTEXT_MAX, ret_fault);
	if (!err)
		err = check_size("the key_id", strlen(key_id), KMS_KEY_ID_MAX, ret_fault);
	if (!err)
		err = check_annotations(sorted, count, ret_fault);
	free(sorted);
	return err;
}

static int
pack_encrypted(Kms__EncryptResponse *message, const struct kms_annotation *annotations,
	size_t count, struct kms_encoded *ret_encoded)
{
	Kms__Annotation *entries = calloc(count ? count : 1, sizeof(*entries));
	Kms__Annotation **list = calloc(count ? count : 1, sizeof(*list));
	int err = entries && list ? 0 : -ENOMEM;

	for (size_t i = 0; !err && i < count; i++) {
		kms__annotation__init(&entries[i]);
		entries[i].key = binary(annotations[i].name.data, annotations[i].name.len);
		entries[i].value = binary(annotations[i].value.data, annotations[i].value.len);
		list[i] = &entries[i];
	}
	message->n_annotations = count;
	message->annotations = list;
	if (!err)
		err = pack(&message->base, ret_encoded);
	free(entries);
	free(list);
	return err;
}

int
kms_encode_encrypt(struct kms_bytes ciphertext, const char *key_id,
	const struct kms_annotation *annotations, size_t count, struct kms_encoded *ret_encoded,
	char ret_fault[KMS_FAULT_SIZE])
{
	Kms__EncryptResponse message = KMS__ENCRYPT_RESPONSE__INIT;
	int err = check_encrypted(ciphertext, key_id, annotations, count, ret_fault);

	message.ciphertext = binary(ciphertext.data, ciphertext.len);
	message.key_id = binary(key_id, strlen(key_id));
	return err ? err : pack_encrypted(&message, annotations, count, ret_encoded);
}

int
kms_encode_decrypt(
	struct kms_bytes plaintext, struct kms_encoded *ret_encoded, char ret_fault[KMS_FAULT_SIZE])
{
	Kms__DecryptResponse message = KMS__DECRYPT_RESPONSE__INIT;

	if (plaintext.len == 0)
		return fault(ret_fault, "the plaintext is empty");
	message.plaintext = binary(plaintext.data, plaintext.len);
	return pack(&message.base, ret_encoded);
}
