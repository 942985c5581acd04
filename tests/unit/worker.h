/* SPDX-License-Identifier: Apache-2.0 */
/* A SoftHSM token in a directory of its own, and kekd-hsm started on it as kekd would. */
#ifndef KEKD_TESTS_WORKER_H
#define KEKD_TESTS_WORKER_H

#include "kekd/hsm.h"

#include <stdbool.h>
#include <sys/types.h>

#define SOFTHSM "/usr/lib/softhsm/libsofthsm2.so"
#define USER_PIN "648219"

struct lab {
	char dir[64];	   /* SOFTHSM2_CONF names what is in it */
	char state[80];	   /* hsm.state_dir */
	char logging[512]; /* the path of p11log.so */
};

/* Makes the directory and initialises a token with the label "unit". False: no SoftHSM here. */
bool lab_open(struct lab *ret_lab);
void lab_close(struct lab *lab);
int run_quietly(const char *const argv[]); /* the exit status */

struct start {
	const char *uri, *module, *pin; /* NULL: pkcs11:token=unit, SoftHSM, the right PIN */
	unsigned sessions;		/* 0: one */
};

struct child {
	pid_t pid;
	int net;     /* our end; -1 once it was given away */
	int control; /* our end */
};

struct child child_start(const struct lab *lab, const struct start *start);
int child_wait(struct child *c);	   /* closes net; the exit status, or -signal */
void child_kill(struct child *c, int sig); /* waits until it stopped, not until it ended */

/* A worker on the lab's token and kekd-net's side of it, ready; the logical token is LAB_TOKEN. The
 * test fails when it does not become ready. */
#define LAB_TOKEN "main"
struct hsm *lab_serve(const struct lab *lab, struct child *ret_child);
void lab_end(struct hsm **hsm, struct child *child);

#endif
