/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libkekdclient without a server: what it refuses to start with, and what it says of a server that
 * is not there. With one, tests/system/ tells.
 */
#include "kekd/client.h"

#include "kekd/clock.h"
#include "kekd/json.h"
#include "kekd/str.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <openssl/ec.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define FILE_PATH "/proc/self/exe" /* there, and readable; no PEM, which only a handshake needs */

struct listener {
	int fd;
	char endpoint[64];
};

static void
assert_contains(const char *text, const char *part)
{
	if (!strstr(text, part))
		fail_msg("\"%s\" is not in \"%s\"", part, text);
}

static struct kekd_client_config
config_of(const char *const *endpoints, size_t count)
{
	return (struct kekd_client_config){
		.endpoints = endpoints,
		.endpoints_count = count,
		.ca = FILE_PATH,
		.certificate = FILE_PATH,
		.key = FILE_PATH,
		.timeout_ms = 1000,
	};
}

/* A port of this host. Bound alone it refuses connections, and nobody else gets it meanwhile;
 * listening it accepts them and says nothing. */
static struct listener
listener_open(bool listens)
{
	struct listener l = { .fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0) };
	struct sockaddr_in address = { .sin_family = AF_INET };
	socklen_t len = sizeof(address);

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	assert_int_equal(bind(l.fd, (struct sockaddr *)&address, len), 0);
	assert_int_equal(getsockname(l.fd, (struct sockaddr *)&address, &len), 0);
	if (listens)
		assert_int_equal(listen(l.fd, 8), 0);
	snprintf(l.endpoint, sizeof(l.endpoint), "https://127.0.0.1:%u", ntohs(address.sin_port));
	return l;
}

/* ---- a certificate of its own, and its key ---- */

static void
put_file(const char *path, const char *text)
{
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

static X509 *
certificate_of(EVP_PKEY *key)
{
	X509 *x = X509_new();

	assert_non_null(x);
	ASN1_INTEGER_set(X509_get_serialNumber(x), 1);
	X509_gmtime_adj(X509_getm_notBefore(x), 0);
	X509_gmtime_adj(X509_getm_notAfter(x), 3600);
	X509_set_pubkey(x, key);
	X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", MBSTRING_ASC,
		(const unsigned char *)"app", -1, -1, 0);
	X509_set_issuer_name(x, X509_get_subject_name(x));
	assert_true(X509_sign(x, key, EVP_sha256()) > 0);
	return x;
}

static void
write_pem(const char *path, X509 *x, EVP_PKEY *key)
{
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	if (x)
		assert_int_equal(PEM_write_X509(f, x), 1);
	if (key)
		assert_int_equal(PEM_write_PrivateKey(f, key, NULL, NULL, 0, NULL, NULL), 1);
	fclose(f);
}

static char *
path_in(const char *dir, const char *name)
{
	char *path = malloc(256);

	assert_non_null(path);
	snprintf(path, 256, "%s/%s", dir, name);
	return path;
}

static void
make_files(const char *dir, struct kekd_client_config *config)
{
	EVP_PKEY *key = EVP_EC_gen("P-256");
	X509 *x = certificate_of(key);

	config->ca = path_in(dir, "ca.pem");
	config->certificate = path_in(dir, "client.pem");
	config->key = path_in(dir, "client.key");
	write_pem(config->ca, x, NULL);
	write_pem(config->certificate, x, NULL);
	write_pem(config->key, NULL, key);
	X509_free(x);
	EVP_PKEY_free(key);
}

static void
drop_files(const char *dir, struct kekd_client_config *config)
{
	const char *const paths[] = { config->ca, config->certificate, config->key };

	for (size_t i = 0; i < STR_COUNT(paths); i++) {
		unlink(paths[i]);
		free((void *)(uintptr_t)paths[i]);
	}
	rmdir(dir);
}

static int
ask(const struct kekd_client_config *config, char ret_error[512])
{
	struct kekd_client *c = NULL;
	struct kekd_reply reply = { 0 };
	char error[256] = "";
	int err;

	assert_int_equal(kekd_client_open(config, &c, error), 0);
	err = kekd_client_request(c, "GET", "/v1/status", NULL, NULL, NULL, &reply, ret_error);
	kekd_client_freep(&c);
	assert_null(c);
	return err;
}

static void
a_file_that_is_missing_is_named_before_anything_is_asked(void **state)
{
	const char *endpoint = "https://127.0.0.1:1";
	struct kekd_client_config config = config_of(&endpoint, 1);
	struct kekd_client *c = NULL;
	char error[256] = "";

	(void)state;
	config.key = "/nonexistent/app.key";
	assert_int_equal(kekd_client_open(&config, &c, error), -ENOENT);
	assert_contains(error, "client key");
	assert_contains(error, "/nonexistent/app.key");
	config.key = NULL;
	assert_int_equal(kekd_client_open(&config, &c, error), -EINVAL);
	assert_contains(error, "client key");
	assert_null(c);
}

static void
an_endpoint_without_tls_is_refused(void **state)
{
	static const char *const bad[] = { "http://127.0.0.1:7373", "127.0.0.1:7373", "https://",
		"" };
	struct kekd_client *c = NULL;
	char error[256];

	(void)state;
	for (size_t i = 0; i < STR_COUNT(bad); i++) {
		struct kekd_client_config config = config_of(&bad[i], 1);
		assert_int_equal(kekd_client_open(&config, &c, error), -EINVAL);
		assert_contains(error, "https://HOST:PORT");
	}
	assert_null(c);
}

static void
no_endpoint_at_all_is_refused(void **state)
{
	struct kekd_client_config config = config_of(NULL, 0);
	struct kekd_client *c = NULL;
	char error[256];

	(void)state;
	assert_int_equal(kekd_client_open(&config, &c, error), -EINVAL);
	assert_contains(error, "endpoint");
}

static void
a_refused_connection_names_endpoint_and_remedy(void **state)
{
	struct listener l = listener_open(false);
	const char *endpoint = l.endpoint;
	struct kekd_client_config config = config_of(&endpoint, 1);
	char error[512] = "";

	(void)state;
	assert_int_equal(ask(&config, error), -ECONNREFUSED);
	assert_contains(error, l.endpoint);
	assert_contains(error, "Connection refused");
	assert_contains(error, "does kekd run there");
	close(l.fd);
}

static void
of_several_endpoints_the_first_failure_is_told(void **state)
{
	struct listener a = listener_open(false), b = listener_open(false);
	const char *const endpoints[] = { a.endpoint, b.endpoint };
	struct kekd_client_config config = config_of(endpoints, 2);
	char error[512] = "";

	(void)state;
	assert_int_equal(ask(&config, error), -ECONNREFUSED);
	assert_contains(error, a.endpoint);
	close(a.fd);
	close(b.fd);
}

static void
files_that_are_no_pem_are_told_as_such(void **state)
{
	struct listener l = listener_open(true);
	const char *endpoint = l.endpoint;
	struct kekd_client_config config = config_of(&endpoint, 1);
	char error[512] = "";

	(void)state;
	assert_int_equal(ask(&config, error), -EPROTO);
	assert_contains(error, "PEM");
	close(l.fd);
}

static void
a_request_longer_than_its_buffer_is_refused(void **state)
{
	const char *endpoint = "https://127.0.0.1:1";
	struct kekd_client_config config = config_of(&endpoint, 1);
	struct kekd_client *c = NULL;
	struct kekd_reply reply = { 0 };
	char error[512] = "", path[4096];

	(void)state;
	memset(path, 'a', sizeof(path));
	path[0] = '/';
	path[sizeof(path) - 1] = '\0';
	assert_int_equal(kekd_client_open(&config, &c, error), 0);
	assert_int_equal(
		kekd_client_request(c, "GET", path, NULL, NULL, NULL, &reply, error), -EINVAL);
	kekd_client_freep(&c);
}

static void
a_reply_is_empty_after_it_was_freed(void **state)
{
	struct kekd_reply reply = { .status = 200, .body = BUF_INIT(10), .json = json_object() };

	(void)state;
	buf_str(&reply.body, "x");
	kekd_reply_free(&reply);
	assert_null(reply.json);
	assert_int_equal(reply.body.len, 0);
	assert_int_equal(reply.status, 0);
	kekd_reply_free(&reply);
}

/* ---- a request with more said about it ---- */

static const char *
which(const struct listener *listeners, size_t count, const char *error)
{
	for (size_t i = 0; i < count; i++)
		if (strstr(error, listeners[i].endpoint))
			return listeners[i].endpoint;
	return "none";
}

static int
ask_more(struct kekd_client *c, struct kekd_ask *more, char ret_error[512])
{
	struct kekd_reply reply = { 0 };

	return kekd_client_ask(c, "GET", "/v1/status", NULL, more, &reply, ret_error);
}

static void
the_endpoint_that_was_chosen_is_asked_first_or_alone(void **state)
{
	const struct listener l[] = { listener_open(false), listener_open(false),
		listener_open(false) };
	const char *const endpoints[] = { l[0].endpoint, l[1].endpoint, l[2].endpoint };
	struct kekd_client_config config = config_of(endpoints, 3);
	struct kekd_ask alone = { .chosen = true, .alone = true, .first = 2 },
			first = { .chosen = true, .first = 1 },
			none = { .chosen = true, .first = 3 };
	struct kekd_client *c = NULL;
	char error[512] = "";

	(void)state;
	assert_int_equal(kekd_client_open(&config, &c, error), 0);
	assert_int_equal(ask_more(c, &alone, error), -ECONNREFUSED);
	assert_string_equal(which(l, 3, error), l[2].endpoint);
	assert_int_equal(atomic_load(&alone.endpoint), 2);
	assert_int_equal(alone.passed_over, 0);
	assert_int_equal(ask_more(c, &first, error), -ECONNREFUSED);
	assert_string_equal(which(l, 3, error), l[1].endpoint);
	assert_int_equal(first.passed_over, 2);
	assert_int_equal(ask_more(c, &none, error), -EINVAL);
	kekd_client_freep(&c);
	for (size_t i = 0; i < 3; i++)
		close(l[i].fd);
}

static void
an_endpoint_that_failed_lately_is_asked_last(void **state)
{
	const struct listener l[] = { listener_open(false), listener_open(false) };
	const char *const endpoints[] = { l[0].endpoint, l[1].endpoint };
	struct kekd_client_config config = config_of(endpoints, 2);
	struct kekd_health health = { 0 };
	struct kekd_ask plain = { 0 };
	struct kekd_client *c = NULL;
	char error[512] = "";

	(void)state;
	config.health = &health;
	assert_int_equal(kekd_client_open(&config, &c, error), 0);
	kekd_health_failed(&health, 0);
	assert_int_equal(ask_more(c, &plain, error), -ECONNREFUSED);
	assert_string_equal(which(l, 2, error), l[1].endpoint);
	assert_true(atomic_load(&health.away_until_ns[1]) > clock_boot_ns());
	kekd_health_answered(&health, 0);
	assert_int_equal(ask_more(c, &plain, error), -ECONNREFUSED);
	assert_string_equal(which(l, 2, error), l[0].endpoint);
	kekd_client_freep(&c);
	close(l[0].fd);
	close(l[1].fd);
}

struct waker {
	struct kekd_client *client;
	atomic_bool aborted;
};

static void *
abort_soon(void *user)
{
	const struct timespec pause = { 0, 200 * 1000 * 1000 };
	struct waker *w = user;

	nanosleep(&pause, NULL);
	atomic_store(&w->aborted, true);
	kekd_client_wake(w->client);
	return NULL;
}

/* It connects, and waits for a handshake that does not come. */
static void
another_thread_ends_a_request_that_waits(void **state)
{
	struct listener l = listener_open(true);
	const char *endpoint = l.endpoint;
	struct kekd_client_config config = config_of(&endpoint, 1);
	struct waker w = { .aborted = false };
	uint64_t began = clock_boot_ns();
	struct kekd_ask more = { .deadline_ns = began + 20 * CLOCK_S, .aborted = &w.aborted };
	char error[512] = "", dir[] = "/tmp/kekd-client-XXXXXX";
	pthread_t thread;

	(void)state;
	assert_non_null(mkdtemp(dir));
	make_files(dir, &config);
	assert_int_equal(kekd_client_open(&config, &w.client, error), 0);
	assert_int_equal(pthread_create(&thread, NULL, abort_soon, &w), 0);
	assert_int_equal(ask_more(w.client, &more, error), -ECANCELED);
	assert_true(clock_boot_ns() - began < 5 * CLOCK_S);
	pthread_join(thread, NULL);
	kekd_client_freep(&w.client);
	drop_files(dir, &config);
	close(l.fd);
}

static unsigned taken, refused;

static void
on_reloaded(void *user, const char *fault)
{
	(void)user;
	if (fault)
		refused++;
	else
		taken++;
}

static void
ask_after_a_second(struct kekd_client *c)
{
	const struct timespec pause = { 1, 50 * 1000 * 1000 };
	struct kekd_ask plain = { 0 };
	char error[512];

	nanosleep(&pause, NULL);
	assert_int_equal(ask_more(c, &plain, error), -ECONNREFUSED);
}

static void
files_that_change_are_taken_when_they_can_be_used(void **state)
{
	struct listener l = listener_open(false);
	const char *endpoint = l.endpoint;
	struct kekd_client_config config = config_of(&endpoint, 1);
	struct kekd_client *c = NULL;
	char error[512] = "", dir[] = "/tmp/kekd-client-XXXXXX";

	(void)state;
	assert_non_null(mkdtemp(dir));
	make_files(dir, &config);
	config.reload = true;
	config.reloaded = on_reloaded;
	assert_int_equal(kekd_client_open(&config, &c, error), 0);
	assert_true(kekd_client_certificate_ends_s(c) > clock_real_us() / 1000000);
	ask_after_a_second(c);
	assert_int_equal(taken + refused, 0);
	put_file(config.certificate, "not a certificate\n");
	ask_after_a_second(c);
	assert_int_equal(refused, 1);
	ask_after_a_second(c);
	assert_int_equal(taken, 0);
	assert_int_equal(refused, 1);
	drop_files(dir, &config);
	assert_int_equal(mkdir(dir, 0700), 0);
	make_files(dir, &config);
	ask_after_a_second(c);
	assert_int_equal(taken, 1);
	assert_int_equal(refused, 1);
	kekd_client_freep(&c);
	drop_files(dir, &config);
	close(l.fd);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_file_that_is_missing_is_named_before_anything_is_asked),
		cmocka_unit_test(an_endpoint_without_tls_is_refused),
		cmocka_unit_test(no_endpoint_at_all_is_refused),
		cmocka_unit_test(a_refused_connection_names_endpoint_and_remedy),
		cmocka_unit_test(of_several_endpoints_the_first_failure_is_told),
		cmocka_unit_test(files_that_are_no_pem_are_told_as_such),
		cmocka_unit_test(a_request_longer_than_its_buffer_is_refused),
		cmocka_unit_test(a_reply_is_empty_after_it_was_freed),
		cmocka_unit_test(the_endpoint_that_was_chosen_is_asked_first_or_alone),
		cmocka_unit_test(an_endpoint_that_failed_lately_is_asked_last),
		cmocka_unit_test(another_thread_ends_a_request_that_waits),
		cmocka_unit_test(files_that_change_are_taken_when_they_can_be_used),
	};

	json_open();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
