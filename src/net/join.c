/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kekd join: is this node all that it takes to become one of a cluster's? One check after the
 * other, each told on standard output as soon as it is made: what is, or what is missing and what
 * to do about it. The one thing that is changed is the file `accepted`, where there is none yet.
 * Not here: the checks (join_*.c).
 */
#include "join.h"

#include "kekd/clock.h"
#include "kekd/control.h"
#include "kekd/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum check { CONFIGURATION, CERTIFICATES, ETCD, CLOCK, CLUSTER, NAME, TOKENS, SEAL, MEMBERSHIP };

#define NEEDS(check) (1u << (check))

static const struct {
	const char *name;
	bool (*check)(struct join *j);
	unsigned needs; /* which are to be well before this one can be made */
} checks[] = {
	[CONFIGURATION] = { "configuration", join_check_configuration, 0 },
	[CERTIFICATES] = { "certificates", join_check_certificates, NEEDS(CONFIGURATION) },
	[ETCD] = { "etcd", join_check_etcd, NEEDS(CONFIGURATION) },
	[CLOCK] = { "clock", join_check_clock, NEEDS(ETCD) },
	[CLUSTER] = { "cluster", join_check_cluster, NEEDS(ETCD) },
	[NAME] = { "name", join_check_name, NEEDS(CLUSTER) },
	[TOKENS] = { "tokens", join_check_tokens, 0 },
	[SEAL] = { "seal", join_check_seal, NEEDS(CLUSTER) | NEEDS(NAME) | NEEDS(TOKENS) },
	[MEMBERSHIP] = { "membership", join_check_membership, NEEDS(CLUSTER) },
};

void
join_say(struct join *j, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	vsnprintf(j->text, sizeof(j->text), format, ap);
	va_end(ap);
}

bool
join_next(struct join *j, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	vsnprintf(j->next, sizeof(j->next), format, ap);
	va_end(ap);
	return false;
}

/* ---- what is told ---- */

struct report {
	bool json;
	json_t *rows;
	unsigned missing, unchecked;
};

/* A text from elsewhere is shown as one line. */
static void
plain(char *text)
{
	for (char *p = text; *p; p++)
		if ((unsigned char)*p < ' ' || *p == 0x7f)
			*p = ' ';
}

static void
tell(struct report *r, const char *name, const char *state, struct join *j)
{
	plain(j->text);
	plain(j->next);
	if (r->json) {
		json_array_append_new(
			r->rows, json_pack("{s:s, s:s, s:s, s:s?}", "check", name, "state", state,
					 "text", j->text, "next", *j->next ? j->next : NULL));
		return;
	}
	printf("%-14s %-8s %s\n", name, state, j->text);
	if (*j->next)
		printf("%-14s %-8s %s\n", "", "", j->next);
	fflush(stdout);
}

static int
tell_end(struct report *r, const struct join *j)
{
	bool ok = r->missing == 0 && r->unchecked == 0;
	const struct node *n = j->n;
	_cleanup_(json_freep) json_t *report = NULL;
	char *text;

	if (!r->json) {
		if (ok && j->runs_here)
			printf("\nNode %s has joined cluster %s, and is running.\n", n->part.node,
				n->part.cluster);
		else if (ok)
			printf("\nNode %s is ready: start kekd.\n", n->part.node);
		else
			printf("\nNode %s is not ready: put right what is missing, then run \"kekd "
			       "join\" again.\n",
				n->part.node);
		return ok ? CHILD_EXIT_OK : CHILD_EXIT_OPERATOR;
	}
	report = json_pack("{s:s, s:s, s:b, s:O}", "node", n->part.node, "cluster", n->part.cluster,
		"ok", (int)ok, "checks", r->rows);
	text = report ? json_canonical(report, NULL) : NULL;
	if (!text || puts(text) < 0)
		ok = false;
	json_text_free(text);
	return ok ? CHILD_EXIT_OK : CHILD_EXIT_OPERATOR;
}

/* ---- one after the other ---- */

/* The first that it needs and that is not well; or -1. */
static int
wanting(unsigned needs, unsigned well)
{
	for (size_t i = 0; i < STR_COUNT(checks); i++)
		if (needs & ~well & 1u << i)
			return (int)i;
	return -1;
}

static bool
check(struct report *r, struct join *j, size_t i, unsigned well)
{
	int before = wanting(checks[i].needs, well);
	bool ok = false;

	j->text[0] = j->next[0] = '\0';
	if (before >= 0) {
		join_say(j, "after %s", checks[before].name);
		r->unchecked++;
		tell(r, checks[i].name, "-", j);
		return false;
	}
	ok = checks[i].check(j);
	r->missing += !ok;
	tell(r, checks[i].name, ok ? "ok" : "missing", j);
	return ok;
}

int
node_join(struct node *n)
{
	struct join j = { .n = n };
	struct report r = { .json = n->part.task == NET_JOIN_JSON, .rows = json_array() };
	unsigned well = 0;
	int status;

	j.runs_here = node_runs_here(n);
	for (size_t i = 0; i < STR_COUNT(checks); i++)
		well |= check(&r, &j, i, well) ? 1u << i : 0;
	status = tell_end(&r, &j);
	etcd_freep(&j.etcd);
	json_decref(r.rows);
	return fflush(stdout) == 0 ? status : CHILD_EXIT_FAILED;
}
