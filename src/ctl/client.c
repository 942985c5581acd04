/* SPDX-License-Identifier: Apache-2.0 */
/* kekctl client …: who may do what. */
#include "ctl.h"

#include <string.h>

static const char *
client_path(const char *name)
{
	return show_format("/v1/clients/%s", name);
}

/* ---- adding ---- */

/* "KEYS:op,op": globs over key names have no colon. */
static json_t *
grant_json(const char *text)
{
	const char *colon = strrchr(text, ':');
	json_t *operations;

	if (!colon || colon == text || !colon[1])
		return NULL;
	operations = json_array();
	for (const char *p = colon + 1; *p;) {
		size_t len = strcspn(p, ",");
		if (len > 0)
			json_array_append_new(operations, json_stringn(p, len));
		p += len;
		p += *p == ',';
	}
	return json_pack("{s:o, s:o}", "keys", json_stringn(text, (size_t)(colon - text)),
		"operations", operations);
}

static int
add_grants(const struct ctl_args *a, json_t *body)
{
	json_t *grants = json_array();

	json_object_set_new(body, "grants", grants);
	for (size_t i = 0; i < args_count(a, "grant"); i++) {
		const char *text = args_nth(a, "grant", i);
		json_t *grant = grant_json(text);
		if (!grant) {
			say_error("--grant \"%s\" is not KEYS:OPERATION,OPERATION", text);
			say_hint("--grant 'app-*:wrap,unwrap'");
			return CTL_USAGE;
		}
		json_array_append_new(grants, grant);
	}
	return CTL_OK;
}

static void
add_texts(const struct ctl_args *a, const char *option, const char *member, json_t *body)
{
	json_t *texts = json_array();

	for (size_t i = 0; i < args_count(a, option); i++)
		json_array_append_new(texts, json_string(args_nth(a, option, i)));
	json_object_set_new(body, member, texts);
}

#define LIMIT_MAX 1000000

static const struct {
	const char *option, *member;
} limits[] = { { "requests-per-s", "requests_per_s" }, { "in-flight", "in_flight" } };

/* Into the body's limits; what is not given stays. */
static int
add_limits(const struct ctl_args *a, json_t *body)
{
	for (size_t i = 0; i < STR_COUNT(limits); i++) {
		unsigned n;
		if (!args_has(a, limits[i].option))
			continue;
		if (args_number(a, limits[i].option, 0, LIMIT_MAX, &n) != CTL_OK)
			return CTL_USAGE;
		if (!json_object_get(body, "limits"))
			json_object_set_new(body, "limits", json_object());
		json_object_set_new(
			json_object_get(body, "limits"), limits[i].member, json_integer(n));
	}
	return CTL_OK;
}

static int
check_add(const struct ctl *ctl)
{
	if (args_has(&ctl->args, "identity") && args_has(&ctl->args, "grant"))
		return ctl_check_name("client", ctl->args.words[0]);
	say_error("a client needs at least one --identity and one --grant");
	say_hint("kekctl client add %s --identity uri:spiffe://… --grant 'app-*:wrap,unwrap'",
		ctl->args.words[0]);
	return CTL_USAGE;
}

static int
run_add(struct ctl *ctl)
{
	_cleanup_(json_freep) json_t *body = json_object();
	_cleanup_(json_freep) json_t *client = NULL;
	const char *name = ctl->args.words[0];
	int status = check_add(ctl);

	if (status == CTL_OK)
		status = add_grants(&ctl->args, body);
	if (status == CTL_OK)
		status = add_limits(&ctl->args, body);
	if (status != CTL_OK)
		return status;
	add_texts(&ctl->args, "identity", "identities", body);
	add_texts(&ctl->args, "address", "addresses", body);
	status = ctl_request(ctl, "PUT", client_path(name), body, NULL, "*", &client);
	if (status == CTL_OK && ctl_show_pending(ctl, client))
		return CTL_PENDING;
	if (status == CTL_OK && ctl->json)
		show_json(client);
	else if (status == CTL_OK && !ctl->quiet)
		printf("%s: added\n", name);
	return status;
}

/* ---- changing ---- */

/* What the server tells of a record beside what it takes. */
static const char *const told[] = { "revision", "refused", "changed", "changed_by" };

static int
check_set(const struct ctl *ctl)
{
	static const char *const options[] = { "identity", "grant", "address", "requests-per-s",
		"in-flight" };

	for (size_t i = 0; i < STR_COUNT(options); i++)
		if (args_has(&ctl->args, options[i]))
			return ctl_check_name("client", ctl->args.words[0]);
	say_error(
		"nothing to set: --identity, --grant, --address, --requests-per-s or --in-flight");
	return CTL_USAGE;
}

/* A list that is given replaces the one that there is. */
static int
change_body(const struct ctl_args *a, json_t *body)
{
	if (args_has(a, "identity"))
		add_texts(a, "identity", "identities", body);
	if (args_has(a, "address"))
		add_texts(a, "address", "addresses", body);
	if (args_has(a, "grant") && add_grants(a, body) != CTL_OK)
		return CTL_USAGE;
	return add_limits(a, body);
}

static int
run_set(struct ctl *ctl)
{
	_cleanup_(json_freep) json_t *body = NULL;
	_cleanup_(json_freep) json_t *client = NULL;
	const char *name = ctl->args.words[0];
	char etag[64];
	int status = check_set(ctl);

	if (status == CTL_OK)
		status = ctl_get_etag(ctl, client_path(name), etag, &body);
	if (status == CTL_OK)
		status = change_body(&ctl->args, body);
	for (size_t i = 0; status == CTL_OK && i < STR_COUNT(told); i++)
		json_object_del(body, told[i]);
	if (status == CTL_OK)
		status = ctl_request(ctl, "PUT", client_path(name), body, etag, NULL, &client);
	if (status == CTL_OK && ctl_show_pending(ctl, client))
		return CTL_PENDING;
	if (status == CTL_OK && ctl->json)
		show_json(client);
	else if (status == CTL_OK && !ctl->quiet)
		printf("%s: set\n", name);
	return status;
}

/* ---- showing ---- */

/* An administrator's would fill the screen: "client show" has them all. */
static const char *
operations_text(const json_t *operations)
{
	size_t n = json_array_size(operations);

	return n <= 5 ? show_list(operations, ",") : show_format("%zu operations", n);
}

static const char *
grants_text(const json_t *grants)
{
	struct buf b = BUF_INIT(SHOW_TEXT_SIZE);
	const char *text;
	const json_t *g;
	size_t i;

	json_array_foreach((json_t *)grants, i, g)
		buf_printf(&b, "%s%s:%s", i > 0 ? " " : "", string_of(g, "keys"),
			operations_text(json_object_get(g, "operations")));
	text = b.len > 0 ? show_format("%.*s", (int)b.len, (const char *)b.data) : "-";
	buf_free(&b);
	return text;
}

static int
run_list(struct ctl *ctl)
{
	_cleanup_(json_freep) json_t *list = NULL;
	_cleanup_(table_freep) struct table *t = NULL;
	const json_t *c;
	size_t i;
	int status = ctl_list(ctl, "/v1/clients", "clients", &list);

	if (status != CTL_OK)
		return status;
	if (ctl->json) {
		show_json(list);
		return CTL_OK;
	}
	t = table_new((const char *const[]){ "NAME", "IDENTITIES", "ADDRESSES", "GRANTS", NULL });
	json_array_foreach(json_object_get(list, "clients"), i, c) {
		if (ctl->quiet) {
			puts(string_of(c, "name"));
			continue;
		}
		table_row(t, (const char *const[]){ string_of(c, "name"),
				     show_list(json_object_get(c, "identities"), " "),
				     show_list(json_object_get(c, "addresses"), " "),
				     grants_text(json_object_get(c, "grants")) });
	}
	if (table_rows(t) > 0)
		table_print(t);
	return CTL_OK;
}

static void
show_grants(const json_t *grants)
{
	_cleanup_(table_freep) struct table *t = table_new(
		(const char *const[]){ "KEYS", "OPERATIONS", NULL });
	const json_t *g;
	size_t i;

	json_array_foreach((json_t *)grants, i, g)
		table_row(t, (const char *const[]){ string_of(g, "keys"),
				     show_list(json_object_get(g, "operations"), " ") });
	if (table_rows(t) == 0)
		return;
	putchar('\n');
	table_print(t);
}

static const char *
limit_text(const json_t *client, const char *member)
{
	long long limit = number_of(json_object_get(client, "limits"), member);

	return limit > 0 ? show_format("%lld", limit) : "no limit";
}

static void
show_client(const json_t *c)
{
	_cleanup_(table_freep) struct table *t = table_new_block();
	const json_t *identity, *addresses = json_object_get(c, "addresses");
	size_t i;

	table_field(t, "Client", "%s", string_of(c, "name"));
	json_array_foreach(json_object_get(c, "identities"), i, identity)
		table_field(t, i == 0 ? "Identities" : "", "%s", json_string_value(identity));
	table_field(t, "Addresses", "%s",
		json_array_size(addresses) > 0 ? show_list(addresses, ", ") : "from anywhere");
	table_field(t, "Requests/s", "%s", limit_text(c, "requests_per_s"));
	table_field(t, "In flight", "%s", limit_text(c, "in_flight"));
	if (json_object_get(c, "revision"))
		table_field(t, "Revision", "%s", show_number(c, "revision"));
	table_print(t);
	show_grants(json_object_get(c, "grants"));
}

static int
run_show(struct ctl *ctl)
{
	_cleanup_(json_freep) json_t *client = NULL;
	int status = ctl_check_name("client", ctl->args.words[0]);

	if (status == CTL_OK)
		status = ctl_get(ctl, client_path(ctl->args.words[0]), &client);
	if (status != CTL_OK)
		return status;
	if (ctl->json)
		show_json(client);
	else
		show_client(client);
	return CTL_OK;
}

static int
run_rm(struct ctl *ctl)
{
	_cleanup_(json_freep) json_t *reply = NULL;
	const char *name = ctl->args.words[0];
	char etag[64];
	int status = ctl_check_name("client", name);

	if (status == CTL_OK)
		status = ctl_get_etag(ctl, client_path(name), etag, NULL);
	if (status == CTL_OK)
		status = ctl_request(ctl, "DELETE", client_path(name), NULL, etag, NULL, &reply);
	if (status == CTL_OK && ctl_show_pending(ctl, reply))
		return CTL_PENDING;
	if (status == CTL_OK && ctl->json && reply)
		show_json(reply);
	else if (status == CTL_OK && !ctl->quiet && !ctl->json)
		printf("%s: removed\n", name);
	return status;
}

static int
run_whoami(struct ctl *ctl)
{
	_cleanup_(json_freep) json_t *who = NULL;
	_cleanup_(table_freep) struct table *t = NULL;
	int status = ctl_get(ctl, "/v1/whoami", &who);

	if (status != CTL_OK)
		return status;
	if (ctl->json) {
		show_json(who);
		return CTL_OK;
	}
	if (ctl->quiet) {
		puts(string_of(who, "client"));
		return CTL_OK;
	}
	t = table_new_block();
	table_field(t, "Client", "%s", show_text(who, "client"));
	table_field(t, "Identity", "%s", show_text(who, "identity"));
	if (json_object_get(who, "spki"))
		table_field(t, "Public key", "%s", show_text(who, "spki"));
	table_field(t, "Address", "%s", show_text(who, "address"));
	if (json_object_get(who, "certificate_expires"))
		table_field(t, "Certificate", "until %s", show_time(who, "certificate_expires"));
	table_print(t);
	show_grants(json_object_get(who, "grants"));
	return CTL_OK;
}

const struct ctl_command ctl_client_commands[] = {
	{ "client add",
		"NAME --identity ID [--identity ID]... --grant KEYS:OPS... [--address CIDR]... "
		"[--requests-per-s N] [--in-flight N]",
		"Lets the owner of a certificate in",
		"An identity is what the certificate says: uri:URI or dns:NAME of its subject\n"
		"alternative name, or spki:SHA256 of its public key. A grant is a glob over key\n"
		"names and operations after a colon: 'app-*:wrap,unwrap'. Operations: wrap unwrap\n"
		"generate rewrap verify key.read key.create key.rotate key.state key.destroy\n"
		"client.read client.write cluster.write backup audit.read status.read "
		"metrics.read\n"
		"approve. Those that name no key need the glob *.",
		" identity grant address requests-per-s in-flight ", 1, 1, run_add },
	{ "client set",
		"NAME [--identity ID]... [--grant KEYS:OPS]... [--address CIDR]... "
		"[--requests-per-s N] [--in-flight N]",
		"Changes a client",
		"What is given replaces what there is: give all identities, all grants, all\n"
		"addresses. What is not given stays. The limits are on each node: operations a\n"
		"second, of which a batch of N is N, and requests at a time. 0 takes a limit "
		"away.\n"
		"What is above gets 429 with Retry-After.",
		" identity grant address requests-per-s in-flight ", 1, 1, run_set },
	{ "client list", "", "Lists the clients", NULL, "", 0, 0, run_list },
	{ "client show", "NAME", "Shows a client and its grants", NULL, "", 1, 1, run_show },
	{ "client rm", "NAME", "Removes a client: it gets nothing from then on", NULL, "", 1, 1,
		run_rm },
	{ "whoami", "", "Shows who the server takes this client for", NULL, "", 0, 0, run_whoami },
	{ NULL },
};
