/* SPDX-License-Identifier: Apache-2.0 */
/* Answers that are counted as they leave. */
#include "counts.h"

#include "kekd/clock.h"
#include "kekd/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define TELL_NS (10 * CLOCK_S)

static const char *const methods[METHODS] = {
	[METHOD_STATUS] = "Status",
	[METHOD_ENCRYPT] = "Encrypt",
	[METHOD_DECRYPT] = "Decrypt",
};

static const char *const statuses[KMS_STATUSES] = {
	[KMS_OK] = "OK",
	[KMS_CANCELLED] = "Canceled",
	[KMS_INVALID_ARGUMENT] = "InvalidArgument",
	[KMS_DEADLINE_EXCEEDED] = "DeadlineExceeded",
	[KMS_NOT_FOUND] = "NotFound",
	[KMS_PERMISSION_DENIED] = "PermissionDenied",
	[KMS_RESOURCE_EXHAUSTED] = "ResourceExhausted",
	[KMS_FAILED_PRECONDITION] = "FailedPrecondition",
	[KMS_UNIMPLEMENTED] = "Unimplemented",
	[KMS_INTERNAL] = "Internal",
	[KMS_UNAVAILABLE] = "Unavailable",
	[KMS_UNAUTHENTICATED] = "Unauthenticated",
};

const char *
kms_method_name(enum kms_method method)
{
	return methods[method];
}

const char *
kms_status_name(enum kms_status status)
{
	return statuses[status];
}

static void
count(const struct counted *as, enum kms_status status)
{
	metrics_add(&as->counts->calls[as->method][status], 1);
	metrics_observe(&as->counts->times[as->method], clock_boot_ns() - as->began_ns);
}

/* Before the answer: with it the call is gone, and who waited may ask for the metrics. */
void
counted_status(const struct counted *as, struct kms_call *c, const char *key_id)
{
	count(as, KMS_OK);
	kms_answer_status(c, key_id);
}

void
counted_encrypt(const struct counted *as, struct kms_call *c, struct kms_bytes ciphertext,
	const char *key_id, const struct kms_annotation *annotations, size_t n)
{
	count(as, KMS_OK);
	kms_answer_encrypt(c, ciphertext, key_id, annotations, n);
}

void
counted_decrypt(const struct counted *as, struct kms_call *c, struct kms_bytes plaintext)
{
	count(as, KMS_OK);
	kms_answer_decrypt(c, plaintext);
}

/* Thousands of calls may fail for one reason: a line of each kind in ten seconds. Why Status is
 * UNAVAILABLE is in the log already, when it changes. */
static void
tell(const struct counted *as, enum kms_status status, const char *text)
{
	struct counts *c = as->counts;
	uint64_t now = clock_boot_ns(), told = atomic_load(&c->told_ns[as->method][status]);

	if ((as->method == METHOD_STATUS && status == KMS_UNAVAILABLE) || status == KMS_CANCELLED)
		return;
	if ((told != 0 && now < told + TELL_NS) ||
		!atomic_compare_exchange_strong(&c->told_ns[as->method][status], &told, now)) {
		atomic_fetch_add(&c->untold[as->method][status], 1);
		return;
	}
	size_t len = strlen(methods[as->method]);
	if (strncmp(text, methods[as->method], len) == 0 && text[len] == ':')
		text += len + 2;
	log_warning("%s is answered with %s: %s", methods[as->method], statuses[status], text);
	uint64_t more = atomic_exchange(&c->untold[as->method][status], 0);
	if (more > 0)
		log_warning(
			"%llu more of these since the last such line", (unsigned long long)more);
}

void
counted_error(const struct counted *as, struct kms_call *c, enum kms_status status,
	const char *format, ...)
{
	char text[768];
	va_list ap;

	va_start(ap, format);
	vsnprintf(text, sizeof(text), format, ap);
	va_end(ap);
	count(as, status);
	tell(as, status, text);
	kms_answer_error(c, status, "%s", text);
}
