/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What src/store/ alone shares about paths: which ones are valid, whose they are, and a map sorted
 * by them. The map knows of its items only that they are structs whose first member is
 * `char *path`.
 */
#ifndef STORE_PATHS_H
#define STORE_PATHS_H

#include <stdbool.h>
#include <stddef.h>

/* 1 to STORE_PATH_MAX printable ASCII characters. */
bool path_is_valid(const char *path);
/* nodes/, members/, usage/, nonces/: written by the node that they belong to. */
bool path_is_node_owned(const char *path);
/* nodes/: of these, those that end with the node's lease. */
bool path_is_leased(const char *path);

struct store_op;
/* -E2BIG, -EINVAL: no engine takes these. */
int store_check_ops(const struct store_op *ops, size_t count);

struct pathmap {
	void **items;
	size_t count, cap;
};

void *pathmap_find(const struct pathmap *m, const char *path); /* or NULL */
int pathmap_reserve(struct pathmap *m, size_t more); /* the next `more` adds cannot fail */
/* Takes the item over. 0, -EEXIST or -ENOMEM. */
int pathmap_add(struct pathmap *m, void *item);
void *pathmap_remove(struct pathmap *m, const char *path); /* the item, or NULL */
void pathmap_clear(struct pathmap *m, void (*item_free)(void *item));

#endif
