/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files of kekctl apply: any text ends in resources or in findings, and a resource that was read
 * does not differ from itself.
 */
#include "../../src/ctl/apply.h"
#include "fuzz.h"

/* message.c's: what they say is not looked at. */
void
say_error(const char *format, ...)
{
	(void)format;
}

void
say_hint(const char *format, ...)
{
	(void)format;
}

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
	struct apply_set s = { 0 };

	apply_read_text("file", data, size, &s);
	for (size_t i = 0; i < s.count; i++) {
		const struct apply_resource *r = &s.list[i];
		json_t *changes = apply_compare(r->kind, r->wanted, r->wanted);
		require(*apply_label(r) && r->line > 0 && r->file);
		require(json_is_object(r->wanted) && (r->kind == APPLY_POLICY || *r->name));
		require(json_array_size(changes) == 0);
		json_decref(changes);
	}
	apply_set_free(&s);
	return 0;
}
