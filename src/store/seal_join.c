/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A store that is new to this node: it is verified as a whole by the seal key in the token, and
 * accepted for the first time. What was accepted here before is not given up for it.
 */
#include "sealed.h"

#include "kekd/err.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static int
check_before(const struct sealed_config *c, char ret_error[JSON_ERROR_SIZE])
{
	struct accepted a;
	int err = accepted_read(c->state_dir, &a);

	if (err == -ENOENT)
		return 0;
	if (err < 0)
		return json_say(KEKD_EINVALID, ret_error,
			"%.150s/accepted: cannot be read: %s: move it away", c->state_dir,
			kekd_strerror(err));
	if (strcmp(a.cluster, c->cluster) != 0)
		return json_say(KEKD_EINVALID, ret_error,
			"%.100s/accepted: this node was of cluster \"%.64s\": give it an empty "
			"state "
			"directory",
			c->state_dir, a.cluster);
	return 0;
}

static int
check_records(const struct sealed *s, char ret_error[JSON_ERROR_SIZE])
{
	for (size_t i = 0; i < s->map.count; i++) {
		const struct sealed_entry *e = s->map.items[i];
		if (e->there && !e->verified)
			return json_say(KEKD_ERECORD, ret_error,
				"record %.100s: its seal does not verify by the key in the token: "
				"put the right one back, or use the token of this cluster",
				e->path);
	}
	if (s->whole)
		return 0;
	return json_say(KEKD_EHELD, ret_error,
		"the metadata store is not whole: a record was deleted, inserted or put back by "
		"another program, or \"commit\" is missing");
}

/* What was accepted here must be what this store goes on from. */
static int
check_accepted(const struct sealed *s, char ret_error[JSON_ERROR_SIZE])
{
	if (s->hold == SEALED_HOLD_NONE)
		return 0;
	if (s->hold == SEALED_HOLD_NO_ACCEPTED && s->accepted.number == 0 && !*s->accepted.cluster)
		return 0;
	if (s->hold == SEALED_HOLD_NO_ACCEPTED)
		return json_say(KEKD_EINVALID, ret_error,
			"%.100s/accepted is of generation %.36s, the store of %.36s: if that is "
			"right, "
			"give the node an empty state directory",
			s->config.state_dir, s->accepted.generation, s->seen.generation);
	return json_say(KEKD_EHELD, ret_error, "%.300s", sealed_hold_text(s->hold));
}

static int
accept(struct sealed *s, char ret_error[JSON_ERROR_SIZE])
{
	int err;

	s->hold = SEALED_HOLD_NONE;
	err = seal_image(s);
	if (err == 0)
		err = seal_accept(s, s->number, s->state);
	if (err == 0 && (!s->accepted_ok || s->accepted.number != s->number))
		err = KEKD_ESTORE;
	return err < 0 ? json_say(err, ret_error, "%.150s: cannot be written: %s",
				 s->config.state_dir, kekd_strerror(err))
		       : 0;
}

static int
join(struct sealed *s, char ret_error[JSON_ERROR_SIZE])
{
	int err = seal_open_all(s, ret_error);

	if (err == 0)
		err = check_records(s, ret_error);
	if (err == 0)
		err = check_accepted(s, ret_error);
	return err < 0 ? err : accept(s, ret_error);
}

int
sealed_join(const struct sealed_config *config, uint64_t *ret_number,
	char ret_generation[UUID_TEXT_SIZE], char ret_error[JSON_ERROR_SIZE])
{
	struct sealed *s;
	int err = check_before(config, ret_error);

	if (err < 0)
		return err;
	s = seal_new(config);
	if (!s)
		return json_say(-ENOMEM, ret_error, "no memory");
	s->joining = true;
	err = join(s, ret_error);
	if (err == 0) {
		*ret_number = s->number;
		memcpy(ret_generation, s->generation, UUID_TEXT_SIZE);
	}
	sealed_freep(&s);
	return err;
}
