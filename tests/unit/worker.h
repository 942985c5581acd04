/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A real worker on a real SoftHSM token, for tests that need one: kekd-hsm as kekd starts it, with
 * a token directory of its own. Failures fail the test.
 */
#ifndef TESTS_WORKER_H
#define TESTS_WORKER_H

#include "kekd/hsm.h"

#include <sys/types.h>

#define WORKER_TOKEN "main" /* the logical token */

struct test_worker {
	char dir[64];
	pid_t pid;   /* of kekd-hsm; 0: not running */
	int control; /* its parent's end */
	struct hsm *hsm;
};

void worker_make_token(struct test_worker *w);	 /* an empty one; also sets SOFTHSM2_CONF */
void worker_start(struct test_worker *w);	 /* returns when it is ready */
void worker_stop(struct test_worker *w);	 /* the token stays */
void worker_remove_token(struct test_worker *w); /* stops first */

#endif
