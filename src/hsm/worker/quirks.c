/* SPDX-License-Identifier: Apache-2.0 */
/* What modules do differently, by what they say of themselves. The first row that matches counts;
 * the last one is what PKCS#11 says. */
#include "worker.h"

#include "kekd/str.h"

#include <string.h>

static const struct quirk quirks[] = {
	/* Looks at a token object's file on every use, which a session copy has not. */
	{ "SoftHSM*", "*",
		QUIRK_SESSION_COPIES | QUIRK_COPY_MODIFIABLE | QUIRK_TAG_GENERAL_ERROR |
			QUIRK_OFFLINE,
		12, true },
	{ "*", "*", 0, 12, true },
};

static void
trim(const unsigned char *padded, size_t size, char *ret_text)
{
	size_t len = p11_kit_space_strlen(padded, size);

	memcpy(ret_text, padded, len);
	ret_text[len] = '\0';
}

const struct quirk *
quirk_find(const CK_INFO *info)
{
	char manufacturer[sizeof(info->manufacturerID) + 1];
	char library[sizeof(info->libraryDescription) + 1];
	size_t i = 0;

	trim(info->manufacturerID, sizeof(info->manufacturerID), manufacturer);
	trim(info->libraryDescription, sizeof(info->libraryDescription), library);
	while (i + 1 < STR_COUNT(quirks) && (!str_glob(quirks[i].manufacturer, manufacturer) ||
						    !str_glob(quirks[i].library, library)))
		i++;
	return &quirks[i];
}
