/* SPDX-License-Identifier: Apache-2.0 */
/* Reading the key's record at every endpoint. */
#include "records.h"

#include "ask.h"

#include "kekd/clock.h"
#include "kekd/log.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EVERY_NS (250 * CLOCK_MS) /* between the beginnings of two rounds */
#define REASON_SIZE 448
#define READ_NS CLOCK_S /* of one endpoint */

struct endpoint {
	struct records *records;
	struct kekd_client *client;
	pthread_t thread;
	bool threaded;
	size_t index;

	uint64_t done; /* the last round that it answered in, one way or the other */
	enum endpoint_state state;
	struct key_record record; /* the last that came */
	char reason[REASON_SIZE];
};

struct records {
	const struct kms_config *config;
	struct kekd_health *health;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	uint64_t round, began_ns;
	struct kms_key_id floor; /* what was announced last */
	struct kms_key_id highest;
	atomic_bool stop;
	size_t count;
	struct endpoint endpoints[KMS_ENDPOINTS_MAX];
};

/* ---- one endpoint ---- */

static const char *const state_words[] = {
	[ENDPOINT_UNKNOWN] = "was not asked yet",
	[ENDPOINT_SERVES] = "serves",
	[ENDPOINT_BEHIND] = "counts as away",
	[ENDPOINT_AWAY] = "is away",
};

/* What changed is logged, and only that. */
static void
set_state(struct endpoint *e, enum endpoint_state state, const char *reason)
{
	struct records *r = e->records;

	snprintf(e->reason, sizeof(e->reason), "%s", reason);
	if (state == e->state)
		return;
	e->state = state;
	if (state == ENDPOINT_SERVES)
		log_info("%.100s serves key %s", r->config->endpoints[e->index], r->config->key);
	else
		log_warning("%.100s %s: %s", r->config->endpoints[e->index], state_words[state],
			reason);
}

/* NULL: it may be announced. */
static const char *
fault_of(const struct kms_key_id *id, const struct kms_key_id *floor)
{
	if (id->activation < floor->activation)
		return "is its metadata old?";
	if (id->activation == floor->activation && !uuid_equal(&id->version, &floor->version))
		return "was the key made anew, or an old store put back? If it is to be this: "
		       "kekctl key rotate";
	return NULL;
}

/* Under the lock. */
static void
judge(struct endpoint *e)
{
	struct records *r = e->records;
	const char *fault = fault_of(&e->record.id, &r->floor);
	char reason[REASON_SIZE];

	if (!fault) {
		set_state(e, ENDPOINT_SERVES, "");
		return;
	}
	snprintf(reason, sizeof(reason),
		"%.100s has key %.64s at %s, and %s was announced already: %s",
		r->config->endpoints[e->index], r->config->key, e->record.id.text, r->floor.text,
		fault);
	set_state(e, ENDPOINT_BEHIND, reason);
	kekd_health_failed(r->health, e->index);
}

static void
take(struct endpoint *e, struct key_record *record)
{
	struct records *r = e->records;

	key_record_free(&e->record);
	e->record = *record; /* transferred */
	if (e->record.id.activation > r->highest.activation)
		r->highest = e->record.id;
	judge(e);
}

static void
read_one(struct endpoint *e, uint64_t round)
{
	struct records *r = e->records;
	struct kekd_ask ask = { .deadline_ns = clock_boot_ns() + READ_NS,
		.chosen = true,
		.alone = true,
		.first = e->index,
		.aborted = &r->stop };
	struct key_record record = { 0 };
	struct ask_answer answer;
	bool good = ask_record(e->client, r->config, &ask, &record, &answer);

	pthread_mutex_lock(&r->lock);
	if (good)
		take(e, &record);
	else if (!atomic_load(&r->stop))
		set_state(e, ENDPOINT_AWAY, answer.text);
	e->done = round;
	pthread_cond_broadcast(&r->changed);
	pthread_mutex_unlock(&r->lock);
	ask_answer_free(&answer);
}

static void *
endpoint_main(void *user)
{
	struct endpoint *e = user;
	struct records *r = e->records;

	for (;;) {
		pthread_mutex_lock(&r->lock);
		while (!atomic_load(&r->stop) && e->done == r->round)
			pthread_cond_wait(&r->changed, &r->lock);
		uint64_t round = r->round;
		pthread_mutex_unlock(&r->lock);
		if (atomic_load(&r->stop))
			return NULL;
		read_one(e, round);
	}
}

/* ---- opening ---- */

static int
endpoint_open(struct records *r, size_t index, char ret_error[256])
{
	struct endpoint *e = &r->endpoints[index];
	int err;

	e->records = r;
	e->index = index;
	r->count = index + 1;
	err = ask_client_open(r->config, r->health, &e->client, ret_error);
	if (err < 0)
		return err;
	err = -pthread_create(&e->thread, NULL, endpoint_main, e);
	e->threaded = err == 0;
	if (err < 0)
		snprintf(ret_error, 256, "no thread: %s", strerror(-err));
	return err;
}

int
records_open(const struct kms_config *config, struct kekd_health *health,
	struct records **ret_records, char ret_error[256])
{
	struct records *r = calloc(1, sizeof(*r));
	pthread_condattr_t monotonic;
	int err = 0;

	if (!r)
		return -ENOMEM;
	r->config = config;
	r->health = health;
	pthread_mutex_init(&r->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&r->changed, &monotonic);
	pthread_condattr_destroy(&monotonic);
	for (size_t i = 0; i < config->endpoints_count && i < KMS_ENDPOINTS_MAX && err == 0; i++)
		err = endpoint_open(r, i, ret_error);
	if (err < 0)
		records_freep(&r);
	else
		*ret_records = r;
	return err;
}

void
records_stop(struct records *r)
{
	pthread_mutex_lock(&r->lock);
	atomic_store(&r->stop, true);
	pthread_cond_broadcast(&r->changed);
	pthread_mutex_unlock(&r->lock);
	for (size_t i = 0; i < r->count; i++)
		if (r->endpoints[i].client)
			kekd_client_wake(r->endpoints[i].client);
}

void
records_freep(struct records **records)
{
	struct records *r = *records;

	if (!r)
		return;
	records_stop(r);
	for (size_t i = 0; i < r->count; i++) {
		struct endpoint *e = &r->endpoints[i];
		if (e->threaded)
			pthread_join(e->thread, NULL);
		kekd_client_freep(&e->client);
		key_record_free(&e->record);
	}
	pthread_cond_destroy(&r->changed);
	pthread_mutex_destroy(&r->lock);
	free(r);
	*records = NULL;
}

void
records_set_floor(struct records *r, const struct kms_key_id *announced)
{
	pthread_mutex_lock(&r->lock);
	r->floor = *announced;
	for (size_t i = 0; i < r->count; i++)
		if (r->endpoints[i].state == ENDPOINT_SERVES)
			judge(&r->endpoints[i]);
	pthread_mutex_unlock(&r->lock);
}

/* ---- looking ---- */

static bool
lists(const struct key_record *record, const struct uuid *version)
{
	for (size_t i = record->count; i-- > 0;)
		if (uuid_equal(&record->versions[i], version))
			return true;
	return false;
}

static bool
knows(const struct records *r, const struct kms_key_id *id)
{
	if (id->activation > r->highest.activation)
		return false;
	for (size_t i = 0; i < r->count; i++)
		if (lists(&r->endpoints[i].record, &id->version))
			return true;
	return false;
}

bool
records_know(struct records *r, const struct kms_key_id *id)
{
	bool known;

	pthread_mutex_lock(&r->lock);
	known = knows(r, id);
	pthread_mutex_unlock(&r->lock);
	return known;
}

static bool
round_is_over(const struct records *r)
{
	for (size_t i = 0; i < r->count; i++)
		if (r->endpoints[i].done != r->round)
			return false;
	return true;
}

static void
wait_until(struct records *r, uint64_t boot_ns)
{
	uint64_t now = clock_boot_ns();
	uint64_t then = clock_monotonic_ns() + (boot_ns > now ? boot_ns - now : 0);
	struct timespec at = { (time_t)(then / CLOCK_S), (long)(then % CLOCK_S) };

	pthread_cond_timedwait(&r->changed, &r->lock, &at);
}

/* One step towards a round that began late enough. */
static void
step(struct records *r, uint64_t now, uint64_t deadline_ns)
{
	uint64_t next_ns = r->began_ns + EVERY_NS;

	if (!round_is_over(r)) {
		wait_until(r, deadline_ns);
	} else if (now < next_ns) {
		wait_until(r, next_ns < deadline_ns ? next_ns : deadline_ns);
	} else {
		r->round++;
		r->began_ns = now;
		pthread_cond_broadcast(&r->changed);
	}
}

bool
records_look(
	struct records *r, const struct kms_key_id *id, uint64_t since_ns, uint64_t deadline_ns)
{
	bool over = false;

	pthread_mutex_lock(&r->lock);
	for (;;) {
		uint64_t now = clock_boot_ns();
		over = (id && knows(r, id)) || (r->began_ns >= since_ns && round_is_over(r));
		if (over || atomic_load(&r->stop) || now >= deadline_ns)
			break;
		step(r, now, deadline_ns);
	}
	pthread_mutex_unlock(&r->lock);
	return over;
}

/* ---- what was seen ---- */

static void
add_reason(char reason[512], const char *more)
{
	size_t len = strlen(reason);

	snprintf(reason + len, 512 - len, "%s%s", len && *more ? "; " : "", more);
}

void
records_view(struct records *r, struct records_view *ret_view)
{
	struct records_view v = { .serving = 0 };

	pthread_mutex_lock(&r->lock);
	v.highest = r->highest;
	for (size_t i = 0; i < r->count; i++) {
		const struct endpoint *e = &r->endpoints[i];
		if (e->state != ENDPOINT_SERVES) {
			add_reason(v.reason, e->reason);
			continue;
		}
		v.serving++;
		if (e->record.id.activation > v.fresh.activation)
			v.fresh = e->record.id;
	}
	pthread_mutex_unlock(&r->lock);
	*ret_view = v;
}

void
records_endpoint(struct records *r, size_t endpoint, struct records_endpoint *ret_endpoint)
{
	pthread_mutex_lock(&r->lock);
	ret_endpoint->state = r->endpoints[endpoint].state;
	ret_endpoint->activation = r->endpoints[endpoint].record.id.activation;
	pthread_mutex_unlock(&r->lock);
}
