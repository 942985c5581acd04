/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The fold as records of the store: usage/NODE/KEY has a key's rows and through which sequence
 * number they are folded, usage/NODE through which one all keys' are. Rounds of storing are driven
 * by the control thread. doc/formats/records.md has the members.
 */
#include "usage_table.h"

#include "kekd/clock.h"
#include "kekd/err.h"
#include "kekd/json.h"
#include "kekd/log.h"

#include <errno.h>
#include <string.h>

/* ---- out ---- */

static json_t *
time_json(uint64_t us)
{
	char text[CLOCK_TEXT_SIZE];

	clock_format(us, text);
	return json_string(text);
}

/* Of a row, which stays where it is for ever, what changes. Copied under the lock, so that the
 * writer does not wait for JSON. */
struct stored_row {
	const struct row *row;
	struct usage_count counts[USAGE_KINDS];
};

struct stored_rows {
	struct stored_row *rows;
	size_t count;
};

/* What is only counted so far will be folded once it is in the log. */
static uint64_t
copy_row(const struct row *from, struct stored_row *to)
{
	uint64_t sum = 0;

	to->row = from;
	memcpy(to->counts, from->counts, sizeof(to->counts));
	to->counts[USAGE_REFUSED].count -= from->pending;
	for (size_t i = 0; i < USAGE_KINDS; i++)
		sum += to->counts[i].count;
	return sum;
}

/* Under the lock. 0 or -ENOMEM. */
static int
copy_rows(struct used_key *k, struct stored_rows *ret_rows)
{
	struct stored_rows copy = { calloc(k->rows_count + 1, sizeof(*copy.rows)), 0 };
	uint64_t total = 0;

	if (!copy.rows)
		return -ENOMEM;
	for (const struct row *r = k->rows; r; r = r->next_of_key) {
		uint64_t sum = copy_row(r, &copy.rows[copy.count]);
		copy.count += sum > 0;
		total += sum;
	}
	k->taken_total = total;
	*ret_rows = copy;
	return 0;
}

static json_t *
row_json(const struct stored_row *r)
{
	json_t *j = json_pack("{s:s}", "client", r->row->client);

	for (size_t i = 0; i < USAGE_KINDS; i++) {
		const struct usage_count *c = &r->counts[i];
		if (c->count > 0)
			json_object_set_new(j, usage_kind_names[i],
				json_pack("[I, I, I]", (json_int_t)c->count,
					(json_int_t)c->first_us, (json_int_t)c->last_us));
	}
	return j;
}

static json_t *
version_entry(json_t *versions, const struct version *v)
{
	char id[UUID_TEXT_SIZE];
	json_t *entry;
	size_t i;

	uuid_format(&v->id, id);
	json_array_foreach(versions, i, entry)
		if (strcmp(json_string_value(json_object_get(entry, "id")), id) == 0)
			return json_object_get(entry, "clients");
	entry = json_pack("{s:s, s:i, s:[]}", "id", id, "version", (int)v->number, "clients");
	if (!entry || json_array_append_new(versions, entry) < 0)
		return NULL;
	return json_object_get(entry, "clients");
}

static json_t *
key_record(const struct stored_rows *rows, const struct place *place)
{
	json_t *versions = json_array();

	for (size_t i = 0; i < rows->count; i++) {
		const struct stored_row *r = &rows->rows[i];
		if (json_array_append_new(version_entry(versions, r->row->version), row_json(r)) <
			0) {
			json_decref(versions);
			return NULL;
		}
	}
	return json_pack("{s:I, s:o, s:o}", "sequence", (json_int_t)place->sequence, "time",
		time_json(place->time_us), "versions", versions);
}

static json_t *
node_record(const struct member *own, const struct place *place, const char *generation)
{
	json_t *j = json_pack("{s:I, s:s, s:o, s:s, s:I, s:I}", "sequence",
		(json_int_t)place->sequence, "hash", place->head, "time", time_json(place->time_us),
		"generation", generation, "keys", (json_int_t)own->keys, "total",
		(json_int_t)own->total);

	if (j && own->incomplete.since_us > 0)
		json_object_set_new(j, "incomplete",
			json_pack("{s:o, s:o}", "since", time_json(own->incomplete.since_us),
				"until", time_json(own->incomplete.until_us)));
	return j;
}

static struct place
place_now(const struct usage *u)
{
	struct place place = u->folded;

	place.time_us = clock_real_us();
	return place;
}

static bool
begin_round(struct usage *u)
{
	if (!u->tells_always && !u->changed.first && !u->node_changed &&
		u->folded.sequence == u->members[0].stored.sequence)
		return false;
	u->round.under_way = true;
	u->round.failed = false;
	u->round.place = place_now(u);
	u->round.left = u->changed;
	if (!u->round.left.first)
		u->round.left.last = &u->round.left.first;
	u->changed = (struct changed_list){ 0 };
	u->changed.last = &u->changed.first;
	return true;
}

/* The next key that has changed. 0 or -ENOMEM. */
static int
take_key(struct usage *u, struct stored_rows *ret_rows)
{
	struct used_key *k = u->round.left.first;

	u->round.left.first = k->next_changed;
	u->round.left.count--;
	if (!u->round.left.first)
		u->round.left.last = &u->round.left.first;
	k->changed = false;
	u->round.key = k;
	u->round.key_place = place_now(u);
	return copy_rows(k, ret_rows);
}

/* Only once all keys that had changed are stored may the place move on. */
static json_t *
take_node(struct usage *u, char *path)
{
	u->round.key = NULL;
	u->round.under_way = false;
	if (u->round.failed)
		return NULL;
	snprintf(path, 2 * STR_NAME_MAX + 2, "%s", u->members[0].name);
	u->node_changed = false;
	return node_record(&u->members[0], &u->round.place, u->round.generation);
}

json_t *
usage_take(struct usage *u, bool round, char ret_path[2 * STR_NAME_MAX + 2])
{
	struct stored_rows rows = { 0 };
	json_t *j = NULL;
	bool begun, key = false;
	int err = 0;

	pthread_mutex_lock(&u->lock);
	begun = u->read && (u->round.under_way || (round && begin_round(u)));
	if (begun) {
		key = u->round.left.first != NULL;
		if (key)
			err = take_key(u, &rows);
		else
			j = take_node(u, ret_path);
	}
	pthread_mutex_unlock(&u->lock);
	if (!key)
		return j;
	snprintf(ret_path, 2 * STR_NAME_MAX + 2, "%s/%s", u->members[0].name, u->round.key->name);
	j = err ? NULL : key_record(&rows, &u->round.key_place);
	free(rows.rows);
	if (!j)
		usage_stored(u, -ENOMEM);
	return j;
}

static void
key_stored(struct usage *u, struct used_key *k)
{
	struct member *own = &u->members[0];

	own->keys += k->stored == 0;
	own->total += k->taken_total - k->stored_total;
	k->stored_total = k->taken_total;
	k->stored = u->round.key_place.sequence;
	k->stored_us = u->round.key_place.time_us;
}

void
usage_stored(struct usage *u, int err)
{
	struct used_key *k = u->round.key;

	pthread_mutex_lock(&u->lock);
	if (!err && k)
		key_stored(u, k);
	else if (!err)
		u->members[0].stored = u->round.place;
	else if (k) {
		u->round.failed = true;
		usage_key_changed(u, k);
	} else
		u->node_changed = true;
	pthread_mutex_unlock(&u->lock);
}

uint64_t
usage_stored_through(struct usage *u)
{
	uint64_t sequence;

	pthread_mutex_lock(&u->lock);
	sequence = u->read ? u->members[0].stored.sequence : 0;
	pthread_mutex_unlock(&u->lock);
	return sequence;
}

/* ---- in ---- */

static bool
take_time(const char *text, uint64_t *ret_us)
{
	return text && clock_parse(text, ret_us) == 0;
}

static int
read_count(const json_t *array, struct usage_count *ret_count)
{
	struct usage_count c = {
		(uint64_t)json_integer_value(json_array_get(array, 0)),
		(uint64_t)json_integer_value(json_array_get(array, 1)),
		(uint64_t)json_integer_value(json_array_get(array, 2)),
	};

	if (json_array_size(array) != 3 || c.count == 0 || c.first_us == 0 ||
		c.first_us > c.last_us)
		return -EINVAL;
	*ret_count = c;
	return 0;
}

static int
read_row(struct usage *u, struct used_key *k, const struct uuid *id, unsigned number,
	const json_t *body)
{
	const char *client = json_string_value(json_object_get(body, "client"));
	struct row *row = client ? usage_find_row(u, k, id, number, client) : NULL;
	int err = row ? 0 : -EINVAL;

	for (size_t i = 0; !err && i < USAGE_KINDS; i++) {
		const json_t *count = json_object_get(body, usage_kind_names[i]);
		if (count)
			err = read_count(count, &row->counts[i]);
	}
	for (size_t i = 0; !err && i < USAGE_KINDS; i++)
		k->stored_total += row->counts[i].count;
	return err;
}

static int
read_version(struct usage *u, struct used_key *k, const json_t *body)
{
	const char *text = json_string_value(json_object_get(body, "id"));
	json_int_t number = json_integer_value(json_object_get(body, "version"));
	const json_t *clients = json_object_get(body, "clients"), *client;
	struct uuid id;
	size_t i;
	int err = 0;

	if (!text || uuid_parse(text, &id) != 0 || number < 1 || !json_is_array(clients))
		return -EINVAL;
	json_array_foreach(clients, i, client)
		if (!err)
			err = read_row(u, k, &id, (unsigned)number, client);
	return err;
}

/* As if the key had never been used on that node. */
static void
forget_key(struct used_key *k)
{
	for (struct row *r = k->rows; r; r = r->next_of_key)
		memset(r->counts, 0, sizeof(r->counts));
	k->stored = k->stored_us = k->stored_total = 0;
}

static int
read_key(struct usage *u, size_t node, const char *name, const json_t *body)
{
	struct used_key *k = usage_find_key(u, node, name, true);
	const json_t *versions = json_object_get(body, "versions"), *version;
	json_int_t sequence = json_integer_value(json_object_get(body, "sequence"));
	size_t i;
	int err = k && sequence > 0 && json_is_array(versions) ? 0 : -EINVAL;

	if (err)
		return err;
	forget_key(k);
	if (!take_time(json_string_value(json_object_get(body, "time")), &k->stored_us))
		return -EINVAL;
	json_array_foreach(versions, i, version)
		if (!err)
			err = read_version(u, k, version);
	if (!err)
		k->stored = (uint64_t)sequence;
	return err;
}

static int
read_node(struct member *m, const json_t *body)
{
	char error[JSON_ERROR_SIZE];
	const char *hash = "", *time = NULL, *generation = "";
	json_t *incomplete = NULL;
	int64_t sequence = 0, keys = 0, total = 0;
	const struct json_member members[] = {
		{ "sequence", JSON_KIND_INTEGER, true, &sequence },
		{ "hash", JSON_KIND_STRING, true, &hash },
		{ "time", JSON_KIND_STRING, true, &time },
		{ "generation", JSON_KIND_STRING, true, &generation },
		{ "keys", JSON_KIND_INTEGER, true, &keys },
		{ "total", JSON_KIND_INTEGER, true, &total },
		{ "incomplete", JSON_KIND_OBJECT, false, &incomplete },
	};
	struct member read = *m;

	if (json_take(body, members, STR_COUNT(members), error) < 0 ||
		!take_time(time, &read.stored.time_us) || strlen(hash) != CHAIN_HEX_SIZE - 1)
		return -EINVAL;
	if (incomplete &&
		(!take_time(json_string_value(json_object_get(incomplete, "since")),
			 &read.incomplete.since_us) ||
			!take_time(json_string_value(json_object_get(incomplete, "until")),
				&read.incomplete.until_us)))
		return -EINVAL;
	snprintf(read.generation, sizeof(read.generation), "%s", generation);
	memcpy(read.stored.head, hash, sizeof(read.stored.head));
	read.stored.sequence = (uint64_t)sequence;
	read.keys = (uint64_t)keys;
	read.total = (uint64_t)total;
	*m = read;
	return 0;
}

/* What was bad before may be good now. */
static int
load_key(struct usage *u, size_t member, const char *name, const json_t *body)
{
	struct used_key *k = usage_find_key(u, member, name, true);
	int err = body ? read_key(u, member, name, body) : -EINVAL;

	if (!k) {
		u->members[member].bad_keys++;
	} else if (k->bad != (err != 0)) {
		k->bad = err != 0;
		u->members[member].bad_keys += k->bad ? 1 : SIZE_MAX;
	}
	return err;
}

static int
load_node(struct member *m, const json_t *body)
{
	int err = body ? read_node(m, body) : -EINVAL;

	m->bad = err != 0;
	return err;
}

void
usage_load(struct usage *u, const char *path, const json_t *body)
{
	const char *slash = strchr(path, '/');
	char node[STR_NAME_MAX + 1] = "";
	size_t len = slash ? (size_t)(slash - path) : strlen(path), member = SIZE_MAX;
	int err;

	pthread_mutex_lock(&u->lock);
	if (len < sizeof(node)) {
		memcpy(node, path, len);
		member = usage_find_member(u, node);
	}
	/* Once it runs, this node knows better. */
	if (member == SIZE_MAX || (member == 0 && u->started)) {
		pthread_mutex_unlock(&u->lock);
		return;
	}
	err = slash ? load_key(u, member, slash + 1, body) : load_node(&u->members[member], body);
	pthread_mutex_unlock(&u->lock);
	if (err)
		log_warning("record usage/%s cannot be used", path);
}

/* A node's records are all there, and none is older than its own record knows it: those of others
 * could be held back or put back where nobody remembers them. */
bool
usage_is_whole(const struct usage *u, size_t member)
{
	const struct member *m = &u->members[member];
	uint64_t keys = 0, total = 0;

	for (size_t i = 0; i < u->keys.size; i++)
		for (const struct used_key *k = u->keys.slots[i]; k; k = k->next_same) {
			keys += k->node == member && k->stored > 0;
			total += k->node == member ? k->stored_total : 0;
		}
	return !m->bad && m->bad_keys == 0 && keys >= m->keys && total >= m->total;
}

void
usage_judge_loaded(struct usage *u)
{
	struct member *own = &u->members[0];
	bool whole = usage_is_whole(u, 0);

	own->keys = own->total = 0;
	for (size_t i = 0; i < u->keys.size; i++)
		for (struct used_key *k = u->keys.slots[i]; k; k = k->next_same) {
			if (!whole && k->node == 0)
				forget_key(k);
			own->keys += k->node == 0 && k->stored > 0;
			own->total += k->node == 0 ? k->stored_total : 0;
		}
	if (whole)
		return;
	memset(&own->stored, 0, sizeof(own->stored));
	log_warning("the records of usage are not whole: all is counted again from the audit log");
}
