/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Leadership: the state, the thread that keeps the lease and campaigns, and what others may ask.
 * What goes to etcd is in leader_calls.c.
 */
#include "leader_state.h"

#include "kekd/clock.h"
#include "kekd/err.h"
#include "kekd/json.h"
#include "kekd/log.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define MARGIN_MIN_NS (200 * CLOCK_MS)
/* Between another's end and a campaign: who takes the key over from it goes first. */
#define CAMPAIGN_NS (100 * CLOCK_MS)
/* Of these, for the deposed to hear of it by its watch: the two touch no token at once. */
#define PROMOTE_NS (CAMPAIGN_NS / 2)
#define PROMOTE_TRIES 3

/* ---- what is known ---- */

void
leader_publish(struct leader *l)
{
	atomic_store(&l->may_until_ns, l->status.active ? l->status.until_ns : 0);
	l->dirty = true;
	pthread_cond_signal(&l->wake);
}

static void
set_active(struct leader *l, uint64_t epoch)
{
	if (l->status.epoch == epoch)
		return;
	if (epoch) {
		l->status.elections++;
		log_info("this node is the active one: epoch %llu", (unsigned long long)epoch);
	} else {
		log_info("this node is not the active one any more");
	}
	l->status.active = epoch != 0;
	l->status.epoch = epoch;
}

void
leader_lost(struct leader *l)
{
	set_active(l, 0);
	l->status.lease = 0;
	l->status.until_ns = 0;
	leader_publish(l);
}

/* Whoever may write to etcd may have written it, and it goes into logs and answers: what is no name
 * and no URL is none. */
static bool
is_plain(const char *text, size_t size)
{
	size_t i = 0;

	while (i < size && text[i] > ' ' && text[i] < 0x7f)
		i++;
	return i < size && !text[i];
}

static void
take_text(char *ret_text, size_t size, const json_t *object, const char *name)
{
	const char *text = json_string_value(json_object_get(object, name));

	snprintf(ret_text, size, "%s", text && is_plain(text, size) ? text : "");
}

static void
take_value(struct leader *l, const json_t *kv)
{
	char error[JSON_ERROR_SIZE];
	size_t len = 0;
	char *text = kv ? etcd_bytes(json_object_get(kv, "value"), &len) : NULL;
	json_t *value = text ? json_parse(text, len, error) : NULL;

	take_text(l->status.leader_node, sizeof(l->status.leader_node), value, "node");
	take_text(l->status.leader_url, sizeof(l->status.leader_url), value, "url");
	json_decref(value);
	free(text);
}

bool
leader_learn(struct leader *l, const json_t *kv, uint64_t revision, uint64_t sent_ns)
{
	uint64_t epoch = kv ? etcd_u64(kv, "create_revision") : 0, now_ns = clock_boot_ns();
	bool news = !l->known || epoch != l->status.leader_epoch, was_active = l->status.active;

	if (revision < l->revision && sent_ns < l->learned_ns)
		return false;
	if (revision < l->revision) /* the watch begins too late */
		atomic_store(&l->rewatch, true);
	l->revision = revision;
	l->learned_ns = now_ns;
	l->leader_lease = kv ? etcd_u64(kv, "lease") : 0;
	l->leader_mod = kv ? etcd_u64(kv, "mod_revision") : 0;
	if (kv)
		l->yield_ns = 0;
	else if (news && l->known)
		l->yield_ns = now_ns + CAMPAIGN_NS;
	l->known = true;
	l->status.leader_epoch = epoch;
	take_value(l, kv);
	set_active(l, l->status.lease && l->leader_lease == l->status.lease ? epoch : 0);
	if (was_active && !kv)
		l->yield_ns = now_ns + l->ttl_ns;
	if (news)
		leader_publish(l);
	return news;
}

/* ---- the thread ---- */

static uint64_t
earlier(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* UINT64_MAX: not at all. */
static uint64_t
campaign_ns(const struct leader *l)
{
	if (!l->want || !l->known || !l->status.lease || l->leader_mod)
		return UINT64_MAX;
	return l->pause_ns > l->yield_ns ? l->pause_ns : l->yield_ns;
}

/* When there is something to do next, if nobody wakes the thread before. */
static uint64_t
next_ns(const struct leader *l)
{
	uint64_t next = earlier(l->keepalive_ns, l->check_ns);

	if (l->status.active && l->status.until_ns > clock_boot_ns())
		next = earlier(next, l->status.until_ns);
	return earlier(next, campaign_ns(l));
}

static void
wait_until(struct leader *l, uint64_t boot_ns)
{
	uint64_t now_ns = clock_boot_ns(), end_ns;
	struct timespec ts;

	if (boot_ns <= now_ns)
		return;
	end_ns = clock_monotonic_ns() + (boot_ns - now_ns);
	ts.tv_sec = (time_t)(end_ns / CLOCK_S);
	ts.tv_nsec = (long)(end_ns % CLOCK_S);
	pthread_cond_timedwait(&l->wake, &l->lock, &ts);
}

/* Tells of an outage once, and of its end. */
static void
tell_reachable(struct leader *l)
{
	bool away = !l->status.reachable;

	if (away && !l->told_away)
		log_warning("%s", l->status.error);
	else if (!away && l->told_away)
		log_info("etcd answers again");
	l->told_away = away;
}

/* Before sleeping and after each call. The lock is held, but not while others are told. */
static void
tell_changed(struct leader *l)
{
	while (l->dirty) {
		l->dirty = false;
		pthread_mutex_unlock(&l->lock);
		if (l->config.changed)
			l->config.changed(l->config.user);
		pthread_mutex_lock(&l->lock);
	}
}

/* These ask etcd, and are called without the lock. The lease is this thread's alone to change. */

/* What is asked may arrive though no answer comes back: then the keepalives of a node that can
 * change nothing would keep every other one from leading. */
static void
give_up_unheard(struct leader *l)
{
	if (!l->status.lease || clock_boot_ns() < l->status.until_ns + l->ttl_ns)
		return;
	log_warning("etcd has not answered for two lives of this node's lease: it is given up, for "
		    "another node that hears etcd");
	leader_revoke(l);
}

static void
keep_lease(struct leader *l)
{
	uint64_t started_ns = clock_boot_ns();
	uint64_t pause_ns = l->ttl_ns / 3;
	bool had;
	int err;

	give_up_unheard(l);
	had = l->status.lease != 0;
	err = had ? leader_keepalive(l) : leader_grant(l);
	if (err == -ENOENT) {
		log_warning(
			"the lease of this node ran out, or was taken away: asking for a new one");
		leader_revoke(l);
		pause_ns = 0;
	} else if (err && err != KEKD_EPRECONDITION) {
		pause_ns = l->ttl_ns / 10;
	}
	l->keepalive_ns = started_ns + pause_ns;
	if (!err && !had)
		l->check_ns = 0;
}

static void
check(struct leader *l)
{
	int err = l->status.lease ? leader_check(l) : 0;

	l->check_ns = clock_boot_ns() + l->ttl_ns;
	if (err != -ENOENT)
		return;
	log_warning(
		"another process has taken this node's name, or %s was deleted: asking for a new "
		"lease",
		l->alive);
	leader_revoke(l);
	l->keepalive_ns = 0;
}

static int
step_down(struct leader *l, unsigned pause_s)
{
	uint64_t mod_revision;
	bool active;
	int err;

	pthread_mutex_lock(&l->lock);
	active = l->status.active;
	mod_revision = l->leader_mod;
	if (active)
		atomic_store(&l->may_until_ns, 0);
	pthread_mutex_unlock(&l->lock);
	if (!active)
		return KEKD_ENOTACTIVE;
	err = leader_delete(l, mod_revision);
	pthread_mutex_lock(&l->lock);
	if (!err)
		l->pause_ns = clock_boot_ns() + pause_s * CLOCK_S;
	leader_publish(l);
	pthread_mutex_unlock(&l->lock);
	return err == KEKD_EPRECONDITION ? KEKD_ENOTACTIVE : err;
}

/* Another that waits for its turn may be faster: then once more. */
static int
promote(struct leader *l)
{
	int err = l->status.lease ? 0 : leader_grant(l);

	if (err)
		return KEKD_ESTORE;
	err = leader_check(l);
	for (int i = 0; i < PROMOTE_TRIES && !err && !l->status.active; i++) {
		uint64_t mod_revision;
		pthread_mutex_lock(&l->lock);
		mod_revision = l->leader_mod;
		pthread_mutex_unlock(&l->lock);
		if (mod_revision)
			err = leader_delete(l, mod_revision);
		if (mod_revision && !err)
			nanosleep(&(struct timespec){ 0, PROMOTE_NS }, NULL);
		if (!err)
			err = leader_campaign(l);
		if (err == KEKD_EPRECONDITION && i + 1 < PROMOTE_TRIES)
			err = 0;
	}
	return err == -ENOENT ? KEKD_ESTORE : err;
}

static void
fulfil(struct leader *l)
{
	enum leader_wish wish = l->wish;
	unsigned pause_s = l->pause_s;
	int result;

	l->wish = LEADER_NOTHING;
	pthread_mutex_unlock(&l->lock);
	result = wish == LEADER_PROMOTE ? promote(l) : step_down(l, pause_s);
	pthread_mutex_lock(&l->lock);
	l->wish_result = result;
	l->wished = true;
	pthread_cond_broadcast(&l->done);
}

/* One thing that is due, or false. The lock is held. */
static bool
act(struct leader *l)
{
	uint64_t now_ns = clock_boot_ns();
	void (*due)(struct leader *) = NULL;
	int err = 0;

	if (l->wish) {
		fulfil(l);
		return true;
	}
	if (now_ns >= l->keepalive_ns)
		due = keep_lease;
	else if (now_ns >= l->check_ns)
		due = check;
	if (!due && now_ns < campaign_ns(l))
		return false;
	pthread_mutex_unlock(&l->lock);
	if (due)
		due(l);
	else
		err = leader_campaign(l);
	pthread_mutex_lock(&l->lock);
	if (err == KEKD_ESTORE)
		l->yield_ns = clock_boot_ns() + l->ttl_ns / 10;
	return true;
}

static void *
run(void *leader)
{
	struct leader *l = leader;
	bool lapsed = false;

	pthread_mutex_lock(&l->lock);
	while (!atomic_load(&l->stop)) {
		bool late = l->status.active && clock_boot_ns() >= l->status.until_ns;

		l->dirty |= late != lapsed;
		lapsed = late;
		tell_changed(l);
		if (act(l))
			tell_reachable(l);
		else if (!l->dirty && !atomic_load(&l->stop))
			wait_until(l, next_ns(l));
	}
	l->ended = true;
	pthread_cond_broadcast(&l->done);
	pthread_mutex_unlock(&l->lock);
	leader_revoke(l);
	pthread_mutex_lock(&l->lock);
	tell_changed(l);
	pthread_mutex_unlock(&l->lock);
	return NULL;
}

/* ---- for others ---- */

static int
copy_config(struct leader *l, const struct leader_config *config)
{
	const unsigned most_ms = config->ttl_s * 1000 * 2 / 5;

	l->config = *config;
	l->etcd = config->etcd;
	/* One keepalive without an answer does not cost the lease. */
	if (l->etcd.timeout_ms > most_ms)
		l->etcd.timeout_ms = most_ms;
	l->ttl_ns = config->ttl_s * CLOCK_S;
	l->margin_ns = l->ttl_ns / 10 > MARGIN_MIN_NS ? l->ttl_ns / 10 : MARGIN_MIN_NS;
	l->node = strdup(config->node);
	l->url = strdup(config->url);
	l->instance = strdup(config->instance);
	if (!l->node || !l->url || !l->instance || asprintf(&l->alive, "alive/%s", l->node) < 0)
		return -ENOMEM;
	return 0;
}

static void
open_locks(struct leader *l)
{
	pthread_condattr_t attr;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_mutex_init(&l->lock, NULL);
	pthread_mutex_init(&l->wishes, NULL);
	pthread_cond_init(&l->wake, &attr);
	pthread_cond_init(&l->done, &attr);
	pthread_condattr_destroy(&attr);
}

int
leader_open(const struct leader_config *config, struct leader **ret_leader)
{
	struct leader *l = calloc(1, sizeof(*l));
	int err;

	if (!l)
		return -ENOMEM;
	open_locks(l);
	err = copy_config(l, config);
	if (!err)
		err = etcd_open(&l->etcd, &l->calls);
	if (!err)
		err = etcd_open(&l->etcd, &l->watch);
	if (!err)
		err = -pthread_create(&l->thread, NULL, run, l);
	l->started = !err;
	if (!err)
		err = -pthread_create(&l->watcher, NULL, leader_watch_run, l);
	l->watching = !err;
	if (err) {
		leader_freep(&l);
		return err;
	}
	*ret_leader = l;
	return 0;
}

void
leader_freep(struct leader **leader)
{
	struct leader *l = *leader;

	if (!l)
		return;
	pthread_mutex_lock(&l->lock);
	atomic_store(&l->stop, true);
	atomic_store(&l->rewatch, true);
	pthread_cond_signal(&l->wake);
	pthread_mutex_unlock(&l->lock);
	if (l->started)
		pthread_join(l->thread, NULL);
	if (l->watching)
		pthread_join(l->watcher, NULL);
	etcd_freep(&l->calls);
	etcd_freep(&l->watch);
	pthread_cond_destroy(&l->wake);
	pthread_cond_destroy(&l->done);
	pthread_mutex_destroy(&l->lock);
	pthread_mutex_destroy(&l->wishes);
	free(l->node);
	free(l->url);
	free(l->instance);
	free(l->alive);
	free(l);
	*leader = NULL;
}

void
leader_want(struct leader *l, bool may_lead)
{
	pthread_mutex_lock(&l->lock);
	l->want = may_lead;
	pthread_cond_signal(&l->wake);
	pthread_mutex_unlock(&l->lock);
}

static int
wish(struct leader *l, enum leader_wish what, unsigned pause_s)
{
	int result;

	pthread_mutex_lock(&l->wishes);
	pthread_mutex_lock(&l->lock);
	l->wish = what;
	l->pause_s = pause_s;
	l->wished = false;
	pthread_cond_signal(&l->wake);
	while (!l->wished && !l->ended)
		pthread_cond_wait(&l->done, &l->lock);
	result = l->wished ? l->wish_result : KEKD_ESTORE;
	pthread_mutex_unlock(&l->lock);
	pthread_mutex_unlock(&l->wishes);
	return result;
}

int
leader_step_down(struct leader *l, unsigned pause_s)
{
	return wish(l, LEADER_STEP_DOWN, pause_s);
}

int
leader_promote(struct leader *l)
{
	return wish(l, LEADER_PROMOTE, 0);
}

void
leader_status(struct leader *l, struct leader_status *ret_status)
{
	pthread_mutex_lock(&l->lock);
	*ret_status = l->status;
	pthread_mutex_unlock(&l->lock);
	if (ret_status->active && clock_boot_ns() >= ret_status->until_ns) {
		ret_status->active = false;
		ret_status->epoch = 0;
	}
}

bool
leader_may_change(struct leader *l)
{
	return clock_boot_ns() < atomic_load(&l->may_until_ns);
}
