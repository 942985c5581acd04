/* SPDX-License-Identifier: Apache-2.0 */
/* See connections.h. */
#include "connections.h"

#include "kekd/metrics.h"

#include <sys/stat.h>

void
kms_connections_sweep(struct kms_connections *c)
{
	unsigned kept = 0;

	for (unsigned i = 0; i < c->count; i++) {
		struct stat st;

		if (fstat(c->open[i].fd, &st) == 0 && S_ISSOCK(st.st_mode) &&
			st.st_ino == c->open[i].inode)
			c->open[kept++] = c->open[i];
	}
	c->count = kept;
	atomic_store(&c->open_count, kept);
}

bool
kms_connections_add(struct kms_connections *c, int fd)
{
	struct stat st;

	kms_connections_sweep(c);
	if (c->count == KMS_CONNECTIONS_MAX || fstat(fd, &st) < 0)
		return false;
	c->open[c->count].fd = fd;
	c->open[c->count].inode = st.st_ino;
	atomic_store(&c->open_count, ++c->count);
	metrics_add(&c->accepted, 1);
	return true;
}

void
kms_connections_metrics(struct kms_connections *c, struct buf *out)
{
	struct metrics_text t = { .out = out };

	metrics_family(&t, "kekd_kms_connections", METRICS_GAUGE, "Connections of API servers.");
	metrics_number(&t, metrics_read(&c->open_count), NULL);
	metrics_family(&t, "kekd_kms_connections_total", METRICS_COUNTER,
		"Connections to the plugin's socket.");
	metrics_number(&t, metrics_read(&c->accepted), "result", "accepted", NULL);
	metrics_number(&t, metrics_read(&c->refused), "result", "refused", NULL);
}
