/* SPDX-License-Identifier: Apache-2.0 */
/* kekctl key …: keys and their versions. New versions are rotation.c's. */
#include "key.h"

#include <string.h>

const char *
key_path(const char *name)
{
	return show_format("/v1/keys/%s", name);
}

/* ---- showing ---- */

static const char *
key_state(const json_t *key)
{
	if (json_is_true(json_object_get(key, "refused")))
		return "refused";
	if (json_is_true(json_object_get(key, "frozen")))
		return "frozen";
	return number_of(key, "primary") > 0 ? "ok" : "no primary";
}

static int
run_list(struct ctl *ctl)
{
	_cleanup_(json_freep) json_t *list = NULL;
	_cleanup_(table_freep) struct table *t = NULL;
	const json_t *key;
	size_t i;
	int status = ctl_list(ctl, "/v1/keys", "keys", &list);

	if (status != CTL_OK)
		return status;
	if (ctl->json) {
		show_json(list);
		return CTL_OK;
	}
	t = table_new((const char *const[]){ "NAME", "STATE", "PRIMARY", ">VERSIONS", "ACTIVATED",
		"NEXT ROTATION", "CREATED", "LABELS", NULL });
	json_array_foreach(json_object_get(list, "keys"), i, key) {
		if (ctl->quiet) {
			puts(string_of(key, "name"));
			continue;
		}
		table_row(t, (const char *const[]){ string_of(key, "name"), key_state(key),
				     show_version(key, "primary"),
				     show_format("%zu",
					     json_array_size(json_object_get(key, "versions"))),
				     show_time(key, "activated"), show_time(key, "next_rotation"),
				     show_time(key, "created"),
				     show_pairs(json_object_get(key, "labels")) });
	}
	if (table_rows(t) > 0)
		table_print(t);
	else if (!ctl->quiet)
		puts("There is no key that this client may see. \"kekctl key create NAME\" makes "
		     "one.");
	return CTL_OK;
}

const json_t *
key_version_of(const json_t *key, long long number)
{
	const json_t *version;
	size_t i;

	json_array_foreach(json_object_get(key, "versions"), i, version)
		if (number_of(version, "version") == number)
			return version;
	return NULL;
}

static const char *
role(const json_t *key, const json_t *version)
{
	const char *adopted = json_is_object(json_object_get(version, "adopted")) ? "adopted" : "";
	long long number = number_of(version, "version");

	const char *place = number == number_of(key, "primary")	   ? "primary"
			    : number == number_of(key, "previous") ? "previous"
								   : "";

	return show_format("%s%s%s", place, *place && *adopted ? ", " : "", adopted);
}

static void
show_head(const json_t *key)
{
	_cleanup_(table_freep) struct table *t = table_new_block();
	const json_t *primary = key_version_of(key, number_of(key, "primary"));

	table_field(t, "Key", "%s", string_of(key, "name"));
	table_field(t, "Algorithm", "%s", show_text(key, "algorithm"));
	table_field(t, "Primary", "%s", show_version(key, "primary"));
	table_field(t, "Previous", "%s", show_version(key, "previous"));
	table_field(t, "KMS key id", "%s", show_text(key, "kms_key_id"));
	table_field(t, "Activation", "%s, %s", show_number(key, "activation"),
		show_time(key, "activated"));
	if (primary)
		table_field(t, "In the token", "%s",
			show_list(json_object_get(primary, "attributes"), ", "));
	if (json_is_string(json_object_get(key, "rotate_every")))
		table_field(t, "Rotates", "every %s, next %s", show_text(key, "rotate_every"),
			show_time(key, "next_rotation"));
	else
		table_field(t, "Rotates", "not by itself");
	if (json_is_true(json_object_get(key, "frozen")))
		table_field(t, "FROZEN", "unwraps only; kekctl key unfreeze %s lifts it",
			string_of(key, "name"));
	if (*string_of(key, "when_stale") && strcmp(string_of(key, "when_stale"), "unwrap") != 0)
		table_field(t, "When stale", "%s", string_of(key, "when_stale"));
	table_field(t, "Labels", "%s", show_pairs(json_object_get(key, "labels")));
	table_field(t, "Created", "%s", show_time(key, "created"));
	table_field(t, "Revision", "%s", show_number(key, "revision"));
	table_print(t);
}

static void
show_versions(const json_t *key)
{
	_cleanup_(table_freep) struct table *t = table_new((const char *const[]){ "VERSION", "ROLE",
		"STATE", "PROVEN", "TOKEN", "CREATED", "STATE SINCE", "ID", NULL });
	const json_t *v;
	size_t i;

	json_array_foreach(json_object_get(key, "versions"), i, v)
		table_row(t, (const char *const[]){ show_version(v, "version"), role(key, v),
				     show_text(v, "state"),
				     json_is_true(json_object_get(v, "proven")) ? "yes" : "no",
				     show_text(v, "token"), show_time(v, "created"),
				     show_time(v, "state_changed"), show_text(v, "id") });
	table_print(t);
}

static int
run_show(struct ctl *ctl)
{
	_cleanup_(json_freep) json_t *key = NULL;
	int status = ctl_check_name("key", ctl->args.words[0]);

	if (status == CTL_OK)
		status = ctl_get(ctl, key_path(ctl->args.words[0]), &key);
	if (status != CTL_OK)
		return status;
	if (ctl->json) {
		show_json(key);
		return CTL_OK;
	}
	show_head(key);
	putchar('\n');
	show_versions(key);
	return CTL_OK;
}

/* ---- changing ---- */

void
key_show_change(const struct ctl *ctl, const json_t *key, const char *text)
{
	if (ctl->json)
		show_json(key);
	else if (!ctl->quiet)
		printf("%s\n", text);
}

static int
run_create(struct ctl *ctl)
{
	_cleanup_(json_freep) json_t *body = json_object();
	_cleanup_(json_freep) json_t *labels = NULL;
	_cleanup_(json_freep) json_t *key = NULL;
	const char *name = ctl->args.words[0], *token = args_value(&ctl->args, "token");
	int status = ctl_check_name("key", name);

	if (status == CTL_OK)
		status = args_pairs(&ctl->args, "label", &labels);
	if (status != CTL_OK)
		return status;
	json_object_set_new(body, "name", json_string(name));
	if (labels)
		json_object_set(body, "labels", labels);
	if (token)
		json_object_set_new(body, "token", json_string(token));
	if (args_has(&ctl->args, "rotate-every"))
		json_object_set_new(body, "rotate_every", key_rotate_every(ctl));
	status = ctl_request(ctl, "POST", "/v1/keys", body, NULL, "*", &key);
	if (status != CTL_OK)
		return status;
	key_show_change(ctl, key,
		show_format("%s: created, %s is the primary version, in token %s", name,
			show_version(key, "primary"),
			show_text(key_version_of(key, number_of(key, "primary")), "token")));
	return CTL_OK;
}

/* "3" or "v3". */
int
key_version_number(const char *text, unsigned long *ret_number)
{
	const char *digits = text + (text[0] == 'v');
	char *end;
	unsigned long n = strtoul(digits, &end, 10);

	if (*digits < '1' || *digits > '9' || *end || n > 1000000) {
		say_error("\"%s\" is not a version's number", text);
		say_hint("%s", hint_for("version_not_found"));
		return CTL_USAGE;
	}
	*ret_number = n;
	return CTL_OK;
}

int
key_change_version(struct ctl *ctl, const char *what, const char *done)
{
	_cleanup_(json_freep) json_t *body = json_object();
	_cleanup_(json_freep) json_t *key = NULL;
	const char *name = ctl->args.words[0];
	unsigned long number = 0;
	char etag[64];
	int status = ctl_check_name("key", name);

	if (status == CTL_OK)
		status = key_version_number(ctl->args.words[1], &number);
	if (status == CTL_OK)
		status = ctl_get_etag(ctl, key_path(name), etag, NULL);
	if (status == CTL_OK)
		status = ctl_request(ctl, "POST",
			show_format("/v1/keys/%s/versions/%lu/%s", name, number, what), body, etag,
			NULL, &key);
	if (status != CTL_OK)
		return status;
	key_show_change(ctl, key, show_format("%s: v%lu is %s now", name, number, done));
	return CTL_OK;
}

static int
run_enable(struct ctl *ctl)
{
	return key_change_version(ctl, "enable", "enabled");
}

static int
run_disable(struct ctl *ctl)
{
	return key_change_version(ctl, "disable", "disabled");
}

static int
run_primary(struct ctl *ctl)
{
	return key_change_version(ctl, "primary", "the primary version");
}

static int
change_label(json_t *labels, const char *word)
{
	const char *equals = strchr(word, '=');
	size_t len = equals ? (size_t)(equals - word) : strlen(word);
	_cleanup_(str_freep) char *name = NULL;
	bool removes = !equals && len > 1 && word[len - 1] == '-';

	if (len == 0 || (!equals && !removes)) {
		say_error("\"%s\" is neither K=V, which sets a label, nor K-, which removes one",
			word);
		return CTL_USAGE;
	}
	name = strndup(word, removes ? len - 1 : len);
	if (!name)
		return CTL_FAILED;
	if (removes) {
		json_object_del(labels, name);
	} else if (json_object_set_new(labels, name, json_string(equals + 1)) < 0) {
		say_error("\"%s\" is not UTF-8", word);
		return CTL_USAGE;
	}
	return CTL_OK;
}

static int
run_label(struct ctl *ctl)
{
	_cleanup_(json_freep) json_t *before = NULL;
	_cleanup_(json_freep) json_t *body = json_object();
	_cleanup_(json_freep) json_t *key = NULL;
	const char *name = ctl->args.words[0];
	json_t *labels;
	char etag[64];
	int status = ctl_check_name("key", name);

	if (status == CTL_OK)
		status = ctl_get_etag(ctl, key_path(name), etag, &before);
	labels = json_deep_copy(json_object_get(before, "labels"));
	if (!labels)
		labels = json_object();
	json_object_set_new(body, "labels", labels);
	for (size_t i = 1; status == CTL_OK && i < ctl->args.words_count; i++)
		status = change_label(labels, ctl->args.words[i]);
	if (status == CTL_OK)
		status = ctl_request(ctl, "PATCH", key_path(name), body, etag, NULL, &key);
	if (status != CTL_OK)
		return status;
	key_show_change(ctl, key,
		show_format("%s: labels are %s", name, show_pairs(json_object_get(key, "labels"))));
	return CTL_OK;
}

const struct ctl_command ctl_key_commands[] = {
	{ "key create", "NAME [--label K=V]... [--token TOKEN] [--rotate-every TIME]",
		"Creates a key with its first version, inside the token",
		"NAME has 1 to 64 of a-z 0-9 . _ - with a letter or digit at both ends.\n"
		"Without --token, the first token of the server's configuration holds it.\n"
		"TIME is as 24h or 90d: the key then rotates by itself.",
		" label token rotate-every ", 1, 1, run_create },
	{ "key list", "", "Lists the keys that this client may see", NULL, "", 0, 0, run_list },
	{ "key show", "NAME", "Shows a key and its versions", NULL, "", 1, 1, run_show },
	{ "key adopt", "NAME|--all [--object-id HEX] [--token TOKEN] [--ivs-used N]",
		"Takes in objects of the tokens that no metadata knows",
		"After lost metadata: every object with the label kekd:CLUSTER:NAME:vN becomes\n"
		"version N again, and --all does so for every key. With --object-id it is one\n"
		"object that others made, and becomes the next version of NAME.\n"
		"Nobody knows how many IVs were drawn under them: unless --ivs-used tells, an\n"
		"adopted version only unwraps, and a new key is rotated at once.",
		" all object-id token ivs-used ", 0, 1, key_adopt_run },
	{ "key enable", "NAME VERSION", "Lets a disabled version work again", NULL, "", 2, 2,
		run_enable },
	{ "key disable", "NAME VERSION", "Lets a version refuse to unwrap, until it is enabled",
		"If it is the primary, rotate first, so that another one wraps.", "", 2, 2,
		run_disable },
	{ "key primary", "NAME VERSION", "Lets an older version wrap again",
		"The version must be enabled. The KMS key id is a new one each time.", "", 2, 2,
		run_primary },
	{ "key label", "NAME K=V|K-...", "Sets and removes labels",
		"K=V sets a label, K- removes one; the others stay.", "", 2, CTL_ARGS_MAX,
		run_label },
	{ NULL },
};
