/* SPDX-License-Identifier: Apache-2.0 */
/* What leadership asks of etcd, by the leader's thread alone: lease, alive/NODE, the leader key. */
#include "leader_state.h"

#include "kekd/clock.h"
#include "kekd/err.h"
#include "kekd/json.h"
#include "kekd/log.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* Takes body. */
static int
ask(struct leader *l, const char *path, json_t *body, bool repeat, json_t **ret_reply,
	uint64_t *ret_sent_ns)
{
	int err = body ? etcd_call(l->calls, path, body, repeat, ret_reply, ret_sent_ns) : -ENOMEM;
	bool reachable = err == 0 || err == -ENOENT;

	json_decref(body);
	pthread_mutex_lock(&l->lock);
	l->dirty |= l->status.reachable != reachable;
	l->status.reachable = reachable;
	if (!reachable) {
		l->status.errors++;
		snprintf(l->status.error, sizeof(l->status.error), "%s",
			err == -ENOMEM ? strerror(ENOMEM) : etcd_error(l->calls));
	} else if (!l->status.conflict) {
		l->status.error[0] = '\0';
	}
	pthread_mutex_unlock(&l->lock);
	return err == -ENOMEM ? KEKD_ESTORE : err;
}

static uint64_t
revision_of(const json_t *reply)
{
	return etcd_u64(json_object_get(reply, "header"), "revision");
}

/* The first record that the i-th operation of a transaction read, or NULL. Borrowed. */
static json_t *
read_by(const json_t *reply, size_t i)
{
	const json_t *response = json_array_get(json_object_get(reply, "responses"), i);

	return json_array_get(
		json_object_get(json_object_get(response, "response_range"), "kvs"), 0);
}

static json_t *
value_of(const json_t *object)
{
	char *text = json_dumps(object, JSON_COMPACT);
	json_t *value = text ? etcd_base64(text, strlen(text)) : NULL;

	json_text_free(text);
	return value;
}

/* ---- the lease ---- */

static int
grant(struct leader *l, uint64_t *ret_lease, uint64_t *ret_until_ns)
{
	json_t *reply = NULL;
	uint64_t sent_ns;
	int err = ask(l, "lease/grant", json_pack("{s:I}", "TTL", (json_int_t)l->config.ttl_s),
		true, &reply, &sent_ns);

	if (err)
		return err;
	*ret_lease = etcd_u64(reply, "ID");
	*ret_until_ns = sent_ns + l->ttl_ns - l->margin_ns;
	json_decref(reply);
	return *ret_lease ? 0 : KEKD_ESTORE;
}

static json_t *
alive_value(const struct leader *l)
{
	json_t *object = json_pack("{s:s}", "instance", l->instance);
	json_t *value = object ? value_of(object) : NULL;

	json_decref(object);
	return value;
}

/* Puts alive/NODE if its mod revision is this; otherwise reads it. */
static int
put_alive(struct leader *l, uint64_t lease, uint64_t mod_revision, json_t **ret_reply)
{
	json_t *key = etcd_key(l->calls, l->alive), *value = alive_value(l);
	json_t *body = json_pack(
		"{s:[{s:O, s:s, s:s, s:o}], s:[{s:{s:O, s:o, s:o}}], s:[{s:{s:O}}]}", "compare",
		"key", key, "target", "MOD", "result", "EQUAL", "mod_revision",
		etcd_number(mod_revision), "success", "requestPut", "key", key, "value", value,
		"lease", etcd_number(lease), "failure", "requestRange", "key", key);

	json_decref(key);
	/* Done twice, the second finds its own value there and takes it as it is. */
	return ask(l, "kv/txn", body, true, ret_reply, NULL);
}

static bool
is_own_instance(struct leader *l, const json_t *kv)
{
	char error[JSON_ERROR_SIZE];
	size_t len;
	char *text = etcd_bytes(json_object_get(kv, "value"), &len);
	json_t *value = text ? json_parse(text, len, error) : NULL;
	const char *instance = json_string_value(json_object_get(value, "instance"));
	bool own = instance && strcmp(instance, l->instance) == 0;

	json_decref(value);
	free(text);
	return own;
}

static void
note_tried(struct leader *l, uint64_t lease)
{
	l->tried[l->tried_count++ % LEADER_TRIED] = lease;
}

static bool
was_tried(const struct leader *l, uint64_t lease)
{
	for (size_t i = 0; i < LEADER_TRIED && i < l->tried_count; i++)
		if (l->tried[i] == lease)
			return true;
	return false;
}

/* May what is there be replaced? Of a process with this one's state it may once, when this one
 * starts: that is mostly its own earlier run. If it runs, too, and has come later, it keeps the
 * name, or the two would take it from each other for ever. */
static bool
is_replaced(struct leader *l, const json_t *kv)
{
	return is_own_instance(l, kv) && (!l->named || was_tried(l, etcd_u64(kv, "lease")));
}

/* What is there of an earlier run of this node is replaced; another process' is not. */
static int
claim_name(struct leader *l, uint64_t lease)
{
	uint64_t mod_revision = 0;

	for (int i = 0; i < 3; i++) {
		json_t *reply = NULL;
		const json_t *kv;
		int err = put_alive(l, lease, mod_revision, &reply);

		if (err)
			return err;
		if (json_is_true(json_object_get(reply, "succeeded"))) {
			json_decref(reply);
			return 0;
		}
		kv = read_by(reply, 0);
		mod_revision = etcd_u64(kv, "mod_revision");
		err = kv && etcd_u64(kv, "lease") == lease ? 1
		      : kv && !is_replaced(l, kv)	   ? KEKD_EPRECONDITION
							   : 0;
		json_decref(reply);
		if (err)
			return err > 0 ? 0 : err;
	}
	return KEKD_ESTORE;
}

static void
revoke(struct leader *l, uint64_t lease)
{
	json_t *reply = NULL;

	if (ask(l, "lease/revoke", json_pack("{s:o}", "ID", etcd_number(lease)), true, &reply,
		    NULL) == 0)
		json_decref(reply);
}

static void
tell_conflict(struct leader *l, bool conflict)
{
	l->dirty |= l->status.conflict != conflict;
	l->status.conflict = conflict;
	if (conflict)
		snprintf(l->status.error, sizeof(l->status.error),
			l->named ? "another kekd, with its own state or a copy of this one's, has "
				   "taken the name of node %s: stop one of the two"
				 : "another kekd with its own state runs as node %s: give one of "
				   "the two another name",
			l->node);
	if (conflict && !l->told_conflict)
		log_error("%s", l->status.error);
	l->told_conflict = conflict;
}

int
leader_grant(struct leader *l)
{
	uint64_t lease, until_ns;
	int err = grant(l, &lease, &until_ns);

	if (err)
		return err;
	note_tried(l, lease);
	err = claim_name(l, lease);
	if (err)
		revoke(l, lease);
	else
		l->named = true;
	pthread_mutex_lock(&l->lock);
	if (err == 0 || err == KEKD_EPRECONDITION)
		tell_conflict(l, err != 0);
	if (!err) {
		l->status.lease = lease;
		l->status.until_ns = until_ns;
		leader_publish(l);
	}
	pthread_mutex_unlock(&l->lock);
	return err;
}

/* A lease that came back to life after its time is only good for what etcd says now. */
static int
extend(struct leader *l, uint64_t until_ns)
{
	bool lapsed;
	int err;

	pthread_mutex_lock(&l->lock);
	lapsed = l->status.active && clock_boot_ns() >= l->status.until_ns;
	pthread_mutex_unlock(&l->lock);
	err = lapsed ? leader_check(l) : 0;
	if (err)
		return err;
	pthread_mutex_lock(&l->lock);
	l->status.until_ns = until_ns;
	leader_publish(l);
	pthread_mutex_unlock(&l->lock);
	return 0;
}

int
leader_keepalive(struct leader *l)
{
	json_t *reply = NULL;
	uint64_t sent_ns, ttl;
	int err = ask(l, "lease/keepalive", json_pack("{s:o}", "ID", etcd_number(l->status.lease)),
		true, &reply, &sent_ns);

	if (err)
		return err;
	ttl = etcd_u64(json_object_get(reply, "result"), "TTL");
	json_decref(reply);
	return ttl ? extend(l, sent_ns + l->ttl_ns - l->margin_ns) : -ENOENT;
}

int
leader_revoke(struct leader *l)
{
	uint64_t lease;

	pthread_mutex_lock(&l->lock);
	lease = l->status.lease;
	leader_lost(l); /* before etcd is asked: nothing is changed from here on */
	pthread_mutex_unlock(&l->lock);
	if (lease)
		revoke(l, lease);
	return 0;
}

/* ---- the leader key ---- */

static void
learn(struct leader *l, const json_t *reply, const json_t *kv, uint64_t sent_ns)
{
	pthread_mutex_lock(&l->lock);
	/* What the watch would have told by now if it were alive. */
	if (leader_learn(l, kv, revision_of(reply), sent_ns))
		atomic_store(&l->rewatch, true);
	pthread_mutex_unlock(&l->lock);
}

int
leader_check(struct leader *l)
{
	json_t *body = json_pack("{s:[{s:{s:o}}, {s:{s:o}}]}", "success", "requestRange", "key",
		etcd_key(l->calls, "leader"), "requestRange", "key", etcd_key(l->calls, l->alive));
	json_t *reply = NULL;
	uint64_t sent_ns;
	int err = ask(l, "kv/txn", body, true, &reply, &sent_ns);

	if (err)
		return err;
	if (etcd_u64(read_by(reply, 1), "lease") != l->status.lease)
		err = -ENOENT;
	learn(l, reply, read_by(reply, 0), sent_ns);
	json_decref(reply);
	return err;
}

static json_t *
leader_value(const struct leader *l)
{
	json_t *object = json_pack("{s:s, s:s}", "node", l->node, "url", l->url);
	json_t *value = object ? value_of(object) : NULL;

	json_decref(object);
	return value;
}

/* The key as the success branch made it. */
static void
elected(struct leader *l, const json_t *reply, uint64_t sent_ns)
{
	uint64_t revision = revision_of(reply);
	json_t *value = leader_value(l);
	json_t *kv = json_pack("{s:o, s:o, s:o, s:o}", "value", value, "create_revision",
		etcd_number(revision), "mod_revision", etcd_number(revision), "lease",
		etcd_number(l->status.lease));

	pthread_mutex_lock(&l->lock);
	if (kv)
		leader_learn(l, kv, revision, sent_ns);
	pthread_mutex_unlock(&l->lock);
	json_decref(kv);
}

int
leader_campaign(struct leader *l)
{
	json_t *key = etcd_key(l->calls, "leader");
	json_t *body = json_pack(
		"{s:[{s:O, s:s, s:s, s:s}, {s:o, s:s, s:s, s:o}], s:[{s:{s:O, s:o, "
		"s:o}}], s:[{s:{s:O}}]}",
		"compare", "key", key, "target", "CREATE", "result", "EQUAL", "create_revision",
		"0", "key", etcd_key(l->calls, l->alive), "target", "LEASE", "result", "EQUAL",
		"lease", etcd_number(l->status.lease), "success", "requestPut", "key", key, "value",
		leader_value(l), "lease", etcd_number(l->status.lease), "failure", "requestRange",
		"key", key);
	json_t *reply = NULL;
	uint64_t sent_ns;
	int err;

	json_decref(key);
	/* Done twice, the second finds the first's and knows it by its lease. */
	err = ask(l, "kv/txn", body, true, &reply, &sent_ns);
	if (err)
		return err;
	if (json_is_true(json_object_get(reply, "succeeded")))
		elected(l, reply, sent_ns);
	else
		learn(l, reply, read_by(reply, 0), sent_ns);
	json_decref(reply);
	pthread_mutex_lock(&l->lock);
	err = l->status.active ? 0 : KEKD_EPRECONDITION;
	pthread_mutex_unlock(&l->lock);
	return err;
}

int
leader_delete(struct leader *l, uint64_t mod_revision)
{
	json_t *key = etcd_key(l->calls, "leader");
	json_t *body = json_pack("{s:[{s:O, s:s, s:s, s:o}], s:[{s:{s:O}}], s:[{s:{s:O}}]}",
		"compare", "key", key, "target", "MOD", "result", "EQUAL", "mod_revision",
		etcd_number(mod_revision), "success", "requestDeleteRange", "key", key, "failure",
		"requestRange", "key", key);
	json_t *reply = NULL;
	uint64_t sent_ns;
	bool deleted;
	int err;

	json_decref(key);
	err = ask(l, "kv/txn", body, true, &reply, &sent_ns);
	if (err)
		return err;
	deleted = json_is_true(json_object_get(reply, "succeeded"));
	pthread_mutex_lock(&l->lock);
	leader_learn(l, deleted ? NULL : read_by(reply, 0), revision_of(reply), sent_ns);
	deleted |= l->leader_mod == 0;
	pthread_mutex_unlock(&l->lock);
	json_decref(reply);
	return deleted ? 0 : KEKD_EPRECONDITION;
}
