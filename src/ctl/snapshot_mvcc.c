/* SPDX-License-Identifier: Apache-2.0 */
/*
 * etcd's store in a bbolt file: bucket "key" has a revision of a key as each entry's key, and
 * mvccpb.KeyValue as its value; bucket "meta" tells of compaction. Two passes: the first finds the
 * newest revision of every key that lives, the second hands out values and says which those are.
 * Between the two eight bytes are kept for each live key, during the first some fifty.
 */
#include "snapshot.h"

#include <errno.h>
#include <openssl/evp.h>
#include <string.h>

#define REVISION_SIZE 17 /* main, '_', sub, both big-endian */
#define TOMBSTONE_SIZE 18
#define PACE 4096
#define SLOTS_FIRST 1024

struct slot {
	uint8_t hash[16];
	uint64_t ordinal; /* which entry of the bucket, from 1; 0: free */
};

struct mvcc {
	struct bolt *bolt;
	struct bolt_bucket keys;
	EVP_MD_CTX *digest;
	uint64_t revision, sub, scheduled, finished;
	/* the pass */
	uint64_t ordinal;
	bool tombstone;
	mvcc_pace_fn *pace;
	mvcc_fn *fn;
	void *user;
	/* the first pass: a table with open addresses */
	struct slot *slots;
	size_t slots_size, slots_used;
	/* the second: the live ones, ascending */
	uint64_t *live;
	size_t live_count, live_next;
};

/* ---- the table of live keys ---- */

static size_t
home(const struct mvcc *m, const uint8_t hash[16])
{
	uint64_t h;

	memcpy(&h, hash, sizeof(h));
	return (size_t)(h & (m->slots_size - 1));
}

/* Where the key is, or the free slot where it would be. */
static struct slot *
locate(const struct mvcc *m, const uint8_t hash[16])
{
	size_t i = home(m, hash);

	while (m->slots[i].ordinal && memcmp(m->slots[i].hash, hash, 16) != 0)
		i = (i + 1) & (m->slots_size - 1);
	return &m->slots[i];
}

static int
grow(struct mvcc *m)
{
	struct slot *old = m->slots;
	size_t old_size = m->slots_size;

	m->slots_size = old_size ? old_size * 2 : SLOTS_FIRST;
	m->slots = calloc(m->slots_size, sizeof(*m->slots));
	if (!m->slots) {
		m->slots = old;
		m->slots_size = old_size;
		return -ENOMEM;
	}
	for (size_t i = 0; i < old_size; i++)
		if (old[i].ordinal)
			*locate(m, old[i].hash) = old[i];
	free(old);
	return 0;
}

static int
put_live(struct mvcc *m, const uint8_t hash[16])
{
	struct slot *s;

	if (m->slots_used >= m->slots_size / 4 * 3) {
		int err = grow(m);
		if (err != 0)
			return err;
	}
	s = locate(m, hash);
	m->slots_used += s->ordinal == 0;
	memcpy(s->hash, hash, 16);
	s->ordinal = m->ordinal;
	return 0;
}

/* What stands behind it in the same run moves up, so that no gap hides it. */
static void
drop_live(struct mvcc *m, const uint8_t hash[16])
{
	size_t mask = m->slots_size - 1, gap, i;

	if (!m->slots || !locate(m, hash)->ordinal)
		return;
	gap = i = (size_t)(locate(m, hash) - m->slots);
	for (;;) {
		m->slots[gap].ordinal = 0;
		do {
			i = (i + 1) & mask;
			if (!m->slots[i].ordinal) {
				m->slots_used--;
				return;
			}
		} while (((i - home(m, m->slots[i].hash)) & mask) < ((i - gap) & mask));
		m->slots[gap] = m->slots[i];
		gap = i;
	}
}

static int
compare_ordinals(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

static int
sort_live(struct mvcc *m)
{
	m->live = calloc(m->slots_used + 1, sizeof(*m->live));
	if (!m->live)
		return -ENOMEM;
	for (size_t i = 0; i < m->slots_size; i++)
		if (m->slots[i].ordinal)
			m->live[m->live_count++] = m->slots[i].ordinal;
	free(m->slots);
	m->slots = NULL;
	m->slots_size = m->slots_used = 0;
	qsort(m->live, m->live_count, sizeof(*m->live), compare_ordinals);
	return 0;
}

/* ---- entries ---- */

static uint64_t
big(const uint8_t *p)
{
	uint64_t v = 0;

	for (size_t i = 0; i < 8; i++)
		v = v << 8 | p[i];
	return v;
}

/* Revisions only rise: an entry that comes by twice, or in another order, is damage. */
static int
take_revision(struct mvcc *m, struct bolt_slice key)
{
	uint8_t bytes[TOMBSTONE_SIZE] = { 0 };
	uint64_t revision, sub;
	int err;

	if (key.size != REVISION_SIZE && key.size != TOMBSTONE_SIZE)
		return bolt_fail(m->bolt, "bucket \"key\" has an entry that is no revision");
	err = bolt_read(m->bolt, key, 0, bytes, (size_t)key.size);
	if (err != 0)
		return err;
	revision = big(bytes);
	sub = big(bytes + 9);
	m->tombstone = key.size == TOMBSTONE_SIZE;
	if (bytes[8] != '_' || (m->tombstone && bytes[17] != 't'))
		return bolt_fail(m->bolt, "bucket \"key\" has an entry that is no revision");
	if (m->ordinal > 0 &&
		(revision < m->revision || (revision == m->revision && sub <= m->sub)))
		return bolt_fail(m->bolt, "revision %llu stands behind revision %llu",
			(unsigned long long)revision, (unsigned long long)m->revision);
	m->revision = revision;
	m->sub = sub;
	if (m->pace && m->ordinal % PACE == 0)
		m->pace(m->user, m->live != NULL);
	m->ordinal++;
	return 0;
}

static int
hash_key(struct mvcc *m, struct bolt_slice key, uint8_t ret_hash[16])
{
	uint8_t chunk[1024], hash[EVP_MAX_MD_SIZE];
	size_t n;

	if (EVP_DigestInit_ex(m->digest, EVP_sha256(), NULL) != 1)
		return -ENOMEM;
	for (uint64_t at = 0; at < key.size; at += n) {
		int err;
		n = key.size - at < sizeof(chunk) ? (size_t)(key.size - at) : sizeof(chunk);
		err = bolt_read(m->bolt, key, at, chunk, n);
		if (err != 0)
			return err;
		EVP_DigestUpdate(m->digest, chunk, n);
	}
	if (EVP_DigestFinal_ex(m->digest, hash, NULL) != 1)
		return -ENOMEM;
	memcpy(ret_hash, hash, 16);
	return 0;
}

/* Field 1, the key, is written first. */
static int
find_key(struct mvcc *m, struct bolt_slice value, struct bolt_slice *ret_key)
{
	struct wire w = { .bolt = m->bolt, .s = value };
	struct wire_field f;
	int more;

	while ((more = wire_next(&w, &f)) > 0)
		if (f.number == 1 && f.is_bytes) {
			*ret_key = f.bytes;
			return 0;
		}
	return more < 0 ? more
			: bolt_fail(m->bolt, "revision %llu is of no key",
				  (unsigned long long)m->revision);
}

static int
index_entry(void *user, struct bolt_slice key, struct bolt_slice value)
{
	struct mvcc *m = user;
	struct bolt_slice name = { 0, 0 };
	uint8_t hash[16];
	int err = take_revision(m, key);

	if (err == 0)
		err = find_key(m, value, &name);
	if (err == 0)
		err = hash_key(m, name, hash);
	if (err == 0 && m->tombstone)
		drop_live(m, hash);
	else if (err == 0)
		err = put_live(m, hash);
	return err;
}

int
mvcc_index(struct mvcc *m, mvcc_pace_fn *pace, void *user)
{
	int err;

	m->pace = pace;
	m->user = user;
	m->ordinal = 0;
	m->revision = m->sub = 0;
	err = bolt_each(m->bolt, &m->keys, index_entry, m);
	return err == 0 ? sort_live(m) : err;
}

static int
read_record(struct mvcc *m, struct bolt_slice entry, struct mvcc_record *r)
{
	struct wire w = { .bolt = m->bolt, .s = entry };
	struct bolt_slice key = { 0, 0 };
	struct wire_field f;
	uint64_t changed = 0;
	size_t n;
	int more;

	while ((more = wire_next(&w, &f)) > 0) {
		if (f.number == 1 && f.is_bytes)
			key = f.bytes;
		else if (f.number == 3 && !f.is_bytes)
			changed = f.value;
		else if (f.number == 5 && f.is_bytes)
			r->value = f.bytes;
	}
	if (more < 0)
		return more;
	if (changed != m->revision)
		return bolt_fail(m->bolt, "revision %llu says that it is %llu",
			(unsigned long long)m->revision, (unsigned long long)changed);
	r->key_size = key.size;
	n = key.size < MVCC_KEY_MAX ? (size_t)key.size : MVCC_KEY_MAX;
	r->key[n] = '\0';
	return bolt_read(m->bolt, key, 0, r->key, n);
}

static int
each_entry(void *user, struct bolt_slice key, struct bolt_slice value)
{
	struct mvcc *m = user;
	struct mvcc_record r;
	int err = take_revision(m, key);

	if (err != 0 || m->tombstone)
		return err;
	r.revision = m->revision;
	r.sub = m->sub;
	r.value = (struct bolt_slice){ value.offset, 0 };
	r.live = m->live_next < m->live_count && m->live[m->live_next] == m->ordinal;
	m->live_next += r.live;
	err = read_record(m, value, &r);
	return err == 0 ? m->fn(m->user, &r) : err;
}

int
mvcc_each(struct mvcc *m, mvcc_fn *fn, mvcc_pace_fn *pace, void *user)
{
	int err;

	m->pace = pace;
	m->fn = fn;
	m->user = user;
	m->ordinal = 0;
	m->live_next = 0;
	err = bolt_each(m->bolt, &m->keys, each_entry, m);
	if (err == 0 && m->live_next != m->live_count)
		return bolt_fail(m->bolt, "it changed while it was read");
	return err;
}

/* ---- opening ---- */

static int
meta_entry(void *user, struct bolt_slice key, struct bolt_slice value)
{
	struct mvcc *m = user;
	const struct {
		const char *name;
		uint64_t *number;
	} names[] = { { "scheduledCompactRev", &m->scheduled },
		{ "finishedCompactRev", &m->finished } };
	uint8_t bytes[8];
	char name[32] = "";
	int err = 0;

	if (key.size >= sizeof(name) || value.size != REVISION_SIZE)
		return 0;
	err = bolt_read(m->bolt, key, 0, name, (size_t)key.size);
	for (size_t i = 0; err == 0 && i < STR_COUNT(names); i++)
		if (strcmp(name, names[i].name) == 0) {
			err = bolt_read(m->bolt, value, 0, bytes, sizeof(bytes));
			*names[i].number = err == 0 ? big(bytes) : 0;
		}
	return err;
}

static int
find_buckets(struct mvcc *m)
{
	struct bolt_bucket meta;
	int err = bolt_find(m->bolt, "key", &m->keys);

	if (err == 0)
		err = bolt_find(m->bolt, "meta", &meta);
	if (err == -ENOENT) {
		bolt_fail(m->bolt, "it is a bbolt file, but not etcd's: bucket \"key\" or \"meta\" "
				   "is missing");
		return -EMEDIUMTYPE;
	}
	return err == 0 ? bolt_each(m->bolt, &meta, meta_entry, m) : err;
}

int
mvcc_open(struct bolt *b, struct mvcc **ret_mvcc)
{
	struct mvcc *m = calloc(1, sizeof(*m));
	int err;

	if (!m)
		return -ENOMEM;
	m->bolt = b;
	m->digest = EVP_MD_CTX_new();
	err = m->digest ? find_buckets(m) : -ENOMEM;
	if (err != 0) {
		mvcc_freep(&m);
		return err;
	}
	*ret_mvcc = m;
	return 0;
}

void
mvcc_freep(struct mvcc **m)
{
	if (!*m)
		return;
	EVP_MD_CTX_free((*m)->digest);
	free((*m)->slots);
	free((*m)->live);
	free(*m);
	*m = NULL;
}

uint64_t
mvcc_revision(const struct mvcc *m)
{
	uint64_t compacted = mvcc_compacted(m);

	return m->revision > compacted ? m->revision : compacted;
}

uint64_t
mvcc_compacted(const struct mvcc *m)
{
	return m->finished > m->scheduled ? m->finished : m->scheduled;
}
