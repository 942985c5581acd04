/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The file of a snapshot: is it one, is it whole, and what else it is when it is none. Read by
 * pread from its begin to its end once for its hash.
 */
#include "snapshot.h"

#include "kekd/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define HASH_SIZE 32
#define UNIT 4096 /* all pages are whole multiples of it */
#define HEAD 512

/* ---- what it is instead ---- */

static const struct {
	size_t at, len;
	const char *bytes, *what, *hint;
} foreign[] = {
	{ 0, 15, "SQLite format 3", "a database of SQLite",
		"k3s without --cluster-init keeps Kubernetes in one, by kine: that has no etcd" },
	{ 0, 2, "\x1f\x8b", "compressed with gzip", "unpack it first: gunzip -k FILE" },
	{ 0, 4, "\x28\xb5\x2f\xfd", "compressed with zstd", "unpack it first: zstd -d FILE" },
	{ 0, 6,
		"\xfd"
		"7zXZ",
		"compressed with xz", "unpack it first: xz -dk FILE" },
	{ 0, 3, "BZh", "compressed with bzip2", "unpack it first: bunzip2 -k FILE" },
	{ 0, 4, "PK\x03\x04", "a zip archive", "unpack it first: unzip FILE" },
	{ 257, 5, "ustar", "a tar archive", "unpack it first: tar -xf FILE" },
	{ 0, 8, "Salted__", "encrypted by the openssl tool", "decrypt it first" },
	{ 0, 21, "age-encryption.org/v1", "encrypted by age", "decrypt it first: age -d" },
	{ 0, 15, "{\"kekd_backup\":", "a backup of kekd itself", "kekctl backup verify FILE" },
	{ 7, 3, "\x84\x08\x04", "a write-ahead log of etcd",
		"etcdctl snapshot save FILE makes a snapshot; a member's database is "
		"member/snap/db" },
};

static bool
is_all(const uint8_t *p, size_t len, bool (*is)(uint8_t))
{
	for (size_t i = 0; i < len; i++)
		if (!is(p[i]))
			return false;
	return true;
}

static bool
is_zero(uint8_t c)
{
	return c == 0;
}

static bool
is_text(uint8_t c)
{
	return c >= ' ' || c == '\n' || c == '\t' || c == '\r';
}

static void
say_foreign(const struct snapshot *s)
{
	uint8_t head[HEAD] = { 0 };
	ssize_t n = pread(s->fd, head, sizeof(head), 0);
	size_t len = n > 0 ? (size_t)n : 0;
	const char
		*what = NULL,
		*hint = "give what \"etcdctl snapshot save FILE\" wrote, or the member/snap/db of "
			"a member that is stopped";

	for (size_t i = 0; !what && i < STR_COUNT(foreign); i++)
		if (foreign[i].at + foreign[i].len <= len &&
			memcmp(head + foreign[i].at, foreign[i].bytes, foreign[i].len) == 0) {
			what = foreign[i].what;
			hint = foreign[i].hint;
		}
	if (!what && is_all(head, len, is_zero))
		what = "nothing but zeros at its begin";
	else if (!what && is_all(head, len, is_text))
		what = "text";
	say_error(
		"%s is no snapshot of etcd%s%s", s->path, what ? ": it is " : "", what ? what : "");
	say_hint("%s", hint);
}

/* etcd holds its database locked. The lock is not kept: etcd, when it starts, would wait for it. */
static bool
is_in_use(const struct snapshot *s)
{
	if (flock(s->fd, LOCK_SH | LOCK_NB) != 0)
		return errno == EWOULDBLOCK;
	flock(s->fd, LOCK_UN);
	return false;
}

static int
say_in_use(const struct snapshot *s)
{
	say_error("%s is in use: etcd writes to it", s->path);
	say_hint("etcdctl snapshot save FILE makes a snapshot of a running etcd");
	return CTL_CONFLICT;
}

int
snapshot_say_damaged(const struct snapshot *s, int err, const char *what)
{
	if (err == -EBADMSG && is_in_use(s))
		return say_in_use(s);
	if (err == -EMEDIUMTYPE && !s->bolt) {
		say_foreign(s);
		return CTL_UNVERIFIED;
	}
	if (err == -EMEDIUMTYPE) {
		say_error("%s is no snapshot of etcd: %s", s->path, what);
		return CTL_UNVERIFIED;
	}
	if (err == -EBADMSG) {
		say_error("%s is damaged: %s", s->path, what);
		say_hint("do not restore from it; take another one: etcdctl snapshot save FILE");
		return CTL_UNVERIFIED;
	}
	say_error("cannot read %s: %s", s->path, *what ? what : strerror(-err));
	return CTL_FAILED;
}

/* ---- opening ---- */

static int
refuse(const struct snapshot *s, const char *what, const char *hint)
{
	say_error("%s %s", s->path, what);
	say_hint("%s", hint);
	return CTL_USAGE;
}

static int
check_kind(const struct snapshot *s, const struct stat *st)
{
	if (S_ISDIR(st->st_mode))
		return refuse(s, "is a directory",
			"of a member's data directory give member/snap/db, while the member is "
			"stopped; better: etcdctl snapshot save FILE");
	if (!S_ISREG(st->st_mode))
		return refuse(s, "is no file",
			"a snapshot is read here and there, not from begin to end: save it first");
	if (st->st_size == 0) {
		say_error("%s is empty", s->path);
		say_hint("see why the snapshot was not written: is the disk full? Then again: "
			 "etcdctl snapshot save FILE");
		return CTL_UNVERIFIED;
	}
	return is_in_use(s) ? say_in_use(s) : CTL_OK;
}

/* ---- its hash ---- */

static int
hash_bytes(struct snapshot *s, EVP_MD_CTX *digest, uint64_t from, uint64_t to)
{
	static uint8_t block[1 << 18];

	while (from < to) {
		size_t want = to - from < sizeof(block) ? (size_t)(to - from) : sizeof(block);
		ssize_t n = pread(s->fd, block, want, (off_t)from);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return snapshot_say_damaged(s, -errno, "");
		if (n == 0)
			return snapshot_say_damaged(
				s, -EBADMSG, "it became shorter while it was read");
		EVP_DigestUpdate(digest, block, (size_t)n);
		from += (size_t)n;
		progress_show(&s->progress, from, "its hash");
	}
	return CTL_OK;
}

/* etcdctl writes the SHA-256 of the database behind it. */
static int
compare_hash(struct snapshot *s, EVP_MD_CTX *digest)
{
	EVP_MD_CTX *copy = EVP_MD_CTX_new();
	uint8_t hash[EVP_MAX_MD_SIZE], told[HASH_SIZE];
	int status = CTL_OK;

	if (!copy || EVP_MD_CTX_copy_ex(copy, digest) != 1 ||
		EVP_DigestFinal_ex(copy, hash, NULL) != 1)
		status = snapshot_say_damaged(s, -ENOMEM, "");
	else if (pread(s->fd, told, sizeof(told), (off_t)s->data_size) != sizeof(told))
		status = snapshot_say_damaged(s, -EIO, "");
	else if (memcmp(told, hash, sizeof(told)) != 0)
		status = snapshot_say_damaged(
			s, -EBADMSG, "the SHA-256 at its end is not that of what stands before it");
	EVP_MD_CTX_free(copy);
	s->hashed = true;
	return status;
}

static int
check_hash(struct snapshot *s)
{
	EVP_MD_CTX *digest = EVP_MD_CTX_new();
	uint8_t hash[EVP_MAX_MD_SIZE];
	int status = CTL_OK;

	if (!digest || EVP_DigestInit_ex(digest, EVP_sha256(), NULL) != 1)
		status = snapshot_say_damaged(s, -ENOMEM, "");
	if (status == CTL_OK)
		status = hash_bytes(s, digest, 0, s->data_size);
	if (status == CTL_OK && s->data_size < s->size)
		status = compare_hash(s, digest);
	if (status == CTL_OK)
		status = hash_bytes(s, digest, s->data_size, s->size);
	if (status == CTL_OK && EVP_DigestFinal_ex(digest, hash, NULL) == 1)
		str_hex(hash, HASH_SIZE, s->sha256);
	EVP_MD_CTX_free(digest);
	return status;
}

/* ---- the whole ---- */

static int
open_bolt(struct snapshot *s)
{
	char error[BOLT_ERROR_SIZE] = "";
	uint64_t odd = s->size % UNIT;
	int err;

	s->data_size = odd == HASH_SIZE ? s->size - HASH_SIZE : s->size;
	err = bolt_open(s->fd, s->data_size, &s->bolt, error);
	if (err != 0)
		return snapshot_say_damaged(s, err, error);
	if (odd != 0 && odd != HASH_SIZE)
		return snapshot_say_damaged(s, -EBADMSG,
			"it is no whole number of pages: its end is missing, or is not its own");
	return CTL_OK;
}

int
snapshot_file_open(struct snapshot *s)
{
	struct stat st;
	int status;

	s->fd = open(s->path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (s->fd < 0 || fstat(s->fd, &st) != 0) {
		say_error("cannot open %s: %s", s->path, strerror(errno));
		return CTL_FAILED;
	}
	status = check_kind(s, &st);
	if (status != CTL_OK)
		return status;
	s->file_us = (uint64_t)st.st_mtim.tv_sec * 1000000 + (uint64_t)st.st_mtim.tv_nsec / 1000;
	s->size = (uint64_t)st.st_size;
	status = open_bolt(s);
	if (status != CTL_OK)
		return status;
	progress_start(&s->progress, s->ctl, s->size + 2 * bolt_used(s->bolt), 0);
	return check_hash(s);
}

void
snapshot_file_close(struct snapshot *s)
{
	progress_end(&s->progress);
	mvcc_freep(&s->mvcc);
	bolt_freep(&s->bolt);
	if (s->fd >= 0)
		close(s->fd);
	s->fd = -1;
}
