/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which object a CKA_ID is. A search in a token looks at each of its objects, so one sweep at the
 * start fills an index; after that only an id that the index lacks is searched for. Where the
 * module gains by it, the index also has the session copies. One lock covers index and home
 * session.
 */
#include "worker.h"

#include "kekd/clock.h"
#include "kekd/log.h"
#include "kekd/str.h"

#include <stdlib.h>
#include <string.h>

#define BUCKETS_FIRST 256
#define FIND_AT_ONCE 256
#define TRIES 3
#define LISTED_NS (5 * CLOCK_S)

struct object {
	struct object *next;
	struct object_id id;
	CK_OBJECT_HANDLE handle, copy; /* copy: CK_INVALID_HANDLE where there is none */
	bool duplicate;
	unsigned copy_failures;
	bool uncopied; /* the token does not copy it well: used as it is */
};

static const CK_OBJECT_CLASS secret_key = CKO_SECRET_KEY;
static const CK_BBOOL yes = CK_TRUE, no = CK_FALSE;

/* --- The index. */

static size_t
bucket(const struct objects *o, const struct object_id *id)
{
	uint64_t hash = 14695981039346656037u; /* FNV-1a */

	for (size_t i = 0; i < id->len; i++)
		hash = (hash ^ id->b[i]) * 1099511628211u;
	return hash & (o->size - 1);
}

static struct object **
lookup(const struct objects *o, const struct object_id *id)
{
	struct object **p = &o->buckets[bucket(o, id)];

	while (*p && ((*p)->id.len != id->len || memcmp((*p)->id.b, id->b, id->len) != 0))
		p = &(*p)->next;
	return p;
}

static void
grow(struct objects *o)
{
	struct objects larger = { .size = o->size * 2 };
	struct object *e, *next;

	larger.buckets = calloc(larger.size, sizeof(larger.buckets[0]));
	if (!larger.buckets)
		return; /* slower, not wrong */
	for (size_t i = 0; i < o->size; i++)
		for (e = o->buckets[i]; e; e = next) {
			size_t b = bucket(&larger, &e->id);
			next = e->next;
			e->next = larger.buckets[b];
			larger.buckets[b] = e;
		}
	free(o->buckets);
	o->buckets = larger.buckets;
	o->size = larger.size;
}

/* NULL without memory. */
static struct object *
insert(struct objects *o, const struct object_id *id, CK_OBJECT_HANDLE handle)
{
	struct object *e = calloc(1, sizeof(*e)), **p;

	if (!e)
		return NULL;
	if (o->count >= o->size)
		grow(o);
	e->id = *id;
	e->handle = handle;
	e->copy = CK_INVALID_HANDLE;
	p = lookup(o, id);
	e->next = *p;
	*p = e;
	o->count++;
	return e;
}

static void
forget(struct worker *w, struct object **p)
{
	struct object *e = *p;

	if (e->copy != CK_INVALID_HANDLE)
		p11_call(&w->p11, DestroyObject, w->home.h, e->copy);
	*p = e->next;
	free(e);
	w->objects.count--;
}

void
objects_forget(struct worker *w, const struct object_id *id)
{
	struct object **p;

	pthread_mutex_lock(&w->objects.lock);
	p = lookup(&w->objects, id);
	if (*p)
		forget(w, p);
	pthread_mutex_unlock(&w->objects.lock);
}

void
objects_forget_listed(struct worker *w)
{
	free(w->objects.listed);
	w->objects.listed = NULL;
	w->objects.listed_count = 0;
}

void
objects_forget_copies(struct worker *w)
{
	objects_forget_listed(w);
	for (size_t i = 0; i < w->objects.size; i++)
		for (struct object *e = w->objects.buckets[i]; e; e = e->next)
			e->copy = CK_INVALID_HANDLE;
}

/* --- The token. */

struct handles {
	CK_OBJECT_HANDLE *h;
	size_t count, room;
};

static enum p11_class
collect(struct worker *w, struct handles *all)
{
	CK_OBJECT_HANDLE *h;
	CK_ULONG found;
	enum p11_class class;

	do {
		if (all->count + FIND_AT_ONCE > all->room) {
			all->room = all->room * 2 + FIND_AT_ONCE;
			h = reallocarray(all->h, all->room, sizeof(*h));
			if (!h)
				return P11_RESTART;
			all->h = h;
		}
		found = 0;
		class = p11_call(
			&w->p11, FindObjects, w->home.h, all->h + all->count, FIND_AT_ONCE, &found);
		if (class)
			return class;
		all->count += found;
		worker_sign_of_life(w);
	} while (found > 0);
	return P11_OK;
}

/* Every object that matches; free ret_all->h. */
static enum p11_class
search(struct worker *w, CK_ATTRIBUTE *template, size_t n, struct handles *ret_all)
{
	struct handles all = { 0 };
	enum p11_class class, end;

	class = p11_call(&w->p11, FindObjectsInit, w->home.h, template, n);
	if (class)
		return class;
	class = collect(w, &all);
	end = p11_call(&w->p11, FindObjectsFinal, w->home.h);
	if (!class)
		class = end;
	/* Who is not logged in is shown no private object, and is told no error. */
	if (!class)
		class = session_check_login(&w->home);
	if (class)
		free(all.h);
	else
		*ret_all = all;
	return class;
}

enum p11_class
objects_all(struct worker *w, CK_OBJECT_HANDLE **ret_handles, size_t *ret_count)
{
	CK_ATTRIBUTE template[] = {
		{ CKA_CLASS, (void *)&secret_key, sizeof(secret_key) },
		{ CKA_TOKEN, (void *)&yes, sizeof(yes) },
	};
	struct handles all;
	enum p11_class class = search(w, template, STR_COUNT(template), &all);

	if (class)
		return class;
	*ret_handles = all.h;
	*ret_count = all.count;
	return P11_OK;
}

enum p11_class
objects_listed(struct worker *w, bool anew, const CK_OBJECT_HANDLE **ret_handles, size_t *ret_count)
{
	struct objects *o = &w->objects;
	enum p11_class class = P11_OK;

	if (anew || (o->listed && clock_boot_ns() - o->listed_ns > LISTED_NS))
		objects_forget_listed(w);
	if (o->listed) {
		class = session_check_login(&w->home);
	} else {
		class = objects_all(w, &o->listed, &o->listed_count);
		o->listed_ns = clock_boot_ns();
	}
	if (class) {
		objects_forget_listed(w);
		return class;
	}
	*ret_handles = o->listed;
	*ret_count = o->listed_count;
	return P11_OK;
}

enum p11_class
objects_find(struct worker *w, CK_OBJECT_CLASS object_class, const struct object_id *id,
	CK_OBJECT_HANDLE *ret_handle)
{
	CK_ATTRIBUTE template[] = {
		{ CKA_CLASS, &object_class, sizeof(object_class) },
		{ CKA_TOKEN, (void *)&yes, sizeof(yes) },
		{ CKA_ID, (void *)id->b, id->len },
	};
	struct handles all;
	enum p11_class class = search(w, template, STR_COUNT(template), &all);

	if (class)
		return class;
	if (all.count == 1)
		*ret_handle = all.h[0];
	class = all.count == 0 ? P11_MISSING : all.count == 1 ? P11_OK : P11_DUPLICATE;
	free(all.h);
	return class;
}

enum p11_class
objects_destroy(struct worker *w, const struct hsm_op *op)
{
	struct object **p = lookup(&w->objects, &op->object);
	CK_OBJECT_HANDLE h;
	enum p11_class class;

	if (*p)
		forget(w, p);
	class = objects_find(w, secret_key, &op->object, &h);
	if (class)
		return class == P11_MISSING ? P11_OK : class;
	class = ops_in_time(&w->home, op);
	if (class)
		return class;
	class = p11_call(&w->p11, DestroyObject, w->home.h, h);
	return class == P11_RESTART ? P11_UNCERTAIN : class;
}

static enum p11_class
read_id(struct worker *w, CK_OBJECT_HANDLE h, struct object_id *ret_id)
{
	CK_ATTRIBUTE a = { CKA_ID, ret_id->b, sizeof(ret_id->b) };
	enum p11_class class = p11_call(&w->p11, GetAttributeValue, w->home.h, h, &a, 1);

	ret_id->len = 0;
	if (!class && a.ulValueLen <= sizeof(ret_id->b))
		ret_id->len = (uint8_t)a.ulValueLen;
	return class;
}

/* Which attribute of the object makes which of ours, and by which value. */
static const struct {
	CK_ATTRIBUTE_TYPE type;
	CK_BBOOL value;
	enum hsm_attribute attribute;
} attributes[] = {
	{ CKA_SENSITIVE, CK_TRUE, HSM_ATTR_SENSITIVE },
	{ CKA_ALWAYS_SENSITIVE, CK_TRUE, HSM_ATTR_ALWAYS_SENSITIVE },
	{ CKA_NEVER_EXTRACTABLE, CK_TRUE, HSM_ATTR_NEVER_EXTRACTABLE },
	{ CKA_LOCAL, CK_TRUE, HSM_ATTR_LOCAL },
	{ CKA_EXTRACTABLE, CK_FALSE, HSM_ATTR_NOT_EXTRACTABLE },
	{ CKA_TOKEN, CK_TRUE, HSM_ATTR_TOKEN },
	{ CKA_PRIVATE, CK_TRUE, HSM_ATTR_PRIVATE },
};

/* What it fills the template with is one for each of the table; returns what is behind them. */
static CK_ATTRIBUTE *
ask_attributes(CK_ATTRIBUTE *template, CK_BBOOL *value)
{
	for (size_t i = 0; i < STR_COUNT(attributes); i++) {
		value[i] = !attributes[i].value;
		template[i] = (CK_ATTRIBUTE){ attributes[i].type, &value[i], sizeof(value[i]) };
	}
	return template + STR_COUNT(attributes);
}

static uint32_t
told_attributes(const CK_ATTRIBUTE *template, const CK_BBOOL *value)
{
	uint32_t told = 0;

	for (size_t i = 0; i < STR_COUNT(attributes); i++)
		if (template[i].ulValueLen == sizeof(value[i]) && value[i] == attributes[i].value)
			told |= attributes[i].attribute;
	return told;
}

static enum p11_class
read_attributes(struct worker *w, CK_OBJECT_HANDLE h, uint32_t *ret_attributes)
{
	CK_ATTRIBUTE template[STR_COUNT(attributes)];
	CK_BBOOL value[STR_COUNT(attributes)];
	enum p11_class class;

	ask_attributes(template, value);
	class = p11_call(&w->p11, GetAttributeValue, w->home.h, h, template, STR_COUNT(template));
	if (!class)
		*ret_attributes = told_attributes(template, value);
	return class;
}

enum p11_class
objects_read(struct worker *w, CK_OBJECT_HANDLE h, struct hsm_object *ret_object, char *ret_label)
{
	struct hsm_object o = { .label = ret_label };
	CK_KEY_TYPE type = 0;
	CK_BBOOL value[STR_COUNT(attributes)];
	CK_ATTRIBUTE template[STR_COUNT(attributes) + 3] = { 0 }, *rest;
	enum p11_class class;

	rest = ask_attributes(template, value);
	rest[0] = (CK_ATTRIBUTE){ CKA_ID, o.id.b, sizeof(o.id.b) };
	rest[1] = (CK_ATTRIBUTE){ CKA_LABEL, ret_label, UINT8_MAX };
	rest[2] = (CK_ATTRIBUTE){ CKA_KEY_TYPE, &type, sizeof(type) };
	class = p11_call(&w->p11, GetAttributeValue, w->home.h, h, template, STR_COUNT(template));
	if (class)
		return class;
	o.attributes = told_attributes(template, value);
	if (rest[0].ulValueLen <= sizeof(o.id.b))
		o.id.len = (uint8_t)rest[0].ulValueLen;
	if (rest[1].ulValueLen <= UINT8_MAX)
		o.label_len = (uint8_t)rest[1].ulValueLen;
	o.key_type = (uint32_t)type;
	*ret_object = o;
	return P11_OK;
}

/* --- Session copies. */

#define COPY_FAILURES_MAX 3
#define COPY_HELD (HSM_ATTR_SENSITIVE | HSM_ATTR_NOT_EXTRACTABLE)

/* What a session or a login can mend is mended; else the key is used without a copy, for now or,
 * when that happens again, for good. */
static enum p11_class
note_copy_failure(struct object *e, enum p11_class class)
{
	if (class == P11_SESSION || class == P11_LOGIN || class == P11_OBJECT || class == P11_GONE)
		return class;
	if (++e->copy_failures == COPY_FAILURES_MAX || class != P11_RESTART)
		e->uncopied = true;
	return P11_OK;
}

/* A copy that could be read out would break the first promise: it goes at once. */
static enum p11_class
copy_object(struct worker *w, struct object *e)
{
	CK_ATTRIBUTE template[] = { { CKA_TOKEN, (void *)&no, sizeof(no) } };
	CK_OBJECT_HANDLE copy = CK_INVALID_HANDLE;
	uint32_t held = 0;
	enum p11_class class = p11_call(
		&w->p11, CopyObject, w->home.h, e->handle, template, STR_COUNT(template), &copy);

	if (class)
		return note_copy_failure(e, class);
	class = read_attributes(w, copy, &held);
	if (!class && (held & COPY_HELD) == COPY_HELD && !(held & HSM_ATTR_TOKEN)) {
		e->copy = copy;
		e->copy_failures = 0;
		return P11_OK;
	}
	p11_call(&w->p11, DestroyObject, w->home.h, copy);
	if (class)
		return note_copy_failure(e, class);
	log_warning("a session copy is not as sensitive as its key: not used");
	e->uncopied = true;
	return P11_OK;
}

static enum p11_class
get(struct worker *w, CK_OBJECT_CLASS object_class, const struct object_id *id,
	CK_OBJECT_HANDLE *ret)
{
	struct object **p = lookup(&w->objects, id), *e;
	CK_OBJECT_HANDLE h;
	enum p11_class class;

	if (*p && (*p)->duplicate) /* unless that was put right */
		forget(w, p);
	e = *lookup(&w->objects, id);
	if (!e) {
		class = objects_find(w, object_class, id, &h);
		if (class)
			return class;
		e = insert(&w->objects, id, h);
		if (!e)
			return P11_RESTART;
		e->uncopied = object_class != secret_key;
	}
	if ((w->p11.quirk->flags & QUIRK_SESSION_COPIES) && !e->uncopied &&
		e->copy == CK_INVALID_HANDLE) {
		class = copy_object(w, e);
		if (class)
			return class;
	}
	if (e->copy != CK_INVALID_HANDLE)
		atomic_fetch_add(&w->copies, 1);
	*ret = e->copy != CK_INVALID_HANDLE ? e->copy : e->handle;
	return P11_OK;
}

static enum p11_class
get_class(struct worker *w, CK_OBJECT_CLASS object_class, const struct object_id *id,
	CK_OBJECT_HANDLE *ret)
{
	enum p11_class class;
	int tries = TRIES;

	pthread_mutex_lock(&w->objects.lock);
	do
		class = get(w, object_class, id, ret);
	while (class && --tries > 0 && session_recover(&w->home, class));
	pthread_mutex_unlock(&w->objects.lock);
	return class;
}

enum p11_class
objects_get(struct worker *w, const struct object_id *id, CK_OBJECT_HANDLE *ret)
{
	return get_class(w, secret_key, id, ret);
}

enum p11_class
objects_get_private(struct worker *w, const struct object_id *id, CK_OBJECT_HANDLE *ret)
{
	return get_class(w, CKO_PRIVATE_KEY, id, ret);
}

/* --- Start and end. */

static enum p11_class
index_object(struct worker *w, CK_OBJECT_HANDLE h)
{
	struct object_id id;
	struct object *e;
	enum p11_class class = read_id(w, h, &id);

	if (class == P11_OBJECT || (!class && id.len == 0))
		return P11_OK; /* destroyed meanwhile, or nothing that kekd could name */
	if (class)
		return class;
	e = *lookup(&w->objects, &id);
	if (e)
		e->duplicate = true;
	else if (!insert(&w->objects, &id, h))
		return P11_RESTART;
	return P11_OK;
}

static enum p11_class
sweep(struct worker *w)
{
	CK_OBJECT_HANDLE *handles;
	size_t count;
	enum p11_class class = objects_all(w, &handles, &count);

	if (class)
		return class;
	for (size_t i = 0; i < count && !class; i++) {
		class = index_object(w, handles[i]);
		worker_sign_of_life(w);
	}
	free(handles);
	return class;
}

enum p11_class
objects_open(struct worker *w)
{
	enum p11_class class;

	w->objects.size = BUCKETS_FIRST;
	w->objects.buckets = calloc(w->objects.size, sizeof(w->objects.buckets[0]));
	if (!w->objects.buckets)
		return P11_RESTART;
	pthread_mutex_lock(&w->objects.lock);
	class = sweep(w);
	w->hello.objects = (uint32_t)w->objects.count;
	pthread_mutex_unlock(&w->objects.lock);
	return class;
}

void
objects_close(struct worker *w)
{
	struct object *e, *next;

	for (size_t i = 0; i < w->objects.size; i++)
		for (e = w->objects.buckets[i]; e; e = next) {
			next = e->next;
			free(e);
		}
	objects_forget_listed(w);
	free(w->objects.buckets);
	w->objects.buckets = NULL;
	w->objects.size = w->objects.count = 0;
}
