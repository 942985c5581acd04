/* SPDX-License-Identifier: Apache-2.0 */
/* etcd-snapshot --values: which object hangs on which seed, a line each, as they are come by. */
#include "snapshot.h"

#include <string.h>

#define SEED_HEX 16 /* of a seed's SHA-256: as the audit log has it */

struct walk {
	struct snapshot *snapshot;
	snapshot_fn *fn;
	void *user;
};

static void
show_pace(void *user, unsigned pass)
{
	struct walk *w = user;
	struct snapshot *s = w->snapshot;

	progress_show(&s->progress, s->size + pass * bolt_used(s->bolt) + bolt_visited(s->bolt),
		pass == 0 ? "what lives" : "its values");
}

static int
take_record(void *user, const struct mvcc_record *record)
{
	struct walk *w = user;
	struct snapshot *s = w->snapshot;
	size_t len = strlen(s->prefix);
	struct resource r;
	struct value v;
	int err;

	if (strncmp(record->key, s->prefix, len) != 0 || !resource_parse(record->key + len, &r)) {
		tally_add_outside(&s->tally, record);
		return 0;
	}
	err = value_read(s->bolt, record->value, &v);
	return err == 0 ? w->fn(s, record, &r, &v, w->user) : err;
}

int
snapshot_each(struct snapshot *s, snapshot_fn *fn, void *user)
{
	struct walk w = { s, fn, user };
	int err = mvcc_index(s->mvcc, show_pace, &w);

	if (err == 0)
		err = mvcc_each(s->mvcc, take_record, show_pace, &w);
	return err == 0 ? bolt_check_unchanged(s->bolt) : err;
}

/* ---- a line ---- */

static bool
is_wanted_seed(const struct ctl *ctl, const char *hex)
{
	size_t n = args_count(&ctl->args, "seed");

	for (size_t i = 0; i < n; i++)
		if (strncmp(args_nth(&ctl->args, "seed", i), hex, SEED_HEX) == 0)
			return true;
	return n == 0;
}

static bool
is_wanted(
	const struct snapshot *s, const struct resource *r, const struct value *v, const char *hex)
{
	if (!is_wanted_seed(s->ctl, hex))
		return false;
	if (args_has(&s->ctl->args, "resources"))
		return resource_is_among(r, s->tally.resources);
	return v->kind != VALUE_PLAINTEXT || resource_is_among(r, s->tally.resources);
}

/* A key may hold any byte: JSON takes UTF-8 alone. */
static json_t *
text_json(const char *text)
{
	json_t *value = json_string(text);
	char *copy = value ? NULL : strdup(text);

	for (char *p = copy; p && *p; p++)
		if (*p < ' ' || *p > '~')
			*p = '?';
	if (copy)
		value = json_string(copy);
	free(copy);
	return value;
}

static void
show_json_line(const struct mvcc_record *record, const struct resource *r, const struct value *v,
	const char *hex)
{
	char id[UUID_TEXT_SIZE] = "", *text;
	_cleanup_(json_freep) json_t *line = NULL;

	if (v->kekd)
		uuid_format(&v->version, id);
	line = json_pack("{s:s, s:I, s:s, s:s, s:o, s:o, s:s, s:s, s:s?, s:s?, s:s?}", "state",
		record->live ? "live" : "superseded", "revision", (json_int_t)record->revision,
		"resource", r->name, "group", r->group, "object", text_json(r->object), "path",
		text_json(record->key), "kind", value_kind_name(v->kind), "provider",
		v->kind == VALUE_PLAINTEXT ? "identity" : v->provider, "key_id",
		v->kind == VALUE_KMS_V2 ? v->key_id : NULL, "version_id", v->kekd ? id : NULL,
		"seed", *hex ? hex : NULL);
	text = line ? json_dumps(line, JSON_COMPACT) : NULL;
	puts(text ? text : "");
	json_text_free(text);
}

static const char *
resource_text(const struct resource *r)
{
	return show_format("%s%s%s", r->name, *r->group ? "." : "", r->group);
}

static const char *
provider_text(const struct value *v)
{
	if (v->kind == VALUE_PLAINTEXT)
		return "plaintext";
	return show_format("%s (%s)", v->provider, value_kind_name(v->kind));
}

static int
show_value(struct snapshot *s, const struct mvcc_record *record, const struct resource *r,
	const struct value *v, void *user)
{
	uint64_t *shown = user;
	char hex[SEED_HEX + 1] = "";

	if (v->seed.size > 0)
		str_hex(v->seed_sha256, SEED_HEX / 2, hex);
	if (!is_wanted(s, r, v, hex))
		return 0;
	if (s->ctl->json)
		show_json_line(record, r, v, hex);
	else if (s->ctl->quiet)
		show_line(show_format("%s/%s", resource_text(r), r->object), false);
	else
		show_line(show_format("%-16s  %-10s  %10llu  %-32s  %-20s  %s", *hex ? hex : "-",
				  record->live ? "live" : "superseded",
				  (unsigned long long)record->revision, resource_text(r),
				  provider_text(v), r->object),
			v->kind == VALUE_PLAINTEXT);
	++*shown;
	return 0;
}

int
snapshot_values(struct snapshot *s)
{
	uint64_t shown = 0;
	int err;

	progress_end(&s->progress);
	if (!s->ctl->json && !s->ctl->quiet)
		printf("%-16s  %-10s  %10s  %-32s  %-20s  %s\n", "SEED", "STATE", "REVISION",
			"RESOURCE", "PROVIDER", "OBJECT");
	err = snapshot_each(s, show_value, &shown);
	fflush(stdout);
	if (err != 0)
		return snapshot_say_damaged(s, err, bolt_error(s->bolt));
	if (!s->ctl->quiet)
		say_note("%llu values", (unsigned long long)shown);
	return shown > 0 || !args_has(&s->ctl->args, "seed") ? CTL_OK : CTL_NOT_FOUND;
}
