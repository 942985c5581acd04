/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the cluster's members have proven, each in its own tokens, by their records: what a rotation
 * waits for, what the end of a version waits for, and in how many tokens each version is. Control
 * thread.
 */
#include "node.h"

#include "kekd/clock.h"
#include "kekd/leader.h"
#include "kekd/log.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define WAIT_NS (10 * CLOCK_S) /* for a member that says nothing */
#define ABSENT_NS CLOCK_S      /* for one that is not there: it may be coming */
#define FAILING_NS \
	(3 * CLOCK_S) /* for one that says that it cannot: its token may be slow to hear */
#define AGAIN_NS \
	(CLOCK_S / 2) /* for one that was waited for in vain, and has said nothing since \
		       */
#define VAIN_NS (60 * CLOCK_S)
#define LOOK_FIRST_NS (2 * CLOCK_MS)
#define LOOK_MAX_NS (20 * CLOCK_MS)
#define PAGE 256
#define SHARE 100 /* of the time, counting copies takes at most one part in this many */

bool
node_has_others(struct node *n)
{
	bool others = false;

	pthread_mutex_lock(&n->lock);
	for (size_t i = 0; i < n->cluster.members_count; i++)
		others = others || strcmp(n->cluster.members[i], n->part.node) != 0;
	pthread_mutex_unlock(&n->lock);
	return others;
}

static bool
is_present(struct node *n, const char *member)
{
	_cleanup_(json_freep) json_t *said = node_peer(n, member);

	return said != NULL;
}

/* ---- what a member says ---- */

struct proofs {
	uint64_t revision; /* 0: nothing is proven, or it is not known */
	bool more;	   /* fail than are named */
	const json_t *failing;
};

static struct proofs
proofs_of(struct node *n, const char *member)
{
	const json_t *body = node_member_of(n, member, "proofs");

	return (struct proofs){
		.revision = (uint64_t)json_integer_value(json_object_get(body, "revision")),
		.more = json_is_true(json_object_get(body, "more")),
		.failing = json_object_get(body, "failing"),
	};
}

/* Its entry among those that fail, or NULL. */
static const json_t *
find_failing(const struct proofs *p, const char *key, unsigned version)
{
	const json_t *entry;
	size_t i;

	json_array_foreach(p->failing, i, entry) {
		const char *name = json_string_value(json_object_get(entry, "key"));
		if (name && strcmp(name, key) == 0 &&
			json_integer_value(json_object_get(entry, "version")) == version)
			return entry;
	}
	return NULL;
}

/* ---- waiting for a proof ---- */

struct waiting {
	const struct key *key;
	unsigned version;
	uint64_t start_ns, failing_ns; /* since when the member that is waited for fails; 0 */
};

/* The first member that has not proven it; NULL: all have. */
static const char *
find_unproven(
	struct node *n, const struct cluster *c, const struct waiting *w, struct proofs *ret_proofs)
{
	for (size_t i = 0; i < c->members_count; i++) {
		if (strcmp(c->members[i], n->part.node) == 0)
			continue;
		*ret_proofs = proofs_of(n, c->members[i]);
		if (ret_proofs->revision < w->key->commit || ret_proofs->more ||
			find_failing(ret_proofs, w->key->name, w->version))
			return c->members[i];
	}
	return NULL;
}

/* It was waited for already, and fails still or has said nothing since: whoever changes many keys
 * does not wait that long for each. */
static bool
was_in_vain(struct node *n, const char *member)
{
	return strcmp(n->vain.member, member) == 0 && clock_boot_ns() < n->vain.ns + VAIN_NS &&
	       (n->vain.fails || n->vain.revision == proofs_of(n, member).revision);
}

static bool
fails(const struct waiting *w, const struct proofs *p)
{
	return p->more || find_failing(p, w->key->name, w->version);
}

static bool
give_up_on(struct node *n, struct waiting *w, const char *member, const struct proofs *p, bool vain)
{
	uint64_t now = clock_boot_ns(), waited = now - w->start_ns;

	if (!is_present(n, member) && waited >= (vain ? 0 : ABSENT_NS))
		return true;
	if (!fails(w, p)) {
		w->failing_ns = 0;
		return waited >= (vain && !n->vain.fails ? AGAIN_NS : WAIT_NS);
	}
	if (w->failing_ns == 0)
		w->failing_ns = now;
	return now - w->failing_ns >= (vain ? AGAIN_NS : FAILING_NS);
}

static const char *
reason(struct node *n, const struct waiting *w, const char *member, const struct proofs *p)
{
	const json_t *entry = find_failing(p, w->key->name, w->version);
	const char *code = json_string_value(json_object_get(entry, "code"));
	const struct kekd_err_info *info = code ? kekd_err_find(code) : NULL;

	if (!is_present(n, member))
		return "it is not there";
	if (info && info->err == KEKD_EOBJECT)
		return "its token does not have the object";
	if (info)
		return info->title;
	if (p->more)
		return "its tokens lack many versions";
	return "it did not say so in time";
}

static int
fail(struct node *n, const struct waiting *w, const char *member, const struct proofs *p,
	char ret_error[LIFECYCLE_ERROR_SIZE])
{
	snprintf(n->vain.member, sizeof(n->vain.member), "%s", member);
	n->vain.ns = clock_boot_ns();
	n->vain.revision = p->revision;
	n->vain.fails = fails(w, p);
	snprintf(ret_error, LIFECYCLE_ERROR_SIZE,
		"key %s: version %u waits: member %s has not proven it: %s. %s, or \"kekctl "
		"cluster "
		"forget\" it, then repeat",
		w->key->name, w->version, member, reason(n, w, member, p),
		is_present(n, member) && fails(w, p) ? "Clone its token" : "Bring it back");
	return KEKD_ENOPROOF;
}

static void
pause_for(uint64_t ns)
{
	const struct timespec ts = { 0, (long)ns };

	nanosleep(&ts, NULL);
}

static bool
may_wait(struct node *n)
{
	struct leader *l = atomic_load(&n->leader);

	return (!l || leader_may_change(l)) && atomic_load(&n->phase) != NODE_STOPPING;
}

static int
fail_here(const struct key *k, const struct key_version *v, char ret_error[LIFECYCLE_ERROR_SIZE])
{
	snprintf(ret_error, LIFECYCLE_ERROR_SIZE,
		"key %s: version %u stays staged: this node does not make the changes any more: "
		"repeat the change",
		k->name, v->number);
	return KEKD_ENOTACTIVE;
}

static int
wait_for_proofs(void *user, const struct key *k, const struct key_version *v,
	char ret_error[LIFECYCLE_ERROR_SIZE])
{
	struct node *n = user;
	struct waiting w = { .key = k, .version = v->number, .start_ns = clock_boot_ns() };
	uint64_t look_ns = LOOK_FIRST_NS;
	struct proofs p = { 0 };
	const char *member;
	struct cluster c;
	bool vain = false;

	node_cluster(n, &c);
	while ((member = find_unproven(n, &c, &w, &p))) {
		if (!may_wait(n))
			return fail_here(k, v, ret_error);
		if (look_ns == LOOK_FIRST_NS)
			vain = was_in_vain(n, member);
		if (give_up_on(n, &w, member, &p, vain))
			return fail(n, &w, member, &p, ret_error);
		pause_for(look_ns);
		look_ns = 2 * look_ns < LOOK_MAX_NS ? 2 * look_ns : LOOK_MAX_NS;
		(void)sealed_poll(n->sealed);
	}
	return 0;
}

/* ---- what keys' changes ask ---- */

static bool
has_others(void *user)
{
	return node_has_others(user);
}

static bool
has_destroyed(void *user, const char *member, const struct key_version *v)
{
	const json_t *entry;
	char id[UUID_TEXT_SIZE];
	size_t i;

	uuid_format(&v->id, id);
	json_array_foreach(node_member_of(user, member, "destroyed"), i, entry)
		if (json_is_string(entry) && strcmp(json_string_value(entry), id) == 0)
			return true;
	return false;
}

static int
may_change(void *user, uint64_t *ret_until_ns)
{
	struct node *n = user;
	struct leader *l = atomic_load(&n->leader);
	struct leader_status status;

	*ret_until_ns = 0;
	if (!l)
		return 0;
	leader_status(l, &status);
	if (!status.active || !leader_may_change(l))
		return KEKD_ENOTACTIVE;
	*ret_until_ns = status.until_ns;
	return 0;
}

static void
note_committed(void *user, const struct key *k)
{
	node_note_committed(user, k);
}

void
node_open_lifecycle(struct node *n)
{
	n->lifecycle_members = (struct lifecycle_members){
		.user = n,
		.others = has_others,
		.proven = wait_for_proofs,
		.destroyed = has_destroyed,
		.may_change = may_change,
		.committed = note_committed,
	};
	n->lifecycle.members = &n->lifecycle_members;
}

/* ---- in how many tokens each version is ---- */

struct view { /* a member's, for a walk over all versions */
	struct proofs proofs;
	const json_t *tokens;
};

struct token { /* as a member says; serial NULL: it does not */
	const char *serial, *copy;
};

static const char *
text_of(const json_t *object, const char *name)
{
	const char *text = json_string_value(json_object_get(object, name));

	return text ? text : "";
}

static struct token
token_of(const struct view *m, const char *name)
{
	const json_t *entry;
	size_t i;

	json_array_foreach(m->tokens, i, entry)
		if (strcmp(text_of(entry, "token"), name) == 0)
			return (struct token){ text_of(entry, "serial"), text_of(entry, "copy") };
	return (struct token){ NULL, NULL };
}

/* A shared token has one serial, and so has one that was copied file by file: only who configured
 * them can tell these. */
static bool
same_token(const struct token *a, const struct token *b)
{
	return strcmp(a->serial, b->serial) == 0 && strcmp(a->copy, b->copy) == 0;
}

/* Versions were proven by all before they came into use, adopted ones apart; what failed since is
 * named. */
static bool
proves(const struct view *m, const struct key *k, const struct key_version *v)
{
	if (m->proofs.revision == 0 || m->proofs.more ||
		(v->adopted_us != 0 && m->proofs.revision < k->commit))
		return false;
	return !find_failing(&m->proofs, k->name, v->number);
}

static size_t
count_copies(
	const struct view *members, size_t count, const struct key *k, const struct key_version *v)
{
	struct token tokens[CLUSTER_MEMBERS_MAX];
	size_t found = 0, same;

	for (size_t i = 0; i < count; i++) {
		if (!proves(&members[i], k, v))
			continue;
		tokens[found] = token_of(&members[i], v->token);
		for (same = 0; same < found && tokens[found].serial; same++)
			if (same_token(&tokens[same], &tokens[found]))
				break;
		if (same == found && tokens[found].serial)
			found++;
	}
	return found;
}

static size_t
look_at_members(struct node *n, struct view ret_views[CLUSTER_MEMBERS_MAX])
{
	struct cluster c;

	node_cluster(n, &c);
	for (size_t i = 0; i < c.members_count; i++)
		ret_views[i] = (struct view){ proofs_of(n, c.members[i]),
			node_member_of(n, c.members[i], "tokens") };
	return c.members_count;
}

static void
count_key(const struct view *members, size_t count, const struct key *k, struct node_copies *copies)
{
	for (size_t i = 0; i < k->versions_count; i++) {
		const struct key_version *v = &k->versions[i];
		if (v->canary_len > 0 &&
			(v->state == VERSION_ENABLED || v->state == VERSION_DISABLED))
			copies->versions[count_copies(members, count, k, v)]++;
	}
}

static void
count_all(struct node *n, struct node_copies *ret_copies)
{
	struct view members[CLUSTER_MEMBERS_MAX];
	size_t members_count = look_at_members(n, members), count;
	char after[STR_NAME_MAX + 1] = "";
	struct key *page[PAGE];

	do {
		count = keyring_list(n->keyring, *after ? after : NULL, PAGE, page);
		if (count > 0)
			memcpy(after, page[count - 1]->name, sizeof(after));
		for (size_t i = 0; i < count; i++) {
			count_key(members, members_count, page[i], ret_copies);
			key_unrefp(&page[i]);
		}
	} while (count == PAGE);
}

void
node_tick_copies(struct node *n)
{
	struct node_copies copies = { .known = true };
	uint64_t start = clock_boot_ns(), took;

	if (!n->copies_news || start < n->copies_next_ns)
		return;
	n->copies_news = false;
	count_all(n, &copies);
	pthread_mutex_lock(&n->lock);
	n->copies = copies;
	pthread_mutex_unlock(&n->lock);
	took = clock_boot_ns() - start;
	n->copies_next_ns = start + (SHARE * took > CLOCK_S ? SHARE * took : CLOCK_S);
}
