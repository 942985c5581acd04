/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is to be done, step by step, to get from one layout to the next: the file, how it is loaded,
 * how to see that it worked, and the way back. Not here: the layouts themselves (plan.c).
 */
#include "plan.h"

#include "kekd/str.h"

#include <stdarg.h>
#include <string.h>

#define YAML_MAX (4u << 20)
#define NOTE_SIZE 256

struct step {
	json_t *json, *run, *check;
};

static json_t *
text(const char *format, va_list args)
{
	char *s = NULL;
	json_t *value = vasprintf(&s, format, args) < 0 ? NULL : json_string(s);

	free(s);
	return value;
}

__attribute__((format(printf, 3, 4))) static void
set(struct step *s, const char *member, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	json_object_set_new(s->json, member, text(format, args));
	va_end(args);
}

/* An entry of run or check: {"command", "note"}, either of which may be null (empty here). */
__attribute__((format(printf, 3, 4))) static void
add(json_t *list, const char *note, const char *format, ...)
{
	json_t *entry = json_object();
	va_list args;

	va_start(args, format);
	json_object_set_new(entry, "command", *format ? text(format, args) : json_null());
	va_end(args);
	json_object_set_new(entry, "note", *note ? json_string(note) : json_null());
	json_array_append_new(list, entry);
}

static struct step
step_begin(const char *code)
{
	struct step s = { json_object(), json_array(), json_array() };

	set(&s, "code", "%s", code);
	json_object_set_new(s.json, "file", json_null());
	return s;
}

static void
step_end(json_t *steps, struct step *s)
{
	json_object_set_new(s->json, "step", json_integer((json_int_t)json_array_size(steps) + 1));
	json_object_set_new(s->json, "run", s->run);
	json_object_set_new(s->json, "check", s->check);
	json_array_append_new(steps, s->json);
}

static void
set_file(struct step *s, const struct plan *p, const struct layout *l)
{
	struct buf b = BUF_INIT(YAML_MAX);

	layout_yaml(&b, l, p->fresh);
	if (!b.bad)
		json_object_set_new(s->json, "file", json_stringn((const char *)b.data, b.len));
	buf_free(&b);
}

/* ---- what the plan is about ---- */

/* Resources of the entries that move. wildcards: those alone, or the others. */
static void
list_resources(const struct plan *p, bool wildcards, const char *separator, struct buf *b)
{
	for (size_t i = 0; i < p->moved_count; i++) {
		const struct ec_group *g = &p->config->groups[p->moved[i]];
		for (size_t j = 0; j < g->resources_count; j++) {
			if (ec_is_wildcard(g->resources[j].text) != wildcards)
				continue;
			buf_printf(b, "%s%s", b->len ? separator : "", g->resources[j].text);
		}
	}
	buf_u8(b, 0);
}

/* One that can be looked at; wildcards stand for Secrets, too, or for what nobody can guess. */
static const char *
one_resource(const struct plan *p)
{
	const char *other = "secrets";

	for (size_t i = 0; i < p->moved_count; i++) {
		const struct ec_group *g = &p->config->groups[p->moved[i]];
		for (size_t j = 0; j < g->resources_count; j++) {
			if (ec_covers(g->resources[j].text, "secrets"))
				return "secrets";
			if (!ec_is_wildcard(g->resources[j].text))
				other = g->resources[j].text;
		}
	}
	return other;
}

static void
add_name(struct buf *b, const char *name)
{
	if (!b->len || !memmem(b->data, b->len, name, strlen(name)))
		buf_printf(b, "%s%s", b->len ? ", " : "", name);
}

/* What goes: "aescbc and identity". */
static char *
list_old(const struct plan *p)
{
	struct buf b = BUF_INIT(4096);
	bool plain = false;
	char *names;

	for (size_t i = 0; i < p->moved_count; i++) {
		const struct ec_group *g = &p->config->groups[p->moved[i]];
		for (size_t j = 0; j < g->providers_count; j++) {
			_cleanup_(str_freep) char *label = plan_label(&g->providers[j]);
			if (g->providers[j].kind == EC_IDENTITY)
				plain = p->target->kind != EC_IDENTITY;
			else if (label && strcmp(label, p->label) != 0)
				add_name(&b, label);
		}
	}
	if (plain)
		buf_printf(&b, "%sidentity", b.len ? " and " : "");
	buf_u8(&b, 0);
	names = b.bad ? NULL : strdup((char *)b.data);
	buf_free(&b);
	return names;
}

static void
say_prefix(const struct plan *p, char ret_note[NOTE_SIZE])
{
	const struct ec_provider *t = p->target;

	if (t->kind == EC_IDENTITY)
		snprintf(ret_note, NOTE_SIZE, "begins with k8s and a NUL: plaintext");
	else if (t->kind == EC_KMS)
		snprintf(ret_note, NOTE_SIZE, "begins with k8s:enc:kms:v2:%.64s:", t->name);
	else
		snprintf(ret_note, NOTE_SIZE, "begins with k8s:enc:%s:v1:", ec_kind_names[t->kind]);
}

/* ---- how a file comes to be used: told once, for all steps ---- */

json_t *
plan_load(const struct plan *p)
{
	json_t *run = json_array(), *check = json_array();

	add(run, "which is what \"back\" takes", "cp -p %s %s.last", p->file, p->file);
	add(run, "NEW: the step's file, with the secrets of before for <as before>",
		"install -m 0600 NEW %s.new && mv %s.new %s", p->file, p->file, p->file);
	add(run,
		"with --encryption-provider-config-automatic-reload=true: wait two minutes, and "
		"skip the next two",
		"%s", "sleep 120");
	add(run, "without: stops it; wait until crictl ps does not list it any more",
		"mv /etc/kubernetes/manifests/kube-apiserver.yaml /etc/kubernetes/");
	add(run, "starts it again",
		"mv /etc/kubernetes/kube-apiserver.yaml /etc/kubernetes/manifests/");
	add(check, "ok; THIS is that API server's host",
		"kubectl --server https://THIS:6443 get --raw /readyz");
	if (p->target->kind == EC_KMS)
		add(check, "ok; it answers an administrator alone",
			"kubectl --server https://THIS:6443 get --raw /readyz/kms-providers");
	add(check, "with automatic reload: one success more, no failure",
		"kubectl --server https://THIS:6443 get --raw /metrics | grep "
		"config_controller_automatic_reload");
	add(check, "each can be read", "kubectl --server https://THIS:6443 get %s -A >/dev/null",
		one_resource(p));
	return json_pack("{s:o, s:o}", "run", run, "check", check);
}

/* ---- steps ---- */

static void
say_prepare(const struct plan *p, json_t *steps, const char *old)
{
	struct step s = step_begin("prepare");

	(void)old;
	set(&s, "title", "Before: what there is, and the way back");
	set(&s, "why",
		"This file, kept with the last backup from before, is what restores that backup. "
		"Both together are as good as the secrets themselves: guard them so.");
	add(s.run, "", "etcdctl snapshot save before.db");
	add(s.run, "what lies in etcd, and under what", "kekctl etcd-snapshot before.db");
	add(s.run, "on every API server's host; never over one from a move that was begun",
		"test -e %s.before || cp -p %s %s.before", p->file, p->file, p->file);
	if (p->fresh)
		add(s.run, "the new key: once, the same on all API servers",
			"head -c 32 /dev/urandom | base64");
	if (p->kekd)
		add(s.check, "on every API server's host: no fault", "kekd-kms doctor");
	set(&s, "back", "Nothing has been changed.");
	step_end(steps, &s);
}

/* Entries that are to become one first learn to read what the one that writes for all writes. */
static void
say_joint(const struct plan *p, json_t *steps, const char *old)
{
	struct step s = step_begin("joint");
	_cleanup_(str_freep) char *leader = plan_label(p->leader);

	(void)old;
	set(&s, "title", "Let every entry read with %s", leader ? leader : "");
	set(&s, "why",
		"A kms provider can stand in one entry alone, so the entries become one in the "
		"next step. There %s writes for all of them for a while.",
		leader ? leader : "");
	set_file(&s, p, &p->joint);
	set(&s, "back", "Put %s.before back on every API server, one after the other.", p->file);
	step_end(steps, &s);
}

static void
say_readable(const struct plan *p, json_t *steps, const char *old)
{
	struct step s = step_begin("readable");

	(void)old;
	set(&s, "title", "Let every API server read with %s", p->label);
	set(&s, "why",
		"Nobody writes with it yet. An API server that does, while another one cannot read "
		"it, makes objects that the other one answers with an error: so all of them must "
		"be able to read with it before the first one writes with it.");
	if (p->merged)
		set(&s, "note",
			"The entries that move are one now: a kms provider can stand in "
			"one entry alone.");
	set_file(&s, p, &p->readable);
	set(&s, "back", "Put %s.last back on every API server: nothing is stored with %s.", p->file,
		p->label);
	step_end(steps, &s);
}

static void
say_everywhere(const struct plan *p, json_t *steps, const char *old)
{
	struct step s = step_begin("everywhere");
	bool writes = layout_equal(&p->writes, &p->now);

	(void)old;
	set(&s, "title", "Make sure that every API server has this file");
	set(&s, "why", "%s %s already. An API server with another file would %s.", p->label,
		writes ? "writes" : "reads",
		writes ? "go on writing as before" : "not be able to read what is written next");
	add(s.check, "on every API server's host: the same", "sha256sum %s", p->file);
	set(&s, "back", "Nothing has been changed.");
	step_end(steps, &s);
}

static void
say_writes(const struct plan *p, json_t *steps, const char *old)
{
	struct step s = step_begin("writes");
	char note[NOTE_SIZE];

	(void)old;
	say_prefix(p, note);
	set(&s, "title", "Let every API server write with %s", p->label);
	set(&s, "why",
		"The first provider of an entry writes. Until the last API server has this file "
		"both old and new are written, and all can read both.%s",
		p->target->kind == EC_IDENTITY
			? " From here on what is stored lies in plaintext in etcd and its backups."
			: "");
	set_file(&s, p, &p->writes);
	if (strcmp(one_resource(p), "secrets") == 0) {
		add(s.check, "",
			"kubectl create secret generic kekd-check -n default --from-literal=a=b");
		add(s.check, note,
			"etcdctl get /registry/secrets/default/kekd-check --print-value-only | "
			"head -c 64");
		add(s.check, "", "kubectl delete secret kekd-check -n default");
	}
	set(&s, "back",
		"Put %s.last back on every API server, one after the other: it reads what was "
		"stored with %s meanwhile. If %s is to go altogether, do the next step before it "
		"does.",
		p->file, p->label, p->label);
	step_end(steps, &s);
}

static void
say_reencrypt(const struct plan *p, json_t *steps, const char *old)
{
	struct step s = step_begin("reencrypt");
	struct buf names = BUF_INIT(YAML_MAX), wildcards = BUF_INIT(YAML_MAX);
	char note[NOTE_SIZE];

	(void)old;
	list_resources(p, false, ",", &names);
	list_resources(p, true, " ", &wildcards);
	set(&s, "title", "Write everything anew");
	set(&s, "why",
		"What was stored before stays as it is until it is written the next time. This "
		"writes every object once, without changing it. Interrupted, it goes on.");
	if (names.len > 1)
		add(s.run, "of kekd's sources: one file, which needs Python alone",
			"contrib/kubernetes/reencrypt --resources %s", (char *)names.data);
	if (wildcards.len > 1) {
		snprintf(note, sizeof(note), "LIST: all of them that %.120s covers",
			(char *)wildcards.data);
		add(s.run, note, "kubectl api-resources --verbs=list,patch -o name");
		add(s.run, "", "contrib/kubernetes/reencrypt --resources LIST");
	}
	add(s.check, "a second run says: 0 written anew", "%s", "");
	set(&s, "back", "As in the step before: the file from there reads what is written now.");
	buf_free(&names);
	buf_free(&wildcards);
	step_end(steps, &s);
}

static void
say_verify(const struct plan *p, json_t *steps, const char *old)
{
	struct step s = step_begin("verify");
	struct buf names = BUF_INIT(YAML_MAX);
	char note[NOTE_SIZE];

	snprintf(note, sizeof(note),
		"of what moves every live value is under %.64s, and no superseded one under "
		"another; else wait ten minutes, and do this step again",
		p->label);
	set(&s, "title", "See that nothing needs %s any more", old);
	set(&s, "why",
		"A value that is left under a provider that goes cannot be read again. Superseded "
		"revisions leave etcd when it is compacted, which API servers do every five "
		"minutes.");
	add(s.run, "", "etcdctl snapshot save after.db");
	list_resources(p, false, ",", &names);
	add(s.check, note, "kekctl etcd-snapshot after.db%s%s%s", p->kekd ? " --verify" : "",
		names.len > 1 && p->kekd ? " --resources " : "",
		names.len > 1 && p->kekd ? (char *)names.data : "");
	buf_free(&names);
	set(&s, "back", "Nothing has been changed.");
	step_end(steps, &s);
}

static void
say_remove(const struct plan *p, json_t *steps, const char *old)
{
	struct step s = step_begin("remove");
	bool plain = p->target->kind == EC_IDENTITY;

	set(&s, "title", "Take %s out", old);
	set(&s, "why",
		"Only after the step before has found nothing under it. A provider that nobody "
		"needs is a key that can still be stolen%s.",
		plain ? "" : "; identity lets plaintext pass that somebody put into etcd");
	set_file(&s, p, &p->last);
	if (plain)
		add(s.check, "now --encryption-provider-config itself can go, too", "%s", "");
	set(&s, "back", "Put %s.last back on every API server.", p->file);
	step_end(steps, &s);
}

static bool
reads_kms(const struct plan *p)
{
	for (size_t i = 0; i < p->moved_count; i++) {
		const struct ec_group *g = &p->config->groups[p->moved[i]];
		for (size_t j = 0; j < g->providers_count; j++)
			if (g->providers[j].kind == EC_KMS)
				return true;
	}
	return false;
}

static void
say_backups(const struct plan *p, json_t *steps, const char *old)
{
	struct step s = step_begin("backups");

	set(&s, "title", "Keep what the backups from before need");
	set(&s, "why",
		"A backup of etcd from before is restored with the file from before, and needs "
		"what that names (%s) until the last such backup is gone.",
		old);
	add(s.run, "keep it until then, and the keys and plugins that it names", "ls -l %s.before",
		p->file);
	if (p->kekd)
		add(s.run, "what it needs at kekd is not destroyed while it is registered",
			"kekctl snapshot register after.db --keep 90d");
	else if (reads_kms(p))
		add(s.run,
			"where that is kekd: the versions that it needs there are not destroyed "
			"while it is registered",
			"kekctl snapshot register before.db --keep 90d");
	set(&s, "back",
		"To restore such a backup: that file on every API server first, then "
		"etcd.");
	step_end(steps, &s);
}

/* ---- all of them ---- */

json_t *
plan_steps(const struct plan *p)
{
	bool reads = layout_equal(&p->readable, &p->now),
	     writes = layout_equal(&p->writes, &p->now);
	bool joins = p->merged && !layout_equal(&p->joint, &p->now);
	const struct {
		bool wanted;
		void (*say)(const struct plan *p, json_t *steps, const char *old);
	} all[] = {
		{ true, say_prepare },
		{ joins && !writes, say_joint },
		{ reads || writes, say_everywhere },
		{ !reads && !writes, say_readable },
		{ !writes, say_writes },
		{ true, say_reencrypt },
		{ true, say_verify },
		{ !layout_equal(&p->last, &p->writes), say_remove },
		{ true, say_backups },
	};
	_cleanup_(str_freep) char *old = list_old(p);
	json_t *steps = json_array();

	if (layout_equal(&p->last, &p->now))
		return steps;
	for (size_t i = 0; i < STR_COUNT(all); i++)
		if (all[i].wanted)
			all[i].say(p, steps, old && *old ? old : "what wrote before");
	return steps;
}
