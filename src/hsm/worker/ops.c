/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One operation: who does it, and what is done when the token does not answer well. Each class of
 * error has its recovery; after it the operation is tried again, a few times.
 */
#include "worker.h"

#include "kekd/clock.h"
#include "kekd/err.h"
#include "kekd/log.h"
#include "kekd/str.h"

#include <stdlib.h>
#include <string.h>

#define TRIES 4 /* a token that lost everything: a session, the objects, the login */

/* The node's lease may have ended while the request waited, or while either process was stopped. */
enum p11_class
ops_in_time(const struct session *s, const struct hsm_op *op)
{
	if (op->until_ns == 0 || clock_boot_ns() < op->until_ns)
		return P11_OK;
	log_warning("token \"%s\": kekd-net asked for a change that was to begin earlier: the "
		    "token is left as it is",
		s->w->part.token);
	return P11_LATE;
}

/* A token that does not tell the length leaves it 0. */
static void
put_kind(struct session *s, struct hsm_op *op, CK_OBJECT_HANDLE h, uint32_t type)
{
	CK_ULONG bytes = 0;
	CK_ATTRIBUTE a = { CKA_VALUE_LEN, &bytes, sizeof(bytes) };
	struct buf b = BUF_INIT(8);

	if (p11_call(&s->w->p11, GetAttributeValue, s->h, h, &a, 1) != P11_OK ||
		a.ulValueLen != sizeof(bytes))
		bytes = 0;
	buf_u32(&b, type);
	buf_u32(&b, (uint32_t)bytes);
	if (!b.bad && op->out_cap >= b.len) {
		memcpy(op->out, b.data, b.len);
		op->out_len = (uint32_t)b.len;
	}
	buf_free(&b);
}

static enum p11_class
run_inspect(struct session *s, struct hsm_op *op)
{
	struct hsm_object object;
	char label[UINT8_MAX];
	CK_OBJECT_HANDLE h;
	enum p11_class class = objects_find(s->w, CKO_SECRET_KEY, &op->object, &h);

	if (!class)
		class = objects_read(s->w, h, &object, label);
	if (!class)
		op->attributes = object.attributes;
	if (!class && op->out_cap > 0)
		put_kind(s, op, h, object.key_type);
	return class;
}

static enum p11_class
list_from(struct session *s, struct hsm_op *op, const CK_OBJECT_HANDLE *handles, size_t count)
{
	size_t limit = frame_result_size_max(op) - frame_result_size_max(&(struct hsm_op){ 0 });
	struct buf b = BUF_INIT(limit);
	enum p11_class class = P11_OK;

	for (size_t i = op->size; i < count && !class && !b.bad; i++) {
		struct hsm_object object;
		char label[UINT8_MAX];
		class = objects_read(s->w, handles[i], &object, label);
		if (class == P11_OBJECT) { /* destroyed meanwhile: its place keeps the count */
			object = (struct hsm_object){ 0 };
			class = P11_OK;
		}
		op->out_len = (uint32_t)b.len;
		if (!class)
			hsm_list_put(&b, &object);
	}
	if (!b.bad)
		op->out_len = (uint32_t)b.len;
	if (op->out_len > 0)
		memcpy(op->out, b.data, op->out_len);
	buf_free(&b);
	return class;
}

static enum p11_class
run_list(struct session *s, struct hsm_op *op)
{
	const CK_OBJECT_HANDLE *handles;
	size_t count;
	enum p11_class class = objects_listed(s->w, op->size == 0, &handles, &count);

	if (class)
		return class;
	class = list_from(s, op, handles, count);
	op->attributes = (uint32_t)count;
	if (class) /* its handles may be why */
		objects_forget_listed(s->w);
	return class;
}

static enum p11_class
run_drop(struct session *s, struct hsm_op *op)
{
	objects_forget(s->w, &op->object);
	return P11_OK;
}

static enum p11_class
run_destroy(struct session *s, struct hsm_op *op)
{
	return objects_destroy(s->w, op);
}

static enum p11_class
run_ping(struct session *s, struct hsm_op *op)
{
	CK_SESSION_INFO info;

	(void)op;
	return p11_call(&s->w->p11, GetSessionInfo, s->h, &info);
}

static const struct handler {
	enum p11_class (*run)(struct session *s, struct hsm_op *op);
	bool home;	     /* in the home session, with the objects' lock */
	bool object, iv, in; /* must be given */
} handlers[] = {
	[HSM_OP_WRAP] = { mech_wrap, .object = true, .in = true },
	[HSM_OP_UNWRAP] = { mech_unwrap, .object = true, .iv = true, .in = true },
	[HSM_OP_CHECK] = { mech_check, .object = true, .iv = true, .in = true },
	[HSM_OP_GENERATE] = { mech_generate, .object = true },
	[HSM_OP_REWRAP] = { mech_rewrap, .object = true, .iv = true, .in = true },
	[HSM_OP_SEAL] = { mech_seal, .object = true, .in = true },
	[HSM_OP_INSPECT] = { run_inspect, .home = true, .object = true },
	[HSM_OP_LIST] = { run_list, .home = true },
	[HSM_OP_DROP] = { run_drop, .object = true },
	[HSM_OP_PING] = { run_ping },
	[HSM_OP_HAND_OUT] = { transport_hand_out, .object = true, .iv = true, .in = true },
	[HSM_OP_TAKE_IN] = { transport_take_in, .object = true, .iv = true, .in = true },
	[HSM_OP_SIGN] = { sign_digest, .object = true, .in = true },
	[HSM_OP_PUBLIC] = { sign_public, .home = true, .object = true },
	[HSM_OP_CREATE_KEK] = { mech_create, .home = true, .object = true, .in = true },
	[HSM_OP_CREATE_SEAL] = { mech_create, .home = true, .object = true, .in = true },
	[HSM_OP_DESTROY] = { run_destroy, .home = true, .object = true },
	[HSM_OP_CREATE_SIGN] = { sign_create, .home = true, .object = true, .in = true },
};

/* An object that is not where it was: both of a rewrap, whichever it is. */
static bool
recover(struct session *s, enum p11_class class, const struct hsm_op *op, const struct handler *h)
{
	if (class != P11_OBJECT)
		return session_recover(s, class);
	if (h->home)
		return true; /* it looked for the object itself */
	objects_forget(s->w, &op->object);
	if (op->object2.len > 0)
		objects_forget(s->w, &op->object2);
	return true;
}

static enum p11_class
run(struct session *s, struct hsm_op *op, const struct handler *h)
{
	enum p11_class class;
	int tries = TRIES;

	do
		class = h->run(s, op);
	while (class && --tries > 0 && recover(s, class, op, h));
	return class;
}

static enum p11_class
run_at_home(struct worker *w, struct hsm_op *op, const struct handler *h)
{
	enum p11_class class;

	pthread_mutex_lock(&w->objects.lock);
	class = run(&w->home, op, h);
	pthread_mutex_unlock(&w->objects.lock);
	return class;
}

/* None of what a worker can do about it has helped: a new one may. */
static bool is_strike(enum p11_class class)
{
	return class == P11_RESTART || class == P11_UNCERTAIN || class == P11_SESSION ||
	       class == P11_LOGIN;
}

void
ops_run(struct session *s, struct hsm_op *op)
{
	const struct handler *h = &handlers[op->kind];
	enum p11_class class;

	op->out = s->out;
	op->out2 = s->out2;
	op->out_len = op->out2_len = 0;
	if ((h->object && op->object.len == 0) || (h->iv && op->iv_len == 0) ||
		(h->in && op->in_len == 0)) {
		op->err = KEKD_EINTERNAL;
		return;
	}
	class = h->home ? run_at_home(s->w, op, h) : run(s, op, h);
	op->err = p11_class_err(class);
	if (class)
		op->out_len = op->out2_len = 0;
	if (is_strike(class))
		atomic_fetch_add(&s->w->p11.strikes, 1);
	else if (class == P11_OK && atomic_load(&s->w->p11.strikes) > 0)
		atomic_store(&s->w->p11.strikes, 0);
}

void
ops_wipe(struct session *s, const struct hsm_op *op)
{
	size_t n = (size_t)op->in_len + op->size + 64;

	if (n > FRAME_SIZE_MAX)
		n = FRAME_SIZE_MAX;
	secret_wipe(s->out, n);
	secret_wipe(s->out2, n);
}
