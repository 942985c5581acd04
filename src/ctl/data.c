/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kekctl wrap, unwrap, generate, rewrap. Ciphertexts are base64 text, plaintexts raw bytes. The
 * places of what is to be written are checked before the server is asked.
 */
#include "ctl.h"

#include "kekd/secret.h"
#include "kekd/uuid.h"

#include <ctype.h>
#include <string.h>

#define PLAINTEXT_MAX 4096   /* what a server wraps */
#define CIPHERTEXT_MAX 8192  /* room for a plaintext and what wrapping adds */
#define TEXT_MAX (64 * 1024) /* base64 with line breaks */
#define BYTES_DEFAULT 32

/* ---- bodies ---- */

static int
add_pairs(const struct ctl_args *a, const char *option, const char *member, json_t *body)
{
	json_t *pairs = NULL;
	int status = args_pairs(a, option, &pairs);

	if (pairs)
		json_object_set_new(body, member, pairs);
	return status;
}

static int
add_plaintext(struct ctl *ctl, json_t *body)
{
	struct buf plaintext = BUF_INIT(0);
	struct buf text = BUF_INIT(STR_BASE64_SIZE(PLAINTEXT_MAX));
	int status = input_read(ctl, args_value(&ctl->args, "in"), true, PLAINTEXT_MAX,
		"more than 4,096 bytes: kekd wraps data keys; encrypt data with one and wrap that",
		&plaintext);

	if (status == CTL_OK) {
		str_base64(&text, plaintext.data, plaintext.len);
		json_object_set_new(
			body, "plaintext", json_stringn((const char *)text.data, text.len));
	}
	buf_free(&plaintext);
	buf_free(&text);
	return status;
}

static void
drop_white_space(struct buf *b)
{
	size_t n = 0;

	for (size_t i = 0; i < b->len; i++)
		if (!isspace(b->data[i]))
			b->data[n++] = b->data[i];
	b->len = n;
}

static int
add_ciphertext(struct ctl *ctl, json_t *body)
{
	uint8_t blob[CIPHERTEXT_MAX];
	size_t len;
	struct buf text = BUF_INIT(0);
	int status = input_read(ctl, args_value(&ctl->args, "in"), false, TEXT_MAX,
		"too long for a wrapped data key", &text);

	if (status != CTL_OK)
		return status;
	drop_white_space(&text);
	if (str_unbase64((const char *)text.data, text.len, blob, sizeof(blob), &len) < 0) {
		say_error("the input is not a ciphertext in base64");
		say_hint("%s", hint_for("invalid_base64"));
		status = CTL_FAILED;
	} else {
		json_object_set_new(
			body, "ciphertext", json_stringn((const char *)text.data, text.len));
	}
	buf_free(&text);
	return status;
}

/* ---- answers ---- */

static int
bad_answer(const char *member)
{
	say_error("the server's answer has no valid \"%s\"", member);
	return CTL_FAILED;
}

static int
write_ciphertext(const json_t *reply, struct output *o)
{
	const char *text = string_of(reply, "ciphertext");
	struct buf line = BUF_INIT(TEXT_MAX);
	int status = CTL_FAILED;

	buf_str(&line, text);
	buf_u8(&line, '\n');
	if (!*text || line.bad)
		status = bad_answer("ciphertext");
	else
		status = output_write(o, line.data, line.len);
	buf_free(&line);
	return status;
}

static int
write_plaintext(const json_t *reply, struct output *o)
{
	const char *text = string_of(reply, "plaintext");
	uint8_t plaintext[PLAINTEXT_MAX];
	size_t len = 0;
	int status;

	if (!*text || str_unbase64(text, strlen(text), plaintext, sizeof(plaintext), &len) < 0)
		status = bad_answer("plaintext");
	else
		status = output_write(o, plaintext, len);
	secret_wipe(plaintext, sizeof(plaintext));
	return status;
}

/* What may be shown of an answer. */
static void
show_reply(json_t *reply)
{
	json_object_del(reply, "plaintext");
	show_json(reply);
}

static int
ask(struct ctl *ctl, const char *operation, const json_t *body, json_t **ret_reply)
{
	const char *path = show_format("/v1/keys/%s/%s", ctl->args.words[0], operation);

	return ctl_request(ctl, "POST", path, body, NULL, NULL, ret_reply);
}

/* wrap and rewrap: the ciphertext goes to --out or standard output; as JSON, the answer goes to
 * standard output, and the ciphertext to --out as well. */
static int
ask_for_ciphertext(struct ctl *ctl, const char *operation, const json_t *body)
{
	_cleanup_(json_freep) json_t *reply = NULL;
	_cleanup_(output_free) struct output out = OUTPUT_INIT;
	const char *path = args_value(&ctl->args, "out");
	bool writes = path || !ctl->json;
	int status = writes ? output_open(ctl, path, false, &out) : CTL_OK;

	if (status == CTL_OK)
		status = ask(ctl, operation, body, &reply);
	if (status == CTL_OK && writes)
		status = write_ciphertext(reply, &out);
	if (status == CTL_OK && ctl->json)
		show_reply(reply);
	return status;
}

/* ---- commands ---- */

static int
check_json_out(const struct ctl *ctl)
{
	const char *out = args_value(&ctl->args, "out");

	if (!ctl->json || (out && strcmp(out, "-") != 0))
		return CTL_OK;
	say_error("with -o json the data goes to a file of its own: --out FILE");
	return CTL_USAGE;
}

static int
add_version_id(const struct ctl_args *a, json_t *body)
{
	const char *id = args_value(a, "version-id");
	struct uuid uuid;

	if (!id)
		return CTL_OK;
	if (uuid_parse(id, &uuid) < 0) {
		say_error("--version-id \"%s\" is not a UUID in lower case", id);
		say_hint("%s", hint_for("version_not_found"));
		return CTL_USAGE;
	}
	json_object_set_new(body, "version_id", json_string(id));
	return CTL_OK;
}

static int
run_wrap(struct ctl *ctl)
{
	_cleanup_(json_freep) json_t *body = json_object();
	int status = ctl_check_name("key", ctl->args.words[0]);

	if (status == CTL_OK)
		status = add_pairs(&ctl->args, "context", "context", body);
	if (status == CTL_OK)
		status = add_version_id(&ctl->args, body);
	if (status == CTL_OK)
		status = add_plaintext(ctl, body);
	return status == CTL_OK ? ask_for_ciphertext(ctl, "wrap", body) : status;
}

static int
run_rewrap(struct ctl *ctl)
{
	_cleanup_(json_freep) json_t *body = json_object();
	int status = ctl_check_name("key", ctl->args.words[0]);

	if (status == CTL_OK)
		status = add_pairs(&ctl->args, "context", "context", body);
	if (status == CTL_OK)
		status = add_pairs(&ctl->args, "new-context", "new_context", body);
	if (status == CTL_OK && args_has(&ctl->args, "lines"))
		return rewrap_lines(ctl, body);
	if (status == CTL_OK)
		status = add_ciphertext(ctl, body);
	return status == CTL_OK ? ask_for_ciphertext(ctl, "rewrap", body) : status;
}

static int
run_unwrap(struct ctl *ctl)
{
	_cleanup_(json_freep) json_t *body = json_object();
	_cleanup_(json_freep) json_t *reply = NULL;
	_cleanup_(output_free) struct output out = OUTPUT_INIT;
	int status = ctl_check_name("key", ctl->args.words[0]);

	if (status == CTL_OK)
		status = check_json_out(ctl);
	if (status == CTL_OK)
		status = add_pairs(&ctl->args, "context", "context", body);
	if (status == CTL_OK)
		status = output_open(ctl, args_value(&ctl->args, "out"), true, &out);
	if (status == CTL_OK)
		status = add_ciphertext(ctl, body);
	if (status == CTL_OK)
		status = ask(ctl, "unwrap", body, &reply);
	if (status == CTL_OK)
		status = write_plaintext(reply, &out);
	if (status == CTL_OK && ctl->json)
		show_reply(reply);
	return status;
}

static int
add_bytes(const struct ctl_args *a, json_t *body)
{
	unsigned n = BYTES_DEFAULT;
	int status = args_number(a, "bytes", 1, PLAINTEXT_MAX, &n);

	if (status == CTL_OK)
		json_object_set_new(body, "bytes", json_integer(n));
	return status;
}

/* The wrapped data key first: a plaintext whose ciphertext was lost would encrypt data for ever. */
static int
generate(struct ctl *ctl, const json_t *body, struct output *out, struct output *plaintext)
{
	_cleanup_(json_freep) json_t *reply = NULL;
	int status = ask(ctl, "generate", body, &reply);

	if (status == CTL_OK)
		status = write_ciphertext(reply, out);
	if (status == CTL_OK && plaintext->fd >= 0)
		status = write_plaintext(reply, plaintext);
	if (status == CTL_OK && ctl->json)
		show_reply(reply);
	return status;
}

static int
check_generate_outputs(const struct ctl *ctl)
{
	const char *out = args_value(&ctl->args, "out");
	const char *plaintext = args_value(&ctl->args, "plaintext-out");

	if (!out) {
		say_error("--out FILE is missing: the wrapped data key needs a place");
		return CTL_USAGE;
	}
	if (plaintext && strcmp(plaintext, out) == 0) {
		say_error("--out and --plaintext-out name the same place");
		return CTL_USAGE;
	}
	if (ctl->json && plaintext && strcmp(plaintext, "-") == 0) {
		say_error("with -o json the plaintext goes to a file: --plaintext-out FILE");
		return CTL_USAGE;
	}
	return check_json_out(ctl);
}

static int
run_generate(struct ctl *ctl)
{
	_cleanup_(json_freep) json_t *body = json_object();
	_cleanup_(output_free) struct output out = OUTPUT_INIT;
	_cleanup_(output_free) struct output plaintext = OUTPUT_INIT;
	const char *secret = args_value(&ctl->args, "plaintext-out");
	int status = ctl_check_name("key", ctl->args.words[0]);

	if (status == CTL_OK)
		status = check_generate_outputs(ctl);
	if (status == CTL_OK)
		status = add_bytes(&ctl->args, body);
	if (status == CTL_OK)
		status = add_pairs(&ctl->args, "context", "context", body);
	if (status == CTL_OK)
		status = output_open(ctl, args_value(&ctl->args, "out"), false, &out);
	if (status == CTL_OK && secret)
		status = output_open(ctl, secret, true, &plaintext);
	if (status != CTL_OK)
		return status;
	json_object_set_new(body, "plaintext", json_boolean(secret != NULL));
	return generate(ctl, body, &out, &plaintext);
}

const struct ctl_command ctl_data_commands[] = {
	{ "wrap", "KEY [--in FILE] [--out FILE] [--context K=V]... [--version-id UUID]",
		"Wraps a data key: raw bytes in, base64 text out",
		"At most 4,096 bytes, from a file or a pipe. The context is not stored: unwrap "
		"needs\n"
		"the same pairs.",
		" in out context version-id force ", 1, 1, run_wrap },
	{ "unwrap", "KEY [--in FILE] [--out FILE] [--context K=V]...",
		"Unwraps a data key: base64 text in, raw bytes out",
		"The plaintext goes to a file (mode 0600) or a pipe, to a terminal only with "
		"--force.",
		" in out context force ", 1, 1, run_unwrap },
	{ "generate", "KEY --out FILE [--bytes N] [--plaintext-out FILE] [--context K=V]...",
		"Makes a new data key in the token and wraps it",
		"Without --plaintext-out, the plaintext never leaves the server.",
		" out bytes plaintext-out context force ", 1, 1, run_generate },
	{ "rewrap",
		"KEY [--lines [--keep-going]] [--in FILE] [--out FILE] [--context K=V]... "
		"[--new-context K=V]...",
		"Wraps a wrapped data key again, under the primary version",
		"The plaintext does not leave the server. Without --new-context the context "
		"stays;\n"
		"--new-context '' makes it empty.\n"
		"\n"
		"With --lines, FILE has a ciphertext on each line, and --out gets as many. The "
		"first line\n"
		"that fails ends it, unless --keep-going: then such a line stays as it was, and "
		"the exit\n"
		"status is 1. What was broken off goes on when the same command is given again.",
		" in out context new-context force lines keep-going ", 1, 1, run_rewrap },
	{ NULL },
};
