/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kekctl complete: what the next word can be, from the tables of commands and options, for the
 * scripts of the shells. A line is a candidate and, behind a tab, what it is; or ":files", ":dirs",
 * ":keys", ":clients", ":snapshots": what the shell, or a question to the server, knows better.
 */
#include "ctl.h"

#include <string.h>

static const struct {
	const char *argument, *answer;
} kinds[] = {
	{ "FILE", ":files" },
	{ "DIR", ":dirs" },
	{ "KEY", ":keys" },
	{ "PATH", ":files" },
	{ "SNAPSHOT", ":snapshots" },
	{ "FORMAT", "table\njson" },
};

static bool
say_kind(const char *argument, size_t len)
{
	for (size_t i = 0; i < STR_COUNT(kinds); i++)
		if (strlen(kinds[i].argument) == len &&
			strncmp(kinds[i].argument, argument, len) == 0) {
			puts(kinds[i].answer);
			return true;
		}
	return false;
}

/* NAME: of what there is already, unless the command makes it. */
static void
say_name(const struct ctl_command *c)
{
	static const char *const new_names[] = { "key create", "client add" };

	for (size_t i = 0; i < STR_COUNT(new_names); i++)
		if (strcmp(c->words, new_names[i]) == 0)
			return;
	if (strncmp(c->words, "key ", 4) == 0)
		puts(":keys");
	if (strncmp(c->words, "client ", 7) == 0)
		puts(":clients");
}

static void
say_argument(const struct ctl_command *c, size_t given)
{
	size_t len = strcspn(c->usage, " ");

	if (given == 0 && !say_kind(c->usage, len) && len == 4 && strncmp(c->usage, "NAME", 4) == 0)
		say_name(c);
}

static void
say_options(const struct ctl_command *c)
{
	for (const struct ctl_option *o = ctl_options; o->name; o++) {
		char name[64];
		snprintf(name, sizeof(name), " %s ", o->name);
		if (o->general || (c && strstr(c->options, name)))
			printf("--%s\t%s\n", option_spelling(o), o->help);
	}
}

/* Words are all but options and what belongs to them, up to where the next one is to stand. */
static const struct ctl_option *
split(int argc, char **argv, struct ctl_args *words)
{
	const struct ctl_option *open = NULL;

	for (int i = 0; i < argc && words->words_count < CTL_ARGS_MAX; i++) {
		const struct ctl_option *o = argv[i][0] == '-'
						     ? option_find(argv[i], words->words[0])
						     : NULL;
		if (open)
			open = NULL; /* this is its value */
		else if (o)
			open = o->argument && !strchr(argv[i], '=') ? o : NULL;
		else if (argv[i][0] != '-')
			words->words[words->words_count++] = argv[i];
	}
	return open;
}

int
complete_run(int argc, char **argv)
{
	struct ctl_args a = { 0 };
	const char *last = argc > 0 ? argv[argc - 1] : "";
	const struct ctl_option *open = split(argc > 0 ? argc - 1 : 0, argv, &a);
	size_t skip = a.words_count > 0 && strcmp(a.words[0], "help") == 0, n = 0;
	const struct ctl_command *c = command_find(a.words + skip, a.words_count - skip, &n);

	if (open)
		say_kind(open->argument, strlen(open->argument));
	else if (last[0] == '-')
		say_options(c);
	/* One command's words may be another one's first. */
	else if (!c || n == a.words_count - skip)
		command_next_words(a.words + skip, a.words_count - skip);
	if (!open && last[0] != '-' && c && !skip)
		say_argument(c, a.words_count - n);
	return CTL_OK;
}
