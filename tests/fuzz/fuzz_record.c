/* SPDX-License-Identifier: Apache-2.0 */
/* What the store holds: envelopes, and the records in them. What was read is written and read
 * again. */
#include "fuzz.h"

#include "../../src/store/envelope.h"
#include "kekd/access.h"
#include "kekd/json.h"
#include "kekd/keyring.h"

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc, (void)argv;
	fuzz_quiet();
	json_open();
	return 0;
}

static void
key(const json_t *body)
{
	char error[JSON_ERROR_SIZE];
	struct key *k = NULL, *again = NULL;
	json_t *text, *text_again;

	if (key_from_json(body, 7, &k, error) != 0)
		return;
	text = key_to_json(k);
	require(text && key_from_json(text, 7, &again, error) == 0);
	text_again = key_to_json(again);
	require(json_equal(text, text_again));
	require(k->primary == 0 || key_find_version(k, k->primary));
	json_decref(text);
	json_decref(text_again);
	key_unrefp(&k);
	key_unrefp(&again);
}

static void
client(const json_t *body)
{
	char error[JSON_ERROR_SIZE];
	struct client *c = NULL, *again = NULL;
	json_t *text, *text_again;

	if (client_from_json("app", body, 7, &c, error) != 0)
		return;
	text = client_to_json(c);
	require(text && client_from_json("app", text, 7, &again, error) == 0);
	text_again = client_to_json(again);
	require(json_equal(text, text_again));
	client_authorise(c, ACCESS_WRAP, "demo");
	client_authorise(c, ACCESS_CLIENT_READ, NULL);
	client_is_privileged(c);
	json_decref(text);
	json_decref(text_again);
	client_unrefp(&c);
	client_unrefp(&again);
}

static void
body(const json_t *value)
{
	uint8_t state[SEAL_SIZE];
	uint64_t number;

	key(value);
	client(value);
	commit_parse(value, &number, state);
}

static void
envelope(const char *text, size_t size)
{
	struct store_record r = { .body = (char *)(uintptr_t)text, .len = size };
	struct envelope e, again;
	struct store_record written = { 0 };

	if (envelope_parse(&r, &e) != 0)
		return;
	body(e.body);
	if (envelope_format(e.body, e.commit, &e.key, e.seal, &written.body, &written.len) == 0) {
		require(envelope_parse(&written, &again) == 0);
		require(again.commit == e.commit && json_equal(again.body, e.body));
		envelope_free(&again);
		json_text_free(written.body);
	}
	envelope_free(&e);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char error[JSON_ERROR_SIZE];
	json_t *value = json_parse((const char *)data, size, error);

	envelope((const char *)data, size);
	if (value)
		body(value);
	json_decref(value);
	return 0;
}
