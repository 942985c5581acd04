/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The watcher's thread: reads all keys of etcd, compares them with what it knows, fetches what
 * differs, then follows the watch from there. Every end of the stream begins that anew, so that a
 * reconnect, a compaction and a restored etcd are one case. What it finds goes into the queue;
 * nothing is judged here.
 */
#include "etcd_engine.h"

#include "kekd/clock.h"
#include "kekd/err.h"
#include "kekd/log.h"

#include <errno.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PAUSE_MIN_NS (200 * CLOCK_MS)
#define PAUSE_MAX_NS (2 * CLOCK_S)
#define RANGE_BYTES ((size_t)4 << 20)
#define RANGE_MAX ((size_t)1000)
#define FULL_PAUSE_NS (60 * CLOCK_S)
#define STREAM_GOOD_NS (5 * CLOCK_S) /* a stream that lasted so long was no failure */

/* ---- batches ---- */

struct batch *
etcd_batch_new(uint64_t position)
{
	struct batch *b = calloc(1, sizeof(*b));

	if (b)
		b->position = position;
	return b;
}

void
etcd_batch_free(struct batch *b)
{
	if (!b)
		return;
	for (size_t i = 0; i < b->count; i++)
		etcd_news_free(b->items[i]);
	free(b->items);
	free(b);
}

int
etcd_batch_add(struct batch *b, struct news *n)
{
	if (n && b->count == b->cap) {
		size_t cap = b->cap ? 2 * b->cap : 16;
		struct news **items = reallocarray(b->items, cap, sizeof(struct news *));
		if (!items) {
			etcd_news_free(n);
			return -ENOMEM;
		}
		b->items = items;
		b->cap = cap;
	}
	if (!n)
		return -ENOMEM;
	b->items[b->count++] = n;
	return 0;
}

/* ---- how much there is room for ---- */

size_t
etcd_news_size(const struct news *n)
{
	return n->len + sizeof(*n) + 100;
}

size_t
etcd_batch_size(const struct batch *b)
{
	size_t bytes = sizeof(*b);

	for (size_t i = 0; i < b->count; i++)
		bytes += b->items[i] ? etcd_news_size(b->items[i]) : 0;
	return bytes;
}

void
etcd_set_room(struct etcd_store *e, size_t bytes)
{
	pthread_mutex_lock(&e->lock);
	e->room = bytes;
	pthread_mutex_unlock(&e->lock);
}

static bool
has_room(struct etcd_store *e, size_t bytes)
{
	bool room;

	pthread_mutex_lock(&e->lock);
	room = e->unsettled + bytes <= e->room;
	pthread_mutex_unlock(&e->lock);
	return room;
}

static int
is_full(struct etcd_store *e)
{
	etcd_note_failure(e,
		"etcd has more that this node cannot accept than it has room for: "
		"remove what is not kekd's from under /kekd/CLUSTER/, then restart kekd");
	return KEKD_ETOOLARGE;
}

/* ---- the queue ---- */

/* With the lock. */
static void
forget_own(struct etcd_store *e, uint64_t position)
{
	size_t n = 0;

	for (size_t i = 0; e->own && i < e->own->count; i++)
		if (e->own->items[i]->revision <= position)
			etcd_news_free(e->own->items[i]);
		else
			e->own->items[n++] = e->own->items[i];
	if (e->own)
		e->own->count = n;
}

void
etcd_queue_locked(struct etcd_store *e, struct batch *b)
{
	if (b->watched) {
		e->keys = b->keys;
		forget_own(e, b->anew ? UINT64_MAX : b->position);
	}
	if (b->position > e->position || b->anew)
		e->position = b->position;
	if (b->position > e->highest || b->anew)
		e->highest = b->position;
	e->unsettled += etcd_batch_size(b);
	*e->last = b;
	e->last = &b->next;
	pthread_cond_broadcast(&e->changed);
}

void
etcd_queue(struct etcd_store *e, struct batch *b)
{
	bool news = b->count > 0 || b->anew;

	pthread_mutex_lock(&e->lock);
	etcd_queue_locked(e, b);
	pthread_mutex_unlock(&e->lock);
	if (news && e->wake)
		e->wake(e->user);
}

/* ---- what the watcher knows ---- */

static void
seen_free(void *item)
{
	struct seen_key *k = item;

	if (k)
		free(k->path);
	free(k);
}

/* Takes path over. */
static struct seen_key *
seen_new(char *path, uint64_t revision)
{
	struct seen_key *k = path ? calloc(1, sizeof(*k)) : NULL;

	if (!k) {
		free(path);
		return NULL;
	}
	k->path = path;
	k->revision = revision;
	return k;
}

static int
seen_add(struct pathmap *m, struct seen_key *k)
{
	int err = k ? pathmap_add(m, k) : -ENOMEM;

	if (err < 0)
		seen_free(k);
	return err;
}

static void
hash(struct seen_key *k, const char *body, size_t len)
{
	SHA256((const unsigned char *)body, len, k->sha256);
}

static int
begin_page(struct etcd_store *e, const struct store_page *p)
{
	int err = 0;

	for (size_t i = 0; err == 0 && i < p->count; i++) {
		const struct store_record *r = &p->records[i];
		struct seen_key *k = seen_new(strdup(r->path), r->revision);
		if (k)
			hash(k, r->body, r->len);
		err = seen_add(&e->view, k);
	}
	return err;
}

int
etcd_watch_begin(struct etcd_store *e)
{
	char after[STORE_PATH_MAX + 1] = "";
	bool more = true;
	int err = 0;

	while (err == 0 && more) {
		struct store_page p = { 0 };
		err = sqlite_list(e->replica.db, "", *after ? after : NULL, STORE_PAGE_MAX, &p);
		if (err == 0)
			err = begin_page(e, &p);
		if (err == 0 && p.count > 0)
			strcpy(after, p.records[p.count - 1].path);
		more = p.more;
		store_page_free(&p);
	}
	return err < 0 ? KEKD_ESTORE : 0;
}

void
etcd_watch_end(struct etcd_store *e)
{
	pathmap_clear(&e->view, seen_free);
}

/* ---- own commits ---- */

/* Without bodies: len says whether it is there. Without memory a deletion by others that comes
 * before the watch has told of this is found only at the next start. */
void
etcd_note_own(struct etcd_store *e, const struct replica_change *changes, size_t count)
{
	pthread_mutex_lock(&e->lock);
	if (!e->own)
		e->own = etcd_batch_new(0);
	for (size_t i = 0; e->own && i < count; i++)
		if (changes[i].revision > e->position) {
			struct news *n = etcd_news_of(
				changes[i].path, changes[i].revision, NULL, 0);
			if (n)
				n->len = changes[i].body != NULL;
			etcd_batch_add(e->own, n);
		}
	pthread_mutex_unlock(&e->lock);
}

static void
merge_one(struct etcd_store *e, struct news *n)
{
	const struct seen_key *k = pathmap_find(&e->view, n->path);

	if (k && k->revision >= n->revision)
		return;
	seen_free(pathmap_remove(&e->view, n->path));
	if (n->len > 0)
		seen_add(&e->view, seen_new(strdup(n->path), n->revision));
}

/* Before the view is compared. */
static void
merge_own(struct etcd_store *e)
{
	struct batch *own;

	pthread_mutex_lock(&e->lock);
	own = e->own;
	e->own = NULL;
	pthread_mutex_unlock(&e->lock);
	for (size_t i = 0; own && i < own->count; i++)
		merge_one(e, own->items[i]);
	etcd_batch_free(own);
}

/* ---- the full compare ---- */

struct compare {
	struct etcd_store *e;
	struct pathmap now; /* seen_key */
	struct batch *batch;
	uint64_t revision, term, sent_ns;
	char cluster_id[32];
	size_t bytes; /* of batch */
	bool deep;
	bool other; /* another history: a record of one revision has two contents */
};

static void
take_header(struct compare *c, const json_t *reply)
{
	const json_t *header = etcd_header(reply);

	c->revision = etcd_u64(header, "revision");
	c->term = etcd_u64(header, "raft_term");
	snprintf(c->cluster_id, sizeof(c->cluster_id), "%llx",
		(unsigned long long)etcd_u64(header, "cluster_id"));
}

/* *ret_last: the last key, to go on after; NULL: that was all. */
static int
take_keys(struct compare *c, const json_t *reply, char **ret_last)
{
	const json_t *kvs = json_object_get(reply, "kvs"), *kv;
	size_t i;
	int err = 0;

	free(*ret_last);
	*ret_last = NULL;
	json_array_foreach(kvs, i, kv) {
		char *name = etcd_name_of(c->e->watch, json_object_get(kv, "key"));
		err = seen_add(&c->now, seen_new(name, etcd_u64(kv, "mod_revision")));
		if (err < 0)
			return KEKD_ESTORE;
	}
	kv = json_array_get(kvs, json_array_size(kvs) - 1);
	if (kv && json_is_true(json_object_get(reply, "more"))) {
		*ret_last = strdup(json_string_value(json_object_get(kv, "key")));
		err = *ret_last ? 0 : KEKD_ESTORE;
	}
	return err;
}

static int
list_keys(struct compare *c)
{
	char *last = NULL;
	uint64_t sent_ns = 0;
	int err;

	do {
		json_t *reply = NULL;
		err = etcd_read_keys(c->e, c->e->watch, last, c->revision, &reply, &sent_ns);
		if (err == 0 && c->revision == 0) {
			take_header(c, reply);
			c->sent_ns = sent_ns;
		}
		if (err == 0)
			err = take_keys(c, reply, &last);
		json_decref(reply);
	} while (err == 0 && last);
	free(last);
	return err;
}

/* Of own commits that the watch has not told of yet the revision alone is known. */
static bool
is_hashed(const struct seen_key *k)
{
	static const uint8_t none[sizeof(k->sha256)];

	return memcmp(k->sha256, none, sizeof(none)) != 0;
}

static bool
is_same(const struct seen_key *a, const struct seen_key *b)
{
	return memcmp(a->sha256, b->sha256, sizeof(a->sha256)) == 0;
}

static int
take_value(struct compare *c, struct seen_key *k, const json_t *kv)
{
	const struct seen_key *before = pathmap_find(&c->e->view, k->path);
	struct news *n = kv ? etcd_news(strdup(k->path), kv) : NULL;

	if (!n)
		return KEKD_ESTORE;
	hash(k, n->body, n->len);
	if (before && before->revision == k->revision && is_same(before, k)) {
		etcd_news_free(n);
		return 0;
	}
	c->other |= before && before->revision == k->revision && is_hashed(before);
	c->bytes += etcd_news_size(n);
	if (!has_room(c->e, c->bytes)) {
		etcd_news_free(n);
		return is_full(c->e);
	}
	return etcd_batch_add(c->batch, n);
}

static int
fetch(struct compare *c, struct seen_key **keys, size_t count)
{
	const char *paths[ETCD_FETCH_MAX];
	json_t *reply = NULL;
	int err;

	for (size_t i = 0; i < count; i++)
		paths[i] = keys[i]->path;
	err = count ? etcd_read_values(c->e, c->e->watch, paths, count, c->revision, &reply) : 0;
	for (size_t i = 0; err == 0 && i < count; i++)
		err = take_value(c, keys[i], json_array_get(etcd_kvs(reply, i), 0));
	json_decref(reply);
	return err;
}

static int
fetch_changed(struct compare *c)
{
	struct seen_key *keys[ETCD_FETCH_MAX];
	size_t n = 0;
	int err = 0;

	for (size_t i = 0; err == 0 && i < c->now.count; i++) {
		struct seen_key *k = c->now.items[i];
		const struct seen_key *before = pathmap_find(&c->e->view, k->path);
		if (!etcd_is_record(k->path))
			continue;
		if (before && before->revision == k->revision) {
			memcpy(k->sha256, before->sha256, sizeof(k->sha256));
			continue;
		}
		keys[n++] = k;
		if (n == ETCD_FETCH_MAX) {
			err = fetch(c, keys, n);
			n = 0;
		}
	}
	return err < 0 ? err : fetch(c, keys, n);
}

/* ---- all values ---- */

/* Of what lies between the two: names that are none of records are passed over. */
static int
take_range(struct compare *c, const json_t *kvs, size_t *ret_bytes)
{
	const json_t *kv;
	size_t i;
	int err = 0;

	json_array_foreach(kvs, i, kv) {
		char *name = etcd_name_of(c->e->watch, json_object_get(kv, "key"));
		struct seen_key *k = name ? pathmap_find(&c->now, name) : NULL;
		if (!name)
			return KEKD_ESTORE;
		if (k && etcd_is_record(name))
			err = take_value(c, k, kv);
		free(name);
		if (err < 0)
			return err;
		*ret_bytes += json_string_length(json_object_get(kv, "value"));
	}
	return 0;
}

static int
fetch_range(struct compare *c, size_t from, size_t to, size_t *ret_bytes)
{
	const struct seen_key *first = c->now.items[from], *last = c->now.items[to - 1];
	json_t *reply = NULL;
	int err = etcd_read_range(c->e, c->e->watch, first->path, last->path, c->revision, &reply);

	if (err == 0)
		err = take_range(c, json_object_get(reply, "kvs"), ret_bytes);
	json_decref(reply);
	return err;
}

/* As many at once as make a few MiB, going by those before. */
static int
fetch_all(struct compare *c)
{
	size_t from = 0, step = ETCD_FETCH_MAX, bytes = 0, to;
	int err = 0;

	/* Keys of others sort first here, and anywhere in etcd: they come along. */
	while (from < c->now.count &&
		!etcd_is_record(((struct seen_key *)c->now.items[from])->path))
		from++;
	for (; err == 0 && from < c->now.count; from = to) {
		to = from + step < c->now.count ? from + step : c->now.count;
		err = fetch_range(c, from, to, &bytes);
		step = bytes > 0 ? RANGE_BYTES / (bytes / to + 1) : RANGE_MAX;
		step = step > RANGE_MAX ? RANGE_MAX : step < ETCD_FETCH_MAX ? ETCD_FETCH_MAX : step;
	}
	return err;
}

static int
find_deleted(struct compare *c)
{
	int err = 0;

	for (size_t i = 0; err == 0 && i < c->e->view.count; i++) {
		const struct seen_key *k = c->e->view.items[i];
		if (etcd_is_record(k->path) && !pathmap_find(&c->now, k->path))
			err = etcd_batch_add(c->batch, etcd_news_of(k->path, c->revision, NULL, 0));
	}
	return err;
}

/* What leases and heartbeats write makes up for lost revisions soon, but not a key's own. */
static bool
went_back(const struct compare *c)
{
	for (size_t i = 0; i < c->now.count; i++) {
		const struct seen_key *k = c->now.items[i];
		const struct seen_key *before = pathmap_find(&c->e->view, k->path);
		if (before && k->revision < before->revision)
			return true;
	}
	return false;
}

/* A restored etcd goes back, in its revisions or its terms, or has another id. */
static bool
is_another_history(struct compare *c, uint64_t floor, uint64_t term)
{
	struct etcd_store *e = c->e;

	return *e->cluster_id && (c->revision < floor || c->term < term ||
					 strcmp(c->cluster_id, e->cluster_id) != 0 || went_back(c));
}

/* Takes the batch. */
static void
adopt_history(struct compare *c, bool anew)
{
	struct etcd_store *e = c->e;
	bool news = c->batch->count > 0 || anew;

	pthread_mutex_lock(&e->lock);
	if (anew)
		log_warning("etcd has another history: revision %llu of cluster %s, after %llu of "
			    "cluster %s: was it restored?",
			(unsigned long long)c->revision, c->cluster_id,
			(unsigned long long)e->highest, e->cluster_id);
	if (anew)
		e->look.revision = 0;
	strcpy(e->cluster_id, c->cluster_id);
	e->raft_term = c->term;
	e->synced = true;
	e->full_reads++;
	c->batch->watched = true;
	c->batch->keys = c->now.count;
	etcd_queue_locked(e, c->batch);
	c->batch = NULL;
	etcd_set_look(e, c->revision, c->sent_ns);
	pthread_mutex_unlock(&e->lock);
	if (news && e->wake)
		e->wake(e->user);
}

static int
compare(struct compare *c)
{
	uint64_t floor, term;
	bool anew, first;
	int err;

	pthread_mutex_lock(&c->e->lock);
	floor = c->e->highest;
	term = c->e->raft_term;
	first = !c->e->synced;
	pthread_mutex_unlock(&c->e->lock);
	err = list_keys(c);
	if (err < 0)
		return err;
	anew = is_another_history(c, floor, term);
	c->deep = c->deep || anew;
	c->batch = etcd_batch_new(c->revision);
	if (!c->batch)
		return KEKD_ESTORE;
	/* What the replica is an image of may be another history, too, whatever its revisions. */
	c->batch->anew = anew || first;
	err = c->deep ? fetch_all(c) : fetch_changed(c);
	if (err == 0)
		err = find_deleted(c);
	if (err < 0)
		return err;
	c->batch->anew |= c->other;
	adopt_history(c, anew || (c->other && !first));
	pathmap_clear(&c->e->view, seen_free);
	c->e->view = c->now;
	c->now = (struct pathmap){ 0 };
	return 0;
}

static int
compare_all(struct etcd_store *e, bool deep)
{
	struct compare c = { .e = e, .deep = deep };
	int err;

	merge_own(e);
	err = compare(&c);

	pathmap_clear(&c.now, seen_free);
	etcd_batch_free(c.batch);
	return err;
}

/* ---- following ---- */

/* The view after this event; *ret_news NULL: it is no record. */
static int
take_event(struct etcd_store *e, const json_t *event, struct news **ret_news)
{
	const json_t *kv = json_object_get(event, "kv");
	const char *type = json_string_value(json_object_get(event, "type"));
	bool gone = type && strcmp(type, "DELETE") == 0;
	char *name = etcd_name_of(e->watch, json_object_get(kv, "key"));
	struct seen_key *k = seen_new(name, etcd_u64(kv, "mod_revision"));
	struct news *n = NULL;

	*ret_news = NULL;
	if (!k)
		return KEKD_ESTORE;
	seen_free(pathmap_remove(&e->view, k->path));
	if (etcd_is_record(k->path)) {
		n = gone ? etcd_news_of(k->path, k->revision, NULL, 0)
			 : etcd_news(strdup(k->path), kv);
		if (n && !gone)
			hash(k, n->body, n->len);
		if (!n) {
			seen_free(k);
			return KEKD_ESTORE;
		}
	}
	*ret_news = n;
	if (!gone)
		return seen_add(&e->view, k);
	seen_free(k);
	return 0;
}

static int
take_events(struct etcd_store *e, const json_t *events)
{
	struct batch *b = etcd_batch_new(0);
	const json_t *event;
	size_t i;
	int err = b ? 0 : KEKD_ESTORE;

	json_array_foreach(events, i, event) {
		uint64_t revision = etcd_u64(json_object_get(event, "kv"), "mod_revision");
		struct news *n = NULL;
		if (err == 0)
			err = take_event(e, event, &n);
		if (err == 0 && n)
			err = etcd_batch_add(b, n);
		if (err == 0 && revision > b->position)
			b->position = revision;
	}
	if (err < 0) {
		etcd_batch_free(b);
		pthread_mutex_lock(&e->lock);
		e->want_deep = true; /* the view may be ahead of what was queued */
		pthread_mutex_unlock(&e->lock);
		return KEKD_ESTORE;
	}
	b->watched = true;
	b->keys = e->view.count;
	etcd_queue(e, b);
	return 0;
}

static int
take_message(const json_t *message, void *user)
{
	const json_t *result = json_object_get(message, "result");
	const json_t *events = json_object_get(result, "events");

	if (!result || json_is_true(json_object_get(result, "canceled")))
		return KEKD_ECOMPACTED;
	if (json_array_size(events) == 0)
		return 0;
	return has_room(user, 0) ? take_events(user, events) : is_full(user);
}

static int
follow(struct etcd_store *e)
{
	uint64_t position;
	json_t *body;
	int err;

	pthread_mutex_lock(&e->lock);
	position = e->position;
	pthread_mutex_unlock(&e->lock);
	body = json_pack("{s:{s:o,s:o,s:o}}", "create_request", "key", etcd_key(e->watch, ""),
		"range_end", etcd_key_end(e->watch, ""), "start_revision",
		etcd_number(position + 1));
	if (!body)
		return KEKD_ESTORE;
	err = etcd_stream(e->watch, "watch", body, 0, &e->stop_stream, take_message, e);
	json_decref(body);
	return err;
}

/* ---- the thread ---- */

void
etcd_want_compare(struct etcd_store *e, bool deep)
{
	e->want_deep = e->want_deep || deep;
	atomic_store(&e->stop_stream, true);
	pthread_cond_broadcast(&e->changed);
}

/* False: closing. */
static bool
begin_round(struct etcd_store *e, bool *ret_deep)
{
	bool closing;

	pthread_mutex_lock(&e->lock);
	closing = e->closing;
	*ret_deep = e->want_deep || !e->synced;
	e->want_deep = false;
	atomic_store(&e->stop_stream, closing);
	pthread_mutex_unlock(&e->lock);
	return !closing;
}

static void
pause_round(struct etcd_store *e, uint64_t pause_ns)
{
	uint64_t until = clock_monotonic_ns() + pause_ns;

	pthread_mutex_lock(&e->lock);
	while (!e->closing && clock_monotonic_ns() < until)
		etcd_wait(e, until);
	pthread_mutex_unlock(&e->lock);
}

static void
count_end(struct etcd_store *e)
{
	pthread_mutex_lock(&e->lock);
	e->reconnects++;
	pthread_mutex_unlock(&e->lock);
}

void *
etcd_watch_run(void *store)
{
	struct etcd_store *e = store;
	uint64_t pause_ns = PAUSE_MIN_NS;
	bool deep;

	while (begin_round(e, &deep)) {
		uint64_t start_ns = clock_monotonic_ns();
		int err = compare_all(e, deep);
		if (err == 0) {
			err = follow(e);
			count_end(e);
		} else { /* away: who knows what was put back meanwhile */
			pthread_mutex_lock(&e->lock);
			e->want_deep = true;
			pthread_mutex_unlock(&e->lock);
		}
		if (err == 0 || clock_monotonic_ns() - start_ns > STREAM_GOOD_NS)
			pause_ns = PAUSE_MIN_NS;
		if (err < 0)
			pause_round(e, err == KEKD_ETOOLARGE ? FULL_PAUSE_NS : pause_ns);
		pause_ns = err < 0 && 2 * pause_ns < PAUSE_MAX_NS ? 2 * pause_ns
			   : err < 0				  ? PAUSE_MAX_NS
								  : PAUSE_MIN_NS;
	}
	return NULL;
}
