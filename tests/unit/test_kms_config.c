/* SPDX-License-Identifier: Apache-2.0 */
/* kekd-kms.yaml: what is good is taken with its defaults, every fault is named with its line. */
#include "../../src/kms/config.h"
#include "config_site.h"

#include "kekd/clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char good[] = "provider: kekd\n"			 /* 1 */
			   "cluster: prod-1\n"			 /* 2 */
			   "key: kubernetes\n"			 /* 3 */
			   "endpoints:\n"			 /* 4 */
			   "  - https://kek1.example.org:7373\n" /* 5 */
			   "  - https://[2001:db8::1]:7373\n"	 /* 6 */
			   "ca: ca.pem\n"			 /* 7 */
			   "certificate: client.pem\n"		 /* 8 */
			   "certificate_key: client.key\n";	 /* 9 */

static int
set_up(void **state)
{
	struct site *s = site_make("kekd-kms.yaml");

	site_write(s, "ca.pem", "a CA\n", 0644);
	site_write(s, "client.pem", "a certificate\n", 0644);
	site_write(s, "client.key", "a key\n", 0600);
	*state = s;
	return 0;
}

static int
tear_down(void **state)
{
	site_remove(*state);
	return 0;
}

static struct kms_config *
read_text(struct site *s, const char *text)
{
	struct kms_config *c = NULL;
	FILE *out = site_configure(s, text);
	int err = kms_config_read_to(s->config, out, &c);

	fclose(out);
	assert_true((err == 0) == (c != NULL));
	return c;
}

/* good, with one of its lines (from 1) replaced; 0: with one more. */
static void
with_line(char text[2048], unsigned number, const char *line)
{
	const char *p = good;

	text[0] = '\0';
	for (unsigned n = 1; *p; n++) {
		const char *end = strchr(p, '\n') + 1;
		if (n == number)
			strcat(text, line);
		else
			strncat(text, p, (size_t)(end - p));
		p = end;
	}
	if (number == 0)
		strcat(text, line);
}

static void
test_defaults_are_filled_in(void **state)
{
	struct site *s = *state;
	struct kms_config *c = read_text(s, good);
	char path[128];

	assert_non_null(c);
	assert_string_equal(s->output, "");
	assert_string_equal(c->provider, "kekd");
	assert_string_equal(c->cluster, "prod-1");
	assert_string_equal(c->key, "kubernetes");
	assert_int_equal(c->endpoints_count, 2);
	assert_string_equal(c->endpoints[1], "https://[2001:db8::1]:7373");
	snprintf(path, sizeof(path), "%s/client.key", s->dir);
	assert_string_equal(c->certificate_key, path);
	assert_string_equal(c->path, s->config);
	assert_string_equal(c->socket, "/run/kekd-kms/kms.sock");
	assert_int_equal(c->socket_mode, 0600);
	assert_int_equal(c->socket_uid, (uid_t)-1);
	assert_int_equal(c->socket_gid, (gid_t)-1);
	assert_string_equal(c->state_dir, "/var/lib/kekd-kms");
	assert_null(c->metrics);
	assert_int_equal(c->probe_every_ns, 10 * CLOCK_S);
	assert_int_equal(c->timeout_ns, 2800 * CLOCK_MS);
	kms_config_freep(&c);
}

static void
test_all_settings_are_taken(void **state)
{
	struct site *s = *state;
	char text[2048], path[128];
	struct kms_config *c;

	with_line(text, 0,
		"socket:\n  path: kms.sock\n  mode: \"0660\"\n  owner: root\n  group: \"123\"\n"
		"state_dir: state\nmetrics: \"[::1]:7374\"\nprobe: 500ms\ntimeout: 1s\n");
	c = read_text(s, text);
	assert_non_null(c);
	snprintf(path, sizeof(path), "%s/kms.sock", s->dir);
	assert_string_equal(c->socket, path);
	assert_int_equal(c->socket_mode, 0660);
	assert_int_equal(c->socket_uid, 0);
	assert_int_equal(c->socket_gid, 123);
	assert_string_equal(c->metrics, "[::1]:7374");
	assert_int_equal(c->probe_every_ns, 500 * CLOCK_MS);
	assert_int_equal(c->timeout_ns, CLOCK_S);
	kms_config_freep(&c);
}

static const struct fault {
	unsigned replaced; /* line of good; 0: one more */
	const char *line;
	unsigned said; /* the finding's line */
	const char *text;
} faults[] = {
	{ 1, "", 1, "provider is missing" },
	{ 1, "provider: \"a:b\"\n", 1, "no name that Kubernetes takes" },
	{ 1, "provider: \"a b\"\n", 1, "no name that Kubernetes takes" },
	{ 1, "provider:\n", 1, "provider: it has no value" },
	{ 2, "", 1, "cluster is missing" },
	{ 2, "cluster: \"x:y\"\n", 2, "cluster \"x:y\" is no name" },
	{ 3, "key: Upper\n", 3, "no key's name" },
	{ 3, "key: [ a ]\n", 3, "key: a single value is needed" },
	{ 5, "  - http://kek1:7373\n", 5, "is not https://HOST:PORT" },
	{ 5, "  - https://kek1\n", 5, "is not https://HOST:PORT" },
	{ 6, "  - https://kek1.example.org:7373\n", 6, "given twice" },
	{ 6, "  - https://kek1.example.org:7373/v1\n", 6, "is not https://HOST:PORT" },
	{ 6, "  - https://kek1.example.org:70000\n", 6, "is not https://HOST:PORT" },
	{ 6, "  - https://me@kek1.example.org:7373\n", 6, "is not https://HOST:PORT" },
	{ 7, "ca: nowhere.pem\n", 7, "cannot be read" },
	{ 7, "ca: .\n", 7, "is not a file" },
	{ 8, "", 1, "certificate is missing" },
	{ 9, "certificate-key: client.key\n", 9, "\"certificate-key\" is not known" },
	{ 0, "key: again\n", 10, "\"key\" is given twice" },
	{ 0, "socket:\n  mode: \"0666\"\n", 11, "lets everybody" },
	{ 0, "socket:\n  mode: \"0400\"\n", 11, "does not let the owner connect" },
	{ 0, "socket:\n  mode: rw\n", 11, "is no mode" },
	{ 0, "socket:\n  mode: \"0680\"\n", 11, "is no mode" },
	{ 0, "socket:\n  owner: nobody-of-this-name\n", 11, "there is no user" },
	{ 0, "socket:\n  group: nobody-of-this-name\n", 11, "there is no group" },
	{ 0, "socket:\n  user: root\n", 11, "\"user\" is not known" },
	{ 0, "socket: kms.sock\n", 10, "socket: settings are needed" },
	{ 0,
		"socket:\n  path: /0123456789012345678901234567890123456789012345678901234567890123"
		"45678901234567890123456789012345678901234567890\n",
		11, "at most 107" },
	{ 0, "state_dir: ca.pem\n", 10, "is not a directory" },
	{ 0, "metrics: 0.0.0.0:7374\n", 10, "neither a loopback address nor a socket" },
	{ 0, "metrics: localhost:7374\n", 10, "neither a loopback address nor a socket" },
	{ 0, "metrics: 127.0.0.1:0\n", 10, "neither a loopback address nor a socket" },
	{ 0, "metrics: \"unix:kms.metrics\"\n", 10, "neither a loopback address nor a socket" },
	{ 0, "metrics: \"unix:/run/kekd-kms/kms.sock\"\n", 10, "is socket.path already" },
	{ 0, "probe: 10\n", 10, "is no duration" },
	{ 0, "probe: 1h\n", 10, "is no duration" },
	{ 0, "probe: 2m\n", 10, "is no duration from 100 ms to 60 s" },
	{ 0, "timeout: -5s\n", 10, "is no duration" },
	{ 0, "timeout: 18446744073709551615s\n", 10, "is no duration" },
	{ 0, "\tx: y\n", 10, "not YAML" },
	{ 0, "---\ncluster: other\n", 10, "a second document" },
	{ 0, "a.b: c\n", 10, "the setting \"a.b\" is not known" },
	{ 0, "socket:\n  mode: \"0600\"\nmode: \"0600\"\n", 12, "\"mode\" is not known" },
	{ 0, "socket:\n  key: a\n", 11, "\"key\" is not known" },
	{ 0, "socket:\n  path: a\n  path: b\n", 12, "\"path\" is given twice" },
	{ 0, "? [a, b]\n: c\n", 10, "a key must be a word" },
	{ 0, "\"metrics\\0\": a\n", 10, "a key must be a word" },
	{ 2, "cluster: \"prod-1\\0-old\"\n", 2, "a value has a NUL in it" },
	{ 5, "  - \"https://kek1.example.org:7373\\0/\"\n", 5, "a value has a NUL in it" },
	{ 0, "x: [[[[[[[[[[[[a]]]]]]]]]]]]\n", 10, "it is nested too deeply" },
	{ 0, "metrics: *nothing\n", 10, "metrics: No anchor found" },
	{ 0, "<<: {a: b}\n", 10, "\"<<\" is not known" },
	{ 0, "socket:\n\tpath: x\n", 11, "not YAML" },
	{ 0, "metrics: \xe9\n", 1, "not YAML" },
	{ 5, "  - {a: b}\n", 5, "a single value is needed" },
	{ 5, "  - ''\n", 5, "it has no value" },
	{ 6,
		"  - a\n  - b\n  - c\n  - d\n  - e\n  - f\n  - g\n  - h\n  - i\n  - j\n  - k\n"
		"  - l\n  - m\n  - n\n  - o\n  - p\n  - q\n",
		21, "too many entries" },
};

static void
test_every_fault_is_named_with_its_line(void **state)
{
	struct site *s = *state;
	char text[2048], start[128];

	for (size_t i = 0; i < sizeof(faults) / sizeof(*faults); i++) {
		with_line(text, faults[i].replaced, faults[i].line);
		assert_null(read_text(s, text));
		snprintf(start, sizeof(start), "%s:%u: ", s->config, faults[i].said);
		if (!strstr(s->output, start) || !strstr(s->output, faults[i].text))
			fail_msg("%s gave: %s", faults[i].line, s->output);
	}
}

static void
test_all_faults_are_told_at_once(void **state)
{
	struct site *s = *state;

	assert_null(read_text(s, ""));
	assert_non_null(strstr(s->output, "provider is missing"));
	assert_non_null(strstr(s->output, "cluster is missing"));
	assert_non_null(strstr(s->output, "endpoints is missing"));
	assert_non_null(strstr(s->output, "certificate_key is missing"));
}

static void
test_a_key_for_everybody_is_a_fault(void **state)
{
	struct site *s = *state;

	site_write(s, "client.key", "a key\n", 0644);
	assert_null(read_text(s, good));
	assert_non_null(strstr(s->output, ":9: everybody can reach the private key"));
	assert_non_null(strstr(s->output, "chmod 600"));
}

static void
test_a_file_that_is_not_there_is_said(void **state)
{
	struct kms_config *c;

	(void)state;
	assert_int_not_equal(kms_config_read("/nowhere/kekd-kms.yaml", &c), 0);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_defaults_are_filled_in),
		TEST(test_all_settings_are_taken),
		TEST(test_every_fault_is_named_with_its_line),
		TEST(test_all_faults_are_told_at_once),
		TEST(test_a_key_for_everybody_is_a_fault),
		TEST(test_a_file_that_is_not_there_is_said),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
