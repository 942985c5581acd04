/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What came in and how it ended, counted: requests and their times by operation and result, items
 * of batches, requests per client. Counting is a few relaxed additions to plain counters, without
 * lock or memory, on any thread: what was done is counted by the audit writer, which releases the
 * answers one after the other, so that there is hardly anybody to share a cache line with.
 *
 * Everything is bounded: operations are the routes' names, results the codes of err.h. Of clients
 * the first TRAFFIC_CLIENTS_MAX that send a request have counters of their own, and all others one
 * together.
 */
#ifndef KEKD_TRAFFIC_H
#define KEKD_TRAFFIC_H

#include "kekd/http.h"
#include "kekd/metrics.h"

#define TRAFFIC_CLIENTS_MAX 100
#define TRAFFIC_CODES (KEKD_ERR_END - KEKD_ERR_FIRST) /* 0: no error */

enum traffic_result {
	TRAFFIC_OK,
	TRAFFIC_REFUSED, /* status 400 to 499: the caller's to change */
	TRAFFIC_FAILED,	 /* status 500 and above: the server's */
	TRAFFIC_RESULTS
};

struct traffic;

/* routes: as in struct http_config. 0 or -ENOMEM. */
int traffic_open(const struct http_route *routes, struct traffic **ret_traffic);
void traffic_freep(struct traffic **t);

/* A request has its answer. route and client may be NULL: it got that far with none. */
void traffic_count_request(struct traffic *t, const struct http_route *route, const char *client,
	int err, uint64_t ns);
/* n items of a request ended like this; a request with a single one has one item. */
void traffic_count_items(struct traffic *t, const struct http_route *route, int err, uint64_t n);

/* ---- reading; a name is valid for the traffic's lifetime ---- */

size_t traffic_operations(const struct traffic *t);
const char *traffic_operation(const struct traffic *t, size_t operation);
/* Is it of the data plane? Those alone have items. */
bool traffic_has_items(const struct traffic *t, size_t operation);
const char *traffic_code(size_t code); /* "ok", or an error's */
const char *traffic_result(enum traffic_result result);
uint64_t traffic_requests(const struct traffic *t, size_t operation, size_t code);
uint64_t traffic_items(const struct traffic *t, size_t operation, size_t code);
const struct metrics_histogram *traffic_times(
	const struct traffic *t, size_t operation, enum traffic_result result);
/* The first one, always there, is "other": all clients that have no counters of their own. One that
 * is called "other" is among them. */
size_t traffic_clients(const struct traffic *t);
const char *traffic_client(const struct traffic *t, size_t client);
uint64_t traffic_client_requests(
	const struct traffic *t, size_t client, enum traffic_result result);

#endif
