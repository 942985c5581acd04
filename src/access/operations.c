/* SPDX-License-Identifier: Apache-2.0 */
/* The names of the operations. Not here: which request needs which (src/api/routes.c). */
#include "kekd/access.h"

#include <errno.h>
#include <string.h>

static const char *const names[] = {
#define ACCESS_NAME(name, text, data) [name] = text,
	ACCESS_OPERATIONS(ACCESS_NAME)
#undef ACCESS_NAME
};

_Static_assert(ACCESS_OPERATIONS_COUNT <= 32, "a grant holds its operations in 32 bits");

const char *
access_operation_name(enum access_operation op)
{
	return (unsigned)op < STR_COUNT(names) ? names[op] : "none";
}

int
access_operation_find(const char *text)
{
	for (size_t i = 0; i < STR_COUNT(names); i++)
		if (strcmp(names[i], text) == 0)
			return (int)i;
	return -ENOENT;
}
