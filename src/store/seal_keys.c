/* SPDX-License-Identifier: Apache-2.0 */
/* The seal keys: which ones there are, in which token, and what the token makes with them. */
#include "sealed.h"

#include "kekd/err.h"
#include "kekd/log.h"

#include <stdio.h>
#include <string.h>

static struct hsm_op
seal_op(struct seal_job *job)
{
	struct hsm_op op = {
		.kind = HSM_OP_SEAL,
		.token = job->key->token,
		.object = { .len = sizeof(job->key->id.b) },
		.in = job->digest,
		.in_len = SEAL_SIZE,
		.out = job->seal,
		.out_cap = SEAL_SIZE,
	};

	memcpy(op.object.b, job->key->id.b, sizeof(job->key->id.b));
	return op;
}

static int
make_batch(const struct sealed *s, struct seal_job *jobs, size_t count)
{
	struct hsm_op ops[SEAL_BATCH];
	int err;

	for (size_t i = 0; i < count; i++) {
		if (jobs[i].key->token >= s->config.tokens_count)
			return KEKD_EOBJECT;
		ops[i] = seal_op(&jobs[i]);
	}
	err = hsm_call(s->config.hsm, ops, count);
	for (size_t i = 0; err == 0 && i < count; i++) {
		err = ops[i].err;
		if (err == 0 && ops[i].out_len != SEAL_SIZE)
			err = KEKD_EHSM;
	}
	return err;
}

int
seal_make(const struct sealed *s, struct seal_job *jobs, size_t count)
{
	int err = 0;

	for (size_t i = 0; err == 0 && i < count; i += SEAL_BATCH)
		err = make_batch(s, jobs + i, count - i < SEAL_BATCH ? count - i : SEAL_BATCH);
	return err;
}

static int
make_batch_twice(const struct sealed *s, struct seal_job *jobs, size_t count)
{
	uint8_t first[SEAL_BATCH][SEAL_SIZE];
	int err = make_batch(s, jobs, count);

	for (size_t i = 0; i < count; i++)
		memcpy(first[i], jobs[i].seal, SEAL_SIZE);
	if (err == 0)
		err = make_batch(s, jobs, count);
	for (size_t i = 0; err == 0 && i < count; i++)
		if (memcmp(first[i], jobs[i].seal, SEAL_SIZE) != 0) {
			log_error("the token sealed the same twice and not alike: nothing is "
				  "written; look at the token");
			err = KEKD_EHSM;
		}
	return err;
}

int
seal_make_sure(const struct sealed *s, struct seal_job *jobs, size_t count)
{
	int err = 0;

	for (size_t i = 0; err == 0 && i < count; i += SEAL_BATCH)
		err = make_batch_twice(
			s, jobs + i, count - i < SEAL_BATCH ? count - i : SEAL_BATCH);
	return err;
}

const struct seal_key *
seal_find_key(const struct sealed *s, const struct uuid *id)
{
	for (size_t i = 0; i < s->keys_count; i++)
		if (uuid_equal(&s->keys[i].id, id))
			return &s->keys[i];
	return NULL;
}

const struct seal_key *
seal_current_key(const struct sealed *s)
{
	return &s->keys[s->keys_count - 1];
}

unsigned
seal_token_index(const struct sealed *s, const char *name)
{
	unsigned i = 0;

	while (i < s->config.tokens_count && strcmp(s->config.tokens[i], name) != 0)
		i++;
	return i;
}

int
seal_take_keys(struct sealed *s, const json_t *cluster)
{
	const json_t *list = json_object_get(cluster, "seal_keys");
	struct seal_key keys[SEAL_KEYS_MAX];
	size_t n = json_array_size(list);

	if (n == 0 || n > SEAL_KEYS_MAX)
		return KEKD_ERECORD;
	for (size_t i = 0; i < n; i++) {
		const json_t *item = json_array_get(list, i);
		const char *id = json_string_value(json_object_get(item, "id"));
		const char *token = json_string_value(json_object_get(item, "token"));
		if (!id || !token || uuid_parse(id, &keys[i].id) < 0)
			return KEKD_ERECORD;
		keys[i].token = seal_token_index(s, token);
	}
	memcpy(s->keys, keys, n * sizeof(*keys));
	s->keys_count = n;
	return 0;
}

int
seal_probe_key(struct sealed *s, const struct uuid *id)
{
	int err = KEKD_EOBJECT;

	for (unsigned token = 0; err == KEKD_EOBJECT && token < s->config.tokens_count; token++) {
		struct seal_key key = { *id, token };
		struct seal_job job = { .key = &key };
		err = seal_make(s, &job, 1);
		if (err == 0) {
			s->keys[0] = key;
			s->keys_count = 1;
		}
	}
	return err;
}

void
seal_key_label(
	const struct sealed_config *c, const struct uuid *id, char ret_label[SEAL_LABEL_SIZE])
{
	char text[UUID_TEXT_SIZE];

	uuid_format(id, text);
	snprintf(ret_label, SEAL_LABEL_SIZE, "kekd:%s:seal:%s", c->cluster, text);
}

int
seal_make_key(
	const struct sealed_config *c, const struct seal_key *key, char ret_error[JSON_ERROR_SIZE])
{
	char label[SEAL_LABEL_SIZE];
	struct hsm_op op = { .kind = HSM_OP_CREATE_SEAL,
		.token = key->token,
		.object = { .len = sizeof(key->id.b) },
		.in = (const uint8_t *)label };
	int err;

	seal_key_label(c, &key->id, label);
	op.in_len = (uint32_t)strlen(label);
	memcpy(op.object.b, key->id.b, sizeof(key->id.b));
	err = hsm_call(c->hsm, &op, 1);
	if (err == 0)
		err = op.err;
	if (err == 0 && (op.attributes & HSM_ATTR_HELD) != HSM_ATTR_HELD)
		err = KEKD_EATTRIBUTES;
	if (err < 0)
		snprintf(ret_error, JSON_ERROR_SIZE, "token %s: the seal key cannot be made: %s",
			c->tokens[key->token], kekd_strerror(err));
	return err;
}
