/* SPDX-License-Identifier: Apache-2.0 */
/* kekctl key adopt: objects of the tokens that no metadata knows become versions of keys. */
#include "ctl.h"

#include <string.h>
#include <time.h>

#define SWEEP_TRIES 1500 /* five minutes */

static int
number_option(struct ctl *ctl, const char *option, json_t *body, const char *member)
{
	const char *text = args_value(&ctl->args, option);
	char *end;
	unsigned long long n;

	if (!text)
		return CTL_OK;
	n = strtoull(text, &end, 10);
	if (*text < '0' || *text > '9' || *end || n > 1ull << 32) {
		say_error("--%s takes a number from 0 to 2^32", option);
		return CTL_USAGE;
	}
	json_object_set_new(body, member, json_integer((json_int_t)n));
	return CTL_OK;
}

/* The key's ETag; "" when there is no such key yet. */
static int
find_etag(struct ctl *ctl, const char *path, char ret_etag[64])
{
	_cleanup_(kekd_reply_free) struct kekd_reply reply = { 0 };
	int status = ctl_exchange(ctl, "GET", path, NULL, NULL, NULL, &reply);

	ret_etag[0] = '\0';
	if (status != CTL_OK || reply.status == 404)
		return status;
	if (reply.status != 200)
		return say_problem(&reply);
	snprintf(ret_etag, 64, "%s", reply.etag);
	return CTL_OK;
}

static long long
adopted_count(const json_t *key)
{
	const json_t *v;
	long long count = 0;
	size_t i;

	json_array_foreach(json_object_get(key, "versions"), i, v)
		count += json_is_object(json_object_get(v, "adopted"));
	return count;
}

static int
adopt(struct ctl *ctl, const char *name, const json_t *body, json_t **ret_key)
{
	const char *path = show_format("/v1/keys/%s", name);
	char etag[64];
	int status = find_etag(ctl, path, etag);

	if (status == CTL_OK)
		status = ctl_request(ctl, "POST", show_format("/v1/keys/%s/adopt", name), body,
			*etag ? etag : NULL, *etag ? NULL : "*", ret_key);
	if (status == CTL_OK && !ctl->json && !ctl->quiet)
		printf("%s: has %lld adopted versions, %s is the primary version\n", name,
			adopted_count(*ret_key), show_version(*ret_key, "primary"));
	return status;
}

/* ---- --all ---- */

/* The key's name in "kekd:CLUSTER:NAME:vN", as an object's label; NULL for any other. */
static char *
label_key(const char *label, const char *cluster)
{
	const char *prefix = show_format("kekd:%s:", cluster), *start, *end;
	char *name;

	if (strncmp(label, prefix, strlen(prefix)) != 0)
		return NULL;
	start = label + strlen(prefix);
	end = strrchr(start, ':');
	if (!end || end[1] != 'v' || end[2] < '1' || end[2] > '9')
		return NULL;
	name = strndup(start, (size_t)(end - start));
	if (name && !str_is_name(name)) {
		free(name);
		return NULL;
	}
	return name;
}

/* The keys that the unknown objects are of, as members of an object; sorted by the caller's walk
 * over it. */
static json_t *
find_keys(const json_t *status)
{
	json_t *names = json_object();
	const json_t *o;
	size_t i;

	json_array_foreach(json_object_get(status, "unknown_objects"), i, o) {
		_cleanup_(str_freep) char *name = label_key(
			string_of(o, "label"), string_of(status, "cluster"));
		if (name)
			json_object_set_new(names, name, json_true());
	}
	return names;
}

/* The server looks through its tokens after its start: until then it cannot tell. */
static int
get_swept(struct ctl *ctl, json_t **ret_status)
{
	const struct timespec pause = { .tv_nsec = 200000000 };
	json_t *status = NULL;
	int result = ctl_get(ctl, "/v1/status", &status);

	for (int i = 0; i < SWEEP_TRIES && result == CTL_OK &&
			!json_is_true(json_object_get(status, "swept"));
		i++) {
		json_decref(status);
		status = NULL;
		nanosleep(&pause, NULL);
		result = ctl_get(ctl, "/v1/status", &status);
	}
	if (result == CTL_OK)
		*ret_status = status;
	return result;
}

static int
adopt_all(struct ctl *ctl, const json_t *body)
{
	_cleanup_(json_freep) json_t *status = NULL;
	_cleanup_(json_freep) json_t *names = NULL;
	_cleanup_(json_freep) json_t *keys = json_array();
	int result = get_swept(ctl, &status), first = CTL_OK;
	size_t failed = 0;
	const char *name;
	json_t *ignored;

	if (result != CTL_OK)
		return result;
	names = find_keys(status);
	json_object_foreach(names, name, ignored) {
		json_t *key = NULL;
		result = adopt(ctl, name, body, &key);
		if (result == CTL_OK)
			json_array_append_new(keys, key);
		else if (failed++ == 0)
			first = result;
	}
	if (ctl->json)
		show_json(keys);
	else if (json_object_size(names) == 0 && !ctl->quiet)
		puts("No object without a key has a label of this cluster's keys.");
	if (failed > 0)
		say_error("%zu of %zu keys were not adopted", failed, json_object_size(names));
	return first;
}

int
key_adopt_run(struct ctl *ctl)
{
	_cleanup_(json_freep) json_t *body = json_object();
	_cleanup_(json_freep) json_t *key = NULL;
	const char *token = args_value(&ctl->args, "token");
	const char *id = args_value(&ctl->args, "object-id");
	bool all = args_has(&ctl->args, "all");
	int status = number_option(ctl, "ivs-used", body, "ivs_used");

	if (status != CTL_OK)
		return status;
	if (all != (ctl->args.words_count == 0) || (all && id)) {
		say_error("name a key, or give --all without --object-id");
		return CTL_USAGE;
	}
	if (token)
		json_object_set_new(body, "token", json_string(token));
	if (id)
		json_object_set_new(body, "object_id", json_string(id));
	if (all)
		return adopt_all(ctl, body);
	status = ctl_check_name("key", ctl->args.words[0]);
	if (status == CTL_OK)
		status = adopt(ctl, ctl->args.words[0], body, &key);
	if (status == CTL_OK && ctl->json)
		show_json(key);
	return status;
}
