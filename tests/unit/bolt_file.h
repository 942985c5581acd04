/* SPDX-License-Identifier: Apache-2.0 */
/* bbolt files for tests, page by page: sound ones, and ones that no etcd would write. */
#ifndef BOLT_FILE_H
#define BOLT_FILE_H

#include <stddef.h>
#include <stdint.h>

#define BOLT_FILE_BRANCH 1
#define BOLT_FILE_LEAF 2
#define BOLT_FILE_BUCKET 1 /* an entry's flags */

struct bolt_file {
	uint32_t page_size;
	uint64_t pages;
	uint8_t *data;
	int fd; /* in memory; -1: not written */
};

struct bolt_entry {
	unsigned flags;
	const void *key;
	size_t key_size;
	const void *value;
	size_t value_size;
};

void bolt_file_init(struct bolt_file *f, uint32_t page_size, uint64_t pages);
void bolt_file_free(struct bolt_file *f);
/* which: 0 or 1; its checksum is right. */
void bolt_file_meta(struct bolt_file *f, unsigned which, uint64_t root, uint64_t txid);
void bolt_file_page(
	struct bolt_file *f, uint64_t page, unsigned flags, unsigned count, uint32_t overflow);
void bolt_file_leaf(struct bolt_file *f, uint64_t page, uint32_t overflow,
	const struct bolt_entry *entries, unsigned count);
void bolt_file_branch(struct bolt_file *f, uint64_t page, const uint64_t *children, unsigned count);
/* Page 2 is the root, with etcd's buckets: "key" begins at this page, "meta" lies inline and is
 * empty. Both meta pages say so. */
void bolt_file_root(struct bolt_file *f, uint64_t key_page);
/* The file as it is now; len bytes of it. */
int bolt_file_write(struct bolt_file *f, size_t len);
size_t bolt_file_size(const struct bolt_file *f);

void bolt_file_put(uint8_t *p, uint64_t value, size_t bytes); /* little-endian */

/* Bytes of a revision (17, or 18 for a deletion) and of an mvccpb.KeyValue; the length. */
size_t bolt_file_revision(uint8_t ret_bytes[18], uint64_t main, uint64_t sub, int deletion);
size_t bolt_file_key_value(uint8_t *ret_bytes, size_t room, const char *key, uint64_t revision,
	const void *value, size_t value_size);

#endif
