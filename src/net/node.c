/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The node's own life on the control thread: from the first ready worker over the verified store to
 * serving, the watch over the store. Requests never
 * run here but through the control thread's queue.
 */
#include "node.h"

#include "kekd/clock.h"
#include "kekd/control.h"
#include "kekd/leader.h"
#include "kekd/log.h"
#include "kekd/nonce.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define POLL_NS CLOCK_S
#define CONTACT_NS (3 * CLOCK_S) /* so long the replica waits for etcd */
#define LEAD_NS (20 * CLOCK_S)	 /* of an earlier process a lease may still run */
#define TICK_MS 200
#define WAIT_MS 20 /* for a worker that opens its token */
#define LIST_SIZE 32768

void
node_set_phase(struct node *n, enum node_phase phase, const char *format, ...)
{
	char reason[sizeof(n->phase_reason)];
	va_list ap;
	bool changed;

	va_start(ap, format);
	vsnprintf(reason, sizeof(reason), format, ap);
	va_end(ap);
	pthread_mutex_lock(&n->lock);
	changed = strcmp(reason, n->phase_reason) != 0;
	memcpy(n->phase_reason, reason, sizeof(reason));
	pthread_mutex_unlock(&n->lock);
	if ((atomic_exchange(&n->phase, phase) != phase || changed) && *reason)
		log_write(phase == NODE_HELD ? LOG_LEVEL_ERROR : LOG_LEVEL_INFO, "%s", reason);
}

int
node_serves(const struct node *n)
{
	static const int answers[] = {
		[NODE_STARTING] = KEKD_ESTARTING,
		[NODE_SERVING] = 0,
		[NODE_HELD] = KEKD_EHELD,
		[NODE_STOPPING] = KEKD_ESTOPPING,
	};

	return answers[atomic_load(&n->phase)];
}

int
node_token(const struct node *n, const char *name)
{
	for (unsigned i = 0; i < n->part.tokens_count; i++)
		if (strcmp(n->part.tokens[i], name) == 0)
			return (int)i;
	return -ENOENT;
}

int
node_retry_pin(unsigned token)
{
	const struct control_message m = { .kind = CONTROL_RETRY_PIN, .token = token };

	return control_try_send(CHILD_FD_CONTROL, &m) == 0 ? 0 : KEKD_EOVERLOAD;
}

/* A table of the last minute per client and version, by hash: a collision only makes one more
 * record durable. */
bool
node_first_refusal(struct node *n, const char *client, const struct uuid *version)
{
	uint64_t who = 14695981039346656037u, minute = clock_boot_ns() / (60 * CLOCK_S);
	bool first;
	size_t slot;

	for (const char *p = client; *p; p++)
		who = (who ^ (uint8_t)*p) * 1099511628211u;
	for (size_t i = 0; i < sizeof(version->b); i++)
		who = (who ^ version->b[i]) * 1099511628211u;
	slot = who % STR_COUNT(n->refusals);
	pthread_mutex_lock(&n->lock);
	first = n->refusals[slot].who != who || n->refusals[slot].minute != minute;
	n->refusals[slot].who = who;
	n->refusals[slot].minute = minute;
	pthread_mutex_unlock(&n->lock);
	return first;
}

/* ---- the records ---- */

/* Whatever of it is in memory stays in force, and is not to be changed from what is known here. */
static void
note_read(struct node *n, const char *kind, const char *name, const char *error)
{
	char path[STORE_PATH_MAX + 1];

	snprintf(path, sizeof(path), "%s/%s", kind, name);
	node_note_unreadable(n, path, error != NULL);
	if (error)
		log_error("record %s: %s: it was written by another release", path, error);
}

static void
load_key(struct node *n, const char *name, json_t *body, uint64_t commit)
{
	char error[JSON_ERROR_SIZE];
	struct key *key;

	if (!body) {
		keyring_mark_refused(n->keyring, name, true);
		return;
	}
	if (key_from_json(body, commit, &key, error) != 0) {
		note_read(n, "keys", name, error);
		keyring_mark_refused(n->keyring, name, true);
		return;
	}
	note_read(n, "keys", name, NULL);
	node_watch_destroy(n, key);
	if (keyring_publish(n->keyring, key) != 0)
		log_error("key %s: out of memory", name);
}

static void
load_client(struct node *n, const char *name, json_t *body, uint64_t commit)
{
	char error[JSON_ERROR_SIZE];
	struct client *client;

	if (!body && commit != 0) {
		clients_remove(n->clients, name);
		note_read(n, "clients", name, NULL);
		return;
	}
	if (!body) {
		clients_mark_refused(n->clients, name, true);
		return;
	}
	if (client_from_json(name, body, commit, &client, error) != 0) {
		note_read(n, "clients", name, error);
		clients_mark_refused(n->clients, name, true);
		return;
	}
	note_read(n, "clients", name, NULL);
	if (clients_publish(n->clients, client) != 0)
		log_error("client %s: out of memory", name);
}

static void
load_approval(struct node *n, const char *name, json_t *body, uint64_t commit)
{
	char error[JSON_ERROR_SIZE];
	struct approval *a;

	/* One that is refused cannot be approved. */
	if (!body)
		approvals_remove(n->approvals, name);
	else if (approval_from_json(body, commit, &a, error) != 0)
		log_error(
			"record approvals/%s: %s: it was written by another release", name, error);
	else if (approvals_publish(n->approvals, a) != 0)
		log_error("approval %s: out of memory", name);
}

/* One that is refused stays as it last was: it protects what it did. */
static void
load_snapshot(struct node *n, const char *name, json_t *body, uint64_t commit)
{
	char error[JSON_ERROR_SIZE];
	struct snapshot *s;

	if (!body && commit != 0) {
		snapshots_remove(n->snapshots, name);
		note_read(n, "snapshots", name, NULL);
		return;
	}
	if (!body)
		return;
	if (snapshot_from_json(name, body, commit, &s, error) != 0) {
		note_read(n, "snapshots", name, error);
		return;
	}
	note_read(n, "snapshots", name, NULL);
	if (snapshots_publish(n->snapshots, s) != 0)
		log_error("snapshot %s: out of memory", name);
}

static void
load_nonces(struct node *n, const char *name, json_t *body, uint64_t commit __attribute__((unused)))
{
	node_note_nonces(n, name, body);
}

static const struct {
	const char *prefix;
	void (*load)(struct node *n, const char *name, json_t *body, uint64_t commit);
} loaders[] = {
	{ "keys/", load_key },
	{ "clients/", load_client },
	{ "nonces/", load_nonces },
	{ "usage/", node_load_usage },
	{ "members/", node_load_member },
	{ "nodes/", node_load_peer },
	{ "cluster", node_load_cluster },
	{ "drill", node_load_drill },
	{ "approvals/", load_approval },
	{ "snapshots/", load_snapshot },
	{ "seen", node_load_seen },
};

static void
load_record(const char *path, json_t *body, uint64_t commit, void *user)
{
	for (size_t i = 0; i < STR_COUNT(loaders); i++) {
		size_t len = strlen(loaders[i].prefix);
		if (strncmp(path, loaders[i].prefix, len) == 0)
			loaders[i].load(user, path + len, body, commit);
	}
}

/* ---- objects that no metadata knows ---- */

static int
sweep_page(
	struct node *n, unsigned token, uint32_t *skip, struct unknown_object **list, size_t *count)
{
	uint8_t room[LIST_SIZE];
	struct hsm_op op = { .kind = HSM_OP_LIST,
		.token = token,
		.size = *skip,
		.out = room,
		.out_cap = sizeof(room) };
	struct hsm_object o;
	struct reader r;
	int err = hsm_call(n->hsm, &op, 1), more;
	uint32_t before = *skip;

	if (err != 0 || op.err != 0)
		return err != 0 ? err : op.err;
	r = READER(op.out, op.out_len);
	while ((more = hsm_list_next(&r, &o)) == 1) {
		struct unknown_object *grown;
		char label[256] = "";

		(*skip)++;
		memcpy(label, o.label, o.label_len);
		if (strstr(label, ":seal:") ||
			keyring_knows_object(n->keyring, n->part.tokens[token], &o.id))
			continue;
		grown = realloc(*list, (*count + 1) * sizeof(**list));
		if (!grown)
			return -ENOMEM;
		*list = grown;
		grown[*count] = (struct unknown_object){ .id = o.id };
		snprintf(grown[*count].token, sizeof(grown->token), "%s", n->part.tokens[token]);
		memcpy(grown[*count].label, label, sizeof(label));
		(*count)++;
	}
	return more < 0 ? more : *skip > before;
}

int
node_sweep(struct node *n)
{
	struct unknown_object *list = NULL, *old;
	size_t count = 0;

	for (unsigned t = 0; t < n->part.tokens_count; t++) {
		uint32_t skip = 0;
		int more;

		while ((more = sweep_page(n, t, &skip, &list, &count)) == 1)
			;
		if (more < 0)
			log_warning("token %s: its objects could not be listed: %s",
				n->part.tokens[t], kekd_strerror(more));
	}
	pthread_mutex_lock(&n->lock);
	old = n->unknown;
	n->unknown = list;
	n->unknown_count = count;
	pthread_mutex_unlock(&n->lock);
	atomic_store(&n->swept, true);
	free(old);
	if (count > 0)
		log_warning(
			"%zu objects in the tokens are in no metadata: see `kekctl hsm objects`",
			count);
	return 0;
}

/* ---- start ---- */

struct sealed_config
node_sealed_settings(struct node *n)
{
	return (struct sealed_config){
		.store = n->store,
		.hsm = n->hsm,
		.state_dir = n->part.state_dir,
		.cluster = n->part.cluster,
		.node = n->part.node,
		.tokens = (const char *const *)n->part.tokens,
		.tokens_count = n->part.tokens_count,
		.policy = &n->part.policy,
	};
}

static const char empty_store[] = "the metadata store is empty: `kekd init` makes a new cluster; "
				  "an old one comes back with its "
				  "metadata.db and accepted in state_dir";

void
node_give_up(struct node *n, const char *format, ...)
{
	char reason[512];
	va_list ap;

	va_start(ap, format);
	vsnprintf(reason, sizeof(reason), format, ap);
	va_end(ap);
	log_error("%s", reason);
	n->exit_wanted = CHILD_EXIT_OPERATOR;
}

int
node_exit_wanted(const struct node *n)
{
	return n->exit_wanted;
}

/* The last image of it that this node has would serve, but what etcd has now is better, and without
 * a lease nothing of this node's own is written. */
static bool
awaits_etcd(struct node *n)
{
	struct store_etcd_status status;

	if (!store_is_etcd(n->store) || clock_boot_ns() >= n->store_opened_ns + CONTACT_NS)
		return false;
	store_etcd_status(n->store, &status);
	if (status.synced && node_lease(n) != 0)
		return false;
	node_set_phase(n, NODE_STARTING, "waiting for etcd");
	return true;
}

static bool
open_store(struct node *n)
{
	int err;

	if (n->store)
		return !awaits_etcd(n);
	err = n->part.store.endpoints ? node_open_etcd(n)
				      : store_open_sqlite(n->part.state_dir, false, &n->store);
	if (err == 0)
		return !awaits_etcd(n);
	if (err == KEKD_EINVALID)
		node_give_up(n, "%s/metadata.db: see above", n->part.state_dir);
	else if (n->part.store.endpoints)
		node_set_phase(n, NODE_STARTING, "the store cannot be read, see the log: %s",
			kekd_strerror(err));
	else if (err == -ENOENT)
		node_give_up(n, "%s", empty_store);
	else
		node_set_phase(n, NODE_STARTING, "%s/metadata.db: %s", n->part.state_dir,
			kekd_strerror(err));
	return false;
}

/* Serving, or held until the right store is back. What was good at the start serves on. */
static void
judge_store(struct node *n)
{
	struct sealed_status status;

	sealed_status(n->sealed, &status);
	if (status.hold != SEALED_HOLD_NONE && !status.good) {
		node_set_phase(n, NODE_HELD, "the metadata store is held: %s",
			sealed_hold_text(status.hold));
		return;
	}
	node_set_phase(n, NODE_SERVING, "%s", "");
	log_info("serving %zu keys for %zu clients at revision %llu", keyring_count(n->keyring),
		clients_count(n->clients), (unsigned long long)status.number);
}

static void
serve(struct node *n)
{
	struct control_message ready = { .kind = CONTROL_READY };

	n->lifecycle = (struct lifecycle){
		.store = n->sealed,
		.hsm = n->hsm,
		.keyring = n->keyring,
		.cluster = n->part.cluster,
		.node = n->part.node,
		.tokens = (const char *const *)n->part.tokens,
		.tokens_count = n->part.tokens_count,
	};
	node_open_lifecycle(n);
	node_take_nonces(n);
	node_start_proofs(n);
	node_start_usage(n);
	node_summarise(n);
	node_tick_staleness(n);
	judge_store(n);
	node_sweep(n);
	control_send(CHILD_FD_CONTROL, &ready, -1);
}

/* Which of them has the seal key is in the store: one that has not yet a worker shows there. */
static bool
any_token_ready(const struct node *n)
{
	bool ready = false;

	for (unsigned i = 0; i < n->part.tokens_count; i++)
		ready = ready || hsm_token_ready(n->hsm, i);
	return ready;
}

/* The store is read and parsed while the token's workers open it, which takes longer. */
static unsigned
wait_for_worker(struct node *n)
{
	node_set_phase(n, NODE_STARTING, "waiting for a worker of token %s", n->part.tokens[0]);
	if (!n->ahead && sealed_ahead_open(n->store, &n->ahead) != 0)
		return WAIT_MS;
	return sealed_ahead_read(n->ahead) ? 0 : WAIT_MS;
}

static unsigned
start(struct node *n)
{
	struct sealed *sealed = NULL;
	struct sealed_config config;
	char error[JSON_ERROR_SIZE] = "";
	int err;

	if (!open_store(n))
		return n->store ? WAIT_MS : TICK_MS;
	if (!any_token_ready(n))
		return wait_for_worker(n);
	if (node_open_proofs(n) != 0) {
		node_set_phase(n, NODE_STARTING, "out of memory");
		return TICK_MS;
	}
	config = node_sealed_settings(n);
	config.ahead = n->ahead;
	n->nonces_count = 0;
	err = sealed_open(&config, load_record, n, &sealed, error);
	sealed_ahead_freep(&n->ahead);
	atomic_store(&n->sealed, sealed);
	if (err == 0)
		serve(n);
	else if (err == -ENOENT)
		node_give_up(n, "%s", empty_store);
	else
		node_set_phase(n, NODE_STARTING, "the metadata cannot be opened: %s",
			*error ? error : kekd_strerror(err));
	return TICK_MS;
}

static void
poll_store(struct node *n)
{
	uint64_t now = clock_boot_ns();

	if (!atomic_exchange(&n->poll_now, false) && now < n->next_poll_ns)
		return;
	n->next_poll_ns = now + POLL_NS;
	/* The store logs its own failures, once each. */
	(void)sealed_poll(n->sealed);
}

/* At once again while there is background work, so that it ends soon but lets changes pass. */
unsigned
node_tick(struct node *n)
{
	bool more;

	switch (atomic_load(&n->phase)) {
	case NODE_STARTING:
		return n->exit_wanted < 0 ? start(n) : TICK_MS;
	case NODE_SERVING:
		poll_store(n);
		node_tick_role(n);
		node_tick_presence(n);
		node_tick_staleness(n);
		node_summarise(n);
		node_tick_seen(n);
		node_tick_destroys(n);
		more = node_tick_proofs(n);
		more = node_rotate_due(n) || more;
		more = node_tick_usage(n) || more;
		node_tick_witness(n);
		node_tick_signing(n);
		node_tick_retention(n);
		node_tick_member(n);
		node_tick_copies(n);
		return more ? 0 : node_member_due_ms(n, TICK_MS);
	case NODE_HELD:
		poll_store(n);
		judge_store(n);
		node_tick_role(n);
		node_tick_presence(n);
		return TICK_MS;
	case NODE_STOPPING:
		break;
	}
	return TICK_MS;
}

/* ---- kekd init ---- */

/* The first records: a client for each entry of admins:. Paths and bodies are kept by the arrays.
 */
static size_t
admin_changes(
	struct node *n, json_t *paths, json_t *bodies, struct sealed_change *changes, size_t max)
{
	size_t count = json_array_size(n->part.admins);

	for (size_t i = 0; i < count && i < max; i++) {
		json_t *admin = json_array_get(n->part.admins, i);
		const char *name = json_string_value(json_object_get(admin, "name"));

		json_array_append_new(paths, json_sprintf("clients/%s", name));
		json_array_append_new(
			bodies, client_admin_body(name, json_object_get(admin, "identities")));
		changes[i] = (struct sealed_change){ json_string_value(json_array_get(paths, i)), 0,
			json_array_get(bodies, i) };
	}
	return count;
}

static int
record_init(struct node *n, enum audit_type type, const char *code)
{
	struct audit_record record = {
		.type = type,
		.time_us = clock_real_us(),
		.operation = n->part.task == NET_ADOPT ? "cluster.init_adopt" : "cluster.init",
		.code = code,
		.detail = n->part.admins,
	};

	return audit_append(n->audit, &record);
}

/* Nothing is written to etcd but by who leads: for as long as it takes, this process does. Where
 * somebody leads already, there is a cluster. */
int
node_lead_alone(struct node *n)
{
	uint64_t end = clock_boot_ns() + LEAD_NS;
	struct http_active active = { { 0 }, { 0 } };

	leader_want(atomic_load(&n->leader), true);
	while (node_epoch(n) == 0 && clock_boot_ns() < end) {
		const struct timespec pause = { 0, 20000000 };
		nanosleep(&pause, NULL);
		node_leader(n, &active);
	}
	if (node_epoch(n) != 0)
		return 0;
	log_error("etcd: this node cannot lead%s%s: see above", *active.node ? ", node " : "",
		active.node);
	return KEKD_ENOTACTIVE;
}

#define INIT_TRIES 5

/* An etcd that has only just begun, or has much to do, is asked again: an operator waits for it. */
static int
read_etcd(struct node *n)
{
	int err = KEKD_ESTORE;

	for (int i = 0; i < INIT_TRIES && err == KEKD_ESTORE; i++)
		err = store_etcd_catch_up(n->store, n->part.store.timeout_ms);
	return err;
}

static int
open_empty_store(struct node *n)
{
	struct store_page p = { 0 };
	bool empty;
	int err;

	if (!n->part.store.endpoints)
		return store_open_sqlite(n->part.state_dir, true, &n->store);
	err = node_open_etcd(n);
	if (err == 0)
		err = read_etcd(n);
	if (err == 0)
		err = n->store->engine->list(n->store, "", NULL, 1, &p);
	empty = err == 0 && p.count == 0;
	store_page_free(&p);
	return empty ? node_lead_alone(n) : err; /* sealed_init says what is there */
}

int
node_init_cluster(struct node *n)
{
	struct sealed_change changes[STORE_OPS_MAX - 2];
	struct sealed_config config;
	_cleanup_(json_freep) json_t *paths = json_array();
	_cleanup_(json_freep) json_t *bodies = json_array();
	char error[JSON_ERROR_SIZE] = "";
	size_t count = admin_changes(n, paths, bodies, changes, STR_COUNT(changes));
	int err;

	if (count == 0 || count > STR_COUNT(changes)) {
		log_error("admins: must name 1 to %zu administrators, or nobody can administer the "
			  "cluster",
			STR_COUNT(changes));
		return CHILD_EXIT_OPERATOR;
	}
	err = open_empty_store(n);
	if (err != 0 && n->part.store.endpoints) {
		log_error("etcd, or its copy in %s: %s: see above", n->part.state_dir,
			kekd_strerror(err));
		return CHILD_EXIT_FAILED;
	}
	if (err != 0) {
		log_error("%s/metadata.db: %s", n->part.state_dir, kekd_strerror(err));
		return CHILD_EXIT_FAILED;
	}
	if (record_init(n, AUDIT_INTENT, NULL) != 0) {
		log_error("%s: the audit log cannot be written, so nothing was made",
			n->part.audit_dir);
		return CHILD_EXIT_OPERATOR;
	}
	config = node_sealed_settings(n);
	config.adopt = n->part.task == NET_ADOPT;
	err = sealed_init(&config, changes, count, error);
	if (record_init(n, AUDIT_OUTCOME, err == 0 ? NULL : kekd_err_info(err)->code) != 0)
		log_warning("%s: the audit log has no record of how this ended", n->part.audit_dir);
	if (err != 0) {
		log_error("kekd init: %s", *error ? error : kekd_strerror(err));
		return CHILD_EXIT_OPERATOR;
	}
	log_info("cluster %s is made, with %zu administrators", n->part.cluster, count);
	if (count < n->part.policy.approvals)
		log_warning(
			"a privileged change takes %u administrators and there are %zu: nobody can "
			"make one; see policy.approvals and admins",
			n->part.policy.approvals, count);
	return CHILD_EXIT_OK;
}

/* ---- what the listener asks ---- */

static bool
hook_is_behind(const struct node *n)
{
	return hsm_is_behind(n->hsm);
}

static uint64_t
hook_revision(struct node *n)
{
	return n->sealed ? sealed_number(n->sealed) : 0;
}

struct hook_job {
	struct control_job job;
	void (*run)(void *);
	void *user;
};

static void
hook_run(struct control_job *job)
{
	struct hook_job *h = job->user;
	struct hook_job copy = *h;

	free(h);
	copy.run(copy.user);
}

static int
hook_control(struct node *n, void (*run)(void *), void *user)
{
	struct hook_job *h = malloc(sizeof(*h));
	int err;

	if (!h)
		return KEKD_EOVERLOAD;
	*h = (struct hook_job){ { .run = hook_run, .user = h }, run, user };
	err = control_post(n->control, &h->job);
	if (err != 0)
		free(h);
	return err;
}

const struct http_hooks node_hooks = {
	.serves = node_serves,
	.is_behind = hook_is_behind,
	.revision = hook_revision,
	.control = hook_control,
	.may_change = node_may_change,
	.finds_active = node_finds_active,
};
