/* SPDX-License-Identifier: Apache-2.0 */
/*
 * See reload.h. Certificate, key and CA are no matter of SIGHUP: the service takes them when the
 * files change. A restart loses nothing where the service manager holds the socket.
 */
#include "reload.h"

#include "kekd/log.h"
#include "kekd/str.h"

#include <stddef.h>
#include <string.h>

static const struct {
	const char *setting;
	size_t offset;
} texts[] = {
	{ "provider", offsetof(struct kms_config, provider) },
	{ "cluster", offsetof(struct kms_config, cluster) },
	{ "key", offsetof(struct kms_config, key) },
	{ "ca", offsetof(struct kms_config, ca) },
	{ "certificate", offsetof(struct kms_config, certificate) },
	{ "certificate_key", offsetof(struct kms_config, certificate_key) },
	{ "socket.path", offsetof(struct kms_config, socket) },
	{ "state_dir", offsetof(struct kms_config, state_dir) },
	{ "metrics", offsetof(struct kms_config, metrics) },
};

static const char *
text_at(const struct kms_config *c, size_t offset)
{
	const char *text;

	memcpy(&text, (const char *)c + offset, sizeof(text));
	return text ? text : "";
}

static bool
same_endpoints(const struct kms_config *a, const struct kms_config *b)
{
	if (a->endpoints_count != b->endpoints_count)
		return false;
	for (size_t i = 0; i < a->endpoints_count; i++)
		if (strcmp(a->endpoints[i], b->endpoints[i]) != 0)
			return false;
	return true;
}

/* The settings that take a restart, with commas between. */
static void
differences(const struct kms_config *a, const struct kms_config *b, struct buf *out)
{
	const char *more = "";

	for (size_t i = 0; i < STR_COUNT(texts); i++)
		if (strcmp(text_at(a, texts[i].offset), text_at(b, texts[i].offset)) != 0) {
			buf_printf(out, "%s%s", more, texts[i].setting);
			more = ", ";
		}
	if (!same_endpoints(a, b)) {
		buf_printf(out, "%sendpoints", more);
		more = ", ";
	}
	if (a->probe_every_ns != b->probe_every_ns) {
		buf_printf(out, "%sprobe", more);
		more = ", ";
	}
	if (a->timeout_ns != b->timeout_ns)
		buf_printf(out, "%stimeout", more);
}

static void
take_socket(struct kms_config *config, const struct kms_config *new, const struct kms_socket *s)
{
	if (!s->ours ||
		(config->socket_mode == new->socket_mode && config->socket_uid == new->socket_uid &&
			config->socket_gid == new->socket_gid))
		return;
	if (kms_socket_own(s, &(const struct kms_socket_config){ NULL, new->socket_mode,
				      new->socket_uid, new->socket_gid }) != 0)
		return;
	config->socket_mode = new->socket_mode;
	config->socket_uid = new->socket_uid;
	config->socket_gid = new->socket_gid;
	log_info("%s has mode %04o and its owner from the configuration now", s->path,
		(unsigned)config->socket_mode);
}

void
kms_reload(struct kms_config *config, const struct kms_socket *s)
{
	_cleanup_(kms_config_freep) struct kms_config *new = NULL;
	struct buf names = BUF_INIT(512);

	if (kms_config_read(config->path, &new) != 0) {
		log_warning("the configuration has the faults above: all stays as it was");
		return;
	}
	take_socket(config, new, s);
	differences(config, new, &names);
	if (names.len > 0)
		log_warning("the configuration was read again; a restart is needed for: %.*s",
			(int)names.len, (const char *)names.data);
	else
		log_info("the configuration was read again");
	buf_free(&names);
}
