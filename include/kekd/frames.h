/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The frames between kekd-net and a worker: what the token is asked to do, and what it answered.
 * One frame is one SOCK_SEQPACKET message: at most FRAME_SIZE_MAX bytes and FRAME_OPS_MAX
 * operations. doc/formats/ has the layout. Both sides treat what they read as foreign: lengths
 * are checked before anything is copied.
 */
#ifndef KEKD_FRAMES_H
#define KEKD_FRAMES_H

#include "kekd/buf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FRAME_SIZE_MAX 65536
#define FRAME_OPS_MAX 64
#define OBJECT_ID_MAX 64
#define FRAME_SIGNATURE_SIZE 64
#define FRAME_PUBLIC_SIZE 91

struct object_id { /* CKA_ID */
	uint8_t len;
	uint8_t b[OBJECT_ID_MAX];
};

enum hsm_op_kind {
	/* Compute only: replayed once on another worker when one dies. */
	HSM_OP_WRAP = 1, /* object, aad, in: plaintext           → iv, out: ciphertext and tag */
	HSM_OP_UNWRAP,	 /* object, iv, aad, in: ciphertext      → out: plaintext */
	HSM_OP_CHECK, /* as unwrap                            → nothing: the plaintext stays in the
			 worker */
	HSM_OP_GENERATE, /* object, aad, size: 1 to 4096         → iv, out: ciphertext and tag,
			    out2: plaintext (C_GenerateRandom) */
	HSM_OP_REWRAP, /* object, iv, aad, in; object2, aad2   → iv, out: ciphertext and tag under
			  object2 */
	HSM_OP_SEAL,   /* object: seal key, in: 32-byte digest → out: HMAC-SHA-256, 32 bytes */
	HSM_OP_INSPECT, /* object                               → attributes of the secret key; out,
			   where there is room: u32 CKA_KEY_TYPE, u32 CKA_VALUE_LEN; KEKD_EOBJECT,
			   KEKD_EDUPLICATE */
	HSM_OP_LIST,	/* size: skip this many                 → out: entries, see hsm_list_next;
			   attributes: total number */
	HSM_OP_DROP, /* object: forget cached handles and session copies. Goes to every worker. */
	HSM_OP_PING, /* nothing                              → nothing: the session still answers
			(C_GetSessionInfo) */
	/* A rewrap between two tokens: the plaintext crosses kekd-net under the workers' own key.
	 */
	HSM_OP_HAND_OUT, /* object, iv, aad, in: ciphertext      → iv, out: the plaintext under that
			    key */
	HSM_OP_TAKE_IN, /* object, aad, iv and in: what came out → iv, out: ciphertext and tag */
	HSM_OP_SIGN,	/* object: key for signatures, in: SHA-256 digest → out: r and s of
			   ECDSA over P-256, 32 bytes each, big-endian */
	HSM_OP_PUBLIC, /* object: the same                     → out: SubjectPublicKeyInfo, DER (RFC
			  5480), FRAME_PUBLIC_SIZE bytes */
	/* Never replayed. */
	HSM_OP_CREATE_KEK = 32, /* object: new CKA_ID, in: label   → attributes, read back;
				 * KEKD_EATTRIBUTES. An object that has this CKA_ID already is taken
				 * as it is (a retry) and inspected. */
	HSM_OP_CREATE_SEAL,	/* the same, a generic secret of 32 bytes for CKM_SHA256_HMAC */
	HSM_OP_DESTROY,		/* object: the secret key is destroyed, for ever; one that is not
				   there is success; KEKD_EDUPLICATE */
	HSM_OP_CREATE_SIGN	/* as CREATE_KEK, a key pair on P-256: attributes of the private one
				 */
};

/* HSM_OP_INSPECT's and CREATE's answer. */
enum hsm_attribute {
	HSM_ATTR_SENSITIVE = 1,
	HSM_ATTR_ALWAYS_SENSITIVE = 2,
	HSM_ATTR_NEVER_EXTRACTABLE = 4,
	HSM_ATTR_LOCAL = 8,
	HSM_ATTR_NOT_EXTRACTABLE = 16,
	HSM_ATTR_TOKEN = 32,
	HSM_ATTR_PRIVATE = 64,
	HSM_ATTR_HELD = 1 | 2 | 4 | 8 | 16 | 32 |
			64, /* all of these: the key was born in the token and never leaves */
};

struct hsm_op {
	enum hsm_op_kind kind;
	unsigned token; /* index of the logical token; not on the wire: it chooses the socket */
	struct object_id object, object2;
	uint8_t iv[16];
	uint8_t iv_len;
	const uint8_t *aad, *aad2, *in; /* borrowed until the batch is done */
	uint32_t aad_len, aad2_len, in_len;
	uint32_t size;
	/* Of what is never replayed: the boot clock after which the worker refuses to begin it,
	 * with KEKD_ENOTACTIVE; 0: it may begin at any time. */
	uint64_t until_ns;
	/* the answer */
	int err; /* 0 or a kekd_err: KEKD_EUNWRAP, KEKD_EOBJECT, KEKD_EHSM, KEKD_ETIMEOUT … */
	uint8_t *out, *out2; /* the caller's room; out_cap bytes each, out2 may be NULL */
	uint32_t out_cap, out2_cap, out_len, out2_len;
	uint32_t attributes;
};

/* A worker's first frame: what it is and how it is. */
enum hsm_state {
	HSM_STATE_READY = 1,
	HSM_STATE_PIN_REFUSED,
	HSM_STATE_PIN_LOCKED,	 /* CKF_USER_PIN_LOCKED */
	HSM_STATE_PIN_FINAL_TRY, /* CKF_USER_PIN_FINAL_TRY: an operator has to allow it */
	HSM_STATE_NO_TOKEN,	 /* no token matches the URI, or several do */
	HSM_STATE_NOT_INITIALISED,
	HSM_STATE_NO_MODULE, /* cannot be loaded */
	HSM_STATE_FAILED,
	HSM_STATE_OPENING /* logged in, and still looks through the token: a sign of life */
};

struct hsm_hello {
	enum hsm_state state;
	uint32_t pid;
	uint32_t sessions;
	uint8_t iv_len; /* of the blobs that this token makes: 12, or 16 */
	bool session_copies;
	uint32_t objects; /* secret keys with a CKA_ID in the token at the sweep */
	char token_label[33], token_serial[17], manufacturer[33], model[17];
	char module[33];   /* CK_INFO's libraryDescription and version, as text */
	char message[256]; /* for people: what is wrong and what to do; empty when ready */
};

/* Encoders append to b; false in b->bad when it does not fit. Decoders return 0 or -EBADMSG and
 * borrow from the frame. */
void frame_put_hello(struct buf *b, const struct hsm_hello *h);
int frame_get_hello(const void *frame, size_t len, struct hsm_hello *ret_hello);

struct frame_head {
	uint32_t id;
	uint32_t micros; /* result frames: time that the session spent in the token */
	uint16_t count;
	uint8_t copies; /* result frames: uses of a session copy instead of the token's object */
};
void frame_put_request_head(struct buf *b, const struct frame_head *h);
void frame_put_request(struct buf *b, const struct hsm_op *op);
size_t frame_request_size(const struct hsm_op *op); /* bytes that frame_put_request appends */
size_t frame_result_size_max(const struct hsm_op
		*op); /* upper bound of the answer: both directions must fit one frame */
int frame_get_head(struct reader *r, bool result, struct frame_head *ret_head);
int frame_get_request(
	struct reader *r, struct hsm_op *ret_op); /* in-pointers borrow from the frame */
void frame_put_result_head(struct buf *b, const struct frame_head *h);
void frame_put_result(struct buf *b, const struct hsm_op *op);
/* Copies the answer into op (out, out2, iv, err, attributes). -EBADMSG when it does not fit op's
 * room. */
int frame_get_result(struct reader *r, struct hsm_op *op);

/* One entry of HSM_OP_LIST's out: a secret key of the token. Label: as in the token, not
 * NUL-terminated, up to 255 bytes. */
struct hsm_object {
	struct object_id id;
	const char *label;
	uint8_t label_len;
	uint32_t attributes;
	uint32_t key_type; /* CKA_KEY_TYPE */
};
void hsm_list_put(struct buf *b, const struct hsm_object *o);
int hsm_list_next(
	struct reader *r, struct hsm_object *ret_object); /* 1: an entry; 0: the end; -EBADMSG */

#endif
