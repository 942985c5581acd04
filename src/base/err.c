/* SPDX-License-Identifier: Apache-2.0 */
/* The error table. Not here: how an error is shown (src/http/problem.c, src/ctl/). */
#include "kekd/err.h"

#include <stddef.h>
#include <string.h>

static const struct kekd_err_info table[] = {
#define KEKD_ERR_ROW(name, code, status, title) { name, code, status, title },
	KEKD_ERRORS(KEKD_ERR_ROW)
#undef KEKD_ERR_ROW
};

const struct kekd_err_info *
kekd_err_info(int err)
{
	if (err > KEKD_ERR_FIRST && err < KEKD_ERR_END)
		return &table[err - KEKD_ERR_FIRST - 1];
	return &table[0];
}

const struct kekd_err_info *
kekd_err_find(const char *code)
{
	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
		if (strcmp(table[i].code, code) == 0)
			return &table[i];
	return NULL;
}

const char *
kekd_strerror(int err)
{
	if (err > KEKD_ERR_BASE && err <= 0)
		return strerror(-err);
	return kekd_err_info(err)->title;
}
