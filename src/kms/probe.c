/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A probe reads the key's record at every endpoint, wraps 32 random bytes under the version that is
 * to be announced, and unwraps them. Then what is announced is written to disk, and only then
 * shown. Where nothing could be wrapped, it unwraps what was wrapped before: reads may go on.
 */
#include "probe.h"

#include "announced.h"
#include "ask.h"

#include "kekd/clock.h"
#include "kekd/log.h"
#include "kekd/random.h"
#include "kekd/secret.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FAILING_NS (2 * CLOCK_S)  /* between probes while they fail */
#define SOON_NS (CLOCK_S / 2)	  /* and when something has changed */
#define LOOK_NS (1200 * CLOCK_MS) /* for reading the records: one endpoint may hang */
#define STALE_INTERVALS 3
#define SAMPLE_SIZE KMS_SEED_MIN

/* What was wrapped last: random, and of no use to anybody. */
struct sample {
	uint8_t bytes[SAMPLE_SIZE];
	struct buf blob; /* empty: none */
};

struct probe {
	struct probe_parts parts;
	struct kekd_client *client;
	pthread_t thread;
	bool threaded;
	struct sample sample; /* the thread's own */

	pthread_mutex_t lock;
	pthread_cond_t wake;
	atomic_bool stop;
	bool soon;
	struct probe_state state;
	struct kms_key_id id; /* on disk; activation 0: none */
};

/* ---- what is known from them ---- */

static bool
is_good(const struct probe_result *r)
{
	return r->verdict[PROBE_WRAP] == PROBE_GOOD && r->verdict[PROBE_UNWRAP] == PROBE_GOOD;
}

/* Writes and reads hang on one direction each: which of them goes on is said first. */
static void
describe(const struct probe_result *r, char ret_text[512])
{
	static const char *const after_wrap[PROBE_VERDICTS] = {
		[PROBE_UNTRIED] = "wrap fails, unwrap was not tried",
		[PROBE_FAILED] = "wrap and unwrap fail",
		[PROBE_GOOD] = "wrap fails, unwrap works",
	};
	bool wraps = r->verdict[PROBE_WRAP] == PROBE_GOOD;

	snprintf(ret_text, 512, "%s: %.470s",
		wraps ? "unwrap fails, wrap works" : after_wrap[r->verdict[PROBE_UNWRAP]],
		r->reason[wraps ? PROBE_UNWRAP : PROBE_WRAP]);
}

bool
probe_is_good(const struct probe_state *s, uint64_t now_ns, uint64_t every_ns, char ret_reason[512])
{
	if (!s->any) {
		snprintf(ret_reason, 512, "kekd has not been asked yet: try again in a moment");
		return false;
	}
	if (!is_good(&s->last)) {
		describe(&s->last, ret_reason);
		return false;
	}
	if (now_ns > s->ended_ns + STALE_INTERVALS * every_ns) {
		snprintf(ret_reason, 512,
			"the last probe of kekd was %llu s ago, and the next one does not end",
			(unsigned long long)((now_ns - s->ended_ns) / CLOCK_S));
		return false;
	}
	return true;
}

uint64_t
probe_pause(const struct probe_state *s, uint64_t every_ns)
{
	if (s->any && is_good(&s->last))
		return every_ns;
	return every_ns < FAILING_NS ? every_ns : FAILING_NS;
}

bool
probe_has_news(const struct probe_state *before, const struct probe_result *now)
{
	for (size_t i = 0; i < PROBE_DIRECTIONS; i++)
		if (!before->any || before->last.verdict[i] != now->verdict[i])
			return true;
	return false;
}

/* ---- one probe ---- */

static void
fail(struct probe_result *r, enum probe_direction direction, const char *reason)
{
	r->verdict[direction] = PROBE_FAILED;
	snprintf(r->reason[direction], sizeof(r->reason[direction]), "%.511s", reason);
}

/* The version that is to be announced: never one with a lower activation than there was. */
static bool
choose(struct probe *p, struct kms_key_id *ret_id, struct probe_result *r)
{
	struct records_view v;
	uint64_t now = clock_boot_ns();

	records_look(p->parts.records, NULL, now, now + LOOK_NS);
	records_view(p->parts.records, &v);
	if (v.serving == 0) {
		fail(r, PROBE_WRAP, v.reason[0] ? v.reason : "no endpoint has answered in time");
		return false;
	}
	*ret_id = v.highest.activation > v.fresh.activation ? v.highest : v.fresh;
	return true;
}

static struct kekd_ask
ask_new(const struct probe *p)
{
	return (struct kekd_ask){ .deadline_ns = clock_boot_ns() + p->parts.config->timeout_ns,
		.aborted = &p->stop };
}

/* True when the record has moved on meanwhile. */
static bool
prove_wrap(struct probe *p, const struct kms_key_id *id, struct probe_result *r)
{
	struct sample *sample = &p->sample;
	struct kekd_ask ask = ask_new(p);
	uint8_t bytes[SAMPLE_SIZE];
	struct ask_answer a;

	if (random_piece(bytes, sizeof(bytes)) < 0) {
		fail(r, PROBE_WRAP, "there are no random numbers");
		return false;
	}
	ask_wrap(p->client, p->parts.config, id, (struct kms_bytes){ bytes, sizeof(bytes) }, &ask,
		&a);
	metrics_add(&p->parts.counts->failovers, a.passed_over);
	if (a.status == KMS_OK) {
		r->verdict[PROBE_WRAP] = PROBE_GOOD;
		memcpy(sample->bytes, bytes, sizeof(bytes));
		buf_free(&sample->blob);
		sample->blob = a.bytes; /* transferred */
	} else {
		fail(r, PROBE_WRAP, a.text);
		ask_answer_free(&a);
	}
	return a.moved;
}

static void
prove_unwrap(struct probe *p, struct probe_result *r)
{
	const struct sample *sample = &p->sample;
	struct kekd_ask ask = ask_new(p);
	struct ask_answer a;

	if (sample->blob.len == 0)
		return;
	/* Whoever has failed already must not wait much longer to hear of it. */
	if (r->verdict[PROBE_WRAP] != PROBE_GOOD && p->parts.config->timeout_ns > LOOK_NS)
		ask.deadline_ns = clock_boot_ns() + LOOK_NS;
	ask_unwrap(p->client, p->parts.config,
		(struct kms_bytes){ sample->blob.data, sample->blob.len }, &ask, &a);
	metrics_add(&p->parts.counts->failovers, a.passed_over);
	if (a.status != KMS_OK)
		fail(r, PROBE_UNWRAP, a.text);
	else if (secret_equal(a.bytes.data, a.bytes.len, sample->bytes, sizeof(sample->bytes)))
		r->verdict[PROBE_UNWRAP] = PROBE_GOOD;
	else
		fail(r, PROBE_UNWRAP,
			"kekd unwraps something else than it wrapped: take it out of use");
	ask_answer_free(&a);
}

/* On disk before anybody hears of it. */
static void
announce(struct probe *p, const struct kms_key_id *id, struct probe_result *r)
{
	char reason[512];
	int err;

	if (id->activation == p->id.activation)
		return;
	err = announced_write(p->parts.config, id);
	if (err < 0) {
		snprintf(reason, sizeof(reason),
			"cannot write %.200s/" ANNOUNCED_NAME ": %s: make room, or give it to this "
			"program's user",
			p->parts.config->state_dir, strerror(-err));
		fail(r, PROBE_WRAP, reason); /* nothing may be wrapped under it */
		return;
	}
	pthread_mutex_lock(&p->lock);
	p->id = *id;
	pthread_mutex_unlock(&p->lock);
	records_set_floor(p->parts.records, id);
	log_info("key_id %s is announced from now on", id->text);
}

static void
probe_once(struct probe *p, struct probe_result *ret_result)
{
	struct probe_result r;
	struct kms_key_id id;
	bool moved = true;

	for (int turn = 0; turn < 2 && moved; turn++) {
		r = (struct probe_result){ 0 };
		moved = choose(p, &id, &r) && prove_wrap(p, &id, &r);
	}
	prove_unwrap(p, &r);
	if (is_good(&r))
		announce(p, &id, &r);
	*ret_result = r;
}

/* ---- the thread ---- */

static void
tell_news(const struct probe_result *r)
{
	char text[512];

	if (is_good(r)) {
		log_info("kekd wraps and unwraps");
		return;
	}
	describe(r, text);
	log_error("probe: %s: Status is UNAVAILABLE until it succeeds", text);
	if (r->verdict[PROBE_WRAP] == PROBE_FAILED && r->verdict[PROBE_UNWRAP] == PROBE_FAILED)
		log_error("probe, unwrap: %s", r->reason[PROBE_UNWRAP]);
}

static void
keep(struct probe *p, const struct probe_result *r, uint64_t began_ns)
{
	bool news;

	metrics_add(&p->parts.counts->probes[is_good(r) ? 0 : 1], 1);
	metrics_observe(&p->parts.counts->probe_times, clock_boot_ns() - began_ns);
	atomic_store(
		&p->parts.counts->certificate_ends_s, kekd_client_certificate_ends_s(p->client));
	pthread_mutex_lock(&p->lock);
	news = probe_has_news(&p->state, r);
	p->state.any = true;
	p->state.ended_ns = clock_boot_ns();
	p->state.last = *r;
	pthread_mutex_unlock(&p->lock);
	if (news && !atomic_load(&p->stop))
		tell_news(r);
}

static void
wait_for_turn(struct probe *p, uint64_t began_ns)
{
	pthread_mutex_lock(&p->lock);
	while (!atomic_load(&p->stop)) {
		uint64_t pause = probe_pause(&p->state, p->parts.config->probe_every_ns);
		uint64_t now = clock_monotonic_ns();
		if (p->soon && pause > SOON_NS)
			pause = SOON_NS;
		if (now >= began_ns + pause)
			break;
		uint64_t then = began_ns + pause;
		struct timespec at = { (time_t)(then / CLOCK_S), (long)(then % CLOCK_S) };
		pthread_cond_timedwait(&p->wake, &p->lock, &at);
	}
	p->soon = false;
	pthread_mutex_unlock(&p->lock);
}

static void *
probe_main(void *user)
{
	struct probe *p = user;

	while (!atomic_load(&p->stop)) {
		struct probe_result r;
		uint64_t began_ns = clock_monotonic_ns(), boot_ns = clock_boot_ns();
		probe_once(p, &r);
		keep(p, &r, boot_ns);
		wait_for_turn(p, began_ns);
	}
	return NULL;
}

int
probe_open(const struct probe_parts *parts, const struct kms_key_id *id, struct probe **ret_probe,
	char ret_error[256])
{
	struct probe *p = calloc(1, sizeof(*p));
	pthread_condattr_t monotonic;
	int err;

	if (!p)
		return -ENOMEM;
	p->parts = *parts;
	p->id = *id;
	pthread_mutex_init(&p->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&p->wake, &monotonic);
	pthread_condattr_destroy(&monotonic);
	records_set_floor(parts->records, id);
	err = ask_client_open_first(parts->config, parts->health, &p->client, ret_error);
	if (err == 0) {
		err = -pthread_create(&p->thread, NULL, probe_main, p);
		p->threaded = err == 0;
		if (err < 0)
			snprintf(ret_error, 256, "no thread: %s", strerror(-err));
	}
	if (err < 0)
		probe_freep(&p);
	else
		*ret_probe = p;
	return err;
}

void
probe_stop(struct probe *p)
{
	pthread_mutex_lock(&p->lock);
	atomic_store(&p->stop, true);
	pthread_cond_broadcast(&p->wake);
	pthread_mutex_unlock(&p->lock);
	if (p->client)
		kekd_client_wake(p->client);
}

void
probe_freep(struct probe **probe)
{
	struct probe *p = *probe;

	if (!p)
		return;
	probe_stop(p);
	if (p->threaded)
		pthread_join(p->thread, NULL);
	kekd_client_freep(&p->client);
	buf_free(&p->sample.blob);
	pthread_cond_destroy(&p->wake);
	pthread_mutex_destroy(&p->lock);
	free(p);
	*probe = NULL;
}

void
probe_soon(struct probe *p)
{
	pthread_mutex_lock(&p->lock);
	p->soon = true;
	pthread_cond_signal(&p->wake);
	pthread_mutex_unlock(&p->lock);
}

void
probe_read(struct probe *p, struct probe_state *ret_state, struct kms_key_id *ret_id)
{
	pthread_mutex_lock(&p->lock);
	*ret_state = p->state;
	*ret_id = p->id;
	pthread_mutex_unlock(&p->lock);
}
