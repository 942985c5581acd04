/* SPDX-License-Identifier: Apache-2.0 */
/* The file with what was announced last. */
#include "announced.h"

#include "kekd/file.h"
#include "kekd/json.h"
#include "kekd/str.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define FILE_SIZE_MAX 8192

/* ---- reading ---- */

struct content {
	const char *provider, *cluster, *key, *key_id; /* borrowed of the JSON value */
};

static int
refuse(char ret_error[256], const char *path, const char *what)
{
	snprintf(ret_error, 256,
		"%.80s: %.60s. When nothing but this plugin's present key is to be served from "
		"here, "
		"remove the file",
		path, what);
	return -EINVAL;
}

static int
check_owner(const struct kms_config *config, const struct content *c, const char *path,
	char ret_error[256])
{
	if (strcmp(c->key, config->key) != 0)
		return refuse(ret_error, path, "it is of another key");
	if (strcmp(c->provider, config->provider) != 0)
		return refuse(ret_error, path, "it is of another provider");
	if (strcmp(c->cluster, config->cluster) != 0)
		return refuse(ret_error, path, "it is of another cluster");
	return 0;
}

static int
take(const struct kms_config *config, const json_t *value, const char *path,
	struct kms_key_id *ret_id, char ret_error[256])
{
	struct content c = { 0 };
	struct kms_key_id id;
	char error[JSON_ERROR_SIZE];
	const struct json_member members[] = {
		{ "provider", JSON_KIND_STRING, true, &c.provider },
		{ "cluster", JSON_KIND_STRING, true, &c.cluster },
		{ "key", JSON_KIND_STRING, true, &c.key },
		{ "key_id", JSON_KIND_STRING, true, &c.key_id },
	};
	int err;

	if (json_take_record(value, members, STR_COUNT(members), error) < 0)
		return refuse(ret_error, path, error);
	err = check_owner(config, &c, path, ret_error);
	if (err < 0)
		return err;
	if (kms_key_id_parse(c.key_id, strlen(c.key_id), &id) < 0)
		return refuse(ret_error, path, "it holds no key_id");
	*ret_id = id;
	return 0;
}

static int
check_dir(const struct kms_config *config, char ret_error[256])
{
	if (access(config->state_dir, R_OK | W_OK | X_OK) == 0)
		return 0;
	int err = -errno;
	snprintf(ret_error, 256,
		"state_dir %.100s: %s. Make it, of mode 0700 and of this program's user",
		config->state_dir, strerror(-err));
	return err;
}

int
announced_read(const struct kms_config *config, struct kms_key_id *ret_id, char ret_error[256])
{
	char path[PATH_MAX], text[FILE_SIZE_MAX], error[JSON_ERROR_SIZE];
	int err = check_dir(config, ret_error);
	json_t *value;
	ssize_t n;

	if (err < 0)
		return err;
	snprintf(path, sizeof(path), "%s/" ANNOUNCED_NAME, config->state_dir);
	n = file_read(config->state_dir, ANNOUNCED_NAME, text, sizeof(text));
	if (n == -ENOENT) {
		*ret_id = (struct kms_key_id){ .activation = 0 };
		return 0;
	}
	if (n < 0) {
		snprintf(ret_error, 256, "cannot read %.120s: %s", path, strerror((int)-n));
		return (int)n;
	}
	value = json_parse(text, (size_t)n, error);
	err = value ? take(config, value, path, ret_id, ret_error)
		    : refuse(ret_error, path, "it is damaged");
	json_decref(value);
	return err;
}

/* ---- writing ---- */

static char *
to_text(const struct kms_config *config, const struct kms_key_id *id, size_t *ret_len)
{
	json_t *value = json_pack("{s:s,s:s,s:s,s:s}", "provider", config->provider, "cluster",
		config->cluster, "key", config->key, "key_id", id->text);
	char *text = value ? json_canonical(value, ret_len) : NULL;

	json_decref(value);
	return text;
}

int
announced_write(const struct kms_config *config, const struct kms_key_id *id)
{
	size_t len = 0;
	char *text = to_text(config, id, &len);
	int err = text ? file_replace(config->state_dir, ANNOUNCED_NAME, text, len) : -ENOMEM;

	json_text_free(text);
	return err;
}
