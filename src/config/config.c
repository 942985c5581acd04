/* SPDX-License-Identifier: Apache-2.0 */
/* The checked configuration: what each child gets of it, and its end. */
#include "kekd/config.h"

#include "kekd/str.h"

#include <stdlib.h>

static json_t *
strings_to_json(char **strings, unsigned count)
{
	json_t *array = json_array();

	for (unsigned i = 0; i < count; i++)
		json_array_append_new(array, json_string(strings[i]));
	return array;
}

static json_t *
admins_to_json(const struct config *c)
{
	json_t *array = json_array();

	for (unsigned i = 0; i < c->admins_count; i++) {
		const struct config_admin *a = &c->admins[i];
		json_array_append_new(
			array, json_pack("{s:s, s:o}", "name", a->name, "identities",
				       strings_to_json(a->identities, a->identities_count)));
	}
	return array;
}

static json_t *
token_names(const struct config *c)
{
	json_t *array = json_array();

	for (unsigned i = 0; i < c->tokens_count; i++)
		json_array_append_new(array, json_string(c->tokens[i].name));
	return array;
}

static json_t *
token_copies(const struct config *c)
{
	json_t *array = json_array();

	for (unsigned i = 0; i < c->tokens_count; i++)
		json_array_append_new(
			array, json_string(c->tokens[i].copy ? c->tokens[i].copy : ""));
	return array;
}

/* A member only when there is something. */
static bool
set_text(json_t *object, const char *name, const char *text)
{
	return !text || json_object_set_new(object, name, json_string(text)) == 0;
}

static json_t *
store_to_json(const struct config *c)
{
	json_t *store = json_pack("{s:o, s:I, s:I, s:I}", "endpoints",
		strings_to_json(c->store.endpoints, c->store.endpoints_count), "timeout_ms",
		(json_int_t)c->store.timeout_ms, "lease_s", (json_int_t)c->store.lease_s,
		"max_staleness_s", (json_int_t)c->store.max_staleness_s);

	if (store && set_text(store, "ca", c->store.ca) &&
		set_text(store, "certificate", c->store.certificate) &&
		set_text(store, "key", c->store.key) && set_text(store, "user", c->store.user) &&
		set_text(store, "password_file", c->store.password_file))
		return store;
	json_decref(store);
	return NULL;
}

/* A drill works in a scratch directory, on SQLite, whatever the node does. */
static bool
set_store(json_t *part, const struct config *c, enum net_task task)
{
	return set_text(part, "url", c->url) &&
	       (!c->store.etcd || task == NET_DRILL ||
		       json_object_set_new(part, "store", store_to_json(c)) == 0);
}

json_t *
config_net_part(const struct config *c, enum net_task task)
{
	json_t *part = json_pack(
		"{s:b, s:I, s:s, s:s, s:s, s:s, s:s, s:s, s:b, s:o, s:I, s:I, s:I, s:s, s:b, "
		"s:I, s:I, s:o, s:o}",
		"init", task != NET_SERVE, "hang_ms", (json_int_t)c->hsm.hang_ms, "cluster",
		c->cluster, "node", c->node, "state_dir", c->state_dir, "tls_certificate",
		c->tls.certificate, "tls_key", c->tls.key, "tls_client_ca", c->tls.client_ca,
		"common_name", (int)c->identity.common_name, "tokens", token_names(c), "workers",
		(json_int_t)c->hsm.workers, "sessions", (json_int_t)c->hsm.sessions, "deadline_ms",
		(json_int_t)c->hsm.deadline_ms, "audit_dir", c->audit.dir, "audit_hash_context",
		(int)c->audit.hash_context, "audit_max_bytes", (json_int_t)c->audit.max_bytes,
		"audit_keep", (json_int_t)c->audit.keep, "admins", admins_to_json(c), "policy",
		policy_to_json(&c->policy));

	if (part && ((c->audit.sink && json_object_set_new(part, "audit_sink",
					       json_string(c->audit.sink)) != 0) ||
			    (c->crl.file && json_object_set_new(part, "crl_file",
						    json_string(c->crl.file)) != 0) ||
			    json_object_set_new(part, "crl_warn_expired",
				    json_boolean(c->crl.warn_expired)) != 0 ||
			    json_object_set_new(
				    part, "deny", strings_to_json(c->deny, c->deny_count)) != 0 ||
			    json_object_set_new(part, "token_copies", token_copies(c)) != 0 ||
			    !set_store(part, c, task) ||
			    json_object_set_new(part, "task", json_integer(task)) != 0)) {
		json_decref(part);
		part = NULL;
	}
	return part;
}

json_t *
config_worker_part(const struct config *c, unsigned token, unsigned worker)
{
	const struct config_token *t = &c->tokens[token];

	return json_pack("{s:s, s:s, s:I, s:s, s:s, s:I}", "cluster", c->cluster, "token", t->name,
		"index", (json_int_t)worker, "uri", t->uri, "module", t->module, "sessions",
		(json_int_t)c->hsm.sessions);
}

static void
free_strings(char **strings, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		free(strings[i]);
	free(strings);
}

static void
free_tokens(struct config *c)
{
	for (unsigned i = 0; i < c->tokens_count; i++) {
		free(c->tokens[i].name);
		free(c->tokens[i].uri);
		free(c->tokens[i].module);
		free(c->tokens[i].pin_source);
		free(c->tokens[i].copy);
	}
	free(c->tokens);
}

static void
free_admins(struct config *c)
{
	for (unsigned i = 0; i < c->admins_count; i++) {
		free(c->admins[i].name);
		free_strings(c->admins[i].identities, c->admins[i].identities_count);
	}
	free(c->admins);
}

void
config_freep(struct config **config)
{
	struct config *c = *config;

	if (!c)
		return;
	char *const texts[] = { c->cluster, c->node, c->state_dir, c->user, c->tls.certificate,
		c->tls.key, c->tls.client_ca, c->hsm.user, c->hsm.state_dir, c->audit.dir,
		c->audit.sink, c->crl.file, c->url, c->store.ca, c->store.certificate, c->store.key,
		c->store.user, c->store.password_file };
	for (size_t i = 0; i < STR_COUNT(texts); i++)
		free(texts[i]);
	free_strings(c->listen, c->listen_count);
	free_strings(c->store.endpoints, c->store.endpoints_count);
	free_strings(c->deny, c->deny_count);
	free_tokens(c);
	free_admins(c);
	free(c);
	*config = NULL;
}
