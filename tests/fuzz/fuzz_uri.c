/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A token's PKCS#11 URI, as the configuration checks it (and through it p11-kit's parser), and its
 * pin-source, which comes second.
 */
#include "fuzz.h"

#include "../../src/config/load.h"

#include <p11-kit/p11-kit.h>
#include <p11-kit/uri.h>

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc, (void)argv;
	fuzz_quiet();
	fuzz_write("mod", "", 0);
	fuzz_write("pin", "1\n", 2);
	return 0;
}

/* Whatever the check lets pass names a token, and holds no PIN and no slot. */
static void
check_passed(const char *text)
{
	P11KitUri *uri = p11_kit_uri_new();
	const CK_TOKEN_INFO *info;

	require(uri && p11_kit_uri_parse(text, P11_KIT_URI_FOR_ANY, uri) == P11_KIT_URI_OK);
	info = p11_kit_uri_get_token_info(uri);
	require(info->label[0] || info->serialNumber[0]);
	require(!p11_kit_uri_get_pin_value(uri));
	require(p11_kit_uri_get_slot_id(uri) == (CK_SLOT_ID)-1);
	p11_kit_uri_free(uri);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input in = { data, size };
	struct lines lines = { 0 };
	struct check check = {
		.file = "kekd.yaml", .dir = fuzz_directory(), .lines = &lines, .out = stderr
	};
	struct config_token token = { .name = strdup("main"), .uri = fuzz_line(&in) };
	struct config config = { .tokens = &token, .tokens_count = 1 };
	char *pin = fuzz_line(&in);

	if (*pin)
		token.pin_source = strdup(pin);
	require(check_tokens(&check, &config) == 0);
	if (check.findings == 0) {
		check_passed(token.uri);
		require(token.module[0] == '/' && token.pin_source[0] == '/');
	}
	free(pin);
	free(token.name);
	free(token.uri);
	free(token.module);
	free(token.pin_source);
	return 0;
}
