/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Versions that wait for their end, and the end itself. How long one has waited is counted by the
 * boot clock while kekd looks on, and stored now and then: a jump of the wall clock shortens
 * nothing, and what kekd did not see counts for nothing. A refused use begins it anew. Control
 * thread.
 */
#include "node.h"

#include "kekd/clock.h"
#include "kekd/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define STORE_PARTS 20 /* of the waiting time */
#define STORE_MAX_NS (600 * CLOCK_S)
#define STORE_MIN_NS CLOCK_S
#define AGAIN_MIN_NS CLOCK_S
#define AGAIN_MAX_NS (60 * CLOCK_S)

struct node_destroy {
	char key[STR_NAME_MAX + 1];
	unsigned version;
	uint64_t looked_ns;  /* until when time is counted */
	uint64_t pending_ns; /* counted, not stored */
	uint64_t again_ns;   /* not before: it failed */
	uint64_t delay_ns;
	bool told;	  /* why it does not go on */
	const char *owed; /* the step that is done, and the audit log does not tell yet; or NULL */
	uint64_t owed_ns; /* not before: it failed */
};

static bool
waits(const struct key_version *v)
{
	return v->state == VERSION_SCHEDULED || v->state == VERSION_DESTROYING;
}

static struct node_destroy *
find(struct node *n, const char *key, unsigned version)
{
	for (size_t i = 0; i < n->destroys_count; i++)
		if (n->destroys[i].version == version && strcmp(n->destroys[i].key, key) == 0)
			return &n->destroys[i];
	return NULL;
}

static void
watch(struct node *n, const struct key *k, const struct key_version *v)
{
	struct node_destroy *e = find(n, k->name, v->number), *list;

	if (!e) {
		list = realloc(n->destroys, (n->destroys_count + 1) * sizeof(*list));
		if (!list) {
			log_error("key %s: no memory to watch over version %u: restart kekd",
				k->name, v->number);
			return;
		}
		n->destroys = list;
		e = &list[n->destroys_count++];
	} else if (v->state == VERSION_DESTROYING || v->destroy->waited_s > 0) {
		return;
	}
	*e = (struct node_destroy){ .version = v->number, .looked_ns = clock_boot_ns() };
	memcpy(e->key, k->name, sizeof(e->key));
}

void
node_watch_destroy(struct node *n, const struct key *k)
{
	for (size_t i = 0; i < k->versions_count; i++)
		if (waits(&k->versions[i]) && k->versions[i].destroy)
			watch(n, k, &k->versions[i]);
}

/* ---- the audit log ---- */

/* What kekd does by itself is told as what clients do: an intent, durable before, and an outcome.
 */
static int
record(struct node *n, enum audit_type type, const struct key *k, const struct key_version *v,
	const char *step, int err)
{
	char id[UUID_TEXT_SIZE];
	struct audit_record a = {
		.type = type,
		.time_us = clock_real_us(),
		.client = "kekd",
		.request_id = id,
		.operation = "version.destroy",
		.key = k->name,
		.code = err < 0 ? kekd_err_info(err)->code : NULL,
		.revision = sealed_number(n->sealed),
	};
	int written;

	uuid_format(&v->id, id);
	a.detail = json_pack("{s:i, s:s, s:s, s:s, s:s, s:s, s:I, s:I}", "version", (int)v->number,
		"id", id, "step", step, "requested_by", v->destroy->requested_by, "approval",
		v->destroy->approval, "evidence", v->destroy->evidence, "waited_s",
		(json_int_t)v->destroy->waited_s, "restarts", (json_int_t)v->destroy->restarts);
	written = a.detail ? audit_append(n->audit, &a) : -ENOMEM;
	json_decref((json_t *)a.detail);
	return written;
}

/* What is done cannot be taken back: the log is told as soon as it can be written again. */
static void
record_done(struct node *n, struct node_destroy *e, const struct key *k,
	const struct key_version *v, const char *step)
{
	bool again = e->owed;

	e->owed = record(n, AUDIT_OUTCOME, k, v, step, 0) == 0 ? NULL : step;
	e->owed_ns = clock_boot_ns() + AGAIN_MIN_NS;
	if (e->owed && !again)
		log_warning("key %s: the audit log does not tell yet that version %u is %s: it is "
			    "tried again",
			k->name, v->number, step);
}

static void
put_off(struct node_destroy *e, const char *text)
{
	e->delay_ns = e->delay_ns ? 2 * e->delay_ns : AGAIN_MIN_NS;
	if (e->delay_ns > AGAIN_MAX_NS)
		e->delay_ns = AGAIN_MAX_NS;
	e->again_ns = clock_boot_ns() + e->delay_ns;
	log_error("%s", text);
}

/* ---- waiting ---- */

static uint64_t
waited_ns(const struct node_destroy *e, const struct key_version *v)
{
	return v->destroy->waited_s * CLOCK_S + e->pending_ns;
}

static uint64_t
store_after_ns(const struct key_version *v)
{
	uint64_t part = v->destroy->wait_s * CLOCK_S / STORE_PARTS;

	return part > STORE_MAX_NS ? STORE_MAX_NS : part < STORE_MIN_NS ? STORE_MIN_NS : part;
}

/* Takes over what was counted as whole seconds; the rest is counted on. */
static int
store_wait(struct node *n, struct node_destroy *e, const struct key *k, const struct key_version *v)
{
	_cleanup_(key_unrefp) struct key *stored = NULL;
	char text[LIFECYCLE_ERROR_SIZE] = "";
	struct version_destroy d = *v->destroy;
	uint64_t whole = e->pending_ns / CLOCK_S;
	int err;

	d.waited_s += whole;
	err = lifecycle_wait(&n->lifecycle, k->name, k->commit, v->number, &d, &stored, text);
	if (err < 0)
		put_off(e, *text ? text : kekd_strerror(err));
	else
		e->pending_ns -= whole * CLOCK_S;
	return err;
}

static void
begin_anew(struct node *n, struct node_destroy *e, const struct key *k, const struct key_version *v,
	uint64_t refused)
{
	_cleanup_(key_unrefp) struct key *stored = NULL;
	char text[LIFECYCLE_ERROR_SIZE] = "";
	struct version_destroy d = *v->destroy;
	int err;

	d.waited_s = 0;
	d.restarted_us = clock_real_us();
	d.restarts++;
	d.refused = refused;
	err = lifecycle_wait(&n->lifecycle, k->name, k->commit, v->number, &d, &stored, text);
	if (err < 0) {
		put_off(e, *text ? text : kekd_strerror(err));
		return;
	}
	e->pending_ns = 0;
	v = key_find_version(stored, v->number);
	record_done(n, e, stored, v, "restarted");
	log_warning("key %s: version %u was asked for while it waits to be destroyed: the wait of "
		    "%llu s begins anew",
		k->name, v->number, (unsigned long long)d.wait_s);
}

/* ---- the end ---- */

static void
begin_destroy(
	struct node *n, struct node_destroy *e, const struct key *k, const struct key_version *v)
{
	_cleanup_(key_unrefp) struct key *stored = NULL;
	char text[LIFECYCLE_ERROR_SIZE] = "";
	int err;

	if (record(n, AUDIT_INTENT, k, v, "destroying", 0) != 0) {
		put_off(e, "a version is not destroyed while the audit log cannot be written");
		return;
	}
	err = lifecycle_begin_destroy(&n->lifecycle, k->name, k->commit, v->number, &stored, text);
	if (err < 0) {
		record(n, AUDIT_OUTCOME, k, v, "destroying", err);
		put_off(e, *text ? text : kekd_strerror(err));
		return;
	}
	e->delay_ns = 0;
	log_warning("key %s: version %u is destroyed now", k->name, v->number);
}

static void
finish(struct node *n, struct node_destroy *e, const struct key *k, const struct key_version *v)
{
	_cleanup_(key_unrefp) struct key *stored = NULL;
	char text[LIFECYCLE_ERROR_SIZE] = "";
	uint64_t commit = k->commit;
	struct cluster c;
	int err;

	if (!audit_ok(n->audit)) {
		put_off(e, "a version is not destroyed while the audit log cannot be written");
		return;
	}
	node_cluster(n, &c);
	err = lifecycle_destroy(&n->lifecycle, k->name, v->number,
		(const char(*)[STR_NAME_MAX + 1]) c.members, c.members_count, &stored, text);
	if (err < 0) {
		put_off(e, *text ? text : kekd_strerror(err));
		return;
	}
	v = key_find_version(stored, v->number);
	e->again_ns = clock_boot_ns() + AGAIN_MIN_NS; /* while others have yet to confirm */
	if (stored->commit == commit)
		return;
	record_done(n, e, stored, v, version_state_name(v->state));
	log_info("key %s: version %u is %s, %zu of %zu members have destroyed its object", k->name,
		v->number, version_state_name(v->state), v->destroy->confirmed_count,
		c.members_count);
}

static void
tell(struct node_destroy *e, const struct key *k, const struct key_version *v, const char *why)
{
	if (!e->told)
		log_error("key %s: version %u is not destroyed: %s", k->name, v->number, why);
	e->told = true;
}

/* What every member has seen counts, up to now. */
static bool
is_fresh(struct node *n, char ret_text[160])
{
	struct cluster c;

	node_cluster(n, &c);
	return usage_is_fresh(n->usage, (const char(*)[STR_NAME_MAX + 1]) c.members,
		c.members_count, clock_real_us(), ret_text);
}

static void
look_at_waiting(
	struct node *n, struct node_destroy *e, const struct key *k, const struct key_version *v)
{
	uint64_t now = clock_boot_ns();
	char stale[160], needed[LIFECYCLE_ERROR_SIZE];
	struct usage_total total;

	e->pending_ns += now - e->looked_ns;
	e->looked_ns = now;
	if (now < e->again_ns || usage_version(n->usage, &v->id, &total) < 0)
		return;
	/* Fewer, when the log was lost: nothing is known of what was refused then. */
	if (total.refused != v->destroy->refused) {
		begin_anew(n, e, k, v, total.refused);
		return;
	}
	if (waited_ns(e, v) < v->destroy->wait_s * CLOCK_S) {
		if (e->pending_ns >= store_after_ns(v))
			store_wait(n, e, k, v);
		return;
	}
	if (usage_incomplete_for(n->usage, v->created_us) != 0)
		tell(e, k, v,
			"its usage evidence is not complete any more. Cancel it, or bring the "
			"audit "
			"log back");
	else if (!is_fresh(n, stale))
		tell(e, k, v, stale);
	else if (node_needed(n, k, v, needed) != 0)
		tell(e, k, v, needed);
	else
		begin_destroy(n, e, k, v);
}

/* Only the active counts what it sees pass. */
static void
look_at_scheduled(
	struct node *n, struct node_destroy *e, const struct key *k, const struct key_version *v)
{
	if (node_leads(n))
		look_at_waiting(n, e, k, v);
	else
		e->looked_ns = clock_boot_ns();
}

/* ---- a member's part ---- */

static bool
has_said(struct node *n, const struct key_version *v, const char *id)
{
	const json_t *entry;
	size_t i;

	for (i = 0; i < v->destroy->confirmed_count; i++)
		if (strcmp(v->destroy->confirmed[i], n->part.node) == 0)
			return true;
	json_array_foreach(node_member(n, "destroyed"), i, entry)
		if (json_is_string(entry) && strcmp(json_string_value(entry), id) == 0)
			return true;
	return false;
}

static void
say(struct node *n, const char *id)
{
	json_t *list = json_deep_copy(node_member(n, "destroyed"));

	if (!list)
		list = json_array();
	json_array_append_new(list, json_string(id));
	node_note_member(n, "destroyed", list, true);
}

/* The active has committed that it goes: it goes here too, and the active hears of it by
 * members/NODE. */
static void
destroy_here(
	struct node *n, struct node_destroy *e, const struct key *k, const struct key_version *v)
{
	char text[LIFECYCLE_ERROR_SIZE] = "", id[UUID_TEXT_SIZE];
	int err;

	uuid_format(&v->id, id);
	if (has_said(n, v, id))
		return;
	if (record(n, AUDIT_INTENT, k, v, "member", 0) != 0) {
		put_off(e, "a version is not destroyed while the audit log cannot be written");
		return;
	}
	err = lifecycle_destroy_here(&n->lifecycle, k, v->number, text);
	if (record(n, AUDIT_OUTCOME, k, v, "member", err) != 0)
		log_warning("key %s: the audit log does not tell that version %u is not in this "
			    "node's token any more",
			k->name, v->number);
	if (err < 0) {
		put_off(e, *text ? text : kekd_strerror(err));
		return;
	}
	say(n, id);
	log_info("key %s: version %u is not in token %s of this node any more", k->name, v->number,
		v->token);
}

/* What the cluster has taken note of is not said for ever. */
static void
forget_said(struct node *n, const struct key_version *v)
{
	json_t *list = node_member(n, "destroyed"), *left, *entry;
	char id[UUID_TEXT_SIZE];
	size_t i;

	uuid_format(&v->id, id);
	if (!has_said(n, v, id) || !(left = json_array()))
		return;
	json_array_foreach(list, i, entry)
		if (!json_is_string(entry) || strcmp(json_string_value(entry), id) != 0)
			json_array_append(left, entry);
	node_note_member(n, "destroyed", left, false);
}

/* False: there is nothing to watch over any more. */
static bool
look_at(struct node *n, struct node_destroy *e)
{
	_cleanup_(key_unrefp) struct key *k = keyring_find(n->keyring, e->key);
	const struct key_version *v = k ? key_find_version(k, e->version) : NULL;

	if (v && v->destroy && e->owed && clock_boot_ns() >= e->owed_ns)
		record_done(n, e, k, v, e->owed);
	if (!v || !waits(v) || !v->destroy) {
		if (v && v->destroy)
			forget_said(n, v);
		return v && v->destroy && e->owed;
	}
	if (k->refused)
		return true;
	if (v->state == VERSION_SCHEDULED)
		look_at_scheduled(n, e, k, v);
	else if (clock_boot_ns() < e->again_ns)
		return true;
	else if (node_leads(n))
		finish(n, e, k, v);
	else
		destroy_here(n, e, k, v);
	return true;
}

/* Of a restored store nobody has said yet that it is right: nothing goes on, and no time counts. */
static bool
stand_still(struct node *n)
{
	if (!node_holds_changes(n))
		return false;
	for (size_t i = 0; i < n->destroys_count; i++)
		n->destroys[i].looked_ns = clock_boot_ns();
	return true;
}

void
node_tick_destroys(struct node *n)
{
	if (stand_still(n))
		return;
	for (size_t i = n->destroys_count; i-- > 0;)
		if (!look_at(n, &n->destroys[i]))
			n->destroys[i] = n->destroys[--n->destroys_count];
}

void
node_close_destroys(struct node *n)
{
	bool stores = atomic_load(&n->sealed) && !stand_still(n) && node_leads(n);

	for (size_t i = 0; stores && i < n->destroys_count; i++) {
		struct node_destroy *e = &n->destroys[i];
		_cleanup_(key_unrefp) struct key *k = keyring_find(n->keyring, e->key);
		const struct key_version *v = k ? key_find_version(k, e->version) : NULL;
		if (!v || v->state != VERSION_SCHEDULED || k->refused)
			continue;
		e->pending_ns += clock_boot_ns() - e->looked_ns;
		if (e->pending_ns >= CLOCK_S && store_wait(n, e, k, v) < 0)
			break;
	}
	free(n->destroys);
	n->destroys = NULL;
	n->destroys_count = 0;
}
