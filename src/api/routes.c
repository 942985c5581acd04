/* SPDX-License-Identifier: Apache-2.0 */
/* The table of routes: what exists, who may call it, on which thread it runs. openapi.yaml says the
 * same to clients. */
#include "api.h"

#define OPEN(path, name, handler) \
	{ \
		"GET", path, HTTP_OPEN, ACCESS_NONE, ACCESS_NONE, name, false, false, \
			HTTP_COND_NONE, handler, NULL, false, false \
	}
#define DATA(path, operation, alternative, name, handler) \
	{ \
		"POST", path, HTTP_DATA, operation, alternative, name, true, true, HTTP_COND_NONE, \
			handler, NULL, false, false \
	}
#define READ(path, operation, name, audited, handler) \
	{ \
		"GET", path, HTTP_READ, operation, ACCESS_NONE, name, audited, false, \
			HTTP_COND_NONE, handler, NULL, false, false \
	}
#define CHANGE(method, path, operation, name, condition, body, handler) \
	{ \
		method, path, HTTP_CONTROL, operation, ACCESS_NONE, name, true, body, condition, \
			handler, NULL, false, false \
	}
/* The list and the creation of keys: no {key} is in the path. */
#define KEYS(method, path, plane, operation, name, condition, body, handler) \
	{ \
		method, path, plane, operation, ACCESS_NONE, name, true, body, condition, handler, \
			NULL, false, true \
	}

const struct http_route http_routes[] = {
	OPEN("/health/live", "health.live", api_health_live),
	OPEN("/health/ready", "health.ready", api_health_ready),
	OPEN("/health/active", "health.active", api_health_active),
	OPEN("/v1/openapi.yaml", "openapi", api_openapi),

	DATA("/v1/keys/{key}/wrap", ACCESS_WRAP, ACCESS_NONE, "wrap", api_wrap),
	DATA("/v1/keys/{key}/unwrap", ACCESS_UNWRAP, ACCESS_VERIFY, "unwrap", api_unwrap),
	DATA("/v1/keys/{key}/generate", ACCESS_GENERATE, ACCESS_NONE, "generate", api_generate),
	DATA("/v1/keys/{key}/rewrap", ACCESS_REWRAP, ACCESS_NONE, "rewrap", api_rewrap),

	KEYS("GET", "/v1/keys", HTTP_READ, ACCESS_KEY_READ, "key.list", HTTP_COND_NONE, false,
		api_key_list),
	KEYS("POST", "/v1/keys", HTTP_CONTROL, ACCESS_KEY_CREATE, "key.create", HTTP_COND_CREATE,
		true, api_key_create),
	READ("/v1/keys/{key}", ACCESS_KEY_READ, "key.read", true, api_key_get),
	READ("/v1/keys/{key}/usage", ACCESS_KEY_READ, "key.usage", true, api_key_usage),
	CHANGE("PATCH", "/v1/keys/{key}", ACCESS_KEY_STATE, "key.update", HTTP_COND_MATCH, true,
		api_key_patch),
	{ "POST", "/v1/keys/{key}/rotate", HTTP_CONTROL, ACCESS_KEY_ROTATE, ACCESS_NONE,
		"key.rotate", true, true, HTTP_COND_MATCH, api_key_rotate, api_rotate_only_asks,
		false, false },
	CHANGE("POST", "/v1/keys/{key}/activate", ACCESS_KEY_ROTATE, "key.activate",
		HTTP_COND_MATCH, true, api_key_activate),
	CHANGE("POST", "/v1/keys/{key}/versions/{n}/abandon", ACCESS_KEY_ROTATE, "version.abandon",
		HTTP_COND_MATCH, true, api_version_abandon),
	CHANGE("POST", "/v1/keys/{key}/adopt", ACCESS_KEY_CREATE, "key.adopt", HTTP_COND_EITHER,
		true, api_key_adopt),
	CHANGE("POST", "/v1/keys/{key}/versions/{n}/enable", ACCESS_KEY_STATE, "version.enable",
		HTTP_COND_MATCH, true, api_version_enable),
	CHANGE("POST", "/v1/keys/{key}/versions/{n}/disable", ACCESS_KEY_STATE, "version.disable",
		HTTP_COND_MATCH, true, api_version_disable),
	CHANGE("POST", "/v1/keys/{key}/versions/{n}/primary", ACCESS_KEY_ROTATE, "version.primary",
		HTTP_COND_MATCH, true, api_version_primary),

	CHANGE("POST", "/v1/keys/{key}/versions/{n}/destroy", ACCESS_KEY_DESTROY, "version.destroy",
		HTTP_COND_MATCH, true, api_version_destroy),
	CHANGE("POST", "/v1/keys/{key}/versions/{n}/cancel", ACCESS_KEY_STATE, "version.cancel",
		HTTP_COND_MATCH, true, api_version_cancel),

	READ("/v1/approvals", ACCESS_APPROVE, "approval.list", true, api_approval_list),
	READ("/v1/approvals/{id}", ACCESS_APPROVE, "approval.read", true, api_approval_get),
	CHANGE("POST", "/v1/approvals/{id}/approve", ACCESS_APPROVE, "approval.approve",
		HTTP_COND_NONE, true, api_approval_approve),
	CHANGE("POST", "/v1/approvals/{id}/reject", ACCESS_APPROVE, "approval.reject",
		HTTP_COND_NONE, true, api_approval_reject),

	READ("/v1/clients", ACCESS_CLIENT_READ, "client.list", true, api_client_list),
	READ("/v1/clients/{name}", ACCESS_CLIENT_READ, "client.read", true, api_client_get),
	CHANGE("PUT", "/v1/clients/{name}", ACCESS_CLIENT_WRITE, "client.write", HTTP_COND_EITHER,
		true, api_client_put),
	CHANGE("DELETE", "/v1/clients/{name}", ACCESS_CLIENT_WRITE, "client.delete",
		HTTP_COND_MATCH, false, api_client_delete),

	{ "GET", "/v1/snapshots", HTTP_READ, ACCESS_BACKUP, ACCESS_STATUS_READ, "snapshot.list",
		true, false, HTTP_COND_NONE, api_snapshot_list, NULL, false, false },
	{ "GET", "/v1/snapshots/{snapshot}", HTTP_READ, ACCESS_BACKUP, ACCESS_STATUS_READ,
		"snapshot.read", true, false, HTTP_COND_NONE, api_snapshot_get, NULL, false,
		false },
	CHANGE("PUT", "/v1/snapshots/{snapshot}", ACCESS_BACKUP, "snapshot.write", HTTP_COND_EITHER,
		true, api_snapshot_put),
	CHANGE("DELETE", "/v1/snapshots/{snapshot}", ACCESS_BACKUP, "snapshot.delete",
		HTTP_COND_MATCH, false, api_snapshot_delete),

	READ("/v1/cluster", ACCESS_STATUS_READ, "cluster.read", true, api_cluster_get),
	CHANGE("PATCH", "/v1/cluster", ACCESS_CLUSTER_WRITE, "cluster.policy", HTTP_COND_MATCH,
		true, api_cluster_patch),
	CHANGE("POST", "/v1/cluster/freeze", ACCESS_CLUSTER_WRITE, "cluster.freeze",
		HTTP_COND_MATCH, true, api_cluster_freeze),
	CHANGE("POST", "/v1/cluster/reseal", ACCESS_CLUSTER_WRITE, "cluster.reseal",
		HTTP_COND_MATCH, true, api_cluster_reseal),

	CHANGE("POST", "/v1/cluster/forget", ACCESS_CLUSTER_WRITE, "cluster.forget",
		HTTP_COND_MATCH, true, api_cluster_forget),
	CHANGE("POST", "/v1/cluster/level", ACCESS_CLUSTER_WRITE, "cluster.level", HTTP_COND_MATCH,
		true, api_cluster_level),
	CHANGE("POST", "/v1/cluster/step-down", ACCESS_CLUSTER_WRITE, "cluster.step_down",
		HTTP_COND_NONE, true, api_cluster_step_down),
	CHANGE("POST", "/v1/cluster/promote", ACCESS_CLUSTER_WRITE, "cluster.promote",
		HTTP_COND_NONE, true, api_cluster_promote),
	{ "POST", "/v1/cluster/confirm", HTTP_CONTROL, ACCESS_CLUSTER_WRITE, ACCESS_NONE,
		"cluster.confirm", true, true, HTTP_COND_NONE, api_cluster_confirm, NULL, true,
		false },
	CHANGE("POST", "/v1/backup", ACCESS_BACKUP, "backup.create", HTTP_COND_NONE, true,
		api_backup_create),
	CHANGE("POST", "/v1/backup/drills", ACCESS_BACKUP, "backup.drill", HTTP_COND_NONE, true,
		api_drill_report),
	CHANGE("POST", "/v1/hsm/retry-pin", ACCESS_CLUSTER_WRITE, "hsm.retry_pin", HTTP_COND_NONE,
		true, api_hsm_retry_pin),

	{ "GET", "/v1/audit", HTTP_LATER, ACCESS_NONE, ACCESS_NONE, "audit.read", true, false,
		HTTP_COND_NONE, api_audit, NULL, false, false },

	READ("/v1/whoami", ACCESS_NONE, "whoami", false, api_whoami),
	READ("/v1/status", ACCESS_STATUS_READ, "status", false, api_status),
	READ("/metrics", ACCESS_METRICS_READ, "metrics", false, api_metrics),
	{ NULL },
};
