/* SPDX-License-Identifier: Apache-2.0 */
/* What the files on keys share: keys.c (the resource, states), rotation.c (new versions). */
#ifndef API_KEYS_H
#define API_KEYS_H

#include "api.h"

/* Answers with the key, and its ETag. */
void keys_answer(struct request *r, int status, const struct key *k);
/* text: the lifecycle's, or empty. */
void keys_fail(struct request *r, int err, const char *text);
/* The commit number that If-Match asks for, or STORE_ANY. */
uint64_t keys_expected(const struct request *r);
/* The key of the path can be changed, and the body is what the table says; else the request has
 * been answered. */
bool keys_may_begin(struct request *r, const struct json_member *members, size_t n);
json_t *keys_number_json(unsigned number); /* a version's, or null for 0 */
/* What the audit log gets of an activation. */
void keys_set_activation_detail(struct request *r, const struct key *k);

/* The number in the path, 1 to KEY_VERSIONS_MAX; 0 for anything else. */
unsigned keys_version_number(const char *text);

typedef int keys_version_fn(struct lifecycle *l, const char *name, uint64_t expected_commit,
	unsigned version, struct key **ret_key, char ret_error[LIFECYCLE_ERROR_SIZE]);
/* POST …/versions/{n}/…, from the empty body to the answer. */
void keys_change_version(struct request *r, keys_version_fn *change);

#endif
