/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The etcd engine's commit: one transaction, which compares the leader key (or this node's lease)
 * and every record's revision, so that a node that no longer leads changes nothing. What was done
 * goes to the replica at once; of what may have been done etcd is asked.
 */
#include "etcd_engine.h"

#include "kekd/clock.h"
#include "kekd/err.h"
#include "kekd/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REQUEST_MAX (1536 * 1024) /* etcd's --max-request-bytes, where nothing else is said */
#define OP_OVERHEAD 48		  /* at most, of an operation and a compare in etcd's own format */
#define CATCH_UP_NS (1 * CLOCK_S)
#define FIRST_NS (2 * CLOCK_S)

struct txn {
	struct etcd_store *e;
	enum store_owner owner;
	const struct store_op *ops;
	size_t count;
	struct store_term term;
	char guard[STORE_PATH_MAX + 1]; /* the key that says that this node may */
};

/* ---- before anything is sent ---- */

static int
check_sizes(const struct txn *t)
{
	size_t total = OP_OVERHEAD, prefix = strlen(t->e->settings->cluster) + strlen("/kekd//");

	for (size_t i = 0; i < t->count; i++)
		total += 2 * (prefix + strlen(t->ops[i].path)) + 2 * OP_OVERHEAD +
			 (t->ops[i].kind == STORE_PUT ? t->ops[i].len : 0);
	if (total <= REQUEST_MAX)
		return 0;
	log_error("a commit of %zu records has %zu bytes, and etcd takes %d at once: nothing was "
		  "changed",
		t->count, total, REQUEST_MAX);
	return KEKD_ETOOLARGE;
}

/* At a start the first look at etcd takes a moment. With the lock. */
static void
wait_for_first(struct etcd_store *e)
{
	uint64_t until = clock_monotonic_ns() + FIRST_NS;

	while (!e->synced && !*e->error && clock_monotonic_ns() < until)
		etcd_wait(e, until);
}

static int
check_term(struct txn *t)
{
	bool synced;

	pthread_mutex_lock(&t->e->lock);
	wait_for_first(t->e);
	t->term = t->e->term;
	synced = t->e->synced;
	pthread_mutex_unlock(&t->e->lock);
	if (t->owner == STORE_OWNER_ACTIVE &&
		(t->term.epoch == 0 || clock_boot_ns() >= t->term.until_ns))
		return KEKD_ENOTACTIVE;
	/* Before etcd was read nothing is known of what would be overwritten. */
	return !synced || (t->owner == STORE_OWNER_NODE && t->term.lease == 0) ? KEKD_ESTORE : 0;
}

static int
prepare(struct txn *t)
{
	int err = store_check_ops(t->ops, t->count);

	for (size_t i = 0; err == 0 && i < t->count; i++)
		err = etcd_is_record(t->ops[i].path) ? 0 : -EINVAL;
	if (err == 0)
		err = check_sizes(t);
	if (err == 0)
		err = check_term(t);
	if (t->owner == STORE_OWNER_ACTIVE)
		strcpy(t->guard, "leader");
	else
		snprintf(t->guard, sizeof(t->guard), "alive/%s", t->e->node);
	return err;
}

/* ---- the request ---- */

static json_t *
compare_json(const struct txn *t, const char *path, const char *target, const char *member,
	uint64_t number)
{
	return json_pack("{s:o,s:s,s:s,s:o}", "key", etcd_key(t->e->calls, path), "target", target,
		"result", "EQUAL", member, etcd_number(number));
}

static json_t *
guard_json(const struct txn *t)
{
	if (t->owner == STORE_OWNER_ACTIVE)
		return compare_json(t, t->guard, "CREATE", "create_revision", t->term.epoch);
	return compare_json(t, t->guard, "LEASE", "lease", t->term.lease);
}

static json_t *
op_compare(const struct txn *t, const struct store_op *op)
{
	if (op->expected == 0)
		return compare_json(t, op->path, "CREATE", "create_revision", 0);
	return compare_json(t, op->path, "MOD", "mod_revision", op->expected);
}

static json_t *
compares(const struct txn *t)
{
	json_t *list = json_array();
	int err = list ? json_array_append_new(list, guard_json(t)) : -1;

	for (size_t i = 0; err == 0 && i < t->count; i++)
		if (t->ops[i].expected != STORE_ANY)
			err = json_array_append_new(list, op_compare(t, &t->ops[i]));
	if (err == 0)
		return list;
	json_decref(list);
	return NULL;
}

/* Who this node is shall be known as long as it is alive. */
static bool
is_leased(const struct store_op *op)
{
	return strncmp(op->path, "nodes/", 6) == 0;
}

static json_t *
change_json(const struct txn *t, const struct store_op *op)
{
	json_t *key = etcd_key(t->e->calls, op->path), *put;

	if (op->kind == STORE_DELETE)
		return json_pack("{s:{s:o}}", "requestDeleteRange", "key", key);
	put = json_pack("{s:o,s:o}", "key", key, "value", etcd_base64(op->body, op->len));
	if (put && is_leased(op) && t->term.lease > 0 &&
		json_object_set_new(put, "lease", etcd_number(t->term.lease)) < 0) {
		json_decref(put);
		return NULL;
	}
	return json_pack("{s:o}", "requestPut", put);
}

static json_t *
changes_json(const struct txn *t)
{
	json_t *list = json_array();
	int err = list ? 0 : -1;

	for (size_t i = 0; err == 0 && i < t->count; i++)
		if (t->ops[i].kind != STORE_CHECK)
			err = json_array_append_new(list, change_json(t, &t->ops[i]));
	if (err == 0)
		return list;
	json_decref(list);
	return NULL;
}

static json_t *
read_json(const struct txn *t, const char *path)
{
	return json_pack("{s:{s:o}}", "requestRange", "key", etcd_key(t->e->calls, path));
}

/* What is there instead: of a node's own records the values, which stand for themselves. */
static json_t *
failure_json(const struct txn *t)
{
	json_t *list = json_array();
	int err = list ? json_array_append_new(list, read_json(t, t->guard)) : -1;

	for (size_t i = 0; err == 0 && t->owner == STORE_OWNER_NODE && i < t->count; i++)
		err = json_array_append_new(list, read_json(t, t->ops[i].path));
	if (err == 0)
		return list;
	json_decref(list);
	return NULL;
}

/* ---- the answer ---- */

/* The watch will tell of this deletion once more, and perhaps, before, of what was there. */
static void
note_deleted(struct etcd_store *e, const struct store_op *op, uint64_t revision)
{
	struct news *n = etcd_news_of(op->path, revision, NULL, 0);

	etcd_news_free(pathmap_remove(&e->deleted, op->path));
	if (n && pathmap_add(&e->deleted, n) < 0)
		etcd_news_free(n);
}

/* The replica could not be written: the overlay answers until it can. */
static void
keep_in_memory(struct etcd_store *e, const struct replica_change *c)
{
	struct news *n = etcd_news_of(c->path, c->revision, c->body, c->len);

	if (n && etcd_overlay_put(e, n) < 0)
		etcd_news_free(n);
}

static void
apply(const struct txn *t, uint64_t revision)
{
	struct replica_change changes[STORE_OPS_MAX];
	struct etcd_store *e = t->e;
	size_t n = 0;

	for (size_t i = 0; i < t->count; i++) {
		const struct store_op *op = &t->ops[i];
		if (op->kind == STORE_CHECK)
			continue;
		changes[n++] = (struct replica_change){ op->path, revision,
			op->kind == STORE_PUT ? op->body : NULL, op->len };
		etcd_news_free(pathmap_remove(&e->overlay, op->path));
		etcd_news_free(pathmap_remove(&e->deleted, op->path));
		if (op->kind == STORE_DELETE)
			note_deleted(e, op, revision);
	}
	e->revision = revision;
	etcd_note_own(e, changes, n);
	etcd_mark_image(e);
	if (n > 0 && replica_write(&e->replica, changes, n) < 0)
		for (size_t i = 0; i < n; i++)
			keep_in_memory(e, &changes[i]);
}

static bool
guard_holds(const struct txn *t, const json_t *reply)
{
	const json_t *kv = json_array_get(etcd_kvs(reply, 0), 0);

	if (t->owner == STORE_OWNER_ACTIVE)
		return kv && etcd_u64(kv, "create_revision") == t->term.epoch;
	return kv && etcd_u64(kv, "lease") == t->term.lease;
}

static void
queue_values(const struct txn *t, const json_t *reply)
{
	struct batch *b = etcd_batch_new(0);
	uint64_t revision = etcd_u64(etcd_header(reply), "revision");

	for (size_t i = 0; b && i < t->count; i++) {
		const json_t *kv = json_array_get(etcd_kvs(reply, i + 1), 0);
		char *path = strdup(t->ops[i].path);
		struct news *n = kv ? etcd_news(path, kv)
				    : etcd_news_of(t->ops[i].path, revision, NULL, 0);
		if (!kv)
			free(path);
		if (etcd_batch_add(b, n) < 0)
			break; /* the watch will tell */
	}
	if (b)
		etcd_queue(t->e, b);
}

/* What stands against it is known when this returns: poll tells of it. Of the active's records only
 * whole revisions are good for anything, and the watch has them. */
static int
refused(const struct txn *t, const json_t *reply)
{
	if (!guard_holds(t, reply)) {
		if (t->owner == STORE_OWNER_ACTIVE)
			return KEKD_ENOTACTIVE;
		etcd_note_failure(t->e, "this node's lease has run out");
		return KEKD_ESTORE;
	}
	if (t->owner == STORE_OWNER_NODE)
		queue_values(t, reply);
	else if (!etcd_wait_position(
			 t->e, etcd_u64(etcd_header(reply), "revision"), CATCH_UP_NS / 4))
		etcd_look(t->e, t->e->calls, CATCH_UP_NS);
	return KEKD_EPRECONDITION;
}

static void
mark_uncertain(const struct txn *t)
{
	for (size_t i = 0; i < t->count; i++) {
		struct news *n = etcd_news_of(t->ops[i].path, 0, NULL, 0);
		if (n && pathmap_add(&t->e->uncertain, n) < 0)
			etcd_news_free(n);
	}
}

static int
failed(const struct txn *t, int err)
{
	if (strstr(etcd_error(t->e->calls), "too large"))
		return KEKD_ETOOLARGE;
	if (etcd_unsure(t->e->calls))
		mark_uncertain(t);
	return err == KEKD_ECOMPACTED || err == -ENOENT ? KEKD_ESTORE : err;
}

int
etcd_commit(struct store *s, enum store_owner owner, const struct store_op *ops, size_t count,
	uint64_t *ret_revision)
{
	struct txn t = { .e = etcd_of(s), .owner = owner, .ops = ops, .count = count };
	uint64_t revision;
	json_t *reply = NULL;
	int err = prepare(&t);

	if (err < 0)
		return err;
	err = etcd_ask(t.e, t.e->calls, "kv/txn",
		json_pack("{s:o,s:o,s:o}", "compare", compares(&t), "success", changes_json(&t),
			"failure", failure_json(&t)),
		false, &reply, NULL);
	if (err < 0)
		return failed(&t, err);
	revision = etcd_u64(etcd_header(reply), "revision");
	if (json_is_true(json_object_get(reply, "succeeded"))) {
		apply(&t, revision);
		*ret_revision = revision;
	} else {
		err = refused(&t, reply);
	}
	json_decref(reply);
	return err;
}
