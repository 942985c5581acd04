/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A data key on its way from one token to another: it crosses kekd-net under a key that kekd gives
 * to workers alone (AES-256-GCM, random 96-bit IVs). Not here: what the tokens compute (mech.c).
 */
#include "worker.h"

#include "kekd/err.h"
#include "kekd/log.h"

#include <errno.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <string.h>
#include <unistd.h>

#define KEY_SIZE 32
#define IV_SIZE 12
#define TAG_SIZE 16

int
transport_read_key(struct worker *w, int fd)
{
	size_t n = 0;
	ssize_t r = 0;
	int err = secret_alloc(&w->transport_key, KEY_SIZE);

	while (!err && n < KEY_SIZE) {
		r = read(fd, w->transport_key.data + n, KEY_SIZE - n);
		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0)
			break;
		n += (size_t)r;
	}
	close(fd);
	if (!err && n < KEY_SIZE)
		err = -EIO;
	if (err)
		log_error("the key between workers cannot be read: kekd-hsm is started by kekd");
	return err;
}

static EVP_CIPHER_CTX *
open_cipher(const struct worker *w, const uint8_t *iv, int encrypt)
{
	EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();

	if (ctx && EVP_CipherInit_ex(
			   ctx, EVP_aes_256_gcm(), NULL, w->transport_key.data, iv, encrypt) == 1)
		return ctx;
	EVP_CIPHER_CTX_free(ctx);
	return NULL;
}

/* ret_out has room for the tag behind the bytes. */
static bool
seal(const struct worker *w, const uint8_t *iv, const uint8_t *plain, uint32_t len,
	uint8_t *ret_out)
{
	EVP_CIPHER_CTX *ctx = open_cipher(w, iv, 1);
	int n = 0;
	bool good = ctx && EVP_EncryptUpdate(ctx, ret_out, &n, plain, (int)len) == 1 &&
		    EVP_EncryptFinal_ex(ctx, ret_out + n, &n) == 1 &&
		    EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_GCM_GET_TAG, TAG_SIZE, ret_out + len) == 1;

	EVP_CIPHER_CTX_free(ctx);
	return good;
}

static bool
open_sealed(const struct worker *w, const struct hsm_op *op, uint8_t *ret_plain)
{
	EVP_CIPHER_CTX *ctx = open_cipher(w, op->iv, 0);
	uint32_t len = op->in_len - TAG_SIZE;
	int n = 0;
	bool good = ctx && EVP_DecryptUpdate(ctx, ret_plain, &n, op->in, (int)len) == 1 &&
		    EVP_CIPHER_CTX_ctrl(
			    ctx, EVP_CTRL_GCM_SET_TAG, TAG_SIZE, (void *)(op->in + len)) == 1 &&
		    EVP_DecryptFinal_ex(ctx, ret_plain + n, &n) == 1;

	EVP_CIPHER_CTX_free(ctx);
	return good;
}

enum p11_class
transport_hand_out(struct session *s, struct hsm_op *op)
{
	struct hsm_op plain = *op;
	enum p11_class class;

	plain.out = s->out2;
	class = mech_unwrap(s, &plain);
	if (class)
		return class;
	if (RAND_bytes(op->iv, IV_SIZE) != 1 ||
		!seal(s->w, op->iv, s->out2, plain.out_len, op->out))
		return P11_RESTART;
	op->iv_len = IV_SIZE;
	op->out_len = plain.out_len + TAG_SIZE;
	return P11_OK;
}

enum p11_class
transport_take_in(struct session *s, struct hsm_op *op)
{
	struct hsm_op plain = *op;
	enum p11_class class;

	if (op->in_len <= TAG_SIZE || op->iv_len != IV_SIZE || !open_sealed(s->w, op, s->out2))
		return P11_RESTART; /* kekd-net gave what no worker of this kekd made */
	plain.in = s->out2;
	plain.in_len = op->in_len - TAG_SIZE;
	class = mech_wrap(s, &plain);
	if (class)
		return class;
	memcpy(op->iv, plain.iv, sizeof(op->iv));
	op->iv_len = plain.iv_len;
	op->out_len = plain.out_len;
	return P11_OK;
}
