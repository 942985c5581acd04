/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libkekdclient without a server: what it refuses to start with, and what it says of a server that
 * is not there. With one, tests/system/ tells.
 */
#include "kekd/client.h"

#include "kekd/json.h"
#include "kekd/str.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
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
	};

	json_open();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
