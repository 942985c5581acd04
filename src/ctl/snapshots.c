/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kekctl snapshot …: which backups of etcd there are, what they need of kekd's keys, and until
 * when. What a backup needs is not destroyed before that.
 */
#include "ctl.h"
#include "snapshot.h"
#include "snapshot_record.h"

#include "kekd/clock.h"

#include <string.h>

#define REPORT_MAX ((size_t)16 * 1024 * 1024)

static const char *
snapshot_path(const char *id)
{
	return show_format("/v1/snapshots/%s", id);
}

static bool
is_true(const json_t *o, const char *member)
{
	return json_is_true(json_object_get(o, member));
}

/* ---- registering ---- */

/* RFC 3339 in UTC, or a day. */
static int
read_time(const char *text, uint64_t *ret_us)
{
	const char *day = show_format("%.10sT00:00:00Z", text);

	if (clock_parse(text, ret_us) == 0 || (strlen(text) == 10 && clock_parse(day, ret_us) == 0))
		return CTL_OK;
	say_error("\"%s\" is no time", text);
	say_hint("--needed-until 2026-12-31, or 2026-12-31T12:00:00Z; or --keep 90d");
	return CTL_USAGE;
}

/* --keep counts from when the snapshot was taken, as its age in the place where it is kept does. */
static int
add_until(const struct ctl_args *a, json_t *body)
{
	const char *until = args_value(a, "needed-until"), *keep = args_value(a, "keep");
	uint64_t us = 0, keep_s = 0;
	char text[CLOCK_TEXT_SIZE];
	int status = CTL_OK;

	if (!until == !keep) {
		say_error("until when is the backup kept? --needed-until TIME or --keep 90d");
		return CTL_USAGE;
	}
	if (until)
		status = read_time(until, &us);
	else if (clock_parse_duration(keep, &keep_s) < 0) {
		say_error("\"%s\" is no duration such as 90d or 12h", keep);
		status = CTL_USAGE;
	} else {
		(void)clock_parse(string_of(body, "taken"), &us); /* the report's, which is read */
	}
	if (status != CTL_OK)
		return status;
	clock_format(us + keep_s * 1000000, text);
	json_object_set_new(body, "needed_until", json_string(text));
	return CTL_OK;
}

/* They are for what reads the snapshot: the report has it. */
static int
check_report_options(const struct ctl_args *a)
{
	if (!args_has(a, "taken") && !args_has(a, "prefix"))
		return CTL_OK;
	say_error("--taken and --prefix are for a snapshot, and this is a report of one");
	say_hint("give them to the \"kekctl etcd-snapshot\" that makes the report");
	return CTL_USAGE;
}

/* A report begins with a brace; a database with the number of its first page. */
static bool
is_database(const char *path)
{
	FILE *f = strcmp(path, "-") == 0 ? NULL : fopen(path, "re");
	int first = f ? fgetc(f) : '{';

	if (f)
		fclose(f);
	return first == 0;
}

static int
read_report(struct ctl *ctl, const char *path, json_t **ret_report)
{
	_cleanup_(buf_free) struct buf text = BUF_INIT(REPORT_MAX + 1);
	char error[JSON_ERROR_SIZE] = "";
	int status;

	if (is_database(path))
		return snapshot_report(ctl, path, ret_report);
	status = check_report_options(&ctl->args);
	if (status == CTL_OK)
		status = input_read(
			ctl, path, false, REPORT_MAX, "is too long for a report", &text);
	if (status != CTL_OK)
		return status;
	*ret_report = json_parse((const char *)text.data, text.len, error);
	if (*ret_report)
		return CTL_OK;
	say_error("%s: no report of an etcd snapshot: %s", path, error);
	say_hint("kekctl etcd-snapshot FILE -o json | kekctl snapshot register - --keep 90d");
	return CTL_USAGE;
}

/* A file holds no more than it did: a later time is a copy's. */
static void
keep_taken(json_t *body, const json_t *now)
{
	if (strcmp(string_of(body, "taken"), string_of(now, "taken")) <= 0)
		return;
	say_note("the same file was registered as taken at %s: that stays, and is put right by "
		 "forgetting it first",
		show_time(now, "taken"));
	json_object_set(body, "taken", json_object_get(now, "taken"));
}

/* The same file again, as when a job is repeated: until when it is kept may have changed. */
static int
register_again(struct ctl *ctl, const char *id, json_t *body, json_t **ret_snapshot)
{
	_cleanup_(json_freep) json_t *now = NULL;
	char etag[64];
	int status = ctl_get_etag(ctl, snapshot_path(id), etag, &now);

	if (status != CTL_OK)
		return status;
	if (strcmp(string_of(now, "sha256"), string_of(body, "sha256")) != 0) {
		say_error("another snapshot is registered as %s", id);
		say_hint("--id NAME gives this one another id");
		return CTL_CONFLICT;
	}
	keep_taken(body, now);
	return ctl_request(ctl, "PUT", snapshot_path(id), body, etag, NULL, ret_snapshot);
}

static int
check_put(const struct kekd_reply *reply)
{
	int status = ctl_check_reply(reply);

	if (strcmp(reply->code, "key_not_found") == 0 ||
		strcmp(reply->code, "version_not_found") == 0)
		say_hint("--force leaves out what this kekd does not have, and registers the "
			 "snapshot as not complete; that takes key.read");
	return status;
}

static int
put_snapshot(struct ctl *ctl, const char *id, json_t *body, json_t **ret_snapshot)
{
	_cleanup_(kekd_reply_free) struct kekd_reply reply = { 0 };
	int status = ctl_exchange(ctl, "PUT", snapshot_path(id), body, NULL, "*", &reply);

	if (status == CTL_OK && reply.status == 412)
		return register_again(ctl, id, body, ret_snapshot);
	if (status == CTL_OK)
		status = check_put(&reply);
	if (status == CTL_OK)
		*ret_snapshot = json_incref(reply.json);
	return status;
}

static const char *
version_text(const json_t *v)
{
	const char *state = string_of(v, "state");

	return show_format("%s %s%s%s", string_of(v, "key"), show_version(v, "version"),
		strcmp(state, "destroyed") == 0 ? ", destroyed" : "",
		strcmp(state, "destroying") == 0 ? ", being destroyed" : "");
}

/* Whoever relies on the backup is to hear now that it cannot be restored. */
static void
warn_of(const json_t *snapshot)
{
	const json_t *v;
	size_t i;

	json_array_foreach(json_object_get(snapshot, "versions"), i, v)
		if (strncmp(string_of(v, "state"), "destroy", strlen("destroy")) == 0)
			say_note("%s: what is wrapped under it cannot be read after a restore",
				version_text(v));
	if (!is_true(snapshot, "needed"))
		say_note("its time is over by the server's clock: nothing is kept for it");
	if (!is_true(snapshot, "complete"))
		say_note("the snapshot is not complete: it needs versions that kekd does not know "
			 "of, perhaps, or has no hash; no version is said to be clean by it");
}

static void
say_registered(const struct ctl *ctl, const json_t *snapshot)
{
	if (ctl->json)
		show_json(snapshot);
	else if (!ctl->quiet)
		printf("%s: registered: %s kept for it until %s\n", string_of(snapshot, "id"),
			number_of(snapshot, "versions_count") == 1
				? "1 version is"
				: show_format("%s versions are",
					  show_number(snapshot, "versions_count")),
			show_time(snapshot, "needed_until"));
}

static int
run_register(struct ctl *ctl)
{
	_cleanup_(json_freep) json_t *report = NULL;
	_cleanup_(json_freep) json_t *body = NULL;
	_cleanup_(json_freep) json_t *snapshot = NULL;
	const char *given = args_value(&ctl->args, "id");
	char id[STR_NAME_MAX + 1] = "";
	int status = given ? ctl_check_name("snapshot", given) : CTL_OK;

	if (status == CTL_OK)
		status = read_report(ctl, ctl->args.words[0], &report);
	if (status == CTL_OK)
		status = snapshot_record(ctl, report, args_value(&ctl->args, "cluster"), &body);
	if (status == CTL_OK)
		status = add_until(&ctl->args, body);
	if (status != CTL_OK)
		return status;
	snapshot_default_id(body, id);
	status = put_snapshot(ctl, given ? given : id, body, &snapshot);
	if (status != CTL_OK)
		return status;
	warn_of(snapshot);
	say_registered(ctl, snapshot);
	return CTL_OK;
}

/* ---- showing ---- */

static const char *
until_text(const json_t *s)
{
	const char *until = show_time(s, "needed_until");

	return is_true(s, "needed") ? until : show_format("%s (over)", until);
}

static int
run_list(struct ctl *ctl)
{
	_cleanup_(json_freep) json_t *list = NULL;
	_cleanup_(table_freep) struct table *t = NULL;
	const json_t *s;
	size_t i;
	int status = ctl_list(ctl, "/v1/snapshots", "snapshots", &list);

	if (status != CTL_OK)
		return status;
	if (ctl->json) {
		show_json(list);
		return CTL_OK;
	}
	t = table_new((const char *const[]){
		"ID", "CLUSTER", "TAKEN", "NEEDED UNTIL", ">VERSIONS", "COMPLETE", NULL });
	json_array_foreach(json_object_get(list, "snapshots"), i, s) {
		if (ctl->quiet) {
			puts(string_of(s, "id"));
			continue;
		}
		table_row(t, (const char *const[]){ string_of(s, "id"), string_of(s, "cluster"),
				     show_time(s, "taken"), until_text(s),
				     show_number(s, "versions_count"),
				     is_true(s, "complete") ? "yes" : "no" });
	}
	if (table_rows(t) > 0)
		table_print(t);
	return CTL_OK;
}

static void
show_versions(const json_t *snapshot)
{
	_cleanup_(table_freep) struct table *t = table_new(
		(const char *const[]){ "KEY", "VERSION", "STATE", ">LIVE", ">SUPERSEDED", NULL });
	const json_t *v;
	size_t i;

	json_array_foreach(json_object_get(snapshot, "versions"), i, v)
		table_row(t, (const char *const[]){ string_of(v, "key"), show_version(v, "version"),
				     show_text(v, "state"), show_number(v, "live"),
				     show_number(v, "superseded") });
	if (table_rows(t) == 0)
		return;
	putchar('\n');
	table_print(t);
}

static void
show_snapshot(const json_t *s)
{
	_cleanup_(table_freep) struct table *t = table_new_block();

	table_field(t, "Snapshot", "%s", string_of(s, "id"));
	table_field(t, "Cluster", "%s", string_of(s, "cluster"));
	table_field(t, "Taken", "%s, at etcd's revision %s", show_time(s, "taken"),
		show_number(s, "etcd_revision"));
	table_field(t, "Needed until", "%s", until_text(s));
	table_field(t, "Complete", "%s", is_true(s, "complete") ? "yes" : "no");
	table_field(t, "In plaintext", "%s values of all resources", show_number(s, "plaintext"));
	table_field(t, "SHA-256", "%s", string_of(s, "sha256"));
	table_field(
		t, "Registered", "%s by %s", show_time(s, "changed"), string_of(s, "changed_by"));
	table_field(t, "Revision", "%s", show_number(s, "revision"));
	table_print(t);
	show_versions(s);
}

static int
run_show(struct ctl *ctl)
{
	_cleanup_(json_freep) json_t *snapshot = NULL;
	int status = ctl_check_name("snapshot", ctl->args.words[0]);

	if (status == CTL_OK)
		status = ctl_get(ctl, snapshot_path(ctl->args.words[0]), &snapshot);
	if (status != CTL_OK)
		return status;
	if (ctl->json)
		show_json(snapshot);
	else
		show_snapshot(snapshot);
	return CTL_OK;
}

/* ---- forgetting ---- */

/* "kubernetes v1, kubernetes v2 and 3 more" */
static const char *
versions_text(const json_t *versions)
{
	struct buf b = BUF_INIT(SHOW_TEXT_SIZE);
	size_t i, n = json_array_size(versions);
	const char *text;
	const json_t *v;

	json_array_foreach((json_t *)versions, i, v)
		if (i < 5)
			buf_printf(&b, "%s%s %s", i > 0 ? ", " : "", string_of(v, "key"),
				show_version(v, "version"));
	if (n > 5)
		buf_printf(&b, " and %zu more", n - 5);
	text = show_format("%.*s", (int)b.len, b.len > 0 ? (const char *)b.data : "");
	buf_free(&b);
	return text;
}

static int
check_forget(const struct ctl *ctl, const json_t *snapshot)
{
	if (ctl->force || !is_true(snapshot, "needed") ||
		number_of(snapshot, "versions_count") == 0)
		return CTL_OK;
	say_error("backup %s is needed until %s: without it nothing keeps %s from being destroyed "
		  "on its behalf",
		string_of(snapshot, "id"), show_time(snapshot, "needed_until"),
		versions_text(json_object_get(snapshot, "versions")));
	say_hint("--force, if the backup is gone or given up: takes the grant cluster.write");
	return CTL_CONFLICT;
}

static int
forget(struct ctl *ctl, const char *id, const char *etag, json_t **ret_reply)
{
	const json_t *lifted;
	int status = ctl_request(ctl, "DELETE", snapshot_path(id), NULL, etag, NULL, ret_reply);

	if (status != CTL_OK || ctl->json)
		return status;
	lifted = json_object_get(*ret_reply, "lifted");
	if (!ctl->quiet && json_array_size(lifted) > 0)
		printf("%s: forgotten; it does not protect %s any more\n", id,
			versions_text(lifted));
	else if (!ctl->quiet)
		printf("%s: forgotten\n", id);
	return CTL_OK;
}

/* Each cluster's newest is its inventory as long as there is none after it. */
static bool
is_newest(const json_t *list, const json_t *snapshot)
{
	const json_t *s;
	size_t i;

	json_array_foreach((json_t *)list, i, s)
		if (strcmp(string_of(s, "cluster"), string_of(snapshot, "cluster")) == 0 &&
			strcmp(string_of(s, "taken"), string_of(snapshot, "taken")) > 0)
			return false;
	return true;
}

static int
forget_expired(struct ctl *ctl)
{
	_cleanup_(json_freep) json_t *list = NULL;
	_cleanup_(json_freep) json_t *told = json_pack("{s:[]}", "snapshots");
	const json_t *all, *s;
	json_t *reply = NULL;
	size_t i;
	int status = ctl_list(ctl, "/v1/snapshots", "snapshots", &list);

	all = json_object_get(list, "snapshots");
	json_array_foreach((json_t *)all, i, s) {
		if (status != CTL_OK || is_true(s, "needed") || is_newest(all, s))
			continue;
		status = forget(ctl, string_of(s, "id"),
			show_format("\"%lld\"", number_of(s, "revision")), &reply);
		if (status == CTL_OK)
			json_array_append_new(json_object_get(told, "snapshots"), reply);
	}
	if (ctl->json && list)
		show_json(told);
	return status;
}

static int
run_forget(struct ctl *ctl)
{
	_cleanup_(json_freep) json_t *snapshot = NULL;
	_cleanup_(json_freep) json_t *reply = NULL;
	bool expired = args_has(&ctl->args, "expired");
	const char *id = ctl->args.words[0];
	char etag[64];
	int status;

	if (expired == (ctl->args.words_count > 0)) {
		say_error("which one? ID, or --expired for all that nobody needs any more");
		return CTL_USAGE;
	}
	if (expired)
		return forget_expired(ctl);
	status = ctl_check_name("snapshot", id);
	if (status == CTL_OK)
		status = ctl_get_etag(ctl, snapshot_path(id), etag, &snapshot);
	if (status == CTL_OK)
		status = check_forget(ctl, snapshot);
	if (status == CTL_OK)
		status = forget(ctl, id, etag, &reply);
	if (status == CTL_OK && ctl->json)
		show_json(reply);
	return status;
}

const struct ctl_command ctl_snapshots_commands[] = {
	{ "snapshot register",
		"FILE --keep TIME|--needed-until TIME [--cluster NAME] [--id ID] [--prefix PREFIX] "
		"[--taken TIME] [--force]",
		"Has kekd keep what a backup of etcd needs",
		"FILE is a snapshot of etcd, or the report of \"kekctl etcd-snapshot FILE -o "
		"json\";\n"
		"- is standard input.\n"
		"No version that the backup needs is destroyed before it ends; --keep counts from\n"
		"when it was taken. The id is CLUSTER-DAY-TIME unless --id gives another. The "
		"same\n"
		"snapshot can be registered again, with another time. Needs the grant backup; a\n"
		"shorter time needs cluster.write as well. --force leaves out versions that this\n"
		"kekd does not have.",
		" keep needed-until cluster id prefix taken force ", 1, 1, run_register },
	{ "snapshot list", "", "Lists the registered backups of etcd",
		"Needs the grant backup or status.read.", "", 0, 0, run_list },
	{ "snapshot show", "SNAPSHOT", "Shows a registered backup and the versions that it needs",
		NULL, "", 1, 1, run_show },
	{ "snapshot forget", "SNAPSHOT [--force] | --expired",
		"Keeps nothing for a backup of etcd any more",
		"One that is still needed is forgotten with --force only, and the grant\n"
		"cluster.write. --expired: all that are not needed any more, but for each\n"
		"cluster's newest, which tells what lies in its etcd.",
		" expired force ", 0, 1, run_forget },
	{ NULL },
};
