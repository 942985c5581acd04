/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A directory of audit logs: the lines of the input, up to an empty one, are the first file, what
 * follows is the second, named by the first line. With '+' before it a line gets the prev and hash
 * that it must have, so that the verifier goes on to what it says. Read by the verifier and by the
 * writer's look for the end.
 */
#include "fuzz.h"

#include "../../src/audit/tail.h"
#include "kekd/audit.h"
#include "kekd/buf.h"
#include "kekd/json.h"

#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#define FILES_MAX 3

static EVP_MD_CTX *md;

/* The verifier waits for a line that a server may be about to finish. Here nobody is. */
int __wrap_nanosleep(const struct timespec *pause, struct timespec *ret_left);
int
__wrap_nanosleep(const struct timespec *pause, struct timespec *ret_left)
{
	(void)pause, (void)ret_left;
	return 0;
}

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc, (void)argv;
	fuzz_quiet();
	json_open();
	md = EVP_MD_CTX_new();
	return 0;
}

/* line is an object without prev and hash. */
static void
chain(struct buf *b, const char *line, char prev[CHAIN_HEX_SIZE])
{
	size_t start = b->len, len = strlen(line);

	if (len > 0 && line[len - 1] == '}')
		len--;
	buf_put(b, line, len);
	buf_printf(b, ",\"prev\":\"%s\"", prev);
	if (b->bad)
		return;
	require(chain_hash(md, b->data + start, b->len - start, prev) == 0);
	buf_printf(b, ",\"hash\":\"%s\"}\n", prev);
}

/* False at the end of the input. */
static bool
write_file(struct fuzz_input *in, uint64_t sequence, char prev[CHAIN_HEX_SIZE])
{
	struct buf b = BUF_INIT(4u << 20);
	char name[CHAIN_FILE_SIZE];
	bool more = false;

	while (in->left > 0 && !more) {
		bool newline = memchr(in->p, '\n', in->left) != NULL;
		char *line = fuzz_line(in);

		if (*line == '+')
			chain(&b, line + 1, prev);
		else if (*line) {
			buf_str(&b, line);
			buf_str(&b, newline ? "\n" : "");
		} else
			more = true;
		free(line);
	}
	chain_file_name(sequence, name);
	fuzz_write(name, b.data, b.bad ? 0 : b.len);
	buf_free(&b);
	return more;
}

static void
verify(void)
{
	struct audit_report report = { 0 };
	int err = audit_verify(fuzz_directory(), &report);

	if (err == 0)
		require(report.records > 0 && !report.fault[0]);
	json_decref(report.notes);
}

static void
find_tail(void)
{
	int fd = open(fuzz_directory(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct tail tail = { 0 };
	char error[256];

	require(fd >= 0);
	if (tail_find(fd, "test", "node-1", &tail, error) == 0)
		require(tail.gaps_count <= TAIL_GAPS_MAX);
	close(fd);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input in = { data, size };
	char prev[CHAIN_HEX_SIZE];
	uint64_t sequence = 1;

	require(chain_first("test", "node-1", prev) == 0);
	for (int i = 0; i < FILES_MAX && write_file(&in, sequence, prev); i++) {
		char *line = fuzz_line(&in);

		sequence = strtoull(line, NULL, 10) % 1000 + 1;
		free(line);
	}
	verify();
	find_tail();
	fuzz_clear();
	return 0;
}
