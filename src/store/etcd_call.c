/* SPDX-License-Identifier: Apache-2.0 */
/* Calls of etcd: over the endpoints, within the time-out, with a token where there is a user. */
#include "etcd_client.h"

#include "kekd/clock.h"
#include "kekd/err.h"
#include "kekd/json.h"
#include "kekd/log.h"
#include "kekd/secret.h"
#include "kekd/str.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define PASSWORD_MAX 1024

struct call {
	const char *path;
	const char *text; /* the body */
	size_t len;
	bool repeat;
	uint64_t deadline_ns;
	size_t tries_left; /* endpoints that were not asked yet */
};

/* ---- one try ---- */

struct attempt {
	const char *text;
	size_t left; /* of the body, for those that curl must not send twice */
	struct buf answer;
};

static size_t
give_body(char *out, size_t one, size_t size, void *user)
{
	struct attempt *t = user;
	size_t n = t->left < one * size ? t->left : one * size;

	memcpy(out, t->text, n);
	t->text += n;
	t->left -= n;
	return n;
}

static size_t
take_body(char *data, size_t one, size_t len, void *user)
{
	struct attempt *t = user;

	(void)one;
	buf_put(&t->answer, data, len);
	return t->answer.bad ? 0 : len;
}

/* curl sends a body that it has again when a kept connection turns out to be closed, though etcd
 * may have done what the first one asked; from a function without a way back it cannot. */
static void
set_body(CURL *curl, const struct call *c, struct attempt *t)
{
	curl_easy_setopt(curl, CURLOPT_POST, 1L);
	curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)c->len);
	if (c->repeat) {
		curl_easy_setopt(curl, CURLOPT_POSTFIELDS, c->text);
	} else {
		curl_easy_setopt(curl, CURLOPT_READFUNCTION, give_body);
		curl_easy_setopt(curl, CURLOPT_READDATA, t);
	}
	curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take_body);
	curl_easy_setopt(curl, CURLOPT_WRITEDATA, t);
}

/* While others are left, the first may not use up the time: but it gets the most of it, since an
 * etcd that is slow is slow at every endpoint. What may not be sent twice has all of it once it is
 * connected. */
static void
set_time(CURL *curl, const struct call *c)
{
	uint64_t now = clock_boot_ns();
	long left = now < c->deadline_ns ? (long)((c->deadline_ns - now) / CLOCK_MS) : 0;
	long share = c->tries_left > 1 ? left * 6 / 10 : left;
	long connect = c->tries_left > 1 ? left / (long)c->tries_left : left;

	curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS,
		c->repeat  ? (share > 0 ? share : 1)
		: left > 0 ? left
			   : 1);
	curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, connect > 0 ? connect : 1);
}

static void
count_try(struct etcd *e, const struct call *c, const struct attempt *t)
{
	struct etcd_counts *counts = e->settings->counts;

	if (!counts)
		return;
	metrics_add(&counts->sent, c->len);
	metrics_add(&counts->received, t->answer.len);
}

static json_t *
try_endpoint(struct etcd *e, const struct call *c, struct etcd_outcome *o)
{
	const char *endpoint = etcd_endpoint(e);
	struct attempt t = { .text = c->text, .left = c->len, .answer = BUF_INIT(ETCD_REPLY_MAX) };
	char url[1024], error[JSON_ERROR_SIZE];
	json_t *reply = NULL;
	long status = 0;
	CURLcode code;

	snprintf(url, sizeof(url), "%.800s/v3/%.200s", endpoint, c->path);
	etcd_prepare(e, e->curl, url);
	set_body(e->curl, c, &t);
	set_time(e->curl, c);
	code = curl_easy_perform(e->curl);
	count_try(e, c, &t);
	if (code == CURLE_OK) {
		curl_easy_getinfo(e->curl, CURLINFO_RESPONSE_CODE, &status);
		if (t.answer.len > 0)
			reply = json_parse((const char *)t.answer.data, t.answer.len, error);
		etcd_answered(status, reply, endpoint, o);
	} else {
		etcd_transfer_failed(e, e->curl, code, endpoint, o);
	}
	buf_free(&t.answer);
	if (o->meaning == ETCD_DONE)
		return reply;
	json_decref(reply);
	return NULL;
}

/* ---- all endpoints ---- */

static void
count_call(struct etcd *e, uint64_t started_ns)
{
	struct etcd_counts *counts = e->settings->counts;

	if (!counts)
		return;
	metrics_add(&counts->calls, 1);
	metrics_observe(&counts->latency, clock_boot_ns() - started_ns);
	atomic_store_explicit(&counts->endpoint, (unsigned)e->current, memory_order_relaxed);
}

static bool
go_elsewhere(struct etcd *e, struct call *c, const struct etcd_outcome *o)
{
	etcd_next_endpoint(e); /* the next call does not begin here again */
	if (--c->tries_left == 0 || clock_boot_ns() >= c->deadline_ns || (o->sent && !c->repeat))
		return false;
	if (e->settings->counts)
		metrics_add(&e->settings->counts->failovers, 1);
	return true;
}

/* *o is that of the last try; an answer of etcd's says more than that another endpoint is down. */
static json_t *
try_all(struct etcd *e, struct call *c, uint64_t *ret_sent_ns, struct etcd_outcome *o)
{
	struct etcd_outcome now;
	bool any = false;

	for (;;) {
		uint64_t sent_ns = clock_boot_ns();
		json_t *reply = try_endpoint(e, c, &now);
		if (reply) {
			*ret_sent_ns = sent_ns;
			return reply;
		}
		e->unsure |= now.sent && now.meaning == ETCD_ELSEWHERE;
		if (!any || now.meaning != ETCD_ELSEWHERE)
			*o = now;
		any = true;
		if (now.meaning != ETCD_ELSEWHERE || !go_elsewhere(e, c, &now))
			return NULL;
	}
}

static json_t *
call_text(struct etcd *e, const char *path, const char *text, bool repeat, uint64_t deadline_ns,
	uint64_t *ret_sent_ns, struct etcd_outcome *o)
{
	struct call c = { .path = path,
		.text = text,
		.len = strlen(text),
		.repeat = repeat,
		.deadline_ns = deadline_ns,
		.tries_left = e->settings->endpoints_count };

	return try_all(e, &c, ret_sent_ns, o);
}

/* ---- the token ---- */

void
etcd_forget_token(struct etcd *e)
{
	struct curl_slist *last = e->head;

	e->authenticated = false;
	while (last && last->next && last->next->next)
		last = last->next;
	if (last && last->next && strncmp(last->next->data, "Authorization:", 14) == 0) {
		curl_slist_free_all(last->next);
		last->next = NULL;
	}
}

/* The first line, so that an editor's newline does no harm. */
static int
read_password(struct etcd *e, char ret_password[PASSWORD_MAX])
{
	const char *path = e->settings->password_file;
	int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	ssize_t n = fd >= 0 ? read(fd, ret_password, PASSWORD_MAX - 1) : -1;
	char text[ETCD_ERROR_SIZE];

	if (n < 0)
		snprintf(text, sizeof(text),
			"store.password_file %.120s cannot be read: %s: make it readable for "
			"kekd's user",
			path ? path : "", strerror(errno));
	if (fd >= 0)
		close(fd);
	if (n < 0)
		return etcd_fail(e, KEKD_ESTORE, text);
	ret_password[n] = '\0';
	ret_password[strcspn(ret_password, "\r\n")] = '\0';
	return 0;
}

static int
take_token(struct etcd *e, const char *token)
{
	char line[1024];
	struct curl_slist *longer;

	if (!token ||
		(size_t)snprintf(line, sizeof(line), "Authorization: %s", token) >= sizeof(line))
		return etcd_fail(e, KEKD_ESTORE, "etcd gave no token that can be used");
	longer = curl_slist_append(e->head, line);
	secret_wipe(line, sizeof(line));
	if (!longer)
		return etcd_fail(e, -ENOMEM, strerror(ENOMEM));
	e->head = longer;
	e->authenticated = true;
	return 0;
}

/* An etcd whose users are not switched on yet is used without: so they can be made and switched on
 * under a running kekd. */
static int
refused(struct etcd *e, const struct etcd_outcome *o)
{
	if (strstr(o->text, "authentication is not enabled")) {
		log_warning("etcd at %s asks for no user: store.user is not used until it does",
			etcd_endpoint(e));
		e->authenticated = true;
		return 0;
	}
	return etcd_fail(e, KEKD_ESTORE, o->text);
}

int
etcd_authenticate(struct etcd *e, uint64_t deadline_ns)
{
	char password[PASSWORD_MAX];
	struct etcd_outcome o;
	json_t *body, *reply;
	uint64_t sent_ns;
	char *text;
	int err;

	if (!e->settings->user || e->authenticated)
		return 0;
	err = read_password(e, password);
	if (err)
		return err;
	body = json_pack("{s:s, s:s}", "name", e->settings->user, "password", password);
	secret_wipe(password, sizeof(password));
	text = body ? json_dumps(body, JSON_COMPACT) : NULL;
	json_decref(body);
	if (!text)
		return etcd_fail(e, -ENOMEM, "no memory, or the password is not UTF-8");
	reply = call_text(e, "auth/authenticate", text, true, deadline_ns, &sent_ns, &o);
	json_text_free(text);
	err = reply ? take_token(e, json_string_value(json_object_get(reply, "token")))
		    : refused(e, &o);
	json_decref(reply);
	return err;
}

/* ---- the call ---- */

static int
call_with_token(struct etcd *e, const char *path, const char *text, bool repeat, json_t **ret_reply,
	uint64_t *ret_sent_ns)
{
	uint64_t started_ns = clock_boot_ns();
	uint64_t deadline_ns = started_ns + e->settings->timeout_ms * CLOCK_MS;
	struct etcd_outcome o;

	for (int round = 0;; round++) {
		int err = etcd_authenticate(e, deadline_ns);
		if (err)
			return err;
		e->unsure = false; /* asking for a token changes nothing */
		*ret_reply = call_text(e, path, text, repeat, deadline_ns, ret_sent_ns, &o);
		if (*ret_reply) {
			count_call(e, started_ns);
			return 0;
		}
		if (o.meaning != ETCD_TOKEN || !e->settings->user || round > 0)
			break;
		etcd_forget_token(e);
	}
	if (o.err == -ENOENT || o.err == KEKD_ECOMPACTED) { /* answers, and no failures */
		count_call(e, started_ns);
		snprintf(e->error, sizeof(e->error), "%s", o.text);
		return o.err;
	}
	return etcd_fail(e, o.err, o.text);
}

int
etcd_call(struct etcd *e, const char *path, const json_t *body, bool repeat, json_t **ret_reply,
	uint64_t *ret_sent_ns)
{
	char *text = json_dumps(body, JSON_COMPACT);
	json_t *reply = NULL;
	uint64_t sent_ns = 0;
	int err;

	e->unsure = false;
	if (!text)
		return etcd_fail(e, -ENOMEM, strerror(ENOMEM));
	err = call_with_token(e, path, text, repeat, &reply, &sent_ns);
	json_text_free(text);
	if (err)
		return err;
	*ret_reply = reply;
	if (ret_sent_ns)
		*ret_sent_ns = sent_ns;
	return 0;
}
