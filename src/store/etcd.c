/* SPDX-License-Identifier: Apache-2.0 */
/* The etcd engine. */
#include "kekd/err.h"
#include "kekd/store.h"

#include <stdio.h>
#include <string.h>

int
store_open_etcd(const struct etcd_settings *settings, const char *node, const char *state_dir,
	void (*wake)(void *user), void *user, struct store **ret_store)
{
	(void)settings;
	(void)node;
	(void)state_dir;
	(void)wake;
	(void)user;
	(void)ret_store;
	return KEKD_ESTORE;
}

void
store_etcd_term(struct store *s, const struct store_term *term)
{
	(void)s;
	(void)term;
}

bool
store_is_etcd(const struct store *s)
{
	return s && strcmp(s->engine->name, "etcd") == 0;
}

void
store_etcd_instance(const struct store *s, char ret_text[37])
{
	(void)s;
	*ret_text = '\0';
}

void
store_etcd_status(struct store *s, struct store_etcd_status *ret_status)
{
	(void)s;
	*ret_status = (struct store_etcd_status){ .age_ns = UINT64_MAX };
}

int
store_etcd_catch_up(struct store *s, unsigned timeout_ms)
{
	(void)s;
	(void)timeout_ms;
	return 0;
}

int
store_etcd_compact(struct store *s)
{
	(void)s;
	return 0;
}

int
store_copy(struct store *from, struct store *to, size_t *ret_count, char ret_error[256])
{
	(void)from;
	(void)to;
	(void)ret_count;
	snprintf(ret_error, 256, "not yet");
	return KEKD_ESTORE;
}
