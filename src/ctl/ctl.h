/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kekctl from the inside: the table of commands, and what the commands share. Functions that return
 * int return the program's exit status, having said on standard error what went wrong: 0 goes on.
 * One thread.
 */
#ifndef KEKD_CTL_H
#define KEKD_CTL_H

#include "kekd/buf.h"
#include "kekd/client.h"
#include "kekd/json.h"
#include "kekd/str.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

enum ctl_exit {
	CTL_OK = 0,
	CTL_FAILED = 1,
	CTL_USAGE = 2,
	CTL_REFUSED = 3,
	CTL_NOT_FOUND = 4,
	CTL_CONFLICT = 5,
	CTL_UNVERIFIED = 6,
	CTL_UNAVAILABLE = 7,
	CTL_PENDING = 8,
	CTL_PLAINTEXT = 9,
	CTL_NOT_RESTORABLE = 10
};

/* ---- options.c: the command line ---- */

struct ctl_option {
	const char *name;
	char letter;	      /* 0: none */
	const char *argument; /* what stands for it in a usage line; NULL: takes none */
	const char *help;
	bool general; /* goes with every command */
	/* The letter belongs to these commands, and stands behind them; NULL: to all others. */
	const char *letter_of;
	/* Written so behind the commands of letter_of, where it means this and not the general
	 * option; NULL: as its name. With letter_of "" it is the general option all the same, and
	 * this row tells help and completion what that one means to the commands that have it. */
	const char *spelled;
};
/* As it is written on the command line, without the dashes. */
const char *option_spelling(const struct ctl_option *o);

#define CTL_ARGS_MAX 128
#define CTL_TIMEOUT_MAX_S 3600

struct ctl_args {
	const char *words[CTL_ARGS_MAX]; /* all that is no option, in order */
	size_t words_count;
	struct {
		const struct ctl_option *option;
		const char *value;
	} given[CTL_ARGS_MAX];
	size_t given_count;
};

extern const struct ctl_option ctl_options[]; /* ends with a name of NULL */

/* By "--name", "--name=…" or "-n"; or NULL. command: the first word before it, or NULL. */
const struct ctl_option *option_find(const char *arg, const char *command);
int args_parse(int argc, char **argv, struct ctl_args *ret_args);
bool args_has(const struct ctl_args *a, const char *option);
const char *args_value(const struct ctl_args *a, const char *option); /* the last one, or NULL */
size_t args_count(const struct ctl_args *a, const char *option);
const char *args_nth(const struct ctl_args *a, const char *option, size_t n); /* n < args_count */
/* The last one as a whole number from min to max; *ret_number stays as it is when there is none. */
int args_number(const struct ctl_args *a, const char *option, unsigned min, unsigned max,
	unsigned *ret_number);
/* The option's values, each K=V, as an object; NULL in *ret_object when there is none. One empty
 * value alone is the empty object. */
int args_pairs(const struct ctl_args *a, const char *option, json_t **ret_object);

/* ---- commands ---- */

struct ctl {
	struct ctl_args args; /* words: from the first after the command's own */
	bool json, quiet, force;
	unsigned timeout_s;	    /* unless --timeout is given; 0: libkekdclient's own */
	struct kekd_client *client; /* opened by the first request */
};

struct ctl_command {
	const char *words;   /* "key create" */
	const char *usage;   /* what follows them */
	const char *summary; /* one line */
	const char *details; /* for its own help; may be NULL */
	const char *options; /* their names, each between spaces: " label token " */
	size_t words_min, words_max;
	int (*run)(struct ctl *ctl);
};

/* Tables that end with words of NULL. */
extern const struct ctl_command ctl_key_commands[];
extern const struct ctl_command ctl_rotation_commands[];
extern const struct ctl_command ctl_usage_commands[];
extern const struct ctl_command ctl_data_commands[];
extern const struct ctl_command ctl_client_commands[];
extern const struct ctl_command ctl_approval_commands[];
extern const struct ctl_command ctl_apply_commands[];
extern const struct ctl_command ctl_cluster_commands[];
extern const struct ctl_command ctl_member_commands[];
extern const struct ctl_command ctl_audit_commands[];
extern const struct ctl_command ctl_backup_commands[];
extern const struct ctl_command ctl_snapshot_commands[];
extern const struct ctl_command ctl_snapshots_commands[];
extern const struct ctl_command ctl_hsm_commands[];
extern const struct ctl_command ctl_status_commands[];
extern const struct ctl_command ctl_bench_commands[];

/* help.c */
void help_general(FILE *out);
void help_command(const struct ctl_command *c, FILE *out);
/* The commands that begin with these words; false when there are none. */
bool help_group(const char *const *words, size_t count, FILE *out);
const struct ctl_command *command_find(
	const char *const *words, size_t count, size_t *ret_words); /* or NULL */

void command_next_words(const char *const *words, size_t count); /* what can follow, a line each */

/* complete.c: argv are the words behind "kekctl", the last one not yet whole. */
int complete_run(int argc, char **argv);

/* ---- message.c: what goes to standard error; control characters are replaced ---- */

void say_error(const char *format, ...) __attribute__((format(printf, 1, 2)));
void say_hint(const char *format, ...) __attribute__((format(printf, 1, 2)));
void say_note(const char *format, ...) __attribute__((format(printf, 1, 2)));
const char *hint_for(const char *code); /* of a problem; NULL: none */
/* Says what the answer's problem is and gives the exit status that goes with its HTTP status. */
int say_problem(const struct kekd_reply *r);
/* The answer has "a value that is no text" and the like: CTL_FAILED. */
int say_no_answer(const char *what);

/* ---- config.c ---- */

struct ctl_config {
	char **endpoints;
	unsigned endpoints_count;
	char *ca, *certificate, *key;
};

/* The file, as options and environment name it, with the options laid over it. */
int ctl_config_load(const struct ctl_args *a, struct ctl_config *ret_config);
void ctl_config_free(struct ctl_config *c);

/* ---- request.c ---- */

/* 0 when an answer came, whatever it says; to be freed with kekd_reply_free. */
int ctl_exchange(struct ctl *ctl, const char *method, const char *path, const json_t *body,
	const char *if_match, const char *if_none_match, struct kekd_reply *ret_reply);
/* CTL_OK; what is not 2xx is said to be an error, and a 2xx without JSON too. */
int ctl_check_reply(const struct kekd_reply *r);
/* As above; an answer other than 2xx is an error, and a 2xx without JSON too. Owned by the caller.
 */
int ctl_request(struct ctl *ctl, const char *method, const char *path, const json_t *body,
	const char *if_match, const char *if_none_match, json_t **ret_json);
int ctl_get(struct ctl *ctl, const char *path, json_t **ret_json);
/* Reads what is at path for its ETag. */
int ctl_get_etag(struct ctl *ctl, const char *path, char ret_etag[64], json_t **ret_json);
/* All pages of a list, as {MEMBER: […]}. */
int ctl_list(struct ctl *ctl, const char *path, const char *member, json_t **ret_json);
/* Is it a name that can stand in a path? what: "key", "client". */
int ctl_check_name(const char *what, const char *name);

/* ---- approval.c ---- */

/* Has a person type `word` to go on, unless --yes is given. what: what is about to be done. */
int ctl_ask(const struct ctl *ctl, const char *what, const char *word);

/* Is this answer a request for approval in the place of what was asked for (202)? Then tells so. */
bool ctl_show_pending(const struct ctl *ctl, const json_t *reply);

/* ---- io.c: files ---- */

/* All of a file, or of standard input when path is NULL or "-". More than limit bytes: an error
 * with `too_long`. secret: refuses a terminal unless forced. */
int input_read(const struct ctl *ctl, const char *path, bool secret, size_t limit,
	const char *too_long, struct buf *ret_data);

struct output {
	const char *path; /* NULL: standard output */
	char *temporary;  /* renamed to path at the end; NULL: written in place */
	int fd;
	bool force;
};
#define OUTPUT_INIT ((struct output){ .fd = -1 })

/* Checks and opens, so that nothing is asked of the server for an answer that has no place. Secret:
 * mode 0600, and no terminal unless forced. A file that exists is refused unless forced. */
int output_open(const struct ctl *ctl, const char *path, bool secret, struct output *ret_output);
/* A file of the command's own, which may be there already. */
int output_replace(const char *path, struct output *ret_output);
int output_write(struct output *o, const void *data, size_t len); /* all of it, then in place */
void output_free(struct output *o); /* drops what was not written to its end */

/* ---- progress.c: how far long work is, on a terminal ---- */

struct progress {
	uint64_t total, first, start_ns, next_ns;
	bool shown;
};

/* total, done: in one unit of the caller's; done: by an earlier run. */
void progress_start(struct progress *p, const struct ctl *ctl, uint64_t total, uint64_t done);
void progress_show(struct progress *p, uint64_t done, const char *note);
void progress_end(struct progress *p); /* wipes the line away */
/* For work that tells more than how far it is. */
bool progress_wanted(const struct ctl *ctl);
void progress_line(const char *text); /* in the place of the one before, cut off at the edge */
void progress_wipe(void);

/* ---- adopt.c ---- */

int key_adopt_run(struct ctl *ctl);

/* ---- backup.c ---- */

struct backup;
int backup_file_read(struct ctl *ctl, const char *path, struct backup *ret_backup);

/* ---- drill.c ---- */

int drill_run(struct ctl *ctl);

/* ---- lines.c ---- */

/* rewrap --lines; item: the contexts that go with every ciphertext. */
int rewrap_lines(struct ctl *ctl, const json_t *item);

/* ---- audit_keys.c ---- */

struct audit_pin;
int audit_keys_run(struct ctl *ctl);
/* The keys of all --key files; an array for free(), or NULL when there are none. */
int audit_pins_read(struct ctl *ctl, struct audit_pin **ret_pins, size_t *ret_count);
/* /v1/status of --against's node; NULL without that option. */
int audit_against(struct ctl *ctl, json_t **ret_status);

/* ---- tail.c ---- */

int audit_tail_run(struct ctl *ctl);
void audit_show_record(const json_t *record); /* a line for people */

/* ---- query.c, report.c ---- */

int audit_query_run(struct ctl *ctl);
int audit_report_run(struct ctl *ctl);

/* ---- show.c: tables and values ---- */

struct table;
#define TABLE_COLUMNS_MAX 12

/* headings: one per column, NULL at the end; one that begins with '>' is for numbers. */
struct table *table_new(const char *const *headings);
struct table *table_new_block(void); /* names and values, without headings */
void table_freep(struct table **t);
void table_row(struct table *t, const char *const *cells); /* as many as columns; NULL: empty */
void table_field(struct table *t, const char *name, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
size_t table_rows(const struct table *t);
void table_print(struct table *t);

void show_json(const json_t *value);
void show_line(const char *text, bool bad); /* control characters are replaced; bad ones stand out
					       in colour on a terminal */
/* Members of an object as text, "-" where absent. A text is good until some 60 others were made,
 * and cut off where it is longer than SHOW_TEXT_SIZE. */
#define SHOW_TEXT_SIZE 4096
const char *show_text(const json_t *object, const char *member);
const char *show_number(const json_t *object, const char *member);
const char *show_time(const json_t *object, const char *member);    /* to the second, UTC */
const char *show_version(const json_t *object, const char *member); /* "v3", or "none" */
const char *show_pairs(const json_t *object);			    /* "a=b, c=d" */
const char *show_list(const json_t *array, const char *separator);
const char *show_duration(json_int_t seconds);
const char *show_format(const char *format, ...) __attribute__((format(printf, 1, 2)));
long long number_of(const json_t *object, const char *member);	 /* 0 when absent */
const char *string_of(const json_t *object, const char *member); /* "" when absent */

#endif
