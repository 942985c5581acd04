/* SPDX-License-Identifier: Apache-2.0 */
/* Who the server takes the caller for, and what it may do. */
#include "api.h"

#include <errno.h>

void
api_whoami(struct request *r)
{
	_cleanup_(json_freep) json_t *record = client_to_json(r->client);
	json_t *value = json_pack("{s:s, s:s, s:s, s:s, s:o, s:O}", "client", r->client->name,
		"identity", r->identity.name, "spki", r->identity.spki, "address", r->address,
		"certificate_expires", api_time(r->identity.not_after_us), "grants",
		json_object_get(record, "grants"));

	if (value)
		request_answer_json(r, 200, value);
	else
		request_fail(r, -ENOMEM, "no memory for the answer: ask again");
}
