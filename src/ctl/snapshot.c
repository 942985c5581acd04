/* SPDX-License-Identifier: Apache-2.0 */
/* kekctl etcd-snapshot: what a snapshot of a Kubernetes cluster's etcd holds, and which keys it
 * needs; for a backup job, which goes by the exit status. */
#include "snapshot.h"

#include "kekd/clock.h"

#include <errno.h>
#include <string.h>

#define PREFIX "/registry"
#define RESOURCES "secrets"
#define SEED_HEX_MIN 16
#define SEED_HEX_MAX 64

/* ---- options ---- */

static int
take_prefix(struct snapshot *s)
{
	const char *text = args_value(&s->ctl->args, "prefix");
	size_t len;

	if (!text)
		text = PREFIX;
	len = strlen(text);
	while (len > 1 && text[len - 1] == '/')
		len--;
	if (text[0] != '/' || len < 2 || len + 2 > sizeof(s->prefix)) {
		say_error("--prefix \"%s\" is no path", text);
		say_hint("it is kube-apiserver's --etcd-prefix; /registry unless that is given");
		return CTL_USAGE;
	}
	snprintf(s->prefix, sizeof(s->prefix), "%.*s/", (int)len, text);
	return CTL_OK;
}

static int
take_taken(struct snapshot *s)
{
	const char *text = args_value(&s->ctl->args, "taken");

	if (!text)
		return CTL_OK;
	if (clock_parse(text, &s->taken_us) != 0 || s->taken_us == 0) {
		say_error("--taken \"%s\" is no time", text);
		say_hint("in UTC, as 2026-01-31T12:00:00Z");
		return CTL_USAGE;
	}
	return CTL_OK;
}

static int
check_seeds(const struct ctl *ctl)
{
	for (size_t i = 0; i < args_count(&ctl->args, "seed"); i++) {
		const char *hex = args_nth(&ctl->args, "seed", i);
		size_t len = strlen(hex);
		if (len >= SEED_HEX_MIN && len <= SEED_HEX_MAX &&
			strspn(hex, "0123456789abcdef") == len)
			continue;
		say_error("--seed \"%s\" is not %d to %d hexadecimal digits", hex, SEED_HEX_MIN,
			SEED_HEX_MAX);
		say_hint("an audit record has them as \"blobs\": the SHA-256 of a wrapped seed");
		return CTL_USAGE;
	}
	return CTL_OK;
}

static int
check_values(const struct ctl *ctl)
{
	bool values = args_has(&ctl->args, "values");

	if (values && args_has(&ctl->args, "verify")) {
		say_error("--values and --verify are two commands: give one of them");
		return CTL_USAGE;
	}
	if (!values && args_has(&ctl->args, "seed")) {
		say_error("--seed chooses among what --values lists");
		return CTL_USAGE;
	}
	return check_seeds(ctl);
}

/* What would be missing to ask the server, before gigabytes are read for it. */
static int
check_config(const struct ctl *ctl)
{
	_cleanup_(ctl_config_free) struct ctl_config c = { 0 };

	return args_has(&ctl->args, "verify") ? ctl_config_load(&ctl->args, &c) : CTL_OK;
}

static int
take_options(struct snapshot *s)
{
	const char *resources = args_value(&s->ctl->args, "resources");
	int status = check_values(s->ctl);

	if (status == CTL_OK)
		status = check_config(s->ctl);
	if (status == CTL_OK)
		status = take_prefix(s);
	if (status == CTL_OK)
		status = take_taken(s);
	if (status == CTL_OK && tally_init(&s->tally, resources ? resources : RESOURCES) != 0)
		status = snapshot_say_damaged(s, -ENOMEM, "");
	return status;
}

/* ---- reading ---- */

static int
count(struct snapshot *s, const struct mvcc_record *record, const struct resource *r,
	const struct value *v, void *user)
{
	(void)user;
	if (v->kind == VALUE_PLAINTEXT && strcmp(r->name, "leases") == 0)
		snapshot_take_lease(s, record);
	return tally_add(&s->tally, record, r, v);
}

static int
open_all(struct snapshot *s)
{
	int err, status = snapshot_file_open(s);

	if (status != CTL_OK)
		return status;
	err = mvcc_open(s->bolt, &s->mvcc);
	return err == 0 ? CTL_OK : snapshot_say_damaged(s, err, bolt_error(s->bolt));
}

static int
read_all(struct snapshot *s)
{
	const struct tally *t = &s->tally;
	int err = snapshot_each(s, count, NULL);

	progress_end(&s->progress);
	if (err != 0)
		return snapshot_say_damaged(s, err, bolt_error(s->bolt));
	snapshot_settle_time(s);
	if (t->live + t->superseded > 0)
		return CTL_OK;
	say_error("%s holds nothing of Kubernetes under %s", s->path, s->prefix);
	if (*t->outside_example)
		say_hint("there is something under %s: --prefix, or is it another etcd?",
			t->outside_example);
	else
		say_hint("is it the etcd of a Kubernetes cluster? --prefix is kube-apiserver's "
			 "--etcd-prefix");
	return CTL_UNVERIFIED;
}

/* ---- the whole ---- */

static int
verdict(const struct snapshot *s)
{
	const struct tally *t = &s->tally;

	if (s->restorable == 0)
		return CTL_NOT_RESTORABLE;
	if (t->odd > 0 || !t->complete || (!s->hashed && args_has(&s->ctl->args, "verify")))
		return CTL_UNVERIFIED;
	return t->plain_live + t->plain_superseded > 0 ? CTL_PLAINTEXT : CTL_OK;
}

static int
report(struct snapshot *s)
{
	_cleanup_(json_freep) json_t *value = NULL;
	int asked, status = read_all(s);

	if (status != CTL_OK)
		return status;
	asked = args_has(&s->ctl->args, "verify") ? snapshot_verify(s) : CTL_OK;
	if (s->ctl->json) {
		value = snapshot_json(s);
		show_json(value);
	} else if (!s->ctl->quiet) {
		snapshot_show(s);
	}
	fflush(stdout);
	status = verdict(s);
	return asked != CTL_OK && status != CTL_NOT_RESTORABLE ? asked : status;
}

int
snapshot_report(struct ctl *ctl, const char *path, json_t **ret_report)
{
	struct snapshot s = { .ctl = ctl, .path = path, .fd = -1, .restorable = -1 };
	int status = take_options(&s);

	if (status == CTL_OK)
		status = open_all(&s);
	if (status == CTL_OK)
		status = read_all(&s);
	if (status == CTL_OK)
		*ret_report = snapshot_json(&s);
	snapshot_file_close(&s);
	tally_free(&s.tally);
	return status;
}

static int
run(struct ctl *ctl)
{
	struct snapshot s = { .ctl = ctl, .path = ctl->args.words[0], .fd = -1, .restorable = -1 };
	int status = take_options(&s);

	if (status == CTL_OK)
		status = open_all(&s);
	if (status == CTL_OK && args_has(&ctl->args, "values"))
		status = snapshot_values(&s);
	else if (status == CTL_OK)
		status = report(&s);
	snapshot_file_close(&s);
	tally_free(&s.tally);
	return status;
}

const struct ctl_command ctl_snapshot_commands[] = {
	{ "etcd-snapshot",
		"FILE [--verify] [--values [--seed HEX]...] [--resources LIST] [--prefix PREFIX] "
		"[--taken TIME]",
		"Says what a snapshot of Kubernetes' etcd holds, and which keys it needs",
		"FILE is what \"etcdctl snapshot save\" wrote, or the member/snap/db of a stopped "
		"member. It is read\n"
		"without a server: how many values are encrypted by what, how many lie in "
		"plaintext, which\n"
		"key versions of kekd it needs; superseded revisions are in it as well.\n"
		"\n"
		"--verify asks kekd whether it unwraps each wrapped seed, without having it sent "
		"(grant\n"
		"verify). --values lists objects and the seed they hang on, by the digits that the "
		"audit\n"
		"log has for it. Exit status, besides those below: 6 the file is damaged or none, "
		"9 there\n"
		"are secrets in plaintext, 10 it cannot be restored with the keys that there are.",
		" verify values seed resources prefix taken ", 1, 1, run },
	{ NULL },
};
