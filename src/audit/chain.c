/* SPDX-License-Identifier: Apache-2.0 */
/* The chain's arithmetic: names of files, hashes of lines. */
#include "chain.h"

#include "kekd/err.h"
#include "kekd/json.h"
#include "kekd/str.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define HASH_MEMBER ",\"hash\":\""
_Static_assert(CHAIN_SUFFIX_SIZE == sizeof(HASH_MEMBER) - 1 + 64 + 2, "as chain.h says");

void
chain_file_name(uint64_t sequence, char ret_name[CHAIN_FILE_SIZE])
{
	snprintf(ret_name, CHAIN_FILE_SIZE, "audit-%020llu.jsonl", (unsigned long long)sequence);
}

uint64_t
chain_file_sequence(const char *name)
{
	char again[CHAIN_FILE_SIZE];
	uint64_t sequence;

	if (strncmp(name, "audit-", 6) != 0)
		return 0;
	sequence = strtoull(name + 6, NULL, 10);
	chain_file_name(sequence, again);
	return strcmp(name, again) == 0 ? sequence : 0;
}

static int
compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static int
collect(DIR *d, uint64_t **list, size_t *count)
{
	size_t cap = 0;
	struct dirent *e;

	while (errno = 0, (e = readdir(d))) {
		uint64_t sequence = chain_file_sequence(e->d_name);
		if (sequence == 0)
			continue;
		if (*count == cap) {
			uint64_t *more = reallocarray(*list, cap ? cap * 2 : 64, sizeof(**list));
			if (!more)
				return -ENOMEM;
			*list = more;
			cap = cap ? cap * 2 : 64;
		}
		(*list)[(*count)++] = sequence;
	}
	return -errno;
}

int
chain_list(int dir_fd, uint64_t **ret_sequences, size_t *ret_count)
{
	int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	uint64_t *list = NULL;
	size_t count = 0;
	int err;

	if (!d) {
		err = -errno;
		if (fd >= 0)
			close(fd);
		return err;
	}
	err = collect(d, &list, &count);
	closedir(d);
	if (err) {
		free(list);
		return err;
	}
	if (count > 0)
		qsort(list, count, sizeof(*list), compare);
	*ret_sequences = list;
	*ret_count = count;
	return 0;
}

static int
grow(char **text, size_t *size)
{
	size_t wanted = *size ? 2 * *size : 4096;
	char *more;

	if (wanted > CHAIN_LINE_MAX + 1)
		wanted = CHAIN_LINE_MAX + 1;
	more = realloc(*text, wanted);
	if (!more)
		return -ENOMEM;
	*text = more;
	*size = wanted;
	return 0;
}

int
chain_read_line(FILE *f, char **text, size_t *size, size_t *ret_len)
{
	size_t len = 0;
	int c, err = *size > 0 ? 0 : grow(text, size);

	*ret_len = 0;
	while (!err && (c = getc_unlocked(f)) != EOF && c != '\n') {
		if (len == CHAIN_LINE_MAX)
			continue;
		if (len + 1 == *size)
			err = grow(text, size);
		if (!err)
			(*text)[len++] = (char)c;
	}
	if (err || ferror(f))
		return err ? err : -EIO;
	(*text)[len] = '\0';
	*ret_len = len;
	return c == '\n';
}

int
chain_hash(EVP_MD_CTX *md, const void *data, size_t len, char ret_hex[CHAIN_HEX_SIZE])
{
	uint8_t digest[32];

	/* With a NULL type the context keeps what it has fetched. */
	if (EVP_DigestInit_ex(md, EVP_MD_CTX_get0_md(md) ? NULL : EVP_sha256(), NULL) != 1 ||
		EVP_DigestUpdate(md, data, len) != 1 || EVP_DigestFinal_ex(md, digest, NULL) != 1)
		return KEKD_EINTERNAL;
	str_hex(digest, sizeof(digest), ret_hex);
	ret_hex[64] = '\0';
	return 0;
}

int
chain_first(const char *cluster, const char *node, char ret_hex[CHAIN_HEX_SIZE])
{
	EVP_MD_CTX *md = EVP_MD_CTX_new();
	struct buf b = BUF_INIT(1024);
	int err;

	buf_put(&b, cluster, strlen(cluster) + 1);
	buf_str(&b, node);
	err = md && !b.bad ? chain_hash(md, b.data, b.len, ret_hex) : -ENOMEM;
	buf_free(&b);
	EVP_MD_CTX_free(md);
	return err;
}

static int
hash_rest(int fd, uint64_t offset, EVP_MD_CTX *md, uint64_t *len)
{
	uint8_t block[16384];

	for (;;) {
		ssize_t n = pread(fd, block, sizeof(block), (off_t)(offset + *len));
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : 0;
		EVP_DigestUpdate(md, block, (size_t)n);
		*len += (uint64_t)n;
	}
}

int
chain_hash_tail(int fd, uint64_t offset, uint64_t *ret_len, char ret_hex[CHAIN_HEX_SIZE])
{
	EVP_MD_CTX *md = EVP_MD_CTX_new();
	uint8_t digest[32];
	uint64_t len = 0;
	int err = -ENOMEM;

	if (md && EVP_DigestInit_ex(md, EVP_sha256(), NULL) == 1)
		err = hash_rest(fd, offset, md, &len);
	if (!err && EVP_DigestFinal_ex(md, digest, NULL) != 1)
		err = KEKD_EINTERNAL;
	EVP_MD_CTX_free(md);
	if (err)
		return err;
	str_hex(digest, sizeof(digest), ret_hex);
	ret_hex[64] = '\0';
	*ret_len = len;
	return 0;
}

void
chain_line_free(struct chain_line *line)
{
	json_decref(line->json);
	*line = (struct chain_line){ 0 };
}

static int
take_members(struct chain_line *line)
{
	const json_t *j = line->json;
	json_int_t sequence = json_integer_value(json_object_get(j, "seq"));

	line->prev = json_string_value(json_object_get(j, "prev"));
	line->node = json_string_value(json_object_get(j, "node"));
	line->type = json_string_value(json_object_get(j, "type"));
	line->time = json_string_value(json_object_get(j, "time"));
	if (sequence <= 0 || !line->prev || !line->node || !line->type || !line->time)
		return -EBADMSG;
	line->sequence = (uint64_t)sequence;
	return 0;
}

int
chain_check(EVP_MD_CTX *md, const char *line, size_t len, char ret_hex[CHAIN_HEX_SIZE])
{
	const char *suffix;

	if (len <= CHAIN_SUFFIX_SIZE)
		return -EBADMSG;
	suffix = line + len - CHAIN_SUFFIX_SIZE;
	if (memcmp(suffix, HASH_MEMBER, sizeof(HASH_MEMBER) - 1) != 0 ||
		memcmp(line + len - 2, "\"}", 2) != 0 ||
		chain_hash(md, line, len - CHAIN_SUFFIX_SIZE, ret_hex) != 0 ||
		memcmp(suffix + sizeof(HASH_MEMBER) - 1, ret_hex, 64) != 0)
		return -EBADMSG;
	return 0;
}

int
chain_parse(EVP_MD_CTX *md, const char *line, size_t len, struct chain_line *ret_line)
{
	struct chain_line l = { 0 };
	char error[JSON_ERROR_SIZE];

	if (chain_check(md, line, len, l.hash) < 0)
		return -EBADMSG;
	l.json = json_parse(line, len, error);
	if (!l.json || take_members(&l) < 0) {
		chain_line_free(&l);
		return -EBADMSG;
	}
	*ret_line = l;
	return 0;
}
