/* SPDX-License-Identifier: Apache-2.0 */
/* Calls of etcd whose answer goes on: a JSON text a line, for as long as the connection stands. */
#include "etcd_client.h"

#include "kekd/clock.h"
#include "kekd/err.h"
#include "kekd/json.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define STOP_MS 100 /* within which *stop is seen */

struct stream {
	struct etcd *e;
	int (*fn)(const json_t *message, void *user);
	void *user;
	struct buf line;  /* what came since the last newline */
	uint64_t last_ns; /* boot clock: when something came, or when it began */
	uint64_t messages;
	int result;		     /* of fn, or an error of ours */
	bool again;		     /* with another token */
	struct etcd_outcome outcome; /* of an answer that is no stream */
};

/* etcd 3.4 makes the watch and cancels it at once when the token is no longer good. */
static bool
is_lost_token(const struct stream *s, const json_t *message)
{
	const json_t *result = json_object_get(message, "result");
	const char *reason = json_string_value(json_object_get(result, "cancel_reason"));

	return s->messages == 0 && s->e->settings->user &&
	       json_is_true(json_object_get(result, "canceled")) && reason &&
	       (strstr(reason, "permission denied") || strstr(reason, "auth token"));
}

static void
take_message(struct stream *s, const json_t *message)
{
	long status = 0;

	curl_easy_getinfo(s->e->stream, CURLINFO_RESPONSE_CODE, &status);
	if (status != 200) {
		etcd_answered(status, message, etcd_endpoint(s->e), &s->outcome);
		s->again = s->outcome.meaning == ETCD_TOKEN && s->e->settings->user;
		s->result = s->outcome.err ? s->outcome.err : KEKD_ESTORE;
		return;
	}
	if (is_lost_token(s, message)) {
		s->again = true;
		s->result = KEKD_ESTORE;
		return;
	}
	s->messages++;
	s->result = s->fn(message, s->user);
}

static void
take_line(struct stream *s)
{
	char error[JSON_ERROR_SIZE];
	json_t *message;

	if (s->line.len == 0)
		return;
	message = json_parse((const char *)s->line.data, s->line.len, error);
	if (message) {
		take_message(s, message);
	} else {
		snprintf(s->outcome.text, sizeof(s->outcome.text),
			"etcd at %.80s answers with what is no JSON: is it etcd that listens "
			"there?",
			etcd_endpoint(s->e));
		s->result = KEKD_ESTORE;
	}
	json_decref(message);
	buf_reset(&s->line);
}

static size_t
take_bytes(char *data, size_t one, size_t len, void *user)
{
	struct stream *s = user;
	const char *end = data + len, *newline;

	(void)one;
	s->last_ns = clock_boot_ns();
	if (s->e->settings->counts)
		metrics_add(&s->e->settings->counts->received, len);
	while (!s->result && (newline = memchr(data, '\n', (size_t)(end - data)))) {
		buf_put(&s->line, data, (size_t)(newline - data));
		data = (char *)newline + 1;
		if (!s->line.bad)
			take_line(s);
	}
	if (!s->result)
		buf_put(&s->line, data, (size_t)(end - data));
	return s->result || s->line.bad ? 0 : len;
}

static bool
is_silent(const struct stream *s, unsigned idle_ms)
{
	uint64_t silent_ns = clock_boot_ns() - s->last_ns;

	if (s->messages == 0) /* each kind of stream begins with an answer */
		return silent_ns > s->e->settings->timeout_ms * CLOCK_MS;
	return idle_ms && silent_ns > idle_ms * CLOCK_MS;
}

/* True with the code when curl is done with it. */
static bool
is_over(CURLM *multi, CURLcode *ret_code)
{
	CURLMsg *m;
	int left;

	while ((m = curl_multi_info_read(multi, &left)))
		if (m->msg == CURLMSG_DONE) {
			*ret_code = m->data.result;
			return true;
		}
	return false;
}

/* 0: *stop, or fn has had enough. */
static CURLcode
run(struct stream *s, unsigned idle_ms, const atomic_bool *stop)
{
	CURLM *multi = s->e->multi;
	CURLcode code = CURLE_OK;
	int running;

	while (!atomic_load(stop)) {
		if (curl_multi_perform(multi, &running) != CURLM_OK)
			return CURLE_FAILED_INIT;
		if (is_over(multi, &code)) {
			if (!s->result && !s->line.bad)
				take_line(s); /* an error has no newline */
			return s->result ? CURLE_OK : code ? code : CURLE_GOT_NOTHING;
		}
		if (is_silent(s, idle_ms))
			return CURLE_OPERATION_TIMEDOUT;
		if (curl_multi_poll(multi, NULL, 0, STOP_MS, NULL) != CURLM_OK)
			return CURLE_FAILED_INIT;
	}
	return CURLE_OK;
}

static void
set_up(struct stream *s, const char *path, const char *text)
{
	CURL *curl = s->e->stream;
	char url[1024];

	snprintf(url, sizeof(url), "%.800s/v3/%.200s", etcd_endpoint(s->e), path);
	etcd_prepare(s->e, curl, url);
	curl_easy_setopt(curl, CURLOPT_POSTFIELDS, text);
	curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)strlen(text));
	curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take_bytes);
	curl_easy_setopt(curl, CURLOPT_WRITEDATA, s);
	curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, (long)s->e->settings->timeout_ms);
	/* A connection of its own: an ended stream's is closed anyhow. */
	curl_easy_setopt(curl, CURLOPT_FORBID_REUSE, 1L);
}

static int
ended(struct stream *s, CURLcode code)
{
	struct etcd *e = s->e;

	if (code == CURLE_OK && !s->outcome.text[0])
		return s->result;
	if (!s->outcome.text[0])
		etcd_transfer_failed(e, e->stream, code, etcd_endpoint(e), &s->outcome);
	etcd_next_endpoint(e);
	return etcd_fail(e, s->result ? s->result : KEKD_ESTORE, s->outcome.text);
}

static int
stream_once(struct etcd *e, const char *path, const char *text, unsigned idle_ms,
	const atomic_bool *stop, struct stream *s)
{
	CURLcode code;
	int err;

	s->last_ns = clock_boot_ns();
	set_up(s, path, text);
	if (curl_multi_add_handle(e->multi, e->stream) != CURLM_OK)
		return etcd_fail(e, -ENOMEM, strerror(ENOMEM));
	if (e->settings->counts)
		metrics_add(&e->settings->counts->streams, 1);
	code = run(s, idle_ms, stop);
	err = s->again ? KEKD_ESTORE : ended(s, code);
	curl_multi_remove_handle(e->multi, e->stream);
	buf_free(&s->line);
	return err;
}

static int
open_stream(struct etcd *e)
{
	if (!e->multi)
		e->multi = curl_multi_init();
	if (!e->stream)
		e->stream = curl_easy_init();
	return e->multi && e->stream ? 0 : etcd_fail(e, -ENOMEM, strerror(ENOMEM));
}

int
etcd_stream(struct etcd *e, const char *path, const json_t *body, unsigned idle_ms,
	const atomic_bool *stop, int (*fn)(const json_t *message, void *user), void *user)
{
	char *text = json_dumps(body, JSON_COMPACT);
	int err = text ? open_stream(e) : etcd_fail(e, -ENOMEM, strerror(ENOMEM));

	for (int round = 0; !err; round++) {
		struct stream s = {
			.e = e, .fn = fn, .user = user, .line = BUF_INIT(ETCD_REPLY_MAX)
		};
		err = etcd_authenticate(e, clock_boot_ns() + e->settings->timeout_ms * CLOCK_MS);
		if (!err)
			err = stream_once(e, path, text, idle_ms, stop, &s);
		if (!s.again)
			break;
		etcd_forget_token(e);
		if (round > 0) {
			etcd_fail(e, err,
				"etcd does not let store.user do this: see its role's permissions");
			break;
		}
		err = 0;
	}
	json_text_free(text);
	return err;
}
