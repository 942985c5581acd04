/* SPDX-License-Identifier: Apache-2.0 */
/* Paths and the map sorted by them: an array, since most of its life it is read. */
#include "paths.h"

#include "kekd/store.h"
#include "kekd/str.h"

#include <errno.h>
#include <string.h>

static const char *const node_prefixes[] = { "nodes/", "members/", "usage/", "nonces/" };

bool
path_is_valid(const char *path)
{
	size_t len = strnlen(path, STORE_PATH_MAX + 1);

	if (len == 0 || len > STORE_PATH_MAX)
		return false;
	for (size_t i = 0; i < len; i++)
		if (path[i] < 0x20 || path[i] > 0x7e)
			return false;
	return true;
}

bool
path_is_node_owned(const char *path)
{
	for (size_t i = 0; i < STR_COUNT(node_prefixes); i++)
		if (strncmp(path, node_prefixes[i], strlen(node_prefixes[i])) == 0)
			return true;
	return false;
}

bool
path_is_leased(const char *path)
{
	return strncmp(path, "nodes/", strlen("nodes/")) == 0;
}

static const char *
item_path(const void *item)
{
	return *(char *const *)item;
}

/* The place of path: where it is, or where it would go. */
static size_t
place(const struct pathmap *m, const char *path, bool *ret_found)
{
	size_t low = 0, high = m->count;

	*ret_found = false;
	/* What is read in order is appended: no search for the usual case. */
	if (high > 0 && strcmp(item_path(m->items[high - 1]), path) < 0)
		return high;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		int order = strcmp(item_path(m->items[middle]), path);
		if (order == 0) {
			*ret_found = true;
			return middle;
		}
		if (order < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

void *
pathmap_find(const struct pathmap *m, const char *path)
{
	bool found;
	size_t i = place(m, path, &found);

	return found ? m->items[i] : NULL;
}

int
pathmap_reserve(struct pathmap *m, size_t more)
{
	size_t cap = m->cap ? m->cap : 64;
	void **items;

	if (m->count + more <= m->cap)
		return 0;
	while (cap < m->count + more)
		cap *= 2;
	items = reallocarray(m->items, cap, sizeof(*items));
	if (!items)
		return -ENOMEM;
	m->items = items;
	m->cap = cap;
	return 0;
}

int
pathmap_add(struct pathmap *m, void *item)
{
	bool found;
	size_t i = place(m, item_path(item), &found);

	if (found)
		return -EEXIST;
	if (pathmap_reserve(m, 1) < 0)
		return -ENOMEM;
	memmove(&m->items[i + 1], &m->items[i], (m->count - i) * sizeof(*m->items));
	m->items[i] = item;
	m->count++;
	return 0;
}

void *
pathmap_remove(struct pathmap *m, const char *path)
{
	bool found;
	size_t i = place(m, path, &found);
	void *item;

	if (!found)
		return NULL;
	item = m->items[i];
	m->count--;
	memmove(&m->items[i], &m->items[i + 1], (m->count - i) * sizeof(*m->items));
	return item;
}

void
pathmap_clear(struct pathmap *m, void (*item_free)(void *item))
{
	for (size_t i = 0; i < m->count; i++)
		item_free(m->items[i]);
	free(m->items);
	*m = (struct pathmap){ 0 };
}
