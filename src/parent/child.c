/* SPDX-License-Identifier: Apache-2.0 */
/* What kekd-net and the workers have in common: a life, a control socket, a back-off. */
#include "parent.h"

#include "kekd/clock.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#define LONG_LIFE_NS (60 * CLOCK_S)

void
child_started(struct child *c, pid_t pid, int control, uint64_t now_ns)
{
	c->pid = pid;
	c->control = control;
	c->started_ns = now_ns;
	c->dismissed = false;
	/* Our end alone: a child that does not read must not stop the parent. */
	fcntl(control, F_SETFL, fcntl(control, F_GETFL) | O_NONBLOCK);
}

void
child_ended(struct child *c, uint64_t now_ns, uint64_t least_ns)
{
	uint64_t delay;

	if (now_ns - c->started_ns >= LONG_LIFE_NS)
		c->delay_ns = 0;
	delay = c->delay_ns > least_ns ? c->delay_ns : least_ns;
	if (c->dismissed)
		delay = 0;
	else if (delay == 0)
		c->delay_ns = CHILD_DELAY_FIRST_NS;
	else
		c->delay_ns = 2 * delay < CHILD_DELAY_LAST_NS ? 2 * delay : CHILD_DELAY_LAST_NS;
	c->restart_ns = now_ns + delay;
	c->pid = 0;
	if (c->control >= 0)
		close(c->control);
	c->control = -1;
}

void
child_kill(struct child *c, int signal_number)
{
	if (c->pid > 0)
		kill(c->pid, signal_number);
}
