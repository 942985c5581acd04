/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kekctl bench: a load of data-key operations, and what the server made of it. Here: the course of
 * a run, threads, signals, sums.
 */
#include "bench.h"

#include "kekd/clock.h"

#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#define CONNECT_NS (10 * CLOCK_S) /* for all connections to be made */
#define PROGRESS_NS CLOCK_S

struct run {
	struct bench_plan plan;
	struct bench_clock clock;
	struct bench_worker *workers;
	struct bench_tally *tallies; /* one per worker, then the sum and the one shown last */
	size_t started;
	int signals;
	bool shows; /* progress, on a terminal */
};

const char *const bench_error_names[BENCH_ERRORS] = { "connect", "tls", "closed", "timeout",
	"protocol" };

/* ---- sums ---- */

static void
add(_Atomic uint64_t *sum, const _Atomic uint64_t *n)
{
	atomic_fetch_add_explicit(
		sum, atomic_load_explicit(n, memory_order_relaxed), memory_order_relaxed);
}

void
bench_tally_answer(struct bench_tally *t, int status, const char *code, uint64_t count)
{
	size_t i = 0;

	while (i < t->answers_count &&
		(t->answers[i].status != status || strcmp(t->answers[i].code, code) != 0))
		i++;
	if (i == STR_COUNT(t->answers)) {
		i--;
		t->answers[i].status = 0;
		snprintf(t->answers[i].code, sizeof(t->answers[i].code), "others");
	} else if (i == t->answers_count) {
		t->answers_count++;
		t->answers[i].status = status;
		snprintf(t->answers[i].code, sizeof(t->answers[i].code), "%s", code);
	}
	t->answers[i].count += count;
}

void
bench_tally_add(struct bench_tally *sum, const struct bench_tally *t)
{
	for (size_t i = 0; i < BENCH_OPS; i++) {
		add(&sum->ops[i].good, &t->ops[i].good);
		add(&sum->ops[i].refused, &t->ops[i].refused);
		add(&sum->ops[i].failed, &t->ops[i].failed);
		add(&sum->ops[i].wrong, &t->ops[i].wrong);
		add(&sum->ops[i].items, &t->ops[i].items);
		add(&sum->ops[i].items_failed, &t->ops[i].items_failed);
		histogram_merge(&sum->ops[i].latency, &t->ops[i].latency);
	}
	for (size_t i = 0; i < BENCH_ERRORS; i++)
		add(&sum->errors[i], &t->errors[i]);
	add(&sum->warmup, &t->warmup);
	add(&sum->after, &t->after);
	add(&sum->unsent, &t->unsent);
	add(&sum->connections_made, &t->connections_made);
	for (size_t i = 0; i < t->answers_count; i++)
		bench_tally_answer(
			sum, t->answers[i].status, t->answers[i].code, t->answers[i].count);
	sum->cpu_s += t->cpu_s;
}

/* ---- the course of a run ---- */

static int
start_workers(struct run *r)
{
	const struct bench_plan *plan = &r->plan;

	r->workers = calloc(plan->threads, sizeof(*r->workers));
	r->tallies = calloc(plan->threads + 2, sizeof(*r->tallies));
	if (!r->workers || !r->tallies) {
		say_error("no memory for the histograms");
		return CTL_FAILED;
	}
	for (unsigned i = 0; i < plan->threads; i++) {
		struct bench_worker *w = &r->workers[i];
		*w = (struct bench_worker){ .plan = plan,
			.clock = &r->clock,
			.tally = &r->tallies[i],
			.number = i,
			.connections = (plan->connections + plan->threads - 1 - i) /
				       plan->threads };
		if (pthread_create(&w->thread, NULL, bench_worker_run, w) != 0) {
			say_error("thread %u of %u could not be started", i + 1, plan->threads);
			return CTL_FAILED;
		}
		r->started++;
	}
	return CTL_OK;
}

static void
join_workers(struct run *r)
{
	for (size_t i = 0; i < r->started; i++)
		pthread_join(r->workers[i].thread, NULL);
	r->started = 0;
}

/* True: somebody wants it to end. */
static bool
wait_until(struct run *r, uint64_t ns)
{
	uint64_t now = clock_monotonic_ns();
	struct pollfd p = { .fd = r->signals, .events = POLLIN };

	if (now >= ns)
		return false;
	return poll(&p, 1, (int)((ns - now) / CLOCK_MS) + 1) > 0;
}

static int
say_unconnected(const struct run *r)
{
	const char *error = "no connection could be made in time";

	for (size_t i = 0; i < r->started; i++)
		if (r->workers[i].error[0])
			error = r->workers[i].error;
	say_error("%s", error);
	say_hint("does \"kekctl status\" with the same endpoint and certificate work?");
	return CTL_UNAVAILABLE;
}

static int
wait_connected(struct run *r)
{
	uint64_t end = clock_monotonic_ns() + CONNECT_NS;

	while (atomic_load(&r->clock.connected) < r->plan.connections && clock_monotonic_ns() < end)
		if (wait_until(r, clock_monotonic_ns() + 5 * CLOCK_MS))
			return CTL_FAILED;
	return atomic_load(&r->clock.connected) > 0 ? CTL_OK : say_unconnected(r);
}

static void
watch_load(struct run *r)
{
	struct bench_clock *c = &r->clock;
	uint64_t next;

	c->begin_ns = clock_monotonic_ns();
	c->measure_ns = c->begin_ns + r->plan.warmup_ns;
	atomic_store(&c->end_ns, c->measure_ns + r->plan.duration_ns);
	atomic_store(&c->running, true);
	next = c->begin_ns + PROGRESS_NS;
	for (;;) {
		uint64_t now = clock_monotonic_ns(), end = atomic_load(&c->end_ns);
		if (now >= end)
			break;
		if (wait_until(r, next < end ? next : end))
			atomic_store(&c->end_ns, clock_monotonic_ns());
		now = clock_monotonic_ns();
		if (now < next)
			continue;
		if (r->shows)
			bench_progress(
				&r->plan, r->workers, c, now, &r->tallies[r->plan.threads + 1]);
		next += PROGRESS_NS;
	}
}

static int
judge(const struct run *r, const struct bench_tally *t)
{
	uint64_t good = 0, wrong = 0;

	for (size_t i = 0; i < BENCH_OPS; i++) {
		good += t->ops[i].good;
		wrong += t->ops[i].wrong;
	}
	if (wrong > 0) {
		say_error("%llu answers were wrong", (unsigned long long)wrong);
		return CTL_FAILED;
	}
	if (good > 0)
		return CTL_OK;
	say_error("not one request of the measurement succeeded");
	for (size_t i = 0; i < r->plan.threads; i++)
		if (r->workers[i].error[0]) {
			say_hint("%s", r->workers[i].error);
			break;
		}
	return CTL_UNAVAILABLE;
}

static int
report(struct run *r, bool json)
{
	struct bench_tally *sum = &r->tallies[r->plan.threads];
	uint64_t end = atomic_load(&r->clock.end_ns);
	struct bench_outcome o = { .plan = &r->plan, .tally = sum };

	if (end <= r->clock.measure_ns) {
		say_error("ended before the warm-up was over: nothing was measured");
		return CTL_FAILED;
	}
	o.measured_s = (double)(end - r->clock.measure_ns) / 1e9;
	for (size_t i = 0; i < r->plan.threads; i++)
		bench_tally_add(sum, &r->tallies[i]);
	if (json)
		bench_show_json(&o);
	else
		bench_show_table(&o);
	return judge(r, sum);
}

static int
open_signals(void)
{
	sigset_t set;

	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	return signalfd(-1, &set, SFD_CLOEXEC);
}

static int
run_load(struct ctl *ctl, struct run *r)
{
	int status = start_workers(r);

	if (status == CTL_OK)
		status = wait_connected(r);
	if (status == CTL_OK)
		watch_load(r);
	else
		atomic_store(&r->clock.stopped, true);
	join_workers(r);
	if (r->shows)
		progress_wipe();
	return status == CTL_OK ? report(r, ctl->json) : status;
}

static int
run_bench(struct ctl *ctl)
{
	struct run r = { .signals = open_signals(), .shows = progress_wanted(ctl) };
	int status = bench_plan_make(ctl, &r.plan);

	if (status == CTL_OK)
		status = run_load(ctl, &r);
	free(r.workers);
	free(r.tallies);
	bench_plan_free(&r.plan);
	close(r.signals);
	return status;
}

const struct ctl_command ctl_bench_commands[] = {
	{ "bench", "KEY [--mix OP=N,...] [--connections N] [--batch N] [--rate R] [--duration T]",
		"Loads a server with operations and measures it",
		"OP is wrap, unwrap, generate or rewrap. Without --rate every connection sends its "
		"next\n"
		"request when the answer has come; with it, requests are due at a fixed rate, and "
		"their\n"
		"latency counts from then. What is unwrapped was wrapped before, and is compared.\n"
		"It is a real load: wraps use up the key's budget of IVs, and the audit log grows.",
		" mix connections threads batch rate duration warmup bytes ", 1, 1, run_bench },
	{ NULL },
};
