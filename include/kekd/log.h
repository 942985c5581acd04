/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The log: one line per event on standard error, "kekd-net warning: text". The one global state of
 * the program. Control characters in the text are escaped, so that foreign bytes cannot forge a
 * line. Any thread. Never log a plaintext, a PIN or a key.
 */
#ifndef KEKD_LOG_H
#define KEKD_LOG_H

enum log_level {
	LOG_LEVEL_ERROR = 3,
	LOG_LEVEL_WARNING = 4,
	LOG_LEVEL_INFO = 6,
	LOG_LEVEL_DEBUG = 7
};

/* program: static string. Levels above the threshold are dropped. Under systemd's journal
 * (JOURNAL_STREAM is set) each line starts with the level as "<N>". */
void log_open(const char *program, enum log_level threshold);

void log_write(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) log_write(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_write(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_info(...) log_write(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_write(LOG_LEVEL_DEBUG, __VA_ARGS__)

#endif
