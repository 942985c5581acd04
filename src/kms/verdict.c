/* SPDX-License-Identifier: Apache-2.0 */
/* Answers to all who wait for one thing: outside of the backend's lock. */
#include "backend_inner.h"

#include "kekd/str.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const enum kms_method flight_methods[FLIGHT_KINDS] = {
	[FLIGHT_ENCRYPT] = METHOD_ENCRYPT,
	[FLIGHT_DECRYPT] = METHOD_DECRYPT,
};

static struct counted
counted_as(struct backend *b, enum flight_kind kind, const struct waiter *w)
{
	return (struct counted){ b->parts.counts, flight_methods[kind], w->joined_ns };
}

static struct kms_bytes
bytes_of(const char *text)
{
	return (struct kms_bytes){ (const uint8_t *)text, strlen(text) };
}

/* Names are lower-case domain names, else the API server refuses the whole answer. */
static void
answer_encrypt(
	struct backend *b, const struct counted *as, struct kms_call *c, const struct verdict *v)
{
	const struct kms_config *config = b->parts.config;
	char version[16];

	snprintf(version, sizeof(version), "%u", v->answer->version);
	const struct kms_annotation annotations[] = {
		{ bytes_of("cluster.kms.kekd"), bytes_of(config->cluster) },
		{ bytes_of("provider.kms.kekd"), bytes_of(config->provider) },
		{ bytes_of("key.kms.kekd"), bytes_of(config->key) },
		{ bytes_of("version.kms.kekd"), bytes_of(version) },
		{ bytes_of("request.kms.kekd"), bytes_of(v->answer->request_id) },
	};
	counted_encrypt(as, c, (struct kms_bytes){ v->answer->bytes.data, v->answer->bytes.len },
		v->id.text, annotations, STR_COUNT(annotations));
}

static void
answer_one(struct backend *b, const struct waiter *w, const struct verdict *v)
{
	struct counted as = counted_as(b, v->kind, w);
	const struct ask_answer *a = v->answer;

	if (a->status != KMS_OK)
		counted_error(&as, w->call, a->status, "%s", a->text);
	else if (v->kind == FLIGHT_ENCRYPT)
		answer_encrypt(b, &as, w->call, v);
	else
		counted_decrypt(&as, w->call, (struct kms_bytes){ a->bytes.data, a->bytes.len });
}

void
verdict_answer_all(struct backend *b, struct waiter *waiters, const struct verdict *v)
{
	while (waiters) {
		struct waiter *w = waiters;
		waiters = w->next;
		answer_one(b, w, v);
		free(w);
	}
}
