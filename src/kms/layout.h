/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An EncryptionConfiguration on paper: groups of borrowed resources and providers that are put
 * together anew for each step of a plan, and written as YAML without secrets. One thread.
 */
#ifndef KEKD_KMS_LAYOUT_H
#define KEKD_KMS_LAYOUT_H

#include "encryption_config.h"

#include "kekd/buf.h"

struct layout_list {
	const void **items;
	size_t count;
};

struct layout_group {
	struct layout_list resources; /* const char * */
	struct layout_list providers; /* const struct ec_provider * */
};

struct layout {
	struct layout_group *groups;
	size_t count;
	bool no_memory;
};

void layout_free(struct layout *l);
void layout_from(const struct encryption_config *c, struct layout *ret_layout);
void layout_copy(const struct layout *l, struct layout *ret_layout);
bool layout_equal(const struct layout *a, const struct layout *b);

/* at: SIZE_MAX for the end. */
void layout_put(struct layout *l, struct layout_list *list, size_t at, const void *item);
void layout_take(struct layout_list *list, size_t at);
void layout_drop_group(struct layout *l, size_t group);
/* Moves groups' entries: the group at `from` comes to stand at `to`. */
void layout_move_group(struct layout *l, size_t from, size_t to);

/* The same provider, whatever its line: kind, and name or keys. */
bool provider_equal(const struct ec_provider *a, const struct ec_provider *b);
/* SIZE_MAX: not there. */
size_t layout_find(const struct layout_group *g, const struct ec_provider *p);
/* The group that the API server goes by for a resource; SIZE_MAX: none. */
size_t layout_group_of(const struct layout *l, const char *resource);
/* Would the API server load it: nothing overlaps in a list, nothing stands below what covers it? */
bool layout_is_sound(const struct layout *l);

/* fresh: providers with keys that are not made yet; NULL: none. */
void layout_yaml(struct buf *b, const struct layout *l, const struct ec_provider *fresh);

#endif
