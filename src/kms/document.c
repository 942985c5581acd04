/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads kekd-kms.yaml: its shape is a libcyaml schema, whose words about a fault become a finding
 * with line and remedy; libyaml's tree of the same text knows the lines.
 */
#include "document.h"

#include "kekd/err.h"
#include "kekd/str.h"

#include <cyaml/cyaml.h>
#include <errno.h>
#include <string.h>

#define FILE_SIZE_MAX (64 * 1024)
#define TEXT(key, structure, member) \
	CYAML_FIELD_STRING_PTR( \
		key, CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, structure, member, 1, 4096)

static const cyaml_schema_value_t text_entry = {
	CYAML_VALUE_STRING(CYAML_FLAG_POINTER, char *, 1, 4096),
};
static const cyaml_schema_field_t socket_fields[] = {
	TEXT("path", struct kms_document_socket, path),
	TEXT("mode", struct kms_document_socket, mode),
	TEXT("owner", struct kms_document_socket, owner),
	TEXT("group", struct kms_document_socket, group),
	CYAML_FIELD_END,
};
static const cyaml_schema_field_t fields[] = {
	TEXT("provider", struct kms_document, provider),
	TEXT("cluster", struct kms_document, cluster),
	TEXT("key", struct kms_document, key),
	CYAML_FIELD_SEQUENCE("endpoints", CYAML_FLAG_OPTIONAL | CYAML_FLAG_POINTER,
		struct kms_document, endpoints, &text_entry, 0, KMS_ENDPOINTS_MAX),
	TEXT("ca", struct kms_document, ca),
	TEXT("certificate", struct kms_document, certificate),
	TEXT("certificate_key", struct kms_document, certificate_key),
	CYAML_FIELD_MAPPING(
		"socket", CYAML_FLAG_OPTIONAL, struct kms_document, socket, socket_fields),
	TEXT("state_dir", struct kms_document, state_dir),
	TEXT("metrics", struct kms_document, metrics),
	TEXT("probe", struct kms_document, probe),
	TEXT("timeout", struct kms_document, timeout),
	CYAML_FIELD_END,
};
static const cyaml_schema_value_t schema = {
	CYAML_VALUE_MAPPING(CYAML_FLAG_POINTER, struct kms_document, fields),
};

/* ---- lines ---- */

/* The n-th place (from 0) below `map` where the key is; NULL: there is none. */
static yaml_node_pair_t *
find_pair(struct kms_lines *l, yaml_node_t *map, const char *key, size_t len, unsigned n)
{
	if (!map || map->type != YAML_MAPPING_NODE)
		return NULL;
	for (yaml_node_pair_t *p = map->data.mapping.pairs.start; p < map->data.mapping.pairs.top;
		p++) {
		yaml_node_t *k = yaml_document_get_node(&l->yaml, p->key);
		if (k && k->type == YAML_SCALAR_NODE && k->data.scalar.length == len &&
			memcmp(k->data.scalar.value, key, len) == 0 && n-- == 0)
			return p;
	}
	return NULL;
}

static unsigned
line_of(struct kms_lines *l, int node)
{
	yaml_node_t *n = yaml_document_get_node(&l->yaml, node);

	return n ? (unsigned)n->start_mark.line + 1 : 0;
}

static unsigned
line_of_item(struct kms_lines *l, yaml_node_t *list, const char *index)
{
	size_t i = strtoul(index, NULL, 10);

	if (!list || list->type != YAML_SEQUENCE_NODE ||
		i >= (size_t)(list->data.sequence.items.top - list->data.sequence.items.start))
		return 0;
	return line_of(l, list->data.sequence.items.start[i]);
}

unsigned
kms_lines_find(struct kms_lines *l, const char *setting)
{
	size_t len = strcspn(setting, ".[");
	yaml_node_t *root = yaml_document_get_root_node(&l->yaml);
	yaml_node_pair_t *pair = find_pair(l, root, setting, len, 0), *below;
	unsigned line = 0;

	if (!pair)
		return 0;
	root = yaml_document_get_node(&l->yaml, pair->value);
	if (setting[len] == '[')
		line = line_of_item(l, root, setting + len + 1);
	else if (setting[len] == '.' &&
		 (below = find_pair(l, root, setting + len + 1, strlen(setting + len + 1), 0)))
		line = line_of(l, below->key);
	return line ? line : line_of(l, pair->key);
}

/* The n-th place of a key that cyaml complained of, on either level. */
static unsigned
line_of_key(struct kms_lines *l, const char *key, unsigned n)
{
	yaml_node_t *root = yaml_document_get_root_node(&l->yaml);
	yaml_node_pair_t *pair = find_pair(l, root, key, strlen(key), n);
	yaml_node_pair_t *within = find_pair(l, root, "socket", strlen("socket"), 0);

	if (!pair && within)
		pair = find_pair(
			l, yaml_document_get_node(&l->yaml, within->value), key, strlen(key), n);
	return pair ? line_of(l, pair->key) : 1;
}

static int
scan(const char *path, FILE *out, const char *text, size_t len, struct kms_lines *l)
{
	yaml_parser_t parser;
	size_t line;

	if (!yaml_parser_initialize(&parser))
		return -ENOMEM;
	yaml_parser_set_input_string(&parser, (const unsigned char *)text, len);
	l->loaded = yaml_parser_load(&parser, &l->yaml) != 0;
	line = parser.problem_mark.line ? parser.problem_mark.line : parser.context_mark.line;
	if (!l->loaded)
		fprintf(out, "%s:%zu: not YAML: %s: correct it here or in the line before\n", path,
			line + 1, parser.problem ? parser.problem : "it cannot be parsed");
	yaml_parser_delete(&parser);
	return l->loaded ? 0 : KEKD_EINVALID;
}

void
kms_lines_free(struct kms_lines *l)
{
	if (l->loaded)
		yaml_document_delete(&l->yaml);
	l->loaded = false;
}

/* ---- the document ---- */

/* What libcyaml said: the fault, then from the inside out where it was. */
struct complaint {
	char what[256];
	char field[64];
	unsigned line;
};

static void __attribute__((format(printf, 3, 0)))
take_complaint(cyaml_log_t level, void *user, const char *format, va_list ap)
{
	struct complaint *c = user;
	char text[512], *at;

	(void)level;
	vsnprintf(text, sizeof(text), format, ap);
	text[strcspn(text, "\n")] = '\0';
	if (!c->what[0]) {
		snprintf(c->what, sizeof(c->what), "%.255s",
			strncmp(text, "Load: ", 6) == 0 ? text + 6 : text);
		return;
	}
	if (!c->line && (at = strstr(text, "(line: ")))
		c->line = (unsigned)strtoul(at + 7, NULL, 10);
	if (!c->field[0] && sscanf(text, "  in mapping field '%63[^']'", c->field) != 1)
		c->field[0] = '\0';
}

static const struct {
	const char *start;  /* of libcyaml's text */
	const char *remedy; /* follows "setting: " */
} remedies[] = {
	{ "STRING length <", "it has no value: give one, or take the line out" },
	{ "STRING length >", "the value is too long: shorten it" },
	{ "Excessive entries (", "too many entries: take some out" },
	{ "Expecting SEQUENCE, ", "a list is needed: write \"- VALUE\" lines below it" },
	{ "Expecting MAPPING, ", "settings are needed: write \"KEY: VALUE\" lines below it" },
	{ "Expecting ", "a single value is needed: write it behind the colon" },
};

static void
print_complaint(FILE *out, const char *path, struct kms_lines *l, const struct complaint *c)
{
	static const char unknown[] = "Unexpected key: ", twice[] = "Mapping field already seen: ";
	const char *key = c->what + strcspn(c->what, ":") + 1;
	const char *field = c->field[0] ? c->field : "the file", *remedy = c->what;

	key += strspn(key, " ");
	if (strncmp(c->what, unknown, strlen(unknown)) == 0) {
		fprintf(out,
			"%s:%u: the setting \"%s\" is not known: correct its spelling or place, or "
			"take it out\n",
			path, line_of_key(l, key, 0), key);
		return;
	}
	if (strncmp(c->what, twice, strlen(twice)) == 0) {
		fprintf(out, "%s:%u: \"%s\" is given twice: keep one of them\n", path,
			line_of_key(l, key, 1), key);
		return;
	}
	for (size_t i = 0; i < STR_COUNT(remedies); i++)
		if (strncmp(c->what, remedies[i].start, strlen(remedies[i].start)) == 0) {
			remedy = remedies[i].remedy;
			break;
		}
	fprintf(out, "%s:%u: %s: %s\n", path, c->line ? c->line : 1, field, remedy);
}

static const cyaml_config_t cyaml_base = {
	.log_fn = take_complaint,
	.mem_fn = cyaml_mem,
	.log_level = CYAML_LOG_ERROR,
};

static int
parse(const char *path, FILE *out, const char *text, size_t len, struct kms_lines *l,
	struct kms_document **ret_document)
{
	struct complaint complaint = { 0 };
	cyaml_config_t cyaml = cyaml_base;
	struct kms_document *d = NULL;
	cyaml_err_t err;

	cyaml.log_ctx = &complaint;
	err = cyaml_load_data(
		(const uint8_t *)text, len, &cyaml, &schema, (cyaml_data_t **)&d, NULL);
	if (err == CYAML_ERR_OOM)
		return -ENOMEM;
	if (err != CYAML_OK) {
		if (!complaint.what[0])
			snprintf(complaint.what, sizeof(complaint.what), "%s", cyaml_strerror(err));
		print_complaint(out, path, l, &complaint);
		return KEKD_EINVALID;
	}
	if (!d) /* an empty file */
		d = calloc(1, sizeof(*d));
	*ret_document = d;
	return d ? 0 : -ENOMEM;
}

void
kms_document_freep(struct kms_document **d)
{
	if (*d)
		cyaml_free(&cyaml_base, &schema, *d, 0);
}

static int
read_text(const char *path, FILE *out, char **ret_text, size_t *ret_len)
{
	char *text = malloc(FILE_SIZE_MAX + 1);
	FILE *f = text ? fopen(path, "re") : NULL;
	size_t len = f ? fread(text, 1, FILE_SIZE_MAX + 1, f) : 0;
	int err = !text ? -ENOMEM : !f || ferror(f) ? -errno : len > FILE_SIZE_MAX ? -EFBIG : 0;

	if (f)
		fclose(f);
	if (err) {
		fprintf(out,
			"%s: the configuration cannot be read: %s: name another with --config, or "
			"make it readable\n",
			path, kekd_strerror(err));
		free(text);
		return err;
	}
	*ret_text = text;
	*ret_len = len;
	return 0;
}

int
kms_document_read(const char *path, FILE *out, struct kms_document **ret_document,
	struct kms_lines *ret_lines)
{
	_cleanup_(str_freep) char *text = NULL;
	struct kms_lines lines = { .loaded = false };
	size_t len;
	int err = read_text(path, out, &text, &len);

	if (!err)
		err = scan(path, out, text, len, &lines);
	if (!err)
		err = parse(path, out, text, len, &lines, ret_document);
	if (err)
		kms_lines_free(&lines);
	else
		*ret_lines = lines;
	return err;
}
