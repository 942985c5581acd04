/* SPDX-License-Identifier: Apache-2.0 */
/* Checks of `tokens:`: names, PKCS#11 URIs (RFC 7512), modules and PIN files. No module is loaded.
 */
#include "load.h"

#include "kekd/str.h"

#include <errno.h>
#include <p11-kit/p11-kit.h>
#include <p11-kit/uri.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

struct subject {
	struct check *check;
	struct config_token *token;
	unsigned index;
	char path[32]; /* "tokens[0].uri" */
};

static const char *
at(struct subject *s, const char *member)
{
	snprintf(s->path, sizeof(s->path), "tokens[%u].%s", s->index, member);
	return s->path;
}

static void
check_name(struct subject *s, const struct config *config)
{
	if (!s->token->name) {
		check_finding(s->check, at(s, "name"), "a token has no name: add \"name: NAME\"");
		return;
	}
	if (!str_is_name(s->token->name))
		check_finding(s->check, at(s, "name"),
			"token \"%s\" is not a name: use a-z, 0-9 and . _ - inside, at most %d "
			"characters",
			s->token->name, STR_NAME_MAX);
	for (unsigned i = 0; i < s->index; i++)
		if (config->tokens[i].name && strcmp(config->tokens[i].name, s->token->name) == 0)
			check_finding(s->check, at(s, "name"),
				"token \"%s\" is given twice: give each its own name",
				s->token->name);
}

static bool
names_a_token(P11KitUri *uri)
{
	const CK_TOKEN_INFO *info = p11_kit_uri_get_token_info(uri);

	return info->label[0] != 0 || info->serialNumber[0] != 0;
}

static void
check_uri_content(struct subject *s, P11KitUri *uri)
{
	if (p11_kit_uri_any_unrecognized(uri))
		check_finding(s->check, at(s, "uri"),
			"the URI %s has a part that is not known: correct it (RFC 7512)",
			s->token->uri);
	if (p11_kit_uri_get_pin_value(uri))
		check_finding(s->check, at(s, "uri"),
			"the URI holds the PIN itself (pin-value): put the PIN into a file of mode "
			"0600 and name that with pin-source");
	if (p11_kit_uri_get_slot_id(uri) != (CK_SLOT_ID)-1)
		check_finding(s->check, at(s, "uri"),
			"the URI names a slot number, which changes: name the token with token= or "
			"serial=");
	else if (!names_a_token(uri))
		check_finding(s->check, at(s, "uri"),
			"the URI %s names no token: add token=LABEL or serial=NUMBER",
			s->token->uri);
}

/* What the URI's query says counts where the setting is left out. */
static int
adopt(char **setting, const char *from_uri)
{
	if (*setting || !from_uri)
		return 0;
	*setting = strdup(from_uri);
	return *setting ? 0 : -ENOMEM;
}

static int
check_uri(struct subject *s)
{
	P11KitUri *uri;
	int code, err = 0;

	if (!s->token->uri) {
		check_finding(s->check, at(s, "uri"),
			"a token has no URI: add \"uri: pkcs11:token=LABEL\"");
		return 0;
	}
	uri = p11_kit_uri_new();
	if (!uri)
		return -ENOMEM;
	code = p11_kit_uri_parse(s->token->uri, P11_KIT_URI_FOR_ANY, uri);
	if (code != P11_KIT_URI_OK) {
		check_finding(s->check, at(s, "uri"),
			"\"%s\" is not a PKCS#11 URI (%s): write \"pkcs11:token=LABEL\" (RFC 7512)",
			s->token->uri, p11_kit_uri_message(code));
	} else {
		check_uri_content(s, uri);
		err = adopt(&s->token->module, p11_kit_uri_get_module_path(uri));
		if (!err)
			err = adopt(&s->token->pin_source, p11_kit_uri_get_pin_source(uri));
	}
	p11_kit_uri_free(uri);
	return err;
}

static int
check_module(struct subject *s)
{
	if (!s->token->module) {
		check_finding(s->check, at(s, "module"),
			"the token has no module: add \"module: PATH\" of the vendor's PKCS#11 "
			"library");
		return 0;
	}
	if (check_resolve(s->check, &s->token->module) != 0)
		return -ENOMEM;
	check_file(s->check, at(s, "module"), s->token->module);
	return 0;
}

/* "file:PATH" and "file:///PATH" are PATH. */
static void
strip_scheme(char *source)
{
	size_t skip = strncmp(source, "file:", 5) == 0 ? 5 : 0;

	if (skip && strncmp(source + skip, "///", 3) == 0)
		skip += 2;
	memmove(source, source + skip, strlen(source + skip) + 1);
}

static void
check_pin_file(struct subject *s)
{
	const char *path = s->token->pin_source;
	struct stat st;

	if (!check_file(s->check, at(s, "pin-source"), path) || stat(path, &st) != 0)
		return;
	if (st.st_mode & 077)
		check_finding(s->check, at(s, "pin-source"),
			"others than its owner can reach the PIN file %s (mode %04o): chmod 600 %s",
			path, (unsigned)st.st_mode & 07777, path);
	else if (st.st_size == 0)
		check_finding(s->check, at(s, "pin-source"),
			"the PIN file %s is empty: write the token's user PIN into it", path);
}

static int
check_pin_source(struct subject *s)
{
	if (!s->token->pin_source) {
		check_finding(s->check, at(s, "pin-source"),
			"the token has no PIN source: add \"pin-source: FILE\" with the user PIN "
			"in "
			"a file of mode 0600");
		return 0;
	}
	if (s->token->pin_source[0] == '|') {
		check_finding(s->check, at(s, "pin-source"),
			"a program as PIN source is not supported: name a file of mode 0600");
		return 0;
	}
	strip_scheme(s->token->pin_source);
	if (check_resolve(s->check, &s->token->pin_source) != 0)
		return -ENOMEM;
	check_pin_file(s);
	return 0;
}

static void
check_copy(struct subject *s)
{
	if (s->token->copy && !str_is_name(s->token->copy))
		check_finding(s->check, at(s, "copy"),
			"\"%s\" is no name of a copy: use a-z, 0-9 and . _ - inside, at most %d "
			"characters",
			s->token->copy, STR_NAME_MAX);
}

int
check_tokens(struct check *c, struct config *config)
{
	int err = 0;

	if (config->tokens_count == 0)
		check_finding(c, "tokens",
			"tokens is missing or empty: add at least one with name, uri, module and "
			"pin-source");
	for (unsigned i = 0; i < config->tokens_count && !err; i++) {
		struct subject s = { c, &config->tokens[i], i, "" };

		check_name(&s, config);
		check_copy(&s);
		err = check_uri(&s);
		if (!err)
			err = check_module(&s);
		if (!err)
			err = check_pin_source(&s);
	}
	return err;
}
