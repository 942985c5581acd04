/* SPDX-License-Identifier: Apache-2.0 */
/* What kekctl bench tells: a line that moves while it runs, then a table or JSON. */
#include "bench.h"

#include "kekd/clock.h"

#include <string.h>

typedef unsigned long long ull;

struct sums {
	uint64_t good, refused, failed, wrong, items, items_failed, errors;
	struct histogram *latency;
};

/* One operation, or all of them when op is BENCH_OPS. */
static void
sum_up(const struct bench_tally *t, size_t op, struct sums *s)
{
	s->latency = calloc(1, sizeof(*s->latency));
	for (size_t i = 0; i < BENCH_OPS; i++) {
		if (op != BENCH_OPS && op != i)
			continue;
		s->good += t->ops[i].good;
		s->refused += t->ops[i].refused;
		s->failed += t->ops[i].failed;
		s->wrong += t->ops[i].wrong;
		s->items += t->ops[i].items;
		s->items_failed += t->ops[i].items_failed;
		if (s->latency)
			histogram_merge(s->latency, &t->ops[i].latency);
	}
	for (size_t i = 0; i < BENCH_ERRORS; i++)
		s->errors += t->errors[i];
}

static void
sums_free(struct sums *s)
{
	free(s->latency);
}

static bool
is_used(const struct bench_plan *plan, size_t op)
{
	return plan->weights[op] > 0;
}

static size_t
count_used(const struct bench_plan *plan)
{
	size_t n = 0;

	for (size_t i = 0; i < BENCH_OPS; i++)
		n += is_used(plan, i);
	return n;
}

static double
ms(uint64_t ns)
{
	return (double)ns / 1e6;
}

/* "1,234,567" */
static const char *
grouped(uint64_t n)
{
	if (n < 1000)
		return show_format("%llu", (ull)n);
	return show_format("%s,%03llu", grouped(n / 1000), (ull)(n % 1000));
}

/* ---- while it runs ---- */

static void
subtract(struct histogram *h, const struct histogram *before)
{
	for (size_t i = 0; i < HISTOGRAM_BUCKETS; i++)
		h->counts[i] -= before->counts[i];
	h->total -= before->total;
}

static double
seconds_since(uint64_t now, uint64_t then)
{
	return now > then ? (double)(now - then) / 1e9 : 0;
}

static void
print_progress(const struct bench_plan *plan, const struct bench_clock *clock, uint64_t now_ns,
	const struct sums *all, double rate)
{
	if (now_ns < clock->measure_ns) {
		progress_line(show_format("warming up: %.0f of %.0f s, %u connections",
			seconds_since(now_ns, clock->begin_ns), (double)plan->warmup_ns / 1e9,
			atomic_load(&clock->connected)));
		return;
	}
	progress_line(
		show_format("%.0f of %.0f s: %s/s, p50 %.2f ms, p99 %.2f ms, %s refused, %s failed",
			seconds_since(now_ns, clock->measure_ns), (double)plan->duration_ns / 1e9,
			grouped((uint64_t)(rate + 0.5)), ms(histogram_quantile(all->latency, 0.5)),
			ms(histogram_quantile(all->latency, 0.99)), grouped(all->refused),
			grouped(all->failed + all->wrong + all->errors)));
}

/* The figures of the time since the last call. */
void
bench_progress(const struct bench_plan *plan, struct bench_worker *workers,
	const struct bench_clock *clock, uint64_t now_ns, struct bench_tally *before)
{
	struct bench_tally *sum = calloc(1, sizeof(*sum));
	struct sums all = { 0 }, old = { 0 };

	if (!sum)
		return;
	for (size_t i = 0; i < plan->threads; i++)
		bench_tally_add(sum, workers[i].tally);
	sum_up(sum, BENCH_OPS, &all);
	sum_up(before, BENCH_OPS, &old);
	if (all.latency && old.latency) {
		subtract(all.latency, old.latency);
		print_progress(plan, clock, now_ns, &all, (double)(all.good - old.good));
	}
	*before = *sum;
	sums_free(&all);
	sums_free(&old);
	free(sum);
}

/* ---- the table ---- */

static const char *
describe_mode(const struct bench_plan *plan)
{
	if (plan->rate > 0)
		return show_format("%g requests/s, latency from when each was due", plan->rate);
	return "closed loop";
}

static void
show_load(const struct bench_outcome *o)
{
	const struct bench_plan *plan = o->plan;
	_cleanup_(table_freep) struct table *t = table_new_block();
	const char *mix = "";

	for (size_t i = 0; i < BENCH_OPS; i++)
		if (is_used(plan, i))
			mix = show_format("%s%s%s=%u", mix, *mix ? "," : "", bench_op_names[i],
				plan->weights[i]);
	table_field(t, "Key", "%s", plan->key);
	for (size_t i = 0; i < plan->endpoints_count; i++)
		table_field(t, i == 0 ? "Server" : "", "%s port %s", plan->endpoints[i].host,
			plan->endpoints[i].port);
	table_field(t, "Load", "%s, %u items each of %u bytes", mix, plan->batch, plan->size);
	table_field(t, "Mode", "%s", describe_mode(plan));
	table_field(t, "Connections", "%u, by %u thread%s", plan->connections, plan->threads,
		plan->threads == 1 ? "" : "s");
	table_field(t, "Measured", "%.1f s after %.1f s of warm-up", o->measured_s,
		(double)plan->warmup_ns / 1e9);
	table_field(t, "Generator", "%.0f %% of a core",
		100 * o->tally->cpu_s / (o->measured_s + (double)plan->warmup_ns / 1e9));
	table_print(t);
}

static const char *
show_ms(uint64_t ns)
{
	return show_format(ns < 10000000 ? "%.2f" : ns < 100000000 ? "%.1f" : "%.0f", ms(ns));
}

static void
add_row(const struct bench_outcome *o, size_t op, struct table *t)
{
	struct sums s = { 0 };
	const struct histogram *h;

	sum_up(o->tally, op, &s);
	h = s.latency;
	if (h)
		table_row(t, (const char *const[]){
				     op == BENCH_OPS ? "all" : bench_op_names[op],
				     grouped((uint64_t)((double)s.good / o->measured_s + 0.5)),
				     grouped((uint64_t)((double)s.items / o->measured_s + 0.5)),
				     show_ms(histogram_quantile(h, 0.5)),
				     show_ms(histogram_quantile(h, 0.9)),
				     show_ms(histogram_quantile(h, 0.99)),
				     show_ms(histogram_quantile(h, 0.999)),
				     show_ms(h->max),
				     grouped(s.good),
				     grouped(s.refused),
				     grouped(s.failed),
				     grouped(s.wrong),
			     });
	sums_free(&s);
}

static void
show_answers(const struct bench_outcome *o)
{
	const struct bench_tally *tally = o->tally;
	_cleanup_(table_freep) struct table *t = table_new(
		(const char *const[]){ "STATUS", "CODE", ">COUNT", NULL });

	for (size_t i = 0; i < tally->answers_count; i++)
		table_row(t,
			(const char *const[]){ tally->answers[i].status
						       ? show_format("%d", tally->answers[i].status)
						       : "-",
				tally->answers[i].code, grouped(tally->answers[i].count) });
	for (size_t i = 0; i < BENCH_ERRORS; i++)
		if (tally->errors[i] > 0)
			table_row(t, (const char *const[]){ "-",
					     show_format("connection: %s", bench_error_names[i]),
					     grouped(tally->errors[i]) });
	if (tally->unsent > 0)
		table_row(t, (const char *const[]){ "-", "due, but no connection was free",
				     grouped(tally->unsent) });
	if (table_rows(t) == 0)
		return;
	putchar('\n');
	table_print(t);
}

void
bench_show_table(const struct bench_outcome *o)
{
	_cleanup_(table_freep) struct table *t = table_new(
		(const char *const[]){ "OPERATION", ">PER S", ">ITEMS/S", ">P50 MS", ">P90", ">P99",
			">P99.9", ">MAX", ">GOOD", ">REFUSED", ">FAILED", ">WRONG", NULL });

	show_load(o);
	putchar('\n');
	for (size_t i = 0; i < BENCH_OPS; i++)
		if (is_used(o->plan, i))
			add_row(o, i, t);
	if (count_used(o->plan) > 1)
		add_row(o, BENCH_OPS, t);
	table_print(t);
	show_answers(o);
}

/* ---- JSON ---- */

static json_t *
latencies(const struct histogram *h)
{
	return json_pack("{s:f, s:f, s:f, s:f, s:f, s:f}", "p50", ms(histogram_quantile(h, 0.5)),
		"p90", ms(histogram_quantile(h, 0.9)), "p99", ms(histogram_quantile(h, 0.99)),
		"p99_9", ms(histogram_quantile(h, 0.999)), "max", ms(h->max), "mean",
		histogram_mean(h) / 1e6);
}

/* In a closed loop a connection would have come again after the mean time. At a fixed rate
 * latencies count from when a request was due: they are corrected as they are. */
static json_t *
corrected(const struct bench_plan *plan, const struct histogram *h)
{
	struct histogram *c;
	json_t *json;

	if (plan->rate > 0)
		return latencies(h);
	c = calloc(1, sizeof(*c));
	if (!c)
		return json_null();
	histogram_correct(h, (uint64_t)histogram_mean(h), c);
	json = latencies(c);
	free(c);
	return json;
}

static json_t *
figures(const struct bench_outcome *o, size_t op)
{
	struct sums s = { 0 };
	json_t *json = NULL;

	sum_up(o->tally, op, &s);
	if (s.latency)
		json = json_pack("{s:I, s:f, s:I, s:f, s:I, s:I, s:I, s:I, s:o, s:o}", "good",
			(json_int_t)s.good, "per_s", (double)s.good / o->measured_s, "items",
			(json_int_t)s.items, "items_per_s", (double)s.items / o->measured_s,
			"items_failed", (json_int_t)s.items_failed, "refused",
			(json_int_t)s.refused, "failed", (json_int_t)s.failed, "wrong",
			(json_int_t)s.wrong, "latency_ms", latencies(s.latency),
			"corrected_latency_ms", corrected(o->plan, s.latency));
	sums_free(&s);
	return json;
}

static json_t *
answers(const struct bench_tally *t)
{
	json_t *array = json_array();

	for (size_t i = 0; i < t->answers_count; i++)
		json_array_append_new(array,
			json_pack("{s:i, s:s, s:I}", "status", t->answers[i].status, "code",
				t->answers[i].code, "count", (json_int_t)t->answers[i].count));
	return array;
}

static json_t *
load_of(const struct bench_plan *plan)
{
	json_t *load = json_pack("{s:s, s:s, s:f, s:i, s:i, s:i, s:i, s:f, s:f}", "key", plan->key,
		"mode", plan->rate > 0 ? "fixed rate" : "closed loop", "rate", plan->rate,
		"connections", (int)plan->connections, "threads", (int)plan->threads, "batch",
		(int)plan->batch, "bytes", (int)plan->size, "duration_s",
		(double)plan->duration_ns / 1e9, "warmup_s", (double)plan->warmup_ns / 1e9);
	json_t *mix = json_object(), *endpoints = json_array();

	for (size_t i = 0; i < BENCH_OPS; i++)
		if (is_used(plan, i))
			json_object_set_new(mix, bench_op_names[i], json_integer(plan->weights[i]));
	for (size_t i = 0; i < plan->endpoints_count; i++)
		json_array_append_new(
			endpoints, json_string(show_format("https://%s:%s", plan->endpoints[i].host,
					   plan->endpoints[i].port)));
	json_object_set_new(load, "mix", mix);
	json_object_set_new(load, "endpoints", endpoints);
	return load;
}

void
bench_show_json(const struct bench_outcome *o)
{
	const struct bench_tally *t = o->tally;
	_cleanup_(json_freep) json_t *json = json_object();
	json_t *operations = json_object(), *errors = json_object();

	for (size_t i = 0; i < BENCH_OPS; i++)
		if (is_used(o->plan, i))
			json_object_set_new(operations, bench_op_names[i], figures(o, i));
	for (size_t i = 0; i < BENCH_ERRORS; i++)
		json_object_set_new(
			errors, bench_error_names[i], json_integer((json_int_t)t->errors[i]));
	json_object_set_new(json, "load", load_of(o->plan));
	json_object_set_new(json, "measured_s", json_real(o->measured_s));
	json_object_set_new(json, "all", figures(o, BENCH_OPS));
	json_object_set_new(json, "operations", operations);
	json_object_set_new(json, "answers", answers(t));
	json_object_set_new(json, "errors", errors);
	json_object_set_new(json, "unsent", json_integer((json_int_t)t->unsent));
	json_object_set_new(json, "requests_outside",
		json_pack("{s:I, s:I, s:I}", "setup", (json_int_t)o->plan->setup_requests, "warmup",
			(json_int_t)t->warmup, "after", (json_int_t)t->after));
	json_object_set_new(
		json, "connections_made", json_integer((json_int_t)t->connections_made));
	json_object_set_new(json, "generator_cpu_s", json_real(t->cpu_s));
	show_json(json);
}
