/* SPDX-License-Identifier: Apache-2.0 */
/* The audit log's writer: what it promises of records that it has acknowledged. Disks fail here by
 * wrapped system calls, and one is really full. */
#include "kekd/audit.h"

#include "../../src/audit/sink.h"
#include "kekd/clock.h"
#include "kekd/err.h"
#include "kekd/json.h"
#include "kekd/str.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <glob.h>
#include <limits.h>
#include <openssl/sha.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- failing disks ---- */

static atomic_int fail_writes, fail_syncs, fail_allocations;

ssize_t __real_write(int fd, const void *data, size_t len);
ssize_t __wrap_write(int fd, const void *data, size_t len);
int __real_fdatasync(int fd);
int __wrap_fdatasync(int fd);
int __real_fallocate(int fd, int mode, off_t offset, off_t len);
int __wrap_fallocate(int fd, int mode, off_t offset, off_t len);

static bool
fails(atomic_int *left)
{
	int n = atomic_load(left);

	while (n > 0)
		if (atomic_compare_exchange_weak(left, &n, n - 1))
			return true;
	return false;
}

/* Half of it gets out before the disk fails. */
ssize_t
__wrap_write(int fd, const void *data, size_t len)
{
	if (fd > STDERR_FILENO && len > 100 && fails(&fail_writes)) {
		if (__real_write(fd, data, len / 2) < 0)
			return -1;
		errno = EIO;
		return -1;
	}
	return __real_write(fd, data, len);
}

int
__wrap_fdatasync(int fd)
{
	if (!fails(&fail_syncs))
		return __real_fdatasync(fd);
	errno = EIO;
	return -1;
}

int
__wrap_fallocate(int fd, int mode, off_t offset, off_t len)
{
	if (!fails(&fail_allocations))
		return __real_fallocate(fd, mode, offset, len);
	errno = EOPNOTSUPP;
	return -1;
}

/* ---- help ---- */

struct fixture {
	char dir[64];
	struct audit_config config;
	struct audit *audit;
};

static void
open_log(struct fixture *f)
{
	char error[256] = "";

	if (audit_open(&f->config, &f->audit, error) != 0)
		fail_msg("%s", error);
}

static void
close_log(struct fixture *f)
{
	audit_freep(&f->audit);
}

static int
setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	strcpy(f->dir, "/tmp/kekd-audit-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	f->config = (struct audit_config){
		.dir = f->dir, .cluster = "c1", .node = "n1", .max_bytes = 1 << 30
	};
	*state = f;
	return 0;
}

static int
remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	(void)st, (void)flag, (void)ftw;
	return remove(path);
}

static int
teardown(void **state)
{
	struct fixture *f = *state;

	close_log(f);
	umount2(f->dir, MNT_DETACH);
	nftw(f->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	free(f);
	return 0;
}

static int
append(struct fixture *f, const char *id)
{
	struct audit_record r = { .type = AUDIT_REQUEST,
		.time_us = clock_real_us(),
		.client = "app",
		.operation = "wrap",
		.key = "demo",
		.request_id = id };

	return audit_append(f->audit, &r);
}

static int
append_refused(struct fixture *f, const char *client, bool force)
{
	struct audit_version v = { .version = 3, .refused = 2 };
	struct audit_record r = { .type = AUDIT_REFUSED,
		.time_us = clock_real_us(),
		.client = client,
		.force_durable = force,
		.versions = &v,
		.versions_count = 1,
		.code = "forbidden",
		.status = 403 };

	return audit_append(f->audit, &r);
}

static struct audit_report
verified(struct fixture *f)
{
	struct audit_report r = { 0 };
	int err = audit_verify(f->dir, &r);

	if (err)
		fail_msg("%s:%llu: %s", r.fault_file, (unsigned long long)r.fault_line, r.fault);
	json_decref(r.notes);
	r.notes = NULL;
	return r;
}

/* All lines of all files, in order; the caller owns the array. */
static json_t *
lines(struct fixture *f)
{
	char pattern[128];
	json_t *all = json_array();
	glob_t files;

	snprintf(pattern, sizeof(pattern), "%s/audit-*.jsonl", f->dir);
	if (glob(pattern, 0, NULL, &files) != 0)
		return all;
	for (size_t i = 0; i < files.gl_pathc; i++) {
		FILE *file = fopen(files.gl_pathv[i], "r");
		char *line = NULL;
		size_t cap = 0;
		assert_non_null(file);
		while (getline(&line, &cap, file) > 0) {
			json_t *j = json_loads(line, JSON_REJECT_DUPLICATES, NULL);
			if (j)
				json_array_append_new(all, j);
		}
		free(line);
		fclose(file);
	}
	globfree(&files);
	return all;
}

static size_t
count_files(struct fixture *f)
{
	char pattern[128];
	glob_t files;
	size_t n;

	snprintf(pattern, sizeof(pattern), "%s/audit-*", f->dir);
	n = glob(pattern, 0, NULL, &files) == 0 ? files.gl_pathc : 0;
	if (n > 0)
		globfree(&files);
	return n;
}

static size_t
count(struct fixture *f, const char *member, const char *value)
{
	json_t *all = lines(f), *j;
	size_t i, n = 0;

	json_array_foreach(all, i, j) {
		const char *text = json_string_value(json_object_get(j, member));
		n += text && strcmp(text, value) == 0;
	}
	json_decref(all);
	return n;
}

static bool
becomes_ok(struct fixture *f)
{
	for (int i = 0; i < 400 && !audit_ok(f->audit); i++)
		nanosleep(&(struct timespec){ 0, 10000000 }, NULL);
	return audit_ok(f->audit);
}

static void
add_bytes(struct fixture *f, const char *file, const char *bytes, size_t len)
{
	char path[160];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", f->dir, file);
	fd = open(path, O_WRONLY | O_CREAT | O_APPEND, 0600);
	assert_int_equal(write(fd, bytes, len), (ssize_t)len);
	close(fd);
}

/* ---- promises ---- */

static void
the_chain_continues_over_a_restart_in_the_same_file(void **state)
{
	struct fixture *f = *state;
	struct audit_report r;

	for (int i = 0; i < 3; i++) {
		open_log(f);
		assert_int_equal(append(f, "x"), 0);
		close_log(f);
	}
	r = verified(f);
	assert_int_equal(r.records, 9);
	assert_int_equal(r.last_sequence, 9);
	assert_int_equal(r.files, 1);
	assert_int_equal(count(f, "type", "open"), 3);
	assert_int_equal(count(f, "type", "close"), 3);
}

static void
status_tells_of_the_last_durable_record(void **state)
{
	struct fixture *f = *state;
	struct audit_status s;

	open_log(f);
	assert_int_equal(append(f, "x"), 0);
	audit_status(f->audit, &s);
	assert_true(s.ok);
	assert_int_equal(s.sequence, 2);
	assert_int_equal(s.backlog, 0);
	assert_string_equal(s.file, "audit-00000000000000000001.jsonl");
	assert_string_equal(s.head, verified(f).head);
}

static void
a_torn_last_line_is_recorded_and_the_log_goes_on(void **state)
{
	struct fixture *f = *state;

	open_log(f);
	assert_int_equal(append(f, "x"), 0);
	close_log(f);
	add_bytes(f, "audit-00000000000000000001.jsonl", "{\"v\":1,\"seq\":4,\"ti", 18);
	open_log(f);
	assert_int_equal(append(f, "y"), 0);
	close_log(f);
	assert_int_equal(verified(f).gaps, 1);
	assert_int_equal(count(f, "reason", "torn"), 1);
	assert_int_equal(count_files(f), 2);
}

static void
zeros_and_whole_garbage_lines_at_the_end_are_a_torn_end_too(void **state)
{
	struct fixture *f = *state;

	open_log(f);
	close_log(f);
	add_bytes(f, "audit-00000000000000000001.jsonl", "\0\0\0\0{}\n{\"v\":1}\n\0", 16);
	open_log(f);
	close_log(f);
	assert_int_equal(verified(f).gaps, 1);
}

static void
a_file_that_a_crash_left_without_a_whole_record_is_set_aside(void **state)
{
	struct fixture *f = *state;

	open_log(f);
	close_log(f);
	add_bytes(f, "audit-00000000000000000003.jsonl", "{\"v\":1,", 7);
	open_log(f);
	assert_int_equal(append(f, "x"), 0);
	close_log(f);
	assert_int_equal(verified(f).gaps, 1);
	assert_int_equal(count(f, "file", "audit-00000000000000000003.jsonl.damaged"), 1);
}

static void
an_empty_file_that_a_crash_left_is_removed(void **state)
{
	struct fixture *f = *state;

	add_bytes(f, "audit-00000000000000000001.jsonl", "", 0);
	open_log(f);
	close_log(f);
	assert_int_equal(verified(f).records, 2);
}

static void
the_log_of_another_node_or_cluster_is_refused(void **state)
{
	struct fixture *f = *state;
	struct audit_config other = f->config;
	char error[256] = "";

	open_log(f);
	close_log(f);
	other.node = "n2";
	assert_int_equal(audit_open(&other, &f->audit, error), KEKD_EAUDIT);
	assert_non_null(strstr(error, "another node"));
	other = f->config;
	other.cluster = "c2";
	assert_int_equal(audit_open(&other, &f->audit, error), KEKD_EAUDIT);
	assert_non_null(strstr(error, "another cluster"));
}

static void
what_is_no_log_is_refused_and_left_alone(void **state)
{
	struct fixture *f = *state;
	char error[256] = "";

	add_bytes(f, "audit-00000000000000000001.jsonl", "hello\nworld\n", 12);
	assert_int_equal(audit_open(&f->config, &f->audit, error), KEKD_EAUDIT);
	assert_non_null(strstr(error, "is not an audit log"));
	assert_int_equal(count_files(f), 1);
}

static void
a_directory_that_cannot_be_used_opens_failing_and_recovers(void **state)
{
	struct fixture *f = *state;
	struct audit_status s;
	char dir[128], parent[100];

	snprintf(parent, sizeof(parent), "%s/later", f->dir);
	snprintf(dir, sizeof(dir), "%s/log", parent);
	f->config.dir = dir;
	open_log(f);
	assert_false(audit_ok(f->audit));
	assert_int_equal(append(f, "x"), KEKD_EAUDIT);
	audit_status(f->audit, &s);
	assert_non_null(strstr(s.reason, "create the directory"));
	assert_int_equal(mkdir(parent, 0700), 0);
	assert_true(becomes_ok(f));
	assert_int_equal(append(f, "y"), 0);
	close_log(f);
	f->config.dir = f->dir;
	strcat(f->dir, "/later/log");
	assert_int_equal(verified(f).gaps, 1);
	f->dir[strlen(f->dir) - strlen("/later/log")] = '\0';
}

static void
two_writers_never_share_a_directory(void **state)
{
	struct fixture *f = *state;
	struct audit *second = NULL;
	struct audit_status s;
	char error[256];

	open_log(f);
	assert_int_equal(audit_open(&f->config, &second, error), 0);
	assert_false(audit_ok(second));
	audit_status(second, &s);
	assert_non_null(strstr(s.reason, "end the other process"));
	close_log(f);
	audit_freep(&second);
	verified(f);
}

static void
a_new_file_begins_past_the_limit_and_the_chain_runs_on(void **state)
{
	struct fixture *f = *state;

	f->config.max_bytes = 2000;
	open_log(f);
	for (int i = 0; i < 40; i++)
		assert_int_equal(append(f, "x"), 0);
	close_log(f);
	assert_true(count_files(f) > 3);
	assert_int_equal(verified(f).files, count_files(f));
}

static void
a_new_file_begins_when_it_is_asked_for_and_the_chain_runs_on(void **state)
{
	struct fixture *f = *state;
	struct audit_status status;

	open_log(f);
	assert_int_equal(append(f, "x"), 0);
	audit_rotate(f->audit);
	do
		audit_status(f->audit, &status);
	while (status.sequence < 3);
	assert_string_equal(status.file, "audit-00000000000000000003.jsonl");
	audit_rotate(f->audit); /* there is nothing in it that could be taken away */
	assert_int_equal(append(f, "y"), 0);
	assert_int_equal(count_files(f), 2);
	audit_rotate(f->audit);
	close_log(f);
	assert_int_equal(verified(f).files, count_files(f));
}

struct crowd {
	struct fixture *f;
	int number, failed;
};

static void *
append_many(void *user)
{
	struct crowd *c = user;
	char id[32];

	for (int i = 0; i < 2000; i++) {
		snprintf(id, sizeof(id), "%d-%d", c->number, i);
		c->failed += append(c->f, id) != 0;
	}
	return NULL;
}

static void
sixteen_threads_have_all_their_records_in_their_order(void **state)
{
	struct fixture *f = *state;
	struct crowd crowd[16];
	pthread_t threads[16];
	int next[16] = { 0 };
	json_t *all, *j;
	size_t i;

	open_log(f);
	for (int t = 0; t < 16; t++) {
		crowd[t] = (struct crowd){ f, t, 0 };
		pthread_create(&threads[t], NULL, append_many, &crowd[t]);
	}
	for (int t = 0; t < 16; t++) {
		pthread_join(threads[t], NULL);
		assert_int_equal(crowd[t].failed, 0);
	}
	close_log(f);
	assert_int_equal(verified(f).records, 16 * 2000 + 2);
	all = lines(f);
	json_array_foreach(all, i, j) {
		const char *id = json_string_value(json_object_get(j, "request_id"));
		int t, n;
		if (!id)
			continue;
		assert_int_equal(sscanf(id, "%d-%d", &t, &n), 2);
		assert_int_equal(next[t]++, n);
	}
	json_decref(all);
}

static void
a_log_that_is_being_written_verifies(void **state)
{
	struct fixture *f = *state;
	struct crowd crowd = { f, 0, 0 };
	pthread_t thread;

	f->config.max_bytes = 200000;
	open_log(f);
	pthread_create(&thread, NULL, append_many, &crowd);
	for (int i = 0; i < 20; i++)
		verified(f);
	pthread_join(thread, NULL);
	assert_int_equal(crowd.failed, 0);
}

static atomic_int answered;

static void
count_answer(struct audit_record *r, int err)
{
	(void)r;
	if (err == 0)
		atomic_fetch_add(&answered, 1);
}

static void
fifty_thousand_records_at_once_are_all_written(void **state)
{
	enum { N = 50000 };
	struct fixture *f = *state;
	struct audit_version v = { .version = 3, .wrapped = 1 };
	struct audit_record *r = calloc(N, sizeof(*r));
	json_t *context = json_pack("{s:s, s:s}", "app", "shop", "tenant", "42");

	atomic_store(&answered, 0);
	open_log(f);
	for (int i = 0; i < N; i++) {
		r[i] = (struct audit_record){ .type = AUDIT_REQUEST,
			.time_us = clock_real_us(),
			.client = "app",
			.identity = "uri:spiffe://example.org/app",
			.address = "192.0.2.1",
			.request_id = "0f8fad5b-d9cb-469f-a165-70867728950e",
			.operation = "wrap",
			.key = "demo",
			.status = 200,
			.micros = 300,
			.revision = 77,
			.contexts = &context,
			.contexts_count = 1,
			.versions = &v,
			.versions_count = 1,
			.done = count_answer };
		audit_submit(f->audit, &r[i]);
	}
	close_log(f);
	assert_int_equal(atomic_load(&answered), N);
	assert_int_equal(verified(f).records, N + 2);
	json_decref(context);
	free(r);
}

/* ---- failing disks ---- */

static void
records_that_never_come_hold_up_nobody(void **state)
{
	struct fixture *f = *state;

	open_log(f);
	audit_expect(f->audit, 1000);
	for (int i = 0; i < 20; i++)
		assert_int_equal(append(f, "x"), 0);
	audit_expect(f->audit, -1000);
	assert_int_equal(append(f, "y"), 0);
	close_log(f);
	assert_int_equal(count(f, "request_id", "x"), 20);
	assert_int_equal(count(f, "request_id", "y"), 1);
}

static void
a_file_whose_write_failed_is_never_written_again(void **state)
{
	struct fixture *f = *state;
	struct audit_status s;

	open_log(f);
	assert_int_equal(append(f, "x"), 0);
	atomic_store(&fail_writes, 1);
	assert_int_equal(append(f, "y"), 0);
	assert_int_equal(append(f, "z"), 0);
	audit_status(f->audit, &s);
	assert_int_equal(s.failures, 1);
	close_log(f);
	assert_int_equal(count_files(f), 2);
	assert_int_equal(verified(f).gaps, 1);
	assert_int_equal(count(f, "reason", "write_failed"), 1);
	assert_int_equal(count(f, "request_id", "y"), 1);
}

static void
a_file_whose_sync_failed_is_never_written_again(void **state)
{
	struct fixture *f = *state;

	open_log(f);
	assert_int_equal(append(f, "x"), 0);
	atomic_store(&fail_syncs, 1);
	assert_int_equal(append(f, "y"), 0);
	close_log(f);
	assert_int_equal(count_files(f), 2);
	assert_int_equal(verified(f).gaps, 1);
	assert_int_equal(count(f, "reason", "sync_failed"), 1);
	/* Once in the tail that does not count, once in the new file. */
	assert_int_equal(count(f, "request_id", "y"), 2);
}

static void
a_disk_that_fails_twice_stops_the_log_until_it_recovers(void **state)
{
	struct fixture *f = *state;

	open_log(f);
	assert_int_equal(append(f, "x"), 0);
	atomic_store(&fail_syncs, 2);
	assert_int_equal(append(f, "y"), KEKD_EAUDIT);
	assert_false(audit_ok(f->audit));
	assert_int_equal(append(f, "y"), KEKD_EAUDIT);
	assert_int_equal(count_files(f), 1); /* no litter */
	assert_true(becomes_ok(f));
	assert_int_equal(append(f, "z"), 0);
	close_log(f);
	assert_int_equal(verified(f).gaps, 1);
}

static void
a_log_that_failed_and_was_restarted_is_whole(void **state)
{
	struct fixture *f = *state;

	open_log(f);
	assert_int_equal(append(f, "x"), 0);
	atomic_store(&fail_writes, 2);
	assert_int_equal(append(f, "y"), KEKD_EAUDIT);
	close_log(f);
	open_log(f);
	assert_int_equal(append(f, "z"), 0);
	close_log(f);
	verified(f);
}

static void
a_file_system_without_preallocation_serves(void **state)
{
	struct fixture *f = *state;

	atomic_store(&fail_allocations, 1);
	open_log(f);
	assert_int_equal(append(f, "x"), 0);
	close_log(f);
	verified(f);
}

static void
a_log_whose_file_was_deleted_stops_answering_from_it(void **state)
{
	struct fixture *f = *state;
	char path[160];
	struct audit_report r;

	open_log(f);
	snprintf(path, sizeof(path), "%s/audit-00000000000000000001.jsonl", f->dir);
	unlink(path);
	assert_int_equal(append(f, "x"), 0);
	close_log(f);
	assert_int_equal(count(f, "request_id", "x"), 1);
	assert_int_equal(audit_verify(f->dir, &r), KEKD_EAUDIT);
	json_decref(r.notes);
}

static void
fill(const char *dir, const char *name, int blocks)
{
	char path[160], block[4096] = { 1 };
	int fd;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	fd = open(path, O_WRONLY | O_CREAT, 0600);
	while (blocks-- > 0 && write(fd, block, sizeof(block)) > 0)
		continue;
	close(fd);
}

static void
a_full_disk_is_refused_and_recovered_from(void **state)
{
	struct fixture *f = *state;
	struct audit_status s;
	char path[160];
	int err = 0, acknowledged = 0;

	if (geteuid() != 0 || mount("tmpfs", f->dir, "tmpfs", 0, "size=1m") != 0) {
		print_message("no tmpfs can be mounted here\n");
		skip();
	}
	fill(f->dir, "filler", 128);
	open_log(f);
	assert_int_equal(append(f, "x"), 0);
	fill(f->dir, "rest", INT_MAX);
	for (int i = 0; !err && i < 10000; i++) {
		err = append(f, "y");
		acknowledged += !err;
	}
	assert_int_equal(err, KEKD_EAUDIT);
	audit_status(f->audit, &s);
	assert_false(s.ok);
	assert_non_null(strstr(s.reason, "free space"));
	nanosleep(&(struct timespec){ 2, 500000000 }, NULL);
	assert_int_equal(append(f, "z"), KEKD_EAUDIT);
	snprintf(path, sizeof(path), "%s/filler", f->dir);
	assert_int_equal(unlink(path), 0);
	assert_true(becomes_ok(f));
	assert_int_equal(append(f, "z"), 0);
	close_log(f);
	assert_int_equal(verified(f).gaps, 1);
	assert_int_equal(count(f, "request_id", "y"), acknowledged);
	assert_int_equal(count(f, "reason", "no_space"), 1);
	assert_int_equal(umount(f->dir), 0);
}

/* ---- crashes ---- */

static void
write_until_killed(struct fixture *f, int to_parent)
{
	for (int i = 0;; i++) {
		char id[16];
		snprintf(id, sizeof(id), "%d", i);
		if (append(f, id) != 0 || write(to_parent, &i, sizeof(i)) != sizeof(i))
			_exit(1);
	}
}

static void
everything_acknowledged_survives_kill_9(void **state)
{
	struct fixture *f = *state;
	int pipe_fds[2], last = -1, n;

	for (int round = 0; round < 5; round++) {
		pid_t child;
		char id[16];
		assert_int_equal(pipe(pipe_fds), 0);
		child = fork();
		if (child == 0) {
			open_log(f);
			write_until_killed(f, pipe_fds[1]);
		}
		close(pipe_fds[1]);
		/* On a busy machine the first one may take its time. */
		assert_int_equal(read(pipe_fds[0], &n, sizeof(n)), sizeof(n));
		last = n;
		nanosleep(&(struct timespec){ 0, 60000000 + 7000000 * round }, NULL);
		kill(child, SIGKILL);
		waitpid(child, NULL, 0);
		while (read(pipe_fds[0], &n, sizeof(n)) == sizeof(n))
			last = n;
		close(pipe_fds[0]);
		assert_true(last >= 0);
		open_log(f);
		close_log(f);
		verified(f);
		snprintf(id, sizeof(id), "%d", last);
		assert_true(count(f, "request_id", id) > 0);
	}
}

/* ---- refusals ---- */

static const json_t *
find_summary(const json_t *all, const char *client)
{
	const json_t *j;
	size_t i;

	json_array_foreach(all, i, j) {
		const char *type = json_string_value(json_object_get(j, "type"));
		const char *name = json_string_value(json_object_get(j, "client"));
		if (strcmp(type, "refusals") == 0 &&
			(client ? name && !strcmp(name, client) : !name))
			return j;
	}
	return NULL;
}

static json_int_t
number(const json_t *j, const char *name)
{
	return json_integer_value(json_object_get(j, name));
}

/* stderr goes to the file; end_capture counts its lines with a text. */
static int
begin_capture(FILE **ret_file)
{
	int saved = dup(STDERR_FILENO);

	*ret_file = tmpfile();
	assert_non_null(*ret_file);
	dup2(fileno(*ret_file), STDERR_FILENO);
	return saved;
}

static unsigned
end_capture(int saved, FILE *file, const char *text)
{
	char line[1024];
	unsigned found = 0;

	dup2(saved, STDERR_FILENO);
	close(saved);
	rewind(file);
	while (fgets(line, sizeof(line), file))
		found += strstr(line, text) != NULL;
	fclose(file);
	return found;
}

#define TOO_LONG (5u * 1024 * 1024)

static void
records_too_long_for_the_second_sink_are_counted_and_told_of_once_a_minute(void **state)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	struct audit_sink_status status;
	struct sink *sink = NULL;
	char spec[160], *line = malloc(TOO_LONG);
	int saved, receiver = socket(AF_UNIX, SOCK_DGRAM, 0);
	FILE *captured;
	(void)state;

	snprintf(at.sun_path, sizeof(at.sun_path), "/tmp/kekd-unit-sink-%d", (int)getpid());
	snprintf(spec, sizeof(spec), "json:%s", at.sun_path);
	assert_int_equal(bind(receiver, (struct sockaddr *)&at, sizeof(at)), 0);
	memset(line, 'x', TOO_LONG);
	line[TOO_LONG - 1] = '\n';
	saved = begin_capture(&captured);
	assert_int_equal(sink_open(spec, &sink), 0);
	for (uint64_t i = 1; i <= 3; i++) {
		sink_put(sink, line, TOO_LONG);
		do
			sink_status(sink, &status);
		while (status.lost < i);
	}
	sink_put(sink, "short\n", 6);
	sink_freep(&sink);
	assert_int_equal(end_capture(saved, captured, "too long for the socket"), 1);
	assert_true(status.ok && status.lost == 3);
	assert_int_equal(recv(receiver, line, TOO_LONG, 0), 5);
	close(receiver);
	unlink(at.sun_path);
	free(line);
}

static void
refusals_are_bounded_and_the_rest_is_counted(void **state)
{
	struct fixture *f = *state;
	const json_t *s;
	json_t *all;

	open_log(f);
	for (int i = 0; i < 500; i++) {
		assert_int_equal(append_refused(f, NULL, false), 0);
		assert_int_equal(append_refused(f, "app", false), 0);
	}
	for (int i = 0; i < 30; i++)
		assert_int_equal(append_refused(f, "app", true), 0);
	close_log(f);
	verified(f);
	assert_int_equal(count(f, "type", "refused"), 10 + 10 + 30);
	assert_int_equal(count(f, "type", "refusals"), 2);
	all = lines(f);
	s = find_summary(all, NULL);
	assert_int_equal(number(s, "count"), 490);
	s = find_summary(all, "app");
	assert_int_equal(number(s, "count"), 490);
	assert_int_equal(number(json_object_get(s, "codes"), "forbidden"), 490);
	s = json_array_get(json_object_get(s, "versions"), 0);
	assert_int_equal(number(s, "version"), 3);
	assert_int_equal(number(s, "refused"), 980);
	json_decref(all);
}

static void
refusals_of_any_number_of_clients_stay_bounded(void **state)
{
	struct fixture *f = *state;
	char name[16];

	open_log(f);
	for (int round = 0; round < 2; round++)
		for (int i = 0; i < 1100; i++) {
			snprintf(name, sizeof(name), "c%d", i);
			assert_int_equal(append_refused(f, name, false), 0);
		}
	close_log(f);
	verified(f);
	assert_int_equal(count(f, "type", "refused"), 1000 * 2 + 10);
	assert_int_equal(count(f, "type", "refusals"), 1);
}

static void
refusals_are_not_taken_while_the_log_fails(void **state)
{
	struct fixture *f = *state;

	open_log(f);
	atomic_store(&fail_syncs, 3);
	assert_int_equal(append(f, "x"), KEKD_EAUDIT);
	for (int i = 0; i < 20; i++)
		assert_int_equal(append_refused(f, NULL, false), KEKD_EAUDIT);
	atomic_store(&fail_syncs, 0);
}

/* ---- the record ---- */

static void
a_record_has_its_members_in_one_order(void **state)
{
	struct buf b = BUF_INIT(4096);
	json_t *contexts[] = { json_pack("{s:s, s:s}", "b", "2", "a", "1"), NULL };
	json_t *detail = json_pack("{s:i}", "period", 7);
	const uint8_t blobs[][AUDIT_BLOB_HASH_SIZE] = { { 1, 2, 3, 4, 5, 6, 7, 8 } };
	const struct audit_version v = { .version = 2, .unwrapped = 1, .failed = 1 };
	const struct audit_record r = { .type = AUDIT_OUTCOME,
		.client = "app",
		.identity = "dns:app.example",
		.address = "::1",
		.request_id = "id",
		.traceparent = "tp",
		.operation = "unwrap",
		.key = "demo",
		.method = "POST",
		.path = "/v1/x",
		.code = "unwrap_failed",
		.status = 400,
		.micros = 5,
		.revision = 6,
		.stale = true,
		.contexts = contexts,
		.contexts_count = 2,
		.versions = &v,
		.versions_count = 1,
		.blobs = blobs,
		.blobs_count = 1,
		.detail = detail };

	(void)state;
	audit_format(&b, &r, false);
	buf_u8(&b, '\0');
	assert_string_equal((char *)b.data,
		",\"type\":\"outcome\",\"client\":\"app\",\"identity\":\"dns:app.example\","
		"\"address\":\"::1\",\"request_id\":\"id\",\"traceparent\":\"tp\","
		"\"operation\":\"unwrap\",\"key\":\"demo\",\"method\":\"POST\",\"path\":\"/v1/x\","
		"\"contexts\":[{\"a\":\"1\",\"b\":\"2\"},null],\"versions\":[{\"version\":2,"
		"\"id\":\"00000000-0000-0000-0000-000000000000\",\"unwrapped\":1,\"failed\":1}],"
		"\"blobs\":[\"0102030405060708\"],\"result\":\"error\",\"code\":\"unwrap_failed\","
		"\"status\":400,\"us\":5,\"revision\":6,\"stale\":true,\"detail\":{\"period\":7}");
	buf_free(&b);
	json_decref(contexts[0]);
	json_decref(detail);
}

static void
a_context_is_hashed_where_that_is_asked_for(void **state)
{
	static const char canonical[] = "{\"app\":\"shop\",\"tenant\":\"42\"}";
	struct fixture *f = *state;
	json_t *context = json_pack("{s:s, s:s}", "tenant", "42", "app", "shop");
	struct audit_record r = {
		.type = AUDIT_REQUEST, .contexts = &context, .contexts_count = 1
	};
	uint8_t digest[32];
	char hex[65] = "";

	f->config.hash_context = true;
	open_log(f);
	assert_int_equal(audit_append(f->audit, &r), 0);
	close_log(f);
	SHA256((const unsigned char *)canonical, sizeof(canonical) - 1, digest);
	str_hex(digest, sizeof(digest), hex);
	assert_int_equal(count(f, "context_sha256", hex), 1);
	json_decref(context);
}

static void
foreign_bytes_never_break_a_line(void **state)
{
	static const char *const foreign[] = { "\xff\xfe", "\xc3", "a\nb\"c\\d\x01\x7f", "\xc3\xa9",
		"\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe2\x82", "\xc0\x80", "\xf0\x9f\x98\x80\n" };
	struct fixture *f = *state;

	open_log(f);
	for (size_t i = 0; i < STR_COUNT(foreign); i++)
		assert_int_equal(append(f, foreign[i]), 0);
	close_log(f);
	assert_int_equal(verified(f).records, STR_COUNT(foreign) + 2);
	assert_int_equal(count(f, "request_id", "a\nb\"c\\d\x01\x7f"), 1);
	assert_int_equal(count(f, "request_id", "\xef\xbf\xbd"), 1);
	assert_int_equal(count(f, "request_id", "\xf0\x9f\x98\x80\n"), 1);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		T(the_chain_continues_over_a_restart_in_the_same_file),
		T(status_tells_of_the_last_durable_record),
		T(a_torn_last_line_is_recorded_and_the_log_goes_on),
		T(zeros_and_whole_garbage_lines_at_the_end_are_a_torn_end_too),
		T(a_file_that_a_crash_left_without_a_whole_record_is_set_aside),
		T(an_empty_file_that_a_crash_left_is_removed),
		T(the_log_of_another_node_or_cluster_is_refused),
		T(what_is_no_log_is_refused_and_left_alone),
		T(a_directory_that_cannot_be_used_opens_failing_and_recovers),
		T(two_writers_never_share_a_directory),
		T(a_new_file_begins_past_the_limit_and_the_chain_runs_on),
		T(a_new_file_begins_when_it_is_asked_for_and_the_chain_runs_on),
		T(sixteen_threads_have_all_their_records_in_their_order),
		T(a_log_that_is_being_written_verifies),
		T(fifty_thousand_records_at_once_are_all_written),
		T(records_that_never_come_hold_up_nobody),
		T(a_file_whose_write_failed_is_never_written_again),
		T(a_file_whose_sync_failed_is_never_written_again),
		T(a_disk_that_fails_twice_stops_the_log_until_it_recovers),
		T(a_log_that_failed_and_was_restarted_is_whole),
		T(a_file_system_without_preallocation_serves),
		T(a_log_whose_file_was_deleted_stops_answering_from_it),
		T(a_full_disk_is_refused_and_recovered_from),
		T(everything_acknowledged_survives_kill_9),
		T(records_too_long_for_the_second_sink_are_counted_and_told_of_once_a_minute),
		T(refusals_are_bounded_and_the_rest_is_counted),
		T(refusals_of_any_number_of_clients_stay_bounded),
		T(refusals_are_not_taken_while_the_log_fails),
		T(a_record_has_its_members_in_one_order),
		T(a_context_is_hashed_where_that_is_asked_for),
		T(foreign_bytes_never_break_a_line),
	};

	json_open();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
