/* SPDX-License-Identifier: Apache-2.0 */
/* What is the same for every engine: freeing what they gave. */
#include "kekd/secret.h"
#include "kekd/store.h"

#include <stdlib.h>

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
