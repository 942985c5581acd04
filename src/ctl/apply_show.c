/* SPDX-License-Identifier: Apache-2.0 */
/* What apply would do, and what it did: a table with a sign in front, or JSON. */
#include "apply.h"

static const char *const action_names[] = {
	[APPLY_NOTHING] = "nothing",
	[APPLY_CREATE] = "create",
	[APPLY_UPDATE] = "update",
};
static const char *const result_names[] = {
	[APPLY_TODO] = "not done",
	[APPLY_DONE] = "done",
	[APPLY_PENDING] = "pending",
	[APPLY_FAILED] = "failed",
};

/* ---- JSON ---- */

static json_t *
resource_json(const struct apply_resource *r, bool results)
{
	json_t *value = json_pack("{s:s}", "kind", apply_kind_names[r->kind]);

	if (*r->name)
		json_object_set_new(value, "name", json_string(r->name));
	json_object_set_new(value, "file", json_string(r->file));
	json_object_set_new(value, "line", json_integer(r->line));
	json_object_set_new(value, "action", json_string(action_names[r->action]));
	json_object_set(value, "changes", r->changes);
	if (results)
		json_object_set_new(value, "result", json_string(result_names[r->result]));
	if (*r->approval)
		json_object_set_new(value, "approval", json_string(r->approval));
	if (*r->error)
		json_object_set_new(value, "error", json_string(r->error));
	return value;
}

static void
show_as_json(const struct apply_set *s, bool results)
{
	_cleanup_(json_freep) json_t *list = json_array();

	for (size_t i = 0; i < s->count; i++)
		if (s->list[i].action != APPLY_NOTHING)
			json_array_append_new(list, resource_json(&s->list[i], results));
	show_json(list);
}

/* ---- the plan ---- */

static const char *
value_text(const json_t *value)
{
	if (json_is_integer(value))
		return show_format("%lld", (long long)json_integer_value(value));
	if (json_is_boolean(value))
		return json_is_true(value) ? "true" : "false";
	return json_string_value(value);
}

/* An item of a set is its own value. */
static void
add_change(struct table *t, const json_t *change)
{
	const char *sign = string_of(change, "change"), *item = string_of(change, "item");
	const char *from = value_text(json_object_get(change, "from"));
	const char *to = value_text(json_object_get(change, "to"));
	bool is_set = *item && !from && !to;

	if (is_set && *sign == '+')
		to = item;
	else if (is_set)
		from = item;
	table_row(t, (const char *const[]){ sign,
			     show_format("  %s%s%s", string_of(change, "member"),
				     *item && !is_set ? "." : "", is_set ? "" : item),
			     from ? from : "", to ? to : "" });
}

static size_t
count_action(const struct apply_set *s, enum apply_action action)
{
	size_t n = 0;

	for (size_t i = 0; i < s->count; i++)
		n += s->list[i].action == action;
	return n;
}

static size_t
count_result(const struct apply_set *s, enum apply_result result)
{
	size_t n = 0;

	for (size_t i = 0; i < s->count; i++)
		n += s->list[i].action != APPLY_NOTHING && s->list[i].result == result;
	return n;
}

static void
print_nothing(const struct ctl *ctl, const struct apply_set *s, bool differs)
{
	if (!ctl->quiet)
		printf("nothing %s (%zu %s compared)\n", differs ? "differs" : "to change",
			s->count, s->count == 1 ? "resource" : "resources");
}

void
apply_show_plan(const struct ctl *ctl, const struct apply_set *s, bool differs)
{
	_cleanup_(table_freep) struct table *t = NULL;
	size_t unchanged = count_action(s, APPLY_NOTHING), i;
	const json_t *change;

	if (ctl->json) {
		show_as_json(s, false);
		return;
	}
	if (unchanged == s->count) {
		print_nothing(ctl, s, differs);
		return;
	}
	if (ctl->quiet)
		return;
	t = table_new((const char *const[]){ "", "RESOURCE", "NOW", "WANTED", NULL });
	for (size_t n = 0; n < s->count; n++) {
		const struct apply_resource *r = &s->list[n];
		if (r->action == APPLY_NOTHING)
			continue;
		table_row(t, (const char *const[]){ r->action == APPLY_CREATE ? "+" : "~",
				     apply_label(r), "", "" });
		json_array_foreach(r->changes, i, change)
			add_change(t, change);
	}
	table_print(t);
	printf("%zu to create, %zu to change, %zu as they should be\n",
		count_action(s, APPLY_CREATE), count_action(s, APPLY_UPDATE), unchanged);
}

/* ---- the results ---- */

static const char *
result_text(const struct apply_resource *r)
{
	if (r->result == APPLY_DONE)
		return r->action == APPLY_CREATE ? "created" : "changed";
	if (r->result == APPLY_PENDING)
		return show_format(
			"waits for another administrator: kekctl approve %s", r->approval);
	return result_names[r->result];
}

void
apply_show_results(const struct ctl *ctl, const struct apply_set *s)
{
	_cleanup_(table_freep) struct table *t = NULL;

	if (ctl->json) {
		show_as_json(s, true);
		return;
	}
	if (count_action(s, APPLY_NOTHING) == s->count) {
		print_nothing(ctl, s, false);
		return;
	}
	if (ctl->quiet)
		return;
	t = table_new_block();
	for (size_t i = 0; i < s->count; i++)
		if (s->list[i].action != APPLY_NOTHING)
			table_field(t, apply_label(&s->list[i]), "%s", result_text(&s->list[i]));
	table_print(t);
	printf("%zu done, %zu pending, %zu failed, %zu not done, %zu as they should be\n",
		count_result(s, APPLY_DONE), count_result(s, APPLY_PENDING),
		count_result(s, APPLY_FAILED), count_result(s, APPLY_TODO),
		count_action(s, APPLY_NOTHING));
}
