/* SPDX-License-Identifier: Apache-2.0 */
/* POST /v1/hsm/retry-pin: an administrator's word that a PIN may be tried once more. What it allows
 * is the parent's and the worker's to know. */
#include "api.h"

#include <string.h>

static bool
waits_for_operator(enum hsm_state state)
{
	return state == HSM_STATE_PIN_REFUSED || state == HSM_STATE_PIN_LOCKED ||
	       state == HSM_STATE_PIN_FINAL_TRY;
}

static bool
token_waits(const struct node *n, unsigned token)
{
	struct hsm_worker_status w;

	for (unsigned i = 0; i < n->part.workers; i++)
		if (hsm_worker_status(n->hsm, token, i, &w) == 0 &&
			waits_for_operator(w.hello.state))
			return true;
	return false;
}

/* Asks for each token that waits, or for the one that is named. 0 or an error. */
static int
retry(const struct node *n, const char *token, json_t *tokens)
{
	int err = 0;

	for (unsigned i = 0; i < n->part.tokens_count && err == 0; i++) {
		if ((token && strcmp(n->part.tokens[i], token) != 0) || !token_waits(n, i))
			continue;
		err = node_retry_pin(i);
		if (err == 0)
			json_array_append_new(tokens, json_string(n->part.tokens[i]));
	}
	return err;
}

void
api_hsm_retry_pin(struct request *r)
{
	const char *token = NULL;
	const struct json_member members[] = { { "token", JSON_KIND_STRING, false, &token } };
	_cleanup_(json_freep) json_t *tokens = json_array();
	char error[JSON_ERROR_SIZE] = "";
	int err = json_take(r->body, members, STR_COUNT(members), error);

	if (err == 0 && token && node_token(r->node, token) < 0) {
		err = KEKD_EINVALID;
		snprintf(error, sizeof(error), "no token of the configuration has this name");
	}
	if (err < 0) {
		request_fail(r, err, "%s", error);
		return;
	}
	err = retry(r->node, token, tokens);
	if (err < 0) {
		request_fail(r, err, "kekd cannot be told now: ask again");
		return;
	}
	if (json_array_size(tokens) == 0) {
		request_fail(r, KEKD_ESTATE, "no worker waits for an operator because of its PIN");
		return;
	}
	api_set_detail(r, json_pack("{s:O}", "tokens", tokens));
	request_answer_json(r, 200, json_pack("{s:O}", "tokens", tokens));
}
