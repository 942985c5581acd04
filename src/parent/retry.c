/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An operator's word that a PIN may be tried once more, given on this host: a file in
 * hsm.state_dir, which root and the workers' user alone can make. kekd takes it away while it waits
 * for that word, and removes what was said before. Not here: what the word allows (workers.c).
 */
#include "parent.h"

#include "kekd/clock.h"
#include "kekd/log.h"
#include "kekd/sandbox.h"
#include "kekd/str.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/fsuid.h>
#include <time.h>
#include <unistd.h>

#define NAME_SIZE (sizeof("retry-pin-") + STR_NAME_MAX)
#define PATIENCE_NS (10 * CLOCK_S)
#define LOOK_NS (100 * CLOCK_MS)

static void
file_name(const char *token, char ret_name[NAME_SIZE])
{
	snprintf(ret_name, NAME_SIZE, "retry-pin-%s", token);
}

/* The directory is its owner's alone, and root's name does not help where a service manager has
 * left it few rights. Only files are reached under the owner's name: nobody gets to signal us. */
bool
retry_take(int hsm_dir, const struct account *owner, const char *token)
{
	char name[NAME_SIZE];
	bool taken;

	file_name(token, name);
	if (!owner->change)
		return unlinkat(hsm_dir, name, 0) == 0;
	setfsuid(owner->uid);
	taken = unlinkat(hsm_dir, name, 0) == 0;
	setfsuid(geteuid());
	sandbox_harden(); /* with another user comes the system's will about core dumps */
	return taken;
}

static int
put(int dir, const char *name)
{
	int fd = openat(dir, name, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

	if (fd < 0)
		return -errno;
	close(fd);
	return 0;
}

static bool
is_taken(int dir, const char *name)
{
	const struct timespec pause = { 0, LOOK_NS };
	uint64_t end = clock_boot_ns() + PATIENCE_NS;

	while (clock_boot_ns() < end) {
		if (faccessat(dir, name, F_OK, 0) != 0)
			return true;
		nanosleep(&pause, NULL);
	}
	/* Whoever removes it has it: kekd may come at the last moment. */
	return unlinkat(dir, name, 0) != 0;
}

static int
ask(int dir, const char *token)
{
	char name[NAME_SIZE];
	int err;

	file_name(token, name);
	err = put(dir, name);
	if (err) {
		fprintf(stderr, "kekd: %s cannot be made in hsm.state_dir: %s: do this as root\n",
			name, strerror(-err));
		return CHILD_EXIT_FAILED;
	}
	if (!is_taken(dir, name)) {
		fprintf(stderr,
			"kekd: nobody waits for an operator with token %s: is kekd running? Its "
			"log "
			"says what it waits for\n",
			token);
		return CHILD_EXIT_FAILED;
	}
	printf("kekd tries the PIN of token %s once: its log tells how that ended\n", token);
	return CHILD_EXIT_OK;
}

static const char *
find_token(const struct config *config, const char *token)
{
	if (!token && config->tokens_count == 1)
		return config->tokens[0].name;
	for (unsigned i = 0; token && i < config->tokens_count; i++)
		if (strcmp(config->tokens[i].name, token) == 0)
			return token;
	return NULL;
}

int
retry_ask(const struct config *config, const char *token)
{
	const char *name = find_token(config, token);
	int dir, status;

	if (!name) {
		fprintf(stderr, "kekd: %s\n",
			token ? "no token of the configuration has this name"
			      : "the configuration has several tokens: name one");
		return CHILD_EXIT_USAGE;
	}
	dir = open(config->hsm.state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0) {
		fprintf(stderr, "kekd: %s: %s: do this as root\n", config->hsm.state_dir,
			strerror(errno));
		return CHILD_EXIT_FAILED;
	}
	status = ask(dir, name);
	close(dir);
	return status;
}
