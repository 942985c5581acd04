/* SPDX-License-Identifier: Apache-2.0 */
/* kekctl.yaml: where it is, what it says, and the options laid over it. */
#include "ctl.h"

#include <cyaml/cyaml.h>
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#define ENDPOINT_DEFAULT "https://127.0.0.1:7373"

/* ---- what the file says ---- */

static const cyaml_schema_value_t endpoint_schema = {
	CYAML_VALUE_STRING(CYAML_FLAG_POINTER, char, 1, CYAML_UNLIMITED),
};

static const cyaml_schema_field_t fields[] = {
	CYAML_FIELD_SEQUENCE("endpoints", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL,
		struct ctl_config, endpoints, &endpoint_schema, 1, 16),
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

static void __attribute__((format(printf, 3, 0)))
collect(cyaml_log_t level, void *user, const char *format, va_list args)
{
	struct buf *b = user;
	char line[512];

	(void)level;
	vsnprintf(line, sizeof(line), format, args);
	line[strcspn(line, "\n")] = '\0';
	if (b->len > 0)
		buf_str(b, "; ");
	buf_str(b, line);
}

static const cyaml_config_t *
loader(struct buf *messages, cyaml_config_t *c)
{
	*c = (cyaml_config_t){
		.log_fn = collect,
		.log_ctx = messages,
		.log_level = CYAML_LOG_WARNING,
		.mem_fn = cyaml_mem,
	};
	return c;
}

static void
say_file_error(const char *path, cyaml_err_t err, struct buf *messages)
{
	buf_u8(messages, 0);
	say_error("%s: %s: %s", path, cyaml_strerror(err),
		messages->len > 1 && !messages->bad ? (const char *)messages->data : "no details");
	say_hint("kekctl.yaml may have endpoints, ca, certificate and key: man 5 kekctl.yaml");
}

/* Moves what the loader allocated into plain memory, relative paths made absolute or relative to
 * the working directory. */
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
add_endpoint(struct ctl_config *c, const char *endpoint)
{
	char **longer = realloc(c->endpoints, (c->endpoints_count + 1) * sizeof(*longer));
	char *copy = strdup(endpoint);

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

static int
take_file(const char *path, const struct ctl_config *file, struct ctl_config *c)
{
	c->ca = beside(path, file->ca);
	c->certificate = beside(path, file->certificate);
	c->key = beside(path, file->key);
	for (unsigned i = 0; i < file->endpoints_count; i++)
		if (add_endpoint(c, file->endpoints[i]) != CTL_OK)
			return CTL_FAILED;
	return CTL_OK;
}

static int
load_file(const char *path, struct ctl_config *c)
{
	struct ctl_config *file = NULL;
	struct buf messages = BUF_INIT(2048);
	cyaml_config_t config;
	cyaml_err_t err;
	int status = CTL_USAGE;

	if (access(path, R_OK) < 0) {
		say_error("cannot read %s: %s", path, strerror(errno));
		goto out;
	}
	err = cyaml_load_file(
		path, loader(&messages, &config), &schema, (cyaml_data_t **)&file, NULL);
	if (err != CYAML_OK)
		say_file_error(path, err, &messages);
	else if (file)
		status = take_file(path, file, c);
	else
		status = CTL_OK;
out:
	if (file)
		cyaml_free(loader(&messages, &config), &schema, file, 0);
	buf_free(&messages);
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
	if (args_has(a, "endpoint")) {
		while (c->endpoints_count > 0)
			free(c->endpoints[--c->endpoints_count]);
		for (size_t i = 0; i < args_count(a, "endpoint"); i++)
			if (add_endpoint(c, args_nth(a, "endpoint", i)) != CTL_OK)
				return CTL_FAILED;
	}
	return c->endpoints_count > 0 ? CTL_OK : add_endpoint(c, ENDPOINT_DEFAULT);
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
	for (unsigned i = 0; i < c->endpoints_count; i++)
		free(c->endpoints[i]);
	free(c->endpoints);
	free(c->ca);
	free(c->certificate);
	free(c->key);
	*c = (struct ctl_config){ 0 };
}
