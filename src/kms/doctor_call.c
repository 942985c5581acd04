/* SPDX-License-Identifier: Apache-2.0 */
/* One Status call over the socket, by gRPC core, as an API server makes it. */
#include "doctor.h"

#include "kekd/clock.h"
#include "kekd/str.h"

#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/support/alloc.h>
#include <grpc/support/log.h>
#include <src/kms/kms.pb-c.h>
#include <stdio.h>
#include <string.h>

#define METHOD "/v2.KeyManagementService/Status"

struct status_call {
	grpc_completion_queue *queue;
	grpc_channel *channel;
	grpc_call *call;
	grpc_byte_buffer *request, *reply;
	grpc_metadata_array initial, trailing;
	grpc_status_code code;
	grpc_slice details;
};

/* What it would log is in the call's status. */
static void
say_nothing(gpr_log_func_args *args)
{
	(void)args;
}

static gpr_timespec
in_ns(uint64_t ns)
{
	return gpr_time_add(
		gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_nanos((int64_t)ns, GPR_TIMESPAN));
}

static void
call_open(struct status_call *c, const char *socket, uint64_t timeout_ns)
{
	grpc_channel_credentials *credentials = grpc_insecure_credentials_create();
	grpc_arg arg = { .type = GRPC_ARG_STRING,
		.key = (char *)(uintptr_t)GRPC_ARG_DEFAULT_AUTHORITY,
		.value.string = (char *)(uintptr_t) "localhost" };
	const grpc_channel_args args = { 1, &arg };
	char target[512];

	snprintf(target, sizeof(target), "unix:%s", socket);
	c->queue = grpc_completion_queue_create_for_next(NULL);
	c->channel = grpc_channel_create(target, credentials, &args);
	grpc_channel_credentials_release(credentials);
	c->call = grpc_channel_create_call(c->channel, NULL, GRPC_PROPAGATE_DEFAULTS, c->queue,
		grpc_slice_from_static_string(METHOD), NULL, in_ns(timeout_ns), NULL);
	c->request = grpc_raw_byte_buffer_create(NULL, 0);
	c->details = grpc_empty_slice();
	grpc_metadata_array_init(&c->initial);
	grpc_metadata_array_init(&c->trailing);
}

/* Its deadline ends it at the latest. */
static void
call_run(struct status_call *c)
{
	const grpc_op ops[] = {
		{ .op = GRPC_OP_SEND_INITIAL_METADATA },
		{ .op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = c->request },
		{ .op = GRPC_OP_SEND_CLOSE_FROM_CLIENT },
		{ .op = GRPC_OP_RECV_INITIAL_METADATA,
			.data.recv_initial_metadata.recv_initial_metadata = &c->initial },
		{ .op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &c->reply },
		{ .op = GRPC_OP_RECV_STATUS_ON_CLIENT,
			.data.recv_status_on_client = {
				.trailing_metadata = &c->trailing,
				.status = &c->code,
				.status_details = &c->details,
			} },
	};

	if (grpc_call_start_batch(c->call, ops, STR_COUNT(ops), c, NULL) == GRPC_CALL_OK)
		grpc_completion_queue_next(c->queue, gpr_inf_future(GPR_CLOCK_REALTIME), NULL);
}

static void
call_close(struct status_call *c)
{
	grpc_metadata_array_destroy(&c->initial);
	grpc_metadata_array_destroy(&c->trailing);
	grpc_slice_unref(c->details);
	if (c->reply)
		grpc_byte_buffer_destroy(c->reply);
	grpc_byte_buffer_destroy(c->request);
	grpc_call_unref(c->call);
	grpc_channel_destroy(c->channel);
	grpc_completion_queue_shutdown(c->queue);
	while (grpc_completion_queue_next(c->queue, gpr_inf_future(GPR_CLOCK_REALTIME), NULL)
			.type != GRPC_QUEUE_SHUTDOWN)
		;
	grpc_completion_queue_destroy(c->queue);
}

/* ---- what was answered ---- */

static void
take_text(const ProtobufCBinaryData *b, char *ret_text, size_t size)
{
	size_t len = b->len < size ? b->len : size - 1;

	memcpy(ret_text, b->data ? b->data : (const uint8_t *)"", b->data ? len : 0);
	ret_text[b->data ? len : 0] = '\0';
}

static bool
take_reply(struct status_call *c, struct doctor_status *s)
{
	grpc_byte_buffer_reader reader;
	Kms__StatusResponse *m;
	grpc_slice slice;

	if (!c->reply || !grpc_byte_buffer_reader_init(&reader, c->reply))
		return false;
	slice = grpc_byte_buffer_reader_readall(&reader);
	grpc_byte_buffer_reader_destroy(&reader);
	m = kms__status_response__unpack(
		NULL, GRPC_SLICE_LENGTH(slice), GRPC_SLICE_START_PTR(slice));
	grpc_slice_unref(slice);
	if (!m)
		return false;
	take_text(&m->version, s->version, sizeof(s->version));
	take_text(&m->healthz, s->healthz, sizeof(s->healthz));
	take_text(&m->key_id, s->key_id, sizeof(s->key_id));
	kms__status_response__free_unpacked(m, NULL);
	return true;
}

static void
take_error(const struct status_call *c, struct doctor_status *s)
{
	snprintf(s->text, sizeof(s->text), "%.*s (gRPC status %d)",
		(int)GRPC_SLICE_LENGTH(c->details), (const char *)GRPC_SLICE_START_PTR(c->details),
		(int)c->code);
}

void
doctor_call_status(const char *socket, uint64_t timeout_ns, struct doctor_status *ret_status)
{
	struct status_call c = { .code = GRPC_STATUS_UNKNOWN };
	struct doctor_status s = { .answered = false };
	uint64_t began_ns = clock_boot_ns();

	gpr_set_log_function(say_nothing);
	grpc_init();
	call_open(&c, socket, timeout_ns);
	call_run(&c);
	if (c.code != GRPC_STATUS_OK)
		take_error(&c, &s);
	else if (!(s.answered = take_reply(&c, &s)))
		snprintf(s.text, sizeof(s.text), "the answer is no StatusResponse");
	s.took_ns = clock_boot_ns() - began_ns;
	call_close(&c);
	grpc_shutdown_blocking();
	*ret_status = s;
}
