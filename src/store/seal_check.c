/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Verifying and judging: what the store has now (seal_observe), whether that is a whole state
 * (seal_assess), and what follows for each record (seal_settle). The map keeps what is there apart
 * from what was last good, so that nothing that another program wrote ends up in a hash of ours.
 */
#include "sealed.h"

#include "kekd/err.h"
#include "kekd/log.h"
#include "kekd/secret.h"

#include <errno.h>
#include <openssl/evp.h>
#include <string.h>

#define REFUSALS_LOGGED 10 /* at one look at the store */

/* ---- one record's own seal ---- */

static int
make_digest(const struct store_record *r, struct check *c)
{
	return envelope_digest(r->path, c->envelope.commit, c->envelope.body, c->digest);
}

int
seal_read_checks(const struct store_record *records, size_t count, struct check *ret_checks)
{
	int err = 0;

	memset(ret_checks, 0, count * sizeof(*ret_checks));
	for (size_t i = 0; err == 0 && i < count; i++) {
		struct check *c = &ret_checks[i];
		c->readable = envelope_parse(&records[i], &c->envelope) == 0;
		if (!c->readable)
			continue;
		c->of_text = envelope_text_digest(&records[i], &c->envelope, c->digest);
		if (!c->of_text)
			err = make_digest(&records[i], c);
	}
	return err;
}

static int
verify(const struct sealed *s, struct check *checks, size_t count)
{
	struct seal_job jobs[SEAL_BATCH];
	struct check *owners[SEAL_BATCH];
	size_t n = 0;
	int err;

	for (size_t i = 0; i < count; i++) {
		struct check *c = &checks[i];
		jobs[n].key = c->readable && !c->verified ? seal_find_key(s, &c->envelope.key)
							  : NULL;
		if (!jobs[n].key)
			continue;
		memcpy(jobs[n].digest, c->digest, SEAL_SIZE);
		owners[n++] = c;
	}
	err = seal_make(s, jobs, n);
	for (size_t i = 0; err == 0 && i < n; i++)
		owners[i]->verified = secret_equal(
			jobs[i].seal, SEAL_SIZE, owners[i]->envelope.seal, SEAL_SIZE);
	return err;
}

/* A text that is not canonical may still be of a body that was sealed. */
int
seal_verify_checks(const struct sealed *s, const struct store_record *records, size_t count,
	struct check *checks)
{
	bool again = false;
	int err = verify(s, checks, count);

	for (size_t i = 0; err == 0 && i < count; i++) {
		struct check *c = &checks[i];
		if (c->verified || !c->of_text)
			continue;
		c->of_text = false;
		again = true;
		err = make_digest(&records[i], c);
	}
	return err == 0 && again ? verify(s, checks, count) : err;
}

int
seal_check(const struct sealed *s, const struct store_record *records, size_t count,
	struct check *ret_checks)
{
	int err = seal_read_checks(records, count, ret_checks);

	return err < 0 ? err : seal_verify_checks(s, records, count, ret_checks);
}

void
seal_free_checks(struct check *checks, size_t count)
{
	for (size_t i = 0; i < count; i++)
		envelope_free(&checks[i].envelope);
}

/* ---- the map ---- */

static struct sealed_entry *
entry_for(struct sealed *s, const char *path)
{
	struct sealed_entry *e = pathmap_find(&s->map, path);

	if (e)
		return e;
	e = calloc(1, sizeof(*e));
	if (!e)
		return NULL;
	e->path = strdup(path);
	if (!e->path || pathmap_add(&s->map, e) < 0) {
		seal_entry_free(e);
		return NULL;
	}
	return e;
}

static void
observe_commit(struct sealed *s, struct sealed_entry *e, const struct check *c)
{
	uint64_t number;
	uint8_t state[SEAL_SIZE];

	if (commit_parse(c->envelope.body, &number, state) < 0 || number != e->commit) {
		e->verified = false;
		return;
	}
	s->seen_number = number;
	memcpy(s->seen_state, state, SEAL_SIZE);
}

static void
observe_cluster(struct sealed *s, const struct check *c)
{
	s->seen = (struct seal_lineage){ 0 };
	if (c && c->verified)
		seal_read_lineage(c->envelope.body, &s->seen);
}

struct sealed_entry *
seal_observe(struct sealed *s, const char *path, uint64_t revision, const struct check *c)
{
	struct sealed_entry *e = entry_for(s, path);

	if (!e)
		return NULL;
	if (e->dirty)
		s->dirty--;
	e->dirty = false;
	e->there = c != NULL;
	e->revision = revision;
	e->readable = c && c->readable;
	e->verified = c && c->verified;
	e->commit = e->readable ? c->envelope.commit : 0;
	memset(e->seal, 0, SEAL_SIZE);
	if (e->readable) {
		e->key = c->envelope.key;
		memcpy(e->seal, c->envelope.seal, SEAL_SIZE);
	}
	if (e->verified && strcmp(path, COMMIT_PATH) == 0)
		observe_commit(s, e, c);
	if (strcmp(path, CLUSTER_PATH) == 0)
		observe_cluster(s, c);
	return e;
}

void
seal_set_good(struct sealed_entry *e)
{
	e->known = true;
	e->refused = false;
	e->good_commit = e->commit;
	memcpy(e->good_seal, e->seal, SEAL_SIZE);
}

void
seal_mark_dirty(struct sealed *s, const char *path)
{
	struct sealed_entry *e = entry_for(s, path);

	if (!e) {
		log_error("no memory to take note of a change to %s: restart kekd", path);
		s->blind = true;
	} else if (!e->dirty) {
		e->dirty = true;
		s->dirty++;
	}
}

/* ---- the whole state ---- */

static bool
is_in_state(const char *path)
{
	return !path_is_node_owned(path) && strcmp(path, COMMIT_PATH) != 0;
}

static void
state_add(EVP_MD_CTX *ctx, const char *path, const uint8_t seal[SEAL_SIZE])
{
	uint32_t len = (uint32_t)strlen(path);
	uint8_t head[4] = { (uint8_t)(len >> 24), (uint8_t)(len >> 16), (uint8_t)(len >> 8),
		(uint8_t)len };

	EVP_DigestUpdate(ctx, head, sizeof(head));
	EVP_DigestUpdate(ctx, path, len);
	EVP_DigestUpdate(ctx, seal, SEAL_SIZE);
}

static void
state_add_all(EVP_MD_CTX *ctx, const struct pathmap *map, const struct seal_override *overrides,
	size_t count)
{
	size_t i = 0, j = 0;

	while (i < map->count || j < count) {
		const struct sealed_entry *e = i < map->count ? map->items[i] : NULL;
		int order = !e ? 1 : j == count ? -1 : strcmp(e->path, overrides[j].path);
		if (order >= 0) {
			if (overrides[j].seal)
				state_add(ctx, overrides[j].path, overrides[j].seal);
			j++;
			i += order == 0;
			continue;
		}
		if (e->there && is_in_state(e->path))
			state_add(ctx, e->path, e->seal);
		i++;
	}
}

int
seal_state(const struct sealed *s, const struct seal_override *overrides, size_t count,
	uint8_t ret_state[SEAL_SIZE])
{
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	int err = -ENOMEM;

	if (ctx && EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) == 1) {
		state_add_all(ctx, &s->map, overrides, count);
		err = EVP_DigestFinal_ex(ctx, ret_state, NULL) == 1 ? 0 : KEKD_EINTERNAL;
	}
	EVP_MD_CTX_free(ctx);
	return err;
}

static bool
is_verified(const struct sealed *s, const char *path)
{
	const struct sealed_entry *e = pathmap_find(&s->map, path);

	return e && e->there && e->verified;
}

/* An unreadable cluster record says nothing against it. */
static bool
accepted_counts(const struct sealed *s)
{
	return s->accepted_ok &&
	       (!*s->seen.generation || strcmp(s->accepted.generation, s->seen.generation) == 0);
}

/* An operator confirmed it as what comes after all that was accepted here. */
static bool
is_successor(const struct sealed *s)
{
	for (size_t i = 0; s->accepted_ok && i < s->seen.count; i++) {
		const struct seal_succeeds *before = &s->seen.succeeds[i];
		if (strcmp(before->generation, s->accepted.generation) == 0)
			return s->accepted.number <= before->number &&
			       s->seen_number > before->number;
	}
	return false;
}

static bool
is_confirmed_store(const struct sealed *s)
{
	struct store *store = s->config.store;
	char identity[64];

	return *s->seen.store && store->engine->identity(store, identity) == 0 &&
	       strcmp(identity, s->seen.store) == 0;
}

/* Another database, and nobody has confirmed just that one. */
static bool
is_foreign(const struct sealed *s)
{
	struct store *store = s->config.store;

	if (!store->engine->foreign || !store->engine->foreign(store))
		return false;
	return !is_confirmed_store(s) || !(is_successor(s) || accepted_counts(s));
}

static bool
is_behind(const struct sealed *s)
{
	if (!accepted_counts(s) || s->seen_number > s->accepted.number)
		return false;
	return s->seen_number < s->accepted.number ||
	       memcmp(s->seen_state, s->accepted.state, SEAL_SIZE) != 0;
}

bool
seal_is_whole(const struct sealed *s, const uint8_t state[SEAL_SIZE])
{
	if (s->blind || !is_verified(s, COMMIT_PATH) || !is_verified(s, CLUSTER_PATH) ||
		memcmp(state, s->seen_state, SEAL_SIZE) != 0)
		return false;
	for (size_t i = 0; i < s->map.count; i++) {
		const struct sealed_entry *e = s->map.items[i];
		if (e->dirty || (e->there && !e->verified))
			return false;
	}
	return true;
}

static enum sealed_hold
find_hold(const struct sealed *s, const uint8_t state[SEAL_SIZE])
{
	bool successor = is_successor(s);

	if (!is_verified(s, COMMIT_PATH) || !is_verified(s, CLUSTER_PATH))
		return SEALED_HOLD_COMMIT;
	if (!successor && is_behind(s))
		return SEALED_HOLD_BEHIND;
	if (s->blind || memcmp(state, s->seen_state, SEAL_SIZE) != 0)
		return SEALED_HOLD_STATE;
	return successor || accepted_counts(s) ? SEALED_HOLD_NONE : SEALED_HOLD_NO_ACCEPTED;
}

static void
log_hold(const struct sealed *s, enum sealed_hold before)
{
	if (s->hold == before || s->joining)
		return;
	if (s->hold == SEALED_HOLD_NONE)
		log_info("the metadata store is whole again at commit %llu",
			(unsigned long long)s->seen_number);
	else
		log_error("the metadata store is held: %s", sealed_hold_text(s->hold));
}

int
seal_assess(struct sealed *s)
{
	enum sealed_hold before = s->hold;
	uint8_t state[SEAL_SIZE];
	int err = seal_state(s, NULL, 0, state);

	if (err < 0)
		return err;
	s->hold = find_hold(s, state);
	if (!s->opened)
		s->good = s->hold == SEALED_HOLD_NONE; /* the image, wherever it comes from */
	if (is_foreign(s))
		s->hold = SEALED_HOLD_FOREIGN;
	s->good = s->good || s->hold == SEALED_HOLD_NONE;
	s->whole = s->hold == SEALED_HOLD_NONE || seal_is_whole(s, state);
	log_hold(s, before);
	if (s->hold == SEALED_HOLD_NONE || (s->number == 0 && is_verified(s, COMMIT_PATH))) {
		s->number = s->seen_number;
		memcpy(s->state, s->seen_state, SEAL_SIZE);
	}
	return 0;
}

/* ---- what follows for each record ---- */

enum verdict { GOOD, REFUSED, GONE };

static bool
is_last_good(const struct sealed_entry *e)
{
	return e->known && memcmp(e->seal, e->good_seal, SEAL_SIZE) == 0;
}

/* A node's own record counts up by itself: the last one that was seen, or a later one. nodes/ are
 * leased: they go with the node. */
static enum verdict
judge_own(const struct sealed_entry *e)
{
	if (!e->there)
		return e->known && !path_is_leased(e->path) ? REFUSED : GONE;
	if (e->verified && path_is_leased(e->path))
		return GOOD;
	return e->verified && (!e->known || is_last_good(e) || e->commit > e->good_commit)
		       ? GOOD
		       : REFUSED;
}

/* In a whole state what is there counts. In any other, only what was good before. */
static enum verdict
judge(const struct sealed *s, const struct sealed_entry *e)
{
	if (path_is_node_owned(e->path))
		return judge_own(e);
	if (!e->there && (s->hold == SEALED_HOLD_NONE || !e->known))
		return GONE;
	if (!e->there || !e->verified)
		return REFUSED;
	return s->hold == SEALED_HOLD_NONE || is_last_good(e) ? GOOD : REFUSED;
}

bool
seal_is_current(const struct sealed *s, const char *path, const struct envelope *v)
{
	const struct sealed_entry *e = pathmap_find(&s->map, path);
	bool known = e && e->known;

	if (known && memcmp(v->seal, e->good_seal, SEAL_SIZE) == 0)
		return true;
	if (path_is_node_owned(path))
		return !known || v->commit > e->good_commit;
	return v->commit > s->number;
}

static void
load(const struct sealed *s, const char *path, json_t *body, uint64_t commit)
{
	if (strcmp(path, COMMIT_PATH) != 0 && s->load)
		s->load(path, body, commit, s->user);
}

static int
tell_good(struct sealed *s, struct sealed_entry *e)
{
	struct store_record r = { 0 };
	struct check c = { 0 };
	int err;

	if (!e->refused && is_last_good(e))
		return 0;
	err = s->config.store->engine->get(s->config.store, e->path, &r);
	if (err == 0)
		err = seal_check(s, &r, 1, &c);
	/* Changed once more since it was observed: the next poll sees to it. */
	if (err < 0 || !c.verified || memcmp(c.envelope.seal, e->seal, SEAL_SIZE) != 0) {
		seal_mark_dirty(s, e->path);
	} else {
		if (e->refused)
			log_info("record %s: is good again", e->path);
		seal_set_good(e);
		if (strcmp(e->path, CLUSTER_PATH) == 0)
			err = seal_adopt_cluster(s, c.envelope.body);
		load(s, e->path, c.envelope.body, e->commit);
		err = err < 0 ? err : 1;
	}
	seal_free_checks(&c, 1);
	store_record_free(&r);
	return err == -ENOENT ? 0 : err;
}

/* All of them are in the list that status shows: the log is to stay readable. */
void
seal_log_refused(struct sealed *s, const struct sealed_entry *e)
{
	const char *why = !e->there	? "it is missing"
			  : e->verified ? "it is not the one that was last written by kekd"
					: "its seal does not verify";

	metrics_add(&s->counts.refusals, 1);
	s->refusals_told++;
	if (s->refusals_told <= REFUSALS_LOGGED)
		log_error("record %s: refused: %s: another program changed the store; put the "
			  "right record back",
			e->path, why);
	else if (s->refusals_told == REFUSALS_LOGGED + 1)
		log_error("more records are refused: see `kekctl status`");
}

static int
tell_refused(struct sealed *s, struct sealed_entry *e)
{
	if (e->refused)
		return 0;
	seal_log_refused(s, e);
	e->refused = true;
	load(s, e->path, NULL, 0);
	return 1;
}

static int
tell_gone(struct sealed *s, struct sealed_entry *e)
{
	bool known = e->known;

	if (e->dirty)
		s->dirty--;
	pathmap_remove(&s->map, e->path);
	if (known)
		load(s, e->path, NULL, s->number);
	seal_entry_free(e);
	return known;
}

int
seal_tell(struct sealed *s)
{
	static int (*const acts[])(struct sealed *, struct sealed_entry *) = {
		[GOOD] = tell_good,
		[REFUSED] = tell_refused,
		[GONE] = tell_gone,
	};
	int findings = 0;

	s->refusals_told = 0;
	/* Backwards, since one that is gone leaves the map. */
	for (size_t i = s->map.count; i-- > 0;) {
		struct sealed_entry *e = s->map.items[i];
		int n = acts[judge(s, e)](s, e);
		if (n < 0)
			return n;
		findings += n;
	}
	return findings;
}

/* ---- what has changed ---- */

static size_t
next_dirty(const struct sealed *s, size_t *at, struct sealed_entry **ret_entries)
{
	size_t n = 0;

	for (; *at < s->map.count && n < SEAL_BATCH; (*at)++) {
		struct sealed_entry *e = s->map.items[*at];
		if (e->dirty)
			ret_entries[n++] = e;
	}
	return n;
}

static int
reread(struct sealed *s, struct sealed_entry **entries, size_t count)
{
	struct store_record records[SEAL_BATCH] = { 0 };
	struct check checks[SEAL_BATCH] = { 0 };
	struct sealed_entry *found[SEAL_BATCH];
	size_t n = 0;
	int err = 0;

	for (size_t i = 0; err == 0 && i < count; i++) {
		err = s->config.store->engine->get(s->config.store, entries[i]->path, &records[n]);
		if (err == 0)
			found[n++] = entries[i];
		else if (err == -ENOENT)
			err = seal_observe(s, entries[i]->path, 0, NULL) ? 0 : -ENOMEM;
	}
	if (err == 0)
		err = seal_check(s, records, n, checks);
	for (size_t i = 0; err == 0 && i < n; i++)
		seal_observe(s, found[i]->path, records[i].revision, &checks[i]);
	seal_free_checks(checks, n);
	for (size_t i = 0; i < n; i++)
		store_record_free(&records[i]);
	return err;
}

int
seal_settle(struct sealed *s)
{
	struct sealed_entry *entries[SEAL_BATCH];
	size_t at = 0, n;
	int err = 0;

	while (err == 0 && (n = next_dirty(s, &at, entries)) > 0)
		err = reread(s, entries, n);
	if (err == 0)
		err = seal_assess(s);
	return err < 0 ? err : seal_tell(s);
}

static void
mark_change(const struct store_record *change, void *user)
{
	seal_mark_dirty(user, change->path);
}

/* ---- the image that a restart begins with ---- */

static bool
is_settled(const char *path, uint64_t revision, void *user)
{
	const struct sealed *s = user;
	const struct sealed_entry *e = pathmap_find(&s->map, path);

	if (s->hold != SEALED_HOLD_NONE && !path_is_node_owned(path))
		return false;
	if (revision == 0)
		return !e || (!e->there && !e->dirty && !e->refused);
	return e && e->there && !e->dirty && e->verified && !e->refused &&
	       e->revision == revision && is_last_good(e);
}

int
seal_image(struct sealed *s)
{
	struct store *store = s->config.store;
	const struct store_engine *engine = store->engine;
	int err = 0;

	/* It may have become another one since it was judged: the next poll judges that. */
	if (s->hold == SEALED_HOLD_NONE && engine->foreign && engine->foreign(store))
		err = is_confirmed_store(s) ? engine->adopt(store) : KEKD_ESTORE;
	if (err == 0 && engine->settled)
		err = engine->settled(store, s->hold == SEALED_HOLD_NONE, is_settled, s);
	return err;
}

/* Also what an earlier try could not read or have verified, and another database without a change.
 */
static bool
has_news(const struct sealed *s)
{
	return s->dirty > 0 || s->blind || is_foreign(s) != (s->hold == SEALED_HOLD_FOREIGN);
}

int
sealed_poll(struct sealed *s)
{
	int findings = 0, err = s->config.store->engine->poll(s->config.store, mark_change, s);

	if (has_news(s))
		findings = seal_settle(s);
	if (err >= 0 && findings >= 0)
		err = seal_image(s);
	if (err >= 0 && findings >= 0 && s->hold == SEALED_HOLD_NONE &&
		(s->accepted.number < s->number || is_successor(s)))
		err = seal_accept(s, s->number, s->state);
	seal_publish(s);
	return err < 0 ? err : findings;
}
