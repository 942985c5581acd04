/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The certificates that are in force, and how others take their place while connections are open:
 * by a reload, all or nothing, or because files have changed. Three groups stand each for itself,
 * so that a broken CRL does not keep a new server certificate out: certificate and key, CAs, CRLs.
 */
#include "call.h"

#include "kekd/clock.h"
#include "kekd/log.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

enum group { GROUP_SERVER, GROUP_CA, GROUP_CRL, GROUPS };

static const char *const group_names[GROUPS] = {
	[GROUP_SERVER] = "tls.certificate and tls.key",
	[GROUP_CA] = "tls.client_ca",
	[GROUP_CRL] = "crl.file",
};

/* Which file is behind a path? A link that now leads elsewhere makes it another. */
struct stamp {
	dev_t dev;
	ino_t ino;
	off_t size;
	struct timespec mtime, ctime;
};

/* What the files of a group give. */
struct content {
	struct http_pair *pair;
	struct identity_ca *ca;
	struct identity_crl *crl;
};

struct settings {
	char *paths[GROUPS][2]; /* NULL: the group has fewer, or none */
	char **deny;
	size_t deny_count;
	bool crl_warn_expired, common_name;
};

struct http_live {
	struct settings settings; /* the watching thread's; others read a flag under the lock */
	struct stamp tried[GROUPS][2], seen[GROUPS][2];
	pthread_mutex_t lock; /* of what follows */
	struct content content;
	struct http_trust *trust;
	_Atomic uint64_t generation;
	uint64_t taken_us;
	_Atomic uint64_t on_expired_crl;
	char faults[GROUPS][256];
};

/* ---- settings ---- */

static void
settings_free(struct settings *s)
{
	for (size_t g = 0; g < GROUPS; g++)
		for (size_t i = 0; i < 2; i++)
			free(s->paths[g][i]);
	for (size_t i = 0; i < s->deny_count; i++)
		free(s->deny[i]);
	free(s->deny);
	*s = (struct settings){ 0 };
}

static int
settings_copy(const struct http_tls_config *config, struct settings *ret_settings)
{
	const char *const paths[GROUPS][2] = {
		[GROUP_SERVER] = { config->certificate, config->key },
		[GROUP_CA] = { config->client_ca },
		[GROUP_CRL] = { config->crl },
	};
	struct settings s = { .crl_warn_expired = config->crl_warn_expired,
		.common_name = config->common_name,
		.deny = calloc(config->deny_count + 1, sizeof(char *)) };
	bool bad = !s.deny;

	for (size_t g = 0; g < GROUPS; g++)
		for (size_t i = 0; i < 2; i++)
			if (paths[g][i] && !(s.paths[g][i] = strdup(paths[g][i])))
				bad = true;
	for (; !bad && s.deny_count < config->deny_count; s.deny_count++)
		if (!(s.deny[s.deny_count] = strdup(config->deny[s.deny_count])))
			bad = true;
	if (bad) {
		settings_free(&s);
		return -ENOMEM;
	}
	*ret_settings = s;
	return 0;
}

static struct http_tls_config
settings_config(const struct settings *s)
{
	return (struct http_tls_config){
		.certificate = s->paths[GROUP_SERVER][0],
		.key = s->paths[GROUP_SERVER][1],
		.client_ca = s->paths[GROUP_CA][0],
		.crl = s->paths[GROUP_CRL][0],
		.crl_warn_expired = s->crl_warn_expired,
		.common_name = s->common_name,
		.deny = (const char *const *)s->deny,
		.deny_count = s->deny_count,
	};
}

/* ---- files ---- */

static void
stamp_file(const char *path, struct stamp *ret_stamp)
{
	struct stat st;

	memset(ret_stamp, 0, sizeof(*ret_stamp)); /* the padding too: they are compared whole */
	if (!path || stat(path, &st) != 0)
		return;
	ret_stamp->dev = st.st_dev;
	ret_stamp->ino = st.st_ino;
	ret_stamp->size = st.st_size;
	ret_stamp->mtime = st.st_mtim;
	ret_stamp->ctime = st.st_ctim;
}

static void
stamp_group(char *const paths[2], struct stamp ret_stamps[2])
{
	for (size_t i = 0; i < 2; i++)
		stamp_file(paths[i], &ret_stamps[i]);
}

static int
load_group(enum group group, char *const paths[2], struct content *c, char error[256])
{
	if (!paths[0])
		return 0;
	if (group == GROUP_SERVER)
		return http_pair_load(paths[0], paths[1], &c->pair, error);
	if (group == GROUP_CA)
		return identity_ca_load(paths[0], &c->ca, error);
	return identity_crl_load(paths[0], &c->crl, error);
}

static void
content_free(struct content *c)
{
	http_pair_unrefp(&c->pair);
	identity_ca_unrefp(&c->ca);
	identity_crl_unrefp(&c->crl);
}

/* ---- taking into force ---- */

/* Gives the former trust away to be freed by the caller, outside the lock. */
static void
publish(struct http_live *l, struct content *c, struct http_trust **trust)
{
	struct content old;
	struct http_trust *old_trust;

	pthread_mutex_lock(&l->lock);
	old = l->content;
	old_trust = l->trust;
	l->content = *c;
	l->trust = *trust;
	l->taken_us = clock_real_us();
	atomic_store(&l->generation, (*trust)->generation);
	pthread_mutex_unlock(&l->lock);
	*c = old;
	*trust = old_trust;
}

static int
load_all(struct http_live *l, struct settings *s, char error[256])
{
	const struct http_tls_config config = settings_config(s);
	struct content c = { 0 };
	struct http_trust *trust = NULL;
	struct stamp stamps[GROUPS][2];
	int err = 0;

	for (size_t g = 0; g < GROUPS && err == 0; g++) {
		stamp_group(s->paths[g], stamps[g]);
		err = load_group(g, s->paths[g], &c, error);
	}
	if (err == 0)
		err = http_trust_new(c.ca, c.crl, &config, atomic_load(&l->generation) + 1, &trust);
	if (err == 0) {
		publish(l, &c, &trust);
		memcpy(l->tried, stamps, sizeof(stamps));
		memcpy(l->seen, stamps, sizeof(stamps));
	}
	content_free(&c);
	http_trust_unrefp(&trust);
	return err;
}

static void
set_fault(struct http_live *l, enum group group, const char *text)
{
	bool changed;

	pthread_mutex_lock(&l->lock);
	changed = strcmp(l->faults[group], text) != 0;
	snprintf(l->faults[group], sizeof(l->faults[group]), "%s", text);
	pthread_mutex_unlock(&l->lock);
	if (changed && *text)
		log_warning("%s has changed and cannot be used: %s; what was in force stays, and "
			    "the files are tried again",
			group_names[group], text);
}

int
http_live_open(
	const struct http_tls_config *config, struct http_live **ret_live, char ret_error[256])
{
	struct http_live *l = calloc(1, sizeof(*l));
	int err;

	if (!l)
		return -ENOMEM;
	pthread_mutex_init(&l->lock, NULL);
	err = settings_copy(config, &l->settings);
	if (err == 0)
		err = load_all(l, &l->settings, ret_error);
	if (err != 0) {
		http_live_freep(&l);
		return err;
	}
	*ret_live = l;
	return 0;
}

void
http_live_freep(struct http_live **live)
{
	struct http_live *l = *live;

	if (!l)
		return;
	content_free(&l->content);
	http_trust_unrefp(&l->trust);
	settings_free(&l->settings);
	pthread_mutex_destroy(&l->lock);
	free(l);
	*live = NULL;
}

int
http_reload(struct http *h, const struct http_tls_config *tls, char ret_error[256])
{
	struct http_live *l = h->live;
	struct settings s;
	int err = settings_copy(tls, &s);

	if (err != 0)
		return err;
	err = load_all(l, &s, ret_error);
	if (err == 0) {
		struct settings old = l->settings;
		pthread_mutex_lock(&l->lock);
		l->settings = s;
		pthread_mutex_unlock(&l->lock);
		s = old;
		for (size_t g = 0; g < GROUPS; g++)
			set_fault(l, g, "");
	}
	settings_free(&s);
	return err;
}

/* ---- watching ---- */

/* The groups that have not changed are shared with what was before. */
static int
take_group(struct http_live *l, enum group group, char error[256])
{
	const struct http_tls_config config = settings_config(&l->settings);
	struct content c = { 0 };
	struct http_trust *trust = NULL;
	int err = load_group(group, l->settings.paths[group], &c, error);

	if (err == 0 && !c.pair) {
		c.pair = l->content.pair;
		atomic_fetch_add(&c.pair->references, 1);
	}
	if (err == 0 && !c.ca)
		c.ca = identity_ca_ref(l->content.ca);
	if (err == 0 && !c.crl && l->content.crl)
		c.crl = identity_crl_ref(l->content.crl);
	if (err == 0)
		err = http_trust_new(c.ca, c.crl, &config,
			atomic_load(&l->generation) + (group != GROUP_SERVER), &trust);
	if (err == 0)
		publish(l, &c, &trust);
	content_free(&c);
	http_trust_unrefp(&trust);
	return err;
}

static void
watch_group(struct http_live *l, enum group group)
{
	struct stamp now[2];
	char error[256] = "no memory";
	bool still, same;

	stamp_group(l->settings.paths[group], now);
	still = memcmp(now, l->seen[group], sizeof(now)) == 0;
	same = memcmp(now, l->tried[group], sizeof(now)) == 0;
	memcpy(l->seen[group], now, sizeof(now));
	if (!still || (same && !l->faults[group][0]))
		return;
	memcpy(l->tried[group], now, sizeof(now));
	if (take_group(l, group, error) != 0) {
		set_fault(l, group, error);
		return;
	}
	set_fault(l, group, "");
	log_info("%s has changed: the new content is in force", group_names[group]);
}

void
http_watch(struct http *h)
{
	for (size_t g = 0; g < GROUPS; g++)
		if (h->live->settings.paths[g][0])
			watch_group(h->live, g);
}

/* ---- using ---- */

struct http_pair *
http_live_pair(struct http_live *l)
{
	struct http_pair *pair;

	pthread_mutex_lock(&l->lock);
	pair = l->content.pair;
	atomic_fetch_add(&pair->references, 1);
	pthread_mutex_unlock(&l->lock);
	return pair;
}

struct http_trust *
http_live_trust(struct http_live *l)
{
	struct http_trust *trust;

	pthread_mutex_lock(&l->lock);
	trust = l->trust;
	atomic_fetch_add(&trust->references, 1);
	pthread_mutex_unlock(&l->lock);
	return trust;
}

void
http_live_count_expired_crl(struct http_live *l)
{
	atomic_fetch_add(&l->on_expired_crl, 1);
}

uint64_t
http_live_generation(struct http_live *l)
{
	return atomic_load(&l->generation);
}

void
http_certificates(struct http *h, struct http_certificates *ret)
{
	struct http_live *l = h->live;
	struct http_certificates c = { 0 };

	pthread_mutex_lock(&l->lock);
	c.server = l->content.pair->life;
	identity_ca_life(l->content.ca, &c.client_ca);
	c.has_crl = l->content.crl != NULL;
	if (l->content.crl)
		identity_crl_life(l->content.crl, &c.crl);
	c.crl_warn_expired = l->settings.crl_warn_expired;
	c.taken_us = l->taken_us;
	c.accepted_on_expired_crl = atomic_load(&l->on_expired_crl);
	_Static_assert(STR_COUNT(c.faults) == GROUPS, "a fault for each group");
	memcpy(c.faults, l->faults, sizeof(c.faults));
	pthread_mutex_unlock(&l->lock);
	*ret = c;
}
