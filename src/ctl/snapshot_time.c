/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How far what a snapshot holds reaches. A file's time is a copy's as soon as it was copied, and a
 * backup that is taken to be newer than it is would let a version be destroyed that etcd still
 * needs. Each API server and each node renews a Lease every ten seconds, in plaintext: the newest
 * renewTime tells within a little when the snapshot was taken.
 */
#include "snapshot.h"

#include "kekd/clock.h"

#include <errno.h>
#include <string.h>

#define PLAUSIBLE_US (600ull * 1000000) /* clocks differ, and a cluster at rest is slow */
#define US 1000000ull

/* Field numbers of runtime.Unknown, Lease, LeaseSpec, MicroTime. */
enum { UNKNOWN_RAW = 2, LEASE_SPEC = 2, SPEC_RENEW_TIME = 4, TIME_SECONDS = 1, TIME_NANOS = 2 };

static bool
find_bytes(struct bolt *b, struct bolt_slice s, unsigned number, struct bolt_slice *ret_bytes)
{
	struct wire w = { .bolt = b, .s = s };
	struct wire_field f;
	bool found = false;

	while (wire_next(&w, &f) > 0)
		if (f.number == number && f.is_bytes) {
			*ret_bytes = f.bytes;
			found = true;
		}
	return found;
}

static uint64_t
read_time(struct bolt *b, struct bolt_slice s)
{
	struct wire w = { .bolt = b, .s = s };
	uint64_t seconds = 0, nanos = 0;
	struct wire_field f;

	while (wire_next(&w, &f) > 0) {
		if (f.number == TIME_SECONDS && !f.is_bytes)
			seconds = f.value;
		if (f.number == TIME_NANOS && !f.is_bytes)
			nanos = f.value;
	}
	if (seconds > (1ull << 33) || nanos >= 1000000000)
		return 0;
	return seconds * US + nanos / 1000;
}

void
snapshot_take_lease(struct snapshot *s, const struct mvcc_record *record)
{
	static const char magic[4] = { 'k', '8', 's', 0 };
	struct bolt_slice at = record->value;
	char head[sizeof(magic)];
	uint64_t us;

	if (at.size < sizeof(head) || bolt_read(s->bolt, at, 0, head, sizeof(head)) != 0 ||
		memcmp(head, magic, sizeof(magic)) != 0)
		return;
	at.offset += sizeof(head);
	at.size -= sizeof(head);
	if (!find_bytes(s->bolt, at, UNKNOWN_RAW, &at) ||
		!find_bytes(s->bolt, at, LEASE_SPEC, &at) ||
		!find_bytes(s->bolt, at, SPEC_RENEW_TIME, &at))
		return;
	us = read_time(s->bolt, at);
	if (us > s->lease_us)
		s->lease_us = us;
}

void
snapshot_settle_time(struct snapshot *s)
{
	if (s->taken_us == 0) {
		s->taken_us = s->file_us;
		s->copied = s->lease_us > 0 && s->lease_us + PLAUSIBLE_US < s->file_us;
	}
	if (s->copied)
		s->taken_us = s->lease_us;
	clock_format(s->taken_us, s->taken);
}
