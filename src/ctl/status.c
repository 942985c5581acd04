/* SPDX-License-Identifier: Apache-2.0 */
/* kekctl status and version. */
#include "ctl.h"

#include <string.h>

static const char *
plural(long long n, const char *one)
{
	return show_format("%lld %s%s", n, one, n == 1 ? "" : "s");
}

static const char *
role(const json_t *s)
{
	const json_t *leader = json_object_get(s, "leader");

	if (strcmp(string_of(s, "role"), "standby") != 0)
		return show_text(s, "role");
	if (!*string_of(leader, "node"))
		return "standby; no node makes changes now";
	return show_format(
		"standby of %s, %s", string_of(leader, "node"), show_text(leader, "url"));
}

static void
add_node(struct table *t, const json_t *s)
{
	const char *reason = string_of(s, "phase_reason");

	table_field(t, "Node", "%s", show_text(s, "node"));
	table_field(t, "Cluster", "%s, generation %s", show_text(s, "cluster"),
		show_text(s, "generation"));
	table_field(t, "Version", "%s", show_text(s, "version"));
	table_field(t, "Phase", "%s%s%s", show_text(s, "phase"), *reason ? ": " : "", reason);
	table_field(t, "Role", "%s", role(s));
	table_field(t, "Up for", "%s", show_duration(number_of(s, "uptime_s")));
	table_field(t, "Revision", "%s", show_number(s, "revision"));
}

static void
add_contents(struct table *t, const json_t *s)
{
	const json_t *v = json_object_get(s, "versions");
	long long failed = number_of(v, "failed");

	table_field(t, "Keys", "%s", show_number(s, "keys"));
	table_field(t, "Versions", "%s of %s proven in the token%s", show_number(v, "proven"),
		show_number(v, "total"), failed > 0 ? show_format(", %lld FAILED", failed) : "");
	table_field(t, "Clients", "%s", show_number(s, "clients"));
	table_field(t, "Unknown", "%s in the tokens",
		plural((long long)json_array_size(json_object_get(s, "unknown_objects")),
			"object"));
}

static void
add_etcd(struct table *t, const json_t *store)
{
	double age = json_number_value(json_object_get(store, "age_s"));
	bool stale = json_is_true(json_object_get(store, "stale"));

	if (strcmp(string_of(store, "engine"), "etcd") != 0)
		return;
	if (!json_is_true(json_object_get(store, "reachable")))
		table_field(t, "", "NOT REACHED: %s", show_text(store, "error"));
	if (json_is_null(json_object_get(store, "age_s")))
		table_field(t, "", "the age of the copy is not known");
	else
		table_field(t, "", "copy of etcd %s, %s old%s", show_text(store, "cluster_id"),
			show_duration((json_int_t)age), stale ? ", STALE" : "");
}

static void
add_store(struct table *t, const json_t *store)
{
	const char *hold = string_of(store, "hold_text");
	const json_t *path;
	size_t i;

	if (!json_is_object(store)) {
		table_field(t, "Store", "not read yet");
		return;
	}
	table_field(t, "Store", "%s, %s, number %s", show_text(store, "engine"),
		plural(number_of(store, "records"), "record"), show_number(store, "number"));
	add_etcd(t, store);
	table_field(t, "Sealed by", "%s in token %s", show_text(store, "seal_key"),
		show_text(store, "seal_token"));
	if (number_of(store, "seal_keys") > 1)
		table_field(t, "",
			"UNFINISHED: %s have an older seal; kekctl cluster reseal "
			"--token %s",
			plural(number_of(store, "old_seals"), "record"),
			string_of(store, "seal_token"));
	if (*hold)
		table_field(t, "", "HELD: %s", hold);
	json_array_foreach(json_object_get(store, "refused"), i, path)
		table_field(t, "", "REFUSED: %s was changed from outside",
			json_string_value(path) ? json_string_value(path) : "?");
}

static void
add_audit(struct table *t, const json_t *audit)
{
	if (!json_is_object(audit))
		table_field(t, "Audit", "not open yet");
	else if (json_is_true(json_object_get(audit, "ok")))
		table_field(t, "Audit", "writing, at sequence %s in %s",
			show_number(audit, "sequence"), show_text(audit, "file"));
	else
		table_field(t, "Audit", "FAILING: %s", show_text(audit, "reason"));
}

/* "2027-01-31T12:00:00.000000Z" without the fraction. */
static const char *
ends(const json_t *life)
{
	const char *end = string_of(life, "ends"), *state = string_of(life, "state");
	const char *shout = strcmp(state, "expired") == 0 ? ", EXPIRED"
			    : strcmp(state, "valid") != 0 ? ", SOON"
							  : "";

	if (!*end)
		return "for ever";
	return show_format("until %.19sZ%s", end, shout);
}

static void
add_certificates(struct table *t, const json_t *c, const json_t *reload)
{
	const json_t *fault, *crl = json_object_get(c, "crl");
	size_t i;

	if (json_is_object(c)) {
		table_field(t, "Certificate", "%s", ends(json_object_get(c, "server")));
		table_field(t, "Client CAs", "%s", ends(json_object_get(c, "client_ca")));
		if (json_is_object(crl))
			table_field(t, "CRLs", "%s, when expired: %s", ends(crl),
				show_text(c, "crl_on_expired"));
	}
	json_array_foreach(json_object_get(c, "faults"), i, fault)
		table_field(t, "", "NOT TAKEN: %s",
			json_string_value(fault) ? json_string_value(fault) : "?");
	if (json_is_object(reload) && !json_is_true(json_object_get(reload, "taken")))
		table_field(t, "Reload", "REFUSED at %.19sZ: %s", string_of(reload, "time"),
			show_text(reload, "fault"));
	else if (json_is_object(reload))
		table_field(t, "Reload", "taken at %.19sZ", string_of(reload, "time"));
}

static void
add_rotations(struct table *t, const json_t *s)
{
	const json_t *f;
	size_t i;

	if (json_is_true(json_object_get(s, "frozen")))
		table_field(t, "FROZEN",
			"the whole service unwraps only; kekctl cluster unfreeze "
			"lifts it");
	json_array_foreach(json_object_get(json_object_get(s, "rotations"), "failing"), i, f)
		table_field(t, i == 0 ? "Rotation" : "", "%s FAILED %s times, next try at %s: %s",
			show_text(f, "key"), show_number(f, "tries"), show_time(f, "again"),
			show_text(f, "detail"));
}

static void
add_signing(struct table *t, const json_t *audit)
{
	const json_t *signing = json_object_get(audit, "signing");
	const char *state = string_of(signing, "state");

	if (strcmp(state, "missing") == 0 || strcmp(state, "failed") == 0)
		table_field(t, "", "NOT SIGNED: %s", string_of(signing, "reason"));
}

/* What workers wait for, and what to do about it. */
static void
add_complaints(struct table *t, const json_t *token)
{
	const json_t *w;
	size_t i;

	json_array_foreach(json_object_get(token, "workers"), i, w)
		if (*string_of(w, "message"))
			table_field(t, "", "worker %s: %s", show_number(w, "worker"),
				show_text(w, "message"));
}

static void
add_tokens(struct table *t, const json_t *tokens)
{
	const json_t *token;
	size_t i;

	json_array_foreach((json_t *)tokens, i, token) {
		table_field(t, i == 0 ? "Tokens" : "", "%s: %s, %s, %s", show_text(token, "name"),
			json_is_true(json_object_get(token, "ready")) ? "ready" : "NOT READY",
			plural((long long)json_array_size(json_object_get(token, "workers")),
				"worker"),
			plural(number_of(token, "objects"), "object"));
		add_complaints(t, token);
	}
}

static int
run_status(struct ctl *ctl)
{
	_cleanup_(json_freep) json_t *s = NULL;
	_cleanup_(table_freep) struct table *t = NULL;
	int status = ctl_get(ctl, "/v1/status", &s);

	if (status != CTL_OK)
		return status;
	if (ctl->json) {
		show_json(s);
		return CTL_OK;
	}
	if (ctl->quiet) {
		puts(string_of(s, "phase"));
		return CTL_OK;
	}
	t = table_new_block();
	add_node(t, s);
	add_tokens(t, json_object_get(s, "tokens"));
	add_store(t, json_object_get(s, "store"));
	add_audit(t, json_object_get(s, "audit"));
	add_signing(t, json_object_get(s, "audit"));
	add_certificates(t, json_object_get(s, "certificates"), json_object_get(s, "reload"));
	add_contents(t, s);
	add_rotations(t, s);
	table_print(t);
	return CTL_OK;
}

static bool
begins_with(const char *line, const char *prefix)
{
	if (strncmp(line, "# HELP ", 7) == 0 || strncmp(line, "# TYPE ", 7) == 0)
		line += 7;
	return strncmp(line, prefix, strlen(prefix)) == 0;
}

static int
run_metrics(struct ctl *ctl)
{
	_cleanup_(kekd_reply_free) struct kekd_reply r = { 0 };
	const char *prefix = ctl->args.words_count > 0 ? ctl->args.words[0] : "";
	int status = ctl_exchange(ctl, "GET", "/metrics", NULL, NULL, NULL, &r);
	char *line, *next;

	if (status != CTL_OK)
		return status;
	if (r.status != 200)
		return say_problem(&r);
	buf_u8(&r.body, '\0');
	if (r.body.bad) {
		say_error("no memory for the answer");
		return CTL_FAILED;
	}
	for (line = (char *)r.body.data; (next = strchr(line, '\n')) != NULL; line = next + 1) {
		*next = '\0';
		if (begins_with(line, prefix))
			show_line(line, false);
	}
	return CTL_OK;
}

static int
run_version(struct ctl *ctl)
{
	if (ctl->json)
		printf("{\n  \"kekctl\": \"%s\"\n}\n", PACKAGE_VERSION);
	else
		printf("kekctl %s\n", PACKAGE_VERSION);
	return CTL_OK;
}

const struct ctl_command ctl_status_commands[] = {
	{ "status", "", "Shows the state of the server", NULL, "", 0, 0, run_status },
	{ "metrics", "[PREFIX]", "Shows what Prometheus is told",
		"Only what begins with PREFIX, such as kekd_audit. doc/metrics.md explains each.",
		"", 0, 1, run_metrics },
	{ "version", "", "Shows kekctl's version; \"status\" has the server's", NULL, "", 0, 0,
		run_version },
	{ NULL },
};
