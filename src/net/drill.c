/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kekd drill: is every version of a backup in these tokens, and does the backup restore? Nothing of
 * the cluster that runs is touched: store and audit log are scratch ones. The report goes to
 * standard output as JSON; kekctl shows it and has it signed.
 */
#include "node.h"

#include "kekd/backup.h"
#include "kekd/clock.h"
#include "kekd/control.h"
#include "kekd/log.h"

#include <stdio.h>
#include <string.h>

static const struct {
	int err;
	const char *word;
} results[] = {
	{ 0, "proven" },
	{ KEKD_EOBJECT, "missing" },
	{ KEKD_EUNPROVEN, "wrong" },
	{ KEKD_EDUPLICATE, "duplicate" },
};

static const char *
result_word(int err)
{
	for (size_t i = 0; i < STR_COUNT(results); i++)
		if (results[i].err == err)
			return results[i].word;
	return "failed";
}

struct drill {
	struct node *n;
	json_t *versions;
	size_t proven, failed, skipped;
};

/* One that was never made, or is destroyed, has nothing to prove. */
static bool
has_object(const struct key_version *v)
{
	return v->canary_len > 0 && v->state != VERSION_DESTROYED &&
	       v->state != VERSION_ABANDONED && v->state != VERSION_DESTROYING;
}

static void
prove(struct drill *d, const struct key *k, const struct key_version *v)
{
	char id[UUID_TEXT_SIZE];
	const char *word = "not covered";
	int token = node_token(d->n, v->token), err;

	/* A clone stands for whatever token the version is in. */
	if (token < 0)
		token = 0;
	if (has_object(v)) {
		err = canary_prove(d->n->hsm, (unsigned)token, v);
		word = result_word(err);
		d->proven += err == 0;
		d->failed += err != 0;
	} else {
		d->skipped++;
	}
	uuid_format(&v->id, id);
	json_array_append_new(d->versions,
		json_pack("{s:s, s:i, s:s, s:s, s:s, s:b, s:s}", "key", k->name, "version",
			(int)v->number, "id", id, "state", version_state_name(v->state), "token",
			d->n->part.tokens[token], "primary", k->primary == v->number, "result",
			word));
}

static void
prove_record(struct drill *d, const json_t *record)
{
	const char *path = json_string_value(json_object_get(record, "path"));
	char error[JSON_ERROR_SIZE] = "";
	struct key *k = NULL;

	if (strncmp(path, "keys/", strlen("keys/")) != 0)
		return;
	if (key_from_json(json_object_get(record, "body"), 1, &k, error) != 0) {
		log_error("record %s: %s", path, error);
		d->failed++;
		return;
	}
	for (size_t i = 0; i < k->versions_count; i++)
		prove(d, k, &k->versions[i]);
	key_unrefp(&k);
}

/* A foreign text: null where it is not UTF-8. */
static json_t *
text_json(const char *text)
{
	json_t *value = json_string(text);

	return value ? value : json_null();
}

static json_t *
tokens_json(struct node *n)
{
	json_t *tokens = json_array();

	for (unsigned i = 0; i < n->part.tokens_count; i++) {
		struct hsm_worker_status w = { 0 };
		(void)hsm_worker_status(n->hsm, i, 0, &w);
		json_array_append_new(
			tokens, json_pack("{s:s, s:o, s:o, s:o}", "name", n->part.tokens[i],
					"label", text_json(w.hello.token_label), "serial",
					text_json(w.hello.token_serial), "manufacturer",
					text_json(w.hello.manufacturer)));
	}
	return tokens;
}

static const char *const not_covered[] = {
	"that the production host, its users, certificates and network are as they must be",
	"the audit log, and what changed after the backup was made",
	"versions that are destroyed, being destroyed, abandoned or without a canary",
	"tokens other than those named here",
	"that blobs which clients keep are whole",
};

static json_t *
not_covered_json(void)
{
	json_t *texts = json_array();

	for (size_t i = 0; i < STR_COUNT(not_covered); i++)
		json_array_append_new(texts, json_string(not_covered[i]));
	return texts;
}

/* Does what was written open and verify as a store would at a start? */
static bool
opens(struct node *n)
{
	struct sealed_config config;
	struct sealed_status status = { 0 };
	struct sealed *sealed = NULL;
	char error[JSON_ERROR_SIZE] = "";
	int err = store_open_sqlite(n->part.state_dir, false, &n->store);

	config = node_sealed_settings(n);
	if (err == 0)
		err = sealed_open(&config, NULL, NULL, &sealed, error);
	if (err == 0)
		sealed_status(sealed, &status);
	if (err != 0 || status.hold != SEALED_HOLD_NONE || status.refused > 0)
		log_error("the restored store does not verify: %s",
			*error ? error
			: err  ? kekd_strerror(err)
			       : sealed_hold_text(status.hold));
	sealed_freep(&sealed);
	return err == 0 && status.hold == SEALED_HOLD_NONE && status.refused == 0;
}

static json_t *
backup_json(const struct backup *b)
{
	char digest[2 * BACKUP_DIGEST_SIZE];

	str_hex(b->digest, sizeof(b->digest), digest);
	return json_pack("{s:s, s:s, s:s, s:s, s:I, s:o}", "cluster", b->cluster, "node", b->node,
		"created", b->created, "generation", b->generation, "revision",
		(json_int_t)b->revision, "sha256", json_stringn(digest, sizeof(digest)));
}

static int
tell(struct drill *d, const struct backup *b, bool restored)
{
	char now[CLOCK_TEXT_SIZE];
	bool ok = restored && d->failed == 0;
	_cleanup_(json_freep) json_t *report = NULL;
	char *text;

	clock_format(clock_real_us(), now);
	report = json_pack("{s:i, s:s, s:b, s:b, s:o, s:o, s:O, s:{s:I, s:I, s:I}, s:o}",
		"kekd_drill", 1, "time", now, "ok", (int)ok, "restored", (int)restored, "backup",
		backup_json(b), "tokens", tokens_json(d->n), "versions", d->versions, "counts",
		"proven", (json_int_t)d->proven, "failed", (json_int_t)d->failed, "not_covered",
		(json_int_t)d->skipped, "not_covered", not_covered_json());
	text = report ? json_canonical(report, NULL) : NULL;
	if (!text || puts(text) < 0 || fflush(stdout) != 0) {
		log_error("the report cannot be written");
		ok = false;
	}
	json_text_free(text);
	return ok ? CHILD_EXIT_OK : CHILD_EXIT_FAILED;
}

int
node_prove_backup(struct node *n, const struct backup *b)
{
	struct drill d = { .n = n, .versions = json_array() };
	bool restored = opens(n);
	const json_t *record;
	size_t i;
	int status;

	json_array_foreach(b->records, i, record)
		prove_record(&d, record);
	status = tell(&d, b, restored);
	json_decref(d.versions);
	return status;
}
