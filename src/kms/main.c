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

#define OPTIONS_MAX 8 /* different ones, and a NUL */

struct command {
	const char *word;  /* NULL: none is given */
	const char *usage; /* behind "kekd-kms" */
	const char *takes; /* its options, as getopt_long() below returns them */
	const char *help;
	int words_min, words_max; /* behind its own */
	int (*run)(const struct kms_args *a);
};

static const struct command commands[] = {
	{ NULL, "[--config FILE] [--check]", "ck",
		"serve the Kubernetes API server's KMS v2 calls; --check: look for faults of\n"
		"      the configuration and end",
		0, 0, kms_serve },
	{ "doctor", "[--config FILE] [--encryption-configuration FILE] [-o json]", "ceo",
		"try everything that the plugin needs, and say what to put right; exit status\n"
		"      1: faults, 3: warnings alone",
		0, 0, kms_doctor },
	{ "migrate-plan", "[--config FILE] [--to WHERE] [-o json] ENCRYPTION_CONFIGURATION", "cto",
		"look for faults of an EncryptionConfiguration, and tell step by step how to\n"
		"      move to kekd (the default), identity, aescbc, aesgcm, secretbox or a kms\n"
		"      provider of the file; exit status 3: there is something to put right",
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

static bool
takes_all(const struct command *c, const char *given)
{
	return given[strspn(given, c->takes)] == '\0';
}

/* given: the options that were there. */
static int
run(struct kms_args *a, const char *given, int count, char *const *words)
{
	const struct command *c = find_command(count, words);

	a->words = count > 0 ? words + 1 : words;
	a->count = count > 0 ? count - 1 : 0;
	if (!c) {
		fprintf(stderr, "kekd-kms: there is no command \"%s\": kekd-kms --help has them\n",
			words[0]);
		return KMS_EXIT_USAGE;
	}
	if (a->count < c->words_min || a->count > c->words_max || !takes_all(c, given)) {
		fprintf(stderr, "kekd-kms: use it as: kekd-kms %s%s%s\n", c->word ? c->word : "",
			c->word ? " " : "", c->usage);
		return KMS_EXIT_USAGE;
	}
	return c->run(a);
}

/* An option that tells something and ends. */
static bool
told(int option)
{
	if (option == 'V')
		puts(PACKAGE_STRING);
	else if (option == 'h')
		show_help();
	return option == 'V' || option == 'h';
}

static bool
take(struct kms_args *a, int option, const char *value)
{
	if (option == 'c')
		a->config = value;
	else if (option == 'k')
		a->check = true;
	else if (option == 't')
		a->to = value;
	else if (option == 'e')
		a->encryption_configuration = value;
	else if (option == 'o')
		a->json = strcmp(value, "json") == 0;
	if (option != 'o' || a->json)
		return option != '?';
	fprintf(stderr, "kekd-kms: -o %s: there is json, and text without -o\n", value);
	return false;
}

/* True to go on, with the options in given; else the exit status is in *ret_status. */
static bool
parse(int argc, char **argv, struct kms_args *a, char given[OPTIONS_MAX], int *ret_status)
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
	size_t count = 0;
	int option;

	*ret_status = KMS_EXIT_OK;
	while ((option = getopt_long(argc, argv, "c:ho:V", options, NULL)) != -1) {
		if (told(option))
			return false;
		if (!take(a, option, optarg)) {
			fputs("kekd-kms --help tells more.\n", stderr);
			*ret_status = KMS_EXIT_USAGE;
			return false;
		}
		if (!memchr(given, option, count) && count < OPTIONS_MAX - 1)
			given[count++] = (char)option;
	}
	given[count] = '\0';
	return true;
}

/* A plan or report on a full disk is none. */
static int
check_output(int status)
{
	bool written = fflush(stdout) == 0 && !ferror(stdout);

	if (written || (status != KMS_EXIT_OK && status != KMS_EXIT_FINDINGS))
		return status;
	fputs("kekd-kms: cannot write to standard output: make room there, or give another place\n",
		stderr);
	return KMS_EXIT_FAILED;
}

int
main(int argc, char **argv)
{
	struct kms_args a = { .config = KMS_CONFIG_DEFAULT };
	char given[OPTIONS_MAX];
	int status;

	if (!parse(argc, argv, &a, given, &status))
		return check_output(status);
	log_open("kekd-kms", LOG_LEVEL_INFO);
	sandbox_harden(); /* seeds pass through */
	json_open();
	secret_heap_open();
	return check_output(run(&a, given, argc - optind, argv + optind));
}
