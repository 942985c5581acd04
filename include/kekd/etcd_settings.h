/* SPDX-License-Identifier: Apache-2.0 */
/* How etcd is reached, as the configuration's `store` has it. What is done with it: etcd.h. */
#ifndef KEKD_ETCD_SETTINGS_H
#define KEKD_ETCD_SETTINGS_H

#include <stddef.h>

struct etcd_counts; /* etcd.h */

/* Borrowed by whoever is handed it: all of it outlives every user. */
struct etcd_settings {
	const char *const *endpoints; /* "https://HOST:PORT"; NULL: the store is SQLite */
	size_t endpoints_count;
	const char *ca;		       /* PEM; NULL: the system's */
	const char *certificate, *key; /* PEM; both or neither */
	const char *user;	       /* or NULL */
	const char *password_file;     /* with user; its first line */
	const char *cluster;	       /* every key is under "/kekd/CLUSTER/" */
	unsigned timeout_ms;	       /* of one call, over all endpoints; at least 1 */
	struct etcd_counts *counts;    /* what all handles add to, or NULL */
};

#endif
