/* SPDX-License-Identifier: Apache-2.0 */
/* kekd, the parent: its command line. Not here: what it does then (supervise.c). */
#include "parent.h"

#include "kekd/config.h"
#include "kekd/json.h"
#include "kekd/log.h"
#include "kekd/sandbox.h"
#include "kekd/secret.h"
#include "kekd/str.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define DEFAULT_CONFIG KEKD_SYSCONFDIR "/kekd/kekd.yaml"

static const char help[] =
	"kekd keeps key-encryption keys in a PKCS#11 token and wraps data keys under them.\n"
	"\n"
	"  kekd [--config FILE]           run: start kekd-net and the token's workers\n"
	"  kekd --check [--config FILE]   check the configuration and end\n"
	"  kekd init [--config FILE]      make the cluster and its seal key in the token, once\n"
	"  kekd init --adopt              the same where the token holds keys of this cluster "
	"whose\n"
	"                                 metadata is lost: \"kekctl key adopt --all\" takes them "
	"in\n"
	"  kekd restore BACKUP [--config FILE]\n"
	"                                 put the records of a backup into an empty store\n"
	"  kekd drill BACKUP --scratch DIR [--token URI] [--module PATH] [--pin-source FILE]\n"
	"                                 restore into a scratch directory, prove every\n"
	"                                 version in the tokens, tell the result as JSON\n"
	"  kekd join [-o json] [--config FILE]\n"
	"                                 on a further node: check all that it takes to be one\n"
	"                                 of the cluster's, and say what is missing\n"
	"  kekd migrate --to etcd|sqlite [--config FILE]\n"
	"                                 take a single node's metadata to etcd, or back; the\n"
	"                                 configuration says store.engine: etcd\n"
	"  kekd migrate --to etcd --from-replica [--config FILE]\n"
	"                                 the former etcd is lost: fill an empty one with what\n"
	"                                 this node has of it\n"
	"  kekd retry-pin [TOKEN] [--config FILE]\n"
	"                                 let the kekd that runs try a refused PIN once more\n"
	"  kekd --version, --help\n"
	"\n"
	"  -c, --config FILE   the configuration, default " DEFAULT_CONFIG "\n"
	"\n"
	"Signals: TERM and INT drain and end, HUP reloads. Exit status: 0 done, 1 failed,\n"
	"2 wrong use, 78 cannot work until the configuration or the token is put right.\n";

enum mode {
	MODE_RUN,
	MODE_CHECK,
	MODE_INIT,
	MODE_RETRY_PIN,
	MODE_RESTORE,
	MODE_DRILL,
	MODE_JOIN,
	MODE_MIGRATE
};

struct command_line {
	const char *config;
	enum mode mode;
	const char *scratch, *token_uri, *module, *pin_source; /* of a drill */
	const char *word;   /* the token of retry-pin, which may be NULL; a backup's path */
	const char *output; /* of a join: "json", or NULL */
	const char *to;	    /* of a migration: an engine */
	bool from_replica;
	bool adopt;
};

static const struct {
	const char *word;
	enum mode mode;
	int words_min, words_max;
} commands[] = {
	{ "init", MODE_INIT, 1, 1 },
	{ "retry-pin", MODE_RETRY_PIN, 1, 2 },
	{ "restore", MODE_RESTORE, 2, 2 },
	{ "drill", MODE_DRILL, 2, 2 },
	{ "join", MODE_JOIN, 1, 1 },
	{ "migrate", MODE_MIGRATE, 1, 1 },
};

/* False for what is not understood. */
static bool
take_words(struct command_line *cl, int count, char **words)
{
	if (count > 0 && cl->mode == MODE_CHECK)
		return false;
	for (size_t i = 0; count > 0 && i < STR_COUNT(commands); i++)
		if (strcmp(words[0], commands[i].word) == 0 && count >= commands[i].words_min &&
			count <= commands[i].words_max) {
			cl->mode = commands[i].mode;
			cl->word = count > 1 ? words[1] : NULL;
		}
	if (count > 0 && cl->mode == MODE_RUN)
		return false;
	if ((cl->mode == MODE_DRILL) != (cl->scratch != NULL) ||
		(cl->mode != MODE_DRILL && (cl->token_uri || cl->module || cl->pin_source)))
		return false;
	if ((cl->output && (cl->mode != MODE_JOIN || strcmp(cl->output, "json") != 0)) ||
		(cl->mode == MODE_MIGRATE) != (cl->to != NULL) ||
		(cl->from_replica && (!cl->to || strcmp(cl->to, "etcd") != 0)) ||
		(cl->to && strcmp(cl->to, "etcd") != 0 && strcmp(cl->to, "sqlite") != 0))
		return false;
	return !cl->adopt || cl->mode == MODE_INIT;
}

static const char **
task_option(struct command_line *cl, int option)
{
	return option == 'o'   ? &cl->output
	       : option == 't' ? &cl->to
	       : option == 'S' ? &cl->scratch
	       : option == 'T' ? &cl->token_uri
	       : option == 'M' ? &cl->module
	       : option == 'P' ? &cl->pin_source
			       : NULL;
}

/* 0 to go on, else the exit status in *ret_status. */
static bool
parse(int argc, char **argv, struct command_line *cl, int *ret_status)
{
	static const struct option options[] = {
		{ "config", required_argument, NULL, 'c' },
		{ "check", no_argument, NULL, 'k' },
		{ "adopt", no_argument, NULL, 'A' },
		{ "scratch", required_argument, NULL, 'S' },
		{ "token", required_argument, NULL, 'T' },
		{ "module", required_argument, NULL, 'M' },
		{ "pin-source", required_argument, NULL, 'P' },
		{ "output", required_argument, NULL, 'o' },
		{ "to", required_argument, NULL, 't' },
		{ "from-replica", no_argument, NULL, 'R' },
		{ "version", no_argument, NULL, 'V' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	int option;

	*ret_status = CHILD_EXIT_OK;
	while ((option = getopt_long(argc, argv, "c:ho:V", options, NULL)) != -1) {
		if (option == 'c') {
			cl->config = optarg;
		} else if (option == 'k') {
			cl->mode = MODE_CHECK;
		} else if (option == 'A') {
			cl->adopt = true;
		} else if (option == 'R') {
			cl->from_replica = true;
		} else if (task_option(cl, option)) {
			*task_option(cl, option) = optarg;
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
	if (take_words(cl, argc - optind, argv + optind))
		return true;
	fprintf(stderr, "kekd: \"%s\" is not understood here; kekd --help tells more.\n",
		optind < argc ? argv[optind] : "an option");
	*ret_status = CHILD_EXIT_USAGE;
	return false;
}

static int
set(char **setting, const char *text, const char *end)
{
	char *copy;

	if (asprintf(&copy, "%s%s", text, end) < 0)
		return -ENOMEM;
	free(*setting);
	*setting = copy;
	return 0;
}

/* Nothing that belongs to the kekd that runs: a drill has all it writes in one directory. */
static int
set_scratch(struct config *c, const struct command_line *cl)
{
	int err = set(&c->state_dir, cl->scratch, "/state");

	if (!err)
		err = set(&c->hsm.state_dir, cl->scratch, "/hsm");
	if (!err)
		err = set(&c->audit.dir, cl->scratch, "/audit");
	c->hsm.workers = 1;
	for (unsigned i = 0; !err && i < c->tokens_count; i++) {
		if (cl->token_uri)
			err = set(&c->tokens[i].uri, cl->token_uri, "");
		if (!err && cl->module)
			err = set(&c->tokens[i].module, cl->module, "");
		if (!err && cl->pin_source)
			err = set(&c->tokens[i].pin_source, cl->pin_source, "");
	}
	return err;
}

/* The file is the caller's to read, and kekd-net gets it open. */
static int
run_backup(const struct command_line *cl, struct config *config)
{
	int file = open(cl->word, O_RDONLY | O_CLOEXEC), status = 0;

	if (file < 0) {
		fprintf(stderr, "kekd: %s: %s\n", cl->word, strerror(errno));
		return CHILD_EXIT_USAGE;
	}
	if (cl->mode == MODE_DRILL && set_scratch(config, cl) != 0)
		return CHILD_EXIT_FAILED;
	status = parent_run(
		config, cl->config, cl->mode == MODE_RESTORE ? NET_RESTORE : NET_DRILL, file);
	close(file);
	return status;
}

/* What the configuration lacks is the first thing that a node lacks. */
static int
tell_faults(const struct command_line *cl, char *findings)
{
	if (!cl->output) {
		fputs(findings, stderr);
		printf("%-14s %-8s %s\n%-14s %-8s %s\n", "configuration", "missing",
			"it has the faults above", "", "", "put them right, then try again");
	} else {
		_cleanup_(json_freep) json_t *report = json_pack("{s:b, s:[{s:s, s:s, s:s, s:s}]}",
			"ok", 0, "checks", "check", "configuration", "state", "missing", "text",
			findings, "next", "put it right, then try again");
		char *text = report ? json_canonical(report, NULL) : NULL;
		puts(text ? text : "{}");
		json_text_free(text);
	}
	return CHILD_EXIT_OPERATOR;
}

static int
run_join(const struct command_line *cl)
{
	_cleanup_(config_freep) struct config *config = NULL;
	_cleanup_(str_freep) char *findings = NULL;
	size_t len;
	FILE *f = open_memstream(&findings, &len);
	int err;

	if (!f)
		return CHILD_EXIT_FAILED;
	err = config_load_to(cl->config, f, &config);
	fclose(f);
	if (err != 0)
		return tell_faults(cl, findings);
	fputs(findings, stderr); /* warnings */
	return parent_run(config, cl->config, cl->output ? NET_JOIN_JSON : NET_JOIN, -1);
}

static int
run(const struct command_line *cl)
{
	_cleanup_(config_freep) struct config *config = NULL;

	if (cl->mode == MODE_JOIN)
		return run_join(cl);
	if (config_load(cl->config, &config) != 0)
		return CHILD_EXIT_OPERATOR;
	if (cl->mode == MODE_CHECK) {
		printf("%s: no fault found\n", cl->config);
		return CHILD_EXIT_OK;
	}
	if (cl->mode == MODE_RETRY_PIN)
		return retry_ask(config, cl->word);
	if (cl->mode == MODE_INIT && config->admins_count == 0) {
		fprintf(stderr,
			"%s: admins: nobody could ever use this cluster: name at least one "
			"administrator and the certificate's identity\n",
			cl->config);
		return CHILD_EXIT_OPERATOR;
	}
	if (cl->mode == MODE_INIT)
		return parent_run(config, cl->config, cl->adopt ? NET_ADOPT : NET_INIT, -1);
	if (cl->mode == MODE_MIGRATE)
		return parent_run(config, cl->config,
			cl->from_replica	      ? NET_REPLICA_TO_ETCD
			: strcmp(cl->to, "etcd") == 0 ? NET_TO_ETCD
						      : NET_TO_SQLITE,
			-1);
	if (cl->mode == MODE_RESTORE || cl->mode == MODE_DRILL)
		return run_backup(cl, config);
	return parent_run(config, cl->config, NET_SERVE, -1);
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
