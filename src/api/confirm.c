/* SPDX-License-Identifier: Apache-2.0 */
/* POST /v1/cluster/confirm: what a restore brought back is right, and changes may be made again. */
#include "api.h"

static const struct {
	int err;
	const char *text;
} faults[] = {
	{ KEKD_ESTATE, "nothing waits to be confirmed" },
	{ KEKD_EPRECONDITION, "the cluster is of another generation: look at the status again" },
};

json_t *
api_confirm_json(struct node *n)
{
	struct cluster c;

	node_cluster(n, &c);
	return cluster_confirm_to_json(&c.confirm);
}

/* Is it the store itself that an operator is to take for the right one? */
static bool
is_about_store(struct node *n)
{
	struct sealed_status status;
	struct cluster c;

	sealed_status(n->sealed, &status);
	node_cluster(n, &c);
	return status.hold != SEALED_HOLD_NONE || cluster_is_raising(&c);
}

static int
confirm(struct node *n, const char *generation, char ret_error[JSON_ERROR_SIZE])
{
	const char *text;
	uint64_t number;
	int err;

	if (is_about_store(n)) {
		err = node_confirm_store(n, generation, &number, ret_error);
		text = *ret_error ? NULL : kekd_strerror(err);
	} else {
		err = node_confirm(n, generation);
		text = kekd_strerror(err);
		for (size_t i = 0; i < STR_COUNT(faults); i++)
			if (faults[i].err == err)
				text = faults[i].text;
	}
	if (err < 0 && text)
		snprintf(ret_error, JSON_ERROR_SIZE, "%s", text);
	return err;
}

void
api_cluster_confirm(struct request *r)
{
	const char *generation = NULL;
	const struct json_member members[] = {
		{ "generation", JSON_KIND_STRING, true, &generation },
	};
	_cleanup_(json_freep) json_t *was = api_confirm_json(r->node);
	char error[JSON_ERROR_SIZE] = "";
	int err = json_take(r->body, members, STR_COUNT(members), error);

	if (err == 0)
		err = confirm(r->node, generation, error);
	if (err < 0) {
		request_fail(r, err, "%s", error);
		return;
	}
	api_set_detail(r, json_pack("{s:s, s:O}", "generation", generation, "confirmed", was));
	request_answer_json(
		r, 200, json_pack("{s:s, s:O}", "generation", generation, "confirmed", was));
}
