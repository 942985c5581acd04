/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which endpoint is asked, for how long, and whether the next one may be asked after it. Reading
 * and computing is repeated wherever it takes an answer; a change only when it was certainly not
 * made, or when its precondition makes a repetition harmless.
 */
#include "exchange.h"

#include "kekd/clock.h"
#include "kekd/str.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define AWAY_MS 10000	 /* how long an endpoint that failed is asked last */
#define PROOF_MS 250	 /* silence for less than that proves nothing */
#define REDIRECTS_MAX 3	 /* a standby sends a change to the active */
#define MOVING_MS 10000	 /* how long a request waits for the next active */
#define MOVING_PAUSE_S 1 /* between two looks, unless Retry-After says more */

enum repeat {
	REPEAT_ALWAYS,	    /* it changes nothing */
	REPEAT_CONDITIONAL, /* a change that is not made twice, but the second answer may be a 412
			     */
	REPEAT_NEVER,
};

static bool
ends_with(const char *text, const char *end)
{
	size_t a = strlen(text), b = strlen(end);

	return a >= b && strcmp(text + a - b, end) == 0;
}

static enum repeat
repeat_of(const struct call *call, bool conditional)
{
	static const char *const computing[] = { "/wrap", "/unwrap", "/generate", "/rewrap",
		"/backup" };

	if (strcmp(call->method, "GET") == 0)
		return REPEAT_ALWAYS;
	for (size_t i = 0; strcmp(call->method, "POST") == 0 && i < STR_COUNT(computing); i++)
		if (ends_with(call->path, computing[i]))
			return REPEAT_ALWAYS;
	return conditional ? REPEAT_CONDITIONAL : REPEAT_NEVER;
}

/* ---- answers that are not the last word ---- */

static bool
has_code(const struct kekd_reply *r, const char *const *codes)
{
	for (size_t i = 0; codes[i]; i++)
		if (strcmp(r->code, codes[i]) == 0)
			return true;
	return false;
}

/* Another node may do better. A change is in the active's hands alone: at another node it ends up
 * with the same one, so that is asked only when this one did not even begin. */
static bool
is_for_another(const struct kekd_reply *r, enum repeat repeat)
{
	static const char *const not_begun[] = { "starting", "shutting_down", "overloaded",
		"not_active", "no_active", NULL };

	if (r->status != 503)
		return false;
	return repeat == REPEAT_ALWAYS || has_code(r, not_begun);
}

/* The node may lag behind the others. */
static bool
is_for_who_knows_more(const struct kekd_reply *r, const struct kekd_ask *ask)
{
	return ask->elsewhere && r->code[0] && has_code(r, ask->elsewhere);
}

/* No node is active at this moment; one will be, within its lease. */
static bool
has_no_active(const struct kekd_reply *r)
{
	static const char *const codes[] = { "not_active", "no_active", NULL };

	return r->status == 503 && has_code(r, codes);
}

/* ---- one endpoint, and whom it names ---- */

static long
left_ms(const struct call *call)
{
	uint64_t now = clock_boot_ns();

	return now < call->deadline_ns ? (long)((call->deadline_ns - now) / CLOCK_MS) : 0;
}

/* others: endpoints that come after this one. Of what may be asked again elsewhere each has its
 * share: one that takes requests and never answers must not use up the time of the rest. again:
 * there will be another round for the next active; an old one that stands still, which a standby
 * names for as long as it does not know, must not use up that one's time either. */
static void
share_time(const struct kekd_client *c, struct call *call, enum repeat repeat, size_t others,
	bool again)
{
	long left = left_ms(call);
	long share = repeat == REPEAT_NEVER ? left : left / (long)(others + 1);
	long connect = left / (long)(others + 1);

	if ((others > 0 || again) && connect > (long)c->connect_ms)
		connect = (long)c->connect_ms;
	call->limit_ms = share > 0 ? share : 1;
	call->connect_ms = connect > 0 ? connect : 1;
}

struct attempt {
	struct kekd_reply reply;
	int err;	 /* negative: no answer */
	bool sent;	 /* to whom would have done it */
	bool redirected; /* by a node that does not do it itself */
	char error[512];
};

static int
follow(struct kekd_client *c, struct call *call, enum repeat repeat, size_t others, bool again,
	char *url, struct attempt *a)
{
	for (int hops = 0; hops <= REDIRECTS_MAX; hops++) {
		struct exchange x;
		share_time(c, call, repeat, others, again || hops > 0);
		int err = exchange_run(c, call, url, &x, a->error);
		a->sent = x.sent;
		a->reply = x.reply;
		if (err < 0 || !x.redirect[0])
			return err;
		kekd_reply_free(&a->reply);
		a->redirected = true;
		a->sent = false;
		if (strncmp(x.redirect, "https://", 8) != 0) {
			snprintf(a->error, sizeof(a->error),
				"%.100s redirects to %.100s, which is not https: is it kekd there?",
				url, x.redirect);
			return -EPROTO;
		}
		snprintf(url, CLIENT_URL_SIZE, "%s", x.redirect);
	}
	snprintf(a->error, sizeof(a->error),
		"%.100s: redirected in a circle: is there an active node? \"kekctl cluster "
		"status\" "
		"at each endpoint tells",
		url);
	return -EPROTO;
}

static void
try_endpoint(struct kekd_client *c, struct call *call, enum repeat repeat, size_t endpoint,
	size_t others, bool again, struct attempt *ret_attempt)
{
	struct attempt a = { 0 };
	char url[CLIENT_URL_SIZE];

	if ((size_t)snprintf(url, sizeof(url), "%s%s", c->endpoints[endpoint], call->path) <
		sizeof(url)) {
		a.err = follow(c, call, repeat, others, again, url, &a);
	} else {
		snprintf(a.error, sizeof(a.error), "the URL has more than 2,047 characters");
		a.err = -EINVAL;
	}
	*ret_attempt = a;
}

/* ---- who failed lately ---- */

void
kekd_health_failed(struct kekd_health *h, size_t endpoint)
{
	if (endpoint < KEKD_ENDPOINTS_MAX)
		atomic_store(&h->away_until_ns[endpoint], clock_boot_ns() + AWAY_MS * CLOCK_MS);
}

void
kekd_health_answered(struct kekd_health *h, size_t endpoint)
{
	if (endpoint < KEKD_ENDPOINTS_MAX && atomic_load(&h->away_until_ns[endpoint]) != 0)
		atomic_store(&h->away_until_ns[endpoint], 0);
}

static bool
failed_lately(const struct kekd_client *c, size_t endpoint)
{
	return c->health && endpoint < KEKD_ENDPOINTS_MAX &&
	       atomic_load(&c->health->away_until_ns[endpoint]) > clock_boot_ns();
}

static void
keep_health(
	struct kekd_client *c, const struct call *call, size_t endpoint, const struct attempt *a)
{
	bool hardly_asked = a->err == -ETIMEDOUT && call->limit_ms < PROOF_MS;

	if (!c->health || a->err == -ECANCELED || a->err == -EINVAL || hardly_asked)
		return;
	if (a->err < 0 || a->reply.status == 503)
		kekd_health_failed(c->health, endpoint);
	else
		kekd_health_answered(c->health, endpoint);
}

/* The one chosen; those from where the last request was served on; those that failed lately. */
struct order {
	size_t endpoints[KEKD_ENDPOINTS_MAX], count;
};

static void
order_add(struct order *o, const struct kekd_client *c, const struct kekd_ask *ask, bool failed)
{
	for (size_t i = 0; i < c->endpoints_count; i++) {
		size_t endpoint = (c->current + i) % c->endpoints_count;
		if (!(ask->chosen && endpoint == ask->first) &&
			failed_lately(c, endpoint) == failed)
			o->endpoints[o->count++] = endpoint;
	}
}

static struct order
order_of(const struct kekd_client *c, const struct kekd_ask *ask)
{
	struct order o = { .count = 0 };

	if (ask->chosen)
		o.endpoints[o.count++] = ask->first;
	if (ask->chosen && ask->alone)
		return o;
	order_add(&o, c, ask, false);
	order_add(&o, c, ask, true);
	return o;
}

/* ---- all of them ---- */

/* The answer that counts is the last one that came; without any, the first failure, which is that
 * of the endpoint meant. */
struct result {
	struct kekd_reply reply;
	bool answered;
	int err;
	bool lost;   /* one attempt may have been carried out, and its answer did not come */
	bool moving; /* no node was active */
	char *error; /* of 512 bytes */
};

static void
keep_reply(struct result *r, struct attempt *a)
{
	kekd_reply_free(&r->reply);
	r->reply = a->reply;
	r->answered = true;
}

static void
keep_failure(struct result *r, const struct attempt *a)
{
	if (r->err != 0 && a->err != -ECANCELED)
		return;
	r->err = a->err;
	snprintf(r->error, 512, "%s", a->error);
}

/* A change that may have been made, and must not be made twice: that is what is told. */
static void
give_up(struct kekd_client *c, struct result *r, const struct attempt *a)
{
	kekd_reply_free(&r->reply);
	r->answered = false;
	r->err = a->err;
	snprintf(r->error, 512, "%s", a->error);
	c->uncertain = true;
}

/* Of whom a standby named: the active that was is gone. */
static bool
is_away(int err)
{
	return err == -ECONNREFUSED || err == -ETIMEDOUT || err == -ECONNRESET;
}

/* Is the result there? */
static bool
settle(struct kekd_client *c, const struct call *call, size_t endpoint, enum repeat repeat,
	struct attempt *a, struct result *r)
{
	if (a->err == 0) {
		bool lags = is_for_who_knows_more(&a->reply, call->ask);
		keep_reply(r, a);
		if (r->reply.status != 503 && !lags)
			c->current = endpoint;
		r->moving = r->moving || has_no_active(&r->reply);
		return !lags && !is_for_another(&r->reply, repeat);
	}
	if (a->sent && repeat == REPEAT_NEVER) {
		give_up(c, r, a);
		return true;
	}
	r->lost = r->lost || (a->sent && repeat == REPEAT_CONDITIONAL);
	r->moving = r->moving || (a->redirected && !a->sent && is_away(a->err));
	keep_failure(r, a);
	return a->err == -EINVAL || a->err == -ECANCELED;
}

/* Those that failed lately, and are therefore asked later, count as well. */
static unsigned
passed_over(const struct kekd_client *c, const struct kekd_ask *ask, size_t from,
	const struct order *o, size_t i)
{
	size_t count = c->endpoints_count;

	return (unsigned)(ask->chosen ? i : (o->endpoints[i] + count - from) % count);
}

static bool
ask_round(struct kekd_client *c, struct call *call, enum repeat repeat, struct result *r)
{
	struct order o = order_of(c, call->ask);
	size_t from = c->current;

	r->moving = false;
	for (size_t i = 0; i < o.count; i++) {
		struct attempt a;
		size_t endpoint = o.endpoints[i];
		atomic_store(&call->ask->endpoint, endpoint);
		call->ask->passed_over = passed_over(c, call->ask, from, &o, i);
		try_endpoint(c, call, repeat, endpoint, o.count - 1 - i, r->moving, &a);
		keep_health(c, call, endpoint, &a);
		if (settle(c, call, endpoint, repeat, &a, r) || left_ms(call) == 0)
			return true;
	}
	return !r->moving;
}

/* False: there is no time for another round. */
static bool
pause_for_active(const struct call *call, const struct result *r, uint64_t until_ns)
{
	unsigned pause_s = r->answered ? r->reply.retry_after_s : 0;
	struct timespec pause = { pause_s > 0 ? pause_s : MOVING_PAUSE_S, 0 };
	uint64_t then = clock_boot_ns() + (uint64_t)pause.tv_sec * CLOCK_S;

	if (then >= until_ns || then >= call->deadline_ns)
		return false;
	nanosleep(&pause, NULL);
	return !call_is_aborted(call);
}

int
failover_request(struct kekd_client *c, struct call *call, bool conditional,
	struct kekd_reply *ret_reply, char ret_error[512])
{
	struct result r = { .reply.body = BUF_INIT(CLIENT_REPLY_MAX), .error = ret_error };
	uint64_t until_ns = clock_boot_ns() + MOVING_MS * CLOCK_MS;
	enum repeat repeat = repeat_of(call, conditional);

	call->once = repeat != REPEAT_ALWAYS;
	while (!ask_round(c, call, repeat, &r) && pause_for_active(call, &r, until_ns))
		;
	if (!r.answered) {
		c->uncertain = c->uncertain || r.lost;
		return r.err;
	}
	r.reply.repeated = r.lost;
	*ret_reply = r.reply;
	return 0;
}
