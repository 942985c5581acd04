/* SPDX-License-Identifier: Apache-2.0 */
/* What the kernel says of this process, from /proc. Any thread. */
#ifndef KEKD_PROCESS_H
#define KEKD_PROCESS_H

#include <stdint.h>

struct process_usage {
	double cpu_s; /* user and system */
	uint64_t virtual_bytes, resident_bytes;
	uint64_t threads, open_fds, max_fds;
};

/* What cannot be read is 0. */
void process_usage(struct process_usage *ret_usage);

#endif
