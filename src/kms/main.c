/* SPDX-License-Identifier: Apache-2.0 */
/* kekd-kms: its command line. A command is a row of the table. */
#include "command.h"
#include "config.h"

#include "kekd/json.h"
#include "kekd/log.h"
#include "kekd/sandbox.h"
#include "kekd/secret.h"
#include "kekd/str.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>

struct command {
	const char *word;  /* NULL: none is given */
	const char *usage; /* behind "kekd-kms" */
	const char *help;
	int words_min, words_max; /* behind its own */
	int (*run)(const struct kms_args *a);
};

static const struct command commands[] = {
	{ NULL, "[--config FILE] [--check]",
		"serve the Kubernetes API server's KMS v2 calls; --check: look for faults of the "
		"configuration and end",
		0, 0, kms_serve },
	{ "doctor", "[--config FILE] [--encryption-configuration FILE] [-o json]",
		"try everything that the plugin needs, and say what to put right; exit status 1: "
		"faults, 3: warnings alone",
		0, 0, kms_doctor },
	{ "migrate-plan", "[--config FILE] [--to WHERE] [-o json] ENCRYPTION_CONFIGURATION",
		"look for faults of an EncryptionConfiguration, and tell step by step how to move "
		"to kekd (the default), identity, aescbc, aesgcm, secretbox or a kms provider of "
		"the file; exit status 3: there is something to put right",
		1, 1, kms_migrate_plan },
};

static const char options_help[] =
	"\n"
	"  -c, --config FILE   the configuration, default " KMS_CONFIG_DEFAULT "\n"
	"  -o json             JSON instead of text, where there is a report\n"
	"      --version, --help\n"
	"\n"
	"Signals: TERM and INT answer what is in flight and end, HUP reads the configuration\n"
	"again. Exit status: 0 done, 1 failed, 2 wrong use, 78 cannot work until the\n"
	"configuration is put right.\n";

static void
show_help(void)
{
	puts("kekd-kms is the Kubernetes KMS v2 plugin of kekd: seeds of a cluster's secrets are\n"
	     "wrapped under a key in a PKCS#11 token.\n");
	for (size_t i = 0; i < STR_COUNT(commands); i++)
		printf("  kekd-kms %s%s%s\n      %s\n", commands[i].word ? commands[i].word : "",
			commands[i].word ? " " : "", commands[i].usage, commands[i].help);
	fputs(options_help, stdout);
}

static const struct command *
find_command(int count, char *const *words)
{
	for (size_t i = 1; count > 0 && i < STR_COUNT(commands); i++)
		if (strcmp(commands[i].word, words[0]) == 0)
			return &commands[i];
	return count > 0 ? NULL : &commands[0];
}

static int
run(struct kms_args *a, int count, char *const *words)
{
	const struct command *c = find_command(count, words);

	a->words = count > 0 ? words + 1 : words;
	a->count = count > 0 ? count - 1 : 0;
	if (!c) {
		fprintf(stderr, "kekd-kms: there is no command \"%s\": kekd-kms --help has them\n",
			words[0]);
		return KMS_EXIT_USAGE;
	}
	if (a->count < c->words_min || a->count > c->words_max || (c->word && a->check)) {
		fprintf(stderr, "kekd-kms: use it as: kekd-kms %s%s%s\n", c->word ? c->word : "",
			c->word ? " " : "", c->usage);
		return KMS_EXIT_USAGE;
	}
	return c->run(a);
}

/* True to go on; else the exit status is in *ret_status. */
static bool
parse(int argc, char **argv, struct kms_args *a, int *ret_status)
{
	static const struct option options[] = {
		{ "config", required_argument, NULL, 'c' },
		{ "check", no_argument, NULL, 'k' },
		{ "output", required_argument, NULL, 'o' },
		{ "to", required_argument, NULL, 't' },
		{ "encryption-configuration", required_argument, NULL, 'e' },
		{ "version", no_argument, NULL, 'V' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	int option;

	*ret_status = KMS_EXIT_OK;
	while ((option = getopt_long(argc, argv, "c:ho:V", options, NULL)) != -1) {
		if (option == 'c') {
			a->config = optarg;
		} else if (option == 'k') {
			a->check = true;
		} else if (option == 't') {
			a->to = optarg;
		} else if (option == 'e') {
			a->encryption_configuration = optarg;
		} else if (option == 'o' && strcmp(optarg, "json") == 0) {
			a->json = true;
		} else if (option == 'V') {
			puts(PACKAGE_STRING);
			return false;
		} else if (option == 'h') {
			show_help();
			return false;
		} else {
			fputs("kekd-kms --help tells more.\n", stderr);
			*ret_status = KMS_EXIT_USAGE;
			return false;
		}
	}
	return true;
}

int
main(int argc, char **argv)
{
	struct kms_args a = { .config = KMS_CONFIG_DEFAULT };
	int status;

	if (!parse(argc, argv, &a, &status))
		return status;
	log_open("kekd-kms", LOG_LEVEL_INFO);
	sandbox_harden(); /* seeds pass through */
	json_open();
	secret_heap_open();
	return run(&a, argc - optind, argv + optind);
}
