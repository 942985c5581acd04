/* SPDX-License-Identifier: Apache-2.0 */
/* kekd-kms.yaml as it is written, and where each setting stands. Not here: what they mean. */
#ifndef KEKD_KMS_DOCUMENT_H
#define KEKD_KMS_DOCUMENT_H

#include "config.h"

#include <stdio.h>
#include <yaml.h>

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

struct kms_lines {
	yaml_document_t yaml;
	bool loaded;
};

/* 0; or a negative error with the finding on out: file, line, fault, remedy. */
int kms_document_read(const char *path, FILE *out, struct kms_document **ret_document,
	struct kms_lines *ret_lines);
void kms_document_freep(struct kms_document **d);
void kms_lines_free(struct kms_lines *l);

/* The line of "key", "key.below" or "key[2]"; of what is around it; 0: it is not in the file. */
unsigned kms_lines_find(struct kms_lines *l, const char *setting);

#endif
