/* SPDX-License-Identifier: Apache-2.0 */
/* Errors for people: what happened, and the next step, by a table of the server's codes. */
#include "ctl.h"

#include <stdarg.h>
#include <string.h>

static void __attribute__((format(printf, 2, 0)))
say(const char *before, const char *format, va_list args)
{
	char text[2048];

	vsnprintf(text, sizeof(text), format, args);
	for (char *p = text; *p; p++)
		memset(p, '?', str_control_len(p));
	fprintf(stderr, "%s%s\n", before, text);
}

void
say_error(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	say("kekctl: ", format, args);
	va_end(args);
}

void
say_hint(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	say("hint: ", format, args);
	va_end(args);
}

void
say_note(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	say("", format, args);
	va_end(args);
}

static const struct {
	const char *code, *hint;
} hints[] = {
	{ "internal", "the server's log has more under the request's id" },
	{ "invalid_request", "\"kekctl help COMMAND\" says what a command takes" },
	{ "invalid_json", "is the server older than this kekctl? compare \"kekctl status\" and "
			  "\"kekctl version\"" },
	{ "unknown_member", "is the server older than this kekctl? compare \"kekctl status\" and "
			    "\"kekctl version\"" },
	{ "invalid_base64", "the input must be what \"kekctl wrap\" wrote" },
	{ "plaintext_size", "kekd wraps data keys: encrypt the data with one made by \"kekctl "
			    "generate\", and wrap that" },
	{ "invalid_context", "at most 16 pairs and 4 KiB: --context K=V" },
	{ "invalid_name", "1 to 64 of a-z 0-9 . _ -, a letter or digit at both ends" },
	{ "unwrap_failed", "give the key and every --context pair as when it was wrapped, and the "
			   "whole ciphertext" },
	{ "certificate_required",
		"name certificate and key in kekctl.yaml, or give --cert and --key" },
	{ "certificate_untrusted",
		"the CA that issued the certificate must be in the server's tls.client_ca" },
	{ "certificate_expired",
		"have a new certificate issued, with the same URI or DNS name in it" },
	{ "certificate_not_yet_valid", "compare the clocks of the CA's host, here and the server" },
	{ "certificate_purpose",
		"have it issued with the extended key usage clientAuth (TLS Web Client "
		"Authentication)" },
	{ "certificate_identity",
		"have it issued with exactly one URI, or with a DNS name, as subject alternative "
		"name" },
	{ "certificate_revoked",
		"have a new certificate issued, with the same URI or DNS name in it" },
	{ "certificate_crl_missing",
		"the server's crl.file needs a CRL of every CA that signed the certificate" },
	{ "certificate_crl_expired", "the server's crl.file needs that CA's new CRL" },
	{ "identity_denied", "the server's configuration has the identity under deny: take it out, "
			     "then SIGHUP" },
	{ "unknown_client", "an administrator adds it: kekctl client add NAME --identity ID "
			    "--grant 'KEYS:OPS'" },
	{ "address_not_allowed",
		"come from an address in the client's record, or have it widened" },
	{ "forbidden", "\"kekctl whoami\" shows what this client may do" },
	{ "approver_not_eligible", "another administrator approves it: kekctl approve ID" },
	{ "approval_not_found", "\"kekctl approvals\" shows what waits" },
	{ "approval_not_pending", "\"kekctl approvals\" shows what came of it" },
	{ "approvals_full", "\"kekctl approvals\" shows what waits: approve or reject some of it" },
	{ "evidence_changed", "look at it as it is now, then decide again" },
	{ "needed_by_backup",
		"\"kekctl snapshot list\" shows the backups, \"kekctl key usage NAME\" "
		"which of them need it" },
	{ "snapshots_full",
		"\"kekctl snapshot list\" shows until when each is needed; wait, or give "
		"one up: kekctl snapshot forget ID --force" },
	{ "usage_incomplete", "\"kekctl key usage NAME\" says since when records are missing" },
	{ "version_destroyed", "nothing unwraps it any more" },
	{ "not_found", "is the server older than this kekctl? compare \"kekctl status\" and "
		       "\"kekctl version\"" },
	{ "key_not_found", "\"kekctl key list\" shows the keys" },
	{ "version_not_found", "\"kekctl key show NAME\" shows the versions" },
	{ "object_not_found", "\"kekctl hsm objects\" shows the objects that no key knows" },
	{ "snapshot_not_found", "\"kekctl snapshot list\" shows the registered backups" },
	{ "client_not_found", "\"kekctl client list\" shows the clients" },
	{ "method_not_allowed", "is the server older than this kekctl? compare \"kekctl status\" "
				"and \"kekctl version\"" },
	{ "invalid_state", "\"kekctl key show NAME\" shows every version's state" },
	{ "frozen", "kekctl key unfreeze NAME, or kekctl cluster unfreeze" },
	{ "confirm_required", "look at keys and clients, then: kekctl cluster confirm" },
	{ "version_not_enabled", "kekctl key enable NAME VERSION" },
	{ "version_not_primary", "leave --version-id out, or make the version primary: kekctl key "
				 "primary NAME VERSION" },
	{ "version_unproven", "the primary is as before; \"kekctl hsm status\" shows the token; "
			      "then rotate again: the staged version is used" },
	{ "member_unproven",
		"\"kekctl cluster status\" shows the members; bring it back or forget it, "
		"then rotate again: the staged version is used" },
	{ "identity_taken", "\"kekctl client list\" shows which client has it" },
	{ "nonce_budget_exhausted", "kekctl key rotate NAME" },
	{ "key_attributes_refused", "the token's policy lets keys out: see its manual; such a key "
				    "is never used" },
	{ "duplicate_object", "\"kekctl hsm objects\" and the vendor's tool show them: one has to "
			      "go" },
	{ "precondition_failed", "look at it as it is now, then decide again" },
	{ "member_not_ready", "\"kekctl cluster status\" shows what each member lacks" },
	{ "body_too_large", "send less in one request" },
	{ "rate_limited", "try again later, or have the client's limits raised" },
	{ "starting", "try again in a moment; \"kekctl status\" says how far it is" },
	{ "shutting_down", "try again in a moment, or at another --endpoint" },
	{ "overloaded", "try again in a moment" },
	{ "hsm_unavailable", "\"kekctl hsm status\" shows tokens and workers" },
	{ "hsm_timeout", "try again; \"kekctl hsm status\" shows tokens and workers" },
	{ "key_object_missing", "is it the right token, and is it whole? \"kekctl hsm status\", "
				"\"kekctl key show NAME\"" },
	{ "hsm_pin_refused", "put the right PIN into the server's pin-source" },
	{ "audit_unavailable",
		"\"kekctl audit head\" says why; make room, and it goes on by itself" },
	{ "store_unavailable",
		"\"kekctl status\" and the server's log say why; reading the record tells whether "
		"the change was made" },
	{ "not_active", "try again: another node is the active one, or becomes it" },
	{ "no_active",
		"try again in a moment; \"kekctl cluster status\" shows who is there and ready" },
	{ "revision_compacted", "try again" },
	{ "store_held", "\"kekctl status\" says why; put the right metadata.db back" },
	{ "record_refused", "\"kekctl status\" lists the records that were changed from outside; "
			    "restore them from a backup; one that another release wrote takes that "
			    "release" },
};

const char *
hint_for(const char *code)
{
	for (size_t i = 0; i < STR_COUNT(hints); i++)
		if (strcmp(hints[i].code, code) == 0)
			return hints[i].hint;
	return NULL;
}

static const struct {
	int status;
	enum ctl_exit exit;
} exits[] = {
	{ 401, CTL_REFUSED },
	{ 403, CTL_REFUSED },
	{ 404, CTL_NOT_FOUND },
	{ 409, CTL_CONFLICT },
	{ 412, CTL_CONFLICT },
	{ 428, CTL_CONFLICT },
	{ 429, CTL_UNAVAILABLE },
	{ 503, CTL_UNAVAILABLE },
};

static int
exit_for(int status)
{
	for (size_t i = 0; i < STR_COUNT(exits); i++)
		if (exits[i].status == status)
			return exits[i].exit;
	return CTL_FAILED;
}

int
say_problem(const struct kekd_reply *r)
{
	const char *hint = hint_for(r->code);

	if (!r->code[0]) {
		say_error(
			"the server answered with HTTP status %d and without a reason", r->status);
		say_hint("is it kekd that listens at the endpoint?");
	} else if (r->request_id[0]) {
		say_error("%s (code %s, request %s)", r->detail, r->code, r->request_id);
	} else {
		say_error("%s (code %s)", r->detail, r->code);
	}
	if (hint && r->retry_after_s > 0)
		say_hint("%s (not before %u s)", hint, r->retry_after_s);
	else if (hint)
		say_hint("%s", hint);
	if (r->repeated)
		say_hint("an earlier attempt's answer was lost: it may have been this very command "
			 "that "
			 "did it");
	return exit_for(r->status);
}

int
say_no_answer(const char *what)
{
	say_error("the server's answer has %s: no kekd gives that", what);
	say_hint("is it kekd that listens at the endpoint? compare \"kekctl status\" and \"kekctl "
		 "version\"");
	return CTL_FAILED;
}
