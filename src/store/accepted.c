/* SPDX-License-Identifier: Apache-2.0 */
/* The file with the last accepted commit. */
#include "accepted.h"

#include "kekd/buf.h"
#include "kekd/err.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define FILE_SIZE_MAX 4096

static const char accepted_domain[] = "kekd-accepted-1"; /* with its NUL */

static json_t *
to_json(const struct accepted *a)
{
	char state[2 * SEAL_SIZE + 1] = "", key[UUID_TEXT_SIZE];

	str_hex(a->state, SEAL_SIZE, state);
	uuid_format(&a->key, key);
	return json_pack("{s:s,s:s,s:I,s:s,s:s}", "cluster", a->cluster, "generation",
		a->generation, "number", (json_int_t)a->number, "state", state, "key", key);
}

int
accepted_digest(const struct accepted *a, uint8_t ret_digest[SEAL_SIZE])
{
	struct buf b = BUF_INIT(FILE_SIZE_MAX);
	json_t *value = to_json(a);
	size_t len = 0;
	char *text = value ? json_canonical(value, &len) : NULL;
	int err = -ENOMEM;

	buf_put(&b, accepted_domain, sizeof(accepted_domain));
	if (text)
		buf_block(&b, text, len);
	if (text && !b.bad) {
		SHA256(b.data, b.len, ret_digest);
		err = 0;
	}
	buf_free(&b);
	json_text_free(text);
	json_decref(value);
	return err;
}

static char *
to_text(const struct accepted *a, size_t *ret_len)
{
	char seal[2 * SEAL_SIZE + 1] = "";
	json_t *value = to_json(a);
	char *text = NULL;

	str_hex(a->seal, SEAL_SIZE, seal);
	if (value && json_object_set_new(value, "seal", json_string(seal)) == 0)
		text = json_canonical(value, ret_len);
	json_decref(value);
	return text;
}

static int
write_synced(const char *path, const char *text, size_t len)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600), err = 0;
	ssize_t n;

	if (fd < 0)
		return -errno;
	n = write(fd, text, len);
	if (n < 0 || fsync(fd) < 0)
		err = -errno;
	else if ((size_t)n != len)
		err = -ENOSPC;
	close(fd);
	return err;
}

static int
sync_dir(const char *dir)
{
	int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC), err = 0;

	if (fd < 0)
		return -errno;
	if (fsync(fd) < 0)
		err = -errno;
	close(fd);
	return err;
}

int
accepted_write(const char *dir, const struct accepted *a)
{
	char path[PATH_MAX], new_path[PATH_MAX];
	size_t len = 0;
	char *text;
	int err;

	if ((size_t)snprintf(path, sizeof(path), "%s/accepted", dir) >= sizeof(path) ||
		(size_t)snprintf(new_path, sizeof(new_path), "%s/accepted.new", dir) >=
			sizeof(new_path))
		return -ENAMETOOLONG;
	text = to_text(a, &len);
	if (!text)
		return -ENOMEM;
	err = write_synced(new_path, text, len);
	if (err == 0 && rename(new_path, path) < 0)
		err = -errno;
	if (err == 0)
		err = sync_dir(dir);
	json_text_free(text);
	return err;
}

static int
from_json(const json_t *value, struct accepted *a)
{
	char error[JSON_ERROR_SIZE];
	const char *cluster = NULL, *generation = NULL, *state = NULL, *key = NULL, *seal = NULL;
	struct uuid ignored;
	int64_t number = 0;
	const struct json_member members[] = {
		{ "cluster", JSON_KIND_STRING, true, &cluster },
		{ "generation", JSON_KIND_STRING, true, &generation },
		{ "number", JSON_KIND_INTEGER, true, &number },
		{ "state", JSON_KIND_STRING, true, &state },
		{ "key", JSON_KIND_STRING, true, &key },
		{ "seal", JSON_KIND_STRING, true, &seal },
	};

	if (json_take(value, members, STR_COUNT(members), error) < 0 || !str_is_name(cluster) ||
		uuid_parse(generation, &ignored) < 0 || str_unhex(state, a->state, SEAL_SIZE) < 0 ||
		uuid_parse(key, &a->key) < 0 || str_unhex(seal, a->seal, SEAL_SIZE) < 0)
		return KEKD_ERECORD;
	strcpy(a->cluster, cluster);
	strcpy(a->generation, generation);
	a->number = (uint64_t)number;
	return 0;
}

static ssize_t
read_file(const char *dir, char *text, size_t size)
{
	char path[PATH_MAX];
	ssize_t n;
	int fd;

	if ((size_t)snprintf(path, sizeof(path), "%s/accepted", dir) >= sizeof(path))
		return -ENAMETOOLONG;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	n = read(fd, text, size);
	if (n < 0)
		n = -errno;
	close(fd);
	return n;
}

int
accepted_read(const char *dir, struct accepted *ret_accepted)
{
	char text[FILE_SIZE_MAX], error[JSON_ERROR_SIZE];
	struct accepted a = { 0 };
	ssize_t n = read_file(dir, text, sizeof(text));
	json_t *value;
	int err;

	if (n < 0)
		return (int)n;
	value = json_parse(text, (size_t)n, error);
	err = value ? from_json(value, &a) : KEKD_ERECORD;
	json_decref(value);
	if (err == 0)
		*ret_accepted = a;
	return err;
}
