/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The records members/NODE: JSON objects, each of whose members belongs to one part of the node.
 * The node's own is kept whole, members of later releases too, and written; those of the others are
 * kept for whoever asks. What they mean is not known here. Control thread, but for what says
 * otherwise.
 */
#include "node.h"

#include "kekd/clock.h"
#include "kekd/log.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define WRITE_HURRY_NS (20 * CLOCK_MS) /* what somebody waits for */
#define WRITE_NS CLOCK_S
#define WRITE_ALONE_NS (60 * CLOCK_S) /* what nobody reads yet */
#define WRITE_AGAIN_NS CLOCK_S

/* ---- all of them ---- */

static struct node_member *
find(struct node *n, const char *name)
{
	for (size_t i = 0; i < n->members_count; i++)
		if (strcmp(n->members[i].name, name) == 0)
			return &n->members[i];
	return NULL;
}

static struct node_member *
find_or_add(struct node *n, const char *name)
{
	struct node_member *m = find(n, name), *list;

	if (m)
		return m;
	list = realloc(n->members, (n->members_count + 1) * sizeof(*list));
	if (!list)
		return NULL;
	n->members = list;
	m = &list[n->members_count++];
	*m = (struct node_member){ .body = NULL };
	snprintf(m->name, sizeof(m->name), "%s", name);
	return m;
}

/* Takes body. The lock is for those who read: only this thread writes. */
static int
keep(struct node *n, const char *name, json_t *body)
{
	struct node_member *m;
	json_t *old = body;

	pthread_mutex_lock(&n->lock);
	m = find_or_add(n, name);
	if (m) {
		old = m->body;
		m->body = body;
	}
	pthread_mutex_unlock(&n->lock);
	json_decref(old);
	return m ? 0 : -ENOMEM;
}

void
node_load_member(
	struct node *n, const char *name, json_t *body, uint64_t commit __attribute__((unused)))
{
	/* Refused or gone: the last good one stays. */
	if (!body || strlen(name) > STR_NAME_MAX)
		return;
	/* Nobody else writes the own one: what comes late is older than what is here. */
	if (strcmp(name, n->part.node) == 0 && n->member_unwritten)
		return;
	if (strcmp(name, n->part.node) != 0)
		node_note_checkpoint(n, name, body);
	if (keep(n, name, json_deep_copy(body)) != 0)
		log_error("members/%s: out of memory", name);
	n->copies_news = true;
}

json_t *
node_member_of(struct node *n, const char *name, const char *part)
{
	struct node_member *m = find(n, name);

	return m ? json_object_get(m->body, part) : NULL;
}

json_t *
node_member_copy(struct node *n, const char *name, const char *part)
{
	json_t *copy;

	pthread_mutex_lock(&n->lock);
	copy = json_deep_copy(node_member_of(n, name, part));
	pthread_mutex_unlock(&n->lock);
	return copy;
}

void
node_close_members(struct node *n)
{
	for (size_t i = 0; i < n->members_count; i++)
		json_decref(n->members[i].body);
	free(n->members);
	n->members = NULL;
	n->members_count = 0;
}

/* ---- the node's own ---- */

json_t *
node_member(const struct node *n, const char *name)
{
	return node_member_of((struct node *)(uintptr_t)n, n->part.node, name);
}

/* A copy with this in it; takes value. NULL: no memory. */
static json_t *
with(struct node *n, const char *name, json_t *value)
{
	struct node_member *m = find(n, n->part.node);
	json_t *next = m && m->body ? json_copy(m->body) : json_object();

	if (next && json_object_set_new(next, name, value) == 0)
		return next;
	json_decref(next);
	return NULL;
}

static int
store(struct node *n, json_t *body)
{
	char path[sizeof("members/") + STR_NAME_MAX];
	uint64_t number;
	int err;

	snprintf(path, sizeof(path), "members/%s", n->part.node);
	err = sealed_put_own(n->sealed, path, STORE_ANY, body, &number);
	if (err == 0)
		n->member_unwritten = n->member_hurry = false;
	return err;
}

int
node_set_member(struct node *n, const char *name, json_t *value)
{
	json_t *next = with(n, name, value);
	int err = next ? store(n, next) : -ENOMEM;

	if (err == 0)
		return keep(n, n->part.node, next);
	json_decref(next);
	return err;
}

void
node_note_member(struct node *n, const char *name, json_t *value, bool hurry)
{
	json_t *next = NULL;

	if (value && json_equal(value, node_member(n, name)))
		json_decref(value);
	else
		next = with(n, name, value);
	if (!next || keep(n, n->part.node, next) != 0)
		return;
	n->member_unwritten = true;
	n->member_hurry |= hurry;
	n->copies_news = true;
}

static uint64_t
interval(struct node *n)
{
	if (!node_has_others(n))
		return WRITE_ALONE_NS;
	return n->member_hurry && !node_leads(n) ? WRITE_HURRY_NS : WRITE_NS;
}

unsigned
node_member_due_ms(struct node *n, unsigned most_ms)
{
	uint64_t now = clock_boot_ns(), due = n->member_written_ns + interval(n);

	if (!n->member_unwritten || n->member_err != 0 || due > now + most_ms * CLOCK_MS)
		return most_ms;
	return due > now ? (unsigned)((due - now) / CLOCK_MS) + 1 : 0;
}

void
node_tick_member(struct node *n)
{
	struct node_member *m = find(n, n->part.node);
	uint64_t now = clock_boot_ns();
	int err;

	if (!n->member_unwritten || !m || now < n->member_written_ns + interval(n) ||
		now < n->member_again_ns)
		return;
	err = store(n, m->body);
	if (err != 0 && err != n->member_err)
		log_warning("members/%s: what is proven here could not be stored: %s; tried again",
			n->part.node, kekd_strerror(err));
	n->member_err = err;
	if (err == 0)
		n->member_written_ns = now;
	else
		n->member_again_ns = now + WRITE_AGAIN_NS;
}
