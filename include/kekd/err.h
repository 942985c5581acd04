/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Errors: one enum, one table. Functions return 0 or a negative value: -errno (above -1000), or one
 * of enum kekd_err. Each of the latter has a stable code (what API clients see), an HTTP status and
 * a title.
 */
#ifndef KEKD_ERR_H
#define KEKD_ERR_H

/*     name                  code                          status  title */
#define KEKD_ERRORS(X) \
	X(KEKD_EINTERNAL, "internal", 500, "Something went wrong inside kekd") \
	X(KEKD_EINVALID, "invalid_request", 400, "The request is not valid") \
	X(KEKD_EJSON, "invalid_json", 400, "The body is not valid JSON") \
	X(KEKD_EMEMBER, "unknown_member", 400, "The body has a member that is not known here") \
	X(KEKD_EBASE64, "invalid_base64", 400, "A value is not padded RFC 4648 base64") \
	X(KEKD_EPLAINTEXT, "plaintext_size", 400, "A plaintext has 1 to 4096 bytes") \
	X(KEKD_ECONTEXT, "invalid_context", 400, "The context is not valid") \
	X(KEKD_ENAME, "invalid_name", 400, "The name is not valid") \
	X(KEKD_EUNWRAP, "unwrap_failed", 400, \
		"The ciphertext cannot be unwrapped under this key with this context") \
	X(KEKD_ECERTNONE, "certificate_required", 401, "A client certificate is needed") \
	X(KEKD_ECERTTRUST, "certificate_untrusted", 401, \
		"The client certificate is not from a trusted CA") \
	X(KEKD_ECERTEXPIRED, "certificate_expired", 401, "The client certificate has expired") \
	X(KEKD_ECERTEARLY, "certificate_not_yet_valid", 401, \
		"The client certificate is not valid yet") \
	X(KEKD_ECERTPURPOSE, "certificate_purpose", 401, "The certificate is not for TLS clients") \
	X(KEKD_ECERTIDENTITY, "certificate_identity", 401, \
		"The client certificate names no single identity") \
	X(KEKD_ECERTREVOKED, "certificate_revoked", 401, \
		"The client certificate, or a CA above it, was revoked") \
	X(KEKD_ECRLMISSING, "certificate_crl_missing", 401, \
		"There is no valid CRL of a CA that the client certificate stands on") \
	X(KEKD_ECRLEXPIRED, "certificate_crl_expired", 401, \
		"The CRL of a CA that the client certificate stands on has expired") \
	X(KEKD_EDENIED, "identity_denied", 403, "The identity is on this node's deny list") \
	X(KEKD_ECLIENT, "unknown_client", 403, "No client record has this identity") \
	X(KEKD_EADDRESS, "address_not_allowed", 403, "The client may not come from this address") \
	X(KEKD_EFORBIDDEN, "forbidden", 403, "No grant of this client covers the request") \
	X(KEKD_EAPPROVER, "approver_not_eligible", 403, \
		"This client may not approve this request") \
	X(KEKD_ENOAPPROVAL, "approval_not_found", 404, "The approval does not exist") \
	X(KEKD_EROUTE, "not_found", 404, "There is nothing at this path") \
	X(KEKD_ENOKEY, "key_not_found", 404, "The key does not exist") \
	X(KEKD_ENOVERSION, "version_not_found", 404, "The key has no such version") \
	X(KEKD_ENOOBJECT, "object_not_found", 404, \
		"No such object without a key is in the tokens") \
	X(KEKD_ENOSNAPSHOT, "snapshot_not_found", 404, "The snapshot is not registered") \
	X(KEKD_ENOCLIENT, "client_not_found", 404, "The client does not exist") \
	X(KEKD_EMETHOD, "method_not_allowed", 405, "The path does not take this method") \
	X(KEKD_ESTATE, "invalid_state", 409, "The version's state does not allow this") \
	X(KEKD_EFROZEN, "frozen", 409, "The key or the service only unwraps for now") \
	X(KEKD_ECONFIRM, "confirm_required", 409, \
		"What was restored from a backup is not confirmed yet") \
	X(KEKD_EAPPROVALENDED, "approval_not_pending", 409, "The request does not wait any more") \
	X(KEKD_EAPPROVALSFULL, "approvals_full", 409, "Too many requests wait for approval") \
	X(KEKD_EEVIDENCE, "evidence_changed", 409, "It is not as it was shown") \
	X(KEKD_ENEEDED, "needed_by_backup", 409, "A registered backup still needs the version") \
	X(KEKD_ESNAPSHOTSFULL, "snapshots_full", 409, "All registered snapshots are needed") \
	X(KEKD_EUSAGE, "usage_incomplete", 409, "The usage evidence is not complete") \
	X(KEKD_EDESTROYED, "version_destroyed", 410, "The version was destroyed") \
	X(KEKD_EDISABLED, "version_not_enabled", 409, "The version is not enabled") \
	X(KEKD_ENOTPRIMARY, "version_not_primary", 409, "Only the primary version wraps") \
	X(KEKD_EUNPROVEN, "version_unproven", 409, \
		"A member could not prove the version in its token") \
	X(KEKD_ENOPROOF, "member_unproven", 409, \
		"A member of the cluster has not proven the version in its token") \
	X(KEKD_ETAKEN, "identity_taken", 409, "Another client has this identity") \
	X(KEKD_ENONCES, "nonce_budget_exhausted", 409, \
		"The version has no IVs left: rotate the key") \
	X(KEKD_EUNREADY, "member_not_ready", 409, "The member is not ready for this") \
	X(KEKD_EATTRIBUTES, "key_attributes_refused", 409, \
		"The token made a key that is not held for ever inside it") \
	X(KEKD_EDUPLICATE, "duplicate_object", 409, "Two objects in the token have one CKA_ID") \
	X(KEKD_EPRECONDITION, "precondition_failed", 412, \
		"The record has changed since, or exists already") \
	X(KEKD_ETOOLARGE, "body_too_large", 413, "The body has more than 1 MiB") \
	X(KEKD_EMEDIATYPE, "unsupported_media_type", 415, "The body must be application/json") \
	X(KEKD_ENOCONDITION, "precondition_required", 428, \
		"The change needs If-Match or If-None-Match") \
	X(KEKD_ERATE, "rate_limited", 429, "The client sends more than its record allows") \
	X(KEKD_ESTARTING, "starting", 503, "The server is starting") \
	X(KEKD_ESTOPPING, "shutting_down", 503, "The server is stopping") \
	X(KEKD_EOVERLOAD, "overloaded", 503, "The server has all the work that it can hold") \
	X(KEKD_EHSM, "hsm_unavailable", 503, "The token cannot be used now") \
	X(KEKD_ETIMEOUT, "hsm_timeout", 503, "The token did not answer in time") \
	X(KEKD_EOBJECT, "key_object_missing", 503, "The version's object is not in the token") \
	X(KEKD_EPIN, "hsm_pin_refused", 503, "The token refused the PIN") \
	X(KEKD_EAUDIT, "audit_unavailable", 503, "The audit log cannot be written") \
	X(KEKD_ESTORE, "store_unavailable", 503, "The metadata store cannot be used now") \
	X(KEKD_ENOTACTIVE, "not_active", 503, "This node is not the active one now") \
	X(KEKD_ENOACTIVE, "no_active", 503, "No node is the active one now") \
	X(KEKD_EUNKNOWN, "version_unknown_here", 503, \
		"This node does not know it, and cannot look it up now") \
	X(KEKD_ESTALE, "stale", 503, "This node's copy of the metadata is too old") \
	X(KEKD_ECOMPACTED, "revision_compacted", 503, \
		"The store does not hold this old revision any more") \
	X(KEKD_EHELD, "store_held", 503, \
		"The metadata store is older than, or differs from, what was accepted") \
	X(KEKD_ERECORD, "record_refused", 503, "The record's seal does not verify")

enum kekd_err {
	KEKD_ERR_BASE = -1000, /* above this: -errno */
#define KEKD_ERR_ENUM(name, code, status, title) name,
	KEKD_ERR_FIRST = -1100,
	KEKD_ERRORS(KEKD_ERR_ENUM)
#undef KEKD_ERR_ENUM
		KEKD_ERR_END
};

struct kekd_err_info {
	int err;
	const char *code; /* stable, snake_case */
	int http_status;
	const char *title; /* one sentence without a full stop */
};

/* Never NULL: an -errno and an unknown value give the entry of KEKD_EINTERNAL. Static storage. */
const struct kekd_err_info *kekd_err_info(int err);

/* The entry with this code, or NULL. */
const struct kekd_err_info *kekd_err_find(const char *code);

/* A text for people: the title, or strerror of an -errno. Static or thread-local storage. */
const char *kekd_strerror(int err);

#endif
