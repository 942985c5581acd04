/* SPDX-License-Identifier: Apache-2.0 */
/* Watches the leader key: reads it, then follows its changes, until the stream ends; then anew. */
#include "leader_state.h"

#include "kekd/clock.h"
#include "kekd/err.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define PAUSE_MS 100 /* after a failure; there are other endpoints */

static int
read_key(struct leader *l)
{
	json_t *body = json_pack("{s:o}", "key", etcd_key(l->watch, "leader"));
	json_t *reply = NULL;
	uint64_t sent_ns, revision;
	int err = body ? etcd_call(l->watch, "kv/range", body, true, &reply, &sent_ns) : -ENOMEM;

	json_decref(body);
	if (err)
		return err;
	revision = etcd_u64(json_object_get(reply, "header"), "revision");
	pthread_mutex_lock(&l->lock);
	leader_learn(l, json_array_get(json_object_get(reply, "kvs"), 0), revision, sent_ns);
	pthread_mutex_unlock(&l->lock);
	json_decref(reply);
	l->watch_from = revision + 1;
	return 0;
}

static void
take_event(struct leader *l, const json_t *event)
{
	const json_t *kv = json_object_get(event, "kv");
	const char *type = json_string_value(json_object_get(event, "type"));
	bool deleted = type && strcmp(type, "DELETE") == 0;
	uint64_t revision = etcd_u64(kv, "mod_revision");

	pthread_mutex_lock(&l->lock);
	if (revision > l->revision)
		leader_learn(l, deleted ? NULL : kv, revision, clock_boot_ns());
	pthread_mutex_unlock(&l->lock);
}

static int
on_message(const json_t *message, void *user)
{
	const json_t *result = json_object_get(message, "result"), *events, *event;
	size_t i;

	if (!result || json_is_true(json_object_get(result, "canceled")))
		return KEKD_ESTORE;
	events = json_object_get(result, "events");
	json_array_foreach(events, i, event)
		take_event(user, event);
	return 0;
}

/* False: it ended by itself. */
static bool
follow(struct leader *l)
{
	json_t *body = json_pack("{s:{s:o, s:o}}", "create_request", "key",
		etcd_key(l->watch, "leader"), "start_revision", etcd_number(l->watch_from));
	int err = body ? etcd_stream(l->watch, "watch", body, 0, &l->rewatch, on_message, l)
		       : -ENOMEM;

	json_decref(body);
	return err == 0;
}

void *
leader_watch_run(void *leader)
{
	struct leader *l = leader;

	for (;;) {
		atomic_store(&l->rewatch, false); /* in this order: the end sets stop first */
		if (atomic_load(&l->stop))
			return NULL;
		if (read_key(l) != 0 || !follow(l))
			usleep(PAUSE_MS * 1000);
	}
}
