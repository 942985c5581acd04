/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Making a cluster: the seal key in the token, then the first records. Every step can be done
 * again, so that an init that was interrupted is finished by the next.
 */
#include "sealed.h"

#include "kekd/clock.h"
#include "kekd/err.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define LIST_SIZE 32768
#define LABEL_PREFIX "kekd:"
#define LABEL_SIZE SEAL_LABEL_SIZE
#define CLUSTER_LEVEL 1

/* ---- nothing is there yet ---- */

static int
check_store(const struct sealed_config *c, char ret_error[JSON_ERROR_SIZE])
{
	struct store_page p = { 0 };
	int err = c->store->engine->list(c->store, "", NULL, 1, &p);

	if (err < 0)
		json_say(err, ret_error, "the metadata store cannot be read: %s",
			kekd_strerror(err));
	else if (p.count > 0)
		err = json_say(KEKD_EINVALID, ret_error,
			"the metadata store has records already: start kekd; init makes a cluster "
			"once");
	store_page_free(&p);
	return err;
}

/* Number 0 is what an interrupted init leaves. */
static int
check_accepted(const struct sealed_config *c, char ret_error[JSON_ERROR_SIZE])
{
	struct accepted a;
	int err = accepted_read(c->state_dir, &a);

	if (err == -ENOENT || (err == 0 && a.number == 0))
		return 0;
	if (err == 0)
		return json_say(KEKD_EINVALID, ret_error,
			"%s/accepted: cluster \"%s\" was in use here up to commit %llu: put back "
			"its "
			"database, or move this file away",
			c->state_dir, a.cluster, (unsigned long long)a.number);
	return json_say(KEKD_EINVALID, ret_error, "%s/accepted: cannot be read: %s: move it away",
		c->state_dir, kekd_strerror(err));
}

/* What the tokens hold of any cluster. */
struct findings {
	unsigned count;
	unsigned foreign; /* of another cluster */
	unsigned token;	  /* of the last one found; rather a foreign one */
	struct object_id id;
	char label[LABEL_SIZE];
};

/* "kekd:CLUSTER:…" */
static bool
is_own(const struct sealed_config *c, const struct hsm_object *o)
{
	size_t prefix = strlen(LABEL_PREFIX), len = strlen(c->cluster);

	return o->label_len > prefix + len && memcmp(o->label + prefix, c->cluster, len) == 0 &&
	       o->label[prefix + len] == ':';
}

static void
note_object(const struct sealed_config *c, struct findings *f, unsigned token,
	const struct hsm_object *o)
{
	bool own;

	if (o->label_len < strlen(LABEL_PREFIX) ||
		memcmp(o->label, LABEL_PREFIX, strlen(LABEL_PREFIX)) != 0)
		return;
	own = is_own(c, o);
	f->count++;
	if (own && f->foreign > 0)
		return;
	f->foreign += !own;
	f->token = token;
	f->id = o->id;
	memcpy(f->label, o->label, o->label_len);
	f->label[o->label_len] = '\0';
}

static int
note_page(const struct sealed_config *c, struct findings *f, unsigned token,
	const struct hsm_op *op, uint32_t *ret_entries)
{
	struct reader r = READER(op->out, op->out_len);
	struct hsm_object o;
	int more;

	while ((more = hsm_list_next(&r, &o)) == 1) {
		note_object(c, f, token, &o);
		++*ret_entries;
	}
	return more < 0 ? KEKD_EHSM : 0;
}

static int
list_token(const struct sealed_config *c, unsigned token, struct findings *f, uint8_t *room)
{
	uint32_t seen = 0, before, total;
	int err;

	do {
		struct hsm_op op = { .kind = HSM_OP_LIST,
			.token = token,
			.size = seen,
			.out = room,
			.out_cap = LIST_SIZE };
		before = seen;
		err = hsm_call(c->hsm, &op, 1);
		if (err == 0)
			err = op.err;
		if (err == 0)
			err = note_page(c, f, token, &op, &seen);
		total = op.attributes;
	} while (err == 0 && seen < total && seen > before);
	return err;
}

static int
list_tokens(const struct sealed_config *c, struct findings *f, char ret_error[JSON_ERROR_SIZE])
{
	uint8_t *room = malloc(LIST_SIZE);
	int err = room ? 0 : -ENOMEM;

	for (unsigned token = 0; err == 0 && token < c->tokens_count; token++) {
		err = list_token(c, token, f, room);
		if (err < 0)
			json_say(err, ret_error, "token %s: its objects cannot be listed: %s",
				c->tokens[token], kekd_strerror(err));
	}
	free(room);
	return err;
}

/* ---- the seal key ---- */

/* Is the one object that was found the seal key of an init of this cluster? */
static bool
is_own_seal_key(const struct sealed_config *c, const struct findings *f, struct uuid *ret_id)
{
	char label[LABEL_SIZE];

	if (f->count != 1 || f->id.len != sizeof(ret_id->b))
		return false;
	memcpy(ret_id->b, f->id.b, sizeof(ret_id->b));
	seal_key_label(c, ret_id, label);
	return strcmp(label, f->label) == 0;
}

static int
choose_key(const struct sealed_config *c, struct seal_key *ret_key, char ret_error[JSON_ERROR_SIZE])
{
	struct findings f = { 0 };
	int err = list_tokens(c, &f, ret_error);

	if (err < 0)
		return err;
	*ret_key = (struct seal_key){ .token = 0 };
	if (f.count == 0 || (c->adopt && f.foreign == 0))
		return uuid_generate(&ret_key->id);
	ret_key->token = f.token;
	if (is_own_seal_key(c, &f, &ret_key->id))
		return 0;
	return json_say(KEKD_EINVALID, ret_error,
		"token %s holds %u object(s) of a cluster, such as \"%.64s\": %s",
		c->tokens[f.token], f.count, f.label,
		f.foreign > 0
			? "put back that cluster's database, or use an empty token"
			: "put back its database or a backup (kekd restore); if both are lost, "
			  "\"kekd init --adopt\"");
}

/* ---- the records ---- */

static json_t *
cluster_body(const struct sealed_config *c, const struct seal_key *key, const char *generation)
{
	const struct policy p = c->policy ? *c->policy : POLICY_DEFAULT;
	char created[CLOCK_TEXT_SIZE], id[UUID_TEXT_SIZE];

	clock_format(clock_real_us(), created);
	uuid_format(&key->id, id);
	return json_pack("{s:s,s:s,s:s,s:i,s:[s],s:[{s:s,s:s}],s:{s:i,s:I,s:I}}", "name",
		c->cluster, "generation", generation, "created", created, "level", CLUSTER_LEVEL,
		"members", c->node, "seal_keys", "id", id, "token", c->tokens[key->token], "policy",
		"approvals", (int)p.approvals, "destroy_wait_s", (json_int_t)p.destroy_wait_s,
		"approval_ttl_s", (json_int_t)p.approval_ttl_s);
}

/* Before the store has anything: with the store alone, a crash between the two would look like a
 * lost file for ever. */
static int
accept_nothing(struct sealed *s)
{
	int err = seal_accept(s, 0, s->state);

	if (err < 0)
		return err;
	return s->accepted_ok ? 0 : KEKD_ESTORE;
}

static int
commit_first(struct sealed *s, const struct sealed_change *changes, size_t count)
{
	struct sealed_change all[STORE_OPS_MAX];
	json_t *cluster = cluster_body(&s->config, seal_current_key(s), s->generation);
	uint64_t number;
	bool moved;
	int err;

	if (!cluster)
		return -ENOMEM;
	all[0] = (struct sealed_change){ CLUSTER_PATH, 0, cluster };
	for (size_t i = 0; i < count; i++)
		all[i + 1] = (struct sealed_change){ changes[i].path, 0, changes[i].body };
	err = seal_commit_once(s, all, count + 1, &number, &moved);
	json_decref(cluster);
	return err;
}

static int
make_records(const struct sealed_config *config, const struct seal_key *key,
	const struct sealed_change *changes, size_t count)
{
	struct sealed *s = seal_new(config);
	struct uuid generation;
	int err;

	if (!s)
		return -ENOMEM;
	s->keys[0] = *key;
	s->keys_count = 1;
	err = uuid_generate(&generation);
	if (err == 0) {
		uuid_format(&generation, s->generation);
		err = accept_nothing(s);
	}
	if (err == 0)
		err = commit_first(s, changes, count);
	sealed_freep(&s);
	return err;
}

int
sealed_init(const struct sealed_config *config, const struct sealed_change *changes, size_t count,
	char ret_error[JSON_ERROR_SIZE])
{
	struct seal_key key;
	int err;

	if (count > STORE_OPS_MAX - 2)
		return json_say(KEKD_EINVALID, ret_error,
			"at most %d first records: list fewer admins", STORE_OPS_MAX - 2);
	err = check_store(config, ret_error);
	if (err == 0)
		err = check_accepted(config, ret_error);
	if (err == 0)
		err = choose_key(config, &key, ret_error);
	if (err == 0)
		err = seal_make_key(config, &key, ret_error);
	if (err < 0)
		return err;
	err = make_records(config, &key, changes, count);
	if (err < 0)
		json_say(err, ret_error, "the first records cannot be written: %s",
			kekd_strerror(err));
	return err;
}
