/* SPDX-License-Identifier: Apache-2.0 */
/* The two clocks, RFC 3339, and durations. */
#include "kekd/clock.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

uint64_t
clock_boot_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_BOOTTIME, &ts);
	return (uint64_t)ts.tv_sec * CLOCK_S + (uint64_t)ts.tv_nsec;
}

uint64_t
clock_monotonic_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * CLOCK_S + (uint64_t)ts.tv_nsec;
}

uint64_t
clock_real_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (uint64_t)ts.tv_sec * 1000000u + (uint64_t)ts.tv_nsec / 1000u;
}

void
clock_format(uint64_t real_us, char ret_text[CLOCK_TEXT_SIZE])
{
	time_t s = (time_t)(real_us / 1000000u);
	struct tm tm;
	size_t n;

	gmtime_r(&s, &tm);
	n = strftime(ret_text, CLOCK_TEXT_SIZE, "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(ret_text + n, CLOCK_TEXT_SIZE - n, ".%06uZ", (unsigned)(real_us % 1000000u));
}

/* strptime takes blanks, short fields and a 31st of February as well: what it read must be what
 * clock_format writes. */
static bool
is_time(const char *text, int64_t s)
{
	char again[CLOCK_TEXT_SIZE];

	if (s < 0)
		return false;
	clock_format((uint64_t)s * 1000000u, again);
	return strncmp(text, again, strlen("2026-01-31T12:00:00")) == 0;
}

int
clock_parse(const char *text, uint64_t *ret_real_us)
{
	struct tm tm = { 0 };
	int64_t s;
	const char *p = strptime(text, "%Y-%m-%dT%H:%M:%S", &tm);
	uint64_t us = 0, unit = 100000;

	if (!p)
		return -EINVAL;
	if (*p == '.')
		for (p++; *p >= '0' && *p <= '9' && unit; p++, unit /= 10)
			us += (uint64_t)(*p - '0') * unit;
	s = timegm(&tm);
	if (strcmp(p, "Z") != 0 || !is_time(text, s))
		return -EINVAL;
	*ret_real_us = (uint64_t)s * 1000000u + us;
	return 0;
}

/* From the largest: the first that divides is the one to write. */
static const struct {
	char name;
	uint64_t s;
} units[] = { { 'd', 86400 }, { 'h', 3600 }, { 'm', 60 }, { 's', 1 } };

int
clock_parse_duration(const char *text, uint64_t *ret_s)
{
	const char *p = text;
	uint64_t n = 0;

	if (*p == '0' && p[1] >= '0' && p[1] <= '9')
		return -EINVAL;
	for (; *p >= '0' && *p <= '9'; p++) {
		n = n * 10 + (uint64_t)(*p - '0');
		if (n > CLOCK_DURATION_MAX_S)
			return -EINVAL;
	}
	if (p == text || !*p || p[1])
		return -EINVAL;
	for (size_t i = 0; i < sizeof(units) / sizeof(*units); i++) {
		if (units[i].name != *p)
			continue;
		if (n > CLOCK_DURATION_MAX_S / units[i].s)
			return -EINVAL;
		*ret_s = n * units[i].s;
		return 0;
	}
	return -EINVAL;
}

void
clock_format_duration(uint64_t s, char ret_text[CLOCK_DURATION_SIZE])
{
	size_t i = 0;

	while (s % units[i].s != 0)
		i++;
	if (s == 0)
		i = sizeof(units) / sizeof(*units) - 1;
	snprintf(ret_text, CLOCK_DURATION_SIZE, "%llu%c", (unsigned long long)(s / units[i].s),
		units[i].name);
}
