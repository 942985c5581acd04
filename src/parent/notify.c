/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the service manager is told (sd_notify(3)): ready, reloading, stopping, a line for people,
 * and that the parent's loop still runs. Without a service manager nobody is told.
 */
#include "parent.h"

#include "kekd/clock.h"
#include "kekd/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#ifdef HAVE_SYSTEMD
#include <systemd/sd-daemon.h>
#endif

#ifdef HAVE_SYSTEMD
static void
tell(const struct parent *p, const char *text)
{
	/* The cluster is made once, by hand: no service of it. */
	if (!p->init && sd_notify(0, text) < 0)
		log_warning("the service manager cannot be told: %s", text);
}

static uint64_t
watchdog_ns(void)
{
	uint64_t us;

	return sd_watchdog_enabled(0, &us) > 0 ? us * 1000 : 0;
}
#else
static void
tell(const struct parent *p, const char *text)
{
	(void)p;
	(void)text;
}

static uint64_t
watchdog_ns(void)
{
	return 0;
}
#endif

void
notify_open(struct parent *p)
{
	p->notify.alive_every_ns = watchdog_ns() / 2;
}

static void __attribute__((format(printf, 2, 3)))
append(char text[NOTIFY_STATUS_SIZE], const char *format, ...)
{
	size_t len = strlen(text);
	va_list ap;

	va_start(ap, format);
	vsnprintf(text + len, NOTIFY_STATUS_SIZE - len, format, ap);
	va_end(ap);
}

static void
describe_token(const struct parent *p, unsigned token, char text[NOTIFY_STATUS_SIZE])
{
	const struct token *t = &p->tokens[token];
	unsigned n = 0;

	for (unsigned i = 0; i < p->config->hsm.workers; i++)
		n += t->workers[i].child.pid > 0 && t->workers[i].logged_in;
	append(text, "; token %s: %u of %u workers", p->config->tokens[token].name, n,
		p->config->hsm.workers);
	if (t->pin_held)
		append(text, ", its PIN was refused or cannot be read");
}

static void
describe(const struct parent *p, char text[NOTIFY_STATUS_SIZE])
{
	snprintf(text, NOTIFY_STATUS_SIZE, "%s",
		p->phase != PARENT_RUNNING ? "stopping"
		: p->notify.ready	   ? "serving"
					   : "starting");
	for (unsigned t = 0; t < p->config->tokens_count; t++)
		describe_token(p, t, text);
}

void
notify_tick(struct parent *p, uint64_t now_ns)
{
	struct notify *n = &p->notify;
	char status[NOTIFY_STATUS_SIZE], text[NOTIFY_STATUS_SIZE + 16];

	describe(p, status);
	if (strcmp(status, n->status) != 0) {
		memcpy(n->status, status, sizeof(status));
		snprintf(text, sizeof(text), "STATUS=%s", status);
		tell(p, text);
	}
	if (n->alive_every_ns == 0)
		return;
	if (now_ns >= n->alive_ns) {
		tell(p, "WATCHDOG=1");
		n->alive_ns = now_ns + n->alive_every_ns;
	}
	parent_wake_at(p, n->alive_ns);
}

void
notify_ready(struct parent *p)
{
	p->notify.ready = true;
	p->notify.reloading = false;
	tell(p, "READY=1");
}

void
notify_not_ready(struct parent *p)
{
	p->notify.ready = false;
}

void
notify_reloading(struct parent *p)
{
	char text[64];

	if (!p->notify.ready || p->notify.reloading)
		return;
	p->notify.reloading = true;
	snprintf(text, sizeof(text), "RELOADING=1\nMONOTONIC_USEC=%llu",
		(unsigned long long)(clock_monotonic_ns() / 1000));
	tell(p, text);
}

void
notify_reloaded(struct parent *p)
{
	if (p->notify.reloading)
		notify_ready(p);
}

void
notify_stopping(struct parent *p)
{
	tell(p, "STOPPING=1");
}
