/* SPDX-License-Identifier: Apache-2.0 */
/*
 * All records in order, page by page, each parsed and ready for the token to verify. Pages can be
 * read ahead, as a token takes long to open that has many objects.
 */
#include "sealed.h"

#include <errno.h>
#include <malloc.h>
#include <string.h>

#define PAGES_AT_ONCE 8
/* Of text that is read ahead; parsed it takes some five times as much until it is verified. */
#define BYTES_MAX ((size_t)12 << 20)

struct sealed_ahead {
	struct store *store;
	struct seal_page *first, **last;
	size_t bytes;
	char after[STORE_PATH_MAX + 1];
	bool ended;
};

int
sealed_ahead_open(struct store *store, struct sealed_ahead **ret_ahead)
{
	struct sealed_ahead *a = calloc(1, sizeof(*a));

	if (!a)
		return -ENOMEM;
	a->store = store;
	a->last = &a->first;
	*ret_ahead = a;
	return 0;
}

void
seal_page_free(struct seal_page *p)
{
	seal_free_checks(p->checks, p->page.count);
	store_page_free(&p->page);
	free(p);
}

void
sealed_ahead_freep(struct sealed_ahead **a)
{
	struct seal_page *p, *next;

	if (!*a)
		return;
	for (p = (*a)->first; p; p = next) {
		next = p->next;
		seal_page_free(p);
	}
	free(*a);
	*a = NULL;
	malloc_trim(0); /* it was much, in small pieces between those that stay */
}

/* All of it is in the checks. */
static void
drop_texts(struct sealed_ahead *a, struct store_page *page)
{
	for (size_t i = 0; i < page->count; i++) {
		a->bytes += page->records[i].len;
		free(page->records[i].body);
		page->records[i].body = NULL;
	}
}

static int
read_page(struct sealed_ahead *a, struct seal_page **ret_page)
{
	struct seal_page *p = calloc(1, sizeof(*p));
	const char *after = *a->after ? a->after : NULL;
	int err = p ? a->store->engine->list(a->store, "", after, SEAL_BATCH, &p->page) : -ENOMEM;

	if (err == 0)
		err = seal_read_checks(p->page.records, p->page.count, p->checks);
	if (err < 0) {
		if (p)
			seal_page_free(p);
		return err;
	}
	drop_texts(a, &p->page);
	a->ended = !p->page.more;
	if (p->page.count > 0)
		strcpy(a->after, p->page.records[p->page.count - 1].path);
	*ret_page = p;
	return 0;
}

static bool
read_one_ahead(struct sealed_ahead *a)
{
	struct seal_page *p;

	if (a->ended || a->bytes >= BYTES_MAX || read_page(a, &p) < 0)
		return false;
	*a->last = p;
	a->last = &p->next;
	return true;
}

bool
sealed_ahead_read(struct sealed_ahead *a)
{
	bool more = true;

	for (int i = 0; i < PAGES_AT_ONCE && more; i++)
		more = read_one_ahead(a);
	return more;
}

int
seal_next_page(struct sealed_ahead *a, struct seal_page **ret_page)
{
	struct seal_page *p = a->first;

	*ret_page = NULL;
	if (!p)
		return a->ended ? 0 : read_page(a, ret_page);
	a->first = p->next;
	if (!a->first)
		a->last = &a->first;
	*ret_page = p;
	return 0;
}
