/* SPDX-License-Identifier: Apache-2.0 */
/* See doubles.h. AES-GCM is OpenSSL's; seals are left out. */
#include "doubles.h"

#include "kekd/blob.h"
#include "kekd/clock.h"
#include "kekd/err.h"

#include <errno.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct doubles *
doubles_open(void)
{
	struct doubles *d = mmap(
		NULL, sizeof(*d), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (d == MAP_FAILED)
		abort();
	d->new_attributes = HSM_ATTR_HELD;
	d->iv_len = 12;
	return d;
}

void
doubles_close(struct doubles *d)
{
	munmap(d, sizeof(*d));
}

void
doubles_arm(struct doubles *d, enum doubles_event event, unsigned at)
{
	d->calls = 0;
	d->event = event;
	d->event_at = at;
}

/* Every double begins with before() and ends with after(). */
static bool
before(struct doubles *d)
{
	bool now = ++d->calls == d->event_at;

	if (now && d->event == DOUBLES_EXIT_BEFORE)
		_exit(0);
	return now && d->event == DOUBLES_FAIL_BEFORE;
}

static int
after(struct doubles *d, int result, int failure)
{
	bool now = d->calls == d->event_at;

	if (now && d->event == DOUBLES_EXIT_AFTER)
		_exit(0);
	return now && d->event == DOUBLES_FAIL_AFTER ? failure : result;
}

/* ---- the store ---- */

struct doubles_record *
doubles_find(struct doubles *d, const char *path)
{
	for (size_t i = 0; i < DOUBLES_RECORDS; i++)
		if (d->records[i].commit > 0 && strcmp(d->records[i].path, path) == 0)
			return &d->records[i];
	return NULL;
}

int
sealed_get(struct sealed *s, const char *path, struct sealed_record *ret_record)
{
	struct doubles *d = (struct doubles *)s;
	struct doubles_record *r = doubles_find(d, path);

	if (before(d))
		return KEKD_ESTORE;
	if (!r)
		return after(d, -ENOENT, KEKD_ESTORE);
	ret_record->path = strdup(path);
	ret_record->body = json_loads(r->body, 0, NULL);
	ret_record->commit = r->commit;
	if (after(d, 0, KEKD_ESTORE) == 0)
		return 0;
	sealed_record_free(ret_record);
	return KEKD_ESTORE;
}

void
sealed_record_free(struct sealed_record *r)
{
	free(r->path);
	json_decref(r->body);
	*r = (struct sealed_record){ 0 };
}

static int
put(struct doubles *d, const char *path, uint64_t expected, const json_t *body, uint64_t commit)
{
	struct doubles_record *r = doubles_find(d, path);
	size_t len;

	if (expected != STORE_ANY && expected != (r ? r->commit : 0))
		return KEKD_EPRECONDITION;
	for (size_t i = 0; !r; i++)
		if (i == DOUBLES_RECORDS)
			return KEKD_ESTORE;
		else if (d->records[i].commit == 0)
			r = &d->records[i];
	len = json_dumpb(body, r->body, sizeof(r->body) - 1, JSON_COMPACT);
	if (len == 0 || len >= sizeof(r->body))
		abort();
	r->body[len] = '\0';
	strcpy(r->path, path);
	r->commit = commit;
	return 0;
}

static int
check(struct doubles *d, const struct sealed_change *change)
{
	struct doubles_record *r = doubles_find(d, change->path);

	return change->expected == STORE_ANY || change->expected == (r ? r->commit : 0)
		       ? 0
		       : KEKD_EPRECONDITION;
}

uint64_t
sealed_number(struct sealed *s)
{
	return ((struct doubles *)s)->number;
}

int
sealed_commit(
	struct sealed *s, const struct sealed_change *changes, size_t count, uint64_t *ret_number)
{
	struct doubles *d = (struct doubles *)s;
	int err = 0;

	if (before(d))
		return KEKD_ESTORE;
	if (count == 2)
		err = check(d, &changes[1]);
	else if (count != 1)
		abort();
	if (err == 0)
		err = put(d, changes->path, changes->expected, changes->body, d->number + 1);
	if (err == 0 && count == 2)
		err = put(d, changes[1].path, STORE_ANY, changes[1].body, d->number + 1);
	if (err == 0)
		*ret_number = ++d->number;
	return after(d, err, KEKD_ESTORE);
}

int
sealed_spare_put(struct sealed *s, const char *name, uint64_t number)
{
	(void)s, (void)name, (void)number;
	return 1;
}

int
sealed_spare_take(struct sealed *s, const char *name, uint64_t *ret_number)
{
	(void)s, (void)name;
	*ret_number = 0;
	return 0;
}

int
sealed_put_own(
	struct sealed *s, const char *path, uint64_t expected, json_t *body, uint64_t *ret_number)
{
	struct doubles *d = (struct doubles *)s;
	struct doubles_record *r = doubles_find(d, path);
	uint64_t number = r ? r->commit + 1 : 1;
	int err;

	if (before(d))
		return KEKD_ESTORE;
	err = put(d, path, expected, body, number);
	if (err == 0)
		*ret_number = number;
	return after(d, err, KEKD_ESTORE);
}

/* ---- the token ---- */

size_t
doubles_objects(const struct doubles *d)
{
	size_t n = 0;

	for (size_t i = 0; i < DOUBLES_OBJECTS; i++)
		n += d->objects[i].id.len > 0;
	return n;
}

static struct doubles_object *
find_object(struct doubles *d, unsigned token, const struct object_id *id)
{
	for (size_t i = 0; i < DOUBLES_OBJECTS; i++) {
		struct doubles_object *o = &d->objects[i];
		if (o->id.len == id->len && o->token == token &&
			memcmp(o->id.b, id->b, id->len) == 0)
			return o;
	}
	return NULL;
}

static int
create(struct doubles *d, struct hsm_op *op)
{
	struct doubles_object *o = find_object(d, op->token, &op->object);

	for (size_t i = 0; !o && i < DOUBLES_OBJECTS; i++)
		if (d->objects[i].id.len == 0) {
			o = &d->objects[i];
			o->token = op->token;
			o->id = op->object;
			o->attributes = d->new_attributes;
			memcpy(o->label, op->in, op->in_len);
			RAND_bytes(o->key, sizeof(o->key));
		}
	if (!o)
		abort();
	op->attributes = o->attributes;
	return o->attributes == HSM_ATTR_HELD ? 0 : KEKD_EATTRIBUTES;
}

static int
compute(struct doubles *d, struct hsm_op *op)
{
	struct doubles_object *o = find_object(d, op->token, &op->object);
	bool wrap = op->kind == HSM_OP_WRAP;
	size_t len = wrap ? op->in_len : op->in_len - BLOB_TAG_SIZE;
	uint8_t tag[BLOB_TAG_SIZE];
	EVP_CIPHER_CTX *c;
	int n, good;

	if (!o)
		return KEKD_EOBJECT;
	if (wrap) {
		op->iv_len = d->iv_len;
		RAND_bytes(op->iv, op->iv_len);
	} else {
		memcpy(tag, op->in + len, sizeof(tag));
	}
	op->out_len = (uint32_t)(wrap ? len + BLOB_TAG_SIZE : len);
	if (op->out_len > op->out_cap)
		abort();
	c = EVP_CIPHER_CTX_new();
	EVP_CipherInit_ex(c, EVP_aes_256_gcm(), NULL, NULL, NULL, wrap);
	EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_AEAD_SET_IVLEN, op->iv_len, NULL);
	EVP_CipherInit_ex(c, NULL, NULL, o->key, op->iv, wrap);
	EVP_CipherUpdate(c, NULL, &n, op->aad, (int)op->aad_len);
	EVP_CipherUpdate(c, op->out, &n, op->in, (int)len);
	if (!wrap)
		EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_AEAD_SET_TAG, BLOB_TAG_SIZE, tag);
	good = EVP_CipherFinal_ex(c, op->out + n, &n);
	if (wrap)
		EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_AEAD_GET_TAG, BLOB_TAG_SIZE, op->out + len);
	EVP_CIPHER_CTX_free(c);
	return good == 1 ? 0 : KEKD_EUNWRAP;
}

/* One that is not there is gone already. */
static int
destroy(struct doubles *d, const struct hsm_op *op)
{
	for (size_t i = 0; i < DOUBLES_OBJECTS; i++) {
		struct doubles_object *o = &d->objects[i];
		if (o->id.len == op->object.len && o->token == op->token &&
			memcmp(o->id.b, op->object.b, o->id.len) == 0)
			*o = (struct doubles_object){ 0 };
	}
	return 0;
}

int
hsm_call(struct hsm *hsm, struct hsm_op *ops, size_t count)
{
	struct doubles *d = (struct doubles *)hsm;

	if (count != 1)
		abort();
	if (before(d))
		return KEKD_EHSM;
	if (ops->until_ns != 0 && clock_boot_ns() >= ops->until_ns)
		ops->err = KEKD_ENOTACTIVE;
	else if (ops->kind == HSM_OP_DESTROY)
		ops->err = destroy(d, ops);
	else
		ops->err = ops->kind == HSM_OP_CREATE_KEK ? create(d, ops) : compute(d, ops);
	ops->err = after(d, ops->err, KEKD_ETIMEOUT);
	return 0;
}

int
hsm_drop_everywhere(struct hsm *hsm, unsigned token, const struct object_id *object)
{
	struct doubles *d = (struct doubles *)hsm;

	(void)token;
	(void)object;
	if (before(d))
		return KEKD_EHSM;
	d->drops++;
	return after(d, 0, KEKD_EHSM);
}

uint8_t
hsm_token_iv_len(struct hsm *hsm, unsigned token)
{
	(void)token;
	return ((struct doubles *)hsm)->iv_len;
}
