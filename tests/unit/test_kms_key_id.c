/* SPDX-License-Identifier: Apache-2.0 */
/* The KMS key id: read strictly, as it comes back from etcd. */
#include "../../src/kms/key_id.h"

#include "kekd/str.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>

#define UUID "0190a0b0-c0d0-4e00-8f00-000000000001"

static void
one_that_kekd_writes_is_read(void **state)
{
	static const struct {
		const char *text;
		uint64_t activation;
	} good[] = {
		{ UUID ".1", 1 },
		{ UUID ".1048577", 1048577 },
		{ UUID ".9223372036854775807", INT64_MAX },
	};
	struct uuid version;
	struct kms_key_id id;

	(void)state;
	assert_int_equal(uuid_parse(UUID, &version), 0);
	for (size_t i = 0; i < STR_COUNT(good); i++) {
		assert_int_equal(kms_key_id_parse(good[i].text, strlen(good[i].text), &id), 0);
		assert_true(uuid_equal(&id.version, &version));
		assert_true(id.activation == good[i].activation);
		assert_string_equal(id.text, good[i].text);
	}
}

static void
whatever_else_is_refused(void **state)
{
	static const char *const bad[] = {
		"",
		".",
		"1",
		UUID,
		UUID ".",
		UUID ".0",
		UUID ".01",
		UUID ".-1",
		UUID ".+1",
		UUID ". 1",
		UUID ".1 ",
		UUID ".1\n",
		UUID ".1.2",
		UUID ".1x",
		UUID ".0x1",
		UUID ".9223372036854775808",
		UUID ".18446744073709551617",
		UUID ".99999999999999999999999999999999",
		UUID "1.1",
		UUID ":1",
		" " UUID ".1",
		"0190A0B0-C0D0-4E00-8F00-000000000001.1",
		"0190a0b0c0d04e008f00000000000001.1",
		"{0190a0b0-c0d0-4e00-8f00-00000000000}.1",
		"0190a0b0-c0d0-4e00-8f00-00000000000g.1",
	};
	struct kms_key_id id = { .activation = 7 };

	(void)state;
	for (size_t i = 0; i < STR_COUNT(bad); i++)
		assert_int_equal(kms_key_id_parse(bad[i], strlen(bad[i]), &id), -EINVAL);
	assert_true(id.activation == 7);
}

static void
what_follows_a_nul_counts(void **state)
{
	static const char with_junk[] = UUID ".1\0junk", with_nul[] = UUID ".1",
			  early[] = UUID "\0.1";
	struct kms_key_id id;

	(void)state;
	assert_int_equal(kms_key_id_parse(with_junk, sizeof(with_junk) - 1, &id), -EINVAL);
	assert_int_equal(kms_key_id_parse(with_nul, sizeof(with_nul), &id), -EINVAL);
	assert_int_equal(kms_key_id_parse(early, sizeof(early) - 1, &id), -EINVAL);
}

static void
bytes_need_not_end_with_nul(void **state)
{
	struct kms_key_id id;

	(void)state;
	assert_int_equal(kms_key_id_parse(UUID ".12345", strlen(UUID) + 3, &id), 0);
	assert_true(id.activation == 12);
	assert_string_equal(id.text, UUID ".12");
}

static void
its_hash_is_of_the_text(void **state)
{
	struct kms_key_id a, b;
	char text_a[KMS_KEY_ID_HASH_SIZE], text_b[KMS_KEY_ID_HASH_SIZE];

	(void)state;
	assert_int_equal(kms_key_id_parse(UUID ".1", strlen(UUID) + 2, &a), 0);
	assert_int_equal(kms_key_id_parse(UUID ".2", strlen(UUID) + 2, &b), 0);
	kms_key_id_hash(&a, text_a);
	kms_key_id_hash(&b, text_b);
	/* printf %s 0190a0b0-c0d0-4e00-8f00-000000000001.1 | sha256sum | cut -c 1-16 */
	assert_string_equal(text_a, "f029388614881c84");
	assert_string_not_equal(text_a, text_b);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_that_kekd_writes_is_read),
		cmocka_unit_test(whatever_else_is_refused),
		cmocka_unit_test(what_follows_a_nul_counts),
		cmocka_unit_test(bytes_need_not_end_with_nul),
		cmocka_unit_test(its_hash_is_of_the_text),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
