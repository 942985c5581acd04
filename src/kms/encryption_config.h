/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A Kubernetes EncryptionConfiguration (apiserver.config.k8s.io/v1), read as the API server of 1.36
 * reads it, and what there is to say about it. Secrets are never kept: a key has its length and a
 * digest, which tells two apart and is never shown. One thread.
 */
#ifndef KEKD_KMS_ENCRYPTION_CONFIG_H
#define KEKD_KMS_ENCRYPTION_CONFIG_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define EC_FILE_MAX (1u << 20)
#define EC_DIGEST_SIZE 32
#define EC_STANDARD_INPUT "standard input" /* the path of a file that came from there */
#define EC_TIMEOUT_DEFAULT_NS UINT64_C(3000000000)

enum ec_kind { EC_IDENTITY, EC_AESGCM, EC_AESCBC, EC_SECRETBOX, EC_KMS, EC_KINDS };
extern const char *const ec_kind_names[EC_KINDS];

struct ec_key {
	char *name;
	unsigned line;
	bool has_secret;   /* that is base64 */
	size_t secret_len; /* in bytes */
	uint8_t digest[EC_DIGEST_SIZE];
};

struct ec_provider {
	enum ec_kind kind;
	unsigned line;
	unsigned kinds; /* that the entry named: 1 when it is right */

	struct ec_key *keys; /* aesgcm, aescbc, secretbox; the first one writes */
	size_t keys_count;

	char *name, *endpoint; /* kms */
	char *version;	       /* "v1", "v2"; NULL: absent, which means v1 */
	unsigned name_line, endpoint_line, version_line, timeout_line, cachesize_line;
	bool has_timeout, has_cachesize;
	int64_t timeout_ns, cachesize;
};

struct ec_resource {
	char *text; /* "secrets", "pandas.bears.example", "*.", "*.apps", "*.*" */
	unsigned line;
};

struct ec_group {
	unsigned line;
	struct ec_resource *resources;
	size_t resources_count;
	struct ec_provider *providers; /* the first one writes, all read */
	size_t providers_count;
};

/* A fault: the API server refuses the file. A warning: it is loaded, and something is to be put
 * right. */
enum ec_level { EC_NOTE, EC_WARNING, EC_FAULT, EC_LEVELS };
extern const char *const ec_level_names[EC_LEVELS];

struct ec_finding {
	enum ec_level level;
	const char *code; /* stable; a literal */
	unsigned line;	  /* 0: of the whole file */
	char *text, *remedy;
};

struct encryption_config {
	char *path;
	struct ec_group *groups;
	size_t groups_count;
	struct ec_finding *findings; /* by line once it was read */
	size_t findings_count;
	bool no_memory;
};

/* Reads and checks: what is wrong are findings. -ENOMEM, or -EIO … with what read() said; an
 * unreadable file gives no config. path "-": standard input. */
int encryption_config_read(const char *path, struct encryption_config **ret_config);
/* A text, of which the findings name `path`. */
int encryption_config_parse(
	const char *path, const void *text, size_t len, struct encryption_config **ret_config);
void encryption_config_freep(struct encryption_config **c);

/* remedy: what to do about it, a whole sentence. */
void ec_find(struct encryption_config *c, enum ec_level level, const char *code, unsigned line,
	const char *remedy, const char *format, ...) __attribute__((format(printf, 6, 7)));
void ec_sort_findings(struct encryption_config *c);
size_t ec_count(const struct encryption_config *c, enum ec_level level);
/* {"level", "code", "line", "text", "remedy"} each; to be freed. */
json_t *ec_findings_json(const struct encryption_config *c);

/* ---- encryption_check.c: what the API server refuses ---- */

void encryption_config_check(struct encryption_config *c);
/* Does `wide` ("*.", "*.apps", "*.*") cover `narrow`? True for two that are equal. */
bool ec_covers(const char *wide, const char *narrow);
bool ec_is_wildcard(const char *resource);
/* Which of the texts does the API server go by for a resource: it, its group's wildcard, "*.*"? */
const char *ec_best(const char *const *texts, size_t count, const char *resource);

/* ---- encryption_lint.c: what it loads and we would not ---- */

/* This host's plugin. */
struct ec_plugin {
	const char *provider, *socket;
	uint64_t timeout_ns;
};
/* plugin: NULL where its configuration is not known. */
void encryption_config_lint(struct encryption_config *c, const struct ec_plugin *plugin);
/* The path of "unix:///PATH"; NULL when it has none. */
const char *ec_socket_path(const char *endpoint);
/* The group that a resource is stored by; NULL: none, it lies there in plaintext. */
const struct ec_group *ec_group_of(const struct encryption_config *c, const char *resource);

#endif
