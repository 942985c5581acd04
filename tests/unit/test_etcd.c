/* SPDX-License-Identifier: Apache-2.0 */
/* The etcd client, against the real etcd. */
#include "etcd_server.h"

#include "kekd/clock.h"
#include "kekd/err.h"
#include "kekd/etcd.h"
#include "kekd/json.h"
#include "kekd/sandbox.h"
#include "kekd/str.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
/* cmocka.h needs the four above it. */
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static struct etcd_servers servers;
static const char *endpoints[ETCD_MEMBERS_MAX];
static struct etcd_settings settings;
static struct etcd_counts counts;
static struct etcd *etcd;

static void
start(size_t count, bool tls)
{
	if (!etcd_installed())
		skip();
	memset(&counts, 0, sizeof(counts));
	etcd_servers_start(&servers, count, tls);
	settings = etcd_servers_settings(&servers, endpoints);
	settings.counts = &counts;
	assert_int_equal(etcd_open(&settings, &etcd), 0);
}

static int
stop(void **state)
{
	(void)state;
	etcd_freep(&etcd);
	etcd_servers_stop(&servers);
	return 0;
}

static int
put(const char *path, const char *value, bool repeat)
{
	json_t *body = json_pack("{s:o, s:o}", "key", etcd_key(etcd, path), "value",
		etcd_base64(value, strlen(value)));
	json_t *reply = NULL;
	int err = etcd_call(etcd, "kv/put", body, repeat, &reply, NULL);

	json_decref(body);
	json_decref(reply);
	return err;
}

static json_t *
range(const char *path, uint64_t revision, int *ret_err)
{
	json_t *body = json_pack("{s:o, s:o, s:o}", "key", etcd_key(etcd, path), "range_end",
		etcd_key_end(etcd, path), "revision", etcd_number(revision));
	json_t *reply = NULL;

	*ret_err = etcd_call(etcd, "kv/range", body, true, &reply, NULL);
	json_decref(body);
	return reply;
}

/* Of exactly one record below path. */
static void
assert_value(const char *path, const char *expected)
{
	_cleanup_(str_freep) char *value = NULL;
	json_t *reply, *kv;
	int err;

	reply = range(path, 0, &err);
	assert_int_equal(err, 0);
	assert_int_equal(etcd_u64(reply, "count"), 1);
	kv = json_array_get(json_object_get(reply, "kvs"), 0);
	value = etcd_bytes(json_object_get(kv, "value"), NULL);
	assert_string_equal(value, expected);
	json_decref(reply);
}

static json_t *
txn(const char *path, uint64_t mod_revision, const char *value)
{
	json_t *body = json_pack("{s:[{s:o, s:s, s:s, s:o}], s:[{s:{s:o, s:o}}], s:[{s:{s:o}}]}",
		"compare", "key", etcd_key(etcd, path), "target", "MOD", "result", "EQUAL",
		"mod_revision", etcd_number(mod_revision), "success", "requestPut", "key",
		etcd_key(etcd, path), "value", etcd_base64(value, strlen(value)), "failure",
		"requestRange", "key", etcd_key(etcd, path));
	json_t *reply = NULL;
	uint64_t sent_ns = 0, before_ns = clock_boot_ns();

	assert_non_null(body);
	assert_int_equal(etcd_call(etcd, "kv/txn", body, false, &reply, &sent_ns), 0);
	assert_true(sent_ns >= before_ns && sent_ns <= clock_boot_ns());
	json_decref(body);
	return reply;
}

static void
test_a_transaction_is_done_once_and_its_failure_tells_what_is_there(void **state)
{
	json_t *reply, *kv;
	_cleanup_(str_freep) char *path = NULL, *value = NULL;

	(void)state;
	start(1, false);
	reply = txn("keys/a", 0, "one");
	assert_true(json_is_true(json_object_get(reply, "succeeded")));
	json_decref(reply);
	reply = txn("keys/a", 0, "two");
	assert_false(json_is_true(json_object_get(reply, "succeeded")));
	kv = json_array_get(
		json_object_get(
			json_object_get(json_array_get(json_object_get(reply, "responses"), 0),
				"response_range"),
			"kvs"),
		0);
	path = etcd_path(etcd, json_object_get(kv, "key"));
	value = etcd_bytes(json_object_get(kv, "value"), NULL);
	assert_string_equal(path, "keys/a");
	assert_string_equal(value, "one");
	assert_true(etcd_u64(kv, "mod_revision") > 0);
	json_decref(reply);
	assert_int_equal(metrics_read(&counts.calls), 2);
	assert_int_equal(metrics_observed(&counts.latency), 2);
	assert_int_equal(metrics_read(&counts.errors), 0);
}

static void
test_keys_of_other_clusters_are_not_ours(void **state)
{
	static const char other[] = "/kekd/testing/keys/a", own[] = "/kekd/test/";
	json_t *key;

	(void)state;
	start(1, false);
	key = etcd_base64(other, strlen(other));
	assert_null(etcd_path(etcd, key));
	json_decref(key);
	key = etcd_base64(own, strlen(own));
	assert_null(etcd_path(etcd, key));
	json_decref(key);
}

static void
test_a_compacted_revision_and_a_lost_lease_are_told_apart(void **state)
{
	json_t *reply = NULL, *body;
	uint64_t first;
	int err;

	(void)state;
	start(1, false);
	assert_int_equal(put("keys/a", "one", true), 0);
	reply = range("keys/a", 0, &err);
	first = etcd_u64(json_object_get(reply, "header"), "revision");
	json_decref(reply);
	for (int i = 0; i < 3; i++)
		assert_int_equal(put("keys/a", "more", true), 0);
	body = json_pack("{s:o}", "revision", etcd_number(first + 2));
	assert_int_equal(etcd_call(etcd, "kv/compaction", body, true, &reply, NULL), 0);
	json_decref(body);
	json_decref(reply);
	assert_null(range("keys/a", first, &err));
	assert_int_equal(err, KEKD_ECOMPACTED);
	body = json_pack("{s:s}", "ID", "12345");
	assert_int_equal(etcd_call(etcd, "lease/revoke", body, true, &reply, NULL), -ENOENT);
	json_decref(body);
	assert_int_equal(metrics_read(&counts.errors), 0); /* these are answers */
}

static void
test_the_next_endpoint_answers_when_one_cannot_be_reached(void **state)
{
	(void)state;
	start(3, false);
	etcd_member_signal(&servers, 0, SIGKILL);
	for (int i = 0; i < 20; i++) /* the others may need to elect */
		if (put("keys/a", "one", true) == 0)
			break;
	assert_value("keys/a", "one");
	assert_int_not_equal(atomic_load(&counts.endpoint), 0);
	etcd_member_start(&servers, 0);
	etcd_servers_wait(&servers);
	etcd_member_signal(&servers, 1, SIGKILL);
	for (int i = 0; i < 20; i++)
		if (put("keys/a", "two", true) == 0)
			break;
	assert_value("keys/a", "two");
}

static uint64_t
ms_since(uint64_t ns)
{
	return (clock_boot_ns() - ns) / CLOCK_MS;
}

static void
test_a_call_ends_in_time_when_etcd_is_suspended(void **state)
{
	uint64_t before_ns;

	(void)state;
	start(1, false);
	assert_int_equal(put("keys/a", "one", true), 0);
	settings.timeout_ms = 500;
	etcd_member_signal(&servers, 0, SIGSTOP);
	before_ns = clock_boot_ns();
	assert_int_equal(put("keys/a", "two", true), KEKD_ESTORE);
	assert_true(ms_since(before_ns) < 1500);
	assert_true(etcd_unsure(etcd));
	assert_non_null(strstr(etcd_error(etcd), "no answer in time"));
	etcd_member_signal(&servers, 0, SIGCONT);
	settings.timeout_ms = 5000;
	assert_int_equal(put("keys/a", "three", true), 0);
	assert_value("keys/a", "three");
}

/* In a mount namespace of this process alone. False: it may not. */
static bool
use_name_server(const char *address)
{
	char path[] = "/tmp/kekd-resolv-XXXXXX";
	int fd = mkstemp(path);
	bool done;

	assert_true(fd >= 0);
	dprintf(fd, "nameserver %s\n", address);
	close(fd);
	done = unshare(CLONE_NEWNS) == 0 &&
	       mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
	       mount(path, "/etc/resolv.conf", NULL, MS_BIND, NULL) == 0;
	unlink(path);
	return done;
}

static int
call_by_name(const char *name)
{
	uint64_t before_ns = clock_boot_ns();
	struct etcd_settings s = {
		.endpoints = &name, .endpoints_count = 1, .cluster = "test", .timeout_ms = 500
	};
	json_t *body = json_object(), *reply = NULL;

	if (etcd_open(&s, &etcd) != 0 ||
		etcd_call(etcd, "kv/range", body, true, &reply, NULL) != KEKD_ESTORE)
		return 1;
	etcd_freep(&etcd);
	json_decref(body);
	return ms_since(before_ns) < 2000 ? 0 : 2;
}

/* The C library would ask it for ten seconds, which is longer than a lease. */
static void
test_a_silent_name_server_does_not_hold_up_a_call(void **state)
{
	struct sockaddr_in silent = { .sin_family = AF_INET, .sin_port = htons(53) };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), status;
	pid_t pid;

	(void)state;
	silent.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 76);
	if (bind(fd, (struct sockaddr *)&silent, sizeof(silent)) != 0) {
		close(fd);
		skip();
	}
	fflush(NULL);
	pid = fork();
	if (pid == 0)
		_exit(use_name_server("127.0.0.77") ? call_by_name("http://etcd.example:1") : 77);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	close(fd);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
		skip();
	assert_int_equal(status, 0);
}

static void
test_a_suspended_endpoint_leaves_time_for_the_next_one(void **state)
{
	uint64_t before_ns;

	(void)state;
	start(3, false);
	assert_int_equal(put("keys/a", "one", true), 0);
	etcd_member_signal(&servers, 0, SIGSTOP);
	usleep(1500000); /* an election, if it led */
	before_ns = clock_boot_ns();
	assert_int_equal(put("keys/a", "two", true), 0);
	assert_true(ms_since(before_ns) < 2000);
	before_ns = clock_boot_ns();
	assert_int_equal(put("keys/a", "three", true), 0);
	assert_true(ms_since(before_ns) < 500); /* no time is lost to it again */
	etcd_member_signal(&servers, 0, SIGCONT);
}

/* It may have been done: only the caller can find out. */
static void
test_what_may_not_be_repeated_is_sent_once(void **state)
{
	(void)state;
	start(3, false);
	settings.timeout_ms = 5000;
	assert_int_equal(put("keys/a", "one", false), 0);
	settings.timeout_ms = 500;
	etcd_member_signal(&servers, 0, SIGSTOP);
	assert_int_equal(put("keys/a", "two", false), KEKD_ESTORE);
	assert_true(etcd_unsure(etcd));
	assert_int_equal(metrics_read(&counts.failovers), 0);
	settings.timeout_ms = 5000;
	usleep(1500000);
	assert_int_equal(put("keys/a", "three", false), 0); /* begins at the next endpoint */
	etcd_member_signal(&servers, 0, SIGKILL);
	etcd_freep(&etcd);
	assert_int_equal(etcd_open(&settings, &etcd), 0);
	assert_int_equal(put("keys/a", "four", false), 0); /* the first cannot have had it */
	assert_int_equal(metrics_read(&counts.failovers), 1);
}

static void
test_a_user_works_also_after_its_token_was_lost(void **state)
{
	char path[128], text[256];
	int err = 0;

	(void)state;
	start(1, false);
	etcd_servers_make_users(&servers, "first-password");
	snprintf(path, sizeof(path), "%s/password", servers.dir);
	settings.user = "kekd";
	settings.password_file = path;
	etcd_servers_write_password(&servers, "first-password");
	assert_int_equal(put("keys/a", "early", true), 0); /* users are not asked for yet */
	assert_int_equal(etcd_ctl(&servers, "auth enable"), 0);
	assert_int_equal(put("keys/a", "one", true), 0);
	assert_int_equal(put("leader", "one", true), 0);
	/* Tokens are kept in etcd's memory alone. */
	etcd_member_signal(&servers, 0, SIGKILL);
	etcd_member_start(&servers, 0);
	for (int i = 0; i < 100 && (err = put("keys/a", "two", true)) != 0; i++)
		usleep(50000);
	assert_int_equal(err, 0);
	assert_value("keys/a", "two");
	/* The file is read anew each time. */
	etcd_servers_write_password(&servers, "second-password");
	snprintf(text, sizeof(text),
		"--user root:first-password user passwd kekd --interactive=false <%s", path);
	assert_int_equal(etcd_ctl(&servers, text), 0);
	assert_int_equal(put("keys/a", "three", true), 0);
}

static void
test_a_user_with_the_clusters_prefix_alone_may_do_all_that_kekd_does(void **state)
{
	static const struct {
		const char *path, *body; /* K: a key of the cluster, E: the end of all its keys */
	} calls[] = {
		{ "kv/put", "{\"key\":\"K\",\"value\":\"YQ==\"}" },
		{ "kv/range", "{\"key\":\"K\",\"range_end\":\"E\",\"keys_only\":true}" },
		{ "kv/txn", "{\"compare\":[{\"key\":\"K\",\"target\":\"MOD\",\"mod_revision\":0}],"
			    "\"success\":[{\"requestDeleteRange\":{\"key\":\"K\"}}],"
			    "\"failure\":[{\"requestRange\":{\"key\":\"K\"}}]}" },
		{ "lease/grant", "{\"TTL\":5,\"ID\":77}" },
		{ "kv/put", "{\"key\":\"K\",\"value\":\"YQ==\",\"lease\":77}" },
		{ "lease/keepalive", "{\"ID\":77}" },
		{ "lease/revoke", "{\"ID\":77}" },
		{ "kv/compaction", "{\"revision\":2}" },
	};
	json_t *key, *end;
	char path[128];

	(void)state;
	start(1, false);
	etcd_servers_make_users(&servers, "first-password");
	assert_int_equal(etcd_ctl(&servers, "put /kekd/other/keys/a x"), 0);
	assert_int_equal(etcd_ctl(&servers, "auth enable"), 0);
	snprintf(path, sizeof(path), "%s/password", servers.dir);
	settings.user = "kekd";
	settings.password_file = path;
	key = etcd_key(etcd, "keys/a");
	end = etcd_key_end(etcd, "");
	for (size_t i = 0; i < STR_COUNT(calls); i++) {
		char text[512] = "", error[JSON_ERROR_SIZE];
		json_t *body, *reply = NULL;
		for (const char *p = calls[i].body; *p; p++) {
			bool is_key = *p == 'K' && p[1] == '"', is_end = *p == 'E' && p[1] == '"';
			size_t n = strlen(text);
			snprintf(text + n, sizeof(text) - n, "%.*s", is_key || is_end ? 1024 : 1,
				is_key	 ? json_string_value(key)
				: is_end ? json_string_value(end)
					 : p);
		}
		body = json_parse(text, strlen(text), error);
		assert_non_null(body);
		if (etcd_call(etcd, calls[i].path, body, true, &reply, NULL) != 0)
			fail_msg("%s %s: %s", calls[i].path, text, etcd_error(etcd));
		json_decref(body);
		json_decref(reply);
	}
	json_decref(key);
	json_decref(end);
	settings.cluster = "other";
	etcd_freep(&etcd);
	assert_int_equal(etcd_open(&settings, &etcd), 0);
	assert_int_equal(put("keys/a", "x", true), KEKD_ESTORE);
	assert_non_null(strstr(etcd_error(etcd), "permission denied"));
}

static void
test_a_wrong_password_is_told(void **state)
{
	char path[128];

	(void)state;
	start(1, false);
	etcd_servers_make_users(&servers, "first-password");
	assert_int_equal(etcd_ctl(&servers, "auth enable"), 0);
	assert_int_equal(put("keys/a", "one", true), KEKD_ESTORE);
	snprintf(path, sizeof(path), "%s/password", servers.dir);
	settings.user = "kekd";
	settings.password_file = "/nonexistent/password";
	assert_int_equal(put("keys/a", "one", true), KEKD_ESTORE);
	assert_non_null(strstr(etcd_error(etcd), "store.password_file"));
	settings.password_file = path;
	etcd_servers_write_password(&servers, "wrong");
	assert_int_equal(put("keys/a", "one", true), KEKD_ESTORE);
	assert_non_null(strstr(etcd_error(etcd), "authentication failed"));
	assert_null(strstr(etcd_error(etcd), "wrong"));
	etcd_servers_write_password(&servers, "first-password");
	assert_int_equal(put("keys/a", "one", true), 0);
}

static void
test_tls_needs_the_right_ca_and_a_certificate(void **state)
{
	char ca[128], certificate[128], key[128];

	(void)state;
	start(1, true);
	assert_int_equal(put("keys/a", "one", true), KEKD_ESTORE);
	snprintf(ca, sizeof(ca), "%s/ca.pem", servers.dir);
	snprintf(certificate, sizeof(certificate), "%s/client.pem", servers.dir);
	snprintf(key, sizeof(key), "%s/client.key", servers.dir);
	settings.certificate = certificate;
	settings.key = key;
	assert_int_equal(put("keys/a", "one", true), KEKD_ESTORE);
	assert_non_null(strstr(etcd_error(etcd), "certificate is not accepted"));
	settings.ca = ca;
	assert_int_equal(put("keys/a", "one", true), 0);
	assert_value("keys/a", "one");
	settings.certificate = NULL;
	etcd_freep(&etcd);
	assert_int_equal(etcd_open(&settings, &etcd), 0);
	assert_int_equal(put("keys/a", "two", true), KEKD_ESTORE);
}

/* ---- under the filter of system calls ---- */

static int
confined(const char *value)
{
	return put("keys/a", value, true);
}

static void *
confined_thread(void *user)
{
	return confined("two") == 0 ? user : NULL;
}

/* Names are resolved by a thread of libcurl's, connections made, certificates read: all of it after
 * kekd-net has confined itself. */
static void
test_kekd_nets_filter_lets_it_reach_etcd_by_name_and_with_tls(void **state)
{
	char url[80], ca[128], certificate[128], key[128];
	pid_t pid;
	int status;

	(void)state;
	start(1, true);
	snprintf(ca, sizeof(ca), "%s/ca.pem", servers.dir);
	snprintf(certificate, sizeof(certificate), "%s/client.pem", servers.dir);
	snprintf(key, sizeof(key), "%s/client.key", servers.dir);
	snprintf(url, sizeof(url), "https://localhost:%u", servers.members[0].port);
	endpoints[0] = url;
	settings.ca = ca;
	settings.certificate = certificate;
	settings.key = key;
	fflush(NULL);
	pid = fork();
	if (pid == 0) {
		pthread_t thread;
		void *result = NULL;
		int err;

		sandbox_harden();
		if (sandbox_enter(SANDBOX_NET_ETCD) != 0)
			_exit(1);
		err = confined("one");
		if (err != 0)
			(void)!write(2, etcd_error(etcd), strlen(etcd_error(etcd)));
		if (pthread_create(&thread, NULL, confined_thread, etcd) == 0)
			pthread_join(thread, &result);
		_exit(err != 0 || !result);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_value("keys/a", "two");
}

/* ---- streams ---- */

struct watch {
	atomic_bool stop;
	atomic_int created, events;
	int enough; /* events after which fn ends the stream; 0: never */
	unsigned idle_ms;
	int result;
	uint64_t ended_ns;
	pthread_t thread;
	struct etcd *etcd;
};

static int
on_message(const json_t *message, void *user)
{
	struct watch *w = user;
	const json_t *result = json_object_get(message, "result");

	if (json_is_true(json_object_get(result, "canceled")))
		return -ECANCELED;
	if (json_is_true(json_object_get(result, "created")))
		w->created++;
	w->events += (int)json_array_size(json_object_get(result, "events"));
	return w->enough && w->events >= w->enough ? 1 : 0;
}

static void *
run_watch(void *user)
{
	struct watch *w = user;
	json_t *body = json_pack("{s:{s:o, s:o}}", "create_request", "key", etcd_key(w->etcd, ""),
		"range_end", etcd_key_end(w->etcd, ""));

	w->result = etcd_stream(w->etcd, "watch", body, w->idle_ms, &w->stop, on_message, w);
	w->ended_ns = clock_boot_ns();
	json_decref(body);
	return NULL;
}

static void
watch_start(struct watch *w)
{
	assert_int_equal(etcd_open(&settings, &w->etcd), 0);
	assert_int_equal(pthread_create(&w->thread, NULL, run_watch, w), 0);
	for (int i = 0; i < 100 && !w->created; i++)
		usleep(20000);
	assert_int_equal(w->created, 1);
}

static void
watch_end(struct watch *w)
{
	pthread_join(w->thread, NULL);
	etcd_freep(&w->etcd);
}

static void
test_a_stream_tells_changes_and_ends_when_told_to(void **state)
{
	struct watch w = { .enough = 0 };
	uint64_t before_ns;

	(void)state;
	start(1, false);
	watch_start(&w);
	for (int i = 0; i < 5; i++)
		assert_int_equal(put("keys/a", "x", true), 0);
	for (int i = 0; i < 100 && w.events < 5; i++)
		usleep(20000);
	assert_int_equal(w.events, 5);
	before_ns = clock_boot_ns();
	atomic_store(&w.stop, true);
	watch_end(&w);
	assert_int_equal(w.result, 0);
	assert_true((w.ended_ns - before_ns) / CLOCK_MS < 500);
}

static void
test_a_stream_ends_when_its_reader_has_had_enough(void **state)
{
	struct watch w = { .enough = 2 };

	(void)state;
	start(1, false);
	watch_start(&w);
	for (int i = 0; i < 2; i++)
		assert_int_equal(put("keys/a", "x", true), 0);
	watch_end(&w);
	assert_int_equal(w.result, 1);
}

static void
test_a_stream_ends_with_its_connection_and_when_nothing_comes(void **state)
{
	struct watch w = { .enough = 0 }, idle = { .idle_ms = 300 };

	(void)state;
	start(1, false);
	watch_start(&idle);
	watch_end(&idle);
	assert_int_equal(idle.result, KEKD_ESTORE);
	watch_start(&w);
	etcd_member_signal(&servers, 0, SIGKILL);
	watch_end(&w);
	assert_int_equal(w.result, KEKD_ESTORE);
	w.created = 0;
	assert_int_equal(etcd_open(&settings, &w.etcd), 0);
	run_watch(&w); /* nobody there */
	assert_int_equal(w.result, KEKD_ESTORE);
	assert_non_null(strstr(etcd_error(w.etcd), "cannot connect"));
	etcd_freep(&w.etcd);
}

static void
test_a_stream_gets_a_new_token(void **state)
{
	struct watch w = { .enough = 1 };
	char path[128];

	(void)state;
	start(1, false);
	etcd_servers_make_users(&servers, "first-password");
	assert_int_equal(etcd_ctl(&servers, "auth enable"), 0);
	snprintf(path, sizeof(path), "%s/password", servers.dir);
	settings.user = "kekd";
	settings.password_file = path;
	etcd_servers_write_password(&servers, "first-password");
	watch_start(&w);
	assert_int_equal(put("keys/a", "x", true), 0);
	pthread_join(w.thread, NULL);
	assert_int_equal(w.result, 1);
	etcd_member_signal(&servers, 0, SIGKILL);
	etcd_member_start(&servers, 0);
	for (int i = 0; i < 100 && put("keys/a", "x", true) != 0; i++)
		usleep(50000);
	w.created = w.events = 0;
	assert_int_equal(
		pthread_create(&w.thread, NULL, run_watch, &w), 0); /* with its old token */
	for (int i = 0; i < 100 && !w.created; i++)
		usleep(20000);
	assert_int_equal(put("keys/a", "x", true), 0);
	watch_end(&w);
	assert_int_equal(w.result, 1);
	/* What the role does not cover is refused, and told. */
	settings.cluster = "foreign";
	assert_int_equal(etcd_open(&settings, &w.etcd), 0);
	run_watch(&w);
	assert_int_equal(w.result, KEKD_ESTORE);
	assert_non_null(strstr(etcd_error(w.etcd), "permissions"));
	etcd_freep(&w.etcd);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(
			test_a_transaction_is_done_once_and_its_failure_tells_what_is_there, stop),
		cmocka_unit_test_teardown(test_keys_of_other_clusters_are_not_ours, stop),
		cmocka_unit_test_teardown(
			test_a_compacted_revision_and_a_lost_lease_are_told_apart, stop),
		cmocka_unit_test_teardown(
			test_the_next_endpoint_answers_when_one_cannot_be_reached, stop),
		cmocka_unit_test_teardown(test_a_call_ends_in_time_when_etcd_is_suspended, stop),
		cmocka_unit_test(test_a_silent_name_server_does_not_hold_up_a_call),
		cmocka_unit_test_teardown(
			test_a_suspended_endpoint_leaves_time_for_the_next_one, stop),
		cmocka_unit_test_teardown(test_what_may_not_be_repeated_is_sent_once, stop),
		cmocka_unit_test_teardown(test_a_user_works_also_after_its_token_was_lost, stop),
		cmocka_unit_test_teardown(
			test_a_user_with_the_clusters_prefix_alone_may_do_all_that_kekd_does, stop),
		cmocka_unit_test_teardown(
			test_kekd_nets_filter_lets_it_reach_etcd_by_name_and_with_tls, stop),
		cmocka_unit_test_teardown(test_a_wrong_password_is_told, stop),
		cmocka_unit_test_teardown(test_tls_needs_the_right_ca_and_a_certificate, stop),
		cmocka_unit_test_teardown(test_a_stream_tells_changes_and_ends_when_told_to, stop),
		cmocka_unit_test_teardown(test_a_stream_ends_when_its_reader_has_had_enough, stop),
		cmocka_unit_test_teardown(
			test_a_stream_ends_with_its_connection_and_when_nothing_comes, stop),
		cmocka_unit_test_teardown(test_a_stream_gets_a_new_token, stop),
	};

	json_open();
	if (etcd_global_open() != 0)
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
