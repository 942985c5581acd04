/* SPDX-License-Identifier: Apache-2.0 */
/* The seals of all records, moved to a new key: for a new HSM. */
#include "api.h"

#include <errno.h>
#include <string.h>

/* The cluster record is as the client saw it; else the request has been answered. */
static bool
is_current(struct request *r, struct sealed *store)
{
	struct sealed_record record = { 0 };
	int err = sealed_get(store, "cluster", &record);
	bool wanted = !r->if_match_given || r->if_match == STORE_ANY ||
		      r->if_match == record.commit;

	if (err == -ENOENT)
		err = KEKD_ERECORD;
	if (err < 0)
		request_fail(r, err, "the record \"cluster\" cannot be read: see /v1/status");
	else if (!wanted)
		request_fail(r, KEKD_EPRECONDITION,
			"the record \"cluster\" is at revision %llu: read it again",
			(unsigned long long)record.commit);
	sealed_record_free(&record);
	return err == 0 && wanted;
}

static void
answer(struct request *r, struct sealed *store, const char *token, const struct sealed_move *m)
{
	struct sealed_record record = { 0 };
	json_t *value = json_pack("{s:s, s:s, s:I, s:I, s:b, s:I}", "seal_key", m->key, "token",
		token, "records", (json_int_t)m->records, "dropped", (json_int_t)m->dropped,
		"resumed", (int)m->resumed, "revision", (json_int_t)sealed_number(store));

	if (sealed_get(store, "cluster", &record) == 0)
		api_set_etag(r, record.commit);
	sealed_record_free(&record);
	api_set_detail(r, json_deep_copy(value));
	request_answer_json(r, 200, value);
}

void
api_cluster_reseal(struct request *r)
{
	struct sealed *store = atomic_load(&r->node->sealed);
	const char *token = NULL;
	const struct json_member members[] = { { "token", JSON_KIND_STRING, true, &token } };
	char error[JSON_ERROR_SIZE] = "";
	struct sealed_move m = { 0 };
	int err = json_take(r->body, members, STR_COUNT(members), error);

	if (err < 0) {
		request_fail(r, err, "%s", error);
		return;
	}
	if (!is_current(r, store))
		return;
	err = sealed_move(store, token, &m, error);
	if (err == 0 &&
		(err = node_move_signing(r->node, (unsigned)node_token(r->node, token))) < 0)
		snprintf(error, sizeof(error),
			"all seals have moved, but not the key that signs the audit log: %s; "
			"repeat",
			kekd_strerror(err));
	if (err < 0)
		request_fail(r, err, "%s", *error ? error : kekd_strerror(err));
	else
		answer(r, store, token, &m);
}
