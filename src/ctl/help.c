/* SPDX-License-Identifier: Apache-2.0 */
/* The commands as a whole: finding one by its words, and help, all from the tables. */
#include "ctl.h"

#include <string.h>

static const struct {
	const char *title;
	const struct ctl_command *commands;
} groups[] = {
	{ "Keys", ctl_key_commands },
	{ "Rotation and freezing", ctl_rotation_commands },
	{ "Evidence", ctl_usage_commands },
	{ "Data keys", ctl_data_commands },
	{ "Clients", ctl_client_commands },
	{ "From files", ctl_apply_commands },
	{ "Destroying and approving", ctl_approval_commands },
	{ "Cluster", ctl_cluster_commands },
	{ "Nodes", ctl_member_commands },
	{ "Audit log", ctl_audit_commands },
	{ "Backup", ctl_backup_commands },
	{ "Kubernetes", ctl_snapshot_commands },
	{ "Backups of etcd", ctl_snapshots_commands },
	{ "Tokens", ctl_hsm_commands },
	{ "Server", ctl_status_commands },
	{ "Measuring", ctl_bench_commands },
};

static const char exit_text[] =
	"Exit status: 0 done, 1 failed, 2 wrong usage, 3 refused by the server, 4 not found,\n"
	"5 conflict (it changed meanwhile, exists already, or is in another state),\n"
	"6 verification failed, 7 temporarily unavailable, 8 waits for an approval,\n"
	"9 secrets in plaintext, 10 a backup that the keys do not restore.\n";

/* How many of the words the command's own words are; 0: it is another one. */
static size_t
match(const struct ctl_command *c, const char *const *words, size_t count)
{
	const char *p = c->words;
	size_t n = 0;

	while (*p) {
		size_t len = strcspn(p, " ");
		if (n == count || strlen(words[n]) != len || strncmp(p, words[n], len) != 0)
			return 0;
		n++;
		p += len;
		p += *p == ' ';
	}
	return n;
}

const struct ctl_command *
command_find(const char *const *words, size_t count, size_t *ret_words)
{
	for (size_t g = 0; g < STR_COUNT(groups); g++)
		for (const struct ctl_command *c = groups[g].commands; c->words; c++) {
			size_t n = match(c, words, count);
			if (n > 0) {
				*ret_words = n;
				return c;
			}
		}
	return NULL;
}

/* The word of c behind these words, which are its first; NULL: it is another command. */
static const char *
word_behind(const struct ctl_command *c, const char *const *words, size_t count, size_t *ret_len)
{
	const char *p = c->words;

	for (size_t i = 0; i < count; i++) {
		size_t len = strlen(words[i]);
		if (strncmp(p, words[i], len) != 0 || p[len] != ' ')
			return NULL;
		p += len + 1;
	}
	*ret_len = strcspn(p, " ");
	return p;
}

void
command_next_words(const char *const *words, size_t count)
{
	const char *before = "";
	size_t len, before_len = 0;

	for (size_t g = 0; g < STR_COUNT(groups); g++)
		for (const struct ctl_command *c = groups[g].commands; c->words; c++) {
			const char *word = word_behind(c, words, count, &len);
			if (!word || (len == before_len && strncmp(word, before, len) == 0))
				continue;
			printf("%.*s\t%s\n", (int)len, word,
				word[len] ? groups[g].title : c->summary);
			before = word;
			before_len = len;
		}
	if (count == 0)
		puts("help\tHelp, also of one command");
}

static void
print_line(const struct ctl_command *c, FILE *out)
{
	fprintf(out, "  %-17s  %s\n", c->words, c->summary);
}

bool
help_group(const char *const *words, size_t count, FILE *out)
{
	bool found = false;

	for (size_t g = 0; count == 1 && g < STR_COUNT(groups); g++)
		for (const struct ctl_command *c = groups[g].commands; c->words; c++) {
			size_t len = strlen(words[0]);
			if (strncmp(c->words, words[0], len) != 0 || c->words[len] != ' ')
				continue;
			if (!found)
				fprintf(out, "Commands of \"kekctl %s\":\n", words[0]);
			found = true;
			print_line(c, out);
		}
	return found;
}

static void
print_option(const struct ctl_option *o, FILE *out)
{
	char text[64], letter[8] = "    ";

	if (o->letter)
		snprintf(letter, sizeof(letter), "-%c, ", o->letter);
	snprintf(text, sizeof(text), "%s--%s%s%s", letter, option_spelling(o),
		o->argument ? " " : "", o->argument ? o->argument : "");
	fprintf(out, "  %-26s %s\n", text, o->help);
}

static bool
takes(const struct ctl_command *c, const struct ctl_option *o)
{
	char name[64];

	snprintf(name, sizeof(name), " %s ", o->name);
	return strstr(c->options, name) != NULL;
}

void
help_general(FILE *out)
{
	fputs("Usage: kekctl [OPTION]... COMMAND [ARGUMENT]...\n"
	      "Administers and uses kekd, the server of key-encryption keys.\n",
		out);
	for (size_t g = 0; g < STR_COUNT(groups); g++) {
		fprintf(out, "\n%s:\n", groups[g].title);
		for (const struct ctl_command *c = groups[g].commands; c->words; c++)
			print_line(c, out);
	}
	fputs("\nOptions:\n", out);
	for (const struct ctl_option *o = ctl_options; o->name; o++)
		if (o->general)
			print_option(o, out);
	fprintf(out, "\n%s\n\"kekctl help COMMAND\" says more about one. See also kekctl(1).\n",
		exit_text);
}

void
help_command(const struct ctl_command *c, FILE *out)
{
	bool any = false;

	fprintf(out, "Usage: kekctl %s%s%s\n%s.\n", c->words, *c->usage ? " " : "", c->usage,
		c->summary);
	if (c->details)
		fprintf(out, "\n%s\n", c->details);
	for (const struct ctl_option *o = ctl_options; o->name; o++)
		if (takes(c, o)) {
			if (!any)
				fputs("\nOptions:\n", out);
			any = true;
			print_option(o, out);
		}
	fprintf(out, "\nThe general options are in \"kekctl help\".\n%s", exit_text);
}
