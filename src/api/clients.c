/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Client records as a resource: list, read, create, change, delete. A change to a record that holds
 * approve or client.write, before or after, takes as many administrators as the policy says.
 */
#include "changes.h"

#include "kekd/clock.h"

#include <errno.h>
#include <string.h>

static json_t *
client_json(const struct client *c)
{
	json_t *value = client_to_json(c);

	if (value && !json_object_get(value, "changed"))
		json_object_set_new(value, "changed", json_null());
	if (value && !json_object_get(value, "changed_by"))
		json_object_set_new(value, "changed_by", json_null());
	if (value && (json_object_set_new(value, "name", json_string(c->name)) < 0 ||
			     json_object_set_new(
				     value, "revision", json_integer((json_int_t)c->commit)) < 0 ||
			     json_object_set_new(value, "refused", json_boolean(c->refused)) < 0)) {
		json_decref(value);
		return NULL;
	}
	return value;
}

static void
answer_client(struct request *r, int status, const struct client *c)
{
	json_t *value = client_json(c);

	if (!value) {
		request_fail(r, -ENOMEM, "no memory for the answer: ask again");
		return;
	}
	api_set_etag(r, c->commit);
	request_answer_json(r, status, value);
}

static json_t *
list_json(struct client *const *list, size_t count, bool more)
{
	json_t *values = json_array();

	for (size_t i = 0; i < count; i++)
		if (json_array_append_new(values, client_json(list[i])) < 0) {
			json_decref(values);
			return NULL;
		}
	return json_pack("{s:o, s:o}", "clients", values, "next",
		more ? json_string(list[count - 1]->name) : json_null());
}

void
api_client_list(struct request *r)
{
	_cleanup_(str_freep) struct client **list = NULL;
	const char *after;
	size_t limit, count;
	json_t *value = NULL;

	if (api_page(r, &after, &limit) < 0)
		return;
	list = calloc(limit + 1, sizeof(struct client *));
	if (list) {
		count = clients_list(r->node->clients, after, limit + 1, list);
		value = list_json(list, count > limit ? limit : count, count > limit);
		for (size_t i = 0; i < count; i++)
			client_unrefp(&list[i]);
	}
	if (value)
		request_answer_json(r, 200, value);
	else
		request_fail(r, -ENOMEM, "no memory for the answer: ask again, for fewer clients");
}

/* 0, or there is no record of this name to change; client may be NULL. */
static int
check(struct node *n, const char *name, const struct client *c, char ret_error[JSON_ERROR_SIZE])
{
	if (c && !c->refused)
		return 0;
	if (api_record_refused(n, "client", name, c != NULL, ret_error))
		return KEKD_ERECORD;
	snprintf(ret_error, JSON_ERROR_SIZE, "client \"%.64s\" does not exist", name);
	return KEKD_ENOCLIENT;
}

void
api_client_get(struct request *r)
{
	_cleanup_(client_unrefp) struct client *c = clients_find(r->node->clients, r->params[0]);
	char error[JSON_ERROR_SIZE];
	int err = c ? 0 : check(r->node, r->params[0], c, error);

	if (err < 0)
		request_fail(r, err, "%s", error);
	else
		answer_client(r, 200, c);
}

/* ---- changes ---- */

/* May this record, as it is now (NULL: there is none), be changed under the request's condition? */
static int
may_change(struct request *r, const struct client *now, char ret_error[JSON_ERROR_SIZE])
{
	int err = check(r->node, r->params[0], now, ret_error);

	if (r->if_none_match_given && err == KEKD_ENOCLIENT)
		return 0;
	if (err < 0)
		return err;
	if (r->if_none_match_given) {
		snprintf(ret_error, JSON_ERROR_SIZE,
			"client \"%s\" exists already, at revision %llu", now->name,
			(unsigned long long)now->commit);
		return KEKD_EPRECONDITION;
	}
	if (r->if_match != STORE_ANY && r->if_match != now->commit) {
		snprintf(ret_error, JSON_ERROR_SIZE,
			"client \"%s\" is at revision %llu by now: read it again", now->name,
			(unsigned long long)now->commit);
		return KEKD_EPRECONDITION;
	}
	return 0;
}

static bool
needs_approval(struct node *n, const struct client *now, const struct client *candidate)
{
	bool privileged = (now && client_is_privileged(now)) ||
			  (candidate && client_is_privileged(candidate));

	return privileged && changes_approvals(n) > 1;
}

static int
identities_are_free(struct clients *table, const struct client *c, char ret_error[JSON_ERROR_SIZE])
{
	_cleanup_(client_unrefp) struct client *other = clients_find_conflict(table, c);

	if (!other)
		return 0;
	snprintf(ret_error, JSON_ERROR_SIZE, "client \"%s\" has one of these identities",
		other->name);
	return KEKD_ETAKEN;
}

/* Writes the record clients/NAME; body NULL deletes it. with: another record's change, or NULL. */
static int
commit(struct request *r, const char *name, const struct client *now, json_t *body,
	const struct sealed_change *with, uint64_t *ret_number, char ret_error[JSON_ERROR_SIZE])
{
	char path[sizeof("clients/") + STR_NAME_MAX];
	struct sealed_change changes[2] = { { path, now ? now->commit : 0, body } };
	int err;

	snprintf(path, sizeof(path), "clients/%s", name);
	if (with)
		changes[1] = *with;
	err = sealed_commit(r->node->sealed, changes, with ? 2 : 1, ret_number);
	if (err < 0)
		snprintf(ret_error, JSON_ERROR_SIZE, "client \"%s\" was not changed: %s", name,
			kekd_strerror(err));
	return err;
}

/* by: the client who asked for it. */
static int
put(struct request *r, const struct client *now, struct client *candidate, const char *by,
	const struct sealed_change *with, char ret_error[JSON_ERROR_SIZE])
{
	_cleanup_(json_freep) json_t *body = NULL;
	struct clients *table = r->node->clients;
	int err;

	candidate->changed_us = clock_real_us();
	snprintf(candidate->changed_by, sizeof(candidate->changed_by), "%s", by);
	body = client_to_json(candidate);
	if (!body) {
		snprintf(ret_error, JSON_ERROR_SIZE, "no memory for the record: ask again");
		return -ENOMEM;
	}
	err = commit(r, candidate->name, now, body, with, &candidate->commit, ret_error);
	if (err < 0)
		return err;
	err = clients_publish(table, client_ref(candidate));
	if (err < 0)
		snprintf(ret_error, JSON_ERROR_SIZE,
			"the record is stored, but takes effect at the next start only: %s",
			kekd_strerror(err));
	return err;
}

/* The record is a client's to write, but for what the server alone says of it. */
static int
read_body(struct request *r, struct client **ret_client, char ret_error[JSON_ERROR_SIZE])
{
	static const char *const told[] = { "changed", "changed_by" };

	for (size_t i = 0; i < STR_COUNT(told); i++)
		if (json_object_get(r->body, told[i])) {
			snprintf(ret_error, JSON_ERROR_SIZE,
				"member \"%s\" is the server's: leave it out", told[i]);
			return KEKD_EMEMBER;
		}
	return client_from_json(r->params[0], r->body, 0, ret_client, ret_error);
}

void
api_client_put(struct request *r)
{
	_cleanup_(client_unrefp) struct client *now = NULL;
	_cleanup_(client_unrefp) struct client *candidate = NULL;
	char error[JSON_ERROR_SIZE] = "";
	int err = read_body(r, &candidate, error);

	if (err == 0) {
		now = clients_find(r->node->clients, r->params[0]);
		err = may_change(r, now, error);
	}
	if (err == 0)
		err = identities_are_free(r->node->clients, candidate, error);
	if (err == 0 && needs_approval(r->node, now, candidate)) {
		changes_ask(r, APPROVAL_CLIENT_WRITE, candidate->name, now ? now->commit : 0,
			client_to_json(candidate), NULL);
		return;
	}
	if (err == 0)
		err = put(r, now, candidate, r->client->name, NULL, error);
	if (err < 0) {
		request_fail(r, err, "%s", error);
		return;
	}
	api_set_detail(r, json_pack("{s:s, s:b, s:I}", "client", candidate->name, "created", !now,
				  "revision", (json_int_t)candidate->commit));
	answer_client(r, now ? 200 : 201, candidate);
}

void
api_client_delete(struct request *r)
{
	_cleanup_(client_unrefp) struct client *now = clients_find(r->node->clients, r->params[0]);
	char error[JSON_ERROR_SIZE] = "";
	uint64_t number = 0;
	int err = may_change(r, now, error);

	if (err == 0 && needs_approval(r->node, now, NULL)) {
		changes_ask(r, APPROVAL_CLIENT_DELETE, now->name, now->commit, client_to_json(now),
			NULL);
		return;
	}
	if (err == 0)
		err = commit(r, now->name, now, NULL, NULL, &number, error);
	if (err < 0) {
		request_fail(r, err, "%s", error);
		return;
	}
	clients_remove(r->node->clients, now->name);
	api_set_detail(r, json_pack("{s:s, s:b, s:I}", "client", now->name, "deleted", true,
				  "revision", (json_int_t)number));
	request_answer_json(r, 200,
		json_pack("{s:s, s:b, s:I}", "name", now->name, "deleted", true, "revision",
			(json_int_t)number));
}

/* ---- what was approved ---- */

/* The record must be as it was when it was asked. ret_now: a reference, or NULL. */
static int
find_unchanged(struct node *n, const struct approval *a, struct client **ret_now,
	char ret_error[LIFECYCLE_ERROR_SIZE])
{
	struct client *now = clients_find(n->clients, a->target);
	char error[JSON_ERROR_SIZE] = "";
	int err = check(n, a->target, now, error);

	snprintf(ret_error, LIFECYCLE_ERROR_SIZE, "%s", error);
	if (err == KEKD_ENOCLIENT && a->revision == 0)
		err = 0;
	if (err == 0 && (now ? now->commit : 0) != a->revision) {
		snprintf(ret_error, LIFECYCLE_ERROR_SIZE,
			"client \"%s\" is at revision %llu by now, not at the one that was asked "
			"for",
			a->target, (unsigned long long)(now ? now->commit : 0));
		err = KEKD_EPRECONDITION;
	}
	if (err < 0)
		client_unrefp(&now);
	else
		*ret_now = now;
	return err;
}

int
client_put_approved(struct request *r, const struct approval *a, const struct sealed_change *with,
	uint64_t *ret_commit, char ret_error[LIFECYCLE_ERROR_SIZE])
{
	_cleanup_(client_unrefp) struct client *now = NULL;
	_cleanup_(client_unrefp) struct client *candidate = NULL;
	char error[JSON_ERROR_SIZE] = "";
	int err = find_unchanged(r->node, a, &now, ret_error);

	if (err < 0)
		return err;
	err = client_from_json(a->target, a->change, 0, &candidate, error);
	if (err == 0)
		err = identities_are_free(r->node->clients, candidate, error);
	if (err == 0)
		err = put(r, now, candidate, a->requested_by, with, error);
	if (err == 0)
		*ret_commit = candidate->commit;
	snprintf(ret_error, LIFECYCLE_ERROR_SIZE, "%s", error);
	return err;
}

int
client_delete_approved(struct request *r, const struct approval *a,
	const struct sealed_change *with, uint64_t *ret_commit,
	char ret_error[LIFECYCLE_ERROR_SIZE])
{
	_cleanup_(client_unrefp) struct client *now = NULL;
	char error[JSON_ERROR_SIZE] = "";
	int err = find_unchanged(r->node, a, &now, ret_error);

	if (err < 0)
		return err;
	err = commit(r, a->target, now, NULL, with, ret_commit, error);
	if (err == 0)
		clients_remove(r->node->clients, a->target);
	snprintf(ret_error, LIFECYCLE_ERROR_SIZE, "%s", error);
	return err;
}
