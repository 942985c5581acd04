/* SPDX-License-Identifier: Apache-2.0 */
/* kekd-kms migrate-plan: the command. Changes nothing, and asks nobody. */
#include "command.h"
#include "config.h"
#include "plan.h"
#include "words.h"

#include "kekd/str.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* The plugin of this host, where its configuration is there; else what it is by default. */
static int
find_plugin(const struct kms_args *a, struct kms_config **ret_config)
{
	if (strcmp(a->config, KMS_CONFIG_DEFAULT) == 0 && access(a->config, F_OK) < 0)
		return 0;
	return kms_config_read(a->config, ret_config);
}

static int
say_unreadable(const char *path, int err)
{
	fprintf(stderr, "kekd-kms: cannot read %s: %s\n", path,
		err == -EFBIG ? "it has more than 1 MiB, which no EncryptionConfiguration has"
			      : strerror(-err));
	return KMS_EXIT_FAILED;
}

/* What goes to JSON: the findings, and the plan where there could be one. */
static void
print_json(const struct encryption_config *c, json_t *plan)
{
	json_t *all = json_pack(
		"{s:s, s:o, s:O?}", "file", c->path, "findings", ec_findings_json(c), "plan", plan);

	json_dumpf(all, stdout, JSON_INDENT(2) | JSON_ENCODE_ANY);
	putchar('\n');
	json_decref(all);
}

static void
print_text(const struct encryption_config *c, const json_t *plan)
{
	printf("%s\n", c->path);
	if (c->findings_count > 0) {
		putchar('\n');
		plan_show_findings(stdout, c);
	}
	if (!plan)
		return;
	putchar('\n');
	plan_show(stdout, plan);
}

static int
exit_status(const struct encryption_config *c, const json_t *plan)
{
	if (ec_count(c, EC_FAULT) > 0 || !plan)
		return KMS_EXIT_FAILED;
	return ec_count(c, EC_WARNING) > 0 ? KMS_EXIT_FINDINGS : KMS_EXIT_OK;
}

static struct plan_target
target_of(const struct kms_args *a, const struct kms_config *config)
{
	struct plan_target t = { .word = a->to ? a->to : "kekd" };

	/* Also by the provider's own name. */
	if (strcmp(t.word, "kekd") == 0 || (config && strcmp(t.word, config->provider) == 0)) {
		t.provider = config ? config->provider : "kekd";
		t.socket = config ? config->socket : KMS_SOCKET_DEFAULT;
	}
	return t;
}

static void
say_default(const char *path, const struct plan_target *t)
{
	char text[1024];

	snprintf(text, sizeof(text),
		"%s is not there: \"%s\" and %s are what it would say by default.", path,
		t->provider, t->socket);
	putchar('\n');
	words_wrap(stdout, "", 0, text);
}

static int
plan_and_print(
	const struct kms_args *a, const struct kms_config *config, struct encryption_config *c)
{
	struct plan_target target = target_of(a, config);
	char error[512] = "";
	json_t *plan = NULL;
	int status;

	if (ec_count(c, EC_FAULT) == 0 && plan_make(c, &target, &plan, error) < 0)
		ec_find(c, EC_FAULT, "no-plan", 0, "Nothing was changed.", "%s", error);
	if (a->json)
		print_json(c, plan);
	else
		print_text(c, plan);
	if (!config && plan && target.provider && !a->json)
		say_default(a->config, &target);
	status = exit_status(c, plan);
	json_decref(plan);
	return status;
}

int
kms_migrate_plan(const struct kms_args *a)
{
	_cleanup_(kms_config_freep) struct kms_config *config = NULL;
	_cleanup_(encryption_config_freep) struct encryption_config *c = NULL;
	int err = find_plugin(a, &config);

	if (err)
		return KMS_EXIT_CONFIG;
	err = encryption_config_read(a->words[0], &c);
	if (err)
		return say_unreadable(a->words[0], err);
	encryption_config_lint(c,
		config ? &(struct ec_plugin){ config->provider, config->socket, config->timeout_ns }
		       : NULL);
	return plan_and_print(a, config, c);
}
