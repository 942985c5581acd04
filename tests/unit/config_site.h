/* SPDX-License-Identifier: Apache-2.0 */
/* A directory with a configuration and the files that it names, for tests of reading it. */
#ifndef KEKD_TESTS_CONFIG_SITE_H
#define KEKD_TESTS_CONFIG_SITE_H

#include <stdio.h>
#include <sys/types.h>

struct site {
	char dir[64];
	char config[96];   /* the configuration's path */
	char output[4096]; /* the findings of the last reading */
};

/* The caller's, until site_remove. Both fail the test that cannot go on. */
struct site *site_make(const char *config_name);
void site_remove(struct site *s); /* with all files in it */
void site_write(const struct site *s, const char *name, const char *text, mode_t mode);
/* Makes the text the configuration. What is written to the stream until the caller closes it is
 * s->output. */
FILE *site_configure(struct site *s, const char *text);

#endif
