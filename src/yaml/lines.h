/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of src/yaml/ share: how lines are found, and where a setting is given again. */
#ifndef KEKD_YAML_LINES_H
#define KEKD_YAML_LINES_H

#include "kekd/settings_file.h"

struct lines_fault {
	unsigned line;
	char text[160];
};

/* 0; -EINVAL with the fault when the text is not one document of YAML; -ENOMEM. */
int lines_scan(
	const char *text, size_t len, struct lines *ret_lines, struct lines_fault *ret_fault);
/* The line where the setting is given for the second time; 0: it is not. */
unsigned lines_find_repeated(const struct lines *l, const char *path);

#endif
