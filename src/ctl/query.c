/* SPDX-License-Identifier: Apache-2.0 */
/* kekctl audit query: the records that match. */
#include "records.h"

#include "kekd/clock.h"

#include <string.h>

#define LIMIT 1000
#define LIMIT_MAX 100000000

struct query {
	const struct ctl *ctl;
	unsigned left;
};

static bool
show(const json_t *record, const char *line, void *user)
{
	struct query *q = user;

	if (!q->ctl->json) {
		audit_show_record(record);
	} else if (line) {
		puts(line);
	} else {
		char *text = json_dumps(record, JSON_COMPACT);
		puts(text ? text : "");
		json_text_free(text);
	}
	return --q->left > 0;
}

int
audit_query_run(struct ctl *ctl)
{
	struct query q = { ctl, LIMIT };
	struct records r = { 0 };
	uint64_t start = clock_monotonic_ns();
	double s;
	int status = args_number(&ctl->args, "limit", 1, LIMIT_MAX, &q.left);

	if (status == CTL_OK)
		status = records_take(ctl, &r);
	if (status == CTL_OK)
		status = records_read(ctl, &r, show, &q);
	if (status != CTL_OK || ctl->quiet)
		return status;
	s = (double)(clock_monotonic_ns() - start) / CLOCK_S;
	fflush(stdout);
	say_note("%llu of %llu records match (%.0f records a second)%s",
		(unsigned long long)r.matched, (unsigned long long)r.scanned,
		s > 0 ? (double)r.scanned / s : 0,
		q.left == 0 ? "; there may be more: --limit, or --since the last one's time" : "");
	return CTL_OK;
}
