/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages of the Kubernetes plugin: what the contract allows is read and written, byte for byte as
 * protobuf has it; all else is refused with a text.
 */
#include "../../src/kms/messages.h"

#include "kekd/err.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define ROOM 70000

/* A message under construction: fields of kind 2, bytes. */
struct text {
	uint8_t data[ROOM];
	size_t len;
};

static void
varint(struct text *t, size_t n)
{
	for (; n > 127; n >>= 7)
		t->data[t->len++] = (uint8_t)(n | 128);
	t->data[t->len++] = (uint8_t)n;
}

static void
field(struct text *t, unsigned number, const void *data, size_t len)
{
	varint(t, number << 3 | 2);
	varint(t, len);
	memcpy(t->data + t->len, data, len);
	t->len += len;
}

static void
filled(struct text *t, unsigned number, char fill, size_t len)
{
	static char data[ROOM];

	memset(data, fill, len);
	field(t, number, data, len);
}

static void
annotation(struct text *t, const char *name, size_t value_len)
{
	struct text *entry = calloc(1, sizeof(*entry));

	field(entry, 1, name, strlen(name));
	filled(entry, 2, 'v', value_len);
	field(t, 4, entry->data, entry->len);
	free(entry);
}

static struct kms_bytes
all(const struct text *t)
{
	return (struct kms_bytes){ t->data, t->len };
}

static void
assert_bytes(struct kms_bytes b, const char *text)
{
	assert_int_equal(b.len, strlen(text));
	assert_memory_equal(b.data, text, b.len);
}

/* ---- requests ---- */

static void
test_encrypt_is_read(void **state)
{
	struct text t = { .len = 0 };
	char fault[KMS_FAULT_SIZE];
	struct kms_request r;

	(void)state;
	field(&t, 2, "uid\0x", 5); /* in any order, a NUL inside */
	field(&t, 1, "seed", 4);
	assert_int_equal(kms_decode_encrypt(all(&t), &r, fault), 0);
	assert_bytes(r.plaintext, "seed");
	assert_int_equal(r.uid.len, 5);
	kms_request_free(&r);
}

static void
test_the_last_of_a_field_counts(void **state)
{
	struct text t = { .len = 0 };
	char fault[KMS_FAULT_SIZE];
	struct kms_request r;

	(void)state;
	field(&t, 1, "first", 5);
	field(&t, 1, "last", 4);
	field(&t, 9, "of a later release", 18);
	assert_int_equal(kms_decode_encrypt(all(&t), &r, fault), 0);
	assert_bytes(r.plaintext, "last");
	kms_request_free(&r);
}

static void
test_decrypt_is_read(void **state)
{
	struct text t = { .len = 0 };
	char fault[KMS_FAULT_SIZE];
	struct kms_request r;

	(void)state;
	field(&t, 1, "blob", 4);
	field(&t, 2, "uid", 3);
	field(&t, 3, "id\0junk", 7);
	annotation(&t, "cluster.kms.kekd", 3);
	annotation(&t, "a.b", 0);
	assert_int_equal(kms_decode_decrypt(all(&t), &r, fault), 0);
	assert_bytes(r.decrypt.ciphertext, "blob");
	assert_int_equal(r.decrypt.key_id.len, 7); /* not cut at its NUL */
	assert_int_equal(r.decrypt.annotations_count, 2);
	assert_bytes(r.decrypt.annotations[0].name, "a.b");
	assert_int_equal(r.decrypt.annotations[0].value.len, 0);
	assert_bytes(r.decrypt.annotations[1].name, "cluster.kms.kekd");
	assert_bytes(r.decrypt.annotations[1].value, "vvv");
	kms_request_free(&r);
}

static void
test_what_is_no_protobuf_is_refused(void **state)
{
	static const struct kms_bytes bad[] = {
		{ (const uint8_t *)"\xff\xff", 2 },
		{ (const uint8_t *)"\x0a\x05x", 3 }, /* longer than there is */
		{ (const uint8_t *)"\x08\x01", 2 },  /* a number where bytes belong */
		{ (const uint8_t *)"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f", 11 },
		{ (const uint8_t *)"\x00", 1 },
	};
	char fault[KMS_FAULT_SIZE];
	struct kms_request r;

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		assert_int_equal(kms_decode_encrypt(bad[i], &r, fault), KEKD_EINVALID);
		assert_int_equal(kms_decode_decrypt(bad[i], &r, fault), KEKD_EINVALID);
	}
	assert_int_equal(kms_decode_status(bad[0], fault), KEKD_EINVALID);
	assert_int_equal(kms_decode_status((struct kms_bytes){ NULL, 0 }, fault), 0);
}

static int
decode_sizes(size_t ciphertext, size_t key_id, size_t annotations)
{
	struct text *t = calloc(1, sizeof(*t));
	char fault[KMS_FAULT_SIZE];
	struct kms_request r;
	int err;

	filled(t, 1, 'c', ciphertext);
	filled(t, 3, 'k', key_id);
	if (annotations > 0)
		annotation(t, "a.b", annotations - 3);
	err = kms_decode_decrypt(all(t), &r, fault);
	if (!err)
		kms_request_free(&r);
	free(t);
	return err;
}

static void
test_sizes_are_the_contract_s(void **state)
{
	(void)state;
	assert_int_equal(decode_sizes(1024, 1024, 32768), 0);
	assert_int_equal(decode_sizes(1, 1, 0), 0);
	assert_int_equal(decode_sizes(0, 1, 0), KEKD_EINVALID);
	assert_int_equal(decode_sizes(1025, 1, 0), KEKD_EINVALID);
	assert_int_equal(decode_sizes(1, 0, 0), KEKD_EINVALID);
	assert_int_equal(decode_sizes(1, 1025, 0), KEKD_EINVALID);
	assert_int_equal(decode_sizes(1, 1, 32769), KEKD_EINVALID);
}

static int
decode_names(const char *first, const char *second)
{
	struct text t = { .len = 0 };
	char fault[KMS_FAULT_SIZE];
	struct kms_request r;
	int err;

	field(&t, 1, "c", 1);
	field(&t, 3, "k", 1);
	annotation(&t, first, 1);
	if (second)
		annotation(&t, second, 1);
	err = kms_decode_decrypt(all(&t), &r, fault);
	if (!err)
		kms_request_free(&r);
	return err;
}

static void
test_annotations_have_domain_names_once(void **state)
{
	static const char *const bad[] = { "", "a", "a.", ".a", "a..b", "A.b", "a/b.c", "-a.b",
		"a-.b", "a.b-", "a_b.c", "a.b ",
		"a.0123456789012345678901234567890123456789012345678901234567890123" };

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		assert_int_equal(decode_names(bad[i], NULL), KEKD_EINVALID);
	assert_int_equal(decode_names("a.b", "0.c-1.kms.kekd"), 0);
	assert_int_equal(decode_names("a.b", "a.bc"), 0);
	assert_int_equal(decode_names("a.b", "a.b"), KEKD_EINVALID);
}

/* ---- answers ---- */

static void
test_status_is_written(void **state)
{
	static const char expected[] = "\x0a\x02v2\x12\x02ok\x1a\x05"
				       "one.7";
	struct kms_encoded e;
	char fault[KMS_FAULT_SIZE];

	(void)state;
	assert_int_equal(kms_encode_status("one.7", &e, fault), 0);
	assert_int_equal(e.len, sizeof(expected) - 1);
	assert_memory_equal(e.data, expected, e.len);
	free(e.data);
	assert_int_equal(kms_encode_status("", &e, fault), KEKD_EINVALID);
}

static void
test_encrypted_is_written(void **state)
{
	static const char expected[] = "\x0a\x04"
				       "blob"
				       "\x12\x01k"
				       "\x1a\x08\x0a\x03"
				       "a.b"
				       "\x12\x01v";
	const struct kms_annotation a = { { (const uint8_t *)"a.b", 3 },
		{ (const uint8_t *)"v", 1 } };
	const struct kms_annotation bad = { { (const uint8_t *)"A.b", 3 },
		{ (const uint8_t *)"v", 1 } };
	uint8_t blob[1025] = "blob";
	struct kms_encoded e;
	char fault[KMS_FAULT_SIZE];

	(void)state;
	assert_int_equal(
		kms_encode_encrypt((struct kms_bytes){ blob, 4 }, "k", &a, 1, &e, fault), 0);
	assert_int_equal(e.len, sizeof(expected) - 1);
	assert_memory_equal(e.data, expected, e.len);
	free(e.data);
	assert_int_equal(
		kms_encode_encrypt((struct kms_bytes){ blob, 1025 }, "k", &a, 1, &e, fault),
		KEKD_EINVALID);
	assert_int_equal(kms_encode_encrypt((struct kms_bytes){ blob, 4 }, "k", &bad, 1, &e, fault),
		KEKD_EINVALID);
}

static void
test_decrypted_is_written(void **state)
{
	static const char expected[] = "\x0a\x04seed";
	struct kms_encoded e;
	char fault[KMS_FAULT_SIZE];

	(void)state;
	assert_int_equal(
		kms_encode_decrypt((struct kms_bytes){ (const uint8_t *)"seed", 4 }, &e, fault), 0);
	assert_int_equal(e.len, sizeof(expected) - 1);
	assert_memory_equal(e.data, expected, e.len);
	free(e.data);
	assert_int_equal(
		kms_encode_decrypt((struct kms_bytes){ NULL, 0 }, &e, fault), KEKD_EINVALID);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_encrypt_is_read),
		cmocka_unit_test(test_the_last_of_a_field_counts),
		cmocka_unit_test(test_decrypt_is_read),
		cmocka_unit_test(test_what_is_no_protobuf_is_refused),
		cmocka_unit_test(test_sizes_are_the_contract_s),
		cmocka_unit_test(test_annotations_have_domain_names_once),
		cmocka_unit_test(test_status_is_written),
		cmocka_unit_test(test_encrypted_is_written),
		cmocka_unit_test(test_decrypted_is_written),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
