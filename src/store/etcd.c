/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The etcd engine, as the control thread sees it: reads are answered from memory and from the local
 * replica, never from the network. What etcd has and nobody has judged yet, or what was refused, is
 * kept in the overlay and answered; the replica stays the last good image.
 */
#include "etcd_engine.h"

#include "kekd/clock.h"
#include "kekd/err.h"
#include "kekd/log.h"
#include "kekd/str.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MARKS_EVERY_NS (60 * CLOCK_S)
#define RESOLVE_EVERY_NS (5 * CLOCK_S)
#define RESOLVE_NS (1 * CLOCK_S)

bool
store_is_etcd(const struct store *s)
{
	return s && strcmp(s->engine->name, "etcd") == 0;
}

/* ---- reading ---- */

static int
copy_news(const struct news *n, struct store_record *ret_record)
{
	const struct row r = { n->path, n->revision, n->body, n->len };

	return sqlite_row_copy(&r, ret_record) < 0 ? KEKD_ESTORE : 0;
}

int
etcd_overlay_put(struct etcd_store *e, struct news *n)
{
	if (pathmap_reserve(&e->overlay, 1) < 0)
		return -ENOMEM;
	etcd_news_free(pathmap_remove(&e->overlay, n->path));
	pathmap_add(&e->overlay, n);
	if (n->revision > e->revision)
		e->revision = n->revision;
	return 0;
}

int
etcd_known_revision(struct etcd_store *e, const char *path, uint64_t *ret_revision)
{
	const struct news *n = pathmap_find(&e->overlay, path);

	if (!n)
		n = pathmap_find(&e->deleted, path);
	if (!n)
		return replica_revision(&e->replica, path, ret_revision);
	*ret_revision = n->revision;
	return 0;
}

static int resolve(struct etcd_store *e);

static int
engine_get(struct store *s, const char *path, struct store_record *ret_record)
{
	struct etcd_store *e = etcd_of(s);
	const struct news *n;
	int err = 0;

	if (pathmap_find(&e->uncertain, path))
		err = resolve(e);
	if (err < 0)
		return err;
	n = pathmap_find(&e->overlay, path);
	if (n)
		return n->body ? copy_news(n, ret_record) : -ENOENT;
	return sqlite_get(e->replica.db, path, ret_record);
}

/* ---- listing: two sorted sequences, the overlay's word counts ---- */

struct merge {
	struct etcd_store *e;
	const char *prefix;
	struct store_page base;
	size_t at;   /* in base */
	size_t over; /* in the overlay */
	char after[STORE_PATH_MAX + 1];
};

static size_t
overlay_place(const struct etcd_store *e, const char *prefix, const char *after)
{
	size_t i = 0;

	while (i < e->overlay.count) {
		const struct news *n = e->overlay.items[i];
		if (strcmp(n->path, prefix) >= 0 && (!after || strcmp(n->path, after) > 0))
			break;
		i++;
	}
	return i;
}

/* The replica's next record, or NULL. */
static int
next_base(struct merge *m, struct store_record **ret_record)
{
	struct store_page p = { 0 };
	int err;

	*ret_record = NULL;
	if (m->at == m->base.count && m->base.more) {
		err = sqlite_list(m->e->replica.db, m->prefix, m->after, STORE_PAGE_MAX, &p);
		if (err < 0)
			return err;
		store_page_free(&m->base);
		m->base = p;
		m->at = 0;
	}
	if (m->at < m->base.count)
		*ret_record = &m->base.records[m->at];
	return 0;
}

static const struct news *
next_over(struct merge *m)
{
	const struct news *n = m->over < m->e->overlay.count ? m->e->overlay.items[m->over] : NULL;

	return n && strncmp(n->path, m->prefix, strlen(m->prefix)) == 0 ? n : NULL;
}

/* 1 with a record, 0 at the end, or negative. */
static int
merge_next(struct merge *m, struct store_record *ret_record)
{
	struct store_record *base;
	const struct news *n;
	int err, order;

	for (;;) {
		err = next_base(m, &base);
		if (err < 0)
			return err;
		n = next_over(m);
		if (!base && !n)
			return 0;
		order = !n ? -1 : !base ? 1 : strcmp(base->path, n->path);
		if (order <= 0) {
			strcpy(m->after, base->path);
			m->at++;
		}
		if (order < 0) {
			*ret_record = *base;
			*base = (struct store_record){ 0 };
			return 1;
		}
		m->over++;
		if (n->body)
			return copy_news(n, ret_record) < 0 ? KEKD_ESTORE : 1;
	}
}

static int
merge_page(struct merge *m, size_t limit, struct store_page *p)
{
	struct store_record r = { 0 };
	int more = 1;

	p->records = calloc(limit, sizeof(*p->records));
	if (!p->records)
		return KEKD_ESTORE;
	while (p->count < limit && (more = merge_next(m, &r)) == 1)
		p->records[p->count++] = r;
	if (p->count == limit && more == 1) {
		more = merge_next(m, &r);
		if (more == 1)
			store_record_free(&r);
		p->more = more == 1;
	}
	return more < 0 ? more : 0;
}

static int
engine_list(struct store *s, const char *prefix, const char *after, size_t limit,
	struct store_page *ret_page)
{
	struct etcd_store *e = etcd_of(s);
	struct merge m = { .e = e, .prefix = prefix };
	struct store_page p = { 0 };
	int err;

	if (limit == 0 || limit > STORE_PAGE_MAX)
		limit = STORE_PAGE_MAX;
	err = sqlite_list(e->replica.db, prefix, after, limit, &m.base);
	if (err < 0)
		return err;
	m.over = overlay_place(e, prefix, after);
	if (next_over(&m)) {
		err = merge_page(&m, limit, &p);
	} else {
		p = m.base;
		m.base = (struct store_page){ 0 };
	}
	store_page_free(&m.base);
	if (err < 0) {
		store_page_free(&p);
		return err;
	}
	p.revision = e->revision;
	*ret_page = p;
	return 0;
}

/* ---- what others have changed ---- */

static struct batch *
take_queue(struct etcd_store *e)
{
	struct batch *b;

	pthread_mutex_lock(&e->lock);
	b = e->first;
	e->first = NULL;
	e->last = &e->first;
	pthread_mutex_unlock(&e->lock);
	return b;
}

/* Own commits are known already, and what a commit's refusal told. */
static int
is_known(struct etcd_store *e, const struct batch *b, const struct news *n, bool *ret_known)
{
	uint64_t known = 0;
	int err = etcd_known_revision(e, n->path, &known);

	*ret_known = (known == 0 && !n->body) || (!b->anew && known >= n->revision);
	return err;
}

/* 1 or 0: n is taken over. Negative: not. */
static int
take_news(
	struct etcd_store *e, const struct batch *b, struct news *n, store_watch_fn *fn, void *user)
{
	struct store_record change = { .path = n->path, .revision = n->revision, .len = n->len };
	bool known = false;
	int err = is_known(e, b, n, &known);

	if (err < 0)
		return err;
	if (known) {
		etcd_news_free(n);
		return 0;
	}
	if (etcd_overlay_put(e, n) < 0)
		return KEKD_ESTORE;
	etcd_news_free(pathmap_remove(&e->uncertain, n->path));
	change.body = n->body;
	if (fn)
		fn(&change, user);
	return 1;
}

static void
forget_deleted(struct etcd_store *e, const struct batch *b)
{
	for (size_t i = e->deleted.count; i-- > 0;) {
		struct news *n = e->deleted.items[i];
		if (b->anew || n->revision <= b->position)
			etcd_news_free(pathmap_remove(&e->deleted, n->path));
	}
}

static int
take_batch(struct etcd_store *e, struct batch *b, store_watch_fn *fn, void *user)
{
	int changes = 0;

	if (b->anew)
		e->revision = e->taken = e->compact_revision = 0;
	for (size_t i = 0; i < b->count; i++) {
		int n = b->items[i] ? take_news(e, b, b->items[i], fn, user) : 0;
		if (n < 0)
			return n;
		b->items[i] = NULL;
		changes += n;
	}
	forget_deleted(e, b);
	if (b->position > e->taken)
		e->taken = b->position;
	if (b->position > e->revision)
		e->revision = b->position;
	return changes;
}

static void
publish_pending(struct etcd_store *e)
{
	size_t bytes = 0;

	for (size_t i = 0; i < e->overlay.count; i++)
		bytes += etcd_news_size(e->overlay.items[i]);
	pthread_mutex_lock(&e->lock);
	e->pending = e->overlay.count;
	for (const struct batch *b = e->first; b; b = b->next)
		bytes += etcd_batch_size(b);
	e->unsettled = bytes;
	pthread_cond_broadcast(&e->changed);
	pthread_mutex_unlock(&e->lock);
}

/* What could not be taken is for the next poll. */
static void
put_back(struct etcd_store *e, struct batch *rest)
{
	struct batch *end = rest;

	while (end->next)
		end = end->next;
	pthread_mutex_lock(&e->lock);
	end->next = e->first;
	if (!e->first)
		e->last = &end->next;
	e->first = rest;
	pthread_mutex_unlock(&e->lock);
}

/* What is queued goes into the overlay. The number of changes, or negative. */
static int
take_all(struct etcd_store *e, store_watch_fn *fn, void *user)
{
	struct batch *b = take_queue(e), *next;
	int changes = 0, n = 0;

	for (; b && n >= 0; b = next) {
		n = take_batch(e, b, fn, user);
		if (n < 0)
			break;
		changes += n;
		next = b->next;
		etcd_batch_free(b);
	}
	if (b)
		put_back(e, b);
	publish_pending(e);
	return n < 0 ? n : changes;
}

/* What get took in out of turn. What has left the overlay since is known to whoever asks. */
static int
tell_untold(struct etcd_store *e, store_watch_fn *fn, void *user)
{
	int changes = 0;

	for (size_t i = 0; i < e->untold.count; i++) {
		const char *path = ((const struct news *)e->untold.items[i])->path;
		const struct news *n = pathmap_find(&e->overlay, path);
		struct store_record change = { 0 };
		if (!n)
			continue;
		change = (struct store_record){ n->path, n->revision, n->body, n->len };
		if (fn)
			fn(&change, user);
		changes++;
	}
	pathmap_clear(&e->untold, etcd_news_free);
	return changes;
}

static int
engine_poll(struct store *s, store_watch_fn *fn, void *user)
{
	struct etcd_store *e = etcd_of(s);
	int before = tell_untold(e, fn, user), n = take_all(e, fn, user);

	return n < 0 ? n : before + n;
}

/* ---- what a commit may have written ---- */

static void
remember(const struct store_record *change, void *user)
{
	struct etcd_store *e = user;
	struct news *n;

	if (pathmap_find(&e->untold, change->path))
		return;
	n = etcd_news_of(change->path, change->revision, NULL, 0);
	if (n && pathmap_add(&e->untold, n) == 0)
		return;
	etcd_news_free(n);
	log_error("no memory to take note of a change to %s: restart kekd", change->path);
}

/* Not every second a time-out long, unless another thread has reached etcd since. */
static bool
may_ask(struct etcd_store *e)
{
	bool reachable;

	pthread_mutex_lock(&e->lock);
	reachable = e->reachable;
	pthread_mutex_unlock(&e->lock);
	return reachable || clock_boot_ns() >= e->resolve_after_ns;
}

/* Only etcd can tell the outcome. Whole revisions of it are taken in, as the watch has them: one
 * record of a commit alone, or one from before and one from after it, is no state of the store. */
static int
resolve(struct etcd_store *e)
{
	int err;

	if (!may_ask(e))
		return KEKD_ESTORE;
	err = etcd_look(e, e->calls, RESOLVE_NS);
	if (err < 0) {
		e->resolve_after_ns = clock_boot_ns() + RESOLVE_EVERY_NS;
		return err;
	}
	err = take_all(e, remember, e);
	if (err >= 0)
		pathmap_clear(&e->uncertain, etcd_news_free);
	return err < 0 ? err : 0;
}

/* ---- what was judged ---- */

/* What the replica is to say of itself once it has all that was taken. */
void
etcd_mark_image(struct etcd_store *e)
{
	pthread_mutex_lock(&e->lock);
	if (!*e->image_id)
		strcpy(e->image_id, e->cluster_id);
	strcpy(e->replica.of, e->image_id);
	pthread_mutex_unlock(&e->lock);
	e->replica.position = e->taken;
}

static void
update_marks(struct etcd_store *e, bool whole)
{
	uint64_t now = clock_boot_ns(), us = clock_real_us();

	etcd_mark_image(e);
	pthread_mutex_lock(&e->lock);
	e->held = !whole;
	if (whole && e->look.revision > 0 && e->look.revision <= e->taken) {
		e->synced_ns = e->look.sent_ns;
		e->look.revision = 0;
	}
	if (e->synced_ns > 0 && us > (now - e->synced_ns) / 1000)
		e->replica.synced_us = us - (now - e->synced_ns) / 1000;
	pthread_mutex_unlock(&e->lock);
}

static int
write_good(struct etcd_store *e, store_good_fn *good, void *user, size_t *ret_count)
{
	struct replica_change *changes = calloc(e->overlay.count + 1, sizeof(*changes));
	size_t n = 0;
	int err;

	if (!changes)
		return KEKD_ESTORE;
	for (size_t i = 0; i < e->overlay.count; i++) {
		const struct news *o = e->overlay.items[i];
		if (good(o->path, o->body ? o->revision : 0, user))
			changes[n++] = (struct replica_change){ o->path, o->revision, o->body,
				o->len };
	}
	err = n > 0 || clock_boot_ns() - e->marked_ns >= MARKS_EVERY_NS
		      ? replica_write(&e->replica, changes, n)
		      : 0;
	if (err == 0 && (n > 0 || clock_boot_ns() - e->marked_ns >= MARKS_EVERY_NS))
		e->marked_ns = clock_boot_ns();
	for (size_t i = 0; err == 0 && i < n; i++)
		etcd_news_free(pathmap_remove(&e->overlay, changes[i].path));
	free(changes);
	*ret_count = n;
	return err;
}

static int
engine_settled(struct store *s, bool whole, store_good_fn *good, void *user)
{
	struct etcd_store *e = etcd_of(s);
	size_t count = 0;
	int err;

	update_marks(e, whole);
	err = write_good(e, good, user, &count);
	publish_pending(e);
	return err;
}

static int
engine_identity(struct store *s, char ret_text[64])
{
	struct etcd_store *e = etcd_of(s);

	pthread_mutex_lock(&e->lock);
	snprintf(ret_text, 64, "etcd:%s", *e->cluster_id ? e->cluster_id : e->image_id);
	pthread_mutex_unlock(&e->lock);
	return 0;
}

static int
engine_image(struct store *s, const char *path, struct store_record *ret_record)
{
	return sqlite_get(etcd_of(s)->replica.db, path, ret_record);
}

static bool
engine_foreign(struct store *s)
{
	struct store_etcd_status status;

	store_etcd_status(s, &status);
	return status.foreign;
}

static int
engine_adopt(struct store *s)
{
	struct etcd_store *e = etcd_of(s);

	pthread_mutex_lock(&e->lock);
	strcpy(e->image_id, e->cluster_id);
	strcpy(e->replica.of, e->image_id);
	pthread_mutex_unlock(&e->lock);
	return replica_write(&e->replica, NULL, 0);
}

void
store_etcd_term(struct store *s, const struct store_term *term)
{
	if (!store_is_etcd(s))
		return;
	pthread_mutex_lock(&etcd_of(s)->lock);
	etcd_of(s)->term = *term;
	pthread_mutex_unlock(&etcd_of(s)->lock);
}

void
store_etcd_instance(const struct store *s, char ret_text[37])
{
	*ret_text = '\0';
	if (store_is_etcd(s))
		snprintf(ret_text, 37, "%s", ((const struct etcd_store *)s)->instance);
}

/* ---- opening and closing ---- */

static void
stop_threads(struct etcd_store *e)
{
	pthread_mutex_lock(&e->lock);
	e->closing = true;
	atomic_store(&e->stop_stream, true);
	pthread_cond_broadcast(&e->changed);
	pthread_mutex_unlock(&e->lock);
	if (e->watcher_runs)
		pthread_join(e->watcher, NULL);
	if (e->looker_runs)
		pthread_join(e->looker, NULL);
}

static void
engine_close(struct store *s)
{
	struct etcd_store *e = etcd_of(s);
	struct batch *b, *next;

	stop_threads(e);
	for (b = e->first; b; b = next) {
		next = b->next;
		etcd_batch_free(b);
	}
	etcd_batch_free(e->own);
	etcd_watch_end(e);
	pathmap_clear(&e->overlay, etcd_news_free);
	pathmap_clear(&e->deleted, etcd_news_free);
	pathmap_clear(&e->uncertain, etcd_news_free);
	pathmap_clear(&e->untold, etcd_news_free);
	replica_close(&e->replica);
	etcd_freep(&e->calls);
	etcd_freep(&e->watch);
	etcd_freep(&e->looks);
	pthread_cond_destroy(&e->changed);
	pthread_mutex_destroy(&e->lock);
	free(e);
}

static int
engine_spare_put(struct store *s, const char *name, uint64_t number)
{
	uint64_t before;
	int err = replica_spare(&etcd_of(s)->replica, name, &before);

	if (err < 0)
		return err;
	return before > number / 2 ? 1 : replica_set_spare(&etcd_of(s)->replica, name, number);
}

/* Half each time: the next start may find no etcd either. */
static int
engine_spare_take(struct store *s, const char *name, uint64_t *ret_number)
{
	uint64_t number;
	int err = replica_spare(&etcd_of(s)->replica, name, &number);

	if (err == 0 && number > 0)
		err = replica_set_spare(&etcd_of(s)->replica, name, number / 2);
	if (err == 0)
		*ret_number = number - number / 2;
	return err;
}

static const struct store_engine etcd_engine = {
	.name = "etcd",
	.get = engine_get,
	.list = engine_list,
	.commit = etcd_commit,
	.poll = engine_poll,
	.identity = engine_identity,
	.settled = engine_settled,
	.image = engine_image,
	.foreign = engine_foreign,
	.adopt = engine_adopt,
	.spare_put = engine_spare_put,
	.spare_take = engine_spare_take,
	.close = engine_close,
};

static struct etcd_store *
new_store(const struct etcd_settings *settings, const char *node)
{
	struct etcd_store *e = calloc(1, sizeof(*e));
	pthread_condattr_t attr;

	if (!e)
		return NULL;
	e->store.engine = &etcd_engine;
	e->settings = settings;
	e->node = node;
	e->last = &e->first;
	e->room = ETCD_ROOM;
	pthread_mutex_init(&e->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&e->changed, &attr);
	pthread_condattr_destroy(&attr);
	return e;
}

/* The replica's age goes on over a restart, by the real clock: one that went back tells nothing. */
static void
take_marks(struct etcd_store *e)
{
	uint64_t us = clock_real_us(), synced = e->replica.synced_us;

	e->opened_ns = clock_boot_ns();
	e->opened_age_ns = synced > 0 && synced <= us ? (us - synced) * 1000 : UINT64_MAX;
	strcpy(e->image_id, e->replica.of);
	strcpy(e->cluster_id, e->replica.of);
	e->position = e->highest = e->taken = e->revision = e->replica.position;
}

static int
start_threads(struct etcd_store *e)
{
	e->watcher_runs = pthread_create(&e->watcher, NULL, etcd_watch_run, e) == 0;
	e->looker_runs = e->watcher_runs && pthread_create(&e->looker, NULL, etcd_look_run, e) == 0;
	if (e->looker_runs)
		return 0;
	log_error("no thread to watch etcd with: raise the limit of processes");
	return KEKD_ESTORE;
}

/* Nothing can be served from an empty replica: etcd has to answer first, and all of it, however
 * long that takes, as long as it answers. */
static int
read_first(struct etcd_store *e)
{
	uint64_t patience = (3 * e->settings->timeout_ms + 1000) * CLOCK_MS;
	uint64_t until = clock_monotonic_ns() + patience;
	bool synced;

	pthread_mutex_lock(&e->lock);
	while (!e->synced && clock_monotonic_ns() < until) {
		etcd_wait(e, until);
		if (e->answered_ns + patience > until)
			until = e->answered_ns + patience;
	}
	synced = e->synced;
	if (!synced)
		log_error("etcd cannot be read, and there is no local replica yet: %s", e->error);
	pthread_mutex_unlock(&e->lock);
	if (!synced)
		return KEKD_ESTORE;
	return engine_poll(&e->store, NULL, NULL) < 0 ? KEKD_ESTORE : 0;
}

static int
open_store(struct etcd_store *e, const char *state_dir)
{
	bool empty = false;
	char text[64];
	int err = replica_open(state_dir, &e->replica, &empty);

	if (err < 0)
		return err;
	err = e->replica.db->store.engine->identity(&e->replica.db->store, text);
	if (err < 0)
		return err;
	snprintf(e->instance, sizeof(e->instance), "%.36s", text);
	take_marks(e);
	if (etcd_open(e->settings, &e->calls) < 0 || etcd_open(e->settings, &e->watch) < 0 ||
		etcd_open(e->settings, &e->looks) < 0)
		return KEKD_ESTORE;
	err = etcd_watch_begin(e);
	if (err == 0)
		err = start_threads(e);
	if (err == 0 && empty)
		err = read_first(e);
	return err;
}

int
store_open_etcd(const struct etcd_settings *settings, const char *node, const char *state_dir,
	void (*wake)(void *user), void *user, struct store **ret_store)
{
	struct etcd_store *e = new_store(settings, node);
	int err;

	if (!e)
		return KEKD_ESTORE;
	e->wake = wake;
	e->user = user;
	err = open_store(e, state_dir);
	if (err < 0) {
		engine_close(&e->store);
		return err;
	}
	*ret_store = &e->store;
	return 0;
}
