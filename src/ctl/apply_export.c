/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kekctl export: what is there, as the documents that apply takes. libyaml writes them, so that no
 * text needs quoting here.
 */
#include "apply.h"

#include <errno.h>
#include <string.h>

struct writer {
	yaml_emitter_t emitter;
	struct buf text;
	bool bad;
	bool odd; /* the server gave something else where a text must be */
};

/* ---- YAML ---- */

static void
emit(struct writer *w, yaml_event_t *event, int made)
{
	if (!made || !yaml_emitter_emit(&w->emitter, event))
		w->bad = true;
}

/* A text that another reader of YAML would take for something else stands in quotes. */
static bool
is_plain(const char *text)
{
	static const char *const words[] = { "true", "false", "yes", "no", "on", "off", "null", "y",
		"n" };

	for (size_t i = 0; text && i < STR_COUNT(words); i++)
		if (strcasecmp(text, words[i]) == 0)
			return false;
	return text && *text && !strchr("0123456789.+-~", *text);
}

/* NULL: a value of the server's that is no text. */
static void
put_scalar(struct writer *w, const char *text, bool plain)
{
	yaml_event_t event;
	yaml_scalar_style_t style = plain ? YAML_PLAIN_SCALAR_STYLE
					  : YAML_DOUBLE_QUOTED_SCALAR_STYLE;

	w->odd = w->odd || !text;
	text = text ? text : "";
	emit(w, &event,
		yaml_scalar_event_initialize(&event, NULL, NULL, (const yaml_char_t *)text,
			(int)strlen(text), 1, 1, style));
}

static void
put_text(struct writer *w, const char *name, const char *text)
{
	put_scalar(w, name, true);
	put_scalar(w, text, is_plain(text));
}

static void
put_word(struct writer *w, const char *name, const char *word)
{
	put_scalar(w, name, true);
	put_scalar(w, word, true);
}

static void
put_number(struct writer *w, const char *name, long long number)
{
	put_word(w, name, show_format("%lld", number));
}

static void
begin_map(struct writer *w)
{
	yaml_event_t event;

	emit(w, &event,
		yaml_mapping_start_event_initialize(
			&event, NULL, NULL, 1, YAML_BLOCK_MAPPING_STYLE));
}

static void
end_map(struct writer *w)
{
	yaml_event_t event;

	emit(w, &event, yaml_mapping_end_event_initialize(&event));
}

static void
begin_list(struct writer *w, const char *name, size_t count, yaml_sequence_style_t style)
{
	yaml_event_t event;

	put_scalar(w, name, true);
	emit(w, &event,
		yaml_sequence_start_event_initialize(
			&event, NULL, NULL, 1, count > 0 ? style : YAML_FLOW_SEQUENCE_STYLE));
}

static void
end_list(struct writer *w)
{
	yaml_event_t event;

	emit(w, &event, yaml_sequence_end_event_initialize(&event));
}

static void
put_texts(struct writer *w, const char *name, const json_t *list, yaml_sequence_style_t style)
{
	json_t *value;
	size_t i;

	begin_list(w, name, json_array_size(list), style);
	json_array_foreach(list, i, value)
		put_scalar(w, json_string_value(value), is_plain(json_string_value(value)));
	end_list(w);
}

static void
begin_document(struct writer *w, enum apply_kind kind)
{
	yaml_event_t event;

	emit(w, &event, yaml_document_start_event_initialize(&event, NULL, NULL, NULL, 0));
	begin_map(w);
	put_word(w, "kind", apply_kind_names[kind]);
}

static void
end_document(struct writer *w)
{
	yaml_event_t event;

	end_map(w);
	emit(w, &event, yaml_document_end_event_initialize(&event, 1));
}

/* ---- resources, from the form in which apply compares them ---- */

static void
put_labels(struct writer *w, const json_t *labels)
{
	const char *name;
	json_t *value;

	begin_list(w, "labels", json_object_size(labels), YAML_BLOCK_SEQUENCE_STYLE);
	json_object_foreach((json_t *)labels, name, value) {
		begin_map(w);
		put_text(w, "name", name);
		put_text(w, "value", json_string_value(value));
		end_map(w);
	}
	end_list(w);
}

static void
put_key(struct writer *w, const json_t *key)
{
	_cleanup_(json_freep) json_t *k = apply_canonical(APPLY_KEY, key);
	static const char *const texts[] = { "algorithm", "token", "rotate_every" };
	const json_t *frozen = json_object_get(k, "frozen");

	begin_document(w, APPLY_KEY);
	put_text(w, "name", string_of(key, "name"));
	for (size_t i = 0; i < STR_COUNT(texts); i++)
		if (json_object_get(k, texts[i]))
			put_word(w, texts[i], string_of(k, texts[i]));
	if (strcmp(string_of(k, "when_stale"), "unwrap") != 0 && *string_of(k, "when_stale"))
		put_word(w, "when_stale", string_of(k, "when_stale"));
	if (frozen)
		put_word(w, "frozen", json_is_true(frozen) ? "true" : "false");
	put_labels(w, json_object_get(k, "labels"));
	end_document(w);
}

static void
put_grants(struct writer *w, const json_t *grants)
{
	const json_t *grant;
	size_t i;

	begin_list(w, "grants", json_array_size(grants), YAML_BLOCK_SEQUENCE_STYLE);
	json_array_foreach(grants, i, grant) {
		begin_map(w);
		put_text(w, "keys", string_of(grant, "keys"));
		put_texts(w, "operations", json_object_get(grant, "operations"),
			YAML_FLOW_SEQUENCE_STYLE);
		end_map(w);
	}
	end_list(w);
}

static void
put_client(struct writer *w, const json_t *client)
{
	_cleanup_(json_freep) json_t *c = apply_canonical(APPLY_CLIENT, client);
	const json_t *limits = json_object_get(c, "limits");
	const char *name;
	json_t *limit;

	begin_document(w, APPLY_CLIENT);
	put_text(w, "name", string_of(client, "name"));
	put_texts(
		w, "identities", json_object_get(client, "identities"), YAML_BLOCK_SEQUENCE_STYLE);
	put_texts(w, "addresses", json_object_get(client, "addresses"), YAML_BLOCK_SEQUENCE_STYLE);
	put_grants(w, json_object_get(client, "grants"));
	if (json_object_size(limits) > 0) {
		put_scalar(w, "limits", true);
		begin_map(w);
		json_object_foreach((json_t *)limits, name, limit)
			put_number(w, name, json_integer_value(limit));
		end_map(w);
	}
	end_document(w);
}

static void
put_policy(struct writer *w, const json_t *policy)
{
	_cleanup_(json_freep) json_t *p = apply_canonical(APPLY_POLICY, policy);
	const char *name;
	json_t *value;

	begin_document(w, APPLY_POLICY);
	json_object_foreach(p, name, value)
		if (json_is_integer(value))
			put_number(w, name, json_integer_value(value));
		else
			put_word(w, name, json_string_value(value));
	end_document(w);
}

/* ---- the command ---- */

static int
put_all(struct ctl *ctl, const char *path, const char *member, struct writer *w,
	void (*put)(struct writer *, const json_t *))
{
	_cleanup_(json_freep) json_t *list = NULL;
	const json_t *value;
	size_t i;
	int status = ctl_list(ctl, path, member, &list);

	json_array_foreach(json_object_get(list, member), i, value)
		put(w, value);
	return status;
}

static int
put_keys(struct ctl *ctl, struct writer *w)
{
	return put_all(ctl, "/v1/keys", "keys", w, put_key);
}

static int
put_clients(struct ctl *ctl, struct writer *w)
{
	return put_all(ctl, "/v1/clients", "clients", w, put_client);
}

static int
put_cluster(struct ctl *ctl, struct writer *w)
{
	_cleanup_(json_freep) json_t *cluster = NULL;
	int status = ctl_get(ctl, "/v1/cluster", &cluster);

	if (status == CTL_OK)
		put_policy(w, json_object_get(cluster, "policy"));
	return status;
}

static const struct {
	const char *option;
	int (*put)(struct ctl *, struct writer *);
} parts[] = {
	{ "keys", put_keys },
	{ "clients", put_clients },
	{ "policy", put_cluster },
};

static int
put_parts(struct ctl *ctl, struct writer *w)
{
	bool all = true;
	int status = CTL_OK;

	for (size_t i = 0; i < STR_COUNT(parts); i++)
		all = all && !args_has(&ctl->args, parts[i].option);
	for (size_t i = 0; status == CTL_OK && i < STR_COUNT(parts); i++)
		if (all || args_has(&ctl->args, parts[i].option))
			status = parts[i].put(ctl, w);
	return status;
}

static int
write_text(void *data, unsigned char *text, size_t len)
{
	struct buf *b = data;

	buf_put(b, text, len);
	return !b->bad;
}

static int
write_all(struct ctl *ctl, struct writer *w)
{
	yaml_event_t event;
	int status;

	yaml_emitter_set_output(&w->emitter, write_text, &w->text);
	yaml_emitter_set_unicode(&w->emitter, 1);
	yaml_emitter_set_width(&w->emitter, 96);
	emit(w, &event, yaml_stream_start_event_initialize(&event, YAML_UTF8_ENCODING));
	status = put_parts(ctl, w);
	if (status == CTL_OK && w->odd)
		status = say_no_answer("a value that is no text");
	if (status != CTL_OK)
		return status;
	emit(w, &event, yaml_stream_end_event_initialize(&event));
	if (!w->bad && yaml_emitter_flush(&w->emitter))
		return CTL_OK;
	say_error("cannot write it as YAML: %s",
		w->emitter.problem ? w->emitter.problem : strerror(ENOMEM));
	return CTL_FAILED;
}

int
export_run(struct ctl *ctl)
{
	struct writer w = { .text = BUF_INIT(256u << 20) };
	struct output out = OUTPUT_INIT;
	int status = output_open(ctl, args_value(&ctl->args, "out"), false, &out);

	if (status != CTL_OK)
		return status;
	if (!yaml_emitter_initialize(&w.emitter)) {
		say_error("%s", strerror(ENOMEM));
		status = CTL_FAILED;
	} else {
		status = write_all(ctl, &w);
		yaml_emitter_delete(&w.emitter);
	}
	if (status == CTL_OK)
		status = output_write(&out, w.text.data, w.text.len);
	output_free(&out);
	buf_free(&w.text);
	return status;
}
