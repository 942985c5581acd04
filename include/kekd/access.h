/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who may do what. A verified certificate gives an identity (identity.c), a client record has
 * identities and grants (clients.c), a grant is a glob over key names and a set of operations. Deny
 * by default. What is allowed is so up to limits (limits.c). Records are immutable with counted
 * references, as keys are.
 */
#ifndef KEKD_ACCESS_H
#define KEKD_ACCESS_H

#include "kekd/json.h"
#include "kekd/str.h"

#include <openssl/x509.h>
#include <sys/socket.h>

/*                name            text            is the data plane's */
#define ACCESS_OPERATIONS(X) \
	X(ACCESS_WRAP, "wrap", true) \
	X(ACCESS_UNWRAP, "unwrap", true) \
	X(ACCESS_GENERATE, "generate", true) \
	X(ACCESS_REWRAP, "rewrap", true) \
	X(ACCESS_VERIFY, "verify", true) \
	X(ACCESS_KEY_READ, "key.read", false) \
	X(ACCESS_KEY_CREATE, "key.create", false) \
	X(ACCESS_KEY_ROTATE, "key.rotate", false) \
	X(ACCESS_KEY_STATE, "key.state", false) \
	X(ACCESS_KEY_DESTROY, "key.destroy", false) \
	X(ACCESS_CLIENT_READ, "client.read", false) \
	X(ACCESS_CLIENT_WRITE, "client.write", false) \
	X(ACCESS_CLUSTER_WRITE, "cluster.write", false) \
	X(ACCESS_BACKUP, "backup", false) \
	X(ACCESS_AUDIT_READ, "audit.read", false) \
	X(ACCESS_STATUS_READ, "status.read", false) \
	X(ACCESS_METRICS_READ, "metrics.read", false) \
	X(ACCESS_APPROVE, "approve", false)

enum access_operation {
#define ACCESS_ENUM(name, text, data) name,
	ACCESS_OPERATIONS(ACCESS_ENUM)
#undef ACCESS_ENUM
		ACCESS_OPERATIONS_COUNT,
	ACCESS_NONE = ACCESS_OPERATIONS_COUNT /* any client with a record */
};

const char *access_operation_name(enum access_operation op);
int access_operation_find(const char *text); /* the operation, or -ENOENT */

/* ---- identity.c: from the peer's chain to one identity ---- */

#define IDENTITY_SIZE 512

struct identity {
	char name[IDENTITY_SIZE]; /* "uri:spiffe://…", "dns:…" or, if switched on, "cn:…" */
	char spki[5 + 64 + 1];	  /* "spki:" and the hex SHA-256 of SubjectPublicKeyInfo (DER) */
	uint64_t not_after_us;	  /* of the leaf */
	uint64_t valid_until_us;  /* the chain or a CRL ends then: verify again */
	bool crl_expired;	  /* accepted on an expired CRL */
};

/* How long something is valid; to_us UINT64_MAX: for ever. Of several, the one that ends first. */
struct identity_life {
	uint64_t from_us, to_us;
};
/* Warnings come 30, 7 and 1 days before the end, but never while more than a quarter of the life is
 * left: what is made for a day is not near its end for all of it. */
enum identity_age { IDENTITY_VALID, IDENTITY_MONTH, IDENTITY_WEEK, IDENTITY_DAY, IDENTITY_OVER };
enum identity_age identity_life_age(const struct identity_life *life, uint64_t now_us);

struct identity_ca; /* trusted CAs; immutable, counted references, any thread */
int identity_ca_load(const char *pem_path, struct identity_ca **ret_ca, char ret_error[256]);
struct identity_ca *identity_ca_ref(struct identity_ca *ca);
void identity_ca_unrefp(struct identity_ca **ca);
void identity_ca_life(const struct identity_ca *ca, struct identity_life *ret_life);

struct identity_crl; /* revocation lists; immutable, counted references, any thread */
int identity_crl_load(const char *pem_path, struct identity_crl **ret_crl, char ret_error[256]);
struct identity_crl *identity_crl_ref(struct identity_crl *crl);
void identity_crl_unrefp(struct identity_crl **crl);
void identity_crl_life(const struct identity_crl *crl, struct identity_life *ret_life);
/* The same CAs, whose clients must not be on these lists: each CA that signed a certificate of the
 * chain needs a list that is valid now. warn_expired: one past its nextUpdate will do. */
int identity_ca_with_crl(const struct identity_ca *ca, struct identity_crl *crl, bool warn_expired,
	struct identity_ca **ret_ca);

struct der {
	const uint8_t *data;
	size_t len;
};
/* chain[0] is the leaf; count 0: KEKD_ECERTNONE. 0 or one of KEKD_ECERT*; ret_identity->name may be
 * filled (from an unverified certificate's SAN) also on failure, for the audit record alone,
 * prefixed "unverified:". */
int identity_verify(struct identity_ca *ca, const struct der *chain, size_t count, bool common_name,
	uint64_t now_us, struct identity *ret_identity);

/* ---- clients.c: records and decisions ---- */

struct access_grant {
	char *keys;	     /* glob over key names */
	uint32_t operations; /* bit per enum access_operation */
};

struct limit; /* how much of its limits a client uses */

struct client {
	char name[STR_NAME_MAX + 1];
	uint64_t commit;
	char **identities;
	size_t identities_count;
	char **addresses; /* "10.0.0.0/8", "::1/128", or an address alone; none: from anywhere */
	size_t addresses_count;
	struct access_grant *grants;
	size_t grants_count;
	int64_t requests_per_s, in_flight; /* 0: no limit */
	struct limit *limit;		   /* its use; the same in all records of the name */
	uint64_t changed_us;		   /* when, and by which client, it was last changed */
	char changed_by[STR_NAME_MAX + 1]; /* 0, "": by kekd init, or an earlier release */
	bool refused; /* as in struct key: the last good record, in force, not to be changed */
};

struct client *client_ref(struct client *c);
void client_unrefp(struct client **c);
/* The record's body, which is also what the API takes and gives, less the name:
 * {"name","identities","addresses","grants":[{"keys","operations"}],
 * "limits":{"requests_per_s","in_flight"}}, and in a record alone "changed" and "changed_by".
 * Strict. */
int client_from_json(const char *name, const json_t *body, uint64_t commit,
	struct client **ret_client, char ret_error[JSON_ERROR_SIZE]);
json_t *client_to_json(const struct client *c);
/* Does any grant have the operation (for any key)? */
bool client_has(const struct client *c, enum access_operation op);
/* approve or client.write: changes to such a client need approval. */
bool client_is_privileged(const struct client *c);
bool client_address_allowed(const struct client *c, const struct sockaddr *address);
/* 0 or KEKD_EFORBIDDEN. key: the name in the request, whether such a key exists or not (key.create
 * has one as well); any grant with the operation whose glob matches it covers. key NULL: the
 * operation names no key (client.*, cluster.write, backup, audit.read, status.read, metrics.read,
 * approve, or a list of all keys): only a grant whose keys are exactly "*" covers, so that no
 * narrower one ever reaches beyond its keys. ACCESS_NONE: always 0. */
int client_authorise(const struct client *c, enum access_operation op, const char *key);
/* The body of the client that `kekd init` makes of an admins: entry: all operations but wrap,
 * unwrap, generate, rewrap. */
json_t *client_admin_body(const char *name, json_t *identities);

struct clients; /* the table: name → record, identity → record */
int clients_open(struct clients **ret_clients);
void clients_freep(struct clients **c);
struct client *clients_find(
	struct clients *c, const char *name); /* a reference or NULL; any thread */
struct client *clients_find_identity(
	struct clients *c, const struct identity *id); /* by name, then by spki */
/* The client other than `name` that has one of these identities, or NULL; for KEKD_ETAKEN. */
struct client *clients_find_conflict(struct clients *c, const struct client *candidate);
/* Takes over the reference, also on failure. 0; KEKD_ETAKEN: another client has one of the
 * identities, and the table stays as it was; -ENOMEM. */
int clients_publish(struct clients *c, struct client *client);
void clients_remove(struct clients *c, const char *name);
void clients_mark_refused(struct clients *c, const char *name, bool refused);
size_t clients_list(struct clients *c, const char *after, size_t limit,
	struct client **ret_clients); /* references */
size_t clients_count(struct clients *c);

/* ---- limits.c: rate and number of a client's requests, on this node. Any thread, no lock. ----
 *
 * requests_per_s counts cryptographic operations: a batch of N is N, any other request one. A
 * second's worth may come at once. A batch is let in while anything is left, whatever its size, and
 * what it overdraws is waited for. in_flight counts requests from their headers until their answer
 * has left.
 */
enum limit_verdict { LIMIT_OK, LIMIT_RATE, LIMIT_IN_FLIGHT };

/* One request with one operation. LIMIT_OK: limit_leave must follow. Otherwise ret_retry_s, whole
 * seconds from 1 on, says when to come again. */
enum limit_verdict limit_enter(const struct client *c, uint64_t now_ns, unsigned *ret_retry_s);
void limit_charge(const struct client *c, uint64_t now_ns, uint64_t operations); /* further ones */
void limit_leave(const struct client *c);
/* A search of the audit log: one at a time. False: another is under way. True: scan_leave follows.
 */
bool limit_scan_enter(const struct client *c);
void limit_scan_leave(const struct client *c);

struct limit_status {
	uint64_t in_flight, admitted, refused_rate, refused_in_flight; /* since this node's start */
};
void limit_status(const struct client *c, struct limit_status *ret_status);

/* clients.c's: a record takes the place of an older one, and its use with it. */
struct limit *limit_new(void); /* or NULL */
struct limit *limit_ref(struct limit *l);
void limit_unrefp(struct limit **l);
void limit_take_over(struct client *c, const struct client *old, uint64_t now_ns);

#endif
