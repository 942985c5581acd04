/* SPDX-License-Identifier: Apache-2.0 */
/*
 * EncryptionConfigurations: any text ends in findings or in a configuration, and a plan for that
 * one has files that have no fault of their own.
 */
#include "../../src/kms/plan.h"
#include "fuzz.h"

#include "kekd/json.h"
#include "kekd/str.h"

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc, (void)argv;
	fuzz_quiet();
	json_open();
	return 0;
}

/* What stands for secrets is the one fault that such a file has. */
static void
check_file(const char *file)
{
	struct encryption_config *c = NULL;

	require(encryption_config_parse("step", file, strlen(file), &c) == 0);
	for (size_t i = 0; i < c->findings_count; i++)
		require(strcmp(c->findings[i].code, "secret") == 0);
	encryption_config_freep(&c);
}

static void
check_plan(const struct encryption_config *c, const char *to, bool kekd)
{
	struct plan_target t = { to, kekd ? "kekd" : NULL, kekd ? "/run/kms.sock" : NULL };
	char error[512] = "";
	json_t *plan = NULL;
	const json_t *step;
	size_t i;

	if (plan_make(c, &t, &plan, error) < 0) {
		require(*error);
		return;
	}
	json_array_foreach(json_object_get(plan, "steps"), i, step)
		if (json_is_string(json_object_get(step, "file")))
			check_file(json_string_value(json_object_get(step, "file")));
	json_decref(plan);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const targets[] = { "kekd", "identity", "aescbc", "secretbox" };
	struct ec_plugin plugin = { "kekd", "/run/kms.sock", 2800000000 };
	struct encryption_config *c = NULL;

	require(encryption_config_parse("file", data, size, &c) == 0);
	if (ec_count(c, EC_FAULT) == 0) {
		encryption_config_lint(c, &plugin);
		for (size_t i = 0; i < STR_COUNT(targets); i++)
			check_plan(c, targets[i], i == 0);
	}
	encryption_config_freep(&c);
	return 0;
}
