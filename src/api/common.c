/* SPDX-License-Identifier: Apache-2.0 */
/* What the handlers share: pages of lists, ETags, times. */
#include "api.h"

#include "kekd/clock.h"

#include <string.h>

/* -1 unless text is a plain decimal number of at most six digits. */
static int
small_number(const char *text)
{
	int number = 0;

	if (!*text || strlen(text) > 6)
		return -1;
	for (; *text; text++) {
		if (*text < '0' || *text > '9')
			return -1;
		number = number * 10 + (*text - '0');
	}
	return number;
}

int
api_page(struct request *r, const char **ret_after, size_t *ret_limit)
{
	const char *after = request_query(r, "after"), *text = request_query(r, "limit");
	int limit = text ? small_number(text) : API_LIMIT_DEFAULT;

	if (limit < 1 || limit > API_LIMIT_MAX) {
		request_fail(
			r, KEKD_EINVALID, "limit must be a number from 1 to %d", API_LIMIT_MAX);
		return KEKD_EINVALID;
	}
	if (after && !*after)
		after = NULL;
	if (after && !str_is_name(after)) {
		request_fail(
			r, KEKD_EINVALID, "after must be a name: the last one of the page before");
		return KEKD_EINVALID;
	}
	*ret_after = after;
	*ret_limit = (size_t)limit;
	return 0;
}

void
api_set_etag(struct request *r, uint64_t commit)
{
	snprintf(r->etag, sizeof(r->etag), "\"%llu\"", (unsigned long long)commit);
}

void
api_set_detail(struct request *r, json_t *detail)
{
	json_decref(r->audit_detail);
	r->audit_detail = detail;
}

static bool
was_changed_outside(struct node *n, const char *path)
{
	struct sealed *store = atomic_load(&n->sealed);
	char refused[STORE_PATH_MAX + 1];

	for (size_t i = 0; store && sealed_refused(store, i, refused) == 0; i++)
		if (strcmp(refused, path) == 0)
			return true;
	return false;
}

bool
api_record_refused(struct node *n, const char *kind, const char *name, bool known,
	char ret_error[JSON_ERROR_SIZE])
{
	char path[STORE_PATH_MAX + 1];

	snprintf(path, sizeof(path), "%ss/%s", kind, name);
	if (node_is_unreadable(n, path))
		snprintf(ret_error, JSON_ERROR_SIZE,
			"the record of %s \"%.64s\" was written by another release of kekd, and "
			"this "
			"one cannot read it: nothing is lost, but it takes that release",
			kind, name);
	else if (known || was_changed_outside(n, path))
		snprintf(ret_error, JSON_ERROR_SIZE,
			"the stored record of %s \"%.64s\" was changed outside of kekd: restore it "
			"from a backup",
			kind, name);
	else
		return false;
	return true;
}

struct key *
api_find_key(struct request *r)
{
	struct key *k = keyring_find(r->node->keyring, r->key);
	char error[JSON_ERROR_SIZE] = "";

	if (k)
		return k;
	if (api_record_refused(r->node, "key", r->key, false, error))
		request_fail(r, KEKD_ERECORD, "%s", error);
	else
		request_fail(r, KEKD_ENOKEY, "key \"%s\" does not exist", r->key);
	return NULL;
}

struct key *
api_find_key_to_change(struct request *r)
{
	struct key *k = api_find_key(r);
	char error[JSON_ERROR_SIZE] = "";

	if (!k || !k->refused)
		return k;
	api_record_refused(r->node, "key", r->key, true, error);
	request_fail(r, KEKD_ERECORD, "%s", error);
	key_unrefp(&k);
	return NULL;
}

json_t *
api_base64(const void *data, size_t len)
{
	struct buf b = BUF_INIT(STR_BASE64_SIZE(len));
	json_t *text;

	str_base64(&b, data, len);
	text = b.bad ? NULL : json_stringn((const char *)b.data, b.len);
	buf_free(&b);
	return text;
}

json_t *
api_duration(uint64_t s)
{
	char text[CLOCK_DURATION_SIZE];

	clock_format_duration(s, text);
	return json_string(text);
}

json_t *
api_duration_or_null(uint64_t s)
{
	return s ? api_duration(s) : json_null();
}

json_t *
api_time(uint64_t real_us)
{
	char text[CLOCK_TEXT_SIZE];

	if (real_us == 0)
		return json_null();
	clock_format(real_us, text);
	return json_string(text);
}
