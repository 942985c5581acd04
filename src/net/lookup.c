/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a lagging copy of the metadata may not decide: a key or version that is not known here is
 * looked up in the store first. Requests wait in one list; the control thread reads the store once
 * for all that came before it began, at most so many times a second. And how old the copy is.
 */
#include "node.h"

#include "kekd/clock.h"
#include "kekd/log.h"

#include <time.h>

#define WAITING_MAX 512
#define READ_TIMEOUT_MS 1000
#define READ_EVERY_NS (50 * CLOCK_MS)
#define ALARM_NS (300 * CLOCK_S)
#define BIAS_NS (1ull << 62)

static void run_lookups(struct control_job *job);

void
node_open_lookups(struct node *n)
{
	pthread_mutex_init(&n->lookups.lock, NULL);
	n->lookups.last = &n->lookups.first;
	n->lookups.job = (struct control_job){ .run = run_lookups, .user = n };
}

/* The control thread has ended, and with it what waited. */
void
node_close_lookups(struct node *n)
{
	pthread_mutex_destroy(&n->lookups.lock);
}

static void
end(struct node *n, struct node_lookup *list, int err)
{
	while (list) {
		struct node_lookup *next = list->next;
		if (err != 0)
			atomic_fetch_add(&n->lookups.missed, 1);
		list->run(list, err);
		list = next;
	}
}

static struct node_lookup *
take_all(struct node_lookups *l)
{
	struct node_lookup *list;

	pthread_mutex_lock(&l->lock);
	list = l->first;
	l->first = NULL;
	l->last = &l->first;
	l->count = 0;
	l->posted = false;
	pthread_mutex_unlock(&l->lock);
	return list;
}

static void
run_lookups(struct control_job *job)
{
	struct node *n = job->user;
	uint64_t now = clock_boot_ns();
	struct node_lookup *list;
	int err;

	/* Who sends what does not exist does not keep the store busy. */
	if (now < n->lookups.next_ns) {
		const struct timespec pause = { 0, (long)(n->lookups.next_ns - now) };
		nanosleep(&pause, NULL);
	}
	list = take_all(&n->lookups);
	err = store_etcd_catch_up(n->store, READ_TIMEOUT_MS);
	if (err == 0)
		err = sealed_poll(n->sealed);
	atomic_fetch_add(&n->lookups.done, 1);
	n->lookups.next_ns = clock_boot_ns() + READ_EVERY_NS;
	end(n, list, err < 0 ? KEKD_EUNKNOWN : 0);
}

/* Under the lock: the job runs with everything that is in the list when it begins. */
static int
add(struct node *n, struct node_lookup *l)
{
	struct node_lookups *all = &n->lookups;

	if (all->count >= WAITING_MAX)
		return KEKD_EUNKNOWN;
	if (!all->posted && control_post(n->control, &all->job) != 0)
		return KEKD_EUNKNOWN;
	all->posted = true;
	l->next = NULL;
	*all->last = l;
	all->last = &l->next;
	all->count++;
	return 0;
}

int
node_look_up(struct node *n, struct node_lookup *l)
{
	struct store_etcd_status status;
	int err;

	if (!n->store || !store_is_etcd(n->store))
		return KEKD_ESTATE;
	store_etcd_status(n->store, &status);
	if (!status.reachable) {
		atomic_fetch_add(&n->lookups.missed, 1);
		return KEKD_EUNKNOWN;
	}
	pthread_mutex_lock(&n->lookups.lock);
	err = add(n, l);
	pthread_mutex_unlock(&n->lookups.lock);
	return err;
}

/* ---- how old the copy is ---- */

/* The boot clock, so that what was before the machine started has a time on it, too. */
static uint64_t
biased_now(void)
{
	return clock_boot_ns() + BIAS_NS;
}

bool
node_is_stale(struct node *n)
{
	uint64_t reached;

	if (n->part.store.endpoints_count == 0)
		return false;
	reached = atomic_load(&n->reached_ns);
	return reached == 0 || biased_now() - reached > n->part.store_max_staleness_s * CLOCK_S;
}

static void
tell(struct node *n, uint64_t age_ns)
{
	bool alarm = age_ns > ALARM_NS, stale = node_is_stale(n);
	unsigned long long minutes = age_ns / (60 * CLOCK_S);

	if (alarm && !n->stale_alarm && age_ns == UINT64_MAX)
		log_error("the metadata was not compared with etcd as a whole yet: nothing can be "
			  "changed");
	else if (alarm && !n->stale_alarm)
		log_error(
			"the metadata was last compared with etcd %llu minutes ago: data keys are "
			"wrapped and unwrapped by this copy, nothing can be changed",
			minutes);
	if (stale && !n->stale_told)
		log_error("the metadata is older than store.max_staleness: each key's when_stale "
			  "decides");
	if (!alarm && n->stale_alarm)
		log_info("the metadata is that of etcd again");
	n->stale_alarm = alarm;
	n->stale_told = stale;
}

void
node_tick_staleness(struct node *n)
{
	struct store_etcd_status status;

	if (!n->store || !store_is_etcd(n->store))
		return;
	store_etcd_status(n->store, &status);
	atomic_store(&n->reached_ns, status.age_ns < BIAS_NS ? biased_now() - status.age_ns : 0);
	tell(n, status.age_ns);
}
