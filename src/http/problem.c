/* SPDX-License-Identifier: Apache-2.0 */
/* Problem documents (RFC 9457). Which error has which code and status: include/kekd/err.h. */
#include "kekd/http.h"

void
problem_format(struct buf *b, int err, const char *detail, const char *request_id)
{
	problem_format_as(b, err, kekd_err_info(err)->http_status, detail, request_id);
}

void
problem_format_as(struct buf *b, int err, int status, const char *detail, const char *request_id)
{
	const struct kekd_err_info *info = kekd_err_info(err);

	buf_printf(b, "{\"type\":\"urn:kekd:error:%s\",\"title\":", info->code);
	buf_json_str(b, info->title);
	buf_printf(b, ",\"status\":%d,\"code\":\"%s\"", status, info->code);
	if (detail && *detail) {
		buf_str(b, ",\"detail\":");
		buf_json_str(b, detail);
	}
	if (request_id) {
		buf_str(b, ",\"request_id\":");
		buf_json_str(b, request_id);
	}
	buf_str(b, "}");
}
