/* SPDX-License-Identifier: Apache-2.0 */
/* A child's part of the configuration, as it comes through the descriptor: both kinds. */
#include "fuzz.h"

#include "kekd/config.h"
#include "kekd/json.h"

#include <sys/mman.h>
#include <unistd.h>

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc, (void)argv;
	fuzz_quiet();
	json_open();
	return 0;
}

static int
descriptor(const uint8_t *data, size_t size)
{
	int fd = memfd_create("part", MFD_CLOEXEC);

	require(fd >= 0 && (size == 0 || write(fd, data, size) == (ssize_t)size));
	require(lseek(fd, 0, SEEK_SET) == 0);
	return fd;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct net_part net;
	struct worker_part worker;

	if (net_part_read(descriptor(data, size), &net) == 0) {
		require(net.workers <= CONFIG_WORKERS_MAX && net.sessions <= CONFIG_SESSIONS_MAX);
		require(net.tokens_count <= CONFIG_TOKENS_MAX);
		for (unsigned i = 0; i < net.tokens_count; i++)
			require(net.tokens[i]);
		net_part_free(&net);
	}
	if (worker_part_read(descriptor(data, size), &worker) == 0) {
		require(worker.index < CONFIG_WORKERS_MAX && worker.uri && worker.module);
		require(worker.sessions <= CONFIG_SESSIONS_MAX);
		worker_part_free(&worker);
	}
	return 0;
}
