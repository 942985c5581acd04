/* SPDX-License-Identifier: Apache-2.0 */
/* The users that the children run as. An ordinary user's kekd runs everything as that user. */
#include "parent.h"

#include "kekd/log.h"

#include <errno.h>
#include <grp.h>
#include <limits.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define GROUPS_MAX 1024

static int
lookup_groups(const char *name, struct account *a)
{
	a->groups_count = GROUPS_MAX;
	a->groups = calloc(GROUPS_MAX, sizeof(gid_t));
	if (!a->groups)
		return -ENOMEM;
	if (getgrouplist(name, a->gid, a->groups, &a->groups_count) < 0)
		return -E2BIG;
	return 0;
}

static int
resolve_number(const char *name, struct account *a)
{
	char *end;
	unsigned long id = strtoul(name, &end, 10);

	if (end == name || *end != '\0' || id >= UINT_MAX)
		return -ENOENT;
	a->uid = (uid_t)id;
	a->gid = (gid_t)id;
	return 0;
}

static int
resolve(const char *name, struct account *a)
{
	const struct passwd *pw = getpwnam(name);
	int err = 0;

	if (!pw) {
		err = resolve_number(name, a);
		if (err)
			return err;
		pw = getpwuid(a->uid);
		if (!pw)
			return 0; /* a bare number: no groups but the same */
	}
	a->uid = pw->pw_uid;
	a->gid = pw->pw_gid;
	return lookup_groups(pw->pw_name, a);
}

int
account_resolve(const char *setting, const char *name, struct account *ret_account)
{
	struct account a = { .change = geteuid() == 0 };
	int err = a.change ? resolve(name, &a) : 0;

	if (err) {
		log_error("%s: user \"%s\" cannot be looked up: %s: create it, or set %s to one "
			  "that exists",
			setting, name, strerror(-err), setting);
		account_free(&a);
		return err;
	}
	if (a.change && a.uid == 0)
		log_warning(
			"%s is root: well for a lab, else set it to a user of its own", setting);
	*ret_account = a;
	return 0;
}

void
account_free(struct account *a)
{
	free(a->groups);
	*a = (struct account){ 0 };
}

int
account_become(const struct account *a)
{
	if (!a->change)
		return 0;
	if (setgroups((size_t)a->groups_count, a->groups) != 0 ||
		setresgid(a->gid, a->gid, a->gid) != 0 || setresuid(a->uid, a->uid, a->uid) != 0)
		return -errno;
	return 0;
}
