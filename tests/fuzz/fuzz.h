/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the fuzz targets share. A target is a file fuzz_X.c with LLVMFuzzerTestOneInput: it must
 * take any bytes without a fault of memory or arithmetic, and besides keep what it promises with
 * require(). libFuzzer calls it, or main.c, for each file of a corpus.
 */
#ifndef KEKD_FUZZ_H
#define KEKD_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define require(promise) \
	do { \
		if (!(promise)) \
			fuzz_broken(__FILE__, __LINE__, #promise); \
	} while (0)

/* Ends the program, with the promise that was broken. */
_Noreturn void fuzz_broken(const char *file, int line, const char *promise);

/* Once, first: what is said on standard error by the code under test goes nowhere. */
void fuzz_quiet(void);

/* A new directory, gone at the end of the program with what is in it. */
const char *fuzz_directory(void);
/* Writes a file there, or truncates one. The path, until the next call. */
const char *fuzz_write(const char *name, const void *data, size_t size);
void fuzz_clear(void); /* removes all files there */

/* Takes the first byte, or the first block (a length of two bytes, the higher first, and as many
 * bytes as it says and there are) from the input. */
struct fuzz_input {
	const uint8_t *p;
	size_t left;
};
uint8_t fuzz_byte(struct fuzz_input *in); /* 0 at the end */
const uint8_t *fuzz_block(struct fuzz_input *in, size_t *ret_size);
/* The next line without its newline, as a string for free(); "" at the end. */
char *fuzz_line(struct fuzz_input *in);

#endif
