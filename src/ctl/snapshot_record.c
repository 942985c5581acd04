/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What of an etcd snapshot's report kekd is to know: which versions of which keys it needs. A
 * version whose key the report does not name is looked for among the keys that kekd has; with
 * --force each is, as the server takes none that it does not have.
 */
#include "snapshot_record.h"

#include "kekd/clock.h"

#include <ctype.h>
#include <string.h>

/* ---- versions ---- */

struct gather {
	struct ctl *ctl;
	json_t *versions; /* by version_id: the record's entries */
	json_t *keys;	  /* of kekd: version_id → key's name; NULL: not asked yet */
	json_t *named;	  /* key's name → {version_id: …}; null: this client may not see it */
	size_t unknown;
};

static int
ask_keys(struct gather *g)
{
	_cleanup_(json_freep) json_t *list = NULL;
	const json_t *key, *version;
	size_t i, j;
	int status = ctl_list(g->ctl, "/v1/keys", "keys", &list);

	if (status != CTL_OK) {
		say_hint("the report does not name the keys of all versions, so kekd is asked: "
			 "that takes key.read");
		return status;
	}
	g->keys = json_object();
	json_array_foreach(json_object_get(list, "keys"), i, key)
		json_array_foreach(json_object_get(key, "versions"), j, version)
			json_object_set_new(g->keys, string_of(version, "id"),
				json_string(string_of(key, "name")));
	return CTL_OK;
}

/* "": kekd has no such version. */
static int
find_key(struct gather *g, const char *id, const char **ret_key)
{
	int status = g->keys ? CTL_OK : ask_keys(g);

	if (status == CTL_OK)
		*ret_key = string_of(g->keys, id);
	return status;
}

static json_t *
ids_of(const json_t *key)
{
	json_t *ids = json_object(), *version;
	size_t i;

	json_array_foreach(json_object_get(key, "versions"), i, version)
		json_object_set_new(ids, string_of(version, "id"), json_true());
	return ids;
}

/* One that does not exist has no versions. */
static int
ask_key(struct gather *g, const char *name)
{
	_cleanup_(kekd_reply_free) struct kekd_reply reply = { 0 };
	int status = CTL_OK;

	if (json_object_get(g->named, name))
		return CTL_OK;
	if (str_is_name(name)) {
		status = ctl_exchange(
			g->ctl, "GET", show_format("/v1/keys/%s", name), NULL, NULL, NULL, &reply);
		if (status == CTL_OK && reply.status != 403 && reply.status != 404)
			status = ctl_check_reply(&reply);
	}
	if (status == CTL_OK)
		json_object_set_new(
			g->named, name, reply.status == 403 ? json_null() : ids_of(reply.json));
	return status;
}

/* Its key's name, "" if kekd has no such version. What this client may not see the server knows. */
static int
resolve(struct gather *g, const char *id, const char **key)
{
	const json_t *ids;
	int status;

	if (!**key)
		return find_key(g, id, key);
	if (!g->ctl->force)
		return CTL_OK;
	status = ask_key(g, *key);
	ids = json_object_get(g->named, *key);
	if (status == CTL_OK && json_is_object(ids) && !json_object_get(ids, id))
		*key = "";
	return status;
}

static void
add_values(json_t *entry, const char *member, long long more)
{
	json_object_set_new(entry, member, json_integer(number_of(entry, member) + more));
}

static int
take_version(struct gather *g, const char *key, const json_t *version)
{
	const char *id = string_of(version, "version_id");
	long long live = number_of(version, "live"), superseded = number_of(version, "superseded");
	json_t *entry = json_object_get(g->versions, id);
	int status = CTL_OK;

	if (live == 0 && superseded == 0)
		return CTL_OK;
	if (!entry)
		status = resolve(g, id, &key);
	if (status != CTL_OK)
		return status;
	if (!entry && !*key) {
		say_note("version %s is of no key that this client sees in kekd", id);
		g->unknown++;
		return CTL_OK;
	}
	if (!entry) {
		entry = json_pack("{s:s, s:s}", "key", key, "version_id", id);
		json_object_set_new(g->versions, id, entry);
	}
	add_values(entry, "live", live);
	add_values(entry, "superseded", superseded);
	return CTL_OK;
}

static int
take_versions(struct gather *g, const json_t *report)
{
	const json_t *key, *version;
	size_t i, j;
	int status = CTL_OK;

	json_array_foreach(json_object_get(report, "keys"), i, key)
		json_array_foreach(json_object_get(key, "versions"), j, version)
			if (status == CTL_OK)
				status = take_version(g, string_of(key, "key"), version);
	if (status != CTL_OK || g->unknown == 0)
		return status;
	if (g->ctl->force)
		return CTL_OK;
	say_error("%zu of the versions that the snapshot needs are not in this kekd", g->unknown);
	say_hint("is it a snapshot of another kekd's cluster? --force leaves them out, and "
		 "registers "
		 "the snapshot as not complete");
	return CTL_NOT_FOUND;
}

static json_t *
values_of(const json_t *object)
{
	json_t *list = json_array(), *value;
	const char *name;

	json_object_foreach((json_t *)object, name, value)
		json_array_append(list, value);
	return list;
}

/* ---- the rest ---- */

static long long
plaintext_of(const json_t *report)
{
	const json_t *resource;
	long long n = 0;
	size_t i;

	json_array_foreach(json_object_get(report, "resources"), i, resource)
		n += number_of(json_object_get(resource, "live"), "plaintext") +
		     number_of(json_object_get(resource, "superseded"), "plaintext");
	return n;
}

/* ---- is it a report? ---- */

static bool
has_count(const json_t *o, const char *member)
{
	const json_t *n = json_object_get(o, member);

	return json_is_integer(n) && json_integer_value(n) >= 0;
}

static bool
is_version(const json_t *v)
{
	return json_is_string(json_object_get(v, "version_id")) && has_count(v, "live") &&
	       has_count(v, "superseded");
}

static bool
is_key(const json_t *k)
{
	const json_t *name = json_object_get(k, "key"), *v;
	size_t i;

	json_array_foreach(json_object_get(k, "versions"), i, v)
		if (!is_version(v))
			return false;
	return (json_is_string(name) || json_is_null(name)) &&
	       json_is_array(json_object_get(k, "versions"));
}

static bool
is_resource(const json_t *r)
{
	return has_count(json_object_get(r, "live"), "plaintext") &&
	       has_count(json_object_get(r, "superseded"), "plaintext");
}

static bool
is_list(const json_t *array, bool (*is_item)(const json_t *item))
{
	const json_t *item;
	size_t i;

	json_array_foreach((json_t *)array, i, item)
		if (!is_item(item))
			return false;
	return json_is_array(array);
}

/* What cannot be read of it must not be taken to need nothing. */
static bool
is_report(const json_t *r)
{
	uint64_t us;

	return is_list(json_object_get(r, "keys"), is_key) &&
	       is_list(json_object_get(r, "resources"), is_resource) &&
	       json_is_string(json_object_get(r, "sha256")) &&
	       json_is_boolean(json_object_get(r, "complete")) &&
	       json_is_boolean(json_object_get(r, "hashed")) && has_count(r, "etcd_revision") &&
	       clock_parse(string_of(r, "taken"), &us) == 0;
}

/* Every value was understood, and none can be missing. */
static bool
is_whole(const json_t *report)
{
	return json_is_true(json_object_get(report, "complete")) &&
	       json_is_true(json_object_get(report, "hashed"));
}

static int
check_report(const json_t *report, const char *cluster)
{
	if (!is_report(report)) {
		say_error("this is no report of \"kekctl etcd-snapshot FILE -o json\", or not all "
			  "of it");
		return CTL_USAGE;
	}
	if (*cluster)
		return CTL_OK;
	say_error("the snapshot does not tell of which cluster it is");
	say_hint("--cluster NAME: the cluster's name in kekd-kms.yaml");
	return CTL_USAGE;
}

/* ---- the whole ---- */

int
snapshot_record(struct ctl *ctl, const json_t *report, const char *cluster, json_t **ret_body)
{
	struct gather g = { .ctl = ctl, .versions = json_object(), .named = json_object() };
	const char *own = string_of(report, "cluster");
	int status;

	cluster = cluster ? cluster : own;
	status = check_report(report, cluster);
	if (status == CTL_OK)
		status = take_versions(&g, report);
	if (status == CTL_OK)
		*ret_body = json_pack("{s:s, s:s, s:s, s:I, s:b, s:I, s:o}", "cluster", cluster,
			"taken", string_of(report, "taken"), "sha256", string_of(report, "sha256"),
			"etcd_revision", number_of(report, "etcd_revision"), "complete",
			is_whole(report) && g.unknown == 0, "plaintext", plaintext_of(report),
			"versions", values_of(g.versions));
	if (status == CTL_OK && !*ret_body) {
		say_error("the cluster's name is no text in UTF-8");
		status = CTL_USAGE;
	}
	if (status == CTL_OK && *own && strcmp(own, cluster) != 0)
		say_note("the values in it say that they are of cluster %s", own);
	json_decref(g.versions);
	json_decref(g.keys);
	json_decref(g.named);
	return status;
}

/* "-20260131-120000" is 16 characters. */
void
snapshot_default_id(const json_t *body, char ret_id[STR_NAME_MAX + 1])
{
	const char *cluster = string_of(body, "cluster"), *t = string_of(body, "taken");
	char name[STR_NAME_MAX - 16 + 1];
	size_t len = 0;

	for (; *cluster && len < sizeof(name) - 1; cluster++) {
		char c = (char)tolower((unsigned char)*cluster);
		bool plain = isalnum((unsigned char)c) || c == '.' || c == '_';
		if (plain || len > 0)
			name[len++] = plain ? c : '-';
	}
	name[len] = '\0';
	if (strlen(t) < 20)
		t = "0000-00-00T00:00:00Z";
	snprintf(ret_id, STR_NAME_MAX + 1, "%s-%.4s%.2s%.2s-%.2s%.2s%.2s",
		isalnum((unsigned char)name[0]) ? name : "snapshot", t, t + 5, t + 8, t + 11,
		t + 14, t + 17);
}
