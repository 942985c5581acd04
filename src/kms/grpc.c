/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gRPC core's C API, with generic calls and one completion queue. All input and output runs inside
 * grpc_completion_queue_next(), on one thread: nothing there waits. Connections are given to it, as
 * its own listeners would unlink a live instance's socket and leave it open to everybody.
 */
#include "grpc.h"

#include "kekd/clock.h"
#include "kekd/log.h"
#include "kekd/metrics.h"
#include "kekd/secret.h"
#include "kekd/str.h"

#include <errno.h>
#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/compression.h>
#include <grpc/grpc.h>
#include <grpc/grpc_posix.h>
#include <grpc/grpc_security.h>
#include <grpc/support/alloc.h>
#include <grpc/support/log.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/queue.h>
#include <unistd.h>

#define MESSAGE_MAX 65536 /* the largest Decrypt has about 36 KiB */
#define MEMORY_MAX (16u << 20)
#define METADATA_MAX 16384
#define STREAMS_MAX 256	       /* of a connection */
#define CALLS_MAX 1024	       /* of all connections together */
#define IDLE_MS 180000	       /* an API server asks for Status every minute */
#define READ_NS (10 * CLOCK_S) /* for a message to arrive */
#define STEP_NS (20 * CLOCK_MS)
#define FAREWELL_NS (100 * CLOCK_MS) /* for GOAWAY to be read; some peers never answer it */
#define SLOTS 16		     /* calls that core may hand over at once */

enum tag_kind { TAG_NEW, TAG_CLOSED, TAG_MESSAGE, TAG_ANSWERED, TAG_COUNT };

struct tag {
	enum tag_kind kind;
	struct kms_call *call;
};

struct kms_call {
	struct kms_grpc *grpc;
	grpc_call *call;
	grpc_call_details details;
	grpc_metadata_array metadata;
	size_t method;
	grpc_byte_buffer *message;
	uint64_t deadline_ns;
	int broken; /* out parameter of core: nobody waits for the answer */
	atomic_bool cancelled;
	atomic_uint pending; /* tags that will still come */
	struct tag tags[TAG_COUNT];
	/* While its message is read; I/O thread alone. */
	TAILQ_ENTRY(kms_call) reading;
	uint64_t since_ns;
};
TAILQ_HEAD(calls, kms_call);

struct kms_grpc {
	struct kms_grpc_config config;
	grpc_server *server;
	grpc_completion_queue *queue;
	grpc_server_credentials *credentials;
	pthread_t thread;
	sem_t down;
	bool is_down;
	struct calls reading;	/* the oldest first */
	unsigned slots_lacking; /* I/O thread alone */
	atomic_uint in_flight;
	atomic_uint_least64_t alive_ns;
	atomic_uint_least64_t calls, full, unknown, unreadable, malformed;
};

/* ---- a call's memory ---- */

static struct kms_call *
call_new(struct kms_grpc *g)
{
	struct kms_call *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->grpc = g;
	grpc_call_details_init(&c->details);
	grpc_metadata_array_init(&c->metadata);
	for (int i = 0; i < TAG_COUNT; i++)
		c->tags[i] = (struct tag){ (enum tag_kind)i, c };
	return c;
}

static void
call_free(struct kms_call *c)
{
	if (c->message)
		grpc_byte_buffer_destroy(c->message);
	grpc_metadata_array_destroy(&c->metadata);
	grpc_call_details_destroy(&c->details);
	if (c->call) {
		grpc_call_unref(c->call);
		atomic_fetch_sub(&c->grpc->in_flight, 1);
	}
	free(c);
}

/* One of its tags came, or never will. */
static void
call_unref(struct kms_call *c)
{
	if (atomic_fetch_sub(&c->pending, 1) == 1)
		call_free(c);
}

/* False: it cannot be begun, and its tag will not come. */
static bool
begin(struct kms_call *c, const grpc_op *ops, size_t count, enum tag_kind tag)
{
	grpc_call_error err = grpc_call_start_batch(c->call, ops, count, &c->tags[tag], NULL);

	if (err != GRPC_CALL_OK)
		log_error("gRPC: %s", grpc_call_error_to_string(err));
	return err == GRPC_CALL_OK;
}

/* ---- answers ---- */

static void
answer(struct kms_call *c, grpc_byte_buffer *message, enum kms_status status, const char *text)
{
	grpc_slice details = grpc_slice_from_copied_string(text);
	grpc_op ops[3] = { { .op = GRPC_OP_SEND_INITIAL_METADATA },
		{ .op = GRPC_OP_SEND_STATUS_FROM_SERVER } };
	size_t count = 2;

	ops[1].data.send_status_from_server.status = (grpc_status_code)status;
	ops[1].data.send_status_from_server.status_details = &details;
	if (message) {
		ops[2].op = GRPC_OP_SEND_MESSAGE;
		ops[2].flags = GRPC_WRITE_NO_COMPRESS;
		ops[2].data.send_message.send_message = message;
		count = 3;
	}
	if (!begin(c, ops, count, TAG_ANSWERED))
		call_unref(c);
	grpc_slice_unref(details);
}

static void
wipe_and_free(void *data, size_t len)
{
	secret_wipe(data, len);
	free(data);
}

void
kms_grpc_reply(struct kms_call *c, uint8_t *message, size_t len)
{
	grpc_slice slice = grpc_slice_new_with_len(message, len, wipe_and_free);
	grpc_byte_buffer *buffer = grpc_raw_byte_buffer_create(&slice, 1);

	grpc_slice_unref(slice);
	answer(c, buffer, KMS_OK, "");
	grpc_byte_buffer_destroy(buffer);
}

void
kms_grpc_fail(struct kms_call *c, enum kms_status status, const char *text)
{
	answer(c, NULL, status, text);
}

void
kms_grpc_malformed(struct kms_call *c)
{
	metrics_add(&c->grpc->malformed, 1);
}

uint64_t
kms_call_deadline_ns(const struct kms_call *c)
{
	return c->deadline_ns;
}

bool
kms_call_cancelled(const struct kms_call *c)
{
	return atomic_load(&c->cancelled);
}

/* ---- calls as they arrive ---- */

static bool
offer_slot(struct kms_grpc *g)
{
	struct kms_call *c = call_new(g);

	if (!c)
		return false;
	atomic_store(&c->pending, 1);
	if (grpc_server_request_call(g->server, &c->call, &c->details, &c->metadata, g->queue,
		    g->queue, &c->tags[TAG_NEW]) == GRPC_CALL_OK)
		return true;
	call_free(c);
	return false;
}

/* What could not be offered for want of memory is offered again later. */
static void
offer_slots(struct kms_grpc *g)
{
	while (g->slots_lacking > 0 && offer_slot(g))
		g->slots_lacking--;
	if (g->slots_lacking == SLOTS)
		log_error("gRPC: no memory for further calls");
}

static uint64_t
boot_deadline(gpr_timespec deadline)
{
	gpr_timespec left;

	if (gpr_time_cmp(deadline, gpr_inf_future(deadline.clock_type)) == 0)
		return UINT64_MAX;
	left = gpr_time_sub(deadline, gpr_now(deadline.clock_type));
	if (left.tv_sec < 0)
		return clock_boot_ns();
	if (left.tv_sec > 86400)
		return UINT64_MAX;
	return clock_boot_ns() + (uint64_t)left.tv_sec * CLOCK_S + (uint64_t)left.tv_nsec;
}

static bool
find_method(struct kms_call *c)
{
	const struct kms_grpc_config *config = &c->grpc->config;

	for (size_t i = 0; i < config->methods_count; i++)
		if (grpc_slice_str_cmp(c->details.method, config->methods[i]) == 0) {
			c->method = i;
			return true;
		}
	return false;
}

static void
read_message(struct kms_call *c)
{
	grpc_op op = { .op = GRPC_OP_RECV_MESSAGE };

	op.data.recv_message.recv_message = &c->message;
	if (begin(c, &op, 1, TAG_MESSAGE)) {
		c->since_ns = clock_boot_ns();
		TAILQ_INSERT_TAIL(&c->grpc->reading, c, reading);
		return;
	}
	kms_grpc_fail(c, KMS_INTERNAL, "the message cannot be read: try again");
	call_unref(c);
}

static void
watch_close(struct kms_call *c)
{
	grpc_op op = { .op = GRPC_OP_RECV_CLOSE_ON_SERVER };

	op.data.recv_close_on_server.cancelled = &c->broken;
	if (!begin(c, &op, 1, TAG_CLOSED))
		call_unref(c);
}

/* Its message is not waited for. */
static void
refuse(struct kms_call *c, enum kms_status status, const char *text)
{
	call_unref(c);
	kms_grpc_fail(c, status, text);
}

static void
admit(struct kms_call *c)
{
	struct kms_grpc *g = c->grpc;
	bool full = atomic_fetch_add(&g->in_flight, 1) >= CALLS_MAX;

	atomic_store(&c->pending, 3); /* closed, message, answered */
	watch_close(c);
	if (full) {
		metrics_add(&g->full, 1);
		refuse(c, KMS_RESOURCE_EXHAUSTED,
			"kekd-kms has all the calls that it can hold: try again later");
	} else if (!find_method(c)) {
		metrics_add(&g->unknown, 1);
		refuse(c, KMS_UNIMPLEMENTED,
			"there is no such method: kekd-kms has Status, Encrypt and Decrypt of "
			"v2.KeyManagementService");
	} else {
		read_message(c);
	}
}

static void
on_new(struct kms_call *c, bool success)
{
	if (!success) { /* the server ends */
		c->call = NULL;
		call_free(c);
		return;
	}
	c->grpc->slots_lacking++;
	offer_slots(c->grpc);
	metrics_add(&c->grpc->calls, 1);
	c->deadline_ns = boot_deadline(c->details.deadline);
	admit(c);
}

static void
on_closed(struct kms_call *c, bool success)
{
	(void)success;
	if (c->broken)
		atomic_store(&c->cancelled, true);
	call_unref(c);
}

/* A copy in one piece; what came over the wire is wiped where it lies. */
static uint8_t *
take_message(grpc_byte_buffer *message, size_t *ret_len)
{
	size_t size = grpc_byte_buffer_length(message), len = 0;
	uint8_t *copy = malloc(size ? size : 1);
	grpc_byte_buffer_reader reader;
	grpc_slice *slice;

	grpc_byte_buffer_reader_init(&reader, message);
	while (grpc_byte_buffer_reader_peek(&reader, &slice)) {
		if (copy)
			memcpy(copy + len, GRPC_SLICE_START_PTR(*slice), GRPC_SLICE_LENGTH(*slice));
		len += GRPC_SLICE_LENGTH(*slice);
		secret_wipe(GRPC_SLICE_START_PTR(*slice), GRPC_SLICE_LENGTH(*slice));
	}
	grpc_byte_buffer_reader_destroy(&reader);
	*ret_len = len;
	return copy;
}

static bool
is_compressed(const grpc_byte_buffer *message)
{
	return message->type != GRPC_BB_RAW || message->data.raw.compression != GRPC_COMPRESS_NONE;
}

static void
hand_over(struct kms_call *c)
{
	struct kms_grpc *g = c->grpc;
	bool compressed = is_compressed(c->message);
	size_t len;
	uint8_t *copy = take_message(c->message, &len);

	grpc_byte_buffer_destroy(c->message);
	c->message = NULL;
	if (compressed)
		kms_grpc_fail(c, KMS_UNIMPLEMENTED,
			"compressed messages are not taken: send them as they are");
	else if (!copy)
		kms_grpc_fail(c, KMS_RESOURCE_EXHAUSTED, "kekd-kms has no memory: try again later");
	else
		g->config.handler(g->config.user, c, c->method, (struct kms_bytes){ copy, len });
	secret_wiping_free(copy);
}

/* None comes from a peer that closed its side, broke off, or sent too much or what is compressed,
 * which core has refused by then. */
static void
on_message(struct kms_call *c, bool success)
{
	TAILQ_REMOVE(&c->grpc->reading, c, reading);
	if (success && c->message) {
		hand_over(c);
	} else {
		metrics_add(&c->grpc->unreadable, 1);
		kms_grpc_fail(c, KMS_INVALID_ARGUMENT, "the call has no message: send one");
	}
	call_unref(c);
}

static void
on_answered(struct kms_call *c, bool success)
{
	(void)success;
	call_unref(c);
}

static void (*const on_tag[TAG_COUNT])(struct kms_call *, bool) = {
	[TAG_NEW] = on_new,
	[TAG_CLOSED] = on_closed,
	[TAG_MESSAGE] = on_message,
	[TAG_ANSWERED] = on_answered,
};

/* A peer that sends half a message and no deadline would hold the call's place for ever. The tag of
 * a cancelled read comes at once. */
static void
end_slow_messages(struct kms_grpc *g, uint64_t now_ns)
{
	struct kms_call *c;

	TAILQ_FOREACH(c, &g->reading, reading)
	{
		if (c->since_ns + READ_NS > now_ns)
			break;
		grpc_call_cancel_with_status(c->call, GRPC_STATUS_DEADLINE_EXCEEDED,
			"the message did not arrive in time", NULL);
	}
}

static void *
run(void *user)
{
	struct kms_grpc *g = user;
	uint64_t now_ns, looked_ns = 0;

	for (;;) {
		grpc_event e = grpc_completion_queue_next(g->queue,
			gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
				gpr_time_from_seconds(1, GPR_TIMESPAN)),
			NULL);
		const struct tag *tag = e.tag;

		atomic_store(&g->alive_ns, now_ns = clock_boot_ns());
		if (e.type == GRPC_QUEUE_SHUTDOWN)
			return NULL;
		if (e.type == GRPC_OP_COMPLETE && e.tag == g)
			sem_post(&g->down);
		else if (e.type == GRPC_OP_COMPLETE)
			on_tag[tag->kind](tag->call, e.success);
		if (now_ns - looked_ns >= CLOCK_S) {
			end_slow_messages(g, now_ns);
			offer_slots(g);
			looked_ns = now_ns;
		}
	}
}

/* ---- begin and end ---- */

/* Its lines hold the peer's bytes; the log escapes them. */
static void
on_log(gpr_log_func_args *args)
{
	if (args->severity == GPR_LOG_SEVERITY_ERROR)
		log_warning("gRPC: %s", args->message);
	else
		log_debug("gRPC: %s", args->message);
}

static grpc_arg
number(const char *key, int value)
{
	return (grpc_arg){
		.type = GRPC_ARG_INTEGER, .key = (char *)(uintptr_t)key, .value.integer = value
	};
}

static grpc_server *
create_server(void)
{
	grpc_resource_quota *quota = grpc_resource_quota_create("kekd-kms");
	grpc_arg args[] = {
		number(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, MESSAGE_MAX),
		number(GRPC_ARG_MAX_METADATA_SIZE, METADATA_MAX),
		number(GRPC_ARG_MAX_CONCURRENT_STREAMS, STREAMS_MAX),
		number(GRPC_ARG_MAX_CONNECTION_IDLE_MS, IDLE_MS),
		/* What a peer compressed would be inflated before its size is looked at. */
		number(GRPC_COMPRESSION_CHANNEL_ENABLED_ALGORITHMS_BITSET, 1),
		number(GRPC_ARG_ENABLE_PER_MESSAGE_DECOMPRESSION, 0),
		number(GRPC_ARG_ENABLE_PER_MESSAGE_COMPRESSION, 0),
		number(GRPC_ARG_ENABLE_CHANNELZ, 0),
		{ .type = GRPC_ARG_POINTER,
			.key = (char *)(uintptr_t)GRPC_ARG_RESOURCE_QUOTA,
			.value.pointer = { quota, grpc_resource_quota_arg_vtable() } },
	};
	const grpc_channel_args all = { STR_COUNT(args), args };
	grpc_server *server;

	grpc_resource_quota_resize(quota, MEMORY_MAX);
	server = grpc_server_create(&all, NULL);
	grpc_resource_quota_unref(quota);
	return server;
}

int
kms_grpc_open(const struct kms_grpc_config *config, struct kms_grpc **ret_grpc)
{
	struct kms_grpc *g = calloc(1, sizeof(*g));
	int err;

	if (!g)
		return -ENOMEM;
	g->config = *config;
	TAILQ_INIT(&g->reading);
	sem_init(&g->down, 0, 0);
	atomic_store(&g->alive_ns, clock_boot_ns());
	unsetenv("GRPC_TRACE"); /* would write what is secret into the log */
	gpr_set_log_function(on_log);
	grpc_init();
	g->server = create_server();
	g->queue = grpc_completion_queue_create_for_next(NULL);
	g->credentials = grpc_insecure_server_credentials_create();
	grpc_server_register_completion_queue(g->server, g->queue, NULL);
	grpc_server_start(g->server);
	g->slots_lacking = SLOTS;
	offer_slots(g);
	err = pthread_create(&g->thread, NULL, run, g);
	if (err) {
		log_error("no thread for gRPC: %s: raise the limit of tasks", strerror(err));
		return -err; /* and the process ends */
	}
	*ret_grpc = g;
	return 0;
}

void
kms_grpc_add(struct kms_grpc *g, int fd)
{
	grpc_server_add_channel_from_fd(g->server, fd, g->credentials);
}

/* After shutdown_and_notify. */
static bool
wait_down(struct kms_grpc *g, uint64_t wait_ns)
{
	struct timespec until;
	int err;

	if (g->is_down)
		return true;
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += (time_t)(wait_ns / CLOCK_S);
	until.tv_nsec += (long)(wait_ns % CLOCK_S);
	until.tv_sec += until.tv_nsec / (long)CLOCK_S;
	until.tv_nsec %= (long)CLOCK_S;
	do
		err = sem_clockwait(&g->down, CLOCK_MONOTONIC, &until) == 0 ? 0 : errno;
	while (err == EINTR);
	g->is_down = err == 0;
	return g->is_down;
}

bool
kms_grpc_drain(struct kms_grpc *g, uint64_t wait_ns)
{
	uint64_t begin_ns = clock_boot_ns(), now_ns = begin_ns;

	grpc_server_shutdown_and_notify(g->server, g->queue, g);
	while (!wait_down(g, STEP_NS)) {
		now_ns = clock_boot_ns();
		if (now_ns - begin_ns >= wait_ns ||
			(now_ns - begin_ns >= FAREWELL_NS && atomic_load(&g->in_flight) == 0))
			return false;
	}
	return true;
}

bool
kms_grpc_cancel(struct kms_grpc *g, uint64_t wait_ns)
{
	grpc_server_cancel_all_calls(g->server);
	return wait_down(g, wait_ns);
}

void
kms_grpc_freep(struct kms_grpc **g)
{
	if (!*g)
		return;
	grpc_completion_queue_shutdown((*g)->queue);
	pthread_join((*g)->thread, NULL);
	grpc_server_destroy((*g)->server);
	grpc_completion_queue_destroy((*g)->queue);
	grpc_server_credentials_release((*g)->credentials);
	grpc_shutdown();
	sem_destroy(&(*g)->down);
	free(*g);
	*g = NULL;
}

/* ---- looked at ---- */

uint64_t
kms_grpc_alive_ns(const struct kms_grpc *g)
{
	return atomic_load(&g->alive_ns);
}

void
kms_grpc_metrics(struct kms_grpc *g, struct buf *out)
{
	struct metrics_text t = { .out = out };

	metrics_family(&t, "kekd_kms_grpc_calls_in_flight", METRICS_GAUGE,
		"gRPC calls that are not answered yet.");
	metrics_number(&t, atomic_load(&g->in_flight), NULL);
	metrics_family(&t, "kekd_kms_grpc_calls_total", METRICS_COUNTER,
		"gRPC calls that arrived, whatever their method.");
	metrics_number(&t, metrics_read(&g->calls), NULL);
	metrics_family(&t, "kekd_kms_grpc_refused_total", METRICS_COUNTER,
		"gRPC calls that nobody acted on.");
	metrics_number(&t, metrics_read(&g->full), "reason", "full", NULL);
	metrics_number(&t, metrics_read(&g->unknown), "reason", "unknown_method", NULL);
	metrics_number(&t, metrics_read(&g->unreadable), "reason", "unreadable", NULL);
	metrics_number(&t, metrics_read(&g->malformed), "reason", "malformed", NULL);
}
