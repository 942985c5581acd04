/* SPDX-License-Identifier: Apache-2.0 */
/* The service's metrics: doc/metrics.md says what each is for. */
#include "parts.h"

#include "kekd/clock.h"

#include <stdatomic.h>
#include <stdio.h>

static void
put_calls(const struct counts *c, struct metrics_text *t)
{
	metrics_family(t, "kekd_kms_calls_total", METRICS_COUNTER, "Calls that have their answer.");
	for (unsigned m = 0; m < METHODS; m++)
		for (unsigned s = 0; s < KMS_STATUSES; s++) {
			uint64_t n = metrics_read(&c->calls[m][s]);
			if (n > 0 || s == KMS_OK)
				metrics_number(t, n, "method", kms_method_name(m), "status",
					kms_status_name(s), NULL);
		}
	metrics_family(t, "kekd_kms_call_duration_seconds", METRICS_HISTOGRAM,
		"From the moment when a call was understood to its answer.");
	for (unsigned m = 0; m < METHODS; m++)
		metrics_times(t, &c->times[m], "method", kms_method_name(m), NULL);
}

static void
put_probe(struct kms_service *s, struct metrics_text *t)
{
	static const char *const directions[] = { "wrap", "unwrap" };
	struct probe_state state;
	struct kms_key_id id;
	char reason[512], hash[KMS_KEY_ID_HASH_SIZE];

	probe_read(s->probe, &state, &id);
	uint64_t now = clock_boot_ns(); /* after that probe's end */
	metrics_family(
		t, "kekd_kms_healthy", METRICS_GAUGE, "1 while Status answers without an error.");
	metrics_number(t, probe_is_good(&state, now, s->config->probe_every_ns, reason), NULL);
	metrics_family(t, "kekd_kms_probe_success", METRICS_GAUGE,
		"1 when the last probe succeeded in this direction; absent where it was not "
		"tried.");
	for (size_t i = 0; i < PROBE_DIRECTIONS; i++)
		if (state.last.verdict[i] != PROBE_UNTRIED)
			metrics_number(t, state.last.verdict[i] == PROBE_GOOD, "direction",
				directions[i], NULL);
	metrics_family(t, "kekd_kms_probes_total", METRICS_COUNTER, "Probes that have ended.");
	metrics_number(t, metrics_read(&s->counts.probes[0]), "result", "ok", NULL);
	metrics_number(t, metrics_read(&s->counts.probes[1]), "result", "failed", NULL);
	metrics_family(
		t, "kekd_kms_probe_duration_seconds", METRICS_HISTOGRAM, "How long probes took.");
	metrics_times(t, &s->counts.probe_times, NULL);
	if (state.any) {
		metrics_family(t, "kekd_kms_probe_timestamp_seconds", METRICS_GAUGE,
			"When the last probe ended.");
		metrics_real(t,
			(double)clock_real_us() / 1e6 - (double)(now - state.ended_ns) / 1e9, NULL);
	}
	if (id.activation == 0)
		return;
	kms_key_id_hash(&id, hash);
	metrics_family(t, "kekd_kms_key_id_activation", METRICS_GAUGE,
		"The number in the key_id that is announced.");
	metrics_number(t, id.activation, "key_id_hash", hash, NULL);
}

static void
put_backend(struct kms_service *s, struct metrics_text *t)
{
	struct backend_load load;

	backend_load(s->backend, &load);
	metrics_family(t, "kekd_kms_requests_queued", METRICS_GAUGE,
		"Requests to kekd that wait for a thread.");
	metrics_number(t, load.queued, NULL);
	metrics_family(t, "kekd_kms_requests_in_flight", METRICS_GAUGE,
		"Requests to kekd without an answer yet.");
	metrics_number(t, load.flying, NULL);
	metrics_family(t, "kekd_kms_calls_waiting", METRICS_GAUGE,
		"Encrypts and Decrypts without an answer yet.");
	metrics_number(t, load.waiting, NULL);
}

static void
put_counts(const struct counts *c, struct metrics_text *t)
{
	const struct {
		const char *name, *help;
		const atomic_uint_least64_t *value;
	} counters[] = {
		{ "kekd_kms_failovers_total", "Endpoints passed over before one answered.",
			&c->failovers },
		{ "kekd_kms_hedges_total", "Decrypts that were sent to another endpoint as well.",
			&c->hedges },
		{ "kekd_kms_hedges_won_total", "Of those, how often the other endpoint was first.",
			&c->hedges_won },
		{ "kekd_kms_hedges_refused_total",
			"Decrypts that were slow, and not sent again for want of budget.",
			&c->hedges_refused },
		{ "kekd_kms_decrypts_joined_total",
			"Decrypts that waited for the answer to an equal one.", &c->joined },
		{ "kekd_kms_calls_cancelled_total", "Calls whose caller gave up.", &c->cancelled },
		{ "kekd_kms_key_lookups_total", "Decrypts of a key_id that was not known yet.",
			&c->lookups },
	};

	for (size_t i = 0; i < sizeof(counters) / sizeof(counters[0]); i++) {
		metrics_family(t, counters[i].name, METRICS_COUNTER, counters[i].help);
		metrics_number(t, metrics_read(counters[i].value), NULL);
	}
}

static void
put_endpoints(struct kms_service *s, struct metrics_text *t)
{
	static const char *const states[] = {
		[ENDPOINT_UNKNOWN] = "unknown",
		[ENDPOINT_SERVES] = "serves",
		[ENDPOINT_BEHIND] = "behind",
		[ENDPOINT_AWAY] = "away",
	};
	struct records_endpoint e;

	metrics_family(
		t, "kekd_kms_endpoint_state", METRICS_GAUGE, "1 for the endpoint's present state.");
	for (size_t i = 0; i < s->config->endpoints_count; i++) {
		records_endpoint(s->records, i, &e);
		for (size_t k = 0; k < sizeof(states) / sizeof(states[0]); k++)
			metrics_number(t, e.state == k, "endpoint", s->config->endpoints[i],
				"state", states[k], NULL);
	}
	metrics_family(t, "kekd_kms_endpoint_activation", METRICS_GAUGE,
		"The key's activation number that the endpoint told last.");
	for (size_t i = 0; i < s->config->endpoints_count; i++) {
		records_endpoint(s->records, i, &e);
		metrics_number(t, e.activation, "endpoint", s->config->endpoints[i], NULL);
	}
}

static void
put_certificate(const struct counts *c, struct metrics_text *t)
{
	uint64_t ends_s = metrics_read(&c->certificate_ends_s);

	if (ends_s == 0)
		return;
	metrics_family(t, "kekd_kms_certificate_expiry_timestamp_seconds", METRICS_GAUGE,
		"When the client certificate that is in use ends.");
	metrics_number(t, ends_s, NULL);
}

void
kms_service_metrics(struct kms_service *s, struct buf *out)
{
	struct metrics_text t = { .out = out };

	put_calls(&s->counts, &t);
	put_probe(s, &t);
	put_backend(s, &t);
	put_counts(&s->counts, &t);
	put_endpoints(s, &t);
	put_certificate(&s->counts, &t);
}
