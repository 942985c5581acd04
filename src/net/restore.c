/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kekd restore: the records of a backup into an empty store, as a new generation of the cluster
 * that holds its changes until an administrator has confirmed it. And kekd drill, which does the
 * same in a scratch directory to prove every version. The work goes on in a directory beside the
 * store, which takes its place at the end: broken off, nothing was restored.
 */
#include "node.h"
#include "since.h"

#include "kekd/backup.h"
#include "kekd/clock.h"
#include "kekd/control.h"
#include "kekd/log.h"
#include "kekd/nonce.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define WORK_DIR "restore.new"

/* What a version may have drawn that the audit log does not tell: blocks that were being used. */
#define NONCE_MARGIN NONCE_BLOCK_FAST
/* Without the log: more than a day of the fastest wrapping there is, and enough to make the key
 * rotate by itself. */
#define NONCE_UNKNOWN NONCE_ROTATE
#define NONCE_UNKNOWN_US (86400ull * 1000000)

struct restore {
	struct node *n;
	struct backup backup;
	struct since since;
	char generation[UUID_TEXT_SIZE];
	uint64_t accepted; /* the last commit number that this node knows of; 0: none */
	uint64_t above;	   /* the commit number to go on from */
	char work_dir[PATH_MAX];
	struct sealed_change *changes;
	size_t count;
};

static int
refuse(const char *what)
{
	log_error("%s", what);
	return CHILD_EXIT_OPERATOR;
}

/* ---- the file ---- */

static int
read_file(struct buf *b)
{
	uint8_t chunk[65536];
	ssize_t n;

	while ((n = read(CHILD_FD_BACKUP, chunk, sizeof(chunk))) > 0)
		buf_put(b, chunk, (size_t)n);
	close(CHILD_FD_BACKUP);
	return n < 0 ? -errno : b->bad ? -E2BIG : 0;
}

static int
read_backup(struct restore *r)
{
	_cleanup_(buf_free) struct buf text = BUF_INIT(BACKUP_SIZE_MAX);
	char error[JSON_ERROR_SIZE] = "";
	int err = read_file(&text);

	if (err == 0)
		err = backup_parse((const char *)text.data, text.len, &r->backup, error);
	if (err == 0)
		return CHILD_EXIT_OK;
	log_error("this is no whole backup of kekd: %s", *error ? error : kekd_strerror(err));
	return CHILD_EXIT_OPERATOR;
}

static const struct {
	int err;
	const char *text;
} seal_faults[] = {
	{ KEKD_ERECORD, "the backup was changed since it was made, or the token has another seal "
			"key of that name: its seal does not verify. Take an unchanged copy" },
	{ KEKD_EOBJECT, "the backup's seal key is in none of the tokens: it is of another cluster, "
			"or this is not its token or a clone of it" },
};

static int
check_seal(const struct restore *r, const struct sealed_config *config)
{
	int err = sealed_check_digest(
		config, &r->backup.seal_key, r->backup.digest, r->backup.seal);

	if (err == 0)
		return CHILD_EXIT_OK;
	for (size_t i = 0; i < STR_COUNT(seal_faults); i++)
		if (seal_faults[i].err == err)
			return refuse(seal_faults[i].text);
	log_error("the token cannot check the backup's seal: %s", kekd_strerror(err));
	return CHILD_EXIT_FAILED;
}

static int
check_backup(struct restore *r, const struct sealed_config *config)
{
	const struct node *n = r->n;

	if (strcmp(r->backup.cluster, n->part.cluster) != 0) {
		log_error("the backup is of cluster \"%s\", the configuration says \"%s\": take "
			  "this cluster's backup, or correct the configuration",
			r->backup.cluster, n->part.cluster);
		return CHILD_EXIT_OPERATOR;
	}
	return check_seal(r, config);
}

/* ---- where it goes ---- */

static int
check_empty(const struct restore *r)
{
	struct store_page p = { 0 };
	struct store *store = NULL;
	int err = store_open_sqlite(r->n->part.state_dir, false, &store);
	bool empty;

	if (err == -ENOENT)
		return CHILD_EXIT_OK;
	if (err == 0)
		err = store->engine->list(store, "", NULL, 1, &p);
	empty = err == 0 && p.count == 0;
	store_page_free(&p);
	store_freep(&store);
	if (empty)
		return CHILD_EXIT_OK;
	log_error("%s/metadata.db has records, or cannot be read: a backup goes into an empty "
		  "store; move metadata.db away first",
		r->n->part.state_dir);
	return CHILD_EXIT_OPERATOR;
}

static int
find_number(struct restore *r)
{
	if (sealed_accepted(r->n->part.state_dir, r->n->part.cluster, &r->accepted) < 0) {
		log_error("%s/accepted cannot be read: move it away", r->n->part.state_dir);
		return CHILD_EXIT_OPERATOR;
	}
	r->above = r->accepted > r->backup.revision ? r->accepted : r->backup.revision;
	return CHILD_EXIT_OK;
}

/* ---- the records, changed where a restore changes them ---- */

static json_t *
confirm_json(const struct restore *r)
{
	char now[CLOCK_TEXT_SIZE];

	clock_format(clock_real_us(), now);
	return json_pack("{s:s, s:s, s:s, s:I, s:b, s:I}", "restored", now, "backup",
		r->backup.created, "generation", r->backup.generation, "revision",
		(json_int_t)r->backup.revision, "log", r->since.continuous, "changes",
		(json_int_t)r->since.changes);
}

static int
change_cluster(const struct restore *r, const char *name, json_t *body)
{
	(void)name;
	if (json_object_set_new(body, "generation", json_string(r->generation)) < 0 ||
		(r->n->part.task == NET_RESTORE &&
			json_object_set_new(body, "confirm", confirm_json(r)) < 0))
		return -ENOMEM;
	return 0;
}

/* What was to be destroyed may have been cancelled since: whoever still wants it asks again. */
static void
stop_destruction(json_t *version)
{
	const char *state = json_string_value(json_object_get(version, "state"));

	if (!state || strcmp(state, "scheduled") != 0)
		return;
	json_object_set_new(version, "state", json_string("disabled"));
	json_object_del(version, "destroy");
}

int
node_restored_key(json_t *body)
{
	json_int_t activation = json_integer_value(json_object_get(body, "activation"));
	json_t *version;
	size_t i;

	json_array_foreach(json_object_get(body, "versions"), i, version)
		stop_destruction(version);
	if (activation == 0)
		return 0;
	return json_object_set_new(body, "activation",
		json_integer(activation + (json_int_t)LIFECYCLE_ACTIVATION_GAP));
}

static int
change_key(const struct restore *r, const char *name, json_t *body)
{
	(void)r;
	(void)name;
	return node_restored_key(body);
}

/* Never fewer than were drawn: by the log what was wrapped since, and a margin; without it half of
 * the budget, or all of it after more than a day. */
static int
change_nonces(const struct restore *r, const char *version, json_t *body)
{
	uint64_t reserved = (uint64_t)json_integer_value(json_object_get(body, "reserved"));
	uint64_t now = clock_real_us();
	bool old = now < r->backup.created_us || now - r->backup.created_us > NONCE_UNKNOWN_US;

	if (r->since.continuous)
		reserved += since_wrapped(&r->since, version) + NONCE_MARGIN;
	else
		reserved += old ? NONCE_MAX : NONCE_UNKNOWN;
	if (reserved > NONCE_MAX)
		reserved = NONCE_MAX;
	return json_object_set_new(body, "reserved", json_integer((json_int_t)reserved));
}

static const struct {
	const char *prefix;
	int (*change)(const struct restore *r, const char *name, json_t *body);
} edits[] = {
	{ "cluster", change_cluster },
	{ "keys/", change_key },
	{ "nonces/", change_nonces },
};

static int
change_record(const struct restore *r, const char *path, json_t *body)
{
	int err = 0;

	for (size_t i = 0; err == 0 && i < STR_COUNT(edits); i++)
		if (strncmp(path, edits[i].prefix, strlen(edits[i].prefix)) == 0)
			err = edits[i].change(r, path + strlen(edits[i].prefix), body);
	return err;
}

/* A version that was never wrapped with has no record of its budget yet, but may have been since.
 */
static json_t *
missing_nonces(const struct restore *r, const char *version)
{
	json_t *body = json_pack("{s:I, s:{}}", "reserved", (json_int_t)NONCE_BLOCK, "blocks");

	if (body && change_nonces(r, version, body) < 0) {
		json_decref(body);
		return NULL;
	}
	return body;
}

static int
add_missing_nonces(struct restore *r, json_t *kept)
{
	size_t records = json_array_size(r->backup.records);
	_cleanup_(json_freep) json_t *have = json_object();

	for (size_t i = 0; i < records; i++) {
		const char *path = json_string_value(
			json_object_get(json_array_get(r->backup.records, i), "path"));
		if (strncmp(path, "nonces/", 7) == 0)
			json_object_set_new(have, path + 7, json_true());
	}
	for (size_t i = 0; i < records; i++) {
		const json_t *record = json_array_get(r->backup.records, i), *v;
		const char *path = json_string_value(json_object_get(record, "path"));
		size_t j;
		if (strncmp(path, "keys/", 5) != 0)
			continue;
		json_array_foreach(
			json_object_get(json_object_get(record, "body"), "versions"), j, v) {
			const char *id = json_string_value(json_object_get(v, "id"));
			json_t *body;
			if (!id || json_object_get(have, id))
				continue;
			body = missing_nonces(r, id);
			if (!body ||
				json_array_append_new(kept,
					json_pack("{s:o, s:o}", "path",
						json_sprintf("nonces/%s", id), "body", body)) < 0)
				return -ENOMEM;
		}
	}
	return 0;
}

static int
prepare(struct restore *r, json_t *extra)
{
	size_t records = json_array_size(r->backup.records), more;
	struct uuid generation;
	int err = uuid_generate(&generation);

	if (err == 0)
		err = add_missing_nonces(r, extra);
	if (err < 0)
		return err;
	uuid_format(&generation, r->generation);
	more = json_array_size(extra);
	r->changes = calloc(records + more, sizeof(*r->changes));
	if (!r->changes)
		return -ENOMEM;
	for (size_t i = 0; err == 0 && i < records + more; i++) {
		json_t *record = i < records ? json_array_get(r->backup.records, i)
					     : json_array_get(extra, i - records);
		struct sealed_change *c = &r->changes[r->count++];
		c->path = json_string_value(json_object_get(record, "path"));
		c->body = json_object_get(record, "body");
		if (i < records)
			err = change_record(r, c->path, c->body);
	}
	return err;
}

/* ---- writing ---- */

static void
work_path(const struct restore *r, const char *name, char ret_path[PATH_MAX])
{
	if (snprintf(ret_path, PATH_MAX, "%s/%s", r->work_dir, name) >= PATH_MAX)
		ret_path[0] = '\0';
}

static int
make_work_dir(struct restore *r)
{
	static const char *const leftovers[] = { "metadata.db", "metadata.db-wal",
		"metadata.db-shm", "accepted", "accepted.new" };
	char path[PATH_MAX];

	if (snprintf(r->work_dir, sizeof(r->work_dir), "%s/" WORK_DIR, r->n->part.state_dir) >=
		(int)sizeof(r->work_dir))
		return -ENAMETOOLONG;
	for (size_t i = 0; i < STR_COUNT(leftovers); i++) {
		work_path(r, leftovers[i], path);
		unlink(path);
	}
	return mkdir(r->work_dir, 0700) < 0 && errno != EEXIST ? -errno : 0;
}

/* The file with the number first: it may be ahead of a store, but a store without it is held. */
static int
move_in_place(const struct restore *r)
{
	static const char *const names[] = { "accepted", "metadata.db" };
	char from[PATH_MAX], to[PATH_MAX];

	for (size_t i = 0; i < STR_COUNT(names); i++) {
		work_path(r, names[i], from);
		if (snprintf(to, sizeof(to), "%s/%s", r->n->part.state_dir, names[i]) >=
			(int)sizeof(to))
			return -ENAMETOOLONG;
		if (rename(from, to) < 0)
			return -errno;
	}
	rmdir(r->work_dir);
	return 0;
}

static int
write_records(struct restore *r, const struct sealed_config *config)
{
	struct sealed_config work = *config;
	char error[JSON_ERROR_SIZE] = "";
	struct store *store = NULL;
	int err = make_work_dir(r);

	if (err == 0)
		err = store_open_sqlite(r->work_dir, true, &store);
	work.store = store;
	work.state_dir = r->work_dir;
	if (err == 0)
		err = sealed_restore(&work, r->changes, r->count, r->above, error);
	store_freep(&store); /* the file alone is whole behind this */
	if (err == 0)
		err = move_in_place(r);
	if (err < 0)
		log_error("nothing was restored: %s", *error ? error : kekd_strerror(err));
	return err;
}

/* ---- the audit log ---- */

/* revision: the store's number when it is over, 0 before: the log is to reach as far as it. */
static int
record(const struct restore *r, enum audit_type type, int err, uint64_t revision)
{
	_cleanup_(json_freep) json_t *detail = json_pack("{s:s, s:s, s:I, s:I}", "backup",
		r->backup.created, "generation", r->generation, "records", (json_int_t)r->count,
		"revision", (json_int_t)r->backup.revision);
	struct audit_record a = {
		.type = type,
		.time_us = clock_real_us(),
		.operation = "cluster.restore",
		.code = err < 0 ? kekd_err_info(err)->code : NULL,
		.revision = revision,
		.detail = detail,
	};

	return audit_append(r->n->audit, &a);
}

static void
tell_result(const struct restore *r)
{
	log_info("restored %zu keys, %zu clients from the backup of %s: generation %s",
		backup_count(&r->backup, "keys/"), backup_count(&r->backup, "clients/"),
		r->backup.created, r->generation);
	if (r->since.continuous && r->since.changes == 0)
		log_info("the audit log has no change since then");
	else if (r->since.continuous)
		log_warning("the audit log has %llu changes since then, which are lost: they are "
			    "listed above; repeat those that count",
			(unsigned long long)r->since.changes);
	else
		log_warning("the audit log does not tell all that happened since the backup: %s. "
			    "What changed since is not known; each version's budget of IVs counts "
			    "as half spent, or as spent if the backup is older than a day: rotate "
			    "the keys",
			r->since.fault);
	log_warning("start kekd: it serves, and makes no change before \"kekctl cluster confirm\"");
}

static int
write_audited(struct restore *r, const struct sealed_config *config)
{
	uint64_t revision = 0;
	int err;

	if (record(r, AUDIT_INTENT, 0, 0) != 0) {
		log_error("%s: the audit log cannot be written, so nothing was restored",
			r->n->part.audit_dir);
		return CHILD_EXIT_OPERATOR;
	}
	err = write_records(r, config);
	if (err == 0 && sealed_accepted(r->n->part.state_dir, r->n->part.cluster, &revision) < 0)
		revision = 0;
	if (record(r, AUDIT_OUTCOME, err, revision) != 0)
		log_warning(
			"%s: the audit log has no record of how this ended", r->n->part.audit_dir);
	return err < 0 ? CHILD_EXIT_FAILED : CHILD_EXIT_OK;
}

/* ---- the tasks ---- */

static void
restore_free(struct restore *r)
{
	since_free(&r->since);
	backup_free(&r->backup);
	free(r->changes);
}

static void
read_since(struct restore *r)
{
	const struct since_from from = {
		.dir = r->n->part.audit_dir,
		.head = r->backup.audit.head,
		.sequence = r->backup.audit.sequence,
		.revision = r->backup.revision,
		.accepted = r->accepted,
	};

	since_read(&r->since, &from, r->n->part.task == NET_RESTORE ? stdout : NULL);
}

/* Everything but telling of it. extra: keeps what the backup does not. */
static int
restore(struct restore *r, json_t *extra)
{
	struct sealed_config config = node_sealed_settings(r->n);
	int status = read_backup(r), err;

	if (status == CHILD_EXIT_OK)
		status = check_backup(r, &config);
	if (status == CHILD_EXIT_OK)
		status = check_empty(r);
	if (status == CHILD_EXIT_OK)
		status = find_number(r);
	if (status != CHILD_EXIT_OK)
		return status;
	read_since(r);
	err = prepare(r, extra);
	if (err < 0) {
		log_error("the backup's records cannot be used: %s", kekd_strerror(err));
		return CHILD_EXIT_FAILED;
	}
	return write_audited(r, &config);
}

int
node_restore(struct node *n)
{
	_cleanup_(json_freep) json_t *extra = json_array();
	struct restore r = { .n = n };
	int status;

	if (n->part.store.endpoints) {
		log_error("a backup is not restored into etcd: restore it with store.engine: "
			  "sqlite, look at it, then \"kekd migrate --to etcd\"");
		return CHILD_EXIT_OPERATOR;
	}
	status = restore(&r, extra);
	if (status == CHILD_EXIT_OK)
		tell_result(&r);
	restore_free(&r);
	return status;
}

int
node_drill(struct node *n)
{
	_cleanup_(json_freep) json_t *extra = json_array();
	struct restore r = { .n = n };
	int status = restore(&r, extra);

	if (status == CHILD_EXIT_OK)
		status = node_prove_backup(n, &r.backup);
	restore_free(&r);
	return status;
}
