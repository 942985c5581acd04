/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unix sockets to listen on: our own, with mode and owner from the first moment, or the service
 * manager's, which stays open over restarts. A path is taken from nobody: neither from a program
 * that answers there nor from a file that is no socket. Main thread.
 */
#ifndef KEKD_KMS_SOCKET_H
#define KEKD_KMS_SOCKET_H

#include <stdbool.h>
#include <sys/types.h>

#define KMS_SOCKET_PATH_MAX 107 /* of the kernel */

struct kms_socket_config {
	const char *path; /* absolute */
	mode_t mode;
	uid_t uid; /* (uid_t)-1, (gid_t)-1: as the process */
	gid_t gid;
};

struct kms_socket {
	int fd; /* listening; does not block */
	char path[KMS_SOCKET_PATH_MAX + 1];
	bool ours; /* else the service manager's */
	dev_t device;
	ino_t inode;
};
#define KMS_SOCKET_INIT ((struct kms_socket){ .fd = -1 })

/* setting: names it in messages. 0 or a negative error, logged with a remedy. Before any thread:
 * it changes the umask for a moment. */
int kms_socket_bind(
	const struct kms_socket_config *config, const char *setting, struct kms_socket *ret_socket);
/* The one that the service manager passed (LISTEN_FDS); 1 when there was one, 0 when there is
 * none, or a negative error, logged. Takes the variables out of the environment. */
int kms_socket_inherit(struct kms_socket *ret_socket);
/* Other mode and owner of one that is ours. 0 or a negative error, logged. */
int kms_socket_own(const struct kms_socket *s, const struct kms_socket_config *config);
/* Does the path still lead to it? Whoever connects anew goes by that. */
bool kms_socket_is_there(const struct kms_socket *s);
/* Closes it, and removes the path if it is ours and still names this socket. */
void kms_socket_close(struct kms_socket *s);

/* May this peer of a connection speak? root, ourselves, the socket's owner; and its group where
 * the mode lets it in. Describes it either way. */
bool kms_socket_admits(const struct kms_socket *s, int connection, char ret_peer[128]);

#endif
