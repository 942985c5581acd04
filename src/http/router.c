/* SPDX-License-Identifier: Apache-2.0 */
/* From method and path to a row of the table of routes. The table itself: src/api/routes.c. */
#include "call.h"

#include <string.h>

/* One segment of the path against one of the pattern. Both end at '/' or NUL. */
static bool
segment_matches(
	const char *pattern, size_t pattern_len, const char *path, size_t path_len, bool *ret_param)
{
	*ret_param = pattern_len > 1 && pattern[0] == '{';
	if (*ret_param)
		return path_len > 0;
	return pattern_len == path_len && memcmp(pattern, path, path_len) == 0;
}

static bool
matches(const char *pattern, const char *path, char *params[HTTP_PARAMS_MAX], const char **key)
{
	size_t n = 0;

	while (*pattern == '/' && *path == '/') {
		size_t pattern_len = strcspn(++pattern, "/"), path_len = strcspn(++path, "/");
		bool param;

		if (!segment_matches(pattern, pattern_len, path, path_len, &param))
			return false;
		if (param && n < HTTP_PARAMS_MAX) {
			params[n] = strndup(path, path_len);
			if (strncmp(pattern, "{key}", 5) == 0)
				*key = params[n];
			n++;
		}
		pattern += pattern_len;
		path += path_len;
	}
	return *pattern == '\0' && *path == '\0';
}

static void
params_free(char *params[HTTP_PARAMS_MAX])
{
	for (size_t i = 0; i < HTTP_PARAMS_MAX; i++) {
		free(params[i]);
		params[i] = NULL;
	}
}

const struct http_route *
http_route_find(const struct http_route *routes, const char *method, const char *path,
	char *ret_params[HTTP_PARAMS_MAX], const char **ret_key, int *ret_err)
{
	*ret_err = KEKD_EROUTE;
	for (const struct http_route *route = routes; route->method; route++) {
		char *params[HTTP_PARAMS_MAX] = { NULL };
		const char *key = NULL;

		if (!matches(route->pattern, path, params, &key)) {
			params_free(params);
			continue;
		}
		if (strcmp(route->method, method) != 0) {
			params_free(params);
			*ret_err = KEKD_EMETHOD;
			continue;
		}
		memcpy(ret_params, params, sizeof(params));
		*ret_key = key;
		*ret_err = 0;
		return route;
	}
	return NULL;
}
