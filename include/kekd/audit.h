/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The audit log: JSON lines chained by SHA-256, durable before an answer leaves (doc/formats/ has
 * the record). One writer thread writes what came in meanwhile in one go and calls fdatasync once
 * (group commit). It fails closed: while the log cannot be written every submission ends with
 * KEKD_EAUDIT, and it tries again by itself every second.
 *
 * Files: DIR/audit-SEQ.jsonl, SEQ = the first record's, 20 digits. A file whose write or fdatasync
 * failed is never written again: the next file starts with a "gap" record that tells how much of
 * the old one counts.
 */
#ifndef KEKD_AUDIT_H
#define KEKD_AUDIT_H

#include "kekd/buf.h"
#include "kekd/metrics.h"
#include "kekd/uuid.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

enum audit_type {
	AUDIT_REQUEST, /* data plane and reads: one record, durable before the reply */
	AUDIT_INTENT,  /* before a change */
	AUDIT_OUTCOME, /* after it; has the intent's request id */
	AUDIT_REFUSED, /* nothing was done: subject to the bound on refusals unless force_durable */
	AUDIT_CHECKPOINT, /* a signed place in the log: detail's members stand in the record itself
			   */
	AUDIT_ANCHOR,	  /* the same; what is before that place was removed for its age */
	AUDIT_WITNESS,	  /* another node's checkpoint, as it told of it; detail as above */
	/* made by the writer itself: open, gap, refusals (a counted summary), close */
};

#define AUDIT_BLOB_HASH_SIZE 8
#define AUDIT_LINE_MAX (8 * 1024 * 1024) /* of a file, with its newline */

struct audit_version {
	unsigned version;
	struct uuid id;
	uint32_t wrapped, unwrapped, refused, failed; /* only those above 0 are written */
};

/* Strings are borrowed until done was called; NULL ones are left out. */
struct audit_record {
	enum audit_type type;
	bool force_durable; /* AUDIT_REFUSED: never counted away (first refused use per minute of a
			       version that is not enabled) */
	uint64_t time_us;
	const char *client, *identity, *address, *request_id, *traceparent, *operation, *key,
		*method, *path;
	const char *code;  /* of the error; NULL: result "ok" */
	int status;	   /* HTTP */
	uint32_t micros;   /* from the request's arrival to this record */
	uint64_t revision; /* commit number that the answer was made at */
	bool stale;
	json_t *const *contexts; /* per item, may be NULL where an item has none; one when all are
				    the same */
	size_t contexts_count;
	const struct audit_version *versions;
	size_t versions_count;
	const uint8_t (*blobs)[AUDIT_BLOB_HASH_SIZE]; /* first 8 bytes of SHA-256 of each blob that
							 was unwrapped */
	size_t blobs_count;
	json_t *detail; /* changes: what is asked for, or what came of it; owned by the caller; may
			   be NULL */
	/* On the writer's thread: err 0 (durable, or counted in a bounded summary) or KEKD_EAUDIT.
	 * Must not block. */
	void (*done)(struct audit_record *record, int err);
	void *user;
	/* the writer's own */
	struct audit_record *next;
};

struct audit;
struct usage; /* usage.h */
struct audit_config {
	const char *dir, *cluster, *node; /* borrowed */
	const char *sink;    /* a second place for what is durable: sink.h's spec; NULL: none */
	struct usage *usage; /* borrowed: is told of all that is durable; or NULL */
	bool hash_context;
	uint64_t max_bytes;
};

/* Finds the end of the chain, records a torn last line, starts the writer. A directory that cannot
 * be written is not an error: it opens failing, and recovers. KEKD_EAUDIT only when what is there
 * is not a log of this cluster and node. ret_error: text. */
int audit_open(const struct audit_config *config, struct audit **ret_audit, char ret_error[256]);
void audit_freep(struct audit **a); /* writes what is pending, a close record, ends the thread */
/* The same, but leaves the memory to threads that may still submit: their records are never
 * answered. For a process that is about to end; nothing else may follow. */
void audit_close(struct audit *a);

/* Any thread, never blocks. done is called in any case. */
void audit_submit(struct audit *a, struct audit_record *r);
/* Counts a refusal that needs no record of its own, at once: done is not called. False: submit it.
 * A flood of refusals costs no more than this. Any thread, never blocks. */
bool audit_count(struct audit *a, const struct audit_record *r);
/* n more (or fewer) records are on their way: while they are many, a sync waits for some of them,
 * at most a millisecond. Any thread, no lock. */
void audit_expect(struct audit *a, int n);
/* Waits until durable; for the control thread. Uses done and user. 0 or KEKD_EAUDIT. */
int audit_append(struct audit *a, struct audit_record *r);

/* The next record begins a new file, and soon: the chain runs on. Any thread, never blocks. */
void audit_rotate(struct audit *a);

struct audit_status {
	bool ok;
	uint64_t sequence; /* of the last durable record */
	uint64_t backlog;  /* records waiting */
	uint64_t syncs, failures, summarised;
	char file[64];
	char head[65];	  /* hash of the last durable record */
	char reason[160]; /* while not ok: what failed and what to do */
};
void audit_status(struct audit *a,
	struct audit_status *ret_status); /* any thread; never waits for the disk */
/* The second sink, as it is now. */
struct audit_sink_status {
	bool ok;	     /* it takes records */
	uint64_t sent, lost; /* records, since the start */
	char reason[120];    /* while not ok */
};
bool audit_sink_status(struct audit *a, struct audit_sink_status *ret_status); /* false: none */
/* How long each fdatasync took; valid as long as a. Any thread. */
const struct metrics_histogram *audit_sync_times(const struct audit *a);
bool audit_ok(struct audit *a); /* any thread, no lock: ask it before the token is asked */

/* The formats, for the writer and the tests: appends the members of r between "node" and "prev". */
void audit_format(struct buf *b, const struct audit_record *r, bool hash_context);

/* ---- signatures (signature.c) ---- */

#define AUDIT_PUBLIC_SIZE 91 /* SubjectPublicKeyInfo, DER, of a key on P-256 */
#define AUDIT_SIGNATURE_SIZE 64
#define AUDIT_FINGERPRINT_SIZE 65

/* What a checkpoint or an anchor says: record `at` of this log has the hash `head`. */
struct audit_mark {
	const char *kind; /* "checkpoint", "anchor" */
	const char *cluster, *node;
	uint64_t at;
	const char *head;
};
void audit_mark_digest(const struct audit_mark *m, uint8_t ret_digest[32]);
/* SHA-256 of the public key, hex. */
void audit_fingerprint(
	const uint8_t public[AUDIT_PUBLIC_SIZE], char ret_hex[AUDIT_FINGERPRINT_SIZE]);
bool audit_signature_ok(const uint8_t public[AUDIT_PUBLIC_SIZE], const uint8_t digest[32],
	const uint8_t signature[AUDIT_SIGNATURE_SIZE]);

/* Offline verification of a whole directory. */
struct audit_report {
	uint64_t records, files, gaps, first_sequence, last_sequence;
	char head[65];
	char first_time[32], last_time[32];
	/* the first fault: where it is and what it is; empty: none */
	char fault_file[128];
	uint64_t fault_line;	 /* from 1 */
	uint64_t fault_sequence; /* the record's, 0 when it cannot be read */
	char fault[200];
	json_t *notes; /* gaps, torn lines, opens: array of objects; owned by the caller */
	uint64_t checkpoints;
	uint64_t signed_through; /* the newest record that a checkpoint vouches for; 0: none. Worth
				    something only where signatures were checked. */
	bool signatures_checked;
	uint64_t witnessed, witnessed_through; /* claims of another log that hold; the newest */
};
/* What an auditor knows from elsewhere. */
struct audit_pin {
	uint8_t public[AUDIT_PUBLIC_SIZE];
};
struct audit_witnesses; /* what another node's log says of this one (witness.c) */
struct audit_expected {
	const struct audit_pin *pins; /* every signature must be by one of them; none: unchecked */
	size_t pins_count;
	const struct audit_witnesses *witnesses; /* or NULL */
	const char *cluster, *node;		 /* NULL: any */
	uint64_t live_sequence; /* a record that must be there, with this hash; 0: none */
	const char *live_head;
};
/* Verifies the log in dir and keeps what it witnessed of other nodes' logs, 40 bytes each. With
 * pins each claim must be signed by one of them, or does not count. As audit_verify. */
int audit_witnesses_read(const char *dir, const struct audit_pin *pins, size_t pins_count,
	struct audit_witnesses **ret_witnesses, struct audit_report *ret_report);
void audit_witnesses_freep(struct audit_witnesses **w);

/* 0: whole; KEKD_EAUDIT: a fault; -errno: cannot be read. Bounded memory. */
int audit_verify(const char *dir, struct audit_report *ret_report);
/* The same, and calls each for every record in order that verifies; len: of its line. */
typedef void audit_record_fn(const json_t *record, size_t len, void *user);
int audit_verify_each(
	const char *dir, audit_record_fn *each, void *user, struct audit_report *ret_report);
/* The same from the file with that record on: what was before it may be missing or changed. */
int audit_verify_from(const char *dir, uint64_t sequence, audit_record_fn *each, void *user,
	struct audit_report *ret_report);
/* audit_verify, held against more than the files themselves. */
int audit_verify_expected(
	const char *dir, const struct audit_expected *expected, struct audit_report *ret_report);

/* ---- the oldest file (retain.c) ---- */

struct audit_oldest {
	char file[64];
	uint64_t through; /* its last record that counts, as the next file tells */
	char head[65];	  /* and that one's hash */
};
/* 1: the oldest of more than `keep` files; 0: there are no more; KEKD_EAUDIT: the next one does not
 * begin with a whole record; -errno. */
int audit_oldest(const char *dir, size_t keep, struct audit_oldest *ret_oldest);
/* Removes it. An anchor for its end must be durable before. 0 or -errno. */
int audit_remove(const char *dir, const struct audit_oldest *oldest);

/* ---- reading, without verifying (reader.c) ---- */

struct audit_reader;
#define AUDIT_READER_ALL SIZE_MAX
/* From the last `last` records of the directory's log on, 0 to AUDIT_READER_ALL: from the first. 0
 * or -errno. One thread. */
int audit_reader_open(const char *dir, size_t last, struct audit_reader **ret_reader);
void audit_reader_freep(struct audit_reader **r);
/* From a place that audit_reader_place gave; since_us: or from where records of that time can begin
 * (0: the first). -ESTALE: there is no such place, the file is gone. */
struct audit_place {
	uint64_t file;	 /* sequence number in its name; 0: none */
	uint64_t offset; /* of the next line */
};
int audit_reader_open_at(
	const char *dir, const struct audit_place *place, struct audit_reader **ret_reader);
int audit_reader_open_since(const char *dir, uint64_t since_us, struct audit_reader **ret_reader);
void audit_reader_place(const struct audit_reader *r, struct audit_place *ret_place);
/* 1: a line without its newline, good until the next call; 0: no more for now, ask again later; or
 * -errno. A line that is longer than any record is damage: it is cut off, with *ret_len
 * AUDIT_LINE_MAX. */
int audit_reader_next(struct audit_reader *r, const char **ret_line, size_t *ret_len);

/* ---- which records are asked for (filter.c); any thread ---- */

struct audit_filter { /* texts: borrowed; NULL: any */
	const char *client, *key, *operation, *code, *request_id;
	uint64_t since_us, until_us; /* from, and before; 0: any */
	bool denied;		     /* refused, failed and counted refusals alone */
	bool has_blob;
	uint8_t blob[AUDIT_BLOB_HASH_SIZE]; /* of the wrapped blob that was unwrapped */
};
/* False: the line cannot match, and need not be parsed. */
bool audit_filter_may_match(const struct audit_filter *f, const char *line, size_t len);
bool audit_filter_matches(const struct audit_filter *f, const json_t *record);

#endif
