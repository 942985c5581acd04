/* SPDX-License-Identifier: Apache-2.0 */
/* kekd-net's side and the worker together: real workers, a real SoftHSM token. */
#include "worker.h"

#include "kekd/clock.h"
#include "kekd/control.h"
#include "kekd/err.h"
#include "kekd/hsm.h"
#include "kekd/log.h"
#include "kekd/str.h"
#include "kekd/uuid.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <openssl/bn.h>
#include <openssl/ecdsa.h>
#include <openssl/evp.h>
#include <openssl/x509.h>
#include <cmocka.h>

#define WORKERS_MAX 2
#define PLAIN "0123456789abcdef0123456789abcdef"
#define AAD "22 bytes and a context"
#define WAIT_NS (20 * CLOCK_S)

static const char *const names[] = { "main" };

/* One token with its workers, and what asks them. */
struct bench {
	struct hsm *hsm;
	struct child child[WORKERS_MAX];
	unsigned workers;
	struct object_id kek;
};

static struct lab lab;

static void
pause_ms(long ms)
{
	struct timespec t = { ms / 1000, ms % 1000 * 1000000 };

	nanosleep(&t, NULL);
}

static struct hsm_worker_status
worker_status(struct hsm *hsm, unsigned worker)
{
	struct hsm_worker_status s;

	assert_int_equal(hsm_worker_status(hsm, 0, worker, &s), 0);
	return s;
}

static void
wait_ready(struct hsm *hsm, unsigned worker)
{
	uint64_t until = clock_boot_ns() + WAIT_NS;

	while (!worker_status(hsm, worker).ready) {
		assert_true(clock_boot_ns() < until);
		pause_ms(2);
	}
}

static void
wait_detached(struct hsm *hsm, unsigned worker)
{
	uint64_t until = clock_boot_ns() + WAIT_NS;

	while (worker_status(hsm, worker).attached) {
		assert_true(clock_boot_ns() < until);
		pause_ms(2);
	}
}

static void
attach(struct bench *b, unsigned worker, const struct start *start)
{
	b->child[worker] = child_start(&lab, start);
	hsm_attach(b->hsm, 0, worker, b->child[worker].net);
	b->child[worker].net = -1; /* the client's now */
}

static struct object_id
fresh_id(void)
{
	struct object_id id = { .len = 16 };
	struct uuid u;

	assert_int_equal(uuid_generate(&u), 0);
	memcpy(id.b, u.b, sizeof(u.b));
	return id;
}

static struct hsm_op
create_op(enum hsm_op_kind kind, const struct object_id *id)
{
	return (struct hsm_op){
		.kind = kind, .object = *id, .in = (const uint8_t *)"kekd:lab:t:v1", .in_len = 13
	};
}

/* Starts the workers one after the other, as kekd does. */
static void
bench_open(struct bench *b, unsigned workers, unsigned deadline_ms, const struct start *start)
{
	const struct hsm_config config = { .tokens = 1,
		.names = names,
		.workers = workers,
		.deadline_ms = deadline_ms,
		.queue_max = 4096 };
	struct hsm_op op;

	*b = (struct bench){ .workers = workers };
	assert_int_equal(hsm_open(&config, &b->hsm), 0);
	for (unsigned i = 0; i < workers; i++) {
		attach(b, i, start);
		wait_ready(b->hsm, i);
	}
	b->kek = fresh_id();
	op = create_op(HSM_OP_CREATE_KEK, &b->kek);
	assert_int_equal(hsm_call(b->hsm, &op, 1), 0);
	assert_int_equal(op.err, 0);
	assert_int_equal(op.attributes, HSM_ATTR_HELD);
}

static void
bench_close(struct bench *b)
{
	hsm_freep(&b->hsm);
	for (unsigned i = 0; i < b->workers; i++)
		assert_int_equal(child_wait(&b->child[i]), CHILD_EXIT_OK);
}

struct blob {
	uint8_t iv[16], data[4096 + 32];
	uint8_t iv_len;
	uint32_t len;
};

static struct hsm_op
wrap_op(const struct object_id *kek, struct blob *room)
{
	return (struct hsm_op){ .kind = HSM_OP_WRAP,
		.object = *kek,
		.aad = (const uint8_t *)AAD,
		.aad_len = sizeof(AAD) - 1,
		.in = (const uint8_t *)PLAIN,
		.in_len = sizeof(PLAIN) - 1,
		.out = room->data,
		.out_cap = sizeof(room->data) };
}

static void
take_blob(struct blob *blob, const struct hsm_op *op)
{
	memcpy(blob->iv, op->iv, sizeof(blob->iv));
	blob->iv_len = op->iv_len;
	blob->len = op->out_len;
}

static struct hsm_op
unwrap_op(const struct object_id *kek, const struct blob *blob, uint8_t *room, uint32_t size)
{
	struct hsm_op op = { .kind = HSM_OP_UNWRAP,
		.object = *kek,
		.iv_len = blob->iv_len,
		.aad = (const uint8_t *)AAD,
		.aad_len = sizeof(AAD) - 1,
		.in = blob->data,
		.in_len = blob->len,
		.out = room,
		.out_cap = size };

	memcpy(op.iv, blob->iv, sizeof(op.iv));
	return op;
}

static int
call(struct bench *b, struct hsm_op *op)
{
	int err = hsm_call(b->hsm, op, 1);

	return err ? err : op->err;
}

static void
wrap(struct bench *b, struct blob *ret_blob)
{
	struct hsm_op op = wrap_op(&b->kek, ret_blob);

	assert_int_equal(call(b, &op), 0);
	assert_int_equal(op.iv_len, 12);
	assert_int_equal(op.out_len, sizeof(PLAIN) - 1 + 16);
	take_blob(ret_blob, &op);
}

/* --- What a token does. */

static void
test_what_was_wrapped_is_unwrapped(void **state)
{
	struct bench *b = *state;
	struct blob one, two;
	uint8_t plain[64];
	struct hsm_op op;

	wrap(b, &one);
	wrap(b, &two);
	assert_memory_not_equal(one.iv, two.iv, 12);
	op = unwrap_op(&b->kek, &one, plain, sizeof(plain));
	assert_int_equal(call(b, &op), 0);
	assert_int_equal(op.out_len, sizeof(PLAIN) - 1);
	assert_memory_equal(plain, PLAIN, sizeof(PLAIN) - 1);
}

static void
test_the_largest_plaintext_with_the_largest_context_is_wrapped(void **state)
{
	static uint8_t plain[4096], aad[4096 + 22], back[4096];
	struct bench *b = *state;
	struct blob blob;
	struct hsm_op op = wrap_op(&b->kek, &blob);

	memset(plain, 0x5a, sizeof(plain));
	op.in = plain;
	op.in_len = sizeof(plain);
	op.aad = aad;
	op.aad_len = sizeof(aad);
	assert_int_equal(call(b, &op), 0);
	take_blob(&blob, &op);
	op = unwrap_op(&b->kek, &blob, back, sizeof(back));
	op.aad = aad;
	op.aad_len = sizeof(aad);
	assert_int_equal(call(b, &op), 0);
	assert_int_equal(op.out_len, sizeof(plain));
	assert_memory_equal(back, plain, sizeof(plain));
}

static void
test_another_context_a_flipped_bit_and_a_cut_are_one_error(void **state)
{
	struct bench *b = *state;
	struct blob blob, broken;
	uint8_t plain[64];
	struct hsm_op op;

	wrap(b, &blob);
	op = unwrap_op(&b->kek, &blob, plain, sizeof(plain));
	op.aad_len--;
	assert_int_equal(call(b, &op), KEKD_EUNWRAP);
	broken = blob;
	broken.data[0] ^= 1;
	op = unwrap_op(&b->kek, &broken, plain, sizeof(plain));
	assert_int_equal(call(b, &op), KEKD_EUNWRAP);
	broken = blob;
	broken.iv[0] ^= 1;
	op = unwrap_op(&b->kek, &broken, plain, sizeof(plain));
	assert_int_equal(call(b, &op), KEKD_EUNWRAP);
	for (broken = blob; broken.iv_len-- > 1;) { /* and no reason to think ill of the token */
		op = unwrap_op(&b->kek, &broken, plain, sizeof(plain));
		assert_int_equal(call(b, &op), KEKD_EUNWRAP);
	}
	broken.iv_len = 16;
	op = unwrap_op(&b->kek, &broken, plain, sizeof(plain));
	assert_int_equal(call(b, &op), KEKD_EUNWRAP);
	for (broken = blob; broken.len-- > 1;) {
		op = unwrap_op(&b->kek, &broken, plain, sizeof(plain));
		assert_int_equal(call(b, &op), KEKD_EUNWRAP);
	}
	op = unwrap_op(&b->kek, &blob, plain, sizeof(plain));
	op.kind = HSM_OP_CHECK;
	op.aad_len--;
	assert_int_equal(call(b, &op), KEKD_EUNWRAP);
	op = unwrap_op(&b->kek, &blob, plain, sizeof(plain));
	assert_int_equal(call(b, &op), 0);
}

static void
test_a_check_tells_nothing_of_the_plaintext(void **state)
{
	struct bench *b = *state;
	uint8_t plain[64] = { 0 };
	struct blob blob;
	struct hsm_op op;

	wrap(b, &blob);
	op = unwrap_op(&b->kek, &blob, plain, sizeof(plain));
	op.kind = HSM_OP_CHECK;
	assert_int_equal(call(b, &op), 0);
	assert_int_equal(op.out_len, 0);
	assert_int_equal(plain[0], 0);
}

static void
test_a_generated_key_is_the_one_that_was_wrapped(void **state)
{
	struct bench *b = *state;
	uint8_t plain[64], back[64];
	struct blob blob;
	struct hsm_op op = wrap_op(&b->kek, &blob);

	op.kind = HSM_OP_GENERATE;
	op.in = NULL;
	op.in_len = 0;
	op.size = 48;
	op.out2 = plain;
	op.out2_cap = sizeof(plain);
	assert_int_equal(call(b, &op), 0);
	assert_int_equal(op.out2_len, 48);
	take_blob(&blob, &op);
	op = unwrap_op(&b->kek, &blob, back, sizeof(back));
	assert_int_equal(call(b, &op), 0);
	assert_int_equal(op.out_len, 48);
	assert_memory_equal(plain, back, 48);
}

static void
test_a_generated_key_that_nobody_asked_to_see_stays_in_the_worker(void **state)
{
	struct bench *b = *state;
	struct blob blob;
	struct hsm_op op = wrap_op(&b->kek, &blob);

	op.kind = HSM_OP_GENERATE;
	op.in_len = 0;
	op.size = 32;
	assert_int_equal(call(b, &op), 0);
	assert_int_equal(op.out_len, 48);
	assert_int_equal(op.out2_len, 0);
}

static void
test_a_rewrapped_blob_is_of_the_other_key(void **state)
{
	struct bench *b = *state;
	struct object_id other = fresh_id();
	struct blob blob, moved;
	uint8_t plain[64];
	struct hsm_op op = create_op(HSM_OP_CREATE_KEK, &other);

	assert_int_equal(call(b, &op), 0);
	wrap(b, &blob);
	op = unwrap_op(&b->kek, &blob, moved.data, sizeof(moved.data));
	op.kind = HSM_OP_REWRAP;
	op.object2 = other;
	op.aad2 = (const uint8_t *)"new";
	op.aad2_len = 3;
	assert_int_equal(call(b, &op), 0);
	take_blob(&moved, &op);
	assert_memory_not_equal(moved.iv, blob.iv, 12);
	op = unwrap_op(&other, &moved, plain, sizeof(plain));
	op.aad = (const uint8_t *)"new";
	op.aad_len = 3;
	assert_int_equal(call(b, &op), 0);
	assert_memory_equal(plain, PLAIN, sizeof(PLAIN) - 1);
	op = unwrap_op(&b->kek, &moved, plain, sizeof(plain));
	assert_int_equal(call(b, &op), KEKD_EUNWRAP);
}

static void
test_a_seal_is_the_same_each_time_and_another_for_other_content(void **state)
{
	struct bench *b = *state;
	struct object_id id = fresh_id();
	uint8_t seal[3][32], digest[32] = { 1 };
	struct hsm_op op = create_op(HSM_OP_CREATE_SEAL, &id);

	assert_int_equal(call(b, &op), 0);
	assert_int_equal(op.attributes, HSM_ATTR_HELD);
	for (int i = 0; i < 3; i++) {
		digest[31] = i == 2;
		op = (struct hsm_op){ .kind = HSM_OP_SEAL,
			.object = id,
			.in = digest,
			.in_len = 32,
			.out = seal[i],
			.out_cap = 32 };
		assert_int_equal(call(b, &op), 0);
		assert_int_equal(op.out_len, 32);
	}
	assert_memory_equal(seal[0], seal[1], 32);
	assert_memory_not_equal(seal[0], seal[2], 32);
}

/* r and s, big-endian, by OpenSSL's word. */
static bool
signature_is_good(const uint8_t *public, const uint8_t digest[32], const uint8_t *rs)
{
	const uint8_t *at = public;
	EVP_PKEY *key = d2i_PUBKEY(NULL, &at, FRAME_PUBLIC_SIZE);
	EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new(key, NULL);
	ECDSA_SIG *sig = ECDSA_SIG_new();
	uint8_t *der = NULL;
	int len, good;

	assert_non_null(key);
	ECDSA_SIG_set0(sig, BN_bin2bn(rs, 32, NULL), BN_bin2bn(rs + 32, 32, NULL));
	len = i2d_ECDSA_SIG(sig, &der);
	assert_int_equal(EVP_PKEY_verify_init(ctx), 1);
	good = EVP_PKEY_verify(ctx, der, (size_t)len, digest, 32);
	OPENSSL_free(der);
	ECDSA_SIG_free(sig);
	EVP_PKEY_CTX_free(ctx);
	EVP_PKEY_free(key);
	return good == 1;
}

static void
test_a_signature_verifies_with_the_public_key_that_the_token_gives(void **state)
{
	struct bench *b = *state;
	struct object_id id = fresh_id();
	uint8_t public[FRAME_PUBLIC_SIZE], signature[FRAME_SIGNATURE_SIZE], digest[32] = { 1 };
	struct hsm_op op = create_op(HSM_OP_CREATE_SIGN, &id);

	assert_int_equal(call(b, &op), 0);
	assert_int_equal(op.attributes, HSM_ATTR_HELD);
	op = create_op(HSM_OP_CREATE_SIGN, &id); /* takes the one that is there */
	assert_int_equal(call(b, &op), 0);
	op = (struct hsm_op){
		.kind = HSM_OP_PUBLIC, .object = id, .out = public, .out_cap = sizeof(public)
	};
	assert_int_equal(call(b, &op), 0);
	assert_int_equal(op.out_len, sizeof(public));
	op = (struct hsm_op){ .kind = HSM_OP_SIGN,
		.object = id,
		.in = digest,
		.in_len = sizeof(digest),
		.out = signature,
		.out_cap = sizeof(signature) };
	assert_int_equal(call(b, &op), 0);
	assert_int_equal(op.out_len, sizeof(signature));
	assert_true(signature_is_good(public, digest, signature));
	digest[0] ^= 1;
	assert_false(signature_is_good(public, digest, signature));
}

static void
test_a_destroyed_key_is_gone_with_its_copy_and_again_is_no_error(void **state)
{
	struct bench *b = *state;
	struct object_id id = fresh_id();
	struct hsm_op op = create_op(HSM_OP_CREATE_KEK, &id);
	uint8_t plain[64];
	struct blob blob;

	assert_int_equal(call(b, &op), 0);
	op = wrap_op(&id, &blob);
	assert_int_equal(call(b, &op), 0); /* the worker has a copy now */
	take_blob(&blob, &op);
	for (int i = 0; i < 2; i++) {
		op = (struct hsm_op){ .kind = HSM_OP_DESTROY, .object = id };
		assert_int_equal(call(b, &op), 0);
	}
	op = unwrap_op(&id, &blob, plain, sizeof(plain));
	assert_int_equal(call(b, &op), KEKD_EOBJECT);
	op = (struct hsm_op){ .kind = HSM_OP_INSPECT, .object = id };
	assert_int_equal(call(b, &op), KEKD_EOBJECT);
}

static void
test_what_begins_past_its_end_leaves_the_token_as_it_is(void **state)
{
	struct bench *b = *state;
	struct object_id id = fresh_id();
	struct hsm_op op = create_op(HSM_OP_CREATE_KEK, &id);

	op.until_ns = clock_boot_ns() - 1;
	assert_int_equal(call(b, &op), KEKD_ENOTACTIVE);
	op = (struct hsm_op){ .kind = HSM_OP_INSPECT, .object = id };
	assert_int_equal(call(b, &op), KEKD_EOBJECT);
	op = create_op(HSM_OP_CREATE_KEK, &id);
	op.until_ns = clock_boot_ns() + 60 * CLOCK_S;
	assert_int_equal(call(b, &op), 0);
	op = (struct hsm_op){
		.kind = HSM_OP_DESTROY, .object = id, .until_ns = clock_boot_ns() - 1
	};
	assert_int_equal(call(b, &op), KEKD_ENOTACTIVE);
	op = (struct hsm_op){ .kind = HSM_OP_INSPECT, .object = id };
	assert_int_equal(call(b, &op), 0);
	op = (struct hsm_op){
		.kind = HSM_OP_DESTROY, .object = id, .until_ns = clock_boot_ns() + 60 * CLOCK_S
	};
	assert_int_equal(call(b, &op), 0);
	op = (struct hsm_op){ .kind = HSM_OP_INSPECT, .object = id };
	assert_int_equal(call(b, &op), KEKD_EOBJECT);
}

static void
test_an_object_that_is_not_there_is_said_to_be_missing(void **state)
{
	struct bench *b = *state;
	struct object_id id = fresh_id();
	struct blob blob;
	struct hsm_op op = wrap_op(&id, &blob);

	assert_int_equal(call(b, &op), KEKD_EOBJECT);
	op = (struct hsm_op){ .kind = HSM_OP_INSPECT, .object = id };
	assert_int_equal(call(b, &op), KEKD_EOBJECT);
}

static void
test_creating_again_takes_the_key_that_is_there(void **state)
{
	struct bench *b = *state;
	uint8_t plain[64];
	struct blob blob;
	struct hsm_op op;

	wrap(b, &blob);
	op = create_op(HSM_OP_CREATE_KEK, &b->kek);
	assert_int_equal(call(b, &op), 0);
	assert_int_equal(op.attributes, HSM_ATTR_HELD);
	op = unwrap_op(&b->kek, &blob, plain, sizeof(plain));
	assert_int_equal(call(b, &op), 0);
	op = (struct hsm_op){ .kind = HSM_OP_INSPECT, .object = b->kek };
	assert_int_equal(call(b, &op), 0);
	assert_int_equal(op.attributes, HSM_ATTR_HELD);
	op = create_op(HSM_OP_CREATE_SEAL, &b->kek); /* it is no key for seals */
	assert_int_equal(call(b, &op), KEKD_EATTRIBUTES);
}

/* Made by someone else, and twice. */
static void
make_outside(const struct object_id *id)
{
	char hex[2 * OBJECT_ID_MAX + 1] = "";
	const char *const argv[] = { "pkcs11-tool", "--module", SOFTHSM, "--token-label", "unit",
		"--login", "--pin", USER_PIN, "--keygen", "--key-type", "AES:32", "--id", hex,
		"--label", "outside", "--extractable", NULL };

	str_hex(id->b, id->len, hex);
	assert_int_equal(run_quietly(argv), 0);
}

static void
test_two_objects_with_one_id_are_an_error(void **state)
{
	struct bench *b = *state;
	struct object_id id = fresh_id();
	struct blob blob;
	struct hsm_op op = { .kind = HSM_OP_INSPECT, .object = id };

	make_outside(&id);
	assert_int_equal(call(b, &op), 0);
	assert_int_equal(op.attributes & HSM_ATTR_NOT_EXTRACTABLE, 0);
	op = create_op(HSM_OP_CREATE_KEK, &id);
	assert_int_equal(call(b, &op), KEKD_EATTRIBUTES);
	make_outside(&id);
	op = (struct hsm_op){ .kind = HSM_OP_INSPECT, .object = id };
	assert_int_equal(call(b, &op), KEKD_EDUPLICATE);
	op = wrap_op(&id, &blob);
	assert_int_equal(call(b, &op), KEKD_EDUPLICATE);
}

static void
test_every_key_of_the_token_is_listed_in_pages_too(void **state)
{
	struct bench *b = *state;
	static uint8_t page[FRAME_SIZE_MAX];
	uint32_t total = 1, seen = 0;
	bool found = false;

	while (seen < total) {
		struct hsm_op op = {
			.kind = HSM_OP_LIST, .size = seen, .out = page, .out_cap = 200
		};
		struct hsm_object o;
		struct reader r;
		uint32_t before = seen;
		assert_int_equal(call(b, &op), 0);
		total = op.attributes;
		for (r = READER(page, op.out_len); hsm_list_next(&r, &o) == 1; seen++)
			if (memcmp(&o.id, &b->kek, sizeof(o.id)) == 0) {
				found = true;
				assert_int_equal(o.attributes, HSM_ATTR_HELD);
				assert_int_equal(o.label_len, 13);
				assert_memory_equal(o.label, "kekd:lab:t:v1", 13);
			}
		assert_true(seen > before);
	}
	assert_int_equal(seen, total);
	assert_true(found);
}

struct listing {
	uint32_t seen, total;
	struct object_id found; /* one of those that are looked for; len 0: none */
};

static void
list_page(struct bench *b, struct listing *l, const struct object_id *ids, size_t count)
{
	uint8_t room[200];
	struct hsm_op op = {
		.kind = HSM_OP_LIST, .size = l->seen, .out = room, .out_cap = sizeof(room)
	};
	struct hsm_object o;
	struct reader r;

	assert_int_equal(call(b, &op), 0);
	l->total = op.attributes;
	for (r = READER(room, op.out_len); hsm_list_next(&r, &o) == 1; l->seen++)
		for (size_t i = 0; i < count; i++)
			if (memcmp(&o.id, &ids[i], sizeof(o.id)) == 0)
				l->found = o.id;
}

/* Its place stays until all pages are read, or the next one would skip a key that is there. */
static void
test_a_key_that_is_destroyed_between_two_pages_hides_no_other(void **state)
{
	struct bench b;
	struct object_id ids[8];
	struct hsm_op op, destroy = { .kind = HSM_OP_DESTROY };
	struct listing l = { 0 }, next = { 0 };
	uint32_t total;

	(void)state;
	bench_open(&b, 1, 5000, &(struct start){ 0 });
	for (size_t i = 0; i < STR_COUNT(ids); i++) {
		ids[i] = fresh_id();
		op = create_op(HSM_OP_CREATE_KEK, &ids[i]);
		assert_int_equal(call(&b, &op), 0);
	}
	do
		list_page(&b, &l, ids, STR_COUNT(ids));
	while (l.found.len == 0);
	total = l.total;
	assert_true(l.seen < total);
	destroy.object = l.found;
	assert_int_equal(call(&b, &destroy), 0);
	while (l.seen < total)
		list_page(&b, &l, ids, STR_COUNT(ids));
	assert_int_equal(l.seen, total);
	assert_int_equal(l.total, total);
	list_page(&b, &next, ids, STR_COUNT(ids));
	assert_int_equal(next.total, total - 1);
	bench_close(&b);
}

static void
test_a_key_whose_copies_were_dropped_is_found_again(void **state)
{
	struct bench *b = *state;
	uint8_t plain[64];
	struct blob blob;
	struct hsm_op op;

	wrap(b, &blob);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(hsm_drop_everywhere(b->hsm, 0, &b->kek), 0);
		op = unwrap_op(&b->kek, &blob, plain, sizeof(plain));
		assert_int_equal(call(b, &op), 0);
	}
	op = (struct hsm_op){ .kind = HSM_OP_PING };
	assert_int_equal(call(b, &op), 0);
}

static void
test_a_worker_says_what_it_is(void **state)
{
	struct bench *b = *state;
	struct hsm_worker_status s = worker_status(b->hsm, 0);

	assert_true(s.attached && s.ready);
	assert_int_equal(s.hello.state, HSM_STATE_READY);
	assert_int_equal(s.hello.pid, b->child[0].pid);
	assert_string_equal(s.hello.token_label, "unit");
	assert_int_equal(strlen(s.hello.token_serial), 16);
	assert_true(s.hello.session_copies);
	assert_int_equal(s.hello.iv_len, 12);
	assert_string_equal(s.hello.message, "");
	assert_int_equal(hsm_token_iv_len(b->hsm, 0), 12);
	assert_true(hsm_token_ready(b->hsm, 0));
	assert_int_equal(hsm_worker_status(b->hsm, 1, 0, &s), -ENOENT);
}

/* --- Load. */

struct load {
	struct bench *b;
	unsigned rounds;
	atomic_uint bad, done;
};

static void *
load_main(void *arg)
{
	struct load *l = arg;

	for (unsigned i = 0; i < l->rounds; i++) {
		struct blob blob;
		uint8_t plain[64];
		struct hsm_op op = wrap_op(&l->b->kek, &blob);
		bool good = call(l->b, &op) == 0;
		take_blob(&blob, &op);
		op = unwrap_op(&l->b->kek, &blob, plain, sizeof(plain));
		good = good && call(l->b, &op) == 0 && op.out_len == sizeof(PLAIN) - 1 &&
		       memcmp(plain, PLAIN, sizeof(PLAIN) - 1) == 0;
		atomic_fetch_add(good ? &l->done : &l->bad, 1);
	}
	return NULL;
}

static void
load_start(struct load *l, pthread_t *threads, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, load_main, l), 0);
}

static void
load_join(pthread_t *threads, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		pthread_join(threads[i], NULL);
}

static void
test_5000_operations_of_8_threads_all_succeed(void **state)
{
	struct load l = { .b = *state, .rounds = 313 };
	pthread_t threads[8];

	load_start(&l, threads, 8);
	load_join(threads, 8);
	assert_int_equal(l.bad, 0);
	assert_int_equal(l.done, 8 * 313);
	assert_int_equal(hsm_queued(l.b->hsm), 0);
}

/* Asynchronous batches: which is done, and how. */
struct flight {
	pthread_mutex_t lock;
	pthread_cond_t cond;
	unsigned done;
};

static void
flight_done(struct hsm_batch *batch)
{
	struct flight *f = batch->user;

	pthread_mutex_lock(&f->lock);
	f->done++;
	pthread_cond_signal(&f->cond);
	pthread_mutex_unlock(&f->lock);
}

static void
flight_wait(struct flight *f, unsigned n)
{
	pthread_mutex_lock(&f->lock);
	while (f->done < n)
		pthread_cond_wait(&f->cond, &f->lock);
	pthread_mutex_unlock(&f->lock);
}

#define FLIGHT_INIT \
	{ \
		PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0 \
	}

static void
test_a_batch_of_1000_is_spread_over_frames_and_workers(void **state)
{
	struct bench *b = *state;
	struct flight flight = FLIGHT_INIT;
	struct blob *blobs = calloc(1000, sizeof(*blobs));
	struct hsm_op *ops = calloc(1000, sizeof(*ops));
	struct hsm_batch batch = { ops, 1000, flight_done, &flight, 0, 0 };
	uint64_t before[2] = { worker_status(b->hsm, 0).operations,
		worker_status(b->hsm, 1).operations };

	assert_non_null(blobs);
	assert_non_null(ops);
	for (int i = 0; i < 1000; i++)
		ops[i] = wrap_op(&b->kek, &blobs[i]);
	assert_int_equal(hsm_submit(b->hsm, &batch), 0);
	flight_wait(&flight, 1);
	for (int i = 0; i < 1000; i++) {
		assert_int_equal(ops[i].err, 0);
		assert_int_equal(ops[i].out_len, 48);
	}
	assert_true(worker_status(b->hsm, 0).operations > before[0]);
	assert_true(worker_status(b->hsm, 1).operations > before[1]);
	assert_int_equal(flight.done, 1);
	free(ops);
	free(blobs);
}

static void
test_operations_too_large_for_one_frame_are_spread(void **state)
{
	static uint8_t plain[4096], aad[4096];
	struct bench *b = *state;
	struct blob *blobs = calloc(64, sizeof(*blobs));
	struct hsm_op ops[64];

	assert_non_null(blobs);
	for (int i = 0; i < 64; i++) {
		ops[i] = wrap_op(&b->kek, &blobs[i]);
		ops[i].in = plain;
		ops[i].in_len = sizeof(plain);
		ops[i].aad = aad;
		ops[i].aad_len = sizeof(aad);
	}
	assert_int_equal(hsm_call(b->hsm, ops, 64), 0);
	for (int i = 0; i < 64; i++) {
		assert_int_equal(ops[i].err, 0);
		assert_int_equal(ops[i].out_len, sizeof(plain) + 16);
	}
	free(blobs);
}

static void
test_an_operation_that_fits_no_frame_or_names_no_token_is_not_taken(void **state)
{
	struct bench *b = *state;
	static uint8_t huge[FRAME_SIZE_MAX];
	struct blob blob;
	struct hsm_op op = wrap_op(&b->kek, &blob);

	op.aad = huge;
	op.aad_len = sizeof(huge);
	assert_int_equal(hsm_call(b->hsm, &op, 1), KEKD_EINTERNAL);
	op = wrap_op(&b->kek, &blob);
	op.token = 1;
	assert_int_equal(hsm_call(b->hsm, &op, 1), KEKD_EINTERNAL);
	assert_int_equal(hsm_call(b->hsm, &op, 0), KEKD_EINTERNAL);
}

static int
open_pair(void **state)
{
	struct bench *b = calloc(1, sizeof(*b));

	if (!b)
		return -1;
	bench_open(b, 2, 5000, &(struct start){ 0 });
	*state = b;
	return 0;
}

static int
close_pair(void **state)
{
	bench_close(*state);
	free(*state);
	return 0;
}

/* --- Workers that die, hang, or never come. */

static void
test_a_killed_worker_loses_nothing_of_what_only_computes(void **state)
{
	struct load l = { .rounds = 1500 };
	struct bench b;
	pthread_t threads[8];

	(void)state;
	bench_open(&b, 2, 5000, &(struct start){ 0 });
	l.b = &b;
	load_start(&l, threads, 8);
	for (unsigned i = 0; i < 3; i++) {
		unsigned victim = i % 2;
		pause_ms(30);
		child_kill(&b.child[victim], SIGKILL);
		assert_int_equal(child_wait(&b.child[victim]), -SIGKILL);
		attach(&b, victim, &(struct start){ 0 });
		wait_ready(b.hsm, victim);
	}
	load_join(threads, 8);
	assert_int_equal(l.bad, 0);
	assert_int_equal(l.done, 8 * 1500);
	assert_int_equal(worker_status(b.hsm, 0).restarts, 2);
	assert_int_equal(worker_status(b.hsm, 1).restarts, 1);
	bench_close(&b);
}

static void
test_with_no_worker_left_the_answer_comes_at_once(void **state)
{
	struct flight flight = FLIGHT_INIT;
	struct bench b;
	struct blob blob;
	struct hsm_op op, pending;
	struct hsm_batch batch = { &pending, 1, flight_done, &flight, 0, 0 };

	(void)state;
	bench_open(&b, 1, 5000, &(struct start){ 0 });
	child_kill(&b.child[0], SIGSTOP);
	pending = wrap_op(&b.kek, &blob);
	assert_int_equal(hsm_submit(b.hsm, &batch), 0);
	child_kill(&b.child[0], SIGKILL);
	assert_int_equal(child_wait(&b.child[0]), -SIGKILL);
	flight_wait(&flight, 1);
	assert_int_equal(pending.err, KEKD_EHSM);
	wait_detached(b.hsm, 0);
	assert_int_equal(worker_status(b.hsm, 0).hello.state, HSM_STATE_FAILED);
	op = wrap_op(&b.kek, &blob);
	assert_int_equal(hsm_call(b.hsm, &op, 1), KEKD_EHSM);
	attach(&b, 0, &(struct start){ 0 });
	wait_ready(b.hsm, 0);
	assert_int_equal(call(&b, &op), 0);
	bench_close(&b);
}

static void
test_a_creation_is_not_given_to_another_worker(void **state)
{
	struct flight flight = FLIGHT_INIT;
	struct object_id id = fresh_id();
	struct hsm_op op = create_op(HSM_OP_CREATE_KEK, &id);
	struct hsm_batch batch = { &op, 1, flight_done, &flight, 0, 0 };
	struct bench b;
	int victim;

	(void)state;
	bench_open(&b, 2, 5000, &(struct start){ 0 });
	for (int i = 0; i < 2; i++)
		child_kill(&b.child[i], SIGSTOP);
	assert_int_equal(hsm_submit(b.hsm, &batch), 0);
	victim = worker_status(b.hsm, 0).in_flight == 1 ? 0 : 1;
	assert_int_equal(worker_status(b.hsm, (unsigned)victim).in_flight, 1);
	child_kill(&b.child[victim], SIGKILL);
	assert_int_equal(child_wait(&b.child[victim]), -SIGKILL);
	flight_wait(&flight, 1);
	assert_int_equal(op.err, KEKD_EHSM);
	child_kill(&b.child[!victim], SIGCONT);
	op = (struct hsm_op){ .kind = HSM_OP_INSPECT, .object = id };
	assert_int_equal(call(&b, &op), KEKD_EOBJECT);
	attach(&b, (unsigned)victim, &(struct start){ 0 });
	wait_ready(b.hsm, (unsigned)victim);
	bench_close(&b);
}

static void
test_a_stopped_worker_is_answered_for_at_the_deadline_and_comes_back(void **state)
{
	struct bench b;
	struct blob blob;
	struct hsm_op op;
	uint64_t start;

	(void)state;
	bench_open(&b, 1, 1000, &(struct start){ 0 });
	op = wrap_op(&b.kek, &blob);
	child_kill(&b.child[0], SIGSTOP);
	start = clock_boot_ns();
	assert_int_equal(call(&b, &op), KEKD_ETIMEOUT);
	assert_true(clock_boot_ns() - start >= 1000 * CLOCK_MS);
	assert_false(hsm_token_ready(b.hsm, 0));
	assert_int_equal(worker_status(b.hsm, 0).missed_deadlines, 1);
	assert_int_equal(hsm_call(b.hsm, &op, 1), KEKD_EHSM);
	memset(&blob, 0xee, sizeof(blob));
	child_kill(&b.child[0], SIGCONT);
	wait_ready(b.hsm, 0);
	assert_int_equal(blob.data[0], 0xee); /* the late answer went nowhere */
	op = wrap_op(&b.kek, &blob);
	assert_int_equal(call(&b, &op), 0);
	bench_close(&b);
}

static void
test_beside_a_stopped_worker_the_other_serves_on(void **state)
{
	struct load l = { .rounds = 200 };
	struct bench b;
	pthread_t threads[4];

	(void)state;
	bench_open(&b, 2, 300, &(struct start){ 0 });
	l.b = &b;
	child_kill(&b.child[1], SIGSTOP);
	load_start(&l, threads, 4);
	load_join(threads, 4);
	/* What the stopped one had in hand, one frame, missed its deadline; all else went well. */
	assert_in_range(l.bad, 0, 4);
	assert_int_equal(l.bad + l.done, 4 * 200);
	child_kill(&b.child[1], SIGCONT);
	wait_ready(b.hsm, 1);
	bench_close(&b);
}

static void
test_a_stopped_worker_reads_a_drop_before_any_other_work(void **state)
{
	struct bench b;
	struct blob blob;
	struct hsm_op op;

	(void)state;
	bench_open(&b, 1, 1000, &(struct start){ 0 });
	wrap(&b, &blob);
	child_kill(&b.child[0], SIGSTOP);
	op = wrap_op(&b.kek, &blob);
	assert_int_equal(call(&b, &op), KEKD_ETIMEOUT);
	assert_int_equal(hsm_drop_everywhere(b.hsm, 0, &b.kek), KEKD_ETIMEOUT);
	assert_true(worker_status(b.hsm, 0).attached); /* the drop waits in its socket */
	assert_int_equal(worker_status(b.hsm, 0).in_flight, 2);
	child_kill(&b.child[0], SIGCONT);
	wait_ready(b.hsm, 0);
	assert_int_equal(worker_status(b.hsm, 0).in_flight, 0);
	bench_close(&b);
}

static void
test_what_waits_is_bounded(void **state)
{
	const struct hsm_config config = {
		.tokens = 1, .names = names, .workers = 1, .deadline_ms = 300, .queue_max = 10
	};
	struct flight flight = FLIGHT_INIT;
	struct bench b = { .workers = 1 };
	struct hsm_op ops[14];
	struct hsm_batch batch[14];
	unsigned taken = 0, refused = 0;

	(void)state;
	assert_int_equal(hsm_open(&config, &b.hsm), 0);
	attach(&b, 0, &(struct start){ 0 });
	wait_ready(b.hsm, 0);
	child_kill(&b.child[0], SIGSTOP);
	for (unsigned i = 0; i < 14; i++) {
		ops[i] = (struct hsm_op){ .kind = HSM_OP_PING };
		batch[i] = (struct hsm_batch){ &ops[i], 1, flight_done, &flight, 0, 0 };
		int err = hsm_submit(b.hsm, &batch[i]);
		assert_true(err == 0 || err == KEKD_EOVERLOAD);
		taken += err == 0;
		refused += err != 0;
	}
	assert_int_equal(taken, 11); /* one in the worker, ten behind it */
	assert_int_equal(refused, 3);
	assert_int_equal(hsm_queued(b.hsm), 10);
	flight_wait(&flight, taken);
	child_kill(&b.child[0], SIGCONT);
	wait_ready(b.hsm, 0);
	bench_close(&b);
}

static void
test_the_end_of_the_client_ends_what_is_pending(void **state)
{
	struct flight flight = FLIGHT_INIT;
	struct bench b;
	struct blob blob[2];
	struct hsm_op ops[2];
	struct hsm_batch batch = { ops, 2, flight_done, &flight, 0, 0 };

	(void)state;
	bench_open(&b, 1, 5000, &(struct start){ 0 });
	child_kill(&b.child[0], SIGSTOP);
	for (int i = 0; i < 2; i++)
		ops[i] = wrap_op(&b.kek, &blob[i]);
	assert_int_equal(hsm_submit(b.hsm, &batch), 0);
	hsm_freep(&b.hsm);
	assert_int_equal(flight.done, 1);
	assert_int_equal(ops[0].err, KEKD_EHSM);
	assert_int_equal(ops[1].err, KEKD_EHSM);
	child_kill(&b.child[0], SIGCONT);
	assert_int_equal(child_wait(&b.child[0]), CHILD_EXIT_OK);
}

static void
test_what_is_no_frame_makes_the_client_give_the_worker_up(void **state)
{
	const struct hsm_config config = {
		.tokens = 1, .names = names, .workers = 1, .deadline_ms = 300, .queue_max = 10
	};
	struct hsm *hsm = NULL;
	int pair[2];
	char byte;

	(void)state;
	assert_int_equal(hsm_open(&config, &hsm), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
	hsm_attach(hsm, 0, 0, pair[0]);
	assert_int_equal(send(pair[1], "nonsense", 8, 0), 8);
	assert_int_equal(recv(pair[1], &byte, 1, 0), 0); /* closed */
	assert_false(hsm_token_ready(hsm, 0));
	close(pair[1]);
	hsm_freep(&hsm);
}

/* So many threads, each the same rounds. */
static uint64_t
time_of_load(struct bench *b, unsigned n, unsigned rounds)
{
	struct load l = { .b = b, .rounds = rounds };
	uint64_t start = clock_boot_ns();
	pthread_t threads[4];

	load_start(&l, threads, n);
	load_join(threads, n);
	assert_int_equal(l.done, n * rounds);
	return clock_boot_ns() - start;
}

static void
test_sessions_of_one_worker_work_side_by_side(void **state)
{
	struct bench b;

	(void)state;
	setenv("KEKD_TEST_DELAY_US", "20000", 1);
	bench_open(&b, 1, 5000, &(struct start){ .module = lab.logging, .sessions = 4 });
	unsetenv("KEKD_TEST_DELAY_US");
	assert_int_equal(worker_status(b.hsm, 0).hello.sessions, 4);
	/* One after the other they would take as long as one thread's. */
	assert_true(time_of_load(&b, 4, 5) < time_of_load(&b, 1, 4 * 5) * 3 / 4);
	bench_close(&b);
}

/* A worker with one session whose operations take 5 ms, and a client that knows it. */
static void
open_slow(struct bench *b)
{
	struct blob blob;

	setenv("KEKD_TEST_DELAY_US", "5000", 1);
	bench_open(b, 1, 20000, &(struct start){ .module = lab.logging });
	unsetenv("KEKD_TEST_DELAY_US");
	for (unsigned i = 0; i < 60; i++) {
		struct hsm_op op = wrap_op(&b->kek, &blob);
		assert_int_equal(hsm_call(b->hsm, &op, 1), 0);
		assert_int_equal(op.err, 0);
	}
	assert_true(worker_status(b->hsm, 0).micros_per_op > 4000);
}

#define SINGLES 100

static void
test_what_would_wait_too_long_is_refused_at_once(void **state)
{
	struct flight flight = FLIGHT_INIT;
	static struct blob blob[SINGLES];
	struct hsm_op ops[SINGLES], own;
	struct hsm_batch batch[SINGLES];
	struct bench b;
	unsigned taken = 0;

	(void)state;
	open_slow(&b);
	assert_false(hsm_is_behind(b.hsm));
	for (unsigned i = 0; i < SINGLES; i++) {
		int err;
		ops[i] = wrap_op(&b.kek, &blob[i]);
		batch[i] = (struct hsm_batch){ &ops[i], 1, flight_done, &flight, 0, 0 };
		err = hsm_submit(b.hsm, &batch[i]);
		assert_true(err == 0 || err == KEKD_EOVERLOAD);
		taken += err == 0;
	}
	/* Sixteen before one's own, as many as were done meanwhile, and some slack in the estimate.
	 */
	assert_in_range(taken, 16, SINGLES / 2);
	assert_true(hsm_is_behind(b.hsm));
	/* What kekd itself needs of the token is not refused. */
	own = wrap_op(&b.kek, &blob[0]);
	assert_int_equal(hsm_call(b.hsm, &own, 1), 0);
	assert_int_equal(own.err, 0);
	flight_wait(&flight, taken);
	assert_false(hsm_is_behind(b.hsm));
	bench_close(&b);
}

#define BULK 200

static void
test_a_batch_is_taken_by_a_slow_token_and_holds_up_no_single_operation(void **state)
{
	struct flight bulk_flight = FLIGHT_INIT, flight = FLIGHT_INIT;
	static struct blob blob[BULK];
	static struct hsm_op ops[2][BULK];
	struct hsm_batch bulk[2] = { { ops[0], BULK, flight_done, &bulk_flight, 0, 0 },
		{ ops[1], BULK, flight_done, &bulk_flight, 0, 0 } };
	struct bench b;

	(void)state;
	open_slow(&b);
	for (unsigned i = 0; i < BULK; i++)
		ops[0][i] = ops[1][i] = wrap_op(&b.kek, &blob[i]);
	assert_int_equal(hsm_submit(b.hsm, &bulk[0]), 0);
	/* A second may wait as long as it takes itself; a third is told to come again. */
	assert_int_equal(hsm_submit(b.hsm, &bulk[1]), 0);
	assert_int_equal(hsm_submit(b.hsm, &(struct hsm_batch){ ops[1], BULK }), KEKD_EOVERLOAD);
	for (unsigned i = 0; i < 10; i++) {
		struct blob room;
		struct hsm_op op = wrap_op(&b.kek, &room);
		struct hsm_batch one = { &op, 1, flight_done, &flight, 0, 0 };
		assert_int_equal(hsm_submit(b.hsm, &one), 0);
		flight_wait(&flight, i + 1);
		assert_int_equal(op.err, 0);
	}
	assert_true(hsm_queued(b.hsm) > BULK); /* the batches still wait */
	flight_wait(&bulk_flight, 2);
	for (unsigned i = 0; i < BULK; i++)
		assert_int_equal(ops[0][i].err | ops[1][i].err, 0);
	bench_close(&b);
}

/* --- Starts that fail, and the PIN. */

struct failure {
	struct hsm_hello hello;
	int status;
};

/* Starts a worker that does not serve: what it says, and how it ends. */
static struct failure
start_failing(const struct start *start)
{
	static uint8_t frame[FRAME_SIZE_MAX];
	struct child c = child_start(&lab, start);
	struct failure f = { 0 };
	ssize_t n = recv(c.net, frame, sizeof(frame), 0);

	assert_true(n > 0);
	assert_int_equal(frame_get_hello(frame, (size_t)n, &f.hello), 0);
	f.status = child_wait(&c);
	return f;
}

static unsigned
logged(const char *log, const char *call_name)
{
	char line[64];
	unsigned n = 0;
	FILE *f = fopen(log, "re");

	while (f && fgets(line, sizeof(line), f))
		n += strncmp(line, call_name, strlen(call_name)) == 0;
	if (f)
		fclose(f);
	return n;
}

static void
log_path(char *ret_path, size_t size)
{
	snprintf(ret_path, size, "%s/calls.log", lab.dir);
	unlink(ret_path);
	setenv("KEKD_TEST_LOG", ret_path, 1);
}

static void
refused_path(const struct failure *f, char *ret_path, size_t size)
{
	snprintf(ret_path, size, "%s/refused-%s", lab.state, f->hello.token_serial);
}

static void
test_a_refused_pin_is_tried_once_however_often_the_worker_starts(void **state)
{
	const struct start wrong = { .module = lab.logging, .pin = "000000\n" };
	const struct start other = { .module = lab.logging, .pin = "111111\n" };
	char log[128], refused[128];
	struct failure f;
	struct stat st;
	struct bench b;

	(void)state;
	log_path(log, sizeof(log));
	f = start_failing(&wrong);
	assert_int_equal(f.hello.state, HSM_STATE_PIN_REFUSED);
	assert_int_equal(f.status, CHILD_EXIT_PIN);
	assert_non_null(strstr(f.hello.message, "pkcs11:token=unit"));
	assert_int_equal(logged(log, "C_Login"), 1);
	refused_path(&f, refused, sizeof(refused));
	assert_int_equal(stat(refused, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	for (int i = 0; i < 2; i++) {
		f = start_failing(&wrong);
		assert_int_equal(f.hello.state, HSM_STATE_PIN_REFUSED);
		assert_int_equal(f.status, CHILD_EXIT_PIN);
	}
	assert_int_equal(logged(log, "C_Login"), 1);
	/* A second wrong one is tried, and does not make the first one be forgotten. */
	f = start_failing(&other);
	assert_int_equal(f.status, CHILD_EXIT_PIN);
	f = start_failing(&wrong);
	assert_int_equal(f.status, CHILD_EXIT_PIN);
	assert_int_equal(logged(log, "C_Login"), 2);
	bench_open(&b, 1, 5000, &(struct start){ .module = lab.logging });
	bench_close(&b);
	assert_int_equal(logged(log, "C_Login"), 3);
	assert_int_equal(stat(refused, &st), -1);
	unsetenv("KEKD_TEST_LOG");
}

/* The signal comes while the worker waits for C_Login's answer. */
static void
end_in_login(const struct start *start, int signal_number)
{
	char text[16];
	struct child c;

	snprintf(text, sizeof(text), "%d", signal_number);
	setenv("KEKD_TEST_LOGIN_SIGNAL", text, 1);
	c = child_start(&lab, start);
	unsetenv("KEKD_TEST_LOGIN_SIGNAL");
	assert_int_equal(child_wait(&c), -signal_number);
}

static void
test_a_worker_that_is_told_to_end_while_it_logs_in_remembers_a_refusal(void **state)
{
	const struct start wrong = { .module = lab.logging, .pin = "000000\n" };
	char log[128], refused[128];
	struct failure f;
	struct bench b;

	(void)state;
	log_path(log, sizeof(log));
	end_in_login(&wrong, SIGTERM);
	f = start_failing(&wrong);
	assert_int_equal(f.status, CHILD_EXIT_PIN);
	assert_int_equal(logged(log, "C_Login"), 1);
	bench_open(&b, 1, 5000, &(struct start){ .module = lab.logging });
	bench_close(&b);
	refused_path(&f, refused, sizeof(refused));
	assert_int_equal(access(refused, F_OK), -1);
	unsetenv("KEKD_TEST_LOG");
}

static void
test_a_pin_whose_answer_was_never_heard_is_tried_a_bounded_number_of_times(void **state)
{
	const struct start right = { .module = lab.logging };
	char log[128], refused[128];
	struct failure f;
	struct bench b;

	(void)state;
	log_path(log, sizeof(log));
	end_in_login(&right, SIGKILL);
	bench_open(&b, 1, 5000, &right);
	bench_close(&b);
	assert_int_equal(logged(log, "C_Login"), 2);
	for (int i = 0; i < 2; i++)
		end_in_login(&right, SIGKILL);
	f = start_failing(&right);
	assert_int_equal(f.status, CHILD_EXIT_PIN);
	assert_int_equal(logged(log, "C_Login"), 4);
	refused_path(&f, refused, sizeof(refused));
	assert_int_equal(unlink(refused), 0);
	/* A token that knows of a wrong PIN gets no second try. */
	end_in_login(&right, SIGKILL);
	setenv("KEKD_TEST_FLAGS", "0x10000", 1); /* CKF_USER_PIN_COUNT_LOW */
	f = start_failing(&right);
	unsetenv("KEKD_TEST_FLAGS");
	assert_int_equal(f.status, CHILD_EXIT_PIN);
	assert_int_equal(logged(log, "C_Login"), 5);
	assert_int_equal(unlink(refused), 0);
	unsetenv("KEKD_TEST_LOG");
}

static void
test_a_broken_memory_of_refusals_stops_logins(void **state)
{
	char log[128], refused[128];
	struct failure f;
	int fd;

	(void)state;
	log_path(log, sizeof(log));
	f = start_failing(&(struct start){ .module = lab.logging, .pin = "000000\n" });
	refused_path(&f, refused, sizeof(refused));
	assert_int_equal(truncate(refused, 20), 0);
	f = start_failing(&(struct start){ .module = lab.logging });
	assert_int_equal(f.hello.state, HSM_STATE_FAILED);
	assert_int_equal(f.status, CHILD_EXIT_OPERATOR);
	assert_int_equal(logged(log, "C_Login"), 1);
	assert_int_equal(unlink(refused), 0);
	/* Clears the token's own count again. */
	struct bench b;
	bench_open(&b, 1, 5000, &(struct start){ 0 });
	bench_close(&b);
	fd = open(refused, O_RDONLY);
	assert_int_equal(fd, -1);
	unsetenv("KEKD_TEST_LOG");
}

static void
test_a_locked_pin_and_the_last_try_are_left_alone(void **state)
{
	static const struct {
		const char *flags;
		enum hsm_state state;
	} cases[] = {
		{ "0x40000", HSM_STATE_PIN_LOCKED },	/* CKF_USER_PIN_LOCKED */
		{ "0x20000", HSM_STATE_PIN_FINAL_TRY }, /* CKF_USER_PIN_FINAL_TRY */
	};
	char log[128];

	(void)state;
	log_path(log, sizeof(log));
	for (size_t i = 0; i < STR_COUNT(cases); i++) {
		struct failure f;
		setenv("KEKD_TEST_FLAGS", cases[i].flags, 1);
		f = start_failing(&(struct start){ .module = lab.logging });
		assert_int_equal(f.hello.state, cases[i].state);
		assert_int_equal(f.status, CHILD_EXIT_PIN);
	}
	assert_int_equal(logged(log, "C_Login"), 0);
	unsetenv("KEKD_TEST_FLAGS");
	unsetenv("KEKD_TEST_LOG");
}

static void
test_a_start_that_cannot_succeed_says_why(void **state)
{
	static const struct {
		struct start start;
		enum hsm_state state;
		const char *says;
	} cases[] = {
		{ { .uri = "pkcs11:token=elsewhere" }, HSM_STATE_NO_TOKEN, "no token matches" },
		{ { .uri = "no uri" }, HSM_STATE_NO_TOKEN, "no PKCS#11 URI" },
		{ { .module = "/nowhere/module.so" }, HSM_STATE_NO_MODULE, "cannot be loaded" },
		/* SoftHSM's free slot. */
		{ { .uri = "pkcs11:token=" }, HSM_STATE_NOT_INITIALISED, "is not initialised" },
		{ { .uri = "pkcs11:model=SoftHSM%20v2" }, HSM_STATE_NO_TOKEN, "2 tokens match" },
		{ { .pin = "\n" }, HSM_STATE_FAILED, "empty" },
	};

	(void)state;
	for (size_t i = 0; i < STR_COUNT(cases); i++) {
		struct failure f = start_failing(&cases[i].start);
		assert_int_equal(f.hello.state, cases[i].state);
		assert_int_equal(f.status, CHILD_EXIT_OPERATOR);
		assert_non_null(strstr(f.hello.message, cases[i].says));
		assert_non_null(strstr(f.hello.message, "\"main\""));
	}
}

static void
test_a_key_that_could_have_left_the_token_is_refused(void **state)
{
	struct object_id id = fresh_id();
	struct hsm_op op = create_op(HSM_OP_CREATE_KEK, &id);
	struct bench b = { 0 };

	(void)state;
	bench_open(&b, 1, 5000, &(struct start){ .module = lab.logging });
	hsm_freep(&b.hsm);
	assert_int_equal(child_wait(&b.child[0]), CHILD_EXIT_OK);
	setenv("KEKD_TEST_EXTRACTABLE", "1", 1);
	const struct hsm_config config = {
		.tokens = 1, .names = names, .workers = 1, .deadline_ms = 5000, .queue_max = 10
	};
	assert_int_equal(hsm_open(&config, &b.hsm), 0);
	attach(&b, 0, &(struct start){ .module = lab.logging });
	wait_ready(b.hsm, 0);
	assert_int_equal(call(&b, &op), KEKD_EATTRIBUTES);
	assert_int_equal(op.attributes, HSM_ATTR_HELD & ~HSM_ATTR_NEVER_EXTRACTABLE);
	bench_close(&b);
	unsetenv("KEKD_TEST_EXTRACTABLE");
}

static void
test_the_parent_hears_of_the_login(void **state)
{
	struct child c = child_start(&lab, &(struct start){ 0 });
	struct control_message m;
	int fd;

	(void)state;
	assert_int_equal(control_receive(c.control, &m, &fd), 0);
	assert_int_equal(m.kind, CONTROL_LOGGED_IN);
	assert_int_equal(fd, -1);
	assert_int_equal(child_wait(&c), CHILD_EXIT_OK);
}

int
main(void)
{
	const struct CMUnitTest serving[] = {
		cmocka_unit_test(test_what_was_wrapped_is_unwrapped),
		cmocka_unit_test(test_the_largest_plaintext_with_the_largest_context_is_wrapped),
		cmocka_unit_test(test_another_context_a_flipped_bit_and_a_cut_are_one_error),
		cmocka_unit_test(test_a_check_tells_nothing_of_the_plaintext),
		cmocka_unit_test(test_a_generated_key_is_the_one_that_was_wrapped),
		cmocka_unit_test(test_a_generated_key_that_nobody_asked_to_see_stays_in_the_worker),
		cmocka_unit_test(test_a_rewrapped_blob_is_of_the_other_key),
		cmocka_unit_test(test_a_seal_is_the_same_each_time_and_another_for_other_content),
		cmocka_unit_test(
			test_a_signature_verifies_with_the_public_key_that_the_token_gives),
		cmocka_unit_test(test_a_destroyed_key_is_gone_with_its_copy_and_again_is_no_error),
		cmocka_unit_test(test_what_begins_past_its_end_leaves_the_token_as_it_is),
		cmocka_unit_test(test_an_object_that_is_not_there_is_said_to_be_missing),
		cmocka_unit_test(test_creating_again_takes_the_key_that_is_there),
		cmocka_unit_test(test_two_objects_with_one_id_are_an_error),
		cmocka_unit_test(test_every_key_of_the_token_is_listed_in_pages_too),
		cmocka_unit_test(test_a_key_that_is_destroyed_between_two_pages_hides_no_other),
		cmocka_unit_test(test_a_key_whose_copies_were_dropped_is_found_again),
		cmocka_unit_test(test_a_worker_says_what_it_is),
		cmocka_unit_test(test_5000_operations_of_8_threads_all_succeed),
		cmocka_unit_test(test_a_batch_of_1000_is_spread_over_frames_and_workers),
		cmocka_unit_test(test_operations_too_large_for_one_frame_are_spread),
		cmocka_unit_test(
			test_an_operation_that_fits_no_frame_or_names_no_token_is_not_taken),
	};
	const struct CMUnitTest failing[] = {
		cmocka_unit_test(test_a_killed_worker_loses_nothing_of_what_only_computes),
		cmocka_unit_test(test_with_no_worker_left_the_answer_comes_at_once),
		cmocka_unit_test(test_a_creation_is_not_given_to_another_worker),
		cmocka_unit_test(
			test_a_stopped_worker_is_answered_for_at_the_deadline_and_comes_back),
		cmocka_unit_test(test_beside_a_stopped_worker_the_other_serves_on),
		cmocka_unit_test(test_a_stopped_worker_reads_a_drop_before_any_other_work),
		cmocka_unit_test(test_what_waits_is_bounded),
		cmocka_unit_test(test_the_end_of_the_client_ends_what_is_pending),
		cmocka_unit_test(test_what_is_no_frame_makes_the_client_give_the_worker_up),
		cmocka_unit_test(test_sessions_of_one_worker_work_side_by_side),
		cmocka_unit_test(test_what_would_wait_too_long_is_refused_at_once),
		cmocka_unit_test(
			test_a_batch_is_taken_by_a_slow_token_and_holds_up_no_single_operation),
		cmocka_unit_test(test_a_refused_pin_is_tried_once_however_often_the_worker_starts),
		cmocka_unit_test(
			test_a_worker_that_is_told_to_end_while_it_logs_in_remembers_a_refusal),
		cmocka_unit_test(
			test_a_pin_whose_answer_was_never_heard_is_tried_a_bounded_number_of_times),
		cmocka_unit_test(test_a_broken_memory_of_refusals_stops_logins),
		cmocka_unit_test(test_a_locked_pin_and_the_last_try_are_left_alone),
		cmocka_unit_test(test_a_start_that_cannot_succeed_says_why),
		cmocka_unit_test(test_a_key_that_could_have_left_the_token_is_refused),
		cmocka_unit_test(test_the_parent_hears_of_the_login),
	};
	int failed;

	log_open("test_hsm_client", LOG_LEVEL_ERROR);
	if (!lab_open(&lab))
		return 77;
	failed = cmocka_run_group_tests(serving, open_pair, close_pair);
	failed += cmocka_run_group_tests(failing, NULL, NULL);
	lab_close(&lab);
	return failed;
}
