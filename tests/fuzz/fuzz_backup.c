/* SPDX-License-Identifier: Apache-2.0 */
/* The file of a backup, as it is handed to kekd restore. */
#include "fuzz.h"

#include "kekd/backup.h"

#include <string.h>

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc, (void)argv;
	fuzz_quiet();
	json_open();
	return 0;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char error[JSON_ERROR_SIZE] = "";
	struct backup b = { 0 }, again = { 0 };
	char *text;

	if (backup_parse((const char *)data, size, &b, error) != 0) {
		require(*error && !b.document);
		return 0;
	}
	require(str_is_name(b.cluster) && b.key_len <= sizeof(b.key));
	require(backup_count(&b, "") == json_array_size(b.records));
	if (b.is_signed)
		(void)backup_check_signature(b.key, b.key_len, b.digest, b.signature);
	/* What was read is the same written anew. */
	text = json_canonical(b.document, NULL);
	require(text && backup_parse(text, strlen(text), &again, error) == 0);
	require(memcmp(b.digest, again.digest, sizeof(b.digest)) == 0);
	json_text_free(text);
	backup_free(&b);
	backup_free(&again);
	return 0;
}
