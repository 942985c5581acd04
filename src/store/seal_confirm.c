/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A store that an operator put back on purpose: older than what was accepted, or another database,
 * but whole by itself. It gets a new generation that says what it succeeds, so that the other nodes
 * follow; then every record of the active may be changed once, for what must not repeat itself.
 * What nodes own and is newer here than there, as the count of IVs drawn, is put back first.
 */
#include "sealed.h"

#include "kekd/clock.h"
#include "kekd/err.h"
#include "kekd/log.h"
#include "kekd/secret.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define CHUNK 32

/* ---- may it be confirmed? ---- */

static bool
is_unfinished(const struct sealed *s)
{
	return s->hold == SEALED_HOLD_NONE && s->seen.raising;
}

static int
check_hold(const struct sealed *s, char ret_error[JSON_ERROR_SIZE])
{
	if (!s->config.store->engine->image)
		return json_say(KEKD_ESTATE, ret_error,
			"a single node's store is put back by \"kekd restore\", which counts what "
			"was done since");
	if (is_unfinished(s))
		return 0;
	if (s->hold == SEALED_HOLD_NONE)
		return json_say(KEKD_ESTATE, ret_error,
			"the metadata store is not held: nothing is to "
			"be confirmed");
	if (s->hold != SEALED_HOLD_BEHIND && s->hold != SEALED_HOLD_FOREIGN &&
		!(s->hold == SEALED_HOLD_NO_ACCEPTED && s->accepted_ok))
		return json_say(KEKD_EHELD, ret_error, "%.300s", sealed_hold_text(s->hold));
	return 0;
}

static int
check(const struct sealed *s, const char *generation, char ret_error[JSON_ERROR_SIZE])
{
	int err = check_hold(s, ret_error);

	if (err < 0)
		return err;
	if (strcmp(generation, s->seen.generation) != 0)
		return json_say(KEKD_EPRECONDITION, ret_error,
			"the metadata store is of generation %s by now", s->seen.generation);
	if (!s->whole)
		return json_say(KEKD_EHELD, ret_error,
			"the metadata store is not whole by itself: a seal in it does not verify, "
			"or "
			"a record was deleted, inserted or put back by itself");
	return 0;
}

/* ---- what nodes own ---- */

static bool
is_newer_here(const struct sealed_entry *e)
{
	return path_is_node_owned(e->path) && !path_is_leased(e->path) && e->known &&
	       (!e->there || e->commit < e->good_commit);
}

/* The image's bytes, if they are what was good: nothing else is written for another. */
static int
take_image(struct sealed *s, const struct sealed_entry *e, struct store_record *ret_record)
{
	struct store *store = s->config.store;
	struct check c = { 0 };
	int err = store->engine->image(store, e->path, ret_record);

	if (err < 0)
		return err;
	err = seal_check(s, ret_record, 1, &c);
	if (err == 0 && (!c.verified || memcmp(c.envelope.seal, e->good_seal, SEAL_SIZE) != 0))
		err = -ENOENT;
	seal_free_checks(&c, 1);
	return err;
}

static int
put_back(struct sealed *s, const struct sealed_entry *e)
{
	struct store *store = s->config.store;
	struct store_record r = { 0 };
	struct store_op op = { .kind = STORE_PUT, .path = e->path };
	uint64_t revision;
	int err = take_image(s, e, &r);

	if (err == 0) {
		op.expected = e->there ? e->revision : 0;
		op.body = r.body;
		op.len = r.len;
		err = store->engine->commit(store, STORE_OWNER_NODE, &op, 1, &revision);
	}
	store_record_free(&r);
	return err == -ENOENT ? 0 : err;
}

static int
put_back_own(struct sealed *s, char ret_error[JSON_ERROR_SIZE])
{
	int err = 0;

	for (size_t i = 0; err == 0 && i < s->map.count; i++) {
		const struct sealed_entry *e = s->map.items[i];
		if (!is_newer_here(e))
			continue;
		err = put_back(s, e);
		if (err < 0)
			return json_say(err, ret_error, "record %.100s cannot be put back: %s",
				e->path, kekd_strerror(err));
		seal_mark_dirty(s, e->path);
	}
	err = seal_settle(s);
	return err < 0 ? json_say(err, ret_error, "the metadata store cannot be read: %s",
				 kekd_strerror(err))
		       : 0;
}

/* ---- the record `cluster` ---- */

static int
read_body(struct sealed *s, const char *path, json_t **ret_body)
{
	struct store_record r = { 0 };
	struct check c = { 0 };
	int err = s->config.store->engine->get(s->config.store, path, &r);

	if (err == 0)
		err = seal_check(s, &r, 1, &c);
	if (err == 0 && !c.verified)
		err = KEKD_ERECORD;
	if (err == 0) {
		*ret_body = json_deep_copy(c.envelope.body);
		err = *ret_body ? 0 : -ENOMEM;
	}
	seal_free_checks(&c, 1);
	store_record_free(&r);
	return err == -ENOENT ? KEKD_ERECORD : err;
}

static json_t *
succeeds_json(const struct sealed *s, uint64_t top)
{
	const struct seal_lineage *l = &s->seen;
	json_t *list = json_array();
	char identity[64] = "";
	bool other = s->accepted_ok && strcmp(s->accepted.generation, l->generation) != 0;
	size_t room = SEAL_SUCCEEDS_MAX - 1 - other;

	s->config.store->engine->identity(s->config.store, identity);
	for (size_t i = l->count > room ? l->count - room : 0; i < l->count; i++)
		if (!other || strcmp(l->succeeds[i].generation, s->accepted.generation) != 0)
			json_array_append_new(list,
				json_pack("{s:s,s:I}", "generation", l->succeeds[i].generation,
					"number", (json_int_t)l->succeeds[i].number));
	if (other)
		json_array_append_new(
			list, json_pack("{s:s,s:I}", "generation", s->accepted.generation, "number",
				      (json_int_t)top));
	json_array_append_new(
		list, json_pack("{s:s,s:I,s:s,s:b}", "generation", l->generation, "number",
			      (json_int_t)top, "store", identity, "raising", 1));
	return list;
}

/* As after a restore from a backup: nothing is changed until it is done. */
static json_t *
confirm_json(const struct sealed *s)
{
	char now[CLOCK_TEXT_SIZE];

	clock_format(clock_real_us(), now);
	return json_pack("{s:s,s:s,s:s,s:I,s:b,s:I}", "restored", now, "backup", now, "generation",
		s->seen.generation, "revision", (json_int_t)s->seen_number, "log", 0, "changes",
		(json_int_t)0);
}

static int
begin_body(struct sealed *s, uint64_t top, json_t **ret_body)
{
	char text[UUID_TEXT_SIZE];
	struct uuid generation;
	int err = read_body(s, CLUSTER_PATH, ret_body);

	if (err == 0)
		err = uuid_generate(&generation);
	if (err < 0)
		return err;
	uuid_format(&generation, text);
	if (json_object_set_new(*ret_body, "generation", json_string(text)) < 0 ||
		json_object_set_new(*ret_body, "succeeds", succeeds_json(s, top)) < 0 ||
		json_object_set_new(*ret_body, "confirm", confirm_json(s)) < 0)
		return -ENOMEM;
	return 0;
}

static int
end_body(struct sealed *s, json_t **ret_body)
{
	int err = read_body(s, CLUSTER_PATH, ret_body);
	json_t *list;

	if (err < 0)
		return err;
	list = json_object_get(*ret_body, "succeeds");
	json_object_del(json_array_get(list, json_array_size(list) - 1), "raising");
	json_object_del(*ret_body, "confirm");
	return 0;
}

/* ---- commits ---- */

static int
commit(struct sealed *s, const struct sealed_change *changes, size_t count)
{
	uint64_t number = 0;
	bool moved;
	int err = seal_commit_once(s, changes, count, &number, &moved);

	if (err == KEKD_ETOOLARGE && count > 1) {
		err = commit(s, changes, count / 2);
		return err < 0 ? err : commit(s, changes + count / 2, count - count / 2);
	}
	for (size_t i = 0; err == 0 && s->load && i < count; i++)
		s->load(changes[i].path, changes[i].body, number, s->user);
	return err;
}

static int
commit_cluster(struct sealed *s, json_t *body)
{
	struct sealed_change change = { CLUSTER_PATH, STORE_ANY, body };

	return commit(s, &change, 1);
}

/* What is there counts from now on, if the commit is done; else everything is as it was. */
static int
begin_commit(struct sealed *s, uint64_t top, json_t *body)
{
	uint64_t number = s->number;
	uint8_t state[SEAL_SIZE];
	int err, told;

	memcpy(state, s->state, SEAL_SIZE);
	for (size_t i = 0; i < s->map.count; i++) {
		struct sealed_entry *e = s->map.items[i];
		e->refused = e->refused && !(e->there && e->verified);
	}
	s->hold = SEALED_HOLD_NONE;
	s->number = top;
	memcpy(s->state, s->seen_state, SEAL_SIZE);
	s->confirming = true;
	err = commit_cluster(s, body);
	s->confirming = false;
	if (err < 0) {
		s->number = number;
		memcpy(s->state, state, SEAL_SIZE);
	}
	told = seal_settle(s);
	return err < 0 ? err : told < 0 ? told : 0;
}

static int
begin(struct sealed *s, char ret_error[JSON_ERROR_SIZE])
{
	uint64_t top = s->accepted_ok && s->accepted.number > s->seen_number ? s->accepted.number
									     : s->seen_number;
	json_t *body = NULL;
	int err = begin_body(s, top, &body);

	if (err == 0)
		err = begin_commit(s, top, body);
	if (err == 0)
		err = seal_image(s);
	if (err == 0)
		err = seal_accept(s, s->number, s->state);
	json_decref(body);
	return err < 0 ? json_say(err, ret_error, "the new generation cannot be written: %s",
				 kekd_strerror(err))
		       : 0;
}

/* ---- each record once ---- */

struct raise {
	struct sealed *s;
	sealed_next_fn *next;
	void *user;
	struct sealed_change changes[CHUNK];
	size_t count;
	char *error;
};

static int
flush(struct raise *r)
{
	int err = r->count > 0 ? commit(r->s, r->changes, r->count) : 0;

	if (err < 0)
		json_say(err, r->error,
			"records cannot be written, from %.100s on: %s; repeat the "
			"command to go on",
			r->changes[0].path, kekd_strerror(err));
	for (size_t i = 0; i < r->count; i++)
		json_decref(r->changes[i].body);
	r->count = 0;
	return err;
}

static int
raise_one(struct raise *r, const struct sealed_entry *e)
{
	json_t *body = NULL, *next = NULL;
	int err = read_body(r->s, e->path, &body);

	if (err == 0)
		err = r->next(e->path, body, r->user, &next);
	json_decref(body);
	if (err < 0) {
		json_decref(next);
		return json_say(err, r->error, "record %.100s: %s", e->path, kekd_strerror(err));
	}
	if (!next)
		return 0;
	r->changes[r->count++] = (struct sealed_change){ e->path, STORE_ANY, next };
	return r->count == CHUNK ? flush(r) : 0;
}

/* Those that were committed since have had their turn. */
static bool
is_of_before(const struct sealed *s, const struct sealed_entry *e)
{
	return e->there && !path_is_node_owned(e->path) && strcmp(e->path, COMMIT_PATH) != 0 &&
	       strcmp(e->path, CLUSTER_PATH) != 0 &&
	       e->commit <= s->seen.succeeds[s->seen.count - 1].number;
}

static int
raise_all(struct sealed *s, sealed_next_fn *next, void *user, char ret_error[JSON_ERROR_SIZE])
{
	struct raise r = { .s = s, .next = next, .user = user, .error = ret_error };
	int err = 0;

	for (size_t i = 0; err == 0 && next && i < s->map.count; i++)
		if (is_of_before(s, s->map.items[i]))
			err = raise_one(&r, s->map.items[i]);
	if (err == 0)
		return flush(&r);
	for (size_t i = 0; i < r.count; i++)
		json_decref(r.changes[i].body);
	return err;
}

static int
finish(struct sealed *s, char ret_error[JSON_ERROR_SIZE])
{
	json_t *body = NULL;
	int err = end_body(s, &body);

	if (err == 0)
		err = commit_cluster(s, body);
	json_decref(body);
	return err < 0 ? json_say(err, ret_error,
				 "the new generation cannot be finished: %s; repeat the "
				 "command",
				 kekd_strerror(err))
		       : 0;
}

static int
confirm(struct sealed *s, const char *generation, sealed_next_fn *next, void *user,
	char ret_error[JSON_ERROR_SIZE])
{
	int err = check(s, generation, ret_error);

	if (err == 0 && !is_unfinished(s)) {
		err = put_back_own(s, ret_error);
		if (err == 0)
			err = check(s, generation, ret_error);
		if (err == 0)
			err = begin(s, ret_error);
	}
	if (err == 0)
		err = raise_all(s, next, user, ret_error);
	return err < 0 ? err : finish(s, ret_error);
}

int
sealed_confirm(struct sealed *s, const char *generation, sealed_next_fn *next, void *user,
	uint64_t *ret_number, char ret_error[JSON_ERROR_SIZE])
{
	int err = sealed_poll(s);

	if (err < 0)
		json_say(err, ret_error, "the metadata store cannot be read: %s",
			kekd_strerror(err));
	else
		err = confirm(s, generation, next, user, ret_error);
	seal_publish(s);
	if (err < 0)
		return err;
	*ret_number = s->number;
	log_info("the metadata store was confirmed: generation %s, commit %llu", s->generation,
		(unsigned long long)s->number);
	return 0;
}
