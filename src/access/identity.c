/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From the certificates that a TLS client showed to the one name that it goes by (RFC 5280 for the
 * path, SPIFFE's X.509-SVID for "exactly one URI"). Every certificate but the trusted ones is
 * foreign data. Not here: which client record has the name (clients.c), what is trusted (ca.c), and
 * the TLS handshake.
 */
#include "ca.h"

#include "kekd/err.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/sha.h>
#include <string.h>

#define CHAIN_MAX 10
/* Signatures and keys of at least 112 bits: no SHA-1, no RSA under 2048. */
#define SECURITY_LEVEL 2
#define UNVERIFIED "unverified:"

static void
x509_freep(X509 **x)
{
	X509_free(*x);
}

static void
openssl_freep(unsigned char **p)
{
	OPENSSL_free(*p);
}

/* ---- the certificate's names ---- */

/* Printable ASCII alone: no NUL, no control character, nothing that another program might read
 * differently. */
static bool
is_plain(const unsigned char *p, int len)
{
	for (int i = 0; i < len; i++)
		if (p[i] <= 0x20 || p[i] >= 0x7f)
			return false;
	return len > 0;
}

/* UTF-8 without control characters, neither C0, DEL nor C1 (U+0080 to U+009F). */
static bool
is_text(const unsigned char *p, int len)
{
	for (int i = 0; i < len; i++) {
		if (p[i] < 0x20 || p[i] == 0x7f)
			return false;
		if (p[i] == 0xc2 && i + 1 < len && p[i + 1] < 0xa0)
			return false;
	}
	return len > 0;
}

static int
set_name(struct identity *id, const char *prefix, const unsigned char *value, int len)
{
	size_t prefix_len = strlen(prefix);

	if ((size_t)len >= sizeof(id->name) - prefix_len)
		return KEKD_ECERTIDENTITY;
	memcpy(id->name, prefix, prefix_len);
	memcpy(id->name + prefix_len, value, (size_t)len);
	id->name[prefix_len + (size_t)len] = '\0';
	return 0;
}

/* DNS names mean the same in either case (RFC 4343); records have the lower one. */
static void
lower(char *text)
{
	for (; *text; text++)
		if (*text >= 'A' && *text <= 'Z')
			*text = (char)(*text - 'A' + 'a');
}

struct san {
	const ASN1_STRING *uri, *dns;
	size_t uris;
};

static int
collect_san(const GENERAL_NAMES *names, struct san *ret_san)
{
	for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
		const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);
		const ASN1_STRING *value;
		if (name->type != GEN_URI && name->type != GEN_DNS)
			continue;
		value = name->type == GEN_URI ? name->d.uniformResourceIdentifier : name->d.dNSName;
		if (!is_plain(ASN1_STRING_get0_data(value), ASN1_STRING_length(value)))
			return KEKD_ECERTIDENTITY;
		if (name->type == GEN_URI) {
			ret_san->uri = value;
			ret_san->uris++;
		} else if (!ret_san->dns) {
			ret_san->dns = value;
		}
	}
	return ret_san->uris > 1 ? KEKD_ECERTIDENTITY : 0;
}

static int
name_from_san(X509 *leaf, struct identity *id)
{
	int critical = -1, err;
	struct san san = { 0 };
	GENERAL_NAMES *names = X509_get_ext_d2i(leaf, NID_subject_alt_name, &critical, NULL);

	if (!names) /* -1: there is none; else it is broken, or there are two */
		return critical == -1 ? -ENOENT : KEKD_ECERTIDENTITY;
	err = collect_san(names, &san);
	if (!err && san.uri)
		err = set_name(
			id, "uri:", ASN1_STRING_get0_data(san.uri), ASN1_STRING_length(san.uri));
	else if (!err && san.dns)
		err = set_name(
			id, "dns:", ASN1_STRING_get0_data(san.dns), ASN1_STRING_length(san.dns));
	else if (!err)
		err = -ENOENT;
	if (!err && !san.uri)
		lower(id->name);
	GENERAL_NAMES_free(names);
	return err;
}

static int
name_from_cn(X509 *leaf, struct identity *id)
{
	const X509_NAME *subject = X509_get_subject_name(leaf);
	int at = X509_NAME_get_index_by_NID(subject, NID_commonName, -1);
	_cleanup_(openssl_freep) unsigned char *text = NULL;
	int len;

	if (at < 0 || X509_NAME_get_index_by_NID(subject, NID_commonName, at) >= 0)
		return KEKD_ECERTIDENTITY;
	len = ASN1_STRING_to_UTF8(
		&text, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at)));
	if (len <= 0 || !is_text(text, len))
		return KEKD_ECERTIDENTITY;
	return set_name(id, "cn:", text, len);
}

static int
take_name(X509 *leaf, bool common_name, struct identity *id)
{
	int err = name_from_san(leaf, id);

	if (err == -ENOENT)
		err = common_name ? name_from_cn(leaf, id) : KEKD_ECERTIDENTITY;
	return err;
}

static int
take_spki(X509 *leaf, struct identity *id)
{
	_cleanup_(openssl_freep) unsigned char *der = NULL;
	unsigned char digest[SHA256_DIGEST_LENGTH];
	int len = i2d_X509_PUBKEY(X509_get_X509_PUBKEY(leaf), &der);

	if (len <= 0)
		return KEKD_ECERTTRUST;
	SHA256(der, (size_t)len, digest);
	memcpy(id->spki, "spki:", 5);
	str_hex(digest, sizeof(digest), id->spki + 5);
	id->spki[5 + 2 * sizeof(digest)] = '\0';
	return 0;
}

static int
take_not_after(X509 *leaf, struct identity *id)
{
	return ca_time_us(X509_get0_notAfter(leaf), &id->not_after_us) == 0 ? 0 : KEKD_ECERTTRUST;
}

/* ---- the path ---- */

static const struct {
	int x509, err;
} leaf_errors[] = {
	{ X509_V_ERR_CERT_HAS_EXPIRED, KEKD_ECERTEXPIRED },
	{ X509_V_ERR_CERT_NOT_YET_VALID, KEKD_ECERTEARLY },
	{ X509_V_ERR_INVALID_PURPOSE, KEKD_ECERTPURPOSE },
};

/* What is wrong higher up is the CA's matter: telling the client that its own certificate had
 * expired would send it the wrong way. */
static int
classify(int x509, int depth)
{
	int err = crl_error(x509);

	if (err)
		return err;
	for (size_t i = 0; depth == 0 && i < STR_COUNT(leaf_errors); i++)
		if (leaf_errors[i].x509 == x509)
			return leaf_errors[i].err;
	return KEKD_ECERTTRUST;
}

struct path {
	const struct identity_ca *ca;
	struct identity *id;
};

/* A CA of the file is trusted until it is taken out: no CRL is needed to speak of it, and the one
 * that does is heard when it revokes. */
static int
judge(int ok, X509_STORE_CTX *ctx)
{
	const struct path *path = X509_STORE_CTX_get_app_data(ctx);
	int error = X509_STORE_CTX_get_error(ctx), depth = X509_STORE_CTX_get_error_depth(ctx);
	int anchor = sk_X509_num(X509_STORE_CTX_get0_chain(ctx)) - 1;

	if (ok || !crl_error(error))
		return ok;
	if (depth > 0 && depth == anchor && error != X509_V_ERR_CERT_REVOKED)
		return 1;
	if (error != X509_V_ERR_CRL_HAS_EXPIRED || !path->ca->warn_expired)
		return 0;
	path->id->crl_expired = true;
	return 1;
}

/* The moment at which the first thing that the verdict stands on ends. */
static void
take_end(const struct identity_ca *ca, const STACK_OF(X509) * chain, uint64_t now_us,
	struct identity *id)
{
	id->valid_until_us = UINT64_MAX;
	for (int i = 0; i < sk_X509_num(chain); i++)
		ca_earlier(
			X509_get0_notAfter(sk_X509_value(chain, i)), now_us, &id->valid_until_us);
	for (int i = 0; ca->crl && i < sk_X509_CRL_num(ca->crl->crls); i++)
		ca_earlier(X509_CRL_get0_nextUpdate(sk_X509_CRL_value(ca->crl->crls, i)), now_us,
			&id->valid_until_us);
}

static int
verify_path(const struct identity_ca *ca, X509 *leaf, STACK_OF(X509) * helpers, uint64_t now_us,
	struct identity *id)
{
	X509_STORE_CTX *ctx = X509_STORE_CTX_new();
	struct path path = { ca, id };
	X509_VERIFY_PARAM *param;
	int err = KEKD_EINTERNAL;

	if (!ctx || X509_STORE_CTX_init(ctx, ca->store, leaf, helpers) != 1 ||
		X509_STORE_CTX_set_default(ctx, "ssl_client") != 1)
		goto out;
	param = X509_STORE_CTX_get0_param(ctx);
	X509_VERIFY_PARAM_set_time(param, (time_t)(now_us / 1000000u));
	X509_VERIFY_PARAM_set_auth_level(param, SECURITY_LEVEL);
	X509_VERIFY_PARAM_set_depth(param, CHAIN_MAX);
	/* Any CA of the file is an anchor, also one that another has signed. */
	X509_VERIFY_PARAM_set_flags(param, X509_V_FLAG_PARTIAL_CHAIN);
	if (ca->crl)
		X509_VERIFY_PARAM_set_flags(
			param, X509_V_FLAG_CRL_CHECK | X509_V_FLAG_CRL_CHECK_ALL);
	X509_STORE_CTX_set_app_data(ctx, &path);
	X509_STORE_CTX_set_verify_cb(ctx, judge);
	if (X509_verify_cert(ctx) == 1) {
		take_end(ca, X509_STORE_CTX_get0_chain(ctx), now_us, id);
		err = 0;
	} else {
		err = classify(X509_STORE_CTX_get_error(ctx), X509_STORE_CTX_get_error_depth(ctx));
	}
out:
	X509_STORE_CTX_free(ctx);
	return err;
}

static X509 *
parse(const struct der *der)
{
	const unsigned char *p = der->data;
	X509 *x = der->len <= 65536 ? d2i_X509(NULL, &p, (long)der->len) : NULL;

	if (x && p != der->data + der->len) {
		X509_free(x);
		x = NULL;
	}
	return x;
}

/* Intermediates that cannot be read are left out: the path is then not found. */
static STACK_OF(X509) * parse_helpers(const struct der *chain, size_t count)
{
	STACK_OF(X509) *helpers = sk_X509_new_null();

	for (size_t i = 1; helpers && i < count; i++) {
		X509 *x = parse(&chain[i]);
		if (x && sk_X509_push(helpers, x) <= 0)
			X509_free(x);
	}
	return helpers;
}

static void
tell_unverified(const struct identity *found, struct identity *ret_identity)
{
	if (found->name[0])
		snprintf(ret_identity->name, sizeof(ret_identity->name), UNVERIFIED "%.*s",
			(int)(sizeof(ret_identity->name) - sizeof(UNVERIFIED)), found->name);
}

static int
verify_leaf(struct identity_ca *ca, X509 *leaf, STACK_OF(X509) * helpers, bool common_name,
	uint64_t now_us, struct identity *id)
{
	int named = take_name(leaf, common_name, id);
	int err = verify_path(ca, leaf, helpers, now_us, id);

	if (!err)
		err = named;
	if (!err)
		err = take_spki(leaf, id);
	return err ? err : take_not_after(leaf, id);
}

int
identity_verify(struct identity_ca *ca, const struct der *chain, size_t count, bool common_name,
	uint64_t now_us, struct identity *ret_identity)
{
	_cleanup_(x509_freep) X509 *leaf = NULL;
	struct identity id = { 0 };
	STACK_OF(X509) * helpers;
	int err;

	if (count == 0)
		return KEKD_ECERTNONE;
	leaf = count <= CHAIN_MAX ? parse(&chain[0]) : NULL;
	if (!leaf) {
		ERR_clear_error();
		return KEKD_ECERTTRUST;
	}
	helpers = parse_helpers(chain, count);
	err = helpers ? verify_leaf(ca, leaf, helpers, common_name, now_us, &id) : -ENOMEM;
	sk_X509_pop_free(helpers, X509_free);
	ERR_clear_error();
	if (err)
		tell_unverified(&id, ret_identity);
	else
		*ret_identity = id;
	return err;
}
