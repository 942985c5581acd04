/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The parent's own interfaces. It has one thread and one event loop (supervise.c); network.c
 * and workers.c start and bury the children, spawn.c makes a process of a program. Functions
 * return 0 or a negative error; those that say "logged" have told what failed and what to do.
 */
#ifndef KEKD_PARENT_H
#define KEKD_PARENT_H

#include "kekd/config.h"
#include "kekd/control.h"
#include "kekd/secret.h"

#include <sys/stat.h>
#include <sys/types.h>

#define PARENT_LISTEN_MAX 16

/* ---- users.c ---- */

struct account {
	bool change; /* false: all run as the caller */
	uid_t uid;
	gid_t gid;
	gid_t *groups;
	int groups_count;
};

/* name: a user's name or number. Logged. */
int account_resolve(const char *setting, const char *name, struct account *ret_account);
void account_free(struct account *a);
int account_become(const struct account *a); /* in the child, before exec */

/* ---- dirs.c ---- */

/* Makes the directory if it is missing (0700, the account's own), else checks that the account owns
 * it, and takes others' right to write from it. Gives an open descriptor. Logged. */
int directory_open(const char *setting, const char *path, const struct account *owner, int *ret_fd);

/* ---- sockets.c ---- */

/* Binds all addresses of the configuration; ret_fds has room for PARENT_LISTEN_MAX. Logged. */
int sockets_listen(const struct config *config, int *ret_fds, unsigned *ret_count);
/* A SEQPACKET pair with room for several frames. Both ends block. */
int sockets_pair(int *ret_ours, int *ret_theirs);

/* ---- pin.c ---- */

/* Which content of the PIN source was it? All zero: there was none. */
struct pin_stamp {
	dev_t dev;
	ino_t ino;
	off_t size;
	struct timespec mtime, ctime;
};

/* Opens the source for reading; refuses one that others can reach. ret_stamp is set in any case.
 * Logged. */
int pin_open(const char *path, int *ret_fd, struct pin_stamp *ret_stamp);
bool pin_changed(const char *path, const struct pin_stamp *since);
bool pin_same(const struct pin_stamp *a, const struct pin_stamp *b);

/* ---- retry.c ---- */

/* Did an operator say so? Once each time. */
bool retry_take(int hsm_dir, const struct account *owner, const char *token);
/* kekd retry-pin: says so to the kekd that runs, and waits until it heard. token: NULL for the only
 * one. The exit status. */
int retry_ask(const struct config *config, const char *token);

/* ---- spawn.c ---- */

struct spawn {
	const char *program; /* path */
	const struct account *account;
	char *const *environment;
	const int *fds; /* become 3, 4, … in the child; all others are closed */
	size_t fds_count;
};

int spawn(const struct spawn *s, pid_t *ret_pid);
/* A descriptor that reads as these bytes. */
int spawn_memory(const void *data, size_t len, int *ret_fd);

/* ---- child.c ---- */

struct child {
	pid_t pid;   /* 0: does not run */
	int control; /* -1: closed */
	uint64_t started_ns, restart_ns, delay_ns;
	bool dismissed; /* killed by us: no back-off */
};

#define CHILD_DELAY_FIRST_NS (100 * CLOCK_MS)
#define CHILD_DELAY_LAST_NS (10 * CLOCK_S)

void child_started(struct child *c, pid_t pid, int control, uint64_t now_ns);
/* Plans the restart: after at least `least` ns, doubling with each short life. */
void child_ended(struct child *c, uint64_t now_ns, uint64_t least_ns);
void child_kill(struct child *c, int signal_number);

/* ---- notify.c ---- */

#define NOTIFY_STATUS_SIZE 1024

struct notify {
	bool ready, reloading;
	uint64_t alive_every_ns, alive_ns; /* 0: nobody watches; the next time */
	char status[NOTIFY_STATUS_SIZE];
};

/* ---- supervise.c, workers.c, network.c ---- */

struct worker {
	struct child child;
	bool logged_in;
	struct pin_stamp pin;
};

struct token {
	struct worker workers[CONFIG_WORKERS_MAX];
	bool pin_held; /* no start until the PIN source differs from `refused` */
	struct pin_stamp refused;
	uint64_t pin_check_ns;
	bool retry_pin;		  /* the next worker may log in once although the PIN was refused */
	struct pin_stamp retried; /* the PIN that was tried again through the API */
	struct pin_stamp accepted; /* the PIN of the last login that succeeded */
};

enum parent_phase {
	PARENT_RUNNING,
	PARENT_DRAINING, /* kekd-net was told to stop */
	PARENT_ENDING	 /* the workers too */
};

struct parent {
	struct config *config;
	const char *config_path;
	struct config *pending; /* read again, and not yet taken by kekd-net */
	pid_t pending_net;	/* who was asked to */
	uint32_t reloads;
	bool reload_wanted;
	enum net_task task;
	bool init; /* the task has an end of its own: no listening sockets */
	int file;  /* a backup for kekd-net to read; -1: none */
	struct account net_account, worker_account;
	char *net_program, *worker_program;
	char **net_environment;
	char **worker_environment; /* the parent's, but for what is between it and its manager */
	int listen_fds[PARENT_LISTEN_MAX];
	unsigned listen_count;
	int hsm_dir;
	int signals;
	struct secret key; /* that workers share */
	struct child net;
	struct token tokens[CONFIG_TOKENS_MAX];
	struct notify notify;
	enum parent_phase phase;
	uint64_t phase_end_ns;
	unsigned unsent;  /* messages that kekd-net had no room for: bits 1 << enum control_kind */
	uint64_t wake_ns; /* the loop sleeps until then at most */
	int status;	  /* of this process, once it ends */
};

/* Runs until a signal or a child ends it: the exit status (enum child_exit). */
/* file: a backup, borrowed; -1: none. */
int parent_run(struct config *config, const char *config_path, enum net_task task, int file);
void parent_wake_at(struct parent *p, uint64_t at_ns);
void parent_end(struct parent *p, int status); /* begins the end: drains, then stops everything */

/* reload.c. After SIGHUP, and when kekd-net answers. */
void reload_tick(struct parent *p);
void reload_answered(struct parent *p, const struct control_message *m);

void notify_open(struct parent *p);
void notify_tick(struct parent *p, uint64_t now_ns); /* its state in words; that it lives */
void notify_ready(struct parent *p);
void notify_not_ready(struct parent *p);
void notify_reloading(struct parent *p);
void notify_reloaded(struct parent *p);
void notify_stopping(struct parent *p);

void network_tick(struct parent *p, uint64_t now_ns);
void network_message(struct parent *p);
/* CONTROL_STOP: now, or as soon as kekd-net has read what came before. */
void network_tell(struct parent *p, enum control_kind kind);
void network_tell_unsent(struct parent *p);
void network_ended(struct parent *p, int wait_status, uint64_t now_ns);

void workers_tick(struct parent *p, uint64_t now_ns);
void workers_message(struct parent *p, unsigned token, unsigned worker);
/* False: pid is none of the workers. */
bool workers_ended(struct parent *p, pid_t pid, int wait_status, uint64_t now_ns);
/* An operator's word through the API: lets a token that is held try its PIN once more; the same
 * PIN source once. */
void workers_retry_pin(struct parent *p, unsigned token);
void workers_kill(struct parent *p, int signal_number);
void workers_dismiss(struct parent *p); /* all of them start anew, at once */
bool workers_any(const struct parent *p);

#endif
