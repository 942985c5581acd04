/* SPDX-License-Identifier: Apache-2.0 */
/* Text for people: broken at words, without what a terminal would carry out. */
#ifndef KEKD_KMS_WORDS_H
#define KEKD_KMS_WORDS_H

#include <stdio.h>

#define WORDS_COLUMNS 96

/* All of it on the line that is there. */
void words_put(FILE *out, const char *text);
/* Words up to the edge; further lines are indented. column: where the first one begins. */
void words_wrap_from(FILE *out, int column, int indent, const char *first, const char *text);
/* first: what stands before the first line; the others are indented as far. */
void words_wrap(FILE *out, const char *first, int indent, const char *text);

#endif
