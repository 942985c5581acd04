/* SPDX-License-Identifier: Apache-2.0 */
/* POST /v1/backup: the metadata as one document, sealed and signed by the token. No secret is in
 * it: keys stay in the token, a canary is a wrapped nonce. */
#include "api.h"

#include "kekd/backup.h"
#include "kekd/clock.h"
#include "kekd/log.h"

#include <errno.h>
#include <string.h>

/* What a node says of itself for some seconds is nothing to keep. */
static bool
is_kept(const char *path)
{
	return strncmp(path, "nodes/", strlen("nodes/")) != 0;
}

static int
add_record(const char *path, json_t *body, uint64_t commit, void *user)
{
	if (!is_kept(path))
		return 0;
	return json_array_append_new(user, json_pack("{s:s, s:O, s:I}", "path", path, "body", body,
						   "commit", (json_int_t)commit)) < 0
		       ? -ENOMEM
		       : 0;
}

/* The log's end is taken before the records: what changes after them is in the log behind it. */
static json_t *
begin(struct node *n)
{
	struct audit_status audit;
	struct sealed_status store;
	char created[CLOCK_TEXT_SIZE];

	audit_status(n->audit, &audit);
	sealed_status(n->sealed, &store);
	clock_format(clock_real_us(), created);
	return json_pack("{s:i, s:s, s:s, s:s, s:s, s:s, s:I, s:{s:I, s:s}, s:[]}", "kekd_backup",
		BACKUP_FORMAT, "cluster", n->part.cluster, "generation", store.generation, "node",
		n->part.node, "created", created, "version", PACKAGE_VERSION, "revision",
		(json_int_t)store.number, "audit", "sequence", (json_int_t)audit.sequence, "head",
		audit.head, "records");
}

/* Not having a signature is no reason not to have a backup: the seal is what a restore checks. */
int
api_sign(struct node *n, const uint8_t digest[BACKUP_DIGEST_SIZE], struct node_signing *ret_public,
	uint8_t ret_signature[BACKUP_SIGNATURE_SIZE])
{
	int err = node_sign(n, digest, ret_signature);

	if (err == 0)
		node_signing(n, ret_public);
	else
		log_warning("a backup or drill is not signed: %s", kekd_strerror(err));
	return err;
}

static int
seal(struct node *n, json_t *document)
{
	uint8_t digest[BACKUP_DIGEST_SIZE], hmac[BACKUP_DIGEST_SIZE];
	uint8_t signature[BACKUP_SIGNATURE_SIZE];
	struct node_signing public;
	char key[UUID_TEXT_SIZE];
	struct uuid id;
	int err = backup_digest(document, digest);

	if (err == 0)
		err = sealed_digest(n->sealed, digest, &id, hmac);
	if (err < 0)
		return err;
	uuid_format(&id, key);
	err = backup_add_seal(document, key, hmac);
	if (err == 0 && api_sign(n, digest, &public, signature) == 0)
		err = backup_add_signature(
			document, public.public, sizeof(public.public), signature);
	return err;
}

static int
make(struct node *n, json_t **ret_document)
{
	json_t *document = begin(n);
	int err = document
			  ? sealed_each(n->sealed, add_record, json_object_get(document, "records"))
			  : -ENOMEM;

	if (err == 0)
		err = seal(n, document);
	if (err < 0) {
		json_decref(document);
		return err;
	}
	*ret_document = document;
	return 0;
}

static void
answer(struct request *r, json_t *document)
{
	json_t *audit = json_object_get(document, "audit");
	size_t records = json_array_size(json_object_get(document, "records"));
	size_t len = 0;
	char *text = json_canonical(document, &len);

	if (text && len <= BACKUP_SIZE_MAX)
		buf_put(&r->reply, text, len);
	json_text_free(text);
	if (!text || len > BACKUP_SIZE_MAX || r->reply.bad) {
		request_fail(r, text ? KEKD_ETOOLARGE : -ENOMEM,
			"a backup of %zu records has %zu bytes, at most %zu can be sent: stop kekd "
			"and copy state_dir",
			records, len, BACKUP_SIZE_MAX);
		return;
	}
	api_set_detail(r,
		json_pack("{s:I, s:I, s:I, s:O}", "records", (json_int_t)records, "bytes",
			(json_int_t)len, "revision",
			json_integer_value(json_object_get(document, "revision")), "audit", audit));
	request_answer_buf(r, 200, "application/json");
}

void
api_backup_create(struct request *r)
{
	_cleanup_(json_freep) json_t *document = NULL;
	char error[JSON_ERROR_SIZE] = "";
	int err = json_take(r->body, NULL, 0, error);

	if (err < 0) {
		request_fail(r, err, "%s", error);
		return;
	}
	err = make(r->node, &document);
	if (err == KEKD_ERECORD)
		request_fail(r, err,
			"a record was changed outside of kekd, and a backup must be whole: see "
			"\"kekctl status\", put the record back, then repeat");
	else if (err < 0)
		request_fail(r, err, "no backup was made: %s", kekd_strerror(err));
	else
		answer(r, document);
}
