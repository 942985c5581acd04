/* SPDX-License-Identifier: Apache-2.0 */
/* What is told of a snapshot: as JSON, and for people. */
#include "snapshot.h"

#include <string.h>

#define MIB 1048576.0

/* ---- JSON ---- */

static json_t *
key_ids_json(const struct version *v)
{
	json_t *array = json_array(), *none;
	const char *key_id;

	json_object_foreach(v->key_ids, key_id, none)
		json_array_append_new(array, json_string(key_id));
	return array;
}

static json_t *
version_json(const struct version *v)
{
	char id[UUID_TEXT_SIZE];
	json_t *value;

	uuid_format(&v->id, id);
	value = json_pack("{s:s, s:o, s:o, s:I, s:I, s:I}", "version_id", id, "version",
		v->number > 0 ? json_integer(v->number) : json_null(), "key_ids", key_ids_json(v),
		"seeds", (json_int_t)v->seeds, "live", (json_int_t)v->live, "superseded",
		(json_int_t)v->superseded);
	if (value && v->outcome)
		json_object_set_new(value, "verify", json_string(v->outcome));
	return value;
}

static json_t *
find_key(json_t *keys, const char *name)
{
	json_t *key;
	size_t i;

	json_array_foreach(keys, i, key)
		if (strcmp(string_of(key, "key"), name) == 0)
			return key;
	key = json_pack("{s:s?, s:[]}", "key", *name ? name : NULL, "versions");
	json_array_append_new(keys, key);
	return key;
}

static json_t *
keys_json(const struct tally *t)
{
	json_t *keys = json_array();

	for (size_t i = 0; i < t->versions_count; i++)
		json_array_append_new(
			json_object_get(find_key(keys, t->versions[i].key), "versions"),
			version_json(&t->versions[i]));
	return keys;
}

static int
compare_names(const void *a, const void *b)
{
	const char *const *x = a, *const *y = b;

	return strcmp(*x, *y);
}

/* By name, whatever the order is in which they were come by. */
static json_t *
resources_json(const struct tally *t)
{
	const char **names = calloc(json_object_size(t->by_resource) + 1, sizeof(*names)), *name;
	json_t *array = json_array(), *resource;
	size_t n = 0;

	json_object_foreach(t->by_resource, name, resource)
		if (names)
			names[n++] = name;
	if (names)
		qsort(names, n, sizeof(*names), compare_names);
	for (size_t i = 0; i < n; i++)
		json_array_append(array, json_object_get(t->by_resource, names[i]));
	free(names);
	return array;
}

json_t *
snapshot_json(const struct snapshot *s)
{
	const struct tally *t = &s->tally;

	return json_pack("{s:o, s:s, s:b, s:I, s:I, s:s?, s:b, s:s, s:o, s:o, s:o}", "file",
		json_string(s->path) ?: json_null(), "sha256", s->sha256, "hashed", (int)s->hashed,
		"size", (json_int_t)s->size, "etcd_revision", (json_int_t)mvcc_revision(s->mvcc),
		"cluster", tally_cluster(t), "complete", (int)t->complete, "taken", s->taken,
		"resources", resources_json(t), "keys", keys_json(t), "restorable",
		s->restorable < 0 ? json_null() : json_boolean(s->restorable > 0));
}

/* ---- for people ---- */

static const char *
counted(uint64_t n, const char *one, const char *many)
{
	return show_format("%llu %s", (unsigned long long)n, n == 1 ? one : many);
}

static void
show_head(const struct snapshot *s)
{
	_cleanup_(table_freep) struct table *t = table_new_block();
	uint64_t compacted = mvcc_compacted(s->mvcc);

	table_field(t, "File", "%s, %s", s->path,
		s->size < MIB ? show_format("%.0f KiB", (double)s->size / 1024)
			      : show_format("%.1f MiB", (double)s->size / MIB));
	table_field(t, "Taken", "%.10s %.8sZ%s", s->taken, s->taken + 11,
		s->copied ? ", by the newest Lease in it; the file's time is a copy's" : "");
	table_field(t, "Hash", "%s",
		s->hashed ? "good: it is as etcdctl wrote it"
			  : "none: not from \"etcdctl snapshot save\", so nothing tells whether "
			    "it is whole, and the newest");
	table_field(t, "Revision", "%llu%s", (unsigned long long)mvcc_revision(s->mvcc),
		compacted > 0 ? show_format(", compacted to %llu", (unsigned long long)compacted)
			      : "");
	if (tally_cluster(&s->tally))
		table_field(t, "Cluster", "%s", tally_cluster(&s->tally));
	table_field(t, "Values", "%llu live, %llu superseded or deleted",
		(unsigned long long)s->tally.live, (unsigned long long)s->tally.superseded);
	table_print(t);
}

static bool
is_told(const struct tally *t, const json_t *resource, const json_t *row)
{
	struct resource r = { .object = "" };

	snprintf(r.name, sizeof(r.name), "%s", string_of(resource, "resource"));
	snprintf(r.group, sizeof(r.group), "%s", string_of(resource, "group"));
	return strcmp(string_of(row, "kind"), "plaintext") != 0 ||
	       resource_is_among(&r, t->resources);
}

static void
add_row(struct table *table, const json_t *resource, const json_t *row)
{
	const char *group = string_of(resource, "group"), *kind = string_of(row, "kind");
	bool plain = strcmp(kind, "plaintext") == 0;

	table_row(
		table, (const char *const[]){ show_format("%s%s%s", string_of(resource, "resource"),
						      *group ? "." : "", group),
			       plain ? "PLAINTEXT"
				     : show_format("%s (%s)", string_of(row, "provider"), kind),
			       plain ? "" : show_text(row, "key_id"), show_number(row, "live"),
			       show_number(row, "superseded") });
}

struct rest {
	uint64_t resources, live, superseded;
};

static void
add_resource(const struct tally *t, struct table *table, const json_t *resource, struct rest *rest)
{
	const json_t *row;
	size_t i;

	json_array_foreach(json_object_get(resource, "providers"), i, row)
		if (is_told(t, resource, row)) {
			add_row(table, resource, row);
		} else {
			rest->resources++;
			rest->live += (uint64_t)number_of(row, "live");
			rest->superseded += (uint64_t)number_of(row, "superseded");
		}
}

static void
show_resources(const struct tally *t)
{
	_cleanup_(table_freep) struct table *table = table_new((const char *const[]){
		"RESOURCE", "PROVIDER", "KEY ID", ">LIVE", ">SUPERSEDED", NULL });
	_cleanup_(json_freep) json_t *resources = resources_json(t);
	struct rest rest = { 0 };
	const json_t *resource;
	size_t i;

	json_array_foreach(resources, i, resource)
		add_resource(t, table, resource, &rest);
	putchar('\n');
	if (table_rows(table) > 0)
		table_print(table);
	else
		printf("There is no value of %s, and no encrypted one.\n", t->resources);
	if (rest.resources > 0)
		printf("Besides, %s not expected to be encrypted: %llu live, %llu superseded, in "
		       "plaintext.\n",
			counted(rest.resources, "resource", "resources"),
			(unsigned long long)rest.live, (unsigned long long)rest.superseded);
}

static void
show_versions(const struct tally *t)
{
	_cleanup_(table_freep) struct table *table = table_new((const char *const[]){ "KEY",
		"VERSION", "VERSION ID", ">SEEDS", ">LIVE", ">SUPERSEDED", "VERIFIED", NULL });

	for (size_t i = 0; i < t->versions_count; i++) {
		const struct version *v = &t->versions[i];
		char id[UUID_TEXT_SIZE];
		uuid_format(&v->id, id);
		table_row(table, (const char *const[]){ *v->key ? v->key : "-",
					 v->number > 0 ? show_format("v%u", v->number) : "-", id,
					 show_format("%llu", (unsigned long long)v->seeds),
					 show_format("%llu", (unsigned long long)v->live),
					 show_format("%llu", (unsigned long long)v->superseded),
					 v->outcome ? v->outcome : "no" });
	}
	if (table_rows(table) == 0)
		return;
	puts("\nThe key versions of kekd that this backup needs:");
	table_print(table);
}

static void
show_plaintext(const struct tally *t)
{
	if (t->plain_live + t->plain_superseded == 0)
		return;
	show_line(
		show_format("In PLAINTEXT, of %s: %llu live, %llu superseded.", t->resources,
			(unsigned long long)t->plain_live, (unsigned long long)t->plain_superseded),
		true);
	puts(t->plain_live > 0 ? "  Let the API server encrypt them, then write them anew: "
				 "contrib/kubernetes/reencrypt."
			       : "  They go with etcd's next compaction; then \"etcdctl defrag\".");
}

static void
show_odd(const struct tally *t)
{
	if (t->odd > 0)
		show_line(show_format("%s not understood, as %.200s: the API server cannot read "
				      "them either",
				  counted(t->odd, "value was", "values were"), t->odd_example),
			true);
	else if (!t->complete)
		show_line("there is more in it than is counted: no cluster has as many seeds or "
			  "key ids",
			true);
}

/* The versions of one outcome, as "backup v3, backup v5". */
static void
show_bad_version(const struct version *v)
{
	static const struct {
		const char *outcome, *what;
	} texts[] = {
		{ "missing", "is missing: kekd does not have it. Restore it, or do without this "
			     "backup" },
		{ "disabled", "is disabled: kekctl key enable NAME VERSION" },
		{ "scheduled",
			"waits to be destroyed: kekctl key cancel NAME VERSION, while there is "
			"time" },
		{ "destroyed", "was destroyed: what was encrypted under it is gone" },
		{ "refused", "could not be asked for: this client needs the grant verify on the "
			     "key" },
		{ "failed", "does not unwrap every seed: altered, of another cluster, or the "
			    "version is missing" },
	};
	const char *what = v->outcome;

	for (size_t i = 0; i < STR_COUNT(texts); i++)
		if (strcmp(texts[i].outcome, v->outcome) == 0)
			what = texts[i].what;
	show_line(show_format("  %s %s %s", *v->key ? v->key : "(a key that is not named)",
			  v->number > 0 ? show_format("v%u", v->number) : "a version", what),
		true);
}

static void
show_bad_versions(const struct tally *t)
{
	for (size_t i = 0; i < t->versions_count; i++)
		if (t->versions[i].outcome && strcmp(t->versions[i].outcome, "ok") != 0)
			show_bad_version(&t->versions[i]);
}

/* Every version's answer came. */
static bool
is_asked(const struct tally *t)
{
	for (size_t i = 0; i < t->versions_count; i++)
		if (!t->versions[i].outcome || strcmp(t->versions[i].outcome, "refused") == 0)
			return false;
	return true;
}

/* As "restorable" has it in JSON. */
static void
show_asked(const struct snapshot *s)
{
	const struct tally *t = &s->tally;
	const char *versions = counted(t->versions_count, "version", "versions");

	if (s->restorable < 0 && !is_asked(t))
		show_line("Whether it can be restored is not known: kekd did not tell of every "
			  "seed.",
			true);
	else if (!t->complete)
		show_line("Whether it can be restored is not known: not all of it was understood.",
			true);
	else if (!s->hashed)
		show_line(
			"Whether it can be restored is not known: it has no hash, and may be a "
			"copy that lacks values. \"etcdctl snapshot save FILE\" makes a whole one.",
			true);
	else if (t->versions_count == 0)
		puts("No version of kekd is needed to restore it.");
	else if (s->restorable < 0)
		printf("What hangs on kekd's keys is restorable: %s, all present and enabled.\n",
			versions);
	else
		printf("This backup is restorable: %s, all present and enabled.\n", versions);
}

static void
show_verdict(const struct snapshot *s)
{
	const struct tally *t = &s->tally;

	if (s->restorable == 0)
		show_line("This backup is NOT restorable as it stands:", true);
	else if (args_has(&s->ctl->args, "verify"))
		show_asked(s);
	else
		printf("Whether it can be restored was not asked%s.\n",
			t->versions_count > 0 ? ": --verify" : "");
	show_bad_versions(t);
	if (t->other > 0)
		printf("%s on other providers' keys, which kekd cannot check.\n",
			counted(t->other, "value hangs", "values hang"));
}

void
snapshot_show(const struct snapshot *s)
{
	show_head(s);
	show_resources(&s->tally);
	show_versions(&s->tally);
	putchar('\n');
	show_plaintext(&s->tally);
	show_odd(&s->tally);
	show_verdict(s);
}
