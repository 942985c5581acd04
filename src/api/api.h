/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The API's handlers, as the table of routes (routes.c) names them, and what they share. One file
 * per resource. A handler is called once the router has matched the route, verified the identity,
 * checked the route's operation and condition, and parsed the body.
 */
#ifndef KEKD_API_H
#define KEKD_API_H

#include "kekd/net.h"

#include <stddef.h>

/* data.c: POST /v1/keys/{key}/…; HTTP_DATA */
void api_wrap(struct request *r);
void api_unwrap(struct request *r);
void api_generate(struct request *r);
void api_rewrap(struct request *r);

/* keys.c. No {key} is in the path of list and create: the list shows what the client's grants
 * cover, create checks key.create against the body's name. */
void api_key_list(struct request *r);	     /* HTTP_READ     GET   /v1/keys */
void api_key_create(struct request *r);	     /* HTTP_CONTROL  POST  /v1/keys */
void api_key_get(struct request *r);	     /* HTTP_READ     GET   /v1/keys/{key} */
void api_key_patch(struct request *r);	     /* HTTP_CONTROL  PATCH /v1/keys/{key} */
void api_version_enable(struct request *r);  /* HTTP_CONTROL  POST  …/versions/{n}/enable */
void api_version_disable(struct request *r); /* HTTP_CONTROL  POST  …/versions/{n}/disable */
void api_version_primary(struct request *r); /* HTTP_CONTROL  POST  …/versions/{n}/primary */

/* rotation.c */
void api_key_rotate(struct request *r);	       /* HTTP_CONTROL  POST  …/rotate */
bool api_rotate_only_asks(const json_t *body); /* a dry run */
void api_key_activate(struct request *r);      /* HTTP_CONTROL  POST  …/activate */
void api_version_abandon(struct request *r);   /* HTTP_CONTROL  POST  …/versions/{n}/abandon */
/* adopt.c */
void api_key_adopt(struct request *r); /* HTTP_CONTROL  POST  …/adopt */

/* confirm.c */
json_t *api_confirm_json(struct node *n);    /* what waits to be confirmed, or null */
void api_cluster_confirm(struct request *r); /* HTTP_CONTROL  POST  /v1/cluster/confirm */

/* drills.c */
void api_drill_report(struct request *r); /* HTTP_CONTROL  POST  /v1/backup/drills */

/* backup.c */
/* Signs with the node's key, and tells which that is. As node_sign; logged. */
int api_sign(struct node *n, const uint8_t digest[32], struct node_signing *ret_public,
	uint8_t ret_signature[64]);
void api_backup_create(struct request *r); /* HTTP_CONTROL  POST  /v1/backup */

/* proofs.c: what is proven in which tokens */
json_t *api_proofs_json(struct node *n); /* of this node */
void api_read_copies(struct node *n, struct node_copies *ret_copies);
int api_least_copies(const struct node_copies *c); /* -1: not known, or there are no versions */
json_t *api_copies_json(struct node *n);
void api_add_proofs(struct node *n, const char *member, json_t *row); /* "proofs", "tokens" */

/* usage.c */
void api_key_usage(struct request *r); /* HTTP_READ  GET /v1/keys/{key}/usage */
/* What approvals bind of a version: its use, and the registered backups that have it. As
 * usage_evidence, or -ENOMEM. */
int api_evidence(struct node *n, const struct key_version *v, char ret_hex[USAGE_EVIDENCE_SIZE]);

/* reseal.c */
void api_cluster_reseal(struct request *r); /* HTTP_CONTROL  POST  /v1/cluster/reseal */

/* clients.c */
void api_client_list(struct request *r);   /* HTTP_READ     GET    /v1/clients */
void api_client_get(struct request *r);	   /* HTTP_READ     GET    /v1/clients/{name} */
void api_client_put(struct request *r);	   /* HTTP_CONTROL  PUT    /v1/clients/{name} */
void api_client_delete(struct request *r); /* HTTP_CONTROL  DELETE /v1/clients/{name} */

/* snapshots.c */
void api_snapshot_list(struct request *r);   /* HTTP_READ     GET    /v1/snapshots */
void api_snapshot_get(struct request *r);    /* HTTP_READ     GET    /v1/snapshots/{snapshot} */
void api_snapshot_put(struct request *r);    /* HTTP_CONTROL  PUT    /v1/snapshots/{snapshot} */
void api_snapshot_delete(struct request *r); /* HTTP_CONTROL  DELETE /v1/snapshots/{snapshot} */

/* destroy.c */
void api_version_destroy(struct request *r); /* HTTP_CONTROL  POST …/versions/{n}/destroy */
void api_version_cancel(struct request *r);  /* HTTP_CONTROL  POST …/versions/{n}/cancel */

/* approvals.c */
void api_approval_list(struct request *r);    /* HTTP_READ     GET  /v1/approvals */
void api_approval_get(struct request *r);     /* HTTP_READ     GET  /v1/approvals/{id} */
void api_approval_approve(struct request *r); /* HTTP_CONTROL  POST /v1/approvals/{id}/approve */
void api_approval_reject(struct request *r);  /* HTTP_CONTROL  POST /v1/approvals/{id}/reject */

/* cluster.c */
void api_cluster_get(struct request *r);    /* HTTP_READ     GET   /v1/cluster */
void api_cluster_patch(struct request *r);  /* HTTP_CONTROL  PATCH /v1/cluster */
void api_cluster_freeze(struct request *r); /* HTTP_CONTROL  POST  /v1/cluster/freeze */
json_t *api_policy_json(const struct policy *p);
void api_answer_cluster(struct request *r, const struct cluster *c); /* with its ETag */

/* members.c */
json_t *api_members_json(struct node *n, const struct cluster *c);
/* The whole list of members, as a change: none may be missing. 0, or KEKD_EINVALID with a text. */
int api_members_take(const json_t *names, struct cluster *next, char ret_error[JSON_ERROR_SIZE]);
void api_cluster_forget(struct request *r); /* HTTP_CONTROL  POST  /v1/cluster/forget */
void api_cluster_level(struct request *r);  /* HTTP_CONTROL  POST  /v1/cluster/level */

/* role.c */
void api_cluster_step_down(struct request *r); /* HTTP_CONTROL  POST  /v1/cluster/step-down */
void api_cluster_promote(struct request *r);   /* HTTP_CONTROL  POST  /v1/cluster/promote */

/* audit.c */
void api_audit(struct request *r); /* HTTP_LATER  GET /v1/audit, ACCESS_NONE */

/* whoami.c, status.c, metrics.c, health.c, openapi.c: never wait for token, store or disk. */
void api_whoami(struct request *r); /* HTTP_READ  GET /v1/whoami, ACCESS_NONE */
void api_status(struct request *r);
void api_hsm_retry_pin(struct request *r); /* HTTP_READ  GET /v1/status */
void api_metrics(struct request *r);	   /* HTTP_READ  GET /metrics */
void api_health_live(struct request *r);   /* HTTP_OPEN  GET /health/live */
void api_health_ready(struct request *r);  /* HTTP_OPEN  GET /health/ready */
void api_health_active(struct request *r); /* HTTP_OPEN  GET /health/active */
void api_openapi(struct request *r);	   /* HTTP_OPEN  GET /v1/openapi.yaml */

/* As /health/ready answers. */
bool api_is_ready(struct node *n);

/* Of a page of a list: ?after= (NULL: from the first) and ?limit= (1 to API_LIMIT_MAX). 0 or
 * KEKD_EINVALID. */
#define API_LIMIT_DEFAULT 100
#define API_LIMIT_MAX 1000
int api_page(struct request *r, const char **ret_after, size_t *ret_limit);

/* Sets the answer's ETag to a record's commit number. */
void api_set_etag(struct request *r, uint64_t commit);

/* Takes over the reference; an earlier detail is replaced. */
void api_set_detail(struct request *r, json_t *detail);

/* Is there a record of this "key", "client" or "snapshot" that cannot be used, as it was changed
 * outside of kekd or another release wrote it? One that was never good since the start is in the
 * store alone: neither keyring nor clients know it. known: they do, and marked it as refused: true
 * in any case. ret_error: why. */
bool api_record_refused(struct node *n, const char *kind, const char *name, bool known,
	char ret_error[JSON_ERROR_SIZE]);

/* The key of the path, as a reference. NULL: there is none to work with, and the request has been
 * answered (key_not_found, record_refused). */
struct key *api_find_key(struct request *r);
/* The same, for a change: not one whose stored record is refused. */
struct key *api_find_key_to_change(struct request *r);

/* A time as RFC 3339 text, or null for 0. */
json_t *api_time(uint64_t real_us);
json_t *api_duration(uint64_t s);
json_t *api_duration_or_null(uint64_t s); /* null: none, where 0 is that */
json_t *api_base64(const void *data, size_t len);

/* openapi.yaml, embedded by the build. */
extern const unsigned char api_openapi_yaml[];
extern const size_t api_openapi_yaml_len;

#endif
