/* SPDX-License-Identifier: Apache-2.0 */
/*
 * EncryptionConfigurations: findings, memory, and from a file to the one document in it, with
 * libyaml, whose nodes know their lines. Not here: what the document may say (encryption_read.c).
 */
#include "encryption_read.h"

#include "kekd/buf.h"
#include "kekd/str.h"

#include <openssl/crypto.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FINDINGS_MAX 200

const char *const ec_kind_names[EC_KINDS] = {
	[EC_IDENTITY] = "identity",
	[EC_AESGCM] = "aesgcm",
	[EC_AESCBC] = "aescbc",
	[EC_SECRETBOX] = "secretbox",
	[EC_KMS] = "kms",
};

const char *const ec_level_names[EC_LEVELS] = {
	[EC_NOTE] = "note",
	[EC_WARNING] = "warning",
	[EC_FAULT] = "fault",
};

/* ---- findings ---- */

void
ec_find(struct encryption_config *c, enum ec_level level, const char *code, unsigned line,
	const char *remedy, const char *format, ...)
{
	struct ec_finding *list, f = { .level = level, .code = code, .line = line };
	va_list args;

	if (c->findings_count >= FINDINGS_MAX)
		return;
	va_start(args, format);
	if (vasprintf(&f.text, format, args) < 0)
		f.text = NULL;
	va_end(args);
	f.remedy = strdup(remedy);
	list = reallocarray(c->findings, c->findings_count + 1, sizeof(*list));
	if (list)
		c->findings = list;
	if (!list || !f.text || !f.remedy) {
		free(f.text);
		free(f.remedy);
		c->no_memory = true;
		return;
	}
	list[c->findings_count++] = f;
}

/* What concerns the whole file comes last. */
static bool
before(const struct ec_finding *a, const struct ec_finding *b)
{
	return a->line - 1 < b->line - 1;
}

void
ec_sort_findings(struct encryption_config *c)
{
	for (size_t i = 1; i < c->findings_count; i++)
		for (size_t j = i; j > 0 && before(&c->findings[j], &c->findings[j - 1]); j--) {
			struct ec_finding f = c->findings[j];
			c->findings[j] = c->findings[j - 1];
			c->findings[j - 1] = f;
		}
}

size_t
ec_count(const struct encryption_config *c, enum ec_level level)
{
	size_t n = 0;

	for (size_t i = 0; i < c->findings_count; i++)
		n += c->findings[i].level == level;
	return n;
}

json_t *
ec_findings_json(const struct encryption_config *c)
{
	json_t *list = json_array();

	for (size_t i = 0; i < c->findings_count; i++) {
		const struct ec_finding *f = &c->findings[i];
		json_array_append_new(
			list, json_pack("{s:s, s:s, s:o, s:s, s:s}", "level",
				      ec_level_names[f->level], "code", f->code, "line",
				      f->line ? json_integer(f->line) : json_null(), "text",
				      f->text, "remedy", f->remedy));
	}
	return list;
}

/* ---- memory ---- */

static void
free_provider(struct ec_provider *p)
{
	for (size_t i = 0; i < p->keys_count; i++)
		free(p->keys[i].name);
	free(p->keys);
	free(p->name);
	free(p->endpoint);
	free(p->version);
}

static void
free_group(struct ec_group *g)
{
	for (size_t i = 0; i < g->resources_count; i++)
		free(g->resources[i].text);
	free(g->resources);
	for (size_t i = 0; i < g->providers_count; i++)
		free_provider(&g->providers[i]);
	free(g->providers);
}

void
encryption_config_freep(struct encryption_config **c)
{
	if (!*c)
		return;
	for (size_t i = 0; i < (*c)->groups_count; i++)
		free_group(&(*c)->groups[i]);
	free((*c)->groups);
	for (size_t i = 0; i < (*c)->findings_count; i++) {
		free((*c)->findings[i].text);
		free((*c)->findings[i].remedy);
	}
	free((*c)->findings);
	free((*c)->path);
	free(*c);
	*c = NULL;
}

/* ---- the document ---- */

static void
find_parser_error(struct encryption_config *c, const yaml_parser_t *p)
{
	size_t line = p->problem_mark.line ? p->problem_mark.line : p->context_mark.line;

	if (p->error == YAML_MEMORY_ERROR)
		c->no_memory = true;
	else
		ec_find(c, EC_FAULT, "no-yaml", (unsigned)line + 1,
			"Give the file of the API server's --encryption-provider-config.",
			"this is neither YAML nor JSON: %s",
			p->problem ? p->problem : "it cannot be parsed");
}

/* The number-th document; false: the end. */
static bool
read_document(struct encryption_config *c, yaml_parser_t *p, unsigned number)
{
	yaml_document_t document;
	yaml_node_t *root;
	bool more;

	if (!yaml_parser_load(p, &document)) {
		find_parser_error(c, p);
		return false;
	}
	root = yaml_document_get_root_node(&document);
	more = root && number == 1;
	if (root && number == 1)
		ec_take_document(c, &document, root);
	else if (root)
		ec_find(c, EC_FAULT, "second-document", (unsigned)root->start_mark.line + 1,
			"Put all entries into one document.",
			"a second document starts here, and the API server reads the first one "
			"alone");
	else if (number == 1)
		ec_find(c, EC_FAULT, "empty", 1,
			"Give the file of the API server's --encryption-provider-config.",
			"there is nothing in it");
	yaml_document_delete(&document);
	return more;
}

static void
read_text(struct encryption_config *c, const void *text, size_t len)
{
	yaml_parser_t p;

	if (!yaml_parser_initialize(&p)) {
		c->no_memory = true;
		return;
	}
	yaml_parser_set_input_string(&p, text, len);
	for (unsigned number = 1; read_document(c, &p, number); number++)
		;
	yaml_parser_delete(&p);
}

int
encryption_config_parse(
	const char *path, const void *text, size_t len, struct encryption_config **ret_config)
{
	_cleanup_(encryption_config_freep) struct encryption_config *c = calloc(1, sizeof(*c));

	if (!c || !(c->path = strdup(path)))
		return -ENOMEM;
	read_text(c, text, len);
	/* What is not understood is not looked at any further. */
	if (ec_count(c, EC_FAULT) == 0)
		encryption_config_check(c);
	ec_sort_findings(c);
	if (c->no_memory)
		return -ENOMEM;
	*ret_config = c;
	c = NULL;
	return 0;
}

static int
read_all(int fd, struct buf *b)
{
	uint8_t part[4096];
	ssize_t n;

	while ((n = read(fd, part, sizeof(part))) != 0) {
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		buf_put(b, part, (size_t)n);
		OPENSSL_cleanse(part, sizeof(part));
		if (b->bad)
			return -EFBIG;
	}
	return 0;
}

/* Whoever can read the file has the keys that stand in it. */
static void
check_mode(struct encryption_config *c, int fd)
{
	struct stat st;
	bool keys = false;

	for (size_t i = 0; i < c->groups_count; i++)
		for (size_t j = 0; j < c->groups[i].providers_count; j++)
			keys |= c->groups[i].providers[j].keys_count > 0;
	if (keys && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && (st.st_mode & 0077))
		ec_find(c, EC_WARNING, "file-mode", 0, "Give it to root alone, with mode 0600.",
			"keys stand in this file, and its mode %04o lets others than its owner at "
			"them",
			(unsigned)st.st_mode & 07777);
}

int
encryption_config_read(const char *path, struct encryption_config **ret_config)
{
	bool standard = strcmp(path, "-") == 0;
	struct buf text = BUF_INIT(EC_FILE_MAX);
	int fd = standard ? dup(STDIN_FILENO) : open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	int err = fd < 0 ? -errno : read_all(fd, &text);

	if (!err)
		err = encryption_config_parse(standard ? EC_STANDARD_INPUT : path,
			text.data ? text.data : (uint8_t[]){ 0 }, text.len, ret_config);
	if (!err)
		check_mode(*ret_config, fd);
	if (fd >= 0)
		close(fd);
	buf_free(&text);
	return err;
}
