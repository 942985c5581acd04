/* SPDX-License-Identifier: Apache-2.0 */
/* The rules by which inventories of etcd's snapshots count for a version of a key. */
#include "kekd/inventory.h"

#include "kekd/clock.h"
#include "kekd/err.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const struct snapshot *
inventory_needed_by(const struct snapshot_list *list, const struct uuid *version, uint64_t now_us,
	uint64_t seen_s)
{
	const struct snapshot *longest = NULL;

	for (size_t i = 0; i < list->count; i++) {
		const struct snapshot *s = list->s[i];
		if (snapshot_find(s, version) && snapshot_is_needed(s, now_us, seen_s) &&
			(!longest || s->needed_until_us > longest->needed_until_us))
			longest = s;
	}
	return longest;
}

/* ---- the newest of each cluster ---- */

static int
newest_first(const void *a, const void *b)
{
	const struct snapshot *x = *(const struct snapshot *const *)a;
	const struct snapshot *y = *(const struct snapshot *const *)b;
	int order = strcmp(x->cluster, y->cluster);

	if (order != 0)
		return order;
	if (x->taken_us != y->taken_us)
		return x->taken_us > y->taken_us ? -1 : 1;
	return strcmp(y->id, x->id);
}

/* The etcd of a running Kubernetes does not stand still, as Leases are renewed in it: what is as
 * far as something older is a copy of it, or of a member that stands still. */
static bool
is_ahead(const struct snapshot *older, const struct snapshot *newest)
{
	if (older->etcd_revision != newest->etcd_revision)
		return older->etcd_revision > newest->etcd_revision;
	return newest->taken_us - older->taken_us > INVENTORY_LATE_US;
}

static void
find_newest(struct inventory *i)
{
	const struct snapshot **s = i->newest;

	for (size_t n = 0; n < i->all.count; n++)
		s[n] = i->all.s[n];
	if (i->all.count > 1)
		qsort(s, i->all.count, sizeof(*s), newest_first);
	for (size_t n = 0; n < i->all.count; n++) {
		size_t last = i->newest_count - 1;

		if (n == 0 || strcmp(s[n]->cluster, s[last]->cluster) != 0)
			s[i->newest_count++] = s[n];
		else if (is_ahead(s[n], s[last]))
			i->ahead[last] = s[n];
	}
}

static void
find_key(struct inventory *i, const struct key *key, const struct snapshot *s)
{
	for (size_t n = 0; n < s->versions_count; n++) {
		const struct key_version *v = strcmp(s->versions[n].key, key->name) == 0
						      ? key_find_version_id(key, &s->versions[n].id)
						      : NULL;
		if (v && v->number > i->latest)
			i->latest = v->number;
		i->has_primary = i->has_primary || (v && v->number == key->primary);
	}
}

int
inventory_of(struct snapshot_list *list, const struct key *key, struct inventory *ret_inventory)
{
	struct inventory i = { .all = *list };

	*list = (struct snapshot_list){ 0 }; /* transferred */
	i.newest = calloc(i.all.count + 1, sizeof(*i.newest));
	i.ahead = calloc(i.all.count + 1, sizeof(*i.ahead));
	if (!i.newest || !i.ahead) {
		inventory_free(&i);
		return -ENOMEM;
	}
	find_newest(&i);
	for (size_t n = 0; key && n < i.newest_count; n++)
		find_key(&i, key, i.newest[n]);
	*ret_inventory = i;
	return 0;
}

int
inventory_open(struct snapshots *t, const struct key *key, struct inventory *ret_inventory)
{
	struct snapshot_list list;
	int err = snapshots_all(t, &list);

	return err < 0 ? err : inventory_of(&list, key, ret_inventory);
}

void
inventory_free(struct inventory *i)
{
	snapshot_list_free(&i->all);
	free(i->newest);
	free(i->ahead);
	*i = (struct inventory){ 0 };
}

/* ---- the verdict ---- */

static bool __attribute__((format(printf, 2, 3)))
no(char ret_why[INVENTORY_WHY_SIZE], const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	vsnprintf(ret_why, INVENTORY_WHY_SIZE, format, ap);
	va_end(ap);
	return false;
}

/* Before this nothing can be said: values may have come to lie in etcd until then. */
static uint64_t
last_value_us(const struct inventory_facts *f)
{
	uint64_t last = f->key->activated_us;

	if (f->usage->last_wrapped_us > last)
		last = f->usage->last_wrapped_us;
	return last + INVENTORY_LATE_US;
}

/* By kekd's clock it was there when it was registered, whatever the other host's says. */
static uint64_t
taken_us(const struct snapshot *s)
{
	return s->changed_us < s->taken_us ? s->changed_us : s->taken_us;
}

/* What came after it may bear a time before it. */
static bool
clock_went_back(const struct snapshot *s, const struct inventory_facts *f)
{
	uint64_t counted_us = f->seen_s > s->seen_s ? (f->seen_s - s->seen_s) * 1000000 : 0;

	return s->changed_us + counted_us > f->now_us + INVENTORY_LATE_US;
}

/* ahead: as in struct inventory. */
static bool
is_clean_in(const struct snapshot *s, const struct snapshot *ahead, const struct inventory_facts *f,
	char ret_why[INVENTORY_WHY_SIZE])
{
	const struct snapshot_version *v = snapshot_find(s, &f->version->id);
	uint64_t last_us = last_value_us(f);
	char taken[CLOCK_TEXT_SIZE], last[CLOCK_TEXT_SIZE];

	clock_format(s->taken_us, taken);
	if (v)
		return no(ret_why,
			"cluster %s: its newest snapshot %s has %llu live and %llu superseded "
			"values of it",
			s->cluster, s->id, (unsigned long long)v->live,
			(unsigned long long)v->superseded);
	if (!s->complete)
		return no(ret_why, "cluster %s: its newest snapshot %s is not complete", s->cluster,
			s->id);
	if (ahead)
		return no(ret_why,
			"cluster %s: etcd was no further in its newest snapshot %s than in the "
			"older %s: is it a copy, or its time wrong (--taken)? If that etcd was "
			"restored, forget the older ones",
			s->cluster, s->id, ahead->id);
	if (clock_went_back(s, f))
		return no(ret_why,
			"cluster %s: kekd's clock was set back since its newest snapshot %s was "
			"registered: register a newer one",
			s->cluster, s->id);
	if (s->taken_us > f->now_us + SNAPSHOT_AHEAD_US)
		return no(ret_why,
			"cluster %s: its newest snapshot %s was taken at %s, which is not yet",
			s->cluster, s->id, taken);
	if (f->now_us > s->taken_us && f->now_us - s->taken_us > INVENTORY_AGE_MAX_US)
		return no(ret_why,
			"cluster %s: its newest snapshot %s is of %s, more than 7 days ago: "
			"register a newer one",
			s->cluster, s->id, taken);
	if (taken_us(s) < last_us) {
		clock_format(last_us, last);
		return no(ret_why,
			"cluster %s: its newest snapshot %s is of %s: values may have come until "
			"%s, so register one taken after that",
			s->cluster, s->id, taken, last);
	}
	return true;
}

static bool
is_wrapped_no_more(const struct inventory_facts *f, char ret_why[INVENTORY_WHY_SIZE])
{
	enum version_state state = f->version->state;

	if (f->key->primary == f->version->number)
		return no(ret_why, "it is the primary");
	if (state != VERSION_ENABLED && state != VERSION_DISABLED && state != VERSION_SCHEDULED)
		return no(ret_why, "it is %s", version_state_name(state));
	return f->usage_complete ||
	       no(ret_why,
		       "the usage evidence does not tell when it was last wrapped with: it is not "
		       "complete, or not that of now");
}

bool
inventory_is_clean(const struct inventory *i, const struct inventory_facts *f,
	char ret_why[INVENTORY_WHY_SIZE])
{
	if (!is_wrapped_no_more(f, ret_why))
		return false;
	if (i->newest_count == 0)
		return no(ret_why, "no snapshot is registered");
	for (size_t n = 0; n < i->newest_count; n++)
		if (!is_clean_in(i->newest[n], i->ahead[n], f, ret_why))
			return false;
	return i->has_primary || i->latest > f->version->number ||
	       no(ret_why, "no newest snapshot of a registered cluster has a value under a later "
			   "version of the key");
}

/* ---- evidence ---- */

static int
add_record(EVP_MD_CTX *md, const struct snapshot *s, const struct snapshot_version *v)
{
	char line[STR_NAME_MAX + SNAPSHOT_CLUSTER_MAX + 160];
	int len = snprintf(line, sizeof(line), "\n%s %s %llu %llu %llu %llu", s->id, s->cluster,
		(unsigned long long)s->taken_us, (unsigned long long)s->needed_until_us,
		(unsigned long long)v->live, (unsigned long long)v->superseded);

	return EVP_DigestUpdate(md, line, (size_t)len) == 1 ? 0 : -ENOMEM;
}

static int
digest(EVP_MD_CTX *md, const struct snapshot_list *list, const struct uuid *version,
	const char *usage, char ret_hex[USAGE_EVIDENCE_SIZE])
{
	uint8_t out[EVP_MAX_MD_SIZE];
	const struct snapshot_version *v;
	int err = EVP_DigestInit_ex(md, EVP_sha256(), NULL) == 1 &&
				  EVP_DigestUpdate(md, usage, strlen(usage)) == 1
			  ? 0
			  : -ENOMEM;

	for (size_t i = 0; err == 0 && i < list->count; i++)
		if ((v = snapshot_find(list->s[i], version)))
			err = add_record(md, list->s[i], v);
	if (err == 0 && EVP_DigestFinal_ex(md, out, NULL) != 1)
		err = -ENOMEM;
	if (err < 0)
		return err;
	str_hex(out, 32, ret_hex);
	ret_hex[64] = '\0';
	return 0;
}

int
inventory_evidence(const struct snapshot_list *list, const struct uuid *version,
	const char usage[USAGE_EVIDENCE_SIZE], char ret_hex[USAGE_EVIDENCE_SIZE])
{
	EVP_MD_CTX *md;
	bool named = false;
	int err;

	for (size_t i = 0; i < list->count; i++)
		named = named || snapshot_find(list->s[i], version);
	if (!named) {
		snprintf(ret_hex, USAGE_EVIDENCE_SIZE, "%s", usage);
		return 0;
	}
	md = EVP_MD_CTX_new();
	err = md ? digest(md, list, version, usage, ret_hex) : -ENOMEM;
	EVP_MD_CTX_free(md);
	return err;
}
