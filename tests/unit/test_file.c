/* SPDX-License-Identifier: Apache-2.0 */
/* Small files that are replaced durably: what stands after a success, and after every failure. */
#include "kekd/file.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define NAME "state"
#define FRESH NAME ".new"

struct lab {
	char dir[64];
	char name[128], fresh[128]; /* their paths */
};

static int
lab_open(void **state)
{
	struct lab *lab = calloc(1, sizeof(*lab));

	assert_non_null(lab);
	strcpy(lab->dir, "/tmp/kekd-file-XXXXXX");
	assert_non_null(mkdtemp(lab->dir));
	snprintf(lab->name, sizeof(lab->name), "%s/" NAME, lab->dir);
	snprintf(lab->fresh, sizeof(lab->fresh), "%s/" FRESH, lab->dir);
	*state = lab;
	return 0;
}

static int
lab_close(void **state)
{
	struct lab *lab = *state;

	remove(lab->name);
	remove(lab->fresh);
	assert_int_equal(rmdir(lab->dir), 0); /* nothing else was left behind */
	free(lab);
	return 0;
}

static int
put(const struct lab *lab, const char *text)
{
	return file_replace(lab->dir, NAME, text, strlen(text));
}

static void
put_plain(const char *path, const char *text)
{
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

static void
assert_holds(const struct lab *lab, const char *text)
{
	char found[64];
	ssize_t n = file_read(lab->dir, NAME, found, sizeof(found) - 1);

	assert_true(n >= 0);
	found[n] = '\0';
	assert_string_equal(found, text);
}

static void
what_is_written_is_read_and_is_the_owners_alone(void **state)
{
	struct lab *lab = *state;
	struct stat st;

	assert_int_equal(put(lab, "one"), 0);
	assert_holds(lab, "one");
	assert_int_equal(stat(lab->name, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	assert_int_equal(put(lab, "and two"), 0);
	assert_holds(lab, "and two");
	assert_int_equal(put(lab, ""), 0);
	assert_holds(lab, "");
	assert_int_equal(access(lab->fresh, F_OK), -1);
}

static void
a_directory_can_be_given_open(void **state)
{
	struct lab *lab = *state;
	int dir = open(lab->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	assert_true(dir >= 0);
	assert_int_equal(file_replace_at(dir, NAME, "open", 4), 0);
	assert_int_equal(fcntl(dir, F_GETFD), FD_CLOEXEC); /* it stays the caller's */
	close(dir);
	assert_holds(lab, "open");
}

static void
what_a_crash_left_beside_the_file_is_written_over(void **state)
{
	struct lab *lab = *state;

	assert_int_equal(put(lab, "former"), 0);
	put_plain(lab->fresh, "a longer text that was broken o");
	assert_holds(lab, "former");
	assert_int_equal(put(lab, "next"), 0);
	assert_holds(lab, "next");
	assert_int_equal(access(lab->fresh, F_OK), -1);
}

static void
what_stands_in_the_way_is_an_error_and_the_former_file_stays(void **state)
{
	struct lab *lab = *state;

	assert_int_equal(put(lab, "former"), 0);
	assert_int_equal(mkdir(lab->fresh, 0700), 0);
	assert_int_equal(put(lab, "next"), -EISDIR);
	assert_int_equal(rmdir(lab->fresh), 0);
	assert_int_equal(symlink(lab->name, lab->fresh), 0);
	assert_int_equal(put(lab, "next"), -ELOOP);
	assert_holds(lab, "former");
}

static void
a_rename_that_fails_leaves_no_new_file(void **state)
{
	struct lab *lab = *state;

	assert_int_equal(mkdir(lab->name, 0700), 0);
	assert_int_equal(put(lab, "next"), -EISDIR);
	assert_int_equal(access(lab->fresh, F_OK), -1);
}

/* In a process of its own: the limit, and whom the process belongs to, cannot be taken back. */
static int
in_a_child(const struct lab *lab, void (*prepare)(void))
{
	char text[1024];
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		memset(text, 'x', sizeof(text));
		prepare();
		_exit(-file_replace(lab->dir, NAME, text, sizeof(text)));
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	return -WEXITSTATUS(status);
}

/* As a full disk does: a part is still written, the rest is not. */
static void
leave_little_room(void)
{
	const struct rlimit limit = { 100, 100 };

	signal(SIGXFSZ, SIG_IGN);
	if (setrlimit(RLIMIT_FSIZE, &limit) < 0)
		_exit(99);
}

static void
a_write_that_does_not_fit_leaves_the_former_file_alone(void **state)
{
	struct lab *lab = *state;

	assert_int_equal(put(lab, "former"), 0);
	assert_int_equal(in_a_child(lab, leave_little_room), -EFBIG);
	assert_holds(lab, "former");
	assert_int_equal(access(lab->fresh, F_OK), -1);
}

static void
be_nobody(void)
{
	if (geteuid() == 0 && setuid(65534) < 0)
		_exit(99);
}

static void
a_directory_that_cannot_be_written_keeps_its_file(void **state)
{
	struct lab *lab = *state;

	assert_int_equal(put(lab, "former"), 0);
	assert_int_equal(chmod(lab->dir, 0555), 0);
	assert_int_equal(in_a_child(lab, be_nobody), -EACCES);
	assert_int_equal(chmod(lab->dir, 0700), 0);
	assert_holds(lab, "former");
}

static void
a_directory_that_is_not_there_is_an_error(void **state)
{
	struct lab *lab = *state;
	char byte;

	assert_int_equal(put(lab, "a file"), 0);
	assert_int_equal(file_replace("/nonexistent/kekd", NAME, "x", 1), -ENOENT);
	assert_int_equal(file_read("/nonexistent/kekd", NAME, &byte, 1), -ENOENT);
	assert_int_equal(file_sync_dir("/nonexistent/kekd"), -ENOENT);
	assert_int_equal(file_replace(lab->name, NAME, "x", 1), -ENOTDIR);
	assert_int_equal(file_sync_dir(lab->name), -ENOTDIR);
	assert_int_equal(file_sync_dir(lab->dir), 0);
}

static void
a_name_without_room_for_its_end_is_an_error(void **state)
{
	struct lab *lab = *state;
	char name[NAME_MAX + 1] = "";

	memset(name, 'n', NAME_MAX - 3);
	assert_int_equal(file_replace(lab->dir, name, "x", 1), -ENAMETOOLONG);
}

static void
what_is_no_file_is_not_read(void **state)
{
	struct lab *lab = *state;
	char byte;

	assert_int_equal(file_read(lab->dir, NAME, &byte, 1), -ENOENT);
	assert_int_equal(mkdir(lab->name, 0700), 0);
	assert_int_equal(file_read(lab->dir, NAME, &byte, 1), -EISDIR);
	assert_int_equal(rmdir(lab->name), 0);
	assert_int_equal(symlink("/dev/null", lab->name), 0);
	assert_int_equal(file_read(lab->dir, NAME, &byte, 1), -ELOOP);
	assert_int_equal(remove(lab->name), 0);
	assert_int_equal(mkfifo(lab->name, 0600), 0);
	assert_int_equal(file_read(lab->dir, NAME, &byte, 1), 0); /* it does not wait */
}

static void
no_more_is_read_than_there_is_room_for(void **state)
{
	struct lab *lab = *state;
	char some[3] = "..";

	assert_int_equal(put(lab, "longer"), 0);
	assert_int_equal(file_read(lab->dir, NAME, some, 2), 2);
	assert_string_equal(some, "lo");
}

static void
a_paths_directory_is_absolute_and_not_its_targets(void **state)
{
	struct lab *lab = *state;
	char *dir;

	assert_int_equal(symlink("/etc/passwd", lab->name), 0);
	dir = file_directory(lab->name);
	assert_string_equal(dir, lab->dir);
	free(dir);
	assert_null(file_directory("/nonexistent/kekd/state"));
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, lab_open, lab_close)
	const struct CMUnitTest tests[] = {
		TEST(what_is_written_is_read_and_is_the_owners_alone),
		TEST(a_directory_can_be_given_open),
		TEST(what_a_crash_left_beside_the_file_is_written_over),
		TEST(what_stands_in_the_way_is_an_error_and_the_former_file_stays),
		TEST(a_rename_that_fails_leaves_no_new_file),
		TEST(a_write_that_does_not_fit_leaves_the_former_file_alone),
		TEST(a_directory_that_cannot_be_written_keeps_its_file),
		TEST(a_directory_that_is_not_there_is_an_error),
		TEST(a_name_without_room_for_its_end_is_an_error),
		TEST(what_is_no_file_is_not_read),
		TEST(no_more_is_read_than_there_is_room_for),
		TEST(a_paths_directory_is_absolute_and_not_its_targets),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
