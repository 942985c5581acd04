/* SPDX-License-Identifier: Apache-2.0 */
/* kekd, the parent: its command line. Not here: what it does then (supervise.c). */
#include "parent.h"

#include "kekd/config.h"
#include "kekd/json.h"
#include "kekd/log.h"
#include "kekd/sandbox.h"
#include "kekd/secret.h"
#include "kekd/str.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>

#define DEFAULT_CONFIG KEKD_SYSCONFDIR "/kekd/kekd.yaml"

static const char help[] =
	"kekd keeps key-encryption keys in a PKCS#11 token and wraps data keys under them.\n"
	"\n"
	"  kekd [--config FILE]           run: start kekd-net and the token's workers\n"
	"  kekd --check [--config FILE]   check the configuration and end\n"
	"  kekd init [--config FILE]      make the cluster and its seal key in the token, once\n"
	"  kekd retry-pin [TOKEN] [--config FILE]\n"
	"                                 let the kekd that runs try a refused PIN once more\n"
	"  kekd --version, --help\n"
	"\n"
	"  -c, --config FILE   the configuration, default " DEFAULT_CONFIG "\n"
	"\n"
	"Signals: TERM and INT drain and end, HUP reloads. Exit status: 0 done, 1 failed,\n"
	"2 wrong use, 78 cannot work until the configuration or the token is put right.\n";

enum mode { MODE_RUN, MODE_CHECK, MODE_INIT, MODE_RETRY_PIN };

struct command_line {
	const char *config;
	enum mode mode;
	const char *token; /* of retry-pin; may be NULL */
};

/* 0 to go on, else the exit status in *ret_status. */
static bool
parse(int argc, char **argv, struct command_line *cl, int *ret_status)
{
	static const struct option options[] = {
		{ "config", required_argument, NULL, 'c' },
		{ "check", no_argument, NULL, 'k' },
		{ "version", no_argument, NULL, 'V' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	int option;

	*ret_status = CHILD_EXIT_OK;
	while ((option = getopt_long(argc, argv, "c:hV", options, NULL)) != -1) {
		if (option == 'c') {
			cl->config = optarg;
		} else if (option == 'k') {
			cl->mode = MODE_CHECK;
		} else if (option == 'V') {
			puts(PACKAGE_STRING);
			return false;
		} else if (option == 'h') {
			fputs(help, stdout);
			return false;
		} else {
			*ret_status = CHILD_EXIT_USAGE;
			fputs("kekd --help tells more.\n", stderr);
			return false;
		}
	}
	if (optind == argc)
		return true;
	if (argc - optind == 1 && cl->mode == MODE_RUN && strcmp(argv[optind], "init") == 0) {
		cl->mode = MODE_INIT;
		return true;
	}
	if (argc - optind <= 2 && cl->mode == MODE_RUN && strcmp(argv[optind], "retry-pin") == 0) {
		cl->mode = MODE_RETRY_PIN;
		cl->token = argv[optind + 1];
		return true;
	}
	fprintf(stderr, "kekd: \"%s\" is not understood here; kekd --help tells more.\n",
		argv[optind]);
	*ret_status = CHILD_EXIT_USAGE;
	return false;
}

static int
run(const struct command_line *cl)
{
	_cleanup_(config_freep) struct config *config = NULL;

	if (config_load(cl->config, &config) != 0)
		return CHILD_EXIT_OPERATOR;
	if (cl->mode == MODE_CHECK) {
		printf("%s: no fault found\n", cl->config);
		return CHILD_EXIT_OK;
	}
	if (cl->mode == MODE_RETRY_PIN)
		return retry_ask(config, cl->token);
	if (cl->mode == MODE_INIT && config->admins_count == 0) {
		fprintf(stderr,
			"%s: admins: nobody could ever use this cluster: name at least one "
			"administrator and the certificate's identity\n",
			cl->config);
		return CHILD_EXIT_OPERATOR;
	}
	return parent_run(config, cl->config, cl->mode == MODE_INIT);
}

int
main(int argc, char **argv)
{
	struct command_line cl = { .config = DEFAULT_CONFIG, .mode = MODE_RUN };
	int status;

	if (!parse(argc, argv, &cl, &status))
		return status;
	log_open("kekd", LOG_LEVEL_INFO);
	/* It holds the key that workers share. */
	sandbox_harden();
	json_open();
	secret_heap_open();
	return run(&cl);
}
