/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kekd migrate: the metadata of a single node's SQLite to an etcd whose prefix is empty, and back.
 * Records go over as they are, seals and all, so that the file `accepted` stays right. The copy is
 * made beside what is there, verified, and takes its place at the end: broken off anywhere, the
 * same command goes on.
 */
#include "node.h"

#include "kekd/clock.h"
#include "kekd/control.h"
#include "kekd/etcd.h"
#include "kekd/file.h"
#include "kekd/log.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define WORK_DIR "migrate.new"
#define TOKENS_NS (60 * CLOCK_S)
#define CATCH_UP_MS 10000

struct migration {
	struct node *n;
	bool to_etcd;
	struct store *sqlite; /* etcd's is the node's own */
	struct cluster cluster;
	uint64_t number; /* of the last commit in the metadata that goes over */
	size_t records;
	char work_dir[PATH_MAX];
	char kept[PATH_MAX]; /* the former metadata; "": nothing to keep */
	bool done_before;
};

static int
refuse(const char *what)
{
	log_error("%s", what);
	return KEKD_EINVALID;
}

/* ---- files ---- */

static int
path_in(const char *dir, const char *name, char ret_path[PATH_MAX])
{
	return snprintf(ret_path, PATH_MAX, "%s/%s", dir, name) < PATH_MAX ? 0 : -ENAMETOOLONG;
}

static int
make_work_dir(struct migration *m)
{
	int err = path_in(m->n->part.state_dir, WORK_DIR, m->work_dir);

	if (err == 0 && mkdir(m->work_dir, 0700) < 0 && errno != EEXIST)
		err = -errno;
	if (err < 0)
		log_error("%s/" WORK_DIR ": cannot be made: %s", m->n->part.state_dir,
			strerror(-err));
	return err;
}

static void
empty_work_dir(const struct migration *m)
{
	static const char *const names[] = { "metadata.db", "metadata.db-wal", "metadata.db-shm" };
	char path[PATH_MAX];

	for (size_t i = 0; i < STR_COUNT(names); i++)
		if (path_in(m->work_dir, names[i], path) == 0)
			unlink(path);
}

/* A database that was closed is one file. What a killed process left behind beside it would be
 * taken for the next one's. */
static int
check_closed(const char *dir)
{
	char path[PATH_MAX];
	int err = path_in(dir, "metadata.db-wal", path);

	if (err < 0 || access(path, F_OK) != 0)
		return err;
	log_error("%s: is still in use: see that no other process has it open", path);
	return KEKD_ESTORE;
}

static int
move(const char *from, const char *to)
{
	if (rename(from, to) == 0)
		return 0;
	log_error("%s: cannot be renamed to %s: %s", from, to, strerror(errno));
	return -errno;
}

/* Whole seconds, and nothing that a shell or another file system would mind in a name. */
static void
name_time(char ret_text[CLOCK_TEXT_SIZE])
{
	char now[CLOCK_TEXT_SIZE], *out = ret_text;

	clock_format(clock_real_us(), now);
	for (const char *p = now; *p && *p != '.'; p++)
		if (*p != '-' && *p != ':')
			*out++ = *p;
	*out++ = 'Z';
	*out = '\0';
}

static int
keep_former(struct migration *m, const char *path)
{
	char now[CLOCK_TEXT_SIZE];

	name_time(now);
	if (snprintf(m->kept, sizeof(m->kept), "%s.%s-%s", path,
		    m->n->part.task == NET_REPLICA_TO_ETCD ? "replica" : "sqlite",
		    now) >= (int)sizeof(m->kept))
		return -ENAMETOOLONG;
	return move(path, m->kept);
}

/* Between the two renames nothing is in place: a repeated command finds the new one. */
static int
put_in_place(struct migration *m, bool keep)
{
	const char *state_dir = m->n->part.state_dir;
	char from[PATH_MAX], to[PATH_MAX];
	int err = path_in(m->work_dir, "metadata.db", from);

	if (err == 0)
		err = path_in(state_dir, "metadata.db", to);
	if (err == 0)
		err = check_closed(state_dir);
	if (err == 0)
		err = check_closed(m->work_dir);
	if (err == 0 && keep)
		err = keep_former(m, to);
	if (err == 0)
		err = move(from, to);
	if (err < 0)
		return err;
	(void)file_sync_dir(state_dir);
	rmdir(m->work_dir);
	return 0;
}

/* ---- is it all there, and good? ---- */

static void
take_cluster(const char *path, json_t *body, uint64_t commit, void *user)
{
	struct migration *m = user;
	char error[JSON_ERROR_SIZE];

	if (body && strcmp(path, "cluster") == 0 &&
		cluster_from_json(body, commit, &m->cluster, error) < 0)
		log_error("record cluster: %s", error);
}

/* Every seal, and against what this node has accepted. */
static int
verify(struct migration *m, struct store *store, const char *whose)
{
	struct sealed_config config = node_sealed_settings(m->n);
	struct sealed_status status = { 0 };
	struct sealed *sealed = NULL;
	char error[JSON_ERROR_SIZE] = "";
	int err;

	config.store = store;
	m->cluster = (struct cluster){ .members_count = 0 };
	err = sealed_open(&config, take_cluster, m, &sealed, error);
	if (err == 0)
		sealed_status(sealed, &status);
	sealed_freep(&sealed);
	if (err == 0 && status.hold == SEALED_HOLD_NONE && status.refused == 0) {
		m->number = status.number;
		m->records = status.records;
		return 0;
	}
	log_error("%s: %s", whose,
		*error				  ? error
		: err < 0			  ? kekd_strerror(err)
		: status.hold != SEALED_HOLD_NONE ? sealed_hold_text(status.hold)
						  : "records were changed outside of kekd: restore "
						    "them first");
	return err < 0 ? err : KEKD_EHELD;
}

static int
check_member(const struct migration *m)
{
	const char *node = m->n->part.node;

	if (cluster_has_member(&m->cluster, node))
		return 0;
	log_error("node %s is no member of cluster %s: is this the right node?", node,
		m->cluster.name);
	return KEKD_EINVALID;
}

/* Only the one node that the cluster has may take it away from etcd. */
static int
check_alone(const struct migration *m)
{
	const struct cluster *c = &m->cluster;
	const char *node = m->n->part.node;

	for (size_t i = 0; i < c->members_count; i++)
		if (strcmp(c->members[i], node) != 0) {
			log_error("node %s is a member of this cluster, too: \"kekctl cluster "
				  "forget %s\" first, which is final; or set node, if this is it",
				c->members[i], c->members[i]);
			return KEKD_EINVALID;
		}
	return check_member(m);
}

static int
copy(struct store *from, struct store *to, const char *where)
{
	char error[256] = "";
	size_t count;
	int err = store_copy(from, to, &count, error);

	if (err < 0)
		log_error("%s: %s", where, *error ? error : kekd_strerror(err));
	return err;
}

static void
close_stores(struct migration *m)
{
	node_close_leader(m->n);
	store_freep(&m->n->store);
	store_freep(&m->sqlite);
}

/* All that etcd has now. */
static int
catch_up(struct store *etcd)
{
	int err = store_etcd_catch_up(etcd, CATCH_UP_MS);

	if (err == 0 && etcd->engine->poll(etcd, NULL, NULL) < 0)
		err = KEKD_ESTORE;
	return err;
}

/* ---- to etcd ---- */

/* The replica of etcd grows in the work directory, which keeps who it is over a repetition. */
static int
open_target(struct migration *m)
{
	struct node *n = m->n;
	char *state_dir = n->part.state_dir;
	int err;

	n->part.state_dir = m->work_dir;
	err = node_open_etcd(n);
	n->part.state_dir = state_dir;
	if (err == 0)
		err = node_lead_alone(n);
	if (err == 0) /* what an earlier process has written, perhaps with its last breath */
		err = catch_up(n->store);
	if (err < 0 && err != KEKD_ENOTACTIVE)
		log_error("etcd cannot be used: %s", kekd_strerror(err));
	return err;
}

static int
copy_to_etcd(struct migration *m)
{
	int err = verify(m, m->sqlite, "this node's metadata");

	if (err == 0)
		err = check_member(m);
	if (err == 0)
		err = open_target(m);
	if (err == 0)
		err = copy(m->sqlite, m->n->store, "etcd");
	return err == 0 ? verify(m, m->n->store, "the copy in etcd") : err;
}

/* Killed between the renames: the copy was whole by then. */
static int
go_on(struct migration *m)
{
	char path[PATH_MAX];
	int err = path_in(m->work_dir, "metadata.db", path);

	if (err < 0)
		return err;
	if (access(path, F_OK) != 0)
		return refuse("there is no metadata.db in state_dir: nothing is to be migrated. A "
			      "further node of a cluster begins with \"kekd join\"");
	err = open_target(m);
	return err == 0 ? verify(m, m->n->store, "the copy in etcd") : err;
}

/* How many keys begin so? */
static int
count_in_etcd(struct node *n, const char *path, uint64_t *ret_count)
{
	struct etcd *etcd = NULL;
	json_t *reply = NULL, *body = NULL;
	int err = etcd_open(&n->part.store, &etcd);

	if (err == 0)
		body = json_pack("{s:o, s:o, s:b}", "key", etcd_key(etcd, path), "range_end",
			etcd_key_end(etcd, path), "count_only", 1);
	if (err == 0)
		err = body ? etcd_call(etcd, "kv/range", body, true, &reply, NULL) : -ENOMEM;
	if (err == 0)
		*ret_count = etcd_u64(reply, "count");
	else
		log_error("etcd cannot be read: %s",
			etcd && *etcd_error(etcd) ? etcd_error(etcd) : kekd_strerror(err));
	json_decref(body);
	json_decref(reply);
	etcd_freep(&etcd);
	return err;
}

/* The metadata is etcd's already. Or was, of one that is lost for good. */
static int
look_at_replica(struct migration *m)
{
	uint64_t count = 0;
	int err = count_in_etcd(m->n, "commit", &count);

	if (err < 0)
		return err;
	/* It comes last: an etcd without it has nothing, or a part of a copy. */
	m->done_before = count > 0;
	if (count > 0 || m->n->part.task == NET_REPLICA_TO_ETCD)
		return 0;
	log_error("metadata.db is a replica of etcd's, and etcd has no cluster %s: see that "
		  "store.endpoints are right. If that etcd is lost for good, and no other node's "
		  "revision is above this one's: \"kekd migrate --to etcd --from-replica\"",
		m->n->part.cluster);
	return KEKD_EINVALID;
}

/* What an earlier copy into another etcd has left is of no use for an empty one. */
static int
open_source(struct migration *m, int replica)
{
	const char *state_dir = m->n->part.state_dir;
	uint64_t count = 0;
	int err = replica >= 0 ? count_in_etcd(m->n, "", &count) : 0;

	if (err < 0)
		return err;
	if (replica >= 0 && count == 0)
		empty_work_dir(m);
	return replica == 1   ? store_open_replica(state_dir, &m->sqlite)
	       : replica == 0 ? store_open_sqlite(state_dir, false, &m->sqlite)
			      : 0; /* there is none */
}

static int
migrate_to_etcd(struct migration *m)
{
	int replica = store_is_replica(m->n->part.state_dir), err;
	bool there = replica >= 0;

	err = replica == 1 ? look_at_replica(m) : replica == -ENOENT ? 0 : replica;
	if (err < 0 || m->done_before)
		return err;
	err = make_work_dir(m);
	if (err == 0)
		err = open_source(m, replica);
	if (err == 0)
		err = there ? copy_to_etcd(m) : go_on(m);
	close_stores(m);
	return err == 0 ? put_in_place(m, there) : err;
}

/* ---- to SQLite ---- */

static int
take_in(struct migration *m)
{
	struct store *etcd = m->n->store;
	int err = catch_up(etcd);

	if (err < 0)
		log_error("etcd cannot be read: %s", kekd_strerror(err));
	else
		err = verify(m, etcd, "etcd");
	return err == 0 ? check_alone(m) : err;
}

static int
copy_to_sqlite(struct migration *m)
{
	int err = node_open_etcd(m->n);

	if (err == 0)
		err = take_in(m);
	/* From now on nobody changes anything there; what was changed until now is taken, too. */
	if (err == 0)
		err = node_lead_alone(m->n);
	if (err == 0)
		err = take_in(m);
	empty_work_dir(m);
	if (err == 0)
		err = store_open_sqlite(m->work_dir, true, &m->sqlite);
	if (err == 0)
		err = copy(m->n->store, m->sqlite, m->work_dir);
	return err == 0 ? verify(m, m->sqlite, "the copy in SQLite") : err;
}

static int
migrate_to_sqlite(struct migration *m)
{
	int replica = store_is_replica(m->n->part.state_dir), err;

	if (replica == 0) {
		m->done_before = true;
		return 0;
	}
	err = replica < 0 && replica != -ENOENT ? replica : make_work_dir(m);
	if (err == 0)
		err = copy_to_sqlite(m);
	close_stores(m);
	return err == 0 ? put_in_place(m, false) : err;
}

/* ---- the task ---- */

static int
record(const struct migration *m, enum audit_type type, int err)
{
	_cleanup_(json_freep) json_t *detail = json_pack("{s:s, s:I}", "to",
		m->to_etcd ? "etcd" : "sqlite", "records", (json_int_t)m->records);
	struct audit_record a = {
		.type = type,
		.time_us = clock_real_us(),
		.operation = "cluster.migrate",
		.code = err < 0 ? kekd_err_info(err)->code : NULL,
		.revision = m->number,
		.detail = detail,
	};

	return audit_append(m->n->audit, &a);
}

static void
tell_result(const struct migration *m)
{
	const struct net_part *p = &m->n->part;

	if (m->done_before) {
		log_info("this node's metadata is %s already: %s",
			m->to_etcd ? "etcd's" : "a single node's",
			m->to_etcd ? "start kekd" : "set store.engine: sqlite and start kekd");
		return;
	}
	log_info("%zu records are in %s, revision %llu", m->records, m->to_etcd ? "etcd" : "SQLite",
		(unsigned long long)m->number);
	if (*m->kept)
		log_info("the former metadata is kept as %s; kekd does not need it any more",
			m->kept);
	if (m->to_etcd)
		log_info("start kekd");
	else
		log_info("set store.engine: sqlite, without what goes with etcd, and start kekd. "
			 "What etcd has under /kekd/%s/ stays there: once all is well, delete it",
			p->cluster);
}

static int
prepare(struct migration *m)
{
	struct node *n = m->n;

	if (!n->part.store.endpoints)
		return refuse("store.engine: etcd, with what goes with it, is to be in the "
			      "configuration; for the way back, too, until it is done");
	if (node_runs_here(n))
		return refuse("kekd runs on this node: stop it first");
	if (node_open_audit(n) != 0)
		return KEKD_EAUDIT;
	if (!node_await_tokens(n, TOKENS_NS))
		return refuse("not every token had a ready worker within a minute: see above for "
			      "which");
	if (record(m, AUDIT_INTENT, 0) == 0)
		return 0;
	log_error(
		"%s: the audit log cannot be written, so nothing was migrated", n->part.audit_dir);
	return KEKD_EAUDIT;
}

int
node_migrate(struct node *n)
{
	struct migration m = { .n = n, .to_etcd = n->part.task != NET_TO_SQLITE };
	int err = prepare(&m);

	if (err < 0)
		return CHILD_EXIT_OPERATOR;
	err = m.to_etcd ? migrate_to_etcd(&m) : migrate_to_sqlite(&m);
	if (record(&m, AUDIT_OUTCOME, err) != 0)
		log_warning("%s: the audit log has no record of how this ended", n->part.audit_dir);
	if (err < 0)
		log_error("this node is as it was; put right what is said above, then repeat the "
			  "command");
	else
		tell_result(&m);
	return err < 0 ? CHILD_EXIT_FAILED : CHILD_EXIT_OK;
}
