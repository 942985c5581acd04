/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The probe: does kekd wrap and unwrap for this plugin at this moment? A thread asks every so
 * often, and whoever wants to know reads the last answer. What is announced moves on here and
 * nowhere else.
 */
#ifndef KEKD_KMS_PROBE_H
#define KEKD_KMS_PROBE_H

#include "config.h"
#include "counts.h"
#include "key_id.h"
#include "records.h"

#include <stdbool.h>
#include <stdint.h>

enum probe_direction { PROBE_WRAP, PROBE_UNWRAP, PROBE_DIRECTIONS };

/* One probe's result. While nothing can be wrapped, what was wrapped last is unwrapped; where there
 * is nothing yet, that is not tried. */
enum probe_verdict { PROBE_UNTRIED, PROBE_FAILED, PROBE_GOOD, PROBE_VERDICTS };
struct probe_result {
	enum probe_verdict verdict[PROBE_DIRECTIONS];
	char reason[PROBE_DIRECTIONS][512]; /* where it failed */
};

/* What is known from probes. Zeroed: there was none. */
struct probe_state {
	bool any;
	uint64_t ended_ns; /* the last one; CLOCK_BOOTTIME */
	struct probe_result last;
};
/* Pure. False with the reason: none yet, the last one failed (and in which direction), or it is
 * older than three intervals. */
bool probe_is_good(
	const struct probe_state *s, uint64_t now_ns, uint64_t every_ns, char ret_reason[512]);
/* From the beginning of one to that of the next. */
uint64_t probe_pause(const struct probe_state *s, uint64_t every_ns);
/* Is there something to tell: a direction has begun to fail, or works again? */
bool probe_has_news(const struct probe_state *before, const struct probe_result *now);

struct probe;
struct probe_parts { /* borrowed; they outlive it */
	const struct kms_config *config;
	struct kekd_health *health;
	struct records *records;
	struct counts *counts;
};

/* id: what was announced before the start, or activation 0. */
int probe_open(const struct probe_parts *parts, const struct kms_key_id *id,
	struct probe **ret_probe, char ret_error[256]);
void probe_stop(struct probe *p); /* any thread */
void probe_freep(struct probe **p);

void probe_soon(struct probe *p); /* something has changed: do not wait for the interval */
/* Any thread, never blocks for long. The key_id is on disk, and may be announced when the state is
 * good. */
void probe_read(struct probe *p, struct probe_state *ret_state, struct kms_key_id *ret_id);

#endif
