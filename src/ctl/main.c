/* SPDX-License-Identifier: Apache-2.0 */
/* kekctl: from the command line to one command of the tables. */
#include "ctl.h"

#include <locale.h>
#include <string.h>

/* Does the command take every option that was given? */
static int
check_options(const struct ctl_command *c, const struct ctl_args *a)
{
	char name[64];

	for (size_t i = 0; i < a->given_count; i++) {
		const struct ctl_option *o = a->given[i].option;
		snprintf(name, sizeof(name), " %s ", o->name);
		if (o->general || strstr(c->options, name))
			continue;
		say_error("\"kekctl %s\" does not take --%s", c->words, option_spelling(o));
		say_hint("kekctl help %s", c->words);
		return CTL_USAGE;
	}
	return CTL_OK;
}

static int
check_words(const struct ctl_command *c, size_t count)
{
	if (count >= c->words_min && count <= c->words_max)
		return CTL_OK;
	say_error("\"kekctl %s\" takes %s arguments", c->words,
		count < c->words_min ? "more" : "fewer");
	say_hint("kekctl %s%s%s", c->words, *c->usage ? " " : "", c->usage);
	return CTL_USAGE;
}

static int
take_general(struct ctl *ctl)
{
	const char *format = args_value(&ctl->args, "output");

	if (format && strcmp(format, "json") != 0 && strcmp(format, "table") != 0) {
		say_error("there is no output format \"%s\"", format);
		say_hint("-o table or -o json");
		return CTL_USAGE;
	}
	ctl->json = format && strcmp(format, "json") == 0;
	ctl->quiet = args_has(&ctl->args, "quiet");
	ctl->force = args_has(&ctl->args, "force");
	return CTL_OK;
}

static int
unknown_command(const struct ctl_args *a)
{
	if (a->words_count == 0) {
		help_general(stderr);
		return CTL_USAGE;
	}
	if (help_group(a->words, a->words_count, stderr))
		return CTL_USAGE;
	say_error("there is no command \"%s%s%s\"", a->words[0], a->words_count > 1 ? " " : "",
		a->words_count > 1 ? a->words[1] : "");
	if (!help_group(a->words, 1, stderr))
		say_hint("kekctl help");
	return CTL_USAGE;
}

static int
show_help(const struct ctl_args *a, size_t skip)
{
	size_t n;
	const struct ctl_command *c = command_find(a->words + skip, a->words_count - skip, &n);
	struct ctl_args rest = *a;

	if (c) {
		help_command(c, stdout);
		return CTL_OK;
	}
	if (a->words_count == skip) {
		help_general(stdout);
		return CTL_OK;
	}
	if (help_group(a->words + skip, a->words_count - skip, stdout))
		return CTL_OK;
	memmove(rest.words, rest.words + skip, (rest.words_count - skip) * sizeof(rest.words[0]));
	rest.words_count -= skip;
	return unknown_command(&rest);
}

static int
run(struct ctl *ctl)
{
	struct ctl_args *a = &ctl->args;
	const struct ctl_command *c;
	size_t n = 0;
	int status;

	c = command_find(a->words, a->words_count, &n);
	if (!c)
		return unknown_command(a);
	memmove(a->words, a->words + n, (a->words_count - n) * sizeof(a->words[0]));
	a->words_count -= n;
	if ((status = check_options(c, a)) != CTL_OK ||
		(status = check_words(c, a->words_count)) != CTL_OK ||
		(status = take_general(ctl)) != CTL_OK)
		return status;
	return c->run(ctl);
}

int
main(int argc, char **argv)
{
	struct ctl ctl = { 0 };
	int status;

	setlocale(LC_CTYPE, "");
	json_open();
	if (argc > 1 && strcmp(argv[1], "complete") == 0)
		return complete_run(argc - 2, argv + 2);
	status = args_parse(argc, argv, &ctl.args);
	if (status != CTL_OK)
		return status;
	if (ctl.args.words_count > 0 && strcmp(ctl.args.words[0], "help") == 0)
		status = show_help(&ctl.args, 1);
	else if (args_has(&ctl.args, "help"))
		status = show_help(&ctl.args, 0);
	else if (args_has(&ctl.args, "version"))
		printf("kekctl %s\n", PACKAGE_VERSION);
	else
		status = run(&ctl);
	kekd_client_freep(&ctl.client);
	if ((fflush(stdout) != 0 || ferror(stdout)) && status == CTL_OK) {
		say_error("cannot write to standard output");
		status = CTL_FAILED;
	}
	return status;
}
