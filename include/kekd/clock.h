/* SPDX-License-Identifier: Apache-2.0 */
/* Time. Deadlines use the boot clock, which no administrator sets; records carry the real time. Any
 * thread. */
#ifndef KEKD_CLOCK_H
#define KEKD_CLOCK_H

#include <stddef.h>
#include <stdint.h>

#define CLOCK_MS 1000000ull
#define CLOCK_S 1000000000ull
#define CLOCK_TEXT_SIZE 32

uint64_t clock_boot_ns(void);	   /* CLOCK_BOOTTIME */
uint64_t clock_monotonic_ns(void); /* CLOCK_MONOTONIC, for waiting on condition variables */
uint64_t clock_real_us(void);	   /* microseconds since 1970, UTC */
/* RFC 3339 with microseconds, "2026-01-31T12:00:00.000000Z". */
void clock_format(uint64_t real_us, char ret_text[CLOCK_TEXT_SIZE]);
/* RFC 3339 in UTC ("Z"), 0 to 6 digits of fraction. 0 or -EINVAL. */
int clock_parse(const char *text, uint64_t *ret_real_us);

/* Durations for people: "45s", "30m", "24h", "90d", as seconds; at most CLOCK_DURATION_MAX_S. */
#define CLOCK_DURATION_SIZE 24
#define CLOCK_DURATION_MAX_S (36525ull * 24 * 3600) /* 100 years */
/* One number without sign or leading zeros, and one unit. 0 or -EINVAL. */
int clock_parse_duration(const char *text, uint64_t *ret_s);
/* In the largest unit that loses nothing: 86400 is "1d", 90 is "90s". */
void clock_format_duration(uint64_t s, char ret_text[CLOCK_DURATION_SIZE]);

#endif
