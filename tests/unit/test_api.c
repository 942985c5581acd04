/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The resources between router and lifecycle: what a request becomes, and what is answered. The
 * keyring and the table of clients are real; the server, the lifecycle and the store are played
 * here.
 */
#include "../../src/api/api.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

struct fixture {
	struct node node;
	struct request request;
	const char *after, *limit;
	/* the answer */
	unsigned answers;
	int err, status;
	json_t *json;
	char detail[512];
	/* what the lifecycle or the store was asked, and what it is to say */
	unsigned asked;
	int next_err;
	uint64_t expected;
	unsigned version;
	bool enabled, deleted;
	char path[80], proven[STR_NAME_MAX + 1];
	const char *refused;	/* path of the one record that the store refuses */
	const char *unreadable; /* the same that this release cannot read */
	unsigned uses;		/* one more whenever the evidence is looked at */
	bool counting;		/* the evidence's digest is their number */
};

static struct fixture *now; /* of the running test */

/* ---- the server ---- */

const char *
request_query(struct request *r, const char *name)
{
	(void)r;
	return strcmp(name, "after") == 0 ? now->after : now->limit;
}

void
request_answer_json(struct request *r, int status, json_t *value)
{
	(void)r;
	assert_non_null(value);
	now->answers++;
	now->status = status;
	json_decref(now->json);
	now->json = value;
}

void
request_fail(struct request *r, int err, const char *format, ...)
{
	va_list ap;

	(void)r;
	va_start(ap, format);
	vsnprintf(now->detail, sizeof(now->detail), format, ap);
	va_end(ap);
	now->answers++;
	now->err = err;
	now->status = kekd_err_info(err)->http_status;
}

/* ---- the node, the lifecycle and the store ---- */

int
node_needed(struct node *n, const struct key *k, const struct key_version *v,
	char ret_error[LIFECYCLE_ERROR_SIZE])
{
	(void)n, (void)k, (void)v, (void)ret_error;
	return 0;
}

bool
node_doubts_snapshots(struct node *n, char ret_path[STORE_PATH_MAX + 1])
{
	(void)n, (void)ret_path;
	return false;
}

uint64_t
node_seen_s(const struct node *n)
{
	return n->seen_s;
}

int
node_seen_change(struct node *n, struct sealed_change *ret_change)
{
	(void)n, (void)ret_change;
	return -ENOMEM;
}

void
node_seen_stored(struct node *n, const struct sealed_change *change)
{
	(void)n, (void)change;
}

void
node_count_proven(struct node *n, const char *key)
{
	(void)n;
	snprintf(now->proven, sizeof(now->proven), "%s", key);
}

void
node_count_gone(struct node *n, const char *key)
{
	(void)n, (void)key;
}

void
node_watch_destroy(struct node *n, const struct key *k)
{
	(void)n, (void)k;
}

void
node_cluster(struct node *n, struct cluster *ret_cluster)
{
	*ret_cluster = n->cluster;
}

int
node_cluster_change(struct node *n, struct cluster *next,
	const struct sealed_change *with __attribute__((unused)))
{
	n->cluster = *next;
	return 0;
}

enum node_role
node_role(struct node *n)
{
	(void)n;
	return ROLE_SINGLE;
}

const char *
node_role_name(enum node_role role)
{
	(void)role;
	return "single";
}

uint64_t
node_epoch(const struct node *n)
{
	(void)n;
	return 0;
}

void
node_leader(struct node *n, struct http_active *ret_active)
{
	(void)n, (void)ret_active;
}

bool
node_can_lead(struct node *n, char ret_why[NODE_REASON_SIZE])
{
	(void)n;
	*ret_why = '\0';
	return true;
}

json_t *
node_presence(struct node *n)
{
	(void)n;
	return json_pack("{s:i}", "level", 1);
}

json_t *
node_member_copy(struct node *n, const char *member, const char *part)
{
	(void)n, (void)member, (void)part;
	return NULL;
}

json_t *
node_peer(struct node *n, const char *name)
{
	(void)n, (void)name;
	return NULL;
}

int
node_step_down(struct node *n, unsigned pause_s)
{
	(void)n, (void)pause_s;
	return KEKD_ENOTACTIVE;
}

int
node_promote(struct node *n, char ret_error[JSON_ERROR_SIZE])
{
	(void)n, (void)ret_error;
	return KEKD_ESTATE;
}

static int
asked(const char *name, struct key **ret_key, char *ret_error)
{
	struct key *k = keyring_find(now->node.keyring, name);

	now->asked++;
	if (now->next_err) {
		snprintf(ret_error, LIFECYCLE_ERROR_SIZE, "told by the lifecycle");
		key_unrefp(&k);
		return now->next_err;
	}
	*ret_key = k;
	return 0;
}

static void add_key(struct fixture *f, const char *name, uint64_t commit);

int
lifecycle_create(struct lifecycle *l, const char *name, const struct lifecycle_settings *settings,
	const char *token, struct key **ret_key, char ret_error[LIFECYCLE_ERROR_SIZE])
{
	(void)l, (void)settings, (void)token;
	if (!now->next_err)
		add_key(now, name, 77);
	return asked(name, ret_key, ret_error);
}

int
lifecycle_rotate(struct lifecycle *l, const char *name, uint64_t expected, const char *token,
	struct key **ret_key, char ret_error[LIFECYCLE_ERROR_SIZE])
{
	(void)l, (void)token;
	now->expected = expected;
	return asked(name, ret_key, ret_error);
}

int
lifecycle_set_enabled(struct lifecycle *l, const char *name, uint64_t expected, unsigned version,
	bool enabled, struct key **ret_key, char ret_error[LIFECYCLE_ERROR_SIZE])
{
	(void)l;
	now->expected = expected;
	now->version = version;
	now->enabled = enabled;
	return asked(name, ret_key, ret_error);
}

int
lifecycle_make_primary(struct lifecycle *l, const char *name, uint64_t expected, unsigned version,
	struct key **ret_key, char ret_error[LIFECYCLE_ERROR_SIZE])
{
	(void)l;
	now->expected = expected;
	now->version = version;
	return asked(name, ret_key, ret_error);
}

int
lifecycle_set(struct lifecycle *l, const char *name, uint64_t expected,
	const struct lifecycle_settings *settings, struct key **ret_key,
	char ret_error[LIFECYCLE_ERROR_SIZE])
{
	(void)l, (void)settings;
	now->expected = expected;
	return asked(name, ret_key, ret_error);
}

const char *
lifecycle_default_token(const struct lifecycle *l, const struct key *k)
{
	(void)l, (void)k;
	return "main";
}

int
lifecycle_stage(struct lifecycle *l, const char *name, uint64_t expected, const char *token,
	struct key **ret_key, char ret_error[LIFECYCLE_ERROR_SIZE])
{
	(void)l, (void)token;
	now->expected = expected;
	return asked(name, ret_key, ret_error);
}

int
lifecycle_activate(struct lifecycle *l, const char *name, uint64_t expected, unsigned version,
	struct key **ret_key, char ret_error[LIFECYCLE_ERROR_SIZE])
{
	(void)l;
	now->expected = expected;
	now->version = version;
	return asked(name, ret_key, ret_error);
}

int
lifecycle_abandon(struct lifecycle *l, const char *name, uint64_t expected, unsigned version,
	struct key **ret_key, char ret_error[LIFECYCLE_ERROR_SIZE])
{
	(void)l;
	now->expected = expected;
	now->version = version;
	return asked(name, ret_key, ret_error);
}

uint64_t
node_rotation_floor_s(struct node *n)
{
	(void)n;
	return 3600;
}

bool
node_is_unreadable(struct node *n, const char *path)
{
	(void)n;
	return now->unreadable && strcmp(now->unreadable, path) == 0;
}

int
node_token(const struct node *n, const char *name)
{
	(void)n;
	return strcmp(name, "main") == 0 ? 0 : -ENOENT;
}

bool
hsm_token_ready(struct hsm *hsm, unsigned token)
{
	(void)hsm;
	return token == 0;
}

int
sealed_commit(
	struct sealed *s, const struct sealed_change *changes, size_t count, uint64_t *ret_number)
{
	(void)s;
	assert_int_equal(count, 1);
	now->asked++;
	now->expected = changes[0].expected;
	now->deleted = changes[0].body == NULL;
	snprintf(now->path, sizeof(now->path), "%s", changes[0].path);
	if (!now->next_err)
		*ret_number = 99;
	return now->next_err;
}

int
usage_version(struct usage *u, const struct uuid *version, struct usage_total *ret_total)
{
	(void)u, (void)version;
	*ret_total = (struct usage_total){ .refused = 3, .wrapped = ++now->uses };
	return 0;
}

bool
usage_is_fresh(struct usage *u, const char (*nodes)[STR_NAME_MAX + 1], size_t count,
	uint64_t now_us, char ret_text[160])
{
	(void)u, (void)nodes, (void)count, (void)now_us, (void)ret_text;
	return true;
}

int
usage_rows(
	struct usage *u, const struct uuid *version, struct usage_row **ret_rows, size_t *ret_count)
{
	(void)u, (void)version;
	*ret_rows = calloc(1, sizeof(**ret_rows));
	(*ret_rows)->counts[USAGE_WRAPPED].count = ++now->uses;
	*ret_count = 1;
	return 0;
}

int
usage_node(struct usage *u, size_t i, struct usage_node *ret_node)
{
	(void)u, (void)i, (void)ret_node;
	return -ENOENT;
}

const char *const usage_kind_names[USAGE_KINDS] = { "wrapped", "unwrapped", "refused", "failed" };

uint64_t
usage_incomplete_for(struct usage *u, uint64_t created_us)
{
	(void)u, (void)created_us;
	return 0;
}

int
usage_evidence(struct usage *u, const struct uuid *version, uint64_t created_us,
	char ret_hex[USAGE_EVIDENCE_SIZE])
{
	(void)u, (void)version, (void)created_us;
	now->uses++;
	if (now->counting)
		snprintf(ret_hex, USAGE_EVIDENCE_SIZE, "%u", now->uses);
	else
		strcpy(ret_hex, "seen");
	return 0;
}

int
hsm_call(struct hsm *hsm, struct hsm_op *ops, size_t count)
{
	(void)hsm, (void)ops, (void)count;
	fail();
	return 0;
}

int
hsm_drop_everywhere(struct hsm *hsm, unsigned token, const struct object_id *object)
{
	(void)hsm, (void)token, (void)object;
	fail();
	return 0;
}

uint64_t
sealed_number(struct sealed *s)
{
	(void)s;
	return 98;
}

int
sealed_refused(struct sealed *s, size_t i, char ret_path[STORE_PATH_MAX + 1])
{
	(void)s;
	if (i > 0 || !now->refused)
		return -ENOENT;
	snprintf(ret_path, STORE_PATH_MAX + 1, "%s", now->refused);
	return 0;
}

/* The keyring's nonce blocks name these; no handler here reserves one. */
int
sealed_get(struct sealed *s, const char *path, struct sealed_record *ret_record)
{
	(void)s, (void)path, (void)ret_record;
	return KEKD_ESTORE;
}

void
sealed_record_free(struct sealed_record *r)
{
	(void)r;
}

int
sealed_spare_put(struct sealed *s, const char *name, uint64_t number)
{
	(void)s, (void)name, (void)number;
	return 1;
}

int
sealed_spare_take(struct sealed *s, const char *name, uint64_t *ret_number)
{
	(void)s, (void)name;
	*ret_number = 0;
	return 0;
}

int
sealed_put_own(
	struct sealed *s, const char *path, uint64_t expected, json_t *body, uint64_t *ret_number)
{
	(void)s, (void)path, (void)expected, (void)body, (void)ret_number;
	return KEKD_ESTORE;
}

/* ---- fixtures ---- */

static void
add_key(struct fixture *f, const char *name, uint64_t commit)
{
	struct key *k = key_new(name, NULL, 1);

	k->commit = commit;
	for (unsigned i = 1; i <= 2; i++) {
		struct key_version *v = key_add_version(k);
		assert_int_equal(uuid_generate(&v->id), 0);
		v->object_id.len = 16;
		memcpy(v->object_id.b, v->id.b, 16);
		strcpy(v->token, "main");
		v->state = VERSION_ENABLED;
		v->attributes = HSM_ATTR_HELD;
		v->canary_len = 1;
	}
	k->primary = 2;
	k->previous = 1;
	k->activation = 2;
	k->activated_us = 1;
	assert_int_equal(keyring_publish(f->node.keyring, k), 0);
}

static struct client *
make_client(const char *name, const char *identity, const char *keys, const char *operation)
{
	char error[JSON_ERROR_SIZE];
	_cleanup_(json_freep) json_t *body = json_pack("{s:[s], s:[{s:s, s:[s]}]}", "identities",
		identity, "grants", "keys", keys, "operations", operation);
	struct client *c = NULL;

	assert_int_equal(client_from_json(name, body, 5, &c, error), 0);
	return c;
}

static int
set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_int_equal(keyring_open(&f->node.keyring), 0);
	assert_int_equal(clients_open(&f->node.clients), 0);
	assert_int_equal(approvals_open(&f->node.approvals), 0);
	assert_int_equal(snapshots_open(&f->node.snapshots), 0);
	f->node.cluster.policy = POLICY_DEFAULT;
	f->node.lifecycle.keyring = f->node.keyring;
	f->request.node = &f->node;
	atomic_store(&f->node.sealed, (struct sealed *)f); /* only told apart from none */
	*state = now = f;
	return 0;
}

static int
tear_down(void **state)
{
	struct fixture *f = *state;

	json_decref(f->json);
	json_decref(f->request.body);
	json_decref(f->request.audit_detail);
	client_unrefp(&f->request.client);
	keyring_freep(&f->node.keyring);
	clients_freep(&f->node.clients);
	approvals_freep(&f->node.approvals);
	snapshots_freep(&f->node.snapshots);
	free(f);
	return 0;
}

static void
be(struct fixture *f, const char *keys, const char *operation)
{
	client_unrefp(&f->request.client);
	f->request.client = make_client("me", "uri:spiffe://test/me", keys, operation);
}

/* Calls the handler; the answer must come exactly once. */
static void
ask(struct fixture *f, void (*handler)(struct request *r), const char *body)
{
	json_decref(f->request.body);
	f->request.body = body ? json_loads(body, 0, NULL) : NULL;
	assert_true(!body || f->request.body);
	f->err = f->answers = f->asked = 0;
	handler(&f->request);
	assert_int_equal(f->answers, 1);
}

static void
about_key(struct fixture *f, char *name, char *version)
{
	f->request.params[0] = name;
	f->request.params[1] = version;
	f->request.key = name;
}

static const char *
listed(struct fixture *f, const char *member, size_t i)
{
	return json_string_value(
		json_object_get(json_array_get(json_object_get(f->json, member), i), "name"));
}

#define APP \
	"{\"identities\":[\"uri:spiffe://test/app\"]," \
	"\"grants\":[{\"keys\":\"a-*\",\"operations\":[\"wrap\"]}]}"
#define BOSS \
	"{\"identities\":[\"uri:spiffe://test/app\"]," \
	"\"grants\":[{\"keys\":\"*\",\"operations\":[\"client.write\"]}]}"

static void
creating(struct fixture *f, char *name)
{
	if (!f->request.client)
		be(f, "*", "client.write");
	f->request.params[0] = name;
	f->request.if_none_match_given = true;
	f->request.if_match_given = false;
}

static void
changing(struct fixture *f, char *name, uint64_t commit)
{
	if (!f->request.client)
		be(f, "*", "client.write");
	f->request.params[0] = name;
	f->request.if_none_match_given = false;
	f->request.if_match_given = true;
	f->request.if_match = commit;
}

/* ---- keys ---- */

static void
a_list_shows_only_keys_that_a_grant_covers(void **state)
{
	struct fixture *f = *state;

	add_key(f, "a-1", 1);
	add_key(f, "b-1", 2);
	add_key(f, "b-2", 3);
	be(f, "b-*", "key.read");
	ask(f, api_key_list, NULL);
	assert_int_equal(f->status, 200);
	assert_int_equal(json_array_size(json_object_get(f->json, "keys")), 2);
	assert_string_equal(listed(f, "keys", 0), "b-1");
	assert_true(json_is_null(json_object_get(f->json, "next")));
}

static void
pages_follow_each_other_without_gap_or_overlap(void **state)
{
	struct fixture *f = *state;
	char name[16], next[STR_NAME_MAX + 1] = "";
	size_t seen = 0;

	for (unsigned i = 0; i < 250; i++) {
		snprintf(name, sizeof(name), "%c-%03u", i % 2 ? 'x' : 'y', i);
		add_key(f, name, i + 1);
	}
	be(f, "x-*", "key.read");
	f->limit = "50";
	do {
		f->after = *next ? next : NULL;
		ask(f, api_key_list, NULL);
		for (size_t i = 0; i < json_array_size(json_object_get(f->json, "keys")); i++) {
			snprintf(name, sizeof(name), "x-%03zu", 2 * seen++ + 1);
			assert_string_equal(listed(f, "keys", i), name);
		}
		snprintf(next, sizeof(next), "%s",
			json_is_null(json_object_get(f->json, "next"))
				? ""
				: json_string_value(json_object_get(f->json, "next")));
	} while (*next);
	assert_int_equal(seen, 125);
}

static void
a_limit_outside_of_1_to_1000_is_refused(void **state)
{
	static const char *const wrong[] = { "0", "1001", "-1", "ten", "", "99999999999999999999" };
	struct fixture *f = *state;

	be(f, "*", "key.read");
	for (size_t i = 0; i < STR_COUNT(wrong); i++) {
		f->limit = wrong[i];
		ask(f, api_key_list, NULL);
		assert_int_equal(f->err, KEKD_EINVALID);
	}
}

static void
a_key_is_shown_with_its_versions_and_etag(void **state)
{
	struct fixture *f = *state;
	json_t *version;

	add_key(f, "demo", 17);
	be(f, "*", "key.read");
	about_key(f, (char[]){ "demo" }, NULL);
	ask(f, api_key_get, NULL);
	assert_int_equal(f->status, 200);
	assert_string_equal(f->request.etag, "\"17\"");
	assert_int_equal(json_integer_value(json_object_get(f->json, "revision")), 17);
	assert_int_equal(json_integer_value(json_object_get(f->json, "primary")), 2);
	version = json_array_get(json_object_get(f->json, "versions"), 1);
	assert_string_equal(json_string_value(json_object_get(version, "state")), "enabled");
	assert_int_equal(json_array_size(json_object_get(version, "attributes")), 7);
	assert_int_equal(strlen(json_string_value(json_object_get(version, "object_id"))), 32);
}

static void
a_key_that_is_not_there_is_not_found(void **state)
{
	struct fixture *f = *state;

	be(f, "*", "key.read");
	about_key(f, (char[]){ "demo" }, (char[]){ "1" });
	ask(f, api_key_get, NULL);
	assert_int_equal(f->err, KEKD_ENOKEY);
	ask(f, api_key_rotate, "{}");
	assert_int_equal(f->err, KEKD_ENOKEY);
	ask(f, api_version_disable, "{}");
	assert_int_equal(f->err, KEKD_ENOKEY);
	assert_int_equal(f->asked, 0);
}

static void
a_key_whose_record_is_refused_is_shown_but_not_changed(void **state)
{
	static void (*const handlers[])(struct request *) = { api_key_patch, api_key_rotate,
		api_version_enable, api_version_disable, api_version_primary };
	struct fixture *f = *state;

	add_key(f, "demo", 17);
	keyring_mark_refused(f->node.keyring, "demo", true);
	be(f, "*", "key.read");
	about_key(f, (char[]){ "demo" }, (char[]){ "1" });
	for (size_t i = 0; i < STR_COUNT(handlers); i++) {
		ask(f, handlers[i], "{}");
		assert_int_equal(f->err, KEKD_ERECORD);
		assert_int_equal(f->asked, 0);
	}
	ask(f, api_key_get, NULL);
	assert_int_equal(f->err, 0);
	assert_true(json_is_true(json_object_get(f->json, "refused")));
	ask(f, api_key_list, NULL);
	assert_true(json_is_true(
		json_object_get(json_array_get(json_object_get(f->json, "keys"), 0), "refused")));
}

static void
a_refused_record_that_was_never_good_is_told_from_none(void **state)
{
	struct fixture *f = *state;

	be(f, "*", "key.create");
	about_key(f, (char[]){ "demo" }, NULL);
	f->refused = "keys/demo";
	ask(f, api_key_get, NULL);
	assert_int_equal(f->err, KEKD_ERECORD);
	ask(f, api_key_create, "{\"name\":\"demo\"}");
	assert_int_equal(f->err, KEKD_ERECORD);
	f->refused = "clients/app";
	about_key(f, (char[]){ "demo" }, NULL);
	ask(f, api_key_get, NULL);
	assert_int_equal(f->err, KEKD_ENOKEY);
	creating(f, (char[]){ "app" });
	ask(f, api_client_put, APP);
	assert_int_equal(f->err, KEKD_ERECORD);
	assert_int_equal(f->asked, 0);
}

static void
a_record_of_another_release_is_told_from_none_and_never_made_anew(void **state)
{
	struct fixture *f = *state;

	be(f, "*", "key.create");
	about_key(f, (char[]){ "demo" }, NULL);
	f->unreadable = "keys/demo";
	ask(f, api_key_get, NULL);
	assert_int_equal(f->err, KEKD_ERECORD);
	assert_non_null(strstr(f->detail, "another release"));
	ask(f, api_key_create, "{\"name\":\"demo\"}");
	assert_int_equal(f->err, KEKD_ERECORD);
	f->unreadable = "clients/app";
	creating(f, (char[]){ "app" });
	ask(f, api_client_put, APP);
	assert_int_equal(f->err, KEKD_ERECORD);
	assert_non_null(strstr(f->detail, "another release"));
	assert_int_equal(f->asked, 0);
}

static void
a_key_is_created_only_under_a_name_that_a_grant_covers(void **state)
{
	struct fixture *f = *state;

	be(f, "team-*", "key.create");
	ask(f, api_key_create, "{\"name\":\"other\"}");
	assert_int_equal(f->err, KEKD_EFORBIDDEN);
	assert_int_equal(f->asked, 0);
	assert_string_equal(f->request.key, "other");
	ask(f, api_key_create, "{\"name\":\"team-a\",\"labels\":{\"a\":\"b\"}}");
	assert_int_equal(f->status, 201);
	assert_string_equal(f->request.etag, "\"77\"");
	assert_string_equal(f->proven, "team-a");
	assert_int_equal(
		json_integer_value(json_object_get(f->request.audit_detail, "version")), 2);
}

static void
a_creation_with_bad_members_reaches_no_token(void **state)
{
	static const struct {
		const char *body;
		int err;
	} wrong[] = {
		{ "{}", KEKD_EINVALID },
		{ "{\"name\":\"UPPER\"}", KEKD_ENAME },
		{ "{\"name\":\"a/b\"}", KEKD_ENAME },
		{ "{\"name\":1}", KEKD_EINVALID },
		{ "{\"name\":\"a\",\"size\":1}", KEKD_EMEMBER },
		{ "{\"name\":\"a\",\"algorithm\":\"des\"}", KEKD_EINVALID },
		{ "{\"name\":\"a\",\"labels\":[]}", KEKD_EINVALID },
	};
	struct fixture *f = *state;

	be(f, "*", "key.create");
	for (size_t i = 0; i < STR_COUNT(wrong); i++) {
		ask(f, api_key_create, wrong[i].body);
		assert_int_equal(f->err, wrong[i].err);
		assert_int_equal(f->asked, 0);
	}
}

static void
a_change_carries_the_revision_that_the_client_saw(void **state)
{
	struct fixture *f = *state;

	add_key(f, "demo", 17);
	be(f, "*", "key.rotate");
	about_key(f, (char[]){ "demo" }, (char[]){ "1" });
	f->request.if_match_given = true;
	f->request.if_match = 16;
	ask(f, api_key_rotate, "{}");
	assert_int_equal(f->expected, 16);
	ask(f, api_key_patch, "{\"labels\":{}}");
	assert_int_equal(f->expected, 16);
	ask(f, api_version_disable, "{}");
	assert_int_equal(f->expected, 16);
	assert_int_equal(f->version, 1);
	assert_false(f->enabled);
	ask(f, api_version_enable, "{}");
	assert_true(f->enabled);
}

static void
what_the_lifecycle_says_reaches_the_client(void **state)
{
	struct fixture *f = *state;

	add_key(f, "demo", 17);
	be(f, "*", "key.rotate");
	about_key(f, (char[]){ "demo" }, (char[]){ "2" });
	f->next_err = KEKD_EUNPROVEN;
	ask(f, api_version_primary, "{}");
	assert_int_equal(f->err, KEKD_EUNPROVEN);
	assert_string_equal(f->detail, "told by the lifecycle");
}

static void
a_version_that_is_no_number_or_not_there_is_not_found(void **state)
{
	static const char *const wrong[] = { "0", "3", "-1", "01", "1x", "x", "99999999999",
		"4294967297" };
	struct fixture *f = *state;
	char text[16];

	add_key(f, "demo", 17);
	be(f, "*", "key.state");
	for (size_t i = 0; i < STR_COUNT(wrong); i++) {
		snprintf(text, sizeof(text), "%s", wrong[i]);
		about_key(f, (char[]){ "demo" }, text);
		ask(f, api_version_disable, "{}");
		assert_int_equal(f->err, KEKD_ENOVERSION);
		assert_int_equal(f->asked, 0);
	}
}

static void
the_primary_cannot_be_disabled(void **state)
{
	struct fixture *f = *state;

	add_key(f, "demo", 17);
	be(f, "*", "key.state");
	about_key(f, (char[]){ "demo" }, (char[]){ "2" });
	ask(f, api_version_disable, "{}");
	assert_int_equal(f->err, KEKD_ESTATE);
	assert_int_equal(f->asked, 0);
}

static void
a_change_of_a_version_takes_no_members(void **state)
{
	struct fixture *f = *state;

	add_key(f, "demo", 17);
	be(f, "*", "key.state");
	about_key(f, (char[]){ "demo" }, (char[]){ "1" });
	ask(f, api_version_disable, "{\"force\":true}");
	assert_int_equal(f->err, KEKD_EMEMBER);
	assert_int_equal(f->asked, 0);
}

/* ---- clients ---- */

static void
a_client_is_stored_before_it_is_known(void **state)
{
	struct fixture *f = *state;
	_cleanup_(client_unrefp) struct client *c = NULL;

	creating(f, (char[]){ "app" });
	f->next_err = KEKD_ESTORE;
	ask(f, api_client_put, APP);
	assert_int_equal(f->err, KEKD_ESTORE);
	assert_null(clients_find(f->node.clients, "app"));
	f->next_err = 0;
	ask(f, api_client_put, APP);
	assert_int_equal(f->status, 201);
	assert_string_equal(f->request.etag, "\"99\"");
	assert_string_equal(f->path, "clients/app");
	assert_int_equal(f->expected, 0);
	c = clients_find(f->node.clients, "app");
	assert_non_null(c);
	assert_int_equal(c->commit, 99);
}

static void
a_client_is_changed_only_at_the_revision_that_was_read(void **state)
{
	struct fixture *f = *state;

	clients_publish(f->node.clients, make_client("app", "dns:app", "a-*", "wrap"));
	changing(f, (char[]){ "app" }, 4);
	ask(f, api_client_put, APP);
	assert_int_equal(f->err, KEKD_EPRECONDITION);
	ask(f, api_client_delete, NULL);
	assert_int_equal(f->err, KEKD_EPRECONDITION);
	assert_int_equal(f->asked, 0);
	changing(f, (char[]){ "app" }, 5);
	ask(f, api_client_put, APP);
	assert_int_equal(f->status, 200);
	assert_int_equal(f->expected, 5);
	creating(f, (char[]){ "app" });
	ask(f, api_client_put, APP);
	assert_int_equal(f->err, KEKD_EPRECONDITION);
}

static void
a_client_that_is_not_there_cannot_be_changed(void **state)
{
	struct fixture *f = *state;

	changing(f, (char[]){ "app" }, STORE_ANY);
	ask(f, api_client_put, APP);
	assert_int_equal(f->err, KEKD_ENOCLIENT);
	ask(f, api_client_delete, NULL);
	assert_int_equal(f->err, KEKD_ENOCLIENT);
	ask(f, api_client_get, NULL);
	assert_int_equal(f->err, KEKD_ENOCLIENT);
	assert_int_equal(f->asked, 0);
}

/* A pending request, and nothing else. */
static void
assert_asked_for(struct fixture *f, const char *kind, const char *target)
{
	assert_int_equal(f->status, 202);
	assert_int_not_equal(f->asked, 0); /* and again where an earlier request is stale now */
	assert_memory_equal(f->path, "approvals/", strlen("approvals/"));
	assert_string_equal(json_string_value(json_object_get(f->json, "kind")), kind);
	assert_string_equal(json_string_value(json_object_get(f->json, "target")), target);
	assert_string_equal(json_string_value(json_object_get(f->json, "state")), "pending");
	f->asked = 0;
}

static void
a_change_to_a_record_that_holds_client_write_or_approve_is_asked_for(void **state)
{
	static const char *const held[] = { "client.write", "approve" };
	struct fixture *f = *state;

	f->node.cluster.policy = POLICY_DEFAULT;
	creating(f, (char[]){ "app" });
	ask(f, api_client_put, BOSS);
	assert_asked_for(f, "client.write", "app");
	for (size_t i = 0; i < STR_COUNT(held); i++) {
		clients_publish(f->node.clients, make_client("boss", "dns:boss", "*", held[i]));
		changing(f, (char[]){ "boss" }, STORE_ANY);
		ask(f, api_client_put, i == 0 ? APP : BOSS);
		assert_asked_for(f, "client.write", "boss");
		ask(f, api_client_delete, NULL);
		if (i == 0)
			assert_asked_for(f, "client.delete", "boss");
		assert_int_equal(f->status, 202);
		f->asked = 0;
	}
}

static void
where_one_administrator_is_enough_it_is_done_at_once(void **state)
{
	struct fixture *f = *state;

	f->node.cluster.policy = (struct policy){ 1, 0, 3600 };
	creating(f, (char[]){ "app" });
	ask(f, api_client_put, BOSS);
	assert_int_equal(f->status, 201);
	assert_string_equal(f->path, "clients/app");
}

static void
an_identity_belongs_to_one_client(void **state)
{
	struct fixture *f = *state;

	clients_publish(
		f->node.clients, make_client("first", "uri:spiffe://test/app", "a-*", "wrap"));
	creating(f, (char[]){ "second" });
	ask(f, api_client_put, APP);
	assert_int_equal(f->err, KEKD_ETAKEN);
	assert_int_equal(f->asked, 0);
}

static void
a_body_may_repeat_the_name_but_not_differ(void **state)
{
	struct fixture *f = *state;

	creating(f, (char[]){ "app" });
	ask(f, api_client_put, "{\"name\":\"other\",\"identities\":[\"dns:a\"]}");
	assert_int_equal(f->err, KEKD_EINVALID);
	ask(f, api_client_put, "{\"name\":\"app\",\"identities\":[\"dns:a\"]}");
	assert_int_equal(f->status, 201);
}

static void
a_deleted_client_is_gone_at_once(void **state)
{
	struct fixture *f = *state;

	clients_publish(f->node.clients, make_client("app", "dns:app", "a-*", "wrap"));
	changing(f, (char[]){ "app" }, 5);
	ask(f, api_client_delete, NULL);
	assert_int_equal(f->status, 200);
	assert_true(f->deleted);
	assert_int_equal(f->expected, 5);
	assert_null(clients_find(f->node.clients, "app"));
}

static void
clients_are_listed_in_pages(void **state)
{
	struct fixture *f = *state;

	clients_publish(f->node.clients, make_client("a", "dns:a", "*", "wrap"));
	clients_publish(f->node.clients, make_client("b", "dns:b", "*", "wrap"));
	f->limit = "1";
	ask(f, api_client_list, NULL);
	assert_string_equal(listed(f, "clients", 0), "a");
	assert_string_equal(json_string_value(json_object_get(f->json, "next")), "a");
	f->after = "a";
	ask(f, api_client_list, NULL);
	assert_string_equal(listed(f, "clients", 0), "b");
	assert_true(json_is_null(json_object_get(f->json, "next")));
}

static void
a_client_is_told_who_it_is_and_what_it_may(void **state)
{
	struct fixture *f = *state;

	be(f, "a-*", "wrap");
	strcpy(f->request.identity.name, "uri:spiffe://test/me");
	ask(f, api_whoami, NULL);
	assert_string_equal(json_string_value(json_object_get(f->json, "client")), "me");
	assert_string_equal(
		json_string_value(json_object_get(f->json, "identity")), "uri:spiffe://test/me");
	assert_int_equal(json_array_size(json_object_get(f->json, "grants")), 1);
}

/* Whatever comes while the answer is made: an end of the version would be refused for it. */
static void
no_use_is_bound_that_was_not_shown(void **state)
{
	struct fixture *f = *state;
	char name[] = "a";
	json_t *version;
	size_t i;

	f->counting = true;
	add_key(f, "a", 1);
	about_key(f, name, NULL);
	ask(f, api_key_usage, NULL);
	json_array_foreach(json_object_get(f->json, "versions"), i, version) {
		const json_t *row = json_array_get(json_object_get(version, "clients"), 0);
		const char *bound = json_string_value(json_object_get(version, "evidence"));
		json_int_t shown = json_integer_value(
			json_object_get(json_object_get(row, "wrapped"), "count"));
		json_int_t total = json_integer_value(
			json_object_get(json_object_get(version, "totals"), "wrapped"));

		assert_in_range(strtol(bound, NULL, 10), 1, shown - 1);
		assert_in_range(strtol(bound, NULL, 10), 1, total - 1);
	}
	assert_int_equal(i, 2);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_list_shows_only_keys_that_a_grant_covers),
		TEST(pages_follow_each_other_without_gap_or_overlap),
		TEST(a_limit_outside_of_1_to_1000_is_refused),
		TEST(a_key_is_shown_with_its_versions_and_etag),
		TEST(a_key_that_is_not_there_is_not_found),
		TEST(a_key_whose_record_is_refused_is_shown_but_not_changed),
		TEST(a_refused_record_that_was_never_good_is_told_from_none),
		TEST(a_record_of_another_release_is_told_from_none_and_never_made_anew),
		TEST(a_key_is_created_only_under_a_name_that_a_grant_covers),
		TEST(a_creation_with_bad_members_reaches_no_token),
		TEST(a_change_carries_the_revision_that_the_client_saw),
		TEST(what_the_lifecycle_says_reaches_the_client),
		TEST(a_version_that_is_no_number_or_not_there_is_not_found),
		TEST(the_primary_cannot_be_disabled),
		TEST(a_change_of_a_version_takes_no_members),
		TEST(a_client_is_stored_before_it_is_known),
		TEST(a_client_is_changed_only_at_the_revision_that_was_read),
		TEST(a_client_that_is_not_there_cannot_be_changed),
		TEST(a_change_to_a_record_that_holds_client_write_or_approve_is_asked_for),
		TEST(where_one_administrator_is_enough_it_is_done_at_once),
		TEST(an_identity_belongs_to_one_client),
		TEST(a_body_may_repeat_the_name_but_not_differ),
		TEST(a_deleted_client_is_gone_at_once),
		TEST(clients_are_listed_in_pages),
		TEST(a_client_is_told_who_it_is_and_what_it_may),
		TEST(no_use_is_bound_that_was_not_shown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
