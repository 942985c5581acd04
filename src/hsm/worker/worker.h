/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The inside of kekd-hsm: the one process that has the PIN, the token's module and a session. A
 * CK_RV is turned into an enum p11_class where it comes back from the module and goes no further.
 *
 *   main.c     start, login, end · serve.c   frames in, frames out · ops.c   what is asked → who
 *   mech.c     wrap, unwrap, seal, make keys · sign.c  signatures and their keys
 *   objects.c  CKA_ID → handle, session copies
 *   session.c  sessions and how they recover · pin.c  the PIN and its refusals
 *   p11.c      module, token, error classes · quirks.c  what modules do differently
 */
#ifndef KEKD_HSM_WORKER_H
#define KEKD_HSM_WORKER_H

#include "kekd/config.h"
#include "kekd/frames.h"
#include "kekd/secret.h"

#include <p11-kit/p11-kit.h>
#include <p11-kit/pkcs11.h>
#include <p11-kit/uri.h>
/* Names of p11-kit's own that it leaves defined; the standard's are pIv, ulIvLen and so on. */
#undef iv_ptr
#undef iv_len
#undef iv_bits
#undef aad_ptr
#undef aad_len
#undef tag_bits
#include <pthread.h>
#include <stdatomic.h>

/* --- What a call came to: p11.c has the table. */

enum p11_class {
	P11_OK,
	P11_SESSION,  /* again on a new session */
	P11_OBJECT,   /* find the object again */
	P11_LOGIN,    /* log in again */
	P11_RESTART,  /* the device is not well: once more on a new session, then restart the worker
		       */
	P11_GONE,     /* the module or the token is gone: restart the worker at once */
	P11_CALLER,   /* what was asked cannot be done: a ciphertext that does not verify */
	P11_OPERATOR, /* only an operator can help */
	P11_PIN,      /* C_Login: the PIN was refused */
	P11_PIN_LOCKED,
	P11_PIN_EXPIRED,
	P11_PIN_DOUBT, /* C_Login failed, perhaps because of the PIN */
	/* Ours, not a call's: */
	P11_UNCERTAIN, /* the token may have made the key or not: not once more */
	P11_MISSING,   /* no object has the CKA_ID */
	P11_DUPLICATE, /* several have it */
	P11_LATE,      /* it was to begin before an instant that is past */
	P11_ATTRIBUTES /* the key is not held for ever inside the token */
};

int p11_class_err(enum p11_class class); /* 0 or a kekd_err */

#define P11_FUNCTIONS(X) \
	X(CloseSession) \
	X(CopyObject) \
	X(Decrypt) \
	X(DecryptInit) \
	X(DestroyObject) \
	X(Encrypt) \
	X(EncryptInit) \
	X(Finalize) \
	X(FindObjects) \
	X(FindObjectsFinal) \
	X(FindObjectsInit) \
	X(GenerateKey) \
	X(GenerateKeyPair) \
	X(GenerateRandom) \
	X(GetAttributeValue) \
	X(GetInfo) \
	X(GetSessionInfo) \
	X(GetSlotList) \
	X(GetTokenInfo) \
	X(Initialize) \
	X(Login) \
	X(OpenSession) \
	X(Sign) \
	X(SignInit)

enum p11_function {
	P11_ANY,
#define P11_FUNCTION_ENUM(name) P11_##name,
	P11_FUNCTIONS(P11_FUNCTION_ENUM)
#undef P11_FUNCTION_ENUM
};

enum quirk_flag {
	QUIRK_SESSION_COPIES = 1,    /* gains by session copies of its keys */
	QUIRK_TOKEN_IV = 2,	     /* the token makes the IV */
	QUIRK_TAG_GENERAL_ERROR = 4, /* C_Decrypt says CKR_GENERAL_ERROR of a wrong tag */
	QUIRK_COPY_MODIFIABLE = 8,   /* C_CopyObject refuses keys with CKA_MODIFIABLE false */
	QUIRK_OFFLINE = 16	     /* files alone, no network */
};

struct quirk {
	const char *manufacturer, *library; /* globs over CK_INFO, trailing blanks removed */
	unsigned flags;
	uint8_t iv_len;	  /* of what it wraps: 12 or 16 */
	bool gcm_iv_bits; /* CK_GCM_PARAMS' ulIvBits is filled in (PKCS#11 2.40 errata, 3.0) */
};

const struct quirk *quirk_find(const CK_INFO *info); /* never NULL */

struct p11 {
	CK_FUNCTION_LIST *f; /* NULL: not loaded */
	CK_INFO info;
	const struct quirk *quirk;
	CK_SLOT_ID slot;
	CK_TOKEN_INFO token;
	atomic_uint strikes; /* operations in a row that no recovery has helped */
	atomic_ullong logged_s;
	atomic_uint logged;
};

/* Every call to the module goes through here: p11_call(p, Encrypt, session, …). */
#define p11_call(p, name, ...) p11_classify((p), P11_##name, (p)->f->C_##name(__VA_ARGS__))
enum p11_class p11_classify(struct p11 *p, enum p11_function function, CK_RV rv);

/* --- The worker. */

struct worker;

struct session { /* one thread at a time */
	struct worker *w;
	CK_SESSION_HANDLE h;
	CK_FLAGS flags;
	uint8_t *out, *out2; /* FRAME_SIZE_MAX each; NULL in the home session */
};

struct object; /* objects.c */

struct objects {
	pthread_mutex_t lock; /* over all of it, and over the home session */
	struct object **buckets;
	size_t size, count;
	CK_OBJECT_HANDLE *listed; /* what the last HSM_OP_LIST found, for its next page; or NULL */
	size_t listed_count;
	uint64_t listed_ns;
};

struct worker {
	struct worker_part part;
	struct p11 p11;
	struct secret pin;
	struct secret transport_key; /* of all workers of this kekd */
	int net, control, state_dir; /* descriptors */
	pthread_mutex_t login_lock;
	struct session home; /* read/write: finds, creates, owns the session copies */
	struct objects objects;
	struct hsm_hello hello;
	uint64_t sign_ns; /* of its last sign of life */
	int exit_status;
	atomic_uint copies; /* uses of session copies that no answer has told of yet */
};

/* Notes for the HELLO why the worker cannot serve, logs it, and sets the exit status. Always
 * KEKD_EHSM. */
int worker_fail(struct worker *w, enum hsm_state state, int exit_status, const char *format, ...)
	__attribute__((format(printf, 4, 5)));
void worker_send_hello(struct worker *w);
/* While it opens the token, about every second: else it would count as hung. */
void worker_sign_of_life(struct worker *w);

/* 0 or KEKD_EHSM (noted by worker_fail). */
int p11_open(struct worker *w);
void p11_close(struct p11 *p);
/* Token flags and names as they are now. */
enum p11_class p11_refresh_token(struct p11 *p);

/* session.c */
enum p11_class session_open(struct worker *w, CK_FLAGS flags, struct session *ret_session);
void session_close(struct session *s);
/* Does what the class asks for, as far as a session can: true when the call is to be made again.
 * Where the worker has to end for it, this does not return. */
bool session_recover(struct session *s, enum p11_class class);
/* Is the user still logged in? P11_LOGIN: no. */
enum p11_class session_check_login(struct session *s);

/* pin.c */
int pin_read(struct worker *w, int fd); /* closes fd; 0 or KEKD_EHSM, noted */
/* Logs in unless somebody did, keeping to the rules for PINs. 0 or KEKD_EHSM, noted. */
int pin_login(struct worker *w, CK_SESSION_HANDLE session);

/* objects.c. Those that say so want the lock held, and w->home in their session. */
enum p11_class objects_open(struct worker *w); /* the sweep */
void objects_close(struct worker *w);
/* What to work with: the object, or its session copy. */
enum p11_class objects_get(struct worker *w, const struct object_id *id, CK_OBJECT_HANDLE *ret);
/* The private key of a pair, never a copy. */
enum p11_class objects_get_private(
	struct worker *w, const struct object_id *id, CK_OBJECT_HANDLE *ret);
void objects_forget(struct worker *w, const struct object_id *id);
void objects_forget_copies(struct worker *w); /* lock held: their session is gone */
/* Lock held. Asks the token, not the index. */
enum p11_class objects_find(struct worker *w, CK_OBJECT_CLASS object_class,
	const struct object_id *id, CK_OBJECT_HANDLE *ret_handle);
/* Lock held. The secret key and its copy are no more; P11_OK also when they never were. */
enum p11_class objects_destroy(struct worker *w, const struct hsm_op *op);
/* Lock held. ret_label: 255 bytes, borrowed by ret_object. */
enum p11_class objects_read(
	struct worker *w, CK_OBJECT_HANDLE h, struct hsm_object *ret_object, char *ret_label);
/* Lock held. Every secret key of the token; free *ret_handles. */
enum p11_class objects_all(struct worker *w, CK_OBJECT_HANDLE **ret_handles, size_t *ret_count);
/* Lock held. The same as they were found for the page before, a few seconds ago, or anew; borrowed.
 */
enum p11_class objects_listed(
	struct worker *w, bool anew, const CK_OBJECT_HANDLE **ret_handles, size_t *ret_count);
void objects_forget_listed(struct worker *w);

/* mech.c */
enum p11_class mech_wrap(struct session *s, struct hsm_op *op);
enum p11_class mech_unwrap(struct session *s, struct hsm_op *op);
enum p11_class mech_check(struct session *s, struct hsm_op *op);
enum p11_class mech_generate(struct session *s, struct hsm_op *op);
enum p11_class mech_rewrap(struct session *s, struct hsm_op *op);
enum p11_class mech_seal(struct session *s, struct hsm_op *op);
enum p11_class mech_create(struct session *s, struct hsm_op *op); /* home session, lock held */

/* sign.c */
enum p11_class sign_digest(struct session *s, struct hsm_op *op);
enum p11_class sign_public(struct session *s, struct hsm_op *op); /* home session, lock held */
enum p11_class sign_create(struct session *s, struct hsm_op *op); /* the same */

/* transport.c */
int transport_read_key(struct worker *w, int fd); /* closes fd; 0 or negative, logged */
enum p11_class transport_hand_out(struct session *s, struct hsm_op *op);
enum p11_class transport_take_in(struct session *s, struct hsm_op *op);

/* ops.c. What changes the token asks just before it does: P11_OK, or P11_LATE. */
enum p11_class ops_in_time(const struct session *s, const struct hsm_op *op);
/* Fills in op's answer. op->out and op->out2 come from the session. */
void ops_run(struct session *s, struct hsm_op *op);
void ops_wipe(struct session *s, const struct hsm_op *op); /* what the op left in the session */

/* serve.c: until kekd-net's end of the socket is closed. 0, or the exit status. */
int serve(struct session *s);

#endif
