/* SPDX-License-Identifier: Apache-2.0 */
/* kekctl hsm …: tokens, workers, and objects that nobody claims. All from the server's status. */
#include "ctl.h"

static void
show_tokens(const json_t *tokens)
{
	_cleanup_(table_freep) struct table *t = table_new(
		(const char *const[]){ "TOKEN", "READY", "LABEL", "SERIAL", "MANUFACTURER", "MODEL",
			">OBJECTS", ">WORKERS", "MODULE", NULL });
	const json_t *token;
	size_t i;

	json_array_foreach((json_t *)tokens, i, token)
		table_row(t, (const char *const[]){ string_of(token, "name"),
				     json_is_true(json_object_get(token, "ready")) ? "yes" : "no",
				     show_text(token, "label"), show_text(token, "serial"),
				     show_text(token, "manufacturer"), show_text(token, "model"),
				     show_number(token, "objects"),
				     show_format("%zu",
					     json_array_size(json_object_get(token, "workers"))),
				     show_text(token, "module") });
	table_print(t);
}

static void
add_workers(struct table *t, const json_t *token)
{
	const json_t *w;
	size_t i;

	json_array_foreach(json_object_get(token, "workers"), i, w)
		table_row(t,
			(const char *const[]){ string_of(token, "name"), show_number(w, "worker"),
				show_number(w, "pid"), show_text(w, "state"),
				show_number(w, "sessions"), show_number(w, "operations"),
				show_number(w, "in_flight"), show_number(w, "micros_per_op"),
				show_number(w, "restarts"), string_of(w, "message") });
}

static int
run_status(struct ctl *ctl)
{
	_cleanup_(json_freep) json_t *status = NULL;
	_cleanup_(table_freep) struct table *t = NULL;
	json_t *tokens, *token;
	size_t i;
	int exit_status = ctl_get(ctl, "/v1/status", &status);

	if (exit_status != CTL_OK)
		return exit_status;
	tokens = json_object_get(status, "tokens");
	if (ctl->json) {
		show_json(tokens);
		return CTL_OK;
	}
	if (!ctl->quiet) {
		show_tokens(tokens);
		putchar('\n');
	}
	t = table_new((const char *const[]){ "TOKEN", ">WORKER", ">PID", "STATE", ">SESSIONS",
		">OPERATIONS", ">IN FLIGHT", ">US/OPERATION", ">RESTARTS", "MESSAGE", NULL });
	json_array_foreach(tokens, i, token) {
		if (ctl->quiet)
			puts(string_of(token, "name"));
		else
			add_workers(t, token);
	}
	if (table_rows(t) > 0)
		table_print(t);
	return CTL_OK;
}

static int
run_objects(struct ctl *ctl)
{
	_cleanup_(json_freep) json_t *status = NULL;
	_cleanup_(table_freep) struct table *t = table_new(
		(const char *const[]){ "TOKEN", "OBJECT ID", "LABEL", NULL });
	json_t *objects, *o;
	size_t i;
	int exit_status = ctl_get(ctl, "/v1/status", &status);

	if (exit_status != CTL_OK)
		return exit_status;
	objects = json_object_get(status, "unknown_objects");
	if (!json_is_true(json_object_get(status, "swept")))
		say_note(
			"The server has not looked through its tokens since its start: ask again.");
	if (ctl->json) {
		show_json(objects);
		return CTL_OK;
	}
	json_array_foreach(objects, i, o) {
		if (ctl->quiet)
			puts(string_of(o, "object_id"));
		else
			table_row(t, (const char *const[]){ show_text(o, "token"),
					     show_text(o, "object_id"), show_text(o, "label") });
	}
	if (table_rows(t) > 0)
		table_print(t);
	else if (!ctl->quiet)
		puts("Every object in the tokens belongs to a key.");
	return CTL_OK;
}

static int
run_retry_pin(struct ctl *ctl)
{
	_cleanup_(json_freep) json_t *body = json_object();
	_cleanup_(json_freep) json_t *answer = NULL;
	json_t *token;
	size_t i;
	int status;

	if (ctl->args.words_count > 0)
		json_object_set_new(body, "token", json_string(ctl->args.words[0]));
	status = ctl_request(ctl, "POST", "/v1/hsm/retry-pin", body, NULL, NULL, &answer);
	if (status != CTL_OK)
		return status;
	if (ctl->json) {
		show_json(answer);
		return CTL_OK;
	}
	json_array_foreach(json_object_get(answer, "tokens"), i, token)
		say_note("The PIN of token %s is tried once: \"kekctl hsm status\" tells how that "
			 "ended.",
			json_string_value(token));
	return CTL_OK;
}

const struct ctl_command ctl_hsm_commands[] = {
	{ "hsm status", "", "Shows tokens and the workers that use them", NULL, "", 0, 0,
		run_status },
	{ "hsm objects", "", "Lists objects in the tokens that no key knows",
		"kekd does not delete them. They stay from an interrupted creation or lost "
		"metadata,\n"
		"or belong to another program.",
		"", 0, 0, run_objects },
	{ "hsm retry-pin", "[TOKEN]", "Lets the PIN of a token that waits for that be tried once",
		"A PIN that the token refused, or a token that has one try left, waits for an\n"
		"operator. Make sure of the PIN in the PIN source first. While no worker is "
		"logged\n"
		"in the server cannot know you: then use \"kekd retry-pin\" on its host.",
		"", 0, 1, run_retry_pin },
	{ NULL },
};
