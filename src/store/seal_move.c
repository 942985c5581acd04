/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Moving all seals to a new key, in whichever token: the key is listed beside the old one, every
 * record is sealed again, then the old one leaves the list. Each step is a commit by itself, and
 * until the last of them both keys verify: broken off anywhere, the next call goes on. Nothing is
 * taken away from any token.
 */
#include "sealed.h"

#include "kekd/err.h"
#include "kekd/log.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static int
check_state(struct sealed *s, char ret_error[JSON_ERROR_SIZE])
{
	if (s->hold != SEALED_HOLD_NONE)
		return json_say(KEKD_EHELD, ret_error, "the metadata store is held: %s",
			sealed_hold_text(s->hold));
	for (size_t i = 0; i < s->map.count; i++) {
		const struct sealed_entry *e = s->map.items[i];
		if (e->refused)
			return json_say(KEKD_ERECORD, ret_error,
				"record %s is refused: put the right one back first, or its seal "
				"would be lost with the old key",
				e->path);
	}
	return 0;
}

/* ---- the list of keys ---- */

static json_t *
key_json(const struct sealed *s, const struct seal_key *key)
{
	char id[UUID_TEXT_SIZE];

	uuid_format(&key->id, id);
	return json_pack("{s:s, s:s}", "id", id, "token", s->config.tokens[key->token]);
}

/* The list of the `cluster` record becomes this one; the rest of it stays. */
static int
commit_list(struct sealed *s, json_t *list)
{
	struct sealed_record r = { 0 };
	struct sealed_change change = { .path = CLUSTER_PATH };
	uint64_t number = 0;
	int err = list ? sealed_get(s, CLUSTER_PATH, &r) : -ENOMEM;

	if (err == 0) {
		change.expected = r.commit;
		change.body = json_deep_copy(r.body);
		if (!change.body || json_object_set(change.body, "seal_keys", list) < 0)
			err = -ENOMEM;
	}
	if (err == 0)
		err = sealed_commit(s, &change, 1, &number);
	if (err == 0 && s->load)
		s->load(CLUSTER_PATH, change.body, number, s->user);
	json_decref(change.body);
	json_decref(list);
	sealed_record_free(&r);
	return err;
}

static int
add_key(struct sealed *s, unsigned token, char ret_error[JSON_ERROR_SIZE])
{
	struct seal_key key = { .token = token };
	json_t *list = json_array();
	int err;

	if (s->keys_count == SEAL_KEYS_MAX) {
		json_decref(list);
		return json_say(KEKD_ESTATE, ret_error,
			"%d seal keys are listed already: finish the move to the last one first",
			SEAL_KEYS_MAX);
	}
	err = uuid_generate(&key.id);
	if (err == 0)
		err = seal_make_key(&s->config, &key, ret_error);
	for (size_t i = 0; err == 0 && i < s->keys_count; i++) {
		if (s->keys[i].token >= s->config.tokens_count)
			err = json_say(KEKD_EOBJECT, ret_error,
				"a seal key is in a token that is not configured: configure it "
				"until its seals have moved");
		else
			json_array_append_new(list, key_json(s, &s->keys[i]));
	}
	if (err < 0) {
		json_decref(list);
		return err;
	}
	json_array_append_new(list, key_json(s, &key));
	err = commit_list(s, list);
	return err < 0 ? json_say(err, ret_error, "the new seal key cannot be listed: %s",
				 kekd_strerror(err))
		       : 0;
}

/* The accepted file must not be the last thing that needs the old key. */
static int
drop_old_keys(struct sealed *s, char ret_error[JSON_ERROR_SIZE])
{
	int err = 0;

	if (!s->accepted_ok || !uuid_equal(&s->accepted.key, &seal_current_key(s)->id))
		err = seal_accept(s, s->number, s->state);
	if (err == 0 && !uuid_equal(&s->accepted.key, &seal_current_key(s)->id))
		err = KEKD_ESTORE;
	if (err < 0)
		return json_say(err, ret_error,
			"%s/accepted cannot be written, and needs the old seal key: %s",
			s->config.state_dir, kekd_strerror(err));
	err = commit_list(s, json_pack("[o]", key_json(s, seal_current_key(s))));
	return err < 0 ? json_say(err, ret_error, "the old seal key cannot leave the list: %s",
				 kekd_strerror(err))
		       : 0;
}

/* ---- the records ---- */

static bool
has_old_seal(const struct sealed *s, const struct sealed_entry *e)
{
	return e->there && strcmp(e->path, COMMIT_PATH) != 0 &&
	       !uuid_equal(&e->key, &seal_current_key(s)->id);
}

size_t
seal_count_old(const struct sealed *s)
{
	size_t n = 0;

	for (size_t i = 0; s->keys_count > 0 && i < s->map.count; i++)
		n += has_old_seal(s, s->map.items[i]);
	return n;
}

/* Up to a commit's worth of them, either the nodes' own or the others. */
static size_t
next_old(const struct sealed *s, bool own, struct sealed_entry **ret_entries)
{
	size_t n = 0;

	for (size_t i = 0; i < s->map.count && n < SEAL_BATCH; i++) {
		struct sealed_entry *e = s->map.items[i];
		if (has_old_seal(s, e) && path_is_node_owned(e->path) == own)
			ret_entries[n++] = e;
	}
	return n;
}

static int
move_all(struct sealed *s, bool own, size_t *count, char ret_error[JSON_ERROR_SIZE])
{
	struct sealed_entry *entries[SEAL_BATCH];
	size_t n;

	while ((n = next_old(s, own, entries)) > 0) {
		int err = seal_rewrite(s, entries, n);
		for (; err == KEKD_ETOOLARGE && n > 1; err = seal_rewrite(s, entries, n))
			n /= 2; /* etcd takes only so many bytes at once */
		if (err < 0)
			return json_say(err, ret_error,
				"%zu records are sealed anew, not yet %s and those after it: %s; "
				"repeat the command to go on",
				*count, entries[0]->path, kekd_strerror(err));
		*count += n;
	}
	return 0;
}

static int
move(struct sealed *s, unsigned token, struct sealed_move *m, char ret_error[JSON_ERROR_SIZE])
{
	int err = check_state(s, ret_error);

	m->resumed = s->keys_count > 1 && seal_current_key(s)->token == token;
	if (err == 0 && !m->resumed)
		err = add_key(s, token, ret_error);
	if (err == 0)
		err = move_all(s, false, &m->records, ret_error);
	if (err == 0)
		err = move_all(s, true, &m->records, ret_error);
	if (err < 0)
		return err;
	m->dropped = s->keys_count - 1;
	err = drop_old_keys(s, ret_error);
	/* The list's last commit was sealed by the key that is alone now. */
	if (err == 0)
		uuid_format(&seal_current_key(s)->id, m->key);
	return err;
}

int
sealed_move(struct sealed *s, const char *token, struct sealed_move *ret_move,
	char ret_error[JSON_ERROR_SIZE])
{
	unsigned index = seal_token_index(s, token);
	struct sealed_move m = { 0 };
	int err;

	if (index >= s->config.tokens_count)
		return json_say(KEKD_EINVALID, ret_error,
			"token %.64s is not configured: add it under tokens, or name another",
			token);
	err = sealed_poll(s);
	if (err < 0)
		json_say(err, ret_error, "the metadata store cannot be read: %s",
			kekd_strerror(err));
	else
		err = move(s, index, &m, ret_error);
	seal_publish(s);
	if (err < 0)
		return err;
	*ret_move = m;
	log_info("all seals are made by key %s in token %s now: %zu records", m.key, token,
		m.records);
	return 0;
}
