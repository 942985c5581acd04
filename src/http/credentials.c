/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The server's certificate with its key, and what clients' certificates are checked against: read
 * from files, then unchangeable and shared by counting. Not here: when they change (live.c).
 */
#include "call.h"

#include <errno.h>
#include <gnutls/x509.h>
#include <stdio.h>
#include <string.h>

static int
fail(char error[256], const char *path, int code, const char *remedy)
{
	snprintf(error, 256, "%.120s: %s: %s", path, gnutls_strerror(code), remedy);
	return KEKD_EINVALID;
}

static int
load_key(struct http_pair *pair, const char *path, char error[256])
{
	gnutls_datum_t pem = { 0 };
	int r = gnutls_load_file(path, &pem);

	if (r == 0)
		r = gnutls_privkey_init(&pair->key);
	if (r == 0)
		r = gnutls_privkey_import_x509_raw(pair->key, &pem, GNUTLS_X509_FMT_PEM, NULL, 0);
	if (pem.data) {
		gnutls_memset(pem.data, 0, pem.size);
		gnutls_free(pem.data);
	}
	return r == 0 ? 0
		      : fail(error, path, r,
				"tls.key must be a PEM private key that kekd-net can read");
}

static int
load_life(struct http_pair *pair)
{
	gnutls_x509_crt_t leaf;
	time_t from, to;
	int r = gnutls_pcert_export_x509(&pair->chain[0], &leaf);

	if (r != 0)
		return r;
	from = gnutls_x509_crt_get_activation_time(leaf);
	to = gnutls_x509_crt_get_expiration_time(leaf);
	gnutls_x509_crt_deinit(leaf);
	pair->life.from_us = from > 0 ? (uint64_t)from * 1000000u : 0;
	pair->life.to_us = to > 0 ? (uint64_t)to * 1000000u : 0;
	return 0;
}

static int
load_chain(struct http_pair *pair, const char *path, char error[256])
{
	gnutls_datum_t pem = { 0 };
	unsigned count = STR_COUNT(pair->chain);
	int r = gnutls_load_file(path, &pem);

	if (r == 0) {
		r = gnutls_pcert_list_import_x509_raw(
			pair->chain, &count, &pem, GNUTLS_X509_FMT_PEM, 0);
		gnutls_free(pem.data);
	}
	if (r == 0) {
		pair->chain_count = count;
		r = load_life(pair);
	}
	return r == 0 ? 0
		      : fail(error, path, r,
				"tls.certificate must be a PEM chain, the server's certificate "
				"first");
}

static int
key_id(gnutls_pubkey_t key, unsigned char ret_id[32])
{
	size_t size = 32;

	return gnutls_pubkey_get_key_id(key, GNUTLS_KEYID_USE_SHA256, ret_id, &size);
}

static int
check_match(struct http_pair *pair, const char *certificate, const char *key, char error[256])
{
	unsigned char a[32] = { 0 }, b[32] = { 1 };
	gnutls_pubkey_t public;
	int r = gnutls_pubkey_init(&public);

	if (r == 0) {
		r = gnutls_pubkey_import_privkey(public, pair->key, 0, 0);
		if (r == 0)
			r = key_id(public, a);
		gnutls_pubkey_deinit(public);
	}
	if (r == 0)
		r = key_id(pair->chain[0].pubkey, b);
	if (r == 0 && memcmp(a, b, sizeof(a)) == 0)
		return 0;
	snprintf(error, 256, "%.90s is not the key of %.90s: give the two that belong together",
		key, certificate);
	return KEKD_EINVALID;
}

int
http_pair_load(
	const char *certificate, const char *key, struct http_pair **ret_pair, char ret_error[256])
{
	struct http_pair *pair = calloc(1, sizeof(*pair));
	int err;

	if (!pair)
		return -ENOMEM;
	atomic_init(&pair->references, 1);
	err = load_chain(pair, certificate, ret_error);
	if (err == 0)
		err = load_key(pair, key, ret_error);
	if (err == 0)
		err = check_match(pair, certificate, key, ret_error);
	if (err != 0) {
		http_pair_unrefp(&pair);
		return err;
	}
	*ret_pair = pair;
	return 0;
}

void
http_pair_unrefp(struct http_pair **p)
{
	struct http_pair *pair = *p;

	*p = NULL;
	if (!pair || atomic_fetch_sub(&pair->references, 1) != 1)
		return;
	for (unsigned i = 0; i < pair->chain_count; i++)
		gnutls_pcert_deinit(&pair->chain[i]);
	if (pair->key)
		gnutls_privkey_deinit(pair->key);
	free(pair);
}

static int
copy_deny(struct http_trust *t, const struct http_tls_config *config)
{
	t->deny = calloc(config->deny_count + 1, sizeof(char *));
	if (!t->deny)
		return -ENOMEM;
	for (; t->deny_count < config->deny_count; t->deny_count++) {
		t->deny[t->deny_count] = strdup(config->deny[t->deny_count]);
		if (!t->deny[t->deny_count])
			return -ENOMEM;
	}
	return 0;
}

int
http_trust_new(struct identity_ca *ca, struct identity_crl *crl,
	const struct http_tls_config *config, uint64_t generation, struct http_trust **ret_trust)
{
	struct http_trust *t = calloc(1, sizeof(*t));
	int err;

	if (!t)
		return -ENOMEM;
	atomic_init(&t->references, 1);
	t->generation = generation;
	t->common_name = config->common_name;
	err = copy_deny(t, config);
	if (err == 0 && crl)
		err = identity_ca_with_crl(ca, crl, config->crl_warn_expired, &t->ca);
	else if (err == 0)
		t->ca = identity_ca_ref(ca);
	if (err != 0) {
		http_trust_unrefp(&t);
		return err;
	}
	*ret_trust = t;
	return 0;
}

void
http_trust_unrefp(struct http_trust **trust)
{
	struct http_trust *t = *trust;

	*trust = NULL;
	if (!t || atomic_fetch_sub(&t->references, 1) != 1)
		return;
	for (size_t i = 0; i < t->deny_count; i++)
		free(t->deny[i]);
	free(t->deny);
	identity_ca_unrefp(&t->ca);
	free(t);
}

/* DNS names mean the same in either case; an identity has the lower one. */
static bool
names(const char *listed, const struct identity *id)
{
	if (strncmp(listed, "dns:", 4) == 0)
		return strcasecmp(listed, id->name) == 0;
	return strcmp(listed, id->name) == 0 || strcmp(listed, id->spki) == 0;
}

bool
http_trust_denies(const struct http_trust *t, const struct identity *id)
{
	for (size_t i = 0; i < t->deny_count; i++)
		if (names(t->deny[i], id))
			return true;
	return false;
}
