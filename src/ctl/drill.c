/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kekctl drill: would this backup restore, and is every version in that token? A kekd of its own,
 * with a scratch directory, tries it (kekd drill); the server that runs is only told how it ended,
 * and signs that.
 */
#include "ctl.h"

#include "kekd/backup.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <openssl/evp.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define DEFAULT_CONFIG KEKD_SYSCONFDIR "/kekd/kekd.yaml"

struct drill {
	char dir[PATH_MAX], log[PATH_MAX], out[PATH_MAX], kekd[PATH_MAX];
	int status; /* of kekd */
};

/* ---- the scratch directory ---- */

static int
remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st, (void)type, (void)ftw;
	return remove(path);
}

static int
open_scratch(struct drill *d)
{
	const char *tmp = getenv("TMPDIR");

	snprintf(d->dir, sizeof(d->dir), "%s/kekd-drill-XXXXXX", tmp && *tmp ? tmp : "/tmp");
	if (!mkdtemp(d->dir)) {
		say_error("cannot make a scratch directory %s: %s", d->dir, strerror(errno));
		d->dir[0] = '\0';
		return CTL_FAILED;
	}
	/* kekd's users go through it to their own directories. */
	if (chmod(d->dir, 0711) == 0 &&
		snprintf(d->log, sizeof(d->log), "%s/log", d->dir) < (int)sizeof(d->log) &&
		snprintf(d->out, sizeof(d->out), "%s/report", d->dir) < (int)sizeof(d->out))
		return CTL_OK;
	say_error("the scratch directory %s cannot be used: set TMPDIR", d->dir);
	return CTL_FAILED;
}

static void
close_scratch(struct drill *d)
{
	if (d->dir[0])
		nftw(d->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* ---- kekd ---- */

/* Beside this program, as in a build; in the installation's sbin; or wherever PATH says. */
static void
find_kekd(struct drill *d)
{
	static const char *const places[] = { "/kekd", "/../sbin/kekd" };
	char self[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	char *slash;

	self[n > 0 ? n : 0] = '\0';
	slash = strrchr(self, '/');
	if (slash)
		*slash = '\0';
	for (size_t i = 0; slash && i < STR_COUNT(places); i++)
		if (snprintf(d->kekd, sizeof(d->kekd), "%s%s", self, places[i]) <
				(int)sizeof(d->kekd) &&
			access(d->kekd, X_OK) == 0)
			return;
	snprintf(d->kekd, sizeof(d->kekd), "kekd");
}

/* What goes from kekctl's command line to kekd's. */
static const struct {
	const char *option, *kekd;
} passed[] = {
	{ "token", "--token" },
	{ "module", "--module" },
	{ "pin-source", "--pin-source" },
};

static void
become_kekd(const struct ctl *ctl, const struct drill *d, const char *file)
{
	const char *config = args_value(&ctl->args, "kekd-config");
	const char *argv[16] = { d->kekd, "drill", file, "--scratch", d->dir, "--config",
		config ? config : DEFAULT_CONFIG };
	int out = open(d->out, O_WRONLY | O_CREAT | O_EXCL, 0600);
	int log = open(d->log, O_WRONLY | O_CREAT | O_EXCL, 0600);
	size_t n = 7;

	for (size_t i = 0; i < STR_COUNT(passed); i++)
		if (args_has(&ctl->args, passed[i].option)) {
			argv[n++] = passed[i].kekd;
			argv[n++] = args_value(&ctl->args, passed[i].option);
		}
	if (out < 0 || log < 0 || dup2(out, STDOUT_FILENO) < 0 || dup2(log, STDERR_FILENO) < 0)
		_exit(126);
	execvp(d->kekd, (char *const *)argv);
	dprintf(STDERR_FILENO, "%s: %s\n", d->kekd, strerror(errno));
	_exit(127);
}

static int
run_kekd(const struct ctl *ctl, struct drill *d, const char *file)
{
	pid_t pid;

	find_kekd(d);
	fflush(NULL);
	pid = fork();
	if (pid == 0)
		become_kekd(ctl, d, file);
	if (pid < 0 || waitpid(pid, &d->status, 0) != pid) {
		say_error("kekd cannot be started: %s", strerror(errno));
		return CTL_FAILED;
	}
	return CTL_OK;
}

/* ---- the report ---- */

/* kekd's log, without what it says of its own working. */
static void
show_log(const struct drill *d)
{
	FILE *f = fopen(d->log, "re");
	char line[1024];

	while (f && fgets(line, sizeof(line), f)) {
		line[strcspn(line, "\n")] = '\0';
		say_note("%s", line);
	}
	if (f)
		fclose(f);
}

static int
read_report(struct ctl *ctl, const struct drill *d, json_t **ret_report)
{
	_cleanup_(buf_free) struct buf text = BUF_INIT(BACKUP_SIZE_MAX + 1);
	char error[JSON_ERROR_SIZE] = "";
	struct stat st;

	if (stat(d->out, &st) == 0 && st.st_size > 0 &&
		input_read(ctl, d->out, false, BACKUP_SIZE_MAX, "is too long for a report",
			&text) == CTL_OK)
		*ret_report = json_parse((const char *)text.data, text.len, error);
	if (*ret_report)
		return CTL_OK;
	say_error("the drill came to no result; the scratch kekd said:");
	show_log(d);
	return CTL_UNVERIFIED;
}

static json_t *
token_texts(const json_t *report)
{
	json_t *texts = json_array();
	const json_t *t;
	size_t i;

	json_array_foreach(json_object_get(report, "tokens"), i, t)
		json_array_append_new(
			texts, json_sprintf("%s %s serial %s", string_of(t, "manufacturer"),
				       string_of(t, "label"), string_of(t, "serial")));
	return texts;
}

/* What the server is told: the whole report may be larger than a request. */
static json_t *
summary(const json_t *report)
{
	const json_t *backup = json_object_get(report, "backup");
	const json_t *counts = json_object_get(report, "counts");
	uint8_t digest[32];
	char hex[64];
	size_t len = 0;
	char *text = json_canonical(report, &len);
	bool ok = text && EVP_Digest(text, len, digest, NULL, EVP_sha256(), NULL) == 1;

	json_text_free(text);
	if (!ok)
		return NULL;
	str_hex(digest, sizeof(digest), hex);
	return json_pack("{s:s, s:b, s:s, s:s, s:I, s:I, s:I, s:I, s:o, s:o}", "time",
		string_of(report, "time"), "ok", json_is_true(json_object_get(report, "ok")),
		"backup", string_of(backup, "created"), "generation",
		string_of(backup, "generation"), "revision", number_of(backup, "revision"),
		"proven", number_of(counts, "proven"), "failed", number_of(counts, "failed"),
		"not_covered", number_of(counts, "not_covered"), "tokens", token_texts(report),
		"sha256", json_stringn(hex, sizeof(hex)));
}

/* The report, and what the server says and signs of it. */
static int
post_report(struct ctl *ctl, json_t *report)
{
	_cleanup_(json_freep) json_t *body = summary(report);
	_cleanup_(json_freep) json_t *answer = NULL;
	int status;

	if (args_has(&ctl->args, "offline")) {
		say_note("not reported to a server: not signed, and no metric tells of it");
		return CTL_OK;
	}
	status = ctl_request(ctl, "POST", "/v1/backup/drills", body, NULL, NULL, &answer);
	if (status != CTL_OK) {
		say_hint("the drill itself is as reported; --offline leaves the server out");
		return status;
	}
	json_object_set(report, "statement", json_object_get(answer, "statement"));
	json_object_set(report, "signature", json_object_get(answer, "signature"));
	return CTL_OK;
}

static void
show_failures(const json_t *report)
{
	_cleanup_(table_freep) struct table *t = table_new(
		(const char *const[]){ "KEY", "VERSION", "STATE", "TOKEN", "RESULT", NULL });
	const json_t *v;
	size_t i;

	json_array_foreach(json_object_get(report, "versions"), i, v)
		if (strcmp(string_of(v, "result"), "proven") != 0)
			table_row(t, (const char *const[]){ string_of(v, "key"),
					     show_version(v, "version"), show_text(v, "state"),
					     show_text(v, "token"), show_text(v, "result") });
	if (table_rows(t) > 0) {
		putchar('\n');
		table_print(t);
	}
}

static void
show_report(const json_t *report)
{
	_cleanup_(table_freep) struct table *t = table_new_block();
	_cleanup_(json_freep) json_t *tokens = token_texts(report);
	const json_t *backup = json_object_get(report, "backup");
	const json_t *counts = json_object_get(report, "counts"), *text;
	const json_t *signature = json_object_get(report, "signature");
	size_t i;

	table_field(t, "Result", "%s",
		json_is_true(json_object_get(report, "ok")) ? "GOOD" : "NOT GOOD");
	table_field(t, "Backup", "of %s, cluster %s, revision %s", show_time(backup, "created"),
		string_of(backup, "cluster"), show_number(backup, "revision"));
	table_field(t, "Restored", "%s",
		json_is_true(json_object_get(report, "restored")) ? "yes, and it verifies" : "NO");
	table_field(t, "Token", "%s", show_list(tokens, ", "));
	table_field(t, "Versions", "%s proven, %s failed, %s not covered",
		show_number(counts, "proven"), show_number(counts, "failed"),
		show_number(counts, "not_covered"));
	table_field(t, "Signature", "%s",
		json_is_object(signature) ? "by the node that it was reported to" : "none");
	json_array_foreach(json_object_get(report, "not_covered"), i, text)
		table_field(t, i == 0 ? "Not covered" : "", "%s", json_string_value(text));
	table_print(t);
	show_failures(report);
}

static int
write_report(const json_t *report, struct output *out)
{
	char *text = json_dumps(report, JSON_INDENT(2) | JSON_SORT_KEYS);
	int status = text ? output_write(out, text, strlen(text)) : CTL_FAILED;

	json_text_free(text);
	return status;
}

static int
finish(struct ctl *ctl, json_t *report, struct output *out)
{
	int status = post_report(ctl, report), written = CTL_OK;
	bool shown = out->fd == STDOUT_FILENO; /* by being written there */

	if (ctl->json && !shown)
		show_json(report);
	else if (!ctl->quiet && !shown)
		show_report(report);
	if (out->fd >= 0)
		written = write_report(report, out);
	if (!json_is_true(json_object_get(report, "ok")))
		return CTL_UNVERIFIED;
	return status != CTL_OK ? status : written;
}

/* kekd reads it again: what came through standard input is gone by then. */
static int
check_file(const char *file)
{
	if (strcmp(file, "-") != 0)
		return CTL_OK;
	say_error("a drill reads its backup twice: give a file");
	return CTL_USAGE;
}

int
drill_run(struct ctl *ctl)
{
	_cleanup_(json_freep) json_t *report = NULL;
	_cleanup_(output_free) struct output out = OUTPUT_INIT;
	struct backup b = { 0 };
	struct drill d = { 0 };
	const char *file = ctl->args.words[0];
	int status = check_file(file);

	if (status == CTL_OK)
		status = backup_file_read(ctl, file, &b);
	backup_free(&b);
	/* Before the work, which takes a while: a report without a place would be lost. */
	if (status == CTL_OK && args_has(&ctl->args, "out"))
		status = output_open(ctl, args_value(&ctl->args, "out"), false, &out);
	if (status == CTL_OK)
		status = open_scratch(&d);
	if (status == CTL_OK)
		status = run_kekd(ctl, &d, file);
	if (status == CTL_OK)
		status = read_report(ctl, &d, &report);
	close_scratch(&d);
	return status == CTL_OK ? finish(ctl, report, &out) : status;
}
