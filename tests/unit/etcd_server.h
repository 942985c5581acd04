/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A real etcd for tests: one member or several on free ports of 127.0.0.1, in a directory of its
 * own that goes with it. A member ends with the test's process, however that ends.
 */
#ifndef ETCD_SERVER_H
#define ETCD_SERVER_H

#include "kekd/etcd_settings.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define ETCD_MEMBERS_MAX 3

struct etcd_member {
	pid_t pid; /* 0: not running */
	unsigned port, peer_port;
	char url[64];
};

struct etcd_servers {
	char dir[64];
	size_t count;
	bool tls; /* DIR/ca.pem, client.pem and client.key are for clients */
	struct etcd_member members[ETCD_MEMBERS_MAX];
};

bool etcd_installed(void);
/* Returns when etcd answers; fails the test when it does not. */
void etcd_servers_start(struct etcd_servers *s, size_t count, bool tls);
void etcd_servers_stop(struct etcd_servers *s); /* may be all zero */
/* SIGKILL and SIGTERM wait for its end, SIGSTOP until it stands still. */
void etcd_member_signal(struct etcd_servers *s, size_t i, int signal);
void etcd_member_start(struct etcd_servers *s, size_t i); /* again, with what it had */
void etcd_servers_wait(struct etcd_servers *s);		  /* until etcd answers, without users */
/* `etcdctl --endpoints … ARGUMENTS`, for what kekd itself never does. The exit status. */
int etcd_ctl(const struct etcd_servers *s, const char *arguments);
/* Users root and kekd with this password; kekd may read and write below /kekd/test/ and nothing
 * else, as doc/operations.md has it. Not switched on: `etcd_ctl(s, "auth enable")`. */
void etcd_servers_make_users(const struct etcd_servers *s, const char *password);
/* DIR/password. */
void etcd_servers_write_password(const struct etcd_servers *s, const char *password);
/* Settings with all members, or one alone; the places are the caller's. */
struct etcd_settings etcd_servers_settings(
	const struct etcd_servers *s, const char *endpoints[ETCD_MEMBERS_MAX]);

#endif
