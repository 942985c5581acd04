/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A bbolt file (doc/formats/etcd-snapshot.md), read by pread: never mapped, never whole in memory,
 * never written. Nothing in it is believed before it was checked against the file's size. Keys and
 * values are places in the file, to be read in parts. One thread.
 *
 * Functions return 0 or: -EMEDIUMTYPE, it is no bbolt file; -EBADMSG, it is damaged; another
 * -errno, it cannot be read. bolt_error tells more.
 */
#ifndef KEKD_BOLT_H
#define KEKD_BOLT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BOLT_ERROR_SIZE 200
#define BOLT_PAGE_MIN 4096u
#define BOLT_PAGE_MAX 65536u

struct bolt;

struct bolt_slice {
	uint64_t offset, size;
};

struct bolt_bucket {
	uint64_t root;		   /* a page; 0: it lies inline */
	struct bolt_slice inline_; /* its page, when root is 0 */
};

/* fd stays the caller's and open. size: of the database in it, from the file's begin. */
int bolt_open(
	int fd, uint64_t size, struct bolt **ret_bolt, char ret_error[static BOLT_ERROR_SIZE]);
void bolt_freep(struct bolt **b);

const char *bolt_error(const struct bolt *b); /* of the last call that failed */
int bolt_fail(struct bolt *b, const char *format, ...) __attribute__((format(printf, 2, 3)));

uint64_t bolt_used(const struct bolt *b);    /* bytes up to the last page in use */
uint64_t bolt_visited(const struct bolt *b); /* bytes of pages that bolt_each has come by */
/* Were its pages written to since bolt_open? Then what was read fits together no more. */
int bolt_check_unchanged(struct bolt *b);

/* A top-level bucket; -ENOENT when there is none. */
int bolt_find(struct bolt *b, const char *name, struct bolt_bucket *ret_bucket);

/* All entries of a bucket, in the file's order; one that is a bucket itself is damage, as etcd has
 * none. What fn returns other than 0 ends it, and is returned. */
typedef int bolt_each_fn(void *user, struct bolt_slice key, struct bolt_slice value);
int bolt_each(struct bolt *b, const struct bolt_bucket *bucket, bolt_each_fn *fn, void *user);

/* len bytes from `at` within a slice. */
int bolt_read(struct bolt *b, struct bolt_slice s, uint64_t at, void *ret_data, size_t len);

#endif
