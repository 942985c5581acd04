/* SPDX-License-Identifier: Apache-2.0 */
/* kekd-kms.yaml as it is written. Not here: what the settings mean. */
#ifndef KEKD_KMS_DOCUMENT_H
#define KEKD_KMS_DOCUMENT_H

#include "config.h"

#include "kekd/settings_file.h"

#include <stdio.h>

struct kms_document_socket {
	char *path, *mode, *owner, *group;
};

struct kms_document {
	char *provider, *cluster, *key;
	char **endpoints;
	unsigned endpoints_count;
	char *ca, *certificate, *certificate_key;
	struct kms_document_socket socket;
	char *state_dir, *metrics, *probe, *timeout;
};

/* As settings_file_read; the lines are lines_free's. */
int kms_document_read(
	const char *path, FILE *out, struct kms_document **ret_document, struct lines *ret_lines);
void kms_document_freep(struct kms_document **d);

#endif
