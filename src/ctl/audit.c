/* SPDX-License-Identifier: Apache-2.0 */
/* kekctl audit …: verifying a log from its files alone, and where the server's ends. */
#include "records.h"

#include "kekd/audit.h"
#include "kekd/err.h"

#include <stdlib.h>
#include <string.h>

static json_t *
report_json(const struct audit_report *r)
{
	json_t *value = json_pack("{s:b, s:I, s:I, s:I, s:I, s:I, s:s, s:s, s:s}", "ok",
		r->fault[0] == '\0', "records", (json_int_t)r->records, "files",
		(json_int_t)r->files, "gaps", (json_int_t)r->gaps, "first_sequence",
		(json_int_t)r->first_sequence, "last_sequence", (json_int_t)r->last_sequence,
		"first_time", r->first_time, "last_time", r->last_time, "head", r->head);

	if (r->fault[0])
		json_object_set_new(value, "fault",
			json_pack("{s:s, s:I, s:I, s:s}", "file", r->fault_file, "line",
				(json_int_t)r->fault_line, "sequence",
				(json_int_t)r->fault_sequence, "what", r->fault));
	json_object_set_new(value, "checkpoints", json_integer((json_int_t)r->checkpoints));
	json_object_set_new(value, "signed_through", json_integer((json_int_t)r->signed_through));
	json_object_set_new(
		value, "behind", json_integer((json_int_t)(r->last_sequence - r->signed_through)));
	json_object_set_new(value, "signatures",
		json_string(!r->signatures_checked ? "not_checked"
			    : r->fault[0]	   ? "fault"
						   : "good"));
	json_object_set_new(value, "witnessed", json_integer((json_int_t)r->witnessed));
	json_object_set_new(
		value, "witnessed_through", json_integer((json_int_t)r->witnessed_through));
	if (r->notes)
		json_object_set(value, "notes", r->notes);
	return value;
}

static const char *
report_time(const char *text)
{
	return strlen(text) > 19 ? show_format("%.10s %.8sZ", text, text + 11) : "-";
}

/* The members that have no column of their own. */
static const char *
note_rest(const json_t *note)
{
	_cleanup_(json_freep) json_t *rest = json_copy((json_t *)note);
	static const char *const columns[] = { "seq", "time", "type", "in" };
	struct buf b = BUF_INIT(SHOW_TEXT_SIZE);
	const char *name, *text;
	json_t *value;

	for (size_t i = 0; i < STR_COUNT(columns); i++)
		json_object_del(rest, columns[i]);
	json_object_foreach(rest, name, value) {
		char *json = json_is_string(value)
				     ? NULL
				     : json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
		buf_printf(&b, "%s%s %s", b.len > 0 ? ", " : "", name,
			json ? json : json_string_value(value));
		json_text_free(json);
	}
	text = show_format("%.*s", (int)b.len, b.len > 0 ? (const char *)b.data : "");
	buf_free(&b);
	return text;
}

static void
show_notes(const json_t *notes)
{
	_cleanup_(table_freep) struct table *t = table_new(
		(const char *const[]){ ">SEQUENCE", "TIME", "WHAT", "DETAILS", "FILE", NULL });
	const json_t *note;
	size_t i;

	json_array_foreach((json_t *)notes, i, note)
		table_row(t,
			(const char *const[]){ show_number(note, "seq"), show_time(note, "time"),
				show_text(note, "type"), note_rest(note), show_text(note, "in") });
	if (table_rows(t) == 0)
		return;
	puts("\nStarts, ends and gaps of the log:");
	table_print(t);
}

static void
show_signatures(struct table *t, const struct audit_report *r)
{
	unsigned long long behind = r->last_sequence - r->signed_through;

	if (r->signed_through > 0)
		table_field(t, "Checkpoints",
			"%llu, the last for record %llu; records behind it: %llu",
			(unsigned long long)r->checkpoints, (unsigned long long)r->signed_through,
			behind);
	else
		table_field(t, "Checkpoints", "none");
	if (!r->signatures_checked)
		table_field(t, "Signatures",
			"not checked: give --key FILE, once written by \"kekctl "
			"audit keys\" and kept elsewhere");
	else
		table_field(t, "Signatures", "%s",
			r->fault[0] ? "-" : "good, by the keys that were given");
}

static void
show_witness(struct table *t, const struct audit_report *r)
{
	if (r->fault[0])
		table_field(t, "Witness", "-");
	else if (r->witnessed == 0)
		table_field(t, "Witness", "tells nothing of this log");
	else
		table_field(t, "Witness", "%llu places agree, the last is record %llu",
			(unsigned long long)r->witnessed, (unsigned long long)r->witnessed_through);
}

static void
show_report(const char *dir, const struct audit_report *r, const struct audit_expected *e)
{
	_cleanup_(table_freep) struct table *t = table_new_block();

	table_field(t, "Log", "%s", dir);
	table_field(t, "Verdict", "%s",
		r->fault[0] ? "NOT WHOLE"
			    : "whole: up to its head no record was changed, removed or added");
	table_field(t, "Records", "%llu (files: %llu), sequence %llu to %llu",
		(unsigned long long)r->records, (unsigned long long)r->files,
		(unsigned long long)r->first_sequence, (unsigned long long)r->last_sequence);
	table_field(t, "Time", "%s to %s", report_time(r->first_time), report_time(r->last_time));
	table_field(t, "Gaps", "%llu", (unsigned long long)r->gaps);
	table_field(t, "Head", "%s", r->head[0] ? r->head : "-");
	show_signatures(t, r);
	if (e->witnesses)
		show_witness(t, r);
	if (e->live_head)
		table_field(t, "Server", "%s",
			r->fault[0] ? "-"
				    : "its head is in this log, and so all that is before it");
	table_print(t);
	show_notes(r->notes);
}

static void
say_fault(const struct audit_report *r)
{
	if (r->fault_sequence > 0)
		say_error("%s, line %llu, sequence %llu: %s", r->fault_file,
			(unsigned long long)r->fault_line, (unsigned long long)r->fault_sequence,
			r->fault);
	else
		say_error("%s, line %llu: %s", r->fault_file, (unsigned long long)r->fault_line,
			r->fault);
	say_hint("keep the files as they are, and compare them with a copy from elsewhere; what "
		 "stands before the fault verifies");
}

/* The server's head is read first: what is written meanwhile only makes the log longer. */
static void
expect_live(const json_t *status, struct audit_expected *e)
{
	const json_t *audit = json_object_get(status, "audit");

	if (!status)
		return;
	e->cluster = string_of(status, "cluster");
	e->node = string_of(status, "node");
	e->live_sequence = (uint64_t)number_of(audit, "sequence");
	e->live_head = string_of(audit, "head");
}

static int
verify_dir(struct ctl *ctl, const struct audit_expected *e)
{
	struct audit_report report = { 0 };
	_cleanup_(json_freep) json_t *value = NULL;
	const char *dir = ctl->args.words[0];
	int err = audit_verify_expected(dir, e, &report);

	if (err < 0 && err != KEKD_EAUDIT) {
		say_error("cannot read %s: %s", dir, kekd_strerror(err));
		say_hint("give the directory with the audit-*.jsonl files: \"dir\" of the server's "
			 "audit section");
		json_decref(report.notes);
		return CTL_FAILED;
	}
	value = report_json(&report);
	json_decref(report.notes);
	report.notes = json_object_get(value, "notes");
	if (ctl->json)
		show_json(value);
	else if (!ctl->quiet)
		show_report(dir, &report, e);
	fflush(stdout);
	if (err < 0)
		say_fault(&report);
	return err < 0 ? CTL_UNVERIFIED : CTL_OK;
}

/* The witness itself must be whole, or its word counts for nothing. */
static int
read_witness(struct ctl *ctl, struct audit_expected *e, struct audit_witnesses **ret_witnesses)
{
	const char *dir = args_value(&ctl->args, "witness");
	struct audit_report report = { 0 };
	int err;

	if (!dir)
		return CTL_OK;
	err = audit_witnesses_read(dir, e->pins, e->pins_count, ret_witnesses, &report);
	json_decref(report.notes);
	if (err == 0) {
		e->witnesses = *ret_witnesses;
		return CTL_OK;
	}
	say_error("the witness %s %s", dir, err == KEKD_EAUDIT ? "is not whole" : "cannot be read");
	if (err == KEKD_EAUDIT)
		say_fault(&report);
	else
		say_hint("%s: give the directory with the other node's audit-*.jsonl files",
			kekd_strerror(err));
	return err == KEKD_EAUDIT ? CTL_UNVERIFIED : CTL_FAILED;
}

static int
run_verify(struct ctl *ctl)
{
	_cleanup_(audit_witnesses_freep) struct audit_witnesses *witnesses = NULL;
	_cleanup_(json_freep) json_t *live = NULL;
	struct audit_expected expected = { 0 };
	struct audit_pin *pins = NULL;
	int status = audit_pins_read(ctl, &pins, &expected.pins_count);

	if (status == CTL_OK)
		status = audit_against(ctl, &live);
	if (status == CTL_OK) {
		expected.pins = pins;
		expect_live(live, &expected);
		status = read_witness(ctl, &expected, &witnesses);
	}
	if (status == CTL_OK) {
		status = verify_dir(ctl, &expected);
	}
	free(pins);
	return status;
}

static int
run_head(struct ctl *ctl)
{
	_cleanup_(json_freep) json_t *status = NULL;
	_cleanup_(table_freep) struct table *t = NULL;
	const json_t *audit;
	int exit_status = ctl_get(ctl, "/v1/status", &status);

	if (exit_status != CTL_OK)
		return exit_status;
	audit = json_object_get(status, "audit");
	if (ctl->json) {
		show_json(audit);
		return CTL_OK;
	}
	if (ctl->quiet) {
		puts(string_of(audit, "head"));
		return CTL_OK;
	}
	t = table_new_block();
	table_field(t, "Node", "%s", show_text(status, "node"));
	table_field(t, "Sequence", "%s", show_number(audit, "sequence"));
	table_field(t, "Head", "%s", show_text(audit, "head"));
	table_field(t, "File", "%s", show_text(audit, "file"));
	table_field(t, "State", "%s",
		json_is_true(json_object_get(audit, "ok")) ? "writing"
							   : show_text(audit, "reason"));
	table_field(t, "Waiting", "%s", show_number(audit, "backlog"));
	table_print(t);
	return CTL_OK;
}

const struct ctl_command ctl_audit_commands[] = {
	{ "audit keys", "", "Shows the node's public key, for \"kekctl audit verify --key\"",
		"Write it to a file and keep that elsewhere: the key is worth something only if "
		"it\n"
		"comes from another place than the log that it verifies.",
		"", 0, 0, audit_keys_run },
	{ "audit verify", "DIR [--key FILE] [--against URL] [--witness DIR]",
		"Verifies an audit log from its files, without a server",
		"DIR holds the audit-*.jsonl files. A changed, missing, inserted or swapped "
		"record\n"
		"is named by file, line and sequence number; exit status 6. With --key, which may "
		"be\n"
		"given again, every checkpoint must be signed with one of these keys. With "
		"--against\n"
		"the log must hold what the node says is the newest record: a cut-off end shows.\n"
		"With --witness it must be what another node's log says of it.",
		" about-key against witness ", 1, 1, run_verify },
	{ "audit tail", "DIR [--last N] [--follow]", "Shows the newest records of an audit log",
		"DIR holds the audit-*.jsonl files, on this machine. With -o json the lines are "
		"shown as\n"
		"they stand there. Nothing is verified: \"kekctl audit verify\" does that.",
		" last follow ", 1, 1, audit_tail_run },
	{ "audit query",
		"[--dir DIR] [--client NAME] [--key KEY] [--since TIME] [--op OP] [--denied]",
		"Shows the records that match",
		"From the server (a client sees its own records, audit.read those of all), or "
		"from\n"
		"the files in DIR without one, where -o json shows lines as they stand there.\n"
		"--blob FILE finds who unwrapped this very ciphertext. Nothing is verified.",
		RECORDS_OPTIONS "limit ", 0, 0, audit_query_run },
	{ "audit report", "[--dir DIR] [--client NAME] [--since TIME] [--format csv]",
		"Who used which key, when, and how often: the auditor's page",
		"With --dir the log's chain is verified in the same pass; exit status 6 when it "
		"is\n"
		"not whole.",
		RECORDS_OPTIONS "format ", 0, 0, audit_report_run },
	{ "audit head", "", "Shows where the server's audit log ends", NULL, "", 0, 0, run_head },
	{ NULL },
};
