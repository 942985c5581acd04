/* SPDX-License-Identifier: Apache-2.0 */
/* The shape of kekd-kms.yaml. */
#include "document.h"

#include <cyaml/cyaml.h>

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

static const struct settings_file file = { &schema, "setting" };

int
kms_document_read(
	const char *path, FILE *out, struct kms_document **ret_document, struct lines *ret_lines)
{
	return settings_file_read(&file, path, out, (void **)ret_document, ret_lines);
}

void
kms_document_freep(struct kms_document **d)
{
	settings_file_free(&file, *d);
}
