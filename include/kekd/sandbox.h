/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a process gives up for good: rights, core dumps, being looked into, system calls. Which
 * calls each kind of process may make is a table in src/base/sandbox.c.
 */
#ifndef KEKD_SANDBOX_H
#define KEKD_SANDBOX_H

#include <stddef.h>
#include <stdint.h>

enum sandbox_who {
	SANDBOX_PARENT,
	SANDBOX_NET,
	SANDBOX_NET_ETCD, /* it makes connections */
	SANDBOX_WORKER,
	SANDBOX_WORKER_OFFLINE, /* its module has no business with the network */
	SANDBOX_KMS,		/* the Kubernetes plugin: it makes connections, too */
	SANDBOX_COUNT
};

/* First thing in main(): no core dump, no new privileges, nobody of the same user looks into it.
 * (Builds for sanitizers and coverage stay open to their tools.) */
void sandbox_harden(void);

/* The filter of system calls, for every thread of the process and for what it starts. 0, also where
 * the build or the kernel has none, which is logged; else a negative error, logged. */
int sandbox_enter(enum sandbox_who who);

/* The tables, for the test that tries each of their lines. */

enum sandbox_action { SANDBOX_ALLOW, SANDBOX_REFUSE, SANDBOX_KILL };
enum sandbox_match { SANDBOX_ALWAYS, SANDBOX_EQUAL, SANDBOX_BITS };

struct sandbox_set {
	enum sandbox_action action;
	const char
		*calls; /* names, with blanks between; those that the machine lacks are skipped */
	enum sandbox_match match;
	unsigned arg;	      /* of the call, from 0 */
	uint64_t mask, value; /* EQUAL: arg = value; BITS: arg & mask = value */
	int error;	      /* what a refused call answers; 0: EPERM */
};

/* The i-th set of a process' table, or NULL after the last. What no set names is allowed to the
 * parent and the workers, and answered with ENOSYS in kekd-net. */
const struct sandbox_set *sandbox_set(enum sandbox_who who, size_t i);

#endif
