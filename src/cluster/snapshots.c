/* SPDX-License-Identifier: Apache-2.0 */
/* The table of inventories: small, sorted by id. */
#include "kekd/snapshots.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

struct snapshots {
	pthread_mutex_t lock;
	struct snapshot **list; /* owns a reference each */
	size_t count, size;
};

int
snapshots_open(struct snapshots **ret_snapshots)
{
	struct snapshots *t = calloc(1, sizeof(*t));

	if (!t)
		return -ENOMEM;
	pthread_mutex_init(&t->lock, NULL);
	*ret_snapshots = t;
	return 0;
}

void
snapshots_freep(struct snapshots **t)
{
	if (!*t)
		return;
	for (size_t i = 0; i < (*t)->count; i++)
		snapshot_unrefp(&(*t)->list[i]);
	free((*t)->list);
	pthread_mutex_destroy(&(*t)->lock);
	free(*t);
	*t = NULL;
}

/* The first place whose id is not below `id`. */
static size_t
place(const struct snapshots *t, const char *id, bool *ret_found)
{
	size_t low = 0, high = t->count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (strcmp(t->list[middle]->id, id) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	*ret_found = low < t->count && strcmp(t->list[low]->id, id) == 0;
	return low;
}

static int
insert(struct snapshots *t, size_t at, struct snapshot *s)
{
	if (t->count == t->size) {
		size_t size = t->size ? 2 * t->size : 16;
		struct snapshot **list = realloc(t->list, size * sizeof(*list));
		if (!list)
			return -ENOMEM;
		t->list = list;
		t->size = size;
	}
	memmove(&t->list[at + 1], &t->list[at], (t->count - at) * sizeof(struct snapshot *));
	t->list[at] = s;
	t->count++;
	return 0;
}

int
snapshots_publish(struct snapshots *t, struct snapshot *s)
{
	struct snapshot *old = NULL;
	bool found;
	size_t at;
	int err = 0;

	pthread_mutex_lock(&t->lock);
	at = place(t, s->id, &found);
	if (found) {
		old = t->list[at];
		t->list[at] = s;
	} else {
		err = insert(t, at, s);
	}
	pthread_mutex_unlock(&t->lock);
	snapshot_unrefp(&old);
	if (err < 0)
		snapshot_unrefp(&s);
	return err;
}

void
snapshots_remove(struct snapshots *t, const char *id)
{
	struct snapshot *old = NULL;
	bool found;
	size_t at;

	pthread_mutex_lock(&t->lock);
	at = place(t, id, &found);
	if (found) {
		old = t->list[at];
		t->count--;
		memmove(&t->list[at], &t->list[at + 1],
			(t->count - at) * sizeof(struct snapshot *));
	}
	pthread_mutex_unlock(&t->lock);
	snapshot_unrefp(&old);
}

struct snapshot *
snapshots_find(struct snapshots *t, const char *id)
{
	struct snapshot *s = NULL;
	bool found;
	size_t at;

	pthread_mutex_lock(&t->lock);
	at = place(t, id, &found);
	if (found)
		s = snapshot_ref(t->list[at]);
	pthread_mutex_unlock(&t->lock);
	return s;
}

size_t
snapshots_count(struct snapshots *t)
{
	size_t n;

	pthread_mutex_lock(&t->lock);
	n = t->count;
	pthread_mutex_unlock(&t->lock);
	return n;
}

size_t
snapshots_list(struct snapshots *t, const char *after, size_t limit, struct snapshot **ret_list)
{
	bool found = false;
	size_t at, n;

	pthread_mutex_lock(&t->lock);
	at = after ? place(t, after, &found) : 0;
	at += found;
	for (n = 0; n < limit && at + n < t->count; n++)
		ret_list[n] = snapshot_ref(t->list[at + n]);
	pthread_mutex_unlock(&t->lock);
	return n;
}

int
snapshots_all(struct snapshots *t, struct snapshot_list *ret_list)
{
	int err = 0;

	*ret_list = (struct snapshot_list){ 0 };
	pthread_mutex_lock(&t->lock);
	if (t->count > 0) {
		ret_list->s = calloc(t->count, sizeof(struct snapshot *));
		err = ret_list->s ? 0 : -ENOMEM;
	}
	for (size_t i = 0; !err && i < t->count; i++)
		ret_list->s[ret_list->count++] = snapshot_ref(t->list[i]);
	pthread_mutex_unlock(&t->lock);
	return err;
}

void
snapshot_list_free(struct snapshot_list *list)
{
	for (size_t i = 0; i < list->count; i++)
		snapshot_unrefp(&list->s[i]);
	free(list->s);
	*list = (struct snapshot_list){ 0 };
}
