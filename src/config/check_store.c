/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where the metadata is kept: the settings of etcd, which go together, and this node's own URL,
 * which the others need. What is in the certificates: certificates.c.
 */
#include "load.h"

#include "kekd/clock.h"
#include "kekd/str.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define LEASE_S_MIN 2u
#define LEASE_S_MAX 60u
#define LEASE_S_DEFAULT 5u
#define TIMEOUT_MS_MIN 100u
#define TIMEOUT_MS_DEFAULT 2000u
#define STALENESS_S_DEFAULT (12 * 3600ull)
#define STALENESS_S_END (24 * 3600ull)

/* "https://HOST:PORT" into the two; false: it is something else. A port is needed. */
static bool
split_url(const char *text, const char **ret_host, size_t *ret_len)
{
	const char *host = strstr(text, "://"), *end;
	size_t digits;

	if (!host || strspn(text, "htps") != (size_t)(host - text))
		return false;
	host += 3;
	end = host[0] == '[' ? strchr(host, ']') : host + strcspn(host, ":");
	if (!end || end == host)
		return false;
	end += host[0] == '[';
	for (const char *p = host; p < end; p++)
		if (strchr("/?#@ \t\"<>\\", *p))
			return false;
	digits = end[0] == ':' ? strspn(end + 1, "0123456789") : 0;
	*ret_host = host;
	*ret_len = (size_t)(end - host);
	return digits >= 1 && digits <= 5 && end[1 + digits] == '\0' &&
	       strtoul(end + 1, NULL, 10) - 1 < 65535;
}

static bool
starts_with(const char *text, const char *start)
{
	return strncmp(text, start, strlen(start)) == 0;
}

static bool
is_loopback(const char *host, size_t len)
{
	struct in_addr address;
	char text[64];

	if (len >= sizeof(text))
		return false;
	memcpy(text, host, len);
	text[len] = '\0';
	return strcmp(text, "localhost") == 0 || strcmp(text, "[::1]") == 0 ||
	       (inet_pton(AF_INET, text, &address) == 1 && ntohl(address.s_addr) >> 24 == 127);
}

static void
check_endpoint(struct check *c, const struct config *config, unsigned i)
{
	const char *text = config->store.endpoints[i], *host;
	char path[40];
	size_t len;

	snprintf(path, sizeof(path), "store.endpoints[%u]", i);
	if (!split_url(text, &host, &len) ||
		!(starts_with(text, "https://") || starts_with(text, "http://")))
		check_finding(c, path,
			"store.endpoints: \"%s\" is not https://HOST:PORT: write nothing else",
			text);
	else if (starts_with(text, "http://") && !is_loopback(host, len))
		check_finding(c, path,
			"store.endpoints: %s would send what only kekd may read in the clear: "
			"write "
			"https://, and let etcd have a certificate; http:// is for this host alone",
			text);
	else if (starts_with(text, "https://") && !config->store.ca)
		check_finding(c, path,
			"store.ca is missing: give the CA that issued the certificate of %s", text);
	for (unsigned k = 0; k < i; k++)
		if (strcmp(text, config->store.endpoints[k]) == 0)
			check_finding(c, path,
				"store.endpoints: %s is given twice: keep one of them", text);
}

static void
check_url(struct check *c, const struct config *config)
{
	const char *host;
	size_t len;

	if (!config->url && config->store.etcd)
		check_finding(c, "store",
			"url is missing: with etcd the others must know where this node is: give "
			"url: https://HOST:PORT, as clients reach it");
	else if (config->url &&
		 (!starts_with(config->url, "https://") || !split_url(config->url, &host, &len)))
		check_finding(c, "url",
			"url \"%s\" is not https://HOST:PORT: write where clients reach this node",
			config->url);
}

static void
check_pairs(struct check *c, const struct config *config)
{
	const struct {
		const char *a, *b;
		const char *has_a, *has_b;
	} pairs[] = {
		{ "store.certificate", "store.key", config->store.certificate, config->store.key },
		{ "store.user", "store.password_file", config->store.user,
			config->store.password_file },
	};

	for (size_t i = 0; i < STR_COUNT(pairs); i++) {
		bool a = pairs[i].has_a, b = pairs[i].has_b;
		if (a != b)
			check_finding(c, a ? pairs[i].a : pairs[i].b,
				"%s needs %s: give both, or none", a ? pairs[i].a : pairs[i].b,
				a ? pairs[i].b : pairs[i].a);
	}
}

/* With the file system's group it is as with tls.key. */
static void
check_secret_file(struct check *c, const char *setting, const char *path)
{
	struct stat st;

	if (!path || stat(path, &st) != 0 || !S_ISREG(st.st_mode))
		return; /* told already */
	if (st.st_mode & 007)
		check_finding(c, setting, "%s: everybody can reach %s (mode %04o): chmod 600 %s",
			setting, path, (unsigned)st.st_mode & 07777, path);
	if (st.st_size == 0)
		check_finding(
			c, setting, "%s: %s is empty: write the secret into it", setting, path);
}

/* Nothing of it would have an effect. */
static void
check_needless(struct check *c)
{
	static const char *const settings[] = { "store.endpoints", "store.ca", "store.certificate",
		"store.key", "store.user", "store.password_file", "store.timeout", "store.lease",
		"store.max_staleness" };

	for (size_t i = 0; i < STR_COUNT(settings); i++)
		if (lines_find(c->lines, settings[i])) {
			check_finding(c, settings[i],
				"%s says nothing without etcd: write store.engine: etcd, or take "
				"it "
				"out",
				settings[i]);
			return;
		}
}

static unsigned
lease(struct check *c, const char *text)
{
	uint64_t s;

	if (!text)
		return LEASE_S_DEFAULT;
	if (clock_parse_duration(text, &s) == 0 && s >= LEASE_S_MIN && s <= LEASE_S_MAX)
		return (unsigned)s;
	check_finding(c, "store.lease",
		"store.lease \"%s\" is no duration from %u s to %u s: write \"5s\"", text,
		LEASE_S_MIN, LEASE_S_MAX);
	return LEASE_S_DEFAULT;
}

/* A single call that gets no answer must not cost the lease. */
static unsigned
timeout(struct check *c, const char *text, unsigned lease_s)
{
	const unsigned max = lease_s * 1000 / 2;
	const unsigned usual = max < TIMEOUT_MS_DEFAULT ? max : TIMEOUT_MS_DEFAULT;
	char *end;
	unsigned long n;

	if (!text)
		return usual;
	n = text[0] >= '0' && text[0] <= '9' && strlen(text) < 8 ? strtoul(text, &end, 10) : 0;
	if (n && strcmp(end, "s") == 0)
		n *= 1000;
	else if (n && strcmp(end, "ms") != 0)
		n = 0;
	if (n >= TIMEOUT_MS_MIN && n <= max)
		return (unsigned)n;
	check_finding(c, "store.timeout",
		"store.timeout \"%s\" is no duration from %u ms to half of store.lease (%u ms): "
		"write "
		"\"2s\" or \"500ms\"",
		text, TIMEOUT_MS_MIN, max);
	return usual;
}

static uint64_t
staleness(struct check *c, const char *text)
{
	uint64_t s;

	if (!text)
		return STALENESS_S_DEFAULT;
	if (clock_parse_duration(text, &s) == 0 && s > 0 && s < STALENESS_S_END)
		return s;
	check_finding(c, "store.max_staleness",
		"store.max_staleness \"%s\" is no duration below 24 h: write \"12h\"; no version "
		"may "
		"be destroyed before a node that is cut off stops using it",
		text);
	return STALENESS_S_DEFAULT;
}

void
check_store(struct check *c, const struct document *d, struct config *config)
{
	config->store.lease_s = lease(c, d->store.lease);
	config->store.timeout_ms = timeout(c, d->store.timeout, config->store.lease_s);
	config->store.max_staleness_s = staleness(c, d->store.max_staleness);
	check_url(c, config);
	if (!config->store.etcd) {
		check_needless(c);
		return;
	}
	if (config->store.endpoints_count == 0)
		check_finding(c, "store.endpoints",
			"store.endpoints has no address: list etcd's members, as in \"endpoints: [ "
			"https://etcd1:2379 ]\"");
	for (unsigned i = 0; i < config->store.endpoints_count; i++)
		check_endpoint(c, config, i);
	check_pairs(c, config);
	check_secret_file(c, "store.key", config->store.key);
	check_secret_file(c, "store.password_file", config->store.password_file);
}
