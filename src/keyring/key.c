/* SPDX-License-Identifier: Apache-2.0 */
/* The key in memory: references, copies, versions, and which of them may wrap. Not its JSON. */
#include "kekd/err.h"
#include "kekd/keyring.h"

#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

/* What is allocated: readers see only the key. */
struct key_box {
	struct key key; /* the first member: a key's address is its box's */
	atomic_uint references;
};

static const struct {
	const char *name;
	unsigned next; /* bit per state that may follow */
} states[] = {
	[VERSION_STAGED] = { "staged", 1u << VERSION_ENABLED | 1u << VERSION_ABANDONED },
	[VERSION_ENABLED] = { "enabled", 1u << VERSION_DISABLED },
	[VERSION_DISABLED] = { "disabled", 1u << VERSION_ENABLED | 1u << VERSION_SCHEDULED },
	[VERSION_SCHEDULED] = { "scheduled", 1u << VERSION_DISABLED | 1u << VERSION_DESTROYING },
	[VERSION_DESTROYING] = { "destroying", 1u << VERSION_DESTROYED },
	[VERSION_DESTROYED] = { "destroyed", 0 },
	[VERSION_ABANDONED] = { "abandoned", 0 },
};

const char *
version_state_name(enum version_state s)
{
	return (size_t)s < STR_COUNT(states) ? states[s].name : NULL;
}

static const char *const stale_names[KEY_STALES] = {
	[KEY_STALE_UNWRAP] = "unwrap",
	[KEY_STALE_SERVE] = "serve",
	[KEY_STALE_REFUSE] = "refuse",
};

const char *
key_stale_name(enum key_stale s)
{
	return stale_names[s];
}

int
key_stale_parse(const char *text, enum key_stale *ret_stale)
{
	for (size_t i = 0; i < STR_COUNT(stale_names); i++)
		if (strcmp(text, stale_names[i]) == 0) {
			*ret_stale = (enum key_stale)i;
			return 0;
		}
	return -EINVAL;
}

bool
version_state_allows(enum version_state from, enum version_state to)
{
	return (size_t)from < STR_COUNT(states) && (size_t)to < STR_COUNT(states) &&
	       (states[from].next >> to & 1) != 0;
}

struct key *
key_new(const char *name, const json_t *labels, uint64_t now_us)
{
	struct key_box *box = calloc(1, sizeof(*box));

	if (!box)
		return NULL;
	atomic_init(&box->references, 1);
	snprintf(box->key.name, sizeof(box->key.name), "%s", name);
	box->key.algorithm = BLOB_AES256_GCM;
	box->key.created_us = now_us;
	box->key.labels = labels ? json_deep_copy(labels) : json_object();
	if (!box->key.labels) {
		free(box);
		return NULL;
	}
	return &box->key;
}

struct key *
key_ref(struct key *k)
{
	atomic_fetch_add_explicit(&((struct key_box *)k)->references, 1, memory_order_relaxed);
	return k;
}

void
key_unrefp(struct key **k)
{
	struct key_box *box = (struct key_box *)*k;

	*k = NULL;
	if (!box || atomic_fetch_sub_explicit(&box->references, 1, memory_order_acq_rel) > 1)
		return;
	json_decref(box->key.labels);
	for (size_t i = 0; i < box->key.versions_count; i++)
		free(box->key.versions[i].destroy);
	free(box->key.versions);
	free(box);
}

/* false: no memory; what was copied is freed with the key. */
static bool
copy_destroys(struct key *copy)
{
	bool ok = true;

	for (size_t i = 0; i < copy->versions_count; i++) {
		const struct version_destroy *from = copy->versions[i].destroy;
		struct version_destroy *own = from ? malloc(sizeof(*own)) : NULL;
		copy->versions[i].destroy = own;
		if (own)
			*own = *from;
		else if (from)
			ok = false;
	}
	return ok;
}

struct key *
key_copy(const struct key *k)
{
	struct key *copy = key_new(k->name, k->labels, k->created_us);
	json_t *labels;

	if (!copy)
		return NULL;
	labels = copy->labels;
	*copy = *k;
	copy->labels = labels;
	copy->versions = calloc(k->versions_count ? k->versions_count : 1, sizeof(*k->versions));
	if (!copy->versions) {
		copy->versions_count = 0;
		key_unrefp(&copy);
		return NULL;
	}
	if (k->versions_count > 0)
		memcpy(copy->versions, k->versions, k->versions_count * sizeof(*k->versions));
	if (!copy_destroys(copy))
		key_unrefp(&copy);
	return copy;
}

struct key_version *
key_find_version(const struct key *k, unsigned number)
{
	size_t low = 0, high = k->versions_count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (k->versions[middle].number == number)
			return &k->versions[middle];
		if (k->versions[middle].number < number)
			low = middle + 1;
		else
			high = middle;
	}
	return NULL;
}

/* From the newest: that is the one that is nearly always asked for. */
struct key_version *
key_find_version_id(const struct key *k, const struct uuid *id)
{
	for (size_t i = k->versions_count; i-- > 0;)
		if (uuid_equal(&k->versions[i].id, id))
			return &k->versions[i];
	return NULL;
}

struct key_version *
key_add_version(struct key *k)
{
	struct key_version *versions, *v;

	if (k->versions_count >= KEY_VERSIONS_MAX)
		return NULL;
	versions = realloc(k->versions, (k->versions_count + 1) * sizeof(*versions));
	if (!versions)
		return NULL;
	k->versions = versions;
	v = &versions[k->versions_count];
	*v = (struct key_version){ 0 };
	v->number = k->versions_count ? versions[k->versions_count - 1].number + 1 : 1;
	k->versions_count++;
	return v;
}

void
key_kms_key_id(const struct key *k, char ret_text[KMS_KEY_ID_SIZE])
{
	const struct key_version *v = key_find_version(k, k->primary);
	char id[UUID_TEXT_SIZE];

	ret_text[0] = '\0';
	if (!v)
		return;
	uuid_format(&v->id, id);
	snprintf(ret_text, KMS_KEY_ID_SIZE, "%s.%llu", id, (unsigned long long)k->activation);
}

/* FNV-1a; nothing hangs on its quality. */
static uint64_t
spread(const struct key *k)
{
	uint64_t hash = 14695981039346656037u ^ k->activation;

	for (const char *p = k->name; *p; p++)
		hash = (hash ^ (uint8_t)*p) * 1099511628211u;
	return hash ^ hash >> 29;
}

uint64_t
key_next_rotation(const struct key *k, uint64_t now_us)
{
	uint64_t every = k->rotate_every_s * 1000000, jitter = every / 20;

	if (every == 0)
		return 0;
	if (jitter > ROTATION_JITTER_MAX_US)
		jitter = ROTATION_JITTER_MAX_US;
	return now_us + every - jitter + spread(k) % (2 * jitter + 1);
}

/* A clock that was set back does not cut the previous primary's ten minutes short. */
static bool
may_wrap(const struct key *k, const struct key_version *v, uint64_t now_us)
{
	return v->number == k->primary ||
	       (v->number == k->previous && now_us < k->activated_us + KEY_PREVIOUS_WRAP_US);
}

int
key_choose_wrap(const struct key *k, const struct uuid *wanted, uint64_t now_us,
	struct key_version **ret_version)
{
	struct key_version *v = wanted ? key_find_version_id(k, wanted)
				       : key_find_version(k, k->primary);
	if (!v)
		return wanted ? KEKD_ENOVERSION : KEKD_ESTATE;
	if (!may_wrap(k, v, now_us))
		return KEKD_ENOTPRIMARY;
	if (v->state != VERSION_ENABLED)
		return KEKD_EDISABLED;
	*ret_version = v;
	return 0;
}
