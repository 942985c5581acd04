/* SPDX-License-Identifier: Apache-2.0 */
/* The API's own description, as it was at the build. */
#include "api.h"

#include <errno.h>

void
api_openapi(struct request *r)
{
	buf_put(&r->reply, api_openapi_yaml, api_openapi_yaml_len);
	if (r->reply.bad)
		request_fail(r, -ENOMEM, "no memory for the answer: ask again");
	else
		request_answer_buf(r, 200, "application/yaml");
}
