/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The state of the node on one page, for people and kekctl: everything from memory, so that it
 * answers while a token, the store or a disk does not.
 */
#include "api.h"

#include "kekd/clock.h"

#include <errno.h>
#include <string.h>

static const char *const phases[] = {
	[NODE_STARTING] = "starting",
	[NODE_SERVING] = "serving",
	[NODE_HELD] = "held",
	[NODE_STOPPING] = "stopping",
};

static const char *const holds[] = {
	[SEALED_HOLD_NONE] = "none",
	[SEALED_HOLD_BEHIND] = "behind",
	[SEALED_HOLD_STATE] = "state",
	[SEALED_HOLD_COMMIT] = "commit",
	[SEALED_HOLD_NO_ACCEPTED] = "no_accepted",
	[SEALED_HOLD_FOREIGN] = "foreign",
};

static const char *const worker_states[] = {
	[0] = "starting",
	[HSM_STATE_READY] = "ready",
	[HSM_STATE_PIN_REFUSED] = "pin_refused",
	[HSM_STATE_PIN_LOCKED] = "pin_locked",
	[HSM_STATE_PIN_FINAL_TRY] = "pin_final_try",
	[HSM_STATE_NO_TOKEN] = "no_token",
	[HSM_STATE_NOT_INITIALISED] = "not_initialised",
	[HSM_STATE_NO_MODULE] = "no_module",
	[HSM_STATE_FAILED] = "failed",
	[HSM_STATE_OPENING] = "starting",
};

static const char *
worker_state(const struct hsm_worker_status *w)
{
	if (w->late)
		return "late";
	if (w->hello.state == HSM_STATE_READY && !w->ready)
		return w->attached ? "busy" : "gone";
	return (size_t)w->hello.state < STR_COUNT(worker_states) ? worker_states[w->hello.state]
								 : "failed";
}

/* A foreign text: null where it is not UTF-8. */
static json_t *
text_json(const char *text)
{
	json_t *value = json_string(text);

	return value ? value : json_null();
}

static json_t *
worker_json(unsigned index, const struct hsm_worker_status *w)
{
	return json_pack("{s:i, s:I, s:s, s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f}", "worker",
		(int)index, "pid", (json_int_t)w->hello.pid, "state", worker_state(w), "message",
		text_json(w->hello.message), "sessions", (json_int_t)w->hello.sessions,
		"operations", (json_int_t)w->operations, "restarts", (json_int_t)w->restarts,
		"missed_deadlines", (json_int_t)w->missed_deadlines, "hang_kills",
		(json_int_t)w->hang_kills, "copy_hits", (json_int_t)w->copy_hits, "in_flight",
		(json_int_t)w->in_flight, "micros_per_op", w->micros_per_op);
}

/* Appends the workers of a token; what they said of it goes to ret_hello (the first that knew it).
 */
static json_t *
workers_json(struct node *n, unsigned token, struct hsm_hello *ret_hello)
{
	json_t *workers = json_array();
	struct hsm_worker_status w;

	for (unsigned i = 0; i < n->part.workers && n->hsm; i++) {
		if (hsm_worker_status(n->hsm, token, i, &w) < 0)
			continue;
		if (ret_hello->state != HSM_STATE_READY && w.hello.state != 0)
			*ret_hello = w.hello;
		json_array_append_new(workers, worker_json(i, &w));
	}
	return workers;
}

static json_t *
token_json(struct node *n, unsigned token)
{
	struct hsm_hello hello = { 0 };
	json_t *workers = workers_json(n, token, &hello);
	struct hsm_token_status t = { 0 };

	if (n->hsm)
		(void)hsm_token_status(n->hsm, token, &t);
	return json_pack("{s:s, s:I, s:I, s:I, s:I, s:b, s:o, s:o, s:o, s:o, s:o, s:I, s:i, s:b, "
			 "s:o}",
		"name", n->part.tokens[token], "queued", (json_int_t)t.queued, "wait_us",
		(json_int_t)t.wait_micros, "timeouts", (json_int_t)t.timeouts, "replays",
		(json_int_t)t.replays, "ready", n->hsm && hsm_token_ready(n->hsm, token), "label",
		text_json(hello.token_label), "serial", text_json(hello.token_serial),
		"manufacturer", text_json(hello.manufacturer), "model", text_json(hello.model),
		"module", text_json(hello.module), "objects", (json_int_t)hello.objects, "iv_len",
		(int)hello.iv_len, "session_copies", hello.session_copies, "workers", workers);
}

static json_t *
tokens_json(struct node *n)
{
	json_t *tokens = json_array();

	for (unsigned i = 0; i < n->part.tokens_count; i++)
		json_array_append_new(tokens, token_json(n, i));
	return tokens;
}

static json_t *
refused_json(struct sealed *store)
{
	char path[STORE_PATH_MAX + 1];
	json_t *paths = json_array();

	for (size_t i = 0; sealed_refused(store, i, path) == 0; i++)
		json_array_append_new(paths, text_json(path));
	return paths;
}

static json_t *
seconds_json(uint64_t ns)
{
	return json_real((double)(ns / CLOCK_MS) / 1000);
}

static json_t *
lease_json(struct node *n)
{
	uint64_t until = node_until_ns(n), now = clock_boot_ns();

	return until == 0 ? json_null() : seconds_json(until > now ? until - now : 0);
}

/* What etcd is asked, and the copy of it that this node has; null in all where there is none. */
static void
add_etcd(struct node *n, json_t *value)
{
	struct store_etcd_status s;
	bool etcd = n->store && store_is_etcd(n->store);

	store_etcd_status(n->store, &s);
	json_object_set_new(value, "reachable", etcd ? json_boolean(s.reachable) : json_null());
	json_object_set_new(value, "synced", etcd ? json_boolean(s.synced) : json_null());
	json_object_set_new(value, "age_s",
		etcd && s.age_ns != UINT64_MAX ? seconds_json(s.age_ns) : json_null());
	json_object_set_new(value, "stale", etcd ? json_boolean(node_is_stale(n)) : json_null());
	json_object_set_new(
		value, "lag", etcd ? json_integer((json_int_t)s.lag_revisions) : json_null());
	json_object_set_new(value, "cluster_id",
		etcd && *s.cluster_id ? json_string(s.cluster_id) : json_null());
	json_object_set_new(value, "lease_remaining_s", lease_json(n));
	json_object_set_new(value, "error", etcd && *s.error ? text_json(s.error) : json_null());
}

/* What it is that is held. */
static json_t *
held_json(const struct sealed_status *s)
{
	if (s->hold == SEALED_HOLD_NONE)
		return json_null();
	return json_pack("{s:I, s:o, s:b}", "number", (json_int_t)s->held.number, "generation",
		*s->held.generation ? json_string(s->held.generation) : json_null(), "whole",
		(int)s->held.whole);
}

/* null while the store is not read yet. */
static json_t *
store_json(struct node *n, const struct sealed_status *status)
{
	struct sealed *store = atomic_load(&n->sealed);
	json_t *value;

	if (!store)
		return json_null();
	value = json_pack("{s:s, s:s, s:s, s:I, s:o, s:I, s:I, s:s, s:s, s:I, s:I}", "engine",
		n->store ? n->store->engine->name : "none", "hold", holds[status->hold],
		"hold_text", status->hold == SEALED_HOLD_NONE ? "" : sealed_hold_text(status->hold),
		"records", (json_int_t)status->records, "refused", refused_json(store), "number",
		(json_int_t)status->number, "accepted", (json_int_t)status->accepted, "seal_key",
		status->seal_key, "seal_token", status->seal_token, "seal_keys",
		(json_int_t)status->seal_keys, "old_seals", (json_int_t)status->old_seals);
	if (value) {
		json_object_set_new(value, "held", held_json(status));
		add_etcd(n, value);
	}
	return value;
}

static const char *const signing_states[] = {
	[SIGNING_WAITING] = "waiting",
	[SIGNING_READY] = "ready",
	[SIGNING_MISSING] = "missing",
	[SIGNING_FAILED] = "failed",
};

static json_t *
before_json(const struct node_signing *s)
{
	char fingerprint[AUDIT_FINGERPRINT_SIZE];
	json_t *all = json_array();

	for (size_t i = 0; i < s->before_count; i++) {
		audit_fingerprint(s->before[i].public, fingerprint);
		json_array_append_new(
			all, json_pack("{s:s, s:o, s:o}", "key", fingerprint, "public",
				     api_base64(s->before[i].public, AUDIT_PUBLIC_SIZE), "created",
				     api_time(s->before[i].created_us)));
	}
	return all;
}

static json_t *
signing_json(const struct node_signing *s)
{
	bool known = s->fingerprint[0];

	return json_pack("{s:s, s:s, s:o, s:o, s:o, s:o}", "state", signing_states[s->state],
		"reason", s->fault, "key", known ? json_string(s->fingerprint) : json_null(),
		"public", known ? api_base64(s->public, sizeof(s->public)) : json_null(), "created",
		known ? api_time(s->created_us) : json_null(), "before", before_json(s));
}

static json_t *
checkpoint_json(const struct node_signing *s)
{
	if (s->at == 0)
		return json_null();
	return json_pack("{s:I, s:s, s:o}", "sequence", (json_int_t)s->at, "head", s->head, "time",
		api_time(s->at_us));
}

static json_t *
sink_json(struct node *n)
{
	struct audit_sink_status s;

	if (!audit_sink_status(n->audit, &s))
		return json_null();
	return json_pack("{s:s, s:b, s:I, s:I, s:s}", "sink", n->part.audit_sink, "ok", s.ok,
		"sent", (json_int_t)s.sent, "lost", (json_int_t)s.lost, "reason", s.reason);
}

static json_t *
audit_json(struct node *n)
{
	struct audit_status a;
	struct node_signing signing;

	if (!n->audit)
		return json_null();
	audit_status(n->audit, &a);
	node_signing(n, &signing);
	return json_pack("{s:b, s:I, s:s, s:s, s:o, s:I, s:I, s:I, s:I, s:o, s:o, s:o}", "ok", a.ok,
		"sequence", (json_int_t)a.sequence, "file", a.file, "head", a.head, "reason",
		text_json(a.reason), "backlog", (json_int_t)a.backlog, "syncs", (json_int_t)a.syncs,
		"failures", (json_int_t)a.failures, "summarised", (json_int_t)a.summarised,
		"signing", signing_json(&signing), "checkpoint", checkpoint_json(&signing), "sink",
		sink_json(n));
}

static const char *const ages[] = {
	[IDENTITY_VALID] = "valid",
	[IDENTITY_MONTH] = "ends_in_a_month",
	[IDENTITY_WEEK] = "ends_in_a_week",
	[IDENTITY_DAY] = "ends_in_a_day",
	[IDENTITY_OVER] = "expired",
};

static json_t *
life_json(const struct identity_life *life)
{
	char end[CLOCK_TEXT_SIZE];

	if (life->to_us == UINT64_MAX)
		return json_pack("{s:n, s:s}", "ends", "state", ages[IDENTITY_VALID]);
	clock_format(life->to_us, end);
	return json_pack(
		"{s:s, s:s}", "ends", end, "state", ages[identity_life_age(life, clock_real_us())]);
}

static json_t *
reload_json(struct node *n)
{
	struct node_reload r;
	char time[CLOCK_TEXT_SIZE];

	pthread_mutex_lock(&n->lock);
	r = n->reload;
	pthread_mutex_unlock(&n->lock);
	if (r.time_us == 0)
		return json_null();
	clock_format(r.time_us, time);
	return json_pack("{s:s, s:b, s:o}", "time", time, "taken", (int)r.taken, "fault",
		text_json(r.fault));
}

static json_t *
certificates_json(struct node *n)
{
	struct http_certificates c;
	char taken[CLOCK_TEXT_SIZE];
	json_t *faults;

	if (!n->http)
		return json_null();
	http_certificates(n->http, &c);
	clock_format(c.taken_us, taken);
	faults = json_array();
	for (size_t i = 0; i < STR_COUNT(c.faults); i++)
		if (c.faults[i][0])
			json_array_append_new(faults, text_json(c.faults[i]));
	return json_pack("{s:o, s:o, s:o, s:s, s:I, s:s, s:o}", "server", life_json(&c.server),
		"client_ca", life_json(&c.client_ca), "crl",
		c.has_crl ? life_json(&c.crl) : json_null(), "crl_on_expired",
		c.crl_warn_expired ? "warn" : "refuse", "accepted_on_expired_crl",
		(json_int_t)c.accepted_on_expired_crl, "taken", taken, "faults", faults);
}

static json_t *
failing_json(const struct node_rotation_failure *f)
{
	return json_pack("{s:s, s:s, s:i, s:o, s:o, s:s, s:s}", "key", f->key, "reason",
		rotation_reason_name(f->reason), "tries", (int)f->tries, "since",
		api_time(f->since_us), "again", api_time(f->again_us), "code",
		kekd_err_info(f->err)->code, "detail", f->text);
}

static json_t *
rotations_json(struct node *n)
{
	const struct node_rotations *r = &n->rotations;
	json_t *failing = json_array(), *value;

	pthread_mutex_lock(&n->lock);
	for (size_t i = 0; i < r->failing_count; i++)
		json_array_append_new(failing, failing_json(&r->failing[i]));
	value = json_pack("{s:I, s:I, s:I, s:o}", "by_period", (json_int_t)r->done[ROTATION_PERIOD],
		"by_budget", (json_int_t)r->done[ROTATION_BUDGET], "failures",
		(json_int_t)r->failures, "failing", failing);
	pthread_mutex_unlock(&n->lock);
	return value;
}

static json_t *
unknown_json(const struct unknown_object *o)
{
	char id[2 * OBJECT_ID_MAX];

	str_hex(o->id.b, o->id.len, id);
	return json_pack("{s:s, s:o, s:o}", "token", o->token, "object_id",
		json_stringn(id, 2 * (size_t)o->id.len), "label", text_json(o->label));
}

/* What stands under the node's lock. */
static void
read_locked(struct node *n, json_t **ret_unknown, char ret_reason[256])
{
	json_t *unknown = json_array();

	pthread_mutex_lock(&n->lock);
	for (size_t i = 0; i < n->unknown_count; i++)
		json_array_append_new(unknown, unknown_json(&n->unknown[i]));
	snprintf(ret_reason, 256, "%s", n->phase_reason);
	pthread_mutex_unlock(&n->lock);
	*ret_unknown = unknown;
}

static json_int_t
uptime_s(const struct node *n)
{
	return (json_int_t)((clock_boot_ns() - n->started_ns) / CLOCK_S);
}

static json_t *
epoch_json(const struct node *n)
{
	uint64_t epoch = node_epoch(n);

	return epoch > 0 ? json_integer((json_int_t)epoch) : json_null();
}

/* null: the store is this node's own. */
static json_t *
leader_json(struct node *n)
{
	struct http_active active = { { 0 }, { 0 } };

	if (node_role(n) == ROLE_SINGLE)
		return json_null();
	node_leader(n, &active);
	return json_pack("{s:o, s:o}", "node",
		*active.node ? json_string(active.node) : json_null(), "url",
		*active.url ? text_json(active.url) : json_null());
}

void
api_status(struct request *r)
{
	struct node *n = r->node;
	struct sealed *store = atomic_load(&n->sealed);
	struct sealed_status s = { 0 };
	char reason[256];
	json_t *unknown, *value;

	if (store)
		sealed_status(store, &s);
	read_locked(n, &unknown, reason);
	value = json_pack("{s:s, s:s, s:s, s:s, s:s, s:o, s:s, s:I, s:I, s:o, s:o, s:o, s:I, s:I, "
			  "s:o, s:o, s:I}",
		"node", n->part.node, "cluster", n->part.cluster, "generation", s.generation,
		"version", PACKAGE_VERSION, "phase", phases[atomic_load(&n->phase)], "phase_reason",
		text_json(reason), "role", node_role_name(node_role(n)), "revision",
		(json_int_t)s.number, "uptime_s", uptime_s(n), "tokens", tokens_json(n), "store",
		store_json(n, &s), "audit", audit_json(n), "keys",
		(json_int_t)(n->keyring ? keyring_count(n->keyring) : 0), "clients",
		(json_int_t)(n->clients ? clients_count(n->clients) : 0), "versions",
		api_proofs_json(n), "unknown_objects", unknown, "in_flight",
		(json_int_t)(n->http ? http_in_flight(n->http) : 0));
	if (value) {
		json_object_set_new(value, "epoch", epoch_json(n));
		json_object_set_new(value, "leader", leader_json(n));
		json_object_set_new(value, "certificates", certificates_json(n));
		json_object_set_new(value, "reload", reload_json(n));
		json_object_set_new(value, "swept", json_boolean(atomic_load(&n->swept)));
		json_object_set_new(value, "confirm", api_confirm_json(n));
		json_object_set_new(value, "frozen", json_boolean(atomic_load(&n->frozen)));
		json_object_set_new(value, "rotations", rotations_json(n));
		json_object_set_new(value, "copies", api_copies_json(n));
	}
	if (value)
		request_answer_json(r, 200, value);
	else
		request_fail(r, -ENOMEM, "no memory for the answer: ask again");
}
