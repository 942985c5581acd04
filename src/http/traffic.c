/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The counters of requests. A client's are found by its name in a small hash table that only grows:
 * looking up is lock-free, the lock is for the few first requests of a client.
 */
#include "kekd/traffic.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

#define PLACES 256 /* a power of two, well above TRAFFIC_CLIENTS_MAX */

struct client_counts {
	char name[STR_NAME_MAX + 1];
	atomic_uint_least64_t requests[TRAFFIC_RESULTS];
};

struct operation {
	const char *name;
	bool has_items;
	atomic_uint_least64_t requests[TRAFFIC_CODES], items[TRAFFIC_CODES];
	struct metrics_histogram times[TRAFFIC_RESULTS];
};

struct traffic {
	const struct http_route *routes;
	pthread_mutex_t lock; /* of giving out clients */
	atomic_size_t clients_count;
	struct client_counts clients[1 + TRAFFIC_CLIENTS_MAX]; /* the first: others */
	_Atomic(struct client_counts *) places[PLACES];
	size_t operations_count;
	struct operation *operations;
	size_t by_route[]; /* several routes may be one operation */
};

static size_t
count_routes(const struct http_route *routes)
{
	size_t n = 0;

	while (routes[n].method)
		n++;
	return n;
}

static size_t
find_operation(struct traffic *t, const char *name)
{
	for (size_t i = 0; i < t->operations_count; i++)
		if (strcmp(t->operations[i].name, name) == 0)
			return i;
	t->operations[t->operations_count].name = name;
	return t->operations_count++;
}

int
traffic_open(const struct http_route *routes, struct traffic **ret_traffic)
{
	size_t count = count_routes(routes);
	struct traffic *t = calloc(1, sizeof(*t) + count * sizeof(t->by_route[0]));

	if (!t)
		return -ENOMEM;
	t->operations = calloc(1 + count, sizeof(*t->operations));
	if (!t->operations) {
		free(t);
		return -ENOMEM;
	}
	pthread_mutex_init(&t->lock, NULL);
	strcpy(t->clients[0].name, "other");
	atomic_store(&t->clients_count, 1);
	find_operation(t, "none"); /* no route was found */
	t->routes = routes;
	for (size_t i = 0; i < count; i++) {
		t->by_route[i] = find_operation(t, routes[i].name);
		t->operations[t->by_route[i]].has_items |= routes[i].plane == HTTP_DATA;
	}
	*ret_traffic = t;
	return 0;
}

void
traffic_freep(struct traffic **t)
{
	if (!*t)
		return;
	pthread_mutex_destroy(&(*t)->lock);
	free((*t)->operations);
	free(*t);
	*t = NULL;
}

/* ---- counting ---- */

static struct operation *
operation_of(struct traffic *t, const struct http_route *route)
{
	return &t->operations[route ? t->by_route[route - t->routes] : 0];
}

static size_t
code_index(int err)
{
	return err == 0 ? 0 : (size_t)(kekd_err_info(err)->err - KEKD_ERR_FIRST);
}

static enum traffic_result
result_of(int err)
{
	if (err == 0)
		return TRAFFIC_OK;
	return kekd_err_info(err)->http_status < 500 ? TRAFFIC_REFUSED : TRAFFIC_FAILED;
}

static size_t
place_of(const char *name)
{
	uint64_t hash = 14695981039346656037u;

	for (; *name; name++)
		hash = (hash ^ (uint8_t)*name) * 1099511628211u;
	return (hash ^ hash >> 32) & (PLACES - 1);
}

/* The client's counters, or NULL with the empty place where they belong. There always is one: the
 * table is never more than half full. */
static struct client_counts *
find_client(struct traffic *t, const char *name, size_t *ret_place)
{
	struct client_counts *c;

	for (size_t i = place_of(name);; i = (i + 1) & (PLACES - 1)) {
		c = atomic_load_explicit(&t->places[i], memory_order_acquire);
		if (c && strcmp(c->name, name) != 0)
			continue;
		*ret_place = i;
		return c;
	}
}

static struct client_counts *
add_client(struct traffic *t, const char *name)
{
	struct client_counts *c;
	size_t count, place;

	pthread_mutex_lock(&t->lock);
	count = atomic_load(&t->clients_count);
	c = find_client(t, name, &place); /* another thread may have been first */
	if (!c && count <= TRAFFIC_CLIENTS_MAX) {
		c = &t->clients[count];
		strcpy(c->name, name);
		atomic_store_explicit(&t->places[place], c, memory_order_release);
		atomic_store(&t->clients_count, count + 1);
	}
	pthread_mutex_unlock(&t->lock);
	return c ? c : &t->clients[0];
}

static struct client_counts *
client_of(struct traffic *t, const char *name)
{
	size_t place;
	struct client_counts *c = find_client(t, name, &place);

	if (c)
		return c;
	if (atomic_load(&t->clients_count) > TRAFFIC_CLIENTS_MAX || strcmp(name, "other") == 0)
		return &t->clients[0];
	return add_client(t, name);
}

void
traffic_count_request(
	struct traffic *t, const struct http_route *route, const char *client, int err, uint64_t ns)
{
	struct operation *o = operation_of(t, route);
	enum traffic_result result = result_of(err);

	metrics_add(&o->requests[code_index(err)], 1);
	metrics_observe(&o->times[result], ns);
	if (client)
		metrics_add(&client_of(t, client)->requests[result], 1);
}

void
traffic_count_items(struct traffic *t, const struct http_route *route, int err, uint64_t n)
{
	metrics_add(&operation_of(t, route)->items[code_index(err)], n);
}

/* ---- reading ---- */

size_t
traffic_operations(const struct traffic *t)
{
	return t->operations_count;
}

const char *
traffic_operation(const struct traffic *t, size_t operation)
{
	return t->operations[operation].name;
}

bool
traffic_has_items(const struct traffic *t, size_t operation)
{
	return t->operations[operation].has_items;
}

const char *
traffic_code(size_t code)
{
	return code == 0 ? "ok" : kekd_err_info(KEKD_ERR_FIRST + (int)code)->code;
}

const char *
traffic_result(enum traffic_result result)
{
	static const char *const names[] = {
		[TRAFFIC_OK] = "ok",
		[TRAFFIC_REFUSED] = "refused",
		[TRAFFIC_FAILED] = "failed",
	};

	return names[result];
}

uint64_t
traffic_requests(const struct traffic *t, size_t operation, size_t code)
{
	return metrics_read(&t->operations[operation].requests[code]);
}

uint64_t
traffic_items(const struct traffic *t, size_t operation, size_t code)
{
	return metrics_read(&t->operations[operation].items[code]);
}

const struct metrics_histogram *
traffic_times(const struct traffic *t, size_t operation, enum traffic_result result)
{
	return &t->operations[operation].times[result];
}

size_t
traffic_clients(const struct traffic *t)
{
	return atomic_load(&t->clients_count);
}

const char *
traffic_client(const struct traffic *t, size_t client)
{
	return t->clients[client].name;
}

uint64_t
traffic_client_requests(const struct traffic *t, size_t client, enum traffic_result result)
{
	return metrics_read(&t->clients[client].requests[result]);
}
