/* SPDX-License-Identifier: Apache-2.0 */
/* Counting what is not worth a record each. */
#include "refusals.h"

#include "format.h"
#include "kekd/clock.h"
#include "kekd/err.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define MINUTE (60 * CLOCK_S)
#define HASHES 1024

struct refusals {
	struct refusals_bucket strangers;
	struct refusals_bucket *all, *by_hash[HASHES];
	size_t count;
	uint64_t due, from_us; /* 0: the minute has not begun */
};

int
refusals_open(struct refusals **ret_refusals)
{
	struct refusals *r = calloc(1, sizeof(*r));

	if (!r)
		return -ENOMEM;
	*ret_refusals = r;
	return 0;
}

void
refusals_reset(struct refusals *r)
{
	while (r->all) {
		struct refusals_bucket *bucket = r->all;
		r->all = bucket->next;
		free(bucket);
	}
	memset(r, 0, sizeof(*r));
}

void
refusals_freep(struct refusals **r)
{
	if (*r)
		refusals_reset(*r);
	free(*r);
	*r = NULL;
}

static unsigned
hash(const char *text)
{
	unsigned h = 5381;

	for (; *text; text++)
		h = h * 33 + (unsigned char)*text;
	return h % HASHES;
}

static struct refusals_bucket *
find_bucket(struct refusals *r, const char *client)
{
	struct refusals_bucket *bucket;
	unsigned h;

	if (!client || strlen(client) >= sizeof(bucket->client))
		return &r->strangers;
	h = hash(client);
	for (bucket = r->by_hash[h]; bucket; bucket = bucket->next_same)
		if (strcmp(bucket->client, client) == 0)
			return bucket;
	bucket = r->count < REFUSALS_BUCKETS_MAX ? calloc(1, sizeof(*bucket)) : NULL;
	if (!bucket)
		return &r->strangers;
	memcpy(bucket->client, client, strlen(client) + 1);
	bucket->next_same = r->by_hash[h];
	r->by_hash[h] = bucket;
	bucket->next = r->all;
	r->all = bucket;
	r->count++;
	return bucket;
}

static void
count_code(struct refusals_bucket *bucket, const char *code)
{
	const struct kekd_err_info *info = code ? kekd_err_find(code) : NULL;

	for (size_t i = 0; info && i < bucket->codes_count; i++)
		if (bucket->codes[i].code == info->code) {
			bucket->codes[i].count++;
			return;
		}
	if (info && bucket->codes_count < REFUSALS_CODES_MAX)
		bucket->codes[bucket->codes_count++] = (struct refusals_count){ info->code, 1 };
	else
		bucket->other_codes++;
}

static void
count_version(struct refusals_bucket *bucket, const struct audit_version *v)
{
	for (size_t i = 0; i < bucket->versions_count; i++)
		if (uuid_equal(&bucket->versions[i].id, &v->id)) {
			bucket->versions[i].refused += v->refused;
			return;
		}
	if (bucket->versions_count == REFUSALS_VERSIONS_MAX) {
		bucket->other_versions += v->refused;
		return;
	}
	bucket->versions[bucket->versions_count].version = v->version;
	bucket->versions[bucket->versions_count].id = v->id;
	bucket->versions[bucket->versions_count++].refused = v->refused;
}

static bool
is_bounded(const struct audit_record *record)
{
	return record->type == AUDIT_REFUSED && !record->force_durable;
}

static void
count(struct refusals_bucket *bucket, const struct audit_record *record)
{
	bucket->count++;
	bucket->last_us = record->time_us;
	count_code(bucket, record->code);
	for (size_t i = 0; i < record->versions_count; i++)
		if (record->versions[i].refused)
			count_version(bucket, &record->versions[i]);
}

bool
refusals_count(struct refusals *r, const struct audit_record *record)
{
	struct refusals_bucket *bucket;

	if (!is_bounded(record) || r->due == 0)
		return false;
	bucket = find_bucket(r, record->client);
	if (bucket->written < REFUSALS_PER_MINUTE)
		return false;
	count(bucket, record);
	return true;
}

bool
refusals_admit(struct refusals *r, const struct audit_record *record)
{
	if (!is_bounded(record))
		return true;
	if (r->due == 0) {
		r->due = clock_boot_ns() + MINUTE;
		r->from_us = record->time_us;
	}
	if (refusals_count(r, record))
		return false;
	find_bucket(r, record->client)->written++;
	return true;
}

uint64_t
refusals_due(const struct refusals *r)
{
	return r->due;
}

const struct refusals_bucket *
refusals_next(const struct refusals *r, const struct refusals_bucket *after)
{
	const struct refusals_bucket *bucket;

	if (!after && r->strangers.count > 0)
		return &r->strangers;
	bucket = !after || after == &r->strangers ? r->all : after->next;
	while (bucket && bucket->count == 0)
		bucket = bucket->next;
	return bucket;
}

static void
format_codes(struct buf *b, const struct refusals_bucket *bucket)
{
	buf_str(b, ",\"codes\":{");
	for (size_t i = 0; i < bucket->codes_count; i++) {
		if (i > 0)
			buf_u8(b, ',');
		buf_json_str(b, bucket->codes[i].code);
		format_number(b, ":", bucket->codes[i].count);
	}
	if (bucket->other_codes)
		format_number(
			b, bucket->codes_count ? ",\"other\":" : "\"other\":", bucket->other_codes);
	buf_u8(b, '}');
}

static void
format_versions(struct buf *b, const struct refusals_bucket *bucket)
{
	char id[UUID_TEXT_SIZE];

	if (bucket->versions_count == 0)
		return;
	buf_str(b, ",\"versions\":[");
	for (size_t i = 0; i < bucket->versions_count; i++) {
		uuid_format(&bucket->versions[i].id, id);
		format_number(
			b, i > 0 ? ",{\"version\":" : "{\"version\":", bucket->versions[i].version);
		buf_str(b, ",\"id\":");
		buf_json_str(b, id);
		format_number(b, ",\"refused\":", bucket->versions[i].refused);
		buf_u8(b, '}');
	}
	buf_u8(b, ']');
	if (bucket->other_versions)
		format_number(b, ",\"other_versions\":", bucket->other_versions);
}

void
refusals_format(struct buf *b, const struct refusals *r, const struct refusals_bucket *bucket)
{
	buf_str(b, ",\"type\":\"refusals\"");
	if (bucket->client[0]) {
		buf_str(b, ",\"client\":");
		buf_json_str(b, bucket->client);
	}
	buf_str(b, ",\"from\":");
	format_time(b, r->from_us);
	buf_str(b, ",\"to\":");
	format_time(b, bucket->last_us);
	format_number(b, ",\"count\":", bucket->count);
	format_codes(b, bucket);
	format_versions(b, bucket);
}
