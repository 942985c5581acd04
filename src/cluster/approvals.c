/* SPDX-License-Identifier: Apache-2.0 */
/* The table of requests for approval: small, in the order of arrival. */
#include "kekd/approvals.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

struct approvals {
	pthread_mutex_t lock;
	struct approval **list; /* by time of the request; owns a reference each */
	size_t count, size;
};

int
approvals_open(struct approvals **ret_approvals)
{
	struct approvals *t = calloc(1, sizeof(*t));

	if (!t)
		return -ENOMEM;
	pthread_mutex_init(&t->lock, NULL);
	*ret_approvals = t;
	return 0;
}

void
approvals_freep(struct approvals **t)
{
	if (!*t)
		return;
	for (size_t i = 0; i < (*t)->count; i++)
		approval_unrefp(&(*t)->list[i]);
	free((*t)->list);
	pthread_mutex_destroy(&(*t)->lock);
	free(*t);
	*t = NULL;
}

static size_t
index_of(const struct approvals *t, const char *id)
{
	size_t i = 0;

	while (i < t->count && strcmp(t->list[i]->id, id) != 0)
		i++;
	return i;
}

static int
insert(struct approvals *t, struct approval *a)
{
	size_t at = t->count;

	if (t->count == t->size) {
		size_t size = t->size ? 2 * t->size : 16;
		struct approval **list = realloc(t->list, size * sizeof(*list));
		if (!list)
			return -ENOMEM;
		t->list = list;
		t->size = size;
	}
	while (at > 0 && t->list[at - 1]->requested_us > a->requested_us)
		at--;
	memmove(&t->list[at + 1], &t->list[at], (t->count - at) * sizeof(struct approval *));
	t->list[at] = a;
	t->count++;
	return 0;
}

int
approvals_publish(struct approvals *t, struct approval *a)
{
	struct approval *old = NULL;
	size_t i;
	int err = 0;

	pthread_mutex_lock(&t->lock);
	i = index_of(t, a->id);
	if (i < t->count) {
		old = t->list[i];
		t->list[i] = a;
	} else {
		err = insert(t, a);
	}
	pthread_mutex_unlock(&t->lock);
	approval_unrefp(&old);
	if (err < 0)
		approval_unrefp(&a);
	return err;
}

void
approvals_remove(struct approvals *t, const char *id)
{
	struct approval *old = NULL;
	size_t i;

	pthread_mutex_lock(&t->lock);
	i = index_of(t, id);
	if (i < t->count) {
		old = t->list[i];
		t->count--;
		memmove(&t->list[i], &t->list[i + 1], (t->count - i) * sizeof(struct approval *));
	}
	pthread_mutex_unlock(&t->lock);
	approval_unrefp(&old);
}

struct approval *
approvals_find(struct approvals *t, const char *id)
{
	struct approval *a = NULL;
	size_t i;

	pthread_mutex_lock(&t->lock);
	i = index_of(t, id);
	if (i < t->count)
		a = approval_ref(t->list[i]);
	pthread_mutex_unlock(&t->lock);
	return a;
}

struct approval *
approvals_find_pending(
	struct approvals *t, enum approval_kind kind, const char *target, uint64_t now_us)
{
	struct approval *found = NULL;

	pthread_mutex_lock(&t->lock);
	for (size_t i = t->count; !found && i-- > 0;) {
		struct approval *a = t->list[i];
		if (a->kind == kind && strcmp(a->target, target) == 0 &&
			approval_state_now(a, now_us) == APPROVAL_PENDING)
			found = approval_ref(a);
	}
	pthread_mutex_unlock(&t->lock);
	return found;
}

size_t
approvals_list(struct approvals *t, struct approval **ret_list, size_t max)
{
	size_t n = 0;

	pthread_mutex_lock(&t->lock);
	for (size_t i = t->count; n < max && i-- > 0;)
		ret_list[n++] = approval_ref(t->list[i]);
	pthread_mutex_unlock(&t->lock);
	return n;
}

size_t
approvals_pending(struct approvals *t, uint64_t now_us)
{
	size_t n = 0;

	pthread_mutex_lock(&t->lock);
	for (size_t i = 0; i < t->count; i++)
		n += approval_state_now(t->list[i], now_us) == APPROVAL_PENDING;
	pthread_mutex_unlock(&t->lock);
	return n;
}

struct approval *
approvals_oldest_ended(struct approvals *t, uint64_t now_us)
{
	struct approval *oldest = NULL;

	pthread_mutex_lock(&t->lock);
	for (size_t i = 0; t->count >= APPROVALS_MAX && !oldest && i < t->count; i++)
		if (approval_state_now(t->list[i], now_us) != APPROVAL_PENDING)
			oldest = approval_ref(t->list[i]);
	pthread_mutex_unlock(&t->lock);
	return oldest;
}
