/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of this directory share. */
#ifndef KEKD_NET_NODE_H
#define KEKD_NET_NODE_H

#include "kekd/net.h"

/* Once every tick on the control thread, and again at once while it returns true: starts the node,
 * proves versions, polls the store. */
unsigned node_tick(struct node *n); /* in how many milliseconds again */
/* kekd init: makes the cluster. Blocks on the caller's thread. An exit status. */
int node_init_cluster(struct node *n);
/* confirm.c */
void node_note_confirm(struct node *n, bool wanted);
int node_may_change(const struct node *n, const struct http_route *route);
/* kekd restore, kekd drill (restore.c): the same way. */
int node_restore(struct node *n);
/* A key's record that comes from before: its next activation is none that was given since, and what
 * was to be destroyed is asked for again. 0 or negative. */
int node_restored_key(json_t *body);
int node_drill(struct node *n);
/* kekd join (join.c), kekd migrate (migrate.c): the same way, but they wait for the tokens and open
 * the audit log themselves. */
int node_join(struct node *n);
int node_migrate(struct node *n);
/* main.c, for tasks: true once every token has a ready worker. */
bool node_await_tokens(struct node *n, uint64_t patience_ns);
int node_open_audit(struct node *n); /* logged */
/* Does another kekd use this node's directories? Before the audit log is opened. */
bool node_runs_here(const struct node *n);
struct backup;
/* drill.c: reports on standard output. An exit status. */
int node_prove_backup(struct node *n, const struct backup *b);
struct sealed_config node_sealed_settings(struct node *n);
void node_set_phase(struct node *n, enum node_phase phase, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
/* Set by the control thread when the process must end for an operator: an exit status, or -1. */
int node_exit_wanted(const struct node *n);

/* summary.c, for the metrics. Control thread. */
void node_note_nonces(struct node *n, const char *version, json_t *body); /* at the first load */
void node_take_nonces(struct node *n); /* all keys are loaded: gives the notes to them */
void node_summarise(struct node *n);   /* when it is time to */

/* rotation.c: rotates one key that is due. True: there may be another. Control thread. */
bool node_rotate_due(struct node *n);
/* A member is back: what failed for the lack of its proof is tried soon. Control thread. */
void node_retry_rotations(struct node *n);

/* seen.c: the time that kekd saw pass. Control thread. */
void node_load_seen(struct node *n, const char *rest, json_t *body, uint64_t commit);
void node_tick_seen(struct node *n);

/* usage.c: how the usage evidence comes to the store and back. Control thread. */
void node_load_usage(struct node *n, const char *name, json_t *body, uint64_t commit);
void node_start_usage(struct node *n); /* all records are loaded */
bool node_tick_usage(struct node *n);  /* true: there is more to do at once */
void node_close_usage(struct node *n); /* after the audit log: all that is not stored yet */

/* certificates.c; the main thread's. */
struct http_tls_config node_tls_config(const struct net_part *p); /* borrows */
/* A new part of the configuration, or the text of what is wrong with it. Closes fd. */
void node_reload(struct node *n, uint32_t count, int fd);
void node_reload_bad(struct node *n, int fd);
/* Once a second: takes files that changed, warns of what ends soon. */
void node_watch_certificates(struct node *n);

/* destroy.c: versions that wait for their end. Control thread. */
void node_tick_destroys(struct node *n);
void node_close_destroys(struct node *n); /* stores how long they have waited */

/* cluster.c: a loader of records. */
void node_load_cluster(struct node *n, const char *name, json_t *body, uint64_t commit);

/* roles.c: who makes the changes. Control thread, but for what is marked. */
void node_tick_role(struct node *n);
bool node_leads(struct node *n);  /* are changes this node's to make? Any thread */
void node_wake(void *node);	  /* a tick at once. Any thread */
void node_store_news(void *node); /* the same, and the store is polled. Any thread */
/* Opens the store and begins to keep a lease. 0, or as store_open_etcd, leader_open. */
int node_open_etcd(struct node *n);
/* For a task that writes to etcd: this process leads from now on, or KEKD_ENOTACTIVE, logged. */
int node_lead_alone(struct node *n);
/* At a stop: another node may lead as soon as the change that is under way is done. Main thread. */
void node_hand_over(struct node *n);
void node_close_leader(struct node *n); /* gives the lease back; before the store is closed */
int node_finds_active(struct node *n, const struct http_route *route,
	struct http_active *ret_active); /* any thread; see struct http_hooks */
/* The process ends, since only an operator can go on. */
void node_give_up(struct node *n, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* nodes.c: who is there. */
void node_load_peer(struct node *n, const char *name, json_t *body, uint64_t commit);
void node_tick_presence(struct node *n);
void node_close_peers(struct node *n);

/* member.c: the records members/NODE. Control thread, but for what is marked. */
void node_load_member(struct node *n, const char *name, json_t *body, uint64_t commit);
json_t *node_member(const struct node *n, const char *name); /* the own one's; borrowed, or NULL */
json_t *node_member_of(struct node *n, const char *node, const char *name); /* any node's */
/* Stores the own record with this member; takes value. */
int node_set_member(struct node *n, const char *name, json_t *value);
/* The same, some time later, by node_tick_member. hurry: another member waits for it. */
void node_note_member(struct node *n, const char *name, json_t *value, bool hurry);
unsigned node_member_due_ms(struct node *n, unsigned most_ms); /* until then */
void node_tick_member(struct node *n);
void node_close_members(struct node *n);

/* members.c: what they have proven. Control thread, but for what is marked. */
bool node_has_others(struct node *n); /* are there other members? Any thread */
void node_open_lifecycle(struct node *n);
void node_tick_copies(struct node *n);

/* proofs.c: what this node has proven. Control thread. */
int node_open_proofs(struct node *n);	/* before the first record is loaded */
void node_start_proofs(struct node *n); /* all records are loaded */
bool node_tick_proofs(struct node *n);	/* true: there is more to do at once */
void node_close_proofs(struct node *n);
void node_note_committed(struct node *n, const struct key *k); /* by this node itself */

/* signing.c; control thread. */
void node_tick_signing(struct node *n);
void node_close_signing(struct node *n); /* before the audit log: a last checkpoint */
/* Signs that record `at` has the hash `head`, and appends that to the log. type: AUDIT_CHECKPOINT
 * or AUDIT_ANCHOR. 0, as node_sign, or KEKD_EAUDIT. */
int node_sign_mark(struct node *n, enum audit_type type, uint64_t at, const char *head,
	uint8_t ret_signature[AUDIT_SIGNATURE_SIZE]);

/* lookup.c */
void node_open_lookups(struct node *n);
void node_close_lookups(struct node *n);
void node_tick_staleness(struct node *n); /* how old the copy is. Control thread */

/* witness.c: what other nodes tell of their audit logs goes into this one's. Control thread. */
void node_note_checkpoint(struct node *n, const char *member, const json_t *body);
void node_tick_witness(struct node *n);

/* retention.c: removes audit files beyond audit.keep. Control thread. */
void node_tick_retention(struct node *n);

extern const struct http_hooks node_hooks;

#endif
