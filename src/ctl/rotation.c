/* SPDX-License-Identifier: Apache-2.0 */
/* kekctl key …: new versions, in one step or two, by hand or by themselves; and freezing. */
#include "key.h"

#include <string.h>

json_t *
key_rotate_every(const struct ctl *ctl)
{
	const char *text = args_value(&ctl->args, "rotate-every");

	return strcmp(text, "never") == 0 ? json_null() : json_string(text);
}

/* ---- rotate ---- */

static const char *
numbers(const json_t *array)
{
	const char *text = "";
	const json_t *number;
	size_t i;

	json_array_foreach(array, i, number)
		text = show_format(
			"%s%sv%lld", text, i ? ", " : "", (long long)json_integer_value(number));
	return *text ? text : "none";
}

static void
add_primary(struct table *t, const json_t *plan)
{
	if (json_is_true(json_object_get(plan, "activates")))
		table_field(t, "Primary", "v%lld, it is %s now", number_of(plan, "version"),
			show_version(plan, "primary"));
	else
		table_field(t, "Primary", "%s, as now", show_version(plan, "primary"));
	table_field(t, "Unwrap on", "%s", numbers(json_object_get(plan, "unwraps")));
	if (json_is_true(json_object_get(plan, "activates")))
		table_field(t, "KMS key id", "a new one, activation %s; it is %s now",
			show_number(plan, "activation"), show_text(plan, "kms_key_id"));
	else
		table_field(t, "KMS key id", "%s, as now", show_text(plan, "kms_key_id"));
}

static int
show_plan(const struct ctl *ctl, const json_t *plan)
{
	_cleanup_(table_freep) struct table *t = NULL;
	const json_t *nonces = json_object_get(plan, "nonces");
	long long abandons = number_of(plan, "abandons");

	if (ctl->json) {
		show_json(plan);
		return CTL_OK;
	}
	t = table_new_block();
	table_field(t, "Would make", "v%lld of %s in token %s%s", number_of(plan, "version"),
		string_of(plan, "key"), show_text(plan, "token"),
		json_is_true(json_object_get(plan, "already_staged")) ? ", staged already" : "");
	if (!json_is_true(json_object_get(plan, "token_ready")))
		table_field(t, "", "THE TOKEN IS NOT READY: the rotation would fail now");
	table_field(t, "Proven by", "%s", show_list(json_object_get(plan, "proven_by"), ", "));
	if (abandons > 0)
		table_field(t, "Abandons", "v%lld, staged in another token", abandons);
	add_primary(t, plan);
	if (json_is_object(nonces))
		table_field(t, "IVs left", "%s of the primary now; 4294967296 of a new version",
			show_number(nonces, "left"));
	table_field(t, "Next by itself", "%s", show_time(plan, "next_rotation"));
	table_print(t);
	if (!ctl->quiet)
		puts("\nThis was a dry run: nothing has changed.");
	return CTL_OK;
}

static int
show_staged(const struct ctl *ctl, const char *name, const json_t *key)
{
	const json_t *version;
	long long staged = 0;
	size_t i;

	json_array_foreach(json_object_get(key, "versions"), i, version)
		if (strcmp(string_of(version, "state"), "staged") == 0)
			staged = number_of(version, "version");
	key_show_change(ctl, key,
		show_format("%s: v%lld is staged and proven in token %s; %s is still the primary "
			    "version. kekctl key activate %s",
			name, staged, show_text(key_version_of(key, staged), "token"),
			show_version(key, "primary"), name));
	return CTL_OK;
}

/* The key moved on between our reading and the rotation. */
static int
explain_lost_rotation(struct ctl *ctl, const char *name, const json_t *before, bool repeated)
{
	_cleanup_(json_freep) json_t *now = NULL;
	int status = ctl_get(ctl, key_path(name), &now);

	if (status != CTL_OK)
		return status;
	if (repeated)
		say_error("the answer to a first attempt was lost, and %s has changed since: %s is "
			  "the "
			  "primary now, it was %s; it may be this command that did it",
			name, show_version(now, "primary"), show_version(before, "primary"));
	else if (number_of(now, "primary") != number_of(before, "primary"))
		say_error("%s was rotated by somebody else at the same time: %s is the primary "
			  "now, it was %s; this command rotated nothing",
			name, show_version(now, "primary"), show_version(before, "primary"));
	else
		say_error("%s was changed by somebody else at the same time (revision %s, it was "
			  "%s); this command rotated nothing",
			name, show_number(now, "revision"), show_number(before, "revision"));
	say_hint("kekctl key show %s, and rotate again if it is still needed", name);
	return CTL_CONFLICT;
}

static int
finish_rotation(struct ctl *ctl, const char *name, const json_t *before, const struct kekd_reply *r)
{
	if (r->status == 412)
		return explain_lost_rotation(ctl, name, before, r->repeated);
	if (r->status < 200 || r->status > 299)
		return say_problem(r);
	if (args_has(&ctl->args, "dry-run"))
		return show_plan(ctl, r->json);
	if (args_has(&ctl->args, "stage-only"))
		return show_staged(ctl, name, r->json);
	key_show_change(ctl, r->json,
		show_format("%s: %s is the primary version now, it was %s", name,
			show_version(r->json, "primary"), show_version(before, "primary")));
	return CTL_OK;
}

static int
run_rotate(struct ctl *ctl)
{
	_cleanup_(json_freep) json_t *body = json_object();
	_cleanup_(json_freep) json_t *before = NULL;
	_cleanup_(kekd_reply_free) struct kekd_reply reply = { 0 };
	const char *name = ctl->args.words[0], *token = args_value(&ctl->args, "token");
	char etag[64];
	int status = ctl_check_name("key", name);

	if (status == CTL_OK)
		status = ctl_get_etag(ctl, key_path(name), etag, &before);
	if (status != CTL_OK)
		return status;
	if (token)
		json_object_set_new(body, "token", json_string(token));
	if (args_has(&ctl->args, "stage-only"))
		json_object_set_new(body, "stage_only", json_true());
	if (args_has(&ctl->args, "dry-run"))
		json_object_set_new(body, "dry_run", json_true());
	status = ctl_exchange(
		ctl, "POST", show_format("/v1/keys/%s/rotate", name), body, etag, NULL, &reply);
	return status == CTL_OK ? finish_rotation(ctl, name, before, &reply) : status;
}

static int
run_activate(struct ctl *ctl)
{
	_cleanup_(json_freep) json_t *body = json_object();
	_cleanup_(json_freep) json_t *before = NULL;
	_cleanup_(json_freep) json_t *key = NULL;
	const char *name = ctl->args.words[0];
	unsigned long number = 0;
	char etag[64];
	int status = ctl_check_name("key", name);

	if (status == CTL_OK && ctl->args.words_count > 1)
		status = key_version_number(ctl->args.words[1], &number);
	if (status == CTL_OK)
		status = ctl_get_etag(ctl, key_path(name), etag, &before);
	if (status != CTL_OK)
		return status;
	if (number > 0)
		json_object_set_new(body, "version", json_integer((json_int_t)number));
	status = ctl_request(
		ctl, "POST", show_format("/v1/keys/%s/activate", name), body, etag, NULL, &key);
	if (status != CTL_OK)
		return status;
	key_show_change(ctl, key,
		show_format("%s: %s is the primary version now, it was %s", name,
			show_version(key, "primary"), show_version(before, "primary")));
	return CTL_OK;
}

static int
run_abandon(struct ctl *ctl)
{
	return key_change_version(ctl, "abandon", "abandoned: its object stays in the token, and");
}

/* ---- settings ---- */

static int
patch(struct ctl *ctl, json_t *body, json_t **ret_key)
{
	const char *name = ctl->args.words[0];
	char etag[64];
	int status = ctl_check_name("key", name);

	if (status == CTL_OK)
		status = ctl_get_etag(ctl, key_path(name), etag, NULL);
	if (status == CTL_OK)
		status = ctl_request(ctl, "PATCH", key_path(name), body, etag, NULL, ret_key);
	return status;
}

static int
run_set(struct ctl *ctl)
{
	_cleanup_(json_freep) json_t *body = json_object();
	_cleanup_(json_freep) json_t *key = NULL;
	const char *stale = args_value(&ctl->args, "when-stale");
	int status;

	if (!args_has(&ctl->args, "rotate-every") && !stale) {
		say_error("there is nothing to set");
		say_hint("--rotate-every 90d, --rotate-every never, or --when-stale serve");
		return CTL_USAGE;
	}
	if (args_has(&ctl->args, "rotate-every"))
		json_object_set_new(body, "rotate_every", key_rotate_every(ctl));
	if (stale)
		json_object_set_new(body, "when_stale", json_string(stale));
	status = patch(ctl, body, &key);
	if (status != CTL_OK)
		return status;
	if (!args_has(&ctl->args, "rotate-every"))
		key_show_change(ctl, key,
			show_format("%s: a node whose metadata is stale: %s", ctl->args.words[0],
				show_text(key, "when_stale")));
	else if (json_is_string(json_object_get(key, "rotate_every")))
		key_show_change(ctl, key,
			show_format("%s: rotates every %s, next %s", ctl->args.words[0],
				show_text(key, "rotate_every"), show_time(key, "next_rotation")));
	else
		key_show_change(
			ctl, key, show_format("%s: does not rotate by itself", ctl->args.words[0]));
	return CTL_OK;
}

static int
set_frozen(struct ctl *ctl, bool frozen)
{
	_cleanup_(json_freep) json_t *body = json_object();
	_cleanup_(json_freep) json_t *key = NULL;
	int status;

	json_object_set_new(body, "frozen", json_boolean(frozen));
	status = patch(ctl, body, &key);
	if (status != CTL_OK)
		return status;
	key_show_change(ctl, key,
		show_format(frozen ? "%s: frozen, it unwraps and does not wrap" : "%s: wraps again",
			ctl->args.words[0]));
	if (frozen && !ctl->quiet)
		say_note(
			"A Kubernetes API server that uses this key cannot start again meanwhile.");
	return CTL_OK;
}

static int
run_freeze(struct ctl *ctl)
{
	return set_frozen(ctl, true);
}

static int
run_unfreeze(struct ctl *ctl)
{
	return set_frozen(ctl, false);
}

const struct ctl_command ctl_rotation_commands[] = {
	{ "key rotate", "NAME [--token TOKEN] [--stage-only | --dry-run]",
		"Makes a new version and wraps with it from now on",
		"Older versions still unwrap. If somebody else changes the key at the same time,\n"
		"nothing is done, exit status 5: a repeated command does not rotate twice.\n"
		"--stage-only makes and proves the version, and leaves the primary as it is.\n"
		"--dry-run says what would be done.",
		" token stage-only dry-run ", 1, 1, run_rotate },
	{ "key activate", "NAME [VERSION]", "Wraps with a version that was staged before",
		"Without VERSION: the newest staged one.", "", 1, 2, run_activate },
	{ "key abandon", "NAME VERSION", "Gives up a staged version, which never wrapped",
		"Its object stays in the token, and the version in the key's list.", "", 2, 2,
		run_abandon },
	{ "key set", "NAME [--rotate-every TIME] [--when-stale WORD]", "Has a key rotate by itself",
		"TIME is as 24h or 90d, and begins now; \"never\" ends it. A rotation may come 5 "
		"%\n"
		"and an hour earlier or later, and one that was missed is made up for once.\n"
		"--when-stale says what a node of a pair does while its metadata is too old: "
		"unwrap\n"
		"(the default), serve, refuse.",
		" rotate-every when-stale ", 1, 1, run_set },
	{ "key freeze", "NAME", "Lets a key unwrap, and no longer wrap",
		"Wrap, generate and rewrap answer \"frozen\", and the key does not rotate by "
		"itself.\n"
		"A Kubernetes API server wraps when it starts: it cannot start again meanwhile.",
		"", 1, 1, run_freeze },
	{ "key unfreeze", "NAME", "Lets a frozen key wrap again", NULL, "", 1, 1, run_unfreeze },
	{ NULL },
};
