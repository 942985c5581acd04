/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Certificates while kekd-net runs: a reload that the parent announces, files that change, and the
 * warnings before something expires. On the main thread, so that a deny list works while the
 * control thread waits for a token or a store.
 */
#include "node.h"

#include "kekd/clock.h"
#include "kekd/control.h"
#include "kekd/log.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define WATCH_NS CLOCK_S
#define DAY_US (86400ull * 1000000u)

struct http_tls_config
node_tls_config(const struct net_part *p)
{
	return (struct http_tls_config){
		.certificate = p->tls_certificate,
		.key = p->tls_key,
		.client_ca = p->tls_client_ca,
		.crl = p->crl_file,
		.crl_warn_expired = p->crl_warn_expired,
		.common_name = p->common_name,
		.deny = (const char *const *)p->deny,
		.deny_count = p->deny_count,
	};
}

static void
set_reload(struct node *n, bool taken, const char *fault)
{
	pthread_mutex_lock(&n->lock);
	n->reload.time_us = clock_real_us();
	n->reload.taken = taken;
	snprintf(n->reload.fault, sizeof(n->reload.fault), "%s", fault);
	pthread_mutex_unlock(&n->lock);
}

void
node_reload(struct node *n, uint32_t count, int fd)
{
	struct control_message answer = { .kind = CONTROL_RELOADED, .count = count };
	struct net_part part = { 0 };
	char error[256] = "";
	int err = n->http ? net_part_read(fd, &part) : -EAGAIN;

	if (!n->http)
		close(fd);
	if (n->audit)
		audit_rotate(n->audit);
	if (err == 0) {
		const struct http_tls_config tls = node_tls_config(&part);
		err = http_reload(n->http, &tls, error);
	}
	if (err == 0) {
		log_info("reload: certificates, CRLs and deny list are in force; open connections "
			 "are checked at their next request");
		set_reload(n, true, "");
	} else {
		const char *why = *error ? error : kekd_strerror(err);
		log_error(
			"reload: %s; everything stays as it was: correct it and send SIGHUP", why);
		set_reload(n, false, why);
	}
	net_part_free(&part);
	answer.token = err == 0;
	control_send(CHILD_FD_CONTROL, &answer, -1);
}

void
node_reload_bad(struct node *n, int fd)
{
	char text[sizeof(n->reload.fault)] = "";
	size_t len = 0;
	ssize_t got;

	while (len < sizeof(text) - 1 && (got = read(fd, text + len, sizeof(text) - 1 - len)) > 0)
		len += (size_t)got;
	close(fd);
	text[len] = '\0';
	set_reload(n, false, text);
	/* Whatever is in the configuration, the signal was sent. */
	if (n->audit)
		audit_rotate(n->audit);
}

/* ---- what ends soon ---- */

static const struct {
	const char *what, *remedy;
} notices[] = {
	{ "the server's certificate", "renew it" },
	{ "a CA of tls.client_ca", "roll it over, and give its clients new certificates" },
	{ "a CRL of crl.file", "fetch the new one" },
};

static void
notify(struct node *n, size_t which, const struct identity_life *life, uint64_t now_us)
{
	enum identity_age age = identity_life_age(life, now_us);
	bool tell = age > n->notices[which].age ||
		    (age > IDENTITY_VALID && now_us >= n->notices[which].next_us);
	char end[CLOCK_TEXT_SIZE];

	n->notices[which].age = age;
	if (!tell)
		return;
	n->notices[which].next_us = now_us + DAY_US;
	clock_format(life->to_us, end);
	if (age == IDENTITY_OVER)
		log_error("%s has expired at %s: %s (doc/operations.md)", notices[which].what, end,
			notices[which].remedy);
	else
		log_warning("%s expires in %llu days, at %s: %s (doc/operations.md)",
			notices[which].what, (unsigned long long)((life->to_us - now_us) / DAY_US),
			end, notices[which].remedy);
}

void
node_watch_certificates(struct node *n)
{
	uint64_t now_ns = clock_boot_ns(), now_us = clock_real_us();
	struct http_certificates c;

	if (!n->http || now_ns < n->next_watch_ns)
		return;
	n->next_watch_ns = now_ns + WATCH_NS;
	http_watch(n->http);
	http_certificates(n->http, &c);
	notify(n, 0, &c.server, now_us);
	notify(n, 1, &c.client_ca, now_us);
	if (c.has_crl)
		notify(n, 2, &c.crl, now_us);
}
