/* SPDX-License-Identifier: Apache-2.0 */
/*
 * POST /v1/backup/drills: what came of a drill (kekctl drill). The node states who reported it and
 * when, signs the statement, and keeps the last one and the time of the last good one in the record
 * `drill`. It did not see the drill itself: the report's hash is what the statement binds.
 */
#include "api.h"

#include "kekd/backup.h"
#include "kekd/clock.h"

#include <errno.h>
#include <string.h>

#define DRILL_PATH "drill"

struct outcome {
	const char *time, *backup, *generation, *sha256;
	int64_t revision, proven, failed, not_covered;
	bool ok;
	json_t *tokens;
};

static int
check_tokens(const json_t *tokens)
{
	const json_t *token;
	size_t i;

	if (json_array_size(tokens) == 0 || json_array_size(tokens) > 64)
		return KEKD_EINVALID;
	json_array_foreach((json_t *)tokens, i, token)
		if (!json_is_string(token) || json_string_length(token) > 256)
			return KEKD_EINVALID;
	return 0;
}

static int
outcome_read(struct request *r, struct outcome *o, char ret_error[JSON_ERROR_SIZE])
{
	const struct json_member members[] = {
		{ "time", JSON_KIND_STRING, true, &o->time },
		{ "ok", JSON_KIND_BOOL, true, &o->ok },
		{ "backup", JSON_KIND_STRING, true, &o->backup },
		{ "generation", JSON_KIND_STRING, true, &o->generation },
		{ "revision", JSON_KIND_INTEGER, true, &o->revision },
		{ "proven", JSON_KIND_INTEGER, true, &o->proven },
		{ "failed", JSON_KIND_INTEGER, true, &o->failed },
		{ "not_covered", JSON_KIND_INTEGER, true, &o->not_covered },
		{ "tokens", JSON_KIND_ARRAY, true, &o->tokens },
		{ "sha256", JSON_KIND_STRING, true, &o->sha256 },
	};
	uint8_t digest[BACKUP_DIGEST_SIZE];
	struct uuid generation;
	uint64_t us;
	int err = json_take(r->body, members, STR_COUNT(members), ret_error);

	if (err < 0)
		return err;
	if (clock_parse(o->time, &us) == 0 && clock_parse(o->backup, &us) == 0 &&
		uuid_parse(o->generation, &generation) == 0 &&
		str_unhex(o->sha256, digest, sizeof(digest)) == 0 && check_tokens(o->tokens) == 0 &&
		!(o->ok && o->failed > 0))
		return 0;
	snprintf(ret_error, JSON_ERROR_SIZE,
		"time, backup, generation, tokens or sha256 is not as kekctl drill reports it, or "
		"it is ok although versions failed");
	return KEKD_EINVALID;
}

static json_t *
statement(struct request *r)
{
	char received[CLOCK_TEXT_SIZE];
	json_t *s = json_deep_copy(r->body);

	clock_format(clock_real_us(), received);
	if (s && (json_object_set_new(s, "cluster", json_string(r->node->part.cluster)) < 0 ||
			 json_object_set_new(s, "node", json_string(r->node->part.node)) < 0 ||
			 json_object_set_new(s, "reported_by", json_string(r->client->name)) < 0 ||
			 json_object_set_new(s, "received", json_string(received)) < 0)) {
		json_decref(s);
		return NULL;
	}
	return s;
}

/* The record as it is now: {last, last_good}. */
static int
store(struct node *n, json_t *last, bool ok)
{
	struct sealed_record record = { 0 };
	struct sealed_change change = { .path = DRILL_PATH };
	json_t *good;
	uint64_t number;
	int err = sealed_get(n->sealed, DRILL_PATH, &record);

	if (err < 0 && err != -ENOENT)
		return err;
	good = ok ? json_object_get(last, "received") : json_object_get(record.body, "last_good");
	change.expected = record.commit;
	change.body = json_pack("{s:O}", "last", last);
	if (change.body && good && json_object_set(change.body, "last_good", good) < 0) {
		json_decref(change.body);
		change.body = NULL;
	}
	err = change.body ? sealed_commit(n->sealed, &change, 1, &number) : -ENOMEM;
	if (err == 0)
		node_load_drill(n, "", change.body, number);
	json_decref(change.body);
	sealed_record_free(&record);
	return err;
}

void
api_drill_report(struct request *r)
{
	struct outcome o = { 0 };
	_cleanup_(json_freep) json_t *s = NULL;
	uint8_t digest[BACKUP_DIGEST_SIZE], signature[BACKUP_SIGNATURE_SIZE];
	struct node_signing public;
	char error[JSON_ERROR_SIZE] = "";
	json_t *answer;
	int err = outcome_read(r, &o, error);

	if (err < 0) {
		request_fail(r, err, "%s", error);
		return;
	}
	s = statement(r);
	err = s ? backup_digest_of("kekd-drill-1", s, digest) : -ENOMEM;
	if (err == 0)
		err = store(r->node, s, o.ok);
	if (err < 0) {
		request_fail(r, err, "the drill's outcome was not stored: %s", kekd_strerror(err));
		return;
	}
	api_set_detail(r, json_incref(s));
	answer = json_pack("{s:O, s:n}", "statement", s, "signature");
	if (answer && api_sign(r->node, digest, &public, signature) == 0)
		backup_add_signature(answer, public.public, sizeof(public.public), signature);
	request_answer_json(r, 200, answer);
}
