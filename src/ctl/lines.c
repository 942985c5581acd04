/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kekctl rewrap --lines: a file with a ciphertext on each line, into another with the same lines
 * under the primary version. What is done goes to OUT.partial; OUT.progress says how much of it
 * counts, and of which input, so that the same command goes on where an earlier one was broken off,
 * however it ended. Both are gone when OUT is there.
 */
#include "ctl.h"

#include "kekd/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define BATCH 100		 /* lines in a request */
#define BATCH_BYTES (512 * 1024) /* and bytes, well under what a server takes */
#define LINE_MAX_BYTES (64 * 1024)
#define SAVE_NS CLOCK_S
#define PATIENCE_S 60 /* how long a server may be away before we stop */
#define DELAY_MAX_S 10

struct line {
	char *text;	 /* as it was read */
	size_t raw, len; /* with and without what ends it */
};

struct lines {
	struct ctl *ctl;
	const char *in_path, *out_path;
	char *partial, *progress;
	FILE *in, *out;
	EVP_MD_CTX *digest;	      /* of the first in_bytes of the input */
	json_t *task;		      /* key and contexts: what was begun */
	uint64_t in_bytes, out_bytes; /* done, and in OUT.partial */
	uint64_t lines, moved, primary, failed, resumed;
	uint64_t saved_ns;
	bool keep_going;
	struct line batch[BATCH];
	size_t count;
};

static int
fail_file(const char *what, const char *path)
{
	say_error("cannot %s %s: %s", what, path, strerror(errno));
	return CTL_FAILED;
}

/* ---- how far it is ---- */

static int
digest_hex(const struct lines *l, char ret_hex[65])
{
	EVP_MD_CTX *copy = EVP_MD_CTX_new();
	uint8_t hash[32];
	bool ok = copy && EVP_MD_CTX_copy_ex(copy, l->digest) == 1 &&
		  EVP_DigestFinal_ex(copy, hash, NULL) == 1;

	EVP_MD_CTX_free(copy);
	if (!ok) {
		say_error("no memory for a hash");
		return CTL_FAILED;
	}
	str_hex(hash, sizeof(hash), ret_hex);
	ret_hex[64] = '\0';
	return CTL_OK;
}

static json_t *
progress_json(const struct lines *l, const char *sha256)
{
	return json_pack("{s:O, s:I, s:s, s:I, s:I, s:I, s:I, s:I}", "task", l->task, "in_bytes",
		(json_int_t)l->in_bytes, "in_sha256", sha256, "out_bytes", (json_int_t)l->out_bytes,
		"lines", (json_int_t)l->lines, "rewrapped", (json_int_t)l->moved, "already_primary",
		(json_int_t)l->primary, "failed", (json_int_t)l->failed);
}

/* First the lines, then what says that they count. */
static int
save(struct lines *l)
{
	_cleanup_(output_free) struct output o = OUTPUT_INIT;
	_cleanup_(json_freep) json_t *value = NULL;
	char sha256[65];
	size_t len = 0;
	char *text;
	int status;

	if (fflush(l->out) != 0 || fdatasync(fileno(l->out)) != 0)
		return fail_file("write", l->partial);
	status = digest_hex(l, sha256);
	if (status != CTL_OK)
		return status;
	value = progress_json(l, sha256);
	text = value ? json_canonical(value, &len) : NULL;
	status = text ? output_replace(l->progress, &o) : CTL_FAILED;
	if (status == CTL_OK)
		status = output_write(&o, text, len);
	json_text_free(text);
	l->saved_ns = clock_boot_ns();
	return status;
}

static int
read_progress(const struct lines *l, json_t **ret_value)
{
	char error[JSON_ERROR_SIZE] = "";
	struct buf text = BUF_INIT(0);
	int status = input_read(l->ctl, l->progress, false, LINE_MAX_BYTES, "too long", &text);

	if (status != CTL_OK)
		return status;
	*ret_value = json_parse((const char *)text.data, text.len, error);
	buf_free(&text);
	if (*ret_value)
		return CTL_OK;
	say_error("%s: %s", l->progress, error);
	return CTL_FAILED;
}

static int
start_anew_hint(const struct lines *l, const char *what)
{
	say_error("%s: %s", l->progress, what);
	say_hint("give what it was begun with, or begin anew: rm %s %s", l->progress, l->partial);
	return CTL_USAGE;
}

static int
digest_file(struct lines *l, uint64_t bytes)
{
	char block[65536];

	while (bytes > 0) {
		size_t want = bytes < sizeof(block) ? (size_t)bytes : sizeof(block);
		size_t n = fread(block, 1, want, l->in);
		if (n == 0)
			break;
		EVP_DigestUpdate(l->digest, block, n);
		bytes -= n;
	}
	return ferror(l->in) ? fail_file("read", l->in_path) : CTL_OK;
}

static int
resume(struct lines *l)
{
	_cleanup_(json_freep) json_t *p = NULL;
	char sha256[65];
	struct stat st;
	int status = read_progress(l, &p);

	if (status != CTL_OK)
		return status;
	if (!json_equal(json_object_get(p, "task"), l->task))
		return start_anew_hint(l, "it was begun with another key or context");
	l->in_bytes = (uint64_t)number_of(p, "in_bytes");
	l->out_bytes = (uint64_t)number_of(p, "out_bytes");
	l->lines = l->resumed = (uint64_t)number_of(p, "lines");
	l->moved = (uint64_t)number_of(p, "rewrapped");
	l->primary = (uint64_t)number_of(p, "already_primary");
	l->failed = (uint64_t)number_of(p, "failed");
	if ((status = digest_file(l, l->in_bytes)) != CTL_OK ||
		(status = digest_hex(l, sha256)) != CTL_OK)
		return status;
	if (strcmp(sha256, string_of(p, "in_sha256")) != 0)
		return start_anew_hint(l, "the lines that are done have changed in the input");
	if (fstat(fileno(l->out), &st) != 0 || (uint64_t)st.st_size < l->out_bytes)
		return start_anew_hint(l, "the lines that are done are not all there any more");
	if (ftruncate(fileno(l->out), (off_t)l->out_bytes) != 0 ||
		fseeko(l->out, (off_t)l->out_bytes, SEEK_SET) != 0)
		return fail_file("go on in", l->partial);
	return CTL_OK;
}

/* ---- a batch ---- */

static void
drop_batch(struct lines *l)
{
	for (size_t i = 0; i < l->count; i++)
		free(l->batch[i].text);
	l->count = 0;
}

static size_t
without_end(const char *text, size_t len)
{
	len -= len > 0 && text[len - 1] == '\n';
	return len - (len > 0 && text[len - 1] == '\r');
}

static int
read_batch(struct lines *l)
{
	size_t room = BATCH_BYTES;

	while (l->count < BATCH && room >= LINE_MAX_BYTES) {
		struct line *line = &l->batch[l->count];
		size_t size = 0;
		ssize_t n = getline(&line->text, &size, l->in);

		l->count++; /* its memory is the batch's, whatever came */
		line->raw = n > 0 ? (size_t)n : 0;
		line->len = without_end(line->text, line->raw);
		if (n <= 0) {
			free(line->text);
			line->text = NULL;
			l->count--;
			return ferror(l->in) ? fail_file("read", l->in_path) : CTL_OK;
		}
		if (line->len > LINE_MAX_BYTES) {
			say_error("%s, line %llu is longer than any ciphertext", l->in_path,
				(unsigned long long)(l->lines + l->count));
			return CTL_FAILED;
		}
		room -= line->len;
	}
	return CTL_OK;
}

static json_t *
batch_body(const struct lines *l)
{
	json_t *items = json_array();

	for (size_t i = 0; i < l->count; i++) {
		json_t *item = json_copy(json_object_get(l->task, "item"));
		json_t *text = json_stringn(l->batch[i].text, l->batch[i].len);
		if (!text)
			text = json_string("?"); /* not UTF-8: let the server say so */
		json_object_set_new(item, "ciphertext", text);
		if (l->batch[i].len > 0)
			json_array_append(items, item);
		json_decref(item);
	}
	return json_pack("{s:o}", "items", items);
}

/* Asks again while the server is away or has too much to do. */
static int
ask(struct lines *l, const json_t *body, json_t **ret_items)
{
	const char *path = show_format("/v1/keys/%s/rewrap", l->ctl->args.words[0]);
	unsigned delay_s = 1;

	for (unsigned waited_s = 0;; waited_s += delay_s) {
		_cleanup_(kekd_reply_free) struct kekd_reply reply = { 0 };
		int status = ctl_exchange(l->ctl, "POST", path, body, NULL, NULL, &reply);
		if (status == CTL_OK && reply.status == 200) {
			*ret_items = json_incref(json_object_get(reply.json, "items"));
			return CTL_OK;
		}
		if (status == CTL_OK)
			status = say_problem(&reply);
		if (status != CTL_UNAVAILABLE || waited_s >= PATIENCE_S)
			return status;
		delay_s = waited_s == 0 ? 1 : delay_s * 2 < DELAY_MAX_S ? delay_s * 2 : DELAY_MAX_S;
		if (reply.retry_after_s > delay_s)
			delay_s = reply.retry_after_s;
		say_hint("trying again in %u s", delay_s);
		nanosleep(&(struct timespec){ (time_t)delay_s, 0 }, NULL);
	}
}

/* The line as it is to stand in OUT; NULL: it failed, and that ends it. */
static json_t *
take_answer(struct lines *l, const struct line *line, const json_t *item)
{
	const json_t *problem = json_object_get(item, "error");
	json_t *text = json_object_get(item, "ciphertext");

	if (json_is_string(text)) {
		if (json_is_true(json_object_get(item, "already_primary")))
			l->primary++;
		else
			l->moved++;
		return json_incref(text);
	}
	say_error("%s, line %llu: %s (code %s)", l->in_path, (unsigned long long)(l->lines + 1),
		problem ? show_text(problem, "detail") : "the server's answer has no ciphertext",
		problem ? show_text(problem, "code") : "-");
	l->failed += l->keep_going;
	return l->keep_going ? json_stringn_nocheck(line->text, line->len) : NULL;
}

static int
write_line(struct lines *l, const struct line *line, const char *text, size_t len)
{
	if (fwrite(text, 1, len, l->out) != len || putc('\n', l->out) == EOF)
		return fail_file("write", l->partial);
	EVP_DigestUpdate(l->digest, line->text, line->raw);
	l->in_bytes += line->raw;
	l->out_bytes += len + 1;
	l->lines++;
	return CTL_OK;
}

static int
write_batch(struct lines *l, const json_t *items)
{
	int status = CTL_OK;
	size_t next = 0;

	for (size_t i = 0; i < l->count && status == CTL_OK; i++) {
		const struct line *line = &l->batch[i];
		_cleanup_(json_freep) json_t *text = NULL;
		if (line->len > 0)
			text = take_answer(l, line, json_array_get(items, next++));
		if (line->len > 0 && !text)
			return CTL_FAILED;
		status = write_line(
			l, line, text ? json_string_value(text) : "", json_string_length(text));
	}
	return status;
}

static int
do_batch(struct lines *l)
{
	_cleanup_(json_freep) json_t *body = batch_body(l);
	_cleanup_(json_freep) json_t *items = NULL;
	size_t wanted = json_array_size(json_object_get(body, "items"));
	int status = wanted > 0 ? ask(l, body, &items) : CTL_OK;

	if (status == CTL_OK && json_array_size(items) != wanted) {
		say_error("the server answered %zu of %zu items", json_array_size(items), wanted);
		status = CTL_FAILED;
	}
	return status == CTL_OK ? write_batch(l, items) : status;
}

static int
do_all(struct lines *l, uint64_t size)
{
	struct progress p;
	int status;

	progress_start(&p, l->ctl, size, l->in_bytes);
	do {
		drop_batch(l);
		status = read_batch(l);
		if (status == CTL_OK && l->count > 0)
			status = do_batch(l);
		if (status != CTL_OK || clock_boot_ns() - l->saved_ns > SAVE_NS)
			status = save(l) == CTL_OK ? status : CTL_FAILED;
		progress_show(
			&p, l->in_bytes, show_format("%llu lines", (unsigned long long)l->lines));
	} while (status == CTL_OK && l->count > 0);
	progress_end(&p);
	return status;
}

/* ---- the whole ---- */

/* Two at once would write over each other; and what another run has just put in place is not to be
 * touched through the name that it had before. */
static int
lock_partial(const struct lines *l)
{
	struct stat ours, named;

	if (flock(fileno(l->out), LOCK_EX | LOCK_NB) == 0 && fstat(fileno(l->out), &ours) == 0 &&
		stat(l->partial, &named) == 0 && ours.st_ino == named.st_ino &&
		ours.st_dev == named.st_dev)
		return CTL_OK;
	say_error("%s: another kekctl works at it", l->partial);
	return CTL_FAILED;
}

static int
open_files(struct lines *l, uint64_t *ret_size)
{
	struct stat st;
	int fd;

	l->in = fopen(l->in_path, "re");
	if (!l->in || fstat(fileno(l->in), &st) != 0)
		return fail_file("open", l->in_path);
	if (!S_ISREG(st.st_mode)) {
		say_error("%s is no file: --lines goes on where it was broken off, and a pipe "
			  "cannot",
			l->in_path);
		return CTL_USAGE;
	}
	*ret_size = (uint64_t)st.st_size;
	if (asprintf(&l->partial, "%s.partial", l->out_path) < 0 ||
		asprintf(&l->progress, "%s.progress", l->out_path) < 0)
		return CTL_FAILED;
	fd = open(l->partial, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
	l->out = fd >= 0 ? fdopen(fd, "r+") : NULL;
	if (!l->out)
		return fail_file("open", l->partial);
	if (lock_partial(l) != CTL_OK)
		return CTL_FAILED;
	l->digest = EVP_MD_CTX_new();
	if (!l->digest || EVP_DigestInit_ex(l->digest, EVP_sha256(), NULL) != 1) {
		say_error("no memory for a hash");
		return CTL_FAILED;
	}
	if (access(l->progress, F_OK) == 0)
		return resume(l);
	return ftruncate(fileno(l->out), 0) == 0 ? CTL_OK : fail_file("empty", l->partial);
}

static int
put_in_place(struct lines *l)
{
	if (fflush(l->out) != 0 || fsync(fileno(l->out)) != 0)
		return fail_file("write", l->partial);
	if (l->ctl->force ? rename(l->partial, l->out_path) != 0
			  : link(l->partial, l->out_path) != 0)
		return fail_file("make", l->out_path);
	unlink(l->partial);
	unlink(l->progress);
	return CTL_OK;
}

static void
close_files(struct lines *l)
{
	drop_batch(l);
	if (l->in)
		fclose(l->in);
	if (l->out)
		fclose(l->out);
	EVP_MD_CTX_free(l->digest);
	json_decref(l->task);
	free(l->partial);
	free(l->progress);
}

static void
show_result(const struct lines *l)
{
	_cleanup_(json_freep) json_t *value = NULL;

	if (l->ctl->json) {
		value = json_pack("{s:I, s:I, s:I, s:I, s:I}", "lines", (json_int_t)l->lines,
			"rewrapped", (json_int_t)l->moved, "already_primary",
			(json_int_t)l->primary, "failed", (json_int_t)l->failed, "resumed_at",
			(json_int_t)l->resumed);
		show_json(value);
		return;
	}
	if (l->ctl->quiet)
		return;
	printf("%s: %llu lines: %llu moved to the primary version, %llu were under it already",
		l->out_path, (unsigned long long)l->lines, (unsigned long long)l->moved,
		(unsigned long long)l->primary);
	if (l->failed > 0)
		printf(", %llu failed and stand as they were", (unsigned long long)l->failed);
	printf(".\n");
}

static int
rewrap(struct lines *l)
{
	uint64_t size = 0;
	int status = open_files(l, &size);

	if (status == CTL_OK && l->resumed > 0 && !l->ctl->quiet)
		say_note("going on behind line %llu", (unsigned long long)l->resumed);
	if (status != CTL_OK)
		return status;
	status = do_all(l, size);
	if (status != CTL_OK) {
		say_hint("%llu lines are done: the same command goes on behind them",
			(unsigned long long)l->lines);
		return status;
	}
	status = put_in_place(l);
	if (status == CTL_OK)
		show_result(l);
	return status == CTL_OK && l->failed > 0 ? CTL_FAILED : status;
}

static int
check_paths(const struct lines *l)
{
	if (!l->in_path || !l->out_path || strcmp(l->in_path, "-") == 0 ||
		strcmp(l->out_path, "-") == 0) {
		say_error("--lines takes files: --in FILE and --out FILE");
		return CTL_USAGE;
	}
	if (!l->ctl->force && access(l->out_path, F_OK) == 0) {
		say_error("%s exists", l->out_path);
		say_hint("name another file, or write over it with --force");
		return CTL_USAGE;
	}
	return CTL_OK;
}

int
rewrap_lines(struct ctl *ctl, const json_t *item)
{
	struct lines l = { .ctl = ctl,
		.in_path = args_value(&ctl->args, "in"),
		.out_path = args_value(&ctl->args, "out"),
		.keep_going = args_has(&ctl->args, "keep-going") };
	int status = check_paths(&l);

	if (status == CTL_OK) {
		l.task = json_pack("{s:s, s:O}", "key", ctl->args.words[0], "item", item);
		l.saved_ns = clock_boot_ns();
		status = rewrap(&l);
		close_files(&l);
	}
	return status;
}
