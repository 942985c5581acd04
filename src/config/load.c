/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads the configuration file: its shape is a libcyaml schema, and libcyaml's words about a fault
 * are turned into a finding with line and remedy. Not here: whether the values make sense
 * (check.c).
 */
#include "load.h"

#include "kekd/err.h"
#include "kekd/str.h"

#include <cyaml/cyaml.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_SIZE_MAX (256 * 1024)
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

/* What libcyaml said: the fault, then from the inside out where it was. */
struct complaint {
	char what[256];
	char field[64];
	unsigned line;
};

static void
take_complaint(cyaml_log_t level, void *ctx, const char *format, va_list ap)
{
	struct complaint *complaint = ctx;
	char text[512], *at;

	(void)level;
	vsnprintf(text, sizeof(text), format, ap);
	text[strcspn(text, "\n")] = '\0';
	if (!complaint->what[0]) {
		at = strncmp(text, "Load: ", 6) == 0 ? text + 6 : text;
		snprintf(complaint->what, sizeof(complaint->what), "%.255s", at);
		return;
	}
	if (!complaint->line && (at = strstr(text, "(line: ")))
		complaint->line = (unsigned)strtoul(at + 7, NULL, 10);
	if (!complaint->field[0] &&
		sscanf(text, "  in mapping field '%63[^']'", complaint->field) != 1)
		complaint->field[0] = '\0';
}

static const struct {
	const char *start;  /* of libcyaml's text */
	const char *remedy; /* follows "setting: " */
} remedies[] = {
	{ "STRING length <", "it has no value: give one, or take the line out" },
	{ "STRING length >", "the value is too long: shorten it" },
	{ "Invalid ENUM value: ", "this word is not known here: see the sample configuration" },
	{ "Invalid UINT value: ", "not a whole number: write digits alone" },
	{ "Invalid uint64_t value: ", "not a whole number: write digits alone" },
	{ "Excessive entries (", "too many entries: take some out" },
	{ "Expecting SEQUENCE, ", "a list is needed: write \"- VALUE\" lines below it" },
	{ "Expecting MAPPING, ", "settings are needed: write \"KEY: VALUE\" lines below it" },
	{ "Expecting ", "a single value is needed: write it behind the colon" },
};

static void
print_complaint(
	FILE *out, const char *file, const struct lines *lines, const struct complaint *complaint)
{
	static const char unknown[] = "Unexpected key: ", twice[] = "Mapping field already seen: ";
	const char *key = complaint->what + strcspn(complaint->what, ":") + 1;
	const char *field = complaint->field[0] ? complaint->field : "the file";

	key += strspn(key, " ");
	if (strncmp(complaint->what, unknown, strlen(unknown)) == 0) {
		fprintf(out,
			"%s:%u: the key \"%s\" is not known: correct its spelling or place, or "
			"take it out\n",
			file, lines_find_key(lines, key, complaint->line), key);
		return;
	}
	if (strncmp(complaint->what, twice, strlen(twice)) == 0) {
		fprintf(out, "%s:%u: \"%s\" is given twice: keep one of them\n", file,
			lines_find_repeated(lines, key), key);
		return;
	}
	for (size_t i = 0; i < STR_COUNT(remedies); i++) {
		if (strncmp(complaint->what, remedies[i].start, strlen(remedies[i].start)) == 0) {
			fprintf(out, "%s:%u: %s: %s\n", file, complaint->line ? complaint->line : 1,
				field, remedies[i].remedy);
			return;
		}
	}
	fprintf(out, "%s:%u: %s: %s: correct it\n", file, complaint->line ? complaint->line : 1,
		field, complaint->what);
}

static int
read_text(FILE *out, const char *file, char **ret_text, size_t *ret_len)
{
	char *text = malloc(FILE_SIZE_MAX + 1);
	FILE *f = text ? fopen(file, "re") : NULL;
	size_t len = f ? fread(text, 1, FILE_SIZE_MAX + 1, f) : 0;
	int err = !text ? -ENOMEM : !f || ferror(f) ? -errno : len > FILE_SIZE_MAX ? -EFBIG : 0;

	if (f)
		fclose(f);
	if (err) {
		fprintf(out,
			"%s: the configuration cannot be read: %s: name another with "
			"--config, or make it readable\n",
			file, kekd_strerror(err));
		free(text);
		return err;
	}
	*ret_text = text;
	*ret_len = len;
	return 0;
}

static const cyaml_config_t cyaml_base = {
	.log_fn = take_complaint,
	.mem_fn = cyaml_mem,
	.log_level = CYAML_LOG_ERROR,
};

static int
parse_text(FILE *out, const char *file, const struct lines *lines, const char *text, size_t len,
	struct document **ret_document)
{
	struct complaint complaint = { 0 };
	cyaml_config_t cyaml = cyaml_base;
	struct document *d = NULL;
	cyaml_err_t err;

	cyaml.log_ctx = &complaint;
	err = cyaml_load_data(
		(const uint8_t *)text, len, &cyaml, &document_schema, (cyaml_data_t **)&d, NULL);
	if (err == CYAML_ERR_OOM)
		return -ENOMEM;
	if (err != CYAML_OK) {
		if (!complaint.what[0])
			snprintf(complaint.what, sizeof(complaint.what), "%s", cyaml_strerror(err));
		print_complaint(out, file, lines, &complaint);
		return KEKD_EINVALID;
	}
	if (!d) /* an empty file */
		d = calloc(1, sizeof(*d));
	if (!d)
		return -ENOMEM;
	*ret_document = d;
	return 0;
}

static void
document_freep(struct document **d)
{
	if (*d)
		cyaml_free(&cyaml_base, &document_schema, *d, 0);
}

static void
lines_freep(struct lines *l)
{
	lines_free(l);
}

static int
scan_text(FILE *out, const char *file, const char *text, size_t len, struct lines *ret_lines)
{
	struct lines_fault fault;
	int err = lines_scan(text, len, ret_lines, &fault);

	if (err == -EINVAL)
		fprintf(out, "%s:%u: not YAML: %s: correct it here or in the line before\n", file,
			fault.line, fault.text);
	return err;
}

/* Absolute, and of the name that was given: a link's target may lie anywhere. */
static char *
directory_of(const char *file)
{
	_cleanup_(str_freep) char *copy = strdup(file);

	return copy ? realpath(dirname(copy), NULL) : NULL;
}

static int
check_all(FILE *out, const char *file, const struct lines *lines, struct document *d,
	struct config **ret)
{
	_cleanup_(config_freep) struct config *config = calloc(1, sizeof(*config));
	_cleanup_(str_freep) char *dir = directory_of(file);
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
	_cleanup_(str_freep) char *text = NULL;
	_cleanup_(lines_freep) struct lines lines = { 0 };
	_cleanup_(document_freep) struct document *d = NULL;
	size_t len;
	int err = read_text(out, path, &text, &len);

	if (err)
		return err;
	err = scan_text(out, path, text, len, &lines);
	if (!err)
		err = parse_text(out, path, &lines, text, len, &d);
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
