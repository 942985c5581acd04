/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Histograms of times and Prometheus' text format. Sums are kept in nanoseconds: an addition of
 * doubles would need a loop, and 2^64 ns are 584 years.
 */
#include "kekd/metrics.h"

#include "kekd/clock.h"
#include "kekd/str.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

static const struct {
	uint64_t ns;
	const char *seconds;
} bounds[METRICS_BUCKETS - 1] = {
	{ CLOCK_MS / 10, "0.0001" },
	{ CLOCK_MS / 4, "0.00025" },
	{ CLOCK_MS / 2, "0.0005" },
	{ CLOCK_MS, "0.001" },
	{ CLOCK_MS * 5 / 2, "0.0025" },
	{ CLOCK_MS * 5, "0.005" },
	{ CLOCK_MS * 10, "0.01" },
	{ CLOCK_MS * 25, "0.025" },
	{ CLOCK_MS * 50, "0.05" },
	{ CLOCK_MS * 100, "0.1" },
	{ CLOCK_MS * 250, "0.25" },
	{ CLOCK_MS * 500, "0.5" },
	{ CLOCK_S, "1" },
	{ CLOCK_S * 5 / 2, "2.5" },
	{ CLOCK_S * 5, "5" },
	{ CLOCK_S * 10, "10" },
};

static const char *const types[] = {
	[METRICS_COUNTER] = "counter",
	[METRICS_GAUGE] = "gauge",
	[METRICS_HISTOGRAM] = "histogram",
};

void
metrics_observe(struct metrics_histogram *h, uint64_t ns)
{
	size_t i = 0;

	while (i < METRICS_BUCKETS - 1 && ns > bounds[i].ns)
		i++;
	metrics_add(&h->buckets[i], 1);
	metrics_add(&h->sum_ns, ns);
}

uint64_t
metrics_observed(const struct metrics_histogram *h)
{
	uint64_t count = 0;

	for (size_t i = 0; i < METRICS_BUCKETS; i++)
		count += metrics_read(&h->buckets[i]);
	return count;
}

void
metrics_family(struct metrics_text *t, const char *name, enum metrics_type type, const char *help)
{
	t->name = name;
	buf_printf(t->out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, types[type]);
}

static void
put_escaped(struct buf *b, const char *value)
{
	for (; *value; value++) {
		if (*value == '\n')
			buf_str(b, "\\n");
		else if (*value == '"' || *value == '\\')
			buf_printf(b, "\\%c", *value);
		else
			buf_u8(b, (uint8_t)*value);
	}
}

/* The labels without their braces. */
static void
put_labels(struct buf *b, va_list labels)
{
	const char *name, *comma = "";

	while ((name = va_arg(labels, const char *)) != NULL) {
		buf_printf(b, "%s%s=\"", comma, name);
		put_escaped(b, va_arg(labels, const char *));
		buf_u8(b, '"');
		comma = ",";
	}
}

/* kekd_requests_total{operation="wrap"}, and a space. */
static void
put_head(struct metrics_text *t, va_list labels)
{
	size_t before;

	buf_str(t->out, t->name);
	buf_u8(t->out, '{');
	before = t->out->len;
	put_labels(t->out, labels);
	if (t->out->len == before && !t->out->bad)
		t->out->len--; /* none: no braces */
	else
		buf_u8(t->out, '}');
	buf_u8(t->out, ' ');
}

void
metrics_number(struct metrics_text *t, uint64_t value, ...)
{
	va_list labels;

	va_start(labels, value);
	put_head(t, labels);
	va_end(labels);
	buf_printf(t->out, "%" PRIu64 "\n", value);
}

void
metrics_real(struct metrics_text *t, double value, ...)
{
	va_list labels;

	va_start(labels, value);
	put_head(t, labels);
	va_end(labels);
	buf_printf(t->out, "%.15g\n", value);
}

static void
put_bucket(struct metrics_text *t, const char *labels, const char *bound, uint64_t count)
{
	buf_printf(t->out, "%s_bucket{%s%sle=\"%s\"} %" PRIu64 "\n", t->name, labels,
		*labels ? "," : "", bound, count);
}

/* The count is the sum of the buckets, so that the two agree while others observe. */
void
metrics_times(struct metrics_text *t, const struct metrics_histogram *h, ...)
{
	_cleanup_(buf_free) struct buf text = BUF_INIT(4096);
	const char *labels, *open, *close;
	uint64_t count = 0;
	va_list ap;

	va_start(ap, h);
	put_labels(&text, ap);
	va_end(ap);
	buf_u8(&text, '\0');
	if (text.bad) {
		t->out->bad = true;
		return;
	}
	labels = (const char *)text.data;
	for (size_t i = 0; i < METRICS_BUCKETS - 1; i++) {
		count += metrics_read(&h->buckets[i]);
		put_bucket(t, labels, bounds[i].seconds, count);
	}
	count += metrics_read(&h->buckets[METRICS_BUCKETS - 1]);
	put_bucket(t, labels, "+Inf", count);
	open = *labels ? "{" : "";
	close = *labels ? "}" : "";
	buf_printf(t->out, "%s_sum%s%s%s %.9f\n", t->name, open, labels, close,
		(double)metrics_read(&h->sum_ns) / (double)CLOCK_S);
	buf_printf(t->out, "%s_count%s%s%s %" PRIu64 "\n", t->name, open, labels, close, count);
}
