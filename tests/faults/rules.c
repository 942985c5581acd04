/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads the rules, again whenever their file has changed, and counts their use. The counts lie in a
 * file beside it, FILE.counts, under a lock, so that "the next two calls" means two calls of all
 * processes together. Not here: what a fault does (p11faults.c).
 */
#include "rules.h"

#include "names.h"

#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define RULES_MAX 64
#define LINE_MAX_SIZE 512
#define FOR_EVER (~0UL)

struct rule {
	char functions[128]; /* globs, separated by commas */
	struct fault fault;
	unsigned long skip, times;
	long process; /* 0: any */
	bool one;     /* the first process that comes to it, alone */
	bool each;    /* every process counts for itself */
	unsigned long seen;
};

/* Which content of the file was it? */
struct stamp {
	dev_t dev;
	ino_t ino;
	off_t size;
	struct timespec mtime;
};

struct counts { /* in the shared file */
	struct stamp stamp;
	unsigned long seen[RULES_MAX];
	long owner[RULES_MAX];
};

static struct {
	pthread_mutex_t lock;
	struct stamp stamp;
	struct rule rule[RULES_MAX];
	size_t count;
	int fd; /* of the counts */
	struct counts *counts;
} rules = { .lock = PTHREAD_MUTEX_INITIALIZER, .fd = -1 };

/* --- Names and numbers. */

#define ROW(name) { #name, name },
static const struct name {
	const char *name;
	unsigned long value;
} names[] = { NAMES_CKR(ROW) NAMES_CKF(ROW) NAMES_CKA(ROW) };
#undef ROW

const char *
rules_name(CK_RV rv)
{
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (names[i].value == rv && strncmp(names[i].name, "CKR_", 4) == 0)
			return names[i].name;
	return NULL;
}

static bool
number(const char *text, unsigned long *ret)
{
	char *end;

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (strcmp(names[i].name, text) == 0) {
			*ret = names[i].value;
			return true;
		}
	errno = 0;
	*ret = strtoul(text, &end, 0);
	return *text && !*end && errno == 0;
}

/* Several, joined by "|". */
static bool
numbers(char *text, unsigned long *ret)
{
	char *rest, *word;
	unsigned long n;

	*ret = 0;
	for (word = strtok_r(text, "|", &rest); word; word = strtok_r(NULL, "|", &rest)) {
		if (!number(word, &n))
			return false;
		*ret |= n;
	}
	return true;
}

/* --- A line. */

static const struct verb {
	const char *name;
	enum action action;
	int arguments;
} verbs[] = {
	{ "return", ACTION_RETURN, 1 },
	{ "answer", ACTION_ANSWER, 1 },
	{ "delay", ACTION_DELAY, 1 },
	{ "hang", ACTION_HANG, 0 },
	{ "crash", ACTION_CRASH, 0 },
	{ "exit", ACTION_EXIT, 1 },
	{ "signal", ACTION_SIGNAL, 1 },
	{ "flip", ACTION_FLIP, 1 },
	{ "short", ACTION_SHORT, 1 },
	{ "empty", ACTION_EMPTY, 0 },
	{ "flags", ACTION_FLAGS, 1 },
	{ "attribute", ACTION_ATTRIBUTE, 2 },
	{ "close", ACTION_CLOSE, 0 },
	{ "close-all", ACTION_CLOSE_ALL, 0 },
	{ "logout", ACTION_LOGOUT, 0 },
};

static const struct verb *
find_verb(const char *name)
{
	for (size_t i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++)
		if (strcmp(verbs[i].name, name) == 0)
			return &verbs[i];
	return NULL;
}

static bool
parse_option(struct rule *r, const char *word)
{
	unsigned long n;

	if (strcmp(word, "one") == 0)
		r->one = true;
	else if (strcmp(word, "each") == 0)
		r->each = true;
	else if (strncmp(word, "skip=", 5) == 0 && number(word + 5, &n))
		r->skip = n;
	else if (strncmp(word, "times=", 6) == 0 && number(word + 6, &n))
		r->times = n;
	else if (strncmp(word, "pid=", 4) == 0 && number(word + 4, &n))
		r->process = (long)n;
	else
		return false;
	return true;
}

static bool
parse_arguments(struct fault *f, int arguments, char **rest)
{
	char *word;
	unsigned long value;

	if (arguments > 0) {
		word = strtok_r(NULL, " \t\n", rest);
		if (!word || !numbers(word, &f->number))
			return false;
	}
	if (arguments > 1) {
		word = strtok_r(NULL, " \t\n", rest);
		if (!word || !number(word, &value) || value > 1)
			return false;
		f->value = (CK_BBOOL)value;
	}
	return true;
}

/* NULL, or what is wrong with the line. */
static const char *
parse(char *line, struct rule *ret_rule)
{
	struct rule r = { .times = FOR_EVER };
	const struct verb *verb;
	char *rest, *word = strtok_r(line, " \t\n", &rest);

	if (!word || strlen(word) >= sizeof(r.functions))
		return "a rule begins with the functions' names";
	strcpy(r.functions, word);
	word = strtok_r(NULL, " \t\n", &rest);
	verb = word ? find_verb(word) : NULL;
	if (!verb)
		return "there is no such action";
	r.fault.action = verb->action;
	if (!parse_arguments(&r.fault, verb->arguments, &rest))
		return "the action's argument is missing or unknown";
	while ((word = strtok_r(NULL, " \t\n", &rest)))
		if (!parse_option(&r, word))
			return "there is no such option";
	*ret_rule = r;
	return NULL;
}

static bool
is_blank(const char *line)
{
	line += strspn(line, " \t\n");
	return !*line || *line == '#';
}

/* A wrong rule must not look like a program that copes with it. */
static void
load(FILE *f, const char *path)
{
	char line[LINE_MAX_SIZE];

	rules.count = 0;
	for (int n = 1; fgets(line, sizeof(line), f); n++) {
		const char *fault = "there are too many rules";
		if (is_blank(line))
			continue;
		if (rules.count < RULES_MAX)
			fault = parse(line, &rules.rule[rules.count]);
		if (fault) {
			fprintf(stderr, "p11faults: %s:%d: %s\n", path, n, fault);
			abort();
		}
		rules.rule[rules.count++].fault.line = n;
	}
}

/* --- The file and its counts. */

static bool
same(const struct stamp *a, const struct stamp *b)
{
	return a->dev == b->dev && a->ino == b->ino && a->size == b->size &&
	       a->mtime.tv_sec == b->mtime.tv_sec && a->mtime.tv_nsec == b->mtime.tv_nsec;
}

static struct stamp
stamp_of(const struct stat *st)
{
	return (struct stamp){ st->st_dev, st->st_ino, st->st_size, st->st_mtim };
}

static bool
open_counts(const char *path)
{
	char name[4096];

	if (rules.counts)
		return true;
	snprintf(name, sizeof(name), "%s.counts", path);
	rules.fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
	if (rules.fd < 0 || ftruncate(rules.fd, sizeof(*rules.counts)) < 0)
		return false;
	rules.counts = mmap(
		NULL, sizeof(*rules.counts), PROT_READ | PROT_WRITE, MAP_SHARED, rules.fd, 0);
	if (rules.counts == MAP_FAILED)
		rules.counts = NULL;
	return rules.counts != NULL;
}

/* Under both locks: the rules as they are now. Who sees new rules first sets the counts back. */
static void
refresh(const char *path)
{
	FILE *f = fopen(path, "re");
	struct stat st;
	struct stamp now;

	if (!f) {
		rules.count = 0;
		rules.stamp = (struct stamp){ 0 };
		return;
	}
	if (fstat(fileno(f), &st) == 0) {
		now = stamp_of(&st);
		if (!same(&now, &rules.stamp)) {
			load(f, path);
			rules.stamp = now;
		}
		if (!same(&now, &rules.counts->stamp)) {
			memset(rules.counts, 0, sizeof(*rules.counts));
			rules.counts->stamp = now;
		}
	}
	fclose(f);
}

static bool
names_function(const struct rule *r, const char *function)
{
	char globs[sizeof(r->functions)], *rest, *glob;

	strcpy(globs, r->functions);
	for (glob = strtok_r(globs, ",", &rest); glob; glob = strtok_r(NULL, ",", &rest))
		if (fnmatch(glob, function, 0) == 0)
			return true;
	return false;
}

static bool
applies(struct rule *r, size_t i, const char *function)
{
	long self = (long)getpid();
	unsigned long *seen = r->each ? &r->seen : &rules.counts->seen[i];

	if (!names_function(r, function) || (r->process != 0 && r->process != self))
		return false;
	if (r->one && rules.counts->owner[i] == 0)
		rules.counts->owner[i] = self;
	if (r->one && rules.counts->owner[i] != self)
		return false;
	++*seen;
	return *seen > r->skip && (r->times == FOR_EVER || *seen - r->skip <= r->times);
}

static size_t
match(const char *function, struct fault *ret_faults, size_t max)
{
	size_t n = 0;

	for (size_t i = 0; i < rules.count && n < max; i++)
		if (applies(&rules.rule[i], i, function))
			ret_faults[n++] = rules.rule[i].fault;
	return n;
}

size_t
rules_match(const char *function, struct fault *ret_faults, size_t max)
{
	const char *path = getenv("P11FAULTS_RULES");
	struct stat st;
	size_t n = 0;

	if (!path || stat(path, &st) != 0)
		return 0;
	pthread_mutex_lock(&rules.lock);
	if (open_counts(path)) {
		flock(rules.fd, LOCK_EX);
		refresh(path);
		n = match(function, ret_faults, max);
		flock(rules.fd, LOCK_UN);
	} else {
		fprintf(stderr, "p11faults: %s.counts: %s\n", path, strerror(errno));
		abort();
	}
	pthread_mutex_unlock(&rules.lock);
	return n;
}
