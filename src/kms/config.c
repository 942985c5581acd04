/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Makes the checked configuration out of the document: defaults, numbers, names, and what the file
 * system says. Every fault is a finding with its line and a remedy.
 */
#include "config.h"

#include "document.h"
#include "socket.h"

#include "kekd/clock.h"
#include "kekd/err.h"
#include "kekd/file.h"
#include "kekd/str.h"

#include <arpa/inet.h>
#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define STATE_DIR_DEFAULT "/var/lib/kekd-kms"
#define WORD_MAX 253

struct check {
	const char *file;
	FILE *out;
	const char *dir; /* absolute: what relative paths start from */
	const struct lines *lines;
	unsigned findings;
};

static void __attribute__((format(printf, 3, 4)))
finding(struct check *c, const char *setting, const char *format, ...)
{
	unsigned line = lines_find_near(c->lines, setting);
	va_list ap;

	fprintf(c->out, "%s:%u: ", c->file, line ? line : 1);
	va_start(ap, format);
	vfprintf(c->out, format, ap);
	va_end(ap);
	fputc('\n', c->out);
	c->findings++;
}

static void *
move(void *pointer_to_pointer)
{
	void **place = pointer_to_pointer, *value = *place;

	*place = NULL;
	return value;
}

/* ---- names ---- */

/* What is kept in etcd and in the context of every blob: nothing that looks like nothing. */
static bool
is_word(const char *text)
{
	size_t len = strlen(text);

	for (size_t i = 0; i < len; i++)
		if (text[i] <= ' ' || text[i] > '~' || text[i] == ':')
			return false;
	return len >= 1 && len <= WORD_MAX;
}

static void
check_names(struct check *c, const struct kms_config *k)
{
	if (!k->provider)
		finding(c, "provider",
			"provider is missing: give the name that this plugin has in the "
			"EncryptionConfiguration (kms, name:)");
	else if (!is_word(k->provider))
		finding(c, "provider",
			"provider \"%s\" is no name that Kubernetes takes: use 1 to %d characters, "
			"without blanks and without \":\"; it can never be changed",
			k->provider, WORD_MAX);
	if (!k->cluster)
		finding(c, "cluster",
			"cluster is missing: give the Kubernetes cluster a name of its own, the "
			"same on all of its control-plane nodes");
	else if (!is_word(k->cluster))
		finding(c, "cluster",
			"cluster \"%s\" is no name: use 1 to %d characters without blanks and "
			"\":\"; it can never be changed",
			k->cluster, WORD_MAX);
	if (!k->key)
		finding(c, "key", "key is missing: give the name of the cluster's key at kekd");
	else if (!str_is_name(k->key))
		finding(c, "key",
			"key \"%s\" is no key's name: use a-z, 0-9 and . _ - inside, at most %d "
			"characters",
			k->key, STR_NAME_MAX);
}

/* ---- endpoints ---- */

static bool
is_port(const char *text)
{
	size_t len = strspn(text, "0123456789");

	return len >= 1 && len <= 5 && text[len] == '\0' && strtoul(text, NULL, 10) - 1 < 65535;
}

/* "https://HOST:PORT", "https://[V6]:PORT", and a slash at most. */
static bool
is_endpoint(const char *text)
{
	static const char start[] = "https://";
	char port[8];
	const char *host = text + strlen(start), *end;
	size_t len;

	if (strncmp(text, start, strlen(start)) != 0)
		return false;
	end = host[0] == '[' ? strchr(host, ']') : host + strcspn(host, ":");
	if (!end || end == host)
		return false;
	end += host[0] == '[';
	for (const char *p = host; p < end; p++)
		if (strchr("/?#@ \t\"<>\\", *p))
			return false;
	len = end[0] == ':' ? strspn(end + 1, "0123456789") : 0;
	if (len == 0 || len >= sizeof(port) || (end[1 + len] && strcmp(end + 1 + len, "/") != 0))
		return false;
	memcpy(port, end + 1, len);
	port[len] = '\0';
	return is_port(port);
}

static void
check_endpoints(struct check *c, const struct kms_config *k)
{
	char setting[32];

	if (k->endpoints_count == 0)
		finding(c, "endpoints",
			"endpoints is missing: list the nodes of kekd, https://HOST:PORT each");
	for (size_t i = 0; i < k->endpoints_count; i++) {
		snprintf(setting, sizeof(setting), "endpoints[%zu]", i);
		if (!is_endpoint(k->endpoints[i]))
			finding(c, setting,
				"endpoints: \"%s\" is not https://HOST:PORT: write nothing else",
				k->endpoints[i]);
		for (size_t j = 0; j < i; j++)
			if (strcmp(k->endpoints[i], k->endpoints[j]) == 0)
				finding(c, setting,
					"endpoints: %s is given twice: keep one of them",
					k->endpoints[i]);
	}
}

/* ---- files ---- */

static int
resolve(const struct check *c, char **path)
{
	char *absolute;

	if (!*path || **path == '/')
		return 0;
	if (asprintf(&absolute, "%s/%s", c->dir, *path) < 0)
		return -ENOMEM;
	free(*path);
	*path = absolute;
	return 0;
}

static void
check_file(struct check *c, const char *setting, const char *path, const char *what)
{
	struct stat st;

	if (!path)
		finding(c, setting, "%s is missing: give the PEM file of %s", setting, what);
	else if (stat(path, &st) != 0 || access(path, R_OK) != 0)
		finding(c, setting,
			"%s: %s cannot be read: %s: put the file there, or correct the path",
			setting, path, strerror(errno));
	else if (!S_ISREG(st.st_mode))
		finding(c, setting, "%s: %s is not a file: correct the path", setting, path);
}

static void
check_private(struct check *c, const char *path)
{
	struct stat st;

	if (path && stat(path, &st) == 0 && S_ISREG(st.st_mode) && (st.st_mode & 007))
		finding(c, "certificate_key",
			"everybody can reach the private key %s (mode %04o): chmod 600 %s", path,
			(unsigned)st.st_mode & 07777, path);
}

static int
check_files(struct check *c, struct kms_config *k)
{
	struct stat st;

	if (resolve(c, &k->ca) || resolve(c, &k->certificate) || resolve(c, &k->certificate_key) ||
		resolve(c, &k->socket) || resolve(c, &k->state_dir))
		return -ENOMEM;
	check_file(c, "ca", k->ca, "the CA that issued the certificates of kekd");
	check_file(c, "certificate", k->certificate, "this plugin's certificate");
	check_file(c, "certificate_key", k->certificate_key, "its private key");
	check_private(c, k->certificate_key);
	if (stat(k->state_dir, &st) == 0 && !S_ISDIR(st.st_mode))
		finding(c, "state_dir", "state_dir: %s is not a directory: correct the path",
			k->state_dir);
	return 0;
}

/* ---- the socket ---- */

static mode_t
parse_mode(struct check *c, const char *text)
{
	char *end;
	unsigned long mode;

	if (!text)
		return 0600;
	mode = strtoul(text, &end, 8);
	if (strspn(text, "01234567") != strlen(text) || *end || strlen(text) > 4 || mode > 0777)
		finding(c, "socket.mode",
			"socket.mode \"%s\" is no mode: write octal digits, \"0600\" or \"0660\"",
			text);
	else if (mode & 0007)
		finding(c, "socket.mode",
			"socket.mode %s lets everybody have seeds unwrapped: write \"0600\", or "
			"\"0660\" with socket.group",
			text);
	else if ((mode & 0600) != 0600)
		finding(c, "socket.mode",
			"socket.mode %s does not let the owner connect: write \"0600\" or \"0660\"",
			text);
	return (mode_t)mode;
}

/* True: it is a number. */
static bool
is_id(const char *text, uid_t *ret_id)
{
	size_t len = strspn(text, "0123456789");

	if (len == 0 || text[len] || len > 9)
		return false;
	*ret_id = (uid_t)strtoul(text, NULL, 10);
	return true;
}

static uid_t
find_owner(struct check *c, const char *text)
{
	uid_t id = (uid_t)-1;
	const struct passwd *pw;

	if (!text || is_id(text, &id))
		return id;
	if ((pw = getpwnam(text)))
		return pw->pw_uid;
	finding(c, "socket.owner",
		"socket.owner: there is no user \"%s\" on this host: give the name or number of "
		"the user that the API server runs as",
		text);
	return id;
}

static gid_t
find_group(struct check *c, const char *text)
{
	gid_t id = (gid_t)-1;
	const struct group *gr;

	if (!text || is_id(text, &id))
		return id;
	if ((gr = getgrnam(text)))
		return gr->gr_gid;
	finding(c, "socket.group",
		"socket.group: there is no group \"%s\" on this host: give the name or number of "
		"the API server's group",
		text);
	return id;
}

static void
check_path(struct check *c, const char *setting, const char *path)
{
	if (strlen(path) > KMS_SOCKET_PATH_MAX)
		finding(c, setting,
			"%s: %s has %zu bytes, and a socket's path at most %d: take a shorter one",
			setting, path, strlen(path), KMS_SOCKET_PATH_MAX);
}

/* ---- metrics ---- */

/* "127.0.0.1:PORT" or "[::1]:PORT": by number, so that no name leads elsewhere. */
static bool
is_loopback(const char *text)
{
	static const char v6[] = "[::1]:";
	struct in_addr a;
	char host[INET_ADDRSTRLEN];
	size_t len = strcspn(text, ":");

	if (strncmp(text, v6, strlen(v6)) == 0)
		return is_port(text + strlen(v6));
	if (len >= sizeof(host) || text[len] != ':')
		return false;
	memcpy(host, text, len);
	host[len] = '\0';
	return inet_pton(AF_INET, host, &a) == 1 && ntohl(a.s_addr) >> 24 == 127 &&
	       is_port(text + len + 1);
}

static void
check_metrics(struct check *c, const struct kms_config *k)
{
	static const char kind[] = "unix:";
	const char *path;

	if (!k->metrics || is_loopback(k->metrics))
		return;
	path = strncmp(k->metrics, kind, strlen(kind)) == 0 ? k->metrics + strlen(kind) : "";
	if (*path != '/')
		finding(c, "metrics",
			"metrics \"%s\" is neither a loopback address nor a socket: write "
			"\"127.0.0.1:7374\", \"[::1]:7374\" or \"unix:/PATH\"",
			k->metrics);
	else if (strcmp(path, k->socket) == 0)
		finding(c, "metrics", "metrics: %s is socket.path already: take another one", path);
	else
		check_path(c, "metrics", path);
}

/* ---- times ---- */

struct times {
	const char *setting;
	uint64_t min_ns, max_ns, default_ns;
	const char *range;
};

static uint64_t
parse_time(struct check *c, const char *text, const struct times *t)
{
	char *end;
	uint64_t n, ns;

	if (!text)
		return t->default_ns;
	n = strtoull(text, &end, 10);
	ns = n > 1000000	      ? 0
	     : strcmp(end, "ms") == 0 ? n * CLOCK_MS
	     : strcmp(end, "s") == 0  ? n * CLOCK_S
	     : strcmp(end, "m") == 0  ? n * 60 * CLOCK_S
				      : 0;
	if (text[0] >= '0' && text[0] <= '9' && ns >= t->min_ns && ns <= t->max_ns)
		return ns;
	finding(c, t->setting,
		"%s \"%s\" is no duration from %s: write a number and ms, s or m, as in \"2800ms\" "
		"or \"10s\"",
		t->setting, text, t->range);
	return t->default_ns;
}

static const struct times probe = { "probe", CLOCK_S / 10, 60 * CLOCK_S, 10 * CLOCK_S,
	"100 ms to 60 s" };
static const struct times timeout = { "timeout", CLOCK_S / 10, 30 * CLOCK_S, 2800 * CLOCK_MS,
	"100 ms to 30 s" };

/* ---- all of it ---- */

static int
move_or(char **place, const char *fallback, char **ret_value)
{
	*ret_value = *place ? move(place) : strdup(fallback);
	return *ret_value ? 0 : -ENOMEM;
}

static int
take_document(struct check *c, struct kms_document *d, struct kms_config *k)
{
	k->path = strdup(c->file);
	k->provider = move(&d->provider);
	k->cluster = move(&d->cluster);
	k->key = move(&d->key);
	k->endpoints_count = d->endpoints_count;
	k->endpoints = move(&d->endpoints);
	d->endpoints_count = 0;
	k->ca = move(&d->ca);
	k->certificate = move(&d->certificate);
	k->certificate_key = move(&d->certificate_key);
	k->socket_mode = parse_mode(c, d->socket.mode);
	k->socket_uid = find_owner(c, d->socket.owner);
	k->socket_gid = find_group(c, d->socket.group);
	k->metrics = move(&d->metrics);
	k->probe_every_ns = parse_time(c, d->probe, &probe);
	k->timeout_ns = parse_time(c, d->timeout, &timeout);
	if (!k->path || move_or(&d->socket.path, KMS_SOCKET_DEFAULT, &k->socket) ||
		move_or(&d->state_dir, STATE_DIR_DEFAULT, &k->state_dir))
		return -ENOMEM;
	return 0;
}

static int
check_all(struct check *c, struct kms_document *d, struct kms_config *k)
{
	if (take_document(c, d, k) || check_files(c, k))
		return -ENOMEM;
	check_names(c, k);
	check_endpoints(c, k);
	check_path(c, "socket.path", k->socket);
	check_metrics(c, k);
	return c->findings > 0 ? KEKD_EINVALID : 0;
}

int
kms_config_read(const char *path, struct kms_config **ret_config)
{
	return kms_config_read_to(path, stderr, ret_config);
}

int
kms_config_read_to(const char *path, FILE *out, struct kms_config **ret_config)
{
	_cleanup_(kms_config_freep) struct kms_config *k = calloc(1, sizeof(*k));
	_cleanup_(kms_document_freep) struct kms_document *d = NULL;
	_cleanup_(lines_free) struct lines lines = { 0 };
	_cleanup_(str_freep) char *dir = NULL;
	struct check c = { .file = path, .out = out, .lines = &lines };
	int err = kms_document_read(path, out, &d, &lines);

	if (err)
		return err;
	c.dir = dir = file_directory(path);
	if (!k || !dir)
		return -ENOMEM;
	err = check_all(&c, d, k);
	if (err)
		return err;
	*ret_config = k;
	k = NULL;
	return 0;
}

void
kms_config_freep(struct kms_config **c)
{
	struct kms_config *k = *c;

	if (!k)
		return;
	for (size_t i = 0; i < k->endpoints_count; i++)
		free(k->endpoints[i]);
	free(k->endpoints);
	free(k->path);
	free(k->provider);
	free(k->cluster);
	free(k->key);
	free(k->ca);
	free(k->certificate);
	free(k->certificate_key);
	free(k->socket);
	free(k->state_dir);
	free(k->metrics);
	free(k);
	*c = NULL;
}
