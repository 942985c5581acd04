/* SPDX-License-Identifier: Apache-2.0 */
/* kekctl backup …: a backup as a file, and what can be told of one without a server. */
#include "ctl.h"

#include "kekd/backup.h"

#include <errno.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <string.h>

/* Every record is verified once more: of 10,000 keys that takes a slow token a while. */
#define CREATE_TIMEOUT_S 600

/* ---- what is in it ---- */

static const struct {
	const char *prefix, *name;
} kinds[] = {
	{ "keys/", "keys" },
	{ "clients/", "clients" },
	{ "approvals/", "approvals" },
	{ "snapshots/", "snapshots" },
	{ "nonces/", "nonces" },
	{ "usage/", "usage" },
	{ "members/", "members" },
};

static size_t
count_versions(const struct backup *b)
{
	const json_t *record;
	size_t i, count = 0;

	json_array_foreach(b->records, i, record)
		if (strncmp(string_of(record, "path"), "keys/", 5) == 0)
			count += json_array_size(
				json_object_get(json_object_get(record, "body"), "versions"));
	return count;
}

static json_t *
summary_json(const struct backup *b, const char *signature)
{
	json_t *counts = json_object();
	char id[UUID_TEXT_SIZE], digest[2 * BACKUP_DIGEST_SIZE];

	uuid_format(&b->seal_key, id);
	str_hex(b->digest, sizeof(b->digest), digest);
	for (size_t i = 0; i < STR_COUNT(kinds); i++)
		json_object_set_new(counts, kinds[i].name,
			json_integer((json_int_t)backup_count(b, kinds[i].prefix)));
	json_object_set_new(counts, "versions", json_integer((json_int_t)count_versions(b)));
	return json_pack("{s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:s, s:o, s:o, s:s, s:s}", "cluster",
		b->cluster, "generation", b->generation, "node", b->node, "created", b->created,
		"version", b->version, "revision", (json_int_t)b->revision, "audit_sequence",
		(json_int_t)b->audit.sequence, "audit_head", b->audit.head, "counts", counts,
		"sha256", json_stringn(digest, sizeof(digest)), "seal_key", id, "signature",
		signature);
}

static void
show_summary(const struct backup *b, const char *signature)
{
	_cleanup_(table_freep) struct table *t = table_new_block();
	_cleanup_(json_freep) json_t *s = summary_json(b, signature);
	const json_t *counts = json_object_get(s, "counts");

	table_field(t, "Cluster", "%s, generation %s", b->cluster, b->generation);
	table_field(
		t, "Made", "%s by node %s, kekd %s", show_time(s, "created"), b->node, b->version);
	table_field(t, "Revision", "%s", show_number(s, "revision"));
	table_field(t, "Keys", "%s with %s versions", show_number(counts, "keys"),
		show_number(counts, "versions"));
	table_field(t, "Clients", "%s", show_number(counts, "clients"));
	table_field(t, "Approvals", "%s", show_number(counts, "approvals"));
	table_field(t, "Audit log", "to record %s, %.16s…", show_number(s, "audit_sequence"),
		b->audit.head);
	table_field(t, "SHA-256", "%s", string_of(s, "sha256"));
	table_field(t, "Seal", "of key %s: only its token can check it", string_of(s, "seal_key"));
	table_field(t, "Signature", "%s", signature);
	table_print(t);
}

/* ---- reading one ---- */

int
backup_file_read(struct ctl *ctl, const char *path, struct backup *ret_backup)
{
	_cleanup_(buf_free) struct buf text = BUF_INIT(BACKUP_SIZE_MAX + 1);
	char error[JSON_ERROR_SIZE] = "";
	int status = input_read(
		ctl, path, false, BACKUP_SIZE_MAX, "is too long for a backup", &text);

	if (status != CTL_OK)
		return status;
	if (backup_parse((const char *)text.data, text.len, ret_backup, error) == 0)
		return CTL_OK;
	say_error("%s is no whole backup of kekd: %s", path, error);
	return CTL_UNVERIFIED;
}

/* DER of a public key in a PEM file, as "kekctl audit keys" gives it. */
static int
read_key(const char *path, uint8_t ret_der[BACKUP_KEY_MAX], size_t *ret_len)
{
	FILE *f = fopen(path, "re");
	EVP_PKEY *key = f ? PEM_read_PUBKEY(f, NULL, NULL, NULL) : NULL;
	unsigned char *p = ret_der;
	int len = key ? i2d_PUBKEY(key, NULL) : 0;

	if (!f)
		say_error("cannot read %s: %s", path, strerror(errno));
	else if (len <= 0 || len > BACKUP_KEY_MAX)
		say_error("%s holds no public key in PEM", path);
	else
		*ret_len = (size_t)i2d_PUBKEY(key, &p);
	if (f)
		fclose(f);
	EVP_PKEY_free(key);
	return len > 0 && len <= BACKUP_KEY_MAX ? CTL_OK : CTL_USAGE;
}

/* With a key that the auditor has, never with the one that the file itself names alone. */
static int
check_signature(
	const struct backup *b, const char *path, const char *key_path, const char **ret_text)
{
	uint8_t der[BACKUP_KEY_MAX];
	size_t len = b->key_len;
	int status = CTL_OK;

	*ret_text = "none";
	if (!b->is_signed && !key_path)
		return CTL_OK;
	if (!b->is_signed) {
		say_error("%s is not signed", path);
		return CTL_UNVERIFIED;
	}
	memcpy(der, b->key, b->key_len);
	if (key_path)
		status = read_key(key_path, der, &len);
	if (status != CTL_OK)
		return status;
	if (backup_check_signature(der, len, b->digest, b->signature) != 0) {
		say_error("%s was changed, or it is not signed by %s", path,
			key_path ? "that key" : "the key that it names");
		return CTL_UNVERIFIED;
	}
	*ret_text = key_path ? "good, by the key that was given"
			     : "fits the key in the file, which proves nothing of who made it: "
			       "give --key";
	return CTL_OK;
}

/* ---- the commands ---- */

static int
run_create(struct ctl *ctl)
{
	_cleanup_(json_freep) json_t *body = json_object();
	_cleanup_(kekd_reply_free) struct kekd_reply reply = { 0 };
	_cleanup_(output_free) struct output out = OUTPUT_INIT;
	const char *path = ctl->args.words[0];
	char error[JSON_ERROR_SIZE] = "";
	struct backup b = { 0 };
	int status = output_open(ctl, path, true, &out);

	ctl->timeout_s = CREATE_TIMEOUT_S;
	if (status == CTL_OK)
		status = ctl_exchange(ctl, "POST", "/v1/backup", body, NULL, NULL, &reply);
	if (status != CTL_OK)
		return status;
	if (reply.status != 200)
		return say_problem(&reply);
	if (backup_parse((const char *)reply.body.data, reply.body.len, &b, error) != 0) {
		say_error("the server's answer is no backup: %s", error);
		return CTL_FAILED;
	}
	status = output_write(&out, reply.body.data, reply.body.len);
	/* Behind a backup on standard output nothing else may stand. */
	if (status == CTL_OK && ctl->json && out.path) {
		_cleanup_(json_freep)
			json_t *s = summary_json(&b, b.is_signed ? "not checked" : "none");
		show_json(s);
	} else if (status == CTL_OK && !ctl->quiet && out.path) {
		printf("%s: %zu keys, %zu clients, revision %llu, %zu bytes\n", path,
			backup_count(&b, "keys/"), backup_count(&b, "clients/"),
			(unsigned long long)b.revision, reply.body.len);
	}
	backup_free(&b);
	return status;
}

static int
run_verify(struct ctl *ctl)
{
	struct backup b = { 0 };
	const char *signature = "";
	int status = backup_file_read(ctl, ctl->args.words[0], &b);

	if (status == CTL_OK)
		status = check_signature(
			&b, ctl->args.words[0], args_value(&ctl->args, "key"), &signature);
	if (status == CTL_OK && ctl->json) {
		_cleanup_(json_freep) json_t *s = summary_json(&b, signature);
		show_json(s);
	} else if (status == CTL_OK && !ctl->quiet) {
		show_summary(&b, signature);
	}
	backup_free(&b);
	return status;
}

const struct ctl_command ctl_backup_commands[] = {
	{ "backup create", "FILE", "Writes the metadata to a file, sealed and signed by the token",
		"Keys, clients and all other records; no secret is in it: the keys themselves\n"
		"stay in the token, whose own backup is the vendor's. \"kekd restore\" puts it "
		"back,\n"
		"\"kekctl drill\" shows that this would work.",
		" force ", 1, 1, run_create },
	{ "backup verify", "FILE [--key PEM]", "Says what is in a backup, and whether it is whole",
		"Without the server. The signature is checked with the public key in the file\n"
		"PEM; \"kekctl audit keys\" gives it. The seal only the token can check: \"kekctl\n"
		"drill\" does.",
		" backup-key ", 1, 1, run_verify },
	{ "drill", "FILE [--token URI [--module PATH] [--pin-source FILE]] [--out FILE]",
		"Tries whether a backup would restore, and every version is in the token",
		"A scratch kekd restores FILE into a scratch directory and unwraps the canary of\n"
		"every version, in the tokens of --kekd-config (/etc/kekd/kekd.yaml), or in the "
		"one\n"
		"that a PKCS#11 URI names: a clone, the backup HSM. Nothing of the cluster that "
		"runs\n"
		"is touched. The report says what it did not cover, and is signed by the server.\n"
		"Run it where the token is, as root or as the user that kekd runs as.",
		" token module pin-source kekd-config out offline force ", 1, 1, drill_run },
	{ NULL },
};
