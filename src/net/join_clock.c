/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kekd join: this host's clock, held against the Date of etcd's and of the active's answers. Leases
 * need no clock that is right, but certificates, approvals and audit records of several nodes do.
 */
#include "join.h"

#include "kekd/clock.h"

#include <curl/curl.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define SKEW_MAX_S 5.0

struct peer {
	const char *url, *path;
	const struct etcd_settings *tls; /* NULL: nobody is believed but for the time of day */
};

static size_t
ignore(char *data, size_t one, size_t len, void *user)
{
	(void)data, (void)one, (void)user;
	return len;
}

static void
set_tls(CURL *curl, const struct etcd_settings *s)
{
	if (!s) {
		curl_easy_setopt(curl, CURLOPT_SSL_VERIFYPEER, 0L);
		curl_easy_setopt(curl, CURLOPT_SSL_VERIFYHOST, 0L);
		return;
	}
	if (s->ca)
		curl_easy_setopt(curl, CURLOPT_CAINFO, s->ca);
	if (s->certificate) {
		curl_easy_setopt(curl, CURLOPT_SSLCERT, s->certificate);
		curl_easy_setopt(curl, CURLOPT_SSLKEY, s->key);
	}
}

/* The Date has whole seconds: on average half of one has passed. */
static bool
take_skew(CURL *curl, uint64_t before_us, double *ret_s)
{
	double now_s = ((double)before_us + (double)clock_real_us()) / 2e6;
	struct curl_header *date;
	time_t told;

	if (curl_easy_header(curl, "Date", 0, CURLH_HEADER, -1, &date) != CURLHE_OK)
		return false;
	told = curl_getdate(date->value, NULL);
	*ret_s = now_s - ((double)told + 0.5);
	return told > 0;
}

/* How far this clock is ahead of the peer's, in seconds. False: it does not tell. */
static bool
skew(const struct peer *p, unsigned timeout_ms, double *ret_s)
{
	char url[LEADER_URL_SIZE + 32];
	uint64_t before_us = clock_real_us();
	CURL *curl = curl_easy_init();
	bool told = false;

	if (!curl)
		return false;
	snprintf(url, sizeof(url), "%s%s", p->url, p->path);
	curl_easy_setopt(curl, CURLOPT_URL, url);
	curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
	curl_easy_setopt(curl, CURLOPT_PROXY, "");
	curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, (long)timeout_ms);
	curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, ignore);
	set_tls(curl, p->tls);
	if (curl_easy_perform(curl) == CURLE_OK)
		told = take_skew(curl, before_us, ret_s);
	curl_easy_cleanup(curl);
	return told;
}

static bool
etcd_skew(const struct etcd_settings *s, double *ret_s)
{
	for (size_t i = 0; i < s->endpoints_count; i++) {
		const struct peer p = { s->endpoints[i], "/version", s };
		if (skew(&p, s->timeout_ms, ret_s))
			return true;
	}
	return false;
}

static bool
refuse(struct join *j, const char *whose, double s)
{
	join_say(j, "this host's clock is %.0f s %s %s", fabs(s), s > 0 ? "ahead of" : "behind",
		whose);
	return join_next(j, "have both kept by NTP (chronyc tracking, timedatectl)");
}

bool
join_check_clock(struct join *j)
{
	const struct etcd_settings *s = &j->n->part.store;
	const struct peer active = { j->leader_url, "/health/live", NULL };
	double of_etcd = 0, of_active = 0;
	bool told;

	if (!etcd_skew(s, &of_etcd)) {
		join_say(j, "etcd does not tell its time of day");
		return join_next(j, "compare the clocks by hand (timedatectl)");
	}
	if (fabs(of_etcd) > SKEW_MAX_S)
		return refuse(j, "etcd's", of_etcd);
	told = *j->leader_url && skew(&active, s->timeout_ms, &of_active);
	if (told && fabs(of_active) > SKEW_MAX_S)
		return refuse(j, j->leader, of_active);
	join_say(j, "within a few seconds of etcd's%s%s%s", told ? " and " : "",
		told ? j->leader : "", told ? "'s" : "");
	if (*j->leader_url && !told)
		join_say(j, "within a few seconds of etcd's; %s at %s gave no answer to this host",
			j->leader, j->leader_url);
	return true;
}
