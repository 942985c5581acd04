/* SPDX-License-Identifier: Apache-2.0 */
/* UUIDs (RFC 9562): 16 bytes, made at random (version 4), written in lower case. */
#ifndef KEKD_UUID_H
#define KEKD_UUID_H

#include <stdbool.h>
#include <stdint.h>

#define UUID_TEXT_SIZE 37

struct uuid {
	uint8_t b[16];
};

int uuid_generate(struct uuid *ret_uuid); /* 0 or KEKD_EINTERNAL when there is no randomness */
void uuid_format(const struct uuid *u, char ret_text[UUID_TEXT_SIZE]);
int uuid_parse(const char *text, struct uuid *ret_uuid); /* 0 or -EINVAL; lower case only */
bool uuid_equal(const struct uuid *a, const struct uuid *b);

#endif
