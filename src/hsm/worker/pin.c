/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The PIN: read once, used with care. No sequence of restarts may lock a token, so a PIN that the
 * token refused is remembered on disk (as a salted scrypt) and never tried again, from before the
 * token is asked on; when the token says that few tries are left, or one, it is believed. A
 * successful login forgets what was refused.
 */
#include "worker.h"

#include "kekd/buf.h"
#include "kekd/control.h"
#include "kekd/err.h"
#include "kekd/file.h"
#include "kekd/log.h"
#include "kekd/str.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PIN_MAX 256
#define SALT_SIZE 16
#define HASH_SIZE 32
#define REFUSED_MAX 16 /* PINs that are remembered; then the operator has to look */
#define DOUBTS_MAX 2   /* tries of one PIN that may go without an answer */
#define SCRYPT_N 16384
#define SCRYPT_R 8
#define SCRYPT_P 1
#define SCRYPT_MEMORY (32 * 1024 * 1024)

/* A file: the salt, the number of tries in doubt, then a hash for each PIN that was refused since
 * the last success. A try is written down before the token is asked; while it is in doubt nobody
 * knows what the token answered, since the worker was killed. The last hash is the one in doubt. */
struct refused {
	char name[32];
	size_t count;
	uint8_t salt[SALT_SIZE];
	uint8_t doubts;
	uint8_t hash[REFUSED_MAX][HASH_SIZE];
};

static ssize_t
read_full(int fd, void *data, size_t size)
{
	size_t len = 0;
	ssize_t n = 1;

	while (len < size && n != 0) {
		n = read(fd, (uint8_t *)data + len, size - len);
		if (n < 0 && errno != EINTR)
			return -errno;
		len += n > 0 ? (size_t)n : 0;
	}
	return (ssize_t)len;
}

static int
read_pin(int fd, struct secret *ret_pin)
{
	struct secret raw = { 0 };
	ssize_t n;
	int err = secret_alloc(&raw, PIN_MAX + 2);

	if (err)
		return err;
	n = read_full(fd, raw.data, raw.len);
	if (n > 0 && raw.data[n - 1] == '\n')
		n--;
	err = n < 0 ? (int)n : n == 0 ? -ENODATA : n > PIN_MAX ? -E2BIG : 0;
	if (!err)
		err = secret_alloc(ret_pin, (size_t)n);
	if (!err)
		memcpy(ret_pin->data, raw.data, (size_t)n);
	secret_free(&raw);
	return err;
}

int
pin_read(struct worker *w, int fd)
{
	int err = read_pin(fd, &w->pin);

	close(fd);
	if (err)
		return worker_fail(w, HSM_STATE_FAILED, CHILD_EXIT_OPERATOR,
			"token \"%s\": the PIN source cannot be used: %s: it holds the user PIN, "
			"at "
			"most %d bytes, and nothing else",
			w->part.token, err == -ENODATA ? "it is empty" : kekd_strerror(err),
			PIN_MAX);
	return 0;
}

static void
refused_name(const struct worker *w, char *ret_name, size_t size)
{
	size_t n = (size_t)snprintf(ret_name, size, "refused-%s", w->hello.token_serial);

	for (size_t i = 0; i < n && i < size; i++)
		if (!isalnum((unsigned char)ret_name[i]) && ret_name[i] != '-')
			ret_name[i] = '_';
}

/* 0; a file that is not there remembers nothing. */
static int
refused_load(const struct worker *w, struct refused *ret_refused)
{
	struct refused r = { 0 };
	ssize_t n;
	int fd;

	refused_name(w, r.name, sizeof(r.name));
	*ret_refused = r;
	fd = openat(w->state_dir, r.name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	n = read_full(fd, r.salt, SALT_SIZE);
	if (n == SALT_SIZE)
		n += read_full(fd, &r.doubts, 1);
	if (n == SALT_SIZE + 1)
		n = read_full(fd, r.hash, sizeof(r.hash));
	else
		n = n < 0 ? n : -EBADMSG;
	close(fd);
	if (n <= 0 || n % HASH_SIZE != 0)
		return n < 0 ? (int)n : -EBADMSG;
	r.count = (size_t)n / HASH_SIZE;
	*ret_refused = r;
	return 0;
}

static int
hash_pin(const struct worker *w, const uint8_t salt[SALT_SIZE], uint8_t ret_hash[HASH_SIZE])
{
	uint8_t salted[SALT_SIZE + sizeof(w->hello.token_serial)];

	memcpy(salted, salt, SALT_SIZE);
	memcpy(salted + SALT_SIZE, w->hello.token_serial, sizeof(w->hello.token_serial));
	return EVP_PBE_scrypt((const char *)w->pin.data, w->pin.len, salted, sizeof(salted),
		       SCRYPT_N, SCRYPT_R, SCRYPT_P, SCRYPT_MEMORY, ret_hash, HASH_SIZE) == 1
		       ? 0
		       : KEKD_EINTERNAL;
}

static int
refused_store(const struct worker *w, const struct refused *r)
{
	uint8_t data[SALT_SIZE + 1 + sizeof(r->hash)];
	size_t hashes = r->count * HASH_SIZE;

	memcpy(data, r->salt, SALT_SIZE);
	data[SALT_SIZE] = r->doubts;
	memcpy(data + SALT_SIZE + 1, r->hash, hashes);
	return file_replace_at(w->state_dir, r->name, data, SALT_SIZE + 1 + hashes);
}

static void
forget_refusals(struct worker *w)
{
	char name[32];

	refused_name(w, name, sizeof(name));
	if (unlinkat(w->state_dir, name, 0) == 0 && fsync(w->state_dir) < 0)
		log_warning("the state directory cannot be synced: %s", kekd_strerror(-errno));
}

static bool
is_low(const struct worker *w)
{
	return w->p11.token.flags & CKF_USER_PIN_COUNT_LOW;
}

/* What the token itself says of its PIN. */
static int
check_flags(struct worker *w)
{
	CK_FLAGS flags;

	if (p11_refresh_token(&w->p11))
		return worker_fail(w, HSM_STATE_FAILED, CHILD_EXIT_FAILED,
			"token \"%s\" (%s) does not say how it is", w->part.token, w->part.uri);
	flags = w->p11.token.flags;
	if (flags & CKF_USER_PIN_LOCKED)
		return worker_fail(w, HSM_STATE_PIN_LOCKED, CHILD_EXIT_PIN,
			"token \"%s\" (%s): its user PIN is locked: have its security officer set "
			"a "
			"new one",
			w->part.token, w->part.uri);
	if ((flags & CKF_USER_PIN_FINAL_TRY) && !w->part.retry_pin)
		return worker_fail(w, HSM_STATE_PIN_FINAL_TRY, CHILD_EXIT_PIN,
			"waiting for an operator: token \"%s\" has one try left for its PIN: make "
			"sure of "
			"the PIN in the PIN source, then kekctl hsm retry-pin, or kekd retry-pin "
			"on this "
			"host",
			w->part.token);
	if (is_low(w))
		log_warning("token \"%s\" says that a wrong PIN was given since the last login",
			w->part.token);
	return 0;
}

/* The index of the PIN among those that were refused or are in doubt; r->count: it is none of them.
 * ret_hash: what it is remembered as. */
static int
find_refusal(const struct worker *w, struct refused *r, uint8_t ret_hash[HASH_SIZE], size_t *ret_at)
{
	int err = refused_load(w, r);
	size_t at = 0;

	if (!err && r->count == 0)
		err = RAND_bytes(r->salt, SALT_SIZE) == 1 ? 0 : KEKD_EINTERNAL;
	if (!err)
		err = hash_pin(w, r->salt, ret_hash);
	if (err)
		return err;
	while (at < r->count && !secret_equal(ret_hash, HASH_SIZE, r->hash[at], HASH_SIZE))
		at++;
	*ret_at = at;
	return 0;
}

/* A try that was never answered, of a token that knows of no wrong PIN, was none that it refused.
 * Not every token says so: only the PIN that it took before may be tried that way again and again,
 * as when the token hangs in its logins. */
static bool
may_try_again(const struct worker *w, const struct refused *r, size_t at)
{
	bool doubtful = r->doubts >= DOUBTS_MAX && !w->part.pin_known;

	return at + 1 == r->count && r->doubts > 0 && !doubtful && !is_low(w);
}

/* An operator vouches for this one. */
static void
take_out(struct refused *r, size_t at)
{
	if (at + 1 == r->count)
		r->doubts = 0;
	memmove(r->hash[at], r->hash[at + 1], (r->count - at - 1) * HASH_SIZE);
	r->count--;
}

/* May this PIN be tried? Then r says so already, as a try in doubt. 0, or KEKD_EHSM, noted. */
static int
check_refusals(struct worker *w, struct refused *r)
{
	uint8_t hash[HASH_SIZE];
	size_t at = 0;
	int err = find_refusal(w, r, hash, &at);

	if (err)
		return worker_fail(w, HSM_STATE_FAILED, CHILD_EXIT_OPERATOR,
			"token \"%s\": what was refused before cannot be read from %s in "
			"hsm.state_dir (%s): make sure of the PIN, then remove the file",
			w->part.token, r->name, kekd_strerror(err));
	if (at < r->count && w->part.retry_pin)
		take_out(r, at);
	else if (at < r->count && !may_try_again(w, r, at))
		return worker_fail(w, HSM_STATE_PIN_REFUSED, CHILD_EXIT_PIN,
			"waiting for an operator: token \"%s\" refused this PIN before: put the "
			"right "
			"one into the PIN source, or, if this one is right: kekctl hsm retry-pin, "
			"or "
			"kekd retry-pin on this host",
			w->part.token);
	else if (at < r->count) {
		r->doubts += r->doubts < UINT8_MAX;
		return 0;
	}
	if (r->doubts > 0 && !is_low(w))
		r->count--; /* another PIN's, which was not refused */
	if (r->count == REFUSED_MAX && w->part.retry_pin)
		take_out(r, 0);
	if (r->count == REFUSED_MAX)
		return worker_fail(w, HSM_STATE_PIN_REFUSED, CHILD_EXIT_PIN,
			"token \"%s\" (%s) has refused %d PINs: make sure of the right one, then "
			"kekctl hsm retry-pin, or kekd retry-pin on this host",
			w->part.token, w->part.uri, REFUSED_MAX);
	memcpy(r->hash[r->count++], hash, HASH_SIZE);
	r->doubts = 1;
	return 0;
}

/* Before the token is asked. A full disk keeps nobody from a token that knows of no wrong PIN. */
static int
note_try(struct worker *w, const struct refused *r)
{
	int err = refused_store(w, r);

	if (!err)
		return 0;
	if (is_low(w))
		return worker_fail(w, HSM_STATE_FAILED, CHILD_EXIT_FAILED,
			"token \"%s\": that the PIN is tried cannot be written to hsm.state_dir "
			"(%s), and the token says that a wrong one was given before: free space",
			w->part.token, kekd_strerror(err));
	log_warning("token \"%s\": that the PIN is tried cannot be written to hsm.state_dir: %s: "
		    "free space",
		w->part.token, kekd_strerror(err));
	return 0;
}

static void
remember_refusal(struct worker *w, struct refused *r)
{
	int err;

	r->doubts = 0;
	err = refused_store(w, r);
	if (err)
		log_error("token \"%s\": that the PIN was refused cannot be remembered: %s: do not "
			  "start kekd again with this PIN",
			w->part.token, kekd_strerror(err));
}

/* The token answered, and may have meant the PIN: the try stays in doubt. */
static void
leave_in_doubt(struct worker *w, struct refused *r)
{
	log_warning("token \"%s\": whether it refused the PIN is not known; after %d such answers "
		    "the PIN counts as refused",
		w->part.token, DOUBTS_MAX);
	if (r->doubts >= DOUBTS_MAX)
		remember_refusal(w, r);
}

/* The token answered, and not about the PIN. */
static void
take_back_try(struct worker *w, struct refused *r)
{
	r->doubts = 0;
	if (--r->count == 0)
		forget_refusals(w);
	else if (refused_store(w, r))
		log_warning("token \"%s\": hsm.state_dir cannot be written", w->part.token);
}

/* What the token knows of wrong PINs says more than the code that its login failed with. */
static enum p11_class
judge_failure(struct worker *w, enum p11_class class)
{
	CK_FLAGS before = w->p11.token.flags, told;

	if (class == P11_PIN || class == P11_PIN_LOCKED || class == P11_PIN_EXPIRED)
		return class;
	if (p11_refresh_token(&w->p11))
		return class;
	told = w->p11.token.flags & ~before;
	if (told & CKF_USER_PIN_LOCKED)
		return P11_PIN_LOCKED;
	return told & (CKF_USER_PIN_COUNT_LOW | CKF_USER_PIN_FINAL_TRY) ? P11_PIN : class;
}

static const struct login_failure {
	enum p11_class class;
	void (*note)(struct worker *w, struct refused *r);
	enum hsm_state state;
	int exit_status;
	const char *text; /* after the token and its URI */
} login_failures[] = {
	{ P11_PIN, remember_refusal, HSM_STATE_PIN_REFUSED, CHILD_EXIT_PIN,
		"refused the PIN: put the right one into the PIN source; this one is not tried "
		"again" },
	{ P11_PIN_LOCKED, remember_refusal, HSM_STATE_PIN_LOCKED, CHILD_EXIT_PIN,
		"has locked its user PIN: have its security officer set a new one" },
	{ P11_PIN_EXPIRED, remember_refusal, HSM_STATE_PIN_REFUSED, CHILD_EXIT_PIN,
		"says that its user PIN has expired: set a new one with the vendor's tool and put "
		"it "
		"into the PIN source" },
	{ P11_PIN_DOUBT, leave_in_doubt, HSM_STATE_FAILED, CHILD_EXIT_FAILED,
		"did not log in, and did not say whether because of the PIN" },
	{ P11_OPERATOR, take_back_try, HSM_STATE_NOT_INITIALISED, CHILD_EXIT_OPERATOR,
		"has no user PIN: set one with the vendor's tool" },
	/* the last row: any other */
	{ P11_OK, take_back_try, HSM_STATE_FAILED, CHILD_EXIT_FAILED,
		"did not log in, for another reason than the PIN" },
};

static int
note_failure(struct worker *w, struct refused *r, enum p11_class class)
{
	const struct login_failure *f = login_failures;

	class = judge_failure(w, class);
	while (f->class != class && f->class != P11_OK)
		f++;
	f->note(w, r);
	return worker_fail(w, f->state, f->exit_status, "token \"%s\" (%s) %s", w->part.token,
		w->part.uri, f->text);
}

static int
log_in(struct worker *w, CK_SESSION_HANDLE session)
{
	struct session s = { .w = w, .h = session };
	struct refused r;
	enum p11_class class;
	int err;

	if (session_check_login(&s) == P11_OK)
		return 0;
	err = check_flags(w);
	if (!err)
		err = check_refusals(w, &r);
	if (!err)
		err = note_try(w, &r);
	if (err)
		return err;
	w->part.retry_pin = false; /* the operator's word was for this one */
	class = p11_call(&w->p11, Login, session, CKU_USER, w->pin.data, (CK_ULONG)w->pin.len);
	if (class)
		return note_failure(w, &r, class);
	forget_refusals(w);
	return 0;
}

/* Being told to end waits until what the token said is on the disk: or the next worker would try a
 * PIN once more that was refused. A login that failed ends the process: until then the lock keeps
 * other sessions from trying. */
int
pin_login(struct worker *w, CK_SESSION_HANDLE session)
{
	sigset_t ends, before;
	int err;

	sigemptyset(&ends);
	sigaddset(&ends, SIGTERM);
	sigaddset(&ends, SIGINT);
	pthread_sigmask(SIG_BLOCK, &ends, &before);
	pthread_mutex_lock(&w->login_lock);
	err = log_in(w, session);
	if (!err)
		pthread_mutex_unlock(&w->login_lock);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return err;
}
