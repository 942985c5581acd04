/* SPDX-License-Identifier: Apache-2.0 */
/* UUIDs, version 4 (RFC 9562 section 5.4). */
#include "kekd/uuid.h"

#include "kekd/err.h"
#include "kekd/random.h"
#include "kekd/str.h"

#include <errno.h>
#include <string.h>

static bool
dash_at(size_t byte)
{
	return byte == 4 || byte == 6 || byte == 8 || byte == 10;
}

int
uuid_generate(struct uuid *ret_uuid)
{
	struct uuid u;

	if (random_piece(u.b, sizeof(u.b)) != 0)
		return KEKD_EINTERNAL;
	u.b[6] = (uint8_t)((u.b[6] & 0x0f) | 0x40);
	u.b[8] = (uint8_t)((u.b[8] & 0x3f) | 0x80);
	*ret_uuid = u;
	return 0;
}

void
uuid_format(const struct uuid *u, char ret_text[UUID_TEXT_SIZE])
{
	char *p = ret_text;

	for (size_t i = 0; i < sizeof(u->b); i++) {
		if (dash_at(i))
			*p++ = '-';
		str_hex(&u->b[i], 1, p);
		p += 2;
	}
	*p = '\0';
}

int
uuid_parse(const char *text, struct uuid *ret_uuid)
{
	char packed[33];
	size_t n = 0;

	if (strlen(text) != UUID_TEXT_SIZE - 1)
		return -EINVAL;
	for (size_t i = 0; i < UUID_TEXT_SIZE - 1; i++) {
		if (i == 8 || i == 13 || i == 18 || i == 23) {
			if (text[i] != '-')
				return -EINVAL;
			continue;
		}
		packed[n++] = text[i];
	}
	packed[n] = '\0';
	return str_unhex(packed, ret_uuid->b, sizeof(ret_uuid->b));
}

bool
uuid_equal(const struct uuid *a, const struct uuid *b)
{
	return memcmp(a->b, b->b, sizeof(a->b)) == 0;
}
