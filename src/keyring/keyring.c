/* SPDX-License-Identifier: Apache-2.0 */
/*
 * All keys in memory: two hash tables (by name; by object in a token) and the names in order, under
 * one lock that is held for a look-up and a reference, never longer. Replacing one key of 100,000
 * touches that key alone.
 */
#include "kekd/err.h"
#include "kekd/keyring.h"
#include "kekd/log.h"
#include "kekd/nonce.h"

#include <errno.h>
#include <openssl/rand.h>
#include <pthread.h>
#include <string.h>

/* A place in a hash table, at the start of what is in it. */
struct node {
	struct node *next;
	uint64_t hash;
};

struct table {
	struct node **places;
	size_t size, count; /* size: a power of two, or 0 */
};

struct entry {
	struct node node;
	struct key *key;
};

struct object {
	struct node node;
	unsigned uses; /* by versions: more than one only while a record is replaced */
	size_t len;
	uint8_t bytes[]; /* the token's name, a NUL, the CKA_ID */
};

struct keyring {
	pthread_rwlock_t lock;
	uint64_t seed;
	struct table keys, objects;
	struct entry **sorted;
	size_t sorted_size;
	struct nonce_block *
		*blocks; /* all that were ever given out: a reader may have an old record */
	size_t blocks_count, blocks_size;
	keyring_observe_fn *observe; /* NULL: nobody wants to know */
	void *observer;
};

/* FNV-1a from a secret start: names are chosen by those who may create keys. */
static uint64_t
hash_bytes(uint64_t hash, const void *data, size_t len)
{
	const uint8_t *p = data;

	for (size_t i = 0; i < len; i++)
		hash = (hash ^ p[i]) * 0x100000001b3;
	return hash ^ hash >> 32;
}

static struct node *
table_first(const struct table *t, uint64_t hash)
{
	return t->size ? t->places[hash & (t->size - 1)] : NULL;
}

/* Makes room for one more. */
static int
table_reserve(struct table *t)
{
	size_t size = t->size ? 2 * t->size : 64;
	struct node **places, *n, *next;

	if (t->count < t->size)
		return 0;
	places = calloc(size, sizeof(*places));
	if (!places)
		return -ENOMEM;
	for (size_t i = 0; i < t->size; i++)
		for (n = t->places[i]; n; n = next) {
			next = n->next;
			n->next = places[n->hash & (size - 1)];
			places[n->hash & (size - 1)] = n;
		}
	free(t->places);
	t->places = places;
	t->size = size;
	return 0;
}

/* After table_reserve. */
static void
table_add(struct table *t, struct node *n)
{
	struct node **place = &t->places[n->hash & (t->size - 1)];

	n->next = *place;
	*place = n;
	t->count++;
}

static void
table_remove(struct table *t, struct node *n)
{
	struct node **at = &t->places[n->hash & (t->size - 1)];

	while (*at != n)
		at = &(*at)->next;
	*at = n->next;
	t->count--;
}

int
keyring_open(struct keyring **ret_keyring)
{
	struct keyring *r = calloc(1, sizeof(*r));

	if (!r)
		return -ENOMEM;
	if (RAND_bytes((unsigned char *)&r->seed, sizeof(r->seed)) != 1 ||
		pthread_rwlock_init(&r->lock, NULL) != 0) {
		free(r);
		return KEKD_EINTERNAL;
	}
	*ret_keyring = r;
	return 0;
}

void
keyring_freep(struct keyring **keyring)
{
	struct keyring *r = *keyring;
	struct node *n, *next;

	*keyring = NULL;
	if (!r)
		return;
	for (size_t i = 0; i < r->keys.count; i++) {
		key_unrefp(&r->sorted[i]->key);
		free(r->sorted[i]);
	}
	for (size_t i = 0; i < r->objects.size; i++)
		for (n = r->objects.places[i]; n; n = next) {
			next = n->next;
			free(n);
		}
	for (size_t i = 0; i < r->blocks_count; i++)
		nonce_block_free(r->blocks[i]);
	free(r->blocks);
	free(r->sorted);
	free(r->keys.places);
	free(r->objects.places);
	pthread_rwlock_destroy(&r->lock);
	free(r);
}

static uint64_t
hash_name(const struct keyring *r, const char *name)
{
	return hash_bytes(r->seed, name, strlen(name));
}

static struct entry *
find_entry(struct keyring *r, const char *name)
{
	uint64_t hash = hash_name(r, name);
	struct node *n = table_first(&r->keys, hash);

	while (n && (n->hash != hash || strcmp(((struct entry *)n)->key->name, name) != 0))
		n = n->next;
	return (struct entry *)n;
}

struct key *
keyring_find(struct keyring *r, const char *name)
{
	struct entry *e;
	struct key *k = NULL;

	pthread_rwlock_rdlock(&r->lock);
	e = find_entry(r, name);
	if (e)
		k = key_ref(e->key);
	pthread_rwlock_unlock(&r->lock);
	return k;
}

/* The index of the first name after `after` (inclusive: or equal to it). */
static size_t
sorted_after(const struct keyring *r, const char *after, bool inclusive)
{
	size_t low = 0, high = r->keys.count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;
		int order = strcmp(r->sorted[middle]->key->name, after);
		if (order < 0 || (order == 0 && !inclusive))
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* ---- objects ---- */

static uint64_t
hash_object(const struct keyring *r, const char *token, const struct object_id *id)
{
	return hash_bytes(hash_bytes(r->seed, token, strlen(token) + 1), id->b, id->len);
}

static struct object *
find_object(struct keyring *r, const char *token, const struct object_id *id)
{
	uint64_t hash = hash_object(r, token, id);
	size_t name_len = strlen(token) + 1;
	struct node *n;

	for (n = table_first(&r->objects, hash); n; n = n->next) {
		struct object *o = (struct object *)n;
		if (n->hash == hash && o->len == name_len + id->len &&
			memcmp(o->bytes, token, name_len) == 0 &&
			memcmp(o->bytes + name_len, id->b, id->len) == 0)
			return o;
	}
	return NULL;
}

static int
add_object(struct keyring *r, const struct key_version *v)
{
	size_t name_len = strlen(v->token) + 1, len = name_len + v->object_id.len;
	struct object *o = find_object(r, v->token, &v->object_id);

	if (o) {
		o->uses++;
		return 0;
	}
	if (table_reserve(&r->objects) < 0)
		return -ENOMEM;
	o = malloc(sizeof(*o) + len);
	if (!o)
		return -ENOMEM;
	o->node.hash = hash_object(r, v->token, &v->object_id);
	o->uses = 1;
	o->len = len;
	memcpy(o->bytes, v->token, name_len);
	memcpy(o->bytes + name_len, v->object_id.b, v->object_id.len);
	table_add(&r->objects, &o->node);
	return 0;
}

static void
remove_objects(struct keyring *r, const struct key *k, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		const struct key_version *v = &k->versions[i];
		struct object *o = find_object(r, v->token, &v->object_id);
		if (!o || --o->uses > 0)
			continue;
		table_remove(&r->objects, &o->node);
		free(o);
	}
}

static int
add_objects(struct keyring *r, const struct key *k)
{
	for (size_t i = 0; i < k->versions_count; i++)
		if (add_object(r, &k->versions[i]) < 0) {
			remove_objects(r, k, i);
			return -ENOMEM;
		}
	return 0;
}

bool
keyring_knows_object(struct keyring *r, const char *token, const struct object_id *id)
{
	bool known;

	pthread_rwlock_rdlock(&r->lock);
	known = find_object(r, token, id) != NULL;
	pthread_rwlock_unlock(&r->lock);
	return known;
}

/* ---- publishing ---- */

static struct nonce_block *
new_block(struct keyring *r)
{
	struct nonce_block **blocks;

	if (r->blocks_count == r->blocks_size) {
		size_t size = r->blocks_size ? 2 * r->blocks_size : 64;
		blocks = realloc(r->blocks, size * sizeof(*blocks));
		if (!blocks)
			return NULL;
		r->blocks = blocks;
		r->blocks_size = size;
	}
	r->blocks[r->blocks_count] = nonce_block_new();
	return r->blocks[r->blocks_count] ? r->blocks[r->blocks_count++] : NULL;
}

/* old may be NULL. The same version has the same block in every generation of its record: a copy
 * that was parsed anew must not begin with a budget of its own. */
static int
give_blocks(struct keyring *r, const struct key *old, struct key *k)
{
	for (size_t i = 0; i < k->versions_count; i++) {
		struct key_version *v = &k->versions[i];
		struct key_version *before = old ? key_find_version_id(old, &v->id) : NULL;
		if (!v->nonces)
			v->nonces = before ? before->nonces : new_block(r);
		if (!v->nonces)
			return -ENOMEM;
	}
	return 0;
}

/* An entry for a new name, in the table and in its place among the sorted; it takes over k. */
static int
insert(struct keyring *r, struct key *k)
{
	size_t at = sorted_after(r, k->name, true), count = r->keys.count;
	struct entry **sorted, *e;

	if (count == r->sorted_size) {
		size_t size = count ? 2 * count : 64;
		sorted = realloc(r->sorted, size * sizeof(*sorted));
		if (!sorted)
			return -ENOMEM;
		r->sorted = sorted;
		r->sorted_size = size;
	}
	if (table_reserve(&r->keys) < 0)
		return -ENOMEM;
	e = calloc(1, sizeof(*e));
	if (!e)
		return -ENOMEM;
	e->node.hash = hash_name(r, k->name);
	e->key = k;
	memmove(&r->sorted[at + 1], &r->sorted[at], (count - at) * sizeof(*r->sorted));
	r->sorted[at] = e;
	table_add(&r->keys, &e->node);
	return 0;
}

/* Puts k in force. ret_old: the reference that the keyring held, or NULL. */
static int
replace(struct keyring *r, struct key *k, struct key **ret_old)
{
	struct entry *e = find_entry(r, k->name);
	struct key *old = e ? e->key : NULL;

	if (give_blocks(r, old, k) < 0 || add_objects(r, k) < 0)
		return -ENOMEM;
	if (e) {
		e->key = k;
		remove_objects(r, old, old->versions_count);
	} else if (insert(r, k) < 0) {
		remove_objects(r, k, k->versions_count);
		return -ENOMEM;
	}
	*ret_old = old;
	return 0;
}

void
keyring_observe(struct keyring *r, keyring_observe_fn *fn, void *user)
{
	r->observe = fn;
	r->observer = user;
}

int
keyring_publish(struct keyring *r, struct key *k)
{
	struct key *old = NULL;
	int err;

	pthread_rwlock_wrlock(&r->lock);
	err = replace(r, k, &old);
	pthread_rwlock_unlock(&r->lock);
	if (err < 0)
		key_unrefp(&k);
	else if (r->observe)
		r->observe(old, k, r->observer);
	key_unrefp(&old); /* may free much: not under the lock */
	return err;
}

void
keyring_mark_refused(struct keyring *r, const char *name, bool refused)
{
	_cleanup_(key_unrefp) struct key *k = keyring_find(r, name);
	struct key *copy;

	if (!k || k->refused == refused)
		return;
	copy = key_copy(k);
	if (copy)
		copy->refused = refused;
	if (!copy || keyring_publish(r, copy) < 0)
		log_error("key %s: no memory to mark its record as %s; restart kekd", name,
			refused ? "refused" : "good");
}

size_t
keyring_count(struct keyring *r)
{
	size_t count;

	pthread_rwlock_rdlock(&r->lock);
	count = r->keys.count;
	pthread_rwlock_unlock(&r->lock);
	return count;
}

size_t
keyring_list(struct keyring *r, const char *after, size_t limit, struct key **ret_keys)
{
	size_t at, n = 0;

	pthread_rwlock_rdlock(&r->lock);
	at = after ? sorted_after(r, after, false) : 0;
	while (n < limit && at < r->keys.count)
		ret_keys[n++] = key_ref(r->sorted[at++]->key);
	pthread_rwlock_unlock(&r->lock);
	return n;
}
