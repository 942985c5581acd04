/* SPDX-License-Identifier: Apache-2.0 */
/* The doctor's look at the files of TLS: before kekd refuses them, and where it cannot be asked. */
#include "doctor.h"

#include "kekd/str.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define DAY_S 86400

static const char renew[] =
	"Put a new certificate and its key in their place: the plugin takes them by itself.";

/* ---- reading ---- */

/* A key with a passphrase is none: nobody is there to type it. */
static int
no_passphrase(char *buf, int size, int writing, void *user)
{
	(void)buf, (void)size, (void)writing, (void)user;
	return 0;
}

static X509 *
read_certificate(const char *path)
{
	BIO *in = BIO_new_file(path, "r");
	X509 *x = in ? PEM_read_bio_X509(in, NULL, no_passphrase, NULL) : NULL;

	BIO_free(in);
	return x;
}

static EVP_PKEY *
read_key(const char *path)
{
	BIO *in = BIO_new_file(path, "r");
	EVP_PKEY *key = in ? PEM_read_bio_PrivateKey(in, NULL, no_passphrase, NULL) : NULL;

	BIO_free(in);
	return key;
}

/* ---- may the plugin read them? ---- */

struct reader_user {
	uid_t uid;
	gid_t groups[64];
	int count;
	char name[64];
};

static void
find_user(const struct stat *dir, struct reader_user *ret_user)
{
	struct reader_user u = { .uid = dir->st_uid, .groups = { dir->st_gid }, .count = 1 };
	const struct passwd *pw = getpwuid(u.uid);

	snprintf(u.name, sizeof(u.name), "%u", (unsigned)u.uid);
	if (pw) {
		snprintf(u.name, sizeof(u.name), "%s", pw->pw_name);
		u.count = (int)STR_COUNT(u.groups);
		if (getgrouplist(pw->pw_name, pw->pw_gid, u.groups, &u.count) < 0)
			u.count = (int)STR_COUNT(u.groups);
	}
	*ret_user = u;
}

/* Bits of the paths that it cannot open. A child tries as that user: directories count as well. */
static unsigned
try_as(const struct reader_user *u, const char *const *paths, size_t count)
{
	unsigned refused = 0;
	int status = 0;
	pid_t pid = fork();

	if (pid == 0) {
		if (setgroups((size_t)u->count, u->groups) < 0 || setgid(u->groups[0]) < 0 ||
			setuid(u->uid) < 0)
			_exit(0);
		for (size_t i = 0; i < count; i++)
			if (open(paths[i], O_RDONLY | O_CLOEXEC) < 0 && errno == EACCES)
				refused |= 1u << i;
		_exit((int)refused);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
		return 0;
	return (unsigned)WEXITSTATUS(status);
}

/* root reads everything, and the plugin does not run as root: state_dir is its user's. */
static void
check_readable(struct doctor *d)
{
	const char *const paths[] = { d->config->ca, d->config->certificate,
		d->config->certificate_key };
	struct reader_user user;
	unsigned refused;
	struct stat st;

	if (stat(d->config->state_dir, &st) < 0 || st.st_uid == 0 || geteuid() != 0)
		return;
	find_user(&st, &user);
	refused = try_as(&user, paths, STR_COUNT(paths));
	for (size_t i = 0; i < STR_COUNT(paths); i++)
		if (refused & 1u << i)
			doctor_say(d, DOCTOR_FAULT, "readable",
				"Give it to that user: chown, or chgrp and chmod 640; the "
				"directories above it, too (chgrp and chmod 750).",
				"%s cannot be read by user %s, whose state_dir is", paths[i],
				user.name);
}

/* ---- the certificate ---- */

static void
format_time(const ASN1_TIME *t, char ret_text[32])
{
	struct tm tm;

	if (ASN1_TIME_to_tm(t, &tm) != 1 || strftime(ret_text, 32, "%Y-%m-%d %H:%M UTC", &tm) == 0)
		snprintf(ret_text, 32, "an unknown time");
}

/* From `from` to `to`; NULL: now. */
static long long
seconds_between(const ASN1_TIME *from, const ASN1_TIME *to)
{
	int days = 0, seconds = 0;

	ASN1_TIME_diff(&days, &seconds, from, to);
	return (long long)days * DAY_S + seconds;
}

static void
check_time(struct doctor *d, const X509 *x)
{
	const ASN1_TIME *from = X509_get0_notBefore(x), *to = X509_get0_notAfter(x);
	long long left = seconds_between(NULL, to), life = seconds_between(from, to);
	char text[32];

	format_time(to, text);
	if (left <= 0) {
		doctor_say(d, DOCTOR_FAULT, "certificate-expiry", renew, "it expired at %s", text);
	} else if (seconds_between(NULL, from) > 0) {
		format_time(from, text);
		doctor_say(d, DOCTOR_FAULT, "certificate-expiry", "Set this host's clock, or wait.",
			"it is not valid before %s", text);
	} else if (left < 14 * DAY_S && left < life / 4) {
		doctor_say(
			d, DOCTOR_WARNING, "certificate-expiry", renew, "it expires at %s", text);
	} else {
		doctor_say(d, DOCTOR_OK, "certificate-expiry", "", "valid until %s", text);
	}
}

static void
check_purpose(struct doctor *d, X509 *x)
{
	if (X509_check_purpose(x, X509_PURPOSE_SSL_CLIENT, 0) == 1)
		return;
	doctor_say(d, DOCTOR_FAULT, "certificate-purpose",
		"Have it issued with extendedKeyUsage clientAuth.",
		"it is not for TLS clients: kekd refuses it");
}

static bool
take_name(const GENERAL_NAMES *names, int type, const char *kind, char *ret_text, size_t size)
{
	for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
		const GENERAL_NAME *n = sk_GENERAL_NAME_value(names, i);
		if (n->type != type)
			continue;
		snprintf(ret_text, size, "%s:%.*s", kind, ASN1_STRING_length(n->d.ia5),
			(const char *)ASN1_STRING_get0_data(n->d.ia5));
		return true;
	}
	return false;
}

static void
say_identity(struct doctor *d, const X509 *x)
{
	GENERAL_NAMES *names = X509_get_ext_d2i(x, NID_subject_alt_name, NULL, NULL);
	char text[300] = "";

	if (names && (take_name(names, GEN_URI, "uri", text, sizeof(text)) ||
			     take_name(names, GEN_DNS, "dns", text, sizeof(text))))
		doctor_say(d, DOCTOR_OK, "certificate", "", "%s: %s, with its key",
			d->config->certificate, text);
	else
		doctor_say(d, DOCTOR_WARNING, "certificate",
			"Have it issued with one URI or DNS name as subjectAltName.",
			"%s names nobody whom kekd could know", d->config->certificate);
	GENERAL_NAMES_free(names);
}

static void
check_pair(struct doctor *d, X509 *x, EVP_PKEY *key)
{
	if (!x)
		doctor_say(d, DOCTOR_FAULT, "certificate",
			"Put the client certificate there, PEM, its own first.",
			"%s holds no certificate", d->config->certificate);
	else if (!key)
		doctor_say(d, DOCTOR_FAULT, "certificate",
			"Put the private key there, PEM, without a passphrase.",
			"%s holds no key that can be used", d->config->certificate_key);
	else if (X509_check_private_key(x, key) != 1)
		doctor_say(d, DOCTOR_FAULT, "certificate",
			"Put the two that belong together in their place.",
			"%s is not the key of %s", d->config->certificate_key,
			d->config->certificate);
	else
		say_identity(d, x);
}

/* ---- the CA ---- */

static void
check_ca(struct doctor *d)
{
	BIO *in = BIO_new_file(d->config->ca, "r");
	unsigned count = 0, expired = 0;
	X509 *x;

	while (in && (x = PEM_read_bio_X509(in, NULL, no_passphrase, NULL))) {
		count++;
		expired += X509_cmp_current_time(X509_get0_notAfter(x)) < 0;
		X509_free(x);
	}
	BIO_free(in);
	if (count == 0)
		doctor_say(d, DOCTOR_FAULT, "ca",
			"Put the certificate of the CA there that issued those of kekd's nodes.",
			"%s holds no certificate", d->config->ca);
	else if (expired)
		doctor_say(d, expired == count ? DOCTOR_FAULT : DOCTOR_WARNING, "ca",
			"Put the CA's new certificate there.",
			"%u of %u certificates in %s have "
			"expired",
			expired, count, d->config->ca);
	else
		doctor_say(d, DOCTOR_OK, "ca", "", "%s: %u certificate%s", d->config->ca, count,
			count == 1 ? "" : "s");
}

void
doctor_certificate(struct doctor *d)
{
	X509 *x = read_certificate(d->config->certificate);
	EVP_PKEY *key = read_key(d->config->certificate_key);

	check_readable(d);
	check_pair(d, x, key);
	if (x) {
		check_time(d, x);
		check_purpose(d, x);
	}
	check_ca(d);
	EVP_PKEY_free(key);
	X509_free(x);
	ERR_clear_error();
}
