/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of kekctl key share: key.c and rotation.c. Exit statuses as in ctl.h. */
#ifndef CTL_KEY_H
#define CTL_KEY_H

#include "ctl.h"

const char *key_path(const char *name); /* good as long as other texts of show.c */
const json_t *key_version_of(const json_t *key, long long number); /* or NULL */
/* After a change: the key as JSON, or the text, or nothing when quiet. */
void key_show_change(const struct ctl *ctl, const json_t *key, const char *text);
/* "3" or "v3". */
int key_version_number(const char *text, unsigned long *ret_number);
/* NAME VERSION: asks for …/versions/VERSION/what; done: what it then is. */
int key_change_version(struct ctl *ctl, const char *what, const char *done);
/* --rotate-every as the API takes it: "never" is null. A new reference. */
json_t *key_rotate_every(const struct ctl *ctl);

#endif
