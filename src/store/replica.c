/* SPDX-License-Identifier: Apache-2.0 */
/* The replica's file: what is written there beside the records, and when it is refused. */
#include "replica.h"

#include "kekd/err.h"
#include "kekd/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SPARE_NAME_SIZE (sizeof("spare/") + STORE_PATH_MAX)

static int
read_number(struct sqlite_store *q, const char *name, uint64_t *ret_number)
{
	char text[SQLITE_META_SIZE];
	int err = sqlite_meta_text(q, name, text);

	*ret_number = err == 0 ? strtoull(text, NULL, 10) : 0;
	return err == -ENOENT ? 0 : err;
}

static int
read_meta(struct replica *r, bool *ret_ours)
{
	int err = sqlite_meta_text(r->db, SQLITE_REPLICA_OF, r->of);

	*ret_ours = err == 0;
	if (err == -ENOENT) {
		r->of[0] = '\0';
		err = 0;
	}
	if (err == 0)
		err = read_number(r->db, "revision", &r->position);
	if (err == 0)
		err = read_number(r->db, "synced", &r->synced_us);
	return err;
}

static int
is_empty(struct replica *r, bool *ret_empty)
{
	struct store_page p = { 0 };
	int err = sqlite_list(r->db, "", NULL, 1, &p);

	*ret_empty = p.count == 0;
	store_page_free(&p);
	return err;
}

static int
claim(struct replica *r, bool ours, bool empty)
{
	if (ours)
		return 0;
	if (empty)
		return replica_write(r, NULL, 0);
	log_error("%s: is the store of a single node, not a replica of what etcd has: run \"kekd "
		  "migrate --to etcd\", or move it away",
		r->db->path);
	return KEKD_EINVALID;
}

int
replica_open(const char *dir, struct replica *ret_replica, bool *ret_empty)
{
	struct replica r = { 0 };
	bool ours = false;
	int err = sqlite_open(dir, true, &r.db);

	if (err < 0)
		return err;
	err = read_meta(&r, &ours);
	if (err == 0)
		err = is_empty(&r, ret_empty);
	if (err == 0)
		err = claim(&r, ours, *ret_empty);
	if (err < 0) {
		replica_close(&r);
		return err;
	}
	*ret_replica = r;
	return 0;
}

void
replica_close(struct replica *r)
{
	struct store *s = r->db ? &r->db->store : NULL;

	store_freep(&s);
	r->db = NULL;
}

static int
write_all(struct replica *r, const struct replica_change *changes, size_t count)
{
	int err = 0;

	for (size_t i = 0; err == 0 && i < count; i++)
		err = sqlite_put(r->db, changes[i].path, changes[i].revision, changes[i].body,
			changes[i].len);
	if (err == 0)
		err = sqlite_meta_set(r->db, SQLITE_REPLICA_OF, r->of, 0);
	if (err == 0)
		err = sqlite_meta_set(r->db, "revision", NULL, (int64_t)r->position);
	if (err == 0)
		err = sqlite_meta_set(r->db, "synced", NULL, (int64_t)r->synced_us);
	return err;
}

int
replica_write(struct replica *r, const struct replica_change *changes, size_t count)
{
	int err = sqlite_check_in_place(r->db);

	if (err == 0)
		err = sqlite_run(r->db, BEGIN_WRITE, "beginning a change of the replica");
	if (err < 0)
		return err;
	err = write_all(r, changes, count);
	if (err == 0)
		err = sqlite_run(r->db, COMMIT, "committing a change of the replica");
	if (err < 0)
		sqlite_roll_back(r->db);
	else
		r->db->logged = SQLITE_OK;
	return err;
}

int
replica_revision(struct replica *r, const char *path, uint64_t *ret_revision)
{
	sqlite3_stmt *st = r->db->statements[RECORD_REVISION];
	int code, err = 0;

	sqlite_bind_path(st, 1, path);
	code = sqlite3_step(st);
	*ret_revision = code == SQLITE_ROW ? (uint64_t)sqlite3_column_int64(st, 0) : 0;
	if (code != SQLITE_ROW && code != SQLITE_DONE)
		err = sqlite_failed(r->db, "reading a revision");
	sqlite_done(st);
	return err;
}

static void
spare_name(const char *name, char ret_name[SPARE_NAME_SIZE])
{
	snprintf(ret_name, SPARE_NAME_SIZE, "spare/%s", name);
}

int
replica_spare(struct replica *r, const char *name, uint64_t *ret_number)
{
	char full[SPARE_NAME_SIZE];

	spare_name(name, full);
	return read_number(r->db, full, ret_number);
}

int
replica_set_spare(struct replica *r, const char *name, uint64_t number)
{
	char full[SPARE_NAME_SIZE];

	spare_name(name, full);
	return sqlite_meta_set(r->db, full, NULL, (int64_t)number);
}
