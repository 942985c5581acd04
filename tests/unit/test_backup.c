/* SPDX-License-Identifier: Apache-2.0 */
/* The file of a backup: what is read, what is refused, what seal and signature are made over. */
#include "kekd/backup.h"
#include "kekd/err.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <openssl/ec.h>
#include <openssl/ecdsa.h>
#include <openssl/evp.h>
#include <openssl/x509.h>
#include <string.h>

#define ZEROS "0000000000000000000000000000000000000000000000000000000000000000"
#define RECORDS \
	"[{\"path\":\"clients/a\",\"commit\":3,\"body\":{}},{\"path\":\"keys/" \
	"b\",\"commit\":7,\"body\":{\"x\":1}}]"
#define HEAD \
	"{\"kekd_backup\":1,\"cluster\":\"test\",\"generation\":\"11111111-1111-4111-8111-" \
	"111111111111\",\"node\":\"n\",\"created\":\"2026-01-31T12:00:00.000000Z\"," \
	"\"version\":\"1\",\"revision\":9,\"audit\":{\"sequence\":4,\"head\":\"" ZEROS "\"},"
#define SEAL "\"seal\":{\"key\":\"22222222-2222-4222-8222-222222222222\",\"hmac\":\"" ZEROS "\"}"
#define GOOD HEAD "\"records\":" RECORDS "," SEAL "}"

static void
parse(const char *text, struct backup *ret_backup)
{
	char error[JSON_ERROR_SIZE] = "";

	if (backup_parse(text, strlen(text), ret_backup, error) != 0)
		fail_msg("%s", error);
}

static void
a_whole_backup_is_read(void **state)
{
	struct backup b;

	(void)state;
	parse(GOOD, &b);
	assert_string_equal(b.cluster, "test");
	assert_int_equal(b.revision, 9);
	assert_int_equal(b.audit.sequence, 4);
	assert_false(b.is_signed);
	assert_int_equal(backup_count(&b, "keys/"), 1);
	assert_int_equal(backup_count(&b, "clients/"), 1);
	backup_free(&b);
}

static void
what_is_not_as_kekd_writes_it_is_refused(void **state)
{
	static const char *const bad[] = {
		"",
		"[]",
		"{}",
		HEAD SEAL "}",
		HEAD "\"records\":{}," SEAL "}",
		HEAD "\"records\":[1]," SEAL "}",
		HEAD "\"records\":[{\"path\":\"a\",\"commit\":1}]," SEAL "}",
		HEAD "\"records\":[{\"path\":\"b\",\"commit\":1,\"body\":{}},{\"path\":\"a\","
		     "\"commit\":1,\"body\":{}}]," SEAL "}",
		HEAD "\"records\":[{\"path\":\"a\",\"commit\":1,\"body\":{}},{\"path\":\"a\","
		     "\"commit\":1,\"body\":{}}]," SEAL "}",
		HEAD "\"records\":[],\"more\":1," SEAL "}",
		HEAD "\"records\":[],\"seal\":{\"key\":\"x\",\"hmac\":\"" ZEROS "\"}}",
		HEAD "\"records\":[]," SEAL ",\"signature\":{\"key\":\"AAAA\",\"value\":\"AAAA\"}}",
		HEAD "\"records\":[]," SEAL ",\"signature\":{\"key\":\"!\",\"value\":\"AAAA\"}}",
	};

	(void)state;
	for (size_t i = 0; i < STR_COUNT(bad); i++) {
		char error[JSON_ERROR_SIZE] = "";
		struct backup b = { 0 };
		if (backup_parse(bad[i], strlen(bad[i]), &b, error) != KEKD_EINVALID)
			fail_msg("taken: %s", bad[i]);
		assert_string_not_equal(error, "");
		assert_null(b.document);
	}
}

static void
the_digest_is_of_what_it_says_not_of_how_it_is_laid_out(void **state)
{
	struct backup a, b, c;

	(void)state;
	parse(GOOD, &a);
	parse("  " HEAD "\n\"records\": " RECORDS " , " SEAL " } ", &b);
	parse(HEAD "\"records\":[]," SEAL "}", &c);
	assert_memory_equal(a.digest, b.digest, sizeof(a.digest));
	assert_memory_not_equal(a.digest, c.digest, sizeof(a.digest));
	/* Nor of seal and signature, which are made over it. */
	assert_int_equal(
		backup_add_seal(a.document, "33333333-3333-4333-8333-333333333333", c.digest), 0);
	assert_int_equal(backup_digest(a.document, c.digest), 0);
	assert_memory_equal(a.digest, c.digest, sizeof(a.digest));
	backup_free(&a);
	backup_free(&b);
	backup_free(&c);
}

/* r and s of a DER signature. */
static void
raw_signature(const uint8_t *der, size_t len, uint8_t ret_raw[BACKUP_SIGNATURE_SIZE])
{
	ECDSA_SIG *sig = d2i_ECDSA_SIG(NULL, &der, (long)len);

	assert_non_null(sig);
	assert_int_equal(BN_bn2binpad(ECDSA_SIG_get0_r(sig), ret_raw, 32), 32);
	assert_int_equal(BN_bn2binpad(ECDSA_SIG_get0_s(sig), ret_raw + 32, 32), 32);
	ECDSA_SIG_free(sig);
}

static void
sign(EVP_PKEY *key, const uint8_t digest[BACKUP_DIGEST_SIZE],
	uint8_t ret_raw[BACKUP_SIGNATURE_SIZE])
{
	EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new(key, NULL);
	uint8_t der[128];
	size_t len = sizeof(der);

	assert_int_equal(EVP_PKEY_sign_init(ctx), 1);
	assert_int_equal(EVP_PKEY_sign(ctx, der, &len, digest, BACKUP_DIGEST_SIZE), 1);
	raw_signature(der, len, ret_raw);
	EVP_PKEY_CTX_free(ctx);
}

static void
a_signature_counts_for_its_key_and_digest_alone(void **state)
{
	EVP_PKEY *key = EVP_EC_gen("P-256"), *other = EVP_EC_gen("P-384");
	uint8_t der[256], *p = der, digest[BACKUP_DIGEST_SIZE] = { 7 };
	uint8_t signature[BACKUP_SIGNATURE_SIZE];
	int len = i2d_PUBKEY(key, &p), other_len;

	(void)state;
	sign(key, digest, signature);
	assert_int_equal(backup_check_signature(der, (size_t)len, digest, signature), 0);
	digest[0] ^= 1;
	assert_int_not_equal(backup_check_signature(der, (size_t)len, digest, signature), 0);
	digest[0] ^= 1;
	signature[63] ^= 1;
	assert_int_not_equal(backup_check_signature(der, (size_t)len, digest, signature), 0);
	memset(signature, 0, sizeof(signature));
	assert_int_not_equal(backup_check_signature(der, (size_t)len, digest, signature), 0);
	assert_int_not_equal(backup_check_signature(der, 10, digest, signature), 0);
	p = der;
	other_len = i2d_PUBKEY(other, &p);
	assert_int_not_equal(backup_check_signature(der, (size_t)other_len, digest, signature), 0);
	EVP_PKEY_free(key);
	EVP_PKEY_free(other);
}

static void
what_is_added_is_read_again(void **state)
{
	uint8_t key[91] = { 1, 2, 3 }, signature[BACKUP_SIGNATURE_SIZE] = { 4 };
	struct backup a, b;
	char *text;

	(void)state;
	parse(GOOD, &a);
	assert_int_equal(backup_add_signature(a.document, key, sizeof(key), signature), 0);
	text = json_canonical(a.document, NULL);
	parse(text, &b);
	assert_true(b.is_signed);
	assert_int_equal(b.key_len, sizeof(key));
	assert_memory_equal(b.key, key, sizeof(key));
	assert_memory_equal(b.signature, signature, sizeof(signature));
	json_text_free(text);
	backup_free(&a);
	backup_free(&b);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_whole_backup_is_read),
		cmocka_unit_test(what_is_not_as_kekd_writes_it_is_refused),
		cmocka_unit_test(the_digest_is_of_what_it_says_not_of_how_it_is_laid_out),
		cmocka_unit_test(a_signature_counts_for_its_key_and_digest_alone),
		cmocka_unit_test(what_is_added_is_read_again),
	};

	json_open();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
