/* SPDX-License-Identifier: Apache-2.0 */
/* kekd-kms doctor: the command, and how its lines are told. */
#include "doctor.h"

#include "command.h"
#include "encryption_config.h"
#include "words.h"

#include "kekd/str.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define COLUMN 31 /* where texts begin */

static const char *const level_names[DOCTOR_LEVELS] = {
	[DOCTOR_OK] = "ok",
	[DOCTOR_WARNING] = "warning",
	[DOCTOR_FAULT] = "fault",
};

/* ---- telling ---- */

static void
print_line(struct doctor *d, enum doctor_level level, const char *check, const char *text,
	const char *remedy)
{
	char head[96];

	if (d->endpoint && d->endpoint != d->told)
		printf("%s\n", d->endpoint);
	d->told = d->endpoint;
	snprintf(head, sizeof(head), "%s%-8s %-*s ", d->endpoint ? "  " : "", level_names[level],
		d->endpoint ? COLUMN - 12 : COLUMN - 10, check);
	words_wrap(stdout, head, COLUMN, text);
	if (*remedy)
		words_wrap(stdout, "", COLUMN, remedy);
	fflush(stdout);
}

void
doctor_say(struct doctor *d, enum doctor_level level, const char *check, const char *remedy,
	const char *format, ...)
{
	char text[1200];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	d->counts[level]++;
	json_array_append_new(
		d->checks, json_pack("{s:s, s:s, s:s?, s:s, s:s?}", "check", check, "level",
				   level_names[level], "endpoint", d->endpoint, "text", text,
				   "remedy", *remedy ? remedy : NULL));
	if (!d->json)
		print_line(d, level, check, text, remedy);
}

static void
print_end(const struct doctor *d)
{
	unsigned faults = d->counts[DOCTOR_FAULT], warnings = d->counts[DOCTOR_WARNING];

	if (d->json) {
		json_t *all = json_pack("{s:i, s:i, s:O}", "faults", (int)faults, "warnings",
			(int)warnings, "checks", d->checks);
		json_dumpf(all, stdout, JSON_INDENT(2));
		putchar('\n');
		json_decref(all);
	} else if (faults || warnings) {
		printf("\n%u fault%s, %u warning%s.\n", faults, faults == 1 ? "" : "s", warnings,
			warnings == 1 ? "" : "s");
	} else {
		printf("\nAll is well.\n");
	}
}

/* ---- the configuration ---- */

/* Its findings are lines "FILE:LINE: what, what to do". */
static void
say_findings(struct doctor *d, char *text)
{
	char *rest = text, *line;

	while ((line = strsep(&rest, "\n")))
		if (*line)
			doctor_say(d, DOCTOR_FAULT, "configuration",
				"The other checks need a sound configuration.", "%s", line);
}

static int
check_configuration(struct doctor *d, const char *path, struct kms_config **ret_config)
{
	char *findings = NULL;
	size_t len = 0;
	FILE *out = open_memstream(&findings, &len);
	int err = out ? kms_config_read_to(path, out, ret_config) : -ENOMEM;

	if (out)
		fclose(out);
	if (err) {
		say_findings(d, findings);
	} else {
		const struct kms_config *c = *ret_config;
		doctor_say(d, DOCTOR_OK, "configuration", "",
			"%s: provider %s, cluster %s, key %s, %zu endpoint%s", path, c->provider,
			c->cluster, c->key, c->endpoints_count, c->endpoints_count == 1 ? "" : "s");
	}
	free(findings);
	return err;
}

/* ---- the EncryptionConfiguration ---- */

static const enum doctor_level levels[EC_LEVELS] = {
	[EC_NOTE] = DOCTOR_OK,
	[EC_WARNING] = DOCTOR_WARNING,
	[EC_FAULT] = DOCTOR_FAULT,
};

static bool
names_plugin(const struct encryption_config *c, const char *provider)
{
	for (size_t i = 0; i < c->groups_count; i++)
		for (size_t j = 0; j < c->groups[i].providers_count; j++) {
			const struct ec_provider *p = &c->groups[i].providers[j];
			if (p->kind == EC_KMS && p->name && strcmp(p->name, provider) == 0)
				return true;
		}
	return false;
}

static void
say_encryption(struct doctor *d, const struct encryption_config *c)
{
	static const char check[] = "encryption-config";

	for (size_t i = 0; i < c->findings_count; i++) {
		const struct ec_finding *f = &c->findings[i];
		doctor_say(d, levels[f->level], check, f->remedy, "%s:%u: %s", c->path, f->line,
			f->text);
	}
	if (!names_plugin(c, d->config->provider))
		doctor_say(d, DOCTOR_WARNING, check,
			"kekd-kms migrate-plan tells how to move to it.",
			"%s: no entry has this plugin's provider \"%s\"", c->path,
			d->config->provider);
	else if (ec_count(c, EC_FAULT) + ec_count(c, EC_WARNING) == 0)
		doctor_say(d, DOCTOR_OK, check, "", "%s names provider %s at this socket", c->path,
			d->config->provider);
}

static void
check_encryption(struct doctor *d, const char *path)
{
	_cleanup_(encryption_config_freep) struct encryption_config *c = NULL;
	int err = encryption_config_read(path, &c);

	if (err) {
		doctor_say(d, DOCTOR_FAULT, "encryption-config",
			"Give the file of the API server's --encryption-provider-config.", "%s: %s",
			path, strerror(-err));
		return;
	}
	encryption_config_lint(c, &(struct ec_plugin){ d->config->provider, d->config->socket,
					  d->config->timeout_ns });
	say_encryption(d, c);
}

/* ---- all of it ---- */

static void
check_all(struct doctor *d, const struct kms_args *a)
{
	doctor_state(d);
	doctor_socket(d);
	doctor_metrics(d);
	doctor_certificate(d);
	doctor_endpoints(d);
	if (a->encryption_configuration)
		check_encryption(d, a->encryption_configuration);
}

int
kms_doctor(const struct kms_args *a)
{
	_cleanup_(kms_config_freep) struct kms_config *config = NULL;
	struct doctor d = { .json = a->json, .checks = json_array(), .blob = BUF_INIT(4096) };

	if (check_configuration(&d, a->config, &config) == 0) {
		d.config = config;
		check_all(&d, a);
	}
	print_end(&d);
	json_decref(d.checks);
	buf_free(&d.blob);
	if (d.counts[DOCTOR_FAULT])
		return KMS_EXIT_FAILED;
	return d.counts[DOCTOR_WARNING] ? KMS_EXIT_FINDINGS : KMS_EXIT_OK;
}
