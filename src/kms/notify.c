/* SPDX-License-Identifier: Apache-2.0 */
/* See notify.h. */
#include "notify.h"

#include "kekd/clock.h"
#include "kekd/log.h"

#include <stdio.h>
#ifdef HAVE_SYSTEMD
#include <systemd/sd-daemon.h>

static void
tell(const char *text)
{
	if (sd_notify(0, text) < 0)
		log_warning("the service manager cannot be told: %s", text);
}

uint64_t
kms_notify_alive_every_ns(void)
{
	uint64_t us;

	return sd_watchdog_enabled(0, &us) > 0 ? us * 1000 / 2 : 0;
}
#else
static void
tell(const char *text)
{
	(void)text;
}

uint64_t
kms_notify_alive_every_ns(void)
{
	return 0;
}
#endif

void
kms_notify_alive(void)
{
	tell("WATCHDOG=1");
}

void
kms_notify_ready(void)
{
	tell("READY=1");
}

void
kms_notify_reloading(void)
{
	char text[64];

	snprintf(text, sizeof(text), "RELOADING=1\nMONOTONIC_USEC=%llu",
		(unsigned long long)(clock_monotonic_ns() / 1000));
	tell(text);
}

void
kms_notify_stopping(void)
{
	tell("STOPPING=1");
}

void
kms_notify_status(const char *text)
{
	char line[640];

	snprintf(line, sizeof(line), "STATUS=%s", text);
	tell(line);
}
