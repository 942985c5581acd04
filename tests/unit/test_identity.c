/* SPDX-License-Identifier: Apache-2.0 */
/* Which certificates give an identity, and which refusal the others get. All certificates are made
 * here, at a fixed time. */
#include "kekd/access.h"

#include "kekd/err.h"

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define NOW 1700000000ll
#define DAY 86400ll

struct entity {
	X509 *x;
	EVP_PKEY *key;
	uint8_t *der;
	int der_len;
};

struct spec {
	const char *cn, *san, *eku, *raw_uri;
	size_t raw_uri_len;
	int64_t from, to; /* relative to NOW; both 0: a day either way */
	bool ca, rsa1024, sha1, two_cns;
};

struct fixture {
	struct entity root, other_root, middle, stranger;
	struct identity_ca *ca;
};

static void
add_extension(X509 *x, int nid, const char *value)
{
	X509V3_CTX ctx;
	X509_EXTENSION *e;

	X509V3_set_ctx(&ctx, x, x, NULL, NULL, 0);
	e = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
	assert_non_null(e);
	X509_add_ext(x, e, -1);
	X509_EXTENSION_free(e);
}

/* What the configuration syntax cannot say: any bytes as a URI. */
static void
add_raw_uri(X509 *x, const char *bytes, size_t len)
{
	GENERAL_NAMES *names = sk_GENERAL_NAME_new_null();
	GENERAL_NAME *name = GENERAL_NAME_new();
	ASN1_IA5STRING *s = ASN1_IA5STRING_new();

	ASN1_STRING_set(s, bytes, (int)len);
	GENERAL_NAME_set0_value(name, GEN_URI, s);
	sk_GENERAL_NAME_push(names, name);
	assert_int_equal(X509_add1_ext_i2d(x, NID_subject_alt_name, names, 0, 0), 1);
	GENERAL_NAMES_free(names);
}

static void
add_cn(X509 *x, const char *cn)
{
	X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", MBSTRING_UTF8,
		(const unsigned char *)cn, -1, -1, 0);
}

static struct entity
make(const struct spec *spec, const struct entity *issuer)
{
	static long serial = 1;
	struct entity e = { .x = X509_new(),
		.key = spec->rsa1024 ? EVP_RSA_gen(1024) : EVP_EC_gen("P-256") };
	bool span = spec->from || spec->to;

	X509_set_version(e.x, X509_VERSION_3);
	ASN1_INTEGER_set(X509_get_serialNumber(e.x), serial++);
	ASN1_TIME_set(X509_getm_notBefore(e.x), NOW + (span ? spec->from : -DAY));
	ASN1_TIME_set(X509_getm_notAfter(e.x), NOW + (span ? spec->to : DAY));
	X509_set_pubkey(e.x, e.key);
	if (spec->cn)
		add_cn(e.x, spec->cn);
	if (spec->two_cns)
		add_cn(e.x, "second");
	X509_set_issuer_name(e.x, X509_get_subject_name(issuer ? issuer->x : e.x));
	add_extension(e.x, NID_basic_constraints, spec->ca ? "critical,CA:TRUE" : "CA:FALSE");
	if (spec->san)
		add_extension(e.x, NID_subject_alt_name, spec->san);
	if (spec->raw_uri)
		add_raw_uri(e.x, spec->raw_uri, spec->raw_uri_len);
	if (spec->eku)
		add_extension(e.x, NID_ext_key_usage, spec->eku);
	assert_true(X509_sign(e.x, issuer ? issuer->key : e.key,
			    spec->sha1 ? EVP_sha1() : EVP_sha256()) > 0);
	e.der_len = i2d_X509(e.x, &e.der);
	return e;
}

static void
drop(struct entity *e)
{
	X509_free(e->x);
	EVP_PKEY_free(e->key);
	OPENSSL_free(e->der);
}

static void
write_pem(const char *path, const struct entity *const *list, size_t count, const char *rest)
{
	FILE *file = fopen(path, "w");

	for (size_t i = 0; i < count; i++)
		PEM_write_X509(file, list[i]->x);
	fputs(rest, file);
	fclose(file);
}

static int
load(const struct entity *const *list, size_t count, const char *rest, struct identity_ca **ret_ca,
	char ret_error[256])
{
	char path[] = "/tmp/kekd-ca-XXXXXX";
	int fd = mkstemp(path), err;

	close(fd);
	write_pem(path, list, count, rest);
	err = identity_ca_load(path, ret_ca, ret_error);
	unlink(path);
	return err;
}

static int
setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	const struct entity *const trusted[] = { &f->other_root, &f->root };
	char error[256] = "";

	f->root = make(&(struct spec){ .cn = "root", .ca = true }, NULL);
	f->other_root = make(&(struct spec){ .cn = "other root", .ca = true }, NULL);
	f->middle = make(&(struct spec){ .cn = "middle", .ca = true }, &f->root);
	f->stranger = make(&(struct spec){ .cn = "root", .ca = true }, NULL);
	if (load(trusted, 2, "", &f->ca, error) != 0)
		fail_msg("%s", error);
	*state = f;
	return 0;
}

static int
teardown(void **state)
{
	struct fixture *f = *state;

	drop(&f->root);
	drop(&f->other_root);
	drop(&f->middle);
	drop(&f->stranger);
	identity_ca_unrefp(&f->ca);
	free(f);
	return 0;
}

static int
check(struct fixture *f, const struct spec *spec, const struct entity *issuer, bool common_name,
	struct identity *ret_identity)
{
	struct entity leaf = make(spec, issuer);
	const struct der chain[] = {
		{ leaf.der, (size_t)leaf.der_len },
		{ f->middle.der, (size_t)f->middle.der_len },
	};
	size_t count = issuer == &f->middle ? 2 : 1;
	int err;

	*ret_identity = (struct identity){ 0 };
	err = identity_verify(f->ca, chain, count, common_name, NOW * 1000000ull, ret_identity);
	drop(&leaf);
	return err;
}

static void
expect(struct fixture *f, const struct spec *spec, bool common_name, int err, const char *name)
{
	struct identity id;

	assert_int_equal(check(f, spec, &f->root, common_name, &id), err);
	assert_string_equal(id.name, name);
}

/* ---- promises ---- */

static void
the_one_uri_is_the_identity(void **state)
{
	const struct spec s = { .cn = "x", .san = "DNS:a.example,URI:spiffe://example.org/App" };
	struct identity id;

	assert_int_equal(check(*state, &s, &((struct fixture *)*state)->root, true, &id), 0);
	assert_string_equal(id.name, "uri:spiffe://example.org/App");
	assert_int_equal(id.not_after_us, (NOW + DAY) * 1000000ull);
	assert_int_equal(strncmp(id.spki, "spki:", 5), 0);
	assert_int_equal(strspn(id.spki + 5, "0123456789abcdef"), 64);
}

static void
else_the_first_dns_name_in_lower_case_is(void **state)
{
	expect(*state, &(struct spec){ .cn = "x", .san = "DNS:App.Example,DNS:b.example" }, true, 0,
		"dns:app.example");
}

static void
else_the_common_name_is_if_switched_on(void **state)
{
	expect(*state, &(struct spec){ .cn = "J\xc3\xbcrgen" }, true, 0, "cn:J\xc3\xbcrgen");
	expect(*state, &(struct spec){ .cn = "app" }, false, KEKD_ECERTIDENTITY, "");
	expect(*state, &(struct spec){ .cn = "app", .san = "email:a@example.org" }, true, 0,
		"cn:app");
}

static void
several_uris_or_common_names_are_refused(void **state)
{
	expect(*state, &(struct spec){ .cn = "x", .san = "URI:a:1,URI:a:2" }, true,
		KEKD_ECERTIDENTITY, "");
	expect(*state, &(struct spec){ .cn = "x", .two_cns = true }, true, KEKD_ECERTIDENTITY, "");
	expect(*state, &(struct spec){ 0 }, true, KEKD_ECERTIDENTITY, "");
}

static void
nul_and_control_characters_in_names_are_refused(void **state)
{
	static const char *const uris[] = { "a:b\0c", "a:b\nc", "a:b c", "a:\x7f", "a:\xc3\xbc" };

	for (size_t i = 0; i < STR_COUNT(uris); i++)
		expect(*state,
			&(struct spec){ .cn = "x",
				.raw_uri = uris[i],
				.raw_uri_len = i == 4	? 4
					       : i == 3 ? 3
							: 5 },
			true, KEKD_ECERTIDENTITY, "");
	expect(*state, &(struct spec){ .cn = "x", .raw_uri = "", .raw_uri_len = 0 }, true,
		KEKD_ECERTIDENTITY, "");
	expect(*state, &(struct spec){ .cn = "a\nb" }, true, KEKD_ECERTIDENTITY, "");
	expect(*state, &(struct spec){ .cn = "a\xc2\x85z" }, true, KEKD_ECERTIDENTITY, "");
}

static void
a_name_that_is_too_long_is_refused_not_cut(void **state)
{
	char uri[600];

	memset(uri, 'a', sizeof(uri));
	expect(*state, &(struct spec){ .raw_uri = uri, .raw_uri_len = 508 }, true,
		KEKD_ECERTIDENTITY, "");
	uri[507] = '\0';
	{
		char name[512] = "uri:";
		strcat(name, uri);
		expect(*state, &(struct spec){ .raw_uri = uri, .raw_uri_len = 507 }, true, 0, name);
	}
}

static void
an_intermediate_in_the_chain_helps_but_is_not_trusted(void **state)
{
	struct fixture *f = *state;
	const struct spec s = { .cn = "x", .san = "URI:a:b" };
	struct entity leaf = make(&s, &f->middle), own_ca, own;
	const struct der alone = { leaf.der, (size_t)leaf.der_len };
	struct identity id = { 0 };
	struct der chain[2];

	assert_int_equal(check(f, &s, &f->middle, false, &id), 0);
	assert_int_equal(
		identity_verify(f->ca, &alone, 1, false, NOW * 1000000ull, &id), KEKD_ECERTTRUST);
	own_ca = make(&(struct spec){ .cn = "own", .ca = true }, NULL);
	own = make(&s, &own_ca);
	chain[0] = (struct der){ own.der, (size_t)own.der_len };
	chain[1] = (struct der){ own_ca.der, (size_t)own_ca.der_len };
	assert_int_equal(
		identity_verify(f->ca, chain, 2, false, NOW * 1000000ull, &id), KEKD_ECERTTRUST);
	drop(&leaf);
	drop(&own_ca);
	drop(&own);
}

static void
a_certificate_that_another_client_signed_is_untrusted(void **state)
{
	struct fixture *f = *state;
	struct entity client = make(&(struct spec){ .cn = "c", .san = "URI:a:c" }, &f->root);
	struct entity forged = make(&(struct spec){ .cn = "x", .san = "URI:a:admin" }, &client);
	const struct der chain[] = { { forged.der, (size_t)forged.der_len },
		{ client.der, (size_t)client.der_len } };
	struct identity id = { 0 };

	assert_int_equal(
		identity_verify(f->ca, chain, 2, false, NOW * 1000000ull, &id), KEKD_ECERTTRUST);
	drop(&client);
	drop(&forged);
}

static void
an_unknown_ca_is_untrusted_also_under_a_known_name(void **state)
{
	struct fixture *f = *state;
	struct identity id;

	assert_int_equal(
		check(f, &(struct spec){ .cn = "x", .san = "URI:a:b" }, &f->stranger, false, &id),
		KEKD_ECERTTRUST);
	assert_string_equal(id.name, "unverified:uri:a:b");
	assert_string_equal(id.spki, "");
}

static void
a_self_signed_certificate_is_untrusted(void **state)
{
	struct identity id;

	assert_int_equal(
		check(*state, &(struct spec){ .cn = "x", .san = "URI:a:b" }, NULL, false, &id),
		KEKD_ECERTTRUST);
}

static void
an_expired_and_an_early_certificate_are_told_apart(void **state)
{
	expect(*state, &(struct spec){ .san = "URI:a:b", .from = -9 * DAY, .to = -1 }, false,
		KEKD_ECERTEXPIRED, "unverified:uri:a:b");
	expect(*state, &(struct spec){ .san = "URI:a:b", .from = 10, .to = DAY }, false,
		KEKD_ECERTEARLY, "unverified:uri:a:b");
	expect(*state, &(struct spec){ .san = "URI:a:b", .from = -DAY, .to = 10 }, false, 0,
		"uri:a:b");
}

static void
an_expired_ca_is_not_told_as_the_clients_own_expiry(void **state)
{
	struct fixture *f = *state;
	struct entity old = make(
		&(struct spec){ .cn = "old", .ca = true, .from = -9 * DAY, .to = -1 }, NULL);
	const struct entity *const list[] = { &old };
	struct identity_ca *ca = NULL;
	struct entity leaf = make(&(struct spec){ .san = "URI:a:b" }, &old);
	const struct der chain = { leaf.der, (size_t)leaf.der_len };
	struct identity id = { 0 };
	char error[256];

	(void)f;
	assert_int_equal(load(list, 1, "", &ca, error), 0);
	assert_int_equal(
		identity_verify(ca, &chain, 1, false, NOW * 1000000ull, &id), KEKD_ECERTTRUST);
	identity_ca_unrefp(&ca);
	drop(&old);
	drop(&leaf);
}

static void
a_server_certificate_is_not_for_clients(void **state)
{
	expect(*state, &(struct spec){ .san = "DNS:a.example", .eku = "serverAuth" }, false,
		KEKD_ECERTPURPOSE, "unverified:dns:a.example");
	expect(*state, &(struct spec){ .san = "DNS:a.example", .eku = "serverAuth,clientAuth" },
		false, 0, "dns:a.example");
	expect(*state, &(struct spec){ .san = "DNS:a.example", .eku = "clientAuth" }, false, 0,
		"dns:a.example");
}

static void
weak_keys_and_signatures_are_untrusted(void **state)
{
	expect(*state, &(struct spec){ .san = "URI:a:b", .rsa1024 = true }, false, KEKD_ECERTTRUST,
		"unverified:uri:a:b");
	expect(*state, &(struct spec){ .san = "URI:a:b", .sha1 = true }, false, KEKD_ECERTTRUST,
		"unverified:uri:a:b");
}

static void
no_certificate_and_broken_ones_are_refused(void **state)
{
	struct fixture *f = *state;
	struct entity leaf = make(&(struct spec){ .san = "URI:a:b" }, &f->root);
	struct identity id = { .name = "before" };
	struct der d = { leaf.der, (size_t)leaf.der_len - 1 };
	uint8_t *longer = calloc(1, (size_t)leaf.der_len + 1);

	assert_int_equal(
		identity_verify(f->ca, NULL, 0, true, NOW * 1000000ull, &id), KEKD_ECERTNONE);
	assert_int_equal(
		identity_verify(f->ca, &d, 1, true, NOW * 1000000ull, &id), KEKD_ECERTTRUST);
	memcpy(longer, leaf.der, (size_t)leaf.der_len);
	d = (struct der){ longer, (size_t)leaf.der_len + 1 };
	assert_int_equal(
		identity_verify(f->ca, &d, 1, true, NOW * 1000000ull, &id), KEKD_ECERTTRUST);
	assert_string_equal(id.name, "before");
	for (int i = 0; i < leaf.der_len; i++) { /* no bit of it may change */
		longer[i] ^= 4;
		d = (struct der){ longer, (size_t)leaf.der_len };
		assert_int_not_equal(identity_verify(f->ca, &d, 1, true, NOW * 1000000ull, &id), 0);
		longer[i] ^= 4;
	}
	free(longer);
	drop(&leaf);
}

static void
a_ca_file_must_hold_whole_ca_certificates(void **state)
{
	struct fixture *f = *state;
	struct entity leaf = make(&(struct spec){ .cn = "leaf", .san = "URI:a:b" }, &f->root);
	const struct entity *const with_leaf[] = { &f->root, &leaf };
	struct identity_ca *ca = NULL;
	char error[256] = "";

	assert_int_equal(load(with_leaf, 2, "", &ca, error), KEKD_EINVALID);
	assert_non_null(strstr(error, "\"/CN=leaf\" is not a CA certificate"));
	assert_int_equal(load(NULL, 0, "nothing\n", &ca, error), KEKD_EINVALID);
	assert_non_null(strstr(error, "no PEM certificate"));
	assert_int_equal(
		load(with_leaf, 1, "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
			&ca, error),
		KEKD_EINVALID);
	assert_non_null(strstr(error, "certificate 2 is damaged"));
	assert_true(identity_ca_load("/nonexistent", &ca, error) < 0);
	assert_non_null(strstr(error, "/nonexistent cannot be read"));
	assert_null(ca);
	drop(&leaf);
}

/* A list of `issuer` with `revoked` on it, or none; times relative to NOW. */
static struct identity_crl *
list_of(const struct entity *issuer, const struct entity *revoked, int64_t from, int64_t to)
{
	X509_CRL *crl = X509_CRL_new();
	ASN1_TIME *first = ASN1_TIME_set(NULL, NOW + from), *last = ASN1_TIME_set(NULL, NOW + to);
	struct identity_crl *read = NULL;
	char path[] = "/tmp/kekd-crl-XXXXXX", error[256] = "";
	FILE *file = fdopen(mkstemp(path), "w");

	X509_CRL_set_version(crl, X509_CRL_VERSION_2);
	X509_CRL_set_issuer_name(crl, X509_get_subject_name(issuer->x));
	X509_CRL_set1_lastUpdate(crl, first);
	X509_CRL_set1_nextUpdate(crl, last);
	if (revoked) {
		X509_REVOKED *r = X509_REVOKED_new();
		X509_REVOKED_set_serialNumber(r, X509_get_serialNumber(revoked->x));
		X509_REVOKED_set_revocationDate(r, first);
		X509_CRL_add0_revoked(crl, r);
	}
	assert_true(X509_CRL_sign(crl, issuer->key, EVP_sha256()) > 0);
	PEM_write_X509_CRL(file, crl);
	fclose(file);
	if (identity_crl_load(path, &read, error) != 0)
		fail_msg("%s", error);
	unlink(path);
	ASN1_TIME_free(first);
	ASN1_TIME_free(last);
	X509_CRL_free(crl);
	return read;
}

/* Verifies a client of root against a list, and drops the list. */
static int
against(struct fixture *f, const struct entity *leaf, struct identity_crl *crl, bool warn,
	struct identity *ret_identity)
{
	const struct der chain = { leaf->der, (size_t)leaf->der_len };
	struct identity_ca *ca = NULL;
	int err;

	assert_int_equal(identity_ca_with_crl(f->ca, crl, warn, &ca), 0);
	identity_crl_unrefp(&crl);
	*ret_identity = (struct identity){ 0 };
	err = identity_verify(ca, &chain, 1, false, NOW * 1000000ull, ret_identity);
	identity_ca_unrefp(&ca);
	return err;
}

static void
a_list_revokes_and_one_that_is_missing_expired_early_or_forged_refuses(void **state)
{
	struct fixture *f = *state;
	struct entity leaf = make(&(struct spec){ .cn = "x", .san = "URI:a:b" }, &f->root);
	struct entity other = make(&(struct spec){ .cn = "y", .san = "URI:a:c" }, &f->root);
	const struct {
		const struct entity *issuer, *revoked;
		int64_t from, to;
		bool warn;
		int err;
	} cases[] = {
		{ &f->root, NULL, -DAY, DAY, false, 0 },
		{ &f->root, &other, -DAY, DAY, false, 0 },
		{ &f->root, &leaf, -DAY, DAY, false, KEKD_ECERTREVOKED },
		{ &f->root, NULL, -DAY, -1, false, KEKD_ECRLEXPIRED },
		{ &f->root, NULL, -DAY, -1, true, 0 },
		{ &f->root, &leaf, -DAY, -1, true, KEKD_ECERTREVOKED },
		{ &f->root, NULL, 10, DAY, false, KEKD_ECRLMISSING },
		{ &f->root, NULL, 10, DAY, true, KEKD_ECRLMISSING },
		{ &f->other_root, NULL, -DAY, DAY, true, KEKD_ECRLMISSING },
		{ &f->stranger, NULL, -DAY, DAY, true, KEKD_ECRLMISSING },
	};

	for (size_t i = 0; i < STR_COUNT(cases); i++) {
		struct identity id;
		int err = against(f, &leaf,
			list_of(cases[i].issuer, cases[i].revoked, cases[i].from, cases[i].to),
			cases[i].warn, &id);
		if (err != cases[i].err)
			fail_msg("case %zu: %s", i, kekd_strerror(err));
		assert_int_equal(id.crl_expired, i == 4);
	}
	drop(&leaf);
	drop(&other);
}

static void
a_verdict_ends_with_the_first_thing_that_it_stands_on(void **state)
{
	struct fixture *f = *state;
	struct entity leaf = make(
		&(struct spec){ .san = "URI:a:b", .from = -DAY, .to = 9 * DAY }, &f->root);
	struct identity id;

	assert_int_equal(against(f, &leaf, list_of(&f->root, NULL, -DAY, 60), false, &id), 0);
	assert_int_equal(id.not_after_us, (NOW + 9 * DAY) * 1000000ull);
	assert_int_equal(id.valid_until_us, (NOW + 60) * 1000000ull);
	/* The CA ends before the leaf, and this list after both. */
	assert_int_equal(against(f, &leaf, list_of(&f->root, NULL, -DAY, 30 * DAY), false, &id), 0);
	assert_int_equal(id.valid_until_us, (NOW + DAY) * 1000000ull);
	drop(&leaf);
}

static void
a_file_of_lists_must_hold_whole_ones(void **state)
{
	static const struct {
		const char *text, *error;
	} cases[] = {
		{ "nothing\n", "has no PEM CRL" },
		{ "-----BEGIN X509 CRL-----\nMIIB\n-----END X509 CRL-----\n", "CRL 1 is damaged" },
	};
	struct identity_crl *crl = NULL;
	char error[256] = "";

	(void)state;
	for (size_t i = 0; i < STR_COUNT(cases); i++) {
		char path[] = "/tmp/kekd-crl-XXXXXX";
		FILE *file = fdopen(mkstemp(path), "w");

		fputs(cases[i].text, file);
		fclose(file);
		assert_int_equal(identity_crl_load(path, &crl, error), KEKD_EINVALID);
		assert_non_null(strstr(error, cases[i].error));
		unlink(path);
	}
	assert_true(identity_crl_load("/nonexistent", &crl, error) < 0);
	assert_non_null(strstr(error, "/nonexistent cannot be read"));
	assert_null(crl);
}

static void
warnings_come_late_in_a_life_and_never_all_through_it(void **state)
{
	static const struct {
		int64_t life, left; /* days, in tenths */
		enum identity_age age;
	} cases[] = {
		{ 3650, 310, IDENTITY_VALID },
		{ 3650, 290, IDENTITY_MONTH },
		{ 3650, 69, IDENTITY_WEEK },
		{ 3650, 9, IDENTITY_DAY },
		{ 3650, 0, IDENTITY_OVER },
		{ 900, 290, IDENTITY_VALID }, /* 90 days: from 22 on */
		{ 900, 220, IDENTITY_MONTH },
		{ 70, 60, IDENTITY_VALID },
		{ 70, 17, IDENTITY_WEEK },
		{ 10, 9, IDENTITY_VALID }, /* a day: from 6 hours on */
		{ 10, 2, IDENTITY_DAY },
	};
	const uint64_t tenth_us = 8640ull * 1000000u, now_us = NOW * 1000000ull;

	(void)state;
	for (size_t i = 0; i < STR_COUNT(cases); i++) {
		uint64_t to_us = now_us + (uint64_t)cases[i].left * tenth_us;
		struct identity_life life = { to_us - (uint64_t)cases[i].life * tenth_us, to_us };
		assert_int_equal(identity_life_age(&life, now_us), cases[i].age);
	}
	assert_int_equal(identity_life_age(&(struct identity_life){ 0, UINT64_MAX }, now_us),
		IDENTITY_VALID);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_one_uri_is_the_identity),
		cmocka_unit_test(else_the_first_dns_name_in_lower_case_is),
		cmocka_unit_test(else_the_common_name_is_if_switched_on),
		cmocka_unit_test(several_uris_or_common_names_are_refused),
		cmocka_unit_test(nul_and_control_characters_in_names_are_refused),
		cmocka_unit_test(a_name_that_is_too_long_is_refused_not_cut),
		cmocka_unit_test(an_intermediate_in_the_chain_helps_but_is_not_trusted),
		cmocka_unit_test(a_certificate_that_another_client_signed_is_untrusted),
		cmocka_unit_test(an_unknown_ca_is_untrusted_also_under_a_known_name),
		cmocka_unit_test(a_self_signed_certificate_is_untrusted),
		cmocka_unit_test(an_expired_and_an_early_certificate_are_told_apart),
		cmocka_unit_test(an_expired_ca_is_not_told_as_the_clients_own_expiry),
		cmocka_unit_test(a_server_certificate_is_not_for_clients),
		cmocka_unit_test(weak_keys_and_signatures_are_untrusted),
		cmocka_unit_test(no_certificate_and_broken_ones_are_refused),
		cmocka_unit_test(a_ca_file_must_hold_whole_ca_certificates),
		cmocka_unit_test(
			a_list_revokes_and_one_that_is_missing_expired_early_or_forged_refuses),
		cmocka_unit_test(a_verdict_ends_with_the_first_thing_that_it_stands_on),
		cmocka_unit_test(a_file_of_lists_must_hold_whole_ones),
		cmocka_unit_test(warnings_come_late_in_a_life_and_never_all_through_it),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
