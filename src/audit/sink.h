/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The second sink: what is durable in the log is told to a receiver on this host as well, in
 * datagrams. It has its own thread, queue and deadline: a receiver that is slow, stuck or gone
 * loses records, which are counted, and never delays the log.
 */
#ifndef KEKD_AUDIT_SINK_H
#define KEKD_AUDIT_SINK_H

#include "kekd/audit.h"

struct sink;
/* spec: "syslog", "journal" or "json:/PATH", or the first two with a path of their own. Makes its
 * socket, which no later filter of system calls would let it do. 0 or -errno. */
int sink_open(const char *spec, struct sink **ret_sink);
void sink_freep(struct sink **s); /* sends what is queued, for at most a second */
/* Whole lines of the log, each with its newline; copied. Never blocks. */
void sink_put(struct sink *s, const void *lines, size_t len);
void sink_status(struct sink *s, struct audit_sink_status *ret_status);

#endif
