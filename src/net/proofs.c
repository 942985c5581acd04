/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which versions are proven in this node's tokens. One pass over all of them after the start, and
 * again when a token is another one; after that each change of a key's record is followed: what is
 * new is proven, what is not in use any more is dropped by the workers. What is not proven is asked
 * for again and again. Told in members/NODE. Control thread.
 */
#include "node.h"

#include "kekd/clock.h"
#include "kekd/log.h"
#include "kekd/nonce.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define KEYS_PER_TICK 64
#define TICK_NS (100 * CLOCK_MS)	/* changes must come through in between */
#define AGAIN_FIRST_NS (100 * CLOCK_MS) /* a token that is shared or synchronised may be late */
#define AGAIN_NS (5 * CLOCK_S)
#define AGAIN_SHARE 20 /* of the time, asking again takes one part in this many at most */
#define TELL_NS (200 * CLOCK_MS)
#define LOGGED_MAX 20 /* in one pass */

struct unproven {
	char key[STR_NAME_MAX + 1];
	unsigned version;
	int err;
	bool counts; /* false: staged, nobody uses it yet */
};

/* A record took another's place. */
struct change {
	struct key *before, *now; /* references; before: or NULL */
	bool own;		  /* this node's own commit: copies are dropped */
	bool proven;		  /* what is new in it was proven before it was committed */
};

struct node_proving {
	bool started;			 /* all records are loaded */
	bool through;			 /* the pass is */
	bool again;			 /* it is not the first one */
	bool withdrawn;			 /* what was told of proofs before does not hold */
	char after[STR_NAME_MAX + 1];	 /* where the pass is */
	size_t pass_total, total, asked; /* asked: of the list, in the round of asking again */
	unsigned logged;
	struct unproven *list;
	size_t count, size;
	uint64_t again_ns, step_ns, round_ns; /* step_ns: between rounds, growing */
	struct change *changes;
	size_t changes_count, changes_size, changes_done;
	char (*serials)[TOKEN_SERIAL_SIZE]; /* of each logical token, when it was proven in */
	uint64_t revision;		    /* up to which all records were looked at */
	bool news;			    /* not told yet */
	bool waited_for;		    /* a rotation waits for some of it */
	uint64_t told_ns;
};

/* ---- what needs a proof ---- */

static bool
counts(const struct key_version *v)
{
	return v && v->canary_len > 0 &&
	       (v->state == VERSION_ENABLED || v->state == VERSION_DISABLED);
}

static bool
needs_proof(const struct key_version *v)
{
	return counts(v) || (v && v->canary_len > 0 && v->state == VERSION_STAGED);
}

/* ---- what is not proven ---- */

static struct unproven *
find(struct node_proving *p, const char *key, unsigned version)
{
	for (size_t i = 0; i < p->count; i++)
		if (p->list[i].version == version && strcmp(p->list[i].key, key) == 0)
			return &p->list[i];
	return NULL;
}

static void
forget(struct node_proving *p, const char *key, unsigned version)
{
	struct unproven *u = find(p, key, version);

	if (!u)
		return;
	*u = p->list[--p->count];
	p->news = true;
}

static struct unproven *
add(struct node_proving *p, const char *key, unsigned version)
{
	if (p->count == p->size) {
		size_t size = p->size ? 2 * p->size : 64;
		struct unproven *list = realloc(p->list, size * sizeof(*list));
		if (!list)
			return NULL;
		p->list = list;
		p->size = size;
	}
	p->list[p->count] = (struct unproven){ .version = version };
	memcpy(p->list[p->count].key, key, sizeof(p->list[p->count].key));
	return &p->list[p->count++];
}

static void
ask_soon(struct node_proving *p)
{
	uint64_t soon = clock_boot_ns() + AGAIN_FIRST_NS;

	p->step_ns = AGAIN_FIRST_NS;
	if (p->asked == 0 && (p->count == 1 || p->again_ns > soon))
		p->again_ns = soon;
}

static void
note(struct node_proving *p, const struct key *k, const struct key_version *v, int err)
{
	struct unproven *u = find(p, k->name, v->number);

	if (!u)
		u = add(p, k->name, v->number);
	if (!u) {
		log_error("no memory to note that key %s version %u is not proven", k->name,
			v->number);
		return;
	}
	p->news |= u->err != err;
	if (u->err == 0)
		ask_soon(p);
	if (u->err != err && p->logged++ < LOGGED_MAX)
		log_error("key %s version %u is not proven in token %s: %s", k->name, v->number,
			v->token, kekd_strerror(err));
	u->err = err;
	u->counts = counts(v);
}

static int
prove(struct node *n, const struct key *k, const struct key_version *v)
{
	int token = node_token(n, v->token);
	int err = token < 0 ? KEKD_EHSM : canary_prove(n->hsm, (unsigned)token, v);

	if (err == 0)
		forget(n->proving, k->name, v->number);
	else
		note(n->proving, k, v, err);
	return err;
}

/* ---- what is told of it ---- */

/* A pass that asks again changes what is said of the number only when it is through. */
static void
publish(struct node *n)
{
	struct node_proving *p = n->proving;
	size_t total = p->through || p->again ? p->total : p->pass_total, failed = 0;

	for (size_t i = 0; i < p->count; i++)
		failed += p->list[i].counts;
	atomic_store(&n->proofs.total, total);
	atomic_store(&n->proofs.failed, failed < total ? failed : total);
	atomic_store(&n->proofs.proven, failed < total ? total - failed : 0);
	atomic_store(&n->proofs.through, p->through);
	n->proofs_done = p->through;
}

static json_t *
failing_json(const struct node_proving *p)
{
	json_t *list = json_array();

	for (size_t i = 0; i < p->count && i < NODE_FAILING_MAX; i++)
		json_array_append_new(list, json_pack("{s:s, s:i, s:s}", "key", p->list[i].key,
						    "version", (int)p->list[i].version, "code",
						    kekd_err_info(p->list[i].err)->code));
	return list;
}

/* More fail than are named: then nobody can tell of a version whether it does. */
static json_t *
proofs_json(const struct node *n)
{
	const struct node_proving *p = n->proving;

	return json_pack("{s:I, s:I, s:I, s:b, s:o}", "revision", (json_int_t)p->revision, "total",
		(json_int_t)atomic_load(&n->proofs.total), "proven",
		(json_int_t)atomic_load(&n->proofs.proven), "more", p->count > NODE_FAILING_MAX,
		"failing", failing_json(p));
}

/* ---- one change after the other ---- */

static void
observe(struct key *before, struct key *now, void *user)
{
	struct node *n = user;
	struct node_proving *p = n->proving;

	if (!p->started)
		return;
	if (p->changes_count == p->changes_size) {
		size_t size = p->changes_size ? 2 * p->changes_size : 64;
		struct change *changes = realloc(p->changes, size * sizeof(*changes));
		if (!changes) {
			log_error(
				"key %s: no memory to follow its change: restart kekd", now->name);
			return;
		}
		p->changes = changes;
		p->changes_size = size;
	}
	p->changes[p->changes_count++] = (struct change){ .before = before ? key_ref(before) : NULL,
		.now = key_ref(now) };
}

static bool
is_in_use(const struct key_version *v)
{
	return v->state == VERSION_ENABLED || v->state == VERSION_STAGED;
}

static void
drop_copies(struct node *n, const struct change *c)
{
	for (size_t i = 0; c->before && i < c->now->versions_count; i++) {
		const struct key_version *v = &c->now->versions[i];
		const struct key_version *before = key_find_version(c->before, v->number);
		int token, err;

		if (!before || v->state == before->state || is_in_use(v))
			continue;
		token = node_token(n, v->token);
		err = token < 0 ? 0 : hsm_drop_everywhere(n->hsm, (unsigned)token, &v->object_id);
		if (err < 0)
			log_warning("key %s: version %u is in use no more, but not every worker "
				    "said that it dropped its copy: %s",
				c->now->name, v->number, kekd_strerror(err));
	}
}

/* A version that may be the primary soon has IVs on this node before it is told as proven here: a
 * wrap must not need the store at the very moment when the active is lost, and the store's leader
 * with it. Without them the first wrap asks for them. */
static void
prove_new(struct node *n, const struct key *k, const struct key_version *v)
{
	int err;

	if (prove(n, k, v) < 0 || v->state != VERSION_STAGED)
		return;
	err = nonce_reserve(v->nonces, n->sealed, &v->id, n->part.node);
	if (err < 0)
		log_warning("key %s version %u has no IVs on this node yet: %s", k->name, v->number,
			kekd_strerror(err));
}

/* By how much there is more to be proven. */
static int
follow_version(struct node *n, const struct change *c, const struct key_version *v)
{
	struct node_proving *p = n->proving;
	const struct key_version *before = c->before ? key_find_version(c->before, v->number)
						     : NULL;
	struct unproven *u;

	if (!needs_proof(v) || c->proven) {
		forget(p, c->now->name, v->number);
	} else if (!needs_proof(before)) {
		prove_new(n, c->now, v);
		p->waited_for |= v->state == VERSION_STAGED;
	} else {
		u = find(p, c->now->name, v->number);
		if (u)
			u->counts = counts(v);
	}
	return counts(v) - counts(before);
}

static void
follow(struct node *n, const struct change *c)
{
	struct node_proving *p = n->proving;
	int more = 0;

	if (!c->own)
		drop_copies(n, c);
	p->news = true;
	/* What the pass has yet to come to it sees as it is then. */
	if (!p->through && strcmp(c->now->name, p->after) > 0)
		return;
	for (size_t i = 0; i < c->now->versions_count; i++)
		more += follow_version(n, c, &c->now->versions[i]);
	p->total += (size_t)more;
	p->pass_total += (size_t)more;
}

static void
follow_next(struct node *n)
{
	struct change c = n->proving->changes[n->proving->changes_done++];

	follow(n, &c);
	key_unrefp(&c.before);
	key_unrefp(&c.now);
}

/* True while there are more. */
static bool
follow_changes(struct node *n, uint64_t until_ns)
{
	struct node_proving *p = n->proving;

	while (p->changes_done < p->changes_count && clock_boot_ns() < until_ns)
		follow_next(n);
	if (p->changes_done < p->changes_count)
		return true;
	p->changes_done = p->changes_count = 0;
	return false;
}

/* What this node has committed of this key, if nothing else waits before it: whoever asked for the
 * change sees its end in the status. */
static void
follow_own(struct node *n, const char *key, bool proven)
{
	struct node_proving *p = n->proving;

	while (p && p->changes_done < p->changes_count && p->changes[p->changes_done].own &&
		strcmp(p->changes[p->changes_done].now->name, key) == 0) {
		p->changes[p->changes_done].proven = proven;
		follow_next(n);
	}
	if (p)
		publish(n);
}

void
node_note_committed(struct node *n, const struct key *k)
{
	struct node_proving *p = n->proving;

	/* The last one alone: what came before may be another node's. */
	if (p && p->changes_count > p->changes_done && p->changes[p->changes_count - 1].now == k)
		p->changes[p->changes_count - 1].own = true;
}

void
node_count_proven(struct node *n, const char *key)
{
	follow_own(n, key, true);
}

void
node_count_gone(struct node *n, const char *key)
{
	follow_own(n, key, false);
}

/* ---- a pass over all of them ---- */

static void
prove_key(struct node *n, const struct key *k)
{
	for (size_t i = 0; i < k->versions_count; i++) {
		n->proving->pass_total += counts(&k->versions[i]);
		if (needs_proof(&k->versions[i]))
			prove(n, k, &k->versions[i]);
	}
	memcpy(n->proving->after, k->name, sizeof(n->proving->after));
}

static void
end_pass(struct node *n)
{
	struct node_proving *p = n->proving;

	p->through = true;
	p->withdrawn = false;
	p->total = p->pass_total;
	p->news = true;
	if (p->logged > LOGGED_MAX)
		log_error("%u more versions are not proven", p->logged - LOGGED_MAX);
	p->logged = 0;
	publish(n);
	log_info("%zu versions proven, %zu failed", atomic_load(&n->proofs.proven),
		atomic_load(&n->proofs.failed));
}

static bool
pass_on(struct node *n, uint64_t until_ns)
{
	struct node_proving *p = n->proving;
	struct key *keys[KEYS_PER_TICK];
	size_t count = keyring_list(n->keyring, *p->after ? p->after : NULL, KEYS_PER_TICK, keys);
	size_t done = 0;

	for (size_t i = 0; i < count; i++) {
		if (i == 0 || clock_boot_ns() < until_ns) {
			prove_key(n, keys[i]);
			done++;
		}
		key_unrefp(&keys[i]);
	}
	if (done < count || count == KEYS_PER_TICK)
		return true;
	end_pass(n);
	return false;
}

static void
begin_pass(struct node_proving *p)
{
	p->again = p->through || p->again;
	p->through = false;
	p->after[0] = '\0';
	p->pass_total = 0;
	p->revision = 0;
	p->withdrawn = true;
	p->news = true;
}

/* ---- asking again ---- */

static void
ask_again(struct node *n, size_t i)
{
	struct unproven u = n->proving->list[i];
	_cleanup_(key_unrefp) struct key *k = keyring_find(n->keyring, u.key);
	const struct key_version *v = k ? key_find_version(k, u.version) : NULL;

	if (!needs_proof(v)) {
		forget(n->proving, u.key, u.version);
	} else if (prove(n, k, v) == 0) {
		n->proving->waited_for |= v->state == VERSION_STAGED;
		log_info("key %s version %u is proven now in token %s", k->name, v->number,
			v->token);
	}
}

static uint64_t
longer(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

/* From the end on, since what is proven leaves its place to the last one. */
static bool
ask_on(struct node *n, uint64_t until_ns)
{
	struct node_proving *p = n->proving;
	uint64_t now = clock_boot_ns();

	if (p->count == 0 || now < p->again_ns)
		return false;
	if (p->asked == 0 || p->asked > p->count) {
		p->asked = p->count;
		p->round_ns = 0;
	}
	do
		ask_again(n, --p->asked);
	while (p->asked > 0 && clock_boot_ns() < until_ns);
	p->round_ns += clock_boot_ns() - now;
	if (p->asked > 0)
		return true;
	p->logged = 0;
	p->step_ns = 2 * p->step_ns < AGAIN_NS ? 2 * p->step_ns : AGAIN_NS;
	p->again_ns = clock_boot_ns() + longer(p->step_ns, AGAIN_SHARE * p->round_ns);
	return false;
}

/* ---- tokens ---- */

static bool
token_serial(struct node *n, unsigned token, char ret_serial[TOKEN_SERIAL_SIZE])
{
	struct hsm_worker_status s;

	for (unsigned w = 0; hsm_worker_status(n->hsm, token, w, &s) == 0; w++) {
		if (!s.ready || !*s.hello.token_serial)
			continue;
		memcpy(ret_serial, s.hello.token_serial, TOKEN_SERIAL_SIZE);
		return true;
	}
	return false;
}

/* Another token under the same name: what was proven was proven in the other one. */
static void
look_at_tokens(struct node *n)
{
	struct node_proving *p = n->proving;
	char serial[TOKEN_SERIAL_SIZE];

	for (unsigned t = 0; t < n->part.tokens_count; t++) {
		if (!token_serial(n, t, serial) || strcmp(serial, p->serials[t]) == 0)
			continue;
		if (*p->serials[t]) {
			log_warning("token %s has the serial %s now, not %s: every version is "
				    "proven again",
				n->part.tokens[t], serial, p->serials[t]);
			begin_pass(p);
		}
		memcpy(p->serials[t], serial, sizeof(serial));
		p->news = true;
	}
}

static json_t *
token_json(const struct node *n, unsigned token)
{
	const char *copy = n->part.token_copies[token];

	return json_pack("{s:s, s:s, s:s?}", "token", n->part.tokens[token], "serial",
		n->proving->serials[token], "copy", *copy ? copy : NULL);
}

static json_t *
tokens_json(const struct node *n)
{
	json_t *list = json_array();

	for (unsigned t = 0; t < n->part.tokens_count; t++)
		if (n->proving && *n->proving->serials[t])
			json_array_append_new(list, token_json(n, t));
	return list;
}

/* ---- from outside ---- */

int
node_open_proofs(struct node *n)
{
	struct node_proving *p;

	if (n->proving)
		return 0;
	p = calloc(1, sizeof(*p));
	if (p)
		p->serials = calloc(n->part.tokens_count, sizeof(*p->serials));
	if (!p || !p->serials) {
		free(p);
		return -ENOMEM;
	}
	n->proving = p;
	keyring_observe(n->keyring, observe, n);
	return 0;
}

/* Of the time before the start. */
static void
remember_serials(struct node *n)
{
	const json_t *entry;
	size_t i;

	json_array_foreach(node_member(n, "tokens"), i, entry) {
		const char *name = json_string_value(json_object_get(entry, "token"));
		const char *serial = json_string_value(json_object_get(entry, "serial"));
		int token = name ? node_token(n, name) : -ENOENT;
		if (token >= 0 && serial)
			snprintf(n->proving->serials[token], TOKEN_SERIAL_SIZE, "%s", serial);
	}
}

void
node_start_proofs(struct node *n)
{
	n->proving->started = true;
	remember_serials(n);
	look_at_tokens(n);
}

void
node_close_proofs(struct node *n)
{
	struct node_proving *p = n->proving;

	if (!p)
		return;
	if (n->keyring)
		keyring_observe(n->keyring, NULL, NULL);
	for (size_t i = p->changes_done; i < p->changes_count; i++) {
		key_unrefp(&p->changes[i].before);
		key_unrefp(&p->changes[i].now);
	}
	free(p->changes);
	free(p->serials);
	free(p->list);
	free(p);
	n->proving = NULL;
}

/* Rotations come one after the other: what is told must not be made for each. After a start what
 * was told before stands until everything was looked at. */
static void
tell(struct node *n)
{
	struct node_proving *p = n->proving;
	uint64_t now = clock_boot_ns();

	if (!p->news || (!p->through && !p->withdrawn) ||
		(!p->waited_for && now < p->told_ns + TELL_NS))
		return;
	p->news = false;
	p->told_ns = now;
	node_note_member(n, "tokens", tokens_json(n), false);
	node_note_member(n, "proofs", proofs_json(n), p->waited_for);
	p->waited_for = false;
}

bool
node_tick_proofs(struct node *n)
{
	struct node_proving *p = n->proving;
	uint64_t until_ns = clock_boot_ns() + TICK_NS;
	bool more;

	look_at_tokens(n);
	more = follow_changes(n, until_ns);
	if (!more && !p->through)
		more = pass_on(n, until_ns);
	if (!more)
		more = ask_on(n, until_ns);
	if (p->through && p->changes_count == 0)
		p->revision = sealed_number(n->sealed);
	publish(n);
	tell(n);
	return more;
}
