/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Health, for load balancers and people: is the process alive, should it get requests, is it the
 * node that changes things. Answers from memory, also while nothing else works. Anybody may ask, so
 * no key and no client is named: /v1/status does that.
 */
#include "api.h"

#include "kekd/clock.h"

#include <errno.h>
#include <string.h>

static void __attribute__((format(printf, 2, 3))) add(json_t *texts, const char *format, ...)
{
	va_list ap;
	json_t *text;

	va_start(ap, format);
	text = json_vsprintf(format, ap);
	va_end(ap);
	/* A reason that was lost would make the node look well. */
	json_array_append_new(
		texts, text ? text : json_string("something that cannot be written as UTF-8"));
}

static void
check_phase(struct node *n, json_t *reasons)
{
	int err = node_serves(n);

	if (err == 0)
		return;
	pthread_mutex_lock(&n->lock);
	add(reasons, "%s%s%s", kekd_strerror(err), *n->phase_reason ? ": " : "", n->phase_reason);
	pthread_mutex_unlock(&n->lock);
}

static void
check_tokens(struct node *n, json_t *reasons)
{
	for (unsigned i = 0; i < n->part.tokens_count; i++) {
		struct hsm_token_status t = { 0 };

		if (n->hsm && hsm_token_status(n->hsm, i, &t) == 0 && t.ready > 0)
			continue;
		add(reasons, "token %s has no worker that is ready%s", n->part.tokens[i],
			t.late > 0 ? ": it does not answer in time" : "");
	}
}

static void
check_audit(struct node *n, json_t *reasons)
{
	struct audit_status status;

	if (!n->audit) {
		add(reasons, "the audit log is not open");
		return;
	}
	audit_status(n->audit, &status);
	if (!status.ok)
		add(reasons, "the audit log cannot be written: %s", status.reason);
}

static void
check_store(struct node *n, json_t *reasons, json_t *warnings)
{
	struct sealed *store = atomic_load(&n->sealed);
	struct sealed_status status;

	if (!store)
		return; /* the phase says so */
	sealed_status(store, &status);
	/* What somebody did to etcd must not take both nodes from a load balancer: they serve the
	 * last good state. */
	if (status.hold != SEALED_HOLD_NONE)
		add(status.good && node_role(n) != ROLE_SINGLE ? warnings : reasons,
			"the store is held: %s", sealed_hold_text(status.hold));
	if (status.refused > 0)
		add(warnings,
			"records refused because they were changed outside of kekd: %zu; see "
			"/v1/status",
			status.refused);
}

/* One lost object must not take the other keys from their clients; a token that has none of them is
 * the wrong one. A standby that lacks one is no stand-in. */
static void
check_proofs(struct node *n, json_t *reasons, json_t *warnings)
{
	size_t failed = atomic_load(&n->proofs.failed), proven = atomic_load(&n->proofs.proven);
	struct http_active active;
	bool standby = node_role(n) == ROLE_STANDBY;

	/* Where nobody leads, it is no stand-in, but all that there is. */
	node_leader(n, &active);
	standby = standby && *active.node;
	if (standby && node_serves(n) == 0 && !atomic_load(&n->proofs.through))
		add(reasons, "this standby has yet to prove versions in its tokens");
	if (failed > 0)
		add(proven > 0 && !standby ? warnings : reasons,
			"%zu of %zu key versions could not be proven in this node's tokens", failed,
			atomic_load(&n->proofs.total));
}

static void
check_life(json_t *warnings, const char *what, const struct identity_life *life)
{
	uint64_t now_us = clock_real_us();
	enum identity_age age = identity_life_age(life, now_us);
	char end[CLOCK_TEXT_SIZE];

	if (age == IDENTITY_VALID)
		return;
	clock_format(life->to_us, end);
	add(warnings, "%s %s at %s", what, age == IDENTITY_OVER ? "has expired" : "expires", end);
}

/* Nothing of it is a reason not to serve: clients whose trust is in order go on. */
static void
check_certificates(struct node *n, json_t *warnings)
{
	static const char *const groups[] = { "server certificate", "client CA", "CRL" };
	struct http_certificates c;

	if (!n->http)
		return;
	http_certificates(n->http, &c);
	check_life(warnings, "the server's certificate", &c.server);
	check_life(warnings, "a client CA", &c.client_ca);
	if (c.has_crl)
		check_life(warnings,
			c.crl_warn_expired ? "a CRL, which is used even so when expired," : "a CRL",
			&c.crl);
	for (size_t i = 0; i < STR_COUNT(c.faults); i++)
		if (c.faults[i][0])
			add(warnings,
				"a changed %s cannot be used, the one before it stays in force; "
				"see /v1/status",
				groups[i]);
}

static void
check_reload(struct node *n, json_t *warnings)
{
	bool refused;

	pthread_mutex_lock(&n->lock);
	refused = n->reload.time_us != 0 && !n->reload.taken;
	pthread_mutex_unlock(&n->lock);
	if (refused)
		add(warnings, "the last reload was refused, everything stayed as it was; see "
			      "/v1/status");
}

static void
check_keys(struct node *n, json_t *warnings)
{
	size_t failing;

	if (atomic_load(&n->frozen))
		add(warnings, "the service is frozen: it unwraps, and does not wrap");
	pthread_mutex_lock(&n->lock);
	failing = n->rotations.failing_count;
	pthread_mutex_unlock(&n->lock);
	if (failing > 0)
		add(warnings, "%zu keys are due to rotate and could not; see /v1/status", failing);
}

/* More than one seal key is a move that was broken off. */
static void
check_seals(struct node *n, json_t *warnings)
{
	struct sealed *store = atomic_load(&n->sealed);
	struct sealed_status status = { 0 };

	if (store)
		sealed_status(store, &status);
	if (status.seal_keys > 1)
		add(warnings,
			"a move of the seals to another key is not finished: %zu records are left",
			status.old_seals);
}

/* What is recorded is recorded all the same. */
static void
check_signing(struct node *n, json_t *warnings)
{
	struct node_signing signing;

	node_signing(n, &signing);
	if (signing.state == SIGNING_MISSING || signing.state == SIGNING_FAILED)
		add(warnings, "the audit log is not signed; see /v1/status");
}

static bool
check(struct node *n, json_t *reasons, json_t *warnings)
{
	check_phase(n, reasons);
	check_tokens(n, reasons);
	check_audit(n, reasons);
	check_store(n, reasons, warnings);
	check_proofs(n, reasons, warnings);
	check_signing(n, warnings);
	check_certificates(n, warnings);
	check_reload(n, warnings);
	check_keys(n, warnings);
	check_seals(n, warnings);
	return reasons && json_array_size(reasons) == 0;
}

bool
api_is_ready(struct node *n)
{
	_cleanup_(json_freep) json_t *reasons = json_array();
	_cleanup_(json_freep) json_t *warnings = json_array();

	return check(n, reasons, warnings);
}

/* Of a pair: who else makes the changes is not for strangers. */
static void
check_role(struct node *n, json_t *reasons)
{
	struct http_active active;

	if (node_role(n) != ROLE_STANDBY)
		return;
	node_leader(n, &active);
	add(reasons, "%s",
		strcmp(active.node, n->part.node) == 0 ? "no node makes changes now: this one "
							 "takes over, or cannot renew its lease"
		: *active.node			       ? "another node makes the changes"
						       : "no node makes changes now");
}

static void
answer(struct request *r, const char *yes, const char *no,
	void (*more)(struct node *n, json_t *reasons))
{
	json_t *reasons = json_array(), *warnings = json_array(), *value;
	bool good = check(r->node, reasons, warnings);

	if (more)
		more(r->node, reasons);
	good = good && json_array_size(reasons) == 0;
	value = json_pack("{s:s, s:o, s:o, s:o}", "status", good ? yes : no, "reasons", reasons,
		"warnings", warnings, "proofs", api_proofs_json(r->node));
	if (value)
		request_answer_json(r, good ? 200 : 503, value);
	else
		request_fail(r, -ENOMEM, "no memory for the answer");
}

void
api_health_live(struct request *r)
{
	request_answer_json(r, 200, json_pack("{s:s}", "status", "live"));
}

void
api_health_ready(struct request *r)
{
	answer(r, "ready", "unready", NULL);
}

/* A node alone is the active one whenever it serves. */
void
api_health_active(struct request *r)
{
	answer(r, "active", "inactive", check_role);
}
