/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writing: from changes to sealed records in one commit of the engine, the map and the accepted
 * file. Nothing in memory changes before the engine said that it is durable.
 */
#include "sealed.h"

#include "kekd/clock.h"
#include "kekd/err.h"

#include <errno.h>
#include <string.h>

struct pending {
	const char *path;
	json_t *body;		    /* borrowed; NULL: delete */
	struct sealed_entry *entry; /* NULL: a new path */
	struct sealed_entry
		*fresh; /* for a new path: made beforehand, so that applying cannot fail */
	uint64_t number;
	struct seal_job job;
	char *text;
	size_t len;
};

struct txn {
	struct pending items[STORE_OPS_MAX];
	size_t count; /* with the commit record, which is the last */
	json_t *commit_body;
	struct accepted accepted;
	bool moved;
};

static void
txn_free(struct txn *t)
{
	for (size_t i = 0; i < t->count; i++) {
		json_text_free(t->items[i].text);
		seal_entry_free(t->items[i].fresh);
	}
	json_decref(t->commit_body);
	free(t);
}

/* ---- checking ---- */

static uint64_t
current_number(const struct sealed_entry *e)
{
	return e && e->there ? e->commit : 0;
}

static int
add(struct sealed *s, struct txn *t, const char *path, json_t *body, uint64_t expected,
	uint64_t number)
{
	struct sealed_entry *e = pathmap_find(&s->map, path);
	struct pending *p = &t->items[t->count];

	if (e && e->refused)
		return KEKD_ERECORD;
	if (expected != STORE_ANY && expected != current_number(e))
		return KEKD_EPRECONDITION;
	*p = (struct pending){ .path = path, .body = body, .entry = e, .number = number };
	p->job.key = seal_current_key(s);
	t->count++;
	return 0;
}

static int
check_change(const struct sealed_change *changes, size_t i)
{
	const char *path = changes[i].path;

	if (!path_is_valid(path) || path_is_node_owned(path) || strcmp(path, COMMIT_PATH) == 0)
		return KEKD_EINVALID;
	if (changes[i].body ? !json_is_object(changes[i].body) : strcmp(path, CLUSTER_PATH) == 0)
		return KEKD_EINVALID;
	for (size_t j = 0; j < i; j++)
		if (strcmp(path, changes[j].path) == 0)
			return KEKD_EINVALID;
	return 0;
}

static int
add_changes(struct sealed *s, struct txn *t, const struct sealed_change *changes, size_t count)
{
	int err = 0;

	for (size_t i = 0; err == 0 && i < count; i++) {
		err = check_change(changes, i);
		if (err == 0)
			err = add(s, t, changes[i].path, changes[i].body, changes[i].expected,
				s->number + 1);
	}
	return err;
}

/* ---- sealing ---- */

static int
seal_bodies(struct sealed *s, struct txn *t)
{
	struct seal_job jobs[STORE_OPS_MAX];
	struct pending *owners[STORE_OPS_MAX];
	size_t n = 0;
	int err = 0;

	for (size_t i = 0; err == 0 && i < t->count; i++) {
		struct pending *p = &t->items[i];
		if (!p->body)
			continue;
		jobs[n] = p->job;
		err = envelope_digest(p->path, p->number, p->body, jobs[n].digest);
		owners[n++] = p;
	}
	if (err == 0)
		err = seal_make_sure(s, jobs, n);
	for (size_t i = 0; err == 0 && i < n; i++)
		memcpy(owners[i]->job.seal, jobs[i].seal, SEAL_SIZE);
	return err;
}

static int
by_path(const void *a, const void *b)
{
	return strcmp(
		((const struct seal_override *)a)->path, ((const struct seal_override *)b)->path);
}

static int
next_state(struct sealed *s, const struct txn *t, uint8_t ret_state[SEAL_SIZE])
{
	struct seal_override overrides[STORE_OPS_MAX];

	for (size_t i = 0; i < t->count; i++)
		overrides[i] = (struct seal_override){ t->items[i].path,
			t->items[i].body ? t->items[i].job.seal : NULL };
	qsort(overrides, t->count, sizeof(*overrides), by_path);
	return seal_state(s, overrides, t->count, ret_state);
}

/* The commit record and the accepted file in one question to the token. */
static int
seal_commit_record(struct sealed *s, struct txn *t)
{
	uint64_t number = s->number + 1;
	struct seal_job jobs[2] = { { .key = seal_current_key(s) },
		{ .key = seal_current_key(s) } };
	uint8_t state[SEAL_SIZE];
	int err = next_state(s, t, state);

	if (err < 0)
		return err;
	t->commit_body = commit_body(number, state);
	if (!t->commit_body)
		return -ENOMEM;
	seal_fill_accepted(s, number, state, &t->accepted);
	err = add(s, t, COMMIT_PATH, t->commit_body, STORE_ANY, number);
	if (err == 0)
		err = envelope_digest(COMMIT_PATH, number, t->commit_body, jobs[0].digest);
	if (err == 0)
		err = accepted_digest(&t->accepted, jobs[1].digest);
	if (err == 0)
		err = seal_make_sure(s, jobs, 2);
	if (err < 0)
		return err;
	memcpy(t->items[t->count - 1].job.seal, jobs[0].seal, SEAL_SIZE);
	memcpy(t->accepted.seal, jobs[1].seal, SEAL_SIZE);
	return 0;
}

/* ---- writing ---- */

static int
make_fresh(struct pending *p)
{
	p->fresh = calloc(1, sizeof(*p->fresh));
	if (p->fresh)
		p->fresh->path = strdup(p->path);
	return p->fresh && p->fresh->path ? 0 : -ENOMEM;
}

static int
make_ops(struct sealed *s, struct txn *t, struct store_op ops[STORE_OPS_MAX])
{
	int err = pathmap_reserve(&s->map, t->count);

	for (size_t i = 0; err == 0 && i < t->count; i++) {
		struct pending *p = &t->items[i];
		ops[i] = (struct store_op){ .kind = STORE_DELETE, .path = p->path };
		ops[i].expected = p->entry && p->entry->there ? p->entry->revision : 0;
		if (!p->body)
			continue;
		err = envelope_format(
			p->body, p->number, &p->job.key->id, p->job.seal, &p->text, &p->len);
		if (err == 0 && !p->entry)
			err = make_fresh(p);
		ops[i].kind = STORE_PUT;
		ops[i].body = p->text;
		ops[i].len = p->len;
	}
	return err;
}

/* The engine could not tell whether it was done. The record with the number can. */
static int
find_outcome(struct sealed *s, const struct pending *last, uint64_t *ret_revision)
{
	struct store_record r = { 0 };
	struct envelope e = { 0 };
	int err = s->config.store->engine->get(s->config.store, last->path, &r);

	if (err == 0 && envelope_parse(&r, &e) == 0 &&
		memcmp(e.seal, last->job.seal, SEAL_SIZE) == 0)
		*ret_revision = r.revision;
	else
		err = KEKD_ESTORE;
	envelope_free(&e);
	store_record_free(&r);
	return err;
}

/* What the map says of these paths may be wrong: the next look at the store decides. */
static void
mark_all(struct sealed *s, const struct txn *t)
{
	for (size_t i = 0; i < t->count; i++)
		seal_mark_dirty(s, t->items[i].path);
}

static void
apply(struct sealed *s, struct pending *p, uint64_t revision)
{
	struct sealed_entry *e = p->entry;

	if (!p->body) {
		seal_entry_free(pathmap_remove(&s->map, p->path));
		return;
	}
	if (!e) {
		e = p->fresh;
		p->fresh = NULL; /* the map's now; room was reserved */
		pathmap_add(&s->map, e);
	}
	e->there = e->readable = e->verified = true;
	e->revision = revision;
	e->commit = p->number;
	e->key = p->job.key->id;
	memcpy(e->seal, p->job.seal, SEAL_SIZE);
	seal_set_good(e);
}

static int
engine_commit(struct sealed *s, enum store_owner owner, const struct store_op *ops, size_t count,
	uint64_t *ret_revision)
{
	uint64_t start = clock_boot_ns();
	int err = s->config.store->engine->commit(s->config.store, owner, ops, count, ret_revision);

	metrics_observe(&s->counts.commits, clock_boot_ns() - start);
	if (err == KEKD_ESTORE)
		metrics_add(&s->counts.commit_failures, 1);
	return err;
}

static int
write_txn(struct sealed *s, struct txn *t, enum store_owner owner)
{
	struct store_op ops[STORE_OPS_MAX];
	uint64_t revision = 0;
	int err = make_ops(s, t, ops);

	if (err < 0)
		return err;
	err = engine_commit(s, owner, ops, t->count, &revision);
	if (err == KEKD_ESTORE)
		err = find_outcome(s, &t->items[t->count - 1], &revision);
	if (err < 0) {
		t->moved = err == KEKD_EPRECONDITION;
		mark_all(s, t);
		return err;
	}
	for (size_t i = 0; i < t->count; i++)
		apply(s, &t->items[i], revision);
	return 0;
}

static void
adopt(struct sealed *s, const struct txn *t)
{
	for (size_t i = 0; i < t->count; i++)
		if (strcmp(t->items[i].path, CLUSTER_PATH) == 0 && t->items[i].body) {
			seal_adopt_cluster(s, t->items[i].body);
			seal_read_lineage(t->items[i].body, &s->seen);
		}
	s->number = s->seen_number = t->accepted.number;
	memcpy(s->state, t->accepted.state, SEAL_SIZE);
	memcpy(s->seen_state, t->accepted.state, SEAL_SIZE);
	/* The image first: what is accepted and not there would look like an older copy. */
	if (!s->confirming && seal_image(s) == 0)
		seal_write_accepted(s, &t->accepted);
}

int
seal_commit_once(struct sealed *s, const struct sealed_change *changes, size_t count,
	uint64_t *ret_number, bool *ret_moved)
{
	struct txn *t;
	int err;

	if (s->hold != SEALED_HOLD_NONE)
		return KEKD_EHELD;
	t = calloc(1, sizeof(*t));
	if (!t)
		return -ENOMEM;
	err = add_changes(s, t, changes, count);
	if (err == 0)
		err = seal_bodies(s, t);
	if (err == 0)
		err = seal_commit_record(s, t);
	if (err == 0)
		err = write_txn(s, t, STORE_OWNER_ACTIVE);
	if (err == 0) {
		adopt(s, t);
		*ret_number = s->number;
	}
	*ret_moved = t->moved;
	txn_free(t);
	return err;
}

/* Nothing is written on top of what was not looked at. */
static int
settle_first(struct sealed *s)
{
	int n = s->dirty > 0 ? seal_settle(s) : 0;

	return n < 0 ? n : 0;
}

int
sealed_commit(
	struct sealed *s, const struct sealed_change *changes, size_t count, uint64_t *ret_number)
{
	bool moved = false;
	int err;

	if (count > STORE_OPS_MAX - 1)
		return KEKD_EINVALID;
	err = settle_first(s);
	if (err == 0)
		err = seal_commit_once(s, changes, count, ret_number, &moved);
	/* Once more where only the engine's revisions were other than the map has them. */
	if (err == KEKD_EPRECONDITION && moved) {
		err = sealed_poll(s);
		if (err >= 0)
			err = seal_commit_once(s, changes, count, ret_number, &moved);
	}
	seal_publish(s);
	return err;
}

static int
put_own_once(struct sealed *s, const char *path, uint64_t expected, json_t *body,
	uint64_t *ret_number, bool *ret_moved)
{
	struct txn *t = calloc(1, sizeof(*t));
	uint64_t number = current_number(pathmap_find(&s->map, path)) + 1;
	int err;

	if (!t)
		return -ENOMEM;
	err = add(s, t, path, body, expected, number);
	if (err == 0)
		err = seal_bodies(s, t);
	if (err == 0)
		err = write_txn(s, t, STORE_OWNER_NODE);
	if (err == 0)
		*ret_number = number;
	*ret_moved = t->moved;
	txn_free(t);
	return err;
}

int
seal_put_own_first(struct sealed *s, const struct sealed_change *changes, size_t count)
{
	struct txn *t = calloc(1, sizeof(*t));
	int err = 0;

	if (!t)
		return -ENOMEM;
	for (size_t i = 0; err == 0 && i < count; i++)
		err = add(s, t, changes[i].path, changes[i].body, 0, 1);
	if (err == 0)
		err = seal_bodies(s, t);
	if (err == 0)
		err = write_txn(s, t, STORE_OWNER_NODE);
	txn_free(t);
	return err;
}

int
sealed_put_own(
	struct sealed *s, const char *path, uint64_t expected, json_t *body, uint64_t *ret_number)
{
	bool moved = false;
	int err;

	if (!path_is_valid(path) || !path_is_node_owned(path) || !json_is_object(body))
		return KEKD_EINVALID;
	if (s->keys_count == 0)
		return KEKD_EHELD;
	err = settle_first(s);
	if (err == 0)
		err = put_own_once(s, path, expected, body, ret_number, &moved);
	if (err == KEKD_EPRECONDITION && moved) {
		err = sealed_poll(s);
		if (err >= 0)
			err = put_own_once(s, path, expected, body, ret_number, &moved);
	}
	seal_publish(s);
	return err;
}

/* ---- the same again, under another key ---- */

/* What the store has of these, verified and as it was last good. ret_checks are to be freed in any
 * case. */
static int
read_again(struct sealed *s, struct sealed_entry *const *entries, size_t count,
	struct check *ret_checks)
{
	struct store_record records[SEAL_BATCH] = { 0 };
	int err = 0;

	for (size_t i = 0; err == 0 && i < count; i++)
		err = s->config.store->engine->get(s->config.store, entries[i]->path, &records[i]);
	if (err == 0)
		err = seal_check(s, records, count, ret_checks);
	for (size_t i = 0; err == 0 && i < count; i++)
		if (!ret_checks[i].verified ||
			memcmp(ret_checks[i].envelope.seal, entries[i]->good_seal, SEAL_SIZE) != 0)
			err = KEKD_ERECORD;
	for (size_t i = 0; i < count; i++) {
		store_record_free(&records[i]);
		if (err == KEKD_ERECORD || err == -ENOENT)
			seal_mark_dirty(s, entries[i]->path);
	}
	return err == -ENOENT ? KEKD_ERECORD : err;
}

int
seal_rewrite(struct sealed *s, struct sealed_entry *const *entries, size_t count)
{
	struct check checks[SEAL_BATCH] = { 0 };
	struct txn *t = calloc(1, sizeof(*t));
	bool own = path_is_node_owned(entries[0]->path);
	int err = t ? read_again(s, entries, count, checks) : -ENOMEM;

	for (size_t i = 0; err == 0 && i < count; i++)
		err = add(s, t, entries[i]->path, checks[i].envelope.body, STORE_ANY,
			entries[i]->commit + own);
	if (err == 0)
		err = seal_bodies(s, t);
	if (err == 0 && !own)
		err = seal_commit_record(s, t);
	if (err == 0)
		err = write_txn(s, t, own ? STORE_OWNER_NODE : STORE_OWNER_ACTIVE);
	if (err == 0 && !own)
		adopt(s, t);
	seal_free_checks(checks, count);
	if (t)
		txn_free(t);
	return err;
}

/* ---- beside the store ---- */

int
sealed_spare_put(struct sealed *s, const char *name, uint64_t number)
{
	const struct store_engine *e = s->config.store->engine;

	return e->spare_put ? e->spare_put(s->config.store, name, number) : 1;
}

int
sealed_spare_take(struct sealed *s, const char *name, uint64_t *ret_number)
{
	const struct store_engine *e = s->config.store->engine;

	*ret_number = 0;
	return e->spare_take ? e->spare_take(s->config.store, name, ret_number) : 0;
}
