/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads the configuration file: its shape is a libcyaml schema. Not here: whether the values make
 * sense (check.c).
 */
#include "load.h"

#include "kekd/err.h"
#include "kekd/file.h"
#include "kekd/str.h"

#include <cyaml/cyaml.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define LISTEN_MAX 16
#define ENDPOINTS_MAX 16
#define ADMINS_MAX 32
#define IDENTITIES_MAX 32
#define DENY_MAX 1000
#define OPTIONAL CYAML_FLAG_OPTIONAL
#define TEXT(key, structure, member) \
	CYAML_FIELD_STRING_PTR( \
		key, CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, structure, member, 1, 4096)

static const cyaml_strval_t bool_words[] = {
	{ "false", DOCUMENT_FALSE },
	{ "no", DOCUMENT_FALSE },
	{ "true", DOCUMENT_TRUE },
	{ "yes", DOCUMENT_TRUE },
};
static const cyaml_strval_t context_words[] = {
	{ "clear", DOCUMENT_CONTEXT_CLEAR },
	{ "hash", DOCUMENT_CONTEXT_HASH },
};
static const cyaml_schema_value_t text_entry = {
	CYAML_VALUE_STRING(CYAML_FLAG_POINTER, char *, 1, 4096),
};
static const cyaml_schema_field_t tls_fields[] = {
	TEXT("certificate", struct document_tls, certificate),
	TEXT("key", struct document_tls, key),
	TEXT("client_ca", struct document_tls, client_ca),
	CYAML_FIELD_END,
};
static const cyaml_strval_t expired_words[] = {
	{ "refuse", DOCUMENT_EXPIRED_REFUSE },
	{ "warn", DOCUMENT_EXPIRED_WARN },
};
static const cyaml_schema_field_t crl_fields[] = {
	TEXT("file", struct document_crl, file),
	CYAML_FIELD_ENUM("on_expired", OPTIONAL | CYAML_FLAG_STRICT, struct document_crl,
		on_expired, expired_words, STR_COUNT(expired_words)),
	CYAML_FIELD_END,
};
static const cyaml_schema_field_t identity_fields[] = {
	CYAML_FIELD_ENUM("common_name", OPTIONAL | CYAML_FLAG_STRICT, struct document_identity,
		common_name, bool_words, STR_COUNT(bool_words)),
	CYAML_FIELD_END,
};
static const cyaml_schema_field_t token_fields[] = {
	TEXT("name", struct config_token, name),
	TEXT("uri", struct config_token, uri),
	TEXT("module", struct config_token, module),
	TEXT("pin-source", struct config_token, pin_source),
	TEXT("copy", struct config_token, copy),
	CYAML_FIELD_END,
};
static const cyaml_schema_value_t token_entry = {
	CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, struct config_token, token_fields),
};
static const cyaml_schema_field_t hsm_fields[] = {
	TEXT("user", struct document_hsm, user),
	TEXT("state_dir", struct document_hsm, state_dir),
	TEXT("deadline", struct document_hsm, deadline),
	TEXT("hang", struct document_hsm, hang),
	CYAML_FIELD_UINT("workers", OPTIONAL, struct document_hsm, workers),
	CYAML_FIELD_UINT("sessions", OPTIONAL, struct document_hsm, sessions),
	CYAML_FIELD_END,
};
static const cyaml_schema_field_t audit_fields[] = {
	TEXT("dir", struct document_audit, dir),
	TEXT("max_bytes", struct document_audit, max_bytes),
	CYAML_FIELD_UINT("keep", OPTIONAL, struct document_audit, keep),
	TEXT("sink", struct document_audit, sink),
	CYAML_FIELD_ENUM("context", OPTIONAL | CYAML_FLAG_STRICT, struct document_audit, context,
		context_words, STR_COUNT(context_words)),
	CYAML_FIELD_END,
};
static const cyaml_schema_field_t admin_fields[] = {
	TEXT("name", struct config_admin, name),
	CYAML_FIELD_SEQUENCE("identities", OPTIONAL | CYAML_FLAG_POINTER, struct config_admin,
		identities, &text_entry, 0, IDENTITIES_MAX),
	CYAML_FIELD_END,
};
static const cyaml_schema_value_t admin_entry = {
	CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, struct config_admin, admin_fields),
};
static const cyaml_schema_field_t policy_fields[] = {
	CYAML_FIELD_UINT("approvals", OPTIONAL, struct document_policy, approvals),
	TEXT("destroy_wait", struct document_policy, destroy_wait),
	TEXT("approval_ttl", struct document_policy, approval_ttl),
	CYAML_FIELD_END,
};
static const cyaml_strval_t engine_words[] = {
	{ "sqlite", DOCUMENT_SQLITE },
	{ "etcd", DOCUMENT_ETCD },
};
static const cyaml_schema_field_t store_fields[] = {
	CYAML_FIELD_ENUM("engine", OPTIONAL | CYAML_FLAG_STRICT, struct document_store, engine,
		engine_words, STR_COUNT(engine_words)),
	CYAML_FIELD_SEQUENCE("endpoints", OPTIONAL | CYAML_FLAG_POINTER, struct document_store,
		endpoints, &text_entry, 0, ENDPOINTS_MAX),
	TEXT("ca", struct document_store, ca),
	TEXT("certificate", struct document_store, certificate),
	TEXT("key", struct document_store, key),
	TEXT("user", struct document_store, user),
	TEXT("password_file", struct document_store, password_file),
	TEXT("timeout", struct document_store, timeout),
	TEXT("lease", struct document_store, lease),
	TEXT("max_staleness", struct document_store, max_staleness),
	CYAML_FIELD_END,
};
static const cyaml_schema_field_t document_fields[] = {
	TEXT("cluster", struct document, cluster),
	TEXT("node", struct document, node),
	TEXT("state_dir", struct document, state_dir),
	TEXT("user", struct document, user),
	CYAML_FIELD_SEQUENCE("listen", OPTIONAL | CYAML_FLAG_POINTER, struct document, listen,
		&text_entry, 0, LISTEN_MAX),
	TEXT("url", struct document, url),
	CYAML_FIELD_MAPPING("store", OPTIONAL, struct document, store, store_fields),
	CYAML_FIELD_MAPPING("tls", OPTIONAL, struct document, tls, tls_fields),
	CYAML_FIELD_MAPPING("crl", OPTIONAL, struct document, crl, crl_fields),
	CYAML_FIELD_SEQUENCE("deny", OPTIONAL | CYAML_FLAG_POINTER, struct document, deny,
		&text_entry, 0, DENY_MAX),
	CYAML_FIELD_MAPPING("identity", OPTIONAL, struct document, identity, identity_fields),
	CYAML_FIELD_SEQUENCE("tokens", OPTIONAL | CYAML_FLAG_POINTER, struct document, tokens,
		&token_entry, 0, CONFIG_TOKENS_MAX),
	CYAML_FIELD_MAPPING("hsm", OPTIONAL, struct document, hsm, hsm_fields),
	CYAML_FIELD_MAPPING("audit", OPTIONAL, struct document, audit, audit_fields),
	CYAML_FIELD_SEQUENCE("admins", OPTIONAL | CYAML_FLAG_POINTER, struct document, admins,
		&admin_entry, 0, ADMINS_MAX),
	CYAML_FIELD_MAPPING("policy", OPTIONAL, struct document, policy, policy_fields),
	CYAML_FIELD_END,
};
static const cyaml_schema_value_t document_schema = {
	CYAML_VALUE_MAPPING(CYAML_FLAG_POINTER, struct document, document_fields),
};

static const struct settings_file document_file = { &document_schema, "key" };

static void
document_freep(struct document **d)
{
	settings_file_free(&document_file, *d);
}

static int
check_all(FILE *out, const char *file, const struct lines *lines, struct document *d,
	struct config **ret)
{
	_cleanup_(config_freep) struct config *config = calloc(1, sizeof(*config));
	_cleanup_(str_freep) char *dir = file_directory(file);
	struct check check = { .out = out, .file = file, .dir = dir, .lines = lines };
	int err;

	if (!config || !dir)
		return -ENOMEM;
	err = check_document(&check, d, config);
	if (err)
		return err;
	if (check.findings > 0)
		return KEKD_EINVALID;
	*ret = config;
	config = NULL;
	return 0;
}

int
config_load_to(const char *path, FILE *out, struct config **ret_config)
{
	_cleanup_(lines_free) struct lines lines = { 0 };
	_cleanup_(document_freep) struct document *d = NULL;
	int err = settings_file_read(&document_file, path, out, (void **)&d, &lines);

	if (!err)
		err = check_all(out, path, &lines, d, ret_config);
	if (err == -ENOMEM)
		fprintf(out, "%s: there is no memory: free some and try again\n", path);
	return err;
}

int
config_load(const char *path, struct config **ret_config)
{
	return config_load_to(path, stderr, ret_config);
}

/* Lists of settings are named as one: their rows have nothing that could change alone. */
static void
walk(const cyaml_schema_field_t *fields, const char *prefix, void (*each)(const char *, void *),
	void *user)
{
	for (; fields->key; fields++) {
		char name[128];

		snprintf(name, sizeof(name), "%s%s", prefix, fields->key);
		if (fields->value.type == CYAML_MAPPING) {
			strcat(name, ".");
			walk(fields->value.mapping.fields, name, each, user);
		} else {
			each(name, user);
		}
	}
}

void
config_each_setting(void (*each)(const char *name, void *user), void *user)
{
	walk(document_fields, "", each, user);
}
