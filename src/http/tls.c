/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TLS: GnuTLS carries the bytes and asks for the client's certificate; this file turns the peer's
 * DER chain into an identity that OpenSSL verified (src/access/identity.c). A bad certificate
 * completes the handshake: the answer is a 401.
 */
#include "call.h"

#include "kekd/clock.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static int
fail(char error[256], const char *path, int code, const char *remedy)
{
	snprintf(error, 256, "%s: %s: %s", path, gnutls_strerror(code), remedy);
	return KEKD_EINVALID;
}

static int
load_key(struct http_tls *tls, const char *path, char error[256])
{
	gnutls_datum_t pem = { 0 };
	int r = gnutls_load_file(path, &pem);

	if (r == 0)
		r = gnutls_privkey_init(&tls->key);
	if (r == 0)
		r = gnutls_privkey_import_x509_raw(tls->key, &pem, GNUTLS_X509_FMT_PEM, NULL, 0);
	if (pem.data) {
		gnutls_memset(pem.data, 0, pem.size);
		gnutls_free(pem.data);
	}
	return r == 0 ? 0
		      : fail(error, path, r,
				"tls.key must be a PEM private key that kekd-net can read");
}

static int
load_chain(struct http_tls *tls, const char *path, char error[256])
{
	gnutls_datum_t pem = { 0 };
	unsigned count = STR_COUNT(tls->chain);
	int r = gnutls_load_file(path, &pem);

	if (r == 0) {
		r = gnutls_pcert_list_import_x509_raw(
			tls->chain, &count, &pem, GNUTLS_X509_FMT_PEM, 0);
		gnutls_free(pem.data);
	}
	if (r != 0)
		return fail(error, path, r,
			"tls.certificate must be a PEM chain, the server's certificate first");
	tls->chain_count = count;
	return 0;
}

int
http_tls_open(struct http_tls *tls, const struct http_config *config, char ret_error[256])
{
	int r = load_chain(tls, config->certificate, ret_error);

	if (r == 0)
		r = load_key(tls, config->key, ret_error);
	if (r == 0)
		r = identity_ca_load(config->client_ca, &tls->client_ca, ret_error);
	if (r != 0)
		http_tls_close(tls);
	return r;
}

void
http_tls_close(struct http_tls *tls)
{
	for (unsigned i = 0; i < tls->chain_count; i++)
		gnutls_pcert_deinit(&tls->chain[i]);
	if (tls->key)
		gnutls_privkey_deinit(tls->key);
	identity_ca_unrefp(&tls->client_ca);
	*tls = (struct http_tls){ 0 };
}

void
http_tls_prepare(gnutls_session_t session)
{
	gnutls_certificate_server_set_request(session, GNUTLS_CERT_REQUEST);
	gnutls_certificate_send_x509_rdn_sequence(session, 1);
}

/* libmicrohttpd keeps its connection in the session's pointer; the connection leads to our peer. */
int
http_tls_choose(gnutls_session_t session, const gnutls_datum_t *ca_names, int ca_count,
	const gnutls_pk_algorithm_t *algorithms, int algorithms_count, gnutls_pcert_st **ret_chain,
	unsigned int *ret_count, gnutls_privkey_t *ret_key)
{
	const union MHD_ConnectionInfo *info = MHD_get_connection_info(
		gnutls_session_get_ptr(session), MHD_CONNECTION_INFO_SOCKET_CONTEXT);
	struct peer *peer = info ? info->socket_context : NULL;

	(void)ca_names, (void)ca_count, (void)algorithms, (void)algorithms_count;
	if (!peer)
		return -1;
	*ret_chain = peer->http->tls.chain;
	*ret_count = peer->http->tls.chain_count;
	*ret_key = peer->http->tls.key;
	return 0;
}

void
http_peer_verify(struct peer *peer, gnutls_session_t session, uint64_t now_us)
{
	struct der chain[16];
	unsigned count = 0;
	const gnutls_datum_t *certificates;

	if (peer->verified && (peer->verdict != 0 || now_us <= peer->identity.not_after_us))
		return;
	certificates = gnutls_certificate_get_peers(session, &count);
	if (!certificates)
		count = 0;
	if (count > STR_COUNT(chain))
		count = STR_COUNT(chain);
	for (unsigned i = 0; i < count; i++)
		chain[i] = (struct der){ certificates[i].data, certificates[i].size };
	peer->verdict = identity_verify(peer->http->tls.client_ca, chain, count,
		peer->http->config.common_name, now_us, &peer->identity);
	peer->verified = true;
}
