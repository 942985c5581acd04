/* SPDX-License-Identifier: Apache-2.0 */
/* The control thread: one change at a time in the order of arrival, and in between what recurs
 * (node_tick). */
#include "kekd/net.h"

#include "kekd/clock.h"
#include "node.h"

#include <errno.h>
#include <pthread.h>
#include <time.h>

struct control {
	struct node *node;
	unsigned (*tick)(struct node *node);
	size_t jobs_max;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t wake;
	struct control_job *first, **last;
	size_t count;
	bool stopping, woken;
};

/* Waits for a job until the next tick. NULL: time for a tick, or the end. */
static struct control_job *
next_job(struct control *c, uint64_t until_ns, bool *ret_stop, bool *ret_woken)
{
	struct timespec until = { (time_t)(until_ns / CLOCK_S), (long)(until_ns % CLOCK_S) };
	struct control_job *job;

	pthread_mutex_lock(&c->lock);
	while (!c->first && !c->stopping && !c->woken && clock_monotonic_ns() < until_ns) {
		if (c->tick)
			pthread_cond_timedwait(&c->wake, &c->lock, &until);
		else
			pthread_cond_wait(&c->wake, &c->lock);
	}
	job = c->first;
	if (job) {
		c->first = job->next;
		c->count--;
		if (!c->first)
			c->last = &c->first;
	}
	*ret_woken = c->woken;
	c->woken = false;
	*ret_stop = c->stopping && !job;
	pthread_mutex_unlock(&c->lock);
	return job;
}

static void *
control_thread(void *user)
{
	struct control *c = user;
	uint64_t tick = c->tick ? clock_monotonic_ns() : UINT64_MAX;
	bool stop = false, woken = false;

	while (!stop) {
		struct control_job *job = next_job(c, tick, &stop, &woken);
		if (job)
			job->run(job);
		if (!stop && c->tick && (woken || clock_monotonic_ns() >= tick)) {
			unsigned ms = c->tick(c->node);
			tick = clock_monotonic_ns() + ms * CLOCK_MS;
		}
	}
	return NULL;
}

int
control_open(struct node *node, unsigned (*tick)(struct node *node), size_t jobs_max,
	struct control **ret_control)
{
	struct control *c = calloc(1, sizeof(*c));
	pthread_condattr_t attr;

	if (!c)
		return -ENOMEM;
	c->node = node;
	c->tick = tick;
	c->jobs_max = jobs_max;
	c->last = &c->first;
	pthread_mutex_init(&c->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&c->wake, &attr);
	pthread_condattr_destroy(&attr);
	*ret_control = c;
	if (pthread_create(&c->thread, NULL, control_thread, c) != 0) {
		*ret_control = NULL;
		free(c);
		return -EAGAIN;
	}
	return 0;
}

void
control_freep(struct control **c)
{
	if (!*c)
		return;
	pthread_mutex_lock(&(*c)->lock);
	(*c)->stopping = true;
	pthread_cond_signal(&(*c)->wake);
	pthread_mutex_unlock(&(*c)->lock);
	pthread_join((*c)->thread, NULL);
	pthread_cond_destroy(&(*c)->wake);
	pthread_mutex_destroy(&(*c)->lock);
	free(*c);
	*c = NULL;
}

void
control_wake(struct control *c)
{
	if (!c || !c->tick)
		return;
	pthread_mutex_lock(&c->lock);
	c->woken = true;
	pthread_cond_signal(&c->wake);
	pthread_mutex_unlock(&c->lock);
}

int
control_post(struct control *c, struct control_job *job)
{
	int err = 0;

	job->next = NULL;
	pthread_mutex_lock(&c->lock);
	if (c->stopping)
		err = KEKD_ESTOPPING;
	else if (c->count >= c->jobs_max)
		err = KEKD_EOVERLOAD;
	if (err == 0) {
		*c->last = job;
		c->last = &job->next;
		c->count++;
		pthread_cond_signal(&c->wake);
	}
	pthread_mutex_unlock(&c->lock);
	return err;
}
