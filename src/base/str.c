/* SPDX-License-Identifier: Apache-2.0 */
/* Hex, base64, globs and names. */
#include "kekd/str.h"

#include "kekd/err.h"

#include <errno.h>
#include <openssl/evp.h>
#include <string.h>

static const char hex_digits[] = "0123456789abcdef";

void
str_hex(const void *data, size_t len, char *ret_text)
{
	const uint8_t *p = data;

	for (size_t i = 0; i < len; i++) {
		ret_text[2 * i] = hex_digits[p[i] >> 4];
		ret_text[2 * i + 1] = hex_digits[p[i] & 15];
	}
}

static int
hex_value(char c)
{
	const char *at = c ? strchr(hex_digits, c) : NULL;

	return at ? (int)(at - hex_digits) : -1;
}

int
str_unhex(const char *text, void *ret_data, size_t len)
{
	uint8_t *out = ret_data;

	if (strlen(text) != 2 * len)
		return -EINVAL;
	for (size_t i = 0; i < 2 * len; i++)
		if (hex_value(text[i]) < 0)
			return -EINVAL;
	for (size_t i = 0; i < len; i++)
		out[i] = (uint8_t)(hex_value(text[2 * i]) << 4 | hex_value(text[2 * i + 1]));
	return 0;
}

void
str_base64(struct buf *b, const void *data, size_t len)
{
	const uint8_t *p = data;
	unsigned char quad[65];

	while (len > 0) {
		size_t n = len < 48 ? len : 48;
		int out = EVP_EncodeBlock(quad, p, (int)n);
		buf_put(b, quad, (size_t)out);
		p += n;
		len -= n;
	}
	explicit_bzero(quad, sizeof(quad));
}

static int
sextet(char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	return c == '+' ? 62 : c == '/' ? 63 : -1;
}

int
str_unbase64(const char *text, size_t text_len, void *ret_data, size_t size, size_t *ret_len)
{
	uint8_t *out = ret_data;
	uint32_t bits = 0;
	size_t pad = 0, len, n = 0;

	if (text_len % 4 != 0)
		return KEKD_EBASE64;
	while (pad < 2 && pad < text_len && text[text_len - 1 - pad] == '=')
		pad++;
	len = text_len / 4 * 3 - pad;
	if (len > size)
		return -E2BIG;
	for (size_t i = 0; i < text_len - pad; i++) {
		int v = sextet(text[i]);
		if (v < 0)
			return KEKD_EBASE64;
		bits = bits << 6 | (uint32_t)v;
		if (i % 4 > 0)
			out[n++] = (uint8_t)(bits >> (6 - 2 * (i % 4)));
	}
	/* RFC 4648 section 3.5: the bits that no byte uses must be zero. */
	if ((pad == 1 && bits & 3) || (pad == 2 && bits & 15))
		return KEKD_EBASE64;
	*ret_len = n;
	return 0;
}

size_t
str_control_len(const char *p)
{
	unsigned char first = (unsigned char)p[0], second = first ? (unsigned char)p[1] : 0;

	if (first == 0xc2 && second >= 0x80 && second <= 0x9f)
		return 2;
	return (first > 0 && first < 0x20) || first == 0x7f;
}

bool
str_glob(const char *pattern, const char *text)
{
	const char *star = NULL, *back = NULL;

	while (*text) {
		if (*pattern == '*') {
			star = pattern++;
			back = text;
		} else if (*pattern == '?' || *pattern == *text) {
			pattern++;
			text++;
		} else if (star) {
			pattern = star + 1;
			text = ++back;
		} else {
			return false;
		}
	}
	while (*pattern == '*')
		pattern++;
	return *pattern == '\0';
}

static bool
is_alnum(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

bool
str_is_name(const char *text)
{
	size_t len = strlen(text);

	if (len == 0 || len > STR_NAME_MAX || !is_alnum(text[0]) || !is_alnum(text[len - 1]))
		return false;
	for (size_t i = 0; i < len; i++)
		if (!is_alnum(text[i]) && !strchr("._-", text[i]))
			return false;
	return true;
}
