/* SPDX-License-Identifier: Apache-2.0 */
/* kekd-kms.yaml, read and checked. Immutable afterwards: any thread. */
#ifndef KEKD_KMS_CONFIG_H
#define KEKD_KMS_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#define KMS_CONFIG_DEFAULT KEKD_SYSCONFDIR "/kekd/kekd-kms.yaml"
#define KMS_SOCKET_DEFAULT "/run/kekd-kms/kms.sock"
#define KMS_ENDPOINTS_MAX 16

struct kms_config {
	char *path;	/* of the file itself */
	char *provider; /* the name in the EncryptionConfiguration; a part of what is in etcd */
	char *cluster; /* the Kubernetes cluster's name; provider and cluster are the AAD context */
	char *key;     /* the key's name at kekd */

	char **endpoints; /* "https://host:port"; at least one */
	size_t endpoints_count;
	char *ca, *certificate, *certificate_key; /* PEM files; absolute */

	char *socket; /* where the API server connects; absolute. Not used under socket activation
		       */
	mode_t socket_mode; /* default 0600 */
	uid_t socket_uid;   /* (uid_t)-1: as the process */
	gid_t socket_gid;

	char *state_dir;	 /* what was announced last; absolute */
	char *metrics;		 /* "127.0.0.1:7374" (loopback alone) or "unix:/PATH"; NULL: none */
	uint64_t probe_every_ns; /* default 10 s */
	uint64_t timeout_ns;	 /* of one call to kekd, all endpoints; default 2.8 s: within 3 s */
};

/* 0; or a negative error, with the findings on standard error: file, line, fault, remedy. */
int kms_config_read(const char *path, struct kms_config **ret_config);
/* The same, with the findings elsewhere. */
int kms_config_read_to(const char *path, FILE *out, struct kms_config **ret_config);
void kms_config_freep(struct kms_config **c);

#endif
