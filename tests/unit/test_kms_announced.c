/* SPDX-License-Identifier: Apache-2.0 */
/* What was announced last, over restarts, kills and damage. */
#include "../../src/kms/announced.h"

#include "kekd/json.h"
#include "kekd/str.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define UUID "0190a0b0-c0d0-4e00-8f00-000000000001"
#define PATH_SIZE 256

struct lab {
	char dir[64];
	struct kms_config config;
};

static void
path_of(const struct lab *lab, const char *name, char ret_path[PATH_SIZE])
{
	snprintf(ret_path, PATH_SIZE, "%s/%s", lab->dir, name);
}

static int
lab_open(void **state)
{
	struct lab *lab = calloc(1, sizeof(*lab));

	assert_non_null(lab);
	strcpy(lab->dir, "/tmp/kekd-announced-XXXXXX");
	assert_non_null(mkdtemp(lab->dir));
	lab->config.state_dir = lab->dir;
	*state = lab;
	return 0;
}

static int
lab_close(void **state)
{
	struct lab *lab = *state;
	char path[PATH_SIZE];

	path_of(lab, ANNOUNCED_NAME, path);
	unlink(path);
	path_of(lab, ANNOUNCED_NAME ".new", path);
	unlink(path);
	rmdir(lab->dir);
	free(lab);
	return 0;
}

static struct lab *
lab_configured(void **state)
{
	static char provider[] = "kekd", cluster[] = "prod-1", key[] = "kubernetes";
	struct lab *lab = *state;

	lab->config.provider = provider;
	lab->config.cluster = cluster;
	lab->config.key = key;
	return lab;
}

static struct kms_key_id
id_of(uint64_t activation)
{
	struct kms_key_id id;
	char text[KMS_KEY_ID_TEXT_SIZE];

	snprintf(text, sizeof(text), UUID ".%llu", (unsigned long long)activation);
	assert_int_equal(kms_key_id_parse(text, strlen(text), &id), 0);
	return id;
}

static void
put_file(const struct lab *lab, const char *name, const char *text)
{
	char path[PATH_SIZE];
	FILE *f;

	path_of(lab, name, path);
	f = fopen(path, "w");
	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

static uint64_t
read_activation(const struct lab *lab)
{
	struct kms_key_id id = { .activation = 999 };
	char error[256] = "";

	if (announced_read(&lab->config, &id, error) != 0)
		fail_msg("%s", error);
	return id.activation;
}

static void
assert_refused(const struct lab *lab, const char *why)
{
	struct kms_key_id id = { .activation = 999 };
	char error[256] = "";

	assert_true(announced_read(&lab->config, &id, error) < 0);
	if (!strstr(error, why) || !strstr(error, lab->dir))
		fail_msg("\"%s\" is not said in \"%s\"", why, error);
	assert_true(id.activation == 999);
}

/* ---- */

static void
nothing_was_announced_at_first(void **state)
{
	assert_true(read_activation(lab_configured(state)) == 0);
}

static void
what_was_written_is_read(void **state)
{
	struct lab *lab = lab_configured(state);
	struct kms_key_id id = id_of(3), next = id_of(1048579), read;
	char error[256];

	assert_int_equal(announced_write(&lab->config, &id), 0);
	assert_int_equal(announced_read(&lab->config, &read, error), 0);
	assert_string_equal(read.text, id.text);
	assert_int_equal(announced_write(&lab->config, &next), 0);
	assert_true(read_activation(lab) == 1048579);
}

static void
a_write_that_was_broken_off_leaves_what_was(void **state)
{
	struct lab *lab = lab_configured(state);
	struct kms_key_id id = id_of(3), next = id_of(4);

	assert_int_equal(announced_write(&lab->config, &id), 0);
	put_file(lab, ANNOUNCED_NAME ".new", "{\"cluster\":\"pro");
	assert_true(read_activation(lab) == 3);
	assert_int_equal(announced_write(&lab->config, &next), 0);
	assert_true(read_activation(lab) == 4);
}

static void
write_until_killed(const struct lab *lab, int told)
{
	for (uint64_t n = 1;; n++) {
		struct kms_key_id id = id_of(n);
		if (announced_write(&lab->config, &id) < 0 ||
			write(told, &n, sizeof(n)) != (ssize_t)sizeof(n))
			_exit(1);
	}
}

/* The last number that it told before it was killed. */
static uint64_t
kill_a_writer(const struct lab *lab, long after_us)
{
	const struct timespec pause = { 0, after_us * 1000 };
	uint64_t n, last = 0;
	int told[2];
	pid_t pid;

	assert_int_equal(pipe(told), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0)
		write_until_killed(lab, told[1]);
	close(told[1]);
	assert_int_equal(read(told[0], &last, sizeof(last)), sizeof(last));
	nanosleep(&pause, NULL);
	kill(pid, SIGKILL);
	while (read(told[0], &n, sizeof(n)) == (ssize_t)sizeof(n))
		last = n;
	close(told[0]);
	waitpid(pid, NULL, 0);
	return last;
}

static void
a_kill_at_any_moment_loses_nothing_that_was_told(void **state)
{
	struct lab *lab = lab_configured(state);

	for (int i = 0; i < 40; i++) {
		uint64_t last = kill_a_writer(lab, 137 * i), now = read_activation(lab);
		assert_true(now == last || now == last + 1);
	}
}

static void
a_damaged_file_is_not_the_same_as_none(void **state)
{
	static const char *const damaged[] = {
		"",
		"\n",
		"{",
		"[]",
		"null",
		"{}",
		"{\"cluster\":\"prod-1\",\"key\":\"kubernetes\",\"provider\":\"kekd\"}",
		"{\"cluster\":\"prod-1\",\"key\":\"kubernetes\",\"key_id\":\"x\",\"provider\":"
		"\"kekd\"}",
		"{\"cluster\":\"prod-1\",\"key\":\"kubernetes\",\"key_id\":\"" UUID
		".0\",\"provider\":\"kekd\"}",
		"{\"cluster\":\"prod-1\",\"key\":\"kubernetes\",\"key_id\":1,\"provider\":"
		"\"kekd\"}",
		"{\"cluster\":\"prod-1\",\"key\":\"kubernetes\",\"key_id\":\"" UUID
		".1\",\"provider\":\"kekd\",\"more\":1}",
	};
	struct lab *lab = lab_configured(state);

	for (size_t i = 0; i < STR_COUNT(damaged); i++) {
		put_file(lab, ANNOUNCED_NAME, damaged[i]);
		assert_refused(lab, "remove");
	}
}

static void
a_file_of_another_key_provider_or_cluster_is_refused(void **state)
{
	static char other[] = "other";
	struct lab *lab = lab_configured(state);
	const struct kms_config good = lab->config;
	struct kms_key_id id = id_of(3);

	assert_int_equal(announced_write(&lab->config, &id), 0);
	lab->config.key = other;
	assert_refused(lab, "another key");
	lab->config = good;
	lab->config.provider = other;
	assert_refused(lab, "another provider");
	lab->config = good;
	lab->config.cluster = other;
	assert_refused(lab, "another cluster");
	lab->config = good;
	assert_true(read_activation(lab) == 3);
}

static void
what_is_no_file_is_refused(void **state)
{
	struct lab *lab = lab_configured(state);
	char path[PATH_SIZE];

	path_of(lab, ANNOUNCED_NAME, path);
	assert_int_equal(mkdir(path, 0700), 0);
	assert_refused(lab, "cannot read");
	assert_int_equal(rmdir(path), 0);
	assert_int_equal(symlink("/dev/null", path), 0);
	assert_refused(lab, "cannot read");
}

static void
a_directory_that_is_not_there_is_no_first_start(void **state)
{
	static char nowhere[] = "/nonexistent/kekd-kms";
	struct lab *lab = lab_configured(state);
	struct kms_key_id id = id_of(1);
	char error[256] = "";

	lab->config.state_dir = nowhere;
	assert_int_equal(announced_read(&lab->config, &id, error), -ENOENT);
	assert_non_null(strstr(error, nowhere));
	assert_int_equal(announced_write(&lab->config, &id), -ENOENT);
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, lab_open, lab_close)
	const struct CMUnitTest tests[] = {
		TEST(nothing_was_announced_at_first),
		TEST(what_was_written_is_read),
		TEST(a_write_that_was_broken_off_leaves_what_was),
		TEST(a_kill_at_any_moment_loses_nothing_that_was_told),
		TEST(a_damaged_file_is_not_the_same_as_none),
		TEST(a_file_of_another_key_provider_or_cluster_is_refused),
		TEST(what_is_no_file_is_refused),
		TEST(a_directory_that_is_not_there_is_no_first_start),
	};

	json_open();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
