/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The configuration: one YAML file, read by the parent alone (libcyaml), checked, then cut into
 * parts: each child gets what it needs as JSON through an inherited descriptor and nothing else.
 * The daemons alone use this; kekctl has its own.
 */
#ifndef KEKD_CONFIG_H
#define KEKD_CONFIG_H

#include "kekd/etcd_settings.h"
#include "kekd/policy.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/socket.h>

#define CONFIG_TOKENS_MAX 8
#define CONFIG_WORKERS_MAX 4
#define CONFIG_SESSIONS_MAX 64
#define AUDIT_KEEP_MIN 2 /* files */
#define AUDIT_KEEP_MAX 1000000

struct config_token {
	char *name;	  /* the logical token, a STR_NAME */
	char *uri;	  /* RFC 7512; token attributes name it; module-path may name the module */
	char *module;	  /* path of the PKCS#11 module; NULL: the URI's module-path; one of the two
			     must be there */
	char *pin_source; /* path of a file (mode 0600 or stricter for others), or "file:PATH"; or
			     the URI's pin-source */
	char *copy;	  /* a STR_NAME: which copy of the token this node has, where copies have
			     one serial; NULL: not given */
};

struct config_admin {
	char *name;
	char **identities; /* "uri:…", "dns:…", "spki:…", "cn:…" */
	unsigned identities_count;
};

struct config {
	char *cluster;	 /* name; default "kekd" */
	char *node;	 /* name; default the host's name up to the first dot */
	char *state_dir; /* metadata.db, accepted; owned by user */
	char *user;	 /* of kekd-net; default "kekd"; used when started as root */
	char **listen;	 /* "ADDRESS:PORT", "[V6]:PORT" */
	unsigned listen_count;
	char *url; /* "https://HOST:PORT" of this node; NULL: not given, only without etcd */
	struct {
		bool etcd;	  /* engine: etcd | sqlite (the default); the rest is etcd's */
		char **endpoints; /* "https://HOST:PORT"; http:// on loopback alone */
		unsigned endpoints_count;
		char *ca, *certificate, *key; /* PEM files, or NULL */
		char *user, *password_file;   /* both or neither */
		unsigned timeout_ms;	      /* default 2 s; at most half of lease_s */
		unsigned lease_s;	      /* default 5 s */
		uint64_t max_staleness_s;     /* default 12 h */
	} store;
	struct {
		char *certificate; /* PEM, chain: leaf first */
		char *key;	   /* PEM; readable for `user` */
		char *client_ca;   /* PEM, one or more CAs */
	} tls;
	struct {
		char *file;	   /* PEM, CRLs of the CAs that sign clients; NULL: not checked */
		bool warn_expired; /* on_expired: warn | refuse (the default) */
	} crl;
	char **deny; /* identities that are refused on this node */
	unsigned deny_count;
	struct {
		bool common_name; /* is "cn:…" matched? default false */
	} identity;
	struct config_token *tokens;
	unsigned tokens_count;
	struct {
		char *user;	   /* of the workers; default "kekd-hsm" */
		char *state_dir;   /* refused PINs; default STATE_DIR/hsm; owned by hsm.user, mode
				      0700 */
		unsigned workers;  /* per token; default one per core, at most 4 */
		unsigned sessions; /* per worker; default 1 */
		unsigned deadline_ms; /* "5s", "500ms"; default 5 s */
		unsigned hang_ms;     /* above deadline_ms; default 30 s, or twice the deadline */
	} hsm;
	struct {
		char *dir;
		bool hash_context;  /* context: clear | hash */
		uint64_t max_bytes; /* of one file; default 1 GiB; a new file is started past it */
		unsigned keep;	    /* the newest so many files; 0: all */
		char *sink;	    /* syslog | journal | json, ':' and a path; NULL: none */
	} audit;
	struct config_admin *admins;
	unsigned admins_count;
	struct policy policy; /* for `kekd init` */
};

/* Reads and checks everything that can be told from the file alone and from the file system (files
 * exist, modes, names, addresses, numbers). 0, or a negative error; every finding has been printed
 * to standard error as "FILE:LINE: what is wrong: what to do" (the line where libcyaml knows it).
 */
int config_load(const char *path, struct config **ret_config);
/* The same, with the findings printed to `findings`. */
int config_load_to(const char *path, FILE *findings, struct config **ret_config);
void config_freep(struct config **c);
/* "ADDRESS:PORT" or "[V6]:PORT", numbers alone, port 1 to 65535. 0 or -EINVAL. */
int config_listen_address(
	const char *text, struct sockaddr_storage *ret_address, socklen_t *ret_len);

/* What it takes to bring a changed setting into force. */
enum config_effect {
	CONFIG_RELOAD,	/* SIGHUP */
	CONFIG_RESTART, /* kekd starts again */
	CONFIG_INIT	/* read by `kekd init` alone */
};
struct config_setting {
	const char *name; /* as in the file: "tls.key"; lists of settings are one: "tokens" */
	enum config_effect effect;
	size_t offset, size;			    /* in struct config */
	bool (*same)(const void *a, const void *b); /* both at the offset */
};
/* All of them, the row after the last one has no name. */
extern const struct config_setting config_settings[];
bool config_setting_same(
	const struct config_setting *s, const struct config *a, const struct config *b);
/* Takes what a reload may change out of `from`, which gets the former values. */
void config_take_reloadable(struct config *into, struct config *from);
/* Calls `each` with the name of every setting that the file may have. */
void config_each_setting(void (*each)(const char *name, void *user), void *user);

/* What kekd-net is started for. */
enum net_task {
	NET_SERVE,
	NET_INIT,    /* kekd init: make the cluster, then end */
	NET_ADOPT,   /* the same on tokens that hold objects of this cluster */
	NET_RESTORE, /* kekd restore: the records of a backup, then end */
	NET_DRILL,   /* kekd drill: the same in a scratch directory, proves all, tells, ends */
	NET_JOIN,    /* kekd join: what a node lacks to become a cluster's, as a list */
	NET_JOIN_JSON,
	NET_TO_ETCD, /* kekd migrate: the metadata of a single node, to etcd and back */
	NET_TO_SQLITE,
	NET_REPLICA_TO_ETCD, /* the former etcd is lost */
	NET_TASKS
};

/* The parts. Owned by the caller. */
json_t *config_net_part(const struct config *c, enum net_task task); /* see struct net_part */
json_t *config_worker_part(
	const struct config *c, unsigned token, unsigned worker); /* see struct worker_part */

/* What kekd-net gets. */
struct net_part {
	enum net_task task;
	char *cluster, *node, *state_dir;
	char *tls_certificate, *tls_key, *tls_client_ca;
	bool common_name;
	char *crl_file; /* or NULL */
	bool crl_warn_expired;
	char **deny;
	unsigned deny_count;
	char **tokens; /* names, in the configuration's order: the first holds new keys and the seal
			  key */
	char **token_copies; /* as many; "": not given */
	unsigned tokens_count;
	unsigned workers, sessions, deadline_ms, hang_ms;
	char *audit_dir;
	bool audit_hash_context;
	uint64_t audit_max_bytes;
	unsigned audit_keep;	    /* 0: all files */
	char *audit_sink;	    /* or NULL */
	char *url;		    /* of this node for clients and the others, or NULL */
	struct etcd_settings store; /* endpoints NULL: SQLite. All of it is the part's */
	unsigned store_lease_s;
	uint64_t store_max_staleness_s;
	struct policy policy;
	json_t *admins; /* [{"name": …, "identities": […]}] */
};

/* What a worker gets. Descriptors come by number, see control.h. */
struct worker_part {
	char *cluster;
	char *token; /* logical name */
	unsigned index;
	char *uri, *module;
	unsigned sessions;
	bool retry_pin; /* the parent's to say: an operator allows one login that the rules for PINs
			   forbid */
	bool pin_known; /* the parent's to say: a worker has logged in with what the PIN source
			   holds */
};

/* Reads the part from descriptor fd to its end and closes it. 0 or a negative error, logged. */
int net_part_read(int fd, struct net_part *ret_part);
void net_part_free(struct net_part *p);
int worker_part_read(int fd, struct worker_part *ret_part);
void worker_part_free(struct worker_part *p);

#endif
