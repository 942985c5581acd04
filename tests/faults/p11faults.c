/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A PKCS#11 module that forwards every call to another module, logs it, and makes it go wrong where
 * a rule says so. contrib/pkcs11-faults/README.md describes the rules. Environment:
 *   P11FAULTS_MODULE  the other module's path (SoftHSM where there is none)
 *   P11FAULTS_RULES   the file with the rules; it may change, come and go at any time
 *   P11FAULTS_LOG     a file that gets a line for each call
 */
#include "functions.h"
#include "rules.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define MODULE_DEFAULT "/usr/lib/softhsm/libsofthsm2.so"
#define FAULTS_MAX 8

static CK_FUNCTION_LIST *real; /* the module behind */
static int log_fd = -1;

struct call {
	const char *name;
	CK_ULONG handle; /* session or slot */
	void *out;
	CK_ULONG *out_n;
	struct fault faults[FAULTS_MAX];
	size_t count;
};

/* In one write, so that processes do not mix their lines. */
__attribute__((format(printf, 1, 2))) static void
log_line(const char *format, ...)
{
	char line[160];
	va_list ap;
	int n;

	va_start(ap, format);
	n = vsnprintf(line, sizeof(line), format, ap);
	va_end(ap);
	if (log_fd >= 0 && n > 0 && (size_t)n < sizeof(line))
		(void)!write(log_fd, line, (size_t)n);
}

static void
log_result(const char *name, CK_RV rv)
{
	const char *text = rules_name(rv);

	log_line("= %s %ld %s 0x%lx\n", name, (long)getpid(), text ? text : "?", rv);
}

/* --- Before the real call. */

static void
wait_ms(unsigned long ms)
{
	struct timespec t = { (time_t)(ms / 1000), (long)(ms % 1000 * 1000000) };

	while (nanosleep(&t, &t) != 0)
		;
}

static void
close_all(CK_SESSION_HANDLE session)
{
	CK_SESSION_INFO info;

	if (real->C_GetSessionInfo(session, &info) == CKR_OK)
		real->C_CloseAllSessions(info.slotID);
}

static void
crash(void)
{
	signal(SIGSEGV, SIG_DFL); /* whatever the program or a sanitizer made of it */
	raise(SIGSEGV);
}

/* True: ret_rv is the answer, without the real call. */
static bool
spoil_before(const struct call *c, const struct fault *f, CK_RV *ret_rv)
{
	switch (f->action) {
	case ACTION_RETURN:
		*ret_rv = f->number;
		return true;
	case ACTION_DELAY:
		wait_ms(f->number);
		break;
	case ACTION_HANG:
		for (;;)
			pause();
	case ACTION_CRASH:
		crash();
		break;
	case ACTION_EXIT:
		_exit((int)f->number);
	case ACTION_SIGNAL:
		kill(getpid(), (int)f->number);
		break;
	case ACTION_CLOSE:
		real->C_CloseSession(c->handle);
		break;
	case ACTION_CLOSE_ALL:
		close_all(c->handle);
		break;
	case ACTION_LOGOUT:
		real->C_Logout(c->handle);
		break;
	default:
		break;
	}
	return false;
}

/* The faults of this call are settled here, and what follows keeps to them. */
static bool
before(struct call *c, CK_RV *ret_rv)
{
	log_line("%s %ld\n", c->name, (long)getpid());
	c->count = rules_match(c->name, c->faults, FAULTS_MAX);
	for (size_t i = 0; i < c->count; i++)
		if (spoil_before(c, &c->faults[i], ret_rv)) {
			log_result(c->name, *ret_rv);
			return true;
		}
	return false;
}

/* --- After it. */

static bool
is(const struct call *c, const char *name)
{
	return strcmp(c->name, name) == 0;
}

/* Bytes, where the output is bytes. */
static bool
has_bytes(const struct call *c)
{
	return c->out && c->out_n && !is(c, "C_GetAttributeValue") && !is(c, "C_FindObjects") &&
	       !is(c, "C_GetSlotList") && !is(c, "C_GetMechanismList");
}

static void
lie(const struct call *c, const struct fault *f)
{
	CK_ATTRIBUTE *t = c->out;

	for (CK_ULONG i = 0; is(c, "C_GetAttributeValue") && i < *c->out_n; i++)
		if (t[i].type == f->number && t[i].pValue && t[i].ulValueLen == sizeof(CK_BBOOL))
			*(CK_BBOOL *)t[i].pValue = f->value;
}

static CK_RV
spoil_after(const struct call *c, const struct fault *f, CK_RV rv)
{
	if (f->action == ACTION_ANSWER)
		return f->number;
	if (rv != CKR_OK)
		return rv;
	if (f->action == ACTION_FLIP && has_bytes(c) && f->number < *c->out_n)
		((unsigned char *)c->out)[*c->out_n - 1 - f->number] ^= 1;
	else if (f->action == ACTION_SHORT && c->out_n)
		*c->out_n -= f->number < *c->out_n ? f->number : *c->out_n;
	else if (f->action == ACTION_EMPTY && c->out_n)
		*c->out_n = 0;
	else if (f->action == ACTION_FLAGS && is(c, "C_GetTokenInfo"))
		((CK_TOKEN_INFO *)c->out)->flags |= f->number;
	else if (f->action == ACTION_ATTRIBUTE)
		lie(c, f);
	return rv;
}

static CK_RV
after(const struct call *c, CK_RV rv)
{
	for (size_t i = 0; i < c->count; i++)
		rv = spoil_after(c, &c->faults[i], rv);
	log_result(c->name, rv);
	return rv;
}

/* --- The functions. */

#define FORWARD(name, parameters, arguments, handle, out, out_n) \
	static CK_RV shown_##name parameters \
	{ \
		struct call c = { "C_" #name, handle, out, out_n, { { 0 } }, 0 }; \
		CK_RV rv; \
\
		return before(&c, &rv) ? rv : after(&c, real->C_##name arguments); \
	}
FUNCTIONS(FORWARD)
#undef FORWARD

static CK_RV shown_GetFunctionList(CK_FUNCTION_LIST **ret_list);

#define MEMBER(name, parameters, arguments, handle, out, out_n) .C_##name = shown_##name,
static CK_FUNCTION_LIST shown = {
	.version = { 2, 40 }, .C_GetFunctionList = shown_GetFunctionList, FUNCTIONS(MEMBER)
};
#undef MEMBER

static CK_RV
shown_GetFunctionList(CK_FUNCTION_LIST **ret_list)
{
	*ret_list = &shown;
	return CKR_OK;
}

static bool
load(void)
{
	const char *path = getenv("P11FAULTS_MODULE"), *log = getenv("P11FAULTS_LOG");
	void *module = dlopen(path ? path : MODULE_DEFAULT, RTLD_NOW | RTLD_LOCAL);
	CK_RV (*get)(CK_FUNCTION_LIST **);

	if (!module) {
		fprintf(stderr, "p11faults: %s\n", dlerror());
		return false;
	}
	*(void **)&get = dlsym(module, "C_GetFunctionList");
	if (!get || get(&real) != CKR_OK)
		return false;
	if (log)
		log_fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
	return true;
}

CK_RV
C_GetFunctionList(CK_FUNCTION_LIST **ret_list)
{
	if (!real && !load())
		return CKR_GENERAL_ERROR;
	return shown_GetFunctionList(ret_list);
}
