/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kekd join: all that etcd has is read and verified by the seal key in this node's token, and
 * accepted for the first time. From then on an older copy of it shows here, too.
 */
#include "join.h"

#include "kekd/audit.h"
#include "kekd/clock.h"

#include <errno.h>
#include <string.h>

struct acceptance {
	uint64_t number;
	char generation[UUID_TEXT_SIZE];
};

/* What etcd has now is what is looked at: a replica that is there may be old. */
static int
open_store(struct join *j, char ret_error[JSON_ERROR_SIZE])
{
	struct node *n = j->n;
	int err = store_open_etcd(
		&n->part.store, n->part.node, n->part.state_dir, NULL, NULL, &n->store);

	if (err == KEKD_EINVALID)
		snprintf(ret_error, JSON_ERROR_SIZE,
			"%.120s/metadata.db is a single node's store, of another cluster than "
			"etcd's",
			n->part.state_dir);
	if (err == 0)
		err = store_etcd_catch_up(n->store, 3 * n->part.store.timeout_ms);
	if (err == 0 && n->store->engine->poll(n->store, NULL, NULL) < 0)
		err = KEKD_ESTORE;
	return err;
}

static int
record(struct node *n, enum audit_type type, int err, const struct acceptance *a)
{
	_cleanup_(json_freep) json_t *detail = a ? json_pack("{s:s}", "generation", a->generation)
						 : NULL;
	struct audit_record r = {
		.type = type,
		.time_us = clock_real_us(),
		.operation = "cluster.join",
		.code = err < 0 ? kekd_err_info(err)->code : NULL,
		.revision = a ? a->number : 0,
		.detail = detail,
	};

	return audit_append(n->audit, &r);
}

static int
take(struct join *j, struct acceptance *a, char ret_error[JSON_ERROR_SIZE])
{
	const struct sealed_config config = node_sealed_settings(j->n);
	int err = record(j->n, AUDIT_INTENT, 0, NULL);

	if (err < 0)
		return err;
	err = sealed_join(&config, &a->number, a->generation, ret_error);
	(void)record(j->n, AUDIT_OUTCOME, err, err == 0 ? a : NULL);
	return err;
}

static const struct {
	int err;
	const char *next;
} remedies[] = {
	{ KEKD_EOBJECT, "have the first node's token cloned into this node's, with its vendor's "
			"means, or configure the token that all share" },
	{ KEKD_ERECORD, "look at the cluster's nodes: kekctl status names what is refused there" },
	{ KEKD_EHELD, "look at the cluster's nodes: kekctl status says what is held and why" },
	{ KEKD_EINVALID, "give this node an empty state_dir, if it is new to this cluster; the one "
			 "that was alone before begins with \"kekd migrate --to etcd\"" },
	{ KEKD_EAUDIT, "make audit.dir writable for kekd-net's user" },
	{ KEKD_EHSM, "kekd's log has the token's own words; then try again" },
};

static bool
refuse(struct join *j, int err, const char *error)
{
	join_say(j, "%s", *error ? error : kekd_strerror(err));
	for (size_t i = 0; i < STR_COUNT(remedies); i++)
		if (remedies[i].err == err)
			return join_next(j, "%s", remedies[i].next);
	return join_next(j, "look at etcd, then try again");
}

bool
join_check_seal(struct join *j)
{
	struct acceptance a = { 0 };
	char error[JSON_ERROR_SIZE] = "";
	int err;

	if (j->runs_here) {
		join_say(j, "this node is running: kekctl status tells");
		return true;
	}
	err = open_store(j, error);
	if (err == 0)
		err = node_open_audit(j->n);
	if (err == 0)
		err = take(j, &a, error);
	if (err < 0)
		return refuse(j, err, error);
	join_say(j, "the token has the key, every record verifies: revision %llu is accepted",
		(unsigned long long)a.number);
	return true;
}
