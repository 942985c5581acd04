/* SPDX-License-Identifier: Apache-2.0 */
/* The commands of kekd-kms: a row each in main.c's table, a function each here. */
#ifndef KEKD_KMS_COMMAND_H
#define KEKD_KMS_COMMAND_H

#include <stdbool.h>

enum kms_exit {
	KMS_EXIT_OK = 0,
	KMS_EXIT_FAILED = 1,
	KMS_EXIT_USAGE = 2,
	KMS_EXIT_FINDINGS = 3, /* done, and there is something to put right */
	KMS_EXIT_CONFIG = 78   /* until the configuration is put right */
};

struct kms_args {
	const char *config; /* the file */
	bool check, json;
	const char *encryption_configuration; /* of the option; NULL: not given */
	const char *to;			      /* of --to; NULL: not given */
	char *const *words;		      /* behind the command's own */
	int count;
};

/* Each returns an exit status. */
int kms_serve(const struct kms_args *a);
int kms_doctor(const struct kms_args *a);
int kms_migrate_plan(const struct kms_args *a);

#endif
