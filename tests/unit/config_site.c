/* SPDX-License-Identifier: Apache-2.0 */
/* A directory with a configuration and the files that it names. */
#include "config_site.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct site *
site_make(const char *config_name)
{
	struct site *s = calloc(1, sizeof(*s));

	assert_non_null(s);
	strcpy(s->dir, "/tmp/kekd-config-XXXXXX");
	assert_non_null(mkdtemp(s->dir));
	snprintf(s->config, sizeof(s->config), "%s/%s", s->dir, config_name);
	return s;
}

void
site_remove(struct site *s)
{
	DIR *dir = opendir(s->dir);

	assert_non_null(dir);
	for (struct dirent *e; (e = readdir(dir));)
		unlinkat(dirfd(dir), e->d_name, 0);
	closedir(dir);
	assert_int_equal(rmdir(s->dir), 0);
	free(s);
}

void
site_write(const struct site *s, const char *name, const char *text, mode_t mode)
{
	char path[128];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", s->dir, name);
	f = fopen(path, "w");
	assert_non_null(f);
	fputs(text, f);
	fclose(f);
	assert_int_equal(chmod(path, mode), 0);
}

FILE *
site_configure(struct site *s, const char *text)
{
	FILE *f;

	site_write(s, strrchr(s->config, '/') + 1, text, 0644);
	memset(s->output, 0, sizeof(s->output));
	f = fmemopen(s->output, sizeof(s->output) - 1, "w");
	assert_non_null(f);
	return f;
}
