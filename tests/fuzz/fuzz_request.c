/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A request, from its method to its answer: "METHOD PATH?QUERY", header lines, an empty line, the
 * body. Router, admission, bodies, handlers, keyring, clients and the lifecycle are real; the
 * connection, the audit log's disk, the store and the token are played. "Client: NAME" says whose
 * certificate it is; $BLOB in the body is a ciphertext that unwraps.
 */
#include "fuzz.h"

#include "../../src/api/api.h"
#include "../../src/http/call.h"
#include "../unit/doubles.h"

#include "kekd/err.h"
#include "kekd/nonce.h"
#include "kekd/uuid.h"

#include <errno.h>
#include <strings.h>

#define HEADERS_MAX 16

static struct doubles *doubles, pristine;
static struct node node;
static struct http http;
static struct peer peer;
static char blob[256];

static struct {
	char *method, *path, *query;
	char *headers[HEADERS_MAX];
	size_t headers_count;
} now; /* the request */

/* ---- the connection ---- */

static const char *
header_value(const char *line, const char *name)
{
	size_t len = strlen(name);

	if (strncasecmp(line, name, len) != 0 || line[len] != ':')
		return NULL;
	return line + len + 1 + strspn(line + len + 1, " ");
}

static const char *
query_value(const char *name)
{
	size_t len = strlen(name);

	for (char *p = now.query; p; p = strchr(p, '&')) {
		p += *p == '&';
		if (strncmp(p, name, len) == 0 && p[len] == '=')
			return p + len + 1;
	}
	return NULL;
}

const char *
MHD_lookup_connection_value(struct MHD_Connection *c, enum MHD_ValueKind kind, const char *name)
{
	const char *value = NULL;

	(void)c;
	if (kind == MHD_GET_ARGUMENT_KIND)
		return query_value(name);
	for (size_t i = 0; i < now.headers_count && !value; i++)
		value = header_value(now.headers[i], name);
	return value;
}

const union MHD_ConnectionInfo *
MHD_get_connection_info(struct MHD_Connection *c, enum MHD_ConnectionInfoType type, ...)
{
	static union MHD_ConnectionInfo info;

	(void)c, (void)type;
	return &info;
}

void
MHD_suspend_connection(struct MHD_Connection *c)
{
	(void)c;
}

void
MHD_resume_connection(struct MHD_Connection *c)
{
	(void)c;
}

void
http_peer_verify(struct peer *p, gnutls_session_t session, uint64_t now_us)
{
	const char *name = MHD_lookup_connection_value(NULL, MHD_HEADER_KIND, "Client");

	(void)session, (void)now_us;
	p->verdict = name ? 0 : KEKD_ECERTNONE;
	snprintf(p->identity.name, sizeof(p->identity.name), "dns:%s", name ? name : "");
}

/* ---- the node ---- */

int
node_serves(const struct node *n)
{
	(void)n;
	return 0;
}

bool
node_is_unreadable(struct node *n, const char *path)
{
	(void)n, (void)path;
	return false;
}

bool
node_doubts_snapshots(struct node *n, char ret_path[STORE_PATH_MAX + 1])
{
	(void)n, (void)ret_path;
	return false;
}

int
node_needed(struct node *n, const struct key *k, const struct key_version *v,
	char ret_error[LIFECYCLE_ERROR_SIZE])
{
	(void)n, (void)k, (void)v, (void)ret_error;
	return 0;
}

uint64_t
node_seen_s(const struct node *n)
{
	return n->seen_s;
}

int
node_seen_change(struct node *n, struct sealed_change *ret_change)
{
	*ret_change = (struct sealed_change){ "seen", STORE_ANY, json_pack("{s:i}", "seconds", 1) };
	(void)n;
	return ret_change->body ? 0 : -ENOMEM;
}

void
node_seen_stored(struct node *n, const struct sealed_change *change)
{
	(void)n, (void)change;
}

int
node_token(const struct node *n, const char *name)
{
	for (unsigned i = 0; i < n->part.tokens_count; i++)
		if (strcmp(n->part.tokens[i], name) == 0)
			return (int)i;
	return -ENOENT;
}

int
node_look_up(struct node *n, struct node_lookup *l)
{
	(void)n, (void)l;
	return KEKD_ESTATE;
}

bool
node_is_stale(struct node *n)
{
	(void)n;
	return false;
}

bool
node_first_refusal(struct node *n, const char *client, const struct uuid *version)
{
	(void)n, (void)client, (void)version;
	return true;
}

void
node_count_proven(struct node *n, const char *key)
{
	(void)n, (void)key;
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

uint64_t
node_rotation_floor_s(struct node *n)
{
	(void)n;
	return 3600;
}

bool
hsm_token_ready(struct hsm *hsm, unsigned token)
{
	(void)hsm;
	return token == 0;
}

void
node_cluster(struct node *n, struct cluster *ret_cluster)
{
	*ret_cluster = n->cluster;
}

void
node_signing(struct node *n, struct node_signing *ret_signing)
{
	*ret_signing = n->signing;
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

size_t
node_find_unknown(struct node *n, const struct unknown_wanted *wanted,
	struct lifecycle_object ret_objects[KEY_VERSIONS_MAX])
{
	(void)n, (void)wanted, (void)ret_objects;
	return 0;
}

void
node_load_drill(struct node *n, const char *rest, json_t *body, uint64_t commit)
{
	(void)n, (void)rest, (void)body, (void)commit;
}

int
node_sign(struct node *n, const uint8_t digest[32], uint8_t ret_signature[AUDIT_SIGNATURE_SIZE])
{
	(void)n, (void)digest, (void)ret_signature;
	return KEKD_ESTARTING;
}

int
node_sweep(struct node *n)
{
	(void)n;
	return 0;
}

void
node_forget_unknown(struct node *n, unsigned token, const struct object_id *id)
{
	(void)n, (void)token, (void)id;
}

int
node_confirm_store(struct node *n, const char *generation, uint64_t *ret_number,
	char ret_error[JSON_ERROR_SIZE])
{
	(void)n, (void)generation, (void)ret_number, (void)ret_error;
	return KEKD_ESTATE;
}

int
node_confirm(struct node *n, const char *generation)
{
	(void)n, (void)generation;
	return KEKD_ESTATE;
}

void
sealed_status(struct sealed *s, struct sealed_status *ret_status)
{
	(void)s;
	*ret_status = (struct sealed_status){ 0 };
}

int
sealed_each(struct sealed *s, sealed_each_fn *fn, void *user)
{
	(void)s, (void)fn, (void)user;
	return 0;
}

int
sealed_digest(struct sealed *s, const uint8_t digest[SEALED_DIGEST_SIZE], struct uuid *ret_key,
	uint8_t ret_seal[SEALED_DIGEST_SIZE])
{
	(void)s, (void)digest, (void)ret_key, (void)ret_seal;
	return KEKD_EHSM;
}

void
audit_status(struct audit *a, struct audit_status *ret_status)
{
	(void)a;
	*ret_status = (struct audit_status){ .ok = true };
}

bool
audit_sink_status(struct audit *a, struct audit_sink_status *ret_status)
{
	(void)a;
	(void)ret_status;
	return false;
}

int
node_retry_pin(unsigned token)
{
	require(token < node.part.tokens_count);
	return 0;
}

int
hsm_worker_status(
	struct hsm *hsm, unsigned token, unsigned worker, struct hsm_worker_status *ret_status)
{
	(void)hsm, (void)token, (void)worker;
	*ret_status = (struct hsm_worker_status){ .hello = { .state = HSM_STATE_PIN_REFUSED } };
	return 0;
}

int
control_post(struct control *c, struct control_job *job)
{
	(void)c;
	job->run(job);
	return 0;
}

static bool
is_behind(const struct node *n)
{
	(void)n;
	return false;
}

static uint64_t
revision(struct node *n)
{
	(void)n;
	return doubles->number;
}

static int
control(struct node *n, void (*run)(void *), void *user)
{
	(void)n;
	run(user);
	return 0;
}

int
sealed_refused(struct sealed *s, size_t i, char ret_path[STORE_PATH_MAX + 1])
{
	(void)s;
	if (i > 0)
		return -ENOENT;
	strcpy(ret_path, "keys/refused");
	return 0;
}

int
sealed_move(struct sealed *s, const char *token, struct sealed_move *ret_move,
	char ret_error[JSON_ERROR_SIZE])
{
	(void)s;
	snprintf(ret_error, JSON_ERROR_SIZE, "there is no token but the first");
	if (node_token(&node, token) < 0)
		return KEKD_EINVALID;
	*ret_move = (struct sealed_move){ .key = "0190a0b0-c0d0-4e00-8f00-000000000001" };
	return 0;
}

int
node_move_signing(struct node *n, unsigned token)
{
	(void)n, (void)token;
	return 0;
}

/* Of these the answer does not hang on the request. */
void
api_status(struct request *r)
{
	request_answer_json(r, 200, json_object());
}

void
api_metrics(struct request *r)
{
	api_status(r);
}

void
api_health_live(struct request *r)
{
	api_status(r);
}

void
api_health_ready(struct request *r)
{
	api_status(r);
}

void
api_health_active(struct request *r)
{
	api_status(r);
}

/* ---- the audit log ---- */

/* What is told to the log can be read again. */
static void
format(const struct audit_record *record)
{
	for (int hash = 0; hash < 2; hash++) {
		struct buf b = BUF_INIT(16u << 20);
		char error[JSON_ERROR_SIZE];
		json_t *value;

		buf_str(&b, "{\"v\":1");
		audit_format(&b, record, hash);
		buf_str(&b, "}");
		require(!b.bad);
		value = json_parse((const char *)b.data, b.len, error);
		require(value);
		json_decref(value);
		buf_free(&b);
	}
}

void
audit_submit(struct audit *a, struct audit_record *record)
{
	(void)a;
	format(record);
	record->done(record, 0);
}

void
audit_expect(struct audit *a, int n)
{
	(void)a, (void)n;
}

bool
audit_count(struct audit *a, const struct audit_record *record)
{
	(void)a;
	format(record);
	return false;
}

int
audit_append(struct audit *a, struct audit_record *record)
{
	(void)a;
	format(record);
	return 0;
}

bool
audit_ok(struct audit *a)
{
	(void)a;
	return true;
}

/* ---- the token ---- */

static void
wrap(struct hsm_op *op, const struct object_id *object, const uint8_t *aad, uint32_t aad_len,
	const uint8_t *in, uint32_t in_len)
{
	struct hsm_op fresh = { .kind = HSM_OP_WRAP,
		.token = op->token,
		.object = *object,
		.aad = aad,
		.aad_len = aad_len,
		.in = in,
		.in_len = in_len,
		.out = op->out,
		.out_cap = op->out_cap };

	hsm_call(doubles_hsm(doubles), &fresh, 1);
	memcpy(op->iv, fresh.iv, sizeof(op->iv));
	op->iv_len = fresh.iv_len;
	op->out_len = fresh.out_len;
	op->err = fresh.err;
}

static void
run_generate(struct hsm_op *op)
{
	require(op->out2 && op->size >= 1 && op->size <= op->out2_cap);
	memset(op->out2, 0x5a, op->size);
	op->out2_len = op->size;
	wrap(op, &op->object, op->aad, op->aad_len, op->out2, op->size);
}

static void
run_rewrap(struct hsm_op *op)
{
	uint8_t plain[BLOB_PLAINTEXT_MAX];
	struct hsm_op first = *op;

	first.kind = HSM_OP_UNWRAP;
	first.out = plain;
	first.out_cap = sizeof(plain);
	hsm_call(doubles_hsm(doubles), &first, 1);
	op->err = first.err;
	if (!op->err)
		wrap(op, &op->object2, op->aad2, op->aad2_len, plain, first.out_len);
}

static void
run_op(struct hsm_op *op)
{
	require(op->token < node.part.tokens_count);
	require(frame_request_size(op) + 64 <= FRAME_SIZE_MAX);
	if (op->kind == HSM_OP_GENERATE)
		run_generate(op);
	else if (op->kind == HSM_OP_REWRAP)
		run_rewrap(op);
	else if (op->kind == HSM_OP_CHECK) {
		op->kind = HSM_OP_UNWRAP;
		hsm_call(doubles_hsm(doubles), op, 1);
		op->out_len = 0;
	} else
		hsm_call(doubles_hsm(doubles), op, 1);
}

int
hsm_submit(struct hsm *hsm, struct hsm_batch *batch)
{
	(void)hsm;
	for (size_t i = 0; i < batch->count; i++)
		run_op(&batch->ops[i]);
	batch->done(batch);
	return 0;
}

/* ---- what is there before each request ---- */

static void
add_client(const char *name, const char *keys)
{
	char error[JSON_ERROR_SIZE];
	json_t *operations = json_array(), *body;
	struct client *c = NULL;

	for (int i = 0; i < ACCESS_OPERATIONS_COUNT; i++)
		json_array_append_new(
			operations, json_string(access_operation_name((enum access_operation)i)));
	body = json_pack("{s:[s+], s:[{s:s, s:o}]}", "identities", "dns:", name, "grants", "keys",
		keys, "operations", operations);
	require(client_from_json(name, body, 1, &c, error) == 0);
	require(clients_publish(node.clients, c) == 0);
	json_decref(body);
}

static void
load_keys(void)
{
	for (size_t i = 0; i < DOUBLES_RECORDS; i++) {
		const struct doubles_record *r = &doubles->records[i];
		char error[JSON_ERROR_SIZE];
		struct key *k = NULL;
		json_t *body;

		if (r->commit == 0 || strncmp(r->path, "keys/", 5) != 0)
			continue;
		body = json_loads(r->body, 0, NULL);
		require(key_from_json(body, r->commit, &k, error) == 0);
		require(keyring_publish(node.keyring, k) == 0);
		json_decref(body);
	}
}

static void
reset(void)
{
	keyring_freep(&node.keyring);
	clients_freep(&node.clients);
	approvals_freep(&node.approvals);
	snapshots_freep(&node.snapshots);
	require(keyring_open(&node.keyring) == 0 && clients_open(&node.clients) == 0 &&
		approvals_open(&node.approvals) == 0 && snapshots_open(&node.snapshots) == 0);
	node.cluster.policy = POLICY_DEFAULT;
	if (!node.usage)
		require(usage_open("node-1", &node.usage) == 0);
	memcpy(doubles, &pristine, sizeof(pristine));
	http.config.clients = node.clients;
	node.lifecycle.keyring = node.keyring;
	load_keys();
	add_client("all", "*");
	add_client("some", "demo-*");
}

static void
make_blob(void)
{
	struct key *k = keyring_find(node.keyring, "demo");
	const struct key_version *v = key_find_version(k, k->primary);
	struct buf header = BUF_INIT(BLOB_HEADER_SIZE), b = BUF_INIT(256), text = BUF_INIT(256);
	uint8_t out[64];
	struct hsm_op op = { .kind = HSM_OP_WRAP, .out = out, .out_cap = sizeof(out) };

	blob_put_header(&header, &v->id, k->algorithm, doubles->iv_len);
	wrap(&op, &v->object_id, header.data, BLOB_HEADER_SIZE, (const uint8_t *)"secret", 6);
	buf_put(&b, header.data, header.len);
	buf_put(&b, op.iv, op.iv_len);
	buf_put(&b, op.out, op.out_len);
	str_base64(&text, b.data, b.len);
	buf_u8(&text, 0);
	strcpy(blob, (char *)text.data);
	buf_free(&header);
	buf_free(&b);
	buf_free(&text);
	key_unrefp(&k);
}

static void
make_keys(void)
{
	char error[LIFECYCLE_ERROR_SIZE];
	struct key *k = NULL;

	require(lifecycle_create(&node.lifecycle, "demo", NULL, NULL, &k, error) == 0);
	key_unrefp(&k);
	for (int i = 0; i < 2; i++) {
		require(lifecycle_rotate(&node.lifecycle, "demo", STORE_ANY, NULL, &k, error) == 0);
		key_unrefp(&k);
	}
	require(lifecycle_set_enabled(&node.lifecycle, "demo", STORE_ANY, 1, false, &k, error) ==
		0);
	key_unrefp(&k);
}

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	static char main_token[] = "main", other_token[] = "other", node_name[] = "node-1";
	static char *tokens[] = { main_token, other_token };
	static const struct http_hooks hooks = { .serves = node_serves,
		.is_behind = is_behind,
		.revision = revision,
		.control = control };

	(void)argc, (void)argv;
	fuzz_quiet();
	json_open();
	doubles = doubles_open();
	pristine = *doubles;
	node.hsm = doubles_hsm(doubles);
	atomic_store(&node.sealed, doubles_store(doubles));
	node.part.tokens = tokens;
	node.part.tokens_count = 2;
	node.part.workers = 1;
	node.part.node = node_name;
	require(keyring_open(&node.keyring) == 0);
	node.lifecycle = (struct lifecycle){ .store = doubles_store(doubles),
		.hsm = node.hsm,
		.keyring = node.keyring,
		.cluster = "test",
		.node = node_name,
		.tokens = (const char *const *)tokens,
		.tokens_count = 2 };
	require(traffic_open(http_routes, &node.traffic) == 0);
	make_keys();
	pristine = *doubles;
	make_blob();
	http.config = (struct http_config){ .node = &node,
		.hooks = &hooks,
		.routes = http_routes,
		.traffic = node.traffic,
		.in_flight_max = 100,
		.bodies_max = 1u << 30,
		.connections_max = 100 };
	peer.http = &http;
	strcpy(peer.address, "127.0.0.1:1");
	return 0;
}

/* ---- a request ---- */

static void
read_head(struct fuzz_input *in)
{
	char *first = fuzz_line(in), *space = strchr(first, ' '), *query;

	memset(&now, 0, sizeof(now));
	now.method = first;
	now.path = space ? space + 1 : first + strlen(first);
	if (space)
		*space = '\0';
	query = strchr(now.path, '?');
	if (query) {
		*query = '\0';
		now.query = query + 1;
	}
	while (in->left > 0 && now.headers_count < HEADERS_MAX) {
		char *line = fuzz_line(in);

		if (!*line) {
			free(line);
			return;
		}
		now.headers[now.headers_count++] = line;
	}
}

static void
put_body(struct buf *b, const struct fuzz_input *in)
{
	static const char place[] = "$BLOB";
	const uint8_t *at = in->left > 0 ? memmem(in->p, in->left, place, strlen(place)) : NULL;
	size_t before = at ? (size_t)(at - in->p) : in->left;

	buf_put(b, in->p, before);
	if (!at)
		return;
	buf_str(b, blob);
	buf_put(b, at + strlen(place), in->left - before - strlen(place));
}

static void
check_answer(const struct http_call *call)
{
	const struct request *r = &call->request;
	char error[JSON_ERROR_SIZE];
	json_t *value;

	require(atomic_load(&call->answered));
	require(r->status >= 200 && r->status <= 503 && r->status != 500);
	require(call->content_type && !r->reply.bad);
	if (!strstr(call->content_type, "json"))
		return;
	value = json_parse((const char *)r->reply.data, r->reply.len, error);
	require(json_is_object(value));
	if (r->status >= 400)
		require(json_object_get(value, "code") && json_object_get(value, "request_id"));
	json_decref(value);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input in = { data, size };
	struct http_call *call;

	reset();
	read_head(&in);
	call = http_call_new(&http, &peer, NULL);
	require(call);
	if (http_call_admit(call, now.method, now.path) == 0) {
		put_body(&call->body, &in);
		http_call_run(call);
	}
	check_answer(call);
	http_call_free(call);
	free(now.method);
	for (size_t i = 0; i < now.headers_count; i++)
		free(now.headers[i]);
	return 0;
}
