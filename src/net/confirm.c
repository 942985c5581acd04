/* SPDX-License-Identifier: Apache-2.0 */
/*
 * After a restore: data keys are wrapped and unwrapped, but nothing is changed before an
 * administrator has looked at what came back and confirmed it. The record `cluster` says so, in its
 * member `confirm`. And what is known of drills, which show that a restore would work.
 */
#include "node.h"

#include "kekd/clock.h"
#include "kekd/log.h"

#include <errno.h>
#include <string.h>

/* What may be done meanwhile: nothing of it changes a record but this. */
static const char *const allowed[] = {
	"backup.create",
	"cluster.confirm",
	"cluster.step_down",
	"cluster.promote",
	"hsm.retry_pin",
};

bool
node_holds_changes(const struct node *n)
{
	return atomic_load(&n->unconfirmed);
}

int
node_may_change(const struct node *n, const struct http_route *route)
{
	if (!node_holds_changes(n))
		return 0;
	for (size_t i = 0; i < STR_COUNT(allowed); i++)
		if (strcmp(route->name, allowed[i]) == 0)
			return 0;
	return KEKD_ECONFIRM;
}

void
node_note_confirm(struct node *n, bool wanted)
{
	if (!atomic_exchange(&n->unconfirmed, wanted) && wanted)
		log_warning("restored from a backup: no change is made before \"kekctl cluster "
			    "confirm\"");
}

int
node_confirm(struct node *n, const char *generation)
{
	struct cluster next;

	node_cluster(n, &next);
	if (!next.confirm.wanted)
		return KEKD_ESTATE;
	if (strcmp(next.generation, generation) != 0)
		return KEKD_EPRECONDITION;
	next.confirm = (struct cluster_confirm){ .wanted = false };
	return node_cluster_change(n, &next, NULL);
}

/* What wrapped under an activation number since is not known: none of them comes again. */
static int
restore_key(const char *path, const json_t *body, void *user, json_t **ret_body)
{
	json_t *next;

	(void)user;
	*ret_body = NULL;
	if (strncmp(path, "keys/", strlen("keys/")) != 0)
		return 0;
	next = json_deep_copy(body);
	if (!next || node_restored_key(next) < 0) {
		json_decref(next);
		return -ENOMEM;
	}
	*ret_body = next;
	return 0;
}

int
node_confirm_store(struct node *n, const char *generation, uint64_t *ret_number,
	char ret_error[JSON_ERROR_SIZE])
{
	int err = node_leads(n) ? 0 : node_promote(n, ret_error);

	if (err == 0)
		err = sealed_confirm(n->sealed, generation, restore_key, n, ret_number, ret_error);
	return err;
}

void
node_load_drill(struct node *n, const char *rest, json_t *body, uint64_t commit)
{
	const char *time = json_string_value(json_object_get(body, "last_good"));
	uint64_t us = 0;

	(void)rest;
	(void)commit;
	if (time && clock_parse(time, &us) == 0)
		atomic_store(&n->drill_good_us, us);
}
