/* SPDX-License-Identifier: Apache-2.0 */
/* kekctl cluster …: the nodes, which of them makes the changes, and who belongs to the cluster. */
#include "ctl.h"

#include "kekd/clock.h"

#include <string.h>

#define PATH "/v1/cluster"
#define FAILING_SHOWN 10

/* ---- the table ---- */

static bool
is_true(const json_t *object, const char *member)
{
	return json_is_true(json_object_get(object, member));
}

static bool
is_active(const json_t *m)
{
	const char *role = string_of(m, "role");

	return strcmp(role, "active") == 0 || strcmp(role, "single") == 0;
}

static long long
newest(const json_t *members)
{
	long long revision = 0;
	const json_t *m;
	size_t i;

	json_array_foreach((json_t *)members, i, m)
		if (number_of(m, "revision") > revision)
			revision = number_of(m, "revision");
	return revision;
}

static const char *
lag(const json_t *m, long long revision)
{
	/* The others' figures are some seconds old, and this one is what they lag behind. */
	if (!is_true(m, "present") || is_active(m))
		return "-";
	return show_format("%lld", revision - number_of(m, "revision"));
}

static const char *
seen(const json_t *m)
{
	uint64_t time = 0, now = clock_real_us();

	if (!is_true(m, "present") || clock_parse(string_of(m, "time"), &time) < 0)
		return "-";
	return show_duration(now > time ? (json_int_t)((now - time) / 1000000) : 0);
}

static const char *
role(const json_t *m)
{
	return is_true(m, "present") ? show_text(m, "role") : "ABSENT";
}

static const char *
ready(const json_t *m)
{
	return !is_true(m, "present") ? "-" : is_true(m, "ready") ? "ready" : "not ready";
}

static const char *
proven(const json_t *m)
{
	const json_t *p = json_object_get(m, "proofs");

	if (!json_is_object(p) || number_of(p, "revision") == 0)
		return "-";
	return show_format("%lld/%lld", number_of(p, "proven"), number_of(p, "total"));
}

/* The serial numbers; where they have to be told apart, with the copies' names. */
static const char *
serials(const json_t *m)
{
	json_t *list = json_array();
	const json_t *t;
	const char *text;
	size_t i;

	json_array_foreach(json_object_get(m, "tokens"), i, t)
		json_array_append_new(
			list, json_string(*string_of(t, "copy")
						  ? show_format("%s (%s)", string_of(t, "serial"),
							    string_of(t, "copy"))
						  : string_of(t, "serial")));
	text = json_array_size(list) > 0 ? show_list(list, ", ") : "-";
	json_decref(list);
	return text;
}

static void
show_members(const json_t *members)
{
	_cleanup_(table_freep) struct table *t = table_new(
		(const char *const[]){ "NODE", "ROLE", "READY", ">PROVEN", "TOKENS", "RELEASE",
			">LEVEL", ">REVISION", ">LAG", "SEEN", "URL", NULL });
	long long revision = newest(members);
	const json_t *m;
	size_t i;

	json_array_foreach((json_t *)members, i, m)
		table_row(t, (const char *const[]){ string_of(m, "node"), role(m), ready(m),
				     proven(m), serials(m), show_text(m, "release"),
				     show_number(m, "level"), show_number(m, "revision"),
				     lag(m, revision), seen(m), show_text(m, "url") });
	table_print(t);
}

static const char *
active(const json_t *members)
{
	const json_t *m;
	size_t i;

	json_array_foreach((json_t *)members, i, m)
		if (is_active(m))
			return string_of(m, "node");
	return "NONE: no node makes changes now";
}

static void
show_head(const json_t *c)
{
	_cleanup_(table_freep) struct table *t = table_new_block();
	const json_t *members = json_object_get(c, "members");
	const json_t *forgotten = json_object_get(c, "forgotten");
	const json_t *copies = json_object_get(c, "copies");

	table_field(t, "Cluster", "%s, level %s", show_text(c, "name"), show_number(c, "level"));
	table_field(t, "Active", "%s", active(members));
	table_field(t, "Revision", "%lld", newest(members));
	if (json_is_integer(json_object_get(copies, "least")))
		table_field(t, "Copies", "every version is proven in at least %s token%s",
			show_number(copies, "least"), number_of(copies, "least") == 1 ? "" : "s");
	if (json_array_size(forgotten) > 0)
		table_field(t, "Forgotten", "%s", show_list(forgotten, ", "));
	table_print(t);
}

static void
show_failing(const json_t *m)
{
	const json_t *failing = json_object_get(json_object_get(m, "proofs"), "failing"), *f;
	size_t i;

	json_array_foreach((json_t *)failing, i, f) {
		if (i == FAILING_SHOWN) {
			say_note("and %zu more; -o json has them", json_array_size(failing) - i);
			return;
		}
		say_note("%s has not proven %s version %s: %s", string_of(m, "node"),
			string_of(f, "key"), show_number(f, "version"), string_of(f, "code"));
	}
}

static void
show_reasons(const json_t *members)
{
	const json_t *m;
	size_t i;

	json_array_foreach((json_t *)members, i, m)
		if (*string_of(m, "reason"))
			say_note("%s is not ready to make changes: %s", string_of(m, "node"),
				string_of(m, "reason"));
	json_array_foreach((json_t *)members, i, m)
		show_failing(m);
}

static int
run_status(struct ctl *ctl)
{
	_cleanup_(json_freep) json_t *c = NULL;
	int status = ctl_get(ctl, PATH, &c);
	const json_t *members = json_object_get(c, "members"), *m;
	size_t i;

	if (status != CTL_OK)
		return status;
	if (ctl->json) {
		show_json(c);
	} else if (ctl->quiet) {
		json_array_foreach((json_t *)members, i, m)
			show_line(string_of(m, "node"), false);
	} else {
		show_head(c);
		putchar('\n');
		show_members(members);
		show_reasons(members);
	}
	return CTL_OK;
}

/* ---- who makes the changes ---- */

static int
post(struct ctl *ctl, const char *path, json_t *body, json_t **ret_reply)
{
	int status;

	if (args_has(&ctl->args, "force"))
		json_object_set_new(body, "force", json_true());
	status = ctl_request(ctl, "POST", path, body, NULL, NULL, ret_reply);
	if (status == CTL_OK && ctl->json)
		show_json(*ret_reply);
	return status;
}

static int
run_step_down(struct ctl *ctl)
{
	_cleanup_(json_freep) json_t *body = json_object();
	_cleanup_(json_freep) json_t *reply = NULL;
	const char *pause = args_value(&ctl->args, "pause");
	int status;

	if (pause)
		json_object_set_new(body, "pause", json_string(pause));
	status = post(ctl, PATH "/step-down", body, &reply);
	if (status == CTL_OK && !ctl->json && !ctl->quiet)
		printf("%s stepped down, and does not come back for %s.\n",
			show_text(reply, "node"), show_duration(number_of(reply, "pause_s")));
	return status;
}

static int
run_promote(struct ctl *ctl)
{
	_cleanup_(json_freep) json_t *body = json_object();
	_cleanup_(json_freep) json_t *reply = NULL;
	int status = post(ctl, PATH "/promote", body, &reply);

	if (status == CTL_OK && !ctl->json && !ctl->quiet)
		printf("%s makes the changes now%s.\n", show_text(reply, "node"),
			is_true(reply, "forced") ? ", although it is not ready" : "");
	return status;
}

/* ---- who belongs to it ---- */

static int
run_members(struct ctl *ctl)
{
	_cleanup_(json_freep) json_t *c = NULL;
	int status = ctl_get(ctl, PATH, &c);
	const json_t *m;
	size_t i;

	if (status != CTL_OK)
		return status;
	if (ctl->json) {
		show_json(json_object_get(c, "members"));
		return CTL_OK;
	}
	json_array_foreach(json_object_get(c, "members"), i, m)
		show_line(string_of(m, "node"), false);
	return CTL_OK;
}

static json_t *
names_with(const json_t *members, const char *node)
{
	json_t *names = json_array();
	const json_t *m;
	size_t i;

	json_array_foreach((json_t *)members, i, m)
		json_array_append_new(names, json_string(string_of(m, "node")));
	json_array_append_new(names, json_string(node));
	return names;
}

static bool
is_member(const json_t *members, const char *node)
{
	const json_t *m;
	size_t i;

	json_array_foreach((json_t *)members, i, m)
		if (strcmp(string_of(m, "node"), node) == 0)
			return true;
	return false;
}

static int
run_add(struct ctl *ctl)
{
	_cleanup_(json_freep) json_t *c = NULL;
	_cleanup_(json_freep) json_t *body = json_object();
	_cleanup_(json_freep) json_t *reply = NULL;
	const char *node = ctl->args.words[0];
	char etag[64];
	int status = ctl_check_name("member", node);

	if (status == CTL_OK)
		status = ctl_get_etag(ctl, PATH, etag, &c);
	if (status != CTL_OK)
		return status;
	if (is_member(json_object_get(c, "members"), node)) {
		say_note("%s is a member already", node);
		return CTL_OK;
	}
	json_object_set_new(body, "members", names_with(json_object_get(c, "members"), node));
	status = ctl_request(ctl, "PATCH", PATH, body, etag, NULL, &reply);
	if (status != CTL_OK)
		return status;
	if (ctl->json)
		show_json(reply);
	else if (!ctl->quiet)
		printf("%s is a member: rotations wait until it has proven the new version.\n",
			node);
	return CTL_OK;
}

static int
run_forget(struct ctl *ctl)
{
	_cleanup_(json_freep) json_t *body = json_object();
	_cleanup_(json_freep) json_t *reply = NULL;
	const char *node = ctl->args.words[0];
	char etag[64];
	int status = ctl_check_name("member", node);

	if (status == CTL_OK)
		status = ctl_get_etag(ctl, PATH, etag, NULL);
	if (status == CTL_OK)
		status = ctl_ask(
			ctl, show_format("%s will be no member any more, for ever", node), node);
	if (status != CTL_OK)
		return status;
	json_object_set_new(body, "node", json_string(node));
	status = ctl_request(ctl, "POST", PATH "/forget", body, etag, NULL, &reply);
	if (status != CTL_OK)
		return status;
	if (ctl->json)
		show_json(reply);
	else if (!ctl->quiet)
		printf("%s is forgotten: nothing waits for it any more, and its name does not come "
		       "back.\n",
			node);
	return CTL_OK;
}

static int
run_level(struct ctl *ctl)
{
	_cleanup_(json_freep) json_t *body = json_object();
	_cleanup_(json_freep) json_t *reply = NULL;
	const char *text = ctl->args.words[0];
	char etag[64];
	int status;

	if (strspn(text, "0123456789") != strlen(text) || strlen(text) > 6 || !*text) {
		say_error("\"%s\" is no level: a number", text);
		return CTL_USAGE;
	}
	json_object_set_new(body, "level", json_integer(strtol(text, NULL, 10)));
	status = ctl_get_etag(ctl, PATH, etag, NULL);
	if (status == CTL_OK)
		status = ctl_request(ctl, "POST", PATH "/level", body, etag, NULL, &reply);
	if (status != CTL_OK)
		return status;
	if (ctl->json)
		show_json(reply);
	else if (!ctl->quiet)
		printf("The cluster is at level %s.\n", show_number(reply, "level"));
	return CTL_OK;
}

const struct ctl_command ctl_member_commands[] = {
	{ "cluster status", "", "Shows the nodes: role, readiness, release, how far each is", NULL,
		"", 0, 0, run_status },
	{ "cluster step-down", "[--pause TIME] [--force]",
		"Has the active node hand over to another",
		"It does not come back for the pause (30s). Without --force another member must "
		"be\n"
		"ready.",
		" pause force ", 0, 0, run_step_down },
	{ "cluster promote", "[--force]", "Has the node that is asked make the changes",
		"Name it with --endpoint. One that is not ready, such as one whose token lacks a\n"
		"version, is promoted with --force alone, and the audit log tells of that.",
		" force ", 0, 0, run_promote },
	{ "cluster members add", "NODE", "Makes a node a member",
		"Rotations wait for every member, also for one that is not there: start it soon.",
		"", 1, 1, run_add },
	{ "cluster members", "", "Lists the members", NULL, "", 0, 0, run_members },
	{ "cluster forget", "NODE [--yes]", "Ends a node's membership, for ever",
		"For a node that does not come back: rotations and ends of versions do not wait "
		"for\n"
		"it any more. If it runs, it stops. Its name is never taken again.",
		" yes ", 1, 1, run_forget },
	{ "cluster level", "N", "Lets records hold what only newer releases read",
		"After an update, when every member runs the new release. There is no way back to\n"
		"the release before.",
		"", 1, 1, run_level },
	{ NULL },
};
