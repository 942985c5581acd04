/* SPDX-License-Identifier: Apache-2.0 */
/*
 * HTTP for a scraper and a liveness probe on this host: GET /metrics and GET /health, on a loopback
 * port or a unix socket.
 */
#ifndef KEKD_KMS_METRICS_HTTP_H
#define KEKD_KMS_METRICS_HTTP_H

#include "config.h"
#include "socket.h"

#include "kekd/buf.h"

struct kms_metrics_http;

struct kms_metrics_source {
	void (*metrics)(void *user, struct buf *out);	   /* any thread */
	bool (*healthy)(void *user, char ret_reason[512]); /* any thread */
	void *user;
};

/* Opens what config's `metrics` says; does nothing without. The socket has the mode and owner of
 * the plugin's own. 0 or a negative error, logged. Before any thread. */
int kms_metrics_http_listen(const struct kms_config *config, struct kms_socket *ret_socket);
/* Serves it in a thread of its own. The socket stays the caller's. */
int kms_metrics_http_open(const struct kms_socket *socket, const struct kms_metrics_source *source,
	struct kms_metrics_http **ret_http);
void kms_metrics_http_freep(struct kms_metrics_http **h);

#endif
