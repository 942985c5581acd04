/* SPDX-License-Identifier: Apache-2.0 */
/* kekctl apply, diff: what files say and what is there, brought together or compared. */
#include "apply.h"

/* All files are read and checked before anything is asked of the server, and everything is compared
 * before anything is changed. */
static int
prepare(struct ctl *ctl, struct apply_set *s)
{
	size_t paths = args_count(&ctl->args, "file");
	int status = CTL_OK;

	if (paths == 0) {
		say_error("nothing to read: -f FILE, -f DIR, or -f - for standard input");
		return CTL_USAGE;
	}
	for (size_t i = 0; status == CTL_OK && i < paths; i++)
		status = apply_read(ctl, args_nth(&ctl->args, "file", i), s);
	if (status == CTL_OK && s->findings == 0 && s->count == 0) {
		say_error("there is no resource in what was read");
		return CTL_USAGE;
	}
	if (status == CTL_OK && s->findings == 0)
		status = apply_plan(ctl, s);
	if (status != CTL_OK || s->findings == 0)
		return status;
	say_note("%u finding%s; nothing was changed", s->findings, s->findings == 1 ? "" : "s");
	say_hint("man 5 kekctl-apply has what files may say");
	return CTL_USAGE;
}

static int
run_apply(struct ctl *ctl)
{
	_cleanup_(apply_set_free) struct apply_set s = { 0 };
	int status = prepare(ctl, &s);

	if (status != CTL_OK)
		return status;
	if (args_has(&ctl->args, "dry-run")) {
		apply_show_plan(ctl, &s, false);
		return CTL_OK;
	}
	status = apply_do(ctl, &s);
	apply_show_results(ctl, &s);
	return status;
}

static bool
differs(const struct apply_set *s)
{
	for (size_t i = 0; i < s->count; i++)
		if (s->list[i].action != APPLY_NOTHING)
			return true;
	return false;
}

/* As diff(1): 1 is for a difference alone. */
static int
run_diff(struct ctl *ctl)
{
	_cleanup_(apply_set_free) struct apply_set s = { 0 };
	int status = prepare(ctl, &s);

	if (status != CTL_OK)
		return status == CTL_FAILED ? CTL_USAGE : status;
	apply_show_plan(ctl, &s, true);
	return differs(&s) ? CTL_FAILED : CTL_OK;
}

const struct ctl_command ctl_apply_commands[] = {
	{ "apply", "-f FILE|DIR [-f FILE|DIR]... [--dry-run]",
		"Makes keys, clients and policy as files say",
		"The files are YAML as \"kekctl export\" writes them; of a directory, its *.yaml\n"
		"and *.yml in the order of their names; - is standard input. All of them are\n"
		"checked before the first change. What no file names stays as it is: nothing is\n"
		"ever deleted or destroyed. A change that another administrator has to approve\n"
		"waits for him (exit status 8). --dry-run shows what would be changed. See\n"
		"kekctl-apply(5).",
		" file dry-run ", 0, 0, run_apply },
	{ "diff", "-f FILE|DIR [-f FILE|DIR]...", "Shows where keys, clients and policy differ",
		"Exit status: 0 all is as the files say, 1 something differs, 2 and above as with\n"
		"other commands when that could not be found out.",
		" file ", 0, 0, run_diff },
	{ "export", "[--keys] [--clients] [--policy]",
		"Writes keys, clients and policy for \"kekctl apply\"",
		"Without an option all that this client may read. Given to apply, it changes\n"
		"nothing; at an empty server, it makes the same keys (with new versions) and\n"
		"clients again.",
		" keys clients policy out force ", 0, 0, export_run },
	{ NULL },
};
