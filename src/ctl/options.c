/* SPDX-License-Identifier: Apache-2.0 */
/* The command line: options may stand anywhere, each means the same with every command. */
#include "ctl.h"

#include <stdlib.h>
#include <string.h>

const struct ctl_option ctl_options[] = {
	{ "config", 0, "FILE", "read this kekctl.yaml", true },
	{ "endpoint", 0, "URL",
		"ask this server, https://HOST:PORT; again, or after a comma: the next", true },
	{ "ca", 0, "FILE", "PEM file with the CA of the server's certificate", true },
	{ "cert", 0, "FILE", "PEM file with the client's certificate", true },
	{ "key", 0, "FILE", "PEM file with the client certificate's private key", true },
	{ "timeout", 0, "SECONDS", "give up after this time (30)", true },
	{ "output", 'o', "FORMAT", "table (default) or json", true },
	{ "quiet", 'q', NULL, "lists show names alone, changes say nothing", true },
	{ "help", 'h', NULL, "show help, for the command if there is one", true },
	{ "version", 0, NULL, "show kekctl's version", true },
	{ "label", 0, "K=V", "give the key this label; may be given again", false },
	{ "token", 0, "TOKEN", "this logical token; drill: the one of this PKCS#11 URI", false },
	{ "stage-only", 0, NULL, "make and prove the version, but do not wrap with it yet", false },
	{ "when-stale", 0, "WORD", "with metadata that is too old: unwrap, serve or refuse",
		false },
	{ "rotate-every", 0, "TIME", "rotate by itself, every 24h or 90d; never: not", false },
	{ "all", 0, NULL, "every key that objects of the tokens are labelled with", false },
	{ "module", 0, "PATH", "the PKCS#11 module of that token", false },
	{ "pin-source", 0, "FILE", "the file with that token's PIN", false },
	{ "kekd-config", 0, "FILE", "read the tokens from this kekd.yaml", false },
	{ "offline", 0, NULL, "do not report to the server", false },
	{ "object-id", 0, "HEX", "the one object with this CKA_ID", false },
	{ "ivs-used", 0, "N", "at most so many AES-GCM encryptions were made with it before",
		false },
	{ "in", 0, "FILE", "read from FILE; - or nothing: standard input", false },
	{ "out", 0, "FILE", "write to FILE; - or nothing: standard output", false },
	{ "plaintext-out", 0, "FILE", "write the data key's plaintext to FILE (mode 0600)", false },
	{ "context", 0, "K=V", "a pair of the context; may be given again", false },
	{ "new-context", 0, "K=V", "a pair of the context from now on; '' for an empty one",
		false },
	{ "version-id", 0, "UUID", "wrap with this version: the primary or the one before", false },
	{ "lines", 0, NULL, "a ciphertext on each line; goes on where it was broken off", false },
	{ "keep-going", 0, NULL, "leave a line that fails as it is", false },
	{ "file", 'f', "PATH", "read this file or directory; may be given again", false,
		" apply diff " },
	{ "dry-run", 0, NULL, "say what would be done, and change nothing", false },
	{ "keys", 0, NULL, "write the keys", false },
	{ "clients", 0, NULL, "write the clients", false },
	{ "policy", 0, NULL, "write the policy", false },
	{ "about-key", 0, "KEY", "records of this KEK; verify: a public key's PEM file", false,
		" audit ", "key" },
	{ "backup-key", 0, "PEM", "check the signature with the public key in this PEM file", false,
		"", "key" },
	{ "dir", 0, "DIR", "read the log's files there instead of asking the server", false },
	{ "client", 0, "NAME", "records of this client", false },
	{ "since", 0, "TIME", "from then on: 2026-01-31T12:00:00Z, 2026-01-31, or 24h ago", false },
	{ "until", 0, "TIME", "before then", false },
	{ "op", 0, "OPERATION", "records of this operation: unwrap, key.rotate ...", false },
	{ "denied", 0, NULL, "what was refused or failed alone", false },
	{ "code", 0, "CODE", "records with this error code", false },
	{ "request-id", 0, "UUID", "records of this request", false },
	{ "blob", 0, "FILE", "who unwrapped this very ciphertext; or its SHA-256", false },
	{ "limit", 0, "N", "at most so many (1000)", false },
	{ "format", 0, "FORMAT", "text (default), csv or json", false },
	{ "against", 0, "URL", "compare with the head of this node's log, https://HOST:PORT",
		false },
	{ "witness", 0, "DIR", "the log of another node, which tells of this one", false },
	{ "last", 'n', "N", "begin with the last N records (10)", false },
	{ "follow", 'f', NULL, "go on as records are written, until interrupted", false },
	{ "bytes", 0, "N", "length of a data key (32)", false },
	{ "force", 0, NULL,
		"write over files, let a secret touch a terminal; cluster: ready or not", false },
	{ "pause", 0, "TIME", "how long the node does not come back (30s)", false },
	{ "identity", 0, "ID", "uri:…, dns:… or spki:SHA256 of a certificate; may be given again",
		false },
	{ "grant", 0, "KEYS:OPS", "a glob over key names, and operations after a colon", false },
	{ "address", 0, "CIDR", "allow this network or address only; may be given again", false },
	{ "requests-per-s", 0, "N", "limit: operations a second on each node; 0: none", false },
	{ "in-flight", 0, "N", "limit: requests at a time on each node; 0: none", false },
	{ "yes", 0, NULL, "do not ask", false },
	{ "approvals", 0, "N", "administrators that a destroy or a privileged change takes",
		false },
	{ "destroy-wait", 0, "TIME", "how long a version waits before it is destroyed", false },
	{ "approval-ttl", 0, "TIME", "how long a request can be approved", false },
	{ "verify", 0, NULL, "ask kekd whether it unwraps every seed, without having it sent",
		false },
	{ "values", 0, NULL, "list objects and the seeds they hang on", false },
	{ "seed", 0, "HEX", "what hangs on this seed alone; may be given again", false },
	{ "resources", 0, "LIST", "what is to be encrypted: secrets, or secrets,widgets.a.org",
		false },
	{ "prefix", 0, "PREFIX", "kube-apiserver's --etcd-prefix (/registry)", false },
	{ "taken", 0, "TIME", "when it was taken, instead of the file's time", false },
	{ "keep", 0, "TIME", "how long the backup is kept, from when it was taken: 90d", false },
	{ "needed-until", 0, "TIME",
		"until when the backup is kept: 2026-12-31T12:00:00Z, or a day", false },
	{ "cluster", 0, "NAME", "the Kubernetes cluster's name, as in kekd-kms.yaml", false },
	{ "id", 0, "ID", "the backup's id (CLUSTER-DAY-TIME of when it was taken)", false },
	{ "expired", 0, NULL, "all that are not needed any more, but each cluster's newest",
		false },
	{ "mix", 0, "OP=N,...", "shares of the operations (wrap=1,unwrap=1)", false },
	{ "connections", 0, "N", "connections, each with one request at a time (32)", false },
	{ "threads", 0, "N", "threads that make the load (half of the cores, 1 to 8)", false },
	{ "batch", 0, "N", "items in a request (1)", false },
	{ "rate", 0, "R", "requests per second, whatever the answers take", false },
	{ "duration", 0, "TIME", "how long is measured (10s)", false },
	{ "warmup", 0, "TIME", "load before that, not measured (2s)", false },
	{ NULL },
};

const char *
option_spelling(const struct ctl_option *o)
{
	return o->spelled ? o->spelled : o->name;
}

static bool
is_among(const char *words, const char *word)
{
	char spaced[64];

	snprintf(spaced, sizeof(spaced), " %s ", word);
	return strstr(words, spaced) != NULL;
}

static const struct ctl_option *
find_long(const char *text, size_t len, const char *command)
{
	const struct ctl_option *found = NULL;

	for (const struct ctl_option *o = ctl_options; o->name; o++) {
		const char *name = option_spelling(o);
		if (strlen(name) != len || strncmp(name, text, len) != 0)
			continue;
		if (o->spelled && command && is_among(o->letter_of, command))
			return o;
		if (!o->spelled)
			found = o;
	}
	return found;
}

static const struct ctl_option *
find_letter(char letter, const char *command)
{
	const struct ctl_option *found = NULL;

	for (const struct ctl_option *o = ctl_options; o->name; o++) {
		if (!o->letter || o->letter != letter)
			continue;
		if (o->letter_of && command && is_among(o->letter_of, command))
			return o;
		if (!o->letter_of)
			found = o;
	}
	return found;
}

static int
too_many(void)
{
	say_error("more than %d arguments", CTL_ARGS_MAX);
	return CTL_USAGE;
}

static int
add(struct ctl_args *a, const struct ctl_option *o, const char *value)
{
	if (a->given_count == CTL_ARGS_MAX)
		return too_many();
	a->given[a->given_count].option = o;
	a->given[a->given_count++].value = value;
	return CTL_OK;
}

/* attached: the value in the same argument ("--in=FILE", "-ojson"), or NULL. */
static int
take(struct ctl_args *a, const struct ctl_option *o, const char *attached, char ***next)
{
	if (!o->argument && attached) {
		say_error("--%s takes no value", option_spelling(o));
		return CTL_USAGE;
	}
	if (o->argument && !attached)
		attached = *(*next)++;
	if (o->argument && !attached) {
		say_error("--%s needs a value: --%s %s", option_spelling(o), option_spelling(o),
			o->argument);
		return CTL_USAGE;
	}
	return add(a, o, attached);
}

const struct ctl_option *
option_find(const char *arg, const char *command)
{
	if (arg[1] == '-')
		return find_long(arg + 2, strcspn(arg + 2, "="), command);
	return find_letter(arg[1], command);
}

static int
take_option(struct ctl_args *a, const char *arg, char ***next)
{
	const struct ctl_option *o = option_find(arg, a->words_count > 0 ? a->words[0] : NULL);
	const char *equals = strchr(arg, '=');

	if (!o) {
		say_error("there is no option %s", arg);
		say_hint("kekctl help");
		return CTL_USAGE;
	}
	if (arg[1] == '-')
		return take(a, o, equals ? equals + 1 : NULL, next);
	return take(a, o, arg[2] ? arg + 2 : NULL, next);
}

int
args_parse(int argc, char **argv, struct ctl_args *ret_args)
{
	struct ctl_args a = { 0 };
	char **next = argv + (argc > 0);
	bool only_words = false;

	while (*next) {
		const char *arg = *next++;
		int status = CTL_OK;
		if (!only_words && strcmp(arg, "--") == 0)
			only_words = true;
		else if (!only_words && arg[0] == '-' && arg[1])
			status = take_option(&a, arg, &next);
		else if (a.words_count == CTL_ARGS_MAX)
			status = too_many();
		else
			a.words[a.words_count++] = arg;
		if (status != CTL_OK)
			return status;
	}
	*ret_args = a;
	return CTL_OK;
}

size_t
args_count(const struct ctl_args *a, const char *option)
{
	size_t n = 0;

	for (size_t i = 0; i < a->given_count; i++)
		n += strcmp(a->given[i].option->name, option) == 0;
	return n;
}

const char *
args_nth(const struct ctl_args *a, const char *option, size_t n)
{
	for (size_t i = 0; i < a->given_count; i++)
		if (strcmp(a->given[i].option->name, option) == 0 && n-- == 0)
			return a->given[i].value;
	return NULL;
}

bool
args_has(const struct ctl_args *a, const char *option)
{
	return args_count(a, option) > 0;
}

const char *
args_value(const struct ctl_args *a, const char *option)
{
	size_t n = args_count(a, option);

	return n > 0 ? args_nth(a, option, n - 1) : NULL;
}

int
args_number(const struct ctl_args *a, const char *option, unsigned min, unsigned max,
	unsigned *ret_number)
{
	const char *text = args_value(a, option);
	char *end;
	unsigned long n;

	if (!text)
		return CTL_OK;
	n = strtoul(text, &end, 10);
	if (*text < '0' || *text > '9' || *end || n < min || n > max) {
		say_error("--%s \"%s\" is not a number from %u to %u", option, text, min, max);
		return CTL_USAGE;
	}
	*ret_number = (unsigned)n;
	return CTL_OK;
}

static int
add_pair(json_t *object, const char *option, const char *pair)
{
	const char *equals = strchr(pair, '=');
	_cleanup_(str_freep) char *name = equals ? strndup(pair, (size_t)(equals - pair)) : NULL;

	if (!name || !*name) {
		say_error("--%s \"%s\" is not K=V", option, pair);
		return CTL_USAGE;
	}
	if (json_object_get(object, name)) {
		say_error("--%s gives \"%s\" twice", option, name);
		return CTL_USAGE;
	}
	if (json_object_set_new(object, name, json_string(equals + 1)) < 0) {
		say_error("--%s \"%s\" is not UTF-8", option, pair);
		return CTL_USAGE;
	}
	return CTL_OK;
}

int
args_pairs(const struct ctl_args *a, const char *option, json_t **ret_object)
{
	size_t n = args_count(a, option);
	_cleanup_(json_freep) json_t *object = n > 0 ? json_object() : NULL;

	if (n == 1 && !*args_nth(a, option, 0))
		n = 0;
	for (size_t i = 0; i < n; i++) {
		int status = add_pair(object, option, args_nth(a, option, i));
		if (status != CTL_OK)
			return status;
	}
	*ret_object = json_incref(object);
	return CTL_OK;
}
