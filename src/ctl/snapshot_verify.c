/* SPDX-License-Identifier: Apache-2.0 */
/*
 * etcd-snapshot --verify: the server is asked whether each distinct seed unwraps, and never for
 * what is in it: "plaintext": false, for which the grant verify is enough. With key.read it is
 * told more exactly why one does not.
 */
#include "snapshot.h"

#include "kekd/clock.h"

#include <string.h>
#include <time.h>

#define BATCH 100
#define PATIENCE_S 60 /* while the server has too much to do */
#define DELAY_MAX_S 10

struct batch {
	struct snapshot *snapshot;
	const char *key;
	json_t *versions; /* the key's, where they may be read; or NULL */
	size_t seeds[BATCH];
	size_t count;
	bool unavailable; /* an item's answer was that it cannot be told now */
};

static const struct {
	const char *code, *outcome;
} outcomes[] = {
	{ "version_destroyed", "destroyed" },
	{ "version_not_enabled", "disabled" },
	{ "key_not_found", "missing" },
	{ "key_object_missing", "missing" },
	{ "forbidden", "refused" },
	{ "unwrap_failed", "failed" },
	{ "invalid_context", "failed" },
};

static const char *
outcome_of(const char *code)
{
	for (size_t i = 0; i < STR_COUNT(outcomes); i++)
		if (strcmp(outcomes[i].code, code) == 0)
			return outcomes[i].outcome;
	return NULL;
}

/* ---- what the key's record tells more ---- */

static const char *
state_of(const struct batch *b, const struct version *v)
{
	char id[UUID_TEXT_SIZE];
	const json_t *version;
	size_t i;

	uuid_format(&v->id, id);
	json_array_foreach(b->versions, i, version)
		if (strcmp(string_of(version, "id"), id) == 0)
			return string_of(version, "state");
	return NULL;
}

static const char *
refine(const struct batch *b, const struct version *v, const char *outcome)
{
	const char *state = b->versions ? state_of(b, v) : "";

	if (!state)
		return "missing";
	if (strcmp(outcome, "disabled") == 0 &&
		(strcmp(state, "scheduled") == 0 || strcmp(state, "destroying") == 0))
		return "scheduled";
	return outcome;
}

/* A client that may only verify is refused it, which is no fault. */
static int
read_key(struct batch *b)
{
	_cleanup_(kekd_reply_free) struct kekd_reply reply = { 0 };
	int status = ctl_exchange(b->snapshot->ctl, "GET", show_format("/v1/keys/%s", b->key), NULL,
		NULL, NULL, &reply);

	if (status == CTL_OK && reply.status == 200)
		b->versions = json_incref(json_object_get(reply.json, "versions"));
	return status;
}

/* ---- asking ---- */

static void
settle(struct batch *b, size_t index, const char *outcome)
{
	struct tally *t = &b->snapshot->tally;
	struct seed *seed = &t->seeds[index];

	seed->outcome = strcmp(outcome, "ok") == 0
				? "ok"
				: refine(b, &t->versions[seed->version], outcome);
}

static void
settle_all(struct batch *b, const char *outcome)
{
	for (size_t i = 0; i < b->count; i++)
		settle(b, b->seeds[i], outcome);
}

static int
add_item(const struct snapshot *s, const struct seed *seed, json_t *items)
{
	struct buf text = BUF_INIT(STR_BASE64_SIZE(VALUE_SOURCE_MAX));
	uint8_t bytes[VALUE_SOURCE_MAX];
	int err = bolt_read(s->bolt, seed->place, 0, bytes, (size_t)seed->place.size);

	if (err == 0) {
		str_base64(&text, bytes, (size_t)seed->place.size);
		json_array_append_new(
			items, json_pack("{s:o, s:O, s:b}", "ciphertext",
				       json_stringn((const char *)text.data, text.len), "context",
				       seed->context, "plaintext", 0));
	}
	buf_free(&text);
	return err == 0 ? CTL_OK : snapshot_say_damaged(s, err, bolt_error(s->bolt));
}

static int
make_body(const struct batch *b, json_t **ret_body)
{
	json_t *items = json_array();
	int status = CTL_OK;

	for (size_t i = 0; status == CTL_OK && i < b->count; i++)
		status = add_item(b->snapshot, &b->snapshot->tally.seeds[b->seeds[i]], items);
	*ret_body = json_pack("{s:o}", "items", items);
	return status;
}

static bool
is_busy(const struct kekd_reply *r)
{
	return r->status == 429 || (r->status == 503 && strcmp(r->code, "overloaded") == 0);
}

/* Asks again while the server has too much to do. */
static int
ask(const struct batch *b, const json_t *body, struct kekd_reply *ret_reply)
{
	const char *path = show_format("/v1/keys/%s/unwrap", b->key);
	unsigned delay_s = 1, waited_s = 0;
	int status;

	while ((status = ctl_exchange(
			b->snapshot->ctl, "POST", path, body, NULL, NULL, ret_reply)) == CTL_OK &&
		is_busy(ret_reply) && waited_s < PATIENCE_S) {
		if (ret_reply->retry_after_s > delay_s)
			delay_s = ret_reply->retry_after_s;
		kekd_reply_free(ret_reply);
		nanosleep(&(struct timespec){ (time_t)delay_s, 0 }, NULL);
		waited_s += delay_s;
		delay_s = delay_s * 2 < DELAY_MAX_S ? delay_s * 2 : DELAY_MAX_S;
	}
	return status;
}

static int take_item(struct batch *b, size_t index, const json_t *item);

/* What one node cannot do now, or lacks in its token, another may: alone a seed is asked of one
 * after the other, and the next ones of whoever had it. */
static int
ask_alone(struct batch *b, size_t index)
{
	_cleanup_(kekd_reply_free) struct kekd_reply reply = { 0 };
	_cleanup_(json_freep) json_t *items = json_array();
	_cleanup_(json_freep) json_t *item = NULL;
	struct tally *t = &b->snapshot->tally;
	int status = add_item(b->snapshot, &t->seeds[index], items);

	if (status == CTL_OK)
		status = ask(b, json_array_get(items, 0), &reply);
	if (status != CTL_OK)
		return status;
	if (reply.status != 200 && !reply.json)
		return say_problem(&reply);
	t->versions[t->seeds[index].version].asked_all = reply.status == 503;
	item = reply.status == 200 ? json_incref(reply.json)
				   : json_pack("{s:O}", "error", reply.json);
	return take_item(b, index, item);
}

static int
take_item(struct batch *b, size_t index, const json_t *item)
{
	struct tally *t = &b->snapshot->tally;
	struct version *v = &t->versions[t->seeds[index].version];
	const json_t *problem = json_object_get(item, "error");
	const char *outcome = problem ? outcome_of(string_of(problem, "code")) : "ok";

	if (number_of(problem, "status") == 503 && !v->asked_all)
		return ask_alone(b, index);
	if (!problem && number_of(item, "version") > 0)
		v->number = (unsigned)number_of(item, "version");
	if (!problem && !json_is_integer(json_object_get(item, "version")))
		return say_no_answer("no result for a seed");
	if (outcome)
		settle(b, index, outcome);
	else if (!b->unavailable)
		say_error("key %s: %s (code %s)", b->key, show_text(problem, "detail"),
			show_text(problem, "code"));
	b->unavailable |= !outcome;
	return CTL_OK;
}

static int
take_answer(struct batch *b, const struct kekd_reply *r)
{
	const json_t *items = json_object_get(r->json, "items");
	const char *outcome = r->status != 200 ? outcome_of(r->code) : NULL;
	int status = CTL_OK;

	if (outcome) {
		settle_all(b, outcome);
		return CTL_OK;
	}
	if (r->status != 200)
		return say_problem(r);
	if (json_array_size(items) != b->count)
		return say_no_answer("not as many results as seeds");
	for (size_t i = 0; status == CTL_OK && i < b->count; i++)
		status = take_item(b, b->seeds[i], json_array_get(items, i));
	return status;
}

static int
ask_batch(struct batch *b)
{
	_cleanup_(kekd_reply_free) struct kekd_reply reply = { 0 };
	_cleanup_(json_freep) json_t *body = NULL;
	int status = b->count > 0 ? make_body(b, &body) : CTL_OK;

	if (status == CTL_OK && b->count > 0)
		status = ask(b, body, &reply);
	if (status == CTL_OK && b->count > 0)
		status = take_answer(b, &reply);
	b->count = 0;
	return status;
}

/* ---- all of them ---- */

static int
verify_key(struct snapshot *s, const char *key, uint64_t *done)
{
	struct batch b = { .snapshot = s, .key = key };
	const struct tally *t = &s->tally;
	int status = read_key(&b);

	for (size_t i = 0; status == CTL_OK && i < t->seeds_count; i++) {
		if (t->seeds[i].outcome || strcmp(t->versions[t->seeds[i].version].key, key) != 0)
			continue;
		b.seeds[b.count++] = i;
		if (b.count == BATCH)
			status = ask_batch(&b);
		progress_show(&s->progress, ++*done, "seeds asked for");
	}
	if (status == CTL_OK)
		status = ask_batch(&b);
	json_decref(b.versions);
	return status == CTL_OK && b.unavailable ? CTL_UNAVAILABLE : status;
}

/* Without its annotations a seed is unwrapped by nobody, kekd-kms neither. */
static void
settle_unnamed(struct snapshot *s)
{
	struct batch b = { .snapshot = s };
	struct tally *t = &s->tally;

	for (size_t i = 0; i < t->seeds_count; i++)
		if (!t->seeds[i].context || !str_is_name(t->versions[t->seeds[i].version].key))
			settle(&b, i, "failed");
}

static bool
is_asked(const struct tally *t, size_t version)
{
	const char *key = t->versions[version].key;

	if (!str_is_name(key))
		return true;
	for (size_t i = 0; i < version; i++)
		if (strcmp(t->versions[i].key, key) == 0)
			return true;
	return false;
}

/* Of a version's seeds the one with the most tells of it: what was not asked is no "ok". */
static unsigned
weight(const char *outcome)
{
	if (!outcome)
		return 1;
	if (strcmp(outcome, "ok") == 0)
		return 0;
	return strcmp(outcome, "refused") == 0 ? 2 : 3;
}

static void
settle_versions(struct tally *t)
{
	for (size_t i = 0; i < t->versions_count; i++)
		t->versions[i].outcome = t->versions[i].seeds > 0 ? "ok" : NULL;
	for (size_t i = 0; i < t->seeds_count; i++) {
		struct version *v = &t->versions[t->seeds[i].version];
		if (weight(t->seeds[i].outcome) > weight(v->outcome))
			v->outcome = t->seeds[i].outcome;
	}
}

/* One version that is gone settles it, whatever of the others is not known. */
static int
conclude(struct snapshot *s, int status)
{
	const struct tally *t = &s->tally;
	bool known = s->hashed && t->complete && t->other == 0;

	s->restorable = -1;
	for (size_t i = 0; i < t->versions_count; i++) {
		const char *outcome = t->versions[i].outcome;
		bool refused = outcome && strcmp(outcome, "refused") == 0;
		known &= outcome && !refused;
		if (refused && status == CTL_OK)
			status = CTL_REFUSED;
		if (outcome && !refused && strcmp(outcome, "ok") != 0)
			s->restorable = 0;
	}
	if (known && s->restorable < 0)
		s->restorable = 1;
	return status;
}

int
snapshot_verify(struct snapshot *s)
{
	uint64_t done = 0;
	int status = CTL_OK;

	progress_start(&s->progress, s->ctl, s->tally.seeds_count, 0);
	settle_unnamed(s);
	for (size_t i = 0; status == CTL_OK && i < s->tally.versions_count; i++)
		if (!is_asked(&s->tally, i))
			status = verify_key(s, s->tally.versions[i].key, &done);
	progress_end(&s->progress);
	settle_versions(&s->tally);
	return conclude(s, status);
}
