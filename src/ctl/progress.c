/* SPDX-License-Identifier: Apache-2.0 */
/* How far long work is: one line on standard error, drawn again in place, on a terminal alone. */
#include "ctl.h"

#include "kekd/clock.h"

#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define DRAW_NS (100 * CLOCK_MS)
#define BAR 24

bool
progress_wanted(const struct ctl *ctl)
{
	return !ctl->quiet && isatty(STDERR_FILENO);
}

void
progress_line(const char *text)
{
	struct winsize size = { .ws_col = 80 };

	ioctl(STDERR_FILENO, TIOCGWINSZ, &size);
	fprintf(stderr, "\r%-*.*s", size.ws_col > 1 ? size.ws_col - 1 : 79,
		size.ws_col > 1 ? size.ws_col - 1 : 79, text);
	fflush(stderr);
}

void
progress_start(struct progress *p, const struct ctl *ctl, uint64_t total, uint64_t done)
{
	*p = (struct progress){ .total = total, .first = done, .start_ns = clock_boot_ns() };
	p->shown = progress_wanted(ctl);
}

/* done: of total, in the same unit; note: what else is to be told. */
void
progress_show(struct progress *p, uint64_t done, const char *note)
{
	uint64_t now_ns = clock_boot_ns();
	double part = p->total > 0 ? (double)done / (double)p->total : 1;
	double seconds = (double)(now_ns - p->start_ns) / CLOCK_S;
	char text[256], bar[BAR + 1], left[64] = "";

	if (!p->shown || now_ns < p->next_ns)
		return;
	p->next_ns = now_ns + DRAW_NS;
	if (part > 1)
		part = 1;
	memset(bar, '.', BAR);
	memset(bar, '#', (size_t)(part * BAR));
	bar[BAR] = '\0';
	if (done > p->first && seconds > 1)
		snprintf(left, sizeof(left), ", %s left",
			show_duration((json_int_t)((double)(p->total - done) * seconds /
						   (double)(done - p->first))));
	snprintf(text, sizeof(text), "[%s] %3.0f %%  %s%s", bar, part * 100, note, left);
	progress_line(text);
}

void
progress_wipe(void)
{
	progress_line("");
	fputc('\r', stderr);
}

void
progress_end(struct progress *p)
{
	if (p->shown && p->next_ns > 0)
		progress_wipe();
	p->shown = false;
}
