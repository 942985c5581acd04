/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Makes the checked configuration out of the document: defaults, numbers, names, and what the file
 * system says. Tokens and administrators have files of their own.
 */
#include "load.h"

#include "kekd/err.h"
#include "kekd/str.h"

#include <errno.h>
#include <pwd.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define AUDIT_BYTES_MIN 4096ull
#define AUDIT_BYTES_MAX (1ull << 40)
#define AUDIT_BYTES_DEFAULT (1ull << 30)
#define DEADLINE_MS_MIN 10u
#define DEADLINE_MS_MAX 30000u
#define DEADLINE_MS_DEFAULT 5000u
#define HANG_MS_MAX 600000u
#define HANG_MS_DEFAULT 30000u

static void
tell(struct check *c, const char *path, const char *kind, const char *format, va_list ap)
{
	unsigned line = lines_find_near(c->lines, path);
	char text[1024];

	vsnprintf(text, sizeof(text), format, ap);
	if (line)
		fprintf(c->out, "%s:%u: %s%s\n", c->file, line, kind, text);
	else
		fprintf(c->out, "%s: %s%s\n", c->file, kind, text);
}

void
check_finding(struct check *c, const char *path, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	tell(c, path, "", format, ap);
	va_end(ap);
	c->findings++;
}

void
check_warning(struct check *c, const char *path, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	tell(c, path, "warning: ", format, ap);
	va_end(ap);
}

/* A number with a unit out of a table; -EINVAL when it is none. */
struct unit {
	const char *name;
	uint64_t factor;
};

static int
parse_units(const char *text, const struct unit *units, size_t count, uint64_t *ret)
{
	char *end;
	uint64_t n;

	if (text[0] < '0' || text[0] > '9')
		return -EINVAL;
	errno = 0;
	n = strtoull(text, &end, 10);
	if (errno)
		return -EINVAL;
	for (size_t i = 0; i < count; i++) {
		if (strcmp(end, units[i].name) != 0)
			continue;
		return __builtin_mul_overflow(n, units[i].factor, ret) ? -EINVAL : 0;
	}
	return -EINVAL;
}

static unsigned
deadline(struct check *c, const char *text)
{
	static const struct unit units[] = { { "ms", 1 }, { "s", 1000 } };
	uint64_t ms;

	if (!text)
		return DEADLINE_MS_DEFAULT;
	if (parse_units(text, units, STR_COUNT(units), &ms) == 0 && ms >= DEADLINE_MS_MIN &&
		ms <= DEADLINE_MS_MAX)
		return (unsigned)ms;
	check_finding(c, "hsm.deadline",
		"hsm.deadline \"%s\" is no duration from %u ms to %u s: write \"5s\" or \"500ms\"",
		text, DEADLINE_MS_MIN, DEADLINE_MS_MAX / 1000);
	return DEADLINE_MS_DEFAULT;
}

/* Network tokens fail over slowly, but a worker that keeps a request for longer than that is lost.
 */
static unsigned
hang(struct check *c, const char *text, unsigned deadline_ms)
{
	static const struct unit units[] = { { "ms", 1 }, { "s", 1000 }, { "m", 60000 } };
	const unsigned usual = deadline_ms < HANG_MS_DEFAULT ? HANG_MS_DEFAULT : 2 * deadline_ms;
	uint64_t ms;

	if (!text)
		return usual;
	if (parse_units(text, units, STR_COUNT(units), &ms) == 0 && ms > deadline_ms &&
		ms <= HANG_MS_MAX)
		return (unsigned)ms;
	check_finding(c, "hsm.hang",
		"hsm.hang \"%s\" is no duration above hsm.deadline (%u ms) and up to %u m: write "
		"\"30s\" or \"2m\"",
		text, deadline_ms, HANG_MS_MAX / 60000);
	return usual;
}

static uint64_t
max_bytes(struct check *c, const char *text)
{
	static const struct unit units[] = { { "", 1 }, { "KiB", 1ull << 10 },
		{ "MiB", 1ull << 20 }, { "GiB", 1ull << 30 } };
	uint64_t bytes;

	if (!text)
		return AUDIT_BYTES_DEFAULT;
	if (parse_units(text, units, STR_COUNT(units), &bytes) == 0 && bytes >= AUDIT_BYTES_MIN &&
		bytes <= AUDIT_BYTES_MAX)
		return bytes;
	check_finding(c, "audit.max_bytes",
		"audit.max_bytes \"%s\" is no size from 4 KiB to 1024 GiB: write \"1GiB\", "
		"\"512MiB\" "
		"or a number of bytes",
		text);
	return AUDIT_BYTES_DEFAULT;
}

/* Fewer than two files would mean to remove what was just written. */
static unsigned
keep(struct check *c, unsigned given)
{
	if (given == 0 && !lines_find(c->lines, "audit.keep"))
		return 0;
	if (given >= AUDIT_KEEP_MIN && given <= AUDIT_KEEP_MAX)
		return given;
	check_finding(c, "audit.keep",
		"audit.keep is %u: give the number of files to keep, %d to %d, or leave it away to "
		"keep all",
		given, AUDIT_KEEP_MIN, AUDIT_KEEP_MAX);
	return 0;
}

/* A format, and the path of a receiver's datagram socket where the usual one is not meant. */
static void
check_sink(struct check *c, const char *text)
{
	static const char *const formats[] = { "syslog", "journal", "json" };
	const struct sockaddr_un *un = NULL;
	size_t len = text ? strcspn(text, ":") : 0, path = len + 1;

	for (size_t i = 0; text && i < STR_COUNT(formats); i++)
		if (strlen(formats[i]) == len && strncmp(text, formats[i], len) == 0 &&
			(text[len] ? text[path] == '/' && strlen(text + path) < sizeof(un->sun_path)
				   : strcmp(text, "json") != 0))
			return;
	if (text)
		check_finding(c, "audit.sink",
			"audit.sink \"%s\" is no sink: write \"syslog\", \"journal\", or a format "
			"and the path of a datagram socket, \"json:/run/collector\"",
			text);
}

static unsigned
count_between(struct check *c, const char *path, unsigned given, unsigned max, unsigned fallback)
{
	if (given == 0 && !lines_find(c->lines, path))
		return fallback;
	if (given >= 1 && given <= max)
		return given;
	check_finding(c, path, "%s is %u: give a number from 1 to %u", path, given, max);
	return fallback;
}

static unsigned
cores(void)
{
	cpu_set_t set;
	int n = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;

	return n < 1 ? 1 : n > CONFIG_WORKERS_MAX ? CONFIG_WORKERS_MAX : (unsigned)n;
}

static void *
take(void *pointer_to_pointer)
{
	void **place = pointer_to_pointer, *value = *place;

	*place = NULL;
	return value;
}

static char *
take_or(char **place, const char *fallback)
{
	char *value = take(place);

	return value ? value : strdup(fallback);
}

static char *
host_name(void)
{
	char host[256] = "";

	if (gethostname(host, sizeof(host) - 1) != 0)
		host[0] = '\0';
	host[strcspn(host, ".")] = '\0';
	for (char *p = host; *p; p++)
		if (*p >= 'A' && *p <= 'Z')
			*p = (char)(*p - 'A' + 'a');
	return strdup(host);
}

static void
take_store(struct document *d, struct config *config)
{
	config->store.etcd = d->store.engine == DOCUMENT_ETCD;
	config->store.endpoints_count = d->store.endpoints_count;
	config->store.endpoints = take(&d->store.endpoints);
	d->store.endpoints_count = 0;
	config->store.ca = take(&d->store.ca);
	config->store.certificate = take(&d->store.certificate);
	config->store.key = take(&d->store.key);
	config->store.user = take(&d->store.user);
	config->store.password_file = take(&d->store.password_file);
}

static int
take_document(struct check *c, struct document *d, struct config *config)
{
	config->cluster = take_or(&d->cluster, "kekd");
	config->node = d->node ? take(&d->node) : host_name();
	config->state_dir = take(&d->state_dir);
	config->user = take_or(&d->user, "kekd");
	config->listen_count = d->listen_count;
	config->listen = take(&d->listen);
	d->listen_count = 0;
	config->url = take(&d->url);
	take_store(d, config);
	config->tls.certificate = take(&d->tls.certificate);
	config->tls.key = take(&d->tls.key);
	config->tls.client_ca = take(&d->tls.client_ca);
	config->crl.file = take(&d->crl.file);
	config->crl.warn_expired = d->crl.on_expired == DOCUMENT_EXPIRED_WARN;
	config->deny_count = d->deny_count;
	config->deny = take(&d->deny);
	d->deny_count = 0;
	config->identity.common_name = d->identity.common_name == DOCUMENT_TRUE;
	config->tokens_count = d->tokens_count;
	config->tokens = take(&d->tokens);
	d->tokens_count = 0;
	config->hsm.user = take_or(&d->hsm.user, "kekd-hsm");
	config->hsm.state_dir = take(&d->hsm.state_dir);
	config->hsm.workers = count_between(
		c, "hsm.workers", d->hsm.workers, CONFIG_WORKERS_MAX, cores());
	config->hsm.sessions = count_between(
		c, "hsm.sessions", d->hsm.sessions, CONFIG_SESSIONS_MAX, 1);
	config->hsm.deadline_ms = deadline(c, d->hsm.deadline);
	config->hsm.hang_ms = hang(c, d->hsm.hang, config->hsm.deadline_ms);
	config->audit.dir = take(&d->audit.dir);
	config->audit.hash_context = d->audit.context == DOCUMENT_CONTEXT_HASH;
	config->audit.max_bytes = max_bytes(c, d->audit.max_bytes);
	config->audit.keep = keep(c, d->audit.keep);
	config->audit.sink = take(&d->audit.sink);
	check_sink(c, config->audit.sink);
	config->admins_count = d->admins_count;
	config->admins = take(&d->admins);
	d->admins_count = 0;
	return config->cluster && config->node && config->user && config->hsm.user ? 0 : -ENOMEM;
}

static void
check_names(struct check *c, const struct config *config)
{
	if (!str_is_name(config->cluster))
		check_finding(c, "cluster",
			"cluster \"%s\" is not a name: use a-z, 0-9 and . _ - inside, at most %d "
			"characters",
			config->cluster, STR_NAME_MAX);
	if (!str_is_name(config->node))
		check_finding(c, "node",
			"node \"%s\"%s is not a name: set node: with a-z, 0-9 and . _ - inside, at "
			"most %d characters",
			config->node, lines_find(c->lines, "node") ? "" : " (the host's name)",
			STR_NAME_MAX);
}

static void
check_listen(struct check *c, const struct config *config)
{
	if (config->listen_count == 0)
		check_finding(c, "listen",
			"listen has no address: add one, as in \"listen: [ 127.0.0.1:7373 ]\"");
	for (unsigned i = 0; i < config->listen_count; i++) {
		struct sockaddr_storage address;
		socklen_t len;
		char path[32];

		snprintf(path, sizeof(path), "listen[%u]", i);
		if (config_listen_address(config->listen[i], &address, &len) != 0)
			check_finding(c, path,
				"listen address \"%s\" is not ADDRESS:PORT: write a number for "
				"both, "
				"as in 127.0.0.1:7373 or \"[::1]:7373\"",
				config->listen[i]);
		for (unsigned j = 0; j < i; j++)
			if (strcmp(config->listen[i], config->listen[j]) == 0)
				check_finding(c, path,
					"listen address %s is given twice: keep one of them",
					config->listen[i]);
	}
}

static void
check_user(struct check *c, const char *setting, const char *name)
{
	char *end;

	if (geteuid() != 0 || getpwnam(name))
		return;
	strtoul(name, &end, 10);
	if (*end == '\0' && end != name)
		return;
	check_finding(c, setting,
		"%s: there is no user \"%s\" on this host: create it, or set %s to one that exists",
		setting, name, setting);
}

static int
resolve_required(struct check *c, const char *setting, char **path)
{
	if (*path)
		return check_resolve(c, path);
	check_finding(c, setting, "%s is missing: give it a path", setting);
	return 0;
}

static int
check_paths(struct check *c, struct config *config)
{
	const struct {
		const char *setting;
		char **path;
		bool is_file, optional;
	} paths[] = {
		{ "state_dir", &config->state_dir, false, false },
		{ "tls.certificate", &config->tls.certificate, true, false },
		{ "tls.key", &config->tls.key, true, false },
		{ "tls.client_ca", &config->tls.client_ca, true, false },
		{ "crl.file", &config->crl.file, true, true },
		{ "store.ca", &config->store.ca, true, true },
		{ "store.certificate", &config->store.certificate, true, true },
		{ "store.key", &config->store.key, true, true },
		{ "store.password_file", &config->store.password_file, true, true },
		{ "audit.dir", &config->audit.dir, false, false },
		{ "hsm.state_dir", &config->hsm.state_dir, false, true },
	};

	if (!config->hsm.state_dir && config->state_dir &&
		asprintf(&config->hsm.state_dir, "%s/hsm", config->state_dir) < 0)
		return -ENOMEM;
	for (size_t i = 0; i < STR_COUNT(paths); i++) {
		if (!*paths[i].path && paths[i].optional)
			continue;
		if (resolve_required(c, paths[i].setting, paths[i].path) != 0)
			return -ENOMEM;
		if (*paths[i].path && paths[i].is_file)
			check_file(c, paths[i].setting, *paths[i].path);
		else if (*paths[i].path)
			check_directory(c, paths[i].setting, *paths[i].path);
	}
	return 0;
}

/* Its group may read it: a server's key is often shared so. */
static void
check_private(struct check *c, const struct config *config)
{
	const char *path = config->tls.key;
	struct stat st;

	if (path && stat(path, &st) == 0 && S_ISREG(st.st_mode) && (st.st_mode & 007))
		check_finding(c, "tls.key",
			"everybody can reach the private key %s (mode %04o): chmod 600 %s", path,
			(unsigned)st.st_mode & 07777, path);
}

static void
check_crl(struct check *c, const struct config *config)
{
	if (!config->crl.file && lines_find(c->lines, "crl.on_expired"))
		check_finding(c, "crl.on_expired",
			"crl.on_expired says nothing without CRLs: give crl.file, or take it out");
}

static void
check_apart(struct check *c, const struct config *config)
{
	if (config->state_dir && config->hsm.state_dir &&
		strcmp(config->state_dir, config->hsm.state_dir) == 0)
		check_finding(c, "hsm.state_dir",
			"hsm.state_dir is state_dir: take another directory, kekd-net must not "
			"reach "
			"the workers' files");
	if (config->state_dir && config->audit.dir &&
		strcmp(config->state_dir, config->audit.dir) == 0)
		check_finding(c, "audit.dir",
			"audit.dir is state_dir: take another directory for the audit log");
}

int
check_document(struct check *c, struct document *d, struct config *config)
{
	int err = take_document(c, d, config);
	unsigned before;

	if (err)
		return err;
	check_names(c, config);
	check_listen(c, config);
	check_user(c, "user", config->user);
	check_user(c, "hsm.user", config->hsm.user);
	before = c->findings;
	if (check_paths(c, config) != 0)
		return -ENOMEM;
	check_private(c, config);
	check_store(c, d, config);
	if (c->findings == before)
		check_certificates(c, config);
	check_crl(c, config);
	check_deny(c, config);
	check_apart(c, config);
	check_admins(c, config);
	check_policy(c, d, config);
	return check_tokens(c, config);
}
