/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the parent and its children say to each other, and the descriptors that a child is born
 * with. Messages are fixed-size structs over SOCK_SEQPACKET pairs that the parent made; both ends
 * are the same build.
 */
#ifndef KEKD_CONTROL_H
#define KEKD_CONTROL_H

#include <stdint.h>

/* Descriptors of every child. */
enum child_fd {
	CHILD_FD_PART = 3,    /* JSON, read to the end, then closed */
	CHILD_FD_CONTROL = 4, /* SOCK_SEQPACKET to the parent */
	/* kekd-net: the listening sockets, in the configuration's order, are 5, 6, …; their number
	 * is in the message below. kekd-hsm: */
	CHILD_FD_BACKUP = 5, /* kekd-net with NET_RESTORE or NET_DRILL: the file */
	CHILD_FD_NET = 5,    /* SOCK_SEQPACKET to kekd-net: frames */
	CHILD_FD_PIN = 6,    /* the PIN source, opened for reading by the parent */
	CHILD_FD_STATE =
		7, /* directory of hsm.state_dir (O_PATH is not enough: O_DIRECTORY|O_RDONLY) */
	CHILD_FD_KEY = 8, /* 32 bytes, read to the end, then closed: the key under which a DEK
			     crosses between two tokens */
};

enum control_kind {
	/* parent → kekd-net */
	CONTROL_LISTEN = 1, /* once, first: `count` listening sockets from descriptor 5 on */
	CONTROL_WORKER,	    /* one descriptor by SCM_RIGHTS: the socket to worker `worker` of token
			       `token` */
	CONTROL_STOP,	    /* drain, then end with EXIT_OK (SIGTERM says the same) */
	CONTROL_RELOAD,	    /* SIGHUP came: the descriptor reads as a new part of the configuration;
				 it is answered with the same `count` */
	CONTROL_RELOAD_BAD, /* SIGHUP came, and the configuration has faults: the descriptor reads
			       as their text; nothing changes */
	/* kekd-net → parent */
	CONTROL_READY,	   /* serving: the first start is over */
	CONTROL_RELOADED,  /* the part of reload `count` is in force (token 1) or refused (token 0)
			    */
	CONTROL_KILL,	   /* worker `worker` of `token` hangs: kill and restart it */
	CONTROL_RETRY_PIN, /* an administrator lets a worker of `token` try its PIN once more */
	/* kekd-hsm → parent */
	CONTROL_LOGGED_IN, /* the next worker may log in */
};

struct control_message {
	uint32_t kind;
	uint32_t token; /* index in the configuration's order */
	uint32_t worker;
	uint32_t count;
};

/* Exit statuses of the children (and of kekd itself). */
enum child_exit {
	CHILD_EXIT_OK = 0,
	CHILD_EXIT_FAILED = 1, /* restart with back-off */
	CHILD_EXIT_USAGE = 2,
	CHILD_EXIT_PIN = 76, /* the PIN was refused (now or before): no restart until the PIN source
				changes */
	CHILD_EXIT_OPERATOR = 78 /* cannot work until an operator acts (no cluster, bad part …):
				  * kekd-net: the parent ends with the same status; a worker (no
				  * such token): restart with the longest back-off */
};

/* Sends one message, with fd unless -1. 0 or -errno. */
int control_send(int sock, const struct control_message *m, int fd);
/* The same without a descriptor, and never waits: -EAGAIN when the socket is full. */
int control_try_send(int sock, const struct control_message *m);
/* Waits for one message. *ret_fd is -1 without one. 0, -EPIPE at the end, or -errno. */
int control_receive(int sock, struct control_message *ret_message, int *ret_fd);

#endif
