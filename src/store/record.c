/* SPDX-License-Identifier: Apache-2.0 */
/* What is the same for every engine: freeing what they gave, refusing what none of them takes. */
#include "paths.h"

#include "kekd/secret.h"
#include "kekd/store.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void
store_record_free(struct store_record *r)
{
	if (r->body)
		secret_wipe(r->body, r->len);
	free(r->body);
	free(r->path);
	*r = (struct store_record){ 0 };
}

void
store_page_free(struct store_page *p)
{
	for (size_t i = 0; i < p->count; i++)
		store_record_free(&p->records[i]);
	free(p->records);
	*p = (struct store_page){ 0 };
}

void
store_freep(struct store **store)
{
	if (*store)
		(*store)->engine->close(*store);
	*store = NULL;
}

int
store_check_ops(const struct store_op *ops, size_t count)
{
	if (count > STORE_OPS_MAX)
		return -E2BIG;
	for (size_t i = 0; i < count; i++) {
		if (!path_is_valid(ops[i].path))
			return -EINVAL;
		if (ops[i].kind == STORE_PUT && (!ops[i].body || ops[i].len > STORE_BODY_MAX))
			return -EINVAL;
		for (size_t j = 0; j < i && ops[i].kind != STORE_CHECK; j++)
			if (ops[j].kind != STORE_CHECK && strcmp(ops[i].path, ops[j].path) == 0)
				return -EINVAL;
	}
	return 0;
}
