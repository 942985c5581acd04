/* SPDX-License-Identifier: Apache-2.0 */
/* The blob and the context, against the published vectors; AES-GCM itself is OpenSSL's here. */
#include "kekd/blob.h"
#include "kekd/err.h"
#include "kekd/str.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

struct vectors {
	json_t *doc;
	uint8_t kek[32];
	struct uuid version;
};

static const char *
text_of(const json_t *o, const char *member)
{
	const char *text = json_string_value(json_object_get(o, member));

	assert_non_null(text);
	return text;
}

static int
load_vectors(void **state)
{
	static struct vectors v;
	const char *source = getenv("srcdir");
	char path[4096];

	snprintf(path, sizeof(path), "%s/doc/formats/vectors.json", source ? source : ".");
	v.doc = json_load_file(path, JSON_REJECT_DUPLICATES, NULL);
	if (!v.doc || str_unhex(text_of(v.doc, "kek"), v.kek, sizeof(v.kek)) < 0)
		return -1;
	*state = &v;
	return uuid_parse(text_of(v.doc, "version"), &v.version);
}

static int
free_vectors(void **state)
{
	json_decref(((struct vectors *)*state)->doc);
	return 0;
}

static size_t
unbase64(const char *text, uint8_t *ret_data, size_t size)
{
	size_t len = 0;

	assert_int_equal(str_unbase64(text, strlen(text), ret_data, size, &len), 0);
	return len;
}

static void
encrypt(const struct vectors *v, const uint8_t *iv, size_t iv_len, const struct buf *aad,
	const uint8_t *in, size_t len, uint8_t *ret_out)
{
	EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
	int n;

	assert_non_null(c);
	assert_int_equal(EVP_EncryptInit_ex(c, EVP_aes_256_gcm(), NULL, NULL, NULL), 1);
	EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_AEAD_SET_IVLEN, (int)iv_len, NULL);
	assert_int_equal(EVP_EncryptInit_ex(c, NULL, NULL, v->kek, iv), 1);
	assert_int_equal(EVP_EncryptUpdate(c, NULL, &n, aad->data, (int)aad->len), 1);
	assert_int_equal(EVP_EncryptUpdate(c, ret_out, &n, in, (int)len), 1);
	assert_int_equal(EVP_EncryptFinal_ex(c, ret_out + n, &n), 1);
	EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_AEAD_GET_TAG, BLOB_TAG_SIZE, ret_out + len);
	EVP_CIPHER_CTX_free(c);
}

static bool
decrypts(const struct vectors *v, const struct blob *blob, const struct buf *aad)
{
	size_t len = blob->ciphertext_len - BLOB_TAG_SIZE;
	EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
	uint8_t out[BLOB_PLAINTEXT_MAX];
	bool good;
	int n;

	assert_non_null(c);
	EVP_DecryptInit_ex(c, EVP_aes_256_gcm(), NULL, NULL, NULL);
	EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_AEAD_SET_IVLEN, blob->iv_len, NULL);
	EVP_DecryptInit_ex(c, NULL, NULL, v->kek, blob->iv);
	EVP_DecryptUpdate(c, NULL, &n, aad->data, (int)aad->len);
	EVP_DecryptUpdate(c, out, &n, blob->ciphertext, (int)len);
	EVP_CIPHER_CTX_ctrl(
		c, EVP_CTRL_AEAD_SET_TAG, BLOB_TAG_SIZE, (void *)(blob->ciphertext + len));
	good = EVP_DecryptFinal_ex(c, out + n, &n) == 1;
	EVP_CIPHER_CTX_free(c);
	return good;
}

static void
put_aad(struct buf *b, const struct vectors *v, uint8_t iv_len, const json_t *context)
{
	blob_put_header(b, &v->version, BLOB_AES256_GCM, iv_len);
	assert_int_equal(blob_put_context(b, context), 0);
	assert_false(b->bad);
}

static void
check_vector(const struct vectors *v, const json_t *one)
{
	struct buf aad = BUF_INIT(BLOB_AAD_MAX), blob = BUF_INIT(BLOB_SIZE_MAX);
	uint8_t plain[BLOB_PLAINTEXT_MAX], iv[BLOB_IV_MAX], expected[BLOB_SIZE_MAX];
	uint8_t sealed[BLOB_PLAINTEXT_MAX + BLOB_TAG_SIZE], expected_aad[BLOB_AAD_MAX];
	size_t iv_len = strlen(text_of(one, "iv")) / 2;
	size_t len = unbase64(text_of(one, "plaintext"), plain, sizeof(plain));
	size_t blob_len = unbase64(text_of(one, "blob"), expected, sizeof(expected));
	struct blob parsed;

	assert_int_equal(str_unhex(text_of(one, "iv"), iv, iv_len), 0);
	put_aad(&aad, v, (uint8_t)iv_len, json_object_get(one, "context"));
	assert_int_equal(str_unhex(text_of(one, "aad"), expected_aad, aad.len), 0);
	assert_memory_equal(aad.data, expected_aad, aad.len);

	encrypt(v, iv, iv_len, &aad, plain, len, sealed);
	blob_put_header(&blob, &v->version, BLOB_AES256_GCM, (uint8_t)iv_len);
	buf_put(&blob, iv, iv_len);
	buf_put(&blob, sealed, len + BLOB_TAG_SIZE);
	assert_int_equal(blob.len, blob_len);
	assert_memory_equal(blob.data, expected, blob_len);

	assert_int_equal(blob_parse(expected, blob_len, &parsed), 0);
	assert_true(uuid_equal(&parsed.version, &v->version));
	assert_int_equal(parsed.algorithm, BLOB_AES256_GCM);
	assert_int_equal(parsed.iv_len, iv_len);
	assert_memory_equal(parsed.iv, iv, iv_len);
	assert_ptr_equal(parsed.header, expected);
	assert_int_equal(parsed.ciphertext_len, len + BLOB_TAG_SIZE);
	assert_true(decrypts(v, &parsed, &aad));
	buf_free(&aad);
	buf_free(&blob);
}

static void
every_published_vector_is_what_the_code_makes_and_reads(void **state)
{
	const struct vectors *v = *state;
	json_t *list = json_object_get(v->doc, "vectors"), *one;
	size_t i;

	assert_true(json_array_size(list) > 0);
	json_array_foreach(list, i, one) {
		check_vector(v, one);
	}
}

/* As unwrap goes: the version is compared before the token would be asked. */
static bool
unwraps(const struct vectors *v, const uint8_t *data, size_t len, const json_t *context)
{
	struct buf aad = BUF_INIT(BLOB_AAD_MAX);
	struct blob blob;
	bool good;
	int err = blob_parse(data, len, &blob);

	if (err < 0) {
		assert_int_equal(err, KEKD_EUNWRAP);
		return false;
	}
	put_aad(&aad, v, blob.iv_len, context);
	good = uuid_equal(&blob.version, &v->version) && decrypts(v, &blob, &aad);
	buf_free(&aad);
	return good;
}

static void
a_blob_that_was_cut_changed_or_has_another_context_is_refused(void **state)
{
	const struct vectors *v = *state;
	json_t *list = json_object_get(v->doc, "refused_blobs"), *one;
	uint8_t data[BLOB_SIZE_MAX + 1];
	size_t i;

	assert_true(json_array_size(list) > 0);
	json_array_foreach(list, i, one) {
		size_t len = unbase64(text_of(one, "blob"), data, sizeof(data));
		if (unwraps(v, data, len, json_object_get(one, "context")))
			fail_msg("not refused: %s", text_of(one, "name"));
	}
}

static void
a_context_outside_its_bounds_is_refused_and_appends_nothing(void **state)
{
	const struct vectors *v = *state;
	json_t *list = json_object_get(v->doc, "refused_contexts"), *one;
	struct buf b = BUF_INIT(BLOB_AAD_MAX);
	size_t i;

	assert_true(json_array_size(list) > 0);
	json_array_foreach(list, i, one) {
		int err = blob_put_context(&b, json_object_get(one, "context"));
		if (err != KEKD_ECONTEXT || b.len > 0)
			fail_msg("not refused: %s", text_of(one, "name"));
	}
	buf_free(&b);
}

static void
no_context_and_an_empty_one_are_the_same(void **state)
{
	struct buf b = BUF_INIT(BLOB_AAD_MAX);
	json_t *empty = json_object();

	(void)state;
	assert_int_equal(blob_put_context(&b, NULL), 0);
	assert_int_equal(blob_put_context(&b, empty), 0);
	assert_int_equal(b.len, 0);
	json_decref(empty);
	buf_free(&b);
}

static void
no_cut_and_no_single_changed_bit_of_a_blob_is_taken(void **state)
{
	const struct vectors *v = *state;
	const json_t *one = json_array_get(json_object_get(v->doc, "vectors"), 2);
	const json_t *context = json_object_get(one, "context");
	uint8_t data[BLOB_SIZE_MAX];
	size_t len = unbase64(text_of(one, "blob"), data, sizeof(data));

	for (size_t cut = 0; cut < len; cut++) {
		uint8_t *exact = malloc(cut ? cut : 1);
		memcpy(exact, data, cut);
		assert_false(unwraps(v, exact, cut, context));
		free(exact);
	}
	for (size_t at = 0; at < len; at++)
		for (unsigned bit = 0; bit < 8; bit++) {
			data[at] ^= (uint8_t)(1u << bit);
			assert_false(unwraps(v, data, len, context));
			data[at] ^= (uint8_t)(1u << bit);
		}
	assert_true(unwraps(v, data, len, context));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_published_vector_is_what_the_code_makes_and_reads),
		cmocka_unit_test(a_blob_that_was_cut_changed_or_has_another_context_is_refused),
		cmocka_unit_test(a_context_outside_its_bounds_is_refused_and_appends_nothing),
		cmocka_unit_test(no_context_and_an_empty_one_are_the_same),
		cmocka_unit_test(no_cut_and_no_single_changed_bit_of_a_blob_is_taken),
	};

	return cmocka_run_group_tests(tests, load_vectors, free_vectors);
}
