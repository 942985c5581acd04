/* SPDX-License-Identifier: Apache-2.0 */
/* All keys at a glance, for metrics: extremes over all of them, figures of a few. */
#include "kekd/keyring.h"
#include "kekd/nonce.h"

#include <string.h>

#define PAGE 256

static void
raise_to(uint64_t *value, uint64_t other)
{
	if (other > *value)
		*value = other;
}

static uint64_t
nonces_left(const struct key_version *v)
{
	uint64_t reserved = v->nonces ? nonce_reserved(v->nonces) : 0;

	return reserved < NONCE_MAX ? NONCE_MAX - reserved : 0;
}

static void
add_version(struct keyring_summary *s, const struct key_version *v)
{
	s->versions[v->state]++;
	raise_to(&s->newest_us, v->created_us);
	raise_to(&s->newest_us, v->state_changed_us);
	if (v->nonces)
		raise_to(&s->newest_us, nonce_reserved_us(v->nonces));
}

static void
add_primary(struct keyring_summary *s, const struct key *k, const struct key_version *v)
{
	uint64_t left = nonces_left(v);
	struct keyring_summary_key *of;

	if (s->oldest_primary_us == 0 || v->created_us < s->oldest_primary_us)
		s->oldest_primary_us = v->created_us;
	if (left < s->nonces_left)
		s->nonces_left = left;
	if (s->keys_count == KEYRING_SUMMARY_KEYS)
		return;
	of = &s->keys[s->keys_count++];
	memcpy(of->name, k->name, sizeof(of->name));
	of->created_us = v->created_us;
	of->nonces_left = left;
	of->next_rotation_us = k->next_rotation_us;
}

static void
add_key(struct keyring_summary *s, const struct key *k)
{
	raise_to(&s->newest_us, k->created_us);
	raise_to(&s->newest_us, k->activated_us);
	s->frozen += k->frozen;
	s->rotating += k->next_rotation_us > 0;
	if (k->next_rotation_us > 0 &&
		(s->next_rotation_us == 0 || k->next_rotation_us < s->next_rotation_us))
		s->next_rotation_us = k->next_rotation_us;
	for (size_t i = 0; i < k->versions_count; i++) {
		const struct key_version *v = &k->versions[i];
		add_version(s, v);
		if (v->number == k->primary)
			add_primary(s, k, v);
	}
}

void
keyring_summarise(struct keyring *r, struct keyring_summary *ret_summary)
{
	char after[STR_NAME_MAX + 1] = "";
	struct key *page[PAGE];
	size_t count;

	memset(ret_summary, 0, sizeof(*ret_summary));
	ret_summary->nonces_left = NONCE_MAX;
	do {
		count = keyring_list(r, *after ? after : NULL, PAGE, page);
		if (count > 0)
			memcpy(after, page[count - 1]->name, sizeof(after));
		for (size_t i = 0; i < count; i++) {
			add_key(ret_summary, page[i]);
			key_unrefp(&page[i]);
		}
	} while (count == PAGE);
}
