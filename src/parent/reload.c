/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SIGHUP: the configuration is read again, and what a reload may change goes to kekd-net, which
 * takes all of it or nothing. Only when it says so is it the parent's, too: a kekd-net that starts
 * later gets what was in force.
 */
#include "parent.h"

#include "kekd/json.h"
#include "kekd/log.h"
#include "kekd/str.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void
send_text(struct parent *p, enum control_kind kind, const char *text)
{
	const struct control_message m = { .kind = kind, .count = p->reloads };
	int fd = -1, err = text ? spawn_memory(text, strlen(text), &fd) : -ENOMEM;

	if (!err)
		err = control_send(p->net.control, &m, fd);
	if (fd >= 0)
		close(fd);
	if (err == -EAGAIN) {
		p->reload_wanted = true;
		p->unsent |= 1u << CONTROL_RELOAD;
	} else if (err)
		log_error("reload: kekd-net cannot be told: %s: send SIGHUP again", strerror(-err));
}

static void
send_part(struct parent *p)
{
	_cleanup_(json_freep) json_t *part = config_net_part(p->pending, NET_SERVE);
	char *text = part ? json_canonical(part, NULL) : NULL;

	send_text(p, CONTROL_RELOAD, text);
	json_text_free(text);
}

static void
log_lines(enum log_level level, char *text)
{
	char *rest = NULL;

	for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest))
		log_write(level, "reload: %s", line);
}

/* The first ones go to kekd-net's status, too. */
static void
tell_findings(struct parent *p, char *findings)
{
	log_error("reload: the configuration has faults: everything stays as it was");
	send_text(p, CONTROL_RELOAD_BAD, *findings ? findings : "the configuration cannot be read");
	log_lines(LOG_LEVEL_ERROR, findings);
}

static int
load(const char *path, char **ret_findings, struct config **ret_config)
{
	size_t size;
	FILE *out = open_memstream(ret_findings, &size);
	int err;

	if (!out)
		return -ENOMEM;
	err = config_load_to(path, out, ret_config);
	return fclose(out) == 0 ? err : -ENOMEM;
}

/* Perhaps because of it: a kekd-net that starts again is not given it once more. */
static void
drop_unanswered(struct parent *p)
{
	if (!p->pending || p->pending_net == p->net.pid)
		return;
	log_error("reload: kekd-net ended before it answered: everything stays as it was: send "
		  "SIGHUP again");
	config_freep(&p->pending);
	notify_reloaded(p);
}

/* kekd-net may be between two lives: the signal is kept until it listens. */
void
reload_tick(struct parent *p)
{
	_cleanup_(str_freep) char *findings = NULL;
	int err;

	drop_unanswered(p);
	if (!p->reload_wanted || p->unsent & 1u << CONTROL_RELOAD || p->init ||
		p->phase != PARENT_RUNNING || p->net.control < 0)
		return;
	p->reload_wanted = false;
	p->reloads++;
	config_freep(&p->pending);
	err = load(p->config_path, &findings, &p->pending);
	if (err == 0) {
		log_lines(LOG_LEVEL_WARNING, findings);
		p->pending_net = p->net.pid;
		send_part(p);
		return; /* it is answered */
	}
	if (findings)
		tell_findings(p, findings);
	else
		log_error("reload: %s: send SIGHUP again", strerror(-err));
	notify_reloaded(p);
}

/* ": a, b" of the settings with this effect that are not the same any more. */
static void
list_changed(const struct parent *p, enum config_effect effect, char *text, size_t size)
{
	size_t len = 0;

	text[0] = '\0';
	for (const struct config_setting *s = config_settings; s->name; s++) {
		if (s->effect != effect || config_setting_same(s, p->config, p->pending))
			continue;
		len += (size_t)snprintf(
			text + len, len < size ? size - len : 0, "%s%s", len ? ", " : "", s->name);
		if (len >= size)
			return;
	}
}

static void
tell_changes(const struct parent *p)
{
	static const struct {
		enum config_effect effect;
		const char *text;
	} effects[] = {
		{ CONFIG_RELOAD, "in force" },
		{ CONFIG_RESTART, "changed in the file, in force only after a restart" },
		{ CONFIG_INIT, "changed in the file, read by `kekd init` alone" },
	};

	for (size_t i = 0; i < STR_COUNT(effects); i++) {
		char names[512];

		list_changed(p, effects[i].effect, names, sizeof(names));
		if (*names)
			log_write(effects[i].effect == CONFIG_RELOAD ? LOG_LEVEL_INFO
								     : LOG_LEVEL_WARNING,
				"reload: %s: %s", effects[i].text, names);
	}
}

void
reload_answered(struct parent *p, const struct control_message *m)
{
	if (m->count != p->reloads || !p->pending)
		return; /* a later one is under way */
	if (m->token) {
		tell_changes(p);
		config_take_reloadable(p->config, p->pending);
	}
	config_freep(&p->pending);
	notify_reloaded(p);
}
