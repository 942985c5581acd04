/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kekd join: is the server's certificate one that clients, and those who are sent here by another
 * node, will take? Whether it comes from a CA that they trust is theirs to know.
 */
#include "join.h"

#include "kekd/clock.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <string.h>

#define NAME_SIZE 128

static void
bio_freep(BIO **b)
{
	BIO_free(*b);
}

static STACK_OF(X509) * read_chain(const char *path)
{
	_cleanup_(bio_freep) BIO *file = BIO_new_file(path, "r");
	STACK_OF(X509) *chain = sk_X509_new_null();
	X509 *x;

	while (file && chain && (x = PEM_read_bio_X509(file, NULL, NULL, NULL)))
		if (sk_X509_push(chain, x) <= 0)
			X509_free(x);
	ERR_clear_error();
	return chain;
}

/* "https://HOST:PORT", "https://[V6]:PORT": the configuration was checked for it. */
static void
url_host(const char *url, char ret_host[256])
{
	const char *host = strstr(url, "://") + 3;
	bool v6 = *host == '[';
	size_t len = strcspn(host + v6, v6 ? "]" : ":");

	snprintf(ret_host, 256, "%.*s", (int)len, host + v6);
}

static bool
is_for(X509 *x, const char *host)
{
	return X509_check_host(x, host, 0, 0, NULL) == 1 || X509_check_ip_asc(x, host, 0) == 1;
}

static void
name_of(const X509 *x, char ret_name[NAME_SIZE])
{
	X509_NAME_oneline(X509_get_subject_name(x), ret_name, NAME_SIZE);
}

static bool
in_time(struct join *j, const X509 *x)
{
	char name[NAME_SIZE] = "";
	bool over = X509_cmp_current_time(X509_get0_notAfter(x)) < 0;

	if (!over && X509_cmp_current_time(X509_get0_notBefore(x)) < 0)
		return true;
	name_of(x, name);
	join_say(j, "%s %s", name, over ? "has expired" : "is not valid yet");
	return join_next(j, over ? "renew it (doc/operations.md)" : "look at this host's clock");
}

/* Each is signed by the one behind it. */
static bool
is_linked(struct join *j, X509 *x, X509 *issuer)
{
	char name[NAME_SIZE] = "", other[NAME_SIZE] = "";

	if (X509_check_issued(issuer, x) == X509_V_OK &&
		X509_verify(x, X509_get0_pubkey(issuer)) == 1)
		return true;
	name_of(x, name);
	name_of(issuer, other);
	join_say(j, "%s is not signed by %s, which follows it", name, other);
	return join_next(j, "put the chain into tls.certificate in order: the server's own, then "
			    "each one's issuer");
}

static bool
check_chain(struct join *j, const STACK_OF(X509) * chain)
{
	int count = sk_X509_num(chain);

	for (int i = 0; i < count; i++)
		if (!in_time(j, sk_X509_value(chain, i)))
			return false;
	for (int i = 0; i + 1 < count; i++)
		if (!is_linked(j, sk_X509_value(chain, i), sk_X509_value(chain, i + 1)))
			return false;
	return true;
}

static bool
check_server(struct join *j, X509 *x, const char *host)
{
	if (!is_for(x, host)) {
		join_say(j, "the certificate in tls.certificate is not for %s, which url names",
			host);
		return join_next(j, "issue one with %s among its SANs, or correct url", host);
	}
	if (X509_check_purpose(x, X509_PURPOSE_SSL_SERVER, 0) != 1) {
		join_say(j, "the certificate in tls.certificate is not for TLS servers");
		return join_next(j, "issue one with EKU serverAuth");
	}
	return true;
}

static void
say_good(struct join *j, const X509 *x, const char *host, int count)
{
	char end[40] = "?";
	struct tm tm;

	if (ASN1_TIME_to_tm(X509_get0_notAfter(x), &tm) == 1)
		strftime(end, sizeof(end), "%Y-%m-%d", &tm);
	join_say(j, "the server's is for %s, until %s; %d in the chain", host, end, count);
}

bool
join_check_certificates(struct join *j)
{
	STACK_OF(X509) *chain = read_chain(j->n->part.tls_certificate);
	X509 *x = sk_X509_value(chain, 0);
	char host[256];
	bool ok;

	url_host(j->n->part.url, host);
	if (x) {
		ok = check_server(j, x, host) && check_chain(j, chain);
	} else {
		join_say(j, "%s holds no certificate", j->n->part.tls_certificate);
		ok = join_next(j, "put the server's certificate there");
	}
	if (ok)
		say_good(j, x, host, sk_X509_num(chain));
	sk_X509_pop_free(chain, X509_free);
	ERR_clear_error();
	return ok;
}
