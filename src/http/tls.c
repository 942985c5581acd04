/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TLS: GnuTLS carries the bytes and asks for the client's certificate; this file turns the peer's
 * DER chain into an identity that OpenSSL verified (src/access/identity.c). A bad certificate
 * completes the handshake: the answer is a 401.
 */
#include "call.h"

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
	http_pair_unrefp(&peer->pair);
	peer->pair = http_live_pair(peer->http->live);
	*ret_chain = peer->pair->chain;
	*ret_count = peer->pair->chain_count;
	*ret_key = peer->pair->key;
	return 0;
}

static bool
stands(const struct peer *peer, uint64_t now_us)
{
	if (!peer->verified || peer->generation != http_live_generation(peer->http->live))
		return false;
	return peer->verdict != 0 || now_us <= peer->identity.valid_until_us;
}

static int
verify(const struct http_trust *trust, gnutls_session_t session, uint64_t now_us,
	struct identity *ret_identity)
{
	struct der chain[16];
	unsigned count = 0;
	const gnutls_datum_t *certificates = gnutls_certificate_get_peers(session, &count);
	int err;

	if (!certificates)
		count = 0;
	if (count > STR_COUNT(chain))
		count = STR_COUNT(chain);
	for (unsigned i = 0; i < count; i++)
		chain[i] = (struct der){ certificates[i].data, certificates[i].size };
	err = identity_verify(trust->ca, chain, count, trust->common_name, now_us, ret_identity);
	if (err == 0 && http_trust_denies(trust, ret_identity))
		err = KEKD_EDENIED;
	return err;
}

void
http_peer_verify(struct peer *peer, gnutls_session_t session, uint64_t now_us)
{
	struct http_trust *trust;

	if (stands(peer, now_us))
		return;
	trust = http_live_trust(peer->http->live);
	peer->identity = (struct identity){ 0 };
	peer->verdict = verify(trust, session, now_us, &peer->identity);
	peer->generation = trust->generation;
	peer->verified = true;
	if (peer->verdict == 0 && peer->identity.crl_expired)
		http_live_count_expired_crl(peer->http->live);
	http_trust_unrefp(&trust);
}
