/* SPDX-License-Identifier: Apache-2.0 */
/* kekctl key usage: who used which version, and what that says of destroying it, in words. */
#include "ctl.h"
#include "key.h"

#include "kekd/clock.h"

#include <string.h>

#define MINUTE 60ull
#define HOUR (60 * MINUTE)
#define DAY (24 * HOUR)

static const struct {
	const char *member, *last;
} kinds[] = {
	{ "wrapped", "last wrapped" },
	{ "unwrapped", "last unwrapped" },
	{ "refused", "last asked for" },
	{ "failed", "last tried in vain" },
};

static uint64_t
time_of(const json_t *object, const char *member)
{
	uint64_t us = 0;

	return clock_parse(string_of(object, member), &us) == 0 ? us : 0;
}

static const char *
ago(uint64_t us, uint64_t now_us)
{
	static const struct {
		uint64_t from, unit;
		const char *name;
	} steps[] = { { 2 * DAY, DAY, "days" }, { 2 * HOUR, HOUR, "hours" },
		{ 2 * MINUTE, MINUTE, "minutes" } };
	uint64_t s = now_us > us ? (now_us - us) / 1000000 : 0;

	for (size_t i = 0; i < STR_COUNT(steps); i++)
		if (s >= steps[i].from)
			return show_format("%llu %s ago", (unsigned long long)(s / steps[i].unit),
				steps[i].name);
	return s >= 2 ? show_format("%llu seconds ago", (unsigned long long)s) : "just now";
}

static const char *
client_name(const json_t *row)
{
	return json_is_string(json_object_get(row, "client")) ? string_of(row, "client")
							      : "(others)";
}

/* "last unwrapped 3 days ago by app", or "never used". */
static const char *
last_use(const json_t *version, uint64_t now_us)
{
	const json_t *row, *client = NULL;
	const char *what = NULL;
	uint64_t last_us = 0;
	size_t i;

	json_array_foreach(json_object_get(version, "clients"), i, row)
		for (size_t k = 0; k < STR_COUNT(kinds); k++) {
			uint64_t us = time_of(json_object_get(row, kinds[k].member), "last");
			if (us > last_us) {
				last_us = us;
				client = row;
				what = kinds[k].last;
			}
		}
	if (!client)
		return "never used";
	return show_format("%s %s by %s", what, ago(last_us, now_us), client_name(client));
}

static const char *
conclusion(const json_t *version)
{
	if (json_is_true(json_object_get(version, "in_use")))
		return "not safe to destroy";
	if (strcmp(string_of(version, "state"), "destroyed") == 0)
		return "destroyed";
	if (json_is_true(json_object_get(json_object_get(version, "inventory"), "clean")))
		return "no registered cluster has it in its etcd any more";
	return "whoever keeps an unwrapped key in memory does not show";
}

/* What registered clusters say of a version that is not the primary. A reason that names none of
 * them is nothing to tell who has no Kubernetes. */
static void
say_inventory(const json_t *version)
{
	const json_t *inventory = json_object_get(version, "inventory");
	const char *reason = string_of(inventory, "reason");
	const char *number = show_number(version, "version");

	if (json_is_true(json_object_get(inventory, "clean"))) {
		if (json_is_true(json_object_get(version, "in_use")))
			show_line(show_format("version %s: no registered cluster has it in its "
					      "etcd any more: once it is disabled, and nobody asks "
					      "for it, the verdict is \"inventory clean\"",
					  number),
				false);
	} else if (strncmp(reason, "cluster ", strlen("cluster ")) == 0) {
		show_line(show_format("version %s: no clean inventory: %s", number, reason), false);
	}
}

/* Which backups need it. */
static void
say_backups(const json_t *version)
{
	const json_t *backups = json_object_get(version, "backups"), *b;
	const char *number = show_number(version, "version");
	size_t i;

	json_array_foreach(backups, i, b)
		if (json_is_true(json_object_get(b, "needed")))
			show_line(show_format("version %s: backup %s of cluster %s needs it until "
					      "%s: %s live and %s superseded values",
					  number, string_of(b, "id"), string_of(b, "cluster"),
					  show_time(b, "needed_until"), show_number(b, "live"),
					  show_number(b, "superseded")),
				false);
	if (number_of(version, "backups_count") > (long long)json_array_size(backups))
		show_line(show_format("version %s: %s registered backups have it in all", number,
				  show_number(version, "backups_count")),
			false);
}

static void
say_verdict(const json_t *version, uint64_t now_us)
{
	bool in_use = json_is_true(json_object_get(version, "in_use"));
	bool primary = json_is_true(json_object_get(version, "primary"));

	show_line(show_format("version %s: %s, %s%s; %s", show_number(version, "version"),
			  string_of(version, "verdict"), primary ? "the primary, " : "",
			  last_use(version, now_us), conclusion(version)),
		in_use);
	if (!json_is_true(json_object_get(version, "complete")))
		show_line(
			show_format("version %s: the evidence is incomplete since %s: the version "
				    "cannot be destroyed",
				show_number(version, "version"),
				show_time(version, "incomplete_since")),
			true);
	say_backups(version);
	say_inventory(version);
}

static const char *
edge_time(const json_t *row, bool last)
{
	const char *found = NULL;

	for (size_t k = 0; k < STR_COUNT(kinds); k++) {
		const json_t *count = json_object_get(row, kinds[k].member);
		const char *text = string_of(count, last ? "last" : "first");
		if (*text && (!found || (strcmp(text, found) > 0) == last))
			found = text;
	}
	return found ? show_format("%.10s %.8sZ", found, found + 11) : "-";
}

static const char *
count_of(const json_t *row, const char *member)
{
	return show_number(json_object_get(row, member), "count");
}

static void
add_rows(struct table *t, const json_t *version)
{
	const char *number = show_version(version, "version"), *state = show_text(version, "state");
	const json_t *clients = json_object_get(version, "clients"), *row;
	size_t i;

	if (json_array_size(clients) == 0)
		table_row(t, (const char *const[]){
				     number, state, "-", "-", "0", "0", "0", "0", "-", "-" });
	json_array_foreach(clients, i, row)
		table_row(t, (const char *const[]){ number, state, client_name(row),
				     string_of(row, "node"), count_of(row, "wrapped"),
				     count_of(row, "unwrapped"), count_of(row, "refused"),
				     count_of(row, "failed"), edge_time(row, false),
				     edge_time(row, true) });
}

static bool
is_wanted(const json_t *version, unsigned long number)
{
	return number == 0 || (unsigned long long)number_of(version, "version") == number;
}

static void
show_members(const json_t *usage)
{
	const json_t *member;
	size_t i;

	json_array_foreach(json_object_get(usage, "members"), i, member)
		if (i > 0)
			printf("Node %s is counted as of %s.\n", string_of(member, "node"),
				show_time(member, "as_of"));
}

static void
show_usage(const json_t *usage, unsigned long number)
{
	_cleanup_(table_freep) struct table *t = table_new(
		(const char *const[]){ "VERSION", "STATE", "CLIENT", "NODE", ">WRAPPED",
			">UNWRAPPED", ">REFUSED", ">FAILED", "FIRST", "LAST", NULL });
	const json_t *versions = json_object_get(usage, "versions"), *version;
	uint64_t now_us = time_of(json_array_get(json_object_get(usage, "members"), 0), "as_of");
	size_t i;

	json_array_foreach(versions, i, version)
		if (is_wanted(version, number))
			add_rows(t, version);
	table_print(t);
	putchar('\n');
	show_members(usage);
	json_array_foreach(versions, i, version)
		if (is_wanted(version, number))
			say_verdict(version, now_us);
}

/* Takes the other versions out. */
static int
pick_version(json_t *usage, unsigned long number)
{
	json_t *versions = json_object_get(usage, "versions");

	for (size_t i = json_array_size(versions); i-- > 0;)
		if (!is_wanted(json_array_get(versions, i), number))
			json_array_remove(versions, i);
	if (json_array_size(versions) > 0)
		return CTL_OK;
	say_error("key %s has no version %lu", string_of(usage, "key"), number);
	say_hint("%s", hint_for("version_not_found"));
	return CTL_NOT_FOUND;
}

static int
run_usage(struct ctl *ctl)
{
	_cleanup_(json_freep) json_t *usage = NULL;
	const char *name = ctl->args.words[0];
	unsigned long number = 0;
	int status = ctl_check_name("key", name);

	if (status == CTL_OK && ctl->args.words_count > 1)
		status = key_version_number(ctl->args.words[1], &number);
	if (status == CTL_OK)
		status = ctl_get(ctl, show_format("/v1/keys/%s/usage", name), &usage);
	if (status == CTL_OK)
		status = pick_version(usage, number);
	if (status != CTL_OK)
		return status;
	if (ctl->json)
		show_json(usage);
	else
		show_usage(usage, number);
	return CTL_OK;
}

const struct ctl_command ctl_usage_commands[] = {
	{ "key usage", "NAME [VERSION]",
		"Shows who used which version, and whether it is still in use",
		"Counted from the audit log. \"No proof\": a client that keeps what it once "
		"unwrapped,\n"
		"as Kubernetes API servers do, does not show until it starts again.",
		"", 1, 2, run_usage },
	{ NULL },
};
