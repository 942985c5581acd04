/* SPDX-License-Identifier: Apache-2.0 */
/* Checks of `admins:`, whom `kekd init` lets in, and of `deny:`. */
#include "load.h"

#include "kekd/str.h"

#include <stdio.h>
#include <string.h>

#define IDENTITY_LEN_MAX 500

static bool
is_uri(const char *text)
{
	size_t scheme = strspn(
		text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+.-");

	return scheme > 0 && text[scheme] == ':' && text[scheme + 1] != '\0';
}

static bool
is_dns(const char *text)
{
	return strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_") ==
	       strlen(text);
}

static bool
is_spki(const char *text)
{
	return strlen(text) == 64 && strspn(text, "0123456789abcdef") == 64;
}

static bool
is_common_name(const char *text)
{
	return *text != '\0';
}

static const struct {
	const char *prefix;
	bool (*fits)(const char *rest);
} kinds[] = {
	{ "uri:", is_uri },
	{ "dns:", is_dns },
	{ "spki:", is_spki },
	{ "cn:", is_common_name },
};

static bool
is_identity(const char *text)
{
	size_t len = strlen(text);

	for (const char *p = text; *p; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			return false;
	for (size_t i = 0; i < STR_COUNT(kinds); i++) {
		size_t prefix = strlen(kinds[i].prefix);
		if (strncmp(text, kinds[i].prefix, prefix) == 0)
			return len > prefix && len <= IDENTITY_LEN_MAX &&
			       kinds[i].fits(text + prefix);
	}
	return false;
}

/* False: a finding was printed. */
static bool
check_form(struct check *c, const struct config *config, const char *path, const char *identity)
{
	if (!is_identity(identity))
		check_finding(c, path,
			"\"%s\" is not an identity: write uri:URI, dns:NAME or spki:SHA256 of the "
			"certificate's public key",
			identity);
	else if (strncmp(identity, "cn:", 3) == 0 && !config->identity.common_name)
		check_finding(c, path,
			"\"%s\" can never match: set identity.common_name to true, or use uri: or "
			"dns:",
			identity);
	else
		return true;
	return false;
}

static bool
given_before(const struct config *config, unsigned admin, unsigned index)
{
	const char *identity = config->admins[admin].identities[index];

	for (unsigned a = 0; a <= admin; a++)
		for (unsigned i = 0; i < config->admins[a].identities_count; i++) {
			if (a == admin && i == index)
				return false;
			if (strcmp(config->admins[a].identities[i], identity) == 0)
				return true;
		}
	return false;
}

static void
check_identity(struct check *c, const struct config *config, unsigned admin, unsigned index)
{
	const char *identity = config->admins[admin].identities[index];
	char path[64];

	snprintf(path, sizeof(path), "admins[%u].identities[%u]", admin, index);
	if (check_form(c, config, path, identity) && given_before(config, admin, index))
		check_finding(
			c, path, "the identity \"%s\" is given twice: keep one of them", identity);
}

static void
check_admin_name(struct check *c, const struct config *config, unsigned admin)
{
	const char *name = config->admins[admin].name;
	char path[64];

	snprintf(path, sizeof(path), "admins[%u].name", admin);
	if (!name)
		check_finding(c, path, "an administrator has no name: add \"name: NAME\"");
	else if (!str_is_name(name))
		check_finding(c, path,
			"administrator \"%s\" is not a name: use a-z, 0-9 and . _ - inside, at "
			"most "
			"%d characters",
			name, STR_NAME_MAX);
	for (unsigned i = 0; name && i < admin; i++)
		if (config->admins[i].name && strcmp(config->admins[i].name, name) == 0)
			check_finding(c, path,
				"administrator \"%s\" is given twice: give each one name", name);
}

void
check_admins(struct check *c, const struct config *config)
{
	for (unsigned a = 0; a < config->admins_count; a++) {
		check_admin_name(c, config, a);
		if (config->admins[a].identities_count == 0) {
			char path[64];
			snprintf(path, sizeof(path), "admins[%u].identities", a);
			check_finding(c, path,
				"an administrator has no identity: add \"identities: [ uri:… ]\" "
				"as "
				"in the certificate");
		}
		for (unsigned i = 0; i < config->admins[a].identities_count; i++)
			check_identity(c, config, a, i);
	}
}

void
check_deny(struct check *c, const struct config *config)
{
	for (unsigned i = 0; i < config->deny_count; i++) {
		char path[32];

		snprintf(path, sizeof(path), "deny[%u]", i);
		check_form(c, config, path, config->deny[i]);
	}
}
