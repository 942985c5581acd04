/* SPDX-License-Identifier: Apache-2.0 */
/* kekctl.yaml: where it is, what it says, and the options laid over it. */
#include "ctl.h"

#include <cyaml/cyaml.h>
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#define ENDPOINT_DEFAULT "https://127.0.0.1:7373"
#define ENDPOINTS_MAX 16

/* ---- what the file says ---- */

static const cyaml_schema_value_t endpoint_schema = {
	CYAML_VALUE_STRING(CYAML_FLAG_POINTER, char, 1, CYAML_UNLIMITED),
};

static const cyaml_schema_field_t fields[] = {
	CYAML_FIELD_SEQUENCE("endpoints", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL,
		struct ctl_config, endpoints, &endpoint_schema, 1, ENDPOINTS_MAX),
	CYAML_FIELD_STRING_PTR("ca", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, struct ctl_config,
		ca, 1, CYAML_UNLIMITED),
	CYAML_FIELD_STRING_PTR("certificate", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL,
		struct ctl_config, certificate, 1, CYAML_UNLIMITED),
	CYAML_FIELD_STRING_PTR("key", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, struct ctl_config,
		key, 1, CYAML_UNLIMITED),
	CYAML_FIELD_END,
};

static const cyaml_schema_value_t schema = {
	CYAML_VALUE_MAPPING(CYAML_FLAG_POINTER, struct ctl_config, fields),
};

/* The loader says what is wrong first, then where, from the inside out: the first of each counts.
 */
struct complaint {
	char what[256];
	unsigned line; /* 0: not known */
};

static void __attribute__((format(printf, 3, 0)))
collect(cyaml_log_t level, void *user, const char *format, va_list args)
{
	struct complaint *c = user;
	char text[256];
	const char *at;

	(void)level;
	vsnprintf(text, sizeof(text), format, args);
	text[strcspn(text, "\n")] = '\0';
	if (!c->what[0])
		snprintf(c->what, sizeof(c->what), "%s",
			strncmp(text, "Load: ", 6) == 0 ? text + 6 : text);
	at = strstr(text, "(line: ");
	if (c->line == 0 && at)
		c->line = (unsigned)strtoul(at + 7, NULL, 10);
}

static const cyaml_config_t *
loader(struct complaint *complaint, cyaml_config_t *c)
{
	*c = (cyaml_config_t){
		.log_fn = collect,
		.log_ctx = complaint,
		.log_level = CYAML_LOG_WARNING,
		.mem_fn = cyaml_mem,
	};
	return c;
}

static int
say_complaint(const char *path, cyaml_err_t err, const struct complaint *c)
{
	const char *what = c->what[0] ? c->what : cyaml_strerror(err);

	if (c->line > 0)
		say_error("%s:%u: %s", path, c->line, what);
	else
		say_error("%s: %s", path, what);
	say_hint("it may have endpoints (a list), ca, certificate and key, and nothing else: "
		 "man 5 kekctl.yaml");
	return CTL_USAGE;
}

/* A path in the file is relative to the file. A copy; NULL for NULL. */
static char *
beside(const char *file, const char *path)
{
	const char *slash = strrchr(file, '/');
	char *joined = NULL;

	if (!path)
		return NULL;
	if (path[0] == '/' || !slash)
		return strdup(path);
	if (asprintf(&joined, "%.*s/%s", (int)(slash - file), file, path) < 0)
		return NULL;
	return joined;
}

static int
add_endpoint(struct ctl_config *c, const char *endpoint, size_t len)
{
	char **longer = realloc(c->endpoints, (c->endpoints_count + 1) * sizeof(*longer));
	char *copy = strndup(endpoint, len);

	if (longer)
		c->endpoints = longer;
	if (!longer || !copy) {
		free(copy);
		say_error("%s", strerror(ENOMEM));
		return CTL_FAILED;
	}
	c->endpoints[c->endpoints_count++] = copy;
	return CTL_OK;
}

/* One, or several with commas between them. */
static int
add_endpoints(struct ctl_config *c, const char *list)
{
	for (const char *p = list; *p;) {
		size_t len = strcspn(p, ", ");
		if (len > 0 && c->endpoints_count == ENDPOINTS_MAX) {
			say_error("more than %d endpoints", ENDPOINTS_MAX);
			return CTL_USAGE;
		}
		if (len > 0 && add_endpoint(c, p, len) != CTL_OK)
			return CTL_FAILED;
		p += len;
		p += *p != '\0';
	}
	return CTL_OK;
}

static void
drop_endpoints(struct ctl_config *c)
{
	while (c->endpoints_count > 0)
		free(c->endpoints[--c->endpoints_count]);
}

static int
take_file(const char *path, const struct ctl_config *file, struct ctl_config *c)
{
	c->ca = beside(path, file->ca);
	c->certificate = beside(path, file->certificate);
	c->key = beside(path, file->key);
	for (unsigned i = 0; i < file->endpoints_count; i++)
		if (add_endpoint(c, file->endpoints[i], strlen(file->endpoints[i])) != CTL_OK)
			return CTL_FAILED;
	return CTL_OK;
}

static int
load_file(const char *path, struct ctl_config *c)
{
	struct ctl_config *file = NULL;
	struct complaint complaint = { 0 };
	cyaml_config_t config;
	cyaml_err_t err;
	int status;

	if (access(path, R_OK) < 0) {
		say_error("cannot read %s: %s", path, strerror(errno));
		return CTL_USAGE;
	}
	err = cyaml_load_file(
		path, loader(&complaint, &config), &schema, (cyaml_data_t **)&file, NULL);
	if (err != CYAML_OK)
		return say_complaint(path, err, &complaint);
	if (!file)
		return CTL_OK;
	status = take_file(path, file, c);
	cyaml_free(&config, &schema, file, 0);
	return status;
}

/* ---- where it is ---- */

static char *
user_file(void)
{
	const char *xdg = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");
	char *path = NULL;

	if (xdg && *xdg)
		return asprintf(&path, "%s/kekd/kekctl.yaml", xdg) < 0 ? NULL : path;
	if (home && *home)
		return asprintf(&path, "%s/.config/kekd/kekctl.yaml", home) < 0 ? NULL : path;
	return NULL;
}

/* The file to read, or NULL. One that was named is not looked for: if it is missing, that is to be
 * said. */
static char *
find_file(const struct ctl_args *a)
{
	const char *named = args_value(a, "config");
	_cleanup_(str_freep) char *user = user_file();
	const char *places[] = { "./kekctl.yaml", user, KEKD_SYSCONFDIR "/kekd/kekctl.yaml" };

	if (!named)
		named = getenv("KEKCTL_CONFIG");
	if (named && *named)
		return strdup(named);
	for (size_t i = 0; i < STR_COUNT(places); i++)
		if (places[i] && access(places[i], F_OK) == 0)
			return strdup(places[i]);
	return NULL;
}

/* ---- both together ---- */

/* The options, else the environment, else what the file says. */
static int
lay_endpoints_over(const struct ctl_args *a, struct ctl_config *c)
{
	const char *environment = getenv("KEKCTL_ENDPOINTS");
	int status = CTL_OK;

	if (args_has(a, "endpoint")) {
		drop_endpoints(c);
		for (size_t i = 0; status == CTL_OK && i < args_count(a, "endpoint"); i++)
			status = add_endpoints(c, args_nth(a, "endpoint", i));
	} else if (environment && *environment) {
		drop_endpoints(c);
		status = add_endpoints(c, environment);
	}
	if (status == CTL_OK && c->endpoints_count == 0)
		status = add_endpoints(c, ENDPOINT_DEFAULT);
	return status;
}

static int
lay_over(const struct ctl_args *a, struct ctl_config *c)
{
	const struct {
		const char *option;
		char **place;
	} paths[] = {
		{ "ca", &c->ca },
		{ "cert", &c->certificate },
		{ "key", &c->key },
	};

	for (size_t i = 0; i < STR_COUNT(paths); i++) {
		const char *value = args_value(a, paths[i].option);
		if (!value)
			continue;
		free(*paths[i].place);
		*paths[i].place = strdup(value);
	}
	return lay_endpoints_over(a, c);
}

static int
check(const struct ctl_config *c, const char *file)
{
	const char *missing = !c->ca		? "the server's CA (ca, --ca)"
			      : !c->certificate ? "a client certificate (certificate, --cert)"
			      : !c->key		? "the client certificate's key (key, --key)"
						: NULL;

	if (!missing)
		return CTL_OK;
	if (file) {
		say_error("%s does not name %s", file, missing);
		return CTL_USAGE;
	}
	say_error("nothing names %s, and there is no kekctl.yaml here, in ~/.config/kekd or in %s",
		missing, KEKD_SYSCONFDIR "/kekd");
	say_hint("name the file with --config or KEKCTL_CONFIG, or give --ca, --cert and --key");
	return CTL_USAGE;
}

int
ctl_config_load(const struct ctl_args *a, struct ctl_config *ret_config)
{
	struct ctl_config c = { 0 };
	_cleanup_(str_freep) char *file = find_file(a);
	int status = file ? load_file(file, &c) : CTL_OK;

	if (status == CTL_OK)
		status = lay_over(a, &c);
	if (status == CTL_OK)
		status = check(&c, file);
	if (status == CTL_OK)
		*ret_config = c;
	else
		ctl_config_free(&c);
	return status;
}

void
ctl_config_free(struct ctl_config *c)
{
	drop_endpoints(c);
	free(c->endpoints);
	free(c->ca);
	free(c->certificate);
	free(c->key);
	*c = (struct ctl_config){ 0 };
}
