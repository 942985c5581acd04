/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The fold in memory: rows by version and client, fed by the audit writer at the price of one look
 * into a table for each version of a record. Not here: the log of earlier runs (usage_read.c), the
 * store's records (usage_store.c).
 */
#include "usage_table.h"

#include "kekd/clock.h"
#include "kekd/err.h"
#include "kekd/json.h"
#include "kekd/log.h"

#include <errno.h>
#include <openssl/sha.h>
#include <string.h>

#define SLOTS_MIN 64

const char *const usage_kind_names[USAGE_KINDS] = {
	[USAGE_WRAPPED] = "wrapped",
	[USAGE_UNWRAPPED] = "unwrapped",
	[USAGE_REFUSED] = "refused",
	[USAGE_FAILED] = "failed",
};

/* ---- tables ---- */

static uint64_t
hash_text(uint64_t h, const char *text)
{
	for (; *text; text++)
		h = (h ^ (uint8_t)*text) * 1099511628211u;
	return h ^ (h >> 29);
}

static uint64_t
hash_uuid(const struct uuid *id)
{
	uint64_t halves[2];

	memcpy(halves, id->b, sizeof(halves));
	halves[0] = (halves[0] ^ (halves[1] >> 7)) * 0x9e3779b97f4a7c15u;
	return halves[0] ^ (halves[0] >> 32) ^ halves[1];
}

static uint64_t
hash_row(const struct uuid *version, size_t node, const char *client)
{
	return hash_text(hash_uuid(version) + node, client);
}

static uint64_t
hash_of_row(const void *item)
{
	const struct row *r = item;

	return hash_row(&r->version->id, r->key->node, r->client);
}

static uint64_t
hash_of_version(const void *item)
{
	return hash_uuid(&((const struct version *)item)->id);
}

static uint64_t
hash_of_key(const void *item)
{
	const struct used_key *k = item;

	return hash_text(k->node, k->name);
}

static void **
next_of_row(void *item)
{
	return (void **)&((struct row *)item)->next_same;
}

static void **
next_of_version(void *item)
{
	return (void **)&((struct version *)item)->next_same;
}

static void **
next_of_key(void *item)
{
	return (void **)&((struct used_key *)item)->next_same;
}

static void *
slot_first(const struct hashed *h, uint64_t hash)
{
	return h->size > 0 ? h->slots[hash & (h->size - 1)] : NULL;
}

static int
grow(struct hashed *h, uint64_t (*hash)(const void *), void **(*next)(void *))
{
	size_t size = h->size > 0 ? 2 * h->size : SLOTS_MIN;
	void **slots = calloc(size, sizeof(*slots));

	if (!slots)
		return -ENOMEM;
	for (size_t i = 0; i < h->size; i++)
		while (h->slots[i]) {
			void *item = h->slots[i], **place = &slots[hash(item) & (size - 1)];
			h->slots[i] = *next(item);
			*next(item) = *place;
			*place = item;
		}
	free(h->slots);
	h->slots = slots;
	h->size = size;
	return 0;
}

static int
put(struct hashed *h, void *item, uint64_t (*hash)(const void *), void **(*next)(void *))
{
	void **place;

	if (h->count >= h->size && grow(h, hash, next) < 0)
		return -ENOMEM;
	place = &h->slots[hash(item) & (h->size - 1)];
	*next(item) = *place;
	*place = item;
	h->count++;
	return 0;
}

static void
free_all(struct hashed *h, void **(*next)(void *))
{
	for (size_t i = 0; i < h->size; i++)
		while (h->slots[i]) {
			void *item = h->slots[i];
			h->slots[i] = *next(item);
			free(item);
		}
	free(h->slots);
}

struct used_key *
usage_find_key(struct usage *u, size_t node, const char *name, bool make)
{
	struct used_key *k = slot_first(&u->keys, hash_text(node, name));

	while (k && (k->node != node || strcmp(k->name, name) != 0))
		k = k->next_same;
	if (k || !make || strlen(name) > STR_NAME_MAX)
		return k;
	k = calloc(1, sizeof(*k));
	if (!k)
		return NULL;
	k->node = node;
	memcpy(k->name, name, strlen(name) + 1);
	if (put(&u->keys, k, hash_of_key, next_of_key) == 0)
		return k;
	free(k);
	return NULL;
}

struct version *
usage_find_version(struct usage *u, const struct uuid *id)
{
	struct version *v = slot_first(&u->versions, hash_uuid(id));

	while (v && !uuid_equal(&v->id, id))
		v = v->next_same;
	return v;
}

static struct version *
make_version(struct usage *u, const struct uuid *id, unsigned number)
{
	struct version *v = usage_find_version(u, id);

	if (v)
		return v;
	v = calloc(1, sizeof(*v));
	if (!v)
		return NULL;
	v->id = *id;
	v->number = number;
	if (put(&u->versions, v, hash_of_version, next_of_version) == 0)
		return v;
	free(v);
	return NULL;
}

static struct row *
find_row(const struct usage *u, const struct uuid *version, size_t node, const char *client)
{
	struct row *r = slot_first(&u->rows, hash_row(version, node, client));

	while (r && (!uuid_equal(&r->version->id, version) || r->key->node != node ||
			    strcmp(r->client, client) != 0))
		r = r->next_same;
	return r;
}

static struct row *
make_row(struct usage *u, struct used_key *key, struct version *v, const char *client)
{
	struct row *r = calloc(1, sizeof(*r));

	if (!r)
		return NULL;
	r->version = v;
	r->key = key;
	memcpy(r->client, client, strlen(client) + 1);
	if (put(&u->rows, r, hash_of_row, next_of_row) < 0) {
		free(r);
		return NULL;
	}
	r->next_of_version = v->rows;
	v->rows = r;
	r->next_of_key = key->rows;
	key->rows = r;
	key->rows_count++;
	if (key->node == 0)
		v->own = key;
	return r;
}

struct row *
usage_find_row(struct usage *u, struct used_key *key, const struct uuid *version, unsigned number,
	const char *client)
{
	struct row *r;
	struct version *v;

	if (strlen(client) > STR_NAME_MAX)
		client = "";
	r = find_row(u, version, key->node, client);
	if (r)
		return r;
	/* A record of the store must hold all rows of a key. */
	if (key->rows_count >= USAGE_ROWS_MAX && *client)
		return usage_find_row(u, key, version, number, "");
	v = make_version(u, version, number);
	return v ? make_row(u, key, v, client) : NULL;
}

void
usage_list_add(struct changed_list *list, struct used_key *key)
{
	key->next_changed = NULL;
	*list->last = key;
	list->last = &key->next_changed;
	list->count++;
}

void
usage_key_changed(struct usage *u, struct used_key *key)
{
	if (key->changed || key->node != 0)
		return;
	key->changed = true;
	usage_list_add(&u->changed, key);
}

size_t
usage_find_member(struct usage *u, const char *name)
{
	struct member *more;

	for (size_t i = 0; i < u->members_count; i++)
		if (strcmp(u->members[i].name, name) == 0)
			return i;
	if (strlen(name) > STR_NAME_MAX)
		return SIZE_MAX;
	more = reallocarray(u->members, u->members_count + 1, sizeof(*more));
	if (!more)
		return SIZE_MAX;
	u->members = more;
	more[u->members_count] = (struct member){ 0 };
	memcpy(more[u->members_count].name, name, strlen(name) + 1);
	return u->members_count++;
}

/* ---- what feeds it ---- */

void
usage_add(struct usage_count *count, uint64_t n, uint64_t first_us, uint64_t last_us)
{
	count->count += n;
	if (count->first_us == 0 || first_us < count->first_us)
		count->first_us = first_us;
	if (last_us > count->last_us)
		count->last_us = last_us;
}

void
usage_note_incomplete(struct usage *u, size_t member, uint64_t since_us)
{
	struct span *span = &u->members[member].incomplete;

	if (span->since_us == 0 || since_us < span->since_us)
		span->since_us = since_us > 0 ? since_us : 1;
	span->until_us = clock_real_us();
	u->node_changed = u->node_changed || member == 0;
}

static bool
tells_of_use(const struct audit_record *r)
{
	return (r->type == AUDIT_REQUEST || r->type == AUDIT_REFUSED) && r->key;
}

/* The row on this node; without memory for one, the evidence has a hole. */
static struct row *
row_of(struct usage *u, const struct audit_record *r, const struct audit_version *v)
{
	const char *client = r->client ? r->client : "";
	struct row *row = find_row(u, &v->id, 0, client);
	struct used_key *key;

	if (row)
		return row;
	key = usage_find_key(u, 0, r->key, true);
	row = key ? usage_find_row(u, key, &v->id, v->version, client) : NULL;
	if (!row)
		usage_note_incomplete(u, 0, r->time_us);
	return row;
}

static void
fold_version(struct usage *u, const struct audit_record *r, const struct audit_version *v)
{
	const uint32_t counts[USAGE_KINDS] = { v->wrapped, v->unwrapped, v->refused, v->failed };
	struct row *row = row_of(u, r, v);

	if (!row)
		return;
	for (size_t i = 0; i < USAGE_KINDS; i++)
		if (counts[i] > 0)
			usage_add(&row->counts[i], counts[i], r->time_us, r->time_us);
	usage_key_changed(u, row->key);
}

static void
set_place(struct usage *u, uint64_t sequence, const char *head)
{
	u->folded.sequence = sequence;
	snprintf(u->folded.head, sizeof(u->folded.head), "%s", head);
}

void
usage_begin(struct usage *u, uint64_t sequence, const char *head)
{
	pthread_mutex_lock(&u->lock);
	set_place(u, sequence, head);
	u->begin = u->folded;
	u->begun = true;
	pthread_mutex_unlock(&u->lock);
}

void
usage_fold(struct usage *u, const struct audit_record *first, const struct audit_record *end,
	uint64_t sequence, const char *head)
{
	pthread_mutex_lock(&u->lock);
	for (const struct audit_record *r = first; r != end; r = r->next)
		for (size_t i = 0; tells_of_use(r) && i < r->versions_count; i++)
			fold_version(u, r, &r->versions[i]);
	set_place(u, sequence, head);
	pthread_mutex_unlock(&u->lock);
}

static void
count_version(struct usage *u, const struct audit_record *r, const struct audit_version *v)
{
	struct row *row = row_of(u, r, v);

	if (!row)
		return;
	if (row->pending == 0) {
		row->next_pending = u->pending;
		u->pending = row;
	}
	row->pending += v->refused;
	usage_add(&row->counts[USAGE_REFUSED], v->refused, r->time_us, r->time_us);
}

void
usage_count(struct usage *u, const struct audit_record *r)
{
	pthread_mutex_lock(&u->lock);
	for (size_t i = 0; tells_of_use(r) && i < r->versions_count; i++)
		if (r->versions[i].refused > 0)
			count_version(u, r, &r->versions[i]);
	pthread_mutex_unlock(&u->lock);
}

void
usage_settle(struct usage *u, uint64_t sequence, const char *head)
{
	pthread_mutex_lock(&u->lock);
	while (u->pending) {
		struct row *row = u->pending;
		u->pending = row->next_pending;
		row->pending = 0;
		usage_key_changed(u, row->key);
	}
	set_place(u, sequence, head);
	pthread_mutex_unlock(&u->lock);
}

void
usage_mark_incomplete(struct usage *u, uint64_t since_us)
{
	pthread_mutex_lock(&u->lock);
	usage_note_incomplete(u, 0, since_us);
	pthread_mutex_unlock(&u->lock);
}

/* ---- what is asked ---- */

static void
add_to_total(struct usage_total *t, const struct row *row)
{
	const struct usage_count *c = row->counts;

	t->wrapped += c[USAGE_WRAPPED].count;
	t->unwrapped += c[USAGE_UNWRAPPED].count;
	t->refused += c[USAGE_REFUSED].count;
	t->failed += c[USAGE_FAILED].count;
	for (size_t i = 0; i < USAGE_KINDS; i++) {
		if (c[i].first_us > 0 && (t->first_us == 0 || c[i].first_us < t->first_us))
			t->first_us = c[i].first_us;
		if (c[i].last_us > t->last_us)
			t->last_us = c[i].last_us;
	}
	if (c[USAGE_WRAPPED].last_us > t->last_wrapped_us)
		t->last_wrapped_us = c[USAGE_WRAPPED].last_us;
	if (c[USAGE_UNWRAPPED].last_us > t->last_unwrapped_us)
		t->last_unwrapped_us = c[USAGE_UNWRAPPED].last_us;
	if (c[USAGE_REFUSED].last_us > t->last_refused_us)
		t->last_refused_us = c[USAGE_REFUSED].last_us;
}

int
usage_version(struct usage *u, const struct uuid *version, struct usage_total *ret_total)
{
	struct usage_total total = { 0 };
	const struct version *v;
	bool read;

	pthread_mutex_lock(&u->lock);
	read = u->read;
	v = usage_find_version(u, version);
	for (const struct row *r = v ? v->rows : NULL; r; r = r->next_of_version)
		add_to_total(&total, r);
	pthread_mutex_unlock(&u->lock);
	if (!read)
		return KEKD_ESTARTING;
	*ret_total = total;
	return 0;
}

static bool
is_used(const struct row *r)
{
	for (size_t i = 0; i < USAGE_KINDS; i++)
		if (r->counts[i].count > 0)
			return true;
	return false;
}

static size_t
copy_rows(const struct usage *u, const struct version *v, struct usage_row *rows)
{
	size_t count = 0;

	for (const struct row *r = v ? v->rows : NULL; r; r = r->next_of_version) {
		if (!is_used(r))
			continue;
		if (rows) {
			struct usage_row *to = &rows[count];
			memcpy(to->node, u->members[r->key->node].name, sizeof(to->node));
			memcpy(to->client, r->client, sizeof(to->client));
			memcpy(to->counts, r->counts, sizeof(to->counts));
		}
		count++;
	}
	return count;
}

static int
by_client(const void *a, const void *b)
{
	const struct usage_row *x = a, *y = b;
	int order = strcmp(x->client, y->client);

	return order ? order : strcmp(x->node, y->node);
}

int
usage_rows(
	struct usage *u, const struct uuid *version, struct usage_row **ret_rows, size_t *ret_count)
{
	struct usage_row *rows = NULL;
	const struct version *v;
	size_t count = 0;
	int err;

	pthread_mutex_lock(&u->lock);
	err = u->read ? 0 : KEKD_ESTARTING;
	v = usage_find_version(u, version);
	if (!err) {
		rows = calloc(copy_rows(u, v, NULL) + 1, sizeof(*rows));
		err = rows ? 0 : -ENOMEM;
	}
	if (!err)
		count = copy_rows(u, v, rows);
	pthread_mutex_unlock(&u->lock);
	if (err)
		return err;
	qsort(rows, count, sizeof(*rows), by_client);
	*ret_rows = rows;
	*ret_count = count;
	return 0;
}

uint64_t
usage_incomplete_for(struct usage *u, uint64_t created_us)
{
	uint64_t since = 0;
	/* By a clock that was ahead: whether that was before the hole, nobody knows. */
	bool ahead = created_us > clock_real_us();

	pthread_mutex_lock(&u->lock);
	for (size_t i = 0; i < u->members_count; i++) {
		const struct span *span = &u->members[i].incomplete;
		if (span->since_us > 0 && (ahead || created_us <= span->until_us) &&
			(since == 0 || span->since_us < since))
			since = span->since_us;
	}
	pthread_mutex_unlock(&u->lock);
	return since;
}

uint64_t
usage_incomplete_us(struct usage *u)
{
	return usage_incomplete_for(u, 0);
}

static json_t *
row_evidence(const struct usage_row *row)
{
	json_t *j = json_pack("{s:s, s:s}", "client", row->client, "node", row->node);

	for (size_t i = 0; i < USAGE_KINDS; i++) {
		const struct usage_count *c = &row->counts[i];
		if (c->count > 0)
			json_object_set_new(j, usage_kind_names[i],
				json_pack("[I, I, I]", (json_int_t)c->count,
					(json_int_t)c->first_us, (json_int_t)c->last_us));
	}
	return j;
}

int
usage_evidence(struct usage *u, const struct uuid *version, uint64_t created_us,
	char ret_hex[USAGE_EVIDENCE_SIZE])
{
	uint8_t digest[SHA256_DIGEST_LENGTH];
	_cleanup_(str_freep) struct usage_row *rows = NULL;
	_cleanup_(json_freep) json_t *j = NULL;
	char id[UUID_TEXT_SIZE], *text;
	json_t *uses;
	size_t count = 0, len = 0;
	int err = usage_rows(u, version, &rows, &count);

	if (err)
		return err;
	uuid_format(version, id);
	uses = json_array();
	for (size_t i = 0; i < count; i++)
		json_array_append_new(uses, row_evidence(&rows[i]));
	j = json_pack("{s:s, s:I, s:o}", "id", id, "incomplete_since",
		(json_int_t)usage_incomplete_for(u, created_us), "uses", uses);
	text = j && json_array_size(uses) == count ? json_canonical(j, &len) : NULL;
	if (!text)
		return -ENOMEM;
	SHA256((const unsigned char *)text, len, digest);
	json_text_free(text);
	str_hex(digest, sizeof(digest), ret_hex);
	ret_hex[2 * sizeof(digest)] = '\0';
	return 0;
}

int
usage_node(struct usage *u, size_t i, struct usage_node *ret_node)
{
	int err = -ENOENT;

	pthread_mutex_lock(&u->lock);
	if (i < u->members_count) {
		const struct member *m = &u->members[i];
		memcpy(ret_node->name, m->name, sizeof(m->name));
		ret_node->time_us = i > 0 ? m->stored.time_us : 0;
		ret_node->incomplete_us = m->incomplete.since_us;
		err = 0;
	}
	pthread_mutex_unlock(&u->lock);
	return err;
}

/* Why this node's figures are not to be decided by; NULL: they are. */
static const char *
why_not_fresh(struct usage *u, const char *node, uint64_t now_us)
{
	const struct member *m = NULL;

	for (size_t i = 0; i < u->members_count; i++)
		if (strcmp(u->members[i].name, node) == 0)
			m = &u->members[i];
	if (m == u->members)
		return NULL;
	if (!m || (!m->bad && m->stored.time_us == 0))
		return "has told of none yet";
	if (!usage_is_whole(u, (size_t)(m - u->members)))
		return "has a record of it that is missing or cannot be used";
	if (m->stored.time_us + USAGE_AGE_MAX_US < now_us)
		return "has not told of any for more than three minutes";
	if (m->stored.time_us > now_us + USAGE_AGE_MAX_US)
		return "has a clock that is more than three minutes ahead of this node's";
	return NULL;
}

bool
usage_is_fresh(struct usage *u, const char (*nodes)[STR_NAME_MAX + 1], size_t count,
	uint64_t now_us, char ret_text[160])
{
	const char *why = NULL;

	pthread_mutex_lock(&u->lock);
	for (size_t i = 0; !why && i < count; i++) {
		why = why_not_fresh(u, nodes[i], now_us);
		if (why)
			snprintf(ret_text, 160, "node %s %s", nodes[i], why);
	}
	pthread_mutex_unlock(&u->lock);
	return !why;
}

void
usage_tell_always(struct usage *u)
{
	pthread_mutex_lock(&u->lock);
	u->tells_always = true;
	pthread_mutex_unlock(&u->lock);
}

void
usage_status(struct usage *u, struct usage_status *ret_status)
{
	pthread_mutex_lock(&u->lock);
	*ret_status = (struct usage_status){
		.reading = !u->read,
		.sequence = u->folded.sequence,
		.stored = u->members[0].stored.sequence,
		.stored_us = u->members[0].stored.time_us,
		.rows = u->rows.count,
		.changed = u->changed.count + u->round.left.count,
	};
	pthread_mutex_unlock(&u->lock);
	ret_status->incomplete_us = usage_incomplete_us(u);
}

/* ---- beginning and end ---- */

int
usage_open(const char *node, struct usage **ret_usage)
{
	struct usage *u = calloc(1, sizeof(*u));

	if (!u)
		return -ENOMEM;
	pthread_mutex_init(&u->lock, NULL);
	u->changed.last = &u->changed.first;
	u->round.left.last = &u->round.left.first;
	if (usage_find_member(u, node) != 0) {
		usage_freep(&u);
		return -ENOMEM;
	}
	*ret_usage = u;
	return 0;
}

void
usage_freep(struct usage **u)
{
	if (!*u)
		return;
	usage_reader_freep(&(*u)->reader);
	free_all(&(*u)->rows, next_of_row);
	free_all(&(*u)->versions, next_of_version);
	free_all(&(*u)->keys, next_of_key);
	free((*u)->members);
	pthread_mutex_destroy(&(*u)->lock);
	free(*u);
	*u = NULL;
}
