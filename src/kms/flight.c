/* SPDX-License-Identifier: Apache-2.0 */
/* The table of what is under way. */
#include "flight.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BYTES_MAX 4096

struct flight *
flight_new(enum flight_kind kind, const struct kms_key_id *id, struct kms_bytes bytes)
{
	struct flight *f = calloc(1, sizeof(*f));

	if (!f)
		return NULL;
	f->kind = kind;
	f->id = *id;
	f->bytes = BUF_INIT(BYTES_MAX);
	buf_put(&f->bytes, bytes.data, bytes.len);
	if (f->bytes.bad) {
		flight_free(f);
		return NULL;
	}
	return f;
}

void
flight_free(struct flight *f)
{
	buf_free(&f->bytes);
	free(f);
}

bool
flight_is_idle(const struct flight *f)
{
	for (size_t i = 0; i < ATTEMPTS; i++)
		if (f->queued[i] || f->attempts[i].running)
			return false;
	return true;
}

/* ---- the table ---- */

static struct flight **
bucket_of(struct flights *t, const uint8_t *digest)
{
	return &t->buckets[digest[0] % FLIGHT_BUCKETS];
}

void
flights_add(struct flights *t, struct flight *f)
{
	if (f->kind == FLIGHT_DECRYPT) {
		struct flight **bucket = bucket_of(t, f->digest);
		f->chain = *bucket;
		*bucket = f;
	}
	f->prev = NULL;
	f->next = t->all;
	if (f->next)
		f->next->prev = f;
	t->all = f;
	t->count++;
}

void
flights_remove(struct flights *t, struct flight *f)
{
	if (f->kind == FLIGHT_DECRYPT) {
		struct flight **p = bucket_of(t, f->digest);
		while (*p != f)
			p = &(*p)->chain;
		*p = f->chain;
	}
	if (f->next)
		f->next->prev = f->prev;
	if (f->prev)
		f->prev->next = f->next;
	else
		t->all = f->next;
	t->count--;
}

struct flight *
flights_find(struct flights *t, const uint8_t digest[SHA256_DIGEST_LENGTH])
{
	struct flight *f = *bucket_of(t, digest);

	while (f && memcmp(f->digest, digest, SHA256_DIGEST_LENGTH) != 0)
		f = f->chain;
	return f;
}

/* ---- who waits ---- */

int
flights_join(struct flights *t, struct flight *f, struct kms_call *call, uint64_t now_ns,
	uint64_t deadline_ns)
{
	struct waiter *w = malloc(sizeof(*w));

	if (!w)
		return -ENOMEM;
	*w = (struct waiter){ call, deadline_ns, now_ns, f->waiters };
	f->waiters = w;
	t->waiters++;
	return 0;
}

struct waiter *
flights_take(struct flights *t, struct flight *f,
	bool (*wanted)(const struct waiter *, const void *), const void *user)
{
	struct waiter *taken = NULL, **p = &f->waiters;

	while (*p) {
		struct waiter *w = *p;
		if (!wanted(w, user)) {
			p = &w->next;
			continue;
		}
		*p = w->next;
		w->next = taken;
		taken = w;
		t->waiters--;
	}
	return taken;
}

static bool
anybody(const struct waiter *w, const void *user)
{
	(void)w;
	(void)user;
	return true;
}

struct waiter *
flights_take_all(struct flights *t, struct flight *f)
{
	return flights_take(t, f, anybody, NULL);
}

uint64_t
flight_deadline(const struct flight *f)
{
	uint64_t last = 0;

	for (const struct waiter *w = f->waiters; w; w = w->next)
		if (w->deadline_ns > last)
			last = w->deadline_ns;
	return last;
}

void
waiters_prepend(struct waiter **list, struct waiter *more)
{
	struct waiter **end = &more;

	while (*end)
		end = &(*end)->next;
	*end = *list;
	*list = more;
}
