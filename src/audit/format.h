/* SPDX-License-Identifier: Apache-2.0 */
/* The pieces of a line. Whatever they are given, a line stays valid JSON in valid UTF-8. */
#ifndef KEKD_AUDIT_FORMAT_H
#define KEKD_AUDIT_FORMAT_H

#include "kekd/buf.h"

void format_number(struct buf *b, const char *before, uint64_t number);
/* RFC 3339 in quotes. */
void format_time(struct buf *b, uint64_t real_us);

#endif
