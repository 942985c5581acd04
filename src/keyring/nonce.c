/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The IV budget: counts IVs, makes none. A block is only a number of IVs that this node may still
 * draw, since they are random: what a new block brings is added to what is left of the old one.
 */
#include "kekd/nonce.h"

#include "kekd/clock.h"
#include "kekd/err.h"
#include "kekd/str.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#define FAST_NS (600 * CLOCK_S)
#define ATTEMPTS 8 /* members that reserve at the same moment */
/* Of the first block that a node of a pair reserves so much is kept on its disk, for a start that
 * finds no store: the rest of a block is lost with the process. */
#define SPARE (1ull << 16)

struct nonce_block {
	atomic_uint_least64_t left;
	atomic_uint_least64_t half; /* of the newest block */
	atomic_bool low_said;
	atomic_uint_least64_t reserved, reserved_us;
	uint64_t taken_ns; /* when the newest was reserved; 0: none since the start. Control thread
			    */
};

struct nonce_block *
nonce_block_new(void)
{
	return calloc(1, sizeof(struct nonce_block));
}

void
nonce_block_free(struct nonce_block *b)
{
	free(b);
}

uint64_t
nonce_reserved(const struct nonce_block *b)
{
	return atomic_load_explicit(&b->reserved, memory_order_relaxed);
}

uint64_t
nonce_reserved_us(const struct nonce_block *b)
{
	return atomic_load_explicit(&b->reserved_us, memory_order_relaxed);
}

void
nonce_note(struct nonce_block *b, uint64_t reserved, uint64_t newest_us)
{
	/* Never less: the store may tell of what is no news any more. */
	if (reserved < atomic_load(&b->reserved))
		return;
	atomic_store(&b->reserved, reserved);
	atomic_store(&b->reserved_us, newest_us);
}

enum nonce_answer
nonce_take(struct nonce_block *b, uint32_t n)
{
	uint64_t left = atomic_load(&b->left);

	do {
		if (left < n)
			return NONCE_NONE;
	} while (!atomic_compare_exchange_weak(&b->left, &left, left - n));
	if (left - n > atomic_load(&b->half) || atomic_exchange(&b->low_said, true))
		return NONCE_TAKEN;
	return NONCE_TAKEN_LOW;
}

static void
add(struct nonce_block *b, uint64_t size)
{
	b->taken_ns = clock_boot_ns();
	atomic_store(&b->half, size / 2);
	atomic_fetch_add(&b->left, size);
	atomic_store(&b->reserved_us, clock_real_us());
	atomic_store(&b->low_said, false);
}

/* A block of an earlier run says nothing of how fast this one spends. */
static uint64_t
next_size(const struct nonce_block *b, uint64_t reserved)
{
	bool fast = b->taken_ns != 0 && clock_boot_ns() - b->taken_ns < FAST_NS;
	uint64_t size = fast ? NONCE_BLOCK_FAST : NONCE_BLOCK;

	return size < NONCE_MAX - reserved ? size : NONCE_MAX - reserved;
}

/* body NULL: there is no record yet. Its total, and its blocks as a new reference. */
static int
read_record(json_t *body, uint64_t *ret_reserved, json_t **ret_blocks)
{
	char error[JSON_ERROR_SIZE];
	int64_t reserved = NONCE_BLOCK;
	json_t *blocks = NULL;
	const struct json_member members[] = {
		{ "reserved", JSON_KIND_INTEGER, true, &reserved },
		{ "blocks", JSON_KIND_OBJECT, true, &blocks },
	};

	if (body && (json_take(body, members, STR_COUNT(members), error) < 0 ||
			    (uint64_t)reserved > NONCE_MAX))
		return KEKD_ERECORD;
	blocks = blocks ? json_incref(blocks) : json_object();
	if (!blocks)
		return -ENOMEM;
	*ret_reserved = (uint64_t)reserved;
	*ret_blocks = blocks;
	return 0;
}

int
nonce_read(json_t *body, uint64_t *ret_reserved, uint64_t *ret_newest_us)
{
	json_t *blocks, *block;
	uint64_t reserved, newest = 0, at;
	const char *node;
	int err = read_record(body, &reserved, &blocks);

	if (err < 0)
		return err;
	json_object_foreach(blocks, node, block) {
		const char *text = json_string_value(json_object_get(block, "at"));
		if (text && clock_parse(text, &at) == 0 && at > newest)
			newest = at;
	}
	json_decref(blocks);
	*ret_reserved = reserved;
	*ret_newest_us = newest;
	return 0;
}

static json_t *
next_record(json_t *blocks, const char *node, uint64_t reserved, uint64_t size)
{
	char at[CLOCK_TEXT_SIZE];

	clock_format(clock_real_us(), at);
	if (json_object_set_new(blocks, node,
		    json_pack("{s:I, s:I, s:s}", "from", (json_int_t)reserved, "size",
			    (json_int_t)size, "at", at)) < 0)
		return NULL;
	return json_pack("{s:I, s:O}", "reserved", (json_int_t)(reserved + size), "blocks", blocks);
}

/* What of a new block is left once there is a spare. */
static uint64_t
keep_spare(struct sealed *store, const char *version, uint64_t size)
{
	return size > 2 * SPARE && sealed_spare_put(store, version, SPARE) == 0 ? size - SPARE
										: size;
}

/* The store is away: half of what was kept for that, so that some are there when the node starts
 * once more. Gone from the disk before the first of them is drawn. */
static int
take_spare(struct nonce_block *b, struct sealed *store, const char *version)
{
	uint64_t spare;

	if (sealed_spare_take(store, version, &spare) != 0 || spare == 0)
		return KEKD_ESTORE;
	atomic_store(&b->half, 0);
	atomic_fetch_add(&b->left, spare);
	return 0;
}

static int
reserve_once(struct nonce_block *b, struct sealed *store, const char *path, const char *node)
{
	struct sealed_record record = { 0 };
	json_t *blocks = NULL, *body = NULL;
	uint64_t reserved = 0, size, number;
	int err = sealed_get(store, path, &record);

	if (err == -ENOENT)
		err = 0;
	if (err == 0)
		err = read_record(record.body, &reserved, &blocks);
	if (err < 0)
		goto out;
	atomic_store(&b->reserved, reserved);
	size = next_size(b, reserved);
	if (size == 0) {
		err = KEKD_ENONCES;
		goto out;
	}
	body = next_record(blocks, node, reserved, size);
	err = body ? sealed_put_own(store, path, record.commit, body, &number) : -ENOMEM;
	if (err == 0) {
		atomic_store(&b->reserved, reserved + size);
		add(b, keep_spare(store, strchr(path, '/') + 1, size));
	}
out:
	json_decref(body);
	json_decref(blocks);
	sealed_record_free(&record);
	return err;
}

int
nonce_raise(struct sealed *store, const struct uuid *version, uint64_t reserved)
{
	char id[UUID_TEXT_SIZE], path[STORE_PATH_MAX + 1];
	struct sealed_record record = { 0 };
	json_t *blocks = NULL, *body = NULL;
	uint64_t before = 0, number;
	int err;

	uuid_format(version, id);
	snprintf(path, sizeof(path), "nonces/%s", id);
	err = sealed_get(store, path, &record);
	if (err == -ENOENT)
		err = 0;
	if (err == 0)
		err = read_record(record.body, &before, &blocks);
	if (err == 0 && before < reserved) {
		body = json_pack("{s:I, s:O}", "reserved", (json_int_t)reserved, "blocks", blocks);
		err = body ? sealed_put_own(store, path, record.commit, body, &number) : -ENOMEM;
	}
	json_decref(body);
	json_decref(blocks);
	sealed_record_free(&record);
	return err;
}

int
nonce_reserve(
	struct nonce_block *b, struct sealed *store, const struct uuid *version, const char *node)
{
	char id[UUID_TEXT_SIZE], path[STORE_PATH_MAX + 1];
	int err = KEKD_EPRECONDITION;

	if (atomic_load(&b->left) > atomic_load(&b->half))
		return 0;
	uuid_format(version, id);
	snprintf(path, sizeof(path), "nonces/%s", id);
	for (int i = 0; i < ATTEMPTS && err == KEKD_EPRECONDITION; i++)
		err = reserve_once(b, store, path, node);
	return err == KEKD_ESTORE ? take_spare(b, store, id) : err;
}
