/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The configuration: what is good is taken with its defaults, what is bad is named with its line
 * and a remedy, and the parts arrive in the children as they were cut.
 */
#include "config_site.h"

#include "kekd/config.h"

#include "kekd/json.h"
#include "kekd/str.h"

#include <fcntl.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

/* Users by number: they need not exist where the tests run. */
static const char good[] = "cluster: lab\n"				       /* 1 */
			   "node: one\n"				       /* 2 */
			   "state_dir: state\n"				       /* 3 */
			   "user: \"0\"\n"				       /* 4 */
			   "listen:\n"					       /* 5 */
			   "  - 127.0.0.1:7373\n"			       /* 6 */
			   "  - \"[::1]:7373\"\n"			       /* 7 */
			   "tls:\n"					       /* 8 */
			   "  certificate: server.pem\n"		       /* 9 */
			   "  key: server.key\n"			       /* 10 */
			   "  client_ca: ca.pem\n"			       /* 11 */
			   "tokens:\n"					       /* 12 */
			   "  - name: main\n"				       /* 13 */
			   "    uri: pkcs11:token=lab\n"		       /* 14 */
			   "    module: module.so\n"			       /* 15 */
			   "    pin-source: pin\n"			       /* 16 */
			   "hsm:\n"					       /* 17 */
			   "  user: \"0\"\n"				       /* 18 */
			   "  workers: 2\n"				       /* 19 */
			   "  deadline: 500ms\n"			       /* 20 */
			   "audit:\n"					       /* 21 */
			   "  dir: audit\n"				       /* 22 */
			   "  max_bytes: 16MiB\n"			       /* 23 */
			   "admins:\n"					       /* 24 */
			   "  - name: alice\n"				       /* 25 */
			   "    identities: [ \"uri:spiffe://lab/alice\" ]\n"; /* 26 */

/* A self-signed certificate, from a day ago until `days` from now. */
static void
write_certificate(const struct site *s, const char *name, EVP_PKEY *key, bool ca, int days)
{
	char path[128];
	FILE *f;
	X509 *x = X509_new();
	X509V3_CTX ctx;
	X509_EXTENSION *e;

	X509_set_version(x, X509_VERSION_3);
	X509_gmtime_adj(X509_getm_notBefore(x), -86400L * 10);
	X509_gmtime_adj(X509_getm_notAfter(x), 86400L * days);
	X509_set_pubkey(x, key);
	X509V3_set_ctx(&ctx, x, x, NULL, NULL, 0);
	e = X509V3_EXT_conf_nid(
		NULL, &ctx, NID_basic_constraints, ca ? "critical,CA:TRUE" : "CA:FALSE");
	X509_add_ext(x, e, -1);
	X509_EXTENSION_free(e);
	assert_true(X509_sign(x, key, EVP_sha256()) > 0);
	snprintf(path, sizeof(path), "%s/%s", s->dir, name);
	f = fopen(path, "w");
	assert_non_null(f);
	PEM_write_X509(f, x);
	fclose(f);
	X509_free(x);
}

static void
write_crl(const struct site *s, const char *name, EVP_PKEY *key, const char *issuer, int days)
{
	char path[128];
	FILE *f;
	X509_CRL *crl = X509_CRL_new();
	ASN1_TIME *from = X509_gmtime_adj(NULL, -86400L * 10),
		  *to = X509_gmtime_adj(NULL, 86400L * days);

	X509_CRL_set_version(crl, X509_CRL_VERSION_2);
	if (issuer) {
		X509_NAME *issued_by = X509_NAME_new();
		X509_NAME_add_entry_by_txt(
			issued_by, "CN", MBSTRING_UTF8, (const unsigned char *)issuer, -1, -1, 0);
		X509_CRL_set_issuer_name(crl, issued_by);
		X509_NAME_free(issued_by);
	}
	X509_CRL_set1_lastUpdate(crl, from);
	X509_CRL_set1_nextUpdate(crl, to);
	assert_true(X509_CRL_sign(crl, key, EVP_sha256()) > 0);
	snprintf(path, sizeof(path), "%s/%s", s->dir, name);
	f = fopen(path, "w");
	assert_non_null(f);
	PEM_write_X509_CRL(f, crl);
	fclose(f);
	ASN1_TIME_free(from);
	ASN1_TIME_free(to);
	X509_CRL_free(crl);
}

static void
write_key(const struct site *s, const char *name, EVP_PKEY *key)
{
	char path[128];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", s->dir, name);
	f = fopen(path, "w");
	assert_non_null(f);
	assert_int_equal(fchmod(fileno(f), 0600), 0);
	PEM_write_PrivateKey(f, key, NULL, NULL, 0, NULL, NULL);
	fclose(f);
}

static void
write_certificates(const struct site *s)
{
	EVP_PKEY *key = EVP_EC_gen("P-256"), *other = EVP_EC_gen("P-256");

	write_certificate(s, "server.pem", key, false, 30);
	write_certificate(s, "expired.pem", key, false, -1);
	write_certificate(s, "ca.pem", key, true, 30);
	write_crl(s, "crl.pem", key, NULL, 30);
	write_crl(s, "crl-other.pem", key, "other", 30);
	write_crl(s, "crl-old.pem", key, NULL, -1);
	write_key(s, "server.key", key);
	write_key(s, "other.key", other);
	EVP_PKEY_free(key);
	EVP_PKEY_free(other);
}

static int
make_site(void **state)
{
	struct site *s = site_make("kekd.yaml");

	write_certificates(s);
	site_write(s, "module.so", "x", 0755);
	site_write(s, "pin", "1234", 0600);
	site_write(s, "pin-empty", "", 0600);
	site_write(s, "pin-group", "1234", 0620);
	site_write(s, "pin-world", "1234", 0604);
	*state = s;
	return 0;
}

static int
remove_site(void **state)
{
	site_remove(*state);
	return 0;
}

/* Loads text as the configuration; the findings go to s->output. */
static int
load(struct site *s, const char *text, struct config **ret_config)
{
	FILE *out = site_configure(s, text);
	int err = config_load_to(s->config, out, ret_config);

	fclose(out);
	return err;
}

/* `good` with one part replaced. */
static void
replace(const char *from, const char *to, char ret_text[8192])
{
	const char *at = strstr(good, from);

	assert_non_null(at);
	snprintf(ret_text, 8192, "%.*s%s%s", (int)(at - good), good, to, at + strlen(from));
}

static void
a_good_file_is_taken_silently_with_paths_beside_it(void **state)
{
	struct site *s = *state;
	_cleanup_(config_freep) struct config *c = NULL;
	char path[160];

	assert_int_equal(load(s, good, &c), 0);
	assert_string_equal(s->output, "");
	assert_string_equal(c->cluster, "lab");
	assert_int_equal(c->listen_count, 2);
	snprintf(path, sizeof(path), "%s/server.key", s->dir);
	assert_string_equal(c->tls.key, path);
	snprintf(path, sizeof(path), "%s/pin", s->dir);
	assert_string_equal(c->tokens[0].pin_source, path);
	snprintf(path, sizeof(path), "%s/state/hsm", s->dir);
	assert_string_equal(c->hsm.state_dir, path);
	assert_int_equal(c->hsm.workers, 2);
	assert_int_equal(c->hsm.sessions, 1);
	assert_int_equal(c->hsm.deadline_ms, 500);
	assert_int_equal(c->audit.max_bytes, 16 << 20);
	assert_false(c->audit.hash_context);
	assert_false(c->identity.common_name);
}

static void
what_is_left_out_has_its_default(void **state)
{
	struct site *s = *state;
	_cleanup_(config_freep) struct config *c = NULL;
	char text[8192];

	replace("  workers: 2\n  deadline: 500ms\n", "", text);
	assert_int_equal(load(s, text + strlen("cluster: lab\n"), &c), 0);
	assert_string_equal(c->cluster, "kekd");
	assert_in_range(c->hsm.workers, 1, CONFIG_WORKERS_MAX);
	assert_int_equal(c->hsm.deadline_ms, 5000);
	assert_int_equal(c->hsm.hang_ms, 30000);
}

static void
a_worker_may_keep_a_request_longer_than_its_deadline(void **state)
{
	static const struct {
		const char *text;
		unsigned hang_ms;
	} cases[] = { { "5s\n  hang: 5001ms", 5001 }, { "1s\n  hang: 2m", 120000 },
		{ "30s", 60000 }, { "29s", 30000 } };
	struct site *s = *state;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		_cleanup_(config_freep) struct config *c = NULL;
		char text[8192];
		replace("500ms", cases[i].text, text);
		assert_int_equal(load(s, text, &c), 0);
		assert_int_equal(c->hsm.hang_ms, cases[i].hang_ms);
	}
}

static void
module_and_pin_source_may_come_with_the_uri(void **state)
{
	struct site *s = *state;
	_cleanup_(config_freep) struct config *c = NULL;
	char text[8192], query[512], path[160];

	snprintf(query, sizeof(query),
		"    uri: \"pkcs11:token=lab?module-path=%s/module.so&pin-source=file:%s/pin\"\n",
		s->dir, s->dir);
	replace("    uri: pkcs11:token=lab\n    module: module.so\n    pin-source: pin\n", query,
		text);
	assert_int_equal(load(s, text, &c), 0);
	snprintf(path, sizeof(path), "%s/module.so", s->dir);
	assert_string_equal(c->tokens[0].module, path);
	snprintf(path, sizeof(path), "%s/pin", s->dir);
	assert_string_equal(c->tokens[0].pin_source, path);
}

/* Before "tls:\n", in line 8; what is given begins in line 11. */
#define ETCD(lines) "url: https://kek1:7373\nstore:\n  engine: etcd\n" lines "tls:\n"
#define ENDPOINT "  endpoints: [ http://127.0.0.1:2379 ]\n"

static const struct {
	const char *from, *to;
	unsigned line;	  /* that the finding must name */
	const char *what; /* that it must say */
	const char *remedy;
} bad[] = {
	{ "node: one", "nodee: one", 2, "\"nodee\" is not known", "spelling" },
	{ "  client_ca: ca.pem", "  client_ca: ca.pem\n  cipher: x", 12, "\"cipher\" is not known",
		"take it out" },
	{ "    module: module.so", "    modul: module.so", 15, "\"modul\" is not known",
		"spelling" },
	{ "hsm:\n", "module: a\nhsm:\n", 17, "the key \"module\" is not known", "place" },
	{ "admins:\n", "name: x\nadmins:\n", 24, "\"name\" is not known", "place" },
	{ "admins:\n", "a.b: x\nadmins:\n", 24, "\"a.b\" is not known", "spelling" },
	{ "state_dir: state", "state_dir: state\nstate_dir: other", 4, "given twice", "keep one" },
	{ "    pin-source: pin", "    pin-source: pin\n    uri: b", 17, "\"uri\" is given twice",
		"keep one" },
	{ "node: one", "node: [ one ]", 2, "node", "single value" },
	{ "node: one", "node:", 2, "node: it has no value", "take the line out" },
	{ "tls:\n", "tls: no\nx:\n", 8, "tls", "settings are needed" },
	{ "node: one", "node: \"one", 4, "not YAML", "correct it" },
	{ "node: one", "\tnode: one", 2, "not YAML", "correct it" },
	{ "node: one", "--- x", 2, "a second document", "correct it" },
	{ "  workers: 2", "  workers: two", 19, "workers", "digits" },
	{ "  workers: 2", "  workers: 0", 19, "hsm.workers is 0", "1 to 4" },
	{ "  workers: 2", "  workers: 5", 19, "hsm.workers is 5", "1 to 4" },
	{ "  workers: 2", "  sessions: 65", 19, "hsm.sessions is 65", "1 to 64" },
	{ "500ms", "5", 20, "\"5\" is no duration", "\"5s\"" },
	{ "500ms", "5 minutes", 20, "is no duration", "\"5s\"" },
	{ "500ms", "31s", 20, "is no duration", "30 s" },
	{ "500ms", "99999999999999999999s", 20, "is no duration", "\"5s\"" },
	{ "500ms", "500ms\n  hang: 500ms", 21, "above hsm.deadline (500 ms)", "\"30s\"" },
	{ "500ms", "500ms\n  hang: 11m", 21, "up to 10 m", "\"2m\"" },
	{ "500ms", "500ms\n  hang: soon", 21, "is no duration", "\"30s\"" },
	{ "16MiB", "1KiB", 23, "is no size", "4 KiB" },
	{ "16MiB", "lots", 23, "is no size", "GiB" },
	{ "  max_bytes: 16MiB", "  keep: 1", 23, "audit.keep is 1", "2 to 1000000" },
	{ "  max_bytes: 16MiB", "  keep: 0", 23, "audit.keep is 0", "leave it away" },
	{ "  max_bytes: 16MiB", "  context: secret", 23, "context", "not known" },
	{ "audit:\n", "identity: { common_name: maybe }\naudit:\n", 21, "common_name",
		"not known" },
	{ "cluster: lab", "cluster: Lab", 1, "cluster \"Lab\" is not a name", "a-z" },
	{ "node: one", "node: -one", 2, "node \"-one\" is not a name", "a-z" },
	{ "127.0.0.1:7373", "127.0.0.1", 6, "\"127.0.0.1\" is not ADDRESS:PORT", "number" },
	{ "127.0.0.1:7373", "localhost:7373", 6, "is not ADDRESS:PORT", "number" },
	{ "127.0.0.1:7373", "127.0.0.1:0", 6, "is not ADDRESS:PORT", "number" },
	{ "127.0.0.1:7373", "127.0.0.1:70000", 6, "is not ADDRESS:PORT", "number" },
	{ "[::1]:7373", "::1:7373", 7, "is not ADDRESS:PORT", "[::1]" },
	{ "[::1]:7373", "[::1]7373", 7, "is not ADDRESS:PORT", "[::1]" },
	{ "[::1]:7373", "127.0.0.1:7373", 7, "twice", "keep one" },
	{ "  key: server.key\n", "", 8, "tls.key is missing", "path" },
	{ "server.key", "nothing.key", 10, "nothing.key cannot be read", "put the file there" },
	{ "server.key", "pin-world", 10, "mode 0604", "chmod 600 /tmp/" },
	{ "server.key", "other.key", 10, "is not the key of the certificate", "belong together" },
	{ "server.key", "pin", 10, "holds no PEM private key", "passphrase" },
	{ "server.pem", "pin", 9, "holds no PEM certificate", "comes first" },
	{ "ca.pem", "pin", 11, "holds no PEM certificate", "list the CAs" },
	{ "ca.pem", "server.pem", 11, "certificate 1", "list the CAs" },
	{ "tokens:\n", "crl: { file: pin }\ntokens:\n", 12, "holds no PEM CRL", "openssl crl" },
	{ "tokens:\n", "crl: { file: missing.crl }\ntokens:\n", 12, "cannot be read",
		"put the file there" },
	{ "tokens:\n", "crl: { on_expired: warn }\ntokens:\n", 12, "says nothing without CRLs",
		"crl.file" },
	{ "tokens:\n", "crl: { file: crl.pem, on_expired: no }\ntokens:\n", 12, "on_expired",
		"not known" },
	{ "tokens:\n", "deny: [ alice ]\ntokens:\n", 12, "\"alice\" is not an identity",
		"uri:URI" },
	{ "tokens:\n", "deny:\n  - dns:a\n  - cn:alice\ntokens:\n", 14, "can never match",
		"common_name" },
	{ "server.pem", "/", 9, "is not a file", "correct the path" },
	{ "state_dir: state", "state_dir: pin", 3, "is not a directory", "correct the path" },
	{ "  dir: audit", "  dir: state", 22, "audit.dir is state_dir", "another directory" },
	{ "tls:\n", "store: { engine: paper }\ntls:\n", 8, "engine", "not known" },
	{ "tls:\n", "store: { lease: 5s }\ntls:\n", 8, "store.lease says nothing without etcd",
		"store.engine: etcd" },
	{ "tls:\n", "url: kek1:7373\ntls:\n", 8, "\"kek1:7373\" is not https://HOST:PORT",
		"clients reach" },
	{ "tls:\n", "url: https://kek1/\ntls:\n", 8, "is not https://HOST:PORT", "write" },
	{ "tls:\n", "store:\n  engine: etcd\n" ENDPOINT "tls:\n", 8, "url is missing",
		"https://HOST:PORT" },
	{ "tls:\n", ETCD(""), 9, "store.endpoints has no address", "list" },
	{ "tls:\n", ETCD("  endpoints: [ etcd1 ]\n"), 11, "\"etcd1\" is not https://HOST:PORT",
		"nothing else" },
	{ "tls:\n", ETCD("  endpoints: [ \"https://u:p@e:1\" ]\n  ca: ca.pem\n"), 11,
		"is not https://HOST:PORT", "nothing else" },
	{ "tls:\n", ETCD("  endpoints: [ http://etcd1:2379 ]\n"), 11, "in the clear", "https://" },
	{ "tls:\n", ETCD("  endpoints: [ http://128.0.0.1:2379 ]\n"), 11, "in the clear",
		"https://" },
	{ "tls:\n", ETCD("  endpoints: [ https://etcd1:2379 ]\n"), 11, "store.ca is missing",
		"issued" },
	{ "tls:\n", ETCD("  endpoints: [ http://localhost:1, http://localhost:1 ]\n"), 11,
		"given twice", "keep one" },
	{ "tls:\n", ETCD(ENDPOINT "  ca: pin\n"), 12, "holds no PEM certificate", "list the CAs" },
	{ "tls:\n", ETCD(ENDPOINT "  ca: none.pem\n"), 12, "store.ca", "put the file there" },
	{ "tls:\n", ETCD(ENDPOINT "  certificate: server.pem\n"), 12, "needs store.key", "both" },
	{ "tls:\n", ETCD(ENDPOINT "  certificate: server.pem\n  key: other.key\n"), 13,
		"store.key: /tmp/", "belong together" },
	{ "tls:\n", ETCD(ENDPOINT "  user: kek1\n"), 12, "needs store.password_file", "both" },
	{ "tls:\n", ETCD(ENDPOINT "  user: kek1\n  password_file: pin-world\n"), 13,
		"everybody can reach", "chmod 600" },
	{ "tls:\n", ETCD(ENDPOINT "  user: kek1\n  password_file: pin-empty\n"), 13, "is empty",
		"write" },
	{ "tls:\n", ETCD(ENDPOINT "  lease: 1s\n"), 12, "no duration from 2 s to 60 s", "\"5s\"" },
	{ "tls:\n", ETCD(ENDPOINT "  lease: 500ms\n"), 12, "is no duration", "\"5s\"" },
	{ "tls:\n", ETCD(ENDPOINT "  timeout: 3s\n"), 12, "half of store.lease (2500 ms)",
		"\"2s\"" },
	{ "tls:\n", ETCD(ENDPOINT "  timeout: 2\n"), 12, "is no duration", "\"500ms\"" },
	{ "tls:\n", ETCD(ENDPOINT "  max_staleness: 24h\n"), 12, "below 24 h", "\"12h\"" },
	{ "  - name: main\n", "  - name: MAIN\n", 13, "\"MAIN\" is not a name", "a-z" },
	{ "  - name: main\n    uri", "  - uri", 13, "no name", "add" },
	{ "hsm:\n",
		"  - { name: main, uri: \"pkcs11:token=b\", module: module.so, pin-source: pin "
		"}\nhsm:\n",
		17, "\"main\" is given twice", "own name" },
	{ "pkcs11:token=lab", "http://token", 14, "is not a PKCS#11 URI", "pkcs11:token=LABEL" },
	{ "pkcs11:token=lab", "pkcs11:token=%zz", 14, "is not a PKCS#11 URI", "RFC 7512" },
	{ "pkcs11:token=lab", "pkcs11:object=x", 14, "names no token", "token=LABEL" },
	{ "pkcs11:token=lab", "pkcs11:slot-id=3", 14, "slot number", "serial=" },
	{ "pkcs11:token=lab", "pkcs11:token=lab;colour=red", 14, "not known", "correct it" },
	{ "pkcs11:token=lab", "pkcs11:token=lab?pin-value=1234", 14, "holds the PIN", "0600" },
	{ "    module: module.so\n", "", 13, "no module", "add" },
	{ "module.so", "missing.so", 15, "missing.so cannot be read", "correct the path" },
	{ "    pin-source: pin\n", "", 13, "no PIN source", "0600" },
	{ "source: pin", "source: missing", 16, "cannot be read", "correct the path" },
	{ "source: pin", "source: pin-empty", 16, "is empty", "user PIN" },
	{ "source: pin", "source: pin-group", 16, "mode 0620", "chmod 600 /tmp/" },
	{ "source: pin", "source: pin-world", 16, "mode 0604", "chmod 600 /tmp/" },
	{ "source: pin", "source: \"|cat pin\"", 16, "program", "name a file" },
	{ "  - name: alice\n", "  - name: Alice\n", 25, "\"Alice\" is not a name", "a-z" },
	{ "uri:spiffe://lab/alice", "spiffe://lab/alice", 26, "is not an identity", "uri:URI" },
	{ "uri:spiffe://lab/alice", "spki:abcd", 26, "is not an identity", "spki:SHA256" },
	{ "uri:spiffe://lab/alice", "cn:alice", 26, "can never match", "common_name" },
	{ "    identities: [ \"uri:spiffe://lab/alice\" ]\n", "", 25, "no identity", "add" },
	{ "\"uri:spiffe://lab/alice\" ]\n", "dns:a ]\n  - { name: bob, identities: [ dns:a ] }\n",
		27, "\"dns:a\" is given twice", "keep one" },
};

static void
each_fault_is_named_with_its_line_and_a_remedy(void **state)
{
	struct site *s = *state;
	unsigned failures = 0;

	for (size_t i = 0; i < STR_COUNT(bad); i++) {
		struct config *c = NULL;
		char text[8192], where[128];

		replace(bad[i].from, bad[i].to, text);
		assert_true(load(s, text, &c) < 0);
		assert_null(c);
		snprintf(where, sizeof(where), "%s:%u: ", s->config, bad[i].line);
		if (strncmp(s->output, where, strlen(where)) == 0 &&
			strstr(s->output, bad[i].what) && strstr(s->output, bad[i].remedy) &&
			strchr(s->output, '\n') == strrchr(s->output, '\n'))
			continue;
		failures++;
		print_error("\"%s\" instead of \"%s\" (line %u: %s, %s) gave:\n%s", bad[i].to,
			bad[i].from, bad[i].line, bad[i].what, bad[i].remedy, s->output);
	}
	assert_int_equal(failures, 0);
}

static void
what_has_expired_is_told_and_taken(void **state)
{
	struct site *s = *state;
	_cleanup_(config_freep) struct config *c = NULL;
	char text[8192];

	replace("  certificate: server.pem\n  key: server.key\n  client_ca: ca.pem\n",
		"  certificate: expired.pem\n  key: server.key\n  client_ca: ca.pem\n"
		"crl:\n  file: crl-old.pem\n  on_expired: warn\n",
		text);
	assert_int_equal(load(s, text, &c), 0);
	assert_non_null(strstr(s->output, "kekd.yaml:9: warning: tls.certificate"));
	assert_non_null(strstr(s->output, "kekd.yaml:13: warning: crl.file"));
	assert_true(c->crl.warn_expired);
}

static void
a_ca_without_a_crl_is_told_and_taken(void **state)
{
	struct site *s = *state;
	struct config *c = NULL;
	char text[8192];

	replace("tokens:\n", "crl: { file: crl.pem }\ntokens:\n", text);
	assert_int_equal(load(s, text, &c), 0);
	assert_string_equal(s->output, "");
	config_freep(&c);
	replace("tokens:\n", "crl: { file: crl-other.pem }\ntokens:\n", text);
	assert_int_equal(load(s, text, &c), 0);
	assert_non_null(strstr(s->output, "kekd.yaml:12: warning: crl.file"));
	assert_non_null(strstr(s->output, "has no CRL of"));
	config_freep(&c);
}

static void
files_that_kekd_nets_user_cannot_read_are_named(void **state)
{
	struct site *s = *state;
	struct config *c = NULL;
	char text[8192];

	if (geteuid() != 0)
		skip();
	replace("user: \"0\"", "user: \"65534\"", text);
	assert_int_equal(chmod(s->dir, 0755), 0);
	assert_true(load(s, text, &c) < 0);
	assert_non_null(strstr(s->output, "kekd.yaml:10: tls.key: user 65534 cannot read"));
	assert_null(strstr(s->output, "kekd.yaml:9: "));
	assert_int_equal(chmod(s->dir, 0700), 0);
	assert_true(load(s, text, &c) < 0);
	assert_non_null(strstr(s->output, "kekd.yaml:9: tls.certificate: user 65534 cannot read"));
}

static void
find_row(const char *name, void *user)
{
	size_t *count = user;

	(*count)++;
	for (const struct config_setting *s = config_settings; s->name; s++)
		if (strcmp(s->name, name) == 0)
			return;
	fail_msg("%s: say in src/config/settings.c and doc/operations.md what a change of it takes",
		name);
}

static void
every_setting_says_whether_a_reload_or_a_restart_brings_it_into_force(void **state)
{
	size_t count = 0, rows = 0;

	(void)state;
	config_each_setting(find_row, &count);
	for (const struct config_setting *s = config_settings; s->name; s++)
		rows++;
	assert_int_equal(rows, count);
}

static void
a_reload_takes_what_may_change_and_leaves_the_rest(void **state)
{
	struct site *s = *state;
	_cleanup_(config_freep) struct config *before = NULL;
	_cleanup_(config_freep) struct config *after = NULL;
	char text[8192];
	size_t changed = 0;

	replace("  workers: 2\n  deadline: 500ms\n",
		"  workers: 1\n  deadline: 1s\ncrl: { file: crl.pem, on_expired: warn }\n"
		"deny: [ dns:a, dns:b ]\nidentity: { common_name: true }\n",
		text);
	assert_int_equal(load(s, good, &before), 0);
	assert_int_equal(load(s, text, &after), 0);
	for (const struct config_setting *row = config_settings; row->name; row++)
		changed += !config_setting_same(row, before, after);
	assert_int_equal(changed, 6);
	config_take_reloadable(before, after);
	assert_int_equal(before->deny_count, 2);
	assert_string_equal(before->deny[1], "dns:b");
	assert_non_null(before->crl.file);
	assert_true(before->crl.warn_expired);
	assert_true(before->identity.common_name);
	assert_int_equal(before->hsm.workers, 2);
	assert_int_equal(before->hsm.deadline_ms, 500);
	assert_int_equal(after->deny_count, 0);
}

static void
all_faults_of_meaning_are_told_at_once(void **state)
{
	struct site *s = *state;
	struct config *c = NULL;
	unsigned lines = 0;

	assert_true(load(s, "user: \"0\"\nhsm: { user: \"0\" }\n", &c) < 0);
	for (const char *p = s->output; (p = strchr(p, '\n')); p++)
		lines++;
	assert_int_equal(lines, 7);
	assert_non_null(strstr(s->output, "tokens is missing"));
	assert_non_null(strstr(s->output, "listen has no address"));
	assert_non_null(strstr(s->output, "audit.dir is missing"));
}

static void
an_empty_and_a_missing_file_are_refused(void **state)
{
	struct site *s = *state;
	struct config *c = NULL;

	assert_true(load(s, "", &c) < 0);
	assert_true(load(s, "- a\n- b\n", &c) < 0);
	assert_non_null(strstr(s->output, "settings are needed"));
	assert_true(config_load("/nonexistent/kekd.yaml", &c) < 0);
	assert_null(c);
}

static int
part_fd(const json_t *part)
{
	char *text = json_dumps(part, 0);
	int pipe_ends[2];

	assert_non_null(text);
	assert_int_equal(pipe2(pipe_ends, O_CLOEXEC), 0);
	assert_int_equal(write(pipe_ends[1], text, strlen(text)), strlen(text));
	close(pipe_ends[1]);
	json_text_free(text);
	return pipe_ends[0];
}

static void
kekd_net_reads_its_part_as_it_was_cut(void **state)
{
	struct site *s = *state;
	_cleanup_(config_freep) struct config *c = NULL;
	struct net_part p;
	json_t *part;
	char text[8192];
	int fd;

	replace("tokens:\n", "crl: { file: crl.pem }\ndeny: [ dns:a ]\ntokens:\n", text);
	assert_int_equal(load(s, text, &c), 0);
	part = config_net_part(c, NET_INIT);
	assert_non_null(part);
	fd = part_fd(part);
	assert_int_equal(net_part_read(fd, &p), 0);
	assert_int_equal(fcntl(fd, F_GETFD), -1);
	assert_int_equal(p.task, NET_INIT);
	assert_string_equal(p.cluster, "lab");
	assert_string_equal(p.tls_key, c->tls.key);
	assert_string_equal(p.crl_file, c->crl.file);
	assert_false(p.crl_warn_expired);
	assert_int_equal(p.deny_count, 1);
	assert_string_equal(p.deny[0], "dns:a");
	assert_int_equal(p.tokens_count, 1);
	assert_string_equal(p.tokens[0], "main");
	assert_int_equal(p.deadline_ms, 500);
	assert_int_equal(p.hang_ms, 30000);
	assert_int_equal(p.audit_max_bytes, 16 << 20);
	assert_int_equal(p.audit_keep, 0);
	assert_int_equal(json_array_size(p.admins), 1);
	net_part_free(&p);
	json_decref(part);
}

static void
kekd_net_learns_how_etcd_is_reached(void **state)
{
	struct site *s = *state;
	_cleanup_(config_freep) struct config *c = NULL;
	struct net_part p;
	json_t *part;
	char text[8192], path[160];

	replace("tls:\n",
		ETCD("  endpoints: [ https://e1:2379, \"https://[2001:db8::1]:2379\" ]\n"
		     "  ca: ca.pem\n  certificate: server.pem\n  key: server.key\n"
		     "  user: kek1\n  password_file: pin\n  lease: 3s\n  max_staleness: 1h\n"),
		text);
	assert_int_equal(load(s, text, &c), 0);
	assert_string_equal(s->output, "");
	part = config_net_part(c, NET_SERVE);
	assert_int_equal(net_part_read(part_fd(part), &p), 0);
	assert_string_equal(p.url, "https://kek1:7373");
	assert_int_equal(p.store.endpoints_count, 2);
	assert_string_equal(p.store.endpoints[1], "https://[2001:db8::1]:2379");
	snprintf(path, sizeof(path), "%s/pin", s->dir);
	assert_string_equal(p.store.password_file, path);
	assert_string_equal(p.store.user, "kek1");
	assert_string_equal(p.store.cluster, "lab");
	assert_int_equal(p.store.timeout_ms, 1500); /* half of the lease */
	assert_int_equal(p.store_lease_s, 3);
	assert_int_equal(p.store_max_staleness_s, 3600);
	net_part_free(&p);
	json_decref(part);
	part = config_net_part(c, NET_DRILL);
	assert_int_equal(net_part_read(part_fd(part), &p), 0);
	assert_null(p.store.endpoints); /* a scratch directory's is SQLite */
	net_part_free(&p);
	json_decref(part);
}

static void
a_worker_reads_its_part_and_never_learns_the_pin_file(void **state)
{
	struct site *s = *state;
	_cleanup_(config_freep) struct config *c = NULL;
	struct worker_part p;
	json_t *part;

	assert_int_equal(load(s, good, &c), 0);
	part = config_worker_part(c, 0, 1);
	assert_non_null(part);
	assert_int_equal(worker_part_read(part_fd(part), &p), 0);
	assert_string_equal(p.token, "main");
	assert_int_equal(p.index, 1);
	assert_string_equal(p.uri, "pkcs11:token=lab");
	assert_string_equal(p.module, c->tokens[0].module);
	assert_int_equal(p.sessions, 1);
	worker_part_free(&p);
	json_decref(part);
}

static void
a_part_with_an_unknown_or_missing_or_wild_member_is_refused(void **state)
{
	static const struct {
		const char *member;
		json_int_t value;
	} wild[] = { { "index", CONFIG_WORKERS_MAX }, { "sessions", 100000 }, { "more", 1 } };
	struct site *s = *state;
	_cleanup_(config_freep) struct config *c = NULL;
	struct worker_part p;
	struct net_part n;

	assert_int_equal(load(s, good, &c), 0);
	for (size_t i = 0; i < STR_COUNT(wild); i++) {
		json_t *part = config_worker_part(c, 0, 0);
		json_object_set_new(part, wild[i].member, json_integer(wild[i].value));
		assert_true(worker_part_read(part_fd(part), &p) < 0);
		json_decref(part);
	}
	{
		json_t *part = config_net_part(c, NET_SERVE);
		json_object_del(part, "audit_dir");
		assert_true(net_part_read(part_fd(part), &n) < 0);
		json_object_set_new(part, "audit_dir", json_string("/x"));
		json_array_append_new(json_object_get(part, "tokens"), json_integer(1));
		assert_true(net_part_read(part_fd(part), &n) < 0);
		json_decref(part);
	}
	assert_true(net_part_read(open("/dev/null", O_RDONLY | O_CLOEXEC), &n) < 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_good_file_is_taken_silently_with_paths_beside_it),
		cmocka_unit_test(what_is_left_out_has_its_default),
		cmocka_unit_test(a_worker_may_keep_a_request_longer_than_its_deadline),
		cmocka_unit_test(module_and_pin_source_may_come_with_the_uri),
		cmocka_unit_test(each_fault_is_named_with_its_line_and_a_remedy),
		cmocka_unit_test(what_has_expired_is_told_and_taken),
		cmocka_unit_test(a_ca_without_a_crl_is_told_and_taken),
		cmocka_unit_test(files_that_kekd_nets_user_cannot_read_are_named),
		cmocka_unit_test(
			every_setting_says_whether_a_reload_or_a_restart_brings_it_into_force),
		cmocka_unit_test(a_reload_takes_what_may_change_and_leaves_the_rest),
		cmocka_unit_test(all_faults_of_meaning_are_told_at_once),
		cmocka_unit_test(an_empty_and_a_missing_file_are_refused),
		cmocka_unit_test(kekd_net_reads_its_part_as_it_was_cut),
		cmocka_unit_test(kekd_net_learns_how_etcd_is_reached),
		cmocka_unit_test(a_worker_reads_its_part_and_never_learns_the_pin_file),
		cmocka_unit_test(a_part_with_an_unknown_or_missing_or_wild_member_is_refused),
	};

	json_open();
	return cmocka_run_group_tests(tests, make_site, remove_site);
}
