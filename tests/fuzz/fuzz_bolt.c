/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A snapshot of etcd, from its pages to what is counted of Kubernetes' values. The first byte says
 * whether the rest is a file, whose meta pages get their checksums, or a block for each page from
 * the second on: kind, count, overflow and all that stands behind the page's head. It says as well
 * whether the entries of those get positions that join, or keep what they have.
 */
#include "fuzz.h"

#include "../../src/ctl/snapshot.h"

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096
#define PAGES_MAX 64

static const char prefix[] = "/registry/";

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc, (void)argv;
	fuzz_quiet();
	json_open();
	return 0;
}

/* ---- the file ---- */

static void
put(uint8_t *p, uint64_t v, size_t n)
{
	for (size_t i = 0; i < n; i++)
		p[i] = (uint8_t)(v >> (8 * i));
}

static void
sum_meta(uint8_t *page)
{
	uint64_t h = 14695981039346656037u;

	for (size_t i = 16; i < 16 + 56; i++)
		h = (h ^ page[i]) * 1099511628211u;
	put(page + 16 + 56, h, 8);
}

static void
put_meta(uint8_t *page, uint64_t pages, uint64_t txid)
{
	put(page + 8, 4, 2);
	put(page + 16, 0xED0CDAED, 4);
	put(page + 20, 2, 4);
	put(page + 24, PAGE, 4);
	put(page + 32, 2, 8);
	put(page + 56, pages, 8);
	put(page + 64, txid, 8);
	sum_meta(page);
}

static void
put_page(uint8_t *page, uint64_t number, const uint8_t *block, size_t len)
{
	size_t body = len > 3 ? len - 3 : 0;

	put(page, number, 8);
	put(page + 8, len > 0 ? block[0] : 0, 2);
	put(page + 10, len > 1 ? block[1] : 0, 2);
	put(page + 12, len > 2 ? block[2] : 0, 4);
	if (body > PAGE - 16)
		body = PAGE - 16;
	if (body > 0)
		memcpy(page + 16, block + 3, body);
}

static size_t
get(const uint8_t *p)
{
	return p[0] | (size_t)p[1] << 8;
}

/* As bbolt would have written them: each key and value behind the one before. */
static void
join(uint8_t *page)
{
	size_t count = get(page + 10), leaf = get(page + 8) == 2, data = 16 + 16 * count;

	for (size_t at = 16; at + 16 <= PAGE && at < 16 + 16 * count; at += 16) {
		uint8_t *position = page + at + 4 * leaf;
		put(position, data - at, 4);
		data += get(position + 4) + leaf * get(position + 8);
	}
}

/* For free(). */
static uint8_t *
make_pages(struct fuzz_input *in, bool joined, size_t *ret_size)
{
	uint8_t *file = calloc(PAGES_MAX, PAGE);
	size_t pages = 2, len;

	require(file);
	while (in->left > 0 && pages < PAGES_MAX) {
		const uint8_t *block = fuzz_block(in, &len);
		put_page(file + pages * PAGE, pages, block, len);
		if (joined)
			join(file + pages * PAGE);
		pages++;
	}
	put_meta(file, pages, 2);
	put_meta(file + PAGE, pages, 1);
	*ret_size = pages * PAGE;
	return file;
}

static uint8_t *
make_raw(struct fuzz_input *in, size_t *ret_size)
{
	uint8_t *file = malloc(in->left + 1);

	require(file);
	memcpy(file, in->p, in->left);
	*ret_size = in->left;
	if (in->left >= PAGE)
		sum_meta(file);
	if (in->left >= PAGE + 80)
		sum_meta(file + PAGE);
	return file;
}

/* ---- reading it ---- */

struct reading {
	struct bolt *bolt;
	struct tally tally;
	uint64_t values, last;
};

static int
take(void *user, const struct mvcc_record *record)
{
	struct reading *r = user;
	struct resource resource;
	struct value value;
	int err;

	r->values++;
	require(record->revision >= r->last);
	r->last = record->revision;
	if (strncmp(record->key, prefix, strlen(prefix)) != 0 ||
		!resource_parse(record->key + strlen(prefix), &resource)) {
		tally_add_outside(&r->tally, record);
		return 0;
	}
	err = value_read(r->bolt, record->value, &value);
	if (err != 0)
		return err;
	require(!value.kekd || value.kind == VALUE_KMS_V2);
	require(value.seed.size <= VALUE_SOURCE_MAX || !value.understood);
	return tally_add(&r->tally, record, &resource, &value);
}

static void
check_tally(const struct reading *r)
{
	const struct tally *t = &r->tally;
	uint64_t seeds = 0, values = 0;

	require(t->live + t->superseded <= r->values);
	require(t->odd == 0 || !t->complete);
	for (size_t i = 0; i < t->versions_count; i++) {
		seeds += t->versions[i].seeds;
		values += t->versions[i].live + t->versions[i].superseded;
	}
	require(seeds == t->seeds_count && values == t->kekd);
	require(t->kekd + t->other <= t->live + t->superseded);
}

static void
read_file(int fd, uint64_t size)
{
	char error[BOLT_ERROR_SIZE] = "";
	struct reading r = { 0 };
	struct mvcc *m = NULL;
	int err = bolt_open(fd, size, &r.bolt, error);

	require(err == 0 || ((err == -EBADMSG || err == -EMEDIUMTYPE) && *error));
	if (err != 0)
		return;
	require(tally_init(&r.tally, "secrets") == 0);
	err = mvcc_open(r.bolt, &m);
	if (err == 0)
		err = mvcc_index(m, NULL, NULL);
	if (err == 0)
		err = mvcc_each(m, take, NULL, &r);
	if (err == 0)
		check_tally(&r);
	else
		require((err == -EBADMSG || err == -EMEDIUMTYPE) && *bolt_error(r.bolt));
	tally_free(&r.tally);
	mvcc_freep(&m);
	bolt_freep(&r.bolt);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input in = { data, size };
	unsigned how = fuzz_byte(&in);
	size_t len;
	uint8_t *file = how & 1 ? make_raw(&in, &len) : make_pages(&in, !(how & 2), &len);
	int fd = memfd_create("bolt", MFD_CLOEXEC);

	require(fd >= 0 && pwrite(fd, file, len, 0) == (ssize_t)len);
	read_file(fd, len);
	close(fd);
	free(file);
	return 0;
}
