/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The node's own record members/NODE: a JSON object, each of whose members belongs to one part of
 * the node. It is kept whole, members of later releases too. Control thread.
 */
#include "node.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

void
node_load_member(
	struct node *n, const char *name, json_t *body, uint64_t commit __attribute__((unused)))
{
	/* Refused or gone: the last good one stays. */
	if (!body)
		return;
	if (strcmp(name, n->part.node) != 0) {
		node_note_checkpoint(n, name, body);
		return;
	}
	json_decref(n->member);
	n->member = json_deep_copy(body);
}

json_t *
node_member(const struct node *n, const char *name)
{
	return json_object_get(n->member, name);
}

int
node_set_member(struct node *n, const char *name, json_t *value)
{
	char path[sizeof("members/") + STR_NAME_MAX];
	json_t *next = n->member ? json_copy(n->member) : json_object();
	uint64_t number;
	int err;

	if (!next || json_object_set_new(next, name, value) < 0) {
		json_decref(next);
		return -ENOMEM;
	}
	snprintf(path, sizeof(path), "members/%s", n->part.node);
	err = sealed_put_own(n->sealed, path, STORE_ANY, next, &number);
	if (err != 0) {
		json_decref(next);
		return err;
	}
	json_decref(n->member);
	n->member = next;
	return 0;
}
