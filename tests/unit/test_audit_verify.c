/* SPDX-License-Identifier: Apache-2.0 */
/* Verification finds whatever was done to a log, and says where. */
#include "kekd/audit.h"

#include "../../src/audit/chain.h"
#include "kekd/err.h"
#include "kekd/json.h"
#include "kekd/str.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/x509.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define FILES_MAX 8

/* A log of three files, as they were written, and a directory to spoil copies in. */
struct fixture {
	char dir[64];
	uint64_t sequences[FILES_MAX];
	char *texts[FILES_MAX];
	size_t sizes[FILES_MAX];
	size_t count;
	struct audit_report report;
};

static void
path_of(const struct fixture *f, size_t i, char ret_path[160])
{
	char name[CHAIN_FILE_SIZE];

	chain_file_name(f->sequences[i], name);
	snprintf(ret_path, 160, "%s/%s", f->dir, name);
}

static void
put_file(const struct fixture *f, size_t i, const char *text, size_t len)
{
	char path[160];
	FILE *file;

	path_of(f, i, path);
	file = fopen(path, "w");
	assert_non_null(file);
	assert_int_equal(fwrite(text, 1, len, file), len);
	fclose(file);
}

static void
get_file(struct fixture *f, size_t i)
{
	char path[160];
	struct stat st;
	FILE *file;

	path_of(f, i, path);
	assert_int_equal(stat(path, &st), 0);
	f->sizes[i] = (size_t)st.st_size;
	f->texts[i] = calloc(1, f->sizes[i] + 1);
	file = fopen(path, "r");
	assert_int_equal(fread(f->texts[i], 1, f->sizes[i], file), f->sizes[i]);
	fclose(file);
}

static void
restore(const struct fixture *f)
{
	for (size_t i = 0; i < f->count; i++)
		put_file(f, i, f->texts[i], f->sizes[i]);
}

static void
write_log(const char *dir, uint64_t max_bytes, int records)
{
	const struct audit_config config = {
		.dir = dir, .cluster = "c1", .node = "n1", .max_bytes = max_bytes
	};
	struct audit *a = NULL;
	char error[256];

	assert_int_equal(audit_open(&config, &a, error), 0);
	for (int i = 0; i < records; i++) {
		struct audit_record r = {
			.type = AUDIT_REQUEST, .key = "demo", .operation = "wrap"
		};
		assert_int_equal(audit_append(a, &r), 0);
	}
	audit_freep(&a);
}

static void
read_log(struct fixture *f)
{
	uint64_t *list = NULL;
	int fd = open(f->dir, O_RDONLY | O_DIRECTORY);

	for (size_t i = 0; i < f->count; i++)
		free(f->texts[i]);
	assert_int_equal(chain_list(fd, &list, &f->count), 0);
	close(fd);
	assert_true(f->count <= FILES_MAX);
	memcpy(f->sequences, list, f->count * sizeof(*list));
	free(list);
	for (size_t i = 0; i < f->count; i++)
		get_file(f, i);
}

static int
setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	strcpy(f->dir, "/tmp/kekd-verify-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	write_log(f->dir, 1500, 11);
	read_log(f);
	assert_true(f->count >= 3);
	*state = f;
	return 0;
}

static int
remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	(void)st, (void)flag, (void)ftw;
	return remove(path);
}

static int
teardown(void **state)
{
	struct fixture *f = *state;

	nftw(f->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	for (size_t i = 0; i < f->count; i++)
		free(f->texts[i]);
	free(f);
	return 0;
}

static int
verify(struct fixture *f)
{
	int err;

	f->report = (struct audit_report){ 0 };
	err = audit_verify(f->dir, &f->report);
	json_decref(f->report.notes);
	f->report.notes = NULL;
	return err;
}

static void
expect_fault(struct fixture *f, size_t file, uint64_t line, const char *text)
{
	char name[CHAIN_FILE_SIZE];

	assert_int_equal(verify(f), KEKD_EAUDIT);
	chain_file_name(f->sequences[file], name);
	if (!strstr(f->report.fault, text))
		fail_msg("\"%s\" does not say \"%s\"", f->report.fault, text);
	assert_string_equal(f->report.fault_file, name);
	assert_int_equal(f->report.fault_line, line);
}

/* The start of line n (from 1). */
static const char *
line_at(const char *text, size_t n)
{
	while (--n > 0)
		text = strchr(text, '\n') + 1;
	return text;
}

/* ---- promises ---- */

#define TOO_LONG ((off_t)256 << 20)

static void
a_line_longer_than_any_record_is_read_in_bounded_memory(void **state)
{
	struct fixture *f = *state;
	struct audit_reader *reader = NULL;
	struct audit_oldest oldest;
	struct rusage before, after;
	char path[160];
	const char *line;
	size_t len, cut = 0, whole = 0;
	FILE *file;

	path_of(f, 1, path);
	file = fopen(path, "w");
	assert_int_equal(fseeko(file, TOO_LONG, SEEK_SET), 0);
	fprintf(file, "\n%s", f->texts[1]);
	fclose(file);
	getrusage(RUSAGE_SELF, &before);
	assert_int_equal(audit_oldest(f->dir, 1, &oldest), KEKD_EAUDIT);
	assert_int_equal(audit_reader_open(f->dir, AUDIT_READER_ALL, &reader), 0);
	while (audit_reader_next(reader, &line, &len) == 1) {
		cut += len == AUDIT_LINE_MAX;
		whole += len < AUDIT_LINE_MAX && line[len - 1] == '}';
	}
	audit_reader_freep(&reader);
	getrusage(RUSAGE_SELF, &after);
	assert_true(cut == 1 && whole >= 11);
	assert_true(after.ru_maxrss - before.ru_maxrss < 64 * 1024);
	restore(f);
}

static void
an_untouched_log_is_whole(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(verify(f), 0);
	assert_int_equal(f->report.files, f->count);
	assert_int_equal(f->report.first_sequence, 1);
	assert_int_equal(f->report.last_sequence, f->report.records);
	assert_string_equal(f->report.fault, "");
	assert_int_equal(strlen(f->report.first_time), 27);
}

static void
every_single_changed_byte_is_found_in_its_line(void **state)
{
	struct fixture *f = *state;

	for (size_t i = 0; i < f->count - 1; i++) {
		uint64_t line = 1;
		for (size_t at = 0; at < f->sizes[i]; at++) {
			char old = f->texts[i][at];
			f->texts[i][at] ^= 1;
			put_file(f, i, f->texts[i], f->sizes[i]);
			f->texts[i][at] = old;
			assert_int_equal(verify(f), KEKD_EAUDIT);
			assert_int_equal(f->report.fault_line, line);
			line += old == '\n';
		}
		put_file(f, i, f->texts[i], f->sizes[i]);
	}
	assert_int_equal(verify(f), 0);
}

static void
a_removed_record_is_found(void **state)
{
	struct fixture *f = *state;
	char *text = strdup(f->texts[0]);
	const char *from = line_at(f->texts[0], 2), *next = line_at(f->texts[0], 3);

	strcpy(text + (from - f->texts[0]), next);
	put_file(f, 0, text, strlen(text));
	expect_fault(f, 0, 2, "records 2 to 2 are missing");
	assert_int_equal(f->report.fault_sequence, 3);
	free(text);
}

static void
the_removed_end_of_an_older_file_is_found(void **state)
{
	struct fixture *f = *state;
	const char *end = line_at(f->texts[0], 3);

	put_file(f, 0, f->texts[0], (size_t)(end - f->texts[0]));
	expect_fault(f, 1, 1, "missing before this file");
}

static void
a_pipe_in_the_place_of_a_file_is_not_waited_at(void **state)
{
	struct fixture *f = *state;
	char path[128], name[CHAIN_FILE_SIZE];

	alarm(20);
	for (size_t i = f->count; i-- > f->count - 2;) {
		chain_file_name(f->sequences[i], name);
		snprintf(path, sizeof(path), "%s/%s", f->dir, name);
		assert_int_equal(unlink(path), 0);
		assert_int_equal(mkfifo(path, 0600), 0);
		assert_int_equal(verify(f), -ESPIPE);
	}
	alarm(0);
}

static void
two_swapped_records_are_found(void **state)
{
	struct fixture *f = *state;
	const char *a = line_at(f->texts[0], 2), *b = line_at(f->texts[0], 3),
		   *c = line_at(f->texts[0], 4);
	char *text = strdup(f->texts[0]), *p = text + (a - f->texts[0]);

	memcpy(p, b, (size_t)(c - b));
	memcpy(p + (c - b), a, (size_t)(b - a));
	put_file(f, 0, text, strlen(text));
	expect_fault(f, 0, 2, "records 2 and 3 are swapped");
	free(text);
}

/* Line n of file 0 once more, between lines m - 1 and m. */
static void
insert(struct fixture *f, size_t m, const char *line, size_t len)
{
	const char *at = line_at(f->texts[0], m);
	struct buf b = BUF_INIT(1 << 20);

	buf_put(&b, f->texts[0], (size_t)(at - f->texts[0]));
	buf_put(&b, line, len);
	buf_str(&b, at);
	put_file(f, 0, (char *)b.data, b.len);
	buf_free(&b);
}

static void
a_repeated_record_is_found(void **state)
{
	struct fixture *f = *state;
	const char *a = line_at(f->texts[0], 2), *b = line_at(f->texts[0], 3);

	insert(f, 4, a, (size_t)(b - a));
	expect_fault(f, 0, 4, "record 2 is here again");
}

static void
an_inserted_record_with_a_right_hash_is_found(void **state)
{
	struct fixture *f = *state;
	EVP_MD_CTX *md = EVP_MD_CTX_new();
	const char *a = line_at(f->texts[0], 3), *b = line_at(f->texts[0], 4);
	char forged[2048], hash[CHAIN_HEX_SIZE];
	size_t len = (size_t)(b - a) - 76; /* without ,"hash":"…"} and the newline */
	char *name;

	memcpy(forged, a, len);
	forged[len] = '\0';
	name = strstr(forged, "demo");
	memcpy(name, "evil", 4);
	assert_int_equal(chain_hash(md, forged, len, hash), 0);
	len += (size_t)snprintf(forged + len, sizeof(forged) - len, ",\"hash\":\"%s\"}\n", hash);
	insert(f, 3, forged, len);
	expect_fault(f, 0, 4, "inserted here or just before");
	EVP_MD_CTX_free(md);
}

static void
a_replaced_record_with_a_right_hash_is_found(void **state)
{
	struct fixture *f = *state;
	EVP_MD_CTX *md = EVP_MD_CTX_new();
	char *text = strdup(f->texts[0]), *line = text + (line_at(f->texts[0], 2) - f->texts[0]);
	size_t len = (size_t)(strchr(line, '\n') - line) - 75;
	char hash[CHAIN_HEX_SIZE];

	memcpy(strstr(line, "demo"), "evil", 4);
	assert_int_equal(chain_hash(md, line, len, hash), 0);
	memcpy(line + len + strlen(",\"hash\":\""), hash, 64);
	put_file(f, 0, text, strlen(text));
	expect_fault(f, 0, 3, "does not follow the one before it");
	free(text);
	EVP_MD_CTX_free(md);
}

static void
bytes_after_the_end_are_found(void **state)
{
	struct fixture *f = *state;
	size_t last = f->count - 1;
	struct buf b = BUF_INIT(1 << 20);
	uint64_t lines = 0;

	for (const char *p = f->texts[last]; *p; p++)
		lines += *p == '\n';
	buf_str(&b, f->texts[last]);
	buf_str(&b, "x");
	put_file(f, last, (char *)b.data, b.len);
	expect_fault(f, last, lines + 1, "the last line is not finished");
	restore(f);
	buf_reset(&b);
	buf_str(&b, f->texts[0]);
	buf_str(&b, "x");
	put_file(f, 0, (char *)b.data, b.len);
	assert_int_equal(verify(f), KEKD_EAUDIT);
	assert_non_null(strstr(f->report.fault, "goes on after its last whole record"));
	buf_free(&b);
}

static void
a_missing_file_is_found(void **state)
{
	struct fixture *f = *state;
	char path[160];

	path_of(f, 1, path);
	assert_int_equal(unlink(path), 0);
	expect_fault(f, 2, 1, "missing before this file");
	restore(f);
	path_of(f, 0, path);
	assert_int_equal(unlink(path), 0);
	expect_fault(f, 1, 1, "does not start at its beginning");
}

/* Appends an anchor, as the node does, and takes the oldest file away. */
static void
remove_oldest(struct fixture *f, uint64_t at_shift, const char *head, bool remove)
{
	const struct audit_config config = {
		.dir = f->dir, .cluster = "c1", .node = "n1", .max_bytes = 1500
	};
	static const char signature[] = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
					"AAAAAAAAAAAAAAAAAAAAAAAAAAAA==";
	struct audit_record r = { .type = AUDIT_ANCHOR };
	struct audit_oldest oldest;
	struct audit *a = NULL;
	char error[256];

	assert_int_equal(audit_oldest(f->dir, 1, &oldest), 1);
	assert_int_equal(audit_open(&config, &a, error), 0);
	r.detail = json_pack("{s:I, s:s, s:s, s:s}", "at", (json_int_t)(oldest.through + at_shift),
		"head", head ? head : oldest.head, "key", "k", "signature", signature);
	assert_int_equal(audit_append(a, &r), 0);
	audit_freep(&a);
	json_decref(r.detail);
	if (remove)
		assert_int_equal(audit_remove(f->dir, &oldest), 0);
	read_log(f);
}

static void
a_log_may_begin_where_an_anchor_says_that_older_records_were_removed(void **state)
{
	struct fixture *f = *state;
	struct audit_oldest oldest;
	uint64_t next = f->sequences[1];

	remove_oldest(f, 0, NULL, false);
	assert_int_equal(verify(f), 0);
	assert_int_equal(f->report.first_sequence, 1);
	remove_oldest(f, 0, NULL, true);
	assert_int_equal(f->sequences[0], next);
	assert_int_equal(verify(f), 0);
	assert_int_equal(f->report.first_sequence, next);
	while (audit_oldest(f->dir, 2, &oldest) == 1)
		remove_oldest(f, 0, NULL, true);
	assert_int_equal(f->count, 2);
	assert_int_equal(verify(f), 0);
}

static void
a_log_that_begins_elsewhere_than_its_anchor_says_is_found(void **state)
{
	static const char other[] =
		"0000000000000000000000000000000000000000000000000000000000000000";
	struct fixture *f = *state;
	char path[160];

	remove_oldest(f, 0, NULL, true);
	path_of(f, 0, path);
	assert_int_equal(unlink(path), 0);
	expect_fault(f, 1, 1, "no anchor record");
	restore(f);
	assert_int_equal(verify(f), 0);
	remove_oldest(f, 0, other, false);
	assert_int_equal(verify(f), KEKD_EAUDIT);
	assert_non_null(strstr(f->report.fault, "does not fit to the chain"));
}

static EVP_PKEY *
make_key(struct audit_pin *ret_pin)
{
	EVP_PKEY *key = EVP_EC_gen("P-256");
	unsigned char *p = ret_pin->public;

	assert_int_equal(i2d_PUBKEY(key, &p), AUDIT_PUBLIC_SIZE);
	return key;
}

/* As a token signs. */
static void
sign_mark(EVP_PKEY *key, const struct audit_mark *mark, uint8_t ret_signature[64])
{
	EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new(key, NULL);
	uint8_t digest[32], der[80];
	const uint8_t *p = der;
	size_t len = sizeof(der);
	ECDSA_SIG *sig;

	audit_mark_digest(mark, digest);
	assert_int_equal(EVP_PKEY_sign_init(ctx), 1);
	assert_int_equal(EVP_PKEY_sign(ctx, der, &len, digest, sizeof(digest)), 1);
	sig = d2i_ECDSA_SIG(NULL, &p, (long)len);
	BN_bn2binpad(ECDSA_SIG_get0_r(sig), ret_signature, 32);
	BN_bn2binpad(ECDSA_SIG_get0_s(sig), ret_signature + 32, 32);
	ECDSA_SIG_free(sig);
	EVP_PKEY_CTX_free(ctx);
}

/* A checkpoint for the log's end, by this key. */
static void
append_checkpoint(struct fixture *f, EVP_PKEY *key, const struct audit_pin *pin)
{
	const struct audit_config config = {
		.dir = f->dir, .cluster = "c1", .node = "n1", .max_bytes = 1500
	};
	struct audit_record r = { .type = AUDIT_CHECKPOINT };
	struct buf text = BUF_INIT(128);
	char fingerprint[AUDIT_FINGERPRINT_SIZE], error[256];
	uint8_t signature[AUDIT_SIGNATURE_SIZE];
	struct audit_status status;
	struct audit *a = NULL;
	struct audit_mark mark;

	assert_int_equal(audit_open(&config, &a, error), 0);
	audit_status(a, &status);
	mark = (struct audit_mark){ "checkpoint", "c1", "n1", status.sequence, status.head };
	sign_mark(key, &mark, signature);
	audit_fingerprint(pin->public, fingerprint);
	str_base64(&text, signature, sizeof(signature));
	r.detail = json_pack("{s:I, s:s, s:s, s:s%}", "at", (json_int_t)mark.at, "head", mark.head,
		"key", fingerprint, "signature", (const char *)text.data, text.len);
	assert_int_equal(audit_append(a, &r), 0);
	audit_freep(&a);
	json_decref(r.detail);
	buf_free(&text);
	read_log(f);
}

static void
expect(struct fixture *f, const struct audit_expected *e, const char *fault)
{
	int err = audit_verify_expected(f->dir, e, &f->report);

	json_decref(f->report.notes);
	assert_int_equal(err, fault ? KEKD_EAUDIT : 0);
	if (fault && !strstr(f->report.fault, fault))
		fail_msg("\"%s\" does not say \"%s\"", f->report.fault, fault);
}

static void
checkpoints_are_held_against_the_keys_that_were_pinned(void **state)
{
	struct fixture *f = *state;
	struct audit_pin pins[2];
	EVP_PKEY *key = make_key(&pins[0]), *other = make_key(&pins[1]);
	struct audit_expected e = { .pins = pins, .pins_count = 1 };

	expect(f, &e, "nothing here is signed");
	append_checkpoint(f, key, &pins[0]);
	expect(f, &e, NULL);
	assert_true(f->report.signatures_checked);
	assert_int_equal(f->report.checkpoints, 1);
	assert_true(f->report.signed_through > 0);
	e.pins = &pins[1];
	expect(f, &e, "a key that was not given");
	append_checkpoint(f, other, &pins[1]);
	e = (struct audit_expected){ .pins = pins, .pins_count = 2 };
	expect(f, &e, NULL);
	append_checkpoint(f, other, &pins[0]);
	expect(f, &e, "signature of this checkpoint is wrong");
	e.pins_count = 0;
	expect(f, &e, NULL);
	assert_false(f->report.signatures_checked);
	EVP_PKEY_free(key);
	EVP_PKEY_free(other);
}

static void
a_log_is_held_against_the_servers_newest_record(void **state)
{
	static const char other[] =
		"0000000000000000000000000000000000000000000000000000000000000000";
	struct fixture *f = *state;
	struct audit_expected e = { .cluster = "c1", .node = "n1" };
	char head[65];

	assert_int_equal(verify(f), 0);
	memcpy(head, f->report.head, sizeof(head));
	e.live_sequence = f->report.last_sequence;
	e.live_head = head;
	expect(f, &e, NULL);
	e.live_sequence++;
	expect(f, &e, "the end was cut off");
	e.live_sequence--;
	e.live_head = other;
	expect(f, &e, "has another hash");
	e.node = "n2";
	expect(f, &e, "this is the log of node n1");
}

static void
the_oldest_file_is_none_while_there_are_no_more_than_wanted(void **state)
{
	struct fixture *f = *state;
	struct audit_oldest oldest;

	assert_int_equal(audit_oldest(f->dir, f->count, &oldest), 0);
	assert_int_equal(audit_oldest(f->dir, f->count - 1, &oldest), 1);
	assert_int_equal(oldest.through, f->sequences[1] - 1);
	put_file(f, 1, "not a record\n", 13);
	assert_int_equal(audit_oldest(f->dir, 2, &oldest), KEKD_EAUDIT);
	assert_int_equal(audit_oldest("/nonexistent", 2, &oldest), -ENOENT);
}

static void
a_renamed_file_is_found(void **state)
{
	struct fixture *f = *state;
	char path[160], other[160];

	path_of(f, 1, path);
	f->sequences[1]++;
	path_of(f, 1, other);
	assert_int_equal(rename(path, other), 0);
	expect_fault(f, 1, 1, "not named after its first record");
	f->sequences[1]--;
}

static void
an_empty_directory_is_no_log(void **state)
{
	struct fixture *f = *state;
	char path[160];

	for (size_t i = 0; i < f->count; i++) {
		path_of(f, i, path);
		unlink(path);
	}
	assert_int_equal(verify(f), KEKD_EAUDIT);
	assert_string_equal(f->report.fault, "there is no audit file here");
	assert_int_equal(audit_verify("/nonexistent", &f->report), -ENOENT);
}

static void
the_tail_that_a_gap_record_tells_of_cannot_be_changed(void **state)
{
	struct fixture *f = *state;
	size_t torn = f->count - 1;
	struct buf b = BUF_INIT(1 << 20);

	buf_str(&b, f->texts[torn]);
	buf_str(&b, "{\"v\":1,\"se");
	put_file(f, torn, (char *)b.data, b.len);
	write_log(f->dir, 1 << 20, 2);
	read_log(f);
	assert_int_equal(verify(f), 0);
	assert_int_equal(f->report.gaps, 1);
	assert_int_equal(f->sizes[torn], b.len);

	b.data[b.len - 1] ^= 1;
	put_file(f, torn, (char *)b.data, b.len);
	expect_fault(f, torn + 1, 1, "are not those that this gap record tells of");
	put_file(f, torn, (char *)b.data, b.len - 1);
	expect_fault(f, torn + 1, 1, "are not those that this gap record tells of");
	put_file(f, torn, (char *)b.data, b.len - 15);
	assert_int_equal(verify(f), KEKD_EAUDIT);
	buf_free(&b);
}

static void
a_line_without_end_is_refused_in_bounded_memory(void **state)
{
	struct fixture *f = *state;
	size_t len = 9 * 1024 * 1024;
	char *text = malloc(len);

	memset(text, 'x', len);
	put_file(f, 0, text, len);
	expect_fault(f, 0, 1, "longer than any record");
	free(text);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		T(a_line_longer_than_any_record_is_read_in_bounded_memory),
		T(an_untouched_log_is_whole),
		T(every_single_changed_byte_is_found_in_its_line),
		T(a_removed_record_is_found),
		T(the_removed_end_of_an_older_file_is_found),
		T(a_pipe_in_the_place_of_a_file_is_not_waited_at),
		T(two_swapped_records_are_found),
		T(a_repeated_record_is_found),
		T(an_inserted_record_with_a_right_hash_is_found),
		T(a_replaced_record_with_a_right_hash_is_found),
		T(bytes_after_the_end_are_found),
		T(a_missing_file_is_found),
		T(a_log_may_begin_where_an_anchor_says_that_older_records_were_removed),
		T(a_log_that_begins_elsewhere_than_its_anchor_says_is_found),
		T(checkpoints_are_held_against_the_keys_that_were_pinned),
		T(a_log_is_held_against_the_servers_newest_record),
		T(the_oldest_file_is_none_while_there_are_no_more_than_wanted),
		T(a_renamed_file_is_found),
		T(an_empty_directory_is_no_log),
		T(the_tail_that_a_gap_record_tells_of_cannot_be_changed),
		T(a_line_without_end_is_refused_in_bounded_memory),
	};

	json_open();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
