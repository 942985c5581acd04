/* SPDX-License-Identifier: Apache-2.0 */
/* The log: whole lines to standard error. Not here: the audit log (src/audit/). */
#include "kekd/log.h"

#include "kekd/str.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static struct {
	const char *program;
	enum log_level threshold;
	int journal;
} state = { "kekd", LOG_LEVEL_INFO, 0 };

static const char *const names[] = { [LOG_LEVEL_ERROR] = "error",
	[LOG_LEVEL_WARNING] = "warning",
	[LOG_LEVEL_INFO] = "info",
	[LOG_LEVEL_DEBUG] = "debug" };

void
log_open(const char *program, enum log_level threshold)
{
	state.program = program;
	state.threshold = threshold;
	state.journal = getenv("JOURNAL_STREAM") != NULL;
}

static void
escape(char *out, size_t size, const char *text)
{
	static const char hex[] = "0123456789abcdef";
	size_t n = 0, control = 0; /* control: bytes of one that are still to come */

	for (; *text && n + 5 < size; text++) {
		unsigned char c = (unsigned char)*text;
		control = control ? control : str_control_len(text);
		if (control == 0) {
			out[n++] = (char)c;
			continue;
		}
		control--;
		out[n++] = '\\';
		out[n++] = 'x';
		out[n++] = hex[c >> 4];
		out[n++] = hex[c & 15];
	}
	out[n] = '\0';
}

void
log_write(enum log_level level, const char *format, ...)
{
	char text[2048], safe[2304], line[2432];
	va_list ap;
	int n;

	if (level > state.threshold)
		return;
	va_start(ap, format);
	vsnprintf(text, sizeof(text), format, ap);
	va_end(ap);
	escape(safe, sizeof(safe), text);
	if (state.journal)
		n = snprintf(line, sizeof(line), "<%d>%s: %s\n", (int)level, state.program, safe);
	else
		n = snprintf(line, sizeof(line), "%s %s: %s\n", state.program, names[level], safe);
	if (n > 0 && write(STDERR_FILENO, line, (size_t)n) < 0)
		return; /* nowhere left to tell it */
}
