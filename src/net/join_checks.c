/* SPDX-License-Identifier: Apache-2.0 */
/* kekd join: the checks of configuration, etcd, cluster, name, tokens and membership. */
#include "join.h"

#include "kekd/clock.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define TOKENS_NS (30 * CLOCK_S)
#define LEASE_MARGIN_NS (2 * CLOCK_S)

/* What is in the file was checked before this process was made. */
bool
join_check_configuration(struct join *j)
{
	const struct net_part *p = &j->n->part;

	if (!p->store.endpoints) {
		join_say(j, "store.engine is sqlite: that is a single node's");
		return join_next(j, "give url and store.engine: etcd, with the endpoints of the "
				    "cluster's etcd (man kekd.yaml)");
	}
	join_say(j, "node %s of cluster %s, at %s", p->node, p->cluster, p->url);
	return true;
}

/* ---- etcd ---- */

/* Takes body. */
static int
ask(struct join *j, const char *path, json_t *body, json_t **ret_reply)
{
	int err = body ? etcd_call(j->etcd, path, body, true, ret_reply, NULL) : -ENOMEM;

	json_decref(body);
	return err;
}

int
join_read(struct join *j, const char *path, json_t **ret_value)
{
	json_t *reply = NULL, *kv;
	char error[JSON_ERROR_SIZE];
	size_t len = 0;
	char *text;
	int err = ask(j, "kv/range", json_pack("{s:o}", "key", etcd_key(j->etcd, path)), &reply);

	if (err < 0)
		return err;
	kv = json_array_get(json_object_get(reply, "kvs"), 0);
	*ret_value = NULL;
	if (kv) {
		text = etcd_bytes(json_object_get(kv, "value"), &len);
		*ret_value = text ? json_parse(text, len, error) : NULL;
		err = *ret_value ? 0 : KEKD_ERECORD;
		free(text);
	}
	json_decref(reply);
	return err;
}

/* Reads how much is there. The transaction never writes, but etcd refuses it to whoever may not. */
static json_t *
probe(struct join *j)
{
	return json_pack("{s:[{s:o, s:s, s:s, s:o}], s:[{s:{s:o, s:s}}], s:[{s:{s:o, s:o, s:b}}]}",
		"compare", "key", etcd_key(j->etcd, "leader"), "target", "CREATE", "result",
		"EQUAL", "create_revision", etcd_number(INT64_MAX), "success", "requestPut", "key",
		etcd_key(j->etcd, "leader"), "value", "", "failure", "requestRange", "key",
		etcd_key(j->etcd, ""), "range_end", etcd_key_end(j->etcd, ""), "count_only", 1);
}

static void
note_leader(struct join *j)
{
	_cleanup_(json_freep) json_t *leader = NULL;
	const char *node, *url;

	if (join_read(j, "leader", &leader) < 0)
		return;
	node = json_string_value(json_object_get(leader, "node"));
	url = json_string_value(json_object_get(leader, "url"));
	if (node && url) {
		snprintf(j->leader, sizeof(j->leader), "%s", node);
		snprintf(j->leader_url, sizeof(j->leader_url), "%s", url);
	}
}

bool
join_check_etcd(struct join *j)
{
	const struct net_part *p = &j->n->part;
	json_t *reply = NULL;
	uint64_t count;
	int err = j->etcd ? 0 : etcd_open(&p->store, &j->etcd);

	if (err == 0)
		err = ask(j, "kv/txn", probe(j), &reply);
	if (err < 0) {
		join_say(j, "%s",
			j->etcd && *etcd_error(j->etcd) ? etcd_error(j->etcd) : kekd_strerror(err));
		return join_next(j,
			"look at store.endpoints, store.ca, store.certificate and store.user; the "
			"user needs readwrite on the prefix /kekd/%s/",
			p->cluster);
	}
	count = etcd_u64(json_object_get(json_array_get(json_object_get(reply, "responses"), 0),
				 "response_range"),
		"count");
	json_decref(reply);
	join_say(j, "%llu keys under /kekd/%s/, to be read and written%s%s",
		(unsigned long long)count, p->cluster, p->store.user ? " as user " : "",
		p->store.user ? p->store.user : "");
	note_leader(j);
	return true;
}

/* ---- the cluster ---- */

static bool
refuse_level(struct join *j, json_int_t level)
{
	join_say(j,
		"the cluster is at level %lld, and this release (" PACKAGE_VERSION
		") knows levels up to %u",
		(long long)level, cluster_release_level);
	return join_next(j, "install the release that the other nodes run");
}

/* Its seal is looked at later, with all others. */
bool
join_check_cluster(struct join *j)
{
	const char *name = j->n->part.cluster;
	_cleanup_(json_freep) json_t *envelope = NULL;
	char error[JSON_ERROR_SIZE] = "";
	const json_t *body;
	json_int_t level;
	int err = join_read(j, "cluster", &envelope);

	if (err == 0 && !envelope) {
		join_say(j, "there is no cluster %s in this etcd", name);
		return join_next(j,
			"make it with \"kekd init\", or bring a single node's with \"kekd migrate "
			"--to etcd\", on the first node; or correct cluster");
	}
	body = json_object_get(envelope, "body");
	level = json_integer_value(json_object_get(body, "level"));
	if (level > (json_int_t)cluster_release_level)
		return refuse_level(j, level);
	if (err == 0)
		err = cluster_from_json(body, 1, &j->cluster, error);
	if (err < 0) {
		join_say(j, "the record cannot be read: %s", *error ? error : kekd_strerror(err));
		return join_next(j, "look at the cluster's nodes: kekctl status");
	}
	join_say(j, "%s, level %u, %zu member%s; %s%s", name, j->cluster.level,
		j->cluster.members_count, j->cluster.members_count == 1 ? "" : "s",
		*j->leader ? "the active is " : "no node is active", j->leader);
	return true;
}

/* ---- the name ---- */

/* After a kill the lease of an earlier process runs on. */
static int
wait_for_lease(struct join *j, json_t **ret_alive)
{
	char path[sizeof("alive/") + STR_NAME_MAX];
	uint64_t end = clock_boot_ns() + j->n->part.store_lease_s * CLOCK_S + LEASE_MARGIN_NS;
	const struct timespec pause = { 0, 300000000 };
	int err;

	snprintf(path, sizeof(path), "alive/%s", j->n->part.node);
	while ((err = join_read(j, path, ret_alive)) == 0 && *ret_alive && !j->runs_here &&
		clock_boot_ns() < end) {
		json_decref(*ret_alive);
		*ret_alive = NULL; /* the next read may fail */
		nanosleep(&pause, NULL);
	}
	return err;
}

bool
join_check_name(struct join *j)
{
	const char *node = j->n->part.node;
	_cleanup_(json_freep) json_t *alive = NULL;
	int err;

	if (cluster_has_forgotten(&j->cluster, node)) {
		join_say(j, "%s was forgotten by the cluster, for ever", node);
		return join_next(j, "give this node another name (node), and an empty state_dir");
	}
	err = wait_for_lease(j, &alive);
	if (err < 0) {
		join_say(j, "%s", etcd_error(j->etcd));
		return join_next(j, "look at etcd, then try again");
	}
	if (alive && !j->runs_here) {
		join_say(j, "another kekd is running as node %s", node);
		return join_next(j, "stop that one, or give this node another name (node)");
	}
	join_say(j, alive ? "%s is this node, which is running" : "%s is free", node);
	return true;
}

/* ---- tokens ---- */

static void
say_waiting(struct join *j, unsigned token)
{
	struct hsm_worker_status w = { 0 };

	(void)hsm_worker_status(j->n->hsm, token, 0, &w);
	join_say(j, "%s: %s", j->n->part.tokens[token],
		*w.hello.message ? w.hello.message : "no worker got ready");
}

bool
join_check_tokens(struct join *j)
{
	struct node *n = j->n;
	struct hsm_worker_status w = { 0 };

	(void)node_await_tokens(n, TOKENS_NS);
	for (unsigned i = 0; i < n->part.tokens_count; i++)
		if (!hsm_token_ready(n->hsm, i)) {
			say_waiting(j, i);
			return join_next(j,
				"look at tokens in the configuration; the log has the token's "
				"own words");
		}
	(void)hsm_worker_status(n->hsm, 0, 0, &w);
	join_say(j, "%u configured, logged in; the first is \"%s\", serial %s",
		n->part.tokens_count, w.hello.token_label, w.hello.token_serial);
	return true;
}

/* ---- membership ---- */

bool
join_check_membership(struct join *j)
{
	const char *node = j->n->part.node;

	if (cluster_has_member(&j->cluster, node)) {
		join_say(j, "%s is a member", node);
		return true;
	}
	join_say(j, "%s is not yet a member", node);
	return join_next(j, "at the active%s%s: kekctl cluster members add %s",
		*j->leader_url ? ", " : "", j->leader_url, node);
}
