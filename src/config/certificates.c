/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is in the PEM files that the configuration names: do certificate and key belong together,
 * are they valid now, can kekd-net's user read them? kekd-net reads the same files again, in its
 * own way (src/http, src/access); here the operator is told before anything is started.
 */
#include "load.h"

#include "kekd/str.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <pwd.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define GROUPS_MAX 1024

static void
x509_freep(X509 **x)
{
	X509_free(*x);
}

static void
key_freep(EVP_PKEY **k)
{
	EVP_PKEY_free(*k);
}

static void
bio_freep(BIO **b)
{
	BIO_free(*b);
}

/* Nobody is there to be asked. */
static int
no_passphrase(char *buffer, int size, int writing, void *user)
{
	(void)buffer, (void)size, (void)writing, (void)user;
	return -1;
}

static X509 *
read_certificate(const char *path)
{
	_cleanup_(bio_freep) BIO *file = BIO_new_file(path, "r");

	return file ? PEM_read_bio_X509(file, NULL, no_passphrase, NULL) : NULL;
}

static EVP_PKEY *
read_key(const char *path)
{
	_cleanup_(bio_freep) BIO *file = BIO_new_file(path, "r");

	return file ? PEM_read_bio_PrivateKey(file, NULL, no_passphrase, NULL) : NULL;
}

static void
check_time(struct check *c, const char *setting, const char *path, const X509 *x)
{
	if (X509_cmp_current_time(X509_get0_notAfter(x)) < 0)
		check_warning(c, setting,
			"%s: the certificate in %s has expired: renew it (doc/operations.md)",
			setting, path);
	else if (X509_cmp_current_time(X509_get0_notBefore(x)) > 0)
		check_warning(c, setting,
			"%s: the certificate in %s is not valid yet: look at this host's clock",
			setting, path);
}

/* Which file is to hold what, and whose certificate it is. */
struct pair {
	const char *certificate_setting, *key_setting;
	const char *certificate, *key;
	const char *whose;
};

static void
check_pair(struct check *c, const struct pair *p)
{
	_cleanup_(x509_freep) X509 *x = read_certificate(p->certificate);
	_cleanup_(key_freep) EVP_PKEY *key = read_key(p->key);

	if (!x)
		check_finding(c, p->certificate_setting,
			"%s: %s holds no PEM certificate: the %s own comes first in it",
			p->certificate_setting, p->certificate, p->whose);
	if (!key)
		check_finding(c, p->key_setting,
			"%s: %s holds no PEM private key without a passphrase: take the "
			"passphrase away (openssl pkey), and keep the file to its owner",
			p->key_setting, p->key);
	if (x && key && X509_check_private_key(x, key) != 1)
		check_finding(c, p->key_setting,
			"%s: %s is not the key of the certificate in %s: give the two that "
			"belong together",
			p->key_setting, p->key, p->certificate);
	if (x)
		check_time(c, p->certificate_setting, p->certificate, x);
}

static void
check_server(struct check *c, const struct config *config)
{
	const struct pair server = { "tls.certificate", "tls.key", config->tls.certificate,
		config->tls.key, "server's" };

	check_pair(c, &server);
}

/* What kekd-net shows to etcd, and whom it believes there. */
static void
check_etcd(struct check *c, const struct config *config)
{
	const struct pair client = { "store.certificate", "store.key", config->store.certificate,
		config->store.key, "client's" };

	if (client.certificate && client.key)
		check_pair(c, &client);
	if (config->store.ca) {
		_cleanup_(x509_freep) X509 *x = read_certificate(config->store.ca);
		if (x)
			check_time(c, "store.ca", config->store.ca, x);
		else
			check_finding(c, "store.ca",
				"store.ca: %s holds no PEM certificate: list the CAs that issued "
				"etcd's certificates",
				config->store.ca);
	}
}

static void
check_clients_ca(struct check *c, const struct config *config)
{
	const char *path = config->tls.client_ca;
	_cleanup_(bio_freep) BIO *file = BIO_new_file(path, "r");
	unsigned count = 0;

	for (;; count++) {
		_cleanup_(x509_freep)
			X509 *x = file ? PEM_read_bio_X509(file, NULL, no_passphrase, NULL) : NULL;
		if (!x)
			break;
		if (X509_check_ca(x) != 1)
			check_finding(c, "tls.client_ca",
				"tls.client_ca: certificate %u in %s is not a CA's: list the CAs "
				"that sign clients",
				count + 1, path);
		check_time(c, "tls.client_ca", path, x);
	}
	if (count == 0)
		check_finding(c, "tls.client_ca",
			"tls.client_ca: %s holds no PEM certificate: list the CAs that sign "
			"clients",
			path);
}

static STACK_OF(X509_CRL) * read_lists(const char *path)
{
	_cleanup_(bio_freep) BIO *file = BIO_new_file(path, "r");
	STACK_OF(X509_CRL) *lists = sk_X509_CRL_new_null();
	X509_CRL *crl;

	while (file && lists && (crl = PEM_read_bio_X509_CRL(file, NULL, no_passphrase, NULL)))
		if (sk_X509_CRL_push(lists, crl) <= 0)
			X509_CRL_free(crl);
	return lists;
}

static void
check_list_times(struct check *c, const char *path, const STACK_OF(X509_CRL) * lists)
{
	for (int i = 0; i < sk_X509_CRL_num(lists); i++) {
		const ASN1_TIME *end = X509_CRL_get0_nextUpdate(sk_X509_CRL_value(lists, i));

		if (end && X509_cmp_current_time(end) < 0)
			check_warning(c, "crl.file",
				"crl.file: CRL %d in %s has expired: fetch the new one "
				"(doc/operations.md)",
				i + 1, path);
	}
}

/* Only a warning: a CA may be there that has issued nothing yet. */
static void
check_lists_cover(struct check *c, const struct config *config, const STACK_OF(X509_CRL) * lists)
{
	_cleanup_(bio_freep) BIO *file = BIO_new_file(config->tls.client_ca, "r");

	for (;;) {
		_cleanup_(x509_freep)
			X509 *x = file ? PEM_read_bio_X509(file, NULL, no_passphrase, NULL) : NULL;
		char name[200] = "";
		bool covered = false;

		if (!x)
			return;
		for (int i = 0; i < sk_X509_CRL_num(lists) && !covered; i++)
			covered = X509_NAME_cmp(X509_get_subject_name(x),
					  X509_CRL_get_issuer(sk_X509_CRL_value(lists, i))) == 0;
		if (!covered)
			check_warning(c, "crl.file",
				"crl.file: %s has no CRL of \"%s\" in tls.client_ca: its clients "
				"are refused until it has",
				config->crl.file,
				X509_NAME_oneline(X509_get_subject_name(x), name, sizeof(name)));
	}
}

static void
check_lists(struct check *c, const struct config *config)
{
	const char *path = config->crl.file;
	STACK_OF(X509_CRL) *lists = read_lists(path);

	if (sk_X509_CRL_num(lists) <= 0)
		check_finding(c, "crl.file",
			"crl.file: %s holds no PEM CRL: put one of each CA there (openssl crl "
			"-inform DER turns the other form into PEM)",
			path);
	else
		check_lists_cover(c, config, lists);
	check_list_times(c, path, lists);
	sk_X509_CRL_pop_free(lists, X509_CRL_free);
}

/* ---- can kekd-net read it? ---- */

struct account {
	uid_t uid;
	gid_t gid;
	gid_t groups[GROUPS_MAX];
	int groups_count;
};

/* False: there is none to try as; check_user has told, or it is root. */
static bool
find_reader(const char *user, struct account *r)
{
	const struct passwd *pw = getpwnam(user);

	r->uid = r->gid = (gid_t)strtoul(user, NULL, 10);
	if (!pw)
		pw = getpwuid(r->uid);
	r->groups_count = 0;
	if (pw) {
		r->uid = pw->pw_uid;
		r->gid = pw->pw_gid;
		r->groups_count = GROUPS_MAX;
		if (getgrouplist(pw->pw_name, pw->pw_gid, r->groups, &r->groups_count) < 0)
			return false;
	}
	return r->uid != 0;
}

static int
try_as(const struct account *r, const char *path)
{
	if (setgroups((size_t)r->groups_count, r->groups) != 0 ||
		setresgid(r->gid, r->gid, r->gid) || setresuid(r->uid, r->uid, r->uid) != 0)
		return 0; /* not to be found out */
	return open(path, O_RDONLY | O_CLOEXEC) < 0 ? errno : 0;
}

/* In a process of its own: becoming someone else has no way back. */
static void
check_readable(struct check *c, const struct account *r, const char *user, const char *setting,
	const char *path)
{
	pid_t pid = fork();
	int status = 0;

	if (pid == 0)
		_exit(try_as(r, path));
	if (pid < 0)
		return;
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (WIFEXITED(status) && WEXITSTATUS(status) != 0)
		check_finding(c, setting,
			"%s: user %s cannot read %s: %s: chown %s %s, and let the user through its "
			"directories",
			setting, user, path, strerror(WEXITSTATUS(status)), user, path);
}

static void
check_reader(struct check *c, const struct config *config)
{
	const struct {
		const char *setting, *path;
	} files[] = {
		{ "tls.certificate", config->tls.certificate },
		{ "tls.key", config->tls.key },
		{ "tls.client_ca", config->tls.client_ca },
		{ "crl.file", config->crl.file },
		{ "store.ca", config->store.ca },
		{ "store.certificate", config->store.certificate },
		{ "store.key", config->store.key },
		{ "store.password_file", config->store.password_file },
	};
	struct account r;

	if (geteuid() != 0 || !find_reader(config->user, &r))
		return;
	for (size_t i = 0; i < STR_COUNT(files); i++)
		if (files[i].path)
			check_readable(c, &r, config->user, files[i].setting, files[i].path);
}

void
check_certificates(struct check *c, const struct config *config)
{
	check_server(c, config);
	check_clients_ca(c, config);
	check_etcd(c, config);
	if (config->crl.file)
		check_lists(c, config);
	check_reader(c, config);
	ERR_clear_error();
}
