/* SPDX-License-Identifier: Apache-2.0 */
/* A node's etcd engine for tests. */
#include "store_lab.h"

#include "kekd/clock.h"
#include "kekd/err.h"
#include "kekd/str.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
/* cmocka.h needs the three above it. */
#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TTL_S 60

static void
shell(const char *format, ...)
{
	char command[2048];
	va_list ap;

	va_start(ap, format);
	vsnprintf(command, sizeof(command), format, ap);
	va_end(ap);
	assert_int_equal(system(command), 0);
}

static json_t *
call(struct store_lab *l, const char *path, json_t *body)
{
	json_t *reply = NULL;
	int err = -1;

	assert_non_null(body);
	for (int i = 0; err != 0 && i < 20; i++) {
		err = etcd_call(l->direct, path, body, true, &reply, NULL);
		if (err != 0)
			usleep(100000);
	}
	if (err != 0)
		fail_msg("%s: %s", path, etcd_error(l->direct));
	json_decref(body);
	return reply;
}

static uint64_t
revision_of(const json_t *reply)
{
	return etcd_u64(json_object_get(reply, "header"), "revision");
}

uint64_t
store_lab_write(struct store_lab *l, const char *path, const char *value)
{
	json_t *reply = call(l, "kv/put",
		json_pack("{s:o,s:o}", "key", etcd_key(l->direct, path), "value",
			etcd_base64(value, strlen(value))));
	uint64_t revision = revision_of(reply);

	json_decref(reply);
	return revision;
}

void
store_lab_erase(struct store_lab *l, const char *path)
{
	json_decref(
		call(l, "kv/deleterange", json_pack("{s:o}", "key", etcd_key(l->direct, path))));
}

static char *
take(struct store_lab *l, const char *path, uint64_t *ret_revision)
{
	json_t *reply = call(l, "kv/range", json_pack("{s:o}", "key", etcd_key(l->direct, path)));
	const json_t *kv = json_array_get(json_object_get(reply, "kvs"), 0);
	char *value = kv ? etcd_bytes(json_object_get(kv, "value"), NULL) : NULL;

	*ret_revision = kv ? etcd_u64(kv, "mod_revision") : 0;
	json_decref(reply);
	return value;
}

uint64_t
store_lab_read(struct store_lab *l, const char *path, const char *value)
{
	uint64_t revision;
	char *there = take(l, path, &revision);

	if (value) {
		assert_non_null(there);
		assert_string_equal(there, value);
	} else {
		assert_null(there);
	}
	free(there);
	return revision;
}

char *
store_lab_take(struct store_lab *l, const char *path)
{
	uint64_t revision;

	return take(l, path, &revision);
}

void
store_lab_compact(struct store_lab *l)
{
	json_t *reply = call(l, "kv/range", json_pack("{s:o}", "key", etcd_key(l->direct, "x")));
	json_t *body = json_pack("{s:o}", "revision", etcd_number(revision_of(reply)));

	json_decref(reply);
	json_decref(call(l, "kv/compaction", body));
}

/* ---- lease and leadership ---- */

static uint64_t
put_leased(struct store_lab *l, const char *path, const char *value, uint64_t lease)
{
	json_t *reply = call(l, "kv/put",
		json_pack("{s:o,s:o,s:o}", "key", etcd_key(l->direct, path), "value",
			etcd_base64(value, strlen(value)), "lease", etcd_number(lease)));
	uint64_t revision = revision_of(reply);

	json_decref(reply);
	return revision;
}

static void
take_lease(struct store_lab *l)
{
	json_t *reply = call(l, "lease/grant", json_pack("{s:i}", "TTL", TTL_S));
	char path[64];

	l->term.lease = etcd_u64(reply, "ID");
	l->term.until_ns = clock_boot_ns() + TTL_S * CLOCK_S;
	json_decref(reply);
	snprintf(path, sizeof(path), "alive/%s", l->node);
	put_leased(l, path, "{}", l->term.lease);
}

void
store_lab_lead(struct store_lab *l)
{
	take_lease(l);
	store_lab_erase(l, "leader");
	l->term.epoch = put_leased(l, "leader", "{}", l->term.lease);
	if (l->store)
		store_etcd_term(l->store, &l->term);
}

void
store_lab_depose(struct store_lab *l)
{
	store_lab_erase(l, "leader");
	store_lab_write(l, "leader", "{\"node\":\"another\"}");
}

void
store_lab_revoke(struct store_lab *l)
{
	json_decref(call(l, "lease/revoke", json_pack("{s:o}", "ID", etcd_number(l->term.lease))));
}

/* ---- the store ---- */

static void
wake(void *user)
{
	((struct store_lab *)user)->wakes++;
}

int
store_lab_try(struct store_lab *l)
{
	int err = store_open_etcd(&l->settings, l->node, l->dir, wake, l, &l->store);

	if (err == 0)
		store_etcd_term(l->store, &l->term);
	return err;
}

void
store_lab_point(struct store_lab *l, const char *url)
{
	l->endpoints[0] = url;
}

void
store_lab_open(struct store_lab *l, const struct etcd_servers *servers, const char *url,
	const char *node, const struct store_lab *beside)
{
	static unsigned clusters;

	*l = (struct store_lab){ 0 };
	strcpy(l->dir, "/tmp/kekd-lab-XXXXXX");
	assert_non_null(mkdtemp(l->dir));
	snprintf(l->node, sizeof(l->node), "%s", node);
	if (beside)
		strcpy(l->cluster, beside->cluster);
	else
		snprintf(l->cluster, sizeof(l->cluster), "c%d-%u", (int)getpid(), clusters++);
	l->direct_settings = etcd_servers_settings(servers, l->direct_endpoints);
	l->direct_settings.cluster = l->cluster;
	l->settings = l->direct_settings;
	l->settings.timeout_ms = 1000;
	if (url) {
		l->endpoints[0] = url;
		l->settings.endpoints = l->endpoints;
		l->settings.endpoints_count = 1;
	}
	assert_int_equal(etcd_open(&l->direct_settings, &l->direct), 0);
	if (beside)
		take_lease(l);
	else
		store_lab_lead(l);
	assert_int_equal(store_lab_try(l), 0);
}

void
store_lab_shut(struct store_lab *l)
{
	store_freep(&l->store);
}

void
store_lab_reopen(struct store_lab *l)
{
	store_lab_shut(l);
	assert_int_equal(store_lab_try(l), 0);
}

void
store_lab_wipe(struct store_lab *l)
{
	shell("rm -f %s/metadata.db*", l->dir);
}

void
store_lab_close(struct store_lab *l)
{
	if (!*l->dir)
		return;
	store_freep(&l->store);
	etcd_freep(&l->direct);
	shell("rm -rf %s", l->dir);
	*l = (struct store_lab){ 0 };
}

void
store_lab_delete(struct store_lab *l, const char *path)
{
	struct store_op op = { STORE_DELETE, path, STORE_ANY, NULL, 0 };
	uint64_t revision;

	assert_int_equal(
		l->store->engine->commit(l->store, STORE_OWNER_ACTIVE, &op, 1, &revision), 0);
}

void
store_lab_ignore(const struct store_record *change, void *user)
{
	(void)change;
	(void)user;
}

/* ---- a whole older etcd ---- */

void
store_lab_snapshot(const struct etcd_servers *s)
{
	shell("ETCDCTL_API=3 etcdctl --endpoints %s snapshot save %s/snapshot >/dev/null 2>&1",
		s->members[0].url, s->dir);
}

void
store_lab_restore(struct etcd_servers *s)
{
	const struct etcd_member *m = &s->members[0];

	assert_int_equal(s->count, 1);
	etcd_member_signal(s, 0, SIGKILL);
	/* etcd 3.6 has it in a tool of its own. */
	shell("rm -rf %s/m0 && ETCDCTL_API=3 $(command -v etcdutl || echo etcdctl) snapshot "
	      "restore %s/snapshot --name m0 "
	      "--data-dir %s/m0 --initial-cluster m0=http://127.0.0.1:%u "
	      "--initial-advertise-peer-urls http://127.0.0.1:%u >/dev/null 2>&1",
		s->dir, s->dir, s->dir, m->peer_port, m->peer_port);
	etcd_member_start(s, 0);
	etcd_servers_wait(s);
}
