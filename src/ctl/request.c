/* SPDX-License-Identifier: Apache-2.0 */
/* Requests of the commands: the connection is opened by the first one, errors are said here. */
#include "ctl.h"

#include <errno.h>
#include <string.h>

#define PAGE 500

static int
connect_client(struct ctl *ctl)
{
	_cleanup_(ctl_config_free) struct ctl_config c = { 0 };
	struct kekd_client_config config = { 0 };
	char error[256] = "";
	unsigned timeout_s = ctl->timeout_s;
	int status;

	if (ctl->client)
		return CTL_OK;
	status = args_number(&ctl->args, "timeout", 1, CTL_TIMEOUT_MAX_S, &timeout_s);
	if (status == CTL_OK)
		status = ctl_config_load(&ctl->args, &c);
	if (status != CTL_OK)
		return status;
	config.timeout_ms = timeout_s * 1000;
	config.endpoints = (const char *const *)c.endpoints;
	config.endpoints_count = c.endpoints_count;
	config.ca = c.ca;
	config.certificate = c.certificate;
	config.key = c.key;
	if (kekd_client_open(&config, &ctl->client, error) < 0) {
		say_error("%s", error);
		say_hint("endpoints, ca, certificate and key stand in kekctl.yaml, or are given as "
			 "--endpoint, --ca, --cert and --key");
		return CTL_USAGE;
	}
	return CTL_OK;
}

int
ctl_exchange(struct ctl *ctl, const char *method, const char *path, const json_t *body,
	const char *if_match, const char *if_none_match, struct kekd_reply *ret_reply)
{
	char error[512] = "";
	int status = connect_client(ctl);
	int err;

	if (status != CTL_OK)
		return status;
	err = kekd_client_request(
		ctl->client, method, path, body, if_match, if_none_match, ret_reply, error);
	if (err == 0)
		return CTL_OK;
	say_error("%s", error);
	if (kekd_client_uncertain(ctl->client))
		say_hint("the server may have done it: look before you repeat it");
	return err == -EPROTO || err == -EINVAL || err == -ENOMEM ? CTL_FAILED : CTL_UNAVAILABLE;
}

int
ctl_check_reply(const struct kekd_reply *r)
{
	if (r->status < 200 || r->status > 299)
		return say_problem(r);
	if (r->json || r->status == 204)
		return CTL_OK;
	say_error("the server's answer is not JSON");
	say_hint("is it kekd that listens at the endpoint?");
	return CTL_FAILED;
}

int
ctl_request(struct ctl *ctl, const char *method, const char *path, const json_t *body,
	const char *if_match, const char *if_none_match, json_t **ret_json)
{
	_cleanup_(kekd_reply_free) struct kekd_reply reply = { 0 };
	int status = ctl_exchange(ctl, method, path, body, if_match, if_none_match, &reply);

	if (status == CTL_OK)
		status = ctl_check_reply(&reply);
	if (status == CTL_OK && ret_json)
		*ret_json = json_incref(reply.json);
	return status;
}

int
ctl_get(struct ctl *ctl, const char *path, json_t **ret_json)
{
	return ctl_request(ctl, "GET", path, NULL, NULL, NULL, ret_json);
}

int
ctl_get_etag(struct ctl *ctl, const char *path, char ret_etag[64], json_t **ret_json)
{
	_cleanup_(kekd_reply_free) struct kekd_reply reply = { 0 };
	int status = ctl_exchange(ctl, "GET", path, NULL, NULL, NULL, &reply);

	if (status == CTL_OK)
		status = ctl_check_reply(&reply);
	if (status != CTL_OK)
		return status;
	if (!reply.etag[0]) {
		say_error("the server's answer has no ETag: nothing is changed without one");
		return CTL_FAILED;
	}
	memcpy(ret_etag, reply.etag, sizeof(reply.etag));
	if (ret_json)
		*ret_json = json_incref(reply.json);
	return CTL_OK;
}

int
ctl_list(struct ctl *ctl, const char *path, const char *member, json_t **ret_json)
{
	_cleanup_(json_freep) json_t *all = json_array();
	char after[STR_NAME_MAX + 1] = "";

	do {
		_cleanup_(json_freep) json_t *page = NULL;
		const char *next;
		char url[256];
		snprintf(url, sizeof(url), "%s?limit=%d%s%s", path, PAGE, *after ? "&after=" : "",
			after);
		int status = ctl_get(ctl, url, &page);
		if (status != CTL_OK)
			return status;
		next = json_string_value(json_object_get(page, "next"));
		if (next && (!str_is_name(next) || strcmp(next, after) <= 0))
			next = NULL; /* a list that does not go forward has no end */
		json_array_extend(all, json_object_get(page, member));
		snprintf(after, sizeof(after), "%s", next ? next : "");
	} while (*after);
	*ret_json = json_pack("{s:O}", member, all);
	return CTL_OK;
}

int
ctl_check_name(const char *what, const char *name)
{
	if (str_is_name(name))
		return CTL_OK;
	say_error("\"%s\" cannot be a %s's name", name, what);
	say_hint("%s", hint_for("invalid_name"));
	return CTL_USAGE;
}
