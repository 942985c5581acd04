/* SPDX-License-Identifier: Apache-2.0 */
/* Text for people. */
#include "words.h"

#include "kekd/str.h"

#include <stdbool.h>
#include <string.h>

/* One byte, or a sign for what is no terminal's to carry out; how many of text it was. */
static size_t
put(FILE *out, const char *text)
{
	size_t control = str_control_len(text);

	fputc(control ? '?' : *text, out);
	return control ? control : 1;
}

void
words_wrap_from(FILE *out, int column, int indent, const char *first, const char *text)
{
	bool begin = true;

	column += fprintf(out, "%s", first);
	while (*text) {
		size_t len = strcspn(text, " ");
		if (!begin && column + 1 + (int)len > WORDS_COLUMNS) {
			fprintf(out, "\n%*s", indent, "");
			column = indent;
			begin = true;
		}
		column += begin ? 0 : fprintf(out, " ");
		for (size_t i = 0; i < len; i += put(out, text + i))
			;
		column += (int)len;
		begin = false;
		text += len + (text[len] == ' ');
	}
	fputc('\n', out);
}

void
words_wrap(FILE *out, const char *first, int indent, const char *text)
{
	char head[96];

	snprintf(head, sizeof(head), "%-*s", indent, first);
	words_wrap_from(out, 0, indent, head, text);
}

void
words_put(FILE *out, const char *text)
{
	while (*text)
		text += put(out, text);
}
