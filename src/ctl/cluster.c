/* SPDX-License-Identifier: Apache-2.0 */
/* kekctl cluster …: what holds for all nodes. */
#include "ctl.h"

#define PATH "/v1/cluster"

static const char *
names(const json_t *members)
{
	json_t *list = json_array(), *m;
	const char *text;
	size_t i;

	json_array_foreach((json_t *)members, i, m)
		json_array_append_new(list, json_string(string_of(m, "node")));
	text = show_list(list, ", ");
	json_decref(list);
	return text;
}

static void
show_cluster(const json_t *c)
{
	_cleanup_(table_freep) struct table *t = table_new_block();
	const json_t *policy = json_object_get(c, "policy"), *key;
	size_t i;

	table_field(t, "Cluster", "%s", show_text(c, "name"));
	table_field(t, "Members", "%s", names(json_object_get(c, "members")));
	table_field(t, "Approvals", "%s, within %s", show_number(policy, "approvals"),
		show_text(policy, "approval_ttl"));
	table_field(t, "Destroy waits", "%s", show_text(policy, "destroy_wait"));
	json_array_foreach(json_object_get(c, "seal_keys"), i, key)
		table_field(t, i == 0 ? "Seal keys" : "", "%s in token %s", show_text(key, "id"),
			show_text(key, "token"));
	if (json_is_true(json_object_get(c, "frozen")))
		table_field(t, "FROZEN",
			"the service unwraps only; kekctl cluster unfreeze lifts "
			"it");
	table_field(t, "Generation", "%s", show_text(c, "generation"));
	table_field(t, "Level", "%s", show_number(c, "level"));
	table_field(t, "Created", "%s", show_time(c, "created"));
	table_field(t, "Revision", "%s", show_number(c, "revision"));
	table_print(t);
}

static int
run_show(struct ctl *ctl)
{
	_cleanup_(json_freep) json_t *c = NULL;
	int status = ctl_get(ctl, PATH, &c);

	if (status != CTL_OK)
		return status;
	if (ctl->json)
		show_json(c);
	else
		show_cluster(c);
	return CTL_OK;
}

static const struct {
	const char *option, *member;
} durations[] = { { "destroy-wait", "destroy_wait" }, { "approval-ttl", "approval_ttl" } };

static int
read_policy(const struct ctl_args *a, json_t *policy)
{
	unsigned approvals = 0;
	int status = args_number(a, "approvals", 1, 5, &approvals);

	if (status != CTL_OK)
		return status;
	if (approvals > 0)
		json_object_set_new(policy, "approvals", json_integer(approvals));
	for (size_t i = 0; i < STR_COUNT(durations); i++)
		if (args_has(a, durations[i].option))
			json_object_set_new(policy, durations[i].member,
				json_string(args_value(a, durations[i].option)));
	if (json_object_size(policy) > 0)
		return CTL_OK;
	say_error("nothing to set: --approvals, --destroy-wait or --approval-ttl");
	return CTL_USAGE;
}

static int
run_set(struct ctl *ctl)
{
	_cleanup_(json_freep) json_t *policy = json_object();
	_cleanup_(json_freep) json_t *body = json_pack("{s:O}", "policy", policy);
	_cleanup_(json_freep) json_t *reply = NULL;
	char etag[64];
	int status = read_policy(&ctl->args, policy);

	if (status == CTL_OK)
		status = ctl_get_etag(ctl, PATH, etag, NULL);
	if (status == CTL_OK)
		status = ctl_request(ctl, "PATCH", PATH, body, etag, NULL, &reply);
	if (status != CTL_OK)
		return status;
	if (ctl_show_pending(ctl, reply))
		return CTL_PENDING;
	if (ctl->json)
		show_json(reply);
	else if (!ctl->quiet)
		puts("The policy is set.");
	return CTL_OK;
}

static void
show_restore(const json_t *confirm)
{
	_cleanup_(table_freep) struct table *t = table_new_block();

	table_field(t, "Restored", "%s", show_time(confirm, "restored"));
	table_field(t, "Backup of", "%s, revision %s", show_time(confirm, "backup"),
		show_number(confirm, "revision"));
	if (json_is_true(json_object_get(confirm, "log")))
		table_field(
			t, "Changes lost", "%s, by the audit log", show_number(confirm, "changes"));
	else
		table_field(t, "Changes lost", "not known: the audit log does not go on from it");
	table_print(t);
}

/* Of a store that is held: what is there. */
static const char *
generation_of(const json_t *status)
{
	const json_t *held = json_object_get(json_object_get(status, "store"), "held");

	return json_is_object(held) ? string_of(held, "generation")
				    : string_of(status, "generation");
}

static int
run_confirm(struct ctl *ctl)
{
	_cleanup_(json_freep) json_t *status = NULL;
	_cleanup_(json_freep) json_t *body = json_object();
	_cleanup_(json_freep) json_t *answer = NULL;
	int result = ctl_get(ctl, "/v1/status", &status);

	if (result != CTL_OK)
		return result;
	json_object_set_new(body, "generation", json_string(generation_of(status)));
	result = ctl_request(ctl, "POST", "/v1/cluster/confirm", body, NULL, NULL, &answer);
	if (result != CTL_OK)
		return result;
	if (ctl->json) {
		show_json(answer);
	} else if (!ctl->quiet) {
		if (json_is_object(json_object_get(answer, "confirmed")))
			show_restore(json_object_get(answer, "confirmed"));
		puts("Confirmed: changes are made again.");
	}
	return CTL_OK;
}

/* ---- freezing ---- */

static int
set_frozen(struct ctl *ctl, bool frozen)
{
	_cleanup_(json_freep) json_t *body = json_pack("{s:b}", "frozen", (int)frozen);
	_cleanup_(json_freep) json_t *reply = NULL;
	char etag[64];
	int status = ctl_get_etag(ctl, PATH, etag, NULL);

	if (status == CTL_OK)
		status = ctl_request(ctl, "POST", PATH "/freeze", body, etag, NULL, &reply);
	if (status != CTL_OK)
		return status;
	if (ctl->json)
		show_json(reply);
	else if (!ctl->quiet)
		puts(frozen ? "The service is frozen: it unwraps and does not wrap."
			    : "The service wraps again.");
	if (frozen && !ctl->quiet)
		say_note("Kubernetes API servers wrap when they start: they cannot start again "
			 "until \"kekctl cluster unfreeze\".");
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

/* ---- the seals ---- */

static int
run_reseal(struct ctl *ctl)
{
	_cleanup_(json_freep) json_t *body = json_object();
	_cleanup_(json_freep) json_t *reply = NULL;
	const char *token = args_value(&ctl->args, "token");
	char etag[64];
	int status;

	if (!token) {
		say_error("which token is to hold the new seal key?");
		say_hint("kekctl cluster reseal --token TOKEN; \"kekctl hsm status\" shows them");
		return CTL_USAGE;
	}
	json_object_set_new(body, "token", json_string(token));
	status = ctl_get_etag(ctl, PATH, etag, NULL);
	if (status == CTL_OK)
		status = ctl_request(ctl, "POST", PATH "/reseal", body, etag, NULL, &reply);
	if (status != CTL_OK)
		return status;
	if (ctl->json)
		show_json(reply);
	else if (!ctl->quiet)
		printf("%s records are sealed by key %s in token %s now. The old key is not needed "
		       "any more; its object stays where it is.\n",
			show_number(reply, "records"), show_text(reply, "seal_key"),
			show_text(reply, "token"));
	return CTL_OK;
}

const struct ctl_command ctl_cluster_commands[] = {
	{ "cluster show", "", "Shows the cluster and its policy", NULL, "", 0, 0, run_show },
	{ "cluster set", "[--approvals N] [--destroy-wait TIME] [--approval-ttl TIME]",
		"Changes the cluster's policy",
		"--approvals: how many administrators it takes to destroy a version, to change a\n"
		"client that holds approve or client.write, and to change the policy; 1 to 5, and\n"
		"the one who asks counts. With more than 1 this change takes approval as well.\n"
		"--destroy-wait: how long a version waits before it is destroyed, as in 7d; at "
		"least\n"
		"24h, unless approvals is 1. --approval-ttl: what is not approved by then is "
		"void;\n"
		"1m to 7d.",
		" approvals destroy-wait approval-ttl ", 0, 0, run_set },
	{ "cluster confirm", "", "Lets changes be made again after a restore",
		"After \"kekd restore\" the server wraps and unwraps, and changes nothing before\n"
		"this: look at keys and clients, and repeat what the audit log says was lost.\n"
		"Where a snapshot of etcd was put back on purpose, it is the same; ask the node\n"
		"that has accepted most (--endpoint), and the others follow.",
		"", 0, 0, run_confirm },
	{ "cluster freeze", "", "Lets the whole service unwrap, and no longer wrap",
		"Wrap, generate and rewrap answer \"frozen\", and no key rotates by itself.\n"
		"Kubernetes API servers wrap when they start: they cannot start again meanwhile.",
		"", 0, 0, run_freeze },
	{ "cluster unfreeze", "", "Lets the service wrap again", NULL, "", 0, 0, run_unfreeze },
	{ "cluster reseal", "--token TOKEN", "Seals all records with a new key in this token",
		"For a new HSM. Until it is through, both keys are needed; broken off, the same\n"
		"command goes on. The old key's object stays in its token.",
		" token ", 0, 0, run_reseal },
	{ NULL },
};
