/* SPDX-License-Identifier: Apache-2.0 */
/* The sealed store: opening, reading, and what other threads see of it. */
#include "sealed.h"

#include "kekd/err.h"
#include "kekd/log.h"
#include "kekd/secret.h"
#include "kekd/str.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

void
seal_entry_free(void *entry)
{
	struct sealed_entry *e = entry;

	if (e)
		free(e->path);
	free(e);
}

struct sealed *
seal_new(const struct sealed_config *config)
{
	struct sealed *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->config = *config;
	pthread_mutex_init(&s->lock, NULL);
	return s;
}

static void
free_refused(char **paths, size_t count)
{
	for (size_t i = 0; i < count; i++)
		free(paths[i]);
	free(paths);
}

void
sealed_freep(struct sealed **s)
{
	if (!*s)
		return;
	pathmap_clear(&(*s)->map, seal_entry_free);
	free_refused((*s)->refused, (*s)->refused_count);
	pthread_mutex_destroy(&(*s)->lock);
	free(*s);
	*s = NULL;
}

/* ---- what other threads see ---- */

static size_t
count_refused(const struct sealed *s)
{
	size_t n = 0;

	for (size_t i = 0; i < s->map.count; i++)
		n += ((struct sealed_entry *)s->map.items[i])->refused;
	return n;
}

static size_t
count_there(const struct sealed *s)
{
	size_t n = 0;

	for (size_t i = 0; i < s->map.count; i++)
		n += ((struct sealed_entry *)s->map.items[i])->there;
	return n;
}

/* Fewer than there are without memory: the count in the status stays right. */
static char **
copy_refused(const struct sealed *s, size_t count, size_t *ret_copied)
{
	char **paths = count ? calloc(count, sizeof(*paths)) : NULL;
	size_t n = 0;

	for (size_t i = 0; paths && i < s->map.count && n < count; i++) {
		const struct sealed_entry *e = s->map.items[i];
		if (e->refused && (paths[n] = strdup(e->path)))
			n++;
	}
	*ret_copied = n;
	return paths;
}

static void
tell_key(const struct sealed *s, struct sealed_status *status)
{
	const struct seal_key *key = seal_current_key(s);

	uuid_format(&key->id, status->seal_key);
	if (key->token < s->config.tokens_count)
		snprintf(status->seal_token, sizeof(status->seal_token), "%s",
			s->config.tokens[key->token]);
}

void
seal_publish(struct sealed *s)
{
	struct sealed_status status = {
		.number = s->number,
		.accepted = s->accepted_ok ? s->accepted.number : 0,
		.hold = s->hold,
		.good = s->good,
		.records = count_there(s),
		.refused = count_refused(s),
	};
	char **paths, **old;
	size_t copied, old_count;

	memcpy(status.generation, s->generation, sizeof(status.generation));
	if (s->hold != SEALED_HOLD_NONE) {
		status.held.number = s->seen_number;
		status.held.whole = s->whole;
		memcpy(status.held.generation, s->seen.generation, sizeof(s->seen.generation));
	}
	status.seal_keys = s->keys_count;
	status.old_seals = s->keys_count > 1 ? seal_count_old(s) : 0;
	if (s->keys_count > 0)
		tell_key(s, &status);
	paths = copy_refused(s, status.refused, &copied);
	pthread_mutex_lock(&s->lock);
	s->status = status;
	old = s->refused;
	old_count = s->refused_count;
	s->refused = paths;
	s->refused_count = copied;
	pthread_mutex_unlock(&s->lock);
	free_refused(old, old_count);
	atomic_store(&s->shared_number, s->number);
}

void
sealed_status(struct sealed *s, struct sealed_status *ret_status)
{
	pthread_mutex_lock(&s->lock);
	*ret_status = s->status;
	pthread_mutex_unlock(&s->lock);
}

const struct sealed_counts *
sealed_counts(const struct sealed *s)
{
	return &s->counts;
}

uint64_t
sealed_number(struct sealed *s)
{
	return atomic_load(&s->shared_number);
}

int
sealed_refused(struct sealed *s, size_t i, char ret_path[STORE_PATH_MAX + 1])
{
	int err = -ENOENT;

	pthread_mutex_lock(&s->lock);
	if (i < s->refused_count) {
		snprintf(ret_path, STORE_PATH_MAX + 1, "%s", s->refused[i]);
		err = 0;
	}
	pthread_mutex_unlock(&s->lock);
	return err;
}

static const char *const hold_texts[] = {
	[SEALED_HOLD_NONE] = "it is not held",
	[SEALED_HOLD_BEHIND] =
		"it is older than what this node last accepted, or another copy: put back "
		"the newest copy of the database; an etcd that was restored on purpose is "
		"confirmed by \"kekctl cluster confirm\"",
	[SEALED_HOLD_STATE] =
		"a record was deleted, inserted or put back by another program: put the "
		"records back as they were, or the newest copy of the database",
	[SEALED_HOLD_COMMIT] =
		"the record \"commit\" or \"cluster\" is missing or its seal does not verify: "
		"put back the newest copy of the database",
	[SEALED_HOLD_NO_ACCEPTED] =
		"the file \"accepted\" in the state directory is missing, does not "
		"verify, or is of another cluster or generation: put it back",
	[SEALED_HOLD_FOREIGN] =
		"etcd is another cluster than the one that was accepted: point "
		"store.endpoints at the right one, or run \"kekctl cluster confirm\" if it was "
		"restored on purpose",
};

const char *
sealed_hold_text(enum sealed_hold hold)
{
	return (size_t)hold < STR_COUNT(hold_texts) ? hold_texts[hold] : "it is held";
}

/* ---- the accepted file ---- */

void
seal_fill_accepted(
	const struct sealed *s, uint64_t number, const uint8_t state[SEAL_SIZE], struct accepted *a)
{
	*a = (struct accepted){ .number = number, .key = seal_current_key(s)->id };
	snprintf(a->cluster, sizeof(a->cluster), "%s", s->config.cluster);
	memcpy(a->generation, s->generation, sizeof(a->generation));
	memcpy(a->state, state, SEAL_SIZE);
}

/* The commit is durable already: a failure here only weakens what protects from an older copy. */
void
seal_write_accepted(struct sealed *s, const struct accepted *a)
{
	int err = accepted_write(s->config.state_dir, a);

	if (err < 0 && !s->accept_failed)
		log_error("%s/accepted: cannot be written: %s: free space and make the directory "
			  "writable; kekd tries again",
			s->config.state_dir, kekd_strerror(err));
	s->accept_failed = err < 0;
	if (err == 0) {
		s->accepted = *a;
		s->accepted_ok = true;
	}
}

int
seal_accept(struct sealed *s, uint64_t number, const uint8_t state[SEAL_SIZE])
{
	struct seal_job job = { .key = seal_current_key(s) };
	struct accepted a;
	int err;

	seal_fill_accepted(s, number, state, &a);
	err = accepted_digest(&a, job.digest);
	if (err == 0)
		err = seal_make_sure(s, &job, 1);
	if (err < 0)
		return err;
	memcpy(a.seal, job.seal, SEAL_SIZE);
	seal_write_accepted(s, &a);
	return 0;
}

/* Sets accepted_ok. An error only when the token cannot be asked. */
static int
verify_accepted(struct sealed *s)
{
	struct seal_job job = { .key = seal_find_key(s, &s->accepted.key) };
	int err;

	if (!job.key)
		return 0;
	err = accepted_digest(&s->accepted, job.digest);
	if (err == 0)
		err = seal_make(s, &job, 1);
	if (err < 0)
		return err;
	s->accepted_ok = secret_equal(job.seal, SEAL_SIZE, s->accepted.seal, SEAL_SIZE) &&
			 strcmp(s->accepted.cluster, s->config.cluster) == 0;
	return 0;
}

/* ---- opening ---- */

static void
read_succeeds(const json_t *item, struct seal_lineage *l)
{
	const char *generation = json_string_value(json_object_get(item, "generation"));
	const char *store = json_string_value(json_object_get(item, "store"));
	json_int_t number = json_integer_value(json_object_get(item, "number"));
	struct seal_succeeds *next = &l->succeeds[l->count];

	if (!generation || strlen(generation) != UUID_TEXT_SIZE - 1 || number <= 0)
		return;
	memcpy(next->generation, generation, UUID_TEXT_SIZE);
	next->number = (uint64_t)number;
	l->count++;
	snprintf(l->store, sizeof(l->store), "%s", store ? store : "");
	l->raising = json_is_true(json_object_get(item, "raising"));
}

void
seal_read_lineage(const json_t *cluster, struct seal_lineage *ret_lineage)
{
	const char *generation = json_string_value(json_object_get(cluster, "generation"));
	const json_t *list = json_object_get(cluster, "succeeds");
	struct seal_lineage l = { 0 };

	if (generation && strlen(generation) == UUID_TEXT_SIZE - 1)
		memcpy(l.generation, generation, UUID_TEXT_SIZE);
	for (size_t i = 0; i < json_array_size(list) && l.count < SEAL_SUCCEEDS_MAX; i++)
		read_succeeds(json_array_get(list, i), &l);
	*ret_lineage = l;
}

int
seal_adopt_cluster(struct sealed *s, const json_t *body)
{
	const char *generation = json_string_value(json_object_get(body, "generation"));

	if (!generation || strlen(generation) != UUID_TEXT_SIZE - 1)
		return KEKD_ERECORD;
	memcpy(s->generation, generation, UUID_TEXT_SIZE);
	return seal_take_keys(s, body);
}

static int
explain(int err, const char *what, char ret_error[JSON_ERROR_SIZE])
{
	if (err < 0)
		snprintf(ret_error, JSON_ERROR_SIZE, "%s: %s", what, kekd_strerror(err));
	return err;
}

static int
get(struct sealed *s, const char *path, struct store_record *ret_record)
{
	return s->config.store->engine->get(s->config.store, path, ret_record);
}

static int
find_empty(struct sealed *s, char ret_error[JSON_ERROR_SIZE])
{
	struct store_page p = { 0 };
	int err = s->config.store->engine->list(s->config.store, "", NULL, 1, &p);

	if (err == 0 && p.count == 0) {
		snprintf(ret_error, JSON_ERROR_SIZE,
			"the metadata store is empty: run \"kekd init\" for a new cluster, or put "
			"back its database");
		err = -ENOENT;
	} else {
		explain(err, "the metadata store cannot be read", ret_error);
	}
	store_page_free(&p);
	return err;
}

static int
check_cluster_name(struct sealed *s, const json_t *body, char ret_error[JSON_ERROR_SIZE])
{
	const char *name = json_string_value(json_object_get(body, "name"));

	if (name && strcmp(name, s->config.cluster) == 0)
		return 0;
	snprintf(ret_error, JSON_ERROR_SIZE,
		"the metadata store is of cluster \"%.64s\", the configuration says \"%.64s\": "
		"correct one of them",
		name ? name : "", s->config.cluster);
	return KEKD_EINVALID;
}

/* The callee hears of each record as it is read: the whole state is known only at the end. */
static int
take_in(struct sealed *s, const struct store_record *r, const struct check *c)
{
	struct sealed_entry *e = seal_observe(s, r->path, r->revision, c);
	bool tell = strcmp(r->path, COMMIT_PATH) != 0 && s->load;

	if (!e)
		return -ENOMEM;
	if (e->verified) {
		seal_set_good(e);
	} else {
		e->refused = true;
		seal_log_refused(s, e);
	}
	if (tell)
		s->load(r->path, e->verified ? c->envelope.body : NULL, e->verified ? e->commit : 0,
			s->user);
	return 0;
}

/* The list of keys in the record that they seal: it counts only once it has verified by them. */
static int
load_cluster(struct sealed *s, const struct store_record *r, char ret_error[JSON_ERROR_SIZE])
{
	struct check c = { 0 };
	int err = seal_check(s, r, 1, &c); /* no keys yet: reads the envelope */

	if (err == 0 && c.readable && seal_take_keys(s, c.envelope.body) == 0) {
		seal_free_checks(&c, 1);
		err = seal_check(s, r, 1, &c);
	}
	if (err == KEKD_EOBJECT)
		snprintf(ret_error, JSON_ERROR_SIZE,
			"the cluster's seal key is in none of the configured tokens: configure the "
			"token that has it");
	else
		explain(err, "the token cannot verify the metadata store", ret_error);
	if (err == 0 && c.verified)
		err = check_cluster_name(s, c.envelope.body, ret_error);
	if (err == 0 && (!c.verified || seal_adopt_cluster(s, c.envelope.body) < 0))
		s->keys_count = 0;
	if (err == 0)
		err = explain(take_in(s, r, &c), "the cluster record", ret_error);
	seal_free_checks(&c, 1);
	return err;
}

/* Without a good cluster record everything is held; the accepted file may still name the key, so
 * that the rest can be told apart. */
static int
find_keys(struct sealed *s, bool have_accepted, char ret_error[JSON_ERROR_SIZE])
{
	int err = 0;

	if (s->keys_count == 0 && have_accepted)
		err = seal_probe_key(s, &s->accepted.key);
	if (err == KEKD_EOBJECT)
		err = 0;
	if (err == 0 && have_accepted)
		err = verify_accepted(s);
	return explain(err, "the token cannot verify the accepted file", ret_error);
}

static int
load_page(struct sealed *s, struct seal_page *p)
{
	const struct store_page *page = &p->page;
	int err = seal_verify_checks(s, page->records, page->count, p->checks);

	for (size_t i = 0; err == 0 && i < page->count; i++)
		if (strcmp(page->records[i].path, CLUSTER_PATH) != 0)
			err = take_in(s, &page->records[i], &p->checks[i]);
	return err;
}

static int
load_pages(struct sealed *s, struct sealed_ahead *a)
{
	struct seal_page *p;
	int err;

	while ((err = seal_next_page(a, &p)) == 0 && p) {
		err = load_page(s, p);
		seal_page_free(p);
		if (err < 0)
			break;
	}
	return err;
}

static int
load_all(struct sealed *s)
{
	struct sealed_ahead *own = NULL;
	int err = 0;

	if (!s->config.ahead)
		err = sealed_ahead_open(s->config.store, &own);
	if (err == 0)
		err = load_pages(s, own ? own : s->config.ahead);
	s->config.ahead = NULL;
	sealed_ahead_freep(&own);
	return err;
}

int
seal_open_all(struct sealed *s, char ret_error[JSON_ERROR_SIZE])
{
	struct store_record r = { 0 };
	int accepted = accepted_read(s->config.state_dir, &s->accepted);
	int err = get(s, CLUSTER_PATH, &r);

	if (err == -ENOENT)
		err = find_empty(s, ret_error);
	else if (err < 0)
		explain(err, "the metadata store cannot be read", ret_error);
	else
		err = load_cluster(s, &r, ret_error);
	store_record_free(&r);
	if (err == 0)
		err = find_keys(s, accepted == 0, ret_error);
	if (err == 0)
		err = explain(load_all(s), "the metadata store cannot be verified", ret_error);
	if (err == 0)
		err = explain(seal_assess(s), "the metadata store cannot be verified", ret_error);
	return err;
}

int
sealed_open(const struct sealed_config *config, sealed_load_fn *load, void *user,
	struct sealed **ret_sealed, char ret_error[JSON_ERROR_SIZE])
{
	struct sealed *s = seal_new(config);
	int err;

	if (!s)
		return explain(-ENOMEM, "opening the metadata store", ret_error);
	s->load = load;
	s->user = user;
	err = seal_open_all(s, ret_error);
	s->opened = true;
	/* What was written while it was read, and the accepted file if a crash kept it behind. */
	if (err == 0)
		err = explain(sealed_poll(s), "the metadata store cannot be verified", ret_error);
	if (err < 0) {
		sealed_freep(&s);
		return err;
	}
	*ret_sealed = s;
	return 0;
}

/* ---- reading ---- */

void
sealed_record_free(struct sealed_record *r)
{
	free(r->path);
	json_decref(r->body);
	*r = (struct sealed_record){ 0 };
}

static int
take_record(struct sealed *s, const struct store_record *r, const struct check *c,
	struct sealed_record *ret_record)
{
	struct sealed_record out = { .commit = c->envelope.commit };

	if (!c->verified || !seal_is_current(s, r->path, &c->envelope)) {
		seal_mark_dirty(s, r->path);
		return KEKD_ERECORD;
	}
	out.path = strdup(r->path);
	if (!out.path)
		return -ENOMEM;
	out.body = json_incref(c->envelope.body);
	*ret_record = out;
	return 0;
}

int
sealed_get(struct sealed *s, const char *path, struct sealed_record *ret_record)
{
	const struct sealed_entry *e = pathmap_find(&s->map, path);
	struct store_record r = { 0 };
	struct check c = { 0 };
	int err = get(s, path, &r);

	if (err == -ENOENT && e && e->known) {
		seal_mark_dirty(s, path);
		return path_is_leased(path) ? -ENOENT : KEKD_ERECORD;
	}
	if (err < 0)
		return err;
	err = seal_check(s, &r, 1, &c);
	if (err == 0)
		err = take_record(s, &r, &c, ret_record);
	seal_free_checks(&c, 1);
	store_record_free(&r);
	return err;
}
