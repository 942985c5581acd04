/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The sealed store's part in backups: every good record in order, a seal over a whole file, and
 * records that are sealed anew into an empty store under another generation.
 */
#include "sealed.h"

#include "kekd/err.h"
#include "kekd/secret.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define NUMBER_MAX (1ull << 62)

/* ---- reading all ---- */

static int
each_of_page(struct sealed *s, const struct store_page *p, sealed_each_fn *fn, void *user)
{
	struct check checks[SEAL_BATCH] = { 0 };
	int err = seal_check(s, p->records, p->count, checks);

	for (size_t i = 0; err == 0 && i < p->count; i++) {
		const char *path = p->records[i].path;
		const struct envelope *e = &checks[i].envelope;
		if (strcmp(path, COMMIT_PATH) == 0)
			continue;
		if (!checks[i].verified || !seal_is_current(s, path, e))
			err = KEKD_ERECORD;
		else
			err = fn(path, e->body, e->commit, user);
	}
	seal_free_checks(checks, p->count);
	return err;
}

int
sealed_each(struct sealed *s, sealed_each_fn *fn, void *user)
{
	char after[STORE_PATH_MAX + 1] = "";
	bool more = true;
	int err = s->hold == SEALED_HOLD_NONE ? 0 : KEKD_EHELD;

	while (err == 0 && more) {
		struct store_page p = { 0 };
		err = s->config.store->engine->list(
			s->config.store, "", *after ? after : NULL, SEAL_BATCH, &p);
		if (err == 0)
			err = each_of_page(s, &p, fn, user);
		if (err == 0 && p.count > 0)
			strcpy(after, p.records[p.count - 1].path);
		more = p.more;
		store_page_free(&p);
	}
	return err;
}

/* ---- the seal of a file ---- */

int
sealed_digest(struct sealed *s, const uint8_t digest[SEALED_DIGEST_SIZE], struct uuid *ret_key,
	uint8_t ret_seal[SEALED_DIGEST_SIZE])
{
	struct seal_job job = { .key = s->keys_count > 0 ? seal_current_key(s) : NULL };
	int err;

	if (!job.key)
		return KEKD_EHELD;
	memcpy(job.digest, digest, SEAL_SIZE);
	err = seal_make_sure(s, &job, 1);
	if (err < 0)
		return err;
	*ret_key = job.key->id;
	memcpy(ret_seal, job.seal, SEAL_SIZE);
	return 0;
}

int
sealed_check_digest(const struct sealed_config *config, const struct uuid *key,
	const uint8_t digest[SEALED_DIGEST_SIZE], const uint8_t seal[SEALED_DIGEST_SIZE])
{
	struct sealed *s = seal_new(config);
	struct seal_job job = { .key = NULL };
	int err;

	if (!s)
		return -ENOMEM;
	memcpy(job.digest, digest, SEAL_SIZE);
	err = seal_probe_key(s, key);
	if (err == 0) {
		job.key = &s->keys[0];
		err = seal_make(s, &job, 1);
	}
	if (err == 0 && !secret_equal(job.seal, SEAL_SIZE, seal, SEAL_SIZE))
		err = KEKD_ERECORD;
	sealed_freep(&s);
	return err;
}

/* ---- writing all ---- */

int
sealed_accepted(const char *state_dir, const char *cluster, uint64_t *ret_number)
{
	struct accepted a;
	int err = accepted_read(state_dir, &a);

	*ret_number = 0;
	if (err == -ENOENT || (err == 0 && strcmp(a.cluster, cluster) != 0))
		return 0;
	if (err == 0 && a.number < NUMBER_MAX)
		*ret_number = a.number;
	return err;
}

/* From first on, as many records as one commit takes, of the active's or of the nodes' own. The
 * number of records looked at. */
static size_t
choose(const struct sealed_change *all, size_t count, bool own,
	struct sealed_change ret_some[STORE_OPS_MAX - 1], size_t *ret_count)
{
	size_t i = 0, n = 0;

	for (; i < count && n < STORE_OPS_MAX - 1; i++)
		if (path_is_node_owned(all[i].path) == own)
			ret_some[n++] = all[i];
	*ret_count = n;
	return i;
}

/* In halves where the engine takes only so many bytes at once. */
static int
write_some(struct sealed *s, const struct sealed_change *some, size_t count, bool own)
{
	uint64_t number;
	bool moved;
	int err = own ? seal_put_own_first(s, some, count)
		      : seal_commit_once(s, some, count, &number, &moved);

	if (err != KEKD_ETOOLARGE || count < 2)
		return err;
	err = write_some(s, some, count / 2, own);
	return err < 0 ? err : write_some(s, some + count / 2, count - count / 2, own);
}

static int
write_all(struct sealed *s, const struct sealed_change *changes, size_t count, bool own)
{
	struct sealed_change some[STORE_OPS_MAX - 1];
	size_t n;
	int err = 0;

	for (size_t i = 0; err == 0 && i < count;) {
		i += choose(changes + i, count - i, own, some, &n);
		if (n > 0)
			err = write_some(s, some, n, own);
	}
	return err;
}

int
sealed_restore(const struct sealed_config *config, const struct sealed_change *changes,
	size_t count, uint64_t above, char ret_error[JSON_ERROR_SIZE])
{
	const json_t *cluster = NULL;
	struct sealed *s;
	int err;

	for (size_t i = 0; i < count; i++)
		if (strcmp(changes[i].path, CLUSTER_PATH) == 0)
			cluster = changes[i].body;
	if (!cluster || above >= NUMBER_MAX)
		return json_say(KEKD_EINVALID, ret_error,
			"it has no record \"cluster\", or a commit "
			"number that kekd cannot have given");
	s = seal_new(config);
	if (!s)
		return json_say(-ENOMEM, ret_error, "no memory");
	s->number = above;
	err = seal_adopt_cluster(s, cluster);
	if (err == 0)
		err = write_all(s, changes, count, false);
	if (err == 0)
		err = write_all(s, changes, count, true);
	if (err == 0 && !s->accepted_ok)
		err = KEKD_ESTORE;
	if (err < 0)
		json_say(err, ret_error, "the records cannot be written: %s", kekd_strerror(err));
	sealed_freep(&s);
	return err;
}
