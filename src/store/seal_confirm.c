/* SPDX-License-Identifier: Apache-2.0 */
/* A store that an operator put back on purpose: it gets a new generation. */
#include "sealed.h"

#include "kekd/err.h"

#include <stdio.h>

int
sealed_confirm(struct sealed *s, const char *generation, sealed_next_fn *next, void *user,
	uint64_t *ret_number, char ret_error[JSON_ERROR_SIZE])
{
	(void)s;
	(void)generation;
	(void)next;
	(void)user;
	(void)ret_number;
	snprintf(ret_error, JSON_ERROR_SIZE, "not yet");
	return KEKD_ESTORE;
}
