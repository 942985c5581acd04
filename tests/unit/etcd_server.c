/* SPDX-License-Identifier: Apache-2.0 */
/* Starts and stops the real etcd for tests. */
#include "etcd_server.h"

#include "kekd/clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
/* cmocka.h needs the four above it. */
#include <cmocka.h>

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define START_S 30

static int
shell(const char *format, ...)
{
	char command[4096];
	va_list ap;
	int status;

	va_start(ap, format);
	vsnprintf(command, sizeof(command), format, ap);
	va_end(ap);
	status = system(command);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

bool
etcd_installed(void)
{
	return shell("command -v etcd >/dev/null && command -v etcdctl >/dev/null") == 0;
}

/* Two at once are two different ones: the sockets are closed together. */
static void
free_ports(unsigned *ports, size_t count)
{
	int fds[2 * ETCD_MEMBERS_MAX];

	for (size_t i = 0; i < count; i++) {
		struct sockaddr_in a = { .sin_family = AF_INET };
		socklen_t len = sizeof(a);

		a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		assert_int_equal(bind(fds[i], (struct sockaddr *)&a, sizeof(a)), 0);
		assert_int_equal(getsockname(fds[i], (struct sockaddr *)&a, &len), 0);
		ports[i] = ntohs(a.sin_port);
	}
	for (size_t i = 0; i < count; i++)
		close(fds[i]);
}

/* Each leaf is for servers on 127.0.0.1 and for clients. */
static void
make_certificates(const char *dir)
{
	static const char *const names[] = { "server", "client" };

	assert_int_equal(
		shell("cd %s && openssl req -x509 -newkey ec -pkeyopt "
		      "ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem -subj /CN=ca "
		      "-days 2 2>openssl.log",
			dir),
		0);
	for (size_t i = 0; i < 2; i++)
		assert_int_equal(
			shell("cd %s && printf 'subjectAltName=IP:127.0.0.1,DNS:localhost\\n"
			      "extendedKeyUsage=serverAuth,clientAuth\\n' >ext && openssl req "
			      "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout %s.key "
			      "-out csr -subj / 2>openssl.log && openssl x509 -req -in csr -CA "
			      "ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out "
			      "%s.pem 2>openssl.log",
				dir, names[i], names[i]),
			0);
}

static void
initial_cluster(const struct etcd_servers *s, char *ret_text, size_t size)
{
	size_t n = 0;

	for (size_t i = 0; i < s->count; i++)
		n += (size_t)snprintf(ret_text + n, size - n, "%sm%zu=http://127.0.0.1:%u",
			i ? "," : "", i, s->members[i].peer_port);
}

static void
run_etcd(const struct etcd_servers *s, size_t i, pid_t parent)
{
	const struct etcd_member *m = &s->members[i];
	char dir[96], log[96], name[8], peer[64], cluster[256], cert[96], key[96], ca[96];
	int fd;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(1);
	snprintf(dir, sizeof(dir), "%s/m%zu", s->dir, i);
	snprintf(log, sizeof(log), "%s/m%zu.log", s->dir, i);
	snprintf(name, sizeof(name), "m%zu", i);
	snprintf(peer, sizeof(peer), "http://127.0.0.1:%u", m->peer_port);
	snprintf(cert, sizeof(cert), "--cert-file=%s/server.pem", s->dir);
	snprintf(key, sizeof(key), "--key-file=%s/server.key", s->dir);
	snprintf(ca, sizeof(ca), "--trusted-ca-file=%s/ca.pem", s->dir);
	initial_cluster(s, cluster, sizeof(cluster));
	fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
	dup2(fd, 1);
	dup2(fd, 2);
	execlp("etcd", "etcd", "--name", name, "--data-dir", dir, "--listen-client-urls", m->url,
		"--advertise-client-urls", m->url, "--listen-peer-urls", peer,
		"--initial-advertise-peer-urls", peer, "--initial-cluster", cluster,
		"--heartbeat-interval", "50", "--election-timeout", "500", "--logger", "zap",
		s->tls ? cert : NULL, key, ca, "--client-cert-auth", NULL);
	_exit(127);
}

void
etcd_member_start(struct etcd_servers *s, size_t i)
{
	pid_t parent = getpid();

	s->members[i].pid = fork();
	assert_true(s->members[i].pid >= 0);
	if (s->members[i].pid == 0)
		run_etcd(s, i, parent);
}

void
etcd_member_signal(struct etcd_servers *s, size_t i, int signal)
{
	struct etcd_member *m = &s->members[i];

	if (m->pid == 0)
		return;
	kill(m->pid, signal);
	if (signal == SIGSTOP)
		waitpid(m->pid, NULL, WUNTRACED); /* its threads run on for a moment */
	if (signal != SIGKILL && signal != SIGTERM)
		return;
	waitpid(m->pid, NULL, 0);
	m->pid = 0;
}

static void
endpoints_text(const struct etcd_servers *s, char *ret_text, size_t size)
{
	size_t n = 0;

	for (size_t i = 0; i < s->count; i++)
		n += (size_t)snprintf(
			ret_text + n, size - n, "%s%s", i ? "," : "", s->members[i].url);
}

int
etcd_ctl(const struct etcd_servers *s, const char *arguments)
{
	char tls[256] = "", endpoints[256];

	endpoints_text(s, endpoints, sizeof(endpoints));
	if (s->tls)
		snprintf(tls, sizeof(tls),
			"--cacert=%s/ca.pem --cert=%s/client.pem --key=%s/client.key", s->dir,
			s->dir, s->dir);
	return shell("ETCDCTL_API=3 etcdctl --endpoints %s %s %s >>%s/etcdctl.log 2>&1", endpoints,
		tls, arguments, s->dir);
}

void
etcd_servers_wait(struct etcd_servers *s)
{
	uint64_t deadline_ns = clock_boot_ns() + START_S * CLOCK_S;

	while (etcd_ctl(s, "get / --command-timeout=1s") != 0) {
		if (clock_boot_ns() > deadline_ns) {
			shell("tail -n 20 %s/*.log >&2", s->dir);
			fail_msg("etcd does not answer after %d s", START_S);
		}
		usleep(50000);
	}
}

void
etcd_servers_start(struct etcd_servers *s, size_t count, bool tls)
{
	unsigned ports[2 * ETCD_MEMBERS_MAX];

	*s = (struct etcd_servers){ .count = count, .tls = tls };
	/* In memory, where there is such a place: what is tested is not the disk. */
	snprintf(s->dir, sizeof(s->dir), "%s/kekd-etcd-XXXXXX",
		access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
	assert_non_null(mkdtemp(s->dir));
	free_ports(ports, 2 * count);
	if (tls)
		make_certificates(s->dir);
	for (size_t i = 0; i < count; i++) {
		s->members[i].port = ports[2 * i];
		s->members[i].peer_port = ports[2 * i + 1];
		snprintf(s->members[i].url, sizeof(s->members[i].url), "http%s://127.0.0.1:%u",
			tls ? "s" : "", s->members[i].port);
	}
	for (size_t i = 0; i < count; i++)
		etcd_member_start(s, i);
	etcd_servers_wait(s);
}

void
etcd_servers_stop(struct etcd_servers *s)
{
	for (size_t i = 0; i < s->count; i++)
		etcd_member_signal(s, i, SIGKILL);
	if (s->dir[0])
		shell("rm -rf %s", s->dir);
	*s = (struct etcd_servers){ 0 };
}

void
etcd_servers_write_password(const struct etcd_servers *s, const char *password)
{
	assert_int_equal(shell("umask 077; echo %s >%s/password", password, s->dir), 0);
}

void
etcd_servers_make_users(const struct etcd_servers *s, const char *password)
{
	static const char *const commands[] = { "user add root --interactive=false",
		"user grant-role root root", "user add kekd --interactive=false", "role add kekd",
		"role grant-permission kekd --prefix=true readwrite /kekd/test/",
		"user grant-role kekd kekd" };

	etcd_servers_write_password(s, password);
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		char text[256];
		snprintf(text, sizeof(text), "%s <%s/password", commands[i], s->dir);
		assert_int_equal(etcd_ctl(s, text), 0);
	}
}

struct etcd_settings
etcd_servers_settings(const struct etcd_servers *s, const char *endpoints[ETCD_MEMBERS_MAX])
{
	for (size_t i = 0; i < s->count; i++)
		endpoints[i] = s->members[i].url;
	return (struct etcd_settings){ .endpoints = endpoints,
		.endpoints_count = s->count,
		.cluster = "test",
		.timeout_ms = 2000 };
}
