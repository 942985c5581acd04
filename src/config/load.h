/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of src/config/ that read the configuration share among themselves. */
#ifndef KEKD_CONFIG_LOAD_H
#define KEKD_CONFIG_LOAD_H

#include "kekd/config.h"
#include "kekd/settings_file.h"

/* ---- load.c: the document as it is written ---- */

enum document_context { DOCUMENT_CONTEXT_CLEAR, DOCUMENT_CONTEXT_HASH };
enum document_bool { DOCUMENT_FALSE, DOCUMENT_TRUE };

struct document_tls {
	char *certificate, *key, *client_ca;
};
enum document_expired { DOCUMENT_EXPIRED_REFUSE, DOCUMENT_EXPIRED_WARN };
struct document_crl {
	char *file;
	enum document_expired on_expired;
};
struct document_identity {
	enum document_bool common_name;
};
struct document_hsm {
	char *user, *state_dir, *deadline, *hang;
	unsigned workers, sessions;
};
struct document_audit {
	char *dir, *max_bytes, *sink;
	unsigned keep;
	enum document_context context;
};
struct document_policy {
	unsigned approvals;
	char *destroy_wait, *approval_ttl;
};
enum document_engine { DOCUMENT_SQLITE, DOCUMENT_ETCD };
struct document_store {
	enum document_engine engine;
	char **endpoints;
	unsigned endpoints_count;
	char *ca, *certificate, *key, *user, *password_file, *timeout, *lease, *max_staleness;
};
struct document {
	char *cluster, *node, *state_dir, *user, *url;
	char **listen;
	unsigned listen_count;
	struct document_store store;
	struct document_tls tls;
	struct document_crl crl;
	char **deny;
	unsigned deny_count;
	struct document_identity identity;
	struct config_token *tokens;
	unsigned tokens_count;
	struct document_hsm hsm;
	struct document_audit audit;
	struct config_admin *admins;
	unsigned admins_count;
	struct document_policy policy;
};

/* ---- check.c ---- */

struct check {
	FILE *out; /* of the findings */
	const char *file;
	const char *dir; /* absolute: what relative paths start from */
	const struct lines *lines;
	unsigned findings;
};

/* Prints "FILE:LINE: text" and counts it. path: the setting, as in struct line. */
void check_finding(struct check *c, const char *path, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
/* The same for what is odd but no fault. */
void check_warning(struct check *c, const char *path, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
/* Fills in the defaults, makes paths absolute, converts and checks everything. Takes what it needs
 * out of the document. 0 or -ENOMEM; findings are counted. */
int check_document(struct check *c, struct document *d, struct config *config);

/* ---- identities.c, paths.c, tokens.c: parts of the check ---- */

void check_admins(struct check *c, const struct config *config);
/* The defaults, and the rules of policy.h. */
void check_policy(struct check *c, const struct document *d, struct config *config);
/* Fills in times and checks what belongs to the store; the files were resolved before. */
void check_store(struct check *c, const struct document *d, struct config *config);
void check_deny(struct check *c, const struct config *config);
/* What is in the certificates, keys and CRLs, and that kekd-net's user can read them. */
void check_certificates(struct check *c, const struct config *config);
int check_tokens(struct check *c, struct config *config); /* 0 or -ENOMEM */
/* Makes *path absolute. */
int check_resolve(const struct check *c, char **path);
/* A file that can be read. False: a finding was printed. */
bool check_file(struct check *c, const char *setting, const char *path);
void check_directory(struct check *c, const char *setting, const char *path);

#endif
