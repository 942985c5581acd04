/* SPDX-License-Identifier: Apache-2.0 */
/* kekctl approvals, approve, reject, key destroy, key cancel: what takes more than one
 * administrator. Whoever asks or approves sees what it is about first, and says yes. */
#include "ctl.h"

#include <string.h>
#include <unistd.h>

/* ---- asking a person ---- */

int
ctl_ask(const struct ctl *ctl, const char *what, const char *word)
{
	char line[256] = "";

	if (args_has(&ctl->args, "yes"))
		return CTL_OK;
	if (!isatty(STDIN_FILENO)) {
		say_error("%s: nobody can be asked here", what);
		say_hint("--yes, after a look at what is shown");
		return CTL_USAGE;
	}
	fprintf(stderr, "%s. Type %s to go on: ", what, word);
	if (!fgets(line, sizeof(line), stdin))
		line[0] = '\0';
	line[strcspn(line, "\n")] = '\0';
	if (strcmp(line, word) == 0)
		return CTL_OK;
	say_note("nothing was done");
	return CTL_FAILED;
}

/* ---- showing ---- */

static const char *
waits_for(const json_t *a)
{
	long long have = (long long)json_array_size(json_object_get(a, "approved_by")) + 1;

	return show_format("%lld of %s", have, show_number(a, "needed"));
}

bool
ctl_show_pending(const struct ctl *ctl, const json_t *reply)
{
	if (!json_object_get(reply, "approved_by") || !json_object_get(reply, "target"))
		return false;
	if (ctl->json)
		show_json(reply);
	else if (ctl->quiet)
		puts(string_of(reply, "id"));
	else
		printf("%s of %s waits for approval, %s administrators so far, until %s:\n"
		       "another administrator runs \"kekctl approve %s\"\n",
			string_of(reply, "kind"), string_of(reply, "target"), waits_for(reply),
			show_time(reply, "expires"), string_of(reply, "id"));
	return true;
}

static void
show_members(struct table *t, const char *prefix, const json_t *o)
{
	const char *name;
	json_t *value;

	json_object_foreach((json_t *)o, name, value) {
		const char *path = show_format("%s%s", prefix, name);
		char *text;
		if (json_is_object(value)) {
			show_members(t, show_format("%s.", path), value);
			continue;
		}
		text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
		if (json_is_string(value))
			table_field(t, path, "%s", json_string_value(value));
		else if (!json_is_null(value) && text)
			table_field(t, path, "%s", text);
		free(text);
	}
}

static void
show_approval(const json_t *a)
{
	_cleanup_(table_freep) struct table *t = table_new_block();
	const json_t *by;
	size_t i;

	table_field(t, "Request", "%s", show_text(a, "id"));
	table_field(t, "What", "%s of %s, at revision %s", show_text(a, "kind"),
		show_text(a, "target"), show_number(a, "revision"));
	table_field(t, "State", "%s, %s administrators", show_text(a, "state"), waits_for(a));
	if (*string_of(a, "reason"))
		table_field(t, "Because", "%s", string_of(a, "reason"));
	table_field(t, "Requested", "%s by %s", show_time(a, "requested"),
		show_text(a, "requested_by"));
	json_array_foreach(json_object_get(a, "approved_by"), i, by)
		table_field(
			t, "Approved", "%s by %s", show_time(by, "time"), show_text(by, "client"));
	table_field(t, "Expires", "%s", show_time(a, "expires"));
	table_field(t, "Evidence", "%s", show_text(a, "evidence"));
	show_members(t, "  ", json_object_get(a, "change"));
	table_print(t);
}

static void
add_row(struct table *t, const json_t *a)
{
	table_row(t, (const char *const[]){ show_text(a, "id"), show_text(a, "kind"),
			     show_text(a, "target"), show_text(a, "state"), waits_for(a),
			     show_text(a, "requested_by"), show_time(a, "expires") });
}

static int
run_approvals(struct ctl *ctl)
{
	_cleanup_(json_freep) json_t *list = NULL;
	_cleanup_(table_freep) struct table *t = table_new((const char *const[]){
		"ID", "WHAT", "OF", "STATE", "APPROVED", "REQUESTED BY", "EXPIRES", NULL });
	const json_t *a;
	size_t i;
	bool all = args_has(&ctl->args, "all");
	int status = ctl_get(ctl, "/v1/approvals", &list);

	if (status != CTL_OK)
		return status;
	if (ctl->json) {
		show_json(list);
		return CTL_OK;
	}
	json_array_foreach(json_object_get(list, "approvals"), i, a) {
		if (!all && strcmp(string_of(a, "state"), "pending") != 0)
			continue;
		if (ctl->quiet)
			puts(string_of(a, "id"));
		else
			add_row(t, a);
	}
	if (table_rows(t) > 0)
		table_print(t);
	else if (!ctl->quiet)
		puts(all ? "Nothing was asked for." : "Nothing waits for approval.");
	return CTL_OK;
}

/* ---- approving ---- */

static int
check_id(const char *id)
{
	if (strlen(id) == 36 && strspn(id, "0123456789abcdef-") == 36)
		return CTL_OK;
	say_error("\"%s\" is no request's id", id);
	say_hint("%s", hint_for("approval_not_found"));
	return CTL_USAGE;
}

static int
run_approve(struct ctl *ctl)
{
	_cleanup_(json_freep) json_t *a = NULL;
	_cleanup_(json_freep) json_t *body = NULL;
	_cleanup_(json_freep) json_t *reply = NULL;
	const char *id = ctl->args.words[0];
	int status = check_id(id);

	if (status == CTL_OK)
		status = ctl_get(ctl, show_format("/v1/approvals/%s", id), &a);
	if (status != CTL_OK)
		return status;
	if (!ctl->json && !ctl->quiet)
		show_approval(a);
	status = ctl_ask(ctl, show_format("%s of %s", string_of(a, "kind"), string_of(a, "target")),
		"approve");
	if (status != CTL_OK)
		return status;
	body = json_pack("{s:O}", "evidence", json_object_get(a, "evidence"));
	status = ctl_request(
		ctl, "POST", show_format("/v1/approvals/%s/approve", id), body, NULL, NULL, &reply);
	if (status == CTL_OK && ctl->json)
		show_json(reply);
	else if (status == CTL_OK && !ctl->quiet)
		printf("%s of %s: approved, %s administrators%s\n", string_of(reply, "kind"),
			string_of(reply, "target"), waits_for(reply),
			strcmp(string_of(reply, "state"), "done") == 0 ? ": it is done" : "");
	return status;
}

static int
run_reject(struct ctl *ctl)
{
	_cleanup_(json_freep) json_t *body = json_object();
	_cleanup_(json_freep) json_t *reply = NULL;
	const char *id = ctl->args.words[0];
	int status = check_id(id);

	if (status == CTL_OK)
		status = ctl_request(ctl, "POST", show_format("/v1/approvals/%s/reject", id), body,
			NULL, NULL, &reply);
	if (status == CTL_OK && ctl->json)
		show_json(reply);
	else if (status == CTL_OK && !ctl->quiet)
		printf("%s of %s: rejected\n", string_of(reply, "kind"),
			string_of(reply, "target"));
	return status;
}

/* ---- the end of a version ---- */

static int
read_version(const char *text, long long *ret_number)
{
	const char *digits = text + (text[0] == 'v');
	char *end;

	*ret_number = strtoll(digits, &end, 10);
	if (*digits >= '1' && *digits <= '9' && !*end)
		return CTL_OK;
	say_error("\"%s\" is not a version's number", text);
	say_hint("%s", hint_for("version_not_found"));
	return CTL_USAGE;
}

static const json_t *
find_version(const json_t *o, long long number)
{
	const json_t *v;
	size_t i;

	json_array_foreach(json_object_get(o, "versions"), i, v)
		if (number_of(v, "version") == number)
			return v;
	return NULL;
}

static void
show_usage(const char *name, const json_t *v)
{
	_cleanup_(table_freep) struct table *t = table_new_block();
	const json_t *totals = json_object_get(v, "totals");

	table_field(t, "Version", "%s %s, %s%s", name, show_version(v, "version"),
		show_text(v, "state"),
		json_is_true(json_object_get(v, "primary")) ? ", the primary" : "");
	table_field(t, "Verdict", "%s", show_text(v, "verdict"));
	if (*string_of(v, "needed_by"))
		table_field(t, "Needed", "by backup %s until %s", string_of(v, "needed_by"),
			show_time(v, "needed_until"));
	table_field(t, "Wrapped", "%s times", show_number(totals, "wrapped"));
	table_field(t, "Unwrapped", "%s times, last %s", show_number(totals, "unwrapped"),
		show_time(totals, "last_unwrapped"));
	table_field(t, "Refused", "%s times, last %s", show_number(totals, "refused"),
		show_time(totals, "last_refused"));
	if (!json_is_true(json_object_get(v, "complete")))
		table_field(t, "Incomplete", "records are missing since %s",
			show_time(v, "incomplete_since"));
	table_field(t, "Evidence", "%s", show_text(v, "evidence"));
	table_print(t);
}

static int
tell_schedule(const struct ctl *ctl, const char *name, long long number, const json_t *key)
{
	const json_t *destroy = json_object_get(find_version(key, number), "destroy");

	if (ctl_show_pending(ctl, key))
		return CTL_PENDING;
	if (ctl->json)
		show_json(key);
	else if (!ctl->quiet)
		printf("%s: v%lld is destroyed after %s without use, not before %s\n"
		       "\"kekctl key cancel %s %lld\" spares it until then\n",
			name, number, show_text(destroy, "wait"), show_time(destroy, "not_before"),
			name, number);
	return CTL_OK;
}

static int
run_destroy(struct ctl *ctl)
{
	_cleanup_(json_freep) json_t *usage = NULL;
	_cleanup_(json_freep) json_t *body = NULL;
	_cleanup_(json_freep) json_t *reply = NULL;
	const char *name = ctl->args.words[0];
	const json_t *version = NULL;
	long long number = 0;
	int status = ctl_check_name("key", name);

	if (status == CTL_OK)
		status = read_version(ctl->args.words[1], &number);
	if (status == CTL_OK)
		status = ctl_get(ctl, show_format("/v1/keys/%s/usage", name), &usage);
	if (status != CTL_OK)
		return status;
	version = find_version(usage, number);
	if (!version) {
		say_error("key %s has no version %lld", name, number);
		return CTL_NOT_FOUND;
	}
	if (!ctl->json && !ctl->quiet)
		show_usage(name, version);
	status = ctl_ask(ctl,
		show_format("What %s v%lld wrapped can never be unwrapped again", name, number),
		show_format("%s/%lld", name, number));
	if (status != CTL_OK)
		return status;
	body = json_pack("{s:O}", "evidence", json_object_get(version, "evidence"));
	status = ctl_request(ctl, "POST",
		show_format("/v1/keys/%s/versions/%lld/destroy", name, number), body,
		show_format("\"%lld\"", number_of(usage, "revision")), NULL, &reply);
	return status == CTL_OK ? tell_schedule(ctl, name, number, reply) : status;
}

static int
run_cancel(struct ctl *ctl)
{
	_cleanup_(json_freep) json_t *body = json_object();
	_cleanup_(json_freep) json_t *reply = NULL;
	const char *name = ctl->args.words[0];
	long long number = 0;
	char etag[64];
	int status = ctl_check_name("key", name);

	if (status == CTL_OK)
		status = read_version(ctl->args.words[1], &number);
	if (status == CTL_OK)
		status = ctl_get_etag(ctl, show_format("/v1/keys/%s", name), etag, NULL);
	if (status == CTL_OK)
		status = ctl_request(ctl, "POST",
			show_format("/v1/keys/%s/versions/%lld/cancel", name, number), body, etag,
			NULL, &reply);
	if (status == CTL_OK && ctl->json)
		show_json(reply);
	else if (status == CTL_OK && !ctl->quiet)
		printf("%s: v%lld is spared, and disabled as before\n", name, number);
	return status;
}

const struct ctl_command ctl_approval_commands[] = {
	{ "key destroy", "NAME VERSION [--yes]", "Has a version destroyed, after a waiting period",
		"Shows who used it, and asks. The version must be disabled, and not the primary.\n"
		"Where the policy says so, another administrator has to approve it. A use that is\n"
		"refused while it waits begins the wait anew. Then the token destroys the key:\n"
		"what it wrapped can never be unwrapped again.",
		" yes ", 2, 2, run_destroy },
	{ "key cancel", "NAME VERSION", "Spares a version that waits to be destroyed", NULL, "", 2,
		2, run_cancel },
	{ "approvals", "[--all]", "Lists what waits for approval",
		"--all: what was approved, rejected, is stale or has expired as well.", " all ", 0,
		0, run_approvals },
	{ "approve", "ID [--yes]", "Approves what another administrator asks for",
		"Shows what it is about, and asks. With the last approval it is done.", " yes ", 1,
		1, run_approve },
	{ "reject", "ID", "Rejects what was asked for", NULL, "", 1, 1, run_reject },
	{ NULL },
};
