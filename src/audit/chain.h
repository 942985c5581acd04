/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What writer and verifier must agree on: the files' names, the first `prev`, and where in a line
 * its hash stands. Not here: what else a record says (format.c).
 */
#ifndef KEKD_AUDIT_CHAIN_H
#define KEKD_AUDIT_CHAIN_H

#include "kekd/audit.h"

#include <jansson.h>
#include <openssl/evp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define CHAIN_HEX_SIZE 65
#define CHAIN_FILE_SIZE 64
#define CHAIN_LINE_MAX AUDIT_LINE_MAX
#define CHAIN_DAMAGED ".damaged" /* behind the name of a file that holds no whole record */

/* "audit-00000000000000000001.jsonl" */
void chain_file_name(uint64_t sequence, char ret_name[CHAIN_FILE_SIZE]);
/* The sequence number in such a name, or 0. */
uint64_t chain_file_sequence(const char *name);
/* All such files of a directory, sorted; an array for free(). 0 or -errno. */
int chain_list(int dir_fd, uint64_t **ret_sequences, size_t *ret_count);

/* SHA-256 of the cluster's name, a NUL and the node's name. */
int chain_first(const char *cluster, const char *node, char ret_hex[CHAIN_HEX_SIZE]);
int chain_hash(EVP_MD_CTX *md, const void *data, size_t len, char ret_hex[CHAIN_HEX_SIZE]);
/* SHA-256 of the bytes of a file from offset to its end, and their number. 0 or -errno. */
int chain_hash_tail(int fd, uint64_t offset, uint64_t *ret_len, char ret_hex[CHAIN_HEX_SIZE]);

/* getline in bounded memory: 1: a whole line, without its newline; 0: the file ends, with what
 * there is of a line; -errno, with none. What a line has beyond CHAIN_LINE_MAX bytes is passed
 * over. */
int chain_read_line(FILE *f, char **text, size_t *size, size_t *ret_len);

struct chain_line {
	uint64_t sequence;
	char hash[CHAIN_HEX_SIZE];
	const char *prev, *node, *type, *time; /* in json; never NULL */
	json_t *json;			       /* owned */
};
/* `,"hash":"`, 64 digits, `"}`. */
#define CHAIN_SUFFIX_SIZE (9 + 64 + 2)
/* Has a line, without its newline, the hash that it claims? 0 with the hash, or -EBADMSG. */
int chain_check(EVP_MD_CTX *md, const char *line, size_t len, char ret_hex[CHAIN_HEX_SIZE]);
/* A line without its newline. 0; -EBADMSG: it is not a record, or does not have the hash that it
 * claims. */
int chain_parse(EVP_MD_CTX *md, const char *line, size_t len, struct chain_line *ret_line);
void chain_line_free(struct chain_line *line);

#endif
